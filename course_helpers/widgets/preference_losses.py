"""The losses of DPO's family over the margin of a pair: how much they ask for, and how hard they pull."""

from __future__ import annotations

import math
from typing import NamedTuple

import ipywidgets as widgets
import torch
from torch import Tensor

from course_helpers.dpo.losses import gradient_weight, loss_of_margin
from course_helpers.translation import N_, _, say
from course_helpers.widgets import curve_picture, responses
from course_helpers.widgets.controls import button, float_slider
from course_helpers.widgets.curve_picture import Frame, Point, word
from course_helpers.widgets.log_slider import SPEAK_THE_VALUE, log_slider
from course_helpers.widgets.markup import escape, number
from course_helpers.widgets.panel import Panel, box, html_part
from course_helpers.widgets.responses import table

END = 3.0  # of the axis of margins
LOSSES, WEIGHTS = (0.0, 4.0), (-1.0, 2.0)  # heights of the pictures; IPO leaves them at a small β
STATIC_MARGINS = (-2.0, -1.0, 0.0, 0.5, 1.0, 2.0)
LOOK = """
.ch-panel svg path.ch-sigmoid { stroke: var(--ch-bar); stroke-width: 3; }
.ch-panel svg path.ch-smoothed { stroke: #a05fb4; stroke-width: 2.5; stroke-dasharray: 8 4; }
.ch-panel svg path.ch-ipo { stroke: #d9822b; stroke-width: 2.5; stroke-dasharray: 2 3; }
.ch-panel svg path.ch-hinge { stroke: #2e8b57; stroke-width: 2.5; stroke-dasharray: 10 3 2 3; }
.ch-panel svg circle.ch-sigmoid { fill: var(--ch-bar); }
.ch-panel svg circle.ch-smoothed { fill: #a05fb4; }
.ch-panel svg circle.ch-ipo { fill: #d9822b; }
.ch-panel svg circle.ch-hinge { fill: #2e8b57; }
.ch-panel svg circle.ch-beyond { fill: none; stroke: var(--ch-ink); }
.ch-panel .ch-swatch { vertical-align: middle; margin-right: 6px; }
.ch-panel .ch-swatch path { fill: none; }
.ch-panel .ch-sliders { display: grid; gap: 0 24px; width: 100%; overflow: visible;
  grid-template-columns: repeat(auto-fit, minmax(min(400px, 100%), 1fr)); }
.ch-panel .ch-sliders > .jupyter-button { justify-self: start; margin: 2px 0 2px 160px; }
.ch-panel .ch-two { display: grid; gap: 4px 20px;
  grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); }
.ch-panel .ch-row > .widget-checkbox { width: auto; }
.ch-panel .ch-values.ch-asked td:last-child { white-space: normal; }
"""


class Kind(NamedTuple):
    """A loss of the family.

    Attributes:
        name: in English, marked with `N_`.
        loss_type: as `dpo.losses` calls it.
        smoothed: whether label smoothing is for it.
        look: class of its line.
    """

    name: str
    loss_type: str
    smoothed: bool
    look: str


KINDS = (
    Kind(N_("sigmoid (DPO)"), "sigmoid", False, "ch-sigmoid"),
    Kind(N_("sigmoid, smoothed"), "sigmoid", True, "ch-smoothed"),
    Kind(N_("IPO"), "ipo", False, "ch-ipo"),
    Kind(N_("hinge"), "hinge", False, "ch-hinge"),
)


