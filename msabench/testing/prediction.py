"""What a prediction must be, and what it may depend on."""

from __future__ import annotations

import copy
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from msabench.data.batch import Batch, stacked
from msabench.data.corpus import Corpus
from msabench.methods.base import MSAMethod, Output
from msabench.missingness.conditions import INTER, LETTERS, MODALITIES, Cell
from msabench.testing.corpora import data_module, random_corpus, with_other_content
from msabench.testing.subject import build, during, hold, losses, predict, training_batch

CELLS = (*INTER, *(Cell.parse(name) for name in ("intra/0.5", "intra/0.9", "intra/1.0", "inter/la+intra/0.3")))
"""Every subset of the modalities, and frames missing in all or some of them."""

MIXED = tuple(map(Cell.parse, ("inter/v", "inter/lav", "intra/0.5")))
"""Cells in which clips of a batch differ in what is there of them."""

CLOSE = 1e-5
"""Absolute difference that another order of summation may make in a prediction."""


def every_cell(cls: type[MSAMethod], folder: Path, task: str) -> None:
    """Predictions are finite, float32, and one per clip in every cell, whatever is missing."""
    data = data_module(random_corpus(task))
    method = build(cls, data)
    expected = (10, 4, 2) if task == "emotions" else (10,)
    for cell in CELLS:
        with during(f"cell {cell}"):
            pred = predict(method, data, cell)
            shape = tuple(pred.shape)
            hold(shape == expected, f"predictions of 10 clips have shape {shape}, expected {expected}; see to_pred")
            hold(pred.dtype == torch.float32, f"predictions are {pred.dtype}, expected float32")
            hold(torch.isfinite(pred).all(), f"{int((~torch.isfinite(pred)).sum())} predictions are not finite")


def sequences_of_length_one(cls: type[MSAMethod], folder: Path) -> None:
    """Clips of a single step are trained on and predicted; convolutions get kernels of one step."""
    smoke = cls.info.smoke
    data = data_module(random_corpus(steps=dict.fromkeys(MODALITIES, 1)))
    kernels = {key: 1 if isinstance(smoke[key], int) else [1] * 3 for key in smoke if "kernel" in key}
    with during("clips of one step"):
        method = build(cls, data, **kernels)
        losses(method, training_batch(method, data))
        hold(torch.isfinite(predict(method, data, Cell("av"))).all(), "predictions are not finite")


def order_of_clips(cls: type[MSAMethod], folder: Path) -> None:
    """The order of the clips in a batch means nothing."""
    data = data_module(random_corpus())
    method = build(cls, data).eval()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        batches = (data.validation_batch(rows, needs=method.data_needs) for rows in (torch.arange(8), order))
        in_file, shuffled = (method(batch.for_inference()).pred for batch in batches)
    gap = _gap(in_file[order], shuffled)
    hold(_close(in_file[order], shuffled), f"predictions move by {gap} with the order of the clips in a batch")


def batch_composition(cls: type[MSAMethod], folder: Path) -> None:
    """Predictions are the same each time, and whichever clips share a batch."""
    data = data_module(random_corpus())
    method = build(cls, data)
    for cell in MIXED:
        with during(f"cell {cell}"):
            together = predict(method, data, cell)
            again = predict(method, data, cell)
            hold(
                torch.equal(together, again),
                f"a second prediction differs by {_gap(together, again)}; an evaluation must not draw or remember",
            )
            for batch_size in (1, 3):
                apart = predict(method, data, cell, batch_size=batch_size)
                hold(
                    _close(together, apart),
                    f"predictions differ by {_gap(together, apart)} in batches of {batch_size}; no clip must "
                    "depend on those beside it",
                )


def removed_modality_tells_nothing(cls: type[MSAMethod], folder: Path, modality: str) -> None:
    """Without a modality its content, its lengths and its tokens change nothing."""
    corpus = random_corpus(steps={"text": 8, "audio": 11, "vision": 9})
    other = with_other_content(corpus, modality)
    method = build(cls, data_module(corpus))
    letters = "".join(letter for letter, known in LETTERS.items() if known != modality)
    for subset in (letters, *letters):
        cell = Cell(subset)
        before, after = predict(method, data_module(corpus), cell), predict(method, data_module(other), cell)
        hold(
            torch.equal(before, after),
            f"cell {cell}: predictions move by {_gap(before, after)} with {modality}, which is missing there",
        )
    _tells_nothing_in_other_kinds(method, corpus, other, modality)


