"""The DPO loss from scratch: identities, autograd, and TRL's own on the same batches."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from course_helpers import toy
from course_helpers.dpo import head
from course_helpers.dpo.losses import (
    LOSS_TYPES,
    dpo_loss,
    gradient_weight,
    implicit_rewards,
    loss_of_margin,
    sequence_log_probs,
)
from course_helpers.dpo.training import lora_config
from tests.dpo_runs import frozen_copy, small_policy, trainer_of

F64 = torch.float64
SMOOTHED = [("sigmoid", 0.0), ("sigmoid", 0.1), ("ipo", 0.0), ("hinge", 0.0)]


def reals(*values):
    return torch.tensor(values, dtype=F64)


def four(seed=0, count=50, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return [-20 + scale * torch.randn(count, generator=generator, dtype=F64) for _ in range(4)]


# ------------------------------------------------------------------------------------------------------- known values


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 5.0])
def test_at_the_reference_the_loss_is_ln_2(beta):
    w, rejected = reals(-3.0, -50.0), reals(-7.0, -1.0)
    torch.testing.assert_close(
        dpo_loss(w, rejected, w, rejected, beta), reals(math.log(2), math.log(2)), rtol=0, atol=1e-15
    )
    torch.testing.assert_close(dpo_loss(w, rejected, w, rejected, beta, "ipo"), reals(1, 1) / (2 * beta) ** 2)
    assert dpo_loss(w, rejected, w, rejected, beta, "hinge").tolist() == [1.0, 1.0]


def test_by_hand():
    # β = 0.5: r̂_w = 0.5 (-10 + 12) = 1, r̂_l = 0.5 (-9 + 8) = -0.5, margin 1.5
    numbers = reals(-10.0), reals(-9.0), reals(-12.0), reals(-8.0)
    assert dpo_loss(*numbers, beta=0.5).item() == pytest.approx(math.log(1 + math.exp(-1.5)), abs=1e-15)
    assert dpo_loss(*numbers, beta=0.5, loss_type="ipo").item() == pytest.approx((3.0 - 1.0) ** 2)
    assert dpo_loss(*numbers, beta=0.5, loss_type="hinge").item() == 0.0
    smoothed = 0.9 * math.log(1 + math.exp(-1.5)) + 0.1 * math.log(1 + math.exp(1.5))
    assert dpo_loss(*numbers, beta=0.5, label_smoothing=0.1).item() == pytest.approx(smoothed, abs=1e-15)


def test_it_is_bradley_terry_on_implicit_rewards():
    w, rejected, ref_w, ref_l = four()
    chance = toy.preference_probability(implicit_rewards(w, ref_w, 0.3), implicit_rewards(rejected, ref_l, 0.3))
    torch.testing.assert_close(dpo_loss(w, rejected, ref_w, ref_l, 0.3), -chance.log())


def test_a_constant_for_each_query_changes_nothing():
    w, rejected, ref_w, ref_l = four()
    shift = torch.linspace(-5, 5, len(w), dtype=F64)
    torch.testing.assert_close(dpo_loss(w, rejected, ref_w, ref_l), dpo_loss(w + shift, rejected + shift, ref_w, ref_l))
    torch.testing.assert_close(dpo_loss(w, rejected, ref_w, ref_l), dpo_loss(w, rejected, ref_w + shift, ref_l + shift))


def test_swapping_a_pair_turns_the_margin_round():
    w, rejected, ref_w, ref_l = four()
    one, other = dpo_loss(w, rejected, ref_w, ref_l), dpo_loss(rejected, w, ref_l, ref_w)
    margin = implicit_rewards(w - rejected, ref_w - ref_l, 0.1)
    torch.testing.assert_close(other - one, margin)  # -ln σ(-m) + ln σ(m) = m


def test_extreme_margins_stay_finite():
    far = reals(-1e4, 1e4)
    for loss_type, smoothing in SMOOTHED:
        assert torch.isfinite(loss_of_margin(far, 0.1, loss_type, smoothing)).all()
    assert loss_of_margin(reals(-1e4)).item() == pytest.approx(1e4)


# ---------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize(("loss_type", "smoothing"), SMOOTHED)
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_weight_is_minus_the_slope(loss_type, smoothing, beta):
    margin = torch.linspace(-4, 4, 83, dtype=F64).requires_grad_()
    (slope,) = torch.autograd.grad(loss_of_margin(margin, beta, loss_type, smoothing).sum(), margin)
    torch.testing.assert_close(gradient_weight(margin.detach(), beta, loss_type, smoothing), -slope, rtol=0, atol=1e-12)


def test_the_weight_by_default_and_at_the_hinge():
    torch.testing.assert_close(loss_of_margin(reals(0.3), loss_type="ipo"), reals((0.2 / 0.1) ** 2))
    assert gradient_weight(reals(0.0, math.log(3))).tolist() == pytest.approx([0.5, 0.25])
    torch.testing.assert_close(gradient_weight(reals(0.3), loss_type="ipo"), reals(2 * 0.2 / 0.1**2))
    at_the_hinge = gradient_weight(reals(0.999, 1.0, 1.001), loss_type="hinge")
    assert at_the_hinge.tolist() == [1.0, 0.0, 0.0]  # as autograd has it


@pytest.mark.parametrize(("loss_type", "smoothing"), SMOOTHED)
def test_the_gradient_formula_is_autograd(loss_type, smoothing):
    # ∇ = -weight β (∇ ln π(Y_w) - ∇ ln π(Y_l)) for a softmax policy over eight responses, whose score is known
    generator = torch.Generator().manual_seed(1)
    theta = torch.randn(8, generator=generator, dtype=F64).requires_grad_()
    ref = torch.randn(8, generator=generator, dtype=F64).log_softmax(-1)
    w, rejected, beta = 2, 5, 0.7
    log_pi = theta.log_softmax(-1)
    loss = dpo_loss(log_pi[w], log_pi[rejected], ref[w], ref[rejected], beta, loss_type, smoothing)
    (found,) = torch.autograd.grad(loss, theta)
    margin = beta * (log_pi[w] - ref[w] - log_pi[rejected] + ref[rejected]).detach()
    scores = torch.eye(8, dtype=F64) - theta.softmax(-1).detach()
    expected = -gradient_weight(margin, beta, loss_type, smoothing) * beta * (scores[w] - scores[rejected])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_where_each_loss_is_smallest():
    margin = torch.linspace(-6, 6, 240001, dtype=F64)
    assert margin[loss_of_margin(margin, 0.1, "ipo").argmin()].item() == pytest.approx(0.5, abs=1e-4)
    smallest = margin[loss_of_margin(margin, 0.1, "sigmoid", 0.2).argmin()].item()
    assert smallest == pytest.approx(math.log(0.8 / 0.2), abs=1e-4)  # σ(m) = 1 - ε
    assert (loss_of_margin(margin, 0.1, "sigmoid").diff() < 0).all()  # it never has enough
    hinge = loss_of_margin(margin, 0.1, "hinge")
    assert (hinge[margin >= 1] == 0).all()
    assert (hinge[margin < 1] > 0).all()


@given(st.floats(-30, 30), st.floats(0.01, 10), st.sampled_from(LOSS_TYPES))
def test_losses_are_never_negative_and_convex(margin, beta, loss_type):
    around = reals(margin - 0.5, margin, margin + 0.5)
    low, middle, high = loss_of_margin(around, beta, loss_type)
    assert middle >= 0
    assert low + high >= 2 * middle - 1e-9 * max(1.0, middle.item())


# -------------------------------------------------------------------------------------------------- log-probabilities


def test_sequence_log_probs_are_sums_over_the_response():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 11, generator=generator, dtype=F64)
    ids = torch.randint(11, (2, 6), generator=generator)
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]])
    expected = [
        sum(logits[row, t - 1].log_softmax(-1)[ids[row, t]].item() for t in range(6) if mask[row, t]) for row in (0, 1)
    ]
    torch.testing.assert_close(sequence_log_probs(logits, ids, mask), reals(*expected))


def test_they_are_cross_entropy_with_labels():
    generator = torch.Generator().manual_seed(2)
    logits, ids = torch.randn(1, 9, 5, generator=generator), torch.randint(5, (1, 9), generator=generator)
    mask = torch.zeros(1, 9, dtype=torch.long)
    mask[0, 4:] = 1
    labels = ids.masked_fill(mask == 0, -100)
    loss = F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="sum")
    torch.testing.assert_close(sequence_log_probs(logits, ids, mask), -loss[None])


def test_an_empty_response_has_log_probability_0():
    assert sequence_log_probs(torch.randn(1, 3, 4), torch.tensor([[1, 2, 3]]), torch.zeros(1, 3)).tolist() == [0.0]


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"beta": 0}, "beta is 0; it must be a finite number above 0"),
        ({"beta": -0.1}, "beta is -0.1"),
        ({"beta": math.nan}, "beta is nan"),
        ({"beta": math.inf}, "beta is inf"),
        ({"loss_type": "dpo"}, r"^loss_type is 'dpo'; it must be one of sigmoid, ipo, hinge\."),
        ({"label_smoothing": 0.5}, r"^label_smoothing is 0\.5; it must be from 0 to below ½, and 0 unless"),
        ({"label_smoothing": -0.1}, "below ½"),
        ({"label_smoothing": 0.1, "loss_type": "ipo"}, "0 unless loss_type is 'sigmoid'"),
        ({"label_smoothing": 0.1, "loss_type": "hinge"}, "0 unless loss_type is 'sigmoid'"),
    ],
)
def test_settings_that_cannot_work(change, words):
    with pytest.raises(ValueError, match=words):
        dpo_loss(*four(), **change)
    if set(change) != {"beta"}:
        with pytest.raises(ValueError, match=words):
            gradient_weight(reals(0.0), **change)


def test_shapes_that_do_not_fit():
    w, rejected, ref_w, ref_l = four()
    with pytest.raises(ValueError, match=r"shapes \[\(50,\), \(3,\), \(50,\), \(50,\)\]; pass one number a pair"):
        dpo_loss(w, rejected[:3], ref_w, ref_l)
    with pytest.raises(ValueError, match=r"have shapes \(1, 3, 4\), \(1, 2\), \(1, 3\); expected \(B, L, V\)"):
        sequence_log_probs(torch.zeros(1, 3, 4), torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"^a response starts at the first place, .* put a query before it\."):
        sequence_log_probs(torch.zeros(1, 3, 4), torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3))


# ----------------------------------------------------------------------------------------------------------- TRL's own


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("with_lora", [False, True], ids=["full", "LoRA"])
class TestTRL:
    """TRL's loss and its gradient on a batch, against lesson 04's functions on the same batch in 64 bits."""

    def test_the_loss_is_trls_on_the_same_batch(self, tmp_path, loss_type, with_lora):
        trainer, reference, batch = away_from_the_reference(tmp_path, loss_type, with_lora, F64)
        theirs, gradient = trls(trainer, batch)
        ours, truth = lesson_04s(trainer, reference, batch, loss_type)
        assert ours != pytest.approx({"sigmoid": math.log(2), "ipo": 6.25, "hinge": 1.0}[loss_type], abs=1e-3)
        assert ours == pytest.approx(theirs, rel=1e-7, abs=1e-7)  # TRL keeps the reference's numbers in float32
        assert furthest(gradient, truth) <= 2e-7 * largest(truth)

    def test_in_float32_it_is_as_exact_as_with_trls_own_head(self, monkeypatch, tmp_path, loss_type, with_lora):
        trainer, reference, batch = away_from_the_reference(tmp_path, loss_type, with_lora, torch.float32)
        with_ours, gradient = trls(trainer, batch)
        monkeypatch.setattr(head, "_suits", lambda *_: False)
        with_theirs, their_gradient = trls(trainer, batch)
        loss, truth = lesson_04s(trainer, reference, batch, loss_type)
        assert (with_ours, with_theirs) == pytest.approx((loss, loss), rel=2e-6, abs=2e-6)
        assert furthest(gradient, truth) <= 1.5 * furthest(their_gradient, truth)


def away_from_the_reference(folder, loss_type, with_lora, dtype):
    """A trainer whose model has left its reference, so that margins are not 0; the reference; a batch."""
    model, tokenizer = small_policy()
    reference = frozen_copy(model.to(dtype))
    lora = lora_config(model, rank=4) if with_lora else None
    trainer = trainer_of(folder, model, tokenizer, batch_size=8, lora=lora, loss_type=loss_type, beta=0.2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in trained(trainer.model):
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return trainer, reference, next(iter(trainer.get_train_dataloader()))


def trls(trainer, batch):
    """TRL's loss, and its gradient by all that is trained."""
    loss = trainer.compute_loss(trainer.model, batch)
    return loss.item(), torch.autograd.grad(loss, trained(trainer.model))


