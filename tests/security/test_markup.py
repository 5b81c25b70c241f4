"""Text of models, data and learners is only ever text: in every widget, report, message and figure."""

from __future__ import annotations

import io
import json
import re
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies
from ipywidgets import Widget
from matplotlib.figure import Figure

from course_helpers import plots, progress, progress_file, widgets
from course_helpers.choices import Choice, taste
from course_helpers.exercises.registry import exercise
from course_helpers.glossary import glossary
from course_helpers.live import CURVES, LiveCurves
from course_helpers.preferences import validate_pairs
from course_helpers.prose import escape, label, no_formulas, prose
from course_helpers.taxonomy import check_file
from course_helpers.teacher.examples import Stage
from course_helpers.translation import N_, SpokenError, _
from course_helpers.widgets.markup import alert, code, token_span
from tests.security.hostile import (
    ALL,
    HALF,
    HOSTILE,
    MARKUP,
    MIXED,
    OTHER,
    Parts,
    pages,
    parts_of,
    press_everything,
    type_everywhere,
)
from tests.security.panels import BUILD, HARMLESS

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Quizzes and exercises keep their progress in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress_file, "FILE", tmp_path / "my_progress.json")


def used(name: str, text: str) -> tuple[Widget, str]:
    """A widget built from a text, then used: everything pressed, the text typed into every field, pressed again."""
    panel = BUILD[name](text)
    shown = pages(panel)
    press_everything(panel)
    shown += pages(panel)
    type_everywhere(panel, text)
    press_everything(panel)
    return panel, shown + pages(panel)


@cache
def vocabulary(name: str) -> tuple[set[str], set[tuple[str, str]], set[str]]:
    """What a widget is made of when all texts are plain: with an answer, after an error, without a prompt."""
    parts = [Parts(used(name, text)[1]) for text in (HARMLESS, "KL", "0")]
    parts.append(Parts(no_formulas(alert("$") + code("x") + prose("`x`") + "<ul><li></li></ul>")))
    return tuple(set().union(*(getattr(part, kind) for part in parts)) for kind in ("elements", "attributes", "code"))


def assert_only_text(shown: str, known: tuple[set, set, set]) -> None:
    """Nothing that a browser would build, run, load or style is there because of a text."""
    found = Parts(shown)
    assert found.elements <= known[0], found.elements - known[0]
    assert found.attributes <= known[1], found.attributes - known[1]
    assert found.code <= known[2], found.code - known[2]
    shown.encode("utf-8")  # half a letter could not be sent, and the page would wait for it


def test_every_widget_of_the_course_is_tried():
    assert set(BUILD) == set(widgets.__all__)


@pytest.mark.parametrize(("place", "name"), list(enumerate(BUILD)))
def test_widgets_show_hostile_text_as_text(place, name):
    known = vocabulary(name)
    for text in (*HOSTILE[place % 9 :: 9], ALL, HALF):
        panel, shown = used(name, text)
        assert_only_text(shown, known)
        for part in parts_of(panel):
            assert not getattr(part, "description_allow_html", False)
            state = {
                key: value for key, value in part.get_state().items() if key not in ("children", "layout", "style")
            }
            typed = part.get_state().get("value") == text  # what came from the page is known there
            assert typed or json.dumps(state, default=str, ensure_ascii=False).encode("utf-8")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(MIXED)
def test_pieces_of_html_escape_whatever_comes(text):
    for shown in (escape(text), prose(text), alert(text), code(text), token_span(text, 0.5, text)):
        assert_only_text(shown, ({"div", "code", "span"}, *_own()))
        assert "<script" not in shown
    assert Parts(f'<p title="{escape(text)}">').attributes == {("p", "title")}


@cache
def _own() -> tuple[set, set]:
    parts = Parts(alert("x") + code("x") + token_span("x", 0.5, "x"))
    return parts.attributes, parts.code


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(MIXED)
def test_random_markup_in_panels_of_names_and_searches(text):
    for name in ("BradleyTerry", "GlossaryPanel"):
        assert_only_text(pages(BUILD[name](text)), vocabulary(name))


FORMULA = r"""\\\((?s:.*?)\\\)|\\\[(?s:.*?)\\\]|\$(?s:.*?)\$|\\[$\\]|\\(begin|(eq)?ref)\s*\{"""


@settings(max_examples=300, deadline=None)
@given(strategies.lists(strategies.sampled_from([*"$()[]{}\\ x", "begin", "ref", "eqref"]), max_size=12).map("".join))
def test_no_label_of_a_control_holds_a_formula(text):
    """MathJax searches labels for these; with the word joiners taken out and dollars narrowed, it is the same text."""
    assert not re.search(FORMULA, label(text))
    assert label(text).replace("\N{WORD JOINER}", "").replace("\N{FULLWIDTH DOLLAR SIGN}", "$") == text


# ------------------------------------------------------------------------------------------------ reports and messages

TABLE = {"table", "caption", "thead", "tbody", "tr", "th", "td", "p", "b", "i", "code", "div", "pre", "br", "span", "a"}


def assert_no_formulas(page: str) -> None:
    """What could be a formula stands, whole, in the one element that MathJax passes over."""
    if "$" in page or "\\" in page:
        assert page.startswith('<div class="mathjax_ignore tex2jax_ignore">')
        assert page.endswith("</div>")


