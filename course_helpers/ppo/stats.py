"""What a step reports: one table that defines every key, and the functions that fill it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from course_helpers.ppo.losses import Clipped, masked_mean, masked_var

# Σ and means over tokens count response tokens only; "of the mini-batches" means: averaged over all that were run.
STATS = {
    "objective/kl": "mean over responses of Σ_t of the KL penalty, in nats a response; kind kl may be below 0",
    "objective/kl_k3": "the same sum of Schulman's k3, e^(−d) − 1 + d with d = ln π/π_ref, which is never below 0",
    "objective/kl_dist": "(B,) Σ_t of the KL penalty of each response",
    "objective/logprobs": "(B, T−1) ln π_old of the tokens, at the positions that predict them; 0 outside responses",
    "objective/ref_logprobs": "(B, T−1) the same under π_ref",
    "objective/kl_coef": "β in this step, before the controller moved it",
    "objective/entropy": "mean over responses of −Σ_t ln π_old(ω_t): nats a response, an estimate of its entropy",
    "ppo/mean_non_score_reward": "token mean of −β·KL penalty",
    "ppo/mean_scores": "mean of the scores, after scaling and clipping",
    "ppo/std_scores": "their unbiased standard deviation (NaN for one sample)",
    "tokens/queries_len_mean": "mean length of the queries, in tokens",
    "tokens/queries_len_std": "unbiased standard deviation of that",
    "tokens/queries_dist": "(B,) lengths of the queries",
    "tokens/responses_len_mean": "mean length of the responses, in tokens",
    "tokens/responses_len_std": "unbiased standard deviation of that",
    "tokens/responses_dist": "(B,) lengths of the responses",
    "ppo/loss/policy": "clipped surrogate loss, of the mini-batches",
    "ppo/loss/value": "clipped value loss before vf_coef, of the mini-batches",
    "ppo/loss/total": "policy loss + vf_coef · value loss, of the mini-batches",
    "ppo/policy/entropy": "entropy of the next-token distribution, in nats a token, of the mini-batches",
    "ppo/policy/approxkl": "½ (ln ρ)², token mean of the mini-batches: how far π_θ has moved from π_old",
    "ppo/policy/policykl": "−ln ρ, token mean of the mini-batches: an unbiased estimate of the same, with a sign",
    "ppo/policy/clipfrac": "share of tokens whose clipped policy term was the larger, of the mini-batches",
    "ppo/policy/skipped": "mini-batches left out because their mean ratio was over ratio_threshold",
    "ppo/policy/advantages": "whitened advantages, flat: (mini-batch, T−1) in the order drawn; 0 outside responses",
    "ppo/policy/advantages_mean": "token mean of the whitened advantages, of the mini-batches",
    "ppo/policy/ratio": "importance ratios ρ, flat as the advantages; 1 outside responses",
    "ppo/returns/mean": "token mean of the returns, of the mini-batches",
    "ppo/returns/var": "their unbiased variance, of the mini-batches",
    "ppo/val/vpred": "token mean of the values now, of the mini-batches",
    "ppo/val/error": "token mean of (V − return)², of the mini-batches",
    "ppo/val/clipfrac": "share of tokens whose clipped value term was the larger, of the mini-batches",
    "ppo/val/mean": "token mean of the values when the batch came in, of the mini-batches",
    "ppo/val/var": "their unbiased variance, of the mini-batches",
    "ppo/val/var_explained": "1 − val/error / returns/var: 1 is a perfect value head, 0 no better than the mean",
    "ppo/learning_rate": "of the step, before the scheduler moved it",
    "time/ppo/forward_pass": "seconds for the log-probabilities and values of policy and reference",
    "time/ppo/compute_rewards": "seconds for the rewards of tokens",
    "time/ppo/compute_advantages": "seconds for advantages and returns",
    "time/ppo/optimize_step": "seconds for all epochs",
    "time/ppo/calc_stats": "seconds for this table",
    "time/ppo/total": "seconds for the step",
}
"""Every number that `PPOTrainer.step` reports, by its key, and what it means."""


@dataclass(frozen=True)
class MiniBatchRecord:
    """What one mini-batch reports.

    Attributes:
        means: name → token mean or variance over the mini-batch of all processes.
        ratio: importance ratios, (mini-batch, T-1), 1 outside responses.
        advantages: whitened advantages, (mini-batch, T-1), 0 outside responses.
        skipped: whether it was left out of the update.
    """

    means: dict[str, float]
    ratio: Tensor
    advantages: Tensor
    skipped: bool


def token_statistics(
    log_probs: Tensor,
    old_log_probs: Tensor,
    values: Tensor,
    returns: Tensor,
    entropy: Tensor,
    policy: Clipped,
    value: Clipped,
) -> dict[str, Tensor]:
    """Name → one number a token, (B, R): what a mini-batch's token means are taken of.

    Args:
        log_probs: ln π_θ, (B, R).
        old_log_probs: ln π_old, (B, R).
        values: V now, (B, R).
        returns: what V is to predict, (B, R).
        entropy: of each token's distribution, (B, R).
        policy: `losses.policy_losses`.
        value: `losses.value_losses`.
    """
    log_ratio = log_probs - old_log_probs
    return {
        "loss/policy": policy.tokens,
        "loss/value": value.tokens,
        "policy/entropy": entropy,
        "policy/approxkl": 0.5 * log_ratio**2,
        "policy/policykl": -log_ratio,
        "policy/clipfrac": policy.clipped,
        "val/vpred": values,
        "val/error": (values - returns) ** 2,
        "val/clipfrac": value.clipped,
        "ratio": log_ratio.exp(),
    }


def batch_statistics(advantages: Tensor, returns: Tensor, old_values: Tensor, mask: Tensor) -> dict[str, float]:
    """Name → number: what a mini-batch says about its targets, which no update changes."""
    return {
        "policy/advantages_mean": masked_mean(advantages, mask).item(),
        "returns/mean": masked_mean(returns, mask).item(),
        "returns/var": masked_var(returns, mask).item(),
        "val/mean": masked_mean(old_values, mask).item(),
        "val/var": masked_var(old_values, mask).item(),
    }


def objective_statistics(seen: SimpleNamespace, padding_side: str) -> dict[str, float | np.ndarray]:
    """The keys that belong to the batch as it came in.

    Args:
        seen: `batch`, `scores` (B,), `log_probs`, `ref_log_probs`, `kl` (B, R) and `kl_coef`.
        padding_side: layout of the arrays of log-probabilities.
    """
    batch, mask = seen.batch, seen.batch.response_mask
    kl = (seen.kl * mask).sum(1)
    difference = seen.log_probs - seen.ref_log_probs
    lengths = {"queries": batch.query_lengths.double(), "responses": batch.response_lengths.double()}
    stats = {
        "objective/kl": kl.mean().item(),
        "objective/kl_k3": ((torch.exp(-difference) - 1.0 + difference) * mask).sum(1).mean().item(),
        "objective/kl_dist": numpy(kl),
        "objective/logprobs": numpy(batch.classic_columns(seen.log_probs, padding_side, batch.longest)),
        "objective/ref_logprobs": numpy(batch.classic_columns(seen.ref_log_probs, padding_side, batch.longest)),
        "objective/kl_coef": float(seen.kl_coef),
        "objective/entropy": -(seen.log_probs * mask).sum(1).mean().item(),
        "ppo/mean_non_score_reward": masked_mean(-seen.kl_coef * seen.kl, mask).item(),
        "ppo/mean_scores": seen.scores.mean().item(),
        "ppo/std_scores": spread(seen.scores),
    }
    for name, length in lengths.items():
        stats |= {f"tokens/{name}_len_mean": length.mean().item(), f"tokens/{name}_len_std": spread(length)}
        stats[f"tokens/{name}_dist"] = numpy(length.float())
    return stats


def training_statistics(records: list[MiniBatchRecord], vf_coef: float) -> dict[str, float | np.ndarray]:
    """The keys that are averaged over all mini-batches run, and the two arrays in the order drawn."""
    means = {name: float(np.mean([record.means[name] for record in records])) for name in records[0].means}
    means.pop("ratio")
    means["loss/total"] = means["loss/policy"] + vf_coef * means["loss/value"]
    variance = means["returns/var"]
    means["val/var_explained"] = 1.0 - means["val/error"] / variance if variance else float("nan")
    stats: dict[str, float | np.ndarray] = {f"ppo/{name}": mean for name, mean in means.items()}
    stats["ppo/policy/skipped"] = float(sum(record.skipped for record in records))
    stats["ppo/policy/advantages"] = numpy(torch.cat([record.advantages.flatten() for record in records]))
    stats["ppo/policy/ratio"] = numpy(torch.cat([record.ratio.flatten() for record in records]))
    return stats


def spread(x: Tensor) -> float:
    """Unbiased standard deviation; NaN for one number, without torch's warning.

    Examples:
        >>> spread(torch.tensor([4.0])), spread(torch.tensor([4.0, 4.0]))
        (nan, 0.0)
    """
    return x.std().item() if x.numel() > 1 else float("nan")


def numpy(x: Tensor) -> np.ndarray:
    """A tensor as an array on the CPU."""
    return x.detach().cpu().numpy()


def scalars(stats: dict[str, float | np.ndarray]) -> dict[str, float]:
    """The numbers of a step without its arrays: a row for ``pandas.DataFrame``.

    Examples:
        >>> scalars({"objective/kl": 1.5, "objective/kl_dist": np.array([1.0, 2.0])})
        {'objective/kl': 1.5}
    """
    return {name: float(value) for name, value in stats.items() if np.ndim(value) == 0}
