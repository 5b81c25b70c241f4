"""Write golden numbers by running TRL 0.11.4's own PPOTrainer.

python -m tools.ppo_golden.record FOLDER {float64,float32}

This runs in an environment of its own; `tools/make_ppo_golden.py` makes it and calls this.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import logging

from tools.ppo_golden import double, material
from tools.ppo_golden.cases import CASES, IN_FLOAT32

PACKAGES = ("trl", "torch", "transformers", "accelerate", "peft", "datasets", "numpy", "tyro", "rich")


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def draw_inputs(rng: np.random.Generator) -> dict[str, object]:
    """Rows of tokens: some responses a single token long, some with an EOS inside or at their end."""

    def row(length: int) -> list[int]:
        return rng.integers(0, material.EOS, length).tolist()

    def step(query_lengths: list[int], response_lengths: list[int]) -> dict[str, object]:
        queries, responses = ([row(length) for length in lengths] for lengths in (query_lengths, response_lengths))
        responses[1][-1] = responses[4][len(responses[4]) // 2] = material.EOS
        masks = [rng.integers(0, 2, len(response)).tolist() for response in responses]
        for mask in masks:
            mask[int(rng.integers(len(mask)))] = 1  # at least one token of each response counts
        scores = rng.normal(0.5, 1.5, len(queries)).round(3).tolist()
        return {"queries": queries, "responses": responses, "scores": scores, "response_masks": masks}

    ragged = [(rng.integers(1, 6, 8).tolist(), rng.integers(2, 10, 8).tolist()) for _ in range(material.STEPS)]
    for _, response_lengths in ragged:
        response_lengths[2] = 1
    return {
        "ragged": [step(*lengths) for lengths in ragged],
        "same": [step([4] * 8, [7] * 8) for _ in range(material.STEPS)],
        "to_generate_for": [row(length) for length in (3, 1, 5, 2, 4, 2, 1, 3)],
    }


def draw_weights(rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """A policy that prefers some tokens to others, and a reference a little beside it."""
    import trl

    weights = {}
    for name, parameter in material.empty_model(trl, lora=True).named_parameters():
        name = material.short(name)
        scale = 0.1 if name.endswith("bias") or "ln_" in name else 0.4
        values = rng.normal(float("ln_" in name and name.endswith("weight")), scale, parameter.shape)
        if "wte" in name:
            values[material.EOS] *= 2  # likely enough for some responses to end early
        for model, noise in (("policy", 0.0), ("reference", 0.05)):
            if model == "policy" or "lora" not in name:
                moved = values + noise * rng.normal(size=parameter.shape)
                weights[f"{model}/{name}"] = torch.tensor(moved, dtype=torch.float32)
    return weights


def patch_running_moments() -> None:
    """Let score scaling run: since TRL 0.10 it asks numbers for `.to`, as if they were tensors still, and fails."""
    from trl.trainer import ppo_trainer

    class Number(float):
        def to(self, **kind: object) -> torch.Tensor:
            return torch.tensor(float(self), **kind)

    class Moments(ppo_trainer.RunningMoments):
        def update(self, xs: torch.Tensor) -> tuple[float, float]:
            of_batch = super().update(xs)
            self.mean, self.std = Number(self.mean), Number(self.std)
            return of_batch

    ppo_trainer.RunningMoments = Moments


def record(name: str, folder: Path, start: material.Material) -> None:
    """One case: settings and scalars as JSON, tensors beside it."""
    import trl
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps the last case's accumulation otherwise
    GradientState._reset_state()
    case = CASES[name]
    steps = list(material.run(material.build(trl, case, start), case, start))
    tensors = material.joined(steps)
    write_json(folder / f"{name}.json", {**case, "steps": [step.numbers for step in steps]})
    save_file(tensors, folder / f"{name}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("dtype", choices=("float64", "float32"))
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.dtype == "float64":
        double.install()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")  # TRL says on every call that it is deprecated
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if arguments.dtype == "float64":
        import trl

        write_json(folder / "inputs.json", draw_inputs(np.random.default_rng(0)))
        save_file(draw_weights(np.random.default_rng(16)), folder / "models.safetensors")
        versions = {"python": ".".join(map(str, sys.version_info[:2]))}
        write_json(folder / "versions.json", versions | {name: version(name) for name in PACKAGES})
        sampler = trl.core.LengthSampler
        write_json(folder / "generation.json", material.generate(trl, sampler, material.Material.load(folder)))
    patch_running_moments()
    start = material.Material.load(folder)
    for name in CASES if arguments.dtype == "float64" else IN_FLOAT32:
        record(name, folder / arguments.dtype, start)
        print(arguments.dtype, name)


if __name__ == "__main__":
    main()
