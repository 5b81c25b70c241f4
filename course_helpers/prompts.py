"""Prompts: openings of reviews and the length at which each is cut, and questions that are to be answered."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from course_helpers.models import locate, sentences


class LengthSampler:
    """Draws a length from ``low .. high - 1``, all equally likely: the end is excluded, as in ``range``.

    Args:
        low: the smallest length.
        high: one more than the largest length.
        rng: where the draws come from; NumPy's global generator when None, as in TRL, so that a trainer's seed and
            saved state rule them, too.

    Examples:
        >>> length = LengthSampler(4, 8, np.random.default_rng(0))
        >>> sorted({length() for _ in range(100)})  # 8 is excluded
        [4, 5, 6, 7]
    """

    def __init__(self, low: int, high: int, rng: np.random.Generator | None = None):
        """Check the bounds."""
        if not 0 < low < high:
            raise ValueError(f"LengthSampler({low}, {high}): lengths must satisfy 0 < low < high (high is excluded)")
        self.low, self.high = int(low), int(high)
        self.rng = rng

    def __call__(self) -> int:
        """One length in tokens."""
        draw = np.random.randint if self.rng is None else self.rng.integers
        return int(draw(self.low, self.high))


def load_prompts(name: str | Path = "small", minimum_characters: int = 200) -> list[str]:
    """Openings of film reviews, to be cut by a `LengthSampler` and continued by the policy.

    Args:
        name: ``"small"`` (openings written for this course), ``"full"`` or a Hub id (the reviews of its train split),
            or a folder with ``train*.parquet`` files that have a ``text`` column.
        minimum_characters: reviews shorter than this are left out, as in the course. Does not apply to ``"small"``.

    Returns:
        Texts, whole: the cutting is done later.

    Raises:
        LoadError, FileNotFoundError: there is no such data set, or it cannot be had now; see `course_helpers.models`.
        ValueError: it has no column ``text``.
    """
    place, local = locate(name, "reviews")
    if str(name) == "small":
        return json.loads(Path(place).read_text(encoding="utf-8"))["prompts"]
    from datasets import load_dataset

    folder = Path(place)
    if folder.is_dir():
        files = sorted(str(file) for file in folder.rglob("train*.parquet"))
        if not files:
            raise FileNotFoundError(f"{folder} holds no train*.parquet file")
        rows = load_dataset("parquet", data_files=files, split="train")
    else:
        with sentences(place, local, "dataset"):
            rows = load_dataset(place, split="train")
    if "text" not in rows.column_names:
        raise ValueError(f"{place} has the columns {rows.column_names}; expected one called 'text'")
    texts = rows.shuffle(seed=0)["text"]  # the Hub's rows stand in order of their label
    return [text.replace("<br />", "\n") for text in texts if len(text) > minimum_characters]


def question_prompt(context: str | None, question: str) -> str:
    """X of a question: the review if there is one, the question, and the word after which the answer stands.

    Args:
        context: the review that the question is about, or None.
        question: what is asked.

    Returns:
        The text, without the space with which the answer begins.

    Examples:
        >>> print(question_prompt("A fine film.", "Is the film praised?"))
        Review: A fine film.
        Question: Is the film praised?
        Answer:
    """
    review = f"Review: {context}\n" if context else ""
    return f"{review}Question: {question}\nAnswer:"
