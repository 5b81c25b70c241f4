"""The policy, its reference, the sentiment judge, and a second judge that only measures.

Each loader takes one name: ``"small"`` (shipped here, no network), ``"full"`` (the Hub's models the course uses), any
other Hub id, or a folder; `load_judge` also takes ``"second"``. What comes back is the ordinary transformers object, so
a lesson reads the same at every scale. Weights are read from safetensors only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from course_helpers.files import is_full
from course_helpers.memory import enough_memory_for
from course_helpers.onednn import faster_products

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

    try:
        HfApi().repo_info(repo, repo_type=kind, timeout=5)
        return True
    except Exception as error:  # whatever the network stack raises, the learner needs one sentence
        refused = _refused(repo, kind, error)
        if refused is not None:
            raise refused from None
        file = "README.md" if kind == "dataset" else "config.json"
        if isinstance(try_to_load_from_cache(repo, file, repo_type=kind), str):
            return False
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = type(error).__name__ if status is None else f"HTTP {status}"
        raise LoadError(
            f"{repo!r} is not on this machine and the Hub cannot be reached ({why}): "
            "go online once to download it, give a folder that holds it, or use 'small'."
        ) from None


def _refused(repo: str, kind: str, error: BaseException) -> LoadError | None:
    """What to say of an error if the Hub was reached and says no; None for any other error."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    for each in _with_causes(error):
        if isinstance(each, GatedRepoError):
            return LoadError(
                f"{repo!r} asks for a log-in on the Hub: accept its terms there and log in with `hf auth login`, or "
                "use 'small'."
            )
        if isinstance(each, RepositoryNotFoundError | HFValidationError):
            return LoadError(f"The Hub has no {kind} {repo!r}: check its spelling, or use 'small'.")
        status = getattr(getattr(each, "response", None), "status_code", None)
        if status in (401, 403):
            return LoadError(
                f"The Hub does not give you the {kind} {repo!r} (HTTP {status}): log in with `hf auth login` as "
                "someone who may read it, or use 'small'."
            )
    return None


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def sentences(place: str, local: bool, kind: str = "model") -> Iterator[None]:
    """Turn what loading raises into one sentence with the reason and what to do.

    Args:
        place: a folder or Hub id.
        local: whether the network is left alone.
        kind: "model" or "dataset".

    Raises:
        LoadError: in place of every error of the block that comes from files or the network.
    """
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    try:
        yield
    except LoadError:
        raise
    except (OSError, ValueError, HTTPError) as error:
        reason = _first_sentence(error)
        if "custom code" in reason:
            raise LoadError(foreign_code(place)) from None
        if Path(place).is_dir():
            raise LoadError(_unfit(place, kind, reason)) from None
        if refused := _refused(place, kind, error):
            raise refused from None
        if is_full(error):
            raise LoadError(
                f"{place!r} cannot be downloaded: the disk is full. Free some space, or set the environment variable "
                "HF_HOME to a folder on another disk; then do the same again."
            ) from None
        lost = (ConnectionError, TimeoutError, HTTPError, LocalEntryNotFoundError)
        if local:
            raise LoadError(
                f"{place!r} is on this machine only in part, and the Hub cannot be reached: go online and do the same "
                f"again to download the rest, give a folder that holds it, or use 'small'. The reason: {reason}"
            ) from None
        for each in _with_causes(error):
            if isinstance(each, lost):
                raise LoadError(
                    f"The download of {place!r} broke off: do the same again when the network is back (what has come "
                    f"whole is not downloaded again), or use 'small'. The reason: {_first_sentence(each)}"
                ) from None
        raise LoadError(_unfit(place, kind, reason)) from None


def _first_sentence(error: BaseException) -> str:
    """What an error says first; transformers goes on with advice that does not fit here."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". If you ")[0]


def _unfit(place: str, kind: str, reason: str) -> str:
    if kind == "dataset":
        return f"{place!r} cannot be read as a data set: give another Hub id, or use 'small'. The reason: {reason}"
    return (
        f"{place!r} cannot be loaded. It has to hold config.json, model.safetensors (pickled weights are not read) "
        f"and tokenizer.json, as a folder written by save_pretrained does. transformers says: {reason}"
    )


def _read(loader: type, place: str, local: bool, **options: object) -> object:
    """``loader.from_pretrained`` without progress bars, its errors turned into one sentence."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # Left open, transformers would ask the learner whether to run code that lies beside the weights.
        with sentences(place, local):
            return loader.from_pretrained(place, local_files_only=local, trust_remote_code=False, **options)
    finally:
        if shown:
            logging.enable_progress_bar()


def foreign_code(place: str) -> str:
    """What is said of a model that only code of its own could load."""
    return (
        f"{place!r} asks for code of its own (auto_map in config.json), and code from a model's folder is never run "
        "here: choose a model whose architecture transformers knows, or 'small'."
    )


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

    Args:
        name: as for `load_policy`.
        device: likewise.

    Returns:
        The model in float32 and eval mode.
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

    Returns:
        The pipeline.

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

    Returns:
        One number a text, in their order.

    Raises:
        ValueError: an output does not hold that label.

    Examples:
        >>> judged = [[{"label": "NEGATIVE", "score": 0.1}, {"label": "POSITIVE", "score": 0.9}]]
        >>> score(judged, "POSITIVE")
        [0.9]
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


@enough_memory_for("judging these texts", "Judge fewer at a time: pass a smaller batch_size.")
def log_odds(judge: Pipeline, texts: Sequence[str], label: str = "POSITIVE", batch_size: int = 64) -> list[float]:
    """ln P/(1 − P) of a label for each text: with two labels, the difference of the judge's two raw logits.

    A judge with that label alone, such as a reward model trained on preferences, gives its one logit.

    Args:
        judge: a text-classification pipeline.
        texts: to be judged.
        label: the label looked for.
        batch_size: texts judged together.

    Returns:
        One number a text, in nats.

    Raises:
        ValueError: the judge has no such label.
    """
    with faster_products(getattr(judge, "device", torch.device("cpu"))):  # any function may be a judge
        pipe_outputs = judge(list(texts), top_k=None, function_to_apply="none", batch_size=batch_size)
    wanted = score(pipe_outputs, label)
    if all(len(output) == 1 for output in pipe_outputs):
        return wanted
    others = [[entry["score"] for entry in output if entry["label"] != label] for output in pipe_outputs]
    return (np.array(wanted) - np.logaddexp.reduce(np.array(others), axis=1)).tolist()
