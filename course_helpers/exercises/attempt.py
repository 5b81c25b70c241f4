"""Calling a learner's function: what it gives, raises, prints and changes, and whether it ends."""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field

import numpy as np

from course_helpers.exercises.limits import Kept, TimeIsUp, call_within
from course_helpers.exercises.values import NotNumbersError, as_array, is_nothing, other_kind, unchanged
from course_helpers.translation import _

SECONDS = 2.0  # for all inputs together
LONGEST_MESSAGE = 500  # characters of an exception's text


@dataclass(frozen=True)
class Outcome:
    """What one call gave.

    Attributes:
        value: the result as numbers, or None if there is none.
        trouble: why there is none, in words; empty if the function returned nothing.
        error: the kind of exception, if one was raised.
        changed: whether the function changed its arguments.
    """

    value: np.ndarray | None = None
    trouble: str = ""
    error: type[BaseException] | None = None
    changed: bool = False

    @property
    def nothing(self) -> bool:
        """Whether the function returned nothing: the stub, or an answer without ``return``."""
        return self.value is None and not self.trouble


@dataclass
class Attempt:
    """What a function gave on all inputs; `outcomes` ends early where it returned nothing or did not end.

    Attributes:
        outcomes: one an input.
        printed: the beginning of what it printed.
        too_long: whether it had to be stopped.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    printed: str = ""
    too_long: bool = False


def attempt(answer: Callable, inputs: Sequence[tuple]) -> Attempt:
    """Call a function on copies of each input, within `SECONDS`.

    An answer may be written for NumPy or for torch: if tensors make it fail at once, arrays are tried, and vice versa.

    Args:
        answer: a learner's function.
        inputs: tuples of arguments.
    """
    seen, printed = Attempt(), Kept()

    def call_all() -> None:
        seen.outcomes.extend(_each(answer, inputs))
        if seen.outcomes[0].error in (TypeError, AttributeError):
            again = list(_each(answer, [other_kind(arguments) for arguments in inputs]))
            if not again[0].trouble:
                seen.outcomes = again

    with redirect_stdout(printed):
        try:
            call_within(SECONDS, call_all)
        except TimeIsUp:
            seen.too_long = True
    seen.printed = printed.text
    return seen


def _each(answer: Callable, inputs: Sequence[tuple]) -> Iterator[Outcome]:
    for arguments in inputs:
        outcome = _call(answer, arguments)
        yield outcome
        if outcome.nothing:
            return


def _call(answer: Callable, arguments: tuple) -> Outcome:
    given = copy.deepcopy(arguments)
    try:
        result = answer(*given)
        if is_nothing(result):
            return Outcome()
        return Outcome(as_array(result), changed=not unchanged(given, arguments))
    except NotNumbersError as kind:
        return Outcome(trouble=_("It returns {kind}; expected are numbers.").format(kind=kind))
    except (KeyboardInterrupt, TimeIsUp):
        raise
    except SystemExit:
        return Outcome(trouble=_("It asks Python to exit. Use `return` to leave a function."), error=SystemExit)
    except BaseException as error:
        return Outcome(trouble=_raised(error, answer), error=type(error))


def _raised(error: BaseException, answer: Callable) -> str:
    """An exception in words, with the line of the learner's code in which it arose."""
    try:
        said = str(error)
    except Exception:  # an exception class of the learner's own
        said = ""
    text = _("It raises {error}: {message}").format(error=type(error).__name__, message=said[:LONGEST_MESSAGE] or "–")
    code = getattr(inspect.unwrap(answer), "__code__", None)
    entries = traceback.extract_tb(error.__traceback__)
    own = [entry for entry in entries if code and entry.filename == code.co_filename]
    if own:
        place = _("In line {line} of the cell: `{source}`").format(line=own[-1].lineno, source=own[-1].line)
        return f"{text}\n{place}"
    return text
