"""A learner's own choices between two responses: asked, kept line by line in a file, and read for the taste in them.

A question shows one prompt and two responses, A and B. The answer is "A", "B" or "tie". Answers become preference pairs
for DPO with `pairs_of`, and `taste` fits the Bradley-Terry model to them: what is it that makes a response win?
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike

from course_helpers.checks import is_finite, require
from course_helpers.prose import escape, no_formulas
from course_helpers.translation import N_, SpokenError, _, ngettext

ANSWERS = ("A", "B", "tie")
FIELDS = ("id", "prompt", "a", "b", "answer")
LONGEST_TEXT = 20_000  # characters
LONGEST_LINE = 1 << 19  # bytes; three texts of the longest kind fit, escaped or not
MOST_BYTES = 10_000_000  # of a file: some ten thousand choices
GAP = 5  # questions before one comes again with its sides swapped, where there are enough
WAIT_S = 10.0  # for another notebook that is writing
NORMAL_95 = 1.959964  # 95 % of a normal distribution lie within so many standard deviations
PRIOR = 2.0  # standard deviation of each weight before any choice was made


# --------------------------------------------------------------------------------------------- questions and choices


@dataclass(frozen=True)
class Question:
    """One prompt and two responses to it; each response begins with its own space.

    Attributes:
        prompt: X.
        a: the response on side A.
        b: the response on side B.

    Raises:
        ValueError: a text that is none, is too long or cannot be written as UTF-8, or two equal responses.
    """

    prompt: str
    a: str
    b: str

    def __post_init__(self) -> None:
        """Refuse what could not be asked or kept."""
        for name in ("prompt", "a", "b"):
            text = getattr(self, name)
            require(isinstance(text, str), name, text, "a text")
            if len(text) > LONGEST_TEXT:
                raise ValueError(f"{name} has {len(text)} characters; it must have at most {LONGEST_TEXT}.")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{name} cannot be written as UTF-8: {error.reason} at {error.start}.") from None
        if self.a == self.b:
            raise ValueError(f"a and b are the same text, {self.a[:60]!r}: there is nothing to choose.")

    @property
    def id(self) -> str:
        """The same for the same three texts, on every machine."""
        texts = json.dumps([self.prompt, self.a, self.b])
        return hashlib.sha256(texts.encode()).hexdigest()[:16]

    @property
    def swapped(self) -> Question:
        """The same question with its sides swapped."""
        return Question(self.prompt, self.b, self.a)


@dataclass(frozen=True)
class Choice(Question):
    """An answered question.

    Attributes:
        answer: "A", "B" or "tie".

    Raises:
        ValueError: another answer, or texts that make no question.
    """

    answer: str

    def __post_init__(self) -> None:
        """Refuse what is no answer."""
        super().__post_init__()
        require(self.answer in ANSWERS, "answer", self.answer, 'one of "A", "B" and "tie"')

    @classmethod
    def of(cls, question: Question, answer: str) -> Choice:
        """An answer to a question."""
        return cls(question.prompt, question.a, question.b, answer)

    @property
    def win(self) -> float:
        """1 if A won, 0 if B won, half a win for a tie."""
        return {"A": 1.0, "tie": 0.5, "B": 0.0}[self.answer]

    def line(self) -> bytes:
        """The choice as it stands in the file."""
        entry = {name: getattr(self, name) for name in FIELDS}
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def ask(
    prompts: Sequence[str], firsts: Sequence[str], seconds: Sequence[str], repeats: float = 0.1, seed: int = 0
) -> list[Question]:
    """Make questions of responses from two sources, so that no side gives its source away.

    Each pair of responses comes on random sides. Some questions come again later with their sides swapped, never
    directly after: they show whether the learner answers alike. Pairs that read the same (up to white space at their
    ends) and questions that were there already are left out.

    Args:
        prompts: N prompts.
        firsts: N responses, one to each prompt.
        seconds: N other responses to the same prompts.
        repeats: share of the questions that come again.
        seed: of sides and repeats.

    Returns:
        The questions in the order in which they are asked.

    Raises:
        ValueError: lists of different lengths, a share outside [0, 1], or nothing left to ask.
    """
    lengths = [len(prompts), len(firsts), len(seconds)]
    if len(set(lengths)) != 1 or any(isinstance(texts, str) for texts in (prompts, firsts, seconds)):
        raise ValueError(f"prompts, firsts and seconds hold {lengths} texts; pass three lists of the same length.")
    require(is_finite(repeats) and 0 <= repeats <= 1, "repeats", repeats, "a share from 0 to 1")
    rng, questions = random.Random(seed), {}
    for prompt, first, second in zip(prompts, firsts, seconds, strict=True):
        if first.strip() != second.strip():
            question = Question(prompt, first, second)
            questions.setdefault(same_question(question), question.swapped if rng.random() < 0.5 else question)
    if not questions:
        raise ValueError("No question is left: both responses to each prompt are the same. Sample them anew.")
    return _with_repeats(list(questions.values()), repeats, rng)


def same_question(question: Question) -> tuple[str, frozenset[str]]:
    """What a question and its swapped twin have in common."""
    return question.prompt, frozenset((question.a, question.b))


def _with_repeats(questions: list[Question], share: float, rng: random.Random) -> list[Question]:
    """Ask a share of the questions again, with swapped sides, at least `GAP` questions later if there are enough."""
    count = len(questions)
    gap = max(1, min(GAP, count // 2))
    early = range(max(0, count - gap))  # behind a later one there would be too few questions
    again: list[list[Question]] = [[] for _question in questions]
    for place in sorted(rng.sample(early, min(round(share * count), len(early)))):
        again[rng.randrange(place + gap, count)].append(questions[place].swapped)
    return [each for question, later in zip(questions, again, strict=True) for each in (question, *later)]


def pairs_of(choices: Iterable[Choice]) -> list[dict[str, str]]:
    """Choices as preference pairs for DPO; a tie prefers nothing and is left out.

    A question that was asked twice gives two rows: the same one, if it was answered alike.

    Args:
        choices: in any order.

    Returns:
        A row ``{"prompt", "chosen", "rejected"}`` for each choice that is no tie, in the order of the choices.

    Examples:
        >>> pairs_of([Choice.of(Question("The film is", " good.", " bad."), answer) for answer in ("A", "tie")])
        [{'prompt': 'The film is', 'chosen': ' good.', 'rejected': ' bad.'}]
    """
    return [
        {"prompt": c.prompt, "chosen": c.a, "rejected": c.b}
        if c.answer == "A"
        else {"prompt": c.prompt, "chosen": c.b, "rejected": c.a}
        for c in choices
        if c.answer != "tie"
    ]


# --------------------------------------------------------------------------------------------------------- the file

TOO_LARGE = N_("it is larger than 10 MB, more than choices can be")
TOO_LONG = N_("it is longer than a choice can be")
NO_JSON = N_("it is no complete line of JSON")
OTHER_FIELDS = N_("its fields are not those of a choice")
OTHER_VALUES = N_("one of its values is not what a choice holds")
OTHER_ID = N_("its id does not belong to its texts")


class Damage(NamedTuple):
    """A line that holds no choice.

    Attributes:
        number: of the line, counted from 1.
        reason: what is wrong with it, in English.
        raw: the line as it was found.
    """

    number: int
    reason: str
    raw: bytes


class Content(NamedTuple):
    """What a file holds.

    Attributes:
        choices: by the id of their question; of two answers to one question the later counts.
        damage: the lines that hold no choice.
        ended: whether the last line has its end.
    """

    choices: dict[str, Choice]
    damage: list[Damage]
    ended: bool


def read_choices(file: str | Path) -> list[Choice]:
    """The choices in a file, in the order in which they were made; the file stays as it is.

    Args:
        file: where a `PreferenceLabeller` keeps its answers. Lines that hold no choice are left out with a warning.

    Returns:
        The choices.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {file}: answer questions in a PreferenceLabeller, or mend the path.")
    content = _read(path)
    if content.damage:
        where = ", ".join(str(damage.number) for damage in content.damage[:5])
        warnings.warn(f"{file}: {len(content.damage)} lines hold no choice, the first are {where}.", stacklevel=2)
    return list(content.choices.values())


