"""What MMSA's MFN and Graph-MFN share: names, a loader that brings all modalities to the text's steps, a trainer."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.missingness.conditions import MODALITIES
from tests.parity.clones import clone, importing
from tests.parity.mmsa_single import model_class, trainer_module
from tests.parity.recorded import fit_recorded
from tests.support.golden_cases import Case

MODEL = {"mfn": "MFN", "graph_mfn": "Graph_MFN"}
_HIDDEN = {"NN1": "attend", "NN2": "propose", "NN": "propose", "gamma1": "retain", "gamma2": "update", "out": "out"}
_NAMES = {
    "attend.fc": "att1_fc",
    "memory.propose.fc": "att2_fc",
    "memory.retain.fc": "gamma1_fc",
    "memory.update.fc": "gamma2_fc",
    "output.fc": "out_fc",
    "graph.nodes.top.0": "graph_mfn.t_network.0",
    "graph.nodes.top.1": "graph_mfn.t_network.1.0",
    "graph.efficacies.0": "graph_mfn.efficacy_model.0",
    "graph.efficacies.1": "graph_mfn.efficacy_model.1.0",
    "graph.efficacies.2": "graph_mfn.efficacy_model.2",
}
_NODES = {"la": (0, 1), "lv": (0, 2), "av": (1, 2), "lav": (0, 1, 2)}
for node, key in _NODES.items():
    _NAMES |= {f"graph.nodes.{node}.0": f"{key}.0", f"graph.nodes.{node}.1": f"{key}.1.0"}
for number, (modality, letter) in enumerate(zip(MODALITIES, "lav", strict=True)):
    _NAMES |= {f"lstms.{number}.": f"lstm_{letter}.", f"lstms.{modality}.": f"lstm_{letter}."}
    _NAMES[f"singles.{modality}."] = f"{letter}_transform."


def short_name(name: str) -> str:
    """Name there of one of our weights."""
    name = name.removeprefix("encoder.").removesuffix("_l0")
    (ours,) = (prefix for prefix in _NAMES if name.startswith(prefix))
    return _NAMES[ours] + name.removeprefix(ours)


def weights(theirs: nn.Module) -> dict[str, Tensor]:
    """All of MMSA's weights, those in the graph's plain dictionary included."""
    found = dict(theirs.named_parameters())
    if hasattr(theirs, "graph_mfn"):
        for key, network in theirs.graph_mfn.networks.items():  # type: ignore[union-attr, operator]
            found |= {f"{key}.{name}": value for name, value in network.named_parameters()}
    return found


def mmsa(case: Case, ours: nn.Module) -> Any:
    """MMSA's model with our weights, in evaluation mode."""
    chosen = case.settings
    settings = {
        f"{theirs}Config": {"shapes": chosen[f"{name}_width"], "drop": chosen.get(f"{name}_dropout", 0.0)}
        for theirs, name in _HIDDEN.items()
        if f"{name}_width" in chosen
    }
    theirs = model_class(MODEL[case.method])(
        SimpleNamespace(
            device="cpu",
            feature_dims=list(case.dims),
            hidden_dims=[chosen[f"hidden_{m}"] for m in MODALITIES],
            memsize=chosen["memory"],
            windowsize=2,
            inner_node_dim=chosen.get("node_width"),
            train_mode="regression",
            **settings,
        )
    ).eval()
    values = {short_name(name): value for name, value in ours.state_dict().items()}
    there = weights(theirs)
    assert values.keys() == there.keys()
    with torch.no_grad():
        for name, value in values.items():
            there[name].copy_(value)
    return theirs


def loaded(case: Case, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Text, audio and vision as they come to MMSA's model: averaged or not, then brought to one length."""
    audio, vision = batch.audio, batch.vision
    if case.settings.get("av_time_average", False):
        audio, vision = audio.mean(1, keepdim=True), vision.mean(1, keepdim=True)
    align = _aligner()(
        SimpleNamespace(feature_dims=list(case.dims), seq_lens=[x.shape[1] for x in (batch.text, audio, vision)]),
        "avg_pool",
    )
    brought: tuple[Tensor, Tensor, Tensor] = align(batch.text, audio, vision)
    assert all(x.shape[1] == batch.text.shape[1] for x in brought)
    return brought


def _aligner() -> Any:
    with importing(clone("MSABENCH_PARITY_MMSA") / "src", "MMSA", "MMSA.models", "MMSA.models.subNets"):
        return importlib.import_module("MMSA.models.subNets.AlignNets").AlignSubNet


class _Replay:
    """Its train loader: the recorded epochs, one after the other."""

    def __init__(self, case: Case, epochs: list[list[Batch]]) -> None:
        self.case, self.epochs, self.batches = case, iter(epochs), len(epochs[0])

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in next(self.epochs):
            inputs = dict(zip(MODALITIES, loaded(self.case, batch), strict=True))
            yield {**inputs, "labels": {"M": batch.labels}}


def assert_same_training(case: Case, untrained: tuple[str, ...], folder: Path) -> float:
    """Three epochs of six batches give the same weights, ours trained through data module, base and trainer.

    Args:
        case: Method and settings, without dropout.
        untrained: How the names of weights begin that keep their values; all others must change.
        folder: For the trainers.

    Returns:
        The largest difference between weights.
    """
    rates = {"lr": 2e-3, "weight_decay": 5e-3}
    method, before, epochs = fit_recorded(case.method, case.settings, rates, folder)
    dims = method.spec.feature_dims
    case = replace(case, dims=(dims["text"], dims["audio"], dims["vision"]))
    theirs = mmsa(case, before)
    settings = SimpleNamespace(
        train_mode="regression",
        dataset_name="mosi",
        model_name=case.method,
        device="cpu",
        KeyEval="Loss",
        cur_seed=1,
        early_stop=len(epochs) - 1,
        model_save_path=folder / "model.pt",
        learning_rate=rates["lr"],
        weight_decay=rates["weight_decay"],
    )
    name = MODEL[case.method]
    trainer = getattr(trainer_module(name), name)(settings)
    trainer.do_test = lambda *_, **__: {"Loss": 1.0}
    trainer.do_train(theirs, {"train": _Replay(case, epochs), "valid": None})
    after, start, largest = weights(theirs), before.state_dict(), 0.0
    for key, value in method.state_dict().items():
        expected = after[short_name(key)].detach()
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=0)
        assert torch.equal(value, start[key]) == key.startswith(untrained or ("-",)), key
        largest = max(largest, float((value - expected).abs().max()))
    return largest
