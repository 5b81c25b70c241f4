"""The arithmetic of PPO for language models: pure functions on tensors, in the order in which a step uses them.

Everywhere B is the number of responses, R the length of the longest, V the vocabulary; ``mask`` (B, R) is 1 where a
response has a token. ω_t is the t-th token of the response Y to the query X. Log-probabilities and KL are in nats.

Sources: Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (PPO); Schulman et al. 2016, "High-Dimensional
Continuous Control Using Generalized Advantage Estimation" (GAE); Ziegler et al. 2019, "Fine-Tuning Language Models from
Human Preferences" (RLHF); Schulman 2020, "Approximating KL Divergence" (k1, k2, k3).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 64  # distributions worked on at a time: they stay in a CPU's cache


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` where `mask` is 1: Σ x·m / Σ m.

    Args:
        x: (B, R).
        mask: (B, R), zeros and ones; at least one 1.

    Returns:
        A single number, ().

    Examples:
        >>> masked_mean(torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[1, 1, 0]])).item()
        2.0
    """
    return (x * mask).sum() / mask.sum()


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Unbiased variance of `x` where `mask` is 1; NaN for a single token, which has none.

    Args:
        x: (B, R).
        mask: (B, R), zeros and ones.

    Returns:
        A single number, ().

    Examples:
        >>> masked_var(torch.tensor([[1.0, 3.0, 99.0]]), torch.tensor([[1, 1, 0]])).item()
        2.0
    """
    n = mask.sum()
    biased = masked_mean((x - masked_mean(x, mask)) ** 2, mask)
    return biased * n / (n - 1)


def masked_whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale `x` to variance 1 over the tokens of `mask`, and to mean 0 unless `shift_mean` is False.

    Args:
        x: (B, R).
        mask: (B, R), zeros and ones.
        shift_mean: False keeps the mean: rewards are scaled, but not moved.

    Returns:
        (B, R); what stands outside the mask is moved along, and means nothing.

    Examples:
        >>> x = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
        >>> masked_whiten(x, torch.ones(1, 2)).round(decimals=6).tolist()
        [[-0.707107, 0.707107]]
        >>> masked_whiten(x, torch.ones(1, 2), shift_mean=False).round(decimals=6).tolist()
        [[1.292893, 2.707107]]
    """
    mean = masked_mean(x, mask)
    whitened = (x - mean) * torch.rsqrt(masked_var(x, mask) + 1e-8)
    return whitened if shift_mean else whitened + mean


class _LogProbs(torch.autograd.Function):
    """ln softmax(z) at one token of each row, whose gradient in the logits z is 1 at that token, minus the softmax.

    torch's own would keep the log-softmax of every token and fill another tensor of that size with zeros; with a
    vocabulary of thousands those are the largest of a step. Only z is kept here, and worked on a few rows at a time.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
        """(N, V), (N,) → (N,)."""
        normaliser = torch.cat([rows.logsumexp(-1) for rows in logits.split(ROWS)])  # ln Σ exp z
        ctx.save_for_backward(logits, tokens, normaliser)
        return logits.gather(1, tokens[:, None]).squeeze(1) - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        """(N,) → (N, V)."""
        logits, tokens, normaliser = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        columns = (x.split(ROWS) for x in (gradient, logits, normaliser[:, None], -upstream[:, None]))
        for out, z, ln_z, minus in zip(*columns, strict=True):
            torch.sub(z, ln_z, out=out).exp_().mul_(minus)
        return gradient.scatter_add_(1, tokens[:, None], upstream[:, None].to(gradient.dtype)), None


def log_probs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """ln π(ω_t | ω_<t, X) of the given tokens, (B, R), from logits (B, R, V).

    Examples:
        >>> logits = torch.zeros(1, 1, 4)  # four tokens, equally likely
        >>> log_probs_of(logits, torch.tensor([[2]])).exp().item()
        0.25
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return _LogProbs.apply(logits.flatten(0, -2), tokens.flatten()).view(tokens.shape)


