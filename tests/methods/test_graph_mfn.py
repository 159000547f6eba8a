"""What is Graph-MFN's own; what every method must hold is in test_methods.py, and see test_multi_view_memory.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from msabench.methods.graph_mfn import DynamicFusionGraph, GraphMFN
from msabench.nn.window_mean import window_means
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build, numbers

CASE = CASES["graph_mfn_mmsa"]
NAMES = (
    *("hidden_text", "hidden_audio", "hidden_vision", "memory", "node_width"),
    *("propose_width", "retain_width", "update_width", "out_width"),
)


@pytest.mark.parametrize("name", ["graph_mfn_mmsa", "graph_mfn_mmsa_pooled"])
def test_outputs_are_those_of_mmsa(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(
    ("dims", "sizes", "trained", "in_all"),
    [
        ((768, 5, 20), (256, 32, 256, 300, 64, 32, 128, 64, 256), 2_110_624, 2_319_280),  # MOSI
        ((768, 74, 35), (64, 16, 64, 300, 128, 32, 64, 256, 128), 675_792, 809_504),  # MOSEI
        ((768, 33, 709), (256, 32, 256, 64, 128, 256, 32, 32, 256), 2_724_860, 2_978_572),  # SIMS
    ],
)
def test_sizes_are_those_of_mmsa(dims: tuple[int, ...], sizes: tuple[int, ...], trained: int, in_all: int) -> None:
    spec = replace(CASE.spec, feature_dims=dict(zip(("text", "audio", "vision"), dims, strict=True)))
    for register_nodes, expected in ((True, in_all), (False, trained)):
        method = GraphMFN(spec, **dict(zip(NAMES, sizes, strict=True)), register_nodes=register_nodes)
        assert sum(p.numel() for p in method.parameters() if p.requires_grad) == expected
        assert sum(p.numel() for p in method.parameters()) == in_all


def test_unregistered_nodes_pass_the_gradient_on_and_are_not_trained() -> None:
    batch = batch_of(CASE)
    for register_nodes in (True, False):
        method = GraphMFN(CASE.spec, **CASE.settings, register_nodes=register_nodes)
        served = {id(p) for group in method.param_groups() for p in group["params"]}
        method(batch).pred.sum().backward()
        assert method.singles["text"].weight.grad is not None
        for name, parameter in method.graph.nodes.named_parameters():
            expected = register_nodes or name.startswith("top")
            assert (id(parameter) in served) == (parameter.grad is not None) == expected
        # A checkpoint must bring them back all the same.
        assert sum(name.startswith("graph.nodes.la.") for name in method.state_dict()) == 4


def test_second_layers_of_all_nodes_begin_alike() -> None:
    graph = DynamicFusionGraph((4, 2, 3), 5)
    first: Tensor = graph.nodes["la"][1].weight
    assert all(torch.equal(network[1].weight, first) for network in graph.nodes.values())
    graph.nodes["la"][1].weight.data.zero_()  # but are not shared
    assert graph.nodes["lav"][1].weight.any()


def test_graph_by_hand() -> None:
    """Every network sums its inputs, and efficacy k is k + 1: all values follow from products and sums."""
    graph = DynamicFusionGraph((1, 1, 1), 1)
    with torch.no_grad():
        for network in graph.nodes.values():
            network[0].weight.fill_(0.1)  # 100 units, so 10 times the sum; the second layer takes it back
            network[1].weight.fill_(0.1)
            network[0].bias.zero_()
            network[1].bias.zero_()
        for layer in graph.efficacies:
            layer.weight.zero_()
        graph.efficacies[2].bias.copy_(torch.arange(1.0, 20.0))
    l, a, v = 2.0, 3.0, 5.0  # noqa: E741
    la, lv, av = 1 * l + 2 * a, 3 * l + 4 * v, 5 * a + 6 * v
    lav = 7 * l + 8 * a + 9 * v + 10 * la + 11 * lv + 12 * av
    top = 13 * l + 14 * a + 15 * v + 16 * la + 17 * lv + 18 * av + 19 * lav
    found, efficacies = graph([torch.full((1, 1), x) for x in (l, a, v)])
    torch.testing.assert_close(efficacies, torch.arange(1.0, 20.0).unsqueeze(0))
    torch.testing.assert_close(found, torch.full((1, 1), top), rtol=1e-5, atol=0)


def test_efficacies_are_three_linear_layers_of_the_modalities() -> None:
    torch.manual_seed(0)
    graph = DynamicFusionGraph((4, 2, 3), 5)
    modalities = [torch.randn(2, 6, width) for width in (4, 2, 3)]
    first, second, third = graph.efficacies
    joined = torch.cat(modalities, dim=2)
    weight = third.weight @ second.weight @ first.weight
    bias = third.weight @ (second.weight @ first.bias + second.bias) + third.bias
    top, efficacies = graph(modalities)
    assert top.shape == (2, 6, 5)
    torch.testing.assert_close(efficacies, joined @ weight.T + bias)


def test_whole_model_against_the_steps_of_the_paper() -> None:
    """Cells, graph and gates one step after the other, gates from the whole of [T; u]."""
    ours, batch = build(CASE), batch_of(CASE)
    assert isinstance(ours, GraphMFN)
    sequences = [batch.text, batch.audio, batch.vision]
    cells = [nn.LSTMCell(lstm.input_size, lstm.hidden_size) for lstm in ours.lstms.values()]
    for cell, lstm in zip(cells, ours.lstms.values(), strict=True):
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()})
    states = [(torch.zeros(4, cell.hidden_size), torch.zeros(4, cell.hidden_size)) for cell in cells]
    memory = torch.zeros(4, 7)
    with torch.no_grad():
        for t in range(9):
            before = [h for h, _ in states]
            states = [cell(x[:, t], state) for cell, x, state in zip(cells, sequences, states, strict=True)]
            singles = [
                torch.relu(linear(torch.cat([old, new], dim=1)))
                for linear, old, (new, _) in zip(ours.singles.values(), before, states, strict=True)
            ]
            top, _ = ours.graph(singles)
            both = torch.cat([top, memory], dim=1)
            proposal = torch.tanh(ours.memory.propose(top))
            retain, update = torch.sigmoid(ours.memory.retain(both)), torch.sigmoid(ours.memory.update(both))
            memory = retain * memory + update * proposal
        joint = torch.cat([*(h for h, _ in states), memory], dim=1)
        found = ours(batch)
        torch.testing.assert_close(found.representation, joint, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.pred, ours.output(joint).squeeze(1), atol=1e-5, rtol=1e-5)


def test_unaligned_sequences_are_averaged_over_windows() -> None:
    case = CASES["graph_mfn_mmsa_pooled"]
    method, batch = build(case), batch_of(case)
    aligned = {m: window_means(x, 9) for m, x in batch.features.items()}
    with torch.no_grad():
        assert torch.equal(method(batch).pred, method(replace(batch, features=aligned)).pred)


def test_efficacies_change_from_clip_to_clip_and_step_to_step() -> None:
    method = build(CASE)
    assert isinstance(method, GraphMFN)
    with torch.no_grad():
        _, efficacies = method.graph([numbers((3, 4, width), width) for width in (8, 4, 6)])
    assert efficacies.shape == (3, 4, 19)
    assert (efficacies.flatten(0, 1).std(0) > 0).all()
