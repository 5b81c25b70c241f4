"""Write prompts, judge and preference pairs as verl reads them, with scripts that start PPO, GRPO and fine-tuning.

python tools/export_for_verl.py FOLDER --pairs pairs.jsonl
python tools/export_for_verl.py FOLDER --policy small --judge small --prompts small --pairs draw

The folder stands alone: copied to a machine with verl, `GPUS=4 bash run_ppo.sh` trains there. Hub ids stay ids; the
small models, and models given as folders, travel along. Every file is read again and checked before this ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> None:
    from tools.exports import check, sources, verl

    arguments = sources.parser(__doc__).parse_args()
    try:
        sources.export(arguments, verl.write, check.check_verl)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
