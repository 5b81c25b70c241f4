"""Train lesson 07's policies with several seeds, test them, and write its table.

python tools/run_two_phases.py                       seeds 0, 1 and 2: about four minutes each
python tools/run_two_phases.py --check               hold the runs against the table that is shipped
python tools/run_two_phases.py --reviews FOLDER      perplexity on IMDB's reviews as well (a folder, or a Hub id)

Stages: the policy before; after the knowledge phase; after the skill phase without replay and with; and with replay,
but an adapter on every layer. Each seed is a teacher, a mixture and an adapter of its own; the tests are the same.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import torch

from course_helpers import instruct
from course_helpers.assets import HERE, asset
from course_helpers.instruct import KNOWLEDGE_PHASE, SKILL_PHASE, Score
from course_helpers.models import load_policy
from course_helpers.prompts import load_prompts
from course_helpers.taxonomy import read_knowledge, read_skill
from course_helpers.teacher.pipeline import generate_knowledge, generate_skill, held_out, unseen_reviews
from course_helpers.teacher.rules import RuleTeacher

TABLE = HERE / "instruct" / "scores.csv"
COLUMNS = ("stage", "measure", "seed", "value", "low", "high", "count", "seconds")
EXAMPLES, REPLAY = 2000, 0.2
EVERY_LAYER = dataclasses.replace(SKILL_PHASE, rank=16, layers=instruct.MLP + instruct.ATTENTION + ("attn.c_proj",))
TOLERANCE = 0.1  # of a perplexity ratio: threads round differently, and training carries it on


class Lab:
    """What all seeds share: the policy, the taxonomy, the tests."""

    def __init__(self, reviews: list[str]):
        self.policy, self.tokenizer = load_policy("small", "cpu")
        self.skill = read_skill(asset("taxonomy") / "compositional_skills/film_reviews/praise_and_blame/qna.yaml")
        self.knowledge = read_knowledge(asset("taxonomy") / "knowledge/film_festival/paper_lantern_prize/qna.yaml")
        self.own = instruct.review_rows(instruct.draw_reviews(self.policy, self.tokenizer, 1024))
        known = generate_skill(self.skill, RuleTeacher(), n=EXAMPLES).examples
        self.tests = {
            "skill": unseen_reviews(self.skill, known),
            "skill, unseen words": held_out(self.skill, n=100),
            "knowledge": held_out(self.knowledge),
        }
        self.reviews = {"perplexity ratio": load_prompts("small")[:80]}
        if reviews:
            self.reviews["perplexity ratio, IMDB"] = reviews
        self.ordinary = {name: self.perplexity(self.policy, name) for name in self.reviews}

    def perplexity(self, model: Any, name: str) -> float:
        return instruct.perplexity(model, self.tokenizer, self.reviews[name])

    def rows(self, stage: str, seed: int, model: Any, seconds: float) -> Iterator[dict[str, Any]]:
        """The table's rows of one stage: shares with Wilson's interval, ratios without."""
        first = {"stage": stage, "seed": seed, "seconds": round(seconds, 1)}
        for name, examples in self.tests.items():
            score: Score = instruct.success(model, self.tokenizer, examples)
            share = score.share
            ends = {"value": share.mean, "low": share.low, "high": share.high}
            yield first | {"measure": name, "count": score.count} | ends
        for name, texts in self.reviews.items():
            ratio = self.perplexity(model, name) / self.ordinary[name]
            yield first | {"measure": name, "count": len(texts), "value": ratio, "low": ratio, "high": ratio}


def stages(lab: Lab, seed: int) -> Iterator[dict[str, Any]]:
    """Train one seed, and say of each stage how it did."""
    teacher = RuleTeacher(seed=seed)
    known = instruct.instruction_rows(lab.tokenizer, generate_knowledge(lab.knowledge, teacher, seed=seed).examples)
    made = generate_skill(lab.skill, teacher, n=EXAMPLES, seed=seed).examples
    asked = {example.context for example in lab.tests["skill"]}
    skills = instruct.instruction_rows(lab.tokenizer, [each for each in made if each.context not in asked])
    yield from lab.rows("before", seed, lab.policy, 0.0)
    first = instruct.tune_phase(lab.policy, lab.tokenizer, KNOWLEDGE_PHASE, known, lab.own, seed)
    knowing = first.model.merge_and_unload()
    yield from lab.rows("after knowledge", seed, knowing, first.seconds)
    both = instruct.mix(skills, known, REPLAY, seed)
    for stage, phase, rows in (
        ("skills without replay", SKILL_PHASE, skills),
        ("skills with replay", SKILL_PHASE, both),
        ("with replay, every layer", EVERY_LAYER, both),
    ):
        tuned = instruct.tune_phase(knowing, lab.tokenizer, phase, rows, lab.own, seed)
        yield from lab.rows(stage, seed, tuned.model, tuned.seconds)


def imdb_reviews(name: str | None, count: int = 200) -> list[str]:
    """Reviews that the small policy did not learn from: of the labelled ones, every tenth block of 250 is held out."""
    if name is None:
        return []
    files = sorted(Path(name).glob("train*.parquet"))
    source = ("parquet", {"data_files": [str(file) for file in files]}) if files else (name, {})
    texts = datasets.load_dataset(source[0], split="train", **source[1])["text"]
    held = [place for place in range(len(texts)) if place // 250 % 10 == 3]
    return [texts[place].replace("<br />", "\n") for place in held[:: len(held) // count][:count]]


def differences(rows: list[dict[str, Any]], shipped: list[dict[str, str]]) -> list[str]:
    """Which numbers lie outside the interval that is shipped; training rounds otherwise on other processors."""
    stored = {(row["stage"], row["measure"], row["seed"]): row for row in shipped}
    found = []
    for row in rows:
        theirs = stored.get((row["stage"], row["measure"], str(row["seed"])))
        room = TOLERANCE if "ratio" in row["measure"] else 0.0
        if theirs and not float(theirs["low"]) - room <= row["value"] <= float(theirs["high"]) + room:
            found.append(f"{row['stage']}, {row['measure']}, seed {row['seed']}: {row['value']:.3f}, not {theirs}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--reviews", help="folder or Hub id of IMDB's reviews")
    parser.add_argument("--check", action="store_true", help="compare with the shipped table; write nothing")
    given = parser.parse_args()
    torch.manual_seed(0)
    lab, rows = Lab(imdb_reviews(given.reviews)), []
    for seed in given.seeds:
        for row in stages(lab, seed):
            rows.append(row)
            print(f"seed {seed}  {row['stage']:>24}  {row['measure']:>22}  {row['value']:.3f}", flush=True)
    if given.check:
        with TABLE.open(encoding="utf-8") as file:
            outside = differences(rows, list(csv.DictReader(file)))
        print(f"{len(rows) - len(outside)} of {len(rows)} numbers within the shipped intervals", *outside, sep="\n")
        sys.exit(bool(outside))
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
