"""Preference pairs: every form gives the pair it holds, every fault is named, and what is drawn can be drawn again."""

from __future__ import annotations

import copy
import gettext
import gzip
import json
import random
import time

import pytest
import torch
from datasets import Dataset, DatasetDict
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from course_helpers import translation
from course_helpers.models import load_judge, log_odds
from course_helpers.onednn import faster_products
from course_helpers.ppo.rollout import generate_responses, until_end
from course_helpers.preferences import (
    COLUMNS,
    NOTES,
    REASONS,
    BadPair,
    JudgedPairs,
    Pair,
    PairReport,
    Problem,
    _ranked,
    judged_pairs,
    noisy_labels,
    split_by_prompt,
    to_pair,
    validate_pairs,
)
from course_helpers.translation import language

GOOD = Pair("The sky is", " blue today.", " made of tin.")


def explicit(**changes):
    return GOOD._asdict() | changes


def said(role, content):
    return {"role": role, "content": content}


def user(content):
    return said("user", content)


def assistant(content):
    return said("assistant", content)


# ----------------------------------------------------------------------------------------------------------- every form


def test_explicit_strings_stay_as_they_are():
    assert to_pair(explicit()) == GOOD
    assert to_pair(GOOD) == GOOD
    assert to_pair(explicit(other_column=3)) == GOOD


@pytest.mark.parametrize(
    ("chosen", "rejected", "pair"),
    [
        ("The sky is blue.", "The sky is green.", Pair("The sky is", " blue.", " green.")),
        ("I am reading it.", "I am really bored.", Pair("I am", " reading it.", " really bored.")),  # not "I am rea"
        ("He said no", "He said nothing", Pair("He said", " no", " nothing")),
        ("Cheap", "Cheap but good", "no_shared_prompt"),
        ("A good film", "A good film, but long", Pair("A good", " film", " film, but long")),
        ("One\n\ntwo", "One\n\nthree", Pair("One", "\n\ntwo", "\n\nthree")),  # white space belongs to the response
        ("One  two", "One three", Pair("One", "  two", " three")),
        ("One two", "One\nthree", Pair("One", " two", "\nthree")),
        ("Left", "Right", "no_shared_prompt"),
        (" left", " right", "no_shared_prompt"),
        ("", "Right", "empty_response"),
    ],
)
def test_a_shared_beginning_is_cut_between_words(chosen, rejected, pair):
    row = {"chosen": chosen, "rejected": rejected}
    if isinstance(pair, Pair):
        assert to_pair(row) == pair
    else:
        with pytest.raises(BadPair) as caught:
            to_pair(row)
        assert caught.value.reason == pair


def dialogue(*turns):
    return "".join(f"\n\n{'Human' if place % 2 == 0 else 'Assistant'}: {turn}" for place, turn in enumerate(turns))


def test_dialogues_share_everything_up_to_the_last_answer():
    shared = ("Do cats purr?", "They do.", "And lions?")
    row = {"chosen": dialogue(*shared, "They roar."), "rejected": dialogue(*shared, "They rarely speak.")}
    assert to_pair(row) == Pair(dialogue(*shared) + "\n\nAssistant:", " They roar.", " They rarely speak.")


def test_dialogues_that_part_early_are_cut_at_the_last_answer_they_share():
    row = {"chosen": dialogue("Hi", "Hello.", "Sing!", "La la."), "rejected": dialogue("Hi", "Hello.", "Dance!", "No.")}
    pair = to_pair(row)
    assert pair.prompt == "\n\nHuman: Hi\n\nAssistant:"
    assert pair.prompt + pair.chosen == row["chosen"]
    assert pair.prompt + pair.rejected == row["rejected"]
    assert validate_pairs([row]).counts == {"more_turns": 1}


def test_a_response_that_stops_where_the_other_goes_on():
    row = {"chosen": dialogue("Hi", "Hello."), "rejected": dialogue("Hi", "Hello.", "Sing!", "No.")}
    pair = to_pair(row)
    assert (pair.prompt, pair.chosen) == ("\n\nHuman: Hi\n\nAssistant:", " Hello.")


def test_only_one_text_with_a_turn_in_it_is_no_dialogue():
    row = {"chosen": "It was good.", "rejected": "It was bad.\n\nAssistant: What?"}
    assert to_pair(row) == Pair("It was", " good.", " bad.\n\nAssistant: What?")


def test_a_prompt_with_message_lists_that_repeat_it():
    question = "Name a bird."
    row = {
        "prompt": question,
        "prompt_id": "7",
        "chosen": [user(question), assistant("A wren.")],
        "rejected": [user(question), assistant("A trout.")],
        "score_chosen": 8.0,
        "score_rejected": 2.5,
    }
    assert to_pair(row) == Pair("User: Name a bird.\n\nAssistant:", " A wren.", " A trout.")


def test_message_lists_of_several_turns():
    shared = [said("system", "Be brief."), user("Hi"), assistant("Hello."), user("A bird?")]
    pair = to_pair({"chosen": [*shared, assistant("A wren.")], "rejected": [*shared, assistant("Two wrens.")]})
    assert pair == Pair(
        "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: A bird?\n\nAssistant:", " A wren.", " Two wrens."
    )


def test_message_lists_that_part_at_a_turn_of_the_user():
    start = [user("Hi"), assistant("Hello.")]
    row = {"chosen": [*start, user("Sing"), assistant("La.")], "rejected": [*start, user("Go"), assistant("Bye.")]}
    pair = to_pair(row)
    assert pair == Pair(
        "User: Hi\n\nAssistant:", " Hello.\n\nUser: Sing\n\nAssistant: La.", " Hello.\n\nUser: Go\n\nAssistant: Bye."
    )
    assert validate_pairs([row]).counts == {"more_turns": 1}


