"""The networks per modality of TFN, LMF and LF-DNN."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from msabench.nn.subnets import ClipNorm, PooledNet, TextNet, with_one
from tests.support.golden_cases import fill, numbers


def test_single_clip_is_normalised_with_running_statistics() -> None:
    clips = numbers((5, 6), 1) * 3 + 1
    norm, reference = ClipNorm(6).train(), nn.BatchNorm1d(6).train()
    assert torch.equal(norm(clips), reference(clips))
    kept = {name: value.clone() for name, value in norm.named_buffers()}
    alone = norm(clips[:1])
    assert all(torch.equal(value, kept[name]) for name, value in norm.named_buffers())
    assert torch.allclose(alone, (clips[:1] - norm.running_mean) / (norm.running_var + 1e-5).sqrt())


def test_pooled_net_is_three_relu_layers_on_the_normalised_mean() -> None:
    net = PooledNet(6, 4, dropout=0.9).eval()
    fill(net, gain=2.0)
    frames = numbers((3, 5, 6), 9)
    hidden = (frames.sum(1) / 5 - net.norm.running_mean) / (net.norm.running_var + 1e-5).sqrt()
    hidden = hidden * net.norm.weight + net.norm.bias
    for layer in (net.linear_1, net.linear_2, net.linear_3):
        hidden = (hidden @ layer.weight.T + layer.bias).clamp(min=0)
    assert hidden.any()
    assert torch.allclose(net(frames), hidden, atol=1e-6)


def test_pooled_net_drops_normalised_means() -> None:
    torch.manual_seed(0)
    net = PooledNet(6, 4, dropout=1.0).train()
    assert torch.allclose(net(numbers((3, 5, 6), 1)), net(numbers((3, 5, 6), 2)))
    assert not torch.allclose(net.eval()(numbers((3, 5, 6), 1)), net(numbers((3, 5, 6), 2)))


def test_text_net_is_a_linear_reading_of_the_last_state() -> None:
    net = TextNet(6, 4, 3, dropout=0.5).eval()
    words = numbers((2, 5, 6), 3)
    cell = nn.LSTMCell(6, 4)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in net.rnn.state_dict().items()})
    state = (torch.zeros(2, 4), torch.zeros(2, 4))
    for step in range(5):
        state = cell(words[:, step], state)
    assert torch.allclose(net(words), F.linear(state[0], net.linear_1.weight, net.linear_1.bias), atol=1e-6)


def test_text_dropout_is_on_the_last_state_and_draws_nothing_when_off() -> None:
    words = numbers((2, 5, 6), 3)
    dropped = TextNet(6, 4, 3, dropout=1.0).train()
    assert torch.equal(dropped(words), dropped.linear_1.bias.expand(2, 3))
    net = TextNet(6, 4, 3).train()
    state = torch.get_rng_state()
    assert torch.equal(net(words), net.eval()(words))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_one_is_put_in_front() -> None:
    assert torch.equal(with_one(torch.tensor([[2.0, 3.0], [4.0, 5.0]])), torch.tensor([[1.0, 2, 3], [1, 4, 5]]))
