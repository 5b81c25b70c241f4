"""How words become HTML: escaped, whoever wrote them; and our own way to write a sentence with code in it.

JupyterLab sets formulas with MathJax in the HTML below a cell and in the labels of controls, whoever wrote them. What a
model or a learner wrote is no formula, so it is kept from MathJax: HTML by `no_formulas`, labels by `label`.
"""

import html
import re

# What opens a formula beside dollars: \( \[ \begin; what names one: \ref \eqref; and \$ would lose its backslash.
COMMAND = re.compile(r"\\(?=[(\[$\\]|begin|ref|eqref)")
# The first is what MathJax 3 and 4 pass over, the second what MathJax 2 does, which older converted pages load.
PASSED_OVER = "mathjax_ignore tex2jax_ignore"


def sendable(text: object) -> str:
    """A text that can be sent to a page: half a letter, which no encoding knows, is spelled out, ``\\ud800``."""
    return str(text).encode("utf-8", errors="backslashreplace").decode("utf-8")


def escape(text: object) -> str:
    """Text that is safe inside an element and inside a quoted attribute, and that can be sent to a page."""
    return html.escape(sendable(text), quote=True)


def prose(text: object) -> str:
    """A sentence as HTML: escaped, whoever wrote it, and then what stands between backticks as ``<code>``."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def no_formulas(page: str) -> str:
    """HTML that goes below a cell, kept from MathJax; HTML that holds no sign of a formula stays as it is."""
    return f'<div class="{PASSED_OVER}">{page}</div>' if "$" in page or "\\" in page else page


def label(text: object) -> str:
    """A text for the label of a control, which JupyterLab hands to MathJax without a class to prevent it.

    The signs that open a formula are broken up: an invisible word joiner follows the backslash of a command, and where
    there are two dollars or more, they become full-width ones, since nothing invisible keeps a pair of them apart.

    Examples:
        >>> label("$5"), label("$x$")
        ('$5', '＄x＄')
    """
    broken = COMMAND.sub("\\\\\N{WORD JOINER}", sendable(text))
    return broken.replace("$", "\N{FULLWIDTH DOLLAR SIGN}") if broken.count("$") > 1 else broken
