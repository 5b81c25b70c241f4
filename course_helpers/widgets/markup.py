"""HTML pieces the widgets are drawn with: escaped text, bars, coloured tokens, their legend.

JupyterLab shows what an HTML widget holds without cleaning it, so whatever a model or a learner wrote passes through
`escape` here before it becomes HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from course_helpers.prose import escape
from course_helpers.tokens import readable, visible
from course_helpers.translation import N_, _, language

BLOCKS = "▏▎▍▌▋▊▉█"
AXIS_ENDS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Shade:
    """One step of the colour scale: probabilities from `at_least` on, their background, text colour and name."""

    at_least: float
    background: str
    text: str
    label: str


# One hue from light to dark: it can be read with any colour vision and printed in grey. Both colours are given, so it
# does not depend on the theme.
SHADES = (
    Shade(0.5, "#e6f0fa", "#111111", N_("50 % or more")),
    Shade(0.2, "#c3dbf0", "#111111", N_("20 to 50 %")),
    Shade(0.1, "#92bee2", "#111111", N_("10 to 20 %")),
    Shade(0.05, "#5c9bd1", "#111111", N_("5 to 10 %")),
    Shade(0.01, "#2a69a8", "#ffffff", N_("1 to 5 %")),
    Shade(0.0, "#0b3360", "#ffffff", N_("below 1 %")),
)


@dataclass(frozen=True)
class Bar:
    """One row of a bar picture: a token, its probability now, and the policy's own probability before any change."""

    token: str
    probability: float
    before: float


def code(token: str) -> str:
    """A token as an escaped ``<code>`` element, its spaces and line ends visible."""
    return f"<code>{escape(visible(token))}</code>"


def quoted(token: str) -> str:
    """A token between quotes, as it is read aloud: ``' film'``."""
    return f"'{readable(token)}'"


def percent(probability: float) -> str:
    """A probability in percent, with more digits where it is small."""
    if probability <= 0:
        return "0 %"
    if probability < 0.0001:
        return "<0.01 %"
    return f"{100 * probability:.{1 if probability >= 0.1 else 2}f} %"


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign, never ``-0.00``."""
    return f"{value:.{digits}f}".replace("-", "−") if round(value, digits) else f"{0:.{digits}f}"


def scientific(value: float) -> str:
    """A small number as HTML: plain down to 0.001, as a power of ten below."""
    if value >= 0.001 or value == 0:
        return f"{value:.3g}"
    digits, power = f"{value:.2e}".split("e")
    return f"{digits} × 10<sup>{number(int(power), 0)}</sup>"


def whole(count: int) -> str:
    """A count, its digits in groups of three; no comma between them where a comma begins the decimals."""
    return f"{count:,}" if language() == "en" else f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def shade(probability: float) -> Shade:
    """The step of the colour scale a probability falls on."""
    return next(step for step in SHADES if probability >= step.at_least)


def axis_end(rows: Sequence[Bar]) -> float:
    """Where the axis of a bar picture ends: a round number, so that it does not change with every move of a slider."""
    largest = max((max(row.probability, row.before) for row in rows), default=1.0)
    return next((end for end in AXIS_ENDS if largest <= end), 1.0)


def length(share: float) -> str:
    """A share of the axis as a CSS length."""
    return f"{100 * min(max(share, 0.0), 1.0):.2f}%"


def bars(rows: Sequence[Bar], compare: bool = True) -> str:
    """Horizontal bars, one row a token.

    Args:
        rows: what to draw.
        compare: also draw the policy's own probability, as a grey outline and a column.
    """
    end = axis_end(rows)
    scale = _("0 to {end} %; outline: policy") if compare else _("0 to {end} %")
    names = (_("token"), scale.format(end=f"{100 * end:.0f}"), *_columns(compare))
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "".join(_bar_row(row, end, compare) for row in rows)
    return f'<table class="ch-bars"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _columns(compare: bool) -> tuple[str, ...]:
    """Heads of the columns of numbers."""
    return (_("now"), _("policy")) if compare else ("π",)


def _bar_row(row: Bar, end: float, compare: bool) -> str:
    cut = row.probability <= 0 < row.before
    now = _("cut") if cut else escape(percent(row.probability))
    outline = f'<div class="ch-outline" style="width:{length(row.before / end)}"></div>' if compare else ""
    before = f"<td>{escape(percent(row.before))}</td>" if compare else ""
    return (
        f'<tr class="{"ch-cut" if cut else "ch-kept"}"><th scope="row" title="{escape(visible(row.token))}">'
        f'{code(row.token)}</th><td><div class="ch-track">'
        f'<div class="ch-fill" style="width:{length(row.probability / end)}"></div>{outline}</div></td>'
        f"<td>{now}</td>{before}</tr>"
    )


def block_bar(share: float, width: int = 20) -> str:
    """A bar made of block characters, for places that strip styles: one character is 1/`width` of the axis."""
    eighths = math.ceil(8 * width * min(max(share, 0.0), 1.0) - 1e-9)
    return BLOCKS[-1] * (eighths // 8) + (BLOCKS[eighths % 8 - 1] if eighths % 8 else "")


def static_bars(rows: Sequence[Bar], compare: bool = True) -> str:
    """The bar picture as a plain table that says the same without styles."""
    end = axis_end(rows)
    names = (_("token"), *_columns(compare), _("0 to {end} %").format(end=f"{100 * end:.0f}"))
    head = "".join(f"<th>{name}</th>" for name in names)
    body = "".join(_static_row(row, end, compare) for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _static_row(row: Bar, end: float, compare: bool) -> str:
    before = f"<td>{escape(percent(row.before))}</td>" if compare else ""
    bar = block_bar(row.probability / end)
    return f"<tr><td>{code(row.token)}</td><td>{escape(percent(row.probability))}</td>{before}<td>{bar}</td></tr>"


def token_span(token: str, probability: float, title: str) -> str:
    """A token on the colour of its probability; `title` is shown when it is pointed at."""
    step = shade(probability)
    return (
        f'<span class="ch-token" style="background:{step.background};color:{step.text}" '
        f'title="{escape(title)}">{escape(readable(token))}</span>'
    )


def drawn_in_words(policy: float, drawn: float) -> str:
    """What is said of a token that was drawn: its probability under the policy, and the one it was drawn with."""
    return _("π = {policy}, drawn with {drawn}").format(policy=percent(policy), drawn=percent(drawn))


def legend() -> str:
    """The colour scale in words."""
    steps = "".join(
        f'<span class="ch-token" style="background:{step.background};color:{step.text}">{_(step.label)}</span>'
        for step in SHADES
    )
    words = _("colour: π of the token {steps}").format(steps=steps)
    return f'<p class="ch-legend">{words}</p>'


def alert(text: str) -> str:
    """A message that screen readers announce."""
    return f'<div class="ch-alert" role="alert">{escape(text)}</div>'
