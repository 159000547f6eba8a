"""Tables as a truthful paper would print them, for tests of the audit."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msabench.data.registry import dataset_info
from msabench.metrics.functional import compute
from msabench.missingness.conditions import AVERAGES, INTER
from msabench.published.numbers import COLUMNS, Number

Floats = NDArray[np.float64]
INTER_COLUMNS = (*(str(cell) for cell in INTER), "avg_missing")
INTRA_COLUMNS = (*(f"intra/0.{tenth}" for tenth in range(10)), "avg_intra")

PRINTED_AS = {
    "acc2_neg_pos": "acc2_non0",
    "acc2_neg_nonneg": "acc2_has0",
    "f1_neg_pos": "f1_non0",
    "f1_neg_nonneg": "f1_has0",
}
"""Printed name -> key, where they differ."""


def number(value: float | str, **fields: str) -> Number:
    """One printed number; what is not named is of a plain table on CMU-MOSI."""
    protocol = "intra" if fields.get("cell", "inter/l").startswith("intra") else "inter"
    plain = dict.fromkeys(COLUMNS, "") | {
        **{"paper": "mine", "table": "1", "dataset": "mosi", "method": "ours", "variant": "default"},
        **{"protocol": protocol, "cell": "inter/l", "metric": "f1_neg_pos"},
    }
    return Number(**plain | fields | {"value": str(value)})


def labels_of(dataset: str) -> Floats:
    """Test labels with the corpus's class counts and magnitudes spread over its range."""
    counts = dataset_info(dataset).test_counts
    assert counts is not None
    below, zero, above = counts
    top = dataset_info(dataset).label_range[1]
    return np.concatenate([-np.linspace(0.1, top, below), np.zeros(zero), np.linspace(0.1, top, above)])


def answers(labels: Floats, hits: Sequence[float], rng: np.random.Generator) -> Floats:
    """Predictions with a given share of hits among negative, zero and positive clips; sizes are random.

    Whatever the shares, so is the confusion matrix.
    """
    sign = np.where(labels < 0, -1.0, 1.0)
    right = np.empty(len(labels), dtype=bool)
    for kind, share in zip((labels < 0, labels == 0, labels > 0), hits, strict=True):
        count = int(kind.sum())
        right[kind] = rng.permutation(count) < round(share * count)
    size = np.abs(labels + rng.normal(0, 0.5, len(labels))) + 0.01
    return np.where(right, sign, -sign) * size


def scores(dataset: str, runs: Iterable[Floats]) -> dict[str, float]:
    """Every metric of a corpus's set, averaged over runs, in print units."""
    info, labels = dataset_info(dataset), labels_of(dataset)
    found = [compute(info.metric_set, labels, preds) for preds in runs]
    means = {key: float(np.mean([values[key] for values in found])) for key in found[0]}
    return {key: value if key in ("mae", "corr") else 100 * value for key, value in means.items()}


def row(
    cells: dict[str, dict[str, float]],
    metrics: dict[str, str],
    *,
    decimals: int = 2,
    drop_zeros: bool = False,
    **fields: str,
) -> list[Number]:
    """A printed row with its average, which is taken before rounding.

    Args:
        cells: Cell -> metric key -> value.
        metrics: Printed name -> metric key.
        decimals: Decimal places of percent; MAE and correlation have one more.
        drop_zeros: Whether trailing zeros are dropped, as some papers do.
        fields: Further fields of the numbers.
    """
    average = next(name for name, of in AVERAGES.items() if str(of[1]) in cells)
    operands = [cell for cell in cells if average != "avg_missing" or cell != "inter/lav"]
    numbers = []
    for name, key in metrics.items():
        values = {cell: found[key] for cell, found in cells.items()}
        values[average] = float(np.mean([values[cell] for cell in operands]))
        for cell, value in values.items():
            text = f"{value:.{decimals + (key in ('mae', 'corr'))}f}"
            if drop_zeros and "." in text:
                text = text.rstrip("0").rstrip(".")
            protocol = {"avg_intra": "intra_mean"}.get(cell, "")
            extra = {"protocol": protocol} if protocol else {}
            numbers.append(number("0" if text == "-0" else text, cell=cell, metric=name, **extra, **fields))
    return numbers


def truthful(
    seed: int = 0, dataset: str = "mosi", methods: Sequence[str] = ("ours", "base"), **fields: str
) -> list[Number]:
    """A table of plausible methods in correct argument order: language helps, nothing collapses."""
    rng = np.random.default_rng(seed)
    labels = labels_of(dataset)
    metrics = {**PRINTED_AS, "acc7": "acc7", "acc5": "acc5", "mae": "mae", "corr": "corr"}
    numbers = []
    for strength, method in enumerate(reversed(methods)):
        cells = {}
        for cell in INTER_COLUMNS[:-1]:
            share = 0.62 + 0.03 * strength + (0.14 if "l" in cell.split("/")[1] else 0.0) + 0.03 * rng.random()
            cells[cell] = scores(dataset, [answers(labels, (share, 0.5, share + 0.02), rng) for _ in range(3)])
        numbers += row(cells, metrics, dataset=dataset, method=method, **fields)
    return numbers


def changed(numbers: Sequence[Number], value: float | str, **where: str) -> list[Number]:
    """The numbers with another value at every place that has these fields."""
    meant = [n for n in numbers if all(getattr(n, name) == wanted for name, wanted in where.items())]
    assert meant, where
    return [replace(n, value=str(value)) if n in meant else n for n in numbers]


def write(path: Path, numbers: Sequence[Number]) -> Path:
    """Write numbers as the CSV that the audit reads."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(file, COLUMNS)
        lines.writeheader()
        lines.writerows(asdict(n) for n in numbers)
    return path
