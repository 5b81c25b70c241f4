"""Exercises of lesson 06: points on the reward-KL plane, best-of-n, and whether two of them differ.

A function with the exercise's name is the solution, written as a learner would; one with an underscore is a mistake.
Arguments are torch tensors of float64, one query at a time unless a task says otherwise; KL is in nats.
"""

import math

import torch
from torch.nn import functional as F

from course_helpers.exercises.check import Exercise, Mistake
from course_helpers.exercises.values import reals
from course_helpers.translation import N_

# --------------------------------------------------------------------------------------- 6.1 a point of the exact curve


def optimal_point(pi_ref, r, beta):
    """Expected reward of the optimal policy, and its KL to the reference."""
    weights = pi_ref * (r / beta).exp()
    pi = weights / weights.sum()
    return (pi * r).sum(), (pi * (pi / pi_ref).log()).sum()


def _tilted(weights):
    return weights / weights.sum()


def _best(pi_ref, r, beta):
    """π_r of one query."""
    return _tilted(pi_ref * (r / beta).exp())


def _point(pi, pi_ref, r):
    return (pi * r).sum(), (pi * (pi / pi_ref).log()).sum()


def _with_kl(kl):
    """The right reward with another number `kl(pi, pi_ref, beta)` for the KL."""

    def way(pi_ref, r, beta):
        pi = _best(pi_ref, r, beta)
        return (pi * r).sum(), kl(pi, pi_ref, beta)

    return way


def _objective_first(pi_ref, r, beta):
    reward, kl = optimal_point(pi_ref, r, beta)
    return reward - beta * kl, kl


OPTIMAL_POINT = Exercise(
    number="6.1",
    title=N_("a point on the frontier"),
    task=N_(
        "`optimal_point(pi_ref, r, beta)` gets π_ref(Y|X), all above 0, and r(X, Y) of the M responses to one query, "
        "two tensors (M,), and β. It returns the place of the optimal policy π_r between the lesson's two axes: "
        "its expected reward, and KL(π_r‖π_ref) in nats."
    ),
    difficulty="easy",
    minutes=5,
    right=optimal_point,
    why=N_(
        "Each β has one such point, and no policy with this KL has a higher reward: together they are the frontier."
    ),
    inputs=(
        (reals([0.5, 0.3, 0.2]), reals([1.0, -0.5, 2.0]), 0.5),
        (reals([0.25, 0.25, 0.25, 0.25]), reals([0.0, 1.0, 2.0, 3.0]), 2.0),
        (reals([0.1, 0.2, 0.7]), reals([0.8, 0.8, 0.8]), 4.0),
        (reals([0.9, 0.1]), reals([-1.0, 1.5]), 3.0),
    ),
    mistakes=(
        Mistake(
            N_("With exp(βr) a high β would end far out on the curve. The exponent is r/β: a high β stays near π_ref."),
            lambda pi_ref, r, beta: _point(_tilted(pi_ref * (beta * r).exp()), pi_ref, r),
        ),
        Mistake(
            N_("Your KL averages over what the reference writes. KL(π_r‖π_ref) averages over what π_r writes."),
            _with_kl(lambda pi, pi_ref, beta: (pi_ref * (pi_ref / pi).log()).sum()),
            _with_kl(lambda pi, pi_ref, beta: (pi_ref * (pi / pi_ref).log()).sum()),
        ),
        Mistake(
            N_("Your KL is in bits: `log2`. A nat belongs to `log`, and β is a price for nats."),
            _with_kl(lambda pi, pi_ref, beta: (pi * (pi / pi_ref).log2()).sum()),
        ),
        Mistake(
            N_("Your KL is without its weights: each ln(π_r/π_ref) counts as often as π_r writes the response."),
            _with_kl(lambda pi, pi_ref, beta: (pi / pi_ref).log().sum()),
            _with_kl(lambda pi, pi_ref, beta: (pi / pi_ref).log().mean()),
        ),
        Mistake(
            N_("The KL is multiplied by β. The axis shows nats; β is the slope of the curve at this point."),
            _with_kl(lambda pi, pi_ref, beta: beta * (pi * (pi / pi_ref).log()).sum()),
        ),
        Mistake(
            N_("Your first number is J, with the price of the KL taken off. The two belong on two axes: reward, KL."),
            _objective_first,
        ),
        Mistake(
            N_("Reward and KL are exchanged: the reward comes first."),
            lambda *given: optimal_point(*given)[::-1],
        ),
        Mistake(
            N_("The division by Z is missing: your weights do not sum to 1, so these sums are no averages."),
            lambda pi_ref, r, beta: _point(pi_ref * (r / beta).exp(), pi_ref, r),
        ),
        Mistake(
            N_("Your policy is a softmax of r/β that has forgotten π_ref. For β → ∞ it would become uniform."),
            lambda pi_ref, r, beta: _point((r / beta).softmax(0), pi_ref, r),
        ),
        Mistake(
            N_("Your reward is the reference's. π_r writes other responses: weigh the rewards with π_r."),
            lambda pi_ref, r, beta: ((pi_ref * r).sum(), optimal_point(pi_ref, r, beta)[1]),
        ),
        Mistake(
            N_("The sign of the exponent is changed: this is the curve of the lowest rewards."),
            lambda pi_ref, r, beta: _point(_best(pi_ref, -r, beta), pi_ref, r),
        ),
    ),
    hints=(
        N_("First the policy: π_ref exp(r/β), divided by its sum. Then two averages over it."),
        N_("One average is of r, the other of ln(π_r/π_ref); both are weighted by π_r."),
        N_("Known answer: where all rewards are alike, the KL is 0 at every β."),
    ),
)

