"""Workers that are forks of one process: the same jobs, the same ends, and nothing shared among them."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from msabench.methods.registry import add_plugins
from msabench.results.store import ResultStore
from msabench.runner import command as run_command
from msabench.runner import local, warm
from msabench.runner.executor import LOST, RECORDED_FAILURE, Finished, Task, run_folder
from msabench.runner.local import ONE_THREAD, LocalExecutor, Slot
from msabench.runner.suite import expand, read_suite
from msabench.runner.warm import can_be_warm
from tests.support.outside_folder import outside_folder, plug_in
from tests.support.stored_files import files, jobs_in
from tests.support.worker_scripts import job, nothing, scripts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forks on Linux only")

folder = pytest.fixture(outside_folder)


def watched(*acts: str, name: str = "runs") -> list[Task]:
    """One job of the plug-in for every act, with seeds from 1; folder and store are below ``name``."""
    add_plugins([plug_in("watched.py")])
    jobs = [
        {
            "method": "watched",
            "dataset": "synth",
            "seeds": [number],
            "config": "watched.yaml",
            "overrides": {"model.init_args.act": act},
        }
        for number, act in enumerate(acts, 1)
    ]
    config = {
        "trainer": {"max_epochs": 1},
        "data": {"dataset": "synth", "size": [20, 8, 10], "length": 8},
        "model": {"class_path": "watched.Watched"},
    }
    suite = {"name": name, "configs": ".", "grid": ["inter/l"], "mask_seeds": [0], "jobs": jobs}
    Path("watched.yaml").write_text(yaml.safe_dump(config))
    Path(f"{name}.yaml").write_text(yaml.safe_dump(suite))
    found = expand(read_suite(Path(f"{name}.yaml")))
    return [Task(one, run_folder(Path(name), one), Path(name) / "store") for one in found]


def codes(ended: Sequence[Finished]) -> dict[int, int]:
    return {finished.task.job.key.seed: finished.code for finished in ended}


def said(task: Task) -> Any:
    """What a watched job said of its process."""
    return json.loads(next(line for line in task.log.read_text().splitlines() if line.startswith("{")))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], object], seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def lingering() -> list[int]:
    """Ids of a lingering job, its parent and its child; empty before there is one."""
    path = Path("lingers")
    return [int(word) for word in path.read_text().split()] if path.is_file() else []


# The same as fresh ones.


def test_warm_and_fresh_workers_make_the_same(folder: Path) -> None:
    suite = {
        "name": "tiny",
        "configs": ".",
        "grid": ["inter", "intra/0.5"],
        "mask_seeds": [0, 1],
        "seeds": [1],
        "overrides": {"trainer.max_epochs": 2, "data.missing.regime": "mixed"},
        "jobs": [
            {"method": "lf_dnn", "dataset": "synth"},
            {"method": "constant", "dataset": "my_clips"},
            {"method": "lf_dnn", "dataset": "synth", "overrides": {"data.batch_size": 0}},
        ],
    }
    add_plugins([plug_in("my_corpus.py")])
    data = {"dataset": "my_clips", "features": "columns", "root": str(folder)}
    (folder / "my_clips").mkdir()
    lines = [f"{split}{n},{split},{n / 8 - 0.5},{n},1,2,{n % 3},{n}" for split in SPLITS for n in range(8)]
    Path("my_clips/clips.csv").write_text("\n".join(lines) + "\n")
    synth = {"dataset": "synth", "size": [20, 8, 10], "length": 8}
    for name, given, class_path in (("constant_my_clips", data, "Constant"), ("lf_dnn_synth", synth, "LFDNN")):
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"data": given, "model": {"class_path": class_path}}))
    Path("tiny.yaml").write_text(yaml.safe_dump(suite))
    for workers in ("fresh", "warm"):
        where = Path(workers)
        assert (
            run_command.run(Path("tiny.yaml"), where / "store", where / "runs", devices=["cpu"], workers=workers) == 1
        )
    fresh, warmed = (files(Path(workers) / "store", "*.parquet") for workers in ("fresh", "warm"))
    assert len(fresh) == 2
    assert fresh == warmed
    one, other = (jobs_in(Path(workers) / "store") for workers in ("fresh", "warm"))
    assert [record["status"] for record in one] == ["ok", "failed", "ok"]
    assert one == other
    frames = [ResultStore(Path(workers) / "store").frame() for workers in ("fresh", "warm")]
    columns = [name for name in frames[0].columns if not name.endswith("seconds") and "memory" not in name]
    assert frames[0][columns].equals(frames[1][columns])


SPLITS = ("train", "valid", "test")


def test_a_worker_ends_alike_either_way(folder: Path) -> None:
    acts = ("abort", "word", "raise", "exit", "kill", "terminate")
    tasks = watched(*acts)
    ended = codes([*LocalExecutor([Slot()] * 2).run(tasks, nothing)])
    found = dict(zip(acts, (ended[task.job.key.seed] for task in tasks), strict=True))
    assert found == {
        "abort": -signal.SIGABRT,
        "word": 1,
        "raise": RECORDED_FAILURE,
        "exit": 7,
        "kill": -signal.SIGKILL,
        "terminate": -signal.SIGTERM,
    }
    again = watched("abort", "word", "raise", name="fresh")
    assert codes([*LocalExecutor([Slot()] * 2, warm=False).run(again, nothing)]) == {1: -6, 2: 1, 3: RECORDED_FAILURE}
    for here, there in zip(tasks, again, strict=False):
        assert (said(here)["frozen"], said(there)["frozen"]) == (True, False), "frozen objects show a fork"
        assert last_words(here) == last_words(there)
    assert last_words(tasks[1]) == ["a last word", "said at the end"]
    [failure] = ResultStore(Path("runs/store")).failures()
    assert "as told" in failure.error


def last_words(task: Task) -> list[str]:
    """What a log says after the job's own line, without where in the code an error was raised."""
    lines = task.log.read_text().splitlines()
    own = next(number for number, line in enumerate(lines) if line.startswith("{"))
    return [line for line in lines[own + 1 :] if not line.startswith((" ", "Traceback", "Extension modules"))]


