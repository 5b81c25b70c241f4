"""Live curves show what they are given, cost little, survive an interrupt, and leave the same output each time."""

import base64
import io
import math
from html.parser import HTMLParser

import matplotlib.image
import nbformat
import numpy as np
import pytest

from course_helpers import live
from course_helpers.live import CURVES, LiveCurves, clock_time, moving_average
from course_helpers.ppo.stats import STATS

HOSTILE = ["<img src=x onerror=alert(1)>", "</td></table><script>alert(1)</script>", '" onload="alert(1)', "\u202e\x07"]


def stats_of(iteration: int) -> dict:
    """What a step could report."""
    return {curve.key: iteration + place / 10 for place, curve in enumerate(CURVES)} | {"time/ppo/total": 1.0}


class Page:
    """Stands in for a notebook's page: its outputs, and every message that reached it."""

    def __init__(self):
        self.outputs: list[dict] = []
        self.messages: list[dict] = []

    def display(self, data, raw=False, display_id=False, metadata=None):
        assert raw
        place = len(self.outputs)
        self.outputs.append(data)
        self.messages.append(data)
        page = self

        class Handle:
            def update(self, data, raw=False, metadata=None):
                assert raw
                page.outputs[place] = data
                page.messages.append(data | {"metadata": metadata})

        return Handle() if display_id else None


@pytest.fixture
def page(monkeypatch):
    shown = Page()
    monkeypatch.setattr("IPython.display.display", shown.display)
    monkeypatch.setattr(live, "in_kernel", lambda: True)
    return shown


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_curves_are_statistics_of_a_step():
    assert {curve.key for curve in CURVES} <= set(STATS)


def test_moving_average_keeps_a_straight_line_and_smooths_the_rest():
    line = 3.0 * np.arange(20) - 7
    np.testing.assert_allclose(moving_average(line, 5), line, atol=1e-12)
    noise = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(moving_average(noise, 5)[2:-2], np.convolve(noise, np.ones(5) / 5, "valid"), atol=1e-12)
    np.testing.assert_allclose(moving_average(noise, 1), noise, atol=1e-12)
    np.testing.assert_allclose(moving_average([1.0, math.nan, 5.0], 3), [1.0, 3.0, 5.0])
    assert len(moving_average([], 5)) == 0
    assert set(moving_average([0.1] * 30, 5)) == {0.1}  # or an axis would show the rounding of a constant


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (35.4, "0:35"), (59.6, "1:00"), (3725, "1:02:05")])
def test_time_as_a_clock_shows_it(seconds, text):
    assert clock_time(seconds) == text


def test_every_number_is_kept_and_drawn(page):
    curves = LiveCurves(target=6.0, window=1)
    for iteration in range(4):
        curves.update(stats_of(iteration))
    for place, curve in enumerate(CURVES):
        expected = [iteration + place / 10 for iteration in range(4)]
        assert curves.history[curve.name] == expected
    curves.draw()
    for place, axes in enumerate(curves.figure.axes):
        for drawn in axes.lines[:2]:
            np.testing.assert_allclose(drawn.get_ydata(), np.arange(4) + place / 10)
            assert list(drawn.get_xdata()) == [1, 2, 3, 4]
    assert list(curves.figure.axes[1].lines[2].get_ydata()) == [6.0, 6.0]


def test_rewards_take_the_place_of_scaled_scores():
    curves = LiveCurves()
    curves.update(stats_of(7), ["a", "b"], ["c", "d"], [1.0, 4.0])
    assert curves.history["reward"] == [2.5]
    assert curves.history["KL"] == [7.1]


def test_progress_tells_the_time_left():
    clock = Clock()
    with LiveCurves(iterations=40, clock=clock) as curves:
        assert curves.progress() == "iteration 0 of 40"
        for iteration in range(12):
            clock.now += 1.25
            curves.update(stats_of(iteration))
        assert curves.progress() == "iteration 12 of 40, 0:35 left"
    assert LiveCurves().progress() == "iteration 0"