# --------------------------------------------------------------------------------------------- 6.2 advantages in groups


def group_advantages(rewards):
    """GRPO's advantage of each of G responses to N prompts."""
    mean = rewards.mean(1, keepdim=True)
    std = rewards.std(1, keepdim=True)
    return (rewards - mean) / (std + 1e-4)


def _divided(rewards, spread):
    """Each row minus its mean, divided by another spread."""
    return (rewards - rewards.mean(1, keepdim=True)) / (spread + 1e-4)


def _without_oneself(rewards):
    """The baseline is the mean of the other responses."""
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return (rewards - others) / (rewards.std(1, keepdim=True) + 1e-4)


GROUP_ADVANTAGES = Exercise(
    number="6.2",
    title=N_("advantages within a group"),
    task=N_(
        "`group_advantages(rewards)` gets the rewards of G responses to each of N prompts, a tensor (N, G). It returns "
        "GRPO's advantages (N, G): the reward minus the mean of its prompt's group, divided by the standard deviation "
        "of that group plus 1e-4, as in TRL. The standard deviation divides by G − 1."
    ),
    difficulty="easy",
    minutes=4,
    right=group_advantages,
    why=N_(
        "The group stands in for a value function, and a group of equal rewards says nothing: its advantages are 0."
    ),
    inputs=(
        (reals([[1.0, 2.0, 6.0], [0.5, 0.5, 0.5]]),),
        (reals([[0.0, 1.0], [3.0, -1.0], [2.0, 2.5]]),),
        (reals([[-1.0, 0.5, 2.0, 0.0]]),),
    ),
    mistakes=(
        Mistake(
            N_("You took mean and spread over the whole batch: easy prompts would then pull, and hard ones push."),
            lambda rewards: (rewards - rewards.mean()) / (rewards.std() + 1e-4),
            lambda rewards: (rewards - rewards.mean()) / (rewards.std(1, keepdim=True) + 1e-4),
        ),
        Mistake(
            N_("The spread is that of the whole batch. Here each group is divided by its own."),
            lambda rewards: _divided(rewards, rewards.std()),
        ),
        Mistake(
            N_("Mean and spread run over the prompts. A group is a row: the G responses to one prompt."),
            lambda rewards: (rewards - rewards.mean(0)) / (rewards.std(0) + 1e-4),
        ),
        Mistake(
            N_("Your standard deviation divides by G, that of a whole population. That of a sample divides by G − 1."),
            lambda rewards: _divided(rewards, rewards.std(1, correction=0, keepdim=True)),
        ),
        Mistake(
            N_("The division by the standard deviation is missing. Without it GRPO is another method, Dr. GRPO."),
            lambda rewards: rewards - rewards.mean(1, keepdim=True),
        ),
        Mistake(
            N_("The mean is not subtracted: the baseline is missing, and a positive reward would always pull."),
            lambda rewards: rewards / (rewards.std(1, keepdim=True) + 1e-4),
        ),
        Mistake(
            N_("Your baseline is the mean of the others: leave-one-out. GRPO's mean has the response itself in it."),
            _without_oneself,
            lambda rewards: rewards - (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1),
        ),
        Mistake(
            N_("You divided by the variance. GRPO divides by its root, so that all groups get one spread."),
            lambda rewards: _divided(rewards, rewards.var(1, keepdim=True)),
        ),
        Mistake(
            N_("The 1e-4 is missing. Where all rewards of a group are alike, it keeps 0/0 away."),
            lambda rewards: (rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True),
        ),
        Mistake(
            N_("The sign is changed: your advantages push away from what was better than its group."),
            lambda rewards: -group_advantages(rewards),
        ),
    ),
    hints=(
        N_("`mean(1, keepdim=True)` is one number a row, in a shape that can be subtracted from the row."),
        N_("`std` of torch divides by G − 1 already. Add 1e-4 to it, not to the rewards."),
        N_("Known answer: every row of the result sums to 0."),
    ),
)

