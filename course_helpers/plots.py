"""Figures of the lessons: labelled axes, colours that the colour-blind can tell apart, one look throughout.

Every function draws into the axes it is given, or makes its own, and returns them; the lesson shows the figure with
``plt.show()``. Its own words are in the language of the moment; those a lesson passes in stay as they are.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from course_helpers.checks import is_finite
from course_helpers.frontier.table import t_quantile
from course_helpers.prose import sendable
from course_helpers.tokens import visible
from course_helpers.translation import N_, _

# Okabe and Ito, 2008, "Color Universal Design": told apart in every common form of colour blindness
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#6E6E6E"
"""Colours that the colour-blind can tell apart."""
COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, GREY)
"""The same colours, in the order in which lines get them."""
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))  # so that the lines differ in print, too
WIDTH, HEIGHT = 7.0, 3.2  # inches: readable at the width of a notebook
# What lesson 07 measures, and when: known here so that figures can say it in the language of the moment.
LAB_MEASURES = (N_("skill"), N_("knowledge"))
LAB_STAGES = (N_("before"), N_("after knowledge"), N_("skills without replay"), N_("skills with replay"))
"""The stages of lesson 07 at which a model is measured, in their order."""


def new_axes(xlabel: str, ylabel: str, title: str = "", height: float = HEIGHT) -> Axes:
    """Empty axes with labels; units belong into the labels.

    Args:
        xlabel: quantity and unit.
        ylabel: quantity and unit.
        title: what the figure shows.
        height: in inches.

    Returns:
        The axes, of a figure of their own.
    """
    axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")[1]
    axes.set(xlabel=plain(xlabel), ylabel=plain(ylabel), title=plain(title))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return axes


def label(token: str) -> str:
    """A token as a label: what cannot be seen is made visible, and nothing is read as a formula."""
    return plain(visible(token)) or "∅"


def token_bars(
    tokens: Sequence[str],
    distributions: Mapping[str, ArrayLike],
    title: str = "",
    top: int = 12,
    axes: Axes | None = None,
) -> Axes:
    """Horizontal bars: the most probable tokens of the first distribution, and what the others give to the same tokens.

    Args:
        tokens: the text of each of the V tokens.
        distributions: name → V probabilities.
        title: what the figure shows.
        top: how many tokens.
        axes: where to draw; new axes when None.

    Returns:
        The axes.
    """
    first = np.asarray(next(iter(distributions.values())))
    order = np.argsort(-first, kind="stable")[:top]
    axes = axes or new_axes(_("probability"), _("next token"), title, height=0.9 + 0.26 * top)
    thickness = 0.8 / len(distributions)
    for k, (name, probabilities) in enumerate(distributions.items()):
        places = np.arange(top) + (k - (len(distributions) - 1) / 2) * thickness
        axes.barh(places, np.asarray(probabilities)[order], thickness, color=COLOURS[k], label=plain(name))
    axes.set_yticks(np.arange(top), [label(tokens[i]) for i in order], family="monospace")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    if len(distributions) > 1:
        axes.legend()
    return axes


def lines(
    x: ArrayLike,
    series: Mapping[str, ArrayLike],
    xlabel: str,
    ylabel: str,
    title: str = "",
    levels: Mapping[str, float] | None = None,
    axes: Axes | None = None,
) -> Axes:
    """One line a series over the same x, and dotted horizontal lines at known values.

    Args:
        x: n values.
        series: name → n values.
        xlabel: quantity and unit.
        ylabel: quantity and unit.
        title: what the figure shows.
        levels: name → a value known beforehand.
        axes: where to draw; new axes when None.

    Returns:
        The axes.
    """
    axes = axes or new_axes(xlabel, ylabel, title)
    for k, (name, y) in enumerate(series.items()):
        axes.plot(x, y, linestyle=STYLES[k], color=COLOURS[k], linewidth=2, label=plain(name))
    for name, level in (levels or {}).items():
        axes.axhline(level, color=GREY, linestyle=":", linewidth=1.5)
        axes.annotate(plain(name), (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=GREY)
    if len(series) > 1:
        axes.legend()
    return axes


def histogram(
    values: ArrayLike, xlabel: str, title: str = "", marks: Mapping[str, float] | None = None, bins: int = 40
) -> Axes:
    """How often each value occurs, with vertical lines at named values.

    Args:
        values: n numbers.
        xlabel: quantity and unit.
        title: what the figure shows.
        marks: name → where its line stands.
        bins: how many.

    Returns:
        The axes.
    """
    axes = new_axes(xlabel, _("count"), title)
    axes.hist(np.asarray(values), bins=bins, color=BLUE, alpha=0.75)
    for k, (name, value) in enumerate((marks or {}).items()):
        axes.axvline(
            value, color=COLOURS[k + 1], linestyle=STYLES[k + 1], linewidth=2, label=plain(f"{name}: {value:.2f}")
        )
    if marks:
        axes.legend()
    return axes


def standard_error(
    sizes: ArrayLike, errors: ArrayLike, sigma: float, ylabel: str, title: str = "", measured: str = ""
) -> Axes:
    """Error of a mean against the number of samples, both logarithmic, beside the law σ/√n.

    Args:
        sizes: numbers of samples n.
        errors: the root mean square error seen at each n.
        sigma: standard deviation σ of one sample.
        ylabel: the error and its unit.
        title: what the figure shows.
        measured: name of the points; "measured" if empty.

    Returns:
        The axes.
    """
    axes = new_axes(_("number of samples n"), ylabel, title)
    sizes = np.asarray(sizes)
    axes.loglog(sizes, sigma / np.sqrt(sizes), "--", color=GREY, linewidth=2, label="σ/√n")
    axes.loglog(sizes, errors, "o", color=BLUE, label=plain(measured) or _("measured"))
    axes.legend()
    return axes


def fine_tuning_map() -> Axes:
    """The approaches the course compares: what each learns from, and where each leads."""
    axes = plt.subplots(figsize=(WIDTH + 2, 3.4), layout="constrained")[1]
    axes.set(xlim=(0, 10), ylim=(0, 4.4))
    axes.axis("off")
    boxes = {
        "start": (_("pre-trained LM\n(much text)"), 0.9, 2.4, GREY),
        "tuned": (_("instruction tuning\n(demonstrations)"), 3.4, 2.4, BLUE),
        "judge": (_("reward model\n(preferences)"), 6.1, 3.8, ORANGE),
        "ppo": (_("RLHF with PPO\n(rollouts, rewards)"), 8.9, 3.8, RED),
        "dpo": (_("DPO\n(preferences, no rollouts)"), 7.9, 1.1, GREEN),
    }
    drawn = {}
    for key, (text, x, y, colour) in boxes.items():
        shape = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": colour, "linewidth": 2}
        drawn[key] = axes.text(x, y, text, ha="center", va="center", fontsize=11, bbox=shape)
    for begin, end in (("start", "tuned"), ("tuned", "judge"), ("judge", "ppo"), ("tuned", "ppo"), ("tuned", "dpo")):
        arrow = {"arrowstyle": "->", "color": GREY, "linewidth": 2, "shrinkA": 8, "shrinkB": 8}
        arrow |= {"patchA": drawn[begin].get_bbox_patch(), "patchB": drawn[end].get_bbox_patch()}
        axes.annotate("", boxes[end][1:3], boxes[begin][1:3], arrowprops=arrow)
    note = _("each can move all weights (full), or only a low-rank addition to them (LoRA)")
    axes.text(5, 0.1, note, ha="center", color=GREY, fontsize=11)
    return axes


def rlhf_loop() -> Axes:
    """One iteration of RLHF: sample responses, estimate rewards, extend the data, update the policy, and again."""
    axes = plt.subplots(figsize=(WIDTH + 2, 4.2), layout="constrained")[1]
    axes.set(xlim=(0, 10), ylim=(0, 5))
    axes.axis("off")
    boxes = (
        (_("1 · sample responses\nY drawn from π_θ(· | X)"), 2.3, 4.2, BLUE),
        (_("2 · estimate rewards\nr(X, Y), from a judge"), 7.7, 4.2, ORANGE),
        (_("3 · extend the data\n(X, Y, r), ln π_old, ln π_ref"), 7.7, 1.5, GREEN),
        (_("4 · update the policy\nE[r] up, at β a nat of KL"), 2.3, 1.5, RED),
    )
    drawn = []
    for text, x, y, colour in boxes:
        shape = {"boxstyle": "round,pad=0.6", "facecolor": "white", "edgecolor": colour, "linewidth": 2}
        drawn.append(axes.text(x, y, text, ha="center", va="center", fontsize=11, bbox=shape))
    for place, (begin, end) in enumerate(zip(boxes, boxes[1:] + boxes[:1], strict=True)):
        arrow = {"arrowstyle": "-|>", "color": GREY, "linewidth": 2, "shrinkA": 8, "shrinkB": 8}
        arrow |= {"patchA": drawn[place].get_bbox_patch(), "patchB": drawn[(place + 1) % 4].get_bbox_patch()}
        axes.annotate("", end[1:3], begin[1:3], arrowprops=arrow)
    axes.text(5, 2.85, _("one iteration;\nthen fresh responses"), ha="center", va="center", color=GREY, fontsize=11)
    axes.text(5, 0.35, _("π_ref stays frozen: it says how far π_θ has gone"), ha="center", color=GREY, fontsize=11)
    return axes


def paths(
    runs: Mapping[str, tuple[ArrayLike, ArrayLike]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """Where each run went, step by step: a line through its points, its end marked by a star.

    Args:
        runs: name → x and y of its steps.
        xlabel: quantity and unit.
        ylabel: quantity and unit.
        title: what the figure shows.
        axes: where to draw; new axes when None.

    Returns:
        The axes.
    """
    axes = axes or new_axes(xlabel, ylabel, title)
    for k, (name, (x, y)) in enumerate(runs.items()):
        axes.plot(x, y, ".", linestyle=STYLES[k], color=COLOURS[k], linewidth=1.5, label=plain(name))
        axes.plot(x[-1:], y[-1:], "*", color=COLOURS[k], markersize=13, markeredgecolor="white")
    axes.legend()
    return axes


def band(
    x: ArrayLike, runs: ArrayLike, xlabel: str, ylabel: str, title: str = "", levels: Mapping[str, float] | None = None
) -> Axes:
    """The mean of several runs, and the range that all of them lie in.

    Args:
        x: n values.
        runs: (k, n), one row a run.
        xlabel: quantity and unit.
        ylabel: quantity and unit.
        title: what the figure shows.
        levels: name → a value known beforehand.

    Returns:
        The axes.
    """
    runs = np.asarray(runs)
    axes = lines(x, {_("mean"): runs.mean(axis=0)}, xlabel, ylabel, title, levels)
    look = {"color": BLUE, "alpha": 0.2, "linewidth": 0, "label": _("lowest to highest")}
    axes.fill_between(x, runs.min(axis=0), runs.max(axis=0), **look)
    axes.legend()
    return axes


def estimates(
    points: Mapping[str, tuple[tuple[float, float], tuple[float, float]]], xlabel: str, ylabel: str, title: str = ""
) -> Axes:
    """Named points with an error along both axes.

    Args:
        points: name → ((x, half its interval), (y, half its interval)).
        xlabel: quantity and unit.
        ylabel: quantity and unit.
        title: what the figure shows.

    Returns:
        The axes.
    """
    axes = new_axes(xlabel, ylabel, title)
    for k, (name, ((x, dx), (y, dy))) in enumerate(points.items()):
        style = {"marker": "osD^vP"[k % 6], "color": COLOURS[k % 6], "capsize": 3, "linestyle": "none"}
        axes.errorbar(x, y, yerr=dy, xerr=dx, label=plain(name), **style)
    axes.legend()
    return axes


def histograms(
    series: Mapping[str, ArrayLike], xlabel: str, title: str = "", marks: Mapping[str, float] | None = None
) -> Axes:
    """Several histograms over the same bins as outlines, with vertical lines at named values.

    Args:
        series: name → its values.
        xlabel: quantity and unit.
        title: what the figure shows.
        marks: name → a value known beforehand.

    Returns:
        The axes.
    """
    axes = new_axes(xlabel, _("count"), title)
    bins = np.histogram_bin_edges(np.concatenate([np.ravel(values) for values in series.values()]), bins=60)
    for k, (name, values) in enumerate(series.items()):
        axes.hist(np.ravel(values), bins=bins, histtype="stepfilled", color=COLOURS[k], alpha=0.15)
        style = {"color": COLOURS[k], "linestyle": STYLES[k], "linewidth": 2, "label": plain(name)}
        axes.hist(np.ravel(values), bins=bins, histtype="step", **style)
    for name, value in (marks or {}).items():
        axes.axvline(value, color="black", linestyle=":", linewidth=1.5, label=plain(f"{name}: {value:.2f}"))
    axes.legend()
    return axes


def on_simplex(pi: ArrayLike) -> np.ndarray:
    """Where policies over three responses lie in the plane: the first response's corner on top, then left, then right.

    Args:
        pi: (..., 3), each row summing to 1.

    Returns:
        (..., 2), in units of the triangle's side.
    """
    return np.asarray(pi, dtype=float) @ np.array([[0.5, np.sqrt(0.75)], [0.0, 0.0], [1.0, 0.0]])


def simplex(
    names: Sequence[str],
    arrows: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    trails: Mapping[str, ArrayLike] | None = None,
    title: str = "",
    axes: Axes | None = None,
) -> Axes:
    """The triangle of all policies over three responses, with arrows between policies and ways through them.

    Each corner is the policy that always writes one response; grey lines join policies that give a response 20, 40, 60
    or 80 %.

    Args:
        names: the three responses: top, left and right corner.
        arrows: name → policies where they begin and where they end, each (3,) or (k, 3).
        trails: name → (n, 3) policies one after the other; a star marks the last.
        title: what the figure shows.
        axes: where to draw; new axes when None.

    Returns:
        The axes.
    """
    axes = axes or plt.subplots(figsize=(WIDTH * 0.75, WIDTH * 0.7), layout="constrained")[1]
    axes.set(xlim=(-0.16, 1.16), ylim=(-0.14, 1.0), aspect="equal", title=plain(title))
    axes.axis("off")
    for share in (0.2, 0.4, 0.6, 0.8):
        for k in range(3):
            ends = np.roll([[share, 1 - share, 0], [share, 0, 1 - share]], k, axis=1)
            axes.plot(*on_simplex(ends).T, color=GREY, alpha=0.25, linewidth=0.8)
    axes.plot(*on_simplex(np.eye(3)[[0, 1, 2, 0]]).T, color=GREY, linewidth=1.2)
    for (x, y), name, below in zip(on_simplex(np.eye(3)), names, (False, True, True), strict=True):
        axes.annotate(
            _("always {name}").format(name=plain(name)),
            (x, y),
            (0, -6 if below else 5),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
        )
    colours = iter(COLOURS * 2)
    for (name, way), style in zip((trails or {}).items(), STYLES, strict=False):
        points, colour = on_simplex(way), next(colours)
        axes.plot(*points.T, linestyle=style, color=colour, linewidth=1.8, label=plain(name))
        axes.plot(*points[-1], "*", color=colour, markersize=13, markeredgecolor="white")
    for name, (begins, ends) in (arrows or {}).items():
        begins, ends = np.broadcast_arrays(*(np.atleast_2d(on_simplex(x)) for x in (begins, ends)))
        look = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.009, "zorder": 3}
        axes.quiver(*begins.T, *(ends - begins).T, color=next(colours), label=plain(name), **look)
    if trails or arrows:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2, frameon=False)
    return axes


class FunnelStage(Protocol):
    """One stage that examples pass: its name, how many entered, and how many of these were kept."""

    @property
    def name(self) -> str:
        """What the stage does, in English where it is one of the course's; it is shown in the chosen language."""

    @property
    def entered(self) -> int:
        """How many reached the stage."""

    @property
    def kept(self) -> int:
        """How many of them left it."""


