"""The panels of lesson 04: their numbers are those of the closed forms, drawn, said and shown without a kernel."""

from __future__ import annotations

import gettext
import math
import re
import statistics
import time

import numpy as np
import pytest
import torch

from course_helpers import translation
from course_helpers.translation import language
from course_helpers.widgets.beta_explorer import STATIC_BETAS, BetaExplorer, frontier, greedy_policy, optimum
from course_helpers.widgets.bradley_terry import BradleyTerry
from course_helpers.widgets.curve_picture import Frame, cut
from course_helpers.widgets.log_slider import log_slider
from course_helpers.widgets.markup import number, percent
from course_helpers.widgets.preference_losses import KINDS, PreferenceLosses
from course_helpers.widgets.responses import from_log, named, table
from course_helpers.widgets.reward_sliders import RewardSliders
from tests.test_translation import Pseudo, english_words, shown_without_a_kernel, texts_of
from tests.test_widgets import HOSTILE, assert_harmless

PI_REF = [0.05, 0.2, 0.3, 0.15, 0.1, 0.2]
R = [2.0, 0.5, 0.0, -1.0, 1.0, 0.3]
NAMES = ["a joy", "fine", "so-so", "dull", "good", "fair"]
MAKERS = {
    "beta": lambda: BetaExplorer(PI_REF, R, ["①", "②", "③", "④", "⑤", "⑥"]),
    "beta, equal rewards": lambda: BetaExplorer([0.5, 0.5], [1.0, 1.0]),
    "rewards": lambda: RewardSliders(PI_REF, rewards=R),
    "rewards, all 0": lambda: RewardSliders(PI_REF),
    "bradley-terry": BradleyTerry,
    "losses": PreferenceLosses,
    "losses, far out": lambda: PreferenceLosses(2.0, beta=0.05),
}


def optimal(pi_ref, r, beta):
    """π_r and Z, in numpy."""
    terms = np.array(pi_ref) * np.exp(np.array(r) / beta)
    return terms / terms.sum(), terms.sum()


def cells(text: str) -> list[list[str]]:
    """The rows of all tables, as text; a bar is an empty cell."""
    rows = re.findall(r"<tr.*?>(.*?)</tr>", text)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)] for row in rows]


def row_of(text: str, name: str) -> list[str]:
    """The cells beside a name."""
    return next(row[1:] for row in cells(text) if row and row[0] == name)


def places(text: str, look: str) -> np.ndarray:
    """The corners of a drawn line, in pixels."""
    path = re.search(rf'<path class="{look}" d="M([^"]*)"', text)[1]
    return np.array([[float(x) for x in place.split(",")] for place in path.split(" L")])


def dot(text: str, look: str) -> tuple[float, ...]:
    return tuple(float(x) for x in re.search(rf'<circle class="{look}" cx="(.*?)" cy="(.*?)"', text).groups())


# ----------------------------------------------------------------------------------------------------- pieces of them


def test_a_line_is_cut_where_it_leaves_the_frame():
    assert cut((0, 0), (1, 1), (0, 1)) == ((0, 0), (1, 1))
    assert cut((0, -1), (1, 1), (0, 1)) == ((0.5, 0), (1, 1))
    assert cut((0, 3), (2, -1), (0, 1)) == ((1, 1), (1.5, 0))
    assert cut((0, 2), (1, 3), (0, 1)) is None
    assert cut((0, 1), (1, 1), (0, 1)) == ((0, 1), (1, 1))


def test_a_curve_that_leaves_and_comes_back_is_drawn_in_two_pieces():
    frame = Frame((0.0, 4.0), (0.0, 1.0), width=140, height=160, left=20, right=20, top=30, bottom=30)
    assert frame.curve([(0, 0), (1, 2), (2, 2), (3, 0), (4, 0)], "c") == (
        '<path class="c" d="M20.0,130.0 L32.5,30.0M82.5,30.0 L95.0,130.0 L120.0,130.0"/>'
    )
    assert frame.curve([(0, 2), (4, 3)], "c") == '<path class="c" d=""/>'


