"""The verdict on a taxonomy file: the real parser's, with the line of each fault and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml
from instructlab.schema.taxonomy import Taxonomy, TaxonomyReadingException

from course_helpers.prose import escape, no_formulas, prose
from course_helpers.taxonomy.mends import KNOWLEDGE, SKILL, Finding, general, mend_lint, mend_schema, version_line
from course_helpers.taxonomy.parser import Report, printable, run_parser
from course_helpers.taxonomy.places import Place, path_of, place_of, steps_of
from course_helpers.taxonomy.unreadable import mend_yaml
from course_helpers.translation import N_, SpokenError, _, ngettext
from course_helpers.yaml_text import MOST_BYTES, too_much


@dataclass(frozen=True)
class Fault:
    """Something wrong in a taxonomy file.

    Attributes:
        line: counted from 1.
        column: counted from 1.
        where: in the file's data, as in "seed_examples[0].question", lists counted from 0; "" for the whole file.
        message: the parser's own words; for the few faults that only we name, ours.
        mend: what to do about it, in the language of the moment of the check.
        severity: "error" or "warning".
    """

    line: int
    column: int
    where: str
    message: str
    mend: str
    severity: str


@dataclass(frozen=True, repr=False)
class Verdict:
    """What is to be said about one taxonomy file; it shows itself.

    Attributes:
        path: of the file.
        version: of the schema that the file was held to; 0 where none could be read.
        faults: in the order of their lines.
    """

    path: Path
    version: int
    faults: tuple[Fault, ...]

    @property
    def valid(self) -> bool:
        """Whether the real parser finds no error; warnings do not count, and so an empty file is valid to it."""
        return not any(fault.severity == "error" for fault in self.faults)

    def __str__(self) -> str:
        """A line for the whole, then for each fault a line of the parser's and one that says what to do."""
        lines = [self._headline()]
        for fault in self.faults:
            where = f" {fault.where}:" if fault.where else ""
            lines += [f"{self.path.name}:{fault.line}:{fault.column}{where} {fault.message}", f"    {fault.mend}"]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        caption = f"<caption>{escape(self._headline())}</caption>"
        if not self.faults:
            return no_formulas(f"<table>{caption}</table>")
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in _head())
        rows = "".join(
            f"<tr><td>{fault.line}</td><td>{escape(fault.where)}</td>"
            f"<td>{escape(fault.message)}</td><td>{prose(fault.mend)}</td></tr>"
            for fault in self.faults
        )
        return no_formulas(f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")

    def _headline(self) -> str:
        name = f"{self.path.parent.name}/{self.path.name}"
        errors = sum(fault.severity == "error" for fault in self.faults)
        warnings = len(self.faults) - errors
        said = [_("valid") if self.valid else ngettext("{n} error", "{n} errors", errors).format(n=errors)]
        if warnings:
            said.append(ngettext("{n} warning", "{n} warnings", warnings).format(n=warnings))
        if self.version:
            said.append(_("version {version}").format(version=self.version))
        return f"{name}: {', '.join(said)}"


def _head() -> tuple[str, str, str, str]:
    return _("line"), _("where"), _("what the parser says"), _("what to do")


def check_file(path: str | Path) -> Verdict:
    """Let the real parser of taxonomy files judge one, and say where each fault is and what to do about it.

    The verdict is the parser's. Three notes are ours: a file too large to be read is refused; so is one whose aliases
    stand for too much; and a skill of version 1, whose spaces nobody checks, has a warning.

    Args:
        path: of a qna.yaml.

    Returns:
        The verdict. An empty file is valid to the parser, with a warning.

    Raises:
        RuntimeError: yamllint cannot be run, so the verdict would not be the whole.

    Examples:
        >>> from course_helpers.taxonomy import start_taxonomy
        >>> file = start_taxonomy("my_taxonomy") / "compositional_skills/film_reviews/praise_and_blame/qna.yaml"
        >>> print(check_file(file))
        praise_and_blame/qna.yaml: valid, version 2
    """
    path = Path(path)
    refused = _refused(path)
    if refused:
        return Verdict(path, 0, (refused,))
    try:
        taxonomy, reports = run_parser(path)
    except TaxonomyReadingException as error:
        return Verdict(path, 0, (_unreadable(path, error.__cause__),))
    root = _root(path) if taxonomy.contents else None
    faults = [_fault(report, taxonomy, root) for report in reports] + _old_skill(taxonomy, root)
    return Verdict(path, int(taxonomy.version), tuple(sorted(faults, key=lambda fault: (fault.line, fault.column))))


def check_taxonomy(folder: str | Path) -> list[Verdict]:
    """Judge every taxonomy file below a folder, as `ilab taxonomy diff` does.

    `ilab` looks only below the folders `compositional_skills` and `knowledge`, and passes over a file called qna.yml
    with a warning. Here every folder counts, and such a file has the parser's word that its name is wrong.

    Args:
        folder: of the taxonomy. Hidden folders are left out: JupyterLab keeps old copies of files there.

    Returns:
        A verdict for each file, in the order of their paths.

    Raises:
        ValueError: there is no such folder.

    Examples:
        >>> from course_helpers.taxonomy import start_taxonomy
        >>> [verdict.valid for verdict in check_taxonomy(start_taxonomy("my_taxonomy"))]
        [True, True]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SpokenError(N_("There is no folder {folder}. Make one with `start_taxonomy`."), folder=folder)
    files = sorted(file for file in folder.rglob("*") if file.name.casefold() in ("qna.yaml", "qna.yml"))
    seen = [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]
    return [check_file(file) for file in seen]


def _refused(path: Path) -> Fault | None:
    """A fault for what is not given to the parser at all."""
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        mend = _("The file is larger than 1 MB. Divide it, and keep documents in files of their own.")
        return Fault(1, 1, "", _("The file is too large"), mend, "error")
    root = _root(path)
    if root is not None and too_much(root):
        mend = _("The file repeats parts of itself too often. Write the examples out, without `&` and `*`.")
        return Fault(1, 1, "", _("The file stands for too much text"), mend, "error")
    return None


def _root(path: Path) -> yaml.Node | None:
    """The file as YAML nodes, each with its line; None if it is not there or no YAML, which the parser will say."""
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return None


def _unreadable(path: Path, cause: BaseException | None) -> Fault:
    """The fault of a file that is not YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = None
    mend, place = mend_yaml(cause, text)
    words = (getattr(cause, name, None) for name in ("problem", "reason", "strerror"))
    said = str(next(filter(None, words), cause))
    return Fault(place.line, place.column, "", printable(said), printable(mend), "error")


def _fault(report: Report, taxonomy: Taxonomy, root: yaml.Node | None) -> Fault:
    """A message of the parser, with its place and what to do."""
    lint = mend_lint(report.message) if not report.path else None
    steps, place = steps_of(report.path), Place(report.line, report.column)
    if lint is not None:
        mend = lint
    elif root is not None:
        finding = Finding(report.message, steps, taxonomy.contents, root, _kind(taxonomy), int(taxonomy.version))
        mend, place = mend_schema(finding)
    else:
        mend = _about_file(report.message)
    return Fault(place.line, place.column, path_of(steps), report.message, printable(mend), report.severity)


def _kind(taxonomy: Taxonomy) -> str:
    """Which schema the parser used: the folder's, or else that of what the file holds."""
    first = taxonomy.path.parts[0]
    if first in (KNOWLEDGE, SKILL):
        return first
    return KNOWLEDGE if "document" in taxonomy.contents else SKILL


def _about_file(message: str) -> str:
    """What to do about a file of which the parser has read nothing."""
    if message == "The file is empty":
        return _("An empty file teaches nothing. Write `version:`, `created_by:` and the rest, or delete the file.")
    if "must be named" in message:
        return _("Rename the file to `qna.yaml`; each skill and each document has a folder of its own.")
    if "does not exist" in message:
        return _("Check that folder and name are spelled right, and that the path ends in `qna.yaml`.")
    if "top-level element" in message:
        return _("A taxonomy file begins with keys: `version:`, `created_by:` and so on. Write them.")
    return general()


def _old_skill(taxonomy: Taxonomy, root: yaml.Node | None) -> list[Fault]:
    """A note on a skill of version 1; the same errors that the parser finds say so themselves."""
    if root is None or int(taxonomy.version) != 1 or _kind(taxonomy) != SKILL or taxonomy.errors:
        return []
    place = place_of(root, ("version",))
    said = _("Version 1 is out of date: its spaces go unchecked, and one seed example is enough")
    return [Fault(place.line, place.column, "version", said, version_line(SKILL), "warning")]