# Alone.


def test_jobs_share_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,8")
    tasks = watched("none", "write", "none", "none")
    slots = [Slot(core=min(os.sched_getaffinity(0)), gpu="8", accelerator="cpu")]
    assert set(codes([*LocalExecutor(slots).run(tasks, nothing)]).values()) == {0}
    told = [said(task) for task in tasks]
    server = told[0]["parent"]
    assert told[0]["parents_command"] == [sys.executable, "-m", "msabench.runner.fork_server"]
    for task, its in zip(tasks, told, strict=True):
        # A process of its own in everything that others see of it.
        path = str(task.folder / "job.json")
        assert its["command"][:4] == [sys.executable, "-m", "msabench.runner.worker", path]
        assert its["session"] == its["pid"] != server
        assert (its["parent"], its["parents_threads"], its["threads"]) == (server, 1, 1)
        assert its["cores"] == [slots[0].core]
        assert its["stdin"] == "/dev/null"
        assert its["folder"] == str(folder)
        # The log twice, both locks, and nothing of the server's or of other jobs.
        ours = [name for name in its["descriptors"] if name.startswith(str(folder))]
        claim = folder / "runs/store/.claims" / task.job.key.job_id
        assert sorted(ours) == sorted([str(folder / task.log)] * 2 + [str(folder / task.folder / ".lock"), str(claim)])
        assert not [name for name in its["descriptors"] if name.startswith("socket:")]
        # Nothing that an earlier job has changed, and the same as that found.
        assert its["left"] == its["filters"] == []
        assert "LEFT_BEHIND" not in its["environment"]
        given = {"PYTHONHASHSEED": "0", "CUDA_VISIBLE_DEVICES": "8"}
        assert (ONE_THREAD | given).items() <= its["environment"].items()
        assert its["path"] == told[0]["path"]
        assert str(folder) in its["path"]
        assert its["torch_seed"] == task.job.key.seed
        assert its["environment"]["MSABENCH_PLUGINS"] == str(folder / "watched.py")
        assert task.log.read_text().count("said at the end") == 1
    assert len({its["parents_descriptors"] for its in told}) == 1, "the server keeps files of jobs"
    assert "from C\n" in tasks[1].log.read_text()
    assert Path("unclosed").read_text() == "whole"
    assert not alive(server)


# Ends.


def test_a_server_that_is_killed_is_replaced_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = watched("linger", "linger", "none")
    killed: list[list[int]] = []

    def kill(running: Sequence[Task]) -> None:
        if found := lingering():
            killed.append(found)
            os.kill(found[1], signal.SIGKILL)
            # The kernel ends the job.
            wait_until(lambda: not any(map(alive, found[:2])))
            Path("lingers").unlink()

    ended = [*LocalExecutor([Slot()]).run(tasks, kill)]
    assert codes(ended) == {1: LOST, 2: LOST, 3: 0}
    assert {finished.error for finished in ended[:2]} == {
        "the process that starts workers was ended by SIGKILL (out of memory?)"
    }
    assert len({server for _, server, _ in killed}) == 2
    wait_until(lambda: not any(alive(child) for _, _, child in killed))
    assert said(tasks[2])["parent"] == os.getpid()
    told = capsys.readouterr().err
    assert told.count("another one is started") == 1
    assert told.count("every worker imports for itself from here on") == 1


def test_closing_the_iterator_ends_forks_with_what_they_started(folder: Path) -> None:
    tasks = [*watched("linger"), *scripts(folder / "other", "")]

    def interrupt(running: Sequence[Task]) -> None:
        if lingering():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        codes([*LocalExecutor([Slot()] * 2).run(tasks, interrupt)])
    found = lingering()
    assert len(found) == 3
    # The last is a child of the job, which nobody here waits for.
    assert not any(map(alive, found[:2]))
    wait_until(lambda: not alive(found[2]))


