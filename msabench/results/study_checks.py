"""Whether records of tuned settings are what their study selected. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator

from msabench.errors import MSABenchError, first_difference
from msabench.results.job_identity import what_is_trained
from msabench.results.record import JobRecord
from msabench.results.study import TUNING, Study
from msabench.results.study_settings import value_at, with_settings
from msabench.results.tuned import study_of

_NOT_IN_RECORD = ("seconds",)
"""Of ``Study.reference`` what two machines that ran the same study do not have in common."""


def study_problems(job: JobRecord, study: Study | None) -> Iterator[str]:
    """What contradicts that a finished job has the settings that its study selected.

    Args:
        job: A finished job whose line has been checked, with ``JobKey.tuning``.
        study: The study that it names; None if it is not at hand.

    Yields:
        One phrase per problem, such as ``its study 0123456789ab is not in the store``.
    """
    key = job.key
    if study is None:
        yield f"its study {study_of(job.provenance)} is not in the store"
        return
    for name in ("dataset", "revision", "method", "method_version"):
        if getattr(study, name) != getattr(key, name):
            yield f"its {name} is {getattr(key, name)!r}, that of its study {getattr(study, name)!r}"
    if study.training_seed == key.seed:
        yield f"its seed {key.seed} is the one that all trials of its study were trained under; take fresh ones"
    spent = len(study.trials) == study.budget or (study.hours is not None and len(study.trials) < study.budget)
    if not spent:
        yield f"its study has {len(study.trials)} trials of a budget of {study.budget}"
        return
    try:
        expected = study.reference
    except MSABenchError as error:
        yield str(error)
        return
    said = {name: value for name, value in job.provenance[TUNING].items() if name not in _NOT_IN_RECORD}
    other = first_difference(said, {name: expected[name] for name in said})
    if other:
        yield "its provenance says {} {!r} of its study, which says {!r}".format(*other)
        return
    settings = study.best.settings
    try:
        different = first_difference(what_is_trained(job.config), with_settings(study.config, settings))
    except (MSABenchError, KeyError, TypeError, ValueError, AttributeError):
        # A method from outside that is not named now: what was tuned can be compared all the same.
        different = first_difference({name: value_at(job.config, name) for name in settings}, settings)
    if different:
        yield "its config has {} {!r}, the winner of its study {!r}".format(*different)
