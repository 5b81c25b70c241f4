"""The model of a run, written when it is trained, and read again to be measured: what is measured is what was kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import LoraConfig
from transformers import PreTrainedModel

from course_helpers.dpo.saving import load_adapter, save_adapter, save_policy
from course_helpers.dpo.training import lora_config
from course_helpers.models import load_policy
from course_helpers.runs.job import Job


def lora(job: Job) -> LoraConfig | None:
    """The adapter that is trained; None where every weight is."""
    rank = job.settings.lora_rank
    return lora_config(job.policy, rank) if rank else None


def save_model(job: Job, model: Any, folder: Path, trainer: Any = None) -> None:
    """Write an adapter, or the whole model where there is none.

    Args:
        job: the run.
        model: as it was trained.
        folder: made if it is not there.
        trainer: TRL's, which puts weights together that FSDP has spread over processes.
    """
    if trainer is not None and getattr(trainer, "is_fsdp_enabled", False):
        trainer.save_model(str(folder))
    elif job.folder.write and job.settings.lora_rank:
        save_adapter(model, folder, job.settings.policy)
    elif job.folder.write:
        save_policy(model, job.tokenizer, folder)


def load_model(job: Job) -> PreTrainedModel:
    """What `save_model` wrote, in evaluation mode."""
    folder = job.folder.model
    if job.settings.lora_rank:
        return load_adapter(folder, job.settings.policy).eval()
    return load_policy(folder)[0]
