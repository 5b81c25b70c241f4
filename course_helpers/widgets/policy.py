"""What a widget asks of a language model: the ids of a prompt, and the logits of the token that follows."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from course_helpers.rollouts import check_prompt, evaluation_mode, next_token_logits
from course_helpers.translation import N_, SpokenError

# Callbacks run beside a running cell and beside each other: one of them at a time asks a model.
MODEL_LOCK = threading.RLock()


def prompt_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a prompt.

    Raises:
        ValueError: the prompt is empty, or leaves no room for a new token in the model's context.
    """
    ids = list(tokenizer(prompt, verbose=False)["input_ids"])
    if not ids:
        raise SpokenError(N_("The prompt is empty: a policy needs at least one token to continue. Type a few words."))
    return check_prompt(model, ids, 1)


def next_logits(model: PreTrainedModel, token_ids: Sequence[int]) -> np.ndarray:
    """Logits of the token that follows `token_ids`, one for each token of the vocabulary.

    Raises:
        ValueError: there is no room for another token in the model's context.
    """
    check_prompt(model, token_ids, 1)
    with MODEL_LOCK, evaluation_mode(model):
        logits = next_token_logits(model, torch.tensor([list(token_ids)], device=model.device))[0]
    return logits[0].cpu().double().numpy()  # in this order: not every accelerator knows doubles