# ----------------------------------------------------------------------------------------------- 6.3 what nothing beats


def pareto(reward, kl):
    """True for each of P points that no other point beats."""
    at_least = reward[None, :] >= reward[:, None]
    no_further = kl[None, :] <= kl[:, None]
    better = (reward[None, :] > reward[:, None]) | (kl[None, :] < kl[:, None])
    return ~(at_least & no_further & better).any(1)


def _unbeaten(beats):
    """True where no point (y, x) of the list `beats` the point (b, a); both are (reward, KL)."""

    def way(reward, kl):
        points = list(zip(reward.tolist(), kl.tolist(), strict=True))
        return [not any(beats(y, x, b, a) for y, x in points) for b, a in points]

    return way


def _first_of_equals(reward, kl):
    """Points of one place beat each other."""
    points = list(zip(reward.tolist(), kl.tolist(), strict=True))
    return [not any(i != j and y >= b and x <= a for j, (y, x) in enumerate(points)) for i, (b, a) in enumerate(points)]


def _record_in_the_list(reward, kl):
    """True where the reward is higher than all rewards before it in the list."""
    return [all(y < reward[k] for y in reward[:k]) for k in range(len(reward))]


def _on_the_hull(reward, kl):
    """Unbeaten, and on no side below the line between two other unbeaten points."""
    keeps = pareto(reward, kl).tolist()
    points = sorted({(x, y) for x, y, keep in zip(kl.tolist(), reward.tolist(), keeps, strict=True) if keep})

    def below(x, y):
        return any(
            left[0] < x < right[0] and y < left[1] + (right[1] - left[1]) * (x - left[0]) / (right[0] - left[0])
            for left in points
            for right in points
        )

    return [k and not below(x, y) for x, y, k in zip(kl.tolist(), reward.tolist(), keeps, strict=True)]


PARETO = Exercise(
    number="6.3",
    title=N_("points that nothing beats"),
    task=N_(
        "`pareto(reward, kl)` gets mean reward and KL of P trained policies, two tensors (P,), in any order. It "
        "returns a mask (P,), true for each point that no other beats. A point is beaten by one with at least its "
        "reward and at most its KL that is strictly better in one of the two; points in the same place do not beat "
        "each other."
    ),
    difficulty="medium",
    minutes=7,
    right=pareto,
    why=N_("What is left is the measured frontier: to have more reward than one of these points, one pays more KL."),
    inputs=(
        (reals([2.5, 0.0, 1.5, 1.6, 1.4, 1.0]), reals([4.0, 0.0, 2.0, 3.0, 2.5, 5.0])),
        (reals([1.0, 1.0, 0.2, 0.2, 1.0]), reals([2.0, 3.0, 0.5, 0.5, 2.0])),
        (reals([0.4, 0.9, 0.7]), reals([1.0, 1.0, 0.5])),
        (reals([0.3]), reals([0.1])),
    ),
    mistakes=(
        Mistake(
            N_("A point also loses to one that is equal in reward, or in KL, and better in the other: `>=` and `<=`."),
            _unbeaten(lambda y, x, b, a: y > b and x < a),
        ),
        Mistake(
            N_("Two points in the same place have thrown each other out. To beat, one must be better in something."),
            _first_of_equals,
        ),
        Mistake(
            N_("With `>=` and `<=` alone every point beats itself, and nothing is left."),
            _unbeaten(lambda y, x, b, a: y >= b and x <= a),
        ),
        Mistake(
            N_(
                "Better in one of the two is not enough: nearly every point is that. It must not be worse in the other."
            ),
            _unbeaten(lambda y, x, b, a: y > b or x < a),
        ),
        Mistake(
            N_("That is the highest reward alone. A lower reward that costs less KL is not beaten by it."),
            lambda reward, kl: reward == reward.max(),
        ),
        Mistake(
            N_("A higher KL counts as better here. It is what the reward is paid with: less is better."),
            _unbeaten(lambda y, x, b, a: y >= b and x >= a and (y > b or x > a)),
        ),
        Mistake(
            N_("You kept the corners of the line stretched over the points. A point below it may still be unbeaten."),
            _on_the_hull,
        ),
        Mistake(
            N_("You compared each point with those before it in the list. The list is in no order: sort by KL first."),
            _record_in_the_list,
        ),
        Mistake(
            N_("That is the mask of the beaten points: the other way round."),
            lambda reward, kl: ~pareto(reward, kl),
        ),
        Mistake(
            N_("Those are numbers of points. A mask is asked for, true or false for each of the P points."),
            lambda reward, kl: pareto(reward, kl).nonzero().flatten(),
        ),
    ),
    hints=(
        N_("For one point: go through all others and ask whether one of them beats it. It is kept if none does."),
        N_("Beats: reward ≥, KL ≤, and one of the two not equal. `any` asks it of all points."),
        N_("Without a loop: `reward[None, :] >= reward[:, None]` compares every point with every other, (P, P)."),
    ),
)

