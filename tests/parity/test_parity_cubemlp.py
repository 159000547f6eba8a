"""CubeMLP against its official code.

MSABENCH_PARITY_CUBEMLP: clone of https://github.com/kiva12138/CubeMLP (49f75bd)
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods import cubemlp
from tests.parity.clones import clone, importing
from tests.parity.mmsa_single import GivenText
from tests.support.golden_cases import CASES, Case, batch_of, build, kept

GOLDEN = ("cubemlp_official", "cubemlp_official_joined")
FIRST, JOINED = (CASES[name] for name in GOLDEN)


def changed(case: Case, **settings: Any) -> Case:
    return replace(case, settings={**case.settings, **settings})


SHAPES = {
    **{name: CASES[name] for name in GOLDEN},
    "last": changed(FIRST, norm_first=False),
    "conv": changed(JOINED, encoder="conv", compose_steps="mean", compose_modalities="mean"),
    "joined steps": changed(FIRST, compose_steps="cat", compose_modalities="mean"),
    "not projected": changed(
        JOINED, steps=10, block_steps=(10, 10), block_modalities=(3, 3), block_widths=(8, 8), res_project=False
    ),
    "spec": Case("cubemlp", (768, 74, 47), (12, 10, 10), settings={"steps": 50}),
    "mosi": Case("cubemlp", (768, 5, 20), (50, 50, 50)),
    "sims": Case("cubemlp", (768, 33, 709), (39, 39, 39), settings={"steps": 39}),
}


def short_name(name: str) -> str:
    """Name there of one of our weights."""
    if name.startswith("blocks."):
        _, number, part, which = name.split(".")
        block, axis = divmod(int(number), 3)
        letter = "lkd"[axis]
        there = {"norm": f"ln_{letter}", "residual": f"res_projection_{letter}"}.get(part, f"mlp_{letter}.{part}")
        return f"mlp_encoder.layers_stack.{block}.{there}.{which}"
    for ours, theirs in {
        **{
            f"sequence.{m}.{part}": f"{there}_{m[0]}"
            for m in ("audio", "vision")
            for part, there in {"rnn": "rnn", "conv": "conv", "norm": "ln"}.items()
        },
        "project_text": "W_t",
        "head.0": "classifier.0",
        "head.3": "classifier.3",
        "head": "classifier.0",
    }.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


def official(case: Case, ours: nn.Module) -> Any:
    """Their model with our weights."""
    with importing(clone("MSABENCH_PARITY_CUBEMLP")):
        module: Any = importlib.import_module("Model")
    given = SimpleNamespace(from_pretrained=lambda *_, **__: GivenText())
    module.BertModel = module.BertConfig = given
    chosen = {"steps": 100, "block_steps": (50, 10), "block_modalities": (3, 3), "block_widths": (128, 32)}
    chosen |= case.settings
    blocks = [
        list(sizes)
        for sizes in zip(*(chosen[f"block_{axis}"] for axis in ("steps", "modalities", "widths")), strict=True)
    ]
    theirs = module.Model(
        SimpleNamespace(
            **dict(zip(("d_t", "d_a", "d_v"), case.dims, strict=True)),
            d_common=chosen.get("dim", 128),
            encoders=chosen.get("encoder", "gru"),
            features_compose_t=chosen.get("compose_steps", "mean"),
            features_compose_k=chosen.get("compose_modalities", "cat"),
            num_class=1,
            activate="gelu",
            time_len=chosen["steps"],
            d_hiddens=blocks,
            d_outs=blocks,
            dropout_mlp=[0.1] * 3,
            dropout=[0.1] * 4,
            bias=chosen.get("bias", True),
            ln_first=chosen.get("norm_first", True),
            res_project=[chosen.get("res_project", True)] * len(blocks),
        )
    ).eval()
    theirs.load_state_dict({short_name(name): value for name, value in ours.state_dict().items()})
    return theirs


def run(theirs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Their score and cube. They take the first of what BERT gives."""
    theirs.bertmodel.states = batch.text[None]
    mask = batch.valid["text"].long()
    pred, cube = theirs(mask, mask, mask, batch.audio, batch.vision, return_features=True)
    return pred.squeeze(1), cube


def ending_early(batch: Batch) -> Batch:
    """The same clips, all but the first with a shorter text."""
    steps = batch.text.shape[1]
    last = torch.tensor([steps - 1, 0, steps // 2, steps - 2])
    valid = {**batch.valid, "text": torch.arange(steps) <= last[:, None]}
    return replace(batch, valid=valid, last={**batch.last, "text": last})


@pytest.mark.parametrize("shape", SHAPES)
def test_official_code_gives_the_same_numbers(shape: str) -> None:
    case = SHAPES[shape]
    ours = build(case)
    theirs = official(case, ours)
    largest = 0.0
    for batch in (batch_of(case), ending_early(batch_of(case))):
        with torch.no_grad():
            (pred, cube), out = run(theirs, batch), ours(batch)
        torch.testing.assert_close(out.aux["cube"], cube, atol=1e-5, rtol=0)
        torch.testing.assert_close(out.pred, pred, atol=1e-5, rtol=0)
        largest = max(largest, float((out.pred - pred).abs().max()), float((out.aux["cube"] - cube).abs().max()))
    print(f"{shape}: {largest:.1e}")
    if shape in GOLDEN:
        torch.testing.assert_close(kept(shape)["pred"], run(theirs, batch_of(case))[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", GOLDEN)
def test_official_code_gives_the_same_gradients(name: str) -> None:
    ours = build(CASES[name])
    theirs = official(CASES[name], ours)
    batch = replace(ending_early(batch_of(CASES[name])), labels=torch.tensor([1.0, -2.0, 0.4, 3.0]))
    nn.functional.l1_loss(run(theirs, batch)[0], batch.labels).backward()
    ours.loss(ours(batch), batch)["task"].backward()
    gradients = {key: parameter.grad for key, parameter in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[short_name(key)], atol=1e-5, rtol=1e-4)


def test_official_code_fills_with_the_same_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ordinary weights the constant is lost in the tolerance."""
    ours = build(FIRST)
    with torch.no_grad():
        for network in ours.sequence.values():
            network.rnn.weight_ih_l0.mul_(1e4)
            network.rnn.weight_ih_l0_reverse.mul_(1e4)
    theirs = official(FIRST, ours)
    for batch in (batch_of(FIRST), ending_early(batch_of(FIRST))):
        with torch.no_grad():
            expected = run(theirs, batch)[1]
            torch.testing.assert_close(ours(batch).aux["cube"], expected, atol=1e-5, rtol=0)
            with monkeypatch.context() as patched:
                patched.setattr(cubemlp, "_FILL", 0.0)
                assert (ours(batch).aux["cube"] - expected).abs().max() > 1e-3
