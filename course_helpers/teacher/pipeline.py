"""Training data from a taxonomy, stage by stage, and what each stage rejects.

Skills:     contexts → questions → question judge (score 1 of 1) → answers → pair judge (2 or 3 of 3) → duplicates
Knowledge:  questions and answers → faithfulness (1) → relevancy (2 of 2) → question judge (1) → duplicates

The order of the stages and the scores that pass are those of the "full" pipelines of instructlab-sdg 0.8.3.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from course_helpers.checks import check_whole
from course_helpers.taxonomy import Knowledge, Skill
from course_helpers.teacher.examples import Example, Generated, GenerationError, Rejected, Stage
from course_helpers.teacher.facts import KnowledgeTask, Wording, knowledge_task
from course_helpers.teacher.lexicon import Lexicon, read_lexicon, words_of
from course_helpers.teacher.patterns import fill
from course_helpers.teacher.protocol import (
    FAITHFUL_SCORE,
    PAIR_SCORE,
    QUESTION_SCORE,
    RELEVANT_SCORE,
    Rating,
    Teacher,
    TeacherError,
    UnusableTextError,
)
from course_helpers.teacher.reading import read_review
from course_helpers.teacher.templates import SkillTask, draw_words, skill_task
from course_helpers.translation import N_, _

CONTEXTS, QUESTIONS, QUESTION_JUDGE = N_("contexts"), N_("questions"), N_("question judge")
ANSWERS, PAIR_JUDGE, DUPLICATES = N_("answers"), N_("pair judge"), N_("duplicates")
PAIRS, FAITHFULNESS, RELEVANCY = N_("questions and answers"), N_("faithfulness"), N_("relevancy")
SKILL_STAGES = (CONTEXTS, QUESTIONS, QUESTION_JUDGE, ANSWERS, PAIR_JUDGE, DUPLICATES)
KNOWLEDGE_STAGES = (PAIRS, FAITHFULNESS, RELEVANCY, QUESTION_JUDGE, DUPLICATES)
DRAFTS_FOR_ONE = 5  # how many drafts an example may cost before the pipeline gives up
DRAW_STEP = 1_000_003  # parts the draws of one seed from those of the next

# ----------------------------------------------------------------------------------------------------------- the funnel


@dataclass
class _Draft:
    """What one draft has become so far."""

    source: str
    context: str | None = None
    question: str | None = None
    answer: str | None = None


class _Funnel:
    """Counts drafts and keeps what is rejected, stage by stage."""

    def __init__(self, names: tuple[str, ...]):
        self.entered = dict.fromkeys(names, 0)
        self.rejected: dict[str, list[Rejected]] = {name: [] for name in names}
        self.examples: dict[tuple, Example] = {}

    def reject(self, stage: str, reason: str, draft: _Draft) -> None:
        self.rejected[stage].append(Rejected(stage, reason, draft.context, draft.question, draft.answer))

    def generated(self) -> Generated:
        """A draft that an error has stopped half-way counts as not entered where it stopped."""
        stages = [
            Stage(name, entered, entered - len(self.rejected[name]), tuple(self.rejected[name]))
            for name, entered in self.entered.items()
        ]
        return Generated(tuple(self.examples.values()), tuple(stages))


_Text = TypeVar("_Text")


def _write(funnel: _Funnel, stage: str, draft: _Draft, write: Callable[[], _Text]) -> tuple[bool, _Text | None]:
    """Let the teacher write; (False, None) if what it wrote cannot be used."""
    try:
        text = write()
    except UnusableTextError as error:
        funnel.entered[stage] += 1
        funnel.reject(stage, str(error), draft)
        return False, None
    funnel.entered[stage] += 1
    return True, text


def _passes(funnel: _Funnel, stage: str, draft: _Draft, rate: Callable[[], Rating], least: int) -> bool:
    """Let the teacher judge; whether the score is high enough."""
    rating = rate()
    funnel.entered[stage] += 1
    if rating.score is not None and rating.score >= least:
        return True
    funnel.reject(stage, rating.reason, draft)
    return False


def _keep(funnel: _Funnel, draft: _Draft, forbidden: Mapping[tuple, str], kept_out: frozenset[str]) -> None:
    """The last stage: no copies, nothing of the test, no seed example."""
    example = Example(draft.context, draft.question or "", draft.answer or "", draft.source)
    funnel.entered[DUPLICATES] += 1
    kept = next((word for word in words_of(" ".join(filter(None, example.texts))) if word in kept_out), None)
    if example.texts in funnel.examples:
        funnel.reject(DUPLICATES, _("It is a copy of an earlier example."), draft)
    elif (example.context, example.question) in forbidden:
        funnel.reject(DUPLICATES, forbidden[example.context, example.question], draft)
    elif kept is not None:
        funnel.reject(DUPLICATES, _('It says "{word}", a word that is kept for the test.').format(word=kept), draft)
    else:
        funnel.examples[example.texts] = example


# --------------------------------------------------------------------------------------------------------------- skills


def generate_skill(
    skill: Skill,
    teacher: Teacher,
    n: int = 600,
    seed: int = 0,
    lexicon: Lexicon | None = None,
    most_drafts: int | None = None,
) -> Generated:
    """Let a teacher write examples of a skill until `n` have passed all its judges.

    Args:
        skill: from `taxonomy.read_skill`.
        teacher: writes and judges.
        n: examples wanted.
        seed: other seeds give other drafts.
        lexicon: the words that become slots; the course's own if nothing is said.
        most_drafts: after so many drafts it gives up; 5 for each example and 20 more if nothing is said.

    Returns:
        Exactly `n` examples, and the funnel. None of them holds a word that is kept for the test, is a seed example,
        or is among `held_out`.

    Raises:
        GenerationError: too many drafts were rejected; what was made is in its `so_far`.
        TeacherError: the teacher cannot go on; what was made is in its `so_far`.
    """
    check_whole("n", n, at_least=1)
    check_whole("seed", seed, at_least=0)
    limit = DRAFTS_FOR_ONE * n + 20 if most_drafts is None else most_drafts
    check_whole("most_drafts", limit, at_least=1)
    task = skill_task(skill, read_lexicon() if lexicon is None else lexicon)
    seeds = {(given.context, given.question): _("It is a seed example.") for given in task.seeds}
    funnel = _Funnel(SKILL_STAGES)
    try:
        for number in range(limit):
            _draft_skill(task, teacher, seed * DRAW_STEP + number, funnel, seeds)
            if len(funnel.examples) == n:
                return funnel.generated()
    except TeacherError as error:
        error.so_far = funnel.generated()
        raise
    so_far = funnel.generated()
    message = _("Only {kept} of {n} examples are made after {limit} drafts; look at what was rejected, and why:")
    raise GenerationError(message.format(kept=len(so_far.examples), n=n, limit=limit) + f"\n{so_far}", so_far)


def _draft_skill(task: SkillTask, teacher: Teacher, draw: int, funnel: _Funnel, seeds: Mapping[tuple, str]) -> None:
    """Take one draft through all stages, or as far as it gets."""
    draft = _Draft(f"skill, seed {teacher.seed_of(task, draw)}")
    good, draft.context = _write(funnel, CONTEXTS, draft, lambda: teacher.write_context(task, draw))
    if not good:
        return
    good, draft.question = _write(funnel, QUESTIONS, draft, lambda: teacher.write_question(task, draft.context, draw))
    if not good or not _passes(
        funnel,
        QUESTION_JUDGE,
        draft,
        lambda: teacher.rate_question(task, draft.context, draft.question),
        QUESTION_SCORE,
    ):
        return
    good, draft.answer = _write(
        funnel, ANSWERS, draft, lambda: teacher.write_answer(task, draft.context, draft.question, draw)
    )
    if good and _passes(
        funnel,
        PAIR_JUDGE,
        draft,
        lambda: teacher.rate_pair(task, draft.context, draft.question, draft.answer),
        PAIR_SCORE,
    ):
        _keep(funnel, draft, seeds, task.lexicon.kept_out)


# ------------------------------------------------------------------------------------------------------------ knowledge


def generate_knowledge(knowledge: Knowledge, teacher: Teacher, seed: int = 0) -> Generated:
    """Let a teacher ask for every fact of a document in every wording but those of the last seed example.

    Args:
        knowledge: from `taxonomy.read_knowledge`.
        teacher: writes and judges.
        seed: other seeds give other slips.

    Returns:
        The examples, without context, and the funnel.

    Raises:
        GenerationError: no draft passes.
        TeacherError: the teacher cannot go on; what was made is in its `so_far`.
        ValueError: the seeds or the document are not worded alike; see `facts.knowledge_task`.
    """
    check_whole("seed", seed, at_least=0)
    task = knowledge_task(knowledge)
    kept_for_test = _("It is kept for the test.")
    test = {(None, question): kept_for_test for question, *_rest in _asked(task, task.held_out)}
    funnel = _Funnel(KNOWLEDGE_STAGES)
    try:
        for number, (fact, wording) in enumerate(product(task.facts, task.wordings)):
            draft = _Draft(f"knowledge, seed {wording.seed}")
            _draft_fact(task, teacher, (fact, wording, seed * DRAW_STEP + number), draft, funnel, test)
    except TeacherError as error:
        error.so_far = funnel.generated()
        raise
    made = funnel.generated()
    if not made.examples:
        raise GenerationError(_("No draft has passed; look at what was rejected, and why:") + f"\n{made}", made)
    return made


def _draft_fact(
    task: KnowledgeTask, teacher: Teacher, asked: tuple, draft: _Draft, funnel: _Funnel, test: Mapping[tuple, str]
) -> None:
    """Take one question and its answer through all stages, or as far as they get."""
    fact, wording, draw = asked
    good, pair = _write(funnel, PAIRS, draft, lambda: teacher.write_fact_pair(task, fact, wording, draw))
    if not good:
        return
    draft.question, draft.answer = pair
    judges = (
        (FAITHFULNESS, lambda: teacher.rate_faithful(task, fact, draft.question, draft.answer), FAITHFUL_SCORE),
        (RELEVANCY, lambda: teacher.rate_relevant(task, fact, draft.question, draft.answer), RELEVANT_SCORE),
        (QUESTION_JUDGE, lambda: teacher.rate_fact_question(task, fact, draft.question), QUESTION_SCORE),
    )
    if all(_passes(funnel, stage, draft, rate, least) for stage, rate, least in judges):
        _keep(funnel, draft, test, frozenset())


def _asked(task: KnowledgeTask, wordings: tuple[Wording, ...]) -> Iterator[tuple[str, str, int]]:
    """(question, answer, number of the seed) of every fact in some wordings."""
    for fact, wording in product(task.facts, wordings):
        yield fill(wording.question, fact.values), fill(wording.answer, fact.values), wording.seed


# ------------------------------------------------------------------------------------------------------------- the test


def held_out(
    skill_or_knowledge: Skill | Knowledge, n: int = 200, seed: int = 0, lexicon: Lexicon | None = None
) -> tuple[Example, ...]:
    """Examples for a test, written by template without slips, that no teacher's training data holds.

    Args:
        skill_or_knowledge: a skill is asked about in words that are kept for the test; knowledge in the wordings of
            the last seed example.
        n: how many at most; knowledge has one for each fact and wording, a skill with few slots may have fewer too.
        seed: other seeds choose others.
        lexicon: the words that become slots; the course's own if nothing is said.

    Returns:
        The examples.

    Raises:
        ValueError: none of a skill's seed examples can be used, or the document cannot be read with the seeds.
    """
    check_whole("n", n, at_least=1)
    check_whole("seed", seed, at_least=0)
    generator = random.Random(f"held out {seed}")
    if isinstance(skill_or_knowledge, Knowledge):
        task = knowledge_task(skill_or_knowledge)
        all_of_them = [
            Example(None, question, answer, f"knowledge, seed {number}")
            for question, answer, number in _asked(task, task.held_out)
        ]
        return tuple(all_of_them if n >= len(all_of_them) else generator.sample(all_of_them, n))
    return _test(skill_or_knowledge, n, generator, lexicon, kept_out=True)


def unseen_reviews(
    skill: Skill, known: Iterable[Example], n: int = 100, seed: int = 0, lexicon: Lexicon | None = None
) -> tuple[Example, ...]:
    """Examples for an easier test than `held_out`: words that training knows, in reviews that it does not.

    Args:
        skill: of the examples.
        known: what was trained on; none of its reviews is asked about.
        n: how many at most; a skill with few slots may have fewer.
        seed: other seeds choose others.
        lexicon: the words that become slots; the course's own if nothing is said.

    Returns:
        The examples.

    Raises:
        ValueError: none of the seed examples can be used.
    """
    check_whole("n", n, at_least=1)
    check_whole("seed", seed, at_least=0)
    generator = random.Random(f"unseen reviews {seed}")
    return _test(skill, n, generator, lexicon, kept_out=False, seen={example.context for example in known})


def _test(
    skill: Skill,
    n: int,
    generator: random.Random,
    lexicon: Lexicon | None,
    kept_out: bool,
    seen: Collection[str | None] = (),
) -> tuple[Example, ...]:
    """At most n examples without slips, none of them a seed's or about what was seen."""
    task = skill_task(skill, read_lexicon() if lexicon is None else lexicon)
    if not task.templates:
        reasons = "\n".join(f"seed {number}: {reason}" for number, reason in task.unusable)
        raise ValueError(_("None of the seed examples can be used for a test:") + f"\n{reasons}")
    found: dict[tuple, Example] = {}
    seeds = {(given.context, given.question) for given in task.seeds}
    for _attempt in range(DRAFTS_FOR_ONE * n + 20):
        example = _perfect(task, generator, kept_out)
        if (example.context, example.question) not in seeds and example.context not in seen:
            found.setdefault(example.texts, example)
        if len(found) == n:
            break
    return tuple(found.values())


def _perfect(task: SkillTask, generator: random.Random, kept_out: bool) -> Example:
    """One example, in words kept for the test or in the others, answered by the form and the reading."""
    place = generator.randrange(len(task.templates))
    template, own = task.templates[place], task.forms[place]
    form = generator.choice(task.fitting(own.signature, own.grounded))
    words = draw_words(template, task.lexicon, generator, held_out=kept_out)
    if template.context is None:
        form, context, text = own, None, fill(template.question, words)
    else:
        context = text = fill(template.context, words)
    roles = read_review(text, task.lexicon).roles
    question = text if context is None else fill(form.question, roles)
    return Example(
        context, question, fill(form.answer, roles), f"{'held out' if kept_out else 'unseen'}, seed {template.seed}"
    )
