"""Exercises of lesson 01: logits, probabilities, sequences; rewards and their mean; how far apart two policies are.

A function with the exercise's name is the solution, written as a learner would; one with an underscore is a mistake.
Arguments are torch tensors, except in the exercises that say otherwise.
"""

import numpy as np
import torch

from course_helpers.exercises.check import Exercise, Mistake
from course_helpers.exercises.values import reals
from course_helpers.translation import N_

# ------------------------------------------------------------------------------------------------------- 1.1 entropy


def entropy_in_nats(probabilities):
    """H(π) = −Σ π ln π of the probabilities of V tokens, with 0 ln 0 = 0."""
    possible = probabilities[probabilities > 0]
    return -(possible * possible.log()).sum()


def _weights_forgotten(probabilities):
    return -probabilities[probabilities > 0].log().mean()


def _summed_without_weights(probabilities):
    return -probabilities[probabilities > 0].log().sum()


ENTROPY = Exercise(
    number="1.1",
    title=N_("entropy in nats"),
    task=N_(
        "`entropy_in_nats(probabilities)` gets the probabilities of V tokens, a tensor (V,), and returns one number: "
        "H(π) = −Σ π ln π. A token may be impossible; 0 ln 0 counts as 0."
    ),
    difficulty="easy",
    minutes=3,
    right=entropy_in_nats,
    why=N_("Impossible tokens are left out before the logarithm, because a computer makes NaN of 0 · ln 0."),
    inputs=(
        (reals([0.5, 0.5]),),
        (reals([0.7, 0.2, 0.1]),),
        (reals([0.125] * 8),),
        (reals([1.0, 0.0, 0.0]),),
    ),
    mistakes=(
        Mistake(
            N_("That is the entropy in bits: your logarithm has base 2. Nats take the natural one, `log` in torch."),
            lambda p: entropy_in_nats(p) / np.log(2),
        ),
        Mistake(
            N_("The sign is missing: ln π is never above 0, so Σ π ln π is negative, and an entropy is not."),
            lambda p: -entropy_in_nats(p),
        ),
        Mistake(
            N_(
                "Right, until a token is impossible: a computer takes 0 · ln 0 for 0 · (−∞), which is NaN. Leave such "
                "tokens out, or count them as 0."
            ),
            lambda p: -(p * p.log()).sum(),
        ),
        Mistake(
            N_("Every −ln π counts alike here. Entropy is their expectation: each is weighted by its own probability."),
            _weights_forgotten,
            _summed_without_weights,
        ),
    ),
    hints=(
        N_("Multiply each probability by its own natural logarithm, add, and change the sign."),
        N_("For [1, 0, 0] the logarithm of 0 is −∞. Which tokens may you leave out without changing the sum?"),
    ),
)

# -------------------------------------------------------------------------------- 1.2 log-probability of a sequence


def sequence_log_probability(token_log_probs):
    """ln π(Y|X), from ln π of each token of Y."""
    return token_log_probs.sum()


SEQUENCE_LOG_PROBABILITY = Exercise(
    number="1.2",
    title=N_("the log-probability of a sequence"),
    task=N_(
        "`sequence_log_probability(token_log_probs)` gets ln π of each of the T tokens of a response, given the tokens "
        "before it, a tensor (T,). It returns ln π(Y|X), one number. A response of no tokens at all is certain."
    ),
    difficulty="easy",
    minutes=3,
    right=sequence_log_probability,
    why=N_("Probabilities multiply from token to token, so their logarithms add; the empty sum is 0, which is ln 1."),
    inputs=((reals([-2.79, -0.63, -1.89]),), (reals([-0.5]),), (reals([-1.0, -1.0, -1.0, -1.0]),), (reals([]),)),
    mistakes=(
        Mistake(
            N_(
                "That is the mean over tokens, which weighs long and short responses alike. ln π(Y|X) is the sum: "
                "every further token makes a response less probable."
            ),
            lambda logs: logs.mean(),
        ),
        Mistake(
            N_("That is π(Y|X) itself. Its logarithm is asked for: for a long response π would be rounded to 0."),
            lambda logs: logs.sum().exp(),
        ),
        Mistake(
            N_("You multiplied logarithms. Probabilities multiply; their logarithms add."),
            lambda logs: logs.prod(),
        ),
        Mistake(
            N_("You added probabilities, as if one of the tokens were enough. All of them have to be written."),
            lambda logs: logs.exp().sum().log(),
            lambda logs: logs.exp().sum(),
        ),
        Mistake(
            N_(
                "The sign is turned round: that is −ln π(Y|X), the loss of maximum likelihood, not the log-probability."
            ),
            lambda logs: -logs.sum(),
        ),
    ),
    hints=(
        N_("π(Y|X) is a product over tokens, the Ω function. What does a logarithm make of a product?"),
        N_("ln(a · b) = ln a + ln b. No `exp` is needed, and no number of tokens."),
    ),
)

