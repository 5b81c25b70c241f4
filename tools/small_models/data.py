"""IMDB reviews: reading, cleaning, splitting, tokenizing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 8192
BLOCK = 250  # rows; the files list the reviews of one film next to each other


@dataclass(frozen=True)
class Reviews:
    """Texts with labels (0 negative, 1 positive, -1 unknown) and the part each row belongs to."""

    texts: list[str]
    labels: np.ndarray
    part: np.ndarray  # "train", "calibration" or "held_out"

    def rows(self, part: str, labelled: bool | None = None) -> np.ndarray:
        chosen = self.part == part
        if labelled is not None:
            chosen &= (self.labels >= 0) == labelled
        return np.flatnonzero(chosen)


def clean(text: str) -> str:
    """Turn the line breaks of the source's HTML into newlines."""
    return text.replace("<br />", "\n").replace("\n\n", "\n").strip()


def read_reviews(source: str) -> Reviews:
    """Read `train` and `unsupervised` from a folder of parquet files or from a Hub dataset id."""
    from datasets import load_dataset

    folder = Path(source)
    if folder.is_dir():
        names = ("train", "unsupervised")
        files = {name: sorted(str(f) for f in folder.rglob(f"{name}*.parquet")) for name in names}
        missing = [name for name, found in files.items() if not found]
        if missing:
            raise FileNotFoundError(f"{folder} has no parquet file for {missing}; expected e.g. train.parquet")
        data = load_dataset("parquet", data_files=files)
    else:
        data = load_dataset(source)
    texts, labels, part = [], [], []
    for name, every in (("train", 10), ("unsupervised", 50)):
        rows = data[name]
        texts += [clean(text) for text in rows["text"]]
        labels += list(rows["label"])
        part += split_names(len(rows), every)
    return Reviews(texts, np.array(labels), np.array(part))


def split_names(count: int, every: int) -> list[str]:
    """Name the part of each row, in whole blocks.

    A film has up to 30 reviews and they stand together, so whole blocks are held out: rows drawn one by one would leave
    reviews of the same film on both sides.
    """
    names = {3: "held_out", 7: "calibration"}
    return [names.get((row // BLOCK) % every, "train") for row in range(count)]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE, GPT-2's shape at a sixth of its size: no text is ever unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[np.ndarray]:
    """Token ids of each text, without special tokens."""
    return [np.array(e.ids, dtype=np.uint16) for e in tokenizer.encode_batch(texts, add_special_tokens=False)]


def stream(reviews: list[np.ndarray]) -> np.ndarray:
    """One long sequence, each review preceded by the end-of-text token (id 0)."""
    zero = np.zeros(1, dtype=np.uint16)
    return np.concatenate([piece for ids in reviews for piece in (zero, ids)])
