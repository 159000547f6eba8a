"""What a result table is made of, as data. Free of torch and pandas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from msabench.metrics.spec import MetricSpec
from msabench.missingness.conditions import (
    AVERAGES,
    GRIDS,
    INTER,
    INTRA,
    LAWS,
    MISSING_CONDITIONS,
    TENTHS,
    Cell,
    parse_grid,
)

CONSTANT = "constant"
"""The method that stands first in every table: what a constant answer scores."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: Cell name or key of an average (``avg_missing``, ``avg_intra``), as in summaries.
        header: What to print, e.g. ``la``, ``0.3``, ``avg``.
        block: Columns of one block stand together: a key of ``BLOCKS``.
    """

    key: str
    header: str
    block: str


_LAWS = {
    "random": "share of modalities removed by chance: one stays, each of two others goes by itself (GCNet's law)",
    "random-table": "share of modalities removed by chance: one stays, two others go by DiCMoR's table",
}
_ROUNDED = "0.7 comes to 2/3, since one always stays"

BLOCKS = {
    "inter": "available modalities",
    "intra": "share of frames dropped in every modality",
    **{law: f"{meaning}; {_ROUNDED}" for law, meaning in _LAWS.items()},
    "rates": "share of frames dropped in each modality",
    "aligned": "share of steps dropped, the same ones in all modalities",
    "block": "share of frames dropped in one run in every modality",
    "block-aligned": "share of steps dropped in one run, the same one in all modalities",
    "noise": "noise on every feature, in its standard deviations",
    "words": "share of words replaced by others",
    "permute": "modality that test clips exchange",
    "both": "available modalities and share of frames dropped in them",
    "combined": "several at once, by the cell's name; random/0.7 comes to 2/3",
}
"""Block -> what its headers mean. They are the kinds of cells."""

AVERAGE_COLUMNS = {
    "inter": Column("avg_missing", "avg", "inter"),
    "intra": Column("avg_intra", "mean", "intra"),
    **{
        kind: Column(f"avg_{kind.replace('-', '_')}", f"mean {kind}", kind)
        for kind in ("random", "random-table", "aligned", "block", "block-aligned")
    },
}
"""Block -> the average at its end, where all of its cells are columns."""

AVERAGE_MEANINGS = {
    "avg_missing": f"avg = mean over {', '.join(MISSING_CONDITIONS)}",
    "avg_intra": "mean = mean over the rates 0.0 to 0.9",
    **{
        column.key: f"{column.header} = mean over the rates {AVERAGES[column.key][0].extent} to "
        f"{AVERAGES[column.key][-1].extent}, the complete situation apart"
        for column in AVERAGE_COLUMNS.values()
        if column.block not in ("inter", "intra")
    },
}

_PARTS = {name: ((name, cells),) for name, cells in GRIDS.items() if name in BLOCKS} | {
    "paper": (("inter", INTER), ("intra", INTRA))
}


def columns_of(grid: list[str]) -> tuple[Column, ...]:
    """Columns of a grid: its cells block by block, then the block's average if all cells of it are there.

    Args:
        grid: Names of grids (``msabench.missingness.conditions.GRIDS``) and cells. ``paper`` gives 17 columns and two
            averages.

    Raises:
        MSABenchError: A name is neither a grid nor a cell, or there is none.
    """
    parse_grid(grid)
    found: dict[Column, None] = {}
    for name in grid:
        # inter/lav is a column of every block that it begins, under its own header; so is intra/0.0 by name.
        named = [(name.partition("/")[0], cell) for cell in parse_grid(name) if "/" in name and cell == Cell()]
        parts = [(block, cell) for block, cells in _PARTS.get(name, ()) for cell in cells]
        by_kind = [(cell.kind, cell) for cell in parse_grid(name)]
        found.update(dict.fromkeys(_column(cell, block) for block, cell in parts or named or by_kind))
    columns: list[Column] = []
    for block in BLOCKS:
        here = [column for column in found if column.block == block]
        average = AVERAGE_COLUMNS.get(block)
        if average is not None and set(map(str, AVERAGES[average.key])) <= {column.key for column in here}:
            here.append(average)
        columns.extend(here)
    return tuple(columns)


def _column(cell: Cell, block: str) -> Column:
    if block == "inter":
        header = cell.available
    elif block == "both":
        header = f"{cell.available} {cell.rate}"
    elif block == "combined":
        header = str(cell)
    elif cell == Cell():
        header = "0.0"
    else:
        header = cell.extent
    if block in LAWS and header == TENTHS[-1]:
        header += " (2/3)"
    return Column(str(cell), header, block)


@dataclass(frozen=True)
class Entry:
    """One number of a table.

    Attributes:
        mean: Mean over training seeds, unrounded and in natural scale; NaN if undefined for any seed.
        std: Standard deviation over training seeds (ddof = 1); NaN for one seed.
        n_seeds: Training seeds it is taken over.
        n_mask_seeds: Times the test masks were drawn per training seed; 0 in cells without random masks.
        n_collapsed: Training seeds whose predictions collapsed, see ``metrics.functional.is_collapsed``.
        unseen: Whether it rests on modalities alone that no training clip had; of averages, any part of it.
        interval: Lower and upper bound, see ``results.intervals``; None if not asked for.
    """

    mean: float
    std: float
    n_seeds: int
    n_mask_seeds: int
    n_collapsed: int
    unseen: bool = False
    interval: tuple[float, float] | None = None


@dataclass
class Row:
    """One row: a method under one configuration.

    Attributes:
        method: Method name.
        method_version: Version of its computation.
        variant: ``default`` or a named variant.
        regime: Training regime.
        config_hash: Hash of its configuration.
        seed: Training seed if each seed is a row; None for means over seeds.
        fidelity: The method's fidelity, see ``MethodInfo``; ``unknown`` if the method is not registered, ``scored`` if
            its predictions were made elsewhere.
        n_seeds: Training seeds with records, in whichever cells.
        marks: What else tells the row from others of the same method, variant and regime: version, config hash.
        entries: Column key -> number; a key that is absent has no records.
        failures: Errors of failed jobs, one line each.
        origin: ``JobKey.origin``: empty for what msabench trained, ``external`` for predictions made elsewhere.
        tuning: ``JobKey.tuning``: empty for the settings of a config, e.g. ``tuned(50, random, seed 1)`` otherwise.
    """

    method: str
    method_version: int
    variant: str
    regime: str
    config_hash: str
    seed: int | None
    fidelity: str
    n_seeds: int = 0
    marks: tuple[str, ...] = ()
    entries: dict[str, Entry] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    origin: str = ""
    tuning: str = ""

    @property
    def name(self) -> str:
        """Method with variant, e.g. ``prlf/step=1``."""
        return self.method if self.variant == "default" else f"{self.method}/{self.variant}"

    @property
    def label(self) -> str:
        """Name with tuning and marks, e.g. ``prlf/step=1``, ``umdf tuned(50, random, seed 1)``, ``umdf #1a2b3c4d``."""
        return " ".join([self.name, *([self.tuning] if self.tuning else []), *self.marks])

    def runs(self, columns: Sequence[Column]) -> str:
        """Training seeds x test masks of some columns: ``3x2``; ``3x1-2`` if columns differ; ``3`` without holes."""
        return self.runs_of(self.entries.get(column.key) for column in columns)

    def runs_of(self, entries: Iterable[Entry | None]) -> str:
        """Training seeds x test masks of some numbers, as ``runs`` has them."""
        drawn = {entry.n_mask_seeds for entry in entries if entry is not None} - {0}
        masks = "-".join(map(str, sorted({min(drawn), max(drawn)}))) if drawn else ""
        return f"{self.n_seeds}x{masks}" if masks else str(self.n_seeds)


