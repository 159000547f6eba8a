"""Studies of a suite: which trials are to be run, and what is trained once their budget is spent.

All trials of all studies are one stream of tasks for an executor. A study that is complete is kept in the store, and
its winner is trained under fresh seeds by ordinary jobs, with its settings as overrides.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msabench.errors import MSABenchError
from msabench.optional import require
from msabench.results.job_identity import job_key, what_is_trained
from msabench.results.record import JobKey
from msabench.results.store import ResultStore
from msabench.results.study import Study, Trial, read_study, study_file, write_study
from msabench.runner.execution import Failure, execute
from msabench.runner.executor import Executor
from msabench.runner.plan import Plan, duration, make_plan
from msabench.runner.study_report import report
from msabench.runner.suite import Job, Resolver, Suite, expand, resolver_of, with_seed
from msabench.runner.trials import OPENED, TrialTask
from msabench.training.config_words import as_words
from msabench.training.search_space import read_space, space_from, space_of
from msabench.tuning.budget import Budget
from msabench.tuning.folder import STUDIES, StudyFolder


@dataclass(frozen=True)
class PlannedStudy:
    """A study, and what its winner is trained for.

    Attributes:
        study: The study, without trials.
        budget: What it may spend.
        jobs: Trainings of the config's own settings under the fresh seeds, at least one.
    """

    study: Study
    budget: Budget
    jobs: tuple[Job, ...]

    @property
    def title(self) -> str:
        """The study in words, e.g. ``lf_dnn synth mixed``."""
        return self.jobs[0].title.rpartition(" seed ")[0]

    @property
    def problem(self) -> str:
        """Why it cannot run; empty if it can."""
        return self.jobs[0].problem

    def folder(self, runs: Path) -> StudyFolder:
        """Its folder below that of the runs."""
        return StudyFolder(runs / self.study.dataset / self.study.method / STUDIES / self.study.study_id)

    def trial(self, number: int, runs: Path, store: Path, place: StudyFolder | None = None) -> TrialTask:
        """A trial as a task.

        Args:
            number: The trial.
            runs: Folder of runs.
            store: The result store.
            place: Folder that it is run in instead of the study's.
        """
        study, job = self.study, self.jobs[0]
        words = [word for word in job.overrides if not word.startswith("--seed_everything=")]
        training = replace(
            job,
            key=replace(job.key, seed=study.training_seed, tuning=f"trial {number} of study {study.study_id}"),
            overrides=(*words, f"--seed_everything={study.training_seed}"),
            suites=(),
            config=with_seed(job.config, study.training_seed),
        )
        folder = self.folder(runs)
        return TrialTask(
            training,
            (place or folder).of_trial(number),
            store,
            study=study,
            number=number,
            hours=self.budget.hours,
            others=folder.path,
        )

    def open_trials(self, runs: Path, store: Path) -> list[TrialTask]:
        """The trials that are to be run."""
        tasks = [self.trial(number, runs, store) for number in range(self.study.budget)]
        return [task for task in tasks if not task.is_recorded()]

    def finished(self, runs: Path, store: Path) -> Study | None:
        """The study with its trials, as the store keeps it if it does; None while trials are to be run.

        Raises:
            MSABenchError: A file of it was changed.
        """
        kept = study_file(store, self.study)
        if kept.is_file():
            return read_study(kept)
        folder = self.folder(runs)
        trials: list[Trial] = []
        for number in range(self.study.budget):
            ended = folder.ended(number)
            if ended is None:
                break
            trials.append(ended.trial)
        spent = len(trials) == self.study.budget
        if not spent and not folder.is_out_of_time(len(trials), self.study.budget, self.budget.hours):
            return None
        return replace(self.study, trials=tuple(trials), hours=None if spent else self.budget.hours)

    def winners(self, study: Study, resolver: Resolver | None = None) -> list[Job]:
        """The trainings of the winner's settings.

        Args:
            study: The study with its trials.
            resolver: As in ``expand``.

        Raises:
            MSABenchError: No trial is complete.
        """
        # In one order, whether the study was just made or read from its file.
        settings, reference = dict(sorted(study.best.settings.items())), study.reference
        first = self.jobs[0]
        words = [word for word in first.overrides if not word.startswith("--seed_everything=")]
        config = resolver_of(resolver)(list(first.config_files), [*words, *as_words(settings)])
        found = []
        for job in self.jobs:
            seeded = with_seed(config, job.key.seed)
            found.append(
                replace(
                    job,
                    key=job_key(seeded, job.key.revision, job.key.features, study.label),
                    overrides=(*words, *as_words(settings), f"--seed_everything={job.key.seed}"),
                    config=seeded,
                    tuning=reference,
                )
            )
        return found


def plan_studies(suite: Suite, resolver: Resolver | None = None) -> list[PlannedStudy]:
    """The studies that a suite's entries ask for; equal ones become one.

    Args:
        suite: The suite.
        resolver: As in ``expand``.

    Raises:
        MSABenchError: As in ``expand``; or a method has no search space, or its config selects by the test split.
    """
    budgets = dict.fromkeys(job.budget for job in suite.jobs if job.budget is not None)
    found: dict[str, PlannedStudy] = {}
    for budget in budgets:
        mine = tuple(replace(job, budget=None) for job in suite.jobs if job.budget == budget)
        alike: dict[JobKey, list[Job]] = {}
        for job in expand(replace(suite, jobs=mine), resolver, OPENED):
            alike.setdefault(replace(job.key, seed=0), []).append(job)
        for jobs in alike.values():
            planned = _planned(budget, jobs)
            name = planned.study.study_id
            if name in found:
                both = dict.fromkeys((*found[name].jobs, *planned.jobs))
                planned = replace(planned, jobs=tuple(both))
            found[name] = planned
    if found:
        require("optuna", "tune")
    return list(found.values())


def _planned(budget: Budget, jobs: Sequence[Job]) -> PlannedStudy:
    job = jobs[0]
    if job.key.selection != "val":
        raise MSABenchError(
            f"data.selection {job.key.selection} of {job.title} is not allowed in tuning, which never opens the test "
            "split; leave it out"
        )
    configs = job.config_files[0].parent
    space = read_space(budget.space) if budget.space is not None else space_of(job.key.method, configs)
    study = Study(
        config=what_is_trained(job.config),
        dataset=job.key.dataset,
        revision=job.key.revision,
        method=job.key.method,
        space={name: found.to_data() for name, found in space.items()},
        budget=budget.trials,
        sampler=budget.sampler,
        pruning=budget.pruning,
        seed=budget.seed,
        training_seed=budget.training_seed,
        method_version=job.key.method_version,
    )
    return PlannedStudy(study, budget, tuple(jobs))


@dataclass(frozen=True)
class Studies:
    """The studies of a run.

    Attributes:
        planned: The studies.
        runs: Folder of runs.
        store: The result store.
    """

    planned: Sequence[PlannedStudy]
    runs: Path
    store: Path

    def open_trials(self) -> list[TrialTask]:
        """The trials that are to be run, study by study."""
        return [
            task
            for planned in self.planned
            if not planned.problem and planned.finished(self.runs, self.store) is None
            for task in planned.open_trials(self.runs, self.store)
        ]

    def problems(self) -> list[str]:
        """Why studies cannot run, one sentence each."""
        return [f"cannot run: tuning {planned.title}: {planned.problem}" for planned in self.planned if planned.problem]

    def jobs(self) -> tuple[list[Job], list[str]]:
        """The trainings of the winners of complete studies, and why others have none."""
        jobs: list[Job] = []
        reasons = self.problems()
        for planned in self.planned:
            study = None if planned.problem else planned.finished(self.runs, self.store)
            if study is None:
                continue
            try:
                jobs += planned.winners(study)
            except MSABenchError as error:
                reasons.append(str(error))
        return jobs, reasons

    def plan(self, others: Sequence[ResultStore]) -> Plan:
        """What the trials that are to be run are expected to cost.

        Args:
            others: As in ``make_plan``.
        """
        return make_plan([task.job for task in self.open_trials()], ResultStore(self.store), others)

    def describe(self, plan: Plan, slots: int) -> str:
        """What there is to do, in words.

        Args:
            plan: From ``plan``.
            slots: Tasks at a time.
        """
        total = sum(planned.study.budget for planned in self.planned)
        count = f"{len(self.planned)} stud{'y' if len(self.planned) == 1 else 'ies'}"
        lines = [f"{count}: {len(plan.todo)} of {total} trials to run, {slots} at a time"]
        for planned in self.planned:
            study, open_here = planned.study, len(planned.open_trials(self.runs, self.store))
            if planned.problem:
                continue
            finished = planned.finished(self.runs, self.store)
            left = f"{open_here} of {study.budget} trials to run" if finished is None else f"complete, {finished.label}"
            seeds = " ".join(str(job.key.seed) for job in planned.jobs)
            lines.append(f"  {study.study_id}  {planned.title:<40} {left}; then seeds {seeds}")
        seconds = plan.seconds(slots)
        if plan.todo:
            lines.append(f"estimated time of the trials: {'unknown' if seconds is None else duration(seconds)}")
        return "\n".join([*lines, *self.problems()])

    def run(self, engine: Executor, others: Sequence[ResultStore]) -> list[Failure]:
        """Run the trials that are to be run; each study that is complete by then is kept, and printed how it ended.

        Args:
            engine: What runs them.
            others: As in ``make_plan``.

        Returns:
            The trials that have not ended.

        Raises:
            KeyboardInterrupt: A signal came; what runs is ended.
        """
        for planned in self.planned:
            self._tell(planned)
        by_study = {planned.study.study_id: planned for planned in self.planned}
        shown: set[str] = set()

        def heard(task: object) -> None:
            assert isinstance(task, TrialTask)
            planned = by_study[task.study.study_id]
            if task.is_recorded():
                self._tell(planned)
                self._show(planned, shown)

        plan = self.plan(others)
        tasks = self.open_trials()
        failures = execute(tasks, plan.runnable, engine, heard=heard) if tasks else []
        for planned in self.planned:
            self._show(planned, shown)
        return failures

    def _tell(self, planned: PlannedStudy) -> None:
        from msabench.tuning.engine import tell

        folder = planned.folder(self.runs)
        if folder.path.is_dir():
            try:
                tell(folder, planned.study, space_from(planned.study.space))
            except OSError as error:
                # The truth is in the trials' own files; the journal is made again of them.
                print(f"the journal in {folder.path} could not be written: {error}", file=sys.stderr)

    def _show(self, planned: PlannedStudy, shown: set[str]) -> None:
        name = planned.study.study_id
        if name in shown or planned.problem:
            return
        study = planned.finished(self.runs, self.store)
        if study is not None:
            shown.add(name)
            write_study(self.store, study)
            print("\n".join(["", *report(planned.title, study), ""]), flush=True)
