"""From a skill's seed examples to templates: what differs between seeds is a slot, what stays is the template.

::

    "The acting is wonderful."      "Praised: the acting."      a seed
    "The {aspect 1} is {praise 1}." "Praised: the {aspect 1}."  its `Template`: slots numbered as the text names them
                                    "Praised: the {praised 1}." its `Form`: slots named by what the review does to them

A template says how a review is worded. A form says how a question is asked and answered, and fits every review with as
much praise and blame as the one it was made for; so each seed's question can be asked of the others' reviews too.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from course_helpers.taxonomy import Seed, Skill
from course_helpers.teacher.lexicon import Lexicon, words_of
from course_helpers.teacher.patterns import SLOT, fill, slots_of, slotted
from course_helpers.teacher.reading import read_review
from course_helpers.translation import _

FUNCTION_WORDS = (
    "a an and are as at be been but by did do does for from had has have he her his how i if in is it its may me my no "
    "nor not of on one only or our she so than that the their them then there they this to too was we were what when "
    "where which while who with you your"
)
COUNTED = re.compile(r"\b[Aa]n? (?:\{(?:praise|blame) \d+\} |[\w-]+ )?\{[Aa]spect (\d+)\}")  # "a dull {aspect 1}"
PLURAL = re.compile(r"\{[Aa]spect \d+\} (?:are|were|have)\b")


@dataclass(frozen=True)
class Template:
    """A seed example with slots in the place of its words.

    Attributes:
        seed: the seed's number, counted from 1 as in the file.
        context: the review with slots, or None.
        question: likewise.
        answer: likewise.
        values: slot → the seed's own word.
        new_words: words taken for aspects although the lexicon does not know them.
    """

    seed: int
    context: str | None
    question: str
    answer: str
    values: Mapping[str, str]
    new_words: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What a question is about: the review, or the question itself where there is none."""
        return self.question if self.context is None else self.context


@dataclass(frozen=True)
class Form:
    """How a question is asked and answered, whatever the review.

    Attributes:
        question: with slots named by role: {praised 1}, {blame 1}, {aspect 1} for one that is neither.
        answer: likewise.
        signature: the roles that the review must have, no more and no less.
        grounded: whether there is a review.
    """

    question: str
    answer: str
    signature: tuple[str, ...]
    grounded: bool


@dataclass(frozen=True)
class SkillTask:
    """What a teacher is given to write examples of one skill.

    Attributes:
        description: what the skill is, from the taxonomy.
        seeds: all seed examples, usable as templates or not.
        templates: one for each usable seed.
        forms: the form of each template, in the same order; seeds may share one.
        unusable: (number of a seed, why it gives no template).
        lexicon: the course's words and the new ones.
    """

    description: str
    seeds: tuple[Seed, ...] = field(repr=False)
    templates: tuple[Template, ...]
    forms: tuple[Form, ...]
    unusable: tuple[tuple[int, str], ...]
    lexicon: Lexicon = field(repr=False)

    @property
    def new_words(self) -> tuple[str, ...]:
        """Words of the seeds that were taken for aspects, each once."""
        return tuple(dict.fromkeys(word for template in self.templates for word in template.new_words))

    def fitting(self, signature: tuple[str, ...], grounded: bool = True) -> tuple[Form, ...]:
        """The forms, each once, that suit a review with these roles."""
        suit = (form for form in self.forms if form.signature == signature and form.grounded == grounded)
        return tuple(dict.fromkeys(suit))


# ----------------------------------------------------------------------------------------------- one seed, one template


class _UnusableError(Exception):
    """Why a seed gives no template, in the learner's language."""


def template_of(seed: Seed, number: int, lexicon: Lexicon, common: frozenset[str] = frozenset()) -> Template:
    """Replace a seed's words by slots, the same word by the same slot in context, question and answer.

    Slots are numbered by kind, in the order in which the text names them. A word of both the context and the answer
    that neither the lexicon nor the common words know is taken for an aspect.

    Args:
        seed: the seed example.
        number: its number in the file, from 1.
        lexicon: the words that become slots.
        common: words that stay as they are because the answers' form is made of them.

    Returns:
        The template; `fill` with its values gives the seed back.
    """
    text = seed.question if seed.context is None else seed.context
    known = [word for word in words_of(text) if word in lexicon.kind_of]
    in_answer = set(words_of(seed.answer)) - common - set(FUNCTION_WORDS.split()) - set(lexicon.kind_of)
    new = () if seed.context is None else tuple(dict.fromkeys(w for w in words_of(text) if w in in_answer))
    counts: Counter[str] = Counter()
    slot_of: dict[str, str] = {}
    for word in words_of(text):
        if word not in slot_of and (word in known or word in new):
            kind = lexicon.kind_of.get(word, "aspect")
            counts[kind] += 1
            slot_of[word] = f"{kind} {counts[kind]}"
    context = None if seed.context is None else slotted(seed.context.strip(), slot_of)
    question, answer = (slotted(part.strip(), slot_of) for part in (seed.question, seed.answer))
    return Template(number, context, question, answer, {slot: word for word, slot in slot_of.items()}, new)


def form_of(template: Template, lexicon: Lexicon) -> Form:
    """Name the slots of a template's question and answer by their role in the seed's own review.

    Args:
        template: from `template_of`.
        lexicon: must know the template's new words.
    """
    reading = read_review(fill(template.text, template.values), lexicon)
    role_of = {word: role for role, word in reading.roles.items()}
    roles = {slot: "{" + role_of[word] + "}" for slot, word in template.values.items()}
    question, answer = _renamed(template.question, roles), _renamed(template.answer, roles)
    return Form(question, answer, reading.signature, grounded=template.context is not None)


