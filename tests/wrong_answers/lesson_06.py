import itertools
import math
import statistics

import numpy as np
import torch

from tests.wrong_answers import collector

ANSWERS, wrong = collector()

# ----------------------------------------------------------------------------------------------------------------- 6.1


def reward_and_kl(pi, pi_ref, r):
    pi, pi_ref, r = (np.asarray(row) for row in (pi, pi_ref, r))
    return float(pi @ r), float(pi @ (np.log(pi) - np.log(pi_ref)))


def tilt(pi_ref, exponent):
    logits = np.log(pi_ref.numpy()) + np.asarray(exponent)
    return np.exp(logits) / np.exp(logits).sum()


@wrong("6.1", says="With exp(βr) a high β would end far out")
def beta_times_r(pi_ref, r, beta):
    return reward_and_kl(tilt(pi_ref, beta * r), pi_ref, r)


@wrong("6.1", says="averages over what the reference writes")
def kl_of_torch_the_wrong_way(pi_ref, r, beta):
    pi = torch.softmax(pi_ref.log() + r / beta, dim=0)
    return (pi @ r), torch.nn.functional.kl_div(pi.log(), pi_ref, reduction="sum")


@wrong("6.1", says="averages over what the reference writes")
def weights_of_the_reference(pi_ref, r, beta):
    pi = torch.softmax(pi_ref.log() + r / beta, dim=0)
    return (pi @ r), pi_ref @ (pi.log() - pi_ref.log())


@wrong("6.1", says="Your KL is in bits")
def bits(pi_ref, r, beta):
    reward, kl = reward_and_kl(tilt(pi_ref, r / beta), pi_ref, r)
    return reward, kl / math.log(2)


@wrong("6.1", says="without its weights")
def sum_of_log_ratios(pi_ref, r, beta):
    pi = tilt(pi_ref, r / beta)
    return pi @ r.numpy(), np.log(pi / pi_ref.numpy()).sum()


@wrong("6.1", says="The KL is multiplied by β")
def penalty(pi_ref, r, beta):
    reward, kl = reward_and_kl(tilt(pi_ref, r / beta), pi_ref, r)
    return [reward, beta * kl]


@wrong("6.1", says="Your first number is J")
def objective(pi_ref, r, beta):
    log_z = torch.logsumexp(pi_ref.log() + r / beta, dim=0)
    return beta * log_z, reward_and_kl(tilt(pi_ref, r / beta), pi_ref, r)[1]


@wrong("6.1", says="Reward and KL are exchanged")
def x_then_y(pi_ref, r, beta):
    reward, kl = reward_and_kl(tilt(pi_ref, r / beta), pi_ref, r)
    return np.array([kl, reward])


@wrong("6.1", says="The division by Z is missing")
def without_z(pi_ref, r, beta):
    return reward_and_kl(pi_ref * torch.exp(r / beta), pi_ref, r)


@wrong("6.1", says="a softmax of r/β that has forgotten π_ref")
def plain_softmax(pi_ref, r, beta):
    return reward_and_kl(torch.softmax(r / beta, 0), pi_ref, r)


@wrong("6.1", says="Your reward is the reference's")
def reward_of_reference(pi_ref, r, beta):
    return torch.dot(pi_ref, r), reward_and_kl(tilt(pi_ref, r / beta), pi_ref, r)[1]


@wrong("6.1", says="the curve of the lowest rewards")
def minus(pi_ref, r, beta):
    return reward_and_kl(tilt(pi_ref, -r / beta), pi_ref, r)


# ----------------------------------------------------------------------------------------------------------------- 6.2


@wrong("6.2", says="mean and spread over the whole batch")
def whole_batch(rewards):
    x = rewards.numpy()
    return (x - x.mean()) / (x.std(ddof=1) + 1e-4)


@wrong("6.2", says="The spread is that of the whole batch")
def group_mean_batch_spread(rewards):
    x = rewards.numpy()
    return (x - x.mean(1, keepdims=True)) / (x.std(ddof=1) + 1e-4)


