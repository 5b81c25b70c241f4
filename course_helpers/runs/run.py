"""A run from its settings to its points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from course_helpers.files import writing
from course_helpers.runs import measure, offline, online, processes, sampled
from course_helpers.runs.folder import RunFolder
from course_helpers.runs.job import Job, Trained, peak_memory_gb
from course_helpers.runs.models import load_model
from course_helpers.runs.settings import Settings, differences

TRAIN: dict[str, Callable[[Job], Trained]] = {
    "sft": offline.sft,
    "reward": offline.reward,
    "ppo": online.ppo,
    "dpo": offline.dpo,
    "grpo": online.grpo,
    "best-of-n": sampled.best_of_n,
    "preferred-ft": offline.preferred_ft,
}


def run(method: str, settings: Settings, folder: str | Path, quiet: bool = False) -> list[dict[str, Any]]:
    """Train, measure, and leave both in a folder; a run that was stopped goes on, one that is done is only read.

    Args:
        method: a name in `TRAIN`.
        settings: of that method, from `settings.make`.
        folder: of the run; see `folder` for what will be in it.
        quiet: no progress line.

    Returns:
        The run's points: one, or for best-of-n one for each n. Their columns are those of the table of lesson 06.

    Raises:
        RuntimeError: another number of processes than the settings ask for, or another run into this folder goes on.
        ValueError: settings that do not fit the data, or a folder that holds another run.
        WriteError: the disk is full, or the folder cannot be written to; what was kept before is whole.
    """
    count = processes.require_processes(settings.processes)
    place = RunFolder(folder, method, settings, write=processes.is_main())
    done = processes.from_main(place.points())
    if done is not None:
        return done
    job = Job(method, settings, place, count, quiet)
    with place.held():
        costs = processes.from_main(place.training()) or train(job)
        if place.write:
            place.finish(_points(job, costs))
        processes.wait()
    return processes.from_main(place.points())


def train(job: Job) -> dict[str, Any]:
    """Train and keep the model; returns what it cost, and what the method measured itself."""
    with writing(job.folder.path):  # TRL's checkpoints meet a full disk first
        trained = TRAIN[job.method](job)
        if trained.save is not None:
            trained.save(job.folder.model)
    on_gpu = torch.cuda.is_available()  # there the processor only waits
    facts = {
        "seconds": job.clock.wall if on_gpu else job.clock.processor,
        "wall_seconds": job.clock.wall,
        "memory_gb": peak_memory_gb(),
        "drawn": trained.drawn,
        "judged": trained.judged,
        "points": trained.points,
    }
    job.folder.end_training(facts)
    return facts


def _points(job: Job, facts: dict[str, Any]) -> list[dict[str, Any]]:
    costs = {name: value for name, value in facts.items() if name != "points"}
    found = facts["points"] or [measure.point(job, load_model(job), measure.name_of(job.settings))]
    config = " ".join([job.method, *differences(job.settings)])
    return [costs | row | {"config": config} for row in found]


def default_folder(method: str, settings: Settings) -> Path:
    """``runs/METHOD-SETTING-seed-N``, a name without spaces."""
    words = measure.name_of(settings).replace(" = ", "-").replace(" ", "-").replace("β", "beta")
    return Path("runs") / f"{method}-{words}-seed-{settings.seed}"
