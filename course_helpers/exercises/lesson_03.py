"""Exercises of lesson 03: the arithmetic of a PPO step, and what goes in and out of it.

A function with the exercise's name is the solution, written as a learner would; one with an underscore is a mistake.
Arguments are torch tensors: B responses, R the length of the longest, T tokens of one response. A mask (B, R) is 1
where a response has a token.
"""

from itertools import pairwise

import torch

from course_helpers.exercises.check import Exercise, Mistake
from course_helpers.exercises.values import reals
from course_helpers.translation import N_

# ------------------------------------------------------------------------------------------------- 3.1 token rewards


def rewards_of_tokens(log_probs, ref_log_probs, scores, beta, mask):
    """r_t, (B, R): −β KL of each token, the judge's score on top at the last one, 0 in the padding."""
    rewards = -beta * (log_probs - ref_log_probs) * mask
    for row in range(len(mask)):
        last = mask[row].nonzero().max()
        rewards[row, last] += scores[row]
    return rewards


def _spread(scores, kl, beta, mask, add):
    """−β kl over the mask, and the scores where `add` is 1."""
    return -beta * kl * mask + scores[:, None] * add


def _with_scores(place):
    """The exercise with the scores at another place: `place` makes (B, R) zeros and ones of the mask."""
    return lambda one, other, scores, beta, mask: _spread(scores, one - other, beta, mask, place(mask))


def _at_last_token(mask):
    return torch.nn.functional.one_hot(mask.long().sum(1) - 1, mask.shape[1]).to(mask.dtype)


def _at_column(column):
    def place(mask):
        chosen = torch.zeros_like(mask)
        chosen[:, column] = 1
        return chosen

    return place


def _padding_pays(one, other, scores, beta, mask):
    return -beta * (one - other) + scores[:, None] * _at_last_token(mask)


def _score_instead(one, other, scores, beta, mask):
    last = _at_last_token(mask)
    return -beta * (one - other) * mask * (1 - last) + scores[:, None] * last


_LOG_PROBS = reals([[-1.0, -2.0, -0.5, -0.7], [-0.3, -1.2, -9.0, -8.0]])
_REF_LOG_PROBS = reals([[-1.5, -1.0, -0.5, -0.9], [-0.6, -1.0, -2.0, -3.0]])
_MASK = reals([[1, 1, 1, 1], [1, 1, 0, 0]])

REWARDS_OF_TOKENS = Exercise(
    number="3.1",
    title=N_("token rewards with a price on KL"),
    task=N_(
        "`rewards_of_tokens(log_probs, ref_log_probs, scores, beta, mask)` gets ln π_θ and ln π_ref of the tokens, "
        "both (B, R), the judge's scores (B,), β, and the mask (B, R), 1 where a response has a token. It returns "
        "r_t, (B, R): −β times each token's KL, the score on top at the last token, 0 in the padding."
    ),
    difficulty="medium",
    minutes=8,
    right=rewards_of_tokens,
    why=N_("Summed over a response the token rewards are r − β KL, and the mask says which token is really the last."),
    inputs=(
        (_LOG_PROBS, _REF_LOG_PROBS, reals([2.0, -1.0]), 0.1, _MASK),
        (_LOG_PROBS, _REF_LOG_PROBS, reals([0.5, 1.5]), 0.0, _MASK),
        (_LOG_PROBS[:1, :1], _REF_LOG_PROBS[:1, :1], reals([1.0]), 0.5, _MASK[:1, :1]),
    ),
    mistakes=(
        Mistake(
            N_("You reward the KL: it is a price, and has a minus. (Or the two log-probabilities are exchanged.)"),
            lambda one, other, scores, beta, mask: rewards_of_tokens(other, one, scores, beta, mask),
        ),
        Mistake(
            N_("The score lands on the last column, which is padding in the shorter rows, where no token can earn it."),
            _with_scores(_at_column(-1)),
        ),
        Mistake(
            N_("Every token gets the whole score. It is paid once, at the end of the response."),
            _with_scores(lambda mask: mask),
            _with_scores(torch.ones_like),
        ),
        Mistake(
            N_("The score stands at the first token. It is paid at the last one, when the text is complete."),
            _with_scores(_at_column(0)),
        ),
        Mistake(
            N_("Padding pays for KL, too: multiply by the mask. What stands there was never written."),
            _padding_pays,
        ),
        Mistake(
            N_("At the last token the score takes the place of −β KL. It comes on top: that token pays, too."),
            _score_instead,
        ),
        Mistake(
            N_("β is missing: a token pays β for every nat of KL."),
            lambda one, other, scores, beta, mask: rewards_of_tokens(one, other, scores, 1.0, mask),
        ),
        Mistake(
            N_("The scores are missing: without them the policy is only held back, and nothing draws it on."),
            _with_scores(torch.zeros_like),
        ),
    ),
    hints=(
        N_("Begin with −β (ln π_θ − ln π_ref) and the mask, for all tokens at once."),
        N_("The last token of a row is the last column whose mask is 1: `mask[row].nonzero().max()`."),
        N_("Add the score of each row at that place, in a loop over the rows."),
    ),
)

