"""The widgets in JupyterLab in Chromium: keyboard, names, escaping, themes, and no request that leaves the machine."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

import nbformat
import pytest

if os.environ.get("CI") != "true":
    pytest.importorskip("playwright", reason="install playwright to run the browser tests")

from playwright.sync_api import Locator, Page, expect

from tests.browser.browser_lab import choose_theme, controls, run_notebook, save_screenshot

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

CELLS = [
    "from course_helpers.models import load_policy\n"
    "from course_helpers.widgets import DecodingMicroscope, SamplingExplorer, WriteItYourself\n"
    "model, tokenizer = load_policy('small')",
    "SamplingExplorer(model, tokenizer, 'This movie was')",
    "WriteItYourself(model, tokenizer, 'This movie was')",
    "DecodingMicroscope(model, tokenizer, 'This movie was')",
    # A policy that writes HTML: random weights over a vocabulary of markup.
    "import torch\n"
    "from tokenizers import Tokenizer, models\n"
    "from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast\n"
    "words = ['<|endoftext|>', '<b>', '<img src=x onerror=alert(1)>', '</table><script>alert(2)</script>', 'it']\n"
    "vocabulary = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token='it'))\n"
    "rogue_tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token='<|endoftext|>')\n"
    "torch.manual_seed(0)\n"
    "shape = GPT2Config(vocab_size=5, n_positions=64, n_embd=8, n_layer=1, n_head=1, eos_token_id=0, bos_token_id=0)\n"
    "rogue = GPT2LMHeadModel(shape).eval()",
    "SamplingExplorer(rogue, rogue_tokenizer, 'it')",
]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """A notebook with every widget of this module."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS], metadata=kernel)
    path = tmp_path_factory.mktemp("notebook") / "widgets.ipynb"
    nbformat.write(book, path)
    return path


@pytest.fixture(scope="module")
def opened(page, lab, notebook):
    """The page with the notebook run; whatever asks the learner something is remembered in `dialogs`."""
    page.dialogs = []
    page.on("dialog", lambda dialog: (page.dialogs.append(dialog.message), dialog.dismiss()))
    run_notebook(page, lab, notebook)
    expect(page.locator(".ch-panel")).to_have_count(4)
    return page


def panel(page: Page, title: str, place: int = 0) -> Locator:
    return page.locator(".ch-panel").filter(has=page.get_by_text(title, exact=True)).nth(place)


def press(handle: Locator, key: str, times: int = 1) -> None:
    handle.focus()
    for _ in range(times):
        handle.press(key)


def entropy(view: Locator) -> float:
    return float(re.search(r"Entropy ([\d.]+)", view.locator(".ch-summary").inner_text())[1])


def tokens_left(view: Locator) -> int:
    return int(re.search(r"([\d,]+) tokens? can", view.locator(".ch-summary").inner_text())[1].replace(",", ""))


def top_percent(view: Locator) -> float:
    return float(view.locator(".ch-bars tbody tr").first.locator("td").nth(1).inner_text().split()[0])


def wait_until(page: Page, condition: Callable[[], bool]) -> None:
    """Wait for what the kernel answers, which takes its time on a busy machine."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the page did not change as expected in 20 s"
        page.wait_for_timeout(50)


def reset(page: Page, view: Locator, summary: str) -> None:
    """Press Reset until the summary is the one at the start.

    A test is faster than a hand: a click can overtake the value of a slider that is still on its way to the kernel.
    """

    def is_back() -> bool:
        view.get_by_role("button", name="Reset").press("Enter")
        page.wait_for_timeout(300)
        return view.locator(".ch-summary").inner_text().strip() == summary

    wait_until(page, is_back)


@pytest.fixture(scope="module")
def at_start(opened):
    """The explorer's summary before anything was moved."""
    return panel(opened, "Sampling explorer").locator(".ch-summary").inner_text().strip()


@pytest.fixture
def explorer(opened, at_start):
    """The sampling explorer with all its sliders as at the start."""
    view = panel(opened, "Sampling explorer")
    reset(opened, view, at_start)
    return view


def test_every_control_has_a_name(opened):
    found = controls(opened, ".ch-panel")
    roles = {role for role, _ in found}
    assert {"button", "slider", "textbox", "spinbutton"} <= roles
    assert [role for role, name in found if not name.strip()] == []


def test_temperature_by_keyboard(opened, explorer, at_start):
    before, top = entropy(explorer), top_percent(explorer)
    handle = explorer.get_by_role("slider", name="temperature τ")
    press(handle, "ArrowRight", 10)
    expect(handle).to_have_attribute("aria-valuetext", "1.5")
    wait_until(opened, lambda: entropy(explorer) > before and top_percent(explorer) < top)
    press(handle, "Home")
    wait_until(opened, lambda: tokens_left(explorer) == 1 and top_percent(explorer) == 100)
    reset(opened, explorer, at_start)
    assert (entropy(explorer), top_percent(explorer)) == (before, top)


def test_top_p_by_keyboard(opened, explorer):
    before = tokens_left(explorer)
    press(explorer.get_by_role("slider", name="top-p"), "ArrowLeft", 8)
    wait_until(opened, lambda: 1 < tokens_left(explorer) < before)