def _read(path: Path) -> Content:
    """Read all lines, good ones and others; a file that is not there is empty."""
    choices, damage, raw, number, begin = {}, [], b"", 0, True
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                raise OSError(errno.EFBIG, _(TOO_LARGE))
            for raw, whole in _lines(file):
                number += begin
                begin = raw.endswith(b"\n")
                line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                found = _parse(line) if whole else TOO_LONG
                if isinstance(found, Choice):
                    choices[found.id] = found
                elif not whole or line.strip():
                    before = damage.pop().raw if damage and damage[-1].number == number else b""
                    damage.append(Damage(number, found, before + raw))
    except FileNotFoundError:
        pass
    return Content(choices, damage, raw.endswith(b"\n") or not raw)


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """The lines of a file, and whether each is whole: one that is too long comes in pieces."""
    broken = False
    for piece in iter(lambda: file.readline(LONGEST_LINE), b""):
        ended = piece.endswith(b"\n") or len(piece) < LONGEST_LINE
        yield piece, ended and not broken
        broken = not ended


def _parse(line: bytes) -> Choice | str:
    """The choice a line holds, or what is wrong with it."""
    try:
        entry = json.loads(line.decode())
    except (ValueError, RecursionError):  # no UTF-8, no JSON, or brackets without end
        return NO_JSON
    if not isinstance(entry, dict) or entry.keys() != set(FIELDS):
        return OTHER_FIELDS
    try:
        choice = Choice(entry["prompt"], entry["a"], entry["b"], entry["answer"])
    except ValueError:
        return OTHER_VALUES
    return choice if entry["id"] == choice.id else OTHER_ID


