"""Seeds that a run trains together become the records that they would have become alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from msabench.errors import MSABenchError
from msabench.methods.registry import method_info
from msabench.results import predictions
from msabench.results.store import ResultStore
from msabench.runner.command import run
from msabench.runner.executor import Task, run_folder
from msabench.runner.job import run_job
from msabench.runner.local import LocalExecutor, Slot
from msabench.runner.stacked import stacks, train_stacks, train_together
from msabench.runner.suite import expand, read_suite

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tasks(folder: Path, *methods: str, seeds: tuple[int, ...] = (1, 2), regimes: tuple[str, ...] = ()) -> list[Task]:
    """Jobs on a few clips."""
    suite = {
        "name": "together",
        "configs": str(ROOT / "configs"),
        "grid": ["inter/l", "inter/lav"],
        "mask_seeds": [0],
        "seeds": list(seeds),
        "overrides": {"trainer.max_epochs": 2, "data.size": [16, 8, 8], "data.length": 8},
        "jobs": [
            {
                "method": method,
                "dataset": "synth",
                "overrides": {f"model.init_args.{name}": value for name, value in method_info(method).smoke.items()},
                "regimes": list(regimes),
            }
            for method in methods
        ],
    }
    folder.mkdir(exist_ok=True)
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    jobs = expand(read_suite(folder / "suite.yaml"))
    return [Task(job, run_folder(folder / "runs", job), folder / "store") for job in jobs]


def test_only_jobs_that_differ_in_their_seed_are_together(tmp_path: Path) -> None:
    all_tasks = tasks(tmp_path, "lmf", "constant", seeds=(1, 2, 3, 4, 5), regimes=("complete", "mixed"))
    for most, sizes in ((10, [5]), (4, [3, 2]), (2, [2, 2]), (1, [])):
        found = stacks(all_tasks, most)
        assert [len(stack) for stack in found] == sizes * 4, most
        for stack in found:
            assert len({(task.job.key.method, task.job.key.regime) for task in stack}) == 1
            assert len({task.job.key.seed for task in stack}) == len(stack)
    with pytest.raises(MSABenchError, match="stack_seeds 0 is not allowed"):
        stacks(all_tasks, 0)


def test_trained_together_they_are_recorded_as_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    together, alone = (tasks(tmp_path / place, "lmf") for place in ("together", "alone"))
    lines: list[str] = []
    train_stacks(together, 2, LocalExecutor([Slot()]), lambda: None, lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("seeds 1 2 of lmf synth complete: trained together in "), lines
    for task in [*together, *alone]:
        task.prepare()
        run_job(task, "cpu")
    assert capsys.readouterr().out.count("had ended already; it is evaluated and recorded") == 2
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.job.key == theirs.job.key
        one, other = (next(job for job in ResultStore(t.store).jobs() if job.key == t.job.key) for t in (ours, theirs))
        assert one.provenance["stacked"]["seeds"] == [1, 2]
        assert "stacked" not in other.provenance
        assert (one.config, one.epochs, one.best_epoch) == (other.config, other.epochs, other.best_epoch)
        tables = [predictions.read(predictions.path_of(t.store, t.job.key)) for t in (ours, theirs)]
        for first, second in zip(*tables, strict=True):
            np.testing.assert_allclose(first.preds, second.preds, atol=1e-5)
        assert not list(ours.folder.glob("*.ckpt"))
    assert ResultStore(together[0].store).validate() == []


def test_what_cannot_be_trained_together_is_said_and_left_to_be_trained_alone(tmp_path: Path) -> None:
    constants = tasks(tmp_path, "constant")
    for task in constants:
        task.prepare()
    with pytest.raises(MSABenchError, match="constant has no weights to train; train its seeds one by one"):
        train_together(constants, "cpu")
    run_job(constants[0], "cpu")
    assert ResultStore(constants[0].store).has(constants[0].job.key.job_id)


def test_a_seed_that_has_ended_is_not_trained_again(tmp_path: Path) -> None:
    found = tasks(tmp_path, "lmf", seeds=(1, 2, 3))
    for task in found:
        task.prepare()
    train_together(found[:2], "cpu")
    best = found[0].folder / "best.ckpt"
    before = best.read_bytes()
    weights = torch.load(best, weights_only=True)["state_dict"]
    train_together(found, "cpu")
    assert best.read_bytes() == before
    assert weights.keys() == torch.load(best, weights_only=True)["state_dict"].keys()
    assert not (found[2].folder / "finished.json").exists(), "one seed alone is no stack"


def test_a_cluster_trains_no_seeds_together(tmp_path: Path) -> None:
    class Elsewhere:
        slots = 1

    with pytest.raises(MSABenchError, match="give --executor local"):
        train_stacks(tasks(tmp_path, "lmf"), 2, Elsewhere(), lambda: None, print)  # type: ignore[arg-type]


def test_the_command_line_takes_the_option(tmp_path: Path) -> None:
    tasks(tmp_path, "constant")
    with pytest.raises(MSABenchError, match="stack_seeds -1 is not allowed"):
        run(tmp_path / "suite.yaml", tmp_path / "store", tmp_path / "runs", devices=["cpu"], stack_seeds=-1)
    assert not list((tmp_path / "store").glob("synth/*/*.jsonl"))
