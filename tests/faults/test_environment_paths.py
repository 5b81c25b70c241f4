"""Other folders: a clone into a path with spaces and accents, another current folder, names that every system takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.faults.places import ROOT, answers, environment, python

NEEDED = ("course_helpers", "configs", "notebooks/00_start_here.ipynb", "Makefile", "pyproject.toml", "constraints.txt")
HEAVY = {"run_two_phases.py", "train_small_models.py"}  # they load torch first, which takes seconds
TOOLS = sorted(path.name for path in (ROOT / "tools").glob("*.py") if "argparse" in path.read_text(encoding="utf-8"))


def tracked() -> list[str]:
    """All files of the course, as the archive or a clone has them."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this is no clone")
    return done.stdout.rstrip("\0").split("\0")


# --------------------------------------------------------------------------------------------------------------- names


def test_every_system_takes_the_names_of_all_files():
    names = tracked()
    assert len(names) > 100
    parts = {part for name in names for part in Path(name).parts}
    assert not [part for part in parts if re.search(r'[<>:"\\|?*\x00-\x1f]|[. ]$', part)]
    reserved = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
    assert not [part for part in parts if part.split(".")[0].lower() in reserved]
    assert len({name.casefold() for name in names}) == len(names), "two names differ by case alone"
    assert max(map(len, names)) <= 120


# ---------------------------------------------------------------------------------- a path with spaces and accents


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The course in a folder as a Brazilian desktop has it."""
    folder = tmp_path_factory.mktemp("home") / "Área de Trabalho" / "meu curso"
    for name in NEEDED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    return folder


IN_A_CLONE = """
import json, os
from pathlib import Path
import course_helpers
from course_helpers import choices, models, progress, train
from course_helpers.dpo import saving
from course_helpers.taxonomy import check_taxonomy, start_taxonomy
policy, tokenizer = models.load_policy("small")
saved = saving.save_policy(policy, tokenizer, "política salva")
again, _ = models.load_policy(saved)
progress.note_quiz("01", "a", True)
book = choices.ChoiceBook("minhas escolhas.jsonl")
book.put(choices.Choice("A", "b", "c", "A"))
little = "openings=6 max_new_tokens=4 second_judge=null evaluation_prompts=4 evaluation_count=1 sample_every=2"
more = "lora_rank=2 batch_size=4 steps=2 mini_batch_size=2 save_every=1 beta=0.1"
words = ["ppo", "--config", "configs/small/ppo.yaml", "--folder", "Área/meu treino"]
code = train.main([*words, *little.split(), *more.split()])
print(json.dumps({
    "package": course_helpers.__file__,
    "same": all((p == q).all().item() for p, q in zip(policy.parameters(), again.parameters())),
    "code": code,
    "files": sorted(str(path) for path in Path("Área/meu treino").iterdir()),
    "here": sorted(path for path in os.listdir() if not path.startswith(".")),
    "taxonomy": all(verdict.valid for verdict in check_taxonomy(start_taxonomy("minha taxonomia"))),
    "choices": len(choices.read_choices("minhas escolhas.jsonl")),
}))
"""


def test_everything_works_from_another_folder_and_a_path_with_spaces_and_accents(clone, tmp_path):
    here = tmp_path / "outra pasta é"
    here.mkdir()
    found = answers(python(IN_A_CLONE, here, PYTHONPATH=str(clone), HF_HUB_OFFLINE="1"))
    assert found["package"] == str(clone / "course_helpers" / "__init__.py")
    assert found["same"]
    assert found["code"] == 0
    assert "Área/meu treino/evaluation.json" in found["files"]
    assert found["here"] == ["minhas escolhas.jsonl", "my_progress.json", "política salva", "Área"]
    assert found["taxonomy"]
    assert found["choices"] == 1


def test_a_lesson_runs_in_such_a_folder(clone):
    path = clone / "notebooks" / "00_start_here.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("import course_helpers\nprint(course_helpers.__file__)"))
    names = environment(PYTHONPATH=str(clone), HF_HUB_OFFLINE="1")
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute(env=names)
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in ran)
    assert not [output for cell in ran for output in cell.outputs if output.output_type == "error"]
    assert str(clone / "course_helpers") in str(ran[-1].outputs), "it was the clone's own package"


def test_make_quotes_such_a_path(clone, monkeypatch):
    monkeypatch.delenv("MAKELEVEL", raising=False)  # below another make it says which folder it enters
    monkeypatch.delenv("MAKEFLAGS", raising=False)
    for target in ("lab", "test", "notebooks"):
        done = subprocess.run(["make", "-n", target], cwd=clone, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert str(clone) not in done.stdout, "make would cut it at its spaces; all its paths are relative"
    done = subprocess.run(["make", "-n", "lab", f"PYTHON={sys.executable}"], cwd=clone, capture_output=True, text=True)
    assert ".venv/bin/jupyter lab" in done.stdout


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool not in HEAVY])
def test_tools_explain_themselves_from_any_folder(tool, tmp_path):
    names = environment(PYTHONPATH=None, HF_HUB_OFFLINE="1")
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, "--help"], cwd=tmp_path, env=names, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    assert os.listdir(tmp_path) == []
