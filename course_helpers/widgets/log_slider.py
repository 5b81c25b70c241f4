"""A slider on a logarithmic scale, for β and Z: equal ways are about equal factors, over numbers that read well."""

from __future__ import annotations

import math

import ipywidgets as widgets

from course_helpers.checks import is_finite, require
from course_helpers.translation import say
from course_helpers.widgets.controls import LABEL_WIDTH

# ipywidgets has a logarithmic slider, but its steps miss 0.5 and 2, and it moves a value that was given between two of
# them. These are ten numbers to a factor of ten, each about 1.26 times the one before.
DECADE = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0)
# The handle of a slider over a list knows only places in the list, and that is what it tells a screen reader: its text
# is set to the number beside it. The style element's load event is the moment the panel is on the page.
SPEAK_THE_VALUE = """
const panel = this.closest('.ch-panel');
const speak = () => panel.querySelectorAll('.ch-log').forEach(row => {
  const handle = row.querySelector('[role=slider]');
  const field = row.querySelector('.widget-readout');
  if (!handle || !field) return;
  field.setAttribute('aria-readonly', 'true');
  if (handle.getAttribute('aria-valuetext') !== field.textContent)
    handle.setAttribute('aria-valuetext', field.textContent);
});
speak();
new MutationObserver(speak).observe(panel, {
  childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ['aria-valuetext']});
"""


def log_slider(name: str, value: float, low: float, high: float) -> widgets.SelectionSlider:
    """A slider from `low` to `high`; a value between its numbers is put among them.

    Args:
        name: its label in English, marked with `N_` where it is written.
        value: at the start.
        low: left end, a power of ten.
        high: right end, a power of ten.

    Raises:
        ValueError: a value that is not within the ends.
    """
    require(is_finite(value) and low <= value <= high, name, value, f"from {low:g} to {high:g}")
    numbers = sorted({*numbers_between(low, high), float(value)})
    slider = widgets.SelectionSlider(
        options=[(f"{number:g}", number) for number in numbers],
        value=float(value),
        style={"description_width": LABEL_WIDTH},
        layout=widgets.Layout(width="100%", margin="0"),
    )
    slider.add_class("ch-log")
    say(slider, "description", name)
    return slider


def numbers_between(low: float, high: float) -> list[float]:
    """The numbers of `DECADE` times powers of ten, from `low` to `high`.

    Args:
        low: a power of ten.
        high: a power of ten.
    """
    powers = range(round(math.log10(low)), round(math.log10(high)))
    return [float(f"{digits}e{power}") for power in powers for digits in DECADE] + [high]