# ------------------------------------------------------------------------------------------ 6.4 the policy of best-of-n


def best_of_n(pi_ref, r, n):
    """The probability of each response to be the best of n draws."""
    at_most = (pi_ref * (r[None, :] <= r[:, None])).sum(1)
    below = at_most - pi_ref
    return at_most**n - below**n


def _at_most(pi_ref, r):
    """P(r(Y') ≤ r(Y)) under π_ref."""
    return (pi_ref * (r[None, :] <= r[:, None])).sum(1)


def _by_rank(pi_ref, r, n):
    rank = (r[None, :] <= r[:, None]).sum(1) / len(r)
    return rank**n - (rank - 1 / len(r)) ** n


BEST_OF_N = Exercise(
    number="6.4",
    title=N_("the policy that best-of-n is"),
    task=N_(
        "`best_of_n(pi_ref, r, n)` gets π_ref(Y|X) and r(X, Y) of the M responses to one query, two tensors (M,), and "
        "n; no two rewards are alike. It returns the distribution (M,) of the response with the highest reward among "
        "n independent draws from π_ref."
    ),
    difficulty="hard",
    minutes=10,
    right=best_of_n,
    why=N_("The best is Y or worse when all n draws are: a power; Y itself is that without what lies below Y."),
    inputs=(
        (reals([0.5, 0.3, 0.2]), reals([1.0, -0.5, 2.0]), 3),
        (reals([0.1, 0.4, 0.2, 0.3]), reals([0.5, 2.0, -1.0, 0.0]), 2),
        (reals([0.25, 0.75]), reals([1.0, 0.0]), 1),
        (reals([0.3, 0.05, 0.65]), reals([0.2, 0.9, 0.1]), 8),
    ),
    mistakes=(
        Mistake(
            N_(
                "That is the probability that all n draws are the same response. The best of n needs to come once only."
            ),
            lambda pi_ref, r, n: pi_ref**n,
            lambda pi_ref, r, n: _tilted(pi_ref**n),
        ),
        Mistake(
            N_("That is the probability that Y is among the n draws. It must also be the best of them."),
            lambda pi_ref, r, n: 1 - (1 - pi_ref) ** n,
            lambda pi_ref, r, n: _tilted(1 - (1 - pi_ref) ** n),
        ),
        Mistake(
            N_("That is the probability that the best is Y or worse. Take off that it is worse than Y."),
            lambda pi_ref, r, n: _at_most(pi_ref, r) ** n,
        ),
        Mistake(
            N_("That is the probability that all n draws are worse than Y, which is then not among them."),
            lambda pi_ref, r, n: (_at_most(pi_ref, r) - pi_ref) ** n,
        ),
        Mistake(
            N_("That is the worst of n: look at which side of Y the sums run over."),
            lambda pi_ref, r, n: best_of_n(pi_ref, -r, n),
        ),
        Mistake(
            N_("That is the response of highest reward alone, the limit for n → ∞. Among n draws it may be missing."),
            lambda pi_ref, r, n: F.one_hot(r.argmax(), len(r)),
        ),
        Mistake(
            N_("Your row does not sum to 1: Y may be drawn more than once, and is counted wrongly then."),
            lambda pi_ref, r, n: n * pi_ref * _at_most(pi_ref, r) ** (n - 1),
            lambda pi_ref, r, n: n * pi_ref * (_at_most(pi_ref, r) - pi_ref) ** (n - 1),
        ),
        Mistake(
            N_("That is π_ref tilted by an exponential, as in π_r. Best-of-n knows only the order of the rewards."),
            lambda pi_ref, r, n: _tilted(pi_ref * (n * r).exp()),
            lambda pi_ref, r, n: _tilted(pi_ref * (r / n).exp()),
            lambda pi_ref, r, n: _tilted(pi_ref * r.exp()),
        ),
        Mistake(
            N_("Your probabilities are in the order of the rewards. Put them back in the order of the responses."),
            lambda pi_ref, r, n: best_of_n(pi_ref, r, n)[r.argsort()],
            lambda pi_ref, r, n: best_of_n(pi_ref, r, n)[r.argsort(descending=True)],
        ),
        Mistake(
            N_("That is the best of n − 1. All n draws have to be no better than Y: the power is n."),
            lambda pi_ref, r, n: best_of_n(pi_ref, r, n - 1),
        ),
        Mistake(
            N_("Each response counts alike in yours. It is drawn from π_ref: add up probabilities, not places."),
            _by_rank,
        ),
        Mistake(
            N_("That is π_ref itself. n draws, of which the best is kept, write something else."),
            lambda pi_ref, r, n: pi_ref,
        ),
    ),
    hints=(
        N_("With which probability has one draw at most the reward of Y? And all n of them?"),
        N_("The best has the reward of Y if all n are at most that good, but not all are worse."),
        N_("`r[None, :] <= r[:, None]` is (M, M): row Y marks what is at most as good as Y."),
    ),
)