# ----------------------------------------------------------------------------------------------------------- 3.2 GAE


def gae(rewards, values, gamma, lam):
    """Advantages A_t of one response, from r_t and V_t of its T tokens."""
    advantages = torch.zeros_like(values)
    advantage = next_value = 0.0
    for t in reversed(range(len(values))):
        delta = rewards[t] + gamma * next_value - values[t]
        advantage = delta + gamma * lam * advantage
        advantages[t] = advantage
        next_value = values[t]
    return advantages


def _summed_back(deltas, factor):
    """A_t = δ_t + factor · A_{t+1}, from the last token to the first."""
    advantages, advantage = torch.zeros_like(deltas), 0.0
    for t in reversed(range(len(deltas))):
        advantage = deltas[t] + factor * advantage
        advantages[t] = advantage
    return advantages


def _next_values(values, after_the_end=0.0):
    return torch.cat([values[1:], torch.as_tensor([after_the_end], dtype=values.dtype)])


def _deltas(rewards, values, gamma):
    return rewards + gamma * _next_values(values) - values


def _value_after_the_end(rewards, values, gamma, lam):
    deltas = rewards + gamma * _next_values(values, float(values[-1])) - values
    return _summed_back(deltas, gamma * lam)


def _value_of_the_beginning(rewards, values, gamma, lam):
    deltas = rewards + gamma * _next_values(values, float(values[0])) - values
    return _summed_back(deltas, gamma * lam)


def _without_values(rewards, values, gamma, lam):
    return _summed_back(rewards + gamma * _next_values(values), gamma * lam)


def _forwards(rewards, values, gamma, lam):
    return _summed_back(_deltas(rewards, values, gamma).flip(0), gamma * lam).flip(0)