def test_a_prompt_that_is_a_message_list():
    row = {"prompt": [user("A bird?")], "chosen": [assistant("A wren.")], "rejected": [assistant("A trout.")]}
    whole = {name: row["prompt"] + row[name] for name in ("chosen", "rejected")}
    assert to_pair(row) == to_pair(whole) == Pair("User: A bird?\n\nAssistant:", " A wren.", " A trout.")
    assert to_pair(row | {"prompt": "A bird?"}) == to_pair(row)


TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
MESSAGES = {
    "prompt": [user("A bird?")],
    "chosen": [assistant("A wren.")],
    "rejected": [assistant("A trout.")],
}


@pytest.fixture
def templated(small):
    """A tokenizer with a chat template."""
    tokenizer = copy.deepcopy(small[1])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_the_chat_template_is_used_and_the_end_token_is_left_to_trl(templated):
    pair = to_pair(MESSAGES, templated)
    assert pair == Pair("<|user|>\nA bird?<|endoftext|>\n<|assistant|>\n", "A wren.", "A trout.")
    wanted = templated.apply_chat_template(MESSAGES["prompt"] + MESSAGES["chosen"], return_dict=True)["input_ids"]
    found = templated(pair.prompt + pair.chosen + templated.eos_token).input_ids
    assert wanted[: len(found)] == found
    assert templated.decode(wanted[len(found) :]) == "\n"


def test_a_template_may_refuse_or_write_a_prompt_otherwise(templated):
    templated.chat_template = "{{ raise_exception('no <b> birds') }}"
    with pytest.raises(BadPair, match="no <b> birds") as caught:
        to_pair(MESSAGES, templated)
    assert caught.value.reason == "template_error"
    templated.chat_template = TEMPLATE.replace("<|assistant|>\n{% endif", "<|assistant|><think></think>{% endif")
    with pytest.raises(BadPair) as caught:
        to_pair(MESSAGES, templated)
    assert caught.value.reason == "template_differs"


class Beginner:
    """A tokenizer that puts its begin token before every text, as its template does."""

    bos_token, bos_token_id, eos_token, chat_template = "<s>", 1, "</s>", "a template"

    def __init__(self, puts_begin):
        self.puts_begin = puts_begin

    def __call__(self, text):
        return type("Encoding", (), {"input_ids": [1] * self.puts_begin + [7]})()

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return "<s>" + "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]" * add_generation_prompt


@pytest.mark.parametrize(("puts_begin", "prompt"), [(True, "[user]A bird?"), (False, "<s>[user]A bird?")])
def test_a_begin_token_stands_there_once(puts_begin, prompt):
    assert to_pair(MESSAGES, Beginner(puts_begin)).prompt == prompt + "[assistant]"


words = st.lists(st.text(alphabet="abcdef", min_size=1, max_size=6), min_size=1, max_size=8).map(" ".join)


@st.composite
def pairs_of_words(draw):
    """Pairs whose responses begin with different words, so that no word of theirs belongs to the prompt."""
    prompt, chosen, rejected = draw(words), draw(words), draw(words)
    assume(chosen.split()[0] != rejected.split()[0])
    return Pair(prompt, f" {chosen}", f" {rejected}")


@settings(deadline=None)
@given(pairs_of_words())
def test_whatever_form_a_pair_is_written_in_it_comes_back(pair):
    assume(not any(text.strip().startswith(pair.prompt) for text in pair[1:]))
    whole = {name: pair.prompt + getattr(pair, name) for name in ("chosen", "rejected")}
    assert to_pair(pair._asdict()) == pair
    assert to_pair(whole) == pair
    start = f"\n\nHuman: {pair.prompt}\n\nAssistant:"
    assert to_pair({"chosen": start + pair.chosen, "rejected": start + pair.rejected}) == pair._replace(prompt=start)
    asked = [user(pair.prompt)]
    lists = {name: [*asked, assistant(getattr(pair, name).strip())] for name in ("chosen", "rejected")}
    in_turns = pair._replace(prompt=f"User: {pair.prompt}\n\nAssistant:")
    assert to_pair(lists) == in_turns
    assert to_pair(lists | {"prompt": pair.prompt}) == in_turns
    assert to_pair({"prompt": asked} | {name: turns[1:] for name, turns in lists.items()}) == in_turns


@settings(deadline=None)
@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_a_cut_loses_no_letter_and_cuts_no_word(shared, one, other):
    row = {"chosen": shared + one, "rejected": shared + other}
    try:
        pair = to_pair(row)
    except BadPair:
        return
    assert (pair.prompt + pair.chosen, pair.prompt + pair.rejected) == tuple(row.values())
    if "\n\nAssistant:" not in pair.prompt:
        assert pair.chosen[0].isspace()
        assert pair.rejected[0].isspace()
        assert not pair.prompt[-1].isspace()


# ---------------------------------------------------------------------------------------------------------- every fault