# ---------------------------------------------------------------------------------------------- 6.5 the KL of best-of-n


def kl_bound(n):
    """The KL, in nats, that best-of-n does not exceed."""
    return math.log(n) - (n - 1) / n


KL_BOUND = Exercise(
    number="6.5",
    title=N_("what best-of-n costs at most"),
    task=N_(
        "`kl_bound(n)` gets the number n of responses of which the best is kept. It returns the number of nats that "
        "the KL of best-of-n to its reference never exceeds: the logarithm of n, minus the share (n − 1)/n."
    ),
    difficulty="easy",
    minutes=2,
    right=kl_bound,
    why=N_("It grows with the logarithm of n: each further nat takes almost three times as many responses."),
    inputs=((1,), (2,), (4,), (16,), (64,)),
    mistakes=(
        Mistake(
            N_("`log2` gives bits. KL is in nats: `math.log`."),
            lambda n: math.log2(n) - (n - 1) / n,
        ),
        Mistake(
            N_("`log10` is neither nats nor bits. The natural logarithm is `math.log`."),
            lambda n: math.log10(n) - (n - 1) / n,
        ),
        Mistake(
            N_("(n − 1)/n is missing. ln n alone is a bound as well, but up to a nat too loose."),
            math.log,
        ),
        Mistake(
            N_("(n − 1)/n was added. It is subtracted."),
            lambda n: math.log(n) + (n - 1) / n,
        ),
        Mistake(
            N_("You subtracted 1/n. With n = 1 nothing is selected, and the bound must be 0."),
            lambda n: math.log(n) - 1 / n,
        ),
        Mistake(
            N_("You subtracted n − 1: without the division by n the number falls below 0."),
            lambda n: math.log(n) - (n - 1),
        ),
        Mistake(
            N_("You subtracted 1, what (n − 1)/n comes to for a large n only. At n = 1 it is 0."),
            lambda n: math.log(n) - 1,
        ),
        Mistake(
            N_("Python reads `n - 1 / n` as n − (1/n). Put brackets around `n - 1`."),
            lambda n: math.log(n) - n - 1 / n,
            lambda n: math.log(n) - (n - 1 / n),
        ),
        Mistake(
            N_("The signs are changed: no KL is below 0, and neither is a bound of it."),
            lambda n: (n - 1) / n - math.log(n),
        ),
        Mistake(
            N_("You multiplied by (n − 1)/n. It is subtracted from the logarithm."),
            lambda n: math.log(n) * (n - 1) / n,
        ),
    ),
    hints=(
        N_("Which logarithm counts in nats?"),
        N_("Known answers: 0 for n = 1, and about 0.19 for n = 2."),
    ),
)

# ------------------------------------------------------------------ 6.6 the best of n, as the second judge sees it


def second_of_best(first, second, n):
    """The expected second reward of the response that is best of n by the first."""
    count = len(first)
    ordered = second[first.argsort()]
    weights = [math.comb(below, n - 1) / math.comb(count, n) for below in range(count)]
    return (ordered * torch.tensor(weights, dtype=torch.float64)).sum()


def _with_weights(weight):
    """Σ weight(place, N, n) · second reward in rising order of the first, places counted from 1."""

    def way(first, second, n):
        weights = [weight(place, len(first), n) for place in range(1, len(first) + 1)]
        return (second[first.argsort()] * reals(weights)).sum()

    return way


def _unsorted(first, second, n):
    """The weights in the order in which the responses were drawn."""
    return second_of_best(torch.arange(len(first)), second, n)


def _by_ranks(first, second, n):
    """The second rewards picked by the ranks of the first, where its order belongs."""
    return second_of_best(first.argsort().double(), second, n)


