"""Reads a written export again, as its receiver would, and compares it with what was to be written.

An own reading of the published forms, with nothing of verl or OpenRLHF installed:
verl 0.9.1, https://github.com/verl-project/verl: a row needs data_source, a list of messages (role, content), and
reward_model.ground_truth, which reach the reward function with extra_info; an SFT row needs messages.
OpenRLHF 0.11.2, https://github.com/OpenRLHF/OpenRLHF: a row holds texts under the names that the flags give.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from course_helpers.preferences import Pair
from tools.exports.sources import Material

ROLES = ("system", "user", "assistant")


class ExportError(ValueError):
    """A written export is not as it should be; the message names the file, the row and what is wrong."""


def demand(ok: bool, where: str, wrong: str) -> None:
    """Raise an ExportError unless `ok`."""
    if not ok:
        raise ExportError(f"{where}: {wrong}; delete the folder and export again")


def check_messages(messages: object, roles: Sequence[str], where: str) -> None:
    """A list of messages with just these roles in turn, each with a text."""
    demand(isinstance(messages, list), where, "no list of messages")
    for message in messages:
        demand(set(message) == {"role", "content"} and message["role"] in ROLES, where, "a message without its fields")
        demand(isinstance(message["content"], str) and message["content"] != "", where, "a message without a text")
    demand([message["role"] for message in messages] == list(roles), where, f"the roles are not {list(roles)}")


def check_verl_row(row: Mapping[str, Any], where: str) -> None:
    """One row of a parquet file for verl's reinforcement learning."""
    wanted = {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    demand(set(row) == wanted, where, f"the columns are {sorted(row)} and not {sorted(wanted)}")
    demand(isinstance(row["data_source"], str) and row["data_source"] != "", where, "data_source is no text")
    check_messages(row["prompt"], ["user"], where)
    rewarded, extra = row["reward_model"], row["extra_info"]
    demand(isinstance(rewarded.get("ground_truth"), str), where, "reward_model has no ground_truth")
    demand(rewarded.get("style") in ("rule", "model"), where, "reward_model.style is neither rule nor model")
    demand(extra.get("split") in ("train", "test"), where, "extra_info.split is neither train nor test")
    demand(isinstance(extra.get("index"), int) and extra["index"] >= 0, where, "extra_info.index is no count")
    demand(extra.get("prompt") == row["prompt"][0]["content"], where, "extra_info.prompt is not the prompt")


def check_sft_row(row: Mapping[str, Any], where: str) -> None:
    """One row of a parquet file for verl's supervised fine-tuning."""
    demand(set(row) == {"messages"}, where, f"the columns are {sorted(row)} and not ['messages']")
    check_messages(row["messages"], ["user", "assistant"], where)


def check_text_row(columns: Sequence[str]) -> Callable[[Mapping[str, Any], str], None]:
    """A check for one row of texts, with just these columns."""

    def check(row: Mapping[str, Any], where: str) -> None:
        demand(set(row) == set(columns), where, f"the columns are {sorted(row)} and not {sorted(columns)}")
        for name in columns:
            demand(isinstance(row[name], str) and row[name] != "", where, f"{name} is no text")

    return check


check_prompt_row = check_text_row(("datasource", "prompt", "label"))
check_pair_row = check_text_row(("prompt", "chosen", "rejected"))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a parquet file, or of one of JSON lines."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def check_file(path: Path, check: Callable[[Mapping[str, Any], str], None]) -> list[dict[str, Any]]:
    """All rows of a file, each checked.

    Raises:
        ExportError: there are none, or one is not as it should be.
    """
    rows = read_rows(path)
    demand(bool(rows), path.name, "there are no rows")
    for number, row in enumerate(rows):
        check(row, f"{path.name}, row {number}")
    return rows


def check_verl(folder: Path, material: Material) -> None:
    """Check every file of an export for verl, and that prompts and pairs come back as they were."""
    for split, prompts in (("train", material.train), ("test", material.test)):
        rows = check_file(folder / f"{split}.parquet", check_verl_row)
        demand([row["prompt"][0]["content"] for row in rows] == list(prompts), f"{split}.parquet", "other prompts")
    if material.pairs:
        rows = check_file(folder / "sft.parquet", check_sft_row)
        messages = [tuple(message["content"] for message in row["messages"]) for row in rows]
        demand(messages == [(pair.prompt, pair.chosen) for pair in material.pairs], "sft.parquet", "other texts")
        check_pairs(folder / "pairs.parquet", material.pairs)
    check_scripts(folder)


def check_openrlhf(folder: Path, material: Material) -> None:
    """Check every file of an export for OpenRLHF, and that prompts and pairs come back as they were."""
    for name, prompts in (("prompts.jsonl", material.train), ("prompts_test.jsonl", material.test)):
        rows = check_file(folder / name, check_prompt_row)
        demand([row["prompt"] for row in rows] == list(prompts), name, "other prompts")
    if material.pairs:
        check_pairs(folder / "pairs.jsonl", material.pairs)
    check_scripts(folder)


def check_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Check that a file holds just these pairs."""
    rows = check_file(path, check_pair_row)
    demand([Pair(**row) for row in rows] == list(pairs), path.name, "other pairs")


def check_scripts(folder: Path) -> None:
    """Let bash read every script, without running it."""
    for path in sorted(folder.glob("*.sh")):
        read = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
        demand(read.returncode == 0, path.name, f"bash cannot read it: {read.stderr.strip()}")
