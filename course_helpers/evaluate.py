"""How good a policy is, and how far it has gone: mean reward and KL to the reference, each with its error.

A mean without an interval says nothing, a reward without a KL only half: `evaluate` reports both, on queries that
training has not seen. Which of two policies writes the better response is a third question: `win_rate`.

    prompts → `evaluate` → reward, KL, variety          two evaluations of the same queries → `compare` → win rate
    responses → `sequence_kls` → the KL, exact at each token or estimated from the tokens drawn (k1, k2, k3)

Sources: Schulman 2020, "Approximating KL Divergence" (k1, k2, k3); Efron 1979, "Bootstrap Methods: Another Look at the
Jackknife".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from transformers import Pipeline, PreTrainedTokenizerBase

from course_helpers.checks import check_whole, is_finite, require
from course_helpers.models import log_odds
from course_helpers.onednn import faster_products
from course_helpers.ppo.losses import ROWS, kl_penalty, log_probs_of
from course_helpers.ppo.rollout import Batch, draw_responses, response_outputs
from course_helpers.rollouts import check_prompt, evaluation_mode
from course_helpers.translation import _

NORMAL_95 = 1.959964  # 95 % of a normal distribution lie within so many standard deviations
TIE = 1e-4  # log-odds this close are equal: one text, judged in two batches, differs by less

# ----------------------------------------------------------------------------------------------------------- intervals


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; both ends are NaN where a single query gives no error.

    Attributes:
        mean: the estimate.
        low: lower end.
        high: upper end.

    Examples:
        >>> str(Interval(0.5, 0.4, 0.6)), 0.45 in Interval(0.5, 0.4, 0.6)
        ('0.50 ± 0.10', True)
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: ArrayLike) -> Interval:
        """Mean of values (N, K), K drawn for each of N queries; draws of one query share its luck.

        So the error is that of the mean of the N queries' means, taken to be normal. (N,) is taken as K = 1.

        Args:
            values: (N, K) or (N,).

        Returns:
            The mean with its interval.

        Raises:
            ValueError: another shape, or no values.

        Examples:
            >>> f"{Interval.of([0.0, 1.0]):.3f}"  # 1.96 · std / √2, and std = 1/√2
            '0.500 ± 0.980'
        """
        means = _query_means(values)
        spread = means.std(ddof=1) if len(means) > 1 else math.nan
        mean, half = means.mean(), NORMAL_95 * spread / math.sqrt(len(means))
        return cls(float(mean), float(mean - half), float(mean + half))

    @classmethod
    def bootstrap(cls, values: ArrayLike, repeats: int = 2000, seed: int = 0) -> Interval:
        """Mean of values (N, K), its ends read off from what other sets of queries might have given.

        N queries are drawn again from the N at hand, with replacement, `repeats` times; the ends leave out 2.5 % of
        the means at each side. Nothing is taken to be normal, so the ends may lie unevenly around the mean, and they
        never leave the range of the values. From very few queries, ten or less, the interval comes out too narrow.

        Args:
            values: (N, K), or (N,) for K = 1.
            repeats: sets of queries drawn.
            seed: of a generator of its own.

        Returns:
            The mean with its interval.

        Raises:
            ValueError: another shape, no values, or no repeats.

        Examples:
            >>> str(Interval.bootstrap([3.0, 3.0, 3.0]))  # no query differs from another
            '3.00 ± 0.00'
        """
        check_whole("repeats", repeats, at_least=1)
        means = _query_means(values)
        n = len(means)
        if n == 1:
            return cls(float(means[0]), math.nan, math.nan)
        generator = np.random.default_rng(seed)
        found = [means[generator.integers(n, size=n)].mean() for _ in range(repeats)]
        low, high = np.quantile(found, [0.025, 0.975])
        return cls(float(means.mean()), float(low), float(high))

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    def __contains__(self, value: float) -> bool:
        """Whether a value lies within the interval."""
        return self.low <= value <= self.high

    def __format__(self, spec: str) -> str:
        """``f"{interval:.3f}"`` gives ``0.512 ± 0.020``."""
        return f"{self.mean:{spec or '.2f'}} ± {self.half:{spec or '.2f'}}"

    def __str__(self) -> str:
        """Two digits after the point."""
        return format(self, ".2f")


def _query_means(values: ArrayLike) -> np.ndarray:
    """(N, K) → (N,), the mean of each query's values."""
    table = np.asarray(values, dtype=float)
    if table.ndim not in (1, 2) or table.size == 0:
        raise ValueError(f"values have shape {table.shape}; expected (N, K), a row for each query, or (N,).")
    return table.mean(axis=1) if table.ndim == 2 else table


