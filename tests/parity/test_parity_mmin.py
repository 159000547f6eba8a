"""MMIN against its codes: the official one, for sequences, in a fork that has its files, and the port to vectors.

MSABENCH_PARITY_IF_MMIN: clone of https://github.com/ZhuoYulang/IF-MMIN (f4d65fc)
MSABENCH_PARITY_GCNET: clone of https://github.com/zeroQiaoba/GCNet (8cce4a0)

Neither reads BERT.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.mmin import MMIN, Imagination, LSTMEncoder, Perceptron, TextCNN
from msabench.missingness.conditions import MODALITIES
from msabench.training.config_files import config_of
from tests.parity.clones import clone, importing
from tests.support.golden_cases import CASES, CLIPS, Case, batch_of, build, kept, numbers

LETTERS = {"audio": "A", "text": "L", "vision": "V"}
COLUMNS = ("audio", "vision", "text")
"""Of their table of what is there."""

CODES = {"official": ("MSABENCH_PARITY_IF_MMIN", "."), "port": ("MSABENCH_PARITY_GCNET", "baseline-mmin")}
REAL = {"blocks": 5, "block_widths": (256, 128, 64)}
SHAPES = {
    "official": {"golden": CASES["mmin_official"], "mosi": Case("mmin", (768, 5, 20), (50, 60, 70), settings=REAL)},
    "port": {
        "golden": CASES["mmin_port"],
        "mosi": Case("mmin", (1024, 512, 1024), (1, 1, 1), settings={**REAL, "reads": "vector", "init": "normal"}),
    },
}
PATTERNS = torch.tensor([[a, v, t] for a in (1, 0) for v in (1, 0) for t in (1, 0) if a or v or t])
"""Seven clips, audio, vision, text."""


@pytest.fixture(params=CODES)
def code(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    variable, folder = CODES[request.param]
    with importing(clone(variable) / folder):
        names = ("models.mmin_model", "models.utt_fusion_model", "models.networks.tools")
        modules: list[ModuleType] = [importlib.import_module(name) for name in names]
        yield SimpleNamespace(name=request.param, mmin=modules[0], teacher=modules[1], tools=modules[2])


def options(case: Case, folder: Path, **changes: Any) -> SimpleNamespace:
    """Their options, of the commands in run_mmin.sh where ours do not say otherwise."""
    settings = {"dim": 128, "out_width": 128, **case.settings}
    dims = dict(zip(MODALITIES, case.dims, strict=True))
    stream = {f"input_dim_{LETTERS[m].lower()}": dims[m] for m in MODALITIES}
    stream |= {f"embd_size_{letter}": settings["dim"] for letter in "alv"}
    stream |= {f"embd_method_{letter}": "maxpool" for letter in "av"}
    weights = {"ce_weight": 1.0, "mse_weight": 4.0, "cycle_weight": 2.0}
    folders = dict.fromkeys(("checkpoints_dir", "image_dir", "shared_dir"), str(folder)) | {"name": ".", "cvNo": 1}
    found = SimpleNamespace(
        **stream,
        **weights,
        **folders,
        gpu_ids=[],
        isTrain=True,
        cuda_benchmark=False,
        modality="AVL",
        cls_layers=f"{settings['out_width']},{settings['out_width']}",
        AE_layers=",".join(map(str, settings["block_widths"])),
        n_blocks=settings["blocks"],
        dropout_rate=0.5,
        bn=False,
        output_dim=1,
        dataset_mode="cmumosi_miss",
        lr=1e-3,
        beta1=0.5,
        weight_decay=0.0,
        lr_policy="linear",
        niter=20,
        niter_decay=80,
        epoch_count=1,
        share_weight=settings.get("variant") == "shared",
    )
    found.__dict__.update(changes)
    return found


def perceptron(theirs: nn.Module, ours: Perceptron) -> None:
    linear = [layer for layer in theirs.module if isinstance(layer, nn.Linear)]  # type: ignore[union-attr]
    for there, here in zip([*linear, theirs.fc_out], [*ours.hidden, ours.out], strict=True):
        there.load_state_dict(here.state_dict())  # type: ignore[operator,union-attr]


def encoder(theirs: Any, ours: nn.Module) -> None:
    if isinstance(ours, Perceptron):
        perceptron(theirs, ours)
    elif isinstance(ours, LSTMEncoder):
        theirs.rnn.load_state_dict(ours.rnn.state_dict())
    else:
        assert isinstance(ours, TextCNN)
        for there, here in zip((theirs.conv1, theirs.conv2, theirs.conv3), ours.convolutions, strict=True):
            weight = here.weight.detach().transpose(1, 2).unsqueeze(1)
            there.load_state_dict({"weight": weight, "bias": here.bias.detach()})
        theirs.embd[0].load_state_dict(ours.out.state_dict())


def cascade(theirs: Any, ours: Imagination) -> None:
    theirs.transition.load_state_dict(ours.transition.state_dict())
    for i, (encode, decode) in enumerate(zip(ours.encode, ours.decode, strict=True)):
        getattr(theirs, f"encoder_{i}").load_state_dict(encode.state_dict())
        getattr(theirs, f"decoder_{i}").load_state_dict(decode.state_dict())


def official_teacher(code: SimpleNamespace, case: Case, ours: MMIN, folder: Path) -> Any:
    theirs = code.teacher.UttFusionModel(options(case, folder, isTrain=False))
    for m, letter in LETTERS.items():
        encoder(getattr(theirs, f"net{letter}"), ours.teacher.encoders[m])
    perceptron(theirs.netC, ours.teacher.classifier)
    theirs.eval()
    return theirs


def official(code: SimpleNamespace, case: Case, ours: MMIN, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Their MMIN with our weights, its dropout off; it loads the teacher onto a GPU, so ours is put there instead."""
    kind = code.mmin.MMINModel
    monkeypatch.setattr(kind, "load_pretrained_encoder", lambda self, *_: None)
    theirs = kind(options(case, folder))
    for m, letter in LETTERS.items():
        encoder(getattr(theirs, f"net{letter}"), ours.encoders[m])
    cascade(theirs.netAE, ours.imagine)
    if ours.imagine_back is not None:
        cascade(theirs.netAE_cycle, ours.imagine_back)
    perceptron(theirs.netC, ours.classifier)
    theirs.pretrained_encoder = official_teacher(code, case, ours, folder)
    for name in theirs.model_names:
        getattr(theirs, f"net{name}").eval()
    return theirs