ASKED, ANSWERED = [user("A bird?")], [assistant("A wren.")]
BAD_ROWS = [
    (17, "not_a_row", "int"),
    ("The sky is blue.", "not_a_row", "str"),
    ({"prompt": "The sky is", "chosen": " blue."}, "missing_column", "rejected (prompt, chosen)"),
    ({"rejected": " blue.", "text": "x"}, "missing_column", "chosen (rejected, text)"),
    ({}, "missing_column", "chosen ()"),
    (explicit(chosen=None), "none", "chosen"),
    (explicit(prompt=None, rejected=None), "none", "prompt, rejected"),
    (explicit(prompt=3), "not_text", "prompt: int"),
    (explicit(chosen=b" blue."), "not_text", "chosen: bytes"),
    (explicit(rejected={"text": " green."}), "not_text", "rejected: dict"),
    (explicit(chosen=ANSWERED), "mixed_forms", "chosen: list, rejected: str"),
    (explicit(prompt=ASKED), "mixed_forms", "prompt: list, chosen: str"),
    ({"chosen": ["a", "b"], "rejected": ANSWERED}, "not_messages", "chosen[0]: 'a'"),
    ({"chosen": [], "rejected": ANSWERED}, "not_messages", "chosen: []"),
    ({"chosen": [*ASKED, {"role": "assistant"}], "rejected": ANSWERED}, "not_messages", "chosen[1]"),
    ({"chosen": [*ASKED, assistant(None)], "rejected": ANSWERED}, "not_messages", "None"),
    ({"chosen": [*ASKED, said("robot", "Hi")], "rejected": ANSWERED}, "unknown_role", "chosen[1]: 'robot'"),
    ({"chosen": [user(" "), *ANSWERED], "rejected": ANSWERED}, "empty_message", "chosen[0]"),
    ({"chosen": [*ASKED, *ANSWERED], "rejected": [*ASKED, assistant("\n")]}, "empty_response", "rejected"),
    ({"chosen": ASKED + ANSWERED, "rejected": ASKED}, "last_turn_not_assistant", "rejected: user"),
    ({"prompt": ASKED, "chosen": [user("Or?"), *ANSWERED], "rejected": ANSWERED}, "first_turn_not_assistant", "chosen"),
    ({"prompt": ANSWERED, "chosen": ANSWERED, "rejected": [assistant("No.")]}, "prompt_not_user", "assistant"),
    ({"prompt": [user(" ")], "chosen": ANSWERED, "rejected": [assistant("No.")]}, "empty_prompt", ""),
    ({"prompt": ASKED, "chosen": ASKED + ANSWERED, "rejected": [assistant("No.")]}, "prompt_repeated", "chosen"),
    (
        {"prompt": "A fish?", "chosen": ASKED + ANSWERED, "rejected": [*ASKED, assistant("No.")]},
        "prompt_differs",
        "'A fish?'",
    ),
    ({"prompt": "", "chosen": ASKED + ANSWERED, "rejected": [*ASKED, assistant("No.")]}, "empty_prompt", "''"),
    ({"chosen": ASKED + ANSWERED, "rejected": [user("A fish?"), *ANSWERED]}, "no_shared_prompt", "'A fish?'"),
    ({"chosen": ASKED + ANSWERED, "rejected": ASKED + ANSWERED}, "identical", "A wren."),
    ({"chosen": dialogue("Hi", "Hello."), "rejected": dialogue("Ho", "Hello.")}, "no_shared_prompt", "Human: Ho"),
    ({"chosen": dialogue("Hi", "Hello."), "rejected": "\n\nHuman: Hi\n\nAssistant: "}, "empty_response", "rejected"),
    ({"chosen": dialogue("Hi", "Hello."), "rejected": dialogue("Hi", "Hello.")}, "identical", "Hello."),
    ({"chosen": "Left we go", "rejected": "Right we go"}, "no_shared_prompt", "'Left we go', 'Right we go'"),
    (explicit(prompt=""), "empty_prompt", "''"),
    (explicit(prompt=" \n\t"), "empty_prompt", r"' \n\t'"),
    (explicit(chosen=""), "empty_response", "chosen: ''"),
    (explicit(rejected="\u00a0 "), "empty_response", "rejected"),
    (explicit(rejected=GOOD.chosen), "identical", "' blue today.'"),
    (explicit(rejected=" blue  today.\n"), "only_space_differs", "blue  today"),
    (explicit(chosen="The sky is blue."), "prompt_repeated", "chosen: 'The sky is blue.'"),
    (explicit(rejected="\nThe  sky is, well, green."), "prompt_repeated", "rejected"),
    (explicit(chosen=" bl\ud83due."), "lone_surrogate", "chosen[3]"),
    (explicit(prompt="Caf\ufffd is"), "replacement_character", "prompt[3]"),
    (explicit(score_chosen=2.0, score_rejected=7.5), "scores_contradict", "2.0 < 7.5"),
    (explicit(score_chosen=4, score_rejected=4.0), "scores_tie", "4 = 4.0"),
]


def test_there_are_forty_bad_rows_and_more():
    assert len(BAD_ROWS) >= 40


@pytest.mark.parametrize(("row", "reason", "detail"), BAD_ROWS)
def test_a_bad_row_is_reported_with_its_reason(row, reason, detail):
    report = validate_pairs([GOOD, row])
    assert report.pairs == (GOOD,)
    assert report.total == 2
    (problem,) = report.problems
    assert (problem.row, problem.reason) == (1, reason)
    assert detail in problem.detail
    assert report.counts == {reason: 1}
    assert problem.words == REASONS[reason]
    assert problem.words in str(report)
    with pytest.raises(BadPair) as caught:
        to_pair(row)
    assert (caught.value.reason, caught.value.detail) == (reason, problem.detail)
    with pytest.raises(ValueError, match=rf"1 of 2 rows cannot be used \({reason} 1\)\. row 1: ") as caught:
        validate_pairs([GOOD, row], on_bad="raise")
    assert f"{REASONS[reason]}" in str(caught.value)
    assert detail in str(caught.value)


LONG = " so long" * 20
BAD_TOKENS = [
    (explicit(prompt="The film ", chosen="was good.", rejected="was bad."), "cut_token", "' '"),
    (explicit(prompt="The fil", chosen="m was good.", rejected=" was bad."), "cut_token", "fil"),
    (explicit(chosen=LONG + " good", rejected=LONG + " bad"), "beyond_context", "≥ 16"),
    (explicit(chosen=LONG, rejected=LONG + " bad"), "beyond_context", "≥ 16"),
    (explicit(prompt="The sky was" + LONG), "prompt_fills_context", "≥ 16"),
]


