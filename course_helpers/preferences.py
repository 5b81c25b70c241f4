"""Preference pairs (X, Y_w, Y_l) from several sources, brought into one strict form and checked.

The form is three plain strings: a prompt, and two responses that continue it, each beginning with its own space.
Tables on the Hub come in other forms; `to_pair` reads them, `validate_pairs` reads a whole table and says of each row
that cannot be used why. `judged_pairs` draws pairs from a policy and lets a judge rank them.

A row that cannot be used is left out and reported, never mended by guessing: what a wrong pair teaches is not seen in
the loss.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import Pipeline, PreTrainedTokenizerBase

from course_helpers.checks import check_whole, is_finite, require
from course_helpers.models import log_odds
from course_helpers.ppo.rollout import draw_responses
from course_helpers.prose import escape, no_formulas
from course_helpers.rollouts import check_prompt
from course_helpers.translation import N_, _

if TYPE_CHECKING:
    from datasets import Dataset  # heavy: imported where one is made

COLUMNS = ("prompt", "chosen", "rejected")
ENDED = ("chosen_ended", "rejected_ended")
SCORES = ("score_chosen", "score_rejected")
FILES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
SURROGATE = re.compile("[\ud800-\udfff]")
SHOWN = 3  # rows that a report or an error names of each reason
SHOWN_CHARACTERS = 40  # of a text they quote
LONGEST_LINE, LONGEST_JSON = 10_000_000, 1_000_000_000  # characters: of a row, of a list of rows on one line
AT_ONCE = 1000  # pairs that are tokenized together

# What stands after the colon in a report is data: names, numbers, a quotation.
REASONS = {
    "broken_json": N_("this line of the file is no valid JSON"),
    "not_a_row": N_("no row with named columns"),
    "missing_column": N_("a column is missing (in brackets those there are)"),
    "none": N_("a value is None"),
    "not_text": N_("neither text nor a list of messages"),
    "mixed_forms": N_("texts and lists of messages are mixed in one row"),
    "not_messages": N_("not a list of messages, each with a role and a content as text"),
    "unknown_role": N_("a message has a role other than system, user or assistant"),
    "empty_message": N_("a message is empty"),
    "first_turn_not_assistant": N_("a response does not begin with a turn of the assistant"),
    "last_turn_not_assistant": N_("a response does not end with a turn of the assistant"),
    "prompt_not_user": N_("the prompt does not end with a turn of the user"),
    "prompt_differs": N_("the prompt is none of the user's turns that the messages share"),
    "template_error": N_("the chat template refuses these messages"),
    "template_differs": N_("the chat template writes the prompt alone otherwise than with its response"),
    "lone_surrogate": N_("half a character (a lone surrogate), which cannot be encoded"),
    "replacement_character": N_("a replacement character (U+FFFD): the text was decoded wrongly or cut in a character"),
    "empty_prompt": N_("the prompt is empty or only white space"),
    "empty_response": N_("a response is empty or only white space"),
    "identical": N_("the two responses are identical"),
    "only_space_differs": N_("the two responses differ only in white space"),
    "no_shared_prompt": N_("the two texts do not begin with the same prompt"),
    "prompt_repeated": N_("a response contains the prompt again"),
    "scores_contradict": N_("the chosen response has the lower score"),
    "scores_tie": N_("both responses have the same score"),
    "duplicate": N_("the same pair as in an earlier row"),
    "contradiction": N_("another row prefers the other one of the same two responses"),
    "cut_token": N_("the prompt ends inside a token, and this end of it would be lost"),
    "prompt_fills_context": N_("the prompt alone fills the context"),
    "same_tokens": N_("both responses become the same tokens"),
    "beyond_context": N_("the responses differ only beyond the context"),
    "retokenized": N_("the text of a rollout, tokenized again, does not begin with the prompt's tokens"),
    "small_difference": N_("the judge's scores differ by less than was asked for"),
}
"""Why a row can be left out, by the name of the reason."""
NOTES = {
    "response_cut": N_("the context cuts off the end of a response"),
    "more_turns": N_("a response holds further turns of the user"),
    "words_run_together": N_("no space between prompt and response: two words run together"),
    "no_score": N_("a score is missing or no number, so the order was not checked"),
}
"""What can be said of a row that is kept, by the name of the note."""


class Pair(NamedTuple):
    """A preference triple (X, Y_w, Y_l) as three plain strings; prompt + chosen and prompt + rejected are the texts.

    Attributes:
        prompt: X.
        chosen: Y_w, the better response; it begins with its own space, unless the prompt ends within a word.
        rejected: Y_l, the other one.

    Examples:
        >>> Pair("The film is", " good.", " bad.").swapped()
        Pair(prompt='The film is', chosen=' bad.', rejected=' good.')
    """

    prompt: str
    chosen: str
    rejected: str

    def swapped(self) -> Pair:
        """The opposite preference."""
        return Pair(self.prompt, self.rejected, self.chosen)


class BadPair(ValueError):  # noqa: N818  a row, not a fault of the program
    """A row that makes no pair.

    Args:
        reason: one of `REASONS`.
        detail: which value, number or place it is.
    """

    def __init__(self, reason: str, detail: str = ""):
        """Keep both, for a report."""
        super().__init__(f"{REASONS[reason]}: {detail}" if detail else REASONS[reason])
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row, or to be known of it.

    Attributes:
        row: its place, counted from 0 as in ``rows[row]``; in a file of JSON lines it is line row + 1.
        reason: one of `REASONS` if the row was left out, one of `NOTES` if it was kept.
        detail: which value, number or place it is.
    """

    row: int
    reason: str
    detail: str = ""

    @property
    def words(self) -> str:
        """The reason in the chosen language."""
        return _in_words(self.reason)

    def __str__(self) -> str:
        """One line."""
        said = f"{self.row}: {self.words}"
        return f"{said}: {self.detail}" if self.detail else said


