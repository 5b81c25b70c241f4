"""Responses as cards: the prompt, what a policy wrote, what both judges say, and what changed since another text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from itertools import zip_longest

from course_helpers.frontier.table import Sample
from course_helpers.tokens import readable
from course_helpers.translation import N_, _
from course_helpers.widgets.markup import escape, number
from course_helpers.widgets.responses import table

NONE = N_("No texts of it were kept.")
LOOK = """
.ch-panel .ch-texts .ch-query { padding-right: 0; color: var(--ch-soft); }
.ch-panel .ch-texts .ch-flow { white-space: pre-wrap; line-height: 1.5; }
.ch-panel .ch-texts .ch-hint { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.ch-panel .ch-texts b { background: rgba(217, 130, 43, .22); border-radius: 2px; }
"""


def cards(texts: Sequence[Sample], before: Sequence[Sample] = ()) -> str:
    """Texts side by side, or that there are none.

    Args:
        texts: what to show.
        before: earlier texts to the same prompts; where there are none, nothing is compared.
    """
    if not texts:
        return f'<p class="ch-hint">{escape(_(NONE))}</p>'
    pairs = zip_longest(texts, before[: len(texts)])
    return f'<div class="ch-texts ch-cards">{"".join(card(text, old) for text, old in pairs)}</div>'


def card(text: Sample, before: Sample | None = None) -> str:
    """One text; the words that an earlier one did not have are bold, and that one stands below.

    Args:
        text: what to show.
        before: an earlier text to the same prompt.
    """
    response = escape(readable(text.response)) if before is None else changed(text.response, before.response)
    lines = [numbers(text, before)]
    if before is not None:
        same = text.response == before.response
        was = _("the same text as before") if same else _("before: {text}").format(text=readable(before.response))
        lines.append(escape(was))
    hints = "".join(f'<div class="ch-hint">{line}</div>' for line in lines)
    return (
        f'<div class="ch-card"><div class="ch-flow"><span class="ch-query">{escape(readable(text.prompt))}</span>'
        f"{response}</div>{hints}</div>"
    )


def numbers(text: Sample, before: Sample | None = None) -> str:
    """What the judges say of a text and its KL, escaped; in brackets the change since an earlier text."""

    def shown(name: str) -> str:
        value = getattr(text, name)
        change = "" if before is None else f" ({signed(value - getattr(before, name))})"
        return f"{number(value)}{change}"

    words = _("training judge {reward} · measuring judge {second} · KL {kl}")
    return escape(words.format(reward=shown("reward"), second=shown("second_reward"), kl=shown("kl")))


def signed(value: float) -> str:
    """A change: a number with its sign, and no sign for none."""
    shown = number(value)
    return f"+{shown}" if value > 0 and shown != number(0) else shown


def changed(text: str, before: str) -> str:
    """A text as HTML, the words that an earlier one did not have in bold.

    Args:
        text: the text now.
        before: the earlier text.
    """
    words, old = (re.findall(r"\s*\S+|\s+$", part) for part in (text, before))
    found = ""
    for kind, _i, _j, begin, end in difflib.SequenceMatcher(None, old, words, autojunk=False).get_opcodes():
        piece = escape(readable("".join(words[begin:end])))
        found += f"<b>{piece}</b>" if kind in ("insert", "replace") and piece else piece
    return found


def static_texts(texts: Sequence[Sample]) -> str:
    """Texts as a plain table, for where no kernel runs."""
    head = (_("prompt"), _("response"), _("training judge"), _("measuring judge"), _("KL [nats]"))
    rows = [(*(escape(readable(part)) for part in text[:2]), *(number(value) for value in text[2:])) for text in texts]
    return table(head, rows) if rows else ""
