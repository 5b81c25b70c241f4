"""Finite policies: identities that hold exactly, and estimates that agree with them as far as chance allows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_helpers import toy
from course_helpers.ppo.losses import policy_losses

THETA = torch.tensor([-1.0, 1.0, 0.0, 0.3], dtype=torch.float64)
R = torch.tensor([2.0, 1.0, -1.0, 0.5], dtype=torch.float64)
SIZES = (10, 100, 1000)

numbers = st.floats(-4, 4, allow_nan=False)
vectors = st.integers(2, 8).flatmap(lambda M: st.tuples(*[st.lists(numbers, min_size=M, max_size=M)] * 3))
betas = st.floats(0.05, 20)
quick = settings(deadline=None, derandomize=True, max_examples=60)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


# ---------------------------------------------------------------------------------------------------- exact gradients


@quick
@given(vectors)
def test_log_derivative_identity(drawn):
    """∇π = π ∇ln π for every response, and Σ ∇π = 0."""
    theta = tensor(drawn[0])
    of_pi = torch.autograd.functional.jacobian(toy.policy, theta)
    of_log = torch.autograd.functional.jacobian(lambda t: toy.policy(t).log(), theta)
    close(of_pi, toy.policy(theta)[:, None] * of_log)
    close(of_pi.sum(0), torch.zeros_like(theta))
    close(of_log, torch.eye(len(theta), dtype=torch.float64) - toy.policy(theta))


@quick
@given(vectors)
def test_policy_gradient_is_autograds_and_that_of_finite_differences(drawn):
    theta, r = tensor(drawn[0]).requires_grad_(), tensor(drawn[1])
    (slope,) = torch.autograd.grad(toy.expectation(toy.policy(theta), r), theta)
    close(toy.policy_gradient(theta.detach(), r), slope)
    h = 1e-5
    for i, nudge in enumerate(h * torch.eye(len(theta), dtype=torch.float64)):
        up, down = (toy.expectation(toy.policy(theta.detach() + sign * nudge), r) for sign in (1, -1))
        assert (up - down) / (2 * h) == pytest.approx(slope[i].item(), abs=1e-7)


@quick
@given(vectors, betas)
def test_gradient_of_the_objective(drawn, beta):
    theta, r, pi_ref = tensor(drawn[0]).requires_grad_(), tensor(drawn[1]), toy.policy(tensor(drawn[2]))
    pi = toy.policy(theta)
    (slope,) = torch.autograd.grad(toy.objective(pi, pi_ref, r, beta), theta)
    close(toy.policy_gradient(theta.detach(), r - beta * (pi / pi_ref).log().detach()), slope, atol=1e-9)


@quick
@given(vectors, numbers)
def test_a_constant_changes_no_gradient(drawn, constant):
    theta, r = tensor(drawn[0]), tensor(drawn[1])
    close(toy.policy_gradient(theta, r + constant), toy.policy_gradient(theta, r))
    close(toy.policy(theta + constant), toy.policy(theta))


# -------------------------------------------------------------------------------------------------- the optimal policy


@quick
@given(vectors)
def test_kl_is_never_negative_and_0_only_for_equals(drawn):
    p, q = toy.policy(tensor(drawn[0])), toy.policy(tensor(drawn[1]))
    assert toy.kl(p, q) >= -1e-12
    assert toy.kl(p, p) == 0
    assert toy.kl(p, q) >= 0.5 * (p - q).abs().sum() ** 2 - 1e-12  # Pinsker: 0 forces p = q


def test_kl_of_known_distributions():
    half, sure = tensor([0.5, 0.5]), tensor([1.0, 0.0])
    assert toy.kl(sure, half).item() == pytest.approx(math.log(2))
    assert toy.kl(half, sure).item() == math.inf
    assert toy.kl(sure, sure).item() == 0


@quick
@given(vectors, betas)
def test_optimal_policy_is_a_distribution_of_largest_objective(drawn, beta):
    theta, r, pi_ref = tensor(drawn[0]), tensor(drawn[1]), toy.policy(tensor(drawn[2]))
    best = toy.optimal_policy(pi_ref, r, beta)
    highest = toy.objective(best, pi_ref, r, beta)
    close(best.sum(), tensor(1.0))
    close(highest, beta * toy.log_partition(pi_ref, r, beta), atol=1e-9)
    assert highest >= toy.objective(toy.policy(theta), pi_ref, r, beta) - 1e-9
    assert highest >= toy.objective(pi_ref, pi_ref, r, beta) - 1e-9
    # and what another policy lacks is β KL to the best one
    lacking = highest - toy.objective(toy.policy(theta), pi_ref, r, beta)
    close(lacking, beta * toy.kl(toy.policy(theta), best), atol=1e-8)


def test_optimal_policy_beats_many_random_ones():
    pi_ref = toy.policy(THETA)
    others = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(4), 2000))
    for beta in (0.1, 1.0, 10.0):
        J = toy.objective(others, pi_ref, R, beta)
        assert J.shape == (2000,)
        assert J.max() <= toy.objective(toy.optimal_policy(pi_ref, R, beta), pi_ref, R, beta)


@quick
@given(vectors, betas)
def test_reward_is_recovered_up_to_a_constant(drawn, beta):
    r, pi_ref = tensor(drawn[1]), toy.policy(tensor(drawn[2]))
    implied = toy.implied_reward(toy.optimal_policy(pi_ref, r, beta), pi_ref, beta)
    close(implied, r - beta * toy.log_partition(pi_ref, r, beta), atol=1e-9)
    close(implied - implied[0], r - r[0], atol=1e-9)
    chances = toy.preference_probability(r[:, None], r[None, :])
    close(toy.preference_probability(implied[:, None], implied[None, :]), chances, atol=1e-9)
    close(chances + chances.T, torch.ones_like(chances))
    close(chances.diagonal(), torch.full_like(r, 0.5))


def test_the_higher_reward_is_preferred():
    assert toy.preference_probability(math.log(3), 0.0).item() == pytest.approx(0.75)
    assert toy.preference_probability(0.0, math.log(3)).item() == pytest.approx(0.25)


def test_partition_by_hand_and_its_limits():
    pi_ref, r = tensor([0.5, 0.25, 0.25]), tensor([0.0, math.log(2), math.log(4)])
    assert toy.partition(pi_ref, r, 1.0).item() == pytest.approx(0.5 + 0.5 + 1.0)
    close(toy.optimal_policy(pi_ref, r, 1.0), tensor([0.25, 0.25, 0.5]))
    close(toy.optimal_policy(pi_ref, r, 1e9), pi_ref, atol=1e-8)  # a high β stays at the reference
    close(toy.optimal_policy(pi_ref, r, 1e-4), tensor([0.0, 0.0, 1.0]))  # a low one takes the best, without overflow
    forbidden = toy.optimal_policy(tensor([0.5, 0.5, 0.0]), r, 0.01)
    assert forbidden[2] == 0  # what the reference never writes stays impossible


def test_queries_stand_side_by_side():
    rng = np.random.default_rng(1)
    theta, r = torch.from_numpy(rng.normal(size=(4, 8))), torch.from_numpy(rng.normal(size=(4, 8)))
    pi_ref = toy.policy(theta)
    together = toy.optimal_policy(pi_ref, r, 0.7)
    assert toy.partition(pi_ref, r, 0.7).shape == toy.kl(together, pi_ref).shape == (4,)
    for n in range(4):
        close(together[n], toy.optimal_policy(pi_ref[n], r[n], 0.7))
        close(toy.policy_gradient(theta, r)[n], toy.policy_gradient(theta[n], r[n]))
        close(toy.objective(together, pi_ref, r, 0.7)[n], toy.objective(together[n], pi_ref[n], r[n], 0.7))
    assert toy.draw(pi_ref, (3, 5), generator()).shape == (4, 3, 5)


# ----------------------------------------------------------------------------------------------------------- estimates


def batches(size, repeats=2000, seed=0, r=R):
    drawn = toy.draw(toy.policy(THETA), (repeats, size), generator(seed))
    return drawn, r[drawn]


def assert_mean_is(values, truth):
    """Within four standard errors in every component."""
    error = values.std(0) / math.sqrt(len(values))
    assert ((values.mean(0) - truth).abs() <= 4 * error + 1e-12).all()


def test_draws_follow_the_policy_and_the_seed_alone():
    pi, state = toy.policy(THETA), torch.random.get_rng_state()
    drawn = toy.draw(pi, 40_000, generator())
    assert torch.equal(drawn, toy.draw(pi, (40_000,), generator()))
    assert torch.equal(torch.random.get_rng_state(), state)
    counts = torch.bincount(drawn, minlength=4).double()
    error = (pi * (1 - pi) / 40_000).sqrt()
    assert ((counts / 40_000 - pi).abs() < 4 * error).all()
    assert (toy.draw(tensor([0.0, 1.0, 0.0]), 500, generator()) == 1).all()


def test_estimates_are_autograds_of_the_log_probability():
    drawn, rewards = batches(7, repeats=5)
    for batch, A, estimate in zip(drawn, rewards, toy.estimates(THETA, drawn, rewards), strict=True):
        theta = THETA.clone().requires_grad_()
        (A * toy.policy(theta).log()[batch]).mean().backward()
        close(estimate, theta.grad)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("baseline", [0.0, 0.7, -5.0])
def test_estimator_is_unbiased(size, baseline):
    drawn, rewards = batches(size)
    assert_mean_is(toy.estimates(THETA, drawn, rewards - baseline), toy.policy_gradient(THETA, R))


def test_error_falls_with_the_root_of_the_size():
    sizes, truth = 4 ** np.arange(1, 6), toy.policy_gradient(THETA, R)
    errors = []
    for seed, size in enumerate(sizes):
        drawn, rewards = batches(int(size), repeats=1000, seed=seed)
        errors.append((toy.estimates(THETA, drawn, rewards) - truth).pow(2).sum(-1).mean().sqrt().item())
    assert np.polyfit(np.log(sizes), np.log(errors), 1)[0] == pytest.approx(-0.5, abs=0.05)
    sigma = toy.estimate_moments(THETA, R).variance.sum().sqrt().item()
    assert errors == pytest.approx(sigma / np.sqrt(sizes), rel=0.1)


def test_baseline_keeps_the_mean_and_halves_the_variance():
    marks = R + 8  # all positive: every draw asks to be repeated
    truth, b = toy.policy_gradient(THETA, marks), toy.expectation(toy.policy(THETA), marks)
    drawn, rewards = batches(10, r=marks)
    plain, based = toy.estimates(THETA, drawn, rewards), toy.estimates(THETA, drawn, rewards - b)
    assert_mean_is(plain, truth)
    assert_mean_is(based, truth)
    assert based.var(0).sum() <= 0.5 * plain.var(0).sum()
    exact = [toy.estimate_moments(THETA, marks - c) for c in (0.0, b)]
    close(exact[0].mean, truth)
    close(exact[1].mean, truth)
    assert exact[1].variance.sum() <= 0.5 * exact[0].variance.sum()


@quick
@given(vectors)
def test_moments_are_those_of_the_enumerated_estimates(drawn):
    theta, A = tensor(drawn[0]), tensor(drawn[1])
    pi, moments = toy.policy(theta), toy.estimate_moments(theta, A)
    each = torch.stack([toy.estimates(theta, torch.tensor([Y]), A[Y : Y + 1]) for Y in range(len(theta))])
    close(moments.mean, pi @ each)
    close(moments.mean, toy.policy_gradient(theta, A))
    close(moments.variance, pi @ each**2 - (pi @ each) ** 2, atol=1e-9)


def test_a_baseline_that_sees_the_response_is_another_reward():
    b = tensor([1.5, 0.0, 0.0, 0.0])
    drawn, rewards = batches(1000)
    biased = toy.estimates(THETA, drawn, rewards - b[drawn])
    assert_mean_is(biased, toy.policy_gradient(THETA, R - b))
    assert (biased.mean(0) - toy.policy_gradient(THETA, R)).norm() > 0.1


def test_mean_of_the_others_is_unbiased_and_the_batchs_own_mean_shrinks():
    truth = toy.policy_gradient(THETA, R)
    drawn, rewards = batches(4, repeats=20_000)
    assert_mean_is(toy.estimates(THETA, drawn, toy.leave_one_out(rewards)), truth)
    assert_mean_is(toy.estimates(THETA, drawn, rewards - rewards.mean(-1, keepdim=True)), truth * 3 / 4)
    others = torch.stack([rewards[:, [j for j in range(4) if j != i]].mean(-1) for i in range(4)], -1)
    close(toy.leave_one_out(rewards), rewards - others)
    close(toy.leave_one_out(tensor([1.0, 4.0])), tensor([-3.0, 3.0]))


def test_whitened_rewards():
    _, rewards = batches(6, repeats=300)
    white = toy.whiten(rewards)
    varied = rewards.std(-1) > 0
    close(white.mean(-1), torch.zeros(300, dtype=torch.float64))
    close(white.var(-1)[varied], torch.ones(int(varied.sum()), dtype=torch.float64), atol=1e-6)
    close(toy.whiten(100 * rewards + 3)[varied], white[varied], atol=1e-6)
    assert (toy.whiten(tensor([2.0, 2.0, 2.0])) == 0).all()
    spread = tensor([1.0, -1.0]) / math.sqrt(2)  # of variance 1
    close(toy.whiten(4 * spread), spread, atol=1e-8)
    close(toy.whiten(1e-8 * spread), spread / 2)  # the divisor is the spread and 1e-8, so nothing blows up


def test_likelihood_is_the_policy_gradient_with_every_reward_1():
    drawn, _ = batches(50, repeats=1)
    theta = THETA.clone().requires_grad_()
    toy.policy(theta).log()[drawn[0]].mean().backward()
    close(toy.estimates(THETA, drawn[0], torch.ones(50, dtype=torch.float64)), theta.grad)
    frequencies = torch.bincount(drawn[0], minlength=4) / 50
    close(theta.grad, frequencies.double() - toy.policy(THETA), atol=1e-7)


# -------------------------------------------------------------------------------------------------- the bridge to PPO


def test_surrogate_at_ratio_1_has_the_policy_gradient():
    theta = THETA.clone().requires_grad_()
    log_pi, pi_old = toy.policy(theta).log()[None], toy.policy(THETA)
    (pi_old * policy_losses(log_pi, pi_old.log()[None], R[None], 0.2).tokens).sum().backward()
    close(-theta.grad, toy.policy_gradient(THETA, R), atol=1e-10)


def test_surrogate_of_a_sample_has_its_estimate():
    drawn, rewards = batches(64, repeats=1)
    theta = THETA.clone().requires_grad_()
    old = toy.policy(THETA).log()[drawn]
    policy_losses(toy.policy(theta).log()[drawn], old, rewards, 0.2).tokens.mean().backward()
    close(-theta.grad, toy.estimates(THETA, drawn[0], rewards[0]), atol=1e-10)


# ----------------------------------------------------------------------------------------------------------- sequences


V, T = 3, 4
TABLE = torch.from_numpy(np.random.default_rng(2).normal(size=(toy.prefix_count(V, T), V)))
TOKEN_REWARD = torch.from_numpy(np.random.default_rng(3).normal(size=TABLE.shape))  # r_t of each token at each prefix
ALL = toy.sequences(V, T)
TOKEN_REWARDS = TOKEN_REWARD[toy.prefixes(ALL, V), ALL]


def exact_sequence_gradient():
    theta = TABLE.clone().requires_grad_()
    pi = toy.token_log_probs(theta, ALL).sum(-1).exp()
    toy.expectation(pi, TOKEN_REWARDS.sum(-1)).backward()
    return theta.grad


def test_sequences_are_listed_once_and_their_probabilities_sum_to_1():
    assert ALL.tolist() == sorted(ALL.tolist())
    assert len({tuple(row) for row in ALL.tolist()}) == V**T
    close(toy.token_log_probs(TABLE, ALL).sum(-1).exp().sum(), tensor(1.0))
    assert toy.sequences(2, 1).tolist() == [[0], [1]]
    assert toy.sequences(10, 6).shape == (1_000_000, 6)  # the most there may be


def test_prefixes_are_numbered_by_what_came_before():
    rows = toy.prefixes(ALL, V)
    named = {}
    for tokens, places in zip(ALL.tolist(), rows.tolist(), strict=True):
        for t, place in enumerate(places):
            named.setdefault(place, set()).add(tuple(tokens[:t]))
    assert sorted(named) == list(range(toy.prefix_count(V, T)))
    assert all(len(before) == 1 for before in named.values())
    assert [toy.prefix_count(2, T) for T in (1, 2, 3)] == [1, 3, 7]


def test_a_sequence_of_one_token_is_a_response():
    drawn, rewards = batches(9, repeats=5)
    one = toy.sequence_estimates(THETA[None], drawn[..., None], rewards[..., None])
    close(one[:, 0], toy.estimates(THETA, drawn, rewards))


def test_sequence_estimates_are_autograds():
    tokens = ALL[[5, 40, 77, 5]]
    A = torch.from_numpy(np.random.default_rng(4).normal(size=tokens.shape))
    theta = TABLE.clone().requires_grad_()
    (A * toy.token_log_probs(theta, tokens)).sum(-1).mean().backward()
    close(toy.sequence_estimates(TABLE, tokens, A), theta.grad)


def three_credits(tokens):
    """A_t: the whole reward, the reward to go, and that minus the prefix's value."""
    rows = toy.prefixes(tokens, V)
    r = TOKEN_REWARD[rows, tokens]
    to_go = toy.reward_to_go(r)
    return [r.sum(-1, keepdim=True).expand_as(r), to_go, to_go - toy.prefix_values(TABLE, TOKEN_REWARDS)[rows]]


