"""The frontier where it is exact: policies over a few responses, and every method's way to it or past it.

For each number of nats there is a largest expected reward. The policies that have it are those of `toy.optimal_policy`,
one for each β, so the whole frontier is known. A method can then be held against it step by step.

    π_ref, r → `frontier`, `best_reward`                                  what is possible
    π → `place` → `gap`                                                   where a policy stands, and how far below
    π_ref, r → `ppo`, `dpo`, `grpo`, `preferred_ft`, `best_of_n` → `Path`   where each method goes
    `preferred_policy`, `forward_optimal_policy`, `grpo_betas`            where some of them end, in closed form

Everywhere π_ref and r are (M,) for one query with M responses, or (N, M) for N queries that count alike; reward and KL
are then means over the queries. Policies may have further axes before these, such as the steps of a path. π = softmax θ
has one number θ a response, training starts at π_ref, and Adam takes the steps, smaller and smaller down to 0.

The rest is as in `toy`: float64, nats, a `torch.Generator` for what is random, a ValueError for a wrong argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from course_helpers import toy
from course_helpers.checks import check_beta, check_whole, is_finite, require
from course_helpers.dpo.losses import dpo_loss
from course_helpers.frontier.best_of_n import distribution
from course_helpers.ppo.losses import kl_penalty, policy_losses, token_rewards

LABELS = ("bradley-terry", "better")
TINY = 1e-4  # added to a group's standard deviation before it divides: a group of equal rewards has none

LossOf = Callable[[Tensor], Tensor]  # a loss as a function of ln π_θ

# -------------------------------------------------------------------------------------------------------- the frontier


class Place(NamedTuple):
    """Where policies stand.

    Attributes:
        reward: E_π[r], mean over queries.
        kl: KL(π‖π_ref) in nats, mean over queries.
    """

    reward: Tensor
    kl: Tensor


class Frontier(NamedTuple):
    """The policies that no other beats.

    Attributes:
        betas: β of each, (K,).
        policies: π_r of each, (K, M) or (K, N, M).
        reward: E[r], (K,).
        kl: KL(π_r‖π_ref) in nats, (K,).
    """

    betas: Tensor
    policies: Tensor
    reward: Tensor
    kl: Tensor


def place(pi: Tensor, pi_ref: Tensor, r: Tensor) -> Place:
    """Return a policy's reward and KL: a point of the picture.

    Args:
        pi: π, (..., M) or (..., N, M).
        pi_ref: π_ref, (M,) or (N, M).
        r: rewards, of the same shape as π_ref.

    Returns:
        Reward and KL, each (...).

    Raises:
        ValueError: no distribution, or shapes that do not fit.

    Examples:
        >>> here = place([0.0, 1.0], [0.5, 0.5], [0.0, 1.0])
        >>> here.reward.item(), round(here.kl.item(), 6)  # the best response, for ln 2 nats
        (1.0, 0.693147)
    """
    pi_ref, r = _problem(pi_ref, r)
    pi = torch.as_tensor(pi, dtype=torch.float64)
    if pi.shape[pi.ndim - pi_ref.ndim :] != pi_ref.shape:
        raise ValueError(
            f"pi has shape {tuple(pi.shape)}; its last axes must be those of pi_ref, {tuple(pi_ref.shape)}."
        )
    queries = tuple(range(pi.ndim - pi_ref.ndim, pi.ndim - 1))
    reward, nats = toy.expectation(pi, r), toy.kl(pi, pi_ref).clamp(min=0)  # rounding may end a little below 0
    return Place(reward.mean(queries), nats.mean(queries)) if queries else Place(reward, nats)


def frontier(pi_ref: Tensor, r: Tensor, betas: Tensor | Sequence[float]) -> Frontier:
    """Return the optimal policies of many β: a curve from π_ref (β → ∞) to the best responses alone (β → 0).

    Along it d E[r] / d KL = β: the price of a nat is what the last nat has brought.

    Args:
        pi_ref: π_ref, (M,) or (N, M).
        r: rewards, of the same shape.
        betas: β, (K,), each above 0, in reward per nat.

    Returns:
        The curve, in the order of the betas.

    Raises:
        ValueError: no distribution, shapes that do not fit, or a β not above 0.

    Examples:
        >>> frontier([0.5, 0.5], torch.tensor([1.0, 3.0]).log(), betas=[1.0]).policies.round(decimals=6).tolist()
        [[0.25, 0.75]]

    Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 4, for each β.
    """
    pi_ref, r = _problem(pi_ref, r)
    betas = torch.as_tensor(betas, dtype=torch.float64)
    require(betas.ndim == 1 and len(betas) > 0, "betas' shape", tuple(betas.shape), "(K,), one β or more")
    for beta in betas.tolist():
        check_beta(beta)
    policies = _tilted(pi_ref, r, 1 / betas)
    return Frontier(betas, policies, *place(policies, pi_ref, r))


def _tilted(pi_ref: Tensor, r: Tensor, inverse: Tensor) -> Tensor:
    """π_ref exp(r/β) / Z for every 1/β of `inverse` (...), 0 included: (..., M) or (..., N, M)."""
    lead = r - r.amax(-1, keepdim=True)  # at most 0, so that a large 1/β does not overflow
    return (pi_ref.log() + inverse.reshape(*inverse.shape, *[1] * r.ndim) * lead).softmax(-1)


def best_reward(pi_ref: Tensor, r: Tensor, kl: Tensor | float) -> Tensor:
    """Return the largest expected reward that so many nats can buy.

    The optimal policy at that KL is that of some β, found by halving an interval. With N queries the budget is their
    mean KL, and one β for all of them spends it best: a nat must bring the same everywhere.

    Args:
        pi_ref: π_ref, (M,) or (N, M).
        r: rewards, of the same shape.
        kl: budget in nats, any shape, 0 or more. Beyond what the best responses alone cost, it buys nothing more.

    Returns:
        Of the shape of `kl`, in units of reward.

    Raises:
        ValueError: no distribution, shapes that do not fit, or a budget below 0 or NaN.

    Examples:
        >>> best_reward([0.5, 0.5], [0.0, 1.0], kl=[0.0, 10.0]).round(decimals=6).tolist()
        [0.5, 1.0]
    """
    pi_ref, r = _problem(pi_ref, r)
    budget = torch.as_tensor(kl, dtype=torch.float64)
    if not (budget >= 0).all():
        raise ValueError(f"kl is {budget.tolist()}; a budget of nats must be 0 or more.")
    possible = torch.where(pi_ref > 0, r, -math.inf)
    scale = (r.max() - r.min()) if r.max() > r.min() else 1.0
    low, high = torch.zeros_like(budget), torch.ones_like(budget)
    for _ in range(50):  # s in [0, 1) stands for 1/β = s/(1 − s) per unit of reward
        middle = (low + high) / 2
        within = place(_tilted(pi_ref, r, middle / (1 - middle) / scale), pi_ref, r).kl <= budget
        low, high = torch.where(within, middle, low), torch.where(within, high, middle)
    found = place(_tilted(pi_ref, r, low / (1 - low) / scale), pi_ref, r).reward
    return torch.where(low > 1 - 1e-12, possible.amax(-1).mean(), found)


def gap(pi: Tensor, pi_ref: Tensor, r: Tensor) -> Tensor:
    """Return how far below the frontier a policy stands: the share of the possible gain in reward that it lacks.

    (best reward at its KL − its reward) / (best reward at its KL − reward of π_ref)

    Args:
        pi: π, (..., M) or (..., N, M).
        pi_ref: π_ref, (M,) or (N, M).
        r: rewards, of the same shape.

    Returns:
        (...), without unit: 0 on the frontier, 1 where nothing was gained, above 1 where reward was lost; 0.01 is one
        per cent. Of π_ref itself, and of what rounding cannot tell from it, it is 0.

    Raises:
        ValueError: no distribution, or shapes that do not fit.

    Examples:
        >>> r = torch.tensor([0.0, 1.0, 2.0])
        >>> pi_ref = torch.full((3,), 1 / 3)
        >>> round(abs(gap(toy.optimal_policy(pi_ref, r, beta=0.5), pi_ref, r).item()), 6)  # on the frontier
        0.0
    """
    here = place(pi, pi_ref, r)
    best, start = best_reward(pi_ref, r, here.kl), place(pi_ref, pi_ref, r).reward
    gain, least = best - start, 1e-6 * (torch.as_tensor(r).max() - torch.as_tensor(r).min()).clamp(min=1e-300)
    return torch.where(gain > least, (best - here.reward) / gain.clamp(min=least), 0.0)


def _problem(pi_ref: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float64, once they are known to fit."""
    pi_ref, r = torch.as_tensor(pi_ref, dtype=torch.float64), torch.as_tensor(r, dtype=torch.float64)
    if pi_ref.shape != r.shape or pi_ref.ndim not in (1, 2):
        shapes = f"{tuple(pi_ref.shape)} and {tuple(r.shape)}"
        raise ValueError(f"pi_ref and r have the shapes {shapes}; pass (M,) or (N, M), the same for both.")
    toy.expectation(pi_ref, r)  # checks the values of both
    return pi_ref, r


