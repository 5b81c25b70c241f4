"""Best-of-n: the exact policy against enumeration, its bound, and estimates against all subsets."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_helpers import toy
from course_helpers.frontier.best_of_n import best_weights, distribution, expected_best, kl_bound

quick = settings(deadline=None, derandomize=True, max_examples=30)
levels = st.sampled_from([-1.0, 0.0, 0.5, 0.5, 2.0])  # few values: ties are common
policies = st.integers(2, 6).flatmap(
    lambda M: st.tuples(
        st.lists(st.floats(-3, 3, allow_nan=False), min_size=M, max_size=M), st.lists(levels, min_size=M, max_size=M)
    )
)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def close(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def enumerated(pi_ref, r, n):
    """The policy of best-of-n by all Mⁿ draws, the tied ones equally likely to be kept."""
    pi = torch.zeros_like(pi_ref)
    for drawn in itertools.product(range(len(r)), repeat=n):
        best = max(r[list(drawn)])
        kept = [Y for Y in drawn if r[Y] == best]
        for Y in kept:
            pi[Y] += pi_ref[list(drawn)].prod() / len(kept)
    return pi


# ---------------------------------------------------------------------------------------------------- the exact policy


@quick
@given(policies, st.integers(1, 3))
def test_distribution_is_that_of_all_draws(drawn, n):
    pi_ref, r = toy.policy(tensor(drawn[0])), tensor(drawn[1])
    close(distribution(pi_ref, r, n), enumerated(pi_ref, r, n))


def test_keeping_the_first_of_those_that_tie_is_the_same_policy():
    pi_ref, r, n = tensor([0.5, 0.2, 0.3]), tensor([1.0, 1.0, 0.0]), 3
    pi = torch.zeros(3, dtype=torch.float64)
    for drawn in itertools.product(range(3), repeat=n):
        pi[max(drawn, key=lambda Y: r[Y])] += pi_ref[list(drawn)].prod()  # max() keeps the first
    close(distribution(pi_ref, r, n), pi)


@quick
@given(policies, st.integers(1, 500))
def test_kl_is_never_above_the_bound(drawn, n):
    pi_ref, r = toy.policy(tensor(drawn[0])), tensor(drawn[1])
    pi = distribution(pi_ref, r, n)
    close(pi.sum(), tensor(1.0), atol=1e-10)
    assert toy.kl(pi, pi_ref) <= kl_bound(n) + 1e-10
    assert toy.kl(pi, pi_ref) <= -pi_ref[r == r.max()].sum().log() + 1e-10  # all of it on the best, at the most


def test_bound_by_hand():
    assert kl_bound(1) == 0
    assert kl_bound(2) == pytest.approx(math.log(2) - 0.5)
    assert kl_bound(64) == pytest.approx(3.1745, abs=1e-4)


@pytest.mark.parametrize("n", [2, 4, 16, 64])
def test_bound_is_reached_by_many_rare_and_different_responses(n):
    missing = []
    for M in (250, 500, 1000, 2000):
        pi_ref, r = torch.full((M,), 1 / M, dtype=torch.float64), torch.arange(M, dtype=torch.float64)
        missing.append((kl_bound(n) - toy.kl(distribution(pi_ref, r, n), pi_ref)).item())
    assert 0 < missing[-1] < 1e-4
    assert np.array(missing[1:]) / missing[:-1] == pytest.approx(0.26, abs=0.015)  # twice as many: a quarter as far


def test_two_responses_of_equal_chance_stay_far_below_the_bound():
    """Beirami et al.'s example: the KL cannot exceed ln 2, while the bound grows on."""
    half = tensor([0.5, 0.5])
    for n in (1, 2, 8, 64):
        p = 0.5**n
        expected = math.log(2) + p * math.log(p) + (1 - p) * math.log1p(-p)
        assert toy.kl(distribution(half, tensor([0.0, 1.0]), n), half).item() == pytest.approx(expected, abs=1e-12)
    assert kl_bound(64) > 4 * math.log(2)