@torch.no_grad()
def entropy(logits: Tensor) -> Tensor:
    """H(π) = −Σ_v π_v ln π_v of each distribution, (B, R) in nats, from logits (B, R, V).

    A statistic, not part of the loss: no graph is kept, and a few distributions at a time are worked on, or it would
    take another two tensors of the logits' size.

    Args:
        logits: (B, R, V).

    Returns:
        (B, R), from 0 to ln V.

    Examples:
        >>> round(entropy(torch.zeros(1, 1, 8)).exp().item(), 4)  # eight tokens to choose from
        8.0
    """

    def of_some(logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        return -(log_p.exp().mul_(log_p)).sum(-1)

    parts = [of_some(part) for part in logits.flatten(0, -2).split(ROWS)]
    return torch.cat(parts).view(logits.shape[:-1])


def kl_penalty(log_probs: Tensor, ref_log_probs: Tensor, kind: str = "kl") -> Tensor:
    """How far each token is from the reference, (B, R).

    ====== ================================== =========================================================
    kind   value                              of what it is an estimate
    ====== ================================== =========================================================
    kl     ln π/π_ref (Schulman's k1)         KL(π‖π_ref), unbiased; single tokens may be below 0
    abs    \\|ln π/π_ref\\|                     no KL, but never below 0
    mse    ½ (ln π/π_ref)² (k2)               KL(π‖π_ref), biased, never below 0
    full   Σ_v π_v ln π_v/π_ref,v             KL(π‖π_ref) of the token's distribution, exactly
    ====== ================================== =========================================================

    Args:
        log_probs: ln π(ω_t | ω_<t, X), (B, R); for ``full`` of all tokens, (B, R, V).
        ref_log_probs: the same under π_ref.
        kind: one of the four.

    Returns:
        (B, R), in nats.

    Raises:
        ValueError: another kind.

    Examples:
        >>> rarer = torch.tensor([-2.0]), torch.tensor([-1.0])  # π writes this token less often than π_ref
        >>> [kl_penalty(*rarer, kind).item() for kind in ("kl", "abs", "mse")]
        [-1.0, 1.0, 0.5]
    """
    difference = log_probs - ref_log_probs
    if kind == "kl":
        return difference
    if kind == "abs":
        return difference.abs()
    if kind == "mse":
        return 0.5 * difference**2
    if kind == "full":
        return (log_probs.exp() * difference).sum(-1)
    raise ValueError(f"kl_penalty {kind!r} is not known: choose kl, abs, mse or full.")


def token_rewards(scores: Tensor, kl: Tensor, kl_coef: float, mask: Tensor) -> Tensor:
    """Spread r(X, Y) − β KL over the tokens (RLHF, equation 2): r_t = −β kl_t, and r(X, Y) on top at the last.

    Args:
        scores: r(X, Y), (B,).
        kl: penalty of each token, (B, R).
        kl_coef: β.
        mask: (B, R); each row needs a 1.

    Returns:
        (B, R); positions outside the mask hold 0.

    Examples:
        >>> kl = torch.tensor([[0.5, 0.5]])
        >>> token_rewards(torch.tensor([1.0]), kl, kl_coef=0.5, mask=torch.ones(1, 2)).tolist()
        [[-0.25, 0.75]]
    """
    rewards = -kl_coef * kl * mask
    columns = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask.bool(), columns, -1).max(dim=1).values
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards.dtype))


