"""Methods that learn from texts or pairs that are there before training: SFT, preferred-FT, reward model, DPO.

TRL trains; here its trainers are handed the run's data and settings, and told what to note.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PrinterCallback, Trainer
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from course_helpers.dpo.training import dpo_config, dpo_trainer, machine_settings, quiet, sft_trainer
from course_helpers.files import whole_folder
from course_helpers.memory import keep_freed_memory
from course_helpers.models import locate, sentences
from course_helpers.preferences import judged_pairs
from course_helpers.runs.callbacks import Notes, train_on
from course_helpers.runs.data import Pairs, preference_pairs, texts_to_imitate, unseen_prompts
from course_helpers.runs.job import Job, Trained
from course_helpers.runs.models import lora, save_model
from course_helpers.runs.processes import share, wait
from course_helpers.runs.settings import (
    DPOSettings,
    PairSettings,
    PreferredFTSettings,
    RewardSettings,
    Settings,
    SFTSettings,
)

OF_SFT = {"loss": "loss", "token_accuracy": "mean_token_accuracy", "learning_rate": "learning_rate"}
OF_PAIRS = {"loss": "loss", "accuracy": "rewards/accuracies", "margin": "rewards/margins"}


def dpo(job: Job) -> Trained:
    """DPO on pairs drawn from the policy, or from a table."""
    settings: DPOSettings = job.settings
    pairs = _pairs(job)
    config = dpo_config(
        str(job.folder.checkpoints),
        job.policy,
        beta=settings.beta,
        loss_type=settings.loss_type,
        learning_rate=settings.learning_rate,
        batch_size=share(settings.batch_size, "batch_size", job.processes),
        epochs=settings.epochs,
        seed=settings.seed,
        **_saving(settings),
    )
    names = OF_PAIRS | {"chosen": "logps/chosen", "rejected": "logps/rejected", "learning_rate": "learning_rate"}
    notes = _notes(job, len(pairs.rows), settings.epochs, names, {"loss": "loss", "accuracy": "rewards/accuracies"})
    trainer = dpo_trainer(job.policy, job.tokenizer, config, pairs.rows, lora=lora(job), callbacks=[notes])
    return _trained(job, trainer, notes, pairs)


def preferred_ft(job: Job) -> Trained:
    """Supervised fine-tuning on the chosen responses: what is preferred is imitated, what is not is never seen."""
    settings: PreferredFTSettings = job.settings
    pairs = _pairs(job)
    notes = _notes(job, len(pairs.rows), settings.epochs, OF_SFT, {"loss": "loss"})
    trainer = sft_trainer(
        job.policy,
        job.tokenizer,
        str(job.folder.checkpoints),
        pairs.rows,
        learning_rate=settings.learning_rate,
        batch_size=share(settings.batch_size, "batch_size", job.processes),
        epochs=settings.epochs,
        seed=settings.seed,
        lora=lora(job),
        **_saving(settings),
    )
    trainer.add_callback(notes)
    return _trained(job, trainer, notes, pairs)


def sft(job: Job) -> Trained:
    """Supervised fine-tuning on whole texts: the next token, everywhere."""
    settings: SFTSettings = job.settings
    texts = texts_to_imitate(settings.texts, settings)
    common = _common(job, settings.epochs) | {"max_length": settings.max_length}
    config = SFTConfig(output_dir=str(job.folder.checkpoints), **common)
    notes = _notes(job, len(texts), settings.epochs, OF_SFT, {"loss": "loss"})
    with quiet():
        trainer = SFTTrainer(
            model=job.policy,
            args=config,
            train_dataset=Dataset.from_dict({"text": texts}),
            processing_class=job.tokenizer,
            peft_config=lora(job),
            callbacks=[notes],
        )
    trainer.remove_callback(PrinterCallback)
    return _trained(job, trainer, notes, Pairs(Dataset.from_dict({}), 0, 0))


def reward(job: Job) -> Trained:
    """A reward model: the policy with one number for a head, so that chosen responses score above rejected ones.

    It is written as an ordinary folder, and ``judge=FOLDER`` makes another run learn from it.

    Source: Ouyang et al. 2022, "Training language models to follow instructions with human feedback", equation 1.
    """
    settings: RewardSettings = job.settings
    pairs = _pairs(job)
    place, local = locate(settings.policy, "policy")
    torch.manual_seed(settings.seed)  # rules the fresh head
    with sentences(place, local):
        model = AutoModelForSequenceClassification.from_pretrained(
            place, local_files_only=local, num_labels=1, dtype=torch.float32, use_safetensors=True,
            trust_remote_code=False, id2label={0: settings.label}, label2id={settings.label: 0},
            pad_token_id=job.tokenizer.pad_token_id,
        )  # fmt: skip
    model.to(job.policy.device)
    train, unseen = (_as_ids(job, rows) for rows in _two_sides(job, pairs.rows))
    config = RewardConfig(output_dir=str(job.folder.checkpoints), **_common(job, settings.epochs))
    names = {"loss": "loss", "accuracy": "accuracy", "margin": "margin"}
    notes = _notes(job, len(train), settings.epochs, names, {"loss": "loss", "accuracy": "accuracy"})
    with quiet():
        trainer = RewardTrainer(
            model=model, args=config, train_dataset=train, processing_class=job.tokenizer, callbacks=[notes]
        )
    trainer.remove_callback(PrinterCallback)
    trained = _trained(job, trainer, notes, pairs)
    with quiet():
        accuracy = trainer.evaluate(unseen)["eval_accuracy"]
    trained.points = [{"method": "reward", "setting": f"{settings.epochs:g} epochs", "seed": settings.seed,
                       "pairs": len(train), "unseen_pairs": len(unseen), "accuracy": accuracy}]  # fmt: skip
    trained.save = lambda folder: _save_judge(job, trainer.model, folder)
    return trained


def _save_judge(job: Job, model: PreTrainedModel, folder: Path) -> None:
    if job.folder.write:
        with whole_folder(folder) as unfinished:
            model.save_pretrained(unfinished)
            job.tokenizer.save_pretrained(unfinished)


def _two_sides(job: Job, rows: Dataset) -> tuple[Dataset, Dataset]:
    """Pairs to learn from, and pairs of prompts that are not among them: of unseen openings where pairs are drawn."""
    settings: RewardSettings = job.settings
    if settings.pairs is None:
        options = {"max_new_tokens": settings.max_new_tokens, "least_difference": settings.least_difference}
        prompts = unseen_prompts(settings, job.tokenizer)
        drawn = judged_pairs(
            job.policy, job.tokenizer, job.judge, prompts, label=settings.label, seed=10 * settings.seed, **options
        )
        return rows, drawn.dataset()
    prompts = sorted(set(rows["prompt"]))
    kept = set(np.random.default_rng(settings.seed).permutation(prompts)[: math.ceil(len(prompts) / 20)].tolist())
    return rows.filter(lambda row: row["prompt"] not in kept), rows.filter(lambda row: row["prompt"] in kept)


def _as_ids(job: Job, rows: Dataset) -> Dataset:
    """Tokens of prompt and response; no end token, since a reward is asked for texts as they are."""
    read = job.tokenizer
    sides = {
        f"{side}_ids": [read(x + y).input_ids for x, y in zip(rows["prompt"], rows[side], strict=True)]
        for side in ("chosen", "rejected")
    }
    return Dataset.from_dict(sides)


# ------------------------------------------------------------------------------------------------ shared by all of them


def _pairs(job: Job) -> Pairs:
    """The run's pairs; several processes leave the last, smaller batch out, of which not all would get a like share."""
    settings: PairSettings = job.settings
    judge = None if settings.pairs is not None else job.judge
    pairs = preference_pairs(settings, job.policy, job.tokenizer, judge)
    if job.processes == 1:
        return pairs
    whole = len(pairs.rows) // settings.batch_size * settings.batch_size
    if whole == 0:
        raise ValueError(f"{len(pairs.rows)} pairs are less than one batch_size={settings.batch_size}: lower it.")
    return pairs._replace(rows=pairs.rows.select(range(whole)))


def _saving(settings: Settings) -> dict[str, Any]:
    if not settings.save_every:
        return {"save_strategy": "no"}
    return {"save_strategy": "steps", "save_steps": settings.save_every}


def _common(job: Job, epochs: float) -> dict[str, Any]:
    """Settings of TRL's trainers for which the package has no set-up of its own."""
    settings = job.settings
    if job.policy.device.type == "cpu":
        keep_freed_memory()
    size = share(settings.batch_size, "batch_size", job.processes)
    own = {"learning_rate": settings.learning_rate, "seed": settings.seed, "activation_checkpointing": False}
    return machine_settings(job.policy, size, epochs) | own | _saving(settings)


def _notes(job: Job, rows: int, epochs: float, names: dict[str, str], shown: dict[str, str]) -> Notes:
    steps = math.ceil(math.ceil(rows / job.settings.batch_size) * epochs)
    return Notes(job, steps, names, shown)


def _trained(job: Job, trainer: Trainer, notes: Notes, pairs: Pairs) -> Trained:
    notes.begin(trainer)
    train_on(job, trainer)
    wait()
    return Trained(pairs.drawn, pairs.judged, save=lambda folder: save_model(job, trainer.model, folder, trainer))
