"""Texts with slots: "The {aspect 1} is {praise 1}." is filled with words, or compared with a text to find them.

A slot that begins with a capital, "{Aspect 1}", takes its word with one. An article before a slot follows the word:
"a dull plot", "an awful plot".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

SLOT = re.compile(r"\{([A-Za-z]+) (\d+)\}")
WITH_ARTICLE = re.compile(r"(?:\b([Aa])n? )?\{([A-Za-z]+) (\d+)\}")
ONE_WORD = r"[^\W\d_]+(?:['-][^\W\d_]+)*"
SOME_WORDS = r"\S.*?"
SOUNDS_LIKE_YOU = (
    "eu",
    "once",
    "one-",
    "unif",
    "unio",
    "uniq",
    "unis",
    "unit",
    "univ",
    "use",
    "usu",
    "uto",
)  # written with a vowel, spoken without one
SILENT_H = ("heir", "honest", "honor", "hour")


def slots_of(pattern: str) -> tuple[str, ...]:
    """The slots of a pattern, each once, in order: ("aspect 1", "praise 1")."""
    return tuple(dict.fromkeys(f"{kind.lower()} {number}" for kind, number in SLOT.findall(pattern)))


def capital(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[:1].upper() + text[1:]


def takes_an(word: str) -> bool:
    """Whether English says "an" before a word."""
    start = word.lower()
    return start.startswith(SILENT_H) or (start[:1] in set("aeiou") and not start.startswith(SOUNDS_LIKE_YOU))


def fill(pattern: str, values: Mapping[str, str]) -> str:
    """Put words into the slots.

    Args:
        pattern: a text with slots.
        values: slot → its word, such as {"aspect 1": "acting"}; more than needed does no harm.

    Raises:
        KeyError: a slot has no word.
    """

    def put(found: re.Match[str]) -> str:
        article, kind, number = found.groups()
        word = values[f"{kind.lower()} {number}"]
        before = "" if article is None else f"{article}{'n' if takes_an(word) else ''} "
        return before + (capital(word) if kind[0].isupper() else word)

    return WITH_ARTICLE.sub(put, pattern)


def slotted(text: str, slot_of: Mapping[str, str]) -> str:
    """Put slots in the place of words: the contrary of `fill`.

    Args:
        text: what may hold the words.
        slot_of: word, or words, → slot, such as {"acting": "aspect 1"}. Longer ones go first. A word with a capital
            that its entry lacks becomes a slot with a capital; written otherwise, it is left alone.
    """
    if not slot_of:
        return text
    longest_first = sorted(slot_of, key=len, reverse=True)
    known = {capital(value): capital(slot_of[value]) for value in longest_first} | dict(slot_of)
    found = re.compile(r"(?<!\w)(?:" + "|".join(re.escape(word) for word in sorted(known, key=len)[::-1]) + r")(?!\w)")
    return found.sub(lambda word: "{" + known[word.group()] + "}", text)


def match(pattern: str, text: str, several_words: bool = False) -> dict[str, str] | None:
    """Compare a text with a pattern.

    Args:
        pattern: a text with slots.
        text: another text.
        several_words: whether a slot may hold more than one word.

    Returns:
        slot → its word, or None if the text is not of that form, or holds two words for one slot.
    """
    compiled, slots = _compiled(pattern, SOME_WORDS if several_words else ONE_WORD)
    found = compiled.fullmatch(text)
    if found is None:
        return None
    values: dict[str, str] = {}
    for (slot, has_capital), word in zip(slots, found.groups(), strict=True):
        word = word[:1].lower() + word[1:] if has_capital else word
        if values.setdefault(slot, word) != word:
            return None
    return values


@lru_cache(maxsize=256)
def _compiled(pattern: str, inside: str) -> tuple[re.Pattern[str], tuple[tuple[str, bool], ...]]:
    """The pattern as a regular expression, and its slots, one for each group, with whether they want a capital."""
    pieces, slots, end = [], [], 0
    for found in WITH_ARTICLE.finditer(pattern):
        article, kind, number = found.groups()
        pieces += [re.escape(pattern[end : found.start()]), f"{article}n? " if article else "", f"({inside})"]
        slots.append((f"{kind.lower()} {number}", kind[0].isupper()))
        end = found.end()
    return re.compile("".join(pieces) + re.escape(pattern[end:])), tuple(slots)
