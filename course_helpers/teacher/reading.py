"""Reading a short review with a lexicon: which aspect does which adjective speak of?

Each adjective goes with the aspect that stands nearest, counted in words; a step into another clause costs as much as
ten words, and two such steps are too many. Nothing of grammar is known beyond that, which is enough for reviews of one
or two sentences.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

from course_helpers.teacher.lexicon import WORD, Lexicon

CLAUSE = 10  # words that one border between clauses counts for
TOO_FAR = 2 * CLAUSE
BORDER = re.compile(r"[.!?;:,]|\b(?:but|and|while|although|though|yet|whereas)\b", re.IGNORECASE)
ROLE_OF = {"praise": "praised", "blame": "blamed"}


@dataclass(frozen=True)
class Reading:
    """What a review says.

    Attributes:
        praised: aspects with a praising adjective, in the order in which they are named.
        blamed: aspects with a blaming adjective, likewise.
        praise: the praising adjectives, in the order of the aspects, then those that speak of none.
        blame: the blaming adjectives, likewise.
        aspect: aspects of which no adjective speaks.
    """

    praised: tuple[str, ...]
    blamed: tuple[str, ...]
    praise: tuple[str, ...]
    blame: tuple[str, ...]
    aspect: tuple[str, ...]

    @property
    def roles(self) -> dict[str, str]:
        """Every word by what it does here: {"praised 1": "acting", "praise 1": "wonderful", ...}."""
        fields = ("praised", "praise", "blamed", "blame", "aspect")
        return {f"{name} {k}": word for name in fields for k, word in enumerate(getattr(self, name), start=1)}

    @property
    def signature(self) -> tuple[str, ...]:
        """Which roles there are; a question can be asked of every review with the signature it was made for."""
        return tuple(sorted(self.roles))

    @property
    def aspects(self) -> tuple[str, ...]:
        """All aspects; one that is named twice stands here twice."""
        return self.praised + self.blamed + self.aspect


def read_review(text: str, lexicon: Lexicon) -> Reading:
    """Find the lexicon's words in a text and which adjective goes with which aspect.

    Args:
        text: a review of one or two sentences.
        lexicon: what counts as an aspect, as praise and as blame.

    Returns:
        The reading; all its parts are empty if no word of the text is in the lexicon.
    """
    found = _find(text, lexicon)
    aspects = [place for place, (kind, *_) in enumerate(found) if kind == "aspect"]
    adjectives = [place for place, (kind, *_) in enumerate(found) if kind != "aspect"]
    pairs = sorted((_distance(found[a], found[b]), a, b) for a in aspects for b in adjectives)
    adjective_of: dict[int, int] = {}
    for distance, a, b in pairs:
        if distance < TOO_FAR and a not in adjective_of and b not in adjective_of.values():
            adjective_of[a] = b
    parts: dict[str, list[str]] = {name: [] for name in ("praised", "blamed", "praise", "blame", "aspect")}
    for a in aspects:
        kind, word = ("aspect", None) if a not in adjective_of else found[adjective_of[a]][:2]
        parts[ROLE_OF.get(kind, "aspect")].append(found[a][1])
        if word is not None:
            parts[kind].append(word)
    for b in adjectives:
        if b not in adjective_of.values():
            parts[found[b][0]].append(found[b][1])
    return Reading(**{name: tuple(words) for name, words in parts.items()})


def _find(text: str, lexicon: Lexicon) -> list[tuple[str, str, int, int]]:
    """(kind, word, its number in the text, the number of its clause) of each word that the lexicon knows."""
    borders = [border.start() for border in BORDER.finditer(text)]
    kind_of, found = lexicon.kind_of, []
    for number, match in enumerate(WORD.finditer(text)):
        word = match.group().lower()
        if word in kind_of:
            clause = bisect_left(borders, match.start())
            found.append((kind_of[word], word, number, clause))
    return found


def _distance(aspect: tuple[str, str, int, int], adjective: tuple[str, str, int, int]) -> int:
    """How far apart two words stand, in words."""
    return abs(aspect[2] - adjective[2]) + CLAUSE * abs(aspect[3] - adjective[3])
