"""A PPO iteration of `course_helpers.ppo` against one of TRL 0.11.4: what the README says about its speed and memory.

python benchmarks/ppo.py [--rounds 10] [--lab] [--sweep] [--fused] [--json FILE]

The claim: with the same policy, prompts, settings and threads an iteration, rollout and step, takes a fraction of the
time and of the memory, and a step on the same rollouts gives the same numbers.

Every side is a process of its own, TRL's in the environment that `tools/make_ppo_golden.py` uses, too. They take turns,
iteration by iteration, so that only one computes at a time and all see the machine in the same state; a ratio is taken
within each round. TRL generates as its documentation does it, `trainer.generate(queries)` with its own batch_size of 4;
another line has the batch_size at which it is fastest, the whole batch. The reward is a constant, so no judge is timed.
Processes start with the system's own settings of memory; another line gives TRL those which `course_helpers.ppo` sets
for itself (see its module `memory`). Another is ours without oneDNN, as it is on processors whose AVX-512 MKL uses.

--lab measures the old notebook's habits instead: TRL generates for one query at a time, and mini-batches are of 16.
--sweep measures float32 over batch sizes and response lengths.
--fused takes the policy with the GELU of its own configuration, a single operation. Otherwise it has the one of every
GPT-2 on the Hub, eight operations, which `course_helpers.ppo` fuses and TRL does not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
POLICY = ROOT / "course_helpers" / "assets" / "policy"
QUERY_TOKENS = (2, 8)
ALLOWED = 5e-4  # difference of float32 numbers, relative to max(1, |x|)
# What `course_helpers.memory` does from inside: keep large freed buffers, not hand them back at every step.
MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}


@dataclass(frozen=True)
class Work:
    """What one iteration consists of, the same for all sides."""

    batch_size: int = 64
    mini_batch_size: int = 64
    response_tokens: int = 16
    ppo_epochs: int = 4
    threads: int = os.cpu_count() or 1
    gelu: str = "gelu_new"


@dataclass(frozen=True)
class Side:
    """One of those who take turns.

    Attributes:
        library: "course" or "trl".
        bf16: `PPOConfig(bf16=True)` here, accelerate's mixed precision there.
        generate: "default", "whole" (batch_size= the whole batch) or "single" (one query at a time).
        keeps_memory: start the process with the settings that make glibc keep what is freed.
        onednn: let oneDNN multiply where `course_helpers.onednn` finds it faster; the course's side only.
    """

    library: str
    bf16: bool = False
    generate: str = "default"
    keeps_memory: bool = False
    onednn: bool = True


HEADLINE = {"course float32": Side("course"), "TRL float32": Side("trl")}
SIDES = {
    **HEADLINE,
    "course bf16": Side("course", bf16=True),
    "TRL bf16": Side("trl", bf16=True),
    "course float32, MKL alone": Side("course", onednn=False),
    "TRL float32, batch_size=whole": Side("trl", generate="whole"),
    "TRL float32, memory kept": Side("trl", keeps_memory=True),
}
OLD_LAB = {"course float32": Side("course"), "TRL float32": Side("trl", generate="single")}


# ------------------------------------------------------------------------------------------------- in a worker process


class Loop:
    """A trainer of one library on the small policy."""

    def __init__(self, side: Side, work: Work):
        import warnings

        import torch
        from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast, logging

        if side.library == "trl":
            import trl as api

            precision = {"accelerator_kwargs": {"mixed_precision": "bf16"}} if side.bf16 else {}
        else:
            import course_helpers.ppo as api

            precision = {"bf16": side.bf16, "onednn_products": side.onednn}
        warnings.simplefilter("ignore")  # deprecations there; here, that the reward is a constant
        logging.set_verbosity_error()
        torch.set_num_threads(work.threads)
        self.side, self.work = side, work
        policy = GPT2LMHeadModel.from_pretrained(POLICY, activation_function=work.gelu).float()
        model = api.AutoModelForCausalLMWithValueHead.from_pretrained(policy)
        head = model.v_head.summary
        with torch.no_grad():  # a head of its own would start differently in each process
            head.weight.copy_(torch.linspace(-0.05, 0.05, head.in_features))
            head.bias.zero_()
        end = "<|endoftext|>"
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(POLICY / "tokenizer.json"), eos_token=end, pad_token=end)
        sizes = {"batch_size": work.batch_size, "mini_batch_size": work.mini_batch_size, "ppo_epochs": work.ppo_epochs}
        self.trainer = api.PPOTrainer(api.PPOConfig(**sizes, **precision), model, None, tokenizer)
        self.sampling = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": work.response_tokens}
        self.sampling["pad_token_id"] = tokenizer.eos_token_id
        self.loaded = memory()

    def roll_out(self, queries: list[Any]) -> list[Any]:
        if self.side.generate == "single":
            return [self.trainer.generate(q, return_prompt=False, **self.sampling).squeeze(0) for q in queries]
        size = {"batch_size": len(queries)} if self.side.generate == "whole" else {}
        return self.trainer.generate(queries, return_prompt=False, **size, **self.sampling)

    def iterate(self, queries: list[list[int]]) -> dict[str, float]:
        """Seconds of a rollout and of the step on it, and how many tokens they were."""
        import torch

        rows = [torch.tensor(query) for query in queries]
        began = time.perf_counter()
        responses = self.roll_out(rows)
        generated = time.perf_counter()
        self.trainer.step(rows, responses, [torch.tensor(1.0)] * len(rows))
        ended = time.perf_counter()
        tokens = sum(len(row) for row in responses) / len(rows)
        return {"rollout": generated - began, "step": ended - generated, "total": ended - began, "tokens": tokens}

    def generate(self, queries: list[list[int]]) -> dict[str, list[list[int]]]:
        import torch

        return {"responses": [row.tolist() for row in self.roll_out([torch.tensor(query) for query in queries])]}

    def step_on(self, queries: list[list[int]], responses: list[list[int]]) -> dict[str, float]:
        """Everything a step on given rollouts says, but how long it took; each response with a score of its own."""
        import numpy as np
        import torch

        np.random.seed(0)  # noqa: NPY002 - the order of samples in both
        rows = [[torch.tensor(row) for row in part] for part in (queries, responses)]
        stats = self.trainer.step(*rows, [torch.tensor(index % 5 - 2.0) for index in range(len(queries))])
        numbers = {name: float(x) for name, x in stats.items() if np.ndim(x) == 0 and not name.startswith("time/")}
        for name in ("objective/logprobs", "objective/ref_logprobs"):
            for index, (query, response) in enumerate(zip(queries, responses, strict=True)):
                of_response = stats[name][index][len(query) - 1 : len(query) + len(response) - 1]
                numbers |= {f"{name}[{index}, {t}]": float(x) for t, x in enumerate(of_response)}
        return numbers

    def peak(self) -> dict[str, float]:
        """Megabytes: most so far, and how much more that is than when the models were loaded."""
        now = memory()
        if now is None or self.loaded is None:
            return {}
        return {"peak": now["VmHWM"], "above_loaded": now["VmHWM"] - self.loaded["VmRSS"]}


def memory() -> dict[str, float] | None:
    """Megabytes of this process now and at most; None where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return {name: int(fields[name].split()[0]) / 1024 for name in ("VmHWM", "VmRSS")}


