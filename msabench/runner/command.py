"""``msabench run`` and ``msabench suites``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msabench.errors import MSABenchError
from msabench.packaged import COSTS, SUITES, here_or_packaged, packaged, suite_file
from msabench.results.places import COMMITTED_STORE, store_to_read, store_to_write
from msabench.results.store import ResultStore
from msabench.runner.executor import Executor
from msabench.runner.local import LocalExecutor, Slot, cpu_slots, gpu_slots, visible_gpus
from msabench.runner.ray_cluster import RayExecutor
from msabench.runner.slurm import SlurmExecutor, array_slots, read_parameters
from msabench.runner.suite import read_suite, select
from msabench.runner.suite_run import run_suite

STORES = (COMMITTED_STORE, Path(COSTS))
"""Stores of the repository, whose records tell what jobs cost. The second comes with an installed msabench as well."""


def run(
    suite: Path,
    store: Path | None = None,
    runs: Path = Path("runs"),
    methods: list[str] | None = None,
    datasets: list[str] | None = None,
    seeds: list[int] | None = None,
    slots: int | None = None,
    devices: list[str] | None = None,
    per_device: int = 1,
    workers: Literal["warm", "fresh"] = "warm",
    executor: Literal["local", "slurm", "ray"] = "local",
    slurm: Path | None = None,
    jobs_per_element: int = 1,
    address: str | None = None,
    keep_checkpoints: bool = False,
    dry_run: bool = False,
    fail_fast: bool = False,
    stack_seeds: int = 1,
) -> int:
    """Run every job of a suite that the store does not have yet.

    Interrupting is safe: what is recorded stays, and the same command goes on with the rest.

    Args:
        suite: Suite file, or the name of one that comes with msabench, e.g. demo.
        store: Folder of the result store; runs/store, or what MSABENCH_STORE names, if not given.
        runs: Folder for logs, configs and checkpoints, one folder per job below <dataset>/<method>/.
        methods: Only these methods of the suite.
        datasets: Only these corpora of the suite.
        seeds: Only these seeds of the suite.
        slots: Jobs at a time on the CPU; default one per core. Each runs with one thread.
        devices: GPUs to use, by index or UUID, or the word cpu; default all visible GPUs, else the CPU. Ray gives out
            the GPUs of its nodes itself, so with it the word cpu is all that is allowed.
        per_device: Jobs at a time on each GPU.
        workers: warm, so that one process imports the libraries and forks every job's (Linux; fresh elsewhere), or
            fresh, so that every job's process imports them anew. On Ray they are always fresh.
        executor: local, slurm for an array of jobs (needs the extra msabench[slurm]), or ray for the nodes of a Ray
            cluster (needs the extra msabench[ray]).
        slurm: YAML file with parameters of submitit, e.g. timeout_min and slurm_partition.
        jobs_per_element: Jobs that one element of the array runs, one after another, each in a process of its own; for
            small jobs. The time limit, timeout_min, is that of all of them together.
        address: Ray cluster: auto for the one that this machine is a node of, or host:port of its head; if not given
            one of this machine alone is started for the run.
        keep_checkpoints: Keep best.ckpt of every job; by default it is deleted once the records are stored.
        dry_run: Print the plan with an estimate of its cost and stop.
        fail_fast: Stop at the first job that fails.
        stack_seeds: At most so many seeds of a job are trained in one pass, where the method can, for a GPU that small
            methods leave idle; 1 trains each alone. Seeds that cannot be are trained one by one.

    Returns:
        0 if every job is recorded with all cells and mask seeds of the suite, 1 if not, 130 if Ctrl-C interrupted it,
        143 if SIGTERM did.

    Raises:
        MSABenchError: The suite, a filter or an option is not allowed, there is no such GPU or cluster, the store
            cannot be written, or the cluster refuses the jobs or is lost.
    """
    require_fitting(executor, devices, slurm, jobs_per_element, address)
    suite = suite_file(suite)
    wanted = select(read_suite(suite), methods, datasets, seeds)
    store = store_to_write(store)
    place = (executor, slots, devices, per_device, address)
    return run_suite(
        wanted,
        store,
        runs,
        stores_at_hand(suite, store),
        engine_of=lambda: engine_of(*place, workers, slurm, runs, jobs_per_element),
        at_once=lambda: slots_of(*place, slurm),
        keep_checkpoints=keep_checkpoints,
        dry_run=dry_run,
        fail_fast=fail_fast,
        stack_seeds=stack_seeds,
    )


def suites(folder: Path | None = None, store: Path | None = None, committed: bool = False) -> str:
    """List the suites of a folder with their number of jobs, and how much of the papers' tables they cover.

    Args:
        folder: Where to look; if not given benchmarks/suites here, and where there is none among those that come with
            msabench.
        store: Folder of the result store, for what was run; runs/store, or what MSABENCH_STORE names, if not given.
        committed: Look at the records in git, leaderboard/results, instead.

    Raises:
        MSABenchError: There is no such folder, no suite in it, or no such store.
    """
    from msabench.published.layouts import PAPER_TABLES, SECOND_HAND_TABLES
    from msabench.runner.coverage import counted, coverage, coverage_grid, reasons
    from msabench.tables.render import grid_text

    results = ResultStore(store_to_read(store, committed))
    rows, found = [], []
    place = folder or here_or_packaged(SUITES)
    for path in sorted(place.glob("*.yaml")):
        # What comes with msabench is called by its name.
        label = path if folder or place == Path(SUITES) else path.stem
        try:
            suite = read_suite(path)
        except MSABenchError as error:
            rows.append(f"{label}: {error}")
            continue
        found.append(suite)
        n_methods, n_datasets = (len({getattr(d, name) for d in suite.jobs}) for name in ("method", "dataset"))
        counts = f"{len(suite.jobs)} jobs, {n_methods} methods, {n_datasets} datasets"
        rows.append(f"{label}: {counts}" + (f"; {suite.description}" if suite.description else ""))
    if not rows:
        raise MSABenchError(
            f"there are no suites in {place}; name another folder, or none for those that come with msabench"
        )
    finished = [job for job in results.jobs() if job.status == "ok"]
    covered = coverage(PAPER_TABLES, found, finished)
    head = "Rows of the papers' tables, and those that a suite here has a job for:"
    second_hand = coverage(SECOND_HAND_TABLES, found, finished)
    sums = [
        f"The five papers: {counted(covered)}.",
        f"Apart from them, second-hand numbers of other papers: {counted(second_hand)}, whose method a suite trains on "
        "the corpus, under whichever regime.",
    ]
    return "\n".join([*rows, "", head, "", grid_text(coverage_grid(covered)), "", *sums, *_block(reasons(covered))])


def _block(lines: list[str]) -> list[str]:
    return ["", *lines] if lines else []


def stores_at_hand(suite: Path, store: Path) -> list[ResultStore]:
    """The stores that know costs: here, around the suite, or packaged; without the one that is given.

    Args:
        suite: File of a suite or config.
        store: The one that is given.
    """
    around = [Path(), *suite.resolve().parents, packaged(COSTS).parents[1]]
    found = [next((root / name for root in around if (root / name).is_dir()), None) for name in STORES]
    return [ResultStore(folder) for folder in found if folder is not None and folder.resolve() != store.resolve()]


def engine_of(
    executor: str,
    slots: int | None,
    devices: list[str] | None,
    per_device: int,
    address: str | None,
    workers: str,
    slurm: Path | None,
    runs: Path,
    jobs_per_element: int,
) -> Executor:
    """Make what runs tasks; the arguments are those of ``run``.

    Raises:
        MSABenchError: There is no such GPU or cluster, or an argument is not allowed.
    """
    if executor == "slurm":
        return _slurm(slurm, runs, jobs_per_element, workers)
    if executor == "ray":
        return _ray(address, slots, devices, per_device)
    return _local(slots, devices, per_device, workers)


def slots_of(
    executor: str,
    slots: int | None,
    devices: list[str] | None,
    per_device: int,
    address: str | None,
    slurm: Path | None,
) -> int:
    """How many tasks would run at a time; the arguments are those of ``run``.

    Raises:
        MSABenchError: As in ``engine_of``.
    """
    if executor == "slurm":
        return array_slots(read_parameters(slurm))
    if executor == "ray":
        return _ray(address, slots, devices, per_device).slots
    return _local(slots, devices, per_device).slots


def _local(slots: int | None, devices: list[str] | None, per_device: int, workers: str = "warm") -> Executor:
    return LocalExecutor(_places(slots, devices, per_device), warm=workers == "warm")


def _places(slots: int | None, devices: list[str] | None, per_device: int) -> list[Slot]:
    if devices == ["cpu"]:
        return cpu_slots(slots)
    found = visible_gpus()
    if devices is not None and not found:
        raise MSABenchError(f"devices {' '.join(devices)} are not here; no GPU is visible, so leave --devices out")
    if not found or (devices is None and slots is not None):
        return cpu_slots(slots)
    if slots is not None:
        raise MSABenchError("slots are CPU cores; with GPUs give --per_device, or --devices cpu")
    return gpu_slots(devices or found, per_device)


def _slurm(parameters: Path | None, runs: Path, jobs_per_element: int, workers: str) -> Executor:
    return SlurmExecutor.from_file(parameters, runs / "slurm", jobs_per_element, warm=workers == "warm")


def _ray(address: str | None, slots: int | None, devices: list[str] | None, per_device: int) -> Executor:
    # As on this machine alone, slots are for the CPU.
    gpus = False if slots is not None or devices == ["cpu"] else None
    return RayExecutor(address, per_device, slots, gpus)


def require_fitting(
    executor: str, devices: list[str] | None, slurm: Path | None, jobs_per_element: int, address: str | None
) -> None:
    """Refuse options of one executor beside another; the arguments are those of ``run``.

    Raises:
        MSABenchError: An option is of another executor.
    """
    if executor != "ray":
        if address is not None:
            raise MSABenchError(f"address {address!r} is that of a Ray cluster; give --executor ray, or leave it out")
        return
    if devices not in (None, ["cpu"]):
        raise MSABenchError(
            f"devices {' '.join(devices or [])} are not allowed with Ray, which gives out the GPUs of its nodes; leave "
            "--devices out, or give --devices cpu"
        )
    if slurm is not None or jobs_per_element != 1:
        raise MSABenchError("--slurm and --jobs_per_element are for --executor slurm; leave them out")
