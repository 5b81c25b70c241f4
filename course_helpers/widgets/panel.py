"""What every widget of the course shares: look, messages, accessible names, and a static version."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets

from course_helpers.widgets.markup import alert, escape
from course_helpers.widgets.style import NAME_THE_SLIDERS, STYLE


def html_part(name: str, value: str = "") -> widgets.HTML:
    """An HTML widget that fills its line, with a class of its own to be styled and found by."""
    part = widgets.HTML(value, layout=widgets.Layout(width="100%", margin="0"))
    part.add_class(name)
    return part


def heading(text: str) -> widgets.HTML:
    """The first line of a part of a panel."""
    return html_part("ch-head", f'<div class="ch-part">{escape(text)}</div>')


def box(name: str, children: Sequence[widgets.Widget]) -> widgets.Box:
    """A box whose look comes from the style sheet."""
    part = widgets.Box(list(children))
    part.add_class(name)
    return part


class Panel(widgets.VBox):
    """A widget of the course: a title, the parts a lesson looks at, and a place for messages.

    A subclass gives `static_html`; where no kernel runs (GitHub, a converted page), that is what is seen.

    Args:
        title: the first line.
        parts: the widgets below it.
    """

    def __init__(self, title: str, parts: Sequence[widgets.Widget]):
        """Put the parts together."""
        self.title = title
        self.lock = threading.RLock()
        self.message = html_part("ch-message")
        sheet = html_part("ch-sheet", f'<style onload="{escape(NAME_THE_SLIDERS)}">{STYLE}</style>')
        head = html_part("ch-head", f'<div class="ch-title">{escape(title)}</div>')
        super().__init__([sheet, head, *parts, self.message])
        self.add_class("ch-panel")

    def guard(self, action: Callable[[], None]) -> None:
        """Run what a control asks for, one at a time; an error becomes a message in the widget."""
        with self.lock:
            try:
                action()
            except ValueError as error:  # these are written for the learner
                self.message.value = alert(str(error))
            except Exception as error:  # a callback has no cell in which a traceback could be seen
                self.message.value = alert(f"Something went wrong: {type(error).__name__}: {error}")
            else:
                self.message.value = ""

    def work(self, clicked: widgets.Button, action: Callable[[], None]) -> None:
        """`guard` for what takes long: the button that asked for it rests until it is done."""
        clicked.disabled = True
        try:
            self.guard(action)
        finally:
            clicked.disabled = False

    def static_html(self) -> str:
        """The widget's content as plain HTML without styles, scripts or ids."""
        return ""

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live view, and the static version for whoever has no kernel."""
        bundle = dict(super()._repr_mimebundle_(**kwargs) or {})
        bundle["text/plain"] = f"{type(self).__name__}: {self.title}"
        bundle["text/html"] = f"<p><b>{escape(self.title)}</b></p>{self._static_or_nothing()}{self.message.value}"
        return bundle

    def _static_or_nothing(self) -> str:
        try:
            return self.static_html()
        except ValueError:  # settings at odds: the message says so already
            return ""
