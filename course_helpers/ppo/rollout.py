"""From queries to responses, and from both to one tensor in which the responses of all rows stand under each other."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase
from transformers.generation.configuration_utils import GenerationMode

from course_helpers.memory import enough_memory_for
from course_helpers.onednn import faster_products
from course_helpers.ppo.losses import log_probs_of
from course_helpers.ppo.value_head import accepts, reads_of
from course_helpers.rollouts import evaluation_mode

# What a setting must be for responses to be drawn from π itself. Anything else draws from another distribution, and
# ln π(Y|X) − ln π_ref(Y|X), averaged over its draws, is no KL divergence: it can be negative, and PPO then learns to
# make it more so.
PURE_SAMPLING = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "guidance_scale": 1.0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "penalty_alpha": None,
    "prompt_lookup_num_tokens": None,
    "watermarking_config": None,
    "prefix_allowed_tokens_fn": None,
    "logits_processor": None,
}
# What transformers takes where neither the call nor the model's generation config says anything.
UNSAID = {"top_k": 50}


def impure_settings(model: nn.Module, settings: dict) -> dict[str, object]:
    """Generation settings, said or unsaid, with which responses are not drawn from π.

    Args:
        model: has a `generation_config`.
        settings: keywords for its `generate`.
    """
    config = settings.get("generation_config") or model.generation_config
    found = {}
    for name, pure in PURE_SAMPLING.items():
        value = settings.get(name, getattr(config, name, None))
        value = UNSAID.get(name) if value is None else value
        neutral = (
            value is None or value == pure or (name.startswith("min_") and value <= 0)
        )  # the course's min_length=-1
        if not neutral:
            found[name] = value
    return found


def is_sampling(model: nn.Module, settings: dict) -> bool:
    """Whether `generate` draws at all; without `do_sample`, said or in the model's config, it does not."""
    config = settings.get("generation_config") or model.generation_config
    return bool(settings.get("do_sample", getattr(config, "do_sample", False)))


def check_generation(model: nn.Module, settings: dict, action: str = "error") -> None:
    """Make sure that responses are drawn from the policy itself.

    Args:
        model: has a `generation_config`.
        settings: keywords for its `generate`.
        action: ``"error"`` or ``"warn"``.

    Raises:
        ValueError: a setting that changes the distribution; the message names it and its neutral value.
    """
    if not is_sampling(model, settings):
        warnings.warn(
            "do_sample is off: these responses are the greedy ones, fit to look at, but the KL of a step on them means "
            "nothing. For training pass do_sample=True, top_k=0, top_p=1.0.",
            stacklevel=4,
        )
        return
    if found := impure_settings(model, settings):
        wanted = ", ".join(f"{name}={PURE_SAMPLING[name]}" for name in found)
        message = (
            f"generation with {', '.join(f'{name}={value}' for name, value in found.items())} does not draw from the "
            f"policy itself, and the KL of such responses can be negative. Pass {wanted}"
        )
        if action == "error":
            raise ValueError(f"{message}, or PPOConfig(generation_check='warn') to do it all the same.")
        warnings.warn(f"{message}.", stacklevel=4)


def one_pass_a_token(model: nn.Module, settings: dict) -> bool:
    """Whether `generate` runs the model once for each token of each row: no beams, no assistant."""
    config = copy.deepcopy(settings.get("generation_config") or model.generation_config)
    config.update(**settings)
    mode = config.get_generation_mode(settings.get("assistant_model"))
    return mode in (GenerationMode.SAMPLE, GenerationMode.GREEDY_SEARCH) and config.num_return_sequences in (None, 1)