def _in_words(reason: str) -> str:
    return _((REASONS | NOTES)[reason])


# ------------------------------------------------------------------------------------------------------- one row's form


def to_pair(row: Mapping[str, Any] | Pair, tokenizer: PreTrainedTokenizerBase | None = None) -> Pair:
    r"""Read a row in one of the Hub's forms.

    - Explicit: ``prompt``, ``chosen`` and ``rejected`` are strings.
    - Implicit: ``chosen`` and ``rejected`` are whole texts. The prompt is what both begin with, up to the last white
      space at which both go on, so no word is cut.
    - HH-RLHF: implicit, with turns after "\n\nHuman:" and "\n\nAssistant:". The prompt goes up to and with the last
      "\n\nAssistant:" that both share.
    - Messages: ``chosen`` and ``rejected`` are lists of ``{"role", "content"}``. The prompt is a list of messages, or
      what both lists begin with, up to a turn of the user. A string in ``prompt`` (UltraFeedback) must be one of the
      user's turns they share, or comes before lists that begin with the assistant.

    Messages become text with the tokenizer's chat template. Without one they are written "User: ...\n\nAssistant: ...",
    turns one empty line apart, "System: ..." first if there is one; the prompt then ends with "\n\nAssistant:".

    Args:
        row: a dictionary, or a Pair, which is checked.
        tokenizer: whose chat template is used; only needed for messages.

    Returns:
        The pair; its responses are neither empty nor alike, and if the row has scores (`SCORES`) they agree with it.

    Raises:
        BadPair: the row makes no pair; `reason` and `detail` say why.

    Examples:
        >>> to_pair({"chosen": "The film is good.", "rejected": "The film is bad."})
        Pair(prompt='The film is', chosen=' good.', rejected=' bad.')
    """
    values = _values(row)
    messages = {name: _is_messages(name, value) for name, value in values.items()}
    if messages["chosen"] != messages["rejected"] or (messages.get("prompt") and not messages["chosen"]):
        forms = ", ".join(f"{name}: {type(values[name]).__name__}" for name in values)
        raise BadPair("mixed_forms", forms)
    if messages["chosen"]:
        pair = _from_messages(values.get("prompt"), values["chosen"], values["rejected"], tokenizer)
    elif "prompt" in values:
        pair = Pair(values["prompt"], values["chosen"], values["rejected"])
    else:
        pair = _from_whole_texts(values["chosen"], values["rejected"])
    _check_texts(pair)
    _check_scores(row)
    return pair


def _values(row: Mapping[str, Any] | Pair) -> dict[str, Any]:
    """The three columns, of which the prompt may be missing."""
    row = row._asdict() if isinstance(row, Pair) else row
    if not isinstance(row, Mapping):
        raise BadPair("not_a_row", type(row).__name__)
    for name in ("chosen", "rejected"):
        if name not in row:
            raise BadPair("missing_column", f"{name} ({', '.join(map(str, row))})")
    values = {name: row[name] for name in COLUMNS if name in row}
    if missing := [name for name, value in values.items() if value is None]:
        raise BadPair("none", ", ".join(missing))
    return values


def _is_messages(name: str, value: object) -> bool:
    """Whether a value is a list of messages; else it is text."""
    if not isinstance(value, str | list | tuple):
        raise BadPair("not_text", f"{name}: {type(value).__name__}")
    return not isinstance(value, str)


def _from_whole_texts(chosen: str, rejected: str) -> Pair:
    """Cut two texts where their shared prompt ends."""
    for name, text in zip(COLUMNS[1:], (chosen, rejected), strict=True):
        if not text.strip():
            raise BadPair("empty_response", f"{name}: {_short(text)}")
    shared = chosen[: _common_length(chosen, rejected)]
    begin = shared.rfind(ASSISTANT)
    if begin >= 0:
        end = begin + len(ASSISTANT)
    elif ASSISTANT in chosen and ASSISTANT in rejected:  # dialogues that differ before anything is answered
        begin = end = 0
    else:
        begin = end = _last_shared_space(chosen, rejected, len(shared))
    if not shared[:begin].strip():
        raise BadPair("no_shared_prompt", f"{_short(chosen)}, {_short(rejected)}")
    return Pair(chosen[:end], chosen[end:], rejected[end:])


def _last_shared_space(one: str, other: str, differ: int) -> int:
    """The last place at which both texts go on with white space, and no white space stands before it."""
    end = min(differ, len(one) - 1, len(other) - 1)
    while end > 0 and not (one[end].isspace() and other[end].isspace()):
        end -= 1
    while end > 0 and one[end - 1].isspace():
        end -= 1
    return max(end, 0)


# ------------------------------------------------------------------------------------------------------------- messages

Turn = tuple[str, str]  # role, content


