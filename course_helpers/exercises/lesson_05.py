"""Exercises of lesson 05: pairs, labels and LoRA before a DPO run, and what is measured after it.

A function with the exercise's name is the solution, written as a learner would; one with an underscore is a mistake.
Arguments are torch tensors, or lists where a task says so.
"""

import torch

from course_helpers.exercises.check import Exercise, Mistake
from course_helpers.exercises.values import reals
from course_helpers.translation import N_

# ------------------------------------------------------------------------------------------ 5.1 pairs from rewards


def preference_triples(rewards):
    """(n, chosen, rejected) of each prompt n whose two responses differ in reward."""
    triples = []
    for n, (first, second) in enumerate(rewards.tolist()):
        if first > second:
            triples.append((n, 0, 1))
        if second > first:
            triples.append((n, 1, 0))
    return triples


def _triples(rewards, is_chosen, keeps=lambda first, second: first != second):
    """Triples by another rule: whether the first response is the chosen one, and which rows are kept."""
    rows = [(n, *row) for n, row in enumerate(rewards.tolist()) if keeps(*row)]
    return [(n, 0, 1) if is_chosen(first, second) else (n, 1, 0) for n, first, second in rows]


def _keep_all(first, second):
    return True


def _numbered_anew(rewards):
    return [(n, *columns) for n, (_, *columns) in enumerate(preference_triples(rewards))]


PREFERENCE_TRIPLES = Exercise(
    number="5.1",
    title=N_("preference triples from rewards"),
    task=N_(
        "`preference_triples(rewards)` gets the judge's rewards of two responses to each of N prompts, a tensor "
        "(N, 2). It returns (X, Y_w, Y_l) in numbers: a list of triples (row of the prompt, column of the chosen "
        "response, column of the rejected one), in the order of the rows. A tie makes no triple."
    ),
    difficulty="easy",
    minutes=5,
    right=preference_triples,
    why=N_("A pair says which of two is better and not by how much; where neither is better, there is no pair."),
    inputs=(
        (reals([[1.2, 0.3], [0.5, 0.5], [-1.0, 2.0], [0.7, 0.9]]),),
        (reals([[0.0, 0.0], [-3.0, -2.0], [-2.0, -2.5], [1.5, 1.0]]),),
        (reals([[0.1, 0.2]]),),
        (reals([[2.0, 1.0], [1.0, 2.0], [3.0, 3.0]]),),
    ),
    mistakes=(
        Mistake(
            N_("Chosen and rejected are exchanged: the triple is (prompt, better, worse)."),
            lambda rewards: _triples(rewards, lambda first, second: first < second),
        ),
        Mistake(
            N_("A tie has become a pair. Its label would be made up by the order of the two responses."),
            lambda rewards: _triples(rewards, lambda first, second: first >= second, _keep_all),
            lambda rewards: _triples(rewards, lambda first, second: first > second, _keep_all),
        ),
        Mistake(
            N_("The first response is always the chosen one. Which is better is said by the reward, not by its place."),
            lambda rewards: _triples(rewards, _keep_all),
            lambda rewards: _triples(rewards, _keep_all, _keep_all),
        ),
        Mistake(
            N_(
                "Behind a tie the prompts are numbered anew, so that responses are taken for answers to another "
                "prompt. Keep the row's own number."
            ),
            _numbered_anew,
        ),
        Mistake(
            N_("The prompts are missing: a preference belongs to a query X, so the triple begins with its row."),
            lambda rewards: [columns for _, *columns in preference_triples(rewards)],
        ),
        Mistake(
            N_("You compared the first reward with 0. A preference compares the two responses of a prompt."),
            lambda rewards: _triples(rewards, lambda first, second: first > 0),
        ),
        Mistake(
            N_("Those are the rewards themselves. The triple holds columns, 0 or 1: DPO never sees the rewards."),
            lambda rewards: [(n, max(row), min(row)) for n, row in enumerate(rewards.tolist()) if row[0] != row[1]],
        ),
    ),
    hints=(
        N_("Go through the rows with `enumerate`, which gives each one its number. Three things can happen in a row."),
        N_("The first is better: (n, 0, 1). The second is better: (n, 1, 0). Neither: nothing is appended."),
    ),
)


