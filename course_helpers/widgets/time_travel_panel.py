"""A slider through a training: reward and KL so far, the next token, and what the policy of each step writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ipywidgets as widgets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_helpers.rollouts import Rollout, sample_rollouts
from course_helpers.sampling import SamplingSettings, log_softmax
from course_helpers.time_travel import Journey, Stop, Traveller
from course_helpers.tokens import readable, token_names
from course_helpers.translation import N_, _, say
from course_helpers.widgets import curve_picture, responses, text_cards
from course_helpers.widgets.controls import button, prompt_box, seed_box
from course_helpers.widgets.curve_picture import Frame, word
from course_helpers.widgets.frontier_picture import method_name, setting_name, ticks
from course_helpers.widgets.lists import KEEP_THE_KEYS, refill
from course_helpers.widgets.log_slider import SPEAK_THE_VALUE
from course_helpers.widgets.markup import Bar, axis_end, code, escape, number, percent, quoted, token_span
from course_helpers.widgets.panel import Panel, box, heading, html_part
from course_helpers.widgets.policy import MODEL_LOCK, next_logits, prompt_ids
from course_helpers.widgets.responses import bar, table
from course_helpers.widgets.text_cards import signed

TOP = 8  # tokens in the picture
LONGEST = 16  # tokens of a response that is written live
START = N_("This is π_ref: nothing has been trained yet.")
LOOK = """
.ch-panel .ch-two { display: flex; flex-flow: row wrap; gap: 4px 24px; }
.ch-panel .ch-plot path.ch-second { stroke: #d55e00; stroke-width: 2.5; stroke-dasharray: 6 4; }
.ch-panel .ch-plot path.ch-span { stroke: var(--ch-soft); stroke-width: 1; }
.ch-panel .ch-plot circle.ch-first-now { fill: var(--ch-bar); stroke: var(--ch-ink); }
.ch-panel .ch-plot circle.ch-second-now { fill: var(--ch-paper); stroke: #d55e00; stroke-width: 2.5; }
.ch-panel .ch-row > .widget-dropdown { flex: 1 1 260px; max-width: 460px; margin: 0; }
.ch-panel .ch-row > .ch-wide-text { flex: 2 1 300px; }
.ch-panel .ch-row.ch-long > .widget-hslider { flex: 1 1 320px; max-width: 640px; }
.ch-panel .ch-bars thead th:nth-child(3) { text-align: right; }
"""


@dataclass(frozen=True)
class Writing:
    """Two responses to one prompt from the same seed.

    Attributes:
        step: of the policy that wrote the first.
        seed: of the draws.
        ours: by that policy.
        reference: by π_ref.
        ratio: ln π_θ(Y|X) − ln π_ref(Y|X) of the first, in nats.
    """

    step: int
    seed: int
    ours: Rollout
    reference: Rollout
    ratio: float


class TimeTravel(Panel):
    """The policies that trainings went through, each with its numbers and its words.

    Args:
        journeys: trainings of one base, as `Journey.load` reads them.
        policy: that base, π_ref; the panel works with a copy of it.
        tokenizer: its tokenizer.
        prompt: the first prompt; the first of the texts' prompts when None. The learner may type another.

    Raises:
        ValueError: no journeys, or one of another base.
    """

    def __init__(
        self,
        journeys: Sequence[Journey],
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str | None = None,
    ):
        """Copy the policy and show the first run at its last step."""
        if not journeys:
            raise ValueError("journeys is empty: pass at least one; Journey.load reads a shipped one or a file.")
        self.journeys, self.tokenizer, self.name = list(journeys), tokenizer, token_names(tokenizer)
        self.traveller = Traveller(policy)
        for journey in self.journeys:
            self.traveller.move(journey, 0)  # complains about a run of another base
        self.ids: list[int] = []
        self.before = self.after = np.array([])  # ln of the next token's probabilities under π_ref and under π_θ
        self.written: Writing | None = None
        self._filling = False
        prompts = self.journeys[0].prompts
        self._make_controls(prompt if prompt is not None else (prompts[0] if prompts else "This movie was"))
        self._build()
        self._fill()
        self.guard(self.read_prompt)

    def _make_controls(self, prompt: str) -> None:
        narrow, full = {"description_width": "initial"}, widgets.Layout(width="100%", margin="0")
        last = self.journeys[0].steps[-1]
        self.run = widgets.Dropdown(options=self._runs(), style=narrow)
        self.step = widgets.SelectionSlider(options=self._steps(0), value=last, style=narrow, layout=full)
        self.step.add_class("ch-log")  # its handle tells a screen reader the step, not the place in the list
        self.prompt, self.seed = prompt_box(prompt), seed_box()
        self.known = widgets.Dropdown(options=[("", "")], style=narrow)
        self.write_button = button(N_("Write"), icon="pencil", style="primary")
        for control, name in ((self.run, N_("run")), (self.step, N_("step")), (self.known, N_("prompts of this run"))):
            say(control, "description", name)
        self.run.observe(lambda change: self._heard(self.change_run), "value")
        self.step.observe(lambda change: self._heard(self.travel), "value")
        self.known.observe(lambda change: self._heard(self.take_known), "value")
        self.prompt.observe(lambda change: self._heard(self.read_prompt), "value")
        self.write_button.on_click(lambda clicked: self.work(clicked, self.write))

    def _build(self) -> None:
        names = ("summary", "curves", "next-token", "samples", "rollouts")
        self.summary, self.curves, self.picture, self.texts, self.rollouts = (html_part(f"ch-{n}") for n in names)
        self.next_words = html_part("ch-next")
        self.summary.add_class("ch-live")
        prompt = box("ch-wide-text", [self.prompt])
        rows = box("ch-row", [self.run]), box("ch-row", [self.step]), box("ch-row", [prompt, self.known])
        rows[1].add_class("ch-long")
        look = curve_picture.LOOK + responses.LOOK + text_cards.LOOK + LOOK
        sheet = html_part("ch-sheet", f'<style onload="{escape(SPEAK_THE_VALUE)}">{look}</style>')
        keys = html_part("ch-sheet", f'<style onload="{escape(KEEP_THE_KEYS)}"></style>')
        parts = [sheet, keys, *rows[:2], self.summary, self.curves, heading(N_("The next token")), rows[2]]
        parts += [self.next_words, self.picture, heading(N_("What it writes")), self.texts]
        parts += [heading(N_("Write now")), box("ch-row", [self.seed, self.write_button]), self.rollouts]
        super().__init__(N_("Time travel through a training"), parts)

    def _heard(self, action: Callable[[], None]) -> None:
        """`guard` for what the learner did; what the panel itself writes into its controls is no wish of theirs."""
        with self.lock:
            if not self._filling:
                self.guard(action)

    @property
    def journey(self) -> Journey:
        """The run that is chosen."""
        return self.journeys[self.run.index or 0]

    @property
    def stop(self) -> Stop:
        """What was measured at the step of the slider."""
        return self.journey.stop(self.step.value)

    @property
    def last(self) -> Stop | None:
        """The step before that was kept; None at the first."""
        place = self.journey.steps.index(self.step.value)
        return self.journey.stops[place - 1] if place else None

    # --- what the learner does ----------------------------------------------------------------------------------------

    def change_run(self) -> None:
        """Go to the last step of another run; the prompt stays."""
        self.written = None
        self._fill(self.journey.steps[-1])
        self.travel()

    def take_known(self) -> None:
        """Take one of the prompts of the texts."""
        if self.known.value:
            self.prompt.value = self.known.value

    def read_prompt(self) -> None:
        """Ask π_ref and the policy of this step what follows the prompt."""
        self.ids, self.written = [], None
        self.before = self.after = np.array([])
        try:
            self.ids = prompt_ids(self.traveller.model, self.tokenizer, self.prompt.value)
            with MODEL_LOCK:
                self.before = log_softmax(next_logits(self.traveller.move(self.journey, 0), self.ids))
        finally:  # no picture is better than that of the prompt before
            self._fill()
            self.travel()

    def travel(self) -> None:
        """Go to the step of the slider, and ask the policy there what follows the prompt."""
        with MODEL_LOCK:
            model = self.traveller.move(self.journey, self.step.value)
            if self.ids:
                self.after = log_softmax(next_logits(model, self.ids))
        self.refresh()

    def write(self) -> None:
        """Write one response by the policy of this step and one by π_ref, from the same seed."""
        ids = prompt_ids(self.traveller.model, self.tokenizer, self.prompt.value)
        step, seed = self.step.value, self.seed.value
        with MODEL_LOCK:
            reference = self._draw(ids, 0, seed)
            ours = self._draw(ids, step, seed)
            score = [sum(log_probs(self.traveller.move(self.journey, at), ids, ours.token_ids)) for at in (0, step)]
        self.written = Writing(step, seed, ours, reference, score[1] - score[0])
        self.show_written()

    def _draw(self, ids: list[int], step: int, seed: int) -> Rollout:
        # A generator of its own: a click must not disturb the random numbers of a running cell.
        generator = torch.Generator().manual_seed(seed)
        settings = SamplingSettings(eos_token_id=self.tokenizer.eos_token_id)
        return sample_rollouts(self.traveller.move(self.journey, step), ids, 1, settings, generator, LONGEST)[0]

    # --- what is shown ------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Say and draw the step of the slider, without asking the model anything."""
        self._fill()
        self.summary.value = f"<p>{escape(self.in_words())}</p>"
        self.curves.value = self.curves_html()
        self.next_words.value = f"<p>{escape(self.next_in_words())}</p>" if self.ids else ""
        self.picture.value = bars_html(self.rows()) if self.ids else ""
        before = self.last.texts if self.last else ()
        self.texts.value = text_cards.cards(self.stop.texts, before)
        self.show_written()

    def show_written(self) -> None:
        """Show what was written last."""
        self.rollouts.value = self.written_html(self.written) if self.written else ""

    def _runs(self) -> tuple[tuple[str, int], ...]:
        """A name for each run, and its place."""
        names = [f"{method_name(j.method)}, {setting_name(j.setting)}" for j in self.journeys]
        seed = _("{name}, seed {seed}")
        told = [seed.format(name=name, seed=j.seed) for name, j in zip(names, self.journeys, strict=True)]
        return tuple((name, place) for place, name in enumerate(told))

    def _steps(self, run: int) -> tuple[tuple[str, int], ...]:
        return tuple((str(step), step) for step in self.journeys[run].steps)

    def _fill(self, step: int | None = None) -> None:
        """Give the controls their words and options; what is chosen in them stays, and nobody is told.

        Args:
            step: where the slider is to stand in a run that was just chosen.
        """
        self._filling = True
        try:
            refill(self.run, self._runs(), self.run.value)
            refill(self.step, self._steps(self.run.value), self.step.value if step is None else step)
            prompts = self.journey.prompts
            options = ((_("choose one"), ""), *((readable(prompt), prompt) for prompt in prompts))
            refill(self.known, options, self.prompt.value if self.prompt.value in prompts else "")
        finally:
            self._filling = False

    def in_words(self) -> str:
        """What this step has and costs, and what the last stretch has changed."""
        stop, last = self.stop, self.last
        words = _(
            "Step {step} of {end}: reward {reward} by the judge that trains, {second} by the judge that only measures, "
            "KL {kl} nats a response."
        )
        found = words.format(
            step=stop.step,
            end=self.journey.steps[-1],
            reward=number(stop.reward),
            second=number(stop.second_reward),
            kl=number(stop.kl),
        )
        if last is None:
            return f"{found} {_(START)}"
        changed = sum(one.response != other.response for one, other in zip(stop.texts, last.texts, strict=True))
        since = _("Since step {step}: {reward}, {second} and {kl}; {changed} of {texts} texts have changed.")
        values = (signed(getattr(stop, name) - getattr(last, name)) for name in ("reward", "second_reward", "kl"))
        told = dict(zip(("reward", "second", "kl"), values, strict=True))
        return f"{found} {since.format(step=last.step, **told, changed=changed, texts=len(stop.texts))}"

    def next_in_words(self) -> str:
        """How far the next token's distribution has moved."""
        words = _("After {prompt}: KL(π_θ‖π_ref) of the next token is {kl} nats.")
        return words.format(prompt=quoted(self.prompt.value), kl=number(divergence(self.after, self.before), 3))

    def rows(self) -> list[Bar]:
        """The tokens that are likeliest under either policy."""
        either = np.maximum(self.after, self.before)
        ids = np.argsort(-either, kind="stable")[:TOP]
        return [Bar(self.name(i), float(np.exp(self.after[i])), float(np.exp(self.before[i]))) for i in ids]

    def curves_html(self) -> str:
        """Reward by both judges and KL over the steps, with the points of this step."""
        reward, second, kl = _("reward"), "second_reward", _("KL(π_θ‖π_ref) [nats a response]")
        pair = self._svg(reward, ("reward", second)) + self._svg(kl, ("kl",))
        key = _(
            "Blue line: the judge that trains; orange and dashed: the judge that only measures. Bars: 95 % intervals. "
            "Dots: this step."
        )
        return f'<div class="ch-two">{pair}</div><p class="ch-hint">{escape(key)}</p>'

    def _svg(self, name: str, measures: Sequence[str]) -> str:
        stops, now = self.journey.stops, self.stop
        ends = [getattr(s, f"{m}{end}") for s in stops for m in measures for end in ("_low", "", "_high")]
        room = 0.06 * (max(ends) - min(ends)) or 0.5
        low = 0.0 if measures == ("kl",) else min(ends) - room
        end = stops[-1].step
        frame = Frame((-0.03 * end, 1.03 * end), (low, max(ends) + room), width=430, height=230, left=46)
        parts = [frame.axes(ticks(*frame.x_range), ticks(*frame.y_range), _("step"))]
        parts += [word(6, 14, name, "ch-right")]
        parts += [frame.curve([(now.step, frame.y_range[0]), (now.step, frame.y_range[1])], "ch-dashed")]
        for measure in measures:
            look = ("ch-second", "ch-second-now") if measure == "second_reward" else ("ch-line", "ch-first-now")
            parts += [_spans(frame, stops, measure)]
            parts += [frame.curve([(float(stop.step), getattr(stop, measure)) for stop in stops], look[0])]
            parts += [frame.dot(now.step, getattr(now, measure), look[1], 5.5)]
        words = _("{name} over the steps of training. At step {step}: {values}.")
        values = ", ".join(number(getattr(now, measure)) for measure in measures)
        return frame.picture(words.format(name=name, step=now.step, values=values), *parts)

    def written_html(self, written: Writing) -> str:
        """Both responses, their tokens coloured by the probability their own writer gave them."""
        cards = ((_("π_θ, step {step}").format(step=written.step), written.ours), (_("π_ref"), written.reference))
        drawn = "".join(self._written_card(name, rollout) for name, rollout in cards)
        words = _("ln π_θ(Y|X) − ln π_ref(Y|X) = {ratio} for the first: an estimate of the KL from one response.")
        origin = _("Drawn at τ = 1, both with seed {seed}.").format(seed=written.seed)
        told = f"{words.format(ratio=number(written.ratio))} {origin}"
        return f'<div class="ch-cards">{drawn}</div><p class="ch-hint">{escape(told)}</p>'

    def _written_card(self, name: str, rollout: Rollout) -> str:
        spans = "".join(
            token_span(self.name(token), np.exp(log_prob), f"π = {percent(np.exp(log_prob))}")
            for token, log_prob in zip(rollout.token_ids, rollout.policy_log_probs, strict=True)
        )
        total = f"ln π(Y|X) = {number(sum(rollout.policy_log_probs))}"
        return (
            f'<div class="ch-card"><div class="ch-card-head">{escape(name)}</div><div class="ch-flow">{spans}</div>'
            f'<div class="ch-hint">{total}</div></div>'
        )

    # --- without a kernel ---------------------------------------------------------------------------------------------

    def static_html(self) -> str:
        """All steps as a table, then the next token and the texts of this one."""
        head = (_("step"), _("reward, training judge"), _("reward, measuring judge"), _("KL [nats]"))
        names = ("reward", "second_reward", "kl")
        rows = [(str(stop.step), *(number(getattr(stop, name)) for name in names)) for stop in self.journey.stops]
        run = escape({place: name for name, place in self._runs()}[self.run.value])
        tokens = f"<p>{escape(self.next_in_words())}</p>{static_bars_html(self.rows())}" if self.ids else ""
        told = f"<p>{run}</p><p>{escape(self.in_words())}</p>"
        return f"{told}{table(head, rows)}{tokens}{text_cards.static_texts(self.stop.texts)}"


def divergence(log_pi: np.ndarray, log_pi_ref: np.ndarray) -> float:
    """KL(π‖π_ref) = Σ π (ln π − ln π_ref), in nats.

    Args:
        log_pi: ln π, (V,).
        log_pi_ref: ln π_ref, (V,).
    """
    return max(float((np.exp(log_pi) * (log_pi - log_pi_ref)).sum()), 0.0)


def log_probs(model: PreTrainedModel, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> list[float]:
    """ln π(ω_t | ω_<t, X) of each token of a response, in nats.

    Args:
        model: π, in eval mode.
        prompt_ids: X.
        token_ids: Y.
    """
    ids = torch.tensor([[*prompt_ids, *token_ids]], device=model.device)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(prompt_ids) - 1 : -1].cpu().double()
    chosen = torch.tensor(list(token_ids))[:, None]
    return log_softmax(logits).gather(1, chosen)[:, 0].tolist()


def bars_html(rows: Sequence[Bar]) -> str:
    """Bars of π_θ with the outline of π_ref, one row a token."""
    end = axis_end(rows)
    scale = _("0 to {end} %; outline: π_ref").format(end=f"{100 * end:.0f}")
    cells = [(code(row.token), bar(row.probability / end, row.before / end), *_percents(row)) for row in rows]
    return table((_("token"), scale, "π_θ", _("π_ref")), cells, "ch-bars")


def static_bars_html(rows: Sequence[Bar]) -> str:
    """The same as a plain table."""
    return table((_("token"), "π_θ", _("π_ref")), [(code(row.token), *_percents(row)) for row in rows])


def _percents(row: Bar) -> tuple[str, str]:
    return escape(percent(row.probability)), escape(percent(row.before))


def _spans(frame: Frame, stops: Sequence[Stop], measure: str) -> str:
    """The interval of each step, as an upright line."""
    lines = ""
    for stop in stops:
        low, high = getattr(stop, f"{measure}_low"), getattr(stop, f"{measure}_high")
        if high > low:
            lines += f"M{frame.x(stop.step):.1f},{frame.y(low):.1f} V{frame.y(high):.1f} "
    return f'<path class="ch-span" d="{lines.strip()}"/>' if lines else ""
