"""From logits to a distribution.

A language model answers a context with one number a token of its vocabulary, the logits. What is sampled is a
distribution made from them in up to five steps, always in this order:

    logits → repetition penalty → min/max new tokens → temperature → top-k → top-p → softmax → π(ω_t | ω_<t, X)

Each step is a function of its own; `stages` shows them one after the other, `distribution` is where they end, and
`rollouts` draws from it token by token. Order and arithmetic are those of `transformers.generate`.

Conventions of every function here:

- logits are a NumPy array or a torch tensor of floats, (V,) or (batch, V); the answer has the same type, dtype, device
  and shape, and the input is never changed. With torch, gradients flow through;
- a logit of −∞ means "impossible" and stays −∞ through every step (max new tokens excepted, which starts afresh);
- NaN, +∞ and a row that is −∞ throughout have no softmax: ValueError, with the position.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from math import inf
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import torch

from course_helpers.checks import check_whole, is_finite, require

Array = TypeVar("Array", np.ndarray, torch.Tensor)


# ---------------------------------------------------------------------------------------------------------- settings


@dataclass(frozen=True)
class SamplingSettings:
    """Every knob between the logits and the distribution; the defaults leave the policy as it is.

    Attributes:
        repetition_penalty: above 0; 1 is off, above 1 makes tokens of the context less likely.
        min_new_tokens: tokens, 0 or more; EOS is forbidden until so many are written.
        max_new_tokens: tokens, 1 or more, or None; the last of them is forced to be EOS.
        temperature: τ, 0 or more; 1 is off, 0 is greedy.
        top_k: tokens kept; 0 (or None) is off.
        top_p: probability kept, above 0 and at most 1; 1 is off.
        eos_token_id: the token that ends a text, or None when nothing does (min and max then force nothing).

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """

    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    max_new_tokens: int | None = None
    temperature: float = 1.0
    top_k: int | None = 0
    top_p: float = 1.0
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        """Check each field."""
        _check_penalty(self.repetition_penalty)
        check_whole("min_new_tokens", self.min_new_tokens, at_least=0)
        if self.max_new_tokens is not None:
            check_whole("max_new_tokens", self.max_new_tokens, at_least=max(1, self.min_new_tokens))
        _check_temperature(self.temperature)
        _check_top_k(self.top_k)
        _check_top_p(self.top_p)
        if self.eos_token_id is not None:
            check_whole("eos_token_id", self.eos_token_id, at_least=0)


# ------------------------------------------------------------------------------------------------------------ checks


def _check_penalty(penalty: float) -> None:
    ok = is_finite(penalty) and penalty > 0
    require(ok, "repetition_penalty", penalty, "a finite number above 0 (1 turns it off)")


def _check_temperature(temperature: float) -> None:
    ok = is_finite(temperature) and temperature >= 0
    require(ok, "temperature", temperature, "a finite number, 0 (greedy) or more")


def _check_top_k(k: int | None) -> None:
    if k is not None:
        check_whole("top_k", k, at_least=0)


def _check_top_p(p: float) -> None:
    require(is_finite(p) and 0 < p <= 1, "top_p", p, "above 0 and at most 1 (1 turns it off)")


def _check_eos(logits: torch.Tensor, eos_token_id: int) -> None:
    size = logits.shape[-1]
    ok = isinstance(eos_token_id, Integral) and 0 <= eos_token_id < size
    require(ok, "eos_token_id", eos_token_id, f"a token id from 0 to {size - 1}, the ids these logits cover")


def _check_logits(logits: torch.Tensor) -> None:
    top = logits.detach().amax(-1)  # one pass tells: NaN wins every maximum, and −∞ only wins where all are −∞
    if torch.isfinite(top).all():
        return
    for name, where in (("NaN", torch.isnan(logits)), ("+inf", logits == inf)):
        if where.any():
            place = ", ".join(map(str, where.nonzero()[0].tolist()))
            raise ValueError(f"logits[{place}] is {name}; a logit must be finite or -inf. Look at what produced it.")
    place = "" if top.ndim == 0 else f"[{(top == -inf).nonzero()[0].item()}]"
    raise ValueError(f"logits{place} is -inf throughout; at least one token must remain possible. Forbid fewer.")


def _as_tensor(array: Array, name: str) -> torch.Tensor:
    if not isinstance(array, np.ndarray | torch.Tensor):
        raise TypeError(f"{name} are a {type(array).__name__}; pass a NumPy array or a torch tensor.")
    # A copy, because torch shares memory with the arrays it wraps and refuses read-only ones.
    tensor = array if isinstance(array, torch.Tensor) else torch.from_numpy(np.array(array, order="C"))
    if not tensor.is_floating_point():
        raise TypeError(f"{name} hold {tensor.dtype}; they must be floating-point: convert them first.")
    if tensor.ndim not in (1, 2) or tensor.shape[-1] == 0:
        raise ValueError(f"{name} have shape {tuple(tensor.shape)}; expected (V,) or (batch, V) with V at least 1.")
    return tensor


def _in_kind(result: torch.Tensor, original: Array) -> Array:
    return result if isinstance(original, torch.Tensor) else result.numpy()[()]  # [()]: a 0-d array becomes a scalar


def _for_numpy_too(transform: Callable) -> Callable:
    """Check the logits, then let a transform written for torch take and give NumPy arrays too."""

    @wraps(transform)
    def with_checks(logits: Array, *args: Any, **kwargs: Any) -> Array:
        tensor = _as_tensor(logits, "logits")
        _check_logits(tensor)
        return _in_kind(transform(tensor, *args, **kwargs), logits)

    return with_checks


# ------------------------------------------------------------------------------------ probabilities and their entropy


@_for_numpy_too
def softmax(logits: Array) -> Array:
    """Turn logits into probabilities: exp(z_i) / Σ_j exp(z_j) over the last axis.

    Args:
        logits: (V,) or (batch, V).

    Returns:
        Probabilities, same shape; each row sums to 1. A logit of −∞ has probability exactly 0.

    Raises:
        TypeError: not an array of floats.
        ValueError: wrong shape, NaN, +∞, or a row of −∞ only.

    Examples:
        >>> softmax(np.log([3.0, 1.0])).round(6).tolist()
        [0.75, 0.25]
        >>> softmax(np.log([3.0, 1.0]) + 100).round(6).tolist()  # a constant changes nothing
        [0.75, 0.25]
    """
    return torch.softmax(logits, dim=-1)


@_for_numpy_too
def log_softmax(logits: Array) -> Array:
    """Turn logits into log-probabilities: z_i − ln Σ_j exp(z_j) over the last axis.

    More exact than the logarithm of `softmax`, which loses every probability too small for its dtype.

    Args:
        logits: (V,) or (batch, V).

    Returns:
        Natural logarithms of the probabilities, in nats, same shape; −∞ where the logit is.

    Raises:
        TypeError, ValueError: as `softmax`.

    Examples:
        >>> log_softmax(np.array([0.0, -1000.0])).tolist()  # the logarithm of softmax would be −∞ here
        [0.0, -1000.0]
    """
    return torch.log_softmax(logits, dim=-1)


def entropy(probabilities: Array) -> Array | float:
    """Measure the uncertainty left in a distribution: H = −Σ_i p_i ln p_i, in nats, with 0 ln 0 = 0.

    0 when one token is certain, ln V when all V are equally likely; exp(H) reads as "so many tokens to choose from".

    Args:
        probabilities: (V,) or (batch, V), each row summing to 1 (within 0.001).

    Returns:
        A scalar for (V,), an array (batch,) for (batch, V).

    Raises:
        TypeError: not an array of floats.
        ValueError: a probability below 0 or NaN, or a row that does not sum to 1.

    Examples:
        >>> round(float(np.exp(entropy(np.full(8, 1 / 8)))), 6)  # eight tokens to choose from
        8.0
        >>> float(entropy(np.array([1.0, 0.0])))  # nothing to choose
        0.0

    Source: Shannon 1948, "A Mathematical Theory of Communication", section 6.
    """
    p = _as_tensor(probabilities, "probabilities")
    if not (p >= 0).all():
        raise ValueError("some probability is negative or NaN; entropy takes probabilities, so apply softmax first.")
    total = p.sum(-1)
    if ((total - 1).abs() > 1e-3).any():
        raise ValueError(f"probabilities sum to {total.tolist()}; each row must sum to 1: apply softmax first.")
    return _in_kind(torch.special.entr(p).sum(-1), probabilities)


# ------------------------------------------------------------------------------------------------- the five transforms


@_for_numpy_too
def penalize_repetition(logits: Array, previous_ids: Sequence[int], penalty: float) -> Array:
    """Make tokens that already occurred less likely: z / penalty where z ≥ 0, z · penalty where z < 0.

    A token is penalised once, however often it occurred. A penalty of 1 is off; below 1 it invites repetition. The
    result depends on where the logits' zero lies, which softmax does not: here logits are more than log-odds.

    Args:
        logits: (V,) or (batch, V).
        previous_ids: ids of the context, prompt included: (length,) shared by all rows, or (batch, length).
        penalty: above 0.

    Returns:
        Logits, same shape.

    Raises:
        TypeError: ids that are not whole numbers.
        ValueError: a penalty not above 0, an id outside the vocabulary, one row of ids too few or too many.

    Examples:
        >>> penalize_repetition(np.array([2.0, -2.0, 1.0]), previous_ids=[0, 1, 1], penalty=2.0).tolist()
        [1.0, -4.0, 1.0]

    Source: Keskar et al. 2019, "CTRL", section 4.1, which divides always; multiplying where z < 0 is the correction
    that libraries use, as dividing a negative logit would raise it.
    """
    _check_penalty(penalty)
    ids = torch.as_tensor(previous_ids, device=logits.device)
    if ids.numel() == 0:
        return logits
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise TypeError(f"previous_ids hold {ids.dtype}; they must be whole numbers, the ids of tokens.")
    if ids.ndim != 1 and ids.shape[:-1] != logits.shape[:-1]:
        raise ValueError(f"previous_ids have shape {tuple(ids.shape)}; pass (length,), or one row a row of logits.")
    outside = ids[(ids < 0) | (ids >= logits.shape[-1])]
    if outside.numel():
        raise ValueError(f"previous_ids hold {outside[0].item()}; ids run from 0 to {logits.shape[-1] - 1} here.")
    ids = ids.long().expand(*logits.shape[:-1], ids.shape[-1])
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids, True)
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


@_for_numpy_too
def require_min_new_tokens(logits: Array, generated: int, minimum: int, eos_token_id: int | None) -> Array:
    """Forbid EOS while fewer than `minimum` tokens have been generated: its logit becomes −∞.

    The shortest text then has `minimum` tokens and EOS after them.

    Args:
        logits: (V,) or (batch, V).
        generated: new tokens so far, the prompt not counted.
        minimum: tokens; 0 is off.
        eos_token_id: the token to forbid; None is off.

    Returns:
        Logits, same shape.

    Raises:
        ValueError: a negative count, an id outside the vocabulary, or no possible token left.

    Examples:
        >>> require_min_new_tokens(np.array([1.0, 2.0]), generated=0, minimum=1, eos_token_id=1).tolist()
        [1.0, -inf]
    """
    check_whole("generated", generated, at_least=0)
    check_whole("min_new_tokens", minimum, at_least=0)
    if eos_token_id is None or generated >= minimum:
        return logits
    _check_eos(logits, eos_token_id)
    is_eos = torch.arange(logits.shape[-1], device=logits.device) == eos_token_id
    kept = logits.masked_fill(is_eos, -inf)
    if (kept == -inf).all(-1).any():
        raise ValueError(f"EOS (id {eos_token_id}) was the only possible token: lower min_new_tokens (now {minimum}).")
    return kept


@_for_numpy_too
def force_end_at_max_new_tokens(logits: Array, generated: int, maximum: int | None, eos_token_id: int | None) -> Array:
    """Make EOS certain on the last step allowed: its logit becomes 0 (ln 1), every other −∞.

    Wins over `require_min_new_tokens`, which comes before. `transformers` calls it `forced_eos_token_id`; its plain
    `max_new_tokens` only stops, without an EOS. Should `generated` exceed `maximum`, EOS stays forced.

    Args:
        logits: (V,) or (batch, V).
        generated: new tokens so far, the prompt not counted.
        maximum: tokens, EOS included; None is off.
        eos_token_id: the token to force; None is off.

    Returns:
        Logits, same shape.

    Raises:
        ValueError: a negative count, a maximum below 1, an id outside the vocabulary.

    Examples:
        >>> z = np.array([5.0, 1.0])
        >>> force_end_at_max_new_tokens(z, generated=2, maximum=4, eos_token_id=1).tolist()
        [5.0, 1.0]
        >>> force_end_at_max_new_tokens(z, generated=3, maximum=4, eos_token_id=1).tolist()
        [-inf, 0.0]
    """
    check_whole("generated", generated, at_least=0)
    if maximum is not None:
        check_whole("max_new_tokens", maximum, at_least=1)
    if maximum is None or eos_token_id is None or generated < maximum - 1:
        return logits
    _check_eos(logits, eos_token_id)
    return _certain(logits, torch.full_like(logits[..., :1], eos_token_id, dtype=torch.long))


def _certain(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Give all mass to one token a row; ids has shape (..., 1)."""
    return torch.full_like(logits, -inf).scatter(-1, ids, 0.0)


