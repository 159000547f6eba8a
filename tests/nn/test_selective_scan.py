"""The recurrence of selective state spaces, and the blocks around it."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from msabench.errors import MSABenchError
from msabench.nn import selective_scan as module
from msabench.nn.mamba import BidirectionalMamba, MambaLayer
from msabench.nn.selective_scan import selective_scan
from tests.support.golden_cases import fill, numbers

# What belongs to which weight of transformers' mixer, for one stream.
OF_LANE = {
    "conv1d.weight": "conv_weight",
    "conv1d.bias": "conv_bias",
    "x_proj.weight": "x_proj",
    "dt_proj.weight": "dt_weight",
    "dt_proj.bias": "dt_bias",
    "A_log": "A_log",
    "D": "skip",
}


def inputs(
    G: int = 2, B: int = 3, T: int = 7, E: int = 5, N: int = 4, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """u, dt, A, B and C."""
    drawn = [numbers(shape, key) for key, shape in enumerate([(G, B, T, E)] * 2 + [(G, E, N)] + [(G, B, T, N)] * 2)]
    u, dt, A, write, read = (x.to(dtype) for x in drawn)
    return [2 * u, dt + 0.6, 2 * A - 1.1, 2 * write, 2 * read]


def by_hand(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """One number after the other."""
    y = torch.zeros_like(u)
    for g in range(len(u)):
        for b in range(u.shape[1]):
            for e in range(u.shape[3]):
                for n in range(A.shape[2]):
                    h = 0.0
                    for t in range(u.shape[2]):
                        step = dt[g, b, t, e]
                        h = torch.exp(step * A[g, e, n]) * h + step * B[g, b, t, n] * u[g, b, t, e]
                        y[g, b, t, e] += C[g, b, t, n] * h
    return y


def mixer(block: BidirectionalMamba, direction: int) -> torch.nn.Module:
    """transformers' mixer with the weights of one direction."""
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    sizes = {"hidden_size": block.dim, "state_size": block.state, "expand": block.inner // block.dim}
    found = MambaMixer(MambaConfig(**sizes, conv_kernel=4, num_hidden_layers=1), 0).eval()
    state = {name: getattr(block, ours).detach().chunk(2)[direction] for name, ours in OF_LANE.items()}
    state["conv1d.weight"] = state["conv1d.weight"].unsqueeze(1)
    found.load_state_dict({**state, "in_proj.weight": block.in_proj, "out_proj.weight": block.out_proj})
    return found


def filled(**sizes: int) -> BidirectionalMamba:
    block = BidirectionalMamba(**sizes)
    fill(block)
    return block


def test_scan_is_the_recurrence() -> None:
    # Exact but for rounding: also where hundreds of steps decay to nothing, and where none does.
    given = inputs(dtype=torch.float64)
    torch.testing.assert_close(selective_scan(*given), by_hand(*given))
    u, dt, A, B, C = inputs(1, 1, 300, 2, 2)
    for decay in (-1e-4, -60.0):
        long = (u, dt, A.fill_(decay), B, C)
        torch.testing.assert_close(selective_scan(*long), by_hand(*(x.double() for x in long)).float())


def test_gradients_are_those_of_the_recurrence() -> None:
    given = [x.requires_grad_() for x in inputs(1, 2, 4, 2, 3, torch.float64)]
    assert torch.autograd.gradcheck(selective_scan, given)


def test_a_single_step_has_no_past() -> None:
    u, dt, A, B, C = inputs(T=1)
    torch.testing.assert_close(selective_scan(u, dt, A, B, C), dt * u * (B * C).sum(3, keepdim=True))


def test_low_precision_is_scanned_in_float32() -> None:
    given = inputs(T=40)
    u, *rest = (x.bfloat16() for x in given)
    exact = selective_scan(u.float(), *(x.float() for x in rest))
    found = selective_scan(u, *rest)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selective_scan(*given), selective_scan(*given).float())
        under_autocast = selective_scan(*given)
    assert torch.equal(under_autocast, selective_scan(*given))


