"""The chat panel of lesson 07 in Chromium: by keyboard, in two languages, light and dark, on a narrow page."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest

if os.environ.get("CI") != "true":
    pytest.importorskip("playwright", reason="install playwright to run the browser tests")

from playwright.sync_api import Locator, Page, expect

from tests.browser.browser_lab import check_with_axe, choose_theme, controls, rerun, run_notebook, save_screenshot

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "<img src=x onerror=\"document.body.dataset.harmed='yes'\"><b>"
CELLS = {
    "imports": f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    "import copy\nimport torch\nimport course_helpers\n"
    "from course_helpers.models import load_policy\n"
    "from course_helpers.widgets import ChatPanel\n"
    "policy, tokenizer = load_policy('small', 'cpu')\n"
    "other = copy.deepcopy(policy)\n"
    "with torch.no_grad():\n    other.transformer.h[0].mlp.c_proj.weight.mul_(0.5)",
    "chat": "ChatPanel({'before': policy, 'after': other}, tokenizer, [\n"
    "    ('The acting is wonderful, but the plot is dull.', 'What is praised and what is blamed?'),\n"
    "    (None, 'Who directed The Salt Road?')])",
    "language": "course_helpers.language('en')",
}


@pytest.fixture(scope="module")
def opened(page, lab, tmp_path_factory):
    """The page with the panel."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    path = tmp_path_factory.mktemp("notebook") / "chat.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    run_notebook(page, lab, path)
    expect(page.locator(".ch-panel")).to_have_count(1)
    return page


@pytest.fixture
def panel(opened) -> Locator:
    return opened.locator(".ch-panel")


def speak(page: Page, code: str) -> None:
    rerun(page, list(CELLS).index("language"), f"course_helpers.language('{code}')")


def test_the_first_example_is_answered_at_once(panel):
    cards = panel.locator(".ch-answers .ch-card")
    expect(cards).to_have_count(2)
    expect(cards.nth(0)).to_contain_text("before")
    expect(cards.nth(1)).to_contain_text("after")
    expect(panel.locator(".ch-answers")).to_contain_text("Greedy (τ = 0)")
    save_screenshot(panel, "chat")


def test_a_question_is_asked_by_keyboard(panel):
    """From the list of examples through every control to the button, with Tab and the keys alone."""
    examples = panel.get_by_role("combobox", name="example")
    examples.focus()
    examples.press("End")
    expect(panel.get_by_role("textbox", name="question")).to_have_value("Who directed The Salt Road?")
    expect(panel.get_by_role("textbox", name="review")).to_have_value("")
    keyboard = panel.page.keyboard
    keyboard.press("Tab")
    keyboard.insert_text("The music is moving.")
    keyboard.press("Tab")
    keyboard.press("Control+a")
    keyboard.insert_text("What is praised?")
    keyboard.press("Tab")
    expect(panel.get_by_role("slider", name="temperature τ", exact=True)).to_be_focused()
    expect(examples.locator("option:checked")).to_have_text("choose one")
    for _press in range(16):
        keyboard.press("ArrowRight")
    expect(panel.locator(".ch-hints")).to_contain_text("the same seed")
    panel.get_by_role("spinbutton", name="seed").fill("3")
    answer = panel.get_by_role("button", name="Answer")
    answer.focus()
    answer.press("Enter")
    asked = panel.locator(".ch-answers .ch-asked")
    expect(asked).to_have_text("Review: The music is moving.\nQuestion: What is praised?\nAnswer:", timeout=30_000)
    expect(panel.locator(".ch-answers")).to_contain_text("Drawn at temperature τ 0.8")
    expect(panel.locator(".ch-answers")).to_contain_text("seed 3.")
    expect(panel.locator(".ch-earlier .ch-exchange")).to_have_count(1)
    save_screenshot(panel, "chat_drawn")


def test_an_empty_question_is_announced(panel):
    question = panel.get_by_role("textbox", name="question")
    question.fill("")
    panel.get_by_role("button", name="Answer").click()
    expect(panel.get_by_role("alert")).to_contain_text("Type one, or choose an example")
    question.fill("Who?")
    question.press("Tab")
    expect(panel.get_by_role("alert")).to_have_count(0)


def test_markup_that_is_typed_stays_text(panel):
    panel.get_by_role("textbox", name="review").fill(HOSTILE)
    panel.get_by_role("textbox", name="question").fill("Who?")
    panel.get_by_role("button", name="Answer").click()
    expect(panel.locator(".ch-answers .ch-asked")).to_contain_text(HOSTILE, timeout=30_000)
    assert panel.locator(".ch-answers img, .ch-earlier img").count() == 0
    assert panel.page.evaluate("document.body.dataset.harmed") is None


def test_the_panel_speaks_portuguese_and_english_again(opened, panel):
    before = panel.inner_text()
    speak(opened, "pt")
    expect(panel).to_have_attribute("lang", "pt-BR")
    save_screenshot(panel, "chat_pt")
    speak(opened, "en")
    expect(panel).to_have_attribute("lang", "en")
    assert panel.inner_text() == before


def test_every_control_has_a_name_and_answers_are_read_aloud(opened):
    found = controls(opened, ".ch-panel")
    assert [role for role, name in found if not name.strip()] == []
    assert {"slider", "button", "textbox", "combobox", "spinbutton"} <= {role for role, _name in found}
    live = opened.locator(".ch-live")
    assert live.count() == 1
    assert live.first.get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_axe_finds_no_serious_fault(opened, panel, theme):
    choose_theme(opened, theme)
    opened.set_viewport_size({"width": 1280, "height": 4000})
    opened.wait_for_timeout(300)
    save_screenshot(panel, f"chat_{theme.split()[-1].lower()}")
    check_with_axe(opened, ".ch-panel", {"color-contrast", "label", "button-name", "select-name"})
    opened.set_viewport_size({"width": 1280, "height": 1000})


def test_a_narrow_page_holds_the_panel(opened, panel):
    opened.set_viewport_size({"width": 560, "height": 4000})
    opened.wait_for_timeout(500)
    save_screenshot(panel, "chat_narrow")
    assert panel.evaluate("panel => panel.scrollWidth - panel.clientWidth") <= 0
    opened.set_viewport_size({"width": 1280, "height": 1000})


def test_clear_forgets_the_answers(panel):
    panel.get_by_role("button", name="Clear").press("Enter")
    expect(panel.locator(".ch-exchange")).to_have_count(0)
    expect(panel.locator(".ch-answers")).to_contain_text("Nothing has been asked yet")


def test_no_request_left_the_machine(opened):
    assert opened.away == []