def _tells_nothing_in_other_kinds(method: MSAMethod, corpus: Corpus, other: Corpus, modality: str) -> None:
    """Likewise where frames are dropped in other ways, values are changed, or chance removes it; all in one batch."""
    letters = "".join(letter for letter, known in LETTERS.items() if known != modality)
    noise = f"noise/{letters[-1]}=1.0"
    parts = ("aligned/0.5", "block/0.5", "block-aligned/0.5", noise, f"permute/{letters[0]}")
    cells = [Cell.parse(f"inter/{letters}+{part}") for part in parts]
    by_chance = [Cell.parse("random/0.6"), Cell.parse("random-table/0.4")]
    preds, lost = [], []
    method.eval()
    for clips in (corpus, other):
        data = data_module(clips)
        needs = method.data_needs
        whole = [
            batch for cell in (*cells, *by_chance) for batch in data.cell_batches(cell, 0, needs=needs, batch_size=96)
        ]
        with torch.no_grad():
            preds.append(method(stacked(*(batch.for_inference() for batch in whole))).pred)
        lost.append(torch.cat([~batch.observed[modality].any(1) for batch in whole]))
    # Whole conversations are read together, so that what others of it have may move a clip.
    rows = torch.zeros_like(lost[0]) if method.data_needs.conversations else lost[0].clone()
    rows[: len(rows) * len(cells) // (len(cells) + len(by_chance))] = True
    before, after = (pred[rows] for pred in preds)
    hold(
        _close(before, after),
        f"predictions move by {_gap(before, after)} with {modality}, which is missing there, in cells such as "
        f"{', '.join(map(str, (*cells, *by_chance)))}",
    )


def present_modality_is_read(cls: type[MSAMethod], folder: Path) -> None:
    """What is there moves predictions, for the modalities in ``info.reads`` and for no others."""
    corpus = random_corpus()
    method = build(cls, data_module(corpus))
    needs = method.info.needs
    for letter, modality in LETTERS.items():
        other = data_module(with_other_content(corpus, modality))
        for cell in (Cell(letter), Cell()):
            before, after = predict(method, data_module(corpus), cell), predict(method, other, cell)
            beside = cell == Cell() or not set(needs) - {modality}
            if modality in method.info.reads and beside:
                moved = not torch.allclose(before, after, atol=1e-6)
                hold(moved, f"cell {cell}: {modality} moves no prediction, and info.reads names it")
            else:
                because = f"info.needs names {', '.join(needs)}" if needs else "info.reads does not name it"
                hold(torch.equal(before, after), f"cell {cell}: {modality} moves predictions, and {because}")


def unobserved_frames(cls: type[MSAMethod], folder: Path) -> None:
    """What stands in the file at missing frames changes nothing."""
    corpus = random_corpus()
    data = data_module(corpus)
    cell = Cell.parse("intra/0.5")
    method = build(cls, data)
    before = predict(method, data, cell)
    masks = data.cell_masks(cell, 0)
    changed = copy.deepcopy(corpus)
    for modality in MODALITIES:
        changed.splits["test"].features[modality][~masks.observed[modality]] = 99.0
    after = predict(method, data_module(changed), cell)
    hold(torch.equal(before, after), f"cell {cell}: predictions move by {_gap(before, after)} with missing frames")


def evaluation_sees_no_training_information(cls: type[MSAMethod], folder: Path) -> None:
    """In validation, test and prediction ``forward`` gets no labels, index, complete features or views."""
    data = data_module(random_corpus())
    method = build(cls, data).eval()
    seen: list[Batch] = []
    original = cls.forward

    def spy(self: MSAMethod, batch: Batch) -> Output:
        seen.append(batch)
        return original(self, batch)

    with mock.patch.object(cls, "forward", spy):
        batch = data.validation_batch(torch.arange(8), needs=method.data_needs)
        method.validation_step(batch, 0)
        method.test_step(batch, 0, 0)
        method.predict_step(batch, 0)
    hold(len(seen) == 3, f"three evaluation steps called forward {len(seen)} times")
    for batch in seen:
        for name in ("labels", "index", "complete", "views"):
            hold(getattr(batch, name) is None, f"forward sees {name} in an evaluation")


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=CLOSE)


def _gap(one: Tensor, other: Tensor) -> str:
    return f"up to {(one - other).abs().max().item():.2g}"
