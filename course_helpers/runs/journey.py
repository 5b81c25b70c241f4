"""Look back at a training: measure the policy at each step whose adapter was kept (`keep_steps`)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from course_helpers.dpo.saving import load_adapter
from course_helpers.runs import measure
from course_helpers.runs.folder import RunFolder, settings_in
from course_helpers.runs.job import Job
from course_helpers.runs.settings import make

MEASURED = ("reward", "second_reward", "kl")


def measure_journey(folder: str | Path) -> Path:
    """Measure every kept adapter of a run, on the prompts and with the seed of its final evaluation.

    The trained adapter is the last stop, whether its step was to be kept or not.

    Args:
        folder: of a run that kept adapters.

    Returns:
        ``journey.json`` in that folder: method, setting, seed, and for each step what `measure.point` says of it.

    Raises:
        ValueError: the run kept no adapters.
    """
    folder = Path(folder)
    config = settings_in(folder / "config.yaml")
    method = config.pop("method")
    settings = make(method, None, config)
    place = RunFolder(folder, method, settings, write=False)
    if not settings.keep_steps or place.training() is None:
        raise ValueError(f"{folder} holds no trained run that kept adapters: set keep_steps when you train.")
    last = place.delta(place.metrics()[-1]["step"])
    if not last.exists():
        shutil.copytree(place.model, last)
    kept = sorted((folder / "deltas").glob("step-*"))
    job = Job(method, settings, place)
    facts = {
        "method": method,
        "setting": measure.name_of(settings),
        "seed": settings.seed,
        "steps": [_stop(job, path) for path in kept],
    }
    path = folder / "journey.json"
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def _stop(job: Job, adapter: Path) -> dict[str, Any]:
    """What the policy of one step reaches, and what it writes."""
    model = load_adapter(adapter, job.settings.policy).eval()
    found = measure.point(job, model, measure.name_of(job.settings))
    names = [f"{name}{end}" for name in MEASURED for end in ("", "_low", "_high")]
    return {"step": int(adapter.name.split("-")[1])} | {name: found[name] for name in [*names, "texts"]}
