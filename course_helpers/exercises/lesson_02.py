"""Exercises of lesson 02: the gradient of an expectation, its estimate from draws, and what takes the noise out of it.

A function with the exercise's name is the solution, written as a learner would; one with an underscore is a mistake.
Arguments are torch tensors of float64. Policies are softmaxes of θ over M responses.
"""

import torch

from course_helpers.exercises.check import Exercise, Mistake
from course_helpers.exercises.values import reals
from course_helpers.translation import N_

THETA = reals([-0.5, 1.0, 0.5])  # the lesson's policy and rewards
REWARDS = reals([1.0, 0.3, -1.0])

# ------------------------------------------------------------------------------------------------ 2.1 exact gradient


def exact_gradient(theta, r):
    """∇E[r] with respect to θ, from θ and the rewards of all M responses."""
    pi = theta.softmax(0)
    return pi * (r - (pi * r).sum())


EXACT_GRADIENT = Exercise(
    number="2.1",
    title=N_("the exact gradient of the expected reward"),
    task=N_(
        "`exact_gradient(theta, r)` gets θ and the rewards of all M responses, two tensors (M,). The policy is "
        "softmax(θ). It returns the gradient of E[r] = Σ π(Y) r(Y) with respect to θ, a tensor (M,)."
    ),
    difficulty="easy",
    minutes=4,
    right=exact_gradient,
    why=N_("Component Y is π(Y) (r(Y) − E[r]): a response rises if it is better than the policy's own average."),
    inputs=(
        (THETA, REWARDS),
        (reals([0.0, 0.0, 0.0, 0.0]), reals([1.0, 2.0, 3.0, 6.0])),
        (THETA, reals([2.0, 2.0, 2.0])),
        (reals([2.0, -1.0]), reals([0.0, 1.0])),
    ),
    mistakes=(
        Mistake(
            N_("E[r] is not subtracted: with equal rewards your gradient is not 0, although no response is better."),
            lambda theta, r: theta.softmax(0) * r,
        ),
        Mistake(
            N_("The factor π(Y) is missing: a response that is never written cannot matter as much as a frequent one."),
            lambda theta, r: r - (theta.softmax(0) * r).sum(),
        ),
        Mistake(
            N_("You subtracted the plain mean of the rewards. E[r] weighs each by its probability."),
            lambda theta, r: theta.softmax(0) * (r - r.mean()),
        ),
        Mistake(
            N_("The sign is turned round: this points downhill, to where E[r] falls."),
            lambda theta, r: -exact_gradient(theta, r),
        ),
        Mistake(
            N_("θ was used as if it were π. Probabilities come out of the softmax."),
            lambda theta, r: theta * (r - (theta * r).sum()),
        ),
    ),
    hints=(
        N_("First π = softmax(θ), then the number E[r] = Σ π(Y) r(Y)."),
        N_("The lesson's known answer: component Y is π(Y), times how much better than E[r] that response is."),
    ),
)

# --------------------------------------------------------------------------------------------------------- 2.2 score


def score_of_response(theta, y):
    """∇ln π(y) with respect to θ, for response number y."""
    score = -theta.softmax(0)
    score[y] += 1
    return score


def _one_at(y, like):
    return torch.nn.functional.one_hot(torch.tensor(y), len(like)).to(like.dtype)


SCORE_OF_RESPONSE = Exercise(
    number="2.2",
    title=N_("the score of a response"),
    task=N_(
        "`score_of_response(theta, y)` gets θ, a tensor (M,), and the number y of a response, from 0 to M − 1. It "
        "returns ∇ln π(y) with respect to θ, a tensor (M,), for the policy softmax(θ)."
    ),
    difficulty="easy",
    minutes=4,
    right=score_of_response,
    why=N_("ln π(y) = θ_y − ln Σ exp θ, so the gradient is 1 at y itself, minus π everywhere."),
    inputs=((THETA, 0), (THETA, 1), (THETA, 2), (reals([3.0, -1.0]), 1)),
    mistakes=(
        Mistake(
            N_("That is ∇π(y), not ∇ln π(y): by the log-derivative trick the one is π(y) times the other."),
            lambda theta, y: theta.softmax(0)[y] * score_of_response(theta, y),
        ),
        Mistake(
            N_("The sign is turned round: a step along this would make y less likely."),
            lambda theta, y: -score_of_response(theta, y),
        ),
        Mistake(
            N_("− π is missing. The softmax divides by the sum of all exponentials, and that sum depends on every θ."),
            lambda theta, y: _one_at(y, theta),
        ),
        Mistake(
            N_("You have 1 − π in every component. The 1 belongs to component y alone."),
            lambda theta, y: 1 - theta.softmax(0),
        ),
        Mistake(
            N_("θ was subtracted where π belongs. Probabilities come out of the softmax."),
            lambda theta, y: _one_at(y, theta) - theta,
        ),
    ),
    hints=(
        N_("Write ln π(y) as a difference: θ_y minus the logarithm of a sum."),
        N_("θ_y contributes 1 in component y. The gradient of ln Σ exp θ is the softmax."),
    ),
)

