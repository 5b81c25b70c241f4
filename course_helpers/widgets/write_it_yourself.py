"""A response written token by token by the learner, with its log-probability."""

from __future__ import annotations

import math
from functools import partial

import ipywidgets as widgets
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_helpers.sampling import log_softmax
from course_helpers.tokens import readable, token_names
from course_helpers.translation import N_, _
from course_helpers.widgets.controls import button, prompt_box
from course_helpers.widgets.markup import (
    Bar,
    bars,
    code,
    escape,
    number,
    percent,
    quoted,
    scientific,
    shade,
    static_bars,
)
from course_helpers.widgets.panel import Panel, box, close_all, html_part
from course_helpers.widgets.policy import next_logits, prompt_ids

CHOICES = 12
TERM = "π(ω<sub>t</sub> | ω<sub>&lt;t</sub>, X)"
HINT = N_("Choose a bar to write its token. Choose a token of the text to go back to before it.")
END = N_("The text has ended: this token says that nothing follows. Undo, or choose a token to go back to before it.")


class WriteItYourself(Panel):
    """Write a response Y to a query X by choosing each token ω_t from the policy's distribution.

    Args:
        model: a causal language model π.
        tokenizer: its tokenizer.
        prompt: the query; the learner may type another, and starts afresh then.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str = "This movie was"):
        """Build the panel and read the prompt."""
        self.model, self.tokenizer, self.name = model, tokenizer, token_names(tokenizer)
        self.query: list[int] = []
        self.response: list[int] = []
        self.log_probs: list[float] = []
        self.offered: list[int] = []
        self.next_log_probs = np.array([])
        self.prompt = prompt_box(prompt)
        self.prompt_text = html_part("ch-prompt-text")
        self.prompt_text.layout.width = "auto"
        self.steps: list[widgets.Button] = []
        self.written = box("ch-written", [self.prompt_text])
        self.undo_button, self.restart_button = (
            button(N_("Undo"), icon="undo"),
            button(N_("Start over"), icon="refresh"),
        )
        self.sums = html_part("ch-sums")
        self.sums.add_class("ch-live")
        self.picture = html_part("ch-next-token")
        self.choices = [self._choice(place) for place in range(CHOICES)]
        self.hint = html_part("ch-hints")
        overlay = box("ch-choose", [self.picture, box("ch-choices", self.choices)])
        buttons = box("ch-row", [self.undo_button, self.restart_button])
        super().__init__(N_("Write it yourself"), [self.prompt, self.written, buttons, self.sums, self.hint, overlay])
        self.prompt.observe(lambda change: self.guard(self.read_prompt), "value")
        self.undo_button.on_click(lambda clicked: self.guard(self.undo))
        self.restart_button.on_click(lambda clicked: self.guard(partial(self.back_to, 0)))
        self.guard(self.read_prompt)

    def _choice(self, place: int) -> widgets.Button:
        """The button that lies over one bar; its text is for screen readers, the bar is for eyes."""
        choice = widgets.Button()
        choice.on_click(lambda clicked: self.guard(lambda: self.choose(self.offered[place])))
        return choice

    def read_prompt(self) -> None:
        """Start a response to the query in the prompt box."""
        self.query, self.response, self.log_probs = [], [], []
        try:
            self.query = prompt_ids(self.model, self.tokenizer, self.prompt.value)
        finally:
            self.look()

    def choose(self, token_id: int) -> None:
        """Write one token."""
        self.log_probs.append(float(self.next_log_probs[token_id]))
        self.response.append(int(token_id))
        self.look()

    def undo(self) -> None:
        """Take the last token back."""
        self.back_to(max(len(self.response) - 1, 0))

    def back_to(self, length: int) -> None:
        """Keep the first `length` tokens of the response."""
        del self.response[length:], self.log_probs[length:]
        self.look()

    @property
    def log_prob(self) -> float:
        """ln π(Y|X) of what is written so far: the sum over its tokens."""
        return math.fsum(self.log_probs)

    @property
    def ended(self) -> bool:
        """Whether the last token is the end of the text."""
        return bool(self.response) and self.response[-1] == self.tokenizer.eos_token_id

    def look(self) -> None:
        """Ask the policy what may follow, and show it."""
        self.offered, self.next_log_probs = [], np.array([])
        try:
            if self.query and not self.ended:
                self.next_log_probs = log_softmax(next_logits(self.model, [*self.query, *self.response]))
                self.offered = np.argsort(-self.next_log_probs, kind="stable")[:CHOICES].tolist()
        finally:  # also when the text has grown out of the model's context: what is written stays usable
            self.refresh()

    def refresh(self) -> None:
        """Show the text, its log-probability, and what may follow."""
        self._show_written()
        self.sums.value = self.sums_html() if self.query else ""
        self._show_choices()

    def _show_written(self) -> None:
        """The prompt, then the response as buttons that lead back."""
        self.prompt_text.value = f"<span>{escape(self.prompt.value)}</span>" if self.query else ""
        for gone in self.steps[len(self.response) :]:
            close_all(gone)
        del self.steps[len(self.response) :]
        for place in range(len(self.steps), len(self.response)):
            self.steps.append(self._step(place))
        for place, step in enumerate(self.steps):
            step.tooltip = self._step_in_words(place)
        self.written.children = [self.prompt_text, *self.steps]

    def _step(self, place: int) -> widgets.Button:
        """One written token: its colour is its probability, choosing it goes back to before it."""
        colours = shade(math.exp(self.log_probs[place]))
        written = widgets.Button(
            description=readable(self.name(self.response[place])),
            style={"button_color": colours.background, "text_color": colours.text},
            layout=widgets.Layout(width="auto", height="auto"),
        )
        written.on_click(lambda clicked: self.guard(partial(self.back_to, place)))
        return written

    def _step_in_words(self, place: int) -> str:
        log_prob, token = self.log_probs[place], quoted(self.name(self.response[place]))
        words = _("π = {probability}, ln π = {log_prob}; go back to before {token}")
        return words.format(probability=percent(math.exp(log_prob)), log_prob=number(log_prob), token=token)

    def _show_choices(self) -> None:
        """Bars, and a button over each."""
        picture = bars(self.rows(), compare=False) if self.offered else ""
        self.picture.value = f'<div aria-hidden="true">{picture}</div>'  # the buttons say the same to a screen reader
        hint = _(END) if self.ended else _(HINT)
        self.hint.value = f'<p class="ch-hint">{hint}</p>' if self.query else ""
        for place, choice in enumerate(self.choices):
            there = place < len(self.offered)
            choice.layout.display = "" if there else "none"
            choice.description = self._choice_name(self.offered[place]) if there else ""

    def _choice_name(self, token_id: int) -> str:
        token, probability = quoted(self.name(token_id)), percent(math.exp(self.next_log_probs[token_id]))
        return _("choose {token}, probability {probability}").format(token=token, probability=probability)

    def rows(self) -> list[Bar]:
        """The likeliest tokens that may follow."""
        probabilities = [math.exp(self.next_log_probs[i]) for i in self.offered]
        return [Bar(self.name(i), p, p) for i, p in zip(self.offered, probabilities, strict=True)]

    def sums_html(self) -> str:
        """The product of probabilities, and the sum of their logarithms."""
        if not self.response:
            nothing = _("Nothing is written yet: the empty product is 1, and its logarithm is 0.")
            return f'<p class="ch-hint">{nothing}</p>'
        factors = " × ".join(percent(math.exp(value)) for value in self.log_probs)
        terms = " ".join(f"− {number(-value)}" for value in self.log_probs)
        return (
            f'<div class="ch-formula"><span>π(Y|X) = ∏ {TERM}</span>'
            f"<span>= {escape(factors)}</span><span>= <b>{scientific(math.exp(self.log_prob))}</b></span></div>"
            f'<div class="ch-formula"><span>ln π(Y|X) = ∑ ln {TERM}</span>'
            f"<span>= {terms}</span><span>= <b>{number(self.log_prob)}</b></span></div>"
        )

    def static_html(self) -> str:
        """The prompt, the response so far with its sums, and what may follow."""
        if not self.query:
            return ""
        response = " ".join(code(self.name(token)) for token in self.response)
        return f"<p>{code(self.prompt.value)} {response}</p>{self.sums_html()}{static_bars(self.rows(), compare=False)}"
