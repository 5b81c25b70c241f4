"""Live training curves: what a PPO run is doing, while it does it.

The picture is drawn by matplotlib without pyplot and sent to one place below the cell. When the run ends, that place
holds an ordinary picture, which GitHub shows, too, and below it stand the last numbers and texts. All its words are in
the language of the moment.
"""

from __future__ import annotations

import base64
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from course_helpers.checks import check_whole, is_finite, require
from course_helpers.plots import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, plain
from course_helpers.prose import escape, no_formulas
from course_helpers.tokens import readable
from course_helpers.translation import N_, _, language


@dataclass(frozen=True)
class Curve:
    """One panel.

    Attributes:
        name: by which the numbers are kept.
        label: what it shows, and in which unit.
        key: of the statistics it is fed with.
        colour: of the line.
        known: a value known beforehand, drawn as a dotted line.
    """

    name: str
    label: str
    key: str
    colour: str
    known: float | None = None


@dataclass(frozen=True)
class Words:
    """What is said of a run. Each is a text in English, marked with `N_`, with names in braces.

    Attributes:
        begun: before its first iteration.
        count: how far it is, if nobody knows how far it goes.
        left: how far it is, and how long it will still take.
        nothing: of a run without an iteration.
        all: of the whole run, in a sentence for whoever does not see the curves.
    """

    begun: str
    count: str
    left: str
    nothing: str
    all: str


CURVES = (
    Curve("reward", N_("mean reward"), "ppo/mean_scores", BLUE),
    Curve("KL", N_("KL [nats a response]"), "objective/kl", RED),
    Curve("KL coefficient", N_("KL coefficient β"), "objective/kl_coef", GREEN),
    Curve("value loss", N_("value loss"), "ppo/loss/value", PURPLE),
    Curve("clip fraction", N_("clip fraction"), "ppo/policy/clipfrac", ORANGE),
)
DIAMONDS = {"color": "black", "linewidth": 1, "markersize": 4}
SIZE, DPI = (9.0, 4.4), 90  # inches, dots an inch


