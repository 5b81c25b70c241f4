"""What a learner has done so far, in one small file beside the notebooks: `my_progress.json`.

It is readable, is sent nowhere, and can be deleted at any time. A file that cannot be read is set aside, never lost; a
folder that cannot be written to is said, and nothing else happens.
"""

from __future__ import annotations

import html
import json
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_helpers.translation import _

FILE = Path("my_progress.json")  # in the current folder, which is the notebook's
_lock = threading.Lock()  # a quiz is answered on another thread than the one that runs a cell


# ------------------------------------------------------------------------------------------------------------- noting


def note_exercise(number: str, solved: bool | None = None, hints: int = 0) -> str:
    """Keep a try at an exercise, or a hint given.

    Args:
        number: "1.2".
        solved: whether this try was right; None if it was no try. What was solved once stays solved.
        hints: how many hints have been given by now.

    Returns:
        What the learner should know: nothing (""), or that the file was damaged or cannot be written.
    """

    def change(store: dict) -> None:
        entry = store["exercises"].setdefault(number, {"solved": False, "tries": 0, "hints": 0})
        entry["solved"] = entry["solved"] or bool(solved)
        entry["tries"] += solved is not None
        entry["hints"] = max(entry["hints"], hints)

    return _update(change)


def note_quiz(quiz: str, question: str, right: bool) -> str:
    """Keep the answer to a question; a later answer replaces an earlier one.

    Args:
        quiz: the lesson's number, "01".
        question: the question's id.
        right: whether the answer is right.

    Returns:
        As `note_exercise`.
    """
    return _update(lambda store: store["quizzes"].setdefault(quiz, {}).update({question: bool(right)}))


# ----------------------------------------------------------------------------------------------------------- the file


def _update(change: Callable[[dict], None]) -> str:
    """Read, change and write the file; what went wrong comes back in words."""
    with _lock:
        try:
            store, said = _read()
            change(store)
            _write(store)
        except OSError as error:
            text = _("Your progress could not be kept in `{file}`: {reason}. The exercises work all the same.")
            return text.format(file=FILE.name, reason=error.strerror or error)
    return said


def _read() -> tuple[dict, str]:
    """The file's content, and a message if it had to be set aside."""
    try:
        store = json.loads(FILE.read_text(encoding="utf-8-sig"))
        if _is_whole(store):
            return {"exercises": {}, "quizzes": {}} | store, ""
    except FileNotFoundError:
        return {"exercises": {}, "quizzes": {}}, ""
    except (ValueError, RecursionError):  # no JSON, no UTF-8, or brackets without end
        pass
    aside = _free_name()
    os.replace(FILE, aside)
    text = _("`{file}` could not be read; it is kept as `{aside}`, and a new one is begun.")
    return {"exercises": {}, "quizzes": {}}, text.format(file=FILE.name, aside=aside.name)


def _is_whole(store: Any) -> bool:
    """Whether what was read has the form that is written here."""
    if not isinstance(store, dict):
        return False
    exercises, quizzes = store.get("exercises", {}), store.get("quizzes", {})
    return (
        isinstance(exercises, dict)
        and isinstance(quizzes, dict)
        and all(
            isinstance(entry, dict)
            and isinstance(entry.get("solved"), bool)
            and all(type(entry.get(name)) is int for name in ("tries", "hints"))
            for entry in exercises.values()
        )
        and all(
            isinstance(answers, dict) and all(isinstance(right, bool) for right in answers.values())
            for answers in quizzes.values()
        )
    )


def _free_name() -> Path:
    """A name for a damaged file that no earlier one has."""
    name, count = FILE.with_suffix(".damaged.json"), 1
    while name.exists():
        count += 1
        name = FILE.with_suffix(f".damaged-{count}.json")
    return name


def _write(store: dict) -> None:
    """Write beside the file and rename, so that a crash leaves either the old or the new one."""
    handle, name = tempfile.mkstemp(prefix=f".{FILE.stem}.", suffix=".part", dir=FILE.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(store, file, indent=2, sort_keys=True, ensure_ascii=False)
            file.write("\n")
        os.replace(name, FILE)
    except BaseException:
        os.unlink(name)
        raise


# ------------------------------------------------------------------------------------------------------------ showing


@dataclass(frozen=True)
class Row:
    """One lesson.

    Attributes:
        lesson: its number, "01".
        solved: exercises solved.
        exercises: exercises there are.
        right: quiz questions whose last answer was right.
        answered: quiz questions answered.
    """

    lesson: str
    solved: int
    exercises: int
    right: int
    answered: int

    def cells(self) -> tuple[str, str, str]:
        """Lesson, exercises and quiz in words."""
        share = _("{some} of {all}")
        exercises = share.format(some=self.solved, all=self.exercises) if self.exercises else "–"
        return self.lesson, exercises, share.format(some=self.right, all=self.answered) if self.answered else "–"


@dataclass(frozen=True, repr=False)
class Progress:
    """A table of what has been done, which shows itself.

    Attributes:
        rows: one a lesson.
        notes: what else is to be said: where the file is, or what is wrong with it.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        """The table as text."""
        lines = [_head(), *(row.cells() for row in self.rows)]
        widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        table = [
            "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([*table, *self.notes])

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in _head())
        body = "".join(
            f'<tr><th scope="row">{html.escape(row.lesson)}</th>'
            + "".join(f"<td>{cell}</td>" for cell in row.cells()[1:])
            + "</tr>"
            for row in self.rows
        )
        notes = "".join(f"<p>{html.escape(note).replace('`', '')}</p>" for note in self.notes)
        caption = html.escape(_("Your progress"))
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


def _head() -> tuple[str, str, str]:
    return _("lesson"), _("exercises solved"), _("quiz questions right, of those answered")


def progress() -> Progress:
    """Show what has been done so far, lesson by lesson.

    Returns:
        A table that shows itself, and says where the file is.
    """
    there = FILE.exists()
    try:
        with _lock:
            store, said = _read()
    except OSError as error:
        store = {"exercises": {}, "quizzes": {}}
        said = _("`{file}` cannot be read: {reason}.").format(file=FILE.name, reason=error.strerror or error)
    where = (
        _("Kept in `{file}`, in the folder of this notebook. It is sent nowhere; delete it to start afresh.")
        if there
        else _(
            "Nothing is kept yet. The first answer makes `{file}`, in the folder of this notebook; it is sent nowhere."
        )
    )
    return Progress(_rows(store), tuple(note for note in (said, where.format(file=FILE.name)) if note))


def _rows(store: dict) -> tuple[Row, ...]:
    from course_helpers.exercises.registry import all_exercises  # the exercises note their tries here: a circle

    numbers: dict[str, list[str]] = {}
    for each in all_exercises().values():
        numbers.setdefault(each.lesson, []).append(each.number)
    rows = []
    for lesson in sorted(numbers.keys() | store["quizzes"].keys()):
        own, answers = numbers.get(lesson, []), store["quizzes"].get(lesson, {})
        solved = sum(store["exercises"].get(number, {}).get("solved", False) for number in own)
        rows.append(Row(lesson, solved, len(own), sum(answers.values()), len(answers)))
    return tuple(rows)
