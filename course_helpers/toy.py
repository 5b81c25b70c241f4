"""Finite policies: so few responses that every expectation is a sum, and every estimate can be held against the truth.

A policy over M responses is a softmax of M numbers θ. A policy over sequences of T tokens out of V has one such softmax
for each prefix; listing its V^T sequences makes it a policy over M = V^T responses, and everything below holds for it.

    θ → `policy` → `expectation`, `kl`, `objective`, `policy_gradient`          exact, by enumeration
    π_ref, r, β → `partition` → `optimal_policy` → `implied_reward`            exact, in closed form
    π → `draw` → rewards minus a baseline → `estimates`                        what sampling makes of it

Conventions of every function here:

- numbers are torch tensors of float64 (whatever else is passed is converted), and gradients flow through;
- the last axis runs over responses; axes before it, where allowed, over queries X;
- what is random takes a `torch.Generator`, so nothing depends on, or changes, a global state;
- a wrong argument gives a ValueError that says what was wrong and what is expected.

Symbols: Y response, r reward, β price of a nat of KL, π_ref reference, π_r optimal policy (π* in papers), Z partition
function, ω_t token at step t. Log-probabilities and KL are in nats.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from course_helpers.checks import check_beta, check_whole, require

# ------------------------------------------------------------------------------------------------------------ checks


def _real(name: str, values: Tensor | list | tuple | float) -> Tensor:
    """The values as float64, all of them finite."""
    tensor = torch.as_tensor(values, dtype=torch.float64)
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} holds a value that is NaN or infinite; every number must be finite: {tensor}.")
    return tensor


def _logits(name: str, values: Tensor | list | tuple) -> Tensor:
    theta = _real(name, values)
    if theta.ndim == 0 or theta.shape[-1] == 0:
        raise ValueError(f"{name} has shape {tuple(theta.shape)}; expected (..., M), one number for each response.")
    return theta


def _probabilities(name: str, values: Tensor | list | tuple) -> Tensor:
    pi = _logits(name, values)
    total = pi.detach().sum(-1)
    if (pi < 0).any() or ((total - 1).abs() > 1e-6).any():
        raise ValueError(
            f"{name} is no distribution: smallest value {pi.min():.3g}, sums {total.tolist()}. "
            "Each row must be 0 or more throughout and sum to 1: pass policy(theta), not theta."
        )
    return pi


def _same_responses(**named: Tensor) -> None:
    """Require one last axis for all."""
    if len({tensor.shape[-1] for tensor in named.values()}) > 1:
        found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in named.items())
        raise ValueError(f"shapes do not fit: {found}; the last axis is the response, and must be as long in each.")


# --------------------------------------------------------------------------------------------- a policy, and its truth


def policy(theta: Tensor) -> Tensor:
    """Turn θ into probabilities: π(Y) = exp θ_Y / Σ_Y' exp θ_Y'.

    Args:
        theta: (..., M), one number for each response.

    Returns:
        π, (..., M); each row sums to 1.

    Raises:
        ValueError: a value that is not finite, or no axis of responses.

    Examples:
        >>> policy([0.0, 0.0]).tolist()
        [0.5, 0.5]
        >>> policy([7.0, 7.0]).tolist()  # a constant changes nothing
        [0.5, 0.5]
    """
    return _logits("theta", theta).softmax(-1)


def expectation(pi: Tensor, values: Tensor) -> Tensor:
    """Average over all responses, not over drawn ones: E_π[f] = Σ_Y π(Y) f(Y).

    Args:
        pi: π, (..., M).
        values: f(Y), (..., M), in any unit.

    Returns:
        (...), in the unit of the values.

    Raises:
        ValueError: `pi` is no distribution, or the shapes do not fit.

    Examples:
        >>> expectation([0.25, 0.75], [0.0, 4.0]).item()
        3.0
    """
    pi, values = _probabilities("pi", pi), _real("values", values)
    _same_responses(pi=pi, values=values)
    return (pi * values).sum(-1)


def kl(pi: Tensor, pi_ref: Tensor) -> Tensor:
    """KL(π‖π_ref) = Σ_Y π(Y) ln(π(Y) / π_ref(Y)), with 0 ln 0 = 0.

    Args:
        pi: π, (..., M).
        pi_ref: π_ref, (..., M).

    Returns:
        (...) in nats: 0 where the two agree, +∞ where π writes what π_ref never does.

    Raises:
        ValueError: one of them is no distribution, or the shapes do not fit.

    Examples:
        >>> round(kl([1.0, 0.0], [0.5, 0.5]).item(), 6)  # ln 2: one of two was chosen
        0.693147
        >>> kl([0.5, 0.5], [1.0, 0.0]).item()  # the other way round it is another number
        inf

    Source: Kullback and Leibler 1951, "On Information and Sufficiency", section 2.
    """
    pi, pi_ref = _probabilities("pi", pi), _probabilities("pi_ref", pi_ref)
    _same_responses(pi=pi, pi_ref=pi_ref)
    return (torch.xlogy(pi, pi) - torch.xlogy(pi, pi_ref)).sum(-1)


def objective(pi: Tensor, pi_ref: Tensor, r: Tensor, beta: float) -> Tensor:
    """J = E_π[r] − β KL(π‖π_ref), what RLHF maximises.

    Args:
        pi: π, (..., M).
        pi_ref: π_ref, (..., M).
        r: rewards r(X, Y), (..., M).
        beta: β, above 0, in reward per nat.

    Returns:
        (...), in units of reward.

    Raises:
        ValueError: no distribution, β not above 0, or shapes that do not fit.

    Examples:
        >>> round(objective([1.0, 0.0], [0.5, 0.5], [1.0, 0.0], beta=1.0).item(), 6)  # 1 − ln 2
        0.306853

    Source: Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", equation 2.
    """
    check_beta(beta)
    return expectation(pi, r) - beta * kl(pi, pi_ref)


def policy_gradient(theta: Tensor, r: Tensor) -> Tensor:
    """∇_θ E_π[r] of a softmax policy: π(Y) (r(Y) − E_π[r]) in its component Y.

    With r − β ln(π/π_ref) in the place of r it is the gradient of J, since β ln π adds only the mean of ∇ ln π, which
    is 0.

    Args:
        theta: θ, (..., M).
        r: rewards, (..., M).

    Returns:
        (..., M), in units of reward.

    Raises:
        ValueError: a value that is not finite, or shapes that do not fit.

    Examples:
        >>> policy_gradient([0.0, 0.0], [1.0, 0.0]).tolist()
        [0.25, -0.25]
        >>> policy_gradient([0.0, 0.0], [1.0, 1.0]).tolist()  # equal rewards: nothing to learn
        [0.0, 0.0]

    Source: Williams 1992, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning",
    theorem 1, with the expectation written out.
    """
    pi, r = policy(theta), _real("r", r)
    return pi * (r - expectation(pi, r)[..., None])


# ------------------------------------------------------------------------------- the optimal policy, in closed form


def log_partition(pi_ref: Tensor, r: Tensor, beta: float) -> Tensor:
    """ln Z(X), computed so that a small β does not overflow. β ln Z is the largest J there is.

    Args:
        pi_ref: π_ref, (..., M).
        r: rewards, (..., M).
        beta: β, above 0, in reward per nat.

    Returns:
        (...), in nats.

    Raises:
        ValueError: no distribution, β not above 0, or shapes that do not fit.

    Examples:
        >>> log_partition([0.5, 0.5], [3.0, 3.0], beta=1.5).item()  # a constant reward r gives r/β
        2.0

    Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 4 and appendix A.1.
    """
    check_beta(beta)
    pi_ref, r = _probabilities("pi_ref", pi_ref), _real("r", r)
    _same_responses(pi_ref=pi_ref, r=r)
    return torch.logsumexp(pi_ref.log() + r / beta, -1)


def partition(pi_ref: Tensor, r: Tensor, beta: float) -> Tensor:
    """Z(X) = Σ_Y π_ref(Y|X) exp(r(X,Y)/β), the one number a query that makes π_r sum to 1.

    Args:
        pi_ref: π_ref, (..., M).
        r: rewards, (..., M).
        beta: β, above 0, in reward per nat.

    Returns:
        (...), without unit, above 0.

    Raises:
        ValueError: no distribution, β not above 0, or shapes that do not fit.

    Examples:
        >>> r = torch.tensor([1.0, 3.0], dtype=torch.float64).log()
        >>> round(partition([0.5, 0.5], r, beta=1.0).item(), 6)  # ½·1 + ½·3
        2.0

    Source: as `log_partition`.
    """
    return log_partition(pi_ref, r, beta).exp()


def optimal_policy(pi_ref: Tensor, r: Tensor, beta: float) -> Tensor:
    """π_r(Y|X) = π_ref(Y|X) exp(r(X,Y)/β) / Z(X), the policy of largest J.

    Args:
        pi_ref: π_ref, (..., M).
        r: rewards, (..., M).
        beta: β, above 0, in reward per nat.

    Returns:
        π_r, (..., M).

    Raises:
        ValueError: no distribution, β not above 0, or shapes that do not fit.

    Examples:
        >>> r = torch.tensor([1.0, 3.0], dtype=torch.float64).log()
        >>> optimal_policy([0.5, 0.5], r, beta=1.0).round(decimals=6).tolist()
        [0.25, 0.75]
        >>> optimal_policy([0.5, 0.5], r, beta=1e6).round(decimals=6).tolist()  # a high β stays at π_ref
        [0.5, 0.5]

    Source: as `log_partition`.
    """
    log_z = log_partition(pi_ref, r, beta)[..., None]
    return (_real("pi_ref", pi_ref).log() + _real("r", r) / beta - log_z).exp()


def implied_reward(pi: Tensor, pi_ref: Tensor, beta: float) -> Tensor:
    """β ln(π(Y|X) / π_ref(Y|X)): the reward for which π is optimal, up to a constant β ln Z(X) for each query.

    Args:
        pi: π, (..., M), above 0 throughout.
        pi_ref: π_ref, (..., M), above 0 throughout.
        beta: β, above 0, in reward per nat.

    Returns:
        (..., M), in units of reward; differences within a query are those of the reward itself.

    Raises:
        ValueError: no distribution, a probability of 0, β not above 0, or shapes that do not fit.

    Examples:
        >>> r = implied_reward([0.25, 0.75], [0.5, 0.5], beta=1.0)
        >>> round((r[1] - r[0]).exp().item(), 6)  # three times as likely: a difference of β ln 3
        3.0

    Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 5 without its last term.
    """
    check_beta(beta)
    pi, pi_ref = _probabilities("pi", pi), _probabilities("pi_ref", pi_ref)
    _same_responses(pi=pi, pi_ref=pi_ref)
    if (pi == 0).any() or (pi_ref == 0).any():
        raise ValueError("some response has probability 0, and ln 0 is no reward; both policies must be above 0.")
    return beta * (pi.log() - pi_ref.log())


def preference_probability(r_w: Tensor, r_l: Tensor) -> Tensor:
    """Bradley-Terry: P(Y_w is preferred to Y_l) = σ(r(X,Y_w) − r(X,Y_l)).

    For all pairs of M responses pass ``r[..., :, None]`` and ``r[..., None, :]``.

    Args:
        r_w: reward of the one, any shape.
        r_l: reward of the other, a shape that broadcasts with it.

    Returns:
        Probabilities; ½ where the rewards are equal, and unchanged if both grow by a constant.

    Raises:
        ValueError: a reward that is not finite.

    Examples:
        >>> preference_probability(2.0, 2.0).item()
        0.5
        >>> preference_probability([1.0, 6.0], [0.0, 5.0]).round(decimals=6).tolist()  # only differences count
        [0.731059, 0.731059]

    Source: Bradley and Terry 1952, "Rank Analysis of Incomplete Block Designs"; Rafailov et al. 2023, equation 1.
    """
    return torch.sigmoid(_real("r_w", r_w) - _real("r_l", r_l))


# -------------------------------------------------------------------------------------- estimates from drawn responses


def draw(pi: Tensor, shape: int | tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw responses from a policy, with replacement.

    Args:
        pi: π, (M,), or (N, M) for N queries.
        shape: how many, in any shape: 8, or (repeats, batch).
        generator: where the randomness comes from; seed it for draws that can be repeated.

    Returns:
        Numbers of responses, 0 to M − 1, of that shape, or ``(N, *shape)``.

    Raises:
        ValueError: `pi` is no distribution or has more axes, a count below 1, or no generator.

    Examples:
        >>> draw([0.0, 1.0], 3, torch.Generator().manual_seed(0)).tolist()
        [1, 1, 1]
    """
    pi = _probabilities("pi", pi).detach()
    require(pi.ndim <= 2, "the number of axes of pi", pi.ndim, "1 for (M,), or 2 for (N, M)")
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator is {generator!r}; pass torch.Generator().manual_seed(0), or another seed.")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    for count in shape:
        check_whole("a count of draws", count, at_least=1)
    total = torch.Size(shape).numel()
    drawn = torch.multinomial(pi, total, replacement=True, generator=generator)
    return drawn.reshape(*pi.shape[:-1], *shape)