# ----------------------------------------------------------------------------------------------- 2.3 REINFORCE estimate


def reinforce_estimate(theta, drawn, rewards):
    """The estimate of ∇E[r] from n draws: the mean of r(y_i) ∇ln π(y_i)."""
    pi = theta.softmax(0)
    scores = torch.eye(len(pi), dtype=pi.dtype)[drawn] - pi
    return (rewards[:, None] * scores).mean(0)


def _weighted_by_pi(theta, drawn, rewards):
    return reinforce_estimate(theta, drawn, rewards * theta.softmax(0)[drawn])


def _without_pi(theta, drawn, rewards):
    return (rewards[:, None] * torch.eye(len(theta), dtype=theta.dtype)[drawn]).mean(0)


REINFORCE_ESTIMATE = Exercise(
    number="2.3",
    title=N_("an estimate from draws"),
    task=N_(
        "`reinforce_estimate(theta, drawn, rewards)` gets θ (M,), the numbers of n drawn responses (n,), and the "
        "reward of each draw (n,). It returns the score-function estimate of ∇E[r], a tensor (M,), without a baseline."
    ),
    difficulty="medium",
    minutes=6,
    right=reinforce_estimate,
    why=N_("Every draw contributes its reward times its score, and the mean over n draws estimates the expectation."),
    inputs=(
        (THETA, torch.tensor([2, 2, 1, 2, 1]), REWARDS[[2, 2, 1, 2, 1]]),
        (THETA, torch.tensor([0]), reals([1.0])),
        (reals([0.2, -0.3]), torch.tensor([1, 1, 1]), reals([0.5, 0.5, 0.5])),
        (THETA, torch.tensor([0, 1]), reals([0.0, 0.0])),
    ),
    mistakes=(
        Mistake(
            N_("You added the draws up. The mean is asked for: otherwise the estimate grows with n."),
            lambda theta, drawn, rewards: len(drawn) * reinforce_estimate(theta, drawn, rewards),
        ),
        Mistake(
            N_(
                "A factor π(y) too many: that is r ∇π, the forgotten log. The draws themselves already weigh each "
                "response by its probability."
            ),
            _weighted_by_pi,
        ),
        Mistake(
            N_("The rewards are left out: that is the gradient of maximum likelihood on the drawn responses."),
            lambda theta, drawn, rewards: reinforce_estimate(theta, drawn, torch.ones_like(rewards)),
        ),
        Mistake(
            N_("You divided by the number of responses M. The mean runs over the n draws."),
            lambda theta, drawn, rewards: reinforce_estimate(theta, drawn, rewards) * len(drawn) / len(theta),
        ),
        Mistake(
            N_("The sign is turned round: this is the gradient of a loss, not of the expected reward."),
            lambda theta, drawn, rewards: -reinforce_estimate(theta, drawn, rewards),
        ),
        Mistake(
            N_("− π is missing from the score: it is 1 at the drawn response, minus π everywhere."),
            _without_pi,
        ),
        Mistake(
            N_(
                "You subtracted the mean reward. A baseline is a good idea, but this estimate is asked for without one."
            ),
            lambda theta, drawn, rewards: reinforce_estimate(theta, drawn, rewards - rewards.mean()),
        ),
    ),
    hints=(
        N_("For each draw: its reward times its score, which is exercise 2.2. Then the mean."),
        N_("A loop over the pairs of `drawn` and `rewards` will do; divide the sum by n."),
        N_("The rows `torch.eye(M)[drawn]` hold the 1 of every score; what else does a score contain?"),
    ),
)

