"""Arrays of jobs on a real SLURM: what ends a job or a node costs that job at hand, is told, and the same command goes
on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.results import predictions
from msabench.results.store import ResultStore
from msabench.runner import command as run_command
from msabench.runner import slurm
from msabench.runner.executor import LOST, Finished, Task
from msabench.runner.slurm import SlurmExecutor
from msabench.runner.suite import Job, expand, read_suite
from tests.support.outside.held import FOLDER
from tests.support.slurm_cluster import CannotStartError, SlurmCluster, lacking, slurm_cluster
from tests.support.worker_scripts import nothing, scripts

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def machine() -> Iterator[SlurmCluster]:
    """A cluster for all tests here."""
    pytest.importorskip("submitit", reason="needs the extra slurm")
    if reason := lacking():
        pytest.skip(reason)
    try:
        with slurm_cluster() as cluster:
            yield cluster
    except CannotStartError as error:
        pytest.skip(f"no SLURM can be started here: {error}")


@pytest.fixture
def cluster(machine: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """The cluster with idle nodes, in the environment of this process, which asks it often."""
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, machine.environment[name])
    # Nodes unpickle what stands in the tests.
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(slurm, "QUEUE_SECONDS", 0.5)
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.1)
    return machine


@dataclass
class Held:
    """Jobs of a method whose training waits for a file to go.

    Attributes:
        cluster: Where they run.
        jobs: The jobs.
        folder: Where the files are.
        failed: What went wrong in the thread beside a run.
    """

    cluster: SlurmCluster
    jobs: list[Job]
    folder: Path
    failed: list[BaseException] = field(default_factory=list)

    def hold(self, *numbers: int, order: str = "wait") -> None:
        for number in numbers:
            self._file(number, "held").write_text(order)

    def release(self, *numbers: int) -> None:
        for number in numbers:
            self._file(number, "held").unlink(missing_ok=True)

    def began(self, number: int, after: int = 0) -> dict[str, Any]:
        """Process and node of a job, once its training has begun in another process than the one given."""
        file = self._file(number, "began")
        self.cluster.wait_until(lambda: file.is_file() and json.loads(file.read_text())["pid"] != after, file.name)
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    def element(self, number: int) -> str:
        """Name of the job's element in the array that runs now."""
        self.cluster.wait_until(lambda: self._elements(number), "an array")
        return self._elements(number)[0]

    def wait_for_end(self, *numbers: int) -> None:
        """Wait until jobs are no longer in the queue."""
        self.cluster.wait_until(lambda: not any(map(self._elements, numbers)), "end of jobs")

    def run(self, store: str = "store", meanwhile: Callable[[], None] | None = None, **options: object) -> int:
        """``msabench run`` on the cluster, while something else happens to it; at its end nothing is held any more."""
        beside = threading.Thread(target=self._meanwhile, args=(meanwhile,))
        if meanwhile:
            beside.start()
        try:
            settings = {"executor": "slurm", "slurm": Path("parameters.yaml"), **options}
            return run_command.run(Path("suite.yaml"), Path(store), Path("runs"), **settings)  # type: ignore[arg-type]
        finally:
            if meanwhile:
                beside.join()
            assert not self.failed, self.failed

    def failures(self, store: str = "store") -> dict[int, str]:
        """Number of each job that has failed and not succeeded since -> why."""
        there = {job.key.job_id: number for number, job in enumerate(self.jobs)}
        return {there[record.key.job_id]: record.error for record in ResultStore(store).failures()}

    def complete(self, store: str = "store") -> bool:
        """Whether every job is recorded once, and every file in the store is what its checksum says."""
        kept = [record.key.job_id for record in ResultStore(store).jobs() if record.status == "ok"]
        assert ResultStore(store).validate() == []
        return sorted(kept) == sorted(job.key.job_id for job in self.jobs)

    def _meanwhile(self, what: Callable[[], None]) -> None:
        try:
            what()
        except BaseException as error:
            self.failed.append(error)
        finally:
            self.release(*range(len(self.jobs)))

    def _elements(self, number: int) -> list[str]:
        lines = self.cluster.ask("squeue", "--noheader", "--array", "--format=%i").split()
        return [name for name in lines if name.endswith(f"_{number}")]

    def _file(self, number: int, kind: str) -> Path:
        return self.folder / f"{self.jobs[number].key.job_id}.{kind}"


