"""Records of tuned settings: what they say of their study, and when their rows are shown. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from msabench.errors import one_of
from msabench.results.study import TUNING, Sampler
from msabench.results.table import CONSTANT

if TYPE_CHECKING:
    from msabench.results.record import JobRecord

Tuning = Literal["default", "tuned", "all"]
"""Rows to show: those of the settings of configs, those of tuned settings, or both."""

MEANING = (
    "tuned(n, sampler, seed s) = settings with the lowest val/task of n trials on the validation split, trained anew "
    "under fresh seeds; what was tried and spent: `msabench tuning`"
)
"""What stands below a table with tuned rows."""

_LABEL = re.compile(rf"tuned\((\d+), ({'|'.join(get_args(Sampler))}), seed (-?\d+)\)")
_HEX = re.compile(r"[0-9a-f]{12}")
_REFERENCE: Mapping[str, tuple[type, ...]] = {
    "study": (str,),
    "content": (str,),
    "label": (str,),
    "trial": (int,),
    "settings": (dict,),
    "trials": (int,),
    "seconds": (int, float),
}
"""Fields of ``Study.reference`` -> their types."""


def check_tuning(tuning: str | None) -> None:
    """Refuse what is none of ``Tuning``, nor None.

    Raises:
        MSABenchError: It is something else.
    """
    if tuning is not None and tuning not in get_args(Tuning):
        raise one_of("tuning", tuning, get_args(Tuning))


def reference_problem(job: JobRecord) -> str | None:
    """What is wrong with what a record says of its tuning, as the end of a sentence; None if nothing is.

    Args:
        job: The record. One with ``JobKey.tuning`` has under ``TUNING`` in its provenance what ``Study.reference``
            gives, with the same label; one without has neither. A failed job may lack the reference.
    """
    label, given = job.key.tuning, job.provenance.get(TUNING)
    if label and not _LABEL.fullmatch(label):
        return f"has tuning {label!r}; allowed: none, or as in 'tuned(50, random, seed 1)'"
    if label and job.key.origin:
        return f"has tuning {label!r} and origin {job.key.origin!r}; what was only scored here was not tuned here"
    if given is None:
        needed = bool(label) and job.status == "ok"
        return f"has tuning {label!r}, but its provenance names no study under {TUNING!r}" if needed else None
    if not isinstance(given, dict) or given.keys() != _REFERENCE.keys():
        names = sorted(given) if isinstance(given, dict) else type(given).__name__
        return f"names its study by {names}; expected {', '.join(_REFERENCE)}"
    for name, kinds in _REFERENCE.items():
        if type(given[name]) not in kinds:
            return f"names its study with {name} = {given[name]!r}; expected a {kinds[-1].__name__}"
    if not (_HEX.fullmatch(given["study"]) and _HEX.fullmatch(given["content"])):
        return f"names study {given['study']!r} with content {given['content']!r}; expected 12 hex digits each"
    if given["label"] != label:
        return f"has tuning {label!r}, but the study that its provenance names is {given['label']!r}"
    return None


def study_of(provenance: Mapping[str, Any]) -> str:
    """Id of the study that a checked record's provenance names; empty if it names none."""
    reference: Mapping[str, str] = provenance.get(TUNING) or {}
    return reference.get("study", "")


class Shown:
    """Which rows a table shows, of default and of tuned settings.

    If nobody says, the rows of default settings, since a tuned method beside others that are not is no comparison of
    methods; only where there is none of these, the tuned ones. The constant baseline and what was only scored here are
    shown in any case.

    Args:
        jobs: What the table may be made of, finished and failed: values of ``JobKey``, of one protocol.
        tuning: What was asked for; None if nothing was.
    """

    def __init__(self, jobs: Iterable[Mapping[str, Any]], tuning: Tuning | None) -> None:
        mine = [job for job in jobs if self._is_about(job)]
        tuned = [job for job in mine if job["tuning"]]
        both = bool(tuned) and len(tuned) < len(mine)
        self._tuning = tuning or ("tuned" if tuned and not both else "default")
        # Who asks for default settings knows that there may be others.
        left_out = tuned if both and tuning is None else []
        self.left_out = tuple(dict.fromkeys(_name(job) for job in left_out))
        """Methods whose tuned rows are not shown although nobody asked for that."""
        self.lacking = tuning == "tuned" and not tuned
        """Whether tuned rows were asked for and there are none."""

    @staticmethod
    def _is_about(job: Mapping[str, Any]) -> bool:
        return bool(job["tuning"]) or (job["method"] != CONSTANT and job["origin"] == "")

    def keeps(self, job: Mapping[str, Any]) -> bool:
        """Whether rows of a job are shown.

        Args:
            job: Values of ``JobKey``, at least ``method``, ``origin`` and ``tuning``.
        """
        return self._tuning == "all" or not self._is_about(job) or bool(job["tuning"]) == (self._tuning == "tuned")


def _name(job: Mapping[str, Any]) -> str:
    return job["method"] if job["variant"] == "default" else f"{job['method']}/{job['variant']}"


def left_out_words(methods: Iterable[str]) -> str:
    """What is said of methods whose tuned rows are left out, without a full stop."""
    return f"tuned rows of {', '.join(sorted(methods))} (--tuning tuned shows them, --tuning all both)"