def serve() -> None:
    """Answer commands, one a line: a method of `Loop` and its arguments."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    loop = None
    for line in sys.stdin:
        command, arguments = json.loads(line)
        if command == "load":
            loop, answer = Loop(Side(**arguments["side"]), Work(**arguments["work"])), {}
        else:
            answer = getattr(loop, command)(**arguments)
        print(json.dumps(answer), file=answers, flush=True)


# --------------------------------------------------------------------------------------------------------- the driver


class Worker:
    """A process that has one side's trainer."""

    def __init__(self, side: Side, work: Work, python: Path | str):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        environment = {name: value for name, value in os.environ.items() if name not in MEMORY}
        environment |= {**(MEMORY if side.keeps_memory else {}), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"OMP_NUM_THREADS": str(work.threads), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [python, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
        )
        self.ask("load", side=asdict(side), work=asdict(work))

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        try:
            print(json.dumps([command, arguments]), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.errors.seek(0)
            raise RuntimeError(f"a worker stopped at {command!r}:\n{self.errors.read()[-3000:]}")
        return json.loads(answer)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.errors.close()


class Queries:
    """Openings of reviews, cut to a few tokens, the same for all sides."""

    def __init__(self) -> None:
        import numpy as np
        from tokenizers import Tokenizer

        from course_helpers.prompts import load_prompts

        tokenizer = Tokenizer.from_file(str(POLICY / "tokenizer.json"))
        self.rows, self.rng = [tokenizer.encode(text).ids for text in load_prompts("small")], np.random.default_rng(0)

    def draw(self, count: int) -> list[list[int]]:
        chosen = self.rng.integers(len(self.rows), size=count)
        lengths = self.rng.integers(QUERY_TOKENS[0], QUERY_TOKENS[1] + 1, count)
        return [self.rows[row][:length] for row, length in zip(chosen, lengths, strict=True)]


def measure(sides: dict[str, Side], work: Work, rounds: int, warm_up: int, trl: Path) -> dict[str, Any]:
    """All sides in turn.

    Returns:
        "seconds": side → one dictionary a round; "memory": side → megabytes; "difference": side → largest difference of
        a first step's numbers from those of the first side.
    """
    queries, workers = Queries(), {}
    try:
        for name, side in sides.items():
            workers[name] = Worker(side, work, trl if side.library == "trl" else sys.executable)
        first = next(iter(workers.values()))
        given = queries.draw(work.batch_size)
        given = {"queries": given, **first.ask("generate", queries=given)}
        said = {name: worker.ask("step_on", **given) for name, worker in workers.items()}
        seconds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for index in range(warm_up + rounds):
            drawn = queries.draw(work.batch_size)
            order = list(workers) if index % 2 == 0 else list(workers)[::-1]
            for name in order:
                took = workers[name].ask("iterate", queries=drawn)
                if index >= warm_up:
                    seconds[name].append(took)
        peaks = {name: worker.ask("peak") for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.stop()
    ours = next(iter(said.values()))
    differences = {name: largest_difference(ours, numbers) for name, numbers in said.items()}
    return {"work": asdict(work), "seconds": seconds, "memory": peaks, "difference": differences}


def largest_difference(ours: dict[str, float], theirs: dict[str, float]) -> float:
    """Over all that both report: |x − y| / max(1, |y|)."""
    shared = ours.keys() & theirs.keys()
    assert len(shared) > 20, sorted(theirs)
    return max(abs(ours[name] - theirs[name]) / max(1.0, abs(theirs[name])) for name in shared)


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def ratios(result: dict[str, Any], side: str, part: str, baseline: str = "TRL float32") -> list[float]:
    """Quartiles over the rounds of how many times longer the baseline took."""
    pairs = zip(result["seconds"][baseline], result["seconds"][side], strict=True)
    return quartiles([theirs[part] / ours[part] for theirs, ours in pairs])


def report(result: dict[str, Any]) -> None:
    """The table of one measurement."""
    work, parts = Work(**result["work"]), ("rollout", "step", "total")
    rounds = len(next(iter(result["seconds"].values())))
    print(
        f"batch {work.batch_size}, mini-batches of {work.mini_batch_size}, {work.ppo_epochs} epochs, queries of "
        f"{QUERY_TOKENS[0]}-{QUERY_TOKENS[1]} tokens, responses of at most {work.response_tokens}; "
        f"{work.threads} threads; {rounds} rounds"
    )
    row = "{:30}{:>8}{:>8}{:>8}   {:20}{:20}{:20}{:>8}{:>14}"
    print(row.format("", "seconds", "", "", "TRL float32 took ... times as long", "", "", "peak MB", "").rstrip())
    print(row.format("", *parts, *parts, "", "above loaded"))
    for name, rows in result["seconds"].items():
        medians = [f"{statistics.median(r[part] for r in rows):.2f}" for part in parts]
        times = ["{1:.2f} ({0:.2f}-{2:.2f})".format(*ratios(result, name, part)) for part in parts]
        peak = [f"{megabytes:.0f}" for megabytes in result["memory"][name].values()] or ["", ""]
        print(row.format(name, *medians, *times, *peak).rstrip())
    print("medians; in brackets quartiles of the rounds' ratios")
    tokens = {n: statistics.mean(r["tokens"] for r in rows) for n, rows in result["seconds"].items()}
    print("tokens in a response, mean: " + ", ".join(f"{name} {mean:.1f}" for name, mean in tokens.items()))
    ours, theirs = (result["memory"][name] for name in HEADLINE)
    if ours and theirs:
        print(
            f"float32 peak memory: {ours['peak'] / theirs['peak']:.2f} of TRL's, "
            f"{ours['above_loaded'] / theirs['above_loaded']:.2f} above what loading takes"
        )
    apart = ", ".join(f"{name} {gap:.1e}" for name, gap in result["difference"].items() if gap)
    print(f"a step on the same rollouts, all numbers and log-probabilities, from course float32: {apart}\n")


def machine() -> dict[str, str]:
    """What the measurement ran on."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        named = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        cpu = named[0] if named else cpu
    return {"cpu": cpu, "cores": str(os.cpu_count()), "system": platform.platform(terse=True)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="measured iterations of each side")
    parser.add_argument("--warm-up", type=int, default=2, help="iterations before them")
    parser.add_argument("--threads", type=int, default=Work.threads)
    parser.add_argument("--lab", action="store_true", help="the old notebook's habits")
    parser.add_argument("--sweep", action="store_true", help="batch sizes and response lengths, float32")
    parser.add_argument("--fused", action="store_true", help="a policy whose GELU is one operation on both sides")
    parser.add_argument("--environment", type=Path, help="folder of TRL's virtual environment")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything that was measured")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.serve:
        serve()
        return 0
    sys.path.insert(0, str(ROOT))  # the environment's recipe lives beside the tool that records golden numbers
    from tools.ppo_golden.environment import DEFAULT, trl_python

    trl = trl_python(wanted.environment or DEFAULT)
    work = Work(threads=wanted.threads, gelu="gelu_pytorch_tanh" if wanted.fused else Work.gelu)
    plan = [(SIDES, work)]
    if wanted.lab:
        plan = [(OLD_LAB, replace(work, mini_batch_size=16))]
    if wanted.sweep:
        sizes = [(batch, tokens) for batch in (16, 64, 128) for tokens in (16, 48)]
        plan = [
            (HEADLINE, replace(work, batch_size=batch, mini_batch_size=batch, response_tokens=tokens))
            for batch, tokens in sizes
        ]
    about = machine()
    print("on " + ", ".join(about.values()))
    if wanted.lab:
        print("the old notebook's habits: TRL generates for one query at a time, mini-batches of 16")
    results = []
    for sides, of_sides in plan:
        results.append(measure(sides, of_sides, wanted.rounds, wanted.warm_up, trl))
        report(results[-1])
    if wanted.json:
        wanted.json.write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n")
    largest = max(gap for r in results for name, gap in r["difference"].items() if "float32" in name)
    if largest > ALLOWED:
        print(f"float32 numbers differ by {largest:.1e}, more than {ALLOWED:g}", file=sys.stderr)
    return int(largest > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