@wrong("6.2", says="Mean and spread run over the prompts")
def columns(rewards):
    x = rewards.numpy()
    return (x - x.mean(axis=0)) / (x.std(axis=0, ddof=1) + 1e-4)


@wrong("6.2", says="divides by G, that of a whole population")
def default_of_numpy(rewards):
    x = rewards.numpy()
    return (x - x.mean(1)[:, None]) / (x.std(1)[:, None] + 1e-4)


@wrong("6.2", says="is another method, Dr. GRPO")
def centred(rewards):
    return torch.stack([row - row.mean() for row in rewards])


@wrong("6.2", says="The mean is not subtracted")
def scaled_only(rewards):
    return torch.stack([row / (row.std() + 1e-4) for row in rewards])


@wrong("6.2", says="the mean of the others: leave-one-out")
def leave_one_out(rewards):
    out = []
    for row in rewards.tolist():
        spread = statistics.stdev(row) + 1e-4
        out.append([(x - (sum(row) - x) / (len(row) - 1)) / spread for x in row])
    return out


@wrong("6.2", says="You divided by the variance")
def variance(rewards):
    return torch.stack([(row - row.mean()) / (row.var() + 1e-4) for row in rewards])


@wrong("6.2", says="The 1e-4 is missing")
def without_epsilon(rewards):
    x = rewards.numpy()
    with np.errstate(all="ignore"):
        return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True, ddof=1)


@wrong("6.2", says="push away from what was better")
def mean_minus_reward(rewards):
    return torch.stack([(row.mean() - row) / (row.std() + 1e-4) for row in rewards])


# ----------------------------------------------------------------------------------------------------------------- 6.3


@wrong("6.3", says="A point also loses to one that is equal in reward")
def strictly(reward, kl):
    keep = []
    for i in range(len(reward)):
        keep.append(not any(reward[j] > reward[i] and kl[j] < kl[i] for j in range(len(reward))))
    return keep


@wrong("6.3", says="have thrown each other out")
def others_at_least_as_good(reward, kl):
    beats = (reward[:, None] >= reward) & (kl[:, None] <= kl)
    beats.fill_diagonal_(False)
    return ~beats.any(0)


@wrong("6.3", says="every point beats itself")
def itself_too(reward, kl):
    beats = (reward[:, None] >= reward) & (kl[:, None] <= kl)
    return ~beats.any(0)


@wrong("6.3", says="Better in one of the two is not enough")
def either(reward, kl):
    return ~((reward[:, None] > reward) | (kl[:, None] < kl)).any(0)


@wrong("6.3", says="That is the highest reward alone")
def best_reward(reward, kl):
    return np.isclose(reward.numpy(), max(reward.tolist()))


@wrong("6.3", says="A higher KL counts as better")
def upper_right(reward, kl):
    points = list(zip(reward.tolist(), kl.tolist(), strict=True))
    return [not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points) for p in points]


@wrong("6.3", says="the corners of the line")
def hull(reward, kl):
    """A point stays if some price of a nat makes its objective the best."""
    prices = np.concatenate([np.geomspace(1e-6, 1e6, 20001)])
    objective = reward.numpy()[:, None] - prices * kl.numpy()[:, None]
    best = objective.max(0)
    return (np.abs(objective - best) < 1e-9).any(1)


@wrong("6.3", says="The list is in no order")
def running_record(reward, kl):
    best, keep = -math.inf, []
    for value in reward.tolist():
        keep.append(value > best)
        best = max(best, value)
    return keep


@wrong("6.3", says="mask of the beaten points")
def beaten(reward, kl):
    points = list(zip(reward.tolist(), kl.tolist(), strict=True))
    return [any(q != p and q[0] >= p[0] and q[1] <= p[1] for q in points) for p in points]


@wrong("6.3", says="Those are numbers of points")
def places(reward, kl):
    points = list(zip(reward.tolist(), kl.tolist(), strict=True))
    return [i for i, p in enumerate(points) if not any(q != p and q[0] >= p[0] and q[1] <= p[1] for q in points)]


