"""Which rows of which tables a comparison or a figure is about, and the runs behind each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msabench.data.registry import corpora
from msabench.errors import MSABenchError, one_of
from msabench.metrics.spec import metric_spec
from msabench.missingness.conditions import AVERAGES, GRIDS, parse_grid
from msabench.results.aggregate import jobs_by_row
from msabench.results.derived import DERIVED, columns_for, derived
from msabench.results.places import no_records, predictions_file
from msabench.results.record import JobRecord
from msabench.results.records import Records
from msabench.results.rows import key_of
from msabench.results.store import ResultStore
from msabench.results.table import CONSTANT, Row, Table, columns_of
from msabench.results.tuned import Tuning, check_tuning, left_out_words


@dataclass
class ChosenRows:
    """Rows of one table: one corpus, one protocol, one metric.

    Attributes:
        table: The table; its rows are those asked for that have records, with an entry for every cell and average.
        jobs: For each row, training seed -> job id.
        left_out: What was asked for and has no records under this protocol, and failed jobs; sentences.
        revisions: Revisions of the corpus that the store has records of, whichever were asked for; sorted.
    """

    table: Table
    jobs: list[dict[int, str]]
    left_out: list[str]
    revisions: tuple[str, ...] = ()

    @property
    def revision(self) -> str:
        """The revision of the data where the store has records of several; empty where there is nothing to tell."""
        return self.table.protocol["revision"] if len(self.revisions) > 1 else ""

    @property
    def title(self) -> str:
        """The corpus's name to print, with ``revision`` behind it."""
        return f"{self.table.title} (revision {self.revision})" if self.revision else self.table.title

    @property
    def names(self) -> list[str]:
        """A name for each row: its label, with the regime where the label alone stands for several."""
        labels = Counter(row.label for row in self.table.rows)
        return [row.label if labels[row.label] == 1 else full_name(row) for row in self.table.rows]

    def keeping(self, places: Sequence[int]) -> ChosenRows:
        """The same with these rows alone."""
        table = replace(self.table, rows=[self.table.rows[place] for place in places])
        return replace(self, table=table, jobs=[self.jobs[place] for place in places])

    def files(self, place: int, store: Path) -> dict[int, Path]:
        """Training seed -> stored predictions of a row."""
        dataset, method = self.table.dataset, self.table.rows[place].method
        return {seed: predictions_file(store, dataset, method, job_id) for seed, job_id in self.jobs[place].items()}


def full_name(row: Row) -> str:
    """A row's label with its training regime."""
    return f"{row.label} ({row.regime})"


def choose_rows(
    store: Path,
    datasets: Sequence[str] | None,
    methods: Sequence[str] | None,
    metric: str | None,
    variants: Sequence[str] | None = None,
    *,
    constant: bool = False,
    intervals: bool = False,
    scored: bool = False,
    baseline: str | None = None,
    quantities: Sequence[str] = (),
    records: tuple[Records, list[JobRecord]] | None = None,
    grid: Sequence[str] = ("paper",),
    revision: Sequence[str] | None = None,
    tuning: Tuning | None = None,
) -> list[ChosenRows]:
    """Find what a store has of some methods.

    Args:
        store: Folder of the result store.
        datasets: Corpora; all in the store if not given.
        methods: Methods; all if not given.
        metric: Metric key; each corpus's usual one if not given.
        variants: Variants; only ``default`` if not given.
        constant: Whether the constant baseline is among the rows although nobody named it.
        intervals: Whether entries get bootstrap intervals, which takes predictions.
        scored: Whether predictions from elsewhere, which were only scored here, are among the rows although nobody
            named them in ``methods``.
        baseline: A method that somebody named besides ``methods``.
        quantities: Names of derived quantities that entries are made for; other names count for nothing.
        records: ``records()`` and ``failures()`` of the store, from those who have read them; or what they hold of
            ``datasets``.
        grid: Names of the grids and cells that rows have entries for, with their averages.
        revision: Revisions of the data; all if not given.
        tuning: Which rows to take, of default and of tuned settings; None leaves it to ``tuned.Shown``.

    Returns:
        The chosen rows of each corpus and protocol that has any of it, in the order of ``datasets``.

    Raises:
        MSABenchError: A name is unknown, or the store has nothing of it; says what is there or how to make it.
    """
    from msabench.results.build import build_tables, check_methods, metrics_in, parts_of

    check_tuning(tuning)
    if metric is not None:
        metric_spec(metric)
    held, failures = records or (ResultStore(store).records(), ResultStore(store).failures())
    wanted = _datasets(datasets, sorted(held.held("dataset")), store)
    revisions = {name: tuple(sorted(held.of(dataset=name).held("revision"))) for name in wanted}
    if revision is not None:
        require_revisions(revision, revisions, datasets or (), store)
        held = held.among("revision", revision)
        failures = [job for job in failures if job.key.revision in revision]
        wanted = [name for name in wanted if not set(revision).isdisjoint(revisions[name])]
    without = [] if metric is None else [name for name in wanted if metric not in metrics_in(held, name)]
    if without and (datasets or len(without) == len(wanted)):
        allowed = dict.fromkeys(key for name in without for key in metrics_in(held, name))
        raise MSABenchError(
            f"no record of {', '.join(without)} in {store} has metric {metric!r}; allowed: {', '.join(allowed)}"
        )
    wanted = [name for name in wanted if name not in without]
    check_methods(methods or [], held)
    kinds = ["default", *(job.key.variant for job in failures), *held.held("variant")]
    for variant in variants or ():
        if variant not in kinds:
            raise one_of(f"variant in {store}", variant, dict.fromkeys(kinds))
    shown = variants or ["default"]
    held = held.keeping(lambda job: job["variant"] in shown or job["method"] == CONSTANT)
    failures = [job for job in failures if job.key.variant in shown]
    named = {*(methods or ()), baseline}
    hidden = held.keeping(lambda job: not scored and job["origin"] != "" and job["method"] not in named)
    held = held.keeping(lambda job: scored or job["origin"] == "" or job["method"] in named)
    found = []
    for dataset in wanted:
        jobs = {metric_set: jobs_by_row(part) for metric_set, part in parts_of(held, dataset).items()}
        for table in build_tables(
            held,
            failures,
            dataset,
            metric,
            (*columns_of(list(grid)), *columns_for(quantities)),
            methods=methods,
            predictions=store if intervals else None,
            tuning=tuning,
        ):
            left_out = [f"failed job {line}" for row in table.rows for line in row.failures]
            if methods is None and (names := sorted(hidden.of(dataset=dataset).held("method"))):
                left_out.append(f"{', '.join(names)}, only scored here (--scored takes them in)")
            if table.tuned_left_out:
                left_out.append(left_out_words(table.tuned_left_out))
            with_constant = constant or CONSTANT in (methods or ())
            table.rows = [row for row in table.rows if row.entries and (with_constant or row.method != CONSTANT)]
            there = {row.method for row in table.rows}
            left_out += [
                f"{method}, which has no records under this protocol" for method in methods or () if method not in there
            ]
            if not there - {CONSTANT} and CONSTANT not in (methods or ()):
                continue
            if without:
                table.warnings.append(f"Left out for lack of {metric}: {', '.join(without)}.")
            mine = [jobs[table.metric_set][key_of(table, row)] for row in table.rows]
            found.append(ChosenRows(table, mine, left_out, revisions[dataset]))
    if not found:
        kind = "tuned settings of " if tuning == "tuned" else ""
        asked = f"{kind}{' '.join(methods or ['any method'])} ({' '.join(shown)})"
        others = " (--scored takes in what was only scored here)" if len(hidden) else ""
        raise MSABenchError(
            f"{store} has no records of {asked} on {' '.join(wanted)}{others}; `msabench table` says what it has"
        )
    return found