@pytest.fixture
def held(cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Held]:
    """Makes a suite of so many held jobs, each a seed, and a file of submitit's parameters."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests/support/outside"))
    monkeypatch.setattr(registry, "_found_by_path", {})
    monkeypatch.setattr(run_command, "visible_gpus", lambda: [])
    monkeypatch.setenv(FOLDER, str(tmp_path / "held"))
    (tmp_path / "held").mkdir()
    config = {
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
        "data": {"dataset": "synth", "size": [24, 8, 10], "length": 8},
        "model": {"class_path": "held.Held"},
    }
    Path("held.yaml").write_text(yaml.safe_dump(config))

    def make(count: int, **parameters: object) -> Held:
        suite = {
            "name": "held",
            "configs": ".",
            "grid": ["inter", "intra/0.5"],
            "mask_seeds": [0, 1],
            "seeds": list(range(1, count + 1)),
            "jobs": [{"method": "held", "dataset": "synth", "config": "held.yaml"}],
        }
        Path("suite.yaml").write_text(yaml.safe_dump(suite))
        Path("parameters.yaml").write_text(yaml.safe_dump({"timeout_min": 30, "mem_gb": 2, **parameters}))
        return Held(cluster, expand(read_suite(Path("suite.yaml"))), tmp_path / "held")

    return make


def test_jobs_that_are_ended_are_told_apart_and_done_by_the_same_command(
    held: Callable[..., Held], capsys: pytest.CaptureFixture[str]
) -> None:
    # SLURM's own time limit, without the signal that submitit has sent before.
    given = held(5, slurm_signal_delay_s=0, slurm_array_parallelism=4)
    given.hold(*range(5))
    given.hold(1, order="take memory")

    def meanwhile() -> None:
        cluster = given.cluster
        cluster.ask("scancel", given.element(4))
        given.began(2)
        cluster.ask("scontrol", "update", f"JobId={given.element(2)}", "EndTime=now+1")
        given.began(0)
        cluster.ask("scancel", given.element(0))
        os.kill(given.began(3)["pid"], signal.SIGKILL)
        given.began(1)
        given.wait_for_end(*range(5))

    assert given.run(meanwhile=meanwhile) == 1
    log = r"its log: \S+/slurm/\d+_{}_0_log\.\w+$"
    # SLURM tells every process that it is to end, so that the worker may be first and the element has a result.
    ended, told = r"(the job left no result|the worker was ended by SIGTERM)", r"it said: slurmstepd-n\d: error: .*"
    expected = {
        0: rf"{ended}; SLURM says CANCELLED; {told} CANCELLED AT \S+ \*\*\*; {log}",
        1: rf"{ended}; SLURM says OUT_OF_MEMORY, so raise mem_gb; {told}xceeded .*memory limit.*; {log}",
        2: rf"{ended}; SLURM says TIMEOUT, so raise timeout_min; {told} DUE TO TIME LIMIT \*\*\*; {log}",
        3: rf"the worker was ended by SIGKILL \(out of memory\?\); {log}",
        # It had never begun, and SLURM may keep nothing of it at all.
        4: r"the job left no result; (SLURM says CANCELLED|squeue last said PENDING and sacct does not say why); "
        r"there is no log \S+/slurm/\d+_{}_0_log\.err, so see whether the nodes share this folder$",
    }
    failures = given.failures()
    assert failures.keys() == expected.keys()
    for number, error in failures.items():
        assert re.match(expected[number].format(number), error), error
    said = capsys.readouterr().err
    assert all(error in said for error in failures.values())

    assert given.run() == 0
    assert "5 jobs, 0 done already, 5 to run" in capsys.readouterr().out
    assert given.complete()
    assert given.failures() == {}
    assert given.run() == 0
    assert "5 jobs, 5 done already, 0 to run" in capsys.readouterr().out

    # And they are what this machine alone gives.
    assert given.run("here", executor="local", slots=1) == 0
    for job in given.jobs:
        first, second = (predictions.path_of(Path(store), job.key).read_bytes() for store in ("store", "here"))
        assert first == second


def test_nodes_and_the_controller_may_go_and_come_back(
    held: Callable[..., Held], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = held(2)
    given.hold(0, 1)
    ask, unanswered = slurm._ask, threading.Event()

    def asked(*command: str) -> tuple[str, str]:
        said, problem = ask(*command)
        if problem and command[0] == "squeue":
            unanswered.set()
        return said, problem

    monkeypatch.setattr(slurm, "_ask", asked)

    def meanwhile() -> None:
        cluster = given.cluster
        lost, drained = given.began(0), given.began(1)
        assert lost["node"] != drained["node"]
        cluster.stop_controller()
        cluster.wait_until(unanswered.is_set, "question to the controller")
        cluster.start_controller()
        # What runs on a node that is drained may end there; what ran on one that crashed is put into the queue again.
        cluster.ask("scontrol", "update", f"NodeName={drained['node']}", "State=DRAIN", "Reason=test")
        cluster.crash_node(lost["node"])
        cluster.ask("scontrol", "update", f"NodeName={lost['node']}", "State=DOWN", "Reason=test")
        given.release(1)
        given.wait_for_end(1)
        cluster.wait_until(lambda: cluster.states()[drained["node"]] == "drained", "node without a job")
        cluster.ask("scontrol", "update", f"NodeName={drained['node']}", "State=RESUME")
        assert given.began(0, after=lost["pid"])["node"] == drained["node"]
        cluster.start_node(lost["node"])
        cluster.wait_until(lambda: cluster.states()[lost["node"]] == "idle", "node that is back")

    assert given.run(meanwhile=meanwhile) == 0
    assert given.complete()
    assert given.failures() == {}
    assert "squeue does not answer (" in capsys.readouterr().err


def test_a_disk_that_is_full_or_read_only_costs_the_jobs_at_hand(
    held: Callable[..., Held], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs to mount a small tmpfs, as root")
    filler, store = disk / "filler", str(disk / "store")

    def remount(how: str) -> bool:
        return not subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=False).returncode

    try:
        given = held(3, slurm_array_parallelism=1)
        assert remount("ro")
        with pytest.raises(
            MSABenchError, match=r"the store \S+ cannot be written .*Read-only file system.*nothing was"
        ):
            given.run(store)
        assert remount("rw")
        given.hold(0)

        def meanwhile() -> None:
            cluster = given.cluster
            last = given.element(2)
            cluster.ask("scontrol", "hold", last)
            given.began(0)
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while file.write(bytes(1 << 12)):
                    pass
            given.release(0)
            # The second begins on the full disk, the third on one that is read-only.
            given.wait_for_end(0, 1)
            filler.unlink()
            # Not while a record of failure is written.
            cluster.wait_until(lambda: remount("ro"), "a disk that is read-only")
            cluster.ask("scontrol", "release", last)
            given.wait_for_end(2)

        assert given.run(store, meanwhile=meanwhile) == 1
        said = capsys.readouterr().err
        told = dict(re.findall(r"^failed: held synth complete seed (\d): (.*)$", said, re.MULTILINE))
        assert told.keys() == {"1", "2", "3"}
        assert "No space left on device" in told["1"]
        assert re.match(r"the store \S+ cannot be written .*No space left on device.*so nothing was started", told["2"])
        assert re.match(r"the store \S+ cannot be written .*Read-only file system.*so nothing was started", told["3"])
        assert not [record for record in ResultStore(store).jobs() if record.status == "ok"]

        assert remount("rw")
        assert given.run(store) == 0
        assert given.complete(store)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_the_signal_before_the_time_limit_and_that_of_preemption(cluster: SlurmCluster, tmp_path: Path) -> None:
    # submitit takes the signal for the time limit's where the limit is shorter than ten minutes.
    waits = "import pathlib, sys, time\nif not pathlib.Path(sys.argv[1], 'again').exists(): time.sleep(600)"
    tasks = scripts(tmp_path / "short", waits, waits)
    found = signalled(cluster, tasks, {"timeout_min": 5})
    assert [ended.code for ended in found] == [LOST, LOST]
    for ended in found:
        assert ended.error.startswith("the time limit was reached; raise timeout_min; ")
    # Otherwise for preemption's: the job is put into the queue again.
    found = signalled(cluster, scripts(tmp_path / "long", waits, waits), {"timeout_min": 60})
    assert [ended.code for ended in found] == [0, 0]


def signalled(cluster: SlurmCluster, tasks: list[Task], parameters: dict[str, object]) -> list[Finished]:
    """How tasks end whose elements get submitit's signal once they run."""
    sent = False

    def tick(running: object) -> None:
        nonlocal sent
        if not sent and all((task.folder / "log.txt").is_file() for task in tasks):
            # The scripts have begun.
            time.sleep(1)
            for task in tasks:
                (task.folder / "again").touch()
            [array] = {*cluster.ask("squeue", "--noheader", "--format=%F").split()}
            cluster.ask("scancel", "--signal=USR2", array)
            sent = True

    return list(SlurmExecutor(tasks[0].folder.parent / "submitit", parameters).run(tasks, tick))