# ------------------------------------------------------------------------------------------ 1.3 softmax at temperature


def softmax_at_temperature(logits, temperature):
    """π at temperature τ: probabilities, from V logits."""
    scaled = logits / temperature
    powers = (scaled - scaled.max()).exp()
    return powers / powers.sum()


SOFTMAX_AT_TEMPERATURE = Exercise(
    number="1.3",
    title=N_("softmax at a temperature"),
    task=N_(
        "`softmax_at_temperature(logits, temperature)` gets logits (V,) and τ above 0, and returns the probabilities "
        "(V,) at that temperature. They sum to 1 at every τ, and a logit of 1000 does no harm."
    ),
    difficulty="medium",
    minutes=4,
    right=softmax_at_temperature,
    why=N_("The largest z/τ is subtracted first: that cancels in the fraction, and no exponential can overflow."),
    inputs=(
        (reals([2.0, 1.0, 0.5]), 0.5),
        (reals([2.0, 1.0, 0.5]), 2.0),
        (reals([1.0, -torch.inf, 0.0]), 0.7),
        (reals([1000.0, 999.0, 0.0]), 1.0),
    ),
    mistakes=(
        Mistake(
            N_("You divided probabilities by τ: they no longer sum to 1. Divide the logits, before the softmax."),
            lambda z, tau: z.softmax(0) / tau,
        ),
        Mistake(
            N_("τ changes nothing here. Divide the logits by it before the softmax; afterwards it cancels."),
            lambda z, tau: z.softmax(0),
        ),
        Mistake(
            N_("You multiplied by τ, so that a high temperature sharpens. The logits are divided by it."),
            lambda z, tau: (z * tau).softmax(0),
        ),
        Mistake(
            N_("The exponential of a large logit is ∞, and ∞/∞ is NaN. Subtract the largest z/τ first; it cancels."),
            lambda z, tau: (z / tau).exp() / (z / tau).exp().sum(),
        ),
        Mistake(
            N_("Those are log-probabilities. Probabilities are asked for."),
            lambda z, tau: (z / tau).log_softmax(0),
        ),
        Mistake(
            N_("The exponentials are right, but they are not normalised: divide them by their sum."),
            lambda z, tau: (z / tau).exp(),
            lambda z, tau: (z / tau - (z / tau).max()).exp(),
        ),
    ),
    hints=(
        N_("First z/τ, then the exponentials, then divide them by their sum."),
        N_(
            "exp(1000) overflows. Adding one number to all z/τ changes no probability: which number makes the largest "
            "0?"
        ),
    ),
)

# ------------------------------------------------------------------------------------------------------ 1.4 top-p


def tokens_kept_by_top_p(probabilities, p):
    """How many tokens top-p keeps: the likeliest ones, until their probabilities add up to p."""
    likeliest_first = probabilities.sort(descending=True).values
    reached = likeliest_first.cumsum(0)
    return int((reached < p).sum()) + 1


def _without_sorting(probabilities, p):
    return int((probabilities.cumsum(0) < p).sum()) + 1


def _unlikeliest_first(probabilities, p):
    return _without_sorting(probabilities.sort().values, p)


def _goes_on_when_reached(probabilities, p):
    return int((probabilities.sort(descending=True).values.cumsum(0) <= p).sum()) + 1


