"""JupyterLab driven in a real browser: start it, run a notebook in it, ask what the page holds."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

# What `make lab` hands to JupyterLab, and here also: every cell in the page, those out of sight too.
CONFIG = Path(__file__).resolve().parents[2] / "tools" / "jupyter"
SETTINGS = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
ALL_CELLS_RAN = r"""() => {
  const book = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)');
  const status = book && book.querySelector('.jp-Notebook-ExecutionIndicator');
  const prompts = book ? [...book.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent) : [];
  return status && status.dataset.status === 'idle' && prompts.length && prompts.every(t => /\[\d+\]:/.test(t));
}"""
ROLES = ("button", "slider", "textbox", "spinbutton", "checkbox", "combobox", "radio", "listbox", "link")


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its address, the token that opens it, and the folder it shows."""

    url: str
    token: str
    root: Path


def chromium() -> str | None:
    """Path of the browser: $CHROMIUM, or what is installed; None if there is none."""
    named = os.environ.get("CHROMIUM")
    found = [named] if named else [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    return next((path for path in found if path and Path(path).exists()), None)


@contextlib.contextmanager
def start_lab(folder: Path) -> Iterator[Lab]:
    """JupyterLab with nothing of the user's: own settings, a free port, a token, this machine only."""
    root = folder / "root"
    root.mkdir()
    overrides = folder / "config" / "labconfig" / "default_setting_overrides.json"
    overrides.parent.mkdir(parents=True)
    overrides.write_text(json.dumps(SETTINGS), encoding="utf-8")
    token, log = secrets.token_hex(16), folder / "lab.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += ["--ServerApp.port=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}"]
    command += ["--expose-app-in-browser"]  # lets a test switch the theme
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=_environment(folder), cwd=root, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield Lab(_wait_for(server, folder / "runtime", token, log), token, root)
    finally:
        server.terminate()  # takes its kernels along
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _environment(folder: Path) -> dict[str, str]:
    own = {
        "HOME": folder,
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTER_CONFIG_PATH": CONFIG,
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "JUPYTER_DATA_DIR": folder / "data",
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
        "IPYTHONDIR": folder / "ipython",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "COURSE_LANGUAGE": "en",
    }
    return os.environ | {name: str(value) for name, value in own.items()}


def _wait_for(server: subprocess.Popen, runtime: Path, token: str, log: Path) -> str:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        for file in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(OSError, ValueError):
                url = json.loads(file.read_text(encoding="utf-8"))["url"]
                urllib.request.urlopen(f"{url}api/status?token={token}", timeout=2).close()
                return url
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text(errors='replace')}")


def run_notebook(page: Page, lab: Lab, path: Path, timeout_s: float = 180) -> None:
    """Open a copy of a notebook in JupyterLab, restart its kernel and run all cells; fails if a cell fails.

    The notebook must name its kernel: JupyterLab would ask for it, and wait.
    """
    # A copy, because autosave must not touch the original; without outputs, so that none of an earlier run counts.
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    nbformat.write(book, lab.root / path.name)
    page.goto(f"{lab.url}doc/tree/{path.name}?reset&token={lab.token}")
    # Only the status bar tells an idle kernel from one that is not there yet.
    expect(page.locator("#jp-main-statusbar")).to_contain_text(re.compile(r"Python 3.*\| Idle"), timeout=90_000)
    expect(page.locator(".jp-Dialog")).to_have_count(0)
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name="Restart Kernel and Run All Cells…").click()
    page.locator(".jp-Dialog button.jp-mod-accept").click()
    page.wait_for_function(ALL_CELLS_RAN, timeout=1000 * timeout_s)
    errors = page.locator('.jp-RenderedText[data-mime-type="application/vnd.jupyter.error"]')
    assert errors.count() == 0, errors.first.inner_text()
    expect(page.get_by_text("Error displaying widget")).to_have_count(0)


def code_cells(page: Page) -> Locator:
    """The code cells of the notebook on show."""
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell")


def rerun(page: Page, place: int, source: str) -> None:
    """Type other source into a code cell, counted from 0, and run it with Shift+Enter, as a learner would."""
    cell = code_cells(page).nth(place)
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(source)
    before = cell.locator(".jp-InputPrompt").first.inner_text()
    page.keyboard.press("Shift+Enter")
    expect(cell.locator(".jp-InputPrompt").first).not_to_have_text(before)
    expect(cell.locator(".jp-InputPrompt").first).to_have_text(re.compile(r"\[\d+\]:"))


def check_with_axe(page: Page, selector: str, rules: set[str]) -> None:
    """axe-core finds no serious fault below a CSS selector, and each of the rules had something to judge."""
    # JupyterLab's body hides what flows over and has no height, so axe takes all text in it for invisible.
    page.add_style_tag(content="body { overflow: visible !important; height: 100vh; }")
    found = Axe().run(page, context=selector).response
    serious = [fault for fault in found["violations"] if fault["impact"] in ("serious", "critical")]
    assert not serious, "\n".join(
        f"{fault['id']}: {fault['help']}: {node['html'][:200]}" for fault in serious for node in fault["nodes"][:4]
    )
    assert rules <= {rule["id"] for rule in found["passes"]}


def is_local(url: str) -> bool:
    """Whether a request stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob", "about") or parts.hostname == "127.0.0.1"


def choose_theme(page: Page, name: str) -> None:
    """Switch JupyterLab to another theme."""
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
    page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)


def controls(page: Page, selector: str) -> list[tuple[str, str]]:
    """Role and accessible name of every control below a CSS selector, as the browser tells a screen reader."""
    session = page.context.new_cdp_session(page)
    root = session.send("DOM.getDocument")["root"]["nodeId"]
    found = []
    for panel in session.send("DOM.querySelectorAll", {"nodeId": root, "selector": selector})["nodeIds"]:
        for role in ROLES:
            nodes = session.send("Accessibility.queryAXTree", {"nodeId": panel, "role": role})["nodes"]
            found += [(role, node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")]
    return found


def save_screenshot(target: Locator | Page, name: str) -> None:
    """Keep a picture in the folder $SCREENSHOTS, if there is one."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        target.screenshot(path=str(Path(folder) / f"{name}.png"))
