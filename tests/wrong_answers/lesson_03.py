import math
from itertools import pairwise

import numpy as np
import torch

from tests.wrong_answers import collector

ANSWERS, wrong = collector()

# ----------------------------------------------------------------------------------------------------------------- 3.1


@wrong("3.1", says="You reward the KL")
def plus_kl(log_probs, ref_log_probs, scores, beta, mask):
    rewards = beta * (log_probs - ref_log_probs) * mask
    for row, m in enumerate(mask):
        rewards[row, int(m.sum()) - 1] += scores[row]
    return rewards


@wrong("3.1", says="lands on the last column")
def last_column(log_probs, ref_log_probs, scores, beta, mask):
    rewards = -beta * (log_probs.numpy() - ref_log_probs.numpy()) * mask.numpy()
    rewards[:, -1] += scores.numpy()
    return rewards


@wrong("3.1", says="Every token gets the whole score")
def everywhere(log_probs, ref_log_probs, scores, beta, mask):
    return (scores[:, None] - beta * (log_probs - ref_log_probs)) * mask


@wrong("3.1", says="stands at the first token")
def at_the_first(log_probs, ref_log_probs, scores, beta, mask):
    rewards = [
        [-beta * float(a - b) * float(m) for a, b, m in zip(*row, strict=True)]
        for row in zip(log_probs, ref_log_probs, mask, strict=True)
    ]
    for row, score in enumerate(scores.tolist()):
        rewards[row][0] += score
    return rewards


@wrong("3.1", says="Padding pays for KL")
def forgot_the_mask(log_probs, ref_log_probs, scores, beta, mask):
    rewards = -beta * (log_probs - ref_log_probs)
    for row in range(len(mask)):
        rewards[row, mask[row].nonzero().max()] += scores[row]
    return rewards


@wrong("3.1", says="takes the place of")
def assigned(log_probs, ref_log_probs, scores, beta, mask):
    rewards = -beta * (log_probs - ref_log_probs) * mask
    last = mask.sum(dim=1).long() - 1
    rewards[torch.arange(len(mask)), last] = scores
    return rewards


@wrong("3.1", says="β is missing")
def no_beta(log_probs, ref_log_probs, scores, beta, mask):
    rewards = (ref_log_probs - log_probs) * mask
    rewards[torch.arange(len(mask)), mask.sum(dim=1).long() - 1] += scores
    return rewards


@wrong("3.1", says="scores are missing")
def kl_alone(log_probs, ref_log_probs, scores, beta, mask):
    return np.where(mask.numpy() > 0, -beta * (log_probs - ref_log_probs).numpy(), 0.0)


# ----------------------------------------------------------------------------------------------------------------- 3.2


def backwards(deltas, factor):
    out = [0.0] * len(deltas)
    for t in range(len(deltas) - 1, -1, -1):
        out[t] = deltas[t] + (factor * out[t + 1] if t + 1 < len(deltas) else 0.0)
    return out


def deltas_of(rewards, values, gamma, after=0.0):
    nexts = [*values.tolist()[1:], after]
    return [r + gamma * n - v for r, n, v in zip(rewards.tolist(), nexts, values.tolist(), strict=True)]


@wrong("3.2", says="λ has no effect")
def without_lambda(rewards, values, gamma, lam):
    return backwards(deltas_of(rewards, values, gamma), gamma)


@wrong("3.2", says="not by λ alone")
def without_gamma_in_the_sum(rewards, values, gamma, lam):
    return backwards(deltas_of(rewards, values, gamma), lam)


@wrong("3.2", says="missing before V_{t+1}")
def without_gamma_in_delta(rewards, values, gamma, lam):
    return np.array(backwards(deltas_of(rewards, values, 1.0), gamma * lam))


@wrong("3.2", says="δ_t alone")
def temporal_difference(rewards, values, gamma, lam):
    return torch.tensor(deltas_of(rewards, values, gamma))


@wrong("3.2", says="look beyond the end")
def bootstraps(rewards, values, gamma, lam):
    advantages, advantage, next_value = torch.zeros(len(values)), 0.0, values[-1]
    for t in reversed(range(len(values))):
        advantage = rewards[t] + gamma * next_value - values[t] + gamma * lam * advantage
        advantages[t], next_value = advantage, values[t]
    return advantages


@wrong("3.2", says="joined to a ring")
def rolled(rewards, values, gamma, lam):
    deltas = rewards + gamma * torch.roll(values, -1) - values
    return backwards(deltas.tolist(), gamma * lam)


