"""What every widget of the course shares: look, messages, language, accessible names, and a static version."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
from IPython import get_ipython

from course_helpers.assets import AssetError
from course_helpers.memory import NotEnoughMemoryError
from course_helpers.prose import no_formulas
from course_helpers.translation import TAGS, _, follow, language, say
from course_helpers.widgets.markup import alert, escape
from course_helpers.widgets.style import NAME_THE_SLIDERS, STYLE

MODELS = ("model", "models", "traveller")  # what panels call the models that they ask

# Which panels are on show, so that those of a cell that runs again can be closed.
_on_show: weakref.WeakSet[Panel] = weakref.WeakSet()


def html_part(name: str, value: str = "") -> widgets.HTML:
    """An HTML widget that fills its line, with a class of its own to be styled and found by."""
    part = widgets.HTML(value, layout=widgets.Layout(width="100%", margin="0"))
    part.add_class(name)
    return part


def heading(message: str) -> widgets.HTML:
    """The first line of a part of a panel; its English words are marked with `N_`."""
    part = html_part("ch-head")
    say(part, "value", message, lambda text: f'<div class="ch-part">{escape(text)}</div>')
    return part


def box(name: str, children: Sequence[widgets.Widget]) -> widgets.Box:
    """A box whose look comes from the style sheet."""
    part = widgets.Box(list(children))
    part.add_class(name)
    return part


def close_all(widget: widgets.Widget) -> None:
    """Close a widget and what it is made of: children, layout, style.

    ipywidgets keeps every widget until it is closed, and with it whoever hears from it: one slider left open keeps its
    whole panel, with the model in it.
    """
    if widget.comm is None:  # closed before
        return
    parts = [getattr(widget, name) for name in widget.keys]
    widgets.Widget.close(widget)
    for value in parts:
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, widgets.Widget):
                close_all(part)


def cell_of_now() -> tuple[str, str] | None:
    """Id of the notebook's cell that runs now, and of this run of it; None where a front end does not tell."""
    shell = get_ipython()
    asked = shell.get_parent() if hasattr(shell, "get_parent") else {}
    cell = asked.get("metadata", {}).get("cellId")
    return (cell, asked["header"]["msg_id"]) if cell else None


class Panel(widgets.VBox):
    """A widget of the course: a title, the parts a lesson looks at, and a place for messages.

    A subclass draws its parts in `refresh` from what it remembers, so that they can be drawn again in another language,
    and gives `static_html`; where no kernel runs (GitHub, a converted page), that is what is seen.

    Args:
        title: the first line in English, marked with `N_` where it is written.
        parts: the widgets below it.
    """

    def __init__(self, title: str, parts: Sequence[widgets.Widget]):
        """Put the parts together."""
        self.title = title
        self.lock = threading.RLock()
        self.trouble: Exception | None = None
        self.shown_in: dict[str, str] = {}  # by cell: the run of it that showed this panel last
        self.message = html_part("ch-message")
        self.title_line = html_part("ch-head", title_html(title))
        sheet = html_part("ch-sheet", f'<style onload="{escape(NAME_THE_SLIDERS)}">{STYLE}</style>')
        super().__init__([sheet, self.title_line, *parts, self.message])
        self.add_class("ch-panel")
        follow(self, lambda panel: panel.change_language())

    def refresh(self) -> None:
        """Draw what changes; a panel in which nothing does has nothing to draw."""

    def speak(self) -> None:
        """Say everything in the language of the moment; what the learner did stays."""
        self.title_line.value = title_html(self.title)
        self.refresh()

    def change_language(self) -> None:
        """`speak`, and keep the message that was on show."""
        if self.comm is None:  # closed
            return
        with self.lock:
            self._tell(trouble_of(self.speak) or self.trouble)

    def guard(self, action: Callable[[], None]) -> None:
        """Run what a control asks for, one at a time; an error becomes a message in the widget."""
        with self.lock:
            self._tell(trouble_of(action))

    def work(self, clicked: widgets.Button, action: Callable[[], None]) -> None:
        """`guard` for what takes long: the button that asked for it rests until it is done."""
        clicked.disabled = True
        try:
            self.guard(action)
        finally:
            clicked.disabled = False

    def close(self) -> None:
        """Take the panel off the page with all its parts, and let go of its models.

        Until then a kernel keeps them; and even then IPython's `Out` keeps the panel, but no longer its models.
        """
        close_all(self)
        for name in MODELS:
            vars(self).pop(name, None)

    def take_place(self) -> None:
        """Close what an earlier run of this cell, and no other cell, has shown: it is off the page for good.

        Otherwise each run of a cell would cost the memory of one more panel, until the kernel ends.
        """
        if (now := cell_of_now()) is None:
            return
        cell, run = now
        for other in list(_on_show):
            if other is not self and other.shown_in.keys() == {cell} and other.shown_in[cell] != run:
                other.close()
        self.shown_in[cell] = run
        _on_show.add(self)

    def _tell(self, trouble: Exception | None) -> None:
        self.trouble = trouble
        self.message.value = alert(trouble_in_words(trouble)) if trouble else ""

    def static_html(self) -> str:
        """The widget's content as plain HTML without styles, scripts or ids."""
        return ""

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live view, and the static version for whoever has no kernel."""
        self.take_place()
        bundle = dict(super()._repr_mimebundle_(**kwargs) or {})
        title = _(self.title)
        bundle["text/plain"] = f"{type(self).__name__}: {title}"
        page = f"<p><b>{escape(title)}</b></p>{self._static_or_nothing()}{self.message.value}"
        bundle["text/html"] = no_formulas(page)
        return bundle

    def _static_or_nothing(self) -> str:
        try:
            return self.static_html()
        except ValueError:  # settings at odds: the message says so already
            return ""
        except AssetError as error:
            return alert(str(error))


def title_html(title: str) -> str:
    """The first line of a panel, and what the page has to know to name its sliders and to read it aloud."""
    value_of = _("{name}, value")
    known = f'lang="{TAGS[language()]}" data-value-of="{escape(value_of)}"'
    return f'<div class="ch-title" {known}>{escape(_(title))}</div>'


def trouble_of(action: Callable[[], None]) -> Exception | None:
    """What went wrong with an action, if anything; without the traceback, which would keep its variables alive."""
    try:
        action()
    except Exception as error:  # a callback has no cell in which a traceback could be seen
        return error.with_traceback(None)
    return None


def trouble_in_words(trouble: Exception) -> str:
    """What to tell the learner."""
    if isinstance(trouble, ValueError | AssetError | NotEnoughMemoryError):  # these are written for the learner
        return str(trouble)
    return _("Something went wrong: {kind}: {error}").format(kind=type(trouble).__name__, error=trouble)
