"""``synth``: a deterministic corpus in the layout of the MMSA files, drawn from a documented latent model.

It is a test bench: methods can be trained, masked and compared on it without any download. It is never evidence about
CMU-MOSI or another real corpus. The formulas and what was calibrated stand in ``docs/synth.md``; the parameters are
``LATENT``, and a change of them or of the generator is a new ``REVISION``.

Random numbers come from ``numpy.random.RandomState``, whose streams NumPy has frozen (NEP 19). Features are computed in
float64 and rounded to multiples of 2**-12, so that the summation order of the local BLAS does not show in them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from msabench.data.info import SPLITS
from msabench.data.raw import RawCorpus, RawSplit
from msabench.errors import MSABenchError
from msabench.missingness.conditions import MODALITIES

REVISION = "r1"
"""Name of the frozen generator and parameters."""

DIMS = {"text": 768, "audio": 5, "vision": 20}
"""Features of each modality, those of MMSA's MOSI files."""

DEFAULT_SIZE = (1284, 229, 686)
"""Clips in train, valid and test, those of CMU-MOSI."""

DEFAULT_LENGTH = 50
MIN_LENGTH = 8

TARGETS = {"l": 0.65, "a": 0.25, "v": 0.25, "av": 0.32, "lav": 0.70}
"""Condition -> Pearson r on the test split that a ridge probe on mean-pooled features is calibrated to."""

TOLERANCE = 0.04
"""Largest allowed distance from ``TARGETS`` at the default size."""

ORACLE_GAIN = 0.05
"""Least gain in r, on audio and on vision, of a probe that pools over the cue frames only."""

CLS, SEP = 101, 102
FILLER_IDS = (1996, 8000)
"""Range of token ids of words without a cue."""
CUE_IDS = (12000, 40)
"""First token id of cue words, and number of ids of each of the nine valence bins."""

_FloatArray = NDArray[np.float64]
_BoolArray = NDArray[np.bool_]

_GRID = 2.0**12
# Clips that are rendered at a time. Streams are read chunk by chunk, so another number gives another corpus.
_CHUNK = 128
_CLIPS_PER_VIDEO = 24


@dataclass(frozen=True)
class Channel:
    """How one modality shows sentiment. Symbols as in ``docs/synth.md``.

    Attributes:
        private: Share in [0, 1] of the sentiment's variance that only this modality shows.
        shared: Correlation of the modality's cue with the shared factor.
        arousal: Correlation of the modality's cue with arousal, which says nothing about sentiment; what neither
            correlation leaves is the private factor.
        cue_share: Share of the frames that carry the cue.
        amplitude: Size of the cue in a cue frame.
        marker: Shift of cue frames in the marker direction.
        value_noise: Standard deviation, over the cue frames of a clip, of the cue itself.
        offset_noise: Standard deviation of what is constant over a clip.
        frame_noise: Standard deviation of what changes from frame to frame.
        nuisance: Number of nuisance directions.
        nuisance_scale: Size of the first nuisance direction relative to the cue direction's noise; the j-th is
            smaller by the square root of j.
        white_noise: Half-width of the uniform noise on every feature.
    """

    private: float
    shared: float
    arousal: float
    cue_share: float
    amplitude: float
    marker: float
    value_noise: float
    offset_noise: float
    frame_noise: float
    nuisance: int
    nuisance_scale: float
    white_noise: float


