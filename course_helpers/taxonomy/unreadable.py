"""What to do about a taxonomy file that is not YAML at all, and where."""

from __future__ import annotations

import re

import yaml

from course_helpers.taxonomy.mends import Advice, general
from course_helpers.taxonomy.places import Place
from course_helpers.translation import N_, _


def mend_yaml(error: BaseException | None, text: str | None) -> Advice:
    """What to do about a file that is not YAML at all, and where.

    Args:
        error: what the YAML library raised.
        text: of the file, or None where it could not be read.

    Returns:
        What to do, and the place; line 1 where the error has none.
    """
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        return _("The file is not in UTF-8 from here on. Save it as UTF-8."), Place(line, 1)
    if isinstance(error, OSError):
        return _("The file cannot be opened. See who may read it, and whether another program holds it."), Place(1, 1)
    if isinstance(error, RecursionError):
        return _("Lists in lists in lists go too deep. A taxonomy file needs four levels."), Place(1, 1)
    if isinstance(error, yaml.reader.ReaderError):
        before = (text or "")[: error.position]
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        return _("An invisible control character stands here. Delete it."), place
    if isinstance(error, yaml.MarkedYAMLError):
        return _marked(error, text or "")
    return _unreadable_value(text or "")


def _marked(error: yaml.MarkedYAMLError, text: str) -> Advice:
    """An error of the YAML library that knows its place."""
    problem, mark, opened = error.problem or "", error.problem_mark, error.context_mark
    place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
    began = Place(opened.line + 1, opened.column + 1) if opened else place
    for pattern, mend, at_beginning in YAML_PROBLEMS:
        if re.search(pattern, problem):
            return _(mend), began if at_beginning else place
    if problem.startswith("mapping values are not allowed"):
        lines = text.splitlines()
        before = lines[mark.line][: mark.column] if mark and mark.line < len(lines) else ""
        if ": " in before:
            return _('A text with a colon in it needs quotes. Write it as `key: "text: more text"`.'), place
        return _("This line begins further right than its neighbors. Begin it exactly below them."), place
    return general(), place


# What the YAML library says; what to do; whether that is to be done where the broken thing began.
YAML_PROBLEMS: tuple[tuple[str, str, bool], ...] = (
    (r"'\\t'", N_("A tab stands here, and YAML takes only spaces. Replace each tab by spaces."), False),
    (
        r"^found unexpected end of stream",
        N_("The quote that opens here is never closed. Close it at the end of its text."),
        True,
    ),
    (
        r"^could not find expected ':'",
        N_("This line is no `key: value`. Write the colon after the key, or move the line into a text."),
        True,
    ),
    (
        r"^expected <block end>, but found '<scalar>'",
        N_(
            "A quote is closed too early, or is not closed further up, or the text begins with a bracket. Put the "
            "whole text in one pair of quotes."
        ),
        False,
    ),
    (
        r"^expected <block end>",
        N_("This line begins in another column than its neighbors. Begin it exactly below them."),
        False,
    ),
    (
        r"^found character|^found undefined (alias|tag)|^could not determine a constructor",
        N_("A text that begins with a special sign, such as @, *, ! or a backtick, needs quotes around it."),
        False,
    ),
    (
        r"^found unknown escape",
        N_("In double quotes a backslash must be written twice. Write two, or use single quotes."),
        False,
    ),
    (
        r"^but found another document",
        N_("A line `---` begins a second document. Delete it, and what follows, or make it a file of its own."),
        False,
    ),
)


def _unreadable_value(text: str) -> Advice:
    """A value that looks like a date or a number to YAML and is none: found by trying each on its own."""
    try:
        nodes = [yaml.compose(text, Loader=yaml.SafeLoader)]
    except (yaml.YAMLError, RecursionError):
        nodes = []
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.ScalarNode):
            try:
                yaml.constructor.SafeConstructor().construct_object(node)
            except (ValueError, OverflowError, yaml.YAMLError):
                mend = _('YAML takes this for a date or a number, and it is none. Put it in quotes: `"{value}"`.')
                return mend.format(value=node.value[:40]), Place(node.start_mark.line + 1, node.start_mark.column + 1)
        elif node is not None:
            nodes += [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
    return general(), Place(1, 1)
