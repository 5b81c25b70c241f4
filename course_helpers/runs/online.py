"""Methods that draw their own responses while they train: PPO (ours) and GRPO (TRL's)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from course_helpers.dpo.saving import save_adapter
from course_helpers.dpo.training import machine_settings, quiet
from course_helpers.memory import keep_freed_memory
from course_helpers.models import log_odds
from course_helpers.onednn import faster_products
from course_helpers.ppo import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer
from course_helpers.runs.callbacks import Notes, train_on
from course_helpers.runs.data import train_prompts
from course_helpers.runs.job import Job, Trained
from course_helpers.runs.models import lora, save_model
from course_helpers.runs.processes import share, wait
from course_helpers.runs.settings import GRPOSettings, PPOSettings

NUMBERS = {  # in metrics.jsonl: the trainer's statistics
    "reward": "ppo/mean_scores",
    "kl": "objective/kl",
    "beta": "objective/kl_coef",
    "loss": "ppo/loss/total",
    "value_loss": "ppo/loss/value",
    "clip_fraction": "ppo/policy/clipfrac",
    "entropy": "objective/entropy",
}


# ----------------------------------------------------------------------------------------------------------------- PPO


def ppo(job: Job) -> Trained:
    """The classic loop: draw, judge, step.

    The random numbers a response is drawn with depend on the seed, the step and its place in the batch alone. So
    several processes draw what one would draw, and a run that goes on what it would have drawn.
    """
    settings: PPOSettings = job.settings
    trainer = ppo_trainer(job)
    state = job.folder.checkpoints / "state.safetensors"
    if state.exists():
        trainer.load_state(state)
    job.goes_on_after(trainer.current_step)
    progress = job.progress(settings.steps, trainer.current_step)
    drawing = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": settings.max_new_tokens}
    _keep(job, trainer, 0)
    batches = endless(trainer.dataloader)
    while trainer.current_step < settings.steps:
        queries = next(batches)["input_ids"]
        darts = own_rows(darts_of(settings, trainer.current_step), trainer)
        responses = trainer.generate(queries, return_prompt=False, darts=darts, **drawing)
        texts = job.tokenizer.batch_decode(
            [torch.cat((q, y.cpu())) for q, y in zip(queries, responses, strict=True)], skip_special_tokens=True
        )
        scores = log_odds(job.judge, texts, settings.label)
        stats = trainer.step(queries, responses, scores)
        step = trainer.current_step
        job.log(step, **{name: float(stats[key]) for name, key in NUMBERS.items()})
        progress.update(step, reward=float(stats["ppo/mean_scores"]), KL=float(stats["objective/kl"]))
        if settings.sample_every and step % settings.sample_every == 0:
            job.folder.sample(step, _samples(job, queries, responses, scores))
        _keep(job, trainer, step)
        if settings.save_every and step % settings.save_every == 0 and step < settings.steps:
            job.folder.checkpoints.mkdir(parents=True, exist_ok=True)
            trainer.save_state(state)
    drawn = settings.steps * settings.batch_size
    model = trainer.model.pretrained_model
    return Trained(drawn, drawn, save=lambda folder: save_model(job, model, folder))


def ppo_trainer(job: Job) -> PPOTrainer:
    """The trainer for a job's settings; its batch sizes are each process's share."""
    settings: PPOSettings = job.settings
    reference = None if settings.lora_rank else job.reference
    set_seed(settings.seed)  # rules the fresh adapter and value head
    model = AutoModelForCausalLMWithValueHead.from_pretrained(job.policy, peft_config=lora(job))
    config = PPOConfig(
        exp_name="ppo",
        seed=settings.seed,
        learning_rate=settings.learning_rate,
        batch_size=share(settings.batch_size, "batch_size", job.processes),
        mini_batch_size=share(settings.mini_batch_size, "mini_batch_size", job.processes),
        ppo_epochs=settings.ppo_epochs,
        init_kl_coef=settings.beta,
        adap_kl_ctrl=settings.target_kl is not None,
        target=settings.target_kl or 6.0,
        horizon=200.0,  # the default's runs are a hundred times as long
        cliprange=settings.cliprange,
        vf_coef=settings.vf_coef,
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
    )
    rows = [
        {"input_ids": torch.tensor(job.tokenizer(text).input_ids)} for text in train_prompts(settings, job.tokenizer)
    ]
    return PPOTrainer(config, model, reference, job.tokenizer, rows, data_collator=_collate)


def _collate(samples: list[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
    return {"input_ids": [sample["input_ids"] for sample in samples]}


def endless(dataloader: Any) -> Iterator[dict[str, list[Tensor]]]:
    """One pass over the data after the other."""
    while True:
        yield from dataloader


def darts_of(settings: PPOSettings, step: int) -> Tensor:
    """Random numbers for a step's whole batch, (batch_size, max_new_tokens)."""
    seed = int(np.random.SeedSequence([settings.seed, step]).generate_state(1)[0])
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((settings.batch_size, settings.max_new_tokens), generator=generator)


