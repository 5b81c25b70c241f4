"""What is kept after training: a plain model that loads anywhere, or the adapter alone, which is small."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_helpers.models import load_policy


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
        folder: made if it is not there.

    Returns:
        The folder.
    """
    folder = Path(folder)
    merged(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_adapter(model: PeftModel, folder: str | Path, base: str = "small") -> Path:
    """Write the adapter alone: a few hundred kilobytes, useless without its base.

    PEFT notes the base as a path on this machine, which is nobody else's; here it becomes `base`.

    Args:
        model: with an adapter.
        folder: made if it is not there.
        base: what `load_policy` is to load under the adapter: "small", "full", a Hub id or a folder.

    Returns:
        The folder.

    Raises:
        ValueError: a model without an adapter.
    """
    if not isinstance(model, PeftModel):
        raise ValueError(f"{type(model).__name__} has no adapter: it was trained without LoRA; use save_policy.")
    folder = Path(folder)
    model.save_pretrained(folder, selected_adapters=["default"])
    (folder / "README.md").unlink(missing_ok=True)  # a card to be filled in, which names the path once more
    settings = folder / "adapter_config.json"
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

    Raises:
        FileNotFoundError: no adapter in the folder.
    """
    settings = Path(folder) / "adapter_config.json"
    if not settings.is_file():
        raise FileNotFoundError(f"{folder} holds no adapter_config.json; give a folder that save_adapter wrote.")
    named = json.loads(settings.read_text(encoding="utf-8"))["base_model_name_or_path"]
    model, _ = load_policy(named if base is None else base)
    return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, use_safetensors=True)
