"""What a corpus holds, and how much of its labels a linear probe reads from it.

The probe is a ridge regression on features that are averaged over the existing frames: a floor for methods that read
sequences, and the yardstick that ``synth`` is calibrated with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from msabench.data import synthetic
from msabench.data.info import SPLITS
from msabench.errors import MSABenchError
from msabench.missingness.conditions import LETTERS, SUBSETS

if TYPE_CHECKING:
    from msabench.data.corpus import Corpus, SplitData

ALPHAS = tuple(10.0 ** (step / 2) for step in range(-6, 13))
"""Ridge penalties that are tried, 0.001 to 1e6."""


FOLDS = 5
"""Parts of the training split in cross-validation."""

HIGH = 0.8
"""From this r of one modality on, a leak of labels is suspected: no frozen features of a real corpus are known to give
a linear probe as much, and what the best trained networks reach on CMU-MOSI lies about there."""

GAP = 0.15
"""From this difference between r within the training split and r on test on, a leak is suspected, if the difference is
also ``GAP_ERRORS`` of its standard errors, by Fisher's z."""

GAP_ERRORS = 3.0

_CHUNK = 256

_FloatArray = NDArray[np.float64]
_BoolArray = NDArray[np.bool_]
_Data = tuple[Sequence[_FloatArray], _FloatArray]
_Keep = Callable[[str, str], _BoolArray]


@dataclass(frozen=True)
class Probe:
    """A fitted ridge probe.

    Attributes:
        r: Pearson correlation on the test split; NaN if the prediction or the label is constant.
        alpha: The penalty that was chosen.
        predictions: float64 ``(N,)``, predictions for the test split in label units.
    """

    r: float
    alpha: float
    predictions: _FloatArray


def pool(features: NDArray[np.float32], keep: _BoolArray) -> _FloatArray:
    """Average frames.

    Args:
        features: float32 ``(N, T, D)``; may be memory-mapped, it is read in chunks of clips.
        keep: bool ``(N, T)``, the frames to average.

    Returns:
        float64 ``(N, D)``; zero for clips without a kept frame.
    """
    pooled = np.zeros((features.shape[0], features.shape[2]))
    for start in range(0, len(features), _CHUNK):
        rows = slice(start, start + _CHUNK)
        weight = keep[rows].astype(np.float32)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1)
        pooled[rows] = np.matmul(weight[:, None, :], features[rows])[:, 0]
    return pooled


def ridge_probe(train: _Data, valid: _Data, test: _Data, alphas: Iterable[float] = ALPHAS) -> Probe:
    """Fit a ridge regression in closed form.

    Features are z-scored with the statistics of ``train`` (constant ones are only centred) and divided by the root of
    their modality's number of features: one penalty then weighs on 768 text and on 5 audio features alike. The penalty
    is the one with the lowest squared error on ``valid``; ``test`` is only predicted.

    Args:
        train: One float array ``(N, D_m)`` per modality, and labels float ``(N,)``.
        valid: The same, for the choice of the penalty.
        test: The same, for the correlation.
        alphas: Penalties to try, each above 0.

    Returns:
        The correlation on ``test``, the penalty and the predictions.
    """
    blocks, y = train
    means = [block.mean(axis=0) for block in blocks]
    scales = [np.sqrt(block.shape[1]) * np.where((std := block.std(axis=0)) > 0, std, 1.0) for block in blocks]

    def standardise(blocks: Sequence[_FloatArray]) -> _FloatArray:
        scaled = [(block - mean) / scale for block, mean, scale in zip(blocks, means, scales, strict=True)]
        return np.concatenate(scaled, axis=1)

    z, z_valid, centre = standardise(blocks), standardise(valid[0]), y.mean()
    # Either normal form gives the same weights; the smaller of the two Gram matrices is decomposed.
    primal = z.shape[1] <= z.shape[0]
    eigenvalues, vectors = np.linalg.eigh(z.T @ z if primal else z @ z.T)
    rotated = vectors.T @ (z.T @ (y - centre) if primal else y - centre)

    best = (np.inf, np.nan, np.zeros(z.shape[1]))
    for alpha in alphas:
        solved = vectors @ (rotated / (np.maximum(eigenvalues, 0.0) + alpha))
        weights = solved if primal else z.T @ solved
        error = float(np.mean((z_valid @ weights + centre - valid[1]) ** 2))
        if error < best[0]:
            best = (error, alpha, weights)
    predictions = standardise(test[0]) @ best[2] + centre
    return Probe(_pearson(predictions, test[1]), best[1], predictions)


