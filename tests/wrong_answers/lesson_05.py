import statistics

import numpy as np
import torch

from tests.wrong_answers import collector

ANSWERS, wrong = collector()

# ----------------------------------------------------------------------------------------------------------------- 5.1


@wrong("5.1", says="Chosen and rejected are exchanged")
def worse_first(rewards):
    out = []
    for n in range(len(rewards)):
        if rewards[n, 0] != rewards[n, 1]:
            out.append((n, int(rewards[n].argmin()), int(rewards[n].argmax())))
    return out


@wrong("5.1", says="A tie has become a pair")
def argmax_of_every_row(rewards):
    best = np.argmax(rewards.numpy(), axis=1)
    return np.stack([np.arange(len(best)), best, 1 - best], axis=1)


@wrong("5.1", says="A tie has become a pair")
def two_cases_only(rewards):
    return [[n, 0, 1] if a > b else [n, 1, 0] for n, (a, b) in enumerate(rewards)]


@wrong("5.1", says="first response is always the chosen one")
def by_position(rewards):
    return [(n, 0, 1) for n in range(rewards.shape[0]) if rewards[n][0] != rewards[n][1]]


@wrong("5.1", says="numbered anew")
def filtered_first(rewards):
    kept = rewards[rewards[:, 0] != rewards[:, 1]]
    chosen = kept.argmax(dim=1)
    return torch.stack([torch.arange(len(kept)), chosen, 1 - chosen], dim=1)


@wrong("5.1", says="The prompts are missing")
def without_prompts(rewards):
    return [(0, 1) if a > b else (1, 0) for a, b in rewards.tolist() if a != b]


@wrong("5.1", says="compared the first reward with 0")
def positive_is_chosen(rewards):
    triples = []
    for n, (a, b) in enumerate(rewards):
        if a == b:
            continue
        triples.append((n, 0, 1) if a > 0 else (n, 1, 0))
    return triples


@wrong("5.1", says="the rewards themselves")
def sorted_rewards(rewards):
    return [(n, *sorted(row, reverse=True)) for n, row in enumerate(rewards.tolist()) if len(set(row)) == 2]


# ----------------------------------------------------------------------------------------------------------------- 5.2


@wrong("5.2", says="held-out numbers for rows")
def row_numbers(prompts, held_out):
    return sorted(set(range(len(prompts))) - set(held_out))


@wrong("5.2", says="rows for evaluation")
def evaluation(prompts, held_out):
    return np.flatnonzero(np.isin(prompts, held_out))


@wrong("5.2", says="Those are prompts")
def prompt_numbers(prompts, held_out):
    ids = np.array(prompts)
    return ids[~np.isin(ids, held_out)]


@wrong("5.2", says="a leak")
def removes_once(prompts, held_out):
    rows = list(range(len(prompts)))
    for prompt in held_out:
        rows.remove(prompts.index(prompt))
    return rows


@wrong("5.2", says="pairs of one prompt land on both sides")
def last_rows_out(prompts, held_out):
    return list(range(len(prompts)))[: -len(held_out)]


@wrong("5.2", says="keeps a single pair")
def unique_prompts(prompts, held_out):
    seen, rows = set(held_out), []
    for row, prompt in enumerate(prompts):
        if prompt not in seen:
            seen.add(prompt)
            rows.append(row)
    return rows


@wrong("5.2", says="That is a mask, true")
def mask(prompts, held_out):
    return ~np.isin(prompts, held_out)


@wrong("5.2", says="IndexError")
def looks_up_too_far(prompts, held_out):
    return [row for row in range(len(prompts) + 1) if prompts[row] not in held_out]


# ----------------------------------------------------------------------------------------------------------------- 5.3


@wrong("5.3", says="weights of the full matrices")
def full(layers, shapes, rank):
    return layers * int(np.prod(shapes, axis=1).sum())


@wrong("5.3", says="frozen matrix W is counted")
def with_frozen(layers, shapes, rank):
    total = 0
    for rows, columns in shapes:
        total += rows * columns + rows * rank + rank * columns
    return total * layers


