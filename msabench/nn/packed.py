"""Recurrent networks over sequences of different lengths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.overrides import handle_torch_function, has_torch_function


def run_packed(rnn: nn.LSTM | nn.GRU, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Run a recurrent network so that it stops at each clip's last step.

    On a CPU packed sequences take up to eight times as long as whole ones, so there the network runs into the padding
    where that is cheaper (``benchmarks/speed/packed.md``), backward from each clip's own last step. The numbers are the
    same up to rounding, as are the gradients; the CPU's kernel of whole LSTMs has no second derivatives.

    Args:
        rnn: A network with ``batch_first=True``.
        inputs: float ``(B, T, D)``. What stands past a length is not read, be it finite or not.
        lengths: int64 ``(B,)``, from 1 to T; ``batch.last[m] + 1``, which is T for a removed modality.

    Returns:
        Outputs ``(B, T, K H)``, 0 past each length, and the last layer's final hidden states ``(B, K H)`` side by side,
        forward first; K is 2 if the network is bidirectional, else 1.
    """
    if has_torch_function((inputs, lengths)):
        # Lengths decide the shape of what is packed, so several trainings in one pass must each do it apart.
        return handle_torch_function(run_packed, (inputs, lengths), rnn, inputs, lengths)
    if inputs.device.type == "cpu" and _padding_is_cheap(rnn, inputs, lengths):
        return _run_padded(rnn, inputs, lengths)
    packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
    outputs, state = rnn(packed)
    hidden = state[0] if isinstance(rnn, nn.LSTM) else state
    padded, _ = pad_packed_sequence(outputs, batch_first=True, total_length=inputs.shape[1])
    directions = 2 if rnn.bidirectional else 1
    return padded, torch.cat(tuple(hidden[-directions:]), dim=-1)


def final_states(rnn: nn.LSTM | nn.GRU, inputs: Tensor, lengths: Tensor) -> Tensor:
    """The final hidden states of ``run_packed`` alone, bit for bit, without putting its outputs together.

    Args:
        rnn: As for ``run_packed``.
        inputs: float ``(B, T, D)``, as for ``run_packed``.
        lengths: int64 ``(B,)``, from 1 to T.

    Returns:
        ``(B, K H)``.
    """
    apart = has_torch_function((inputs, lengths))
    if not apart and inputs.device.type == "cpu" and _padding_is_cheap(rnn, inputs, lengths):
        return _Whole(rnn, inputs, lengths).final()
    return run_packed(rnn, inputs, lengths)[1]


@contextmanager
def cheapest_kernel(rnn: nn.LSTM | nn.GRU, inputs: Tensor) -> Iterator[None]:
    """Within it a CPU runs ``rnn`` over whole sequences by the kernel that takes less for these inputs.

    oneDNN's kernel of LSTMs also works out gradients of its inputs, and features read from a file need none: with many
    features that is a third of a training step. The other kernel leaves them out, and has a price of its own for each
    step, clip and weight. Both give the same numbers up to rounding.

    Args:
        rnn: The network.
        inputs: float ``(B, T, D)``, what it will read.
    """
    if _input_gradients_are_dear(rnn, inputs):
        enabled = torch.backends.mkldnn.enabled
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # a property, typed as what makes it one
        try:
            yield
        finally:
            torch.backends.mkldnn.enabled = enabled
    else:
        yield


def _input_gradients_are_dear(rnn: nn.LSTM | nn.GRU, inputs: Tensor) -> bool:
    """Whether an LSTM's kernel spends more on gradients that nobody asked for than the other one on its own price.

    Fitted, in multiplications of a step, on an Intel Xeon over 5 to 768 inputs, 16 to 768 units and 16 to 256 clips; on
    the side of the usual kernel where both take about as long.
    """
    if not isinstance(rnn, nn.LSTM) or inputs.device.type != "cpu" or has_torch_function((inputs,)):
        return False
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or inputs.requires_grad:
        return False
    clips, features, units = len(inputs), inputs.shape[2], rnn.hidden_size
    return clips * units * (features - 200) > 6e5 + 50 * units**2