# ---------------------------------------------------------------------------------------------- 5.2 split by prompt


def training_rows(prompts, held_out):
    """The rows of the pairs whose prompt is not held out."""
    return [row for row, prompt in enumerate(prompts) if prompt not in held_out]


def _rows_where(keeps):
    """Rows of which `keeps(row, prompt, held_out)` is true."""
    return lambda prompts, held_out: [row for row, prompt in enumerate(prompts) if keeps(row, prompt, held_out)]


def _first_pair_only(prompts, held_out):
    """Only one pair of each held-out prompt is taken out."""
    taken = {prompts.index(prompt) for prompt in held_out}
    return [row for row in range(len(prompts)) if row not in taken]


def _one_pair_a_prompt(prompts, held_out):
    return [row for row in training_rows(prompts, held_out) if prompts.index(prompts[row]) == row]


TRAINING_ROWS = Exercise(
    number="5.2",
    title=N_("a split that no prompt crosses"),
    task=N_(
        "`training_rows(prompts, held_out)` gets a list with the prompt's number of each pair, and the list of the "
        "prompts that are kept for evaluation. It returns the rows of the pairs to train on, in order: 0 is the "
        "first pair. One prompt may have many pairs."
    ),
    difficulty="easy",
    minutes=4,
    right=training_rows,
    why=N_("The prompts are divided and take all their pairs with them, so evaluation asks what was never trained on."),
    inputs=(
        ([4, 4, 7, 1, 7, 4, 2], [7, 2]),
        ([0, 0, 0, 5, 5, 3], [0]),
        ([9, 1, 9, 2], [1]),
        ([6, 5, 4, 3, 3, 6], [3, 6]),
    ),
    mistakes=(
        Mistake(
            N_("You took the held-out numbers for rows. They are prompts: look up the prompt of each row."),
            _rows_where(lambda row, prompt, held_out: row not in held_out),
        ),
        Mistake(
            N_("Those are the rows for evaluation. Training takes the others."),
            _rows_where(lambda row, prompt, held_out: prompt in held_out),
        ),
        Mistake(
            N_("Those are prompts. The rows of the pairs are asked for, which `enumerate` counts."),
            lambda prompts, held_out: [prompt for prompt in prompts if prompt not in held_out],
            lambda prompts, held_out: sorted(set(prompts) - set(held_out)),
        ),
        Mistake(
            N_("Of each held-out prompt only one pair is taken out. The others still train on that prompt: a leak."),
            _first_pair_only,
        ),
        Mistake(
            N_(
                "You split the rows: pairs of one prompt land on both sides, and evaluation asks what training has "
                "already answered."
            ),
            lambda prompts, held_out: list(range(len(prompts) - len(held_out))),
            lambda prompts, held_out: list(range(len(held_out), len(prompts))),
        ),
        Mistake(
            N_("Each prompt keeps a single pair. Nothing has to be thrown away: all pairs of a prompt go together."),
            _one_pair_a_prompt,
        ),
        Mistake(
            N_("That is a mask, true where a pair is trained on. The numbers of those rows are asked for."),
            lambda prompts, held_out: [prompt not in held_out for prompt in prompts],
        ),
    ),
    hints=(
        N_("For each row: is its prompt among those held out? `in` tells whether a list holds a number."),
        N_("`enumerate(prompts)` gives row and prompt together. Keep the row, and ask about the prompt."),
    ),
)


# --------------------------------------------------------------------------------------------- 5.3 weights of LoRA


def lora_parameters(layers, shapes, rank):
    """How many weights LoRA trains, over all layers."""
    return layers * sum(rank * (n_in + n_out) for n_in, n_out in shapes)


def _over_matrices(count):
    """`count(n_in, n_out, rank)` summed over the matrices of all layers."""
    return lambda layers, shapes, rank: layers * sum(count(n_in, n_out, rank) for n_in, n_out in shapes)


