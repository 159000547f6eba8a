"""Recurrent networks over sequences of different lengths."""

import pytest
import torch
from torch import nn

from msabench.nn import packed
from msabench.nn.packed import cheapest_kernel, final_states, run_packed


@pytest.fixture(params=["packed", "padded"], autouse=True)
def way(request, monkeypatch):
    """Each test holds for both ways of computing."""
    monkeypatch.setattr(packed, "_padding_is_cheap", lambda *_: request.param == "padded")
    return request.param


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


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_final_states_are_those_of_a_whole_run_bit_for_bit(cls, bidirectional, layers):
    torch.manual_seed(0)
    rnn = cls(3, 4, num_layers=layers, batch_first=True, bidirectional=bidirectional)
    x, lengths = torch.randn(4, 8, 3, requires_grad=True), torch.tensor([6, 1, 3, 5])
    found = [final_states(rnn, x, lengths), run_packed(rnn, x, lengths)[1]]
    assert torch.equal(*found)
    gradients = (torch.autograd.grad(final.square().sum(), [x, *rnn.parameters()]) for final in found)
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_what_lies_past_the_length_changes_nothing():
    torch.manual_seed(0)
    rnn = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    x, lengths = torch.randn(2, 6, 3), torch.tensor([2, 4])
    other = x.clone()
    other[0, 2:], other[1, 4:] = 7.0, -7.0
    for a, b in zip(run_packed(rnn, x, lengths), run_packed(rnn, other, lengths), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_what_lies_past_the_length_need_not_be_finite(bidirectional, grad):
    torch.manual_seed(0)
    rnn = nn.LSTM(3, 4, batch_first=True, bidirectional=bidirectional)
    x, lengths = torch.randn(3, 6, 3), torch.tensor([2, 4, 4])
    other = x.clone()
    other[0, 2:], other[1, 4:], other[2, 4:] = torch.nan, torch.inf, -torch.inf
    with torch.set_grad_enabled(grad):
        found = [run_packed(rnn, values.requires_grad_(grad), lengths) for values in (x, other)]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    if grad:
        for outputs, final in found:
            (outputs.square().sum() + final.sum()).backward()
        assert torch.equal(x.grad, other.grad)
        assert not other.grad[0, 2:].any()
        assert all(p.grad.isfinite().all() for p in rnn.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_each_clip_alone(cls, bidirectional, layers, bias, dtype):
    torch.manual_seed(0)
    settings = {"num_layers": layers, "bidirectional": bidirectional, "bias": bias}
    rnn = cls(3, 4, batch_first=True, dtype=dtype, **settings)
    # None is as long as the axis, and some are as long as one another.
    x, lengths = torch.randn(5, 8, 3, dtype=dtype, requires_grad=True), torch.tensor([6, 1, 3, 5, 3])
    weights = torch.randn(5, 8, 4 * (1 + bidirectional), dtype=dtype)
    outputs, final = run_packed(rnn, x, lengths)
    assert outputs.shape == weights.shape
    ours = torch.autograd.grad((outputs * weights).sum() + final.square().sum(), [x, *rnn.parameters()])
    total = torch.zeros((), dtype=dtype)
    for i, length in enumerate(lengths.tolist()):
        alone, state = rnn(x[i : i + 1, :length])
        hidden = state[0] if cls is nn.LSTM else state
        total = total + (alone[0] * weights[i, :length]).sum()
        total = total + hidden[-1 - bidirectional :].square().sum()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for one, other in zip(ours, torch.autograd.grad(total, [x, *rnn.parameters()]), strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def test_a_subclass_computes_the_same(way):
    class Named(nn.GRU):
        pass

    torch.manual_seed(0)
    rnn, x, lengths = Named(3, 4, batch_first=True), torch.randn(2, 5, 3), torch.tensor([2, 5])
    outputs, final = run_packed(rnn, x, lengths)
    torch.testing.assert_close(final[0], rnn(x[:1, :2])[1][0, 0])
    assert outputs.shape == (2, 5, 4)


def kernels(states):
    """Names of the functions whose gradients lead back from states."""
    names, found = set(), [states.grad_fn]
    while found:
        function = found.pop()
        if function is not None and function.name() not in names:
            names.add(function.name())
            found += [after for after, _ in function.next_functions]
    return names


@pytest.mark.parametrize("bidirectional", [False, True])
def test_features_from_a_file_are_read_by_a_kernel_that_works_out_no_gradients_of_them(bidirectional):
    torch.manual_seed(0)
    rnn = nn.LSTM(600, 64, batch_first=True, bidirectional=bidirectional)
    x = torch.randn(48, 3, 600)
    usual = rnn(x)[0]
    with cheapest_kernel(rnn, x):
        cheapest = rnn(x)[0]
    if torch.backends.mkldnn.is_available():
        assert any("Mkldnn" in name for name in kernels(usual))
    assert not any("Mkldnn" in name for name in kernels(cheapest))
    torch.testing.assert_close(cheapest, usual, atol=1e-6, rtol=1e-5)
    weights = torch.randn_like(usual)
    gradients = (torch.autograd.grad((states * weights).sum(), list(rnn.parameters())) for states in (usual, cheapest))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_usual_kernel_reads_what_needs_a_gradient_and_what_is_small():
    rnn, enabled = nn.LSTM(600, 64, batch_first=True), torch.backends.mkldnn.enabled
    x = torch.randn(48, 2, 600)
    for inputs, network in ((x, rnn), (x.clone().requires_grad_(), rnn), (x[:2], rnn), (x, nn.GRU(600, 64))):
        with cheapest_kernel(network, inputs):
            assert torch.backends.mkldnn.enabled == (enabled and not (inputs is x and network is rnn))
    with torch.no_grad(), cheapest_kernel(rnn, x):
        assert torch.backends.mkldnn.enabled == enabled


def test_the_usual_kernel_is_back_after_a_failure():
    rnn, enabled = nn.LSTM(600, 64, batch_first=True), torch.backends.mkldnn.enabled
    with pytest.raises(RuntimeError), cheapest_kernel(rnn, torch.randn(48, 2, 600)):
        rnn(torch.randn(48, 2, 5))
    assert torch.backends.mkldnn.enabled == enabled
