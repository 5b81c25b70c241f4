"""Travel through a training: the adapters it kept on its way, packed into one small file, put into a model at once.

    run folder → `pack` → journey file → `Journey.load` → `Traveller.move(journey, step)` → the policy of that step

LoRA trains A (r, in) and B (out, r) beside frozen weights: W = W₀ + (α/r) B A. Of each step only A and B are kept, one
byte a number and one scale a row, and W₀ is that of the reference, which everybody has. So a step of a policy with 7
million parameters takes 0.4 MB. Step 0 is π_ref itself and takes nothing.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from course_helpers.assets import asset
from course_helpers.checks import is_finite, require
from course_helpers.files import writing
from course_helpers.frontier.table import Sample

SUFFIX = ".safetensors"
VERSION = 1
BITS = (8, 32)
LARGEST = 127  # of a signed byte, both signs alike
LONGEST_TEXT = 4000  # characters
ENDS = ("reward", "second_reward", "kl")
PLAIN = {"peft_type": "LORA", "bias": "none", "use_rslora": False, "use_dora": False, "modules_to_save": None}
REPAIR = "pack the run again with tools/pack_journeys.py, or restore the shipped file"


# ------------------------------------------------------------------------------------------------------ what was kept


@dataclass(frozen=True)
class Stop:
    """One step at which training was looked at.

    Attributes:
        step: updates of the weights so far; 0 is π_ref.
        reward: mean log-odds of POSITIVE by the judge that trains, on queries training has not seen.
        reward_low: lower end of its 95 % interval.
        reward_high: upper end.
        second_reward: mean log-odds by the judge that only measures.
        second_reward_low: lower end; the mean itself where no interval was kept.
        second_reward_high: upper end, likewise.
        kl: KL(π_θ‖π_ref) in nats a response.
        kl_low: lower end.
        kl_high: upper end.
        texts: responses to a few prompts, the same prompts at every step.
    """

    step: int
    reward: float
    reward_low: float
    reward_high: float
    second_reward: float
    second_reward_low: float
    second_reward_high: float
    kl: float
    kl_low: float
    kl_high: float
    texts: tuple[Sample, ...]


@dataclass(frozen=True)
class Journey:
    """One training: what it reached step by step, and the adapter of each step but the first.

    Attributes:
        method: such as "ppo", as in the table of points.
        setting: such as "β = 0.1".
        seed: of the training.
        base: what lies under the adapters, as `load_policy` takes it.
        scaling: α/r.
        stops: the steps in their order, the first of them π_ref.
        matrices: under ``"layer.A"`` and ``"layer.B"`` all adapters, (stops − 1, r, in) and (stops − 1, out, r), as
            float32, or as int8 with a float16 scale for each row under ``"layer.A_scale"`` and ``"layer.B_scale"``.
    """

    method: str
    setting: str
    seed: int
    base: str
    scaling: float
    stops: tuple[Stop, ...]
    matrices: Mapping[str, Tensor]

    @classmethod
    def load(cls, name: str | Path) -> Journey:
        """Read a journey, and refuse one that cannot be right.

        Args:
            name: of a shipped journey, or the path of a file that ends in ``.safetensors``.

        Returns:
            The journey.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, or is something else; the sentence says what is wrong.
        """
        path = _path(name)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                # Copies: a tensor read from the mapped file would change, or crash the process, with the file.
                matrices = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118  no mapping
            return _journey(json.loads(metadata["journey"]), matrices)
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            reason = f"no {error} in it" if isinstance(error, KeyError) else str(error) or type(error).__name__
            raise ValueError(f"{path.name} is no journey, or a damaged one: {reason.rstrip('.')}. {_mend()}") from None

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that were kept, from 0 on."""
        return tuple(stop.step for stop in self.stops)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers with an adapter, as in ``model.named_modules()``."""
        return tuple(sorted(name.removesuffix(".A") for name in self.matrices if name.endswith(".A")))

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts of the texts."""
        return tuple(text.prompt for text in self.stops[0].texts)

    def stop(self, step: int) -> Stop:
        """What was measured at a step that was kept."""
        return self.stops[self._place(step)]

    def delta(self, layer: str, step: int) -> Tensor:
        """What training has added to a layer by a step: (α/r) B A.

        Args:
            layer: one of `layers`.
            step: one of `steps`, above 0.

        Returns:
            (out, in), float32.
        """
        row = self._place(step) - 1
        require(row >= 0, "step", step, "above 0; at step 0 nothing has been added yet")
        return (self._matrix(f"{layer}.B", row) @ self._matrix(f"{layer}.A", row)) * self.scaling

    def policy(self, step: int, base: PreTrainedModel) -> PreTrainedModel:
        """A copy of a base at a step; to visit many steps, use one `Traveller`.

        Args:
            step: one of `steps`.
            base: π_ref.

        Returns:
            The copy; the base stays as it is.
        """
        return Traveller(base).move(self, step)

    def _matrix(self, name: str, row: int) -> Tensor:
        values, scales = self.matrices[name][row], self.matrices.get(f"{name}_scale")
        return values if scales is None else values.float() * scales[row].float()[:, None]

    def _place(self, step: int) -> int:
        require(step in self.steps, "step", step, f"one of {', '.join(map(str, self.steps))}")
        return self.steps.index(step)


