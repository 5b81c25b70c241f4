"""Instruction tuning in two phases: knowledge first, then skills, with some of the knowledge played again.

    examples → prompt and completion → tokens and labels → `tune` → `success` on held-out examples
    reviews drawn from the policy before → rows without a prompt, mixed in, so that it still writes reviews

The loss is that of `trl.SFTTrainer`: the mean surprise −ln π_θ(ω_t | ω_<t, X) of the tokens that have a label.

Source: Sudalairaj et al. 2024, "LAB: Large-Scale Alignment for ChatBots", section 3.2 (phases and replay).
"""

from __future__ import annotations

import copy
import math
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from course_helpers.checks import check_whole, is_finite, require
from course_helpers.dpo import head
from course_helpers.dpo.training import LESS_MEMORY, context_length, lora_config, machine_settings, quiet
from course_helpers.evaluate import NORMAL_95, Interval
from course_helpers.memory import enough_memory_for, keep_freed_memory
from course_helpers.onednn import faster_products
from course_helpers.prompts import question_prompt
from course_helpers.rollouts import evaluation_mode
from course_helpers.translation import _

NO_LABEL = head.NO_LABEL
"""The label of a token that the loss leaves out, in every library built on PyTorch."""
Row = dict[str, list[int]]
# Names of layers in GPT-2, and in models built like Llama.
MLP = ("mlp.c_fc", "mlp.c_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = ("attn.c_attn", "q_proj", "k_proj", "v_proj")


class Question(Protocol):
    """What an answer is asked for: an example of a taxonomy, of a teacher, or one's own."""

    @property
    def context(self) -> str | None:
        """The text that the question is about, or None."""

    @property
    def question(self) -> str:
        """What is asked."""

    @property
    def answer(self) -> str:
        """What is to be answered."""


# ---------------------------------------------------------------------------------------------------------------- rows


def prompt_of(example: Question) -> str:
    """X of an example, as `question_prompt` writes it.

    Examples:
        >>> from course_helpers.taxonomy import Seed
        >>> print(prompt_of(Seed(None, "Who won?", "The Paper Lantern.")))
        Question: Who won?
        Answer:
    """
    return question_prompt(example.context, example.question)


def completion_of(example: Question) -> str:
    """Y: the answer, with the space that stands before a word.

    Examples:
        >>> from course_helpers.taxonomy import Seed
        >>> completion_of(Seed(None, "Who won?", "The Paper Lantern."))
        ' The Paper Lantern.'
    """
    return f" {example.answer}"


def tokens_and_labels(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> Row:
    """One row of training: tokens of X and Y with the end of text, and labels for those of Y alone.

    The model is not taught to write questions, only to answer them and to stop.

    Args:
        tokenizer: of the model that is to be trained.
        prompt: X.
        completion: Y, with the space that stands before it.

    Returns:
        ``input_ids`` and ``labels``, both (T); a label of -100 is left out of the loss.
    """
    X, Y = tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"] + [tokenizer.eos_token_id]
    return {"input_ids": X + Y, "labels": [NO_LABEL] * len(X) + Y}


def instruction_rows(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Question]) -> list[Row]:
    """`tokens_and_labels` of examples."""
    return [tokens_and_labels(tokenizer, prompt_of(example), completion_of(example)) for example in examples]


def review_rows(reviews: Sequence[Sequence[int]]) -> list[Row]:
    """Rows of plain text: every token but the first has a label, as in pre-training.

    Examples:
        >>> review_rows([[0, 5, 7]])
        [{'input_ids': [0, 5, 7], 'labels': [0, 5, 7]}]
    """
    return [{"input_ids": list(tokens), "labels": list(tokens)} for tokens in reviews]


def mix(rows: Sequence[Any], replay: Sequence[Any], share: float, seed: int = 0) -> list[Any]:
    """Rows of a phase with rows of the one before among them, in random order.

    Args:
        rows: of this phase, all of which are kept.
        replay: of an earlier phase; drawn from it without repeats as long as they last.
        share: part of the mixture that is replay, 0 ≤ share < 1: n rows get n · share / (1 − share) of them.
        seed: of the draws and of the order.

    Returns:
        The mixture.

    Raises:
        ValueError: a share outside its range, or nothing to replay.

    Examples:
        >>> sorted(mix(["new", "new", "new"], ["old"], share=0.25))  # every fourth row is an old one
        ['new', 'new', 'new', 'old']
    """
    require(is_finite(share) and 0 <= share < 1, "share", share, "a number from 0 up to, not including, 1")
    count = round(len(rows) * share / (1 - share))
    if count and not replay:
        raise ValueError(f"share={share} asks for {count} rows to replay, and there are none; give some, or share=0.")
    draw = random.Random(seed)
    again: list[Any] = []
    while len(again) < count:
        again += draw.sample(list(replay), min(len(replay), count - len(again)))
    mixture = [*rows, *again]
    draw.shuffle(mixture)
    return mixture


@torch.no_grad()
def draw_reviews(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int = 256, tokens: int = 48, seed: int = 0
) -> list[list[int]]:
    """Reviews in the policy's own words: what it could do before, to be kept while it learns something else.

    Args:
        model: π_ref.
        tokenizer: of the model.
        count: reviews.
        tokens: length of each, or less where it ends by itself.
        seed: of the draws; the global random generator stays as it was.

    Returns:
        (count) lists of at most tokens + 1 token ids, each beginning with the end-of-text token.
    """
    check_whole("count", count, at_least=1)
    check_whole("tokens", tokens, at_least=1)
    generator = torch.Generator(model.device).manual_seed(seed)
    end = tokenizer.eos_token_id
    ids = torch.full((count, 1), end, device=model.device)
    cache, newest = None, ids
    with evaluation_mode(model), faster_products(model.device):
        for _step in range(tokens):
            output = model(newest, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            reached = output.logits[:, -1].float().softmax(-1).cumsum(-1)
            # One number a row instead of one a token, as multinomial would draw: the first sum that goes beyond it.
            dart = torch.rand((count, 1), generator=generator, device=model.device) * reached[:, -1:]
            newest = torch.searchsorted(reached, dart, right=True).clamp(max=reached.shape[1] - 1)
            ids = torch.cat([ids, newest], dim=1)
    return [[end, *_until(row[1:], end)] for row in ids.tolist()]


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


# ------------------------------------------------------------------------------------------------------------ training


@dataclass(frozen=True)
class Phase:
    """How one phase is trained.

    Attributes:
        steps: of the optimizer.
        learning_rate: of AdamW, rising over the first tenth and then falling to 0.
        rank: of the adapter.
        layers: that get one, by the ends of their names.
        reviews: share of all rows that are plain reviews.
        batch_size: rows in a step.
    """

    steps: int
    learning_rate: float
    rank: int
    layers: tuple[str, ...]
    reviews: float
    batch_size: int = 16


# Facts go into the layers that look up what goes with a word (Geva et al. 2021, "Transformer Feed-Forward Layers Are
# Key-Value Memories"); finding a word in the review and copying it is attention's work (Olsson et al. 2022, "In-context
# Learning and Induction Heads"). An adapter on all layers does worse on words not seen in training, and spoils the
# reviews more.
KNOWLEDGE_PHASE = Phase(steps=180, learning_rate=4e-3, rank=16, layers=MLP, reviews=0.3)
"""How the course trains knowledge: an adapter on the layers of each MLP."""
SKILL_PHASE = Phase(steps=250, learning_rate=5e-3, rank=32, layers=ATTENTION, reviews=1 / 3)
"""How the course trains a skill: an adapter on attention."""


def tune_phase(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    phase: Phase,
    rows: Sequence[Row],
    reviews: Sequence[Row],
    seed: int = 0,
) -> Tuned:
    """One phase: its rows, gone through as often as its steps ask for, with plain reviews among them; then `tune`.

    Args:
        model: where the phase starts; it stays as it was.
        tokenizer: of the model.
        phase: how it is trained.
        rows: of instructions, with those to replay among them (`mix`).
        reviews: rows of plain text (`review_rows`).
        seed: of the mixture, of LoRA's first weights and of the order.

    Returns:
        The tuned model, its losses and its time.
    """
    wanted = phase.steps * phase.batch_size * (1 - phase.reviews)
    rounds = math.ceil(wanted / max(1, len(rows)))
    return tune(
        model,
        tokenizer,
        mix(list(rows) * rounds, reviews, phase.reviews, seed),
        learning_rate=phase.learning_rate,
        batch_size=phase.batch_size,
        seed=seed,
        lora=lora_config(model, phase.rank, target_modules=list(phase.layers)),
        max_steps=phase.steps,
        warmup_steps=0.1,
    )


@dataclass(frozen=True)
class Tuned:
    """What a phase leaves.

    Attributes:
        model: the policy with its adapter; ``model.merge_and_unload()`` makes plain weights of both.
        losses: mean loss a token with a label, at each step.
        seconds: of training.
    """

    model: PeftModel
    losses: tuple[float, ...]
    seconds: float


@enough_memory_for("this training", f"The model given is as it was. {LESS_MEMORY}")
def tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    learning_rate: float = 1e-3,
    batch_size: int = 32,
    epochs: float = 1,
    seed: int = 0,
    lora: LoraConfig | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **others: Any,
) -> Tuned:
    """Train an adapter on rows, with TRL's `SFTTrainer`. The model given stays as it was: a copy is trained.

    Args:
        model: where training starts.
        tokenizer: of the model.
        rows: ``input_ids`` and ``labels``; see `instruction_rows`, `review_rows` and `mix`.
        learning_rate: of AdamW, falling linearly to 0.
        batch_size: rows in a step on each device.
        epochs: how often all rows are gone through.
        seed: of LoRA's first weights and of the order.
        lora: shape of the adapter; rank 16 on every linear layer when None.
        callbacks: of the transformers library, such as live curves.
        **others: any field of `trl.SFTConfig`; they win.

    Returns:
        The tuned model, its losses and its time.

    Raises:
        ValueError: no rows, a row longer than the model's context, or a setting outside its range.
        NotEnoughMemoryError: the memory does not suffice.
    """
    require(is_finite(learning_rate) and learning_rate > 0, "learning_rate", learning_rate, "a number above 0")
    require(is_finite(epochs) and epochs > 0, "epochs", epochs, "a number above 0")
    check_whole("batch_size", batch_size, at_least=1)
    _check_rows(rows, context_length(model))
    student = copy.deepcopy(model)
    settings = machine_settings(student, batch_size, epochs) | {
        "max_length": context_length(student),
        "activation_checkpointing": False,  # TRL's default saves memory, and computes each forward pass twice
    }
    with tempfile.TemporaryDirectory() as folder:  # nothing is saved there: save_strategy is "no"
        config = SFTConfig(output_dir=folder, learning_rate=learning_rate, seed=seed, **(settings | others))
        if config.device.type == "cpu":
            keep_freed_memory()
        with quiet():
            trainer = SFTTrainer(
                model=student,
                args=config,
                train_dataset=Dataset.from_list(list(rows)),
                processing_class=tokenizer,
                peft_config=lora or lora_config(student),
                callbacks=list(callbacks),
            )
        trainer.remove_callback(PrinterCallback)
        head.score_labels_only(trainer.model)
        with faster_products(config.device):
            result = trainer.train()
    # The trainer leaves a forward of its own on the model, which a later adapter on the same weights would bypass.
    vars(trainer.model.get_base_model()).pop("forward", None)
    losses = tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    return Tuned(trainer.model.eval(), losses, result.metrics["train_runtime"])


def _check_rows(rows: Sequence[Row], limit: int | None) -> None:
    if not rows:
        raise ValueError("there are no rows to train on; generate some examples first.")
    longest = max(len(row["input_ids"]) for row in rows)
    if limit and longest > limit:
        raise ValueError(f"a row has {longest} tokens, and the model reads {limit} at most; shorten its review.")
    if not any(label != NO_LABEL for row in rows for label in row["labels"][1:]):
        raise ValueError("no token has a label, so there is nothing to learn; see tokens_and_labels.")


# ------------------------------------------------------------------------------------------------------------- testing


@dataclass(frozen=True)
class Score:
    """How many answers were right.

    Attributes:
        right: answers equal to the example's, but for spaces around them.
        count: examples asked.
        wrong: example and answer of each that was not.

    Examples:
        >>> print(Score(right=10, count=10, wrong=()))  # all were right, and yet it is not certain
        10 of 10 right: 1.00 (0.72 to 1.00)
    """

    right: int
    count: int
    wrong: tuple[tuple[Question, str], ...]

    @property
    def share(self) -> Interval:
        """Share of right answers with Wilson's 95 % interval, which stays inside 0 to 1 when all or none are right.

        Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
        """
        n, p, z = self.count, self.right / self.count, NORMAL_95
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        return Interval(p, max(0.0, middle - half), min(1.0, middle + half))

    def __str__(self) -> str:
        """Counts, share and interval in a line."""
        share = self.share
        text = _("{right} of {count} right: {mean:.2f} ({low:.2f} to {high:.2f})")
        return text.format(right=self.right, count=self.count, mean=share.mean, low=share.low, high=share.high)


@torch.no_grad()
def answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Question],
    max_new_tokens: int = 24,
    batch_size: int = 64,
) -> list[str]:
    """The likeliest answer token by token (greedy), without spaces around it; cut where the model ends the text.

    Args:
        model: the policy.
        tokenizer: of the model.
        examples: what to ask; their own answers are not looked at.
        max_new_tokens: longest answer.
        batch_size: questions asked together.

    Returns:
        An answer to each example.
    """
    texts: list[str] = []
    with evaluation_mode(model), faster_products(model.device):
        for start in range(0, len(examples), batch_size):
            prompts = [prompt_of(example) for example in examples[start : start + batch_size]]
            inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
            drawn = model.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id
            )
            new = drawn[:, inputs["input_ids"].shape[1] :]
            texts += [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]
    return texts


