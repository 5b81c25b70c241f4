"""Write the golden numbers of TRL 0.11.4's PPO that the tests compare this package's PPO with.

python tools/make_ppo_golden.py [--check] [--environment build/trl-0.11.4]

TRL 0.11.4 needs an older transformers than this package, so it runs in a virtual environment of its own, which is made
the first time. Two runs on one machine write the same bytes; with --check nothing is written, and the exit status is 1
if a file would change. Another processor may round the last digits of float64 otherwise, and change them all.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ppo_golden.environment import DEFAULT, ROOT, trl_python

GOLDEN = ROOT / "tests" / "golden" / "ppo"
SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def files_of(folder: Path) -> dict[str, bytes]:
    """Relative path → content of all that is recorded; the page that explains it is not."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.suffix in (".json", ".safetensors")
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file would change")
    parser.add_argument("--environment", type=Path, default=DEFAULT, help="folder of TRL's virtual environment")
    arguments = parser.parse_args()
    python = trl_python(arguments.environment)
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float64", "float32"):
            command = [python, "-m", "tools.ppo_golden.record", folder, dtype]
            subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **SINGLE_THREAD})
        before, after = files_of(GOLDEN), files_of(Path(folder))
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if not arguments.check:
        for name in changed:
            path = GOLDEN / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(after[name]) if name in after else path.unlink()
    print(f"{len(after)} files, {sum(map(len, after.values())) // 1024} kB; changed: {', '.join(changed) or 'none'}")
    return int(arguments.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