@pytest.mark.parametrize("seconds", [0.02, 4.0])
def test_drawing_takes_no_more_than_its_share(page, monkeypatch, seconds):
    clock = Clock()
    curves = LiveCurves(iterations=2000, clock=clock)
    picture = curves.draw()
    curves.draws = 0

    def draw():
        curves.draws += 1
        clock.now += 0.1
        return picture

    monkeypatch.setattr(curves, "draw", draw)
    with curves:
        for iteration in range(2000):
            clock.now += seconds
            curves.update(stats_of(iteration))
    elapsed = clock.now - curves.started
    assert curves.drawing_seconds + 0.1 <= 0.03 * elapsed + 0.2  # the first and the last picture are drawn regardless
    affordable = min(2000, 0.03 * elapsed / 0.1)
    assert curves.draws > 0.9 * affordable  # thrifty, but not blind


def test_an_interrupt_goes_on_and_nothing_is_lost(page):
    clock = Clock()
    curves = LiveCurves(iterations=10, clock=clock)  # time stands still: nothing after the first picture is affordable

    def loop():
        with curves:
            for iteration in range(10):
                curves.update(stats_of(iteration), ["q"], [f"response {iteration}"], [0.0])
                if iteration == 6:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert curves.history["KL"] == pytest.approx([iteration + 0.1 for iteration in range(7)])
    assert len(curves.figure.axes[0].lines[0].get_xdata()) == 7
    assert "7 iterations" in page.outputs[-1]["text/plain"]
    assert "(interrupted)" in page.outputs[-1]["text/html"]
    assert "response 6" in page.outputs[-1]["text/html"]


def test_silent_without_a_kernel(capsys, monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: pytest.fail("nothing is to be shown"))
    with LiveCurves(iterations=2) as curves:
        curves.update(stats_of(0), ["q"], ["r"], [0.5])
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert curves.history["reward"] == [0.5]


def run(clock: Clock) -> LiveCurves:
    with LiveCurves(iterations=3, target=6.0, title="optimistic", clock=clock) as curves:
        for iteration in range(3):
            clock.now += 1 + clock.now / 100
            curves.update(stats_of(iteration), ["This film"], [" is"], [iteration / 3])
    return curves


def test_stored_output_is_a_picture_that_depends_on_the_numbers_alone(page):
    early, late = Clock(), Clock()
    late.now = 5000.0
    run(early)
    first = page.outputs[:]
    run(late)
    assert page.outputs[2:] == first
    picture, words = first
    assert set(picture) == {"text/plain", "image/png"}
    stored = base64.b64decode(picture["image/png"])
    assert matplotlib.image.imread(io.BytesIO(stored)).shape[:2] == (396, 810)
    assert len(stored) < 30_000  # a lesson has several, and a notebook is to stay under a megabyte
    assert "reward" in words["text/plain"]
    assert "<table>" in words["text/html"]
    last = [message for message in page.messages if "image/png" in message][-1]
    assert last["metadata"]["image/png"]["alt"] == words["text/plain"].splitlines()[0]


def test_plain_text_of_the_picture_never_changes(page):
    """A check of stored outputs compares what is sent first with what was there last."""
    run(Clock())
    handle = [message for message in page.messages if message is not page.outputs[-1]]
    assert {message["text/plain"] for message in handle} == {"LiveCurves: optimistic"}
    assert set(handle[0]) == {"text/plain"}


def test_live_picture_has_words_for_whoever_cannot_see_it(page):
    curves = LiveCurves(target=6.0)
    curves.update(stats_of(1))
    assert (
        'alt="training, 1 iterations: mean reward 1.00 → 1.00, KL [nats a response] 1.10'
        in page.outputs[0]["text/html"]
    )


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.attributes = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_never_become_markup(page, text):
    with LiveCurves(title=text) as curves:
        curves.update(stats_of(0), [text], [text], [1.0])
    for message in page.messages:
        tags = Tags(message.get("text/html", ""))
        assert tags.found <= {"div", "p", "img", "table", "thead", "tbody", "tr", "th", "td"}
        assert tags.attributes <= {"alt", "class", "src", "scope", "style"}
        assert "\u202e" not in "".join(str(part) for part in message.values())


def test_pyplot_knows_nothing_of_it(page):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    run(Clock())
    assert plt.get_fignums() == before