def whiten(rewards: Tensor) -> Tensor:
    """Shift and scale each batch of rewards to mean 0 and variance 1; equal rewards become 0.

    Args:
        rewards: (..., batch), two or more in a batch.

    Returns:
        (..., batch), without unit.

    Raises:
        ValueError: a batch of one, which has no variance.

    Examples:
        >>> whiten([0.0, 2.0]).round(decimals=6).tolist()
        [-0.707107, 0.707107]
        >>> whiten([1000.0, 1002.0]).round(decimals=6).tolist()  # neither zero nor unit matters
        [-0.707107, 0.707107]

    Source: the normalised advantages of PPO implementations; here with the unbiased variance, batch by batch.
    """
    rewards = _real("rewards", rewards)
    require(rewards.ndim > 0 and rewards.shape[-1] > 1, "rewards' shape", tuple(rewards.shape), "(..., 2 or more)")
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / (rewards.std(-1, keepdim=True) + 1e-8)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Subtract from each reward the mean of the *others* in its batch: a baseline that its own draw cannot move.

    Args:
        rewards: (..., batch), two or more in a batch.

    Returns:
        (..., batch), in units of reward.

    Raises:
        ValueError: a batch of one, which has no others.

    Examples:
        >>> leave_one_out([1.0, 0.0, 0.0]).tolist()
        [1.0, -0.5, -0.5]

    Source: Kool, van Hoof and Welling 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!", equation 8.
    """
    rewards = _real("rewards", rewards)
    require(rewards.ndim > 0 and rewards.shape[-1] > 1, "rewards' shape", tuple(rewards.shape), "(..., 2 or more)")
    n = rewards.shape[-1]
    return (rewards - rewards.mean(-1, keepdim=True)) * (n / (n - 1))


def _check_numbers(name: str, numbers: Tensor, size: int) -> None:
    if numbers.is_floating_point() or numbers.ndim == 0 or numbers.numel() == 0:
        found = f"{numbers.dtype} of shape {tuple(numbers.shape)}"
        raise ValueError(f"{name} are {found}; pass whole numbers, one or more, along at least one axis.")
    if numbers.min() < 0 or numbers.max() >= size:
        found = f"from {numbers.min()} to {numbers.max()}"
        raise ValueError(f"{name} hold numbers {found}; they must lie between 0 and {size - 1}.")


def _check_one_each(advantages: Tensor, drawn: Tensor) -> None:
    if advantages.shape != drawn.shape:
        shapes = f"{tuple(advantages.shape)}, what was drawn {tuple(drawn.shape)}"
        raise ValueError(f"advantages have shape {shapes}; pass one for each, such as r[drawn] − b.")


def estimates(theta: Tensor, drawn: Tensor, advantages: Tensor) -> Tensor:
    """Score-function estimates of ∇_θ E_π[r], one a batch, all at once: the batch's mean of A(Y) ∇_θ ln π(Y).

    ∇_θ ln π(Y) is 1 − π in component Y and −π in the others. With rewards for A this is REINFORCE; with rewards minus a
    baseline, the same with less noise; with A = 1, the gradient of maximum likelihood on the drawn responses.

    Args:
        theta: θ, (M,).
        drawn: numbers of responses, (..., batch), drawn from policy(theta).
        advantages: A, (..., batch), in units of reward.

    Returns:
        (..., M), in units of reward.

    Raises:
        ValueError: θ with more axes, drawn responses out of range, or shapes that do not fit.

    Examples:
        >>> estimates([0.0, 0.0], torch.tensor([0]), [1.0]).tolist()  # response 0 was drawn, and rewarded
        [0.5, -0.5]

    Source: Williams 1992, equation 4 (REINFORCE), averaged over a batch.
    """
    pi, advantages = policy(theta), _real("advantages", advantages)
    require(pi.ndim == 1, "the number of axes of theta", pi.ndim, "1: one query at a time")
    _check_numbers("drawn", drawn, len(pi))
    _check_one_each(advantages, drawn)
    counted = advantages.new_zeros(*drawn.shape[:-1], len(pi)).scatter_add(-1, drawn, advantages)
    return (counted - advantages.sum(-1, keepdim=True) * pi) / drawn.shape[-1]


class Moments(NamedTuple):
    """What the estimate from a single draw is on average, and how it scatters.

    Attributes:
        mean: its expectation, (M,); the gradient itself where the baseline is sound.
        variance: of each component, (M,); a batch of n has a variance n times smaller.
    """

    mean: Tensor
    variance: Tensor


def estimate_moments(theta: Tensor, advantages: Tensor) -> Moments:
    """Exact mean and variance of A(Y) ∇_θ ln π(Y) for one response Y drawn from π.

    Args:
        theta: θ, (M,).
        advantages: A(Y) of every response, (M,), such as r − b.

    Returns:
        Mean (units of reward) and variance (units of reward squared), each (M,).

    Raises:
        ValueError: θ with more axes, or shapes that do not fit.

    Examples:
        >>> moments = estimate_moments([0.0, 0.0], [10.0, 10.0])  # the same reward for both
        >>> moments.mean.tolist(), moments.variance.tolist()  # no gradient, but a noise of 5²
        ([0.0, 0.0], [25.0, 25.0])
    """
    pi, advantages = policy(theta), _real("advantages", advantages)
    require(pi.ndim == 1, "the number of axes of theta", pi.ndim, "1: one query at a time")
    _same_responses(theta=pi, advantages=advantages)
    each = advantages[..., None] * (torch.eye(len(pi), dtype=pi.dtype) - pi)  # row Y: the estimate if Y is drawn
    mean = (pi[:, None] * each).sum(0)
    return Moments(mean, (pi[:, None] * (each - mean) ** 2).sum(0))


# ---------------------------------------------------------------------------------------------------------- sequences


def sequences(V: int, T: int) -> Tensor:
    """List all sequences of T tokens out of V, in the order of a dictionary.

    Args:
        V: tokens in the vocabulary, 2 or more.
        T: tokens in a sequence, 1 or more.

    Returns:
        Token numbers, (V^T, T).

    Raises:
        ValueError: V or T too small, or more than a million sequences.

    Examples:
        >>> sequences(V=2, T=2).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    check_whole("V", V, at_least=2)
    check_whole("T", T, at_least=1)
    require(V**T <= 1_000_000, "V^T", V**T, "at most a million: enumeration is for short sequences")
    return torch.cartesian_prod(*[torch.arange(V)] * T).reshape(V**T, T)


