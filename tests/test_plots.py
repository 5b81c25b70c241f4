"""Figures show the numbers they are given, and their labels cannot be read as formulas."""

import gettext
import math
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest

matplotlib.use("Agg")

from course_helpers import plots, translation
from course_helpers.translation import language


@pytest.fixture(autouse=True)
def closed():
    yield
    plots.plt.close("all")


def labels(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_bars_are_the_largest_probabilities_in_order():
    axes = plots.token_bars(["a", " b", "c", "d"], {"π": [0.1, 0.4, 0.2, 0.3]}, top=3)
    assert labels(axes) == ["·b", "d", "c"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.4, 0.3, 0.2])


def test_second_distribution_is_shown_for_the_same_tokens():
    axes = plots.token_bars(["a", "b", "c"], {"one": [0.5, 0.3, 0.2], "two": [0.1, 0.1, 0.8]}, top=2)
    assert labels(axes) == ["a", "b"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.5, 0.3, 0.1, 0.1])
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"one", "two"}


@pytest.mark.parametrize(("token", "shown"), [(" the", "·the"), ("\n", "⏎"), ("$x$", r"\$x\$"), ("", "∅")])
def test_tokens_are_made_visible(token, shown):
    assert plots.label(token) == shown


def test_lines_hold_the_series_and_the_known_levels():
    axes = plots.lines([0, 1, 2], {"y": [1, 4, 9], "z": [0, 0, 1]}, "x [s]", "y [m]", levels={"four": 4.0})
    assert [list(line.get_ydata()) for line in axes.lines[:2]] == [[1, 4, 9], [0, 0, 1]]
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()
    assert axes.lines[2].get_ydata() == [4.0, 4.0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x [s]", "y [m]")


def test_standard_error_draws_the_law():
    sizes = np.array([1, 4, 16])
    axes = plots.standard_error(sizes, [1.9, 1.1, 0.5], sigma=2.0, ylabel="error")
    assert list(axes.lines[0].get_ydata()) == [2.0, 1.0, 0.5]
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_histogram_counts_every_value():
    axes = plots.histogram(np.arange(100), "value", marks={"mean": 49.5}, bins=10)
    assert sum(bar.get_height() for bar in axes.patches) == 100
    assert list(axes.lines[0].get_xdata()) == [49.5, 49.5]


def test_map_names_the_approaches():
    text = " ".join(t.get_text() for t in plots.fine_tuning_map().texts)
    for name in ("instruction tuning", "reward model", "PPO", "DPO", "LoRA", "full"):
        assert name in text


def test_colours_differ_in_lightness_for_the_colour_blind():
    grey = [np.dot(matplotlib.colors.to_rgb(c), [0.2126, 0.7152, 0.0722]) for c in (plots.BLUE, plots.ORANGE)]
    assert abs(grey[0] - grey[1]) > 0.2
    assert len(set(plots.COLOURS)) == len(plots.COLOURS) == len(set(map(str, plots.STYLES)))


def test_histograms_share_their_bins_and_count_every_value():
    rng = np.random.default_rng(0)
    axes = plots.histograms({"one": rng.normal(size=500), "two": rng.normal(3, 1, 700)}, "x [m]", marks={"truth": 1.5})
    outlines = [patch.get_xy() for patch in axes.patches if not patch.get_fill()]
    assert [outline[:, 0].min() for outline in outlines] == [outlines[0][:, 0].min()] * 2
    heights = [patch.get_xy()[1:-1:2, 1].sum() for patch in axes.patches if not patch.get_fill()]
    assert heights == [500, 700]
    assert list(axes.lines[0].get_xdata()) == [1.5, 1.5]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"one", "two", "truth: 1.50"}


def test_simplex_puts_policies_where_their_probabilities_say():
    corners = plots.on_simplex(np.eye(3))
    sides = [np.linalg.norm(corners[k] - corners[k - 1]) for k in range(3)]
    assert sides == pytest.approx([1, 1, 1])
    assert corners[0][1] == max(corners[:, 1])  # the first on top, the second left
    assert corners[1][0] == min(corners[:, 0])
    mixed = np.array([0.2, 0.5, 0.3])
    assert plots.on_simplex(mixed) == pytest.approx(mixed @ corners)


def test_simplex_draws_arrows_and_trails_as_given():
    begin, ends = np.array([0.2, 0.5, 0.3]), np.array([[0.4, 0.4, 0.2], [0.1, 0.6, 0.3]])
    way = np.array([[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.6, 0.2, 0.2]])
    axes = plots.simplex(["a", " $b$", "c"], {"pull": (begin, ends)}, {"ascent": way}, "moves")
    quiver = axes.collections[0]
    assert quiver.get_offsets() == pytest.approx(np.broadcast_to(plots.on_simplex(begin), (2, 2)))
    moved = np.stack([quiver.U, quiver.V], axis=1)
    assert moved == pytest.approx(plots.on_simplex(ends) - plots.on_simplex(begin))
    trail = next(line for line in axes.lines if line.get_label() == "ascent")
    assert trail.get_xydata() == pytest.approx(plots.on_simplex(way))
    assert [text.get_text() for text in axes.texts] == ["always a", r"always  \$b\$", "always c"]
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"ascent", "pull"}


