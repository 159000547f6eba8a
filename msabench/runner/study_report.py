"""How a study ended, in words. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator

from msabench.results.study import Study
from msabench.results.study_settings import settings_of
from msabench.runner.plan import duration
from msabench.tables.render import grid_text

BEST_SHOWN = 5
"""Trials that are shown of a study."""


def report(title: str, study: Study) -> Iterator[str]:
    """How a study ended: a line of counts, and its best trials.

    Args:
        title: The study in words.
        study: The study with its trials.

    Yields:
        Lines.
    """
    counts = {state: sum(trial.state == state for trial in study.trials) for state in ("complete", "pruned", "failed")}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    seconds = sum(trial.seconds for trial in study.trials)
    limit = "" if study.hours is None else f", ended by its limit of {study.hours:g} hours"
    yield (
        f"study {study.study_id} of {title}: {study.label}, {len(study.trials)} trials ({said}) in "
        f"{duration(seconds)}{limit}"
    )
    complete = [trial for trial in study.trials if trial.val_task is not None]
    if not complete:
        yield f"no trial is complete: {next((trial.error for trial in study.trials if trial.error), '')}"
        return
    # In one order, whether the study was just made or read from its file.
    names = sorted(study.space)
    ranked = sorted(complete, key=lambda trial: (trial.val_task, trial.number))
    own = [trial for trial in ranked[BEST_SHOWN:] if trial.number == 0]
    grid = [["trial", "val/task", *(name.rpartition(".")[2] for name in names)]]
    for trial in (*ranked[:BEST_SHOWN], *own):
        settings = settings_of(study, trial)
        number = f"{trial.number} (config)" if trial.number == 0 else str(trial.number)
        grid.append([number, f"{trial.val_task:.4f}", *(_text(settings[name]) for name in names)])
    yield grid_text(grid)


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
