"""Two notebooks at once: two kernels that keep their learner's progress in one file, two that begin one taxonomy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from course_helpers.assets import HERE
from course_helpers.runs import settings
from course_helpers.runs.folder import RunFolder
from course_helpers.runs.job import Job
from course_helpers.taxonomy import check_taxonomy
from tests.faults.places import environment

NOTES = 50
# Both begin when both are there, so that they meet.
BESIDE_ANOTHER = """
import os, sys, time
from pathlib import Path
from course_helpers.progress import note_exercise, note_quiz
from course_helpers.taxonomy import start_taxonomy
name, other, notes = sys.argv[1], sys.argv[2], int(sys.argv[3])
Path(f"{name}.ready").touch()
late = time.monotonic() + 60
while not Path(f"{other}.ready").exists():
    assert time.monotonic() < late, "the other one did not come"
    time.sleep(0.001)
for n in range(notes):
    said = note_exercise("1.2", solved=False) if n % 2 else note_quiz("01", f"{name} {n}", True)
    assert said == "", said
    start_taxonomy(f"my_taxonomy_{n % 4}")
"""


def test_two_processes_lose_no_note_and_no_file_of_a_taxonomy(tmp_path):
    words = [sys.executable, "-c", BESIDE_ANOTHER]
    both = [
        subprocess.Popen(
            [*words, *names, str(NOTES)], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
        )
        for names in (("a", "b"), ("b", "a"))
    ]
    for process in both:
        assert process.communicate(timeout=120)[1] == ""
        assert process.returncode == 0
    store = json.loads((tmp_path / "my_progress.json").read_text())
    assert store["exercises"]["1.2"]["tries"] == NOTES
    assert len(store["quizzes"]["01"]) == NOTES
    ours = HERE / "taxonomy"
    shipped = {path.relative_to(ours): path.read_bytes() for path in ours.rglob("*") if path.is_file()}
    for n in range(4):
        mine = tmp_path / f"my_taxonomy_{n}"
        assert {path.relative_to(mine): path.read_bytes() for path in mine.rglob("*") if path.is_file()} == shipped
    assert all(verdict.valid for verdict in check_taxonomy(tmp_path / "my_taxonomy_0"))
    left = [name for name in os.listdir(tmp_path) if name.endswith((".part", ".damaged.json"))]
    assert left == []


def test_a_lock_that_a_killed_notebook_held_stops_nobody(tmp_path):
    """A kill lets go of the lock; its empty file stays, and means nothing."""
    hold = "import os, signal; from filelock import FileLock; FileLock('.my_progress.json.lock').acquire(); "
    words = [sys.executable, "-c", f"{hold} os.kill(os.getpid(), signal.SIGKILL)"]
    subprocess.run(words, cwd=tmp_path, env=environment(), check=False)
    assert (tmp_path / ".my_progress.json.lock").exists()
    note = "from course_helpers.progress import note_quiz; print(repr(note_quiz('01', 'a', True)))"
    done = subprocess.run([sys.executable, "-c", note], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.stdout == "''\n"
    assert Path(tmp_path, "my_progress.json").exists()


def test_a_run_killed_before_its_first_checkpoint_notes_no_step_twice(tmp_path):
    """The killed process noted two steps and half a third; nothing of it may stand beside what the next one notes."""
    chosen = settings.PPOSettings()
    place = RunFolder(tmp_path / "run", "ppo", chosen)
    place.log(1, reward=0.5)
    place.log(2, reward=0.6)
    place.sample(2, [{"prompt": "A", "response": " film"}])
    with (place.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    again = Job("ppo", chosen, RunFolder(tmp_path / "run", "ppo", chosen))
    before = again.clock.wall
    again.goes_on_after(0)
    assert again.clock.wall >= before, "what was spent before the first step counts"
    again.log(1, reward=0.7)
    assert [(line["step"], line["reward"]) for line in again.folder.metrics()] == [(1, 0.7)]
    assert (place.path / "samples.jsonl").read_text() == ""
