"""What a stored lesson needs to be a page of the site; the notebooks themselves stay as they are.

A page says how to open its lesson live, every cell can be linked to, and every figure says in words what it shows.
"""

from __future__ import annotations

import re
from typing import Any

import nbformat
from markdown_it import MarkdownIt
from nbformat import NotebookNode
from sphinx.application import Sphinx

LIVE = """```{{note}}
This page shows the lesson as it ran. Its sliders, exercises and quizzes work where it runs: `make lab` opens JupyterLab
with all lessons, and this one is `{file}.ipynb`.
```"""
SEEN = "**What you should see:**"
CELL_LINK = re.compile(r"\b(?P<page>(?P<number>\d\d)_\w+)\.ipynb#cell-id=(?P<cell>[\w-]+)")
LONGEST_ALT = 600  # characters


def setup(app: Sphinx) -> dict[str, Any]:
    """Let Sphinx pass every source through `change_source` before it is read."""
    app.connect("source-read", change_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def change_source(app: Sphinx, page: str, source: list[str]) -> None:
    """Prepare a lesson, or lead another page's links to cells to the lessons' pages."""
    if page.startswith("notebooks/") and app.env.doc2path(page).suffix == ".ipynb":
        notebook = nbformat.reads(source[0], as_version=4)
        source[0] = nbformat.writes(lesson_page(notebook, page.split("/")[1]))
    else:
        source[0] = CELL_LINK.sub(lambda link: f"#{label(link['number'], link['cell'])}", source[0])


def lesson_page(notebook: NotebookNode, file: str) -> NotebookNode:
    """The notebook as its page shows it.

    Args:
        notebook: a lesson with its stored outputs.
        file: its name without ending, which begins with the lesson's number.

    Returns:
        the same notebook, changed in place.
    """
    cells = []
    for place, cell in enumerate(notebook.cells):
        target = f"({label(file[:2], cell.id)})="
        if cell.cell_type == "markdown":
            cell.source = f"{target}\n{cell.source}"
        else:
            cells.append(prose(target))
            describe_figures(cell, notebook.cells[:place], notebook.cells[place + 1 :])
            lead_to_pages(cell)
        cells.append(cell)
    notebook.cells = [cells[0], prose(LIVE.format(file=file)), *cells[1:]]
    return notebook


def prose(text: str) -> NotebookNode:
    """A Markdown cell."""
    return nbformat.v4.new_markdown_cell(text)


def label(number: str, cell: str) -> str:
    """The target of a cell: one name for it in the whole site."""
    return f"lesson-{number}-{cell}".lower()


def lead_to_pages(cell: NotebookNode) -> None:
    """Let the links in a cell's HTML outputs lead from page to page."""
    for output in cell.outputs:
        if "text/html" in output.get("data", {}):
            output.data["text/html"] = CELL_LINK.sub(
                lambda link: f"{link['page']}.html#{label(link['number'], link['cell'])}", output.data["text/html"]
            )


def describe_figures(cell: NotebookNode, before: list[NotebookNode], after: list[NotebookNode]) -> None:
    """Give a cell's figures their words: those stored with them, or else what the lesson says is to be seen."""
    stored = [output.metadata.get("image/png", {}).get("alt") for output in cell.outputs if has_figure(output)]
    if stored:
        alt = next(filter(None, stored), None) or in_words(before, after)
        cell.metadata["mystnb"] = {"image": {"alt": alt}}


def in_words(before: list[NotebookNode], after: list[NotebookNode]) -> str:
    """The section a figure stands in and, up to the next figure, what the lesson says is to be seen in it."""
    headings = [line for cell in before for line in cell.source.splitlines() if re.match("#+ ", line)]
    section = plain(headings[-1]) if headings else ""
    for cell in after:
        if cell.cell_type == "code" and any(map(has_figure, cell.outputs)):
            break
        if cell.cell_type == "markdown" and SEEN in cell.source:
            seen = plain(cell.source.split(SEEN)[1].split("\n\n")[0])
            return shortened(f"Figure of “{section}”: {seen}")
    return f"Figure of “{section}”"


def has_figure(output: NotebookNode) -> bool:
    """Whether an output holds a picture."""
    return "image/png" in output.get("data", {})


def plain(markdown: str) -> str:
    """The words of a piece of Markdown, on one line; formulas as they are written."""
    inline = [part for block in MarkdownIt().parse(markdown) for part in block.children or ()]
    return " ".join(
        "".join(part.content or " " * part.type.endswith("break") for part in inline).replace("$", "").split()
    )


def shortened(text: str) -> str:
    """At most `LONGEST_ALT` characters, cut between words."""
    return text if len(text) <= LONGEST_ALT else f"{text[: LONGEST_ALT - 1].rsplit(' ', 1)[0]}…"
