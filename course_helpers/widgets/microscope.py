"""One decoding step under the lens: every stage from logits to the chosen token, and the tree of a beam search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_helpers.beams import BeamTree, beam_search
from course_helpers.sampling import SamplingSettings, log_softmax, softmax, stages
from course_helpers.tokens import TokenName, token_names
from course_helpers.translation import N_, SpokenError, _, ngettext
from course_helpers.widgets.beam_picture import in_words, tree_list, tree_svg
from course_helpers.widgets.controls import SamplingControls, button, int_slider, prompt_box, seed_box
from course_helpers.widgets.markup import code, drawn_in_words, escape, length, number, percent, token_span, whole
from course_helpers.widgets.panel import Panel, box, heading, html_part
from course_helpers.widgets.policy import MODEL_LOCK, next_logits, prompt_ids

ROWS = 10


@dataclass(frozen=True)
class Stage:
    """The logits after one transform, and the probabilities they stand for."""

    name: str
    setting: str
    logits: np.ndarray
    probabilities: np.ndarray


def setting_of(stage: str, settings: SamplingSettings) -> str:
    """What a stage does with these settings, in a few signs; "off" if nothing."""
    limits = _("{low} to {high}").format(low=settings.min_new_tokens, high=settings.max_new_tokens)
    notes = {
        N_("logits"): _("policy"),
        N_("repetition penalty"): _unless(settings.repetition_penalty, 1.0, "{:g}"),
        N_("min/max new tokens"): limits,
        N_("temperature"): _unless(settings.temperature, 1.0, "τ = {:g}"),
        N_("top-k"): _unless(settings.top_k, 0, "k = {:g}"),
        N_("top-p"): _unless(settings.top_p, 1.0, "p = {:g}"),
    }
    return notes.get(stage, "")


def _unless(value: float, neutral: float, symbols: str) -> str:
    return _("off") if value == neutral else symbols.format(value)


@dataclass(frozen=True)
class Step:
    """A token that was written: its probability after all stages, and its log-probability under the policy itself."""

    token_id: int
    drawn: float
    log_prob: float


def throw(probabilities: np.ndarray, seed: int, step: int) -> int:
    """Draw a token: a dart thrown at the probabilities laid side by side.

    The dart depends on the seed and the step alone, so that moving a slider changes the targets and not the throw.
    """
    ends = np.cumsum(probabilities)
    dart = np.random.default_rng([seed, step]).random() * ends[-1]
    return int(np.searchsorted(ends, dart, side="right"))


class DecodingMicroscope(Panel):
    """What happens to the logits of one step, stage by stage, until a token is chosen; and beam search as a tree.

    Args:
        model: a causal language model π.
        tokenizer: its tokenizer.
        prompt: the first prompt; the learner may type another.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str = "This movie was"):
        """Build the panel and read the prompt."""
        self.model, self.tokenizer, self.name = model, tokenizer, token_names(tokenizer)
        self.query: list[int] = []
        self.steps: list[Step] = []
        self.logits: np.ndarray | None = None
        self.found: BeamTree | None = None
        self.prompt = prompt_box(prompt)
        self.controls = SamplingControls(lambda: self.guard(self.refresh))
        self.seed = seed_box()
        self.text, self.table = html_part("ch-text"), html_part("ch-stages")
        self.text.add_class("ch-live")
        self.next_button = button(N_("Next step"), icon="step-forward", style="primary")
        self.back_button = button(N_("Back"), icon="undo")
        self.beams, self.depth = int_slider(N_("beams"), 2, 1, 4), int_slider(N_("depth"), 3, 1, 6)
        self.search_button = button(N_("Search"), icon="sitemap", style="primary")
        self.tree = html_part("ch-beams")
        super().__init__(N_("Decoding microscope"), self._layout_parts())
        self._connect()
        self.guard(self.read_prompt)

    def _layout_parts(self) -> list:
        walk = box("ch-row", [self.seed, self.next_button, self.back_button])
        search = box("ch-row", [self.beams, self.depth, self.search_button])
        return [
            self.prompt,
            box("ch-wide", [self.controls]),
            walk,
            self.text,
            self.table,
            heading(N_("Beam search from here")),
            search,
            self.tree,
        ]

    def _connect(self) -> None:
        self.prompt.observe(lambda change: self.guard(self.read_prompt), "value")
        self.seed.observe(lambda change: self.guard(self.refresh), "value")
        self.next_button.on_click(lambda clicked: self.guard(self.next_step))
        self.back_button.on_click(lambda clicked: self.guard(self.back))
        self.search_button.on_click(lambda clicked: self.work(clicked, self.search))

    def read_prompt(self) -> None:
        """Start at the prompt in the box."""
        self.query, self.steps, self.logits = [], [], None
        try:
            self.query = prompt_ids(self.model, self.tokenizer, self.prompt.value)
        finally:
            self.look()

    @property
    def context(self) -> list[int]:
        """The prompt and all that was written: what the policy sees."""
        return [*self.query, *(step.token_id for step in self.steps)]

    @property
    def ended(self) -> bool:
        """Whether the last token is the end of the text."""
        return bool(self.steps) and self.steps[-1].token_id == self.tokenizer.eos_token_id

    def look(self) -> None:
        """Ask the policy for the logits of this step, and show them."""
        self.logits, self.found = None, None
        self.show_tree()
        try:
            if self.query and not self.ended:
                self.logits = next_logits(self.model, self.context)
        finally:
            self.refresh()

    def stages(self) -> list[Stage]:
        """Logits and probabilities after each transform."""
        settings = self.controls.settings(self.tokenizer.eos_token_id)
        steps = stages(self.logits, settings, self.context, generated=len(self.steps))
        return [Stage(name, setting_of(name, settings), logits, softmax(logits)) for name, logits in steps]

    def chosen(self, shown: Sequence[Stage]) -> int:
        """The token drawn from the last stage."""
        return throw(shown[-1].probabilities, self.seed.value, len(self.steps))

    def refresh(self) -> None:
        """Show the text and the stages."""
        self.text.value = self.text_html() if self.query else ""
        self.table.value = ""
        if self.logits is not None:
            shown = self.stages()
            self.table.value = f'<div class="ch-scroll">{stages_html(shown, self.rows(shown), self.name)}</div>'

    def rows(self, shown: Sequence[Stage]) -> tuple[list[int], int]:
        """Ids of the tokens to show, and the chosen one: the largest logits, then EOS and the chosen token."""
        chosen, eos = self.chosen(shown), self.tokenizer.eos_token_id
        ids = np.argsort(-shown[0].logits, kind="stable")[:ROWS].tolist()
        ids += [i for i in dict.fromkeys((eos, chosen)) if i is not None and i not in ids]
        return ids, chosen

    def next_step(self) -> None:
        """Write the chosen token and go on."""
        if self.logits is None:
            raise SpokenError(
                N_("There is nothing to write: the text has ended or has no room. Go back, or type a prompt.")
            )
        shown = self.stages()
        token = self.chosen(shown)
        log_prob = log_softmax(self.logits)[token]
        self.steps.append(Step(token, float(shown[-1].probabilities[token]), float(log_prob)))
        self.look()

    def back(self) -> None:
        """Take the last token back."""
        del self.steps[-1:]
        self.look()

    def text_html(self) -> str:
        """The prompt and what was written, coloured by the policy's probability."""
        spans = "".join(self._span(step) for step in self.steps)
        return (
            f'<div class="ch-flow"><span class="ch-query">{escape(self.prompt.value)}</span>{spans}</div>'
            f'<p class="ch-hint">{self._sum_in_words()} {self._place_in_words()}</p>'
        )

    def _sum_in_words(self) -> str:
        total, count = math.fsum(step.log_prob for step in self.steps), len(self.steps)
        words = ngettext("ln π(Y|X) = {total} over {count} token.", "ln π(Y|X) = {total} over {count} tokens.", count)
        return words.format(total=number(total), count=whole(count))

    def _place_in_words(self) -> str:
        if self.ended:
            return _("The text has ended.")
        return _("Below: step t = {step}.").format(step=len(self.steps) + 1)

    def _span(self, step: Step) -> str:
        policy = math.exp(step.log_prob)
        return token_span(self.name(step.token_id), policy, drawn_in_words(policy, step.drawn))

    def search(self) -> None:
        """Draw the tree of a beam search that starts here."""
        if not self.query or self.ended:
            raise SpokenError(
                N_("There is nothing to search: the text has ended or there is no prompt. Go back, or type one.")
            )
        with MODEL_LOCK:
            self.found = beam_search(
                self.model,
                self.context,
                num_beams=self.beams.value,
                max_new_tokens=self.depth.value,
                length_penalty=0.0,  # the best is then the most probable, by the numbers the tree shows
                eos_token_id=self.tokenizer.eos_token_id,
            )
        self.show_tree()

    def show_tree(self) -> None:
        """Show what the last search found."""
        self.tree.value = tree_html(self.found, self.name) if self.found else ""

    def speak(self) -> None:
        """Say the tree again, too, without a new search."""
        self.show_tree()
        super().speak()

    def static_html(self) -> str:
        """The stages as a plain table."""
        if self.logits is None:
            return ""
        shown = self.stages()
        origin = _("{settings}, seed {seed}").format(settings=self.controls.in_words(), seed=self.seed.value)
        return (
            f"<p>{code(self.prompt.value)}</p><p>{escape(origin)}</p>{stages_html(shown, self.rows(shown), self.name)}"
        )


