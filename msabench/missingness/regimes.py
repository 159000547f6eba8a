"""The training regimes: how training clips lose modalities and frames. Free of torch.

A regime of msabench is a list of cases of equal probability. A case says which modalities are available and whether
frames are dropped. A regime from outside is a function of uniform numbers (``RegimeInfo``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from msabench.errors import MSABenchError, one_of
from msabench.missingness import amounts
from msabench.missingness.conditions import LAWS, MISSING_CONDITIONS, SUBSETS, TENTHS, Cell
from msabench.plugins import IMPORT_PATH, Found, Outside

if TYPE_CHECKING:
    from msabench.missingness.config import MissingConfig

GROUP = "msabench.regimes"
"""Group of entry points."""

MOST_DRAWS = 64
"""Uniform numbers that a clip may have under a regime from outside."""


@dataclass(frozen=True)
class Cases:
    """The cases of a regime, all of equal probability.

    Attributes:
        available: Letters of the modalities that are there, by case.
        drops: Whether frames are dropped, by case.
        rate: Lowest and highest rate of a drop, in [0, 1].
        per_modality: Whether each modality has a rate of its own.
        coins: Whether a coin decides for each modality that its frames are dropped, in place of ``drops``.
        distinct_views: Whether two views of a clip never are the same pattern without a drop.
        drop: How frames are dropped, one of ``conditions.DROPS``.
        thresholds: ``ceil(rate * 2**24)`` of text, audio, vision where they are fixed; in place of ``rate``.
        removal: Law, lowest and highest rate by which whole modalities are removed; in place of ``available``.
    """

    available: tuple[str, ...] = ("lav",)
    drops: tuple[bool, ...] = (False,)
    rate: tuple[float, float] = (0.0, 0.0)
    per_modality: bool = False
    coins: bool = False
    distinct_views: bool = False
    drop: str = "intra"
    thresholds: tuple[int, int, int] | None = None
    removal: tuple[str, Fraction, Fraction] | None = None

    def repeats(self, case: int) -> tuple[int, int]:
        """First and number of the cases that are the same pattern as a case; they stand side by side."""
        if not self.distinct_views or self.drops[case]:
            return 0, 0
        same = [
            other
            for other, letters in enumerate(self.available)
            if letters == self.available[case] and not self.drops[other]
        ]
        return same[0], len(same)


@dataclass(frozen=True)
class BuiltIn:
    """A regime of msabench.

    Attributes:
        description: What a clip sees in training.
        cases: Its cases under some settings; raises MSABenchError where they mean nothing.
        label: What it is called under them in the key of a job; None for its name.
        example: Settings that it needs, beside those that may stay as they are.
    """

    description: str
    cases: Callable[[MissingConfig], Cases]
    label: Callable[[MissingConfig], str] | None = None
    example: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RegimeInfo:
    """A regime from outside msabench. Written as a literal, so that it can be listed without importing its file.

    Attributes:
        name: Its name, small letters, digits and ``_``.
        description: What a clip sees in training, in some words.
        draw: The function that draws, ``my_package.module:function``. It takes float64 ``(N, draws)`` in [0, 1), a row
            of uniform numbers for each clip, and returns which modalities the clips keep, bool ``(N, 3)``, at least one
            each, and at which rate their frames are dropped, float ``(N, 3)`` in [0, 1]; columns are text, audio,
            vision. A clip's rows must follow from its own numbers alone. Tensors are on the CPU.
        draws: Uniform numbers of a clip, 1 to ``MOST_DRAWS``.
        version: Raised whenever it draws in another way; old records stay and are not mixed with new ones.

    Raises:
        MSABenchError: A value is not allowed.
    """

    name: str
    description: str
    draw: str
    draws: int = 8
    version: int = 1

    def __post_init__(self) -> None:
        if not IMPORT_PATH.fullmatch(self.draw):
            raise MSABenchError(f"draw {self.draw!r} is not allowed; give a function, my_package.module:function")
        if not 1 <= self.draws <= MOST_DRAWS:
            raise MSABenchError(f"draws {self.draws} is not allowed; give a number from 1 to {MOST_DRAWS}")
        if self.version < 1:
            raise MSABenchError(f"version {self.version} is not allowed; give a number from 1 on")

    @property
    def label(self) -> str:
        """What it is called in the key of a job; no regime of msabench is called so."""
        return f"external({self.name})" if self.version == 1 else f"external({self.name},v{self.version})"


def _range(config: MissingConfig) -> str:
    low, high = config.rate
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


def _drop_label(config: MissingConfig) -> str:
    low, high = config.rate
    return f"{config.regime}({_range(config)}{'' if low == high else f',{config.per}'})"


def _removal(config: MissingConfig) -> Cases:
    """Whole modalities by a law, which its regime is called after."""
    law = config.regime.replace("_", "-")
    low, high = (Fraction(str(rate)) for rate in config.rate)
    if law != LAWS[0] and (low != high or str(float(low)) not in TENTHS):
        raise MSABenchError(
            f"missing rate range {list(config.rate)} is not allowed under regime {config.regime}; give the same rate "
            f"twice, one of {', '.join(TENTHS)}"
        )
    if high > Fraction(TENTHS[-1]):
        raise MSABenchError(
            f"missing rate range {list(config.rate)} is not allowed under regime {config.regime}; give rates up to "
            f"{TENTHS[-1]}, e.g. [0.3, 0.3] or [0, {TENTHS[-1]}], since one modality always stays"
        )
    return Cases(removal=(law, low, high))


def _removal_label(config: MissingConfig) -> str:
    return f"{config.regime.replace('_', '-')}({_range(config)})"


def _only(config: MissingConfig) -> Cases:
    if config.only is None or config.only not in MISSING_CONDITIONS:
        raise one_of("what regime only keeps (data.missing.only)", config.only or "", MISSING_CONDITIONS)
    return Cases((config.only,))


def _fixed_rates(config: MissingConfig) -> Cases:
    if config.rates is None or "=" not in config.rates:
        raise MSABenchError(
            f"rates {config.rates!r} are not allowed under regime per_modality; give data.missing.rates, e.g. "
            "l=0.2,a=0.5, or the regime intra for one rate"
        )
    cell = Cell(rate=config.rates)
    return Cases((cell.available,), drops=(True,), thresholds=cell.thresholds)


def _rates_label(config: MissingConfig) -> str:
    rates = amounts.amount(config.rates or "", SUBSETS[-1], "missing rate")
    return f"per-modality({rates})"


def _inter(config: MissingConfig) -> Cases:
    subsets = SUBSETS if config.subsets == "all" else MISSING_CONDITIONS
    return Cases(subsets, (False,) * len(subsets))


_MIXED = Cases(
    ("lav",) * 12 + MISSING_CONDITIONS, (False,) * 6 + (True,) * 6 + (False,) * 6, (0.1, 0.9), distinct_views=True
)
_MIXED_FSRF = Cases(
    tuple(subset for subset in SUBSETS for _ in range(2)), (False, True) * len(SUBSETS), (0.0, 0.9), distinct_views=True
)

BUILT_IN: dict[str, BuiltIn] = {
    "complete": BuiltIn("everything", lambda config: Cases()),
    "intra": BuiltIn(
        "every frame dropped with a rate: fixed, or uniform in a range, per clip or per clip and modality",
        lambda config: Cases(drops=(True,), rate=config.rate, per_modality=config.per == "modality"),
        _drop_label,
    ),
    "inter": BuiltIn(
        "a subset of the modalities, uniform over all seven or over the six proper ones",
        _inter,
        lambda config: f"inter({config.subsets})",
    ),
    # UMDF, "Two heterogeneous versions".
    "mixed": BuiltIn(
        "complete, intra with p ~ U(.1, .9), or one of the six proper subsets, each with probability 1/3 (UMDF)",
        lambda config: _MIXED,
    ),
    "mixed_fsrf": BuiltIn(
        "one of the seven subsets, then with probability 1/2 a frame drop with p ~ U(0, .9) (FSRF)",
        lambda config: _MIXED_FSRF,
    ),
    "lnln": BuiltIn(
        "per modality: nothing dropped with probability 1/2, else p ~ U(0, 1) (LNLN, RECAP)",
        lambda config: Cases(drops=(True,), rate=(0.0, 1.0), per_modality=True, coins=True),
    ),
    "random": BuiltIn(
        "whole modalities removed at a rate up to 0.7, fixed or uniform in a range per clip: one stays, each of the "
        "two others goes independently (CPM-Nets, GCNet)",
        _removal,
        _removal_label,
        {"rate": (0.3, 0.3)},
    ),
    "random_table": BuiltIn(
        "whole modalities removed at a rate of 0.1, 0.2, ... 0.7: one stays, both or one of the two others go by a "
        "table (DiCMoR, IMDer)",
        _removal,
        _removal_label,
        {"rate": (0.3, 0.3)},
    ),
    "only": BuiltIn(
        "one fixed subset of the modalities, the same for all clips: a specialist",
        _only,
        lambda config: f"only({config.only})",
        {"only": "la"},
    ),
    "aligned": BuiltIn(
        "the same steps dropped in all modalities with a rate: fixed, or uniform in a range per clip",
        lambda config: Cases(drops=(True,), rate=config.rate, drop="aligned"),
        lambda config: f"aligned({_range(config)})",
    ),
    "block": BuiltIn(
        "one run of frames dropped in every modality, its share fixed, or uniform in a range per clip or per clip and "
        "modality",
        lambda config: Cases(drops=(True,), rate=config.rate, per_modality=config.per == "modality", drop="block"),
        _drop_label,
    ),
    "per_modality": BuiltIn(
        "every frame dropped with a fixed rate of its modality",
        _fixed_rates,
        _rates_label,
        {"rates": "l=0.2,a=0.5"},
    ),
}
"""The regimes of msabench by name."""

_OUTSIDE = Outside("training regime", GROUP, RegimeInfo)


def regimes() -> dict[str, str]:
    """Name -> description of every regime: those of msabench, then those from outside.

    Raises:
        MSABenchError: A plug-in cannot be read, or two regimes have one name.
    """
    own = {name: regime.description for name, regime in BUILT_IN.items()}
    return own | {name: found.info.description for name, found in _OUTSIDE.found(BUILT_IN).items()}


def external_regime(name: str) -> Found[RegimeInfo] | None:
    """A regime from outside, with the place that it comes from; None for those of msabench.

    Raises:
        MSABenchError: No regime has this name, or a plug-in cannot be read.
    """
    if name in BUILT_IN:
        return None
    found = _OUTSIDE.found(BUILT_IN)
    if name not in found:
        raise one_of("training regime", name, (*BUILT_IN, *found))
    return found[name]


def regime_label(config: MissingConfig) -> str:
    """The regime with the settings that count for it, as it stands in the key of a job."""
    outside = external_regime(config.regime)
    if outside is not None:
        return outside.info.label
    label = BUILT_IN[config.regime].label
    return label(config) if label else config.regime
