"""The small judge: a DistilBERT-shaped classifier of sentiment, for whole reviews and for fragments of them.

Most of the reviews have no label. An n-gram model, fitted on those that have one, gives each of the others a
probability, and the judge learns from labels and probabilities together. A fragment inherits the target of its review:
learning to predict that is learning how likely a review with such a fragment is to be positive, which is what the score
of a fragment should mean.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from . import checkpoint

CLS = 0  # the end-of-text token stands before every text: its last hidden state is what the classifier reads
CONTEXT = 1024  # reviews are long, and the verdict often stands at the end


@dataclass(frozen=True)
class Recipe:
    """What decides the result. A step is one batch of whole reviews or one of fragments."""

    # Steps, peak rate, and one step in how many is of whole reviews.
    cycles: tuple[tuple[int, float, int], ...] = ((5500, 1e-3, 2), (3500, 6e-4, 2))
    tokens_of_whole: int = 8192  # in a batch
    fragments: int = 192  # in a batch
    fragment_lengths: tuple[int, int] = (4, 33)
    share_of_openings: float = 0.6  # of the fragments: those that begin where the review begins
    fragment_teacher_from: int = 5500  # step; from there on a fragment's target is half what `FragmentTeacher` says
    share_of_labelled: float = 0.35
    bag_epochs: int = 2
    embedding_rate: float = 0.25  # of the rate of the rest
    warmup_steps: int = 200
    weight_decay: float = 0.05
    seed: int = 0

    @property
    def steps(self) -> int:
        return sum(length for length, _, _ in self.cycles)

    def at(self, step: int) -> tuple[float, bool]:
        """Learning rate (in each cycle a warm-up and a straight line to zero), and whether reviews are whole."""
        place = step
        for length, peak, whole in self.cycles:
            if place < length:
                rate = peak * min(1.0, (place + 1) / self.warmup_steps, 1.0 - place / length)
                return rate, step % whole == whole - 1
            place -= length
        raise IndexError(f"step {step} is after the last of {self.steps} steps")


def config() -> DistilBertConfig:
    """2 layers x 128, the vocabulary of the policy."""
    return DistilBertConfig(
        vocab_size=8192,
        dim=128,
        n_layers=2,
        n_heads=4,
        hidden_dim=512,
        max_position_embeddings=CONTEXT,
        dropout=0.1,
        attention_dropout=0.0,
        seq_classif_dropout=0.1,
        pad_token_id=0,
        num_labels=2,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
        attn_implementation="eager",  # twice as fast as fused attention on a CPU at these sizes
    )


def teacher_probabilities(
    texts: list[str], labels: list[int], unlabelled: list[str], seen: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """P(positive) of an n-gram logistic regression: for `unlabelled`, and for `seen` (to score the teacher itself).

    Each n-gram counts by its naive Bayes log-odds (Wang and Manning, 2012, "Baselines and Bigrams"): more accurate than
    tf-idf on these reviews, 0.905 against 0.892 on the held-out ones.
    """
    from scipy.sparse import diags
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import normalize

    words = CountVectorizer(ngram_range=(1, 3), min_df=3, token_pattern=r"\w+|[!?]", binary=True, dtype=np.float32)
    present, positive = words.fit_transform(texts), np.array(labels) == 1
    counts = [np.asarray(present[side].sum(axis=0)).ravel() + 1.0 for side in (positive, ~positive)]
    log_odds = diags((np.log(counts[0] / counts[0].sum()) - np.log(counts[1] / counts[1].sum())).astype(np.float32))
    model = LogisticRegression(C=10.0, solver="liblinear").fit(normalize(present @ log_odds), positive)
    answers = (model.predict_proba(normalize(words.transform(part) @ log_odds))[:, 1] for part in (unlabelled, seen))
    return next(answers), next(answers)


class FragmentTeacher:
    """P(positive) of a fragment by itself, from n-gram models of openings.

    That a fragment comes from a positive review says little about the fragment. What n-grams of many openings say is
    an average over many reviews, and so a calmer target. A review is left to the model that was fitted without it.

    Args:
        openings: the first tokens of each review, as text.
        targets: P(positive) of each review; the surer it is, the more the review counts.
    """

    def __init__(self, openings: list[str], targets: np.ndarray):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        self.words = TfidfVectorizer(
            ngram_range=(1, 2), min_df=3, sublinear_tf=True, token_pattern=r"\w+|[!?]", dtype=np.float32
        )
        features = self.words.fit_transform(openings)
        self.fold = np.arange(len(openings)) % 2
        self.models = [
            LogisticRegression(C=3.0, solver="liblinear", random_state=0).fit(
                features[others], targets[others] > 0.5, sample_weight=np.abs(2.0 * targets[others] - 1.0)
            )
            for others in (self.fold == 1, self.fold == 0)
        ]

    def __call__(self, rows: np.ndarray, texts: list[str]) -> np.ndarray:
        """P(positive) of fragments of these reviews, (n,)."""
        features = self.words.transform(texts)
        both = np.stack([model.predict_proba(features)[:, 1] for model in self.models])
        return both[self.fold[rows], np.arange(len(rows))]


def bag_embeddings(reviews: list[np.ndarray], targets: np.ndarray, recipe: Recipe) -> torch.Tensor:
    """(8192, dim) token embeddings of a bag-of-tokens classifier: the quick half of what the judge has to learn.

    It takes the mean of a text's normalised embeddings and one linear layer. An epoch lasts seconds, so what every
    token says on average is known before the slow model begins.
    """
    torch.manual_seed(recipe.seed)
    size = (config().dim,)
    table = torch.nn.Parameter(torch.randn(config().vocab_size, *size) * 0.2)
    head = torch.nn.Linear(config().dim, 1)
    optimizer = torch.optim.Adam([table, *head.parameters()], lr=5e-3)
    rng = np.random.default_rng(recipe.seed)
    for _ in tqdm(range(recipe.bag_epochs), desc="bag of tokens", unit="epoch"):
        for rows in np.array_split(rng.permutation(len(reviews)), max(1, len(reviews) // 256)):
            texts = [torch.from_numpy(reviews[row].astype(np.int64)) for row in rows]
            offsets = torch.tensor([0, *(len(text) for text in texts[:-1])]).cumsum(0)
            normal = torch.nn.functional.layer_norm(table, size)
            margin = head(torch.nn.functional.embedding_bag(torch.cat(texts), normal, offsets, mode="mean"))[:, 0]
            target = torch.tensor(targets[rows], dtype=torch.float32)
            torch.nn.functional.binary_cross_entropy_with_logits(margin, target).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return torch.nn.functional.layer_norm(table, size).detach()


@torch.no_grad()
def start_as_bag(model: DistilBertForSequenceClassification, embeddings: torch.Tensor) -> None:
    """Make the fresh model a bag of tokens, from which training departs where order matters.

    With zero queries attention is a plain mean, with identities for values and outputs it is passed on whole. Fresh
    weights would pass on a twentieth of it, and the classifier would see little but its own token.
    """
    model.distilbert.embeddings.word_embeddings.weight.copy_(0.2 * embeddings)
    for layer in model.distilbert.transformer.layer:
        layer.attention.q_lin.weight.zero_()
        torch.nn.init.eye_(layer.attention.v_lin.weight)
        torch.nn.init.eye_(layer.attention.out_lin.weight)


class Batches:
    """Batches of whole reviews and of fragments; batch `step` depends on the seed and the step alone."""

    def __init__(
        self,
        reviews: list[np.ndarray],
        targets: np.ndarray,
        labelled: np.ndarray,
        recipe: Recipe,
        tokenizer: Tokenizer | None = None,
    ):
        self.reviews, self.targets, self.recipe, self.tokenizer = reviews, targets, recipe, tokenizer
        self.teacher: FragmentTeacher | None = None
        self.groups = np.flatnonzero(labelled), np.flatnonzero(~labelled)
        self.lengths = np.array([min(len(r), CONTEXT - 1) for r in reviews])

    def __call__(self, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token ids (B, T), attention mask (B, T), target P(positive) (B,)."""
        rng = np.random.default_rng([self.recipe.seed, step])
        if self.recipe.at(step)[1]:
            return self._whole(rng)
        return self._fragments(rng, taught=self.tokenizer is not None and step >= self.recipe.fragment_teacher_from)

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        labelled = rng.random(count) < self.recipe.share_of_labelled
        return np.where(labelled, rng.choice(self.groups[0], count), rng.choice(self.groups[1], count))

    def _whole(self, rng: np.random.Generator) -> tuple:
        # reviews of similar length share a batch, so that little of it is padding
        pool = self._draw(rng, 256)
        pool = pool[np.argsort(self.lengths[pool])]
        place = rng.integers(len(pool))
        rows = [pool[place]]
        for nearby in pool[place + 1 :]:
            if (len(rows) + 1) * (self.lengths[nearby] + 1) > self.recipe.tokens_of_whole:
                break
            rows.append(nearby)
        for nearby in pool[:place][::-1]:
            if (len(rows) + 1) * (self.lengths[rows].max() + 1) > self.recipe.tokens_of_whole:
                break
            rows.append(nearby)
        return pad([self.reviews[row][: CONTEXT - 1] for row in rows], self.targets[rows])

    def _fragments(self, rng: np.random.Generator, taught: bool) -> tuple:
        rows = self._draw(rng, self.recipe.fragments)
        pieces = []
        for row in rows:
            length = int(rng.integers(*self.recipe.fragment_lengths))
            last = max(1, len(self.reviews[row]) - length + 1)
            start = 0 if rng.random() < self.recipe.share_of_openings else int(rng.integers(last))
            pieces.append(self.reviews[row][start : start + length])
        targets = self.targets[rows]
        if taught:
            self.teacher = self.teacher or FragmentTeacher(self._texts([r[:24] for r in self.reviews]), self.targets)
            targets = 0.5 * (targets + self.teacher(rows, self._texts(pieces)))
        return pad(pieces, targets)

    def _texts(self, pieces: list[np.ndarray]) -> list[str]:
        return self.tokenizer.decode_batch([piece.tolist() for piece in pieces])


