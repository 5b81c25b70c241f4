"""A GPT-2 XL without weights: what the course computes from its shape alone.

`test_load` runs it in a process of its own. All its parameters are on torch's meta device, which knows sizes and holds
no numbers; 1.5 billion of them in float32 would be 6 GB. Prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config

from course_helpers import plan
from course_helpers.dpo import training
from course_helpers.ppo import AutoModelForCausalLMWithValueHead, PPOConfig, create_reference_model
from course_helpers.ppo.frozen import decoder_layers, frozen_below


def peak_bytes() -> int:
    """The most memory of this process. Linux's getrusage counts that of the process that started it, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Go through the sizes and settings of lessons 00 to 07."""
    began, shape = time.process_time(), plan.GPT2["gpt2-xl"]
    config = GPT2Config(n_layer=shape.layers, n_embd=shape.width, n_head=shape.heads)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    said = {"parameters": model.num_parameters(), "planned": plan.parameters(shape), "printed": len(str(model))}
    run = plan.Plan(shape=shape, lora_rank=16)
    said["gigabytes"] = {method: plan.memory(method, run)["total"] / 1e9 for method in plan.METHODS}
    said["hours"] = {method: plan.seconds(method, run, plan.GPUS[-1])["total"] / 3600 for method in plan.METHODS}
    with tempfile.TemporaryDirectory() as folder:
        settings = training.dpo_config(folder, model, use_cpu=True)
    said["longest"], said["ppo"] = settings.max_length, PPOConfig(batch_size=64, mini_batch_size=16).batch_size
    with_head = AutoModelForCausalLMWithValueHead(model)
    said["head"] = sum(p.numel() for p in with_head.v_head.parameters())
    shared = create_reference_model(with_head, num_shared_layers=40)
    said["layers"], said["frozen"] = len(decoder_layers(shared)), frozen_below(with_head)
    lora = training.lora_config(model, 16)
    adapted = get_peft_model(model, lora)
    said["targets"] = sorted(adapted.peft_config["default"].target_modules)
    said["trained"] = plan.trained_parameters(run)
    said["adapter"] = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)
    said["devices"] = sorted({p.device.type for p in adapted.parameters()})
    said["unloaded"] = adapted.unload().num_parameters()
    said["peak"] = peak_bytes() / 2**30
    said["seconds"] = time.process_time() - began
    print(json.dumps(said))


if __name__ == "__main__":
    main()
