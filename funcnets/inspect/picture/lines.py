"""Edges as lines: an edge between nodes in different frames is a line in each frame that it passes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import NamedTuple

from funcnets.inspect.picture.graph import Edge, Node


class Line(NamedTuple):
    """A part of an edge, inside of one frame.

    Attributes:
      source: A node, or ("in", key) where it enters the frame.
      target: A node, or ("out", key) where it leaves it.
      key: The node that the data come from.
    """

    source: Hashable
    target: Hashable
    key: int


Place = tuple[int | None, Line]  # a frame, and a line in it


class Lines:
    """The lines of all edges.

    Attributes:
      inside: The lines in each frame.
      starts: The shapes written where a line starts.
      ends: The shapes written where it ends.
      foot: Functions that are drawn at the foot of the node they follow, and that node.
    """

    def __init__(self, nodes: dict[int, Node], edges: Iterable[Edge]) -> None:
        data = [edge for edge in edges if edge.tied is None]
        self.foot = _feet(nodes, data)
        self.inside: dict[int | None, dict[Line, None]] = defaultdict(dict)
        self.starts: dict[Place, dict[str, None]] = defaultdict(dict)
        self.ends: dict[Place, dict[str, None]] = defaultdict(dict)
        self.leaving: dict[int, dict[str, None]] = defaultdict(dict)
        self._nodes = nodes
        for edge in data:
            self._split(edge)

    def _split(self, edge: Edge) -> None:
        source, target = self.foot.get(edge.source, edge.source), edge.target
        if target in self.foot:
            return
        above, below = self._frames(source), self._frames(target)
        shared = next(frame for frame in above if frame in below)
        leaves: list[Place] = []
        here = source
        for frame in above[: above.index(shared)]:
            leaves.append((frame, Line(here, ("out", source), source)))
            here = frame if frame is not None else here
        enters: list[Place] = []
        there = target
        for frame in below[: below.index(shared)]:
            enters.insert(0, (frame, Line(("in", source), there, source)))
            there = frame if frame is not None else there
        self._written(edge, leaves, (shared, Line(here, there, source)), enters)

    def _frames(self, number: int) -> list[int | None]:
        """The frames around a node, from the inside."""
        frames: list[int | None] = [self._nodes[number].frame]
        while frames[-1] is not None:
            frames.append(self._nodes[frames[-1]].frame)
        return frames

    def _written(self, edge: Edge, leaves: list[Place], middle: Place, enters: list[Place]) -> None:
        """Where the shapes of an edge are written: once if they are the same at both ends."""
        for frame, line in (*leaves, middle, *enters):
            self.inside[frame][line] = None
        leaving, arriving = dict.fromkeys(edge.leaving), dict.fromkeys(edge.arriving)
        changes = leaving != arriving
        outside = arriving if leaves and changes and not enters else leaving
        self.starts[middle] |= outside
        self.leaving[middle[1].key] |= outside
        if changes and leaves:
            self.starts[leaves[0]] |= leaving
        if changes and (enters or not leaves):
            self.ends[[*leaves, middle, *enters][-1]] |= arriving


def written(shapes: Iterable[str]) -> str:
    """Shapes on one line."""
    few = list(dict.fromkeys(shapes))
    return ", ".join(few) if len(few) <= 2 else f"{few[0]}, … ({len(few)})"


def _feet(nodes: dict[int, Node], edges: list[Edge]) -> dict[int, int]:
    """Functions that stand as the foot of a layer: all that it gives goes through them, and keeps its shape."""
    foot: dict[int, int] = {}
    for edge in edges:
        node, source = nodes[edge.target], nodes[edge.source]
        alone = sum(e.source == edge.source for e in edges) == 1 == sum(e.target == edge.target for e in edges)
        after = [e for e in edges if e.source == edge.target]
        keeps = all(e.leaving == edge.arriving == edge.leaving for e in after)
        plain = node.kind == "function" and node.frame == source.frame and not node.badge and not node.tags
        if alone and keeps and plain:
            over = foot.get(source.number, source.number)
            if nodes[over].kind == "layer":
                foot[node.number] = over
    return foot
