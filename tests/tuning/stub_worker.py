"""A worker that trains nothing: a trial's ``val/task`` is a function of its settings. Run as a file."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from msabench.interruption import die_at_once
from msabench.results.study import Trial
from msabench.runner.trials import TrialTask, load_task
from msabench.runner.worker import placed


def cost(settings):
    """``val/task`` of settings; of the config's own, which are empty, 0.5."""
    return settings["model.init_args.dropout"] + settings["model.init_args.layers"] / 10 if settings else 0.5


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("--wait", type=float, default=0.1)
    parser.add_argument("--end", default="")
    given = placed(parser, arguments)
    task = load_task(given.job)
    assert isinstance(task, TrialTask)
    task.say("fit", 0, 1)
    chosen = task.choose()
    if given.end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(given.wait)
    if given.end == "failed":
        task.end(Trial(task.number, chosen.settings, "failed", seconds=1.0, error="no number"))
        print("no number")
        return 3
    value = cost(chosen.settings)
    task.end(Trial(task.number, chosen.settings, "complete", value, epochs=1, seconds=900.0), [value])
    return 0


if __name__ == "__main__":
    die_at_once()
    sys.exit(main(sys.argv[1:]))