TOKENS_KEPT_BY_TOP_P = Exercise(
    number="1.4",
    title=N_("how many tokens top-p keeps"),
    task=N_(
        "`tokens_kept_by_top_p(probabilities, p)` gets probabilities (V,), in any order, and p, above 0 and at most "
        "1. It returns a whole number: the size of the smallest set of likeliest tokens whose probabilities add up to "
        "p or more."
    ),
    difficulty="medium",
    minutes=5,
    right=tokens_kept_by_top_p,
    why=N_("The running sums below p belong to tokens that are not enough yet; one more token reaches p."),
    inputs=(
        (reals([0.5, 0.25, 0.125, 0.125]), 0.6),
        (reals([0.1, 0.2, 0.7]), 0.8),
        (reals([0.125, 0.5, 0.125, 0.25]), 0.75),
        (reals([0.9, 0.1]), 0.5),
        (reals([0.5, 0.25, 0.125, 0.125]), 1.0),
    ),
    mistakes=(
        Mistake(
            N_("One token too few: the token that carries the sum to p is kept, too. Without it p is not reached."),
            lambda probabilities, p: tokens_kept_by_top_p(probabilities, p) - 1,
            lambda probabilities, p: int((probabilities.sort(descending=True).values.cumsum(0) <= p).sum()),
        ),
        Mistake(
            N_("The tokens come in any order. Sort them first: top-p takes the likeliest."),
            _without_sorting,
        ),
        Mistake(
            N_("You began with the unlikeliest tokens. The smallest set that reaches p takes the likeliest."),
            _unlikeliest_first,
        ),
        Mistake(
            N_("You compared each probability with p. It is their running sum, from the likeliest on, that reaches p."),
            lambda probabilities, p: int((probabilities >= p).sum()),
            lambda probabilities, p: int((probabilities < p).sum()),
        ),
        Mistake(
            N_("When the sum is exactly p, p is reached: no further token is kept. Compare with `<`, not `<=`."),
            _goes_on_when_reached,
            lambda probabilities, p: min(_goes_on_when_reached(probabilities, p), len(probabilities)),
        ),
    ),
    hints=(
        N_("Sort from the likeliest down and look at the running sums, `cumsum(0)`."),
        N_("Count how many running sums are still below p. Is the token that crosses p among them?"),
    ),
)

# ------------------------------------------------------------------------------------------- 1.5 repetition penalty


def penalize_repeats(logits, previous_ids, penalty):
    """New logits (V,): those of tokens that occurred are lowered, each once."""
    penalized = logits.clone()
    for i in set(previous_ids):
        penalized[i] = logits[i] / penalty if logits[i] > 0 else logits[i] * penalty
    return penalized


def _once_an_occurrence(logits, previous_ids, penalty):
    penalized = logits.clone()
    for i in previous_ids:
        penalized[i] = penalized[i] / penalty if penalized[i] > 0 else penalized[i] * penalty
    return penalized


def _on_repeats(change):
    """A penalty that treats all logits of tokens that occurred alike."""

    def penalized(logits, previous_ids, penalty):
        changed = logits.clone()
        for i in set(previous_ids):
            changed[i] = change(logits[i], penalty)
        return changed

    return penalized