def test_limits_of_the_policy():
    pi_ref, r = tensor([0.7, 0.2, 0.1, 0.0]), tensor([0.0, 1.0, 1.0, 5.0])
    close(distribution(pi_ref, r, 1), pi_ref)
    close(distribution(pi_ref, r, 10_000), tensor([0.0, 2 / 3, 1 / 3, 0.0]))  # ties in proportion to the reference
    close(distribution(pi_ref, torch.zeros(4), 7), pi_ref)  # all tie
    rare = distribution(tensor([1 - 1e-14, 1e-14]), tensor([0.0, 1.0]), 8)
    assert rare[1].item() == pytest.approx(8e-14, rel=1e-6)  # without cancellation
    close(distribution(torch.stack([pi_ref, pi_ref]), torch.stack([r, -r]), 3)[1], distribution(pi_ref, -r, 3))


# ----------------------------------------------------------------------------------------------------------- estimates


def test_weights_by_hand():
    close(best_weights(4, 2), tensor([0.0, 1 / 6, 2 / 6, 3 / 6]))
    close(best_weights(5, 1), torch.full((5,), 0.2, dtype=torch.float64))
    close(best_weights(3, 3), tensor([0.0, 0.0, 1.0]))


@pytest.mark.parametrize(("N", "n"), [(64, 16), (64, 64), (5000, 700), (100_000, 3)])
def test_weights_are_those_of_whole_numbers(N, n):
    weights = best_weights(N, n)
    assert weights.sum().item() == pytest.approx(1, abs=1e-8)
    assert weights.min() >= 0
    for k in (n, (n + N) // 2, N):
        exact = math.comb(k - 1, n - 1) / math.comb(N, n)
        assert weights[k - 1].item() == pytest.approx(exact, rel=1e-8, abs=1e-300)


@quick
@given(st.lists(st.tuples(levels, st.floats(-3, 3)), min_size=1, max_size=7), st.data())
def test_estimate_is_the_mean_over_all_subsets(drawn, data):
    first, second = (tensor(column) for column in zip(*drawn, strict=True))
    n = data.draw(st.integers(1, len(first)))
    subsets = [list(subset) for subset in itertools.combinations(range(len(first)), n)]
    close(expected_best(first, n), torch.stack([first[s].max() for s in subsets]).mean())
    kept = [second[s][first[s] == first[s].max()].mean() for s in subsets]  # one of those that tie, by chance
    close(expected_best(first, n, second), torch.stack(kept).mean())


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_estimate_is_unbiased(n):
    """8 draws, many times over: the mean is that of the exact policy, for the reward and for a second measure."""
    pi_ref, r = toy.policy(tensor([0.0, 1.0, -1.0, 0.5])), tensor([1.0, 0.0, 2.0, 1.0])
    second = tensor([0.0, 1.0, -3.0, 2.0])
    drawn = toy.draw(pi_ref, (20_000, 8), torch.Generator().manual_seed(0))
    pi = distribution(pi_ref, r, n)
    for measure in (r, second):
        found = expected_best(r[drawn], n, measure[drawn])
        error = found.std() / math.sqrt(len(found))
        assert abs(found.mean() - toy.expectation(pi, measure)) <= 4 * error


def test_more_draws_bring_more_and_the_best_of_all_is_the_largest():
    rewards = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 64)))
    found = torch.stack([expected_best(rewards, n) for n in range(1, 65)])
    assert (found.diff(dim=0) > 0).all()
    close(found[0], rewards.mean(-1))
    close(found[-1], rewards.max(-1).values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kl_bound(0), "n is 0; it must be a whole number, at least 1"),
        (lambda: kl_bound(2.5), "n is 2.5"),
        (lambda: distribution([0.5, 0.6], [0.0, 1.0], 2), "pi_ref|pi is no distribution"),
        (lambda: distribution([0.5, 0.5], [0.0, 1.0, 2.0], 2), "shapes do not fit"),
        (lambda: best_weights(4, 5), "n is 5; it must be at most N = 4"),
        (lambda: expected_best([[1.0, 2.0]], 1, [1.0, 2.0]), r"the shapes \(1, 2\) and \(2,\)"),
        (lambda: expected_best([1.0, math.nan], 1), "NaN or infinite"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