@wrong("3.2", says="− V_t is missing")
def no_value(rewards, values, gamma, lam):
    nexts = np.append(values.numpy()[1:], 0.0)
    return backwards((rewards.numpy() + gamma * nexts).tolist(), gamma * lam)


@wrong("3.2", says="runs forwards")
def forwards(rewards, values, gamma, lam):
    out, advantage = [], 0.0
    for delta in deltas_of(rewards, values, gamma):
        advantage = delta + gamma * lam * advantage
        out.append(advantage)
    return out


@wrong("3.2", says="Those are the returns")
def returns(rewards, values, gamma, lam):
    return np.array(backwards(deltas_of(rewards, values, gamma), gamma * lam)) + values.numpy()


@wrong("3.2", says="IndexError")
def off_by_one(rewards, values, gamma, lam):
    return [rewards[t] + gamma * values[t + 1] - values[t] for t in range(len(values))]


# ----------------------------------------------------------------------------------------------------------------- 3.3


@wrong("3.3", says="in the sum and in the count")
def numpy_mean(x, mask):
    return np.mean(x.numpy())


@wrong("3.3", says="still in the count")
def zeros_count(x, mask):
    return torch.where(mask.bool(), x, torch.zeros_like(x)).mean()


@wrong("3.3", says="mean of each response")
def mean_of_means(x, mask):
    means = [row[m.bool()].mean() for row, m in zip(x, mask, strict=True)]
    return sum(means) / len(means)


@wrong("3.3", says="sum over the tokens")
def total(x, mask):
    return x.masked_select(mask.bool()).sum()


@wrong("3.3", says="one mean a response")
def per_row(x, mask):
    return [row[m > 0].mean() for row, m in zip(x.numpy(), mask.numpy(), strict=True)]


@wrong("3.3", says="expected is the shape ()")
def selected(x, mask):
    return x[mask.bool()]


# ----------------------------------------------------------------------------------------------------------------- 3.4


@wrong("3.4", says="upside down")
def old_over_new(log_probs, old_log_probs):
    return [math.exp(o - n) for n, o in zip(log_probs.tolist(), old_log_probs.tolist(), strict=True)]


@wrong("3.4", says="ln ρ")
def difference(log_probs, old_log_probs):
    return np.subtract(log_probs.numpy(), old_log_probs.numpy())


@wrong("3.4", says="divided logarithms")
def quotient(log_probs, old_log_probs):
    return torch.div(log_probs, old_log_probs)


@wrong("3.4", says="whole response")
def of_the_sequence(log_probs, old_log_probs):
    return torch.exp(torch.sum(log_probs - old_log_probs))


@wrong("3.4", says="too small for a computer")
def exp_first(log_probs, old_log_probs):
    with np.errstate(all="ignore"):
        return np.exp(log_probs.numpy()) / np.exp(old_log_probs.numpy())


# ----------------------------------------------------------------------------------------------------------------- 3.5


@wrong("3.5", says="smaller loss")
def smaller_loss(ratio, advantages, epsilon):
    surr1 = ratio * advantages
    surr2 = torch.clamp(ratio, 1 - epsilon, 1 + epsilon) * advantages
    return -torch.max(surr1, surr2)


@wrong("3.5", says="That is the objective")
def objective(ratio, advantages, epsilon):
    rho, A = ratio.numpy(), advantages.numpy()
    return np.minimum(rho * A, np.clip(rho, 1 - epsilon, 1 + epsilon) * A)


@wrong("3.5", says="clip has no effect")
def unclipped(ratio, advantages, epsilon):
    return [-r * a for r, a in zip(ratio, advantages, strict=True)]


@wrong("3.5", says="Only the clipped term")
def clip_alone(ratio, advantages, epsilon):
    held = [min(max(r, 1 - epsilon), 1 + epsilon) for r in ratio.tolist()]
    return -np.array(held) * advantages.numpy()


@wrong("3.5", says="You clipped ρA")
def clips_the_product(ratio, advantages, epsilon):
    product = ratio * advantages
    return torch.max(-product, -product.clip(1 - epsilon, 1 + epsilon))


@wrong("3.5", says="That is the mean")
def cost(ratio, advantages, epsilon):
    one, two = -advantages * ratio, -advantages * ratio.clamp(1 - epsilon, 1 + epsilon)
    return torch.max(one, two).mean()


@wrong("3.5", says="around 0")
def around_zero(ratio, advantages, epsilon):
    return torch.max(-advantages * ratio, -advantages * torch.clip(ratio, -epsilon, epsilon))


# ----------------------------------------------------------------------------------------------------------------- 3.6