def whiten_rewards(rewards: Tensor, values: Tensor, mask: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Rewards of variance 1 and their old mean, over all columns of a row.

    As in TRL 0.11.4, what was 0 outside the mask is shifted too, and stays: padding after a response then carries a
    small constant reward, which generalised advantage estimation takes back into the response.

    Args:
        rewards: (B, R), 0 outside the mask.
        values: (B, R), 0 outside the mask.
        mask: (B, R).
        columns: (B,) how many columns a row has from its response's first token on, padding included.

    Returns:
        Rewards and values, (B, largest of `columns`).

    Examples:
        >>> rewards, values = torch.tensor([[1.0, 3.0]], dtype=torch.float64), torch.zeros(1, 2)
        >>> whitened, _ = whiten_rewards(rewards, values, torch.ones(1, 2), columns=torch.tensor([2]))
        >>> round(whitened.mean().item(), 6), round(whitened.var().item(), 6)  # the mean stays
        (2.0, 1.0)
    """
    wide = max(int(columns.max()), mask.shape[1])
    rewards, values, mask = (torch.nn.functional.pad(x, (0, wide - x.shape[1])) for x in (rewards, values, mask))
    row = torch.arange(wide, device=mask.device) < columns[:, None]
    return masked_whiten(rewards, mask, shift_mean=False) * row, values


def advantages_and_returns(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (GAE, equation 16), from the last token to the first.

    δ_t = r_t + γ V_{t+1} − V_t, A_t = δ_t + γλ A_{t+1}, and the return the value head is to predict is A_t + V_t. After
    the last token V and A are 0.

    Args:
        rewards: r_t, (B, R), 0 outside the response.
        values: V_t, (B, R), 0 outside the response.
        gamma: γ.
        lam: λ.

    Returns:
        Advantages and returns, each (B, R).

    Examples:
        >>> rewards = torch.tensor([[0.0, 0.0, 1.0]])  # one at the end, and a value head that expects nothing
        >>> advantages_and_returns(rewards, torch.zeros(1, 3), gamma=1.0, lam=1.0)[0].tolist()
        [[1.0, 1.0, 1.0]]
        >>> advantages_and_returns(rewards, torch.zeros(1, 3), gamma=1.0, lam=0.5)[0].tolist()
        [[0.25, 0.5, 1.0]]
    """
    advantage = next_value = torch.zeros_like(values[:, 0])
    advantages = torch.empty_like(values)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * advantage
        advantages[:, t] = advantage
        next_value = values[:, t]
    return advantages, advantages + values


class Clipped(NamedTuple):
    """A clipped objective, token by token.

    Attributes:
        tokens: what is averaged over the mask to give the loss, (B, R).
        clipped: 1 where the clipped term was the larger one, (B, R).
    """

    tokens: Tensor
    clipped: Tensor


def policy_losses(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, cliprange: float) -> Clipped:
    """The clipped surrogate (PPO, equation 7), as a loss: max(−A ρ, −A clip(ρ, 1−ε, 1+ε)).

    ρ = π_θ(ω_t | ·) / π_old(ω_t | ·) is the importance ratio. Moving ρ further than ε in the direction the advantage
    asks for gains nothing: the gradient there is 0.

    Args:
        log_probs: ln π_θ, (B, R).
        old_log_probs: ln π_old, of the policy that wrote the responses, (B, R).
        advantages: A, (B, R).
        cliprange: ε.

    Returns:
        The losses of the tokens, and where the clip held.

    Examples:
        >>> twice = torch.tensor([2.0]).log()  # ρ = 2, and the advantage asks for more
        >>> losses = policy_losses(twice, torch.zeros(1), advantages=torch.ones(1), cliprange=0.25)
        >>> losses.tokens.item(), losses.clipped.item()
        (-1.25, 1.0)
    """
    ratio = torch.exp(log_probs - old_log_probs)
    plain = -advantages * ratio
    held = -advantages * ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
    return Clipped(torch.max(plain, held), (held > plain).to(plain.dtype))


def value_losses(values: Tensor, old_values: Tensor, returns: Tensor, cliprange_value: float) -> Clipped:
    """½ max((V − R)², (V_clip − R)²), V_clip no further than `cliprange_value` from the old V.

    Args:
        values: V of the value head now, (B, R).
        old_values: V when the batch came in, (B, R).
        returns: R, what V is to predict, (B, R).
        cliprange_value: in units of reward.

    Returns:
        The losses of the tokens, and where the clip held.

    Examples:
        >>> moved, start, target = torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([2.0])
        >>> losses = value_losses(moved, start, target, cliprange_value=0.5)  # ½ (0.5 − 2)²
        >>> losses.tokens.item(), losses.clipped.item()
        (1.125, 1.0)
    """
    near = torch.clamp(values, old_values - cliprange_value, old_values + cliprange_value)
    plain, held = (values - returns) ** 2, (near - returns) ** 2
    return Clipped(0.5 * torch.max(plain, held), (held > plain).to(plain.dtype))