def _from_messages(
    prompt: str | Sequence[Any] | None,
    chosen: Sequence[Any],
    rejected: Sequence[Any],
    tokenizer: PreTrainedTokenizerBase | None,
) -> Pair:
    responses = [_turns("chosen", chosen), _turns("rejected", rejected)]
    for name, turns in zip(COLUMNS[1:], responses, strict=True):
        if turns[-1][0] != "assistant":
            raise BadPair("last_turn_not_assistant", f"{name}: {turns[-1][0]}")
        if not turns[-1][1].strip():
            raise BadPair("empty_response", name)
    asked, responses = _asked(prompt, *responses)
    for name, turns in zip(COLUMNS[1:], responses, strict=True):
        if turns[0][0] != "assistant":
            raise BadPair("first_turn_not_assistant", f"{name}: {turns[0][0]}")
    text = _written(asked, tokenizer, open_end=True)
    return Pair(text, *(_continuation(text, asked, turns, tokenizer) for turns in responses))


def _turns(name: str, messages: Sequence[Any]) -> list[Turn]:
    """Messages as (role, content), checked one by one. Only the last one may be empty: that is seen to later."""
    turns = []
    for place, message in enumerate(messages):
        parts = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        if not all(isinstance(part, str) for part in parts):
            raise BadPair("not_messages", f"{name}[{place}]: {_short(message)}")
        if parts[0] not in ROLES:
            raise BadPair("unknown_role", f"{name}[{place}]: {_short(parts[0])}")
        if not parts[1].strip() and place + 1 < len(messages):
            raise BadPair("empty_message", f"{name}[{place}]")
        turns.append(parts)
    if not turns:
        raise BadPair("not_messages", f"{name}: []")
    return turns


def _asked(
    prompt: str | Sequence[Any] | None, chosen: list[Turn], rejected: list[Turn]
) -> tuple[list[Turn], list[list[Turn]]]:
    """The prompt's turns, and those of the two responses after them."""
    if isinstance(prompt, str) and not prompt.strip():
        raise BadPair("empty_prompt", _short(prompt))
    if isinstance(prompt, str) and chosen[0][0] == rejected[0][0] == "assistant":
        return [("user", prompt)], [chosen, rejected]
    if prompt is None or isinstance(prompt, str):
        shared = _shared_turns(chosen, rejected)
        asked = chosen[:shared]
        if prompt is not None and prompt.strip() not in [text.strip() for role, text in asked if role == "user"]:
            raise BadPair("prompt_differs", _short(prompt))
        return asked, [chosen[shared:], rejected[shared:]]
    asked = _turns("prompt", prompt)
    if asked[-1][0] != "user":
        raise BadPair("prompt_not_user", asked[-1][0])
    if not asked[-1][1].strip():
        raise BadPair("empty_prompt", "")
    for name, turns in zip(COLUMNS[1:], (chosen, rejected), strict=True):
        if turns[: len(asked)] == asked:
            raise BadPair("prompt_repeated", name)
    return asked, [chosen, rejected]


def _shared_turns(chosen: list[Turn], rejected: list[Turn]) -> int:
    """How many turns make the prompt: the last one is the user's, and the assistant answers it in both."""
    shared = _common_length(chosen, rejected)
    while shared and not (chosen[shared - 1][0] == "user" and chosen[shared][0] == rejected[shared][0] == "assistant"):
        shared -= 1
    if not shared:
        raise BadPair("no_shared_prompt", f"{_short(chosen[0][1])}, {_short(rejected[0][1])}")
    return shared


def _written(turns: list[Turn], tokenizer: PreTrainedTokenizerBase | None, open_end: bool) -> str:
    """Turns as one text; with an open end the assistant is to speak next."""
    if not getattr(tokenizer, "chat_template", None):
        text = "\n\n".join(f"{ROLES[role]}: {content.strip()}" for role, content in turns)
        return text + ASSISTANT if open_end else text
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_end)
    except Exception as error:  # a template may raise whatever it likes
        raise BadPair("template_error", _short(str(error))) from None
    return _without_begin(text, tokenizer)


