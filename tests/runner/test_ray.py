"""Jobs on the nodes of real Ray clusters: the same records as elsewhere, and what is lost when something dies."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from msabench.errors import MSABenchError
from msabench.methods.registry import method_info
from msabench.results.claims import claim
from msabench.results.store import ResultStore
from msabench.runner import command as run_command
from msabench.runner import execution, ray_cluster, ray_node
from msabench.runner.executor import LOST, NOT_STARTED, RUNNING_ELSEWHERE, Finished, Task
from msabench.runner.job import LOST_WORKERS, run_job
from msabench.runner.ray_cluster import RayExecutor
from msabench.runner.ray_driver import remote_function
from msabench.runner.ray_messages import Node, Order, jobs_at_once, needs
from msabench.runner.suite import expand, read_suite
from tests.support.ray_nodes import REPOSITORY, Nodes, alive, ray_nodes, ray_settings
from tests.support.stored_files import files, jobs_in
from tests.support.worker_scripts import Script, nothing, scripts

cluster = pytest.mark.cluster
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends workers on Linux only")

RECORD = """
import os, sys, time
from pathlib import Path
from msabench.results.store import ResultStore
from msabench.runner.worker import die_with
from tests.support import records
die_with(int(sys.argv[sys.argv.index("--parent") + 1]))
folder = Path(sys.argv[1])
with (folder / "starts").open("a") as starts:
    starts.write(" ".join([str(os.getpid()), str(os.getppid()), *sys.argv[2:]]) + "\\n")
while (folder.parent / "hold").exists():
    time.sleep(0.05)
records.add(ResultStore(folder.parent), seed=int(folder.name))
"""
"""Waits until it may, and then records its job. Says of each start: process, parent, options."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head and two nodes with a CPU each."""
    with ray_nodes(2) as found:
        yield found


@pytest.fixture
def held(tmp_path: Path) -> list[Script]:
    """Three jobs that do not end while there is a file ``hold`` in the store."""
    tasks = scripts(tmp_path / "store", RECORD, RECORD, RECORD)
    (tmp_path / "store").mkdir()
    (tmp_path / "store/hold").touch()
    return tasks


def starts(task: Task) -> list[list[str]]:
    """Process, parent and options of each start of a job's worker."""
    path = task.folder / "starts"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def when_two_run(tasks: Sequence[Task], act: Callable[[], object]) -> Callable[[Sequence[Task]], None]:
    """A tick that does something once when the first two jobs have begun, and lets all go on."""
    done: list[object] = []

    def tick(running: Sequence[Task]) -> None:
        if not done and len(running) == 2 and all(starts(task) for task in tasks[:2]):
            assert {task.folder for task in running} == {task.folder for task in tasks[:2]}
            done.append(act())
            (tasks[0].store / "hold").unlink()

    return tick


def run(
    executor: RayExecutor, tasks: Sequence[Task], tick: Callable[[Sequence[Task]], None] = nothing
) -> dict[int, Finished]:
    return {finished.task.job.key.seed: finished for finished in executor.run(tasks, tick)}


def assert_complete(executor: RayExecutor, tasks: Sequence[Task], before: Sequence[int] = (1, 1, 1)) -> None:
    """The same again has nothing to do, and nothing was done twice."""
    assert {finished.code for finished in run(executor, tasks).values()} == {0}
    assert [len(starts(task)) for task in tasks] == [*before]
    store = ResultStore(tasks[0].store)
    assert store.validate() == []
    assert store.failures() == []
    assert len([record for record in store.jobs() if record.status == "ok"]) == len(tasks)
    assert not list(tasks[0].store.glob(".shared-*"))


# Without a cluster.


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MSABenchError, match=r"the executor ray needs Ray; pip install 'msabench\[ray\]'"):
        RayExecutor()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"address": "auto"}, "address 'auto' is that of a Ray cluster; give --executor ray, or leave it out"),
        (
            {"executor": "ray", "devices": ["0", "1"]},
            "devices 0 1 are not allowed with Ray, which gives out the GPUs of its nodes; leave --devices out, or give "
            "--devices cpu",
        ),
        (
            {"executor": "ray", "jobs_per_element": 2},
            "--slurm and --jobs_per_element are for --executor slurm; leave them out",
        ),
        (
            {"executor": "ray", "slurm": Path("few.yaml")},
            "--slurm and --jobs_per_element are for --executor slurm; leave them out",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MSABenchError) as caught:
        run_command.run(Path("demo"), **options)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"per_device": 0}, "0 jobs per device are not allowed; give a positive number"),
        ({"slots": 0}, "0 slots are not allowed; give a positive number"),
        ({"retries": -1}, "-1 retries are not allowed; give 0 or more"),
        (
            {"address": "ray://head:10001"},
            "address 'ray://head:10001' is not allowed; give auto, or a head's host:port",
        ),
        ({"address": "head"}, "address 'head' is not allowed; give auto, or a head's host:port"),
        (
            {"address": "127.0.0.1:1"},
            "no Ray cluster answers at 127.0.0.1:1 (Connection refused); start its head with `ray start --head`, or "
            "leave --address out for a cluster of this machine alone",
        ),
    ],
)
def test_wrong_arguments_are_one_sentence(options: dict[str, Any], sentence: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "here")
    with pytest.raises(MSABenchError) as caught:
        RayExecutor(**options)
    assert str(caught.value).startswith(sentence)


