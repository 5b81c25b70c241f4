"""The panels of lesson 06 in Chromium: by keyboard and mouse, in two languages, light and dark, on a narrow page."""

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
CELLS = {
    "imports": f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    "import course_helpers\n"
    "from course_helpers.models import load_policy\n"
    "from course_helpers.widgets import FrontierPlot, TimeTravel\n"
    "from tests.frontier_points import journey, points, samples\n"
    "policy, tokenizer = load_policy('small', 'cpu')\n"
    "runs = [journey(policy), journey(policy, 'ppo', 'target KL 6', (0, 5, 50), seed=1)]",
    "plot": "FrontierPlot(points(), samples())",
    "travel": "TimeTravel(runs, policy, tokenizer)",
    "language": "course_helpers.language('en')",
}
PANELS = ("plot", "travel")


@pytest.fixture(scope="module")
def opened(page, lab, tmp_path_factory):
    """The page with both panels."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    path = tmp_path_factory.mktemp("notebook") / "frontier.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    run_notebook(page, lab, path)
    expect(page.locator(".ch-panel")).to_have_count(len(PANELS))
    return page


def view(page: Page, name: str) -> Locator:
    return page.locator(".ch-panel").nth(PANELS.index(name))


def speak(page: Page, code: str) -> None:
    rerun(page, list(CELLS).index("language"), f"course_helpers.language('{code}')")


def test_a_point_is_chosen_by_keyboard(opened):
    panel = view(opened, "plot")
    said, points = panel.locator(".ch-summary"), panel.get_by_role("combobox", name="point")
    expect(said).to_contain_text("PPO, β = 0.1: reward by the judge that trains")
    save_screenshot(panel, "plot")
    points.focus()
    points.press("ArrowDown")
    expect(said).to_contain_text("GRPO, β = 0.1:")
    points.press("Home")
    expect(said).to_contain_text("π_ref:")
    expect(panel.locator(".ch-command")).to_contain_text("needs no training")
    axis = panel.get_by_role("combobox", name="vertical axis")
    axis.focus()
    axis.press("ArrowDown")
    expect(said).to_contain_text("by the judge that only measures")
    axis.press("Home")
    panel.get_by_role("checkbox", name="√KL").press("Space")
    expect(panel.locator(".ch-plot")).to_contain_text("√KL(π_θ‖π_ref)")
    save_screenshot(panel, "plot_root")
    panel.get_by_role("checkbox", name="√KL").press("Space")


def test_a_point_is_chosen_by_a_click_on_its_mark(opened):
    """The button lies over the mark, whatever the width of the page."""
    panel = view(opened, "plot")
    spot = panel.get_by_role("button", name="choose DPO, β = 0.03")
    expect(spot).to_have_attribute("tabindex", "-1")
    panel.scroll_into_view_if_needed()
    for width in (1280, 520):
        opened.set_viewport_size({"width": width, "height": 1000})
        opened.wait_for_timeout(300)
        panel.get_by_role("combobox", name="point").select_option(label="π_ref")
        expect(panel.locator(".ch-summary")).to_contain_text("π_ref:")
        mark = panel.locator("svg.ch-plot g.ch-dpo path:not(.ch-cross)").nth(2).bounding_box()
        box = spot.bounding_box()
        middles = [[b["x"] + b["width"] / 2, b["y"] + b["height"] / 2] for b in (mark, box)]
        assert middles[0] == pytest.approx(middles[1], abs=2)
        opened.mouse.click(*middles[0])
        expect(panel.locator(".ch-summary")).to_contain_text("DPO, β = 0.03:")
        selected = panel.get_by_role("combobox", name="point").locator("option:checked")
        expect(selected).to_have_text("DPO, β = 0.03")
    opened.set_viewport_size({"width": 1280, "height": 1000})


def test_a_method_is_hidden_by_keyboard(opened):
    panel = view(opened, "plot")
    expect(panel.locator("svg.ch-plot g.ch-sft")).to_have_count(1)
    panel.get_by_role("checkbox", name="SFT").press("Space")
    expect(panel.locator("svg.ch-plot g.ch-sft")).to_have_count(0)
    expect(panel.get_by_role("button", name="choose SFT, 1 epoch")).to_have_count(0)
    panel.get_by_role("checkbox", name="SFT").press("Space")
    expect(panel.locator("svg.ch-plot g.ch-sft")).to_have_count(1)


def test_steps_are_travelled_by_keyboard(opened):
    panel = view(opened, "travel")
    said, handle = panel.locator(".ch-summary"), panel.get_by_role("slider", name="step")
    expect(said).to_contain_text("Step 80 of 80")
    expect(handle).to_have_attribute("aria-valuetext", "80")  # not its place in the list
    handle.focus()
    handle.press("ArrowLeft")
    expect(said).to_contain_text("Step 40 of 80")
    expect(handle).to_have_attribute("aria-valuetext", "40")
    save_screenshot(panel, "travel")
    handle.press("Home")
    expect(said).to_contain_text("This is π_ref")
    expect(panel.locator(".ch-next")).to_contain_text("is 0.000 nats")
    run = panel.get_by_role("combobox", name="run", exact=True)
    run.focus()
    run.press("ArrowDown")
    expect(said).to_contain_text("Step 50 of 50")
    expect(handle).to_have_attribute("aria-valuetext", "50")
    run.press("ArrowUp")
    expect(said).to_contain_text("Step 80 of 80")


def test_a_prompt_is_chosen_or_typed_and_both_policies_write(opened):
    panel = view(opened, "travel")
    known, field = (
        panel.get_by_role("combobox", name="prompts of this run"),
        panel.get_by_role("textbox", name="prompt"),
    )
    known.select_option(label="The plot of")
    expect(field).to_have_value("The plot of")
    expect(panel.locator(".ch-next")).to_contain_text("After 'The plot of'")
    field.fill("Nobody knows")
    field.press("Enter")
    expect(panel.locator(".ch-next")).to_contain_text("After 'Nobody knows'")
    expect(known.locator("option:checked")).to_have_text("choose one")
    panel.get_by_role("button", name="Write").press("Enter")
    expect(panel.locator(".ch-rollouts .ch-card")).to_have_count(2, timeout=60_000)
    expect(panel.locator(".ch-rollouts")).to_contain_text("π_θ, step 80")
    save_screenshot(panel, "travel_written")


def test_the_panels_speak_portuguese_and_english_again(opened):
    before = opened.locator(".ch-panel").all_inner_texts()
    speak(opened, "pt")
    for name in PANELS:
        expect(view(opened, name)).to_have_attribute("lang", "pt-BR")
        save_screenshot(view(opened, name), f"{name}_pt")
    speak(opened, "en")
    expect(view(opened, "travel")).to_have_attribute("lang", "en")
    assert opened.locator(".ch-panel").all_inner_texts() == before


def test_every_control_has_a_name_and_what_changes_is_read_aloud(opened):
    found = controls(opened, ".ch-panel")
    assert [role for role, name in found if not name.strip()] == []
    assert {"slider", "button", "checkbox", "textbox", "combobox"} <= {role for role, _name in found}
    assert all(part.get_attribute("aria-live") == "polite" for part in opened.locator(".ch-live").all())
    assert opened.locator(".ch-live").count() == len(PANELS)


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_axe_finds_no_serious_fault(opened, theme):
    choose_theme(opened, theme)
    opened.set_viewport_size({"width": 1280, "height": 4000})
    opened.wait_for_timeout(300)
    for name in PANELS:
        save_screenshot(view(opened, name), f"{name}_{theme.split()[-1].lower()}")
    check_with_axe(opened, ".ch-panel", {"color-contrast", "label", "button-name", "select-name"})
    opened.set_viewport_size({"width": 1280, "height": 1000})


def test_a_narrow_page_holds_the_panels(opened):
    """What does not fit scrolls within its own box, and nothing reaches beyond the panel."""
    opened.set_viewport_size({"width": 560, "height": 4000})
    opened.wait_for_timeout(500)
    for name in PANELS:
        save_screenshot(view(opened, name), f"{name}_narrow")
        assert view(opened, name).evaluate("panel => panel.scrollWidth - panel.clientWidth") <= 0
    opened.set_viewport_size({"width": 1280, "height": 1000})


def test_no_request_left_the_machine(opened):
    assert opened.away == []
