"""What an export is made of: prompts, pairs, the judge and the policy, read with the course's own loaders and checked.

Nothing is mended by guessing. A prompt whose text would become other tokens than those it was cut to is left out and
counted; a text that the receiving program would read otherwise than it stands stops the export with a sentence.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from course_helpers.checks import check_whole
from course_helpers.models import load_judge, load_policy, locate
from course_helpers.preferences import SURROGATE, Pair, judged_pairs, validate_pairs
from course_helpers.prompts import LengthSampler, load_prompts

DATA_SOURCE = "course/film-reviews"
COPIED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")  # of a model's folder: no pickle, no code
# A base model has no chat template, and its prompt is no message: content alone, and an end token after a response.
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Material:
    """All that an export is written from.

    Attributes:
        train: prompts to train on.
        test: prompts kept apart.
        pairs: preference pairs, or none.
        ends: whether a pair's responses are whole, so that an end token belongs after each; drawn ones may be cut off.
        policy: a Hub id, or "policy" for the folder beside the export's files.
        policy_folder: what "policy" is copied from, or None.
        judge: a Hub id, or "judge" likewise.
        judge_folder: what "judge" is copied from, or None.
        tokenizer: the policy's.
        label: the judge's label whose log-odds is the reward.
        query_tokens: the longest prompt.
        response_tokens: the longest response.
        left_out: reason → rows that were left out.
    """

    train: tuple[str, ...] = field(repr=False)
    test: tuple[str, ...] = field(repr=False)
    pairs: tuple[Pair, ...] = field(repr=False)
    ends: bool
    policy: str
    policy_folder: Path | None
    judge: str
    judge_folder: Path | None
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    label: str
    query_tokens: int
    response_tokens: int
    left_out: dict[str, int]


def cut_prompts(
    prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, low: int, high: int, seed: int
) -> tuple[list[str], int]:
    """The first tokens of each prompt, as text that becomes just these tokens again.

    Args:
        prompts: whole openings.
        tokenizer: the policy's.
        low: the fewest tokens.
        high: one more than the most tokens, as in `LengthSampler`.
        seed: of the lengths.

    Returns:
        The cut texts, and how many prompts were left out: too short, or cut where their text would become other tokens.
    """
    lengths = LengthSampler(low, high, np.random.default_rng(seed))
    kept = []
    for prompt in prompts:
        length = lengths()  # drawn for every prompt, so that leaving one out changes no other
        ids = tokenizer(prompt, verbose=False).input_ids[:length]
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if len(ids) == length and text.strip() and tokenizer(text).input_ids == ids:
            kept.append(text)
    return kept, len(prompts) - len(kept)


def check_texts(texts: Sequence[str], special_tokens: Sequence[str], what: str) -> None:
    """Refuse texts that the receiving program could not read as they stand.

    Args:
        texts: to be exported.
        special_tokens: how the policy writes end and padding; within a text they would end it.
        what: what the texts are, for the message.

    Raises:
        ValueError: there is none, one is empty, cannot be encoded, or holds a special token.
    """
    if not texts:
        raise ValueError(f"there are no {what}: at least one is needed; give more prompts, or others")
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{what}, row {row}: {text!r} is no text; leave it out")
        if SURROGATE.search(text):
            raise ValueError(f"{what}, row {row}: half a character (a lone surrogate) cannot be encoded; mend the text")
        for token in special_tokens:
            if token in text:
                raise ValueError(f"{what}, row {row} holds {token!r}, which ends a text; leave the row out, or mend it")


def read_pairs(table: Path, tokenizer: PreTrainedTokenizerBase, max_length: int) -> tuple[list[Pair], dict[str, int]]:
    """The pairs of a table that training can use, and how many were left out for which reason."""
    report = validate_pairs(table, tokenizer, max_length)
    reasons = [problem.reason for problem in report.problems]
    return list(report.pairs), {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def model_place(name: str, role: str) -> tuple[str, Path | None]:
    """How an export names a model, and the folder to copy it from: "small" and folders travel along, Hub ids do not."""
    place, _local = locate(name, role)
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return place, None
    if not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds no .safetensors file; save the {role} with save_pretrained")
    return role, folder


def gather(arguments: argparse.Namespace) -> Material:
    """Everything the command line asks for (`parser` says what that is)."""
    check_whole("held-out", arguments.held_out, at_least=1)
    tokenizer, context = tokenizer_and_context(arguments.policy)
    special = special_tokens(tokenizer)
    openings = load_prompts(arguments.prompts)[: arguments.count]
    cut, short = cut_prompts(openings, tokenizer, arguments.low, arguments.high, arguments.seed)
    if len(cut) <= arguments.held_out:
        raise ValueError(f"{len(cut)} prompts, {arguments.held_out} of them held out: none is left; hold out fewer")
    train, test = cut[: -arguments.held_out], cut[-arguments.held_out :]
    check_texts(train + test, special, "prompts")
    pairs, left_out = gather_pairs(arguments, train, tokenizer, context)
    if arguments.pairs:
        check_texts([text for pair in pairs for text in pair], special, "texts of pairs")
    check_label(arguments.judge, arguments.label)
    places = (*model_place(arguments.policy, "policy"), *model_place(arguments.judge, "judge"))
    query_tokens = arguments.high - 1
    if query_tokens + arguments.response_tokens > context:
        raise ValueError(
            f"{query_tokens} tokens of a prompt and {arguments.response_tokens} of a response exceed the policy's "
            f"context of {context}; lower high or response-tokens"
        )
    counts = {"too short, or its text becomes other tokens": short} if short else {}
    lengths = (query_tokens, arguments.response_tokens)
    texts = (tuple(train), tuple(test), tuple(pairs), arguments.pairs != "draw")
    return Material(*texts, *places, tokenizer, arguments.label, *lengths, left_out=counts | left_out)


def gather_pairs(
    arguments: argparse.Namespace, prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, context: int
) -> tuple[list[Pair], dict[str, int]]:
    """The pairs of a table, or drawn and judged, or none; and how many were left out for which reason."""
    if not arguments.pairs:
        return [], {}
    if arguments.pairs != "draw":
        return read_pairs(Path(arguments.pairs), tokenizer, context)
    policy, _tokenizer = load_policy(arguments.policy)
    options = {"label": arguments.label, "max_new_tokens": arguments.response_tokens, "seed": arguments.seed}
    drawn = judged_pairs(policy, tokenizer, load_judge(arguments.judge), prompts, **options)
    return list(drawn.pairs), drawn.left_out


def tokenizer_and_context(name: str) -> tuple[PreTrainedTokenizerBase, int]:
    """The policy's tokenizer and how many tokens it can see, without loading its weights."""
    place, local = locate(name, "policy")
    own = {"local_files_only": local, "trust_remote_code": False}
    context = AutoConfig.from_pretrained(place, **own).max_position_embeddings
    return AutoTokenizer.from_pretrained(place, **own), context


