"""Running suites: plans, slots, failures, interruptions, and a whole run from suite to records."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from msabench.errors import MSABenchError
from msabench.evaluation.command import evaluate_checkpoint
from msabench.evaluation.evaluate import evaluate_grid
from msabench.missingness.conditions import distinct, parse_grid
from msabench.results import predictions
from msabench.results.claims import sole_writer
from msabench.results.record import JobRecord
from msabench.results.store import ResultStore
from msabench.runner import command as run_command
from msabench.runner import job as job_module
from msabench.runner.execution import error_of
from msabench.runner.executor import (
    NOT_STARTED,
    RECORDED_FAILURE,
    RUNNING_ELSEWHERE,
    Finished,
    Task,
    record_failure,
    run_folder,
    start,
)
from msabench.runner.job import run_job
from msabench.runner.local import ONE_THREAD, LocalExecutor, Slot, cpu_slots, gpu_slots, visible_gpus
from msabench.runner.plan import duration, make_plan
from msabench.runner.progress import Progress
from msabench.runner.suite import expand, read_suite
from msabench.runner.worker import one_line
from tests.support import records
from tests.support.worker_scripts import Script, job, nothing, scripts

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends workers on Linux only")


# Plans.


def test_a_plan_drops_what_the_store_has_and_estimates_the_rest(tmp_path):
    store = ResultStore(tmp_path)
    done = JobRecord(records.key(seed=1), config=job().config, train_seconds=90.0, eval_seconds=10.0, epochs=5)
    store.add(done, records.cells(done.key, names=["inter/l"]))
    records.fail(store, seed=2)
    twice = {"trainer": {"max_epochs": 20}, "data": {"dataset": "mosi"}}
    jobs = [
        job(seed=1),
        job(seed=2),
        job(seed=1, config_hash="d" * 12, config=twice),
        job(seed=1, method="umdf", config_hash="e" * 12),
        job(seed=3, problem="there is no file"),
    ]
    plan = make_plan(jobs, store)
    assert plan.done == (jobs[0],)
    assert [(p.job, p.seconds) for p in plan.todo] == [
        (jobs[1], 100.0),
        (jobs[2], pytest.approx(400.0)),
        (jobs[3], None),
        (jobs[4], 0.0),
    ]
    text = plan.describe(2)
    assert "4 of 5 jobs to run, 2 at a time" in text
    assert "1 min 40 s  (same config, from 1 record, wall time)" in text
    assert "6 min 40 s  (same method, scaled by clips x epochs, from 1 record, wall time)" in text
    assert "estimated time: unknown, since nothing comparable to 1 of the jobs is stored" in text
    assert "cannot run: 1 of 4 jobs on mosi: there is no file" in text
    known = make_plan(jobs[:3], store)
    assert known.seconds(1) == pytest.approx(500.0)
    assert known.seconds(2) == pytest.approx(400.0), "no run is shorter than its longest job"
    assert make_plan(jobs[:1], store).seconds(4) == 0.0


def test_estimates_come_from_any_store_at_hand_the_given_one_first(tmp_path):
    ours, theirs, broken = (ResultStore(tmp_path / name) for name in ("ours", "theirs", "broken"))
    for store, seconds, config_hash in ((ours, 10.0, "a" * 12), (theirs, 30.0, "a" * 12), (theirs, 70.0, "b" * 12)):
        done = JobRecord(
            records.key(config_hash=config_hash),
            config=job().config,
            train_seconds=seconds,
            eval_seconds=0.0,
            epochs=10,
        )
        store.add(done, records.cells(done.key, names=["inter/l"]))
    (broken.folder / "mosi" / "mult").mkdir(parents=True)
    (broken.folder / "mosi" / "mult" / f"{done.key.job_id}.jsonl").write_text("{")
    longer = {"trainer": {"max_epochs": 20}, "data": {"dataset": "mosi"}}
    jobs = [job(seed=2, config_hash=letter * 12) for letter in "ab"] + [
        job(seed=2, config_hash="c" * 12, config=longer)
    ]
    assert [(p.seconds, p.basis) for p in make_plan(jobs, ours, [broken, theirs]).todo] == [
        (10.0, "same config, from 1 record, wall time"),
        (70.0, f"same config in {theirs.folder}, from 1 record, wall time"),
        (20.0, "same method, scaled by clips x epochs, from 1 record, wall time"),
    ]
    (alone,) = make_plan(jobs[2:], ResultStore(tmp_path / "none"), [theirs]).todo
    assert alone.seconds == pytest.approx(100.0)
    said = "scaled by clips x epochs, from 2 records, wall time"
    assert alone.basis == f"same method in {theirs.folder}, {said}"


def test_processor_seconds_of_one_thread_outdo_wall_time(tmp_path):
    alone = {"device": "cpu", "threads": 1}
    measured = {"train_processor_seconds": 20.0, "eval_processor_seconds": 5.0}
    loaded = {"train_seconds": 90.0, "eval_seconds": 10.0, "epochs": 10, "config": job().config}
    same, other = job(seed=9), job(seed=9, config_hash="d" * 12)

    def estimates(folder, *made):
        store = ResultStore(tmp_path / folder)
        for number, changes in enumerate(made):
            done = JobRecord(records.key(seed=number), **{**loaded, **changes})
            store.add(done, records.cells(done.key, names=["inter/l"]))
        return [(planned.seconds, planned.basis) for planned in make_plan([same, other], store).todo]

    scaled = "same method, scaled by clips x epochs"
    slower = {**measured, "train_processor_seconds": 30.0}
    # An older record beside them is of wall time alone and does not count.
    assert estimates("cpu", measured | {"provenance": alone}, slower | {"provenance": alone}, {}) == [
        (30.0, "same config, from 2 records, processor seconds"),
        (pytest.approx(30.0), f"{scaled}, from 2 records, processor seconds"),
    ]
    # A host that waits for its accelerator, several threads, and a training of which a part was not measured.
    others = [
        measured | {"provenance": {"device": "cuda", "threads": 1}},
        measured | {"provenance": {"device": "cpu", "threads": 2}},
        measured | {"provenance": alone, "train_processor_seconds": None},
    ]
    assert estimates("wall", *others) == [
        (100.0, "same config, from 3 records, wall time"),
        (pytest.approx(100.0), f"{scaled}, from 3 records, wall time"),
    ]


def test_stores_at_hand_are_those_of_the_working_folder_or_around_the_suite(tmp_path, monkeypatch):
    committed, costs = tmp_path / "repository/leaderboard/results", tmp_path / "repository/benchmarks/costs"
    for folder in (committed, costs, tmp_path / "here/benchmarks/costs"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    suite = tmp_path / "repository/benchmarks/suites/demo.yaml"
    found = run_command.stores_at_hand(suite, Path("store"))
    assert [store.folder for store in found] == [committed, Path("benchmarks/costs")]
    assert [store.folder for store in run_command.stores_at_hand(suite, committed)] == [Path("benchmarks/costs")]


def test_where_nothing_can_run_the_plan_says_why_once(tmp_path):
    jobs = [
        job(seed=seed, dataset=dataset, problem=f"there is no file; get it with `msabench data fetch {dataset}`")
        for dataset in ("mosi", "sims")
        for seed in (1, 2, 3)
    ]
    assert make_plan(jobs, ResultStore(tmp_path)).describe(2).splitlines() == [
        "nothing can run",
        "cannot run: 3 of 6 jobs on mosi: there is no file; get it with `msabench data fetch mosi`",
        "cannot run: 3 of 6 jobs on sims: there is no file; get it with `msabench data fetch sims`",
    ]


def test_a_plan_says_which_done_jobs_lack_cells(tmp_path):
    store = ResultStore(tmp_path)
    done = JobRecord(records.key())
    store.add(done, records.cells(done.key, names=["inter/l", "intra/0.5"], mask_seeds=(0, 1)))
    covered = job(grid=("inter/l", "intra/0.5"), mask_seeds=(1,))
    assert make_plan([covered], store).lacking == ()
    for grid, seeds in ((("inter/l", "inter/a"), (0,)), (("intra/0.5",), (0, 2))):
        plan = make_plan([job(grid=grid, mask_seeds=seeds)], store)
        assert len(plan.lacking) == 1
        [warning] = plan.warnings()
        way_out = "delete these files of the store and run again, or name another store"
        assert f"{way_out}: mosi/mult/{done.key.job_id}.jsonl" in warning
        assert warning in plan.describe(1)


def test_durations():
    assert [duration(s) for s in (0.4, 59.6, 3599, 7800)] == ["0 s", "1 min 00 s", "59 min 59 s", "2 h 10 min"]


# Progress.


def test_progress_counts_shows_epochs_and_estimates(tmp_path):
    store = ResultStore(tmp_path / "store")
    jobs = [job(seed=seed) for seed in (1, 2, 3)]
    tasks = [Task(j, tmp_path / str(j.key.seed), tmp_path) for j in jobs]
    out = io.StringIO()
    progress = Progress(make_plan(jobs, store).todo, 1, out)
    tasks[0].prepare()
    progress.tick(tasks[:1])
    now = time.monotonic()
    assert "0/3 done, time left unknown: mult mosi mixed seed 1 starts" in progress.line(tasks[:1], now)
    tasks[0].say("fit", 5, 10)
    line = progress.line(tasks[:1], now + 95)
    assert "mult mosi mixed seed 1 epoch 6/10" in line
    # 95 s for 0.95 * 5 / 10 of a job: 105 s of this one, 200 s for each of the others.
    assert "8 min 25 s left" in line
    tasks[0].say("evaluate", 10, 10)
    assert "seed 1 evaluate" in progress.line(tasks[:1], now + 1)
    progress.ended(tasks[0], "")
    progress.ended(tasks[1], "RuntimeError: no")
    assert "[1/3] mult mosi mixed seed 1: done in 0 s" in out.getvalue()
    assert "[2/3] mult mosi mixed seed 2: failed: RuntimeError: no" in out.getvalue()


def test_progress_goes_at_the_pace_of_the_jobs_that_are_done(tmp_path, monkeypatch):
    store = ResultStore(tmp_path / "store")
    done = JobRecord(records.key(seed=9), train_seconds=10.0, eval_seconds=0.0)
    store.add(done, records.cells(done.key, names=["inter/l"]))
    jobs = [job(seed=seed) for seed in (1, 2, 3)]
    tasks = [Task(j, tmp_path / str(j.key.seed), tmp_path) for j in jobs]
    progress = Progress(make_plan(jobs, store).todo, 1, io.StringIO())
    assert "30 s left" in progress.line([], 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    progress.tick(tasks[:1])
    monkeypatch.setattr(time, "monotonic", lambda: 25.0)
    progress.ended(tasks[0], "")
    # It took 25 s instead of 10 s: the machine has other work too.
    assert "1/3 done, 50 s left" in progress.line([], 25.0)


def test_the_start_of_a_process_does_not_grow_with_the_job(tmp_path, monkeypatch):
    store = ResultStore(tmp_path / "store")
    for number, seconds in enumerate((1.0, 100.0, 10.0)):
        done = JobRecord(records.key(seed=9, config_hash=f"{number}" * 12), train_seconds=seconds, eval_seconds=0.0)
        store.add(done, records.cells(done.key, names=["inter/l"]))
    jobs = [job(seed=1, config_hash=f"{number}" * 12) for number in range(3)]
    tasks = [Task(j, tmp_path / str(number), tmp_path) for number, j in enumerate(jobs)]
    progress = Progress(make_plan(jobs, store).todo, 1, io.StringIO())

    def run(task, start, end):
        monkeypatch.setattr(time, "monotonic", lambda: start)
        progress.tick([task])
        monkeypatch.setattr(time, "monotonic", lambda: end)
        progress.ended(task, "")

    # 40 s of starting and 1 s of work say nothing against 100 s and 10 s of work.
    run(tasks[0], 0.0, 41.0)
    assert "1/3 done, 3 min 10 s left" in progress.line([], 41.0)
    # 40 s and 302 s: the machine has other work too, three times as much: 303 s for 101 s.
    run(tasks[1], 41.0, 383.0)
    assert "2/3 done, 1 min 10 s left" in progress.line([], 383.0)


# Slots and processes, with workers that need no torch.


def test_exit_codes_signals_and_output(tmp_path):
    tasks = scripts(
        tmp_path, "print('fine')", "import sys; sys.exit(3)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    codes = {f.task.job.key.seed: f.code for f in LocalExecutor([Slot()]).run(tasks, nothing)}
    assert codes == {0: 0, 1: RECORDED_FAILURE, 2: -signal.SIGKILL}
    assert tasks[0].log.read_text() == "fine\n"


def test_no_more_workers_than_slots_each_with_one_thread_and_its_place(tmp_path):
    code = "import os, sys, json; print(json.dumps([dict(os.environ), sys.argv[2:]]))"
    seen = []
    tasks = scripts(tmp_path, *[code] * 4)
    for _ in LocalExecutor([Slot(gpu="7"), Slot(core=0)]).run(tasks, lambda running: seen.append(len(running))):
        pass
    assert max(seen) == 2
    told = [json.loads(task.log.read_text()) for task in tasks]
    assert all(ONE_THREAD.items() <= environment.items() for environment, _ in told)
    gpu, cpu = told[0], told[1]
    assert gpu[0]["CUDA_VISIBLE_DEVICES"] == "7"
    assert gpu[1] == ["--parent", str(os.getpid()), "--accelerator", "gpu"]
    assert cpu[1] == ["--parent", str(os.getpid()), "--accelerator", "cpu", "--core", "0"]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=600.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


SLEEPER = """
import os, sys, time, pathlib
pathlib.Path(sys.argv[1], 'pid').write_text(str(os.getpid()))
time.sleep(600)
"""


def test_a_run_folder_belongs_to_one_worker_until_it_ends(tmp_path):
    pytest.importorskip("fcntl", reason="no locks here")
    (task,) = scripts(tmp_path, SLEEPER)
    holder = start(task)
    try:
        wait_until(lambda: (task.folder / "pid").is_file())
        (task.folder / "best.ckpt").write_text("precious")
        second = Task(task.job, task.folder, task.store)
        (refused,) = LocalExecutor([Slot()]).run([second], nothing)
        assert (refused.code, refused.error) == (RUNNING_ELSEWHERE, "another process is running this job")
        assert (task.folder / "best.ckpt").read_text() == "precious"
        assert not (task.folder / "job.json").exists()
    finally:
        holder.kill()
        holder.wait()
    # The lock goes with its holder, even with one that is killed.
    (done,) = LocalExecutor([Slot()]).run([replace(task, code="print('mine')")], nothing)
    assert (done.code, task.log.read_text()) == (0, "mine\n")


def test_a_job_recorded_since_the_plan_is_not_run_again(tmp_path):
    (task,) = scripts(tmp_path / "runs", "print('again')")
    task = replace(task, store=tmp_path / "store")
    records.add(ResultStore(task.store), seed=0)
    assert start(task) == Finished(task, 0)
    assert not task.log.exists()
    assert list((task.store / ".claims").iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_its_own_job_only(tmp_path, monkeypatch):
    tasks = scripts(tmp_path, "print('fine')", "", "", "print('fine')")
    tasks[1].folder.write_text("a file in the way")
    prepare = Script.prepare

    def full(self):
        if self is tasks[2]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
        prepare(self)

    monkeypatch.setattr(Script, "prepare", full)
    ended = {f.task.job.key.seed: f for f in LocalExecutor([Slot(), Slot()]).run(tasks, nothing)}
    assert [ended[seed].code for seed in range(4)] == [0, NOT_STARTED, NOT_STARTED, 0]
    assert ended[1].error == f"no worker could be started in {tasks[1].folder}: File exists"
    assert ended[2].error == f"no worker could be started in {tasks[2].folder}: No space left on device"


@linux
def test_closing_the_iterator_ends_the_workers(tmp_path):
    tasks = scripts(tmp_path, SLEEPER, SLEEPER, "")
    running = LocalExecutor([Slot()] * 3).run(tasks, nothing)
    assert next(running).task is tasks[2]
    wait_until(lambda: all((task.folder / "pid").is_file() for task in tasks[:2]))
    running.close()
    assert not any(alive((task.folder / "pid").read_text()) for task in tasks[:2])


def test_slots(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 5}, raising=False)
    assert [slot.core for slot in cpu_slots()] == [2, 5]
    assert [slot.core for slot in cpu_slots(3)] == [2, 5, 2]
    # Another run with one slot would choose the same core.
    assert [slot.core for slot in cpu_slots(1)] == [None]
    assert [slot.gpu for slot in gpu_slots(["0", "1"], 2)] == ["0", "1", "0", "1"]
    with pytest.raises(MSABenchError, match="0 slots are not allowed"):
        cpu_slots(0)
    with pytest.raises(MSABenchError, match="0 jobs per device"):
        gpu_slots(["0"], 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-ab")
    assert visible_gpus() == ["4", "GPU-ab"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]


def test_devices_of_the_command(monkeypatch):
    monkeypatch.setattr(run_command, "visible_gpus", lambda: [])
    assert run_command._local(2, None, 1).slots == 2
    with pytest.raises(MSABenchError, match="no GPU is visible"):
        run_command._local(None, ["0"], 1)
    monkeypatch.setattr(run_command, "visible_gpus", lambda: ["0", "1"])
    assert run_command._local(None, None, 2).slots == 4
    assert run_command._local(None, ["1"], 2).slots == 2
    assert run_command._local(3, ["cpu"], 1).slots == 3
    with pytest.raises(MSABenchError, match="slots are CPU cores"):
        run_command._local(3, ["0"], 1)


def test_array_of_jobs_through_submitit(tmp_path):
    pytest.importorskip("submitit", reason="needs the extra slurm")
    from msabench.runner.slurm import SlurmExecutor

    tasks = scripts(tmp_path, "print('fine')", "import sys; sys.exit(3)")
    executor = SlurmExecutor(tmp_path / "submitit", {"timeout_min": 5}, cluster="local")
    codes = {f.task.job.key.seed: f.code for f in executor.run(tasks, nothing)}
    assert codes == {0: 0, 1: RECORDED_FAILURE}
    assert tasks[0].log.read_text() == "fine\n"
    with pytest.raises(MSABenchError, match="submitit refuses"):
        SlurmExecutor(tmp_path / "submitit", {"timeout": 5}, cluster="local")
    with pytest.raises(MSABenchError, match="there is no file"):
        SlurmExecutor.from_file(tmp_path / "none.yaml", tmp_path)


def test_errors_in_one_line():
    assert one_line(MSABenchError("unknown method")) == "unknown method"
    assert one_line(RuntimeError("first\nCUDA out of memory\n")) == "RuntimeError: CUDA out of memory"
    assert one_line(AssertionError()) == "AssertionError"


# A whole run.


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A repository in small: configs and a suite with two methods and a job that fails."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_command, "visible_gpus", lambda: [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "configs").mkdir()
    for name, class_path in (("constant", "Constant"), ("lf_dnn", "LFDNN")):
        config = {"data": {"dataset": "synth"}, "model": {"class_path": class_path}}
        (tmp_path / "configs" / f"{name}_synth.yaml").write_text(yaml.safe_dump(config))
    suite = {
        "name": "tiny",
        "grid": ["inter", "intra/0.5"],
        "mask_seeds": [0, 1],
        "seeds": [1],
        "overrides": {
            "trainer.max_epochs": 3,
            "data.size": [20, 8, 10],
            "data.length": 8,
            "data.missing.regime": "mixed",
        },
        "jobs": [
            {"method": "lf_dnn", "dataset": "synth"},
            {"method": "constant", "dataset": "synth"},
            {"method": "lf_dnn", "dataset": "synth", "overrides": {"data.batch_size": 0}},
        ],
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    return tmp_path


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PARENT = """
import sys
from pathlib import Path
from msabench.runner.executor import Task
from msabench.runner.local import LocalExecutor, Slot

