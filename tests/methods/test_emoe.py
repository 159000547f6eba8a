"""What is EMOE's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from msabench.data.batch import Batch
from msabench.errors import MSABenchError
from msabench.methods.emoe import EMOE, negative_entropy, trust
from msabench.missingness.conditions import MODALITIES
from msabench.testing.corpora import data_module, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build

CASE, UNALIGNED = CASES["emoe_official"], CASES["emoe_official_unaligned"]
OFF = {name: 0.0 for name in EMOE.__init__.__kwdefaults__ if "dropout" in name}
ORDER = ("text", "vision", "audio")


def labelled(case: Any = CASE) -> Batch:
    return replace(batch_of(case), labels=torch.tensor([1.0, -2.0, 0.4, 3.0]))


def built(case: Any = CASE, **changes: Any) -> EMOE:
    return build(replace(case, settings={**case.settings, **OFF, **changes}))


@pytest.mark.parametrize("name", ["emoe_official", "emoe_official_unaligned"])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(
    ("dims", "hidden", "parameters"), [((768, 5, 20), 4956, 207.8), ((768, 74, 35), 5481, 251.7)], ids=["mosi", "mosei"]
)
def test_sizes_are_those_of_the_official_code(dims: tuple[int, ...], hidden: int, parameters: float) -> None:
    kernels = [5, 5, 5] if hidden == 4956 else [5, 1, 3]
    spec = replace(
        CASE.spec,
        feature_dims=dict(zip(MODALITIES, dims, strict=True)),
        seq_lens=dict.fromkeys(MODALITIES, 50),
    )
    with torch.device("meta"):
        method = EMOE(spec, **{f"kernel_size_{m}": k for m, k in zip(MODALITIES, kernels, strict=True)})
    assert method.router.l1.out_features == hidden
    # Theirs also has what it never calls for aligned files: three convolutions and two alignments of 50 steps.
    unused = 3 * 256**2 + 2 * (50 * 50 + 50)
    count = sum(p.numel() for p in method.parameters()) + unused
    assert round(count / 1e6, 1) == parameters


def test_router_reads_everything_step_by_step() -> None:
    method, batch = built(), batch_of(CASE)
    clip = 3
    row = np.concatenate([batch.features[m][clip, t].numpy() for t in range(9) for m in ORDER]).astype(np.float64)
    first, second = (
        (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
        for layer in (method.router.l1, method.router.l2)
    )
    assert first[0].shape == (9 * (16 + 5 + 7) // 8, 9 * (16 + 5 + 7))
    hidden = first[0] @ row + first[1]
    hidden = np.maximum(hidden / np.linalg.norm(hidden), 0)
    logits = (second[0] @ hidden + second[1]) / 0.1
    expected = np.exp(logits - logits.max())
    expected /= expected.sum()
    np.testing.assert_allclose(method(batch).aux["weights"][clip].detach().numpy(), expected, atol=1e-5)


def test_width_of_the_router_may_be_set() -> None:
    assert EMOE(CASE.spec, **CASE.settings, router_width=5).router.l1.weight.shape == (5, 252)
    assert EMOE(CASE.spec, **CASE.settings).router.l1.weight.shape == (31, 252)
    with pytest.raises(MSABenchError, match="router_width 0 is not allowed"):
        EMOE(CASE.spec, **CASE.settings, router_width=0)


def test_router_sees_the_text_before_dropout() -> None:
    method, batch = built(dropout_text=0.9).train(), batch_of(CASE)
    whole = method.eval()(batch)
    dropped = method.train()(batch)
    torch.testing.assert_close(dropped.aux["weights"], whole.aux["weights"])
    # The router's weights are the same, so what differs comes from the text's expert alone.
    same = [torch.allclose(dropped.unimodal[m], whole.unimodal[m], atol=1e-5) for m in ORDER]
    assert same == [False, True, True]


def test_alignment_of_longer_sequences_is_for_the_router_alone() -> None:
    method, batch = built(UNALIGNED), batch_of(UNALIGNED)
    assert sorted(method.align) == ["audio", "vision"]
    assert not built().align
    raw = {m: batch.features[m] for m in MODALITIES}
    aligned = method._aligned(raw)
    layer = method.align["audio"]
    expected = torch.einsum("st,btd->bsd", layer.weight, batch.audio) + layer.bias[:, None]
    torch.testing.assert_close(aligned[..., -5:], expected)
    assert torch.equal(aligned[..., :16], batch.text)
    before = method(batch)
    with torch.no_grad():
        layer.weight.mul_(-3)
    after = method(batch)
    assert not torch.allclose(before.aux["weights"], after.aux["weights"])
    assert torch.equal(before.aux["outputs"], after.aux["outputs"])


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_fusion_is_of_the_experts_vectors_before_their_heads(fusion: str) -> None:
    method, batch = built(fusion=fusion), batch_of(CASE)
    out = method(batch)
    weights = out.aux["weights"]
    parts = []
    for i, m in enumerate(ORDER):
        steps = method.experts[m](method.encode(method.project[m](batch.features[m])))
        parts.append(weights[:, i : i + 1] * steps[:, -1])
    expected = sum(parts) if fusion == "sum" else 3 * torch.cat(parts, dim=1)
    torch.testing.assert_close(out.representation, expected, atol=1e-5, rtol=1e-5)
    pred, _, joint = method.predict_joint(out.representation)
    torch.testing.assert_close(out.pred, pred.squeeze(1))
    torch.testing.assert_close(out.aux["joint"], joint)


def softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_terms_are_those_of_the_paper(fusion: str) -> None:
    batch = labelled()
    chosen = {"lambda_unimodal": 0.7, "lambda_balance": 0.3, "lambda_similarity": 0.2, "lambda_distillation": 5.0}
    method = built(fusion=fusion, **chosen)
    out = method.training_forward(batch)
    terms = {name: term.item() for name, term in method.loss(out, batch).items()}
    y = batch.labels.double().numpy()
    w = out.aux["weights"].detach().double().numpy()
    p = out.aux["experts"].detach().double().numpy()
    scores = np.stack([out.unimodal[m].detach().double().numpy() for m in ORDER], axis=1)
    inverse = 1 / ((scores - y[:, None]) ** 2 + 0.1)
    mixed = (w[:, :, None] * p).sum(1) if fusion == "sum" else (w[:, :, None] * p).reshape(4, -1)
    joint = out.aux["joint"].detach().double().numpy()
    expected = {
        "task": np.abs(out.pred.detach().double().numpy() - y).mean(),
        "unimodal": 0.7 * np.abs(scores - y[:, None]).mean(),
        "balance": 0.3 * (3 * (w * np.log(np.maximum(w, 1e-9))).sum(1)).mean(),
        "sim": 0.2 * ((inverse / inverse.sum(1, keepdims=True) - w) ** 2).mean(),
        "distill": 5.0 * ((softmax(joint) - softmax(mixed)) ** 2).mean(),
    }
    assert terms == pytest.approx(expected, abs=1e-5)


def test_default_weights_are_those_of_the_official_code() -> None:
    assert EMOE(CASE.spec, **CASE.settings).weights == {
        "unimodal": 1.0,
        "balance": 0.1,
        "sim": pytest.approx(0.1 * 0.1),
        "distill": 0.1,
    }


def moved_by(term: str) -> set[str]:
    """Parts of the method that a term gives gradient to."""
    method, batch = built(), labelled()
    method.loss(method.training_forward(batch), batch)[term].backward()
    return {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}


def test_each_term_trains_what_it_should() -> None:
    assert moved_by("sim") == {"router"}
    assert moved_by("balance") == {"router"}
    experts = {"project", "encode", "experts"}
    assert moved_by("unimodal") == {*experts, "predict"}
    # The experts' mixture is a target; nothing reaches what they make of their vectors before predicting.
    assert moved_by("distill") == {*experts, "router", "predict_joint"}
    assert moved_by("task") == {*experts, "router", "predict_joint"}


def test_router_is_drawn_to_the_expert_that_is_right() -> None:
    weights = trust(torch.tensor([[0.0, 0.9, 9.9], [4.0, 4.0, 4.0]]))
    torch.testing.assert_close(weights[0], torch.tensor([10.0, 1.0, 0.1]) / 11.1)
    torch.testing.assert_close(weights[1], torch.full((3,), 1 / 3))


def test_balance_is_least_for_equal_weights_and_finite_for_one_alone() -> None:
    equal = torch.full((2, 3), 1 / 3)
    alone = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    assert negative_entropy(equal).item() == pytest.approx(-3 * math.log(3), abs=1e-5)
    found = negative_entropy(alone)
    assert found.item() == pytest.approx(0, abs=1e-6)
    found.backward()
    assert torch.isfinite(alone.grad).all()


def test_emotions_have_no_distance_to_scores() -> None:
    data = data_module(random_corpus("emotions"))
    method = EMOE(data.spec, **EMOE.info.smoke)
    batch = data.training_batch(torch.arange(5), 0)
    out = method.training_forward(batch)
    assert {m: pred.shape for m, pred in out.unimodal.items()} == dict.fromkeys(ORDER, (5, 4, 2))
    terms = method.loss(out, batch)
    assert sorted(terms) == ["balance", "distill", "task", "unimodal"]
    each: list[Tensor] = [
        torch.nn.functional.cross_entropy(out.unimodal[m].reshape(-1, 2), batch.labels.reshape(-1)) for m in ORDER
    ]
    torch.testing.assert_close(terms["unimodal"], sum(each) / 3)


def test_values_outside_their_range_are_refused() -> None:
    with pytest.raises(MSABenchError, match="fusion of emoe"):
        EMOE(CASE.spec, **CASE.settings, fusion="mean")  # type: ignore[arg-type]
    with pytest.raises(MSABenchError, match="kernel of 10 steps does not fit audio of 9 steps"):
        EMOE(CASE.spec, **{**CASE.settings, "kernel_size_audio": 10})
