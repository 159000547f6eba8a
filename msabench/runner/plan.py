"""What a run will do: drops jobs that the store has, and estimates what the others cost. Free of torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from msabench.data.registry import corpora
from msabench.data.synthetic import DEFAULT_SIZE
from msabench.errors import MSABenchError
from msabench.missingness.conditions import distinct, parse_grid
from msabench.packaged import called
from msabench.results.record import JobRecord
from msabench.results.store import ResultStore
from msabench.runner.suite import Job


@dataclass(frozen=True)
class Planned:
    """A job to run.

    Attributes:
        job: The job.
        seconds: Estimated time on one slot of a machine that does nothing else, as far as records tell, else wall time;
            None if nothing comparable is stored.
        basis: Where the estimate comes from: of what, from how many records, processor seconds or wall time.
    """

    job: Job
    seconds: float | None
    basis: str


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes:
        todo: Jobs without a record, in the suite's order.
        done: Jobs with a record.
        lacking: Those of ``done`` whose records lack cells or mask seeds that are asked for now.
    """

    todo: tuple[Planned, ...]
    done: tuple[Job, ...]
    lacking: tuple[Job, ...] = ()

    @property
    def runnable(self) -> tuple[Planned, ...]:
        """Those of ``todo`` that nothing stands in the way of."""
        return tuple(planned for planned in self.todo if not planned.job.problem)

    def seconds(self, slots: int) -> float | None:
        """Estimated time of all that can run; None if a job's is unknown."""
        costs = [planned.seconds for planned in self.runnable]
        if any(cost is None for cost in costs):
            return None
        # No run is shorter than its longest job.
        return max(sum(c for c in costs if c) / max(slots, 1), *(c or 0.0 for c in costs), 0.0)

    def describe(self, slots: int) -> str:
        """The plan in words, one line per job that can run, one per reason why others cannot."""
        if self.todo and not self.runnable:
            return "\n".join(["nothing can run", *self.problems(), *self.warnings()])
        lines = [f"{len(self.todo)} of {len(self.todo) + len(self.done)} jobs to run, {slots} at a time"]
        for planned in self.runnable:
            note = planned.basis if planned.seconds is None else f"{duration(planned.seconds)}  ({planned.basis})"
            lines.append(f"  {planned.job.key.job_id}  {planned.job.title:<50} {note}")
        lines += self.problems()
        total = self.seconds(slots)
        unknown = sum(planned.seconds is None for planned in self.runnable)
        if self.todo:
            lines.append(
                f"estimated time: {duration(total)}"
                if total is not None
                else f"estimated time: unknown, since nothing comparable to {unknown} of the jobs is stored"
            )
        return "\n".join([*lines, *self.warnings()])

    def problems(self) -> list[str]:
        """Why jobs cannot run, each reason once."""
        held_up = [planned.job for planned in self.todo if planned.job.problem]
        counts = Counter((job.key.dataset, job.problem) for job in held_up)
        of = f"of {len(self.todo)} jobs on"
        return [f"cannot run: {count} {of} {dataset}: {problem}" for (dataset, problem), count in counts.items()]

    def warnings(self) -> list[str]:
        """What the user should know besides."""
        if not self.lacking:
            return []
        files = ", ".join(f"{job.key.dataset}/{job.key.method}/{job.key.job_id}.jsonl" for job in self.lacking)
        return [
            f"incomplete: {len(self.lacking)} of the jobs done lack cells or mask seeds of the suite, and records are "
            f"never changed, so delete these files of the store and run again, or name another store: {files}"
        ]


def make_plan(jobs: Iterable[Job], store: ResultStore, others: Sequence[ResultStore] = ()) -> Plan:
    """Compare jobs with a store.

    Args:
        jobs: The suite's jobs.
        store: Where records are.
        others: Stores to take estimates from where ``store`` has nothing comparable; those that cannot be read are
            passed over.

    Of the records that are comparable, those with processor seconds that tell (``JobRecord.processor_seconds``) are
    used alone, if there are any: wall time holds what else the machine did.

    Raises:
        MSABenchError: A record of ``store`` is malformed.
    """
    records = _finished(store)
    have = {record.key.job_id for record in records}
    jobs = list(jobs)
    done = tuple(job for job in jobs if job.key.job_id in have)
    todo = [job for job in jobs if job.key.job_id not in have]
    known = [_costs("", records)]
    for other in others if todo else ():
        with suppress(MSABenchError, OSError):
            known.append(_costs(f" in {called(other.folder)}", _finished(other)))
    return Plan(tuple(_estimate(job, known) for job in todo), done, _lacking(done, store))


