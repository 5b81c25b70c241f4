"""Thirty preferences by keyboard in JupyterLab in Chromium: nothing is lost, no cell is added, no text is run."""

from __future__ import annotations

import json
import os

import nbformat
import pytest

if os.environ.get("CI") != "true":
    pytest.importorskip("playwright", reason="install playwright to run the browser tests")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Dialog, Locator, Page, expect

from tests.browser.browser_lab import choose_theme, code_cells, controls, rerun, run_notebook, save_screenshot

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

FILE, OTHER = "my_choices_of_a_test.jsonl", "my_choices_of_keys.jsonl"
HOSTILE = ["<img src=x onerror=alert(1)>", "</style><script>alert(2)</script>", '"><script>alert(3)</script>']
CELLS = {
    "imports": "import course_helpers\n"
    "from course_helpers.choices import Question, ask, pairs_of, read_choices, ready_features, taste\n"
    "from course_helpers.widgets.preference_labeller import PreferenceLabeller\n"
    "n = range(27)\n"
    "prompts = [f'Film {k} was one of those that' for k in n]\n"
    "firsts = [f' nobody {k} forgets: the actors were a joy, the plot went from surprise to surprise.' for k in n]\n"
    "seconds = [f' are over {k} before they begin. I fell asleep twice,\\nand missed nothing.' for k in n]\n"
    "questions = ask(prompts, firsts, seconds)",
    "labeller": f"labeller = PreferenceLabeller(questions, '{FILE}')\nlabeller",
    "keys": f"PreferenceLabeller([Question(f'prompt {{k}}', f' a {{k}}', f' b {{k}}') for k in range(8)], '{OTHER}')",
    "hostile": f"hostile = {HOSTILE!r}\n"
    "PreferenceLabeller([Question(x, ' A ' + x, ' B ' + x) for x in hostile], 'my_choices_hostile.jsonl')",
    "language": "course_helpers.language('en')",
    "read": f"kept = read_choices('{FILE}')\n"
    "print(len(kept), len(pairs_of(kept)), pairs_of(kept) == labeller.pairs(), pairs_of(kept)[0])\n"
    "taste(kept, ready_features())",
}
PLAN = ["A", "B", "tie", "A", "B", "B"] * 5
# How far anything reaches beyond the right edge, in pixels.
FARTHEST = """panel => Math.max(...[...panel.querySelectorAll('*')].map(e => e.getBoundingClientRect().right))
  - panel.getBoundingClientRect().right"""
KEYS = {"A": ("a", "ArrowLeft", "Shift+A"), "B": ("b", "ArrowRight"), "tie": ("t", "Space")}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A notebook with three panels."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    cells = [nbformat.v4.new_code_cell(source) for source in list(CELLS.values())[:-1]]
    path = tmp_path_factory.mktemp("notebook") / "labeller.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[*cells, nbformat.v4.new_code_cell("None")], metadata=kernel), path)
    return path


@pytest.fixture(scope="module")
def opened(page, lab, notebook):
    """The page with the notebook run; whatever asks the learner something is remembered in `dialogs`."""
    page.dialogs = []
    page.on("dialog", lambda dialog: hear(page, dialog))
    for name in (FILE, OTHER, "my_choices_hostile.jsonl"):
        (lab.root / name).unlink(missing_ok=True)
    run_notebook(page, lab, notebook)
    expect(page.locator(".ch-labeller")).to_have_count(3)
    return page


def hear(page: Page, dialog: Dialog) -> None:
    """Leave the page when asked; whatever else is asked is remembered."""
    if dialog.type == "beforeunload":
        dialog.accept()
    else:
        page.dialogs.append(dialog.message)
        dialog.dismiss()


def panel(page: Page, name: str) -> Locator:
    return code_cells(page).nth(list(CELLS).index(name)).locator(".ch-labeller")


def run(page: Page, name: str, source: str) -> Locator:
    """Type other source into a cell and run it."""
    place = list(CELLS).index(name)
    rerun(page, place, source)
    return code_cells(page).nth(place)


def press(page: Page, view: Locator, key: str) -> None:
    """Press a key wherever the focus is, and wait until the panel has heard it."""
    turn = int(view.locator("[data-turn]").get_attribute("data-turn"))
    page.keyboard.press(key)
    expect(view.locator("[data-turn]")).to_have_attribute("data-turn", str(turn + 1))


def go_to(page: Page, view: Locator) -> None:
    """Move to the question from the source above it, with Tab alone."""
    view.locator("xpath=ancestor::*[contains(@class, 'jp-Cell')]").locator(".cm-content").click()
    page.keyboard.press("Escape")
    for _ in range(30):
        page.keyboard.press("Tab")
        if view.locator(".ch-ask").evaluate("e => e === document.activeElement"):
            return
    raise AssertionError("Tab does not reach the question")


