"""The policy, its reference, the sentiment judge, and a second judge that only measures.

Each loader takes one name: ``"small"`` (shipped here, no network), ``"full"`` (the Hub's models the course uses), any
other Hub id, or a folder; `load_judge` also takes ``"second"``. What comes back is the ordinary transformers object, so
a lesson reads the same at every scale. Weights are read from safetensors only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Pipeline,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    pipeline,
)
from transformers.utils import logging

from course_helpers.assets import asset

FULL = {
    "policy": "lvwerra/gpt2-imdb",
    "judge": "lvwerra/distilbert-imdb",
    "second_judge": "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
    "reviews": "stanfordnlp/imdb",
}


class LoadError(RuntimeError):
    """A model or data set cannot be loaded; the message is one sentence with the reason and what to do."""


def locate(name: str | Path, role: str) -> tuple[str, bool]:
    """Where ``name`` is to be loaded from.

    Args:
        name: ``"small"``, ``"full"``, a Hub id ``owner/name``, or a folder; for a judge also ``"second"``, the shipped
            one that only measures.
        role: ``"policy"``, ``"judge"``, ``"second_judge"`` or ``"reviews"``: what ``"small"`` and ``"full"`` stand for.

    Returns:
        The folder or Hub id, and whether the network is to be left alone: a folder, or offline with a filled cache.

    Raises:
        FileNotFoundError: ``name`` looks like a folder, and there is none.
        LoadError: a Hub id that does not exist, or that is neither in the local cache nor to be had now.
        ValueError: ``"second"`` of something other than a judge.
    """
    name = str(name)
    if name == "second":
        if "judge" not in role:
            raise ValueError(f"'second' names a judge, and there is no second {role}; use 'small' or 'full'")
        name, role = "small", "second_judge"
    if name == "small":
        return str(asset("prompts.json" if role == "reviews" else role)), True
    name = FULL[role] if name == "full" else name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder), True
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise FileNotFoundError(f"there is no folder {name!r}; give a folder, a Hub id like {FULL[role]!r}, or 'small'")
    return name, not _hub_has(name, "dataset" if role == "reviews" else "model")


def _hub_has(repo: str, kind: str) -> bool:
    """True if the Hub has `repo` now, False if only the local cache has it; asks once, without retries."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().repo_info(repo, repo_type=kind, timeout=5)
        return True
    except GatedRepoError:
        raise LoadError(f"{repo!r} asks for a log-in on the Hub: accept its terms there, or use 'small'.") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise LoadError(f"The Hub has no {kind} {repo!r}: check its spelling, or use 'small'.") from None
    except Exception as error:  # whatever the network stack raises, the learner needs one sentence
        file = "README.md" if kind == "dataset" else "config.json"
        if isinstance(try_to_load_from_cache(repo, file, repo_type=kind), str):
            return False
        raise LoadError(
            f"{repo!r} is not on this machine and the Hub cannot be reached ({type(error).__name__}): "
            "go online once to download it, give a folder that holds it, or use 'small'."
        ) from None


def _read(loader: type, place: str, local: bool, **options: object) -> object:
    """``loader.from_pretrained`` without progress bars, its errors turned into one sentence."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return loader.from_pretrained(place, local_files_only=local, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LoadError(
            f"{place!r} cannot be loaded. It has to hold config.json, model.safetensors (pickled weights are not read) "
            f"and tokenizer.json, as a folder written by save_pretrained does. transformers says: {reason}"
        ) from None
    finally:
        if shown:
            logging.enable_progress_bar()


def best_device() -> torch.device:
    """What the environment variable ``COURSE_DEVICE`` names, else the accelerator if there is one, else the CPU."""
    if named := os.environ.get("COURSE_DEVICE"):
        return torch.device(named)
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def load_policy(
    name: str | Path = "small", device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model π_θ and its tokenizer.

    Args:
        name: ``"small"``, ``"full"``, a Hub id, or a folder.
        device: where to put it; the accelerator if there is one when None.

    Returns:
        The model in float32 and eval mode, and a tokenizer with a padding token.
    """
    place, local = locate(name, "policy")
    model = _read(AutoModelForCausalLM, place, local, dtype=torch.float32, use_safetensors=True)
    model.loss_type = "ForCausalLM"  # transformers cannot read it off GPT-2's class name, and would warn
    tokenizer = _read(AutoTokenizer, place, local)
    if tokenizer.pad_token is None:  # GPT-2 has none; what is padded is masked, so the end token serves
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device or best_device()).eval(), tokenizer