def plot_funnel(stages: Sequence[FunnelStage], title: str = "", axes: Axes | None = None) -> Axes:
    """One bar a stage, the first on top: filled what was kept, hatched what was rejected, and both in numbers.

    Args:
        stages: in the order in which examples passed them, such as `Generated.stages`.
        title: what the figure shows.
        axes: where to draw; new axes when None.

    Returns:
        The axes.

    Raises:
        ValueError: no stages, or one that kept more than entered it.
    """
    if not stages:
        raise ValueError("stages is empty: pass at least one, such as the stages of what a teacher generated.")
    for stage in stages:
        if not 0 <= stage.kept <= stage.entered:
            raise ValueError(f"{stage.name!r} kept {stage.kept} of {stage.entered}; expected from 0 to all of them.")
    axes = axes or new_axes(_("examples"), "", title, height=1.2 + 0.5 * len(stages))
    places, entered = np.arange(len(stages)), np.array([stage.entered for stage in stages])
    kept = np.array([stage.kept for stage in stages])
    axes.barh(places, kept, 0.62, color=BLUE, label=_("kept"))
    rejected = {"facecolor": "white", "edgecolor": RED, "hatch": "////", "label": _("rejected")}
    lost = entered > kept  # a bar of no width would still show its edge
    if lost.any():
        axes.barh(places[lost], (entered - kept)[lost], 0.62, left=kept[lost], **rejected)
    for place, stage in enumerate(stages):
        words = _("{kept} of {entered}").format(kept=stage.kept, entered=stage.entered)
        axes.annotate(words, (stage.entered, place), (5, 0), textcoords="offset points", va="center")
    axes.set_yticks(places, [textwrap.fill(plain(_(stage.name)), 28) for stage in stages])
    axes.set_xlim(0, 1.3 * max(entered.max(), 1))  # room for the numbers
    axes.set_ylim(-0.6, len(stages) - 0.4)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return axes


