"""A constant that says what its process is like, leaves things behind, and ends in ways that methods should not."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from msabench.data.info import DataSpec
from msabench.methods.constant import Constant
from msabench.methods.info import MethodInfo


class Watched(Constant):
    """The same answer for every clip."""

    info = MethodInfo(name="watched", title="Watched", venue="", year=0, url="", fidelity="reference", reads=())

    def __init__(self, spec: DataSpec, *, variant: str = "default", act: str = "none") -> None:
        super().__init__(spec, variant=variant)
        if not hasattr(sys, "was_watched"):
            sys.was_watched = True  # type: ignore[attr-defined]
            print(json.dumps(seen()), flush=True)
            leave_behind()
            ACTS[act]()


def seen() -> dict[str, object]:
    """What can be told of this process."""
    server = Path(f"/proc/{os.getppid()}")
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "parents_command": (server / "cmdline").read_text().rstrip("\0").split("\0"),
        "parents_threads": len(list((server / "task").iterdir())),
        "parents_descriptors": len(list((server / "fd").iterdir())),
        "command": Path("/proc/self/cmdline").read_text().rstrip("\0").split("\0"),
        "session": os.getsid(0),
        "descriptors": sorted(open_files()),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "cores": sorted(os.sched_getaffinity(0)),
        "environment": dict(os.environ),
        "path": sys.path,
        "folder": str(Path.cwd()),
        "stdin": str(Path("/proc/self/fd/0").readlink()),
        "torch_seed": torch.initial_seed(),
        "numpy_state": int(np.random.get_state()[1][:8].astype(np.int64).sum()),  # noqa: NPY002
        "left": [name for name in ("left_behind",) if hasattr(torch, name)],
        "filters": [str(entry[2].__name__) for entry in warnings.filters if entry[0] == "error"],
        "frozen": gc.get_freeze_count() > 0,
    }


def open_files() -> list[str]:
    """What the descriptors of this process stand for."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        # That of the folder itself is gone by now.
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return found


def leave_behind() -> None:
    """Change everything of a process that another could inherit."""
    torch.left_behind = True  # type: ignore[attr-defined]
    os.environ["LEFT_BEHIND"] = "yes"
    sys.path.append("/left/behind")
    warnings.simplefilter("error", BytesWarning)
    np.random.seed(1)  # noqa: NPY002
    atexit.register(print, "said at the end")


_unclosed = []


def linger() -> None:
    """Wait, with a child of one's own."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path("lingers").write_text(f"{os.getpid()} {os.getppid()} {child.pid}")
    time.sleep(600)


def write() -> None:
    """Print from C, and write into a file that is never closed."""
    ctypes.CDLL(None).puts(b"from C")
    ctypes.CDLL(None).fflush(None)
    _unclosed.append(Path("unclosed").open("w"))
    _unclosed[0].write("whole")


def fail() -> None:
    """Raise."""
    raise RuntimeError("as told")


ACTS = {
    "none": lambda: None,
    "abort": os.abort,
    "exit": lambda: sys.exit(7),
    "word": lambda: sys.exit("a last word"),
    "raise": fail,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "linger": linger,
    "write": write,
}
