"""Cells: the test situations that a method is evaluated in.

A cell is one value: which modalities are available, and with which probability each frame of them is dropped.
It parses from and prints to the form used in records and tables: ``inter/la``, ``intra/0.3``, ``inter/la+intra/0.3``.
``inter/lav`` and ``intra/0.0`` are the same situation and the same value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from msabench.errors import MSABenchError, nearest, one_of

LETTERS = {"l": "text", "a": "audio", "v": "vision"}
"""Condition letter -> modality name, in the order of the field's tables."""

MODALITIES = tuple(LETTERS.values())
"""Names of the modalities, in that order."""

SUBSETS = ("l", "a", "v", "la", "lv", "av", "lav")
"""The seven non-empty sets of available modalities, in table order."""

MISSING_CONDITIONS = SUBSETS[:-1]
"""The six conditions that tables average over."""

_RATE = re.compile(r"0(?:\.[0-9]{1,6})?|1(?:\.0{1,6})?")


@dataclass(frozen=True)
class Cell:
    """One test situation.

    Attributes:
        available: Letters of the available modalities, one of ``SUBSETS``.
        rate: Probability in [0, 1] that a frame of an available modality is dropped, as a decimal string in its
            shortest form with at least one decimal place (``"0.0"``, ``"0.3"``, ``"0.25"``), so that equal cells
            are equal values and no rounding enters the name.
    """

    available: str = "lav"
    rate: str = "0.0"

    def __post_init__(self) -> None:
        if self.available not in SUBSETS:
            raise one_of("modality condition", self.available, SUBSETS)
        if not isinstance(self.rate, str) or not _RATE.fullmatch(self.rate):
            raise MSABenchError(
                f"missing rate {self.rate!r} is not allowed; give a decimal number in [0, 1] with at most six places"
            )
        whole, _, places = self.rate.partition(".")
        object.__setattr__(self, "rate", f"{whole}.{places.rstrip('0') or '0'}")

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read a cell name.

        Args:
            text: ``inter/<letters>``, ``intra/<rate>`` or ``inter/<letters>+intra/<rate>``.

        Raises:
            MSABenchError: The name has another form, unknown letters, or a rate outside [0, 1].
        """
        fields: dict[str, str] = {}
        for part in text.split("+"):
            kind, slash, value = part.partition("/")
            if kind not in ("inter", "intra") or not slash or not value or kind in fields:
                close = nearest(text, [*map(str, (*INTER, *INTRA))])
                raise MSABenchError(
                    f"unknown cell {text!r}; allowed: inter/<{'|'.join(SUBSETS)}>, intra/<rate in [0, 1]>, "
                    "or inter/<letters>+intra/<rate>" + (f"; did you mean {close}?" if close else "")
                )
            fields[kind] = value
        return cls(fields.get("inter", "lav"), fields.get("intra", "0.0"))

    def __str__(self) -> str:
        if self.rate == "0.0":
            return f"inter/{self.available}"
        if self.available == "lav":
            return f"intra/{self.rate}"
        return f"inter/{self.available}+intra/{self.rate}"

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the available modalities, in the order text, audio, vision."""
        return tuple(name for letter, name in LETTERS.items() if letter in self.available)

    @property
    def is_random(self) -> bool:
        """Whether the cell's masks depend on a mask seed."""
        return self.rate not in ("0.0", "1.0")

    @property
    def threshold(self) -> int:
        """``ceil(rate * 2**24)``: frames whose 24-bit draw is below it are dropped. In [0, 2**24]."""
        scaled = Fraction(self.rate) * 2**24
        return -(-scaled.numerator // scaled.denominator)

    @property
    def sort_key(self) -> tuple[int, Fraction, int]:
        """Key that orders cells as tables do: inter cells, then intra by rate, then combinations."""
        kind = 0 if self.rate == "0.0" else 1 if self.available == "lav" else 2
        return (kind, Fraction(self.rate), SUBSETS.index(self.available))

    def __lt__(self, other: Cell) -> bool:
        return self.sort_key < other.sort_key


INTER = tuple(Cell(subset) for subset in SUBSETS)
INTRA = tuple(Cell("lav", f"0.{tenth}") for tenth in range(10))
GRIDS: dict[str, tuple[Cell, ...]] = {"inter": INTER, "intra": INTRA, "paper": INTER + INTRA}
"""Named grids as lists of columns. ``paper`` has 17 columns and 16 distinct cells."""

AVERAGES: dict[str, tuple[Cell, ...]] = {
    "avg_missing": tuple(cell for cell in INTER if cell.available in MISSING_CONDITIONS),
    "avg_intra": INTRA,
    "avg_intra_to_1": (*INTRA[1:], Cell.parse("intra/1.0")),
}
"""Average -> the cells it is taken over: the six missing-modality conditions, the ten rates 0.0 to 0.9, and the rates
0.1 to 1.0 that FSRF averages over."""


def parse_grid(names: str | Iterable[str]) -> tuple[Cell, ...]:
    """Expand a grid name, a cell name, or a list of them into columns, in the order given.

    Returns:
        The cells; a cell may occur twice (``inter/lav`` and ``intra/0.0`` are both columns of ``paper``).

    Raises:
        MSABenchError: A name is neither a grid nor a cell, or the list is empty.
    """
    cells: list[Cell] = []
    for name in [names] if isinstance(names, str) else names:
        cells.extend(GRIDS[name] if name in GRIDS else [_cell_or_grid(name)])
    if not cells:
        raise MSABenchError(f"the grid is empty; allowed: {', '.join(GRIDS)}, or cells such as inter/la or intra/0.3")
    return tuple(cells)


def _cell_or_grid(name: str) -> Cell:
    if "/" not in name:
        raise one_of("grid", name, [*GRIDS, "or cells such as inter/la and intra/0.3"])
    return Cell.parse(name)


def distinct(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """The distinct cells of a grid in table order."""
    return tuple(sorted(set(cells)))


def checked_mask_seeds(mask_seeds: Iterable[int]) -> tuple[int, ...]:
    """Mask seeds that a grid can be evaluated with.

    Raises:
        MSABenchError: There is none, or one is repeated or negative.
    """
    seeds = tuple(mask_seeds)
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise MSABenchError(f"mask seeds {list(seeds)} are not allowed; give one or more distinct numbers from 0 on")
    return seeds