class ChoiceBook:
    """The choices in a file, which several panels and notebooks may share.

    Every change is written at once: a new answer is appended, a changed or taken-back one rewrites the file beside
    itself and takes its place. Before it is written, the file is read again under a lock, so no answer of another
    notebook is lost. What cannot be written stays in memory and is tried again with the next change.

    Args:
        file: where the choices are kept, one JSON object a line.

    Attributes:
        path: the file, absolute, so that it stays the same when the current folder changes.
        choices: all choices known, by the id of their question, in the order in which they were made.
        damage: lines that held no choice and were set aside.
        unsaved: changes that could not be written yet; None for an answer taken back.
    """

    def __init__(self, file: str | Path):
        """Nothing is read yet."""
        self.path = Path(file).expanduser().resolve()
        self.choices: dict[str, Choice] = {}
        self.damage: list[Damage] = []
        self.unsaved: dict[str, Choice | None] = {}

    @property
    def aside(self) -> Path:
        """The file that takes damaged lines."""
        return self.path.with_name(f"{self.path.stem}.damaged{self.path.suffix}")

    @property
    def lock(self) -> Path:
        """An empty hidden file; whoever holds a lock on it may write."""
        return self.path.with_name(f".{self.path.name}.lock")

    def open(self) -> None:
        """Read what is there, and set damaged lines aside.

        Raises:
            SpokenError: the file cannot be read, or damaged lines cannot be set aside; good lines are there all the
                same.
        """
        try:
            content = _read(self.path)
        except OSError as error:
            words = N_("{file} cannot be read: {reason}. Give another file, or make this one readable.")
            raise _trouble(words, self.path, error) from error
        self.choices = content.choices
        if content.damage:
            self.save()

    def put(self, choice: Choice) -> None:
        """Keep a choice; it replaces an earlier answer to the same question.

        Raises:
            SpokenError: it could not be written; it is in memory.
        """
        self._change(choice.id, choice)

    def take_back(self, question_id: str) -> None:
        """Forget the answer to a question.

        Raises:
            SpokenError: it could not be written; it is forgotten in memory.
        """
        self._change(question_id, None)

    def _change(self, question_id: str, choice: Choice | None) -> None:
        self.unsaved[question_id] = choice
        self.choices = _changed(self.choices, self.unsaved)
        self.save()

    def save(self) -> None:
        """Bring file and memory together.

        Raises:
            SpokenError: the file could not be written.
        """
        try:
            with FileLock(self.lock, timeout=WAIT_S):
                content = _read(self.path)
                if content.damage:
                    lines = [damage.raw for damage in content.damage]
                    _append(self.aside, [*lines, b"" if lines[-1].endswith(b"\n") else b"\n"])
                wanted = _changed(content.choices, self.unsaved)
                self._write(content, list(wanted.values()))
        except OSError as error:  # the lock's timeout is one, too
            words = N_(
                "The choices cannot be written to {file}: {reason}. They stay in memory while this notebook runs: the "
                "panel's .choices holds them all. The next answer tries again."
            )
            raise _trouble(words, self.path, error) from error
        self.choices, self.unsaved, self.damage = wanted, {}, self.damage + content.damage

    def _write(self, content: Content, wanted: list[Choice]) -> None:
        """Append what is new; rewrite the file if anything before it changes."""
        kept = list(content.choices.values())
        if content.damage or wanted[: len(kept)] != kept:
            _replace(self.path, [choice.line() for choice in wanted])
        elif len(wanted) > len(kept):
            new = [choice.line() for choice in wanted[len(kept) :]]
            _append(self.path, new if content.ended else [b"\n", *new])

    def damage_in_words(self) -> str:
        """What was set aside, why and where; nothing if all lines were good."""
        if not self.damage:
            return ""
        each = "; ".join(
            _("line {number}: {reason}").format(number=line.number, reason=_(line.reason)) for line in self.damage[:3]
        )
        words = ngettext(
            "{count} line of {file} holds no choice ({each}). It is kept in {aside}; all other answers are there.",
            "{count} lines of {file} hold no choice ({each}). They are kept in {aside}; all other answers are there.",
            len(self.damage),
        )
        each += "; …" if len(self.damage) > 3 else ""
        return words.format(count=len(self.damage), file=self.path.name, each=each, aside=self.aside.name)


