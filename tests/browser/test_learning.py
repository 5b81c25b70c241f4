"""Learning by doing in JupyterLab in Chromium: exercises, quizzes, glossary, two languages, all by keyboard.

axe-core, the accessibility checker of Deque Systems, reads the page with every widget of the course in it.
"""

from __future__ import annotations

import os
import re

import nbformat
import pytest

if os.environ.get("CI") != "true":
    pytest.importorskip("playwright", reason="install playwright to run the browser tests")

from playwright.sync_api import Locator, Page, expect

from tests.browser import browser_lab
from tests.browser.browser_lab import (
    check_with_axe,
    choose_theme,
    code_cells,
    controls,
    run_notebook,
    save_screenshot,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

STUB = """def sequence_log_probability(token_log_probs):
    return ...


exercise("1.2").check(sequence_log_probability)"""
CELLS = {
    "imports": "import course_helpers\n"
    "from course_helpers.exercises import exercise\n"
    "from course_helpers.glossary import glossary\n"
    "from course_helpers.models import load_policy\n"
    "from course_helpers.progress import note_quiz, progress\n"
    "from course_helpers.widgets import DecodingMicroscope, GlossaryPanel, PolicySteps, Quiz, RatioClip\n"
    "from course_helpers.widgets import SamplingExplorer, WriteItYourself\n"
    "model, tokenizer = load_policy('small')",
    "exercise": STUB,
    "quiz": "Quiz('02', on_answer=note_quiz)",
    "glossary": "GlossaryPanel('KL')",
    "steps": "PolicySteps()",
    "clip": "RatioClip()",
    "explorer": "SamplingExplorer(model, tokenizer, 'This movie was')",
    "writer": "WriteItYourself(model, tokenizer, 'This movie was')",
    "microscope": "DecodingMicroscope(model, tokenizer, 'This movie was')",
    "entry": "glossary('softmax')",
    "language": "course_helpers.language('en')",
    "progress": "progress()",
}
PANELS = sum(name in CELLS for name in ("quiz", "glossary", "steps", "clip", "explorer", "writer", "microscope"))


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A notebook with everything a learner acts on."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    path = tmp_path_factory.mktemp("notebook") / "learning.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


@pytest.fixture(scope="module")
def opened(page, lab, notebook):
    """The page with the notebook run."""
    run_notebook(page, lab, notebook)
    expect(page.locator(".ch-panel")).to_have_count(PANELS)
    return page


def cell(page: Page, name: str) -> Locator:
    return code_cells(page).nth(list(CELLS).index(name))


def rerun(page: Page, name: str, source: str) -> None:
    browser_lab.rerun(page, list(CELLS).index(name), source)


def answer(expression: str) -> str:
    return STUB.replace("return ...", f"return {expression}")


def speak(page: Page, code: str) -> None:
    rerun(page, "language", f"course_helpers.language('{code}')")


@pytest.fixture
def portuguese(opened):
    """The page in Portuguese, and in English again afterwards."""
    speak(opened, "pt")
    yield opened
    speak(opened, "en")


def test_an_exercise_wrong_then_right(opened):
    said = cell(opened, "exercise").locator(".jp-OutputArea")
    expect(said).to_contain_text("Not tried yet")
    rerun(opened, "exercise", answer("sum(token_log_probs) / len(token_log_probs)"))
    expect(said).to_contain_text("Not yet")
    expect(said).to_contain_text("sum")  # the mistake is named: a mean in the place of the sum
    save_screenshot(said, "exercise_wrong")
    rerun(opened, "exercise", answer("sum(token_log_probs)"))
    expect(said).to_contain_text("Right")
    rerun(opened, "progress", "progress()")
    expect(cell(opened, "progress")).to_contain_text("1 of")
    save_screenshot(cell(opened, "progress"), "progress")


def test_an_answer_with_markup_shows_it_as_text(opened):
    rerun(opened, "exercise", answer("'<b>bold</b><img src=x onerror=alert(1)>'"))
    said = cell(opened, "exercise").locator(".jp-OutputArea")
    expect(said).to_contain_text("Not yet")
    assert said.locator("img").count() == 0
    rerun(opened, "exercise", answer("[][1]"))
    expect(said).to_contain_text("IndexError")


def focused(page: Page) -> str:
    script = (
        "() => { const e = document.activeElement; return e.tagName === 'INPUT' ? e.type : e.tagName.toLowerCase() }"
    )
    return page.evaluate(script)


def tab_until(page: Page, kind: str, most: int = 12) -> None:
    """Press Tab until a control of this kind has the focus."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if focused(page) == kind:
            return
    raise AssertionError(f"no {kind} within {most} times Tab; now {focused(page)}")


def test_a_quiz_by_keyboard_alone(opened):
    """From the first radio button on: arrows, Tab, Space; until the question is answered rightly."""
    first = opened.locator(".ch-question").first
    said, count = first.locator(".ch-feedback"), first.locator("input[type=radio]").count()
    first.locator("input[type=radio]").first.focus()
    opened.keyboard.press("Space")
    for _ in range(count):
        before = said.text_content()
        opened.wait_for_timeout(300)  # the choice and the button's click travel on their own
        tab_until(opened, "button")
        opened.keyboard.press("Space")
        expect(said).not_to_have_text(before)
        if "✓ Right" in said.text_content():
            break
        expect(said).to_contain_text("✗ Not yet")
        opened.keyboard.press("Shift+Tab")
        assert focused(opened) == "radio"
        opened.keyboard.press("ArrowDown")
    expect(said).to_contain_text("✓ Right")
    expect(opened.locator(".ch-score")).to_contain_text("Right so far: 1 of")
    save_screenshot(opened.locator(".ch-panel").first, "quiz")


def test_quiz_controls_belong_to_named_groups(opened):
    groups = opened.locator(".ch-question [role=radiogroup], .ch-question [role=group]")
    assert groups.count() == opened.locator(".ch-question").count()
    assert all(group.get_attribute("aria-label") for group in groups.all())


def test_the_glossary_is_searched_in_portuguese(portuguese):
    view = cell(portuguese, "glossary")
    field = view.locator(".ch-panel").get_by_role("textbox")
    field.fill("")
    field.press_sequentially("funcao de particao")
    expect(view).to_contain_text("função de partição")
    expect(view).to_contain_text("Z(X)")
    field.fill("polítca")
    expect(view).to_contain_text("política")
    save_screenshot(view, "glossary_pt")


def test_a_switch_of_language_reaches_what_is_on_the_page(opened):
    """Sliders, titles and a quiz's ticks: other words, same state; and back."""
    before = opened.locator(".ch-panel").all_inner_texts()
    steps = cell(opened, "steps")
    steps.get_by_role("button", name=re.compile(r"Step$")).press("Enter")
    expect(steps).to_contain_text("Step 1: drawn")
    chosen = opened.locator(".ch-question input:checked").count()
    speak(opened, "pt")
    expect(steps).to_contain_text("Passo 1")
    expect(cell(opened, "explorer").get_by_role("slider", name=re.compile("temperatura τ"))).to_be_visible()
    for place, view in enumerate(opened.locator(".ch-panel").all()):
        save_screenshot(view, f"pt_panel{place}")
    assert opened.locator(".ch-question input:checked").count() == chosen
    speak(opened, "en")
    expect(steps).to_contain_text("Step 1: drawn")
    steps.get_by_role("button", name="Reset").press("Enter")
    expect(steps).to_contain_text("No step yet")
    assert opened.locator(".ch-panel").all_inner_texts() == before


def test_the_policy_moves_step_by_step_by_keyboard(opened):
    view = cell(opened, "steps")
    expect(view).to_contain_text("No step yet")
    handle = view.get_by_role("slider", name="baseline b")
    handle.focus()
    handle.press("ArrowRight")
    expect(handle).to_have_attribute("aria-valuenow", "0.1")
    view.get_by_role("button", name="Ten steps").press("Enter")
    expect(view).to_contain_text("Step 10: drawn")
    before, after = re.search(r"E\[r\] went from (\S+) to ([^ ]+\d)", view.inner_text()).groups()
    assert before != after
    save_screenshot(view.locator(".ch-panel"), "policy_steps")
    view.get_by_role("button", name="Reset").press("Enter")
    expect(view).to_contain_text("No step yet")


def test_every_control_has_a_name(opened):
    assert [role for role, name in controls(opened, ".ch-panel") if not name.strip()] == []


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_axe_finds_no_serious_fault(opened, theme):
    choose_theme(opened, theme)
    opened.wait_for_timeout(300)
    check_with_axe(opened, ".ch-panel", {"color-contrast", "label", "button-name"})


def test_no_request_left_the_machine(opened):
    assert opened.away == []