def kept(lab, name: str = FILE) -> list[dict]:
    path = lab.root / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def answers(lab, name: str = FILE) -> list[str]:
    return [line["answer"] for line in kept(lab, name)]


def test_thirty_answers_by_keyboard_with_an_undo_and_a_reload(opened, lab, notebook):
    view, count = panel(opened, "labeller"), code_cells(opened).count()
    go_to(opened, view)
    for number, answer in enumerate(PLAN[:13]):
        press(opened, view, KEYS[answer][number % len(KEYS[answer])])
        assert answers(lab) == PLAN[: number + 1]  # before the next question is on show
    press(opened, view, "t")  # a slip
    expect(view.locator(".ch-said")).to_contain_text("Question 14: a tie.")
    press(opened, view, "u")
    expect(view.locator(".ch-said")).to_contain_text("Question 14: your answer is taken back.")
    assert answers(lab) == PLAN[:13]
    expect(view.locator(".ch-tally")).to_have_text("13 of 30")
    assert view.locator(".ch-ask").evaluate("e => e === document.activeElement")
    save_screenshot(view, "labeller_middle")
    assert code_cells(opened).count() == count

    opened.reload()
    run_notebook(opened, lab, notebook)
    view = panel(opened, "labeller")
    expect(view.locator(".ch-tally")).to_have_text("13 of 30")
    go_to(opened, view)
    press(opened, view, "Backspace")  # also what was answered before the reload
    assert answers(lab) == PLAN[:12]
    for number, answer in enumerate(PLAN[12:], start=12):
        press(opened, view, KEYS[answer][number % len(KEYS[answer])])
    expect(view.locator(".ch-tally")).to_have_text("30 of 30")
    expect(view).to_contain_text("All questions are answered.")
    expect(view).to_contain_text("A: 10, B: 15, ties: 5. Preference pairs: 25.")
    assert answers(lab) == PLAN
    assert code_cells(opened).count() == count == len(CELLS)


def test_the_kernel_reads_the_pairs(opened, lab):
    read = run(opened, "read", CELLS["read"])
    expect(read).to_contain_text("30 25 True")
    expect(read).to_contain_text("Asked twice with swapped sides")
    lines = kept(lab)
    assert len({line["prompt"] for line in lines}) == 27
    first = lines[0]
    won, lost = (first["a"], first["b"]) if PLAN[0] == "A" else (first["b"], first["a"])
    expect(read).to_contain_text(repr({"prompt": first["prompt"], "chosen": won, "rejected": lost}))
    save_screenshot(read.locator(".jp-OutputArea").first, "labeller_taste")


def test_keys_stay_in_the_panel(opened, lab):
    """D D deletes a cell, X cuts it, M and Y change it, C and V paste it, Enter edits it, arrows leave it."""
    view, count = panel(opened, "keys"), code_cells(opened).count()
    source = opened.locator(".jp-Notebook .cm-content").all_inner_texts()
    go_to(opened, view)
    for key in "ddxmycvzkj00ii1/ ":
        opened.keyboard.press("Space" if key == " " else key)
    for key in ("Enter", "ArrowUp", "ArrowDown", "Delete", "Shift+D", "Shift+D"):
        opened.keyboard.press(key)
    expect(view.locator(".ch-tally")).to_have_text("1 of 8")  # the space was a tie
    assert answers(lab, OTHER) == ["tie"]
    press(opened, view, "b")
    opened.keyboard.press("Control+b")  # a shortcut of JupyterLab, not an answer
    opened.keyboard.press("Control+b")
    opened.wait_for_timeout(500)
    assert answers(lab, OTHER) == ["tie", "B"]
    assert code_cells(opened).count() == count
    assert opened.locator(".jp-Notebook .cm-content").all_inner_texts() == source
    expect(opened.locator(".jp-Dialog")).to_have_count(0)


def test_typing_in_a_cell_answers_nothing(opened, lab):
    before = answers(lab, OTHER)
    code_cells(opened).nth(list(CELLS).index("read")).locator(".cm-content").click()
    opened.keyboard.type("# about")
    opened.wait_for_timeout(500)
    assert answers(lab, OTHER) == before


def test_a_button_with_the_focus_is_pressed_by_space_and_enter_and_keeps_the_focus(opened, lab):
    view = panel(opened, "keys")
    before = answers(lab, OTHER)
    chosen = view.get_by_role("button", name="B is better")
    chosen.focus()
    press(opened, view, "Space")
    press(opened, view, "Enter")
    assert chosen.evaluate("e => e === document.activeElement")
    press(opened, view, "a")
    press(opened, view, "u")
    press(opened, view, "u")
    assert answers(lab, OTHER) == [*before, "B"]


