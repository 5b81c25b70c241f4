"""Where in a YAML file a value stands."""

from __future__ import annotations

import re
from dataclasses import dataclass

import yaml

STEP = re.compile(r"\.([a-zA-Z][a-zA-Z0-9_]*)|\[(\d+)\]|\['((?:[^'\\]|\\.)*)'\]")

Step = str | int


@dataclass(frozen=True)
class Place:
    """A line and a column, both counted from 1."""

    line: int
    column: int


def steps_of(path: str) -> tuple[Step, ...]:
    """The steps of a parser's path: ".seed_examples[0].answer" is ("seed_examples", 0, "answer"); "." is ()."""
    steps: list[Step] = []
    for key, index, quoted in STEP.findall(path):
        steps.append(int(index) if index else key or re.sub(r"\\(.)", r"\1", quoted))
    return tuple(steps)


def path_of(steps: tuple[Step, ...]) -> str:
    """The steps as a learner reads them: "seed_examples[0].answer"."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def child(node: yaml.Node, step: Step) -> tuple[Place, yaml.Node] | None:
    """Where one step leads from a node, and where that begins: at the key in a mapping. None if it leads nowhere."""
    if isinstance(node, yaml.MappingNode):
        pairs = [pair for pair in node.value if pair[0].value == str(step)]
        # Of a key written twice, the last one counts.
        return (_place(pairs[-1][0]), pairs[-1][1]) if pairs else None
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return _place(node.value[step]), node.value[step]
    return None


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def place_of(root: yaml.Node, steps: tuple[Step, ...]) -> Place:
    """Where a value stands: at its key in a mapping, at its beginning in a list.

    Args:
        root: of the file, from ``yaml.compose``.
        steps: from the root to the value; where they lead nowhere, the last place on the way counts.

    Returns:
        Its place.
    """
    place, node = _place(root), root
    for step in steps:
        found = child(node, step)
        if found is None:
            break
        place, node = found
    return place


def node_of(root: yaml.Node, steps: tuple[Step, ...]) -> yaml.Node | None:
    """The node a path leads to, or None."""
    node = root
    for step in steps:
        found = child(node, step)
        if found is None:
            return None
        node = found[1]
    return node
