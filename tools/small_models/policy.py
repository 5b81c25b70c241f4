"""The small policy: a GPT-2 trained on film reviews from random weights."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from . import checkpoint


@dataclass(frozen=True)
class Cycle:
    """Warm-up, constant rate, fall to zero. Fractions are of `tokens`, the length of the cycle."""

    tokens: int
    windows: tuple[tuple[float, int], ...]
    constant_until: float
    peak: float = 1.0  # of the recipe's learning rates


FIRST = Cycle(18_000_000, windows=((0.0, 64), (0.45, 128), (0.75, 256)), constant_until=0.45)
SECOND = Cycle(24_000_000, windows=((0.0, 128), (0.5, 256)), constant_until=0.35, peak=0.8)


@dataclass(frozen=True)
class Recipe:
    """What decides the result. A later cycle goes on from the finished model of the one before."""

    cycles: tuple[Cycle, ...] = (FIRST, SECOND)
    batch_tokens: int = 4096
    share_of_starts: float = 0.3  # of each batch: windows that begin where a review begins
    muon_lr: float = 0.012
    adamw_lr: float = 3e-3
    warmup_steps: int = 50
    seed: int = 0

    @property
    def tokens(self) -> int:
        return sum(cycle.tokens for cycle in self.cycles)

    def at(self, tokens: int) -> tuple[Cycle, int]:
        """The cycle that holds this moment, and the tokens read since it began."""
        for cycle in self.cycles:
            if tokens < cycle.tokens:
                return cycle, tokens
            tokens -= cycle.tokens
        raise ValueError(f"the run is {self.tokens} tokens long")


def config() -> GPT2Config:
    """6 layers x 256: the smallest shape that writes sentences a reader takes for a review's."""
    return GPT2Config(
        vocab_size=8192,
        n_positions=256,
        n_embd=256,
        n_layer=6,
        n_head=8,
        activation_function="gelu_pytorch_tanh",  # GPT-2's GELU in one operation instead of eight
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )


class Windows:
    """Shuffled windows of `width` tokens, each seen once an epoch; the position is `state`.

    Windows that begin with a review go round faster than the others, and in the same order until their epoch ends.
    """

    def __init__(self, tokens: np.ndarray, recipe: Recipe, state: dict | None = None):
        self.tokens, self.recipe = tokens, recipe
        self.starts = np.flatnonzero(tokens == 0)
        self.state = state or {"width": 0, "epoch": 0, "any": 0, "start": 0}
        self.order: dict[str, np.ndarray] = {}

    def batch(self, width: int) -> torch.Tensor:
        """(batch_tokens / width, width) token ids."""
        if width != self.state["width"] or not self.order:
            if width != self.state["width"]:
                self.state.update(width=width, epoch=self.state["epoch"] + 1, any=0, start=0)
            self._shuffle()
        count = self.recipe.batch_tokens // width
        of_starts = round(self.recipe.share_of_starts * count)
        places = [*self._take("start", of_starts), *self._take("any", count - of_starts)]
        return torch.from_numpy(np.stack([self.tokens[p : p + width] for p in places]).astype(np.int64))

    def _shuffle(self) -> None:
        width, epoch = self.state["width"], self.state["epoch"]
        rng = np.random.default_rng([self.recipe.seed, epoch])
        phase = int(rng.integers(width))  # windows of another epoch are cut elsewhere
        last = len(self.tokens) - width
        self.order["any"] = rng.permutation(np.arange(phase, last, width))
        self.order["start"] = rng.permutation(self.starts[self.starts <= last])

    def _take(self, kind: str, count: int) -> np.ndarray:
        at = self.state[kind]
        if at + count > len(self.order[kind]):
            if kind == "any":
                self.state.update(epoch=self.state["epoch"] + 1, any=0)
                self._shuffle()
            at = 0
        self.state[kind] = at + count
        return self.order[kind][at : at + count]


