"""What MMSA's TFN and LMF share: one small network per modality, and a trainer that differs in its optimiser only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from tests.parity.mmsa_single import model_class, trainer_module
from tests.parity.recorded import fit_recorded
from tests.support.golden_cases import Case, batch_of, build, kept


def mmsa(case: Case, ours: nn.Module) -> nn.Module:
    """MMSA's model with our weights, in evaluation mode; our eight logits are eight classes there."""
    chosen = case.settings
    theirs = model_class(case.method.upper())(
        SimpleNamespace(
            feature_dims=list(case.dims),
            hidden_dims=[chosen["hidden_text"], chosen["hidden_audio"], chosen["hidden_vision"]],
            text_out=chosen.get("out_text"),
            post_fusion_dim=chosen.get("fusion_width"),
            rank=chosen.get("rank", 3),
            dropouts=[0.0, 0.0, 0.0, 0.0],
            train_mode="classification" if case.task == "emotions" else "regression",
            num_classes=8,
        )
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    return theirs


def pooled(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Text, audio and vision as its loader gives them: means over all stored steps, with an axis of one step."""
    return batch.text, batch.audio.mean(1, keepdim=True), batch.vision.mean(1, keepdim=True)


def compared(case: Case) -> tuple[Any, Batch, dict[str, Tensor], float]:
    """Predictions and the codes of all modalities agree.

    Returns:
        Our method, a batch, MMSA's outputs for it, and the largest difference.
    """
    ours, batch = build(case), batch_of(case)
    theirs = mmsa(case, ours)
    with torch.no_grad():
        expected = theirs(*pooled(batch))
        pairs = [
            (ours(batch).pred.flatten(1 if case.task == "emotions" else 0), expected["M"]),
            (ours.audio_subnet(batch.audio), expected["Feature_a"]),
            (ours.video_subnet(batch.vision), expected["Feature_v"]),
            (ours.text_subnet(batch.text), expected["Feature_t"]),
        ]
    for found, there in pairs:
        torch.testing.assert_close(found, there.view_as(found), atol=1e-5, rtol=0)
    return ours, batch, expected, max(float((found - there.view_as(found)).abs().max()) for found, there in pairs)


def assert_kept(name: str, expected: dict[str, Tensor]) -> None:
    """The stored predictions of a golden case are MMSA's."""
    pred = kept(name)["pred"]
    torch.testing.assert_close(pred, expected["M"].view_as(pred), atol=1e-5, rtol=0)


class _Replay:
    """Its train loader: the recorded epochs, one after the other."""

    def __init__(self, epochs: list[list[Batch]]) -> None:
        self.epochs = iter(epochs)
        self.batches = len(epochs[0])

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for batch in next(self.epochs):
            text, audio, vision = pooled(batch)
            yield {"text": text, "audio": audio, "vision": vision, "labels": {"M": batch.labels}}


def assert_same_training(
    case: Case, rates: dict[str, float], their_rates: dict[str, float], untrained: set[str], folder: Path
) -> float:
    """Three epochs of six batches give the same weights, ours trained through data module, base and trainer.

    Args:
        case: Method and settings, without dropout.
        rates: Of our optimiser.
        their_rates: The same in MMSA's words.
        untrained: Weights that keep their values; all others must change.
        folder: For the trainers.

    Returns:
        The largest difference between weights or running statistics.
    """
    method, before, epochs = fit_recorded(case.method, case.settings, rates, folder)
    dims = method.spec.feature_dims
    theirs = mmsa(replace(case, dims=(dims["text"], dims["audio"], dims["vision"])), before)
    settings = SimpleNamespace(
        train_mode="regression",
        dataset_name="mosi",
        model_name=case.method,
        device="cpu",
        KeyEval="Loss",
        cur_seed=1,
        early_stop=len(epochs) - 1,
        model_save_path=folder / "model.pt",
        **their_rates,
    )
    name = case.method.upper()
    trainer = getattr(trainer_module(name), name)(settings)
    trainer.do_test = lambda *_, **__: {"Loss": 1.0}
    trainer.do_train(theirs, {"train": _Replay(epochs), "valid": None})
    after, start, largest = theirs.state_dict(), before.state_dict(), 0.0
    for key, value in method.state_dict().items():
        torch.testing.assert_close(value, after[key], atol=1e-5, rtol=0)
        assert torch.equal(value, start[key]) == (key in untrained), key
        largest = max(largest, float((value - after[key]).abs().max()))
    return largest