@dataclass(frozen=True)
class Latent:
    """Parameters of the latent model. Symbols as in ``docs/synth.md``.

    Attributes:
        seed: First word of the seed of every stream.
        label_mean: Mean of the sentiment.
        label_sd: Standard deviation of the sentiment.
        raters: Number of raters, each of whom gives an integer in [-3, 3].
        rater_noise: Standard deviation of a rater around the sentiment.
        shared: Share of the sentiment's variance that all modalities show.
        unseen: Share of the sentiment's variance that no modality shows.
        shortest: Length of the shortest clips as a share of the maximum.
        scatter: How far from the clip's moment of expression cue frames lie, as a share of the clip; 0 is one burst.
        neighbours: Weight of the two neighbours in a word's contextual state.
        context: Weight of the mean over all words in a word's contextual state.
        text: Text's channel.
        audio: Audio's channel.
        vision: Vision's channel.
    """

    seed: int
    label_mean: float
    label_sd: float
    raters: int
    rater_noise: float
    shared: float
    unseen: float
    shortest: float
    scatter: float
    neighbours: float
    context: float
    text: Channel
    audio: Channel
    vision: Channel

    def channel(self, modality: str) -> Channel:
        """The channel of one modality."""
        channels = {"text": self.text, "audio": self.audio, "vision": self.vision}
        return channels[modality]

    def sha256(self) -> str:
        """Hash of the canonical JSON form (sorted keys, no spaces) of all parameters, as 64 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


LATENT = Latent(
    seed=38,
    label_mean=-0.25,
    label_sd=1.75,
    raters=5,
    rater_noise=0.8,
    shared=0.33,
    unseen=0.08,
    shortest=0.3,
    scatter=0.5,
    neighbours=0.3,
    context=1.0,
    text=Channel(
        private=0.33,
        shared=0.75,
        arousal=0.0,
        cue_share=0.3,
        amplitude=1.9,
        marker=2.5,
        value_noise=0.35,
        offset_noise=0.3,
        frame_noise=0.35,
        nuisance=24,
        nuisance_scale=4.0,
        white_noise=0.3,
    ),
    audio=Channel(
        private=0.13,
        shared=0.45,
        arousal=0.6,
        cue_share=0.2,
        amplitude=3.0,
        marker=3.0,
        value_noise=0.3,
        offset_noise=0.8,
        frame_noise=1.0,
        nuisance=3,
        nuisance_scale=1.5,
        white_noise=0.2,
    ),
    vision=Channel(
        private=0.13,
        shared=0.45,
        arousal=0.6,
        cue_share=0.2,
        amplitude=2.9,
        marker=3.0,
        value_noise=0.3,
        offset_noise=0.8,
        frame_noise=1.0,
        nuisance=10,
        nuisance_scale=1.5,
        white_noise=0.2,
    ),
)
"""The frozen parameters of revision ``r1``, calibrated with the ridge probe of ``msabench.data.probe`` alone."""


@dataclass
class _Clips:
    """What is drawn per clip before any feature is rendered. N clips, T steps.

    Attributes:
        labels: float32 ``(N,)``.
        cues: modality -> ``(N,)``, unit variance.
        lengths: modality -> int64 ``(N,)``.
        carries: modality -> bool ``(N, T)``, the frames that carry the cue.
    """

    labels: NDArray[np.float32]
    cues: dict[str, _FloatArray]
    lengths: dict[str, NDArray[np.int64]]
    carries: dict[str, _BoolArray]


def _stream(latent: Latent, split: int, part: int) -> np.random.RandomState:
    """The generator of one part of one split; split ``len(SPLITS)`` stands for what all splits share."""
    return np.random.RandomState(np.array([latent.seed, split, part], dtype=np.uint32))


def _draw_clips(latent: Latent, split: int, n: int, length: int) -> _Clips:
    """Draw factors, labels, lengths and the place of the cues of one split."""
    factors = _stream(latent, split, 0)
    common, unseen, arousal = factors.standard_normal((3, n))
    private = dict(zip(MODALITIES, factors.standard_normal((len(MODALITIES), n)), strict=True))
    sentiment = np.sqrt(latent.shared) * common + np.sqrt(latent.unseen) * unseen
    cues = {}
    for modality in MODALITIES:
        channel = latent.channel(modality)
        sentiment = sentiment + np.sqrt(channel.private) * private[modality]
        own = np.sqrt(1.0 - channel.shared**2 - channel.arousal**2)
        cues[modality] = channel.shared * common + channel.arousal * arousal + own * private[modality]
    opinion = latent.label_mean + latent.label_sd * sentiment
    opinions = opinion + latent.rater_noise * factors.standard_normal((latent.raters, n))
    # The sum of integers is exact, so that a neutral label is exactly zero.
    labels = (np.clip(np.rint(opinions), -3, 3).sum(axis=0) / latent.raters).astype(np.float32)

    places = _stream(latent, split, 1)
    moment = places.random_sample((n, 1))
    steps = np.arange(length)
    lengths, carries = {}, {}
    for modality in MODALITIES:
        share = latent.shortest + (1.0 - latent.shortest) * places.random_sample(n)
        lengths[modality] = np.ceil(share * length).astype(np.int64)
        first, last = (1, lengths[modality] - 1) if modality == "text" else (0, lengths[modality])
        candidate = (steps >= first) & (steps < last[:, None])
        n_candidates = last - first
        n_cues = np.floor(latent.channel(modality).cue_share * n_candidates + places.random_sample(n))
        distance = np.abs((steps - first + 0.5) / n_candidates[:, None] - moment)
        score = distance + latent.scatter * places.random_sample((n, length))
        order = np.argsort(np.where(candidate, score, np.inf), axis=1, kind="stable")
        rank = np.argsort(order, axis=1, kind="stable")
        carries[modality] = rank < np.maximum(n_cues, 1)[:, None]
    return _Clips(labels, cues, lengths, carries)


def _existing(lengths: NDArray[np.int64], length: int) -> _BoolArray:
    """Bool ``(N, T)``, True on the steps before padding."""
    return np.arange(length) < lengths[:, None]


def _contextualise(states: _FloatArray, existing: _BoolArray, latent: Latent) -> _FloatArray:
    """Mix every word's state with its neighbours' and with the mean over the clip."""
    states = states * existing[:, :, None]
    mean = states.sum(axis=1, keepdims=True) / existing.sum(axis=1)[:, None, None]
    mixed: _FloatArray = states + latent.context * mean
    mixed[:, 1:] += latent.neighbours * states[:, :-1]
    mixed[:, :-1] += latent.neighbours * states[:, 1:]
    return mixed


def _render(
    latent: Latent, split: int, modality: str, clips: _Clips, length: int
) -> tuple[NDArray[np.float32], _FloatArray]:
    """Features ``(N, T, D)`` of one modality, and the valence ``(N, T)`` that cue frames show."""
    channel = latent.channel(modality)
    part = MODALITIES.index(modality)
    n, dim, width = len(clips.labels), DIMS[modality], channel.nuisance + 2
    scale = np.ones(width)
    scale[2:] = channel.nuisance_scale / np.sqrt(np.arange(1, channel.nuisance + 1))
    projection = _stream(latent, len(SPLITS), part).standard_normal((width, dim)) / np.sqrt(width)

    draws = _stream(latent, split, 2 + part)
    offset = draws.standard_normal((n, width))
    valence = clips.cues[modality][:, None] + channel.value_noise * draws.standard_normal((n, length))

    noise = _stream(latent, split, 2 + len(MODALITIES) + part)
    existing = _existing(clips.lengths[modality], length)
    features = np.zeros((n, length, dim), dtype=np.float32)
    for start in range(0, n, _CHUNK):
        rows = slice(start, min(start + _CHUNK, n))
        carries, size = clips.carries[modality][rows], rows.stop - rows.start
        frames = noise.standard_normal((size, length + 2, width))
        frames = (frames[:, :-2] + frames[:, 1:-1] + frames[:, 2:]) / np.sqrt(3.0)
        states = scale * (channel.offset_noise * offset[rows, None] + channel.frame_noise * frames)
        states[:, :, 0] += channel.amplitude * carries * valence[rows]
        states[:, :, 1] += channel.marker * carries
        if modality == "text":
            states = _contextualise(states, existing[rows], latent)
        white = np.frombuffer(noise.bytes(size * length * dim), dtype=np.uint8).reshape(size, length, dim)
        rendered = states @ projection + channel.white_noise * (white / 127.5 - 1.0)
        features[rows] = np.where(existing[rows, :, None], np.rint(rendered * _GRID) / _GRID, 0.0)
    return features, valence


def _write_words(latent: Latent, split: int, clips: _Clips, valence: _FloatArray) -> NDArray[np.int64]:
    """Token ids, attention mask and token types ``(N, 3, T)``: cue words tell the bin of their valence."""
    n, length = valence.shape
    draws = _stream(latent, split, 2 + 2 * len(MODALITIES)).random_sample((2, n, length))
    existing = _existing(clips.lengths["text"], length)
    first, last = FILLER_IDS
    # The cube makes low ids frequent, as in a vocabulary that is sorted by frequency.
    filler = first + np.floor((last - first) * draws[0] ** 3)
    base, per_bin = CUE_IDS
    cue = base + per_bin * (np.clip(np.rint(2.0 * valence), -4, 4) + 4) + np.floor(per_bin * draws[1])
    ids = np.where(clips.carries["text"], cue, filler).astype(np.int64)
    ids[:, 0] = CLS
    ids[np.arange(n), clips.lengths["text"] - 1] = SEP
    ids[~existing] = 0
    return np.stack([ids, existing.astype(np.int64), np.zeros_like(ids)], axis=1)


def _check(size: tuple[int, int, int], length: int) -> None:
    """Refuse sizes that cannot be generated."""
    if len(size) != len(SPLITS) or min(size) < 1:
        raise MSABenchError(f"size {list(size)} of synth is not allowed; give three numbers of clips, each at least 1")
    if length < MIN_LENGTH:
        raise MSABenchError(f"length {length} of synth is not allowed; give at least {MIN_LENGTH} steps")


def generate(
    size: tuple[int, int, int] = DEFAULT_SIZE, length: int = DEFAULT_LENGTH, latent: Latent = LATENT
) -> RawCorpus:
    """Generate the corpus; the same arguments always give the same bytes.

    Args:
        size: Clips in train, valid and test, each at least 1.
        length: Steps T of every modality, at least 8.
        latent: Parameters; others than the frozen ones are for studies of the generator and are not ``REVISION``.

    Returns:
        ``train``, ``valid`` and ``test`` with text ``(N, T, 768)``, audio ``(N, T, 5)``, vision ``(N, T, 20)``, tokens
        ``(N, 3, T)``, labels in [-3, 3] in steps of 0.2, all padded at the end with zeros.

    Raises:
        MSABenchError: ``size`` or ``length`` is out of range.
    """
    _check(size, length)
    splits = {}
    for index, (split, n) in enumerate(zip(SPLITS, size, strict=True)):
        clips = _draw_clips(latent, index, n, length)
        features: dict[str, NDArray[np.float32]] = {}
        valences: dict[str, _FloatArray] = {}
        for modality in MODALITIES:
            features[modality], valences[modality] = _render(latent, index, modality, clips, length)
        splits[split] = RawSplit(
            features=features,
            lengths=clips.lengths,
            labels=clips.labels,
            ids=[f"{split}{row // _CLIPS_PER_VIDEO:03d}$_${row % _CLIPS_PER_VIDEO}" for row in range(n)],
            tokens=_write_words(latent, index, clips, valences["text"]),
        )
    return RawCorpus(splits=splits)


def revision(size: tuple[int, int, int] = DEFAULT_SIZE, length: int = DEFAULT_LENGTH) -> str:
    """Revision of a generated corpus, e.g. ``r1-1284x229x686-T50``.

    Raises:
        MSABenchError: ``size`` or ``length`` is out of range.
    """
    _check(size, length)
    return f"{REVISION}-{'x'.join(map(str, size))}-T{length}"


def cue_frames(
    size: tuple[int, int, int] = DEFAULT_SIZE, length: int = DEFAULT_LENGTH, latent: Latent = LATENT
) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Which frames carry the cue in the corpus of the same arguments; for analyses, never for a method.

    Args:
        size: Clips in train, valid and test, each at least 1.
        length: Steps T of every modality, at least 8.
        latent: Parameters of the corpus.

    Returns:
        split -> modality -> bool ``(N, T)``.

    Raises:
        MSABenchError: ``size`` or ``length`` is out of range.
    """
    _check(size, length)
    return {
        split: _draw_clips(latent, index, n, length).carries
        for index, (split, n) in enumerate(zip(SPLITS, size, strict=True))
    }
