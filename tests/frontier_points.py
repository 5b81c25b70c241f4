"""Made-up points, texts and journeys for the panels of lesson 06; nobody has trained them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers.pytorch_utils import Conv1D

from course_helpers.frontier.table import Point, Sample
from course_helpers.time_travel import Journey, Stop, rounded

PROMPTS = ("This movie was", "I think that", "The plot of", "What a", "In the end", "The actors")
SETTINGS = {
    "ppo": (("β = 0.3", 3.0, 1.5), ("β = 0.1", 6.2, 2.6), ("target KL 6", 5.9, 2.5)),
    "dpo": (("β = 0.3", 2.4, 1.2), ("β = 0.1", 5.0, 2.1), ("β = 0.03", 9.5, 2.4)),
    "grpo": (("β = 0.1", 6.0, 2.3),),
    "preferred-ft": (("1 epoch", 0.8, 0.5), ("3 epochs", 1.4, 0.7)),
    "sft": (("1 epoch", 0.4, 0.1),),
}


def point(method: str, setting: str, seed: int, kl: float, reward: float, config: str) -> Point:
    """A point whose other numbers follow from reward and KL."""
    shift = 0.15 * (seed - 1) if config else 0.0
    reward, kl = reward + shift, max(kl + 2 * shift, 0.0)
    second = reward - 0.012 * kl**2
    exact = method in ("reference", "best-of-n")
    numbers = {"kl": kl, "kl_low": kl if exact else 0.95 * kl, "kl_high": kl if exact else 1.05 * kl}
    for name, logit in (("reward", reward), ("second_reward", second)):
        ends = (logit - 0.2, logit, logit + 0.22)
        share = name.replace("reward", "probability")
        for end, value in zip(("_low", "", "_high"), ends, strict=True):
            numbers |= {f"{name}{end}": value, f"{share}{end}": 1 / (1 + math.exp(-value))}
    return Point(
        method=method, setting=setting, seed=seed, prompts=256, responses=256, **numbers, win_rate=0.6,
        win_rate_low=0.55, win_rate_high=0.65, distinct_2=0.8, length=15.2, seconds=100.0 + seed, memory_gb=1.2,
        drawn=20_480, judged=20_480, config=config,
    )  # fmt: skip


def points() -> list[Point]:
    """The reference, best-of-n, and three seeds of each training."""
    found = [point("reference", "π_ref", 0, 0.0, 0.0, "")]
    for n in (2, 4, 16, 64):
        bound = math.log(n) - (n - 1) / n
        found.append(point("best-of-n", f"n = {n}", 0, bound, 1.25 * math.sqrt(bound), ""))
    for method, settings in SETTINGS.items():
        for setting, kl, reward in settings:
            for seed in (0, 1, 2):
                found.append(
                    point(method, setting, seed, kl, reward, f"--config configs/small/{method}.yaml seed={seed}")
                )
    return found


def texts(word: str = "good", reward: float = 1.0, prompts: Sequence[str] = PROMPTS) -> tuple[Sample, ...]:
    """A text to each prompt."""
    return tuple(
        Sample(prompt, f" a {word} film, and place {place} in it", reward + 0.1 * place, reward - 0.5, 2.0)
        for place, prompt in enumerate(prompts)
    )


def samples() -> dict[str, tuple[Sample, ...]]:
    """Texts of every point."""
    keys = dict.fromkeys(each.key for each in points())
    return {key: texts(f"no. {place}", place / 5) for place, key in enumerate(keys)}


def stop(step: int, place: int, written: tuple[Sample, ...]) -> Stop:
    """What was measured at a step."""
    means = {"reward": 0.8 * place, "second_reward": 0.5 * place - 0.08 * place**2, "kl": 1.5 * place}
    numbers = {}
    for name, mean in means.items():
        numbers |= {name: mean, f"{name}_low": mean - 0.2 * (place > 0), f"{name}_high": mean + 0.2 * (place > 0)}
    return Stop(step=step, **numbers, texts=written)


def journey(
    model: torch.nn.Module, method: str = "dpo", setting: str = "β = 0.1", steps: Sequence[int] = (0, 10, 20, 40, 80),
    prompts: Sequence[str] = PROMPTS, seed: int = 0, rank: int = 4,
) -> Journey:  # fmt: skip
    """A training that goes in one random direction, ever further."""
    generator = torch.Generator().manual_seed(seed)
    layers = {name: each for name, each in model.named_modules() if isinstance(each, Conv1D)}
    matrices = {}
    for name, layer in layers.items():
        inside, outside = layer.weight.shape
        A = torch.randn(rank, inside, generator=generator) / math.sqrt(inside)
        B = torch.randn(outside, rank, generator=generator)
        far = torch.arange(1, len(steps))[:, None, None] * 0.04
        for kind, values in (("A", A.expand(len(steps) - 1, -1, -1)), ("B", far * B)):
            matrices[f"{name}.{kind}"], matrices[f"{name}.{kind}_scale"] = rounded(values.contiguous())
    words = ["dull", "dull", "fine", "good", "great"]
    stops = [
        stop(step, place, texts(words[place % len(words)], 0.5 * place, prompts)) for place, step in enumerate(steps)
    ]
    return Journey(method, setting, seed, "small", 2.0, tuple(stops), matrices)
