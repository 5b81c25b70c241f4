"""What the tests of DPO share: pairs of our own, and a small model to train."""

from __future__ import annotations

import copy

import torch

from course_helpers.dpo.training import dpo_config, dpo_trainer
from course_helpers.models import load_policy

PAIRS = [
    {"prompt": "The film was", "chosen": " a joy from start to finish.", "rejected": " a mess."},
    {"prompt": "I thought the", "chosen": " acting was superb", "rejected": " acting was wooden and the plot thin."},
    {"prompt": "My friends and I", "chosen": " laughed a lot!", "rejected": " left after an hour, bored to tears."},
    {"prompt": "Nothing about this", "chosen": " is ordinary.", "rejected": " works."},
    {"prompt": "What a", "chosen": " wonderful surprise, and so well told", "rejected": " waste of a good cast"},
    {"prompt": "In the end", "chosen": " you are glad you came.", "rejected": " nobody cares who did it."},
    {"prompt": "The director", "chosen": " knows his craft.", "rejected": " seems to have been asleep."},
    {"prompt": "Go and", "chosen": " see it.", "rejected": " see something else, anything else at all."},
]


def small_policy(shift: float = 0.0):
    """The shipped policy in float32; with `shift`, its weights moved at random, so that margins are not 0."""
    model, tokenizer = load_policy("small", "cpu")
    if shift:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn(weight.shape, generator=generator) * shift * weight.std())
    return model, tokenizer


def trainer_of(folder, model, tokenizer, pairs=PAIRS, eval_pairs=None, lora=None, callbacks=(), **settings):
    settings = {"batch_size": 4, "epochs": 1, "save_strategy": "no"} | settings
    config = dpo_config(str(folder), model, **settings)
    return dpo_trainer(model, tokenizer, config, pairs, eval_pairs, lora=lora, callbacks=callbacks)


def frozen_copy(model):
    return copy.deepcopy(model).eval().requires_grad_(False)
