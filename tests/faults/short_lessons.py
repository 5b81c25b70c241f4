"""The training lessons made short: less data, fewer steps; what is only true of the whole training is not asserted."""

from __future__ import annotations

from tests.faults.lessons import Cell, cells_of

# Cell id → what is exchanged there. Everything else runs as it is stored.
EDITS = {
    "03": {
        "cell-061": ('ITERATIONS = 26 if SCALE == "small" else 200', "ITERATIONS = 2"),
        "cell-080": ("unseen, count=2", "unseen[:24], count=2"),
        "cell-094": ("SEEDS, results, histories = (0, 1, 2), {}, {}", "SEEDS, results, histories = (0, 1), {}, {}"),
    },
    "05": {
        "cell-008": (
            ('prompts.load_prompts("small")', 'prompts.load_prompts("small")[:64]'),
            ("TRAIN_OPENINGS = 400  # of 480", "TRAIN_OPENINGS = 44"),
        ),
        "overfitting-few-pairs": ('"epochs": 16', '"epochs": 1'),
        "three-betas": ("len(train_pairs) // 512)[:512]", "len(train_pairs) // 64)[:64]"),
        "dpo-on-your-choices": ("epochs=12", "epochs=1"),
        "learning-rate-too-high": ("range(320)", "range(64)"),
    },
    "06": {
        "live-run": (
            ('LIVE["changes"] | {"seed": 3}', 'LIVE["changes"] | {"seed": 3} | SHORT'),
            ('LIVE = {"method"', 'SHORT = {"openings": 12, "evaluation_prompts": 24}\nLIVE = {"method"'),
        ),
        "best-of-n-drawn-here": ("asked[::5]", "asked[::20]"),
        "break-it-another-length": ("asked[::4]", "asked[::16]"),
        "cell-075": ("asked[::4]", "asked[::16]"),
    },
    "07": {
        "cell-047": (
            "for phase in (KNOWLEDGE_PHASE, SKILL_PHASE):",
            "KNOWLEDGE_PHASE, SKILL_PHASE = (replace(each, steps=3) for each in (KNOWLEDGE_PHASE, SKILL_PHASE))\n"
            "for phase in (KNOWLEDGE_PHASE, SKILL_PHASE):",
        ),
        "own-reviews": ("tokenizer, 1024)", "tokenizer, 64)"),
        "break-it-seeds-alone": ("steps=30", "steps=3"),
        "from-taxonomy-to-policy": ("steps=80", "steps=3"),
        "tested-before-training": (
            '{"skill": test, "skill, unseen words": test_words, "knowledge": fact_test}',
            '{"skill": test[:8], "skill, unseen words": test_words[:8], "knowledge": fact_test[:8]}',
        ),
    },
}

# Cells whose assertions say what the whole training reaches; the rest of each cell runs.
RESULTS = {
    "03": ("cell-074", "cell-075", "cell-084", "cell-087", "cell-097", "cell-103", "cell-106", "cell-115", "cell-118",
           "cell-125", "cell-132", "cell-080"),
    "05": ("pairs-from-rollouts", "cell-013", "cell-026", "loss-after-training", "chosen-log-probability",
           "accuracy-unseen", "accuracy-without-close-calls", "accuracy-by-gap", "win-rate", "kl-estimators",
           "what-else-changed", "overfitting-figure", "reward-and-kl", "what-your-choices-changed",
           "swapped-pairs-measured", "learning-rate-too-high", "cell-083", "wrong-reference", "reference-from-disk",
           "batch-of-pairs", "bootstrap-interval", "leakage-by-row"),
    "06": ("best-of-n-drawn-here", "live-run-within-the-prediction", "cell-075", "break-it-another-length",
           "do-the-judges-agree"),
    "07": ("tested-after-knowledge", "perplexity-after-knowledge", "skills-without-replay", "skills-with-replay",
           "perplexity-of-the-phases", "break-it-seeds-alone", "new-behaviour", "tested-before-training"),
}  # fmt: skip


def short(number: str) -> list[Cell]:
    """The cells of a lesson, its training made short."""
    found = cells_of(number, EDITS.get(number))
    assert set(RESULTS.get(number, ())) <= {cell.id for cell in found}
    return [_without_asserts(cell) if cell.id in RESULTS.get(number, ()) else cell for cell in found]


def _without_asserts(cell: Cell) -> Cell:
    """Its assertions, each on a line of its own, as statements that do nothing."""
    lines = [
        f"{line[: len(line) - len(line.lstrip())]}pass" if line.lstrip().startswith("assert ") else line
        for line in cell.source.splitlines()
    ]
    return Cell(cell.id, "\n".join(lines), False, cell.stored)
