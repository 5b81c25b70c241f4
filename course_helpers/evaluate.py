"""How good a policy is, and how far it has gone: mean reward and KL to the reference, each with its error.

A mean without an interval says nothing, a reward without a KL only half: `evaluate` reports both, on queries that
training has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from transformers import Pipeline, PreTrainedTokenizerBase

from course_helpers.checks import check_whole, is_finite, require
from course_helpers.models import score
from course_helpers.ppo.losses import log_probs_of
from course_helpers.ppo.rollout import Batch, generate_responses, response_outputs, until_end
from course_helpers.rollouts import check_prompt, evaluation_mode

NORMAL_95 = 1.959964  # 95 % of a normal distribution lie within so many standard deviations


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    Attributes:
        mean: the estimate.
        half: half the interval's width; NaN where a single query gives no error.
    """

    mean: float
    half: float

    @classmethod
    def of(cls, values: ArrayLike) -> Interval:
        """Mean of values (N, K), K drawn for each of N queries; draws of one query share its luck.

        So the error is that of the mean of the N queries' means. (N,) is taken as K = 1.
        """
        means = np.asarray(values, dtype=float)
        means = means.mean(axis=1) if means.ndim == 2 else means
        spread = means.std(ddof=1) if len(means) > 1 else math.nan
        return cls(float(means.mean()), float(NORMAL_95 * spread / math.sqrt(len(means))))

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half

    def __contains__(self, value: float) -> bool:
        """Whether a value lies within the interval."""
        return self.low <= value <= self.high

    def __format__(self, spec: str) -> str:
        """``f"{interval:.3f}"`` gives ``0.512 ± 0.020``."""
        return f"{self.mean:{spec or '.2f'}} ± {self.half:{spec or '.2f'}}"

    def __str__(self) -> str:
        """Two digits after the point."""
        return format(self, ".2f")


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

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
        kls: ln π_θ(Y|X) − ln π_ref(Y|X) of each response, in nats; single ones may be negative.
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


def log_odds(judge: Pipeline, texts: Sequence[str], label: str = "POSITIVE", batch_size: int = 64) -> list[float]:
    """ln P/(1 − P) of a label for each text: with two labels, the difference of the judge's two raw logits.

    Args:
        judge: a text-classification pipeline.
        texts: to be judged.
        label: the label looked for.
        batch_size: texts judged together.

    Raises:
        ValueError: the judge has no such label.
    """
    pipe_outputs = judge(list(texts), top_k=None, function_to_apply="none", batch_size=batch_size)
    wanted = score(pipe_outputs, label)
    others = [[entry["score"] for entry in output if entry["label"] != label] for output in pipe_outputs]
    return (np.array(wanted) - np.logaddexp.reduce(np.array(others), axis=1)).tolist()


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
        temperature: τ. The policy is then the one at this temperature, and the KL its distance to π_ref.
        seed: of the draws.
        batch_size: responses drawn and judged together.

    Raises:
        ValueError: an argument outside its range, no prompts, or one that does not fit the model's context.
    """
    check_whole("max_new_tokens", max_new_tokens, at_least=1)
    check_whole("count", count, at_least=1)
    require(is_finite(temperature) and temperature > 0, "temperature", temperature, "a number above 0")
    if isinstance(prompts, str) or len(prompts) == 0:
        raise ValueError(f"prompts is {prompts!r}: pass a list of at least one query.")
    given = [tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt for prompt in prompts]
    ids = [torch.tensor(check_prompt(policy, prompt, max_new_tokens)) for prompt in given]
    queries = [query for query in ids for _ in range(count)]
    settings = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": temperature}
    responses, kls = [], []
    with _seeded(seed):
        for begin in range(0, len(queries), batch_size):
            part = queries[begin : begin + batch_size]
            rows = generate_responses(policy, part, tokenizer.pad_token_id, max_new_tokens=max_new_tokens, **settings)
            drawn = [until_end(row.cpu(), tokenizer.eos_token_id) for row in rows]
            ours = response_log_probs(policy, part, drawn, tokenizer.pad_token_id, temperature)
            theirs = response_log_probs(reference, part, drawn, tokenizer.pad_token_id)
            responses += drawn
            kls += (ours - theirs).tolist()

    texts = [
        tokenizer.decode(torch.cat(pair), skip_special_tokens=True) for pair in zip(queries, responses, strict=True)
    ]
    odds = np.array(log_odds(judge, texts, label, batch_size))
    probabilities = 1 / (1 + np.exp(-odds))
    table = (len(prompts), count)
    return Evaluation(
        label=label,
        probability=Interval.of(probabilities.reshape(table)),
        log_odds=Interval.of(odds.reshape(table)),
        kl=Interval.of(np.reshape(kls, table)),
        distinct_1=distinct_n(responses, 1),
        distinct_2=distinct_n(responses, 2),
        length=float(np.mean([len(response) for response in responses])),
        queries=tuple(tokenizer.decode(query, skip_special_tokens=True) for query in ids),
        responses=tuple(tokenizer.decode(response, skip_special_tokens=True) for response in responses),
        probabilities=tuple(probabilities.tolist()),
        kls=tuple(kls),
    )


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
    """
    batch = Batch.of(queries, responses, None, pad_token_id, model.device)
    with evaluation_mode(model):
        logits, _ = response_outputs(model, batch)
        return (log_probs_of(logits / temperature, batch.responses) * batch.response_mask).sum(dim=1).cpu()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's generators at `seed`; afterwards they go on where they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
