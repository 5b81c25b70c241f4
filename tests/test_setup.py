"""The three files that name packages agree, and the package is light to import."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
NAMED = {"jupyterlab", "ipywidgets", "matplotlib", "torch", "transformers", "trl", "peft", "datasets", "nbval"}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {normal(r.name): next(iter(r.specifier)).version for r in found}


def environment():
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_constraints_pin_exactly():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines if not line.startswith("#"))


def test_environment_names_the_course_packages_at_the_pinned_versions():
    conda, pip = environment()["dependencies"][:-1], environment()["dependencies"][-1]["pip"]
    assert environment()["channels"] == ["conda-forge"]
    assert "python=3.11" in conda
    assert pip[-1] == "-e ."
    pinned = {r.name: str(r.specifier) for r in map(Requirement, (p for p in pip if not p.startswith("-")))}
    assert set(pinned) == NAMED
    assert pinned == {name: f"=={constraints()[name]}" for name in NAMED}


@pytest.mark.parametrize("group", ["dependencies", "test", "docs", "mutants", "rebuild"])
def test_project_allows_what_is_pinned(group):
    listed = project()[group] if group == "dependencies" else project()["optional-dependencies"][group]
    for requirement in map(Requirement, listed):
        if requirement.name == project()["name"]:  # one group takes in another, which is looked at by itself
            continue
        pinned = constraints().get(normal(requirement.name))
        assert pinned is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(pinned), f"{requirement} excludes the pinned {pinned}"


def test_environment_installs_nothing_the_project_does_not_ask_for():
    assert {normal(Requirement(d).name) for d in project()["dependencies"]} >= NAMED


def test_what_is_installed_is_what_is_pinned():
    from importlib.metadata import version

    wrong = {n: (version(n), constraints()[n]) for n in NAMED if version(n).split("+")[0] != constraints()[n]}
    assert not wrong, f"installed, pinned: {wrong}"


def test_import_is_light():
    code = """
import sys, time
began = time.perf_counter()
import course_helpers
print(time.perf_counter() - began, *sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *loaded = run.stdout.split()
    assert not {"torch", "transformers", "matplotlib", "IPython", "ipywidgets"} & set(loaded)
    assert float(seconds) < 0.5
