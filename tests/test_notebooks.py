"""The stored notebooks keep the course's promises: executed, without errors, short cells, light files, own words."""

import re
from pathlib import Path

import nbformat
import pytest

from course_helpers import widgets

PANELS = widgets.__all__
NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9]*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def test_there_are_lessons():
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert {"00", "01", "02", "03", "04", "05", "06", "07"} <= set(numbers)
    assert len(numbers) == len(set(numbers))


def test_executed_in_order(notebook):
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))


def test_no_errors_stored(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert outputs, "a notebook without outputs passes nbval by saying nothing"
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


def test_cells_are_short(notebook):
    assert max(len(cell.source.splitlines()) for cell in code_cells(notebook)) <= 15


def test_figures_and_widgets_show_something_without_a_kernel(notebook):
    for cell in code_cells(notebook):
        kinds = set().union(*(output.get("data", {}) for output in cell.outputs), set())
        if "plt.show()" in cell.source:
            assert "image/png" in kinds, cell.source
        if re.match(rf"({'|'.join(PANELS)})\(", cell.source.splitlines()[-1]):
            assert "text/html" in kinds, cell.source
        if re.search(r"^ *train\(", cell.source, re.MULTILINE):
            assert "image/png" in kinds, cell.source
            assert all(output.metadata["image/png"]["alt"] for output in cell.outputs if "image/png" in output.data)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_under_a_megabyte(path):
    assert path.stat().st_size < 1_000_000


def test_pictures_in_prose_have_alt_text(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert not re.search(r"!\[\s*\]\(", prose)
    assert "<img" not in prose


def test_lessons_leave_room_to_try(notebook):
    if re.search("0[1234567] ·", notebook.cells[0].source):
        assert sum("**Try it" in cell.source for cell in notebook.cells) >= 6
