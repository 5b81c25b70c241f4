"""The whole course from the first cell to the last, a fresh kernel for each lesson: how long, and how much memory.

    python benchmarks/course.py                            # every lesson, as `make lab` would run it on a CPU
    python benchmarks/course.py notebooks/03_*.ipynb       # one of them

Prints a Markdown table. Memory is that of the kernel and of every process it started, together and at its highest.
Targets: the course in 35 minutes on two cores, 3 GB.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
LONGEST_CELL = 900  # seconds
MOST_MINUTES, MOST_GB = 35, 3.0


@dataclass(frozen=True)
class Run:
    """What one lesson took.

    Attributes:
        lesson: the notebook's name.
        cells: code cells executed.
        seconds: from the start of the kernel to the end of the last cell.
        peak_gb: the most memory that kernel and children held at once, in 10^9 bytes.
        slowest: seconds of the slowest cell.
        first_line: that cell's first line.
    """

    lesson: str
    cells: int
    seconds: float
    peak_gb: float
    slowest: float
    first_line: str


class Watch(threading.Thread):
    """Looks at a process and its children ten times a second and keeps the most memory they held together."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.process, self.peak, self.done = psutil.Process(pid), 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.1):
            try:
                together = [self.process, *self.process.children(recursive=True)]
                self.peak = max(self.peak, sum(each.memory_info().rss for each in together))
            except psutil.NoSuchProcess:  # one has ended between two looks
                continue

    def highest(self) -> int:
        """Bytes; the system's own record of the kernel counts too, as a peak may fall between two looks."""
        self.done.set()
        status = Path(f"/proc/{self.process.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        record = next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
        return max(self.peak, record)


def execute(path: Path) -> Run:
    """Run every cell of a lesson in a fresh kernel; nothing is stored, and a cell that fails ends it all."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=LONGEST_CELL, kernel_name="python3", resources=resources)
    took: list[tuple[float, str]] = []
    began = time.perf_counter()
    with client.setup_kernel():
        watch = Watch(client.km.provisioner.pid)
        watch.start()
        for place, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                cell_began = time.perf_counter()
                client.execute_cell(cell, place)
                took.append((time.perf_counter() - cell_began, cell.source.split("\n")[0]))
        seconds, peak = time.perf_counter() - began, watch.highest()
    slowest, first_line = max(took)
    return Run(path.stem, len(took), seconds, peak / 1e9, slowest, first_line)


def row(run: Run) -> str:
    """A line of the table."""
    slowest = f"{run.slowest:.0f} s: `{run.first_line[:60]}`"
    return f"| {run.lesson} | {run.cells} | {run.seconds:.0f} s | {run.peak_gb:.1f} GB | {slowest} |"


def main() -> int:
    """Run what is asked for; 1 if the whole takes more than its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(NOTEBOOKS.glob("[0-9]*.ipynb")))
    wanted = parser.parse_args()
    # As the Makefile has it; COURSE_DEVICE too, because the figures are those of a CPU.
    settings = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_ARENA_MAX": "1"}
    for name, value in (settings | {"HF_HUB_OFFLINE": "1", "COURSE_DEVICE": "cpu", "COURSE_LANGUAGE": "en"}).items():
        os.environ.setdefault(name, value)
    print("| lesson | cells | time | peak memory | slowest cell |\n| --- | --- | --- | --- | --- |")
    runs = []
    for path in wanted.notebooks:
        runs.append(execute(path))
        print(row(runs[-1]), flush=True)
    minutes, peak = sum(run.seconds for run in runs) / 60, max(run.peak_gb for run in runs)
    print(f"| together | {sum(run.cells for run in runs)} | {minutes:.1f} min | {peak:.1f} GB | |")
    return int(minutes > MOST_MINUTES or peak > MOST_GB)


if __name__ == "__main__":
    sys.exit(main())
