"""What panels about the few responses of one query share: checked arguments, sliders, a table, numbers of any size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ipywidgets as widgets
import torch
from torch import Tensor

from course_helpers import toy
from course_helpers.prose import label
from course_helpers.translation import N_, _, say
from course_helpers.widgets.controls import float_slider
from course_helpers.widgets.markup import length, number

LARGEST_REWARD = 3.0  # where the sliders for rewards, and for what is added to them, end
MOST = 24  # lines of a table that can still be taken in
LOOK = """
.ch-panel .ch-values { width: 100%; font-variant-numeric: tabular-nums; font-size: 13px; }
.ch-panel .ch-values th, .ch-panel .ch-values td { padding: 2px 8px; text-align: right; font-weight: normal;
  line-height: 1.4; border-bottom: 1px solid var(--ch-line); }
.ch-panel .ch-values td { white-space: nowrap; }
.ch-panel .ch-values thead th { color: var(--ch-soft); font-size: 12px; vertical-align: bottom; }
.ch-panel .ch-values th:first-child { text-align: left; min-width: 64px; overflow-wrap: break-word; }
.ch-panel .ch-values .ch-sum th, .ch-panel .ch-values .ch-sum td { font-weight: 600;
  border-top: 2px solid var(--ch-line); }
.ch-panel .ch-values .ch-track { min-width: 90px; }
"""
DECIMALS_FROM, DECIMALS_TO = math.log(0.001), math.log(10_000)  # logarithms of where powers of ten begin


def one_query(name: str, values: Tensor | Sequence[float]) -> Tensor:
    """One number for each response of one query.

    Args:
        name: what to call the argument in an error.
        values: (M,).

    Returns:
        (M,), float64, and the panel's own: what a lesson does to its tensor later does not reach it.

    Raises:
        ValueError: not one axis, fewer than two responses, or more than can be shown.
    """
    tensor = torch.as_tensor(values, dtype=torch.float64).detach().cpu().clone()
    if tensor.ndim != 1 or not 2 <= len(tensor) <= MOST:
        words = _(
            "{name} has shape {shape}; expected (M,), one number for each response of one query, with M from 2 to "
            "{most}. Of a table (queries, responses) pass one row: {name}[0]."
        )
        raise ValueError(words.format(name=name, shape=tuple(tensor.shape), most=MOST))
    return tensor


def checked(pi_ref: Tensor | Sequence[float], r: Tensor | Sequence[float]) -> tuple[Tensor, Tensor]:
    """π_ref and r of one query, both (M,).

    Raises:
        ValueError: `pi_ref` is no distribution, a reward is not finite, or the shapes do not fit.
    """
    pi_ref, r = one_query("pi_ref", pi_ref), one_query("r", r)
    toy.expectation(pi_ref, r)  # complains about what is no distribution, and about rewards that do not fit
    return pi_ref, r


def named(names: Sequence[str] | None, responses: int) -> list[str]:
    """The names of the responses; without any, Y₁, Y₂, ….

    Raises:
        ValueError: not one name for each response.
    """
    if names is None:
        return [f"Y{subscript(place)}" for place in range(1, responses + 1)]
    if isinstance(names, str) or len(names) != responses:
        words = _("names is {names}; expected a list of {responses} names, one for each response.")
        raise ValueError(words.format(names=repr(names), responses=responses))
    return [str(name) for name in names]


def reward_slider(name: str, value: float) -> widgets.FloatSlider:
    """The slider for the reward of one response."""
    slider = float_slider("", value, -LARGEST_REWARD, LARGEST_REWARD, 0.1)
    say(slider, "description", N_("r of {name}"), lambda text: label(text.format(name=name)))
    return slider


def check_rewards(r: Tensor) -> None:
    """Require rewards that the sliders can reach."""
    if not r.abs().max() <= LARGEST_REWARD:
        words = _("rewards are {rewards}; the sliders reach from −{end} to {end}.")
        raise ValueError(words.format(rewards=r.tolist(), end=f"{LARGEST_REWARD:g}"))


def subscript(place: int) -> str:
    """A whole number in small low digits."""
    return "".join(chr(ord("₀") + int(digit)) for digit in str(place))


def from_log(log_value: float) -> str:
    """exp(log_value) as HTML: with decimals where that can be read, as a power of ten where it cannot.

    Args:
        log_value: the natural logarithm, which may be far too large for exp; ±∞ are allowed.
    """
    if math.isinf(log_value):
        return "∞" if log_value > 0 else "0"
    if DECIMALS_FROM <= log_value < DECIMALS_TO:
        return number(math.exp(log_value), 3)
    power = math.floor(log_value / math.log(10))
    digits = math.exp(log_value - power * math.log(10))
    if round(digits, 2) == 10:
        digits, power = 1.0, power + 1
    return f"{number(digits)} × 10<sup>{number(power, 0)}</sup>"


def bar(share: float, before: float | None = None) -> str:
    """A bar on an axis from 0 to 1, and the outline of what it was before.

    Args:
        share: how much of the axis is filled.
        before: where the outline ends; none without it.
    """
    outline = "" if before is None else f'<div class="ch-outline" style="width:{length(before)}"></div>'
    return f'<div class="ch-track"><div class="ch-fill" style="width:{length(share)}"></div>{outline}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], name: str = "", total: Sequence[str] = ()) -> str:
    """A table whose first column names the rows; every cell is HTML already.

    Args:
        head: one name a column.
        rows: one cell a column.
        name: class of its look; none without styles.
        total: the last row, set apart.
    """
    names = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows)
    if total:
        body += f'<tr class="ch-sum">{_cells(total)}</tr>' if name else f"<tr>{_cells(total)}</tr>"
    looks = f' class="{name}"' if name else ""
    return f"<table{looks}><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: Sequence[str]) -> str:
    return f'<th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:])
