"""The real parser of taxonomy files, run as `ilab` runs it, and listened to.

Three things about it are easy to get wrong. `TaxonomyParser()` holds every file to the newest version of the schema,
so a sound skill of version 2 fails; ``schema_version=0`` takes the version that the file names. yamllint, which looks
at spaces and blank lines, is started as a program of its own, and where none is found it is left out in silence. And
its findings are errors only with ``yamllint_strict=True``.

Source: instructlab-schema 0.4.2, module `instructlab.schema.taxonomy`; instructlab 0.26.1 calls it with these settings.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from instructlab.schema import schema_base
from instructlab.schema.taxonomy import Taxonomy, TaxonomyMessageFormat, TaxonomyParser

LOGGER = logging.getLogger("instructlab.schema.taxonomy")
HEADS = {"%s:%s:%s [%s] ": 4, "%s:%s:%s ": 3}  # how its messages begin, and how many values that takes

_turn = threading.RLock()  # one check at a time: while it runs, the parser's logger and PATH are not as they were


@dataclass(frozen=True)
class Report:
    """One message of the parser.

    Attributes:
        line: counted from 1; 1 as well where the parser does not know it.
        column: counted from 1.
        path: where in the file's data, as in ".seed_examples[0].question"; "." for the whole, "" when it is not said.
        message: its words.
        severity: "error" or "warning".
    """

    line: int
    column: int
    path: str
    message: str
    severity: str


class _Ear(logging.Handler):
    """Keeps what the parser says in this thread."""

    def __init__(self):
        super().__init__()
        self.heard: list[logging.LogRecord] = []
        self.thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if threading.get_ident() == self.thread:
            self.heard.append(record)


def run_parser(path: Path) -> tuple[Taxonomy, tuple[Report, ...]]:
    """Let the real parser judge one file.

    Args:
        path: of the file.

    Returns:
        The parser's own result, and its messages in their order. Nothing is printed, whatever the environment says.

    Raises:
        RuntimeError: yamllint cannot be run.
        instructlab.schema.taxonomy.TaxonomyReadingException: the file is not YAML; the cause says why.
    """
    parser = TaxonomyParser(
        schema_version=0, yamllint_strict=True, message_format=TaxonomyMessageFormat.LOGGING, yamllint_config=None
    )
    parser.yq_available = False  # another program that may be missing; `places` finds the lines
    with _turn, _yamllint_on_path(), _listening() as ear:
        taxonomy = parser.parse(path)
    reports = tuple(_report(record, path) for record in ear.heard if str(record.msg).startswith("%s:%s:%s "))
    if len(reports) != len(ear.heard) or len(reports) != taxonomy.errors + taxonomy.warnings:
        raise RuntimeError(_no_yamllint("it does not start"))
    return taxonomy, reports


def _report(record: logging.LogRecord, path: Path) -> Report:
    """A log record, taken apart; a message without values of its own may hold a "%" that means nothing."""
    head = next(head for head in HEADS if record.msg.startswith(head))
    values, own = record.args[: HEADS[head]], record.args[HEADS[head] :]
    message = record.msg.removeprefix(head)
    message = message % own if own else message
    shown = message.replace(str(schema_base()), "instructlab/schema").replace(str(path.resolve()), str(path))
    place = values[3] if len(values) == 4 else ""
    return Report(int(values[1]), int(values[2]), place, printable(shown), record.levelname.lower())


def printable(text: str) -> str:
    """A text with its control characters spelled out, so that a terminal shows them and does not obey them."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


@contextmanager
def _listening() -> Iterator[_Ear]:
    """Turn the parser's logger to an ear of ours alone, and back again."""
    ear, manager = _Ear(), LOGGER.manager
    before = LOGGER.handlers, LOGGER.propagate, LOGGER.disabled, manager.disable, LOGGER.level
    try:
        LOGGER.handlers, LOGGER.propagate, LOGGER.disabled, manager.disable = [ear], False, False, 0
        LOGGER.setLevel(logging.WARNING)  # last: this also makes the logger forget what it had found disabled
        yield ear
    finally:
        LOGGER.handlers, LOGGER.propagate, LOGGER.disabled, manager.disable = before[:4]
        LOGGER.setLevel(before[4])


@contextmanager
def _yamllint_on_path() -> Iterator[None]:
    """Put the folder of this Python's programs first on PATH for a moment, and see that yamllint is there."""
    before = os.environ.get("PATH")
    own = [str(Path(sys.executable).parent), sysconfig.get_path("scripts")]
    path = os.pathsep.join([*own, before or os.defpath])
    if shutil.which("yamllint", path=path) is None:
        raise RuntimeError(_no_yamllint("it is not there"))
    os.environ["PATH"] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


def _no_yamllint(what: str) -> str:
    return (
        f"The program yamllint is needed beside {sys.executable}, and {what}; without it spaces and blank lines would "
        "go unchecked. Install it with `python -m pip install yamllint`, with this same Python."
    )
