"""A full disk, a read-only course, a kill while something is saved: nothing is lost, a sentence says what to do.

Where the machine allows mounts of one's own, the disk is a real one of 30 MB that is filled to the last byte; elsewhere
the limit on the size of files stands for it.
"""

from __future__ import annotations

import os
import stat

import pytest

from tests.faults.places import answers, on_a_small_disk, on_read_only, own_mounts, python

FULL = (
    "cannot be written: the disk is full. What was kept before is whole. Free some space on that disk and do the same"
)
REFUSED = "Choose a folder that you may write to, or work in a copy of the course that is your own."
KILLS = 10  # of each of three kinds

COMMON = """
import errno, io, json, os, random, resource, signal, subprocess, sys, time, traceback, warnings
from contextlib import redirect_stderr
from pathlib import Path
warnings.simplefilter("ignore")
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging
from course_helpers import choices, progress, train
from course_helpers.dpo import saving
from course_helpers.dpo.training import lora_config
from course_helpers.models import load_policy
from course_helpers.ppo import AutoModelForCausalLMWithValueHead as WithHead
from course_helpers.ppo import state
from course_helpers.taxonomy import check_taxonomy, start_taxonomy
logging.disable_progress_bar()
logging.set_verbosity_error()
tokenizer = load_policy("small")[1]

def model(value=0.0):
    made = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=len(tokenizer), n_positions=32))
    for weights in made.parameters():
        weights.data.fill_(value)
    return made

def adapted(value=0.0):
    made = get_peft_model(model(), lora_config(model(), 2))
    for name, weights in made.named_parameters():
        if "lora" in name:
            weights.data.fill_(value)
    return made

def files(folder):
    found = [path for path in sorted(Path(folder).rglob("*")) if path.is_file() and path.name != "ballast"]
    return {str(path): path.read_bytes() for path in found if path.suffix != ".lock"}

def attempt(call):
    try:
        return "", str(call())
    except Exception as error:
        return type(error).__name__, str(error)

LITTLE = ("openings=6 max_new_tokens=4 second_judge=null evaluation_prompts=4 evaluation_count=1 sample_every=0 "
          "lora_rank=2 batch_size=4").split()
MORE = {"ppo": "steps=5 mini_batch_size=2 save_every=2".split(), "dpo": "pair_draws=1 save_every=2".split()}
def run(method, *where):
    heard = io.StringIO()
    with redirect_stderr(heard):
        try:
            code = train.main([method, *where, "--quiet", *LITTLE, *MORE[method]])
        except BaseException:
            traceback.print_exc()
            code = -1
    return code, heard.getvalue()
"""

# --------------------------------------------------------------------------------------------------------- a full disk

FILLING = """
def fill():
    if sys.argv[1] == "limit":
        return resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    with open("ballast", "wb", buffering=0) as file:
        for size in (1 << 16, 4096, 512, 64, 8, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC

def free():
    if sys.argv[1] == "limit":
        return resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.unlink("ballast")

book = choices.ChoiceBook("my_choices.jsonl")
WAYS = {
    "progress": lambda n: progress.note_quiz("01", f"question {n}", True),
    "choices": lambda n: book.put(choices.Choice("X", f"{n}" * 6000, "b", "A")),
    "state": lambda n: state.write("state.safetensors", {"x": torch.full((5000,), float(n))}, {"step": n}),
    "policy": lambda n: saving.save_policy(model(n), tokenizer, "policy"),
    "adapter": lambda n: saving.save_adapter(adapted(n), "adapter"),
    "PPO": lambda n: WithHead(model(n)).save_pretrained("with_head"),
    "taxonomy": lambda n: start_taxonomy(f"my_taxonomy_{n}"),
}
said = {}
for name, way in WAYS.items():
    way(0)
    before = files(".")
    fill()
    kind, words = attempt(lambda: way(1))
    after = files(".")
    free()
    changed = sorted(file for file in before if after.get(file) != before[file])
    more = sorted(after.keys() - before.keys())
    said[name] = {"kind": kind, "words": words, "changed": changed, "more": more, "again": attempt(lambda: way(1))[0]}
said["choices"]["kept"] = len(choices.read_choices("my_choices.jsonl"))
said["progress"]["kept"] = len(json.loads(Path("my_progress.json").read_text())["quizzes"]["01"])
said["taxonomy"]["valid"] = all(verdict.valid for verdict in check_taxonomy("my_taxonomy_1"))
said["policy"]["new"] = load_file("policy/model.safetensors")["transformer.wpe.weight"].max().item()

from course_helpers.runs.folder import RunFolder
log, seen = RunFolder.log, set()
def fill_at_step_3(self, step, **numbers):
    log(self, step, **numbers)
    if self.path.name == "run-ppo" and step == 1:  # a second process, with the same command, while this one trains
        child = os.fork()
        if not child:
            Path("second.json").write_text(json.dumps(run("ppo", "--folder", "run-ppo")))
            os._exit(0)
        os.waitpid(child, 0)
    if step == 3 and self.path.name not in seen:
        seen.add(self.path.name)
        fill()
RunFolder.log = fill_at_step_3
runs = {}
for method in ("ppo", "dpo"):
    folder = Path(f"run-{method}")
    row = dict(zip(("code", "words"), run(method, "--folder", folder.name), strict=True))
    free()
    row["model"], row["kept"] = (folder / "model").exists(), sorted(path.name for path in folder.glob("checkpoint/*"))
    row |= dict(zip(("again", "words again"), run(method, "--folder", folder.name), strict=True))
    row["steps"] = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    row["done"] = (folder / "evaluation.json").exists() and (folder / "model/adapter_model.safetensors").exists()
    row["left"] = sorted(path.name for path in folder.rglob("*unfinished*"))
    runs[method] = row
print(json.dumps({"said": said, "runs": runs, "second": json.loads(Path("second.json").read_text())}))
"""


