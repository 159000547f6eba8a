"""TFR-Net against its official code and MMSA, whose trainer is the same.

MSABENCH_PARITY_TFR_NET: clone of https://github.com/thuiar/TFR-Net (00f06a6)
MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.tfr_net import TFRNet
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from tests.parity import mmsa
from tests.parity.clones import clone, importing
from tests.parity.mmsa_trainer import Named, Recorded
from tests.parity.recorded import fit_recorded
from tests.support.golden_cases import CASES, Case, batch_of, build, kept, numbers

ONE_HEAD = {f"temporal_heads_{m}": 1 for m in MODALITIES}
MOSI = (768, 5, 20), (50, 375, 500)
SIMS = {"layers": 2, "lambda_text": 1.0, "lambda_audio": 0.01, "lambda_vision": 0.0001}
# Code, case, parameters without BERT. Neither code can give each modality heads of its own: with SIMS all have one.
SHAPES = {
    "official": ("official", CASES["tfr_net_official"], None),
    "official_mosi": ("official", Case("tfr_net", *MOSI), 14_850_620),
    "mmsa": ("mmsa", CASES["tfr_net_mmsa"], None),
    "mmsa_mosi": ("mmsa", Case("tfr_net", *MOSI, settings={"lambda_similarity": 5.0}), 14_850_620),
    "mmsa_sims": (
        "mmsa",
        Case("tfr_net", (768, 33, 709), (39, 400, 55), settings={**SIMS, **ONE_HEAD, "lambda_similarity": 5.0}),
        6_668_422,
    ),
}
LETTERS = {"text": "l", "audio": "a", "vision": "v"}
DROPOUTS = ("attn_dropout", "relu_dropout", "embed_dropout", "res_dropout", "text_dropout", "fusion_drop")


class Settings(dict[str, Any]):
    """Theirs: by name or by key, and False where nothing was set."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name, False)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class StatesOfVersion(nn.Module):
    """In place of BERT: the ids of a text are the number of its version."""

    def __init__(self, **_: object) -> None:
        super().__init__()
        self.states: list[Tensor] = []

    def forward(self, tokens: Tensor) -> Tensor:
        return self.states[int(tokens[0, 0, 0])]


def official(code: str, case: Case, ours: nn.Module) -> Any:
    """Their model with our weights, in evaluation mode."""
    if code == "mmsa":
        module = mmsa.model_module("missingTask", "TFR_NET.model")
    else:
        with importing(clone("MSABENCH_PARITY_TFR_NET")):
            module = importlib.import_module("models.missingTask.TFR_NET.model")
    module.BertTextEncoder = StatesOfVersion
    chosen = {"dim": 30, "heads": 6, "layers": 3, "hidden_text": 36, "hidden_audio": 20, "hidden_vision": 48}
    chosen |= {"lambda_text": 5.0, "lambda_audio": 2.0, "lambda_vision": 20.0, "temporal_heads_text": 25}
    chosen |= case.settings
    settings = Settings(
        dict.fromkeys(DROPOUTS, 0.0),
        alignmentModule="crossmodal_attn",
        generatorModule="linear",
        fusionModule="c_gate",
        recloss_type="combine",
        attn_mask=True,
        device="cpu",
        seq_lens=list(case.steps),
        feature_dims=list(case.dims),
        conv1d_kernel_size_l=1,
        conv1d_kernel_size_a=5,
        conv1d_kernel_size_v=3,
        dst_feature_dim_nheads=(chosen["dim"], chosen["heads"]),
        nlevels=chosen["layers"],
        num_temporal_head=chosen["temporal_heads_text"],
        fusion_t_hid=chosen["hidden_text"],
        fusion_a_hid=chosen["hidden_audio"],
        fusion_v_hid=chosen["hidden_vision"],
        fusion_gru_layers=3,
        cls_hidden_dim=128,
        cls_dropout=0.0,
        weight_gen_loss=[chosen[f"lambda_{m}"] for m in MODALITIES],
    )
    if "lambda_similarity" in chosen:  # the official settings do not have it
        settings.weight_sim_loss = chosen["lambda_similarity"]
    theirs = module.TFR_NET(settings).eval()
    missing, unexpected = theirs.load_state_dict({short(k): v for k, v in ours.state_dict().items()}, strict=False)
    assert not unexpected
    assert all(name.endswith(("version", "_float_tensor")) for name in missing)
    return theirs


