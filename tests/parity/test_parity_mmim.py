"""MMIM against its official code and MMSA's port.

MSABENCH_PARITY_MMIM: clone of https://github.com/declare-lab/Multimodal-Infomax (cd0774c)
MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods import mmim
from msabench.methods.mmim import MMIM
from msabench.missingness.conditions import MODALITIES
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.parity.clones import clone, importing
from tests.parity.mmsa_single import GivenText, model_class, trainer_module
from tests.support.golden_cases import CASES, Case, batch_of, build, kept, numbers

CASE = CASES["mmim_mmsa"]
_FULL = {"hidden": 16, "dim": 16, "fusion_width": 128, "bidirectional": True}
SHAPES = {
    "golden": CASE,
    "mosi": Case("mmim", (768, 5, 20), (50, 375, 500), settings=_FULL),
    "sims": Case("mmim", (768, 33, 709), (39, 400, 55), settings=_FULL),
}
LETTERS = {"text": "t", "audio": "a", "vision": "v"}


def short_name(name: str) -> str:
    """Name there of one of our weights."""
    encoders = {"audio": "acoustic_enc", "vision": "visual_enc"}
    for m, letter in LETTERS.items():
        for ours, theirs in {
            f"encoders.{m}.rnn.": f"{encoders.get(m)}.rnn.",
            f"encoders.{m}.linear.": f"{encoders.get(m)}.linear_1.",
            f"bounds.{m}.mean.": f"mi_t{letter}.mlp_mu.",
            f"bounds.{m}.log_variance.": f"mi_t{letter}.mlp_logvar.",
            f"codes.{m}.": f"mi_t{letter}.entropy_prj.0.",
            f"back.{m}.": f"cpc_z{letter}.net.",
            "fusion.1.": "fusion_prj.linear_1.",
            "fusion.3.": "fusion_prj.linear_2.",
            "predict.": "fusion_prj.linear_3.",
        }.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
    raise KeyError(name)


def copy_weights(ours: nn.Module, theirs: nn.Module) -> None:
    theirs.load_state_dict({short_name(name): value for name, value in ours.state_dict().items()})


def settings_of(case: Case) -> dict[str, Any]:
    sizes = {f"d_{m}{part}": case.settings["hidden" if part == "h" else "dim"] for m in "av" for part in ("h", "out")}
    return {
        **sizes,
        "n_layer": 1,
        "bidirectional": case.settings.get("bidirectional", False),
        "d_prjh": case.settings["fusion_width"],
        "cpc_layers": 1,
        "mmilb_mid_activation": "ReLU",
        "mmilb_last_activation": "Tanh",
        "cpc_activation": "Tanh",
        **{f"dropout_{part}": 0.0 for part in ("a", "v", "prj")},
        "add_va": False,
    }


def mmsa(case: Case, ours: nn.Module) -> Any:
    """MMSA's model with our weights."""
    more = {"need_data_aligned": False, "use_bert": True, "use_finetune": True, "train_mode": "regression"}
    settings = {**settings_of(case), **more, "transformers": "bert", "pretrained": "", "feature_dims": list(case.dims)}
    theirs = model_class("MMIM")(SimpleNamespace(**settings)).eval()
    copy_weights(ours, theirs)
    return theirs


def run_mmsa(theirs: Any, batch: Batch, **more: Any) -> dict[str, Tensor]:
    theirs.bertmodel.states = batch.text
    streams = ((batch.features[m], batch.last[m] + 1) for m in ("audio", "vision"))
    return theirs(batch.text, *streams, **more)