# ---------------------------------------------------------------------------------------------------- how to get there


class Path(NamedTuple):
    """The way of a method, step by step; the first step is π_ref.

    Attributes:
        policies: π_θ after each of S steps, (S + 1, M) or (S + 1, N, M).
        reward: E[r] of each, (S + 1,).
        kl: KL(π_θ‖π_ref) of each in nats, (S + 1,).
    """

    policies: Tensor
    reward: Tensor
    kl: Tensor


def _path(policies: Tensor, pi_ref: Tensor, r: Tensor) -> Path:
    return Path(policies, *place(policies, pi_ref, r))


def _train(
    pi_ref: Tensor, r: Tensor, begin: Callable[[Tensor], LossOf], steps: int, updates: int, learning_rate: float
) -> Path:
    """Minimise losses by Adam: `begin` is given ln π_θ at each step, and returns the loss of the step's updates."""
    for name, count in (("steps", steps), ("updates", updates)):
        check_whole(name, count, at_least=1)
    require(is_finite(learning_rate) and learning_rate > 0, "learning_rate", learning_rate, "a number above 0")
    if (pi_ref == 0).any():
        raise ValueError("pi_ref holds a 0: ln 0 is no θ to start from; leave impossible responses out.")
    theta = pi_ref.log().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=learning_rate)
    policies = [pi_ref]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        loss_of = begin(theta.detach().log_softmax(-1))
        for _ in range(updates):
            optimizer.zero_grad()
            loss_of(theta.log_softmax(-1)).backward()
            optimizer.step()
        policies.append(theta.detach().softmax(-1))
    return _path(torch.stack(policies), pi_ref, r)


