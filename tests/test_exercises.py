"""Every exercise is checked with its solution, its mistakes, and wrong answers written independently of them."""

import contextlib
import copy
import inspect
import itertools
import json
import math
import re
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
import yaml
from nbclient import NotebookClient

from course_helpers import evaluate, models, sampling, toy, translation
from course_helpers.dpo import losses as dpo
from course_helpers.exercises import check, exercise, limits
from course_helpers.exercises.check import Exercise, Mistake
from course_helpers.exercises.registry import all_exercises
from course_helpers.exercises.shown import Shown
from course_helpers.exercises.values import reals
from course_helpers.ppo import AdaptiveKLController, losses
from course_helpers.ppo.rollout import until_end
from tests.wrong_answers import lesson_01, lesson_02, lesson_03, lesson_04, lesson_05, lesson_06, lesson_07

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9]*.ipynb"))
LESSONS = (lesson_01, lesson_02, lesson_03, lesson_04, lesson_05, lesson_06, lesson_07)
BANK = [answer for lesson in LESSONS for answer in lesson.ANSWERS]
EVERY = pytest.mark.parametrize("number", list(all_exercises()))


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A folder of its own for the progress, no hints given yet, English."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "_hints_given", {})
    monkeypatch.setattr(translation, "_chosen", "en")


def speaks_portuguese():
    """Whether the catalogue holds the exercises' texts; the course's own check names those that are missing."""
    try:
        return translation._catalogue("pt").gettext("✗ Not yet") != "✗ Not yet"
    except OSError:
        return False


@pytest.fixture(params=["en", pytest.param("pt", marks=pytest.mark.skipif(not speaks_portuguese(), reason="no .mo"))])
def spoken(request, fresh):
    """Each language in turn."""
    translation.language(request.param)
    return request.param


def texts_of(each):
    return [each.title, each.task, each.why, *each.hints, *(mistake.message for mistake in each.mistakes)]


def run(stub):
    """What the last line of a cell shows."""
    *lines, last = stub.splitlines()
    names = {"exercise": exercise}
    exec("\n".join(lines), names)
    return eval(last, names)


# ------------------------------------------------------------------------------------------------------- what there is


def test_at_least_six_a_lesson_in_order():
    numbers = [tuple(map(int, number.split("."))) for number in all_exercises()]
    assert numbers == sorted(numbers)
    for lesson in (1, 2, 3, 4, 5, 6, 7):
        places = [place for which, place in numbers if which == lesson]
        assert places == list(range(1, len(places) + 1))
        assert len(places) >= 6
    assert all(each.number == number for number, each in all_exercises().items())


@EVERY
def test_has_all_its_parts(number):
    each = exercise(number)
    assert each.difficulty in check.DIFFICULTIES
    assert len(each.inputs) >= 3
    assert len(each.mistakes) >= 3
    assert 2 <= len(each.hints) <= 3
    assert 20 <= len(each.task.split()) <= 80
    assert f"{each.right.__name__}{inspect.signature(each.right)}" in each.task
    assert len(each.stub.splitlines()) <= 15
    assert len(set(texts_of(each))) == len(texts_of(each))


def test_unknown_number_names_those_there_are():
    with pytest.raises(ValueError, match=r"no exercise '9\.9'.*1\.1, 1\.2.*3\.8"):
        exercise("9.9")
    assert exercise(1.2) is exercise("1.2")


@EVERY
def test_shows_its_task(number, spoken):
    each = exercise(number)
    assert translation._(each.title) in repr(each)
    assert translation._(each.task) in repr(each)
    assert "<code>" in each._repr_html_()


@pytest.mark.skipif(not speaks_portuguese(), reason="no .mo")
@EVERY
def test_every_text_has_a_portuguese_form(number):
    translation.language("pt")
    for text in texts_of(exercise(number)):
        assert translation._(text) != text
        assert set(re.findall(r"`[^`]+`", text)) == set(re.findall(r"`[^`]+`", translation._(text)))


# ------------------------------------------------------------------------------------------------- right and not tried


@EVERY
def test_solution_is_right(number, spoken):
    began = time.process_time()
    result = exercise(number).check(exercise(number).right)
    assert time.process_time() - began < 2
    assert result.outcome == "right"
    assert translation._("✓ Right") in result.heading
    assert translation._(exercise(number).why) in repr(result)
    assert json.loads(Path("my_progress.json").read_text())["exercises"][number]["solved"] is True


@EVERY
def test_solution_never_gives_nan(number):
    each = exercise(number)
    for arguments in each.inputs:
        assert not np.isnan(check.result_of(each.right, arguments)).any()


@EVERY
def test_stub_is_not_tried_yet(number, spoken):
    result = run(exercise(number).stub)
    assert result.outcome == "not tried"
    assert translation._("○ Not tried yet") in result.heading
    assert f'exercise("{number}").hint()' in repr(result)
    assert (translation._(exercise(number).task) in repr(result)) == (spoken == "pt")
    assert not Path("my_progress.json").exists()