def plain(name: str) -> str:
    """A name as a label in which nothing is read as a formula."""
    return sendable(name).replace("$", r"\$")


def plot_forgetting(rows: Sequence[Mapping[str, object]], title: str = "", axes: Axes | None = None) -> Axes:
    """How many questions a model answers exactly at each stage of its training, one mark a measure.

    A mark is the mean over seeds, small dots are the seeds, and the line is a 95 % interval for both kinds of luck: the
    seed's, by Student's distribution, and that of the questions, as in `course_helpers.frontier.table.over_seeds`.

    Args:
        rows: one a stage, measure and seed, with the keys "stage" and "measure" (names, in the order in which they
            first occur; those of the course in the chosen language), "seed", and "value", "low" and "high": a share
            from 0 to 1 and its 95 % interval.
        title: what the figure shows.
        axes: where to draw; new axes when None.

    Returns:
        The axes.

    Raises:
        ValueError: no rows, a key that is missing, or numbers that are no share and its interval.
    """
    _check_shares(rows)
    stages, measures = (list(dict.fromkeys(str(row[key]) for row in rows)) for key in ("stage", "measure"))
    axes = axes or new_axes("", _("exact answers [%]"), title, height=HEIGHT + 0.3)
    step = 0.5 / len(measures)
    for k, measure in enumerate(measures):
        look = {"marker": "osD^vP"[k % 6], "color": COLOURS[k % 6], "capsize": 4, "linestyle": "none"}
        beside = (k - (len(measures) - 1) / 2) * step
        places, summaries = [], []
        for place, stage in enumerate(stages):
            found = [row for row in rows if (row["stage"], row["measure"]) == (stage, measure)]
            if not found:
                continue
            places.append(place + beside)
            summaries.append(_over_seeds(found))
            shares = [100 * float(row["value"]) for row in found]
            axes.plot([places[-1] + 0.35 * step] * len(found), shares, ".", color=COLOURS[k % 6], alpha=0.7)
        low, mean, high = 100 * np.array(summaries).T
        axes.errorbar(places, mean, yerr=[mean - low, high - mean], label=plain(_(measure)), **look)
    axes.set_xticks(range(len(stages)), [textwrap.fill(plain(_(stage)), 14) for stage in stages])
    axes.set(ylim=(-4, 104), xlim=(-0.5, len(stages) - 0.5))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return axes


