"""EMOE against its official code. MSABENCH_PARITY_EMOE: clone of https://github.com/fuyyyyy/EMOE (c4759c7)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.emoe import EMOE
from msabench.missingness.conditions import MODALITIES
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus
from tests.parity.clones import clone, importing
from tests.parity.mmsa_single import GivenText
from tests.support.golden_cases import CASES, Case, batch_of, build, kept

GOLDEN = ("emoe_official", "emoe_official_unaligned")
CASE = CASES["emoe_official"]
# Their router has 196 million weights for CMU-MOSI.
_SMALL = {"router_width": 32, "layers": 4, "dim": 256, "heads": 8}
_KERNELS = {f"kernel_size_{m}": 5 for m in MODALITIES}
SHAPES = {
    **{name: CASES[name] for name in GOLDEN},
    "joined": replace(CASE, settings={**CASE.settings, "fusion": "concat"}),
    # As wide as the text: no projection of it.
    "not projected": Case("emoe", (12, 5, 7), (9, 9, 9), settings={"dim": 12, "heads": 3, "layers": 1}),
    "mosi": Case("emoe", (768, 5, 20), (50, 50, 50), settings=_SMALL | _KERNELS),
    "sims": Case("emoe", (768, 33, 709), (39, 400, 55), settings=_SMALL | _KERNELS),
}
DROPOUTS = (
    *("attn_dropout", "attn_dropout_a", "attn_dropout_v"),
    *(f"{part}_dropout" for part in ("relu", "embed", "res", "output", "text")),
)
LETTERS = dict(zip("lav", MODALITIES, strict=True))
UNUSED = ("encoder_l.", "encoder_a.", "encoder_v.", "transfer_", "proj_")


def short_name(name: str) -> str:
    """Name there of one of our weights."""
    for letter, m in LETTERS.items():
        for ours, theirs in {
            f"align.{m}.": f"transfer_{letter}_ali.",
            f"project.{m}.conv.": f"proj_{letter}.",
            f"experts.{m}.": f"self_attentions_{letter}.",
            f"predict.{m}.proj1.": f"proj1_{letter}.",
            f"predict.{m}.proj2.": f"proj2_{letter}.",
            f"predict.{m}.out_layer.": f"out_layer_{letter}.",
            "predict_joint.proj1.": "proj1_c.",
            "predict_joint.proj2.": "proj2_c.",
            "predict_joint.out_layer.": "out_layer_c.",
            "router.": "Router.",
            "encode.": "encoder_c.",
        }.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
    raise KeyError(name)


def official(case: Case, ours: nn.Module) -> Any:
    """Their model with our weights, of the lengths of the case."""
    with importing(clone("MSABENCH_PARITY_EMOE"), "trains", "trains.singleTask"):
        module: Any = importlib.import_module("trains.singleTask.model.emoe")
        positions: Any = importlib.import_module("trains.subNets.transformers_encoder.position_embedding")
    # Recent PyTorch wants the index contiguous before it is flattened.
    looked_up = positions.make_positions
    positions.make_positions = lambda *a: looked_up(*a).contiguous()
    module.BertTextEncoder = GivenText
    made = module.router
    module.router = lambda *_: None
    chosen = case.settings
    theirs = module.EMOE(
        SimpleNamespace(
            use_bert=True,
            use_finetune=True,
            transformers="bert",
            pretrained="",
            dataset_name="mosi",
            need_data_aligned=len(set(case.steps)) == 1,
            dst_feature_dim_nheads=[chosen["dim"], chosen["heads"]],
            nlevels=chosen["layers"],
            feature_dims=list(case.dims),
            attn_mask=True,
            fusion_method=chosen.get("fusion", "sum"),
            temperature=0.1,
            **{f"conv1d_kernel_size_{letter}": chosen.get(f"kernel_size_{m}", 1) for letter, m in LETTERS.items()},
            **dict.fromkeys(DROPOUTS, 0.0),
        )
    )
    # What has the lengths of CMU-MOSI in their code.
    text, audio, vision = case.steps
    theirs.transfer_a_ali, theirs.transfer_v_ali = nn.Linear(audio, text), nn.Linear(vision, text)
    inputs = text * sum(case.dims)
    if "router_width" in chosen:
        theirs.Router = made(16, 3, 0.1)
        theirs.Router.l1 = nn.Linear(inputs, chosen["router_width"])
        theirs.Router.l2 = nn.Linear(chosen["router_width"], 3)
    else:
        theirs.Router = made(inputs, 3, 0.1)
    state = {short_name(name): value for name, value in ours.state_dict().items()}
    state["encoder_c.weight"] = state["encoder_c.weight"].unsqueeze(2)
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith(UNUSED) or name.endswith(("version", "_float_tensor")) for name in missing)
    return theirs


def run(theirs: Any, batch: Batch) -> dict[str, Tensor]:
    theirs.text_model.states = batch.text
    return theirs(batch.text, batch.audio, batch.vision)


@pytest.mark.parametrize("shape", SHAPES)
def test_official_code_gives_the_same_numbers(shape: str) -> None:
    case = SHAPES[shape]
    ours = build(case)
    theirs = official(case, ours).eval()
    batch = batch_of(case)
    with torch.no_grad():
        expected, out = run(theirs, batch), ours(batch)
    pairs = {
        "logits_c": out.pred[:, None],
        "channel_weight": out.aux["weights"],
        "c_proj": out.aux["joint"],
        "c_fea": out.representation,
    }
    for i, letter in enumerate("lva"):
        pairs[f"logits_{letter}"] = out.unimodal[LETTERS[letter]][:, None]
        pairs[f"{letter}_proj"] = out.aux["experts"][:, i]
    for name, value in pairs.items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=0)
    print(f"{shape}: {max(float((value - expected[name]).abs().max()) for name, value in pairs.items()):.1e}")
    if shape in GOLDEN:
        torch.testing.assert_close(kept(shape)["pred"], expected["logits_c"].squeeze(1), atol=1e-5, rtol=0)
        torch.testing.assert_close(kept(shape)["representation"], expected["c_fea"], atol=1e-5, rtol=0)


class Replay:
    """Their loader: recorded batches, an epoch at a time."""

    def __init__(self, epochs: list[list[Batch]], theirs: Any, label: float = 1.0) -> None:
        self.epochs, self.theirs, self.label = iter(epochs), theirs, label
        self.size = len(epochs[0])

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in next(self.epochs):
            self.theirs.text_model.states = batch.text
            streams = {m: batch.features[m] for m in MODALITIES}
            yield {**streams, "labels": {"M": batch.labels * self.label}}


def official_trainer(rate: float, **settings: Any) -> Any:
    """Their trainer with SGD and without a schedule, metrics or a progress bar."""
    bare = ("trains", "trains.singleTask", "trains.utils")
    with importing(clone("MSABENCH_PARITY_EMOE"), *bare):
        helpers: Any = sys.modules["trains.utils"]
        sys.modules["pynvml"] = ModuleType("pynvml")
        functions = importlib.import_module("trains.utils.functions")
        for name in ("dict_to_str", "eva_imp", "uni_distill", "entropy_balance"):
            setattr(helpers, name, getattr(functions, name))
        helpers.MetricsTop = lambda mode: SimpleNamespace(getMetics=lambda dataset: lambda pred, true: {})
        module: Any = importlib.import_module("trains.singleTask.EMOE")
        del sys.modules["pynvml"]
    # Adam makes steps of one size out of gradients that are 0 but for rounding.
    module.optim = SimpleNamespace(Adam=lambda params, lr: torch.optim.SGD(params, lr=rate))
    module.ReduceLROnPlateau = lambda *_, **__: SimpleNamespace(step=lambda loss: None)
    return module.EMOE(
        SimpleNamespace(
            train_mode="regression",
            dataset_name="mosi",
            device="cpu",
            KeyEval="Loss",
            learning_rate=rate,
            patience=5,
            model_name="emoe",
            cur_seed=1,
            **settings,
        )
    )


@pytest.mark.parametrize("fusion", ["sum", "concat"])
def test_official_code_trains_to_the_same_weights(fusion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs of six batches, a step after the fourth, two left over."""
    data = data_module(random_corpus(), batch_size=4)
    steps, dims = data.spec.seq_lens, data.spec.feature_dims
    sizes = {"dim": 12, "heads": 3, "layers": 1, "fusion": fusion}
    off = {name: 0.0 for name in EMOE.__init__.__kwdefaults__ if "dropout" in name}
    rate, epochs = 0.02, 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method, before = (EMOE(data.spec, **sizes, **off, lr=rate, accumulate=4) for _ in range(2))
    before.load_state_dict(method.state_dict())
    method.optimizer_class = torch.optim.SGD  # type: ignore[assignment]
    seen: list[Batch] = []
    forward = method.training_forward
    method.training_forward = lambda batch: (seen.append(batch), forward(batch))[1]  # type: ignore[method-assign]
    quiet_trainer(tmp_path, epochs).fit(method, datamodule=data)
    assert len(seen) == 6 * epochs

    case = Case("emoe", tuple(dims[m] for m in MODALITIES), tuple(steps[m] for m in MODALITIES), settings=sizes)
    theirs = official(case, before)
    passes = [seen[start : start + 6] for start in range(0, len(seen), 6)]
    # Without a validation loss no epoch is the best one, and they stop after ``early_stop`` of them.
    never = [[seen[0]]] * epochs
    loaders = {"train": Replay(passes, theirs), "test": Replay(never, theirs)}
    loaders["valid"] = Replay(never, theirs, label=float("nan"))
    (tmp_path / "pt").mkdir()
    monkeypatch.chdir(tmp_path)
    official_trainer(rate, early_stop=epochs, update_epochs=4, fusion_method=fusion).do_train(theirs, loaders)
    after, start = dict(theirs.named_parameters()), dict(before.named_parameters())
    largest = moved = 0.0
    for name, parameter in method.named_parameters():
        expected = after[short_name(name)].reshape(parameter.shape)
        torch.testing.assert_close(parameter, expected, atol=1e-5, rtol=0)
        largest = max(largest, float((parameter - expected).detach().abs().max()))
        moved = max(moved, float((parameter - start[name]).detach().abs().max()))
    assert moved > 0.01
    print(f"training with {fusion}: {largest:.1e}, moved by {moved:.1e}")
