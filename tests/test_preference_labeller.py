"""The panel that asks for preferences, without a browser: what it shows, keeps, takes back and says."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from course_helpers import choices as module
from course_helpers.choices import Choice, Question, pairs_of, read_choices
from course_helpers.translation import language
from course_helpers.widgets.preference_labeller import PreferenceLabeller

FILE = Path("my_choices.jsonl")
QUESTIONS = [Question(f"prompt {k}", f" first {k}", f" second {k}") for k in range(1, 5)]
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</style><script>alert(1)</script>",
    '"><script>',
    "&lt;b&gt;",
    "{file}\u202e\x00",
]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def press(panel: PreferenceLabeller, *answers: str) -> None:
    for answer in answers:
        (panel.undo_button if answer == "undo" else panel.buttons[answer]).click()


def static(panel: PreferenceLabeller) -> str:
    return panel._repr_mimebundle_()["text/html"]


def answered() -> list[str]:
    return [choice.answer for choice in read_choices(FILE)]


def test_questions_come_one_after_the_other_and_are_kept_first():
    panel = PreferenceLabeller(QUESTIONS)
    for number, answer in enumerate(("A", "B", "tie", "A"), start=1):
        shown = panel.question.value
        assert f"prompt {number}<" in shown
        assert f">first {number}<" in shown
        assert f">second {number}<" in shown
        assert f">{number - 1} of 4<" in shown
        press(panel, answer)
        assert panel.said.value.startswith(f"Question {number}: ")
        assert len(read_choices(FILE)) == number
    assert "All questions are answered" in panel.question.value
    assert "A: 2, B: 1, ties: 1. Preference pairs: 3." in panel.question.value
    assert panel.choices == read_choices(FILE) == [Choice.of(q, a) for q, a in zip(QUESTIONS, answered(), strict=True)]
    assert panel.pairs() == pairs_of(panel.choices)
    assert answered() == ["A", "B", "tie", "A"]


def test_an_answer_is_kept_before_the_next_question_is_shown(monkeypatch):
    panel, seen = PreferenceLabeller(QUESTIONS), []
    panel.question.observe(lambda change: seen.append(len(read_choices(FILE))), "value")
    press(panel, "A", "B")
    assert seen == [1, 2]


def test_undo_takes_back_the_last_answer_also_of_an_earlier_session():
    panel = PreferenceLabeller(QUESTIONS)
    press(panel, "A", "B", "undo")
    assert panel.said.value == "Question 2: your answer is taken back."
    assert answered() == ["A"]
    later = PreferenceLabeller(QUESTIONS)
    assert "prompt 2<" in later.question.value
    press(later, "undo")
    assert "prompt 1<" in later.question.value
    press(later, "undo")
    assert later.said.value == "There is no answer to take back."
    assert answered() == []
    press(later, "tie", "A", "A", "A", "A")
    assert later.said.value.startswith("All questions are answered")
    assert answered() == ["tie", "A", "A", "A"]
    press(later, "undo")
    assert "prompt 4<" in later.question.value


def test_every_press_begins_a_new_turn():
    """The page takes one click a turn; a turn that did not move on would leave it deaf."""
    panel = PreferenceLabeller(QUESTIONS[:1])
    for turn, answer in enumerate(("undo", "A", "A", "undo", "undo", "B"), start=1):
        press(panel, answer)
        assert f'data-turn="{turn}"' in panel.question.value


def test_answers_to_other_questions_stay_and_are_not_counted():
    press(PreferenceLabeller(QUESTIONS[:2]), "A", "B")
    panel = PreferenceLabeller(QUESTIONS[2:])
    assert "The file also holds 2 answers to other questions." in panel.hint.value
    assert ">0 of 2<" in panel.question.value
    press(panel, "tie", "undo", "undo", "A")
    assert answered() == ["A", "B", "A"]
    assert [choice.prompt for choice in panel.choices] == ["prompt 3"]


def test_two_panels_on_one_file_go_on_together():
    one, other = PreferenceLabeller(QUESTIONS), PreferenceLabeller(QUESTIONS)
    press(one, "A", "B")
    press(other, "tie")  # the first question is on show there: its answer is changed, and the others are seen
    assert answered() == ["tie", "B"]
    assert "prompt 3<" in other.question.value
    press(other, "A")
    press(one, "B")  # the third one is on show here
    assert answered() == ["tie", "B", "B"]
    assert "prompt 4<" in one.question.value


def test_a_damaged_line_is_said():
    FILE.write_bytes(Choice.of(QUESTIONS[0], "A").line() + b'{"id": "half')
    panel = PreferenceLabeller(QUESTIONS)
    assert "line 2: it is no complete line of JSON" in panel.note.value
    assert "my_choices.damaged.jsonl" in panel.note.value
    assert "prompt 2<" in panel.question.value
    assert 'role="alert"' in panel.note.value
    language("pt")
    assert "linha 2" in panel.note.value or "line 2" in panel.note.value


def test_a_file_that_cannot_be_written_is_said_and_the_answers_are_there(monkeypatch):
    def refuse(path, lines):
        raise OSError(30, "Read-only file system")

    panel = PreferenceLabeller(QUESTIONS)
    with monkeypatch.context() as broken:
        broken.setattr(module, "_append", refuse)
        press(panel, "A", "B")
        assert "my_choices.jsonl: Read-only file system. They stay in memory" in panel.message.value
        assert "prompt 3<" in panel.question.value
        assert [choice.answer for choice in panel.choices] == ["A", "B"]
        assert len(panel.pairs()) == 2
        language("pt")
        assert "Read-only file system" in panel.message.value
        language("en")
        assert not FILE.exists()
    press(panel, "tie")
    assert panel.message.value == ""
    assert answered() == ["A", "B", "tie"]


def test_a_file_that_cannot_be_read_is_said():
    FILE.mkdir()
    panel = PreferenceLabeller(QUESTIONS)
    assert "my_choices.jsonl cannot be read" in panel.message.value
    press(panel, "A")
    assert "They stay in memory" in panel.message.value
    assert [choice.answer for choice in panel.choices] == ["A"]


class Tags(HTMLParser):
    """Every element and attribute of a piece of HTML, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.attributes, self.text = set(), set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.attributes |= {name for name, _value in attrs}

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_stay_text(text):
    panel = PreferenceLabeller(
        [Question(text, f" a{text}", f" b{text}"), QUESTIONS[0]], f"{text[:4].strip('</')}.jsonl"
    )
    for part in (panel.question.value, static(panel)):
        found = Tags(part)
        assert found.elements <= {"div", "bdi", "p", "b", "table", "thead", "tbody", "tr", "th", "td"}
        assert not found.attributes & {"onerror", "src"}
        assert found.text.count(text.split("\u202e")[0]) == 3
        assert "\u202e" not in part
        assert "\x00" not in part
    press(panel, "A")
    assert Tags(static(panel)).elements <= {"div", "p", "b", "table", "thead", "tbody", "tr", "th", "td"}