def prefix_count(V: int, T: int) -> int:
    """How many prefixes sequences of T tokens have, the empty one included: 1 + V + … + V^(T−1), the rows of θ.

    Examples:
        >>> prefix_count(V=2, T=3)  # 1 + 2 + 4
        7
    """
    check_whole("V", V, at_least=2)
    check_whole("T", T, at_least=1)
    return (V**T - 1) // (V - 1)


def prefixes(tokens: Tensor, V: int) -> Tensor:
    """Number the prefix that each token follows: 0 is the empty one, p·V + ω + 1 what p becomes by the token ω.

    Args:
        tokens: ω_t, (..., T).
        V: tokens in the vocabulary.

    Returns:
        Rows of θ, (..., T): entry t depends on the tokens before t only.

    Raises:
        ValueError: tokens outside 0 to V − 1.

    Examples:
        >>> prefixes(torch.tensor([1, 0]), V=2).tolist()  # the empty one, then "1"
        [0, 2]
    """
    tokens = torch.as_tensor(tokens)
    _check_numbers("tokens", tokens, V)
    rows = torch.zeros_like(tokens)
    for t in range(1, tokens.shape[-1]):
        rows[..., t] = rows[..., t - 1] * V + tokens[..., t - 1] + 1
    return rows


def _check_rows(theta: Tensor, rows: Tensor) -> None:
    if theta.ndim != 2 or rows.max() >= len(theta):
        raise ValueError(
            f"theta has shape {tuple(theta.shape)}; expected (prefix_count(V, T), V): one row for each prefix."
        )