def test_all_three_credits_are_unbiased_and_each_is_calmer_than_the_last():
    pi, truth, spread = toy.token_log_probs(TABLE, ALL).sum(-1).exp(), exact_sequence_gradient(), []
    for A in three_credits(ALL):
        each = toy.sequence_estimates(TABLE, ALL[:, None], A[:, None])  # one estimate for each sequence there is
        mean = (pi[:, None, None] * each).sum(0)
        close(mean, truth)
        spread.append((pi[:, None, None] * (each - mean) ** 2).sum().item())
    assert spread[0] > spread[1] > spread[2]


@pytest.mark.parametrize("size", SIZES)
def test_drawn_sequences_estimate_the_gradient(size):
    pi, truth = toy.token_log_probs(TABLE, ALL).sum(-1).exp(), exact_sequence_gradient()
    tokens = ALL[toy.draw(pi, (1000, size), generator(size))]
    for A in three_credits(tokens):
        along = (toy.sequence_estimates(TABLE, tokens, A) * truth).sum((-1, -2))  # rare prefixes have skewed components
        assert_mean_is(along[:, None], (truth**2).sum()[None])


def test_reward_to_go_and_values():
    assert toy.reward_to_go(tensor([1.0, 2.0, 4.0])).tolist() == [7.0, 6.0, 4.0]
    values = toy.prefix_values(TABLE, TOKEN_REWARDS)
    pi = toy.token_log_probs(TABLE, ALL).sum(-1).exp()
    close(values[0], toy.expectation(pi, TOKEN_REWARDS.sum(-1)))
    last = toy.prefixes(ALL, V)[:, -1].unique()  # one step before the end, V is the mean of one token's reward
    close(values[last], (TABLE[last].softmax(-1) * TOKEN_REWARD[last]).sum(-1))
    first = torch.arange(1, V + 1)  # Bellman: V(∅) = Σ π(ω) (r(ω) + V(ω))
    close(values[0], (TABLE[0].softmax(-1) * (TOKEN_REWARD[0] + values[first])).sum())


