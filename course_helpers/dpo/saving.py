"""What is kept after training: a plain model that loads anywhere, or the adapter alone, which is small."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_helpers.files import whole_folder
from course_helpers.models import LoadError, load_policy


def merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """A plain model with the same policy: LoRA's B A added to the weights, in a copy.

    PEFT's own `merge_and_unload` changes the model it is called on; training could not go on with it. TRL leaves a
    `forward` of its own on the model it trains, and a copy of it would still ask the original: it is taken off here.

    Args:
        model: with adapters or without.

    Returns:
        A copy in eval mode that shares nothing with the model.
    """
    single = copy.deepcopy(model)
    plain = single.merge_and_unload() if isinstance(single, PeftModel) else single
    plain.__dict__.pop("forward", None)
    return plain.eval()


def save_policy(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> Path:
    """Write the whole policy as an ordinary folder: `load_policy(folder)` reads it, and so does plain transformers.

    Args:
        model: with adapters, which are merged in a copy, or without.
        tokenizer: of the model.
        folder: made if it is not there; what it held before stays whole if this is cut short.

    Returns:
        The folder.

    Raises:
        WriteError: the disk is full, or the folder cannot be written to.
    """
    folder = Path(folder)
    with whole_folder(folder) as unfinished:
        merged(model).save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
    return folder


def save_adapter(model: PeftModel, folder: str | Path, base: str = "small") -> Path:
    """Write the adapter alone: a few hundred kilobytes, useless without its base.

    PEFT notes the base as a path on this machine, which is nobody else's; here it becomes `base`.

    Args:
        model: with an adapter.
        folder: made if it is not there; what it held before stays whole if this is cut short.
        base: what `load_policy` is to load under the adapter: "small", "full", a Hub id or a folder.

    Returns:
        The folder.

    Raises:
        ValueError: a model without an adapter.
        WriteError: the disk is full, or the folder cannot be written to.
    """
    if not isinstance(model, PeftModel):
        raise ValueError(f"{type(model).__name__} has no adapter: it was trained without LoRA; use save_policy.")
    folder = Path(folder)
    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished, selected_adapters=["default"])
        (unfinished / "README.md").unlink(missing_ok=True)  # a card to be filled in, which names the path once more
        settings = unfinished / "adapter_config.json"
        content = json.loads(settings.read_text(encoding="utf-8"))
        content["base_model_name_or_path"] = base
        settings.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return folder


def load_adapter(folder: str | Path, base: str | Path | None = None, trainable: bool = False) -> PeftModel:
    """Load a base and put an adapter on it.

    Args:
        folder: written by `save_adapter`.
        base: what to load under it; what the folder names when None.
        trainable: whether training is to go on.

    Returns:
        The base with its adapter.

    Raises:
        FileNotFoundError: no adapter in the folder.
        LoadError: the adapter is damaged, of another version, or does not fit the base.
    """
    settings = Path(folder) / "adapter_config.json"
    if not settings.is_file():
        raise FileNotFoundError(f"{folder} holds no adapter_config.json; give a folder that save_adapter wrote.")
    if not (Path(folder) / "adapter_model.safetensors").is_file():  # PEFT would go on to a pickle
        raise FileNotFoundError(
            f"{folder} holds no adapter_model.safetensors, and pickled weights are not read: give a folder that "
            "save_adapter wrote."
        )
    try:
        named = json.loads(settings.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(_unfit(folder, base, error)) from None
    model, _ = load_policy(named if base is None else base)
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, use_safetensors=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise LoadError(_unfit(folder, named if base is None else base, error)) from None


def _unfit(folder: str | Path, base: str | Path | None, error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = next((line.strip() for line in lines if "size mismatch" in line), lines[0])
    return (
        f"{folder} holds an adapter that cannot be put on {str(base)!r}: it is damaged, was made by another version of "
        f"peft, or belongs to another base. Give its own base as base=..., or save the adapter again. Found: {reason}"
    )
