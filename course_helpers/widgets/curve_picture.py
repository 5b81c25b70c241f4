"""Curves as SVG: a frame with axes, lines, points and words in it, drawn anew while a slider moves.

A panel that draws curves puts `LOOK` into its style sheet, and gives the class of each line its colour there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from course_helpers.widgets.markup import escape

Point = tuple[float, float]
LOOK = """
.ch-panel .ch-plot { display: block; max-width: 100%; height: auto; }
.ch-panel .ch-plot text { fill: var(--ch-ink); font-size: 12px; text-anchor: middle; }
.ch-panel .ch-plot text.ch-left { text-anchor: end; }
.ch-panel .ch-plot text.ch-right { text-anchor: start; }
.ch-panel .ch-plot path { fill: none; stroke: var(--ch-soft); stroke-width: 1; }
.ch-panel .ch-plot path.ch-line { stroke: var(--ch-bar); stroke-width: 3; }
.ch-panel .ch-plot path.ch-dashed { stroke: #808080; stroke-width: 1.5; stroke-dasharray: 5 4; }
.ch-panel .ch-plot circle { fill: #d9822b; stroke: var(--ch-paper); stroke-width: 1.5; }
"""


@dataclass(frozen=True)
class Frame:
    """The rectangle in which curves are drawn, in pixels, and the numbers at its ends.

    Attributes:
        x_range: numbers at the left and the right end.
        y_range: numbers at the lower and the upper end.
        width: of the picture, with its margins.
        height: of the picture, with its margins.
        left: margin for the numbers of the vertical axis.
        right: margin.
        top: margin.
        bottom: margin for the numbers and the name of the horizontal axis.
    """

    x_range: Point
    y_range: Point
    width: int = 460
    height: int = 260
    left: int = 40
    right: int = 14
    top: int = 24
    bottom: int = 36

    def x(self, value: float) -> float:
        """Where a number lies on the horizontal axis, in pixels."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Where a number lies on the vertical axis, in pixels from the top."""
        low, high = self.y_range
        return self.top + (high - value) / (high - low) * (self.height - self.top - self.bottom)

    def curve(self, points: Sequence[Point], name: str) -> str:
        """A line through points; what lies above or below the frame is cut off.

        Args:
            points: (x, y), from left to right.
            name: class of its look.
        """
        way, end = "", None
        for begin, after in pairwise(points):
            part = cut(begin, after, self.y_range)
            if part:
                way += f" L{self._pair(part[1])}" if part[0] == end else self._start(part)
                end = part[1]
        return f'<path class="{name}" d="{way}"/>'

    def dot(self, x: float, y: float, name: str, radius: float = 6) -> str:
        """A point of the curve."""
        return f'<circle class="{name}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius:g}"/>'

    def band(self, x_low: float, x_high: float) -> str:
        """A tinted strip over the full height, between two numbers of the horizontal axis."""
        left, right = self.x(x_low), self.x(x_high)
        tall = self.height - self.top - self.bottom
        return f'<rect x="{left:.1f}" y="{self.top}" width="{right - left:.1f}" height="{tall}"/>'

    def axes(self, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]], x_name: str) -> str:
        """Both axes with their numbers; the horizontal one lies at 0, or at the lower end if 0 is not in the frame.

        Args:
            x_ticks: numbers and their texts.
            y_ticks: numbers and their texts.
            x_name: what the horizontal axis measures.
        """
        low, bottom = self.y_range[0], self.height - self.bottom
        zero = self.y(max(low, 0.0) if self.y_range[1] >= 0 else low)
        words = [word(self.x(at), bottom + 15, text) for at, text in x_ticks]
        words += [word(self.left - 5, self.y(at) + 4, text, "ch-left") for at, text in y_ticks]
        words += [word((self.left + self.width - self.right) / 2, self.height - 4, x_name)]
        lines = f"M{self.left},{zero:.1f} H{self.width - self.right} M{self.left},{self.top} V{bottom}"
        return f'<path class="ch-axis" d="{lines}"/>{"".join(words)}'

    def picture(self, in_words: str, *parts: str) -> str:
        """The whole drawing.

        Args:
            in_words: what it shows, for whoever does not see it.
            *parts: drawn one above the other, the last on top.
        """
        return (
            f'<svg class="ch-plot" role="img" aria-label="{escape(in_words)}" width="{self.width}" '
            f'height="{self.height}" viewBox="0 0 {self.width} {self.height}">{"".join(parts)}</svg>'
        )

    def _start(self, part: tuple[Point, Point]) -> str:
        return f"M{self._pair(part[0])} L{self._pair(part[1])}"

    def _pair(self, point: Point) -> str:
        return f"{self.x(point[0]):.1f},{self.y(point[1]):.1f}"


def cut(begin: Point, end: Point, limits: Point) -> tuple[Point, Point] | None:
    """The part of a straight line whose heights lie within limits; None if there is none.

    Args:
        begin: (x, y).
        end: (x, y).
        limits: lowest and highest y.
    """
    (x0, y0), (x1, y1) = begin, end
    low, high = limits
    if max(y0, y1) < low or min(y0, y1) > high:
        return None

    def held(x: float, y: float) -> Point:
        at = min(max(y, low), high)
        return (x, y) if at == y else (x0 + (at - y0) / (y1 - y0) * (x1 - x0), at)

    return held(x0, y0), held(x1, y1)


def word(x: float, y: float, text: str, side: str = "") -> str:
    """A text at a place of the picture, in pixels: in its middle, or with `side` left or right of the place."""
    named = f' class="{side}"' if side else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
