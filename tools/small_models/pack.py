"""Put trained models into the package: fp16 safetensors, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from . import second_judge
from .data import END_OF_TEXT


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write weights as fp16, and a configuration that makes a plain `from_pretrained` give float32.

    Half the bytes cost nothing measurable; computing in fp16 on a CPU would be slow and coarse.
    """
    model.to(torch.float16).save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int, for_judge: bool) -> None:
    """Write the tokenizer; the judge's puts the end-of-text token before every text, where its classifier reads."""
    if for_judge:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))]
        )
    names = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END_OF_TEXT)
    if for_judge:
        names |= {"cls_token": END_OF_TEXT}
    _save(tokenizer, folder, context, names)


def save_second_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the second judge's tokenizer, which puts its own first token before every text."""
    first, padding, unknown = second_judge.SPECIAL
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))]
    )
    names = {"cls_token": first, "pad_token": padding, "unk_token": unknown}
    _save(tokenizer, folder, second_judge.CONTEXT, names)


def _save(tokenizer: Tokenizer, folder: Path, context: int, names: dict[str, str]) -> None:
    """`save_pretrained` of the ordinary fast tokenizer."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=context,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )
    wrapped.save_pretrained(folder)