@dataclass(frozen=True)
class Batch:
    """B queries and responses, aligned at the seam: queries end, and responses begin, in the same column.

    So the log-probabilities of all responses lie in the same R columns, and nothing before the seam needs logits. A
    token's position counts from its query's first token, so it does not matter on which side a row is padded.

    Attributes:
        input_ids: (B, Q + R), padding on both sides.
        attention_mask: (B, Q + R), 0 for padding.
        response_mask: (B, R), 1 where a token of the response counts.
        query_lengths: (B,).
        response_lengths: (B,).
    """

    input_ids: Tensor
    attention_mask: Tensor
    response_mask: Tensor
    query_lengths: Tensor
    response_lengths: Tensor

    @classmethod
    def of(
        cls,
        queries: Sequence[Tensor],
        responses: Sequence[Tensor],
        masks: Sequence[Tensor] | None,
        pad_token_id: int,
        device: torch.device,
    ) -> Batch:
        """Align rows.

        Args:
            queries: B tensors (q,) of token ids.
            responses: B tensors (r,) of token ids.
            masks: B tensors (r,), 0 for tokens of a response that do not count; None if all do.
            pad_token_id: what padding holds; it is masked.
            device: where the batch is to be.

        Returns:
            The batch, on the device.
        """
        query_lengths = torch.tensor([len(q) for q in queries])
        response_lengths = torch.tensor([len(r) for r in responses])
        seam, width = int(query_lengths.max()), int(response_lengths.max())
        input_ids = torch.full((len(queries), seam + width), pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        response_mask = torch.zeros(len(queries), width, dtype=torch.get_default_dtype())
        for row, (query, response) in enumerate(zip(queries, responses, strict=True)):
            begin, end = seam - len(query), seam + len(response)
            input_ids[row, begin:end] = torch.cat((query, response)).cpu()
            attention_mask[row, begin:end] = 1
            response_mask[row, : len(response)] = 1.0 if masks is None else masks[row].cpu()
        tensors = input_ids, attention_mask, response_mask, query_lengths, response_lengths
        return cls(*(tensor.to(device) for tensor in tensors))

    @property
    def seam(self) -> int:
        """Q, the column of the first response token."""
        return self.input_ids.shape[1] - self.response_mask.shape[1]

    @property
    def responses(self) -> Tensor:
        """Token ids of the responses, (B, R)."""
        return self.input_ids[:, self.seam :]

    @property
    def position_ids(self) -> Tensor:
        """(B, Q + R): 0 at a query's first token."""
        return (self.attention_mask.cumsum(1) - 1).clamp(min=0)

    def span(self, rows: Tensor) -> tuple[int, int]:
        """First column, and the one after the last, that any of these rows needs."""
        return self.seam - int(self.query_lengths[rows].max()), self.seam + int(self.response_lengths[rows].max())

    def take(self, rows: Tensor) -> Batch:
        """Some rows, without the padding they do not need."""
        first, end = self.span(rows)
        return Batch(
            self.input_ids[rows, first:end],
            self.attention_mask[rows, first:end],
            self.response_mask[rows, : end - self.seam],
            self.query_lengths[rows],
            self.response_lengths[rows],
        )

    @property
    def longest(self) -> int:
        """T, tokens of the longest query and response."""
        return int((self.query_lengths + self.response_lengths).max())

    def classic_columns(self, x: Tensor, padding_side: str, longest: int) -> Tensor:
        """(B, R) → (B, T - 1) as TRL 0.11.4 lays it out: rows padded on one side to `longest`, T; 0 elsewhere."""
        lengths = self.query_lengths + self.response_lengths
        start = self.query_lengths - 1 + (longest - lengths if padding_side == "left" else 0)
        steps = torch.arange(x.shape[1], device=x.device)
        row, step = torch.nonzero(steps < self.response_lengths[:, None], as_tuple=True)
        columns = x.new_zeros(len(x), longest - 1)
        columns[row, start[row] + step] = x[row, step]
        return columns


def forward_inputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """What a forward pass over a batch takes: all columns but the last, whose prediction nobody needs."""
    tensors = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    if accepts(getattr(model, "pretrained_model", model), "position_ids"):
        tensors["position_ids"] = batch.position_ids
    return {name: tensor[:, :-1] for name, tensor in tensors.items()}


def response_outputs(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Logits and values at the positions that predict response tokens, and nowhere else.

    Args:
        model: with a value head or without.
        batch: B rows.

    Returns:
        Logits (B, R, V), and values (B, R) or None.
    """
    width = batch.response_mask.shape[1]
    options = {"logits_to_keep": width, "use_cache": False}
    options = {name: x for name, x in options.items() if accepts(getattr(model, "pretrained_model", model), name)}
    output = model(**forward_inputs(model, batch), **options)
    logits, values = (output[0], output[2]) if isinstance(output, tuple) else (output.logits, None)
    return logits[:, -width:], None if values is None else values[:, -width:]


def like_widths(batch: Batch, rows: Tensor, worth: int, most: int) -> list[Tensor]:
    """Places in `rows` of those that are best run together: each pass is as wide as its longest query and response.

    Rows sorted by length are cut in two where most padding is saved, and the halves again, as long as a cut saves at
    least `worth` positions (a pass more costs something, too) or a pass would have more than `most`. Passes that are
    still too large are halved.

    Args:
        batch: whose lengths count.
        rows: (n,) of the batch.
        worth: columns times rows.
        most: columns times rows that fit the memory.

    Returns:
        Tensors that together hold 0 to n − 1 once.
    """
    lengths = torch.stack((batch.query_lengths[rows], batch.response_lengths[rows]))
    order = lengths.sum(0).argsort(stable=True)
    sizes = torch.arange(1, len(rows), device=rows.device)

    def cut(places: Tensor) -> list[Tensor]:
        of_places, n = lengths[:, places], len(places)
        below = of_places.cummax(1).values.sum(0)  # width of the first 1, 2 ... n rows
        above = of_places.flip(1).cummax(1).values.sum(0).flip(0)  # width of the last n, n - 1 ... 1 rows
        saved = n * below[-1] - sizes[: n - 1] * below[:-1] - (n - sizes[: n - 1]) * above[1:]
        if n > 1 and saved.max() >= worth:
            at = int(saved.argmax()) + 1
        elif n > 1 and n * below[-1] > most:
            at = n // 2
        else:
            return [places]
        return cut(places[:at]) + cut(places[at:])

    return cut(order)


def put_together(parts: Sequence[Tensor], places: Sequence[Tensor], width: int) -> Tensor:
    """What was computed for `like_widths`, each (b, r), as one (n, width) in the old order; 0 where nothing was."""
    padded = [torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts]
    return torch.cat(padded)[torch.cat(list(places)).argsort()]


class Draw(LogitsProcessor):
    """Draws a token for each row and leaves it no rival: transformers then takes it for the likeliest.

    transformers itself draws by giving each of the V tokens a random number, a quarter of the time in which a small
    model generates. One a row is enough: the token at which the sum of the probabilities before it passes that number.

    Args:
        darts: the numbers, (B, N) from 0 up to 1, one for each token of each row, so that a row is drawn alike whatever
            stands beside it and whichever process draws it; None takes them from torch's global generator.
    """

    def __init__(self, darts: Tensor | None = None):
        """Begin with the first token."""
        self.darts, self.step = darts, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(B, T) ids and (B, V) logits → (B, V): 0 at one token of each row, −∞ elsewhere."""
        summed = scores.softmax(-1).cumsum(-1)
        if self.darts is None:
            thrown = torch.rand_like(summed[:, -1:])
        else:
            thrown = self.darts[:, self.step, None].to(summed)
            self.step += 1
        dart = thrown * summed[:, -1:]
        drawn = torch.searchsorted(summed, dart, right=True).clamp(max=summed.shape[1] - 1)  # rounding may pass the end
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


# What says nothing to transformers where it does not draw itself.
NOT_SAMPLING = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}


def draws_from_policy(model: nn.Module, settings: dict) -> bool:
    """Whether `generate` would draw each token from π itself, and one at a time."""
    pure = is_sampling(model, settings) and not impure_settings(model, settings)
    return pure and one_pass_a_token(model, settings)


@enough_memory_for("drawing these responses", "Draw fewer at a time: pass a smaller batch_size, or fewer queries.")
def generate_responses(
    model: nn.Module,
    queries: Sequence[Tensor],
    pad_token_id: int,
    darts: Tensor | None = None,
    **settings: object,
) -> Tensor:
    """Draw one response for each query, all side by side, without dropout.

    Args:
        model: a causal language model, with a value head or without.
        queries: tensors (q,) of token ids.
        pad_token_id: what shorter queries are padded with, on the left and masked.
        darts: random numbers to draw with, see `Draw`; only where tokens are drawn from the policy itself.
        **settings: keywords for transformers' `generate`.

    Returns:
        Token ids, (B, N), N as long as the longest response: what follows an EOS is padding.

    Raises:
        ValueError: darts, and settings that do not draw from the policy itself.
    """
    seam = max(len(query) for query in queries)
    input_ids = torch.full((len(queries), seam), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, query in enumerate(queries):
        input_ids[row, seam - len(query) :] = query
        attention_mask[row, seam - len(query) :] = 1
    tensors = {"input_ids": input_ids.to(model.device), "attention_mask": attention_mask.to(model.device)}
    if draws_from_policy(getattr(model, "pretrained_model", model), settings):
        settings |= NOT_SAMPLING | {"logits_processor": LogitsProcessorList([Draw(darts)])}
    elif darts is not None:
        raise ValueError("darts draw from the policy itself: pass do_sample=True, top_k=0, top_p=1.0 beside them.")
    with evaluation_mode(model):
        return model.generate(**tensors, pad_token_id=pad_token_id, **settings)[:, seam:]


def until_end(response: Tensor, eos_token_id: int | None) -> Tensor:
    """A response up to its first EOS, which belongs to it: stopping is an action like any other.

    Examples:
        >>> until_end(torch.tensor([5, 0, 7]), eos_token_id=0).tolist()
        [5, 0]
    """
    ends = (response == (-1 if eos_token_id is None else eos_token_id)).nonzero()
    return response if len(ends) == 0 else response[: int(ends[0]) + 1]


def draw_responses(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Tensor],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
) -> list[Tensor]:
    """Draw one response to each query from the policy itself: no top-k, no top-p.

    The same seed and batch size give the same responses; torch's global generator is as it was afterwards.

    Args:
        policy: a causal language model, with a value head or without.
        tokenizer: of the policy.
        queries: tensors of token ids.
        max_new_tokens: longest response.
        temperature: τ.
        seed: of the draws.
        batch_size: responses drawn together.

    Returns:
        Tensors of token ids on the CPU, EOS included where it came.
    """
    settings = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": temperature}
    drawn = []
    with torch.random.fork_rng(), faster_products(policy.device):
        torch.manual_seed(seed)
        for begin in range(0, len(queries), batch_size):
            part = queries[begin : begin + batch_size]
            rows = generate_responses(policy, part, tokenizer.pad_token_id, max_new_tokens=max_new_tokens, **settings)
            drawn += [until_end(row.cpu(), tokenizer.eos_token_id) for row in rows]
    return drawn


class RolloutMemory:
    """Log-probabilities and values of responses, kept from the pass that drew them.

    The states from which a token was drawn are those from which a step would compute its log-probability and value, as
    long as no weight has changed; then one of the passes over the batch can be saved.
    """

    def __init__(self) -> None:
        """Nothing remembered."""
        self._rows: dict[tuple, tuple[Tensor, Tensor]] = {}
        self._weights: tuple = ()

    @staticmethod
    def _state(model: nn.Module) -> tuple:
        """Changes with every write to a parameter: torch counts them."""
        return tuple((p.data_ptr(), p._version) for p in model.parameters())

    @contextmanager
    def listen(self, model: nn.Module) -> Iterator[Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], None]]:
        """Follow `model.generate`, and yield what is to be called after it: with queries, responses and last tokens.

        At every step the LM head reads the state of the last token and gives its logits; the token that was then
        drawn comes in with the next step, the last one with the finished responses.
        """
        language_model = model.pretrained_model
        if hasattr(language_model, "get_base_model"):
            language_model = language_model.get_base_model()  # what peft's own generate calls
        logits: list[Tensor] = []
        log_probs: list[Tensor] = []

        def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
            if logits:
                ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
                log_probs.append(log_probs_of(logits.pop(), ids[:, -1:]))

        def after(_: nn.Module, __: tuple, output: object) -> None:
            logits.append(
                output.logits[:, -1:].float() if output.logits.dtype != torch.float64 else output.logits[:, -1:]
            )

        def keep(queries: Sequence[Tensor], responses: Sequence[Tensor], last: Tensor) -> None:
            if logits:
                log_probs.append(log_probs_of(logits.pop(), last[:, None]))
            with evaluation_mode(model):
                states = torch.cat([state[:, -1:] for state in hidden], dim=1)
                values, logs = model.v_head(states).squeeze(-1), torch.cat(log_probs, dim=1)
            self._forget_if_changed(model)
            for row, (query, response) in enumerate(zip(queries, responses, strict=True)):
                key = tuple(query.tolist()), tuple(response.tolist())
                self._rows[key] = logs[row, : len(response)], values[row, : len(response)]

        hooks = []
        try:
            hooks.append(language_model.register_forward_pre_hook(before, with_kwargs=True))
            hooks.append(language_model.register_forward_hook(after))
            with reads_of(language_model.get_output_embeddings()) as hidden:
                yield keep
        finally:
            for hook in hooks:
                hook.remove()

    def _forget_if_changed(self, model: nn.Module) -> None:
        if (state := self._state(model)) != self._weights:
            self._rows, self._weights = {}, state

    def recall(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Log-probabilities and values of all rows, each (B, R); None if one is not remembered as it would be now."""
        self._forget_if_changed(model)
        found = []
        for row in range(len(batch.input_ids)):
            query = batch.input_ids[row, batch.seam - int(batch.query_lengths[row]) : batch.seam]
            response = batch.responses[row, : int(batch.response_lengths[row])]
            found.append(self._rows.get((tuple(query.tolist()), tuple(response.tolist()))))
        if any(row is None for row in found):
            return None
        stacked = [
            torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True) for column in zip(*found, strict=True)
        ]
        return stacked[0], stacked[1]


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """A peft model as it was before its adapter; other models as they are."""
    inner = getattr(model, "pretrained_model", model)
    with inner.disable_adapter() if hasattr(inner, "disable_adapter") else nullcontext():
        yield
