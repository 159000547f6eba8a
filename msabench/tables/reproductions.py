"""What the store holds of the papers' corpora, methods and variants. Free of torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msabench.methods.registry import methods as registered
from msabench.published.layouts import PAPER_TABLES
from msabench.published.readings import readings
from msabench.published.tables import is_of_kind
from msabench.results.aggregate import PROTOCOL, ROW, over_seeds_of
from msabench.results.build import doubts, entry_of, failure_line, mark_alike
from msabench.results.record import JobRecord
from msabench.results.records import Job, Records
from msabench.results.table import CONSTANT, Entry, Row

Protocol = tuple[str, ...]
"""Values of ``aggregate.PROTOCOL``."""

Identity = tuple[Protocol, tuple[Any, ...]]
"""Values of ``aggregate.PROTOCOL`` and ``aggregate.ROW``."""


_KEYS = {
    name: tuple(
        dict.fromkeys(
            key
            for table in PAPER_TABLES
            for block in table.blocks
            for column in block.columns
            for key in readings(name, column.metric, column.emotion)
            if block.dataset == name
        )
    )
    for name in dict.fromkeys(name for table in PAPER_TABLES for name in table.datasets)
}
"""Corpus -> the metric keys that its columns in papers' tables can be read under."""


@dataclass(frozen=True)
class Run:
    """A method as it was run under one protocol and configuration.

    Attributes:
        protocol: Values of ``aggregate.PROTOCOL``.
        row: What it is, its training seeds, its failed jobs; it holds no numbers.
    """

    protocol: Protocol
    row: Row

    @property
    def identity(self) -> Identity:
        """What its lines in a summary share."""
        return self.protocol, tuple(getattr(self.row, name) for name in ROW)


class Reproductions:
    """Numbers of the store that may stand beside printed ones.

    Records of other corpora than the papers' (``synth``, ``mosei_video``) are not in it, whatever their methods, nor
    are those of tuned settings. Each metric is summarised once per corpus.

    Args:
        records: Records as ``ResultStore.records`` gives them.
        failures: Failed jobs, as ``ResultStore.failures`` gives them.
    """

    def __init__(self, records: Records, failures: Sequence[JobRecord]) -> None:
        corpora = {name for table in PAPER_TABLES for name in table.datasets}
        rows = {row for table in PAPER_TABLES for block in table.blocks for row in block.rows}
        methods = {CONSTANT, *(row.method for row in rows)}
        # A method from outside, or predictions from elsewhere, may have the name of one of the papers; and with other
        # settings than the paper's nothing of it is reproduced.
        self._records = records.keeping(
            lambda job: (
                not job["external"]
                and (job["origin"], job["tuning"]) == ("", "")
                and job["dataset"] in corpora
                and job["method"] in methods
            )
        )
        self._runs: dict[tuple[str, str, str], dict[Identity, Run]] = defaultdict(dict)
        for finished in self._records.jobs:
            self._run(finished).row.n_seeds += 1
        for job in failures:
            if job.key.dataset in corpora and job.key.method in methods and not job.key.tuning:
                run = self._run(vars(job.key))
                run.row.failures.append(failure_line(job, run.row))
        for runs in self._runs.values():
            alike: dict[Protocol, list[Row]] = defaultdict(list)
            for run in runs.values():
                alike[run.protocol].append(run.row)
            for group in alike.values():
                mark_alike(group)
        self._entries: dict[str, dict[tuple[Any, ...], Entry]] = {}
        self._warnings: dict[Protocol, list[str]] = {}

    def _run(self, job: Job) -> Run:
        protocol = tuple(job[name] for name in PROTOCOL)
        about = {name: job[name] for name in ROW}
        runs = self._runs[job["dataset"], job["method"], job["variant"]]
        identity = (protocol, tuple(about.values()))
        if identity not in runs:
            known = registered().get(job["method"])
            runs[identity] = Run(protocol, Row(**about, seed=None, fidelity=known.fidelity if known else "unknown"))
        return runs[identity]

    def runs(self, dataset: str, features: str, method: str, variant: str = "default") -> list[Run]:
        """Runs of a method and variant on a corpus.

        Args:
            dataset: Corpus name.
            features: ``aligned`` or ``unaligned``; empty takes both.
            method: Method name.
            variant: Variant.

        Returns:
            Runs selected on validation first, then in the order of protocol, regime, version and configuration.
        """
        found = self._runs.get((dataset, method, variant), {}).values()
        selection, family = PROTOCOL.index("selection"), PROTOCOL.index("features")
        fitting = [run for run in found if is_of_kind(run.protocol[family], features)]
        return sorted(fitting, key=lambda run: (run.protocol[selection] != "val", run.identity))

    def entry(self, run: Run, dataset: str, metric: str, cell: str) -> Entry | None:
        """A run's number.

        Args:
            run: The run.
            dataset: Its corpus.
            metric: Metric key.
            cell: Cell name as in records, or a key of ``AVERAGES``.

        Returns:
            The number, or None if there are no records of it.
        """
        if dataset not in self._entries:
            self._entries[dataset] = self._summarised(dataset)
        return self._entries[dataset].get((*run.identity, metric, cell))

    def _summarised(self, dataset: str) -> dict[tuple[Any, ...], Entry]:
        """Identity, metric and cell -> number, of all that was run on a corpus."""
        here = self._records.of(dataset=dataset)
        keys = [key for key in _KEYS[dataset] if not np.isnan(here.values(key)).all()]
        return {
            (
                tuple(line[name] for name in PROTOCOL),
                tuple(line[name] for name in ROW),
                line["metric"],
                line["cell"],
            ): entry_of(line)
            for line in over_seeds_of(here, keys)
        }

    def warnings(self, protocol: Protocol) -> list[str]:
        """What makes numbers of a protocol not comparable, or not those of the corpus.

        Args:
            protocol: The protocol of a run.
        """
        if protocol not in self._warnings:
            self._warnings[protocol] = doubts(self._records, dict(zip(PROTOCOL, protocol, strict=True)))
        return self._warnings[protocol]
