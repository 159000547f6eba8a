"""EMT-DLFR against its official code.

MSABENCH_PARITY_EMT_DLFR: clone of https://github.com/sunlicai/EMT-DLFR (e9f0960)
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.emt_dlfr import CONTEXT, EMTDLFR
from msabench.missingness.conditions import MODALITIES
from msabench.missingness.config import MissingConfig
from msabench.missingness.patterns import inner_steps
from msabench.testing.corpora import tokens_of
from msabench.training.config_files import config_of
from tests.parity.clones import clone, importing
from tests.parity.mmsa_trainer import Named, Recorded
from tests.parity.recorded import fit_recorded
from tests.support.golden_cases import CASES, Case, batch_of, build, kept, numbers
from tests.support.small_bert import save_small_bert

VARIABLE = "MSABENCH_PARITY_EMT_DLFR"
CONFIGS = Path(__file__).parents[2] / "configs"
THERE = {"text": "text", "audio": "audio", "vision": "video", CONTEXT: "gmc_tokens"}
# Ours -> theirs, of a model's settings.
SETTINGS = {
    "dim": "d_model",
    "layers": "fusion_layers",
    "heads": "heads",
    "hidden_audio": "a_lstm_hidden_size",
    "hidden_vision": "v_lstm_hidden_size",
    "out_audio": "audio_out",
    "out_vision": "video_out",
    "fusion_width": "post_fusion_dim",
    "context_width": "gmc_tokens_pred_dim",
    "width_text": "text_pred_dim",
    "width_audio": "audio_pred_dim",
    "width_vision": "video_pred_dim",
    "attn_dropout": "attn_dropout",
    "ff_dropout": "ff_dropout",
    "fusion_dropout": "post_fusion_dropout",
}
# The same, of the training.
RECIPE = {
    "lambda_attraction": "loss_attra_weight",
    "lambda_reconstruction": "loss_recon_weight",
    "text_lr": "learning_rate_bert",
    "audio_lr": "learning_rate_audio",
    "vision_lr": "learning_rate_video",
    "lr": "learning_rate_other",
    "text_weight_decay": "weight_decay_bert",
    "audio_weight_decay": "weight_decay_audio",
    "vision_weight_decay": "weight_decay_video",
    "weight_decay": "weight_decay_other",
    "accumulate": "update_epochs",
    "finetune": "use_finetune",
}
_UNIT = "fusion.mpus.0.0.0.layers.0."
PLACES = (
    (r"^(audio|vision)\.rnn\.", r"\1_model.rnn."),
    (r"^(audio|vision)\.linear\.", r"\1_model.linear_1."),
    (r"^project\.(text|audio|vision)\.", r"proj_\1."),
    (r"^unit\.norm_cross\.", _UNIT + "0.norm."),
    (r"^unit\.norm_source\.", _UNIT + "0.norm_context."),
    (r"^unit\.cross\.", _UNIT + "0.fn."),
    (r"^unit\.norm_self\.", _UNIT + "1.norm."),
    (r"^unit\.own\.", _UNIT + "1.fn."),
    (r"^unit\.norm_ff\.", _UNIT + "2.norm."),
    (r"^unit\.to_gate\.", _UNIT + "2.fn.net.0."),
    (r"^unit\.from_gate\.", _UNIT + "2.fn.net.2."),
    (r"^pool\.", "fusion.attn_pools.0.attention."),
    (r"^attraction\.(\w+)\.project\.", r"\1_projector.net.0."),
    (r"^attraction\.(\w+)\.norm_z\.", r"\1_projector.net.1."),
    (r"^attraction\.(\w+)\.narrow\.", r"\1_predictor.net.0."),
    (r"^attraction\.(\w+)\.norm_p\.", r"\1_predictor.net.1."),
    (r"^attraction\.(\w+)\.widen\.", r"\1_predictor.net.3."),
    (r"^generators\.", "recon_"),
    (r"^head\.0\.", "post_fusion_layer_1."),
    (r"^head\.2\.", "post_fusion_layer_2."),
    (r"^head\.4\.", "post_fusion_layer_3."),
    (r"^vision_", "video_"),
    (r"^context_", "gmc_tokens_"),
    (r"^(proj|recon)_vision\.", r"\1_video."),
)


def short(name: str) -> str:
    """Name there of one of our weights."""
    for pattern, replacement in PLACES:
        name = re.sub(pattern, replacement, name)
    return name


def einops() -> dict[str, ModuleType]:
    """Stands in for the library of that name, with the patterns of the official code."""
    patterns = {
        "b n (h d) -> (b h) n d": lambda x, h: x.unflatten(2, (h, -1)).transpose(1, 2).flatten(0, 1),
        "(b h) n d -> b n (h d)": lambda x, h: x.unflatten(0, (-1, h)).transpose(1, 2).flatten(2),
        "b ... -> b (...)": lambda x: x.flatten(1),
        "b j -> (b h) () j": lambda x, h: x.repeat_interleave(h, dim=0).unsqueeze(1),
    }
    modules: dict[str, Any] = {name: ModuleType(name) for name in ("einops", "einops.layers", "einops.layers.torch")}
    modules["einops"].rearrange = modules["einops"].repeat = lambda x, pattern, **of: patterns[pattern](x, **of)
    modules["einops.layers.torch"].Reduce = None
    return modules


class StatesOfVersion(nn.Module):
    """In place of BERT: the ids of a text are the number of its version."""

    def __init__(self, **_: object) -> None:
        super().__init__()
        self.states: list[Tensor] = []

    def forward(self, tokens: Tensor) -> Tensor:
        return self.states[int(tokens[0, 0, 0])]


_BARE = ("models", "models.missingTask", "models.subNets", "trains", "trains.missingTask", "config", "utils")


def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Their files of the network and of the trainer."""
    for name, module in einops().items():
        monkeypatch.setitem(sys.modules, name, module)
    with importing(clone(VARIABLE), *_BARE):
        network, trainer = (importlib.import_module(f"{kind}.missingTask.EMT_DLFR") for kind in ("models", "trains"))
    return network, trainer