def _without_begin(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Without the template's begin token, if the tokenizer will put one there itself: two are one too many."""
    begin = tokenizer.bos_token
    if begin and text.startswith(begin) and tokenizer("a").input_ids[0] == tokenizer.bos_token_id:
        return text.removeprefix(begin)
    return text


def _continuation(prompt: str, asked: list[Turn], turns: list[Turn], tokenizer: PreTrainedTokenizerBase | None) -> str:
    """What a response adds to the prompt's text, without a last end token, which TRL puts there itself."""
    text = _written(asked + turns, tokenizer, open_end=False)
    if not text.startswith(prompt):
        raise BadPair("template_differs", _short(prompt[-SHOWN_CHARACTERS:]))
    response, end = text[len(prompt) :], getattr(tokenizer, "eos_token", None)
    return response.rstrip().removesuffix(end) if end and response.rstrip().endswith(end) else response


# --------------------------------------------------------------------------------------------------- checks of one pair


def _short(value: object) -> str:
    """A value as a short quotation."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def _check_texts(pair: Pair) -> None:
    for name, text in pair._asdict().items():
        if half := SURROGATE.search(text):
            raise BadPair("lone_surrogate", f"{name}[{half.start()}]")
        if REPLACEMENT in text:
            raise BadPair("replacement_character", f"{name}[{text.index(REPLACEMENT)}]")
    if not pair.prompt.strip():
        raise BadPair("empty_prompt", _short(pair.prompt))
    for name in COLUMNS[1:]:
        if not getattr(pair, name).strip():
            raise BadPair("empty_response", f"{name}: {getattr(pair, name)!r}")
    if pair.chosen == pair.rejected:
        raise BadPair("identical", _short(pair.chosen))
    if _plain(pair.chosen) == _plain(pair.rejected):
        raise BadPair("only_space_differs", f"{_short(pair.chosen)}, {_short(pair.rejected)}")
    for name in COLUMNS[1:]:
        if _repeats(pair.prompt, getattr(pair, name)):
            raise BadPair("prompt_repeated", f"{name}: {_short(getattr(pair, name))}")


def _plain(text: str) -> str:
    """Text with single spaces."""
    return " ".join(text.split())


def _repeats(prompt: str, response: str) -> bool:
    """Whether a response begins with the whole prompt. One word or two may well be said again: "Hello" - "Hello!"."""
    asked, answered = _plain(prompt), _plain(response)
    is_long = len(asked.split()) > 2
    return is_long and answered.startswith(asked) and not answered[len(asked) :][:1].isalnum()


def _check_scores(row: Mapping[str, Any] | Pair) -> None:
    scores = _scores(row)
    if len(scores) < 2 or not all(map(is_finite, scores)):
        return
    if scores[0] == scores[1]:
        raise BadPair("scores_tie", f"{scores[0]} = {scores[1]}")
    if scores[0] < scores[1]:
        raise BadPair("scores_contradict", f"{scores[0]} < {scores[1]}")


def _scores(row: Mapping[str, Any] | Pair) -> list[Any]:
    return [] if isinstance(row, Pair) else [row[name] for name in SCORES if name in row]


def _remarks(row: Mapping[str, Any] | Pair, pair: Pair) -> Iterator[tuple[str, str]]:
    """What is to be known of a row that can be used: ids of `NOTES` with their detail."""
    if names := [name for name in COLUMNS[1:] if _holds_user(row, pair, name)]:
        yield "more_turns", ", ".join(names)
    for name in COLUMNS[1:]:
        seam = pair.prompt[-1] + getattr(pair, name)[0]
        if all(sign.isdigit() or sign.lower() != sign.upper() for sign in seam):  # not where letters have no case
            yield "words_run_together", f"{name}: {_short(pair.prompt[-12:] + getattr(pair, name)[:12])}"
            break
    scores = _scores(row)
    if scores and (len(scores) < 2 or not all(map(is_finite, scores))):
        yield "no_score", ", ".join(map(_short, scores))


def _holds_user(row: Mapping[str, Any] | Pair, pair: Pair, name: str) -> bool:
    if HUMAN in getattr(pair, name):
        return True
    chosen, rejected = (pair.chosen, pair.rejected) if isinstance(row, Pair) else (row["chosen"], row["rejected"])
    if isinstance(chosen, str):
        return False
    whole = chosen if name == "chosen" else rejected
    return any(message["role"] == "user" for message in whole[_common_length(chosen, rejected) :])


def _common_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items two sequences begin with alike."""
    length = 0
    for ours, theirs in zip(one, other, strict=False):
        if ours != theirs:
            break
        length += 1
    return length


# -------------------------------------------------------------------------------------------------------- a whole table


@dataclass(frozen=True)
class PairReport:
    """What `validate_pairs` found.

    Attributes:
        total: rows looked at; as many as pairs and problems together.
        pairs: those that can be used, in the order of the rows.
        problems: rows that were left out, one entry each.
        notes: what is to be known of rows that were kept.
    """

    total: int
    pairs: tuple[Pair, ...] = field(repr=False)
    problems: tuple[Problem, ...] = field(repr=False)
    notes: tuple[Problem, ...] = field(repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """How often each reason and each note came up, in the order of `REASONS` and `NOTES`."""
        counted = Counter(problem.reason for problem in (*self.problems, *self.notes))
        return {reason: counted[reason] for reason in REASONS | NOTES if reason in counted}

    def dataset(self) -> Dataset:
        """The pairs as a `datasets.Dataset` with the columns prompt, chosen and rejected."""
        return _dataset({name: [getattr(pair, name) for pair in self.pairs] for name in COLUMNS})

    def __str__(self) -> str:
        """A small table."""
        return _text_table(self._headline(), self._head(), self._lines())

    def _repr_html_(self) -> str:
        return no_formulas(_html_table(self._headline(), self._head(), self._lines()))

    def _headline(self) -> str:
        said = _("Rows: {total}. Pairs: {pairs}. Left out: {bad}.")
        return said.format(total=self.total, pairs=len(self.pairs), bad=len(self.problems))

    def _head(self) -> list[str]:
        return [_("what was found"), _("how often"), _("the row was"), _("rows, counted from 0")]

    def _lines(self) -> list[list[str]]:
        found = (*self.problems, *self.notes)
        return [
            [
                _in_words(reason),
                str(count),
                _("left out") if reason in REASONS else _("kept with a note"),
                _examples([problem for problem in found if problem.reason == reason]),
            ]
            for reason, count in self.counts.items()
        ]


def _examples(problems: Sequence[Problem]) -> str:
    """The first few rows, with their details."""
    shown = [f"{p.row} ({p.detail})" if p.detail else str(p.row) for p in problems[:SHOWN]]
    return ", ".join([*shown, "…"] if len(problems) > SHOWN else shown)


def _text_table(headline: str, head: list[str], lines: list[list[str]]) -> str:
    if not lines:
        return headline
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rows = ["   ".join(map(str.ljust, line, widths)).rstrip() for line in (head, *lines)]
    return "\n".join([headline, *rows])


def _html_table(headline: str, head: list[str], lines: list[list[str]]) -> str:
    if not lines:
        return f"<p>{escape(headline)}</p>"
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in others) + "</tr>"
        for first, *others in lines
    )
    return f"<table><caption>{escape(headline)}</caption><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"


