"""The optimal policy of one query at every β, from the reference to the argmax, and where it lies on the frontier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from course_helpers import toy
from course_helpers.translation import N_, _
from course_helpers.widgets import curve_picture, responses
from course_helpers.widgets.controls import button
from course_helpers.widgets.curve_picture import Frame, word
from course_helpers.widgets.log_slider import SPEAK_THE_VALUE, log_slider
from course_helpers.widgets.markup import block_bar, escape, number, percent
from course_helpers.widgets.panel import Panel, box, html_part
from course_helpers.widgets.responses import bar, checked, from_log, named, table

LEAST, MOST = 0.01, 100.0
STATIC_BETAS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
NEAR = 0.02  # share of the longest KL that counts as being at an end
LOOK = """
.ch-panel .ch-plot circle.ch-end { fill: var(--ch-paper); stroke: var(--ch-ink); stroke-width: 1.5; }
.ch-panel .ch-values.ch-by-response td:nth-child(2) { width: 36%; }
.ch-panel .ch-values.ch-by-response thead th:nth-child(2) { text-align: left; }
.ch-panel .ch-row.ch-long > .widget-hslider { flex: 1 1 260px; max-width: 640px; }
"""


class Optimum(NamedTuple):
    """What the best policy at one β has and costs.

    Attributes:
        beta: β.
        pi: π_r, (M,).
        log_z: ln Z(X), in nats.
        reward: E[r] of π_r.
        kl: KL(π_r‖π_ref), in nats.
        J: E[r] − β KL, which is β ln Z.
    """

    beta: float
    pi: Tensor
    log_z: float
    reward: float
    kl: float
    J: float


def optimum(pi_ref: Tensor, r: Tensor, beta: float) -> Optimum:
    """The best policy of one query at β, from its closed form.

    Args:
        pi_ref: π_ref, (M,).
        r: rewards, (M,).
        beta: β, above 0, in reward per nat.
    """
    pi = toy.optimal_policy(pi_ref, r, beta)
    log_z = toy.log_partition(pi_ref, r, beta).item()
    reward, kl = toy.expectation(pi, r).item(), toy.kl(pi, pi_ref).item()
    return Optimum(beta, pi, log_z, reward, max(kl, 0.0), toy.objective(pi, pi_ref, r, beta).item())


def greedy_policy(pi_ref: Tensor, r: Tensor) -> Tensor:
    """The limit β → 0: only responses of the largest reward, in π_ref's proportions; those it never writes stay at 0.

    Args:
        pi_ref: π_ref, (M,).
        r: rewards, (M,).
    """
    possible = pi_ref > 0
    best = possible & (r == r[possible].max())
    return pi_ref * best / (pi_ref * best).sum()


def frontier(pi_ref: Tensor, r: Tensor, points: int = 160) -> list[tuple[float, float]]:
    """KL in nats and E[r] of π_r from β = ∞ to β = 0: no policy has more reward at its KL.

    Args:
        pi_ref: π_ref, (M,).
        r: rewards, (M,).
        points: how many, beside the two ends.
    """
    spread = (r.max() - r.min()).item() or 1.0
    # Beyond these β the policy hardly moves any more, and the ends are added as they are.
    betas = spread * torch.logspace(1.5, -1.8, points, dtype=torch.float64)
    between = toy.optimal_policy(pi_ref, r / betas[:, None], 1.0)  # r/β is all that counts: all β at once
    pi = torch.cat([pi_ref[None], between, greedy_policy(pi_ref, r)[None]])
    return list(zip(toy.kl(pi, pi_ref).tolist(), toy.expectation(pi, r).tolist(), strict=True))


class BetaExplorer(Panel):
    """One query: a slider for β, the optimal policy π_r beside its reference, and the exact reward–KL frontier.

    Args:
        pi_ref: π_ref of the query, (M,).
        r: rewards of its responses, (M,).
        names: the responses; Y₁, Y₂, … if there are none.

    Raises:
        ValueError: no distribution, a reward that is not finite, or lengths that do not fit.
    """

    def __init__(
        self, pi_ref: Tensor | Sequence[float], r: Tensor | Sequence[float], names: Sequence[str] | None = None
    ):
        """Build the slider, work out the frontier, and draw."""
        self.pi_ref, self.r = checked(pi_ref, r)
        self.names = named(names, len(self.pi_ref))
        self.frontier = frontier(self.pi_ref, self.r)
        self.beta = log_slider(N_("β, price of a nat"), 1.0, LEAST, MOST)
        self.reset_button = button(N_("Reset"), icon="undo")
        self.summary, self.responses = html_part("ch-summary"), html_part("ch-numbers")
        self.picture, self.terms = html_part("ch-curve"), html_part("ch-terms")
        self.summary.add_class("ch-live")
        numbers = box("ch-picture", [self.responses, self.terms])
        columns = box("ch-columns", [numbers, box("ch-picture", [self.picture])])
        look = curve_picture.LOOK + responses.LOOK + LOOK
        sheet = html_part("ch-sheet", f'<style onload="{escape(SPEAK_THE_VALUE)}">{look}</style>')
        controls = box("ch-row", [self.beta, self.reset_button])
        controls.add_class("ch-long")
        super().__init__(N_("β and the optimal policy"), [sheet, controls, self.summary, columns])
        self.beta.observe(lambda change: self.guard(self.refresh), "value")
        self.reset_button.on_click(lambda clicked: self.guard(self.reset))
        self.refresh()

    @property
    def now(self) -> Optimum:
        """The optimal policy at the slider's β."""
        return optimum(self.pi_ref, self.r, self.beta.value)

    @property
    def ends(self) -> tuple[float, float, float]:
        """E[r] of the reference, E[r] of the argmax, and KL of the argmax: where the frontier begins and ends."""
        (_nothing, low), (longest, high) = self.frontier[0], self.frontier[-1]
        return low, high, longest

    def reset(self) -> None:
        """Back to β = 1."""
        self.beta.value = 1.0

    def refresh(self) -> None:
        """Say and draw the optimal policy at this β."""
        now = self.now
        self.summary.value = f"<p>{escape(self.in_words(now))}</p>"
        self.responses.value = self.responses_html(now)
        self.picture.value = self.svg(now)
        self.terms.value = self.terms_html(now)

    # --- in words and numbers -----------------------------------------------------------------------------------------

    def in_words(self, now: Optimum) -> str:
        """What π_r earns, what it costs, and how near it is to one of its limits."""
        words = _("β = {beta}: π_r earns E[r] = {reward} at KL = {kl} nats, so J = E[r] − β KL = {J}.")
        found = words.format(beta=f"{now.beta:.3g}", reward=number(now.reward), kl=number(now.kl, 3), J=number(now.J))
        return f"{found} {self._place_in_words(now)}"

    def _place_in_words(self, now: Optimum) -> str:
        _low, _high, longest = self.ends
        if longest < 1e-9:
            return _("All responses earn the same, so π_r is π_ref at every β.")
        if now.kl < NEAR * longest:
            return _("A nat is dear: π_r stays at its reference π_ref. That is the limit β → ∞.")
        if now.kl > (1 - NEAR) * longest:
            words = _("A nat is cheap: π_r writes hardly anything but {best}. That is the limit β → 0, the argmax.")
            return words.format(best=self._best())
        return _("The curve has the slope β here: one nat of KL more would earn about β more reward, and cost β.")

    def _best(self) -> str:
        greedy = greedy_policy(self.pi_ref, self.r).tolist()
        return ", ".join(name for name, p in zip(self.names, greedy, strict=True) if p > 0)

    def responses_html(self, now: Optimum) -> str:
        """Each response: its bar, reward, probability under π_r and under π_ref."""
        head = (_("response"), _("0 to 100 %; outline: π_ref"), "r", "π_r", _("π_ref"))
        rows = [(name, bar(p, before), *numbers) for name, p, before, *numbers in self._rows(now)]
        return f'<div class="ch-scroll">{table(head, rows, "ch-values ch-by-response")}</div>'

    def _rows(self, now: Optimum) -> list[tuple]:
        """Escaped name, π_r and π_ref as numbers, then the three columns of text."""
        together = zip(self.names, now.pi.tolist(), self.pi_ref.tolist(), self.r.tolist(), strict=True)
        return [
            (escape(name), p, before, number(r), escape(percent(p)), escape(percent(before)))
            for name, p, before, r in together
        ]

    def terms_html(self, now: Optimum) -> str:
        """Z and J with their parts, at this β and in both limits."""
        low, high, longest = self.ends
        head = ("", _("β → ∞: π_r = π_ref"), f"β = {now.beta:.3g}", _("β → 0: π_r = argmax r"))
        log_z = limit_of_log_z(high, longest)
        rows = [
            (_("Z(X) = Σ π_ref exp(r/β)"), from_log(0.0), from_log(now.log_z), from_log(log_z)),
            ("ln Z(X)", number(0), number(now.log_z), _finite(log_z)),
            ("β ln Z(X)", number(low), number(now.beta * now.log_z), number(high)),
            ("E[r]", number(low), number(now.reward), number(high)),
            (_("KL(π_r‖π_ref), nats"), number(0, 3), number(now.kl, 3), number(longest, 3)),
            (_("J = E[r] − β KL"), number(low), number(now.J), number(high)),
        ]
        key = _("J is β ln Z at every β. A high β keeps π_r near π_ref; only a low β chases the reward.")
        return f'<div class="ch-scroll">{table(head, rows, "ch-values")}</div><p class="ch-hint">{key}</p>'

    # --- the curve ----------------------------------------------------------------------------------------------------

    def svg(self, now: Optimum) -> str:
        """E[r] against KL for all β, its ends, and the tangent where the slider stands."""
        low, high, longest = self.ends
        room, wide = 0.14 * (high - low) or 1.0, longest or 1.0
        frame = Frame((0.0, 1.04 * wide), (low - room, high + room), height=300, left=48)
        tangent = frame.curve([(0.0, now.J), (1.04 * wide, now.J + now.beta * 1.04 * wide)], "ch-dashed")
        ends = frame.dot(0.0, low, "ch-end", 4.5) + frame.dot(longest, high, "ch-end", 4.5)
        ends += word(frame.x(0.0) + 8, frame.y(low) + 16, _("π_ref, β → ∞"), "ch-right")
        ends += word(frame.x(longest), frame.y(high) - 10, _("argmax, β → 0"), "ch-left")
        axes = frame.axes(
            [(0.0, "0"), (wide / 2, number(wide / 2)), (wide, number(wide))],
            [(low, number(low)), (high, number(high))],
            _("KL(π_r‖π_ref) [nats]"),
        )
        name = word(frame.left - 5, frame.top - 10, "E[r]", "ch-left")
        line, dot = frame.curve(self.frontier, "ch-line"), frame.dot(now.kl, now.reward, "ch-now")
        key = _(
            "Blue: E[r] and KL of π_r for every β; no policy lies above it. Dashed: the line of slope β through the "
            "point. It touches the curve, and meets the left edge at J."
        )
        drawn = frame.picture(self._picture_in_words(now), axes, name, tangent, line, ends, dot)
        return f'{drawn}<p class="ch-hint">{key}</p>'

    def _picture_in_words(self, now: Optimum) -> str:
        low, high, longest = self.ends
        words = _(
            "Expected reward against KL: a curve that rises ever more slowly from π_ref at KL 0, E[r] = {low}, to the "
            "argmax at KL {longest}, E[r] = {high}. The point: KL {kl}, E[r] = {reward}."
        )
        return words.format(
            low=number(low),
            high=number(high),
            longest=number(longest, 3),
            kl=number(now.kl, 3),
            reward=number(now.reward),
        )

    # --- without a kernel ---------------------------------------------------------------------------------------------

    def static_html(self) -> str:
        """The policy at this β, and the numbers of some other β, as tables."""
        now = self.now
        head = (_("response"), "r", "π_r", _("π_ref"), _("π_r, 0 to 100 %"))
        rows = [(name, *numbers, block_bar(p)) for name, p, _before, *numbers in self._rows(now)]
        others = [self._static_row(optimum(self.pi_ref, self.r, beta)) for beta in STATIC_BETAS]
        names = ("β", "Z", "β ln Z", "E[r]", _("KL [nats]"), _("J = E[r] − β KL"), _("likeliest response"))
        return f"<p>{escape(self.in_words(now))}</p>{table(head, rows)}{table(names, others)}"

    def _static_row(self, at: Optimum) -> tuple[str, ...]:
        likeliest = int(at.pi.argmax())
        chosen = f"{self.names[likeliest]} ({percent(at.pi[likeliest].item())})"
        numbers = (number(at.beta * at.log_z), number(at.reward), number(at.kl, 3), number(at.J))
        return (f"{at.beta:g}", from_log(at.log_z), *numbers, escape(chosen))


def limit_of_log_z(best: float, longest: float) -> float:
    """ln Z as β → 0: the best reward over β decides, and where that is 0, what is left is ln π_ref(best).

    Args:
        best: the largest reward.
        longest: KL of the argmax, −ln π_ref(best).
    """
    return -longest if best == 0 else math.copysign(math.inf, best)


def _finite(value: float) -> str:
    if math.isfinite(value):
        return number(value)
    return "∞" if value > 0 else "−∞"