def published(corpus: str) -> Any:
    """Their settings for a corpus."""
    asked = SimpleNamespace(modelName="emt-dlfr", datasetName=corpus, use_normalized_data=corpus == "sims")
    with importing(clone(VARIABLE), *_BARE):
        return importlib.import_module("config.config_regression").ConfigRegression(asked).get_config()


def official(
    case: Case, ours: nn.Module, monkeypatch: pytest.MonkeyPatch, encoder: type[nn.Module] | None = None
) -> Any:
    """Their network of a case with our weights, in evaluation mode."""
    network = modules(monkeypatch)[0]
    network.BertTextEncoder = encoder or StatesOfVersion
    settings = published("mosi")
    settings |= {SETTINGS[name]: value for name, value in case.settings.items() if name in SETTINGS}
    settings |= {"feature_dims": case.dims, "text_out": case.dims[0]}
    theirs = network.EMT_DLFR(settings).eval()
    state = {short(k): v for k, v in ours.state_dict().items() if not k.startswith("text.")}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith(("text_model.", "fusion.mpus.", "fusion.attn_pools.", "fusion.pos")) for name in missing)
    return theirs


def fresh(case: Case, **settings: Any) -> EMTDLFR:
    """The method as it is initialised, with no weight at a value that hides it."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        method = EMTDLFR(case.spec, **{**case.settings, **settings}).eval()
        for name, weight in method.named_parameters():
            if not name.startswith("text."):
                weight.add_((0.02 if weight.dim() > 1 else 0.1) * torch.randn_like(weight))
    return method


def training_batch(case: Case) -> Batch:
    """Clips of different lengths with their complete versions; one has no words, one has lost nothing, one all."""
    batch = batch_of(case)
    steps = case.spec.seq_lens
    last = {m: torch.tensor([steps[m] - 1, steps[m] // 3, steps[m] // 2, steps[m] - 2]) for m in MODALITIES}
    last["text"][1] = 1
    valid = {m: torch.arange(steps[m]) <= last[m].unsqueeze(1) for m in MODALITIES}
    features = {
        m: numbers((batch.size, steps[m], case.spec.feature_dims[m]), key) * 5 * valid[m].unsqueeze(2)
        for key, m in enumerate(MODALITIES, start=101)
    }
    observed = {m: valid[m] & (numbers(tuple(valid[m].shape), key) > -0.1) for key, m in enumerate(MODALITIES, start=7)}
    for m in MODALITIES:
        observed[m][3] = valid[m][3]
        observed[m][2] = False
    # As with words that are dropped as tokens, [CLS] and [SEP] stay.
    observed["text"] = observed["text"] | (valid["text"] & ~inner_steps(valid["text"]))
    complete = replace(batch, features=features, valid=valid, observed=valid, last=last)
    corrupted = {m: features[m] * observed[m].unsqueeze(2) for m in MODALITIES}
    labels = torch.linspace(-3, 3, batch.size)
    return replace(complete, features=corrupted, observed=observed, labels=labels, complete=complete)


def sample_of(theirs: Any, batch: Batch) -> dict[str, Any]:
    """A batch as their data loader gives it."""
    complete = batch.complete
    assert complete is not None
    theirs.text_model.states = [batch.text, complete.text]
    masks = {m: complete.valid[m].float() for m in MODALITIES}
    observed = {m: batch.observed[m].float() for m in MODALITIES}
    texts = [torch.full_like(masks["text"], version).unsqueeze(1).repeat(1, 3, 1) for version in range(2)]
    for text in texts:
        text[:, 1] = masks["text"]
    sample: dict[str, Any] = {"text": texts[1], "text_m": texts[0], "text_missing_mask": observed["text"]}
    for m in MODALITIES[1:]:
        sample |= {m: complete.features[m], f"{m}_m": batch.features[m], f"{m}_lengths": complete.last[m] + 1}
        sample |= {f"{m}_mask": masks[m], f"{m}_missing_mask": observed[m]}
    return {**sample, "labels": {"M": batch.labels}}


def run(theirs: Any, sample: Mapping[str, Any]) -> dict[str, Tensor]:
    streams = ((sample[m], sample[f"{m}_m"], sample[f"{m}_lengths"]) for m in MODALITIES[1:])
    found: dict[str, Tensor] = theirs((sample["text"], sample["text_m"]), *streams)
    return found


def difference(found: Tensor, expected: Tensor, within: float = 1e-5) -> float:
    torch.testing.assert_close(found, expected, atol=within, rtol=1e-5)
    return float((found - expected).detach().abs().max())


# Parameters without BERT.
SHAPES = {
    "mosi": ((768, 5, 20), (50, 375, 500), 2_322_779),
    "mosei": ((768, 74, 35), (50, 500, 500), 2_115_583),
    "sims": ((768, 33, 709), (39, 400, 55), 1_525_592),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", ["emt_dlfr_official", "emt_dlfr_official_narrow", *SHAPES])
def test_official_code_gives_the_same_numbers(shape: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both predictions, z and p, what is rebuilt, every term of the loss and all gradients; BatchNorm in both modes."""
    parameters = None
    if shape in SHAPES:
        there = published(shape)
        dims, steps, parameters = SHAPES[shape]
        case = Case("emt_dlfr", dims, steps, settings={name: there[key] for name, key in SETTINGS.items()})
    else:
        case = CASES[shape]
    case = replace(case, settings={**case.settings, **{f"{name}_dropout": 0.0 for name in ("attn", "ff", "fusion")}})
    ours = fresh(case, lambda_attraction=0.5, lambda_reconstruction=0.7)
    theirs = official(case, ours, monkeypatch).train(training)
    ours.train(training)
    if parameters:
        unique = {id(p): p.numel() for name, p in theirs.named_parameters()}
        assert sum(unique.values()) == parameters == sum(p.numel() for p in ours.parameters())
    batch = training_batch(case)
    sample = sample_of(theirs, batch)
    out, expected = ours.training_forward(batch), run(theirs, sample)
    terms = ours.loss(out, batch)

    pairs = {
        "pred": (out.pred, expected["pred_m"].squeeze(1)),
        "complete_pred": (out.aux["complete_pred"], expected["pred"].squeeze(1)),
    }
    for k, name in THERE.items():
        for letter in "zp":
            pairs[f"{letter}_{k}"] = (out.aux[f"{letter}_{k}"], expected[f"{letter}_{name}_m"])
            pairs[f"complete {letter}_{k}"] = (out.aux[f"complete_{letter}_{k}"], expected[f"{letter}_{name}"])
    for m in MODALITIES:
        rebuilt = expected[f"{THERE[m]}_recon"]
        pairs[f"rebuilt {m}"] = (out.aux[f"rebuilt_{m}"][:, : rebuilt.shape[1]], rebuilt)

    assert batch.labels is not None
    similarity = nn.CosineSimilarity(dim=1)
    error = modules(monkeypatch)[1].ReconLoss("SmoothL1Loss")
    attraction = -sum(
        (
            similarity(expected[f"p_{k}_m"], expected[f"z_{k}"]).mean()
            + similarity(expected[f"p_{k}"], expected[f"z_{k}_m"]).mean()
        )
        * 0.5
        for k in THERE.values()
    )
    longest = {m: int(sample[f"{m}_lengths"].max()) for m in MODALITIES[1:]}
    mask = sample["text"][:, 1, 1:] - sample["text_missing_mask"][:, 1:]
    rebuilding = {"text": error(expected["text_recon"], expected["text_for_recon"], mask)}
    for m, end in longest.items():
        mask = (sample[f"{m}_mask"] - sample[f"{m}_missing_mask"])[:, :end]
        rebuilding[m] = error(expected[f"{THERE[m]}_recon"], sample[m][:, :end], mask)
    complete = (expected["pred"].view(-1) - batch.labels).abs().mean()
    total = (expected["pred_m"].view(-1) - batch.labels).abs().mean()
    total = total + 0.5 * (attraction + complete) + 0.7 * sum(rebuilding.values())
    pairs["attraction loss"] = (terms["attraction"], 0.5 * attraction)
    pairs["complete loss"] = (terms["complete"], 0.5 * complete)
    for m in MODALITIES:
        pairs[f"reconstruction loss {m}"] = (terms[f"rec_{m}"], 0.7 * rebuilding[m])
    ours_total = torch.stack(list(terms.values())).sum()
    pairs["loss"] = (ours_total, total)

    ours_total.backward()
    total.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        expected_gradient = gradients[short(name)]
        scale = max(1.0, float(expected_gradient.abs().max()))
        pairs[f"gradient of {name}"] = (parameter.grad / scale, expected_gradient / scale)
    if training:
        state = theirs.state_dict()
        statistics = [name for name in ours.state_dict() if "running" in name]
        assert len(statistics) == 16
        pairs |= {name: (ours.state_dict()[name], state[short(name)]) for name in statistics}
    found = {name: difference(*pair) for name, pair in pairs.items()}
    worst = sorted(found, key=lambda name: -found[name])[:4]
    print(f"{shape}: pred {found['pred']:.0e};", ", ".join(f"{name} {found[name]:.1e}" for name in worst))


