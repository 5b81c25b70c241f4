"""A learner's function runs here for a limited time, and what it prints is kept.

The limit comes as an interrupt, the one that Ctrl-C and *Interrupt the kernel* send: Python code is stopped wherever it
is. A single call into NumPy or torch that takes long is stopped when it returns, as with Ctrl-C.
"""

from __future__ import annotations

import _thread
import io
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

AGAIN = 0.2  # seconds between interrupts, should the code that loops catch the first one


class TimeIsUp(BaseException):
    """Raised in code that runs too long. Not an `Exception`, so that ``except Exception`` lets it through."""


def call_within(seconds: float, action: Callable[[], Any]) -> Any:
    """Call a function, and stop it when its time is up.

    Only the main thread can be interrupted; elsewhere the function is called without a limit. A real Ctrl-C still
    raises `KeyboardInterrupt`, and no interrupt arrives after the return.

    Args:
        seconds: how long it may take.
        action: called without arguments.

    Returns:
        What the function returns.

    Raises:
        TimeIsUp: it took longer, or swallowed the interrupt.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        return action()
    finished, expired = threading.Event(), threading.Event()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if not finished.is_set():
            raise TimeIsUp if expired.is_set() else KeyboardInterrupt

    watcher = threading.Thread(target=_watch, args=(seconds, finished, expired), daemon=True)
    signal.signal(signal.SIGINT, on_interrupt)
    try:
        watcher.start()
        try:
            result = action()
        finally:
            finished.set()
    finally:
        finished.set()  # again: an interrupt may have come just before the line above
        watcher.join()
        signal.signal(signal.SIGINT, before)  # what is still pending goes to on_interrupt first, which lets it pass
    if expired.is_set():
        raise TimeIsUp
    return result


def _watch(seconds: float, finished: threading.Event, expired: threading.Event) -> None:
    """Interrupt the main thread after some seconds, again and again until it has finished."""
    if finished.wait(seconds):
        return
    expired.set()
    _interrupt()
    while not finished.wait(AGAIN):
        _interrupt()


def _interrupt() -> None:
    if hasattr(signal, "pthread_kill"):  # wakes the main thread from a sleep, too; Windows has none
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:
        _thread.interrupt_main()


class Kept(io.TextIOBase):
    """Keeps the beginning of what is printed, however much that is.

    Args:
        most: characters kept.
    """

    def __init__(self, most: int = 1000):
        """Nothing printed yet."""
        self.text, self.most = "", most

    def write(self, text: str) -> int:
        """Keep a piece, if there is room."""
        self.text += text[: max(self.most - len(self.text), 0)]
        return len(text)