@pytest.mark.parametrize("returned", [None, ..., (..., ...), [None, 1.0]])
def test_nothing_returned_is_not_tried(returned):
    assert exercise("1.7").check(lambda rewards: returned).outcome == "not tried"


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        ("1.1", lambda p: np.float32(-sum(x * math.log(x) for x in p.tolist() if x > 0))),
        ("1.2", lambda x: np.sum(x)),  # fails on a tensor: an array is tried
        ("1.2", lambda x: torch.sum(x).requires_grad_()),
        ("1.3", lambda z, tau: tuple(torch.softmax(z / tau, 0))),
        ("1.4", lambda p, top: np.int64(exercise("1.4").right(p, top))),
        ("1.7", lambda rewards: torch.stack([rewards.mean(), rewards.mean(dim=1).std() / len(rewards) ** 0.5])),
        ("3.8", lambda row, q, g, eos: exercise("3.8").right(row, q, g, eos).tolist()),
    ],
)
def test_numbers_arrays_tensors_and_lists_are_alike(number, answer):
    assert exercise(number).check(answer).outcome == "right"


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.filterwarnings("ignore")
@EVERY
def test_every_mistake_gets_exactly_its_own_message(number, spoken):
    each = exercise(number)
    messages = [translation._(mistake.message) for mistake in each.mistakes]
    ways = [(message, way) for mistake, message in zip(each.mistakes, messages, strict=True) for way in mistake.ways]
    for message, way in ways:
        result = each.check(way)
        assert result.outcome == "wrong"
        assert [text for text in messages if text in repr(result)] == [message]
    print(f"{number}: each of {len(messages)} mistakes, in {len(ways)} ways, gets its own message")


def test_count_of_mistakes():
    mistakes = [mistake for each in all_exercises().values() for mistake in each.mistakes]
    print(f"{len(all_exercises())} exercises, {len(mistakes)} mistakes, {len(BANK)} wrong answers in the bank")
    assert len({mistake.message for mistake in mistakes}) == len(mistakes)


@pytest.mark.filterwarnings("ignore")  # theirs: divisions by zero, tensors taken for arrays
@pytest.mark.parametrize("wrong", BANK, ids=str)
def test_wrong_answer_is_named(wrong):
    each, began = exercise(wrong.number), time.perf_counter()
    result = each.check(wrong.function)
    assert time.perf_counter() - began < 2
    assert result.outcome == "wrong"
    assert wrong.says in repr(result)
    named = [mistake.message for mistake in each.mistakes if mistake.message in repr(result)]
    assert len(named) <= 1


@pytest.mark.filterwarnings("ignore")
@EVERY
def test_bank_holds_three_wrong_answers_and_every_mistake(number):
    each, answers = exercise(number), [wrong for wrong in BANK if wrong.number == number]
    assert len(answers) >= 3
    assert len({wrong.function.__name__ for wrong in answers}) == len(answers)
    results = [repr(each.check(wrong.function)) for wrong in answers]
    assert not [mistake.message for mistake in each.mistakes if not any(mistake.message in text for text in results)]


@pytest.mark.parametrize("value", [math.nan, 12345.678, [0.125] * 3])
@EVERY
def test_nonsense_is_not_taken_for_a_mistake(number, value):
    each = exercise(number)
    result = each.check(lambda *arguments: value)
    named = [mistake.message for mistake in each.mistakes if mistake.message in repr(result)]
    if number == "2.5" and value != value:  # there one mistake gives NaN whatever comes in
        assert len(named) == 1
    else:
        assert not named
        assert "Called as" in repr(result)


@pytest.mark.filterwarnings("ignore")
def test_a_mistake_is_named_although_an_edge_is_wrong_too():
    assert "in bits" in repr(exercise("1.1").check(lambda p: -(p * p.log2()).sum()))  # NaN where a token is impossible
    assert "in bits" in repr(exercise("1.8").check(lambda pi, ref: (pi * (pi / ref).log2()).sum()))
    assert "multiplied by τ" in repr(exercise("1.3").check(lambda z, tau: (z * tau).exp() / (z * tau).exp().sum()))
    assert "divides by n." in repr(exercise("2.7").check(lambda r: (r - r.mean()) / r.std(correction=0)))


def test_two_mistakes_at_once_are_told_in_numbers():
    result = exercise("1.2").check(lambda x: 1.0 + x.mean())
    assert "sequence_log_probability(torch.tensor([-2.79, -0.63, -1.89]))" in repr(result)
    assert "It returns `-0.77`; expected is `-5.31`" in repr(result)


def test_a_wrong_shape_and_nan_are_told():
    assert "It returns the shape (1,), `[-5.31]`; expected is the shape ()" in repr(
        exercise("1.2").check(lambda x: x.sum()[None])
    )
    assert "NaN comes from" in repr(exercise("1.2").check(lambda x: x.sum() * torch.nan))


def test_right_but_for_an_edge_is_not_right():
    result = exercise("1.2").check(lambda x: x.sum() if len(x) else None)
    assert result.outcome == "wrong"
    assert "returns nothing here" in repr(result)


# ----------------------------------------------------------------------------------------------- answers that misbehave


@EVERY
def test_an_exception_is_told_with_its_line(number, spoken):
    def answer(*arguments):
        return arguments[0] + undefined  # noqa: F821

    result = exercise(number).check(answer)
    assert result.outcome == "wrong"
    assert "NameError: name 'undefined' is not defined" in repr(result)
    assert "return arguments[0] + undefined" in repr(result)
    assert "Traceback" not in repr(result)