LORA_PARAMETERS = Exercise(
    number="5.3",
    title=N_("how many weights LoRA trains"),
    task=N_(
        "`lora_parameters(layers, shapes, rank)` gets the number of layers, a list with the shape (in, out) of each "
        "matrix that is adapted in every layer, and the rank r. Beside a matrix W stand A (in, r) and B (r, out). It "
        "returns how many weights are trained in all, W frozen."
    ),
    difficulty="easy",
    minutes=3,
    right=lora_parameters,
    why=N_("A has in · r weights and B has r · out: it grows with the edges of W, where W itself grows with its area."),
    inputs=(
        (12, [(768, 2304)], 8),
        (2, [(6, 18), (6, 6), (24, 6)], 2),
        (1, [(5, 3)], 1),
        (3, [(4, 4), (4, 16)], 4),
    ),
    mistakes=(
        Mistake(
            N_("Those are the weights of the full matrices, which stay frozen. A and B alone are trained."),
            _over_matrices(lambda n_in, n_out, rank: n_in * n_out),
        ),
        Mistake(
            N_("The frozen matrix W is counted, too."),
            _over_matrices(lambda n_in, n_out, rank: n_in * n_out + rank * (n_in + n_out)),
        ),
        Mistake(
            N_("The sizes of A and B were multiplied. They are two matrices side by side: their weights add."),
            _over_matrices(lambda n_in, n_out, rank: n_in * rank * rank * n_out),
            _over_matrices(lambda n_in, n_out, rank: rank * n_in * n_out),
        ),
        Mistake(
            N_("Only one of the two is counted: A has in · r weights, and B has r · out."),
            _over_matrices(lambda n_in, n_out, rank: rank * n_in),
            _over_matrices(lambda n_in, n_out, rank: rank * n_out),
        ),
        Mistake(
            N_("You took W for a square: B ends in `out` numbers, which need not be as many as `in`."),
            _over_matrices(lambda n_in, n_out, rank: 2 * rank * n_in),
            _over_matrices(lambda n_in, n_out, rank: 2 * rank * n_out),
        ),
        Mistake(
            N_("The layers are missing: every layer has matrices A and B of its own."),
            lambda layers, shapes, rank: lora_parameters(1, shapes, rank),
        ),
        Mistake(
            N_("The rank is missing: A has r columns, and B has r rows."),
            lambda layers, shapes, rank: lora_parameters(layers, shapes, 1),
        ),
        Mistake(
            N_("Only one matrix of the list is counted. Sum over all of them."),
            lambda layers, shapes, rank: lora_parameters(layers, shapes[:1], rank),
            lambda layers, shapes, rank: lora_parameters(layers, shapes[-1:], rank),
        ),
    ),
    hints=(
        N_("How many numbers does A (in, r) hold, and how many B (r, out)?"),
        N_("Add the two for each matrix, add the matrices, multiply by the layers."),
        N_("Known answer: 12 layers with one matrix (768, 2304) each have 294 912 weights at rank 8."),
    ),
)


# ---------------------------------------------------------------------------------------------- 5.4 a layer with LoRA


def lora_output(x, W, A, B, alpha, rank):
    """What a layer with LoRA makes of n inputs."""
    return x @ W + alpha / rank * (x @ A @ B)


def _scaled(scale):
    """Another factor before the update."""
    return lambda x, W, A, B, alpha, rank: x @ W + scale(alpha, rank) * (x @ A @ B)


def _b_before_a(x, W, A, B, alpha, rank):
    """Raises unless in = out: then it is wrong without a word."""
    return (x @ W).numpy() + alpha / rank * (x.numpy() @ B.numpy() @ A.numpy())


