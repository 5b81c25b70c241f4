"""Collects the texts that learners see and keeps the catalogue of their translations.

python tools/make_catalogue.py            brings the .po up to date and compiles it
python tools/make_catalogue.py --check    exits with 1 if that would change something, or a translation is missing

Texts are what the code passes to `_`, `ngettext` and `N_`. A new text arrives with an empty translation to be filled in
by hand; a text that is gone goes from the catalogue, too.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "course_helpers"
PO = PACKAGE / "assets" / "locale" / "pt" / "LC_MESSAGES" / "course_helpers.po"
KEYWORDS = {"_": None, "N_": None, "ngettext": (1, 2)}


def texts() -> Catalog:
    """Every text the package marks for translation, without translations."""
    template = Catalog(project="course_helpers", charset="utf-8")
    for name, _line, message, comments, context in extract_from_dir(PACKAGE, keywords=KEYWORDS):
        template.add(message, locations=[(f"course_helpers/{name}", 0)], auto_comments=comments, context=context)
    return template


def current() -> Catalog:
    """The Portuguese catalogue as it is stored."""
    if not PO.exists():
        return Catalog(locale="pt_BR", project="course_helpers")
    with PO.open("rb") as file:
        return read_po(file, locale="pt_BR", domain="course_helpers")


def brought_up_to_date() -> Catalog:
    """The stored translations of today's texts."""
    stored, fresh = current(), Catalog(locale="pt_BR", project="course_helpers", charset="utf-8", fuzzy=False)
    for message in texts():
        if message.id:
            known = stored.get(message.id)
            files = sorted({(name, 0) for name, _line in message.locations})
            fresh.add(message.id, known.string if known else None, locations=files)
    return fresh


def as_po(catalogue: Catalog) -> bytes:
    """A catalogue as text: sorted, no line numbers, no dates, so that only texts change it."""
    out = io.BytesIO()
    write_po(out, catalogue, sort_output=True, omit_header=True, include_lineno=False, width=100)
    header = 'msgid ""\nmsgstr ""\n"Language: pt_BR\\n"\n"Content-Type: text/plain; charset=utf-8\\n"\n'
    header += '"POT-Creation-Date: 2026-01-01 00:00+0000\\n"\n'  # a fixed one, or each compiling would change it
    header += '"Plural-Forms: nplurals=2; plural=(n > 1);\\n"\n\n'
    return b"# Brazilian Portuguese of course_helpers.\n" + header.encode() + out.getvalue()


def as_mo(po: bytes) -> bytes:
    """What gettext reads, compiled from a .po."""
    out = io.BytesIO()
    write_mo(out, read_po(io.BytesIO(po), locale="pt_BR"))
    return out.getvalue()


def is_translated(message: Message) -> bool:
    """Whether every form of a message has its translation."""
    forms = message.string if isinstance(message.string, (tuple, list)) else (message.string,)
    return bool(forms) and all(forms) and not message.fuzzy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args().check
    catalogue = brought_up_to_date()
    po = as_po(catalogue)
    missing = [message.id for message in catalogue if message.id and not is_translated(message)]
    stale = not PO.exists() or PO.read_bytes() != po or PO.with_suffix(".mo").read_bytes() != as_mo(po)
    if stale and not check:
        PO.parent.mkdir(parents=True, exist_ok=True)
        PO.write_bytes(po)
        PO.with_suffix(".mo").write_bytes(as_mo(po))
    print(f"{sum(bool(message.id) for message in catalogue)} texts, {len(missing)} without a translation")
    for text in missing:
        print("  missing:", text)
    sys.exit(1 if missing or (check and stale) else 0)


if __name__ == "__main__":
    main()
