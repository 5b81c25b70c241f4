"""The tree of a beam search as a drawing, and as a list for whoever cannot see it."""

from __future__ import annotations

from dataclasses import dataclass

from course_helpers.beams import BeamNode, BeamTree
from course_helpers.tokens import TokenName, visible
from course_helpers.translation import _
from course_helpers.widgets.markup import escape, number, quoted

NODE_WIDTH, NODE_HEIGHT, COLUMN, ROW, MARGIN = 112, 34, 156, 42, 10
LONGEST = 12


@dataclass(frozen=True)
class Place:
    """The middle of a node's left side in the drawing."""

    x: float
    y: float


def tree_svg(tree: BeamTree, name: TokenName) -> str:
    """The tree from the prompt, left, to the ends, right.

    What was kept is drawn with full lines, what died with dashed ones, and the best response is marked.
    """
    places, root = _places(tree)
    best = _best(tree)
    lines = "".join(_line(node, places[i], _start(node, places, root), i in best) for i, node in enumerate(tree.nodes))
    nodes = "".join(_node(node, places[i], name, i in best) for i, node in enumerate(tree.nodes))
    width = max(place.x for place in places) + NODE_WIDTH + MARGIN
    height = max(place.y for place in places) + NODE_HEIGHT / 2 + MARGIN
    return (
        f'<svg class="ch-tree" role="img" aria-label="{escape(in_words(tree, name))}" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">{lines}{nodes}{_prompt(root)}</svg>'
    )


def in_words(tree: BeamTree, name: TokenName) -> str:
    """The outcome of a search in one sentence."""
    best = tree.sequences[0]
    text = "".join(name(token) for token in best.token_ids)
    dead = sum(not node.kept for node in tree.nodes)
    words = _(
        "Beam search: {count} candidates looked at, {dead} of them died. "
        "The best response is {text} with ln π(Y|X) = {log_prob}."
    )
    return words.format(count=len(tree.nodes), dead=dead, text=quoted(text), log_prob=number(best.log_prob))


def tree_list(tree: BeamTree, name: TokenName) -> str:
    """The tree as nested lists."""
    return f"<ul>{_branch(tree, None, name, _best(tree))}</ul>"


def _branch(tree: BeamTree, parent: int | None, name: TokenName, best: set[int]) -> str:
    items = []
    for index, node in enumerate(tree.nodes):
        if node.parent == parent:
            below = _branch(tree, index, name, best)
            fate = _("best response") if index in best else _("finished") if node.finished else _fate(node)
            items.append(f"<li><code>{escape(visible(name(node.token_id)))}</code> {number(node.score)}, {fate}")
            items.append(f"<ul>{below}</ul></li>" if below else "</li>")
    return "".join(items)


def _fate(node: BeamNode) -> str:
    return _("kept") if node.kept else _("died")


def _best(tree: BeamTree) -> set[int]:
    """The nodes of the best response."""
    path: set[int] = set()
    index: int | None = tree.sequences[0].node
    while index is not None:
        path.add(index)
        index = tree.nodes[index].parent
    return path


def _places(tree: BeamTree) -> tuple[list[Place], Place]:
    """A place for each node, in columns by depth, children in the order of their parents; and one for the prompt."""
    columns: dict[int, list[int]] = {}
    for index, node in enumerate(tree.nodes):
        columns.setdefault(node.depth, []).append(index)
    tallest = max(len(column) for column in columns.values())
    places: dict[int, Place] = {}
    for depth, column in columns.items():
        # Sorting by the parent's height keeps lines from crossing.
        column.sort(key=lambda index: (_height(tree.nodes[index], places), tree.nodes[index].rank))
        top = MARGIN + NODE_HEIGHT / 2 + (tallest - len(column)) * ROW / 2
        for row, index in enumerate(column):
            places[index] = Place(MARGIN + (depth - 1) * COLUMN + 70, top + row * ROW)
    middle = MARGIN + NODE_HEIGHT / 2 + (tallest - 1) * ROW / 2
    return [places[index] for index in range(len(tree.nodes))], Place(MARGIN, middle)


def _height(node: BeamNode, places: dict[int, Place]) -> float:
    return 0.0 if node.parent is None else places[node.parent].y


def _start(node: BeamNode, places: list[Place], root: Place) -> Place:
    """Where the line to a node begins: at the right of its parent."""
    if node.parent is None:
        return Place(root.x + 14, root.y)
    return Place(places[node.parent].x + NODE_WIDTH, places[node.parent].y)


def _kind(node: BeamNode, best: bool) -> str:
    return "ch-best" if best else "ch-alive" if node.kept else "ch-dead"


def _line(node: BeamNode, end: Place, start: Place, best: bool) -> str:
    middle = (start.x + end.x) / 2
    curve = f"M{start.x:.1f},{start.y:.1f} C{middle:.1f},{start.y:.1f} {middle:.1f},{end.y:.1f} {end.x:.1f},{end.y:.1f}"
    return f'<path class="{_kind(node, best)}" d="{curve}"/>'


def _node(node: BeamNode, place: Place, name: TokenName, best: bool) -> str:
    token = visible(name(node.token_id))
    short = token if len(token) <= LONGEST else token[: LONGEST - 1] + "…"
    middle, top = place.x + NODE_WIDTH / 2, place.y - NODE_HEIGHT / 2
    mark = "★ " if best else "■ " if node.finished else ""
    words = _("{token}: ln π of this step {log_prob}, sum {score}, {fate}")
    words = words.format(token=token, log_prob=number(node.log_prob), score=number(node.score), fate=_fate(node))
    return (
        f'<g class="{_kind(node, best)}"><title>{escape(words)}</title>'
        f'<rect x="{place.x:.1f}" y="{top:.1f}" width="{NODE_WIDTH}" height="{NODE_HEIGHT}" rx="5"/>'
        f'<text x="{middle:.1f}" y="{place.y - 3:.1f}" class="ch-tree-token">{mark}{escape(short)}</text>'
        f'<text x="{middle:.1f}" y="{place.y + 12:.1f}" class="ch-tree-score">{number(node.score)}</text></g>'
    )


def _prompt(root: Place) -> str:
    return (
        f'<circle class="ch-root" cx="{root.x + 7:.1f}" cy="{root.y:.1f}" r="7"/>'
        f'<text class="ch-tree-score" x="{root.x + 7:.1f}" y="{root.y + 22:.1f}">X</text>'
    )
