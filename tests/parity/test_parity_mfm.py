"""MFM against MMSA, and its variant ``missing`` against the authors' code.

MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d).
MSABENCH_PARITY_MFM: clone of https://github.com/pliang279/factorized (602b160).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msabench.data.batch import Batch
from msabench.methods.base import MSAMethod
from msabench.missingness.conditions import MODALITIES
from tests.parity import mmsa_memory
from tests.parity.clones import clone, importing
from tests.parity.mmsa_single import model_class, trainer_module
from tests.parity.recorded import fit_recorded
from tests.support.golden_cases import CASES, Case, batch_of, build, kept, numbers

LETTERS = {"text": "l", "audio": "a", "vision": "v", "joint": "y"}
PAIRS = {"text": "av", "audio": "lv", "vision": "la"}
GOLDEN = ("mfm_mmsa", "mfm_mmsa_pooled")
_MOSEI = {
    **{"hidden_text": 256, "hidden_audio": 32, "hidden_vision": 256, "memory": 64},
    **{"attend_width": 1278, "propose_width": 32, "retain_width": 64, "update_width": 128},
    **{"latent_joint": 32, "latent_text": 256, "latent_audio": 80, "latent_vision": 80},
    **{"factor_joint": 16, "factor_text": 32, "factor_audio": 80, "factor_vision": 32},
}
_SIMS = {
    **{"hidden_text": 64, "hidden_audio": 16, "hidden_vision": 64, "memory": 128},
    **{"attend_width": 32, "propose_width": 64, "retain_width": 64, "update_width": 256},
    **{"latent_joint": 48, "latent_text": 256, "latent_audio": 32, "latent_vision": 80},
    **{"factor_joint": 48, "factor_text": 256, "factor_audio": 80, "factor_vision": 48},
}
SHAPES = {
    **{name: CASES[name] for name in GOLDEN},
    "mosei": Case("mfm", (768, 74, 35), (50, 50, 50), settings=_MOSEI, gain=2.5),
    "sims": Case("mfm", (768, 33, 709), (39, 400, 55), settings=_SIMS, gain=2.5),
}
WEIGHTS = {"lambda_mmd": 3.0, "lambda_text": 0.5, "lambda_audio": 0.2, "lambda_vision": 0.3}
NO_DROPOUT = dict.fromkeys(
    [
        *(f"{part}_dropout" for part in ("attend", "propose", "retain", "update", "out")),
        *(f"factor_dropout_{k}" for k in LETTERS),
    ],
    0.0,
)


def short_name(name: str) -> str:
    """Name there of one of our weights."""
    kind, _, rest = name.partition(".")
    if kind == "memory":
        return f"mfn_encoder.{mmsa_memory.short_name(rest)}"
    if kind in ("to_joint", "head"):
        return rest.replace("fc", "fy_to_y_fc") if kind == "head" else f"last_to_zy_fc1.{rest}"
    of, _, rest = rest.partition(".")
    k = LETTERS[of]
    if kind == "factors":
        return f"z{k}_to_f{k}_{rest}"
    part = rest.replace("linear.", "fc1.").replace("cell.", "lstm.").removesuffix("_l0")
    if kind in ("surrogates", "joint_surrogates"):
        return f"encoder_{PAIRS[of]}_to_{k if kind == 'surrogates' else 'y'}.{part}"
    return f"{kind.removesuffix('s')}_{k}.{part}"


def hyper_parameters(settings: dict[str, Any]) -> dict[str, Any]:
    """What both codes call sizes, dropouts and weights of losses."""
    sizes = {f"z{k}_size": settings[f"latent_{of}"] for of, k in LETTERS.items()}
    sizes |= {f"f{k}_size": settings[f"factor_{of}"] for of, k in LETTERS.items()}
    drops = {f"z{k}_to_f{k}_dropout": 0.0 for k in LETTERS.values()}
    weights = {f"lda_x{k}": settings[f"lambda_{of}"] for of, k in LETTERS.items() if of != "joint"}
    return {**sizes, **drops, **weights, "fy_to_y_dropout": 0.0, "memsize": settings["memory"], "windowsize": 2}


def hidden_layers(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The small networks of MFN; the output network is never used."""
    ours = {"NN1": "attend", "NN2": "propose", "gamma1": "retain", "gamma2": "update"}
    layers = {f"{theirs}Config": {"shapes": settings[f"{name}_width"], "drop": 0.0} for theirs, name in ours.items()}
    return {**layers, "outConfig": {"shapes": 3, "drop": 0.0}}


def with_weights(theirs: Any, ours: nn.Module) -> Any:
    """Their model with our weights, in evaluation mode."""
    values = {short_name(name): value for name, value in ours.state_dict().items()}
    result = theirs.load_state_dict(values, strict=False)
    assert not result.unexpected_keys
    assert all(name.startswith("mfn_encoder.out_fc") for name in result.missing_keys)
    return theirs.eval()


def mmsa(case: Case, ours: nn.Module) -> Any:
    return with_weights(
        model_class("MFM")(
            SimpleNamespace(
                device="cpu",
                feature_dims=list(case.dims),
                hidden_dims=[case.settings[f"hidden_{m}"] for m in MODALITIES],
                train_mode="regression",
                **hyper_parameters(case.settings),
                **hidden_layers(case.settings),
            )
        ),
        ours,
    )


def close(found: Tensor, expected: Tensor, atol: float = 1e-5) -> float:
    """They agree; returns the largest difference."""
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-6)
    return float((found - expected).abs().max())


