"""Train the small policy and the two small judges from film reviews, and put them into the package.

python tools/train_small_models.py SOURCE [--work build] [--device cpu] [--only prepare policy judge second-judge pack]

SOURCE is a folder with train*.parquet and unsupervised*.parquet, or the Hub id stanfordnlp/imdb. Everything between
goes to the work folder; a run that was stopped goes on where it was, and a step that is finished is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

# Before torch starts its threads: keep freed buffers (a fifth faster on glibc), and do not spin while waiting.
MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "GOMP_SPINCOUNT": "20000"}
if __name__ == "__main__" and any(os.environ.get(name) != value for name, value in MEMORY.items()):
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MEMORY})

import numpy as np  # noqa: E402
from make_manifest import write_manifest  # noqa: E402
from small_models import card, checkpoint, data, judge, pack, policy, second_judge, teachers  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

ASSETS = Path(__file__).parent.parent / "course_helpers" / "assets"
STEPS = ("prepare", "policy", "judge", "second-judge", "pack")


def save_array(path: Path, array: np.ndarray) -> None:
    """`np.save`, in one atomic step: a file that is there is whole."""
    with path.with_suffix(".unfinished").open("wb") as file:
        np.save(file, array)
    os.replace(file.name, path)


def prepare(reviews: data.Reviews, work: Path) -> None:
    """Tokenizer and token streams of each part."""
    if (work / "train.npy").exists():
        return
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = data.train_tokenizer([reviews.texts[row] for row in reviews.rows("train")[::2]])
    tokenizer.save(str(work / "tokenizer.json"))
    encoded = data.encode(tokenizer, reviews.texts)
    rng = np.random.default_rng(0)
    for part in ("calibration", "held_out", "train"):  # the last is what tells that all are there
        rows = reviews.rows(part)
        rows = rng.permutation(rows) if part == "train" else rows
        save_array(work / f"{part}.npy", data.stream([encoded[row] for row in rows]))


def train_judge(reviews: data.Reviews, tokenizer: Tokenizer, work: Path, device: str, recipe: judge.Recipe) -> None:
    """Teachers, judge, temperature; leaves `work/judge`."""
    from transformers import GPT2LMHeadModel

    if (work / "judge").exists():
        return
    labelled, unlabelled = reviews.rows("train", labelled=True), reviews.rows("train", labelled=False)
    unseen = reviews.rows("calibration", labelled=True)
    rows = np.concatenate([labelled, unlabelled])
    texts = [reviews.texts[row] for row in rows]
    encoded = data.encode(tokenizer, texts)
    of_reviews = teachers.ReviewTeacher(texts[: len(labelled)], reviews.labels[labelled])
    correct = (of_reviews([reviews.texts[row] for row in unseen]) > 0.5) == reviews.labels[unseen]
    print(f"teacher: accuracy {correct.mean():.3f} on calibration reviews")
    targets = np.concatenate([reviews.labels[labelled], of_reviews(texts[len(labelled) :])])
    of_fragments = teachers.FragmentTeacher(tokenizer.decode_batch([ids[:24].tolist() for ids in encoded]), targets)
    said = teachers.contributions_of_all(tokenizer, texts, of_reviews, of_fragments, judge.CONTEXT - 1)
    known = np.arange(len(rows)) < len(labelled)
    batches = judge.Batches(encoded, targets, known, said, recipe, tokenizer, of_fragments)
    pieces = data.encode(tokenizer, [reviews.texts[row] for row in unseen])
    labels = reviews.labels[unseen]
    validation = {"whole": (pieces[::4], labels[::4]), "opening_24": ([p[:24] for p in pieces], labels)}
    embeddings = GPT2LMHeadModel.from_pretrained(work / "policy").transformer.wte.weight.detach()
    model = judge.train(work, batches, recipe, embeddings, validation, device)
    temperature = judge.calibrate(model, *judge.mixed_margins(model, pieces, labels))
    print(f"judge: temperature {temperature:.2f}")
    checkpoint.save_finished(model, work / "judge")


def put_into_package(reviews: data.Reviews, tokenizer: Tokenizer, work: Path) -> None:
    """fp16 weights, tokenizers, model card with scores on held-out reviews, manifest."""
    from transformers import BertForSequenceClassification, DistilBertForSequenceClassification, GPT2LMHeadModel

    second = Tokenizer.from_file(str(work / "second_tokenizer.json"))
    pack.save_model(GPT2LMHeadModel.from_pretrained(work / "policy"), ASSETS / "policy")
    pack.save_model(DistilBertForSequenceClassification.from_pretrained(work / "judge"), ASSETS / "judge")
    pack.save_model(BertForSequenceClassification.from_pretrained(work / "second_judge"), ASSETS / "second_judge")
    pack.save_tokenizer(tokenizer, ASSETS / "policy", policy.config().n_positions, for_judge=False)
    pack.save_tokenizer(tokenizer, ASSETS / "judge", judge.CONTEXT, for_judge=True)
    pack.save_second_tokenizer(second, ASSETS / "second_judge")
    scores = card.measure(reviews, tokenizer, ASSETS)
    scores["second_judge"] = card.measure_second(reviews, tokenizer, second, ASSETS)
    (work / "scores.json").write_text(json.dumps(scores, indent=1))
    card.write(scores, work, ASSETS)
    write_manifest(ASSETS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="folder of parquet files, or Hub id")
    parser.add_argument("--work", type=Path, default=Path("build"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--no-compile", action="store_true", help="where torch.compile finds no C++ compiler")
    arguments = parser.parse_args()

    reviews = data.read_reviews(arguments.source)
    if "prepare" in arguments.only:
        prepare(reviews, arguments.work)
    tokenizer = Tokenizer.from_file(str(arguments.work / "tokenizer.json"))
    if "policy" in arguments.only and not (arguments.work / "policy").exists():
        policy.train(arguments.work, policy.Recipe(), arguments.device, compiled=not arguments.no_compile)
    if "judge" in arguments.only:
        train_judge(reviews, tokenizer, arguments.work, arguments.device, judge.Recipe())
    if "second-judge" in arguments.only and not (arguments.work / "second_judge").exists():
        second = second_judge.train(reviews, tokenizer, arguments.work, arguments.device)
        checkpoint.save_finished(second, arguments.work / "second_judge")
    if "pack" in arguments.only:
        put_into_package(reviews, tokenizer, arguments.work)


if __name__ == "__main__":
    main()
