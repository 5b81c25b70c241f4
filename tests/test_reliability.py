"""docs/reliability.md names a test for every fault it speaks of, and each of these tests exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
FAULTS = (  # what the page must speak of, by a word of it
    "no network",
    "hub id",
    "full disk",
    "read-only",
    "sigkill",
    "interrupted",
    "run twice",
    "two notebooks",
    "another current folder",
    "área de trabalho",
    "missing",
    "another format",
    "memory does not suffice",
    "one core",
    "avx-512",
    "vocabulary of 100,000",
    "1.5 billion",
    "a script",
    "pickle",
    "127.0.0.1",
    "yaml",
    "progress",
    "choices",
)


def rows():
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [line for line in lines if not line.startswith(("| what goes wrong", "| ---"))]


def cells(row):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))]


def names_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


@pytest.mark.parametrize("row", range(len(rows())))
def test_every_row_names_tests_that_exist(row):
    fault, happens, tried = cells(rows()[row])
    assert fault
    assert happens
    named = re.findall(r"`(tests/[^`]*)`", tried)
    assert named, f"{fault}: no test is named"
    for name in named:
        file, *parts = name.split("::")
        assert (ROOT / file).is_file(), name
        assert set(parts) <= names_in(ROOT / file), name


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_spoken_of(fault):
    assert re.search(fault, PAGE.read_text(encoding="utf-8").lower())
