"""Files of a learner that somebody, or something, has changed: said, set aside, never lost; nothing outside is read."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from course_helpers import choices, progress_file
from course_helpers.choices import Choice, Question, read_choices
from course_helpers.preferences import validate_pairs
from course_helpers.progress import note_exercise, note_quiz
from course_helpers.runs import settings
from course_helpers.runs.run import default_folder
from course_helpers.taxonomy import read_knowledge, read_skill
from course_helpers.teacher.examples import Example, Generated, read_examples
from course_helpers.translation import language
from course_helpers.widgets import PreferenceLabeller
from tests.test_taxonomy import KNOWLEDGE, SKILL_FILE, TAXONOMY

pytestmark = pytest.mark.timeout(60)
QUESTIONS = [Question(f"prompt {n}", f" one {n}", f" two {n}") for n in range(3)]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ------------------------------------------------------------------------------------------------------------- progress

ENTRY = '{"solved": true, "tries": %s, "hints": 0}'
ODD_PROGRESS = {
    "NaN": '{"exercises": {"1.1": %s}}' % (ENTRY % "NaN"),
    "1e999": '{"exercises": {"1.1": %s}}' % (ENTRY % "1e999"),
    "a count without end": '{"exercises": {"1.1": %s}}' % (ENTRY % ("9" * 4000)),
    "a negative count": '{"exercises": {"1.1": %s}}' % (ENTRY % "-1"),
    "deep nesting": '{"exercises": ' + '{"a":' * 50_000 + "1" + "}" * 50_001,
    "UTF-16": '{"exercises": {}}'.encode("utf-16"),
    "Latin-1": '{"exercises": {}, "n": "é"}'.encode("latin-1"),
    "a null byte": '{"exercises": {}}\x00',
    "two documents": '{"exercises": {}}{"exercises": {}}',
    "text": "<script>alert(1)</script>",
}


@pytest.mark.parametrize("case", ODD_PROGRESS)
def test_odd_progress_is_set_aside_and_kept(case):
    content = ODD_PROGRESS[case]
    content = content if isinstance(content, bytes) else content.encode()
    progress_file.FILE.write_bytes(content)
    assert "is kept as `my_progress.damaged.json`, and a new one is begun" in note_exercise("1.1", solved=True)
    assert Path("my_progress.damaged.json").read_bytes() == content
    assert json.loads(progress_file.FILE.read_text())["exercises"]["1.1"]["tries"] == 1


def test_progress_without_end_is_set_aside_unread():
    with progress_file.FILE.open("wb") as file:
        file.truncate(50_000_000_000)  # takes no room on the disk
    began = time.process_time()
    assert "is kept as `my_progress.damaged.json`" in note_exercise("1.1", solved=True)
    assert time.process_time() - began < 1
    assert Path("my_progress.damaged.json").stat().st_size == 50_000_000_000
    assert json.loads(progress_file.FILE.read_text())["exercises"]["1.1"]["solved"]


@pytest.mark.parametrize(
    "content",
    [
        '{"exercises": {"1.1": {"solved": true, "tries": 1, "hints": 0}}}',
        '\ufeff{\r\n"exercises": {"1.1": {"solved": true, "tries": 1, "hints": 0}}\r\n}\r\n',
        '{"exercises": {}, "exercises": {"1.1": {"solved": true, "tries": 1, "hints": 0}}}',
        '{"exercises": {"1.1": {"solved": true, "tries": 1, "hints": 0}}, "note": "half \\ud800 letter", "x": NaN}',
    ],
    ids=["plain", "BOM and CRLF", "a name twice", "half a letter"],
)
def test_progress_that_can_be_read_goes_on(content):
    progress_file.FILE.write_bytes(content.encode())
    assert note_quiz("01", "a", True) == ""
    assert note_exercise("1.1", solved=False) == ""
    assert json.loads(progress_file.FILE.read_text())["exercises"]["1.1"] == {"solved": True, "tries": 2, "hints": 0}
    assert not Path("my_progress.damaged.json").exists()


# ------------------------------------------------------------------------------------------------------------- choices

FILE = Path("my_choices.jsonl")
GOOD = Choice.of(QUESTIONS[0], "A").line()
ODD_LINES = {
    "NaN": b'{"id": NaN, "prompt": "p", "a": "x", "b": "y", "answer": "A"}\n',
    "1e999": b'{"id": 1e999, "prompt": 1e999, "a": 1, "b": 2, "answer": 3}\n',
    "deep nesting": b"[" * 50_000 + b"]" * 50_000 + b"\n",
    "UTF-16": GOOD.decode().encode("utf-16-le") + b"\n",
    "Latin-1": GOOD.replace(b"one", b"\xe9"),
    "null bytes": b"\x00" * 1000 + b"\n",
    "other types": b'{"id": [], "prompt": {}, "a": null, "b": true, "answer": 0}\n',
    "half a letter": b'{"id": "x", "prompt": "\\ud800", "a": "x", "b": "y", "answer": "A"}\n',
    "another answer": GOOD.replace(b'"A"', b'"<b>"'),
    "a long line": b"x" * 3_000_000 + b"\n",
}


@pytest.mark.parametrize("case", ODD_LINES)
def test_odd_lines_of_choices_are_set_aside_and_the_others_stay(case):
    FILE.write_bytes(ODD_LINES[case] + GOOD)
    panel = PreferenceLabeller(QUESTIONS)
    assert [choice.answer for choice in panel.choices] == ["A"]
    assert "no choice (line 1: " in panel.note.value
    assert ODD_LINES[case].strip(b"\n") in Path("my_choices.damaged.jsonl").read_bytes()
    assert FILE.read_bytes() == GOOD


def test_choices_with_windows_line_ends_and_a_byte_order_mark_are_read():
    second = Choice.of(QUESTIONS[1], "B").line()
    FILE.write_bytes(b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n") + second.replace(b"\n", b"\r\n"))
    assert [choice.answer for choice in read_choices(FILE)] == ["A", "B"]


def test_choices_without_end_are_left_alone_and_said():
    with FILE.open("wb") as file:
        file.truncate(50_000_000_000)
    began = time.process_time()
    panel = PreferenceLabeller(QUESTIONS)
    words = "my_choices.jsonl cannot be read: it is larger than 10 MB, more than choices can be. Give another file"
    assert words in panel.message.value
    panel.buttons["A"].click()
    assert [choice.answer for choice in panel.choices] == ["A"]
    assert "They stay in memory" in panel.message.value
    assert time.process_time() - began < 5
    assert FILE.stat().st_size == 50_000_000_000
    with pytest.raises(OSError, match="larger than 10 MB"):
        read_choices(FILE)
    assert language() == "en"


def test_the_limit_leaves_room_for_every_question_there_can_be():
    longest = Choice("p" * choices.LONGEST_TEXT, " a", " b", "A").line()
    assert 300 * len(longest) < choices.MOST_BYTES


@pytest.mark.parametrize(
    "content", ["NaN", '{"a": 1e999}', "[" * 50_000, '{"chosen": NaN, "rejected": [], "prompt": {}}']
)
def test_odd_pairs_are_counted_and_left_out(content, tmp_path):
    (tmp_path / "pairs.jsonl").write_text(content + "\n")
    report = validate_pairs(tmp_path / "pairs.jsonl")
    assert (report.total, len(report.pairs), len(report.problems)) == (1, 0, 1)


# ------------------------------------------------------------------------------------------ names that become paths


@pytest.mark.parametrize("pattern", ["../*", "/etc/*", "a/../../*", "**/../../secret.md", "../../secret.md"])
def test_a_pattern_of_a_taxonomy_reads_nothing_outside_its_folder(pattern, tmp_path):
    (tmp_path / "secret.md").write_text("secret")
    path = tmp_path / "knowledge" / "birds" / "owls" / "qna.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(KNOWLEDGE.replace("- owls.md", f"- {json.dumps(pattern)}"))
    with pytest.raises(ValueError, match="leads out of the folder"):
        read_knowledge(path)


def test_a_linked_folder_leads_nowhere_either(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.md").write_text("secret")
    path = tmp_path / "knowledge" / "birds" / "owls" / "qna.yaml"
    path.parent.mkdir(parents=True)
    (path.parent / "linked").symlink_to(tmp_path / "elsewhere")
    path.write_text(KNOWLEDGE.replace("- owls.md", "- linked/*.md"))
    with pytest.raises(ValueError, match="is a link that leads out of the folder"):
        read_knowledge(path)


def test_half_a_letter_in_a_taxonomy_is_spelled_out(tmp_path):
    """YAML may write it as an escape; the examples that are made of it could not be kept, or sent to a teacher."""
    path = shutil.copytree(TAXONOMY, tmp_path / "t").joinpath(*SKILL_FILE.relative_to(TAXONOMY).parts)
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"question: .*", lambda _found: r'question: "half \ud800 letter?"', text, count=1))
    seed = read_skill(path).seeds[0]
    assert seed.question == r"half \ud800 letter?"
    assert seed.answer
    kept = Generated((Example(seed.context, seed.question, seed.answer, "x"),), ()).as_jsonl(tmp_path / "x.jsonl")
    assert read_examples(kept)[0].question == seed.question


@pytest.mark.parametrize("policy", ["../../../etc", "/etc", "a/../../b", "x\x00y", "..\\..\\x"])
def test_a_runs_own_folder_stays_below_runs(policy):
    """Its name is made of the method, the setting that is turned, and the seed, none of which can hold a path."""
    made = settings.make("dpo", None, {"policy": policy})
    place = default_folder("dpo", made)
    assert place.parent == Path("runs")
    assert os.path.normpath(place) == str(place)
    assert "\x00" not in str(place)


def test_no_tool_unpacks_archives():
    """Runs, journeys and exports are folders and safetensors; nothing of the course is a tar or a zip."""
    root = Path(progress_file.__file__).parents[1]
    for folder in ("course_helpers", "tools", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for name in ("zipfile", "tarfile", "unpack_archive", "import lzma", "import bz2"):
                assert name not in text, f"{path}: {name}"


def test_a_compressed_file_of_pairs_that_grows_without_end_is_read_row_by_row(tmp_path):
    """Thirty million spaces are empty lines, and no rows."""
    path = tmp_path / "pairs.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _part in range(30):
            file.write(b" " * 1_000_000 + b"\n")
        file.write(b'{"prompt": "p", "chosen": " a", "rejected": " b"}\n')
    assert path.stat().st_size < 1_000_000
    assert validate_pairs(path).total == 1


def test_a_compressed_line_without_end_is_refused(tmp_path):
    path = tmp_path / "pairs.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _part in range(30):
            file.write(b"[" * 1_000_000)
    with pytest.raises(ValueError, match="has a line of 10,000,000 characters or more: no row is so long"):
        validate_pairs(path)