def test_a_hostile_file_name_stays_text():
    panel = PreferenceLabeller(QUESTIONS[:1], "<b>{x}'.jsonl")
    press(panel, "A")
    assert "<b>{x}" not in panel.question.value + panel.hint.value
    assert "&lt;b&gt;{x}" in panel.question.value
    assert "&lt;b&gt;{x}" in panel.hint.value


def test_empty_responses_and_lines_are_shown_as_such():
    panel = PreferenceLabeller([Question("x\ny", " \n", " one\n\ntwo")])
    assert "(empty)" in panel.question.value
    assert "<bdi>one\n\ntwo</bdi>" in panel.question.value
    assert "<bdi>x\ny</bdi>" in panel.question.value


def test_without_a_kernel_the_answers_are_a_table():
    panel = PreferenceLabeller(QUESTIONS)
    assert "<p>0 of 4</p>" in static(panel)
    assert "prompt 1" in static(panel)
    assert "prompt 2" not in static(panel)
    press(panel, "B", "tie")
    assert static(panel).count("<tr>") == 3
    assert "<td>second 1</td><td>B is better</td>" in static(panel)
    assert "<td>second 2</td><td>tie</td>" in static(panel)


def test_a_switch_of_language_keeps_everything():
    panel = PreferenceLabeller(QUESTIONS)
    press(panel, "A")
    before = [panel.question.value, panel.said.value, panel.hint.value, static(panel)]
    language("pt")
    assert len(panel.choices) == 1
    assert "prompt 2<" in panel.question.value
    assert "1 de 4" in panel.question.value
    assert panel.undo_button.description == "Desfazer"
    language("en")
    assert [panel.question.value, panel.said.value, panel.hint.value, static(panel)] == before


@pytest.mark.parametrize(
    ("questions", "words"),
    [
        ([], "questions is empty"),
        ([("x", "a", "b")], r"question 1 is \('x', 'a', 'b'\); it must be"),
        ([*QUESTIONS, QUESTIONS[1]], "question 5 is the same as question 2"),
    ],
)
def test_what_cannot_be_asked_is_refused(questions, words):
    with pytest.raises(ValueError, match=words):
        PreferenceLabeller(questions)


def test_a_swapped_question_is_another_one():
    panel = PreferenceLabeller([QUESTIONS[0], QUESTIONS[1], QUESTIONS[0].swapped])
    press(panel, "A", "A", "B")
    assert [json.loads(line)["a"] for line in FILE.read_text().splitlines()] == [" first 1", " first 2", " second 1"]
    assert panel.pairs()[0] == panel.pairs()[2]
