"""Training checkpoints in safetensors: a killed run goes on from its last one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel


def save(path: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer], state: dict) -> None:
    """Write weights, optimizer state and `state` (anything JSON can hold) in one atomic step."""
    tensors = {f"model/{name}": p.detach().clone().contiguous() for name, p in model.named_parameters()}
    for k, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for name, value in values.items():
                tensors[f"optimizer/{k}/{index}/{name}"] = torch.as_tensor(value).detach().clone().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    save_file(tensors, unfinished, metadata={"state": json.dumps(state)})
    os.replace(unfinished, path)


def save_finished(model: PreTrainedModel, folder: Path) -> Path:
    """`save_pretrained`, in one atomic step: the folder is there only when all of it is."""
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    model.save_pretrained(unfinished)
    os.replace(unfinished, folder)
    return folder


def load(path: Path, model: torch.nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict:
    """Restore what `save` wrote; returns its `state`."""
    with safe_open(path, framework="pt") as file:
        for name, parameter in model.named_parameters():
            parameter.data.copy_(file.get_tensor(f"model/{name}"))
        for k, optimizer in enumerate(optimizers):
            held = optimizer.state_dict()
            for key in file.keys():  # noqa: SIM118 - a safetensors file is no dictionary
                part = key.split("/")
                if part[0] == "optimizer" and int(part[1]) == k:
                    held["state"].setdefault(int(part[2]), {})[part[3]] = file.get_tensor(key)
            optimizer.load_state_dict(held)
        return json.loads(file.metadata()["state"])