def _padding_is_cheap(rnn: nn.LSTM | nn.GRU, inputs: Tensor, lengths: Tensor) -> bool:
    """Whether the padding's arithmetic takes less than packing does.

    A packed step has a price of its own and one by each unit of the clips that are still running; a padded one, by each
    unit of the clips that are not, what its sums over inputs and states take. Prices are in multiplications of a gate,
    fitted on an AMD EPYC over 5 to 768 inputs, 4 to 128 units, 16 to 96 clips and all spreads of lengths.
    """
    # Dropout between layers draws by the steps that there are: other numbers, not the same up to rounding.
    drops = rnn.dropout and rnn.training and rnn.num_layers > 1
    # Hooks, by which weights are also normalised, wait for a call of the network as a whole.
    hooked = rnn._forward_pre_hooks or rnn._forward_hooks
    if drops or hooked or rnn.proj_size:
        return False
    running = float(lengths.sum()) / int(lengths.max())
    idle = len(inputs) - running
    a_step, a_unit = _PACKED_COSTS[isinstance(rnn, nn.LSTM), torch.is_grad_enabled()]
    sums = inputs.shape[2] + rnn.hidden_size + 80
    return idle * rnn.hidden_size * sums <= a_step + a_unit * running * rnn.hidden_size


_PACKED_COSTS = {(True, True): (5e5, 750), (True, False): (3.5e5, 150), (False, True): (0, 600), (False, False): (0, 0)}
"""Whether it is an LSTM, whether with gradients -> price of a packed step, and of a running unit in it."""


def _run_padded(rnn: nn.LSTM | nn.GRU, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """``run_packed`` over whole sequences."""
    whole = _Whole(rnn, inputs, lengths)
    x = whole.outputs()
    padded = F.pad(x.masked_fill(~whole.exists.unsqueeze(2), 0), (0, 0, 0, inputs.shape[1] - x.shape[1]))
    return padded, whole.final()


class _Whole:
    """The last layer's states over whole sequences; those of the backward direction from a clip's last step on.

    Args:
        rnn: As for ``run_packed``.
        inputs: float ``(B, T, D)``.
        lengths: int64 ``(B,)``.
    """

    def __init__(self, rnn: nn.LSTM | nn.GRU, inputs: Tensor, lengths: Tensor) -> None:
        end = int(lengths.max())
        steps, bounds = torch.arange(end), lengths.unsqueeze(1)
        self.exists = steps < bounds
        self._clips, self._last = torch.arange(len(inputs)), lengths - 1
        self._mirror = torch.where(self.exists, bounds - 1 - steps, steps) if rnn.bidirectional else steps
        x = inputs[:, :end]
        if torch.is_grad_enabled():
            # A gradient of 0 times what is not finite would be NaN.
            x = x.masked_fill(~self.exists.unsqueeze(2), 0)
        for layer in range(rnn.num_layers):
            x = self.outputs() if layer else x
            self._states = [_along(rnn, x, layer, 0)]
            if rnn.bidirectional:
                self._states.append(_along(rnn, self._mirrored(x), layer, 1))

    def outputs(self) -> Tensor:
        """``(B, end, K H)``, whatever it is past each length."""
        forward, *backward = self._states
        return torch.cat([forward, *map(self._mirrored, backward)], dim=2)

    def final(self) -> Tensor:
        """``(B, K H)``."""
        return torch.cat([states[self._clips, self._last] for states in self._states], dim=1)

    def _mirrored(self, x: Tensor) -> Tensor:
        return x[self._clips.unsqueeze(1), self._mirror]


def _along(rnn: nn.LSTM | nn.GRU, x: Tensor, layer: int, direction: int) -> Tensor:
    """All states of one direction of a layer: ``(B, T, D)`` to ``(B, T, H)``, from the first step on."""
    weights = tuple(rnn.all_weights[(2 if rnn.bidirectional else 1) * layer + direction])
    start = x.new_zeros(1, len(x), rnn.hidden_size)
    if isinstance(rnn, nn.LSTM):
        with cheapest_kernel(rnn, x):
            return torch.lstm(x, (start, start), weights, rnn.bias, 1, 0.0, rnn.training, False, True)[0]
    return torch.gru(x, start, weights, rnn.bias, 1, 0.0, rnn.training, False, True)[0]
