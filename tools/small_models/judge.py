"""The small judge: a DistilBERT-shaped classifier of sentiment, for whole reviews and for fragments of them.

Most of the reviews have no label. An n-gram model, fitted on those that have one, gives each of the others a
probability, and the judge learns from labels and probabilities together. A fragment inherits the target of its review,
softened by what an n-gram model of openings says of the fragment itself: learning to predict that is learning how
likely a review with such a fragment is to be positive, which is what the score of a fragment should mean.

One number a review is little to learn from. The teachers are linear, so they also say what each token adds to the
margin; the layers below the last learn to predict that, and the last learns to add it up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedModel

from . import checkpoint

CLS = 0  # the end-of-text token stands before every text: its last hidden state is what the classifier reads
CONTEXT = 1024  # reviews are long, and the verdict often stands at the end


class Cycle(NamedTuple):
    """Warm-up, and a straight line to zero."""

    steps: int
    peak: float
    whole: int  # one step in so many is of whole reviews
    taught: float  # share of the fragment teacher in a fragment's target; the rest is its review's


@dataclass(frozen=True)
class Recipe:
    """What decides the result. A step is one batch of whole reviews or one of fragments."""

    cycles: tuple[Cycle, ...] = (Cycle(3600, 8e-4, 2, 0.5), Cycle(1600, 5e-4, 6, 0.8))
    tokens_of_whole: int = 8192  # in a batch
    fragments: int = 192  # in a batch
    fragment_lengths: tuple[int, int] = (4, 33)
    share_of_openings: float = 0.6  # of the fragments: those that begin where the review begins
    share_of_labelled: float = 0.35
    contribution_weight: float = 0.5  # of the tokens' squared error, beside the cross-entropy of the verdict
    bag_epochs: int = 2
    embedding_rate: float = 0.25  # of the rate of the rest
    warmup_steps: int = 200
    weight_decay: float = 0.05
    seed: int = 0

    @property
    def steps(self) -> int:
        return sum(cycle.steps for cycle in self.cycles)

    def at(self, step: int) -> tuple[Cycle, int]:
        """The cycle that holds this step, and its steps before this one."""
        place = step
        for cycle in self.cycles:
            if place < cycle.steps:
                return cycle, place
            place -= cycle.steps
        raise IndexError(f"step {step} is after the last of {self.steps} steps")

    def rate(self, step: int) -> float:
        cycle, place = self.at(step)
        return cycle.peak * min(1.0, (place + 1) / self.warmup_steps, 1.0 - place / cycle.steps)


def config() -> DistilBertConfig:
    """3 layers x 256, the vocabulary of the policy."""
    return DistilBertConfig(
        vocab_size=8192,
        dim=256,
        n_layers=3,
        n_heads=8,
        hidden_dim=1024,
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


def bag_embeddings(reviews: list[np.ndarray], targets: np.ndarray, recipe: Recipe, start: torch.Tensor) -> torch.Tensor:
    """(8192, dim) token embeddings of a bag-of-tokens classifier: the quick half of what the judge has to learn.

    It takes the mean of a text's normalised embeddings and one linear layer. An epoch lasts seconds, so what every
    token says on average is known before the slow model begins. It starts from `start`: the policy's embeddings, in
    which tokens of like meaning are already near each other, or random ones where the vocabulary is another.
    """
    torch.manual_seed(recipe.seed)
    size = (start.shape[1],)
    table = torch.nn.Parameter(torch.nn.functional.layer_norm(start.float(), size))
    head = torch.nn.Linear(*size, 1)
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
def make_bag(
    start: torch.nn.Module,
    query: torch.nn.Linear,
    value: torch.nn.Linear,
    output: torch.nn.Linear,
    embeddings: torch.Tensor,
) -> None:
    """Make a fresh model a bag of tokens, from which training departs where order matters.

    With zero queries the last layer's attention is a plain mean, with identities for values and outputs it is passed on
    whole. Fresh weights would pass on a twentieth of it, and the classifier would see little but its own token.
    Positions start as sinusoids (Vaswani et al., 2017, section 3.5), in which "the token before" is the same rotation
    wherever it is.

    Args:
        start: the module that adds `word_embeddings` and `position_embeddings`.
        query, value, output: of the last layer's attention.
        embeddings: (vocabulary, dim), from `bag_embeddings`.
    """
    start.word_embeddings.weight.copy_(0.2 * embeddings)
    places, dim = start.position_embeddings.weight.shape
    angles = torch.arange(places)[:, None] / 10_000 ** (torch.arange(0, dim, 2) / dim)
    start.position_embeddings.weight.copy_(0.1 * torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(places, dim))
    query.weight.zero_()
    torch.nn.init.eye_(value.weight)
    torch.nn.init.eye_(output.weight)


def start_as_bag(model: DistilBertForSequenceClassification, embeddings: torch.Tensor) -> None:
    """`make_bag` of the small judge."""
    attention = model.distilbert.transformer.layer[-1].attention
    make_bag(model.distilbert.embeddings, attention.q_lin, attention.v_lin, attention.out_lin, embeddings)


class Shape(NamedTuple):
    """What `train` needs to know of a judge besides its recipe."""

    name: str  # of its files in the work folder
    build: Callable[[], PreTrainedModel]
    start_as_bag: Callable[[PreTrainedModel, torch.Tensor], None]


SMALL = Shape("judge", lambda: DistilBertForSequenceClassification(config()), start_as_bag)


class Batch(NamedTuple):
    """What one step learns from; B texts of at most T tokens, `CLS` included."""

    ids: torch.Tensor  # (B, T)
    mask: torch.Tensor  # (B, T)
    target: torch.Tensor  # (B,) P(positive)
    contributions: torch.Tensor  # (B, T, teachers), NaN where a teacher says nothing


class Batches:
    """Batches of whole reviews and of fragments; batch `step` depends on the seed and the step alone.

    Args:
        contributions: for each review, (its tokens, teachers), from `teachers.contributions_of_all`.
        fragment_teacher: called with rows and texts of fragments, gives P(positive) of each.
        context: the most tokens the judge reads, `CLS` included.
    """

    def __init__(
        self,
        reviews: list[np.ndarray],
        targets: np.ndarray,
        labelled: np.ndarray,
        contributions: list[np.ndarray],
        recipe: Recipe,
        tokenizer: Tokenizer,
        fragment_teacher: Callable[[np.ndarray, list[str]], np.ndarray],
        context: int = CONTEXT,
    ):
        self.reviews, self.targets, self.contributions = reviews, targets, contributions
        self.recipe, self.tokenizer, self.fragment_teacher = recipe, tokenizer, fragment_teacher
        self.groups = np.flatnonzero(labelled), np.flatnonzero(~labelled)
        self.most = context - 1
        self.lengths = np.array([min(len(r), self.most) for r in reviews])

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.recipe.seed, step])
        cycle, place = self.recipe.at(step)
        if place % cycle.whole == cycle.whole - 1:
            return self._whole(rng)
        return self._fragments(rng, cycle.taught)

    def _draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        labelled = rng.random(count) < self.recipe.share_of_labelled
        return np.where(labelled, rng.choice(self.groups[0], count), rng.choice(self.groups[1], count))

    def _whole(self, rng: np.random.Generator) -> Batch:
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
        return self._batch(rows, [slice(0, self.most)] * len(rows), self.targets[rows])

    def _fragments(self, rng: np.random.Generator, taught: float) -> Batch:
        rows = self._draw(rng, self.recipe.fragments)
        places = []
        for row in rows:
            length = int(rng.integers(*self.recipe.fragment_lengths))
            last = max(1, len(self.reviews[row]) - length + 1)
            start = 0 if rng.random() < self.recipe.share_of_openings else int(rng.integers(last))
            places.append(slice(start, start + length))
        pieces = [self.reviews[row][place].tolist() for row, place in zip(rows, places, strict=True)]
        said = self.fragment_teacher(rows, self.tokenizer.decode_batch(pieces))
        return self._batch(rows, places, (1 - taught) * self.targets[rows] + taught * said)

    def _batch(self, rows: np.ndarray, places: list[slice], targets: np.ndarray) -> Batch:
        ids, mask = pad([self.reviews[row][place] for row, place in zip(rows, places, strict=True)])
        said = torch.full((*ids.shape, self.contributions[0].shape[1]), torch.nan)
        for i, (row, place) in enumerate(zip(rows, places, strict=True)):
            part = torch.from_numpy(self.contributions[row][place].astype(np.float32))
            said[i, 1 : 1 + len(part)] = part
        return Batch(ids, mask, torch.tensor(targets, dtype=torch.float32), said)


def pad(pieces: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Put `CLS` before each piece and pad on the right; ids and attention mask, each (B, T)."""
    width = 1 + max(len(piece) for piece in pieces)
    ids = torch.zeros(len(pieces), width, dtype=torch.long)
    mask = torch.zeros(len(pieces), width, dtype=torch.long)
    for row, piece in enumerate(pieces):
        ids[row, 1 : 1 + len(piece)] = torch.from_numpy(piece.astype(np.int64))
        mask[row, : 1 + len(piece)] = 1
    return ids, mask