@dataclass
class Table:
    """One table: one corpus, one protocol, one metric.

    Attributes:
        dataset: Corpus name.
        title: The corpus's name to print.
        caveat: What must be said about the corpus; may be empty.
        protocol: Field of ``aggregate.PROTOCOL`` -> value, shared by all rows.
        metric: The metric.
        metric_set: The metric set that defines it.
        columns: Columns in order.
        rows: Rows in order.
        notes: Sentences to print below.
        warnings: Sentences among ``notes`` that must be said wherever its numbers are shown.
        tuned_left_out: Methods whose tuned rows are left out although nobody asked for that, see ``tuned.Shown``.
    """

    dataset: str
    title: str
    caveat: str
    protocol: dict[str, str]
    metric: MetricSpec
    metric_set: str
    columns: tuple[Column, ...]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tuned_left_out: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """Corpus and metric, e.g. ``CMU-MOSI: F1 (non-0) [f1_non0], percent``."""
        unit = ", percent" if self.metric.percent else ""
        return f"{self.title}: {self.metric.title} [{self.metric.key}]{unit}"

    @property
    def protocol_text(self) -> str:
        """The protocol in words."""
        return protocol_text(self.protocol)


def protocol_text(protocol: Mapping[str, str]) -> str:
    """A protocol in words.

    Args:
        protocol: Field of ``aggregate.PROTOCOL`` -> value.
    """
    p = protocol
    fill = f" (fill {p['token_fill']})" if p["token_fill"] else ""
    lengths = {
        "hide": "a removed modality is hidden with its length",
        "keep": "a removed modality shows its length",
    }.get(p["lengths"], f"lengths {p['lengths']}")
    selection = {
        "val": "selected on validation",
        "test_best": "SELECTED ON TEST (test_best; measures how much that flatters)",
    }.get(p["selection"], f"selection {p['selection']}")
    return (
        f"{p['dataset']}, revision {p['revision']}, features {p['features']}; "
        f"text dropped at level {p['level']}{fill}; {lengths}; {selection}"
    )


def failures_in(rows: Sequence[Row]) -> list[str]:
    """What failed, as a sentence; nothing if nothing did."""
    failed = [line for row in rows for line in row.failures]
    return [f"Failed jobs (left out of means): {'; '.join(failed)}."] if failed else []