class PreferenceLosses(Panel):
    """Loss and gradient weight of one pair over its margin m, for sigmoid, IPO and hinge.

    Args:
        margin: m at the start, from −3 to 3.
        beta: β at the start, from 0.01 to 10; it matters to IPO alone.
        label_smoothing: ε at the start, from 0 to 0.45; for the smoothed sigmoid.

    Raises:
        ValueError: a number outside its range.
    """

    def __init__(self, margin: float = 0.0, beta: float = 1.0, label_smoothing: float = 0.1):
        """Build the controls and draw."""
        if not (-END <= margin <= END and 0 <= label_smoothing <= 0.45):
            words = _("margin is {margin} and label_smoothing {epsilon}; they go from −3 to 3 and from 0 to 0.45.")
            raise ValueError(words.format(margin=margin, epsilon=label_smoothing))
        self.margin = float_slider(N_("margin m"), margin, -END, END, 0.05)
        self.beta = log_slider(N_("β (for IPO)"), beta, 0.01, 10.0)
        self.epsilon = float_slider(N_("label smoothing ε"), label_smoothing, 0.0, 0.45, 0.05)
        self.choices = [loss_box(kind) for kind in KINDS]
        self.defaults = [(control, control.value) for control in [*self.sliders, *self.choices]]
        self._build()
        self.refresh()

    def _build(self) -> None:
        self.reset_button = button(N_("Reset"), icon="undo")
        self.summary, self.pictures, self.values = (html_part(f"ch-{name}") for name in ("summary", "curve", "values"))
        self.summary.add_class("ch-live")
        sliders = widgets.VBox([*self.sliders, self.reset_button])
        sliders.add_class("ch-sliders")
        look = curve_picture.LOOK + responses.LOOK + LOOK
        sheet = html_part("ch-sheet", f'<style onload="{escape(SPEAK_THE_VALUE)}">{look}</style>')
        parts = [sheet, sliders, box("ch-row", self.choices)]
        super().__init__(N_("Preference losses over the margin"), [*parts, self.summary, self.pictures, self.values])
        for control, _start in self.defaults:
            control.observe(lambda change: self.guard(self.refresh), "value")
        self.reset_button.on_click(lambda clicked: self.guard(self.reset))

    @property
    def sliders(self) -> list[widgets.Widget]:
        """All sliders, from top to bottom."""
        return [self.margin, self.beta, self.epsilon]

    @property
    def shown(self) -> list[Kind]:
        """The losses that are ticked."""
        return [kind for kind, choice in zip(KINDS, self.choices, strict=True) if choice.value]

    def both(self, kind: Kind, margins: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and gradient weight at the settings of the sliders, of the shape of the margins."""
        settings = (self.beta.value, kind.loss_type, self.epsilon.value if kind.smoothed else 0.0)
        return loss_of_margin(margins, *settings), gradient_weight(margins, *settings)

    def here(self, kind: Kind) -> tuple[float, float]:
        """Loss and gradient weight at the slider's margin."""
        loss, weight = self.both(kind, torch.tensor(self.margin.value, dtype=torch.float64))
        return loss.item(), weight.item()

    def reset(self) -> None:
        """Back to the start."""
        for control, value in self.defaults:
            control.value = value

    def refresh(self) -> None:
        """Say and draw what the losses make of this margin."""
        self.summary.value = f"<p>{escape(self.in_words())}</p>"
        self.pictures.value = self.pictures_html()
        self.values.value = self.values_html()

    # --- in words and numbers -----------------------------------------------------------------------------------------

    def in_words(self) -> str:
        """How the pair is ranked, and what each loss says to it."""
        m = self.margin.value
        if round(m, 9) == 0:
            found = _("m = 0: both implicit rewards are equal, as they are while π_θ is still π_ref.")
        else:
            right = _("m = {m}: the implicit rewards rank the pair rightly.")
            found = (right if m > 0 else _("m = {m}: the implicit rewards rank the pair wrongly.")).format(m=number(m))
        each = _("{name}: loss {loss}, weight {weight}")
        values = [(kind, *self.here(kind)) for kind in self.shown]
        told = [each.format(name=_(k.name), loss=digits(loss), weight=digits(w)) for k, loss, w in values]
        back = [_(kind.name) for kind, _loss, weight in values if weight < -1e-9]
        words = _("A weight below 0 pulls the margin down again: {names}.").format(names=", ".join(back))
        return " ".join([found, *([f"{'; '.join(told)}."] if told else []), *([words] if back else [])])

    def values_html(self) -> str:
        """The shown losses at this margin, and what each of them wants."""
        head = (_("loss"), _("loss at m"), _("gradient weight −∂loss/∂m"), _("is smallest at"))
        rows = []
        for kind in self.shown:
            loss, weight = self.here(kind)
            name = f"{swatch(kind)}{escape(_(kind.name))}"
            rows.append((name, digits(loss), digits(weight), escape(self.wants(kind))))
        key = _("The gradient of a pair's loss is −weight · β (∇ ln π_θ(Y_w|X) − ∇ ln π_θ(Y_l|X)).")
        return f'<div class="ch-scroll">{table(head, rows, "ch-values ch-asked")}</div><p class="ch-hint">{key}</p>'

    def wants(self, kind: Kind) -> str:
        """Where a loss is smallest."""
        epsilon = self.epsilon.value if kind.smoothed else 0.0
        if kind.loss_type == "ipo":
            words = _("m = ½, a log-ratio difference of 1/(2β) = {nats} nats")
            return words.format(nats=number(1 / (2 * self.beta.value)))
        if kind.loss_type == "hinge":
            return _("m = 1 and everywhere beyond")
        if not epsilon:
            return _("m → ∞: a larger margin is always better")
        return _("m = ln((1 − ε)/ε) = {m}").format(m=number(math.log((1 - epsilon) / epsilon)))

    # --- the curves ---------------------------------------------------------------------------------------------------

    def pictures_html(self) -> str:
        """Both pictures side by side, and what leaves them."""
        margins = torch.linspace(-END, END, 241, dtype=torch.float64)
        curves = [(kind, *self.both(kind, margins)) for kind in self.shown]
        at = margins.tolist()
        losses = [(kind, list(zip(at, loss.tolist(), strict=True))) for kind, loss, _weight in curves]
        weights = [(kind, list(zip(at, weight.tolist(), strict=True))) for kind, _loss, weight in curves]
        pair = self.svg(_("loss"), LOSSES, losses, 0) + self.svg(_("gradient weight"), WEIGHTS, weights, 1)
        key = _(
            "Both pictures are cut off: losses above 4, weights above 2 and below −1. IPO divides by β², so it leaves "
            "them at a small β. A dot at the upper or lower edge with a ring stands for a value beyond it."
        )
        return f'<div class="ch-two">{pair}</div><p class="ch-hint">{key}</p>'

    def svg(self, name: str, limits: Point, curves: list[tuple[Kind, list[Point]]], which: int) -> str:
        """One picture: a line for each loss, and a dot on it.

        Args:
            name: what the vertical axis measures.
            limits: its ends.
            curves: each loss and its points.
            which: 0 for the loss, 1 for the gradient weight.
        """
        frame = Frame((-END, END), limits, width=400, height=270)
        m = self.margin.value
        low, high = (int(end) for end in limits)
        ticks = [(x, number(x, 0)) for x in range(-3, 4)], [(y, number(y, 0)) for y in range(low, high + 1)]
        drawn = [frame.axes(*ticks, _("margin m")), word(frame.left - 20, frame.top - 10, name, "ch-right")]
        drawn += [frame.curve([(m, limits[0]), (m, limits[1])], "ch-dashed")]
        drawn += [frame.curve(points, kind.look) for kind, points in curves]
        values = [(kind, self.here(kind)[which]) for kind, _points in curves]
        drawn += [self._dot(frame, kind, value) for kind, value in values]
        listed = ", ".join(f"{_(kind.name)} {digits(value)}" for kind, value in values)
        words = _("{name} over the margin from −3 to 3. At m = {m}: {values}.")
        return frame.picture(words.format(name=name, m=number(m), values=listed), *drawn)

    def _dot(self, frame: Frame, kind: Kind, value: float) -> str:
        low, high = frame.y_range
        held = min(max(value, low), high)
        ring = frame.dot(self.margin.value, held, "ch-beyond", 9) if held != value else ""
        return ring + frame.dot(self.margin.value, held, kind.look, 5)

    # --- without a kernel ---------------------------------------------------------------------------------------------

    def static_html(self) -> str:
        """Loss and weight at some margins, as a table."""
        lead = _("β = {beta}, ε = {epsilon}: loss and gradient weight (in brackets) at some margins m")
        words = lead.format(beta=f"{self.beta.value:.3g}", epsilon=number(self.epsilon.value))
        margins = torch.tensor(STATIC_MARGINS, dtype=torch.float64)
        rows = []
        for kind in self.shown:
            pairs = zip(*(values.tolist() for values in self.both(kind, margins)), strict=True)
            cells = [f"{digits(loss)} ({digits(weight)})" for loss, weight in pairs]
            rows.append((escape(_(kind.name)), *cells, escape(self.wants(kind))))
        head = (_("loss"), *(f"m = {number(m)}" for m in STATIC_MARGINS), _("is smallest at"))
        return f"<p>{escape(self.in_words())}</p><p>{escape(words)}</p>{table(head, rows)}"


def digits(value: float) -> str:
    """A loss or a weight: three decimals, and none where they would only crowd the number."""
    return number(value, 3 if round(abs(value), 3) < 100 else 0)


def loss_box(kind: Kind) -> widgets.Checkbox:
    """The tick that shows a loss."""
    choice = widgets.Checkbox(True, indent=False, layout=widgets.Layout(width="auto"))
    say(choice, "description", kind.name)
    return choice


def swatch(kind: Kind) -> str:
    """A short piece of a loss's line, for the table."""
    line = f'<path class="{kind.look}" d="M1,6 H33"/>'
    return f'<svg class="ch-swatch" aria-hidden="true" width="34" height="12" viewBox="0 0 34 12">{line}</svg>'
