"""The graph of a net's flow as data: what a picture of it shows."""

from __future__ import annotations

import itertools
from typing import NamedTuple


class Node(NamedTuple):
    """A box of a picture.

    Attributes:
      number: Its number, by which edges and frames speak of it.
      kind: "input", "output", "layer", "array" (a `Param` or `Constant`), "function", "operation", or "frame" around
        others.
      label: What it is: `Dense(256)`, `relu`, `+`.
      name: The name that it was given, or "".
      path: A layer's path.
      family: The family of layers, such as "linear", that gives the colour.
      tags: What else is known of it: "frozen", "remat", "bfloat16".
      badge: How many times it runs: "× 12", "over time × 7"; or "".
      frame: The number of the frame that it is in; None at the top.
    """

    number: int
    kind: str
    label: str
    name: str = ""
    path: str = ""
    family: str = "other"
    tags: tuple[str, ...] = ()
    badge: str = ""
    frame: int | None = None


class Edge(NamedTuple):
    """Data that goes from one node to another, or a tie between two.

    Attributes:
      source: The number of the node where it comes from.
      target: The number of the node where it goes to.
      leaving: The shapes as the source gives them, one for each array: `32×256`, and the dtype if it is not float32.
      arriving: The shapes as the target takes them, which differ where the composite's code reshapes on the way.
      tied: For a tie, the path of the parameters that both read; None for data.
    """

    source: int
    target: int
    leaving: tuple[str, ...] = ()
    arriving: tuple[str, ...] = ()
    tied: str | None = None


class Graph(NamedTuple):
    """Nodes and edges."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    whole: bool  # whether nothing is folded that could be opened


# Ties


def ties(nodes: dict[int, Node], reads: dict[int, frozenset[str]], linked: list[tuple[str, str]]) -> list[Edge]:
    """The pairs of nodes that read the same parameters, one after the other; whole frames where these are the same."""
    found: dict[tuple[int, int], str] = {}
    for path in dict.fromkeys(path for node in nodes for path in sorted(reads.get(node, ()))):
        users = [node for node in nodes if path in reads.get(node, ())]
        for a, b in itertools.pairwise(users):
            found.setdefault(_widened(nodes, a, b), path)
    for source, target in linked:
        ends = [_holder(nodes, source), _holder(nodes, target)]
        if None not in ends and ends[0] != ends[1]:
            found.setdefault((ends[0], ends[1]), source)  # pyright: ignore[reportArgumentType]
    return [Edge(a, b, tied=path) for (a, b), path in found.items()]


def _widened(nodes: dict[int, Node], a: int, b: int) -> tuple[int, int]:
    """Two tied nodes, or the frames around them if these are one composite that is called twice."""
    while True:
        over, under = nodes[a].frame, nodes[b].frame
        if over is None or under is None or over == under or nodes[over].path != nodes[under].path:
            return a, b
        a, b = over, under


def _holder(nodes: dict[int, Node], path: str) -> int | None:
    """The innermost node that a layer is in."""
    inside = [n for n, node in nodes.items() if node.path and (path + "/").startswith(node.path + "/")]
    return max(inside, key=lambda n: len(nodes[n].path), default=None)
