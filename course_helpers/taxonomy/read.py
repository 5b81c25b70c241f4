"""A taxonomy file that is valid, as data; and a taxonomy to start from."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from course_helpers.assets import asset
from course_helpers.files import writing
from course_helpers.prose import sendable
from course_helpers.taxonomy.check import Verdict, check_file
from course_helpers.translation import N_, SpokenError
from course_helpers.yaml_text import MOST_BYTES


@dataclass(frozen=True)
class Seed:
    """One example, written by a person.

    Attributes:
        context: the text that the question is about; None where there is none.
        question: what is asked.
        answer: what is to be answered.
    """

    context: str | None
    question: str
    answer: str


@dataclass(frozen=True)
class Skill:
    """What a model shall be able to do.

    Attributes:
        path: of the file.
        task_description: what the task is, in a sentence.
        seeds: the examples, in the file's order.
        version: of the schema.
    """

    path: Path
    task_description: str
    seeds: tuple[Seed, ...]
    version: int


@dataclass(frozen=True)
class KnowledgeSeed:
    """A passage of a document with questions about it.

    Attributes:
        context: the passage.
        pairs: three or more questions with their answers; their own context is None.
    """

    context: str
    pairs: tuple[Seed, ...]


@dataclass(frozen=True)
class Knowledge:
    """What a model shall know.

    Attributes:
        path: of the file.
        domain: the field it belongs to.
        outline: what the document is about, in a sentence.
        task_description: None; since version 3 of the schema knowledge has none.
        seeds: the passages with their questions, in the file's order.
        documents: the text of each document, in the order of their names.
    """

    path: Path
    domain: str
    outline: str
    task_description: None
    seeds: tuple[KnowledgeSeed, ...]
    documents: tuple[str, ...]


def read_skill(path: str | Path) -> Skill:
    """Read a skill, if the real parser finds it valid.

    Args:
        path: of its qna.yaml.

    Returns:
        The skill.

    Raises:
        ValueError: the file is not valid, is empty, or holds knowledge; the message says what to do.

    Examples:
        >>> folder = start_taxonomy("my_taxonomy") / "compositional_skills/film_reviews/praise_and_blame"
        >>> read_skill(folder / "qna.yaml").seeds[0].question
        'What is praised and what is blamed?'
    """
    path = Path(path)
    contents = _valid(path)
    if "document" in contents:
        raise SpokenError(N_("{path} holds knowledge. Read it with `read_knowledge`."), path=path)
    seeds = tuple(
        Seed(example.get("context"), example["question"], example["answer"]) for example in contents["seed_examples"]
    )
    return Skill(path, contents["task_description"], seeds, int(contents.get("version", 1)))


def read_knowledge(path: str | Path) -> Knowledge:
    """Read knowledge and its documents, if the real parser finds its file valid.

    `ilab` fetches the documents from the repository that the file names. Here they lie beside the file, so that a
    lesson needs no network: the patterns are looked for in the file's own folder and those below it.

    Args:
        path: of its qna.yaml.

    Returns:
        The knowledge with its documents.

    Raises:
        ValueError: the file is not valid, is empty, or holds a skill; a pattern finds no document or leads out of the
            folder; a document is too large or not UTF-8. The message says what to do.

    Examples:
        >>> folder = start_taxonomy("my_taxonomy") / "knowledge/film_festival/paper_lantern_prize"
        >>> len(read_knowledge(folder / "qna.yaml").documents)
        1
    """
    path = Path(path)
    contents = _valid(path)
    if "document" not in contents:
        raise SpokenError(N_("{path} holds a skill. Read it with `read_skill`."), path=path)
    seeds = tuple(
        KnowledgeSeed(
            example["context"],
            tuple(Seed(None, pair["question"], pair["answer"]) for pair in example["questions_and_answers"]),
        )
        for example in contents["seed_examples"]
    )
    documents = _documents(path.parent, contents["document"]["patterns"])
    return Knowledge(path, contents["domain"], contents["document_outline"], None, seeds, documents)


def start_taxonomy(folder: str | Path) -> Path:
    """Copy the course's taxonomy into a folder, never over a file that is there.

    Args:
        folder: where to; it is made if need be. What a learner has changed in it stays as it is.

    Returns:
        The folder.

    Raises:
        WriteError: the disk is full, or the folder cannot be written to.
        AssetError: a file of the course's taxonomy is missing or damaged.

    Examples:
        >>> sorted(path.name for path in start_taxonomy("my_taxonomy").iterdir())
        ['compositional_skills', 'knowledge']
    """
    folder, taxonomy = Path(folder), asset("taxonomy")
    for source in sorted(file for file in taxonomy.rglob("*") if file.is_file()):
        target = folder / source.relative_to(taxonomy)
        if not target.exists():
            with writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy_whole(source, target)
    return folder


def _copy_whole(source: Path, target: Path) -> None:
    """Copy beside the place and rename: no half copy ever stands there, nor one over what was made meanwhile."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    try:
        shutil.copyfile(source, name)
        shutil.copymode(source, name)  # a temporary file is its owner's alone
        if not target.exists():
            os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def _valid(path: Path) -> dict[str, Any]:
    """The data of a file; ValueError with the faults if the parser finds any, or nothing to read."""
    verdict: Verdict = check_file(path)
    contents = yaml.safe_load(path.read_text(encoding="utf-8")) if verdict.valid else None
    if not contents:
        raise ValueError(str(verdict))
    return _spelled_out(contents)


def _spelled_out(value: Any) -> Any:
    """The same with half letters spelled out: YAML may hold them, and no file and no endpoint can be given them."""
    if isinstance(value, dict):
        return {_spelled_out(name): _spelled_out(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_spelled_out(part) for part in value]
    return sendable(value) if isinstance(value, str) else value


def _documents(folder: Path, patterns: list[str]) -> tuple[str, ...]:
    """The text of every file below a folder that one of the patterns describes."""
    found: set[Path] = set()
    for pattern in patterns:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            message = N_("The pattern `{pattern}` leads out of the folder. Write it from the folder of qna.yaml on.")
            raise SpokenError(message, pattern=pattern)
        files = [file for file in folder.glob(pattern) if file.is_file() and not _ignored(file.relative_to(folder))]
        if not files:
            message = N_("No document `{pattern}` lies beside qna.yaml. Put it into {folder}, or correct `patterns:`.")
            raise SpokenError(message, pattern=pattern, folder=folder)
        found.update(files)
    return tuple(_document(file, folder) for file in sorted(found))


def _ignored(file: Path) -> bool:
    """Whether a file is no document: the taxonomy file itself, and what JupyterLab keeps in hidden folders."""
    return file.name == "qna.yaml" or any(part.startswith(".") for part in file.parts)


def _document(file: Path, folder: Path) -> str:
    """One document's text; a link may not lead out of the folder either."""
    if not file.resolve().is_relative_to(folder.resolve()):
        raise SpokenError(
            N_("{file} is a link that leads out of the folder. Put the document itself there."), file=file
        )
    if file.stat().st_size > MOST_BYTES:
        raise SpokenError(N_("{file} is larger than 1 MB. Divide it into smaller documents."), file=file)
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpokenError(N_("{file} is not a text in UTF-8. Save it as one."), file=file) from error