def moving_average(values: Sequence[float], window: int) -> np.ndarray:
    """Mean of each value and its neighbours; NaN is left out.

    Towards the ends fewer neighbours are taken, but on both sides as many: a straight line stays as it is, and the
    average does not lag behind.

    Args:
        values: n numbers.
        window: how many are averaged, at least 1; half of them on either side.

    Returns:
        As many numbers; NaN where there is no other.

    Examples:
        >>> moving_average([1.0, 2.0, 6.0], window=3).tolist()  # at the ends there is none to either side
        [1.0, 3.0, 6.0]
    """
    y = np.asarray(values, dtype=float)
    reach = [min(window // 2, place, len(y) - 1 - place) for place in range(len(y))]
    around = [y[place - r : place + r + 1] for place, r in enumerate(reach)]
    known = [part[np.isfinite(part)] for part in around]
    # by the distance from the first: a constant stays exactly what it is
    return np.array([part[0] + np.mean(part - part[0]) if len(part) else np.nan for part in known])


def clock_time(seconds: float) -> str:
    """Seconds as ``m:ss``, from an hour on as ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class LiveCurves:
    """Reward, KL, KL coefficient, value loss and clip fraction, drawn while a loop runs.

    ::

        with LiveCurves(iterations=40, target=6.0) as live:
            for batch in trainer.dataloader:
                ...
                live.update(trainer.step(queries, responses, scores), batch["query"], batch["response"], scores)

    An interrupt, like any exception, goes on to the caller after the last points were drawn; the numbers stay in
    `history`. Outside a Jupyter kernel nothing is drawn or printed, and the numbers are kept all the same.

    Args:
        iterations: how many there will be, for the time left; None if nobody knows.
        target: KL to mark, in nats a response.
        title: what is trained; "training" when None.
        samples: how many of the newest texts are shown.
        window: iterations in the moving average, which is drawn as a line over the single points.
        share: part of the running time that drawing may take.
        clock: seconds since some moment.

    Attributes:
        history: name of a curve → its values so far.
        steps: the iteration each of them belongs to.
        marks: name of a curve → (iteration, value) of what was measured now and then, drawn as diamonds.
        figure: matplotlib's, once something was drawn.

    Raises:
        ValueError: an argument outside its range.
    """

    curves = CURVES
    axis = N_("iteration")
    words = Words(
        begun=N_("iteration 0 of {all}"),
        count=N_("iteration {count}"),
        left=N_("iteration {count} of {all}, {time} left"),
        nothing=N_("{title}: no iterations"),
        all=N_("{title}, {count} iterations: {curves}"),
    )

    def __init__(
        self,
        iterations: int | None = None,
        target: float | None = None,
        title: str | None = None,
        samples: int = 3,
        window: int = 5,
        share: float = 0.03,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """Nothing is drawn yet."""
        if iterations is not None:
            check_whole("iterations", iterations, at_least=1)
        check_whole("samples", samples, at_least=0)
        check_whole("window", window, at_least=1)
        require(is_finite(share) and 0 < share <= 1, "share", share, "a share of the running time, above 0, at most 1")
        self.iterations, self.target = iterations, target
        self.title = _("training") if title is None else readable(title)
        self.samples, self.window, self.share, self.clock = samples, window, share, clock
        self.history: dict[str, list[float]] = {curve.name: [] for curve in self.curves}
        self.steps: list[int] = []
        self.marks: dict[str, list[tuple[float, float]]] = {}
        self.texts: list[tuple[str, str, float]] = []
        self.draws, self.drawing_seconds, self.started = 0, 0.0, clock()
        self._before = 0  # iterations that ran earlier, before a run was resumed
        self._last_cost, self._handle = 0.0, None
        self.figure: Figure | None = None
        self._spoken = ""  # the language of the figure's labels

    def __enter__(self) -> LiveCurves:
        """Start the clock."""
        self.started = self.started if self.count else self.clock()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Draw what came last, whatever ended the loop."""
        self.finish(interrupted=kind is not None)

    @property
    def count(self) -> int:
        """Iterations seen."""
        return self.steps[-1] if self.steps else 0

    # --- numbers ------------------------------------------------------------------------------------------------------

    def update(
        self,
        stats: Mapping[str, Any],
        queries: Sequence[str] | None = None,
        responses: Sequence[str] | None = None,
        rewards: Sequence[float] | None = None,
    ) -> None:
        """Take in one iteration, and draw if there is time for it.

        Args:
            stats: what `PPOTrainer.step` returned.
            queries: texts of the batch; they and the next two only to be looked at.
            responses: their continuations.
            rewards: one number a text; their mean is shown in place of the scaled scores of `stats`.

        Raises:
            ValueError: `stats` is of something else, or texts and rewards do not belong together.
        """
        if not any(curve.key in stats for curve in self.curves):
            raise ValueError(
                f"stats has none of the keys {', '.join(c.key for c in self.curves)}: pass what step() returned."
            )
        texts = self._newest(queries, responses, rewards)
        self._note(self.count + 1, stats)
        if rewards is not None:
            self.history["reward"][-1] = float(np.mean([float(reward) for reward in rewards]))
        self.texts = texts or self.texts
        self._show()

    def _note(self, step: int, stats: Mapping[str, Any]) -> None:
        self.steps.append(step)
        for curve in self.curves:
            self.history[curve.name].append(float(stats.get(curve.key, math.nan)))

    def _newest(
        self, queries: Sequence[str] | None, responses: Sequence[str] | None, rewards: Sequence[float] | None
    ) -> list[tuple[str, str, float]]:
        if queries is None or responses is None:
            return []
        rewards = [math.nan] * len(queries) if rewards is None else rewards
        if not len(queries) == len(responses) == len(rewards):
            raise ValueError(
                f"{len(queries)} queries, {len(responses)} responses, {len(rewards)} rewards: pass as many."
            )
        rows = [(q, r, float(x)) for q, r, x in zip(queries, responses, rewards, strict=True)][: self.samples]
        for query, response, _reward in rows:
            if not isinstance(query, str) or not isinstance(response, str):
                raise ValueError("queries and responses are to be texts: tokenizer.decode(ids) makes one of token ids.")
        return rows

    # --- words --------------------------------------------------------------------------------------------------------

    def progress(self) -> str:
        """How far the run is, and the time left: ``iteration 12 of 40, 0:35 left``."""
        if self.iterations is None:
            return _(self.words.count).format(count=self.count)
        if not self.count:
            return _(self.words.begun).format(all=self.iterations)
        left = max(self.iterations - self.count, 0) * (self.clock() - self.started) / (self.count - self._before)
        line = _(self.words.left)
        return line.format(count=self.count, all=self.iterations, time=clock_time(left))

    def in_words(self) -> str:
        """The curves in one sentence, from the first iteration to the last: the picture for whoever cannot see it."""
        if not self.count:
            return _(self.words.nothing).format(title=self.title)
        ends = [
            f"{_(curve.label)} {_number(self.history[curve.name][0])} → {_number(self.history[curve.name][-1])}"
            for curve in self.curves
        ]
        return _(self.words.all).format(title=self.title, count=self.count, curves=", ".join(ends))

    def samples_html(self) -> str:
        """The newest texts as a table; what a model wrote stays text."""
        if not self.texts:
            return ""
        cell = '<td style="text-align:left">'
        rows = "".join(
            f"<tr>{cell}{_safe(query)}</td>{cell}{_safe(response)}</td><td>{reward:.2f}</td></tr>"
            for query, response, reward in self.texts
        )
        head = "".join(f'<th scope="col">{name}</th>' for name in (_("query"), _("→ response"), _("reward")))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    # --- picture ------------------------------------------------------------------------------------------------------

    def draw(self) -> bytes:
        """The curves so far, as PNG."""
        if self.figure is None or self._spoken != language():
            self._set_up()
        for curve in self.curves:
            points, line = self._lines[curve.name]
            values = self.history[curve.name]
            points.set_data(self.steps, values)
            line.set_data(self.steps, moving_average(values, self.window))
            for diamonds in points.axes.lines[self._fixed[curve.name] :]:
                diamonds.remove()
            if curve.name in self.marks:
                points.axes.plot(*zip(*self.marks[curve.name], strict=True), "--D", **DIAMONDS)
            points.axes.relim()
            points.axes.autoscale_view()
        self.draws += 1
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png")
        return buffer.getvalue()

    def _set_up(self) -> None:
        self._spoken = language()
        self.figure = Figure(figsize=SIZE, dpi=DPI)  # none of pyplot's: nothing to close, and no second copy
        # fixed margins: a layout engine would take as long again as the drawing
        grid = self.figure.add_gridspec(2, 3, left=0.075, right=0.985, bottom=0.115, top=0.9, wspace=0.36, hspace=0.5)
        places = (grid[0, :2], grid[0, 2], grid[1, 0], grid[1, 1], grid[1, 2])
        self._lines = {}
        for curve, place in zip(self.curves, places, strict=True):
            axes = self.figure.add_subplot(place)
            self._dress(axes, curve)
            (points,) = axes.plot([], [], "o", color=curve.colour, alpha=0.35, markersize=4)
            (line,) = axes.plot([], [], color=curve.colour, linewidth=2)
            if curve.known is not None:
                axes.axhline(curve.known, color=GREY, linestyle=":", linewidth=1.5)
            self._lines[curve.name] = points, line
        if self.target is not None:
            axes = self._lines["KL"][0].axes
            axes.axhline(self.target, color=GREY, linestyle="--", linewidth=1.5)
            axes.annotate(_("target"), (1, self.target), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        self._fixed = {name: len(points.axes.lines) for name, (points, _line) in self._lines.items()}
        self.figure.suptitle(plain(self.title), fontsize=12, x=0.075, ha="left")

    def _dress(self, axes: Axes, curve: Curve) -> None:
        axes.set_title(_(curve.label), fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.tick_params(labelsize=9)
        axes.margins(x=0.02)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(_(self.axis), fontsize=9, labelpad=1)

    def _show(self) -> None:
        """Send picture and words, unless that would take more than its share of the time so far."""
        began = self.clock()
        affordable = self.drawing_seconds + self._last_cost <= self.share * (began - self.started)
        if not in_kernel() or (self.draws and not affordable):
            return
        source = base64.b64encode(self.draw()).decode()
        picture = f'<img alt="{_safe(self.in_words())}" src="data:image/png;base64,{source}">'
        self._send({"text/html": no_formulas(f"<p>{_safe(self.progress())}</p>{picture}{self.samples_html()}")})
        self._last_cost = self.clock() - began
        self.drawing_seconds += self._last_cost

    def finish(self, interrupted: bool = False) -> None:
        """Leave the final picture in its place, and the last numbers and texts below it; no times, they vary.

        Args:
            interrupted: say that the run did not come to its end by itself.
        """
        if not in_kernel() or not self.count:
            return
        from IPython.display import display

        words = self.in_words()
        words = _("{words} (interrupted)").format(words=words) if interrupted else words
        image = {"image/png": base64.b64encode(_smaller(self.draw())).decode() + "\n"}
        self._send(image, {"image/png": {"alt": words}})
        texts = "".join(f"\n{readable(q)} → {readable(r)} ({reward:.2f})" for q, r, reward in self.texts)
        page = no_formulas(f"<p>{_safe(words)}</p>{self.samples_html()}")
        display({"text/html": page, "text/plain": words + texts}, raw=True)
        self._handle = None

    def _send(self, data: dict[str, str], metadata: dict | None = None) -> None:
        """Put `data` into the one place this run has below its cell.

        The plain text is always the same: a check of stored outputs sees only what is sent first.
        """
        from IPython.display import display

        words = {"text/plain": f"LiveCurves: {self.title}"}
        if self._handle is None:
            self._handle = display(words, raw=True, display_id=True)
        self._handle.update(words | data, raw=True, metadata=metadata or {})


def in_kernel() -> bool:
    """Whether this runs in a Jupyter kernel, where pictures can be shown."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return hasattr(get_ipython(), "kernel")


def _smaller(png: bytes) -> bytes:
    """A PNG in 128 colours: a third of the size, for the copy that stays in the notebook."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _number(value: float) -> str:
    """Two digits after the point, and never −0.00."""
    return f"{round(value, 2) + 0.0:.2f}"


def _safe(text: str) -> str:
    """Text for HTML: markup in it is shown, not obeyed; so are signs that cannot be seen."""
    return escape(readable(text))