@pytest.mark.parametrize(
    ("log_value", "shown"),
    [
        (0.0, "1.000"),
        (math.log(0.5), "0.500"),
        (math.log(0.02), "0.020"),
        (math.log(9999), "9999.000"),
        (math.log(123456), "1.23 × 10<sup>5</sup>"),
        (math.log(9.999e7), "1.00 × 10<sup>8</sup>"),
        (math.log(3e-7), "3.00 × 10<sup>−7</sup>"),
        (2000.0, "3.88 × 10<sup>868</sup>"),
        (-math.inf, "0"),
        (math.inf, "∞"),
    ],
)
def test_numbers_of_any_size(log_value, shown):
    assert from_log(log_value) == shown


def test_a_logarithmic_slider_ends_where_it_says():
    slider = log_slider("β", 0.37, 0.01, 100.0)
    labels, numbers = zip(*slider.options, strict=True)
    assert (numbers[0], numbers[-1], slider.value, len(numbers)) == (0.01, 100.0, 0.37, 42)
    assert {0.02, 0.1, 0.37, 0.5, 1.0, 2.0, 50.0} < set(numbers)
    assert list(numbers) == sorted(numbers)
    assert [float(label) for label in labels] == list(numbers)
    factors = np.divide(*(np.array([x for x in numbers if x != 0.37])[piece] for piece in (slice(1, None), slice(-1))))
    assert factors.min() > 1.24
    assert factors.max() < 1.29
    with pytest.raises(ValueError, match=r"it must be from 0.01 to 100"):
        log_slider("β", 0.0, 0.01, 100.0)


def test_responses_without_names_are_numbered():
    assert named(None, 11)[-2:] == ["Y₁₀", "Y₁₁"]
    assert "<th scope=" in table(["a"], [["b"]])


# ------------------------------------------------------------------------------------------------------ beta explorer


@pytest.mark.parametrize("beta", [0.05, 0.63, 1.0, 32.0])
def test_beta_explorer_shows_the_closed_form(beta):
    panel = BetaExplorer(torch.tensor(PI_REF), torch.tensor(R, dtype=torch.float64), NAMES)
    panel.beta.value = beta
    pi, Z = optimal(PI_REF, R, beta)
    for name, p, before, r in zip(NAMES, pi, PI_REF, R, strict=True):
        shown = [percent(p).replace("<", "&lt;"), percent(before)]
        assert row_of(panel.responses.value, name) == ["", number(r), *shown]
    reward, kl = pi @ R, (pi * np.log(pi / PI_REF)).sum()
    now = [row[2] for row in cells(panel.terms.value)[1:]]
    assert now[1:] == [number(np.log(Z)), *[number(x) for x in (beta * np.log(Z), reward)], number(kl, 3), now[2]]
    assert f"E[r] = {number(reward)} at KL = {number(kl, 3)} nats" in panel.summary.value


def test_the_ends_of_the_frontier_are_the_reference_and_the_argmax():
    points = frontier(torch.tensor(PI_REF, dtype=torch.float64), torch.tensor(R, dtype=torch.float64))
    assert points[0] == pytest.approx((0.0, np.dot(PI_REF, R)))
    assert points[-1] == pytest.approx((-math.log(0.05), 2.0))  # −ln π_ref(best), max r
    kl, reward = np.array(points).T
    assert (np.diff(kl) >= 0).all()
    assert (np.diff(reward) >= -1e-12).all()
    assert np.diff(kl).max() < 0.15  # no gap that a straight line would hide
    panel = BetaExplorer(PI_REF, R)
    limits = [(row[1], row[3]) for row in cells(panel.terms.value)[1:]]
    low = number(np.dot(PI_REF, R))
    assert limits == [("1.000", "∞"), ("0.00", "∞"), (low, "2.00"), (low, "2.00"), ("0.000", "2.996"), (low, "2.00")]


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0, 5.0])
def test_the_slope_of_the_frontier_is_beta(beta):
    """dE/dKL = β, by finite differences; and no other policy lies above the curve."""
    pi_ref, r = torch.tensor(PI_REF, dtype=torch.float64), torch.tensor(R, dtype=torch.float64)
    before, after = optimum(pi_ref, r, beta * 1.0001), optimum(pi_ref, r, beta * 0.9999)
    assert (after.reward - before.reward) / (after.kl - before.kl) == pytest.approx(beta, rel=1e-6)
    kl, reward = np.array(frontier(pi_ref, r, 2000)).T
    pi = np.random.default_rng(0).dirichlet(np.ones(6), 500)
    others = (pi * np.log(pi / PI_REF)).sum(-1)
    assert (pi @ R <= np.interp(others, kl, reward) + 1e-4).all()


