"""Best-of-n: draw n responses from the reference and keep the one of highest reward. Nothing is trained.

    n → `kl_bound`                                            no KL is above it, whatever the policy and the reward
    π_ref, r, n → `distribution`                              the policy that this is, exactly, for few responses
    N ≥ n drawn rewards → `best_weights` → `expected_best`    its reward for every n up to N, from one set of draws

The best reward of n may be held by several of them. Which of those is kept, the first or any one by chance, makes no
difference: they are draws from one distribution, π_ref among the responses of that reward, and so is the one kept.

Sources: Stiennon et al. 2020, "Learning to Summarize with Human Feedback" (the number ln n − (n−1)/n); Beirami et al.
2024, "Theoretical Guarantees on the Best-of-n Alignment Policy" (the exact policy, and that the number is a bound);
Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (an average over all subsets, without bias).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from course_helpers import toy
from course_helpers.checks import check_whole, require


def kl_bound(n: int) -> float:
    """Return ln n − (n−1)/n: KL(best-of-n‖π_ref) is never above it.

    It is the KL itself where no two draws have equal rewards, as with very many responses, each of them rare. With few
    responses the KL stays below: it cannot exceed −ln π_ref of the best ones, however large n.

    Args:
        n: responses drawn for each one that is kept, 1 or more.

    Returns:
        Nats a response: 0 for n = 1, then growing like the logarithm.

    Raises:
        ValueError: n is no whole number above 0.

    Examples:
        >>> kl_bound(1), round(kl_bound(16), 4)
        (0.0, 1.8351)

    Source: Stiennon et al. 2020, appendix G.3, as an equality; Beirami et al. 2024, theorem 3.1, as the bound it is.
    """
    check_whole("n", n, at_least=1)
    return math.log(n) - (n - 1) / n


def distribution(pi_ref: Tensor, r: Tensor, n: int) -> Tensor:
    """Return the policy that best-of-n is, from the chance that all n draws are at most as good as Y.

    With F(Y) = P(r ≤ r(Y)) and p(Y) = P(r = r(Y)) under π_ref, the best reward is r(Y) with the chance
    Fⁿ − (F − p)ⁿ, which the responses of that reward share in proportion to π_ref:

        π_n(Y) = π_ref(Y) / p(Y) · (F(Y)ⁿ − (F(Y) − p(Y))ⁿ)

    Args:
        pi_ref: π_ref, (..., M).
        r: rewards, (..., M), of the same shape. Equal ones tie.
        n: responses drawn for each one that is kept, 1 or more.

    Returns:
        π_n, (..., M); π_ref itself for n = 1. What the reference never writes stays impossible.

    Raises:
        ValueError: `pi_ref` is no distribution, the shapes do not fit, or n is no whole number above 0.

    Examples:
        >>> pi_ref, r = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0])
        >>> distribution(pi_ref, r, n=2).round(decimals=6).tolist()  # only two bad draws leave a bad one
        [0.25, 0.75]

    Source: Beirami et al. 2024, section 2, here with ties.
    """
    check_whole("n", n, at_least=1)
    toy.expectation(pi_ref, r)  # checks both
    pi_ref, r = torch.as_tensor(pi_ref, dtype=torch.float64), torch.as_tensor(r, dtype=torch.float64)
    others, mine = r[..., None, :], r[..., :, None]
    tied = (pi_ref[..., None, :] * (others == mine)).sum(-1)
    up_to = (pi_ref[..., None, :] * (others <= mine)).sum(-1).clamp(max=1.0)
    share = (tied / up_to.clamp(min=1e-300)).clamp(max=1.0)
    best = -(up_to**n) * torch.expm1(n * torch.log1p(-share))  # Fⁿ − (F − p)ⁿ, exact for rare responses, too
    return torch.where(pi_ref > 0, pi_ref / tied.clamp(min=1e-300) * best, 0.0)


def best_weights(N: int, n: int) -> Tensor:
    """Weigh N rewards, sorted from low to high, so that their sum is the mean of the best over all subsets of n.

    The k-th of them is the best of a subset if the other n − 1 are among the k − 1 below it: C(k−1, n−1) of all C(N, n)
    subsets.

    Args:
        N: rewards there are.
        n: size of the subsets, from 1 (all weights 1/N) to N (the largest alone).

    Returns:
        (N,), 0 or more, summing to 1; the first n − 1 are 0.

    Raises:
        ValueError: n below 1 or above N.

    Examples:
        >>> best_weights(N=4, n=1).round(decimals=6).tolist()  # the mean
        [0.25, 0.25, 0.25, 0.25]
        >>> best_weights(N=4, n=4).round(decimals=6).tolist()  # the largest
        [0.0, 0.0, 0.0, 1.0]

    Source: David and Nagaraja 2003, "Order Statistics", chapter 3: the largest of n as a sum over N ordered values;
    Chen et al. 2021, equation 1, for rewards of 0 and 1.
    """
    check_whole("N", N, at_least=1)
    check_whole("n", n, at_least=1)
    require(n <= N, "n", n, f"at most N = {N}: a subset is no larger than the set")
    below = torch.arange(N, dtype=torch.float64)  # k − 1
    weights = torch.exp(_log_choose(below, n - 1) - _log_choose(torch.tensor(float(N), dtype=torch.float64), n))
    return torch.where(below >= n - 1, weights, 0.0)


def _log_choose(k: Tensor, n: int) -> Tensor:
    """ln C(k, n) through ln Γ, so that nothing overflows; meaningless where k < n."""
    rest = (k - n).clamp(min=0)
    return torch.lgamma(k + 1) - math.lgamma(n + 1) - torch.lgamma(rest + 1)


def expected_best(rewards: Tensor, n: int, measured: Tensor | None = None) -> Tensor:
    """Estimate without bias what best-of-n brings, from N draws of the reference, n or more.

    It is the mean over all subsets of n out of the N draws, written as one weighted sum. So 64 draws a query give every
    n up to 64. Responses of equal reward share their weights, as if one of them were kept by chance.

    Args:
        rewards: (..., N), by which the best is chosen.
        n: responses drawn for each one that is kept, from 1 to N.
        measured: (..., N), another measure of the same responses: what the kept one has of it on average, such as its
            reward by another judge. `rewards` itself when None.

    Returns:
        (...), in the unit of what is measured. Its error is that of the queries: average it over them, and bootstrap.

    Raises:
        ValueError: n above N or below 1, shapes that differ, or a value that is not finite.

    Examples:
        >>> round(expected_best([0.0, 1.0, 2.0], n=2).item(), 6)  # the mean of 1, 2 and 2
        1.666667
    """
    rewards = torch.as_tensor(rewards, dtype=torch.float64)
    measured = rewards if measured is None else torch.as_tensor(measured, dtype=torch.float64)
    if rewards.ndim == 0 or rewards.shape != measured.shape:
        shapes = f"{tuple(rewards.shape)} and {tuple(measured.shape)}"
        raise ValueError(f"rewards and measured have the shapes {shapes}; pass (..., N), the same for both.")
    if not (torch.isfinite(rewards).all() and torch.isfinite(measured).all()):
        raise ValueError("a reward or a measure is NaN or infinite; leave out the queries that have no judgement.")
    return (_weights_of(rewards, n) * measured).sum(-1)


def _weights_of(rewards: Tensor, n: int) -> Tensor:
    """The weight of each reward where it stands; equal ones share theirs."""
    N = rewards.shape[-1]
    summed = torch.nn.functional.pad(best_weights(N, n).cumsum(0), (1, 0))  # entry k: the weights of the k lowest
    ordered = rewards.sort(-1).values
    first = torch.searchsorted(ordered, rewards.contiguous(), right=False)
    last = torch.searchsorted(ordered, rewards.contiguous(), right=True)
    return (summed[last] - summed[first]) / (last - first)