def ending_early(batch: Batch) -> Batch:
    """The same clips, all but the first one ending early."""
    steps = {m: mask.shape[1] for m, mask in batch.valid.items()}
    return replace(batch, last={m: torch.tensor([t - 1, 0, t // 2, t - 2]) for m, t in steps.items()})


def with_first_state(batch: Batch) -> Batch:
    """The same clips with an observed first state: their InfoNCE divides by its length."""
    text = batch.text.clone()
    text[:, 0] = numbers((batch.size, text.shape[2]), 55)
    return replace(batch, features={**batch.features, "text": text})


def assert_same(ours: MMIM, batch: Batch, expected: dict[str, Tensor]) -> float:
    """Predictions, vectors, likelihood and InfoNCE agree; returns the largest difference of a prediction."""
    ours.turn = "main"
    with torch.no_grad():
        vectors, out = ours._vectors(batch), ours.training_forward(batch)
    for m, letter in LETTERS.items():
        torch.testing.assert_close(vectors[m], expected[f"Feature_{letter}"], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.representation, expected["Feature_f"], atol=1e-5, rtol=0)
    torch.testing.assert_close(out.pred, expected["M"].squeeze(1), atol=1e-5, rtol=0)
    ours.lambda_cpc = ours.lambda_bounds = 1.0
    terms = ours.loss(out, replace(batch, labels=torch.zeros(batch.size)))
    torch.testing.assert_close(-terms["likelihood"], expected["lld"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(terms["contrast"] + 3 * math.log(batch.size), expected["nce"], atol=1e-5, rtol=0)
    return float((out.pred - expected["M"].squeeze(1)).abs().max())


@pytest.mark.parametrize("shape", SHAPES)
def test_mmsa_gives_the_same_numbers(shape: str) -> None:
    case = SHAPES[shape]
    ours = build(case)
    theirs = mmsa(case, ours)
    whole = with_first_state(batch_of(case))
    for batch in (whole, ending_early(whole)):
        with torch.no_grad():
            expected = run_mmsa(theirs, batch)
        print(f"{shape}: {assert_same(ours, batch, expected):.1e}")
    if shape == "golden":
        with torch.no_grad():
            expected = run_mmsa(theirs, batch_of(case))
        torch.testing.assert_close(kept("mmim_mmsa")["pred"], expected["M"].squeeze(1), atol=1e-5, rtol=0)
        torch.testing.assert_close(kept("mmim_mmsa")["representation"], expected["Feature_f"], atol=1e-5, rtol=0)


def official(case: Case, ours: nn.Module) -> Any:
    """The authors' model with our weights."""
    with importing(clone("MSABENCH_PARITY_MMIM") / "src"):
        models: Any = importlib.import_module("model")
    models.LanguageEmbeddingLayer = GivenText
    sizes = {f"d_{letter}in": size for letter, size in zip("tav", case.dims, strict=True)}
    theirs = models.MMIM(SimpleNamespace(**settings_of(case), **sizes, n_class=1)).eval()
    copy_weights(ours, theirs)
    return theirs


def test_official_code_gives_the_same_numbers() -> None:
    """One direction, time first."""
    case = CASES["mmim_official"]
    ours = build(case)
    theirs = official(case, ours)
    dropped = batch_of(case)
    for batch in (dropped, with_first_state(dropped), ending_early(with_first_state(dropped))):
        theirs.text_enc.states = batch.text
        streams = [batch.features[m].transpose(0, 1) for m in ("vision", "audio")]
        lengths = [batch.last[m] + 1 for m in ("vision", "audio")]
        with torch.no_grad():
            likelihood, nce, pred, _, _ = theirs(None, *streams, *lengths, None, None, None)
            found = ours._vectors(batch)
            z, _ = theirs.fusion_prj(torch.cat([found[m] for m in MODALITIES], dim=1))
        if batch is dropped:
            torch.testing.assert_close(kept("mmim_official")["pred"], pred.squeeze(1), atol=1e-5, rtol=0)
            continue
        features = {f"Feature_{letter}": found[m] for m, letter in LETTERS.items()}
        expected = {**features, "Feature_f": z, "M": pred, "lld": likelihood, "nce": nce}
        print(f"official: {assert_same(ours, batch, expected):.1e}")


def clips_of(count: int, key: int) -> Batch:
    """Clips of both signs, some of them neutral."""
    features = {m: numbers((count, 9, size), key + i) * 3 for i, (m, size) in enumerate(CASE.spec.feature_dims.items())}
    mask = torch.ones(count, 9, dtype=torch.bool)
    last = torch.full((count,), 8)
    labels = (numbers((count,), key + 9) * 6).round()
    assert all((sign * labels > 0).sum() >= 5 for sign in (1, -1))
    assert (labels == 0).any()
    return Batch(
        features,
        dict.fromkeys(features, mask),
        dict.fromkeys(features, mask),
        dict.fromkeys(features, last),
        labels=labels,
    )


def test_mmsa_gives_the_same_entropy() -> None:
    ours = build(CASE)
    theirs = mmsa(CASE, ours)
    ours.turn, ours.lambda_bounds = "main", 1.0
    memory: dict[str, Any] = {"tv": None, "ta": None, "va": None}
    found = []
    for key, count in ((1, 24), (2, 31), (3, 24), (4, 27)):
        batch = clips_of(count, 10 * key)
        expected = run_mmsa(theirs, batch, y=batch.labels[:, None], mem=memory)
        terms = ours.loss(ours.training_forward(batch), batch)
        codes = expected["pn_dic"]
        torch.testing.assert_close(ours.memory[batch.labels > 0, 0], codes["tv"]["pos"].detach(), atol=1e-6, rtol=0)
        torch.testing.assert_close(ours.memory[batch.labels < 0, 1], codes["ta"]["neg"].detach(), atol=1e-6, rtol=0)
        if key > 2:
            # Ours has the constants of two Gaussians in two dimensions, and divides by n - 1.
            constants = 0.0
            for sign in ("pos", "neg"):
                n = len(memory["tv"][sign][0]) + len(codes["tv"][sign])
                constants += 2 * 0.5 * 0.5 * 2 * math.log(2 * math.pi * math.e * n / (n - 1))
            torch.testing.assert_close(-terms["entropy"] - constants, expected["H"], atol=0, rtol=1e-4)
            found.append(expected["H"].item())
        else:
            assert "entropy" not in terms
        memory = {pair: {s: [codes[pair][s].detach()] for s in ("pos", "neg")} for pair in ("tv", "ta")}
    assert len(set(found)) == 2


class Recorded(MMIM):
    """In double precision; remembers its batches."""

    def _vectors(self, batch: Batch) -> dict[str, Tensor]:
        return super()._vectors(replace(batch, features={m: x.double() for m, x in batch.features.items()}))


class Replay:
    """Their train loader: recorded passes, one after the other."""

    def __init__(self, passes: list[list[Batch]], theirs: Any) -> None:
        self.passes, self.theirs, self.size = iter(passes), theirs, len(passes[0])

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in next(self.passes):
            self.theirs.bertmodel.states = batch.text.double()
            yield {
                "text": batch.text.double(),
                "audio": batch.audio.double(),
                "vision": batch.vision.double(),
                "audio_lengths": batch.last["audio"] + 1,
                "vision_lengths": batch.last["vision"] + 1,
                "labels": {"M": batch.labels.double()},
            }


@pytest.mark.parametrize("clip", [0.05, 1.0])
def test_mmsa_trains_to_the_same_weights(clip: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs of two passes of four batches; the entropy enters in the third batch of a pass."""
    monkeypatch.setattr(mmim, "_SHRINKAGE", 1e-12)
    data = data_module(random_corpus(sizes=(76, 8, 8)), batch_size=20)
    chosen = {**CASE.settings, "dropout": 0.0, "gradient_clip": clip, "weight_decay": 1e-2, "bounds_lr": 2e-3}
    method, before = (Recorded(data.spec, **chosen).double() for _ in range(2))
    before.load_state_dict(method.state_dict())
    seen: list[tuple[str, Batch]] = []
    forward = method.training_forward
    method.training_forward = lambda batch: (seen.append((method.turn, batch)), forward(batch))[1]
    quiet_trainer(tmp_path, 3).fit(method, datamodule=data)
    assert [turn for turn, _ in seen] == (["bounds"] * 4 + ["main"] * 4) * 3

    dims = data.spec.feature_dims
    theirs = mmsa(replace(CASE, dims=(dims["text"], dims["audio"], dims["vision"])), before).double()
    trainer = trainer_module("MMIM").MMIM(
        SimpleNamespace(
            train_mode="regression",
            dataset_name="mosi",
            device="cpu",
            need_data_aligned=False,
            grad_clip=clip,
            train_samples=76,
            add_va=False,
            mem_size=1,
            contrast=True,
            alpha=0.1,
            beta=0.1,
        )
    )
    trainer.model = theirs
    of_bounds = [p for name, p in theirs.named_parameters() if "mi" in name]
    rest = [p for name, p in theirs.named_parameters() if "mi" not in name]
    trainer.optimizer_mmilb = torch.optim.Adam(of_bounds, lr=2e-3, weight_decay=1e-2)
    trainer.optimizer_main = torch.optim.Adam(rest, lr=1e-3, weight_decay=1e-2)
    loader = Replay([[batch for _, batch in seen[start : start + 4]] for start in range(0, 24, 4)], theirs)
    for _ in range(3):
        trainer.train_mmilb({"train": loader})
        trainer.train_others({"train": loader})
    after, start = dict(theirs.named_parameters()), dict(before.named_parameters())
    largest = 0.0
    for name, parameter in method.named_parameters():
        torch.testing.assert_close(parameter, after[short_name(name)], atol=1e-7, rtol=0)
        largest = max(largest, float((parameter - after[short_name(name)]).abs().max().detach()))
        assert torch.equal(parameter, start[name]) == name.startswith("codes.")
    print(f"training: {largest:.1e}")
