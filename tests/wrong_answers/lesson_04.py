import math

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from tests.wrong_answers import collector

ANSWERS, wrong = collector()

# ----------------------------------------------------------------------------------------------------------------- 4.1


@wrong("4.1", says="That is exp(βr)")
def times_beta(pi_ref, r, beta):
    return torch.einsum("nm,nm->n", pi_ref, torch.exp(beta * r))


@wrong("4.1", says="weights π_ref are missing")
def unweighted(pi_ref, r, beta):
    return np.exp(r.numpy() / beta).sum(axis=1)


@wrong("4.1", says="reference's expected reward")
def expected_reward(pi_ref, r, beta):
    return [sum(p * x for p, x in zip(ps, xs, strict=True)) for ps, xs in zip(pi_ref, r, strict=True)]


@wrong("4.1", says="exponential of a mean")
def exp_outside(pi_ref, r, beta):
    return torch.exp((pi_ref * r / beta).sum(dim=-1))


@wrong("4.1", says="summed over the queries")
def down_the_columns(pi_ref, r, beta):
    return sum(pi_ref[n] * torch.exp(r[n] / beta) for n in range(len(r)))


@wrong("4.1", says="one number for all queries")
def grand_total(pi_ref, r, beta):
    Z = 0.0
    for p, x in zip(pi_ref.flatten().tolist(), r.flatten().tolist(), strict=True):
        Z += p * math.exp(x / beta)
    return Z


@wrong("4.1", says="divided the sum by M")
def averaged_terms(pi_ref, r, beta):
    return np.mean(pi_ref.numpy() * np.exp(r.numpy() / beta), axis=-1)


@wrong("4.1", says="Those are the terms")
def no_sum(pi_ref, r, beta):
    return torch.exp(torch.log(pi_ref) + r / beta)


@wrong("4.1", says="That is a softmax")
def softmax_of_rewards(pi_ref, r, beta):
    e = np.exp(r.numpy() / beta)
    return e / e.sum(axis=1, keepdims=True)


@wrong("4.1", says="compares no two responses")
def two_way(pi_ref, r, beta):
    a, b = torch.exp(r[:, 0] / beta), torch.exp(r[:, 1] / beta)
    return a / (a + b)


@wrong("4.1", says="That is ln Z")
def log_sum_exp(pi_ref, r, beta):
    return torch.logsumexp(pi_ref.log() + r / beta, dim=1)


@wrong("4.1", says="reward over price")
def no_beta(pi_ref, r, beta):
    return np.sum(pi_ref.numpy() * np.exp(r.numpy()), axis=1)


# ----------------------------------------------------------------------------------------------------------------- 4.2


@wrong("4.2", says="a high β chases the reward")
def chases_reward(pi_ref, r, beta):
    return torch.softmax(pi_ref.log() + beta * r, dim=-1)


@wrong("4.2", says="division by Z is missing")
def numerators(pi_ref, r, beta):
    return pi_ref.numpy() * np.exp(r.numpy() / beta)


@wrong("4.2", says="reference has no part in it")
def boltzmann(pi_ref, r, beta):
    return [torch.softmax(row / beta, 0) for row in r]


@wrong("4.2", says="Your Z has no π_ref")
def other_z(pi_ref, r, beta):
    return pi_ref * torch.softmax(r / beta, dim=1)


@wrong("4.2", says="normalised over the queries")
def one_z_for_all(pi_ref, r, beta):
    top = pi_ref.numpy() * np.exp(r.numpy() / beta)
    return top / top.sum()


@wrong("4.2", says="response of highest reward")
def greedy(pi_ref, r, beta):
    pi = torch.zeros_like(r)
    for n in range(len(r)):
        pi[n, torch.argmax(r[n])] = 1.0
    return pi


@wrong("4.2", says="prefers the worst")
def worst_first(pi_ref, r, beta):
    return torch.softmax(torch.log(pi_ref) - r / beta, dim=1)


@wrong("4.2", says="β has no effect")
def any_beta(pi_ref, r, beta):
    top = pi_ref * torch.exp(r)
    return (top.T / top.sum(dim=1)).T


@wrong("4.2", says="You added π_ref itself")
def adds_probabilities(pi_ref, r, beta):
    return torch.softmax(pi_ref + r / beta, dim=1)


@wrong("4.2", says="makes a negative probability")
def linear(pi_ref, r, beta):
    tilted = pi_ref.numpy() * r.numpy()
    return tilted / tilted.sum(axis=1, keepdims=True)


# ----------------------------------------------------------------------------------------------------------------- 4.3


