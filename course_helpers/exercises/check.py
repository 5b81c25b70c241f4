"""An exercise, and the verdict on an answer: right, or which mistake it is.

A mistake is known by its fruits: a wrong implementation whose results the answer reproduces wherever they differ from
the right ones. So the check needs no look at the learner's code, and any style of writing it will do.
"""

from __future__ import annotations

import copy
import inspect
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from course_helpers.exercises.attempt import SECONDS, Attempt, Outcome, attempt
from course_helpers.exercises.shown import Shown, paragraph
from course_helpers.exercises.values import as_array, call_text, same, value_text
from course_helpers.progress_file import note_exercise
from course_helpers.prose import no_formulas
from course_helpers.translation import N_, _, language, ngettext

DIFFICULTIES = {"easy": N_("easy"), "medium": N_("medium"), "hard": N_("hard")}
VERDICTS = {
    "right": (N_("✓ Right"), "#2e7d32"),
    "wrong": (N_("✗ Not yet"), "#d9822b"),
    "not tried": (N_("○ Not tried yet"), "#8a8a8a"),
}
_hints_given: dict[str, int] = {}  # since the kernel started, by number


class Mistake:
    """A mistake that is made again and again.

    Args:
        message: what is said about it, marked with `N_`.
        *ways: wrong implementations; usually one.
    """

    def __init__(self, message: str, *ways: Callable):
        """Keep both."""
        self.message, self.ways = message, ways


@dataclass(frozen=True, repr=False)
class Result(Shown):
    """What `Exercise.check` found.

    Attributes:
        outcome: "right", "wrong" or "not tried".
    """

    outcome: str = "not tried"


