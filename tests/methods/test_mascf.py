"""What is the own of our guess at MASCF; its blocks are in test_selective_scan.py, the common in test_methods.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.errors import MSABenchError
from msabench.losses.moments import central_moment_discrepancy
from msabench.losses.orthogonality import orthogonality
from msabench.methods.base import MSAMethod, Output
from msabench.methods.mascf import MASCF
from msabench.missingness.conditions import MODALITIES
from tests.support.golden_cases import Case, batch_of, build, numbers

CASE = Case("mascf", (16, 5, 7), (9, 20, 13), settings={"dim": 12, "state": 3, "heads": 3})
CODES = ("private", "shared", "rebuilt", "original")


def variant(name: str) -> MSAMethod:
    return build(replace(CASE, settings={**CASE.settings, "variant": name}))


def codes(clips: int = 6) -> tuple[Output, Batch]:
    aux = {name: 2 * numbers((clips, 3, 12), key) for key, name in enumerate(CODES, start=1)}
    batch = replace(batch_of(CASE), labels=6 * numbers((clips,), 8))
    return Output(pred=6 * numbers((clips,), 9), aux=aux), batch


def test_fidelity_says_that_it_is_a_guess() -> None:
    assert MASCF.info.fidelity == "experimental"
    assert "guess" in (__import__(MASCF.__module__, fromlist=["x"]).__doc__ or "").splitlines()[0]


def test_losses_by_hand() -> None:
    out, batch = codes()
    method = MASCF(CASE.spec, **CASE.settings, lambda_similarity=0.2, lambda_difference=0.3, lambda_reconstruction=0.4)
    terms = method.loss(out, batch)
    p, s = (out.aux[name].transpose(0, 1) for name in ("private", "shared"))
    q = s.sigmoid()
    alike = sum(central_moment_discrepancy(q[i], q[j], 5) for i, j in ((0, 1), (0, 2), (1, 2))) / 3
    pairs = [(p[0], s[0]), (p[1], s[1]), (p[2], s[2]), (p[0], p[1]), (p[0], p[2]), (p[1], p[2])]
    error = [(out.aux["rebuilt"][:, m] - out.aux["original"][:, m]).square().mean() for m in range(3)]
    expected = {
        "task": (out.pred - batch.labels).square().mean().item(),
        "sim": 0.2 * float(alike),
        "diff": 0.3 * float(sum(orthogonality(a, b) for a, b in pairs)),
        "recon": 0.4 * float(sum(error) / 3),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_equal_shared_codes_and_orthogonal_private_ones_cost_nothing() -> None:
    out, batch = codes(4)
    out.aux["shared"] = out.aux["shared"][:, :1].expand(-1, 3, -1)
    assert build(CASE).loss(out, batch)["sim"].item() == 0
    # Columns of a Hadamard matrix without the constant one: centred and orthogonal over the batch.
    h = torch.tensor([[1.0, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1]])
    out.aux["private"] = torch.stack([h[:, :1].repeat(1, 12), h[:, 1:2].repeat(1, 12), torch.zeros(4, 12)], dim=1)
    out.aux["shared"] = h[:, 2:].repeat(1, 12).unsqueeze(1).expand(-1, 3, -1)
    assert build(CASE).loss(out, batch)["diff"].item() < 1e-12
    out.aux["private"] = out.aux["shared"]
    # Six pairs of the same code, whose 12 features have correlation 4 / 12 each.
    assert build(CASE).loss(out, batch)["diff"].item() == pytest.approx(0.1 * 6 / 9, rel=1e-4)


@torch.no_grad()
def test_fusion_by_hand() -> None:
    method, batch = build(CASE), batch_of(CASE)
    x = method.embed(batch)
    h = {m: method.mamba[m](x[m])[0] for m in MODALITIES}
    private = torch.cat([method.private[m](h[m]) for m in MODALITIES], dim=1)
    shared = sum(method.shared(h[m]) for m in MODALITIES) / 3
    attention, heads = method.attention, []
    q, k, v = attention.to_q(shared), attention.to_k(private), attention.to_v(private)
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        heads.append((q[..., part] @ k[..., part].mT / 2).softmax(2) @ v[..., part])
    found = attention.to_out(torch.cat(heads, dim=2))
    g = (torch.cat([shared, found], dim=2) @ method.gate.weight.T + method.gate.bias).sigmoid()
    fused = method.mamba["fused"](g * shared + (1 - g) * found)[0].mean(1)
    out = method(batch)
    torch.testing.assert_close(out.representation, fused, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.pred, fused @ method.head.weight[0] + method.head.bias, atol=1e-5, rtol=1e-5)
    means = torch.stack([h[m].mean(1) for m in MODALITIES], dim=1)
    torch.testing.assert_close(out.aux["original"], means, atol=1e-5, rtol=1e-5)
    for i, m in enumerate(MODALITIES):
        both = method.private[m](h[m]).mean(1) + method.shared(h[m]).mean(1)
        torch.testing.assert_close(out.aux["rebuilt"][:, i], method.rebuild[m](both), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_open_gate_leaves_what_is_shared_alone() -> None:
    method, batch = build(CASE), batch_of(CASE)
    method.gate.bias.fill_(100.0)
    plain = variant("wo_complement")
    plain.load_state_dict({name: x for name, x in method.state_dict().items() if name in plain.state_dict()})
    torch.testing.assert_close(method(batch).pred, plain(batch).pred, atol=1e-5, rtol=1e-5)
    method.gate.bias.fill_(0.0)
    assert not torch.allclose(method(batch).pred, plain(batch).pred, atol=1e-3)


def test_ablations_leave_out_what_they_name() -> None:
    def parts(method: MSAMethod) -> set[str]:
        return {name.partition(".")[0] for name, _ in method.named_parameters()}

    whole = parts(build(CASE))
    for name, gone in (("wo_mamba", {"mamba"}), ("wo_subspace", {"rebuild"}), ("wo_complement", {"attention", "gate"})):
        assert whole - parts(variant(name)) == gone
    batch = replace(batch_of(CASE), labels=torch.zeros(4))
    method = variant("wo_subspace")
    assert list(method.loss(method.training_forward(batch), batch)) == ["task"]
    # Without Mamba nothing mixes the steps but the attention: the fused steps may come in any order.
    still = variant("wo_mamba")
    x, private = numbers((2, 4, 12), 1), numbers((2, 9, 12), 2)
    mixed: Tensor = still._complemented(x, private)
    assert torch.equal(still._mixed(x, "fused"), x)
    torch.testing.assert_close(still._complemented(x.flip(1), private), mixed.flip(1))


def test_target_of_the_reconstruction_is_without_gradient() -> None:
    out = build(CASE).training_forward(batch_of(CASE))
    assert not out.aux["original"].requires_grad
    assert out.aux["rebuilt"].requires_grad


def test_training_is_that_of_tf_mamba() -> None:
    method = MASCF(CASE.spec)
    factors = [method.lr_multiplier(epoch - 1, 200) for epoch in (1, 2, 21, 22, 112, 200)]
    assert factors == pytest.approx([0, 0.05, 1, 1, 0.5, 3.046e-4], abs=1e-7)
    assert method.optimizer_class is torch.optim.AdamW


def test_values_outside_their_range_are_refused() -> None:
    with pytest.raises(MSABenchError, match="dim 12 with 5 heads is not allowed"):
        MASCF(CASE.spec, dim=12, heads=5)
    with pytest.raises(MSABenchError, match=r"weights \[0.1, -1, 0.1\] of the subspace losses are not allowed"):
        MASCF(CASE.spec, lambda_difference=-1)
