"""Tiny models, rollouts and trainers for the tests of `course_helpers.ppo`, and runs that a test starts as processes.

``python -m tests.ppo_runs kills FOLDER`` trains, and is killed again and again, until the run is whole.
``python -m torch.distributed.run --nproc-per-node 2 -m tests.ppo_runs shares FOLDER`` trains in two processes.
"""

import copy
import functools
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from course_helpers.ppo import AutoModelForCausalLMWithValueHead, LengthSampler, PPOConfig, PPOTrainer

VOCABULARY, CONTEXT, PAD, EOS = 64, 48, 62, 63
PURE = {"do_sample": True, "top_k": 0, "top_p": 1.0}
LORA = {"r": 2, "lora_alpha": 8, "lora_dropout": 0.1, "init_lora_weights": False, "fan_in_fan_out": True}


def tokenizer(pad="<eos>", side="right", eos="<eos>"):
    """A word a token: w0 ... w61, <pad>, <eos>; padding is the EOS unless `pad` is another word."""
    words = [f"w{i}" for i in range(PAD)] + ["<pad>", "<eos>"]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, pad_token=pad, padding_side=side)


def gpt2(seed=0, **changes):
    """A GPT-2 of two layers with dropout, its weights large enough that its tokens differ in probability."""
    sizes = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": 16, "n_layer": 2, "n_head": 2}
    ends = {"bos_token_id": EOS, "eos_token_id": EOS, "initializer_range": 0.3}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return GPT2LMHeadModel(GPT2Config(**(sizes | ends | changes)))


def llama(seed=0, **changes):
    """A Llama of two layers: rotary positions, grouped keys, an untied LM head."""
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "hidden_size": 16, "intermediate_size": 32}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3}
    ends = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": None}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**(sizes | layers | ends | changes)))


def with_head(model, seed=0, **options):
    """A value head on a model; `peft_config` puts an adapter below it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        return AutoModelForCausalLMWithValueHead.from_pretrained(model, **options)


def lora(model, seed=0, **changes):
    """A value head and a LoRA adapter, neither of them zero."""
    return with_head(model, seed, peft_config=LoraConfig(**(LORA | {"task_type": "CAUSAL_LM"} | changes)))


def neighbour(model, scale=0.03, seed=7):
    """A copy a little way off: a reference whose KL is not 0 from the first step on."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype) * scale)
    return other


def config(**changes):
    """Settings under which a few steps move the weights far enough for every clip to work."""
    sizes = {"batch_size": 8, "mini_batch_size": 4, "ppo_epochs": 2, "learning_rate": 1e-2}
    return PPOConfig(**(sizes | {"accelerator_kwargs": {"cpu": True}} | changes))


def trainer(model=None, ref_model=None, tokens=None, settings=None, **changes):
    """A trainer of a tiny GPT-2, or of what is given; further keywords are for `config`."""
    model = with_head(gpt2()) if model is None else model
    if ref_model is None and not model.is_peft_model and "num_shared_layers" not in (settings or {}):
        ref_model = neighbour(model)
    return PPOTrainer(config(**changes), model, ref_model, tokens or tokenizer(), **(settings or {}))


def rollouts(seed=0, count=8, longest=7):
    """Queries and responses of many lengths, some of one token, some ended by EOS, and scores."""
    rng = np.random.default_rng(seed)
    draw = lambda n: torch.from_numpy(rng.integers(0, PAD, n))  # noqa: E731
    queries = [draw(n) for n in rng.integers(1, longest, count)]
    responses = [draw(n) for n in rng.integers(1, longest + 2, count)]
    for response in responses[::3]:
        response[-1] = EOS
    return queries, responses, [float(score) for score in rng.normal(0.3, 1.5, count)]


def masks_for(responses, seed=0):
    """Response masks with gaps, each with at least one 1."""
    rng = np.random.default_rng(seed)
    masks = [torch.from_numpy((rng.random(len(response)) < 0.6).astype(np.int64)) for response in responses]
    for mask in masks:
        mask[rng.integers(len(mask))] = 1
    return masks