def assert_report(thing: object) -> None:
    """A report that shows itself: a table, paragraphs, code, and no attribute but those of the course."""
    found = Parts(thing._repr_html_())
    assert_no_formulas(thing._repr_html_())
    assert found.elements <= TABLE, found.elements - TABLE
    own = {"scope", "class", "role", "lang", "style", "href", "title", "target"}
    assert {name for _tag, name in found.attributes} <= own, found.attributes
    for each in found.code:
        assert not each.startswith("on")
        assert "javascript" not in each
        assert "away.invalid" not in each
        assert "expression" not in each
    thing._repr_html_().encode("utf-8")


# Apart where a reader may refuse one of them; nothing refuses markup.
KINDS = (" ".join(MARKUP), *OTHER, HALF)


@pytest.mark.parametrize("text", KINDS)
def test_reports_show_hostile_text_as_text(text, tmp_path, monkeypatch):
    rows = [{"prompt": text, "chosen": text, "rejected": text}, {text: text}, text, {"prompt": "p", "chosen": 3}]
    assert_report(validate_pairs(rows))
    assert_report(glossary(f"z{text}"))
    path = tmp_path / "compositional_skills" / "a" / "qna.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"version: 2\n{json.dumps(text)}: {json.dumps(text)}\ncreated_by: [{json.dumps(text)}]\n")
    assert_report(check_file(path))
    choices = [Choice(f"p{n}", " a", " b", "A") for n in range(4)]
    assert_report(taste(choices, {text: lambda prompt, response: float(len(response) + (response == " a"))}))
    store = {"exercises": {}, "quizzes": {text: {text: True}}}
    (tmp_path / "my_progress.json").write_text(json.dumps(store), encoding="utf-8")
    assert_report(progress.progress())


@pytest.mark.parametrize("text", KINDS)
def test_answers_to_exercises_are_shown_as_text(text):
    """An answer that returns an object with a hostile name and repr, one that raises, and one that prints."""

    class OddError(Exception):
        __repr__ = __str__ = lambda self: text

    OddError.__name__ = OddError.__qualname__ = (text.encode("utf-8", "replace").decode().replace("\x00", "") or "x")[
        :200
    ]

    def returns(*args, **options):
        return OddError()

    def raises(*args, **options):
        raise OddError

    def prints(*args, **options):
        print(text)
        return text

    for answer in (returns, raises, prints, text):
        result = exercise("1.1").check(answer)
        assert_report(result)
        assert repr(result).encode("utf-8")


def test_live_curves_show_hostile_text_as_text(monkeypatch):
    sent: list[dict] = []

    class Handle:
        def update(self, data, **options):
            sent.append(data)

    monkeypatch.setattr("IPython.display.display", lambda data, **options: sent.append(data) or Handle())
    monkeypatch.setattr("course_helpers.live.in_kernel", lambda: True)
    stats = {curve.key: 1.0 for curve in CURVES}
    for text in (HOSTILE[0], HALF, r"$\frac{$"):
        with LiveCurves(1, title=text) as curves:
            curves.update(stats, [text], [text], [1.0])
    shown = [data["text/html"] for data in sent if "text/html" in data]
    assert len(shown) >= 3
    for each in shown:
        found = Parts(each)
        assert_no_formulas(each)
        assert found.elements <= {"div", "p", "img", "table", "thead", "tbody", "tr", "th", "td"}
        known = ("src=data:image/png;base", "style=text-align", "class=mathjax_ignore tex0jax_ignore")
        assert all(code.startswith(known) for code in found.code)
        each.encode("utf-8")


@pytest.mark.parametrize("text", [t for t in HOSTILE if len(t) < 1000])
def test_values_cannot_break_a_message(text):
    """`_().format(...)` puts values in and does not look into them."""
    assert str(SpokenError(N_("step is {step}; it must be at least 1."), step=text)).count(text) == 1
    assert text in _("Something went wrong: {kind}: {error}").format(kind="x", error=text)


# ------------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("text", [rf"$\frac{{$ <b>$ a_{{ null\x00byte {HALF}", r"\$5 and $ $\LaTeX$ $x^{2}$"])
def test_labels_of_figures_are_no_formulas(text):
    """What begins with a dollar is drawn as it stands; a formula that is none would be an error at every drawing."""
    y = np.linspace(0, 1, 5)
    point = ((0.0, 0.1), (0.0, 0.1))
    drawn = [
        plots.token_bars([text, "x"], {text: [0.4, 0.6], "x": [0.5, 0.5]}, title=text, top=2),
        plots.lines(y, {text: y, "x": y}, text, text, title=text, levels={text: 0.5}),
        plots.histogram(y, text, marks={text: 0.5}),
        plots.paths({text: (y, y)}, "x", "y"),
        plots.estimates({text: point, "x": point}, "x", "y"),
        plots.simplex([text, "x", "y"], trails={text: np.full((2, 3), 1 / 3)}, title=text),
        plots.plot_funnel([Stage(text, 2, 1, ()), Stage(text * 2, 1, 0, ())], title=text),
        plots.plot_forgetting([{"stage": text, "measure": text, "seed": 0, "value": 0.5, "low": 0.4, "high": 0.6}]),
    ]
    try:
        for axes in drawn:
            figure: Figure = axes.figure
            figure.savefig(io.BytesIO(), format="png", dpi=30)
            legend = axes.get_legend()
            for label in [] if legend is None else legend.get_texts():
                assert not label.get_text().count("$") - label.get_text().count(r"\$")
    finally:
        plt.close("all")