@EVERY
def test_changed_arguments_are_told(number, spoken):
    each = exercise(number)

    def answer(*arguments):
        result = copy.deepcopy(each.right(*arguments))
        for argument in arguments:
            if isinstance(argument, torch.Tensor | np.ndarray):
                argument[...] = 0
            elif isinstance(argument, list):
                argument.append(argument)
        return result

    if all(isinstance(argument, int | float) for argument in each.inputs[0]):
        assert each.check(answer).outcome == "right"  # numbers cannot be changed
    else:
        message = translation._(
            "The numbers are right, but your function changes its argument. Work on a copy: `x.clone()`."
        )
        assert message in repr(each.check(answer))


@EVERY
def test_printing_instead_of_returning_is_told(number, spoken, capsys):
    def answer(*arguments):
        print("my <result>")

    result = exercise(number).check(answer)
    assert result.outcome == "wrong"
    assert translation._("Your function printed:") in repr(result)
    assert "my <result>" in repr(result)
    assert "my &lt;result&gt;" in result._repr_html_()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("0.69", "It returns a text"),
        ((x for x in [0.5, 0.5]), "It returns a generator"),
        (0.5 + 1j, "complex numbers"),
        (torch.tensor(1j), "complex numbers"),
        ({"a": 1.0}, "object of type `dict`"),
        ([1.0, [2.0, 3.0]], "different shapes"),
        (np.array(["a"]), "object of type `ndarray`"),
        (10**400, "object of type `int`"),
        (print, "object of type `builtin_function_or_method`"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
@EVERY
def test_other_than_numbers_is_told(number, value, says):
    result = exercise(number).check(lambda *arguments: value)
    assert result.outcome == "wrong"
    assert says in repr(result)


@EVERY
def test_arguments_that_do_not_fit_are_told(number, spoken):
    result = exercise(number).check(lambda: 1.0)
    assert f"`{inspect.signature(exercise(number).right)}`" in repr(result)
    assert result.outcome == "wrong"


@pytest.mark.parametrize("answer", [0.5, ..., None, torch.ones(2), "entropy_in_nats"])
def test_what_is_no_function_is_told(answer, spoken):
    assert "`entropy_in_nats`" in repr(exercise("1.1").check(answer))


def endless_recursion(*arguments):
    return endless_recursion(*arguments)


class RudeError(Exception):
    def __str__(self):
        raise RuntimeError


def raises(error):
    def answer(*arguments):
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (endless_recursion, "RecursionError"),
        (lambda *arguments: sys.exit(1), "asks Python to exit"),
        (raises(RudeError()), "It raises RudeError"),
        (raises(GeneratorExit()), "It raises GeneratorExit"),
        (raises(ValueError("<b>`x`</b>")), "<b>`x`</b>"),
        (raises(MemoryError()), "MemoryError"),
        (math.sqrt, "It raises"),
        (lambda *arguments: arguments[0][99], "It raises"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_rude_answers_are_reported(answer, says):
    result = exercise("1.2").check(answer)
    assert result.outcome == "wrong"
    assert says in repr(result)
    assert "<b>`" not in result._repr_html_()


def test_html_from_a_learner_is_escaped():
    page = Shown("<i>head</i>", ("`<b>` & <script>",), "<pre>")._repr_html_()
    assert "<i>" not in page
    assert "<script>" not in page
    assert "<code>&lt;b&gt;</code> &amp; &lt;script&gt;" in page
    assert "&lt;pre&gt;" in page


def test_long_prints_are_cut():
    result = exercise("1.2").check(lambda x: [print("word " * 100) for _ in range(100)] and x.sum())
    assert result.outcome == "right"
    assert len(result.code) <= 1000


# ----------------------------------------------------------------------------------------------------- loops and Ctrl-C


def loops(*arguments):
    while True:
        pass


def loops_and_catches(*arguments):
    while True:
        try:
            sum(range(1000))
        except:  # noqa: E722
            continue


def sleeps(*arguments):
    time.sleep(30)


def prints_for_ever(*arguments):
    while True:
        print("again")


@pytest.mark.parametrize("answer", [loops, loops_and_catches, sleeps, prints_for_ever])
def test_a_loop_is_stopped(answer, spoken):
    handler, began = signal.getsignal(signal.SIGINT), time.perf_counter()
    result = exercise("1.2").check(answer)
    assert 2 <= time.perf_counter() - began < 2.5
    assert result.outcome == "wrong"
    assert translation._(
        "Your function was stopped after {seconds:.0f} seconds. Look for a loop that never ends."
    ).format(seconds=2) in repr(result)
    assert signal.getsignal(signal.SIGINT) is handler
    time.sleep(0.3)  # a stray interrupt would come now


def test_a_loop_is_stopped_where_threads_cannot_be_signalled(monkeypatch):
    monkeypatch.delattr(signal, "pthread_kill", raising=False)  # as on Windows
    assert "stopped after 2 seconds" in repr(exercise("1.2").check(loops))
    time.sleep(0.3)


@pytest.fixture
def python_handles_ctrl_c():
    """As in a notebook: a shell starts what runs in the background with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_still_works(python_handles_ctrl_c):
    handler = python_handles_ctrl_c
    with pytest.raises(KeyboardInterrupt):
        exercise("1.2").check(lambda x: signal.raise_signal(signal.SIGINT))
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert sys.stdout is not None
    assert not isinstance(sys.stdout, limits.Kept)


def test_no_interrupt_arrives_after_the_return():
    for _ in range(20):  # the limit is reached just as the function returns
        with contextlib.suppress(limits.TimeIsUp):
            limits.call_within(0.01, lambda: time.sleep(0.01))
    for _ in range(20):
        assert limits.call_within(0.02, lambda: 7) == 7
    time.sleep(0.3)


def test_off_the_main_thread_there_is_no_limit():
    found = []
    thread = threading.Thread(target=lambda: found.append(exercise("1.2").check(exercise("1.2").right)))
    thread.start()
    thread.join()
    assert found[0].outcome == "right"


CELLS = [
    "from course_helpers.exercises import exercise",
    'def f(x):\n    while True:\n        pass\n\n\nexercise("1.2").check(f)',
    'def f(x):\n    return x + missing\n\n\nexercise("1.2").check(f)',
    'exercise("1.2").check(lambda x: x.sum())',
]


def test_in_a_kernel(tmp_path):
    """A notebook's kernel handles interrupts in a way of its own."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = ["".join(output.data["text/plain"] for output in cell.outputs) for cell in notebook.cells[1:]]
    assert "stopped after 2 seconds" in shown[0]
    assert "In line 2 of the cell: `return x + missing`" in shown[1]
    assert "✓ Right" in shown[2]
    assert "<code>return x + missing</code>" in notebook.cells[2].outputs[0].data["text/html"]


# ---------------------------------------------------------------------------------------------------- hints, solutions


@EVERY
def test_hints_escalate_and_keep_the_solution(number, spoken):
    each = exercise(number)
    shown = [each.hint() for _ in range(len(each.hints) + 1)]
    assert [translation._(text) in repr(hint) for text, hint in zip(each.hints, shown, strict=False)] == [True] * len(
        each.hints
    )
    assert repr(shown[-1]) == repr(shown[-2])
    assert f'exercise("{number}").solution()' in repr(shown[-1])
    assert f'exercise("{number}").solution()' not in repr(shown[0])
    body = inspect.getsource(each.right).split('"""')[2]
    lines = [line.strip().removeprefix("return ") for line in body.splitlines() if line.strip()]
    for hint in shown:
        assert not [line for line in lines if line in repr(hint)]
    assert json.loads(Path("my_progress.json").read_text())["exercises"][number] == {
        "solved": False,
        "tries": 0,
        "hints": len(each.hints),
    }


@EVERY
def test_solution_shows_code_that_is_right(number, spoken):
    shown = exercise(number).solution()
    names = {"torch": torch, "np": np, "math": math}
    exec(shown.code, names)
    assert exercise(number).check(names[exercise(number).right.__name__]).outcome == "right"
    assert translation._(exercise(number).why) in repr(shown)
    assert inspect.signature(names[exercise(number).right.__name__]) == inspect.signature(exercise(number).right)


# ------------------------------------------------------------------------------------------------------------- progress


def test_tries_are_counted_and_solved_stays():
    each = exercise("1.2")
    each.check(lambda x: x.mean())
    each.check(each.right)
    each.check(lambda x: x.mean())
    assert json.loads(Path("my_progress.json").read_text())["exercises"]["1.2"] == {
        "solved": True,
        "tries": 3,
        "hints": 0,
    }


def test_what_is_wrong_with_the_file_is_said():
    Path("my_progress.json").write_text("{")
    assert "my_progress.damaged.json" in repr(exercise("1.2").check(lambda x: x.mean()))
    assert Path("my_progress.damaged.json").read_text() == "{"


# ------------------------------------------------------------------------------------- solutions, checked independently


def solution(number):
    return exercise(number).right


def test_lesson_01_agrees_with_sampling_toy_and_models():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        z = torch.randn(7, generator=generator, dtype=torch.float64)
        other = torch.randn(7, generator=generator, dtype=torch.float64).softmax(0)
        pi, tau = z.softmax(0), 0.3 + torch.rand((), generator=generator).item()
        ids, p = torch.randint(7, (5,), generator=generator).tolist(), torch.rand((), generator=generator).item()
        assert torch.isclose(solution("1.1")(pi), sampling.entropy(pi))
        assert torch.isclose(solution("1.2")(pi.log()).exp(), pi.prod())
        assert torch.allclose(solution("1.3")(z, tau), sampling.softmax(sampling.apply_temperature(z, tau)))
        assert solution("1.4")(pi, p) == torch.isfinite(sampling.keep_top_p(z, p)).sum()
        assert torch.equal(solution("1.5")(z, ids, 1.3), sampling.penalize_repetition(z, ids, 1.3))
        assert torch.isclose(solution("1.8")(pi, other), toy.kl(pi, other))
    outputs = [[{"label": "B", "score": 0.7}, {"label": "A", "score": 0.3}], [{"label": "A", "score": 0.9}]]
    assert solution("1.6")(outputs, "A") == models.score(outputs, "A")


def test_expected_reward_agrees_with_interval_and_with_its_own_scatter():
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(5, 3))
    mean, error = solution("1.7")(rewards)
    interval = evaluate.Interval.of(rewards)
    assert math.isclose(mean, interval.mean)
    assert math.isclose(evaluate.NORMAL_95 * error, interval.half)
    # many experiments with luck shared by the rewards of one query: the error is what the means scatter by
    tables = rng.normal(size=(4000, 10, 1)) + 0.5 * rng.normal(size=(4000, 10, 6))
    found = np.array([solution("1.7")(table) for table in tables])
    assert math.isclose((found[:, 1] ** 2).mean() ** 0.5, found[:, 0].std(), rel_tol=0.05)


def test_lesson_02_agrees_with_toy_and_autograd():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        theta, r = torch.randn(2, 4, generator=generator, dtype=torch.float64)
        drawn = torch.randint(4, (6,), generator=generator)
        scores = torch.autograd.functional.jacobian(lambda t: t.log_softmax(0), theta)
        assert torch.allclose(solution("2.1")(theta, r), toy.policy_gradient(theta, r))
        assert torch.allclose(torch.stack([solution("2.2")(theta, y) for y in range(4)]), scores)
        assert torch.allclose(solution("2.3")(theta, drawn, r[drawn]), toy.estimates(theta, drawn, r[drawn]))
        moved = theta + 0.1 * toy.policy_gradient(theta, r)
        assert torch.allclose(solution("2.4")(theta, toy.policy_gradient(theta, r), 0.1), toy.policy(moved))
        leaf = theta.clone().requires_grad_()
        solution("2.5")(leaf.log_softmax(0)[drawn], r[drawn]).backward()
        assert torch.allclose(-leaf.grad, toy.estimates(theta, drawn, r[drawn]))
        assert torch.allclose(solution("2.6")(r), toy.leave_one_out(r))
        assert torch.allclose(solution("2.7")(r), toy.whiten(r))
        assert torch.allclose(solution("2.8")(r), toy.reward_to_go(r))


def test_baseline_of_others_keeps_the_mean_of_the_estimate():
    theta, r = reals([-0.5, 1.0, 0.5]), reals([1.0, 0.3, -1.0])
    pi, mean = theta.softmax(0), torch.zeros(3, dtype=torch.float64)
    for batch in itertools.product(range(3), repeat=3):  # every batch of three, weighted by its probability
        drawn = torch.tensor(batch)
        mean += pi[drawn].prod() * solution("2.3")(theta, drawn, solution("2.6")(r[drawn]))
    assert torch.allclose(mean, toy.policy_gradient(theta, r))


def test_lesson_03_agrees_with_the_trainer():
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for _ in range(20):
        mask = (torch.arange(5) < torch.randint(1, 6, (3, 1), generator=generator)).double()
        new, ref, scores, A = numbers(3, 5), numbers(3, 5), numbers(3), numbers(5)
        expected = losses.token_rewards(scores, losses.kl_penalty(new, ref), 0.2, mask)
        assert torch.allclose(solution("3.1")(new, ref, scores, 0.2, mask), expected)
        advantages, _ = losses.advantages_and_returns(new, ref, 0.9, 0.7)
        assert torch.allclose(solution("3.2")(new[0], ref[0], 0.9, 0.7), advantages[0])
        assert torch.isclose(solution("3.3")(new, mask), losses.masked_mean(new, mask))
        ratio = solution("3.4")(new[0], ref[0])
        assert torch.allclose(ratio * ref[0].exp(), new[0].exp())
        assert torch.allclose(solution("3.5")(ratio, A, 0.2), losses.policy_losses(new[0], ref[0], A, 0.2).tokens)
        kl, controller = abs(float(A[0])) * 6, AdaptiveKLController(0.2, target=6.0, horizon=1000)
        controller.update(kl, 64)
        assert math.isclose(solution("3.6")(0.2, kl, 6.0, 64, 1000), controller.value)
        responses = torch.randint(3, (4, 6), generator=generator).tolist()
        assert math.isclose(solution("3.7")(responses), evaluate.distinct_n(responses, 2))
        row = torch.randint(4, (9,), generator=generator)
        assert torch.equal(solution("3.8")(row, 3, 6, 0), until_end(row[3:], 0))


# ------------------------------------------------------------------------------------------------------------- lessons


HEADING = re.compile(r"\*\*Exercise (\S+) · (.+?)\*\* · (\w+) · (\d+) minutes?\n\n(.+)", re.DOTALL)


def exercises_in(path):
    """Each stub of a notebook with the markdown cell before it."""
    cells = nbformat.read(path, as_version=4).cells
    pairs = itertools.pairwise(cells)
    return [(text.source, code.source) for text, code in pairs if re.search(r'^exercise\("', code.source, re.MULTILINE)]


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if exercises_in(path)], ids=lambda path: path.stem)
def test_lessons_say_what_the_code_says(path):
    numbers = []
    for text, code in exercises_in(path):
        number, title, difficulty, minutes, task = HEADING.fullmatch(text).groups()
        each = exercise(number)
        assert (title, difficulty, int(minutes), task) == (each.title, each.difficulty, each.minutes, each.task)
        assert code.endswith(each.stub)
        numbers.append(number)
    assert numbers == [number for number, each in all_exercises().items() if each.lesson == path.name[:2]]


