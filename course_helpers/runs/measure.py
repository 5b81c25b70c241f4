"""A trained policy as a point: its reward by both judges, its KL to the reference, and how sure each number is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from transformers import Pipeline

from course_helpers.evaluate import TIE, Evaluation, Interval, evaluate
from course_helpers.models import log_odds
from course_helpers.ppo.rollout import draw_responses
from course_helpers.runs.data import unseen_prompts
from course_helpers.runs.job import Job
from course_helpers.runs.settings import Settings

OTHER_SEED = 1_000_003  # of the reference's draws: a policy compared with itself shall win half the time, not tie

SHOWN = 6  # texts kept of each point


def evaluation_of(job: Job, model: Any) -> Evaluation:
    """Responses of a model to the unseen prompts, with reward and KL.

    Args:
        job: the run, for prompts, judge and reference.
        model: π_θ.
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
        count=settings.evaluation_count,
        seed=settings.seed,
    )


class Draws(NamedTuple):
    """Responses of a model to the unseen prompts, judged.

    Attributes:
        prompts: N texts.
        responses: N·K texts, those to a prompt one after the other.
        tokens: the same as token ids.
        rewards: log-odds by the judge that gives the reward, (N, K).
    """

    prompts: list[str]
    responses: list[str]
    tokens: list[Tensor]
    rewards: np.ndarray


def draws(job: Job, model: Any, seed: int, count: int) -> Draws:
    """Draw and judge, without the KL: the same responses as `evaluation_of` finds with this seed.

    Args:
        job: the run, for prompts and judge.
        model: π.
        seed: of the draws.
        count: K responses to each prompt.
    """
    settings, tokenizer = job.settings, job.tokenizer
    prompts = unseen_prompts(settings, tokenizer)
    queries = [torch.tensor(tokenizer(text).input_ids) for text in prompts for _ in range(count)]
    options = {"max_new_tokens": settings.max_new_tokens, "temperature": 1.0, "batch_size": 64}
    tokens = draw_responses(model, tokenizer, queries, seed=seed, **options)
    whole = [tokenizer.decode(torch.cat(both), skip_special_tokens=True) for both in zip(queries, tokens, strict=True)]
    rewards = np.reshape(log_odds(job.judge, whole, settings.label), (-1, count))
    return Draws(prompts, [tokenizer.decode(row, skip_special_tokens=True) for row in tokens], tokens, rewards)


def reference_rewards(job: Job) -> np.ndarray:
    """Log-odds of what π_ref writes to the unseen prompts, (N, K); the same for every run with this seed."""
    settings = job.settings
    return draws(job, job.reference, OTHER_SEED + settings.seed, settings.evaluation_count).rewards


def wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """How often each response beats those of the other to its query, ties counted half.

    Args:
        ours: rewards, (N, K).
        theirs: rewards, (N, K').

    Returns:
        Shares, (N, K).
    """
    lead = ours[:, :, None] - theirs[:, None, :]
    return np.where(np.abs(lead) < TIE, 0.5, lead > 0).mean(axis=2)


def second_rewards(judge: Pipeline, prompts: Sequence[str], responses: Sequence[str], label: str) -> np.ndarray:
    """Log-odds by the judge that only measures, of the very responses that the first one judged, (N, K).

    Args:
        judge: a text-classification pipeline.
        prompts: N texts.
        responses: N·K texts, those to a prompt one after the other.
        label: the judge's label that is looked at.
    """
    count = len(responses) // len(prompts)
    repeated = [prompt for prompt in prompts for _ in range(count)]
    texts = [x + y for x, y in zip(repeated, responses, strict=True)]
    return np.reshape(log_odds(judge, texts, label), (len(prompts), count))


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
    seen = evaluation_of(job, model)
    judge, label = job.second_judge, job.settings.label
    second = None if judge is None else second_rewards(judge, seen.queries, seen.responses, label)
    won = wins(np.reshape(seen.rewards, (len(seen.queries), -1)), reference_rewards(job))
    found = {
        "method": job.method,
        "setting": setting,
        "seed": job.settings.seed,
        "prompts": len(seen.queries),
        "responses": len(seen.responses),
        **columns("reward", seen.log_odds),
        **columns("probability", seen.probability),
        **_second(second),
        **columns("kl", seen.kl),
        **columns("win_rate", Interval.bootstrap(won)),
        "distinct_2": seen.distinct_2,
        "length": seen.length,
    }
    return found | {"texts": texts(seen, second)}


def _second(rewards: np.ndarray | None) -> dict[str, float]:
    if rewards is None:
        return {}
    found = {"second_reward": rewards, "second_probability": probability(rewards)}
    return {key: x for name, table in found.items() for key, x in columns(name, Interval.bootstrap(table)).items()}


def texts(seen: Evaluation, second: np.ndarray | None) -> list[dict[str, Any]]:
    """One response to each of a few prompts, with what was measured of it."""
    count = len(seen.responses) // len(seen.queries)
    return [
        {
            "prompt": seen.queries[place],
            "response": seen.responses[place * count],
            "reward": round(seen.rewards[place * count], 3),
            "second_reward": None if second is None else round(float(second[place, 0]), 3),
            "kl": round(seen.kls[place * count], 3),
        }
        for place in shown_places(len(seen.queries))
    ]


def shown_places(prompts: int, count: int = SHOWN) -> list[int]:
    """Which prompts' texts are kept: a few, spread evenly over all; the same at every point."""
    return np.linspace(0, prompts - 1, count + 2).round().astype(int)[1:-1].tolist()


def name_of(settings: Settings) -> str:
    """What tells a run from others of its method, in a few characters: the setting one turns."""
    if getattr(settings, "target_kl", None):
        return f"target KL {settings.target_kl:g}"
    if hasattr(settings, "beta"):
        return f"β = {settings.beta:g}"
    epochs = getattr(settings, "epochs", 1.0)
    return f"{epochs:g} epoch" + ("" if epochs == 1 else "s")