# ------------------------------------------------------------------------------------------------- reward and variety


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. Its intervals are bootstrapped over the queries.

    Attributes:
        label: the judge's label that is looked at.
        probability: P(label) of query and response together.
        log_odds: ln P/(1 − P) of the same: the reward the lessons train on.
        kl: KL(π_θ‖π_ref) in nats a response.
        distinct_1: `distinct_n` of all responses' tokens, n = 1.
        distinct_2: the same, n = 2.
        length: mean tokens of a response.
        queries: N texts.
        responses: N·K texts, those of a query one after the other.
        probabilities: P(label) of each response.
        rewards: log-odds of each response.
        kls: the KL along each response in nats, never negative: `SequenceKL.exact`.
    """

    label: str
    probability: Interval
    log_odds: Interval
    kl: Interval
    distinct_1: float
    distinct_2: float
    length: float
    queries: tuple[str, ...] = field(repr=False)
    responses: tuple[str, ...] = field(repr=False)
    probabilities: tuple[float, ...] = field(repr=False)
    rewards: tuple[float, ...] = field(repr=False)
    kls: tuple[float, ...] = field(repr=False)

    def __str__(self) -> str:
        """One line."""
        return (
            f"P({self.label}) {self.probability}, log-odds {self.log_odds}, KL {self.kl} nats, "
            f"distinct-2 {self.distinct_2:.2f}, {self.length:.1f} tokens ({len(self.responses)} responses)"
        )

    def row(self) -> dict[str, Any]:
        """A row for ``pandas.DataFrame``."""
        return {
            f"P({self.label})": str(self.probability),
            "log-odds": str(self.log_odds),
            "KL [nats]": str(self.kl),
            "distinct-1": round(self.distinct_1, 2),
            "distinct-2": round(self.distinct_2, 2),
            "tokens": round(self.length, 1),
        }


def distinct_n(texts: Sequence[str | Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams of all texts: near 1 for varied texts, near 0 for one phrase again and again.

    The more text there is, the smaller it gets: compare only equally many texts of about the same length.

    Args:
        texts: strings, taken as words between spaces, or sequences of token ids.
        n: length of the n-grams, at least 1.

    Returns:
        A number above 0, at most 1; NaN if no text has n tokens.

    Examples:
        >>> distinct_n(["so good so good"], 1), distinct_n(["a fine and moving film"], 1)
        (0.5, 1.0)

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation Models".
    """
    check_whole("n", n, at_least=1)
    if isinstance(texts, str):
        raise ValueError("texts is one string: pass a list of texts.")
    grams = [gram for text in texts for gram in _n_grams(text.split() if isinstance(text, str) else text, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def _n_grams(tokens: Sequence, n: int) -> list[tuple]:
    tokens = tokens.tolist() if isinstance(tokens, Tensor | np.ndarray) else list(tokens)
    return [tuple(tokens[begin : begin + n]) for begin in range(len(tokens) - n + 1)]


def evaluate(
    policy: Any,
    reference: Any,
    tokenizer: PreTrainedTokenizerBase,
    judge: Pipeline,
    prompts: Sequence[str | Sequence[int]],
    *,
    label: str = "POSITIVE",
    max_new_tokens: int = 24,
    count: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
) -> Evaluation:
    """Draw responses from a policy and measure reward, KL to the reference, and variety.

    The same seed gives the same responses; torch's global generator is as it was afterwards.

    Args:
        policy: π_θ, a causal language model, with a value head or without.
        reference: π_ref, likewise.
        tokenizer: of both.
        judge: a text-classification pipeline; it sees query and response as one text.
        prompts: N queries, texts or token ids; of openings that training has not seen.
        label: the judge's label that is looked at.
        max_new_tokens: longest response.
        count: responses for each query.
        temperature: τ. The policy is then the one at this temperature, and the KL its distance to π_ref at τ = 1.
        seed: of the draws.
        batch_size: responses drawn and judged together.

    Returns:
        Reward, KL and variety, with the texts they were measured on.

    Raises:
        ValueError: an argument outside its range, no prompts, or one that does not fit the model's context.
    """
    queries, responses = _draw(
        policy, tokenizer, prompts, count, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
        batch_size=batch_size,
    )  # fmt: skip
    kls = sequence_kls(policy, reference, queries, responses, tokenizer.pad_token_id, temperature, batch_size).exact
    odds = np.array(_rewards(judge, tokenizer, queries, responses, label, batch_size))
    probabilities = 1 / (1 + np.exp(-odds))
    table = (-1, count)
    return Evaluation(
        label=label,
        probability=Interval.bootstrap(probabilities.reshape(table)),
        log_odds=Interval.bootstrap(odds.reshape(table)),
        kl=Interval.bootstrap(kls.reshape(table)),
        distinct_1=distinct_n(responses, 1),
        distinct_2=distinct_n(responses, 2),
        length=float(np.mean([len(response) for response in responses])),
        queries=_texts(tokenizer, queries[::count]),
        responses=_texts(tokenizer, responses),
        probabilities=tuple(probabilities.tolist()),
        rewards=tuple(odds.tolist()),
        kls=tuple(kls.tolist()),
    )


def _draw(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | Sequence[int]],
    count: int,
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Draw `count` responses to each of N queries: N·count queries, each repeated, and as many responses, as ids."""
    check_whole("max_new_tokens", max_new_tokens, at_least=1)
    check_whole("count", count, at_least=1)
    check_whole("batch_size", batch_size, at_least=1)
    _check_temperature(temperature)
    if isinstance(prompts, str) or len(prompts) == 0:
        raise ValueError(f"prompts is {prompts!r}: pass a list of at least one query.")
    given = [tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt for prompt in prompts]
    ids = [torch.tensor(check_prompt(policy, prompt, max_new_tokens)) for prompt in given]
    queries = [query for query in ids for _ in range(count)]
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed, "batch_size": batch_size}
    return queries, draw_responses(policy, tokenizer, queries, **options)


def _rewards(
    judge: Pipeline,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Tensor],
    responses: Sequence[Tensor],
    label: str,
    batch_size: int,
) -> list[float]:
    """Log-odds of each query and its response, judged as one text."""
    texts = _texts(tokenizer, [torch.cat(pair) for pair in zip(queries, responses, strict=True)])
    with torch.random.fork_rng():  # a pipeline's data loader draws a number
        return log_odds(judge, texts, label, batch_size)


def _texts(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Tensor]) -> tuple[str, ...]:
    return tuple(tokenizer.decode(row, skip_special_tokens=True) for row in rows)


def _check_temperature(temperature: float) -> None:
    require(is_finite(temperature) and temperature > 0, "temperature", temperature, "a number above 0")


# ------------------------------------------------------------------------------------------------------ KL of responses


def response_log_probs(
    model: Any, queries: Sequence[Tensor], responses: Sequence[Tensor], pad_token_id: int, temperature: float = 1.0
) -> Tensor:
    """ln π(Y|X) = Σ_t ln π(ω_t | ω_<t, X) of B responses, (B,) in nats, on the CPU.

    Args:
        model: a causal language model, with a value head or without; looked at in eval mode.
        queries: B tensors of token ids.
        responses: B tensors of token ids, EOS included where it came.
        pad_token_id: fills shorter rows; it is masked.
        temperature: logits are divided by it.

    Returns:
        (B,), at most 0.
    """
    logits, batch = _response_logits(model, queries, responses, pad_token_id)
    return (log_probs_of(logits / temperature, batch.responses) * batch.response_mask).sum(dim=1).cpu()


class SequenceKL(NamedTuple):
    """KL(π_θ‖π_ref) of whole responses, seen along each of B responses Y drawn from π_θ: sums over its tokens.

    With ρ = π_ref(ω_t | ω_<t, X) / π_θ(ω_t | ω_<t, X) for each token drawn; all (B,), in nats. The mean of `exact`,
    `k1` or `k3` over draws from π_θ is the KL of the responses. `exact` looks at all tokens that might have been drawn
    and not only at the one that was. So it scatters less, by far while the policies are close; the prefix is still
    drawn, and between policies far apart that can outweigh the gain.

    Attributes:
        exact: ``Σ_t KL(π_θ(·|ω_<t, X)‖π_ref(·|ω_<t, X))``; never negative.
        k1: Σ_t −ln ρ = ln π_θ(Y|X) − ln π_ref(Y|X); single responses may be below 0.
        k2: Σ_t ½ (ln ρ)²; never negative, but its mean is another number, close to the KL while the policies are close.
        k3: Σ_t (ρ − 1 − ln ρ); never negative, but huge where π_ref is much the likelier to write a token.
    """

    exact: Tensor
    k1: Tensor
    k2: Tensor
    k3: Tensor


def sequence_kls(
    policy: Any,
    reference: Any,
    queries: Sequence[Tensor],
    responses: Sequence[Tensor],
    pad_token_id: int,
    temperature: float = 1.0,
    batch_size: int = 64,
) -> SequenceKL:
    """How far π_θ is from π_ref along given responses; averaged over draws from π_θ it is KL(π_θ‖π_ref).

    The KL of sequences is a sum over steps, each on average over the prefixes that π_θ writes (the chain rule):
    ``KL(π_θ‖π_ref) = E_Y[Σ_t KL(π_θ(·|ω_<t, X)‖π_ref(·|ω_<t, X))]``. The step that draws EOS counts, those after it do
    not.

    Args:
        policy: π_θ, a causal language model, with a value head or without; looked at in eval mode.
        reference: π_ref, likewise, of the same vocabulary.
        queries: B tensors of token ids.
        responses: B tensors of token ids, drawn from the policy at this temperature, EOS included where it came.
        pad_token_id: fills shorter rows; it is masked.
        temperature: τ of π_θ; π_ref stays at 1.
        batch_size: responses looked at together. The logits of both models are held for so many and no more.

    Returns:
        The exact sums and three estimates, each (B,) in float64 on the CPU.

    Raises:
        ValueError: no rows or an empty one, not one response a query, a setting outside its range, or two vocabularies.
    """
    check_whole("batch_size", batch_size, at_least=1)
    _check_temperature(temperature)
    if not len(queries) == len(responses) > 0 or min(map(len, [*queries, *responses])) == 0:
        raise ValueError(
            f"{len(queries)} queries and {len(responses)} responses: pass one response to each query, at least one, "
            "and at least one token in each."
        )
    parts = []
    for begin in range(0, len(queries), batch_size):
        rows = slice(begin, begin + batch_size)
        parts.append(_kls_of_batch(policy, reference, queries[rows], responses[rows], pad_token_id, temperature))
    return SequenceKL(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _kls_of_batch(
    policy: Any,
    reference: Any,
    queries: Sequence[Tensor],
    responses: Sequence[Tensor],
    pad_token_id: int,
    temperature: float,
) -> SequenceKL:
    logits, batch = _response_logits(policy, queries, responses, pad_token_id)
    ref_logits, _ = _response_logits(reference, queries, responses, pad_token_id)
    if logits.shape != ref_logits.shape:
        sizes = f"{logits.shape[-1]} tokens, the reference's {ref_logits.shape[-1]}"
        raise ValueError(f"the policy's vocabulary holds {sizes}: a KL needs two models of one tokenizer.")
    exact, k1 = _token_kls(logits, ref_logits.to(logits.device), batch.responses, temperature)
    mask = batch.response_mask.cpu()
    return SequenceKL(*((x * mask).sum(dim=1) for x in (exact, k1, 0.5 * k1**2, torch.expm1(-k1) + k1)))


def _response_logits(
    model: Any, queries: Sequence[Tensor], responses: Sequence[Tensor], pad_token_id: int
) -> tuple[Tensor, Batch]:
    """Logits of the steps that draw the responses, (B, R, V), without gradient, and the batch they belong to."""
    batch = Batch.of(queries, responses, None, pad_token_id, model.device)
    with evaluation_mode(model), faster_products(batch.input_ids.device):
        logits, _ = response_outputs(model, batch)
    return logits, batch


def _token_kls(logits: Tensor, ref_logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Exact KL of each step's two distributions, and ln π_θ/π_ref of its token: (2, B, R), float64, on the CPU.

    A few steps at a time: the log-softmax of all would be as large as the logits, twice.
    """
    columns = (x.flatten(0, 1).split(ROWS) for x in (logits, ref_logits, tokens[..., None]))
    parts = []
    for z, ref_z, drawn in zip(*columns, strict=True):
        log_probs, ref_log_probs = _log_softmax(z, temperature), _log_softmax(ref_z)
        exact = kl_penalty(log_probs, ref_log_probs, "full").clamp(min=0)  # rounding may end a little below 0
        k1 = kl_penalty(log_probs, ref_log_probs).gather(1, drawn).squeeze(1)
        parts.append(torch.stack((exact, k1)))
    return torch.cat(parts, dim=1).cpu().double().view(2, *tokens.shape)


def _log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """ln softmax(z/τ), in float32 at least: half precision is too coarse for a sum over V tokens."""
    return (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(-1)


# ------------------------------------------------------------------------------------------------------------ win rate


@dataclass(frozen=True)
class WinRate:
    """How often one policy's response is judged better than another's to the same query.

    Attributes:
        label: the judge's label; the better response has the higher log-odds of it.
        rate: share of pairs won, ties counted half, bootstrapped over the queries.
        won: the same share for each of N queries.
        queries: N texts.
        ours: N·K responses of the policy, those of a query one after the other.
        theirs: N·K' responses of the other one.
        our_rewards: log-odds of each of `ours`.
        their_rewards: log-odds of each of `theirs`.
    """

    label: str
    rate: Interval
    won: tuple[float, ...] = field(repr=False)
    queries: tuple[str, ...] = field(repr=False)
    ours: tuple[str, ...] = field(repr=False)
    theirs: tuple[str, ...] = field(repr=False)
    our_rewards: tuple[float, ...] = field(repr=False)
    their_rewards: tuple[float, ...] = field(repr=False)

    def __str__(self) -> str:
        """One line."""
        return _("win rate {rate} (queries: {count})").format(rate=self.rate, count=len(self.queries))


def win_rate(
    policy: Any,
    reference: Any,
    tokenizer: PreTrainedTokenizerBase,
    judge: Pipeline,
    prompts: Sequence[str | Sequence[int]],
    *,
    label: str = "POSITIVE",
    max_new_tokens: int = 24,
    count: int = 1,
    seed: int = 0,
    batch_size: int = 64,
    temperature: float = 1.0,
) -> WinRate:
    """Let two policies answer the same queries, and count whose response the judge prefers.

    Of a policy and itself it is about ½, whatever the policy. The policy's responses are those `evaluate` draws with
    this seed; the other's are drawn independently of them. torch's global generator is as it was afterwards.

    Args:
        policy: π_θ, a causal language model, with a value head or without.
        reference: the policy it is held against, often π_ref.
        tokenizer: of both.
        judge: a text-classification pipeline; it sees query and response as one text.
        prompts: N queries, texts or token ids; of openings that training has not seen.
        label: the judge's label that is looked at.
        max_new_tokens: longest response.
        count: K responses of each policy to each query; all K x K pairs are compared.
        seed: of the draws, 0 or more.
        batch_size: responses drawn and judged together.
        temperature: τ of both policies.

    Returns:
        The share won, with the texts that were compared.

    Raises:
        ValueError: an argument outside its range, no prompts, or one that does not fit the models' context.
    """
    check_whole("seed", seed, at_least=0)
    their_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])  # another stream, not this seed's neighbour
    sides = []
    for model, its_seed in ((policy, seed), (reference, their_seed)):
        queries, responses = _draw(
            model, tokenizer, prompts, count, max_new_tokens=max_new_tokens, temperature=temperature, seed=its_seed,
            batch_size=batch_size,
        )  # fmt: skip
        rewards = _rewards(judge, tokenizer, queries, responses, label, batch_size)
        sides.append((_texts(tokenizer, responses), tuple(rewards)))
    return _win_rate(label, _texts(tokenizer, queries[::count]), *sides)


def compare(ours: Evaluation, theirs: Evaluation) -> WinRate:
    """`win_rate` of responses that have been drawn and judged already.

    Two evaluations with one seed share their random numbers, so that like policies write like responses: draw with two
    seeds if the pairs are to be independent.

    Args:
        ours: of the policy.
        theirs: of the one it is held against, on the same queries and for the same label; the responses to each query
            may be more or fewer.

    Returns:
        The share won, with the texts that were compared.

    Raises:
        ValueError: other queries, or another label.
    """
    if ours.queries != theirs.queries:
        raise ValueError("the two evaluations are of different queries: evaluate both policies on the same prompts.")
    if ours.label != theirs.label:
        raise ValueError(
            f"one evaluation looks at {ours.label!r}, the other at {theirs.label!r}: evaluate both with one label."
        )
    return _win_rate(ours.label, ours.queries, (ours.responses, ours.rewards), (theirs.responses, theirs.rewards))


def _win_rate(
    label: str,
    queries: tuple[str, ...],
    ours: tuple[tuple[str, ...], tuple[float, ...]],
    theirs: tuple[tuple[str, ...], tuple[float, ...]],
) -> WinRate:
    """Compare every response of ours to a query with every one of theirs; a side is its texts and their rewards."""
    our_table, their_table = (np.reshape(rewards, (len(queries), -1)) for _, rewards in (ours, theirs))
    lead = our_table[:, :, None] - their_table[:, None, :]  # (N, K, K')
    outcome = np.where(np.abs(lead) < TIE, 0.5, lead > 0)
    return WinRate(
        label=label,
        rate=Interval.bootstrap(outcome.reshape(len(queries), -1)),
        won=tuple(outcome.mean(axis=(1, 2)).tolist()),
        queries=queries,
        ours=ours[0],
        theirs=theirs[0],
        our_rewards=ours[1],
        their_rewards=theirs[1],
    )
