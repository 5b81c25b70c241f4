"""Every link that stays inside the project leads to a file that is there and, with a fragment, to a place in it."""

import re
import subprocess
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("notebooks/*.md"),
    *ROOT.glob("course_helpers/**/*.md"),
]
NOTEBOOKS = sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))


class HtmlLinks(HTMLParser):
    """The addresses in a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.found = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def markdown_links(text):
    """The addresses of links and images, written in place or by reference, and of HTML in between."""
    blocks = MARKDOWN.parse(text)
    for token in [*blocks, *(part for block in blocks for part in block.children or ())]:
        if token.type in ("html_block", "html_inline"):
            yield from HtmlLinks(token.content).found
        elif address := token.attrGet("href") or token.attrGet("src"):
            yield address


def unresolved_references(text):
    """``[text][label]`` without a definition of the label: Markdown leaves it as it is written."""
    prose = (part.content for block in MARKDOWN.parse(text) for part in block.children or () if part.type == "text")
    return [found for piece in prose for found in re.findall(r"\][ ]?\[[^\]]*\]", piece)]


def prose_of(path):
    """The Markdown of a page, or of a notebook's cells."""
    if path.suffix == ".md":
        return [path.read_text("utf-8")]
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]


def html_of(path):
    """The HTML outputs of a notebook."""
    cells = nbformat.read(path, as_version=4).cells if path.suffix == ".ipynb" else []
    outputs = [output for cell in cells for output in cell.get("outputs", []) if "text/html" in output.get("data", {})]
    return [output.data["text/html"] for output in outputs]


def slug(heading):
    """The name GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def places(path):
    """Every fragment that a file can be entered at."""
    if path.suffix == ".py":
        return {f"L{k}" for k in range(1, len(path.read_text("utf-8").splitlines()) + 1)}
    known = set()
    for text in prose_of(path):
        blocks = MARKDOWN.parse(text)
        for before, block in pairwise(blocks):
            if before.type == "heading_open":
                name = slug("".join(part.content for part in block.children))
                twins = (f"{name}-{k}" for k in range(1, 1000) if f"{name}-{k}" not in known)
                known.add(name if name not in known else next(twins))
    if path.suffix == ".ipynb":
        known |= {f"cell-id={cell.id}" for cell in nbformat.read(path, as_version=4).cells}
    return known


def links_inside(path):
    """Each address that stays in the project, the file it names, and the place in it."""
    addresses = [address for text in prose_of(path) for address in markdown_links(text)]
    addresses += [address for html in html_of(path) for address in HtmlLinks(html).found]
    for address in addresses:
        parts = urlsplit(address)
        if not parts.scheme and not address.startswith("//"):
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            yield address, target, unquote(parts.fragment)


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    missing = [address for address, target, _ in links_inside(path) if not target.exists()]
    assert not missing
    nowhere = [address for address, target, place in links_inside(path) if place and place not in places(target)]
    assert not nowhere
    assert not [found for text in prose_of(path) for found in unresolved_references(text)]


def test_linked_files_belong_to_the_project():
    if not (ROOT / ".git").exists():
        pytest.skip("only a checkout knows which files are ignored")
    targets = {target for path in [*PAGES, *NOTEBOOKS] for _, target, _ in links_inside(path)}
    assert all(target.is_relative_to(ROOT) for target in targets)
    names = "\n".join(str(target.relative_to(ROOT)) for target in sorted(targets))
    ignored = subprocess.run(["git", "check-ignore", "--stdin"], cwd=ROOT, input=names, capture_output=True, text=True)
    assert ignored.stdout == ""


def test_the_parser_sees_every_kind_of_link():
    text = "[a](x.md#y) ![b](z.png) [c][d] <a href='h.md'>e</a> `[no](no.md)` [f][] <https://a.org>\n\n[d]: w.md\n"
    assert set(markdown_links(text)) == {"h.md", "https://a.org", "w.md", "x.md#y", "z.png"}
    assert unresolved_references(text) == ["][]"]


@pytest.mark.parametrize(
    ("heading", "name"),
    [("KL divergence", "kl-divergence"), ("top-p (nucleus)", "top-p-nucleus"), ("π_θ · policy", "π_θ--policy")],
)
def test_slugs_are_github_s(heading, name):
    assert slug(heading) == name
