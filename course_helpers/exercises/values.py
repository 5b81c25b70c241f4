"""What an answer gives, as an array of numbers, and how values and calls are written for a learner."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from course_helpers.translation import _

TOLERANCE = 1e-6  # relative and absolute


class NotNumbersError(Exception):
    """A result that is no array of numbers; the message says what it is instead."""


def reals(values: Sequence | float) -> torch.Tensor:
    """Numbers as a tensor of float64, for the inputs of exercises."""
    return torch.tensor(values, dtype=torch.float64)


def is_nothing(value: Any) -> bool:
    """Whether a function has returned nothing yet: None, ``...``, or a tuple or list that holds one of them."""
    return value is None or value is ... or (isinstance(value, tuple | list) and any(is_nothing(v) for v in value))


def as_array(value: Any) -> np.ndarray:
    """A number, tensor or array, or a list or tuple of them, as an array.

    Args:
        value: what a learner's function returned.

    Returns:
        An array of booleans, whole or real numbers; a single number has shape ().

    Raises:
        NotNumbersError: it is something else, or its rows differ in length.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        array = (value.double() if value.is_floating_point() else value).numpy()
    elif isinstance(value, list | tuple):
        array = _stacked([as_array(part) for part in value])
    elif isinstance(value, bool | int | float | complex | np.ndarray | np.generic):
        array = np.asarray(value)
    else:
        raise NotNumbersError(_kind(value))
    if array.dtype.kind not in "biuf":
        raise NotNumbersError(_("complex numbers") if array.dtype.kind == "c" else _kind(value))
    return array


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    if len({part.shape for part in parts}) > 1:
        raise NotNumbersError(_("a list whose parts have different shapes"))
    return np.stack(parts) if parts else np.zeros(0)


def _kind(value: Any) -> str:
    """What a value is, in words."""
    if isinstance(value, str):
        return _("a text")
    if inspect.isgenerator(value):
        return _("a generator, which has not computed anything yet: put `list(...)` around it")
    return _("an object of type `{type}`").format(type=type(value).__name__)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have one shape and, within the tolerance, the same numbers."""
    if one.shape != other.shape:
        return False
    with np.errstate(all="ignore"):
        return bool(np.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))


def value_text(array: np.ndarray) -> str:
    """An array in one line, seven digits a number, the middle of long ones left out."""
    text = np.array2string(array, separator=", ", threshold=24, formatter={"float_kind": lambda x: f"{x:.7g}"})
    return " ".join(text.split())


def call_text(name: str, arguments: Sequence[Any]) -> str:
    """A call as a learner would type it: ``f(torch.tensor([0.5, 0.5]), 0.9)``."""
    return f"{name}({', '.join(_argument_text(argument) for argument in arguments)})"


def _argument_text(argument: Any) -> str:
    if isinstance(argument, torch.Tensor | np.ndarray):
        maker = "torch.tensor" if isinstance(argument, torch.Tensor) else "np.array"
        return re.sub(r"\binf\b", "math.inf", f"{maker}({argument.tolist()})")
    return repr(argument)


def other_kind(arguments: Sequence[Any]) -> tuple:
    """The same arguments with NumPy arrays where there were tensors, and tensors where there were arrays."""
    return tuple(_of_other_kind(argument) for argument in arguments)


def _of_other_kind(argument: Any) -> Any:
    if isinstance(argument, torch.Tensor):
        return argument.numpy().copy()
    return torch.tensor(argument) if isinstance(argument, np.ndarray) else argument


def unchanged(arguments: Sequence[Any], before: Sequence[Any]) -> bool:
    """Whether a function has left its arguments as they were."""
    try:
        return all(
            torch.equal(torch.as_tensor(one), torch.as_tensor(other))
            if isinstance(other, torch.Tensor | np.ndarray)
            else one == other
            for one, other in zip(arguments, before, strict=True)
        )
    except (TypeError, ValueError, RuntimeError):  # a list that now holds what cannot be compared
        return False