GAE = Exercise(
    number="3.2",
    title=N_("generalised advantage estimation"),
    task=N_(
        "`gae(rewards, values, gamma, lam)` gets r_t and V_t of the T tokens of one response, two tensors (T,), and "
        "the numbers γ and λ. It returns the advantages (T,): A_t = δ_t + γλ A_{t+1} with δ_t = r_t + γ V_{t+1} − "
        "V_t. After the last token nothing is to come."
    ),
    difficulty="hard",
    minutes=10,
    right=gae,
    why=N_("The loop runs from the end, where the next value and the next advantage are 0, and carries both back."),
    inputs=(
        (reals([-0.05, 0.1, 2.0]), reals([0.5, 1.0, 1.5]), 1.0, 0.95),
        (reals([0.2, -0.1, 0.0, 0.3, 1.0]), reals([0.1, 0.4, 0.3, 0.8, 0.6]), 0.9, 0.8),
        (reals([0.0, 0.0, 1.0]), reals([0.5, 0.5, 0.5]), 1.0, 0.0),
        (reals([1.0]), reals([0.3]), 0.9, 0.9),
    ),
    mistakes=(
        Mistake(
            N_("λ has no effect: what A_{t+1} carries back is multiplied by γλ, not by γ alone."),
            lambda rewards, values, gamma, lam: gae(rewards, values, gamma, 1.0),
        ),
        Mistake(
            N_("γ is missing from what is carried back: A_{t+1} is multiplied by γλ, not by λ alone."),
            lambda rewards, values, gamma, lam: _summed_back(_deltas(rewards, values, gamma), lam),
        ),
        Mistake(
            N_("γ is missing before V_{t+1}: what is yet to come is discounted by one step."),
            lambda rewards, values, gamma, lam: _summed_back(_deltas(rewards, values, 1.0), gamma * lam),
        ),
        Mistake(
            N_("That is δ_t alone: the later δ are still to be carried back, each step times γλ."),
            lambda rewards, values, gamma, lam: _deltas(rewards, values, gamma),
        ),
        Mistake(
            N_("You look beyond the end: after the last token there is no V to hope for. V_{T+1} is 0, not V_T."),
            _value_after_the_end,
        ),
        Mistake(
            N_(
                "After the last token your V_{t+1} is the first value: the row is joined to a ring. It has to be 0 "
                "there."
            ),
            _value_of_the_beginning,
        ),
        Mistake(
            N_("− V_t is missing from δ_t: an advantage is how much better it went than predicted."),
            _without_values,
        ),
        Mistake(
            N_("The loop runs forwards, so tokens are credited with what came before them. Begin at the last token."),
            _forwards,
        ),
        Mistake(
            N_("Those are the returns, A_t + V_t, which the value head should predict. Advantages are asked for."),
            lambda rewards, values, gamma, lam: gae(rewards, values, gamma, lam) + values,
        ),
    ),
    hints=(
        N_("Go backwards, `for t in reversed(range(T))`, and keep two numbers: the next value and the next advantage."),
        N_("Both are 0 when the loop begins. In it: first δ_t, then A_t; then V_t becomes the next value."),
        N_("Known answer: for T = 1 the advantage is r − V, whatever γ and λ are."),
    ),
)

# --------------------------------------------------------------------------------------------------- 3.3 masked mean


def mean_over_tokens(x, mask):
    """The mean of x (B, R) over the tokens of all responses."""
    return (x * mask).sum() / mask.sum()


MEAN_OVER_TOKENS = Exercise(
    number="3.3",
    title=N_("a mean under a mask"),
    task=N_(
        "`mean_over_tokens(x, mask)` gets a number for each position and the mask, two tensors (B, R). It returns the "
        "mean over all tokens of all responses, one number. Anything may stand in the padding."
    ),
    difficulty="easy",
    minutes=3,
    right=mean_over_tokens,
    why=N_("The mask takes the padding out of the sum and, as the divisor, out of the count."),
    inputs=(
        (reals([[1.0, 2.0, 3.0, 99.0], [4.0, 6.0, 99.0, -7.0]]), reals([[1, 1, 1, 0], [1, 1, 0, 0]])),
        (reals([[0.5, -1.0], [2.0, 99.0], [1.0, 1.0]]), reals([[1, 1], [1, 0], [1, 1]])),
        (reals([[1.0, 2.0]]), reals([[1, 1]])),
    ),
    mistakes=(
        Mistake(
            N_("The padding is in your mean, in the sum and in the count. The mask says what is a token."),
            lambda x, mask: x.mean(),
        ),
        Mistake(
            N_("The padding is out of the sum, but still in the count: divide by the number of tokens, `mask.sum()`."),
            lambda x, mask: (x * mask).mean(),
        ),
        Mistake(
            N_(
                "You took the mean of each response, then the mean of those: tokens of short responses then count more."
            ),
            lambda x, mask: ((x * mask).sum(1) / mask.sum(1)).mean(),
        ),
        Mistake(
            N_("That is the sum over the tokens. Divide it by how many there are."),
            lambda x, mask: (x * mask).sum(),
        ),
        Mistake(
            N_("That is one mean a response. One number is asked for, over the tokens of all responses."),
            lambda x, mask: (x * mask).sum(1) / mask.sum(1),
        ),
    ),
    hints=(
        N_("Multiplying by the mask makes the padding 0. Does that take it out of a mean?"),
        N_("A mean is a sum divided by a count. How many tokens are there?"),
    ),
)