@pytest.mark.parametrize(("row", "reason", "detail"), BAD_TOKENS)
def test_a_row_that_is_bad_as_tokens(small, row, reason, detail):
    assert validate_pairs([row]).problems == ()
    (problem,) = validate_pairs([GOOD, row], small[1], max_length=16).problems
    assert (problem.row, problem.reason) == (1, reason)
    assert detail in problem.detail


class Lower:
    """A tokenizer that knows no capitals: one letter a token."""

    eos_token = "#"

    def __call__(self, texts, verbose=True):
        return type("Encoding", (), {"input_ids": [[ord(letter) for letter in text.lower()] for text in texts]})()


def test_responses_that_become_the_same_tokens():
    report = validate_pairs([explicit(rejected=" BLUE today.")], Lower())
    assert report.counts == {"same_tokens": 1}


@pytest.mark.parametrize("room", [-1, 0, 1])
def test_the_context_counts_the_end_token(small, room):
    """TRL puts one after each response: with room for the words alone it is cut off, and that is said."""
    tokenizer = small[1]
    lengths = {name: len(tokenizer(GOOD.prompt + getattr(GOOD, name)).input_ids) for name in ("chosen", "rejected")}
    report = validate_pairs([GOOD], tokenizer, max_length=max(lengths.values()) + room)
    assert report.pairs == (GOOD,)
    assert report.counts == ({} if room == 1 else {"response_cut": 1})


def test_the_smallest_context_in_which_a_difference_is_seen(small):
    row = explicit(chosen=" so long, so good", rejected=" so long, so bad")
    prompt, chosen, rejected = (
        small[1](text).input_ids
        for text in (row["prompt"], *(row["prompt"] + row[name] for name in ("chosen", "rejected")))
    )
    differ = next(place for place, ids in enumerate(zip(chosen, rejected, strict=False)) if ids[0] != ids[1])
    assert validate_pairs([row], small[1], differ).counts == {"beyond_context": 1}
    assert "beyond_context" not in validate_pairs([row], small[1], differ + 1).counts
    assert validate_pairs([row], small[1], len(prompt)).counts == {"prompt_fills_context": 1}


@pytest.mark.parametrize(
    ("row", "note", "detail"),
    [
        (explicit(chosen="blue."), "words_run_together", "The sky isblue."),
        (explicit(score_chosen=3.0), "no_score", "3.0"),
        (explicit(score_chosen=float("nan"), score_rejected=1.0), "no_score", "nan, 1.0"),
        (explicit(score_chosen=None, score_rejected="7"), "no_score", "None, '7'"),
        (explicit(rejected=" blue.\n\nHuman: Why?"), "more_turns", "rejected"),
    ],
)
def test_a_row_may_be_kept_with_a_note(row, note, detail):
    report = validate_pairs([row], on_bad="raise")
    assert len(report.pairs) == 1
    (remark,) = report.notes
    assert (remark.reason, remark.words) == (note, NOTES[note])
    assert detail in remark.detail


def test_a_row_that_is_left_out_has_no_note():
    report = validate_pairs([explicit(chosen="blue")] * 2)
    assert [note.row for note in report.notes] == [0]
    assert [problem.row for problem in report.problems] == [1]


def test_two_words_of_a_prompt_may_be_said_again_and_letters_without_case_need_no_space():
    rows = [
        {"prompt": "Good morning", "chosen": " Good morning to you!", "rejected": " What?"},
        {"prompt": "今日は", "chosen": "晴れです", "rejected": "雨です"},
        {"prompt": "The sky is", "chosen": " The sky island.", "rejected": " grey."},
    ]
    report = validate_pairs(rows)
    assert (report.problems, report.notes) == ((), ())


def test_the_first_of_equal_rows_stays_and_opposite_ones_all_go():
    other = Pair("Cats are", " soft.", " hard.")
    rows = [GOOD, other, GOOD._replace(chosen=" blue  today. "), other.swapped(), other, GOOD]
    report = validate_pairs(rows)
    assert report.pairs == (GOOD,)
    assert report.problems == (
        Problem(1, "contradiction", "3"),
        Problem(2, "duplicate", "0"),
        Problem(3, "contradiction", "1"),
        Problem(4, "contradiction", "3"),
        Problem(5, "duplicate", "0"),
    )


SETTINGS = [
    ({"rows": []}, "rows is empty"),
    ({"rows": iter(())}, "rows is empty"),
    ({"rows": "a text"}, "'a text', a single string.*jsonl"),
    ({"rows": "pairs.csv"}, "ends in .jsonl"),
    ({"rows": 3}, "rows is 3; it must be a list of rows"),
    ({"rows": explicit()}, "one dictionary with the keys.*list of rows"),
    ({"rows": DatasetDict(train=Dataset.from_list([explicit()]))}, r"rows\['train'\]"),
    ({"rows": GOOD}, "a single Pair"),
    ({"rows": [GOOD], "on_bad": "ignore"}, 'on_bad is \'ignore\'.*"drop" or "raise"'),
    ({"rows": [GOOD], "max_length": 16}, "pass the tokenizer"),
    ({"rows": [GOOD], "max_length": 1, "tokenizer": Lower()}, "max_length is 1.*at least 2"),
    ({"rows": [GOOD], "max_length": 9.5, "tokenizer": Lower()}, "max_length is 9.5"),
    ({"rows": [GOOD], "max_length": True, "tokenizer": Lower()}, "max_length is True"),
    ({"rows": [GOOD], "tokenizer": "gpt2"}, "tokenizer is 'gpt2'.*load_policy"),
]


