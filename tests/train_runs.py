"""Starts `course_helpers.train` as a user does, in processes of its own, on little data."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def command(method: str, folder: Path, started: int = 1, **changes: object) -> list[str]:
    """The command line; several processes are started by torchrun."""
    start = [sys.executable, "-m"]
    if started > 1:
        start += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(started), "-m"]
    given = LITTLE | METHODS[method] | changes
    return [*start, "course_helpers.train", method, "--folder", str(folder), *(f"{k}={v}" for k, v in given.items())]


def environment() -> dict[str, str]:
    """One thread each, on the CPU, offline."""
    names = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "COURSE_DEVICE": "cpu"}
    return os.environ | names | {"HF_HUB_OFFLINE": "1"}


def run(method: str, folder: Path, started: int = 1, **changes: object) -> subprocess.CompletedProcess:
    """Run to the end."""
    words = command(method, folder, started, **changes)
    return subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)


def kill_after(method: str, folder: Path, lines: int, **changes: object) -> None:
    """Start, and SIGKILL as soon as metrics.jsonl has so many lines."""
    process = subprocess.Popen(
        command(method, folder, **changes), cwd=ROOT, env=environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    begun = time.monotonic()
    while len(metrics(folder)) < lines:
        if process.poll() is not None or time.monotonic() - begun > 150:
            raise AssertionError(f"{method} ended, or hung, before it could be killed")
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


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