def lesson_04s(trainer, reference, batch, loss_type):
    """Both as lesson 04's functions give them in 64 bits; the models are float64 afterwards."""
    loss = scratch_loss(trainer.model.double(), reference.double(), batch, 0.2, loss_type)
    return loss.item(), torch.autograd.grad(loss, trained(trainer.model))


def trained(model):
    return [weight for weight in model.parameters() if weight.requires_grad]


def furthest(gradient, truth):
    return max((a - b).abs().max().item() for a, b in zip(gradient, truth, strict=True))


def largest(gradient):
    return max(part.abs().max().item() for part in gradient)


def scratch_loss(model, reference, batch, beta, loss_type):
    """The loss as lesson 04 computes it, from the batch that TRL's collator made: chosen rows first."""
    rows = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    mask = batch["completion_mask"]
    log_probs = sequence_log_probs(model(**rows).logits, batch["input_ids"], mask)
    with torch.no_grad():
        ref_log_probs = sequence_log_probs(reference(**rows).logits, batch["input_ids"], mask)
    if loss_type == "ipo":  # TRL's is on means over tokens, the paper's on whole responses
        log_probs, ref_log_probs = log_probs / mask.sum(1), ref_log_probs / mask.sum(1)
    w, rejected = log_probs.chunk(2)
    ref_w, ref_l = ref_log_probs.chunk(2)
    return dpo_loss(w, rejected, ref_w, ref_l, beta, loss_type).mean()
