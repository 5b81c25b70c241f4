import math

import numpy as np
import torch

from tests.wrong_answers import collector

ANSWERS, wrong = collector()

# ----------------------------------------------------------------------------------------------------------------- 1.1


@wrong("1.1", says="in bits")
def numpy_log2(probabilities):
    p = np.asarray(probabilities)
    return -np.sum(p * np.log2(np.where(p > 0, p, 1)))


@wrong("1.1", says="in bits")
def loop_in_bits(probabilities):
    h = 0.0
    for p in probabilities.tolist():
        if p > 0:
            h -= p * math.log(p, 2)
    return h


@wrong("1.1", says="NaN")
def torch_one_liner(probabilities):
    return (-probabilities * torch.log(probabilities)).sum()


@wrong("1.1", says="sign is missing")
def positive_sum(probabilities):
    return sum(p * math.log(p) for p in probabilities.tolist() if p)


@wrong("1.1", says="weighted by its own")
def mean_surprise(probabilities):
    return -np.mean(np.log(np.asarray(probabilities)))


@wrong("1.1", says="expected is the shape ()")
def one_term_a_token(probabilities):
    return -torch.xlogy(probabilities, probabilities)


# ----------------------------------------------------------------------------------------------------------------- 1.2


@wrong("1.2", says="mean over tokens")
def average(token_log_probs):
    return np.mean(np.asarray(token_log_probs))


@wrong("1.2", says="mean over tokens")
def divided_by_length(token_log_probs):
    total = 0
    for value in token_log_probs:
        total += value
    return total / len(token_log_probs)


@wrong("1.2", says="That is π(Y|X) itself")
def product_of_probabilities(token_log_probs):
    product = 1.0
    for value in token_log_probs.tolist():
        product = product * math.exp(value)
    return product


@wrong("1.2", says="multiplied logarithms")
def product_of_logs(token_log_probs):
    return np.prod(token_log_probs.numpy())


@wrong("1.2", says="added probabilities")
def log_of_a_sum(token_log_probs):
    return torch.logsumexp(token_log_probs, dim=0)


@wrong("1.2", says="sign is turned round")
def nll(token_log_probs):
    loss = 0.0
    for value in token_log_probs:
        loss = loss - value
    return loss


# ----------------------------------------------------------------------------------------------------------------- 1.3


@wrong("1.3", says="divided probabilities by τ")
def tau_last(logits, temperature):
    e = np.exp(logits.numpy() - logits.numpy().max())
    return e / e.sum() / temperature


@wrong("1.3", says="τ changes nothing")
def tau_cancels(logits, temperature):
    p = torch.softmax(logits, dim=-1)
    p = p / temperature
    return p / p.sum()


@wrong("1.3", says="multiplied by τ")
def hot_is_sharp(logits, temperature):
    return torch.softmax(temperature * logits, -1)


@wrong("1.3", says="∞/∞")
def plain_formula(logits, temperature):
    e = [math.exp(z / temperature) if z < 700 else math.inf for z in logits.tolist()]
    return [value / sum(e) for value in e]


@wrong("1.3", says="log-probabilities")
def log_space(logits, temperature):
    scaled = logits / temperature
    return scaled - torch.logsumexp(scaled, 0)


@wrong("1.3", says="not normalised")
def exponentials_only(logits, temperature):
    return torch.exp(logits / temperature)


@wrong("1.3", says="OverflowError")
def python_exp_overflows(logits, temperature):
    e = [math.exp(z / temperature) for z in logits.tolist()]
    return [value / sum(e) for value in e]


# ----------------------------------------------------------------------------------------------------------------- 1.4


@wrong("1.4", says="One token too few")
def stops_before_crossing(probabilities, p):
    total, count = 0.0, 0
    for value in sorted(probabilities.tolist(), reverse=True):
        if total + value > p:
            break
        total += value
        count += 1
    return count


@wrong("1.4", says="One token too few")
def searchsorted_left(probabilities, p):
    return np.searchsorted(np.cumsum(np.sort(probabilities.numpy())[::-1]), p)


@wrong("1.4", says="Sort them first")
def in_the_given_order(probabilities, p):
    total = 0.0
    for count, value in enumerate(probabilities, start=1):
        total += value
        if total >= p:
            return count
    return len(probabilities)


@wrong("1.4", says="unlikeliest tokens")
def ascending(probabilities, p):
    mass = np.cumsum(np.sort(np.asarray(probabilities)))
    return int(np.argmax(mass >= p)) + 1


@wrong("1.4", says="compared each probability with p")
def threshold(probabilities, p):
    return sum(1 for value in probabilities if value >= p)


@wrong("1.4", says="exactly p")
def one_more_when_reached(probabilities, p):
    mass = np.cumsum(-np.sort(-probabilities.numpy()))
    return min(int(np.sum(mass <= p)) + 1, len(mass))


# ----------------------------------------------------------------------------------------------------------------- 1.5


@wrong("1.5", says="Dividing raises")
def divides_all(logits, previous_ids, penalty):
    new = np.array(logits)
    new[previous_ids] = new[previous_ids] / penalty
    return new


@wrong("1.5", says="Multiplying raises")
def multiplies_all(logits, previous_ids, penalty):
    return [z * penalty if i in previous_ids else z for i, z in enumerate(logits.tolist())]


@wrong("1.5", says="exchanged")
def rewards_repeats(logits, previous_ids, penalty):
    out = logits.clone()
    for i in set(previous_ids):
        if out[i] < 0:
            out[i] /= penalty
        else:
            out[i] *= penalty
    return out


