"""A network whose training waits, or takes all memory, as long as a file says so: for tests of what ends a job."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from msabench.methods.info import MethodInfo
from msabench.methods.lf_dnn import LFDNN

FOLDER = "HELD_FOLDER"
"""Variable that names the folder of the files; without it nothing waits."""

MOST_MEMORY = 3 << 30
"""Bytes at which a training that nobody stops takes no more."""


class Held(LFDNN):
    """LF-DNN that leaves ``<job id>.began`` when its training begins, and trains once there is no ``<job id>.held``."""

    info = MethodInfo(name="held", title="Held", venue="", year=0, url="", fidelity="reference")

    def on_fit_start(self) -> None:
        """Wait."""
        super().on_fit_start()
        if FOLDER not in os.environ:
            return
        place = Path(os.environ[FOLDER]) / Path(self.trainer.default_root_dir).name
        began = {"pid": os.getpid(), "node": os.environ.get("SLURMD_NODENAME")}
        draft = place.with_suffix(".draft")
        draft.write_text(json.dumps(began))
        draft.rename(place.with_suffix(".began"))
        taken = []
        while (order := place.with_suffix(".held")).is_file():
            if order.read_text() == "take memory" and len(taken) << 26 < MOST_MEMORY:
                # Not of zeros, which would take none.
                taken.append(b"x" * (1 << 26))
            time.sleep(0.05)
