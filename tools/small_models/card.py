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

from . import data, judge, policy, second_judge

REVIEWS_FOR_BITS = 1000
SAMPLES = 20
SAMPLE_TOKENS = 60
TEXTS_A_POINT = 256  # as many as lesson 06 measures a policy on, at least


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


def measure_second(reviews: data.Reviews, policys: Tokenizer, second: Tokenizer, assets: Path) -> dict:
    """Score the second judge on labelled reviews it never saw, and compare both judges on what neither learned from."""
    measuring = AutoModelForSequenceClassification.from_pretrained(assets / "second_judge").eval()
    training = AutoModelForSequenceClassification.from_pretrained(assets / "judge").eval()
    cuts = {
        "whole reviews": lambda texts: texts,
        "first 24 tokens": lambda texts: second_judge.cut(policys, texts, 24, 24),
        "first 5 to 24 tokens": lambda texts: second_judge.cut(policys, texts, 5, 24),
        "any 10 to 24 tokens": lambda texts: second_judge.cut(policys, texts, 10, 24, anywhere=True),
    }
    seen_by_first = reviews.rows("train", labelled=True)
    unseen = second_judge.own_rows(reviews).validation
    scores = {}
    for name, of in cuts.items():
        rows = seen_by_first[::4] if name == "whole reviews" else seen_by_first  # ten times as long as the others
        texts = of([reviews.texts[row] for row in rows])
        margin, labels = judge.margins(measuring, data.encode(second, texts)), reviews.labels[rows]
        others = of([reviews.texts[row] for row in unseen])
        both = (
            judge.margins(measuring, data.encode(second, others)),
            judge.margins(training, data.encode(policys, others)),
        )
        scores[name] = {
            "n": len(margin),
            "accuracy": judge.accuracy(margin, labels),
            "ece": judge.expected_calibration_error(1 / (1 + np.exp(-margin)), labels),
        } | agreement(*both, reviews.labels[unseen])
    return scores


def agreement(measuring: np.ndarray, training: np.ndarray, labels: np.ndarray) -> dict:
    """How alike two judges are on the same texts, from their log-odds, each (n,).

    Returns:
        Accuracy of each, the share of like verdicts, Pearson's correlation r of the log-odds with its 95 % interval
        (Fisher's transformation), and the standard deviation of each judge's log-odds.
    """
    r = float(np.corrcoef(measuring, training)[0, 1])
    margin = 1.96 / math.sqrt(len(labels) - 3)
    return {
        "n_both": len(labels),
        "accuracy_both": [judge.accuracy(measuring, labels), judge.accuracy(training, labels)],
        "same_verdict": float(((measuring > 0) == (training > 0)).mean()),
        "r": r,
        "r_interval": [float(np.tanh(np.arctanh(r) + sign * margin)) for sign in (-1, 1)],
        "deviations": [float(measuring.std()), float(training.std())],
    }


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
        axes.set(title=f"{name.replace('_', ' ')}, unseen reviews", xlabel="step", ylabel="accuracy")
        axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})


def histories(work: Path, assets: Path) -> dict[str, dict]:
    """Recipe and log of each model, kept in `assets/training.json`: a model trained elsewhere keeps its own."""
    kept = assets / "training.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for name in ("policy", "judge", "second_judge"):
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
        if len(of_model["log"]) > 2:  # fewer points are no curve
            curve(name, of_model["log"], assets / f"training_curve_{name}.png")
    recipe, judge_recipe, second = (history[name]["recipe"] for name in ("policy", "judge", "second_judge"))
    of_openings = scores["second_judge"]["first 24 tokens"]
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
        second_steps=second["steps"],
        second_minutes=second["seconds"] / 60,
        second_device=second["device"],
        second_rows="\n".join(second_row(name, score) for name, score in scores["second_judge"].items()),
        both_n=of_openings["n_both"],
        agreement_rows="\n".join(agreement_row(name, score) for name, score in scores["second_judge"].items()),
        second_error=of_openings["deviations"][0] / math.sqrt(TEXTS_A_POINT),
        first_error=of_openings["deviations"][1] / math.sqrt(TEXTS_A_POINT),
        beyond=of_openings["deviations"][0] * math.sqrt((1 - of_openings["r"] ** 2) / TEXTS_A_POINT),
        texts_a_point=TEXTS_A_POINT,
        samples=listed,
    )
    (assets / "MODEL_CARD.md").write_text(text, encoding="utf-8")


def table_row(name: str, score: dict) -> str:
    """Accuracies with their 95 % intervals, and calibration error."""
    both = (score["accuracy"], score["n"]), (score["accuracy_all"], score["n_all"])
    return f"| {name} | {' | '.join(with_interval(*one) for one in both)} | {score['ece']:.3f} |"


def second_row(name: str, score: dict) -> str:
    """The second judge's accuracy with its 95 % interval, and its calibration error."""
    return f"| {name} | {score['n']:,} | {with_interval(score['accuracy'], score['n'])} | {score['ece']:.3f} |"


def agreement_row(name: str, score: dict) -> str:
    """Both judges on the same texts: accuracies, like verdicts, correlation of the log-odds."""
    accuracies = " | ".join(with_interval(accuracy, score["n_both"]) for accuracy in score["accuracy_both"])
    low, high = score["r_interval"]
    return f"| {name} | {accuracies} | {score['same_verdict']:.3f} | {score['r']:.2f} ({low:.2f} to {high:.2f}) |"


def with_interval(accuracy: float, n: int) -> str:
    """A share of n texts with its 95 % interval (normal approximation)."""
    return f"{accuracy:.3f} ± {1.96 * math.sqrt(accuracy * (1 - accuracy) / n):.3f}"


def as_markdown(text: str) -> str:
    """A model's text on one line, with nothing in it that Markdown or HTML would act on."""
    line = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]()#+!|<>&~$-])", r"\\\1", line)
