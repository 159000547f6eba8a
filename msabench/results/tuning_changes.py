"""What tuned settings change, method by method, and what it took to find them. Free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msabench.results.aggregate import PROTOCOL, ROW
from msabench.results.chosen_rows import ChosenRows
from msabench.results.record import canonical_hash
from msabench.results.regime_changes import Change, MethodChange, StoredBounds, bounds_of_pair, gain
from msabench.results.rows import RowKey, key_of
from msabench.results.study import Study


@dataclass(frozen=True)
class Spent:
    """What a study took.

    Attributes:
        trials: Trials, whatever became of them.
        failed: Those that failed.
        pruned: Those that were given up early.
        seconds: Wall time of all trials.
        processor_seconds: Processor time of the trials that did not fail; None where one of them did not measure it.
    """

    trials: int
    failed: int
    pruned: int
    seconds: float
    processor_seconds: float | None

    @classmethod
    def of(cls, study: Study) -> Spent:
        """What a study took."""
        states = Counter(trial.state for trial in study.trials)
        processor = [trial.processor_seconds for trial in study.trials if trial.state != "failed"]
        known = [seconds for seconds in processor if seconds is not None]
        return cls(
            len(study.trials),
            states["failed"],
            states["pruned"],
            sum(trial.seconds for trial in study.trials),
            sum(known) if len(known) == len(processor) else None,
        )


@dataclass(frozen=True)
class TuningChanges:
    """All methods of one table with default and with tuned settings.

    Attributes:
        chosen: The table.
        methods: Those that have both, with their study; the one that gains most in the last cell first. ``row`` is the
            tuned row, ``before`` of its changes the default one.
        left_out: Tuned rows that are set beside nothing, with the reason; sentences.
    """

    chosen: ChosenRows
    methods: list[tuple[MethodChange, Study]]
    left_out: list[str]


def tuned_pairs(keys: Sequence[RowKey]) -> Iterator[tuple[int, int]]:
    """Places of rows that differ in their settings alone, tuned ones of the one and a config's of the other.

    Args:
        keys: The key of each row.

    Yields:
        (place of the tuned row, place of the row of default settings).
    """
    names = (*PROTOCOL, *ROW)
    tuning, config = names.index("tuning"), names.index("config_hash")
    default: dict[RowKey, list[int]] = {}
    same = [tuple(value for number, value in enumerate(key) if number not in (tuning, config)) for key in keys]
    for place, key in enumerate(keys):
        if not key[tuning]:
            default.setdefault(same[place], []).append(place)
    for place, key in enumerate(keys):
        if key[tuning]:
            yield from ((place, other) for other in default.get(same[place], ()))


def tuning_changes(
    chosen: ChosenRows,
    cells: Sequence[str],
    studies: Mapping[str, Study],
    study_of: Mapping[str, str],
    stored: StoredBounds,
    store: Path | None = None,
) -> TuningChanges:
    """Compare each tuned row of a table with the row of the settings that its study began with.

    Args:
        chosen: The rows, of default and of tuned settings.
        cells: Cell names and keys of averages.
        studies: Id -> study.
        study_of: Job id -> id of its study.
        stored: Bounds kept beside the records.
        store: Folder of the result store, for the predictions of rows without stored bounds; None leaves these without.

    Raises:
        MSABenchError: Predictions are of different clips.
    """
    rows = chosen.table.rows
    beside: dict[int, list[int]] = {place: [] for place, row in enumerate(rows) if row.tuning}
    for place, other in tuned_pairs([key_of(chosen.table, row) for row in rows]):
        beside[place].append(other)
    found: list[tuple[MethodChange, Study]] = []
    left_out = []
    for place, others in beside.items():
        row = rows[place]
        ids = sorted({study_of[job_id] for job_id in chosen.jobs[place].values()})
        study = studies.get(ids[0])
        # With other settings of the config, such as fewer epochs, more than the tuning would tell the rows apart.
        first = [other for other in others if study and rows[other].config_hash == canonical_hash(study.config, 12)]
        if len(ids) > 1 or study is None:
            reason = f"of several studies, {', '.join(ids)}" if len(ids) > 1 else f"whose study {ids[0]} is not here"
            left_out.append(f"{row.label} ({row.regime}), {reason}")
        elif not first:
            left_out.append(
                f"{row.label} ({row.regime}), which has no records of the settings that its study began with"
            )
        else:
            bounds = bounds_of_pair(chosen, place, first[0], cells, stored, store)
            before = rows[first[0]]
            both = [cell for cell in cells if cell in row.entries and cell in before.entries]
            changes = {cell: Change(cell, before.entries[cell], row.entries[cell], bounds.get(cell)) for cell in both}
            found.append((MethodChange(row, (before.n_seeds, row.n_seeds), changes), study))
    better = -1 if chosen.table.metric.direction == "min" else 1
    found.sort(key=lambda pair: gain(pair[0], cells[-1], better), reverse=True)
    return TuningChanges(chosen, found, left_out)
