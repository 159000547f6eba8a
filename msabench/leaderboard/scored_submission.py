"""What is checked of a contributed record of predictions that were made elsewhere. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from msabench.data.registry import corpora, dataset_info
from msabench.errors import MSABenchError
from msabench.missingness.config import CHOICES
from msabench.results.predictions import StoredCell
from msabench.results.record import JobKey, JobRecord
from msabench.results.scored import content_hash, key_problems, scored_of

TRAINING_FACTS = (
    *("n_params", "epochs", "best_epoch", "val_task", "peak_memory_bytes"),
    *("train_seconds", "train_processor_seconds", "eval_seconds", "eval_processor_seconds"),
)
"""Fields of a record that nobody here can know of predictions from elsewhere."""


def scored_problems(job: JobRecord) -> Iterator[str]:
    """What of a scored job's record is not as ``msabench score`` writes it.

    Yields:
        One sentence per problem.
    """
    key = job.key
    try:
        scored = scored_of(job)
    except MSABenchError as error:
        yield str(error)
        return
    yield from scored.problems()
    if key.method != scored.slug:
        yield f"it stands under {key.method!r}, its title {scored.title!r} gives {scored.slug!r}"
    yield from key_problems(key)
    yield from _protocol_problems(key)
    for name in TRAINING_FACTS:
        if getattr(job, name) is not None:
            yield f"{name} is {getattr(job, name)!r}, which nobody here can know of predictions from elsewhere"
    yield from _config_problems(job.config)


def content_problems(key: JobKey, stored: Sequence[StoredCell]) -> Iterator[str]:
    """Whether a scored job's key is that of its predictions.

    Args:
        key: The job's key.
        stored: Its predictions.

    Yields:
        The problem, if there is one.
    """
    found = content_hash(stored[0].ids, [(cell.cell, cell.mask_seed, cell.preds) for cell in stored])
    if found != key.config_hash:
        yield f"its key is of other predictions: config_hash {key.config_hash!r}, these give {found!r}"


def _protocol_problems(key: JobKey) -> Iterator[str]:
    fills = CHOICES["token_fill"] if key.level == "tokens" else ("",)
    allowed = {"level": CHOICES["level"], "lengths": CHOICES["lengths"], "token_fill": fills}
    for name, words in allowed.items():
        if getattr(key, name) not in words:
            listed = ", ".join(word or "(empty)" for word in words)
            yield f"its key has {name} {getattr(key, name)!r}; allowed: {listed}"
    if key.dataset not in corpora() or key.dataset == "custom":
        listed = ", ".join(other for other in corpora() if other != "custom")
        yield f"{key.dataset!r} is no corpus that others have; allowed: {listed}"
        return
    try:
        dataset_info(key.dataset).file(key.features)
    except MSABenchError as error:
        yield str(error)


def _config_problems(config: dict[str, Any]) -> Iterator[str]:
    data = config.get("data", {})
    plain = isinstance(data, dict) and all(name in _OPENED and _OPENED[name](value) for name, value in data.items())
    if config.keys() - {"data"} or not plain:
        yield (
            f"its config says more than how the corpus was opened ({', '.join(_OPENED)}), which is all that is known "
            "of what was scored"
        )


def _is_count(value: Any) -> bool:
    return value is None or type(value) is int


_OPENED: dict[str, Callable[[Any], bool]] = {
    "size": lambda value: value is None or (isinstance(value, list) and all(map(_is_count, value))),
    "length": _is_count,
    "clip_labels": lambda value: value is True,
    "all_zero": lambda value: value == "absent",
    "valid_share": lambda value: type(value) is float,
    "valid_seed": _is_count,
}
"""How a corpus may have been opened -> whether a value of it is one."""
