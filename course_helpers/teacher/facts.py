"""Knowledge: facts from a document that words all its paragraphs alike, and the wordings in which to ask for them.

The contexts of the seed examples are laid side by side: what differs is a slot, what stays is the pattern. Every
paragraph of the document that is of this pattern is a fact. The last seed's wordings are kept for the test.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from course_helpers.taxonomy import Knowledge, KnowledgeSeed
from course_helpers.teacher.patterns import SLOT, match, slots_of, slotted
from course_helpers.translation import N_, SpokenError

LONGEST_PARAGRAPH = 2000  # characters; longer ones are no facts, and comparing them would take long
TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Fact:
    """One paragraph of the document and what stands in its slots.

    Attributes:
        paragraph: on one line.
        values: slot → text, {"value 1": "Salt Road", "value 2": "western", ...}.
    """

    paragraph: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Wording:
    """One way to ask for a fact and to answer.

    Attributes:
        seed: the number of the seed it comes from, from 1.
        question: with slots.
        answer: likewise.
    """

    seed: int
    question: str
    answer: str


@dataclass(frozen=True)
class KnowledgeTask:
    """What a teacher is given to write questions and answers about a document.

    Attributes:
        outline: what the document is about, from the taxonomy.
        seeds: the seed examples but the last.
        pattern: how a paragraph is worded.
        facts: the paragraphs of this wording.
        wordings: for training, from all seeds but the last.
        held_out: the wordings of the last seed.
    """

    outline: str
    seeds: tuple[KnowledgeSeed, ...] = field(repr=False)
    pattern: str
    facts: tuple[Fact, ...]
    wordings: tuple[Wording, ...]
    held_out: tuple[Wording, ...]


def knowledge_task(knowledge: Knowledge) -> KnowledgeTask:
    """Lay the seeds side by side, read the document with their pattern, and keep the last seed's wordings apart.

    Args:
        knowledge: from `taxonomy.read_knowledge`.

    Raises:
        ValueError: there are fewer than two seeds, the seeds are not worded alike, no paragraph of the document is of
            their pattern, or the seeds for training or the last one have no question that could be asked again.
    """
    if len(knowledge.seeds) < 2:
        raise SpokenError(
            N_("There is {n} seed example; write at least two: the last one's questions are kept for the test."),
            n=len(knowledge.seeds),
        )
    contexts = [one_line(seed.context) for seed in knowledge.seeds]
    pattern = align(contexts)
    facts = facts_of(pattern, knowledge.documents)
    wordings = [_wordings(pattern, seed, number) for number, seed in enumerate(knowledge.seeds, start=1)]
    training = tuple(dict.fromkeys(wording for some in wordings[:-1] for wording in some))
    if not training or not wordings[-1]:
        last = N_(
            "No question of the last seed example names what it asks about: write, say, Who directed The Salt Road?"
        )
        others = N_("No question but the last seed's names what it asks about: write, say, Who directed The Salt Road?")
        raise SpokenError(last if training else others)
    return KnowledgeTask(knowledge.outline, tuple(knowledge.seeds[:-1]), pattern, facts, training, wordings[-1])


def one_line(text: str) -> str:
    """The text with single spaces in the place of all white space."""
    return " ".join(text.split())


def align(texts: Sequence[str]) -> str:
    """The pattern of texts that are worded alike: what differs between them becomes {value 1}, {value 2}, ...

    Args:
        texts: at least two, each on one line.

    Raises:
        ValueError: they are all the same, or no pattern fits them all.

    Source: `difflib.SequenceMatcher` (Ratcliff and Metzener 1988), over words.
    """
    first = [(found.group(), *found.span()) for found in TOKEN.finditer(texts[0])]
    shared = set(range(len(first)))
    for other in texts[1:]:
        blocks = SequenceMatcher(None, [word for word, *_span in first], TOKEN.findall(other), autojunk=False)
        shared &= {a + k for a, _b, size in blocks.get_matching_blocks() for k in range(size)}
    pattern, end, slots = "", 0, 0
    for place, (_word, begin, stop) in enumerate(first):
        if place in shared:
            pattern, end = pattern + texts[0][end:stop], stop
        else:
            if place == 0 or place - 1 in shared:
                slots += 1
                pattern += texts[0][end:begin] + f"{{value {slots}}}"
            end = stop
    pattern += texts[0][end:]
    fixed = SLOT.sub("", pattern)
    if (
        not slots
        or not any(sign.isalpha() for sign in fixed)
        or any(match(pattern, text, several_words=True) is None for text in texts)
    ):
        raise SpokenError(
            N_(
                "The contexts of the seed examples are not worded alike, so no rule can read the document with them; "
                "copy one paragraph of the document into each, all paragraphs of the same form."
            )
        )
    return pattern


def facts_of(pattern: str, documents: Sequence[str]) -> tuple[Fact, ...]:
    """The paragraphs of some documents that are of a pattern, each once.

    Args:
        pattern: from `align`.
        documents: texts, their paragraphs parted by empty lines.

    Raises:
        ValueError: there is no such paragraph.
    """
    paragraphs = dict.fromkeys(one_line(part) for text in documents for part in re.split(r"\n\s*\n", text))
    short = (paragraph for paragraph in paragraphs if len(paragraph) <= LONGEST_PARAGRAPH)
    found = ((paragraph, match(pattern, paragraph, several_words=True)) for paragraph in short)
    facts = tuple(Fact(paragraph, values) for paragraph, values in found if values is not None)
    if not facts:
        raise SpokenError(
            N_("No paragraph of the document is worded like the seeds' contexts, {pattern} Copy those from it."),
            pattern=pattern,
        )
    return facts


def _wordings(pattern: str, seed: KnowledgeSeed, number: int) -> tuple[Wording, ...]:
    """A seed's questions and answers with slots; those that name nothing of the context are left out."""
    values = match(pattern, one_line(seed.context), several_words=True) or {}
    slot_of = {text: slot for slot, text in values.items()}
    wordings = (
        Wording(number, slotted(one_line(pair.question), slot_of), slotted(one_line(pair.answer), slot_of))
        for pair in seed.pairs
    )
    return tuple(wording for wording in wordings if slots_of(wording.question) and slots_of(wording.answer))
