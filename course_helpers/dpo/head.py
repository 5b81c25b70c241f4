"""The last layer of a policy that TRL trains on a CPU: logits of the tokens that count, once, and of no others.

TRL computes logits tile by tile, for every position, and each tile a second time in the backward pass: so a vocabulary
of 100,000 tokens fits a GPU. On a CPU it scores prompts and padding, too, and goes through the memory a dozen times.
Where the logits of the tokens with a label are few enough to be kept, computing them once takes half the time.
"""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput

NO_LABEL = -100  # of a token that the loss leaves out
MOST_LOGITS = 2**25
"""Logits that are kept for a backward pass: 128 MiB in float32, and twice as much again for ln π and its gradient."""
BLOCK = 128  # tokens; in whole blocks, batches ask for memory of the same sizes again, and what was freed is used again
# What a model's configuration calls a change of its logits, which is left to TRL.
CHANGES_LOGITS = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def score_labels_only(model: PreTrainedModel | PeftModel, squares: bool = False) -> None:
    """Let a model that TRL has prepared for training score the tokens with a label only; the answers stay the same.

    Calls that are not for the loss, models that change their logits, other devices than the CPU, and more than
    `MOST_LOGITS` logits are answered as before. Asked twice, it changes nothing more.

    Args:
        model: with the head of TRL's trainers, which answer ``model(..., labels=labels, fused_lm_head=True)``.
        squares: also ln Σ π² of each token, which weighted losses (WPO) ask for.
    """
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    tiled = plain.forward.__func__
    if getattr(tiled, "labels_only", False):
        return

    @functools.wraps(tiled)
    def forward(
        self: PreTrainedModel, *args: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **others: Any
    ) -> Any:
        if not fused_lm_head or labels is None or not _suits(self, labels, others):
            return tiled(self, *args, fused_lm_head=fused_lm_head, labels=labels, **others)
        count = others.pop("num_items_in_batch", None)
        state = self.base_model(*args, **(others | {"use_cache": False})).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        counts = targets != NO_LABEL
        number = int(counts.sum())
        missing = -number % BLOCK
        rows = torch.nn.functional.pad(state[counts], (0, 0, 0, missing))
        tokens = torch.nn.functional.pad(targets[counts], (0, missing))
        scores = token_scores(self.get_output_embeddings()(rows), tokens, squares)
        filled = {name: x.new_zeros(counts.shape).masked_scatter(counts, x[:number]) for name, x in scores.items()}
        loss = -filled["log_probs"].sum() / (max(number, 1) if count is None else count)
        return FusedCausalLMOutput(loss=loss, label_mask=counts, **filled)

    forward.labels_only = True
    plain.forward = MethodType(forward, plain)


def token_scores(logits: Tensor, targets: Tensor, squares: bool = False) -> dict[str, Tensor]:
    """What TRL's trainers ask of N tokens, each an (N,) tensor.

    Args:
        logits: (N, V).
        targets: the tokens that came, (N,).
        squares: whether ln Σ π² is asked for.

    Returns:
        "log_probs": ln π of each token, with its gradient. Without gradients: "entropy" of π, in nats; "mean_logits";
        "is_top1": whether no token is likelier; "log_sum_sq_probs": ln Σ π², if asked for.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision is too coarse for V terms
    log_pi = logits.log_softmax(-1)
    chosen = log_pi.gather(-1, targets[:, None])[:, 0]
    scores = {"log_probs": chosen, "is_top1": chosen.detach() >= log_pi.detach().amax(-1)}
    with torch.no_grad():
        scores["entropy"] = -log_pi.exp().mul_(log_pi).sum(-1)
        scores["mean_logits"] = logits.mean(-1)
        if squares:
            scores["log_sum_sq_probs"] = (2 * log_pi).logsumexp(-1)
    return scores


def _suits(model: PreTrainedModel, labels: Tensor, others: dict[str, Any]) -> bool:
    config = model.config.get_text_config()
    plain = all(getattr(config, name, None) is None for name in CHANGES_LOGITS)
    asks_more = others.get("shift_labels") is not None or getattr(config, "output_router_logits", False)
    few = int((labels[:, 1:] != NO_LABEL).sum()) * config.vocab_size <= MOST_LOGITS
    return labels.device.type == "cpu" and plain and not asks_more and few
