"""TRL's `DPOTrainer`, set up so that it is right on two CPU cores and on a GPU, and fast on both.

TRL trains; what is done here is to choose its settings (`dpo_config`), to hand it pairs in the form it wants
(`dpo_trainer`), and to refuse what it would take without a word and do something else with.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from course_helpers.checks import check_beta, check_whole, is_finite, require
from course_helpers.dpo.head import score_labels_only
from course_helpers.dpo.losses import LOSS_TYPES
from course_helpers.memory import enough_memory_for, keep_freed_memory
from course_helpers.onednn import faster_products

TRL_LOSS_TYPES = (
    *("sigmoid", "ipo", "hinge", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
COLUMNS = ("prompt", "chosen", "rejected")
ENDED = ("chosen_ended", "rejected_ended")
LESS_MEMORY = (
    "Checkpoints that were saved are whole. Take activation_checkpointing=True, a smaller max_length, or half the "
    "batch_size with gradient_accumulation_steps=2, which learns the same; build the trainer anew, and train again."
)


# ------------------------------------------------------------------------------------------------------------ settings


def context_length(model: PreTrainedModel | PeftModel) -> int | None:
    """Tokens that fit into the model, or None where its configuration sets no end."""
    return getattr(model.config, "max_position_embeddings", None)


def dpo_config(
    output_dir: str,
    model: PreTrainedModel | PeftModel,
    *,
    beta: float = 0.1,
    loss_type: str = "sigmoid",
    learning_rate: float = 1e-4,
    batch_size: int = 32,
    epochs: float = 1,
    seed: int = 0,
    **others: Any,
) -> DPOConfig:
    """Settings for `dpo_trainer`: TRL's own class, with values that fit the model and the machine.

    What TRL 1.16 would do by default, and what is chosen here:

    - bf16 on every machine → on an accelerator that has it; never on a CPU unless asked for;
    - on a CPU it wants `use_cpu` → set;
    - activations recomputed in the backward pass → kept, which is a quarter faster; ``activation_checkpointing=True``
      where memory is short;
    - pairs cut at 1024 tokens → at the model's context;
    - the reference read from disk again → its log-probabilities computed once, before training, from the model that
      was passed in: right for a model changed in memory, and no second model is kept (with several processes: at
      every step);
    - learning rate 1e-6, made for billions of weights → 1e-4, which suits LoRA and small models;
    - a log every 10 steps → every step, with progress bars off and nothing reported anywhere.

    Args:
        output_dir: folder for checkpoints.
        model: what will be trained; its context length and device count.
        beta: β, above 0, in reward per nat. High β keeps the policy near its reference.
        loss_type: "sigmoid", "ipo" or "hinge" (see `losses.dpo_loss`; TRL's "ipo" takes means over tokens), or another
            one of TRL's.
        learning_rate: of AdamW, falling linearly to 0.
        batch_size: pairs in a step on each device.
        epochs: how often all pairs are gone through.
        seed: of LoRA's first weights and of the order of pairs.
        **others: any field of `trl.DPOConfig` or `transformers.TrainingArguments`; they win.

    Returns:
        The settings.

    Raises:
        ValueError: a setting outside its range, or one that TRL would ignore or fail on later.
        TypeError: a name that `DPOConfig` does not have.
    """
    _check_settings(model, beta, loss_type, learning_rate, batch_size, epochs, others)
    settings = machine_settings(model, batch_size, epochs) | {
        "max_length": context_length(model),
        "precompute_ref_log_probs": int(os.environ.get("WORLD_SIZE", 1)) == 1,  # TRL's cache is a process's own
        "precompute_ref_batch_size": 2 * batch_size,
        "activation_checkpointing": others.pop("gradient_checkpointing", False),  # its old name
        "remove_unused_columns": False,  # the collator looks at more than TRL's columns
    }
    return DPOConfig(
        output_dir=str(output_dir),
        beta=beta,
        loss_type=[loss_type] if isinstance(loss_type, str) else loss_type,
        learning_rate=learning_rate,
        seed=seed,
        **(settings | others),
    )


def machine_settings(model: PreTrainedModel | PeftModel, batch_size: int, epochs: float) -> dict[str, Any]:
    """What depends on the machine, and what keeps a notebook quiet; the same for every trainer of TRL.

    Args:
        model: what will be trained.
        batch_size: rows in a step on each device.
        epochs: how often all rows are gone through.

    Returns:
        Fields of `transformers.TrainingArguments` by name.
    """
    device = model.device
    return {
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 2 * batch_size,
        "num_train_epochs": epochs,
        "lr_scheduler_type": "linear",
        "use_cpu": device.type == "cpu",
        "bf16": device.type == "cuda" and torch.cuda.is_bf16_supported(),
        "dataloader_pin_memory": device.type == "cuda",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _check_settings(
    model: PreTrainedModel | PeftModel,
    beta: float,
    loss_type: str,
    learning_rate: float,
    batch_size: int,
    epochs: float,
    others: dict[str, Any],
) -> None:
    check_beta(beta)
    require(is_finite(learning_rate) and learning_rate > 0, "learning_rate", learning_rate, "a finite number above 0")
    check_whole("batch_size", batch_size, at_least=1)
    require(is_finite(epochs) and epochs > 0, "epochs", epochs, "a number above 0")
    wanted = [loss_type] if isinstance(loss_type, str) else list(loss_type)
    for each in wanted:
        require(each in TRL_LOSS_TYPES, "loss_type", each, f"one of {', '.join(TRL_LOSS_TYPES)}")
    if others.get("label_smoothing") and set(wanted) <= set(LOSS_TYPES):
        raise ValueError(
            f"TRL ignores label_smoothing with loss_type={loss_type!r}. Use loss_type='robust', whose loss corrects "
            "for turned-round labels, or leave label_smoothing out."
        )
    if others.get("bf16") and model.device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError("bf16=True, but this GPU has no bfloat16: leave it out, or use fp16=True.")
    longest, context = others.get("max_length"), context_length(model)
    if longest is not None:
        check_whole("max_length", longest, at_least=2)
    if longest is not None and context is not None and longest > context:
        raise ValueError(
            f"max_length is {longest}, but the model's context holds {context} tokens, and positions beyond it do not "
            f"exist: leave max_length out, or set at most {context}."
        )
    for theirs, ours in {"per_device_train_batch_size": "batch_size", "num_train_epochs": "epochs"}.items():
        if theirs in others:
            raise ValueError(f"{theirs} is called {ours} here: pass {ours}={others[theirs]!r}.")


# --------------------------------------------------------------------------------------------------------------- pairs


def pair_dataset(pairs: Sequence[Any] | Dataset) -> Dataset:
    """Pairs as TRL takes them: the columns prompt, chosen, rejected, and whether each response came to its end.

    Args:
        pairs: `preferences.Pair`s, dictionaries with the same three texts, or a data set that has the columns. A
            response whose `chosen_ended` or `rejected_ended` is False was cut off, and no end token is put after it.

    Returns:
        A row a pair.

    Raises:
        ValueError: no pairs, or one without its three texts.
    """
    rows = (
        list(pairs)
        if isinstance(pairs, Dataset)
        else [pair if isinstance(pair, dict) else pair._asdict() for pair in pairs]
    )
    if not rows:
        raise ValueError("there are no pairs; one at least is needed.")
    for number, row in enumerate(rows):
        for name in COLUMNS:
            if not isinstance(row.get(name), str) or not row[name]:
                raise ValueError(
                    f"pair {number} has {name} = {row.get(name)!r}; it must be a text that is not empty. "
                    "preferences.validate_pairs finds all such rows."
                )
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    return Dataset.from_dict(columns | {name: [bool(row.get(name, True)) for row in rows] for name in ENDED})


@dataclass
class PairCollator(DataCollatorForPreference):
    """TRL's collator, which takes the end token away again from responses that were cut off.

    TRL puts one after every response, which says of a text in mid-sentence that it was finished. Where both responses
    of a pair were cut, most of that cancels in DPO; where one was not, it does not.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Lists of token ids → padded tensors, chosen rows first."""
        return super().torch_call([self._as_written(example) for example in examples])

    @staticmethod
    def _as_written(example: dict[str, Any]) -> dict[str, Any]:
        cut = {
            ids: example[ids][:-1]
            for ids, ended in zip(("chosen_ids", "rejected_ids"), ENDED, strict=True)
            if not example.get(ended, True) and len(example[ids]) > 1
        }
        return example | cut


# ------------------------------------------------------------------------------------------------------------- trainer


class _Trainer(DPOTrainer):
    """TRL's trainer, which multiplies with the CPU's faster library; the numbers are the same to rounding."""

    @enough_memory_for("this training", LESS_MEMORY)
    def train(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's training."""
        return super().train(*args, **kwargs)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's loss."""
        with faster_products(self.args.device):
            return super().compute_loss(*args, **kwargs)

    def compute_ref_log_probs(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """TRL's reference log-probabilities, first asked for while the trainer is being made."""
        score_labels_only(self.model, squares=self.use_weighting)
        with faster_products(self.args.device):
            return super().compute_ref_log_probs(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """TRL's evaluation."""
        with quiet() if self.args.disable_tqdm else nullcontext():
            return super().evaluate(*args, **kwargs)


@enough_memory_for("reading the pairs with the reference", LESS_MEMORY)
def dpo_trainer(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    config: DPOConfig,
    train_pairs: Sequence[Any] | Dataset,
    eval_pairs: Sequence[Any] | Dataset | None = None,
    *,
    lora: LoraConfig | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> DPOTrainer:
    """TRL's `DPOTrainer` for a model in memory, with its reference.

    The reference is the model as it is now, not as it is on disk. Its log-probabilities are computed here, before the
    first step; with ``precompute_ref_log_probs=False`` they are computed at every step: with LoRA by the model with its
    adapter off, without by a frozen copy. To resume a run, pass the model it began with.

    Args:
        model: π_θ at its start. It is trained in place; with `lora` it gets adapters, and only they train.
        tokenizer: of the model.
        config: from `dpo_config`.
        train_pairs: see `pair_dataset`.
        eval_pairs: pairs of other prompts, for the evaluation loss and accuracy.
        lora: shape of the adapters (`lora_config`); None trains every weight.
        callbacks: such as `curves.DPOCurves`.

    Returns:
        The trainer: call ``trainer.train()``, or ``trainer.train(resume_from_checkpoint=True)``.

    Raises:
        ValueError: pairs that cannot be used.
    """
    in_adapter = lora is not None or isinstance(model, PeftModel)
    keeps_copy = not (in_adapter or config.precompute_ref_log_probs)
    if config.device.type == "cpu":
        keep_freed_memory()
    with quiet() if config.disable_tqdm else nullcontext():
        trainer = _Trainer(
            model=model,
            ref_model=copy.deepcopy(model).requires_grad_(False) if keeps_copy else None,
            args=config,
            data_collator=PairCollator(pad_token_id=tokenizer.pad_token_id, max_length=config.max_length),
            train_dataset=pair_dataset(train_pairs),
            eval_dataset=None if eval_pairs is None else pair_dataset(eval_pairs),
            processing_class=tokenizer,
            callbacks=list(callbacks),
            peft_config=lora,
        )
    trainer.remove_callback(PrinterCallback)  # it prints a dictionary a step where there is no progress bar
    for each in filter(None, (trainer.model, trainer.ref_model)):
        score_labels_only(each, squares=config.use_weighting)
    return trainer


def sft_trainer(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str,
    pairs: Sequence[Any] | Dataset,
    *,
    learning_rate: float = 1e-4,
    batch_size: int = 32,
    epochs: float = 1,
    seed: int = 0,
    lora: LoraConfig | None = None,
    **others: Any,
) -> SFTTrainer:
    """TRL's `SFTTrainer` on the chosen responses: makes them likely before DPO compares them.

    DPO takes for granted that the reference could have written the responses. Where others wrote them, as in most
    tables of the Hub, a short supervised training comes first, and its result is policy and reference of DPO.

    Args:
        model: π_θ at its start, trained in place.
        tokenizer: of the model.
        output_dir: folder for checkpoints.
        pairs: see `pair_dataset`; only prompt and chosen are used, and only the chosen tokens count in the loss.
        learning_rate: of AdamW, falling linearly to 0.
        batch_size: responses in a step on each device.
        epochs: how often all are gone through.
        seed: of LoRA's first weights and of the order.
        lora: shape of the adapters; None trains every weight.
        **others: any field of `trl.SFTConfig` or `transformers.TrainingArguments`; they win.

    Returns:
        The trainer: call ``trainer.train()``.

    Raises:
        ValueError: pairs that cannot be used, or a setting outside its range.

    Source: Ouyang et al. 2022, "Training language models to follow instructions with human feedback", step 1.
    """
    _check_settings(model, 0.1, "sigmoid", learning_rate, batch_size, epochs, others)
    rows = pair_dataset(pairs).select_columns(["prompt", "chosen"]).rename_column("chosen", "completion")
    settings = machine_settings(model, batch_size, epochs) | {
        "max_length": context_length(model),
        "activation_checkpointing": others.pop("gradient_checkpointing", False),
        "completion_only_loss": True,
    }
    config = SFTConfig(output_dir=str(output_dir), learning_rate=learning_rate, seed=seed, **(settings | others))
    if config.device.type == "cpu":
        keep_freed_memory()
    with quiet():
        trainer = SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=lora)
    trainer.remove_callback(PrinterCallback)
    score_labels_only(trainer.model)
    return trainer


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars while pairs are tokenized and the reference reads them."""
    before, off = os.environ.get("TQDM_DISABLE"), datasets.are_progress_bars_disabled()
    os.environ["TQDM_DISABLE"] = "1"
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before
        if not off:
            datasets.enable_progress_bars()


def lora_config(model: PreTrainedModel, rank: int = 16, alpha: float | None = None, **others: Any) -> LoraConfig:
    """LoRA on every linear layer of the model's blocks: W + (α/r) B A, with A (r, in) and B (out, r).

    Args:
        model: what will be trained; its layers are looked up by their type.
        rank: r.
        alpha: α; twice the rank when None.
        **others: any field of `peft.LoraConfig`.

    Returns:
        The settings of the adapter.

    Raises:
        ValueError: a rank below 1.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
    """
    check_whole("rank", rank, at_least=1)
    gpt2 = model.config.model_type == "gpt2"  # its Conv1D keeps weights as (in, out)
    settings = {"target_modules": "all-linear", "fan_in_fan_out": gpt2, "lora_dropout": 0.0, "task_type": "CAUSAL_LM"}
    return LoraConfig(r=rank, lora_alpha=2 * rank if alpha is None else alpha, **(settings | others))