@wrong("4.3", says="β ln Z(X) is missing")
def implicit_reward(pi, pi_ref, beta, log_z):
    return beta * torch.log(pi / pi_ref)


@wrong("4.3", says="multiplied by β, too")
def z_without_beta(pi, pi_ref, beta, log_z):
    return [beta * torch.log(p / q) + z for p, q, z in zip(pi, pi_ref, log_z, strict=True)]


@wrong("4.3", says="ln Z is subtracted")
def minus_z(pi, pi_ref, beta, log_z):
    return beta * (np.log(pi.numpy() / pi_ref.numpy()) - log_z.numpy()[:, np.newaxis])


@wrong("4.3", says="You divided by β")
def over_beta(pi, pi_ref, beta, log_z):
    return (torch.log(pi) - torch.log(pi_ref) + log_z.unsqueeze(1)) / beta


@wrong("4.3", says="π_ref stands on top")
def inverted(pi, pi_ref, beta, log_z):
    return beta * torch.log(pi_ref / pi) + beta * log_z.reshape(-1, 1)


@wrong("4.3", says="logarithm of the ratio is missing")
def plain_ratio(pi, pi_ref, beta, log_z):
    return beta * (pi / pi_ref + log_z[:, None])


@wrong("4.3", says="π_ref is missing")
def log_policy(pi, pi_ref, beta, log_z):
    return beta * (torch.log(pi) + log_z.unsqueeze(-1))


@wrong("4.3", says="ln Z runs along the responses")
def broadcast(pi, pi_ref, beta, log_z):
    return beta * (torch.log(pi / pi_ref) + log_z)


@wrong("4.3", says="ln Z already")
def log_of_log(pi, pi_ref, beta, log_z):
    return beta * torch.log(pi / pi_ref) + beta * torch.log(log_z)[:, None]


# ----------------------------------------------------------------------------------------------------------------- 4.4


@wrong("4.4", says="Rows and columns")
def transposed(r):
    return [[torch.sigmoid(b - a) for b in r] for a in r]


@wrong("4.4", says="softmax over all M")
def best_of_all(r):
    weights = np.exp(r.numpy() - r.numpy().max())
    return weights / weights.sum()


@wrong("4.4", says="differences of the rewards")
def margins(r):
    return np.subtract.outer(r.numpy(), r.numpy())


@wrong("4.4", says="Those are odds")
def odds(r):
    return torch.exp(r.unsqueeze(1) - r.unsqueeze(0))


@wrong("4.4", says="which the loss will need")
def log_probability(r):
    return -torch.log1p(torch.exp(r[None] - r[:, None]))


@wrong("4.4", says="better response always wins")
def certain(r):
    x = r.tolist()
    return [[1.0 if a > b else 0.0 for b in x] for a in x]


@wrong("4.4", says="Response j has no part")
def against_nothing(r):
    return torch.stack([torch.sigmoid(r)] * len(r), dim=1)


@wrong("4.4", says="You divided rewards")
def share_of_reward(r):
    return [[a / (a + b) for b in r] for a in r]


@wrong("4.4", says="diagonal is not right")
def never_itself(r):
    table = torch.zeros(len(r), len(r))
    for i in range(len(r)):
        for j in range(len(r)):
            if i != j:
                table[i, j] = 1 / (1 + torch.exp(r[j] - r[i]))
    return table


@wrong("4.4", says="until a reward is too large")
def exp_first(r):
    strength = np.exp(r.numpy())
    return strength[:, None] / np.add.outer(strength, strength)


# ----------------------------------------------------------------------------------------------------------------- 4.5


def rewards_of(log_w, log_l, ref_w, ref_l, beta):
    return beta * (log_w - ref_w), beta * (log_l - ref_l)


