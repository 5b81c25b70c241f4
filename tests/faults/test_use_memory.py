"""A machine with too little memory: told before, told in a sentence, nothing lost; then the same call goes through."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from course_helpers import memory, train
from course_helpers.memory import NotEnoughMemoryError, enough_memory_for, memory_for_lessons, memory_of_this_machine
from course_helpers.widgets.panel import trouble_in_words

ROOT = Path(__file__).parent.parent.parent
linux = pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's memory is Linux's")

# In a process of its own, which may take some more megabytes than it has and no more. A vocabulary of 60,000 makes one
# batch of logits larger than that.
CHILD = """
import json, resource, sys
from contextlib import contextmanager
import torch
from course_helpers import instruct, models
from course_helpers.ppo.rollout import generate_responses
from tests import dpo_runs, ppo_runs as runs

@contextmanager
def megabytes(more):
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more * 2**20, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

told = {}
def short(name, more, action):
    try:
        with megabytes(more):
            action()
    except Exception as error:
        frames = error.__cause__.__traceback__ if error.__cause__ else error.__traceback__
        told[name] = [type(error).__name__, str(error), repr(frames)]

torch.set_num_threads(1)
judge = models.load_judge("small", "cpu")
short("judge", 8, lambda: models.log_odds(judge, ["a film " * 60] * 256, batch_size=256))

wide = runs.gpt2(vocab_size=60_000)
trainer = runs.trainer(runs.with_head(wide), batch_size=64, mini_batch_size=32)
batch = runs.rollouts(0, count=64)
before, modes = runs.weights(trainer.model), [m.training for m in trainer.model.modules()]
short("step", 16, lambda: trainer.step(*batch))
after = runs.weights(trainer.model)
told["whole"] = all(bool(torch.equal(before[name], after[name])) for name in before)
told["no gradients"] = all(p.grad is None for p in trainer.model.parameters())
told["modes"] = modes == [m.training for m in trainer.model.modules()] and torch.is_grad_enabled()
told["modes"] &= len(torch.overrides._get_current_function_mode_stack()) == 0
told["later"] = float(trainer.step(*batch)["ppo/loss/total"])

queries = [torch.tensor([1, 2, 3])] * 1024
drawing = {"max_new_tokens": 2, "do_sample": True, "top_k": 0}
short("draw", 32, lambda: generate_responses(wide, queries, runs.PAD, **drawing))

model, tokenizer = dpo_runs.small_policy()
long = [{k: v * 20 if k != "prompt" else v for k, v in pair.items()} for pair in dpo_runs.PAIRS]
dpo = dpo_runs.trainer_of(sys.argv[1], model, tokenizer, long, batch_size=8)
short("dpo", 8, dpo.train)
dpo = dpo_runs.trainer_of(sys.argv[1], dpo_runs.small_policy()[0], tokenizer, long, batch_size=2)
told["dpo later"] = dpo.train().training_loss

start = runs.weights(model)
rows = instruct.review_rows([list(range(100))] * 32)
short("tune", 8, lambda: instruct.tune(model, tokenizer, rows, batch_size=32))
told["start"] = all(bool(torch.equal(start[n], p)) for n, p in model.named_parameters())
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    command = [sys.executable, "-c", CHILD, str(tmp_path_factory.mktemp("dpo"))]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@linux
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("step", "The memory does not suffice for this step. .*lower mini_batch_size.*gradient_checkpointing=True"),
        ("draw", "The memory does not suffice for drawing these responses. .*a smaller batch_size"),
        ("dpo", "The memory does not suffice for this training. .*activation_checkpointing=True, a smaller max_length"),
        ("tune", "The memory does not suffice for this training. The model given is as it was"),
        ("judge", "The memory does not suffice for judging these texts. .*a smaller batch_size"),
    ],
)
def test_a_lack_of_memory_is_a_sentence(told, what, words):
    kind, message, frames = told[what]
    assert kind == "NotEnoughMemoryError"
    assert re.match(words, message)
    assert frames == "None"  # a traceback would keep the tensors alive that were too many


@linux
def test_nothing_is_lost_and_the_same_call_goes_through_later(told):
    assert told["whole"]
    assert told["no gradients"]
    assert told["modes"]
    assert told["start"]
    assert told["later"] == pytest.approx(told["later"])  # a number, not NaN
    assert 0 < told["dpo later"] < 5


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:132] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=str,
)
def test_every_way_to_say_it_is_known(error):
    with (
        pytest.raises(NotEnoughMemoryError, match=r"suffice for this. Take less\."),
        enough_memory_for("this", "Take less."),
    ):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, enough_memory_for("this", "Take less."):
        raise error
    assert caught.value is error


def test_the_inner_sentence_is_the_one_that_counts():
    with (
        pytest.raises(NotEnoughMemoryError, match="inner"),
        enough_memory_for("outer", ""),
        enough_memory_for("inner", ""),
    ):
        raise MemoryError


def test_in_a_widget_it_is_a_sentence_too():
    assert trouble_in_words(NotEnoughMemoryError("The memory does not suffice.")) == "The memory does not suffice."


def test_the_command_line_says_what_is_kept(monkeypatch, capsys, tmp_path):
    def too_large(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr("course_helpers.runs.run.run", too_large)
    assert train.main(["dpo", "--folder", str(tmp_path / "run"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "The memory does not suffice for this run. The folder of the run is as its last checkpoint left it" in said
    assert "the same command goes on from there" in said


# ------------------------------------------------------------------------------------------------------------- before


@pytest.mark.parametrize(
    ("gigabytes", "words"),
    [
        (24.0, "24.0 GB of memory: enough for every lesson"),
        (3.0, "3.0 GB of memory: enough for every lesson"),
        (2.0, "2.0 GB of memory: too little for 05 (3 GB); close other programs, or use a larger machine"),
        (
            1.5,
            "1.5 GB of memory: too little for 03 (2 GB), 04 (2 GB), 05 (3 GB), 06 (2 GB), 07 (2 GB); "
            "close other programs",
        ),
    ],
)
def test_lesson_00_says_which_lessons_a_machine_is_too_small_for(gigabytes, words):
    assert memory_for_lessons(gigabytes).startswith(words)


def test_the_figures_are_those_of_the_readme():
    table = re.findall(
        r"^\| \[(\d\d) .*?([\d.]+) GB \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {number: float(figure) for number, figure in table} == memory.LESSONS


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    whole = memory_of_this_machine()
    (tmp_path / "none").write_text("max\n")
    (tmp_path / "small").write_text("2000000000\n")
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "missing", tmp_path / "none"))
    assert memory_of_this_machine() >= whole
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "none", tmp_path / "small"))
    assert memory_of_this_machine() == 2.0