@pytest.mark.parametrize("beta", [0.02, 1.0, 8.0])
def test_the_point_lies_on_the_frontier_and_its_tangent_meets_the_edge_at_j(beta):
    panel = BetaExplorer(PI_REF, R)
    panel.beta.value = beta
    curve, tangent = places(panel.picture.value, "ch-line"), places(panel.picture.value, "ch-dashed")
    x, y = dot(panel.picture.value, "ch-now")
    assert y == pytest.approx(np.interp(x, *curve.T), abs=0.8)
    assert y == pytest.approx(np.interp(x, *tangent.T), abs=0.4)
    low, high = curve[0, 1], curve[-1, 1]  # pixels of E_ref[r] and of max r
    expected = low + (panel.now.J - np.dot(PI_REF, R)) / (2.0 - np.dot(PI_REF, R)) * (high - low)
    assert tangent[0] == pytest.approx([curve[0, 0], expected], abs=0.2)
    ends = re.findall(r'<circle class="ch-end" cx="(.*?)" cy="(.*?)"', panel.picture.value)
    assert [tuple(map(float, end)) for end in ends] == [tuple(curve[0]), tuple(curve[-1])]


def test_beta_explorer_says_which_limit_is_near():
    panel = BetaExplorer(PI_REF, R, NAMES)
    assert "has the slope β here" in panel.summary.value
    panel.beta.value = 100.0
    assert "π_r stays at its reference π_ref. That is the limit β → ∞" in panel.summary.value
    panel.beta.value = 0.01
    assert "π_r writes hardly anything but a joy. That is the limit β → 0" in panel.summary.value
    assert panel.message.value == ""
    panel.reset_button.click()
    assert panel.beta.value == 1.0


def test_edges_of_the_frontier():
    """Ties, a response that the reference never writes, rewards below 0 and beyond exp, nothing to gain."""
    tensors = [torch.tensor(x, dtype=torch.float64) for x in ([0.2, 0.3, 0.5, 0.0], [1.0, 1.0, 0.0, 9.0])]
    assert greedy_policy(*tensors).tolist() == pytest.approx([0.4, 0.6, 0.0, 0.0])
    assert frontier(*tensors)[-1] == pytest.approx((-math.log(0.5), 1.0))
    tied = BetaExplorer(*tensors)
    tied.beta.value = 0.01
    assert "hardly anything but Y₁, Y₂." in tied.summary.value
    large = BetaExplorer([0.5, 0.5], [-900.0, -901.0])
    large.beta.value = 0.01
    assert large.message.value == ""
    assert "−∞" in large.terms.value
    assert "× 10<sup>−" in large.terms.value
    equal = BetaExplorer([0.3, 0.7], [2.0, 2.0])
    assert "π_r is π_ref at every β" in equal.summary.value
    assert "nan" not in equal.picture.value
    zero = BetaExplorer([0.25, 0.75], [0.0, -1.0])
    assert cells(zero.terms.value)[1][3] == "0.250"  # Z → π_ref(best) where the best reward is 0


def test_beta_explorer_without_a_kernel():
    panel = BetaExplorer(PI_REF, R, NAMES)
    text = panel._repr_mimebundle_()["text/html"]
    assert_harmless(text)
    for beta in STATIC_BETAS:
        pi, Z = optimal(PI_REF, R, beta)
        kl = np.sum(pi[pi > 0] * np.log(pi[pi > 0] / np.array(PI_REF)[pi > 0]))
        row = row_of(text, f"{beta:g}")
        assert row[1:5] == [number(beta * np.log(Z)), number(pi @ R), number(abs(kl), 3), number(beta * np.log(Z))]
        assert row[5] == f"{NAMES[pi.argmax()]} ({percent(pi.max())})"
    pi, _Z = optimal(PI_REF, R, 1.0)
    assert row_of(text, "a joy")[:3] == ["2.00", percent(pi[0]), percent(0.05)]


