"""Train and measure every point of lesson 06's table, or go on where a stopped run of this tool left off.

python tools/run_frontier.py                                   all points, two at a time; hours are printed at the end
python tools/run_frontier.py --only dpo --seeds 0              some of them
python tools/run_frontier.py --write                           put table and texts into the package
python tools/run_frontier.py --check                           hold the runs against the table that is shipped
python tools/run_frontier.py --scale full --workers 1 --launch "accelerate launch"      on GPUs

The points stand in configs/frontier.yaml, the settings of each method in configs/SCALE. Each run is a process of its
own with its own folder, and one that is done is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "course_helpers" / "assets" / "frontier"
FIRST_SEED = 0  # whose texts are shown


@dataclass(frozen=True)
class Planned:
    """One run: a method, what is turned, a seed."""

    method: str
    changes: tuple[tuple[str, Any], ...]
    seed: int

    @property
    def name(self) -> str:
        turned = "".join(f"-{key}-{value}" for key, value in self.changes if not isinstance(value, list))
        return f"{self.method}{turned}-seed-{self.seed}"

    def command(self, scale: str, folder: Path, launch: str) -> list[str]:
        start = [sys.executable, "-m"] if not launch else [*shlex.split(launch), "-m"]
        given = [f"{key}={json.dumps(value)}" for key, value in (*self.changes, ("seed", self.seed))]
        config = str(ROOT / "configs" / scale / f"{self.method}.yaml")
        return [*start, "course_helpers.train", self.method, "--config", config, "--folder", str(folder), *given]


def plan(seeds: list[int], only: list[str] | None = None) -> list[Planned]:
    """All runs, seed by seed: a table of one seed is there first."""
    points = yaml.safe_load((ROOT / "configs" / "frontier.yaml").read_text(encoding="utf-8"))
    methods = [method for method in points if only is None or method in only]
    return [
        Planned(method, tuple(changes.items()), seed)
        for seed in seeds
        for method in methods
        for changes in points[method]
    ]


def train(planned: Planned, scale: str, work: Path, launch: str, threads: int) -> str | None:
    """One run in a process of its own; returns what went wrong, if anything."""
    folder = work / planned.name
    if (folder / "evaluation.json").is_file():
        return None
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_DISABLE_TELEMETRY": "1"}
    begun = time.monotonic()
    with (work / f"{planned.name}.log").open("a", encoding="utf-8") as log:
        command = planned.command(scale, folder, launch)
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        return f"{planned.name} ended with {done.returncode}; see {log.name}"
    print(f"{planned.name}: {time.monotonic() - begun:.0f} s", flush=True)
    return None


def gather(runs: list[Planned], work: Path) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Rows of the table, and the texts of the first seed."""
    rows, texts = [], {}
    for planned in runs:
        path = work / planned.name / "evaluation.json"
        if not path.is_file():
            continue
        for point in json.loads(path.read_text(encoding="utf-8"))["points"]:
            said = point.pop("texts")
            rows.append(point)
            if planned.seed == FIRST_SEED:
                texts[f"{point['method']}|{point['setting']}"] = said
    return rows, texts


def reference_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The reference is the best of one response."""
    (one, *_) = [row for row in rows if row["method"] == "best-of-n" and row["setting"] == "n = 1"]
    return one | {"method": "reference", "setting": "π_ref", "seed": 0, "config": ""}


def write(rows: list[dict[str, Any]], texts: dict[str, list[dict[str, Any]]]) -> None:
    from course_helpers.frontier.table import COLUMNS, Point, save_points

    ASSETS.mkdir(parents=True, exist_ok=True)
    every = [reference_row(rows), *(row for row in rows if row["setting"] != "n = 1")]
    save_points([Point(**{name: row[name] for name in COLUMNS}) for row in every], ASSETS / "points.csv")
    texts = texts | {"reference|π_ref": texts.pop("best-of-n|n = 1")}
    (ASSETS / "samples.json").write_text(json.dumps(texts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(every)} rows written to {ASSETS}")


def check(rows: list[dict[str, Any]]) -> int:
    """How many of the numbers found lie where the table says; the exit status is 1 if too few do.

    Two independent estimates of one mean differ by more than the sum of their half-widths once in two hundred times;
    three in a hundred are let pass, since seeds differ by more than the prompts' intervals say.
    """
    from course_helpers.frontier.table import load_points

    shipped = {(point.method, point.setting, point.seed): point for point in load_points()}
    inside = outside = 0
    for row in rows:
        known = shipped.get((row["method"], row["setting"], row["seed"]))
        for name in ("reward", "second_reward", "kl", "win_rate") if known else ():
            reach = (row[f"{name}_high"] - row[f"{name}_low"]) / 2
            reach += (getattr(known, f"{name}_high") - getattr(known, f"{name}_low")) / 2
            apart = abs(row[name] - getattr(known, name))
            inside, outside = inside + (apart <= reach + 1e-9), outside + (apart > reach + 1e-9)
            if apart > reach + 1e-9:
                where = f"{row['method']} {row['setting']} seed {row['seed']}"
                print(f"{where}: {name} {row[name]:.3f}, the table says {getattr(known, name):.3f}")
    total = inside + outside
    print(f"{inside} of {total} numbers lie within the intervals of the table")
    return int(total == 0 or outside > 0.03 * total)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "frontier", help="folder of all runs")
    parser.add_argument("--scale", default="small", choices=("small", "full"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="methods")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each")
    parser.add_argument("--launch", default="", help="what to start a run with, such as 'torchrun --nproc_per_node 2'")
    parser.add_argument("--write", action="store_true", help="put table and texts into the package")
    parser.add_argument("--check", action="store_true", help="hold the runs against the shipped table")
    given = parser.parse_args()

    runs, begun = plan(given.seeds, given.only), time.monotonic()
    given.work.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(given.workers) as pool:
        troubles = list(pool.map(lambda r: train(r, given.scale, given.work, given.launch, given.threads), runs))
    for trouble in filter(None, troubles):
        print(trouble, file=sys.stderr)
    rows, texts = gather(runs, given.work)
    print(f"{len(rows)} points of {len(runs)} runs, {(time.monotonic() - begun) / 3600:.2f} hours this time")
    if given.write:
        write(rows, texts)
    if given.check:
        return check(rows)
    return int(any(troubles))


if __name__ == "__main__":
    sys.exit(main())