def load_reference(name: str | Path = "small", device: str | torch.device | None = None) -> PreTrainedModel:
    """Load π_ref: the same model as `load_policy`, frozen.

    Its parameters take no gradient, so no optimizer can move the reference by mistake.
    """
    model, _ = load_policy(name, device)
    return model.requires_grad_(False)


def load_judge(name: str | Path = "small", device: str | torch.device | None = None) -> Pipeline:
    """Load the sentiment judge as a transformers ``text-classification`` pipeline.

    Call it on a list of texts; with ``top_k=None`` it returns every label's score for each text (`score` picks one).
    Texts longer than its context are truncated.

    ``"second"`` is a judge that trains no policy. It learned from other labels than the small judge, has another shape
    and reads through another vocabulary, so it makes other mistakes: a reward that rises for the judge that trains and
    not for this one is over-optimisation, not a better policy. Keep it for measuring; a policy trained on it would
    need a third. At full scale give ``FULL["second_judge"]``, which was trained on sentences of other reviews.

    Args:
        name: ``"small"``, ``"second"``, ``"full"``, a Hub id, or a folder.
        device: where to put it; the accelerator if there is one when None.

    Source: Gao, Schulman and Hilton (2023), "Scaling Laws for Reward Model Overoptimization", where the judge that
    measures is a larger one, the gold reward model.
    """
    place, local = locate(name, "judge")
    model = _read(AutoModelForSequenceClassification, place, local, dtype=torch.float32, use_safetensors=True)
    tokenizer = _read(AutoTokenizer, place, local)
    return pipeline(
        "text-classification",
        model=model.eval(),
        tokenizer=tokenizer,
        device=device or best_device(),
        truncation=True,
        max_length=model.config.max_position_embeddings,
    )


def score(pipe_outputs: Sequence[Sequence[dict]], label: str = "POSITIVE") -> list[float]:
    """The score of one label for each text, found by its name.

    A pipeline sorts labels by score, so ``output[0]`` is POSITIVE for one text and NEGATIVE for the next: a reward
    picked by position rewards the judge's certainty (``[0]``) or its doubt (``[1]``).

    Args:
        pipe_outputs: what ``judge(texts, top_k=None)`` returned: a list of ``{"label", "score"}`` for each text.
        label: the label whose score is wanted.

    Raises:
        ValueError: an output does not hold that label.
    """
    scores = []
    for index, output in enumerate(pipe_outputs):
        if isinstance(output, dict):
            raise ValueError("each text needs the scores of all labels: call the judge with top_k=None")
        by_label = {entry["label"]: entry["score"] for entry in output}
        if label not in by_label:
            raise ValueError(f"output {index} has no label {label!r}; it has {sorted(by_label)}")
        scores.append(float(by_label[label]))
    return scores


def log_odds(judge: Pipeline, texts: Sequence[str], label: str = "POSITIVE", batch_size: int = 64) -> list[float]:
    """ln P/(1 − P) of a label for each text: with two labels, the difference of the judge's two raw logits.

    A judge with that label alone, such as a reward model trained on preferences, gives its one logit.

    Args:
        judge: a text-classification pipeline.
        texts: to be judged.
        label: the label looked for.
        batch_size: texts judged together.

    Raises:
        ValueError: the judge has no such label.
    """
    pipe_outputs = judge(list(texts), top_k=None, function_to_apply="none", batch_size=batch_size)
    wanted = score(pipe_outputs, label)
    if all(len(output) == 1 for output in pipe_outputs):
        return wanted
    others = [[entry["score"] for entry in output if entry["label"] != label] for output in pipe_outputs]
    return (np.array(wanted) - np.logaddexp.reduce(np.array(others), axis=1)).tolist()
