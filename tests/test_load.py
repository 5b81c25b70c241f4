"""A day's work in one kernel leaves nothing behind, closed panels are gone, and large vocabularies and models fit.

The first part is `benchmarks/soak.py`, made short: the same kernel, the same messages, trainings of two steps.
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
import weakref
from pathlib import Path

import ipywidgets
import numpy as np
import pytest
import torch
from ipywidgets.widgets import widget as registry
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from benchmarks import soak
from course_helpers import choices, language, plan, time_travel, widgets
from course_helpers.beams import beam_search
from course_helpers.frontier import table
from course_helpers.rollouts import sample_rollouts
from course_helpers.sampling import SamplingSettings
from course_helpers.widgets import panel as panel_module
from course_helpers.widgets.panel import close_all

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = 100_000
LONGEST_ANSWER = 50  # milliseconds of processor time; beyond about 100 a slider feels slow
MOST_HTML = 30_000  # signs; a row for each of 100,000 tokens would be millions

# -------------------------------------------------------------------------------------------------- a day in one kernel


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """What the short soak measured."""
    file = tmp_path_factory.mktemp("soak") / "day.json"
    script = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--quick", "--json", str(file)]
    one = os.environ | {"OMP_NUM_THREADS": "1"}  # tests run side by side
    done = subprocess.run(script, env=one, capture_output=True, text=True, timeout=280, check=False)
    assert file.exists(), done.stderr
    return json.loads(file.read_text())


def test_a_thousand_moves_and_trainings_hold_no_more_memory_than_before(day):
    assert sum(map(len, day["events"])) == 1000
    assert day["work"]["generations"] == 50
    for name in soak.FLAT.keys() & day["rows"][0].keys():
        assert soak.growth(day, name) < soak.GROWTH == 1.05, name


@pytest.mark.parametrize("kind", soak.NEVER_MORE)
def test_nothing_is_left_over_after_a_day(day, kind):
    counts = [row.get(kind, 0) for row in day["rows"]]
    assert counts[-1] <= counts[0]
    if kind == "figures":
        assert max(counts) == 0


def test_models_and_trainers_are_gone_when_a_training_is_over(day):
    left = {name: [run["left"] for run in runs] for name, runs in day["trainings"].items()}
    assert left == {name: [0, 0] for name in soak.TRAININGS}


def test_a_cell_that_runs_again_closes_the_panel_it_showed_before(day):
    assert day["again"]["widgets"] == day["again"]["comms"] == 0
    assert day["again"].get("in use", 0.0) < soak.MOST_AGAIN  # 45 where the panel before lives on


def test_no_panel_complained(day):
    assert day["troubles"] == []


def test_the_soak_finds_what_it_looks_for():
    """A made-up day with one fault of each kind, and one without."""
    first = {"resident": 100.0, "in use": 50.0, "objects": 900.0} | dict.fromkeys(soak.NEVER_MORE, 5)
    good = {
        "rows": [first, first],
        "events": [[1.0] * 100] * 2,
        "trainings": {},
        "troubles": [],
        "again": {"widgets": 0.0, "in use": 0.5},
    }
    assert soak.faults(good) == []
    for name in soak.FLAT:
        grown = first | {name: first[name] * 1.05}
        assert soak.faults(good | {"rows": [first, grown, first]}) == [f"{name} grew to 1.050 times what it was"]
    for name in soak.NEVER_MORE:
        assert soak.faults(good | {"rows": [first, first | {name: 7}]}) == [f"2 {name} are left over"]
    left = {"PPO": [{"step": 1.0, "left": 0}, {"step": 1.0, "left": 2}]}
    assert soak.faults(good | {"trainings": left}) == ["PPO left 2 of its objects behind"]
    slow = good | {"events": [[1.0] * 100, [1.3] * 100]}
    assert soak.faults(slow) == ["the last moves took 1.30 times as long as the first"]
    again = {"widgets": 90.0, "in use": 45.0}
    words = ["a cell that runs again leaves 90 widgets behind", "a cell that runs again leaves 45 MiB behind"]
    assert soak.faults(good | {"again": again}) == words
    assert soak.faults(good | {"troubles": ["RatioClip: no"]}) == ["a panel complains: RatioClip: no"]


# -------------------------------------------------------------------------------------------------------- closed panels


@pytest.fixture(scope="module")
def few_to_look_through():
    """Garbage is collected often here, and quickly: what was there before is not looked at each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def panels(small, tmp_path, few_to_look_through):
    """A function for each panel of the course that makes one."""
    policy, tokenizer = small
    journeys = [time_travel.Journey.load(time_travel.shipped()[0])]
    questions = choices.ask(["The film was"] * 2, [" a joy.", " fine."], [" a mess.", " dull."], seed=0)
    pi_ref, r = (0.5, 0.3, 0.2), (0.0, 1.0, 2.0)
    return {
        "BetaExplorer": lambda: widgets.BetaExplorer(pi_ref, r),
        "BradleyTerry": widgets.BradleyTerry,
        "ChatPanel": lambda: widgets.ChatPanel({"a": policy}, tokenizer, [(None, "What is it?")], max_new_tokens=2),
        "DecodingMicroscope": lambda: widgets.DecodingMicroscope(policy, tokenizer),
        "FrontierPlot": lambda: widgets.FrontierPlot(table.load_points(), table.load_samples()),
        "GlossaryPanel": lambda: widgets.GlossaryPanel("policy"),
        "PolicySteps": widgets.PolicySteps,
        "PreferenceLabeller": lambda: widgets.PreferenceLabeller(questions, tmp_path / "choices.jsonl"),
        "PreferenceLosses": widgets.PreferenceLosses,
        "Quiz": lambda: widgets.Quiz("01"),
        "RatioClip": widgets.RatioClip,
        "RewardSliders": lambda: widgets.RewardSliders(pi_ref),
        "SamplingExplorer": lambda: widgets.SamplingExplorer(policy, tokenizer),
        "TimeTravel": lambda: widgets.TimeTravel(journeys, policy, tokenizer),
        "WriteItYourself": lambda: widgets.WriteItYourself(policy, tokenizer),
    }


