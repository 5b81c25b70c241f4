"""Questions to several models at once, their answers side by side: what fine-tuning has changed, and what not."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ipywidgets as widgets
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_helpers.checks import check_whole
from course_helpers.prompts import question_prompt
from course_helpers.prose import sendable
from course_helpers.rollouts import Rollout, sample_rollouts
from course_helpers.sampling import SamplingSettings
from course_helpers.tokens import readable
from course_helpers.translation import N_, SpokenError, _, ngettext, say
from course_helpers.widgets.controls import button, float_slider, int_slider, seed_box
from course_helpers.widgets.lists import KEEP_THE_KEYS, refill
from course_helpers.widgets.markup import escape, number, whole
from course_helpers.widgets.panel import Panel, box, heading, html_part, trouble_in_words
from course_helpers.widgets.policy import MODEL_LOCK
from course_helpers.widgets.responses import table

HISTORY = 5  # earlier exchanges that stay on show
NO_EXAMPLE = -1
LONGEST_NAME = 90  # signs of an example in the list
NOTHING_YET = N_("Nothing has been asked yet. Type a question, then press Answer.")
NO_QUESTION = N_("The question is empty. Type one, or choose an example; then press Answer.")
TOO_LONG = N_(
    "The prompt has {tokens} tokens and the answer may have {new}, but the context of this model holds {context}. "
    "Nothing is cut for you: shorten the review or the question."
)
GREEDY = N_("Greedy (τ = 0), repetition penalty {penalty}.")
DRAWN = N_(
    "Drawn at temperature τ {temperature}, top-k {top_k}, top-p {top_p}, repetition penalty {penalty}, seed {seed}."
)
LOOK = """
.ch-panel .ch-ask-box { display: flex; flex-direction: column; gap: 4px; width: 100%; overflow: visible; }
.ch-panel .ch-ask-box > .widget-dropdown, .ch-panel .ch-ask-box > .widget-text,
.ch-panel .ch-ask-box > .widget-textarea { width: 100%; margin: 0; }
.ch-panel .ch-ask-box textarea { resize: vertical; }
.ch-panel .ch-wide.ch-settings > .ch-controls {
  grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); }
.ch-panel .ch-exchange .ch-cards { grid-template-columns: repeat(auto-fit, minmax(min(240px, 100%), 1fr)); }
.ch-panel .ch-asked { font-family: var(--ch-mono); font-size: 13px; white-space: pre-wrap; overflow-wrap: anywhere;
  color: var(--ch-soft); margin: 4px 0; }
