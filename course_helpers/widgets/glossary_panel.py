"""The glossary as a widget: type, and the term is there; press a name to go on reading."""

from __future__ import annotations

import ipywidgets as widgets

from course_helpers.glossary import (
    MOST_OTHERS,
    Entry,
    entries,
    entry_html,
    find,
    nearest,
    nothing_found,
    related,
    table_html,
)
from course_helpers.prose import no_formulas, sendable
from course_helpers.translation import N_, _, ngettext, say
from course_helpers.widgets.controls import button
from course_helpers.widgets.markup import escape
from course_helpers.widgets.panel import Panel, box, html_part

# Where to begin, and what stands in for the panel where no kernel runs.
FIRST = (
    "policy",
    "rollout",
    "temperature",
    "kl-divergence",
    "beta",
    "log-derivative-trick",
    "proximal-policy-optimization",
    "direct-preference-optimization",
)


class GlossaryPanel(Panel):
    """A line to type into, the term that fits best, and the names of others to press.

    Args:
        query: what is looked up at the start.
    """

    def __init__(self, query: str = ""):
        """Build the line and the buttons, and look up."""
        self.search = widgets.Text(
            sendable(query),
            continuous_update=True,
            style={"description_width": "auto"},
            layout=widgets.Layout(width="100%"),
        )
        self.status, self.lead = html_part("ch-status"), html_part("ch-lead")
        self.status.add_class("ch-live")
        # Not an HTML widget: JupyterLab opens a lesson in a tab only from links in outputs.
        self.answer = widgets.Output()
        self.offered: list[Entry] = []
        self.buttons = [self._button(place) for place in range(MOST_OTHERS)]
        row = box("ch-row", self.buttons)
        super().__init__(N_("Glossary"), [self.search, self.status, self.answer, self.lead, row])
        say(self.search, "description", N_("look up"))
        say(self.search, "placeholder", N_("a name, a symbol, an abbreviation: KL, β, rollout …"))
        self.search.observe(lambda change: self.guard(self.refresh), "value")
        self.refresh()

    def _button(self, place: int) -> widgets.Button:
        made = button("")
        made.on_click(lambda clicked: self.guard(lambda: self.show(self.offered[place])))
        return made

    def show(self, entry: Entry) -> None:
        """Look up an entry, and give the line of search the focus, since the pressed button now says something else."""
        self.search.value = entry.term
        self.search.focus()

    def refresh(self) -> None:
        """Show what the line asks for."""
        query = self.search.value
        found = find(entries(), query)
        if found:
            self._show_found(found)
        elif query.strip():
            self._say(nothing_found(query))
            self._offer(_("The nearest terms:"), nearest(entries(), query))
        else:
            self._say(_count(len(entries())))
            self._offer(_("To begin with:"), first())

    def _show_found(self, found: list[Entry]) -> None:
        best, others = found[0], found[1 : 1 + MOST_OTHERS]
        self._say(" · ".join(filter(None, [best.term, _count_others(len(found) - 1)])), entry_html(best))
        more = [entry for entry in related(best) if entry not in others]
        lead = _("Also found, and related:") if others else _("Related:")
        self._offer(lead, [*others, *more][:MOST_OTHERS])

    def _say(self, status: str, answer: str = "") -> None:
        """What is read aloud, and the entry itself."""
        self.status.value = f'<p class="ch-hint">{escape(status)}</p>'
        shown = {"output_type": "display_data", "data": {"text/html": no_formulas(answer)}, "metadata": {}}
        self.answer.outputs = (shown,) if answer else ()

    def _offer(self, lead: str, offered: list[Entry]) -> None:
        """Put names on the buttons and hide those that are left."""
        self.offered = offered
        self.lead.value = f'<p class="ch-hint">{escape(lead)}</p>'
        for place, button_ in enumerate(self.buttons):
            used = place < len(offered)
            button_.description = offered[place].term if used else ""
            button_.layout.display = "" if used else "none"

    def static_html(self) -> str:
        """What was found, or some terms to begin with, as a table."""
        shown = find(entries(), self.search.value)[:MOST_OTHERS] or first()
        return table_html(shown)


def first() -> list[Entry]:
    """The terms to begin with."""
    by_id = {entry.id: entry for entry in entries()}
    return [by_id[name] for name in FIRST]


def _count(count: int) -> str:
    return ngettext("{count} term in two languages", "{count} terms in two languages", count).format(count=count)


def _count_others(count: int) -> str:
    return ngettext("{count} other term fits", "{count} other terms fit", count).format(count=count) if count else ""