STAGES = [SimpleNamespace(name=n, entered=e, kept=k) for n, e, k in (("a", 90, 90), ("$b$", 90, 60), ("c", 60, 0))]


def test_funnel_shows_what_was_kept_and_hatches_what_was_not():
    axes = plots.plot_funnel(STAGES, "examples")
    kept = [bar for bar in axes.patches if not bar.get_hatch()]
    lost = [bar for bar in axes.patches if bar.get_hatch()]
    assert [bar.get_width() for bar in kept] == [90, 60, 0]
    assert [(bar.get_x(), bar.get_width()) for bar in lost] == [(60, 30), (0, 60)]  # none where nothing was lost
    assert [text.get_text() for text in axes.texts] == ["90 of 90", "60 of 90", "0 of 60"]
    assert labels(axes) == ["a", r"\$b\$", "c"]
    middles = [bar.get_y() + bar.get_height() / 2 for bar in kept]
    pixels = [axes.transData.transform((0, y))[1] for y in middles]
    assert pixels == sorted(pixels, reverse=True)  # the first stage on top
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["kept", "rejected"]


def test_funnel_of_impossible_counts_is_refused():
    with pytest.raises(ValueError, match="stages is empty"):
        plots.plot_funnel([])
    for entered, kept in ((3, 4), (3, -1)):
        with pytest.raises(ValueError, match=rf"'a' kept {kept} of 3; expected from 0 to all"):
            plots.plot_funnel([SimpleNamespace(name="a", entered=entered, kept=kept)])


def share(stage, measure, seed, value, half=0.0):
    return {"stage": stage, "measure": measure, "seed": seed, "value": value, "low": value - half, "high": value + half}


def drawn_points(axes):
    """Of each measure: x and y of its marks, and lower and upper ends of their intervals, in percent."""
    found = {}
    for container in axes.containers:
        line, _caps, (bars,) = container
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        found[container.get_label()] = (np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), ends)
    return found


def test_forgetting_shows_means_seeds_and_both_kinds_of_luck():
    values = {"before": (0.1, 0.2, 0.3), "after": (0.7, 0.8, 0.9)}
    rows = [share(stage, "skill", k, v, 0.05) for stage, found in values.items() for k, v in enumerate(found)]
    rows += [share("after", "knowledge", 0, 0.5, 0.05)]
    axes = plots.plot_forgetting(rows)
    found = drawn_points(axes)
    x, y, ends = found["skill"]
    assert y == pytest.approx([20, 80])
    # Three seeds 0.1 apart: t with 2 degrees of freedom is 4.3027, the standard error 0.1/√3; the questions add ±0.05.
    half = 100 * math.hypot(4.302652729911275 * 0.1 / math.sqrt(3), 0.05)
    assert ends == pytest.approx(np.array([[max(20 - half, 0), 20 + half], [80 - half, min(80 + half, 100)]]))
    alone = found["knowledge"]
    assert alone[1] == pytest.approx([50])
    assert alone[2] == pytest.approx(np.array([[45, 55]]))  # of one seed, the questions' own interval
    assert [round(place) for place in x] == [0, 1]
    assert [round(place) for place in alone[0]] == [1]  # a stage that was not measured has no mark
    seeds = [line.get_ydata() for line in axes.lines if line.get_marker() == "."]
    assert [sorted(each) for each in seeds] == [
        pytest.approx([10, 20, 30]),
        pytest.approx([70, 80, 90]),
        pytest.approx([50]),
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["before", "after"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows is empty"),
        ([{"stage": "a", "measure": "b", "seed": 0, "value": 0.5, "low": 0.4}], r"rows\[0\] has no 'high'"),
        ([share("a", "b", 0, 0.5), share("a", "b", 1, 93.0)], r"rows\[1\] has low 93.0"),
        ([share("a", "b", 0, 0.5, -0.1)], "0 <= low <= value <= high <= 1"),
        ([share("a", "b", 0, math.nan)], "value nan"),
    ],
)
def test_forgetting_needs_shares(rows, message):
    with pytest.raises(ValueError, match=message):
        plots.plot_forgetting(rows)


def test_the_courses_own_names_follow_the_language(monkeypatch):
    class Marked(gettext.NullTranslations):
        def gettext(self, message):
            return f"<{message}>"

    monkeypatch.setattr(translation, "_catalogue", {"en": gettext.NullTranslations(), "pt": Marked()}.get)
    language("pt")
    rows = [share(stage, measure, 0, 0.5) for stage in plots.LAB_STAGES for measure in plots.LAB_MEASURES]
    axes = plots.plot_forgetting(rows)
    shown = [label.get_text().replace("\n", " ") for label in axes.get_xticklabels()]
    assert shown == [f"<{stage}>" for stage in plots.LAB_STAGES]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == [f"<{measure}>" for measure in plots.LAB_MEASURES]
    assert axes.get_ylabel() == "<exact answers [%]>"
    assert labels(plots.plot_funnel(STAGES))[0] == "<a>"
