"""Which missingness a model trains under, and how a dropped frame looks. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from msabench.errors import MSABenchError, one_of
from msabench.missingness import amounts
from msabench.missingness.conditions import Cell
from msabench.missingness.regimes import BUILT_IN, external_regime, regime_label

UNK, CLS, SEP = 100, 101, 102
"""Ids of [UNK], [CLS] and [SEP] in bert-base-uncased and bert-base-chinese alike."""

CHOICES = {
    "per": ("sample", "modality"),
    "subsets": ("all", "proper"),
    "level": ("vectors", "tokens"),
    "token_fill": ("unk", "zero_embedding"),
    "lengths": ("hide", "keep"),
}


@dataclass(frozen=True)
class MissingConfig:
    """Training regime and missingness protocol.

    Attributes:
        regime: ``complete``; ``intra`` (every frame dropped with a rate); ``inter`` (a subset of modalities kept);
            ``mixed`` (UMDF: complete, intra or inter with probability 1/3 each); ``mixed_fsrf`` (FSRF: a subset of
            the seven, then with probability 1/2 a frame drop with rate U(0, 0.9)); ``lnln`` (LNLN, RECAP: per sample
            and modality, rate 0 with probability 1/2, else U(0, 1)); ``random`` and ``random_table`` (whole modalities
            removed at a rate); ``only`` (one fixed subset); ``aligned`` (the same steps in all modalities), ``block``
            (one run of frames); ``per_modality`` (a fixed rate for each); or one from outside msabench.
        rate: Lowest and highest rate of ``intra``, ``aligned``, ``block``, in [0, 1], and of ``random`` and
            ``random_table``, up to 0.7; equal values fix the rate.
        per: Whether ``intra`` and ``block`` draw one rate per ``sample``, or one per sample and ``modality``.
        subsets: Whether ``inter`` draws from ``all`` seven subsets or from the six ``proper`` ones.
        level: Where text is dropped: ``vectors`` (token states, which still carry dropped words through their
            neighbours) or ``tokens`` (before the text encoder). Numbers of the two levels are not comparable.
        token_fill: What replaces a token dropped at level ``tokens``: ``unk`` ([UNK], with [CLS] and [SEP] kept) or
            ``zero_embedding`` (its word embedding is zeroed, [CLS] and [SEP] kept).
        lengths: ``hide`` gives a removed modality the full length, so that nothing about it can be told; ``keep``
            leaves its own length and token count visible, as the papers' code does.
        only: Letters of the modalities that ``only`` keeps, e.g. ``la``.
        rates: Rates of ``per_modality`` by letter, in [0, 1], e.g. ``l=0.2,a=0.5``; 0 for those not named.
    """

    regime: str = "complete"
    rate: tuple[float, float] = (0.1, 0.9)
    per: Literal["sample", "modality"] = "sample"
    subsets: Literal["all", "proper"] = "all"
    level: Literal["vectors", "tokens"] = "vectors"
    token_fill: Literal["unk", "zero_embedding"] = "unk"
    lengths: Literal["hide", "keep"] = "hide"
    only: str | None = None
    rates: str | None = None

    def __post_init__(self) -> None:
        external_regime(self.regime)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise one_of(f"missingness setting {name}", getattr(self, name), allowed)
        low, high = self.rate
        if not 0 <= low <= high <= 1:
            raise MSABenchError(f"missing rate range {list(self.rate)} is not allowed; give 0 <= low <= high <= 1")
        if self.regime in BUILT_IN:
            BUILT_IN[self.regime].cases(self)

    @property
    def label(self) -> str:
        """The regime with its rates, as it stands in the key of a job, e.g. ``intra(0.1-0.9,sample)``."""
        return regime_label(self)

    def require(self, cell: Cell) -> None:
        """Refuse a cell that means nothing where text is dropped.

        Raises:
            MSABenchError: Words are to be replaced and text is not dropped among its tokens, or noise is to be added to
                text and there are only tokens.
        """
        if cell.words != "0.0" and self.level != "tokens":
            raise MSABenchError(
                f"cell {cell} replaces words before the text encoder, which level {self.level!r} does not reach; set "
                "level to 'tokens' or leave the cell out"
            )
        if self.level == "tokens" and "l" in cell.available and amounts.of(cell.noise, "l"):
            raise MSABenchError(
                f"cell {cell} adds noise to text, which is token ids at level 'tokens'; name the other modalities, "
                "e.g. noise/a=0.5,v=0.5, or set level to 'vectors'"
            )
