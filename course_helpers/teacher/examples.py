"""What a teacher's work leaves: examples to train on, the funnel they came through, and the file they are kept in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from course_helpers.translation import _

LONGEST_TEXT = 20_000  # characters of one field of an example
LONGEST_FILE = 64 << 20  # bytes


@dataclass(frozen=True)
class Example:
    """One example to train or test on.

    Attributes:
        context: the text that the question is about, or None.
        question: what is asked.
        answer: what is to be answered.
        source: where it comes from, such as "skill, seed 3".
    """

    context: str | None
    question: str
    answer: str
    source: str

    @property
    def texts(self) -> tuple[str | None, str, str]:
        """All but the source: what makes two examples the same."""
        return self.context, self.question, self.answer


@dataclass(frozen=True)
class Rejected:
    """A draft that did not become an example.

    Attributes:
        stage: which stage rejected it.
        reason: why, in the language chosen at the time.
        context: the text of the draft, or None if it has none.
        question: likewise; None if it was not written yet.
        answer: likewise.
    """

    stage: str
    reason: str
    context: str | None
    question: str | None
    answer: str | None


@dataclass(frozen=True)
class Stage:
    """One stage of the funnel.

    Attributes:
        name: in English; `_` of the translation knows it.
        entered: drafts that came in.
        kept: drafts that went on.
        rejected: the others.
    """

    name: str
    entered: int
    kept: int
    rejected: tuple[Rejected, ...] = field(repr=False)


@dataclass(frozen=True)
class Generated:
    """Examples and the funnel they came through.

    Attributes:
        examples: what is kept.
        stages: in their order; each is entered by what the one before has kept.
    """

    examples: tuple[Example, ...] = field(repr=False)
    stages: tuple[Stage, ...]

    def __str__(self) -> str:
        """The funnel, a line for each stage."""
        lines = [f"{_(stage.name):24} {stage.entered:6,} → {stage.kept:6,}" for stage in self.stages]
        return "\n".join(lines)

    def as_jsonl(self, path: Path | str) -> Path:
        """Write the examples into a file, one JSON object a line; `read_examples` reads it.

        Args:
            path: of the file; what it held before is lost.

        Returns:
            The path.
        """
        path = Path(path)
        lines = (json.dumps(asdict(example), ensure_ascii=False) + "\n" for example in self.examples)
        path.write_text("".join(lines), encoding="utf-8")
        return path


class GenerationError(ValueError):
    """Too few drafts become examples.

    Args:
        message: what came of how many drafts, and what to do.
        so_far: what was made, with its funnel.

    Attributes:
        so_far: what was made, with its funnel.
    """

    def __init__(self, message: str, so_far: Generated):
        """Keep what was made."""
        super().__init__(message)
        self.so_far = so_far


def read_examples(path: Path | str) -> tuple[Example, ...]:
    """Read examples from a file that `Generated.as_jsonl` wrote, or that has the same form.

    Args:
        path: a JSON object a line, with "context" (a text or null), "question", "answer" and "source" (texts).

    Returns:
        The examples, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is too big or a line is not of that form; the message says which.
    """
    path = Path(path)
    if path.stat().st_size > LONGEST_FILE:
        raise ValueError(f"{path.name} has more than {LONGEST_FILE:,} bytes; split it.")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no UTF-8 text: {error.reason} at byte {error.start}.") from None
    return tuple(_example(line, f"{path.name}, line {k}") for k, line in enumerate(lines, start=1) if line.strip())


def _example(line: str, place: str) -> Example:
    """The example in one line, or a ValueError that names the place."""
    names = {entry.name for entry in fields(Example)}
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON: {error}.") from None
    if not isinstance(entry, dict) or set(entry) != names:
        raise ValueError(f"{place} must be an object with exactly {', '.join(sorted(names))}.")
    for name, text in entry.items():
        if text is None and name == "context":
            continue
        if not isinstance(text, str) or len(text) > LONGEST_TEXT or (name != "context" and not text.strip()):
            raise ValueError(f"{place}: {name} must be a text of 1 to {LONGEST_TEXT:,} characters.")
    return Example(**entry)
