"""What a run leaves behind: one folder, readable without this package, from which the run can be repeated or go on.

config.yaml        every setting, defaults included
versions.json      Python, packages and machine
metrics.jsonl      one line a step: step, seconds on the wall and of the processor, the method's own numbers
samples.jsonl      texts written in between
deltas/            adapters kept on the way (`keep_steps`)
checkpoint/        what a killed run goes on from
model/             the trained adapter, or the whole model
trained.json       what training cost; written when the model is there
evaluation.json    the run's points; written last: a folder that has it is done
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from course_helpers.files import writing
from course_helpers.runs import processes
from course_helpers.runs.settings import Settings, as_dict
from course_helpers.yaml_text import read_yaml_file

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "safetensors", "numpy")


class RunFolder:
    """The folder of one run.

    Args:
        path: made if it is not there.
        method: name of the method.
        settings: what the run is made of.
        write: whether this process writes; the others only read.

    Raises:
        ValueError: the folder holds a run with other settings, or something else.
        WriteError: the disk is full, or the folder cannot be written to.
    """

    def __init__(self, path: str | Path, method: str, settings: Settings, write: bool = True):
        """Take over a folder that holds this very run, or begin one."""
        self.path, self.write = Path(path), write
        config = {"method": method} | as_dict(settings)
        before = self._before()
        if before is not None:
            self._refuse_others(before, config)
        elif write:
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            self._write("versions.json", json.dumps(versions(), indent=1))
            self._write("config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def _before(self) -> dict[str, Any] | None:
        config = self.path / "config.yaml"
        if config.is_file():
            return settings_in(config)
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / "versions.json").is_file():
            raise ValueError(f"{self.path} is not empty and holds no run: choose another folder.")
        return None

    def _refuse_others(self, before: dict[str, Any], config: dict[str, Any]) -> None:
        free = {"processes"}  # a run may go on with as many processes as its checkpoint allows
        names = [name for name in {**before, **config} if before.get(name) != config.get(name) and name not in free]
        if names:
            told = ", ".join(f"{name} {before.get(name)!r} (now {config.get(name)!r})" for name in names)
            raise ValueError(f"{self.path} holds a run with {told}: choose another folder, or delete this one.")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else trains into this folder while the block runs; a kill lets go of it.

        Raises:
            RuntimeError: another process does; every process of this run is told.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        free = True
        if self.write:
            try:
                with writing(lock.lock_file):
                    lock.acquire()
            except Timeout:
                free = False
        if not processes.from_main(free):
            raise RuntimeError(
                f"another process is training into {self.path} at this moment: wait until it is done and start this "
                "again, or choose another folder with --folder."
            )
        try:
            yield
        finally:
            lock.release()

    # --- places -------------------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / "checkpoint"

    @property
    def model(self) -> Path:
        """Where the trained model lies."""
        return self.path / "model"

    def delta(self, step: int) -> Path:
        """Where the adapter of a step lies."""
        return self.path / "deltas" / f"step-{step:06d}"

    # --- what is written ----------------------------------------------------------------------------------------------

    def log(self, step: int, **numbers: float) -> None:
        """Add a step's numbers to metrics.jsonl; numbers that are not finite become null."""
        finite = {name: x if abs(x) < float("inf") else None for name, x in numbers.items()}
        self._append("metrics.jsonl", {"step": step} | finite)

    def sample(self, step: int, texts: list[dict[str, Any]]) -> None:
        """Add texts to samples.jsonl."""
        for text in texts:
            self._append("samples.jsonl", {"step": step} | text)

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl."""
        return self._lines("metrics.jsonl")

    def go_on_after(self, step: int) -> dict[str, Any]:
        """Forget what was written after the step of a checkpoint; returns the last line of metrics.jsonl that stays."""
        for name in ("samples.jsonl", "metrics.jsonl"):
            kept = [line for line in self._lines(name) if line["step"] <= step]
            if self.write and (self.path / name).exists():
                self._write(name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))
        return kept[-1] if kept else {}

    def end_training(self, facts: dict[str, Any]) -> None:
        """Note that the model is saved, and what it cost; the checkpoints are not needed any more."""
        if self.write:
            self._write("trained.json", json.dumps(facts, indent=1))
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def training(self) -> dict[str, Any] | None:
        """What `end_training` noted; None while there is something to train."""
        path = self.path / "trained.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def finish(self, points: list[dict[str, Any]]) -> None:
        """Write evaluation.json: the run is done."""
        if self.write:
            self._write("evaluation.json", json.dumps({"points": points}, indent=1, ensure_ascii=False))

    def points(self) -> list[dict[str, Any]] | None:
        """What a finished run found; None if it is not done."""
        path = self.path / "evaluation.json"
        return json.loads(path.read_text(encoding="utf-8"))["points"] if path.is_file() else None

    # --- files --------------------------------------------------------------------------------------------------------

    def _append(self, name: str, line: dict[str, Any]) -> None:
        if self.write:
            path = self.path / name
            with writing(path), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        """Lines of a file; the last one may have been cut off by a kill, and is then left out."""
        path = self.path / name
        if not path.is_file():
            return []
        found = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return found

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all."""
        unfinished = self.path / f".{name}.unfinished"
        with writing(self.path / name):
            try:
                unfinished.write_text(text, encoding="utf-8")
                os.replace(unfinished, self.path / name)
            finally:
                unfinished.unlink(missing_ok=True)


def settings_in(config: Path) -> dict[str, Any]:
    """The settings of a run, from its config.yaml.

    Args:
        config: the file.

    Returns:
        Settings by name.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    try:
        found = read_yaml_file(config)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{config} holds no settings of a run: choose another folder, or delete this one.")
    return found


def versions() -> dict[str, Any]:
    """What a run's numbers depend on beside its settings."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "system": platform.system(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
