"""Best-of-n: nothing is trained; what changes the policy is which of its responses is taken."""

from __future__ import annotations

from typing import Any

import numpy as np

from course_helpers.evaluate import Evaluation, Interval, distinct_n
from course_helpers.frontier.best_of_n import best_weights, kl_bound
from course_helpers.runs.job import Job, Trained
from course_helpers.runs.measure import OTHER_SEED, columns, evaluation_of, probability, second_rewards
from course_helpers.runs.settings import BestOfNSettings


def best_of_n(job: Job) -> Trained:
    """Draw as many responses to each unseen prompt as the largest n asks for, and read every n off them.

    The mean of the best of n is estimated from all N ≥ n draws: the k-th smallest of them is the best of a random n
    with probability C(k − 1, n − 1) / C(N, n).
    """
    settings: BestOfNSettings = job.settings
    progress = job.progress(2)
    most = max(settings.n)
    seen = evaluation_of(job, job.policy, seed=settings.seed, count=most)
    progress.update(1)
    seconds, processor_seconds = job.clock.wall, job.clock.processor
    other = evaluation_of(job, job.reference, seed=OTHER_SEED + settings.seed)
    second = None if job.second_judge is None else second_rewards(job.second_judge, seen, settings.label)
    points = [_point(job, seen, second, other, n) for n in settings.n]
    for found, n in zip(points, settings.n, strict=True):
        part = n / most
        found |= {"seconds": processor_seconds * part, "wall_seconds": seconds * part, "drawn": n, "judged": n}
    progress.update(2)
    return Trained(points=points)


def _point(job: Job, seen: Evaluation, second: np.ndarray | None, other: Evaluation, n: int) -> dict[str, Any]:
    rewards = np.reshape(seen.rewards, (len(seen.queries), -1))
    order = rewards.argsort(axis=1, kind="stable")
    weights = np.asarray(best_weights(rewards.shape[1], n))

    def of_best(values: np.ndarray) -> Interval:
        """What is expected of the response with the best reward among n; values (N, K)."""
        return Interval.bootstrap((np.take_along_axis(values, order, axis=1) * weights).sum(axis=1))

    theirs = np.reshape(other.rewards, (len(seen.queries), -1))
    wins = (rewards[:, :, None] > theirs[:, None, :]).mean(axis=2)
    found = {
        "method": "best-of-n",
        "setting": f"n = {n}",
        "seed": job.settings.seed,
        "prompts": len(seen.queries),
        "responses": len(seen.responses),
        **columns("reward", of_best(rewards)),
        **columns("probability", of_best(probability(rewards))),
    }
    if second is not None:
        measured = second.reshape(rewards.shape)
        found |= columns("second_reward", of_best(measured))
        found |= columns("second_probability", of_best(probability(measured)))
    bound = float(kl_bound(n))
    found |= columns("kl", Interval(bound, bound, bound)) | columns("win_rate", of_best(wins))
    chosen = rewards[:, :n].argmax(axis=1)  # one answer to each prompt, from its first n responses
    rows = [place * rewards.shape[1] + best for place, best in enumerate(chosen)]
    ids = job.tokenizer([seen.responses[row] for row in rows]).input_ids
    found |= {"distinct_2": distinct_n(ids, 2), "length": float(np.mean([len(row) for row in ids]))}
    return found | {"texts": _texts(seen, second, rows)}


def _texts(seen: Evaluation, second: np.ndarray | None, rows: list[int], count: int = 6) -> list[dict[str, Any]]:
    places = np.linspace(0, len(rows) - 1, count + 2).round().astype(int)[1:-1]
    return [
        {
            "prompt": seen.queries[place],
            "response": seen.responses[rows[place]],
            "reward": round(seen.rewards[rows[place]], 3),
            "second_reward": None if second is None else round(float(second[rows[place]]), 3),
            "kl": None,
        }
        for place in places
    ]
