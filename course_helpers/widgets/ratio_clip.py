"""The clipped surrogate of PPO by hand: what one token gains, and whether its gradient still pushes."""

from __future__ import annotations

import ipywidgets as widgets

from course_helpers.translation import N_, _
from course_helpers.widgets import curve_picture
from course_helpers.widgets.controls import button, float_slider
from course_helpers.widgets.curve_picture import Frame, word
from course_helpers.widgets.markup import escape, number
from course_helpers.widgets.panel import Panel, box, html_part

LARGEST = 2.0  # right end of the axis of ρ
STATIC_RATIOS = (0.5, 0.7, 0.8, 1.0, 1.2, 1.3, 1.5)
# By whether the advantage is positive.
HELD = {
    True: N_("Gradient off: the token is to become likelier, but ρ is already past 1 + ε = {edge}. The clip holds."),
    False: N_(
        "Gradient off: the token is to become less likely, but ρ is already past 1 − ε = {edge}. The clip holds."
    ),
}
OPPOSITE = {
    True: N_("Gradient on: the token is to become likelier, and ρ went the other way. There no clip holds."),
    False: N_("Gradient on: the token is to become less likely, and ρ went the other way. There no clip holds."),
}
WITHIN = {
    True: N_("Gradient on: the token becomes likelier, and ρ is still within 1 ± ε."),
    False: N_("Gradient on: the token becomes less likely, and ρ is still within 1 ± ε."),
}
LOOK = """
.ch-panel .ch-plot path.ch-plain { stroke: #808080; stroke-width: 1.5; stroke-dasharray: 5 4; }
.ch-panel .ch-plot path.ch-held { stroke: var(--ch-bar); stroke-width: 3.5; }
.ch-panel .ch-plot rect { fill: var(--ch-tint); stroke: none; }
.ch-panel .ch-plot circle.ch-off { fill: var(--ch-paper); stroke: #d9822b; stroke-width: 3; }
"""


def surrogate(ratio: float, advantage: float, epsilon: float) -> tuple[float, float]:
    """min(ρA, clip(ρ, 1−ε, 1+ε) A), which PPO maximises, and its slope in ρ: A, or 0 where the clip holds.

    Args:
        ratio: ρ.
        advantage: A.
        epsilon: ε.
    """
    plain = ratio * advantage
    held = min(max(ratio, 1 - epsilon), 1 + epsilon) * advantage
    return (held, 0.0) if held < plain else (plain, advantage)


