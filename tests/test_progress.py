"""The progress file: readable, never lost, never in the way."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from course_helpers import progress_file as module
from course_helpers import translation
from course_helpers.exercises.registry import all_exercises
from course_helpers.progress import note_exercise, note_quiz, progress

FILE, DAMAGED = Path("my_progress.json"), Path("my_progress.damaged.json")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(translation, "_chosen", "en")


def stored():
    return json.loads(FILE.read_text(encoding="utf-8"))


def test_keeps_tries_hints_and_quiz_answers():
    assert note_exercise("1.2", solved=False) == ""
    assert note_exercise("1.2", hints=1) == ""
    assert note_exercise("1.2", solved=True) == ""
    assert note_quiz("01", "entropy-of-certainty", True) == ""
    assert note_quiz("01", "kl-sign", True) == ""
    assert note_quiz("01", "kl-sign", False) == ""
    assert stored() == {
        "exercises": {"1.2": {"solved": True, "tries": 2, "hints": 1}},
        "quizzes": {"01": {"entropy-of-certainty": True, "kl-sign": False}},
    }
    assert sorted(os.listdir()) == [".my_progress.json.lock", "my_progress.json"]  # no piece of a half-written file


def test_solved_stays_solved_and_hints_never_fall():
    note_exercise("1.1", solved=True, hints=2)
    note_exercise("1.1", solved=False, hints=1)
    assert stored()["exercises"]["1.1"] == {"solved": True, "tries": 2, "hints": 2}


def test_what_it_does_not_know_is_kept():
    FILE.write_text('{"name": "Ana", "exercises": {}, "quizzes": {}}')
    note_exercise("1.1", solved=True)
    assert stored()["name"] == "Ana"


def test_a_file_saved_by_an_editor_with_a_byte_order_mark_is_read():
    FILE.write_bytes(b'\xef\xbb\xbf{"exercises": {"1.1": {"solved": true, "tries": 1, "hints": 0}}}')
    assert note_exercise("1.1", solved=False) == ""
    assert stored()["exercises"]["1.1"] == {"solved": True, "tries": 2, "hints": 0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 10_000,
        b'{"exercises": []}',
        b'{"exercises": {"1.1": true}}',
        b'{"exercises": {"1.1": {"solved": 1, "tries": 1, "hints": 0}}}',
        b'{"exercises": {"1.1": {"solved": true, "tries": "1", "hints": 0}}}',
        b'{"quizzes": {"01": {"a": "yes"}}}',
        b'{"quizzes": {"01": true}}',
    ],
    ids=lambda content: content[:30],
)
def test_a_damaged_file_is_set_aside(content):
    FILE.write_bytes(content)
    said = note_exercise("1.1", solved=True)
    assert "`my_progress.json` could not be read; it is kept as `my_progress.damaged.json`" in said
    assert DAMAGED.read_bytes() == content
    assert stored()["exercises"] == {"1.1": {"solved": True, "tries": 1, "hints": 0}}
    assert note_exercise("1.1", solved=True) == ""


def test_no_damaged_file_is_overwritten():
    for content in ("first", "second", "third"):
        FILE.write_text(content)
        note_exercise("1.1", solved=True)
    kept = sorted(path.read_text() for path in Path().glob("*.damaged*.json"))
    assert kept == ["first", "second", "third"]


def test_an_unwritable_folder_is_said(monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.tempfile, "mkstemp", refuse)
    said = note_exercise("1.1", solved=True)
    assert "could not be kept in `my_progress.json`: Permission denied" in said
    assert not FILE.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_write_permission(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert "could not be kept" in note_exercise("1.1", solved=True)
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_a_folder_in_place_of_the_file_is_said():
    FILE.mkdir()
    assert "could not be kept" in note_exercise("1.1", solved=True)
    assert "cannot be read" in repr(progress())


def test_a_crash_while_writing_leaves_the_old_file(monkeypatch):
    note_exercise("1.1", solved=True)

    def crash(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.json, "dump", crash)
    with pytest.raises(KeyboardInterrupt):
        note_exercise("1.2", solved=True)
    assert list(stored()["exercises"]) == ["1.1"]
    assert sorted(os.listdir()) == [".my_progress.json.lock", "my_progress.json"]


def test_answers_from_several_threads_are_all_kept():
    threads = [threading.Thread(target=note_quiz, args=("01", f"q{i}", i % 2 == 0)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored()["quizzes"]["01"]) == 20


def test_the_table_counts():
    note_exercise("1.2", solved=True)
    note_exercise("1.3", solved=False)
    note_exercise("3.1", solved=True)
    note_exercise("99.1", solved=True)  # an exercise that is no more
    note_quiz("01", "a", True)
    note_quiz("01", "b", False)
    note_quiz("98", "c", True)  # a lesson without exercises
    rows = {row.lesson: row for row in progress().rows}
    of_all = {lesson: sum(each.lesson == lesson for each in all_exercises().values()) for lesson in ("01", "02", "03")}
    assert rows["01"].cells() == ("01", f"1 of {of_all['01']}", "1 of 2")
    assert rows["02"].cells() == ("02", f"0 of {of_all['02']}", "–")
    assert rows["03"].cells() == ("03", f"1 of {of_all['03']}", "–")
    assert rows["98"].cells() == ("98", "–", "1 of 1")


def test_the_table_shows_itself_and_says_where_the_file_is():
    assert "Nothing is kept yet" in repr(progress())
    assert not FILE.exists()
    note_exercise("1.2", solved=True)
    text, page = repr(progress()), progress()._repr_html_()
    assert "my_progress.json" in text
    assert "sent nowhere" in text
    assert "delete it" in text
    assert str(Path.cwd()) not in text + page
    assert '<th scope="row">01</th><td>1 of ' in page
    assert "<caption>" in page


def test_a_damaged_file_is_said_in_the_table_too():
    FILE.write_text("{")
    assert "my_progress.damaged.json" in repr(progress())
    assert DAMAGED.exists()


def test_a_quiz_name_is_escaped():
    note_quiz("<b>", "a", True)
    assert "<b>" not in progress()._repr_html_()
