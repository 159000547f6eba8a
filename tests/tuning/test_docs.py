"""The commands of docs/tuning.md say what there is to do, and its suite is one."""

import re
import shlex
from pathlib import Path

import pytest

from msabench.__main__ import dispatch
from msabench.runner.suite import read_suite

PAGE = (Path(__file__).parents[2] / "docs/tuning.md").read_text(encoding="utf-8")

pytest.importorskip("optuna", reason="needs the extra tune")


def commands():
    blocks = re.findall(r"^```\w*\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.startswith("msabench ")]


def test_the_commands_plan_what_the_page_says(elsewhere, capsys):
    assert len(commands()) == 4
    for line in commands():
        words = [word for word in shlex.split(line)[1:] if word not in ("--dry-run", "--trial", "7")]
        assert dispatch([*words, "--slots", "2", "--dry-run"]) == 0
        said = capsys.readouterr().out
        trials = 160 if "tuning_smoke" in line else 20
        assert f"{trials} of {trials} trials to run, 2 at a time" in said
        assert ("24 of 24 jobs to run" in said) == (trials == 160)
    assert not Path("runs").exists()


def test_the_suite_of_the_page_is_one(elsewhere):
    [text] = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    Path("two_methods.yaml").write_text(text)
    jobs = read_suite(Path("two_methods.yaml")).jobs
    budgets = [(job.method, job.budget and job.budget.trials) for job in jobs if job.seed == 1111]
    assert budgets == [
        ("constant", None),
        ("lf_dnn", None),
        ("lf_dnn", 50),
        ("umdf", None),
        ("umdf", 100),
    ]
