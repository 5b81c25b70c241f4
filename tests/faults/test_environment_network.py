"""No network, a Hub that says no, a download that breaks off: small scale never asks, full scale says what to do."""

from __future__ import annotations

import pytest

from course_helpers.assets import HERE
from tests.faults.places import NO_NETWORK, answers, hub, python

AT_ONCE = 30  # seconds; five tries with waits in between would take longer
# Notes what a call raises, and for how long it kept one waiting.
SAYING = """
import json, time
said = {}
def note(name, call):
    begun = time.monotonic()
    try:
        call()
        said[name] = ["", "", time.monotonic() - begun]
    except Exception as error:
        said[name] = [type(error).__name__, str(error), time.monotonic() - begun]
"""


# ---------------------------------------------------------------------------------------------------------- no network

SMALL_AND_FULL = """
import io, importlib, pkgutil
from contextlib import redirect_stderr
import course_helpers
from huggingface_hub import constants
for module in pkgutil.walk_packages(course_helpers.__path__, "course_helpers."):
    importlib.import_module(module.name)
from course_helpers import glossary, models, prompts, time_travel, train
from course_helpers.frontier import table
from course_helpers.ppo import AutoModelForCausalLMWithValueHead as WithHead
from course_helpers.taxonomy import start_taxonomy
loads = (models.load_policy, models.load_reference, models.load_judge, prompts.load_prompts, WithHead.from_pretrained)
for load in loads:
    load("small")
models.load_judge("second"), table.load_points(), table.load_samples(), start_taxonomy("my_taxonomy")
small = list(tried)

def command():
    heard, begun = io.StringIO(), time.monotonic()
    with redirect_stderr(heard):
        code = train.main(["dpo", "--config", "configs/full/dpo.yaml", "--folder", "run"])
    said["train" + mode] = [str(code), heard.getvalue(), time.monotonic() - begun]

for mode in (", the network is gone", ", HF_HUB_OFFLINE"):
    constants.HF_HUB_OFFLINE = "OFFLINE" in mode
    note("policy" + mode, lambda: models.load_policy("full"))
    note("judge" + mode, lambda: models.load_judge("full"))
    note("reviews" + mode, lambda: prompts.load_prompts("full"))
    note("PPO's model" + mode, lambda: WithHead.from_pretrained("lvwerra/gpt2-imdb"))
    note("lesson 07" + mode, lambda: models.load_reference("HuggingFaceTB/SmolLM2-135M-Instruct"))
    command()
    full = full if constants.HF_HUB_OFFLINE else list(tried)
print(json.dumps({"small": small, "full": full, "offline": tried[len(full):], "said": said}))
"""


IDS = {
    "policy": "lvwerra/gpt2-imdb",
    "judge": "lvwerra/distilbert-imdb",
    "reviews": "stanfordnlp/imdb",
    "PPO's model": "lvwerra/gpt2-imdb",
    "lesson 07": "HuggingFaceTB/SmolLM2-135M-Instruct",
}


def test_without_network_small_asks_nobody_and_full_says_what_to_do(tmp_path):
    found = answers(python(NO_NETWORK + SAYING + SMALL_AND_FULL, tmp_path, HF_HOME=str(tmp_path / "cache")))
    assert found["small"] == []
    assert any("huggingface.co" in each for each in found["full"])  # full scale does ask: the guard was there
    assert found["offline"] == []
    for mode in (", the network is gone", ", HF_HUB_OFFLINE"):
        for name, id_ in IDS.items():
            kind, words, seconds = found["said"][name + mode]
            assert kind == "LoadError"
            assert words.startswith(f"'{id_}' is not on this machine and the Hub cannot be reached (")
            assert words.endswith("go online once to download it, give a folder that holds it, or use 'small'.")
            assert seconds < AT_ONCE
        code, words, seconds = found["said"]["train" + mode]
        assert code == "2"
        assert words.count("\n") == 1, "a sentence, not a traceback"
        assert words.startswith("dpo: '")
        assert "the Hub cannot be reached" in words
        assert seconds < AT_ONCE


# ------------------------------------------------------------------------------------------------ a Hub that says no

