"""Recurrent networks over sequences of different lengths."""

import pytest
import torch
from torch import nn

from msabench.nn.packed import run_packed


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_each_clip_as_if_alone(cls, bidirectional, layers):
    torch.manual_seed(0)
    rnn = cls(3, 4, num_layers=layers, batch_first=True, bidirectional=bidirectional)
    x, lengths = torch.randn(4, 6, 3), torch.tensor([6, 1, 3, 5])
    outputs, final = run_packed(rnn, x, lengths)
    for i, length in enumerate(lengths.tolist()):
        alone, state = rnn(x[i : i + 1, :length])
        hidden = state[0] if cls is nn.LSTM else state
        torch.testing.assert_close(outputs[i, :length], alone[0])
        assert not outputs[i, length:].any()
        last_layer = hidden[-2:] if bidirectional else hidden[-1:]
        torch.testing.assert_close(final[i], last_layer[:, 0].flatten())


def test_what_lies_past_the_length_changes_nothing():
    torch.manual_seed(0)
    rnn = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    x, lengths = torch.randn(2, 6, 3), torch.tensor([2, 4])
    other = x.clone()
    other[0, 2:], other[1, 4:] = 7.0, -7.0
    for a, b in zip(run_packed(rnn, x, lengths), run_packed(rnn, other, lengths), strict=True):
        assert torch.equal(a, b)