def test_an_exercise_can_be_written_in_a_few_lines():
    """What a new lesson has to bring along."""
    twice = Exercise(
        number="8.1",
        title="twice",
        task="`twice(x)`",
        difficulty="easy",
        minutes=1,
        right=lambda x: 2 * x,
        why="twice",
        inputs=((reals([1.0, 3.0]),),),
        mistakes=(Mistake("squared", lambda x: x**2),),
        hints=("add", "x + x"),
    )
    assert twice.check(lambda x: x + x).outcome == "right"
    assert "squared" in repr(twice.check(lambda x: x * x))
    assert twice.lesson == "08"


def test_lesson_04_agrees_with_toy_and_dpo():
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for beta in (0.1, 0.5, 1.0, 3.0):
        pi_ref, r = numbers(4, 8).softmax(1), numbers(4, 8)
        pi = solution("4.2")(pi_ref, r, beta)
        assert torch.allclose(solution("4.1")(pi_ref, r, beta), toy.partition(pi_ref, r, beta))
        assert torch.allclose(pi, toy.optimal_policy(pi_ref, r, beta))
        assert torch.allclose(solution("4.3")(pi, pi_ref, beta, toy.log_partition(pi_ref, r, beta)), r)
        expected = toy.preference_probability(r[0, :, None], r[0, None, :])
        assert torch.allclose(solution("4.4")(r[0]), expected)
        pairs = 10 * numbers(4, 6)
        margins = beta * ((pairs[0] - pairs[2]) - (pairs[1] - pairs[3]))
        assert torch.isclose(solution("4.5")(*pairs, beta), dpo.dpo_loss(*pairs, beta).mean())
        assert torch.allclose(solution("4.6")(*pairs, beta), dpo.gradient_weight(margins, beta))
        assert torch.allclose(solution("4.7")(*pairs, beta), dpo.dpo_loss(*pairs, beta, "ipo"))
    logits, ids = numbers(3, 6, 5), torch.randint(5, (3, 6), generator=generator)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    shifted = logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    per_token = torch.cat([torch.zeros(3, 1, dtype=torch.float64), shifted], dim=1)
    assert torch.allclose(solution("4.8")(per_token, mask), dpo.sequence_log_probs(logits, ids, mask))