def _blocks(first, second, n):
    """The mean over blocks of n, one after the other."""
    starts = range(0, len(first) - n + 1, n)
    return reals([float(second[k + int(first[k : k + n].argmax())]) for k in starts]).mean()


SECOND_OF_BEST = Exercise(
    number="6.6",
    title=N_("the best of n, as a second judge sees it"),
    task=N_(
        "`second_of_best(first, second, n)` gets the rewards of N responses to one prompt by two judges, two tensors "
        "(N,), and n ≤ N; no two numbers of `first` are alike. Keep the best of n by the first judge: what does the "
        "second give it? It returns the unbiased estimate: the mean over all choices of n of the N. `math.comb(a, b)` "
        "counts the choices of b out of a."
    ),
    difficulty="hard",
    minutes=10,
    right=second_of_best,
    why=N_("With k responses below it, one is the best of comb(k, n − 1) choices, whoever then looks at it."),
    inputs=(
        (reals([0.3, -1.0, 2.0, 0.9, 1.4]), reals([0.6, -0.5, 0.2, 1.1, 0.8]), 2),
        (reals([1.0, 0.1, 0.7, -0.4, 0.2, 3.0]), reals([0.3, 0.9, -0.2, 0.4, 1.3, 0.1]), 3),
        (reals([0.5, -2.0, 1.5, 4.0]), reals([0.5, -1.0, 2.5, 1.0]), 1),
        (reals([0.2, 0.8, -0.3]), reals([1.0, 0.7, -0.6]), 3),
    ),
    mistakes=(
        Mistake(
            N_("You kept the best by the second judge. It only looks at what the first has kept."),
            lambda first, second, n: second_of_best(second, second, n),
        ),
        Mistake(
            N_("That is what the first judge gives to the best of n. The second one's reward for it is asked for."),
            lambda first, second, n: second_of_best(first, first, n),
        ),
        Mistake(
            N_("The weights belong to the responses in rising order of the first reward. Sort first."),
            _unsorted,
        ),
        Mistake(
            N_("You picked by ranks. `second[...]` needs the order: `argsort` once. Twice, it gives the ranks."),
            _by_ranks,
        ),
        Mistake(
            N_("You took the first n responses and left the others unused. Average over all choices of n."),
            lambda first, second, n: second[first[:n].argmax()],
            lambda first, second, n: second[len(first) - n :][first[-n:].argmax()],
        ),
        Mistake(
            N_("Blocks of n have no bias either, but use few of the choices and scatter more. Take all of them."),
            _blocks,
        ),
        Mistake(
            N_("That is the best of all N. As long as n is smaller than N, it is kept in some of the choices only."),
            lambda first, second, n: second[first.argmax()],
        ),
        Mistake(
            N_("That is the mean over the n best of N. The best n together are one choice among many."),
            lambda first, second, n: second[first.argsort()[-n:]].mean(),
        ),
        Mistake(
            N_("You drew with replacement from the N: a response can meet itself, and the best ones count too little."),
            _with_weights(lambda k, count, n: (k / count) ** n - ((k - 1) / count) ** n),
        ),
        Mistake(
            N_("That keeps the worst of n: your weights fall where the first reward rises."),
            lambda first, second, n: second_of_best(-first, second, n),
        ),
        Mistake(
            N_("The division by the number of choices, comb(N, n), is missing."),
            _with_weights(lambda k, count, n: math.comb(k - 1, n - 1)),
        ),
        Mistake(
            N_("Your weights are one place off: with k responses below, the others have comb(k, n − 1) choices."),
            _with_weights(lambda k, count, n: math.comb(k, n - 1) / math.comb(count, n)),
            _with_weights(lambda k, count, n: math.comb(k - 1, n) / math.comb(count, n)),
            _with_weights(lambda k, count, n: math.comb(k, n) / math.comb(count, n)),
        ),
        Mistake(
            N_("That is the mean over all responses, what the second judge gives to one draw. It is right for n = 1."),
            lambda first, second, n: second.mean(),
        ),
    ),
    hints=(
        N_("Put the responses in order of the first reward. Of how many choices of n is one with k below it the best?"),
        N_("It is chosen, and the other n − 1 come from the k below it. Divide by the number of all choices."),
        N_("Known answers: n = 1 gives the mean of `second`, and with n = N the first judge's favourite decides."),
    ),
)

# --------------------------------------------------------------------------------------------- 6.7 do two points differ


def paired_difference(ours, theirs):
    """The mean difference of two policies over N prompts, and half its 95 % interval."""
    difference = ours - theirs
    error = difference.std() / len(difference) ** 0.5
    return difference.mean(), 1.96 * error


def _with_half(half):
    """The right difference with another number `half(ours, theirs)` beside it."""
    return lambda ours, theirs: ((ours - theirs).mean(), half(ours, theirs))