def test_a_value_can_be_typed(opened, explorer):
    field = explorer.get_by_role("textbox", name="top-k (0 = off), value")
    field.fill("3")
    field.press("Enter")
    wait_until(opened, lambda: tokens_left(explorer) == 3)


def test_prompt_is_read_and_refused(explorer):
    view = explorer
    prompt = view.get_by_role("textbox", name="prompt")
    before = view.locator(".ch-summary").inner_text()
    prompt.fill("")
    prompt.press("Enter")
    expect(view.get_by_role("alert")).to_contain_text("The prompt is empty")
    prompt.fill("word " * 300)
    prompt.press("Enter")
    expect(view.get_by_role("alert")).to_contain_text("context holds")
    prompt.fill("This movie was")
    prompt.press("Enter")
    expect(view.get_by_role("alert")).to_have_count(0)
    expect(view.locator(".ch-summary")).to_have_text(before)


def test_write_and_go_back_by_keyboard(opened):
    view = panel(opened, "Write it yourself")
    first = view.get_by_role("button", name=re.compile("^choose ' a', probability")).first
    name = first.inner_text()
    first.press("Enter")
    expect(view.locator(".ch-written button")).to_have_count(1)
    expect(view.locator(".ch-sums")).to_contain_text("ln π(Y|X)")
    later = view.get_by_role("button", name=re.compile("^choose ")).first
    expect(later).not_to_have_text(name)
    later.press("Enter")
    expect(view.locator(".ch-written button")).to_have_count(2)
    save_screenshot(view, "write_it_yourself_two_tokens")
    view.get_by_role("button", name="Undo").press("Enter")
    expect(view.locator(".ch-written button")).to_have_count(1)
    view.locator(".ch-written button").first.press("Enter")  # back to before the first token
    expect(view.locator(".ch-written button")).to_have_count(0)
    expect(view.get_by_role("button", name=re.compile("^choose ")).first).to_have_text(name)


def test_rollouts_show_markup_as_text(opened):
    view = panel(opened, "Sampling explorer", 1)
    view.get_by_role("button", name="Draw rollouts").press("Enter")
    expect(view.locator(".ch-card")).to_have_count(4)
    expect(view.locator(".ch-rollouts")).to_contain_text("<b>")
    expect(view.locator(".ch-rollouts")).to_contain_text("onerror=alert(1)")
    assert view.locator(".ch-flow b, .ch-flow img, script, .ch-bars img").count() == 0
    assert opened.dialogs == []


def test_microscope_steps_and_beam_tree(opened):
    view = panel(opened, "Decoding microscope")
    expect(view.locator(".ch-stage-table thead th")).to_have_count(8)
    view.get_by_role("button", name="Next step").press("Enter")
    expect(view.locator(".ch-text .ch-token")).to_have_count(1)
    view.get_by_role("button", name="Search").press("Enter")
    expect(view.get_by_role("img", name=re.compile("^Beam search: .* The best response is"))).to_be_visible()
    view.get_by_text("The same tree as a list").press("Enter")
    expect(view.get_by_role("listitem").first).to_be_visible()


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
@pytest.mark.parametrize("width", [1280, 560])
def test_look(opened, explorer, theme, width):
    choose_theme(opened, theme)
    opened.set_viewport_size({"width": width, "height": 1800})
    prepare(opened)
    for place, view in enumerate(opened.locator(".ch-panel").all()):
        view.scroll_into_view_if_needed()
        save_screenshot(view, f"panel{place}_{theme.split()[-1].lower()}_{width}")
        assert view.evaluate("e => e.scrollWidth <= e.clientWidth + 1"), f"panel {place} is cut off at {width} pixels"


def prepare(page: Page) -> None:
    """Bring the panels into states worth a look."""
    explorer = panel(page, "Sampling explorer")
    press(explorer.get_by_role("slider", name="top-k"), "ArrowRight", 8)
    press(explorer.get_by_role("slider", name="temperature τ"), "ArrowLeft", 6)
    explorer.get_by_role("button", name="Draw rollouts").press("Enter")
    expect(explorer.locator(".ch-card")).to_have_count(4)
    writer = panel(page, "Write it yourself")
    writer.get_by_role("button", name="Start over").press("Enter")
    expect(writer.locator(".ch-written button")).to_have_count(0)
    for place in range(6):
        writer.locator(".ch-choices button").nth(place % 3).press("Enter")
        expect(writer.locator(".ch-written button")).to_have_count(place + 1)
    microscope = panel(page, "Decoding microscope")
    microscope.get_by_role("button", name="Reset").press("Enter")
    press(microscope.get_by_role("slider", name="temperature τ"), "ArrowLeft", 6)
    press(microscope.get_by_role("slider", name="top-k"), "ArrowRight", 8)
    press(microscope.get_by_role("slider", name="top-p"), "ArrowLeft", 10)
    microscope.get_by_role("button", name="Search").press("Enter")
    expect(microscope.locator("svg.ch-tree")).to_be_visible()
    page.wait_for_timeout(500)


def test_no_request_left_the_machine(opened):
    assert opened.away == []
