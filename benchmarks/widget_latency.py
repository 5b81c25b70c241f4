"""How long a slider of the sampling explorer takes to answer.

    python benchmarks/widget_latency.py              # the kernel's part, at GPT-2's vocabulary with every transform on
    python benchmarks/widget_latency.py --browser    # also from the key press to the changed page, in JupyterLab

Targets, as medians: 10 ms in the kernel, 100 ms to the page.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from course_helpers.widgets import SamplingExplorer

VOCABULARY, EVENTS = 50_257, 200

EXPLORER_CELL = f"""
import numpy as np
from course_helpers.widgets import SamplingExplorer
logits = np.random.default_rng(0).normal(0, 3, {VOCABULARY})
tokens = [f"token {{index}}" for index in range({VOCABULARY})]
SamplingExplorer.from_logits(logits, tokens, previous_ids=range(100), eos_token_id={VOCABULARY - 1})
"""

# Key presses and changes of the picture, timed by the page itself.
WATCH = """() => {
  window.pressed = 0; window.waits = [];
  document.addEventListener('keydown', () => { window.pressed = performance.now(); }, true);
  const changed = () => {
    if (window.pressed) { window.waits.push(performance.now() - window.pressed); window.pressed = 0; }
  };
  new MutationObserver(changed).observe(
    document.querySelector('.ch-next-token'), {childList: true, subtree: true, characterData: true});
}"""


def kernel_times(events: int = EVENTS) -> list[float]:
    """Milliseconds of each slider event in the kernel: distribution, bars and message."""
    logits = np.random.default_rng(0).normal(0, 3, VOCABULARY)
    tokens = [f"token {index}" for index in range(VOCABULARY)]
    explorer = SamplingExplorer.from_logits(logits, tokens, previous_ids=range(100), eos_token_id=VOCABULARY - 1)
    controls = explorer.controls
    controls.top_k.value, controls.top_p.value, controls.repetition_penalty.value = 50, 0.9, 1.2
    controls.min_new_tokens.value = 5
    times = []
    for event in range(events):
        start = time.perf_counter()
        controls.temperature.value = 0.5 + 0.05 * (event % 30)
        times.append(1000 * (time.perf_counter() - start))
    return times


def browser_times(events: int = 30) -> list[float]:
    """Milliseconds from a key press on the temperature slider to the changed picture, in JupyterLab."""
    import nbformat
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the browser helpers live beside their tests
    from tests.browser.browser_lab import CHROMIUM_FLAGS, chromium, run_notebook, start_lab

    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    with tempfile.TemporaryDirectory() as folder, start_lab(Path(folder)) as lab, sync_playwright() as play:
        path = Path(folder) / "latency.ipynb"
        cell = nbformat.v4.new_code_cell(EXPLORER_CELL)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), path)
        browser = play.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        run_notebook(page, lab, path)
        page.evaluate(WATCH)
        handle = page.get_by_role("slider", name="temperature τ")
        for event in range(events):
            handle.press("ArrowRight" if event % 20 < 10 else "ArrowLeft")
            page.wait_for_function("count => window.waits.length > count", arg=event)
        times = page.evaluate("window.waits")
        browser.close()
    return times


def report(name: str, times: list[float], target: float) -> None:
    """One line: median, 95th percentile, target."""
    median, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
    print(f"{name}: median {median:.1f} ms, p95 {p95:.1f} ms over {len(times)} events (target {target:g} ms)")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", action="store_true", help="also measure in JupyterLab; needs Chromium")
    wanted = parser.parse_args()
    report("kernel", kernel_times(), 10)
    if wanted.browser:
        report("key press to page", browser_times(), 100)


if __name__ == "__main__":
    main()
