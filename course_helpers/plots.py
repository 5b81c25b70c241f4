"""Figures of the lessons: labelled axes, colours that the colour-blind can tell apart, one look throughout.

Every function draws into the axes it is given, or makes its own, and returns them; the lesson shows the figure with
``plt.show()``. Its own words are in the language of the moment; those a lesson passes in stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from course_helpers.tokens import visible
from course_helpers.translation import _

# Okabe and Ito, 2008, "Color Universal Design": told apart in every common form of colour blindness
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#6E6E6E"
COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, GREY)
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))  # so that the lines differ in print, too
WIDTH, HEIGHT = 7.0, 3.2  # inches: readable at the width of a notebook


def new_axes(xlabel: str, ylabel: str, title: str = "", height: float = HEIGHT) -> Axes:
    """Empty axes with labels; units belong into the labels."""
    axes = plt.subplots(figsize=(WIDTH, height), layout="constrained")[1]
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return axes


def label(token: str) -> str:
    """A token as a label: what cannot be seen is made visible, and nothing is read as a formula."""
    return visible(token).replace("$", r"\$") or "∅"


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
    """
    first = np.asarray(next(iter(distributions.values())))
    order = np.argsort(-first, kind="stable")[:top]
    axes = axes or new_axes(_("probability"), _("next token"), title, height=0.9 + 0.26 * top)
    thickness = 0.8 / len(distributions)
    for k, (name, probabilities) in enumerate(distributions.items()):
        places = np.arange(top) + (k - (len(distributions) - 1) / 2) * thickness
        axes.barh(places, np.asarray(probabilities)[order], thickness, color=COLOURS[k], label=name)
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
    """
    axes = axes or new_axes(xlabel, ylabel, title)
    for k, (name, y) in enumerate(series.items()):
        axes.plot(x, y, linestyle=STYLES[k], color=COLOURS[k], linewidth=2, label=name)
    for name, level in (levels or {}).items():
        axes.axhline(level, color=GREY, linestyle=":", linewidth=1.5)
        axes.annotate(name, (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=GREY)
    if len(series) > 1:
        axes.legend()
    return axes


def histogram(
    values: ArrayLike, xlabel: str, title: str = "", marks: Mapping[str, float] | None = None, bins: int = 40
) -> Axes:
    """How often each value occurs, with vertical lines at named values."""
    axes = new_axes(xlabel, _("count"), title)
    axes.hist(np.asarray(values), bins=bins, color=BLUE, alpha=0.75)
    for k, (name, value) in enumerate((marks or {}).items()):
        axes.axvline(value, color=COLOURS[k + 1], linestyle=STYLES[k + 1], linewidth=2, label=f"{name}: {value:.2f}")
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
    """
    axes = new_axes(_("number of samples n"), ylabel, title)
    sizes = np.asarray(sizes)
    axes.loglog(sizes, sigma / np.sqrt(sizes), "--", color=GREY, linewidth=2, label="σ/√n")
    axes.loglog(sizes, errors, "o", color=BLUE, label=measured or _("measured"))
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
    """
    axes = axes or new_axes(xlabel, ylabel, title)
    for k, (name, (x, y)) in enumerate(runs.items()):
        axes.plot(x, y, ".", linestyle=STYLES[k], color=COLOURS[k], linewidth=1.5, label=name)
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
    """
    axes = new_axes(xlabel, ylabel, title)
    for k, (name, ((x, dx), (y, dy))) in enumerate(points.items()):
        style = {"marker": "osD^vP"[k % 6], "color": COLOURS[k % 6], "capsize": 3, "linestyle": "none"}
        axes.errorbar(x, y, yerr=dy, xerr=dx, label=name, **style)
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
    """
    axes = new_axes(xlabel, _("count"), title)
    bins = np.histogram_bin_edges(np.concatenate([np.ravel(values) for values in series.values()]), bins=60)
    for k, (name, values) in enumerate(series.items()):
        axes.hist(np.ravel(values), bins=bins, histtype="stepfilled", color=COLOURS[k], alpha=0.15)
        style = {"color": COLOURS[k], "linestyle": STYLES[k], "linewidth": 2, "label": name}
        axes.hist(np.ravel(values), bins=bins, histtype="step", **style)
    for name, value in (marks or {}).items():
        axes.axvline(value, color="black", linestyle=":", linewidth=1.5, label=f"{name}: {value:.2f}")
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
    """
    axes = axes or plt.subplots(figsize=(WIDTH * 0.75, WIDTH * 0.7), layout="constrained")[1]
    axes.set(xlim=(-0.16, 1.16), ylim=(-0.14, 1.0), aspect="equal", title=title)
    axes.axis("off")
    for share in (0.2, 0.4, 0.6, 0.8):
        for k in range(3):
            ends = np.roll([[share, 1 - share, 0], [share, 0, 1 - share]], k, axis=1)
            axes.plot(*on_simplex(ends).T, color=GREY, alpha=0.25, linewidth=0.8)
    axes.plot(*on_simplex(np.eye(3)[[0, 1, 2, 0]]).T, color=GREY, linewidth=1.2)
    for (x, y), name, below in zip(on_simplex(np.eye(3)), names, (False, True, True), strict=True):
        axes.annotate(
            _("always {name}").format(name=name.replace("$", r"\$")),
            (x, y),
            (0, -6 if below else 5),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
        )
    colours = iter(COLOURS * 2)
    for (name, way), style in zip((trails or {}).items(), STYLES, strict=False):
        points, colour = on_simplex(way), next(colours)
        axes.plot(*points.T, linestyle=style, color=colour, linewidth=1.8, label=name)
        axes.plot(*points[-1], "*", color=colour, markersize=13, markeredgecolor="white")
    for name, (begins, ends) in (arrows or {}).items():
        begins, ends = np.broadcast_arrays(*(np.atleast_2d(on_simplex(x)) for x in (begins, ends)))
        look = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.009, "zorder": 3}
        axes.quiver(*begins.T, *(ends - begins).T, color=next(colours), label=name, **look)
    if trails or arrows:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2, frameon=False)
    return axes
