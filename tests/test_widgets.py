"""The widgets without a browser: what they show, what they compute, and what a learner cannot break."""

from __future__ import annotations

import json
import math
import re
import statistics
import threading
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from course_helpers import toy
from course_helpers.models import load_policy
from course_helpers.ppo.losses import policy_losses
from course_helpers.sampling import SamplingSettings, distribution, entropy, softmax
from course_helpers.tokens import byte_level_table, readable, token_text, visible
from course_helpers.widgets import DecodingMicroscope, PolicySteps, RatioClip, SamplingExplorer, WriteItYourself
from course_helpers.widgets.markup import SHADES, bars, block_bar, number, percent, shade, static_bars, token_span
from course_helpers.widgets.microscope import throw
from course_helpers.widgets.policy_steps import point
from course_helpers.widgets.ratio_clip import surrogate
from course_helpers.widgets.sampling_explorer import likeliest

PROMPT = "This movie was"
HOSTILE = [
    "<b>",
    "<img src=x onerror=alert(1)>",
    "</table><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "&lt;b&gt;",
    "\n\u202e\x00",
]
# What our own markup consists of; anything else in it came from a token.
TABLE = {"table", "thead", "tbody", "tr", "th", "td", "div", "span", "p", "code", "br"}
DRAWING = {"svg", "path", "g", "rect", "text", "circle", "title"}
ELEMENTS = TABLE | DRAWING | {"b", "sub", "sup", "details", "summary", "ul", "li"}
GEOMETRY = {"width", "height", "viewbox", "d", "x", "y", "rx", "cx", "cy", "r"}
ATTRIBUTES = GEOMETRY | {"class", "scope", "style", "title", "role", "aria-label", "aria-hidden"}


