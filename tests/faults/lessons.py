"""A lesson in a kernel of its own, whose cells a test runs as a learner does: twice, shuffled, interrupted."""

from __future__ import annotations

import configparser
import json
import os
import random
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).parent.parent.parent
LONGEST_CELL = 240  # seconds
SHORTEST_WORTH = 0.1  # seconds; a cell that is faster may have come to its end before an interrupt arrives

# What an interrupt must leave as it was. It is asked for in the kernel, as one expression.
STATE = """
def _state_of_the_kernel():
    import json, logging, os, sys, threading
    import psutil
    found = {
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "logging": logging.root.manager.disable,
        "children": [child.name() for child in psutil.Process().children(recursive=True)],
        "threads": sorted(t.name for t in threading.enumerate() if "worker" not in t.name.lower()),
    }
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "overrides"):
        found["gradients"] = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found["defaults"] = str(torch.get_default_dtype()), str(torch.get_default_device()), torch.get_num_threads()
        found["autocast"] = torch.is_autocast_enabled("cpu")
        found["modes"] = len(torch.overrides._get_current_function_mode_stack())
        found["anomaly"] = torch.is_anomaly_enabled()
        found["patched"] = torch.nn.functional.linear.__module__, torch.nn.Module.__call__.__qualname__
    if "matplotlib.pyplot" in sys.modules:
        found["figures"] = sys.modules["matplotlib.pyplot"].get_fignums()
    if "course_helpers.progress_file" in sys.modules:
        found["progress"] = sys.modules["course_helpers.progress_file"]._lock.locked()
    if "datasets" in sys.modules:
        found["bars"] = sys.modules["datasets"].are_progress_bars_disabled()
    if "transformers" in sys.modules:
        found["verbosity"] = sys.modules["transformers"].utils.logging.get_verbosity()
    return json.dumps(found)
"""


@dataclass(frozen=True)
class Cell:
    """A code cell: its id, its source (edited, perhaps), whether its output is compared, and the stored output."""

    id: str
    source: str
    compared: bool
    stored: str


@dataclass(frozen=True)
class Outcome:
    """What running a cell gave: text as a check of stored outputs sees it, an exception's name and words, seconds."""

    text: str
    error: str | None
    words: str
    seconds: float


def cells_of(number: str, edits: Mapping[str, tuple[str, str]] | None = None) -> list[Cell]:
    """The code cells of a lesson.

    Args:
        number: of the lesson, "03".
        edits: cell id → (what stands there, what is to stand there); several, one behind the other, as a tuple of
            pairs.
    """
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    wanted, found = dict(edits or {}), []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        source = cell.source
        for old, new in _pairs(wanted.pop(cell.id, ())):
            assert old in source, f"{cell.id} has no {old!r}: the lesson has changed, and so must this edit"
            source = source.replace(old, new)
        compared = "nbval-ignore-output" not in cell.metadata.get("tags", ()) and source == cell.source
        found.append(Cell(cell.id, source, compared, sanitized(_text(cell.outputs))))
    assert not wanted, f"lesson {number} has no cells {', '.join(wanted)}"
    return found


def _pairs(edit: tuple) -> Iterable[tuple[str, str]]:
    return [edit] if edit and isinstance(edit[0], str) else edit


def _text(outputs: Iterable[Mapping[str, Any]]) -> str:
    """What is printed, and the plain text of what is shown; pictures and warnings are left out."""
    parts = []
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] == "stdout":
            parts.append(output["text"])
        elif output["output_type"] in ("display_data", "execute_result"):
            parts.append(str(output["data"].get("text/plain", "")) + "\n")
    return "".join(parts)


def sanitized(text: str) -> str:
    """A text in which what differs between machines and moments is masked, as in ``make test``."""
    rules = configparser.RawConfigParser()
    rules.read(ROOT / "tests" / "nbval_sanitize.cfg")
    for name in rules.sections():
        text = re.sub(rules[name]["regex"], rules[name]["replace"], text)
    return text


class Kernel:
    """A kernel in a folder; use it in a `with`.

    Args:
        folder: where it works, and where lessons write.
        environment: variables that are set for it, beside those of this process.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None):
        """Nothing is started yet."""
        self.folder = folder
        quiet = {"HF_HUB_OFFLINE": "1", "COURSE_DEVICE": "cpu", "COURSE_LANGUAGE": "en", "PYTHONPATH": str(ROOT)}
        keeping = {
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": "17179869184",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        self.environment = os.environ | quiet | keeping | dict(environment or {})

    def __enter__(self) -> Kernel:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(self.folder), env=dict(self.environment))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.run(STATE + "\n%matplotlib inline")
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    @property
    def pid(self) -> int:
        """Of the kernel's process."""
        return self.manager.provisioner.process.pid

    def run(self, source: str, interrupt_after: float | None = None) -> Outcome:
        """Run a source to its end, or interrupt the kernel after some seconds.

        Raises:
            TimeoutError: neither an end nor an answer to the interrupt.
        """
        began, interrupted = time.perf_counter(), False
        asked = self.client.execute(source, stop_on_error=False)
        outputs, error, words = [], None, ""
        while True:
            passed = time.perf_counter() - began
            if interrupt_after is not None and not interrupted and passed >= interrupt_after:
                self.manager.interrupt_kernel()
                interrupted = True
            if passed > LONGEST_CELL:
                raise TimeoutError(f"no end after {passed:.0f} s:\n{source}")
            wait = 0.5 if interrupt_after is None or interrupted else max(interrupt_after - passed, 0.001)
            try:
                message = self.client.get_iopub_msg(timeout=wait)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind in ("stream", "display_data", "execute_result"):
                outputs.append({"output_type": kind} | content)
            elif kind == "error":
                error, words = content["ename"], content["evalue"]
        with suppress(Empty):  # an interrupt that came just after the end may have cost the reply
            self.client.get_shell_msg(timeout=5 if interrupted else 30)
        return Outcome(sanitized(_text(outputs)), error, words, time.perf_counter() - began)

    def state(self) -> dict[str, Any]:
        """What an interrupt must leave as it was."""
        asked = self.client.execute("", silent=True, user_expressions={"state": "_state_of_the_kernel()"})
        while True:
            reply = self.client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == asked:
                break
        found = reply["content"]["user_expressions"]["state"]
        assert found["status"] == "ok", found
        return json.loads(eval(found["data"]["text/plain"], {"__builtins__": {}}))  # the repr of a text

    def asked(self, expression: str) -> str:
        """The repr of an expression's value."""
        asked = self.client.execute("", silent=True, user_expressions={"x": expression})
        while (reply := self.client.get_shell_msg(timeout=60))["parent_header"].get("msg_id") != asked:
            continue
        found = reply["content"]["user_expressions"]["x"]
        return found["data"]["text/plain"] if found["status"] == "ok" else f"{found['ename']}: {found['evalue']}"


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple]:
    """What of a kernel's state an interrupted cell has changed."""
    return {name: (before[name], after.get(name)) for name in before if before[name] != after.get(name)}


def moments(cells: Iterable[Cell], seed: int) -> dict[str, float]:
    """For each cell the part of its time after which it is interrupted, the same in every run of the test."""
    draw = random.Random(seed)
    return {cell.id: draw.uniform(0.1, 0.9) for cell in cells}
