"""Writes notebooks/glossary.md, the glossary for readers without a kernel, from course_helpers/assets/glossary.yaml.

python tools/make_glossary.py            brings it up to date
python tools/make_glossary.py --check    writes nothing, and exits with 1 if it is not up to date
"""

from __future__ import annotations

import argparse
import re
import sys
from itertools import groupby
from pathlib import Path

from course_helpers.glossary import Entry, entries, fold, related

PAGE = Path(__file__).resolve().parents[1] / "notebooks" / "glossary.md"
INTRODUCTION = """# Glossary · Glossário

{count} terms of the course, in English and in Brazilian Portuguese. In a lesson, `glossary("KL")` finds a term by a
name, a symbol or an abbreviation, in either language. The links lead to the lesson where a term is at work.

{count} termos do curso, em inglês e em português do Brasil. Em uma lição, `glossary("KL")` encontra um termo pelo nome,
pelo símbolo ou pela abreviação, em qualquer das duas línguas. Os links levam à lição em que o termo aparece em ação.
"""


def plain(text: str) -> str:
    """Text outside of code with the signs escaped that Markdown would take for its own."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_\[\]<|])", r"\\\1", part) for part in parts)


def anchor(heading: str) -> str:
    """The address GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(entry: Entry) -> str:
    """One term: both names, symbol, both definitions, and where to go on."""
    names = [f"**{plain(entry.pt.term)}**", f"`{entry.symbol}`" if entry.symbol else ""]
    names.append(f"[lesson {entry.lesson_number}]({entry.link})")
    also = ", ".join(dict.fromkeys([*entry.en.also, *entry.pt.also]))
    onwards = ", ".join(f"[{plain(other.en.term)}](#{anchor(other.en.term)})" for other in related(entry))
    last = [f"*Also:* {plain(also)}." if also else "", f"*Related:* {onwards}."]
    return "\n\n".join(
        [
            f"### {plain(entry.en.term)}",
            " · ".join(filter(None, names)),
            plain(entry.en.definition),
            f"> {plain(entry.pt.definition)}",
            " ".join(filter(None, last)),
        ]
    )


def page() -> str:
    """The whole page, in alphabetical order of the English terms."""
    ordered = sorted(entries(), key=lambda entry: fold(entry.en.term))
    letters = [(letter, list(group)) for letter, group in groupby(ordered, key=lambda e: fold(e.en.term)[0].upper())]
    index = " · ".join(f"[{letter}](#{letter.lower()})" for letter, _group in letters)
    parts = [INTRODUCTION.format(count=len(ordered)).strip(), index]
    for letter, group in letters:
        parts += [f"## {letter}", *map(section, group)]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    check, text = parser.parse_args().check, page()
    stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text
    if stale and not check:
        PAGE.write_text(text, encoding="utf-8")
    print(f"{PAGE.name}: {len(entries())} terms, {'out of date' if check and stale else 'up to date'}")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