def token_log_probs(theta: Tensor, tokens: Tensor) -> Tensor:
    """ln π(ω_t | ω_<t) of each token; their sum over t is ln π of the sequence.

    Args:
        theta: θ, (prefix_count(V, T), V), one row for each prefix.
        tokens: ω_t, (..., T).

    Returns:
        (..., T), in nats.

    Raises:
        ValueError: θ of another shape, or tokens outside the vocabulary.

    Examples:
        >>> theta = torch.zeros(prefix_count(V=2, T=2), 2)
        >>> token_log_probs(theta, torch.tensor([0, 1])).exp().round(decimals=6).tolist()
        [0.5, 0.5]
    """
    theta = _logits("theta", theta)
    rows = prefixes(tokens, theta.shape[-1])
    _check_rows(theta, rows)
    return theta.log_softmax(-1)[rows, tokens]


def reward_to_go(token_rewards: Tensor) -> Tensor:
    """Σ_{s ≥ t} r_s: what was earned from token t on.

    Args:
        token_rewards: r_t, (..., T).

    Returns:
        (..., T), in units of reward.

    Examples:
        >>> reward_to_go([0.0, 2.0, 1.0]).tolist()
        [3.0, 3.0, 1.0]

    Source: Sutton et al. 2000, "Policy Gradient Methods for Reinforcement Learning with Function Approximation", whose
    theorem 1 credits an action with what follows it.
    """
    return _real("token_rewards", token_rewards).flip(-1).cumsum(-1).flip(-1)


