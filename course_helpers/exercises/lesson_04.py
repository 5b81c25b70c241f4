"""Exercises of lesson 04: from the partition function to the DPO loss and its gradient.

A function with the exercise's name is the solution, written as a learner would; one with an underscore is a mistake.
Arguments are torch tensors of float64: N queries with M responses each, or B pairs. `log_w` and `log_l` are ln π_θ of
the chosen and the rejected response, `ref_w` and `ref_l` the same under π_ref.
"""

import numpy as np
import torch
from torch.nn import functional as F

from course_helpers.exercises.check import Exercise, Mistake
from course_helpers.exercises.values import reals
from course_helpers.translation import N_

PI_REF = reals([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
REWARDS = reals([[1.0, -0.5, 2.0], [0.5, 1.5, -1.0]])

# -------------------------------------------------------------------------------------------- 4.1 partition function


def partition(pi_ref, r, beta):
    """Z(X) of each of N queries, from π_ref and r of its M responses."""
    return (pi_ref * (r / beta).exp()).sum(1)


def _terms(pi_ref, r, beta):
    """π_ref exp(r/β) of each response, (N, M)."""
    return pi_ref * (r / beta).exp()


PARTITION = Exercise(
    number="4.1",
    title=N_("the partition function"),
    task=N_(
        "`partition(pi_ref, r, beta)` gets π_ref(Y|X) and r(X, Y) for N queries with M responses each, two tensors "
        "(N, M), and β. It returns the partition function Z(X) of each query, a tensor (N,): the number by which "
        "π_ref exp(r/β) has to be divided to sum to 1."
    ),
    difficulty="easy",
    minutes=4,
    right=partition,
    why=N_(
        "Z(X) is the mean of exp(r/β) over what the reference writes: one number a query, with no preference in it."
    ),
    inputs=(
        (PI_REF, REWARDS, 0.5),
        (reals([[0.25, 0.25, 0.25, 0.25]]), reals([[0.0, 1.0, 2.0, 3.0]]), 2.0),
        (PI_REF, reals([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]), 4.0),
        (reals([[0.9, 0.1, 0.0], [0.2, 0.0, 0.8], [1.0, 0.0, 0.0]]), reals([[0.1, 0.4, 3.0]] * 3), 0.5),
    ),
    mistakes=(
        Mistake(
            N_("That is exp(βr). The reward is divided by β: where a nat of KL is dear, rewards move the policy less."),
            lambda pi_ref, r, beta: (pi_ref * (beta * r).exp()).sum(1),
        ),
        Mistake(
            N_(
                "The weights π_ref are missing: every response counts alike, also one the reference never writes. Z is "
                "an expectation under π_ref."
            ),
            lambda pi_ref, r, beta: (r / beta).exp().sum(1),
            lambda pi_ref, r, beta: (r / beta).exp().mean(1),
        ),
        Mistake(
            N_("The exponential is missing: that is the reference's expected reward. With all rewards 0, Z is 1."),
            lambda pi_ref, r, beta: (pi_ref * r / beta).sum(1),
            lambda pi_ref, r, beta: (pi_ref * r).sum(1),
        ),
        Mistake(
            N_("You took the exponential of a mean. Z is the mean of exponentials, which a few high rewards dominate."),
            lambda pi_ref, r, beta: ((pi_ref * r).sum(1) / beta).exp(),
        ),
        Mistake(
            N_("You summed over the queries. Each query has a Z of its own, a sum over its responses: `sum(1)`."),
            lambda pi_ref, r, beta: _terms(pi_ref, r, beta).sum(0),
        ),
        Mistake(
            N_("That is one number for all queries together. Z(X) belongs to one query: do not sum over the rows."),
            lambda pi_ref, r, beta: _terms(pi_ref, r, beta).sum(),
        ),
        Mistake(
            N_("You divided the sum by M. π_ref has weighed the responses already, so Z is their sum."),
            lambda pi_ref, r, beta: _terms(pi_ref, r, beta).mean(1),
        ),
        Mistake(
            N_("Those are the terms, one a response. Z(X) is their sum over Y, one number a query."),
            _terms,
        ),
        Mistake(
            N_("That is a softmax: its rows sum to 1 already. Z is the number such a row was divided by."),
            lambda pi_ref, r, beta: (r / beta).softmax(1),
            lambda pi_ref, r, beta: _terms(pi_ref, r, beta) / _terms(pi_ref, r, beta).sum(1, keepdim=True),
        ),
        Mistake(
            N_(
                "That is the logistic of two rewards, the chance that one response is preferred. Z compares no two "
                "responses and knows no preferences: it adds up all M."
            ),
            lambda pi_ref, r, beta: ((r[:, 0] - r[:, 1]) / beta).sigmoid(),
            lambda pi_ref, r, beta: (r[:, 0] - r[:, 1]).sigmoid(),
        ),
        Mistake(
            N_("That is ln Z. The logarithm is taken later, when the reward is recovered."),
            lambda pi_ref, r, beta: _terms(pi_ref, r, beta).sum(1).log(),
        ),
        Mistake(
            N_("β is missing: the exponent is r/β, reward over price."),
            lambda pi_ref, r, beta: (pi_ref * r.exp()).sum(1),
        ),
    ),
    hints=(
        N_("For one query: what does each response contribute, and over what is the sum taken?"),
        N_("A response contributes its reference probability times exp(r/β). Sum along the axis of the responses."),
        N_("Known answer: with all rewards 0, every Z is 1, because each row of π_ref sums to 1."),
    ),
)

# ------------------------------------------------------------------------------------------------ 4.2 optimal policy


def optimal_policy(pi_ref, r, beta):
    """π_r(Y|X) of N queries with M responses each."""
    weights = pi_ref * (r / beta).exp()
    return weights / weights.sum(1, keepdim=True)


def _normalised(weights):
    """Each row divided by its sum."""
    return weights / weights.sum(1, keepdim=True)


OPTIMAL_POLICY = Exercise(
    number="4.2",
    title=N_("the optimal policy"),
    task=N_(
        "`optimal_policy(pi_ref, r, beta)` gets π_ref(Y|X) and r(X, Y) for N queries with M responses each, two "
        "tensors (N, M), and β. It returns π_r(Y|X), a tensor (N, M): for each query the distribution with the "
        "largest J = E[r] − β KL(π‖π_ref)."
    ),
    difficulty="medium",
    minutes=5,
    right=optimal_policy,
    why=N_("The reference, tilted by exp(r/β) and divided by Z(X), so that each query's row sums to 1 again."),
    inputs=(
        (PI_REF, REWARDS, 0.5),
        (reals([[0.25, 0.25, 0.25, 0.25]]), reals([[0.0, 1.0, 2.0, 3.0]]), 2.0),
        (PI_REF, reals([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]), 4.0),
        (reals([[0.6, 0.4, 0.0], [0.2, 0.0, 0.8]]), reals([[0.1, 0.4, 3.0], [-1.0, 0.5, -0.5]]), 5.0),
    ),
    mistakes=(
        Mistake(
            N_("With exp(βr) a high β chases the reward. It is the other way round: a high β holds π_r near π_ref."),
            lambda pi_ref, r, beta: _normalised(pi_ref * (beta * r).exp()),
        ),
        Mistake(
            N_("The division by Z is missing: your rows do not sum to 1."),
            _terms,
        ),
        Mistake(
            N_(
                "The reference has no part in it: a softmax of r/β even writes what π_ref never does. Multiply by "
                "π_ref before you normalise."
            ),
            lambda pi_ref, r, beta: (r / beta).softmax(1),
        ),
        Mistake(
            N_("Your Z has no π_ref in it, so the rows do not sum to 1. What you divide by is the sum of the top."),
            lambda pi_ref, r, beta: _terms(pi_ref, r, beta) / (r / beta).exp().sum(1, keepdim=True),
        ),
        Mistake(
            N_("You normalised over the queries, too. Every row is a distribution of its own, with its own Z(X)."),
            lambda pi_ref, r, beta: _terms(pi_ref, r, beta) / _terms(pi_ref, r, beta).sum(),
            lambda pi_ref, r, beta: _terms(pi_ref, r, beta) / _terms(pi_ref, r, beta).sum(0),
        ),
        Mistake(
            N_("That is the response of highest reward. A policy is a distribution; yours is its limit for β → 0."),
            lambda pi_ref, r, beta: F.one_hot(r.argmax(1), r.shape[1]),
            lambda pi_ref, r, beta: r.argmax(1),
        ),
        Mistake(
            N_("A minus too many: your policy prefers the worst responses."),
            lambda pi_ref, r, beta: _normalised(pi_ref * (-r / beta).exp()),
        ),
        Mistake(
            N_("β has no effect in your policy: the exponent is r/β."),
            lambda pi_ref, r, beta: _normalised(pi_ref * r.exp()),
        ),
        Mistake(
            N_("In a softmax the reference enters by its logarithm, ln π_ref + r/β. You added π_ref itself."),
            lambda pi_ref, r, beta: (pi_ref + r / beta).softmax(1),
        ),
        Mistake(
            N_("The exponential is missing, so a negative reward makes a negative probability."),
            lambda pi_ref, r, beta: _normalised(pi_ref * r / beta),
        ),
    ),
    hints=(
        N_("Which rows do not sum to 1 yet in exercise 4.1, and what makes them?"),
        N_("First the numerators, (N, M). `sum(1, keepdim=True)` gives Z with the shape (N, 1), which divides a row."),
        N_("Known answer: where all responses of a query have the same reward, π_r is π_ref."),
    ),
)

# --------------------------------------------------------------------------------------- 4.3 the reward of a policy


def reward_of(pi, pi_ref, beta, log_z):
    """r(X, Y), (N, M), of which π is the optimal policy."""
    return beta * (pi.log() - pi_ref.log()) + beta * log_z[:, None]


def _implicit(pi, pi_ref, beta):
    """β ln(π/π_ref)."""
    return beta * (pi / pi_ref).log()


def _log_z_along_responses(pi, pi_ref, beta, log_z):
    """Raises unless N = M: then it is wrong without a word."""
    return beta * np.log(pi.numpy() / pi_ref.numpy()) + beta * log_z.numpy()


_PI = reals([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
_SQUARE = reals([[0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.4, 0.4, 0.2]])
_SQUARE_REF = reals([[0.3, 0.3, 0.4], [0.2, 0.6, 0.2], [0.5, 0.2, 0.3]])

REWARD_OF = Exercise(
    number="4.3",
    title=N_("the reward behind a policy"),
    task=N_(
        "`reward_of(pi, pi_ref, beta, log_z)` gets the optimal policy π_r and π_ref of N queries with M responses "
        "each, two tensors (N, M), all above 0, then β, and ln Z(X), a tensor (N,). It returns the reward r(X, Y), "
        "a tensor (N, M)."
    ),
    difficulty="medium",
    minutes=5,
    right=reward_of,
    why=N_("π_r = π_ref exp(r/β) / Z, solved for r. In a difference within one query β ln Z(X) drops out."),
    inputs=(
        (_PI, PI_REF, 0.5, reals([0.4, 1.2])),
        (_SQUARE, _SQUARE_REF, 0.1, reals([0.5, 1.5, 3.0])),
        (PI_REF, PI_REF, 2.0, reals([0.7, 0.2])),
        (_PI[:1], PI_REF[:1], 3.0, reals([0.9])),
    ),
    mistakes=(
        Mistake(
            N_("β ln Z(X) is missing: that is the implicit reward, which is r only up to a constant for each query."),
            lambda pi, pi_ref, beta, log_z: _implicit(pi, pi_ref, beta),
        ),
        Mistake(
            N_("ln Z has to be multiplied by β, too: both terms have the unit of the reward."),
            lambda pi, pi_ref, beta, log_z: _implicit(pi, pi_ref, beta) + log_z[:, None],
        ),
        Mistake(
            N_("ln Z is subtracted. Solve for r step by step: dividing by Z becomes + ln Z on the other side."),
            lambda pi, pi_ref, beta, log_z: _implicit(pi, pi_ref, beta) - beta * log_z[:, None],
        ),
        Mistake(
            N_("You divided by β. r/β stands in the exponent, so solving for r multiplies by β."),
            lambda pi, pi_ref, beta, log_z: (pi / pi_ref).log() / beta + log_z[:, None] / beta,
            lambda pi, pi_ref, beta, log_z: (pi / pi_ref).log() / beta + beta * log_z[:, None],
        ),
        Mistake(
            N_("π_ref stands on top. A response that π_r writes more often than π_ref has the higher reward."),
            lambda pi, pi_ref, beta, log_z: _implicit(pi_ref, pi, beta) + beta * log_z[:, None],
        ),
        Mistake(
            N_("The logarithm of the ratio is missing: with π_r = π_ref every reward should be β ln Z."),
            lambda pi, pi_ref, beta, log_z: beta * pi / pi_ref + beta * log_z[:, None],
            lambda pi, pi_ref, beta, log_z: beta * (pi - pi_ref) + beta * log_z[:, None],
        ),
        Mistake(
            N_("π_ref is missing: the reward is what moved the policy away from its reference, not how likely it is."),
            lambda pi, pi_ref, beta, log_z: beta * pi.log() + beta * log_z[:, None],
        ),
        Mistake(
            N_(
                "ln Z runs along the responses. It belongs to the queries, which are the rows: `log_z[:, None]`. "
                "With N = M nothing warns you."
            ),
            _log_z_along_responses,
        ),
        Mistake(
            N_("`log_z` is ln Z already: take it as it is, with neither `log` nor `exp`."),
            lambda pi, pi_ref, beta, log_z: _implicit(pi, pi_ref, beta) + beta * log_z.log()[:, None],
            lambda pi, pi_ref, beta, log_z: _implicit(pi, pi_ref, beta) + beta * log_z.exp()[:, None],
        ),
    ),
    hints=(
        N_("Begin with π_r = π_ref exp(r/β) / Z and take the logarithm of both sides."),
        N_("ln π_r = ln π_ref + r/β − ln Z. Solve for r."),
        N_("ln Z has the shape (N,); `log_z[:, None]` makes a column (N, 1) of it, one number a row."),
    ),
)

# -------------------------------------------------------------------------------------------------- 4.4 Bradley-Terry


def preference_table(r):
    """P(Y_i is preferred to Y_j), (M, M), from the rewards of M responses."""
    return torch.sigmoid(r[:, None] - r[None, :])


def _differences(r):
    return r[:, None] - r[None, :]


def _naive_bradley_terry(r):
    return r.exp()[:, None] / (r.exp()[:, None] + r.exp()[None, :])


def _empty_diagonal(r):
    return preference_table(r) * (1 - torch.eye(len(r), dtype=r.dtype))


PREFERENCE_TABLE = Exercise(
    number="4.4",
    title=N_("Bradley-Terry from rewards"),
    task=N_(
        "`preference_table(r)` gets the rewards of M responses to one query, a tensor (M,). It returns a tensor "
        "(M, M): in row i and column j the probability under Bradley-Terry that response i is preferred to "
        "response j."
    ),
    difficulty="easy",
    minutes=4,
    right=preference_table,
    why=N_("Only differences of rewards count, so a constant f(X) changes nothing, and equal rewards give ½."),
    inputs=(
        (reals([1.0, 0.3, -1.0]),),
        (reals([2.0, 2.0]),),
        (reals([0.5, -0.2, 0.4, 3.0]),),
        (reals([800.0, 799.0, 801.5]),),
    ),
    mistakes=(
        Mistake(
            N_("Rows and columns are exchanged: row i, column j is response i against j, so r_i comes first."),
            lambda r: preference_table(r).T,
        ),
        Mistake(
            N_(
                "That is a softmax over all M responses, the chance of being picked out of all. Bradley-Terry compares "
                "two at a time."
            ),
            lambda r: r.softmax(0),
            lambda r: r.softmax(0)[:, None].expand(len(r), len(r)),
            lambda r: r.softmax(0)[None, :].expand(len(r), len(r)),
        ),
        Mistake(
            N_("Those are the differences of the rewards. The logistic σ makes probabilities of them."),
            _differences,
        ),
        Mistake(
            N_("Those are odds, from 0 to ∞. The probability is odds / (1 + odds)."),
            lambda r: _differences(r).exp(),
        ),
        Mistake(
            N_("That is the logarithm of the probability, which the loss will need. The probability is asked for."),
            lambda r: F.logsigmoid(_differences(r)),
        ),
        Mistake(
            N_("In your table the better response always wins. Under Bradley-Terry the worse one wins at times, too."),
            lambda r: (_differences(r) > 0).to(r.dtype),
            lambda r: (_differences(r) >= 0).to(r.dtype),
            lambda r: (_differences(r).sign() + 1) / 2,
        ),
        Mistake(
            N_("Response j has no part in it: σ of one reward compares with nothing but 0."),
            lambda r: r.sigmoid()[:, None].expand(len(r), len(r)),
            lambda r: r.sigmoid(),
        ),
        Mistake(
            N_("You divided rewards. They may be negative: the strength that wins by its share is exp(r)."),
            lambda r: r[:, None] / (r[:, None] + r[None, :]),
        ),
        Mistake(
            N_("The diagonal is not right: a response against its equal is preferred with ½."),
            _empty_diagonal,
            lambda r: _empty_diagonal(r) + torch.eye(len(r), dtype=r.dtype),
        ),
        Mistake(
            N_("Right, until a reward is too large: exp(800) is ∞, and ∞/∞ NaN. Subtract the rewards first."),
            _naive_bradley_terry,
        ),
    ),
    hints=(
        N_("Two rewards first: P = exp(r_i) / (exp(r_i) + exp(r_j)). Can you write it with r_i − r_j alone?"),
        N_("A column `r[:, None]` and a row `r[None, :]` make a table of all pairs when they meet."),
        N_("Two checks: the diagonal is ½, and each number and its mirror image sum to 1."),
    ),
)

# --------------------------------------------------------------------------------------------------- 4.5 the DPO loss


def dpo_loss(log_w, log_l, ref_w, ref_l, beta):
    """The DPO loss of B pairs, one number."""
    margin = beta * ((log_w - ref_w) - (log_l - ref_l))
    return -torch.nn.functional.logsigmoid(margin).mean()


def _gap(log_w, log_l, ref_w, ref_l, _beta):
    """h, the difference of the two log-ratios, in nats."""
    return (log_w - ref_w) - (log_l - ref_l)


def _margin(*pairs):
    return pairs[-1] * _gap(*pairs)


def _margin_of_ratios(log_w, log_l, ref_w, ref_l, beta):
    return beta * ((log_w - ref_w).exp() - (log_l - ref_l).exp())


def _losses_with(margin):
    """The loss with another margin: as it should be computed, and by the logarithm of σ, which may be that of 0."""
    return (
        lambda *pairs: -F.logsigmoid(margin(*pairs)).mean(),
        lambda *pairs: -margin(*pairs).sigmoid().log().mean(),
    )


_PAIRS = (  # ln π_θ(Y_w), ln π_θ(Y_l), ln π_ref(Y_w), ln π_ref(Y_l), of unequal lengths
    reals([-12.0, -31.5, -20.0]),
    reals([-14.0, -9.5, -26.0]),
    reals([-13.5, -30.0, -24.5]),
    reals([-12.5, -11.0, -25.0]),
)
_AT_REFERENCE = (reals([-8.0, -15.0]), reals([-9.5, -11.0]), reals([-8.0, -15.0]), reals([-9.5, -11.0]))
_ONE_PAIR = (reals([-6.0]), reals([-7.5]), reals([-7.0]), reals([-6.2]))
_FAR_OFF = (reals([-950.0, -40.0]), reals([-90.0, -60.0]), reals([-100.0, -45.0]), reals([-92.0, -58.0]))

DPO_LOSS = Exercise(
    number="4.5",
    title=N_("the DPO loss from four log-probabilities"),
    task=N_(
        "`dpo_loss(log_w, log_l, ref_w, ref_l, beta)` gets ln π_θ(Y_w|X) and ln π_θ(Y_l|X) of B pairs, the same two "
        "under π_ref, four tensors (B,), and β. It returns the DPO loss, one number: the mean over the pairs."
    ),
    difficulty="medium",
    minutes=8,
    right=dpo_loss,
    why=N_("−ln σ of the margin of implicit rewards: the likelihood of the choices, with no reward model and no Z."),
    inputs=(
        (*_PAIRS, 0.1),
        (*_AT_REFERENCE, 0.3),
        (*_ONE_PAIR, 0.5),
        (*_FAR_OFF, 1.0),
    ),
    mistakes=(
        Mistake(
            N_("The log is forgotten: that is the mean of σ. The likelihood of a choice enters a loss as −ln σ."),
            lambda *pairs: -_margin(*pairs).sigmoid().mean(),
            lambda *pairs: _margin(*pairs).sigmoid().mean(),
            lambda *pairs: 1 - _margin(*pairs).sigmoid().mean(),
        ),
        Mistake(
            N_("That is the log-likelihood, which is maximised. A loss is minimised: at π_ref it is ln 2, above 0."),
            lambda *pairs: -dpo_loss(*pairs),
        ),
        Mistake(
            N_("The margin is the wrong way round: this loss falls when the rejected response becomes likelier."),
            *_losses_with(lambda *pairs: -_margin(*pairs)),
        ),
        Mistake(
            N_("The reference has no part in it: at π_θ = π_ref the loss should be ln 2 for every pair."),
            *_losses_with(lambda log_w, log_l, ref_w, ref_l, beta: beta * (log_w - log_l)),
        ),
        Mistake(
            N_("The log-probabilities of the reference are added. A log-ratio is ln π_θ minus ln π_ref."),
            *_losses_with(lambda log_w, log_l, ref_w, ref_l, beta: beta * ((log_w + ref_w) - (log_l + ref_l))),
        ),
        Mistake(
            N_("β stands outside of the loss, where it only scales it. It belongs in the margin, inside σ."),
            lambda *pairs: pairs[-1] * dpo_loss(*pairs[:-1], 1.0),
        ),
        Mistake(
            N_("β is missing from the margin: an implicit reward is β times a log-ratio."),
            lambda *pairs: dpo_loss(*pairs[:-1], 1.0),
        ),
        Mistake(
            N_("The log-ratios are divided by β. r̂ = β ln(π_θ/π_ref): here β multiplies."),
            *_losses_with(lambda *pairs: _gap(*pairs) / pairs[-1]),
        ),
        Mistake(
            N_("Only the chosen response is looked at. The loss compares: subtract the rejected one's log-ratio."),
            *_losses_with(lambda log_w, log_l, ref_w, ref_l, beta: beta * (log_w - ref_w)),
        ),
        Mistake(
            N_("Ratios of probabilities were subtracted. An implicit reward takes the logarithm of the ratio."),
            *_losses_with(_margin_of_ratios),
        ),
        Mistake(
            N_("You added the pairs up. The mean is asked for, which does not grow with the batch."),
            lambda *pairs: len(pairs[0]) * dpo_loss(*pairs),
        ),
        Mistake(
            N_("That is one loss a pair. Their mean, one number, is what a batch is trained on."),
            lambda *pairs: -F.logsigmoid(_margin(*pairs)),
        ),
        Mistake(
            N_("You averaged the margins before −ln σ. Each pair has its own loss; the mean comes last."),
            *_losses_with(lambda *pairs: _margin(*pairs).mean()),
        ),
        Mistake(
            N_("Right, until a margin is far below 0: σ becomes 0, and ln 0 is −∞. `logsigmoid` takes both in one."),
            lambda *pairs: -_margin(*pairs).sigmoid().log().mean(),
        ),
    ),
    hints=(
        N_("Two implicit rewards first: β times the log-ratio of Y_w, and of Y_l. A log-ratio is a difference."),
        N_("The margin is the chosen one's minus the rejected one's. The loss of a pair is −ln σ(margin)."),
        N_("`torch.nn.functional.logsigmoid` is ln σ. Known answer: where π_θ = π_ref, the loss is ln 2 = 0.693."),
    ),
)

# ------------------------------------------------------------------------------------------- 4.6 weight of the gradient


def pull(log_w, log_l, ref_w, ref_l, beta):
    """How hard each of B pairs pulls, from 0 to 1."""
    margin = beta * ((log_w - ref_w) - (log_l - ref_l))
    return torch.sigmoid(-margin)


PULL = Exercise(
    number="4.6",
    title=N_("how hard a pair pulls"),
    task=N_(
        "`pull(log_w, log_l, ref_w, ref_l, beta)` gets the four log-probabilities of B pairs, tensors (B,), and β. "
        "The gradient of a pair's DPO loss is −w β (∇ ln π_θ(Y_w|X) − ∇ ln π_θ(Y_l|X)). It returns the weight w of "
        "each pair, a tensor (B,), from 0 to 1."
    ),
    difficulty="medium",
    minutes=5,
    right=pull,
    why=N_("The weight is σ(−margin): near 1 for a pair that is ranked wrongly, near 0 once it is ranked rightly."),
    inputs=(
        (*_PAIRS, 0.5),
        (*_AT_REFERENCE, 0.3),
        (*_ONE_PAIR, 0.8),
        (*_FAR_OFF, 0.1),
    ),
    mistakes=(
        Mistake(
            N_(
                "That is σ(margin): pairs that are ranked rightly already would pull hardest. The weight is the "
                "probability given to the wrong order."
            ),
            lambda *pairs: 1 - pull(*pairs),
        ),
        Mistake(
            N_("That is a logarithm of σ, as in the loss. Its derivative has none: the weight lies between 0 and 1."),
            lambda *pairs: -F.logsigmoid(_margin(*pairs)),
            lambda *pairs: F.logsigmoid(_margin(*pairs)),
            lambda *pairs: F.logsigmoid(-_margin(*pairs)),
            lambda *pairs: -F.logsigmoid(-_margin(*pairs)),
        ),
        Mistake(
            N_("That is σ(1 − σ), the derivative of σ: a badly ranked pair would hardly pull. Differentiate −ln σ."),
            lambda *pairs: pull(*pairs) * (1 - pull(*pairs)),
        ),
        Mistake(
            N_("Your weight is negative. The minus stands in front of the gradient; w itself is a probability."),
            lambda *pairs: -pull(*pairs),
        ),
        Mistake(
            N_("β is missing from the margin, so the weight falls off too early or too late."),
            lambda *pairs: pull(*pairs[:-1], 1.0),
        ),
        Mistake(
            N_("That is wβ. The gradient has the factor β by itself: give w alone."),
            lambda *pairs: pairs[-1] * pull(*pairs),
        ),
        Mistake(
            N_("The reference is left out: where π_θ = π_ref every pair pulls with ½, however likely its responses."),
            lambda log_w, log_l, ref_w, ref_l, beta: (beta * (log_l - log_w)).sigmoid(),
        ),
        Mistake(
            N_("That is the mean. Each pair has a weight of its own."),
            lambda *pairs: pull(*pairs).mean(),
        ),
    ),
    hints=(
        N_("The loss of a pair is −ln σ(m). What is its derivative with respect to m?"),
        N_("The derivative of ln σ(m) is 1 − σ(m). That is σ of what?"),
        N_("Known answer: at π_ref every margin is 0 and every weight ½."),
    ),
)

# --------------------------------------------------------------------------------------------------- 4.7 the IPO loss


def ipo_loss(log_w, log_l, ref_w, ref_l, beta):
    """The IPO loss of each of B pairs."""
    h = (log_w - ref_w) - (log_l - ref_l)
    return (h - 1 / (2 * beta)) ** 2


def _with_target(target):
    """The square around another target, which may depend on β."""
    return lambda *pairs: (_gap(*pairs) - target(pairs[-1])) ** 2


IPO_LOSS = Exercise(
    number="4.7",
    title=N_("the IPO loss and its target"),
    task=N_(
        "`ipo_loss(log_w, log_l, ref_w, ref_l, beta)` gets the four log-probabilities of B pairs, tensors (B,), and "
        "β. It returns the IPO loss of each pair, a tensor (B,): the squared distance of the difference of "
        "log-ratios h from its target 1/(2β)."
    ),
    difficulty="medium",
    minutes=5,
    right=ipo_loss,
    why=N_("The loss is smallest at a finite h, so the policy stops at a margin βh of ½, however sure the labels are."),
    inputs=(
        (*_PAIRS, 0.25),
        (*_AT_REFERENCE, 0.1),
        (*_ONE_PAIR, 2.0),
    ),
    mistakes=(
        Mistake(
            N_("The target ½ belongs to the margin βh. For h itself, in nats, it is 1/(2β)."),
            _with_target(lambda beta: 0.5),
        ),
        Mistake(
            N_("That is β² times the loss: you measured the margin βh against ½. Measure h against 1/(2β)."),
            lambda *pairs: (_margin(*pairs) - 0.5) ** 2,
        ),
        Mistake(
            N_("The margin βh is compared with the target of h. Take h as it is, without β."),
            lambda *pairs: (_margin(*pairs) - 1 / (2 * pairs[-1])) ** 2,
        ),
        Mistake(
            N_("Your target is 1/β. The 2 is missing."),
            _with_target(lambda beta: 1 / beta),
        ),
        Mistake(
            N_("Your target is β/2: Python reads `1 / 2 * beta` from left to right. Put brackets around `2 * beta`."),
            _with_target(lambda beta: beta / 2),
        ),
        Mistake(
            N_("The target is missing: this pulls h to 0, so that the policy learns to stay at its reference."),
            _with_target(lambda beta: 0),
        ),
        Mistake(
            N_("h is the wrong way round, or the target is added: chosen minus rejected is to reach + 1/(2β)."),
            _with_target(lambda beta: -1 / (2 * beta)),
        ),
        Mistake(
            N_("The square is missing: a loss has to grow on both sides of the target, the faster the further off."),
            lambda *pairs: _gap(*pairs) - 1 / (2 * pairs[-1]),
            lambda *pairs: (_gap(*pairs) - 1 / (2 * pairs[-1])).abs(),
        ),
        Mistake(
            N_("Your h has no reference in it: it is a difference of two log-ratios, not of two log-probabilities."),
            lambda log_w, log_l, ref_w, ref_l, beta: (log_w - log_l - 1 / (2 * beta)) ** 2,
        ),
        Mistake(
            N_("That is DPO's own loss. IPO has no σ: it is a square around a target."),
            lambda *pairs: -F.logsigmoid(_margin(*pairs)),
            dpo_loss,
        ),
        Mistake(
            N_("That is the mean over the pairs. Here one loss for each pair is asked for."),
            lambda *pairs: ipo_loss(*pairs).mean(),
        ),
    ),
    hints=(
        N_("h = ln(π_θ/π_ref) of Y_w, minus the same of Y_l. β does not come in there."),
        N_("The target is 1/(2β): a high β wants a small step away from the reference. Then the square."),
        N_("Known answer: where π_θ = π_ref, h is 0 and the loss 1/(4β²)."),
    ),
)

# ------------------------------------------------------------------------- 4.8 log-probability of the response alone


def response_log_prob(token_log_probs, response_mask):
    """ln π(Y|X), (B,), from the log-probabilities of all tokens of B rows."""
    return (token_log_probs * response_mask).sum(1)


def _from_first_on(mask):
    """1 from the first token of the response to the end of the row."""
    return (mask.cumsum(1) > 0).to(mask.dtype)


def _up_to_last(mask):
    """1 from the beginning of the row to the last token of the response."""
    return (mask.flip(1).cumsum(1).flip(1) > 0).to(mask.dtype)


_TOKENS = reals([[0.0, -3.0, -1.0, -0.5, -2.0, -0.2], [0.0, -4.0, -2.5, -0.7, -6.0, -7.0]])
_RESPONSE = reals([[0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0]])

RESPONSE_LOG_PROB = Exercise(
    number="4.8",
    title=N_("the log-probability of a response"),
    task=N_(
        "`response_log_prob(token_log_probs, response_mask)` gets the log-probability of every token of B rows, each "
        "prompt, response and padding, and a mask, two tensors (B, L). The mask is 1 at tokens of the response. It "
        "returns ln π(Y|X) of each row, a tensor (B,)."
    ),
    difficulty="easy",
    minutes=3,
    right=response_log_prob,
    why=N_("π(Y|X) is a product over the response's tokens, given the prompt: the prompt itself is not judged."),
    inputs=(
        (_TOKENS, _RESPONSE),
        (reals([[0.0, -1.0, -2.0], [0.0, -0.3, -9.0], [0.0, -5.0, -0.4]]), reals([[0, 1, 1], [0, 1, 0], [0, 0, 1]])),
        (reals([[0.0, -2.0, -1.5, -0.5]]), reals([[0, 1, 1, 1]])),
        (reals([[-8.0, -1.0, -2.0, -4.0], [-8.0, -9.0, -2.0, -3.0]]), reals([[0, 0, 1, 0], [0, 0, 0, 0]])),
    ),
    mistakes=(
        Mistake(
            N_("You took the mean over the tokens. DPO compares whole responses: ln π(Y|X) is the sum."),
            lambda x, mask: (x * mask).sum(1) / mask.sum(1),
            lambda x, mask: (x * mask).sum(1) / mask.sum(1).clamp(min=1),
            lambda x, mask: (x * mask).mean(1),
            lambda x, mask: x.mean(1),
        ),
        Mistake(
            N_("The mask is not used: prompt and padding are counted as if the policy had answered with them."),
            lambda x, mask: x.sum(1),
        ),
        Mistake(
            N_("The prompt is counted, too. π(Y|X) is the probability of the response, given the prompt."),
            lambda x, mask: (x * _up_to_last(mask)).sum(1),
        ),
        Mistake(
            N_("The padding behind the response is counted, too. Nothing was written there."),
            lambda x, mask: (x * _from_first_on(mask)).sum(1),
        ),
        Mistake(
            N_("That is the prompt and the padding: the mask is the wrong way round."),
            lambda x, mask: (x * (1 - mask)).sum(1),
        ),
        Mistake(
            N_("Log-probabilities were multiplied. Probabilities multiply, so their logarithms add."),
            lambda x, mask: torch.where(mask > 0, x, torch.ones_like(x)).prod(1),
            lambda x, mask: (x * mask).prod(1),
        ),
        Mistake(
            N_("That is a probability, which soon is too small for a computer. Its logarithm is asked for: no `exp`."),
            lambda x, mask: (x * mask).sum(1).exp(),
            lambda x, mask: (x.exp() * mask).sum(1),
        ),
        Mistake(
            N_("You summed over the batch: rows are responses, so sum along each row, `sum(1)`."),
            lambda x, mask: (x * mask).sum(0),
        ),
        Mistake(
            N_("That is one number for the whole batch. Each response has its own log-probability."),
            lambda x, mask: (x * mask).sum(),
        ),
        Mistake(
            N_("That is one number a token. The log-probability of a response is their sum."),
            lambda x, mask: x * mask,
        ),
        Mistake(
            N_(
                "Mask and tokens are shifted against each other. That shift is for logits, which predict the next "
                "token; here each log-probability stands at its own token already."
            ),
            lambda x, mask: (x[:, :-1] * mask[:, 1:]).sum(1),
            lambda x, mask: (x[:, 1:] * mask[:, :-1]).sum(1),
        ),
        Mistake(
            N_("The sign is changed: −ln π(Y|X) is a loss; the log-probability itself is 0 or less."),
            lambda x, mask: -(x * mask).sum(1),
        ),
    ),
    hints=(
        N_("Which tokens belong to Y? What does multiplying by the mask do to the others?"),
        N_("Probabilities multiply from token to token. What do their logarithms do?"),
        N_("Known answer: an empty response has the log-probability 0, which is ln 1."),
    ),
)

EXERCISES = (
    PARTITION,
    OPTIMAL_POLICY,
    REWARD_OF,
    PREFERENCE_TABLE,
    DPO_LOSS,
    PULL,
    IPO_LOSS,
    RESPONSE_LOG_PROB,
)
