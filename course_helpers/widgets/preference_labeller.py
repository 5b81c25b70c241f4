"""Your own preferences: two responses to a prompt, which one is better? Each answer is kept at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from course_helpers.choices import ANSWERS, Choice, ChoiceBook, Question, pairs_of
from course_helpers.tokens import readable
from course_helpers.translation import N_, _, ngettext, say
from course_helpers.widgets.controls import button
from course_helpers.widgets.markup import alert, escape
from course_helpers.widgets.panel import Panel, box, html_part

CHOSEN = {"A": N_("A is better"), "B": N_("B is better"), "tie": N_("tie")}
SAID = {
    "A": N_("Question {number}: A is better."),
    "B": N_("Question {number}: B is better."),
    "tie": N_("Question {number}: a tie."),
    "undo": N_("Question {number}: your answer is taken back."),
    "first": N_("There is no answer to take back."),
    "last": N_("All questions are answered; Undo takes the last answer back."),
}
LOOK = """
.ch-labeller .ch-ask { display: block; width: 100%; box-sizing: border-box; padding: 8px 10px; margin: 6px 0;
  border: 1px solid var(--ch-line); border-radius: 5px; overflow: visible; }
.ch-panel.ch-labeller .ch-ask:focus { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 2px; }
.ch-labeller .ch-tally { font-variant-numeric: tabular-nums; font-weight: 600; }
.ch-labeller .ch-meter { height: 4px; border-radius: 2px; background: var(--ch-tint); margin: 2px 0 8px; }
.ch-labeller .ch-meter div { height: 4px; border-radius: 2px; background: var(--ch-bar); }
.ch-labeller .ch-label { color: var(--ch-soft); font-size: 12px; }
.ch-labeller .ch-words { font-size: 15px; line-height: 1.5; white-space: pre-wrap; overflow-wrap: anywhere;
  max-width: 75ch; }
.ch-labeller .ch-pair { display: grid; gap: 10px; margin-top: 8px;
  grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); }
.ch-labeller .ch-pair .ch-card { min-height: 7.5em; padding: 8px 12px; }
.ch-labeller .ch-letter { font-size: 18px; font-weight: 700; line-height: 1.3; }
.ch-labeller .ch-row .jupyter-button { min-width: 96px; margin: 0; height: 32px; line-height: 32px; }
.ch-labeller .ch-row .ch-undo { margin-left: auto; }
.ch-labeller:has(.ch-finished) .ch-answer { display: none; }
.ch-panel.ch-labeller .jupyter-button:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2);
  outline-offset: 2px; }
.ch-panel.ch-labeller code { white-space: pre-wrap; overflow-wrap: anywhere; }
.ch-labeller .ch-said { min-height: 1.5em; }
.ch-labeller .ch-hint kbd { font-family: var(--ch-mono); color: var(--ch-ink); border: 1px solid var(--ch-line);
  border-radius: 3px; padding: 0 4px; background: var(--ch-tint); }
"""
# The question can have the focus, so that keys work without one of the buttons. Plain keys stay within the panel: in
# JupyterLab's command mode A and B insert cells, and D D deletes one. Shift+Enter, Tab and shortcuts pass. Each
# question takes one click: a second one, meant for it, would answer the next, which nobody has read.
TAKE_THE_KEYS = """
const panel = this.closest('.ch-panel'), ask = panel.querySelector('.ch-ask');
const buttons = {a: 'choose-a', arrowleft: 'choose-a', b: 'choose-b', arrowright: 'choose-b', t: 'choose-tie',
  ' ': 'choose-tie', u: 'undo', backspace: 'undo'};
