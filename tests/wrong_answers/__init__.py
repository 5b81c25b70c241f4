"""Wrong answers as learners type them, in any style, each with words of the message that has to name its mistake."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class WrongAnswer:
    number: str
    says: str
    function: Callable

    def __str__(self):
        return f"{self.number} {self.function.__name__}"


def collector():
    """A list, and the decorator that fills it."""
    answers = []

    def wrong(number, says):
        def keep(function):
            answers.append(WrongAnswer(number, says, function))
            return function

        return keep

    return answers, wrong
