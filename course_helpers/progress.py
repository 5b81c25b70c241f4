"""What a learner has done so far, lesson by lesson; the file that keeps it is `progress_file`'s."""

from __future__ import annotations

from dataclasses import dataclass

from course_helpers import progress_file
from course_helpers.exercises.registry import all_exercises
from course_helpers.progress_file import note_exercise, note_quiz
from course_helpers.prose import escape, no_formulas
from course_helpers.translation import _

__all__ = ["Progress", "Row", "note_exercise", "note_quiz", "progress"]


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
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in _head())
        body = "".join(
            f'<tr><th scope="row">{escape(row.lesson)}</th>'
            + "".join(f"<td>{cell}</td>" for cell in row.cells()[1:])
            + "</tr>"
            for row in self.rows
        )
        notes = "".join(f"<p>{escape(note).replace('`', '')}</p>" for note in self.notes)
        caption = escape(_("Your progress"))
        table = f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return no_formulas(table + notes)


def _head() -> tuple[str, str, str]:
    return _("lesson"), _("exercises solved"), _("quiz questions right, of those answered")


def progress() -> Progress:
    """Show what has been done so far, lesson by lesson.

    Returns:
        A table that shows itself, and says where the file is.

    Examples:
        >>> progress().rows[0]
        Row(lesson='01', solved=0, exercises=8, right=0, answered=0)
    """
    file = progress_file.FILE
    there = file.exists()
    try:
        store, said = progress_file.read()
    except OSError as error:
        store = {"exercises": {}, "quizzes": {}}
        said = _("`{file}` cannot be read: {reason}.").format(file=file.name, reason=error.strerror or error)
    where = (
        _("Kept in `{file}`, in the folder of this notebook. It is sent nowhere; delete it to start afresh.")
        if there
        else _(
            "Nothing is kept yet. The first answer makes `{file}`, in the folder of this notebook; it is sent nowhere."
        )
    )
    return Progress(_rows(store), tuple(note for note in (said, where.format(file=file.name)) if note))


def _rows(store: dict) -> tuple[Row, ...]:
    numbers: dict[str, list[str]] = {}
    for each in all_exercises().values():
        numbers.setdefault(each.lesson, []).append(each.number)
    rows = []
    for lesson in sorted(numbers.keys() | store["quizzes"].keys()):
        own, answers = numbers.get(lesson, []), store["quizzes"].get(lesson, {})
        solved = sum(store["exercises"].get(number, {}).get("solved", False) for number in own)
        rows.append(Row(lesson, solved, len(own), sum(answers.values()), len(answers)))
    return tuple(rows)