def losses(model: PreTrainedModel, reader: torch.nn.Linear, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the verdict, and squared error of what each token adds to the teachers' margins.

    `reader` looks at the states below the last layer: what it finds there, the last layer's `CLS` can add up.
    """
    output = model(input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True)
    margin = (output.logits[:, 1] - output.logits[:, 0]).float()
    verdict = torch.nn.functional.binary_cross_entropy_with_logits(margin, batch.target)
    known = ~batch.contributions.isnan()
    error = reader(output.hidden_states[-2]).float() - batch.contributions.nan_to_num()
    return verdict, error[known].square().mean()


def train(
    work: Path,
    batches: Batches,
    recipe: Recipe,
    embeddings: torch.Tensor,
    validation: dict[str, tuple[list[np.ndarray], np.ndarray]],
    device: str = "cpu",
    save_every: float = 120.0,
    shape: Shape = SMALL,
) -> PreTrainedModel:
    """Train, or go on from `work/{name}.safetensors`; the bag of tokens starts from `embeddings`, (8192, dim)."""
    torch.manual_seed(recipe.seed)
    model = shape.build().to(device)
    table = model.get_input_embeddings().weight
    reader = torch.nn.Linear(table.shape[1], batches.contributions[0].shape[1]).to(device)
    both = torch.nn.ModuleDict({"judge": model, "reader": reader})
    matrices = [p for p in both.parameters() if p.ndim == 2 and p is not table]
    vectors = [p for p in both.parameters() if p.ndim != 2]
    groups = [
        {"params": [table], "share": recipe.embedding_rate, "weight_decay": 0.0},
        {"params": matrices, "share": 1.0, "weight_decay": recipe.weight_decay},
        {"params": vectors, "share": 1.0, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    kept, log = work / f"{shape.name}.safetensors", work / f"{shape.name}_log.jsonl"
    state = {"step": 0, "seconds": 0.0}
    if kept.exists():
        state = checkpoint.load(kept, both, [optimizer])
    else:
        shape.start_as_bag(model, bag_embeddings(batches.reviews, batches.targets, recipe, embeddings))
    began = time.monotonic() - state["seconds"]
    last_save = time.monotonic()
    bar = tqdm(total=recipe.steps, initial=state["step"], unit="step", mininterval=10)
    model.train()
    while state["step"] < recipe.steps:
        step = state["step"]
        torch.manual_seed(hash((recipe.seed, step)) % 2**31)  # dropout, so that a resumed run is the same run
        rate = recipe.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * rate
        batch = Batch(*(t.to(device) for t in batches(step)))
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            verdict, said = losses(model, reader, batch)
        loss = verdict + recipe.contribution_weight * said
        loss.backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state["step"] += 1
        bar.update()
        if state["step"] % 600 == 0:
            row = {"step": state["step"], "loss": round(verdict.item(), 4), "tokens": round(said.item(), 4)}
            for name, (pieces, labels) in validation.items():
                with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
                    row[name] = round(accuracy(margins(model, pieces), labels), 4)
            row["seconds"] = round(time.monotonic() - began)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if time.monotonic() - last_save > save_every or state["step"] == recipe.steps:
            state["seconds"] = time.monotonic() - began
            checkpoint.save(kept, both, [optimizer], state)
            last_save = time.monotonic()
    facts = asdict(recipe) | {"steps": recipe.steps, "seconds": state["seconds"], "device": device}
    (work / f"{shape.name}_recipe.json").write_text(json.dumps(facts))
    return model.eval()


@torch.no_grad()
def margins(model: PreTrainedModel, pieces: list[np.ndarray], tokens: int = 8192) -> np.ndarray:
    """Logit of POSITIVE minus logit of NEGATIVE, for each piece in the given order; batches of so many `tokens`."""
    training = model.training
    model.eval()
    device, most = next(model.parameters()).device, model.config.max_position_embeddings - 1
    lengths = np.array([min(len(piece), most) + 1 for piece in pieces])
    order, result = np.argsort(-lengths), np.zeros(len(pieces))
    while len(order):
        part, order = np.split(order, [max(1, tokens // lengths[order[0]])])
        ids, mask = pad([pieces[i][:most] for i in part])
        logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float()
        result[part] = (logits[:, 1] - logits[:, 0]).cpu().numpy()
    model.train(training)
    return result


def accuracy(margin: np.ndarray, labels: np.ndarray) -> float:
    return float(((margin > 0) == (labels == 1)).mean())


def calibrate(model: PreTrainedModel, margin: np.ndarray, labels: np.ndarray) -> float:
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
    model: PreTrainedModel, pieces: list[np.ndarray], labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Margins on whole reviews and on openings, with the labels: what one temperature has to fit."""
    both = margins(model, pieces), margins(model, openings(pieces, seed=0))
    return np.concatenate(both), np.concatenate([labels, labels])