@wrong("6.3", says="It returns")
def only_the_first_of_equals_stays(reward, kl):
    points, seen, keep = list(zip(reward.tolist(), kl.tolist(), strict=True)), set(), []
    for p in points:
        keep.append(p not in seen and not any(q != p and q[0] >= p[0] and q[1] <= p[1] for q in points))
        seen.add(p)
    return keep


# ----------------------------------------------------------------------------------------------------------------- 6.4


def by_rank(pi_ref, r, n, power):
    """Goes through the responses in rising order of r, and puts what `power` makes of each back in its place."""
    order, below, out = np.argsort(r.numpy()), 0.0, np.zeros(len(r))
    for place in order:
        p = float(pi_ref[place])
        out[place] = power(below, p, n)
        below += p
    return out


@wrong("6.4", says="all n draws are the same response")
def same_n_times(pi_ref, r, n):
    return [p**n for p in pi_ref.tolist()]


@wrong("6.4", says="Y is among the n draws")
def at_least_once(pi_ref, r, n):
    return [1 - (1 - p) ** n for p in pi_ref.tolist()]


@wrong("6.4", says="Take off that it is worse than Y")
def cumulative(pi_ref, r, n):
    return by_rank(pi_ref, r, n, lambda below, p, n: (below + p) ** n)


@wrong("6.4", says="which is then not among them")
def all_worse(pi_ref, r, n):
    return by_rank(pi_ref, r, n, lambda below, p, n: below**n)


@wrong("6.4", says="That is the worst of n")
def worst(pi_ref, r, n):
    return by_rank(pi_ref, r, n, lambda below, p, n: (1 - below) ** n - (1 - below - p) ** n)


@wrong("6.4", says="the limit for n → ∞")
def argmax(pi_ref, r, n):
    return [1.0 if x == max(r) else 0.0 for x in r]


@wrong("6.4", says="Y may be drawn more than once")
def density(pi_ref, r, n):
    return by_rank(pi_ref, r, n, lambda below, p, n: n * p * (below + p) ** (n - 1))


@wrong("6.4", says="Y may be drawn more than once")
def once_and_all_others_worse(pi_ref, r, n):
    return by_rank(pi_ref, r, n, lambda below, p, n: n * p * below ** (n - 1))


@wrong("6.4", says="tilted by an exponential")
def exponential(pi_ref, r, n):
    return tilt(pi_ref, n * r)


@wrong("6.4", says="in the order of the rewards")
def left_sorted(pi_ref, r, n):
    sums = np.cumsum(pi_ref.numpy()[np.argsort(r.numpy())])
    return np.diff(np.concatenate([[0.0], sums]) ** n)


@wrong("6.4", says="That is the best of n − 1")
def one_draw_too_few(pi_ref, r, n):
    return by_rank(pi_ref, r, n, lambda below, p, n: (below + p) ** (n - 1) - below ** (n - 1))


@wrong("6.4", says="Each response counts alike")
def ranks(pi_ref, r, n):
    rank, count = np.argsort(np.argsort(r.numpy())), len(r)
    return ((rank + 1) / count) ** n - (rank / count) ** n


@wrong("6.4", says="That is π_ref itself")
def unchanged(pi_ref, r, n):
    return pi_ref.clone()


# ----------------------------------------------------------------------------------------------------------------- 6.5


@wrong("6.5", says="`log2` gives bits")
def in_bits(n):
    return np.log2(n) - 1 + 1 / n


@wrong("6.5", says="neither nats nor bits")
def decades(n):
    return np.log10(n) - (n - 1) / n


@wrong("6.5", says="up to a nat too loose")
def logarithm(n):
    return torch.tensor(float(n), dtype=torch.float64).log()


@wrong("6.5", says="(n − 1)/n was added")
def plus(n):
    return np.log(n) + 1 - 1 / n


@wrong("6.5", says="You subtracted 1/n")
def one_over_n(n):
    return np.log(n) - n**-1


@wrong("6.5", says="without the division by n")
def n_minus_one(n):
    return np.log(n) + 1 - n


@wrong("6.5", says="for a large n only")
def limit(n):
    return np.log(n / np.e)


