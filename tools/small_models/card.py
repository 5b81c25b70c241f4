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
    labels = reviews.labels[rows]
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
    tests = {"whole reviews": pieces, "first 24 tokens": [piece[:24] for piece in pieces]}
    tests["first 5 to 24 tokens"] = judge.openings(pieces, seed=1)
    scores["judge"] = {}
    for name, texts in tests.items():
        margin = judge.margins(critic, texts)
        probability = 1 / (1 + np.exp(-margin))
        scores["judge"][name] = {
            "n": len(texts),
            "accuracy": judge.accuracy(margin, labels),
            "ece": judge.expected_calibration_error(probability, labels),
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


def curves(work: Path, path: Path) -> None:
    """Both training curves, one picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = [json.loads(line) for line in (work / "policy_log.jsonl").read_text().splitlines()]
    left.plot([r["tokens"] / 1e6 for r in rows], [r["unseen_64"] for r in rows], color=BLUE)
    left.set(title="policy, unseen reviews, 64-token windows", xlabel="million tokens", ylabel="nats a token")
    rows = [json.loads(line) for line in (work / "judge_log.jsonl").read_text().splitlines()]
    for name, colour, style in (("whole", BLUE, "-"), ("opening_24", RED, "--")):
        right.plot([r["step"] for r in rows], [r[name] for r in rows], style, color=colour, label=name)
    right.set(title="judge, unseen reviews", xlabel="step", ylabel="accuracy")
    right.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def write(scores: dict, work: Path, assets: Path) -> None:
    """`assets/MODEL_CARD.md` and its picture."""
    curves(work, assets / "training_curves.png")
    recipe = json.loads((work / "policy_recipe.json").read_text())
    judge_recipe = json.loads((work / "judge_recipe.json").read_text())
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
        taught=judge_recipe["steps"] - judge_recipe["fragment_teacher_from"],
        judge_minutes=judge_recipe["seconds"] / 60,
        rows=rows,
        samples=listed,
    )
    (assets / "MODEL_CARD.md").write_text(text, encoding="utf-8")


def table_row(name: str, score: dict) -> str:
    """Accuracy with its 95 % interval, and calibration error."""
    accuracy, n = score["accuracy"], score["n"]
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / n)
    return f"| {name} | {n:,} | {accuracy:.3f} ± {half:.3f} | {score['ece']:.3f} |"


def as_markdown(text: str) -> str:
    """A model's text on one line, with nothing in it that Markdown or HTML would act on."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]()#+!|<>&~$-])", r"\\\1", line)