LORA_OUTPUT = Exercise(
    number="5.4",
    title=N_("the output of a layer with LoRA"),
    task=N_(
        "`lora_output(x, W, A, B, alpha, rank)` gets n inputs x (n, in), the frozen matrix W (in, out), the trained "
        "A (in, r) and B (r, out), and the numbers α and r. It returns the layer's outputs (n, out): W is moved by "
        "α/r times the product of A and B. There is no bias."
    ),
    difficulty="medium",
    minutes=5,
    right=lora_output,
    why=N_(
        "x goes two ways, through W and through the narrow A B; with B = 0, as LoRA begins, the layer is the old one."
    ),
    inputs=(
        (
            reals([[1.0, -2.0, 0.5], [0.3, 0.7, -1.0]]),
            reals([[0.2, -0.4], [0.5, 0.1], [-0.3, 0.8]]),
            reals([[0.1, -0.5], [0.7, 0.2], [0.4, -0.6]]),
            reals([[0.3, -0.2], [0.6, 0.9]]),
            6.0,
            2,
        ),
        (
            reals([[2.0, 1.0]]),
            reals([[0.5, -1.0], [0.2, 0.4]]),
            reals([[1.0, 0.3], [-0.2, 0.5]]),
            reals([[0.7, 0.1], [0.4, -0.6]]),
            1.0,
            2,
        ),
        (reals([[1.0, -1.0]]), reals([[0.5], [2.0]]), reals([[0.3], [0.9]]), reals([[0.0]]), 16.0, 1),
    ),
    mistakes=(
        Mistake(
            N_("α is not divided by r. Divided, a change of rank leaves the size of the update alone."),
            _scaled(lambda alpha, rank: alpha),
        ),
        Mistake(
            N_("The factor α/r is missing before the update."),
            _scaled(lambda alpha, rank: 1.0),
        ),
        Mistake(
            N_("The factor is upside down: it is α/r, not r/α."),
            _scaled(lambda alpha, rank: rank / alpha),
        ),
        Mistake(
            N_("That is α/√r, the factor of a later variant, rank-stabilised LoRA. The plain one is α/r."),
            _scaled(lambda alpha, rank: alpha / rank**0.5),
        ),
        Mistake(
            N_("Only the update is left. What the frozen W gives comes first: the update is added to it."),
            lambda x, W, A, B, alpha, rank: alpha / rank * (x @ A @ B),
        ),
        Mistake(
            N_("α/r scales the frozen part, too. Only the update is scaled: mind the brackets."),
            lambda x, W, A, B, alpha, rank: alpha / rank * (x @ W + x @ A @ B),
        ),
        Mistake(
            N_("Those are the moved weights, W + (α/r) A B. The outputs are x times them."),
            lambda x, W, A, B, alpha, rank: W + alpha / rank * (A @ B),
        ),
        Mistake(
            N_("The update is subtracted. It is added: training itself finds the sign of A and B."),
            _scaled(lambda alpha, rank: -alpha / rank),
        ),
        Mistake(
            N_("There is a nonlinearity between A and B. LoRA has none, so that A B can be merged into W."),
            lambda x, W, A, B, alpha, rank: x @ W + alpha / rank * ((x @ A).relu() @ B),
            lambda x, W, A, B, alpha, rank: x @ W + alpha / rank * (x @ A @ B).relu(),
        ),
        Mistake(
            N_("B comes before A in your product. x has `in` numbers: A makes r of them, and B makes `out` of those."),
            _b_before_a,
        ),
    ),
    hints=(
        N_("Two ways from x to the output: through W, and through A, then B. Write down the shapes."),
        N_("`@` multiplies matrices. Scale the second way by `alpha / rank`, and add both."),
        N_("Known answer: with B full of zeros, as LoRA begins, the output is that of W alone."),
    ),
)


# -------------------------------------------------------------------------------------------------------- 5.5 labels


def labels_of(ids, prompt_length, pad):
    """Labels of a row of token ids: −100 wherever the loss is not to look."""
    labels = ids.clone()
    labels[:prompt_length] = -100
    ends = (ids[prompt_length:] == pad).nonzero()
    if len(ends) > 0:
        labels[prompt_length + ends[0] + 1 :] = -100
    return labels


def _is_response(ids, prompt_length, pad):
    """True from the prompt's end to the first end token behind it."""
    return labels_of(ids, prompt_length, pad) != -100


def _filled(fill):
    """Another number where the loss is not to look."""
    return lambda ids, prompt_length, pad: torch.where(
        _is_response(ids, prompt_length, pad), ids, fill(pad) * torch.ones_like(ids)
    )


def _without_prompt(ids, prompt_length, pad):
    return torch.where(torch.arange(len(ids)) >= prompt_length, ids, -100)


def _without_any_end(ids, prompt_length, pad):
    return _without_prompt(ids, prompt_length, pad).where(ids != pad, torch.tensor(-100))


def _end_of_the_row(ids, prompt_length, pad):
    """The end token is looked for in the whole row, its prompt and the prompt's padding included."""
    ends = (ids == pad).nonzero()
    last = int(ends[0]) if len(ends) else len(ids)
    return _without_prompt(ids, prompt_length, pad).where(torch.arange(len(ids)) <= last, torch.tensor(-100))


