"""Execute notebooks and store their outputs without noise: running it twice changes nothing.

python tools/execute_notebooks.py [--check] notebooks/01_*.ipynb

With --check nothing is written, and the exit status is 1 if a notebook would change.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

WIDGET = "application/vnd.jupyter.widget-view+json"
LONGEST_CELL = 900  # seconds


def execute(path: Path) -> nbformat.NotebookNode:
    """Run every cell in a fresh kernel and return the notebook as it is to be stored."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=LONGEST_CELL,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,  # where one print ends and the next begins is a matter of timing
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    return without_noise(notebook)


def without_noise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what differs between two equal runs or says nothing to a reader."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    name_cells(notebook.cells)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if len(output.get("data", {})) > 1:
                output.data.pop(WIDGET, None)  # its id is random; the static table beside it stays
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = output.data["image/png"].strip() + "\n"
    return notebook


def name_cells(cells: list[nbformat.NotebookNode]) -> None:
    """Give new cells readable ids and leave the others theirs: the glossary links to them."""
    taken = {cell.id for cell in cells if "-" in cell.id}
    free = (f"cell-{number:03d}" for number in itertools.count() if f"cell-{number:03d}" not in taken)
    for cell in cells:
        if cell.id not in taken:  # a random id, as Jupyter gives it
            cell.id = next(free)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a notebook would change")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["COURSE_LANGUAGE"] = "en"  # whatever the machine speaks
    changed = []
    for path in arguments.notebooks:
        before = path.read_text(encoding="utf-8")
        after = nbformat.writes(execute(path)) + "\n"
        if after != before:
            changed.append(path.name)
            if not arguments.check:
                path.write_text(after, encoding="utf-8")
        print(f"{path.name}: {'changed' if path.name in changed else 'unchanged'}, {len(after) // 1024} kB")
    return int(arguments.check and bool(changed))


if __name__ == "__main__":
    sys.exit(main())
