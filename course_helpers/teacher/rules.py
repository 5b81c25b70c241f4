"""A teacher without a model: it writes by template, judges by rule, and slips on purpose.

It stands for the language model of seven billion weights that the real thing asks. What it writes is plain and all
alike, and its judges understand nothing but its own small world; but the flow is the real one, mistakes included.
The judges do not know which draft is a slip: they read the review with the lexicon and compare.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from course_helpers.checks import is_finite, require
from course_helpers.teacher.facts import Fact, KnowledgeTask, Wording
from course_helpers.teacher.lexicon import words_of
from course_helpers.teacher.patterns import fill, match, slots_of
from course_helpers.teacher.protocol import Rating, TeacherError
from course_helpers.teacher.reading import Reading, read_review
from course_helpers.teacher.templates import Form, SkillTask, Template, draw_words
from course_helpers.translation import N_, _

OFF_TOPIC = ("Who directed the film?", "How long is the film?", "Where can I see the film?", "Is there a sequel?")
EMPTY_WORDS = ("It depends.", "I would rather not say.", "Good question!")
REPEATED, ONE_SIDED, OFF = N_("the same part twice"), N_("nothing to praise or blame"), N_("off topic")
SWAPPED, INVENTED, BROKEN = N_("praise and blame swapped"), N_("an invented part"), N_("broken form")
OTHER_VALUE, OTHER_ANSWER = N_("another paragraph's fact"), N_("an answer to another question")
OTHER_SUBJECT = N_("a question about another paragraph")
QUESTION_SLIPS = (REPEATED, ONE_SIDED, OFF)  # what the question judge should find
PAIR_SLIPS = (SWAPPED, INVENTED, BROKEN)  # what the pair judge should find
SWAP = {"praised": "blamed", "blamed": "praised", "praise": "blame", "blame": "praise"}


class _Plan(NamedTuple):
    """What one draft will be."""

    template: Template
    form: Form
    slip: str | None


class RuleTeacher:
    """Writes by template and judges by rule.

    Args:
        slips: share of the drafts with a mistake made on purpose, from 0 to 1.
        seed: with the same seed, the same draw is the same draft.

    Raises:
        ValueError: `slips` is no share.
    """

    def __init__(self, slips: float = 0.15, seed: int = 0):
        """Nothing is remembered from draft to draft, so their order does not matter."""
        require(is_finite(slips) and 0 <= slips <= 1, "slips", slips, "a share from 0 to 1")
        self.slips = slips
        self.seed = seed

    def __repr__(self) -> str:
        """As it is called."""
        return f"RuleTeacher(slips={self.slips}, seed={self.seed})"

    def _generator(self, draw: int, purpose: str) -> random.Random:
        """Luck of its own for each draft and each step of it."""
        return random.Random(f"{self.seed} {draw} {purpose}")

    # ------------------------------------------------------------------------------------------------ skills: writing

    def _plan(self, task: SkillTask, draw: int) -> _Plan:
        """Choose a seed's template, a form that suits it, and whether and how this draft goes wrong."""
        if not task.templates:
            reasons = "\n".join(f"seed {number}: {reason}" for number, reason in task.unusable)
            raise TeacherError(
                _("None of the seed examples can be used by the rules of this teacher:") + f"\n{reasons}"
            )
        generator = self._generator(draw, "plan")
        place = generator.randrange(len(task.templates))
        template, own = task.templates[place], task.forms[place]
        form = generator.choice(task.fitting(own.signature, own.grounded))
        slips = _possible_slips(task, template, form) if generator.random() < self.slips else ()
        return _Plan(template, form, generator.choice(slips) if slips else None)

    def slip_of(self, task: SkillTask, draw: int) -> str | None:
        """The mistake that this draft makes on purpose; None for an honest one. No judge looks here."""
        return self._plan(task, draw).slip

    def seed_of(self, task: SkillTask, draw: int) -> int:
        """The number of the seed example that this draft is made from."""
        return self._plan(task, draw).template.seed

    def write_context(self, task: SkillTask, draw: int) -> str | None:
        """A seed's review with other words; None if the seed has none."""
        template, _form, slip = self._plan(task, draw)
        if template.context is None:
            return None
        return fill(template.context, self._words(task, template, slip, draw))

    def _words(self, task: SkillTask, template: Template, slip: str | None, draw: int) -> dict[str, str]:
        """Words for a template's slots, or the wrong ones if the context is to go wrong."""
        generator = self._generator(draw, "words")
        words = draw_words(template, task.lexicon, generator)
        if slip == REPEATED:
            words["aspect 2"] = words["aspect 1"]
        if slip == ONE_SIDED:
            kept = generator.choice(("praise", "blame"))
            for slot in template.values:
                if slot.startswith(SWAP[kept]):
                    free = [word for word in task.lexicon.words(kept) if word not in words.values()]
                    words[slot] = generator.choice(free)
        return words

    def write_question(self, task: SkillTask, context: str | None, draw: int) -> str:
        """The form's question."""
        template, form, slip = self._plan(task, draw)
        if slip == OFF:
            known = {other.question for other in task.forms}
            return self._generator(draw, "question").choice([text for text in OFF_TOPIC if text not in known])
        if context is None:
            return fill(template.question, self._words(task, template, slip, draw))
        return fill(form.question, _with_gaps(read_review(context, task.lexicon), form))

    def write_answer(self, task: SkillTask, context: str | None, question: str, draw: int) -> str:
        """The form's answer, from what the review says."""
        _template, form, slip = self._plan(task, draw)
        reading = read_review(question if context is None else context, task.lexicon)
        answer = fill(form.answer, _with_gaps(reading, form))
        generator = self._generator(draw, "answer")
        if slip == SWAPPED:
            return fill(form.answer, _swapped(_with_gaps(reading, form)))
        if slip == INVENTED:
            role = generator.choice(_aspect_roles(form))
            new = [word for word in task.lexicon.words("aspect") if word not in reading.aspects]
            return fill(form.answer, {**_with_gaps(reading, form), role: generator.choice(new)})
        if slip == BROKEN:
            return generator.choice((f"Well, {answer[:1].lower()}{answer[1:]}", f"{answer} And more.", *EMPTY_WORDS))
        return answer

    # ------------------------------------------------------------------------------------------------ skills: judging

    def rate_question(self, task: SkillTask, context: str | None, question: str) -> Rating:
        """1 if the review says, once and clearly, what one of the skill's questions asks for; else 0."""
        reading = read_review(question if context is None else context, task.lexicon)
        twice = next((word for word in reading.aspects if reading.aspects.count(word) > 1), None)
        if twice is not None:
            return Rating(0, _("The review speaks of the {word} twice.").format(word=twice))
        if _fitting(task, context, question, reading):
            return Rating(1, _("The review says what the question asks for."))
        if any(match(form.question, question) is not None for form in task.forms):
            return Rating(0, _("The review does not say all that the question asks for."))
        return Rating(0, _("The question is none of this skill."))

    def rate_pair(self, task: SkillTask, context: str | None, question: str, answer: str) -> Rating:
        """3 for the answer that the review gives, 2 if only capitals or punctuation differ, 1 for any other."""
        reading = read_review(question if context is None else context, task.lexicon)
        forms = _fitting(task, context, question, reading)
        if not forms:
            return Rating(1, _("The question has no answer in the review."))
        right = [fill(form.answer, reading.roles) for form in forms]
        if answer in right:
            return Rating(3, _("Right, and in the form of the seed examples."))
        if words_of(answer) in [words_of(text) for text in right]:
            return Rating(2, _("Right, but for capitals or punctuation."))
        found = next((values for form in forms if (values := match(form.answer, answer)) is not None), None)
        if found is None:
            return Rating(1, _("The answer is not of the form of the seed examples."))
        invented = next((word for word in found.values() if word not in reading.roles.values()), None)
        if invented is not None:
            return Rating(1, _('The answer says "{word}", which the review does not.').format(word=invented))
        return Rating(1, _("The answer takes praise for blame, or one part for another."))

    # ---------------------------------------------------------------------------------------------------- knowledge

    def fact_slip_of(self, task: KnowledgeTask, fact: Fact, wording: Wording, draw: int) -> str | None:
        """The mistake that this draft makes on purpose; None for an honest one. No judge looks here."""
        generator = self._generator(draw, "plan")
        if generator.random() >= self.slips:
            return None
        slips = [OTHER_ANSWER] if _other_answers(task, wording) else []
        if _others(task, fact):
            slips += [OTHER_SUBJECT] + ([OTHER_VALUE] if _asked_for(wording) else [])
        return generator.choice(slips) if slips else None

    def write_fact_pair(self, task: KnowledgeTask, fact: Fact, wording: Wording, draw: int) -> tuple[str, str]:
        """A question in the wording asked for, and its answer."""
        slip = self.fact_slip_of(task, fact, wording, draw)
        generator = self._generator(draw, "pair")
        question, answer = fill(wording.question, fact.values), fill(wording.answer, fact.values)
        if slip == OTHER_VALUE:
            slot = generator.choice(_asked_for(wording))
            wrong = [other.values[slot] for other in _others(task, fact) if other.values[slot] != fact.values[slot]]
            answer = fill(wording.answer, {**fact.values, slot: generator.choice(wrong or [fact.values[slot]])})
        if slip == OTHER_ANSWER:
            answer = fill(generator.choice(_other_answers(task, wording)), fact.values)
        if slip == OTHER_SUBJECT:
            question = fill(wording.question, generator.choice(_others(task, fact)).values)
        return question, answer

    def rate_faithful(self, task: KnowledgeTask, fact: Fact, question: str, answer: str) -> Rating:
        """1 if the answer is of a known form and each of its values stands in its place in the paragraph."""
        matches = [match(wording.answer, answer, several_words=True) for wording in task.wordings]
        found = [values for values in matches if values is not None]
        if any(all(fact.values[slot] == text for slot, text in values.items()) for values in found):
            return Rating(1, _("The paragraph says so."))
        if not found:
            return Rating(0, _("The answer is not of the form of the seed examples."))
        slot = next(slot for slot, text in found[0].items() if fact.values[slot] != text)
        return Rating(0, _('The answer says "{word}", which the paragraph does not.').format(word=found[0][slot]))

    def rate_relevant(self, task: KnowledgeTask, fact: Fact, question: str, answer: str) -> Rating:
        """2 if the answer is of the form that belongs to the question, else 0."""
        asked = [
            wording for wording in task.wordings if match(wording.question, question, several_words=True) is not None
        ]
        if any(match(wording.answer, answer, several_words=True) is not None for wording in asked):
            return Rating(2, _("The answer says what is asked for."))
        return Rating(0, _("The answer says something else than what is asked for."))

    def rate_fact_question(self, task: KnowledgeTask, fact: Fact, question: str) -> Rating:
        """1 if the question names what this paragraph is about, else 0."""
        matches = (match(wording.question, question, several_words=True) for wording in task.wordings)
        if any(values and all(fact.values[slot] == text for slot, text in values.items()) for values in matches):
            return Rating(1, _("The paragraph answers it."))
        return Rating(0, _("The question is about something that the paragraph does not speak of."))