def _shifted(ids, prompt_length, pad):
    return torch.cat([labels_of(ids, prompt_length, pad)[1:], torch.tensor([-100])])


LABELS_OF = Exercise(
    number="5.5",
    title=N_("labels for the response alone"),
    task=N_(
        "`labels_of(ids, prompt_length, pad)` gets a row of token ids (L,): a prompt of `prompt_length` tokens, the "
        "response, perhaps padding. It returns labels (L,): the response's ids, and −100 in prompt and padding. The "
        "end token has the id `pad`, too: the first one behind the prompt is the response's, the others are padding."
    ),
    difficulty="hard",
    minutes=8,
    right=labels_of,
    why=N_("By its id an end token looks like padding; its place says that the policy wrote it, and has to learn it."),
    inputs=(
        (torch.tensor([5, 6, 7, 11, 12, 0, 0, 0]), 3, 0),
        (torch.tensor([5, 6, 11, 12, 13]), 2, 0),
        (torch.tensor([2, 2, 5, 11, 12, 2]), 3, 2),
        (torch.tensor([5, 11, 2, 2]), 1, 2),
    ),
    mistakes=(
        Mistake(
            N_(
                "All tokens with the id `pad` got −100, the response's own end among them. A policy trained on that "
                "never learns to stop."
            ),
            _without_any_end,
        ),
        Mistake(
            N_("The prompt is labelled. DPO judges the response, given the prompt: −100 up to `prompt_length`."),
            lambda ids, n, pad: torch.where((torch.arange(len(ids)) < n) | _is_response(ids, n, pad), ids, -100),
            lambda ids, n, pad: ids.where(ids != pad, torch.tensor(-100)),
            lambda ids, n, pad: ids,
        ),
        Mistake(
            N_("The padding is labelled. Behind the first end token nothing was written."),
            _without_prompt,
        ),
        Mistake(
            N_("The prompt's border is one token off: tokens 0 to `prompt_length` − 1 are the prompt."),
            lambda ids, n, pad: torch.where(torch.arange(len(ids)) >= n - 1, ids, -100).where(
                _is_response(ids, n, pad) | (torch.arange(len(ids)) < n), torch.tensor(-100)
            ),
            lambda ids, n, pad: labels_of(ids, n, pad).where(torch.arange(len(ids)) != n, torch.tensor(-100)),
        ),
        Mistake(
            N_("What the loss is not to look at is marked with −100. Any id from 0 on is a token to be learned."),
            _filled(lambda pad: 0),
            _filled(lambda pad: pad),
            _filled(lambda pad: -1),
        ),
        Mistake(
            N_("The labels are shifted by one. The model does that itself: a label stands at its own token."),
            _shifted,
        ),
        Mistake(
            N_("You looked for the end token in the whole row and found the prompt's padding. Look behind the prompt."),
            _end_of_the_row,
        ),
        Mistake(
            N_("Something was cut off. Labels are as many as ids: each place is labelled or gets −100."),
            lambda ids, n, pad: ids[_is_response(ids, n, pad)],
            lambda ids, n, pad: ids[n:],
            lambda ids, n, pad: labels_of(ids, n, pad)[: int(_is_response(ids, n, pad).nonzero().max()) + 1],
        ),
        Mistake(
            N_("That is a mask of the response. A label is the token's id where the mask is 1, and −100 elsewhere."),
            _is_response,
        ),
        Mistake(
            N_("The response got −100, and the rest is labelled: the other way round."),
            lambda ids, n, pad: ids.where(~_is_response(ids, n, pad), torch.tensor(-100)),
        ),
    ),
    hints=(
        N_("Begin with a copy, `ids.clone()`, and put −100 in the first `prompt_length` places."),
        N_("Where is the first `pad` behind the prompt? It keeps its id; what follows it gets −100."),
        N_("A response that was cut off has no end token. Then nothing follows, and there is no padding."),
    ),
)


# ---------------------------------------------------------------------------------- 5.6 accuracy of the implicit reward


def implicit_accuracy(log_w, log_l, ref_w, ref_l):
    """The share of B pairs that the implicit reward ranks as the label does."""
    chosen = log_w - ref_w
    rejected = log_l - ref_l
    return (chosen > rejected).double().mean()


