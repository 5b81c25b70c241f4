"""Starts `course_helpers.train` on little data: as a user does, or in a process that has already imported it.

Importing torch, transformers and TRL takes longer than the little there is to train. A fork server imports them once;
each run is then a process of its own, which may be killed like any other.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
LITTLE = {
    "openings": 10, "max_new_tokens": 6, "second_judge": "null", "evaluation_prompts": 12, "evaluation_count": 1,
    "sample_every": 0, "lora_rank": 4, "batch_size": 8,
}  # fmt: skip
METHODS = {
    "ppo": {"steps": 6, "mini_batch_size": 4, "save_every": 2},
    "dpo": {"pair_draws": 1, "save_every": 2},
    "grpo": {"steps": 6, "group": 4, "save_every": 2},
}


def settings(method: str, folder: Path, **changes: object) -> list[str]:
    """What stands on the command line."""
    given = LITTLE | METHODS[method] | changes
    return [method, "--folder", str(folder), *(f"{name}={value}" for name, value in given.items())]


def environment() -> dict[str, str]:
    """One thread each, on the CPU, offline."""
    names = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "COURSE_DEVICE": "cpu"}
    return os.environ | names | {"HF_HUB_OFFLINE": "1"}


def command(method: str, folder: Path, started: int = 1, **changes: object) -> subprocess.CompletedProcess:
    """Run the command to the end; several processes are started by torchrun."""
    start = [sys.executable, "-m"]
    if started > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(started), "-m"]
    words = [*start, "course_helpers.train", *settings(method, folder, **changes)]
    return subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)


def run(method: str, folder: Path, **changes: object) -> None:
    """The same without importing everything anew; fails with what was said if the run does."""
    with tempfile.TemporaryFile("w+") as said:
        process = _started(settings(method, folder, **changes), said.fileno())
        process.join(200)
        process.kill()  # one that hangs; to one that has ended it does nothing
        said.seek(0)
        assert process.exitcode == 0, said.read()[-3000:]


def kill_after(method: str, folder: Path, lines: int, **changes: object) -> None:
    """Start, and SIGKILL as soon as metrics.jsonl has so many lines."""
    with tempfile.TemporaryFile() as said:
        process = _started(settings(method, folder, **changes), said.fileno())
        begun = time.monotonic()
        while len(metrics(folder)) < lines:
            if process.exitcode is not None or time.monotonic() - begun > 150:
                process.kill()
                raise AssertionError(f"{method} ended, or hung, before it could be killed")
            time.sleep(0.02)
        process.kill()
        process.join()


def _started(arguments: list[str], said: int) -> multiprocessing.Process:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["course_helpers.runs.run"])
    with mock.patch.dict(os.environ, environment()):  # the server takes it over, and its processes from it
        process = context.Process(target=_main, args=(arguments, multiprocessing.reduction.DupFd(said)))
        process.start()
    return process


def _main(arguments: list[str], said: object) -> None:
    from course_helpers import train

    descriptor = said.detach()
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.chdir(ROOT)
    sys.exit(train.main(arguments))


def metrics(folder: Path) -> list[dict]:
    """Whole lines of metrics.jsonl."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def numbers(folder: Path) -> list[dict]:
    """The same without the clock."""
    return [{name: x for name, x in line.items() if "seconds" not in name} for line in metrics(folder)]


def weights(folder: Path) -> dict:
    """The trained adapter."""
    return load_file(folder / "model" / "adapter_model.safetensors")