def _error(values):
    return values.std() / len(values) ** 0.5


PAIRED_DIFFERENCE = Exercise(
    number="6.7",
    title=N_("whether two policies differ"),
    task=N_(
        "`paired_difference(ours, theirs)` gets the mean rewards of two policies on the same N prompts, two tensors "
        "(N,). It returns two numbers: the mean of ours minus theirs, and half the width of its 95 % interval, 1.96 "
        "standard errors. The interval is paired: it is that of the N differences. Standard deviations divide by N − 1."
    ),
    difficulty="medium",
    minutes=6,
    right=paired_difference,
    why=N_(
        "Easy prompts are easy for both, and the difference drops that: two wide intervals may hide a sure difference."
    ),
    inputs=(
        (reals([1.0, 2.5, -0.5, 3.0]), reals([0.7, 2.0, -0.6, 2.2])),
        (reals([0.4, -1.0, 2.0]), reals([0.9, -0.2, 2.1])),
        (reals([1.5, 0.0, -2.0, 4.0, 1.0]), reals([-1.0, 2.0, 0.5, 1.0, 1.0])),
    ),
    mistakes=(
        Mistake(
            N_(
                "That is the interval of two independent samples. Both answered the same prompts: take the differences."
            ),
            _with_half(lambda ours, theirs: 1.96 * (_error(ours) ** 2 + _error(theirs) ** 2) ** 0.5),
        ),
        Mistake(
            N_("You added the two intervals, as if looking whether they overlap. That asks for far too much."),
            _with_half(lambda ours, theirs: 1.96 * (_error(ours) + _error(theirs))),
        ),
        Mistake(
            N_("Your standard deviation divides by N. Of a sample it divides by N − 1, as `std` of torch does."),
            _with_half(lambda ours, theirs: 1.96 * (ours - theirs).std(correction=0) / len(ours) ** 0.5),
        ),
        Mistake(
            N_("The root of N is missing: that is how far single prompts scatter, not how far their mean does."),
            _with_half(lambda ours, theirs: 1.96 * (ours - theirs).std()),
        ),
        Mistake(
            N_("You divided by N. The error of a mean falls with the root of N."),
            _with_half(lambda ours, theirs: 1.96 * (ours - theirs).std() / len(ours)),
        ),
        Mistake(
            N_("That is one standard error. An interval of 95 % reaches 1.96 of them to each side."),
            _with_half(lambda ours, theirs: _error(ours - theirs)),
        ),
        Mistake(
            N_("That is the whole width of the interval. Half of it is asked for, on one side of the mean."),
            _with_half(lambda ours, theirs: 2 * 1.96 * _error(ours - theirs)),
        ),
        Mistake(
            N_("The variance stands where its root, the standard deviation, belongs."),
            _with_half(lambda ours, theirs: 1.96 * (ours - theirs).var() / len(ours) ** 0.5),
            _with_half(lambda ours, theirs: 1.96 * (ours - theirs).var() / len(ours)),
        ),
        Mistake(
            N_("The difference is the wrong way round: ours minus theirs."),
            lambda ours, theirs: paired_difference(theirs, ours),
        ),
        Mistake(
            N_("You took the differences without their sign: two equal policies would then seem to differ."),
            lambda ours, theirs: paired_difference((ours - theirs).abs(), torch.zeros_like(ours)),
        ),
        Mistake(
            N_("Those are the two ends of the interval. Its middle and half its width are asked for."),
            lambda ours, theirs: (
                (ours - theirs).mean() - 1.96 * _error(ours - theirs),
                (ours - theirs).mean() + 1.96 * _error(ours - theirs),
            ),
        ),
    ),
    hints=(
        N_("Subtract first, prompt by prompt. What is left is one sample of N numbers."),
        N_("The standard error of their mean is the standard deviation over the root of N."),
        N_("Known answer: where ours is 0.5 above theirs on every prompt, the second number is 0."),
    ),
)

# --------------------------------------------------------------------------------------------------- 6.8 where it turns


def turning_point(kl, gain):
    """The KL at which the fitted gain d(a − b ln d) is largest."""
    d = kl.sqrt()
    columns = torch.stack([d, -d * d.log()], dim=1)
    a, b = torch.linalg.lstsq(columns, gain).solution
    return (a / b - 1).exp() ** 2


def _fitted(gain, *columns):
    """Coefficients of a least-squares fit."""
    return torch.linalg.lstsq(torch.stack(columns, dim=1), gain).solution


def _a_and_b(kl, gain):
    d = kl.sqrt()
    return _fitted(gain, d, -d * d.log())


