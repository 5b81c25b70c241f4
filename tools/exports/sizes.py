"""Sizes that both exports share, right for gpt2-large on one GPU of 24 GB or more, smaller where there are few rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from course_helpers.preferences import Pair
from tools.exports.scripts import FOLDER

LEARNING_RATE = 1.41e-5  # as in the course's PPO
BETA = 0.1  # what a nat of KL costs, in log-odds


def batch_size(rows: int, largest: int = 256) -> int:
    """Rows a step: a power of two that leaves at least four steps an epoch, where there are as many rows."""
    return min(largest, 2 ** max((rows // 4).bit_length() - 1, 0))


def longest_pair(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest prompt with its response, and four more: an end token, and what a seam may add."""
    texts = [pair.prompt + response for pair in pairs for response in (pair.chosen, pair.rejected)]
    return max(len(ids) for ids in tokenizer(texts, verbose=False).input_ids) + 4


def place(name: str, folder: Path | None) -> str:
    """A model as the scripts name it: a Hub id, or a folder beside them."""
    return name if folder is None else f"{FOLDER}/{name}"