class Tags(HTMLParser):
    """Every element and attribute of a piece of HTML."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}


def assert_harmless(text: str, elements: set[str] = ELEMENTS) -> None:
    tags = Tags(text)
    assert tags.elements <= elements, tags.elements - elements
    assert tags.attributes <= ATTRIBUTES, tags.attributes - ATTRIBUTES


@pytest.fixture(scope="module")
def policy():
    return load_policy("small", "cpu")


@pytest.fixture
def explorer(policy):
    return SamplingExplorer(*policy, PROMPT)


@pytest.fixture
def writer(policy):
    return WriteItYourself(*policy, PROMPT)


@pytest.fixture
def microscope(policy):
    return DecodingMicroscope(*policy, PROMPT)


class RogueTokenizer:
    """A vocabulary of markup."""

    eos_token_id = 0

    def __call__(self, text, **kwargs):
        return {"input_ids": [1] if text else []}

    def decode(self, ids, **kwargs):
        return "".join(["<|endoftext|>", *HOSTILE][index] for index in ids)

    def convert_ids_to_tokens(self, index):
        return self.decode([index])


@pytest.fixture
def rogue():
    """A policy that writes HTML."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = 1 + len(HOSTILE)
    config = GPT2Config(vocab_size=size, n_positions=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval(), RogueTokenizer()


# -------------------------------------------------------------------------------------------------- tokens and markup


def test_invisible_signs_are_shown():
    assert visible(" film\n") == "·film⏎"
    assert readable(" film") == " film"
    assert readable(" ") == "·"
    assert visible("\u202e\x07") == "\\u202e\\x07"


def test_a_cut_letter_is_shown_as_its_bytes(policy):
    _, tokenizer = policy
    table = byte_level_table()
    sign = next(sign for sign, byte in table.items() if byte == 0xE2)
    assert token_text(tokenizer, tokenizer.convert_tokens_to_ids(sign)) == "\\xe2"
    assert sorted(table.values()) == list(range(256))


@pytest.mark.parametrize("token", HOSTILE)
def test_tokens_never_become_markup(token):
    row = SamplingExplorer.from_logits([1.0, 0.0], [token, "x"]).rows(np.array([0.7, 0.3]))
    for text in (bars(row), static_bars(row), token_span(token, 0.5, f"{token} p")):
        assert_harmless(text, TABLE)  # not even a <b>


def test_colours_can_be_read():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    light = [luminance(step.background) for step in SHADES]
    assert light == sorted(light, reverse=True)  # brightness alone orders them, whatever the colour vision
    for step in SHADES:
        bright, dark = sorted((luminance(step.background), luminance(step.text)), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, step


def test_numbers():
    assert [percent(p) for p in (0.0, 1e-6, 0.0123, 0.123, 1.0)] == ["0 %", "<0.01 %", "1.23 %", "12.3 %", "100.0 %"]
    assert number(-1.5) == "−1.50"
    assert number(-1e-9) == "0.00"
    assert block_bar(0.5, 4) == "██"
    assert block_bar(1.0, 4) == "████"
    assert block_bar(1e-9, 4) == "▏"
    assert block_bar(0.0, 4) == ""
    assert shade(0.5) == SHADES[0]
    assert shade(0.0) == SHADES[-1]


def test_likeliest_puts_cut_tokens_last():
    before = np.array([0.4, 0.3, 0.2, 0.1])
    assert likeliest(np.array([0.0, 0.5, 0.5, 0.0]), before, 4) == [1, 2, 0, 3]
    assert likeliest(before, before, 2) == [0, 1]


# ------------------------------------------------------------------------------------------------- sampling explorer


def shown(explorer):
    """Token, probability in percent and policy's, of every bar on show."""
    rows = re.findall(r"<code>(.*?)</code>.*?</td><td>(.*?)</td><td>(.*?)</td>", explorer.picture.value)
    return {token: (now, before) for token, now, before in rows}


def test_explorer_shows_the_distribution(explorer, policy):
    model, tokenizer = policy
    ids = tokenizer(PROMPT)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].double()
    explorer.controls.temperature.value = 0.7
    explorer.controls.repetition_penalty.value = 1.3
    explorer.controls.top_k.value = 9
    settings = SamplingSettings(temperature=0.7, repetition_penalty=1.3, top_k=9, max_new_tokens=20, eos_token_id=0)
    expected = distribution(logits, settings, ids)
    before = softmax(logits)
    rows = shown(explorer)
    assert len(rows) == 13  # twelve, and the end of text
    for index in expected.topk(9).indices.tolist():
        token = visible(token_text(tokenizer, index)).replace("'", "&#x27;")
        assert rows[token] == (percent(expected[index].item()), percent(before[index].item()))
    assert f"Entropy {number(float(entropy(expected)))} nats; 9 tokens can be sampled." in explorer.summary.value


def test_sliders_move_the_distribution_the_right_way(explorer):
    controls = explorer.controls
    start = explorer.probabilities()
    controls.temperature.value = 2.0
    hot = explorer.probabilities()
    assert entropy(hot) > entropy(start)
    assert hot.max() < start.max()
    controls.temperature.value = 0.0
    assert (explorer.probabilities() > 0).sum() == 1
    assert "1 token can be sampled" in explorer.summary.value
    controls.reset()
    np.testing.assert_array_equal(explorer.probabilities(), start)
    controls.top_p.value = 0.5
    few = (explorer.probabilities() > 0).sum()
    assert 1 < few < (start > 0).sum()
    controls.reset_button.click()
    controls.min_new_tokens.value = 3
    assert explorer.probabilities()[explorer.eos_token_id] == 0


def test_sliders_at_odds_give_a_message(explorer):
    explorer.controls.min_new_tokens.value = 40
    assert "max_new_tokens is 20" in explorer.message.value
    assert "max_new_tokens is 20" in explorer._repr_mimebundle_()["text/html"]
    explorer.controls.reset()
    assert explorer.message.value == ""


@pytest.mark.parametrize(("prompt", "message"), [("", "prompt is empty"), ("word " * 300, "context holds")])
@pytest.mark.parametrize("widget", [SamplingExplorer, WriteItYourself, DecodingMicroscope])
def test_an_impossible_prompt_gives_a_message(policy, widget, prompt, message):
    built = widget(*policy, prompt)
    assert message in built.message.value
    built.prompt.value = PROMPT
    assert built.message.value == ""
    built.prompt.value = prompt
    assert message in built.message.value
    assert "text/html" in built._repr_mimebundle_()


def test_rollouts_are_those_of_the_seed_and_leave_the_global_generator_alone(explorer):
    state = torch.random.get_rng_state()
    explorer.draw_button.click()
    first = explorer.rollouts.value
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.count('class="ch-card"') == 4
    assert "the sum over" in first
    explorer.draw_button.click()
    assert explorer.rollouts.value == first
    explorer.seed.value = 1
    explorer.draw_button.click()
    assert explorer.rollouts.value != first
    assert not explorer.draw_button.disabled


def test_button_rests_while_it_works_and_errors_are_shown(explorer, monkeypatch):
    seen = []

    def broken(*args):
        seen.append(explorer.draw_button.disabled)
        raise RuntimeError("no <memory> left")

    monkeypatch.setattr("course_helpers.widgets.sampling_explorer.sample_rollouts", broken)
    explorer.draw_button.click()
    assert seen == [True]
    assert not explorer.draw_button.disabled
    assert "RuntimeError: no &lt;memory&gt; left" in explorer.message.value


def test_rollouts_of_markup_are_text(rogue):
    explorer = SamplingExplorer(*rogue, "it")
    explorer.count.value = 8
    explorer.draw_button.click()
    assert explorer.message.value == ""
    for token in HOSTILE[:3]:
        assert token.replace("<", "&lt;").replace(">", "&gt;") in explorer.rollouts.value
    for text in (explorer.picture.value, explorer.rollouts.value, explorer._repr_mimebundle_()["text/html"]):
        assert_harmless(text)


def test_from_logits_checks_its_tokens():
    with pytest.raises(ValueError, match=r"logits have shape \(2,\) and there are 1 tokens"):
        SamplingExplorer.from_logits([0.0, 1.0], ["one"])
    broken = SamplingExplorer.from_logits([math.nan, 1.0], ["a", "b"])
    assert "logits[0] is NaN" in broken.message.value
    broken.controls.temperature.value = 0.5
    assert "went wrong" not in broken.message.value


def test_a_slider_event_is_fast_at_a_large_vocabulary():
    logits = np.random.default_rng(0).normal(0, 3, 50_257)
    tokens = [f"token {index}" for index in range(50_257)]
    explorer = SamplingExplorer.from_logits(logits, tokens, previous_ids=range(100), eos_token_id=50_256)
    controls = explorer.controls
    controls.top_k.value, controls.top_p.value, controls.repetition_penalty.value = 50, 0.9, 1.2
    times = []
    for step in range(20):
        start = time.perf_counter()
        controls.temperature.value = 0.5 + 0.05 * step
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 0.1  # benchmarks/widget_latency.py measures; this only guards against a blunder


# ------------------------------------------------------------------------------------------------- write it yourself


def log_prob_of(model, query, response):
    """ln π(Y|X) from one forward pass over query and response."""
    ids = torch.tensor([[*query, *response]])
    with torch.no_grad():
        log_probs = model(ids).logits[0].double().log_softmax(-1)
    return sum(log_probs[len(query) - 1 + t, token].item() for t, token in enumerate(response))


def test_written_log_probability_is_the_models(writer, policy):
    for place in (0, 3, 1, 7, 2):
        writer.choices[place].click()
    assert len(writer.response) == 5
    assert writer.log_prob == pytest.approx(log_prob_of(policy[0], writer.query, writer.response), abs=1e-4)
    assert f"<b>{number(writer.log_prob)}</b>" in writer.sums.value


def test_undo_and_going_back(writer):
    start = [choice.description for choice in writer.choices]
    assert start[0].startswith("choose ' a', probability 1")
    writer.choices[0].click()
    after_one = [choice.description for choice in writer.choices]
    assert after_one != start
    writer.choices[1].click()
    writer.choices[2].click()
    writer.undo_button.click()
    assert len(writer.response) == 2
    writer.steps[1].click()  # back to before the second token
    assert [choice.description for choice in writer.choices] == after_one
    assert len(writer.written.children) == 2
    writer.restart_button.click()
    assert [choice.description for choice in writer.choices] == start
    assert writer.log_prob == 0
    writer.undo_button.click()  # nothing to undo is not an error
    assert writer.message.value == ""


def test_writing_ends_with_the_end_of_text_and_with_the_context(rogue):
    writer = WriteItYourself(*rogue, "it")
    writer.choose(0)
    assert "The text has ended" in writer.hint.value
    assert all(choice.layout.display == "none" for choice in writer.choices)
    writer.undo()
    for _ in range(62):
        writer.guard(lambda: writer.choose(1))
    assert writer.message.value == ""
    writer.guard(lambda: writer.choose(1))
    assert "context holds 64" in writer.message.value
    writer.undo_button.click()
    assert writer.message.value == ""


def test_written_markup_is_text(rogue):
    writer = WriteItYourself(*rogue, "<b>it</b>")
    for place in range(5):
        writer.choices[place].click()
    for text in (writer.picture.value, writer.prompt_text.value, writer.sums.value, writer.static_html()):
        assert_harmless(text)


# ------------------------------------------------------------------------------------------------------- microscope


def test_last_stage_is_the_distribution(microscope):
    controls = microscope.controls
    controls.temperature.value, controls.top_k.value, controls.top_p.value = 0.8, 20, 0.9
    controls.repetition_penalty.value, controls.min_new_tokens.value = 1.2, 5
    microscope.next_button.click()
    shown = microscope.stages()
    settings = controls.settings(microscope.tokenizer.eos_token_id)
    expected = distribution(microscope.logits, settings, microscope.context, generated=1)
    np.testing.assert_array_equal(shown[-1].probabilities, expected)
    assert shown[0].name == "logits"
    last_cells = re.findall(r"<td[^>]*>(?:[^<]*<br>)?([^<]*)(?:<div[^>]*></div>)?</td><td>", microscope.table.value)
    ids, _ = microscope.rows(shown)
    assert last_cells == [percent(expected[i]).replace("<", "&lt;") if expected[i] else "cut" for i in ids]


def test_next_step_writes_what_is_marked(microscope):
    for _ in range(3):
        chosen = microscope.chosen(microscope.stages())
        assert "★ chosen" in microscope.table.value
        microscope.next_button.click()
        assert microscope.steps[-1].token_id == chosen
    policy = sum(step.log_prob for step in microscope.steps)
    response = [step.token_id for step in microscope.steps]
    assert policy == pytest.approx(log_prob_of(microscope.model, microscope.query, response), abs=1e-4)
    microscope.back_button.click()
    assert len(microscope.steps) == 2


def test_throw_keeps_its_dart():
    rng = np.random.default_rng(5)
    for step in range(50):
        p = rng.dirichlet(np.ones(6)) * (rng.random(6) < 0.7)
        if p.sum():
            assert (p / p.sum())[throw(p / p.sum(), 0, step)] > 0
    p = np.array([0.2, 0.5, 0.3])
    counts = np.bincount([throw(p, 0, step) for step in range(2000)], minlength=3) / 2000
    np.testing.assert_allclose(counts, p, atol=0.04)


def test_beam_tree_is_drawn_and_told(microscope):
    microscope.beams.value, microscope.depth.value = 3, 4
    microscope.search_button.click()
    tree = microscope.tree.value
    assert microscope.message.value == ""
    assert 'role="img"' in tree
    assert tree.count("<rect") == tree.count("<li>") == 24
    assert "best response" in tree
    assert "died" in tree
    assert_harmless(tree)


def test_tree_and_stages_of_markup_are_text(rogue):
    microscope = DecodingMicroscope(*rogue, "it")
    microscope.beams.value = 3
    microscope.search_button.click()
    microscope.next_button.click()
    microscope.search_button.click()
    for text in (microscope.tree.value, microscope.table.value, microscope.text.value, microscope.static_html()):
        assert_harmless(text)


def test_nothing_follows_the_end(rogue):
    microscope = DecodingMicroscope(*rogue, "it")
    microscope.controls.max_new_tokens.value = 1
    microscope.next_button.click()
    assert "The text has ended" in microscope.text.value
    microscope.next_button.click()
    assert "nothing to write" in microscope.message.value
    microscope.search_button.click()
    assert "nothing to search" in microscope.message.value


# --------------------------------------------------------------------------------------------------- ratio and clip


@pytest.mark.parametrize("epsilon", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("advantage", [-2.0, -0.25, 0.0, 1.0])
def test_surrogate_and_slope_are_those_of_the_loss(advantage, epsilon):
    for value in (
        0.01,
        0.33,
        0.49,
        0.77,
        0.97,
        1.0,
        1.03,
        1.23,
        1.52,
        2.0,
    ):  # beside the corners, where it has no slope
        ratio = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
        loss = policy_losses(ratio.log(), torch.zeros(1, 1), torch.tensor([[advantage]]), epsilon).tokens.sum()
        loss.backward()
        assert surrogate(value, advantage, epsilon) == pytest.approx((-loss.item(), -ratio.grad.item()))


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope", "words"),
    [
        (1.5, 1.0, 0.0, "off: the token is to become likelier, but ρ is already past 1 + ε = 1.20"),
        (0.5, 1.0, 1.0, "on: the token is to become likelier, and ρ went the other way"),
        (0.5, -1.0, 0.0, "off: the token is to become less likely, but ρ is already past 1 − ε = 0.80"),
        (1.5, -1.0, -1.0, "on: the token is to become less likely, and ρ went the other way"),
        (1.2, 1.0, 1.0, "on: the token becomes likelier, and ρ is still within"),
        (1.0, 0.0, 0.0, "off: an advantage of 0"),
    ],
)
def test_sliders_switch_the_gradient(ratio, advantage, slope, words):
    clip = RatioClip(epsilon=0.2)
    clip.ratio.value, clip.advantage.value = ratio, advantage
    assert f"Gradient {words}" in clip.summary.value
    assert f"slope in ρ: <b>{number(slope)}</b>" in clip.summary.value
    assert ('class="ch-off"' in clip.picture.value) == (slope == 0)
    assert_harmless(clip.picture.value)
    clip.reset_button.click()
    assert clip.values == (1.5, 1.0, 0.2)


def test_the_dot_lies_on_the_curve():
    clip = RatioClip(ratio=1.1, advantage=-0.5, epsilon=0.3)
    path = re.search(r'class="ch-held" d="M([^"]*)"', clip.picture.value)[1]
    corners = np.array([[float(x) for x in place.split(",")] for place in path.split(" L")])
    x, y = (float(re.search(rf'{name}="([\d.]+)"', clip.picture.value)[1]) for name in ("cx", "cy"))
    assert y == pytest.approx(np.interp(x, *corners.T), abs=0.1)
    assert len(corners) == 4


def test_ratio_and_clip_without_a_kernel():
    bundle = RatioClip()._repr_mimebundle_()
    assert_harmless(bundle["text/html"])
    assert bundle["text/html"] == RatioClip()._repr_mimebundle_()["text/html"]
    assert bundle["text/html"].count("clip holds") == 4  # two of seven ratios on either side
    assert "<td>1.20</td><td>0 (clip holds)</td><td>−1.50</td><td>−1.00</td>" in bundle["text/html"]


def test_ratio_and_clip_is_fast():
    clip, times = RatioClip(), []
    for step in range(20):
        start = time.perf_counter()
        clip.ratio.value = 0.05 * step
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 0.05  # 1 to 2 ms on an idle machine; this only guards against a blunder


# --------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("widget", [SamplingExplorer, WriteItYourself, DecodingMicroscope])
def test_static_version_is_constant_and_plain(policy, widget):
    one, two = (widget(*policy, PROMPT)._repr_mimebundle_() for _ in range(2))
    view = "application/vnd.jupyter.widget-view+json"
    assert view in one
    assert {kind: text for kind, text in one.items() if kind != view} == {k: v for k, v in two.items() if k != view}
    assert_harmless(one["text/html"])
    assert "<table>" in re.sub(r'<table class="[^"]*">', "<table>", one["text/html"])
    assert one[view]["model_id"] not in json.dumps({kind: text for kind, text in one.items() if kind != view})


def test_callbacks_run_beside_a_running_cell(explorer, writer):
    """ipykernel runs callbacks on another thread, where gradients are on; two may come at once."""
    threads = [threading.Thread(target=writer.choices[0].click)]
    threads.append(threading.Thread(target=explorer.draw_button.click))
    threads.append(threading.Thread(target=setattr, args=(explorer.prompt, "value", "The plot")))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert explorer.message.value == writer.message.value == ""
    assert len(writer.response) == 1
    assert len(explorer.previous_ids) == len(explorer.tokenizer("The plot")["input_ids"])


# ---------------------------------------------------------------------------------------------------- policy, stepped


def test_a_step_is_the_estimate_of_its_draws():
    steps = PolicySteps(rate=0.7, baseline=0.3, batch=5, seed=4)
    generator, theta = torch.Generator().manual_seed(4), steps.start
    for _ in range(3):
        drawn = toy.draw(toy.policy(theta), 5, generator)
        theta = theta + 0.7 * toy.estimates(theta, drawn, (steps.rewards - 0.3)[drawn])
        steps.step_button.click()
    assert torch.equal(steps.theta, theta)
    assert steps.steps[-1].counts == torch.bincount(drawn, minlength=3).tolist()
    assert f"E[r] went from {number((steps.steps[-1].before * steps.rewards).sum().item())}" in steps.summary.value
    for p in steps.pi.tolist():
        assert percent(p) in steps.table.value


def test_rewards_pull_and_push_and_the_baseline_decides_which():
    for baseline, words in ((0.0, "pulls"), (0.3, "does nothing"), (1.0, "pushes away")):
        steps = PolicySteps(theta=(-30.0, 30.0, -30.0), baseline=baseline)  # so-so is certain to be drawn
        steps.step_button.click()
        assert f"so-so (A = {number(0.3 - baseline)}, {words})" in steps.summary.value
    for reward in (1.0, -1.0):
        steps = PolicySteps(rewards=(reward, reward, reward), seed=1)
        steps.step_button.click()
        drawn = steps.steps[0].counts.index(1)
        assert (steps.pi[drawn] - steps.steps[0].before[drawn]).item() * reward > 0


def test_stepping_is_the_same_every_time_and_leaves_the_global_generator_alone():
    state, steps = torch.random.get_rng_state(), PolicySteps()
    steps.ten_button.click()
    first, shown = steps.theta, steps.picture.value
    steps.batch.value, steps.rate.value, steps.baseline.value = 9, 2.0, 1.0
    steps.ten_button.click()
    assert len(steps.steps) == 20
    steps.reset_button.click()
    assert [slider.value for slider in steps.sliders] == [1.0, 0.0, 1]
    assert "No step yet" in steps.summary.value
    for _ in range(10):
        steps.step_button.click()
    assert torch.equal(steps.theta, first)
    assert steps.picture.value == shown
    assert torch.equal(torch.random.get_rng_state(), state)


def test_large_batches_climb():
    steps = PolicySteps(rate=2.0, batch=64)
    for _ in range(10):
        steps.ten_button.click()
    assert steps.pi[0] > 0.9
    assert (steps.pi.sum() - 1).abs() < 1e-12
    steps.rate.value = 3.0
    for _ in range(30):
        steps.ten_button.click()
    assert steps.message.value == ""
    assert steps.picture.value.count(" L") < 400  # a long trail is cut


def test_the_picture_stands_where_the_policy_is():
    steps = PolicySteps()
    assert "ch-move" not in steps.picture.value
    steps.batch.value = 8
    steps.step_button.click()
    x, y = (float(re.search(rf'{name}="([\d.]+)"', steps.picture.value)[1]) for name in ("cx", "cy"))
    assert (x, y) == pytest.approx(point(steps.pi), abs=0.1)
    begin, end = re.search(r'class="ch-move" d="M([\d.,]+) L([\d.,]+)"', steps.picture.value).groups()
    assert [float(v) for v in begin.split(",")] == pytest.approx(point(steps.steps[0].before), abs=0.1)
    assert [float(v) for v in end.split(",")] == pytest.approx([x, y], abs=0.1)
    corners = [point(corner) for corner in np.eye(3)]
    sides = [math.dist(corners[k], corners[k - 1]) for k in range(3)]
    assert sides == pytest.approx([sides[0]] * 3)
    assert 'role="img"' in steps.picture.value
    assert percent(steps.pi[0].item()) in re.search('aria-label="([^"]*)"', steps.picture.value)[1]


def test_stepped_markup_is_text():
    steps = PolicySteps(names=HOSTILE[:3], batch=20)
    steps.step_button.click()
    html = steps._repr_mimebundle_()["text/html"]
    for text in (steps.summary.value, steps.next_step.value, steps.picture.value, steps.table.value, html):
        assert_harmless(text)
        assert "&lt;" in text


def test_steps_without_a_kernel():
    one, two = PolicySteps(batch=2), PolicySteps(batch=2)
    two.ten_button.click()  # what was clicked does not change what a page without a kernel shows
    html = one._repr_mimebundle_()["text/html"]
    assert html == two._repr_mimebundle_()["text/html"]
    assert_harmless(html)
    two.reset_button.click()
    two.ten_button.click()
    for index in (0, 4, 7):
        cells = "".join(f"<td>{percent(p)}</td>" for p in two.steps[index].after.tolist())
        assert cells in html
    assert html.count("<tr>") == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rewards": (1.0, 2.0)}, r"hold \[3, 2, 3\] entries; the triangle needs three"),
        ({"names": ("a", "b", "c", "d")}, r"\[4, 3, 3\]"),
        ({"theta": (0.0, math.nan, 0.0)}, "theta holds a value that is NaN"),
        ({"rewards": (0.0, math.inf, 0.0)}, "r holds a value that is NaN or infinite"),
    ],
)
def test_steps_check_their_start(arguments, message):
    with pytest.raises(ValueError, match=message):
        PolicySteps(**arguments)


def test_a_step_is_fast():
    steps, times = PolicySteps(batch=64), []
    for _ in range(20):
        start = time.perf_counter()
        steps.step_button.click()
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 0.05  # 2 to 3 ms on an idle machine; this only guards against a blunder