# ----------------------------------------------------------------------------------------------- 3.4 importance ratio


def importance_ratio(log_probs, old_log_probs):
    """ρ of each token, from ln π_θ and ln π_old."""
    return (log_probs - old_log_probs).exp()


IMPORTANCE_RATIO = Exercise(
    number="3.4",
    title=N_("the importance ratio"),
    task=N_(
        "`importance_ratio(log_probs, old_log_probs)` gets ln π_θ and ln π_old of T tokens, two tensors (T,). It "
        "returns the importance ratio ρ = π_θ / π_old of each token, a tensor (T,)."
    ),
    difficulty="easy",
    minutes=3,
    right=importance_ratio,
    why=N_("A quotient of probabilities is the exponential of a difference of logarithms, also where both are tiny."),
    inputs=(
        (reals([-1.0, -2.0, -0.5]), reals([-1.5, -1.0, -0.5])),
        (reals([-0.1, -3.0]), reals([-0.1, -3.0])),
        (reals([-800.0, -1.0]), reals([-800.5, -2.0])),
    ),
    mistakes=(
        Mistake(
            N_("The ratio is upside down. π_θ stands on top: ρ is above 1 where the token has become likelier."),
            lambda new, old: (old - new).exp(),
        ),
        Mistake(
            N_("That is ln ρ. The exponential is missing: an unmoved policy has ρ = 1, not 0."),
            lambda new, old: new - old,
        ),
        Mistake(
            N_("You divided logarithms. The quotient of probabilities is what their difference stands for."),
            lambda new, old: new / old,
        ),
        Mistake(
            N_("That is the ratio of the whole response. PPO has one ratio for each token: do not sum."),
            lambda new, old: (new - old).sum().exp(),
        ),
        Mistake(
            N_("Right, until a probability is too small for a computer: exp(−800) is 0, and 0/0 NaN. Subtract first."),
            lambda new, old: new.exp() / old.exp(),
        ),
    ),
    hints=(
        N_("ln(π_θ / π_old) = ln π_θ − ln π_old. How do you come from a logarithm back to the number?"),
        N_("Known answer: two equal policies have the ratio 1 at every token."),
    ),
)

# --------------------------------------------------------------------------------------------------- 3.5 clipped loss


def clipped_losses(ratio, advantages, epsilon):
    """PPO's loss of each of T tokens, from ρ and A."""
    plain = -advantages * ratio
    held = -advantages * ratio.clamp(1 - epsilon, 1 + epsilon)
    return torch.maximum(plain, held)


def _held(ratio, advantages, epsilon):
    return -advantages * ratio.clamp(1 - epsilon, 1 + epsilon)