def _changed(choices: dict[str, Choice], changes: Mapping[str, Choice | None]) -> dict[str, Choice]:
    """Choices after some were made, changed or taken back (None)."""
    return {key: choice for key, choice in (choices | changes).items() if choice is not None}


def _trouble(words: str, path: Path, error: OSError) -> SpokenError:
    return SpokenError(words, file=path.name, reason=error.strerror or error)


def _append(path: Path, lines: Iterable[bytes]) -> None:
    """Add lines, and wait until they are on the disk."""
    with path.open("ab") as file:
        file.write(b"".join(lines))
        file.flush()
        os.fsync(file.fileno())


def _replace(path: Path, lines: Iterable[bytes]) -> None:
    """Write beside the file and rename, so that a crash leaves either the old or the new one."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, name)  # a temporary file is its owner's alone
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


# --------------------------------------------------------------------------------------------------------- features

Feature = Callable[[str, str], float]


@dataclass(frozen=True)
class JudgeLogOdds:
    """ln P/(1 − P) of a judge's label for prompt and response together.

    Attributes:
        judge: a text-classification pipeline.
        label: the label looked for.
    """

    judge: Any
    label: str

    def __call__(self, prompt: str, response: str) -> float:
        """The log-odds of one text."""
        return self.many([(prompt, response)])[0]

    def many(self, texts: Sequence[tuple[str, str]]) -> list[float]:
        """The log-odds of many texts at once, which is faster."""
        from course_helpers.models import log_odds  # brings torch along; the file needs none of it

        return log_odds(self.judge, [prompt + response for prompt, response in texts], self.label)


def judge_log_odds(judge: Any, label: str = "POSITIVE") -> JudgeLogOdds:
    """A feature: how much a judge sees its label in a response, in log-odds.

    Args:
        judge: a text-classification pipeline.
        label: the label looked for.

    Returns:
        The feature.
    """
    return JudgeLogOdds(judge, label)


def length_in_words(prompt: str, response: str) -> float:
    """A feature: how many words a response has.

    Examples:
        >>> length_in_words("The film is", " a joy to watch.")
        4.0
    """
    return float(len(response.split()))


def variety(prompt: str, response: str) -> float:
    """A feature: different words over all words of a response, from 0 (no word) to 1 (none comes twice).

    Examples:
        >>> variety("The film is", " so so")
        0.5
    """
    words = [word.strip(".,;:!?()\"'").lower() for word in response.split()]
    return len(set(words)) / len(words) if words else 0.0


def ready_features(judge: Any = None) -> dict[str, Feature]:
    """Features to begin with: length, variety and, with a judge, its log-odds of "POSITIVE".

    Args:
        judge: a text-classification pipeline, or None.

    Returns:
        Features by name.
    """
    judged = {N_("judge's log-odds"): judge_log_odds(judge)} if judge is not None else {}
    return judged | {N_("length in words"): length_in_words, N_("variety of words"): variety}


# ------------------------------------------------------------------------------------------------------------- taste


@dataclass(frozen=True)
class Share:
    """How often something was so, with its 95 % interval (Wilson's, which holds for few cases, too).

    Attributes:
        hits: how often it was so; half a hit where it was undecided.
        total: out of how many.
    """

    hits: float
    total: int

    @property
    def share(self) -> float:
        """Hits over total; NaN for none."""
        return self.hits / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end; (0, 1) for no case at all."""
        if not self.total:
            return 0.0, 1.0
        z, n, p = NORMAL_95, self.total, self.share
        middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
        return tuple(float(np.clip((middle + side * half) / (1 + z * z / n), 0, 1)) for side in (-1, 1))

    def __str__(self) -> str:
        """Such as ``24 of 26 (92 %; 95 % interval 76 to 98 %)``."""
        low, high = (f"{100 * end:.0f}" for end in self.interval)
        words = _("{hits} of {total} ({share} %; 95 % interval {low} to {high} %)")
        share = f"{100 * self.share:.0f}" if self.total else "–"
        return words.format(hits=f"{self.hits:g}", total=self.total, share=share, low=low, high=high)


@dataclass(frozen=True)
class Taste:
    """What a learner's choices say: P(A over B) = σ(w·(f(A) − f(B)) + b), features f in standard deviations.

    Attributes:
        names: of the features.
        weights: w, how much the log-odds of winning rise with one standard deviation of each feature.
        errors: standard error of each weight, from the curvature of the penalised likelihood at its maximum.
        scales: one standard deviation of each feature, in its own unit; 0 for one that is the same everywhere.
        bias: b, the pull to side A, whatever stands there, in log-odds.
        bias_error: its standard error.
        explained: choices (no ties) that the fit gets right.
        foreseen: the same, each by a fit that has not seen the question.
        consistency: questions asked twice with swapped sides that were answered alike.
        choices: how many there were.
        ties: how many of them were ties.
        prior: standard deviation of each weight, and of b, before any choice.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    errors: tuple[float, ...]
    scales: tuple[float, ...]
    bias: float
    bias_error: float
    explained: Share
    foreseen: Share
    consistency: Share
    choices: int
    ties: int
    prior: float

    @property
    def bias_interval(self) -> tuple[float, float]:
        """95 % interval of b."""
        return self.bias - NORMAL_95 * self.bias_error, self.bias + NORMAL_95 * self.bias_error

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Name, weight with its error, one standard deviation in the feature's own unit, and what it means."""
        numbers = zip(self.names, self.weights, self.errors, self.scales, strict=True)
        return [(_(n), f"{_signed(w)} ± {e:.2f}", f"{s:.3g}", _meaning(w, e, s)) for n, w, e, s in numbers]

    def sentences(self) -> list[str]:
        """All but the table, in words."""
        ties = ngettext("{count} tie counts half a win.", "{count} ties count half a win each.", self.ties)
        unit = _("A weight is what one standard deviation more of a feature adds to the log-odds of winning.")
        fit = _("Choices without ties that the fit gets right: {explained}; for questions it has not seen: {foreseen}.")
        prior = _(
            "Before any choice, each weight is taken to be normal around 0 with standard deviation {prior}: "
            "without that, a feature that separates all choices would get an infinite weight."
        )
        return [
            unit,
            *([ties.format(count=self.ties)] if self.ties else []),
            fit.format(explained=self.explained, foreseen=self.foreseen),
            self._side_in_words(),
            self._consistency_in_words(),
            prior.format(prior=f"{self.prior:g}"),
        ]

    def _side_in_words(self) -> str:
        low, high = self.bias_interval
        words = _(
            "Of two equal responses, the one on side A wins {share} % (95 % interval {low} to {high} %): {verdict}."
        )
        if low <= 0 <= high:
            verdict = _("no pull to a side is seen")
        else:
            verdict = _("side A draws you") if self.bias > 0 else _("side B draws you")
        low, share, high = (f"{100 * _sigmoid(pull):.0f}" for pull in (low, self.bias, high))
        return words.format(share=share, low=low, high=high, verdict=verdict)

    def _consistency_in_words(self) -> str:
        if not self.consistency.total:
            return _("No question was asked twice, so nothing is known of how steady the choices are.")
        low, high = self.consistency.interval
        if low > 0.5:
            verdict = _("steadier than tossing a coin")
        elif high < 0.5:
            verdict = _("less alike than with a coin; perhaps the side decided, not the text")
        else:
            verdict = _("this cannot be told from tossing a coin (50 %)")
        words = _("Asked twice with swapped sides and answered alike: {share}: {verdict}.")
        return words.format(share=self.consistency, verdict=verdict)

    def _title(self) -> str:
        return ngettext("The taste in {count} choice", "The taste in {count} choices", self.choices).format(
            count=self.choices
        )

    def __str__(self) -> str:
        """Table and sentences as text."""
        lines = [_head(), *self.rows()]
        widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        table = ["   ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        return "\n".join([self._title(), *table, *self.sentences()])

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in _head())
        body = ""
        for name, *cells in self.rows():
            numbers = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            body += f'<tr><th scope="row">{escape(name)}</th>{numbers}</tr>'
        words = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.sentences())
        caption = f"<caption>{escape(self._title())}</caption>"
        return no_formulas(f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{words}")


def _head() -> tuple[str, str, str, str]:
    return _("feature"), _("weight ± standard error"), _("one standard deviation"), _("more of it wins")


def _meaning(weight: float, error: float, scale: float) -> str:
    """What a weight says of responses that have more of its feature."""
    if scale == 0:
        return _("it is the same for all responses")
    if abs(weight) <= NORMAL_95 * error:
        return _("not clear")
    return _("more often") if weight > 0 else _("less often")


def _signed(value: float) -> str:
    """A number with its sign, a true minus, and never ``-0.00``."""
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0.00"


def taste(choices: Sequence[Choice], features: Mapping[str, Feature | ArrayLike]) -> Taste:
    """Fit the Bradley-Terry model with features to choices: what makes a response win?

    P(A over B) = σ(w·(f(A) − f(B)) + b). Each feature is divided by its standard deviation over all responses, so that
    weights can be compared. A tie is half a win for each side. Before any choice, w and b are normal around 0 with
    standard deviation `PRIOR` = 2: one standard deviation of a feature then multiplies the odds by less than e^4 ≈ 50
    in 95 of 100 cases. With 30 choices that moves a weight of 1 by some hundredths; yet a feature that separates all
    choices gets a finite weight.

    Args:
        choices: N choices.
        features: by name, functions of prompt and response, or arrays (N, 2) with the values of A and B.

    Returns:
        Weights with errors, how much they explain, and how steady the choices are; it shows itself.

    Raises:
        ValueError: no choices, no features, or a feature that gives no finite number.
    """
    choices = list(choices)
    if not choices or not features:
        raise ValueError(f"taste needs choices and features; it got {len(choices)} and {len(features)}.")
    values = np.stack([_values(name, feature, choices) for name, feature in features.items()], axis=-1)  # (N, 2, K)
    scales = values.std(axis=(0, 1))
    scales = np.where(scales > 1e-12 * np.abs(values).max(axis=(0, 1)), scales, 0.0)
    differences = (values[:, 0] - values[:, 1]) / np.where(scales > 0, scales, 1.0)
    x = np.column_stack([differences, np.ones(len(choices))])  # the last column is side A itself
    wins = np.array([choice.win for choice in choices])
    fitted = fit(x, wins)
    errors = np.sqrt(np.diag(np.linalg.inv(_curvature(fitted, x))))
    return Taste(
        names=tuple(features),
        weights=tuple(fitted[:-1].tolist()),
        errors=tuple(errors[:-1].tolist()),
        scales=tuple(scales.tolist()),
        bias=float(fitted[-1]),
        bias_error=float(errors[-1]),
        explained=_right(x @ fitted, wins),
        foreseen=_right(_foreseen(x, wins, choices, fitted), wins),
        consistency=consistency(choices),
        choices=len(choices),
        ties=sum(choice.answer == "tie" for choice in choices),
        prior=PRIOR,
    )


def _values(name: str, feature: Feature | ArrayLike, choices: Sequence[Choice]) -> np.ndarray:
    """A feature of both responses of each choice, (N, 2)."""
    if callable(feature):
        texts = [(choice.prompt, response) for choice in choices for response in (choice.a, choice.b)]
        feature = feature.many(texts) if hasattr(feature, "many") else [feature(*text) for text in texts]
        feature = [feature[place : place + 2] for place in range(0, len(texts), 2)]
    try:
        values = np.asarray(feature, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"feature {name!r} gives something that is no number: {error}.") from None
    if values.shape != (len(choices), 2):
        raise ValueError(f"feature {name!r} has shape {values.shape}; it must be ({len(choices)}, 2): A and B.")
    if not np.isfinite(values).all():
        raise ValueError(f"feature {name!r} gives a number that is not finite; mend it or leave it out.")
    return values


def fit(x: np.ndarray, wins: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """Maximise the penalised log-likelihood by Newton's method; it is concave, so there is one maximum.

    Args:
        x: what each weight is multiplied by, (N, K).
        wins: 1, 0 or, for a tie, 0.5, (N,).
        start: weights to start from; 0 if None.

    Returns:
        The weights, (K,).
    """
    weights = np.zeros(x.shape[1]) if start is None else start
    value = penalised_likelihood(weights, x, wins)
    for _step in range(100):
        step = np.linalg.solve(_curvature(weights, x), slope(weights, x, wins))
        # A full step may overshoot while far away; near the maximum it doubles the digits each time.
        while (next_value := penalised_likelihood(weights + step, x, wins)) < value - 1e-12 * abs(value):
            step = step / 2
        weights, value = weights + step, next_value
        if np.abs(step).max() < 1e-12 * (1 + np.abs(weights).max()):
            break
    return weights


def penalised_likelihood(weights: np.ndarray, x: np.ndarray, wins: np.ndarray) -> float:
    """``Σ win·ln σ(x·w) + (1 − win)·ln σ(−x·w) − |w|² / (2·PRIOR²)``.

    Args:
        weights: w, (K,).
        x: what each weight is multiplied by, (N, K).
        wins: 1, 0 or, for a tie, 0.5, (N,).

    Returns:
        In nats.
    """
    margins = x @ weights
    likelihood = -(wins * np.logaddexp(0, -margins) + (1 - wins) * np.logaddexp(0, margins)).sum()
    return float(likelihood - weights @ weights / (2 * PRIOR**2))


def slope(weights: np.ndarray, x: np.ndarray, wins: np.ndarray) -> np.ndarray:
    """Gradient of `penalised_likelihood`: Σ (win − σ(x·w)) x − w / PRIOR².

    Args:
        weights: w, (K,).
        x: what each weight is multiplied by, (N, K).
        wins: 1, 0 or, for a tie, 0.5, (N,).

    Returns:
        (K,); 0 at the maximum.
    """
    return (wins - _sigmoid(x @ weights)) @ x - weights / PRIOR**2


def _curvature(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Minus the Hessian of `penalised_likelihood`, (K, K)."""
    p = _sigmoid(x @ weights)
    return (x * (p * (1 - p))[:, None]).T @ x + np.eye(len(weights)) / PRIOR**2


def _sigmoid(margin: ArrayLike) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -np.asarray(margin, dtype=float)))


def _right(margins: np.ndarray, wins: np.ndarray) -> Share:
    """How many choices have their winner on the side of the margin; ties have none."""
    decided = wins != 0.5
    sides = np.sign(margins[decided]) * np.sign(wins[decided] - 0.5)
    return Share(float((1 + sides).sum() / 2), int(decided.sum()))


def _foreseen(x: np.ndarray, wins: np.ndarray, choices: Sequence[Choice], start: np.ndarray) -> np.ndarray:
    """The margin of each choice by a fit without its question; the swapped twin is left out with it."""
    groups: dict[Any, list[int]] = {}
    for place, choice in enumerate(choices):
        groups.setdefault(same_question(choice), []).append(place)
    margins = np.zeros(len(choices))
    for places in groups.values():
        margins[places] = x[places] @ fit(np.delete(x, places, axis=0), np.delete(wins, places), start)
    return margins


def consistency(choices: Iterable[Choice]) -> Share:
    """Questions asked twice with swapped sides: how many were answered alike, a tie by a tie, a text by the same text.

    Args:
        choices: in any order.

    Returns:
        How many of how many.
    """
    answers = {(choice.prompt, choice.a, choice.b): choice.win for choice in choices}
    alike = [
        answers[prompt, b, a] == 1 - win
        for (prompt, a, b), win in answers.items()
        if a < b and (prompt, b, a) in answers
    ]
    return Share(float(sum(alike)), len(alike))
