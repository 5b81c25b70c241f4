"""Checks of arguments: the message says what was wrong and what is allowed."""

from math import isfinite
from numbers import Integral, Real


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Raise a ValueError that names the argument, its value and what is allowed, unless `ok`."""
    if not ok:
        raise ValueError(f"{name} is {value!r}; it must be {allowed}.")


def is_finite(value: object) -> bool:
    """Whether a value is a number, and neither infinite nor NaN."""
    return isinstance(value, Real) and isfinite(value)


def check_whole(name: str, value: object, at_least: int) -> None:
    """Require a whole number that is not too small; True and False are none."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    require(whole and value >= at_least, name, value, f"a whole number, at least {at_least}")


def check_beta(beta: object) -> None:
    """Require a β: what a nat of KL costs."""
    require(is_finite(beta) and beta > 0, "beta", beta, "a finite number above 0, in reward per nat")