CLIPPED_LOSSES = Exercise(
    number="3.5",
    title=N_("the clipped loss"),
    task=N_(
        "`clipped_losses(ratio, advantages, epsilon)` gets the ratios ρ and the advantages A of T tokens, two tensors "
        "(T,), and ε. It returns PPO's loss of each token, a tensor (T,): −Aρ, or the same with ρ clipped to 1 ± ε, "
        "whichever is the worse for the policy."
    ),
    difficulty="medium",
    minutes=6,
    right=clipped_losses,
    why=N_("The larger loss is the smaller objective: moving further than ε in the wanted direction gains nothing."),
    inputs=(
        (reals([1.5, 0.5, 1.5, 0.5]), reals([1.0, 1.0, -1.0, -1.0]), 0.2),
        (reals([1.0, 1.05, 0.95]), reals([2.0, -0.5, 0.0]), 0.1),
        (reals([3.0, 0.1]), reals([0.5, -2.0]), 0.3),
    ),
    mistakes=(
        Mistake(
            N_(
                "You took the smaller loss: that is the optimist's choice, and the clip no longer holds where it "
                "should. The minimum in the paper is over objectives, which are losses with the sign turned."
            ),
            lambda rho, A, eps: torch.minimum(-A * rho, _held(rho, A, eps)),
        ),
        Mistake(
            N_("That is the objective, which is maximised. A loss is minimised, and has the other sign."),
            lambda rho, A, eps: -clipped_losses(rho, A, eps),
        ),
        Mistake(
            N_("The clip has no effect: −Aρ is compared with nothing."),
            lambda rho, A, eps: -A * rho,
        ),
        Mistake(
            N_("Only the clipped term is left: a token that went the wrong way can then not be brought back."),
            _held,
        ),
        Mistake(
            N_("You clipped ρA. The ratio is clipped, then multiplied by the advantage."),
            lambda rho, A, eps: torch.maximum(-A * rho, -(A * rho).clamp(1 - eps, 1 + eps)),
            lambda rho, A, eps: -(A * rho).clamp(1 - eps, 1 + eps),
        ),
        Mistake(
            N_("That is the mean. One loss for each token is asked for."),
            lambda rho, A, eps: clipped_losses(rho, A, eps).mean(),
        ),
        Mistake(
            N_("The ratio was clipped to ± ε around 0. An unmoved policy has the ratio 1: clip to 1 ± ε."),
            lambda rho, A, eps: torch.maximum(-A * rho, -A * rho.clamp(-eps, eps)),
        ),
    ),
    hints=(
        N_("Write down both losses: −A times ρ, and −A times the clipped ρ, `ratio.clamp(1 - epsilon, 1 + epsilon)`."),
        N_("Worse for the policy means a larger loss, token by token. `torch.maximum` compares two tensors so."),
    ),
)

# ------------------------------------------------------------------------------------------- 3.6 adaptive KL controller