def test_a_panel_keeps_its_own_numbers():
    """What a lesson does to its tensor afterwards does not reach the panel."""
    pi_ref = torch.tensor(PI_REF, dtype=torch.float64, requires_grad=True)
    panel = BetaExplorer(pi_ref, R)
    before = panel.responses.value
    with torch.no_grad():
        pi_ref.zero_()
    panel.refresh()
    assert panel.responses.value == before


# ----------------------------------------------------------------------------------------------------- reward sliders


def test_with_all_rewards_0_the_partition_is_1():
    panel = RewardSliders(PI_REF, names=NAMES)
    assert "<b>1.000</b>" in panel.summary.value
    assert "Z = 1 and π_r is π_ref" in panel.summary.value
    assert panel.pi.tolist() == pytest.approx(PI_REF)


def test_each_term_of_the_partition_and_its_share():
    panel = RewardSliders(PI_REF, beta=0.8, names=NAMES)
    for slider, r in zip(panel.rewards, R, strict=True):
        slider.value = r
    pi, Z = optimal(PI_REF, R, 0.8)
    for name, p, before, r in zip(NAMES, pi, PI_REF, R, strict=True):
        weight, product = math.log(math.exp(r / 0.8)), math.log(before * math.exp(r / 0.8))
        shown = [percent(before), number(r), from_log(weight), from_log(product), "", percent(p)]
        assert row_of(panel.terms.value, name) == shown
    assert row_of(panel.terms.value, "sum")[3] == f"Z = {number(Z, 3)}"
    assert f"<b>{number(Z, 3)}</b>; ln Z = {number(np.log(Z))}; β ln Z = {number(0.8 * np.log(Z))}" in (
        panel.summary.value
    )


@pytest.mark.parametrize(("beta", "c"), [(1.0, 0.7), (0.3, -2.0), (0.01, 3.0)])
def test_a_constant_multiplies_the_partition_and_leaves_the_policy(beta, c):
    panel = RewardSliders(PI_REF, beta, rewards=R)
    pi, log_z, column = panel.pi, panel.log_z, [row[-1] for row in cells(panel.terms.value)]
    panel.constant.value = c
    assert panel.pi.tolist() == pytest.approx(pi.tolist(), rel=1e-10)
    assert [row[-1] for row in cells(panel.terms.value)] == column
    assert panel.log_z - log_z == pytest.approx(c / beta)
    assert f"c = {number(c)} is added to every reward" in panel.summary.value
    assert f"exp({number(c / beta)}), and ln Z goes from {number(log_z)} to {number(panel.log_z)}" in (
        panel.summary.value
    )
    panel.reset_button.click()
    assert panel.constant.value == 0
    assert panel.log_z == pytest.approx(log_z)


def test_reward_sliders_at_their_ends_do_not_overflow():
    panel = RewardSliders([0.0, 0.5, 0.5], beta=0.01, rewards=[3, 3, -3])
    panel.constant.value = 3.0
    assert panel.message.value == ""
    assert row_of(panel.terms.value, "Y₁")[3:] == ["0", "", "0 %"]
    assert "nan" not in panel.terms.value
    assert "inf" not in panel.terms.value


def test_reward_sliders_without_a_kernel():
    panel = RewardSliders(PI_REF, names=NAMES, rewards=R)
    text = panel._repr_mimebundle_()["text/html"]
    assert_harmless(text)
    for live, still in zip(cells(panel.terms.value)[1:], cells(text)[1:], strict=True):
        assert live[:5] + live[6:] == still[:6]  # but for the bar
    assert f"Z = {number(optimal(PI_REF, R, 1.0)[1], 3)}" in text


# ------------------------------------------------------------------------------------------------------ Bradley-Terry


