"""The partition function by hand: a slider for each reward, and the sum Z that grows out of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ipywidgets as widgets
import torch
from torch import Tensor

from course_helpers import toy
from course_helpers.translation import N_, _
from course_helpers.widgets import responses
from course_helpers.widgets.controls import button, float_slider
from course_helpers.widgets.log_slider import SPEAK_THE_VALUE, log_slider
from course_helpers.widgets.markup import block_bar, escape, number, percent
from course_helpers.widgets.panel import Panel, box, html_part
from course_helpers.widgets.responses import (
    LARGEST_REWARD,
    bar,
    check_rewards,
    checked,
    from_log,
    named,
    one_query,
    reward_slider,
    table,
)

LEAST, MOST = 0.01, 100.0  # of β; at the least, the exponent of the largest reward is still one of float64's
LOOK = """
.ch-panel .ch-values.ch-terms td:nth-child(6) { width: 24%; }
.ch-panel .ch-values.ch-terms thead th:nth-child(6) { text-align: left; }
.ch-panel .ch-columns > .ch-picture.ch-broad { flex: 3 1 460px; }
"""


class RewardSliders(Panel):
    """One query: rewards, β and a constant to choose; Z term by term, and the optimal policy as shares of it.

    Args:
        pi_ref: π_ref of the query, (M,).
        beta: β at the start, from 0.01 to 100.
        names: the responses; Y₁, Y₂, … if there are none.
        rewards: rewards at the start, (M,), each from −3 to 3; 0 if there are none.

    Raises:
        ValueError: no distribution, lengths that do not fit, or a number outside its range.
    """

    def __init__(
        self,
        pi_ref: Tensor | Sequence[float],
        beta: float = 1.0,
        names: Sequence[str] | None = None,
        rewards: Tensor | Sequence[float] | None = None,
    ):
        """Build the sliders and draw."""
        start = torch.zeros_like(one_query("pi_ref", pi_ref)) if rewards is None else rewards
        self.pi_ref, start = checked(pi_ref, start)
        check_rewards(start)
        self.names = named(names, len(self.pi_ref))
        self.rewards = [reward_slider(*each) for each in zip(self.names, start.tolist(), strict=True)]
        self.constant = float_slider(N_("add c to all"), 0.0, -LARGEST_REWARD, LARGEST_REWARD, 0.1)
        self.beta = log_slider(N_("β, price of a nat"), beta, LEAST, MOST)
        self.defaults = [(slider, slider.value) for slider in self.sliders]
        self._build()
        self.refresh()

    def _build(self) -> None:
        self.reset_button = button(N_("Reset"), icon="undo")
        self.summary, self.terms = html_part("ch-summary"), html_part("ch-terms")
        self.summary.add_class("ch-live")
        controls = widgets.VBox([*self.sliders, self.reset_button])
        controls.add_class("ch-controls")
        shown = box("ch-picture", [self.summary, self.terms])
        shown.add_class("ch-broad")
        look = responses.LOOK + LOOK
        sheet = html_part("ch-sheet", f'<style onload="{escape(SPEAK_THE_VALUE)}">{look}</style>')
        super().__init__(N_("Rewards and the partition function"), [sheet, box("ch-columns", [controls, shown])])
        for slider in self.sliders:
            slider.observe(lambda change: self.guard(self.refresh), "value")
        self.reset_button.on_click(lambda clicked: self.guard(self.reset))

    @property
    def sliders(self) -> list[widgets.Widget]:
        """All sliders, from top to bottom."""
        return [*self.rewards, self.constant, self.beta]

    @property
    def plain(self) -> Tensor:
        """Rewards as the sliders stand, without the constant, (M,)."""
        return torch.tensor([slider.value for slider in self.rewards], dtype=torch.float64)

    @property
    def r(self) -> Tensor:
        """Rewards with the constant, (M,)."""
        return self.plain + self.constant.value

    @property
    def log_z(self) -> float:
        """ln Z(X) now, in nats."""
        return toy.log_partition(self.pi_ref, self.r, self.beta.value).item()

    @property
    def pi(self) -> Tensor:
        """π_r now, (M,)."""
        return toy.optimal_policy(self.pi_ref, self.r, self.beta.value)

    def reset(self) -> None:
        """Back to the start."""
        for slider, value in self.defaults:
            slider.value = value

    def refresh(self) -> None:
        """Say and draw Z."""
        self.summary.value = f"<div>{self.numbers_html()}</div><p>{escape(self.in_words())}</p>"
        self.terms.value = self.terms_html()

    def numbers_html(self) -> str:
        """Z as a formula with its number."""
        words = _("Z(X) = Σ π_ref exp(r/β) = <b>{Z}</b>; ln Z = {log_z}; β ln Z = {value}")
        log_z = self.log_z
        return words.format(Z=from_log(log_z), log_z=number(log_z), value=number(self.beta.value * log_z))

    def in_words(self) -> str:
        """What the constant did to Z and to π_r, or what to try."""
        c, beta = self.constant.value, self.beta.value
        if c:
            words = _(
                "c = {c} is added to every reward: Z is multiplied by exp(c/β) = exp({power}), and ln Z goes from "
                "{before} to {after}. π_r is unchanged: each product was multiplied by the same number as their sum."
            )
            before = toy.log_partition(self.pi_ref, self.plain, beta).item()
            return words.format(c=number(c), power=number(c / beta), before=number(before), after=number(self.log_z))
        if not self.plain.any():
            return _("All rewards are 0: each product is π_ref itself, so Z = 1 and π_r is π_ref.")
        return _("π_r is each product's share of Z. Add c to all rewards: Z will change, and π_r will not.")

    def terms_html(self) -> str:
        """Z term by term, and each term's share."""
        head = (*self._columns(), _("share of Z = π_r; outline: π_ref"), "π_r")
        rows = [(*cells, bar(p, before), percent_of(p)) for cells, p, before in self._rows()]
        total = (*self._total(), "", percent_of(1.0))
        return f'<div class="ch-scroll">{table(head, rows, "ch-values ch-terms", total)}</div>'

    def static_html(self) -> str:
        """The same table without styles."""
        head = (*self._columns(), "π_r", _("π_r, 0 to 100 %"))
        rows = [(*cells, percent_of(p), block_bar(p)) for cells, p, _before in self._rows()]
        lead = f"<p>β = {self.beta.value:.3g}; {self.numbers_html()}</p><p>{escape(self.in_words())}</p>"
        return lead + table(head, rows, total=(*self._total(), percent_of(1.0), ""))

    def _columns(self) -> tuple[str, ...]:
        reward = "r + c" if self.constant.value else "r"
        return _("response"), _("π_ref"), reward, _("exp(r/β)"), _("product")

    def _rows(self) -> list[tuple[tuple[str, ...], float, float]]:
        """Name, π_ref, reward, weight and product as text; π_r and π_ref as numbers."""
        exponents = (self.r / self.beta.value).tolist()
        together = zip(self.names, self.pi_ref.tolist(), self.r.tolist(), exponents, self.pi.tolist(), strict=True)
        rows = []
        for name, before, r, exponent, p in together:
            product = exponent + math.log(before) if before else -math.inf  # its logarithm
            cells = (escape(name), percent_of(before), number(r), from_log(exponent), from_log(product))
            rows.append((cells, p, before))
        return rows

    def _total(self) -> tuple[str, ...]:
        return _("sum"), percent_of(1.0), "", "", f"Z = {from_log(self.log_z)}"


def percent_of(probability: float) -> str:
    """A probability in percent, as HTML."""
    return escape(percent(probability))
