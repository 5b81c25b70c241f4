"""What a run notes while TRL trains: numbers, samples, adapters that are kept, and which checkpoint is whole."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from course_helpers.dpo.saving import save_adapter
from course_helpers.evaluate import evaluate
from course_helpers.runs.data import unseen_prompts
from course_helpers.runs.job import Job

WHOLE = "whole"  # a file in each checkpoint that was written to its end


class Notes(TrainerCallback):
    """Writes a run's folder while TRL trains.

    Args:
        job: the run.
        total: steps in all.
        names: what is noted: its name in metrics.jsonl → TRL's.
        shown: what the progress line shows: its words → TRL's name.
    """

    def __init__(self, job: Job, total: int, names: Mapping[str, str], shown: Mapping[str, str]):
        """Nothing happens before `begin`."""
        self.job, self.total, self.names, self.shown = job, total, dict(names), dict(shown)
        self.trainer: Any = None
        self.progress: Any = None

    def begin(self, trainer: Any) -> None:
        """Look at this trainer's model."""
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Forget what came after the step of the checkpoint, and start the clock from there."""
        self.job.goes_on_after(state.global_step)
        self.progress = self.job.progress(self.total, state.global_step)
        if state.global_step == 0:
            self._keep(0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Note a step's numbers."""
        logs = logs or {}
        found = {name: float(logs[key]) for name, key in self.names.items() if key in logs}
        if not found:
            return
        self.job.log(state.global_step, **found)
        shown = {words: float(logs[key]) for words, key in self.shown.items() if key in logs}
        self.progress.update(state.global_step, **shown)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Keep the adapter and write samples where the settings ask for them."""
        self._keep(state.global_step)
        every = self.job.settings.sample_every
        writes = self.job.folder.write and self.job.processes == 1 and self.job.method != "reward"
        if writes and every and state.global_step % every == 0:
            self.job.folder.sample(state.global_step, self._samples())

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Mark the checkpoint as whole, and take the older ones away."""
        if not self.job.folder.write:
            return
        newest = self.job.folder.checkpoints / f"checkpoint-{state.global_step}"
        (newest / WHOLE).touch()
        for older in self.job.folder.checkpoints.glob("checkpoint-*"):
            if older != newest:
                shutil.rmtree(older, ignore_errors=True)

    def _keep(self, step: int) -> None:
        if step in self.job.settings.keep_steps and self.job.folder.write:
            save_adapter(self.trainer.model, self.job.folder.delta(step), self.job.settings.policy)

    def _samples(self) -> list[dict[str, Any]]:
        """Four responses to unseen prompts; torch's generator is left as it was."""
        job = self.job
        prompts = unseen_prompts(job.settings, job.tokenizer)[::40][:4]
        options = {"label": job.settings.label, "max_new_tokens": job.settings.max_new_tokens}
        seen = evaluate(self.trainer.model, job.reference, job.tokenizer, job.judge, prompts, **options)
        rows = zip(seen.queries, seen.responses, seen.rewards, strict=True)
        return [{"prompt": x, "response": y, "reward": round(r, 3)} for x, y, r in rows]


def newest_checkpoint(job: Job) -> str | None:
    """The last checkpoint that was written to its end, or None; those cut off by a kill are taken away."""
    found = sorted(job.folder.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [path for path in found if (path / WHOLE).is_file()]
    if job.folder.write:
        for path in set(found) - set(whole):
            shutil.rmtree(path, ignore_errors=True)
    return str(Path(whole[-1])) if whole else None


def train_on(job: Job, trainer: Any) -> None:
    """Train, from the newest checkpoint on if there is one.

    What a checkpoint holds beside the weights are pickles, and a pickle can hold code. transformers reads them with
    torch's weights-only reader, which knows tensors, numbers and plain containers, and raises at anything else.

    Args:
        job: the run.
        trainer: TRL's.

    Raises:
        ValueError: the checkpoint holds something else than a trainer's state.
    """
    checkpoint = newest_checkpoint(job)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except UnpicklingError:
        raise ValueError(
            f"{checkpoint} holds more than tensors and numbers, or is damaged; no code in it was run. Delete that "
            "folder, and the run begins anew."
        ) from None