@pytest.mark.parametrize("name", ["emt_dlfr_official", "emt_dlfr_official_narrow"])
def test_what_is_kept_is_what_official_code_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, batch = CASES[name], batch_of(CASES[name])
    theirs = official(case, build(case), monkeypatch)
    context: list[Tensor] = []
    theirs.fusion.register_forward_hook(lambda _, __, out: context.append(out[0].flatten(1)))
    with torch.no_grad():
        pred = run(theirs, sample_of(theirs, replace(batch, complete=batch)))["pred_m"].squeeze(1)
    difference(kept(name)["pred"], pred)
    difference(kept(name)["representation"], context[1])


@pytest.mark.parametrize("training", [False, True])
def test_official_code_gives_the_same_numbers_from_tokens(
    training: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded clips of unequal length, complete and with [UNK], read through the same BERT on both sides."""
    import transformers

    no_dropout = {f"{name}_dropout": 0.0 for name in ("attn", "ff", "fusion")}
    case = replace(CASES["emt_dlfr_official"], settings={**CASES["emt_dlfr_official"].settings, **no_dropout})
    folder = save_small_bert(tmp_path, case.dims[0])
    ours = fresh(case, text_encoder=folder, finetune=True)
    bert = transformers.BertModel.from_pretrained(folder).eval()
    read = importing(clone(VARIABLE), "models", "models.subNets", "config")
    with read, monkeypatch.context() as patched:
        for kind in (transformers.BertModel, transformers.BertTokenizer):
            patched.setattr(kind, "from_pretrained", lambda *_, **__: bert)
        encoder = importlib.import_module("models.subNets.BertTextEncoder").BertTextEncoder
        theirs = official(case, ours, monkeypatch, encoder)
    assert theirs.text_model.use_finetune
    batch = replace(training_batch(case), text_level="tokens")
    assert batch.complete is not None
    lengths = batch.complete.last["text"] + 1
    tokens = tokens_of(lengths, case.steps[0], torch.Generator().manual_seed(0))
    corrupted = tokens.clone()
    corrupted[:, 0][batch.valid["text"] & ~batch.observed["text"]] = 100
    assert not torch.equal(tokens, corrupted)
    without = [{m: x for m, x in of.features.items() if m != "text"} for of in (batch, batch.complete)]
    complete = replace(batch.complete, tokens=tokens, text_level="tokens", features=without[1])
    sample = sample_of(theirs, batch)
    sample |= {"text": tokens.float(), "text_m": corrupted.float()}
    batch = replace(batch, tokens=corrupted, complete=complete, features=without[0])
    ours.train(training)
    theirs.train(training)
    for part in (ours.text, theirs.text_model):
        part.eval()
    with torch.no_grad():
        out, expected = ours.training_forward(batch), run(theirs, sample)
    difference(out.pred, expected["pred_m"].squeeze(1))
    difference(out.aux["complete_pred"], expected["pred"].squeeze(1))
    difference(out.aux["target_text"], expected["text_for_recon"])
    difference(out.aux["rebuilt_text"], expected["text_recon"])
    for k, name in THERE.items():
        difference(out.aux[f"p_{k}"], expected[f"p_{name}_m"])


def test_training_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs of six batches, in groups of four: two of each epoch are in no step."""
    settings = {**CASES["emt_dlfr_official"].settings, **{f"{n}_dropout": 0.0 for n in ("attn", "ff", "fusion")}}
    # Small rates: Adam makes full steps of the gradients that are rounding noise.
    rates = {"lr": 1e-4, "audio_lr": 2e-4, "vision_lr": 3e-4}
    rates |= {"weight_decay": 1e-3, "audio_weight_decay": 1e-2, "vision_weight_decay": 2e-3}
    # No rate at which a clip would lose a modality, the length of which officially stays.
    missing = MissingConfig(regime="intra", rate=(0.3, 0.3), lengths="keep")
    method, before, epochs = fit_recorded("emt_dlfr", settings, rates, tmp_path, epochs=2, missing=missing)
    spec = method.spec
    shapes = (tuple(of[m] for m in MODALITIES) for of in (spec.feature_dims, spec.seq_lens))
    theirs = official(Case("emt_dlfr", *shapes, settings=settings), before, monkeypatch)  # type: ignore[arg-type]
    given = published("mosi")
    given |= {RECIPE[name]: value for name, value in rates.items()}
    given |= {"train_mode": "regression", "device": "cpu", "gpu_ids": 0, "seed": 1, "seeds": [1], "num_seeds": 1}
    given |= {"early_stop": 1, "model_save_path": tmp_path / "model.pt"}
    trainer = modules(monkeypatch)[1].EMT_DLFR(given)
    trainer.metrics = lambda pred, true: {}
    trainer.do_test = lambda *args, **more: {"Loss": 1.0}  # the first epoch stays the best
    trainer.do_train(Named(theirs), {"train": Recorded(epochs, partial(sample_of, theirs)), "valid": None})

    after, largest = dict(theirs.named_parameters()), 0.0
    for (name, ours), start in zip(method.named_parameters(), before.parameters(), strict=True):
        found, expected = ours.detach(), after[short(name)].detach()
        assert not torch.equal(found, start), name
        largest = max(largest, float((found - expected).norm() / (expected - start.detach()).norm()))
    assert largest < 0.02
    print(f"largest error, as a share of what training changed in a weight: {largest:.1e}")


@pytest.mark.parametrize("corpus", ["mosi", "mosei", "sims"])
def test_configs_are_as_published(corpus: str) -> None:
    config, there = config_of(CONFIGS / f"emt_dlfr_{corpus}.yaml"), published(corpus)
    arguments = config["model"]["init_args"]
    expected = {ours: there[name] for ours, name in {**SETTINGS, **RECIPE}.items()}
    assert {name: arguments[name] for name in expected} == expected
    assert (config["data"]["batch_size"], config["early_stop"]) == (there["batch_size"], there["early_stop"])
    assert there["mpu_share"]
    assert there["modality_share"]
    assert there["layer_share"]
    assert (there["ff_expansion"], there["attn_act_fn"], there["emb_dropout"]) == (4, "tanh", 0.0)
