"""What a check, a hint or a solution shows: heading, paragraphs and code, as HTML in a notebook and as text elsewhere.

Text from a learner passes through here, so everything is escaped before it becomes HTML; what stands between backticks
is then set as code.
"""

from __future__ import annotations

from dataclasses import dataclass

from course_helpers.prose import escape, no_formulas, prose, sendable
from course_helpers.translation import TAGS, language


@dataclass(frozen=True)
class Shown:
    """A message that shows itself.

    Attributes:
        heading: its first line; it says everything that the colour says.
        paragraphs: what follows; backticks mark code.
        code: shown as it is, below.
        colour: of the line at the left.
    """

    heading: str
    paragraphs: tuple[str, ...] = ()
    code: str = ""
    colour: str = "#8a8a8a"

    def __repr__(self) -> str:
        """Plain text."""
        return sendable("\n".join(part for part in (self.heading, *self.paragraphs, self.code) if part))

    def _repr_html_(self) -> str:
        style = f"border-left: 4px solid {self.colour}; padding: 2px 12px; margin: 4px 0; max-width: 860px"
        body = "".join(
            f'<p style="margin: 4px 0; overflow-wrap: anywhere">{paragraph(text)}</p>' for text in self.paragraphs
        )
        if self.code:
            body += f'<pre style="margin: 4px 0">{escape(self.code)}</pre>'
        return no_formulas(
            f'<div class="ch-live" role="status" lang="{TAGS[language()]}" style="{style}">'
            f'<p style="margin: 4px 0"><b>{escape(self.heading)}</b></p>{body}</div>'
        )


def paragraph(text: str) -> str:
    """A paragraph as HTML: escaped, its line ends kept, what stands between backticks as code."""
    return prose(text).replace("\n", "<br>")
