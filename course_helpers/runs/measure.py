"""A trained policy as a point: its reward by both judges, its KL to the reference, and how sure each number is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from transformers import Pipeline

from course_helpers.evaluate import Evaluation, Interval, compare, evaluate
from course_helpers.models import log_odds
from course_helpers.runs.data import unseen_prompts
from course_helpers.runs.job import Job
from course_helpers.runs.settings import Settings

OTHER_SEED = 1_000_003  # of the reference's draws: a policy compared with itself shall win half the time, not tie


def evaluation_of(job: Job, model: Any, seed: int, count: int | None = None) -> Evaluation:
    """Responses of a model to the unseen prompts, with reward and KL.

    Args:
        job: the run, for prompts, judge and reference.
        model: π_θ.
        seed: of the draws.
        count: responses to each prompt; as the settings say when None.
    """
    settings = job.settings
    return evaluate(
        model,
        job.reference,
        job.tokenizer,
        job.judge,
        unseen_prompts(settings, job.tokenizer),
        label=settings.label,
        max_new_tokens=settings.max_new_tokens,
        count=count or settings.evaluation_count,
        seed=seed,
    )


def second_rewards(judge: Pipeline, seen: Evaluation, label: str) -> np.ndarray:
    """Log-odds by the judge that only measures, of the very responses that the first one judged; (N·K,)."""
    count = len(seen.responses) // len(seen.queries)
    queries = [query for query in seen.queries for _ in range(count)]
    texts = [x + y for x, y in zip(queries, seen.responses, strict=True)]
    return np.array(log_odds(judge, texts, label))


def probability(odds: ArrayLike) -> np.ndarray:
    """P of log-odds ln P/(1 − P)."""
    return 1 / (1 + np.exp(-np.asarray(odds)))


def columns(name: str, interval: Interval) -> dict[str, float]:
    """An interval as three columns of a table."""
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def point(job: Job, model: Any, setting: str) -> dict[str, Any]:
    """All measured columns of a point, and the texts behind it.

    Args:
        job: the run.
        model: π_θ.
        setting: what tells this point from the method's others.
    """
    seen = evaluation_of(job, model, seed=job.settings.seed)
    reference = evaluation_of(job, job.reference, seed=OTHER_SEED + job.settings.seed)
    second = None if job.second_judge is None else second_rewards(job.second_judge, seen, job.settings.label)
    found = {
        "method": job.method,
        "setting": setting,
        "seed": job.settings.seed,
        "prompts": len(seen.queries),
        "responses": len(seen.responses),
        **columns("reward", seen.log_odds),
        **columns("probability", seen.probability),
        **_second(second, len(seen.queries)),
        **columns("kl", seen.kl),
        **columns("win_rate", compare(seen, reference).rate),
        "distinct_2": seen.distinct_2,
        "length": seen.length,
    }
    return found | {"texts": texts(seen, second)}


def _second(rewards: np.ndarray | None, queries: int) -> dict[str, float]:
    if rewards is None:
        return {}
    table = rewards.reshape(queries, -1)
    return columns("second_reward", Interval.bootstrap(table)) | columns(
        "second_probability", Interval.bootstrap(probability(table))
    )


def texts(seen: Evaluation, second: np.ndarray | None, count: int = 6) -> list[dict[str, Any]]:
    """One response to each of a few prompts, spread evenly over all; the same prompts at every point."""
    share = len(seen.responses) // len(seen.queries)
    places = np.linspace(0, len(seen.queries) - 1, count + 2).round().astype(int)[1:-1]
    return [
        {
            "prompt": seen.queries[place],
            "response": seen.responses[place * share],
            "reward": round(seen.rewards[place * share], 3),
            "second_reward": None if second is None else round(float(second[place * share]), 3),
            "kl": round(seen.kls[place * share], 3),
        }
        for place in places
    ]


def name_of(settings: Settings) -> str:
    """What tells a run from others of its method, in a few characters: the setting one turns."""
    if getattr(settings, "target_kl", None):
        return f"target KL {settings.target_kl:g}"
    if hasattr(settings, "beta"):
        return f"β = {settings.beta:g}"
    epochs = getattr(settings, "epochs", 1.0)
    return f"{epochs:g} epoch" + ("" if epochs == 1 else "s")