class Traveller:
    """A copy of a policy that takes the weights of any step of any journey, in milliseconds.

    Args:
        base: π_ref; it is copied, and neither changed nor asked again.

    Attributes:
        model: the copy, in eval mode and without gradients; `move` changes its weights in place.
    """

    def __init__(self, base: PreTrainedModel):
        """Copy the base."""
        self.model = copy.deepcopy(base)
        self.model.__dict__.pop("forward", None)  # TRL's would still ask the original
        self.model.eval().requires_grad_(False)
        self._start: dict[str, Tensor] = {}

    @torch.no_grad()
    def move(self, journey: Journey, step: int) -> PreTrainedModel:
        """Put the policy of one step into the model.

        Args:
            journey: of this base.
            step: one of its steps; at 0 the weights are those of the base, bit by bit.

        Returns:
            The model, which stays the same object.

        Raises:
            ValueError: a step that was not kept, or a layer that this base does not have. Nothing has changed then.
        """
        journey.stop(step)
        weights = {layer: self._weight(layer, journey) for layer in journey.layers}
        for layer, start in self._start.items():  # also those of another journey, visited before
            weight, transposed = weights[layer] if layer in weights else self._weight(layer)
            if step == 0 or layer not in weights:
                weight.copy_(start)
                continue
            delta = journey.delta(layer, step)
            torch.add(start, (delta.T if transposed else delta).to(weight), out=weight)
        return self.model

    def _weight(self, layer: str, journey: Journey | None = None) -> tuple[Tensor, bool]:
        """The weight of a layer, kept as it was on the first visit, and whether it is stored as (in, out)."""
        try:
            module = self.model.get_submodule(layer)
        except AttributeError:
            module = None
        if not isinstance(module, Conv1D | torch.nn.Linear) or module is self.model.get_output_embeddings():
            raise ValueError(f"the model has no linear layer {layer!r} in its blocks; move a model of the same base.")
        weight, transposed = module.weight.data, isinstance(module, Conv1D)
        if journey is not None:
            shape = (journey.matrices[f"{layer}.B"].shape[1], journey.matrices[f"{layer}.A"].shape[2])
            found = tuple(weight.shape[::-1] if transposed else weight.shape)
            if found != shape:
                raise ValueError(f"{layer} is {found} in the model and {shape} in the journey; move the same base.")
            self._start.setdefault(layer, weight.clone())
        return weight, transposed


# --------------------------------------------------------------------------------------------------------- on the disk


