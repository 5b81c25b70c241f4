"""Check a table of preference pairs: what can be used for DPO, and of the rest how many rows for which reason.

python tools/check_pairs.py pairs.parquet [--policy small] [--max-length 256] [--write kept.jsonl]

The table is .parquet, .json or .jsonl, in any form that `preferences.to_pair` reads: prompt, chosen and rejected as
texts or messages, or two whole dialogues.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument(
        "--policy", default="small", help="whose tokenizer and context count: small, full, an id, a folder"
    )
    parser.add_argument("--max-length", type=int, help="tokens of prompt and response; the policy's context by default")
    parser.add_argument("--write", type=Path, help="a .jsonl file for the pairs that can be used")
    arguments = parser.parse_args()

    from course_helpers.models import load_policy
    from course_helpers.preferences import validate_pairs

    policy, tokenizer = load_policy(arguments.policy, "cpu")
    longest = arguments.max_length or policy.config.max_position_embeddings
    report = validate_pairs(arguments.table, tokenizer, longest)
    print(report)
    if arguments.write:
        report.dataset().to_json(arguments.write)


if __name__ == "__main__":
    main()