def split_parameters(model: GPT2LMHeadModel) -> tuple[list, list]:
    """Muon takes the matrices inside the layers; AdamW embeddings, norms and biases."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and ".h." in name else rest).append(parameter)
    return matrices, rest


def rate(recipe: Recipe, tokens: int) -> float:
    """What the learning rates are multiplied by: warm-up, constant, then a straight line to zero, cycle by cycle."""
    cycle, since = recipe.at(tokens)
    rise = (since / recipe.batch_tokens + 1) / recipe.warmup_steps
    fall = (1.0 - since / cycle.tokens) / (1.0 - cycle.constant_until)
    return cycle.peak * min(1.0, rise, fall)


def train(work: Path, recipe: Recipe, device: str = "cpu", compiled: bool = True, save_every: float = 120.0) -> Path:
    """Train, or go on from `work/policy.safetensors`; returns the folder of the finished model."""
    torch.manual_seed(recipe.seed)
    model = GPT2LMHeadModel(config()).to(device)
    matrices, rest = split_parameters(model)
    muon = torch.optim.Muon(matrices, lr=recipe.muon_lr, momentum=0.95, weight_decay=0.01)
    adamw = torch.optim.AdamW(rest, lr=recipe.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    optimizers, base = [muon, adamw], [recipe.muon_lr, recipe.adamw_lr]
    kept, log = work / "policy.safetensors", work / "policy_log.jsonl"
    state = {"step": 0, "tokens": 0, "seconds": 0.0, "windows": None}
    if kept.exists():
        state = checkpoint.load(kept, model, optimizers)
    windows = Windows(np.load(work / "train.npy"), recipe, state["windows"])
    unseen = torch.from_numpy(np.load(work / "calibration.npy")[:16384].astype(np.int64)).to(device)
    forward = torch.compile(model) if compiled else model
    bar = tqdm(total=recipe.tokens, initial=state["tokens"], unit="tok", unit_scale=True, mininterval=10)
    began = time.monotonic() - state["seconds"]
    last_save = time.monotonic()
    while state["tokens"] < recipe.tokens:
        cycle, since = recipe.at(state["tokens"])
        width = [w for fraction, w in cycle.windows if since >= fraction * cycle.tokens][-1]
        for optimizer, lr in zip(optimizers, base, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * rate(recipe, state["tokens"])
        ids = windows.batch(width).to(device)
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        state["step"] += 1
        state["tokens"] += ids.numel()
        bar.update(ids.numel())
        if state["step"] % 250 == 0:
            row = {"step": state["step"], "tokens": state["tokens"], "width": width, "loss": round(loss.item(), 4)}
            row |= {f"unseen_{w}": round(nats_in_windows(model, unseen, w), 4) for w in (64, 256)}
            row["seconds"] = round(time.monotonic() - began)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            bar.set_postfix(loss=row["loss"], unseen=row["unseen_64"])
        if time.monotonic() - last_save > save_every:
            state.update(windows=windows.state, seconds=time.monotonic() - began)
            checkpoint.save(kept, model, optimizers, state)
            last_save = time.monotonic()
    state.update(windows=windows.state, seconds=time.monotonic() - began)
    checkpoint.save(kept, model, optimizers, state)
    facts = asdict(recipe) | {"tokens": recipe.tokens, "seconds": state["seconds"], "device": device}
    (work / "policy_recipe.json").write_text(json.dumps(facts))
    return checkpoint.save_finished(model, work / "policy")


@torch.no_grad()
def nats_in_windows(model: GPT2LMHeadModel, tokens: torch.Tensor, width: int, batch: int = 32) -> float:
    """Mean nats a token over windows cut end to end: the quick figure for the log."""
    rows = tokens[: len(tokens) // width * width].view(-1, width)
    total = 0.0
    for part in rows.split(batch):
        with torch.autocast(part.device.type, dtype=torch.bfloat16):
            logits = model(input_ids=part).logits
        total += torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), part[:, 1:].flatten(), reduction="sum"
        ).item()
    return total / (rows.shape[0] * (width - 1))


@torch.no_grad()
def bits_per_byte(model: GPT2LMHeadModel, reviews: list[np.ndarray], byte_counts: list[int], context: int) -> float:
    """Bits the model needs for whole reviews, end-of-text included, over their UTF-8 bytes.

    A review longer than the context is read in windows that overlap by half; a token is counted once, where it has
    the longer past.
    """
    device = next(model.parameters()).device
    nats = 0.0
    for ids in reviews:
        sequence = torch.tensor([0, *ids.tolist(), 0], device=device)
        done = 1  # the leading end-of-text token is given
        while done < len(sequence):
            begin = 0 if done == 1 else done - context // 2
            part = sequence[begin : begin + context]
            log_p = model(input_ids=part[None]).logits[0, :-1].float().log_softmax(-1)
            picked = log_p.gather(1, part[1:, None])[:, 0]
            nats -= picked[done - begin - 1 :].sum().item()
            done = begin + len(part)
    return nats / math.log(2) / sum(byte_counts)
