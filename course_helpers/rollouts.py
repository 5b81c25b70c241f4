"""Rollouts: responses drawn from a policy, token by token, with their log-probabilities.

`sampling` says what the distribution of the next token is; this module draws from it, again and again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from course_helpers.checks import check_whole, require
from course_helpers.sampling import SamplingSettings, log_softmax, stages


@dataclass(frozen=True)
class Rollout:
    """One response Y drawn for one query X.

    Attributes:
        prompt_ids: X, the ids of the query.
        token_ids: Y = (ω_1 ... ω_T), EOS included where it came.
        log_probs: ln of the probability each ω_t was drawn with, all transforms applied, in nats; T numbers.
        policy_log_probs: ln π(ω_t | ω_<t, X) of the policy itself, no transform applied, in nats; T numbers. Their
            sum is ln π(Y|X).
        ended: whether EOS came; False when the rollout was cut off.
    """

    prompt_ids: list[int]
    token_ids: list[int]
    log_probs: list[float]
    policy_log_probs: list[float]
    ended: bool


@contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards each submodule trains or not as it did before.

    The mode belongs to the model, not to the caller: whoever shares a model between threads holds a lock meanwhile.

    Args:
        model: any module.

    Examples:
        >>> layer = torch.nn.Dropout()
        >>> with without_dropout(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """`without_dropout`, and without gradients.

    Args:
        model: any module.

    Examples:
        >>> with evaluation_mode(torch.nn.Dropout()):
        ...     torch.is_grad_enabled()
        False
    """
    # Not inference_mode: a buffer first made under it could never be used in training afterwards.
    with without_dropout(model), torch.no_grad():
        yield


def check_prompt(
    model: torch.nn.Module, prompt_ids: Sequence[int] | torch.Tensor, new_tokens: int, eos_token_id: int | None = None
) -> list[int]:
    """Make sure a prompt and its continuation fit the model, before anything is computed.

    Args:
        model: a causal language model with a `config`.
        prompt_ids: the ids of one prompt, (length,) or (1, length).
        new_tokens: tokens to be added.
        eos_token_id: the token that is to end the continuation, or None.

    Returns:
        The prompt as a list of ids.

    Raises:
        ValueError: several prompts, an empty one, an id outside the vocabulary, or more tokens than the context
            holds.
    """
    ids = torch.as_tensor(prompt_ids)
    if ids.ndim == 2 and len(ids) == 1:
        ids = ids[0]
    if ids.ndim != 1 or ids.numel() == 0:
        raise ValueError(f"prompt_ids have shape {tuple(ids.shape)}; pass one prompt of at least one token.")
    vocabulary = model.config.vocab_size
    if ids.is_floating_point() or ids.min() < 0 or ids.max() >= vocabulary:
        raise ValueError(f"prompt_ids are {ids.tolist()}; each must be a whole number from 0 to {vocabulary - 1}.")
    if eos_token_id is not None:
        require(0 <= eos_token_id < vocabulary, "eos_token_id", eos_token_id, f"a token id below {vocabulary}")
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and len(ids) + new_tokens > context:
        raise ValueError(
            f"{len(ids)} prompt tokens and {new_tokens} new ones make {len(ids) + new_tokens}, but the model's context "
            f"holds {context}: shorten the prompt, or ask for at most {max(context - len(ids), 0)} new tokens."
        )
    return ids.tolist()


def next_token_logits(model: torch.nn.Module, ids: torch.Tensor, cache: Any = None) -> tuple[torch.Tensor, Any]:
    """Run the model over new tokens and keep what the next call needs.

    Args:
        model: a causal language model of `transformers`.
        ids: (batch, length), the tokens that the cache has not seen.
        cache: keys and values of the tokens before, from the last call; None at the start.

    Returns:
        The logits of the token after the last, (batch, V) in float32, and the cache.
    """
    output = model(input_ids=ids, past_key_values=cache, use_cache=True)
    return output.logits[:, -1].float(), output.past_key_values


def sample_rollouts(
    model: torch.nn.Module,
    prompt_ids: Sequence[int] | torch.Tensor,
    count: int,
    settings: SamplingSettings,
    generator: torch.Generator | None = None,
    length_limit: int = 24,
) -> list[Rollout]:
    """Draw responses to one prompt by ancestral sampling: ω_1, then ω_2 given ω_1, and so on.

    A rollout ends with EOS. With `settings.max_new_tokens` EOS is forced as the last token; without, a rollout is cut
    off after `length_limit` tokens. Where `settings.eos_token_id` is None nothing ends early. At temperature 0 all
    rollouts are the greedy one.

    Args:
        model: a causal language model of `transformers` (of one with a value head, its `pretrained_model`).
        prompt_ids: the ids of one prompt, (length,) or (1, length).
        count: rollouts, drawn side by side.
        settings: the knobs, as for `distribution`.
        generator: where the randomness comes from, and the only thing of the kind that is touched; without one it is
            torch's global generator. The same seed gives the same rollouts.
        length_limit: tokens, only used when `settings.max_new_tokens` is None.

    Returns:
        `count` rollouts.

    Raises:
        ValueError: a count or limit below 1, a prompt that does not fit (see `check_prompt`), a model that gives NaN.
    """
    check_whole("count", count, at_least=1)
    check_whole("length_limit", length_limit, at_least=1)
    steps = length_limit if settings.max_new_tokens is None else settings.max_new_tokens
    prompt = check_prompt(model, prompt_ids, steps, settings.eos_token_id)
    with evaluation_mode(model):
        tokens, log_probs, policy_log_probs = _draw(model, prompt, count, steps, settings, generator)
    rows = zip(tokens.tolist(), log_probs.tolist(), policy_log_probs.tolist(), strict=True)
    return [_until_end(prompt, *row, settings.eos_token_id) for row in rows]


def _draw(
    model: torch.nn.Module,
    prompt: list[int],
    count: int,
    steps: int,
    settings: SamplingSettings,
    generator: torch.Generator | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw (count, T) tokens with both their log-probabilities; rows that met EOS run on until all have."""
    ids = torch.tensor([prompt], device=model.device)
    logits, cache = next_token_logits(model, ids)
    cache.batch_repeat_interleave(count)  # the prompt is read once, then shared
    logits, ids = logits.repeat(count, 1), ids.repeat(count, 1)
    ended = torch.zeros(count, dtype=torch.bool, device=ids.device)
    drawn = []
    for step in range(steps):
        _, transformed = stages(logits, settings, ids, generated=step)[-1]
        log_probs = log_softmax(transformed)
        token = _draw_one(log_probs.exp(), generator)
        drawn.append((token, log_probs.gather(1, token), log_softmax(logits).gather(1, token)))
        ids = torch.cat((ids, token), dim=1)
        ended |= token[:, 0] == (-1 if settings.eos_token_id is None else settings.eos_token_id)
        if ended.all() or step + 1 == steps:
            break
        logits, cache = next_token_logits(model, token, cache)
    tokens, log_probs, policy_log_probs = (torch.cat(columns, dim=1) for columns in zip(*drawn, strict=True))
    return tokens, log_probs, policy_log_probs


def _draw_one(probabilities: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """Draw one id a row, (batch, 1), on the generator's device, so that a CPU seed also serves a model on a GPU."""
    device = probabilities.device if generator is None else generator.device
    return torch.multinomial(probabilities.to(device), 1, generator=generator).to(probabilities.device)


def _until_end(
    prompt: list[int], tokens: list[int], log_probs: list[float], policy_log_probs: list[float], eos: int | None
) -> Rollout:
    """Cut a row after its first EOS."""
    ended = eos is not None and eos in tokens
    length = tokens.index(eos) + 1 if ended else len(tokens)
    return Rollout(list(prompt), tokens[:length], log_probs[:length], policy_log_probs[:length], ended)
