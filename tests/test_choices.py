"""The learner's own choices: how they are asked, kept without loss, and what a fit finds in them."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from course_helpers import choices as module
from course_helpers.choices import (
    LONGEST_LINE,
    LONGEST_TEXT,
    PRIOR,
    Choice,
    ChoiceBook,
    Question,
    Share,
    ask,
    consistency,
    fit,
    length_in_words,
    pairs_of,
    read_choices,
    ready_features,
    same_question,
    slope,
    taste,
    variety,
)
from course_helpers.translation import SpokenError, language

FILE, DAMAGED = Path("my_choices.jsonl"), Path("my_choices.damaged.jsonl")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def choice(number: int, answer: str = "A") -> Choice:
    return Choice(f"prompt {number}", f" first {number}", f" second {number}", answer)


def opened() -> ChoiceBook:
    book = ChoiceBook(FILE)
    book.open()
    return book


def answers_in(file: Path = FILE) -> list[str]:
    return [json.loads(line)["answer"] for line in file.read_text(encoding="utf-8").split("\n") if line]


# ------------------------------------------------------------------------------------------------------------ asking


def asked(count: int, **settings) -> list[Question]:
    texts = ([f"{name} {k}" for k in range(count)] for name in ("prompt", " first", " second"))
    return ask(*texts, **settings)


def test_sides_are_random_and_the_seed_decides():
    questions = asked(200, repeats=0)
    firsts = sum(question.a.startswith(" first") for question in questions)
    assert 70 < firsts < 130  # 200 coins: 100 ± 3 standard deviations of 7
    assert [question.prompt for question in questions] == [f"prompt {k}" for k in range(200)]
    assert asked(200, repeats=0) == questions != asked(200, repeats=0, seed=1)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("count", "repeats", "again"), [(30, 0.1, 3), (27, 0.1, 3), (3, 1.0, 2), (2, 1.0, 1), (1, 1.0, 0)]
)
def test_some_come_again_with_swapped_sides_but_never_directly_after(seed, count, repeats, again):
    questions = asked(count, repeats=repeats, seed=seed)
    assert len(questions) == len(set(questions)) == count + again
    keys = [same_question(question) for question in questions]
    twice = [key for key, times in Counter(keys).items() if times == 2]
    assert len(twice) == again
    for key in twice:
        first, second = (place for place, other in enumerate(keys) if other == key)
        assert questions[second] == questions[first].swapped
    if count >= 3:
        assert all(one != other for one, other in pairwise(keys))


def test_texts_that_read_the_same_and_questions_already_there_are_left_out():
    questions = ask(["x", "x", "x", "y"], [" a", " a", " b", " a"], [" a ", " b", " a", " b"], repeats=0)
    assert [same_question(q) for q in questions] == [("x", frozenset((" a", " b"))), ("y", frozenset((" a", " b")))]


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ((["x"], [" a"], [" a"]), {}, "No question is left"),
        (([], [], []), {}, "No question is left"),
        ((["x"], [" a", " b"], [" c"]), {}, r"hold \[1, 2, 1\] texts"),
        (("x", "a", "b"), {}, "three lists"),
        ((["x"], [" a"], [" b"]), {"repeats": 1.5}, r"repeats is 1\.5; it must be a share from 0 to 1"),
        ((["x"], [" a"], [" b"]), {"repeats": float("nan")}, "repeats is nan"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments, settings, words):
    with pytest.raises(ValueError, match=words):
        ask(*arguments, **settings)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ((None, "a", "b"), "prompt is None; it must be a text"),
        (("x", "a", "a"), "there is nothing to choose"),
        (("x", "a", "\ud800"), "b cannot be written as UTF-8"),
        (("x", "a" * (LONGEST_TEXT + 1), "b"), "a has 20001 characters; it must have at most 20000"),
    ],
)
def test_a_question_that_cannot_be_kept_is_refused(texts, words):
    with pytest.raises(ValueError, match=words):
        Question(*texts)


def test_an_answer_is_one_of_three():
    with pytest.raises(ValueError, match=r"answer is 'C'; it must be one of"):
        Choice("x", "a", "b", "C")


def test_pairs_leave_ties_out_and_put_the_winner_first():
    assert pairs_of([choice(1, "A"), choice(2, "tie"), choice(3, "B")]) == [
        {"prompt": "prompt 1", "chosen": " first 1", "rejected": " second 1"},
        {"prompt": "prompt 3", "chosen": " second 3", "rejected": " first 3"},
    ]


# ---------------------------------------------------------------------------------------------------------- the file


def test_every_choice_is_a_line_that_a_later_session_reads():
    book = opened()
    assert not FILE.exists()
    given = [choice(1, "A"), choice(2, "B"), Choice("É\u2028\n\r", ' "a"\\', " ☃</style>", "tie")]
    for count, each in enumerate(given, start=1):
        book.put(each)
        assert FILE.read_bytes().count(b"\n") == count
        assert list(opened().choices.values()) == given[:count] == read_choices(FILE)
    assert json.loads(FILE.read_text(encoding="utf-8").split("\n")[0]) == {
        "id": given[0].id,
        "prompt": "prompt 1",
        "a": " first 1",
        "b": " second 1",
        "answer": "A",
    }


def test_the_longest_texts_fit_a_line():
    longest = Choice("\x01" * LONGEST_TEXT, "\U0001f600" * LONGEST_TEXT, "\x02" * LONGEST_TEXT, "A")
    assert len(longest.line()) < LONGEST_LINE
    opened().put(longest)
    assert read_choices(FILE) == [longest]


def test_a_changed_answer_takes_the_place_of_the_old_and_undo_removes_the_line():
    book = opened()
    for number in (1, 2, 3):
        book.put(choice(number))
    book.put(choice(2, "tie"))
    assert answers_in() == ["A", "tie", "A"]
    book.take_back(choice(3).id)
    book.take_back("never there")
    assert answers_in() == ["A", "tie"]
    assert sorted(os.listdir()) == [".my_choices.jsonl.lock", "my_choices.jsonl"]  # nothing half-written


def test_an_answer_is_on_the_disk_before_put_returns(monkeypatch):
    synced = []
    monkeypatch.setattr(module.os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    book = opened()
    book.put(choice(1))
    book.put(choice(1, "B"))
    assert synced == [len(choice(1).line()), len(choice(1, "B").line())]


def entry(**changes) -> bytes:
    return json.dumps(json.loads(choice(9).line()) | changes).encode()


BAD = {
    "half a line": (choice(9).line()[:40], "no complete line of JSON"),
    "no UTF-8": (b"\xff\xfe", "no complete line of JSON"),
    "brackets": (b"[" * 100_000, "no complete line of JSON"),
    "digits": (b"9" * 10_000, "no complete line of JSON"),
    "a list": (b"[1, 2]", "fields are not"),
    "null": (b"null", "fields are not"),
    "a field less": (b'{"prompt": "x"}', "fields are not"),
    "a field more": (entry(more=1), "fields are not"),
    "a number": (entry(prompt=3), "one of its values"),
    "null text": (entry(a=None), "one of its values"),
    "another answer": (entry(answer="C"), "one of its values"),
    "a list for an answer": (entry(answer=["A"]), "one of its values"),
    "equal texts": (entry(a=" second 9"), "one of its values"),
    "a lone surrogate": (entry(a="\ud800"), "one of its values"),
    "too long a text": (entry(a="a" * (LONGEST_TEXT + 1)), "one of its values"),
    "another id": (entry(id="0" * 16), "id does not belong"),
    "an id of another kind": (entry(id=None), "id does not belong"),
    "too long a line": (b"x" * (2 * LONGEST_LINE + 7), "longer than a choice can be"),
    "too long for its texts": (entry(answer="A" * 3 * LONGEST_LINE), "longer than a choice can be"),
}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", BAD)
def test_a_damaged_line_is_set_aside_and_nothing_else(name, place):
    line, reason = BAD[name]
    lines = [choice(1, "A").line(), choice(2, "B").line()]
    lines.insert(place, line + (b"\n" if place < 2 else b""))
    FILE.write_bytes(b"".join(lines))
    book = opened()
    assert list(book.choices.values()) == [choice(1, "A"), choice(2, "B")]
    assert DAMAGED.read_bytes() == line + b"\n"
    assert FILE.read_bytes() == choice(1, "A").line() + choice(2, "B").line()
    words = book.damage_in_words()
    assert words.startswith(f"1 line of my_choices.jsonl holds no choice (line {place + 1}: ")
    assert reason in words
    assert "It is kept in my_choices.damaged.jsonl" in words
    assert opened().damage_in_words() == ""


def test_several_damaged_lines_are_kept_one_behind_the_other():
    for number in range(5):
        FILE.write_bytes(choice(1).line() + b"one %d\n" % number + b"two")
        book = opened()
        book.put(choice(2))
        assert read_choices(FILE) == [choice(1), choice(2)]
    assert DAMAGED.read_bytes() == b"".join(b"one %d\ntwo\n" % number for number in range(5))
    assert "2 lines of my_choices.jsonl hold no choice (line 2: it is no" in book.damage_in_words()


def test_a_last_line_without_its_end_is_good_and_the_next_one_is_a_line_of_its_own():
    FILE.write_bytes(b"\xef\xbb\xbf" + choice(1).line() + b"\r\n\n" + choice(2).line().rstrip())
    book = opened()
    book.put(choice(3))
    assert book.damage == []
    assert read_choices(FILE) == [choice(1), choice(2), choice(3)]
    assert not DAMAGED.exists()


def test_of_two_answers_to_a_question_the_later_counts():
    FILE.write_bytes(choice(1, "A").line() + choice(2).line() + choice(1, "B").line())
    assert read_choices(FILE) == [choice(1, "B"), choice(2)]


def test_a_reader_leaves_the_file_alone_and_warns():
    FILE.write_bytes(choice(1).line() + b"half")
    with pytest.warns(UserWarning, match=r"1 lines hold no choice, the first are 2\."):
        assert read_choices(FILE) == [choice(1)]
    assert FILE.read_bytes() == choice(1).line() + b"half"
    with pytest.raises(FileNotFoundError, match=r"There is no file other\.jsonl"):
        read_choices("other.jsonl")


def test_what_cannot_be_written_stays_in_memory_and_comes_with_the_next_answer(monkeypatch):
    def full(path, lines):
        raise OSError(28, "No space left on device")

    book = opened()
    book.put(choice(1))
    with monkeypatch.context() as broken:
        broken.setattr(module, "_append", full)
        with pytest.raises(SpokenError, match=r"my_choices.jsonl: No space left on device\. They stay in memory"):
            book.put(choice(2))
        with pytest.raises(SpokenError):
            book.put(choice(3, "B"))
    assert answers_in() == ["A"]
    assert list(book.choices.values()) == [choice(1), choice(2), choice(3, "B")]
    book.put(choice(4, "tie"))
    assert answers_in() == ["A", "A", "B", "tie"]


def test_an_undo_that_cannot_be_written_is_tried_again(monkeypatch):
    book = opened()
    book.put(choice(1))
    with monkeypatch.context() as broken:
        broken.setattr(module.os, "replace", lambda *paths: (_ for _ in ()).throw(PermissionError(13, "denied")))
        with pytest.raises(SpokenError, match="denied"):
            book.take_back(choice(1).id)
    assert book.choices == {}
    assert answers_in() == ["A"]
    book.put(choice(2, "B"))
    assert answers_in() == ["B"]
    assert not list(Path().glob(".*.part"))


def test_a_half_line_of_a_full_disk_loses_nothing(monkeypatch):
    def half(path, lines):
        path.open("ab").write(b"".join(lines)[:30])
        raise OSError(28, "No space left on device")

    book = opened()
    with monkeypatch.context() as broken:
        broken.setattr(module, "_append", half)
        with pytest.raises(SpokenError):
            book.put(choice(1))
    book.put(choice(2))
    assert read_choices(FILE) == [choice(1), choice(2)]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    book = opened()
    with pytest.raises(SpokenError, match="Permission denied"):
        book.put(choice(1))
    tmp_path.chmod(0o700)
    assert list(book.choices.values()) == [choice(1)]


def test_a_folder_for_a_file_is_said_at_once():
    FILE.mkdir()
    with pytest.raises(SpokenError, match=r"my_choices\.jsonl cannot be read: Is a directory"):
        opened()


def test_the_file_stays_where_it_was_when_the_folder_changes(tmp_path, monkeypatch):
    book, elsewhere = opened(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    book.put(choice(1))
    assert answers_in(tmp_path / FILE) == ["A"]
    assert os.listdir() == []


# ------------------------------------------------------------------------------------------------- several at one time


def test_two_books_on_one_file_lose_no_answer():
    one, other = opened(), opened()
    one.put(choice(1))
    other.put(choice(2, "B"))
    one.put(choice(3))
    assert list(one.choices.values()) == [choice(1), choice(2, "B"), choice(3)] == read_choices(FILE)
    other.take_back(choice(2).id)
    one.put(choice(4))
    assert [c.prompt for c in read_choices(FILE)] == ["prompt 1", "prompt 3", "prompt 4"]


def label(begin: int, count: int) -> None:
    """A session: answers, changes and takes back, so that the file is both appended to and rewritten."""
    book = opened()
    for number in range(begin, begin + count):
        book.put(choice(number, "A"))
        book.put(choice(number, "B"))
        book.put(choice(10_000 + number))
        book.take_back(choice(10_000 + number).id)


def whole(sessions: int, count: int) -> None:
    found = read_choices(FILE)
    numbers = [100 * session + number for session in range(sessions) for number in range(count)]
    assert sorted(c.line() for c in found) == sorted(choice(number, "B").line() for number in numbers)
    assert not DAMAGED.exists()


def test_threads_that_write_at_the_same_time_lose_no_answer():
    threads = [threading.Thread(target=label, args=(100 * session, 10)) for session in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole(4, 10)


def test_processes_that_write_at_the_same_time_lose_no_answer():
    context = multiprocessing.get_context("spawn")
    sessions = [context.Process(target=label, args=(100 * session, 10)) for session in range(2)]
    for session in sessions:
        session.start()
    for session in sessions:
        session.join()
    assert [session.exitcode for session in sessions] == [0, 0]
    whole(2, 10)


# ------------------------------------------------------------------------------------------------------------- taste


def simulated(count: int, weights: list[float], bias: float, seed: int, ties: float = 0.0):
    """Choices of a learner who follows the model, and the features of both responses, (N, 2) each."""
    rng = np.random.default_rng(seed)
    features = {f"feature {k}": rng.normal(size=(count, 2)) * 10**k + k for k in range(len(weights))}
    margins = sum(w * (f[:, 0] - f[:, 1]) / f.std() for w, f in zip(weights, features.values(), strict=True)) + bias
    wins = rng.random(count) < 1 / (1 + np.exp(-margins))
    answers = np.where(rng.random(count) < ties, "tie", np.where(wins, "A", "B"))
    return [choice(number, str(answer)) for number, answer in enumerate(answers)], features


TRUE = [1.2, -0.6, 0.0]


def test_the_weights_of_simulated_learners_are_found_within_their_errors():
    scores = []
    for seed in range(25):
        found = taste(*simulated(300, TRUE, 0.4, seed))
        errors = np.array([*found.errors, found.bias_error])
        scores.append((np.array([*found.weights, found.bias]) - [*TRUE, 0.4]) / errors)
    assert np.abs(scores).max() < 3.3
    assert np.sqrt(np.mean(np.square(scores), axis=0)) == pytest.approx(
        np.ones(4), abs=0.35
    )  # errors mean what they say


def standardised(features) -> np.ndarray:
    return np.column_stack([(f[:, 0] - f[:, 1]) / f.std() for f in features.values()])


@pytest.mark.parametrize("seed", range(3))
def test_the_fit_is_that_of_scikit_learn(seed):
    """A tie is half a win: both outcomes, each with half the weight."""
    choices, features = simulated(40, TRUE, 0.5, seed, ties=0.2)
    x = np.column_stack([standardised(features), np.ones(40)])
    wins = np.array([c.win for c in choices])
    other = LogisticRegression(fit_intercept=False, C=PRIOR**2, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    other.fit(np.vstack([x, x]), np.repeat([1, 0], 40), sample_weight=np.concatenate([wins, 1 - wins]))
    found = taste(choices, features)
    assert [*found.weights, found.bias] == pytest.approx(other.coef_[0], abs=1e-7)


def test_the_gradient_is_zero_at_the_fit_and_the_errors_are_its_curvature():
    choices, features = simulated(60, TRUE, -0.5, 0, ties=0.1)
    x, wins = np.column_stack([standardised(features), np.ones(60)]), np.array([c.win for c in choices])
    found = taste(choices, features)
    weights = np.array([*found.weights, found.bias])

    def likelihood(weights):
        p = 1 / (1 + np.exp(-x @ weights))
        return (wins * np.log(p) + (1 - wins) * np.log(1 - p)).sum() - (weights**2).sum() / (2 * PRIOR**2)

    step = 1e-5 * np.eye(4)
    numeric = [(likelihood(weights + h) - likelihood(weights - h)) / 2e-5 for h in step]
    assert numeric == pytest.approx(np.zeros(4), abs=1e-7)
    assert slope(weights, x, wins) == pytest.approx(np.zeros(4), abs=1e-10)
    hessian = [(slope(weights + h, x, wins) - slope(weights - h, x, wins)) / 2e-5 for h in step]
    errors = np.sqrt(np.diag(np.linalg.inv(-np.array(hessian))))
    assert [*found.errors, found.bias_error] == pytest.approx(errors, rel=1e-6)


def test_swapped_sides_turn_the_sign_of_the_pull_to_a_side_and_nothing_else():
    choices, features = simulated(50, TRUE, 0.7, 3, ties=0.1)
    mirror = {"A": "B", "B": "A", "tie": "tie"}
    swapped = [Choice(c.prompt, c.b, c.a, mirror[c.answer]) for c in choices]
    one, other = taste(choices, features), taste(swapped, {name: f[:, ::-1] for name, f in features.items()})
    assert other.bias == pytest.approx(-one.bias, abs=1e-12)
    assert other.weights == pytest.approx(one.weights, abs=1e-12)
    assert other.errors == pytest.approx(one.errors, abs=1e-12)
    assert (other.explained, other.foreseen) == (one.explained, one.foreseen)


def test_the_unit_of_a_feature_does_not_matter():
    choices, features = simulated(50, TRUE, 0.0, 4)
    one, other = taste(choices, features), taste(choices, {name: 1000 * f - 7 for name, f in features.items()})
    assert other.weights == pytest.approx(one.weights, abs=1e-9)
    assert other.scales == pytest.approx([1000 * scale for scale in one.scales])


def test_a_feature_that_separates_all_choices_gets_a_finite_weight():
    choices = [choice(number, "AB"[number % 2]) for number in range(30)]
    wins = np.array([c.win for c in choices])
    found = taste(choices, {"seen": np.column_stack([wins, 1 - wins]) + 0.0})
    assert 1 < found.weights[0] < 3 * PRIOR
    assert str(found.explained).startswith("30 of 30 (100 %")
    assert found.foreseen.hits == 30
    assert "more often" in str(found)


def test_the_prior_moves_a_weight_of_one_by_some_hundredths_at_thirty_choices(monkeypatch):
    moved = []
    for seed in range(10):
        data = simulated(30, [1.0], 0.0, seed)
        monkeypatch.setattr(module, "PRIOR", 2.0)
        weak = taste(*data).weights[0]
        monkeypatch.setattr(module, "PRIOR", 20.0)
        moved.append(taste(*data).weights[0] - weak)
    assert 0.01 < np.median(moved) < 0.15


def test_what_was_not_seen_is_foreseen_less_well():
    """Ten features of pure noise explain thirty choices, and foresee none."""
    explained, foreseen = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        choices = [choice(number, str(rng.choice(["A", "B"]))) for number in range(30)]
        found = taste(choices, {str(k): rng.normal(size=(30, 2)) for k in range(10)})
        explained.append(found.explained.share)
        foreseen.append(found.foreseen.share)
    assert np.mean(explained) > 0.75
    assert np.mean(foreseen) == pytest.approx(0.5, abs=0.07)  # 600 coins, and their fits hang together


def test_a_swapped_twin_is_no_help_to_foresee():
    """Left out alone, each choice would be told by its twin; the features say nothing else."""
    rng = np.random.default_rng(1)
    ones = [choice(number, str(rng.choice(["A", "B"]))) for number in range(12)]
    twins = [Choice(c.prompt, c.b, c.a, "B" if c.answer == "A" else "A") for c in ones]
    features = {str(k): np.stack([np.eye(12)[k], np.zeros(12)], axis=1) for k in range(12)}
    both = {name: np.vstack([f, f[:, ::-1]]) for name, f in features.items()}
    found = taste(ones + twins, both)
    assert found.explained.share == 1
    assert found.foreseen.share == 0.5  # a margin of 0 each time
    assert found.consistency == Share(12, 12)


def test_repeats_are_answered_alike_or_not():
    pairs = {"AB": True, "BA": True, "tt": True, "AA": False, "BB": False, "At": False, "tB": False}
    for number, (answers, alike) in enumerate(pairs.items()):
        first, second = ({"t": "tie"}.get(letter, letter) for letter in answers)
        one = choice(number, first)
        both = [one, Choice(one.prompt, one.b, one.a, second)]
        assert consistency([*both, choice(99)]) == consistency(both[::-1]) == Share(alike, 1)
    assert consistency([choice(1), choice(2)]).total == 0


def test_intervals_are_those_of_wilson():
    """Worked by hand: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)."""
    assert Share(3, 3).interval == pytest.approx((0.4385, 1.0), abs=1e-4)
    assert Share(8, 10).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert Share(0, 0).interval == (0.0, 1.0)
    assert str(Share(8, 10)) == "8 of 10 (80 %; 95 % interval 49 to 94 %)"


SAYS = {
    "pull to A": ([choice(k, "A") for k in range(30)], "side A draws you"),
    "pull to B": ([choice(k, "B") for k in range(30)], "side B draws you"),
    "no pull": ([choice(k, "AB"[k % 2]) for k in range(30)], "no pull to a side is seen"),
    "no repeat": ([choice(1)], "No question was asked twice"),
    "steady": (
        [x for k in range(9) for x in (choice(k), Choice(f"prompt {k}", f" second {k}", f" first {k}", "B"))],
        "alike: 9 of 9 (100 %; 95 % interval 70 to 100 %): steadier than tossing a coin",
    ),
    "one repeat": ([choice(1), Choice("prompt 1", " second 1", " first 1", "B")], "cannot be told from tossing a coin"),
    "always A": (
        [x for k in range(9) for x in (choice(k), Choice(f"prompt {k}", f" second {k}", f" first {k}", "A"))],
        "perhaps the side decided",
    ),
    "no difference": ([choice(1)], "it is the same for all responses"),
    "a tie": ([choice(1, "tie")], "1 tie counts half a win."),
    "ties": ([choice(1, "tie"), choice(2, "tie")], "2 ties count half a win each."),
}


@pytest.mark.parametrize("name", SAYS)
def test_what_was_found_is_said_in_both_languages(name):
    choices, words = SAYS[name]
    found = taste(choices, ready_features())
    assert words in str(found)
    assert words in found._repr_html_()
    for line in str(found).split("\n"):
        assert len(line) < 260
    language("pt")
    assert str(found)  # the words themselves are in the catalogue, whose tests read them


def test_hostile_names_stay_text():
    found = taste([choice(1)], {"<img src=x onerror=alert(1)>": length_in_words})
    assert "<img" not in found._repr_html_()
    assert "&lt;img" in found._repr_html_()


@pytest.mark.parametrize(
    ("choices", "features", "words"),
    [
        ([], {"x": length_in_words}, "it got 0 and 1"),
        ([choice(1)], {}, "it got 1 and 0"),
        ([choice(1)], {"x": lambda prompt, response: float("inf")}, "feature 'x' gives a number that is not finite"),
        ([choice(1)], {"x": lambda prompt, response: None}, "feature 'x' gives a number that is not finite"),
        ([choice(1)], {"x": lambda prompt, response: "long"}, "feature 'x' gives something that is no number"),
        ([choice(1)], {"x": [[1, 2], [3, 4]]}, r"has shape \(2, 2\); it must be \(1, 2\)"),
    ],
)
def test_what_cannot_be_fitted_is_refused(choices, features, words):
    with pytest.raises(ValueError, match=words):
        taste(choices, features)


def test_ready_features():
    assert length_in_words("x", " a good  film\n") == 3
    assert variety("x", ' Good, good "good" film') == 0.5
    assert variety("x", " \n") == 0
    assert list(ready_features()) == ["length in words", "variety of words"]


def test_the_judge_reads_prompt_and_response_together():
    from course_helpers.models import load_judge, log_odds

    judge = load_judge("small", device="cpu")
    choices = [Choice("This film was", " a joy", " a mess", "A"), Choice("I", " hated it", " loved it", "B")]
    found = taste(choices, ready_features(judge))
    texts = ["This film was a joy", "This film was a mess", "I hated it", "I loved it"]
    assert found.scales[0] == pytest.approx(np.std(log_odds(judge, texts)), rel=1e-4)
    assert found.weights[0] > 0
    assert ready_features(judge)["judge's log-odds"]("I", " loved it") == pytest.approx(log_odds(judge, texts[3:])[0])


def test_newton_arrives_from_anywhere():
    choices, features = simulated(30, TRUE, 0.0, 6)
    x, wins = np.column_stack([standardised(features), np.ones(30)]), np.array([c.win for c in choices])
    for start in (-20.0, 20.0):
        assert fit(x, wins, np.full(4, start)) == pytest.approx(fit(x, wins), abs=1e-9)