PENALIZE_REPEATS = Exercise(
    number="1.5",
    title=N_("the sign rule of the repetition penalty"),
    task=N_(
        "`penalize_repeats(logits, previous_ids, penalty)` gets logits (V,), a list of the ids that occurred, and a "
        "penalty of 1 or more. It returns new logits (V,), in which each token that occurred is penalised once, "
        "however often it occurred. The others keep theirs."
    ),
    difficulty="medium",
    minutes=5,
    right=penalize_repeats,
    why=N_("Dividing lowers a positive logit and multiplying lowers a negative one; `set` counts every id once."),
    inputs=(
        (reals([2.0, -1.0, 0.5, -3.0]), [0, 1], 1.5),
        (reals([2.0, -1.0, 0.5, -3.0]), [3, 0, 3, 3], 2.0),
        (reals([1.0, -1.0]), [], 1.5),
        (reals([0.4, -0.2, 0.0]), [0, 1, 2], 1.0),
    ),
    mistakes=(
        Mistake(
            N_(
                "Dividing raises a negative logit: −3 / 1.5 = −2, and the token gets likelier for having occurred. "
                "Multiply where a logit is negative."
            ),
            _on_repeats(lambda z, penalty: z / penalty),
        ),
        Mistake(
            N_("Multiplying raises a positive logit: repeated tokens get likelier. Divide where a logit is positive."),
            _on_repeats(lambda z, penalty: z * penalty),
        ),
        Mistake(
            N_("The two cases are exchanged: a penalty above 1 now makes every repeated token likelier."),
            _on_repeats(lambda z, penalty: z * penalty if z > 0 else z / penalty),
        ),
        Mistake(
            N_("A token that occurred three times is penalised three times here. Go through the different ids only."),
            _once_an_occurrence,
        ),
        Mistake(
            N_("You subtracted the penalty. It is a factor: it divides or multiplies, depending on the logit's sign."),
            _on_repeats(lambda z, penalty: z - penalty),
        ),
        Mistake(
            N_("Tokens that never occurred have changed, too. Only those in `previous_ids` are penalised."),
            lambda logits, previous_ids, penalty: torch.where(logits > 0, logits / penalty, logits * penalty),
        ),
    ),
    hints=(
        N_("To make a token less likely its logit must fall. Does dividing −3 by 1.5 lower it?"),
        N_("Begin with a copy, `logits.clone()`, and go through `set(previous_ids)`."),
        N_("Where the logit is positive divide by the penalty, where it is negative multiply."),
    ),
)

# ------------------------------------------------------------------------------------------- 1.6 the score of a label


def scores_of_label(pipe_outputs, label):
    """The score of one label for each of N texts."""
    scores = []
    for output in pipe_outputs:
        by_label = {entry["label"]: entry["score"] for entry in output}
        scores.append(by_label[label])
    return scores


def _entry(label, score):
    return {"label": label, "score": score}


_TWO_TEXTS = [
    [_entry("POSITIVE", 0.9), _entry("NEGATIVE", 0.1)],
    [_entry("NEGATIVE", 0.8), _entry("POSITIVE", 0.2)],
]
_THREE_LABELS = [
    [_entry("NEUTRAL", 0.3), _entry("POSITIVE", 0.5), _entry("NEGATIVE", 0.2)],
    [_entry("POSITIVE", 0.15), _entry("NEGATIVE", 0.6), _entry("NEUTRAL", 0.25)],
]

SCORES_OF_LABEL = Exercise(
    number="1.6",
    title=N_("the score of a label"),
    task=N_(
        "`scores_of_label(pipe_outputs, label)` gets what `judge(texts, top_k=None)` returns, for each of N texts a "
        "list of entries with a `label` and a `score`, and the label that is wanted. It returns a list of N numbers: "
        "that label's score for each text. Entries may stand in any order."
    ),
    difficulty="easy",
    minutes=4,
    right=scores_of_label,
    why=N_("A dictionary from label to score finds the entry by its name, wherever the pipeline has put it."),
    inputs=((_TWO_TEXTS, "POSITIVE"), (_TWO_TEXTS, "NEGATIVE"), (_THREE_LABELS, "NEUTRAL")),
    mistakes=(
        Mistake(
            N_(
                "You took the first entry of each text. The first is the likelier label, whichever that is: this "
                "rewards the judge's certainty."
            ),
            lambda outputs, label: [output[0]["score"] for output in outputs],
        ),
        Mistake(
            N_(
                "You took the second entry of each text. Of two labels that is the less likely one: this rewards the "
                "judge's doubt."
            ),
            lambda outputs, label: [output[1]["score"] for output in outputs],
        ),
        Mistake(
            N_("You took the largest score of each text, whichever label it belongs to."),
            lambda outputs, label: [max(entry["score"] for entry in output) for output in outputs],
        ),
        Mistake(
            N_("Your function looks for POSITIVE whatever `label` says. Compare with the argument."),
            lambda outputs, label: scores_of_label(outputs, "POSITIVE"),
        ),
        Mistake(
            N_("That is the score of the first text alone. One number is wanted for each of the N texts."),
            lambda outputs, label: scores_of_label(outputs, label)[0],
            lambda outputs, label: scores_of_label(outputs, label)[:1],
        ),
    ),
    hints=(
        N_("Each text has a list of entries. The one you want is where `entry['label']` equals `label`."),
        N_("Two loops: over the texts, and over the entries of a text. Positions such as `[0]` are not needed."),
    ),
)

