"""Pack trainings for time travel: the adapters that runs kept on their way, one small file a run.

python tools/pack_journeys.py RUN [RUN ...] --to course_helpers/assets/journeys [--most 12] [--bits 8]

A file is named after its run's method, setting and seed. Printed are its size and what rounding has cost: the KL from
the exact policy of the last step to the packed one, in nats a token, on the texts of that step. More than 0.001 is
refused. Afterwards `tools/make_manifest.py` has to see what lies in the assets.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import unicodedata
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

MOST_KL = 1e-3  # nats a token
MOST_BYTES = 10_000_000  # of all files in the folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--most", type=int, help="steps to keep of each run, evenly spread; all by default")
    parser.add_argument("--bits", type=int, default=8, choices=(8, 32))
    arguments = parser.parse_args()
    for run in arguments.runs:
        print(packed(run, arguments.to, arguments.bits, arguments.most))
    total = sum(path.stat().st_size for path in arguments.to.glob("*.safetensors"))
    print(f"{total / 1e6:.2f} MB in {arguments.to}")
    if total > MOST_BYTES:
        sys.exit(f"That is more than {MOST_BYTES / 1e6:.0f} MB: keep fewer steps with --most.")


def packed(run: Path, folder: Path, bits: int, most: int | None) -> str:
    """Pack one run, and say what came of it; a file that is not exact enough does not stay."""
    from course_helpers.time_travel import Journey, pack

    with tempfile.TemporaryDirectory() as scratch:
        draft = pack(run, Path(scratch) / "draft.safetensors", bits, most)
        exact = Journey.load(pack(run, Path(scratch) / "exact.safetensors", 32, most))
        journey = Journey.load(draft)
        error = rounding_kl(exact, journey)
        if error > MOST_KL:
            sys.exit(f"{run}: rounding costs {error:.1e} nats a token, more than {MOST_KL}; pack it with --bits 32.")
        path = pack(run, folder / f"{file_name(journey)}.safetensors", bits, most)
    size = path.stat().st_size / 1e6
    return f"{path.name}: {len(journey.steps)} steps, {size:.2f} MB, rounding costs {error:.1e} nats a token"


def file_name(journey) -> str:
    """Plain letters for every file system: "β = 0.1" of dpo becomes dpo-beta-0.1."""
    seed = f"-seed-{journey.seed}" if journey.seed else ""
    words = f"{journey.method}-{journey.setting}{seed}".replace("β", "beta ")
    plain = unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9.]+", "-", plain.lower()).strip("-.")


def rounding_kl(exact, journey) -> float:
    """Mean KL(exact‖packed) of the next token over the last step's texts, in nats a token."""
    import torch

    from course_helpers.models import load_policy
    from course_helpers.time_travel import Traveller

    policy, tokenizer = load_policy(journey.base, "cpu")
    texts = [text.prompt + text.response for text in journey.stops[-1].texts] or ["This movie was"]
    rows = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
    traveller, last = Traveller(policy), journey.steps[-1]
    with torch.no_grad():
        one, other = (
            torch.cat([model(input_ids=row).logits[0].double() for row in rows]).log_softmax(-1)
            for model in (traveller.move(j, last) for j in (exact, journey))
        )
    return (one.exp() * (one - other)).sum(-1).mean().item()


if __name__ == "__main__":
    main()
