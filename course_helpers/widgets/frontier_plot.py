"""What each method reached in reward and KL, point by point: its numbers, its texts, the command that repeats it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import ipywidgets as widgets

from course_helpers.frontier.table import METHODS, Combined, Point, Sample, over_seeds, pareto
from course_helpers.prose import label
from course_helpers.translation import N_, _, ngettext, say
from course_helpers.widgets import curve_picture, frontier_picture, responses, text_cards
from course_helpers.widgets.frontier_picture import View, draw, frame_of, key_of, method_name, point_name
from course_helpers.widgets.lists import KEEP_THE_KEYS, refill
from course_helpers.widgets.markup import escape, number, percent, whole
from course_helpers.widgets.panel import Panel, box, heading, html_part
from course_helpers.widgets.responses import table

MEASURES = {
    "reward": N_("reward by the judge that trains"),
    "second_reward": N_("reward by the judge that only measures"),
    "probability": N_("P(POSITIVE) by the judge that trains"),
    "second_probability": N_("P(POSITIVE) by the judge that only measures"),
}
NOTHING = N_("No method is ticked.")
UNTRAINED = N_("This point needs no training.")
LOOK = """
.ch-panel .ch-stage { position: relative; display: block; max-width: 560px; overflow: visible; }
.ch-panel .ch-stage .ch-plot { width: 100%; }
.ch-panel .ch-spots { position: absolute; inset: 0; margin: 0; display: block; overflow: visible; }
.ch-panel .ch-spots .jupyter-button { position: absolute; width: 24px; height: 24px; margin: -12px 0 0 -12px;
  padding: 0; border-radius: 50%; background: transparent; color: transparent; box-shadow: none; overflow: hidden; }