@wrong("5.3", says="were multiplied")
def product_of_sizes(layers, shapes, rank):
    return layers * sum((i * rank) * (rank * o) for i, o in shapes)


@wrong("5.3", says="Only one of the two")
def a_alone(layers, shapes, rank):
    return sum(layers * rank * shape[0] for shape in shapes)


@wrong("5.3", says="took W for a square")
def square(layers, shapes, rank):
    return sum(layers * (rank * i + i * rank) for i, _ in shapes)


@wrong("5.3", says="The layers are missing")
def one_layer(layers, shapes, rank):
    return rank * np.sum(shapes)


@wrong("5.3", says="The rank is missing")
def edges(layers, shapes, rank):
    return layers * np.array(shapes).sum()


@wrong("5.3", says="Only one matrix of the list")
def first_matrix(layers, shapes, rank):
    n_in, n_out = shapes[0]
    return layers * rank * (n_in + n_out)


# ----------------------------------------------------------------------------------------------------------------- 5.4


@wrong("5.4", says="α is not divided by r")
def alpha_alone(x, W, A, B, alpha, rank):
    return torch.matmul(x, W + alpha * torch.matmul(A, B))


@wrong("5.4", says="factor α/r is missing")
def unscaled(x, W, A, B, alpha, rank):
    return x.numpy() @ (W.numpy() + A.numpy() @ B.numpy())


@wrong("5.4", says="factor is upside down")
def rank_over_alpha(x, W, A, B, alpha, rank):
    return x @ (W + rank / alpha * A @ B)


@wrong("5.4", says="rank-stabilised LoRA")
def root(x, W, A, B, alpha, rank):
    return x @ W + alpha / np.sqrt(rank) * (x @ A) @ B


@wrong("5.4", says="Only the update is left")
def update_alone(x, W, A, B, alpha, rank):
    return torch.einsum("ni,ir,ro->no", x, A, B) * (alpha / rank)


@wrong("5.4", says="scales the frozen part")
def scales_all(x, W, A, B, alpha, rank):
    return x @ (W + A @ B) * alpha / rank


@wrong("5.4", says="Those are the moved weights")
def merged_weights(x, W, A, B, alpha, rank):
    return W.numpy() + alpha * (A.numpy() @ B.numpy()) / rank


@wrong("5.4", says="The update is subtracted")
def minus(x, W, A, B, alpha, rank):
    return x @ (W - alpha / rank * A @ B)


@wrong("5.4", says="nonlinearity between A and B")
def adapter(x, W, A, B, alpha, rank):
    hidden = np.maximum((x @ A).numpy(), 0)
    return (x @ W).numpy() + alpha / rank * hidden @ B.numpy()


@wrong("5.4", says="B comes before A")
def order(x, W, A, B, alpha, rank):
    return x @ W + (alpha / rank) * x @ B @ A


# ----------------------------------------------------------------------------------------------------------------- 5.5


@wrong("5.5", says="never learns to stop")
def every_pad(ids, prompt_length, pad):
    labels = ids.clone()
    labels[:prompt_length] = -100
    labels[labels == pad] = -100
    return labels


@wrong("5.5", says="The prompt is labelled")
def collator_for_language_models(ids, prompt_length, pad):
    return [-100 if token == pad else token for token in ids.tolist()]


@wrong("5.5", says="The prompt is labelled")
def end_kept_but_prompt_too(ids, prompt_length, pad):
    labels, ended = [], False
    for place, token in enumerate(ids.tolist()):
        labels.append(-100 if ended else token)
        ended = ended or (place >= prompt_length and token == pad)
    return labels


@wrong("5.5", says="The padding is labelled")
def prompt_only(ids, prompt_length, pad):
    return np.concatenate([np.full(prompt_length, -100), ids.numpy()[prompt_length:]])


def with_border(ids, start, first, pad):
    tokens = ids.tolist()
    end = tokens.index(pad, first) + 1 if pad in tokens[first:] else len(tokens)
    return [token if start <= place < end else -100 for place, token in enumerate(tokens)]