# ------------------------------------------------------------------------------------------------- 2.4 a step of ascent


def policy_after_step(theta, gradient, rate):
    """The policy π after one step of gradient ascent on θ."""
    return (theta + rate * gradient).softmax(0)


POLICY_AFTER_STEP = Exercise(
    number="2.4",
    title=N_("one step of ascent"),
    task=N_(
        "`policy_after_step(theta, gradient, rate)` gets θ (M,), the gradient of E[r] with respect to θ (M,), and the "
        "learning rate η. It returns the policy after one step of gradient ascent: M probabilities."
    ),
    difficulty="easy",
    minutes=3,
    right=policy_after_step,
    why=N_("The step is taken in θ, uphill, and the softmax makes probabilities of what it arrives at."),
    inputs=(
        (THETA, reals([0.128, 0.189, -0.316]), 0.5),
        (THETA, reals([0.128, 0.189, -0.316]), 4.0),
        (reals([0.0, 0.0]), reals([0.25, -0.25]), 1.0),
        (THETA, reals([0.0, 0.0, 0.0]), 1.0),
    ),
    mistakes=(
        Mistake(
            N_("You went downhill: minus is for a loss. An expected reward is climbed."),
            lambda theta, gradient, rate: policy_after_step(theta, gradient, -rate),
        ),
        Mistake(
            N_("The learning rate is left out: the step is η times the gradient."),
            lambda theta, gradient, rate: policy_after_step(theta, gradient, 1.0),
        ),
        Mistake(
            N_("That is the new θ. The policy is its softmax."),
            lambda theta, gradient, rate: theta + rate * gradient,
        ),
        Mistake(
            N_("You added the step to the probabilities. The gradient was taken with respect to θ, so θ has to move."),
            lambda theta, gradient, rate: theta.softmax(0) + rate * gradient,
        ),
        Mistake(
            N_("Only the step is left: the new θ is the old one plus the step."),
            lambda theta, gradient, rate: (rate * gradient).softmax(0),
            lambda theta, gradient, rate: rate * gradient,
        ),
    ),
    hints=(
        N_("What moves is θ. In which direction does an ascent go along the gradient?"),
        N_("Two moves: θ plus η times the gradient, then the softmax."),
    ),
)

# --------------------------------------------------------------------------------------------------- 2.5 the loss


def reinforce_loss(log_pi, rewards):
    """A loss whose gradient is minus the REINFORCE estimate, from ln π(y_i) and r(y_i) of n draws."""
    return -(rewards * log_pi).mean()


REINFORCE_LOSS = Exercise(
    number="2.5",
    title=N_("a loss for REINFORCE"),
    task=N_(
        "`reinforce_loss(log_pi, rewards)` gets ln π(y_i) of n drawn responses and their rewards, two tensors (n,). "
        "It returns one number: a loss that an optimizer may minimise, whose gradient is minus the mean of r(y_i) ∇ln "
        "π(y_i)."
    ),
    difficulty="medium",
    minutes=4,
    right=reinforce_loss,
    why=N_("Optimizers go downhill, so the mean of r ln π, whose gradient is the estimate, gets a minus."),
    inputs=(
        (reals([-0.6, -1.1, -2.1, -0.6]), reals([0.3, -1.0, 1.0, 0.3])),
        (reals([-1.5]), reals([2.0])),
        (reals([-0.2, -3.0]), reals([1.0, -1.0])),
        (reals([-0.7, -0.7]), reals([0.0, 0.0])),
    ),
    mistakes=(
        Mistake(
            N_("The minus is lost. An optimizer minimises, so it would look for the worst response."),
            lambda log_pi, rewards: (rewards * log_pi).mean(),
        ),
        Mistake(
            N_(
                "The log is forgotten: with π in place of ln π a response counts by its probability squared, and rare "
                "good ones are not heard."
            ),
            lambda log_pi, rewards: -(rewards * log_pi.exp()).mean(),
            lambda log_pi, rewards: (rewards * log_pi.exp()).mean(),
        ),
        Mistake(
            N_("You added the draws up. With the mean, the gradient does not grow with the batch."),
            lambda log_pi, rewards: -(rewards * log_pi).sum(),
        ),
        Mistake(
            N_(
                "That is a product of two means. Each reward belongs to its own response: multiply first, then average."
            ),
            lambda log_pi, rewards: -rewards.mean() * log_pi.mean(),
        ),
        Mistake(
            N_("The rewards are left out: that is the loss of maximum likelihood."),
            lambda log_pi, rewards: -log_pi.mean(),
        ),
        Mistake(
            N_("What comes in is ln π already. The logarithm of a negative number is NaN."),
            lambda log_pi, rewards: -(rewards * log_pi.log()).mean(),
        ),
    ),
    hints=(
        N_("The lesson's stand-in is the mean of r(y_i) ln π(y_i). Its gradient is the estimate of ∇E[r]."),
        N_("That gradient points uphill. What makes a valley of a hill?"),
    ),
)