.ch-panel .ch-spots .jupyter-button:hover { background: rgba(217, 130, 43, .25); box-shadow: none; }
.ch-panel .ch-tick { display: inline-flex; align-items: center; gap: 2px; overflow: visible; }
.ch-panel .ch-tick .ch-key-part { width: 22px !important; flex: none; }
.ch-panel .ch-key { display: block; }
.ch-panel .ch-row > .widget-dropdown { flex: 1 1 300px; max-width: 460px; margin: 0; }
.ch-panel .ch-command code { white-space: pre-wrap; overflow-wrap: anywhere; }
.ch-panel .ch-columns > .ch-wider { flex: 3 1 520px; max-width: 560px; }
"""


class FrontierPlot(Panel):
    """The points of all methods over reward and KL; one of them is chosen, and shows what is behind it.

    Args:
        points: as `load_points` reads them; the seeds of a setting become one point.
        samples: texts under ``"method|setting"``, as `load_samples` reads them; a point may have none.

    Attributes:
        points: one of each method and setting.
        chosen: ``"method|setting"`` of the point on show; empty while no method is shown.

    Raises:
        ValueError: no points.
    """

    def __init__(self, points: Sequence[Point], samples: Mapping[str, Sequence[Sample]] | None = None):
        """Build the controls and draw, the point of most reward chosen."""
        if not points:
            raise ValueError("points is empty: pass at least one Point; load_points() reads the shipped ones.")
        order = {method: place for place, method in enumerate(METHODS)}
        together = over_seeds(points)
        self.points = sorted(together, key=lambda point: (order.get(point.method, len(order)), point.kl))
        self.samples = dict(samples or {})
        self.chosen = max(self.points, key=lambda point: point.reward).key
        self._make_controls()
        self._build()
        self.refresh()

    def _make_controls(self) -> None:
        wide, words = widgets.Layout(width="auto"), {"description_width": "initial"}
        self.point = widgets.Dropdown(style=words, layout=wide)
        self.measure = widgets.Dropdown(options=self._measures(), style=words, layout=wide)
        self.root = widgets.Checkbox(False, indent=False, layout=wide)
        say(self.point, "description", N_("point"))
        say(self.measure, "description", N_("vertical axis"))
        say(self.root, "description", N_("√KL on the horizontal axis"))
        methods = list(dict.fromkeys(point.method for point in self.points))
        self.ticks = {method: widgets.Checkbox(True, indent=False, layout=wide) for method in methods}
        self.spots = {point.key: widgets.Button(tabbable=False) for point in self.points}
        self._filling = False
        for key, spot in self.spots.items():
            spot.on_click(lambda clicked, key=key: self.guard(lambda: self.choose(key)))
        self.point.observe(lambda change: self._heard(lambda: self.choose(change["new"])), "value")
        for control in (self.measure, self.root, *self.ticks.values()):
            control.observe(lambda change: self._heard(self.refresh), "value")

    def _build(self) -> None:
        self.picture, self.hint = html_part("ch-curve"), html_part("ch-hints")
        self.summary, self.values = html_part("ch-summary"), html_part("ch-numbers")
        self.command, self.texts = html_part("ch-command"), html_part("ch-samples")
        self.summary.add_class("ch-live")
        keys = [box("ch-tick", [self._key(method), tick]) for method, tick in self.ticks.items()]
        stage = box("ch-stage", [self.picture, box("ch-spots", list(self.spots.values()))])
        left, right = box("ch-picture", [stage, self.hint]), box("ch-picture", [self.values, self.command])
        left.add_class("ch-wider")
        look = curve_picture.LOOK + responses.LOOK + frontier_picture.LOOK + text_cards.LOOK + LOOK
        sheet = html_part("ch-sheet", f'<style onload="{escape(KEEP_THE_KEYS)}">{look}</style>')
        controls = [box("ch-row", keys), box("ch-row", [self.measure, self.root]), box("ch-row", [self.point])]
        parts = [sheet, *controls, self.summary, box("ch-columns", [left, right]), heading(N_("What it writes"))]
        super().__init__(N_("The reward–KL frontier"), [*parts, self.texts])

    def _key(self, method: str) -> widgets.HTML:
        key = html_part("ch-key-part", key_of(method))
        key.layout.width = "22px"
        return key

    def _heard(self, action: Callable[[], None]) -> None:
        """`guard` for what the learner did; what the panel itself writes into its controls is no wish of theirs."""
        with self.lock:
            if not self._filling:
                self.guard(action)

    @property
    def shown(self) -> list[Combined]:
        """The points whose methods are ticked."""
        return [point for point in self.points if self.ticks[point.method].value]

    @property
    def now(self) -> Combined | None:
        """The chosen point."""
        return next((point for point in self.points if point.key == self.chosen), None)

    def choose(self, key: str) -> None:
        """Show what is behind a point.

        Args:
            key: ``"method|setting"``.
        """
        self.chosen = key
        self.refresh()

    def refresh(self) -> None:
        """Draw the points that are shown, and say what is behind the chosen one."""
        keys = [point.key for point in self.shown]
        if self.chosen not in keys:
            self.chosen = keys[0] if keys else ""
        self._fill()
        self._place()
        view = View(self.measure.value, self.root.value)
        self.picture.value = draw(self.shown, view, self.chosen, self._in_words(), self._measure_name()) if keys else ""
        self.hint.value = f'<p class="ch-hint">{escape(self._key_in_words())}</p>'
        now = self.now
        self.summary.value = f"<p>{escape(self.in_words(now) if now else _(NOTHING))}</p>"
        self.values.value = self.values_html(now) if now else ""
        self.command.value = self.command_html(now) if now else ""
        self.texts.value = self.texts_html(now) if now else ""

    def _fill(self) -> None:
        """Give the controls their words and options; what is chosen in them stays, and nobody is told."""
        self._filling = True
        try:
            for method, tick in self.ticks.items():
                tick.description = label(method_name(method))
            options = tuple((point_name(point), point.key) for point in self.shown)
            refill(self.point, options, self.chosen or None)
            refill(self.measure, self._measures(), self.measure.value)
        finally:
            self._filling = False

    def _place(self) -> None:
        """Lay a button over each mark, for the mouse; the list of points does the same for the keyboard."""
        shown = self.shown
        view = View(self.measure.value, self.root.value)
        frame = frame_of(shown, view) if shown else None
        for point in self.points:
            spot = self.spots[point.key]
            spot.description = spot.tooltip = _("choose {point}").format(point=point_name(point))
            spot.layout.display = "" if point in shown else "none"
            if frame is None or point not in shown:
                continue
            x, y = view.place(point)
            spot.layout.left = f"{100 * frame.x(x) / frame.width:.2f}%"
            spot.layout.top = f"{100 * frame.y(y) / frame.height:.2f}%"

    # --- in words and numbers -----------------------------------------------------------------------------------------

    def _measures(self) -> tuple[tuple[str, str], ...]:
        return tuple((_(name), measure) for measure, name in MEASURES.items())

    def _measure_name(self) -> str:
        return _(MEASURES[self.measure.value])

    def in_words(self, point: Combined) -> str:
        """What a point has and costs, and whether another one has more for less."""
        words = _("{point}: {measure} {value} ({low} to {high}) at KL {kl} nats ({kl_low} to {kl_high}).")
        if point.method == "reference":
            words = _("{point}: {measure} {value} ({low} to {high}), at KL 0 by definition.")
        measure = self.measure.value
        digits = 2 if "reward" in measure else 3
        found = words.format(
            point=point_name(point),
            measure=self._measure_name(),
            value=number(getattr(point, measure), digits),
            low=number(getattr(point, f"{measure}_low"), digits),
            high=number(getattr(point, f"{measure}_high"), digits),
            kl=number(point.kl),
            kl_low=number(point.kl_low),
            kl_high=number(point.kl_high),
        )
        return f"{found} {self._rank_in_words(point)}"

    def _rank_in_words(self, point: Combined) -> str:
        best = pareto(self.shown, self.measure.value)
        if point in best:
            return _("No point shown has more of it for less KL.")
        value = getattr(point, self.measure.value)
        better = [other for other in best if other.kl <= point.kl and getattr(other, self.measure.value) >= value]
        names = "; ".join(point_name(other) for other in better[:3])
        return _("More of it for less KL: {names}.").format(names=names)

    def _in_words(self) -> str:
        """The picture, for whoever does not see it; the table of numbers says the rest."""
        words = ngettext(
            "{measure} over KL: {count} point. Chosen: {point}.",
            "{measure} over KL: {count} points. Chosen: {point}.",
            len(self.shown),
        )
        name = point_name(self.now) if self.now else "–"
        return words.format(measure=self._measure_name(), count=len(self.shown), point=name)

    def _key_in_words(self) -> str:
        return _(
            "A mark: the mean over seeds; its cross: the 95 % interval; small dots: single seeds. Dashed: what π_ref "
            "has. The line joins best-of-n, whose KL is a bound. Choose a mark by a click, or in the list above."
        )

    def values_html(self, point: Combined) -> str:
        """The measures of a point with their intervals, and its costs."""
        head = ("", _("mean"), _("95 % interval"))
        measured = [(escape(_(name)), *self._interval(point, measure)) for measure, name in MEASURES.items()]
        measured += [(_("win rate against π_ref"), *self._interval(point, "win_rate"))]
        measured += [(_("KL(π_θ‖π_ref), nats a response"), *self._interval(point, "kl"))]
        costs = [
            (_("seeds"), ", ".join(map(str, point.seeds))),
            (_("tokens a response"), number(point.length, 1)),
            (_("distinct pairs of tokens"), percent(point.distinct_2)),
            (_("processor seconds"), whole(round(point.seconds))),
            (_("memory, GB"), number(point.memory_gb)),
            (_("responses drawn"), whole(round(point.drawn))),
            (_("texts judged"), whole(round(point.judged))),
        ]
        cells = [(escape(name), escape(value), "") for name, value in costs]
        return f'<div class="ch-scroll">{table(head, [*measured, *cells], "ch-values")}</div>'

    def _interval(self, point: Combined, measure: str) -> tuple[str, str]:
        low, mean, high = (getattr(point, f"{measure}{end}") for end in ("_low", "", "_high"))
        digits = 3 if measure in ("probability", "second_probability", "win_rate") else 2
        words = _("{low} to {high}").format(low=number(low, digits), high=number(high, digits))
        return number(mean, digits), escape(words)

    def command_html(self, point: Combined) -> str:
        """How to train the first seed of a point again."""
        if not point.config:
            return f'<p class="ch-hint">{escape(_(UNTRAINED))}</p>'
        lead = _("Train it again (seed {seed}):").format(seed=point.seeds[0])
        return f"<p>{escape(lead)}</p><p><code>{escape(command(point))}</code></p>"

    def texts_html(self, point: Combined) -> str:
        """The texts of the first seed."""
        texts = self.samples.get(point.key, ())
        return text_cards.cards(texts)

    # --- without a kernel ---------------------------------------------------------------------------------------------

    def static_html(self) -> str:
        """All points that are shown as a table, and the texts of the chosen one."""
        measures = ("kl", "reward", "second_reward", "win_rate")
        head = (
            _("point"),
            _("KL [nats]"),
            _("reward, training judge"),
            _("reward, measuring judge"),
            _("win rate against π_ref"),
        )
        rows = []
        for point in self.shown:
            cells = [" ".join((mean, f"({ends})")) for mean, ends in (self._interval(point, name) for name in measures)]
            rows.append((escape(point_name(point)), *cells))
        now = self.now
        if now is None:
            return f"<p>{escape(_(NOTHING))}</p>"
        texts = text_cards.static_texts(self.samples.get(now.key, ()))
        return f"<p>{escape(self.in_words(now))}</p>{table(head, rows)}{self.command_html(now)}{texts}"


def command(point: Point | Combined) -> str:
    """The command that trains a point again."""
    words = point.config.split()
    method = [] if words[:1] == [point.method] else [point.method]
    return " ".join(["python -m course_helpers.train", *method, point.config])
