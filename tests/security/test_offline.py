"""Nothing calls home: all modules, the small models and a training of each kind, without one attempt to leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

import course_helpers

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(280)
def test_nothing_leaves_the_machine_without_being_asked_to(tmp_path):
    """Not even with the network allowed: HF_HUB_OFFLINE is not set, and a guard counts what is attempted."""
    allowed = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    own = {
        "OMP_NUM_THREADS": "1",
        "COURSE_DEVICE": "cpu",
        "ACCELERATE_USE_CPU": "true",
        "HF_HOME": str(tmp_path / "hf"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.guard", str(tmp_path / "runs"), str(tmp_path / "said.json")],
        cwd=ROOT, env=allowed | own, capture_output=True, text=True, timeout=270, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads((tmp_path / "said.json").read_text())
    assert said["modules"] > 80
    assert said["trained"] == ["ppo", "dpo", "grpo", "preferred-ft"]
    assert said["attempts"] == []
    assert "nothing may leave this machine" in said["guard"]
    assert len(said["guarded"]) == 1
    assert "192.0.2.1" in said["guarded"][0]


@pytest.mark.parametrize(("set_before", "silent"), [(None, True), ("0", False), ("1", True)])
def test_telemetry_is_off_also_where_the_hub_was_imported_first(monkeypatch, set_before, silent):
    """TRL sends the name of every trainer that is made; whoever has set the variable decides."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", set_before == "1")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    if set_before is not None:
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", set_before)
    course_helpers._tell_nobody()
    assert constants.HF_HUB_DISABLE_TELEMETRY is silent
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == (set_before or "1")