@wrong("1.5", says="penalised three times")
def every_time(logits, previous_ids, penalty):
    out = list(logits)
    for i in previous_ids:
        out[i] = out[i] * penalty if out[i] < 0 else out[i] / penalty
    return out


@wrong("1.5", says="subtracted the penalty")
def minus(logits, previous_ids, penalty):
    seen = torch.zeros(len(logits))
    for i in previous_ids:
        seen[i] = 1
    return logits - seen * penalty


@wrong("1.5", says="never occurred")
def everyone(logits, previous_ids, penalty):
    return np.where(np.asarray(logits) > 0, np.asarray(logits) / penalty, np.asarray(logits) * penalty)


@wrong("1.5", says="changes its argument")
def in_place(logits, previous_ids, penalty):
    for i in set(previous_ids):
        logits[i] = logits[i] / penalty if logits[i] > 0 else logits[i] * penalty
    return logits


# ----------------------------------------------------------------------------------------------------------------- 1.6


@wrong("1.6", says="first entry")
def by_place(pipe_outputs, label):
    scores = []
    for output in pipe_outputs:
        scores.append(output[0]["score"])
    return scores


@wrong("1.6", says="second entry")
def classic_lab(pipe_outputs, label):
    return torch.tensor([output[1]["score"] for output in pipe_outputs])


@wrong("1.6", says="largest score")
def certainty(pipe_outputs, label):
    return [sorted(output, key=lambda entry: -entry["score"])[0]["score"] for output in pipe_outputs]


@wrong("1.6", says="looks for POSITIVE")
def hard_coded(pipe_outputs, label):
    return [entry["score"] for output in pipe_outputs for entry in output if entry["label"] == "POSITIVE"]


@wrong("1.6", says="first text alone")
def returns_in_the_loop(pipe_outputs, label):
    for output in pipe_outputs:
        for entry in output:
            if entry["label"] == label:
                return entry["score"]


@wrong("1.6", says="object of type `dict`")
def the_entry_itself(pipe_outputs, label):
    return [next(entry for entry in output if entry["label"] == label) for output in pipe_outputs]


# ----------------------------------------------------------------------------------------------------------------- 1.7


@wrong("1.7", says="as unrelated")
def all_rewards(rewards):
    flat = rewards.flatten()
    return flat.mean(), flat.std(ddof=1) / len(flat) ** 0.5


@wrong("1.7", says="`ddof=1`")
def numpy_default(rewards):
    means = [row.mean() for row in rewards]
    return np.mean(means), np.std(means) / math.sqrt(len(means))


@wrong("1.7", says="√N is missing")
def spread(rewards):
    means = torch.tensor(rewards).mean(dim=1)
    return means.mean(), means.std()


@wrong("1.7", says="divided the spread by N")
def by_n(rewards):
    means = rewards.mean(1)
    return means.mean(), means.std(ddof=1) / rewards.shape[0]


@wrong("1.7", says="mean of each column")
def other_axis(rewards):
    means = rewards.mean(axis=0)
    return means.mean(), means.std(ddof=1) / np.sqrt(len(means))


@wrong("1.7", says="half the 95 % interval")
def interval(rewards):
    means = rewards.mean(axis=1)
    return rewards.mean(), 1.96 * means.std(ddof=1) / np.sqrt(len(means))


@wrong("1.7", says="not by √(N · K)")
def root_of_all(rewards):
    means = rewards.mean(axis=1)
    return means.mean(), means.std(ddof=1) / math.sqrt(rewards.shape[0] * rewards.shape[1])


@wrong("1.7", says="expected is the shape (2,)")
def mean_alone(rewards):
    total = 0.0
    for row in rewards:
        for r in row:
            total += r
    return total / rewards.size


# ----------------------------------------------------------------------------------------------------------------- 1.8


@wrong("1.8", says="the other way round")
def exchanged(pi, pi_ref):
    total = 0.0
    for p, q in zip(pi.tolist(), pi_ref.tolist(), strict=True):
        if p > 0 and q > 0:
            total += q * math.log(q / p)
    return total


@wrong("1.8", says="the other way round")
def torch_kl_div_misread(pi, pi_ref):
    return torch.nn.functional.kl_div(pi.log(), pi_ref, reduction="sum")


@wrong("1.8", says="upside down")
def ratio_upside_down(pi, pi_ref):
    p, q = np.asarray(pi), np.asarray(pi_ref)
    keep = p > 0
    return np.sum(p[keep] * np.log(q[keep] / p[keep]))


@wrong("1.8", says="draws came from the wrong policy")
def reference_weighs(pi, pi_ref):
    return sum(q * math.log(p / q) for p, q in zip(pi.tolist(), pi_ref.tolist(), strict=True) if p)


@wrong("1.8", says="in bits")
def base_two(pi, pi_ref):
    keep = pi > 0
    return (pi[keep] * torch.log2(pi[keep] / pi_ref[keep])).sum()


@wrong("1.8", says="mean over the V tokens")
def numpy_mean(pi, pi_ref):
    p, q = pi.numpy(), pi_ref.numpy()
    return np.mean(np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(q > 0, q, 1)), 0))


@wrong("1.8", says="weighted by π of its token")
def unweighted(pi, pi_ref):
    return (pi.log() - pi_ref.log()).mean()


@wrong("1.8", says="impossible under π")
def with_nan(pi, pi_ref):
    return torch.sum(pi * torch.log(pi / pi_ref))