@dataclass(frozen=True, repr=False)
class Exercise:
    """An exercise of a lesson. Its texts are English, marked with `N_`, and translated where they are shown.

    Attributes:
        number: lesson and place, "1.2".
        title: what it is about.
        task: what is asked for, with arguments, result and shapes; backticks mark code.
        difficulty: "easy", "medium" or "hard".
        minutes: how long it may take.
        right: the solution, a function of the stub's name and arguments, written as a learner would.
        why: one sentence about it.
        inputs: tuples of arguments on which an answer is tried, edge cases included.
        mistakes: what is recognised, each under its own message.
        hints: each tells more than the one before.
    """

    number: str
    title: str
    task: str
    difficulty: str
    minutes: int
    right: Callable
    why: str
    inputs: tuple[tuple, ...]
    mistakes: tuple[Mistake, ...]
    hints: tuple[str, ...]

    @property
    def lesson(self) -> str:
        """The lesson's number with two digits, "01"."""
        return f"{int(self.number.split('.')[0]):02d}"

    @property
    def stub(self) -> str:
        """The cell a learner finds in the lesson."""
        name = self.right.__name__
        head = f'def {name}{inspect.signature(self.right)}:\n    """{inspect.getdoc(self.right)}"""'
        return f'{head}\n    return ...  # your answer\n\n\nexercise("{self.number}").check({name})'

    def check(self, answer: Callable) -> Result:
        """Try an answer on the exercise's inputs, and say what is right or wrong about it.

        Args:
            answer: the learner's function.

        Returns:
            A result that shows itself; whatever the answer does is reported there, and nothing is raised.

        Examples:
            >>> from course_helpers.exercises import exercise
            >>> first = exercise("1.1")
            >>> first.check(first.right).outcome
            'right'
        """
        trouble = _not_a_function(answer, self) or _other_arguments(answer, self)
        if trouble:
            return self._result("wrong", trouble)
        seen = attempt(answer, self.inputs)
        if seen.outcomes and seen.outcomes[0].nothing and not seen.printed:
            return self._not_tried()
        trouble = _what_is_wrong(self, seen)
        return self._result("wrong" if trouble else "right", trouble or _(self.why), seen.printed)

    def hint(self) -> Shown:
        """Show the next hint; after the last one, the last one again."""
        given = min(_hints_given.get(self.number, 0) + 1, len(self.hints))
        _hints_given[self.number] = given
        heading = _("Hint {given} of {all} · exercise {number}")
        heading = heading.format(given=given, all=len(self.hints), number=self.number)
        last = _('That was the last hint. `exercise("{number}").solution()` shows the solution.')
        more = last.format(number=self.number) if given == len(self.hints) else ""
        note = note_exercise(self.number, hints=given)
        return Shown(heading, tuple(text for text in (_(self.hints[given - 1]), more, note) if text))

    def solution(self) -> Shown:
        """Show a way to solve it, and why it is right."""
        heading = _("A solution · exercise {number} · {title}").format(number=self.number, title=_(self.title))
        return Shown(heading, (_(self.why),), textwrap.dedent(inspect.getsource(self.right)).rstrip())

    def heading(self) -> str:
        """Number, title, difficulty and minutes in one line."""
        minutes = ngettext("{n} minute", "{n} minutes", self.minutes).format(n=self.minutes)
        parts = (
            _("Exercise {number}").format(number=self.number),
            _(self.title),
            _(DIFFICULTIES[self.difficulty]),
            minutes,
        )
        return " · ".join(parts)

    def _repr_html_(self) -> str:
        return no_formulas(f"<p><b>{paragraph(self.heading())}</b></p><p>{paragraph(_(self.task))}</p>")

    def __repr__(self) -> str:
        """The task as text."""
        return f"{self.heading()}\n{_(self.task)}"

    def _not_tried(self) -> Result:
        """The untouched stub: nothing is noted, and the task is said again where the lesson's language is another."""
        replace = _("Replace `...` in `{name}` by your answer, with `return`, and run the cell again.")
        task = "" if language() == "en" else _(self.task)
        return self._shown("not tried", (task, replace.format(name=self.right.__name__), self._help()))

    def _result(self, outcome: str, trouble: str, printed: str = "") -> Result:
        """A try: it is noted, and shown."""
        note = note_exercise(self.number, solved=outcome == "right")
        said = _("Your function printed:") if printed else ""
        return self._shown(outcome, (trouble, self._help() if outcome == "wrong" else "", note, said), printed.rstrip())

    def _shown(self, outcome: str, paragraphs: tuple[str, ...], code: str = "") -> Result:
        verdict, colour = VERDICTS[outcome]
        title = _("exercise {number} · {title}").format(number=self.number, title=_(self.title))
        return Result(f"{_(verdict)} · {title}", tuple(text for text in paragraphs if text), code, colour, outcome)

    def _help(self) -> str:
        ways = _('In a cell of its own, `exercise("{number}").hint()` gives a hint, `.solution()` the solution.')
        return ways.format(number=self.number)


# ---------------------------------------------------------------------------------------------------- before a call


def _not_a_function(answer: Any, exercise: Exercise) -> str:
    if callable(answer):
        return ""
    text = _("`check` was given an object of type `{type}`. Give it the function itself, without brackets: `{name}`.")
    return text.format(type=type(answer).__name__, name=exercise.right.__name__)


def _other_arguments(answer: Callable, exercise: Exercise) -> str:
    """Say so if the function cannot take the arguments; empty if it can, or if nobody can tell."""
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # some built-in functions tell no signature
        return ""
    try:
        signature.bind(*exercise.inputs[0])
    except TypeError:
        text = _("Your function takes `{found}`; it is called with `{expected}`.")
        return text.format(found=signature, expected=inspect.signature(exercise.right))
    return ""


# ----------------------------------------------------------------------------------------------------- after the calls