def test_surrogate_of_sequences_has_the_policy_gradient():
    theta = TABLE.clone().requires_grad_()
    old = toy.token_log_probs(TABLE, ALL)
    A = toy.reward_to_go(TOKEN_REWARDS) - toy.prefix_values(TABLE, TOKEN_REWARDS)[toy.prefixes(ALL, V)]
    losses = policy_losses(toy.token_log_probs(theta, ALL), old, A, 0.2).tokens
    (old.sum(-1).exp() * losses.sum(-1)).sum().backward()
    close(-theta.grad, exact_sequence_gradient(), atol=1e-10)


# -------------------------------------------------------------------------------------------------------------- errors


HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: toy.policy([0.0, math.nan]), "theta holds a value that is NaN or infinite"),
        (lambda: toy.policy(1.0), r"theta has shape \(\)"),
        (lambda: toy.expectation([1.0, 2.0], [0.0, 0.0]), r"pi is no distribution.*pass policy\(theta\)"),
        (lambda: toy.expectation([1.5, -0.5], [0.0, 0.0]), "smallest value -0.5"),
        (lambda: toy.expectation([0.5, 0.51], HALF), r"sums 1\.01\. Each row must be 0 or more throughout"),
        (lambda: toy.expectation(HALF, [0.0, 0.0, 0.0]), r"pi \(2,\), values \(3,\)"),
        (lambda: toy.kl(HALF, [0.5, 0.25, 0.25]), r"pi_ref \(3,\)"),
        (lambda: toy.objective(HALF, HALF, [0.0, 1.0], 0.0), "beta is 0.0; it must be"),
        (lambda: toy.partition(HALF, [0.0, 1.0], math.inf), "beta is inf"),
        (lambda: toy.log_partition(HALF, [1.0], 1.0), r"pi_ref \(2,\), r \(1,\)"),
        (lambda: toy.implied_reward([1.0, 0.0], HALF, 1.0), "^some response .* ln 0 is no reward"),
        (lambda: toy.implied_reward([0.5, 0.5, 0.0], [0.5, 0.25, 0.25], 1.0), "^some response .* ln 0 is no reward"),
        (lambda: toy.implied_reward([0.5, 0.25, 0.25], [*HALF, 0.0], 1.0), "ln 0 is no reward"),
        (lambda: toy.implied_reward(HALF, [1.0], 1.0), r"pi \(2,\), pi_ref \(1,\)"),
        (lambda: toy.draw(HALF, 0, generator()), "a count of draws is 0"),
        (lambda: toy.draw(HALF, 3, 7), r"generator is 7; pass torch.Generator"),
        (lambda: toy.draw(tensor([[HALF]]), 3, generator()), r"pi is 3; it must be 1 for \(M,\), or 2 for \(N, M\)"),
        (lambda: toy.whiten([1.0]), r"^rewards' shape is \(1,\); it must be \(\.\.\., 2 or more\)"),
        (lambda: toy.whiten(1.0), r"^rewards' shape is \(\)"),
        (lambda: toy.leave_one_out([[1.0]]), r"^rewards' shape is \(1, 1\); it must be \(\.\.\., 2 or more\)"),
        (lambda: toy.leave_one_out(1.0), r"^rewards' shape is \(\)"),
        (lambda: toy.estimates(THETA, torch.tensor([1, 4]), [1.0]), "^drawn hold numbers from 1 to 4; .* 0 and 3"),
        (lambda: toy.estimates(THETA, torch.tensor([1.0]), [1.0]), r"are torch.float32 of shape \(1,\); pass whole"),
        (lambda: toy.estimates(THETA, torch.tensor(1), 1.0), r"are torch.int64 of shape \(\)"),
        (lambda: toy.estimates(THETA, torch.tensor([], dtype=torch.long), []), r"are torch.int64 of shape \(0,\)"),
        (lambda: toy.estimates(THETA, torch.tensor([1, 2]), [1.0]), r"advantages have shape \(1,\)"),
        (lambda: toy.estimates(THETA[None], torch.tensor([1]), [1.0]), "axes of theta is 2; it must be 1: one query"),
        (lambda: toy.estimate_moments(THETA[None], R), "^the number of axes of theta is 2; .* 1: one query at a"),
        (lambda: toy.estimate_moments(THETA, [1.0]), r"theta \(4,\), advantages \(1,\)"),
        (lambda: toy.sequences(1, 3), "V is 1"),
        (lambda: toy.sequences(2, 0), "^T is 0"),
        (lambda: toy.sequences(10, 7), r"^V\^T is 10000000; it must be at most a million"),
        (lambda: toy.sequences(1_000_001, 1), r"^V\^T is 1000001"),
        (lambda: toy.prefix_count(1, 3), "^V is 1"),
        (lambda: toy.prefix_count(2, 0), "^T is 0"),
        (lambda: toy.prefixes(torch.tensor([3]), 3), "^tokens hold numbers from 3 to 3; they must lie between 0 and 2"),
        (lambda: toy.token_log_probs(THETA, torch.tensor([1])), r"one row for each prefix"),
        (lambda: toy.token_log_probs(TABLE[:4], ALL), r"one row for each prefix"),
        (lambda: toy.token_log_probs(TABLE[:-1], ALL), r"one row for each prefix"),
        (lambda: toy.prefix_values(TABLE, TOKEN_REWARDS[:5]), r"expected \(81, 4\)"),
        (lambda: toy.prefix_values(TABLE, [1.0, 2.0]), r"token_rewards have shape \(2,\); expected \(9, 2\)"),
        (lambda: toy.prefix_values(TABLE[0], TOKEN_REWARDS), r"theta has shape \(3,\)"),
        (lambda: toy.sequence_estimates(TABLE[0], ALL, TOKEN_REWARDS), r"theta has shape \(3,\)"),
        (lambda: toy.sequence_estimates(TABLE, ALL + 1, TOKEN_REWARDS), "^tokens hold numbers from 1 to 3"),
        (lambda: toy.sequence_estimates(TABLE, ALL, TOKEN_REWARDS[:, :2]), r"advantages have shape \(81, 2\)"),
        (
            lambda: toy.sequence_estimates(TABLE, ALL[0], TOKEN_REWARDS[0]),
            r"^the number of axes of tokens is 1; it must be 2 or more: \(\.{3}, batch, T",
        ),
    ],
)
def test_errors_say_what_is_wrong_and_what_to_pass(call, message):
    with pytest.raises(ValueError, match=message):
        call()


