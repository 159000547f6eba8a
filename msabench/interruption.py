"""SIGINT and SIGTERM end every command with a sentence and with the exit code that shells expect.

Imports nothing heavy, so that it works while everything else is still being imported.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    It is a ``KeyboardInterrupt`` so that libraries clean up as they do after Ctrl-C: Lightning ends the processes of
    other devices and closes its loggers.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"ended by {self.signal.name}")


class Received:
    """Which signal came; None if none did. An exception alone may get lost in a library or be turned into another."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None


_blocks: list[Received] = []
"""What the ``interruptible`` blocks around the main thread received, the innermost last."""


def check() -> None:
    """End what goes on although a signal came; for loops that take long.

    The exception that a signal raises may be lost: Python drops those of finalizers and weak references' callbacks, C
    extensions those of attributes that they look for.

    Raises:
        Interrupted: A signal came in the innermost ``interruptible`` block.
    """
    if _blocks and (number := _blocks[-1].signal) and threading.current_thread() is threading.main_thread():
        raise Interrupted(number)


@contextlib.contextmanager
def interruptible() -> Iterator[Received]:
    """Raise ``Interrupted`` in the main thread on SIGINT and SIGTERM while in the block.

    A signal that this process was started to ignore stays ignored, as under ``nohup`` and for jobs in the background.

    Yields:
        What was received so far.
    """
    received = Received()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.signal = signal.Signals(number)
        raise Interrupted(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    _blocks.append(received)
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, interrupt)
    try:
        yield received
    finally:
        _blocks.remove(received)
        for number, handler in before.items():
            # None stands for a handler that was not installed from Python.
            if handler is not None:
                signal.signal(number, handler)


def signal_of(error: KeyboardInterrupt) -> signal.Signals:
    """The signal behind an interruption; the exit code of a process that it ends is 128 plus its number."""
    return error.signal if isinstance(error, Interrupted) else signal.SIGINT


def die_at_once() -> None:
    """Let SIGINT and SIGTERM end this process on the spot, as a program without handlers.

    For processes whose parent looks at how they ended. Libraries that put their own handlers in front call this one
    too; left alone, Lightning's would end with code 0.
    """

    def die(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in SIGNALS:
        signal.signal(number, die)
