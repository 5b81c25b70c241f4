"""A quiz under each other: questions, inputs for keyboard and screen reader, and an explanation for every answer."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets

from course_helpers.prose import label, prose
from course_helpers.quizzes import (
    ChoiceQuestion,
    Feedback,
    NumberQuestion,
    OrderQuestion,
    Question,
    SeveralQuestion,
    Verdict,
    grade,
    load_quiz,
)
from course_helpers.translation import N_, _
from course_helpers.widgets.controls import button
from course_helpers.widgets.markup import escape
from course_helpers.widgets.panel import Panel, html_part

# Told by a word and a sign; the colour of the edge only repeats it.
VERDICTS = {Verdict.RIGHT: N_("✓ Right"), Verdict.WRONG: N_("✗ Not yet"), Verdict.INCOMPLETE: N_("… Incomplete")}
LOOK = """
.ch-panel .ch-question { border-top: 1px solid var(--ch-line); margin-top: 10px; padding: 8px 0 2px; width: 100%;
  overflow: visible; }
.ch-panel .ch-question h3 { font-size: 12px; font-weight: 600; color: var(--ch-soft); margin: 0; }
.ch-panel .ch-question .ch-q-text { font-size: 14px; max-width: 75ch; }
.ch-panel .ch-question pre { background: var(--ch-tint); padding: 6px 10px; margin: 4px 0; border-radius: 3px;
  color: inherit; }
.ch-panel .ch-question pre, .ch-panel .ch-question code { white-space: pre-wrap; overflow-wrap: anywhere; }
.ch-panel .ch-question .ch-group, .ch-panel .ch-question .widget-radio { width: 100%; height: auto; overflow: visible;
  margin: 2px 0; }
.ch-panel .ch-question .widget-radio-box { margin-bottom: 0 !important; max-width: 80ch; }
.ch-panel .ch-question .widget-radio-box label, .ch-panel .ch-question .widget-checkbox label {
  display: flex; align-items: flex-start; height: auto; line-height: 1.45; padding: 3px 0; white-space: normal;
  overflow: visible; font-size: 13px; color: var(--ch-ink); overflow-wrap: anywhere; }
.ch-panel .ch-question .widget-radio-box input, .ch-panel .ch-question .widget-checkbox input { order: -1; flex: none;
  height: 16px; width: 16px; margin: 2px 8px 0 1px; }
.ch-panel .ch-question .widget-checkbox { width: auto; max-width: 80ch; height: auto; margin: 0; }
.ch-panel .ch-question .widget-dropdown { width: auto; height: auto; margin: 1px 0; flex-direction: row-reverse;
  justify-content: flex-end; align-items: center; overflow: visible; }
.ch-panel .ch-question .widget-dropdown select { flex: 0 0 64px; height: 26px; }
.ch-panel .ch-question .widget-dropdown .widget-label { width: auto; max-width: 75ch; height: auto; flex: 0 1 auto;
  text-align: left; white-space: normal; line-height: 1.45; font-size: 13px; padding-left: 8px; overflow: visible; }
.ch-panel .ch-question .widget-text { width: 320px; max-width: 100%; margin: 2px 0; }
.ch-panel .ch-question .jupyter-button { align-self: flex-start; margin: 4px 0 2px; min-width: 88px; }
.ch-panel .ch-verdict { border-left: 4px solid #808080; background: var(--ch-tint); padding: 4px 10px; margin: 4px 0;
  border-radius: 3px; max-width: 80ch; overflow-wrap: anywhere; }