@_for_numpy_too
def apply_temperature(logits: Array, temperature: float) -> Array:
    """Divide the logits by the temperature τ: below 1 sharpens the distribution, above 1 flattens it.

    As τ tends to 0 the mass gathers on the largest logit, in equal shares where several tie. At τ = 0 exactly this is
    greedy search, which must choose: the lowest id among those tied gets logit 0, all others −∞. (`transformers`
    refuses 0 and asks for `do_sample=False`, which chooses the same token.) A τ below the smallest normal number of
    the dtype (1.2e-38 in float32) counts as 0; where z / τ would overflow, the row's maximum is subtracted first,
    which softmax does not see.

    Args:
        logits: (V,) or (batch, V).
        temperature: τ, 0 or more, without unit.

    Returns:
        Logits, same shape.

    Raises:
        ValueError: a temperature below 0 or not finite.

    Examples:
        >>> z = np.log([3.0, 1.0])
        >>> softmax(apply_temperature(z, 1.0)).round(6).tolist()  # nothing changes
        [0.75, 0.25]
        >>> softmax(apply_temperature(z, 0.5)).round(6).tolist()  # odds of 3 to 1 become 9 to 1
        [0.9, 0.1]
        >>> softmax(apply_temperature(z, 0.0)).tolist()  # greedy
        [1.0, 0.0]

    Source: Ackley, Hinton and Sejnowski 1985, "A Learning Algorithm for Boltzmann Machines", for τ in a softmax.
    """
    _check_temperature(temperature)
    top = logits.amax(-1, keepdim=True)
    if temperature < torch.finfo(logits.dtype).tiny:
        return _certain(logits, (logits == top).int().argmax(-1, keepdim=True))
    if torch.isinf(top / temperature).any():
        logits = logits - top
    return logits / temperature


