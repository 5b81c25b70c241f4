"""Checks of arguments: the message says what was wrong and what is allowed."""

from math import isfinite
from numbers import Integral, Real


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Raise a ValueError that names the argument, its value and what is allowed, unless `ok`.

    Args:
        ok: whether the value is allowed.
        name: of the argument.
        value: what was given.
        allowed: what may be given, to follow "it must be".

    Raises:
        ValueError: `ok` is false.

    Examples:
        >>> require(2 < 1, "top_p", 2, "above 0 and at most 1")
        Traceback (most recent call last):
            ...
        ValueError: top_p is 2; it must be above 0 and at most 1.
    """
    if not ok:
        raise ValueError(f"{name} is {value!r}; it must be {allowed}.")


def is_finite(value: object) -> bool:
    """Whether a value is a number, and neither infinite nor NaN.

    Examples:
        >>> is_finite(0.1), is_finite(float("nan")), is_finite("0.1")
        (True, False, False)
    """
    return isinstance(value, Real) and isfinite(value)


def check_whole(name: str, value: object, at_least: int) -> None:
    """Require a whole number that is not too small; True and False are none.

    Args:
        name: of the argument.
        value: what was given.
        at_least: the smallest number allowed.

    Raises:
        ValueError: another value.

    Examples:
        >>> check_whole("top_k", 2.5, at_least=0)
        Traceback (most recent call last):
            ...
        ValueError: top_k is 2.5; it must be a whole number, at least 0.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    require(whole and value >= at_least, name, value, f"a whole number, at least {at_least}")


def check_beta(beta: object) -> None:
    """Require a β: what a nat of KL costs.

    Examples:
        >>> check_beta(0)
        Traceback (most recent call last):
            ...
        ValueError: beta is 0; it must be a finite number above 0, in reward per nat.
    """
    require(is_finite(beta) and beta > 0, "beta", beta, "a finite number above 0, in reward per nat")