# ----------------------------------------------------------------------------------------------------- 2.6 baseline


def minus_mean_of_others(rewards):
    """Advantages: each of n rewards, minus the mean of the others."""
    n = len(rewards)
    others = (rewards.sum() - rewards) / (n - 1)
    return rewards - others


def _sum_of_others(rewards):
    return rewards.sum() - rewards


MINUS_MEAN_OF_OTHERS = Exercise(
    number="2.6",
    title=N_("a baseline from the other draws"),
    task=N_(
        "`minus_mean_of_others(rewards)` gets the rewards of n draws, a tensor (n,) with n of 2 or more. It returns "
        "the advantages (n,): each reward minus the mean of the other rewards, so that the estimate keeps its mean."
    ),
    difficulty="medium",
    minutes=5,
    right=minus_mean_of_others,
    why=N_(
        "The others' mean does not know the draw it is subtracted from, so it changes the variance and not the mean."
    ),
    inputs=(
        (reals([9.0, 8.3, 7.0, 8.3]),),
        (reals([1.0, -1.0]),),
        (reals([0.3, 0.3, 0.3]),),
        (reals([-1.0, 0.3, 1.0, -1.0, 0.3]),),
    ),
    mistakes=(
        Mistake(
            N_("You subtracted the mean of all n rewards, its own among them: the estimate shrinks by (n − 1)/n."),
            lambda rewards: rewards - rewards.mean(),
        ),
        Mistake(
            N_("The sum of the others is divided by n. There are n − 1 of them."),
            lambda rewards: rewards - _sum_of_others(rewards) / len(rewards),
        ),
        Mistake(
            N_("You subtracted the sum of the others. Their mean is meant."),
            lambda rewards: rewards - _sum_of_others(rewards),
        ),
        Mistake(
            N_("That is the baseline. The advantage is the reward minus the baseline."),
            lambda rewards: _sum_of_others(rewards) / (len(rewards) - 1),
        ),
        Mistake(
            N_("The sign is turned round: an advantage is above 0 where the reward is above the baseline."),
            lambda rewards: -minus_mean_of_others(rewards),
        ),
        Mistake(
            N_("The correction is upside down: reward minus mean is too short by (n − 1)/n, so multiply by n/(n − 1)."),
            lambda rewards: (rewards - rewards.mean()) * (len(rewards) - 1) / len(rewards),
        ),
    ),
    hints=(
        N_("The sum of the others is the sum of all, minus its own. How many others are there?"),
        N_("Another way: reward minus the mean of all, stretched by a factor that depends on n alone."),
    ),
)

# ---------------------------------------------------------------------------------------------------- 2.7 whitening


def whitened(rewards):
    """n rewards, shifted to mean 0 and scaled to variance 1; equal rewards become 0."""
    centred = rewards - rewards.mean()
    return centred / (rewards.std() + 1e-8)


