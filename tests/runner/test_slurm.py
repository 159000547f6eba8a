"""Arrays of jobs, with programs that answer in SLURM's place: what becomes of jobs that leave no result, and why."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.results.store import ResultStore
from msabench.runner import slurm
from msabench.runner.execution import error_of
from msabench.runner.executor import LOST, RECORDED_FAILURE, Finished, Task
from msabench.runner.slurm import SlurmExecutor, array_slots, read_parameters
from msabench.runner.suite import expand, read_suite
from tests.support import records
from tests.support.worker_scripts import Script, nothing, scripts

REPOSITORY = Path(__file__).parents[2]
SBATCH = """#!/bin/sh
count=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
if [ -f "$CLUSTER/runs" ]; then
    for number in $(seq 0 "$count"); do
        env $(cat "$CLUSTER/runs") SLURM_JOB_ID=$((77 + number)) SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$number \\
            sh "$1" >/dev/null 2>&1 &
    done
fi
cat "$CLUSTER/refusal" >&2 2>/dev/null && exit 1
echo Submitted batch job 77
"""
SRUN = """#!/bin/sh
while true; do
    case "$1" in
        --output|--error) shift 2 ;;
        --*) shift ;;
        *) exec "$@" ;;
    esac
done
"""
ANSWER = """#!/bin/sh
cat "$CLUSTER/{name}" && exit 0
echo "{problem}" >&2
exit 1
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files say what ``squeue`` and ``sacct`` answer; sbatch takes everything and runs nothing."""
    pytest.importorskip("submitit", reason="needs the extra slurm")
    programs, cluster = tmp_path / "bin", tmp_path / "cluster"
    programs.mkdir()
    cluster.mkdir()
    problems = {
        "squeue": "slurm_load_jobs error: Unable to contact slurm controller",
        "sacct": "Slurm accounting storage is disabled",
    }
    answers = {name: ANSWER.format(name=name, problem=problem) for name, problem in problems.items()}
    written = {"sbatch": SBATCH, "srun": SRUN, "scancel": '#!/bin/sh\necho "$1" >> "$CLUSTER/cancelled"\n', **answers}
    for name, text in written.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("CLUSTER", str(cluster))
    monkeypatch.setattr(slurm, "QUEUE_SECONDS", 0.0)
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.001)
    (cluster / "squeue").write_text("")
    return cluster


def ended(cluster: Path, tasks: list[Script], tick: Callable[[object], None] = nothing) -> dict[int, Finished]:
    executor = SlurmExecutor(cluster / "submitit")
    return {finished.task.job.key.seed: finished for finished in executor.run(tasks, tick)}


def log_of(cluster: Path, number: int) -> Path:
    return cluster / "submitit" / f"77_{number}_0_log.err"


def test_elements_run_and_report_what_ended_them(cluster: Path, tmp_path: Path) -> None:
    (cluster / "runs").touch()
    (cluster / "sacct").write_text("FAILED\nOUT_OF_MEMORY\n")
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    tasks = scripts(tmp_path / "runs", "print('fine')", "import sys; sys.exit(3)", killed)

    # In the queue until each has left its result.
    def queue(running: object) -> None:
        names = [f"77_{n}|RUNNING" for n in range(3) if not (cluster / "submitit" / f"77_{n}_0_result.pkl").exists()]
        (cluster / "squeue").write_text("\n".join(names))

    (cluster / "squeue").write_text("77_0|PENDING\n77_1|RUNNING\n77_2|RUNNING\n")
    found = ended(cluster, tasks, queue)
    assert {seed: finished.code for seed, finished in found.items()} == {0: 0, 1: RECORDED_FAILURE, 2: -signal.SIGKILL}
    assert tasks[0].log.read_text() == "fine\n"
    assert found[2].error.startswith(
        "the worker was ended by SIGKILL (out of memory?); SLURM says OUT_OF_MEMORY, so raise mem_gb; "
    )


def test_an_element_runs_several_jobs_one_after_another(cluster: Path, tmp_path: Path) -> None:
    (cluster / "runs").touch()
    (cluster / "squeue").write_text("77_0|RUNNING\n77_1|RUNNING\n")

    def queue(running: object) -> None:
        if all((cluster / "submitit" / f"77_{n}_0_result.pkl").exists() for n in range(2)):
            (cluster / "squeue").write_text("")

    says = "import os, time; print(os.getppid(), time.monotonic())"
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    tasks = scripts(tmp_path / "runs", says, killed, f"{says}; raise SystemExit(3)", says, says)
    executor = SlurmExecutor(cluster / "submitit", jobs_per_element=3)
    found = {finished.task.job.key.seed: finished for finished in executor.run(tasks, queue)}
    assert {seed: finished.code for seed, finished in found.items()} == {
        0: 0,
        1: -signal.SIGKILL,
        2: RECORDED_FAILURE,
        3: 0,
        4: 0,
    }
    assert found[1].error.startswith("the worker was ended by SIGKILL (out of memory?)")
    parents, times = zip(*(tasks[n].log.read_text().split() for n in (0, 2, 3, 4)), strict=True)
    # Two elements, of three jobs and of two.
    assert parents[0] == parents[1] != parents[2] == parents[3]
    assert float(times[0]) < float(times[1])
    assert float(times[2]) < float(times[3])


def test_what_an_element_had_recorded_before_it_was_lost_is_done(cluster: Path, tmp_path: Path) -> None:
    tasks = scripts(tmp_path / "runs", *[""] * 3)
    records.add(ResultStore(tasks[0].store), seed=0)
    (cluster / "sacct").write_text("TIMEOUT\n")
    ends = SlurmExecutor(cluster / "submitit", jobs_per_element=2).run(tasks, nothing)
    found = {finished.task.job.key.seed: finished for finished in ends}
    assert {seed: finished.code for seed, finished in found.items()} == {0: 0, 1: LOST, 2: LOST}
    assert found[1].error.startswith("the job left no result; SLURM says TIMEOUT, so raise timeout_min; ")


def test_an_element_is_shown_by_the_job_that_it_runs(cluster: Path, tmp_path: Path) -> None:
    tasks = scripts(tmp_path / "runs", *[""] * 4)
    tasks[1].folder.mkdir(parents=True)
    tasks[1].say("fit", 1, 2)
    (cluster / "squeue").write_text("77_0|RUNNING\n77_1|RUNNING\n")

    def stop_at(running: list[Task]) -> None:
        assert [task.job.key.seed for task in running] == [1, 2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(SlurmExecutor(cluster / "submitit", jobs_per_element=2).run(tasks, stop_at))


def test_an_element_has_at_least_one_job(cluster: Path) -> None:
    with pytest.raises(MSABenchError, match="0 jobs per element are not allowed; give a positive number"):
        SlurmExecutor(cluster / "submitit", jobs_per_element=0)


def test_a_node_that_gets_no_environment_finds_methods_from_outside(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    net = (REPOSITORY / "tests/support/outside/my_net.py").read_text()
    (library / "net_of_a_cluster.py").write_text(net.replace("my_net", "net_of_a_cluster"))
    monkeypatch.syspath_prepend(str(library))
    monkeypatch.setattr(registry, "_found_by_path", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # The class path in its config is all that names it.
    (tmp_path / "net.yaml").write_text(
        "trainer: {max_epochs: 1, accelerator: cpu}\ndata: {dataset: synth, size: [24, 8, 10], length: 8}\n"
        "model: {class_path: net_of_a_cluster.MyNet}\n"
    )
    (tmp_path / "suite.yaml").write_text(
        "name: mine\nconfigs: .\ngrid: [inter/l]\nseeds: [1]\nmask_seeds: [0]\n"
        "jobs: [{method: net_of_a_cluster, dataset: synth, config: net.yaml}]\n"
    )
    [job] = expand(read_suite(tmp_path / "suite.yaml"))
    task = Task(job, tmp_path / "run", tmp_path / "store")
    (cluster / "runs").write_text(f"-i PATH={os.environ['PATH']} HOME={tmp_path} PYTHONPATH={REPOSITORY}")
    (cluster / "squeue").write_text("77_0|RUNNING\n77_1|RUNNING\n")

    def queue(running: object) -> None:
        # There until both have left their results.
        if all((cluster / "submitit" / f"77_{number}_0_result.pkl").exists() for number in range(2)):
            (cluster / "squeue").write_text("")

    # submitit makes no array of one.
    found = ended(cluster, [task, *scripts(tmp_path / "other", "print('fine')")], queue)
    assert (found[1].code, found[1].error) == (0, "")
    [record] = ResultStore(tmp_path / "store").jobs()
    assert record.provenance["method"]["class_path"] == "net_of_a_cluster.MyNet"


def test_cancelled_elements_are_lost_with_what_accounting_says(cluster: Path, tmp_path: Path) -> None:
    (cluster / "sacct").write_text("CANCELLED by 1000\n")
    found = ended(cluster, scripts(tmp_path / "runs", "", ""))
    log = log_of(cluster, 0)
    assert found[0].code == LOST
    assert found[0].error == (
        f"the job left no result; SLURM says CANCELLED; there is no log {log}, "
        "so see whether the nodes share this folder"
    )


@pytest.mark.parametrize(
    ("state", "log", "words"),
    [
        (
            "TIMEOUT\nCANCELLED\n",
            "epoch 3\nslurmstepd: error: *** JOB 77 ON n1 CANCELLED AT 2026 DUE TO TIME LIMIT ***\nbye\n",
            "SLURM says TIMEOUT, so raise timeout_min; it said: slurmstepd: error: *** JOB 77 ON n1 CANCELLED AT 2026 "
            "DUE TO TIME LIMIT ***",
        ),
        (
            None,
            "python: not found\n",
            "squeue no longer knows it and sacct does not say why; it said: python: not found",
        ),
    ],
)
def test_the_reason_of_a_death_is_told_with_its_log(
    cluster: Path, tmp_path: Path, state: str | None, log: str, words: str
) -> None:
    if state:
        (cluster / "sacct").write_text(state)
    log_of(cluster, 0).parent.mkdir()
    log_of(cluster, 0).write_text(log)
    found = ended(cluster, scripts(tmp_path / "runs", "", ""))
    assert found[0].error == f"the job left no result; {words}; its log: {log_of(cluster, 0)}"
    # The screen and the record carry it.
    task = Task(found[0].task.job, tmp_path / "runs", tmp_path / "store")
    assert error_of(Finished(task, LOST, found[0].error)) == found[0].error
    assert [failure.error for failure in ResultStore(task.store).failures()] == [found[0].error]


@pytest.mark.parametrize(
    ("queue", "log", "words"),
    [
        ("TIMEOUT", "", "SLURM says TIMEOUT, so raise timeout_min"),
        # Cancelled before it began, which leaves no trace.
        ("PENDING", "", "squeue last said PENDING and sacct does not say why"),
        # Where memory is watched by sampling, and by the kernel.
        (
            "CANCELLED",
            "slurmstepd-n1: error: StepId=7.0 exceeded memory limit (3 > 2), being killed\n"
            "slurmstepd-n1: error: *** STEP 7.0 ON n1 CANCELLED AT 2026 ***\nsrun: error: n1: task 0: Killed\n",
            "SLURM says OUT_OF_MEMORY, so raise mem_gb; it said: slurmstepd-n1: error: StepId=7.0 exceeded memory "
            "limit (3 > 2), being killed",
        ),
        (
            "FAILED",
            "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of its tasks were killed.\n",
            "SLURM says OUT_OF_MEMORY, so raise mem_gb; it said: slurmstepd: error: Detected 1 oom_kill event in "
            "StepId=7.0. Some of its tasks were killed.",
        ),
        # A state that says more than the log is believed.
        (
            "NODE_FAIL",
            "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026 DUE TO TIME LIMIT ***\n",
            "SLURM says NODE_FAIL, so run again; it said: slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026 "
            "DUE TO TIME LIMIT ***",
        ),
        # What submitit notes and what srun passes on are no reasons.
        (
            "FAILED",
            "python: no space left\nsrun: got SIGCONT\nsubmitit WARNING (2026) - Bypassing signal SIGTERM\n",
            "SLURM says FAILED; it said: python: no space left",
        ),
        ("CANCELLED", "submitit WARNING (2026) - Bypassing signal SIGTERM\n", "SLURM says CANCELLED"),
    ],
)
def test_without_accounting_squeue_and_the_log_tell_the_end(
    cluster: Path, tmp_path: Path, queue: str, log: str, words: str
) -> None:
    (cluster / "squeue").write_text(f"77_0|{queue}\n77_1|COMPLETED\n")
    if log:
        log_of(cluster, 0).parent.mkdir()
        log_of(cluster, 0).write_text(log)
    polls = []

    def forgotten(running: object) -> None:
        polls.append(running)
        if queue == "PENDING" or len(polls) == 2:
            # What has been told once is remembered.
            (cluster / "squeue").write_text("")

    found = ended(cluster, scripts(tmp_path / "runs", "", ""), forgotten)
    assert found[0].code == LOST
    place = (
        f"its log: {log_of(cluster, 0)}" if log else f"there is no log {log_of(cluster, 0)}, so see whether the nodes"
    )
    assert found[0].error.startswith(f"the job left no result; {words}; {place}")


def test_an_element_that_is_put_back_into_the_queue_has_not_ended(cluster: Path, tmp_path: Path) -> None:
    states = iter([*["NODE_FAIL"] * (slurm.LOST_POLLS - 1), "PENDING"])
    asked = []

    def queue(running: object) -> None:
        asked.append(next(states, "CANCELLED"))
        (cluster / "squeue").write_text(f"77_0|{asked[-1]}\n77_1|{asked[-1]}\n")

    (cluster / "squeue").write_text("77_0|RUNNING\n77_1|RUNNING\n")
    found = ended(cluster, scripts(tmp_path / "runs", "", ""), queue)
    assert asked.count("CANCELLED") >= slurm.LOST_POLLS
    assert found[0].error.startswith("the job left no result; SLURM says CANCELLED; ")


def test_how_a_killed_worker_ended_is_known_with_its_element(cluster: Path, tmp_path: Path) -> None:
    (cluster / "runs").touch()
    (cluster / "squeue").write_text("77_0|RUNNING\n77_1|RUNNING\n")
    polls = []

    def queue(running: object) -> None:
        if all((cluster / "submitit" / f"77_{n}_0_result.pkl").exists() for n in range(2)):
            polls.append(running)
            (cluster / "squeue").write_text("77_0|PREEMPTED\n77_1|COMPLETED\n")

    killed = "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    found = ended(cluster, scripts(tmp_path / "runs", killed, killed), queue)
    # The queue need not forget the element before.
    assert len(polls) < slurm.LOST_POLLS
    assert found[0].error.startswith("the worker was ended by SIGTERM; SLURM says PREEMPTED, so run again; ")
    assert found[1].error.startswith("the worker was ended by SIGTERM; there is no log ")


def test_a_lost_element_whose_record_is_there_is_done(cluster: Path, tmp_path: Path) -> None:
    tasks = scripts(tmp_path / "runs", "", "")
    records.add(ResultStore(tasks[0].store), seed=0)
    assert {seed: finished.code for seed, finished in ended(cluster, tasks).items()} == {0: 0, 1: LOST}


def test_a_controller_that_is_down_loses_nothing(
    cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cluster / "squeue").unlink()
    polls = []

    def tick(running: object) -> None:
        polls.append(running)
        if len(polls) == 3 * slurm.LOST_POLLS:
            (cluster / "squeue").write_text("")

    found = ended(cluster, scripts(tmp_path / "runs", "", ""), tick)
    assert len(polls) == 4 * slurm.LOST_POLLS
    assert found[0].code == LOST
    said = capsys.readouterr().err
    assert said == (
        "squeue does not answer (slurm_load_jobs error: Unable to contact slurm controller); waiting until it does\n"
    )


def test_closing_early_cancels_what_has_not_ended(cluster: Path, tmp_path: Path) -> None:
    (cluster / "squeue").write_text("77_0|RUNNING\n77_1|PENDING\n")
    running = SlurmExecutor(cluster / "submitit").run(scripts(tmp_path / "runs", "", ""), stop)
    with pytest.raises(KeyboardInterrupt):
        next(running)
    assert (cluster / "cancelled").read_text().split() == ["77_0", "77_1"]


def stop(running: list[Task]) -> None:
    assert [task.job.key.seed for task in running] == [0]
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("refusal", "way_out"),
    [
        ("Batch job submission failed: Invalid partition name specified", "set slurm_partition"),
        (
            "Batch job submission failed: Invalid job array specification",
            "the cluster allows fewer jobs in an array; choose some by --methods, --datasets or --seeds",
        ),
        (
            "Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "the controller is down or not to be reached from here; try again later",
        ),
    ],
)
def test_a_refused_array_is_one_sentence(
    cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refusal: str, way_out: str
) -> None:
    (cluster / "refusal").write_text(f"sbatch: error: first\nsbatch: error: {refusal}\n")
    with pytest.raises(MSABenchError) as caught:
        ended(cluster, scripts(tmp_path / "runs", "", ""))
    assert str(caught.value) == f"SLURM refuses the array of 2 jobs: {refusal}; {way_out}"
    assert capsys.readouterr().err == ""


def test_a_time_limit_that_submitit_notices_is_named(cluster: Path, tmp_path: Path) -> None:
    import submitit

    def timed_out(task: Task) -> None:
        raise submitit.core.utils.UncompletedJobError("Job not requeued because: timed-out and not checkpointable.")

    tasks = scripts(tmp_path / "runs", "", "")
    executor = SlurmExecutor(cluster / "submitit", cluster="local")
    job = executor._engine.submit(timed_out, tasks[0])
    job.wait()
    found = executor._finished(job, tasks[0])
    assert found.code == LOST
    assert found.error.startswith("the time limit was reached; raise timeout_min; it said: ")
    assert found.error.endswith(f"its log: {job.paths.stderr}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("slurm_array_parallelism: many", "slurm_array_parallelism 'many' in {} is not allowed; give a positive"),
        ("slurm_array_parallelism: 0", "slurm_array_parallelism 0 in {} is not allowed; give a positive whole number"),
        ("timeout_min: 1h", "timeout_min '1h' in {} is not allowed; give a positive whole number"),
        ("tasks_per_node: 4", "tasks_per_node 4 in {} is not allowed; a job is one process, so leave it out"),
        ("slurm_setup: module load", "slurm_setup 'module load' in {} is not allowed; give a list of shell commands"),
        ("[1]", "{} must be a mapping of submitit's parameters"),
        ("a: [", "{} is not valid YAML"),
        ("mem_gb: 8GB", "mem_gb '8GB' is not allowed; submitit expects int or float"),
        ("slurm_partitoin: gpu", "submitit refuses the cluster or its parameters: Unknown argument 'partitoin'"),
    ],
)
def test_wrong_parameters_are_one_sentence(cluster: Path, content: str, sentence: str) -> None:
    path = cluster / "parameters.yaml"
    path.write_text(content)
    with pytest.raises(MSABenchError) as caught:
        SlurmExecutor.from_file(path, cluster / "submitit")
    assert str(caught.value).startswith(sentence.format(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_plan_needs_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert array_slots(read_parameters(None)) == 32
    (tmp_path / "few.yaml").write_text("slurm_array_parallelism: 3")
    assert array_slots(read_parameters(tmp_path / "few.yaml")) == 3
    pytest.importorskip("submitit", reason="needs the extra slurm")
    with pytest.raises(MSABenchError, match="there is no srun here, so this is no machine of a SLURM cluster"):
        SlurmExecutor(tmp_path)


def test_the_parameters_of_the_page_on_clusters_are_known(cluster: Path) -> None:
    page = (REPOSITORY / "docs/clusters.md").read_text(encoding="utf-8")
    [block] = re.findall(r"^```yaml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    (cluster / "parameters.yaml").write_text(block)
    assert SlurmExecutor.from_file(cluster / "parameters.yaml", cluster / "submitit").slots == 32
    rows = page.partition("| parameter |")[2].partition("\n\n")[0].splitlines()[2:]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert len(named) > 8
    kinds: dict[str, object] = {"slurm_setup": ["module load x"], "slurm_additional_parameters": {"nice": 1}}
    text = ("slurm_partition", "slurm_account", "slurm_qos", "slurm_constraint")
    given = {name: "x" if name in text else kinds.get(name, 1) for name in named}
    (cluster / "parameters.yaml").write_text(yaml.safe_dump(given))
    assert SlurmExecutor.from_file(cluster / "parameters.yaml", cluster / "submitit").slots == 1