@pytest.mark.parametrize(("one", "other"), [(1.0, 0.0), (-2.5, 0.4), (0.3, 0.3), (3.0, -3.0)])
def test_bradley_terry_is_written_out(one, other):
    panel = BradleyTerry(["a joy", "dull"])
    panel.rewards[0].value, panel.rewards[1].value = one, other
    p = math.exp(one) / (math.exp(one) + math.exp(other))
    assert panel.probability == pytest.approx(p)
    assert f"exp({number(one)}) / (exp({number(one)}) + exp({number(other)}))" in panel.summary.value
    assert f"= <b>{percent(p)}</b> = σ({number(one - other)})" in panel.summary.value
    assert f"a joy is preferred to dull with probability {percent(p)}" in panel.summary.value


def test_what_depends_on_the_query_alone_cancels():
    panel = BradleyTerry(rewards=(1.2, -0.3))
    for control, value in ((panel.shift, 2.0), (panel.partition, 10.0), (panel.beta, 0.5)):
        control.value = value
        assert panel.probability == pytest.approx(1 / (1 + math.exp(-1.5)))
        assert percent(panel.probability) in panel.summary.value
    log_z = 0.5 * math.log(10)
    found = {row[0]: row[1:] for row in cells(panel.parts.value)[1:]}
    assert found["β ln(π_r/π_ref)"] == [number(1.2 - log_z), number(-0.3 - log_z), "1.50"]
    assert found["+ β ln Z(X)"] == [number(log_z), number(log_z), "0.00"]
    assert found["= reward r"] == ["1.20", "−0.30", "1.50"]
    assert found["+ f(X)"] == ["2.00", "2.00", "0.00"]
    assert found["= r + f(X)"] == ["3.20", "1.70", "1.50"]
    assert "f(X) = 2.00 stands in both rewards and cancels" in panel.summary.value
    assert f"β ln Z(X) = {number(log_z)} depends on X alone and cancels" in panel.summary.value
    panel.reset_button.click()
    assert "cancels" not in panel.summary.value


def test_the_preference_lies_on_the_logistic_curve():
    panel = BradleyTerry(rewards=(1.0, -0.5))
    curve = places(panel.picture.value, "ch-line")
    x, y = dot(panel.picture.value, "ch-now")
    assert y == pytest.approx(np.interp(x, *curve.T), abs=0.5)
    left, right = curve[0, 0], curve[-1, 0]
    assert (x - left) / (right - left) == pytest.approx((1.5 + 6) / 12, abs=1e-3)
    assert "difference 1.50, probability 81.8 %" in panel.picture.value


def test_bradley_terry_without_a_kernel():
    text = BradleyTerry(["a joy", "dull"])._repr_mimebundle_()["text/html"]
    assert_harmless(text)
    for difference in (-3.0, 0.0, 2.0):
        assert row_of(text, number(difference)) == [percent(1 / (1 + math.exp(-difference)))]
    assert row_of(text, "= reward r") == ["1.00", "0.00", "1.00"]


# -------------------------------------------------------------------------------------------------- preference losses


def values(panel, kind):
    """Loss and weight that the table shows."""
    return row_of(panel.values.value, KINDS[kind].name)[:2]


def test_known_values_of_the_losses():
    panel = PreferenceLosses(beta=0.5, label_smoothing=0.1)
    assert values(panel, 0) == ["0.693", "0.500"]  # ln 2, and ½
    assert values(panel, 1) == ["0.693", "0.400"]
    assert values(panel, 2) == ["1.000", "4.000"]  # (½/β)², 1/β²
    assert values(panel, 3) == ["1.000", "1.000"]
    panel.margin.value = 0.5
    assert values(panel, 2) == ["0.000", "0.000"]
    assert "1/(2β) = 1.00 nats" in panel.values.value
    panel.margin.value = 1.0
    assert values(panel, 3) == ["0.000", "0.000"]
    panel.margin.value = 2.5
    assert values(panel, 3) == ["0.000", "0.000"]
    assert values(panel, 0) == [number(math.log1p(math.exp(-2.5)), 3), number(1 / (1 + math.exp(2.5)), 3)]
    assert "pulls the margin down again: sigmoid, smoothed, IPO." in panel.summary.value
    smallest = re.search(r"ln\(\(1 − ε\)/ε\) = ([\d.]+)", panel.values.value)[1]
    panel.margin.value = float(smallest)
    assert values(panel, 1)[1] == "0.000"


