"""Labelled sliders and fields, and the group of all that change a sampling distribution."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets as widgets

from course_helpers.sampling import SamplingSettings

LABEL_WIDTH = "136px"


def float_slider(name: str, value: float, low: float, high: float, step: float) -> widgets.FloatSlider:
    """A slider for a real number, its name in front and its value, which can also be typed, behind."""
    return widgets.FloatSlider(
        value, min=low, max=high, step=step, description=name, style=_style(), layout=_layout(), readout_format=".2f"
    )


def int_slider(name: str, value: int, low: int, high: int) -> widgets.IntSlider:
    """A slider for a whole number."""
    return widgets.IntSlider(value, min=low, max=high, description=name, style=_style(), layout=_layout())


def prompt_box(prompt: str) -> widgets.Text:
    """A line of text that counts when Enter is pressed or the line is left."""
    return widgets.Text(
        prompt,
        description="prompt",
        placeholder="type a few words, then press Enter",
        continuous_update=False,
        style={"description_width": "56px"},
        layout=widgets.Layout(width="100%"),
    )


def seed_box(value: int = 0) -> widgets.BoundedIntText:
    """A field for the seed of the draws."""
    return widgets.BoundedIntText(
        value,
        min=0,
        max=2**31 - 1,
        description="seed",
        style={"description_width": "40px"},
        layout=widgets.Layout(width="120px"),
    )


def button(name: str, icon: str = "", style: str = "") -> widgets.Button:
    """A button as wide as its text."""
    return widgets.Button(description=name, icon=icon, button_style=style, layout=widgets.Layout(width="auto"))


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
        self.temperature = float_slider("temperature τ", 1.0, 0.0, 3.0, 0.05)
        self.top_k = int_slider("top-k (0 = off)", 0, 0, 100)
        self.top_p = float_slider("top-p", 1.0, 0.05, 1.0, 0.01)
        self.repetition_penalty = float_slider("repetition penalty", 1.0, 1.0, 2.0, 0.05)
        self.min_new_tokens = int_slider("min new tokens", 0, 0, 40)
        self.max_new_tokens = int_slider("max new tokens", 20, 1, 60)
        self.defaults = [(slider, slider.value) for slider in self.sliders]
        self.reset_button = button("Reset", icon="undo")
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
        return ", ".join(f"{slider.description.split(' (')[0]} {slider.value:g}" for slider in self.sliders)

    def reset(self) -> None:
        """Back to the policy's own distribution."""
        for slider, value in self.defaults:
            slider.value = value