const held = ['enter', 'delete', 'arrowup', 'arrowdown'];
const name = () => {
  const shown = ask.querySelector('[data-turn]');
  if (!shown) return;
  ask.tabIndex = 0;
  ask.setAttribute('role', 'group');
  ask.setAttribute('aria-label', shown.dataset.label);
  const at = document.activeElement;
  if (shown.matches('.ch-finished') && panel.contains(at) && at.closest('.ch-answer')) ask.focus();
};
const press = event => {
  const key = event.key.toLowerCase(), plain = event.key.length === 1;
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || (event.shiftKey && !plain)) return;
  if (event.target.closest('input, textarea, select, [contenteditable]')) return;
  if (!plain && !buttons[key] && !held.includes(key)) return;
  event.stopPropagation();
  if (!buttons[key] || (key === ' ' && event.target.closest('button'))) return;
  event.preventDefault();
  if (!event.repeat) panel.querySelector('.ch-' + buttons[key]).click();
};
const once = event => {
  const shown = ask.querySelector('[data-turn]');
  if (!event.target.closest('button') || !shown) return;
  if (panel.dataset.sent === shown.dataset.turn) { event.stopPropagation(); return; }
  panel.dataset.sent = shown.dataset.turn;
  if (event.detail) ask.focus({preventScroll: true});
};
name();
if (!panel.dataset.labeller) {
  panel.dataset.labeller = 'on';
  panel.addEventListener('keydown', press);
  panel.addEventListener('click', once, true);
  new MutationObserver(name).observe(ask, {childList: true, subtree: true});
}
"""


class PreferenceLabeller(Panel):
    """Asks which of two responses is better, and keeps every answer in a file; a later panel goes on where it ended.

    Args:
        questions: what to ask, in this order; `course_helpers.choices.ask` makes them.
        file: where the answers are kept, one JSON object a line.

    Attributes:
        file: the file as it was given.
        book: the answers in the file, and those that could not be written.

    Raises:
        ValueError: no questions, something else than questions, or one that is there twice.
    """

    def __init__(self, questions: Sequence[Question], file: str | Path = "my_choices.jsonl"):
        """Read what was answered before, and show the first question that is open."""
        self.questions = _checked(questions)
        self.places = {question.id: place for place, question in enumerate(self.questions)}
        self.file, self.book, self.turn, self.last = str(file), ChoiceBook(file), 0, None
        self.question, self.said = html_part("ch-question-part"), html_part("ch-said")
        self.hint, self.note = html_part("ch-keys"), html_part("ch-note")
        ask = box("ch-ask", [self.question])
        for part in (ask, self.said, self.note):
            part.add_class("ch-live")
        row = box("ch-row", self._make_buttons())
        sheet = html_part("ch-sheet", f'<style onload="{escape(TAKE_THE_KEYS)}">{LOOK}</style>')
        super().__init__(N_("Which response is better?"), [sheet, ask, row, self.said, self.hint, self.note])
        self.add_class("ch-labeller")
        self.guard(self.book.open)
        self.refresh()

    def _make_buttons(self) -> list:
        names = {"A": N_("A is better"), "tie": N_("Tie"), "B": N_("B is better")}
        self.buttons = {answer: button(name) for answer, name in names.items()}
        self.undo_button = button(N_("Undo"), icon="undo")
        for answer, made in self.buttons.items():
            made.add_class("ch-answer")
            made.add_class(f"ch-choose-{answer.lower()}")
            made.on_click(lambda clicked, answer=answer: self.guard(lambda: self.choose(answer)))
        self.undo_button.add_class("ch-undo")
        self.undo_button.on_click(lambda clicked: self.guard(self.undo))
        tips = {"A": N_("Key A or ←"), "tie": N_("Key T or Space"), "B": N_("Key B or →")}
        for answer, tip in tips.items():
            say(self.buttons[answer], "tooltip", tip)
        say(self.undo_button, "tooltip", N_("Key U or Backspace"))
        return [*self.buttons.values(), self.undo_button]

    # --- what was answered --------------------------------------------------------------------------------------------

    @property
    def choices(self) -> list[Choice]:
        """The answers to these questions in the order in which they were given, saved or not."""
        return [choice for choice in self.book.choices.values() if choice.id in self.places]

    def pairs(self) -> list[dict[str, str]]:
        """The answers as preference pairs, as `course_helpers.choices.pairs_of` makes them."""
        return pairs_of(self.choices)

    @property
    def place(self) -> int | None:
        """Place of the first question without an answer, counted from 0; None if all have one."""
        return next((place for key, place in self.places.items() if key not in self.book.choices), None)

    def choose(self, answer: str) -> None:
        """Answer the question on show: it is kept first, then the next one comes."""
        place, self.turn = self.place, self.turn + 1
        self.last = ("last", 0) if place is None else (answer, place + 1)
        try:
            if place is not None:
                self.book.put(Choice.of(self.questions[place], answer))
        finally:  # what could not be written is in memory
            self.refresh()

    def undo(self) -> None:
        """Take the last answer back, also one of an earlier session."""
        given, self.turn = self.choices, self.turn + 1
        self.last = ("undo", self.places[given[-1].id] + 1) if given else ("first", 0)
        try:
            if given:
                self.book.take_back(given[-1].id)
        finally:
            self.refresh()

    # --- what is shown ------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the open question, or that all are answered."""
        said, number = self.last or ("", 0)
        self.said.value = escape(_(SAID[said]).format(number=number)) if said else ""
        self.note.value = alert(self.book.damage_in_words()) if self.book.damage else ""
        self.hint.value = f'<p class="ch-hint">{keys_html()}</p><p class="ch-hint">{escape(self._where())}</p>'
        self.question.value = self.done_html() if self.place is None else self.question_html(self.place)

    def question_html(self, place: int) -> str:
        """One question: how far one is, the prompt, and both responses."""
        question = self.questions[place]
        label = _("Question {number} of {count}").format(number=place + 1, count=len(self.questions))
        cards = "".join(card(letter, text) for letter, text in (("A", question.a), ("B", question.b)))
        return (
            f'<div data-turn="{self.turn}" data-label="{escape(label)}">{self._tally()}'
            f'<div class="ch-label">{escape(_("prompt"))}</div>{words_html(question.prompt)}'
            f'<div class="ch-pair">{cards}</div></div>'
        )

    def _tally(self) -> str:
        count, all_ = len(self.choices), len(self.questions)
        words = _("{some} of {all}").format(some=count, all=all_)
        meter = f'<div class="ch-meter" aria-hidden="true"><div style="width:{100 * count / all_:.1f}%"></div></div>'
        return f'<div class="ch-tally">{escape(words)}</div>{meter}'

    def done_html(self) -> str:
        """That all is answered, what was kept, and how to go on."""
        label = _("All questions are answered")
        given = [choice.answer for choice in self.choices]
        count = _("A: {a}, B: {b}, ties: {tie}. Preference pairs: {pairs}.")
        a, b, tie = (given.count(answer) for answer in ANSWERS)
        lines = [
            escape(count.format(a=a, b=b, tie=tie, pairs=len(self.pairs()))),
            go_on_html(self.file),
        ]
        words = "".join(f"<p>{line}</p>" for line in lines)
        return (
            f'<div class="ch-finished" data-turn="{self.turn}" data-label="{escape(label)}">{self._tally()}'
            f"<p><b>{escape(label)}.</b></p>{words}</div>"
        )

    def _where(self) -> str:
        """Where the answers are."""
        words = _("Each answer is kept at once in {file} and sent nowhere; the same panel goes on where you stopped.")
        words = words.format(file=self.file)
        others = len(self.book.choices) - len(self.choices)
        if not others:
            return words
        more = ngettext(
            "The file also holds {count} answer to another question.",
            "The file also holds {count} answers to other questions.",
            others,
        )
        return f"{words} {more.format(count=others)}"

    def static_html(self) -> str:
        """What was answered so far as a table; before the first answer, the first question."""
        first = self.questions[0]
        rows = [(c.prompt, c.a, c.b, _(CHOSEN[c.answer])) for c in self.choices] or [
            (first.prompt, first.a, first.b, "–")
        ]
        head = "".join(f"<th>{escape(name)}</th>" for name in (_("prompt"), "A", "B", _("your choice")))
        body = "".join(f"<tr>{''.join(f'<td>{escape(shown(cell))}</td>' for cell in row)}</tr>" for row in rows)
        lead = _("{some} of {all}").format(some=len(self.choices), all=len(self.questions))
        return f"<p>{escape(lead)}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _checked(questions: Sequence[Question]) -> list[Question]:
    """The questions, if they can be asked."""
    questions = list(questions)
    if not questions:
        raise ValueError("questions is empty: pass at least one Question; course_helpers.choices.ask makes them.")
    seen: dict[str, int] = {}
    for number, question in enumerate(questions, start=1):
        if not isinstance(question, Question):
            raise ValueError(f"question {number} is {question!r}; it must be a course_helpers.choices.Question.")
        if question.id in seen:
            raise ValueError(f"question {number} is the same as question {seen[question.id]}: leave one of them out.")
        seen[question.id] = number
    return questions


