"""Labelled sliders and fields, and the group of all that change a sampling distribution.

A label is given in English, marked with `N_` where it is written; it follows the language.
"""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets

from course_helpers.prose import sendable
from course_helpers.sampling import SamplingSettings
from course_helpers.translation import N_, _, say

LABEL_WIDTH = "160px"  # the longest in any language; the style sheet aligns a button with it


def float_slider(name: str, value: float, low: float, high: float, step: float) -> widgets.FloatSlider:
    """A slider for a real number, its name in front and its value, which can also be typed, behind."""
    slider = widgets.FloatSlider(
        value, min=low, max=high, step=step, style=_style(), layout=_layout(), readout_format=".2f"
    )
    say(slider, "description", name)
    return slider


def int_slider(name: str, value: int, low: int, high: int) -> widgets.IntSlider:
    """A slider for a whole number."""
    slider = widgets.IntSlider(value, min=low, max=high, style=_style(), layout=_layout())
    say(slider, "description", name)
    return slider


def prompt_box(prompt: str) -> widgets.Text:
    """A line of text that counts when Enter is pressed or the line is left."""
    field = widgets.Text(
        sendable(prompt),
        continuous_update=False,
        style={"description_width": "56px"},
        layout=widgets.Layout(width="100%"),
    )
    say(field, "description", N_("prompt"))
    say(field, "placeholder", N_("type a few words, then press Enter"))
    return field


def seed_box(value: int = 0) -> widgets.BoundedIntText:
    """A field for the seed of the draws."""
    field = widgets.BoundedIntText(
        value,
        min=0,
        max=2**31 - 1,
        style={"description_width": "initial"},  # as wide as the word, whatever the language
        layout=widgets.Layout(width="136px"),
    )
    say(field, "description", N_("seed"))
    return field


def button(name: str, icon: str = "", style: str = "") -> widgets.Button:
    """A button as wide as its text; without a name, whoever asked for it keeps its text."""
    made = widgets.Button(icon=icon, button_style=style, layout=widgets.Layout(width="auto"))
    if name:
        say(made, "description", name)
    return made


def _style() -> dict[str, str]:
    return {"description_width": LABEL_WIDTH}


def _layout() -> widgets.Layout:
    return widgets.Layout(width="100%", margin="0")


class SamplingControls(widgets.VBox):
    """Sliders for everything that turns logits into a sampling distribution.

    Args:
        on_change: called without arguments after a slider moved.
    """

    def __init__(self, on_change: Callable[[], None]):
        """Build the sliders at the values that leave the policy as it is."""
        self.temperature = float_slider(N_("temperature τ"), 1.0, 0.0, 3.0, 0.05)
        self.top_k = int_slider(N_("top-k (0 = off)"), 0, 0, 100)
        self.top_p = float_slider(N_("top-p"), 1.0, 0.05, 1.0, 0.01)
        self.repetition_penalty = float_slider(N_("repetition penalty"), 1.0, 1.0, 2.0, 0.05)
        self.min_new_tokens = int_slider(N_("min new tokens"), 0, 0, 40)
        self.max_new_tokens = int_slider(N_("max new tokens"), 20, 1, 60)
        self.defaults = [(slider, slider.value) for slider in self.sliders]
        self.reset_button = button(N_("Reset"), icon="undo")
        super().__init__([*self.sliders, self.reset_button])
        self.add_class("ch-controls")
        for slider in self.sliders:
            slider.observe(lambda change: on_change(), "value")
        self.reset_button.on_click(lambda clicked: self.reset())

    @property
    def sliders(self) -> list[widgets.Widget]:
        """All sliders, from top to bottom."""
        return [
            self.temperature,
            self.top_k,
            self.top_p,
            self.repetition_penalty,
            self.min_new_tokens,
            self.max_new_tokens,
        ]

    def settings(self, eos_token_id: int | None) -> SamplingSettings:
        """What the sliders say, as `course_helpers.sampling` takes it."""
        return SamplingSettings(
            repetition_penalty=self.repetition_penalty.value,
            min_new_tokens=self.min_new_tokens.value,
            max_new_tokens=self.max_new_tokens.value,
            temperature=self.temperature.value,
            top_k=self.top_k.value,
            top_p=self.top_p.value,
            eos_token_id=eos_token_id,
        )

    def in_words(self) -> str:
        """The values of all sliders in one line."""
        return in_words(self.settings(None))

    def reset(self) -> None:
        """Back to the policy's own distribution."""
        for slider, value in self.defaults:
            slider.value = value


def in_words(settings: SamplingSettings) -> str:
    """Sampling settings in one line."""
    line = _(
        "temperature τ {temperature}, top-k {top_k}, top-p {top_p}, repetition penalty {repetition_penalty}, "
        "min new tokens {min_new_tokens}, max new tokens {max_new_tokens}"
    )
    return line.format(
        temperature=f"{settings.temperature:g}",
        top_k=settings.top_k,
        top_p=f"{settings.top_p:g}",
        repetition_penalty=f"{settings.repetition_penalty:g}",
        min_new_tokens=settings.min_new_tokens,
        max_new_tokens=settings.max_new_tokens,
    )
