"""Which frames are missing: test cells, validation, and the training regimes.

Every mask is a pure function of (seed, purpose, epoch, clip, modality, frame); see ``philox``. A missingness pattern
is drawn in two steps: per clip, which modalities are available and with which rate their frames are dropped, then per
frame ``observed = draw >= threshold``, or a run of frames is dropped, see ``dropping``. All choices are made on 24-bit
integers, so that no rounding can differ between devices, and one draw thresholded at growing rates gives nested masks.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from msabench.missingness import clip_draws, dropping
from msabench.missingness.conditions import LETTERS, MODALITIES, Cell
from msabench.missingness.config import MissingConfig
from msabench.missingness.outside_draws import drawn_outside
from msabench.missingness.philox import DRAW_BITS, draws24
from msabench.missingness.purposes import Purpose
from msabench.missingness.regimes import BUILT_IN, Cases, RegimeInfo, external_regime

_ONE = 1 << DRAW_BITS


@dataclass
class Clips:
    """What masks depend on: who the clips are and which of their frames exist.

    Attributes:
        uid: int64 ``(N, 2)`` in [0, 2**32), low and high word of each clip's key.
        lengths: modality -> int64 ``(N,)`` in [0, T_m].
        seq_lens: modality -> T_m, at least 1.
        padding: modality -> ``end`` or ``front``, the side on which the file pads.
        observed: modality -> bool ``(N, T_m)``, False on frames that were never observed; only modalities that have
            such frames. They are dropped in every situation.
    """

    uid: Tensor
    lengths: dict[str, Tensor]
    seq_lens: dict[str, int]
    padding: dict[str, str]
    observed: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device | str) -> Clips:
        """The same clips on a device; masks are made where the clips are."""
        lengths = {modality: length.to(device) for modality, length in self.lengths.items()}
        observed = {modality: mask.to(device) for modality, mask in self.observed.items()}
        return Clips(self.uid.to(device), lengths, self.seq_lens, self.padding, observed)

    def valid(self, modality: str) -> Tensor:
        """Which frames exist: bool ``(N, T_m)``, a new tensor."""
        length, steps = self.lengths[modality].unsqueeze(1), self.seq_lens[modality]
        position = torch.arange(steps, device=self.uid.device)
        return position >= steps - length if self.padding[modality] == "front" else position < length

    def observable(self, modality: str) -> int:
        """Number of frames that exist and were observed."""
        if modality not in self.observed:
            return int(self.lengths[modality].sum())
        return int((self.valid(modality) & self.observed[modality]).sum())

    def last(self, modality: str) -> Tensor:
        """Index of the last existing frame: int64 ``(N,)``, 0 for a clip without frames that is padded at the end."""
        length, steps = self.lengths[modality], self.seq_lens[modality]
        return torch.full_like(length, steps - 1) if self.padding[modality] == "front" else (length - 1).clamp_(min=0)


@dataclass
class Masks:
    """The masks of N clips, in the order of the clips; the fields are those of ``Batch``.

    Attributes:
        observed: modality -> bool ``(N, T_m)``.
        valid: modality -> bool ``(N, T_m)``; all True for a removed modality unless lengths are kept.
        last: modality -> int64 ``(N,)``; T_m - 1 for a removed modality unless lengths are kept.
    """

    observed: dict[str, Tensor]
    valid: dict[str, Tensor]
    last: dict[str, Tensor]
    _rows: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False, compare=False)

    def pick(self, index: Tensor) -> Masks:
        """The masks of some clips, int ``(B,)`` rows, in memory of their own."""
        if self._rows is None:
            # Side by side in one tensor, an epoch's masks are picked in two operations a batch instead of nine.
            flags = torch.cat([*self.observed.values(), *self.valid.values()], dim=1)
            self._rows = (flags, torch.stack(list(self.last.values()), dim=1))
        flags, last = (rows.index_select(0, index) for rows in self._rows)
        widths = [mask.shape[1] for mask in (*self.observed.values(), *self.valid.values())]
        parts = flags.split_with_sizes(widths, dim=1)
        count = len(self.observed)
        picked = Masks(
            observed=dict(zip(self.observed, parts[:count], strict=True)),
            valid=dict(zip(self.valid, parts[count:], strict=True)),
            last=dict(zip(self.last, last.unbind(1), strict=True)),
        )
        picked._rows = (flags, last)
        return picked

    def keep_bits(self) -> dict[str, Tensor]:
        """Modality -> int32 ``(N, T_m, 1)``: all bits set where a frame is observed, none where it is not."""
        widths = [mask.shape[1] for mask in self.observed.values()]
        joined = torch.cat(list(self.observed.values()), dim=1) if self._rows is None else self._rows[0]
        bits = joined[:, : sum(widths)].to(torch.int32).neg_().unsqueeze(-1)
        return dict(zip(self.observed, bits.split_with_sizes(widths, dim=1), strict=True))


@dataclass
class Pattern:
    """A missingness pattern before its frames are drawn. Columns are text, audio, vision.

    Attributes:
        available: bool ``(N, 3)``.
        threshold: int64 ``(N, 3)`` in [0, 2**24]: a frame is dropped when its draw is below it; the share of a run.
        drop: How frames are dropped, one of ``conditions.DROPS``.
        draws: The clips' own draws, int64 ``(N, 14)`` or more; only where frames are dropped in runs.
    """

    available: Tensor
    threshold: Tensor
    drop: str = "intra"
    draws: Tensor | None = None


def training_masks(config: MissingConfig, clips: Clips, seed: int, epoch: int, n_views: int = 1) -> tuple[Masks, ...]:
    """Masks of one training epoch.

    Args:
        config: The training regime.
        clips: The training clips.
        seed: The run's seed, in [0, 2**64).
        epoch: In [0, 2**24).
        n_views: 1, or 2 for methods that see two corrupted versions of a clip. View 0 does not depend on it.

    Returns:
        One ``Masks`` per view.

    Raises:
        MSABenchError: The seed or the epoch is out of its range.
    """
    purposes = (Purpose.TRAINING_FRAMES_VIEW0, Purpose.TRAINING_FRAMES_VIEW1)
    patterns = training_patterns(config, clips, seed, epoch, n_views)
    return tuple(
        _draw_frames(pattern, clips, config, seed, purpose, epoch)
        for pattern, purpose in zip(patterns, purposes[:n_views], strict=True)
    )


def training_patterns(
    config: MissingConfig, clips: Clips, seed: int, epoch: int, n_views: int = 1
) -> tuple[Pattern, ...]:
    """The patterns behind ``training_masks``; same arguments."""
    if n_views not in (1, 2):
        raise ValueError(f"n_views is {n_views}; expected 1 or 2")
    if (outside := external_regime(config.regime)) is not None:
        purposes = (Purpose.OUTSIDE_TRAINING_CLIPS_VIEW0, Purpose.OUTSIDE_TRAINING_CLIPS_VIEW1)
        return tuple(_outside_pattern(outside.info, clips, seed, purpose, epoch) for purpose in purposes[:n_views])
    cases = BUILT_IN[config.regime].cases(config)
    draws = _case_draws(cases, clips, seed, Purpose.TRAINING_CLIPS_VIEW0, epoch)
    case = _first_case(cases, draws)
    views = [_pattern(cases, draws, case)]
    if n_views == 2:
        draws = _case_draws(cases, clips, seed, Purpose.TRAINING_CLIPS_VIEW1, epoch)
        views.append(_pattern(cases, draws, _second_case(cases, draws, case)))
    return tuple(views)


def validation_masks(config: MissingConfig, clips: Clips, mask_seed: int) -> Masks:
    """Masks of the validation split: drawn as in training, the same in every epoch and for every seed of a run.

    Args:
        config: The training regime.
        clips: The validation clips.
        mask_seed: In [0, 2**64).

    Raises:
        MSABenchError: The seed is out of its range.
    """
    if (outside := external_regime(config.regime)) is not None:
        pattern = _outside_pattern(outside.info, clips, mask_seed, Purpose.OUTSIDE_VALIDATION_CLIPS, 0)
    else:
        cases = BUILT_IN[config.regime].cases(config)
        draws = _case_draws(cases, clips, mask_seed, Purpose.VALIDATION_CLIPS, 0)
        pattern = _pattern(cases, draws, _first_case(cases, draws))
    return _draw_frames(pattern, clips, config, mask_seed, Purpose.VALIDATION_FRAMES, 0)


def cell_masks(cell: Cell, config: MissingConfig, clips: Clips, mask_seed: int) -> Masks:
    """Masks of one test situation. They do not depend on the regime that a model was trained under.

    Where clips exchange a modality, its masks are those of the clips that it comes from (``clip_draws.donors``).

    Args:
        cell: The test situation.
        config: Says at which level text is dropped and whether lengths are kept.
        clips: The clips to evaluate on.
        mask_seed: In [0, 2**64).

    Raises:
        MSABenchError: The seed is out of its range, the cell needs another level, or a single clip has nobody to
            exchange a modality with.
    """
    config.require(cell)
    masks = _draw_frames(cell_pattern(cell, clips, mask_seed), clips, config, mask_seed, Purpose.TEST_FRAMES, 0)
    for modality, rows in clip_draws.donors(cell, clips.uid, mask_seed).items():
        for field_ in (masks.observed, masks.valid, masks.last):
            field_[modality] = field_[modality][rows]
    return masks


def cell_pattern(cell: Cell, clips: Clips, mask_seed: int) -> Pattern:
    """The pattern behind ``cell_masks``; same arguments."""
    shape, device = (len(clips.uid), len(MODALITIES)), clips.uid.device
    available = torch.tensor(_is_available(cell.available), device=device).expand(shape)
    threshold = torch.tensor(cell.thresholds, device=device).expand(shape)
    if not cell.removal and cell.drop not in dropping.RUNS:
        return Pattern(available, threshold, cell.drop)
    draws = clip_draws.clip_draws(clips.uid, mask_seed, Purpose.TEST_CLIPS, 0, clip_draws.N_RUNS)
    if cell.removal:
        available = clip_draws.left_by_chance(cell.law, cell.removal_rate, cell.removal_rate, draws)
    return Pattern(available, threshold, cell.drop, draws)


def complete_masks(clips: Clips, config: MissingConfig | None = None) -> Masks:
    """Masks without missingness, which are those of the cell ``inter/lav``.

    Args:
        clips: Any clips.
        config: Says whether a modality that a clip never had shows its length; default ``MissingConfig()``.
    """
    return cell_masks(Cell(), config or MissingConfig(), clips, mask_seed=0)


def inner_steps(valid: Tensor) -> Tensor:
    """The steps between the first and the last valid one: the words between [CLS] and [SEP].

    Args:
        valid: bool ``(N, T)``, one run of True per row.

    Returns:
        bool ``(N, T)``.
    """
    inner = valid.clone()
    inner[:, 1:] &= valid[:, :-1]
    inner[:, :-1] &= valid[:, 1:]
    inner[:, 0] = False
    inner[:, -1] = False
    return inner


def mask_hash(masks: Masks) -> str:
    """Sixteen hex digits that identify the masks: sha256 over shapes and packed ``observed`` bits."""
    digest = hashlib.sha256()
    for modality in MODALITIES:
        observed = masks.observed[modality].cpu().numpy()
        digest.update(f"{modality}:{observed.shape[0]}x{observed.shape[1]};".encode())
        digest.update(np.packbits(observed).tobytes())
    return digest.hexdigest()[:16]


def dropped_share(masks: Masks, clips: Clips) -> dict[str, float]:
    """Share of the clips' frames that are not observed, which is what a nominal rate came to.

    Frames that were never observed do not count.

    Returns:
        modality -> number in [0, 1]; 0 where no clip has a frame.
    """
    shares = {}
    for modality in MODALITIES:
        existing = clips.observable(modality)
        observed = int(masks.observed[modality].sum())
        shares[modality] = 1 - observed / existing if existing else 0.0
    return shares


def blind_share(masks: Masks) -> float:
    """Share of clips without any observed frame in any modality, in [0, 1]: a method answers them blind."""
    seen = torch.stack([masks.observed[modality].any(1) for modality in MODALITIES]).any(0)
    return 1.0 - float(seen.double().mean())


def _draw_frames(
    pattern: Pattern, clips: Clips, config: MissingConfig, seed: int, purpose: Purpose, epoch: int
) -> Masks:
    masks = Masks({}, {}, {})
    for column, modality in enumerate(MODALITIES):
        valid, last, steps = clips.valid(modality), clips.last(modality), clips.seq_lens[modality]
        available, threshold = pattern.available[:, column], pattern.threshold[:, column]
        marked = modality == "text" and config.level == "tokens"
        words = inner_steps(valid) if marked else valid
        observed = valid & available.unsqueeze(1)
        if modality in clips.observed:
            observed &= clips.observed[modality]
        rows = (available & (threshold > 0)).nonzero().squeeze(1)
        if len(rows):
            survives = _survives(pattern, clips, words[rows], column, rows, (seed, purpose, epoch))
            # [CLS] and [SEP] are never dropped by chance.
            observed[rows] &= survives | ~words[rows] if marked else survives
        removed = ~(observed & words).any(1)
        observed &= ~removed.unsqueeze(1)
        if config.lengths == "hide":
            valid |= removed.unsqueeze(1)
            last = torch.where(removed, steps - 1, last)
        masks.observed[modality], masks.valid[modality], masks.last[modality] = observed, valid, last
    return masks


def _survives(
    pattern: Pattern, clips: Clips, words: Tensor, column: int, rows: Tensor, key: tuple[int, Purpose, int]
) -> Tensor:
    """Which frames of one modality are left in some rows, bool ``(R, T)``; ``words`` are those that may be dropped."""
    modality, uid = MODALITIES[column], clips.uid[rows]
    threshold = pattern.threshold[rows, column].unsqueeze(1)
    if pattern.drop == "intra":
        return draws24(*key, uid, {modality: clips.seq_lens[modality]})[modality] >= threshold
    number, count = dropping.steps(words)
    source = column
    if pattern.drop in dropping.COMMON:
        lengths = torch.stack([clips.lengths[m] for m in MODALITIES], dim=1)
        cells = dropping.axis(lengths, pattern.available)[rows].unsqueeze(1)
        # Of all steps, [CLS] and [SEP] too: where files are aligned these have their place in every modality.
        number, count = dropping.steps(clips.valid(modality)[rows])
        number, count, source = number * cells // count.clamp(min=1), cells, 0
    if pattern.draws is None:
        longest = max(clips.seq_lens.values())
        draws = draws24(*key, uid, {MODALITIES[source]: longest})[MODALITIES[source]]
        return draws.gather(1, number.clamp(0, longest - 1)) >= threshold
    starts, roundings = (pattern.draws[rows][:, part] for part in (clip_draws.STARTS, clip_draws.ROUNDINGS))
    first, end = dropping.run(count, threshold, starts[:, source : source + 1], roundings[:, source : source + 1])
    return (number < first) | (number >= end)


# Regimes.


def _case_draws(cases: Cases, clips: Clips, seed: int, purpose: Purpose, epoch: int) -> Tensor:
    count = clip_draws.N_RUNS if cases.drop in dropping.RUNS else clip_draws.N_CASES
    return clip_draws.clip_draws(clips.uid, seed, purpose, epoch, count)


def _first_case(cases: Cases, draws: Tensor) -> Tensor:
    return draws[:, clip_draws.CASE] * len(cases.available) >> DRAW_BITS


def _second_case(cases: Cases, draws: Tensor, first: Tensor) -> Tensor:
    # Uniform over the cases that are not the first view's pattern: what redrawing until they differ comes to.
    n_cases = len(cases.available)
    repeats = torch.tensor([cases.repeats(case) for case in range(n_cases)], device=draws.device)
    start, count = repeats[first].unbind(1)
    case = draws[:, clip_draws.CASE] * (n_cases - count) >> DRAW_BITS
    return torch.where(case >= start, case + count, case)


def _pattern(cases: Cases, draws: Tensor, case: Tensor) -> Pattern:
    available = torch.tensor([_is_available(letters) for letters in cases.available], device=draws.device)[case]
    if cases.removal is not None:
        available = clip_draws.left_by_chance(*cases.removal, draws)
    # Multiplying by a power of two is exact, so this is the threshold of the rate that the config names.
    low, high = (math.ceil(rate * _ONE) for rate in cases.rate)
    rates = clip_draws.RATES if cases.per_modality else clip_draws.RATE
    threshold = low + (draws[:, rates] * (high - low) >> DRAW_BITS)
    if cases.thresholds is not None:
        threshold = torch.tensor([cases.thresholds], device=draws.device)
    dropped = torch.tensor(cases.drops, device=draws.device)[case].unsqueeze(1)
    if cases.coins:
        dropped = draws[:, clip_draws.COINS] >= _ONE // 2
    threshold = torch.where(dropped, threshold, 0).expand(available.shape)
    return Pattern(available, threshold, cases.drop, draws if cases.drop in dropping.RUNS else None)


def _outside_pattern(info: RegimeInfo, clips: Clips, seed: int, purpose: Purpose, epoch: int) -> Pattern:
    available, threshold = drawn_outside(info, clips.uid.cpu(), seed, purpose, epoch)
    return Pattern(available.to(clips.uid.device), threshold.to(clips.uid.device))


def _is_available(letters: str) -> list[bool]:
    return [letter in letters for letter in LETTERS]