def _finished(store: ResultStore) -> list[JobRecord]:
    return [record for record in store.jobs() if record.status == "ok"]


def duration(seconds: float) -> str:
    """Seconds in words: ``45 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _lacking(done: Sequence[Job], store: ResultStore) -> tuple[Job, ...]:
    if not done:
        return ()
    records = store.records(sorted({job.key.dataset for job in done}))
    stored: dict[str, set[tuple[str, int | None]]] = defaultdict(set)
    columns = (records.job, records.cell, records.mask_seed, records.drawn)
    for job, cell, seed, drawn in zip(*(column.tolist() for column in columns), strict=True):
        stored[records.jobs[job]["job_id"]].add((records.cells[cell], seed if drawn else None))
    return tuple(planned for planned in done if _asked(planned) - stored[planned.key.job_id])


def _asked(job: Job) -> set[tuple[str, int | None]]:
    cells = distinct(parse_grid(job.grid))
    return {(str(cell), seed) for cell in cells for seed in (job.mask_seeds if cell.is_random else (None,))}


Measured = list[tuple[float, bool]]
"""What comparable jobs took, and of each whether that is processor time."""

Costs = tuple[str, dict[tuple[str, str], Measured], dict[str, Measured]]
"""Where some costs are from, in words; (revision, config) -> seconds of jobs; method -> seconds per clip and epoch."""


def _estimate(job: Job, known: Sequence[Costs]) -> Planned:
    """Estimate a job from the costs that some stores know; earlier ones count more."""
    key, work = job.key, _work(job.config)
    if job.problem:
        return Planned(job, 0.0, "cannot run")
    for place, same, _ in known:
        if measured := same[key.revision, key.config_hash]:
            cost, origin = _mean(measured)
            return Planned(job, cost, f"same config{place}, {origin}")
    for place, _, rates in known:
        if work and (measured := rates[key.method]):
            rate, origin = _mean(measured)
            return Planned(job, work * rate, f"same method{place}, scaled by clips x epochs, {origin}")
    return Planned(job, None, "unknown, nothing comparable stored")


def _mean(measured: Measured) -> tuple[float, str]:
    """The mean of what says most, and what it is taken from, in words."""
    by_processor = [cost for cost, processor in measured if processor]
    costs = by_processor or [cost for cost, _ in measured]
    clock = "processor seconds" if by_processor else "wall time"
    return fmean(costs), f"from {len(costs)} record{'s'[: len(costs) > 1]}, {clock}"


def _costs(place: str, records: Sequence[JobRecord]) -> Costs:
    same: dict[tuple[str, str], Measured] = defaultdict(list)
    rates: dict[str, Measured] = defaultdict(list)
    for record in records:
        if record.train_seconds is None:
            continue
        processor = record.processor_seconds
        cost = record.train_seconds + (record.eval_seconds or 0.0) if processor is None else sum(processor)
        same[record.key.revision, record.key.config_hash].append((cost, processor is not None))
        work = _work(record.config, record.epochs)
        if work:
            rates[record.key.method].append((cost / work, processor is not None))
    return place, same, rates


def _work(config: dict[str, Any], epochs: int | None = None) -> float | None:
    """Training clips x epochs of a resolved config; None if one of them is not known."""
    data = config.get("data") or {}
    info = corpora().get(data.get("dataset", ""))
    sizes = data.get("size") or (info.split_sizes if info else None)
    if sizes is None and info is not None and info.name == "synth":
        sizes = DEFAULT_SIZE
    epochs = epochs or (config.get("trainer") or {}).get("max_epochs")
    return float(sizes[0] * epochs) if sizes and epochs and epochs > 0 else None