def own_rows(table: Tensor, trainer: PPOTrainer) -> Tensor:
    """This process's rows of a table for the whole batch."""
    size = trainer.config.batch_size
    first = trainer.accelerator.process_index * size
    return table[first : first + size]


def _keep(job: Job, trainer: PPOTrainer, step: int) -> None:
    if step in job.settings.keep_steps and job.folder.write:
        save_adapter(trainer.model.pretrained_model, job.folder.delta(step), job.settings.policy)


def _samples(job: Job, queries: list[Tensor], responses: list[Tensor], scores: list[float]) -> list[dict[str, Any]]:
    decode = job.tokenizer.decode
    return [
        {"prompt": decode(q), "response": decode(y, skip_special_tokens=True), "reward": round(r, 3)}
        for q, y, r in list(zip(queries, responses, scores, strict=True))[:4]
    ]


# ---------------------------------------------------------------------------------------------------------------- GRPO


class _GRPOTrainer(GRPOTrainer):
    """TRL's trainer, which multiplies with the CPU's faster library; the numbers are the same to rounding."""

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """TRL's step, drawing included."""
        with faster_products(self.args.device):
            return super().training_step(*args, **kwargs)


def grpo(job: Job) -> Trained:
    """Groups of responses to one prompt, each held against its group's mean (Shao et al. 2024, section 4.1)."""
    settings: GRPOSettings = job.settings
    size = share(settings.batch_size, "batch_size", job.processes)
    common = machine_settings(job.policy, size, 1.0) | {
        "num_train_epochs": 1.0,
        "max_steps": settings.steps,
        "save_strategy": "steps" if settings.save_every else "no",
        "save_steps": settings.save_every or 1,
        "save_only_model": False,
        "activation_checkpointing": False,
        "lr_scheduler_type": "constant",
    }
    config = GRPOConfig(
        output_dir=str(job.folder.checkpoints),
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        beta=settings.beta,
        num_generations=settings.group,
        max_completion_length=settings.max_new_tokens,
        scale_rewards=settings.scale_rewards,
        **common,
    )
    if config.device.type == "cpu":
        keep_freed_memory()

    def reward(prompts: list[str], completions: list[str], **others: Any) -> list[float]:
        return log_odds(job.judge, [x + y for x, y in zip(prompts, completions, strict=True)], settings.label)

    names = {"reward": "reward", "kl": "kl", "loss": "loss", "entropy": "entropy", "length": "completions/mean_length"}
    notes = Notes(job, settings.steps, names, shown={"reward": "reward", "KL a token": "kl"})
    with quiet():
        trainer = _GRPOTrainer(
            model=job.policy,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": train_prompts(settings, job.tokenizer)}),
            processing_class=job.tokenizer,
            callbacks=[notes],
            peft_config=lora(job),
        )
    trainer.remove_callback(PrinterCallback)
    notes.begin(trainer)
    train_on(job, trainer)
    wait()
    drawn = settings.steps * settings.batch_size
    return Trained(drawn, drawn, save=lambda folder: save_model(job, trainer.model, folder, trainer))