@pytest.fixture(scope="module")
def on_full_disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    real = bool(own_mounts())
    before = on_a_small_disk(folder, 30_000) if real else ()
    mode = "disk" if real else "limit"
    return answers(python(COMMON + FILLING, folder, mode, before=before, seconds=400, HF_HUB_OFFLINE="1"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("state", f"state.safetensors {FULL}"),
        ("policy", f"policy {FULL}"),
        ("adapter", f"adapter {FULL}"),
        ("PPO", f"with_head {FULL}"),
        ("taxonomy", f"qna.yaml {FULL}"),
        ("choices", "The choices cannot be written to my_choices.jsonl: "),
        ("progress", "Your progress could not be kept in `my_progress.json`: "),
    ],
)
def test_a_full_disk_loses_nothing_and_is_said(name, words, on_full_disk):
    found = on_full_disk["said"][name]
    assert found["kind"] == {"choices": "SpokenError", "progress": ""}.get(name, "WriteError")
    assert words in found["words"]
    if name == "progress":
        assert found["words"].endswith("Free some space on that disk and do the same again.")
    if name != "choices":  # of an answer half a line may be there; the next one mends it
        assert found["changed"] == []
    assert found["more"] == []
    assert found["again"] == "", "after space is freed the same call works"


def test_what_could_not_be_kept_is_kept_once_there_is_space(on_full_disk):
    said = on_full_disk["said"]
    assert said["choices"]["kept"] == said["progress"]["kept"] == 2
    assert said["policy"]["new"] == 1.0
    assert said["taxonomy"]["valid"]


@pytest.mark.parametrize("method", ["ppo", "dpo"])
def test_a_run_on_a_full_disk_stops_with_a_sentence_and_goes_on_later(method, on_full_disk):
    found = on_full_disk["runs"][method]
    assert found["code"] == 2
    assert found["words"].count("\n") == 1, "a sentence, not a traceback"
    assert FULL in found["words"]
    assert not found["model"]
    assert {"ppo": "state.safetensors", "dpo": "checkpoint-2"}[method] in found["kept"]
    assert (found["again"], found["words again"]) == (0, "")
    assert found["done"]
    assert found["steps"] == list(range(1, len(found["steps"]) + 1)), "no step is missing or there twice"
    assert found["left"] == []


def test_a_second_training_into_the_same_folder_is_told_and_disturbs_nothing(on_full_disk):
    code, words = on_full_disk["second"]
    assert code == 2
    assert words.startswith("ppo: another process is training into run-ppo at this moment: wait until it is done")
    assert words.count("\n") == 1


# --------------------------------------------------------------------------------------------------- a read-only course

