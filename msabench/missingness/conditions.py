"""Cells: the test situations that a method is evaluated in.

A cell is one value: which modalities are available, which of them are removed by chance, how frames are dropped, and
what is done to the values that are left. It parses from and prints to the form used in records and tables:
``inter/la``, ``intra/0.3``, ``inter/la+block/0.3``, ``random/0.5``. ``docs/protocol.md`` defines each kind.
``inter/lav`` and ``intra/0.0`` are the same situation and the same value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from msabench.errors import MSABenchError, nearest, one_of
from msabench.missingness import amounts

LETTERS = {"l": "text", "a": "audio", "v": "vision"}
"""Condition letter -> modality name, in the order of the field's tables."""

MODALITIES = tuple(LETTERS.values())
"""Names of the modalities, in that order."""

SUBSETS = ("l", "a", "v", "la", "lv", "av", "lav")
"""The seven non-empty sets of available modalities, in table order."""

MISSING_CONDITIONS = SUBSETS[:-1]
"""The six conditions that tables average over."""

LAWS = ("random", "random-table")
"""How whole modalities are removed by chance: each of two independently, or by a table. Never in one column."""

TENTHS = tuple(f"0.{tenth}" for tenth in range(1, 8))
"""Rates at which modalities are removed by chance. One always stays, so that 0.7 comes to 2/3."""

DROPS = ("intra", "aligned", "block", "block-aligned")
"""How frames are dropped: each by itself, in all modalities at once, in one run a clip, or in one run at once."""

MOST_NOISE = 10
"""Largest multiple of a feature's standard deviation that noise may have."""

KINDS = (
    *("inter", "intra", "random", "random-table", "rates", "aligned", "block", "block-aligned"),
    *("noise", "words", "permute", "both", "combined"),
)
"""Kinds of cells in table order. ``rates`` has a rate for each modality, ``both`` is ``inter`` with ``intra``, and
``combined`` is any other combination."""

_FIELDS = {
    **{"inter": "available", "noise": "noise", "words": "words", "permute": "permuted"},
    **dict.fromkeys(LAWS, "removal"),
    **dict.fromkeys(DROPS, "rate"),
}
"""What stands before a slash -> the field that it gives."""

_FORMS = (
    f"inter/<{'|'.join(SUBSETS)}>, intra/<rate in [0, 1]> or intra/l=<rate>,a=<rate>, random/<0.1 to 0.7>, "
    "random-table/<0.1 to 0.7>, aligned/<rate>, block/<rate>, block-aligned/<rate>, noise/<standard deviations>, "
    "words/<rate>, permute/<l|a|v>, or several joined by + such as inter/<letters>+intra/<rate>"
)


