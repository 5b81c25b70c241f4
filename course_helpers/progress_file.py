"""The small file beside the notebooks that keeps what a learner has done: `my_progress.json`.

It is readable, is sent nowhere, and can be deleted at any time. A file that cannot be read is set aside, never lost; a
folder that cannot be written to is said, and nothing else happens. `course_helpers.progress` shows what is in it.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from course_helpers.files import advice
from course_helpers.translation import _

FILE = Path("my_progress.json")  # in the current folder, which is the notebook's
WAIT_S = 10.0  # for another notebook that is writing
MOST_BYTES = 1_000_000  # the whole course leaves some kilobytes
MOST_TRIES = 10**9
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

    Examples:
        >>> note_exercise("1.1", solved=True)
        ''
        >>> read()[0]["exercises"]["1.1"]["solved"]
        True
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

    Examples:
        >>> note_quiz("01", "a-question", right=True)
        ''
        >>> read()[0]["quizzes"]["01"]
        {'a-question': True}
    """
    return _update(lambda store: store["quizzes"].setdefault(quiz, {}).update({question: bool(right)}))


# ----------------------------------------------------------------------------------------------------------- the file


def _update(change: Callable[[dict], None]) -> str:
    """Read, change and write the file; what went wrong comes back in words.

    Another notebook may do the same at this moment, so all three happen under a lock that every process sees.
    """
    with _lock:
        try:
            with FileLock(FILE.with_name(f".{FILE.name}.lock"), timeout=WAIT_S):
                store, said = _whole_store()
                change(store)
                _write(store)
        except OSError as error:  # the lock's timeout is one, too
            text = _("Your progress could not be kept in `{file}`: {reason}. The exercises work all the same.")
            return f"{text.format(file=FILE.name, reason=error.strerror or error)} {advice(error)}".rstrip()
    return said


def read() -> tuple[dict, str]:
    """The file's content, and a message if it had to be set aside.

    Returns:
        The content, empty if there is no file, and the message, "" if there is none.

    Raises:
        OSError: the file is there and cannot be read.

    Examples:
        >>> read()
        ({'exercises': {}, 'quizzes': {}}, '')
    """
    with _lock:
        return _whole_store()


def _whole_store() -> tuple[dict, str]:
    try:
        small = FILE.stat().st_size <= MOST_BYTES
        store = json.loads(FILE.read_text(encoding="utf-8-sig")) if small else None
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
            and all(type(entry.get(name)) is int and 0 <= entry[name] <= MOST_TRIES for name in ("tries", "hints"))
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
            json.dump(store, file, indent=2, sort_keys=True)
            file.write("\n")
        os.replace(name, FILE)
    except BaseException:
        os.unlink(name)
        raise
