"""A laid out picture as SVG: plain shapes and text, in one file that needs no other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from html import escape

from funcnets.inspect.picture.graph import Graph, Node
from funcnets.inspect.picture.layout import Layout
from funcnets.inspect.picture.marks import Point, Rectangle, Text, Wire

_FONTS = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"

_COLOURS = {  # (fill, edge), by family
    "linear": ("#dbe9fb", "#4a7fc1"),
    "convolution": ("#fde3cf", "#d6813b"),
    "pooling": ("#fbeed8", "#c9a04e"),
    "normalization": ("#ddf1e0", "#58a066"),
    "attention": ("#e8defa", "#8362c4"),
    "recurrent": ("#f9dbe6", "#c75b85"),
    "embedding": ("#d6f0f1", "#3d9aa0"),
    "activation": ("#fff6cf", "#c4a82e"),
    "array": ("#f1f3f5", "#868e96"),
    "other": ("#eceff2", "#7a8591"),
}
_INK, _SOFT, _LINE, _TIE, _BADGE = "#1f2933", "#5f6b7a", "#52606d", "#b5179e", "#3e4c59"
_FRAMES = ("#f7f9fb", "#eef2f6")  # by depth, in turns
_TEXTS = {
    "title": (_INK, "600"), "name": (_SOFT, "400"), "foot": (_INK, "400"), "shape": (_SOFT, "400"),
    "head": (_INK, "600"), "kind": (_SOFT, "400"), "badge": ("#ffffff", "600"), "tie": (_TIE, "400"),
    "end": ("#ffffff", "600"),
}  # fmt: skip


def svg_of(graph: Graph, layout: Layout, title: str) -> str:
    """The SVG text of a picture.

    Args:
      graph: What it shows.
      layout: Where.
      title: What a reader who does not see is told.
    """
    drawn = repr((graph, layout, title)).encode()
    mark = "fn" + hashlib.sha256(drawn).hexdigest()[:10]  # several pictures may stand on one page
    body = "\n".join(_Writer(graph, layout, mark).lines())
    width, height = _number(layout.width), _number(layout.height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-labelledby="{mark}-title" font-family="{_FONTS}" style="max-width: 100%">\n'
        f'<title id="{mark}-title">{escape(title)}</title>\n'
        f'<defs><marker id="{mark}-arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 1 L10 5 L0 9 z" fill="{_LINE}"/></marker></defs>\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>\n'
        f"{body}\n</svg>\n"
    )


class _Writer:
    def __init__(self, graph: Graph, layout: Layout, mark: str) -> None:
        self.nodes = {node.number: node for node in graph.nodes}
        self.tied = {end for edge in graph.edges if edge.tied is not None for end in (edge.source, edge.target)}
        self.layout, self.mark = layout, mark

    def lines(self) -> Iterator[str]:
        """Frames, ties, wires, nodes, and what is written, each above those before."""
        frames = [node for node in self.nodes.values() if node.kind == "frame"]
        yield from (self._frame(node) for node in sorted(frames, key=self._depth))
        yield from (self._wire(wire) for wire in sorted(self.layout.wires, key=lambda wire: not wire.tie))
        yield from (self._node(node) for node in self.nodes.values() if node.kind != "frame")
        for text in self.layout.texts:
            yield from self._text(text)

    def _depth(self, node: Node) -> int:
        return 0 if node.frame is None else 1 + self._depth(self.nodes[node.frame])

    def _frame(self, node: Node) -> str:
        fill, edge = _FRAMES[self._depth(node) % 2], _TIE if node.number in self.tied else "#b6c2cf"
        dash = ' stroke-dasharray="5 4"' if any(tag.startswith("frozen") for tag in node.tags) else ""
        return _rectangle(self.layout.places[node.number], 8, f'fill="{fill}" stroke="{edge}"{dash}')

    def _node(self, node: Node) -> str:
        place = self.layout.places[node.number]
        fill, edge = _COLOURS[node.family]
        if node.kind in ("input", "output"):
            return _rectangle(place, place.height / 2, f'fill="{_INK}" stroke="{_INK}"')
        if node.kind == "operation":
            return _rectangle(place, place.height / 2, f'fill="#ffffff" stroke="{_LINE}" stroke-width="1.4"')
        if node.number in self.layout.attached:
            return _rectangle(place, 4, f'fill="{fill}" stroke="{edge}"')
        look = f'fill="{fill}" stroke="{edge}" stroke-width="1.4"'
        if node.number in self.tied:
            look = f'fill="{fill}" stroke="{_TIE}" stroke-width="1.6"'
        if any(tag.startswith("frozen") for tag in node.tags):
            look += ' stroke-dasharray="5 3"'
        return _rectangle(place, place.height / 2 if node.kind == "function" else 6, look)

    def _wire(self, wire: Wire) -> str:
        if wire.tie:
            return f'<path d="{_straight(wire.points)}" fill="none" stroke="{_TIE}" stroke-dasharray="2 4"/>'
        head = f' marker-end="url(#{self.mark}-arrow)"' if wire.arrow else ""
        return f'<path d="{_bent(wire)}" fill="none" stroke="{_LINE}" stroke-width="1.4"{head}/>'

    def _text(self, text: Text) -> Iterator[str]:
        colour, weight = _TEXTS[text.role]
        box = text.bounds
        if text.role == "badge":
            around = Rectangle(box.x - 7, box.y - 2, box.width + 14, box.height + 4)
            yield _rectangle(around, around.height / 2, f'fill="{_BADGE}"')
        elif text.role in ("shape", "tie"):
            yield _rectangle(box, 3, 'fill="#ffffff" fill-opacity="0.9"')
        turn = f' transform="rotate(-90 {_number(text.x)} {_number(text.y)})"' if text.upright else ""
        yield (
            f'<text x="{_number(text.x)}" y="{_number(text.y + text.size * 0.36)}" font-size="{_number(text.size)}" '
            f'font-weight="{weight}" fill="{colour}" text-anchor="{text.anchor}"{turn}>{escape(text.text)}</text>'
        )


def _number(x: float) -> str:
    return f"{x:.1f}".removesuffix(".0")


def _rectangle(place: Rectangle, radius: float, look: str) -> str:
    x, y, width, height = map(_number, place)
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{_number(radius)}" {look}/>'


def _point(point: Point) -> str:
    return f"{_number(point[0])} {_number(point[1])}"


def _straight(points: tuple[Point, ...]) -> str:
    return "M" + " L".join(map(_point, points))


def _bent(wire: Wire) -> str:
    """A path through points: straight down, or bent where it goes aside."""
    if wire.square:
        return _turning(wire.points)
    first, *others = wire.points
    steps, (x, y) = [f"M{_point(first)}"], first
    for i, (a, b) in enumerate(others):
        if wire.side and i == len(others) - 1:
            steps.append(f"Q{_point((x, b))} {_point((a, b))}")
        elif abs(a - x) < 0.05:
            steps.append(f"L{_point((a, b))}")
        else:
            middle = (y + b) / 2
            steps.append(f"C{_point((x, middle))} {_point((a, middle))} {_point((a, b))}")
        x, y = a, b
    return " ".join(steps)


def _turning(points: tuple[Point, ...], radius: float = 8.0) -> str:
    """A path through points that turns at right angles, with round corners."""
    steps = [f"M{_point(points[0])}"]
    for before, here, after in zip(points, points[1:], points[2:], strict=False):
        if before[0] == here[0] == after[0]:
            continue
        start, end = _towards(here, before, radius), _towards(here, after, radius)
        steps.append(f"L{_point(start)} Q{_point(here)} {_point(end)}")
    return " ".join([*steps, f"L{_point(points[-1])}"])


def _towards(here: Point, there: Point, distance: float) -> Point:
    """The point at a distance from here on an upright or level line, at most half the way."""
    x, y = there[0] - here[0], there[1] - here[1]
    share = min(distance / max(abs(x), abs(y), 1e-9), 0.5)
    return here[0] + share * x, here[1] + share * y