class Ready(Task):
    def prepare(self):
        pass

tasks = [Ready(**vars(Task.load(Path(path)))) for path in sys.argv[1:]]
for finished in LocalExecutor([Slot(core) for core in (None, None)]).run(tasks, lambda running: None):
    pass
"""


def processes_of(task):
    """Ids of running processes that were started for a task."""
    path = str(task.folder / "job.json")
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if path in words and "msabench.runner.worker" in words and alive(entry.name):
            found.append(int(entry.name))
    return found


@linux
@pytest.mark.usefixtures("one_thread")
def test_a_run_survives_kill_and_interruption_and_goes_on(place, capsys, monkeypatch):
    store, runs = Path("store"), Path("runs")
    jobs = expand(read_suite(Path("tiny.yaml")))
    good, constant, bad = jobs

    # The parent is killed in the middle: its workers die with it.
    tasks = [Task(j, run_folder(runs, j), store) for j in (good, bad)]
    for task in tasks:
        task.prepare()
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *(str(task.folder / "job.json") for task in tasks)])
    try:
        wait_until(lambda: all(task.progress() for task in tasks))
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(processes_of(task) for task in tasks))
    assert ResultStore(store).validate() == []
    assert not ResultStore(store).has(good.key.job_id)

    # Ctrl-C in the middle: the workers are ended, the store is whole, the exit code says so.
    def interrupt(self, running):
        if running and all(task.progress() for task in running):
            signal.raise_signal(signal.SIGINT)

    # A process that a shell starts in the background ignores Ctrl-C, and Python leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Progress, "tick", interrupt)
            assert run_command.run(Path("tiny.yaml"), store, runs, slots=2) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "the same command goes on" in capsys.readouterr().err
    assert not any(processes_of(task) for task in tasks)

    # The same command completes; the job that fails is recorded and the others go on.
    assert run_command.run(Path("tiny.yaml"), store, runs, slots=2) == 1
    out, err = capsys.readouterr()
    assert "msabench table --datasets synth --store store" in out
    assert "batch_size 0 is not allowed" in err
    kept = ResultStore(store)
    assert kept.validate() == []
    assert kept.has(good.key.job_id)
    assert kept.has(constant.key.job_id)
    (failure,) = [record for record in kept.jobs() if record.status == "failed"]
    assert failure.key == bad.key
    assert failure.error.startswith("batch_size 0 is not allowed")
    record = next(record for record in kept.jobs() if record.key == good.key)
    assert (record.epochs, record.suites, record.mask_seeds) == (3, ["tiny"], [0, 1])
    assert record.best_epoch in (0, 1, 2)
    assert record.provenance["threads"] == 1
    assert min(record.train_seconds, record.eval_seconds, record.peak_memory_bytes, record.n_params) > 0
    # One thread on a CPU: these are what estimates are made of.
    assert record.processor_seconds == (record.train_processor_seconds, record.eval_processor_seconds)
    assert min(record.train_processor_seconds, record.eval_processor_seconds) > 0
    folder = run_folder(runs, good)
    left = {p.name for p in folder.iterdir()} - {".lock"}
    assert left == {"job.json", "config.yaml", "log.txt", "metrics.csv", "progress.json"}

    # Nothing is done twice.
    assert run_command.run(Path("tiny.yaml"), store, runs, ["constant"]) == 0
    assert "1 jobs, 1 done already, 0 to run" in capsys.readouterr().out
    # A plan needs no cluster.
    assert run_command.run(Path("tiny.yaml"), store, runs, ["lf_dnn"], executor="slurm", dry_run=True) == 0
    assert "1 of 2 jobs to run, 32 at a time" in capsys.readouterr().out

    # The same job in another process, alone, gives the same bytes.
    alone = Task(good, place / "alone", place / "other", keep_checkpoint=True)
    alone.prepare()
    run_job(alone, "cpu")
    first, second = (predictions.path_of(where, good.key).read_bytes() for where in (store, alone.store))
    assert first == second
    frames = [ResultStore(where).frame() for where in (store, alone.store)]
    frames = [frame[frame["job_id"] == good.key.job_id].reset_index(drop=True) for frame in frames]
    assert frames[0].equals(frames[1])

    # Its checkpoint can be evaluated again, into another store, with the same key and numbers.
    checkpoint = alone.folder / "best.ckpt"
    table = evaluate_checkpoint(checkpoint, ["inter", "intra/0.5"], [0, 1], place / "third", device="cpu")
    assert len([line for line in table.partition("\n\n")[0].splitlines() if line.startswith(("inter", "intra"))]) == 9
    assert predictions.path_of(place / "third", good.key).read_bytes() == first
    with pytest.raises(MSABenchError, match="is recorded already"):
        evaluate_checkpoint(checkpoint, ["inter"], [0], place / "third", device="cpu")

    # Without job.json the config beside it gives the same key; without both there is no record.
    with pytest.raises(MSABenchError, match=r"needs 8 cells and mask seeds 0 1, .* cell intra/0\.5 is left out"):
        evaluate_checkpoint(checkpoint, ["inter"], [0, 1], place / "fourth", device="cpu")
    (alone.folder / "job.json").unlink()
    evaluate_checkpoint(checkpoint, ["paper"], [0, 1, 2], place / "fourth", device="cpu")
    assert ResultStore(place / "fourth").has(good.key.job_id)
    (alone.folder / "config.yaml").unlink()
    with pytest.raises(MSABenchError, match="neither job"):
        evaluate_checkpoint(checkpoint, ["inter"], [0], place / "fifth", device="cpu")
    assert "inter/l" in evaluate_checkpoint(checkpoint, ["inter/l"], [0], device="cpu")


@linux
def test_sigterm_ends_a_run_and_its_workers_with_its_own_code(place, capsys, monkeypatch):
    monkeypatch.setattr(Task, "command", lambda self, *options: [sys.executable, "-c", SLEEPER, str(self.folder)])
    begun = []

    def terminate(self, running):
        begun[:] = [path for task in running if (path := task.folder / "pid").is_file() and path.read_text()]
        if begun:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Progress, "tick", terminate)
    before = signal.getsignal(signal.SIGTERM)
    assert run_command.run(Path("tiny.yaml"), Path("store"), Path("runs"), ["constant"], slots=1) == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert "the same command goes on" in capsys.readouterr().err
    assert not alive(begun[0].read_text())


def test_a_worker_that_is_told_to_end_does_not_count_as_done(tmp_path):
    # Lightning puts a handler of its own in front, and ends with code 0.
    code = """