@wrong("6.5", says="Put brackets around `n - 1`")
def brackets(n):
    share = n - 1 / n
    return math.log(n) - share


@wrong("6.5", says="no KL is below 0")
def negative(n):
    return 1 - 1 / n + math.log(1 / n)


@wrong("6.5", says="You multiplied by (n − 1)/n")
def product(n):
    return (n - 1) * math.log(n) / n


# ----------------------------------------------------------------------------------------------------------------- 6.6


def mean_over(first, second, n, chosen_by=max):
    """Every choice of n, one after the other."""
    rows = list(zip(first.tolist(), second.tolist(), strict=True))
    return np.mean([chosen_by(rows_of_n)[1] for rows_of_n in itertools.combinations(rows, n)])


def order_statistics(values, n, weight):
    total = math.comb(len(values), n)
    return sum(weight(k) * float(x) for k, x in enumerate(values)) / total


@wrong("6.6", says="You kept the best by the second judge")
def best_by_second(first, second, n):
    return mean_over(second, second, n)


@wrong("6.6", says="what the first judge gives")
def first_reward(first, second, n):
    return np.mean([max(chosen) for chosen in itertools.combinations(first.tolist(), n)])


@wrong("6.6", says="Sort first")
def as_drawn(first, second, n):
    return order_statistics(second, n, lambda k: math.comb(k, n - 1))


@wrong("6.6", says="You picked by ranks")
def ranks_for_order(first, second, n):
    ranks = np.argsort(np.argsort(first.numpy()))
    return order_statistics(second.numpy()[ranks], n, lambda k: math.comb(k, n - 1))


@wrong("6.6", says="left the others unused")
def first_n(first, second, n):
    return max(zip(first.tolist()[:n], second.tolist()[:n], strict=True))[1]


@wrong("6.6", says="use few of the choices")
def chunks(first, second, n):
    kept = [b[a.argmax()] for a, b in zip(first.split(n), second.split(n), strict=True) if len(a) == n]
    return sum(kept) / len(kept)


@wrong("6.6", says="the best of all N")
def favourite(first, second, n):
    return second.numpy()[np.argmax(first.numpy())]


@wrong("6.6", says="the mean over the n best of N")
def top(first, second, n):
    return second[torch.topk(first, n).indices].mean()


@wrong("6.6", says="with replacement")
def tuples(first, second, n):
    rows = list(zip(first.tolist(), second.tolist(), strict=True))
    return np.mean([max(drawn)[1] for drawn in itertools.product(rows, repeat=n)])


@wrong("6.6", says="keeps the worst of n")
def minima(first, second, n):
    return mean_over(first, second, n, chosen_by=min)


@wrong("6.6", says="The division by the number of choices")
def total(first, second, n):
    return mean_over(first, second, n) * math.comb(len(first), n)


@wrong("6.6", says="one place off")
def counted_from_one(first, second, n):
    return order_statistics(second[first.argsort()], n, lambda k: math.comb(k + 1, n - 1))


@wrong("6.6", says="what the second judge gives to one draw")
def average(first, second, n):
    return statistics.fmean(second.tolist())


# ----------------------------------------------------------------------------------------------------------------- 6.7


def halves(values):
    return 1.96 * statistics.stdev(values.tolist()) / math.sqrt(len(values))


@wrong("6.7", says="two independent samples")
def unpaired(ours, theirs):
    return ours.mean() - theirs.mean(), math.hypot(halves(ours), halves(theirs))


@wrong("6.7", says="as if looking whether they overlap")
def overlap(ours, theirs):
    return ours.mean() - theirs.mean(), halves(ours) + halves(theirs)


@wrong("6.7", says="Of a sample it divides by N − 1")
def default_std_of_numpy(ours, theirs):
    d = ours.numpy() - theirs.numpy()
    return d.mean(), 1.96 * d.std() / np.sqrt(d.size)


@wrong("6.7", says="The root of N is missing")
def spread(ours, theirs):
    d = ours.numpy() - theirs.numpy()
    return d.mean(), 1.96 * d.std(ddof=1)