def pad(pieces: list[np.ndarray], targets: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Put `CLS` before each piece and pad on the right."""
    width = 1 + max(len(piece) for piece in pieces)
    ids = torch.zeros(len(pieces), width, dtype=torch.long)
    mask = torch.zeros(len(pieces), width, dtype=torch.long)
    for row, piece in enumerate(pieces):
        ids[row, 1 : 1 + len(piece)] = torch.from_numpy(piece.astype(np.int64))
        mask[row, : 1 + len(piece)] = 1
    return ids, mask, torch.tensor(targets, dtype=torch.float32)


def train(
    work: Path,
    batches: Batches,
    recipe: Recipe,
    validation: dict[str, tuple[list[np.ndarray], np.ndarray]],
    device: str = "cpu",
    save_every: float = 120.0,
) -> DistilBertForSequenceClassification:
    """Train, or go on from `work/judge.safetensors`."""
    torch.manual_seed(recipe.seed)
    model = DistilBertForSequenceClassification(config()).to(device)
    embeddings = model.distilbert.embeddings.word_embeddings.weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embeddings]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups = [
        {"params": [embeddings], "share": recipe.embedding_rate, "weight_decay": 0.0},
        {"params": matrices, "share": 1.0, "weight_decay": recipe.weight_decay},
        {"params": vectors, "share": 1.0, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    kept, log = work / "judge.safetensors", work / "judge_log.jsonl"
    state = {"step": 0, "seconds": 0.0}
    if kept.exists():
        state = checkpoint.load(kept, model, [optimizer])
    else:
        start_as_bag(model, bag_embeddings(batches.reviews, batches.targets, recipe))
    began = time.monotonic() - state["seconds"]
    last_save = time.monotonic()
    bar = tqdm(total=recipe.steps, initial=state["step"], unit="step", mininterval=10)
    model.train()
    while state["step"] < recipe.steps:
        step = state["step"]
        torch.manual_seed(hash((recipe.seed, step)) % 2**31)  # dropout, so that a resumed run is the same run
        rate, _ = recipe.at(step)
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * rate
        ids, mask, target = (t.to(device) for t in batches(step))
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            logits = model(input_ids=ids, attention_mask=mask).logits
        margin = (logits[:, 1] - logits[:, 0]).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(margin, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state["step"] += 1
        bar.update()
        if state["step"] % 250 == 0:
            row = {"step": state["step"], "loss": round(loss.item(), 4)}
            for name, (pieces, labels) in validation.items():
                row[name] = round(accuracy(margins(model, pieces), labels), 4)
            row["seconds"] = round(time.monotonic() - began)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if time.monotonic() - last_save > save_every or state["step"] == recipe.steps:
            state["seconds"] = time.monotonic() - began
            checkpoint.save(kept, model, [optimizer], state)
            last_save = time.monotonic()
    facts = asdict(recipe) | {"steps": recipe.steps, "seconds": state["seconds"], "device": device}
    (work / "judge_recipe.json").write_text(json.dumps(facts))
    return model.eval()


@torch.no_grad()
def margins(model: DistilBertForSequenceClassification, pieces: list[np.ndarray], batch: int = 64) -> np.ndarray:
    """Logit of POSITIVE minus logit of NEGATIVE, for each piece in the given order."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    order = np.argsort([len(piece) for piece in pieces])
    result = np.zeros(len(pieces))
    for part in np.array_split(order, max(1, len(order) // batch)):
        ids, mask, _ = pad([pieces[i][: CONTEXT - 1] for i in part], np.zeros(len(part)))
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float()
        result[part] = (logits[:, 1] - logits[:, 0]).cpu().numpy()
    model.train(training)
    return result


def accuracy(margin: np.ndarray, labels: np.ndarray) -> float:
    return float(((margin > 0) == (labels == 1)).mean())


def calibrate(model: DistilBertForSequenceClassification, margin: np.ndarray, labels: np.ndarray) -> float:
    """Divide the logits by the temperature that makes the probabilities fit `labels` best; returns the temperature.

    Guo et al., 2017, "On Calibration of Modern Neural Networks": one number, fitted on reviews that took no part in
    training, folded into the last layer.
    """
    grid = np.exp(np.linspace(np.log(0.25), np.log(4.0), 401))
    losses = [np.logaddexp(0.0, np.where(labels == 1, -margin, margin) / t).mean() for t in grid]
    temperature = float(grid[int(np.argmin(losses))])
    with torch.no_grad():
        model.classifier.weight /= temperature
        model.classifier.bias /= temperature
    return temperature


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean distance between P(positive) and the share of positives, over bins of equal width weighted by their size."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [
        (place == b).mean() * abs(probabilities[place == b].mean() - (labels[place == b] == 1).mean())
        for b in range(bins)
        if (place == b).any()
    ]
    return float(sum(gaps))


def openings(pieces: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """The first 5 to 24 tokens of each review, as the lessons score them."""
    lengths = np.random.default_rng(seed).integers(5, 25, len(pieces))
    return [piece[:length] for piece, length in zip(pieces, lengths, strict=True)]


def mixed_margins(
    model: DistilBertForSequenceClassification, pieces: list[np.ndarray], labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Margins on whole reviews and on openings, with the labels: what one temperature has to fit."""
    both = margins(model, pieces), margins(model, openings(pieces, seed=0))
    return np.concatenate(both), np.concatenate([labels, labels])