@pytest.mark.parametrize("margin", [-2.0, 0.0, 0.4, 1.7])
def test_the_weight_is_the_slope_of_the_drawn_loss(margin):
    """Finite differences of the shown losses, whatever the formulas."""
    panel = PreferenceLosses(margin, beta=0.7, label_smoothing=0.2)
    for kind in KINDS:
        weight = panel.here(kind)[1]
        panel.margin.value = margin + 1e-5
        above = panel.here(kind)[0]
        panel.margin.value = margin - 1e-5
        below = panel.here(kind)[0]
        panel.margin.value = margin
        assert (below - above) / 2e-5 == pytest.approx(weight, abs=1e-4)


def test_dots_lie_on_the_lines_of_both_pictures():
    panel = PreferenceLosses(0.3)
    for picture in panel.pictures.value.split("</svg>")[:2]:
        for kind in KINDS:
            x, y = dot(picture, kind.look)
            assert y == pytest.approx(np.interp(x, *places(picture, kind.look).T), abs=1.0)
    assert "ch-beyond" not in panel.pictures.value


def test_what_leaves_the_pictures_is_cut_off_and_marked():
    panel = PreferenceLosses(0.0, beta=0.1)
    assert values(panel, 2) == ["25.000", "100"]
    loss, weight = panel.pictures.value.split("</svg>")[:2]
    assert loss.count("ch-beyond") == weight.count("ch-beyond") == 1
    for picture in (loss, weight):
        heights = places(picture, "ch-ipo")[:, 1]
        assert heights.min() >= 24
        assert heights.max() <= 270 - 36
    assert dot(loss, "ch-ipo")[1] == 24.0
    assert "cut off" in panel.pictures.value


def test_losses_are_chosen():
    panel = PreferenceLosses()
    panel.choices[2].value = False
    assert "IPO" not in panel.summary.value + panel.values.value
    assert 'path class="ch-ipo"' not in panel.pictures.value
    for choice in panel.choices:
        choice.value = False
    assert panel.message.value == ""
    panel.reset_button.click()
    assert [choice.value for choice in panel.choices] == [True] * 4
    panel.epsilon.value = 0.0
    assert values(panel, 0) == values(panel, 1)
    assert panel.values.value.count("a larger margin is always better") == 2


def test_the_summary_says_how_the_pair_is_ranked():
    panel = PreferenceLosses()
    assert "m = 0: both implicit rewards are equal" in panel.summary.value
    panel.margin.value = -1.0
    assert "m = −1.00: the implicit rewards rank the pair wrongly" in panel.summary.value
    panel.margin.value = 1.0
    assert "m = 1.00: the implicit rewards rank the pair rightly" in panel.summary.value


def test_preference_losses_without_a_kernel():
    text = PreferenceLosses(beta=0.5)._repr_mimebundle_()["text/html"]
    assert_harmless(text)
    assert row_of(text, "sigmoid (DPO)")[2] == "0.693 (0.500)"
    assert row_of(text, "IPO")[2:5] == ["1.000 (4.000)", "0.000 (0.000)", "1.000 (−4.000)"]
    assert row_of(text, "hinge")[4] == "0.000 (0.000)"


# -------------------------------------------------------------------------------------------------------- all of them


@pytest.fixture
def pseudo(monkeypatch):
    """A language that translates whatever it is given, so that what was not given stands out."""
    monkeypatch.setattr(translation, "_catalogue", {"en": gettext.NullTranslations(), "pt": Pseudo()}.get)


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_every_word_follows_the_language_and_comes_back(make, pseudo):
    panel = make()
    before, static = texts_of(panel), shown_without_a_kernel(panel)
    language("pt")
    other = texts_of(panel)
    assert sum(other[place] != before[place] for place in before) >= 6
    for place, text in (other | shown_without_a_kernel(panel)).items():
        shown = text.removeprefix(f"{type(panel).__name__}: ") if place == "text/plain" else text
        assert english_words(shown) == [], place
    assert texts_of(make()) == other
    language("en")
    assert texts_of(panel) == before
    assert shown_without_a_kernel(panel) == static


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_the_static_version_is_constant_and_a_picture_is_told(make):
    one, two = make(), make()
    assert shown_without_a_kernel(one) == shown_without_a_kernel(two)
    assert "<table>" in one.static_html()
    for text in texts_of(one).values():
        assert_harmless(re.sub("<style.*?</style>", "", text, flags=re.DOTALL).replace("data-value-of", "title")
                        .replace("lang=", "title="))  # fmt: skip
        for picture in re.findall("<svg[^>]*>", text):
            assert re.search('role="img" aria-label="[^"]{20,}"|aria-hidden="true"', picture)


