"""When a CPU runs into the padding instead of packing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from msabench.nn import packed
from msabench.nn.packed import run_packed

SHORT = torch.tensor([50, *range(1, 13)] + [6] * 83)
"""Clips of 50 steps and less, most much shorter."""


def packs(monkeypatch: pytest.MonkeyPatch, rnn: nn.LSTM | nn.GRU, lengths: torch.Tensor, grad: bool = True) -> bool:
    """Whether sequences are packed."""
    calls = []
    real = packed.pack_padded_sequence
    with monkeypatch.context() as patch, torch.set_grad_enabled(grad):
        patch.setattr(packed, "pack_padded_sequence", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
        run_packed(rnn, torch.randn(len(lengths), 50, rnn.input_size), lengths)
    return bool(calls)


def test_small_networks_read_padding_and_large_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = nn.LSTM(20, 16, batch_first=True), nn.LSTM(768, 128, batch_first=True)
    for grad in (True, False):
        assert not packs(monkeypatch, small, SHORT, grad)
        assert packs(monkeypatch, large, SHORT, grad)
        # There is nothing to skip.
        assert not packs(monkeypatch, large, torch.full((8,), 50), grad)
    # Whole GRUs have no kernel of their own that would make up for the padding.
    gru = nn.GRU(20, 16, batch_first=True, bidirectional=True)
    spread = torch.arange(20, 50)
    assert [packs(monkeypatch, gru, spread, grad) for grad in (True, False)] == [False, True]


def test_dropout_between_layers_draws_by_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    rnn = nn.LSTM(20, 16, num_layers=2, dropout=0.5, batch_first=True)
    assert packs(monkeypatch, rnn, SHORT)
    assert not packs(monkeypatch, rnn.eval(), SHORT)
    # One layer has nothing to drop out between.
    with pytest.warns(UserWarning, match="dropout"):
        single = nn.LSTM(20, 16, dropout=0.5, batch_first=True)
    assert not packs(monkeypatch, single, SHORT)


def test_projected_states_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    rnn = nn.LSTM(20, 16, proj_size=4, batch_first=True)
    assert packs(monkeypatch, rnn, SHORT)


def test_a_network_with_hooks_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    rnn, calls = nn.LSTM(20, 16, batch_first=True), []
    assert not packs(monkeypatch, rnn, SHORT)
    handle = rnn.register_forward_pre_hook(lambda *_: calls.append(1))
    assert packs(monkeypatch, rnn, SHORT)
    handle.remove()
    rnn.register_forward_hook(lambda *_: calls.append(2))
    assert packs(monkeypatch, rnn, SHORT)
    assert calls == [1, 2]
