"""What a step of DPO costs, and what a training of lesson 05 gives.

python benchmarks/dpo.py [--rounds 5] [--full]      TRL's trainer as set up here, against TRL's defaults on a CPU
python benchmarks/dpo.py --lesson [--seeds 0 1 2]   accuracy, win rate and KL of lesson 05's training, seed by seed

The two set-ups take turns, each in a fresh process without any environment variable that changes how memory is kept,
on the same pairs in the same order in float32. CPU seconds are those of all threads. TRL's defaults are changed only
where they cannot run: `use_cpu`, float32, and `max_length` within the model's context.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BATCH, STEPS, WARM = 32, 14, 2  # pairs in a step; steps; those not counted
RATE, BETA = 1e-3, 0.3


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def pairs(count: int) -> list[dict[str, str]]:
    """Pairs as lesson 05 draws them; the same in every process."""
    from course_helpers.models import load_judge, load_policy
    from course_helpers.preferences import judged_pairs
    from course_helpers.prompts import load_prompts

    policy, tokenizer = load_policy("small", "cpu")
    prompts = [tokenizer.decode(tokenizer(text).input_ids[:6]) for text in load_prompts("small")] * 2
    drawn = judged_pairs(policy, tokenizer, load_judge("small", "cpu"), prompts, max_new_tokens=24, seed=0)
    return [dict(zip(("prompt", "chosen", "rejected"), pair[:3], strict=True)) for pair in drawn.pairs[:count]]


# --------------------------------------------------------------------------------------------------------- one process


def one_run(kind: str, full: bool, file: str) -> dict[str, Any]:
    """Train some steps; CPU and wall seconds a step, what the reference cost before, and the losses."""
    from transformers import TrainerCallback, logging

    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()

    class Clock(TrainerCallback):
        """Notes both times at the beginning and end of every step."""

        cpu: list[float]
        wall: list[float]

        def __init__(self) -> None:
            self.cpu, self.wall = [], []

        def on_step_begin(self, *args: Any, **others: Any) -> None:
            self.begun = cpu_seconds(), time.perf_counter()

        def on_step_end(self, *args: Any, **others: Any) -> None:
            self.cpu.append(cpu_seconds() - self.begun[0])
            self.wall.append(time.perf_counter() - self.begun[1])

    data, clock = json.loads(Path(file).read_text()), Clock()
    with tempfile.TemporaryDirectory() as folder:
        began = cpu_seconds()
        trainer = (ours if kind == "ours" else trls)(data, full, clock, folder)
        set_up = cpu_seconds() - began
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "cpu": statistics.mean(clock.cpu[WARM:]),
        "wall": statistics.mean(clock.wall[WARM:]),
        "set_up": set_up / STEPS,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "losses": losses,
    }


def ours(data: list[dict], full: bool, clock: Any, folder: str) -> Any:
    from course_helpers.dpo.training import dpo_config, dpo_trainer, lora_config
    from course_helpers.models import load_policy

    model, tokenizer = load_policy("small", "cpu")
    config = dpo_config(folder, model, beta=BETA, learning_rate=RATE, batch_size=BATCH, max_steps=STEPS)
    lora = None if full else lora_config(model, rank=16)
    return dpo_trainer(model, tokenizer, config, data, lora=lora, callbacks=[clock])


def trls(data: list[dict], full: bool, clock: Any, folder: str) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    from course_helpers.models import load_policy

    model, tokenizer = load_policy("small", "cpu")
    settings = {"use_cpu": True, "bf16": False, "max_length": model.config.n_positions}  # or it does not run
    same = {"learning_rate": RATE, "per_device_train_batch_size": BATCH, "max_steps": STEPS, "beta": BETA, "seed": 0}
    quiet = {"report_to": "none", "save_strategy": "no", "logging_steps": 1}
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", fan_in_fan_out=True, task_type="CAUSAL_LM")
    return DPOTrainer(
        model=model,
        args=DPOConfig(output_dir=folder, **settings, **same, **quiet),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        callbacks=[clock],
        peft_config=None if full else lora,
    )


# ------------------------------------------------------------------------------------------------------------- compare


def in_a_process(kind: str, full: bool, file: str) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, __file__, "--one", kind, "--file", file, *(["--full"] if full else [])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def compare(rounds: int, full: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "pairs.json")
        Path(file).write_text(json.dumps(pairs(BATCH * STEPS)))
        runs = [{kind: in_a_process(kind, full, file) for kind in ("trl", "ours")} for _ in range(rounds)]

    def spread(name: str, of: Callable[[dict], float]) -> None:
        low, middle, high = statistics.quantiles([of(run) for run in runs], n=4) if rounds > 1 else [of(runs[0])] * 3
        print(f"  {name:<46} {middle:.2f}  ({low:.2f}-{high:.2f})")

    print(f"{'all weights' if full else 'LoRA'}, {BATCH} pairs a step, {rounds} rounds: median (quartiles)")
    spread("CPU seconds a step, TRL's defaults", lambda run: run["trl"]["cpu"])
    spread("CPU seconds a step, as set up here", lambda run: run["ours"]["cpu"])
    spread("the same, with its share of the set-up", lambda run: run["ours"]["cpu"] + run["ours"]["set_up"])
    spread("ratio of CPU seconds a step", lambda run: run["ours"]["cpu"] / run["trl"]["cpu"])
    both = lambda run, kind: run[kind]["cpu"] + run[kind]["set_up"]  # noqa: E731
    spread("ratio with the set-up, reference included", lambda run: both(run, "ours") / both(run, "trl"))
    spread("ratio of wall-clock seconds a step", lambda run: run["ours"]["wall"] / run["trl"]["wall"])
    spread("peak memory, TRL's [GB]", lambda run: run["trl"]["memory"])
    spread("peak memory, ours [GB]", lambda run: run["ours"]["memory"])
    apart = max(abs(a - b) for run in runs for a, b in zip(run["trl"]["losses"], run["ours"]["losses"], strict=True))
    print(f"  the {STEPS} losses differ by at most {apart:.1e}")


# -------------------------------------------------------------------------------------------------------------- lesson


def lesson(seeds: list[int]) -> None:
    """Lesson 05's training with other seeds: pairs, adapters, order and evaluation all change with it."""
    from course_helpers.dpo.training import dpo_config, dpo_trainer, lora_config
    from course_helpers.evaluate import evaluate, win_rate
    from course_helpers.models import load_judge, load_policy, load_reference
    from course_helpers.preferences import judged_pairs
    from course_helpers.prompts import load_prompts

    warnings.filterwarnings("ignore")
    openings, judge, reference = load_prompts("small"), load_judge("small"), load_reference("small")
    for seed in seeds:
        policy, tokenizer = load_policy("small")

        def cut(texts: list[str], read: Callable = tokenizer) -> list[str]:
            ids = [read(text).input_ids for text in texts]
            return list(dict.fromkeys(read.decode(row[:n]) for row in ids for n in range(2, 9) if n < len(row)))

        began = time.perf_counter()
        draw = {"max_new_tokens": 16, "least_difference": 0.25}
        train = [
            judged_pairs(policy, tokenizer, judge, cut(openings[:400]), seed=10 * seed + k, **draw) for k in (1, 2)
        ]
        unseen = cut(openings[400:])
        test = judged_pairs(policy, tokenizer, judge, unseen, seed=10 * seed + 3, **draw)
        every = judged_pairs(policy, tokenizer, judge, unseen, seed=10 * seed + 3, max_new_tokens=16)
        drawn = time.perf_counter()
        rows = [row for judged in train for row in judged.dataset()]
        config = dpo_config(tempfile.mkdtemp(), policy, beta=0.3, learning_rate=1e-3, batch_size=32, seed=seed)
        lora = lora_config(policy, rank=16)
        trainer = dpo_trainer(policy, tokenizer, config, rows, test.dataset(), lora=lora)
        trainer.train()
        trained = time.perf_counter()
        accuracy, of_all = (trainer.evaluate(judged.dataset())["eval_rewards/accuracies"] for judged in (test, every))
        model = trainer.model.eval()
        same = {"max_new_tokens": 16, "seed": seed}
        wins = win_rate(model, reference, tokenizer, judge, unseen[::2], count=2, **same)
        seen = evaluate(model, reference, tokenizer, judge, unseen[::2], count=2, **same)
        print(
            f"seed {seed}: {len(rows)} pairs in {drawn - began:.0f} s, trained in {trained - drawn:.0f} s; accuracy "
            f"{accuracy:.3f} ({of_all:.3f} with near-ties), win rate {wins.rate.mean:.3f} [{wins.rate.low:.3f}, "
            f"{wins.rate.high:.3f}], {seen}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="train all weights, not LoRA")
    parser.add_argument("--lesson", action="store_true", help="run lesson 05's training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one", choices=("ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one_run(arguments.one, arguments.full, arguments.file)))
    elif arguments.lesson:
        lesson(arguments.seeds)
    else:
        compare(arguments.rounds, arguments.full)


if __name__ == "__main__":
    main()