def _gap(log_w, log_l, ref_w, ref_l):
    return (log_w - ref_w) - (log_l - ref_l)


IMPLICIT_ACCURACY = Exercise(
    number="5.6",
    title=N_("the accuracy of the implicit reward"),
    task=N_(
        "`implicit_accuracy(log_w, log_l, ref_w, ref_l)` gets ln π_θ(Y_w|X), ln π_θ(Y_l|X), and the same two under "
        "π_ref, four tensors (B,). It returns the share of pairs whose chosen response has the higher implicit reward. "
        "A tie counts 0, as in TRL's `rewards/accuracies`."
    ),
    difficulty="medium",
    minutes=4,
    right=implicit_accuracy,
    why=N_("β > 0 scales both sides and cannot change which is larger; at the start, π_θ = π_ref, the accuracy is 0."),
    inputs=(
        (
            reals([-12.0, -40.0, -10.0, -30.0, -102.0]),
            reals([-14.0, -60.0, -20.0, -15.0, -11.0]),
            reals([-13.5, -35.0, -8.0, -33.0, -100.0]),
            reals([-12.5, -50.0, -19.0, -16.0, -10.0]),
        ),
        (reals([-8.0, -15.0]), reals([-9.5, -11.0]), reals([-8.0, -15.0]), reals([-9.5, -11.0])),
        (
            reals([-7.0, -9.0, -5.5, -8.0]),
            reals([-8.0, -6.0, -5.0, -7.0]),
            reals([-7.5, -9.5, -6.5, -8.0]),
            reals([-8.5, -7.5, -5.25, -6.0]),
        ),
        (reals([-6.0]), reals([-7.5]), reals([-7.0]), reals([-7.2])),
    ),
    mistakes=(
        Mistake(
            N_(
                "The reference is left out: that asks which response the policy finds likelier, and a short one mostly "
                "is. The implicit reward is what has changed."
            ),
            lambda log_w, log_l, ref_w, ref_l: (log_w > log_l).double().mean(),
        ),
        Mistake(
            N_("A tie counts as right here, so an untrained policy would look perfect. It counts 0: use `>`."),
            lambda *pairs: (_gap(*pairs) >= 0).double().mean(),
        ),
        Mistake(
            N_("A tie counts half here. That is the rule of win rates; for this number TRL counts it 0."),
            lambda *pairs: ((_gap(*pairs).sign() + 1) / 2).mean(),
        ),
        Mistake(
            N_("That is the share of pairs ranked against their label."),
            lambda *pairs: (_gap(*pairs) < 0).double().mean(),
            lambda *pairs: (_gap(*pairs) <= 0).double().mean(),
        ),
        Mistake(
            N_(
                "You only asked whether the chosen response has become likelier. In DPO both may fall: compare the two."
            ),
            lambda log_w, log_l, ref_w, ref_l: (log_w > ref_w).double().mean(),
        ),
        Mistake(
            N_("That is the mean margin in nats. An accuracy counts the pairs with a margin above 0."),
            lambda *pairs: _gap(*pairs).mean(),
        ),
        Mistake(
            N_("That is the mean of σ, how sure the implicit reward is. An accuracy counts: right or wrong."),
            lambda *pairs: _gap(*pairs).sigmoid().mean(),
        ),
        Mistake(
            N_("That is the number of pairs ranked rightly. Divide it by the number of pairs."),
            lambda *pairs: (_gap(*pairs) > 0).sum(),
        ),
        Mistake(
            N_("That is one answer a pair. Their mean is the accuracy."),
            lambda *pairs: _gap(*pairs) > 0,
        ),
        Mistake(
            N_("You compared the batch's means. Compare within each pair, then take the mean."),
            lambda *pairs: (_gap(*pairs).mean() > 0).double(),
        ),
        Mistake(
            N_("Log-probabilities were divided. The logarithm of π_θ/π_ref is a difference of logarithms."),
            lambda log_w, log_l, ref_w, ref_l: (log_w / ref_w > log_l / ref_l).double().mean(),
        ),
    ),
    hints=(
        N_("The implicit reward is β (ln π_θ − ln π_ref). Does β > 0 change which of two is larger?"),
        N_("Compare the log-ratios pair by pair; the mean of zeros and ones is a share."),
    ),
)