def short(name: str) -> str:
    """Name there of one of our weights."""
    places = {
        "norm.": "linear_trans_norm.",
        "hidden_layer.": "linear_trans_hidden.",
        "out_layer.": "linear_trans_final.",
    }
    for ours, there in places.items():
        if name.startswith(ours):
            return name.replace(ours, f"fusion_subnet.Model.classifier.{there}", 1)
    part, which, rest = name.split(".", 2)
    target, _, source = which.partition("_from_")
    letter = LETTERS[target]
    if part == "generators":
        return f"generator_{letter.replace('l', 't')}.Model.linear.{rest}"
    if part == "readers":
        inner = {"gru": "gru.gru", "gate": "cnn", "out": "fc"}
        kind, _, weight = rest.partition(".")
        return f"fusion_subnet.Model.{target}_encoder.{inner[kind]}.{weight}"
    if part == "project":
        return f"align_subnet.Model.proj_{letter}.{rest.removeprefix('conv.')}"
    network = {"memory": "mem", "final": "final", "cross": f"with_{LETTERS.get(source)}"}[part]
    return f"align_subnet.Model.trans_{letter}_{network}.{rest}"


def training_batch(case: Case) -> Batch:
    """Clips of different lengths with their complete versions; one has lost nothing.

    None has lost a modality, nor is very short: the steps of h would be alike, and the last Transformer, which
    normalises over them, would show nothing but rounding. The golden cases compare what is predicted of such clips.
    """
    batch = batch_of(case)
    steps = case.spec.seq_lens
    last = {m: torch.tensor([steps[m] - 1, steps[m] // 3, steps[m] // 2, steps[m] - 2]) for m in MODALITIES}
    valid = {m: torch.arange(steps[m]) <= last[m].unsqueeze(1) for m in MODALITIES}
    features = {
        m: numbers((batch.size, steps[m], case.spec.feature_dims[m]), key) * 3 * valid[m].unsqueeze(2)
        for key, m in enumerate(MODALITIES, start=101)
    }
    observed = {m: valid[m] & (numbers(tuple(valid[m].shape), key) > -0.3) for key, m in enumerate(MODALITIES, start=7)}
    for m in MODALITIES:
        observed[m][3] = valid[m][3]
    complete = replace(batch, features=features, valid=valid, observed=valid, last=last)
    corrupted = {m: features[m] * observed[m].unsqueeze(2) for m in MODALITIES}
    labels = torch.linspace(-3, 3, batch.size)
    return replace(complete, features=corrupted, observed=observed, labels=labels, complete=complete)


def inputs(theirs: Any, batch: Batch) -> tuple[tuple[Tensor, ...], ...]:
    """What their network is given."""
    complete = batch.complete
    assert complete is not None
    theirs.text_model.states = [batch.text, complete.text]
    valid, observed = ({m: x.to(batch.text) for m, x in masks.items()} for masks in (complete.valid, batch.observed))
    tokens = [torch.full_like(valid["text"], version).unsqueeze(1).repeat(1, 3, 1) for version in range(2)]
    for token in tokens:
        token[:, 1] = valid["text"]
    others = [(complete.features[m], batch.features[m], valid[m], observed[m]) for m in MODALITIES[1:]]
    return (tokens[1], tokens[0], observed["text"]), *others


def fresh(case: Case) -> TFRNet:
    """The method as it is initialised, with no weight at a value that hides it; golden weights blow rounding up."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        method = TFRNet(case.spec, **case.settings).eval()
        for weight in method.parameters():
            weight.add_((0.02 if weight.dim() > 1 else 0.3) * torch.randn_like(weight))
    return method


def difference(found: Tensor, expected: Tensor, within: float = 1e-5) -> float:
    torch.testing.assert_close(found, expected, atol=within, rtol=1e-5)
    return float((found - expected).detach().abs().max())


@pytest.mark.parametrize("shape", SHAPES)
def test_official_code_gives_the_same_numbers(shape: str) -> None:
    """Prediction, joint vector, steps, what enters and leaves the generators, loss; of small clips all gradients."""
    code, case, parameters = SHAPES[shape]
    case = replace(case, settings={"final_axis": "batch", "prediction_epochs": 0, **case.settings})
    ours, batch = fresh(case), training_batch(case)
    theirs = official(code, case, ours)
    assert parameters in (None, sum(p.numel() for p in theirs.parameters()))
    seen: dict[str, list[Tensor]] = {}

    def note(name: str, module: nn.Module, what: Any) -> None:
        module.register_forward_hook(lambda _, args, out: seen.update({name: what(args, out)}))

    note("steps", theirs.align_subnet, lambda args, out: list(out))
    note("joint", theirs.fusion_subnet.Model.classifier, lambda args, out: [args[0]])
    for m in MODALITIES:
        note(f"theirs_{m}", getattr(theirs, f"generator_{m[0]}"), lambda args, out: [args[0], out])
        note(f"ours_{m}", ours.generators[m], lambda args, out: [args[0], out])

    out = ours.training_forward(batch)
    terms = ours.loss(out, batch)
    pred, generation = theirs(*inputs(theirs, batch))
    assert out.representation is not None
    pairs = {"pred": (out.pred, pred.squeeze(1)), "joint": (out.representation, seen["joint"][0])}
    for i, m in enumerate(MODALITIES):
        pairs[f"h_{m}"] = (out.aux[m], seen["steps"][i])
        pairs[f"h_{m}^n"] = (seen[f"ours_{m}"][0], seen["steps"][3 + i])
        pairs[f"rebuilt_{m}"] = (seen[f"ours_{m}"][1], seen[f"theirs_{m}"][1])
    rebuilding = torch.stack([terms[f"rec_{m}"] for m in MODALITIES]).sum()
    pairs["reconstruction loss"] = (rebuilding, generation.squeeze())
    if parameters is None:
        terms["task"].add(rebuilding).backward()
        (pred.squeeze(1) - batch.labels).abs().mean().add(generation.sum()).backward()
        gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
        for name, parameter in ours.named_parameters():
            assert parameter.grad is not None
            scale = max(1.0, float(parameter.grad.abs().max()))
            pairs[f"gradient of {name}"] = (parameter.grad / scale, gradients[short(name)] / scale)
    # Steps of padding are next to nothing before they are normalised; over hundreds of keys rounding adds up.
    within = {name: 1e-5 if parameters is None or name in ("pred", "joint") else 1e-4 for name in pairs}
    found = {name: difference(*pair, within[name]) for name, pair in pairs.items()}
    worst = sorted(found, key=lambda name: -found[name])[:5]
    print(f"{shape}: pred {found['pred']:.0e};", ", ".join(f"{name} {found[name]:.1e}" for name in worst))


@pytest.mark.parametrize("name", ["tfr_net_official", "tfr_net_mmsa"])
def test_what_is_kept_is_what_official_code_gives(name: str) -> None:
    case, batch = CASES[name], batch_of(CASES[name])
    theirs = official(name.removeprefix("tfr_net_"), case, build(case))
    joint: list[Tensor] = []
    theirs.fusion_subnet.Model.classifier.register_forward_pre_hook(lambda _, args: joint.append(args[0]))
    with torch.no_grad():
        pred, _ = theirs(*inputs(theirs, replace(batch, complete=batch)))
    difference(kept(name)["pred"], pred.squeeze(1))
    difference(kept(name)["representation"], joint[0])


def test_channel_axis_is_the_official_transformer_with_its_axes_in_place() -> None:
    case = CASES["tfr_net_mmsa"]
    ours = build(case)
    theirs = official("mmsa", case, ours)
    h = numbers((4, case.steps[0], 36), 3)
    with torch.no_grad():
        after = theirs.align_subnet.Model.trans_l_final(h.permute(2, 0, 1)).permute(1, 2, 0)  # channels, clips, steps
        assert isinstance(ours, TFRNet)
        difference(ours.rebuilt("text", h), theirs.generator_t(after))


def sample_of(theirs: Any, batch: Batch) -> dict[str, Any]:
    """What their train loader gives for a batch."""
    of_modality = dict(zip(MODALITIES, inputs(theirs, batch), strict=True))
    kinds = ("", "_m", "_mask", "_missing_mask")
    sample = {f"{m}{kind}": x for m in MODALITIES[1:] for kind, x in zip(kinds, of_modality[m], strict=True)}
    text = zip(("text", "text_m", "text_missing_mask"), of_modality["text"], strict=True)
    return {**sample, **dict(text), "labels": {"M": batch.labels}}


# Adam makes full steps of the few gradients that are rounding noise: small ones do not grow into differences elsewhere.
RATES = {"lr": 5e-5, "weight_decay": 1e-3}


def test_training_gives_the_same_weights(tmp_path: Path) -> None:
    """Two epochs of six batches: the first on the task alone, two of each outside a group of four."""
    no_dropout = {f"{name}_dropout": 0.0 for name in ("relu", "embed", "res", "fusion")}
    no_dropout |= {"dropout_text": 0.0, "attn_dropout_text": 0.0}
    settings = {
        **CASES["tfr_net_mmsa"].settings,
        **no_dropout,
        "dim": 9,  # not that of a modality, which both would then leave as it is
        "attn_dropout_audio": 0.0,
        "final_axis": "batch",
        "gradient_clip": 0.05,
    }
    # At this rate no clip loses a modality, see ``training_batch``.
    missing = MissingConfig(regime="intra", rate=(0.1, 0.1), lengths="keep")
    method, before, epochs = fit_recorded("tfr_net", settings, RATES, tmp_path, epochs=2, missing=missing)
    spec = method.spec
    shapes = (tuple(of[m] for m in MODALITIES) for of in (spec.feature_dims, spec.seq_lens))
    case = Case("tfr_net", *shapes, settings=settings)  # type: ignore[arg-type]
    theirs = official("mmsa", case, before)
    with importing(clone("MSABENCH_PARITY_TFR_NET")):
        module = importlib.import_module("trains.missingTask.TFR_NET")
    # It passes an argument that PyTorch no longer has; no epoch is better here, and the rate stays as it is.
    module.ReduceLROnPlateau = lambda *args, **more: SimpleNamespace(step=lambda value: None)
    trainer = module.TFR_NET(
        SimpleNamespace(
            train_mode="regression",
            datasetName="mosi",
            modelName="tfr_net",
            cur_time=1,
            device="cpu",
            KeyEval="Loss",
            use_bert_finetune=True,
            learning_rate_bert=0.0,
            weight_decay_bert=0.0,
            learning_rate_other=RATES["lr"],
            weight_decay_other=RATES["weight_decay"],
            patience=5,
            grad_clip=settings["gradient_clip"],
            update_epochs=4,
            early_stop=len(epochs) - 1,
            model_save_path=tmp_path / "model.pt",
        )
    )
    trainer.metrics = lambda pred, true: {}
    trainer.do_test = lambda *args, **more: {"Loss": 1.0}
    trainer.do_train(Named(theirs), {"train": Recorded(epochs, partial(sample_of, theirs)), "valid": None})

    after, largest = dict(theirs.named_parameters()), 0.0
    for (name, ours), start in zip(method.named_parameters(), before.parameters(), strict=True):
        found, expected = ours.detach(), after[short(name)].detach()
        assert not torch.equal(found, start)
        moved = expected - start.detach()
        if name.endswith("in_proj_bias"):
            # A bias of the keys shifts all scores alike: its gradient is rounding noise, which Adam makes full steps.
            found, expected, moved = (
                torch.cat([bias.chunk(3)[i] for i in (0, 2)]) for bias in (found, expected, moved)
            )
        largest = max(largest, float((found - expected).norm() / moved.norm()))
    assert largest < 0.02
    print(f"largest error, as a share of what training changed in a weight: {largest:.1e}")
