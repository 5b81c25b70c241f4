"""The panels of lesson 06: points where they were measured, steps as they were trained, texts that stay texts."""

from __future__ import annotations

import dataclasses
import gettext
import math
import re
import statistics
import threading
import time

import numpy as np
import pytest
import torch

from course_helpers import translation
from course_helpers.frontier.table import METHODS, Sample, over_seeds
from course_helpers.sampling import log_softmax
from course_helpers.time_travel import Traveller
from course_helpers.translation import language
from course_helpers.widgets import FrontierPlot, TimeTravel, time_travel_panel
from course_helpers.widgets.frontier_picture import MARKS, View, frame_of, setting_name, shape, ticks
from course_helpers.widgets.frontier_plot import MEASURES, command
from course_helpers.widgets.markup import number, percent
from course_helpers.widgets.text_cards import card, changed, signed
from course_helpers.widgets.time_travel_panel import LONGEST, TOP, divergence
from tests.frontier_points import journey, points, samples
from tests.test_dpo_panels import cells, dot, places, row_of
from tests.test_translation import Pseudo, Signs, english_words, shown_without_a_kernel, texts_of
from tests.test_widgets import HOSTILE, assert_harmless

# Settings and texts are data; these hold no letters, so that every word that is left is the panel's.
SIGNS = tuple(Sample(prompt, "② ③", 1.0, 0.5, 2.0) for prompt in ("①", "②"))


def plain(panel_or_text) -> str:
    """What is drawn, without the style sheet and with the attributes that every panel has."""
    text = re.sub("<style.*?</style>", "", panel_or_text, flags=re.DOTALL)
    return text.replace("data-value-of", "title").replace("lang=", "title=")