def test_the_weight_of_a_pair_is_what_autograd_says():
    pairs, beta = 3 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0.4
    log_w, log_l = pairs[0].clone().requires_grad_(), pairs[1].clone().requires_grad_()
    solution("4.5")(log_w, log_l, *pairs[2:], beta).backward()
    weight = solution("4.6")(*pairs, beta)
    assert torch.allclose(log_w.grad, -weight * beta / 5)  # a fifth: the loss is a mean of five
    assert torch.allclose(log_l.grad, weight * beta / 5)


def test_lesson_05_agrees_with_peft():
    peft = pytest.importorskip("peft")
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 4, bias=False)
    settings = peft.LoraConfig(r=3, lora_alpha=7, target_modules=["0"], init_lora_weights=False)
    model = peft.get_peft_model(torch.nn.Sequential(layer), settings)
    trained = sum(weights.numel() for weights in model.parameters() if weights.requires_grad)
    assert trained == solution("5.3")(1, [(6, 4)], 3)
    x = torch.randn(5, 6, generator=generator)
    found = dict(model.named_parameters())
    A, B = (next(w for name, w in found.items() if f"lora_{which}" in name).T for which in "AB")
    W = next(w for name, w in found.items() if "lora" not in name).T
    assert torch.allclose(solution("5.4")(x, W, A, B, 7, 3), model(x), atol=1e-6)


