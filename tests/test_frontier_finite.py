"""The exact frontier and the ways to it: DPO and PPO end on it, and the others where the closed forms say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from course_helpers import toy
from course_helpers.frontier import best_of_n, finite

BETAS, SEEDS = (0.2, 0.5, 1.0), (0, 1, 2)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def problem(seed=0, shape=(8,)):
    """π_ref and r of 8 responses, of one query or several."""
    chance = generator(seed)
    theta, r = (torch.randn(shape, generator=chance, dtype=torch.float64) for _ in range(2))
    return toy.policy(theta), r


def close(a, b, atol=1e-9):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def lacking(pi, pi_ref, r, beta):
    """The share of the possible gain in J that a policy lacks."""
    J = [toy.objective(p, pi_ref, r, beta).mean() for p in (toy.optimal_policy(pi_ref, r, beta), pi, pi_ref)]
    return ((J[0] - J[1]) / (J[0] - J[2])).item()


# -------------------------------------------------------------------------------------------------------- the frontier


@pytest.mark.parametrize("shape", [(8,), (3, 8)])
def test_frontier_is_made_of_the_optimal_policies(shape):
    pi_ref, r = problem(0, shape)
    curve = finite.frontier(pi_ref, r, [0.1, 1.0, 10.0])
    for k, beta in enumerate((0.1, 1.0, 10.0)):
        pi = toy.optimal_policy(pi_ref, r, beta)
        close(curve.policies[k], pi)
        close(curve.reward[k], toy.expectation(pi, r).mean())
        close(curve.kl[k], toy.kl(pi, pi_ref).mean())


def test_slope_of_the_frontier_is_beta():
    pi_ref, r = problem(1)
    for beta in (0.2, 1.0, 5.0):
        near = finite.frontier(pi_ref, r, [beta * 1.0001, beta * 0.9999])
        assert (near.reward.diff() / near.kl.diff()).item() == pytest.approx(beta, rel=1e-6)
    curve = finite.frontier(pi_ref, r, np.geomspace(100, 0.02, 200))
    assert (curve.kl.diff() > 0).all()
    assert (curve.reward.diff() > 0).all()
    assert ((curve.reward.diff() / curve.kl.diff()).diff() < 0).all()  # concave: each nat brings less than the last


@pytest.mark.parametrize("shape", [(8,), (3, 8)])
def test_best_reward_goes_back_from_kl_to_the_frontier(shape):
    pi_ref, r = problem(2, shape)
    curve = finite.frontier(pi_ref, r, np.geomspace(30, 0.05, 40))
    close(finite.best_reward(pi_ref, r, curve.kl), curve.reward)
    close(finite.best_reward(pi_ref, r, curve.kl.reshape(4, 10)), curve.reward.reshape(4, 10))
    close(finite.best_reward(pi_ref, r, 0.0), toy.expectation(pi_ref, r).mean(), atol=1e-7)
    most = -pi_ref.gather(-1, r.argmax(-1, keepdim=True)).log().mean()
    for nats in (most.item(), 2 * most.item(), 1000.0):
        close(finite.best_reward(pi_ref, r, nats), r.amax(-1).mean())
    close(finite.best_reward(pi_ref, torch.zeros_like(r), 0.5), tensor(0.0))


@pytest.mark.parametrize("shape", [(5,), (2, 5)])
def test_no_policy_is_above_the_frontier(shape):
    pi_ref, r = problem(3, shape)
    rng = np.random.default_rng(0)
    others = torch.from_numpy(np.concatenate([rng.dirichlet(np.full(5, a), (500, *shape[:-1])) for a in (0.3, 1, 5)]))
    here = finite.place(others, pi_ref, r)
    assert here.reward.shape == (1500,)
    assert (here.reward <= finite.best_reward(pi_ref, r, here.kl) + 1e-9).all()
    assert finite.gap(others, pi_ref, r).min() > 0


def test_impossible_responses_cost_nothing_and_bring_nothing():
    pi_ref, r = tensor([0.5, 0.5, 0.0]), tensor([0.0, 1.0, 9.0])
    close(finite.best_reward(pi_ref, r, 5.0), tensor(1.0))
    close(finite.best_reward(pi_ref, r, 0.3), finite.best_reward(pi_ref[:2], r[:2], 0.3))


def test_gap_by_hand():
    pi_ref, r = tensor([0.25, 0.25, 0.25, 0.25]), tensor([0.0, 0.0, 1.0, 1.0])
    close(finite.gap(tensor([0.1, 0.1, 0.4, 0.4]), pi_ref, r), tensor(0.0))  # a tilt by the reward
    close(finite.gap(tensor([0.5, 0.0, 0.5, 0.0]), pi_ref, r), tensor(1.0))  # ln 2 nats for nothing
    close(finite.gap(tensor([0.4, 0.4, 0.1, 0.1]), pi_ref, r), tensor(2.0))  # the tilt the wrong way round
    assert finite.gap(pi_ref, pi_ref, r) == 0
    close(finite.gap(toy.optimal_policy(pi_ref, r, 0.3), pi_ref, r), tensor(0.0))
    pi = tensor([0.0, 0.0, 0.75, 0.25])
    assert toy.kl(pi, pi_ref) > math.log(2)
    close(finite.gap(pi, pi_ref, r), tensor(0.0))  # the best there is, though with more nats than it takes


# -------------------------------------------------------------------------------------------------------- PPO and DPO


@pytest.mark.parametrize(
    ("shape", "beta", "seed"),
    [((8,), beta, seed) for beta in BETAS for seed in SEEDS]
    + [((3, 8), beta, seed) for beta, seed in zip(BETAS, SEEDS, strict=True)],
)
def test_ppo_and_dpo_end_on_the_frontier(shape, beta, seed):
    """Within one per cent of the gain in reward at their own KL, and of the gain in J."""
    pi_ref, r = problem(seed, shape)
    paths = {
        "ppo": finite.ppo(pi_ref, r, beta, generator(seed)),
        "dpo": finite.dpo(pi_ref, r, beta),
        "dpo on drawn pairs": finite.dpo(pi_ref, r, beta, pairs=50_000, generator=generator(seed)),
    }
    for name, path in paths.items():
        end = path.policies[-1]
        assert finite.gap(end, pi_ref, r) <= 0.01, name
        assert lacking(end, pi_ref, r, beta) <= 0.01, name
    close(paths["dpo"].policies[-1], toy.optimal_policy(pi_ref, r, beta), atol=1e-3)


def test_ppo_has_no_noise_left_where_it_ends():
    """At π_r the penalised reward of every response is β ln Z, so any draw has advantages of 0: π_r stays."""
    pi_ref, r = problem(4)
    pi = toy.optimal_policy(pi_ref, r, 0.5)
    penalised = r - 0.5 * (pi / pi_ref).log()
    close(penalised, 0.5 * toy.log_partition(pi_ref, r, 0.5).expand(8))
    close(toy.leave_one_out(penalised[toy.draw(pi, 64, generator())]), torch.zeros(64, dtype=torch.float64))


def test_dpo_with_labels_that_never_err_runs_to_the_best_response():
    pi_ref, r = problem(0)
    optimal = toy.kl(toy.optimal_policy(pi_ref, r, 0.5), pi_ref)
    path = finite.dpo(pi_ref, r, 0.5, labels="better")
    assert path.kl[-1] > 2 * optimal
    assert (path.policies[100:, r.argmax()].diff() > 0).all()
    assert finite.dpo(pi_ref, 2 * r, 0.5, labels="better").kl[-1] == path.kl[-1]  # how much better is not seen


def test_pairs_are_those_that_are_drawn_and_labelled():
    pi_ref, r = problem(5, (3,))
    exact = torch.zeros(3, 3, dtype=torch.float64)
    for first, second in itertools.product(range(3), repeat=2):
        chance = torch.sigmoid(r[first] - r[second])
        exact[first, second] += pi_ref[first] * pi_ref[second] * chance
        exact[second, first] += pi_ref[first] * pi_ref[second] * (1 - chance)
    close(finite.pair_weights(pi_ref, r), exact)
    drawn = finite.pair_weights(pi_ref, r, pairs=40_000, generator=generator())
    assert ((drawn - exact).abs() <= 4 * (exact * (1 - exact) / 40_000).sqrt()).all()
    two = finite.pair_weights(*problem(6, (2, 4)), pairs=100, generator=generator())
    close(two.sum((-1, -2)), tensor([1.0, 1.0]))
    close(finite.preferences(tensor([1.0, 1.0, 3.0]), "better")[0], tensor([0.5, 0.5, 0.0]))


# ---------------------------------------------------------------------------------------- best-of-n, preferred tuning


@pytest.mark.parametrize("shape", [(8,), (3, 8)])
def test_best_of_n_is_below_the_frontier(shape):
    pi_ref, r = problem(7, shape)
    path = finite.best_of_n(pi_ref, r, (1, 2, 3, 10, 100))
    close(path.policies[0], pi_ref)
    close(path.policies[3], best_of_n.distribution(pi_ref, r, 10))
    assert (finite.gap(path.policies, pi_ref, r) >= -1e-9).all()
    assert finite.gap(path.policies, pi_ref, r)[1] > 1e-4
    assert (path.kl <= tensor([best_of_n.kl_bound(n) for n in (1, 2, 3, 10, 100)]) + 1e-9).all()


def test_best_of_n_is_on_the_frontier_if_the_reward_has_two_values():
    """Then every policy that treats equal rewards alike is a tilt of π_ref by the reward."""
    pi_ref, _ = problem(8)
    r = tensor([0.0, 1.0] * 4)
    close(finite.gap(finite.best_of_n(pi_ref, r).policies, pi_ref, r), torch.zeros(7, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("shape", [(8,), (3, 8)])
def test_preferred_tuning_ends_where_the_chosen_come_from(shape):
    pi_ref, r = problem(9, shape)
    wins = (pi_ref[..., None, :] * torch.sigmoid(r[..., :, None] - r[..., None, :])).sum(-1)  # against one of π_ref
    pi = finite.preferred_policy(pi_ref, r)
    close(pi, pi_ref * 2 * wins)
    path = finite.preferred_ft(pi_ref, r)
    close(path.policies[-1], pi, atol=1e-4)
    assert path.kl[-1] < math.log(2)
    assert finite.gap(pi, pi_ref, r) > 0


def test_chosen_by_the_better_reward_are_the_best_of_two():
    pi_ref, r = problem(10)
    r[3] = r[5]  # a tie
    close(finite.preferred_policy(pi_ref, r, "better"), best_of_n.distribution(pi_ref, r, 2))
    close(finite.preferred_ft(pi_ref, r, labels="better").policies[-1], best_of_n.distribution(pi_ref, r, 2), atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------- GRPO


def test_advantages_of_a_group_by_hand():
    close(finite.group_advantages(tensor([1.0, 2.0, 3.0]), scale=False), tensor([-1.0, 0.0, 1.0]))
    close(finite.group_advantages(tensor([1.0, 2.0, 3.0])), tensor([-1.0, 0.0, 1.0]) / (1 + 1e-4))
    close(finite.group_advantages(tensor([[2.0, 2.0], [0.0, 2.0]]))[0], tensor([0.0, 0.0]))


def test_gradient_of_k3_is_that_of_the_other_kl_unless_weighted():
    pi_ref, _ = problem(11)
    theta = problem(12)[0].log().requires_grad_()
    log_pi, old = theta.log_softmax(-1), theta.detach().softmax(-1)
    log_ratio = pi_ref.log() - log_pi  # ln ρ
    k3 = log_ratio.exp() - 1 - log_ratio
    weight = log_pi.exp() / old
    found = [torch.autograd.grad((old * x).sum(), theta, retain_graph=True)[0] for x in (k3, weight * k3)]
    kls = toy.kl(pi_ref, log_pi.exp()), toy.kl(log_pi.exp(), pi_ref)
    for gradient, kl in zip(found, kls, strict=True):
        close(gradient, torch.autograd.grad(kl, theta, retain_graph=True)[0])
    close((old * k3).sum(), kls[1])  # its value is the right one in both cases


@pytest.mark.parametrize("shape", [(8,), (3, 8)])
@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_grpo_without_the_division_ends_on_the_frontier(shape, beta):
    """At β G/(G−1): the group's own mean shrinks the gradient of the reward."""
    pi_ref, r = problem(0, shape)
    for size in (2, 8):
        path = finite.grpo(pi_ref, r, beta, generator(), scale=False, groups=512 // size, group_size=size)
        end, wanted = path.policies[-1], toy.optimal_policy(pi_ref, r, beta * size / (size - 1))
        assert finite.gap(end, pi_ref, r) <= 0.01
        close(end, wanted, atol=0.02)


def at_rest(pi_ref, r, beta, weighted, steps=1000):
    """Follow the exact gradient of GRPO in infinite groups, E[r]/σ and the KL, as a flow from π_ref."""
    theta = pi_ref.log()
    for _ in range(steps):
        pi = theta.softmax(-1)
        sigma = (toy.expectation(pi, r**2) - toy.expectation(pi, r) ** 2).sqrt()
        kl = toy.policy_gradient(theta, (pi / pi_ref).log()) if weighted else pi - pi_ref
        theta = theta + (toy.policy_gradient(theta, r) / sigma - beta * kl)
    return theta.softmax(-1)


@pytest.mark.parametrize("seed", SEEDS)
def test_grpo_with_the_division_ends_at_another_beta(seed):
    pi_ref, r = problem(seed)
    b = finite.grpo_betas(pi_ref, r, 2.0)
    wanted = toy.optimal_policy(pi_ref, r, b.item())
    sigma = (toy.expectation(wanted, r**2) - toy.expectation(wanted, r) ** 2).sqrt()
    close(b, 2.0 * sigma)  # b = β σ(π_b)
    assert abs(b.item() / 2.0 - 1) > 0.05  # and that is another β
    close(at_rest(pi_ref, r, 2.0, weighted=True), wanted, atol=1e-5)
    path = finite.grpo(pi_ref, r, 2.0, generator(seed), groups=4, group_size=128)
    close(path.policies[-1], wanted, atol=0.02)
    assert finite.gap(path.policies[-1], pi_ref, r) <= 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_grpo_with_the_published_kl_ends_below_the_frontier(seed):
    pi_ref, r = problem(seed)
    b = finite.grpo_betas(pi_ref, r, 1.0, weighted=False)
    wanted = finite.forward_optimal_policy(pi_ref, r, b)
    close(at_rest(pi_ref, r, 1.0, weighted=False), wanted, atol=1e-5)
    path = finite.grpo(pi_ref, r, 1.0, generator(seed), groups=4, group_size=128, weighted=False)
    close(path.policies[-1], wanted, atol=0.02)
    assert finite.gap(path.policies[-1], pi_ref, r) > 0.02


def test_nothing_holds_grpo_once_beta_is_too_low():
    """No b = β σ(π_b): the division by a σ that falls wins over the KL, which J itself would weigh at this β."""
    pi_ref, r = problem(1)
    assert finite.grpo_betas(pi_ref, r, 0.5) == 0
    path = finite.grpo(pi_ref, r, 0.5, generator(), groups=4, group_size=128, learning_rate=0.2)
    assert path.policies[-1, r.argmax()] > 0.99
    assert toy.optimal_policy(pi_ref, r, 0.5)[r.argmax()] < 0.5
    assert finite.grpo_betas(pi_ref, r, 0.5, weighted=False) > 0  # the other KL forbids to give anything up


def test_grpo_cannot_tell_queries_apart_by_the_size_of_their_rewards():
    """Two queries alike but for a factor of ten: both end alike, so that several queries end below the frontier."""
    row, rewards = problem(0)
    pi_ref, r = torch.stack([row, row]), torch.stack([rewards, 10 * rewards])
    b = finite.grpo_betas(pi_ref, r, 2.0)
    assert (b[1] / b[0]).item() == pytest.approx(10, rel=1e-6)
    wanted = torch.stack([toy.optimal_policy(row, x, beta.item()) for x, beta in zip(r, b, strict=True)])
    close(wanted[0], wanted[1], atol=1e-6)
    end = finite.grpo(pi_ref, r, 2.0, generator(), groups=4, group_size=128).policies[-1]
    close(end, wanted, atol=0.02)
    assert finite.gap(wanted, pi_ref, r) > 0.1
    assert finite.gap(end, pi_ref, r).item() == pytest.approx(finite.gap(wanted, pi_ref, r).item(), abs=0.02)


def test_forward_optimal_policy_is_optimal():
    pi_ref, r = problem(2)
    for beta in (0.05, 1.0, 20.0):
        pi = finite.forward_optimal_policy(pi_ref, r, beta)
        close(pi.sum(), tensor(1.0))
        multiplier = r + beta * pi_ref / pi
        close(multiplier, multiplier[0].expand(8), atol=1e-6)
        others = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(8), 1000))
        J = [toy.expectation(x, r) - beta * toy.kl(pi_ref.expand_as(x), x) for x in (pi, others, pi_ref)]
        assert J[0] >= J[1].max()
        assert J[0] >= J[2]
    close(finite.forward_optimal_policy(pi_ref, r, 1e6), pi_ref, atol=1e-5)
    both = finite.forward_optimal_policy(torch.stack([pi_ref] * 2), torch.stack([r] * 2), tensor([0.05, 20.0]))
    close(both[1], pi)


