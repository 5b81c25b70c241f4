"""The second judge: it never trains a policy, it only measures.

A policy that is trained on a judge learns to please that judge, its mistakes included. To see how much of a reward is
mistake takes a judge that the policy was not trained on and that makes other mistakes (Gao, Schulman and Hilton, 2023,
"Scaling Laws for Reward Model Overoptimization", where a larger model plays that part). This one learns from the labels
of the reviews that the first judge's training left out, and from teachers fitted on those; it has another shape, and
reads lower-case words through a vocabulary of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertConfig, BertForSequenceClassification

from . import data, judge, teachers

CONTEXT = 512
VOCAB_SIZE = 8192
SPECIAL = ("[CLS]", "[PAD]", "[UNK]")  # the first has id 0, which `judge.pad` puts before every text
OPENING = 24  # tokens
RECIPE = judge.Recipe(
    cycles=(judge.Cycle(700, 1.2e-3, 4, 0.5), judge.Cycle(600, 8e-4, 10, 0.8)),
    tokens_of_whole=4096,
    fragments=128,
    share_of_labelled=0.2,
    bag_epochs=3,
    warmup_steps=100,
    seed=1,
)


class Rows(NamedTuple):
    """Which reviews do what; none of them gave the first judge's training a label."""

    labelled: np.ndarray
    unlabelled: np.ndarray  # their targets come from this judge's teachers
    validation: np.ndarray


def own_rows(reviews: data.Reviews) -> Rows:
    """The labelled reviews that the first judge's training left out, and all those that have no label.

    The last block of each label in each of the two parts is kept for validation: whole blocks, because the reviews of
    one film stand together.
    """
    left_out = [reviews.rows(part, labelled=True) for part in ("held_out", "calibration")]
    kept = [rows[reviews.labels[rows] == label][-data.BLOCK :] for rows in left_out for label in (0, 1)]
    validation = np.sort(np.concatenate(kept))
    labelled = np.setdiff1d(np.concatenate(left_out), validation)
    return Rows(labelled, np.flatnonzero(reviews.labels < 0), validation)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Lower-cased words cut into pieces (WordPiece, as BERT's): accents and capitals go unseen, rare signs unknown."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB_SIZE, min_frequency=2, limit_alphabet=200, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def config() -> BertConfig:
    """2 layers x 192, and BERT's pooler."""
    return BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        num_hidden_layers=2,
        num_attention_heads=6,
        intermediate_size=768,
        max_position_embeddings=CONTEXT,
        type_vocab_size=1,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.0,
        pad_token_id=SPECIAL.index("[PAD]"),
        num_labels=2,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
        attn_implementation="eager",
    )


def start_as_bag(model: BertForSequenceClassification, embeddings: torch.Tensor) -> None:
    """`judge.make_bag` of this shape."""
    attention = model.bert.encoder.layer[-1].attention
    reads = attention.self
    judge.make_bag(model.bert.embeddings, reads.query, reads.value, attention.output.dense, embeddings)


SHAPE = judge.Shape("second_judge", lambda: BertForSequenceClassification(config()), start_as_bag)


def random_embeddings() -> torch.Tensor:
    """(8192, 192): no model knows this vocabulary yet."""
    generator = torch.Generator().manual_seed(RECIPE.seed)
    return torch.randn(VOCAB_SIZE, config().hidden_size, generator=generator)


def cut(policys: Tokenizer, texts: list[str], low: int, high: int, anywhere: bool = False, seed: int = 1) -> list[str]:
    """`low` to `high` tokens of each text, its first or any, as the policy counts them: it writes what is judged."""
    rng = np.random.default_rng(seed)
    pieces = []
    for encoding in policys.encode_batch(texts, add_special_tokens=False):
        length = int(rng.integers(low, high + 1))
        start = int(rng.integers(max(1, len(encoding.ids) - length + 1))) if anywhere else 0
        pieces.append(encoding.ids[start : start + length])
    return policys.decode_batch(pieces)


def make_batches(reviews: data.Reviews, rows: Rows, tokenizer: Tokenizer, recipe: judge.Recipe) -> judge.Batches:
    """Fit the teachers on the labelled reviews, let them judge the others, and get all of it ready to learn from."""
    texts = [reviews.texts[row] for row in np.concatenate(rows[:2])]
    count, labels = len(rows.labelled), reviews.labels[rows.labelled]
    of_reviews = teachers.ReviewTeacher(texts[:count], labels)
    targets = np.concatenate([labels, of_reviews(texts[count:])])
    encoded = data.encode(tokenizer, texts)
    of_fragments = teachers.FragmentTeacher(
        tokenizer.decode_batch([ids[:OPENING].tolist() for ids in encoded]), targets
    )
    said = teachers.contributions_of_all(tokenizer, texts, of_reviews, of_fragments, CONTEXT - 1)
    known = np.arange(len(texts)) < count
    return judge.Batches(encoded, targets, known, said, recipe, tokenizer, of_fragments, CONTEXT)


def train(
    reviews: data.Reviews, policys: Tokenizer, work: Path, device: str, recipe: judge.Recipe = RECIPE
) -> BertForSequenceClassification:
    """Tokenizer, teachers, judge, temperature; goes on from what it finds in `work`."""
    rows, kept = own_rows(reviews), work / "second_tokenizer.json"
    if not kept.exists():
        chosen = np.concatenate([rows.labelled, rows.unlabelled[1::2]])
        train_tokenizer([reviews.texts[row] for row in chosen]).save(str(kept))
    tokenizer = Tokenizer.from_file(str(kept))
    texts, labels = [reviews.texts[row] for row in rows.validation], reviews.labels[rows.validation]
    pieces = data.encode(tokenizer, texts)
    openings = data.encode(tokenizer, cut(policys, texts, OPENING, OPENING))
    validation = {"whole": (pieces, labels), "opening_24": (openings, labels)}
    batches = make_batches(reviews, rows, tokenizer, recipe)
    model = judge.train(work, batches, recipe, random_embeddings(), validation, device, shape=SHAPE)
    temperature = judge.calibrate(model, *judge.mixed_margins(model, pieces, labels))
    print(f"second judge: temperature {temperature:.2f}")
    return model
