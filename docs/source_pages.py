"""Pages of the package's source, line by line, so that the table of its names leads somewhere."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.parsers import Parser
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, Any]:
    """Let Sphinx read Python files as pages."""
    app.add_source_suffix(".py", "python")
    app.add_source_parser(SourceParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class SourceParser(Parser):
    """A Python file becomes its name and its lines; ``file.py#L37`` is line 37, as on GitHub."""

    supported = ("python",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Fill the page and tell Sphinx which lines can be linked to; the page is in no table of contents."""
        env = document.settings.env
        formatter = HtmlFormatter(linenos="inline", linespans="L", wrapcode=True)
        section = nodes.section(ids=["source"])
        section += nodes.title(text=f"{env.docname}.py")
        section += nodes.raw(text=highlight(inputstring, PythonLexer(stripnl=False), formatter), format="html")
        document += section
        lines = {f"L{k}": (k, f"L-{k}", f"line {k}") for k in range(1, inputstring.count("\n") + 1)}
        env.metadata[env.docname] |= {"orphan": True, "nosearch": True, "myst_slugs": lines}