def next_beta(beta, kl, target, n, horizon):
    """β after a batch of n responses with this KL."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * n / horizon)


def _steered_by(error):
    """A controller with another error, which need not be held."""
    return lambda beta, kl, target, n, horizon: beta * (1 + error(kl, target) * n / horizon)


def _between(value, low, high):
    return min(max(value, low), high)


NEXT_BETA = Exercise(
    number="3.6",
    title=N_("one step of the adaptive KL controller"),
    task=N_(
        "`next_beta(beta, kl, target, n, horizon)` gets β, the KL of a batch and its target in nats, the n responses "
        "of the batch, and the horizon. It returns the new β = β (1 + e n / horizon), where the error e = KL / target "
        "− 1 is held within ± 0.2."
    ),
    difficulty="medium",
    minutes=4,
    right=next_beta,
    why=N_("A KL above its target makes a nat dearer; holding the error makes one odd batch harmless."),
    inputs=(
        (0.2, 12.0, 6.0, 64, 1000),
        (0.2, 6.1, 6.0, 64, 1000),
        (0.2, 6.0, 6.0, 64, 1000),
        (0.1, 1.0, 6.0, 256, 10000),
    ),
    mistakes=(
        Mistake(
            N_("The error is not held: one odd batch could throw β far off. Cut it to between −0.2 and 0.2."),
            _steered_by(lambda kl, target: kl / target - 1),
        ),
        Mistake(
            N_("The wrong way round: a KL above its target must raise β, the price of a nat, and yours falls."),
            _steered_by(lambda kl, target: -_between(kl / target - 1, -0.2, 0.2)),
            _steered_by(lambda kl, target: _between(target / kl - 1, -0.2, 0.2)),
            _steered_by(lambda kl, target: _between(1 - kl / target, -0.2, 0.2)),
        ),
        Mistake(
            N_("The error is relative: KL / target − 1, a number without unit, not the difference in nats."),
            _steered_by(lambda kl, target: _between(kl - target, -0.2, 0.2)),
        ),
        Mistake(
            N_("n / horizon is missing: a batch moves β only as far as its share of the horizon."),
            lambda beta, kl, target, n, horizon: beta * (1 + _between(kl / target - 1, -0.2, 0.2)),
        ),
        Mistake(
            N_("You added to β. It is multiplied, so that it moves by a percentage and stays above 0."),
            lambda beta, kl, target, n, horizon: beta + _between(kl / target - 1, -0.2, 0.2) * n / horizon,
        ),
        Mistake(
            N_("You held KL / target within ± 0.2. On target that is 1: subtract 1 first."),
            _steered_by(lambda kl, target: _between(kl / target, -0.2, 0.2)),
            _steered_by(lambda kl, target: _between(kl / target, -0.2, 0.2) - 1),
        ),
    ),
    hints=(
        N_("First the relative error, KL / target − 1. On target it is 0, and β stays."),
        N_("`min(max(error, -0.2), 0.2)` holds it. Then β is multiplied by 1 plus the error's share n / horizon."),
    ),
)

# --------------------------------------------------------------------------------------------------- 3.7 distinct-2


def distinct_2(responses):
    """Different pairs of neighbouring tokens over all such pairs, of all responses together."""
    pairs = []
    for tokens in responses:
        pairs += [(tokens[i], tokens[i + 1]) for i in range(len(tokens) - 1)]
    return len(set(pairs)) / len(pairs)


def _pairs(tokens):
    return list(pairwise(tokens))


def _share(grams):
    return len(set(grams)) / len(grams)


DISTINCT_2 = Exercise(
    number="3.7",
    title=N_("variety, by distinct-2"),
    task=N_(
        "`distinct_2(responses)` gets a list of responses, each a list of token ids. It returns the number of "
        "different pairs of neighbouring tokens, divided by the number of all such pairs, over all responses "
        "together. A response of one token has no pair."
    ),
    difficulty="easy",
    minutes=5,
    right=distinct_2,
    why=N_(
        "Pairs are collected response by response and compared over all of them, so that one phrase everywhere shows."
    ),
    inputs=(
        ([[1, 2, 3, 1, 2], [1, 2, 4]],),
        ([[5, 5, 5, 5]],),
        ([[1, 2, 1], [2, 1, 3], [7]],),
        ([[1, 2], [1, 2], [1, 2]],),
    ),
    mistakes=(
        Mistake(
            N_("You counted single tokens: that is distinct-1. A pair is two neighbours."),
            lambda responses: _share([token for tokens in responses for token in tokens]),
        ),
        Mistake(
            N_(
                "That is the mean of each response's own share. A policy that repeats one phrase in every response "
                "would look varied: pool the pairs of all responses."
            ),
            lambda responses: (
                sum(_share(_pairs(t)) for t in responses if len(t) > 1) / sum(len(t) > 1 for t in responses)
            ),
            lambda responses: sum(_share(_pairs(t)) for t in responses if len(t) > 1) / len(responses),
        ),
        Mistake(
            N_("Pairs reach from one response into the next. Take them from each response by itself."),
            lambda responses: _share(_pairs([token for tokens in responses for token in tokens])),
        ),
        Mistake(
            N_("Your pairs do not overlap: (1, 2), (3, 4). Every token but the last begins one."),
            lambda responses: _share([p for t in responses for p in zip(t[::2], t[1::2], strict=False)]),
        ),
        Mistake(
            N_("That is the number of different pairs. Divide it by the number of all pairs."),
            lambda responses: len({p for t in responses for p in _pairs(t)}),
        ),
        Mistake(
            N_("(1, 2) and (2, 1) are taken for one pair. The order of tokens makes the text."),
            lambda responses: _share([tuple(sorted(p)) for t in responses for p in _pairs(t)]),
        ),
        Mistake(
            N_("You divided by the number of tokens. A response of T tokens has T − 1 pairs."),
            lambda responses: len({p for t in responses for p in _pairs(t)}) / sum(len(t) for t in responses),
        ),
    ),
    hints=(
        N_("Make one list of all pairs first, response by response. A `set` of it holds each pair once."),
        N_("A response of T tokens has the pairs (ω_1, ω_2) to (ω_{T−1}, ω_T)."),
    ),
)

# ---------------------------------------------------------------------------------- 3.8 the response in a generated row


def response_in_row(row, query_length, gen_len, eos):
    """The response's token ids: after the query, up to and with the first end token."""
    response = row[query_length:]
    ends = (response == eos).nonzero()
    return response if len(ends) == 0 else response[: ends[0] + 1]