def _dataset(columns: dict[str, list]) -> Dataset:
    from datasets import Dataset, Features, Value

    kinds = {name: Value("bool" if name in ENDED else "string") for name in columns}
    return Dataset.from_dict(columns, features=Features(kinds))  # said, so that no rows are still three columns


def validate_pairs(
    rows: Iterable[Any] | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    on_bad: str = "drop",
) -> PairReport:
    """Bring a table of preferences into the strict form, and report every row that cannot be used.

    A row may be in any form that `to_pair` reads. Of rows that hold the same pair the first is kept; rows that prefer
    opposite ones of the same two responses are all left out. (Several people may well judge one pair, and differ: then
    count their votes first.)

    Args:
        rows: a list of dictionaries or of Pairs, a `datasets.Dataset`, or the path of a file (`FILES`).
        tokenizer: with it, pairs are also looked at as TRL will tokenize them, with an end token after each response.
        max_length: tokens of prompt and response that training keeps, from the start; needs a tokenizer.
        on_bad: "drop" leaves bad rows out, "raise" stops on them.

    Returns:
        The pairs, and what was wrong with the other rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a setting that is wrong, a table without rows, a file that cannot be read; with
            ``on_bad="raise"``, also bad rows: their counts and the first few of them.

    Examples:
        >>> rows = [Pair("The film is", " good.", " bad."), Pair("The film is", " good.", " good.")]
        >>> report = validate_pairs(rows)
        >>> len(report.pairs), report.counts
        (1, {'identical': 1})
    """
    _check_settings(tokenizer, max_length, on_bad)
    total, pairs, problems, notes = _read_all(rows, tokenizer)
    if not total:
        raise ValueError("rows is empty: at least one row with prompt, chosen and rejected is needed.")
    problems += _repetitions(pairs)
    found = list(_token_problems(_without(pairs, problems), tokenizer, max_length))
    problems += [problem for problem in found if problem.reason in REASONS]
    notes += [note for note in found if note.reason in NOTES]
    pairs = _without(pairs, problems)
    report = PairReport(
        total,
        tuple(pairs.values()),
        tuple(sorted(problems, key=lambda problem: problem.row)),
        tuple(sorted((note for note in notes if note.row in pairs), key=lambda note: note.row)),
    )
    if problems and on_bad == "raise":
        raise ValueError(_complaint(report))
    return report


def _check_settings(tokenizer: object, max_length: object, on_bad: object) -> None:
    require(on_bad in ("drop", "raise"), "on_bad", on_bad, '"drop" or "raise"')
    wanted = "a tokenizer, such as load_policy gives, or None"
    require(tokenizer is None or callable(tokenizer), "tokenizer", tokenizer, wanted)
    if max_length is not None:
        check_whole("max_length", max_length, at_least=2)
        if tokenizer is None:
            raise ValueError(f"max_length is {max_length}, in tokens: pass the tokenizer that is to count them, too.")