PARENT = """
import sys
from pathlib import Path
from msabench.runner.executor import Task
from msabench.runner.local import LocalExecutor, Slot

class Ready(Task):
    def prepare(self):
        pass

tasks = [Ready(**vars(Task.load(Path(path)))) for path in sys.argv[1:]]
for finished in LocalExecutor([Slot()]).run(tasks, lambda running: None):
    pass
"""


def test_server_and_forks_die_with_the_run(folder: Path) -> None:
    tasks = watched("linger", "none")
    for task in tasks:
        task.prepare()
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *(str(task.folder / "job.json") for task in tasks)])
    try:
        wait_until(lambda: len(lingering()) == 3)
    finally:
        parent.kill()
        parent.wait()
    job_process, server, child = lingering()
    wait_until(lambda: not alive(job_process) and not alive(server))
    os.kill(child, signal.SIGKILL)


SERVER = """
import gc, os, subprocess, sys, time
from pathlib import Path
from msabench.runner import fork_server, worker

def main(arguments):
    if arguments[-1] == "linger":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path("lingers").write_text(f"{os.getpid()} {os.getppid()} {child.pid}")
        time.sleep(600)
    Path("collects").write_text(str(gc.isenabled() and gc.get_freeze_count() > 0))
    return 0

fork_server.import_what_jobs_use = lambda: None
worker.main = main
fork_server.leave(fork_server.main(sys.argv[1:]))
"""


def test_a_server_ends_its_jobs_although_words_were_left_unread(folder: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [str(theirs.fileno()), str(os.getpid()), "room"]
    server = subprocess.Popen([sys.executable, "-c", SERVER, *words], pass_fds=[theirs.fileno()])
    theirs.close()
    with Path("log").open("wb") as log:
        for number, word in enumerate(("linger", "end")):
            request = {"number": number, "arguments": [word], "environment": {}}
            socket.send_fds(ours, [json.dumps(request).encode()], [log.fileno()] * 3)
    heard = [json.loads(ours.recv(1000)) for _ in range(3)]
    assert [word.keys() for word in heard] == [{"ready"}, {"number", "pid"}, {"number", "pid"}]
    wait_until(lambda: len(lingering()) == 3)
    assert lingering()[:2] == [heard[1]["pid"], server.pid]
    # The end of the second job is in the way.
    assert select.select([ours], [], [], 600)[0]
    ours.close()
    assert server.wait() == 0
    wait_until(lambda: not any(map(alive, lingering())))
    # Forks look for garbage as other processes do, though not among what was imported.
    assert Path("collects").read_text() == "True"


# Ways back.


def test_without_a_server_workers_are_fresh(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "can_be_warm", lambda task: True)
    monkeypatch.setattr(warm, "SERVER", "there_is_no_such_module")
    code = "import os; print(os.getppid())"
    tasks = scripts(folder, *[code] * 3)
    assert codes([*LocalExecutor([Slot()] * 2).run(tasks, nothing)]) == {0: 0, 1: 0, 2: 0}
    assert [task.log.read_text() for task in tasks] == [f"{os.getpid()}\n"] * 3
    told = capsys.readouterr().err
    assert told.count("No module named there_is_no_such_module") == 2
    assert told.endswith("every worker imports for itself from here on\n")


def test_a_server_with_threads_refuses_to_fork(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [*watched("none"), *scripts(folder / "other", "")]
    environment = {**ONE_THREAD, "JE_ARROW_MALLOC_CONF": "background_thread:true"}
    ended = [*LocalExecutor([Slot()], environment=environment).run(tasks, nothing)]
    assert [finished.code for finished in ended] == [0, 0]
    assert said(tasks[0])["parent"] == os.getpid()
    told = capsys.readouterr().err
    assert re.search(r"imports have started threads \(python\S*, jemalloc_bg_thd\)", told)
    assert told.endswith("every worker imports for itself from here on\n")


def test_what_a_process_has_open_or_runs_forbids_forks() -> None:
    code = """
import threading
from msabench.runner import fork_server
held = open("/dev/null")
fork_server.DEVICES = ("/dev/null",)
print(fork_server.why_not_to_fork())
threading.Thread(target=threading.Event().wait, daemon=True).start()
print(fork_server.why_not_to_fork())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    opened, threads = done.stdout.splitlines()
    assert opened == "imports have opened /dev/null"
    assert threads.startswith("imports have started threads (python")


def test_only_our_worker_is_forked_and_only_for_several_jobs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(job(), folder, folder)
    assert can_be_warm(task)
    assert not can_be_warm(scripts(folder, "")[0])
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not can_be_warm(task)
    monkeypatch.setattr(local, "ForkServer", None)
    monkeypatch.setattr(local, "can_be_warm", lambda task: True)
    assert codes([*LocalExecutor([Slot()]).run(scripts(folder / "one", ""), nothing)]) == {0: 0}