# -------------------------------------------------------------------------------------------- 1.7 expected reward


def mean_and_error(rewards):
    """The estimate of E[r] and its standard error, from K rewards for each of N queries, (N, K)."""
    query_means = rewards.mean(axis=1)
    return rewards.mean(), query_means.std(ddof=1) / np.sqrt(len(query_means))


def _with_error(error):
    return lambda rewards: (rewards.mean(), error(rewards))


MEAN_AND_ERROR = Exercise(
    number="1.7",
    title=N_("the expected reward and its standard error"),
    task=N_(
        "`mean_and_error(rewards)` gets a NumPy array (N, K): K rewards for each of N queries. It returns two "
        "numbers: the estimate 1/(NK) Σ r(x_n, y_nk) of E[r], and its standard error. The error comes from the means "
        "of the N queries, as rollouts of one query share its luck."
    ),
    difficulty="hard",
    minutes=8,
    right=mean_and_error,
    why=N_(
        "N independent means have a spread, estimated with N − 1, and the mean of N of them scatters √N times less."
    ),
    inputs=(
        (np.array([[0.9, 0.7, 0.8, 1.0], [0.2, 0.1, 0.4, 0.3], [0.5, 0.7, 0.6, 0.4]]),),
        (np.array([[2.0, -1.0, 0.5], [1.0, 3.0, -0.5]]),),
        (np.array([[0.1], [0.9], [0.4], [0.6]]),),
    ),
    mistakes=(
        Mistake(
            N_(
                "The error treats all N · K rewards as unrelated, and comes out too small. Rollouts of one query "
                "share its luck: first take the mean of each query."
            ),
            _with_error(lambda rewards: rewards.std(ddof=1) / np.sqrt(rewards.size)),
            _with_error(lambda rewards: rewards.std() / np.sqrt(rewards.size)),
        ),
        Mistake(
            N_("The spread is divided by N. From a sample it takes N − 1: `ddof=1` in NumPy."),
            _with_error(lambda rewards: rewards.mean(axis=1).std() / np.sqrt(len(rewards))),
        ),
        Mistake(
            N_("That is the spread of the queries' means, not the error of their mean: √N is missing."),
            _with_error(lambda rewards: rewards.mean(axis=1).std(ddof=1)),
            _with_error(lambda rewards: rewards.mean(axis=1).std()),
        ),
        Mistake(
            N_(
                "You divided the spread by N. The variance of a mean is N times smaller; its standard deviation √N "
                "times."
            ),
            _with_error(lambda rewards: rewards.mean(axis=1).std(ddof=1) / len(rewards)),
        ),
        Mistake(
            N_("Rows are queries, columns are rollouts. You took the mean of each column: use `axis=1`."),
            _with_error(lambda rewards: rewards.mean(axis=0).std(ddof=1) / np.sqrt(rewards.shape[1])),
            _with_error(lambda rewards: rewards.mean(axis=0).std(ddof=1) / np.sqrt(rewards.shape[0])),
        ),
        Mistake(
            N_("That is half the 95 % interval, 1.96 standard errors. The standard error itself is asked for."),
            _with_error(lambda rewards: 1.96 * mean_and_error(rewards)[1]),
        ),
        Mistake(
            N_(
                "The means of the queries are right, but there are N of them: divide their spread by √N, not by √(N · "
                "K)."
            ),
            _with_error(lambda rewards: rewards.mean(axis=1).std(ddof=1) / np.sqrt(rewards.size)),
        ),
    ),
    hints=(
        N_("How many numbers here are independent of each other: N · K rewards, or N queries?"),
        N_("Take the mean of each row first. The error of the mean of N numbers is their standard deviation over √N."),
        N_("`std(ddof=1)` divides by N − 1, as an estimate from a sample should."),
    ),
)