def test_kernel_gets_the_layout_that_it_documents() -> None:
    """u, delta (B D L); A (D N); B, C (B G N L), where D / G channels in a row share a group."""

    def kernel(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        batch, D, L = u.shape
        assert delta.shape == u.shape
        assert B.shape == C.shape == (batch, 2, A.shape[1], L)
        assert len(A) == D
        assert all(x.is_contiguous() for x in (u, delta, B, C))
        h, y = torch.zeros(batch, D, A.shape[1]), []
        for t in range(L):
            write, read = (x[..., t].repeat_interleave(D // 2, dim=1) for x in (B, C))
            step = delta[:, :, t, None]
            h = torch.exp(step * A) * h + step * write * u[:, :, t, None]
            y.append((h * read).sum(2))
        return torch.stack(y, dim=2)

    given = inputs()
    torch.testing.assert_close(module._by_kernel(kernel, *given), selective_scan(*given))


def test_kernel_is_looked_for_when_needed_and_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mamba_ssm.ops.selective_scan_interface"
    module._kernel.cache_clear()
    try:
        for broken in (None, ModuleType(name)):
            monkeypatch.setitem(sys.modules, "mamba_ssm", ModuleType("mamba_ssm"))
            monkeypatch.setitem(sys.modules, "mamba_ssm.ops", ModuleType("mamba_ssm.ops"))
            monkeypatch.setitem(sys.modules, name, broken)
            if broken is None:
                assert module._kernel() is None
                module._kernel.cache_clear()
        stub: Any = sys.modules[name]
        stub.selective_scan_fn = by_hand
        assert module._kernel() is by_hand
        # Tensors on the CPU never meet it.
        monkeypatch.setattr(module, "_by_kernel", None)
        selective_scan(*inputs())
    finally:
        module._kernel.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernel_gives_the_same_numbers_and_gradients() -> None:
    pytest.importorskip("mamba_ssm")
    importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    given = inputs(3, 4, 50, 32, 12)
    for_gpu, for_cpu = ([x.detach().to(place).requires_grad_() for x in given] for place in ("cuda", "cpu"))
    found, expected = selective_scan(*for_gpu), selective_scan(*for_cpu)
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)
    found.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(for_gpu, for_cpu, strict=True):
        torch.testing.assert_close(ours.grad.cpu(), theirs.grad, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("sizes", [{"dim": 20, "state": 5, "expand": 3}, {"dim": 16, "state": 16, "expand": 2}])
def test_block_is_half_of_two_mixers(sizes: dict[str, int]) -> None:
    block, x = filled(**sizes), 3 * numbers((3, 11, sizes["dim"]), 1)
    ahead, back = mixer(block, 0), mixer(block, 1)
    with torch.no_grad():
        expected = 0.5 * ahead(x) + 0.5 * back(x.flip(1)).flip(1)
        torch.testing.assert_close(block(x), expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(ahead(x), back(x), atol=1e-2)


def test_streams_are_blocks_that_share_their_state_matrices() -> None:
    both, x = filled(dim=12, state=3, streams=3), 3 * numbers((3, 2, 6, 12), 1)
    out = both(x)
    for stream in range(3):
        alone = BidirectionalMamba(12, state=3)
        with torch.no_grad():
            for name, parameter in alone.named_parameters():
                whole = getattr(both, name)
                parameter.copy_(whole if name == "A_log" else whole.chunk(3)[stream])
        torch.testing.assert_close(alone(x[stream]), out[stream], atol=1e-6, rtol=1e-5)


def test_directions_see_their_side_only() -> None:
    """With one direction silenced, steps before (after) a change stay as they were."""
    x = numbers((1, 9, 16), 1)
    changed = x.clone()
    changed[:, 4] += 1
    for silenced in (0, 1):
        block = filled(dim=16, state=4)
        with torch.no_grad():
            for weight in (block.skip, block.x_proj):
                weight.chunk(2)[silenced].zero_()
            moved = (block(changed) - block(x)).abs().amax(2)[0] > 1e-7
        # Without scan and skip of the other direction, only the gate of step 4 itself remains of it.
        assert moved.tolist() == ([True] * 5 + [False] * 4 if silenced == 0 else [False] * 4 + [True] * 5)


def test_reversed_sequence_and_exchanged_directions_give_the_reversed_output() -> None:
    block, x = filled(dim=16, state=4), numbers((2, 7, 16), 1)
    other = BidirectionalMamba(16, state=4)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            ours = getattr(block, name)
            parameter.copy_(ours if name in ("in_proj", "out_proj") else torch.cat(ours.chunk(2)[::-1]))
    torch.testing.assert_close(other(x.flip(1)), block(x).flip(1), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    # of the official code: a block of BI-Mamba, and half of TF-Mamba's TC layers without their norms
    [({"dim": 128}, 134_656), ({"dim": 128, "state": 12, "expand": 4, "streams": 2}, 1_004_544 // 2 - 4 * 128)],
)
def test_sizes_are_those_of_the_official_code(sizes: dict[str, int], parameters: int) -> None:
    assert sum(p.numel() for p in BidirectionalMamba(**sizes).parameters()) == parameters


def test_initial_weights() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = BidirectionalMamba(64, state=4, streams=2)
    assert torch.equal(block.skip, torch.ones(4 * 128))
    torch.testing.assert_close(block.A_log.exp(), torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(256, 4))
    ahead, back = block.dt_bias.view(2, 2, 128).unbind(1)
    assert 0.45 < back.abs().max() <= 0.5
    dt = torch.nn.functional.softplus(ahead)
    assert 1e-3 * 0.99 <= dt.min() < 1.2e-3
    assert 0.08 < dt.max() <= 0.1 * 1.01
    bounds = {"in_proj": 64, "conv_weight": 4, "x_proj": 128, "dt_weight": 4, "out_proj": 128}
    for name, fan_in in bounds.items():
        largest = getattr(block, name).abs().max().item() * fan_in**0.5
        assert 0.95 < largest <= 1, name
    assert block.conv_bias.abs().max() <= 0.5
    assert block.conv_bias.unique().numel() == 4 * 128


def test_symmetric_block_begins_with_a_long_memory_on_both_sides() -> None:
    """How much of a change is left 15 steps further on, against where it is."""
    x, changed = torch.zeros(2, 1, 31, 32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = {symmetric: BidirectionalMamba(32, symmetric=symmetric) for symmetric in (True, False)}
        x += torch.randn(31, 32)
        changed += x
        changed[:, 15] += torch.randn(32)
    kept = {}
    with torch.no_grad():
        for symmetric, block in blocks.items():
            moved = (block(changed) - block(x)).norm(dim=2)[0]
            kept[symmetric] = (float(moved[30] / moved[15]), float(moved[0] / moved[15]))
    ahead, back = kept[True]
    assert 0.3 < ahead / back < 3
    # Officially, what was seen behind is forgotten, what was seen before is not.
    assert kept[False][0] > 0.3 * ahead
    assert kept[False][1] < 0.05 * back


def test_layer_adds_what_is_normalised() -> None:
    layer = MambaLayer(12, state=3, streams=2)
    fill(layer)
    a, b = numbers((2, 5, 12), 1), numbers((2, 5, 12), 2)
    mixed = layer.mamba(torch.stack([a, b]))
    for x, y, norm, out in zip((a, b), mixed, layer.norms, layer(a, b), strict=True):
        centred = y - y.mean(2, keepdim=True)
        normed = centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()
        torch.testing.assert_close(out, x + normed * norm.weight + norm.bias, atol=1e-5, rtol=1e-5)


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(MSABenchError, match="dim 8, state 0, expand 2 and kernel_size 4 must be at least 1"):
        BidirectionalMamba(8, state=0)
