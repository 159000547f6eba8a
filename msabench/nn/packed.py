"""Recurrent networks over sequences of different lengths."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.overrides import handle_torch_function, has_torch_function


def run_packed(rnn: nn.LSTM | nn.GRU, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Run a recurrent network so that it stops at each clip's last step.

    Args:
        rnn: A network with ``batch_first=True``.
        inputs: float ``(B, T, D)``.
        lengths: int64 ``(B,)``, from 1 to T; ``batch.last[m] + 1``, which is T for a removed modality.

    Returns:
        Outputs ``(B, T, K H)``, 0 past each length, and the last layer's final hidden states ``(B, K H)`` side by side,
        forward first; K is 2 if the network is bidirectional, else 1.
    """
    if has_torch_function((inputs, lengths)):
        # Lengths decide the shape of what is packed, so several trainings in one pass must each do it apart.
        return handle_torch_function(run_packed, (inputs, lengths), rnn, inputs, lengths)
    packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    outputs, state = rnn(packed)
    hidden = state[0] if isinstance(rnn, nn.LSTM) else state
    padded, _ = pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])
    directions = 2 if rnn.bidirectional else 1
    return padded, torch.cat(tuple(hidden[-directions:]), dim=-1)
