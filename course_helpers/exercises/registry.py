"""Where exercises are found: the tuple ``EXERCISES`` of every module ``lesson_NN`` of this package."""

from __future__ import annotations

import importlib
import pkgutil
from functools import lru_cache

import course_helpers.exercises
from course_helpers.exercises.check import Exercise
from course_helpers.translation import _


@lru_cache
def all_exercises() -> dict[str, Exercise]:
    """Every exercise of the course by its number, in the order of the lessons.

    Examples:
        >>> list(all_exercises())[:2]
        ['1.1', '1.2']
    """
    package = course_helpers.exercises
    modules = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    lessons = [importlib.import_module(f"{package.__name__}.{name}") for name in modules if name.startswith("lesson_")]
    return {each.number: each for lesson in lessons for each in lesson.EXERCISES}


def exercise(number: str) -> Exercise:
    """Find an exercise.

    Args:
        number: lesson and place in it, such as "1.2".

    Returns:
        The exercise: ``check(answer)`` checks, ``hint()`` gives the next hint, ``solution()`` the solution.

    Raises:
        ValueError: there is no such exercise; the message names those that exist.

    Examples:
        >>> exercise("1.1").lesson
        '01'
    """
    known = all_exercises()
    if str(number) not in known:
        message = _("There is no exercise {number}. There are {known}.")
        raise ValueError(message.format(number=repr(number), known=", ".join(known)))
    return known[str(number)]
