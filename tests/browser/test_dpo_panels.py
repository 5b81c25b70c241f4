"""The panels of lesson 04 in Chromium: by keyboard, in two languages, light and dark, on a narrow page."""

from __future__ import annotations

import math
import os

import nbformat
import pytest

if os.environ.get("CI") != "true":
    pytest.importorskip("playwright", reason="install playwright to run the browser tests")

from playwright.sync_api import Locator, Page, expect

from tests.browser.browser_lab import check_with_axe, choose_theme, controls, rerun, run_notebook, save_screenshot

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

CELLS = {
    "imports": "import course_helpers\n"
    "from course_helpers.widgets.beta_explorer import BetaExplorer\n"
    "from course_helpers.widgets.bradley_terry import BradleyTerry\n"
    "from course_helpers.widgets.preference_losses import PreferenceLosses\n"
    "from course_helpers.widgets.reward_sliders import RewardSliders\n"
    "pi_ref, r = [0.05, 0.2, 0.3, 0.15, 0.1, 0.2], [2.0, 0.5, 0.0, -1.0, 1.0, 0.3]\n"
    "names = ['a joy', 'fine', 'so-so', 'dull', 'good fun', 'watch it again']",
    "rewards": "RewardSliders(pi_ref, names=names)",
    "beta": "BetaExplorer(pi_ref, r, names)",
    "terry": "BradleyTerry(['a joy', 'dull'])",
    "losses": "PreferenceLosses()",
    "language": "course_helpers.language('en')",
}
PANELS = ("rewards", "beta", "terry", "losses")


