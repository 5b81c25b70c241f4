"""What goes into a step, looked at before anything changes: every message names the sample and what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def check_count(name: str, given: Any, batch_size: int) -> None:
    """A list of as many samples as a batch has."""
    if isinstance(given, Tensor | np.ndarray) and given.ndim == 2:
        raise ValueError(
            f"{name} is one {tuple(given.shape)} array: pass a list of tensors without padding, one a sample."
        )
    if not isinstance(given, list | tuple | Tensor | np.ndarray):
        raise ValueError(f"{name} is a {type(given).__name__}: pass a list with one entry a sample.")
    if len(given) != batch_size:
        raise ValueError(
            f"{name} has {len(given)} samples, but batch_size is {batch_size}: pass as many, or set batch_size to "
            f"{len(given)} in PPOConfig."
        )


def token_row(name: str, index: int, given: Any, vocabulary: int) -> Tensor:
    """One query or response as a tensor (length,) of token ids.

    Raises:
        ValueError: no ids, another shape, an empty row, or an id the model does not know.
    """
    where = f"{name}[{index}]"
    try:
        row = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{where} is a {type(given).__name__}: pass a tensor of token ids.") from None
    if row.ndim != 1:
        raise ValueError(
            f"{where} has shape {tuple(row.shape)}: pass one row of token ids, for instance {where}.squeeze(0)."
        )
    if len(row) == 0:
        hint = "let max_new_tokens be at least 1" if name == "responses" else "give it at least a start token"
        raise ValueError(f"{where} is empty: {hint}, or leave the sample out.")
    if row.dtype not in INTEGERS:
        raise ValueError(f"{where} holds {row.dtype}: token ids are whole numbers (torch.long).")
    row = row.long()
    if row.min() < 0 or row.max() >= vocabulary:
        raise ValueError(
            f"{where} holds the token id {int(row.max() if row.max() >= vocabulary else row.min())}; the model's "
            f"vocabulary goes from 0 to {vocabulary - 1}: does the tokenizer belong to this model?"
        )
    return row


def check_unpadded(index: int, query: Tensor, pad_token_id: int | None, eos_token_id: int | None) -> None:
    """A query without padding, which a step would take for text.

    Where padding and EOS are one token, a single one at the start is a start token, as in GPT-2.
    """
    allowed = 1 if pad_token_id == eos_token_id else 0
    padding = (query == pad_token_id).tolist() if pad_token_id is not None else [False] * len(query)
    for side, run in (("left", padding), ("right", padding[::-1])):
        count = run.index(False) if False in run else len(run)
        if count > allowed:
            raise ValueError(
                f"queries[{index}] begins or ends with {count} padding tokens on its {side}: pass queries without "
                "padding, for instance query[attention_mask.bool()]; the trainer pads by itself."
            )


def check_fits(index: int, query: Tensor, response: Tensor, context: int | None) -> None:
    """Query and response within the model's context."""
    length = len(query) + len(response)
    if context is not None and length > context:
        raise ValueError(
            f"sample {index} is too long: {len(query)} query and {len(response)} response tokens make {length}, but "
            f"the model's context holds {context}. Cut the query, or generate at most "
            f"{max(context - len(query), 0)} tokens."
        )


def score_row(given: Any, dtype: torch.dtype) -> Tensor:
    """Scores (B,), from floats, arrays or tensors of one number each.

    Raises:
        ValueError: a score that is not one finite number.
    """
    scores = []
    for index, score in enumerate(given):
        try:
            value = torch.as_tensor(score).detach().cpu()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"scores[{index}] is {score!r}: pass one number.") from None
        if value.numel() != 1:
            raise ValueError(f"scores[{index}] holds {value.numel()} numbers, of shape {tuple(value.shape)}: pass one.")
        if not math.isfinite(value.item()):
            raise ValueError(
                f"scores[{index}] is {value.item()}: one such score would make every weight NaN. Find out why the "
                "reward gives it, or leave the sample out."
            )
        scores.append(value.item())
    return torch.tensor(scores, dtype=dtype)


def mask_row(index: int, given: Any, response: Tensor) -> Tensor:
    """One response mask as zeros and ones, of the response's length, with at least one 1."""
    try:
        row = torch.as_tensor(given).detach().cpu().to(torch.get_default_dtype())
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"response_masks[{index}] is a {type(given).__name__}: pass one 0 or 1 a token.") from None
    if row.shape != response.shape:
        raise ValueError(
            f"response_masks[{index}] has shape {tuple(row.shape)}, its response {tuple(response.shape)}: pass one 0 "
            "or 1 a token."
        )
    if not bool(((row == 0) | (row == 1)).all()):
        raise ValueError(f"response_masks[{index}] holds other numbers than 0 and 1.")
    if not row.any():
        raise ValueError(
            f"response_masks[{index}] is all 0: no token of that response would count; leave the sample out."
        )
    return row


def check_finite(name: str, x: Tensor, mask: Tensor, rows: Sequence[int] | None = None) -> None:
    """Finite numbers wherever the mask is 1; otherwise the first sample with another is named.

    Raises:
        FloatingPointError: NaN or infinity.
    """
    bad = (~torch.isfinite(x) & mask.bool()).nonzero()
    if len(bad):
        row, token = bad[0].tolist()
        sample = row if rows is None else rows[row]
        raise FloatingPointError(
            f"{name} of sample {sample}, response token {token}, is {x[row, token].item()}: nothing was updated. Were "
            "the model's weights finite before, lower learning_rate or set max_grad_norm."
        )