@_for_numpy_too
def keep_top_k(logits: Array, k: int | None) -> Array:
    """Keep the k largest logits; the others become −∞.

    Tokens tied with the k-th are all kept, so more than k may remain. k ≥ V keeps all.

    Args:
        logits: (V,) or (batch, V).
        k: tokens to keep; 0 or None is off.

    Returns:
        Logits, same shape.

    Raises:
        ValueError: k below 0 or not whole.

    Examples:
        >>> keep_top_k(np.array([1.0, 3.0, 2.0]), 2).tolist()
        [-inf, 3.0, 2.0]

    Source: Fan, Lewis and Dauphin 2018, "Hierarchical Neural Story Generation".
    """
    _check_top_k(k)
    if not k or k >= logits.shape[-1]:
        return logits
    kth = torch.topk(logits.detach(), int(k)).values[..., -1:]
    return logits.masked_fill(logits < kth, -inf)


@_for_numpy_too
def keep_top_p(logits: Array, p: float) -> Array:
    """Keep the smallest set of likeliest tokens whose probabilities add up to p; the others become −∞.

    Told from the other end: a token goes when its probability plus that of all less likely ones is at most 1 − p. One
    token always stays. Where tokens tie at the border and only some must go, those go that torch's sort puts first,
    as in `transformers`; that sort promises no order among equals, so no rule by id holds.

    Args:
        logits: (V,) or (batch, V).
        p: probability to keep, above 0 and at most 1; 1 is off.

    Returns:
        Logits, same shape.

    Raises:
        ValueError: p not above 0, or above 1. (`transformers` takes 0, and keeps one token.)

    Examples:
        >>> softmax(keep_top_p(np.log([0.5, 0.3, 0.2]), 0.7)).round(6).tolist()  # 0.5 + 0.3 is enough
        [0.625, 0.375, 0.0]

    Source: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1.
    """
    _check_top_p(p)
    if p == 1:
        return logits
    ascending = _sorted_values(logits.detach())
    mass = ascending.softmax(-1).cumsum(-1)
    count = (mass[..., :-1] <= 1 - p).sum(-1, keepdim=True)  # how many go; the last, likeliest, is never counted
    goes = logits < ascending.gather(-1, count)
    if (goes.sum(-1, keepdim=True) < count).any():  # a tie at the border: only the sorted order tells which go
        order = logits.detach().sort(-1).indices
        goes = torch.zeros_like(goes).scatter(-1, order, torch.arange(goes.shape[-1], device=goes.device) < count)
    return logits.masked_fill(goes, -inf)


