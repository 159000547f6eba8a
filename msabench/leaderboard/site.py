"""Builds the site: one folder that works from disk. Free of torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msabench import __version__
from msabench.data.registry import corpora
from msabench.errors import one_of
from msabench.leaderboard import reproduce
from msabench.leaderboard.cards import FIDELITIES, card_of
from msabench.leaderboard.corpora import MARKS, corpus_rows
from msabench.leaderboard.folder import replacing_folder
from msabench.leaderboard.groups import Group, build_groups, page_of, to_json
from msabench.leaderboard.method_pages import job_entry, venue_of
from msabench.leaderboard.pages import Writer
from msabench.leaderboard.published_pages import write_published
from msabench.leaderboard.regime_page import write_regimes
from msabench.leaderboard.study_entries import SETTINGS, TRIALS, study_entry
from msabench.leaderboard.tuning_page import write_tuning
from msabench.leaderboard.vendored import copy_libraries, licence_texts
from msabench.methods.registry import methods as registered
from msabench.results.aggregate import DRAWS, LEVEL
from msabench.results.places import no_records
from msabench.results.record import METHOD, JobRecord
from msabench.results.scored import scored_of
from msabench.results.store import ResultStore
from msabench.results.stored_intervals import read_intervals
from msabench.results.study import Study, studies
from msabench.tables.costs import HEADER, LEGEND, cost_rows

ASSETS = Path(__file__).parent / "assets"


def build_site(out: Path, store: Path, published: Path, datasets: Sequence[str] | None = None) -> str:
    """Build the site.

    Args:
        out: The folder to be; replaced if it is a site of ours.
        store: Folder of the result store.
        published: Folder of published numbers.
        datasets: Corpora whose records are shown; None takes all of the store.

    Returns:
        What was built, one sentence.

    Raises:
        MSABenchError: There are no records, a corpus has none, a file is malformed, or the folder may not be replaced.
    """
    results = ResultStore(store)
    failures = results.failures()
    jobs = [*(job for job in results.jobs() if job.status == "ok"), *failures]
    if not jobs:
        raise no_records(store)
    held = sorted({job.key.dataset for job in jobs}, key=_place)
    for name in datasets or ():
        if name not in held:
            raise one_of(f"dataset in {store}", name, held)
    shown = [name for name in held if datasets is None or name in datasets]
    jobs = [job for job in jobs if job.key.dataset in shown]
    records = results.records(shown)
    groups = build_groups(records, [job for job in failures if job.key.dataset in shown], shown)
    built = f"Built by msabench {__version__} from {len(records):,} records of {_finished(jobs)} jobs."
    with replacing_folder(out) as folder:
        writer = Writer(folder, built)
        _write_assets(folder)
        numbers = to_json(groups, {name: read_intervals(store, name) for name in shown})
        _write_numbers(folder, numbers)
        _write_overview(writer, groups, jobs, built)
        writer.write("results.html", "results.html", "results")
        write_regimes(writer, store, shown, (records, failures))
        write_tuning(writer, store, shown, (records, failures))
        cells: dict[str, list[str]] = {}
        for job, cell in zip(records.job.tolist(), records.cell.tolist(), strict=True):
            cells.setdefault(records.jobs[job]["job_id"], []).append(records.cells[cell])
        tried = [study for study in studies(store) if study.dataset in shown]
        _write_methods(writer, groups, jobs, cells, tried)
        write_published(writer, published)
        writer.write("submit.html", "submit.html", "submit")
        writer.write("licences/index.html", "licences.html", "", texts=licence_texts(folder / "licences"))
    return f"{built} Open {out.absolute() / 'index.html'}"


def _place(dataset: str) -> tuple[int, str]:
    """Corpora in the order of the registry, others after them."""
    order = list(corpora())
    return (order.index(dataset) if dataset in order else len(order), dataset)


def _finished(jobs: Sequence[JobRecord]) -> int:
    return sum(job.status == "ok" for job in jobs)


def _write_assets(folder: Path) -> None:
    assets, licences = folder / "assets", folder / "licences"
    licences.mkdir()
    shutil.copytree(ASSETS, assets)
    copy_libraries(assets, licences)


def _write_numbers(folder: Path, numbers: dict[str, Any]) -> None:
    text = json.dumps(numbers, separators=(",", ":"), allow_nan=False)
    (folder / "data").mkdir()
    (folder / "data" / "results.js").write_text(f"window.msabenchResults = {text};\n", encoding="utf-8")


def _write_overview(writer: Writer, groups: Sequence[Group], jobs: Sequence[JobRecord], built: str) -> None:
    writer.write(
        "index.html",
        "index.html",
        "index",
        summary=built,
        corpora=corpus_rows(groups, jobs),
        marks=MARKS,
        fidelities=FIDELITIES,
        level=LEVEL,
        draws=DRAWS,
    )


def _write_methods(
    writer: Writer,
    groups: Sequence[Group],
    jobs: Sequence[JobRecord],
    cells: dict[str, list[str]],
    tried: Sequence[Study],
) -> None:
    """One page per registered or recorded method; ``cells`` holds the cell of every record of a job."""
    by_method: dict[str, list[JobRecord]] = {name: [] for name in registered()}
    for job in jobs:
        by_method.setdefault(job.key.method, []).append(job)
    for study in tried:
        by_method.setdefault(study.method, [])
    with_numbers = {row.method for group in groups for row in group.table.rows if row.entries}
    (writer.folder / reproduce.FOLDER).mkdir()
    entries = []
    for name in sorted(by_method):
        mine = by_method[name]
        elsewhere = name not in registered() and bool(mine) and all(job.key.origin for job in mine)
        scored = scored_of(mine[0]) if elsewhere else None
        card = card_of(name, external=any(METHOD in job.provenance for job in mine), scored=scored)
        finished = [job for job in mine if job.status == "ok"]
        trained = [job for job in finished if not job.key.origin]
        for job in finished:
            if reproduce.can_run(job):
                reproduce.write_job(job, cells[job.key.job_id], writer.folder / reproduce.FOLDER)
        venue = venue_of(card.info.venue, card.info.year) if card.info else ""
        writer.write(
            f"methods/{page_of(name)}",
            "method.html",
            "methods",
            card=card,
            venue=venue,
            fidelities=FIDELITIES,
            has_numbers=name in with_numbers,
            cost_header=HEADER,
            cost_legend=" ".join(LEGEND),
            costs=cost_rows(trained, {job.key.job_id: len(cells[job.key.job_id]) for job in trained}),
            jobs=[job_entry(job) for job in sorted(mine, key=_order)],
            studies=[study_entry(study, finished) for study in tried if study.method == name],
            settings_header=SETTINGS,
            trials_header=TRIALS,
        )
        records = f"{len(finished)} jobs" + (
            f", {len(mine) - len(finished)} failed" if len(finished) < len(mine) else ""
        )
        entries.append({"card": card, "page": page_of(name), "venue": venue, "records": records if mine else "none"})
    writer.write("methods.html", "methods.html", "methods", methods=entries, fidelities=FIDELITIES)


def _order(job: JobRecord) -> tuple[Any, ...]:
    key = job.key
    return (
        _place(key.dataset),
        key.variant != "default",
        key.variant,
        key.regime,
        key.tuning,
        key.config_hash,
        key.seed,
        job.status,
    )