@pytest.mark.filterwarnings("error")
def test_numbers_that_are_none_leave_a_gap(page):
    with LiveCurves() as curves:
        for value in (math.nan, 1.0, math.inf, 2.0):
            curves.update({"ppo/mean_scores": value})
    assert math.isnan(curves.history["KL"][0])


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="pass what step"):
        LiveCurves().update({"loss": 1.0})
    with pytest.raises(ValueError, match="2 queries, 1 responses"):
        LiveCurves().update(stats_of(0), ["a", "b"], ["c"])
    with pytest.raises(ValueError, match=r"tokenizer\.decode"):
        LiveCurves().update(stats_of(0), ["a"], [np.array([1, 2])])
    with pytest.raises(ValueError, match="iterations is 0"):
        LiveCurves(iterations=0)
    with pytest.raises(ValueError, match="share is 0"):
        LiveCurves(share=0)


def test_colours_of_the_stored_picture_are_those_drawn():
    curves = LiveCurves(target=6.0)
    for iteration in range(30):
        curves.update(stats_of(iteration))
    drawn = curves.draw()
    before, after = (matplotlib.image.imread(io.BytesIO(png))[..., :3] for png in (drawn, live._smaller(drawn)))
    assert np.abs(before - after).max() < 0.2  # blends at the edge of a line; the eye takes them for the same
    assert live._number(-0.001) == "0.00"


CELL = """
from course_helpers.live import CURVES, LiveCurves
with LiveCurves(iterations=3, target=6.0) as live:
    for i in range(3):
        live.update({curve.key: float(i) for curve in CURVES}, ["<b>q"], ["r"], [1.0])
"""


def test_in_a_real_kernel():
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    picture, words = notebook.cells[0].outputs
    assert picture.data["text/plain"] == "LiveCurves: training"
    assert set(picture.data) == {"text/plain", "image/png"}
    assert "3 iterations" in picture.metadata["image/png"]["alt"]
    assert "&lt;b&gt;q" in words.data["text/html"]


# ------------------------------------------------------------------------------------- the other figures of a training


@pytest.fixture
def plots():
    import matplotlib

    matplotlib.use("Agg")
    from course_helpers import plots

    yield plots
    plots.plt.close("all")


def test_loop_names_its_four_steps_in_order(plots):
    axes = plots.rlhf_loop()
    words = " ".join(text.get_text() for text in axes.texts)
    places = [words.index(step) for step in ("1 · sample", "2 · estimate", "3 · extend", "4 · update")]
    assert places == sorted(places)
    assert sum(text.arrow_patch is not None for text in axes.texts if hasattr(text, "arrow_patch")) == 4


def test_paths_end_in_a_star(plots):
    axes = plots.paths({"one": ([0, 1, 2], [3, 4, 5]), "two": ([0, 9], [1, 8])}, "KL", "reward")
    lines, ends = axes.lines[::2], axes.lines[1::2]
    assert [list(line.get_xdata()) for line in lines] == [[0, 1, 2], [0, 9]]
    assert [(*end.get_xdata(), *end.get_ydata()) for end in ends] == [(2, 5), (9, 8)]
    assert {end.get_marker() for end in ends} == {"*"}


def test_band_is_mean_and_range(plots):
    runs = np.array([[0.0, 1.0], [1.0, 5.0], [2.0, 0.0]])
    axes = plots.band([1, 2], runs, "iteration", "reward")
    assert list(axes.lines[0].get_ydata()) == [1.0, 2.0]
    corners = axes.collections[0].get_paths()[0].vertices
    assert {(1.0, 0.0), (1.0, 2.0), (2.0, 0.0), (2.0, 5.0)} <= {tuple(corner) for corner in corners}


def test_estimates_have_errors_along_both_axes(plots):
    axes = plots.estimates({"a": ((1.0, 0.2), (0.5, 0.1))}, "KL", "P")
    segments = [bar.get_segments()[0] for bar in axes.containers[0].lines[2]]
    np.testing.assert_allclose(segments, [[[0.8, 0.5], [1.2, 0.5]], [[1.0, 0.4], [1.0, 0.6]]])
