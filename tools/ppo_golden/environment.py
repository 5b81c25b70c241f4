"""A virtual environment with TRL 0.11.4, the last of the classic PPO that runs beside today's torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINS = Path(__file__).parent / "requirements.txt"
DEFAULT = ROOT / "build" / "trl-0.11.4"


def trl_python(folder: Path = DEFAULT) -> Path:
    """The interpreter of that environment, which is made if it is not there: minutes, once, and 1.4 GB.

    Raises:
        subprocess.CalledProcessError: pip could not install the pinned versions; the next call tries again.
    """
    folder = folder.absolute()  # not resolved: a virtual environment is found by where its link to Python stands
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    installed = folder / "installed.txt"
    if not installed.exists() or installed.read_text() != PINS.read_text():
        print(f"installing TRL 0.11.4 into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "-q"]
        subprocess.run([*pip, "-r", PINS], check=True)
        installed.write_text(PINS.read_text())
    return python