def pack(run: str | Path, path: str | Path, bits: int = 8, most: int | None = None) -> Path:
    """Put the adapters of a run and what was measured on its way into one file.

    Args:
        run: folder of a run, with ``journey.json`` and an adapter ``deltas/step-000010`` for each of its steps; at
            step 0, π_ref, there may be one that adds nothing.
        path: the file to write, ``….safetensors``.
        bits: 8 for a byte a number and a scale a row, 32 for the numbers as they are.
        most: at most so many steps are kept, evenly spread, the first and the last among them; all when None.

    Returns:
        The path.

    Raises:
        FileNotFoundError: the run lacks a file.
        ValueError: another number of bits, an adapter that is not plain LoRA, or a record that cannot be right.
    """
    require(bits in BITS, "bits", bits, "8 or 32")
    require(most is None or most >= 2, "most", most, "at least 2, the first and the last step")
    run, path = Path(run), Path(path)
    require(path.suffix == SUFFIX, "path", str(path), f"a file that ends in {SUFFIX}")
    record = json.loads(_there(run / "journey.json").read_text(encoding="utf-8"))
    record["steps"] = _spread(record["steps"], most)
    first, *later = [run / "deltas" / f"step-{stop['step']:06d}" for stop in record["steps"]]
    if first.exists() and any(matrix.any() for name, matrix in _adapter(first)[1].items() if name.endswith(".B")):
        raise ValueError(f"{first} has changed the policy already; measure the run from step 0 on, where B is 0.")
    adapters = [_adapter(folder) for folder in later]
    if not adapters or any(one[0] != adapters[0][0] or one[1].keys() != adapters[0][1].keys() for one in adapters):
        raise ValueError(f"{run} needs adapters of one base, rank and α on the same layers, at step 1 or later.")
    record |= adapters[0][0] | {"version": VERSION}
    matrices: dict[str, Tensor] = {}
    for name in adapters[0][1]:
        stacked = torch.stack([found[name] for _settings, found in adapters])
        matrices |= {name: stacked} if bits == 32 else dict(zip((name, f"{name}_scale"), rounded(stacked), strict=True))
    _journey(record, matrices)  # what could not be read back is not written
    part = path.with_suffix(".part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(matrices, part, metadata={"format": "pt", "journey": json.dumps(record, ensure_ascii=False)})
            return part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def rounded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Write each row as whole numbers from −127 to 127 times one scale.

    Args:
        matrix: (..., columns), finite.

    Returns:
        The whole numbers, (..., columns) in int8, and the scales, (...) in float16. No number is off by more than half
        its row's scale.

    Raises:
        ValueError: a number that is not finite, or too large for a float16 scale.
    """
    largest = matrix.abs().amax(-1).double().numpy()
    require(bool(np.isfinite(largest).all()) and largest.max() < LARGEST * 6e4, "matrix", largest.max(), "finite")
    scales = (largest / LARGEST).astype(np.float16)
    # Upwards, so that the largest number of a row still fits; what is below float16's smallest becomes that.
    short = scales.astype(np.float64) * LARGEST < largest
    scales = torch.from_numpy(np.where(short, np.nextafter(scales, np.float16(np.inf)), scales))
    steps = matrix.double() / scales.double().clamp(min=1e-30)[..., None]
    return steps.round().to(torch.int8), scales


def _adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The settings of an adapter and its matrices, under the names that a journey has for them."""
    settings = json.loads(_there(folder / "adapter_config.json").read_text(encoding="utf-8"))
    odd = [name for name, value in PLAIN.items() if settings.get(name, value) != value]
    odd += [name for name in ("rank_pattern", "alpha_pattern") if settings.get(name)]
    if odd:
        raise ValueError(f"{folder} is not plain LoRA ({', '.join(odd)}): a journey holds W₀ + (α/r) B A and no more.")
    matrices = {}
    for name, matrix in load_file(_there(folder / "adapter_model.safetensors")).items():
        layer, _dot, kind = name.removeprefix("base_model.model.").rpartition(".lora_")
        require(kind in ("A.weight", "B.weight"), f"{folder}: tensor", name, "a lora_A.weight or lora_B.weight")
        matrices[f"{layer}.{kind[0]}"] = matrix.float().contiguous()
    kept = {"base": settings["base_model_name_or_path"], "rank": settings["r"], "alpha": settings["lora_alpha"]}
    return kept, matrices


def _spread(stops: Sequence[dict[str, Any]], most: int | None) -> list[dict[str, Any]]:
    if most is None or len(stops) <= most:
        return list(stops)
    return [stops[round(place * (len(stops) - 1) / (most - 1))] for place in range(most)]


def _there(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; give the folder of a run that kept its adapters on the way.")
    return path


def _path(name: str | Path) -> Path:
    """The file of a shipped journey, or the one that was named."""
    if isinstance(name, str) and not name.endswith(SUFFIX):
        try:
            return asset(f"journeys/{name}{SUFFIX}")
        except KeyError:
            raise FileNotFoundError(
                f"no journey {name!r} is shipped; give the name of one of course_helpers/assets/journeys, or the path "
                f"of a file that ends in {SUFFIX}."
            ) from None
    path = Path(name)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; write one with tools/pack_journeys.py.")
    return path


def _mend() -> str:
    return f"{REPAIR[0].upper()}{REPAIR[1:]}."


# ----------------------------------------------------------------------------------------------------------- its checks


def _journey(record: dict[str, Any], matrices: dict[str, Tensor]) -> Journey:
    """A journey of what was read, if it can be right."""
    require(record.get("version", VERSION) == VERSION, "version", record["version"], f"{VERSION}")
    for name in ("method", "setting", "base"):
        _check_text(name, record[name])
    _check_count("seed", record["seed"])
    _check_count("rank", record["rank"])
    require(record["rank"] > 0 and _is_number(record["alpha"]), "α/r", (record["alpha"], record["rank"]), "a number")
    stops = tuple(_stop(entry) for entry in record["steps"])
    steps = [stop.step for stop in stops]
    require(steps[:1] == [0] and steps == sorted(set(steps)), "steps", steps, "0 and then ever larger whole numbers")
    prompts = [[text.prompt for text in stop.texts] for stop in stops]
    require(all(one == prompts[0] for one in prompts), "prompts", "not the same at every step", "so")
    _check_matrices(matrices, len(stops) - 1, record["rank"])
    names = {name: record[name] for name in ("method", "setting", "seed", "base")}
    return Journey(**names, scaling=record["alpha"] / record["rank"], stops=stops, matrices=matrices)


def _stop(entry: dict[str, Any]) -> Stop:
    _check_count("step", entry["step"])
    numbers: dict[str, float] = {}
    for name in ENDS:
        mean = entry[name]
        ends = {f"{name}_low": entry.get(f"{name}_low", mean), f"{name}_high": entry.get(f"{name}_high", mean)}
        low, high = ends.values()
        fits = all(map(_is_number, (low, mean, high))) and low <= mean <= high
        require(fits, f"{name} at step {entry['step']}", (low, mean, high), "three numbers, the mean within the ends")
        numbers |= {name: float(mean)} | {end: float(value) for end, value in ends.items()}
    return Stop(step=entry["step"], **numbers, texts=tuple(_text(text) for text in entry["texts"]))


def _text(entry: dict[str, Any]) -> Sample:
    for name in ("prompt", "response"):
        _check_text(name, entry[name])
    for name in ("reward", "second_reward", "kl"):
        require(_is_number(entry[name]), f"{name} of a text", entry[name], "a finite number")
    return Sample(**{name: entry[name] for name in Sample._fields})


def _check_matrices(matrices: Mapping[str, Tensor], adapters: int, rank: int) -> None:
    """Require an A and a B for each layer, with scales if they are rounded, and nothing else."""
    pairs = {name[:-2] for name in matrices if name.endswith((".A", ".B"))}
    require(bool(pairs), "layers", 0, "at least one")
    expected = set()
    for name in (f"{layer}.{kind}" for layer in sorted(pairs) for kind in "AB"):
        matrix = matrices[name]
        rows = {"A": rank, "B": matrix.shape[1]}[name[-1]] if matrix.ndim == 3 else -1
        fits = matrix.ndim == 3 and tuple(matrix.shape[:2]) == (adapters, rows)
        fits = fits and (name[-1] == "A" or matrix.shape[2] == rank) and matrix.dtype in (torch.int8, torch.float32)
        require(fits, name, tuple(matrix.shape), f"adapters of rank {rank} at {adapters} steps")
        expected.add(name)
        numbers = matrix
        if matrix.dtype == torch.int8:
            expected.add(f"{name}_scale")
            numbers = matrices[f"{name}_scale"]
            fits = numbers.shape == matrix.shape[:2] and numbers.dtype == torch.float16
            require(fits, f"{name}_scale", tuple(numbers.shape), "one float16 for each row")
        require(bool(torch.isfinite(numbers).all()), name, "NaN or infinite somewhere", "finite")
    require(expected == set(matrices), "tensors", sorted(set(matrices) - expected)[:3], "matrices and their scales")


def _check_text(name: str, text: object) -> None:
    fits = isinstance(text, str) and len(text) <= LONGEST_TEXT
    fits = fits and not any("\ud800" <= sign <= "\udfff" for sign in text)  # half a letter: no page could be sent it
    require(fits, name, ascii(text)[:40], f"text of at most {LONGEST_TEXT} characters")


def _check_count(name: str, value: object) -> None:
    require(isinstance(value, int) and not isinstance(value, bool) and value >= 0, name, value, "a whole number")


def _is_number(value: object) -> bool:
    return is_finite(value) and not isinstance(value, bool) and math.isfinite(float(value))


def shipped() -> list[str]:
    """Names of the journeys that come with the package."""
    return sorted(path.stem for path in asset("journeys").glob(f"*{SUFFIX}"))