def _pearson(a: _FloatArray, b: _FloatArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else float("nan")


def _existing(split: SplitData, modality: str, padding: str) -> _BoolArray:
    """Bool ``(N, T)``, the frames of a modality that exist and were observed."""
    steps = np.arange(split.features[modality].shape[1])
    lengths = split.lengths[modality].numpy()[:, None]
    exist: _BoolArray = steps >= len(steps) - lengths if padding == "front" else steps < lengths
    return exist & split.observed[modality].numpy() if modality in split.observed else exist


def _condition_probes(corpus: Corpus, keep: _Keep) -> dict[str, dict[str, float]]:
    """Probe every condition, pooling over the frames that ``keep(split, modality)`` names.

    Emotions are probed one at a time; r is then the mean over emotions, alpha the last emotion's.
    """
    pooled = {
        (name, modality): pool(corpus.splits[name].features[modality].numpy(), keep(name, modality))
        for name in SPLITS
        for modality in LETTERS.values()
    }
    labels = {name: corpus.splits[name].labels.numpy().astype(np.float64) for name in SPLITS}
    labels = {name: y.reshape(len(y), -1) for name, y in labels.items()}
    found = {}
    for subset in SUBSETS:
        blocks = {name: [pooled[name, LETTERS[letter]] for letter in subset] for name in SPLITS}
        probes = []
        for column in range(labels["train"].shape[1]):
            train, valid, test = ((blocks[name], labels[name][:, column]) for name in SPLITS)
            probes.append(ridge_probe(train, valid, test))
        found[subset] = {"r": float(np.mean([p.r for p in probes])), "alpha": probes[-1].alpha}
    return found


def cross_validated(corpus: Corpus, modality: str) -> float:
    """Pearson r of the probe within the training split: each part is predicted by a probe that was fitted to the rest.

    Clips of one conversation are in one part, so that a speaker is not known already. The penalty is chosen on
    ``valid`` as for the test split. For emotions it is the mean over emotions.

    Args:
        corpus: Any corpus.
        modality: The modality to read.

    Returns:
        The correlation of all held-out predictions; NaN if there are fewer conversations than ``FOLDS``, or if no
        training clip shows anything of the modality.
    """
    from msabench.data.conversations import Conversations

    train, valid = corpus.splits["train"], corpus.splits["valid"]
    conversations = Conversations.of(train.ids)
    if len(conversations) < FOLDS or modality in corpus.unseen:
        return float("nan")
    # Fixed, so that a description can be repeated.
    part_of = np.random.default_rng(0).permutation(np.arange(len(conversations)) % FOLDS)
    part = part_of[conversations.number.numpy()]
    x, x_valid = (
        pool(split.features[modality].numpy(), _existing(split, modality, corpus.padding[modality]))
        for split in (train, valid)
    )
    y, y_valid = (split.labels.numpy().astype(np.float64).reshape(len(split), -1) for split in (train, valid))
    found = []
    for column in range(y.shape[1]):
        held_out = np.empty(len(y))
        for number in range(FOLDS):
            rest, here = part != number, part == number
            probe = ridge_probe(
                ([x[rest]], y[rest, column]), ([x_valid], y_valid[:, column]), ([x[here]], y[here, column])
            )
            held_out[here] = probe.predictions
        found.append(_pearson(held_out, y[:, column]))
    return float(np.mean(found))


def leak_suspected(within: float, test: float, n_train: int, n_test: int) -> str:
    """Why a modality is suspected to have seen labels, in words; empty if it is not.

    Args:
        within: r by cross-validation within the training split.
        test: r on the test split, fitted to the training split.
        n_train: Training clips.
        n_test: Test clips.
    """
    if np.isnan(within) or np.isnan(test):
        return ""
    if max(within, test) >= HIGH:
        return f"r = {max(within, test):.2f} is more than frozen features are known to give ({HIGH})"
    error = np.sqrt(1 / max(n_train - 3, 1) + 1 / max(n_test - 3, 1))
    gap = within - test
    if abs(gap) >= GAP and abs(np.arctanh(within) - np.arctanh(test)) >= GAP_ERRORS * error:
        split, other = ("training", "test") if gap > 0 else ("test", "training")
        return (
            f"r = {max(within, test):.2f} within the {split} split stands against {min(within, test):.2f} on the "
            f"{other} split"
        )
    return ""


def _label_shares(labels: NDArray[Any]) -> dict[str, float]:
    """Shares of negative, zero and positive labels, or of each emotion."""
    if labels.ndim == 2:
        from msabench.data.info import EMOTIONS

        return {emotion: float(share) for emotion, share in zip(EMOTIONS, labels.mean(axis=0), strict=True)}
    return {
        "negative": float(np.mean(labels < 0)),
        "zero": float(np.mean(labels == 0)),
        "positive": float(np.mean(labels > 0)),
    }


def describe(corpus: Corpus) -> dict[str, Any]:
    """Sizes, label shares, lengths and probe correlations of a corpus.

    Args:
        corpus: Any corpus with the splits train, valid and test.

    Returns:
        ``dataset``, ``features``, ``revision``, ``caveat`` (str); ``splits``: split -> ``clips`` (int), ``labels``
        (share of each class in [0, 1]) and ``lengths`` (modality -> min, mean, max, steps); ``probe``: condition ->
        ``r``, ``alpha`` and ``se`` (standard error of r for this number of test clips); ``within``: modality letter ->
        r by cross-validation within the training split; ``leaks``: modality letter -> why a leak of labels is
        suspected, only of those that are. For ``synth`` also
        ``cue_probe`` (the same, pooled over the frames that carry the cue) and ``targets`` (condition -> r).
    """
    splits: dict[str, Any] = {}
    for name in SPLITS:
        split = corpus.splits[name]
        splits[name] = {"clips": len(split), "labels": _label_shares(split.labels.numpy()), "lengths": {}}
        for modality in LETTERS.values():
            lengths = split.lengths[modality].numpy()
            splits[name]["lengths"][modality] = {
                "min": int(lengths.min()),
                "mean": float(lengths.mean()),
                "max": int(lengths.max()),
                "steps": int(split.features[modality].shape[1]),
            }
    facts: dict[str, Any] = {
        "dataset": corpus.info.name,
        "features": corpus.features,
        "revision": corpus.revision,
        "caveat": corpus.info.caveat,
        "splits": splits,
        "probe": _condition_probes(corpus, lambda s, m: _existing(corpus.splits[s], m, corpus.padding[m])),
    }
    n_test = splits["test"]["clips"]
    for probe in facts["probe"].values():
        probe["se"] = float((1.0 - probe["r"] ** 2) / np.sqrt(max(n_test - 1, 1)))
    facts["within"] = {letter: cross_validated(corpus, modality) for letter, modality in LETTERS.items()}
    reasons = {
        letter: leak_suspected(within, facts["probe"][letter]["r"], splits["train"]["clips"], n_test)
        for letter, within in facts["within"].items()
    }
    facts["leaks"] = {letter: reason for letter, reason in reasons.items() if reason}
    if corpus.info.name == "synth":
        n_train, n_valid, n_test = (splits[name]["clips"] for name in SPLITS)
        cues = synthetic.cue_frames((n_train, n_valid, n_test), splits["test"]["lengths"]["text"]["steps"])
        facts["cue_probe"] = _condition_probes(corpus, lambda s, m: cues[s][m])
        facts["targets"] = synthetic.TARGETS
    return facts


def render(facts: dict[str, Any]) -> str:
    """Print the facts of ``describe`` as plain text."""
    classes = list(facts["splits"]["train"]["labels"])
    lines = [f"{facts['dataset']} ({facts['features']}), revision {facts['revision']}"]
    if facts["caveat"]:
        lines.append(facts["caveat"])
    lines += [
        "",
        f"{'split':<8}{'clips':>7}" + "".join(f"{name:>10}" for name in classes) + "  lengths: min/mean/max of T",
    ]
    for name, split in facts["splits"].items():
        shares = "".join(f"{share:>10.1%}" for share in split["labels"].values())
        lengths = ", ".join(
            f"{modality} {span['min']}/{span['mean']:.1f}/{span['max']} of {span['steps']}"
            for modality, span in split["lengths"].items()
        )
        lines.append(f"{name:<8}{split['clips']:>7}{shares}  {lengths}")
    cue_probe, targets = facts.get("cue_probe"), facts.get("targets")
    lines += ["", "Pearson r on test of a ridge probe on features averaged over existing frames"]
    lines.append(f"(within train: by {FOLDS}-fold cross-validation, conversations kept together)")
    if cue_probe:
        lines.append("(cue frames: averaged over the frames that carry the cue, which no method is told)")
    header = f"{'modalities':<12}{'r':>7}{'s.e.':>7}{'alpha':>10}{'within train':>14}"
    lines.append(header + (f"{'target':>9}{'cue frames':>12}" if cue_probe else ""))
    for subset, probe in facts["probe"].items():
        line = f"{subset:<12}{probe['r']:>7.3f}{probe['se']:>7.3f}{probe['alpha']:>10.3g}"
        line += f"{facts['within'][subset]:>14.3f}" if subset in facts["within"] else f"{'-':>14}"
        if cue_probe and targets:
            target = f"{targets[subset]:.2f}" if subset in targets else "-"
            line += f"{target:>9}{cue_probe[subset]['r']:>12.3f}"
        lines.append(line)
    lines += [
        f"warning: labels may have leaked into {LETTERS[letter]}: {reason}; features must not come from a network that "
        "was trained on labels of these clips"
        for letter, reason in facts["leaks"].items()
    ]
    return "\n".join(lines)


def data_describe(
    dataset: str,
    features: str | None = None,
    root: Path | None = None,
    cache: Path | None = None,
    path: Path | None = None,
    size: list[int] | None = None,
    length: int | None = None,
    task: Literal["regression", "emotions"] = "regression",
    clip_labels: bool = False,
    valid_share: float | None = None,
    valid_seed: int | None = None,
) -> str:
    """Describe a corpus: split sizes, label shares, lengths, and what a ridge probe reads from each modality.

    Args:
        dataset: Name of the corpus, e.g. synth or mosi.
        features: Feature family, e.g. mmsa-aligned; the corpus's default if not given.
        root: Folder with the feature files; $MSABENCH_DATA or ./data if not given.
        cache: Folder for converted files; $XDG_CACHE_HOME/msabench or ~/.cache/msabench if not given.
        path: Feature file, for the dataset custom or in place of the default location.
        size: Clips in train, valid and test; synth only.
        length: Steps of every modality; synth only.
        task: Kind of labels of a custom file.
        clip_labels: Clip labels beyond the corpus's range and count them, instead of refusing the file.
        valid_share: Share of the training clips that becomes the validation split of a file without one, e.g. 0.1;
            whole conversations are taken.
        valid_seed: Which of them; 0 if not given.

    Returns:
        The description as plain text.

    Raises:
        MSABenchError: The corpus is unknown or cannot be read, or ``size`` has not three numbers.
    """
    if size is not None and len(size) != len(SPLITS):
        raise MSABenchError(f"size {size} is not allowed; give three numbers of clips: train, valid and test")
    from msabench.data.store import open_corpus

    corpus = open_corpus(
        dataset,
        features,
        root=root,
        cache=cache,
        path=path,
        size=(size[0], size[1], size[2]) if size else None,
        length=length,
        task=task,
        clip_labels=clip_labels,
        valid_share=valid_share,
        valid_seed=valid_seed,
    )
    return render(describe(corpus))