def test_lesson_05_agrees_with_numpy_and_with_what_it_promises():
    rng = np.random.default_rng(0)
    for _ in range(20):
        ours, theirs = torch.tensor(rng.integers(3, size=(2, 9)), dtype=torch.float64)
        assert math.isclose(solution("5.7")(ours, theirs) + solution("5.7")(theirs, ours), 1)
        rewards = torch.stack([ours, theirs], dim=1)
        triples = np.array(solution("5.1")(rewards))
        assert (rewards[triples[:, 0], triples[:, 1]] > rewards[triples[:, 0], triples[:, 2]]).all()
        assert len(triples) == (ours != theirs).sum()
        prompts = rng.integers(6, size=12).tolist()
        rows = solution("5.2")(prompts, [1, 4])
        assert {prompts[row] for row in rows} & {1, 4} == set()
        assert {prompts[row] for row in range(12) if row not in rows} <= {1, 4}
        pairs = torch.tensor(rng.normal(size=(4, 9)))
        chosen = dpo.implicit_rewards(pairs[0], pairs[2], 0.2)
        right = chosen > dpo.implicit_rewards(pairs[1], pairs[3], 0.2)
        assert math.isclose(solution("5.6")(*pairs), right.double().mean())
        values, drawn = torch.tensor(rng.normal(size=9)), torch.tensor(rng.integers(9, size=(50, 9)))
        expected = np.percentile(values.numpy()[drawn.numpy()].mean(1), [2.5, 97.5])
        assert np.allclose(solution("5.8")(values, drawn), expected)


def test_labels_are_the_response_as_the_rollout_ends_it():
    from course_helpers.ppo.rollout import until_end

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        row = torch.randint(4, (9,), generator=generator)
        labels = solution("5.5")(row, 3, 0)
        assert torch.equal(labels[labels != -100], until_end(row[3:], 0))
        assert (labels[:3] == -100).all()