# ------------------------------------------------------------------------------------------------------ what rules need


def _possible_slips(task: SkillTask, template: Template, form: Form) -> tuple[str, ...]:
    """The mistakes that would be mistakes in this draft; a skill may, for example, have forms for praise alone."""
    grounded, roles = template.context is not None, set(form.signature)
    slips = [BROKEN] + ([OFF] if grounded else [])
    if grounded and "aspect 2" in template.values:
        slips.append(REPEATED)
    sides = {slot.split()[0] for slot in template.values} & {"praise", "blame"}
    if grounded and len(sides) == 2 and all(set(other.signature) == roles for other in task.forms):
        slips.append(ONE_SIDED)
    named = {slot.split()[0] for slot in slots_of(form.answer)} & set(SWAP)
    if named and all(f"{SWAP[name]} 1" in roles for name in named):
        slips.append(SWAPPED)
    if _aspect_roles(form):
        slips.append(INVENTED)
    return tuple(slips)


def _fitting(task: SkillTask, context: str | None, question: str, reading: Reading) -> list[Form]:
    """The forms by which this question can be asked of this review."""
    forms = task.fitting(reading.signature, context is not None)
    return [form for form in forms if fill(form.question, reading.roles) == question.strip()]


def _with_gaps(reading: Reading, form: Form) -> dict[str, str]:
    """A word for each slot of a form; "nothing" where the review has none."""
    return dict.fromkeys((*slots_of(form.question), *slots_of(form.answer)), "nothing") | reading.roles


def _swapped(roles: dict[str, str]) -> dict[str, str]:
    """Praise for blame, and blame for praise."""
    pairs = ((role, *role.split()) for role in roles)
    return {role: roles.get(f"{SWAP.get(name, name)} {number}", roles[role]) for role, name, number in pairs}


def _aspect_roles(form: Form) -> list[str]:
    """The slots of a form's answer that name a part of the film."""
    return [slot for slot in slots_of(form.answer) if slot.split()[0] in ("praised", "blamed", "aspect")]


def _others(task: KnowledgeTask, fact: Fact) -> list[Fact]:
    return [other for other in task.facts if other.paragraph != fact.paragraph]


def _asked_for(wording: Wording) -> list[str]:
    """What the answer says and the question does not."""
    return [slot for slot in slots_of(wording.answer) if slot not in slots_of(wording.question)]


def _other_answers(task: KnowledgeTask, wording: Wording) -> list[str]:
    """Answers to other questions about the same thing."""
    return sorted({other.answer for other in task.wordings if slots_of(other.answer) != slots_of(wording.answer)})