BAD = [0.5, math.nan]
TWO = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("values", lambda: toy.expectation(HALF, BAD)),
        ("pi", lambda: toy.kl(BAD, HALF)),
        ("pi_ref", lambda: toy.kl(HALF, BAD)),
        ("r", lambda: toy.policy_gradient(HALF, BAD)),
        ("pi_ref", lambda: toy.log_partition(BAD, HALF, 1.0)),
        ("r", lambda: toy.log_partition(HALF, BAD, 1.0)),
        ("pi", lambda: toy.implied_reward(BAD, HALF, 1.0)),
        ("pi_ref", lambda: toy.implied_reward(HALF, BAD, 1.0)),
        ("r_w", lambda: toy.preference_probability(BAD, HALF)),
        ("r_l", lambda: toy.preference_probability(HALF, BAD)),
        ("pi", lambda: toy.draw(BAD, 1, generator())),
        ("rewards", lambda: toy.whiten(BAD)),
        ("rewards", lambda: toy.leave_one_out(BAD)),
        ("advantages", lambda: toy.estimates(HALF, TWO, BAD)),
        ("advantages", lambda: toy.estimate_moments(HALF, BAD)),
        ("theta", lambda: toy.token_log_probs([BAD], TWO[None])),
        ("token_rewards", lambda: toy.reward_to_go(BAD)),
        ("theta", lambda: toy.prefix_values([BAD], TOKEN_REWARDS)),
        ("token_rewards", lambda: toy.prefix_values(TABLE, BAD)),
        ("theta", lambda: toy.sequence_estimates([BAD], TWO[None], [HALF])),
        ("advantages", lambda: toy.sequence_estimates(TABLE, TWO[None], [BAD])),
    ],
)
def test_what_is_not_finite_is_called_by_its_name(name, call):
    with pytest.raises(ValueError, match=f"^{name} holds a value that is NaN or infinite"):
        call()


@quick
@given(vectors)
def test_lists_arrays_and_float32_are_taken_too(drawn):
    as_list = toy.policy(drawn[0])
    assert as_list.dtype == torch.float64
    close(toy.policy(np.array(drawn[0])), as_list)
    close(toy.policy(torch.tensor(drawn[0], dtype=torch.float32)), as_list, atol=1e-6)
