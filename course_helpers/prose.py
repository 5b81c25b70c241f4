"""Our own way to write a sentence with code in it, as HTML: what stands between backticks is code."""

import html
import re


def prose(text: object) -> str:
    """A sentence as HTML: escaped, whoever wrote it, and then what stands between backticks as ``<code>``."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(str(text)))