def prefix_values(theta: Tensor, token_rewards: Tensor) -> Tensor:
    """V of every prefix: the reward still to come, on average over all ways π may go on.

    Args:
        theta: θ, (prefix_count(V, T), V).
        token_rewards: r_t of every sequence in the order of `sequences`, (V^T, T); r_t depends on ω_≤t only.

    Returns:
        (prefix_count(V, T),), in units of reward; entry 0 is E_π[r].

    Raises:
        ValueError: shapes that do not fit.

    Examples:
        >>> earned = [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]]  # only "1 1" is rewarded
        >>> prefix_values(torch.zeros(3, 2), earned).tolist()  # of nothing yet, of "0", of "1"
        [0.25, 0.0, 0.5]
    """
    theta, token_rewards = _logits("theta", theta), _real("token_rewards", token_rewards)
    tokens = sequences(theta.shape[-1], token_rewards.shape[-1])
    if tokens.shape != token_rewards.shape:
        raise ValueError(f"token_rewards have shape {tuple(token_rewards.shape)}; expected {tuple(tokens.shape)}.")
    rows = prefixes(tokens, theta.shape[-1])
    pi = token_log_probs(theta, tokens).sum(-1, keepdim=True).exp().expand(rows.shape)
    zeros = theta.new_zeros(len(theta)).detach()
    earned = zeros.index_add(0, rows.flatten(), (pi * reward_to_go(token_rewards)).flatten())
    return earned / zeros.index_add(0, rows.flatten(), pi.flatten())


