"""For each kind of fault in a taxonomy file: what to do about it, in a learner's words, and where.

The parser's messages about a file that is YAML come in two families: what the schema demands, and what yamllint finds.
The schema's have a table from a kind of message to the function that answers it, yamllint's one from its rules; what
neither knows gets an honest general answer. `unreadable` answers what is no YAML at all.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml
from instructlab.schema import schema_base

from course_helpers.taxonomy.places import Place, Step, node_of, place_of
from course_helpers.translation import _, ngettext

KNOWLEDGE, SKILL = "knowledge", "compositional_skills"
NEWEST = {KNOWLEDGE: 3, SKILL: 2}  # what a learner is told to write; a skill may also be of version 3
ONLY_IN = {
    "document": KNOWLEDGE,
    "document_outline": KNOWLEDGE,
    "domain": KNOWLEDGE,
    "questions_and_answers": KNOWLEDGE,
    "task_description": SKILL,
}

Advice = tuple[str, Place]


@dataclass(frozen=True)
class Finding:
    """A message of the parser about a file that is YAML, with all that is needed to answer it.

    Attributes:
        message: the parser's words.
        steps: to the value that it speaks of.
        contents: of the file.
        root: of the file, from ``yaml.compose``.
        kind: "knowledge" or "compositional_skills".
        version: of the schema that the parser used.
    """

    message: str
    steps: tuple[Step, ...]
    contents: Any
    root: yaml.Node
    kind: str
    version: int

    @property
    def value(self) -> Any:
        """What stands at the path, as Python reads it."""
        value = self.contents
        for step in self.steps:
            value = value[step]
        return value

    @property
    def place(self) -> Place:
        """Where that is."""
        return place_of(self.root, self.steps)

    def allowed(self) -> list[str]:
        """The keys that the schema allows at the path."""
        text = schema_base().joinpath(f"v{self.version}", f"{self.kind}.json").read_text(encoding="utf-8")
        schema = json.loads(text)
        for step in self.steps:
            schema = schema["items"] if isinstance(step, int) else schema["properties"][step]
        return [*([] if self.steps else ["version"]), *schema.get("properties", {})]


# --- what the schema demands ------------------------------------------------------------------------------------------


def mend_schema(finding: Finding) -> Advice:
    """What to do about a message of the schema, and where."""
    for pattern, answer in SCHEMA.items():
        found = re.search(pattern, finding.message)
        if found:
            return answer(finding, found)
    return general(), finding.place


def general() -> str:
    """For a fault that nothing here knows."""
    return _("Compare this place with a file that is valid, such as one of the course's own.")


def _missing(finding: Finding, found: re.Match[str]) -> Advice:
    key = found[1]
    if key == "document_outline":
        mend = _("Add `document_outline:`, one sentence that says what the document is about, beside `domain:`.")
    elif key == "context":
        mend = _("Add `context:` to this seed example: a passage of the document, copied word for word.")
    elif key == "questions_and_answers":
        mend = _("Add `questions_and_answers:` to this seed example: three or more questions, each with its answer.")
    else:
        mend = _("Add `{key}:` here.").format(key=key)
    return mend, finding.place


def _unexpected(finding: Finding, found: re.Match[str]) -> Advice:
    allowed = finding.allowed()
    keys = [str(key) for key in finding.value if key not in allowed]
    if not keys:
        return general(), finding.place
    mend = " ".join(_about_key(key, allowed, finding) for key in keys)
    return mend, place_of(finding.root, (*finding.steps, keys[0]))


def _about_key(key: str, allowed: list[str], finding: Finding) -> str:
    """One key that the schema does not know here."""
    near = difflib.get_close_matches(key, allowed, n=1)
    if finding.kind == KNOWLEDGE and key in ("question", "answer") and "questions_and_answers" in allowed:
        return _("In knowledge `{key}:` belongs in the list `questions_and_answers:`. Move it there.").format(key=key)
    if ONLY_IN.get(key) not in (None, finding.kind):
        if finding.kind == SKILL:
            mend = _("`{key}:` belongs to knowledge. Delete it, or move the file below a folder `knowledge`.")
        else:
            mend = _("`{key}:` belongs to skills. Delete it, or move the file below a folder `compositional_skills`.")
        return mend.format(key=key)
    if near and near[0] not in finding.value:
        return _("Did you mean `{near}:`? `{key}:` is not allowed here. Correct it.").format(near=near[0], key=key)
    keys = ", ".join(f"`{name}`" for name in allowed)
    return _("Delete `{key}:`. What may stand here: {keys}.").format(key=key, keys=keys)


def _too_few(finding: Finding, found: re.Match[str]) -> Advice:
    there, least = len(finding.value), int(found[1])
    mend = _("At least {least} are needed, and the list has {there}. Write {n} more.")
    return mend.format(there=there, least=least, n=least - there), finding.place


def _same(finding: Finding, found: re.Match[str]) -> Advice:
    items = finding.value
    pairs = [(i, j) for j in range(len(items)) for i in range(j) if items[i] == items[j]]
    if not pairs:
        return general(), finding.place
    first, second = pairs[0]
    places = [place_of(finding.root, (*finding.steps, index)) for index in pairs[0]]
    mend = _("Numbers {first} and {second} of the list, in lines {line} and {other}, are the same. Change one of them.")
    return mend.format(first=first + 1, second=second + 1, line=places[0].line, other=places[1].line), places[1]


def _empty(finding: Finding, found: re.Match[str]) -> Advice:
    return _("`{key}` is empty. Write its text.").format(key=_key(finding)), finding.place


def _type(finding: Finding, found: re.Match[str]) -> Advice:
    return TYPES.get(found[1], lambda finding: general())(finding), finding.place


def _not_text(finding: Finding) -> str:
    key, node = _key(finding), node_of(finding.root, finding.steps)
    if finding.value is None:
        return _("Nothing stands after `{key}:`. Write its text.").format(key=key)
    if isinstance(node, yaml.ScalarNode):
        mend = _('YAML does not read this as a text. Put it in quotes: `{key}: "{value}"`.')
        return mend.format(key=key, value=node.value)
    return _("`{key}` must be one text, and a list or a group of keys stands there. Write a text.").format(key=key)


def _not_list(finding: Finding) -> str:
    mend = _("`{key}` must be a list. Write each of its items in a line of its own, after a hyphen and a space.")
    return mend.format(key=_key(finding))


def _not_object(finding: Finding) -> str:
    keys = ", ".join(f"`{name}:`" for name in finding.allowed())
    return _("Keys with their values are needed here: {keys}.").format(keys=keys)


def _key(finding: Finding) -> str:
    """The last key on the way to the value."""
    return next((step for step in reversed(finding.steps) if isinstance(step, str)), "")


def version_line(kind: str) -> str:
    """What to write about the version."""
    if kind == KNOWLEDGE:
        mend = _("Write `version: {version}`; knowledge has no other.")
    else:
        mend = _("Write `version: {version}`, a number without quotes.")
    return mend.format(version=NEWEST[kind])


def _version(finding: Finding, found: re.Match[str]) -> Advice:
    return version_line(finding.kind), place_of(finding.root, ("version",))


def _old_knowledge(finding: Finding, found: re.Match[str]) -> Advice:
    mend = _(
        "Write `version: 3`. Knowledge then needs `document_outline:`, and each seed example `context:` and "
        "`questions_and_answers:`."
    )
    return mend, place_of(finding.root, ("version",))


def _no_keys(finding: Finding, found: re.Match[str]) -> Advice:
    return _("A taxonomy file begins with keys: `version:`, `created_by:` and so on. Write them."), finding.place


SCHEMA: dict[str, Callable[[Finding, re.Match[str]], Advice]] = {
    r"^Cannot load schema file": _version,
    r"is not supported for knowledge|is deprecated$": _old_knowledge,
    r"not of type 'integer'$|^\d+ was expected$": _version,
    r"'(\w+)' is a required property$": _missing,
    r"(?:was|were) unexpected\)$": _unexpected,
    r"^Value must have at least (\d+) items$": _too_few,
    r"has non-unique elements$": _same,
    r"should be non-empty$": _empty,
    r"is not of type '(\w+)'$": _type,
    r"top-level element is not an object": _no_keys,
}
TYPES: dict[str, Callable[[Finding], str]] = {"string": _not_text, "array": _not_list, "object": _not_object}


# --- what yamllint finds ----------------------------------------------------------------------------------------------


def mend_lint(message: str) -> str | None:
    """What to do about a finding of yamllint; None if the message is none of its."""
    rule = re.search(r"\(([a-z-]+)\)$", message)
    if rule is None:
        return None
    if rule[1] == "key-duplicates":
        key = re.search(r'"(.*)"', message)
        mend = _("`{key}:` stands here for the second time, and only one would count. Delete one of the two.")
        return mend.format(key=key[1] if key else "")
    if rule[1] == "indentation":
        wanted = re.search(r"expected (?:at least )?(\d+)", message)
        mend = ngettext(
            "Begin this line with {n} space, and move the lines that belong to it as far.",
            "Begin this line with {n} spaces, and move the lines that belong to it as far.",
            int(wanted[1]) if wanted else 0,
        )
        return mend.format(n=wanted[1]) if wanted else general()
    return _lint_rules().get(rule[1], general())


def _lint_rules() -> dict[str, str]:
    """The answers that need no more than the rule's name."""
    brackets = _("Leave at most one space just inside braces and brackets.")
    return {
        "braces": brackets,
        "brackets": brackets,
        "colons": _("Leave no space before the colon and one after it."),
        "commas": _("Leave no space before the comma and one after it."),
        "empty-lines": _(
            "Delete blank lines: two in a row are the most, and the file neither begins nor ends with one."
        ),
        "hyphens": _("Leave exactly one space after the hyphen."),
        "new-line-at-end-of-file": _("End the last line, too: press Enter behind it."),
        "trailing-spaces": _("Delete the spaces at the end of this line."),
    }
