"""What a cell does to values that are left: clips exchange a modality, words are replaced, noise is added.

Every draw is a pure function of (seed, purpose, clip, step, feature) on 24-bit integers. Noise is computed in float64
on the CPU, so that it has the same bits wherever a batch is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from msabench.data.corpus import SplitData
from msabench.errors import MSABenchError
from msabench.missingness import amounts
from msabench.missingness.clip_draws import donors
from msabench.missingness.conditions import LETTERS, MODALITIES, Cell
from msabench.missingness.config import CLS, SEP, UNK
from msabench.missingness.patterns import inner_steps
from msabench.missingness.philox import DRAW_BITS, blocks24, draws24
from msabench.missingness.purposes import Purpose

SPECIAL = (0, UNK, CLS, SEP, 103)
"""Ids of [PAD], [UNK], [CLS], [SEP] and [MASK], which are neither replaced nor put in a word's place."""

_DRAWS_AT_ONCE = 1 << 16
"""Numbers of noise that are made at once, so that what lies between stays in the cache."""


@dataclass(frozen=True)
class Alterations:
    """What one cell does to the values of a split's N clips.

    Attributes:
        cell: The test situation.
        seed: Mask seed.
        donors: Modality -> int64 ``(N,)``, the clip that each takes it from; only the one that is exchanged.
        deviation: Modality -> float32 ``(D_m,)``, standard deviation of the noise on each feature; only where there is
            noise.
        vocabulary: int64 ``(V,)``, sorted ids that may take a word's place; None where none are replaced.
    """

    cell: Cell
    seed: int
    donors: dict[str, Tensor] = field(default_factory=dict)
    deviation: dict[str, Tensor] = field(default_factory=dict)
    vocabulary: Tensor | None = None

    @classmethod
    def of(
        cls,
        cell: Cell,
        seed: int,
        uid: Tensor,
        deviation: Callable[[], dict[str, Tensor]],
        vocabulary: Callable[[], Tensor],
    ) -> Alterations | None:
        """What a cell does; None where it leaves values as they are.

        Args:
            cell: The test situation.
            seed: Mask seed.
            uid: int64 ``(N, 2)`` keys of all clips of the split.
            deviation: Gives the standard deviation of every feature in the training split, float32 ``(D_m,)`` by
                modality; asked only if there is noise.
            vocabulary: Gives the ids of words in the training split, see ``vocabulary_of``; asked only if any are
                replaced.

        Raises:
            MSABenchError: There is a single clip and it is to exchange a modality.
        """
        if not cell.alters:
            return None
        multiples = {LETTERS[letter]: float(amounts.of(cell.noise, letter)) for letter in cell.available}
        noisy = {modality: multiple for modality, multiple in multiples.items() if multiple}
        spread = deviation() if noisy else {}
        return cls(
            cell,
            seed,
            donors(cell, uid, seed),
            {modality: multiple * spread[modality] for modality, multiple in noisy.items()},
            vocabulary() if cell.words != "0.0" else None,
        )

    def rows(self, modality: str, index: Tensor | slice) -> Tensor | slice:
        """Rows of the split that a modality of some rows comes from."""
        return self.donors[modality][index] if modality in self.donors else index

    def noise(self, modality: str, uid: Tensor, steps: int, observed: Tensor | None = None) -> Tensor | None:
        """Noise on some clips, float32 ``(B, T_m, D_m)`` on the device of ``uid``; None where there is none.

        Feature d of step t is number ``t * D_m + d`` of the clip; numbers 2k and 2k + 1 are the cosine and the sine of
        the Box-Muller transform of draws 2k and 2k + 1.

        Args:
            modality: The modality.
            uid: int64 ``(B, 2)`` keys of the clips that it comes from.
            steps: T_m.
            observed: bool ``(B, T_m)``, the steps that are asked for; 0 elsewhere. None for all.
        """
        if modality not in self.deviation:
            return None
        deviation, keys = self.deviation[modality].double().cpu(), uid.cpu()
        width = len(deviation)
        wanted = torch.ones(len(uid), steps, dtype=torch.bool) if observed is None else observed.cpu()
        found = torch.zeros(len(uid), steps, width)
        # Where a step's features fill no whole blocks, its first and its last block are shared with its neighbours.
        is_whole = width % 4 == 0
        span = torch.arange(width // 4 if is_whole else (width + 6) // 4)
        clips, places = wanted.nonzero(as_tuple=True)
        at_once = max(_DRAWS_AT_ONCE // width, 1)
        for clip, step in zip(torch.split(clips, at_once), torch.split(places, at_once), strict=True):
            first = (step * width).unsqueeze(1)
            draws = blocks24(self.seed, Purpose.TEST_NOISE, 0, keys[clip], modality, (first >> 2) + span)
            normal = _normal(draws)
            if not is_whole:
                normal = normal.gather(1, (first & 3) + torch.arange(width))
            found[clip, step] = (normal * deviation).float()
        return found.to(uid.device)

    def replace_words(self, tokens: Tensor, uid: Tensor, words: Tensor) -> None:
        """Put other words in the place of some, uniform over the vocabulary without the word itself.

        Args:
            tokens: int64 ``(B, 3, T)``; its ids are changed.
            uid: int64 ``(B, 2)`` keys of the clips that they come from.
            words: bool ``(B, T)``, the steps that hold words.
        """
        if self.vocabulary is None:
            return
        ids, vocabulary = tokens[:, 0], self.vocabulary.to(tokens.device)
        draws = draws24(self.seed, Purpose.TEST_WORDS, 0, uid, {MODALITIES[0]: 2 * ids.shape[1]})[MODALITIES[0]]
        whether, which = draws[:, 0::2], draws[:, 1::2]
        place = torch.searchsorted(vocabulary, ids.contiguous())
        is_known = vocabulary[place.clamp(max=len(vocabulary) - 1)] == ids
        number = which * (len(vocabulary) - is_known.long()) >> DRAW_BITS
        number += (is_known & (number >= place)).long()
        special = torch.isin(ids, torch.tensor(SPECIAL, device=ids.device))
        replaced = words & ~special & (whether < amounts.threshold(amounts.of(self.cell.words, "l")))
        tokens[:, 0] = torch.where(replaced, vocabulary[number], ids)


def require_features(cell: Cell, with_tokens: bool) -> None:
    """Refuse noise on text where a text encoder reads tokens.

    Args:
        cell: The test situation.
        with_tokens: Whether token ids are read in place of text features.

    Raises:
        MSABenchError: It adds noise to text, and tokens are read.
    """
    if with_tokens and "l" in cell.available and amounts.of(cell.noise, "l"):
        raise MSABenchError(
            f"cell {cell} adds noise to text features, and the method reads token ids; name the other modalities, "
            "e.g. noise/a=0.5,v=0.5, or let the method read precomputed text features"
        )


def vocabulary_of(split: SplitData, padding: dict[str, str]) -> Tensor:
    """Ids of the words of a split, sorted int64 ``(V,)``; without [CLS], [SEP] and other special ones.

    Args:
        split: The training split.
        padding: modality -> side on which the file pads.

    Raises:
        MSABenchError: It has no token ids, or fewer than two different words.
    """
    if split.tokens is None:
        raise MSABenchError("there are no token ids whose words could be replaced; leave the cells words/... out")
    words = split.tokens[:, 0][inner_steps(split.clips(padding).valid("text"))]
    ids: Tensor = words.unique()  # type: ignore[no-untyped-call]
    found = ids[~torch.isin(ids, torch.tensor(SPECIAL, device=ids.device))]
    if len(found) < 2:
        raise MSABenchError(
            f"the training split has {len(found)} different words, and replacing takes two; leave the cells "
            "words/... out"
        )
    return found


def _normal(draws: Tensor) -> Tensor:
    """Standard normal numbers, float64, of draws in [0, 2**24), int64 ``(N, 2K)`` each."""
    # The open side of the interval, so that no logarithm is of 0.
    radius = ((draws[:, 0::2] + 1).double() / (1 << DRAW_BITS)).log_().mul_(-2).sqrt_()
    angle = draws[:, 1::2].double() * (2 * math.pi / (1 << DRAW_BITS))
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2).flatten(1)
