"""Self-MM against MMSA. MSABENCH_PARITY_MMSA: clone of https://github.com/thuiar/MMSA (a94e65d)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from msabench.data.batch import Batch
from msabench.losses.pseudo_labels import PseudoLabels, pseudo_label_loss
from tests.parity.mmsa_trainer import (
    BRANCHES,
    assert_same_outputs,
    assert_same_training,
    head_name,
    head_settings,
    model_class,
    run,
    trainer_class,
    trainer_settings,
)
from tests.support.golden_cases import CASES, Case, batch_of, build, kept, numbers

CASE = CASES["self_mm_mmsa"]
MOSI = {"hidden_audio": 16, "hidden_vision": 32, "out_audio": 16, "out_vision": 32, "fusion_width": 128}
SIMS = {**MOSI, "hidden_vision": 64, "width_text": 64}
SHAPES = {
    "golden": CASE,
    "mosi": Case("self_mm", (768, 5, 20), (50, 375, 500), settings={**MOSI, "width_text": 32}),
    "sims": Case("self_mm", (768, 33, 709), (39, 400, 55), settings=SIMS),
}
REST = {"width_audio": 16, "width_vision": 32}


def official(case: Case, ours: nn.Module) -> nn.Module:
    """Their model with our weights."""
    chosen = {**REST, **case.settings}
    sizes = {"text_out": case.dims[0], "audio_out": chosen["out_audio"], "video_out": chosen["out_vision"]}
    settings = {**head_settings(chosen), **sizes, "feature_dims": list(case.dims)}
    theirs = model_class("SELF_MM")(SimpleNamespace(**settings)).eval()
    theirs.load_state_dict({short_name(key): value for key, value in ours.named_parameters()})
    return theirs


def short_name(name: str) -> str:
    """Name there of one of our weights."""
    for ours, there in {"audio": "audio_model", "vision": "video_model"}.items():
        name = name.replace(f"{ours}.rnn", f"{there}.rnn") if name.startswith(ours) else name
        name = name.replace(f"{ours}.linear", f"{there}.linear_1") if name.startswith(ours) else name
    return head_name(name)


def with_lengths(batch: Batch) -> Batch:
    """The same clips, all but the first one ending early."""
    last = {m: torch.tensor([steps - 1, 0, steps // 2, steps - 2]) for m, steps in lengths_of(batch).items()}
    return replace(batch, last=last)


def lengths_of(batch: Batch) -> dict[str, int]:
    return {m: mask.shape[1] for m, mask in batch.valid.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_mmsa_gives_the_same_numbers(shape: str) -> None:
    case = SHAPES[shape]
    ours = build(case)
    theirs = official(case, ours)
    for batch in (batch_of(case), with_lengths(batch_of(case))):
        with torch.no_grad():
            expected = run(theirs, batch)
        difference = assert_same_outputs(expected, ours, batch)
        print(f"{shape}: {difference:.1e}")
    if shape == "golden":
        with torch.no_grad():
            expected = run(theirs, batch_of(case))
        golden = kept("self_mm_mmsa")
        torch.testing.assert_close(golden["pred"], expected["M"].squeeze(1), atol=1e-5, rtol=0)
        torch.testing.assert_close(golden["representation"], expected["Feature_f"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("zero_is_positive", [False, True])
@pytest.mark.parametrize("name", ["SELF_MM", "TETFN"])
def test_three_epochs_of_two_batches_give_the_same_labels_and_centres(name: str, zero_is_positive: bool) -> None:
    widths = {"joint": 8, "text": 6, "audio": 5, "vision": 4}
    clips, batches = 11, (torch.tensor([3, 0, 7, 10, 5, 1]), torch.tensor([9, 2, 8, 6, 4]))
    labels = (numbers((clips,), 3) * 6).round(decimals=1)
    labels[4] = 0.0
    theirs = trainer_class(name)(trainer_settings(clips, widths, H=3.0))
    theirs.args.excludeZero = not zero_is_positive
    ours = PseudoLabels(clips, widths, bound=3.0, zero_is_positive=zero_is_positive)
    for index in batches:
        theirs.init_labels(index, labels[index])
    for epoch in (1, 2, 3):
        for number, index in enumerate(batches):
            drawn = {
                branch: (numbers((len(index), width), 100 * epoch + 10 * number + key) + labels[index, None] / 9).relu()
                for key, (branch, width) in enumerate(widths.items())
            }
            current = ours.labels_of(index, labels[index])
            for branch, labels_now in current.items():
                scores = drawn[branch][:, 0]
                expected = theirs.weighted_loss(scores, theirs.label_map[branch][index], indexes=index, mode=branch)
                assert torch.equal(pseudo_label_loss(scores, labels_now, labels[index]), expected)
            features = [drawn[branch] for branch in widths]
            if epoch > 1:
                theirs.update_labels(*features, epoch, index, None)
            theirs.update_features(*features, index)
            theirs.update_centers()
            ours.update(index, drawn)
            for branch, there in BRANCHES.items():
                memory = ours.branches[branch]
                assert torch.equal(memory.features, theirs.feature_map[there])
                # Clips that we have not seen yet have no part in our centres; nothing reads those of theirs.
                if epoch > 1 or number == 1:
                    assert torch.equal(memory.labels, theirs.label_map[there])
                    assert torch.equal(memory.positive, theirs.center_map[there]["pos"])
                    assert torch.equal(memory.negative, theirs.center_map[there]["neg"])
    assert not torch.allclose(ours.branches["text"].labels, labels, atol=0.1)


def test_training_gives_the_same_weights_and_labels(tmp_path: Path) -> None:
    difference = assert_same_training("SELF_MM", CASE, official, short_name, tmp_path)
    print(f"weights after training: {difference:.1e}")