def test_one_element_runs_all_jobs_without_an_array(cluster: SlurmCluster, tmp_path: Path) -> None:
    tasks = scripts(tmp_path / "runs", *["import os; print(os.getppid(), os.environ['SLURM_JOB_ID'])"] * 2, "1 / 0")
    executor = SlurmExecutor(tmp_path / "submitit", jobs_per_element=3)
    found = {ended.task.job.key.seed: ended.code for ended in executor.run(tasks, nothing)}
    assert found == {0: 0, 1: 0, 2: 1}
    assert tasks[0].log.read_text() == tasks[1].log.read_text()
    assert "ZeroDivisionError" in tasks[2].log.read_text()


def test_an_interrupted_run_leaves_nothing_in_the_queue(cluster: SlurmCluster, tmp_path: Path) -> None:
    def stop(running: list[Task]) -> None:
        if len(running) == 2:
            raise KeyboardInterrupt

    tasks = scripts(tmp_path / "runs", *["import time; time.sleep(600)"] * 3)
    executor = SlurmExecutor(tmp_path / "submitit", {"slurm_array_parallelism": 2})
    with pytest.raises(KeyboardInterrupt):
        list(executor.run(tasks, stop))
    cluster.wait_until(lambda: cluster.ask("squeue", "--noheader") == "", "end of all jobs")


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"slurm_partition": "gpu"}, r".*Invalid partition name specified; set slurm_partition"),
        (
            {"mem_gb": 500},
            r".*node configuration is not available; ask for less by mem_gb, cpus_per_task or gpus_per_node",
        ),
        ({"gpus_per_node": 1}, r"Invalid generic resource \(gres\) specification; .*leave gpus_per_node out"),
    ],
)
def test_what_the_cluster_does_not_have_is_refused_in_a_sentence(
    cluster: SlurmCluster, tmp_path: Path, parameters: dict[str, object], sentence: str
) -> None:
    with pytest.raises(MSABenchError, match=f"SLURM refuses the array of 2 jobs: {sentence}$"):
        list(SlurmExecutor(tmp_path / "submitit", parameters).run(scripts(tmp_path / "runs", "", ""), nothing))