READING = """
import matplotlib.pyplot as plt
from course_helpers.widgets import PreferenceLabeller
figure = plt.figure()
figure.canvas.draw()
said = {
    "progress": attempt(lambda: progress.note_exercise("1.1", solved=True)),
    "shown": attempt(lambda: repr(progress.progress())),
    "taxonomy": attempt(lambda: start_taxonomy("my_taxonomy")),
    "policy": attempt(lambda: saving.save_policy(model(), tokenizer, "policy")),
    "state": attempt(lambda: state.write("folder/state.safetensors", {"x": torch.zeros(1)}, {})),
    "PPO": attempt(lambda: WithHead(model()).save_pretrained("with_head")),
}
labeller = PreferenceLabeller([choices.Question("A", "b", "c"), choices.Question("D", "e", "f")], "my_choices.jsonl")
said["choices"] = attempt(lambda: labeller.choose("A"))
said["answers"] = len(labeller.choices)
said["run"] = run("dpo")
said["run elsewhere"] = run("dpo", "--folder", sys.argv[1])
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def in_read_only(tmp_path_factory):
    """What happens in a folder that cannot be written to, with a home that is not there."""
    course, elsewhere = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("elsewhere")
    if not own_mounts() and os.geteuid() == 0:
        pytest.skip("the superuser may write anywhere, and this machine allows no mounts")
    before = on_read_only(course) if own_mounts() else ()
    course.chmod(stat.S_IRUSR | stat.S_IXUSR)
    names = {"HOME": str(course / "nobody"), "HF_HUB_OFFLINE": "1", "MPLCONFIGDIR": None, "XDG_CACHE_HOME": None}
    try:
        done = python(COMMON + READING, course, elsewhere / "run", before=before, seconds=400, **names)
    finally:
        course.chmod(stat.S_IRWXU)
    assert list(course.iterdir()) == []
    return answers(done) | {"elsewhere": elsewhere / "run"}


@pytest.mark.parametrize(
    ("name", "file"),
    [("taxonomy", "qna.yaml"), ("policy", "policy"), ("state", "folder/state.safetensors"), ("PPO", "with_head")],
)
def test_a_read_only_folder_is_said_with_another_place(name, file, in_read_only):
    kind, words = in_read_only[name]
    assert kind == "WriteError"
    assert f"{file} cannot be written: " in words
    assert words.endswith(REFUSED)


def test_progress_and_choices_in_a_read_only_course_are_said_and_nothing_stops(in_read_only):
    kind, words = in_read_only["progress"]
    assert kind == ""
    assert words.startswith("Your progress could not be kept in `my_progress.json`: ")
    assert words.endswith(f"The exercises work all the same. {REFUSED}")
    assert in_read_only["shown"][0] == ""
    kind, words = in_read_only["choices"]
    assert kind == "SpokenError"
    assert words.startswith("The choices cannot be written to my_choices.jsonl: ")
    assert in_read_only["answers"] == 1


def test_training_in_a_read_only_course_names_another_place_and_there_it_works(in_read_only):
    code, words = in_read_only["run"]
    assert code == 2
    assert words.startswith("dpo: runs/dpo-")
    assert words.count("\n") == 1
    assert words.rstrip().endswith(REFUSED)
    assert in_read_only["run elsewhere"] == [0, ""]
    assert (in_read_only["elsewhere"] / "evaluation.json").is_file()


# -------------------------------------------------------------------------------------------------- kills while saving

KILLING = """
def save(name, value):
    if name == "policy":
        saving.save_policy(model(value), tokenizer, name)
    elif name == "adapter":
        saving.save_adapter(adapted(value), name)
    else:
        progress.note_quiz("01", f"question {int(value)}", True)

def read(name):
    if name == "progress":
        return len(json.loads(Path("my_progress.json").read_text())["quizzes"]["01"])
    file = {"policy": "model.safetensors", "adapter": "adapter_model.safetensors"}[name]
    values = {float(tensor.flatten()[0]) for key, tensor in load_file(f"{name}/{file}").items()}
    assert len(values) == 1, values
    return values.pop()

draw, left, last = random.Random(0), 0, {}
for name in ("policy", "adapter", "progress"):
    begun = time.monotonic()
    save(name, 1.0)
    took = time.monotonic() - begun
    for kill in range(int(sys.argv[1])):
        child = os.fork()
        if not child:
            value = 2.0 + 100 * kill
            while True:
                save(name, value)
                value += 1
        time.sleep(draw.uniform(0.0, 0.06 + 3 * took))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left += Path(name, ".unfinished").exists()
        last[name] = read(name)
    save(name, 0.0)
    last[f"{name} after"] = read(name)
print(json.dumps({"left": left, "last": last, "tidy": [str(path) for path in Path().rglob(".unfinished")]}))
"""


def test_a_kill_while_saving_leaves_the_old_or_the_new_one(tmp_path):
    found = answers(python(COMMON + KILLING, tmp_path, KILLS, HF_HUB_OFFLINE="1"))
    assert found["left"] > 0, "no kill fell into the writing"
    last = found["last"]
    assert last["policy"] > 1.0
    assert last["adapter"] > 1.0
    assert last["policy after"] == last["adapter after"] == 0.0
    assert last["progress after"] >= last["progress"] > 1
    assert found["tidy"] == [], "the next save takes away what a kill left"