def require_revisions(
    asked: Sequence[str], held: Mapping[str, Sequence[str]], datasets: Sequence[str], store: Path
) -> None:
    """Refuse revisions of the data that nothing is recorded of.

    Args:
        asked: The revisions that somebody named.
        held: Corpus -> the revisions that there are records of.
        datasets: Corpora that somebody named; each must have one of the revisions.
        store: Folder of the result store.

    Raises:
        MSABenchError: No corpus has a revision, or a corpus has none of them.
    """
    known = list(dict.fromkeys(revision for revisions in held.values() for revision in revisions))
    for revision in asked:
        if revision not in known:
            raise one_of(f"revision in {store}", revision, known)
    for name in datasets:
        if set(asked).isdisjoint(held[name]):
            raise MSABenchError(
                f"{store} has no records of {name} of revision {' or '.join(asked)}, only of {', '.join(held[name])}"
            )


def cells_of(names: Sequence[str], *, averages: bool = True, quantities: bool = False) -> tuple[str, ...]:
    """Expand grids into cell names; averages stay.

    Args:
        names: Names of grids, cells and averages.
        averages: Whether averages are allowed.
        quantities: Whether names of derived quantities are allowed too; they stay.

    Raises:
        MSABenchError: A name is none of these, or there is none.
    """
    named = [*(AVERAGES if averages else ()), *(DERIVED if quantities else ())]
    if not names:
        raise MSABenchError(f"no cells are given; give cells such as inter/la, or {', '.join([*named, *GRIDS])}")
    found: dict[str, None] = {}
    for name in names:
        quantity = derived(name) if quantities else None
        if quantity is not None:
            found[quantity.key] = None
            continue
        if name not in named and "/" not in name and name not in GRIDS:
            raise one_of("cell", name, [*named, *GRIDS, "or cells such as inter/la and intra/0.3"])
        found.update(dict.fromkeys([name] if name in named else map(str, parse_grid(name))))
    return tuple(found)


def grid_of(cells: Sequence[str]) -> tuple[str, ...]:
    """What ``choose_rows`` has to make entries for, so that these cells and averages are among them.

    Args:
        cells: Cell names and keys of ``AVERAGES``.
    """
    parts = [str(part) for cell in cells for part in AVERAGES.get(cell, (cell,))]
    return tuple(dict.fromkeys(["paper", *parts]))


def _datasets(asked: Sequence[str] | None, held: list[str], store: Path) -> list[str]:
    if not held:
        raise no_records(store)
    for name in asked or ():
        if name not in held:
            if name not in corpora():
                raise one_of("dataset", name, [*corpora(), *(name for name in held if name not in corpora())])
            raise MSABenchError(
                f"{store} holds no records of {name}, only of {', '.join(held)}; make some with "
                f"`msabench run --suite SUITE --datasets {name} --store {store}` (see `msabench suites`)"
            )
    return list(dict.fromkeys(asked or held))