def weights(model):
    """Copies of all parameters, by name."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def fingerprint(trainer):
    """Everything that a refused call must leave as it was."""
    optimizer = trainer.optimizer.state_dict()
    kind, *words = np.random.get_state()  # noqa: NPY002 - the global one is meant
    return {
        "weights": weights(trainer.model),
        "gradients": [p.grad is not None for p in trainer.model.parameters()],
        "modes": [module.training for module in trainer.model.modules()],
        "optimizer": copy.deepcopy(optimizer["state"]),
        "groups": copy.deepcopy(optimizer["param_groups"]),
        "kl_coef": trainer.kl_ctl.value,
        "running": dict(vars(trainer.running)),
        "order": trainer.batches.state_dict() if trainer.batches else None,
        "count": (trainer.current_step, copy.deepcopy(trainer.stats_all)),
        "python": random.getstate(),
        "numpy": [kind, *words],
        "torch": torch.get_rng_state(),
    }


def assert_same(left, right, where=""):
    """Equality to the last bit, all the way down; NaN equals NaN."""
    assert type(left) is type(right), where
    if isinstance(left, dict):
        assert set(left) == set(right), where
        for name in left:
            assert_same(left[name], right[name], f"{where}/{name}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{where}/{index}")
    elif isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, float | np.ndarray):
        assert np.array_equal(left, right, equal_nan=not isinstance(left, np.ndarray) or left.dtype.kind == "f"), where
    else:
        assert left == right, where


def samples(count=24, seed=0):
    """A data set in memory: rows with a query."""
    return [{"query": query} for query in rollouts(seed, count)[0]]


def columns(rows):
    """A collator: rows → one list a column."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def reward(response):
    """A score that depends on the tokens alone, so that a resumed run finds the same."""
    return float(response.float().mean() / VOCABULARY + 0.1 * len(response))


def train(trainer, until, after_step=lambda trainer: None):
    """The classic loop, from where the trainer stands to step `until`."""
    length = LengthSampler(2, 6)
    while trainer.current_step < until:
        for batch in trainer.dataloader:
            queries = batch["query"]
            responses = trainer.generate(queries, length, return_prompt=False, **PURE)
            trainer.step(queries, responses, [reward(response) for response in responses])
            after_step(trainer)
            if trainer.current_step >= until:
                return


# --------------------------------------------------------------------------------------- killed until the run is whole

KILLS, KILLED_STEPS = 20, 24


def killable_run(path, tell=lambda word: None, steps=KILLED_STEPS):
    """A run that saves after every step, and goes on where the file says."""
    path = Path(path)
    changes = {"batch_size": 4, "mini_batch_size": 2, "use_score_scaling": True}
    run = trainer(settings={"dataset": samples(10), "data_collator": columns}, **changes)
    if path.exists():
        run.load_state(path)

    def save(run):
        tell(b"s")
        run.save_state(path)
        tell(b"d")

    train(run, steps, save)


def unfinished_in(folder):
    return [name for name in os.listdir(folder) if name.endswith(".unfinished")]


def kill_at_random(folder):
    """Fork runs and kill them, half of them while they save, until `KILLS` have died; then let one finish."""
    rng = random.Random(0)
    path = Path(folder) / "killed.safetensors"
    torch.set_num_threads(1)
    begin = time.perf_counter()
    killable_run(Path(folder) / "whole.safetensors")
    step = (time.perf_counter() - begin) / KILLED_STEPS
    killed = left = 0
    while True:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            killable_run(path, functools.partial(os.write, writing))
            os._exit(0)
        os.close(writing)
        if killed < KILLS:
            while os.read(reading, 1) not in (b"s" if killed % 2 else b"d", b""):
                pass
            if killed % 2:  # as soon as the file that is being written is there
                late = time.perf_counter() + step
                while not unfinished_in(folder) and time.perf_counter() < late:
                    pass
            else:
                time.sleep(rng.uniform(0, step))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(reading)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            killed += 1
            for name in unfinished_in(folder):  # a kill in the middle of writing
                os.unlink(Path(folder) / name)
                left += 1
        elif status:
            raise RuntimeError(f"a run ended with status {status} after {killed} kills")
        else:
            print(f"killed {killed} unfinished {left}")
            return