AT_A_HUB = """
import os
from course_helpers import models, prompts
from course_helpers.ppo import AutoModelForCausalLMWithValueHead as WithHead
for name in ("missing", "gated", "refused", "shut", "broken", "pickled", "empty"):
    note(name, lambda: models.load_policy(f"owner/{name}"))
for name in ("missing", "gated", "pickled"):
    note(f"{name}, judge", lambda: models.load_judge(f"owner/{name}"))
    note(f"{name}, PPO", lambda: WithHead.from_pretrained(f"owner/{name}"))
note("reviews", lambda: prompts.load_prompts("owner/missing"))
note("rows", lambda: prompts.load_prompts("owner/nothing"))
os.mkdir("folder")
note("folder", lambda: models.load_policy("./folder"))

from huggingface_hub import constants
note("cut", lambda: models.load_policy("owner/cut"))
constants.HF_HUB_OFFLINE = True
note("offline with a part", lambda: models.load_policy("owner/cut"))
constants.HF_HUB_OFFLINE = False
note("again", lambda: models.load_policy("owner/cut"))
constants.HF_HUB_OFFLINE = True
note("offline with all", lambda: models.load_policy("owner/cut"))
print(json.dumps(said))
"""
CONNECTION_TRIES = 6  # huggingface_hub's own, for one file


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """What is said of each repository of a Hub on this machine, and what the Hub was asked."""
    model = {path.name: path.read_bytes() for path in (HERE / "policy").iterdir()}
    with hub() as (state, address):
        state.files |= {"owner/gated": model, "owner/cut": model, "owner/empty": {}}
        pickled = {name: content for name, content in model.items() if name != "model.safetensors"}
        state.files["owner/pickled"] = pickled | {"pytorch_model.bin": b"cos\nsystem\n(S'touch owned'\ntR."}
        state.files["owner/nothing"] = {"README.md": b"nothing here"}
        state.gated.add("owner/gated")
        state.status |= {"owner/refused": 401, "owner/shut": 403, "owner/broken": 503}
        state.cut["model.safetensors"] = CONNECTION_TRIES
        folder = tmp_path_factory.mktemp("hub")
        done = python(SAYING + AT_A_HUB, folder, HF_ENDPOINT=address, HF_HOME=str(folder / "cache"))
        yield answers(done), state.asked
        assert not (folder / "owned").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "The Hub has no model 'owner/missing': check its spelling, or use 'small'."),
        ("missing, judge", "The Hub has no model 'owner/missing': check its spelling, or use 'small'."),
        ("missing, PPO", "The Hub has no model 'owner/missing': check its spelling, or use 'small'."),
        ("reviews", "The Hub has no dataset 'owner/missing': check its spelling, or use 'small'."),
        ("refused", "The Hub does not give you the model 'owner/refused' (HTTP 401): log in with `hf auth login`"),
        ("shut", "The Hub does not give you the model 'owner/shut' (HTTP 403): log in with `hf auth login`"),
        ("broken", "'owner/broken' is not on this machine and the Hub cannot be reached (HTTP 503): go online once"),
        ("gated", "'owner/gated' asks for a log-in on the Hub: accept its terms there and log in with `hf auth login`"),
        ("gated, judge", "'owner/gated' asks for a log-in on the Hub: accept its terms there and log in with"),
        ("gated, PPO", "'owner/gated' asks for a log-in on the Hub: accept its terms there and log in with"),
        ("pickled", "'owner/pickled' cannot be loaded. It has to hold config.json, model.safetensors (pickled weights"),
        ("pickled, judge", "'owner/pickled' cannot be loaded. It has to hold config.json, model.safetensors (pickled"),
        ("pickled, PPO", "'owner/pickled' cannot be loaded. It has to hold config.json, model.safetensors (pickled"),
        ("empty", "'owner/empty' cannot be loaded. It has to hold config.json, model.safetensors"),
        ("rows", "'owner/nothing' cannot be read as a data set: give another Hub id, or use 'small'."),
        ("folder", "'folder' cannot be loaded. It has to hold config.json, model.safetensors"),
    ],
)
def test_what_the_hub_does_not_give_is_one_sentence(name, words, answered):
    kind, said, seconds = answered[0][name]
    assert kind == "LoadError"
    assert said.startswith(words)
    assert "\n" not in said
    assert seconds < AT_ONCE


def test_no_pickle_is_even_downloaded(answered):
    assert any("owner/pickled" in request for request in answered[1])
    assert not any("pytorch_model.bin" in request and request.startswith("GET") for request in answered[1])


def test_a_download_that_breaks_off_says_so_and_goes_on_later(answered):
    said, asked = answered
    kind, words, seconds = said["cut"]
    assert kind == "LoadError"
    assert words.startswith("The download of 'owner/cut' broke off: do the same again when the network is back")
    assert seconds < AT_ONCE
    kind, words, _seconds = said["offline with a part"]
    assert kind == "LoadError"
    assert words.startswith("'owner/cut' is on this machine only in part, and the Hub cannot be reached: go online")
    assert said["again"][:2] == ["", ""]
    assert said["offline with all"][:2] == ["", ""]
    whole = [each for each in asked if each.startswith("GET") and "owner/cut" in each and each.endswith("/config.json")]
    assert len(whole) == 1, "what has come whole is not downloaded again"
