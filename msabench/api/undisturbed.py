"""A training changes much of its process; in somebody's notebook it must leave all that as it was."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import torch

_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG")
"""Environment variables that seeding and deterministic algorithms set."""

_LOGGERS = ("lightning.pytorch", "lightning.fabric")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put back after the block what a training changes.

    That is the random state of Python, NumPy and torch; torch's deterministic settings; filters of warnings, levels of
    Lightning's loggers, its environment variables, and what SIGINT and SIGTERM do.

    Raises:
        KeyboardInterrupt: The training was interrupted, where Lightning would end the process.
    """
    flags = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    drawn = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (Lightning seeds it)
    drawn_on_gpus = torch.cuda.get_rng_state_all()
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in _SIGNALS} if in_main else {}
    try:
        with warnings.catch_warnings():
            yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])  # noqa: NPY002
        torch.set_rng_state(drawn[2])
        torch.cuda.set_rng_state_all(drawn_on_gpus)
        torch.use_deterministic_algorithms(flags[0], warn_only=flags[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for number, handler in handlers.items():
            # None stands for a handler that was not set from Python, which cannot be put back.
            if handler is not None:
                signal.signal(number, handler)