def _sorted_values(values: torch.Tensor) -> torch.Tensor:
    """Sort ascending along the last axis; NumPy is some four times faster than torch, which sorts indices along."""
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.sort(values.numpy()))
    return values.sort(-1).values


# ------------------------------------------------------------------------------------------------------- all together


def stages(
    logits: Array, settings: SamplingSettings, previous_ids: Sequence[int] = (), generated: int = 0
) -> list[tuple[str, Array]]:
    """List the logits after each transform, in the order `transformers` applies them.

    Args:
        logits: (V,) or (batch, V), as the model gave them.
        settings: the knobs.
        previous_ids: ids of the context, prompt included, for the repetition penalty: (length,) or (batch, length).
        generated: new tokens so far, for min and max new tokens.

    Returns:
        Six pairs of a name and logits of the same shape: "logits", "repetition penalty", "min/max new tokens",
        "temperature", "top-k", "top-p". A transform that is off repeats what came before.

    Raises:
        TypeError, ValueError: as the transforms.

    Examples:
        >>> for name, z in stages(np.array([4.0, 2.0, 0.0]), SamplingSettings(temperature=2.0, top_k=2)):
        ...     print(name, z.tolist())
        logits [4.0, 2.0, 0.0]
        repetition penalty [4.0, 2.0, 0.0]
        min/max new tokens [4.0, 2.0, 0.0]
        temperature [2.0, 1.0, 0.0]
        top-k [2.0, 1.0, -inf]
        top-p [2.0, 1.0, -inf]
    """
    z = _as_tensor(logits, "logits")
    steps = [("logits", z)]
    z = penalize_repetition(z, previous_ids, settings.repetition_penalty)
    steps.append(("repetition penalty", z))
    z = require_min_new_tokens(z, generated, settings.min_new_tokens, settings.eos_token_id)
    z = force_end_at_max_new_tokens(z, generated, settings.max_new_tokens, settings.eos_token_id)
    steps.append(("min/max new tokens", z))
    z = apply_temperature(z, settings.temperature)
    steps.append(("temperature", z))
    z = keep_top_k(z, settings.top_k)
    steps.append(("top-k", z))
    z = keep_top_p(z, settings.top_p)
    steps.append(("top-p", z))
    return [(name, _in_kind(after, logits)) for name, after in steps]


def distribution(
    logits: Array, settings: SamplingSettings, previous_ids: Sequence[int] = (), generated: int = 0
) -> Array:
    """Give the distribution the next token is drawn from: the softmax of the last of `stages`.

    Args:
        logits, settings, previous_ids, generated: as for `stages`.

    Returns:
        Probabilities, same shape as the logits; each row sums to 1.

    Raises:
        TypeError, ValueError: as the transforms.

    Examples:
        >>> z = np.log([0.6, 0.3, 0.1])
        >>> distribution(z, SamplingSettings()).round(6).tolist()  # the policy as it is
        [0.6, 0.3, 0.1]
        >>> distribution(z, SamplingSettings(top_k=2)).round(6).tolist()
        [0.666667, 0.333333, 0.0]
    """
    _, last = stages(logits, settings, previous_ids, generated)[-1]
    return softmax(last)