# -------------------------------------------------------------------------------------------------------- 5.7 win rate


def win_rate(ours, theirs):
    """The share of prompts on which ours is better; a tie counts half."""
    wins = (ours > theirs).double()
    ties = (ours == theirs).double()
    return (wins + ties / 2).mean()


def _every_pair(ours, theirs):
    return win_rate(*torch.broadcast_tensors(ours[:, None], theirs[None, :]))


WIN_RATE = Exercise(
    number="5.7",
    title=N_("the win rate"),
    task=N_(
        "`win_rate(ours, theirs)` gets the rewards of two policies' responses to the same N prompts, two tensors (N,). "
        "It returns the win rate of the first: the share of prompts on which its response has the higher reward, "
        "where a tie counts half."
    ),
    difficulty="easy",
    minutes=4,
    right=win_rate,
    why=N_("Each prompt is one contest; with ties at half, the win rates of the two policies sum to 1."),
    inputs=(
        (reals([1.0, 0.2, -0.5, 2.0, 0.9]), reals([0.5, 0.2, 0.1, 1.9, 0.3])),
        (reals([3.0, 1.0, -2.0]), reals([1.0, 1.0, 0.0])),
        (reals([0.4, 0.7]), reals([0.4, 0.7])),
        (reals([0.0, 0.3, 0.2, -9.0]), reals([-1.0, 0.1, 0.4, 0.0])),
        (reals([-1.0]), reals([1.0])),
    ),
    mistakes=(
        Mistake(
            N_("A tie counts as a win: two equal policies would then both win everything."),
            lambda ours, theirs: (ours >= theirs).double().mean(),
        ),
        Mistake(
            N_("A tie counts as a loss. It counts half, or neither of two equal policies would ever win."),
            lambda ours, theirs: (ours > theirs).double().mean(),
        ),
        Mistake(
            N_("The ties are left out of the count. They stay in it, at half a win each."),
            lambda ours, theirs: (ours > theirs).sum() / (ours != theirs).sum(),
        ),
        Mistake(
            N_("That is the win rate of the other policy."),
            lambda ours, theirs: win_rate(theirs, ours),
        ),
        Mistake(
            N_("That is the mean difference of rewards, which a single prompt can decide. Count wins instead."),
            lambda ours, theirs: (ours - theirs).mean(),
        ),
        Mistake(
            N_("That is the mean probability under Bradley-Terry. A win rate counts: a win by little is a whole win."),
            lambda ours, theirs: (ours - theirs).sigmoid().mean(),
        ),
        Mistake(
            N_("You compared responses to different prompts, where the easier prompt wins. Compare row by row."),
            _every_pair,
        ),
        Mistake(
            N_("That is a number of wins. The rate is divided by the number of prompts."),
            lambda ours, theirs: win_rate(ours, theirs) * len(ours),
            lambda ours, theirs: (ours > theirs).sum(),
        ),
        Mistake(
            N_("That is wins minus losses, from −1 to 1. A win rate lies between 0 and 1, and equal policies have ½."),
            lambda ours, theirs: (ours - theirs).sign().mean(),
        ),
        Mistake(
            N_("You compared the mean rewards, one contest in all. Each prompt is a contest."),
            lambda ours, theirs: (ours.mean() > theirs.mean()).double(),
        ),
    ),
    hints=(
        N_("For each prompt there are three cases, worth 1, ½ and 0. The rate is the mean of what they are worth."),
        N_("`(ours > theirs).double()` is 1 at a win. Which comparison finds the ties?"),
        N_("Known answer: a policy against itself has the win rate ½."),
    ),
)


# ---------------------------------------------------------------------------------------------- 5.8 bootstrap interval


def bootstrap_interval(values, drawn):
    """The 95 % interval of the mean of N values, from B resamples of them."""
    means = values[drawn].mean(1)
    return torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype))


def _quantiles(numbers, low=0.025, high=0.975):
    return torch.quantile(numbers, reals([low, high]))


def _around(middle, deviation):
    return torch.stack([middle - 1.96 * deviation, middle + 1.96 * deviation])