def _check_shares(rows: Sequence[Mapping[str, object]]) -> None:
    """Complain about the first row that cannot be drawn."""
    if not rows:
        raise ValueError("rows is empty: pass one for each stage, measure and seed.")
    for place, row in enumerate(rows):
        missing = [key for key in ("stage", "measure", "seed", "value", "low", "high") if key not in row]
        if missing:
            raise ValueError(f"rows[{place}] has no {missing[0]!r}; it has {sorted(row)}: add what is missing.")
        low, value, high = (row[key] for key in ("low", "value", "high"))
        if not (all(map(is_finite, (low, value, high))) and 0 <= low <= value <= high <= 1):
            raise ValueError(
                f"rows[{place}] has low {low!r}, value {value!r} and high {high!r}; expected shares with "
                "0 <= low <= value <= high <= 1: divide the right answers by all of them."
            )


def _over_seeds(rows: Sequence[Mapping[str, object]]) -> tuple[float, float, float]:
    """Lower end, mean and upper end over the seeds of one stage and measure, each from 0 to 1."""
    low, value, high = (np.array([row[key] for row in rows], dtype=float) for key in ("low", "value", "high"))
    mean, training = value.mean(), 0.0
    if len(rows) > 1:
        training = t_quantile(len(rows) - 1) * value.std(ddof=1) / math.sqrt(len(rows))
    below, above = (value - low).mean(), (high - value).mean()
    return max(mean - math.hypot(training, below), 0.0), mean, min(mean + math.hypot(training, above), 1.0)