def _read_all(
    rows: Iterable[Any] | str | Path, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[int, dict[int, Pair], list[Problem], list[Problem]]:
    """How many rows there are, the pairs by row, and what is to be said of single rows: problems, notes."""
    total, pairs, problems, notes = 0, {}, [], []
    for row, value in _numbered(rows):
        total += 1
        try:
            if isinstance(value, BadPair):  # a line of a file that could not be read
                raise value
            pairs[row] = to_pair(value, tokenizer)
            notes += [Problem(row, *remark) for remark in _remarks(value, pairs[row])]
        except BadPair as bad:
            problems.append(Problem(row, bad.reason, bad.detail))
    return total, pairs, problems, notes


def _without(pairs: Mapping[int, Pair], problems: Iterable[Problem]) -> dict[int, Pair]:
    """The pairs of all other rows."""
    bad = {problem.row for problem in problems}
    return {row: pair for row, pair in pairs.items() if row not in bad}


def _complaint(report: PairReport) -> str:
    """English, as all errors of this package."""
    bad = report.problems
    counts = ", ".join(f"{reason} {count}" for reason, count in report.counts.items() if reason in REASONS)
    first = "; ".join(f"row {p.row}: {BadPair(p.reason, p.detail)}" for p in bad[:SHOWN])
    return (
        f"{len(bad)} of {report.total} rows cannot be used ({counts}). {first}{'; …' if len(bad) > SHOWN else ''}. "
        'Mend them, or pass on_bad="drop" to leave them out and see them in the report.'
    )


def _repetitions(pairs: Mapping[int, Pair]) -> Iterator[Problem]:
    """Rows with the same two responses to one prompt, white space aside."""
    groups: dict[tuple, list[tuple[int, str]]] = {}
    for row, pair in pairs.items():
        prompt, chosen, rejected = map(_plain, pair)
        groups.setdefault((prompt, *sorted((chosen, rejected))), []).append((row, chosen))
    for group in groups.values():
        both_ways = len({chosen for _row, chosen in group}) == 2
        for row, chosen in group if both_ways else group[1:]:
            if both_ways:
                opposite = next(other for other, theirs in group if theirs != chosen)
                yield Problem(row, "contradiction", str(opposite))
            else:
                yield Problem(row, "duplicate", str(group[0][0]))


def _token_problems(
    pairs: Mapping[int, Pair], tokenizer: PreTrainedTokenizerBase | None, max_length: int | None
) -> Iterator[Problem]:
    """What is wrong with pairs once they are tokens."""
    waiting = iter(pairs.items() if tokenizer is not None else ())
    while part := list(islice(waiting, AT_ONCE)):
        for (row, _pair), *ids in zip(part, *_token_ids([pair for _row, pair in part], tokenizer), strict=True):
            kept = min(_common_length(ids[0], ids[1]), _common_length(ids[0], ids[2]))
            if kept < len(ids[0]):
                yield Problem(row, "cut_token", _short(tokenizer.decode(ids[0][kept:])))
            elif (found := _in_context(*ids, max_length)) is not None:
                yield Problem(row, *found)


def _token_ids(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase) -> list[list[list[int]]]:
    """Ids of prompts, of prompts with chosen, and of prompts with rejected responses, as TRL 1.16 makes them."""
    end = getattr(tokenizer, "eos_token", None) or ""
    prompts = [pair.prompt for pair in pairs]
    whole = [
        [pair.prompt + response.removesuffix(end) + end for pair, response in zip(pairs, responses, strict=True)]
        for responses in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    ]
    return [tokenizer(texts, verbose=False).input_ids for texts in (prompts, *whole)]


def _in_context(
    prompt: list[int], chosen: list[int], rejected: list[int], max_length: int | None
) -> tuple[str, str] | None:
    """Reason and detail, if the context leaves no difference, or cuts a response."""
    if chosen == rejected:
        return "same_tokens", str(len(chosen))
    if max_length is None:
        return None
    if len(prompt) >= max_length:
        return "prompt_fills_context", f"{len(prompt)} ≥ {max_length}"
    if chosen[:max_length] == rejected[:max_length]:
        return "beyond_context", f"{_common_length(chosen, rejected)} ≥ {max_length}"
    lengths = {"chosen": len(chosen), "rejected": len(rejected)}
    cut = [f"{name}: {length} > {max_length}" for name, length in lengths.items() if length > max_length]
    return ("response_cut", ", ".join(cut)) if cut else None


# ---------------------------------------------------------------------------------------------------------------- files


def _numbered(rows: Iterable[Any] | str | Path) -> Iterator[tuple[int, Any]]:
    """Rows with their numbers, from wherever they are."""
    if isinstance(rows, str | Path):
        return _file_rows(Path(rows))
    if isinstance(rows, Pair):
        raise ValueError("rows is a single Pair; pass a list of them, or call to_pair.")
    if isinstance(rows, Mapping):
        raise ValueError(
            f"rows is one dictionary with the keys {list(rows)}; it must be a list of rows. Of a DatasetDict pass one "
            "split, such as rows['train']; a single row goes to to_pair."
        )
    try:
        return enumerate(rows)
    except TypeError:
        raise ValueError(f"rows is {_short(rows)}; it must be a list of rows, a Dataset or a path.") from None


def _file_rows(path: Path) -> Iterator[tuple[int, Any]]:
    name = path.name.lower()
    if not name.endswith(FILES):
        raise ValueError(
            f"rows is {_short(str(path))}, a single string: pass a list of rows, or the path of a file that ends in "
            f"{', '.join(FILES)}."
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}; the current folder is {str(Path.cwd())!r}.")
    if name.endswith(".parquet"):
        return enumerate(_parquet_rows(path))
    return _json_lines(_lines(path)) if name.endswith((".jsonl", ".jsonl.gz")) else _json_rows(path)


def _parquet_rows(path: Path) -> Iterator[dict]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=AT_ONCE):
                yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{str(path)!r} cannot be read as a parquet file: {reason}") from None


