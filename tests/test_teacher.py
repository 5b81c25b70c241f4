"""The teacher: lexicon, reading, templates, rules and their judges, the pipeline, and what is kept for the test."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from course_helpers.assets import HERE
from course_helpers.taxonomy import Knowledge, KnowledgeSeed, Seed, Skill, read_knowledge, read_skill
from course_helpers.teacher import rules
from course_helpers.teacher.examples import Example, Generated, GenerationError, read_examples
from course_helpers.teacher.facts import align, facts_of, knowledge_task
from course_helpers.teacher.lexicon import Lexicon, read_lexicon, words_of
from course_helpers.teacher.patterns import fill, match, slots_of, slotted
from course_helpers.teacher.pipeline import (
    KNOWLEDGE_STAGES,
    SKILL_STAGES,
    generate_knowledge,
    generate_skill,
    held_out,
    unseen_reviews,
)
from course_helpers.teacher.protocol import FAITHFUL_SCORE, PAIR_SCORE, QUESTION_SCORE, RELEVANT_SCORE, TeacherError
from course_helpers.teacher.reading import read_review
from course_helpers.teacher.rules import PAIR_SLIPS, QUESTION_SLIPS, RuleTeacher
from course_helpers.teacher.templates import form_of, skill_task, template_of

QUESTION = "What is praised and what is blamed?"
ONE_WORD = "In one word: what is praised?"
TAXONOMY = HERE / "taxonomy"
quick = settings(deadline=None, derandomize=True, max_examples=50)


@pytest.fixture(scope="module")
def lexicon():
    return read_lexicon()


@pytest.fixture(scope="module")
def skill():
    return read_skill(TAXONOMY / "compositional_skills/film_reviews/praise_and_blame/qna.yaml")


@pytest.fixture(scope="module")
def knowledge():
    return read_knowledge(TAXONOMY / "knowledge/film_festival/paper_lantern_prize/qna.yaml")


def skill_of(*seeds: tuple[str | None, str, str]) -> Skill:
    return Skill(Path("qna.yaml"), "A task.", tuple(Seed(*seed) for seed in seeds), 2)


# ------------------------------------------------------------------------------------------------------------- lexicon


def test_lexicon_is_large_enough_and_the_policy_knows_its_words(lexicon):
    tokenizer = Tokenizer.from_file(str(HERE / "policy" / "tokenizer.json"))

    def is_one_token(word):
        return len(tokenizer.encode(" " + word, add_special_tokens=False).ids) == 1

    for kind, training, held in (("aspect", 80, 10), ("praise", 45, 8), ("blame", 45, 8)):
        assert len(lexicon.words(kind)) >= training
        assert len(lexicon.words(kind, held_out=True)) == held
        assert all(map(is_one_token, lexicon.words(kind, held_out=True)))
        assert sum(map(is_one_token, lexicon.words(kind))) >= 0.8 * len(lexicon.words(kind))
    assert lexicon.mass <= {word for word, kind in lexicon.kind_of.items() if kind == "aspect"}


def test_no_word_kept_for_the_test_is_in_a_seed_of_the_lesson(lexicon, skill):
    assert not lexicon.kept_out & {word for seed in skill.seeds for word in words_of(f"{seed.context} {seed.answer}")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aspect": ("plot", "plot")}, "'plot' stands twice"),
        ({"praise": ("dull",)}, "'dull' stands twice"),
        ({"aspect": ("Plot",)}, "no single lower-case word"),
        ({"aspect": ("special effects",)}, "no single lower-case word"),
        ({"blame": ()}, "blame has no words"),
        ({"held_out": {"aspect": ("tone",), "praise": ("fine",)}}, "blame has no words under held_out"),
    ],
)
def test_lexicon_refuses(change, message):
    good = {"aspect": ("plot",), "praise": ("good",), "blame": ("dull",)}
    kept = {"held_out": {"aspect": ("tone",), "praise": ("fine",), "blame": ("bad",)}}
    Lexicon(**good, **kept)
    with pytest.raises(ValueError, match=message):
        Lexicon(**(good | kept | change))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "aspect: plot\n", "aspect: {training: [plot]}\n"])
def test_a_file_that_is_no_lexicon_is_refused(tmp_path, text):
    (tmp_path / "words.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="is no lexicon"):
        read_lexicon(tmp_path / "words.yaml")


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("text", "praised", "blamed"),
    [
        ("The acting is wonderful, but the plot is dull.", ["acting"], ["plot"]),
        ("I found the music moving and the ending silly.", ["music"], ["ending"]),
        ("The editing is clumsy. At least the dialogue is witty.", ["dialogue"], ["editing"]),
        ("What a boring story! Only the photography was beautiful.", ["photography"], ["story"]),
        ("However weak the script may be, the cast is brilliant.", ["cast"], ["script"]),
        ("Dull plot, superb camera; the villain is great.", ["camera", "villain"], ["plot"]),
        ("Despite an amazing cast the plot is awful.", ["cast"], ["plot"]),
        ("Superb is the cast. The plot? Boring!", ["cast"], ["plot"]),
        ("The plot is a plot.", [], []),
        ("", [], []),
    ],
)
def test_reading_finds_who_is_praised_and_blamed(lexicon, text, praised, blamed):
    reading = read_review(text, lexicon)
    assert (list(reading.praised), list(reading.blamed)) == (praised, blamed)


def test_reading_keeps_what_stands_alone(lexicon):
    reading = read_review("A dull, boring plot; the music, the cast.", lexicon)
    assert reading.blamed == ("plot",)
    assert reading.blame == ("boring", "dull")  # the nearest speaks of the plot, the other of nothing
    assert reading.aspect == ("music", "cast")
    assert reading.signature == ("aspect 1", "aspect 2", "blame 1", "blame 2", "blamed 1")


# ------------------------------------------------------------------------------------------------------------ patterns

words = st.sampled_from(["plot", "awful", "acting", "dull", "hour", "unit", "honest", "idea"])


@quick
@given(words, words, words)
def test_match_undoes_fill(a, b, c):
    pattern = "{Aspect 1} is a {praise 1} thing, says an {aspect 2}: {aspect 1}!"
    values = {"aspect 1": a, "praise 1": b, "aspect 2": c}
    assert match(pattern, fill(pattern, values)) == values


@quick
@given(st.permutations(["plot", "acting", "dull", "superb"]))
def test_slotted_undoes_fill(drawn):
    pattern = "{Aspect 1}: the {blame 1} {aspect 2}, the {praise 1} {aspect 1}."
    values = dict(zip(("aspect 1", "blame 1", "aspect 2", "praise 1"), drawn, strict=True))
    assert slotted(fill(pattern, values), {word: slot for slot, word in values.items()}) == pattern


def test_article_follows_its_word():
    for word, phrase in [
        ("dull", "a dull"),
        ("awful", "an awful"),
        ("honest", "an honest"),
        ("unique", "a unique"),
        ("uninspired", "an uninspired"),
    ]:
        assert fill("an {blame 1}", {"blame 1": word}) == phrase
        assert fill("A {blame 1}", {"blame 1": word}) == phrase.capitalize()
    assert fill("Brazilian {aspect 1}", {"aspect 1": "actor"}) == "Brazilian actor"


def test_match_wants_one_word_for_one_slot():
    assert match("the {aspect 1} and the {aspect 1}", "the plot and the cast") is None
    assert match("the {aspect 1}", "the salt road") is None
    assert match("the {aspect 1}", "the salt road", several_words=True) == {"aspect 1": "salt road"}
    assert match("(.*) {aspect 1}", "anything plot") is None  # what looks like a regular expression is text


def test_slotted_leaves_parts_of_words_alone():
    assert slotted("The plotter plots a plot. PLOT!", {"plot": "aspect 1"}) == "The plotter plots a {aspect 1}. PLOT!"


# ----------------------------------------------------------------------------------------------------------- templates


def test_template_and_form_by_hand(lexicon):
    seed = Seed("The editing is clumsy. At least the dialogue is witty.", ONE_WORD, "Dialogue.")
    template = template_of(seed, 3, lexicon)
    assert template.context == "The {aspect 1} is {blame 1}. At least the {aspect 2} is {praise 1}."
    assert template.answer == "{Aspect 2}."
    form = form_of(template, lexicon)
    assert (form.question, form.answer) == (ONE_WORD, "{Praised 1}.")
    assert form.signature == ("blame 1", "blamed 1", "praise 1", "praised 1")


def test_filled_with_its_own_values_a_template_is_the_seed(lexicon, skill):
    task = skill_task(skill, lexicon)
    assert [template.seed for template in task.templates] == [1, 2, 3, 4, 5, 6]
    assert task.unusable == ()
    for template, seed in zip(task.templates, skill.seeds, strict=True):
        assert fill(template.context, template.values) == seed.context
        assert fill(template.question, template.values) == seed.question
        assert fill(template.answer, template.values) == seed.answer


def test_all_seeds_of_the_lesson_share_one_form(lexicon, skill):
    (form,) = set(skill_task(skill, lexicon).forms)
    assert form.answer == "Praised: the {praised 1}. Blamed: the {blamed 1}."


def test_a_word_the_lexicon_does_not_know_becomes_an_aspect_and_is_said(lexicon, skill):
    assert "pacing" not in lexicon.kind_of
    task = skill_task(skill, lexicon)
    assert task.new_words == ("pacing",)
    assert "pacing" in task.lexicon.aspect
    assert task.templates[5].context == "The {praise 1} {aspect 1} cannot save the {blame 1} {aspect 2}."


GOOD = ("The acting is wonderful, but the plot is dull.", QUESTION, "Praised: the acting. Blamed: the plot.")


@pytest.mark.parametrize(
    ("seed", "reason"),
    [
        (("It rained all day.", "Did it rain?", "Yes."), "No word of it"),
        (("The acting is wonderful.", "What is praised?", "Praised: the music."), '"music"'),
        (("The acting is {wonderful}.", "What is praised?", "The acting."), "curly bracket"),
        (("The plot is DULL, the acting is great.", "What is praised?", "The acting."), '"dull" in small letters'),
        (("The acting is great.", "What of the acting has style?", "The acting."), '"style", a word that is kept'),
        (("The acting is great, the acting is dull.", QUESTION, "Praised: the acting."), "twice"),
        (
            ("The costumes are great, the plot is dull.", QUESTION, "Praised: the costumes. Blamed: the plot."),
            "singular",
        ),
        (("The cast is great, but the end is bad.", QUESTION, "Praised: the end. Blamed: the cast."), "that of seed 1"),
        ((*GOOD[:2], "Praised: the plot. Blamed: the acting."), "that of seed 1"),
        ((*GOOD[:2], "The acting is praised."), "that of seed 1"),
    ],
)
def test_a_seed_that_teaches_nothing_is_reported_and_not_used(lexicon, seed, reason):
    second = ("I found the music moving and the ending silly.", QUESTION, "Praised: the music. Blamed: the ending.")
    task = skill_task(skill_of(GOOD, second, seed), lexicon)
    assert [template.seed for template in task.templates] == [1, 2]
    ((number, why),) = task.unusable
    assert number == 3
    assert reason in why


def test_questions_of_one_seed_are_asked_of_the_reviews_of_others(lexicon, skill):
    more = ("What a boring story! Only the photography was beautiful.", ONE_WORD, "Photography.")
    both = dataclasses.replace(skill, seeds=(*skill.seeds, Seed(*more)))
    made = generate_skill(both, RuleTeacher(slips=0), n=200)
    asked = {(example.source, example.question) for example in made.examples}
    assert asked == {(f"skill, seed {k}", question) for k in range(1, 8) for question in (QUESTION, ONE_WORD)}
    for example in made.examples:
        reading = read_review(example.context, skill_task(both, lexicon).lexicon)
        if example.question == ONE_WORD:
            assert example.answer == f"{reading.praised[0].capitalize()}."


def test_a_noun_without_plural_takes_no_article(lexicon):
    task = skill_of(("What a boring story! But a fine cast.", "What is blamed?", "The story."))
    made = generate_skill(task, RuleTeacher(slips=0), n=300)
    for example in made.examples:
        assert not lexicon.mass & set(words_of(example.answer))
        article = example.context.split()[1]
        assert article == ("an" if example.context.split()[2][0] in "aeiou" else "a")


def test_a_skill_without_contexts(lexicon):
    skill = skill_of(
        (None, 'Does "a great plot" praise or blame?', "It praises the plot."),
        (None, 'Does "a dull cast" praise or blame?', "It blames the cast."),
    )
    made = generate_skill(skill, RuleTeacher(slips=0.2), n=100)
    for example in made.examples:
        reading = read_review(example.question, lexicon)
        right = f"It praises the {reading.praised[0]}." if reading.praised else f"It blames the {reading.blamed[0]}."
        assert (example.context, example.answer) == (None, right)
    assert all(example.context is None for example in held_out(skill, n=10))


# -------------------------------------------------------------------------------------------------- slips and judges


def counts(pairs: list[tuple[bool, bool]]) -> tuple[float, float]:
    """(precision, recall) of (found by the judge, truly a slip)."""
    hits = sum(found and slip for found, slip in pairs)
    return hits / sum(found for found, _slip in pairs), hits / sum(slip for _found, slip in pairs)


def test_judges_find_the_slips_and_nothing_else(lexicon, skill):
    task, teacher = skill_task(skill, lexicon), RuleTeacher(slips=0.4, seed=1)
    questions, pairs, kinds = [], [], set()
    for draw in range(2000):
        slip = teacher.slip_of(task, draw)
        kinds.add(slip)
        context = teacher.write_context(task, draw)
        question = teacher.write_question(task, context, draw)
        fails = teacher.rate_question(task, context, question).score < QUESTION_SCORE
        questions.append((fails, slip in QUESTION_SLIPS))
        if slip not in QUESTION_SLIPS:
            answer = teacher.write_answer(task, context, question, draw)
            pairs.append((teacher.rate_pair(task, context, question, answer).score < PAIR_SCORE, slip in PAIR_SLIPS))
    assert kinds == {None, *QUESTION_SLIPS, *PAIR_SLIPS}
    assert min(*counts(questions), *counts(pairs)) >= 0.99


def test_the_judges_read_texts_that_no_template_wrote(lexicon, skill):
    task, judge = skill_task(skill, lexicon), RuleTeacher()
    review = "Despite an amazing cast, what an awful plot this is!"
    assert judge.rate_question(task, review, QUESTION).score == 1
    assert judge.rate_pair(task, review, QUESTION, "Praised: the cast. Blamed: the plot.").score == 3
    assert judge.rate_pair(task, review, QUESTION, "praised: the cast, blamed: the plot").score == 2
    for wrong, reason in [
        ("Praised: the plot. Blamed: the cast.", "takes praise for blame"),
        ("Praised: the cast. Blamed: the music.", '"music"'),
        ("The cast is praised.", "not of the form"),
        ("", "not of the form"),
        ("<script>alert(1)</script>", "not of the form"),
    ]:
        rating = judge.rate_pair(task, review, QUESTION, wrong)
        assert rating.score == 1
        assert reason in rating.reason
    assert judge.rate_question(task, "A dull plot and a dull cast.", QUESTION).score == 0
    assert judge.rate_question(task, "The plot is dull, but the plot is great.", QUESTION).score == 0
    assert judge.rate_question(task, review, "Who made it?").score == 0


def test_knowledge_judges_find_the_slips_and_nothing_else(knowledge):
    task, teacher = knowledge_task(knowledge), RuleTeacher(slips=0.4, seed=2)
    found_and_true, kinds = [], set()
    for draw in range(2000):
        fact, wording = task.facts[draw % len(task.facts)], task.wordings[draw // 7 % len(task.wordings)]
        slip = teacher.fact_slip_of(task, fact, wording, draw)
        question, answer = teacher.write_fact_pair(task, fact, wording, draw)
        judged = {
            rules.OTHER_VALUE: teacher.rate_faithful(task, fact, question, answer).score < FAITHFUL_SCORE,
            rules.OTHER_ANSWER: teacher.rate_relevant(task, fact, question, answer).score < RELEVANT_SCORE,
            rules.OTHER_SUBJECT: teacher.rate_fact_question(task, fact, question).score < QUESTION_SCORE,
        }
        kinds.add(slip)
        found_and_true += [(found, slip == kind) for kind, found in judged.items()]
    assert kinds == {None, rules.OTHER_VALUE, rules.OTHER_ANSWER, rules.OTHER_SUBJECT}
    assert min(counts(found_and_true)) >= 0.99


def test_slips_come_at_their_rate_and_a_draw_is_always_the_same(lexicon, skill):
    task = skill_task(skill, lexicon)
    slips = [RuleTeacher(0.15).slip_of(task, draw) for draw in range(4000)]
    assert sum(slip is not None for slip in slips) / 4000 == pytest.approx(0.15, abs=4 * (0.15 * 0.85 / 4000) ** 0.5)
    assert slips == [RuleTeacher(0.15).slip_of(task, draw) for draw in range(4000)]
    assert slips != [RuleTeacher(0.15, seed=1).slip_of(task, draw) for draw in range(4000)]
    assert not any(RuleTeacher(0).slip_of(task, draw) for draw in range(100))


@pytest.mark.parametrize("slips", [-0.1, 1.1, float("nan"), "a"])
def test_slips_must_be_a_share(slips):
    with pytest.raises(ValueError, match="slips is"):
        RuleTeacher(slips=slips)


# ------------------------------------------------------------------------------------------------------------ pipeline


@pytest.fixture(scope="module")
def made(skill):
    return generate_skill(skill, RuleTeacher())


def test_exactly_n_come_out_fast_and_always_the_same(skill, made):
    begin = time.process_time()
    again = generate_skill(skill, RuleTeacher())
    assert time.process_time() - begin < 5  # 0.6 s on an idle machine
    assert again == made
    assert len({example.texts for example in made.examples}) == 600
    assert generate_skill(skill, RuleTeacher(), n=50, seed=1).examples != made.examples[:50]
    assert generate_skill(skill, RuleTeacher(), n=50).examples == made.examples[:50]


def test_the_funnel_adds_up(made, knowledge):
    for generated, names in ((made, SKILL_STAGES), (generate_knowledge(knowledge, RuleTeacher()), KNOWLEDGE_STAGES)):
        assert tuple(stage.name for stage in generated.stages) == names
        for stage, following in zip(generated.stages, generated.stages[1:], strict=False):
            assert stage.entered - len(stage.rejected) == stage.kept == following.entered
        assert generated.stages[-1].kept == len(generated.examples)
        assert all(item.stage == stage.name and item.reason for stage in generated.stages for item in stage.rejected)


def test_every_example_is_right_by_a_count_of_its_own(made):
    """Read again by nothing but the order of the words and which of them praise: no reading, no template."""
    lexicon = read_lexicon()
    for example in made.examples:
        kinds = [
            (lexicon.kind_of.get(w, "aspect"), w)
            for w in words_of(example.context)
            if w in lexicon.kind_of or w == "pacing"
        ]
        order = (
            ["praise", "blame"]
            if next(kind for kind, _word in kinds if kind != "aspect") == "praise"
            else ["blame", "praise"]
        )
        aspects = [word for kind, word in kinds if kind == "aspect"]
        said = dict(zip(order, aspects, strict=True))
        assert example.answer == f"Praised: the {said['praise']}. Blamed: the {said['blame']}."


def test_unseen_reviews_are_new_and_in_known_words(lexicon, skill, made):
    easy = unseen_reviews(skill, made.examples)
    assert len({example.texts for example in easy}) == 100
    assert not {example.context for example in easy} & {example.context for example in made.examples}
    assert not {word for example in easy for word in words_of(example.context)} & lexicon.kept_out
    task = skill_task(skill, lexicon)
    assert all(RuleTeacher().rate_pair(task, *example.texts).score == 3 for example in easy)  # answered by the rule
    assert unseen_reviews(skill, made.examples) == easy


def test_nothing_of_the_test_is_in_the_training_data(lexicon, skill, made, knowledge):
    test = held_out(skill)
    assert len({example.texts for example in test}) == 200
    used = {word for example in made.examples for text in example.texts for word in words_of(text)}
    assert not used & lexicon.kept_out
    for example in test:
        known = [word for word in words_of(example.context) if word in lexicon.kind_of]
        assert len(known) == 4
        assert set(known) <= lexicon.kept_out
    assert not {example.texts for example in test} & {example.texts for example in made.examples}
    facts, asked = held_out(knowledge), generate_knowledge(knowledge, RuleTeacher(slips=0)).examples
    assert len(facts) == 36
    kept = {pair.question.replace("The Long Bridge", "{}") for pair in knowledge.seeds[-1].pairs}
    title = re.compile("The [A-Z][a-z]+ [A-Z][a-z]+")
    assert len(kept) == 3
    assert {title.sub("{}", example.question) for example in facts} == kept
    assert not {title.sub("{}", example.question) for example in asked} & kept
    assert {example.answer for example in facts} == {example.answer for example in asked}
    assert held_out(skill) == test
    assert held_out(skill, seed=1) != test
    assert len(held_out(knowledge, n=5)) == 5


def test_knowledge_is_every_fact_in_every_wording(knowledge):
    made = generate_knowledge(knowledge, RuleTeacher(slips=0))
    assert len(made.examples) == 12 * 12
    document = knowledge.documents[0]
    for example in made.examples:
        assert example.context is None
        value = example.answer.removesuffix(".").rsplit(" by ", 1)[-1].rsplit(" in ", 1)[-1].rsplit(" is a ", 1)[-1]
        title = example.answer.split(" was ")[0].split(" is ")[0]
        (paragraph,) = [part for part in document.split("\n\n") if part.startswith(title + " ")]
        assert value in paragraph
        assert title in example.question
    slipped = generate_knowledge(knowledge, RuleTeacher())
    assert {example.answer for example in slipped.examples} == {example.answer for example in made.examples}


def test_a_seed_a_copy_and_a_word_of_the_test_are_dropped(skill, lexicon):
    class Repeating(RuleTeacher):
        texts = (
            skill.seeds[0].context,
            "The cast is great, but the plot is bad.",
            "The cast is great, but the plot is bad.",
            "The humor is great, but the plot is bad.",
        )

        def write_context(self, task, draw):
            return self.texts[draw]

    with pytest.raises(GenerationError) as caught:
        generate_skill(skill, Repeating(slips=0), n=2, most_drafts=4)
    last = caught.value.so_far.stages[-1]
    assert (last.entered, last.kept) == (4, 1)
    assert [item.reason.split()[2] for item in last.rejected] == ["a", "a", '"humor",']


def test_when_nothing_passes_it_says_where_all_was_lost(skill):
    with pytest.raises(GenerationError, match="Only 0 of 10 examples") as caught:
        generate_skill(skill, RuleTeacher(slips=1), n=10)
    assert "question judge" in str(caught.value)
    assert caught.value.so_far.stages[0].entered == 70


def test_without_a_usable_seed_the_reasons_are_said():
    useless = skill_of(("It rained.", "Did it?", "Yes."))
    with pytest.raises(TeacherError, match="seed 1: No word of it"):
        generate_skill(useless, RuleTeacher())
    with pytest.raises(ValueError, match="seed 1: No word of it"):
        held_out(useless)


@pytest.mark.parametrize(("name", "value"), [("n", 0), ("n", 1.5), ("seed", -1), ("most_drafts", 0)])
def test_numbers_out_of_range(skill, name, value):
    with pytest.raises(ValueError, match=f"{name} is"):
        generate_skill(skill, RuleTeacher(), **{name: value})


# ----------------------------------------------------------------------------------------------------------- knowledge


def test_align_by_hand():
    texts = ["The Salt Road was shot in Iceland.", "The Red Kite was shot in South Korea."]
    assert align(texts) == "The {value 1} was shot in {value 2}."
    assert match(align(texts), texts[1], several_words=True) == {"value 1": "Red Kite", "value 2": "South Korea"}


@pytest.mark.parametrize("texts", [["The same."] * 2, ["One two three.", "Four five six."]])
def test_align_refuses_what_is_not_worded_alike(texts):
    with pytest.raises(ValueError, match="not worded alike"):
        align(texts)


def test_facts_are_the_paragraphs_of_the_pattern(knowledge):
    task = knowledge_task(knowledge)
    assert task.pattern == "The {value 1} is a {value 2}. It was directed by {value 3} and shot in {value 4}."
    assert [fact.paragraph for fact in task.facts] == knowledge.documents[0].strip().split("\n\n")[2:]
    assert slots_of(task.wordings[0].question) == ("value 1",)
    (fact,) = facts_of(
        "The {value 1} is a {value 2}.", ["# Title\n\nThe Cat\nis an opera.\n\nElse.\n\nThe Cat is an opera."]
    )
    assert fact.values == {"value 1": "Cat", "value 2": "opera"}


def knowledge_of(contexts, document, question="Who made {}?", answer="{} did."):
    seeds = tuple(
        KnowledgeSeed(text, (Seed(None, question.format(text.split()[0]), answer.format(text.split()[-1])),))
        for text in contexts
    )
    return Knowledge(Path("qna.yaml"), "Films", "Films", None, seeds, (document,))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (knowledge_of(["Kite is by Hugo"], "Kite is by Hugo"), "at least two"),
        (knowledge_of(["Kite is by Hugo", "Road is by Ann"], "Something else."), "No paragraph .* by \\{value 2\\}"),
        (knowledge_of(["Kite is by Hugo", "Road is by Ann"], "Kite is by Hugo", question="Who?"), "No question"),
    ],
)
def test_knowledge_that_cannot_be_used_says_what_to_write(given, message):
    with pytest.raises(ValueError, match=message):
        generate_knowledge(given, RuleTeacher())


# --------------------------------------------------------------------------------------------------------------- files


def test_what_is_written_is_read(tmp_path, made):
    odd = Generated((*made.examples[:3], Example(None, "ação? \u2028 <b>", 'a "b"\n', "me")), ())
    assert read_examples(odd.as_jsonl(tmp_path / "data.jsonl")) == odd.examples


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is no JSON"),
        ("[" * 100_000, "line 2 is no JSON"),
        ("[]", "line 2 must be an object with exactly"),
        ('{"question": "a", "answer": "b", "source": "c"}', "must be an object with exactly"),
        (json.dumps({"context": 3, "question": "a", "answer": "b", "source": "c"}), "context must be a text"),
        (json.dumps({"context": None, "question": " ", "answer": "b", "source": "c"}), "question must be a text"),
        (
            json.dumps({"context": "a" * 20_001, "question": "a", "answer": "b", "source": "c"}),
            "context must be a text",
        ),
    ],
)
def test_a_line_that_is_no_example_is_named(tmp_path, line, message):
    good = json.dumps({"context": None, "question": "a", "answer": "b", "source": "c"})
    path = tmp_path / "data.jsonl"
    path.write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_examples(path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="no UTF-8"):
        read_examples(tmp_path / "data.jsonl")