def check_label(judge: str, label: str) -> None:
    """Require a label that the judge knows."""
    place, local = locate(judge, "judge")
    labels = AutoConfig.from_pretrained(place, local_files_only=local, trust_remote_code=False).label2id
    if label not in labels:
        raise ValueError(f"the judge has no label {label!r}; choose one of {sorted(labels)}")


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """How the policy's tokenizer writes its special tokens."""
    return sorted(set(tokenizer.all_special_tokens))


def write_shared(material: Material, folder: Path) -> None:
    """Write what both exports hold: the models that travel along, and the reward function."""
    for name, source in ((material.policy, material.policy_folder), (material.judge, material.judge_folder)):
        if source is not None:
            copy_model(source, folder / name)
    shutil.copyfile(Path(__file__).with_name("reward.py"), folder / "reward.py")
    settings = {"judge": material.judge, "label": material.label, "special_tokens": special_tokens(material.tokenizer)}
    (folder / "reward.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def copy_model(source: Path, target: Path) -> None:
    """Copy a model's weights, settings and tokenizer; whatever else lies in its folder stays there."""
    target.mkdir()
    for pattern in COPIED:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)


def write_json_lines(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """One row a line, in ASCII: no character of a text can be taken for the end of a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")


def export(
    arguments: argparse.Namespace, write: Callable[[Material, Path], None], check: Callable[[Path, Material], None]
) -> Material:
    """Gather, write, read again and check, and say on standard output what was written.

    Args:
        arguments: of `parser`.
        write: writes the material into the folder.
        check: raises a ValueError if what was written is not the material.

    Returns:
        What was exported.
    """
    folder = new_folder(arguments.folder)
    material = gather(arguments)
    write(material, folder)
    check(folder, material)
    print(f"{len(material.train)} prompts to train on, {len(material.test)} to test, {len(material.pairs)} pairs")
    for reason, count in material.left_out.items():
        print(f"left out: {count}, {reason}")
    print(f"checked: {folder}")
    return material


def new_folder(path: Path) -> Path:
    """Make the export's folder.

    Raises:
        ValueError: something is there already, or its name has signs that the receiving programs read as their own.
    """
    path = path.expanduser().resolve()
    if re.search(r"[^A-Za-z0-9_./-]", str(path)):
        raise ValueError(
            f"{path}: only letters, digits and _ . / - pass unchanged through the command lines; rename it"
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is not empty: give a new folder, or empty it")
    path.mkdir(parents=True, exist_ok=True)
    return path


def parser(description: str) -> argparse.ArgumentParser:
    """The command line both exports share."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folder", type=Path, help="to be written; new or empty")
    made.add_argument("--policy", default="openai-community/gpt2-large", help="small, full, a Hub id, a folder")
    made.add_argument("--judge", default="full", help="small, full, a Hub id, a folder")
    made.add_argument("--label", default="POSITIVE", help="the judge's label whose log-odds is the reward")
    made.add_argument("--prompts", default="full", help="small, full, a Hub id, a folder of train*.parquet")
    made.add_argument("--count", type=int, default=25_000, help="openings read, at most")
    made.add_argument("--held-out", type=int, default=80, help="the last prompts, kept apart for testing")
    made.add_argument("--low", type=int, default=2, help="the fewest tokens of a prompt")
    made.add_argument("--high", type=int, default=9, help="one more than the most tokens of a prompt")
    made.add_argument("--response-tokens", type=int, default=48, help="the longest response")
    made.add_argument("--pairs", help="a table of preference pairs (.jsonl, .json, .parquet), or draw")
    made.add_argument("--seed", type=int, default=0)
    return made
