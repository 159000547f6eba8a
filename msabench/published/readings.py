"""What the name of a printed metric can stand for. Free of torch and pandas."""

from __future__ import annotations

from msabench.data.registry import corpora
from msabench.metrics.spec import METRICS, metric_keys

_PROTOCOLS: dict[str, tuple[str, ...]] = {"_neg_pos": ("_non0",), "_neg_nonneg": ("_has0",)}
"""Ending of a printed name -> endings of the keys that it can stand for; a plain name can stand for either."""


def readings(dataset: str, metric: str, emotion: str = "") -> tuple[str, ...]:
    """Metric keys that a printed name can stand for, the likeliest first.

    A plain ``F1`` on CMU-MOSI may leave out clips labelled 0 or not, and may take its arguments in either order. The
    first reading is the one under which reproduced numbers are shown where nothing more is known: clips labelled 0 left
    out, as most papers say or their evaluation code does, and ``f1_score(true, pred)``, which alone is the metric's
    definition.

    Args:
        dataset: Corpus name; one that is not registered is read as a sentiment corpus.
        metric: Name as printed, e.g. ``f1_neg_pos``.
        emotion: Emotion, for IEMOCAP.

    Returns:
        Keys of ``METRICS``; a name that can only be a key (``f1_has0``) stands for itself. Empty for differences and
        for what we do not compute.

    >>> readings("mosi", "f1")
    ('f1_non0', 'f1_has0', 'f1_non0_swapped', 'f1_has0_swapped')
    >>> readings("iemocap", "acc", "sad")
    ('acc_sad',)
    """
    if metric in METRICS and "_" in metric:
        return (metric,)
    info = corpora().get(dataset)
    known = metric_keys(info.metric_set if info else "sentiment")
    name = metric
    endings: tuple[str, ...] = ("", "_non0", "_has0")
    for ending, only in _PROTOCOLS.items():
        if metric.endswith(ending):
            name, endings = metric.removesuffix(ending), only
    stems = [f"{metric}_{emotion}"] if emotion else [f"{name}{ending}" for ending in endings]
    found = [key for key in (*stems, *(f"{stem}_swapped" for stem in stems)) if key in known]
    return tuple(found)