BOOTSTRAP_INTERVAL = Exercise(
    number="5.8",
    title=N_("a bootstrap interval"),
    task=N_(
        "`bootstrap_interval(values, drawn)` gets one number for each of N prompts, a tensor (N,), and a tensor (B, N) "
        "whose rows are resamples: the numbers of N prompts, drawn with replacement. It returns the two ends of the "
        "bootstrap interval of 95 %: the percentiles 2.5 and 97.5 of the resamples' means."
    ),
    difficulty="medium",
    minutes=6,
    right=bootstrap_interval,
    why=N_(
        "Each resample is an evaluation as it might have come out; 95 of 100 means lie between the two percentiles."
    ),
    inputs=(
        (
            reals([0.0, 1.0, 0.5, 3.0]),
            torch.tensor([[0, 1, 2, 3], [3, 3, 0, 1], [2, 2, 0, 0], [1, 1, 3, 2], [0, 3, 3, 3], [1, 2, 2, 0]]),
        ),
        (reals([-1.0, 2.0, 0.7]), torch.tensor([[0, 0, 2], [1, 2, 2], [1, 1, 0]])),
        (reals([5.0, 5.0]), torch.tensor([[0, 1], [1, 1], [0, 0], [1, 0]])),
    ),
    mistakes=(
        Mistake(
            N_("Those are percentiles of the values: where prompts lie, not where their mean does."),
            lambda values, drawn: _quantiles(values),
            lambda values, drawn: _quantiles(values[drawn].flatten()),
        ),
        Mistake(
            N_("Between the percentiles 5 and 95 lie 90 means of 100. For 95, cut off 2.5 on each side."),
            lambda values, drawn: _quantiles(values[drawn].mean(1), 0.05, 0.95),
        ),
        Mistake(
            N_("`np.percentile` counts in percent, `2.5` and `97.5`. It is `quantile` that takes `0.025` and `0.975`."),
            lambda values, drawn: _quantiles(values[drawn].mean(1), 0.00025, 0.00975),
        ),
        Mistake(
            N_("The mean runs along the wrong axis. A resample is a row: each row has its own mean, `mean(1)`."),
            lambda values, drawn: _quantiles(values[drawn].mean(0)),
        ),
        Mistake(
            N_("You averaged the numbers of the prompts. Look up their values first: `values[drawn]`."),
            lambda values, drawn: _quantiles(drawn.double().mean(1)),
        ),
        Mistake(
            N_("That is the normal interval, ± 1.96 standard errors. The bootstrap reads its ends off the resamples."),
            lambda values, drawn: _around(values.mean(), values.std() / len(values) ** 0.5),
            lambda values, drawn: _around(values[drawn].mean(1).mean(), values[drawn].mean(1).std()),
            lambda values, drawn: _around(values.mean(), values[drawn].mean(1).std()),
        ),
        Mistake(
            N_("Those are the smallest and the largest mean: the more resamples, the wider. Take the percentiles."),
            lambda values, drawn: torch.stack(torch.aminmax(values[drawn].mean(1))),
        ),
        Mistake(
            N_("The two ends are exchanged: the lower one comes first."),
            lambda values, drawn: bootstrap_interval(values, drawn).flip(0),
        ),
        Mistake(
            N_("That is the interval of the median. The interval of the mean is asked for."),
            lambda values, drawn: _quantiles(values[drawn].median(1).values),
            lambda values, drawn: _quantiles(values[drawn].quantile(0.5, dim=1)),
        ),
        Mistake(
            N_("Those are the means of the resamples. The interval is two of their percentiles."),
            lambda values, drawn: values[drawn].mean(1),
        ),
        Mistake(
            N_("That is the width of the interval. Its two ends are asked for."),
            lambda values, drawn: bootstrap_interval(values, drawn).diff()[0],
        ),
    ),
    hints=(
        N_("`values[drawn]` is a table (B, N) of resampled values. What is the mean of each resample?"),
        N_("`torch.quantile` or `np.quantile`, at `0.025` and `0.975`, gives both ends from the B means."),
    ),
)


EXERCISES = (
    PREFERENCE_TRIPLES,
    TRAINING_ROWS,
    LORA_PARAMETERS,
    LORA_OUTPUT,
    LABELS_OF,
    IMPLICIT_ACCURACY,
    WIN_RATE,
    BOOTSTRAP_INTERVAL,
)