# ---------------------------------------------------------------------------------------------------- in two processes

SHARED = {
    "plain": {},
    "accumulated": {"mini_batch_size": 2, "gradient_accumulation_steps": 2, "max_grad_norm": 0.5},
    "normed": {"mini_batch_size": 2, "use_score_scaling": True, "use_score_norm": True, "whiten_rewards": True},
    "masked": {"mini_batch_size": 2, "kl_penalty": "full"},
    "skipped": {"mini_batch_size": 2, "ratio_threshold": 1.02, "ppo_epochs": 3},
    "sharing": {"mini_batch_size": 2},
    "lora": {"mini_batch_size": 2},
}
SHARED_STEPS = 3


def shared_trainer(case, batch_size, rank=0):
    """The trainer of a case; every process but the first starts from other weights, which it has to give up."""
    settings = {"num_shared_layers": 1} if case == "sharing" else {}
    model = lora(gpt2(), seed=rank) if case == "lora" else with_head(gpt2(seed=rank), seed=rank)
    reference = None if case in ("sharing", "lora") else neighbour(with_head(gpt2()))
    changes = SHARED[case] | {"batch_size": batch_size}
    changes["mini_batch_size"] = changes.get("mini_batch_size", 4) * batch_size // 4
    settings |= {"dataset": samples(20), "data_collator": columns}
    return trainer(model, reference, settings=settings, **changes)


def shared_steps(run, case, rank, first=0):
    """Steps on rollouts that are the same however many processes there are; each takes its part."""
    size = run.config.batch_size
    results = []
    for index in range(first, SHARED_STEPS):
        queries, responses, scores = rollouts(index)
        masks = masks_for(responses) if case == "masked" else None
        mine = slice(rank * size, (rank + 1) * size)
        np.random.seed(index)  # noqa: NPY002 - the classic order of draws
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.append(run.step(queries[mine], responses[mine], scores[mine], masks and masks[mine]))
    return results


def as_tensors(run, results):
    """Weights and statistics, as a file holds them."""
    tensors = {f"weights/{name}": p for name, p in weights(run.model).items()}
    for index, result in enumerate(results):
        for name, value in result.items():
            if not name.startswith("time/"):
                tensors[f"stats/{index}/{name}"] = torch.as_tensor(value, dtype=torch.float64)
    return tensors


def run_shares(folder):
    """All cases in this process, one of two; in float64, where Adam makes no weights of rounding."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    rank = int(os.environ["RANK"])
    for case in SHARED:
        run = shared_trainer(case, batch_size=4, rank=rank)
        tensors = as_tensors(run, shared_steps(run, case, rank))
        tensors["order"] = torch.tensor(list(run.batches))
        tensors["trainable"] = torch.tensor([p.requires_grad for p in run.model.parameters()])
        save_file(tensors, Path(folder) / f"{case}.{rank}.safetensors")

    straight = shared_trainer("plain", batch_size=4, rank=rank)
    train(straight, 4)
    first = shared_trainer("plain", batch_size=4, rank=rank)
    train(first, 2)
    path = Path(folder) / "state.safetensors"
    first.save_state(path)
    first.accelerator.wait_for_everyone()
    resumed = shared_trainer("plain", batch_size=4, rank=rank)
    torch.manual_seed(100 + rank)
    resumed.load_state(path)
    train(resumed, 4)
    for name, run in (("straight", straight), ("resumed", resumed)):
        tensors = weights(run.model) | {"generator": torch.get_rng_state()}
        save_file(tensors, Path(folder) / f"{name}.{rank}.safetensors")

    words = ""
    try:
        queries, responses, scores = rollouts(count=4)
        resumed.step(queries, responses, [float("nan") if rank == 1 else 0.0, *scores[1:]])
    except ValueError as error:
        words = str(error)
    (Path(folder) / f"refusal.{rank}.txt").write_text(words)


if __name__ == "__main__":
    {"kills": kill_at_random, "shares": run_shares}[sys.argv[1]](sys.argv[2])