def ppo(
    pi_ref: Tensor,
    r: Tensor,
    beta: float,
    generator: torch.Generator,
    *,
    steps: int = 200,
    batch: int = 256,
    updates: int = 2,
    cliprange: float = 0.2,
    learning_rate: float = 0.1,
) -> Path:
    """Proximal policy optimisation of J, from responses drawn at every step.

    A response is rewarded with r − β ln(π_θ/π_ref), its advantage is that minus the mean of the others in its batch,
    and the clipped surrogate is lowered a few times. At π_r every response has the same rewards so penalised, β ln Z:
    all advantages are 0, whatever was drawn. So the noise dies away where PPO is to end, and it ends at π_r. To divide
    the advantages by their spread would keep the noise alive; it is not done.

    Args:
        pi_ref: π_ref, (M,) or (N, M), above 0.
        r: rewards, of the same shape.
        beta: β, above 0, in reward per nat.
        generator: of the draws.
        steps: batches drawn, one after the other.
        batch: responses drawn for each query at a step, 2 or more.
        updates: of θ with each batch; 1 makes it REINFORCE with a baseline, since the ratio is 1.
        cliprange: ε.
        learning_rate: of Adam at the start.

    Returns:
        The way from π_ref to what should be π_r.

    Raises:
        ValueError: an argument outside its range, or shapes that do not fit.

    Examples:
        >>> r = torch.tensor([1.0, 3.0]).log()
        >>> way = ppo([0.5, 0.5], r, beta=1.0, generator=torch.Generator().manual_seed(0))
        >>> way.policies[-1].round(decimals=2).tolist()  # π_r, from draws
        [0.25, 0.75]

    Source: Schulman et al. 2017, equation 7; Ziegler et al. 2019, equation 2, for the reward.
    """
    check_beta(beta)
    pi_ref, r = _problem(pi_ref, r)
    check_whole("batch", batch, at_least=2)

    def begin(log_old: Tensor) -> LossOf:
        drawn = toy.draw(log_old.exp(), batch, generator)
        old, ref, scores = (torch.take_along_dim(x, drawn, -1) for x in (log_old, pi_ref.log(), r))
        penalty = kl_penalty(old, ref).reshape(-1, 1)  # a response is one token here
        rewards = token_rewards(scores.flatten(), penalty, beta, torch.ones_like(penalty)).view_as(scores)
        advantages = toy.leave_one_out(rewards)
        return lambda log_pi: policy_losses(
            torch.take_along_dim(log_pi, drawn, -1), old, advantages, cliprange
        ).tokens.mean()

    return _train(pi_ref, r, begin, steps, updates, learning_rate)