def test_names_are_text():
    hostile = HOSTILE[:6]
    for panel in (
        BetaExplorer(PI_REF, R, hostile),
        RewardSliders(PI_REF, names=hostile),
        BradleyTerry(hostile[1:3]),
        BradleyTerry(hostile[3:5]),
    ):
        for part in (panel.summary, *(getattr(panel, name, panel.summary) for name in ("picture", "terms", "parts"))):
            assert_harmless(part.value)
        assert_harmless(panel._repr_mimebundle_()["text/html"])
        assert "&lt;img src=x" in panel.static_html() or "&quot;" in panel.static_html()
    braces = RewardSliders([0.5, 0.5], names=["{name}", "{0}"])
    assert [slider.description for slider in braces.rewards] == ["r of {name}", "r of {0}"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BetaExplorer([PI_REF], [R]), r"pi_ref has shape \(1, 6\); expected \(M,\).*pass one row: pi_ref\[0\]"),
        (lambda: BetaExplorer([1.0], [1.0]), r"pi_ref has shape \(1,\)"),
        (lambda: BetaExplorer(torch.ones(2048) / 2048, torch.ones(2048)), "M from 2 to 24"),
        (lambda: BetaExplorer(PI_REF, R[:5]), "shapes do not fit"),
        (lambda: BetaExplorer([0.5, 0.6], [0, 0]), "no distribution"),
        (lambda: BetaExplorer([0.5, 0.5], [0, math.nan]), "NaN or infinite"),
        (lambda: BetaExplorer(PI_REF, R, NAMES[:5]), "expected a list of 6 names, one for each response"),
        (lambda: BetaExplorer([0.5, 0.5], [0, 1], "ab"), "names is 'ab'; expected a list"),
        (lambda: RewardSliders([2.0, -1.0]), "no distribution"),
        (lambda: RewardSliders([0.5, 0.5], beta=0.0), r"β, price of a nat is 0.0; it must be from 0.01 to 100"),
        (lambda: RewardSliders([0.5, 0.5], rewards=[0, 4]), r"rewards are \[0.0, 4.0\]; the sliders reach from −3 to"),
        (lambda: RewardSliders([0.5, 0.5], rewards=[0]), r"r has shape \(1,\)"),
        (lambda: RewardSliders(PI_REF, names=["one"]), "expected a list of 6 names"),
        (lambda: BradleyTerry(["one"]), "expected a list of 2 names"),
        (lambda: BradleyTerry(rewards=(1, 2, 3)), r"rewards are \[1.0, 2.0, 3.0\]; expected two, one for each of A, B"),
        (lambda: BradleyTerry(rewards=(1, math.nan)), "the sliders reach from −3 to 3"),
        (lambda: PreferenceLosses(margin=4), "margin is 4"),
        (lambda: PreferenceLosses(label_smoothing=0.5), "label_smoothing 0.5"),
        (lambda: PreferenceLosses(beta=-1), "it must be from 0.01 to 10"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_event_takes_a_few_milliseconds():
    for panel, control in (
        (BetaExplorer(PI_REF, R), "beta"),
        (RewardSliders(PI_REF), "constant"),
        (BradleyTerry(), "shift"),
        (PreferenceLosses(), "margin"),
        (PreferenceLosses(), "beta"),
    ):
        times = []
        for step in range(30):
            start = time.thread_time()
            moved = getattr(panel, control)
            moved.value = moved.options[step % 20][1] if control == "beta" else 0.1 + 0.05 * step
            times.append(time.thread_time() - start)
        assert statistics.median(times) < 0.01, type(panel).__name__  # 0.3 to 2 ms