@pytest.mark.parametrize("shape", SHAPES)
def test_mmsa_gives_the_same_numbers(shape: str) -> None:
    case = replace(SHAPES[shape], settings={**SHAPES[shape].settings, **WEIGHTS})
    ours = build(case)
    batch = replace(batch_of(case), labels=torch.zeros(4))
    theirs = mmsa(case, ours)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        score, generation, mmd, nothing = theirs(*mmsa_memory.loaded(case, batch))
        out = ours.training_forward(batch)
        torch.manual_seed(1)
        terms = ours.loss(out, batch)
        differences = [close(ours(batch).pred, score.squeeze(1))]
    assert nothing == 0.0
    differences.append(close(out.pred, score.squeeze(1)))
    differences.append(close(terms["text"] + terms["audio"] + terms["vision"], generation))
    differences.append(close(terms["mmd"] / WEIGHTS["lambda_mmd"], mmd))
    if shape in GOLDEN:
        differences.append(close(kept(shape)["pred"], score.squeeze(1)))
    print(
        f"{shape}: {max(differences):.1e}, predictions {out.pred.tolist()}, generation {float(generation)}, mmd {mmd}"
    )


class _Replay:
    """MMSA's train loader: the recorded epochs, one after the other."""

    def __init__(self, case: Case, epochs: list[list[Batch]]) -> None:
        self.case, self.epochs, self.batches = case, iter(epochs), len(epochs[0])

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in next(self.epochs):
            inputs = dict(zip(MODALITIES, mmsa_memory.loaded(self.case, batch), strict=True))
            yield {**inputs, "labels": {"M": batch.labels}}


def test_training_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs of six batches. The draws are replaced: other draws would shift them against each other."""
    drawn = torch.randn
    monkeypatch.setattr(torch, "randn_like", lambda z: 3 * numbers(z.shape, 5))
    monkeypatch.setattr(
        torch, "randn", lambda *a, **b: 3 * numbers(a[0], 5) if isinstance(a[0], torch.Size) else drawn(*a, **b)
    )
    settings = {**CASES["mfm_mmsa"].settings, **NO_DROPOUT, **WEIGHTS}
    method, before, epochs = fit_recorded("mfm", settings, {"lr": 1e-3, "weight_decay": 5e-3}, tmp_path)
    dims = method.spec.feature_dims
    case = Case("mfm", (dims["text"], dims["audio"], dims["vision"]), (8, 8, 8), settings=settings)
    theirs = mmsa(case, before)
    trainer = trainer_module("MFM").MFM(
        SimpleNamespace(
            train_mode="regression",
            dataset_name="mosi",
            model_name="mfm",
            device="cpu",
            KeyEval="Loss",
            cur_seed=1,
            early_stop=len(epochs) - 1,
            model_save_path=tmp_path / "model.pt",
            learning_rate=0.5,  # not read
            weight_decay=5e-3,
            lda_mmd=WEIGHTS["lambda_mmd"],
        )
    )
    trainer.do_test = lambda *_, **__: {"Loss": 1.0}
    trainer.do_train(theirs, {"train": _Replay(case, epochs), "valid": None})
    after, largest = dict(theirs.named_parameters()), 0.0
    for (name, value), start in zip(method.state_dict().items(), before.state_dict().values(), strict=True):
        assert not torch.equal(value, start)
        largest = max(largest, close(value, after[short_name(name)].detach()))
    print(f"weights after training: {largest:.1e}")


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The authors' code moves everything to a GPU."""
    monkeypatch.setattr(Tensor, "cuda", lambda self: self)


def official_missing(case: Case, ours: MSAMethod) -> Any:
    with torch.random.fork_rng(), importing(clone("MSABENCH_PARITY_MFM")):  # it seeds torch
        module = importlib.import_module("mfm_model")
    config = {
        "input_dims": list(case.dims),
        "h_dims": [case.settings[f"hidden_{m}"] for m in MODALITIES],
        "output_dim": 1,
        **hyper_parameters(case.settings),
    }
    return with_weights(module.MFM_missing(config, *hidden_layers(case.settings).values()), ours)


@pytest.mark.usefixtures("on_the_cpu")
def test_the_authors_code_for_a_missing_modality_gives_the_same_numbers() -> None:
    name = "mfm_official_missing"
    case = replace(CASES[name], settings={**CASES[name].settings, **WEIGHTS})
    ours = build(case)
    batch = replace(batch_of(case), labels=torch.zeros(4))
    assert isinstance(ours, MSAMethod)
    theirs = official_missing(case, ours)
    x = torch.cat([batch.features[m] for m in MODALITIES], dim=2).transpose(0, 1)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        whole, *without, mmd, surrogate = theirs(x)
        out = ours.training_forward(batch)
        torch.manual_seed(1)
        terms = ours.loss(out, batch)
        ours_at_test = ours(batch).pred
    differences = [close(out.pred, whole[3].squeeze(1)), close(terms["surrogate"], surrogate)]
    differences.append(close(terms["mmd"] / WEIGHTS["lambda_mmd"], mmd))
    task = whole[3].abs().mean() + torch.stack([decoded[3] for decoded in without]).abs().mean((1, 2)).sum()
    differences.append(close(terms["task"], task))
    for i, m in enumerate(MODALITIES):
        target = batch.features[m].transpose(0, 1)
        errors = F.mse_loss(whole[i], target) + F.mse_loss(without[i][i], target)
        differences.append(close(terms[m], WEIGHTS[f"lambda_{m}"] * errors))
        differences.append(close(out.aux[f"pred_without_{m}"], without[i][3].squeeze(1)))
    # The third clip has no vision: its prediction is that from text and audio.
    expected = torch.where(torch.arange(4) == 2, without[2][3].squeeze(1), whole[3].squeeze(1))
    differences += [close(ours_at_test, expected), close(kept(name)["pred"], expected)]
    print(f"{name}: {max(differences):.1e}, predictions {ours_at_test.tolist()}")