def preferences(r: Tensor, labels: str = "bradley-terry") -> Tensor:
    """Return P(Y is preferred to Y') for all pairs of responses.

    Args:
        r: rewards, (..., M).
        labels: "bradley-terry", σ(r(Y) − r(Y')); or "better", where the higher reward always wins, and equal ones half
            the time.

    Returns:
        (..., M, M), row Y, column Y'.

    Raises:
        ValueError: other labels.

    Examples:
        >>> preferences([0.0, 1.0], labels="better").tolist()
        [[0.5, 0.0], [1.0, 0.5]]
    """
    require(labels in LABELS, "labels", labels, f"one of {', '.join(LABELS)}")
    r = torch.as_tensor(r, dtype=torch.float64)
    lead = r[..., :, None] - r[..., None, :]
    return lead.sigmoid() if labels == "bradley-terry" else (1 + lead.sign()) / 2


def pair_weights(
    pi_ref: Tensor,
    r: Tensor,
    labels: str = "bradley-terry",
    pairs: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return how often each response is chosen over each other one, if π_ref writes both of a pair.

    Args:
        pi_ref: π_ref, (M,) or (N, M).
        r: rewards, of the same shape.
        labels: as in `preferences`.
        pairs: pairs drawn for each query; None gives what infinitely many would.
        generator: of the draws, if there are any.

    Returns:
        (M, M) or (N, M, M), chosen by row, rejected by column; the entries of a query sum to 1. A response drawn twice
        stands on the diagonal: such a pair teaches nothing.

    Raises:
        ValueError: an argument outside its range, or shapes that do not fit.

    Examples:
        >>> pair_weights([0.5, 0.5], [0.0, 1.0], labels="better").tolist()
        [[0.25, 0.0], [0.5, 0.25]]
    """
    pi_ref, r = _problem(pi_ref, r)
    exact = 2 * pi_ref[..., :, None] * pi_ref[..., None, :] * preferences(r, labels)
    if pairs is None:
        return exact
    check_whole("pairs", pairs, at_least=1)
    drawn = toy.draw(exact.flatten(-2), pairs, generator)
    ones = torch.full(drawn.shape, 1 / pairs, dtype=torch.float64)
    return torch.zeros_like(exact.flatten(-2)).scatter_add(-1, drawn, ones).view_as(exact)


def dpo(
    pi_ref: Tensor,
    r: Tensor,
    beta: float,
    *,
    pairs: int | None = None,
    generator: torch.Generator | None = None,
    labels: str = "bradley-terry",
    steps: int = 400,
    learning_rate: float = 0.2,
) -> Path:
    """Direct preference optimisation on pairs that π_ref wrote, labelled by the reward.

    With "bradley-terry" labels and all pairs there are, the loss is smallest where β ln(π_θ/π_ref) differs between two
    responses as r does: at π_r. Pairs that were drawn give it with an error. With "better" labels no finite difference
    is enough: the margins grow without end, towards the best response alone, and β only says how fast.

    Args:
        pi_ref: π_ref, (M,) or (N, M), above 0.
        r: rewards, of the same shape.
        beta: β, above 0, in reward per nat.
        pairs: pairs drawn for each query before training; None trains on the exact share of each pair.
        generator: of the draws, if there are any.
        labels: "bradley-terry" or "better".
        steps: updates of θ, each with all pairs.
        learning_rate: of Adam at the start.

    Returns:
        The way from π_ref.

    Raises:
        ValueError: an argument outside its range, or shapes that do not fit.

    Examples:
        >>> way = dpo([0.5, 0.5], torch.tensor([1.0, 3.0]).log(), beta=1.0)
        >>> way.policies[-1].round(decimals=3).tolist()  # π_r, without any reward
        [0.25, 0.75]

    Source: Rafailov et al. 2023, equation 7; Azar et al. 2023, section 4.2, on labels that never err.
    """
    check_beta(beta)
    pi_ref, r = _problem(pi_ref, r)
    weights = pair_weights(pi_ref, r, labels, pairs, generator)
    ref = _both(pi_ref.log())

    def loss_of(log_pi: Tensor) -> Tensor:
        losses = dpo_loss(*_both(log_pi), *ref, beta)
        return (weights * losses).sum((-1, -2)).mean()

    return _train(pi_ref, r, lambda _: loss_of, steps, 1, learning_rate)


def _both(log_pi: Tensor) -> tuple[Tensor, Tensor]:
    """ln π of the chosen and the rejected response of all pairs, each (..., M, M)."""
    shape = (*log_pi.shape, log_pi.shape[-1])
    return log_pi[..., :, None].expand(shape), log_pi[..., None, :].expand(shape)


def grpo(
    pi_ref: Tensor,
    r: Tensor,
    beta: float,
    generator: torch.Generator,
    *,
    steps: int = 300,
    groups: int = 32,
    group_size: int = 8,
    scale: bool = True,
    weighted: bool = True,
    cliprange: float = 0.2,
    learning_rate: float = 0.05,
) -> Path:
    """Group relative policy optimisation: advantages within groups of responses, and the KL as a term of the loss.

    The advantage is (r − mean)/std over a group of G. Where that leads, exactly so for large groups, nearly for small:

    - *without* the division, to J with its β: the group's mean holds the response's own reward, which shrinks the
      gradient by (G−1)/G and so trains with β·G/(G−1);
    - *with* it, each query X has a β of its own, β σ(X), σ being the standard deviation of r under the policy where it
      ends: see `grpo_betas`. One query still ends on the frontier, elsewhere on it. Several queries do not, unless
      their σ are equal;
    - the KL's estimate k3 = ρ − 1 − ln ρ, with ρ = π_ref/π_θ, has KL(π_θ‖π_ref) as its mean, but its gradient is, on
      average, that of KL(π_ref‖π_θ). Only if it is weighted by π_θ/π_old does it become that of KL(π_θ‖π_ref).
      Unweighted, the end is the `forward_optimal_policy`, which is not on the frontier.

    Args:
        pi_ref: π_ref, (M,) or (N, M), above 0.
        r: rewards, of the same shape.
        beta: β, above 0, in reward per nat, or per standard deviation and nat with `scale`.
        generator: of the draws.
        steps: batches drawn, one update with each.
        groups: groups drawn for each query at a step.
        group_size: G, 2 or more.
        scale: whether to divide by the group's standard deviation.
        weighted: whether to weigh k3 by the importance ratio, as TRL does today, or not, as published.
        cliprange: ε.
        learning_rate: of Adam at the start.

    Returns:
        The way from π_ref.

    Raises:
        ValueError: an argument outside its range, or shapes that do not fit.

    Source: Shao et al. 2024, "DeepSeekMath", equations 3 and 4; Liu et al. 2025, "Understanding R1-Zero-Like Training",
    section 3, on the division; Tang and Munos 2025, "On a few pitfalls in KL divergence gradient estimation for RL", on
    the gradient of k3.
    """
    check_beta(beta)
    pi_ref, r = _problem(pi_ref, r)
    check_whole("groups", groups, at_least=1)
    check_whole("group_size", group_size, at_least=2)

    def begin(log_old: Tensor) -> LossOf:
        drawn = toy.draw(log_old.exp(), groups * group_size, generator)
        old, ref, scores = (torch.take_along_dim(x, drawn, -1) for x in (log_old, pi_ref.log(), r))
        advantages = group_advantages(scores.unflatten(-1, (groups, group_size)), scale).flatten(-2)

        def loss_of(log_pi: Tensor) -> Tensor:
            new = torch.take_along_dim(log_pi, drawn, -1)
            k3 = torch.expm1(ref - new) - (ref - new)
            weight = (new - old).exp() if weighted else 1.0
            return (policy_losses(new, old, advantages, cliprange).tokens + beta * weight * k3).mean()

        return loss_of

    return _train(pi_ref, r, begin, steps, 1, learning_rate)


def group_advantages(rewards: Tensor, scale: bool = True) -> Tensor:
    """Return r minus its group's mean, over the group's standard deviation if `scale`; equal rewards give 0.

    Args:
        rewards: (..., G), one group a row, 2 or more in each.
        scale: whether to divide.

    Returns:
        (..., G), without unit if scaled, else in units of reward.

    Raises:
        ValueError: a group of one.

    Examples:
        >>> group_advantages([0.0, 4.0], scale=False).tolist()
        [-2.0, 2.0]
        >>> group_advantages([[0.0, 4.0], [0.0, 400.0]]).round(decimals=3).tolist()  # the unit is gone
        [[-0.707, 0.707], [-0.707, 0.707]]

    Source: Shao et al. 2024, "DeepSeekMath", section 4.1.2, with the unbiased variance; Liu et al. 2025 without the
    division.
    """
    rewards = torch.as_tensor(rewards, dtype=torch.float64)
    require(rewards.ndim > 0 and rewards.shape[-1] > 1, "rewards' shape", tuple(rewards.shape), "(..., 2 or more)")
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / (rewards.std(-1, keepdim=True) + TINY) if scale else centred


def preferred_ft(
    pi_ref: Tensor,
    r: Tensor,
    *,
    labels: str = "bradley-terry",
    steps: int = 200,
    learning_rate: float = 0.1,
) -> Path:
    """Preferred fine-tuning: maximum likelihood on the chosen responses alone, all pairs there are counted in.

    It ends at `preferred_policy`, where the chosen responses come from. There is no β to choose: one point, and a way.

    Args:
        pi_ref: π_ref, (M,) or (N, M), above 0.
        r: rewards, of the same shape.
        labels: "bradley-terry" or "better".
        steps: updates of θ.
        learning_rate: of Adam at the start.

    Returns:
        The way from π_ref.

    Raises:
        ValueError: an argument outside its range, or shapes that do not fit.

    Examples:
        >>> preferred_ft([0.5, 0.5], [0.0, 1.0], labels="better").policies[-1].round(decimals=3).tolist()
        [0.25, 0.75]

    Source: Rafailov et al. 2023, section 6, the baseline "Preferred-FT".
    """
    chosen = preferred_policy(pi_ref, r, labels)
    pi_ref, r = _problem(pi_ref, r)

    def loss_of(log_pi: Tensor) -> Tensor:
        return -(chosen * log_pi).sum(-1).mean()

    return _train(pi_ref, r, lambda _: loss_of, steps, 1, learning_rate)


def best_of_n(pi_ref: Tensor, r: Tensor, ns: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)) -> Path:
    """Return the exact policies of best-of-n, one "step" for each n.

    Args:
        pi_ref: π_ref, (M,) or (N, M).
        r: rewards, of the same shape.
        ns: the n, each 1 or more.

    Returns:
        The policies in the order of `ns`.

    Raises:
        ValueError: shapes that do not fit, no n, or one below 1.

    Examples:
        >>> best_of_n([0.5, 0.5], [0.0, 1.0], ns=[1, 2]).policies.round(decimals=6).tolist()
        [[0.5, 0.5], [0.25, 0.75]]
    """
    pi_ref, r = _problem(pi_ref, r)
    require(len(ns) > 0, "ns", ns, "a list of one n or more")
    return _path(torch.stack([distribution(pi_ref, r, n) for n in ns]), pi_ref, r)


# ----------------------------------------------------------------------------------------------- ends, in closed form


def preferred_policy(pi_ref: Tensor, r: Tensor, labels: str = "bradley-terry") -> Tensor:
    """Return the policy that the chosen responses follow: π_ref(Y) · 2 P(Y is preferred to one of π_ref).

    No response becomes more than twice as likely, so its KL is below ln 2. With "better" labels it is best-of-2.

    Args:
        pi_ref: π_ref, (M,) or (N, M).
        r: rewards, of the same shape.
        labels: as in `preferences`.

    Returns:
        (M,) or (N, M).

    Raises:
        ValueError: other labels, or shapes that do not fit.

    Examples:
        >>> preferred_policy([0.5, 0.5], [0.0, 1.0], labels="better").tolist()
        [0.25, 0.75]
    """
    return pair_weights(pi_ref, r, labels).sum(-1)


def forward_optimal_policy(pi_ref: Tensor, r: Tensor, beta: float | Tensor) -> Tensor:
    """Return the policy of largest E[r] − β KL(π_ref‖π), the KL the other way round.

    π(Y) = β π_ref(Y) / (λ − r(Y)), with the λ above all rewards that makes it sum to 1, found by halving an interval.
    It falls off like 1/r and not like an exponential: nothing that π_ref writes is ever given up.

    Args:
        pi_ref: π_ref, (M,) or (N, M), above 0.
        r: rewards, of the same shape.
        beta: β, above 0, in reward per nat; or one for each query, (N,).

    Returns:
        (M,) or (N, M).

    Raises:
        ValueError: shapes that do not fit, or a β not above 0.

    Examples:
        >>> forward_optimal_policy([0.5, 0.5], [0.0, 1.0], beta=0.75).round(decimals=6).tolist()  # λ = 1.5
        [0.25, 0.75]

    Source: ours, by a Lagrange multiplier for Σ π = 1: r + β π_ref/π = λ.
    """
    pi_ref, r = _problem(pi_ref, r)
    b = torch.as_tensor(beta, dtype=torch.float64)[..., None]
    if not (torch.isfinite(b) & (b > 0)).all():
        raise ValueError(f"beta is {beta}; it must be finite and above 0, in reward per nat.")
    behind = r.amax(-1, keepdim=True) - r  # 0 for the best
    low, high = torch.zeros_like(behind[..., :1]) * b, torch.ones_like(behind[..., :1]) * b  # of λ − max r
    for _ in range(200):
        middle = (low + high) / 2
        too_much = (b * pi_ref / (middle + behind)).sum(-1, keepdim=True) > 1
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    pi = b * pi_ref / (high + behind)
    return pi / pi.sum(-1, keepdim=True)


def grpo_betas(pi_ref: Tensor, r: Tensor, beta: float, *, weighted: bool = True) -> Tensor:
    """Return the β that GRPO, dividing by the standard deviation, really trains each query with, in large groups.

    At rest the gradient of E[r]/σ is that of β KL, so that the policy is the optimal one of b = β σ, and σ is that of
    this policy: b = β σ(π_b). Coming from π_ref, training meets the largest such b first. If there is none, nothing
    holds the policy, and it runs to the best response alone: as it narrows, σ falls faster than the KL grows.

    Args:
        pi_ref: π_ref, (M,) or (N, M), above 0.
        r: rewards, of the same shape.
        beta: β, above 0, per standard deviation and nat.
        weighted: whether the KL is KL(π‖π_ref), as `grpo` has it with a weighted k3, or KL(π_ref‖π).

    Returns:
        b of each query in reward per nat, () or (N,); 0 where there is none.

    Raises:
        ValueError: shapes that do not fit, or a β not above 0.

    Examples:
        >>> grpo_betas([0.5, 0.5], [1.0, 1.0], beta=0.1).item()  # equal rewards: no σ, no β
        0.0

    Source: ours, from Shao et al. 2024, equation 3, with a group's statistics in the limit of large groups.
    """
    check_beta(beta)
    pi_ref, r = _problem(pi_ref, r)
    rows = [_largest_beta(*row, beta, weighted) for row in zip(*torch.atleast_2d(pi_ref, r), strict=True)]
    return torch.tensor(rows, dtype=torch.float64).reshape(pi_ref.shape[:-1])


def _largest_beta(pi_ref: Tensor, r: Tensor, beta: float, weighted: bool) -> float:
    def left(b: Tensor) -> Tensor:
        """b − β σ(π_b) for every b of (K,): not below 0 at the largest b there can be."""
        each = (len(b), len(r))
        pi = _tilted(pi_ref, r, 1 / b) if weighted else forward_optimal_policy(pi_ref.expand(each), r.expand(each), b)
        mean = (pi * r).sum(-1, keepdim=True)
        return b - beta * (pi * (r - mean) ** 2).sum(-1).sqrt()

    top = float(beta * (r.max() - r.min()) / 2)  # no σ is above half the range
    if top == 0:
        return 0.0
    grid = top * torch.logspace(0, -8, 4001, dtype=torch.float64)
    below = torch.nonzero(left(grid) < 0)
    if len(below) == 0:
        return 0.0
    first = int(below[0])
    high, low = grid[max(first - 1, 0)], grid[first]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle[None]) < 0 else (low, middle)
    return float(high)