@wrong("5.5", says="one token off")
def one_too_early(ids, prompt_length, pad):
    return with_border(ids, prompt_length - 1, prompt_length, pad)


@wrong("5.5", says="one token off")
def one_too_late(ids, prompt_length, pad):
    return with_border(ids, prompt_length + 1, prompt_length, pad)


@wrong("5.5", says="marked with −100")
def zeros(ids, prompt_length, pad):
    return [max(label, 0) for label in with_border(ids, prompt_length, prompt_length, pad)]


@wrong("5.5", says="shifted by one")
def next_token(ids, prompt_length, pad):
    return np.append(with_border(ids, prompt_length, prompt_length, pad)[1:], -100)


@wrong("5.5", says="found the prompt's padding")
def first_pad_of_the_row(ids, prompt_length, pad):
    labels = ids.numpy().copy()
    places = np.flatnonzero(labels == pad)
    if len(places):
        labels[places[0] + 1 :] = -100
    labels[:prompt_length] = -100
    return labels


@wrong("5.5", says="Something was cut off")
def response_alone(ids, prompt_length, pad):
    return [label for label in with_border(ids, prompt_length, prompt_length, pad) if label != -100]


@wrong("5.5", says="a mask of the response")
def ones_and_zeros(ids, prompt_length, pad):
    return [int(label != -100) for label in with_border(ids, prompt_length, prompt_length, pad)]


@wrong("5.5", says="the other way round")
def inverted(ids, prompt_length, pad):
    labels = torch.tensor(with_border(ids, prompt_length, prompt_length, pad))
    return torch.where(labels == -100, ids, -100)


# ----------------------------------------------------------------------------------------------------------------- 5.6


@wrong("5.6", says="which response the policy finds likelier")
def likelier(log_w, log_l, ref_w, ref_l):
    return np.mean(log_w.numpy() > log_l.numpy())


@wrong("5.6", says="an untrained policy would look perfect")
def not_worse(log_w, log_l, ref_w, ref_l):
    return ((log_w - log_l) >= (ref_w - ref_l)).float().mean()