@pytest.mark.parametrize(("arguments", "message"), SETTINGS)
def test_a_wrong_setting_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        validate_pairs(**arguments)


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*COLUMNS, "role", "content", "score_chosen", "score_rejected"]), inner)
    ),
    max_leaves=12,
)
messages = st.lists(
    st.builds(said, st.sampled_from(["user", "assistant", "system", "x"]), st.sampled_from(["", "Hi", "No"])),
    max_size=4,
)
likely = st.fixed_dictionaries(
    {"chosen": st.text() | messages | junk, "rejected": st.text() | messages | junk},
    optional={"prompt": st.text() | messages | junk, "score_chosen": junk, "score_rejected": junk},
)


@settings(deadline=None, max_examples=300)
@given(st.lists(junk | likely, min_size=1, max_size=5))
def test_every_row_is_either_a_pair_or_a_problem(rows):
    report = validate_pairs(rows)
    assert report.total == len(rows) == len(report.pairs) + len(report.problems)
    assert sum(count for reason, count in report.counts.items() if reason in REASONS) == len(report.problems)
    assert {note.row for note in report.notes}.isdisjoint(problem.row for problem in report.problems)
    assert all(text.encode() and text.strip() for pair in report.pairs for text in pair)
    again = validate_pairs(report.pairs or [GOOD])
    assert again.problems == ()
    html, text = report._repr_html_(), str(report)
    assert str(report.total) in html
    assert str(report.total) in text


# --------------------------------------------------------------------------------------------------------- whole tables

SUBJECTS = ("boat", "cook", "garden", "letter", "mountain", "piano", "school", "tunnel", "window", "zebra")


def dialogues(count):
    """Rows of our own in the form of HH-RLHF, all different."""
    dice = random.Random(0)
    for number in range(count):
        one, other = dice.sample(SUBJECTS, 2)
        asked = ["Tell me about things, please.", f"Which ones? I like number {number}.", f"And the {one}?"]
        shared = asked[:1] if number % 2 else [asked[0], asked[1], asked[2]]
        shared = [f"{turn} ({number})" for turn in shared]
        yield {
            "chosen": dialogue(*shared, f"Here is what I know of the {one}, as far as it goes."),
            "rejected": dialogue(*shared, f"I would rather speak of the {other}. {number} is a number."),
        }


def planted():
    """2,000 rows of which some are bad, and how many of each kind."""
    rows, faults = list(dialogues(2000)), {}

    def plant(reason, places, change):
        for place in places:
            rows[place] = change(place, dict(rows[place]))
        faults[reason] = len(places)

    question = "\n\nHuman: A word?\n\nAssistant:"
    plant("none", range(0, 30, 2), lambda _place, row: row | {"rejected": None})
    plant("empty_response", range(100, 140, 2), lambda _place, row: row | {"rejected": question, "chosen": question})
    plant("identical", range(200, 260, 2), lambda _place, row: row | {"rejected": row["chosen"]})
    plant("only_space_differs", range(300, 310, 2), lambda _place, row: row | {"rejected": row["chosen"] + "\n"})
    plant(
        "no_shared_prompt",
        range(400, 440, 2),
        lambda place, row: row | {"rejected": f"\n\nHuman: x {place}\n\nAssistant: y"},
    )
    plant("duplicate", range(500, 520, 2), lambda place, _row: rows[place + 1])
    plant(
        "contradiction",
        range(600, 612),
        lambda place, row: (
            row if place % 2 == 0 else {"chosen": rows[place - 1]["rejected"], "rejected": rows[place - 1]["chosen"]}
        ),
    )
    plant("replacement_character", range(700, 705), lambda _place, row: row | {"chosen": row["chosen"] + "\ufffd"})
    plant(
        "beyond_context",
        range(800, 816, 2),
        lambda place, _row: {
            "chosen": f"{question} {place}{' again' * 300} good",
            "rejected": f"{question} {place}{' again' * 300} bad",
        },
    )
    plant(
        "prompt_fills_context",
        range(900, 908, 2),
        lambda place, _row: {name: dialogue("word " * 300, f"{place} {name}") for name in ("chosen", "rejected")},
    )
    plant(
        "response_cut", range(1000, 1006, 2), lambda _place, row: row | {"rejected": row["rejected"] + " and on" * 200}
    )
    return rows, faults


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_two_thousand_rows_of_a_file_with_planted_faults(small, tmp_path, ending):
    rows, faults = planted()
    path = tmp_path / f"train.{ending}"
    if ending == "parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        lines = [json.dumps(row) for row in rows]
        for place in (1500, 1700):
            lines[place] = lines[place][:-9]  # a line that was not written to its end
        path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
        faults["broken_json"] = 2
    begin = time.perf_counter()
    report = validate_pairs(path, small[1], max_length=256)
    assert time.perf_counter() - begin < 10
    assert report.counts == faults
    assert report.total == 2000
    assert len(report.pairs) == 2000 - len(report.problems)
    if ending == "jsonl":
        assert [(p.row, p.detail[:5]) for p in report.problems if p.reason == "broken_json"] == [
            (1500, "1501 "), (1700, "1701 ")
        ]  # fmt: skip
    data = report.dataset()
    assert data.column_names == list(COLUMNS)
    assert tuple(data[0].values()) == report.pairs[0]
    assert validate_pairs(data, small[1], max_length=256).pairs == report.pairs