def _what_is_wrong(exercise: Exercise, seen: Attempt) -> str:
    """The one thing to say about an answer that is not right; empty if it is."""
    if seen.too_long:
        text = _("Your function was stopped after {seconds:.0f} seconds. Look for a loop that never ends.")
        return text.format(seconds=SECONDS)
    if seen.outcomes[0].nothing:
        return _(
            "Your function prints its result, but returns nothing. Use `return`: only what is returned can be used."
        )
    expected = [result_of(exercise.right, arguments) for arguments in exercise.inputs]
    fits = [_fits(outcome, right) for outcome, right in zip(seen.outcomes, expected, strict=False)]
    if all(fits) and any(outcome.changed for outcome in seen.outcomes):
        return _("The numbers are right, but your function changes its argument. Work on a copy: `x.clone()`.")
    if all(fits):
        return ""
    return _named_mistake(exercise, seen.outcomes, expected) or _first_difference(exercise, seen.outcomes, expected)


def result_of(function: Callable, arguments: tuple) -> np.ndarray | None:
    """What a function of ours gives on a copy of its arguments; None if it raises, as a mistake may."""
    try:
        with warnings.catch_warnings(action="ignore"):  # they would be the learner's to read, and are not about theirs
            return as_array(function(*copy.deepcopy(arguments)))
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None


def _fits(outcome: Outcome, right: np.ndarray) -> bool:
    return outcome.value is not None and same(outcome.value, right)


def _named_mistake(exercise: Exercise, outcomes: list[Outcome], expected: list[np.ndarray]) -> str:
    """The message of the mistake that explains most of what is wrong; empty if none does."""
    found = []
    for mistake in exercise.mistakes:
        for way in mistake.ways:
            made = [result_of(way, arguments) for arguments in exercise.inputs]
            left = _left_unexplained(outcomes, made, expected)
            if left is not None:
                found.append((left, mistake.message))
    return _(min(found, key=lambda pair: pair[0])[1]) if found else ""


def _left_unexplained(outcomes: list[Outcome], made: list[np.ndarray | None], expected: list[np.ndarray]) -> int | None:
    """How many wrong results a mistake does not account for.

    An answer has to give what the mistake gives on every input that tells the mistake from the right answer. On the
    others it may be wrong for another reason, such as an edge case, but not more often than the mistake explains.

    Returns:
        The number; None if the answer does not make this mistake.
    """
    explained = wrong = 0
    for outcome, mistaken, right in zip(outcomes, made, expected, strict=False):
        if outcome.value is None:
            continue
        wrong += not same(outcome.value, right)
        if mistaken is not None and not same(mistaken, right):
            if not same(outcome.value, mistaken):
                return None
            explained += 1
    return wrong - explained if explained and 2 * explained >= wrong else None


def _first_difference(exercise: Exercise, outcomes: list[Outcome], expected: list[np.ndarray]) -> str:
    """The first input on which the answer is wrong, with what came and what was expected."""
    compared = zip(exercise.inputs, outcomes, expected, strict=False)
    arguments, outcome, right = next(each for each in compared if not _fits(each[1], each[2]))
    call = _("Called as `{call}`.").format(call=call_text(exercise.right.__name__, arguments))
    if outcome.nothing:
        return f"{call}\n" + _("It returns nothing here. Every way through the function needs a `return`.")
    if outcome.trouble:
        return f"{call}\n{outcome.trouble}"
    return f"{call}\n{_difference(outcome.value, right)}"


def _difference(found: np.ndarray, right: np.ndarray) -> str:
    values = {"found": value_text(found), "right": value_text(right)}
    if found.shape != right.shape:
        text = _("It returns the shape {shape}, `{found}`; expected is the shape {right_shape}, `{right}`.")
        return text.format(shape=found.shape, right_shape=right.shape, **values)
    if np.isnan(found).any():
        text = _(
            "It returns `{found}`; expected is `{right}`. NaN comes from 0/0, from 0 · ∞ or ∞ − ∞, and from the "
            "logarithm of a negative number."
        )
        return text.format(**values)
    return _("It returns `{found}`; expected is `{right}`.").format(**values)
