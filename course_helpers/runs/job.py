"""What every method is handed, and what it hands back."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import Pipeline, PreTrainedModel, PreTrainedTokenizerBase

from course_helpers.models import load_judge, load_policy, load_reference
from course_helpers.runs.folder import RunFolder
from course_helpers.runs.progress import Progress
from course_helpers.runs.settings import Settings


class Clock:
    """Time spent on a run, with what earlier processes spent on it.

    Args:
        wall: seconds on the wall.
        processor: seconds of all threads.
    """

    def __init__(self, wall: float = 0.0, processor: float = 0.0):
        """Start."""
        self._wall, self._processor = wall - time.monotonic(), processor - time.process_time()

    @property
    def wall(self) -> float:
        """Seconds on the wall: what other programs on the machine make longer."""
        return self._wall + time.monotonic()

    @property
    def processor(self) -> float:
        """Seconds of the processor, those of all threads together."""
        return self._processor + time.process_time()


@dataclass
class Job:
    """One run: its settings and folder, its models loaded when they are first needed, its clock.

    Attributes:
        method: name of the method.
        settings: what the run is made of.
        folder: what it leaves behind.
        processes: that share it.
        quiet: no progress line.
        clock: seconds spent on it.
    """

    method: str
    settings: Settings
    folder: RunFolder
    processes: int = 1
    quiet: bool = False
    clock: Clock = field(default_factory=lambda: Clock())

    @cached_property
    def loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The policy to be trained, and its tokenizer."""
        return load_policy(self.settings.policy)

    @property
    def policy(self) -> PreTrainedModel:
        """π_θ at its start."""
        return self.loaded[0]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The policy's."""
        return self.loaded[1]

    @cached_property
    def reference(self) -> PreTrainedModel:
        """π_ref, frozen."""
        return load_reference(self.settings.policy)

    @cached_property
    def judge(self) -> Pipeline:
        """The judge that gives the reward."""
        return load_judge(self.settings.judge)

    @cached_property
    def second_judge(self) -> Pipeline | None:
        """The judge that only measures."""
        return load_judge(self.settings.second_judge) if self.settings.second_judge else None

    def log(self, step: int, **numbers: float) -> None:
        """Note a step's numbers, and the time."""
        self.folder.log(step, seconds=self.clock.wall, processor_seconds=self.clock.processor, **numbers)

    def goes_on_after(self, step: int) -> None:
        """The step of a checkpoint counts, or 0 without one, and nothing after it."""
        last = self.folder.go_on_after(step)
        if step == 0:  # no checkpoint yet: what a killed process noted is forgotten, and the clock has begun
            return
        self.clock = Clock(last.get("seconds", 0.0), last.get("processor_seconds", 0.0))

    def progress(self, total: int, done: int = 0) -> Progress:
        """A line for the terminal; only the process that writes shows it."""
        return Progress(self.method, total, done, quiet=self.quiet or not self.folder.write)


@dataclass
class Trained:
    """What a method hands back.

    Attributes:
        drawn: responses sampled in training.
        judged: responses judged in training.
        points: what the method measured itself, in place of the usual evaluation.
        save: writes the model into a folder; called by every process, since the weights may be spread over them.
    """

    drawn: int = 0
    judged: int = 0
    points: list[dict[str, Any]] | None = None
    save: Callable[[Path], Any] | None = None


def peak_memory_gb() -> float:
    """Largest resident memory of this process so far, in units of 10⁹ bytes; on a GPU torch's own peak."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