@pytest.mark.parametrize(
    "name", ["a.json", "b.json", "c.json", "d.jsonl", "e.jsonl.gz", "f.json.gz", "g.parquet", "H.JSONL"]
)
def test_every_kind_of_file_gives_the_same_pairs(tmp_path, name):
    rows = [MESSAGES, MESSAGES | {"prompt": [user("Ein Vögelchen?")]}]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path = tmp_path / name
    text = {"a.json": json.dumps(rows, indent=2), "c.json": "\ufeff" + lines, "f.json.gz": json.dumps(rows)}.get(
        name, lines
    )
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    elif name.endswith(".parquet"):
        Dataset.from_list(rows).to_parquet(path)
    else:
        path.write_text(text, encoding="utf-8")
    expected = validate_pairs(rows).pairs
    assert len(expected) == 2
    assert validate_pairs(path).pairs == validate_pairs(str(path)).pairs == expected
    assert validate_pairs(Dataset.from_list(rows)).pairs == expected
    assert validate_pairs(Dataset.from_list(rows).to_iterable_dataset()).pairs == expected


def test_a_json_file_of_one_line_is_one_row(tmp_path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps(explicit()))
    assert validate_pairs(path).pairs == (GOOD,)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"data": 3}', "must be a list of rows"),
        ("a.json", b'[{"chosen": 3', "no valid JSON.*line 1"),
        ("a.json", b"", "rows is empty"),
        ("a.jsonl", b"\n\n", "rows is empty"),
        ("a.parquet", b"PAR1 not really", "cannot be read as a parquet file"),
        ("a.jsonl.gz", b"\x1f\x8b broken", "cannot be read to its end"),
        ("a.jsonl.gz", gzip.compress(b'{"chosen": "a"}' * 99, mtime=0)[:30], "cannot be read to its end"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        validate_pairs(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.jsonl"):
        validate_pairs(tmp_path / "none.jsonl")


def test_lines_and_bytes_that_are_damaged_lose_nothing_else(tmp_path):
    path = tmp_path / "pairs.jsonl"
    good = json.dumps(explicit()).encode()
    path.write_bytes(b"\n".join([good, b"{oops", b"", good.replace(b"blue", b"bl\xfce"), b"[1]", b"[" * 100_000]))
    report = validate_pairs(path)
    assert report.pairs == (GOOD,)
    assert [(p.row, p.reason) for p in report.problems] == [
        (1, "broken_json"), (3, "replacement_character"), (4, "not_a_row"), (5, "broken_json")
    ]  # fmt: skip
    assert report.problems[0].detail.startswith("2 (")


# ------------------------------------------------------------------------------------------------------- how it is said


def test_a_report_names_rows_counts_and_what_was_done():
    rows = [GOOD, *[explicit(chosen=f" {n}.", rejected=f" {n}.") for n in range(5)], explicit(chosen="blue")]
    report = validate_pairs(rows)
    assert str(report).splitlines()[0] == "Rows: 7. Pairs: 2. Left out: 5."
    identical, together = str(report).splitlines()[2:]
    assert identical.split("   ")[0] == "the two responses are identical"
    assert "left out" in identical
    assert "1 (' 0.'), 2 (' 1.'), 3 (' 2.'), …" in identical
    assert "kept with a note" in together
    assert repr(report) == "PairReport(total=7)"
    assert "<th scope" not in validate_pairs([GOOD])._repr_html_()


def test_hostile_text_stays_text():
    hostile = "<img src=x onerror=alert(1)>"
    report = validate_pairs([explicit(chosen=hostile, rejected=hostile), {hostile: 1}])
    shown = report._repr_html_()
    assert "<img" not in shown
    assert shown.count("&lt;img") == 2


def test_an_error_of_many_rows_shows_the_first_few():
    rows = [explicit(chosen=None)] * 5 + [explicit(prompt="")] * 2
    with pytest.raises(ValueError, match=r"7 of 7 rows cannot be used \(none 5, empty_prompt 2\)") as caught:
        validate_pairs(rows, on_bad="raise")
    assert str(caught.value).count("row ") == 3
    assert 'on_bad="drop"' in str(caught.value)


class Marked(gettext.NullTranslations):
    """A language in which every text that was translated stands between signs."""

    def gettext(self, message):
        return f"«{message}»"


def test_every_word_of_a_report_is_translated(monkeypatch):
    report = validate_pairs([explicit(prompt=3), explicit(chosen="blue")])
    judged = JudgedPairs((), (), (), {"scores_tie": 2})
    monkeypatch.setattr(translation, "_catalogue", {"en": gettext.NullTranslations(), "pt": Marked()}.get)
    language("pt")
    for shown in (report, judged):
        cells = [cell.strip() for line in str(shown).splitlines() for cell in line.split("   ") if cell.strip()]
        words = [cell for cell in cells if not cell[0].isdigit()]
        assert len(words) >= 4
        assert all(cell[0] == "«" and cell[-1] == "»" for cell in words)


def test_portuguese_has_its_own_words_for_everything():
    for words in (REASONS | NOTES).values():
        language("en")
        assert translation._(words) == words
        language("pt")
        assert translation._(words) != words


# ----------------------------------------------------------------------------------------------- splitting and swapping

many = st.lists(
    st.builds(Pair, st.sampled_from([f"{a} {b}" for a in "abcd" for b in "xyz"]), words, words), min_size=1, max_size=40
)


@given(many, st.floats(0.01, 0.99), st.integers(0, 5), st.randoms())
def test_a_prompt_is_on_one_side_whatever_the_order(pairs, share, seed, dice):
    prompts = {pair.prompt for pair in pairs}
    if len(prompts) < 2:
        with pytest.raises(ValueError, match="at least two"):
            split_by_prompt(pairs, share, seed)
        return
    train, held = split_by_prompt(pairs, share, seed)
    assert train
    assert held
    assert sorted(train + held) == sorted(pairs)
    assert {pair.prompt for pair in train}.isdisjoint(pair.prompt for pair in held)
    assert abs(len({pair.prompt for pair in held}) - share * len(prompts)) <= 1
    assert split_by_prompt(pairs, share, seed) == (train, held)
    shuffled = dice.sample(pairs, len(pairs))
    assert [sorted(side) for side in split_by_prompt(shuffled, share, seed)] == [sorted(train), sorted(held)]


def test_prompts_that_look_alike_are_one_and_seeds_differ():
    pairs = [Pair(text, " a", " b") for text in ("The sky", "the  sky ", "THE SKY", "The sea")]
    for seed in range(8):
        assert sorted(len(side) for side in split_by_prompt(pairs, 0.5, seed)) == [1, 3]
    pairs = [Pair(f"Prompt {n}", " a", " b") for n in range(40)]
    sides = {tuple(split_by_prompt(pairs, 0.25, seed)[1]) for seed in range(5)}
    assert len(sides) == 5
    assert {len(held) for held in sides} == {10}


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan"), "a tenth"])
def test_a_share_outside_its_range(share):
    with pytest.raises(ValueError, match="share is"):
        split_by_prompt([GOOD, GOOD._replace(prompt="Cats are")], share)


def test_noise_swaps_exactly_its_share():
    pairs = [Pair(f"Prompt {n}", " good", " bad") for n in range(101)]
    for share, wrong in ((0, 0), (0.1, 10), (0.5, 50), (1, 101)):
        noisy = noisy_labels(pairs, share, seed=3)
        assert sum(new == old.swapped() for new, old in zip(noisy, pairs, strict=True)) == wrong
        assert all(new in (old, old.swapped()) for new, old in zip(noisy, pairs, strict=True))
        assert noisy == noisy_labels(pairs, share, seed=3)
    assert noisy_labels(pairs, 0.5, seed=3) != noisy_labels(pairs, 0.5, seed=4)
    with pytest.raises(ValueError, match=r"share is 1\.1"):
        noisy_labels(pairs, 1.1, seed=0)


# ----------------------------------------------------------------------------------------------------- drawn and judged

PROMPTS = [
    f"{start} {noun}"
    for start in ("This film is a", "I saw the", "Never have I seen such a", "We liked the")
    for noun in ("story", "comedy", "hero", "bad ending", "quiet picture")
]


@pytest.fixture(scope="module")
def judge():
    return load_judge("small", device="cpu")


@pytest.fixture(scope="module")
def judged(small, judge):
    return judged_pairs(*small, judge, PROMPTS, max_new_tokens=12, seed=4, batch_size=16)


def logit_difference(judge, text):
    """The judge's two raw logits, without the pipeline."""
    with torch.no_grad():
        logits = judge.model(**judge.tokenizer(text, return_tensors="pt")).logits[0]
    labels = judge.model.config.label2id
    return float(logits[labels["POSITIVE"]] - logits[labels["NEGATIVE"]])


def test_the_judge_likes_the_chosen_one_better(judged, judge):
    assert len(judged.pairs) + sum(judged.left_out.values()) == len(PROMPTS)
    assert len(judged.pairs) > 10
    for pair, rewards in zip(judged.pairs, judged.rewards, strict=True):
        scores = [logit_difference(judge, pair.prompt + response) for response in (pair.chosen, pair.rejected)]
        assert scores[0] > scores[1]
        assert rewards == pytest.approx(scores, abs=1e-3)


def test_pairs_are_the_rollouts_that_the_seed_draws(judged, small):
    """Drawn again by hand: texts without special tokens, and a flag where EOS came."""
    model, tokenizer = small
    queries = [torch.tensor(tokenizer(prompt).input_ids) for prompt in PROMPTS for _ in range(2)]
    rollouts = []
    with torch.random.fork_rng(), faster_products(model.device):
        torch.manual_seed(4)
        for begin in range(0, len(queries), 16):
            part, pure = queries[begin : begin + 16], {"do_sample": True, "top_k": 0, "top_p": 1.0}
            rows = generate_responses(model, part, tokenizer.pad_token_id, max_new_tokens=12, **pure)
            rollouts += [until_end(row, tokenizer.eos_token_id).tolist() for row in rows]
    drawn = {}
    for place, prompt in enumerate(PROMPTS):
        both = rollouts[2 * place : 2 * place + 2]
        drawn[prompt] = {tokenizer.decode(ids, skip_special_tokens=True): tokenizer.eos_token_id in ids for ids in both}
    for pair, ended in zip(judged.pairs, judged.ended, strict=True):
        assert drawn[pair.prompt] == {pair.chosen: ended[0], pair.rejected: ended[1]}
    assert not all(all(both) for both in judged.ended)  # twelve tokens rarely end a review


def test_the_texts_keep_their_prompts_tokens(judged, small):
    tokenizer = small[1]
    for pair in judged.pairs:
        prompt = tokenizer(pair.prompt).input_ids
        for response in (pair.chosen, pair.rejected):
            assert tokenizer(pair.prompt + response).input_ids[: len(prompt)] == prompt
            assert tokenizer.eos_token not in response
    report = validate_pairs(judged.pairs, tokenizer, max_length=64, on_bad="raise")
    assert report.pairs == judged.pairs


def test_the_same_seed_gives_the_same_pairs_and_nothing_else_is_touched(judged, small, judge):
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    settings = {"max_new_tokens": 12, "batch_size": 16}
    ids = [small[1](prompt).input_ids for prompt in PROMPTS]
    assert judged_pairs(*small, judge, ids, seed=4, **settings) == judged
    assert judged_pairs(*small, judge, PROMPTS, seed=5, **settings).pairs != judged.pairs
    assert torch.equal(torch.random.get_rng_state(), before)


def constant(texts, **settings):
    """A judge that likes everything alike."""
    return [[{"label": "POSITIVE", "score": 1.0}, {"label": "NEGATIVE", "score": 0.0}] for _ in texts]


def by_length(texts, **settings):
    """A judge that counts letters."""
    return [[{"label": "POSITIVE", "score": float(len(t))}, {"label": "NEGATIVE", "score": 0.0}] for t in texts]


def test_ties_and_small_differences_are_counted(small):
    settings = {"max_new_tokens": 6, "seed": 1}
    tied = judged_pairs(*small, constant, PROMPTS, **settings)
    assert tied.pairs == ()
    assert set(tied.left_out) <= {"scores_tie", "identical", "empty_response", "retokenized", "replacement_character"}
    assert tied.left_out["scores_tie"] > 10
    near = judged_pairs(*small, by_length, PROMPTS, **settings)
    enough = sorted(won - lost for won, lost in near.rewards)[len(near.rewards) // 2]  # one pair has exactly this
    far = judged_pairs(*small, by_length, PROMPTS, least_difference=enough, **settings)
    assert far.left_out["small_difference"] == sum(won - lost < enough for won, lost in near.rewards) > 0
    assert set(far.pairs) == {
        pair for pair, (won, lost) in zip(near.pairs, near.rewards, strict=True) if won - lost >= enough
    }
    assert all(len(pair.chosen) > len(pair.rejected) for pair in near.pairs)
    assert "the judge's scores differ by less" in str(far)


def test_rollouts_alike_are_left_out(small):
    cold = judged_pairs(*small, by_length, PROMPTS, max_new_tokens=6, temperature=1e-4)
    assert cold.pairs == ()
    assert cold.left_out == {"identical": len(PROMPTS)}


def test_a_prompt_whose_tokens_do_not_come_back_is_left_out(small):
    tokenizer = small[1]
    split = tokenizer("The won").input_ids + tokenizer("derful").input_ids
    assert tokenizer("The wonderful").input_ids != split
    judged = judged_pairs(*small, by_length, [split] * 6, max_new_tokens=8)
    assert judged.pairs == ()
    assert judged.left_out["retokenized"] >= 4


@pytest.mark.parametrize("stable", [[True, False], [False, True]])
def test_one_unstable_rollout_is_enough(stable):
    rollouts = [("The sky is", " blue.", True), ("The sky is", " green.", False)]
    assert _ranked(rollouts, [1.0, 2.0], stable, 0.0).left_out == {"retokenized": 1}
    pair = Pair("The sky is", " green.", " blue.")
    assert _ranked(rollouts, [1.0, 2.0], [True, True], 0.0) == JudgedPairs((pair,), ((2.0, 1.0),), ((False, True),), {})


def test_a_data_set_of_judged_pairs_says_which_ended(judged):
    data = judged.dataset()
    assert data.column_names == [*COLUMNS, "chosen_ended", "rejected_ended"]
    rows = zip(data["chosen"], data["chosen_ended"], data["rejected"], data["rejected_ended"], strict=True)
    assert list(rows) == [
        (pair.chosen, ended[0], pair.rejected, ended[1]) for pair, ended in zip(judged.pairs, judged.ended, strict=True)
    ]


def test_splitting_and_swapping_take_rewards_and_flags_along():
    """The numbers say which pair they belong to."""
    numbers = range(20)
    judged = JudgedPairs(
        tuple(Pair(f"Prompt {n}", f" good {n}", f" bad {n}") for n in numbers),
        tuple((n + 0.5, float(-n)) for n in numbers),
        tuple((n % 2 == 0, n % 3 == 0) for n in numbers),
        {"identical": 3},
    )
    known = dict(zip(judged.pairs, zip(judged.rewards, judged.ended, strict=True), strict=True))
    train, held = judged.split(0.3, seed=2)
    assert (list(train.pairs), list(held.pairs)) == split_by_prompt(judged.pairs, 0.3, seed=2)
    for side in (train, held):
        assert side.left_out == {}
        assert {pair: known[pair] for pair in side.pairs} == dict(
            zip(side.pairs, zip(side.rewards, side.ended, strict=True), strict=True)
        )
    noisy = judged.with_noise(0.25, seed=1)
    assert list(noisy.pairs) == noisy_labels(judged.pairs, 0.25, seed=1)
    for old, new, rewards, ended in zip(judged.pairs, noisy.pairs, noisy.rewards, noisy.ended, strict=True):
        turn = 1 if new == old else -1
        assert (rewards[::turn], ended[::turn]) == known[old]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": "A film"}, "pass a list"),
        ({"prompts": []}, "pass a list"),
        ({"prompts": [""]}, "at least one token"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 500}, "context"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"temperature": 0}, "temperature is 0"),
        ({"least_difference": -1.0}, "least_difference is -1.0"),
        ({"least_difference": float("nan")}, "least_difference is nan"),
        ({"label": "GREAT"}, "no label 'GREAT'"),
    ],
)
def test_wrong_settings_of_a_draw_are_named(small, changes, message):
    arguments = {"prompts": PROMPTS[:1], "max_new_tokens": 2} | changes
    with pytest.raises(ValueError, match=message):
        judged_pairs(*small, constant, **arguments)


def test_the_reward_is_that_of_evaluate(judged, judge):
    texts = [pair.prompt + pair.chosen for pair in judged.pairs]
    assert [won for won, _lost in judged.rewards] == pytest.approx(log_odds(judge, texts), abs=1e-4)
    assert isinstance(validate_pairs(judged.pairs), PairReport)