def test_a_double_click_answers_one_question_and_keys_work_afterwards(opened, lab):
    view = panel(opened, "keys")
    before = answers(lab, OTHER)
    turn = int(view.locator("[data-turn]").get_attribute("data-turn"))
    # Two clicks before the kernel can have answered the first one.
    view.get_by_role("button", name="A is better").evaluate("e => { e.click(); e.click(); }")
    expect(view.locator("[data-turn]")).to_have_attribute("data-turn", str(turn + 1))
    opened.wait_for_timeout(500)
    assert answers(lab, OTHER) == [*before, "A"]
    view.get_by_role("button", name="A is better").click()
    expect(view.locator("[data-turn]")).to_have_attribute("data-turn", str(turn + 2))
    press(opened, view, "Space")  # the question has the focus: a tie
    assert answers(lab, OTHER) == [*before, "A", "A", "tie"]


def test_the_last_answer_by_a_button_leaves_the_focus_in_the_panel(opened, lab):
    view = panel(opened, "keys")
    view.get_by_role("button", name="B is better").focus()
    while "All questions" not in view.inner_text():
        press(opened, view, "Enter")
    assert view.locator(".ch-ask").evaluate("e => e === document.activeElement")
    expect(view.get_by_role("button", name="B is better")).to_be_hidden()
    press(opened, view, "b")
    expect(view.locator(".ch-said")).to_contain_text("All questions are answered")
    press(opened, view, "u")
    expect(view.locator(".ch-tally")).to_have_text("7 of 8")
    assert len(answers(lab, OTHER)) == 7


def test_hostile_texts_stay_text(opened):
    view = panel(opened, "hostile")
    for text in HOSTILE:
        expect(view.locator(".ch-words")).to_have_text([text, f"A {text}", f"B {text}"])
        assert view.locator("img, script").count() == 0
        save_screenshot(view, f"labeller_hostile{HOSTILE.index(text)}")
        view.get_by_role("button", name="Tie").focus()
        press(opened, view, "Enter")
    expect(view).to_contain_text("3 of 3")
    assert opened.dialogs == []


def test_a_switch_of_language_keeps_the_place(opened, lab):
    view, before = panel(opened, "keys"), answers(lab, OTHER)
    shown = view.inner_text()
    run(opened, "language", "course_helpers.language('pt')")
    expect(view.get_by_role("button", name="Desfazer")).to_be_visible()
    expect(view.locator(".ch-tally")).to_have_text("7 de 8")
    save_screenshot(view, "labeller_pt")
    run(opened, "language", "course_helpers.language('en')")
    expect(view.get_by_role("button", name="Undo")).to_be_visible()
    assert view.inner_text() == shown
    assert answers(lab, OTHER) == before


def test_everything_has_a_name(opened):
    found = controls(opened, ".ch-labeller")
    names = {name.split("\uf0e2")[-1].strip() for _role, name in found}  # an icon is a letter of its font
    assert {"A is better", "B is better", "Tie", "Undo"} <= names
    assert [role for role, name in found if not name.strip()] == []
    ask = panel(opened, "keys").locator(".ch-ask")
    expect(ask).to_have_role("group")
    expect(ask).to_have_accessible_name("Question 8 of 8")
    expect(ask).to_have_attribute("aria-live", "polite")
    expect(panel(opened, "keys").locator(".ch-said")).to_have_attribute("aria-live", "polite")


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
@pytest.mark.parametrize("width", [1280, 480])
def test_look_and_axe(opened, theme, width):
    choose_theme(opened, theme)
    opened.set_viewport_size({"width": width, "height": 1400})
    opened.wait_for_timeout(400)
    for name in ("labeller", "keys"):
        view = panel(opened, name)
        view.scroll_into_view_if_needed()
        view.locator(".ch-ask").focus()
        save_screenshot(view, f"labeller_{name}_{theme.split()[-1].lower()}_{width}")
        assert view.evaluate(FARTHEST) <= 1, f"{name} is cut off at {width} pixels"
    # JupyterLab's body hides what flows over and has no height, so axe takes all text in it for invisible.
    opened.add_style_tag(content="body { height: 100vh; }")
    every_node = {"resultTypes": ["passes", "violations"]}
    found = Axe().run(opened, context=".ch-labeller", options=every_node).response
    passed = {rule["id"]: len(rule["nodes"]) for rule in found["passes"]}
    assert passed["button-name"] >= 3
    assert passed["color-contrast"] >= 20
    serious = [fault for fault in found["violations"] if fault["impact"] in ("serious", "critical")]
    assert not serious, "\n".join(
        f"{fault['id']}: {fault['help']}: {node['html'][:200]}" for fault in serious for node in fault["nodes"][:4]
    )


def test_no_request_left_the_machine(opened):
    assert opened.away == []