class RatioClip(Panel):
    """One token's importance ratio ρ, clip range ε and advantage A: the surrogate, its value and its gradient.

    Args:
        ratio: ρ at the start.
        epsilon: ε at the start.
        advantage: A at the start.
    """

    def __init__(self, ratio: float = 1.5, epsilon: float = 0.2, advantage: float = 1.0):
        """Build the sliders and draw."""
        self.ratio = float_slider(N_("importance ratio ρ"), ratio, 0.0, LARGEST, 0.05)
        self.epsilon = float_slider(N_("clip range ε"), epsilon, 0.05, 0.5, 0.05)
        self.advantage = float_slider(N_("advantage A"), advantage, -2.0, 2.0, 0.25)
        self.defaults = [(slider, slider.value) for slider in self.sliders]
        self.reset_button = button(N_("Reset"), icon="undo")
        self.summary, self.picture = html_part("ch-summary"), html_part("ch-curve")
        self.summary.add_class("ch-live")
        controls = widgets.VBox([*self.sliders, self.reset_button])
        controls.add_class("ch-controls")
        columns = box("ch-columns", [controls, box("ch-picture", [self.summary, self.picture])])
        super().__init__(
            N_("Ratio and clip"), [html_part("ch-sheet", f"<style>{curve_picture.LOOK}{LOOK}</style>"), columns]
        )
        for slider in self.sliders:
            slider.observe(lambda change: self.guard(self.refresh), "value")
        self.reset_button.on_click(lambda clicked: self.guard(self.reset))
        self.refresh()

    @property
    def sliders(self) -> list:
        """All sliders, from top to bottom."""
        return [self.ratio, self.epsilon, self.advantage]

    @property
    def values(self) -> tuple[float, float, float]:
        """ρ, A, ε."""
        return self.ratio.value, self.advantage.value, self.epsilon.value

    def reset(self) -> None:
        """Back to the start."""
        for slider, value in self.defaults:
            slider.value = value

    def refresh(self) -> None:
        """Say and draw what the sliders stand for."""
        self.summary.value = f"<div>{self.numbers_html()}</div><p>{escape(self.in_words())}</p>"
        self.picture.value = self.svg()

    def numbers_html(self) -> str:
        """The formula with its numbers."""
        ratio, advantage, epsilon = self.values
        value, slope = surrogate(*self.values)
        clipped = min(max(ratio, 1 - epsilon), 1 + epsilon)
        words = _("min(ρA, clip(ρ) A) = min({plain}, {held}) = <b>{value}</b>; loss {loss}; slope in ρ: <b>{slope}</b>")
        return words.format(
            plain=number(ratio * advantage),
            held=number(clipped * advantage),
            value=number(value),
            loss=number(-value),
            slope=number(slope),
        )

    def in_words(self) -> str:
        """Whether the gradient is on, and why."""
        ratio, advantage, epsilon = self.values
        if advantage == 0:
            return _("Gradient off: an advantage of 0 asks for nothing.")
        if surrogate(*self.values)[1] == 0:
            edge = 1 + epsilon if advantage > 0 else 1 - epsilon
            return _(HELD[advantage > 0]).format(edge=number(edge))
        return _(OPPOSITE[advantage > 0]) if abs(ratio - 1) > epsilon else _(WITHIN[advantage > 0])

    # --- the curve ----------------------------------------------------------------------------------------------------

    def svg(self) -> str:
        """The surrogate over ρ, with and without its clip, and where the sliders stand."""
        ratio, advantage, epsilon = self.values
        edges = (1 - epsilon, 1 + epsilon)
        frame, corners = Frame((0.0, LARGEST), self._range()), (0.0, *edges, LARGEST)
        plain = frame.curve([(x, x * advantage) for x in (0.0, LARGEST)], "ch-plain")
        held = frame.curve([(x, surrogate(x, advantage, epsilon)[0]) for x in corners], "ch-held")
        value, slope = surrogate(*self.values)
        dot = frame.dot(ratio, value, "ch-on" if slope else "ch-off")
        key = _(
            "Blue: the clipped surrogate. Dashed: ρA without the clip. Grey: 1 ± ε. "
            "The dot is hollow where the gradient is off."
        )
        drawn = frame.picture(self.in_words(), frame.band(*edges), self._axes(frame, edges), plain, held, dot)
        return f'{drawn}<p class="ch-hint">{key}</p>'

    def _axes(self, frame: Frame, edges: tuple[float, float]) -> str:
        ratios = [(at, number(at, 0)) for at in (0.0, 1.0, LARGEST)]
        values = [(at, number(at, 1)) for at in self._range()]
        low, high = (frame.x(edge) for edge in edges)
        named = word(low - 4, frame.top - 4, f"1 − ε = {number(edges[0])}", "ch-left")
        named += word(high + 4, frame.top - 4, f"1 + ε = {number(edges[1])}", "ch-right")
        return frame.axes(ratios, values, _("importance ratio ρ")) + named

    def _range(self) -> tuple[float, float]:
        """Lowest and highest value on the axis: it follows A, so that the curve always fills the picture."""
        end = LARGEST * (self.advantage.value or 1.0)
        return min(0.0, end), max(0.0, end)

    def static_html(self) -> str:
        """The same as a table: both signs of the advantage, some ratios."""
        epsilon, size = self.epsilon.value, abs(self.advantage.value) or 1.0
        names = ("ρ", f"A = {number(size)}", _("slope"), f"A = {number(-size)}", _("slope"))
        head = "".join(f"<th>{name}</th>" for name in names)
        body = "".join(self._static_row(ratio, size, epsilon) for ratio in STATIC_RATIOS)
        lead = _("ε = {epsilon}: value of min(ρA, clip(ρ) A), and its slope in ρ").format(epsilon=number(epsilon))
        return f"<p>{lead}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    @staticmethod
    def _static_row(ratio: float, size: float, epsilon: float) -> str:
        cells = ""
        for advantage in (size, -size):
            value, slope = surrogate(ratio, advantage, epsilon)
            pull = number(slope) if slope else _("0 (clip holds)")
            cells += f"<td>{number(value)}</td><td>{pull}</td>"
        return f"<tr><td>{number(ratio)}</td>{cells}</tr>"
