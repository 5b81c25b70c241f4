"""The words a toy teacher knows: aspects of a film, adjectives that praise, adjectives that blame.

Each list has a part kept out of training data. A policy that answers well about those words has learnt how the answer
is made from the review; one that fails there has learnt a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from course_helpers.assets import asset
from course_helpers.yaml_text import read_yaml_file

KINDS = ("aspect", "praise", "blame")
WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")


@dataclass(frozen=True)
class Lexicon:
    """Words by what they do in a review; all lower-case, none in two lists.

    Attributes:
        aspect: singular nouns that can stand after "the".
        praise: adjectives that praise.
        blame: adjectives that blame.
        held_out: by kind, words that never occur in training data.
        mass: aspects, of either part, that take no "a".

    Raises:
        ValueError: a list is empty, a word is none or stands in two lists.
    """

    aspect: tuple[str, ...]
    praise: tuple[str, ...]
    blame: tuple[str, ...]
    held_out: Mapping[str, tuple[str, ...]]
    mass: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse lists on which no rule could be built."""
        seen: dict[str, str] = {}
        for kind in KINDS:
            for part, words in (("training", getattr(self, kind)), ("held_out", self.held_out.get(kind, ()))):
                if not words:
                    raise ValueError(f"{kind} has no words under {part}; write at least one.")
                for word in words:
                    _check_word(word, f"{kind}, {part}", seen)

    @cached_property
    def kind_of(self) -> dict[str, str]:
        """Every word, of both parts → "aspect", "praise" or "blame"."""
        return {word: kind for kind in KINDS for word in (*getattr(self, kind), *self.held_out[kind])}

    @cached_property
    def kept_out(self) -> frozenset[str]:
        """All words that are kept for the test."""
        return frozenset(word for words in self.held_out.values() for word in words)

    def words(self, kind: str, held_out: bool = False) -> tuple[str, ...]:
        """The words of one kind: those for training, or those kept for the test."""
        return self.held_out[kind] if held_out else getattr(self, kind)

    def with_aspects(self, new: Iterable[str]) -> Lexicon:
        """The same with more aspects, all for training; words known already change nothing."""
        more = [word for word in dict.fromkeys(new) if word not in self.kind_of]
        return Lexicon((*self.aspect, *more), self.praise, self.blame, self.held_out, self.mass)


def words_of(text: str) -> list[str]:
    """The words of a text in their order, lower-case; numbers and punctuation are none.

    Examples:
        >>> words_of("The plot is moving, the cast is 100% fine.")
        ['the', 'plot', 'is', 'moving', 'the', 'cast', 'is', 'fine']
    """
    return [word.lower() for word in WORD.findall(text)]


def _check_word(word: object, place: str, seen: dict[str, str]) -> None:
    """Note where a word stands, or raise a ValueError if it is none or stands elsewhere too."""
    if not isinstance(word, str) or not WORD.fullmatch(word) or word != word.lower():
        raise ValueError(f"{place}: {word!r} is no single lower-case word.")
    if word in seen:
        raise ValueError(f"{word!r} stands twice, under {seen[word]} and under {place}; keep one.")
    seen[word] = place


def read_lexicon(path: Path | str | None = None) -> Lexicon:
    """The lexicon in a YAML file: under each kind, words between spaces under `training` and `held_out`.

    Args:
        path: the file; the course's own when None.

    Returns:
        The lexicon.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of that form, or its words make no lexicon.
        AssetError: the course's own is missing or damaged.
    """
    path = asset("teacher/lexicon.yaml") if path is None else path
    data = read_yaml_file(path)
    try:
        training = {kind: _split(data[kind]["training"]) for kind in KINDS}
        held_out = {kind: _split(data[kind]["held_out"]) for kind in KINDS}
        mass = frozenset(_split(data["aspect"].get("mass", "")))
    except (KeyError, TypeError, AttributeError) as error:
        wanted = "under each of aspect, praise and blame, words between spaces under training and held_out"
        raise ValueError(f"{path} is no lexicon ({type(error).__name__}: {error}); it must have, {wanted}.") from None
    return Lexicon(**training, held_out=held_out, mass=mass)


def _split(words: Any) -> tuple[str, ...]:
    return tuple(words.split())