@wrong("5.6", says="A tie counts half here")
def ties_half(log_w, log_l, ref_w, ref_l):
    chosen, rejected = log_w - ref_w, log_l - ref_l
    return ((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean()


@wrong("5.6", says="against their label")
def swapped(log_w, log_l, ref_w, ref_l):
    return ((log_l - ref_l) > (log_w - ref_w)).double().mean()


@wrong("5.6", says="chosen response has become likelier")
def chosen_rose(log_w, log_l, ref_w, ref_l):
    return [a > b for a, b in zip(log_w, ref_w, strict=True)].count(True) / len(log_w)


@wrong("5.6", says="mean margin in nats")
def mean_margin(log_w, log_l, ref_w, ref_l):
    return (log_w - log_l).mean() - (ref_w - ref_l).mean()


@wrong("5.6", says="how sure the implicit reward is")
def confidence(log_w, log_l, ref_w, ref_l):
    margins = (log_w - ref_w - log_l + ref_l).numpy()
    return np.mean(1 / (1 + np.exp(-margins)))


@wrong("5.6", says="number of pairs ranked rightly")
def count_right(log_w, log_l, ref_w, ref_l):
    return sum(int(w - rw > lo - rl) for w, lo, rw, rl in zip(log_w, log_l, ref_w, ref_l, strict=True))


@wrong("5.6", says="one answer a pair")
def each_pair(log_w, log_l, ref_w, ref_l):
    return (log_w - ref_w).numpy() > (log_l - ref_l).numpy()


@wrong("5.6", says="compared the batch's means")
def means_compared(log_w, log_l, ref_w, ref_l):
    return float((log_w - ref_w).mean() > (log_l - ref_l).mean())


@wrong("5.6", says="Log-probabilities were divided")
def quotients(log_w, log_l, ref_w, ref_l):
    return torch.gt(log_w / ref_w, log_l / ref_l).float().mean()


# ----------------------------------------------------------------------------------------------------------------- 5.7


@wrong("5.7", says="A tie counts as a win")
def at_least(ours, theirs):
    return np.mean(ours.numpy() >= theirs.numpy())


@wrong("5.7", says="A tie counts as a loss")
def strictly(ours, theirs):
    return sum(a > b for a, b in zip(ours.tolist(), theirs.tolist(), strict=True)) / len(ours)


@wrong("5.7", says="ties are left out")
def decided_only(ours, theirs):
    won = lost = 0
    for a, b in zip(ours.tolist(), theirs.tolist(), strict=True):
        won, lost = won + (a > b), lost + (a < b)
    return won / (won + lost)


@wrong("5.7", says="win rate of the other policy")
def loss_rate(ours, theirs):
    points = [1.0 if b > a else 0.5 if a == b else 0.0 for a, b in zip(ours, theirs, strict=True)]
    return sum(points) / len(points)


@wrong("5.7", says="mean difference of rewards")
def mean_gain(ours, theirs):
    return ours.mean() - theirs.mean()


@wrong("5.7", says="mean probability under Bradley-Terry")
def soft(ours, theirs):
    return float((1 / (1 + torch.exp(theirs - ours))).mean())


@wrong("5.7", says="responses to different prompts")
def everyone_against_everyone(ours, theirs):
    points = [(a > b) + 0.5 * (a == b) for a in ours.tolist() for b in theirs.tolist()]
    return np.mean(points)


@wrong("5.7", says="a number of wins")
def points_in_all(ours, theirs):
    return (ours > theirs).sum() + 0.5 * (ours == theirs).sum()


@wrong("5.7", says="wins minus losses")
def balance(ours, theirs):
    return np.sign((ours - theirs).numpy()).mean()


@wrong("5.7", says="compared the mean rewards")
def better_on_average(ours, theirs):
    return 1.0 if ours.mean() > theirs.mean() else 0.0


# ----------------------------------------------------------------------------------------------------------------- 5.8


@wrong("5.8", says="percentiles of the values")
def spread_of_prompts(values, drawn):
    return np.percentile(values.numpy(), [2.5, 97.5])


@wrong("5.8", says="percentiles of the values")
def pooled(values, drawn):
    return np.percentile(values.numpy()[drawn.numpy()], [2.5, 97.5])


@wrong("5.8", says="90 means of 100")
def five_and_ninety_five(values, drawn):
    means = values.numpy()[drawn.numpy()].mean(axis=1)
    return np.percentile(means, 5), np.percentile(means, 95)


@wrong("5.8", says="counts in percent")
def percent_or_share(values, drawn):
    return np.percentile(values.numpy()[drawn.numpy()].mean(axis=1), [0.025, 0.975])


@wrong("5.8", says="along the wrong axis")
def down_the_columns(values, drawn):
    return np.quantile(values.numpy()[drawn.numpy()].mean(axis=0), (0.025, 0.975))


@wrong("5.8", says="averaged the numbers of the prompts")
def means_of_numbers(values, drawn):
    return np.quantile(drawn.numpy().mean(axis=1), (0.025, 0.975))


@wrong("5.8", says="the normal interval")
def two_errors(values, drawn):
    x = values.tolist()
    error = statistics.stdev(x) / len(x) ** 0.5
    return statistics.mean(x) - 1.96 * error, statistics.mean(x) + 1.96 * error


@wrong("5.8", says="smallest and the largest mean")
def extremes(values, drawn):
    means = [values[row].mean() for row in drawn]
    return min(means), max(means)


@wrong("5.8", says="two ends are exchanged")
def high_low(values, drawn):
    means = values.numpy()[drawn.numpy()].mean(1)
    return np.quantile(means, [0.975, 0.025])


@wrong("5.8", says="interval of the median")
def medians(values, drawn):
    return np.quantile(np.median(values.numpy()[drawn.numpy()], axis=1), [0.025, 0.975])


@wrong("5.8", says="means of the resamples")
def means_only(values, drawn):
    return [float(values[row].mean()) for row in drawn]


@wrong("5.8", says="width of the interval")
def width(values, drawn):
    low, high = np.quantile(values.numpy()[drawn.numpy()].mean(1), [0.025, 0.975])
    return high - low
