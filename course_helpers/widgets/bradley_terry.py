"""Bradley-Terry by hand: two rewards, the probability of a preference, and all that cancels in it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ipywidgets as widgets
import torch

from course_helpers import toy
from course_helpers.translation import N_, _
from course_helpers.widgets import curve_picture, responses
from course_helpers.widgets.controls import button, float_slider
from course_helpers.widgets.curve_picture import Frame, word
from course_helpers.widgets.log_slider import SPEAK_THE_VALUE, log_slider
from course_helpers.widgets.markup import escape, number, percent
from course_helpers.widgets.panel import Panel, box, html_part
from course_helpers.widgets.responses import LARGEST_REWARD, check_rewards, from_log, named, one_query, reward_slider
from course_helpers.widgets.responses import table as table_html

END = 2 * LARGEST_REWARD  # of the axis of differences
STATIC_DIFFERENCES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


class BradleyTerry(Panel):
    """Two responses to one query: rewards to choose, and f(X), Z(X) and β to be seen cancelling.

    Args:
        names: the two responses.
        rewards: theirs at the start, each from −3 to 3.

    Raises:
        ValueError: not two names or rewards, or a reward outside its range.
    """

    def __init__(self, names: Sequence[str] = ("A", "B"), rewards: Sequence[float] = (1.0, 0.0)):
        """Build the sliders and draw."""
        self.names = named(names, 2)
        start = one_query("rewards", rewards)
        if len(start) != 2:
            words = _("rewards are {rewards}; expected two, one for each of {names}.")
            raise ValueError(words.format(rewards=start.tolist(), names=", ".join(self.names)))
        check_rewards(start)
        self.rewards = [reward_slider(*each) for each in zip(self.names, start.tolist(), strict=True)]
        self.shift = float_slider(N_("add f(X) to both"), 0.0, -LARGEST_REWARD, LARGEST_REWARD, 0.1)
        self.partition = log_slider(N_("partition Z(X)"), 1.0, 0.01, 100.0)
        self.beta = log_slider(N_("β, price of a nat"), 1.0, 0.1, 10.0)
        self.defaults = [(slider, slider.value) for slider in self.sliders]
        self._build()
        self.refresh()

    def _build(self) -> None:
        self.reset_button = button(N_("Reset"), icon="undo")
        self.summary, self.picture, self.parts = (html_part(f"ch-{name}") for name in ("summary", "curve", "parts"))
        self.summary.add_class("ch-live")
        controls = widgets.VBox([*self.sliders, self.reset_button])
        controls.add_class("ch-controls")
        columns = box("ch-columns", [controls, box("ch-picture", [self.summary, self.picture])])
        look = curve_picture.LOOK + responses.LOOK
        sheet = html_part("ch-sheet", f'<style onload="{escape(SPEAK_THE_VALUE)}">{look}</style>')
        super().__init__(N_("Bradley-Terry: what counts in a preference"), [sheet, columns, self.parts])
        for slider in self.sliders:
            slider.observe(lambda change: self.guard(self.refresh), "value")
        self.reset_button.on_click(lambda clicked: self.guard(self.reset))

    @property
    def sliders(self) -> list[widgets.Widget]:
        """All sliders, from top to bottom."""
        return [*self.rewards, self.shift, self.partition, self.beta]

    @property
    def r(self) -> tuple[float, float]:
        """The two rewards, without f(X)."""
        one, other = (slider.value for slider in self.rewards)
        return one, other

    @property
    def shifted(self) -> tuple[float, float]:
        """r + f(X) of both."""
        one, other = (reward + self.shift.value for reward in self.r)
        return one, other

    @property
    def beta_log_z(self) -> float:
        """β ln Z(X), in units of reward."""
        return self.beta.value * math.log(self.partition.value)

    @property
    def difference(self) -> float:
        """The difference of the rewards, the one number that counts."""
        one, other = self.shifted
        return one - other

    @property
    def probability(self) -> float:
        """That the first response is preferred to the second."""
        return toy.preference_probability(*self.shifted).item()

    def reset(self) -> None:
        """Back to the start."""
        for slider, value in self.defaults:
            slider.value = value

    def refresh(self) -> None:
        """Say and draw the preference."""
        self.summary.value = f"<div>{self.numbers_html()}</div><p>{escape(self.in_words())}</p>"
        self.picture.value = self.svg()
        self.parts.value = self.parts_html("ch-values")

    # --- in words and numbers -----------------------------------------------------------------------------------------

    def numbers_html(self) -> str:
        """The probability written out."""
        words = _(
            "P({first} ≻ {second}) = exp({one}) / (exp({one}) + exp({other})) = {large} / ({large} + {small}) = "
            "<b>{share}</b> = σ({difference})"
        )
        first, second = (escape(name) for name in self.names)
        one, other = self.shifted
        return words.format(
            first=first,
            second=second,
            one=number(one),
            other=number(other),
            large=from_log(one),
            small=from_log(other),
            share=escape(percent(self.probability)),
            difference=number(self.difference),
        )

    def in_words(self) -> str:
        """Who is preferred how often, and what had no part in it."""
        words = _("{first} is preferred to {second} with probability {share}: the rewards differ by {difference}.")
        first, second = self.names
        share, difference = percent(self.probability), number(self.difference)
        found = words.format(first=first, second=second, share=share, difference=difference)
        if self.shift.value:
            words = _("f(X) = {f} stands in both rewards and cancels in their difference.")
            found += " " + words.format(f=number(self.shift.value))
        if self.partition.value != 1:
            words = _("β ln Z(X) = {value} depends on X alone and cancels like any f(X).")
            found += " " + words.format(value=number(self.beta_log_z))
        return found

    def parts_html(self, look: str = "") -> str:
        """Both rewards put together from their parts, and what of each part is left in the difference."""
        first, second = (escape(name) for name in self.names)
        log_z, f = self.beta_log_z, self.shift.value
        rows = [
            self._row(_("β ln(π_r/π_ref)"), *(reward - log_z for reward in self.r)),
            self._row("+ β ln Z(X)", log_z, log_z),
            self._row(_("= reward r"), *self.r),
            self._row("+ f(X)", f, f),
            self._row("= r + f(X)", *self.shifted),
        ]
        key = _(
            "Only differences count. What depends on X alone is the same for both responses and leaves 0 in the last "
            "column, and β ln Z(X) is such a thing: DPO never has to know Z."
        )
        drawn = table_html((_("part"), first, second, _("difference")), rows, look)
        scrolled = f'<div class="ch-scroll">{drawn}</div>' if look else drawn
        return f'{scrolled}<p class="ch-hint">{key}</p>' if look else f"{scrolled}<p>{key}</p>"

    @staticmethod
    def _row(name: str, one: float, other: float) -> tuple[str, ...]:
        return name, number(one), number(other), number(one - other)

    # --- the curve ----------------------------------------------------------------------------------------------------

    def svg(self) -> str:
        """The logistic curve over the difference of the rewards, and where the sliders stand."""
        frame = Frame((-END, END), (0.0, 1.0), bottom=40)
        at, p = self.difference, self.probability
        differences = torch.linspace(-END, END, 61, dtype=torch.float64)
        heights = toy.preference_probability(differences, 0.0).tolist()
        line = frame.curve(list(zip(differences.tolist(), heights, strict=True)), "ch-line")
        guide = frame.curve([(-END, p), (at, p)], "ch-dashed") + frame.curve([(at, 0.0), (at, p)], "ch-dashed")
        axes = frame.axes(
            [(x, number(x, 0)) for x in (-END, -END / 2, 0.0, END / 2, END)],
            [(y, number(y, 1)) for y in (0.0, 0.5, 1.0)],
            _("difference of the rewards"),
        )
        name = word(frame.left - 20, frame.top - 10, self._probability_name(), "ch-right")
        return frame.picture(self._picture_in_words(), axes, name, guide, line, frame.dot(at, p, "ch-now"))

    def _probability_name(self) -> str:
        first, second = (name if len(name) <= 20 else name[:19] + "…" for name in self.names)
        return f"P({first} ≻ {second})"

    def _picture_in_words(self) -> str:
        words = _(
            "The logistic curve, rising from 0 to 1 over the difference of the rewards, ½ where they are equal. The "
            "point: difference {difference}, probability {share}."
        )
        return words.format(difference=number(self.difference), share=percent(self.probability))

    # --- without a kernel ---------------------------------------------------------------------------------------------

    def static_html(self) -> str:
        """The parts of both rewards, and the probability at some differences, as tables."""
        head = (_("difference of the rewards"), escape(self._probability_name()))
        rows = [(number(x), escape(percent(toy.preference_probability(x, 0.0).item()))) for x in STATIC_DIFFERENCES]
        lead = f"<p>{self.numbers_html()}</p><p>{escape(self.in_words())}</p>"
        return f"{lead}{self.parts_html()}{table_html(head, rows)}"