@pytest.fixture(scope="module")
def opened(page, lab, tmp_path_factory):
    """The page with the four panels."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS.values()]
    path = tmp_path_factory.mktemp("notebook") / "panels.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    run_notebook(page, lab, path)
    expect(page.locator(".ch-panel")).to_have_count(len(PANELS))
    return page


def view(page: Page, name: str) -> Locator:
    return page.locator(".ch-panel").nth(PANELS.index(name))


def slider(page: Page, name: str, label: str) -> Locator:
    return view(page, name).get_by_role("slider", name=label)


def press(handle: Locator, key: str, times: int = 1) -> None:
    handle.focus()
    for _ in range(times):
        handle.press(key)


def speak(page: Page, code: str) -> None:
    rerun(page, list(CELLS).index("language"), f"course_helpers.language('{code}')")


def test_rewards_by_keyboard_grow_the_partition(opened):
    said = view(opened, "rewards").locator(".ch-summary")
    expect(said).to_contain_text("Z = 1 and π_r is π_ref")
    press(slider(opened, "rewards", "r of a joy"), "ArrowRight", 10)
    expect(said).to_contain_text(f"= {1 + 0.05 * (math.e - 1):.3f}")
    press(slider(opened, "rewards", "add c to all"), "ArrowLeft", 5)
    expect(said).to_contain_text("c = −0.50 is added to every reward: Z is multiplied by exp(c/β) = exp(−0.50)")
    save_screenshot(view(opened, "rewards"), "rewards")
    view(opened, "rewards").get_by_role("button", name="Reset").press("Enter")
    expect(said).to_contain_text("Z = 1 and π_r is π_ref")


def test_beta_by_keyboard_goes_from_the_reference_to_the_argmax(opened):
    said, handle = view(opened, "beta").locator(".ch-summary"), slider(opened, "beta", "β, price of a nat")
    press(handle, "ArrowLeft", 2)
    expect(said).to_contain_text("β = 0.63:")
    expect(handle).to_have_attribute("aria-valuetext", "0.63")  # a screen reader hears β, not its logarithm
    save_screenshot(view(opened, "beta"), "beta")
    press(handle, "End")
    expect(said).to_contain_text("β = 100: π_r earns E[r] = 0.21 at KL = 0.000 nats")
    expect(said).to_contain_text("That is the limit β → ∞")
    press(handle, "Home")
    expect(said).to_contain_text("π_r writes hardly anything but a joy")
    expect(handle).to_have_attribute("aria-valuetext", "0.01")
    view(opened, "beta").get_by_role("button", name="Reset").press("Enter")
    expect(said).to_contain_text("β = 1:")
    expect(handle).to_have_attribute("aria-valuetext", "1")


def test_a_preference_by_keyboard_depends_on_the_difference_alone(opened):
    said = view(opened, "terry").locator(".ch-summary")
    expect(said).to_contain_text("73.1 %")
    press(slider(opened, "terry", "add f(X) to both"), "ArrowRight", 10)
    expect(said).to_contain_text("f(X) = 1.00 stands in both rewards")
    press(slider(opened, "terry", "partition Z(X)"), "ArrowRight", 3)
    expect(said).to_contain_text("β ln Z(X) = 0.69 depends on X alone")
    expect(said).to_contain_text("with probability 73.1 %")
    save_screenshot(view(opened, "terry"), "terry")
    press(slider(opened, "terry", "r of dull"), "ArrowRight", 10)
    expect(said).to_contain_text("with probability 50.0 %: the rewards differ by 0.00")
    view(opened, "terry").get_by_role("button", name="Reset").press("Enter")
    expect(said).to_contain_text("73.1 %")


def test_the_margin_by_keyboard_moves_every_loss(opened):
    panel = view(opened, "losses")
    said = panel.locator(".ch-summary")
    expect(said).to_contain_text("sigmoid (DPO): loss 0.693, weight 0.500")
    press(slider(opened, "losses", "margin m"), "ArrowRight", 10)
    expect(said).to_contain_text("IPO: loss 0.000, weight 0.000")
    save_screenshot(panel, "losses")
    panel.get_by_role("checkbox", name="hinge").press("Space")
    expect(said).not_to_contain_text("hinge")
    press(slider(opened, "losses", "β (for IPO)"), "Home")
    press(slider(opened, "losses", "margin m"), "ArrowLeft", 10)
    expect(said).to_contain_text("IPO: loss 2500, weight 10000")
    save_screenshot(panel, "losses_far_out")
    panel.get_by_role("button", name="Reset").press("Enter")
    expect(said).to_contain_text("hinge: loss 1.000, weight 1.000")


def test_the_panels_speak_portuguese_and_english_again(opened):
    before = opened.locator(".ch-panel").all_inner_texts()
    speak(opened, "pt")
    expect(view(opened, "rewards")).to_contain_text("Recompensas e a função de partição")
    expect(slider(opened, "rewards", "r de a joy")).to_be_visible()
    press(slider(opened, "beta", "β, preço de um nat"), "End")
    expect(view(opened, "beta").locator(".ch-summary")).to_contain_text("Esse é o limite β → ∞")
    expect(view(opened, "terry")).to_contain_text("a joy é preferida a dull com probabilidade 73.1 %")
    expect(view(opened, "losses")).to_contain_text("suavização de rótulos ε")
    view(opened, "beta").get_by_role("button", name="Restaurar").press("Enter")
    for name in PANELS:
        save_screenshot(view(opened, name), f"{name}_pt")
    speak(opened, "en")
    expect(view(opened, "beta").locator(".ch-summary")).to_contain_text("β = 1:")
    assert opened.locator(".ch-panel").all_inner_texts() == before


def test_every_control_has_a_name_and_what_changes_is_read_aloud(opened):
    found = controls(opened, ".ch-panel")
    assert [role for role, name in found if not name.strip()] == []
    assert {"slider", "button", "checkbox", "textbox"} <= {role for role, _name in found}
    assert all(part.get_attribute("aria-live") == "polite" for part in opened.locator(".ch-live").all())
    assert opened.locator(".ch-live").count() == len(PANELS)


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_axe_finds_no_serious_fault(opened, theme):
    choose_theme(opened, theme)
    opened.set_viewport_size({"width": 1280, "height": 4000})
    opened.wait_for_timeout(300)
    for name in PANELS:
        save_screenshot(view(opened, name), f"{name}_{theme.split()[-1].lower()}")
    check_with_axe(opened, ".ch-panel", {"color-contrast", "label", "button-name"})
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