@pytest.fixture(scope="module")
def signs():
    """A tiny policy without letters in its vocabulary, and its tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=8, n_positions=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval(), Signs()


@pytest.fixture
def plot():
    return FrontierPlot(points(), samples())


@pytest.fixture
def travel(small):
    return TimeTravel([journey(small[0]), journey(small[0], "ppo", "target KL 6", (0, 5, 50), seed=1)], *small)


# -------------------------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.0, 10.0, ["0", "2", "4", "6", "8", "10"]),
        (-1.3, 2.9, ["−1", "0", "1", "2"]),
        (0.31, 0.74, ["0.4", "0.5", "0.6", "0.7"]),
        (0.0, 80.0, ["0", "20", "40", "60", "80"]),
        (0.001, 0.0042, ["0.001", "0.002", "0.003", "0.004"]),
    ],
)
def test_ticks_are_round_numbers_within_the_ends(low, high, shown):
    found = ticks(low, high)
    assert [text for _at, text in found] == shown
    assert all(low - 1e-9 <= at <= high + 1e-9 for at, _text in found)
    assert [float(text.replace("−", "-")) for text in shown] == pytest.approx([at for at, _text in found])


def test_every_method_has_a_shape_of_its_own():
    assert set(MARKS) == set(METHODS)
    drawn = {shape(method, 50.0, 50.0) for method in METHODS}
    assert len(drawn) == len(METHODS)
    for path in drawn:  # within a circle around the place, so that the ring holds it
        numbers = [float(x) for x in re.findall(r"[-\d.]+", re.sub(" a.*", "", path.partition("d=")[2]))]
        assert max(math.hypot(x - 50, y - 50) for x, y in zip(numbers[::2], numbers[1::2], strict=True)) < 11


def test_settings_are_spoken_and_others_stay():
    language("en")
    for setting in ("target KL 6", "1 epoch", "3 epochs", "β = 0.1", "n = 16", "<b>"):
        assert setting_name(setting) == setting


def test_changed_words_are_bold():
    assert changed(" a good film", " a dull film") == " a<b> good</b> film"
    assert changed(" a film", " a film") == " a film"
    assert changed(" one two", "") == "<b> one two</b>"
    assert changed("", " gone") == ""
    assert changed(" <b>x</b> y", " y") == "<b> &lt;b&gt;x&lt;/b&gt;</b> y"
    assert (signed(0.5), signed(-0.5), signed(0.001), signed(-0.001)) == ("+0.50", "−0.50", "0.00", "0.00")


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_never_become_markup(text):
    sample, other = Sample(text, text, 1.0, 0.5, 2.0), Sample(text, "x", 0.0, 0.5, 2.0)
    for html in (card(sample), card(sample, other), card(other, sample)):
        assert_harmless(html)
    assert card(sample, other).count("<b>") <= 1


# ------------------------------------------------------------------------------------------------------- frontier plot


@pytest.mark.parametrize("measure", list(MEASURES))
@pytest.mark.parametrize("root", [False, True])
def test_points_crosses_and_buttons_lie_where_they_were_measured(plot, measure, root):
    """Pixels against the numbers, by a straight line through the ticks of each axis."""
    plot.measure.value, plot.root.value = measure, root
    svg = plot.picture.value
    axis = [
        (float(x), float(text.replace("−", "-"))) for x, text in re.findall(r'<text x="(.*?)" y="365.0">(.*?)<', svg)
    ]
    to_x = np.polyfit(*np.array(axis)[:, ::-1].T, 1)
    upright = re.findall(r'<text class="ch-left" x=".*?" y="(.*?)">(.*?)<', svg)
    to_y = np.polyfit([float(t.replace("−", "-")) for _y, t in upright], [float(y) - 4 for y, _t in upright], 1)
    crosses = re.findall(r'ch-cross" d="M(.*?),(.*?) H(.*?) M(.*?),(.*?) V(.*?)"', svg)
    assert len(crosses) == len(plot.points) == len(over_seeds(points()))
    for point, cross in zip(plot.points, crosses, strict=True):
        left, y, right, x, bottom, top = map(float, cross)
        kl = [getattr(point, f"kl{end}") for end in ("_low", "", "_high")]
        value = [getattr(point, f"{measure}{end}") for end in ("_low", "", "_high")]
        assert [left, x, right] == pytest.approx(np.polyval(to_x, np.sqrt(kl) if root else kl), abs=0.4)
        assert [bottom, y, top] == pytest.approx(np.polyval(to_y, value), abs=0.6)
        layout = plot.spots[point.key].layout
        assert [float(layout.left[:-1]) * 5.6, float(layout.top[:-1]) * 3.9] == pytest.approx([x, y], abs=0.1)


def test_the_ring_is_around_the_chosen_point_and_seeds_have_dots(plot):
    plot.choose("dpo|β = 0.1")
    view = View("reward")
    frame, now = frame_of(plot.points, view), plot.now
    assert dot(plot.picture.value, "ch-ring") == pytest.approx((frame.x(now.kl), frame.y(now.reward)), abs=0.06)
    trained = sum(len(point.points) for point in plot.points if len(point.points) > 1)
    assert plot.picture.value.count("ch-seed") == trained == 30


def test_best_of_n_is_joined_from_the_reference_on_and_the_reference_is_a_line(plot):
    way = places(plot.picture.value, "ch-way")
    assert len(way) == 5
    assert (np.diff(way[:, 0]) > 0).all()
    level = places(plot.picture.value, "ch-dashed")
    assert level[0, 1] == level[1, 1] == way[0, 1]
    plot.ticks["best-of-n"].value = False
    assert "ch-way" not in plot.picture.value


def test_numbers_texts_and_command_of_a_point(plot):
    plot.point.value = "dpo|β = 0.03"
    now = plot.now
    assert (now.seeds, plot.chosen) == ((0, 1, 2), "dpo|β = 0.03")
    for measure, name in MEASURES.items():
        digits = 2 if "reward" in measure else 3
        mean, ends = row_of(plot.values.value, name)
        assert mean == number(getattr(now, measure), digits)
        assert ends == " to ".join(number(getattr(now, f"{measure}_{end}"), digits) for end in ("low", "high"))
    assert row_of(plot.values.value, "responses drawn")[0] == "20,480"
    assert "<code>python -m course_helpers.train dpo --config configs/small/dpo.yaml seed=0</code>" in (
        plot.command.value
    )
    written = samples()[plot.chosen]
    assert plot.texts.value.count("ch-card") - 1 == len(written) == 6
    assert written[3].response in plot.texts.value
    plot.point.value = "reference|π_ref"
    assert "needs no training" in plot.command.value
    assert "at KL 0 by definition" in plot.summary.value


def test_a_command_names_its_method_once():
    one = next(point for point in points() if point.method == "ppo")
    assert command(one).startswith("python -m course_helpers.train ppo --config configs/small/ppo.yaml")
    named = dataclasses.replace(one, config="ppo --config configs/small/ppo.yaml seed=0")
    assert command(named) == "python -m course_helpers.train ppo --config configs/small/ppo.yaml seed=0"


def test_mouse_and_keyboard_choose_the_same(plot):
    plot.spots["ppo|β = 0.3"].click()
    assert (plot.point.value, plot.chosen) == ("ppo|β = 0.3",) * 2
    assert all(spot.tabbable is False for spot in plot.spots.values())  # one list instead of twenty stops for Tab
    assert plot.spots["ppo|β = 0.3"].description == "choose PPO, β = 0.3"


def test_it_says_who_has_more_for_less(plot):
    plot.point.value = "ppo|β = 0.1"
    assert "No point shown has more of it for less KL." in plot.summary.value
    plot.point.value = "dpo|β = 0.1"
    assert "More of it for less KL: best-of-n, n = 64." in plot.summary.value
    plot.ticks["best-of-n"].value = False
    assert "No point shown has more of it for less KL." in plot.summary.value


def test_methods_are_hidden_and_shown_again(plot):
    keys = [key for _name, key in plot.point.options]
    plot.point.value = "sft|1 epoch"
    plot.ticks["sft"].value = False
    assert [key for _name, key in plot.point.options] == [key for key in keys if not key.startswith("sft")]
    assert plot.chosen == plot.point.value == "reference|π_ref"
    assert plot.spots["sft|1 epoch"].layout.display == "none"
    for tick in plot.ticks.values():
        tick.value = False
    assert "No method is ticked." in plot.summary.value
    assert (plot.picture.value, plot.chosen, plot.point.value, plot.message.value) == ("", "", None, "")
    assert "No method is ticked." in plot.static_html()
    for tick in plot.ticks.values():
        tick.value = True
    assert [key for _name, key in plot.point.options] == keys
    assert plot.chosen == "reference|π_ref"


def test_a_plot_of_one_point_and_of_none():
    alone = FrontierPlot([point for point in points() if point.method == "reference"])
    assert alone.message.value == ""
    assert "nan" not in alone.picture.value
    assert "No texts of it were kept." in alone.texts.value
    with pytest.raises(ValueError, match="points is empty"):
        FrontierPlot([])


def test_the_plot_without_a_kernel(plot):
    text = plot._repr_mimebundle_()["text/html"]
    assert_harmless(text)
    for point in plot.points:
        name = next(name for name, key in plot.point.options if key == point.key)
        kl = f"{number(point.kl)} ({number(point.kl_low)} to {number(point.kl_high)})"
        assert row_of(text, name)[0] == kl
    assert samples()[plot.chosen][0].response in text


# --------------------------------------------------------------------------------------------------------- time travel


@pytest.mark.parametrize("step", [0, 10, 80])
def test_the_next_token_is_that_of_the_step(travel, small, step):
    travel.prompt.value = "The film is"
    travel.step.value = step
    ids = torch.tensor([small[1]("The film is")["input_ids"]])
    with torch.no_grad():
        now, before = (
            log_softmax(model(input_ids=ids).logits[0, -1].double())
            for model in (Traveller(small[0]).move(travel.journey, step), small[0])
        )
    kl = (now.exp() * (now - before)).sum().item()
    assert f"KL(π_θ‖π_ref) of the next token is {number(kl, 3)} nats" in travel.next_words.value
    rows, top = travel.rows(), torch.maximum(now, before).topk(TOP).indices.tolist()
    assert [row.token for row in rows] == [travel.name(i) for i in top]
    assert [row.probability for row in rows] == pytest.approx(now.exp()[top].tolist(), abs=1e-6)
    assert [row.before for row in rows] == pytest.approx(before.exp()[top].tolist(), abs=1e-6)
    shown = [row[2:4] for row in cells(travel.picture.value)[1:]]
    expected = [[percent(row.probability), percent(row.before)] for row in rows]
    assert [[cell.replace("&lt;", "<") for cell in row] for row in shown] == expected
    assert (kl == 0) == (step == 0)


def test_the_policy_that_was_given_does_not_move(travel, small):
    before = {name: weight.clone() for name, weight in small[0].state_dict().items()}
    for step in (10, 80, 20):
        travel.step.value = step
    travel.write_button.click()
    assert all(torch.equal(weight, before[name]) for name, weight in small[0].state_dict().items())


def test_the_step_and_what_changed_are_said(travel):
    travel.step.value = 40
    assert "Step 40 of 80: reward 2.40 by the judge that trains, 0.78 by the judge that only measures, KL 4.50" in (
        travel.summary.value
    )
    assert "Since step 20: +0.80, +0.10 and +1.50; 6 of 6 texts have changed." in travel.summary.value
    assert "<b> good</b> film" in travel.texts.value
    assert "before:  a fine film" in travel.texts.value
    assert "training judge 1.50 (+0.50)" in travel.texts.value
    travel.step.value = 10
    assert "0 of 6 texts have changed." in travel.summary.value
    assert travel.texts.value.count("the same text as before") == 6
    travel.step.value = 0
    assert "This is π_ref" in travel.summary.value
    assert "before" not in travel.texts.value


def test_the_points_lie_on_the_curves(travel):
    for step in travel.journey.steps:
        travel.step.value = step
        reward, kl = travel.curves.value.split("</svg>")[:2]
        for picture, line, mark in (
            (reward, "ch-line", "ch-first-now"),
            (reward, "ch-second", "ch-second-now"),
            (kl, "ch-line", "ch-first-now"),
        ):
            way, (x, y) = places(picture, line), dot(picture, mark)
            assert len(way) == 5
            assert [x, y] in way.tolist()
        left, right = places(kl, "ch-line")[[0, -1], 0]
        assert (x - left) / (right - left) == pytest.approx(step / 80, abs=2e-3)


def test_runs_and_prompts_are_chosen(travel):
    assert [name for name, _place in travel.run.options] == ["DPO, β = 0.1, seed 0", "PPO, target KL 6, seed 1"]
    travel.run.value = 1
    assert [step for _name, step in travel.step.options] == [0, 5, 50]
    assert travel.step.value == 50
    assert "Step 50 of 50" in travel.summary.value
    travel.known.value = "The plot of"
    assert travel.prompt.value == "The plot of"
    assert "After &#x27;The plot of&#x27;" in travel.next_words.value
    travel.prompt.value = "Nobody knows"
    assert travel.known.value == ""
    travel.prompt.value = "What a"
    assert travel.known.value == "What a"
    travel.prompt.value = ""
    assert "The prompt is empty" in travel.message.value
    assert (travel.picture.value, travel.next_words.value) == ("", "")
    travel.step.value = 5
    assert "Step 5 of 50" in travel.summary.value
    travel.run.value = 0
    assert travel.step.value == 80
    travel.prompt.value = "What a"
    assert travel.message.value == ""
    assert travel.picture.value


def test_writing_asks_both_policies_with_one_seed(travel, small):
    state = torch.random.get_rng_state()
    travel.step.value, travel.seed.value = 10, 3
    travel.write_button.click()
    assert torch.equal(torch.random.get_rng_state(), state)
    first = travel.written
    assert (first.step, first.seed, travel.message.value) == (10, 3, "")
    assert 1 <= len(first.ours.token_ids) <= LONGEST
    ids = torch.tensor([[*first.ours.prompt_ids, *first.ours.token_ids]])
    scores = []
    for model in (Traveller(small[0]).move(travel.journey, 10), small[0]):
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0].double().log_softmax(-1)
        at = len(first.ours.prompt_ids) - 1
        scores.append(sum(logits[at + t, token].item() for t, token in enumerate(first.ours.token_ids)))
    assert first.ratio == pytest.approx(scores[0] - scores[1], abs=1e-3)
    assert sum(first.ours.policy_log_probs) == pytest.approx(scores[0], abs=1e-3)
    assert f"ln π_ref(Y|X) = {number(first.ratio)} for the first" in travel.rollouts.value
    travel.write_button.click()
    assert travel.written == first
    travel.step.value = 80  # what was written stays, and says which step wrote it
    assert "π_θ, step 10" in travel.rollouts.value
    travel.step.value = 0
    travel.write_button.click()
    assert travel.written.ours == travel.written.reference
    assert travel.written.ratio == 0
    travel.prompt.value = "In the end"
    assert travel.rollouts.value == ""


def test_it_works_from_another_thread_while_gradients_are_on(travel):
    """JupyterLab runs callbacks beside a running cell, and grad mode is per thread."""

    def use():
        travel.step.value = 20
        travel.write_button.click()

    worker = threading.Thread(target=use)
    worker.start()
    worker.join()
    assert travel.message.value == ""
    assert travel.written.step == 20
    assert all(weight.grad is None and not weight.requires_grad for weight in travel.traveller.model.parameters())


def test_divergence_is_exact_where_probabilities_vanish():
    assert divergence(np.array([0.0, -2000.0]), np.array([-math.log(2), -math.log(2)])) == pytest.approx(math.log(2))
    pi, ref = np.log([0.7, 0.2, 0.1]), np.log([0.1, 0.6, 0.3])
    expected = 0.7 * math.log(7) + 0.2 * math.log(1 / 3) + 0.1 * math.log(1 / 3)
    assert divergence(pi, ref) == pytest.approx(expected)


def test_travel_without_a_kernel(travel):
    travel.step.value = 20
    text = travel._repr_mimebundle_()["text/html"]
    assert_harmless(text)
    assert row_of(text, "40") == ["2.40", "0.78", "4.50"]
    assert travel.stop.texts[0].response in text
    assert percent(travel.rows()[0].probability) in text


def test_wrong_journeys_are_named(small, signs):
    with pytest.raises(ValueError, match="journeys is empty"):
        TimeTravel([], *small)
    with pytest.raises(ValueError, match="move the same base"):
        TimeTravel([journey(signs[0])], *small)


# -------------------------------------------------------------------------------------------------------- both of them


def letterless_plot():
    wanted = [point for point in points() if point.method in ("reference", "best-of-n", "preferred-ft", "ppo")]
    panel = FrontierPlot([dataclasses.replace(p, config="") for p in wanted], {"ppo|β = 0.1": SIGNS})
    panel.root.value = True
    return panel


def letterless_travel(signs):
    runs = [journey(signs[0], setting="target KL 6", prompts=("①", "②")), journey(signs[0], "ppo", prompts=())]
    for run in runs:
        for stop in run.stops:
            new = tuple(Sample(t.prompt, f"② {stop.step}", t.reward, t.second_reward, t.kl) for t in stop.texts)
            object.__setattr__(stop, "texts", new)
    panel = TimeTravel(runs, *signs, prompt="①")
    panel.step.value = 20
    panel.write_button.click()
    return panel


MAKERS = {
    "plot": lambda signs: letterless_plot(),
    "plot of nothing": lambda signs: emptied(letterless_plot()),
    "travel": letterless_travel,
    "travel at the start": lambda signs: at_the_start(letterless_travel(signs)),
}


def emptied(panel):
    for tick in panel.ticks.values():
        tick.value = False
    return panel


def at_the_start(panel):
    panel.run.value = 1
    panel.step.value = 0
    return panel


def all_texts(panel) -> dict[str, str]:
    """Texts, and the words in lists."""
    found = texts_of(panel)
    lists = [getattr(panel, name) for name in ("point", "measure", "run", "known") if hasattr(panel, name)]
    return found | {f"list {k}": "; ".join(name for name, _v in each.options) for k, each in enumerate(lists)}


@pytest.fixture
def pseudo(monkeypatch):
    """A language that translates whatever it is given, so that what was not given stands out."""
    monkeypatch.setattr(translation, "_catalogue", {"en": gettext.NullTranslations(), "pt": Pseudo()}.get)


# What stands in a list's `value` is for the program, not for the learner.
KEYS = {"reward", "ppo|β = 0.1"}


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_every_word_follows_the_language_and_comes_back(make, signs, pseudo):
    panel = make(signs)
    before, static = all_texts(panel), shown_without_a_kernel(panel)
    language("pt")
    other = all_texts(panel)
    assert sum(other[place] != before[place] for place in before) >= 6
    for place, text in (other | shown_without_a_kernel(panel)).items():
        shown = text.removeprefix(f"{type(panel).__name__}: ") if place == "text/plain" else text
        assert text in KEYS or english_words(shown) == [], place
    assert all_texts(make(signs)) == other
    language("en")
    assert all_texts(panel) == before
    assert shown_without_a_kernel(panel) == static


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_the_static_version_is_constant_and_a_picture_is_told(make, signs):
    one, two = make(signs), make(signs)
    assert shown_without_a_kernel(one) == shown_without_a_kernel(two)
    for text in texts_of(one).values():
        assert_harmless(plain(text))
        for picture in re.findall("<svg[^>]*>", text):
            assert re.search('role="img" aria-label="[^"]{20,}"|aria-hidden="true"', picture)


def test_a_switch_of_language_asks_no_model(signs, pseudo, monkeypatch):
    panel = letterless_travel(signs)

    def refuse(*arguments, **options):
        raise AssertionError("asked")

    for name in ("next_logits", "sample_rollouts", "log_probs"):
        monkeypatch.setattr(time_travel_panel, name, refuse)
    written = panel.written
    language("pt")
    assert panel.message.value == ""
    assert panel.written is written


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_file_holds_is_text(small, text):
    odd = [dataclasses.replace(p, setting=text, config=text) for p in points() if p.method in ("ppo", "reference")]
    odd = [dataclasses.replace(p, seed=k) for k, p in enumerate(odd)]
    plot = FrontierPlot(odd, {f"ppo|{text}": (Sample(text, text, 1.0, 0.5, 2.0),)})
    plot.choose(f"ppo|{text}")
    run = journey(small[0], setting=text, prompts=(text,))
    travel = TimeTravel([run], *small, prompt="This")
    for panel in (plot, travel):
        assert panel.message.value == ""
        for part in texts_of(panel).values():
            if "<" in part and part != text and not part.startswith(("choose ", "ppo|")):  # these are plain text
                assert_harmless(plain(part))
        assert_harmless(panel._repr_mimebundle_()["text/html"])


def test_an_event_takes_a_few_milliseconds(plot, travel, one_thread):
    """The shipped policy's forward pass is in it; CPU time, as other work may run beside."""
    for panel, control, most in ((plot, "point", 0.03), (travel, "step", 0.08)):
        moved, times = getattr(panel, control), []
        values = [value for _name, value in moved.options]
        for turn in range(20):
            start = time.process_time()
            moved.value = values[turn % len(values)]
            times.append(time.process_time() - start)
        assert statistics.median(times) < most, control  # 2 and 30 ms on an idle machine
