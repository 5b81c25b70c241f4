"""YAML that anybody may have written: plain values only, and refused where it is too much or names a thing twice.

A few lines of aliases of aliases can stand for billions of values. YAML keeps them as references, but who visits or
prints them all never comes to an end; so what is read here is counted before it is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 1_000_000
MOST_VALUES = 20_000  # a qna.yaml of a thousand seed examples has some 7,000
MOST_CHARACTERS = 2_000_000


def read_yaml_file(path: str | Path) -> Any:
    """What a YAML file holds.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is no such file.
        yaml.YAMLError: it is no YAML.
        ValueError: as `read_yaml`; or it is larger than `MOST_BYTES`, or not UTF-8.
    """
    path = Path(path)
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path} is larger than 1 MB, and is not read: is it the file you mean?")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text in UTF-8: save it as one.") from None
    return read_yaml(text, str(path))


def read_yaml(text: str, name: str) -> Any:
    """The plain values that a text in YAML stands for; a tag that names a class or a function is an error.

    Args:
        text: YAML.
        name: what to call it in an error.

    Raises:
        yaml.YAMLError: it is no YAML.
        ValueError: it stands for too much, holds itself, is nested too deeply, names one thing twice, or holds a value
            that cannot be.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None:
            return None
        if too_much(root):
            raise ValueError(f"{name} stands for too much: it repeats parts of itself with & and *; write them out.")
        for key in _written_twice(root):
            line = key.start_mark.line + 1
            raise ValueError(f"{name} has {key.value[:80]!r} twice, the second time at line {line}: keep one of them.")
        return _built(root, name)
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply: lists in lists in lists, without end.") from None


def _built(root: yaml.Node, name: str) -> Any:
    try:
        return yaml.constructor.SafeConstructor().construct_document(root)
    except (OverflowError, ValueError) as error:  # such as a date in a thirteenth month
        raise ValueError(f"{name} holds a value that cannot be: {error}.") from None


def too_much(root: yaml.Node) -> bool:
    """Whether a text holds more than fits, every alias counted as what it stands for.

    An alias to what it is itself a part of has no end at all.

    Args:
        root: of the text, from ``yaml.compose``, which follows no alias.

    Returns:
        True for more than `MOST_VALUES` values or `MOST_CHARACTERS` characters, or for a value that holds itself.
    """
    sizes: dict[int, tuple[int, int] | None] = {}

    def size(node: yaml.Node) -> tuple[int, int] | None:
        """Values and characters of a node; None while it is being counted, and for what has no end."""
        if id(node) not in sizes:
            sizes[id(node)] = None
            if isinstance(node, yaml.ScalarNode):
                sizes[id(node)] = (1, len(node.value))
            else:
                pairs = isinstance(node, yaml.MappingNode)
                parts = [size(part) for item in node.value for part in (item if pairs else (item,))]
                if None not in parts:
                    sizes[id(node)] = (1 + sum(part[0] for part in parts), sum(part[1] for part in parts))
        return sizes[id(node)]

    whole = size(root)
    return whole is None or whole[0] > MOST_VALUES or whole[1] > MOST_CHARACTERS


def _written_twice(root: yaml.Node) -> Iterator[yaml.Node]:
    """Keys that stand in one mapping for a second time; each node is looked at once, whoever refers to it."""
    seen, waiting = {id(root)}, [root]
    while waiting:
        node = waiting.pop()
        below = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            keys: set[tuple[str, Any]] = set()
            for key, _value in node.value:
                if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in keys:
                    yield key
                keys.add((key.tag, key.value if isinstance(key, yaml.ScalarNode) else id(key)))
            below = [part for pair in node.value for part in pair]
        for part in below:
            if id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)