# ------------------------------------------------------------------------------------------------------------ 1.8 KL


def kl_divergence(pi, pi_ref):
    """KL(π‖π_ref) in nats, of two distributions over V tokens."""
    possible = pi > 0
    return (pi[possible] * (pi[possible].log() - pi_ref[possible].log())).sum()


def _kl_from_logs(weights, one, other):
    """Σ weights · (ln one − ln other), over the tokens that both can write."""
    possible = (one > 0) & (other > 0)
    return (weights[possible] * (one[possible].log() - other[possible].log())).sum()


KL_DIVERGENCE = Exercise(
    number="1.8",
    title=N_("the KL divergence, in the right direction"),
    task=N_(
        "`kl_divergence(pi, pi_ref)` gets the probabilities of V tokens under π and under π_ref, two tensors (V,), "
        "and returns KL(π‖π_ref) in nats, one number. A token may be impossible under π; it then contributes 0."
    ),
    difficulty="medium",
    minutes=5,
    right=kl_divergence,
    why=N_(
        "The weights and the first logarithm belong to π, whose draws are looked at; what π never writes adds nothing."
    ),
    inputs=(
        (reals([0.5, 0.3, 0.2]), reals([0.2, 0.5, 0.3])),
        (reals([0.9, 0.1]), reals([0.4, 0.6])),
        (reals([0.2, 0.2, 0.6]), reals([0.2, 0.2, 0.6])),
        (reals([0.5, 0.5, 0.0]), reals([0.5, 0.5, 0.0])),
    ),
    mistakes=(
        Mistake(
            N_(
                "That is KL(π_ref‖π), the other way round. Draws come from π, so π gives the weights and stands on top."
            ),
            lambda pi, ref: _kl_from_logs(ref, ref, pi),
        ),
        Mistake(
            N_("The ratio is upside down: that is −KL(π‖π_ref). A KL is never negative."),
            lambda pi, ref: _kl_from_logs(pi, ref, pi),
        ),
        Mistake(
            N_(
                "The weights are π_ref's, as if the draws came from the wrong policy: that is −KL(π_ref‖π). The "
                "expectation is over π."
            ),
            lambda pi, ref: _kl_from_logs(ref, pi, ref),
        ),
        Mistake(
            N_("That KL is in bits: the logarithm has base 2. Nats take the natural one."),
            lambda pi, ref: _kl_from_logs(pi, pi, ref) / np.log(2),
        ),
        Mistake(
            N_(
                "You took a mean over the V tokens. An expectation is a sum whose weights, the probabilities, are in "
                "it."
            ),
            lambda pi, ref: _kl_from_logs(pi, pi, ref) / len(pi),
        ),
        Mistake(
            N_("The log-ratios count alike here. Each has to be weighted by π of its token."),
            lambda pi, ref: _kl_from_logs(torch.ones_like(pi), pi, ref),
            lambda pi, ref: _kl_from_logs(torch.ones_like(pi) / len(pi), pi, ref),
        ),
        Mistake(
            N_("Right, until a token is impossible under π: 0 · (−∞) is NaN. Leave such tokens out."),
            lambda pi, ref: (pi * (pi.log() - ref.log())).sum(),
            lambda pi, ref: (pi * (pi / ref).log()).sum(),
        ),
    ),
    hints=(
        N_("It is an expectation over draws from π: Σ π · (ln of one policy − ln of the other). Which comes first?"),
        N_("π stands in front of the bars, so π gives the weights, and ln π comes first."),
        N_("Where π is 0 leave the token out, as for the entropy in exercise 1.1."),
    ),
)

EXERCISES = (
    ENTROPY,
    SEQUENCE_LOG_PROBABILITY,
    SOFTMAX_AT_TEMPERATURE,
    TOKENS_KEPT_BY_TOP_P,
    PENALIZE_REPEATS,
    SCORES_OF_LABEL,
    MEAN_AND_ERROR,
    KL_DIVERGENCE,
)
