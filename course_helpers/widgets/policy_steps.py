"""Policy gradient ascent by hand: draw responses, see their rewards, and watch the policy move over its triangle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import ipywidgets as widgets
import torch

from course_helpers import toy
from course_helpers.translation import N_, _, ngettext
from course_helpers.widgets.controls import button, float_slider, int_slider
from course_helpers.widgets.markup import escape, number, percent, whole
from course_helpers.widgets.panel import Panel, box, html_part

WIDTH, HEIGHT, SIDE, MARGIN, TOP = 460, 372, 350.0, 55.0, 34.0
STATIC_STEPS = 8
LONGEST_TRAIL = 300  # steps drawn; older ones would only thicken the line
LOOK = """
.ch-panel .ch-simplex { display: block; max-width: 100%; height: auto; }
.ch-panel .ch-simplex text { fill: var(--ch-ink); font-size: 12px; text-anchor: middle; }
.ch-panel .ch-simplex text.ch-left { text-anchor: start; }
.ch-panel .ch-simplex text.ch-right { text-anchor: end; }
.ch-panel .ch-simplex path { fill: none; stroke-linecap: round; stroke-linejoin: round; }
.ch-panel .ch-simplex path.ch-edge { stroke: var(--ch-soft); stroke-width: 1.5; }
.ch-panel .ch-simplex path.ch-grid { stroke: var(--ch-line); stroke-width: 0.7; }
.ch-panel .ch-simplex path.ch-trail { stroke: #808080; stroke-width: 1.5; }
.ch-panel .ch-simplex path.ch-exact { stroke: var(--ch-bar); stroke-width: 2; stroke-dasharray: 5 4; }
.ch-panel .ch-simplex path.ch-tip { stroke-dasharray: none; }
.ch-panel .ch-simplex path.ch-move { stroke: #d9822b; stroke-width: 3; }
.ch-panel .ch-simplex circle { fill: var(--ch-paper); stroke: #d9822b; stroke-width: 2.5; }
.ch-panel .ch-steps { width: 100%; font-variant-numeric: tabular-nums; font-size: 13px; }
.ch-panel .ch-steps th, .ch-panel .ch-steps td { padding: 2px 8px; text-align: right; font-weight: normal;
  line-height: 1.4; border-bottom: 1px solid var(--ch-line); }
.ch-panel .ch-steps thead th { color: var(--ch-soft); font-size: 12px; }
.ch-panel .ch-steps th:first-child { text-align: left; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Step:
    """One update: how often each response was drawn, its advantage, and the policy before and after.

    Attributes:
        counts: draws of each response.
        advantages: A = r − b of each response.
        before: π before the step.
        after: π after it.
        expected: π after a step along the exact gradient, at the same learning rate.
        theta: θ after the step.
    """

    counts: list[int]
    advantages: list[float]
    before: torch.Tensor
    after: torch.Tensor
    expected: torch.Tensor
    theta: torch.Tensor


def take_step(
    theta: torch.Tensor,
    rewards: torch.Tensor,
    rate: float,
    baseline: float,
    batch: int,
    generator: torch.Generator,
) -> Step:
    """Draw a batch, estimate the gradient of E[r] from it, and move θ along.

    Args:
        theta: θ, (3,).
        rewards: r, (3,).
        rate: learning rate η.
        baseline: b.
        batch: draws n.
        generator: where the draws come from.
    """
    before, advantages = toy.policy(theta), rewards - baseline
    drawn = toy.draw(before, batch, generator)
    after = theta + rate * toy.estimates(theta, drawn, advantages[drawn])
    expected = toy.policy(theta + rate * toy.policy_gradient(theta, rewards))
    counts = torch.bincount(drawn, minlength=len(rewards)).tolist()
    return Step(counts, advantages.tolist(), before, toy.policy(after), expected, after)


class PolicySteps(Panel):
    """A policy over three responses, moved by its own draws: learning rate, baseline and batch size to choose.

    Args:
        names: the three responses.
        rewards: their rewards.
        theta: θ at the start.
        seed: where the draws come from; after "Reset" the same ones come again.
        rate: learning rate at the start.
        baseline: baseline b at the start.
        batch: draws in a step at the start.

    Raises:
        ValueError: not three names, rewards or θ, or a number that is not finite.
    """

    def __init__(
        self,
        names: Sequence[str] = ("a joy", "so-so", "a mess"),
        rewards: Sequence[float] = (1.0, 0.3, -1.0),
        theta: Sequence[float] = (-0.5, 1.0, 0.5),
        seed: int = 0,
        rate: float = 1.0,
        baseline: float = 0.0,
        batch: int = 1,
    ):
        """Build the controls and draw."""
        sizes = [len(names), len(rewards), len(theta)]
        if sizes != [3, 3, 3]:
            words = _("names, rewards and theta hold {sizes} entries; the triangle needs three of each.")
            raise ValueError(words.format(sizes=sizes))
        toy.policy_gradient(list(theta), list(rewards))  # complains about what is no number
        self.names, self.seed = [str(name) for name in names], seed
        self.rewards, self.start = (torch.tensor(list(x), dtype=torch.float64) for x in (rewards, theta))
        self.rate = float_slider(N_("learning rate η"), rate, 0.05, 3.0, 0.05)
        self.baseline = float_slider(N_("baseline b"), baseline, -3.0, 3.0, 0.1)
        self.batch = int_slider(N_("batch size n"), batch, 1, 64)
        self.defaults = [(slider, slider.value) for slider in self.sliders]
        self._build()
        self.reset()

    def _build(self) -> None:
        self.step_button = button(N_("Step"), icon="play", style="primary")
        self.ten_button = button(N_("Ten steps"), icon="forward")
        self.reset_button = button(N_("Reset"), icon="undo")
        self.next_step, self.summary = html_part("ch-next"), html_part("ch-summary")
        self.picture, self.table = html_part("ch-curve"), html_part("ch-numbers")
        self.summary.add_class("ch-live")
        buttons = box("ch-row", [self.step_button, self.ten_button, self.reset_button])
        controls = widgets.VBox([*self.sliders, buttons, self.next_step])
        controls.add_class("ch-controls")
        columns = box("ch-columns", [controls, box("ch-picture", [self.summary, self.picture, self.table])])
        super().__init__(
            N_("Policy gradient, step by step"), [html_part("ch-sheet", f"<style>{LOOK}</style>"), columns]
        )
        for slider in self.sliders:
            slider.observe(lambda change: self.guard(self.say_next), "value")
        self.step_button.on_click(lambda clicked: self.guard(self.step))
        self.ten_button.on_click(lambda clicked: self.guard(lambda: self.step(10)))
        self.reset_button.on_click(lambda clicked: self.guard(self.reset))

    @property
    def sliders(self) -> list[widgets.Widget]:
        """All sliders, from top to bottom."""
        return [self.rate, self.baseline, self.batch]

    @property
    def theta(self) -> torch.Tensor:
        """θ now, (3,)."""
        return self.steps[-1].theta if self.steps else self.start

    @property
    def pi(self) -> torch.Tensor:
        """The policy now, (3,)."""
        return toy.policy(self.theta)

    def reset(self) -> None:
        """Back to the start: sliders, policy and draws."""
        for slider, value in self.defaults:
            slider.value = value
        self.steps, self.generator = [], torch.Generator().manual_seed(self.seed)
        self.refresh()

    def step(self, times: int = 1) -> None:
        """Take one step, or several."""
        settings = [slider.value for slider in self.sliders]
        for _time in range(times):
            self.steps.append(take_step(self.theta, self.rewards, *settings, self.generator))
        self.refresh()

    def refresh(self) -> None:
        """Say and draw where the policy stands and what the last step did."""
        self.say_next()
        self.summary.value = f"<p>{escape(self.in_words())}</p>"
        self.picture.value = self.svg()
        self.table.value = self.table_html()

    # --- in words -----------------------------------------------------------------------------------------------------

    def say_next(self) -> None:
        """What each response would do at the baseline chosen now."""
        advantages = (self.rewards - self.baseline.value).tolist()
        each = ", ".join(f"{name} ({_effect(A)})" for name, A in zip(self.names, advantages, strict=True))
        words = _("If drawn: {each}.").format(each=each)
        self.next_step.value = f'<p class="ch-hint">{escape(words)}</p>'

    def in_words(self) -> str:
        """The last step and its outcome, in sentences."""
        if not self.steps:
            words = _("No step yet: E[r] = {mean}. Press Step to draw and move.")
            return words.format(mean=number(self._mean_reward(self.pi)))
        last = self.steps[-1]
        before, after = (number(self._mean_reward(pi)) for pi in (last.before, last.after))
        words = _("Step {step}: drawn {drawn}. E[r] went from {before} to {after}.")
        return words.format(step=len(self.steps), drawn=self._drawn(last), before=before, after=after)

    def _drawn(self, step: Step) -> str:
        seen = [(c, name, A) for c, name, A in zip(step.counts, self.names, step.advantages, strict=True) if c]
        total = sum(step.counts)
        return ", ".join(f"{'' if total == 1 else f'{c} × '}{name} ({_effect(A)})" for c, name, A in seen)

    def _mean_reward(self, pi: torch.Tensor) -> float:
        return toy.expectation(pi, self.rewards).item()

    def table_html(self) -> str:
        """Each response: reward, draws, advantage, probability before and after the last step."""
        names = (_("response"), "r", "A = r − b", _("drawn"), "π", _("was"))
        head = "".join(f'<th scope="col">{name}</th>' for name in names)
        last = self.steps[-1] if self.steps else None
        rows = ""
        for k, (name, r, p) in enumerate(zip(self.names, self.rewards.tolist(), self.pi.tolist(), strict=True)):
            cells = ["–", "–", percent(p), "–"]
            if last:
                cells = [number(last.advantages[k]), str(last.counts[k]), percent(p), percent(last.before[k].item())]
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in [number(r), *cells])
            rows += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
        return f'<table class="ch-steps"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'

    # --- the triangle -------------------------------------------------------------------------------------------------

    def svg(self) -> str:
        """The simplex: one corner a response, the way so far, and the last step beside the exact one."""
        shown, x, y = self._lines(), *point(self.pi)
        key = _(
            "Each corner: the policy that always writes this. Ring: the policy now. Orange: its last step. "
            "Dashed blue: that of the exact gradient. Grey: the way so far."
        )
        return (
            f'<svg class="ch-simplex" role="img" aria-label="{escape(self._picture_in_words())}" width="{WIDTH}" '
            f'height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">{_grid()}{self._corners()}'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6"/>{shown}</svg>'
            f'<p class="ch-hint">{key}</p>'
        )

    def _picture_in_words(self) -> str:
        parts = ", ".join(f"{name} {percent(p)}" for name, p in zip(self.names, self.pi.tolist(), strict=True))
        return _("Triangle of policies over three responses. The policy now: {parts}.").format(parts=parts)

    def _corners(self) -> str:
        texts = [f"{name if len(name) <= 20 else name[:19] + '…'}, r = {r}" for name, r in self._labels()]
        places = (("", WIDTH / 2, TOP - 12), ("ch-left", 12, HEIGHT - 16), ("ch-right", WIDTH - 12, HEIGHT - 16))
        return "".join(
            f'<text class="{side}" x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'
            for text, (side, x, y) in zip(texts, places, strict=True)
        )

    def _labels(self) -> list[tuple[str, str]]:
        return [(name, number(r)) for name, r in zip(self.names, self.rewards.tolist(), strict=True)]

    def _lines(self) -> str:
        if not self.steps:
            return ""
        last, recent = self.steps[-1], self.steps[-LONGEST_TRAIL:]
        way = [point(step.before) for step in recent]
        trail = f'<path class="ch-trail" d="{_polyline(way)}"/>' if len(way) > 1 else ""
        return trail + arrow(last.before, last.expected, "ch-exact") + arrow(last.before, last.after, "ch-move")

    # --- without a kernel ---------------------------------------------------------------------------------------------

    def static_html(self) -> str:
        """The first steps at the chosen settings, as a table."""
        settings, generator = [slider.value for slider in self.sliders], torch.Generator().manual_seed(self.seed)
        theta, rows = self.start, self._static_row(0, "–", toy.policy(self.start))
        for index in range(1, STATIC_STEPS + 1):
            step = take_step(theta, self.rewards, *settings, generator)
            theta, rows = step.theta, rows + self._static_row(index, self._drawn(step), step.after)
        names = (_("step"), _("drawn"), *(f"π({name})" for name in self.names), "E[r]")
        head = "".join(f"<th>{escape(name)}</th>" for name in names)
        lead = escape(self._settings_in_words(*settings))
        return f"<p>{lead}</p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def _settings_in_words(self, rate: float, baseline: float, batch: int) -> str:
        words = ngettext(
            "Rewards: {rewards}. The first {steps} steps at learning rate {rate}, baseline {baseline}, "
            "{draws} draw a step:",
            "Rewards: {rewards}. The first {steps} steps at learning rate {rate}, baseline {baseline}, "
            "{draws} draws a step:",
            batch,
        )
        return words.format(
            rewards=", ".join(f"{name} {r}" for name, r in self._labels()),
            steps=STATIC_STEPS,
            rate=number(rate),
            baseline=number(baseline),
            draws=whole(batch),
        )

    def _static_row(self, index: int, drawn: str, pi: torch.Tensor) -> str:
        cells = [str(index), drawn, *map(percent, pi.tolist()), number(self._mean_reward(pi))]
        return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"


def _effect(advantage: float) -> str:
    """What a draw of this advantage does to the policy."""
    if round(advantage, 9) == 0:
        words = _("A = {advantage}, does nothing")
    else:
        words = _("A = {advantage}, pulls") if advantage > 0 else _("A = {advantage}, pushes away")
    return words.format(advantage=number(advantage))


def point(pi: torch.Tensor | Sequence[float]) -> tuple[float, float]:
    """Where a policy lies in the picture: the first response's corner on top, then left, then right.

    Args:
        pi: (3,).
    """
    first, _second, third = (float(p) for p in pi)
    return MARGIN + SIDE * (third + first / 2), TOP + SIDE * math.sqrt(0.75) * (1 - first)


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _grid() -> str:
    """The triangle, and lines of equal probability every 25 %."""
    corners = [point(corner) for corner in torch.eye(3).tolist()]
    lines = ""
    for share in (0.25, 0.5, 0.75):
        for k in range(3):
            ends = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
            for end, other in zip(ends, ((k + 1) % 3, (k + 2) % 3), strict=True):
                end[k], end[other] = share, 1 - share
            lines += f'<path class="ch-grid" d="{_polyline([point(end) for end in ends])}"/>'
    return f'{lines}<path class="ch-edge" d="{_polyline(corners)} Z"/>'


def arrow(begin: torch.Tensor, end: torch.Tensor, name: str) -> str:
    """A line between two policies, with a head that never outgrows it; nothing if they are one point.

    Args:
        begin: π where it starts, (3,).
        end: π where it ends, (3,).
        name: class of its look.
    """
    (x0, y0), (x1, y1) = point(begin), point(end)
    long = math.hypot(x1 - x0, y1 - y0)
    if long < 0.5:
        return ""
    size, angle = min(10.0, 0.6 * long), math.atan2(y1 - y0, x1 - x0)
    left, right = ((x1 - size * math.cos(angle + s), y1 - size * math.sin(angle + s)) for s in (0.5, -0.5))
    line, tip = _polyline([(x0, y0), (x1, y1)]), _polyline([left, (x1, y1), right])
    return f'<path class="{name}" d="{line}"/><path class="{name} ch-tip" d="{tip}"/>'
