"""Lists to choose from: dropdowns that keep their keys to themselves, and get other options without losing a choice."""

from __future__ import annotations

import ipywidgets as widgets

# In JupyterLab's command mode the arrow keys go to another cell, and D D deletes one, also while a list has the focus.
# Plain keys stay with the list; Shift+Enter and shortcuts pass. The style element's load event is the moment the panel
# is on the page.
KEEP_THE_KEYS = """
const panel = this.closest('.ch-panel');
if (!panel.dataset.lists) {
  panel.dataset.lists = 'on';
  panel.addEventListener('keydown', event => {
    const shortcut = event.ctrlKey || event.metaKey || event.altKey || (event.shiftKey && event.key === 'Enter');
    if (event.target.matches('select') && !shortcut) event.stopPropagation();
  });
}
"""


def refill(control: widgets.Widget, options: tuple[tuple[str, object], ...], value: object) -> None:
    """Give a list other options, and choose one of them.

    Args:
        control: a dropdown or a slider over a list.
        options: texts and their values.
        value: one of the values; None where there are no options.
    """
    if control.options != options:
        control.options = options
    if control.value != value:
        control.value = value
