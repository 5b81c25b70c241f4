"""A JupyterLab and a page of a real browser for the tests marked `browser`."""

from __future__ import annotations

import os

import pytest


def _missing(reason: str) -> None:
    """On a user's machine there may be no browser; where the project is checked there must be one."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}: browser tests must run in CI")
    pytest.skip(f"{reason}: install it (or set CHROMIUM to its path) to run the browser tests")


@pytest.fixture(scope="session")
def browser_path() -> str:
    """The browser's path; without one the tests are skipped, and fail in CI."""
    try:
        from tests.browser.browser_lab import chromium
    except ImportError:
        _missing("no playwright")
    path = chromium()
    if path is None:
        _missing("no Chromium")
    return path


@pytest.fixture(scope="session")
def lab(browser_path, tmp_path_factory):
    """One JupyterLab for all browser tests."""
    from tests.browser.browser_lab import start_lab

    with start_lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="session")
def profile(tmp_path_factory):
    """The browser's own folder: what it has compiled of JupyterLab serves the next page, too."""
    return tmp_path_factory.mktemp("profile")


@pytest.fixture(scope="module")
def page(browser_path, profile):
    """A page that remembers, in `away`, every request that would have left this machine."""
    from playwright.sync_api import sync_playwright

    from tests.browser.browser_lab import CHROMIUM_FLAGS, is_local

    with sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            str(profile), executable_path=browser_path, headless=True, args=CHROMIUM_FLAGS
        )
        page = context.pages[0]
        page.set_viewport_size({"width": 1280, "height": 1000})
        page.away = []
        context.on("request", lambda request: is_local(request.url) or page.away.append(request.url))
        yield page
        context.close()
