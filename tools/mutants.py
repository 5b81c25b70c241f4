"""Puts small faults into the mathematics, one at a time, and asks whether the tests notice.

python tools/mutants.py build/mutants

What is mutated and which tests are asked stands in pyproject.toml, `[tool.mutmut]`; what came of it, in
docs/mutants.md. The tree is copied first, and nothing in it is changed. In the copy functions are undecorated, and
decorated again by a statement of its own after each: mutmut passes over decorated ones. A second run goes on where the
first ended, and tries again what was not caught; to begin anew, remove the folder.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "runs", "*.egg-info", "exports")
CAUGHT = {1, 3, 24, -24, 36, 152, 255}  # mutmut's exit codes: a test failed, or ran far longer than it should
MUTMUTS_OWN = ("staticmethod", "classmethod")  # decorators that mutmut knows
SET_UP = {  # what hands things on to TRL; whether that works is asked by tests that train, for minutes
    "course_helpers/dpo/training.py": ("_Trainer", "dpo_trainer", "sft_trainer", "quiet"),
}
# Making a failing example smaller takes minutes and tells nothing here.
PROFILE = """
from hypothesis import Phase, settings

settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None, deadline=None)
settings.load_profile("mutants")
"""


def undecorated(source: str) -> str:
    """The same module, with ``f = decorator(f)`` after a function instead of ``@decorator`` before it."""
    lines = source.splitlines()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    for node in sorted(functions, key=lambda node: node.lineno, reverse=True):
        moved = [d for d in node.decorator_list if ast.unparse(d) not in MUTMUTS_OWN]
        if not moved:
            continue
        call = node.name
        for decorator in [*reversed(moved), *(d for d in node.decorator_list if d not in moved)]:
            call = f"{ast.unparse(decorator)}({call})"
        lines.insert(node.end_lineno, f"{' ' * node.col_offset}{node.name} = {call}")
        for decorator in moved:
            lines[decorator.lineno - 1 : decorator.end_lineno] = [""] * (decorator.end_lineno - decorator.lineno + 1)
    return "\n".join(lines) + "\n"


def without(source: str, names: tuple[str, ...]) -> str:
    """The same module, with a remark that these functions and classes are not to be mutated."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
            lines[node.body[0].lineno - 2] += "  # pragma: no mutate block"  # the end of its head
    return "\n".join(lines) + "\n"


def used_as_decorators(source: str) -> set[str]:
    """Functions of a module that decorate others: they run when it is imported, before mutmut chooses a mutant."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return {ast.unparse(d) for node in nodes for d in node.decorator_list} & {node.name for node in nodes}


def prepare(folder: Path, modules: list[str]) -> None:
    """Copy the tree, make mutmut see every function, and forget which mutants were not caught."""
    shutil.copytree(TREE, folder, ignore=LEFT_OUT, dirs_exist_ok=True)
    for name in modules:
        path, found = folder / name, folder / "mutants" / f"{name}.meta"
        path.write_text(undecorated(without(path.read_text("utf-8"), SET_UP.get(name, ()))), "utf-8")
        if found.exists():
            content = json.loads(found.read_text("utf-8"))
            codes = content["exit_code_by_key"]
            content["exit_code_by_key"] = {mutant: code if code in CAUGHT else None for mutant, code in codes.items()}
            found.write_text(json.dumps(content, indent=4), "utf-8")
    (folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)  # which test reaches which function
    conftest = folder / "tests" / "conftest.py"
    conftest.write_text(conftest.read_text("utf-8") + PROFILE, "utf-8")


def try_in_a_fresh_process(folder: Path, module: str, tests: list[str], environment: dict[str, str]) -> None:
    """Try mutants of decorators once more, each in a process of its own that imports the module with the fault."""
    path = folder / "mutants" / f"{module}.meta"
    content = json.loads(path.read_text("utf-8"))
    own = [test for test in tests if not test.startswith("tests/") or Path(module).stem in test]  # and not TRL's import
    for function in used_as_decorators((TREE / module).read_text("utf-8")):
        for mutant, code in content["exit_code_by_key"].items():
            if f".x_{function}__mutmut" in mutant and code not in CAUGHT:
                command = [sys.executable, "-m", "pytest", "-x", "-q", *own]
                chosen = environment | {"MUTANT_UNDER_TEST": mutant}
                failed = subprocess.run(command, cwd=folder / "mutants", env=chosen, check=False, capture_output=True)
                content["exit_code_by_key"][mutant] = min(failed.returncode, 1)
    path.write_text(json.dumps(content, indent=4), "utf-8")


def report(folder: Path, modules: list[str]) -> bool:
    """Print how many mutants of each module were caught, and which were not; whether 90 % were, of each."""
    enough = True
    for name in modules:
        codes = json.loads((folder / "mutants" / f"{name}.meta").read_text("utf-8"))["exit_code_by_key"]
        missed = [mutant for mutant, code in codes.items() if code not in CAUGHT]
        share = 1 - len(missed) / max(1, len(codes))
        enough = enough and share >= 0.9
        print(f"{name}: {len(codes)} mutants, {len(codes) - len(missed)} caught ({share:.1%}); missed:", *missed)
        print("    exit codes:", dict(Counter(codes.values())))
    return enough


def main() -> None:
    """Copy, mutate, test, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to work; made if it is not there")
    folder = parser.parse_args().folder.resolve()
    settings = tomllib.loads((TREE / "pyproject.toml").read_text("utf-8"))["tool"]["mutmut"]
    modules = settings["only_mutate"]
    tests = settings["pytest_add_cli_args"] + settings["pytest_add_cli_args_test_selection"]
    prepare(folder, modules)
    course = {"OMP_NUM_THREADS": "1", "COURSE_DEVICE": "cpu", "COURSE_LANGUAGE": "en", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1"]  # a fork each, after torch's import
    subprocess.run(command, cwd=folder, env=os.environ | course, check=True)
    for module in modules:
        try_in_a_fresh_process(folder, module, tests, os.environ | course)
    sys.exit(not report(folder, modules))


if __name__ == "__main__":
    main()
