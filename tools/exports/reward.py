"""The reward of a response: the judge's log-odds of the wanted label, for prompt and response read as one text.

This file stands alone, beside reward.json: it needs torch and transformers, and nothing of the course. verl calls
`compute_score`, OpenRLHF calls `reward_func`; both reach the same judge, which is loaded at the first call.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

SETTINGS = Path(__file__).with_name("reward.json")
ONE_AT_A_TIME = threading.RLock()  # both programs call from several threads


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, **_unused: Any
) -> float:
    """The reward of one response, as verl asks for it.

    Args:
        data_source: where the prompt came from; any.
        solution_str: the response, without special tokens.
        ground_truth: the label whose log-odds is the reward, such as POSITIVE.
        extra_info: holds the prompt's text as "prompt".

    Returns:
        ln P/(1 − P) of that label.

    Raises:
        ValueError: extra_info has no prompt, or the judge no such label.
    """
    if not extra_info or not isinstance(extra_info.get("prompt"), str):
        raise ValueError("extra_info has no text called 'prompt'; the rows of this export have one: use its parquet")
    return judge_log_odds([extra_info["prompt"] + solution_str], ground_truth)[0]


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """The rewards of a batch, as OpenRLHF asks for them.

    Args:
        queries: prompt and response as one text each, special tokens included.
        prompts: the prompts alone; not needed.
        labels: the label wanted of each text; an empty one stands for the one in reward.json.

    Returns:
        "rewards" and "scores", each a tensor of shape (len(queries),), and "extra_logs", empty.
    """
    import torch

    default = settings()["label"]
    texts = [without_special_tokens(query) for query in queries]
    wanted = [label or default for label in labels]
    scores = torch.tensor([judge_log_odds([text], label)[0] for text, label in zip(texts, wanted, strict=True)])
    return {"rewards": scores, "scores": scores.clone(), "extra_logs": {}}


def without_special_tokens(text: str) -> str:
    """The text as a reader sees it: end and padding tokens, which the judge never met, are taken out."""
    for token in settings()["special_tokens"]:
        text = text.replace(token, "")
    return text


def judge_log_odds(texts: Sequence[str], label: str) -> list[float]:
    """ln P/(1 − P) of a label for each text.

    Args:
        texts: to be judged; longer ones than the judge's context are cut at the end.
        label: one of the judge's own labels.

    Returns:
        Each text's logit of that label, less ln Σ exp of the other labels' logits.

    Raises:
        ValueError: the judge has no such label.
    """
    import torch

    with ONE_AT_A_TIME, torch.no_grad():
        model, tokenizer = load_judge()
        if label not in model.config.label2id:
            raise ValueError(f"the judge has no label {label!r}; it has {sorted(model.config.label2id)}")
        longest = model.config.max_position_embeddings
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        logits = model(**batch.to(model.device)).logits.double()
        wanted = model.config.label2id[label]
        others = torch.arange(logits.shape[1], device=logits.device) != wanted
        return (logits[:, wanted] - logits[:, others].logsumexp(1)).tolist()


@lru_cache(maxsize=1)
def settings() -> dict[str, Any]:
    """What reward.json says: judge, label, special_tokens."""
    return json.loads(SETTINGS.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def load_judge() -> tuple[Any, Any]:
    """The judge and its tokenizer; on the CPU, unless the variable REWARD_DEVICE names another place."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    beside = SETTINGS.parent / settings()["judge"]
    place = str(beside) if beside.is_dir() else settings()["judge"]
    model = AutoModelForSequenceClassification.from_pretrained(place, use_safetensors=True, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    return model.float().eval().to(os.environ.get("REWARD_DEVICE", "cpu")), tokenizer
