"""Suites: YAML files that say which trainings make up an experiment.

::

    name: demo
    description: one line for `msabench suites`
    grid: [paper]                   # grids and cells to evaluate
    mask_seeds: [0, 1, 2]           # Seeds of the test masks
    seeds: [1111, 1112]             # one training each
    configs: ../../configs          # optional; default: the nearest configs/ above this file, else its own folder
    overrides:                      # settings of every job, as dotted keys of the config
      trainer.max_epochs: 8
      data.missing.regime: mixed
    jobs:
      - {method: constant, dataset: synth}       # uses configs/constant_synth.yaml
      - {method: umdf, dataset: synth, variants: [default, wo_mcim], overrides: {model.init_args.lr: 0.001}}
      - {method: mult, dataset: synth, regimes: [complete, {regime: intra, rate: [0.5, 0.5]}], config: my_mult.yaml}
      - {method: lf_dnn, dataset: synth, regimes: [mixed], specialists: [inter, random/0.3]}

A job entry expands into seeds x variants x regimes. Its own overrides come after the suite's, ``variants`` and
``regimes`` after both. ``specialists`` adds, for each cell of its grids, the regime that consists of that situation
alone: ``complete``, ``only(la)``, ``random(0.3)``; the suite's grid must have these cells. ``config`` is a path from
the config folder; ``seeds`` replaces the suite's. Where that folder has no such file, the config of that name that
comes with msabench is taken: a suite of one's own needs configs for its own methods alone.
``tune: {trials: 50, seed: 1}`` has settings found first, by a study of so many trials (``tuning.budget.Budget``), and
the winner trained under the seeds; with ``tuning: [default, tuned]`` the config's own settings are trained as well.
Both may stand at the top or in an entry.
``include: [a.yaml]`` adds the jobs of other suites, with the seeds and overrides that they have there; the grid and the
mask seeds must be this suite's. They, too, are looked up beside this file and then among those that come with msabench.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from msabench.data.info import SPLITS
from msabench.data.registry import dataset_info
from msabench.errors import MSABenchError, one_of
from msabench.files import yaml_of
from msabench.missingness.conditions import Cell, distinct, parse_grid
from msabench.packaged import CONFIGS, SUITES, beside_or_packaged
from msabench.results.job_identity import job_key, missing_config
from msabench.results.record import JobKey
from msabench.runner.suite_values import budgets_of, config_folder, listed, mapping, regimes_of, seeds_of
from msabench.training.config_words import as_words
from msabench.training.method_of_config import info_of
from msabench.tuning.budget import Budget

SUITE_KEYS = (
    *(
        "name",
        "description",
        "grid",
        "mask_seeds",
        "seeds",
        "overrides",
        "tune",
        "tuning",
        "configs",
        "include",
        "jobs",
    ),
)
ENTRY_KEYS = (
    *("method", "dataset", "variants", "regimes", "specialists", "seeds", "config", "overrides", "tune", "tuning"),
)
NO_REVISION = "missing"
"""Revision in the key of a job whose data are not here."""

Resolver = Callable[[list[Path], list[str]], dict[str, Any]]


@dataclass(frozen=True)
class UnresolvedJob:
    """A job of a suite before its config is resolved.

    Attributes:
        method: Registry name.
        dataset: Corpus name.
        seed: Seed of the training.
        config_file: The config.
        overrides: Command-line style settings, without the seed.
        budget: What is spent on finding settings for it first; None for the settings of the config.
    """

    method: str
    dataset: str
    seed: int
    config_file: Path
    overrides: tuple[str, ...]
    budget: Budget | None = None


@dataclass(frozen=True)
class Suite:
    """A suite file.

    Attributes:
        name: Label that records carry.
        description: One line.
        grid: Grids and cells to evaluate.
        mask_seeds: Seeds of the test masks.
        jobs: Its jobs, as written.
    """

    name: str
    description: str
    grid: tuple[str, ...]
    mask_seeds: tuple[int, ...]
    jobs: tuple[UnresolvedJob, ...]


@dataclass(frozen=True)
class Job:
    """One training with its evaluation.

    Attributes:
        key: What makes it distinct.
        config_files: Configs, later ones override earlier ones.
        overrides: Command-line style settings, with the seed.
        suites: Names of the suites it belongs to.
        grid: Grids and cells to evaluate.
        mask_seeds: Seeds of the test masks.
        config: Resolved config.
        problem: Why it cannot run, one sentence; empty if it can.
        tuning: ``Study.reference`` of the study that selected its settings; empty for those of the config.
    """

    key: JobKey
    config_files: tuple[Path, ...]
    overrides: tuple[str, ...]
    suites: tuple[str, ...]
    grid: tuple[str, ...]
    mask_seeds: tuple[int, ...]
    config: dict[str, Any] = field(default_factory=dict, compare=False)
    problem: str = ""
    tuning: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def title(self) -> str:
        """The job in words, e.g. ``umdf synth wo_mcim mixed tuned(50, random, seed 1) seed 1111``."""
        key = self.key
        parts = [key.method, key.dataset, "" if key.variant == "default" else key.variant, key.regime]
        return " ".join(part for part in (*parts, key.tuning, f"seed {key.seed}") if part)

    def to_json(self) -> dict[str, Any]:
        """The job as plain data."""
        return {**asdict(self), "key": self.key.to_json(), "config_files": [str(path) for path in self.config_files]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Job:
        """Read what ``to_json`` made."""
        values = {f.name: data[f.name] for f in fields(cls)}
        for name in ("overrides", "suites", "grid", "mask_seeds"):
            values[name] = tuple(values[name])
        values["config_files"] = tuple(Path(path) for path in values["config_files"])
        return cls(**{**values, "key": JobKey(**values["key"])})


def read_suite(path: Path, including: tuple[Path, ...] = ()) -> Suite:
    """Read and check a suite file; resolves no config and needs no torch.

    Args:
        path: The file.
        including: Suite files on the way from the outermost one to this.

    Raises:
        MSABenchError: The file is missing or is no YAML mapping, a key is unknown or lacks, a value is not allowed, or
            it includes itself or a suite with another grid or other mask seeds.
    """
    if not path.is_file():
        raise MSABenchError(f"there is no suite {path}; msabench suites lists those that there are")
    content = yaml_of(path)
    where = f"suite {path.name}"
    content = mapping(
        content, where, SUITE_KEYS, needed=("name",) if "include" in (content or {}) else ("name", "jobs")
    )
    grid = listed(content.get("grid", ["paper"]), str, f"grid of {where}")
    cells = distinct(parse_grid(grid))
    suite_seeds = seeds_of(content.get("seeds", [1111]), f"seeds of {where}")
    shared = mapping(content.get("overrides") or {}, f"overrides of {where}")
    folder = config_folder(path, content.get("configs"))
    tuning: dict[str, Any] = {name: content[name] for name in ("tune", "tuning") if name in content}
    mask_seeds = tuple(seeds_of(content.get("mask_seeds", [0, 1, 2]), f"mask_seeds of {where}"))
    found: list[UnresolvedJob] = []
    for name in listed(content.get("include", []), str, f"include of {where}"):
        found += _included(path, name, (*including, path), tuple(grid), mask_seeds)
    jobs = content.get("jobs", [])
    if not isinstance(jobs, list) or not (jobs or found):
        raise MSABenchError(f"jobs of {where} must be a list of mappings with the keys {', '.join(ENTRY_KEYS)}")
    for number, entry in enumerate(jobs, start=1):
        found += _unresolved_jobs(entry, f"job {number} of {where}", suite_seeds, shared, tuning, folder, cells)
    return Suite(
        name=str(content["name"]),
        description=str(content.get("description", "")),
        grid=tuple(grid),
        mask_seeds=mask_seeds,
        jobs=tuple(dict.fromkeys(found)),
    )


def _included(
    path: Path, name: str, including: tuple[Path, ...], grid: tuple[str, ...], mask_seeds: tuple[int, ...]
) -> tuple[UnresolvedJob, ...]:
    inner = beside_or_packaged(name, path.parent, SUITES) or path.parent / name
    if inner.resolve() in {outer.resolve() for outer in including}:
        raise MSABenchError(f"suite {path.name} includes {name}, which includes it in turn")
    suite = read_suite(inner, including)
    for what, theirs, ours in (("grid", suite.grid, grid), ("mask_seeds", suite.mask_seeds, mask_seeds)):
        if theirs != ours:
            raise MSABenchError(f"suite {path.name} has {what} {list(ours)} and includes {name} with {list(theirs)}")
    return suite.jobs


def select(
    suite: Suite,
    methods: Sequence[str] | None = None,
    datasets: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Suite:
    """Keep the jobs of some methods, datasets and seeds; None keeps all.

    Raises:
        MSABenchError: The suite has no job with one of the values.
    """
    found = list(suite.jobs)
    wanted: dict[str, Sequence[str | int] | None] = {"method": methods, "dataset": datasets, "seed": seeds}
    for name, values in wanted.items():
        for value in values or ():
            there = sorted({getattr(unresolved, name) for unresolved in suite.jobs})
            if value not in there:
                raise one_of(f"{name} of suite {suite.name}", value, there)
        if values:
            found = [unresolved for unresolved in found if getattr(unresolved, name) in values]
    return replace(suite, jobs=tuple(found))


def expand(suite: Suite, resolver: Resolver | None = None, splits: Sequence[str] = SPLITS) -> list[Job]:
    """Resolve a suite's jobs with the settings of their configs; equal trainings become one job.

    Those with a budget for tuning are left out, see ``runner.studies``.

    Args:
        suite: The suite.
        resolver: Parses configs; None for ``msabench.training.build.resolve``.
        splits: Splits of the data to open.

    Raises:
        MSABenchError: A config is missing, does not parse, or is of another method or dataset than its entry says, or
            the grid has a cell that means nothing at the level where a config drops text.
    """
    resolve = resolver_of(resolver)
    resolved: dict[tuple[Path, tuple[str, ...]], dict[str, Any]] = {}
    opened: dict[str, tuple[str, str | None, str]] = {}
    jobs: dict[JobKey, Job] = {}
    cells = distinct(parse_grid(suite.grid))
    for unresolved in suite.jobs:
        if unresolved.budget is not None:
            continue
        without_seed = (unresolved.config_file, unresolved.overrides)
        if without_seed not in resolved:
            resolved[without_seed] = resolve([unresolved.config_file], list(unresolved.overrides))
        config = with_seed(resolved[without_seed], unresolved.seed)
        source = json.dumps([config["data"].get(name) for name in ("dataset", *_SOURCE)], default=str)
        if source not in opened:
            opened[source] = open_data(config["data"], splits)
        revision, features, problem = opened[source]
        missing = missing_config(config)
        for cell in cells:
            missing.require(cell)
        key = job_key(config, revision, features)
        dataset = config["data"]["dataset"]
        if (key.method, dataset) != (unresolved.method, unresolved.dataset):
            raise MSABenchError(
                f"{unresolved.config_file} is a config of {key.method} on {dataset}; "
                f"suite {suite.name} expects {unresolved.method} on {unresolved.dataset}"
            )
        jobs[key] = Job(
            key=key,
            config_files=(unresolved.config_file,),
            overrides=(*unresolved.overrides, f"--seed_everything={unresolved.seed}"),
            suites=(suite.name,),
            grid=suite.grid,
            mask_seeds=suite.mask_seeds,
            config=config,
            problem=problem,
        )
    return list(jobs.values())


def resolver_of(given: Resolver | None) -> Resolver:
    """What parses configs: what is given, else ``msabench.training.build.resolve``."""
    if given is not None:
        return given
    # Lightning takes seconds to import; listing suites does without.
    from msabench.training.build import resolve

    return resolve


_SOURCE = (
    *("features", "root", "cache", "path", "task", "size", "length"),
    *("clip_labels", "all_zero", "valid_share", "valid_seed"),
)


def open_data(data: dict[str, Any], splits: Sequence[str] = SPLITS) -> tuple[str, str | None, str]:
    """Revision and features of a config's data, and why they cannot be had.

    Opening converts a new file here, once, where otherwise all workers would wait for one of them to do so.

    Args:
        data: Data section of a resolved config.
        splits: The splits to open.
    """
    from msabench.data.store import open_corpus

    settings = {name: data[name] for name in _SOURCE if data.get(name) is not None}
    for name in ("root", "cache", "path"):
        if name in settings:
            settings[name] = Path(settings[name])
    if "size" in settings:
        settings["size"] = tuple(settings["size"])
    try:
        corpus = open_corpus(data["dataset"], **settings, splits=splits)
    except (MSABenchError, OSError) as error:
        return NO_REVISION, None, str(error)
    for doubt in corpus.doubts():
        print(f"msabench: warning: {doubt}", file=sys.stderr, flush=True)
    return corpus.revision, corpus.features, ""


def with_seed(config: dict[str, Any], seed: int) -> dict[str, Any]:
    """A resolved config under another seed of the training."""
    return {**config, "seed_everything": seed, "data": {**config["data"], "seed": seed}}


def _unresolved_jobs(
    entry: Any,
    where: str,
    suite_seeds: list[int],
    shared: dict[str, Any],
    tuning: dict[str, Any],
    folder: Path,
    cells: Sequence[Cell],
) -> list[UnresolvedJob]:
    entry = mapping(entry, where, ENTRY_KEYS, needed=("method", "dataset"))
    method, dataset = str(entry["method"]), str(entry["dataset"])
    name = str(entry.get("config", f"{method}_{dataset}.yaml"))
    config_file = beside_or_packaged(name, folder, CONFIGS)
    info = info_of(method, config_file or folder / name)
    dataset_info(dataset)
    variants = listed(entry.get("variants", []), str, f"variants of {where}")
    for variant in variants:
        if variant not in ("default", *info.variants):
            raise one_of(f"variant of {method} in {where}", variant, ("default", *info.variants))
    if config_file is None:
        raise MSABenchError(f"there is no config {folder / name} for {where}; write it or name another one with config")
    common = {**shared, **mapping(entry.get("overrides") or {}, f"overrides of {where}")}
    seeds = seeds_of(entry["seeds"], f"seeds of {where}") if "seeds" in entry else suite_seeds
    budgets = budgets_of(
        {**tuning, **{name: entry[name] for name in ("tune", "tuning") if name in entry}}, where, folder
    )
    for budget in budgets:
        if budget is not None:
            budget.require_fresh(tuple(seeds), where)
    return [
        UnresolvedJob(method, dataset, seed, config_file, as_words({**common, **variant, **regime}), budget)
        for budget in budgets
        for variant in [{"model.init_args.variant": name} for name in variants] or [{}]
        for regime in regimes_of(entry, where, cells)
        for seed in seeds
    ]