def _lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[str]:
    """The lines of a text file, also of a compressed one; a small one of these can hold a line without end."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        # A stray byte becomes U+FFFD, and is then reported with its row.
        with opened(path, "rt", encoding="utf-8-sig", errors="replace") as file:
            for line in iter(lambda: file.readline(longest), ""):
                if len(line) == longest:
                    raise ValueError(f"{str(path)!r} has a line of {longest:,} characters or more: no row is so long.")
                yield line
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{str(path)!r} cannot be read to its end: {error}.") from None


def _json_lines(lines: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """One row a line; empty lines are none. Of a line that cannot be read, what is to be said of it."""
    for place, line in enumerate(lines):
        if line.strip():
            yield place, _json_row(line, place + 1)


def _json_row(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadPair("broken_json", f"{number} ({getattr(error, 'msg', type(error).__name__)})")


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """A file with one list of rows; the Hub also calls files of JSON lines .json."""
    lines = list(_lines(path, LONGEST_JSON))
    try:
        value = json.loads("".join(lines))
    except (ValueError, RecursionError) as error:
        if "".join(lines).lstrip().startswith("["):
            raise ValueError(f"{str(path)!r} is no valid JSON: {error}.") from None
        return _json_lines(lines)
    if isinstance(value, Mapping) and "chosen" in value:  # JSON lines, of which there is one
        return enumerate([value])
    if not isinstance(value, list):
        raise ValueError(f"{str(path)!r} holds {_short(value)}; it must be a list of rows, or one row a line.")
    return enumerate(value)


# ----------------------------------------------------------------------------------------------- splitting and swapping


def split_by_prompt(pairs: Iterable[Pair], share: float = 0.1, seed: int = 0) -> tuple[list[Pair], list[Pair]]:
    """Split pairs for training and evaluation; all pairs of a prompt go to the same side.

    Otherwise the evaluation would ask for what was trained. Prompts that differ only in white space or in upper and
    lower case count as one. On which side a pair is does not depend on the order of the pairs.

    Args:
        pairs: to be split.
        share: of the prompts, for evaluation; above 0, below 1. At least one prompt is on each side.
        seed: another one splits otherwise.

    Returns:
        The pairs to train on and those to evaluate on, both in the order they came in.

    Raises:
        ValueError: a share outside its range, or fewer than two prompts.

    Examples:
        >>> pairs = [Pair(X, " a", response) for X in ("one", "two") for response in (" b", " c")]
        >>> train, held_out = split_by_prompt(pairs, share=0.5)
        >>> len(train), len(held_out), {pair.prompt for pair in train} & {pair.prompt for pair in held_out}
        (2, 2, set())
    """
    pairs = list(pairs)
    held = _held_out([pair.prompt for pair in pairs], share, seed)
    return (
        [pair for pair, is_held in zip(pairs, held, strict=True) if not is_held],
        [pair for pair, is_held in zip(pairs, held, strict=True) if is_held],
    )


def _held_out(prompts: Sequence[str], share: float, seed: int) -> list[bool]:
    """For each prompt, whether it is for evaluation."""
    require(is_finite(share) and 0 < share < 1, "share", share, "a number above 0 and below 1")
    check_whole("seed", seed, at_least=0)
    keys = [_plain(prompt).casefold() for prompt in prompts]
    different = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    if len(different) < 2:
        raise ValueError(
            f"there are {len(keys)} pairs of {len(different)} prompts, and a prompt goes to one side: pass pairs of at "
            "least two."
        )
    count = min(max(round(share * len(different)), 1), len(different) - 1)
    held = set(different[:count])
    return [key in held for key in keys]


def noisy_labels(pairs: Iterable[Pair], share: float, seed: int = 0) -> list[Pair]:
    """Turn the preference of a share of the pairs round, as if they had been labelled wrongly.

    Args:
        pairs: right ones.
        share: from 0 to 1; the nearest whole number of pairs is swapped.
        seed: which ones.

    Returns:
        As many pairs, in the same order.

    Raises:
        ValueError: a share outside its range.

    Examples:
        >>> noisy_labels([Pair("The film is", " good.", " bad.")], share=1.0)
        [Pair(prompt='The film is', chosen=' bad.', rejected=' good.')]
    """
    pairs = list(pairs)
    swap = _to_swap(len(pairs), share, seed)
    return [pair.swapped() if is_wrong else pair for pair, is_wrong in zip(pairs, swap, strict=True)]


def _to_swap(count: int, share: float, seed: int) -> list[bool]:
    """Exactly round(share · count) times True, at places drawn at random."""
    require(is_finite(share) and 0 <= share <= 1, "share", share, "a number from 0 to 1")
    check_whole("seed", seed, at_least=0)
    places = np.random.default_rng(seed).permutation(count)
    return (places < round(share * count)).tolist()


# ----------------------------------------------------------------------------------------------- pairs drawn and judged


@dataclass(frozen=True)
class JudgedPairs:
    """What `judged_pairs` drew: at most one pair a prompt.

    Attributes:
        pairs: ranked by the judge.
        rewards: (r_w, r_l) of each pair, the judge's log-odds.
        ended: whether the chosen and the rejected response came to EOS, for each pair. TRL puts an end token after
            every response; where this is False it must not stay, or the policy learns to stop after so many tokens.
        left_out: reason → prompts whose two rollouts make no pair.
    """

    pairs: tuple[Pair, ...] = field(repr=False)
    rewards: tuple[tuple[float, float], ...] = field(repr=False)
    ended: tuple[tuple[bool, bool], ...] = field(repr=False)
    left_out: dict[str, int]

    def dataset(self) -> Dataset:
        """Columns prompt, chosen, rejected and `ENDED`, as `dpo.training` takes them."""
        texts = {name: [getattr(pair, name) for pair in self.pairs] for name in COLUMNS}
        return _dataset(texts | {name: [both[side] for both in self.ended] for side, name in enumerate(ENDED)})

    def split(self, share: float = 0.1, seed: int = 0) -> tuple[JudgedPairs, JudgedPairs]:
        """`split_by_prompt`, with rewards and `ended` kept. What was left out is counted in neither."""
        held = _held_out([pair.prompt for pair in self.pairs], share, seed)
        return self._where([not is_held for is_held in held]), self._where(held)

    def with_noise(self, share: float, seed: int = 0) -> JudgedPairs:
        """`noisy_labels`, with rewards and `ended` swapped along."""
        swap = _to_swap(len(self.pairs), share, seed)
        return replace(
            self,
            pairs=tuple(noisy_labels(self.pairs, share, seed)),
            rewards=tuple(both[::-1] if wrong else both for both, wrong in zip(self.rewards, swap, strict=True)),
            ended=tuple(both[::-1] if wrong else both for both, wrong in zip(self.ended, swap, strict=True)),
        )

    def _where(self, wanted: Sequence[bool]) -> JudgedPairs:
        parts = [
            tuple(value for value, is_wanted in zip(values, wanted, strict=True) if is_wanted)
            for values in (self.pairs, self.rewards, self.ended)
        ]
        return JudgedPairs(*parts, left_out={})

    def __str__(self) -> str:
        """A small table."""
        return _text_table(self._headline(), self._head(), self._lines())

    def _repr_html_(self) -> str:
        return no_formulas(_html_table(self._headline(), self._head(), self._lines()))

    def _headline(self) -> str:
        total = len(self.pairs) + sum(self.left_out.values())
        return _("Prompts: {total}. Pairs: {pairs}.").format(total=total, pairs=len(self.pairs))

    def _head(self) -> list[str]:
        return [_("why there is no pair"), _("prompts")]

    def _lines(self) -> list[list[str]]:
        return [[_in_words(reason), str(count)] for reason, count in self.left_out.items()]


def judged_pairs(
    policy: Any,
    tokenizer: PreTrainedTokenizerBase,
    judge: Pipeline,
    prompts: Sequence[str | Sequence[int]],
    *,
    label: str = "POSITIVE",
    max_new_tokens: int = 24,
    seed: int = 0,
    batch_size: int = 64,
    least_difference: float = 0.0,
    temperature: float = 1.0,
) -> JudgedPairs:
    """Draw two rollouts for each prompt and let a judge say which one is better.

    The same seed and batch size give the same pairs; torch's global generator is as it was afterwards.

    Args:
        policy: π, a causal language model, with a value head or without.
        tokenizer: of the policy.
        judge: a text-classification pipeline; it sees prompt and response as one text.
        prompts: texts or token ids.
        label: the judge's label that is wanted; a response's reward is its log-odds.
        max_new_tokens: longest response.
        seed: of the draws.
        batch_size: responses drawn and judged together.
        least_difference: of the two rewards; closer ones make no pair. Ties never do.
        temperature: τ of the draws.

    Returns:
        The pairs, their rewards, and how many prompts were left out for which reason.

    Raises:
        ValueError: an argument outside its range, no prompts, or one that does not fit the model's context.

    Source: Rafailov et al. 2023, section 6, where IMDB's prefixes are continued and ranked by a sentiment classifier.
    """
    check_whole("max_new_tokens", max_new_tokens, at_least=1)
    check_whole("batch_size", batch_size, at_least=1)
    check_whole("seed", seed, at_least=0)
    require(is_finite(temperature) and temperature > 0, "temperature", temperature, "a number above 0")
    enough = is_finite(least_difference) and least_difference >= 0
    require(enough, "least_difference", least_difference, "a finite number, at least 0")
    if isinstance(prompts, str) or len(prompts) == 0:
        raise ValueError(f"prompts is {prompts!r}: pass a list of at least one prompt.")
    given = [tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt for prompt in prompts]
    queries = [torch.tensor(check_prompt(policy, ids, max_new_tokens)) for ids in given for _ in range(2)]
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed, "batch_size": batch_size}
    drawn = draw_responses(policy, tokenizer, queries, **options)
    rollouts = [_rollout(tokenizer, *both) for both in zip(queries, drawn, strict=True)]
    texts = [prompt + response for prompt, response, _ended in rollouts]
    with torch.random.fork_rng():  # a pipeline's data loader draws a number
        rewards = log_odds(judge, texts, label, batch_size)
    again = tokenizer(texts, verbose=False).input_ids
    stable = [ids[: len(query)] == query.tolist() for ids, query in zip(again, queries, strict=True)]
    return _ranked(rollouts, rewards, stable, least_difference)


Rollout = tuple[str, str, bool]  # prompt, response, whether EOS came


def _rollout(tokenizer: PreTrainedTokenizerBase, query: Tensor, response: Tensor) -> Rollout:
    """Both texts, without special tokens; their seam is found in the text of both, where no space is lost."""
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    prompt, whole = tokenizer.decode(query, **options), tokenizer.decode(torch.cat((query, response)), **options)
    ended = bool(len(response)) and int(response[-1]) == tokenizer.eos_token_id
    return prompt, whole[len(prompt) :], ended


def _ranked(
    rollouts: Sequence[Rollout], rewards: Sequence[float], stable: Sequence[bool], least_difference: float
) -> JudgedPairs:
    """Rollouts 2n and 2n + 1, drawn for one prompt, as a pair with the better one first."""
    pairs, kept_rewards, ended, left_out = [], [], [], Counter()
    for first in range(0, len(rollouts), 2):
        best, worst = sorted((first, first + 1), key=lambda place: -rewards[place])
        pair = Pair(rollouts[best][0], rollouts[best][1], rollouts[worst][1])
        difference = rewards[best] - rewards[worst]
        reason = _why_none(pair, difference, least_difference, stable[best] and stable[worst])
        if reason is not None:
            left_out[reason] += 1
            continue
        pairs.append(pair)
        kept_rewards.append((rewards[best], rewards[worst]))
        ended.append((rollouts[best][2], rollouts[worst][2]))
    counts = {reason: left_out[reason] for reason in REASONS if reason in left_out}
    return JudgedPairs(tuple(pairs), tuple(kept_rewards), tuple(ended), counts)


def _why_none(pair: Pair, difference: float, least_difference: float, stable: bool) -> str | None:
    """Why two rollouts make no pair."""
    try:
        _check_texts(pair)
    except BadPair as bad:
        return bad.reason
    if not stable:
        return "retokenized"
    if difference == 0:
        return "scores_tie"
    return "small_difference" if difference < least_difference else None