def stages_html(shown: Sequence[Stage], rows: tuple[list[int], int], name: TokenName) -> str:
    """One row a token, one column a stage: its logit and its probability, or the word "cut"."""
    ids, chosen = rows
    head = "".join(f'<th scope="col"><b>{escape(_(s.name))}</b><br>{escape(s.setting)}</th>' for s in shown)
    body = "".join(_row(index, index == chosen, shown, name) for index in ids)
    first, last = _("token"), _("chosen")
    return (
        f'<table class="ch-stage-table"><thead><tr><th scope="col"><b>{first}</b></th>{head}'
        f'<th scope="col"><b>{last}</b></th></tr></thead><tbody>{body}</tbody></table>'
    )


def _row(index: int, chosen: bool, shown: Sequence[Stage], name: TokenName) -> str:
    cells = "".join(_cell(index, before, stage) for before, stage in zip([None, *shown], shown, strict=False))
    kind, mark = ("ch-chosen", _("★ chosen")) if chosen else ("ch-other", "")
    return f'<tr class="{kind}"><th scope="row">{code(name(index))}</th>{cells}<td>{mark}</td></tr>'


def _cell(index: int, before: Stage | None, stage: Stage) -> str:
    """A token after a stage; what the stage left as it was is pale."""
    logit, probability = stage.logits[index], stage.probabilities[index]
    if math.isinf(logit):
        cut = _("cut")
        return f'<td class="ch-gone">{cut}</td>'
    kind = "ch-first" if before is None else "ch-same" if _same(index, before, stage) else "ch-changed"
    return (
        f'<td class="{kind}">{number(logit)}<br>{escape(percent(probability))}'
        f'<div class="ch-mini" style="width:{length(probability)}"></div></td>'
    )


def _same(index: int, before: Stage, after: Stage) -> bool:
    # A logit may stay while its probability grows, because other tokens were cut.
    unchanged = math.isclose(before.probabilities[index], after.probabilities[index], rel_tol=1e-6)
    return unchanged and bool(before.logits[index] == after.logits[index])


def tree_html(tree: BeamTree, name: TokenName) -> str:
    """The tree as a drawing with its key, and as a list."""
    key = _(
        "In each box the token and ln π of the text up to it. ★ best response, ■ finished, "
        "full lines kept, dashed lines died."
    )
    as_list = _("The same tree as a list")
    return (
        f'<p>{escape(in_words(tree, name))}</p><div class="ch-scroll">{tree_svg(tree, name)}</div>'
        f'<p class="ch-hint">{key}</p>'
        f"<details><summary>{as_list}</summary>{tree_list(tree, name)}</details>"
    )
