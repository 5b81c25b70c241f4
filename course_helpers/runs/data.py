"""What runs learn from and are measured on: cut openings, pairs, texts.

All of it depends on the settings alone, so every process of a run, and a run that goes on, has the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers import Pipeline, PreTrainedModel, PreTrainedTokenizerBase

from course_helpers.dpo.training import context_length
from course_helpers.preferences import judged_pairs, validate_pairs
from course_helpers.prompts import load_prompts
from course_helpers.runs.settings import PairSettings, Settings


class Openings(NamedTuple):
    """Texts to begin responses with.

    Attributes:
        train: openings to learn from.
        unseen: openings kept for evaluation.
    """

    train: list[str]
    unseen: list[str]


def openings(settings: Settings) -> Openings:
    """Openings, those at the end kept from training.

    Returns:
        Those to learn from, and those kept.

    Raises:
        ValueError: fewer openings than are to be kept.
    """
    texts = load_prompts(settings.prompts)
    if len(texts) <= settings.held_out:
        raise ValueError(f"held_out={settings.held_out}, but there are {len(texts)} openings in all: keep fewer.")
    return Openings(texts[: -settings.held_out][: settings.openings], texts[-settings.held_out :])


def cuts(texts: list[str], tokenizer: PreTrainedTokenizerBase, shortest: int, longest: int) -> list[str]:
    """The first `shortest` to `longest` tokens of each text, every cut once; whole texts are left out.

    Args:
        texts: openings.
        tokenizer: whose tokens are counted.
        shortest: tokens, at least 1.
        longest: tokens.

    Returns:
        The cuts as texts.
    """
    rows = tokenizer(texts).input_ids
    found = [tokenizer.decode(ids[:n]) for ids in rows for n in range(shortest, longest + 1) if n < len(ids)]
    return list(dict.fromkeys(found))


def train_prompts(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Cuts of the openings to learn from."""
    return cuts(openings(settings).train, tokenizer, *settings.prompt_tokens)


def unseen_prompts(settings: Settings, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Cuts of the openings kept for evaluation, spread evenly over all of them.

    Args:
        settings: of the run.
        tokenizer: whose tokens are counted.

    Returns:
        As many as `evaluation_prompts`.

    Raises:
        ValueError: fewer cuts than `evaluation_prompts`.
    """
    found = cuts(openings(settings).unseen, tokenizer, *settings.prompt_tokens)
    if len(found) < settings.evaluation_prompts:
        raise ValueError(
            f"the {settings.held_out} openings kept for evaluation give {len(found)} prompts, fewer than "
            f"evaluation_prompts={settings.evaluation_prompts}: raise held_out, or ask for fewer."
        )
    places = np.linspace(0, len(found) - 1, settings.evaluation_prompts).round().astype(int)
    return [found[place] for place in places]


class Pairs(NamedTuple):
    """Preference pairs as `dpo.training` takes them, and what they cost.

    Attributes:
        rows: columns prompt, chosen, rejected and whether each response came to its end.
        drawn: responses that were drawn for them.
        judged: responses that were judged.
    """

    rows: Dataset
    drawn: int
    judged: int


def preference_pairs(
    settings: PairSettings, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, judge: Pipeline | None
) -> Pairs:
    """Pairs from the table the settings name, or two responses to each prompt, ranked by the judge.

    Args:
        settings: of a method that learns from pairs.
        policy: draws the responses.
        tokenizer: of the policy.
        judge: ranks them; not needed where the pairs come from a table.

    Returns:
        The pairs.

    Raises:
        ValueError: a table without a usable pair.
    """
    if settings.pairs is not None:
        report = validate_pairs(Path(settings.pairs), tokenizer, context_length(policy))
        if not report.pairs:
            raise ValueError(f"{settings.pairs} holds no pair that can be used:\n{report}")
        return Pairs(report.dataset(), 0, 0)
    prompts = train_prompts(settings, tokenizer)
    options: dict[str, Any] = {
        "label": settings.label,
        "max_new_tokens": settings.max_new_tokens,
        "least_difference": settings.least_difference,
    }
    drawn = [
        judged_pairs(policy, tokenizer, judge, prompts, seed=10 * settings.seed + k, **options).dataset()
        for k in range(1, settings.pair_draws + 1)
    ]
    count = 2 * len(prompts) * settings.pair_draws
    return Pairs(concatenate_datasets(drawn), count, count)


def texts_to_imitate(name: str, settings: Settings) -> list[str]:
    """Texts for supervised fine-tuning; where they are the prompts' own openings, the unseen ones are left out."""
    return openings(settings).train if name == settings.prompts else load_prompts(name)[: settings.openings]
