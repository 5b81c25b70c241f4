"""The site of `make docs`: complete, without dead links, readable without a network, formulas and figures in place."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt

from tests.browser.conftest import browser_path  # noqa: F401 (a fixture)

ROOT = Path(__file__).parent.parent
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
MARKDOWN = MarkdownIt("commonmark").enable("table")
LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
NO_NETWORK = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site, and what the build had to say."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", "docs"]
    command += ["-d", str(folder / "doctrees"), ".", str(folder / "html")]
    built = subprocess.run(command, cwd=ROOT, env=os.environ | NO_NETWORK, capture_output=True, text=True)
    return folder / "html", built.returncode, built.stderr


@pytest.fixture(scope="module")
def pages(site):
    """Every page of the site, parsed."""
    folder = site[0]
    return {page: BeautifulSoup(page.read_text("utf-8"), "html.parser") for page in sorted(folder.rglob("*.html"))}


@pytest.fixture(params=LESSONS)
def lesson(request, site, pages):
    """A notebook, and the page made of it."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{request.param}.ipynb", as_version=4)
    return notebook, pages[site[0] / "notebooks" / f"{request.param}.html"]


def inline_texts(notebook):
    """The text of every paragraph, heading and table cell of the prose, without its code."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for block in MARKDOWN.parse(cell.source):
                if block.type == "inline":
                    yield "".join(part.content for part in block.children if part.type == "text")


def figures(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]


def test_the_build_has_nothing_to_complain_about(site):
    _, returncode, complaints = site
    assert (returncode, complaints) == (0, "")


def test_every_page_is_there(site, pages):
    folder = site[0]
    expected = [folder / "notebooks" / f"{name}.html" for name in [*LESSONS, "glossary"]]
    expected += [folder / "docs" / f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")]
    expected += [folder / f"{path.stem}.html" for path in ROOT.glob("C*.md")]
    expected += [folder / "index.html", folder / "course_helpers/assets/MODEL_CARD.html"]
    assert set(expected) <= pages.keys()


def test_the_front_page_leads_to_every_page_of_words(site, pages):
    front = site[0] / "docs" / "index.html"
    reached = {(front.parent / link["href"].split("#")[0]).resolve() for link in pages[front].find_all("a", href=True)}
    words = [page for page in pages if page.parent.name in ("docs", "notebooks")]
    assert not [page.name for page in words if page != front and page.resolve() not in reached]


def test_no_link_is_dead(pages):
    names = {page: {tag["id"] for tag in soup.find_all(id=True)} for page, soup in pages.items()}
    dead, count = [], 0
    for page, soup in pages.items():
        for tag in soup.find_all(lambda tag: tag.get("href") or tag.get("src")):
            address = urlsplit(tag.get("href") or tag.get("src"))
            if address.scheme:
                continue
            count += 1
            target = Path(os.path.normpath(page.parent / unquote(address.path))) if address.path else page
            known = names.get(target, set()) if address.fragment else {""}
            if not target.is_file() or unquote(address.fragment) not in known:
                dead.append(f"{page.name}: {tag}")
    assert not dead
    assert count > 1000


def test_nothing_is_fetched_from_elsewhere(site, pages):
    for page, soup in pages.items():
        loaded = [tag[key] for name, key in LOADED.items() for tag in soup.find_all(name) if tag.get(key)]
        assert not [source for source in loaded if urlsplit(source).scheme or source.startswith("//")], page
        styles = " ".join([*map(str, soup.find_all("style")), *(tag["style"] for tag in soup.find_all(style=True))])
        assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", styles), page
    for sheet in site[0].rglob("*.css"):
        assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", sheet.read_text("utf-8")), sheet


def test_every_heading_of_the_lesson(lesson):
    notebook, page = lesson
    prose = [MARKDOWN.parse(cell.source) for cell in notebook.cells if cell.cell_type == "markdown"]
    tags = [block.tag for blocks in prose for block in blocks if block.type == "heading_open"]
    written = [
        re.sub(r"\W+", "", "".join(part.content for part in block.children))
        for blocks in prose
        for before, block in pairwise(blocks)
        if before.type == "heading_open"
    ]
    shown = page.article.find_all(re.compile(r"^h[1-6]$"))
    assert [tag.name for tag in shown] == tags
    assert [re.sub(r"\W+", "", tag.get_text()) for tag in shown] == written


def test_every_figure_of_the_lesson_says_what_it_shows(lesson):
    notebook, page = lesson
    shown = page.select(".cell_output img")
    assert len(shown) == len(figures(notebook))
    assert all(len(picture["alt"]) > 15 and "Figure size" not in picture["alt"] for picture in shown)
    stored = [output.metadata["image/png"]["alt"] for output in figures(notebook) if "image/png" in output.metadata]
    assert set(stored) <= {picture["alt"] for picture in shown}


def test_every_formula_of_the_lesson_is_one_on_its_page(lesson):
    notebook, page = lesson
    text = "\n".join(inline_texts(notebook))
    display, inline = text.count("$$") / 2, text.replace("$$", "").count("$") / 2
    assert (len(page.select("div.math")), len(page.select("span.math"))) == (display, inline)


def test_the_lesson_says_how_it_is_opened(lesson):
    _, page = lesson
    assert "make lab" in page.select_one("article .admonition.note").get_text()


def test_no_output_brings_a_script(pages):
    for page, soup in pages.items():
        assert not soup.select("article script, article iframe, article object, article embed"), page
        assert not soup.article or not soup.article.find(lambda tag: any(name.startswith("on") for name in tag.attrs))


@pytest.mark.browser
def test_pages_in_a_browser(browser_path, site):  # noqa: F811
    """All formulas drawn without an error, nothing asked of a network, and no page that moves sideways when narrow."""
    from playwright.sync_api import sync_playwright

    from tests.browser.browser_lab import CHROMIUM_FLAGS

    folder = site[0]
    faults = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 400, "height": 800})
        said = []
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else said.append(request))
        page.on("requestfailed", lambda request: said.append(request.url))
        for path in sorted([*folder.glob("docs/*.html"), *folder.glob("notebooks/*.html")]):
            said.clear()
            page.goto(path.as_uri())
            page.wait_for_function("() => !window.MathJax || window.MathJax.startup.promise.then(() => true)")
            found = page.evaluate(
                """() => [document.querySelectorAll('mjx-container').length - document.querySelectorAll('.math').length,
                          document.querySelectorAll('mjx-merror, [data-mjx-error]').length,
                          Math.max(0, document.documentElement.scrollWidth - 400)]"""
            )
            if any(found) or said:
                faults[path.name] = {"formulas not drawn, wrong formulas, pixels too wide": found, "said": [*said]}
        browser.close()
    assert not faults
