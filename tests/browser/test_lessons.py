"""Every lesson in JupyterLab in Chromium: Restart & Run All, a slider moved by keyboard, nothing leaves the machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

if os.environ.get("CI") != "true":
    pytest.importorskip("playwright", reason="install playwright to run the browser tests")

from playwright.sync_api import expect

from tests.browser.browser_lab import controls, run_notebook, save_screenshot

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

# Lessons that compute for minutes are executed by nbval, in the same kernel; here the same minutes would pass again.
LONG = {
    "01_distributions_to_policies",
    "03_ppo_on_imdb",
    "04_partition_function_to_dpo_loss",
    "05_dpo_with_hugging_face",
    "06_the_reward_kl_frontier",
    "07_fine_tuning_the_instructlab_way",
}
LESSONS = [p for p in sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb")) if p.stem not in LONG]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lesson(page, lab, path):
    run_notebook(page, lab, path, timeout_s=400)
    panels = page.locator(".ch-panel")
    if panels.count():
        assert all(name for _, name in controls(page, ".ch-panel"))
    explorers = panels.filter(has=page.get_by_text("Sampling explorer", exact=True))
    if explorers.count():
        explorer = explorers.first
        summary = explorer.locator(".ch-summary")
        before = summary.inner_text()
        handle = explorer.get_by_role("slider", name=re.compile("temperature"))
        handle.focus()
        handle.press("End")
        expect(summary).not_to_have_text(before)
        nats = [float(re.search(r"Entropy ([\d.]+)", text)[1]) for text in (before, summary.inner_text())]
        assert nats[1] > nats[0]
        handle.press("Home")
        expect(summary).to_contain_text("1 token can be sampled")
    save_screenshot(page, path.stem)
    expect(page.locator(".Toastify__toast")).to_have_count(0)  # no question about news
    assert page.away == []
