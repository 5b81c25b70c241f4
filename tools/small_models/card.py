"""The model card: held-out scores of the packed files, measured, beside data, recipe, curves, samples and limits."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from course_helpers.plots import BLUE, RED

from . import data, judge, policy

REVIEWS_FOR_BITS = 1000
SAMPLES = 20
SAMPLE_TOKENS = 60


def measure(reviews: data.Reviews, tokenizer: Tokenizer, assets: Path) -> dict:
    """Score what is in the package, on reviews no training step has seen."""
    rows = reviews.rows("held_out", labelled=True)
    pieces = data.encode(tokenizer, [reviews.texts[row] for row in rows])
    byte_counts = [len(reviews.texts[row].encode()) for row in rows]
    writer = AutoModelForCausalLM.from_pretrained(assets / "policy").eval()
    chosen = np.random.default_rng(0).permutation(len(rows))[:REVIEWS_FOR_BITS]
    some = [pieces[i] for i in chosen], [byte_counts[i] for i in chosen]
    stream = torch.from_numpy(data.stream(some[0]).astype(np.int64))
    per_token = policy.nats_in_windows(writer, stream, 64)
    scores = {
        "bits_per_byte": policy.bits_per_byte(writer, *some, context=writer.config.n_positions),
        "bits_per_byte_64": per_token / math.log(2) * len(stream) / sum(some[1]),
        "reviews_for_bits": len(chosen),
        "samples": samples(writer, tokenizer),
    }
    critic = AutoModelForSequenceClassification.from_pretrained(assets / "judge").eval()
    calibration = reviews.rows("calibration", labelled=True)
    others = data.encode(tokenizer, [reviews.texts[row] for row in calibration])
    labels = reviews.labels[rows], reviews.labels[calibration]
    scores["judge"] = score_judge(critic, (pieces, others), labels)
    return scores


def score_judge(critic: torch.nn.Module, parts: tuple[list, list], labels: tuple[np.ndarray, np.ndarray]) -> dict:
    """Accuracy on held-out reviews, and on those together with the calibration reviews; calibration error on the first.

    One temperature was fitted on the calibration reviews. It cannot change a verdict, so their accuracy counts, too.
    """
    cuts = {
        "whole reviews": lambda pieces: pieces,
        "first 24 tokens": lambda pieces: [piece[:24] for piece in pieces],
        "first 5 to 24 tokens": lambda pieces: judge.openings(pieces, seed=1),
    }
    scores = {}
    for name, cut in cuts.items():
        margin, other = (judge.margins(critic, cut(pieces)) for pieces in parts)
        together = np.concatenate([margin, other]), np.concatenate(labels)
        scores[name] = {
            "n": len(margin),
            "accuracy": judge.accuracy(margin, labels[0]),
            "n_all": len(together[0]),
            "accuracy_all": judge.accuracy(*together),
            "ece": judge.expected_calibration_error(1 / (1 + np.exp(-margin)), labels[0]),
        }
    return scores


def samples(writer: torch.nn.Module, tokenizer: Tokenizer) -> list[str]:
    """The first texts of one seed, from nothing but the end-of-text token, at temperature 1: nothing picked."""
    torch.manual_seed(0)
    ids = torch.zeros(SAMPLES, 1, dtype=torch.long)
    written = writer.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=SAMPLE_TOKENS, pad_token_id=0
    )
    return [tokenizer.decode(row[1:].tolist(), skip_special_tokens=True) for row in written]


def curve(name: str, log: list[dict], path: Path) -> None:
    """Progress of one model on unseen reviews, as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    axes = figure.subplots()
    if name == "policy":
        axes.plot([r["tokens"] / 1e6 for r in log], [r["unseen_64"] for r in log], color=BLUE)
        axes.set(title="policy, unseen reviews, 64-token windows", xlabel="million tokens", ylabel="nats a token")
    else:
        for key, colour, style in (("whole", BLUE, "-"), ("opening_24", RED, "--")):
            axes.plot([r["step"] for r in log], [r[key] for r in log], style, color=colour, label=key)
        axes.set(title="judge, unseen reviews", xlabel="step", ylabel="accuracy")
        axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def histories(work: Path, assets: Path) -> dict[str, dict]:
    """Recipe and log of each model, kept in `assets/training.json`: a model trained elsewhere keeps its own."""
    kept = assets / "training.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for name in ("policy", "judge"):
        if (work / f"{name}_recipe.json").exists():
            lines = (work / f"{name}_log.jsonl").read_text().splitlines()
            recipe = json.loads((work / f"{name}_recipe.json").read_text())
            found[name] = {"recipe": recipe, "log": [json.loads(line) for line in lines]}
    kept.write_text(json.dumps(found, indent=1) + "\n")
    return found


def write(scores: dict, work: Path, assets: Path) -> None:
    """`assets/MODEL_CARD.md`, its pictures, and the numbers behind them."""
    history = histories(work, assets)
    for name, of_model in history.items():
        if of_model["log"]:
            curve(name, of_model["log"], assets / f"training_curve_{name}.png")
    recipe, judge_recipe = history["policy"]["recipe"], history["judge"]["recipe"]
    rows = "\n".join(table_row(name, score) for name, score in scores["judge"].items())
    listed = "\n".join(f"{i}. {as_markdown(text)}" for i, text in enumerate(scores["samples"], 1))
    template = (Path(__file__).parent / "model_card.md").read_text(encoding="utf-8")
    text = template.format(
        tokens=recipe["tokens"] / 1e6,
        minutes=recipe["seconds"] / 60,
        device=recipe.get("device", "cpu"),
        starts=recipe["share_of_starts"],
        cycles=" and ".join(f"{cycle['tokens'] / 1e6:.0f}" for cycle in recipe["cycles"]),
        bits=scores["bits_per_byte"],
        bits_64=scores["bits_per_byte_64"],
        reviews=scores["reviews_for_bits"],
        steps=judge_recipe["steps"],
        judge_minutes=judge_recipe["seconds"] / 60,
        judge_device=judge_recipe["device"],
        last_steps=judge_recipe["cycles"][-1][0],
        rows=rows,
        held_out=scores["judge"]["whole reviews"]["n"],
        unseen=scores["judge"]["whole reviews"]["n_all"],
        samples=listed,
    )
    (assets / "MODEL_CARD.md").write_text(text, encoding="utf-8")


def table_row(name: str, score: dict) -> str:
    """Accuracies with their 95 % intervals, and calibration error."""
    with_interval = [
        f"{accuracy:.3f} ± {1.96 * math.sqrt(accuracy * (1 - accuracy) / n):.3f}"
        for accuracy, n in ((score["accuracy"], score["n"]), (score["accuracy_all"], score["n_all"]))
    ]
    return f"| {name} | {' | '.join(with_interval)} | {score['ece']:.3f} |"


def as_markdown(text: str) -> str:
    """A model's text on one line, with nothing in it that Markdown or HTML would act on."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]()#+!|<>&~$-])", r"\\\1", line)