def removed(complete: Batch, patterns: Tensor) -> Batch:
    """The clips without the modalities that are 0 in a row, as the protocol hides them."""
    features, valid, observed = {}, {}, {}
    for column, m in enumerate(COLUMNS):
        there = patterns[:, column : column + 1].bool()
        features[m] = complete.features[m] * there.unsqueeze(2)
        valid[m] = complete.valid[m] | ~there
        observed[m] = complete.observed[m] & there
    return replace(complete, features=features, valid=valid, observed=observed, complete=complete)


def whole(case: Case, clips: int = len(PATTERNS)) -> Batch:
    """Clips of full length with labels."""
    steps = dict(zip(MODALITIES, case.steps, strict=True))
    features = {
        m: numbers((clips, steps[m], dim), key) * 3
        for key, (m, dim) in enumerate(zip(MODALITIES, case.dims, strict=True), 101)
    }
    masks = {m: torch.ones(clips, steps[m], dtype=torch.bool) for m in MODALITIES}
    last = {m: torch.full((clips,), steps[m] - 1) for m in MODALITIES}
    return Batch(features, masks, dict(masks), last, labels=numbers((clips,), 12) * 4)


def given(code: SimpleNamespace, complete: Batch, patterns: Tensor) -> dict[str, Any]:
    features = {m: x.squeeze(1) if code.name == "port" else x for m, x in complete.features.items()}
    there = {f"{letter}_feat": features[m] for m, letter in LETTERS.items()}
    return {**there, "label": complete.labels, "missing_index": patterns, "miss_type": None}


def close(ours: Tensor, theirs: Tensor) -> float:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    return float((ours - theirs).abs().max())


def built(case: Case) -> MMIN:
    method = build(case)
    assert isinstance(method, MMIN)
    return method


