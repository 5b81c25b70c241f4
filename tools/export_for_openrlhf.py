"""Write prompts, judge and preference pairs as OpenRLHF reads them, with scripts that start its trainers.

python tools/export_for_openrlhf.py FOLDER --pairs pairs.jsonl
python tools/export_for_openrlhf.py FOLDER --policy small --judge small --prompts small --pairs draw

The folder stands alone: copied to a machine with OpenRLHF, `GPUS=4 bash run_ppo.sh` trains there. Hub ids stay ids; the
small models, and models given as folders, travel along. Every file is read again and checked before this ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    from tools.exports import check, openrlhf, sources

    arguments = sources.parser(__doc__).parse_args()
    try:
        sources.export(arguments, openrlhf.write, check.check_openrlhf)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
