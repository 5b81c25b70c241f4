"""Every widget with hostile texts in Chromium: no script runs, no dialog opens, nothing leaves, and all answer."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest

if os.environ.get("CI") != "true":
    pytest.importorskip("playwright", reason="install playwright to run the browser tests")

from playwright.sync_api import Page, expect

from tests.browser.browser_lab import run_notebook
from tests.security.hostile import HALF, HIT, MARKUP, OTHER
from tests.security.panels import BUILD

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
START = (
    f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    "from tests.security.hostile import ALL, HALF, press_everything\n"
    "from tests.security.panels import BUILD\n"
    "from course_helpers.exercises.registry import exercise\n"
    "from course_helpers.glossary import glossary\n"
    "from course_helpers.preferences import validate_pairs\n"
    "from course_helpers.teacher.examples import Rejected\n"
    "HOSTILE = ALL + ' ' + HALF\n"
    "refused = Rejected(*[ALL] * 5)\n"  # a teacher's texts hold no half letters
    "panels = {}\n"
    "def show(name):\n"
    "    panels[name] = BUILD[name](HOSTILE)\n"
    "    press_everything(panels[name])\n"
    "    return panels[name]\n"
)
PRINTED = "print(f'{refused.reason}\\n   {refused.context} → {refused.answer}')"  # as lesson 07 shows it
REPORTS = (
    "validate_pairs([{HOSTILE: HOSTILE}, HOSTILE, {'prompt': HOSTILE, 'chosen': HOSTILE, 'rejected': ' x'}])",
    "glossary('z' + ALL)",
    "def prints(*anything):\n    print(HOSTILE)\n    raise ValueError(HOSTILE)\nexercise('1.1').check(prints)",
)
# What only a text could have brought in; a live picture and a lesson's own links are not among them, nor the links that
# JupyterLab itself makes of addresses in what is printed (a browser opens no page of data from one).
FOREIGN = (
    ".ch-panel script, .ch-panel iframe, .ch-panel img, .ch-panel object, .ch-panel embed, .ch-panel link, "
    ".ch-panel base, .ch-panel form, .ch-panel video, .ch-panel marquee, .ch-panel meta, .ch-panel h1, "
    ".jp-OutputArea img, .jp-OutputArea iframe, .jp-OutputArea form, .jp-OutputArea marquee, "
    "a[href^='javascript' i], a[href^='data' i]:not(.jp-RenderedText a), "
    "[onmouseover], [onerror], [onfocus], [onanimationstart], [ontoggle]"
)
TYPED = (MARKUP[0], MARKUP[3], MARKUP[4], OTHER[1], OTHER[2], OTHER[7])


@pytest.fixture(scope="module")
def opened(page, lab, tmp_path_factory):
    """The page with every widget and some reports; whatever asks the learner something is remembered in `dialogs`."""
    page.dialogs = []
    page.on("dialog", lambda dialog: (page.dialogs.append(dialog.message), dialog.dismiss()))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    sources = [START, *(f"show({name!r})" for name in BUILD), *REPORTS, PRINTED]
    prose = nbformat.v4.new_markdown_cell("The lesson's own $\\pi_\\theta$.")
    cells = [*(nbformat.v4.new_code_cell(source) for source in sources), prose]
    path = tmp_path_factory.mktemp("notebook") / "hostile.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    run_notebook(page, lab, path)
    expect(page.locator(".ch-panel")).to_have_count(len(BUILD))
    return page


def assert_untouched(page: Page) -> None:
    """No script of a text ran, asked, loaded or built anything."""
    page.wait_for_timeout(300)  # what loads or fails to load takes its moment
    assert page.evaluate("window.__hit") is None, HIT
    assert page.dialogs == []
    assert page.away == []
    found = page.evaluate(
        "wanted => [...document.querySelectorAll(wanted)].map(e => e.outerHTML.slice(0, 200))", FOREIGN
    )
    assert found == []
    assert_no_formulas(page)


def test_nothing_of_a_text_became_part_of_the_page(opened):
    assert_untouched(opened)
    shown = opened.locator(".ch-panel", has_text="Bradley-Terry").first
    expect(shown).to_contain_text("<script>window.__hit=1;alert(1)</script>")  # it is there, as text
    expect(shown).to_contain_text(r"half \ud800 letter")
    assert HALF.startswith("half \ud800")


def test_reports_are_on_the_page_as_text(opened):
    outputs = opened.locator(".jp-OutputArea-output.jp-RenderedHTMLCommon")
    assert outputs.filter(has_text="__hit").count() == len(REPORTS)
    printed = opened.locator(".jp-OutputArea-output.jp-RenderedText")
    assert printed.filter(has_text="<script>window.__hit=1;alert(1)</script>").count() == 1


def test_no_text_is_set_as_a_formula(opened):
    """Below cells MathJax passes over what is marked so; in labels of controls the signs of a formula are broken up."""
    assert_no_formulas(opened)
    outputs = opened.locator(".jp-OutputArea-output.jp-RenderedHTMLCommon").filter(has_text="LaTeX")
    assert outputs.count() == opened.locator(".jp-RenderedHTMLCommon > .mathjax_ignore").count() >= 2
    named = opened.locator(".ch-panel .widget-label", has_text="LaTeX")
    assert named.count() >= 4  # rewards, steps of a quiz, a unit
    expect(named.first).to_contain_text("\uff04\\LaTeX\uff04 \\\u2060(x\\)")


def assert_no_formulas(page: Page) -> None:
    """Typesetting takes its moment; of this page, it worked: the formula in its own prose is set."""
    expect(page.locator(".jp-MarkdownCell mjx-container")).to_have_count(1)
    set_ = "found => [...document.querySelectorAll(found)].map(e => e.parentElement.outerHTML.slice(0, 300))"
    wanted = "mjx-container, .MathJax, math"
    inside = ", ".join(f"{place} {name}" for place in (".ch-panel", ".jp-OutputArea") for name in wanted.split(", "))
    assert page.evaluate(set_, inside) == []


def test_what_is_typed_into_every_field_stays_text_and_the_panels_answer(opened):
    fields = opened.locator(".ch-panel input[type=text]:visible, .ch-panel textarea:visible")
    count = fields.count()
    assert count >= 7  # five prompts, the glossary, a review and a question, a number
    for place in range(count):
        field = fields.nth(place)
        if field.get_attribute("readonly") is None:
            field.fill(TYPED[place % len(TYPED)])
            field.press("Enter")
    for name in ("Draw rollouts", "Answer", "Check", "Write", "Search", "Next step"):
        for button in opened.get_by_role("button", name=name, exact=True).all():
            if button.is_visible() and button.is_enabled():
                button.click()
    assert_untouched(opened)
    search = opened.locator(".ch-panel", has_text="Glossary").get_by_role("textbox", name="look up")
    search.fill(MARKUP[3])
    expect(opened.locator(".ch-panel .ch-status").last).to_contain_text("<img src=x onerror=", timeout=30_000)
    search.fill("KL")
    expect(opened.locator(".ch-panel .ch-status").last).not_to_contain_text("<img", timeout=30_000)
    slider = opened.locator(".ch-panel", has_text="Bradley-Terry").get_by_role("slider").first
    before = opened.locator(".ch-panel", has_text="Bradley-Terry").locator(".ch-summary").inner_text()
    slider.focus()
    slider.press("ArrowRight")
    said = opened.locator(".ch-panel", has_text="Bradley-Terry").locator(".ch-summary")
    expect(said).not_to_have_text(before, timeout=30_000)
    assert_untouched(opened)


def test_half_a_letter_that_is_typed_does_not_stop_a_panel(opened):
    """A page can send half a letter, which the kernel cannot send back."""
    panel = opened.locator(".ch-panel", has_text="Glossary")
    field = panel.get_by_role("textbox", name="look up")
    field.focus()
    field.evaluate("field => { field.value = 'x\\ud800'; field.dispatchEvent(new Event('input', {bubbles: true})); }")
    opened.wait_for_timeout(500)
    field.fill("entropy")
    expect(panel.locator(".ch-status")).to_contain_text("entropy", timeout=30_000)
    assert_untouched(opened)