@wrong("3.6", says="error is not held")
def free(beta, kl, target, n, horizon):
    error = (kl - target) / target
    return beta * (1 + error * n / horizon)


@wrong("3.6", says="wrong way round")
def cheaper(beta, kl, target, n, horizon):
    error = np.clip(1 - kl / target, -0.2, 0.2)
    return beta * (1 + error * n / horizon)


@wrong("3.6", says="not the difference in nats")
def absolute(beta, kl, target, n, horizon):
    error = float(torch.clamp(torch.tensor(kl - target, dtype=torch.float64), -0.2, 0.2))
    return beta + beta * error * n / horizon


@wrong("3.6", says="n / horizon is missing")
def at_once(beta, kl, target, n, horizon):
    return beta * (1 + np.clip(kl / target - 1, -0.2, 0.2))


@wrong("3.6", says="You added to β")
def added(beta, kl, target, n, horizon):
    error = max(-0.2, min(0.2, kl / target - 1))
    beta += error * n / horizon
    return beta


@wrong("3.6", says="subtract 1 first")
def no_minus_one(beta, kl, target, n, horizon):
    error = np.clip(kl / target, -0.2, 0.2)
    return beta * (1 + error * n / horizon)


# ----------------------------------------------------------------------------------------------------------------- 3.7


@wrong("3.7", says="distinct-1")
def unigrams(responses):
    words = np.concatenate([np.array(tokens) for tokens in responses])
    return len(np.unique(words)) / len(words)


@wrong("3.7", says="mean of each response's own share")
def each_by_itself(responses):
    shares = []
    for tokens in responses:
        pairs = [tuple(tokens[i : i + 2]) for i in range(len(tokens) - 1)]
        if pairs:
            shares.append(len(set(pairs)) / len(pairs))
    return np.mean(shares)


@wrong("3.7", says="from one response into the next")
def one_long_text(responses):
    tokens = [token for response in responses for token in response]
    pairs = {(tokens[i], tokens[i + 1]) for i in range(len(tokens) - 1)}
    return len(pairs) / (len(tokens) - 1)


@wrong("3.7", says="do not overlap")
def steps_of_two(responses):
    pairs = []
    for tokens in responses:
        for i in range(0, len(tokens) - 1, 2):
            pairs.append((tokens[i], tokens[i + 1]))
    return len(set(pairs)) / len(pairs)


@wrong("3.7", says="number of different pairs")
def count_only(responses):
    seen = set()
    for tokens in responses:
        for i in range(1, len(tokens)):
            seen.add((tokens[i - 1], tokens[i]))
    return len(seen)


@wrong("3.7", says="taken for one pair")
def unordered(responses):
    pairs = [frozenset((a, b)) for tokens in responses for a, b in pairwise(tokens)]
    return len(set(pairs)) / len(pairs)


@wrong("3.7", says="divided by the number of tokens")
def over_tokens(responses):
    pairs, tokens_seen = set(), 0
    for tokens in responses:
        tokens_seen += len(tokens)
        pairs |= set(pairwise(tokens))
    return len(pairs) / tokens_seen


# ----------------------------------------------------------------------------------------------------------------- 3.8


@wrong("3.8", says="reach back into the query")
def classic_loop(row, query_length, gen_len, eos):
    return row[-gen_len:]


@wrong("3.8", says="reach back into the query")
def classic_loop_then_cut(row, query_length, gen_len, eos):
    ids = row.tolist()[-gen_len:]
    return ids[: ids.index(eos) + 1] if eos in ids else ids


@wrong("3.8", says="end token is cut off")
def until_eos(row, query_length, gen_len, eos):
    out = []
    for token in row[query_length:].tolist():
        if token == eos:
            break
        out.append(token)
    return out


@wrong("3.8", says="padding after the end")
def behind_the_query(row, query_length, gen_len, eos):
    return row.numpy()[query_length:]


@wrong("3.8", says="not the last")
def last_eos(row, query_length, gen_len, eos):
    response = row.numpy()[query_length:]
    ends = np.flatnonzero(response == eos)
    return response[: ends[-1] + 1] if len(ends) else response


@wrong("3.8", says="query is still there")
def keeps_the_query(row, query_length, gen_len, eos):
    ids = row.tolist()
    for place in range(query_length, len(ids)):
        if ids[place] == eos:
            return ids[: place + 1]
    return ids


@wrong("3.8", says="whole row")
def searches_the_row(row, query_length, gen_len, eos):
    ids = row.tolist()
    end = ids.index(eos) + 1 if eos in ids else len(ids)
    return ids[query_length:end]