def test_a_node_has_room_for_what_has_both_a_cpu_and_a_share_of_a_gpu() -> None:
    found = [Node("a", 8, 0), Node("b", 3, 2), Node("c", 16, 1)]
    assert [jobs_at_once(found, per_device) for per_device in (0, 1, 2, 20)] == [27, 3, 5, 19]
    assert [needs(per_device) for per_device in (0, 1, 3)] == ["1 CPU", "1 CPU and 1 GPU", "1 CPU and 1/3 of a GPU"]


def test_shares_of_a_gpu_never_add_up_to_more_than_one() -> None:
    asked: list[Any] = []
    fake: Any = SimpleNamespace(remote=lambda **options: asked.append(options) or (lambda function: function))
    for per_device in range(8):
        remote_function(fake, per_device)
    assert [options["num_cpus"] for options in asked] == [1] * 8
    assert [options["max_retries"] for options in asked] == [0] * 8
    shares = [options["num_gpus"] for options in asked]
    assert shares[:3] == [0, 1, 0.5]
    assert all(share * number <= 1 < share * (number + 1) for number, share in enumerate(shares) if number)


def obeyed(order: Order) -> list[dict[str, Any]]:
    return [*ray_node.obey(pickle.dumps(order))]


def order_of(task: Task, **changes: Any) -> Order:
    given = {"version": ray_cluster.__version__, "folder": str(Path.cwd()), "marks": [], "environment": {}}
    return Order(pickle.dumps(task), **{**given, "accelerator": "cpu", **changes})


def test_a_node_that_differs_says_in_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (task,) = scripts(tmp_path / "runs", "print('fine')")
    (said,) = obeyed(order_of(task, version="0.0.1"))
    here = ray_cluster.__version__
    assert said == {"unfit": f"it has msabench {here}, and here it is 0.0.1; install the same on every node"}
    (said,) = obeyed(order_of(task, folder="/nowhere/at/all"))
    assert said["unfit"].startswith("it has no folder /nowhere/at/all (No such file or directory); nodes must share it")
    (said,) = obeyed(order_of(task, marks=[str(tmp_path / "store/.shared-1")]))
    sentence = f"it has another folder {tmp_path}/store; run folders and store must lie on a shared file system"
    assert said == {"unfit": sentence}
    assert not task.folder.exists()
    # Pickled by a class of a module that is not there.
    unknown = pickle.dumps(task).replace(b"tests.support.worker_scripts", b"tests.support.worker_scriptz")
    (said,) = obeyed(replace(order_of(task), task=unknown))
    assert said["unfit"].startswith(
        "it lacks what the jobs are made of (No module named 'tests.support.worker_scriptz'"
    )
    assert obeyed(order_of(task)) == [{"code": 0, "error": ""}]


def test_a_node_without_msabench_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = SimpleNamespace(remote=lambda **options: lambda on_node: SimpleNamespace(remote=on_node))
    monkeypatch.setitem(sys.modules, "msabench.runner.ray_node", None)
    begun, said = remote_function(fake, 0)(b"")
    assert begun["node"]
    assert said["unfit"].startswith("it has no msabench (")
    assert said["unfit"].endswith("); install the same on every node")


@linux
def test_a_job_whose_run_is_over_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_node, "MARK_SECONDS", 0.0)
    (task,) = scripts(
        tmp_path / "runs", "import sys, time, pathlib; pathlib.Path(sys.argv[1], 'at').touch(); time.sleep(600)"
    )
    mark = tmp_path / ".shared-1"
    mark.touch()
    looks = []
    stat = Path.stat

    def seen(self: Path, **options: Any) -> os.stat_result:
        if self == mark and (task.folder / "at").exists():
            looks.append(self)
            mark.unlink()
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", seen)
    assert obeyed(order_of(task, marks=[str(mark)])) == [{"code": LOST, "error": "the run that it was for has ended"}]
    assert len(looks) == 1


