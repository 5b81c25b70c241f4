"""PPO's arithmetic against independent derivations: closed forms, exact expectations, torch's own distributions."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from course_helpers.ppo import losses
from course_helpers.ppo.controllers import AdaptiveKLController, FixedKLController, RunningMoments

pytestmark = pytest.mark.usefixtures("one_thread")

quick = settings(deadline=None, derandomize=True, max_examples=40)
seeds = st.integers(0, 10**6)
shapes = st.tuples(st.integers(1, 5), st.integers(2, 7))
shares = st.sampled_from([0.0, 0.3, 0.95, 1.0])


def normal(seed, *shape, scale=1.0):
    return torch.from_numpy(np.random.default_rng([seed, *shape]).normal(0, scale, shape))


def some_mask(seed, rows, width):
    """Zeros and ones with gaps; each row has a 1, the first has two."""
    rng = np.random.default_rng(seed)
    mask = rng.random((rows, width)) < 0.6
    mask[np.arange(rows), rng.integers(width, size=rows)] = True
    mask[0, :2] = True
    return torch.from_numpy(mask.astype(float))


# ------------------------------------------------------------------------------------------------- means over the mask


@quick
@given(seeds, shapes)
def test_masked_mean_and_variance_are_those_of_the_chosen_tokens(seed, shape):
    x, mask = normal(seed, *shape), some_mask(seed, *shape)
    chosen = x[mask.bool()].numpy()
    assert losses.masked_mean(x, mask).item() == pytest.approx(chosen.mean(), abs=1e-12)
    assert losses.masked_var(x, mask).item() == pytest.approx(chosen.var(ddof=1), abs=1e-12)


def test_one_token_has_no_variance():
    assert losses.masked_var(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])).isnan()


@quick
@given(seeds, shapes, st.floats(0.1, 100), st.floats(-50, 50))
def test_whitening_gives_mean_0_and_variance_1(seed, shape, scale, shift):
    x, mask = normal(seed, *shape, scale=scale) + shift, some_mask(seed, *shape)
    chosen = losses.masked_whiten(x, mask)[mask.bool()]
    assert chosen.mean().item() == pytest.approx(0, abs=1e-8)
    before = x[mask.bool()].var().item()
    assert chosen.var().item() == pytest.approx(before / (before + 1e-8), rel=1e-9)
    kept = losses.masked_whiten(x, mask, shift_mean=False)[mask.bool()]
    assert kept.mean().item() == pytest.approx(x[mask.bool()].mean().item(), abs=1e-8)
    assert torch.allclose(kept - kept.mean(), chosen, atol=1e-8)


# ------------------------------------------------------------------------------------------ probabilities and distances


@quick
@given(seeds, shapes)
def test_log_probs_and_entropy_are_those_of_torchs_distributions(seed, shape):
    logits = normal(seed, *shape, 9, scale=3)
    tokens = torch.from_numpy(np.random.default_rng(seed).integers(0, 9, shape))
    distribution = Categorical(logits=logits)
    assert torch.allclose(losses.log_probs_of(logits, tokens), distribution.log_prob(tokens), atol=1e-12)
    assert torch.allclose(losses.entropy(logits), distribution.entropy(), atol=1e-12)


def test_log_probs_have_gradients_and_entropy_has_none():
    logits = torch.zeros(1, 2, 4, requires_grad=True)
    assert losses.log_probs_of(logits, torch.zeros(1, 2, dtype=torch.long)).requires_grad
    entropy = losses.entropy(logits)
    assert not entropy.requires_grad
    assert entropy.tolist() == pytest.approx(np.full((1, 2), math.log(4)))


def test_gradients_of_log_probabilities():
    """One at the token, minus the softmax: against finite differences, and against torch's own over many rows."""
    logits = torch.randn(2, 70, 9, dtype=torch.float64, requires_grad=True)
    tokens, upstream = torch.randint(9, (2, 70)), torch.randn(2, 70, dtype=torch.float64)
    small = torch.randn(1, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: losses.log_probs_of(z, tokens[:1, :3].clamp(max=4)), small)
    (ours,) = torch.autograd.grad(losses.log_probs_of(logits, tokens), logits, upstream)
    theirs = torch.distributions.Categorical(logits=logits).log_prob(tokens)
    assert torch.allclose(ours, torch.autograd.grad(theirs, logits, upstream)[0], atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_log_probabilities_of_half_precision_are_taken_in_float32(dtype):
    logits, tokens = normal(5, 2, 3, 50, scale=3).to(dtype), torch.tensor([[0, 7, 49], [1, 1, 8]])
    found = losses.log_probs_of(logits, tokens)
    assert found.dtype == torch.float32
    assert torch.allclose(found, Categorical(logits=logits.float()).log_prob(tokens), rtol=0, atol=1e-5)


def test_log_probabilities_of_an_impossible_token_elsewhere():
    logits = torch.tensor([[[0.0, -torch.inf, 0.0]]], requires_grad=True)
    log_prob = losses.log_probs_of(logits, torch.tensor([[0]]))
    log_prob.backward()
    assert log_prob.item() == pytest.approx(-math.log(2))
    assert logits.grad.tolist() == [[[0.5, 0.0, -0.5]]]


@quick
@given(seeds, shapes)
def test_full_penalty_is_the_kl_divergence(seed, shape):
    policy, reference = Categorical(logits=normal(seed, *shape, 9)), Categorical(logits=normal(seed + 1, *shape, 9))
    full = losses.kl_penalty(policy.logits, reference.logits, "full")
    assert torch.allclose(full, kl_divergence(policy, reference), atol=1e-12)
    assert (full >= 0).all()
    assert losses.kl_penalty(policy.logits, policy.logits, "full").abs().max() == 0


@quick
@given(seeds, shapes)
def test_expected_k1_is_the_full_kl(seed, shape):
    log_p, log_q = (normal(seed + i, *shape, 9).log_softmax(-1) for i in (0, 1))
    k1 = losses.kl_penalty(log_p, log_q, "kl")  # of every token of the vocabulary, not of the drawn one
    assert torch.allclose((log_p.exp() * k1).sum(-1), losses.kl_penalty(log_p, log_q, "full"), atol=1e-12)
    assert torch.equal(losses.kl_penalty(log_p, log_q, "abs"), losses.kl_penalty(log_q, log_p, "abs"))
    assert (losses.kl_penalty(log_p, log_q, "abs") >= k1).all()
    assert torch.equal(losses.kl_penalty(log_p, log_q), k1)  # what is taken when nothing is said


def test_expected_sum_of_k1_is_the_kl_of_whole_responses():
    """Σ_Y π(Y) Σ_t k1_t = KL(π‖π_ref) over all 64 responses of three tokens: why the sum over tokens is reported."""
    size, steps = 4, 3
    tables = [[normal(17 * which + t, size**t, size).log_softmax(-1) for t in range(steps)] for which in (0, 1)]
    expected_sum = kl = 0.0
    for response in itertools.product(range(size), repeat=steps):
        logs = []
        for table in tables:
            past, row = 0, []
            for t, token in enumerate(response):
                row.append(table[t][past, token])
                past = past * size + token
            logs.append(torch.stack(row)[None])
        probability = logs[0].sum().exp()
        expected_sum += probability * losses.kl_penalty(*logs, "kl").sum()
        kl += probability * (logs[0].sum() - logs[1].sum())
    assert expected_sum.item() == pytest.approx(kl.item(), abs=1e-12)

    past, by_token = torch.ones(1, dtype=torch.float64), 0.0
    for table, other in zip(*tables, strict=True):
        by_token += (past * losses.kl_penalty(table, other, "full")).sum()
        past = (past[:, None] * table.exp()).flatten()
    assert by_token.item() == pytest.approx(kl.item(), abs=1e-12)
    assert kl > 0.1


@pytest.mark.parametrize("seed", range(5))
def test_expected_k2_approaches_the_kl_for_close_policies(seed):
    logits, direction = normal(seed, 1, 1, 9), normal(seed + 1, 1, 1, 9)
    errors = []
    for step in (1e-1, 1e-2, 1e-3):
        log_p, log_q = logits.log_softmax(-1), (logits + step * direction).log_softmax(-1)
        k2 = (log_p.exp() * losses.kl_penalty(log_p, log_q, "mse")).sum()
        errors.append(abs(k2.item() / losses.kl_penalty(log_p, log_q, "full").item() - 1))
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 1e-2


def test_an_unknown_penalty_names_the_four():
    with pytest.raises(ValueError, match="'k4' is not known: choose kl, abs, mse or full"):
        losses.kl_penalty(torch.zeros(1, 1), torch.zeros(1, 1), "k4")


# ----------------------------------------------------------------------------------------------- rewards and advantages


@quick
@given(seeds, shapes, st.floats(-1, 5))
def test_rewards_of_a_response_add_up_to_score_minus_beta_kl(seed, shape, beta):
    mask, kl, scores = some_mask(seed, *shape), normal(seed, *shape), normal(seed, shape[0])
    rewards = losses.token_rewards(scores, kl, beta, mask)
    for row in range(shape[0]):
        counted = mask[row].bool()
        total = scores[row].item() - beta * kl[row][counted].sum().item()
        assert rewards[row].sum().item() == pytest.approx(total, abs=1e-10)
        assert (rewards[row][~counted] == 0).all()
        last = counted.nonzero().max()
        assert (rewards[row, last] + beta * kl[row, last]).item() == pytest.approx(scores[row].item(), abs=1e-10)


@quick
@given(seeds, shapes, st.integers(0, 3))
def test_whitened_rewards_keep_their_mean_and_padding_shares_it(seed, shape, padding):
    """Variance 1 over the mask; every other column of a row becomes μ (1 − 1/σ), and the values there stay 0."""
    mask = some_mask(seed, *shape)
    rewards, values = normal(seed, *shape, scale=3) * mask, normal(seed + 1, *shape) * mask
    columns = torch.arange(shape[0]) + shape[1] + padding - shape[0] + 1
    found, wider = losses.whiten_rewards(rewards, values, mask, columns.clamp(min=1))
    width = max(shape[1], int(columns.max()))
    assert found.shape == wider.shape == (shape[0], width)
    chosen, counted = rewards[mask.bool()], torch.nn.functional.pad(mask, (0, width - shape[1])).bool()
    inside = torch.arange(width) < columns.clamp(min=1)[:, None]
    spread = (chosen.var() + 1e-8).sqrt()
    of_padding = (chosen.mean() * (1 - 1 / spread)).item()
    for row in range(shape[0]):
        for t in range(width):
            if not inside[row, t]:
                assert found[row, t] == 0
            elif not counted[row, t]:
                assert found[row, t].item() == pytest.approx(of_padding, abs=1e-10)
            else:
                expected = (rewards[row, t] - chosen.mean()) / spread + chosen.mean()
                assert found[row, t].item() == pytest.approx(expected.item(), abs=1e-10)
    assert torch.equal(wider[:, : shape[1]], values)
    assert not wider[:, shape[1] :].any()


def test_rewards_are_made_where_the_kl_is_and_in_its_precision():
    """A score may be float64, and PyTorch's own choice of device, here one without memory, is never taken."""
    mask, kl, scores = some_mask(3, 2, 4).float(), normal(3, 2, 4).float(), normal(3, 2)
    columns = torch.tensor([4, 6])
    rewards = losses.token_rewards(scores, kl, 0.1, mask)
    assert rewards.dtype == torch.float32
    with torch.device("meta"):
        assert torch.equal(losses.token_rewards(scores, kl, 0.1, mask), rewards)
        elsewhere = losses.whiten_rewards(rewards, kl * mask, mask, columns)
    for found, expected in zip(elsewhere, losses.whiten_rewards(rewards, kl * mask, mask, columns), strict=True):
        assert torch.equal(found, expected)


def td_errors(rewards, values, gamma):
    following = torch.cat((values[:, 1:], torch.zeros(len(values), 1)), dim=1)
    return rewards + gamma * following - values


@quick
@given(seeds, shapes, shares, shares)
def test_advantages_equal_the_closed_double_sum(seed, shape, gamma, lam):
    rewards, values = normal(seed, *shape), normal(seed + 1, *shape)
    advantages, returns = losses.advantages_and_returns(rewards, values, gamma, lam)
    delta = td_errors(rewards, values, gamma)
    for t in range(shape[1]):
        expected = sum((gamma * lam) ** k * delta[:, t + k] for k in range(shape[1] - t))
        assert torch.allclose(advantages[:, t], expected, atol=1e-12)
    assert torch.equal(returns, advantages + values)


@quick
@given(seeds, shapes, shares)
def test_lambda_1_gives_the_discounted_return_minus_the_value(seed, shape, gamma):
    rewards, values = normal(seed, *shape), normal(seed + 1, *shape)
    advantages, returns = losses.advantages_and_returns(rewards, values, gamma, 1.0)
    for t in range(shape[1]):
        to_come = sum(gamma**k * rewards[:, t + k] for k in range(shape[1] - t))
        assert torch.allclose(returns[:, t], to_come, atol=1e-12)
        assert torch.allclose(advantages[:, t], to_come - values[:, t], atol=1e-12)


@quick
@given(seeds, shapes, shares)
def test_lambda_0_gives_the_td_error(seed, shape, gamma):
    rewards, values = normal(seed, *shape), normal(seed + 1, *shape)
    advantages, _ = losses.advantages_and_returns(rewards, values, gamma, 0.0)
    assert torch.allclose(advantages, td_errors(rewards, values, gamma), atol=1e-12)


def test_a_single_token_has_the_advantage_reward_minus_value():
    advantages, returns = losses.advantages_and_returns(torch.tensor([[5.0]]), torch.tensor([[2.0]]), 0.9, 0.8)
    assert (advantages.item(), returns.item()) == (3.0, 5.0)


@quick
@given(seeds, shapes, shares, shares, st.integers(1, 3))
def test_padding_behind_a_response_changes_no_advantage(seed, shape, gamma, lam, padding):
    rewards, values = normal(seed, *shape), normal(seed + 1, *shape)
    zeros = torch.zeros(shape[0], padding)
    padded = losses.advantages_and_returns(torch.cat((rewards, zeros), 1), torch.cat((values, zeros), 1), gamma, lam)
    for x, y in zip(padded, losses.advantages_and_returns(rewards, values, gamma, lam), strict=True):
        assert torch.equal(x[:, : shape[1]], y)


# --------------------------------------------------------------------------------------------------- clipped objectives


def gradient_of_policy_loss(seed, ratio, advantage, cliprange):
    """d loss / d logits at a given importance ratio, and ∇ ln π there."""
    logits = normal(seed, 1, 1, 7).requires_grad_()
    token = torch.tensor([[3]])
    log_prob = losses.log_probs_of(logits, token)
    score = torch.autograd.grad(log_prob.sum(), logits, retain_graph=True)[0]
    old = log_prob.detach() - math.log(ratio)
    loss = losses.policy_losses(log_prob, old, torch.full((1, 1), advantage, dtype=torch.float64), cliprange)
    return torch.autograd.grad(loss.tokens.sum(), logits)[0], score, loss


@quick
@given(seeds, st.floats(-3, 3))
def test_on_policy_gradient_is_reinforces(seed, advantage):
    gradient, score, loss = gradient_of_policy_loss(seed, 1.0, advantage, 0.2)
    assert torch.allclose(gradient, -advantage * score, atol=1e-12)
    assert loss.tokens.item() == pytest.approx(-advantage)
    assert loss.clipped.item() == 0


@quick
@given(seeds, st.floats(-3, 3), st.floats(0.81, 1.19))
def test_gradient_within_the_clip_is_minus_advantage_times_ratio_times_score(seed, advantage, ratio):
    gradient, score, loss = gradient_of_policy_loss(seed, ratio, advantage, 0.2)
    assert torch.allclose(gradient, -advantage * ratio * score, atol=1e-12)
    assert loss.clipped.item() == 0


@quick
@given(seeds, st.floats(0.1, 3), st.floats(1.3, 9))
def test_nothing_is_gained_beyond_the_clip_where_the_advantage_asks_for_it(seed, size, far):
    for advantage, ratio, edge in ((size, far, 1.2), (-size, 1 / far, 0.8)):
        gradient, _, loss = gradient_of_policy_loss(seed, ratio, advantage, 0.2)
        assert gradient.abs().max() == 0
        assert loss.tokens.item() == pytest.approx(-advantage * edge)
        assert loss.clipped.item() == 1


@quick
@given(seeds, st.floats(0.1, 3), st.floats(1.3, 9))
def test_the_way_back_is_never_clipped(seed, size, far):
    for advantage, ratio in ((-size, far), (size, 1 / far)):
        gradient, score, loss = gradient_of_policy_loss(seed, ratio, advantage, 0.2)
        assert torch.allclose(gradient, -advantage * ratio * score, atol=1e-12)
        assert loss.clipped.item() == 0


@quick
@given(seeds, shapes, st.floats(0, 0.5))
def test_the_clipped_loss_is_the_pessimistic_one(seed, shape, cliprange):
    log_probs, old, advantages = normal(seed, *shape), normal(seed + 1, *shape), normal(seed + 2, *shape)
    loss = losses.policy_losses(log_probs, old, advantages, cliprange)
    ratio = (log_probs - old).exp()
    assert (loss.tokens >= -advantages * ratio).all()
    assert torch.equal(loss.clipped > 0, loss.tokens > -advantages * ratio)
    assert loss.clipped.dtype == log_probs.dtype  # a number, so that its mean is a share


@pytest.mark.parametrize(
    ("value", "old", "returned", "loss", "gradient", "clipped"),
    [
        (1.0, 1.0, 3.0, 2.0, -2.0, 0),  # not moved: ½ (V − R)²
        (1.1, 1.0, 3.0, 1.805, -1.9, 0),  # within the clip
        (2.0, 1.0, 3.0, 0.5 * 1.8**2, 0.0, 1),  # moved further towards R than allowed: nothing more to gain
        (4.0, 1.0, 3.0, 0.5 * 1.8**2, 0.0, 1),  # beyond R, but the held value is further from it
        (0.0, 1.0, 3.0, 4.5, -3.0, 0),  # moved away from R: pulled back with full force
        (9.0, 1.0, 3.0, 18.0, 6.0, 0),  # too far beyond R: pulled back, too
        (0.0, 1.0, -1.0, 0.5 * 1.8**2, 0.0, 1),  # the clip holds on the way down as well
        (2.0, 1.0, -1.0, 4.5, 3.0, 0),
    ],
)
def test_value_loss_and_its_gradient(value, old, returned, loss, gradient, clipped):
    value = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    old, returned = torch.tensor([[old]], dtype=torch.float64), torch.tensor([[returned]], dtype=torch.float64)
    result = losses.value_losses(value, old, returned, 0.2)
    result.tokens.sum().backward()
    assert result.tokens.item() == pytest.approx(loss)
    assert value.grad.item() == pytest.approx(gradient)
    assert result.clipped.item() == clipped
    assert result.clipped.dtype == value.dtype  # a number, so that its mean is a share


@quick
@given(seeds, shapes)
def test_value_loss_without_a_clip_is_half_the_squared_error(seed, shape):
    values, old, returns = (normal(seed + i, *shape) for i in range(3))
    result = losses.value_losses(values, old, returns, 1e9)
    assert torch.allclose(result.tokens, torch.nn.functional.mse_loss(values, returns, reduction="none") / 2)
    assert result.clipped.sum() == 0


# -------------------------------------------------------------------------------------------- controllers and moments


@pytest.mark.parametrize(
    ("kl", "factor"),
    [(6.0, 1.0), (6.6, 1 + 0.1 * 0.0256), (5.4, 1 - 0.1 * 0.0256), (60.0, 1 + 0.2 * 0.0256), (0.0, 1 - 0.2 * 0.0256)],
)
def test_adaptive_coefficient_moves_towards_the_target(kl, factor):
    controller = AdaptiveKLController(0.2, target=6.0, horizon=10_000)
    for count in (1, 2):
        controller.update(kl, 256)
        assert controller.value == pytest.approx(0.2 * factor**count, rel=1e-14)


@quick
@given(st.floats(-1e3, 1e3), st.integers(1, 5000))
def test_adaptive_coefficient_is_monotone_and_held(kl, samples):
    controller = AdaptiveKLController(0.2, target=6.0, horizon=10_000)
    controller.update(kl, samples)
    assert (controller.value - 0.2) * (kl - 6.0) >= 0
    assert abs(controller.value / 0.2 - 1) <= 0.2 * samples / 10_000 * (1 + 1e-12)


def test_a_fixed_coefficient_stays():
    controller = FixedKLController(0.3)
    controller.update(1e9, 10**6)
    assert controller.value == 0.3


@quick
@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=6), min_size=1, max_size=6))
def test_running_moments_are_those_of_all_scores_so_far(batches):
    moments, seen = RunningMoments(), []
    for batch in batches:
        moments.update(torch.tensor(batch, dtype=torch.float64))
        seen += batch
        assert moments.count == len(seen)
        assert moments.mean == pytest.approx(np.mean(seen), abs=1e-9)
        if len(seen) > 1:
            assert moments.std == pytest.approx(np.std(seen, ddof=1), abs=1e-6)
    scores = torch.tensor(batches[-1], dtype=torch.float64)
    for shift in (False, True):
        expected = (scores - moments.mean * shift) / (moments.std + torch.finfo(torch.float64).eps)
        assert torch.allclose(moments.scale(scores, shift_mean=shift), expected)


def test_a_single_score_is_left_in_its_scale():
    moments = RunningMoments()
    moments.update(torch.tensor([5.0]))
    assert (moments.mean, moments.std) == (5.0, 1.0)
    assert moments.scale(torch.tensor([5.0]), shift_mean=False).item() == pytest.approx(5.0)


@pytest.mark.parametrize(("name", "bad"), [("target", 0.0), ("target", math.nan), ("horizon", -1), ("horizon", None)])
def test_a_controller_names_what_it_cannot_work_with(name, bad):
    with pytest.raises(ValueError, match=f"^{name} is {bad}"):
        AdaptiveKLController(**({"init_kl_coef": 0.2, "target": 6.0, "horizon": 100} | {name: bad}))