# --------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("shape", [(4,), (2, 4)])
def test_paths_start_at_the_reference_and_depend_on_the_seed_alone(shape):
    pi_ref, r = problem(13, shape)
    state = torch.random.get_rng_state()
    for method in (finite.ppo, finite.grpo):
        one, same, other = (method(pi_ref, r, 0.5, generator(seed), steps=5) for seed in (0, 0, 1))
        close(one.policies[0], pi_ref)
        assert one.policies.shape == (6, *shape)
        assert one.reward.shape == one.kl.shape == (6,)
        assert one.kl[0] == 0
        close(one.reward, (one.policies * r).sum(-1).reshape(6, -1).mean(-1))
        assert torch.equal(one.policies, same.policies)
        assert not torch.equal(one.policies, other.policies)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, r: finite.frontier(p, r, [1.0, 0.0]), "beta is 0.0; it must be a finite number above 0"),
        (lambda p, r: finite.frontier(p, r[:2], [1.0]), r"the shapes \(3,\) and \(2,\)"),
        (lambda p, r: finite.frontier(r, r, [1.0]), "is no distribution"),
        (lambda p, r: finite.place(p[:2], p, r), r"pi has shape \(2,\); its last axes must be those of pi_ref, \(3,\)"),
        (lambda p, r: finite.best_reward(p, r, -0.1), "a budget of nats must be 0 or more"),
        (lambda p, r: finite.ppo(p, r, -1.0, generator()), "beta is -1.0"),
        (lambda p, r: finite.ppo(p, r, 1.0, generator(), batch=1), "batch is 1; it must be a whole number, at least 2"),
        (lambda p, r: finite.ppo(p, r, 1.0, None), "generator is None; pass torch.Generator"),
        (lambda p, r: finite.dpo(p, r, 1.0, pairs=10), "generator is None; pass torch.Generator"),
        (lambda p, r: finite.dpo(p, r, 1.0, labels="best"), "labels is 'best'; it must be one of bradley-terry"),
        (lambda p, r: finite.dpo(p, r, 1.0, steps=0), "steps is 0"),
        (lambda p, r: finite.dpo(tensor([1.0, 0.0, 0.0]), r, 1.0), "pi_ref holds a 0: ln 0 is no θ to start from"),
        (lambda p, r: finite.grpo(p, r, 1.0, generator(), group_size=1), "group_size is 1"),
        (lambda p, r: finite.grpo(p, r, 1.0, generator(), learning_rate=0.0), "learning_rate is 0.0"),
        (lambda p, r: finite.group_advantages(tensor([1.0])), r"\(..., 2 or more\)"),
        (lambda p, r: finite.best_of_n(p, r, ()), "a list of one n or more"),
        (lambda p, r: finite.forward_optimal_policy(p, r, 0.0), "beta is 0.0; it must be finite and above 0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*problem(0, (3,)))