def test_lesson_06_agrees_with_toy_and_the_slope_of_the_frontier_is_beta():
    generator = torch.Generator().manual_seed(0)
    for beta in (0.2, 0.7, 2.0):
        theta, r = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        pi_ref = theta.softmax(0)
        pi = toy.optimal_policy(pi_ref, r, beta)
        points = [solution("6.1")(pi_ref, r, price) for price in (beta - 1e-5, beta, beta + 1e-5)]
        assert torch.allclose(torch.stack(points[1]), torch.stack([toy.expectation(pi, r), toy.kl(pi, pi_ref)]))
        (low, least), _, (high, most) = points
        assert math.isclose((high - low) / (most - least), beta, rel_tol=1e-4)
        other = (theta + torch.randn(6, generator=generator, dtype=torch.float64)).softmax(0)
        assert toy.objective(other, pi_ref, r, beta) < points[1][0] - beta * points[1][1]


def test_what_pareto_keeps_is_what_nothing_beats():
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = rng.integers(4, size=(7, 2)).astype(float)  # many ties
        kept = solution("6.3")(*torch.tensor(points).T)
        for (reward, kl), keep in zip(points, kept, strict=True):
            beaten = [(y >= reward and x <= kl) and (y, x) != (reward, kl) for y, x in points]
            assert bool(keep) != any(beaten)
    pi_ref, r = torch.tensor(rng.dirichlet(np.ones(5))), torch.tensor(rng.normal(size=5))
    curve = torch.stack([torch.stack(solution("6.1")(pi_ref, r, beta)) for beta in (0.1, 0.3, 1.0, 3.0, 10.0)])
    assert solution("6.3")(*curve.T).all()


def test_group_advantages_are_those_of_the_reward_that_trl_adds_up():
    """Rows sum to 0, a shift of a prompt's rewards changes nothing, and their standard deviation is nearly 1."""
    rewards = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    advantages = solution("6.2")(rewards)
    assert torch.allclose(advantages.sum(1), torch.zeros(5, dtype=torch.float64))
    assert torch.allclose(solution("6.2")(rewards + torch.arange(5.0)[:, None]), advantages)
    assert torch.allclose(advantages.std(1), torch.ones(5, dtype=torch.float64), atol=1e-3)


def test_best_of_n_agrees_with_every_way_to_draw():
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 4):
        pi_ref, r = torch.tensor(rng.dirichlet(np.ones(4))), torch.tensor(rng.normal(size=4))
        expected = torch.zeros(4, dtype=torch.float64)
        for drawn in itertools.product(range(4), repeat=n):
            expected[max(drawn, key=lambda y: r[y])] += pi_ref[list(drawn)].prod()
        found = solution("6.4")(pi_ref, r, n)
        assert torch.allclose(found, expected)
        assert toy.kl(found, pi_ref) <= solution("6.5")(n) + 1e-12
        values = torch.tensor(rng.normal(size=(7, 2)))
        kept = [max(chosen)[1] for chosen in itertools.combinations(values.tolist(), n)]
        assert math.isclose(solution("6.6")(*values.T, n), np.mean(kept))
        second, mean = torch.tensor(rng.normal(size=4)), torch.zeros((), dtype=torch.float64)
        for drawn in map(list, itertools.product(range(4), repeat=5)):  # over all batches of five draws: no bias
            mean += pi_ref[drawn].prod() * solution("6.6")(r[drawn], second[drawn], n)
        assert torch.isclose(mean, (found * second).sum())
    edges = torch.linspace(0, 1, 100_001, dtype=torch.float64) ** 8  # many equally likely responses reach the bound
    p = edges.diff()
    assert math.isclose((p * (p * len(p)).log()).sum(), solution("6.5")(8), abs_tol=1e-3)


def test_lesson_06_agrees_with_the_frontier():
    best = pytest.importorskip("course_helpers.frontier.best_of_n")
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 5, 8):
        theta, r = torch.randn(2, 8, generator=generator, dtype=torch.float64)
        assert math.isclose(solution("6.5")(n), float(best.kl_bound(n)), abs_tol=1e-12)
        assert torch.allclose(solution("6.4")(theta.softmax(0), r, n), best.distribution(theta.softmax(0), r, n))
        measured = torch.randn(8, generator=generator, dtype=torch.float64)
        assert math.isclose(solution("6.6")(r, measured, n), float(best.expected_best(r, n, measured)))


def test_paired_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    easy = 3 * rng.normal(size=(2000, 200))  # what both policies owe to the prompt
    ours, theirs = 0.1 + easy + rng.normal(size=easy.shape), easy + rng.normal(size=easy.shape)
    held = 0
    for one, other in zip(torch.tensor(ours), torch.tensor(theirs), strict=True):
        mean, half = solution("6.7")(one, other)
        held += abs(mean - 0.1) <= half
    assert 0.935 <= held / 2000 <= 0.965
    interval = evaluate.Interval.of((ours[0] - theirs[0])[:, None])
    assert math.isclose(solution("6.7")(torch.tensor(ours[0]), torch.tensor(theirs[0]))[1], interval.half, rel_tol=1e-4)


def test_the_turning_point_is_where_the_fitted_curve_is_highest():
    kl = torch.linspace(0.5, 60.0, 9, dtype=torch.float64)
    for a, b in ((1.0, 0.4), (2.0, 1.5), (0.8, 0.25)):
        d = kl.sqrt()
        found = solution("6.8")(kl, d * (a - b * d.log()))
        grid = torch.linspace(0.01, 20.0, 400_000, dtype=torch.float64)
        assert math.isclose(found, grid[(grid * (a - b * grid.log())).argmax()] ** 2, rel_tol=1e-3)


