"""A graph while it is drawn: what is known of the arrays on the way, and the nodes and edges so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from funcnets.inspect.equations import is_literal
from funcnets.inspect.picture import labels
from funcnets.inspect.picture.graph import Edge, Graph, Node, ties


class Value(NamedTuple):
    """What is known of an array in a jaxpr."""

    origin: int | None = None  # the node that it comes from
    leaving: str = ""  # its shape there
    through: frozenset[str] = frozenset()  # the operations since
    held: frozenset[str] = frozenset()  # the paths of parameters in it


class At(NamedTuple):
    """Where in the picture equations are drawn."""

    frame: int | None
    depth: int  # how many levels of composites are still opened
    bare: bool = False  # whether the next composite stands without a frame of its own
    tags: tuple[str, ...] = ()
    loop: bool = False  # whether a loop is that of the frame


NOTHING = Value()


class Sketch:
    """Nodes and edges so far.

    Attributes:
      nodes: The nodes by number.
      reads: The paths of the parameters that each reads.
      linked: Pairs of paths of layers that share an array by a tie.
    """

    def __init__(self) -> None:
        self.count = 0
        self.nodes: dict[int, Node] = {}
        self.edges: dict[tuple[int, int], list[tuple[str, str]]] = {}
        self.reads: dict[int, frozenset[str]] = {}
        self.linked: list[tuple[str, str]] = []

    def graph(self, whole: bool) -> Graph:
        """What has been drawn; whole is whether nothing in it could be opened."""
        self._prune()
        edges = (*self._data(), *ties(self.nodes, self.reads, self.linked))
        return Graph(tuple(self.nodes.values()), edges, whole)

    def node(self, kind: str, label: str, at: At, **more: Any) -> int:
        """A new node, by its number."""
        number, self.count = self.count, self.count + 1
        self.nodes[number] = Node(number, kind, label, frame=at.frame, tags=at.tags, **more)
        return number

    def fed(self, kind: str, label: str, at: At, env: dict[Any, Value], inputs: Sequence[Any], **more: Any) -> int:
        """A new node with its inputs."""
        for var in inputs:
            self.settled(env, var, at)
        node = self.node(kind, label, at, **more)
        self.feed(node, env, inputs, at)
        return node

    def start(self, node: int, var: Any) -> Value:
        """What is known of an array that a node gives."""
        return Value(node, labels.shape(var.aval))

    def feed(self, node: int, env: dict[Any, Value], inputs: Sequence[Any], at: At) -> None:
        """Edges to a node from where its inputs come from."""
        for var in inputs:
            value = self.settled(env, var, at)
            if value.held:
                self.reads[node] = self.reads.get(node, frozenset()) | value.held
            if value.origin is not None and value.origin != node:
                self.edges.setdefault((value.origin, node), []).append((value.leaving, labels.shape(var.aval)))

    def settled(self, env: dict[Any, Value], var: Any, at: At) -> Value:
        """Where an array comes from; what was done on the way is a node if it amounts to something with a name."""
        value = value_of(env, var)
        name = labels.written_out(value.through) if value.origin is not None else None
        if name is None:
            return value
        node = self.node("function", name, at._replace(tags=()), family="activation")
        self.edges.setdefault((value.origin, node), []).append((value.leaving, value.leaving))  # pyright: ignore[reportArgumentType]
        env[var] = self.start(node, var)
        return env[var]

    def _data(self) -> Iterator[Edge]:
        for (source, target), shapes in self.edges.items():
            once = list(dict.fromkeys(shapes))
            yield Edge(source, target, tuple(a for a, _ in once), tuple(b for _, b in once))

    def _prune(self) -> None:
        """Takes away what the code computes and does not use."""
        while True:
            used = {source for source, _ in self.edges}
            idle = [n for n, node in self.nodes.items() if node.kind in ("function", "operation") and n not in used]
            idle = [n for n in idle if not self.nodes[n].path]
            if not idle:
                return
            for node in idle:
                del self.nodes[node]
            self.edges = {pair: shapes for pair, shapes in self.edges.items() if pair[1] not in idle}


def value_of(env: dict[Any, Value], var: Any) -> Value:
    """What is known of an input of an equation."""
    return NOTHING if is_literal(var) else env.get(var, NOTHING)
