"""The reward-KL plane as SVG: a mark for each method, crosses for the intervals, small dots for the single seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from course_helpers.frontier.table import Combined, Point
from course_helpers.tokens import readable
from course_helpers.translation import N_, _, ngettext
from course_helpers.widgets.curve_picture import Frame, word
from course_helpers.widgets.markup import number

SIZE = 6.5  # half the width of a mark, in pixels
WIDTH, HEIGHT = 560, 390
# The hues are those of Okabe and Ito 2008, "Color Universal Design"; shape and an outline tell the marks apart as well.
LOOK = """
.ch-panel .ch-ppo { --ch-hue: #0072b2; }
.ch-panel .ch-dpo { --ch-hue: #d55e00; }
.ch-panel .ch-grpo { --ch-hue: #009e73; }
.ch-panel .ch-best-of-n { --ch-hue: #cc79a7; }
.ch-panel .ch-preferred-ft { --ch-hue: #e69f00; }
.ch-panel .ch-sft { --ch-hue: #56b4e9; }
.ch-panel .ch-reference { --ch-hue: var(--ch-paper); }
.ch-panel .ch-plot .ch-mark path, .ch-panel .ch-key .ch-mark path { fill: var(--ch-hue, #808080);
  stroke: var(--ch-ink); stroke-width: 1.2; }
.ch-panel .ch-plot .ch-mark path.ch-cross { fill: none; stroke: var(--ch-soft); stroke-width: 1.2; }
.ch-panel .ch-plot .ch-mark circle { fill: var(--ch-hue, #808080); stroke: var(--ch-soft); stroke-width: .7; }
.ch-panel .ch-plot path.ch-way { stroke: #cc79a7; stroke-width: 2; }
.ch-panel .ch-plot circle.ch-ring { fill: none; stroke: #d9822b; stroke-width: 3; }
"""


class Mark(NamedTuple):
    """How a method is named and drawn.

    Attributes:
        name: in English.
        corners: of its shape around (0, 0), in shares of its size; none for a circle.
    """

    name: str
    corners: tuple[tuple[float, float], ...] = ()


def _star() -> tuple[tuple[float, float], ...]:
    """Five points, the first on top."""
    turns = [(place * math.pi / 5, 0.6 if place % 2 else 1.35) for place in range(10)]
    return tuple((far * math.sin(angle), -far * math.cos(angle)) for angle, far in turns)


def _plus(thick: float = 0.36, long: float = 1.1) -> tuple[tuple[float, float], ...]:
    """Four arms: one of them, and its quarter turns."""
    arm = ((-thick, -thick), (-thick, -long), (thick, -long))
    turns = (lambda x, y: (x, y), lambda x, y: (-y, x), lambda x, y: (-x, -y), lambda x, y: (y, -x))
    return tuple(turn(x, y) for turn in turns for x, y in arm)


MARKS = {
    "reference": Mark(N_("π_ref"), _star()),
    "ppo": Mark(N_("PPO")),
    "dpo": Mark(N_("DPO"), ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9))),
    "grpo": Mark(N_("GRPO"), ((0.0, -1.15), (1.1, 0.85), (-1.1, 0.85))),
    "best-of-n": Mark(N_("best-of-n"), ((0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0))),
    "preferred-ft": Mark(N_("fine-tuned on the preferred"), ((0.0, 1.15), (1.1, -0.85), (-1.1, -0.85))),
    "sft": Mark(N_("SFT"), _plus()),
}


def method_name(method: str) -> str:
    """A method in the language of the moment; one that we do not know keeps its own name."""
    return _(MARKS[method].name) if method in MARKS else readable(method)


def setting_name(setting: str) -> str:
    """A setting in the language of the moment: its few words are ours, the rest are symbols."""
    if match := re.fullmatch(r"target KL (\S+)", setting):
        return _("target KL {nats}").format(nats=match[1])
    if match := re.fullmatch(r"(\d+) epochs?", setting):
        return ngettext("{count} epoch", "{count} epochs", int(match[1])).format(count=match[1])
    return readable(setting)


def point_name(point: Point | Combined) -> str:
    """Method and setting of a point."""
    if point.method == "reference":
        return method_name(point.method)
    return f"{method_name(point.method)}, {setting_name(point.setting)}"


def look_of(method: str) -> str:
    """Class of a method's colour."""
    return f"ch-{method}" if method in MARKS else "ch-other"


def shape(method: str, x: float, y: float) -> str:
    """A method's mark around a place, in pixels."""
    corners = MARKS[method].corners if method in MARKS else ()
    if not corners:
        s = SIZE
        return f'<path d="M{x - s:.1f},{y:.1f} a{s},{s} 0 1 0 {2 * s},0 a{s},{s} 0 1 0 {-2 * s},0 Z"/>'
    places = " L".join(f"{x + SIZE * a:.1f},{y + SIZE * b:.1f}" for a, b in corners)
    return f'<path d="M{places} Z"/>'


def key_of(method: str) -> str:
    """A method's mark by itself, for the tick beside it."""
    return (
        f'<svg class="ch-key" aria-hidden="true" width="22" height="22" viewBox="0 0 22 22">'
        f'<g class="ch-mark {look_of(method)}">{shape(method, 11, 11)}</g></svg>'
    )


class View(NamedTuple):
    """What the axes measure.

    Attributes:
        measure: attribute of a point that the vertical axis shows.
        root: whether the horizontal axis is √KL.
    """

    measure: str
    root: bool = False

    def place(self, point: Point | Combined) -> tuple[float, float]:
        """Where a point lies, in the units of the axes."""
        return self.x(point.kl), getattr(point, self.measure)

    def x(self, kl: float) -> float:
        """A KL in the units of the axis."""
        return math.sqrt(max(kl, 0.0)) if self.root else kl

    def ends(self, point: Point | Combined) -> tuple[float, float, float, float]:
        """Left, right, lower and upper end of a point's intervals."""
        low, high = (getattr(point, f"{self.measure}_{end}") for end in ("low", "high"))
        return self.x(point.kl_low), self.x(point.kl_high), low, high


def ticks(low: float, high: float, about: int = 6) -> list[tuple[float, str]]:
    """Round numbers between two ends, and their texts.

    Args:
        low: lower end.
        high: upper end, above it.
        about: how many are wanted.
    """
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(k * step, number(k * step, digits)) for k in range(first, last + 1)]


def frame_of(points: Sequence[Combined], view: View) -> Frame:
    """The rectangle that holds all points with their intervals and seeds."""
    ends = [view.ends(each) for point in points for each in (point, *point.points)]
    right = max(end[1] for end in ends) or 1.0
    low, high = min(end[2] for end in ends), max(end[3] for end in ends)
    room = 0.06 * (high - low) or 0.5
    return Frame(
        (-0.03 * right, 1.05 * right), (low - room, high + room), WIDTH, HEIGHT, left=52, right=16, top=30, bottom=40
    )


def draw(points: Sequence[Combined], view: View, chosen: str, in_words: str, name: str) -> str:
    """The picture.

    Args:
        points: one a method and setting, those that are shown.
        view: what the axes measure.
        chosen: `key` of the point with the ring.
        in_words: what the picture shows, for whoever does not see it.
        name: what the vertical axis measures.
    """
    frame = frame_of(points, view)
    across = _("√KL(π_θ‖π_ref), KL in nats a response") if view.root else _("KL(π_θ‖π_ref) [nats a response]")
    parts = [frame.axes(ticks(*frame.x_range), ticks(*frame.y_range), across)]
    parts += [word(8, 16, name, "ch-right")]
    reference = [view.place(point)[1] for point in points if point.method == "reference"]
    parts += [frame.curve([(frame.x_range[0], y), (frame.x_range[1], y)], "ch-dashed") for y in reference]
    way = sorted(view.place(point) for point in points if point.method in ("best-of-n", "reference"))
    parts += [frame.curve(way, "ch-way")] if len(way) > len(reference) else []
    parts += [_point(frame, view, point) for point in points]
    parts += [_ring(frame, view, point) for point in points if point.key == chosen]
    return frame.picture(in_words, *parts)


def _point(frame: Frame, view: View, point: Combined) -> str:
    left, right, low, high = view.ends(point)
    x, y = view.place(point)
    cross = f"M{frame.x(left):.1f},{frame.y(y):.1f} H{frame.x(right):.1f} "
    cross += f"M{frame.x(x):.1f},{frame.y(low):.1f} V{frame.y(high):.1f}"
    seeds = [frame.dot(*view.place(single), "ch-seed", 2.5) for single in point.points if len(point.points) > 1]
    mark = shape(point.method, frame.x(x), frame.y(y))
    return f'<g class="ch-mark {look_of(point.method)}"><path class="ch-cross" d="{cross}"/>{"".join(seeds)}{mark}</g>'


def _ring(frame: Frame, view: View, point: Combined) -> str:
    return frame.dot(*view.place(point), "ch-ring", 11)
