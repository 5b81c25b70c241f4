"""What recorder and test share: tiny models from stored weights, a tokenizer, and three steps of a trainer.

Nothing here knows whose trainer it is: `api` is the module that has `PPOConfig`, `PPOTrainer` and
`AutoModelForCausalLMWithValueHead`, `trl` for the recorder and `course_helpers.ppo` for the test. Numbers are of
torch's default dtype.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

VOCABULARY, CONTEXT = 64, 16
EOS = VOCABULARY - 1  # pads, too: the mask has to tell one from the other
STEPS = 3


class Material(NamedTuple):
    """What every case begins with.

    Attributes:
        inputs: "ragged" and "same" → steps → queries, responses, scores, response_masks; queries to generate for.
        weights: "policy" and "reference" → parameter → values.
    """

    inputs: dict[str, Any]
    weights: dict[str, dict[str, Tensor]]

    @classmethod
    def load(cls, folder: Path) -> Material:
        weights: dict[str, dict[str, Tensor]] = {"policy": {}, "reference": {}}
        for key, tensor in load_file(folder / "models.safetensors").items():
            model, name = key.split("/")
            weights[model][name] = tensor
        return cls(json.loads((folder / "inputs.json").read_text()), weights)


class Step(NamedTuple):
    """What one step gave.

    Attributes:
        numbers: every scalar of its stats but the timings, and β after it.
        tensors: ln π and ln π_ref of all response tokens, row after row; KL of each response; trained weights after it.
    """

    numbers: dict[str, float]
    tensors: dict[str, Tensor]


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{index}": index for index in range(EOS)} | {"<eos>": EOS}
    model = Tokenizer(WordLevel(words, unk_token="<eos>"))
    return PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<eos>", pad_token="<eos>")


def empty_model(api: ModuleType, dropout: float = 0.0, lora: bool = False) -> torch.nn.Module:
    """GPT-2 with a value head, as small as it goes; its weights are still to be filled in."""
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    sizes = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": 8, "n_inner": 16, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **rates, bos_token_id=EOS, eos_token_id=EOS))
    adapter = {}
    if lora:
        from peft import LoraConfig

        where = {"target_modules": ["c_attn"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}
        adapter["peft_config"] = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, **where)
    wrapper = api.AutoModelForCausalLMWithValueHead
    return wrapper.from_pretrained(model, summary_dropout_prob=dropout, **adapter).to(torch.get_default_dtype())


def short(name: str) -> str:
    """A parameter's name without what wrappers put in front of it and into it."""
    return name.removeprefix("pretrained_model.").removeprefix("base_model.model.").replace(".base_layer", "")


def model_with(api: ModuleType, weights: dict[str, Tensor], **options: Any) -> torch.nn.Module:
    """An `empty_model`, filled."""
    model = empty_model(api, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[short(name)])
    return model


def build(api: ModuleType, case: dict[str, Any], material: Material) -> Any:
    """The trainer of a case, before its first step."""
    options = {name: case[name] for name in ("dropout", "lora") if name in case}
    model = model_with(api, material.weights["policy"], **options)
    alone = "lora" in case or "num_shared_layers" in case
    options.pop("lora", None)
    reference = None if alone else model_with(api, material.weights["reference"], **options)
    config = api.PPOConfig(**case["config"])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = scheduler = None
    if "sgd" in case:
        optimizer = torch.optim.SGD(trained, lr=case["sgd"])
    if "lr_factors" in case:
        optimizer = torch.optim.Adam(trained, lr=config.learning_rate)
        # the scheduler looks one step ahead after the last
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: [*case["lr_factors"], 1.0][step])
    return api.PPOTrainer(
        config,
        model,
        reference,
        tokenizer(),
        optimizer=optimizer,
        lr_scheduler=scheduler,
        num_shared_layers=case.get("num_shared_layers"),
    )


def run(trainer: Any, case: dict[str, Any], material: Material) -> Iterator[Step]:
    """All steps of a case, one after the other."""
    for index, batch in enumerate(material.inputs[case.get("lengths", "ragged")]):
        queries, responses = ([torch.tensor(row) for row in batch[name]] for name in ("queries", "responses"))
        scores = [torch.tensor(score, dtype=torch.get_default_dtype()) for score in batch["scores"]]
        masks = [torch.tensor(row) for row in batch["response_masks"]] if "response_masks" in case else None
        np.random.seed(index)  # noqa: NPY002 - each PPO epoch draws its order of samples from NumPy's generator
        torch.manual_seed(index)
        stats = trainer.step(queries, responses, scores, masks)

        numbers = {name: float(x) for name, x in stats.items() if np.ndim(x) == 0 and not name.startswith("time/")}
        numbers["kl_coef_after"] = float(trainer.kl_ctl.value)
        tensors = {"kl_dist": torch.as_tensor(stats["objective/kl_dist"])}
        for name in ("logprobs", "ref_logprobs"):
            rows = torch.as_tensor(stats[f"objective/{name}"])
            tensors[name] = torch.cat([response_columns(*row) for row in zip(rows, queries, responses, strict=True)])
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                tensors[f"weights/{short(name)}"] = parameter.detach().clone()
        yield Step(numbers, tensors)


def joined(steps: list[Step]) -> dict[str, Tensor]:
    """Tensors of all steps, one step's rows under the other's."""
    return {name: torch.cat([step.tensors[name] for step in steps]).contiguous() for name in steps[0].tensors}


def response_columns(row: Tensor, query: Tensor, response: Tensor) -> Tensor:
    """The entries at the positions that predict the response: column t is about token t + 1."""
    return row[len(query) - 1 : len(query) + len(response) - 1]


def generate(api: ModuleType, sampler: type, material: Material) -> dict[str, Any]:
    """What `generate` gives under greedy search, in all its forms, and what a `LengthSampler` draws."""
    trainer = build(api, {"config": {"batch_size": 8, "mini_batch_size": 8}}, material)
    queries = [torch.tensor(query) for query in material.inputs["to_generate_for"]]
    greedy = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": EOS}

    def rows(tensors: list[Tensor]) -> list[list[int]]:
        return [tensor.tolist() for tensor in tensors]

    def batched(**options: Any) -> Any:
        return trainer.generate(queries, batch_size=3, **greedy, **options)

    found = {
        "one_by_one": [trainer.generate(query, **greedy).tolist() for query in queries],
        "one_by_one_no_prompt": [trainer.generate(query, return_prompt=False, **greedy).tolist() for query in queries],
        "batched": rows(batched()),
        "batched_no_prompt": rows(batched(return_prompt=False)),
        "batched_untrimmed": rows(batched(return_prompt=False, remove_padding=False)),
        "with_reference": [rows(part) for part in batched(return_prompt=False, generate_ref_response=True)],
    }
    np.random.seed(0)  # noqa: NPY002
    found["length_sampler_draws"] = [int(sampler(2, 8)()) for _ in range(30)]
    np.random.seed(1)  # noqa: NPY002
    greedy.pop("max_new_tokens")
    found["batched_with_length_sampler"] = rows(batched(length_sampler=sampler(2, 8), return_prompt=False))
    return found