@dataclass(frozen=True)
class Cell:
    """One test situation. Equal situations are equal values, whatever they were made from.

    Attributes:
        available: Letters of the available modalities, one of ``SUBSETS``.
        rate: Probability in [0, 1] that a frame of an available modality is dropped, or share that a run has, as a
            decimal string in its shortest form with at least one decimal place (``"0.0"``, ``"0.3"``, ``"0.25"``), so
            that no rounding enters the name; for ``intra`` also a rate for each modality, ``"l=0.2,a=0.5"``.
        drop: How frames are dropped, one of ``DROPS``; ``intra`` where none or all are.
        removal: Law and rate by which modalities are removed by chance, ``"random/0.3"``; empty for none.
        noise: Standard deviation of noise added to features, in standard deviations of each feature, in [0, 10]; or
            one for each modality, ``"a=0.5,v=0.5"``.
        words: Probability in [0, 1] that a word is replaced by another.
        permuted: Letter of the modality that clips exchange; empty for none.
    """

    available: str = "lav"
    rate: str = "0.0"
    drop: str = "intra"
    removal: str = ""
    noise: str = "0.0"
    words: str = "0.0"
    permuted: str = ""

    def __post_init__(self) -> None:
        if self.available not in SUBSETS:
            raise one_of("modality condition", self.available, SUBSETS)
        if self.drop not in DROPS:
            raise one_of("way of dropping frames", self.drop, DROPS)
        rate = amounts.amount(self.rate, self.available, "missing rate")
        if self.drop != "intra" and "=" in rate:
            raise MSABenchError(f"{self.drop}/{rate} is not allowed; {self.drop} takes one rate for all modalities")
        # A modality that loses every frame is not there.
        there = "".join(letter for letter in self.available if amounts.of(rate, letter) < 1) or self.available
        rate = amounts.amount(_only(rate, there), there, "missing rate")
        self._set(
            available=there,
            rate=rate,
            drop="intra" if rate in ("0.0", "1.0") else self.drop,
            removal=_removal(self.removal),
            noise=amounts.amount(self.noise, there, "noise", MOST_NOISE),
            words=amounts.decimal(self.words, "share of words"),
        )
        for problem in self._problems():
            raise MSABenchError(f"cell {self} is not allowed; {problem}")

    def _set(self, **values: str) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _problems(self) -> Iterable[str]:
        if self.permuted not in ("", *LETTERS):
            yield f"clips exchange one modality: {', '.join(LETTERS)}"
        if self.rate == "1.0" and (self.removal or self.alters):
            yield "it drops every frame, so that nothing else can be done to them"
        if self.removal and self.available != "lav":
            yield f"{self.law} leaves one of three modalities at least, so that all of them must be available"
        if self.removal and self.permuted:
            yield f"with permute, {self.law} could leave a clip without any modality"
        if self.words != "0.0" and "l" not in self.available:
            yield "there are no words where text is not available"
        if self.words != "0.0" and amounts.of(self.noise, "l"):
            yield "words are token ids, to which no noise can be added; name the others, e.g. noise/a=0.5,v=0.5"
        if self.permuted and self.permuted not in self.available:
            yield f"{self.permuted} is not available, so that it cannot be exchanged"

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Read a cell name.

        Args:
            text: ``inter/<letters>``, ``intra/<rate>``, another kind of ``docs/protocol.md``, or several joined by
                ``+`` such as ``inter/<letters>+intra/<rate>``.

        Raises:
            MSABenchError: The name has another form, unknown letters, a number out of its range, or parts that cannot
                go together.
        """
        fields: dict[str, str] = {}
        given: dict[str, str] = {}
        for part in text.split("+"):
            kind, slash, value = part.partition("/")
            name = _FIELDS.get(kind)
            if name is None or not slash or not value or given.get(name) == kind:
                close = nearest(text, [*map(str, (*INTER, *INTRA))])
                raise MSABenchError(
                    f"unknown cell {text!r}; allowed: {_FORMS}" + (f"; did you mean {close}?" if close else "")
                )
            if name in given:
                raise MSABenchError(f"cell {text!r} is not allowed; {given[name]} and {kind} cannot go together")
            given[name] = kind
            fields[name] = part if kind in LAWS else value
            if kind in DROPS:
                fields["drop"] = kind
        return cls(**fields)

    def __str__(self) -> str:
        return "+".join(self._parts()) or "inter/lav"

    def _parts(self) -> list[str]:
        parts = {
            f"inter/{self.available}": self.available != "lav",
            self.removal: self.removal,
            f"{self.drop}/{self.rate}": self.rate != "0.0",
            f"noise/{self.noise}": self.noise != "0.0",
            f"words/{self.words}": self.words != "0.0",
            f"permute/{self.permuted}": self.permuted,
        }
        return [part for part, is_there in parts.items() if is_there]

    @property
    def kind(self) -> str:
        """What is done to clips in it, one of ``KINDS``."""
        parts = self._parts()
        if len(parts) > 1:
            return "both" if self == Cell(self.available, self.rate) and "=" not in self.rate else "combined"
        return "rates" if "=" in self.rate else (parts or ["inter"])[0].partition("/")[0]

    @property
    def extent(self) -> str:
        """What stands behind the slash of a cell of one kind, ``0.3`` of ``random/0.3``; of others the last part's."""
        return str(self).rpartition("/")[2]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the available modalities, in the order text, audio, vision."""
        return tuple(name for letter, name in LETTERS.items() if letter in self.available)

    @property
    def law(self) -> str:
        """Law by which modalities are removed by chance, one of ``LAWS``; empty for none."""
        return self.removal.partition("/")[0]

    @property
    def removal_rate(self) -> Fraction:
        """Share of (clip, modality) pairs that its name says are removed by chance, in [0, 0.7]."""
        return Fraction(self.removal.partition("/")[2] or 0)

    @property
    def alters(self) -> bool:
        """Whether frames that are left have other values than in the file, so that masks do not say it all."""
        return self.noise != "0.0" or self.words != "0.0" or bool(self.permuted)

    @property
    def is_random(self) -> bool:
        """Whether what a method sees depends on a mask seed."""
        return self.rate not in ("0.0", "1.0") or bool(self.removal) or self.alters

    @property
    def threshold(self) -> int:
        """``ceil(rate * 2**24)`` of the most dropped modality, in [0, 2**24]."""
        return max(self.thresholds)

    @property
    def thresholds(self) -> tuple[int, int, int]:
        """``ceil(rate * 2**24)`` of text, audio, vision: frames whose 24-bit draw is below it are dropped."""
        text, audio, vision = (amounts.threshold(amounts.of(self.rate, letter)) for letter in LETTERS)
        return text, audio, vision

    @property
    def sort_key(self) -> tuple[int, tuple[Fraction, ...], int, str]:
        """Key that orders cells as tables do: by kind (``KINDS``), then by how much is done, then by modalities."""
        return (KINDS.index(self.kind), self._extent, SUBSETS.index(self.available), str(self))

    @property
    def _extent(self) -> tuple[Fraction, ...]:
        if self.kind in (*LAWS, "words"):
            return (Fraction(self.extent),)
        if self.kind == "permute":
            return (Fraction(list(LETTERS).index(self.permuted)),)
        return tuple(amounts.of(self.noise if self.kind == "noise" else self.rate, letter) for letter in LETTERS)

    def __lt__(self, other: Cell) -> bool:
        return self.sort_key < other.sort_key


def _only(rate: str, letters: str) -> str:
    """A rate without what it says of other modalities than these."""
    return rate if "=" not in rate else ",".join(part for part in rate.split(",") if part[0] in letters) or "0.0"


def _removal(text: str) -> str:
    law, _, rate = text.partition("/")
    if not text:
        return ""
    if law not in LAWS:
        raise one_of("law of missing modalities", law, LAWS)
    rate = amounts.decimal(rate, f"rate of {law}")
    if rate == "0.0":
        return ""
    if rate not in TENTHS:
        raise one_of(f"rate of {law}", rate, TENTHS)
    return f"{law}/{rate}"


def _named(*names: str) -> tuple[Cell, ...]:
    return tuple(map(Cell.parse, names))


INTER = tuple(Cell(subset) for subset in SUBSETS)
INTRA = tuple(Cell("lav", f"0.{tenth}") for tenth in range(10))
_RANDOM, _TABLE = (tuple(Cell(removal=f"{law}/{rate}") for rate in TENTHS) for law in LAWS)
_ALIGNED, _BLOCK, _BLOCK_ALIGNED = (tuple(Cell("lav", cell.rate, drop) for cell in INTRA[1:]) for drop in DROPS[1:])

GRIDS: dict[str, tuple[Cell, ...]] = {
    "inter": INTER,
    "intra": INTRA,
    "paper": INTER + INTRA,
    "random": (Cell(), *_RANDOM),
    "random-table": (Cell(), *_TABLE),
    "aligned": (Cell(), *_ALIGNED),
    "block": (Cell(), *_BLOCK),
    "block-aligned": (Cell(), *_BLOCK_ALIGNED),
    "noise": (Cell(), *_named("noise/0.25", "noise/0.5", "noise/1.0", "noise/2.0")),
    "words": (Cell(), *_named("words/0.1", "words/0.3", "words/0.5")),
    "stress": _named(
        *("inter/lav", "inter/av", "intra/0.5", "random/0.5", "random-table/0.5", "intra/l=0.8", "aligned/0.5"),
        *("block/0.5", "block-aligned/0.5", "noise/a=1.0,v=1.0", "permute/l", "permute/a", "permute/v"),
        *("inter/la+block/0.5", "random/0.3+intra/0.3"),
    ),
}
"""Named grids as lists of columns. ``paper`` has 17 columns and 16 distinct cells. Everything in ``stress`` goes at
either level of the text."""

AVERAGES: dict[str, tuple[Cell, ...]] = {
    "avg_missing": tuple(cell for cell in INTER if cell.available in MISSING_CONDITIONS),
    "avg_intra": INTRA,
    "avg_intra_to_1": (*INTRA[1:], Cell.parse("intra/1.0")),
    "avg_random": _RANDOM,
    "avg_random_table": _TABLE,
    "avg_aligned": _ALIGNED,
    "avg_block": _BLOCK,
    "avg_block_aligned": _BLOCK_ALIGNED,
}
"""Average -> the cells it is taken over: the six missing-modality conditions, the ten rates 0.0 to 0.9, and the rates
0.1 to 1.0 that FSRF averages over; of the others the rates without the complete situation, each law and each way of
dropping by itself."""


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