@pytest.mark.parametrize("name", widgets.__all__)
def test_a_closed_panel_is_gone_with_all_its_parts(panels, name):
    gc.collect()
    before = set(registry._instances)
    panel = panels[name]()
    panel.guard(panel.refresh)
    held = weakref.ref(panel)
    assert len(registry._instances) > len(before)
    panel.close()
    panel.close()  # again: nothing happens
    del panel
    gc.collect()
    assert held() is None
    assert set(registry._instances) == before


def test_a_token_that_is_taken_back_leaves_no_widget(panels):
    writer = panels["WriteItYourself"]()
    gc.collect()
    before = set(registry._instances)
    for _again in range(3):
        for place in range(4):
            writer.choices[place].click()
        assert len(registry._instances) > len(before)
        writer.restart_button.click()
        assert set(registry._instances) == before
    writer.close()


def test_only_panels_of_the_same_cell_alone_give_way(monkeypatch):
    """Shown by cell 1, by cells 1 and 2, twice in one run, and where a front end names no cells."""
    now = ["1", "first run"]
    monkeypatch.setattr(panel_module, "cell_of_now", lambda: tuple(now) if now[0] else None)
    only, both, twin, nowhere, later = (widgets.RatioClip() for _each in range(5))
    for panel in (only, both, twin):
        panel._repr_mimebundle_()
    now[:] = ["2", "second run"]
    both._repr_mimebundle_()
    assert all(panel.comm for panel in (only, both, twin))  # neither twins nor another cell's run
    now[:] = [None, ""]
    nowhere._repr_mimebundle_()
    now[:] = ["1", "third run"]
    only._repr_mimebundle_()  # shown again itself: it stays
    assert only.comm is not None
    assert twin.comm is None
    now[:] = ["1", "fourth run"]
    later._repr_mimebundle_()
    assert (only.comm is None, both.comm is None, nowhere.comm is None) == (True, False, False)
    for panel in (both, nowhere, later):
        panel.close()


def test_a_closed_panel_lets_go_of_its_model_and_keeps_still(panels):
    for name in ("SamplingExplorer", "ChatPanel", "TimeTravel"):
        panel = panels[name]()
        panel.close()
        assert not vars(panel).keys() & {"model", "models", "traveller"}
        language("pt")
        language("en")
        assert panel.trouble is None


def test_closing_a_widget_closes_what_it_is_made_of_and_nothing_else():
    slider, other = ipywidgets.FloatSlider(), ipywidgets.FloatSlider()
    whole = ipywidgets.VBox([ipywidgets.HBox([slider])])
    parts = [whole, whole.layout, whole.children[0], slider, slider.style, slider.layout]
    close_all(whole)
    assert all(part.comm is None for part in parts)
    assert other.comm is not None
    close_all(other)


# ---------------------------------------------------------------------------------------------- a vocabulary of 100,000


