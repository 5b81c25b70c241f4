"""Best-of-n: nothing is trained; what changes the policy is which of its responses is taken."""

from __future__ import annotations

from typing import Any

import numpy as np

from course_helpers.evaluate import Interval, distinct_n
from course_helpers.frontier.best_of_n import best_weights, kl_bound
from course_helpers.runs.job import Job, Trained
from course_helpers.runs.measure import (
    Draws,
    columns,
    draws,
    probability,
    reference_rewards,
    second_rewards,
    shown_places,
    wins,
)
from course_helpers.runs.settings import BestOfNSettings


def best_of_n(job: Job) -> Trained:
    """Draw as many responses to each unseen prompt as the largest n asks for, and read every n off them.

    The mean of the best of n is estimated from all N ≥ n draws: the k-th smallest of them is the best of a random n
    with probability C(k − 1, n − 1) / C(N, n).
    """
    settings: BestOfNSettings = job.settings
    progress = job.progress(2)
    most = max(settings.n)
    seen = draws(job, job.policy, settings.seed, most)
    progress.update(1)
    seconds, processor_seconds = job.clock.wall, job.clock.processor
    theirs = reference_rewards(job)
    judge = job.second_judge
    second = None if judge is None else second_rewards(judge, seen.prompts, seen.responses, settings.label)
    points = [best_of(n, seen, second, theirs) for n in settings.n]
    for found, n in zip(points, settings.n, strict=True):
        part = n / most
        costs = {"seconds": processor_seconds * part, "wall_seconds": seconds * part, "drawn": n, "judged": n}
        found |= costs | {"seed": settings.seed}
    progress.update(2)
    return Trained(points=points)


def best_of(n: int, seen: Draws, second: np.ndarray | None, theirs: np.ndarray) -> dict[str, Any]:
    """What is expected of the response with the best reward among n.

    Args:
        n: responses to choose from, at most the K that were drawn.
        seen: K responses to each of N prompts.
        second: rewards by the judge that only measures, (N, K), if there is one.
        theirs: rewards of the reference's responses to the same prompts, (N, K').
    """
    rewards = seen.rewards
    order = rewards.argsort(axis=1, kind="stable")
    weights = np.asarray(best_weights(rewards.shape[1], n))

    def of_best(values: np.ndarray) -> Interval:
        return Interval.bootstrap((np.take_along_axis(values, order, axis=1) * weights).sum(axis=1))

    bound = float(kl_bound(n))
    expected = {"reward": rewards, "probability": probability(rewards), "win_rate": wins(rewards, theirs)}
    if second is not None:
        expected |= {"second_reward": second, "second_probability": probability(second)}
    found = {"method": "best-of-n", "setting": f"n = {n}", "prompts": len(rewards), "responses": rewards.size}
    found |= columns("kl", Interval(bound, bound, bound))
    for name, values in expected.items():
        found |= columns(name, of_best(values))
    # one answer to each prompt, from its first n responses
    rows = [place * rewards.shape[1] + best for place, best in enumerate(rewards[:, :n].argmax(axis=1).tolist())]
    answers = [seen.tokens[row] for row in rows]
    found |= {"distinct_2": distinct_n(answers, 2), "length": float(np.mean([len(answer) for answer in answers]))}
    return found | {"texts": [_text(seen, second, place, rows[place], bound) for place in shown_places(len(rows))]}


def _text(seen: Draws, second: np.ndarray | None, place: int, row: int, kl: float) -> dict[str, Any]:
    return {
        "prompt": seen.prompts[place],
        "response": seen.responses[row],
        "reward": round(float(seen.rewards.ravel()[row]), 3),
        "second_reward": None if second is None else round(float(second.ravel()[row]), 3),
        "kl": round(kl, 3),
    }