@wrong("6.7", says="You divided by N. The error")
def over_n(ours, theirs):
    d = ours.numpy() - theirs.numpy()
    return d.mean(), 1.96 * d.std(ddof=1) / d.size


@wrong("6.7", says="That is one standard error")
def standard_error(ours, theirs):
    d = ours.numpy() - theirs.numpy()
    return d.mean(), (d.var(ddof=1) / d.size) ** 0.5


@wrong("6.7", says="whole width of the interval")
def width(ours, theirs):
    return (ours - theirs).mean(), 2 * halves(ours - theirs)


@wrong("6.7", says="The variance stands where its root")
def variance_of_the_mean(ours, theirs):
    d = (ours - theirs).tolist()
    return statistics.mean(d), 1.96 * statistics.variance(d) / len(d)


@wrong("6.7", says="the wrong way round")
def theirs_first(ours, theirs):
    return (theirs - ours).mean(), halves(theirs - ours)


@wrong("6.7", says="differences without their sign")
def distances(ours, theirs):
    d = torch.abs(ours - theirs)
    return d.mean(), halves(d)


@wrong("6.7", says="the two ends of the interval")
def low_and_high(ours, theirs):
    d = ours - theirs
    return d.mean() - halves(d), d.mean() + halves(d)


# ----------------------------------------------------------------------------------------------------------------- 6.8


def least_squares(gain, *columns):
    return np.linalg.lstsq(np.stack(columns, axis=1), gain, rcond=None)[0]


def a_and_b(kl, gain):
    d = np.sqrt(kl.numpy())
    return least_squares(gain.numpy(), d, -d * np.log(d))


@wrong("6.8", says="You put the KL in the place of d")
def no_root(kl, gain):
    a, b = least_squares(gain.numpy(), kl.numpy(), -kl.numpy() * np.log(kl.numpy()))
    return np.exp(a / b - 1)


@wrong("6.8", says="That is d. The KL is asked for")
def not_squared(kl, gain):
    a, b = a_and_b(kl, gain)
    return np.exp(a / b - 1)


@wrong("6.8", says="the gain is back at 0")
def zero_of_the_gain(kl, gain):
    a, b = a_and_b(kl, gain)
    return np.exp(2 * a / b)


@wrong("6.8", says="the form for best-of-n")
def parabola(kl, gain):
    d = np.sqrt(kl.numpy())
    a, b = least_squares(gain.numpy(), d, -(d**2))
    return (a / b / 2) ** 2


@wrong("6.8", says="the best measured policy")
def best_measured(kl, gain):
    return max(zip(gain.tolist(), kl.tolist(), strict=True))[1]


@wrong("6.8", says="Your fit has an intercept")
def three_columns(kl, gain):
    d = np.sqrt(kl.numpy())
    a, b, _ = least_squares(gain.numpy(), d, -d * np.log(d), np.ones(len(d)))
    return np.exp(a / b - 1) ** 2


@wrong("6.8", says="the largest fitted gain itself")
def height(kl, gain):
    a, b = a_and_b(kl, gain)
    d = np.exp(a / b - 1)
    return d * (a - b * np.log(d))


@wrong("6.8", says="One more step")
def coefficients(kl, gain):
    return a_and_b(kl, gain)


@wrong("6.8", says="The sign of b is lost")
def plus_column(kl, gain):
    d = np.sqrt(kl.numpy())
    a, b = least_squares(gain.numpy(), d, d * np.log(d))
    return np.exp(2 * (a / b - 1))


@wrong("6.8", says="With `log2` in the fit")
def binary(kl, gain):
    d = np.sqrt(kl.numpy())
    a, b = least_squares(gain.numpy(), d, -d * np.log2(d))
    return np.exp(2 * (a / b - 1))


@wrong("6.8", says="It returns")
def searched_on_a_coarse_grid(kl, gain):
    a, b = a_and_b(kl, gain)
    d = np.arange(1, 10)
    return d[np.argmax(d * (a - b * np.log(d)))] ** 2
