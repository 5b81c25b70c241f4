"""The next token's distribution under every sampling setting, live, and rollouts drawn from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ipywidgets as widgets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_helpers.rollouts import Rollout, sample_rollouts
from course_helpers.sampling import SamplingSettings, distribution, entropy, softmax
from course_helpers.tokens import TokenName, token_names
from course_helpers.translation import N_, _, ngettext
from course_helpers.widgets.controls import SamplingControls, button, in_words, int_slider, prompt_box, seed_box
from course_helpers.widgets.markup import (
    Bar,
    bars,
    drawn_in_words,
    escape,
    legend,
    number,
    static_bars,
    token_span,
    whole,
)
from course_helpers.widgets.panel import Panel, box, heading, html_part
from course_helpers.widgets.policy import MODEL_LOCK, next_logits, prompt_ids

TOP = 12


def likeliest(probabilities: np.ndarray, before: np.ndarray, count: int) -> list[int]:
    """Ids of the `count` likeliest tokens; those that were cut follow in the order they had before."""
    kept = _largest(probabilities, count)
    kept = kept[probabilities[kept] > 0]
    cut = [index for index in _largest(before, count) if probabilities[index] == 0]
    return [*kept.tolist(), *cut][:count]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    count = min(count, values.size)
    some = np.argpartition(-values, count - 1)[:count]
    return some[np.lexsort((some, -values[some]))]


class LogitsExplorer(Panel):
    """Sliders over one vector of logits, and the distribution they make of it.

    Args:
        logits: one number for each token of a vocabulary; None while there are none yet.
        name: the text of a token id.
        previous_ids: tokens that already occurred, for the repetition penalty.
        eos_token_id: the token that ends a text, for min and max new tokens.
        title: the first line, marked with `N_` if it is one of the course's.
        above: widgets to put between title and sliders.
        below: widgets to put under the picture.
    """

    def __init__(
        self,
        logits: np.ndarray | None,
        name: TokenName,
        previous_ids: Sequence[int] = (),
        eos_token_id: int | None = None,
        title: str = N_("From logits to the next token"),
        above: Sequence[widgets.Widget] = (),
        below: Sequence[widgets.Widget] = (),
    ):
        """Build the sliders and draw the first picture."""
        self.name, self.eos_token_id = name, eos_token_id
        self.logits: np.ndarray | None = None
        self.controls = SamplingControls(lambda: self.guard(self.refresh))
        self.summary = html_part("ch-summary")
        self.summary.add_class("ch-live")
        self.picture = html_part("ch-next-token")
        pictures = box("ch-picture", [self.summary, self.picture])
        super().__init__(title, [*above, box("ch-columns", [self.controls, pictures]), *below])
        self.guard(lambda: self.show(logits, previous_ids))

    def show(self, logits: np.ndarray | None, previous_ids: Sequence[int] = ()) -> None:
        """Show another step: its logits and the tokens before it."""
        policy = None if logits is None else softmax(logits)  # refuses NaN before anything has changed
        self.logits, self.policy, self.previous_ids = logits, policy, list(previous_ids)
        self.refresh()

    def probabilities(self) -> np.ndarray:
        """The distribution that the sliders make, one probability for each token."""
        return distribution(self.logits, self.controls.settings(self.eos_token_id), self.previous_ids)

    def refresh(self) -> None:
        """Draw the distribution anew."""
        if self.logits is None:
            self.summary.value = self.picture.value = ""
            return
        now = self.probabilities()
        self.summary.value = f"<div>{escape(self.in_words(now))}</div>"
        self.picture.value = bars(self.rows(now))

    def in_words(self, probabilities: np.ndarray) -> str:
        """Entropy and size of a distribution, in a sentence."""
        count = int((probabilities > 0).sum())
        words = ngettext(
            "Entropy {entropy} nats; {count} token can be sampled.",
            "Entropy {entropy} nats; {count} tokens can be sampled.",
            count,
        )
        return words.format(entropy=number(float(entropy(probabilities))), count=whole(count))

    def rows(self, probabilities: np.ndarray) -> list[Bar]:
        """The likeliest tokens, and EOS below them if it is not among them."""
        ids = likeliest(probabilities, self.policy, TOP)
        if self.eos_token_id is not None and self.eos_token_id not in ids:
            ids.append(self.eos_token_id)
        return [Bar(self.name(i), float(probabilities[i]), float(self.policy[i])) for i in ids]

    def static_html(self) -> str:
        """Settings, summary and bars as a plain table."""
        if self.logits is None:
            return ""
        now = self.probabilities()
        return (
            f"<p>{escape(self.controls.in_words())}</p><p>{escape(self.in_words(now))}</p>{static_bars(self.rows(now))}"
        )


@dataclass(frozen=True)
class Draws:
    """Rollouts, and what they were drawn with."""

    rollouts: Sequence[Rollout]
    settings: SamplingSettings
    seed: int


class SamplingExplorer(LogitsExplorer):
    """The distribution of the token that follows a prompt, and rollouts drawn with the same settings.

    Args:
        model: a causal language model π.
        tokenizer: its tokenizer.
        prompt: the first prompt; the learner may type another.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str = "This movie was"):
        """Build the panel and read the prompt."""
        self.model, self.tokenizer = model, tokenizer
        self.prompt = prompt_box(prompt)
        self.count = int_slider(N_("rollouts"), 4, 1, 8)
        self.seed = seed_box()
        self.drawn: Draws | None = None
        self.draw_button = button(N_("Draw rollouts"), icon="random", style="primary")
        self.rollouts = html_part("ch-rollouts")
        row = box("ch-row", [self.count, self.seed, self.draw_button])
        super().__init__(
            None,
            token_names(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
            title=N_("Sampling explorer"),
            above=[self.prompt],
            below=[heading(N_("Rollouts")), row, self.rollouts],
        )
        self.prompt.observe(lambda change: self.guard(self.read_prompt), "value")
        self.draw_button.on_click(lambda clicked: self.work(clicked, self.draw))
        self.guard(self.read_prompt)

    @staticmethod
    def from_logits(
        logits: np.ndarray | torch.Tensor,
        tokens: Sequence[str],
        previous_ids: Sequence[int] = (),
        eos_token_id: int | None = None,
    ) -> LogitsExplorer:
        """The explorer without a model: logits given, one token's text for each.

        Args:
            logits: (V,).
            tokens: V texts.
            previous_ids: tokens that already occurred, for the repetition penalty.
            eos_token_id: the token that ends a text, for min and max new tokens.

        Raises:
            ValueError: not as many texts as logits.
        """
        values = torch.as_tensor(logits).detach().cpu().double().numpy()
        if values.shape != (len(tokens),):
            words = _("logits have shape {shape} and there are {count} tokens; expected one each.")
            raise ValueError(words.format(shape=values.shape, count=len(tokens)))
        return LogitsExplorer(values, lambda index: tokens[index], previous_ids, eos_token_id)

    def read_prompt(self) -> None:
        """Ask the model what follows the prompt."""
        self.drawn = None
        self.show_rollouts()
        try:
            ids = prompt_ids(self.model, self.tokenizer, self.prompt.value)
        except ValueError:
            self.show(None)  # no picture is better than that of the prompt before
            raise
        self.show(next_logits(self.model, ids), ids)

    def draw(self) -> None:
        """Draw rollouts and show them side by side."""
        ids = prompt_ids(self.model, self.tokenizer, self.prompt.value)
        settings = self.controls.settings(self.eos_token_id)
        # A generator of its own: a click must not disturb the random numbers of a running cell.
        generator = torch.Generator().manual_seed(self.seed.value)
        with MODEL_LOCK:
            rollouts = sample_rollouts(self.model, ids, self.count.value, settings, generator)
        self.drawn = Draws(rollouts, settings, self.seed.value)
        self.show_rollouts()

    def show_rollouts(self) -> None:
        """Show what was drawn last."""
        self.rollouts.value = rollouts_html(self.drawn, self.name) if self.drawn else ""

    def speak(self) -> None:
        """Say the rollouts again, too; the same ones, not new ones."""
        self.show_rollouts()
        super().speak()


def rollouts_html(draws: Draws, name: TokenName) -> str:
    """Rollouts side by side, tokens coloured by the policy's probability, with their log-probabilities."""
    cards = "".join(_card(index, rollout, name) for index, rollout in enumerate(draws.rollouts, start=1))
    mean = sum(sum(rollout.policy_log_probs) for rollout in draws.rollouts) / len(draws.rollouts)
    outcome = _("Mean of ln π(Y|X) over these rollouts: <b>{mean}</b>").format(mean=number(mean))
    origin = _("Drawn with {settings}, seed {seed}.").format(settings=in_words(draws.settings), seed=draws.seed)
    return f'{legend()}<div class="ch-cards">{cards}</div><p>{outcome}</p><p class="ch-hint">{escape(origin)}</p>'


def _card(index: int, rollout: Rollout, name: TokenName) -> str:
    spans = "".join(
        token_span(name(token), np.exp(policy), drawn_in_words(np.exp(policy), np.exp(drawn)))
        for token, policy, drawn in zip(rollout.token_ids, rollout.policy_log_probs, rollout.log_probs, strict=True)
    )
    total, count = sum(rollout.policy_log_probs), len(rollout.token_ids)
    sums = ngettext(
        "ln π(Y|X) = <b>{total}</b>, the sum over {count} token; {mean} a token",
        "ln π(Y|X) = <b>{total}</b>, the sum over {count} tokens; {mean} a token",
        count,
    )
    head = _("rollout {index}").format(index=index)
    return (
        f'<div class="ch-card"><div class="ch-card-head">{head}</div>'
        f'<div class="ch-flow">{spans}</div>'
        f"<div>{sums.format(total=number(total), count=whole(count), mean=number(total / count))}</div>"
        f'<div class="ch-hint">{_ending(rollout)}</div></div>'
    )


def _ending(rollout: Rollout) -> str:
    if not rollout.ended:
        return _("cut off before an end of text")
    forced = rollout.log_probs[-1] == 0 and rollout.policy_log_probs[-1] < -0.01
    return _("the end was forced, by max new tokens or the other settings") if forced else _("ended by itself")