@pytest.fixture(scope="module")
def large():
    """A model and a tokenizer of 100,000 words, both made up."""
    words = Tokenizer(WordLevel({f"w{place}": place for place in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    end = f"w{VOCABULARY - 1}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token=end, pad_token=end)
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_positions": 128, "n_embd": 16, "n_layer": 1, "n_head": 2}
    ids = {"bos_token_id": VOCABULARY - 1, "eos_token_id": VOCABULARY - 1}
    return GPT2LMHeadModel(GPT2Config(**sizes, **ids, initializer_range=0.5)).eval(), tokenizer


def milliseconds(actions):
    """Processor time of each action."""
    times = []
    for action in actions:
        start = time.process_time()
        action()
        times.append(1000 * (time.process_time() - start))
    return times


def assert_in_time(times, longest=LONGEST_ANSWER):
    assert statistics.quantiles(times, n=20, method="inclusive")[-1] < longest, times


def html_of(panel):
    """Everything a panel shows but its styles, and its static version."""
    own = [panel] if isinstance(panel, ipywidgets.HTML) and "ch-sheet" not in panel._dom_classes else []
    texts = [part.value for part in own]
    return "".join(texts + [html_of(child) for child in getattr(panel, "children", ())])


def assert_bounded(panel):
    assert not panel.trouble
    assert 0 < len(html_of(panel)) < MOST_HTML
    assert 0 < len(panel.static_html()) < MOST_HTML


def all_on(controls):
    """Every transform at work, top-p without top-k before it, which would leave it little to sort."""
    controls.top_p.value, controls.repetition_penalty.value, controls.min_new_tokens.value = 0.9, 1.2, 5


def temperatures(controls, count=20):
    return [lambda k=k: setattr(controls.temperature, "value", 0.5 + 0.05 * k) for k in range(count)]


@pytest.mark.parametrize("panel", [widgets.SamplingExplorer, widgets.DecodingMicroscope])
def test_sliders_answer_in_time_at_a_large_vocabulary(large, one_thread, panel):
    shown = panel(*large, "w1 w2 w3")
    all_on(shown.controls)
    assert_in_time(milliseconds(temperatures(shown.controls)))  # about 4 and 14 ms
    assert_bounded(shown)
    shown.close()


def test_logits_alone_answer_in_time_at_a_large_vocabulary(one_thread):
    logits = np.random.default_rng(0).normal(0, 3, VOCABULARY)
    names = [f"token {place}" for place in range(VOCABULARY)]
    shown = widgets.SamplingExplorer.from_logits(logits, names, range(100), VOCABULARY - 1)
    all_on(shown.controls)
    assert_in_time(milliseconds(temperatures(shown.controls)))
    assert_bounded(shown)
    shown.close()


def test_writing_answers_in_time_at_a_large_vocabulary(large, one_thread):
    writer = widgets.WriteItYourself(*large, "w1 w2 w3")
    assert_in_time(milliseconds([writer.choices[place].click for place in range(12)]))
    assert len(writer.response) == 12
    assert_in_time(milliseconds([writer.undo_button.click] * 12))
    assert_bounded(writer)
    writer.close()


def test_steps_and_beams_answer_in_time_at_a_large_vocabulary(large, one_thread):
    shown = widgets.DecodingMicroscope(*large, "w1 w2 w3")
    all_on(shown.controls)
    assert_in_time(milliseconds([shown.next_button.click] * 10))
    assert len(shown.steps) == 10
    shown.beams.value, shown.depth.value = 4, 6
    assert_in_time(milliseconds([shown.search_button.click] * 3), longest=6 * LONGEST_ANSWER)
    assert len(shown.found.nodes) == 6 * 2 * 4
    assert_bounded(shown)
    shown.close()


def test_chat_and_rollouts_answer_in_time_at_a_large_vocabulary(large, one_thread):
    model, tokenizer = large
    panel = widgets.ChatPanel({"one": model, "two": model}, tokenizer, [(None, "w1 w2")], max_new_tokens=12)
    panel.temperature.value, panel.top_p.value = 1.0, 0.9
    tokens = 2 * 12
    assert_in_time(milliseconds([panel.answer_button.click] * 3), longest=tokens * LONGEST_ANSWER)
    assert_bounded(panel)
    panel.close()
    settings = SamplingSettings(top_p=0.9, temperature=0.7)
    (took,) = milliseconds([lambda: sample_rollouts(model, [1, 2, 3], 4, settings, length_limit=10)])
    assert took < 10 * 4 * LONGEST_ANSWER
    assert len(beam_search(model, [1, 2], 4, 3).sequences) == 1


# ----------------------------------------------------------------------------------------------- a model of 1.5 billion


@pytest.fixture(scope="module")
def xl():
    """What a process of its own found out about a GPT-2 XL that has no weights."""
    script = [sys.executable, "-W", "ignore", "-m", "tests.load_of_xl"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_gpt2_xl_is_planned_and_set_up_without_its_weights(xl):
    width, layers = 1600, 48
    assert xl["parameters"] == xl["planned"] == xl["unloaded"] == 1_557_611_200
    assert xl["devices"] == ["meta"]
    assert xl["longest"] == 1024
    assert xl["head"] == width + 1
    assert (xl["layers"], xl["frozen"]) == (layers, 40)
    assert xl["targets"] == ["c_attn", "c_fc", "c_proj"]
    assert xl["adapter"] == xl["trained"] == layers * 16 * 16 * width
    assert set(xl["gigabytes"]) == set(xl["hours"]) == set(plan.METHODS)
    assert all(4 * 1.5576 < gigabytes < 141 for gigabytes in xl["gigabytes"].values())
    assert xl["printed"] < 5000  # one block stands for all


def test_gpt2_xl_takes_little_memory_and_time_without_its_weights(xl):
    assert xl["peak"] < 1.5  # GiB; libraries take most of it
    assert xl["seconds"] < 20