def _up_to_first_end(tokens, eos, keep_end=1):
    ends = (tokens == eos).nonzero()
    return tokens if len(ends) == 0 else tokens[: int(ends[0]) + keep_end]


RESPONSE_IN_ROW = Exercise(
    number="3.8",
    title=N_("the response in a generated row"),
    task=N_(
        "`response_in_row(row, query_length, gen_len, eos)` gets a row of token ids from `generate`: the query, the "
        "response, perhaps padding with the id `eos`. Up to `gen_len` new tokens were asked for. It returns the "
        "response's ids, the first end token included, if there is one. The query's padding may hold that id, too."
    ),
    difficulty="medium",
    minutes=6,
    right=response_in_row,
    why=N_(
        "The query's length says where the response begins and the first EOS after it where it ends; `gen_len` neither."
    ),
    inputs=(
        (torch.tensor([5, 6, 7, 11, 12, 0]), 3, 5, 0),
        (torch.tensor([5, 6, 7, 11, 12, 13, 0, 0, 0]), 3, 6, 0),
        (torch.tensor([0, 0, 5, 11, 12, 13]), 3, 3, 0),
        (torch.tensor([0, 5, 6, 11, 0, 0, 0]), 3, 4, 0),
        (torch.tensor([5, 6, 0]), 2, 2, 0),
    ),
    mistakes=(
        Mistake(
            N_(
                "You took the last `gen_len` tokens. When the end came early the row is shorter, and they reach back "
                "into the query: count from its beginning instead."
            ),
            lambda row, query_length, gen_len, eos: row[-gen_len:],
            lambda row, query_length, gen_len, eos: _up_to_first_end(row[-gen_len:], eos),
        ),
        Mistake(
            N_("The end token is cut off. Stopping was the policy's choice: it belongs to the response."),
            lambda row, query_length, gen_len, eos: _up_to_first_end(row[query_length:], eos, keep_end=0),
            lambda row, query_length, gen_len, eos: row[query_length:][row[query_length:] != eos],
        ),
        Mistake(
            N_("The padding after the end is still there. Cut behind the first EOS of the response, not the last."),
            lambda row, query_length, gen_len, eos: row[query_length:],
            lambda row, query_length, gen_len, eos: row[query_length : query_length + gen_len],
        ),
        Mistake(
            N_("The query is still there. The response begins behind its `query_length` tokens."),
            lambda row, query_length, gen_len, eos: torch.cat(
                [row[:query_length], _up_to_first_end(row[query_length:], eos)]
            ),
        ),
        Mistake(
            N_("You looked for EOS in the whole row and found the query's padding. Take the query off first."),
            lambda row, query_length, gen_len, eos: _up_to_first_end(row, eos)[query_length:],
            lambda row, query_length, gen_len, eos: _up_to_first_end(row, eos),
        ),
    ),
    hints=(
        N_("Where does the response begin? The row knows nothing of it, but `query_length` does."),
        N_("`(response == eos).nonzero()` lists the places of the end token. Which of them did the policy write?"),
        N_("Without an EOS the whole rest of the row is the response."),
    ),
)

EXERCISES = (
    REWARDS_OF_TOKENS,
    GAE,
    MEAN_OVER_TOKENS,
    IMPORTANCE_RATIO,
    CLIPPED_LOSSES,
    NEXT_BETA,
    DISTINCT_2,
    RESPONSE_IN_ROW,
)
