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
from course_helpers.widgets.beam_picture import in_words, tree_list, tree_svg
from course_helpers.widgets.controls import SamplingControls, button, int_slider, prompt_box, seed_box
from course_helpers.widgets.markup import code, count_of, escape, length, number, percent, token_span
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
    notes = {
        "logits": "policy",
        "repetition penalty": _unless(settings.repetition_penalty, 1.0, "{:g}"),
        "min/max new tokens": f"{settings.min_new_tokens} to {settings.max_new_tokens}",
        "temperature": _unless(settings.temperature, 1.0, "τ = {:g}"),
        "top-k": _unless(settings.top_k, 0, "k = {:g}"),
        "top-p": _unless(settings.top_p, 1.0, "p = {:g}"),
    }
    return notes.get(stage, "")


def _unless(value: float, neutral: float, text: str) -> str:
    return "off" if value == neutral else text.format(value)


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
        self.prompt = prompt_box(prompt)
        self.controls = SamplingControls(lambda: self.guard(self.refresh))
        self.seed = seed_box()
        self.text, self.table = html_part("ch-text"), html_part("ch-stages")
        self.text.add_class("ch-live")
        self.next_button = button("Next step", icon="step-forward", style="primary")
        self.back_button = button("Back", icon="undo")
        self.beams, self.depth = int_slider("beams", 2, 1, 4), int_slider("depth", 3, 1, 6)
        self.search_button = button("Search", icon="sitemap", style="primary")
        self.tree = html_part("ch-beams")
        super().__init__("Decoding microscope", self._layout_parts())
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
            heading("Beam search from here"),
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
        self.tree.value, self.logits = "", None
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
            raise ValueError("There is nothing to write: the text has ended or has no room. Go back, or type a prompt.")
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
        total = math.fsum(step.log_prob for step in self.steps)
        end = " The text has ended." if self.ended else f" Below: step t = {len(self.steps) + 1}."
        return (
            f'<div class="ch-flow"><span class="ch-query">{escape(self.prompt.value)}</span>{spans}</div>'
            f'<p class="ch-hint">ln π(Y|X) = {number(total)} over {count_of(len(self.steps), "token")}.{end}</p>'
        )

    def _span(self, step: Step) -> str:
        policy = math.exp(step.log_prob)
        return token_span(self.name(step.token_id), policy, f"π = {percent(policy)}, drawn with {percent(step.drawn)}")

    def search(self) -> None:
        """Draw the tree of a beam search that starts here."""
        if not self.query or self.ended:
            raise ValueError(
                "There is nothing to search: the text has ended or there is no prompt. Go back, or type one."
            )
        with MODEL_LOCK:
            found = beam_search(
                self.model,
                self.context,
                num_beams=self.beams.value,
                max_new_tokens=self.depth.value,
                length_penalty=0.0,  # the best is then the most probable, by the numbers the tree shows
                eos_token_id=self.tokenizer.eos_token_id,
            )
        self.tree.value = tree_html(found, self.name)

    def static_html(self) -> str:
        """The stages as a plain table."""
        if self.logits is None:
            return ""
        shown = self.stages()
        return (
            f"<p>{code(self.prompt.value)}</p><p>{escape(self.controls.in_words())}, seed {self.seed.value}</p>"
            f"{stages_html(shown, self.rows(shown), self.name)}"
        )


def stages_html(shown: Sequence[Stage], rows: tuple[list[int], int], name: TokenName) -> str:
    """One row a token, one column a stage: its logit and its probability, or the word "cut"."""
    ids, chosen = rows
    head = "".join(f'<th scope="col"><b>{escape(s.name)}</b><br>{escape(s.setting)}</th>' for s in shown)
    body = "".join(_row(index, index == chosen, shown, name) for index in ids)
    return (
        f'<table class="ch-stage-table"><thead><tr><th scope="col"><b>token</b></th>{head}<th scope="col"><b>chosen</b>'
        f"</th></tr></thead><tbody>{body}</tbody></table>"
    )


def _row(index: int, chosen: bool, shown: Sequence[Stage], name: TokenName) -> str:
    cells = "".join(_cell(index, before, stage) for before, stage in zip([None, *shown], shown, strict=False))
    kind, mark = ("ch-chosen", "★ chosen") if chosen else ("ch-other", "")
    return f'<tr class="{kind}"><th scope="row">{code(name(index))}</th>{cells}<td>{mark}</td></tr>'


def _cell(index: int, before: Stage | None, stage: Stage) -> str:
    """A token after a stage; what the stage left as it was is pale."""
    logit, probability = stage.logits[index], stage.probabilities[index]
    if math.isinf(logit):
        return '<td class="ch-gone">cut</td>'
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
    return (
        f'<p>{escape(in_words(tree, name))}</p><div class="ch-scroll">{tree_svg(tree, name)}</div>'
        '<p class="ch-hint">In each box the token and ln π of the text up to it. ★ best response, ■ finished, '
        "full lines kept, dashed lines died.</p>"
        f"<details><summary>The same tree as a list</summary>{tree_list(tree, name)}</details>"
    )