WHITENED = Exercise(
    number="2.7",
    title=N_("whitening"),
    task=N_(
        "`whitened(rewards)` gets the rewards of n draws, a tensor (n,) with n of 2 or more. It returns them with "
        "mean 0 and variance 1 (the unbiased one, which divides by n − 1). Equal rewards become 0: add 1e-8 to the "
        "standard deviation."
    ),
    difficulty="medium",
    minutes=4,
    right=whitened,
    why=N_(
        "Shifting makes the mean 0, dividing by the standard deviation makes the variance 1, whatever the unit was."
    ),
    inputs=(
        (reals([1.0, 0.3, -1.0, 0.3]),),
        (reals([9.0, 8.3, 7.0]),),
        (reals([100.0, -300.0]),),
        (reals([2.0, 2.0, 2.0]),),
    ),
    mistakes=(
        Mistake(
            N_("You divided by the variance. Its root, the standard deviation, has the unit of the rewards."),
            lambda rewards: (rewards - rewards.mean()) / (rewards.var() + 1e-8),
        ),
        Mistake(
            N_("Your variance divides by n. The unbiased one divides by n − 1: torch's default, `ddof=1` in NumPy."),
            lambda rewards: (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-8),
        ),
        Mistake(
            N_("The mean is not subtracted: if all rewards are positive, all stay positive."),
            lambda rewards: rewards / (rewards.std() + 1e-8),
            lambda rewards: rewards / rewards.std(),
        ),
        Mistake(
            N_("The mean is subtracted, but the scale is left: the variance is not 1 yet."),
            lambda rewards: rewards - rewards.mean(),
        ),
        Mistake(
            N_("Equal rewards have the standard deviation 0, and 0/0 is NaN. Add 1e-8 to it."),
            lambda rewards: (rewards - rewards.mean()) / rewards.std(),
        ),
        Mistake(
            N_("The mean was divided by the standard deviation, the rewards were not: mind the brackets."),
            lambda rewards: rewards - rewards.mean() / (rewards.std() + 1e-8),
            lambda rewards: rewards - rewards.mean() / rewards.std(),
        ),
    ),
    hints=(
        N_("Subtract the mean of the batch, then divide by its standard deviation."),
        N_("torch's `std()` divides by n − 1 by itself. What is it for [2, 2, 2], and what would 0/0 be?"),
    ),
)

# --------------------------------------------------------------------------------------------------- 2.8 reward to go


def rewards_to_go(token_rewards):
    """What is earned from token t on, for each of T tokens."""
    return token_rewards.flip(0).cumsum(0).flip(0)


REWARDS_TO_GO = Exercise(
    number="2.8",
    title=N_("reward to go"),
    task=N_(
        "`rewards_to_go(token_rewards)` gets the rewards r_t of the T tokens of one response, a tensor (T,). It "
        "returns Σ_{s ≥ t} r_s for each t, a tensor (T,): what a token has to answer for."
    ),
    difficulty="medium",
    minutes=4,
    right=rewards_to_go,
    why=N_(
        "Turned round, running sums count from the end; turned back, each token has its own reward and all later ones."
    ),
    inputs=(
        (reals([1.0, 2.0, 3.0, 4.0]),),
        (reals([0.0, 0.0, 1.0]),),
        (reals([-0.1, 0.05, 0.2, -0.3, 2.0]),),
        (reals([5.0]),),
    ),
    mistakes=(
        Mistake(
            N_("You summed what was earned up to t. The past is a constant for token t: what counts is from t on."),
            lambda rewards: rewards.cumsum(0),
        ),
        Mistake(
            N_("A token's own reward is left out. s runs from t itself: what a token earns, it has caused."),
            lambda rewards: rewards_to_go(rewards) - rewards,
        ),
        Mistake(
            N_("Every token gets the whole reward. That is right on average, but noisy: leave the past out."),
            lambda rewards: rewards.sum().expand(len(rewards)),
        ),
        Mistake(
            N_("The sums are right and in the wrong order: turn them round again, so that each stands at its token."),
            lambda rewards: rewards.flip(0).cumsum(0),
        ),
        Mistake(
            N_("You took the mean of the later rewards. They add up."),
            lambda rewards: rewards_to_go(rewards) / torch.arange(len(rewards), 0, -1),
        ),
    ),
    hints=(
        N_("The last token answers for its own reward alone. What does the one before it answer for?"),
        N_(
            "Go from the end to the beginning: each sum is the next one plus a token's own reward. Or turn, `cumsum`, "
            "turn."
        ),
    ),
)

EXERCISES = (
    EXACT_GRADIENT,
    SCORE_OF_RESPONSE,
    REINFORCE_ESTIMATE,
    POLICY_AFTER_STEP,
    REINFORCE_LOSS,
    MINUS_MEAN_OF_OTHERS,
    WHITENED,
    REWARDS_TO_GO,
)