.ch-panel .ch-exchange + .ch-exchange { border-top: 1px solid var(--ch-line); margin-top: 8px; padding-top: 4px; }
.ch-panel .ch-exchange .ch-flow { white-space: pre-wrap; line-height: 1.5; }
.ch-panel .ch-exchange .ch-hint { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.ch-panel .ch-exchange .ch-card-head { font-weight: 600; }
"""


@dataclass(frozen=True)
class Answer:
    """What one model wrote, or why it could not.

    Attributes:
        name: of the model, as the panel was given it.
        text: the response without its end-of-text token.
        rollout: its tokens with their log-probabilities; None after an error.
        trouble: the error; None when all went well.
    """

    name: str
    text: str = ""
    rollout: Rollout | None = None
    trouble: Exception | None = None

    @property
    def mean_log_prob(self) -> float:
        """Mean of ln π(ω_t | ω_<t, X) over the response's tokens, the end included, in nats; NaN after an error.

        It is that of the model itself, whatever the sliders made of it before a token was drawn.
        """
        if self.rollout is None:
            return math.nan
        return math.fsum(self.rollout.policy_log_probs) / len(self.rollout.policy_log_probs)


@dataclass(frozen=True)
class Exchange:
    """One prompt, what it was answered with, and the settings of these answers."""

    prompt: str
    answers: tuple[Answer, ...]
    settings: SamplingSettings
    seed: int


class ChatPanel(Panel):
    """A review, a question, and the answer of each model: greedy or drawn, all from the same seed.

    Models are asked when the button is pressed and not before; only the first example is answered at once, so that the
    panel has something to show where no kernel runs.

    Args:
        models: causal language models by name, such as ``{"before": policy, "after": tuned}``. All read `tokenizer`.
        tokenizer: the tokenizer of all of them.
        examples: pairs of review (None for none) and question that the learner can choose from.
        max_new_tokens: tokens of an answer, the end of text included; a longer one is cut off.

    Attributes:
        exchanges: the last questions and answers, newest first.

    Raises:
        ValueError: no models, an example that is no such pair, or `max_new_tokens` below 1.
    """

    def __init__(
        self,
        models: Mapping[str, PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[tuple[str | None, str]] = (),
        max_new_tokens: int = 24,
    ):
        """Build the panel, and answer the first example."""
        if not isinstance(models, Mapping) or not models:
            raise ValueError('models holds no model: pass a dict of at least one, such as {"before": policy}.')
        check_whole("max_new_tokens", max_new_tokens, at_least=1)
        self.models = {str(name): model for name, model in models.items()}
        self.tokenizer, self.max_new_tokens = tokenizer, max_new_tokens
        self.examples = checked_examples(examples)
        self.exchanges: deque[Exchange] = deque(maxlen=HISTORY + 1)
        self._filling = False
        self._make_controls()
        self._build()
        if self.examples:
            self.known.value = 0
            self.guard(self.ask)
        else:
            self.refresh()

    def _make_controls(self) -> None:
        self.known = widgets.Dropdown(options=self._options(), style={"description_width": "72px"})
        self.review = widgets.Textarea(rows=2, continuous_update=False, style={"description_width": "72px"})
        self.question = widgets.Text(continuous_update=False, style={"description_width": "72px"})
        say(self.known, "description", N_("example"))
        say(self.review, "description", N_("review"))
        say(self.review, "placeholder", N_("may stay empty, for a question about no review"))
        say(self.question, "description", N_("question"))
        say(self.question, "placeholder", N_("type a question"))
        if not self.examples:
            self.known.layout.display = "none"
        self.temperature = float_slider(N_("temperature τ"), 0.0, 0.0, 2.0, 0.05)
        self.top_k = int_slider(N_("top-k (0 = off)"), 0, 0, 100)
        self.top_p = float_slider(N_("top-p"), 1.0, 0.05, 1.0, 0.01)
        self.repetition_penalty = float_slider(N_("repetition penalty"), 1.0, 1.0, 2.0, 0.05)
        self.seed = seed_box()
        self.answer_button = button(N_("Answer"), icon="comment", style="primary")
        self.clear_button = button(N_("Clear"), icon="trash")
        self.known.observe(lambda change: self._heard(self.take_example), "value")
        for field in (self.review, self.question, self.temperature):
            field.observe(lambda change: self._heard(self.show_controls), "value")
        self.answer_button.on_click(lambda clicked: self.work(clicked, self.ask))
        self.clear_button.on_click(lambda clicked: self.guard(self.clear))

    def _build(self) -> None:
        self.hint, self.answers, self.earlier = (html_part(f"ch-{name}") for name in ("hints", "answers", "earlier"))
        self.answers.add_class("ch-live")
        sliders = box("ch-controls", [self.temperature, self.top_k, self.top_p, self.repetition_penalty])
        wide = box("ch-wide", [sliders])
        wide.add_class("ch-settings")
        sheet = html_part("ch-sheet", f'<style onload="{escape(KEEP_THE_KEYS)}">{LOOK}</style>')
        asked = box("ch-ask-box", [self.known, self.review, self.question])
        row = box("ch-row", [self.seed, self.answer_button, self.clear_button])
        parts = [sheet, asked, wide, self.hint, row]
        super().__init__(N_("Ask the models"), [*parts, heading(N_("Answers")), self.answers, self.earlier])

    def _heard(self, action: Callable[[], None]) -> None:
        """`guard` for what the learner did; what the panel itself writes into its controls is no wish of theirs."""
        with self.lock:
            if not self._filling:
                self.guard(action)

    # --- what the learner does ----------------------------------------------------------------------------------------

    def take_example(self) -> None:
        """Put the chosen example into both boxes."""
        if self.known.value == NO_EXAMPLE:
            return
        review, question = self.examples[self.known.value]
        self._filling = True
        try:
            self.review.value, self.question.value = review or "", question
        finally:
            self._filling = False

    def ask(self) -> None:
        """Ask every model what is in the boxes, with the settings of the sliders.

        Raises:
            ValueError: there is no question.
        """
        review, question = self.review.value.strip(), self.question.value.strip()
        if not question:
            raise SpokenError(NO_QUESTION)
        prompt, settings, seed = question_prompt(review or None, question), self.settings(), self.seed.value
        answers = tuple(self._answer(name, prompt, settings, seed) for name in self.models)
        self.exchanges.appendleft(Exchange(prompt, answers, settings, seed))
        self.refresh()

    def clear(self) -> None:
        """Forget all answers; what is in the boxes stays."""
        self.exchanges.clear()
        self.refresh()

    def settings(self) -> SamplingSettings:
        """What the sliders say, as `course_helpers.sampling` takes it."""
        return SamplingSettings(
            repetition_penalty=self.repetition_penalty.value,
            temperature=self.temperature.value,
            top_k=self.top_k.value,
            top_p=self.top_p.value,
            eos_token_id=self.tokenizer.eos_token_id,
        )

    def _answer(self, name: str, prompt: str, settings: SamplingSettings, seed: int) -> Answer:
        """One model's answer; an error of one model leaves the others their turn."""
        try:
            rollout = respond(self.models[name], self.tokenizer, prompt, settings, seed, self.max_new_tokens)
        except Exception as error:  # shown on the model's card
            return Answer(name, trouble=error.with_traceback(None))
        ids = rollout.token_ids[:-1] if rollout.ended else rollout.token_ids
        return Answer(name, self.tokenizer.decode(ids, clean_up_tokenization_spaces=False), rollout)

    # --- what is shown ------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Show the newest answers and the earlier ones, without asking a model anything."""
        self.show_controls()
        newest, *earlier = self.exchanges or [None]
        nothing, before = _(NOTHING_YET), _("Earlier")
        self.answers.value = exchange_html(newest) if newest else f'<p class="ch-hint">{escape(nothing)}</p>'
        shown = "".join(map(exchange_html, earlier))
        self.earlier.value = f'<div class="ch-part">{escape(before)}</div>{shown}' if earlier else ""

    def show_controls(self) -> None:
        """Keep the list of examples and the hint in step with the boxes and the sliders."""
        self._filling = True
        try:
            now = (self.review.value or None, self.question.value)
            chosen = self.examples.index(now) if now in self.examples else NO_EXAMPLE
            refill(self.known, self._options(), chosen)
        finally:
            self._filling = False
        self.hint.value = f'<p class="ch-hint">{escape(self.hint_in_words())}</p>'

    def hint_in_words(self) -> str:
        """What the sliders do at this temperature."""
        if self.temperature.value == 0:
            return _("At τ = 0 every model writes its likeliest token: top-k, top-p and seed change nothing.")
        return _("Every model draws with these settings and the same seed.")

    def _options(self) -> tuple[tuple[str, int], ...]:
        names = ((example_name(*example), place) for place, example in enumerate(self.examples))
        return ((_("choose one"), NO_EXAMPLE), *names)

    def static_html(self) -> str:
        """The newest exchange as a plain table."""
        if not self.exchanges:
            return f"<p>{escape(_(NOTHING_YET))}</p>"
        newest = self.exchanges[0]
        rows = [(escape(answer.name), answer_text(answer), escape(numbers(answer))) for answer in newest.answers]
        asked = "<br>".join(escape(readable(line)) for line in newest.prompt.split("\n"))
        head = (_("model"), _("answer"), _("how it ended"))
        return f"<p><code>{asked}</code></p>{table(head, rows)}<p>{escape(origin(newest))}</p>"


def checked_examples(examples: Sequence[tuple[str | None, str]]) -> list[tuple[str | None, str]]:
    """Examples as pairs of review and question, an empty review as None, without spaces around either.

    Raises:
        ValueError: naming the first that is no such pair.
    """
    found = []
    for place, example in enumerate(examples):
        pair = tuple(example) if isinstance(example, Sequence) and not isinstance(example, str) else ()
        kinds = len(pair) == 2 and isinstance(pair[0], str | None) and isinstance(pair[1], str)
        if not kinds or not pair[1].strip():
            raise ValueError(
                f"examples[{place}] is {example!r}; expected a pair (review, question), two texts, the review None "
                "where there is none."
            )
        found.append((sendable(pair[0] or "").strip() or None, sendable(pair[1]).strip()))
    return found


def respond(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    settings: SamplingSettings,
    seed: int,
    max_new_tokens: int,
) -> Rollout:
    """One model's response to a prompt.

    Args:
        model: a causal language model π.
        tokenizer: its tokenizer.
        prompt: the prompt; it is never cut.
        settings: the knobs, as for `course_helpers.sampling.distribution`.
        seed: of the draws.
        max_new_tokens: tokens; the response is cut off after so many.

    Raises:
        ValueError: prompt and response do not fit the model's context.
    """
    ids = list(tokenizer(prompt, verbose=False)["input_ids"])
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and len(ids) + max_new_tokens > context:
        raise SpokenError(TOO_LONG, tokens=len(ids), new=max_new_tokens, context=context)
    # A generator of its own: a click must not disturb the random numbers of a running cell.
    generator = torch.Generator().manual_seed(seed)
    with MODEL_LOCK:
        return sample_rollouts(model, ids, 1, settings, generator, max_new_tokens)[0]


def example_name(review: str | None, question: str) -> str:
    """An example as a line of the list: its question, then as much of the review as there is room for."""
    name = readable(question if review is None else f"{question} — {review}")
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def exchange_html(exchange: Exchange) -> str:
    """The prompt as the models read it, their answers side by side, and how these were made."""
    asked = "\n".join(escape(readable(line)) for line in exchange.prompt.split("\n"))
    cards = "".join(map(card, exchange.answers))
    return (
        f'<div class="ch-exchange"><div class="ch-asked">{asked}</div><div class="ch-cards">{cards}</div>'
        f'<p class="ch-hint">{escape(origin(exchange))}</p></div>'
    )


def card(answer: Answer) -> str:
    """One model's answer, with what can be counted about it."""
    return (
        f'<div class="ch-card"><div class="ch-card-head">{escape(answer.name)}</div>'
        f'<div class="ch-flow">{answer_text(answer)}</div><div class="ch-hint">{escape(numbers(answer))}</div></div>'
    )


def answer_text(answer: Answer) -> str:
    """What a model wrote, escaped; of an error what it says, of nothing that it is nothing."""
    if answer.trouble is not None:
        return escape(trouble_in_words(answer.trouble))
    return escape(readable(answer.text.strip()) or _("(empty)"))


def numbers(answer: Answer) -> str:
    """How an answer ended, how long it is, and how sure the model was of it."""
    if answer.rollout is None:
        return _("no answer")
    count = len(answer.rollout.token_ids)
    if answer.rollout.ended:
        words = ngettext(
            "ended by itself after {count} token, the end counted",
            "ended by itself after {count} tokens, the end counted",
            count,
        )
    else:
        words = ngettext(
            "cut off after {count} token, before an end of text",
            "cut off after {count} tokens, before an end of text",
            count,
        )
    sure = _("mean ln π a token {mean} nats").format(mean=number(answer.mean_log_prob))
    return f"{words.format(count=whole(count))} · {sure}"


def origin(exchange: Exchange) -> str:
    """How the answers of an exchange were made."""
    settings = exchange.settings
    words = _(GREEDY) if settings.temperature == 0 else _(DRAWN)
    return words.format(
        temperature=f"{settings.temperature:g}",
        top_k=settings.top_k,
        top_p=f"{settings.top_p:g}",
        penalty=f"{settings.repetition_penalty:g}",
        seed=exchange.seed,
    )