def parses(seeds, folder):
    """What the parser of InstructLab says of a version 2 skill with these seeds."""
    taxonomy = pytest.importorskip("instructlab.schema.taxonomy")
    path = folder / "compositional_skills" / "reviews" / "qna.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    skill = {"version": 2, "task_description": "Praise.", "created_by": "someone", "seed_examples": seeds}
    path.write_text(yaml.safe_dump(skill, sort_keys=False, width=200))
    parser = taxonomy.TaxonomyParser(schema_version=0, message_format=taxonomy.TaxonomyMessageFormat.LOGGING)
    return parser.parse(path).errors == 0


def test_valid_seeds_are_those_that_the_parser_takes(tmp_path):
    many = [{"question": f"Is {k} good?", "answer": "Yes.", "context": "Film."} for k in range(6)]
    more = [many[:5], many, many[:4], many[:5] + many[:1], [*many, {"question": "Why", "answer": "So."}]]
    more += [[*many, {"question": "Why?"}], [*many, {"answer": "So."}], [*many, many[0] | {"id": "7"}]]
    more += [
        [*many, many[0] | {"question": ""}],
        [*many, many[0] | {"context": ""}],
        [*many, many[0] | {"answer": "No."}],
    ]
    verdicts = []
    for seeds in [*(seeds for (seeds,) in exercise("7.1").inputs), *more]:
        verdicts.append(parses(seeds, tmp_path))
        assert solution("7.1")(seeds) == verdicts[-1]
    assert sorted(set(verdicts)) == [False, True]


def test_the_bad_seed_is_the_one_that_a_reader_finds():
    assert [solution("7.2")(*given) for given in exercise("7.2").inputs] == [4, 1, 6, 3]  # read by hand


def test_a_funnel_leaves_what_it_leaves_one_draft_at_a_time():
    rng, kept = np.random.default_rng(0), [0.9, 0.8, 0.95]
    passed = (rng.random((300_000, 3)) < kept).all(1).mean()
    assert math.isclose(solution("7.3")(1, 1, kept), passed, rel_tol=0.01)
    assert math.isclose(solution("7.3")(100, 1, [0.9] * 5), 59.049)  # what its explanation says


def test_labels_of_rows_are_learned_as_completions_alone():
    generator = torch.Generator().manual_seed(0)
    prompts, completions, end = [[5, 6, 7], [8]], [[4], [2, 3]], 0
    labels = solution("7.4")(prompts, completions, end)
    logits = torch.randn(2, labels.shape[1], 9, generator=generator, dtype=torch.float64)
    terms = []
    for row, (p, c) in enumerate(zip(prompts, completions, strict=True)):  # place by place, as a model reads
        log_p = logits[row].log_softmax(-1)
        terms += [-log_p[len(p) + k - 1, token] for k, token in enumerate([*c, end])]
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert torch.isclose(loss, torch.stack(terms).mean())
    for row in range(2):  # the exercise of lesson 05 masks a row that is already there
        prompt = prompts[row]
        ids = torch.tensor(prompt + completions[row] + [end] * (labels.shape[1] - len(prompt) - len(completions[row])))
        assert torch.equal(solution("5.5")(ids, len(prompt), end), labels[row])


def test_perplexity_ratio_and_replay_are_what_they_are_defined_as():
    rng = np.random.default_rng(0)
    lengths = (3, 1, 5)
    before, after = ([rng.normal(size=n) - 3 for n in lengths] for _ in range(2))
    mask = torch.tensor([[float(k < n) for k in range(5)] for n in lengths], dtype=torch.float64)
    padded = (
        torch.tensor(np.stack([np.pad(x, (0, 5 - len(x)), constant_values=9.0) for x in rows]))
        for rows in (before, after)
    )
    old, new = (np.exp(-np.concatenate(rows).mean()) for rows in (before, after))
    assert math.isclose(solution("7.5")(*padded, mask), new / old)
    for new_rows, share in itertools.product((50, 600, 1234), (0.0, 0.1, 0.25, 0.5, 0.9)):
        replayed = solution("7.6")(new_rows, share)
        assert abs(replayed / (new_rows + replayed) - share) <= 0.5 / new_rows


def test_lesson_07_agrees_with_instruct():
    instruct = pytest.importorskip("course_helpers.instruct")
    for new, share in ((600, 0.25), (7, 0.5), (41, 0.1), (10, 0.0)):
        mixed = instruct.mix(range(new), [-1, -2, -3], share)
        assert sum(row < 0 for row in mixed) == solution("7.6")(new, share)
    tokenizer = models.load_policy("small")[1]
    reviews = [("Good acting.", "What is praised?", "The acting."), (None, "Why?", "It is fun.")]
    asked = [
        SimpleNamespace(context=context, question=question, answer=answer) for context, question, answer in reviews
    ]
    prompts = [tokenizer(instruct.prompt_of(example))["input_ids"] for example in asked]
    completions = [tokenizer(instruct.completion_of(example))["input_ids"] for example in asked]
    labels = solution("7.4")(prompts, completions, tokenizer.eos_token_id).tolist()
    for found, row in zip(labels, instruct.instruction_rows(tokenizer, asked), strict=True):
        padding = len(found) - len(row["labels"])
        assert found == row["labels"] + [-100] * padding
