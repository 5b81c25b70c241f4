"""How far a run is, and how long it will still take, on one line of the terminal."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from course_helpers.live import clock_time


class Progress:
    """Counts steps and says what is left; in a file or pipe a line every tenth, on a terminal one line that changes.

    Args:
        name: what is running.
        total: steps in all.
        done: steps that an earlier process made.
        stream: where to write; standard error when None.
        quiet: write nothing.
    """

    def __init__(self, name: str, total: int, done: int = 0, stream: TextIO | None = None, quiet: bool = False):
        """Start the clock."""
        self.name, self.total, self.first = name, total, done
        self.stream, self.quiet = stream or sys.stderr, quiet
        self.start = time.monotonic()
        self.shown = -1

    def update(self, step: int, **numbers: float) -> None:
        """Show a step and a few of its numbers."""
        if self.quiet:
            return
        ended = step >= self.total
        if not self.stream.isatty():
            tenth = 10 * step // max(self.total, 1)
            if tenth == self.shown:
                return
            self.shown = tenth
        line = self.line(step, time.monotonic() - self.start, **numbers)
        end = "\n" if ended or not self.stream.isatty() else ""
        begin = "\r\x1b[K" if self.stream.isatty() else ""
        self.stream.write(begin + line + end)
        self.stream.flush()

    def line(self, step: int, seconds: float, **numbers: float) -> str:
        """The line itself: how far, what is left, the numbers."""
        made = step - self.first
        told = "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        if made <= 0:
            return f"{self.name}: step {step} of {self.total}  {told}".rstrip()
        left = clock_time(seconds / made * (self.total - step))
        return f"{self.name}: step {step} of {self.total}, {seconds / made:.2f} s a step, {left} left  {told}".rstrip()