@pytest.mark.parametrize("shape", ["golden", "mosi"])
@pytest.mark.parametrize(
    ("code", "variant"), [("official", "default"), ("official", "shared"), ("port", "default")], indirect=["code"]
)
def test_all_patterns_give_the_same_numbers(
    code: SimpleNamespace, shape: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prediction, f', f'', the teacher's target, every loss term, and gradients, limited network by network."""
    case = SHAPES[code.name][shape]
    case = replace(case, settings={**case.settings, "variant": variant})
    ours, complete = built(case), whole(case)
    batch = removed(complete, PATTERNS)
    theirs = official(code, case, ours, tmp_path, monkeypatch)
    if code.name == "official":  # it has classes; the port shows what the error of a score is
        theirs.criterion_ce = lambda logits, label: nn.functional.mse_loss(logits.squeeze(1), label)
    theirs.set_input(given(code, complete, PATTERNS))
    theirs.forward()
    out = ours.training_forward(batch)
    terms = ours.loss(out, batch)
    pairs = {
        "pred": (out.pred, theirs.logits.squeeze(-1)),
        "codes": (out.representation, theirs.latent),
        "imagined": (out.aux["imagined"], theirs.recon_fusion),
        "target": (out.aux["target"], theirs.T_embds),
        "back": (out.aux["back"], theirs.recon_cycle),
    }
    limits: list[float] = []
    clip = nn.utils.clip_grad_norm_
    with monkeypatch.context() as patched:
        patched.setattr(
            nn.utils, "clip_grad_norm_", lambda parameters, most: limits.append(most) or clip(parameters, most)
        )
        theirs.backward()
    pairs |= {
        name: (terms[name], getattr(theirs, f"loss_{there}"))
        for name, there in {"task": "CE", "imagination": "mse", "cycle": "cycle"}.items()
    }
    assert theirs.T_embds.std() > 0.01
    assert theirs.recon_fusion.std() > 0.01
    print(code.name, shape, {name: f"{close(*pair):.1e}" for name, pair in pairs.items()})

    assert set(limits) == ({5} if code.name == "port" else {1.0})
    torch.stack(list(terms.values())).sum().backward()
    for group in ours.param_groups():
        clip(group["params"], limits[0])
    gap = 0.0
    for m, letter in LETTERS.items():
        gap = max(gap, gradients(getattr(theirs, f"net{letter}"), ours.encoders[m]))
    gap = max(gap, gradients(theirs.netAE, ours.imagine), gradients(theirs.netC, ours.classifier))
    if ours.imagine_back is not None:
        gap = max(gap, gradients(theirs.netAE_cycle, ours.imagine_back))
    print(f"gradients {gap:.1e}")


def gradients(theirs: nn.Module, ours: nn.Module) -> float:
    """Largest difference of two networks' gradients, as a share of the largest; the order of parameters may differ."""
    there = sorted((p.grad.flatten().sort().values for p in theirs.parameters() if p.grad is not None), key=key_of)
    here = sorted((p.grad.flatten().sort().values for p in ours.parameters() if p.grad is not None), key=key_of)
    assert [x.shape for x in there] == [x.shape for x in here]
    largest = max(float(x.abs().max()) for x in there)
    assert largest > 0
    gap = max(float((a - b).abs().max()) for a, b in zip(there, here, strict=True)) / largest
    assert gap < 1e-4
    return gap


def key_of(values: Tensor) -> tuple[int, float]:
    return len(values), round(float(values.abs().sum()), 3)


@pytest.mark.parametrize("shape", ["golden", "mosi"])
def test_the_teacher_gives_the_same_numbers(code: SimpleNamespace, shape: str, tmp_path: Path) -> None:
    case = SHAPES[code.name][shape]
    ours, complete = built(case), whole(case)
    ours.enter_stage("teacher")
    theirs = official_teacher(code, case, ours, tmp_path)
    theirs.set_input(given(code, complete, PATTERNS))
    with torch.no_grad():
        theirs.forward()
        out = ours.training_forward(replace(complete, complete=complete))
    print(f"pred {close(out.pred, theirs.logits.squeeze(-1)):.1e}", end=" ")
    assert out.representation is not None
    print(f"embeddings {close(out.representation, theirs.feat):.1e}")


@pytest.mark.parametrize("code", ["official"], indirect=True)
def test_padding_is_not_read_which_is_their_number_of_each_clip_alone(
    code: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips of unequal length in one batch, against theirs one by one; and padded, as they read a whole batch."""
    case = replace(SHAPES["official"]["golden"], steps=(9, 20, 13), settings=dict(CASES["mmin_official"].settings))
    lengths = {"text": [9, 5, 7, 6], "audio": [20, 1, 13, 4], "vision": [2, 13, 8, 5]}
    complete = whole(case, CLIPS)
    valid = {m: torch.arange(complete.features[m].shape[1]) < torch.tensor(lengths[m])[:, None] for m in MODALITIES}
    features = {m: x * valid[m].unsqueeze(2) for m, x in complete.features.items()}
    complete = replace(complete, features=features, valid=valid, observed=valid)
    patterns = torch.ones(CLIPS, 3, dtype=torch.int64)
    seen = {}
    for masked in (True, False):
        ours = built(replace(case, settings={**case.settings, "mask_padding": masked}))
        theirs = official(code, case, ours, tmp_path, monkeypatch)
        with torch.no_grad():
            seen[masked] = ours(complete).pred
            if masked:
                for i in range(CLIPS):
                    alone = {m: features[m][i : i + 1, : lengths[m][i]] for m in MODALITIES}
                    one = replace(complete, features=alone, labels=complete.labels[i : i + 1])  # type: ignore[index]
                    theirs.set_input(given(code, one, patterns[:1]))
                    theirs.forward()
                    close(seen[masked][i : i + 1], theirs.logits.squeeze(-1))
            else:
                theirs.set_input(given(code, complete, patterns))
                theirs.forward()
                close(seen[masked], theirs.logits.squeeze(-1))
    assert (seen[True] - seen[False]).abs().max() > 1e-3


def test_kept_numbers_are_theirs(code: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing in the golden batch is zero for them, too; of the port's single steps nothing is dropped."""
    name = f"mmin_{code.name}"
    case = CASES[name]
    batch = batch_of(case)
    theirs = official(code, case, built(case), tmp_path, monkeypatch)
    theirs.set_input(given(code, replace(batch, labels=torch.zeros(CLIPS)), torch.ones(CLIPS, 3, dtype=torch.int64)))
    with torch.no_grad():
        theirs.forward()
    close(kept(name)["pred"], theirs.logits.squeeze(-1))
    close(kept(name)["representation"], theirs.latent)


def test_learning_rates_are_theirs(code: SimpleNamespace, tmp_path: Path) -> None:
    settings = options(CASES["mmin_port"], tmp_path)
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = code.tools.get_scheduler(optimizer, settings)
    ours = built(CASES["mmin_port"])
    for epoch in range(100):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours.lr_multiplier(epoch, 100), abs=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("init", ["kaiming", "normal"])
def test_weights_begin_as_theirs(code: SimpleNamespace, init: str) -> None:
    """The same draws in the same order, but that an LSTM is left as PyTorch makes it."""
    case = SHAPES["port"]["mosi"]
    torch.manual_seed(0)
    method = MMIN(case.spec, **{**case.settings, "init": init})
    ours = method.imagine
    theirs = Imagination(384, 5, (256, 128, 64))
    torch.manual_seed(5)
    code.tools.init_weights(theirs, init, 0.02)
    torch.manual_seed(5)
    MMIN._initialise(ours, init)  # type: ignore[arg-type]
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    lstm = nn.LSTM(3, 4)
    before = {name: value.clone() for name, value in lstm.state_dict().items()}
    code.tools.init_weights(lstm, init, 0.02)
    assert all(torch.equal(value, before[name]) for name, value in lstm.state_dict().items())


def test_the_port_is_trained_as_our_configs_say() -> None:
    """The first command of its script, which goes on to search over blocks and their widths."""
    text = (clone("MSABENCH_PARITY_GCNET") / "run_mmin.sh").read_text(encoding="utf-8").splitlines()[6]
    theirs = dict(word.removeprefix("--").split("=") for word in text.split() if "=" in word)
    config = config_of(Path(__file__).parents[2] / "configs/mmin_mosi.yaml")
    ours = config["model"]["init_args"]
    assert float(theirs["lr"]) == ours["lr"]
    assert int(theirs["batch_size"]) == config["data"]["batch_size"]
    assert float(theirs["mse_weight"]) == ours["lambda_imagination"]
    assert float(theirs["cycle_weight"]) == ours["lambda_cycle"]
    assert json.loads(f"[{theirs['AE_layers']}]") == list(ours["block_widths"])
    assert int(theirs["n_blocks"]) == ours["blocks"]
    assert float(theirs["dropout_rate"]) == ours["dropout"]
    constant, decay = int(theirs["niter"]), int(theirs["niter_decay"])
    assert constant / (constant + decay) == ours["constant_share"]
    assert config["trainer"]["max_epochs"] == ours["teacher_epochs"] + constant + decay