def _renamed(pattern: str, roles: Mapping[str, str]) -> str:
    """A pattern with other names for its slots; capitals are kept."""

    def rename(found: re.Match[str]) -> str:
        new = roles[f"{found.group(1).lower()} {found.group(2)}"]
        return new[0] + new[1].upper() + new[2:] if found.group(1)[0].isupper() else new

    return SLOT.sub(rename, pattern)


# ------------------------------------------------------------------------------------------------- all seeds of a skill


def skill_task(skill: Skill, lexicon: Lexicon) -> SkillTask:
    """Templates and forms of all seeds of a skill, and why some give none.

    Args:
        skill: from `taxonomy.read_skill`.
        lexicon: the words that become slots.

    Returns:
        The task; it may be without a template, then each seed has its reason.
    """
    templates, forms, unusable = [], [], []
    for number, seed in enumerate(skill.seeds, start=1):
        try:
            common = _common(seed, skill.seeds)
            template = template_of(seed, number, lexicon, common)
            _check(seed, template, lexicon, common)
            forms.append(form_of(template, lexicon.with_aspects(template.new_words)))
            templates.append(template)
        except _UnusableError as reason:
            unusable.append((number, str(reason)))
    contradicted = _contradicted(templates, forms)
    kept = [place for place, template in enumerate(templates) if template.seed not in contradicted]
    new = [word for place in kept for word in templates[place].new_words]
    return SkillTask(
        skill.task_description,
        tuple(skill.seeds),
        tuple(templates[place] for place in kept),
        tuple(forms[place] for place in kept),
        tuple(sorted([*unusable, *contradicted.items()])),
        lexicon.with_aspects(new),
    )


def _common(seed: Seed, seeds: Sequence[Seed]) -> frozenset[str]:
    """Words in more than half of the answers to a seed's question, if there are at least two: the answers' form."""
    answers = [set(words_of(other.answer)) for other in seeds if other.question.strip() == seed.question.strip()]
    if len(answers) < 2:
        return frozenset()
    counts = Counter(word for answer in answers for word in answer)
    return frozenset(word for word, count in counts.items() if count > len(answers) / 2)


def _check(seed: Seed, template: Template, lexicon: Lexicon, common: frozenset[str]) -> None:
    """Raise an `_UnusableError` if a seed teaches nothing that could be written again with other words."""
    if any(mark in part for part in (seed.context or "", seed.question, seed.answer) for mark in "{}"):
        raise _UnusableError(_("It holds a curly bracket; write it without."))
    if not slots_of(template.text):
        raise _UnusableError(
            _("No word of it is one the teacher knows; name a part of a film and say that it is good or bad.")
        )
    strange = [word for word in _fixed_words(template.answer) if word in lexicon.kind_of and word not in common]
    if strange:
        raise _UnusableError(
            _('The answer says "{word}", which is not in the text that it is about.').format(word=strange[0])
        )
    if loud := [word for word in _fixed_words(template.text) if word in lexicon.kind_of]:
        raise _UnusableError(_('Write "{word}" in small letters.').format(word=loud[0]))
    if kept := [w for w in _fixed_words(f"{template.question} {template.answer}") if w in lexicon.kept_out]:
        raise _UnusableError(_('It says "{word}", a word that is kept for the test.').format(word=kept[0]))
    aspects = [number for kind, number in SLOT.findall(template.text) if kind.lower() == "aspect"]
    if len(aspects) != len(set(aspects)):
        raise _UnusableError(_("It names the same part of the film twice; name each once."))
    if PLURAL.search(template.text):
        raise _UnusableError(_("It speaks of several things; the teacher's words are singular, like the plot."))


def _fixed_words(pattern: str) -> list[str]:
    """The words of a pattern that are no slots."""
    return words_of(SLOT.sub(" ", pattern))


def _contradicted(templates: Sequence[Template], forms: Sequence[Form]) -> dict[int, str]:
    """Seeds whose answer is not made as that of most seeds with the same question, and why each is left out.

    Only reviews of the same signature are compared; where two answers are equally common, the first stays.
    """
    groups: dict[tuple, list[int]] = {}
    for place, form in enumerate(forms):
        groups.setdefault((form.question, form.signature, form.grounded), []).append(place)
    left_out = {}
    for group in groups.values():
        usual = Counter(forms[place].answer for place in group).most_common(1)[0][0]
        first = next(place for place in group if forms[place].answer == usual)
        for place in group:
            if forms[place].answer != usual:
                reason = _("Its question is that of seed {other}, but its answer is made otherwise.")
                left_out[templates[place].seed] = reason.format(other=templates[first].seed)
    return left_out


# -------------------------------------------------------------------------------------------------- words for the slots


def draw_words(
    template: Template, lexicon: Lexicon, generator: random.Random, held_out: bool = False
) -> dict[str, str]:
    """New words for the slots of a template, no two alike.

    Args:
        template: which slots there are.
        lexicon: where the words are from; new words that look like plurals are left out, for templates are singular.
        generator: draws them.
        held_out: whether only words kept for the test are drawn, or only others.

    Returns:
        slot → word.

    Raises:
        ValueError: a template has more slots of a kind than the lexicon has words.
    """
    counted = {f"aspect {number}" for number in COUNTED.findall(template.text)}
    drawn: dict[str, str] = {}
    for slot in template.values:
        kind = slot.split()[0]
        unfit = set(drawn.values()) | (lexicon.mass if slot in counted else set())
        words = [word for word in lexicon.words(kind, held_out) if word not in unfit]
        if kind == "aspect":
            words = [word for word in words if word[-1] != "s" or word[-2:] == "ss"]
        if not words:
            raise ValueError(f"seed {template.seed} needs more words of the kind {kind!r} than the lexicon has.")
        drawn[slot] = generator.choice(words)
    return drawn