import signal
from msabench.interruption import die_at_once
die_at_once()
ours = signal.getsignal(signal.SIGTERM)
signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))
signal.raise_signal(signal.SIGTERM)
"""
    (ended,) = LocalExecutor([Slot()]).run(scripts(tmp_path, code), nothing)
    assert ended.code == -signal.SIGTERM


def test_a_job_whose_data_changed_since_it_was_planned_is_refused(place):
    planned = expand(read_suite(Path("tiny.yaml")))[1]
    task = Task(replace(planned, key=replace(planned.key, revision="another")), place / "run", place / "store")
    task.prepare()
    with pytest.raises(MSABenchError, match="revision of constant synth mixed seed 1 changed since it was planned"):
        run_job(task, "cpu")


def test_a_worker_that_dies_without_a_word_is_recorded_by_the_parent(place, capsys, monkeypatch):
    killer = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    codes = {"constant": killer, "lf_dnn": "print('first'); print('Segmentation fault'); raise SystemExit(9)"}
    monkeypatch.setattr(Task, "command", lambda self, *options: [sys.executable, "-c", codes[self.job.key.method]])
    assert run_command.run(Path("tiny.yaml"), Path("store"), Path("runs"), slots=2) == 1
    errors = {(r.key.method, r.error) for r in ResultStore(Path("store")).failures()}
    assert errors == {
        ("constant", "the worker was ended by SIGKILL (out of memory?)"),
        ("lf_dnn", "the worker ended with code 9: Segmentation fault"),
    }
    assert "log: runs/synth/constant/" in capsys.readouterr().err
    # --fail_fast starts no further job.
    code = run_command.run(Path("tiny.yaml"), Path("other"), Path("runs"), slots=1, fail_fast=True)
    assert code == 1
    assert len(ResultStore(Path("other")).failures()) == 1


@linux
def test_a_worker_whose_log_is_full_still_records_its_failure(tmp_path):
    task = Task(job(problem="there is no file"), tmp_path / "run", tmp_path / "store")
    task.prepare()
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(task.command(), stdout=full, stderr=full, check=False)
    assert ended.returncode == RECORDED_FAILURE
    assert error_of(Finished(task, ended.returncode)) == "there is no file"
    assert len(ResultStore(task.store).jobs()) == 1


def test_jobs_of_another_run_are_reported_but_not_recorded(place, capsys, monkeypatch):
    pytest.importorskip("fcntl", reason="no locks here")
    monkeypatch.setattr(Task, "command", lambda self, *options: [sys.executable, "-c", SLEEPER, str(self.folder)])
    job = expand(read_suite(Path("tiny.yaml")))[1]
    folder = run_folder(Path("runs"), job)
    holder = start(Task(job, folder, Path("another")))
    try:
        before = (folder / "job.json").read_bytes()
        assert run_command.run(Path("tiny.yaml"), Path("store"), Path("runs"), ["constant"], slots=1) == 1
        assert (folder / "job.json").read_bytes() == before
    finally:
        holder.kill()
        holder.wait()
    out, err = capsys.readouterr()
    assert "constant synth mixed seed 1: not run: another process is running this job" in out
    assert "not run: constant synth mixed seed 1: another process is running this job" in err
    assert ResultStore(Path("store")).jobs() == []


def test_a_job_that_another_run_is_doing_for_the_store_is_left_to_it(place, capsys, monkeypatch):
    pytest.importorskip("fcntl", reason="no locks here")
    monkeypatch.setattr(Task, "command", lambda self, *options: [sys.executable, "-c", SLEEPER, str(self.folder)])
    (job,) = [j for j in expand(read_suite(Path("tiny.yaml"))) if j.key.method == "constant"]
    holder = start(Task(job, Path("elsewhere"), Path("store")))
    try:
        assert start(Task(job, Path("mine"), Path("store"))).code == RUNNING_ELSEWHERE
        assert [path.name for path in Path("mine").iterdir()] == [".lock"]
        with pytest.raises(MSABenchError, match=f"another process is running job {job.key.job_id} for store"):
            with sole_writer(Path("store"), job.key.job_id):
                pass
        # Recorded before the second run ends: it has nothing to complain of, and nothing to record.
        monkeypatch.setattr(Progress, "ended", lambda *given: records_of(job, Path("store")))
        assert run_command.run(Path("tiny.yaml"), Path("store"), Path("others"), ["constant"], slots=1) == 0
    finally:
        holder.kill()
        holder.wait()
    assert [record.status for record in ResultStore(Path("store")).jobs()] == ["ok"]
    assert capsys.readouterr().err == ""
    with pytest.raises(MSABenchError, match="is recorded already in store; records are never replaced"):
        with sole_writer(Path("store"), job.key.job_id):
            pass


def records_of(job, store):
    ResultStore(store).add(JobRecord(job.key), records.cells(job.key, names=map(str, distinct(parse_grid(job.grid)))))


@pytest.mark.usefixtures("one_thread")
def test_what_another_process_has_recorded_meanwhile_is_not_replaced(place, monkeypatch):
    """Where locks do not work, two workers may train one job for one store."""
    (job,) = [j for j in expand(read_suite(Path("tiny.yaml"))) if j.key.method == "constant"]
    task = Task(job, Path("run"), Path("store"))
    task.prepare()
    kept = predictions.path_of(task.store, job.key)

    def faster(*given, **settings):
        kept.parent.mkdir(parents=True)
        kept.write_bytes(b"of the winner")
        records_of(job, task.store)
        return evaluate_grid(*given, **settings)

    monkeypatch.setattr(job_module, "evaluate_grid", faster)
    run_job(task, "cpu")
    assert kept.read_bytes() == b"of the winner"
    record_failure(task, "it was recorded already")
    assert [record.status for record in ResultStore(task.store).jobs()] == ["ok"]


def test_a_store_that_cannot_be_written_is_found_before_the_training(place, monkeypatch):
    Path("file").touch()
    monkeypatch.setattr(LocalExecutor, "run", None)
    sentence = (
        r"the store file/store cannot be written \(file/store: Not a directory\), so nothing was started; mend this"
    )
    with pytest.raises(MSABenchError, match=sentence):
        run_command.run(Path("tiny.yaml"), Path("file/store"), Path("runs"), slots=1)
    # One folder of it is another user's, or a node has not mounted it.
    job = expand(read_suite(Path("tiny.yaml")))[1]
    Path("store/predictions").mkdir(parents=True)
    Path("store/predictions/synth").touch()
    refused = start(Task(job, Path("run"), Path("store")))
    assert refused.code == NOT_STARTED
    assert refused.error.startswith("the store store cannot be written (store/predictions/synth/constant: ")


@linux
@pytest.mark.usefixtures("one_thread")
def test_a_finished_training_is_not_repeated(place, capsys, monkeypatch):
    job = expand(read_suite(Path("tiny.yaml")))[0]
    clean, task = Task(job, Path("clean"), Path("other")), Task(job, Path("run"), Path("store"))
    clean.prepare()
    run_job(clean, "cpu")

    def full(*given):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    task.prepare()
    with monkeypatch.context() as patch:
        patch.setattr(predictions, "write", full)
        sentence = "No space left on device; the training in run is kept, and the same command goes on from there"
        with pytest.raises(MSABenchError, match=sentence):
            run_job(task, "cpu")
    log = (task.folder / "metrics.csv").read_bytes()
    capsys.readouterr()

    def fit(*given, **settings):
        raise AssertionError("trained again")

    task.prepare()
    with monkeypatch.context() as patch:
        patch.setattr("lightning.pytorch.Trainer.fit", fit)
        # Of other code, of another training, or damaged: none of it is believed.
        for name in ("fit.txt", "finished.json", "best.ckpt"):
            before = (task.folder / name).read_bytes()
            (task.folder / name).write_bytes(before[: len(before) // 2])
            kept = {path.name: path.read_bytes() for path in task.folder.iterdir()}
            with pytest.raises(AssertionError, match="trained again"):
                run_job(task, "cpu")
            assert not (task.folder / "best.ckpt").exists()
            for path, content in {**kept, name: before}.items():
                (task.folder / path).write_bytes(content)
        run_job(task, "cpu")
    assert "had ended already; it is evaluated and recorded" in capsys.readouterr().out
    assert (task.folder / "metrics.csv").read_bytes() == log
    assert not list(task.folder.glob("*.ckpt"))
    first, second = (predictions.path_of(t.store, job.key).read_bytes() for t in (clean, task))
    assert first == second
    one, other = (ResultStore(t.store).jobs()[0] for t in (clean, task))
    assert (one.epochs, one.best_epoch, one.val_task) == (other.epochs, other.best_epoch, other.val_task)
    assert other.train_seconds > 0


def test_a_job_that_cannot_start_is_recorded_with_its_reason(place, capsys, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Task, "prepare", full)
    assert run_command.run(Path("tiny.yaml"), Path("store"), Path("runs"), slots=1) == 1
    assert "failed: constant synth mixed seed 1: no worker could be started in" in capsys.readouterr().err
    errors = [record.error for record in ResultStore(Path("store")).failures()]
    assert len(errors) == 3
    assert all(error.endswith("No space left on device") for error in errors)


def test_a_suite_with_incomplete_records_is_not_done(place, capsys):
    job = expand(read_suite(Path("tiny.yaml")))[1]
    for store, names, mask_seeds, code in (
        ("whole", job.grid, (0, 1), 0),
        ("cells", ["inter/l"], (0, 1), 1),
        ("seeds", job.grid, (1,), 1),
    ):
        cells = records.cells(job.key, names=map(str, distinct(parse_grid(names))), mask_seeds=mask_seeds)
        ResultStore(Path(store)).add(JobRecord(job.key), cells)
        assert run_command.run(Path("tiny.yaml"), Path(store), Path("runs"), ["constant"]) == code
        err = capsys.readouterr().err
        assert err.count(f"synth/constant/{job.key.job_id}.jsonl") == code
        assert ("incomplete: 1 of the jobs done lack cells or mask seeds" in err) is bool(code)


def test_jobs_without_data_fail_and_the_rest_goes_on(place, capsys, monkeypatch):
    monkeypatch.setenv("MSABENCH_DATA", str(place / "nowhere"))
    config = {"data": {"dataset": "mosi"}, "model": {"class_path": "Constant"}}
    (place / "configs" / "constant_mosi.yaml").write_text(yaml.safe_dump(config))
    suite = {
        "name": "absent",
        "jobs": [{"method": "constant", "dataset": "mosi"}, {"method": "constant", "dataset": "synth"}],
    }
    (place / "absent.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    monkeypatch.setattr(Task, "command", lambda self, *options: [sys.executable, "-c", ""])
    assert run_command.run(Path("absent.yaml"), Path("store"), Path("runs"), slots=1) == 1
    out, err = capsys.readouterr()
    assert "constant synth complete seed 1111: done" in out
    assert "cannot run: 1 of 2 jobs on mosi: there is no file" in err
    # A record would name no revision, and the job that succeeds later would not clear it.
    assert ResultStore(Path("store")).jobs() == []
    assert [path.name for path in Path("runs").iterdir()] == ["synth"]
    # Without the other job there is nothing to start.
    assert run_command.run(Path("absent.yaml"), Path("store"), Path("runs"), datasets=["mosi"], dry_run=True) == 0
    out = capsys.readouterr().out
    assert out.startswith("nothing can run\ncannot run: 1 of 1 jobs on mosi: there is no file")
    assert "get it with `msabench data fetch mosi --features mmsa-aligned`" in out
    assert run_command.run(Path("absent.yaml"), Path("store"), Path("runs"), datasets=["mosi"]) == 1
    assert capsys.readouterr().err == out