def sequence_estimates(theta: Tensor, tokens: Tensor, advantages: Tensor) -> Tensor:
    """Score-function estimates for sequences, one a batch: the mean of Σ_t A_t ∇_θ ln π(ω_t | ω_<t).

    Args:
        theta: θ, (prefix_count(V, T), V).
        tokens: drawn sequences, (..., batch, T).
        advantages: A_t, (..., batch, T): the whole reward at every token, the reward to go, or that minus a baseline.

    Returns:
        (..., prefix_count(V, T), V), in units of reward.

    Raises:
        ValueError: shapes that do not fit, or tokens outside the vocabulary.

    Examples:
        >>> theta = torch.zeros(1, 2)  # sequences of a single token
        >>> sequence_estimates(theta, torch.tensor([[0]]), [[1.0]]).tolist()  # as `estimates`
        [[0.5, -0.5]]

    Source: Williams 1992, section 5 (episodic REINFORCE); Sutton et al. 2000, theorem 1.
    """
    theta, advantages = _logits("theta", theta), _real("advantages", advantages)
    _check_numbers("tokens", tokens, theta.shape[-1])
    _check_one_each(advantages, tokens)
    require(tokens.ndim >= 2, "the number of axes of tokens", tokens.ndim, "2 or more: (..., batch, T)")
    rows = prefixes(tokens, theta.shape[-1])
    _check_rows(theta, rows)
    places, A = (rows * theta.shape[-1] + tokens).flatten(-2), advantages.flatten(-2)
    counted = A.new_zeros(*A.shape[:-1], theta.numel()).scatter_add(-1, places, A).unflatten(-1, theta.shape)
    return (counted - counted.sum(-1, keepdim=True) * theta.softmax(-1)) / tokens.shape[-2]
