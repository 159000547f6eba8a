"""A process that runs a study by ``stub_worker``, to be killed. Run as a file: folder, trials, sampler."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))


def main(root, trials, sampler):
    from msabench.runner.local import LocalExecutor, Slot
    from msabench.runner.studies import Studies
    from msabench.runner.trials import TrialTask
    from tests.tuning.planted import place, planned
    from tests.tuning.test_studies import stub

    TrialTask.command = stub()
    runs, store = place(Path(root))
    studies = Studies([planned(int(trials), sampler=sampler)], runs, store)
    failures = studies.run(LocalExecutor([Slot(), Slot()], warm=False), [])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
