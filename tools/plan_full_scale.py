"""Print what a run at the scale of the Hub's models needs, as Markdown tables: memory by part, hours by machine.

python tools/plan_full_scale.py [--model gpt2-large] [--sequences 32] [--recompute]

The first table says what lies in one GPU's memory; the second, for each kind of GPU and how many of them, in how many
minutes or hours, and whether the model goes whole onto each (DDP) or in parts (FSDP). A dash: it does not fit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from course_helpers import plan

COUNTS = (1, 2, 4, 8)
LORA_RANK = 32  # as in configs/full
LORA_METHODS = ("reward", "ppo", "dpo", "grpo")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, figures to the right."""
    rules = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rules, *rows])


def gigabytes(count: float) -> str:
    """Bytes as gigabytes with one decimal; a dot where there are none."""
    return f"{count / 1e9:.1f}" if count else "·"


def duration(seconds: float) -> str:
    """Minutes below two hours, hours above."""
    if seconds < 60:
        return "< 1 min"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def memory_table(run: plan.Plan) -> str:
    """What each method keeps on one GPU alone, and how much of it on each of eight, whole and sharded."""
    names = [name for name in plan.memory("ppo", run) if name not in ("buffers", "total")]
    rows = []
    for rank in (0, LORA_RANK):
        sized = replace(run, lora_rank=rank)
        for method in plan.METHODS if rank == 0 else LORA_METHODS:
            alone = plan.memory(method, sized)
            eight = [plan.memory(method, sized, 8, sharded)["total"] for sharded in (False, True)]
            figures = [*(alone[name] for name in names), alone["total"], *eight]
            rows.append([f"{method}, LoRA {rank}" if rank else method, *map(gigabytes, figures)])
    return markdown(["GB on one GPU", *names, "total", "8 GPUs, DDP", "8 GPUs, FSDP"], rows)


def time_table(run: plan.Plan) -> str:
    """How long each method takes on so many GPUs of each kind, and how the model is spread."""
    rows = []
    for method in plan.METHODS:
        for gpu in plan.GPUS:
            rows.append([f"{method}, {gpu.name}", *(cell(method, run, gpu, count) for count in COUNTS)])
    return markdown(["", *(f"{count} GPU{'s' * (count > 1)}" for count in COUNTS)], rows)


def cell(method: str, run: plan.Plan, gpu: plan.Gpu, count: int) -> str:
    """Time, with the first way of spreading the model that fits."""
    for sharded in (False, True) if count > 1 else (False,):
        if plan.fits(method, run, gpu, count, sharded):
            way = "" if count == 1 or method == "best-of-n" else " FSDP" if sharded else " DDP"
            return duration(plan.seconds(method, run, gpu, count, sharded)["total"]) + way
    return "–"


def sizes_table(run: plan.Plan) -> str:
    """Each GPT-2: parameters, and what PPO keeps on one GPU, on each of eight with FSDP, and with LoRA."""
    rows = []
    for name, shape in plan.GPT2.items():
        sized = replace(run, shape=shape)
        figures = [
            plan.memory("ppo", sized)["total"],
            plan.memory("ppo", sized, 8, sharded=True)["total"],
            plan.memory("ppo", replace(sized, lora_rank=LORA_RANK))["total"],
        ]
        rows.append([name, f"{plan.parameters(shape):,}", *map(gigabytes, figures)])
    return markdown(
        ["PPO with", "parameters", "GB on one GPU", "GB on each of 8, FSDP", f"GB on one GPU, LoRA {LORA_RANK}"], rows
    )


def report(run: plan.Plan) -> str:
    """All tables, as they stand in docs/beyond_one_machine.md."""
    return "\n\n".join([memory_table(run), time_table(run), sizes_table(run)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(plan.GPT2), default="gpt2-large")
    parser.add_argument("--sequences", type=int, default=plan.Plan.sequences, help="texts in one pass on one GPU")
    parser.add_argument("--recompute", action="store_true", help="compute activations again in the backward pass")
    arguments = parser.parse_args()
    run = plan.Plan(plan.GPT2[arguments.model], sequences=arguments.sequences, recompute=arguments.recompute)
    print(report(run), end="")


if __name__ == "__main__":
    main()
