"""The quizzes of the course: what is asked, and what an answer is told.

Each quiz is a file in `assets/quizzes`, in both languages of the course. There are four kinds of question: `choice`
(one is right), `several` (some are), `order` (steps to be put in order) and `number`. Whatever is wrong says why: every
wrong choice, every step that came too early, every number that a typical slip leads to. `widgets.quiz` shows the
quizzes; nothing here needs a widget.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from course_helpers.assets import asset, listed
from course_helpers.translation import LANGUAGES, N_, SpokenError, _, language, ngettext
from course_helpers.yaml_text import read_yaml

# What the course's learners are known to believe; a wrong choice or number can carry one of these names.
MISCONCEPTIONS = frozenset(
    {
        "dpo-trains-reward-model",
        "exp-beta-r",
        "high-beta-chases-reward",
        "higher-reward-better-model",
        "kl-adds-randomness",
        "last-gen-len-tokens",
        "loss-without-log",
        "policy-is-the-answer",
        "score-by-position",
        "z-collects-preferences",
        "z-is-logistic",
        "z-is-two-way-softmax",
    }
)
# A half of the last digit asked for may fall on the edge of the tolerance; this is for its rounding in binary.
ROUNDING = 1e-9
# Signs that people type or paste for minus, fraction bar and "about".
SIGNS = str.maketrans({"−": "-", "–": "-", "⁄": "/", "∕": "/", "÷": "/", "=": None, "≈": None, "~": None})
DECIMAL = re.compile(r"[+-]?([0-9]+[.,]?[0-9]*|[.,][0-9]+)(e[+-]?[0-9]+)?")
GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}([.,])[0-9]{3}(\1[0-9]{3})*((?!\1)[.,][0-9]+)?")  # 8,192 and 8.192,5


# --- what a quiz consists of ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """The same words in both languages; ``str`` gives those of the chosen one."""

    en: str
    pt: str

    def __str__(self) -> str:
        """The words in the language of the moment."""
        return getattr(self, language())


@dataclass(frozen=True)
class Choice:
    """One answer to choose or to tick.

    Attributes:
        text: the answer.
        why: why it is right, or what is wrong with this idea.
        right: whether it is to be chosen.
        misconception: which of `MISCONCEPTIONS` speaks from it.
    """

    text: Text
    why: Text
    right: bool
    misconception: str | None


@dataclass(frozen=True)
class Step:
    """One step to be put in order; `why` says why it cannot come earlier, which the first step does not need."""

    text: Text
    why: Text | None


@dataclass(frozen=True)
class Mistake:
    """A wrong number to which a typical slip leads, and which slip that is."""

    value: float
    why: Text
    misconception: str | None


@dataclass(frozen=True)
class Question:
    """What all questions have: a name of their own within the quiz, the words, and code to look at, if any."""

    id: str
    text: Text
    code: str


@dataclass(frozen=True)
class ChoiceQuestion(Question):
    """Choose the one right answer."""

    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class SeveralQuestion(ChoiceQuestion):
    """Tick all right answers."""


@dataclass(frozen=True)
class OrderQuestion(Question):
    """Put steps in order.

    Attributes:
        steps: in the right order.
        shown: numbers of the steps, counted from 0, in the order in which a learner finds them.
        why: said when all is in order.
    """

    steps: tuple[Step, ...]
    shown: tuple[int, ...]
    why: Text


@dataclass(frozen=True)
class NumberQuestion(Question):
    """Work out a number.

    Attributes:
        answer: the right one.
        tolerance: how far off an answer may be.
        unit: what may be written behind the number, the same in both languages; "%" if the answer is in percent.
        why: the calculation, said when the number is right.
        mistakes: wrong numbers that explain themselves.
    """

    answer: float
    tolerance: float
    unit: str
    why: Text
    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True)
class QuizData:
    """One quiz: its name, its title and its questions."""

    id: str
    title: Text
    questions: tuple[Question, ...]


# --- grading ----------------------------------------------------------------------------------------------------------


class Verdict(Enum):
    """How an answer is. One that is empty, or is no number, is incomplete: it is not held against anybody."""

    RIGHT = "right"
    WRONG = "wrong"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class Remark:
    """One thing that is said to an answer, and the part of the answer it is about, if it is about a part.

    Attributes:
        words: what is said, in the language of the moment.
        about: the part of the answer, in its own words; empty if it is about the whole.
    """

    words: str
    about: str = ""


@dataclass(frozen=True)
class Feedback:
    """What an answer is told, in the language of the moment.

    Attributes:
        verdict: right, wrong or incomplete.
        remarks: what is said, in the order in which it is shown.
    """

    verdict: Verdict
    remarks: tuple[Remark, ...]

    @property
    def right(self) -> bool:
        """Whether the answer is right."""
        return self.verdict is Verdict.RIGHT


def grade(question: Question, answer: Any) -> Feedback:
    """Judge an answer and say why.

    Args:
        question: what was asked.
        answer: for a choice the number of the chosen one, counted from 0, or None; for several the numbers of those
            ticked; for an order the position of each step as `shown`, counted from 1, or None; for a number the text
            that was typed.

    Returns:
        Right, wrong or incomplete, and the explanations that belong to this very answer.

    Raises:
        ValueError: the answer names choices, steps or positions that the question does not have.
        TypeError: this is no question.

    Examples:
        >>> words = Text(en="How likely is heads?", pt="Qual é a probabilidade de cara?")
        >>> question = NumberQuestion("coin", words, "", 0.5, 0.01, unit="", why=words, mistakes=())
        >>> [grade(question, typed).verdict.value for typed in ("1/2", "0.6", "")]
        ['right', 'wrong', 'incomplete']
    """
    match question:
        case SeveralQuestion():
            return _grade_several(question, answer)
        case ChoiceQuestion():
            return _grade_choice(question, answer)
        case OrderQuestion():
            return _grade_order(question, answer)
        case NumberQuestion():
            return _grade_number(question, answer)
    raise TypeError(f"question is a {type(question).__name__}; it must be one that `load_quiz` returned.")


def _right(*remarks: Remark) -> Feedback:
    return Feedback(Verdict.RIGHT, remarks)


def _wrong(*remarks: Remark) -> Feedback:
    return Feedback(Verdict.WRONG, remarks)


def _incomplete(words: str) -> Feedback:
    return Feedback(Verdict.INCOMPLETE, (Remark(words),))


def _explained(choice: Choice) -> Remark:
    return Remark(str(choice.why), about=str(choice.text))


def _require_known(question: ChoiceQuestion, numbers: Collection[int]) -> None:
    count = len(question.choices)
    unknown = sorted(set(numbers) - set(range(count)))
    if unknown:
        raise ValueError(f"answer names choice {unknown[0]}; {question.id} has {count}, counted from 0.")


def _grade_choice(question: ChoiceQuestion, chosen: int | None) -> Feedback:
    if chosen is None:
        return _incomplete(_("Choose one of the answers first."))
    _require_known(question, [chosen])
    choice = question.choices[chosen]
    return (_right if choice.right else _wrong)(_explained(choice))


def _grade_several(question: SeveralQuestion, ticked: Collection[int]) -> Feedback:
    _require_known(question, ticked)
    if not ticked:
        return _incomplete(_("Tick at least one of the answers first."))
    wrong = [choice for k, choice in enumerate(question.choices) if k in ticked and not choice.right]
    missing = sum(choice.right for k, choice in enumerate(question.choices) if k not in ticked)
    if not wrong and not missing:
        return _right(*(_explained(choice) for choice in question.choices if choice.right))
    remarks = [_explained(choice) for choice in wrong]
    if missing:
        words = ngettext("{n} right answer is still missing.", "{n} right answers are still missing.", missing)
        remarks.append(Remark(words.format(n=missing)))
    return _wrong(*remarks)


def _grade_order(question: OrderQuestion, positions: Sequence[int | None]) -> Feedback:
    count = len(question.steps)
    if len(positions) != count or any(p is not None and not 1 <= p <= count for p in positions):
        raise ValueError(f"answer is {list(positions)}; {question.id} needs {count} positions, each from 1 to {count}.")
    if None in positions:
        return _incomplete(_("Give every step a position first."))
    twice = next((p for p in sorted(positions) if positions.count(p) > 1), None)
    if twice is not None:
        return _incomplete(_("Position {position} is given more than once.").format(position=twice))
    ordered = [step for _position, step in sorted(zip(positions, question.shown, strict=True))]
    if ordered == sorted(ordered):
        return _right(Remark(str(question.why)))
    place = next(k for k, step in enumerate(ordered) if step != k)
    early = question.steps[ordered[place]]
    words = _("The first step out of place is number {position}. It comes too early.").format(position=place + 1)
    return _wrong(Remark(words), Remark(str(early.why), about=str(early.text)))


def _grade_number(question: NumberQuestion, typed: str) -> Feedback:
    readings = numbers_in(typed, question.unit)
    if not typed.strip():
        return _incomplete(_("Type a number first."))
    if not readings:
        return _incomplete(_("“{text}” is no number. Write it like 0.5, −3, 1/2 or 50%.").format(text=typed.strip()))
    if any(_is_close(value, question.answer, question) for value in readings):
        return _right(Remark(str(question.why), about=typed.strip()))
    for mistake in question.mistakes:
        if any(_is_close(value, mistake.value, question) for value in readings):
            return _wrong(Remark(str(mistake.why), about=typed.strip()))
    return _wrong(Remark(_("No usual slip leads there. Write the formula down and put the numbers in."), typed.strip()))


def _is_close(value: float, target: float, question: NumberQuestion) -> bool:
    return abs(value - target) <= question.tolerance + ROUNDING


def numbers_in(typed: str, unit: str = "") -> list[float]:
    """What a typed number can mean: "0.5", "0,5", "1/2", "−3", "50%", "2 nats".

    Args:
        typed: anything at all.
        unit: what may stand behind the number. Unless it is "%", a percent sign divides by 100.

    Returns:
        One reading; two where a mark can be decimal or group thousands ("8,192"); none if it is no number.

    Examples:
        >>> numbers_in("1/2"), numbers_in("−3"), numbers_in("50%"), numbers_in("2 nats", unit="nats")
        ([0.5], [-3.0], [0.5], [2.0])
        >>> numbers_in("8,192")  # a comma may be either
        [8.192, 8192.0]
    """
    plain = "".join(unicodedata.normalize("NFKC", typed).translate(SIGNS).lower().split())
    plain = plain.removesuffix(unit.lower())
    scale = 0.01 if plain.endswith("%") else 1.0
    top, bar, bottom = plain.removesuffix("%").partition("/")
    divisors = _readings(bottom) if bar else [1.0]
    return [scale * a / b for a in _readings(top) for b in divisors if b]


def _readings(digits: str) -> list[float]:
    found = []
    if DECIMAL.fullmatch(digits):
        found.append(float(digits.replace(",", ".")))
    if grouped := GROUPED.fullmatch(digits):
        found.append(float(digits.replace(grouped[1], "").replace(",", ".")))
    return found


# --- reading the files ------------------------------------------------------------------------------------------------


def quiz_names() -> list[str]:
    """Names of all quizzes, such as "01" and "ppo".

    Examples:
        >>> "01" in quiz_names(), "ppo" in quiz_names()
        (True, True)
    """
    return sorted(Path(path).stem for path in listed() if path.startswith("quizzes/"))


@cache
def load_quiz(name: str) -> QuizData:
    """One of the course's quizzes.

    Args:
        name: one of `quiz_names`.

    Returns:
        The quiz, read once and kept.

    Raises:
        ValueError: there is no such quiz, or its file is not as it must be; the message says where.
        AssetError: its file is missing or damaged.

    Examples:
        >>> load_quiz("01").id
        '01'
    """
    if name not in quiz_names():
        raise SpokenError(N_("there is no quiz {name}; there are {names}."), name=name, names=", ".join(quiz_names()))
    path = asset(f"quizzes/{name}.yaml")
    return read_quiz(path.read_text(encoding="utf-8"), path.name)


def read_quiz(source: str, file: str) -> QuizData:
    """Turn the text of a quiz file into a quiz.

    Args:
        source: YAML.
        file: its name, for the quiz's id and for messages.

    Returns:
        The quiz.

    Raises:
        ValueError: something is missing, misspelt or contradicts itself; the message names file, question and field.
    """
    try:
        data = read_yaml(source, file)
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no valid YAML: {error}") from error
    top = _Entry(data, file)
    top.require_fields({"title", "questions"})
    questions = tuple(_question(entry) for entry in top.entries("questions", at_least=1))
    ids = [question.id for question in questions]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise top.error("questions", f"has the id {min(twice)} twice", "give each question an id of its own")
    return QuizData(Path(file).stem, top.text("title"), questions)


@dataclass(frozen=True)
class _Entry:
    """A part of a quiz file and where it stands there."""

    data: Any
    where: str

    def error(self, field: str, found: str, advice: str) -> ValueError:
        return ValueError(f"{self.where}, field {field}: {found}; {advice}.")

    def require_fields(self, required: set[str], optional: Collection[str] = ()) -> None:
        if not isinstance(self.data, dict):
            raise ValueError(f"{self.where} is a {type(self.data).__name__}; it must have named fields.")
        names = set(map(str, self.data))
        if missing := required - names:
            raise self.error(min(missing), "is missing", "write it")
        if unknown := names - required - set(optional):
            raise self.error(min(unknown), "is unknown", f"known are {', '.join(sorted(required | set(optional)))}")

    def get(self, field: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        found = self.data.get(field, default)
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
            wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise self.error(field, f"is {found!r}", f"it must be of type {wanted}")
        return found

    def number(self, field: str) -> float:
        return float(self.get(field, (int, float)))

    def text(self, field: str) -> Text:
        words = _Entry(self.get(field, dict), f"{self.where}, field {field}")
        words.require_fields(set(LANGUAGES))
        found = {code: words.get(code, str).strip() for code in LANGUAGES}
        if empty := [code for code in LANGUAGES if not found[code]]:
            raise words.error(empty[0], "is empty", "write the words in both languages")
        return Text(**found)

    def entries(self, field: str, at_least: int) -> list[_Entry]:
        found = self.get(field, list)
        if len(found) < at_least:
            raise self.error(field, f"has {len(found)} entries", f"there must be at least {at_least}")
        return [_Entry(data, f"{self.where}, {self._name(data, field, k)}") for k, data in enumerate(found)]

    @staticmethod
    def _name(data: Any, field: str, place: int) -> str:
        named = field == "questions" and isinstance(data, dict) and "id" in data
        return f"question {data['id']}" if named else f"{field}[{place}]"

    def misconception(self) -> str | None:
        name = self.get("misconception", (str, type(None)))
        if name is not None and name not in MISCONCEPTIONS:
            raise self.error("misconception", f"is {name!r}", f"known are {', '.join(sorted(MISCONCEPTIONS))}")
        return name


COMMON = {"id", "kind", "text"}


def _question(entry: _Entry) -> Question:
    readers = {"choice": _choice, "several": _several, "order": _order, "number": _number}
    entry.require_fields(COMMON, entry.data if isinstance(entry.data, dict) else ())
    kind = entry.get("kind", str)
    if kind not in readers:
        raise entry.error("kind", f"is {kind!r}", f"known are {', '.join(readers)}")
    common = {"id": entry.get("id", str), "text": entry.text("text"), "code": entry.get("code", str, "")}
    return readers[kind](entry, common)


def _choices(entry: _Entry) -> tuple[Choice, ...]:
    entry.require_fields(COMMON | {"choices"}, {"code"})
    found = []
    for each in entry.entries("choices", at_least=2):
        each.require_fields({"text", "why"}, {"right", "misconception"})
        right = each.get("right", bool, False)
        if right and each.misconception():
            raise each.error("misconception", "stands at a right choice", "only a wrong one can have it")
        found.append(Choice(each.text("text"), each.text("why"), right, each.misconception()))
    return tuple(found)


def _choice(entry: _Entry, common: dict[str, Any]) -> ChoiceQuestion:
    choices = _choices(entry)
    right = sum(choice.right for choice in choices)
    if right != 1:
        raise entry.error("choices", f"has {right} right ones", "exactly one must be right, or the kind is several")
    return ChoiceQuestion(**common, choices=choices)


def _several(entry: _Entry, common: dict[str, Any]) -> SeveralQuestion:
    choices = _choices(entry)
    if not any(choice.right for choice in choices):
        raise entry.error("choices", "has no right one", "mark at least one with `right: true`")
    return SeveralQuestion(**common, choices=choices)


def _order(entry: _Entry, common: dict[str, Any]) -> OrderQuestion:
    entry.require_fields(COMMON | {"steps", "shown", "why"}, {"code"})
    steps = []
    for place, each in enumerate(entry.entries("steps", at_least=3)):
        each.require_fields({"text", "why"} if place else {"text"})
        steps.append(Step(each.text("text"), each.text("why") if place else None))
    shown, numbers = entry.get("shown", list), list(range(len(steps)))
    if sorted(map(str, shown)) != sorted(map(str, numbers)) or shown == numbers:
        raise entry.error("shown", f"is {shown}", f"it must be {numbers} in another order")
    return OrderQuestion(**common, steps=tuple(steps), shown=tuple(shown), why=entry.text("why"))


def _number(entry: _Entry, common: dict[str, Any]) -> NumberQuestion:
    entry.require_fields(COMMON | {"answer", "tolerance", "why", "mistakes"}, {"unit", "code"})
    answer, tolerance = entry.number("answer"), entry.number("tolerance")
    mistakes, taken = [], [answer]
    for each in entry.entries("mistakes", at_least=2):
        each.require_fields({"value", "why"}, {"misconception"})
        mistake = Mistake(each.number("value"), each.text("why"), each.misconception())
        if min(abs(mistake.value - value) for value in taken) <= tolerance:
            raise each.error("value", f"is {mistake.value}", f"it must be over {tolerance} away from all other values")
        mistakes.append(mistake)
        taken.append(mistake.value)
    unit = entry.get("unit", str, "")
    return NumberQuestion(
        **common, answer=answer, tolerance=tolerance, unit=unit, why=entry.text("why"), mistakes=tuple(mistakes)
    )