def success(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Question]
) -> Score:
    """Ask all examples and compare word for word.

    Args:
        model: the policy.
        tokenizer: of the model.
        examples: one or more.

    Returns:
        How many are right, and those that are not.

    Raises:
        ValueError: no examples.
    """
    if not examples:
        raise ValueError("there are no examples to ask; give at least one.")
    given = answers(model, tokenizer, examples)
    pairs = list(zip(examples, given, strict=True))
    wrong = tuple((example, text) for example, text in pairs if text != example.answer.strip())
    return Score(len(examples) - len(wrong), len(examples), wrong)


@torch.no_grad()
def perplexity(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_tokens: int = 128,
) -> float:
    """exp of the mean surprise of a token, −(1/T) Σ ln π_θ(ω_t | ω_<t), over all tokens of all texts.

    As if the model chose among so many equally likely tokens at each step. Each text follows the end-of-text token,
    which is what a review follows.

    Args:
        model: the policy.
        tokenizer: of the model.
        texts: not empty.
        max_tokens: read of each text.

    Returns:
        From 1, for a model that always knows what comes, upwards.

    Raises:
        ValueError: no text with a token.
    """
    rows = [tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"] for text in texts]
    rows = [[tokenizer.eos_token_id, *row] for row in rows if row]
    if not rows:
        raise ValueError("there is no text to read; give at least one that is not empty.")
    surprise, count = 0.0, 0
    with evaluation_mode(model), faster_products(model.device):
        for row in rows:
            ids = torch.tensor([row], device=model.device)
            logits = model(ids, attention_mask=torch.ones_like(ids)).logits[0, :-1].float()
            surprise += cross_entropy(logits, ids[0, 1:], reduction="sum").item()
            count += len(row) - 1
    return math.exp(surprise / count)
