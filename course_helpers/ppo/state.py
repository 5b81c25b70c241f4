"""The state of a run in one safetensors file, replaced in one step: a kill leaves the old one or the new one."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from course_helpers.files import writing

KIND, VERSION = "course_helpers.ppo", "1"
FORMAT = f"{KIND} {VERSION}"
FACTS = {  # what a trainer needs to go on; a file of a later version may hold more
    *("optimizer", "scheduler", "kl_coef", "running", "batches", "random", "current_step", "negative_kl", "stats_all")
}


def write(path: str | Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors, and facts that JSON can hold, to `path`.

    Raises:
        WriteError: the disk is full, or the folder cannot be written to; an older file is as it was.
        OSError: the file cannot be written for another reason; an older one is as it was.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")  # one name: what a kill left behind is overwritten
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
            save_file(own, unfinished, metadata={"format": FORMAT, "facts": json.dumps(facts)})
            with unfinished.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no saved state, not a whole one, or one of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no saved state {str(path)!r}: save one with trainer.save_state(path).")
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is damaged or no saved state ({error}): take another copy.") from None
    kind, _space, version = facts.get("format", "").partition(" ")
    if kind != KIND:
        raise ValueError(f"{str(path)!r} is not a trainer's state: model weights are read by from_pretrained().")
    if version != VERSION:
        raise ValueError(
            f"{str(path)!r} was saved in format {version}, and this version of the course reads format {VERSION}: go "
            "on with the version that saved it, or begin anew with another path."
        )
    return tensors, _whole(path, facts)


def _whole(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The facts of a saved state, none of them missing."""
    try:
        facts = json.loads(metadata["facts"])
    except (KeyError, ValueError):
        facts = None
    missing = FACTS if not isinstance(facts, dict) else FACTS - set(facts)
    if missing:
        raise ValueError(f"{str(path)!r} lacks {', '.join(sorted(missing))}: take another copy.")
    return facts


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors, ``optimizer/<parameter>/<name>``, and what is no tensor as facts."""
    state = optimizer.state_dict()
    tensors, other = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            elif value is not None:
                other[f"{index}/{name}"] = value
    return tensors, {"groups": state["param_groups"], "other": other}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Undo `optimizer_tensors`."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        kind, *place = name.split("/", 2)
        if kind == "optimizer":
            state.setdefault(int(place[0]), {})[place[1]] = tensor
    for name, value in facts["other"].items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = value
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in facts["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def random_state() -> dict[str, Any]:
    """Python's, NumPy's and torch's global generators, as JSON can hold them."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the global one is meant
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": [words.numpy().tobytes().hex() for words in cuda],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo `random_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(_bytes(state["torch"]))
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_bytes(entry) for entry in state["cuda"]])


def _bytes(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