@wrong("4.5", says="The log is forgotten")
def forgot_log(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    return -torch.mean(1 / (1 + torch.exp(rejected - chosen)))


@wrong("4.5", says="which is maximised")
def log_likelihood(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    return logsigmoid(chosen - rejected).mean()


@wrong("4.5", says="margin is the wrong way round")
def swapped(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    return -logsigmoid(rejected - chosen).mean()


@wrong("4.5", says="reference has no part in it")
def no_reference(log_w, log_l, ref_w, ref_l, beta):
    return -torch.log(torch.sigmoid(beta * (log_w - log_l))).mean()


@wrong("4.5", says="of the reference are added")
def reference_added(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = beta * (log_w + ref_w), beta * (log_l + ref_l)
    return -logsigmoid(chosen - rejected).mean()


@wrong("4.5", says="β stands outside")
def beta_outside(log_w, log_l, ref_w, ref_l, beta):
    return (-beta * logsigmoid(log_w - log_l - ref_w + ref_l)).mean()


@wrong("4.5", says="β is missing from the margin: an implicit")
def without_beta(log_w, log_l, ref_w, ref_l, beta):
    logits = (log_w - log_l) - (ref_w - ref_l)
    return np.logaddexp(0, -logits.numpy()).mean()


@wrong("4.5", says="are divided by β")
def divided_by_beta(log_w, log_l, ref_w, ref_l, beta):
    logits = ((log_w - log_l) - (ref_w - ref_l)) / beta
    return -logsigmoid(logits).mean()


@wrong("4.5", says="Only the chosen response")
def chosen_alone(log_w, log_l, ref_w, ref_l, beta):
    return np.mean(np.log1p(np.exp(-beta * (log_w - ref_w).numpy())))


@wrong("4.5", says="Ratios of probabilities")
def probability_ratios(log_w, log_l, ref_w, ref_l, beta):
    ratio_w = torch.exp(log_w) / torch.exp(ref_w)
    ratio_l = torch.exp(log_l - ref_l)
    return -logsigmoid(beta * ratio_w - beta * ratio_l).mean()


@wrong("4.5", says="added the pairs up. The mean is asked for, which")
def summed(log_w, log_l, ref_w, ref_l, beta):
    total = torch.zeros(())
    for w, lo, rw, rl in zip(log_w, log_l, ref_w, ref_l, strict=True):
        total = total - logsigmoid(beta * (w - rw - lo + rl))
    return total


@wrong("4.5", says="one loss a pair")
def unreduced(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    return torch.nn.functional.softplus(rejected - chosen)


@wrong("4.5", says="averaged the margins")
def mean_first(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    return -logsigmoid(chosen.mean() - rejected.mean())


@wrong("4.5", says="until a margin is far below 0")
def log_of_sigmoid(log_w, log_l, ref_w, ref_l, beta):
    m = beta * np.array([w - rw - (lo - rl) for w, lo, rw, rl in zip(log_w, log_l, ref_w, ref_l, strict=True)])
    with np.errstate(all="ignore"):
        return -np.log(1 / (1 + np.exp(-m))).mean()


@wrong("4.5", says="Called as")
def half_reference(log_w, log_l, ref_w, ref_l, beta):
    return -logsigmoid(beta * (log_w - ref_w - log_l)).mean()


# ----------------------------------------------------------------------------------------------------------------- 4.6


@wrong("4.6", says="ranked rightly already")
def right_order(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    return 1 / (1 + torch.exp(rejected - chosen))


@wrong("4.6", says="a logarithm of σ")
def the_loss(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    return torch.log(1 + torch.exp(rejected - chosen))


@wrong("4.6", says="the derivative of σ")
def bell(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    s = 1 / (1 + np.exp((rejected - chosen).numpy()))
    return s * (1 - s)


@wrong("4.6", says="weight is negative")
def derivative_of_the_loss(log_w, log_l, ref_w, ref_l, beta):
    m = (beta * ((log_w - log_l) - (ref_w - ref_l))).clone().requires_grad_()
    (-logsigmoid(m)).sum().backward()
    return m.grad


@wrong("4.6", says="falls off too early")
def in_nats(log_w, log_l, ref_w, ref_l, beta):
    return [torch.sigmoid(rw - w + lo - rl) for w, lo, rw, rl in zip(log_w, log_l, ref_w, ref_l, strict=True)]


@wrong("4.6", says="That is wβ")
def whole_factor(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    return beta * torch.sigmoid(rejected - chosen)


@wrong("4.6", says="every pair pulls with ½")
def likelihood_weight(log_w, log_l, ref_w, ref_l, beta):
    return torch.sigmoid(beta * log_l - beta * log_w)


@wrong("4.6", says="weight of its own")
def average_pull(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    return float(torch.sigmoid(rejected - chosen).mean())


# ----------------------------------------------------------------------------------------------------------------- 4.7


@wrong("4.7", says="belongs to the margin βh")
def half_on_h(log_w, log_l, ref_w, ref_l, beta):
    return torch.square((log_w - log_l) - (ref_w - ref_l) - 1 / 2)


@wrong("4.7", says="β² times the loss")
def half_on_margin(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    return (chosen - rejected - 0.5) ** 2


@wrong("4.7", says="compared with the target of h")
def margin_and_target(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    return torch.square(chosen - rejected - 0.5 / beta)


@wrong("4.7", says="The 2 is missing")
def one_over_beta(log_w, log_l, ref_w, ref_l, beta):
    return np.square((log_w - ref_w - log_l + ref_l).numpy() - beta**-1)


@wrong("4.7", says="from left to right")
def precedence(log_w, log_l, ref_w, ref_l, beta):
    return (log_w - log_l - (ref_w - ref_l) - 1 / 2 * beta) ** 2


@wrong("4.7", says="stay at its reference")
def no_target(log_w, log_l, ref_w, ref_l, beta):
    return [(w - rw - lo + rl) ** 2 for w, lo, rw, rl in zip(log_w, log_l, ref_w, ref_l, strict=True)]


@wrong("4.7", says="h is the wrong way round")
def rejected_first(log_w, log_l, ref_w, ref_l, beta):
    h = (log_l - ref_l) - (log_w - ref_w)
    return (h - 1 / (2 * beta)) ** 2


@wrong("4.7", says="The square is missing")
def distance(log_w, log_l, ref_w, ref_l, beta):
    return torch.abs(log_w - ref_w - log_l + ref_l - 1 / (2 * beta))


@wrong("4.7", says="Your h has no reference")
def only_policy(log_w, log_l, ref_w, ref_l, beta):
    return (log_w.numpy() - log_l.numpy() - 1 / (2 * beta)) ** 2


@wrong("4.7", says="DPO's own loss")
def sigmoid_loss(log_w, log_l, ref_w, ref_l, beta):
    chosen, rejected = rewards_of(log_w, log_l, ref_w, ref_l, beta)
    return np.log1p(np.exp((rejected - chosen).numpy()))


@wrong("4.7", says="mean over the pairs. Here")
def batch_loss(log_w, log_l, ref_w, ref_l, beta):
    h = (log_w - ref_w) - (log_l - ref_l)
    return torch.nn.functional.mse_loss(h, torch.full_like(h, 1 / (2 * beta)))


# ----------------------------------------------------------------------------------------------------------------- 4.8


@wrong("4.8", says="mean over the tokens. DPO")
def mean_of_tokens(token_log_probs, response_mask):
    rows = zip(token_log_probs, response_mask, strict=True)
    return [row[mask.bool()].mean() if mask.any() else 0.0 for row, mask in rows]


@wrong("4.8", says="The mask is not used")
def whole_row(token_log_probs, response_mask):
    return token_log_probs.numpy().sum(axis=-1)


@wrong("4.8", says="The prompt is counted")
def up_to_the_end(token_log_probs, response_mask):
    out = []
    for row, mask in zip(token_log_probs.tolist(), response_mask.tolist(), strict=True):
        end = max((t + 1 for t, m in enumerate(mask) if m), default=0)
        out.append(sum(row[:end]))
    return out


@wrong("4.8", says="padding behind the response")
def from_the_start(token_log_probs, response_mask):
    total = []
    for row, mask in zip(token_log_probs, response_mask, strict=True):
        total.append(row[int(mask.argmax()) :].sum() if mask.any() else torch.tensor(0.0))
    return torch.stack(total)


@wrong("4.8", says="mask is the wrong way round")
def where_not_response(token_log_probs, response_mask):
    return token_log_probs.masked_fill(response_mask.bool(), 0.0).sum(dim=1)


@wrong("4.8", says="Log-probabilities were multiplied")
def product(token_log_probs, response_mask):
    rows = zip(token_log_probs.tolist(), response_mask.tolist(), strict=True)
    return [math.prod(x for x, m in zip(row, mask, strict=True) if m) for row, mask in rows]


@wrong("4.8", says="That is a probability, which")
def probability(token_log_probs, response_mask):
    probabilities = np.exp(token_log_probs.numpy())
    return np.prod(np.where(response_mask.numpy() > 0, probabilities, 1.0), axis=1)


@wrong("4.8", says="summed over the batch")
def per_column(token_log_probs, response_mask):
    return torch.einsum("bl,bl->l", token_log_probs, response_mask)


@wrong("4.8", says="one number for the whole batch")
def everything(token_log_probs, response_mask):
    return token_log_probs[response_mask.bool()].sum()


@wrong("4.8", says="one number a token")
def masked_tokens(token_log_probs, response_mask):
    return torch.where(response_mask.bool(), token_log_probs, 0.0)


@wrong("4.8", says="shifted against each other")
def as_for_logits(token_log_probs, response_mask):
    return np.sum(token_log_probs.numpy()[:, :-1] * response_mask.numpy()[:, 1:], axis=1)


@wrong("4.8", says="The sign is changed")
def negative_log_likelihood(token_log_probs, response_mask):
    return torch.sum(-token_log_probs * response_mask, dim=1)