.ch-panel .ch-verdict.ch-right { border-color: #2e8b57; }
.ch-panel .ch-verdict.ch-wrong { border-color: #d9822b; }
.ch-panel .ch-verdict .ch-about { font-style: italic; }
.ch-panel .ch-score { border-top: 1px solid var(--ch-line); margin-top: 10px; padding-top: 6px; font-weight: 600; }
"""
# ipywidgets gives a group no name, and its radio buttons nothing that makes them one group. JupyterLab would take the
# arrow keys to move between cells; the attribute is its way to be told not to. A text field reports Enter before the
# value that Enter completes, so here the value is sent on its way first.
NAME_THE_GROUPS = """
const panel = this.closest('.ch-panel');
const name = () => panel.querySelectorAll('.ch-question').forEach(question => {
  const text = question.querySelector('.ch-q-text');
  const group = question.querySelector('.widget-radio-box, .ch-group');
  if (!text || !group) return;
  question.querySelectorAll('input, select, button').forEach(control => {
    control.setAttribute('data-lm-suppress-shortcuts', 'true');
  });
  question.dataset.group ||= 'ch-' + Math.random().toString(36).slice(2);
  group.setAttribute('role', group.matches('.ch-group') ? 'group' : 'radiogroup');
  group.setAttribute('aria-label', text.textContent);
  group.querySelectorAll('input[type=radio]').forEach(radio => { radio.name = question.dataset.group; });
  group.querySelectorAll('.widget-dropdown').forEach(row => {
    const step = row.querySelector('.widget-label').textContent;
    row.querySelector('select').setAttribute('aria-label', text.dataset.names.replace('{step}', () => step));
  });
});
const send = event => {
  if (event.key === 'Enter' && event.target.closest('.ch-question .widget-text'))
    event.target.dispatchEvent(new Event('change', {bubbles: true}));
};
name();
if (!panel.dataset.quiz) {
  panel.dataset.quiz = 'named';
  panel.addEventListener('keydown', send, true);
  new MutationObserver(name).observe(panel, {childList: true, subtree: true});
}
"""


def plain(text: object) -> str:
    """The same words for a control, which cannot show code."""
    return label(str(text).replace("`", ""))


# --- inputs: each has an `answer` for `grade`, and `speak`, which keeps it --------------------------------------------


class OneChoice(widgets.RadioButtons):
    """One radio button a choice; `answer` is the number of the chosen one, or None."""

    def __init__(self, question: ChoiceQuestion):
        """Nothing chosen."""
        self.question = question
        super().__init__(options=self.labels(), index=None)

    @property
    def answer(self) -> int | None:
        """Number of the choice, counted from 0."""
        return self.index

    def labels(self) -> list[tuple[str, int]]:
        """The choices in the language of the moment, and their numbers."""
        return [(plain(choice.text), number) for number, choice in enumerate(self.question.choices)]

    def speak(self) -> None:
        """Say the choices again; new options would choose the first one."""
        chosen = self.index
        with self.hold_sync():
            self.options = self.labels()
            self.index = chosen


class SeveralChoices(widgets.VBox):
    """One checkbox a choice; `answer` is the set of ticked numbers."""

    def __init__(self, question: SeveralQuestion):
        """Nothing ticked."""
        self.question = question
        super().__init__([widgets.Checkbox(indent=False) for _choice in question.choices])
        self.add_class("ch-group")
        self.speak()

    @property
    def answer(self) -> frozenset[int]:
        """Numbers of the ticked choices, counted from 0."""
        return frozenset(number for number, child in enumerate(self.children) if child.value)

    def speak(self) -> None:
        """Say the choices again."""
        for child, choice in zip(self.children, self.question.choices, strict=True):
            child.description = plain(choice.text)


class StepOrder(widgets.VBox):
    """One list of positions a step; `answer` holds what was chosen, None where nothing was."""

    def __init__(self, question: OrderQuestion):
        """No positions."""
        self.question = question
        positions = [("–", None)] + [(str(p), p) for p in range(1, len(question.steps) + 1)]
        super().__init__([widgets.Dropdown(options=positions) for _step in question.steps])
        self.add_class("ch-group")
        self.speak()

    @property
    def answer(self) -> tuple[int | None, ...]:
        """The position of each step, in the order in which they stand here."""
        return tuple(child.value for child in self.children)

    def speak(self) -> None:
        """Say the steps again."""
        for child, number in zip(self.children, self.question.shown, strict=True):
            child.description = plain(self.question.steps[number].text)


class NumberField(widgets.HBox):
    """A line to type a number in; `answer` is the text."""

    def __init__(self, question: NumberQuestion):
        """An empty line."""
        self.question = question
        # Sent when it is left or Enter is pressed, so that a number is never judged while it is being typed.
        self.field = widgets.Text(continuous_update=False, style={"description_width": "initial"})
        super().__init__([self.field])
        self.add_class("ch-group")
        self.speak()

    @property
    def answer(self) -> str:
        """What was typed."""
        return self.field.value

    def on_enter(self, action: Callable[[], None]) -> None:
        """Call an action when Enter is pressed."""
        # Not a click on the button: messages of different controls may overtake each other on their way.
        self.field.on_msg(lambda field, content, buffers: action() if content.get("event") == "submit" else None)

    def speak(self) -> None:
        """Say the label again."""
        unit = self.question.unit
        self.field.description = label(_("your answer ({unit})").format(unit=unit) if unit else _("your answer"))


INPUTS = {ChoiceQuestion: OneChoice, SeveralQuestion: SeveralChoices, OrderQuestion: StepOrder}
INPUTS |= {NumberQuestion: NumberField}


def how_to_answer(question: Question) -> str:
    """What a learner is to do with a question."""
    match question:
        case SeveralQuestion():
            return _("Tick all that are right; there can be more than one.")
        case ChoiceQuestion():
            return _("Choose one.")
        case OrderQuestion():
            return _("Give each step a position, from 1 to {count}.").format(count=len(question.steps))
    return _("Type a number, such as 0.5, −3 or 1/2.")


def question_html(question: Question) -> str:
    """The words of a question, its code, and what to do; `data-names` is what the lists of an order are called."""
    code = f"<pre><code>{escape(question.code)}</code></pre>" if question.code else ""
    names = escape(_("position of: {step}"))
    return (
        f'<div class="ch-q-text" data-names="{names}">{prose(question.text)}</div>{code}'
        f'<p class="ch-hint">{escape(how_to_answer(question))}</p>'
    )


def feedback_html(feedback: Feedback) -> str:
    """The verdict in a word and a sign, and what is said to the answer."""
    remarks = ""
    for remark in feedback.remarks:
        about = f'<span class="ch-about">“{prose(remark.about)}”:</span> ' if remark.about else ""
        remarks += f"<p>{about}{prose(remark.words)}</p>"
    word = escape(_(VERDICTS[feedback.verdict]))
    return f'<div class="ch-verdict ch-{feedback.verdict.value}"><b>{word}</b>{remarks}</div>'


# --- the widget -------------------------------------------------------------------------------------------------------


class QuestionBox(widgets.VBox):
    """One question: its words, its input, a button and a place for what is said to the answer.

    Args:
        question: what is asked.
        number: its place in the quiz, counted from 1.
        count: how many the quiz has.
    """

    def __init__(self, question: Question, number: int, count: int):
        """Not answered yet."""
        self.question, self.number, self.count = question, number, count
        self.checked, self.tries, self.right_at = None, 0, None
        self.words, self.feedback = html_part("ch-q-words"), html_part("ch-feedback")
        self.feedback.add_class("ch-live")
        self.input = INPUTS[type(question)](question)
        self.check_button = button(N_("Check"))
        super().__init__([self.words, self.input, self.check_button, self.feedback])
        self.add_class("ch-question")
        self.speak()

    def on_check(self, action: Callable[[], None]) -> None:
        """Call an action when the button is pressed, or Enter behind a number."""
        self.check_button.on_click(lambda clicked: action())
        if isinstance(self.input, NumberField):
            self.input.on_enter(action)

    def check(self) -> Feedback | None:
        """Judge the answer and say why; None if it is the one judged last, which is no new try."""
        answer = self.input.answer
        if self.feedback.value and answer == self.checked:
            return None
        feedback = grade(self.question, answer)
        self.checked, self.feedback.value = answer, feedback_html(feedback)
        if feedback.verdict is not Verdict.INCOMPLETE:
            self.tries += 1
            self.right_at = self.right_at or (self.tries if feedback.right else None)
        return feedback

    def speak(self) -> None:
        """Say all of it again, in the language of the moment; what was answered stays."""
        place = _("Question {number} of {count}").format(number=self.number, count=self.count)
        self.words.value = f"<h3>{escape(place)}</h3>{question_html(self.question)}"
        self.input.speak()
        self.check_button.tooltip = _("Check the answer to question {number}").format(number=self.number)
        if self.feedback.value:
            self.feedback.value = feedback_html(grade(self.question, self.checked))


class Quiz(Panel):
    """All questions of a quiz, one below the other; a wrong answer is explained and can be tried again.

    Args:
        name: one of `quizzes.quiz_names`, such as "01".
        on_answer: called with the quiz's name, the question's id and whether the answer is right, whenever an answer
            is checked.

    Raises:
        ValueError: there is no such quiz.
    """

    def __init__(self, name: str, on_answer: Callable[[str, str, bool], None] | None = None):
        """Show the questions, none of them answered."""
        self.data, self.on_answer = load_quiz(name), on_answer
        questions = self.data.questions
        self.boxes = [QuestionBox(question, k, len(questions)) for k, question in enumerate(questions, start=1)]
        self.head, self.score = html_part("ch-quiz-title"), html_part("ch-score")
        sheet = html_part("ch-sheet", f'<style onload="{escape(NAME_THE_GROUPS)}">{LOOK}</style>')
        super().__init__(N_("Quiz"), [sheet, self.head, *self.boxes, self.score])
        for box in self.boxes:
            box.on_check(lambda box=box: self.guard(lambda: self.check(box)))
        self.refresh()

    def check(self, box: QuestionBox) -> None:
        """Judge one answer, count it, and tell whoever keeps the progress."""
        feedback = box.check()
        if feedback is None or feedback.verdict is Verdict.INCOMPLETE:
            return
        self.say_score()
        if self.on_answer:
            self.on_answer(self.data.id, box.question.id, feedback.right)

    def refresh(self) -> None:
        """Say everything in the language of the moment; what was answered stays."""
        self.head.value = f"<div>{escape(self.data.title)}</div>"
        for box in self.boxes:
            box.speak()
        self.say_score()

    def say_score(self) -> None:
        """How many questions were answered rightly, now or before, and how many of them at once."""
        right = [box.right_at for box in self.boxes if box.right_at]
        words = _("Right so far: {right} of {count}. At the first try: {first}.")
        words = words.format(right=len(right), count=len(self.boxes), first=right.count(1))
        self.score.value = f"<div>{escape(words)}</div>"

    def static_html(self) -> str:
        """The questions without their answers."""
        parts = [f"<p>{escape(self.data.title)}</p>"]
        for number, question in enumerate(self.data.questions, start=1):
            code = f"<pre><code>{escape(question.code)}</code></pre>" if question.code else ""
            hint = f"<p><i>{escape(how_to_answer(question))}</i></p>"
            parts.append(f"<p><b>{number}. {prose(question.text)}</b></p>{code}{hint}{_static_list(question)}")
        return "".join(parts)


def _static_list(question: Question) -> str:
    """What can be chosen or ordered, as a list; a number has none."""
    texts: list[object] = []
    if isinstance(question, ChoiceQuestion):
        texts = [choice.text for choice in question.choices]
    elif isinstance(question, OrderQuestion):
        texts = [question.steps[number].text for number in question.shown]
    items = "".join(f"<li>{prose(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""