def _from_fit(last):
    """Another number `last(a, b)` from the right fit."""
    return lambda kl, gain: last(*_a_and_b(kl, gain))


def _without_root(power):
    """The KL itself in the place of d, its turning point to a power."""

    def way(kl, gain):
        a, b = _fitted(gain, kl, -kl * kl.log())
        return (a / b - 1).exp() ** power

    return way


def _form_of_best_of_n(kl, gain):
    a, b = _fitted(gain, kl.sqrt(), -kl)
    return (a / (2 * b)) ** 2


def _with_intercept(kl, gain):
    d = kl.sqrt()
    a, b, _ = _fitted(gain, d, -d * d.log(), torch.ones_like(d))
    return (a / b - 1).exp() ** 2


def _plus_b(kl, gain):
    d = kl.sqrt()
    a, b = _fitted(gain, d, d * d.log())
    return (a / b - 1).exp() ** 2


def _in_bits(base):
    """log2 in the fit, and the turning point taken as if it were ln."""

    def way(kl, gain):
        d = kl.sqrt()
        a, b = _fitted(gain, d, -d * d.log2())
        return base ** (2 * (a / b - 1))

    return way


TURNING_POINT = Exercise(
    number="6.8",
    title=N_("where the second judge turns"),
    task=N_(
        "`turning_point(kl, gain)` gets the KLs of P policies, all above 0, and what each gained over the reference by "
        "a judge that did not train it, two tensors (P,). Fit gain = d(a − b ln d) with d = √KL by least squares, "
        "without an intercept, and return the KL at which the fitted gain is largest."
    ),
    difficulty="hard",
    minutes=10,
    right=turning_point,
    why=N_(
        "The slope a − b − b ln d is 0 at d = exp(a/b − 1); beyond it the training judge is still paid, we are not."
    ),
    inputs=(
        (reals([1.0, 4.0, 9.0, 16.0, 36.0]), reals([1.02, 1.58, 1.75, 1.62, 0.95])),
        (reals([0.5, 2.0, 6.0, 12.0]), reals([0.8, 1.25, 1.3, 1.1])),
        (reals([2.0, 5.0, 8.0, 20.0, 30.0, 50.0]), reals([0.5, 0.9, 1.0, 1.35, 1.3, 1.2])),
    ),
    mistakes=(
        Mistake(
            N_("You put the KL in the place of d. d is its root, a distance: the KL grows with the square of it."),
            _without_root(1),
            _without_root(2),
        ),
        Mistake(
            N_("That is d. The KL is asked for, its square."),
            _from_fit(lambda a, b: (a / b - 1).exp()),
        ),
        Mistake(
            N_("The − 1 is missing: at d = exp(a/b) the gain is back at 0. Where it is largest, its derivative is 0."),
            _from_fit(lambda a, b: (a / b).exp() ** 2),
            _from_fit(lambda a, b: (a / b).exp()),
        ),
        Mistake(
            N_("You fitted d(a − b d), the form for best-of-n. The one for trained policies has ln d."),
            _form_of_best_of_n,
        ),
        Mistake(
            N_("That is the KL of the best measured policy. The fit also speaks of what lies between and beyond."),
            lambda kl, gain: kl[gain.argmax()],
        ),
        Mistake(
            N_("Your fit has an intercept. At KL 0 the policy is the reference, and its gain is 0 by definition."),
            _with_intercept,
        ),
        Mistake(
            N_("That is the largest fitted gain itself. The KL at which it is reached is asked for."),
            _from_fit(lambda a, b: b * (a / b - 1).exp()),
        ),
        Mistake(
            N_("Those are a and b. One more step: where is the derivative of d(a − b ln d) zero?"),
            _a_and_b,
        ),
        Mistake(
            N_("The sign of b is lost: with the column + d ln d the fit gives −b. The form has a minus."),
            _plus_b,
        ),
        Mistake(
            N_("With `log2` in the fit the derivative is another one. The form has the natural logarithm."),
            _in_bits(math.e),
            _in_bits(2),
        ),
    ),
    hints=(
        N_("The form is linear in a and b: gain = a · d + b · (−d ln d). Which two columns does the fit have?"),
        N_("`torch.linalg.lstsq(columns, gain).solution` or `np.linalg.lstsq` finds a and b."),
        N_("Set the derivative of d(a − b ln d) to 0, solve for ln d, and square d at the end."),
    ),
)

EXERCISES = (
    OPTIMAL_POINT,
    GROUP_ADVANTAGES,
    PARETO,
    BEST_OF_N,
    KL_BOUND,
    SECOND_OF_BEST,
    PAIRED_DIFFERENCE,
    TURNING_POINT,
)