def shown(text: str) -> str:
    """A text for reading: lines stay lines, and what cannot be seen is written as an escape."""
    return "\n".join(readable(line) if line.strip() else "" for line in text.strip().split("\n"))


def words_html(text: str) -> str:
    """A prompt or a response, whoever wrote it; an empty one says so."""
    empty = _("(empty)")
    words = escape(shown(text)) or f"<i>{escape(empty)}</i>"
    return f'<div class="ch-words"><bdi>{words}</bdi></div>'


def card(letter: str, text: str) -> str:
    """One response, under its letter."""
    name = escape(_("response {letter}").format(letter=letter))
    head = f'<div class="ch-letter">{letter}</div>'
    return f'<div class="ch-card" role="group" aria-label="{name}">{head}{words_html(text)}</div>'


def keys_html() -> str:
    """The keys and what they do."""
    pressed = [
        (("A", "←"), _("A is better")),
        (("B", "→"), _("B is better")),
        (("T", _("Space")), _("tie")),
        (("U", _("Backspace")), _("undo")),
    ]
    each = " · ".join(
        f"{' '.join(f'<kbd>{escape(key)}</kbd>' for key in keys)} {escape(does)}" for keys, does in pressed
    )
    lead = _("Keys, once you have clicked the question or moved to it with Tab:")
    return f"{escape(lead)} {each}"


def go_on_html(file: str) -> str:
    """How to go on with the answers; the name of a file may be anything."""
    words = escape(_("They are kept in {file}. Go on with {pairs} for DPO and {taste} for what they have in common."))
    read = f"read_choices({file!r})"
    calls = {"pairs": f"pairs_of({read})", "taste": f"taste({read}, ready_features())"}
    return words.format(file=escape(file), **{name: f"<code>{escape(call)}</code>" for name, call in calls.items()})
