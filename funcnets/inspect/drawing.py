"""Pictures of the flow of data through a net."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funcnets.inspect.calls import check_net, plan_of
from funcnets.layer import Layer

if TYPE_CHECKING:  # the rooms that draw are entered when something is drawn: importing the package stays quick
    from funcnets.inspect.flow import Flow
    from funcnets.inspect.picture.graph import Edge, Graph, Node
    from funcnets.inspect.picture.layout import Layout

_FORM = "draw(net, x)"
_MOST, _TALLEST = 40, 1400.0  # nodes, frames and functions aside, and the height, of a picture that one reads


class Drawing:
    """A picture of a net: it shows itself in a notebook, and goes to a file.

    Attributes:
      nodes: The layers, operations, inputs, outputs and frames in it, as `Node`s.
      edges: The data that go from node to node with their shapes, and the ties, as `Edge`s.
      depth: How many levels of composites are opened in it.
      svg: The picture, as SVG text.
    """

    def __init__(self, title: str, graph: Graph, layout: Layout, depth: int) -> None:
        from funcnets.inspect.picture.svg import svg_of

        self.nodes: tuple[Node, ...] = graph.nodes
        self.edges: tuple[Edge, ...] = graph.edges
        self.depth = depth
        self.svg = svg_of(graph, layout, title)
        self._title = title

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the picture to a file, `drawing.save("net.svg")`.

        Raises:
          ValueError: A name that does not end in .svg.
        """
        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise ValueError(f"a drawing is saved as SVG, to a file whose name ends in .svg, got {str(path)!r}")
        path.write_text(self.svg, encoding="utf-8")

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        data = sum(edge.tied is None for edge in self.edges)
        return f"<drawing of {self._title}: {len(self.nodes)} nodes, {data} edges, depth {self.depth}>"


def draw(net: Layer, *sample: Any, depth: int | None = None, **kwargs: Any) -> Drawing:
    """A picture of the flow of data through a net, with shapes on the edges.

    Layers are boxes, coloured by family, and their activations the foot of a box. What a composite's own code does is
    a small node where data of two sources meet (+, ×, concat, matmul), or a named function is called; a residual is a
    line beside the column, into a +. A composite, Repeat, Scan or loop is a frame, with × n where it is run or repeated
    n times. Dotted lines join layers that share parameters; frozen ones have a broken edge. Shapes are those of the
    sample, and the dtype is written where it is not float32. Nothing is computed.

    Args:
      net: The net.
      *sample: Its inputs: arrays or `jax.ShapeDtypeStruct`s.
      depth: How many levels of composites are opened; what lies deeper is one box. By default as many as leave a
        picture that can be read: of 40 nodes at most, and not much taller than a page.
      **kwargs: Its keyword inputs.

    Returns:
      A `Drawing`: a notebook shows it, `.save("net.svg")` writes it, `.nodes` and `.edges` are what is in it.

    Raises:
      TypeError: A net that is no layer.
      ValueError: A depth that is no whole number.

    Example:
      >>> net = fn.Sequential(fn.Dense(256), jax.nn.relu, fn.Dense(10))
      >>> drawing = fn.draw(net, jnp.ones((32, 20)))
      >>> [node.label for node in drawing.nodes]
      ['x', 'Dense(256)', 'relu', 'Dense(10)', 'output']
      >>> drawing.edges[1].leaving
      ('32×256',)
    """
    from funcnets.inspect.flow import traced
    from funcnets.inspect.picture.labels import kind

    check_net(_FORM, net)
    if depth is not None and (type(depth) is not int or depth < 0):
        raise ValueError(f"draw takes depth as a whole number of levels, at least 0, or None, got {depth!r}")
    plan_of(_FORM, net, sample, kwargs)
    flow = traced(net, sample, kwargs)
    return _readable(flow, kind(net)) if depth is None else _drawn(flow, kind(net), depth)[0]


def _drawn(flow: Flow, title: str, depth: int) -> tuple[Drawing, bool, bool]:
    """A drawing, whether it can be read, and whether there is nothing more to open."""
    from funcnets.inspect.picture.graph_building import graph_of
    from funcnets.inspect.picture.layout import lay_out

    graph = graph_of(flow, depth)
    layout = lay_out(graph)
    nodes = sum(node.kind not in ("frame", "function") for node in graph.nodes)
    return Drawing(title, graph, layout, depth), nodes <= _MOST and layout.height <= _TALLEST, graph.whole


def _readable(flow: Flow, title: str) -> Drawing:
    """The deepest drawing that can be read, but of one level at least."""
    drawing, _, whole = _drawn(flow, title, 1)
    while not whole:
        deeper, readable, whole = _drawn(flow, title, drawing.depth + 1)
        if not readable:
            break
        drawing = deeper
    return drawing