def test_a_lost_worker_may_hold_its_locks_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl", reason="no locks here")
    (task,) = scripts(tmp_path / "runs", "print('fine')")
    monkeypatch.setattr(ray_node, "LEASE_POLL_SECONDS", 0.0)
    with claim(task.store, task.job.key.job_id) as held:
        monkeypatch.setattr(ray_node, "LEASE_SECONDS", 0.0)
        # Nothing was lost: another run has it.
        assert obeyed(order_of(task))[0]["code"] == RUNNING_ELSEWHERE
        assert obeyed(order_of(task, lost=1))[0]["code"] == RUNNING_ELSEWHERE
        assert held is not None
        monkeypatch.setattr(ray_node, "LEASE_SECONDS", 600.0)
        monkeypatch.setattr(time, "sleep", lambda seconds: held.close())
        assert obeyed(order_of(task, lost=1))[0]["code"] == 0


def suite(folder: Path, *jobs: dict[str, Any], **overrides: Any) -> Path:
    """A suite of jobs on a few clips."""
    small = {"trainer.max_epochs": 2, "data.size": [24, 12, 12], "data.length": 8, **overrides}
    content = {
        "name": "small",
        "configs": str(REPOSITORY / "configs"),
        "grid": ["inter/l", "intra/0.5"],
        "mask_seeds": [0],
        "seeds": [1],
        "overrides": small,
        "jobs": [{"dataset": "synth", **job} for job in jobs],
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    return folder / "suite.yaml"


def test_a_record_tells_how_many_workers_were_lost_before_it(tmp_path: Path) -> None:
    (job,) = expand(read_suite(suite(tmp_path, {"method": "constant"})))
    for lost in (0, 2):
        task = Task(job, tmp_path / "run", tmp_path / f"store{lost}")
        task.prepare()
        run_job(task, "cpu", lost)
        (record,) = ResultStore(task.store).jobs()
        assert record.provenance.get(LOST_WORKERS, 0) == lost
        assert (LOST_WORKERS in record.provenance) is bool(lost)


# On a cluster of two nodes.


@cluster
def test_a_suite_gives_the_same_records_as_on_this_machine(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    teacher = {f"model.init_args.{name}": value for name, value in method_info("corrkd").smoke.items()}
    jobs = [
        {"method": "corrkd", "overrides": teacher, "regimes": ["complete", "mixed"]},
        {"method": "lf_dnn", "overrides": {"data.batch_size": 0}},
    ]
    path = suite(tmp_path, *jobs)
    for name, options in (
        ("local", {"devices": ["cpu"], "workers": "fresh"}),
        ("ray", {"executor": "ray", "address": nodes.address}),
    ):
        assert run_command.run(path, Path(name, "store"), Path(name, "runs"), **options) == 1
        assert "3 jobs, 0 done already, 3 to run, 2 at a time" in capsys.readouterr().out
    local, ray = (files(Path(name, "store"), "*.parquet") for name in ("local", "ray"))
    assert len(local) == 2
    assert local == ray
    here, there = (jobs_in(Path(name, "store")) for name in ("local", "ray"))
    assert [record["status"] for record in here].count("failed") == 1
    assert here == there
    assert len(list(Path("ray/runs/synth/corrkd/stages").iterdir())) == 1
    # A plan asks the cluster, and what is done is done.
    assert (
        run_command.run(path, Path("ray/store"), Path("ray/runs"), executor="ray", address=nodes.address, dry_run=True)
        == 0
    )
    assert "1 of 3 jobs to run, 2 at a time" in capsys.readouterr().out


@cluster
@linux
def test_a_job_that_is_killed_fails_and_is_not_started_again(nodes: Nodes, held: list[Script]) -> None:
    executor = RayExecutor(nodes.address)
    assert executor.slots == 2
    found = run(executor, held, when_two_run(held, lambda: os.kill(int(starts(held[0])[0][0]), signal.SIGKILL)))
    assert {seed: finished.code for seed, finished in found.items()} == {0: -signal.SIGKILL, 1: 0, 2: 0}
    assert [options[2:] for options in starts(held[0])] == [
        ["--parent", starts(held[0])[0][1], "--accelerator", "cpu"],
    ]
    assert run(executor, held)[0].code == 0
    assert_complete(executor, held, (2, 1, 1))


@cluster
@linux
def test_a_job_goes_with_the_process_of_ray_that_watches_it(
    nodes: Nodes, held: list[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    executor = RayExecutor(nodes.address, retries=1)

    def kill() -> None:
        os.kill(int(starts(held[0])[0][1]), signal.SIGKILL)
        wait_until(lambda: not alive(int(starts(held[0])[0][0])))

    found = run(executor, held, when_two_run(held, kill))
    assert {finished.code for finished in found.values()} == {0}
    assert (
        f"{held[0].folder}: lost, and handed out again: Ray's process on the node died (node "
        in capsys.readouterr().err
    )
    assert starts(held[0])[1][-2:] == ["--lost", "1"]
    assert_complete(executor, held, (2, 1, 1))


@cluster
@linux
def test_jobs_of_a_node_that_is_lost_run_on_another(
    nodes: Nodes, held: list[Script], capsys: pytest.CaptureFixture[str]
) -> None:
    executor = RayExecutor(nodes.address)

    def lose() -> None:
        nodes.lose()
        wait_until(lambda: not all(alive(int(starts(task)[0][0])) for task in held[:2]))

    try:
        found = run(executor, held, when_two_run(held, lose))
    finally:
        nodes.add()
    assert {finished.code for finished in found.values()} == {0}
    assert "lost, and handed out again: its node died (node " in capsys.readouterr().err
    again = [task for task in held if len(starts(task)) == 2]
    assert len(again) == 1
    assert starts(again[0])[1][-2:] == ["--lost", "1"]
    assert_complete(executor, held, [len(starts(task)) for task in held])


@cluster
@linux
def test_a_job_that_is_lost_too_often_fails_with_the_number(
    nodes: Nodes, held: list[Script], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = RayExecutor(nodes.address, retries=1, slots=1)
    assert executor.slots == 1
    killed: list[str] = []

    def kill(running: Sequence[Task]) -> None:
        for options in starts(held[0])[len(killed) :]:
            killed.append(options[1])
            os.kill(int(options[1]), signal.SIGKILL)

    (found,) = run(executor, held[:1], kill).values()
    assert found.code == LOST
    assert found.error.startswith("lost 2 times: Ray's process on the node died (node ")
    assert found.error.count("Ray's process on the node died") == 2
    # The screen and the record carry it.
    assert execution.error_of(Finished(Task(found.task.job, tmp_path / "run", held[0].store), LOST, found.error)) == (
        found.error
    )
    assert [failure.error for failure in ResultStore(held[0].store).failures()] == [found.error]
    (held[0].store / "hold").unlink()
    assert {finished.code for finished in run(executor, held).values()} == {0}
    assert_complete(executor, held, (3, 1, 1))


@cluster
@linux
def test_an_interruption_ends_the_jobs_at_once(nodes: Nodes, held: list[Script]) -> None:
    executor = RayExecutor(nodes.address)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(executor, held, when_two_run(held, interrupt))
    assert not any(alive(int(starts(task)[0][0])) for task in held[:2])
    (held[0].store / "hold").unlink()
    assert {finished.code for finished in run(executor, held).values()} == {0}
    assert_complete(executor, held, (2, 2, 1))


RUN = """
import pickle, sys
from pathlib import Path
from msabench.runner.ray_cluster import RayExecutor
tasks = pickle.loads(Path(sys.argv[2]).read_bytes())
for finished in RayExecutor(sys.argv[1]).run(tasks, lambda running: None):
    pass
"""


@cluster
@linux
def test_jobs_of_a_run_that_is_killed_end_with_it(nodes: Nodes, held: list[Script], tmp_path: Path) -> None:
    (tmp_path / "tasks").write_bytes(pickle.dumps(held))
    words = [sys.executable, "-c", RUN, nodes.address, str(tmp_path / "tasks")]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    try:
        wait_until(lambda: all(starts(task) for task in held[:2]))
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not any(alive(int(starts(task)[0][0])) for task in held[:2]))
    (held[0].store / "hold").unlink()
    for mark in held[0].store.glob(".shared-*"):
        mark.unlink()
    executor = RayExecutor(nodes.address)
    assert {finished.code for finished in run(executor, held).values()} == {0}
    assert_complete(executor, held, (2, 2, 1))


def wait_until(condition: Callable[[], object], seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@cluster
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root to mount a small tmpfs")
def test_a_store_that_nodes_cannot_write_costs_no_training(nodes: Nodes, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        tasks = scripts(disk / "store", RECORD, RECORD, RECORD)
        executor = RayExecutor(nodes.address)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for reason in ("Read-only file system", "No space left on device"):
            found = run(executor, tasks)
            assert {finished.code for finished in found.values()} == {NOT_STARTED}
            assert all(
                finished.error.startswith(f"the store {disk}/store cannot be written (") and reason in finished.error
                for finished in found.values()
            ), found
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            if reason == "Read-only file system":
                (disk / "filler").write_bytes(bytes(7_900_000))
        (disk / "filler").unlink()
        assert not any(starts(task) for task in tasks)
        assert {finished.code for finished in run(executor, tasks).values()} == {0}
        assert_complete(executor, tasks)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@cluster
def test_jobs_share_a_gpu(nodes: Nodes, tmp_path: Path) -> None:
    with pytest.raises(MSABenchError) as caught:
        RayExecutor(nodes.address, gpus=True)
    sentence = f"no node of the Ray cluster at {nodes.address} has what a job needs (1 CPU and 1 GPU): "
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith(" has 1 CPUs and 0 GPUs")
    says = "import os, sys, time; print(os.environ['CUDA_VISIBLE_DEVICES'], *sys.argv[4:]); time.sleep(1)"
    tasks = scripts(tmp_path / "runs", *[says] * 4)
    most = []
    node = nodes.add(num_cpus=4, num_gpus=1)
    try:
        assert RayExecutor(nodes.address, gpus=False).slots == 6
        executor = RayExecutor(nodes.address, per_device=2)
        assert executor.slots == 2
        found = run(executor, tasks, lambda running: most.append(len(running)))
    finally:
        nodes.lose(node)
    assert {finished.code for finished in found.values()} == {0}
    assert max(most) == 2
    assert {task.log.read_text() for task in tasks} == {"0 --accelerator gpu\n"}


@cluster
def test_a_node_that_cannot_run_jobs_ends_the_run_with_a_sentence(
    nodes: Nodes, held: list[Script], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = RayExecutor(nodes.address, gpus=False)
    with monkeypatch.context() as patch:
        patch.setattr(ray_cluster, "__version__", "0.0.1")
        with pytest.raises(MSABenchError) as caught:
            run(executor, held)
    assert "cannot run jobs: it has msabench " in str(caught.value)
    assert "no other job is started, and those that run go on to their end" in capsys.readouterr().err
    assert ResultStore(held[0].store).jobs() == []
    (held[0].store / "hold").unlink()
    assert {finished.code for finished in run(executor, held).values()} == {0}
    assert_complete(executor, held)


# Clusters of their own.


@cluster
@linux
def test_a_head_that_is_restarted_ends_the_run_and_the_same_again_goes_on(held: list[Script]) -> None:
    with ray_nodes(2) as own:
        address = own.address
        executor = RayExecutor(address, patience=1.0)
        with pytest.raises(MSABenchError) as caught:
            run(executor, held, when_two_run(held, lambda: own.lose(own.cluster.head_node)))
        assert str(caught.value).startswith(f"the connection to the Ray cluster at {address} was lost: its head ")
        assert str(caught.value).endswith("; see whether its head runs, and the same command goes on with the rest")
        with pytest.raises(MSABenchError, match=r"no Ray cluster answers at .*Connection refused"):
            run(RayExecutor(address), held)
        own.add_head()
        with pytest.raises(MSABenchError, match=r"has what a job needs \(1 CPU\): .* has 0 CPUs and 0 GPUs"):
            RayExecutor(address)
        node = own.add()
        assert {finished.code for finished in run(executor, held).values()} == {0}
        assert_complete(executor, held, [len(starts(task)) for task in held])
        # A cluster without nodes.
        own.lose(node)
        with pytest.raises(MSABenchError, match=r"no node has had what a job needs \(1 CPU\) for 1 s; add one with"):
            run(executor, scripts(held[0].store / "more", ""))


@cluster
def test_without_an_address_this_machine_is_the_cluster(tmp_path: Path) -> None:
    tasks = scripts(tmp_path / "runs", "print('fine')", "import sys; sys.exit(3)")
    with ray_settings():
        executor = RayExecutor(slots=2)
        assert executor.slots == 2
        assert {seed: finished.code for seed, finished in run(executor, tasks).items()} == {0: 0, 1: 3}
        assert tasks[0].log.read_text() == "fine\n"
        assert run(executor, tasks[:1])[0].code == 0
        executor._close()


def test_nothing_to_run_starts_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "here")
    monkeypatch.setattr(ray_cluster, "_Driver", None)
    assert run(RayExecutor(slots=2), []) == {}
