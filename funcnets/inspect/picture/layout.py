"""Where everything in a picture stands: frames are laid out from the inside, each as an item of the one around it."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable
from typing import NamedTuple

from funcnets.inspect.picture.columns import Page, in_columns
from funcnets.inspect.picture.graph import Graph, Node
from funcnets.inspect.picture.layered import Places, layered
from funcnets.inspect.picture.lines import Line, Lines, written
from funcnets.inspect.picture.marks import Point, Rectangle, Text, Wire, text_width
from funcnets.inspect.picture.ranks import Item, Link

TITLE, SMALL = 13.0, 11.0  # sizes of letters
_PAD, _FOOT = 14.0, 14.0  # the room in a frame at its sides, and below
_HEADS = (24.0, 36.0)  # above, for one line, for two
_LONGEST = 28
_MARGIN = 18.0
_BOX_HEIGHTS = (30.0, 44.0)  # of one line, of two
_PILL = 22.0
_WRITTEN = 16.0  # the room that a shape takes on an edge


class Layout(NamedTuple):
    """A picture, as places."""

    width: float
    height: float
    places: dict[int, Rectangle]
    wires: list[Wire]
    texts: list[Text]
    attached: frozenset[int]  # functions that are drawn as the foot of the node they follow


def lay_out(graph: Graph) -> Layout:
    """The places of a graph's nodes, lines and labels."""
    return _Layout(graph).layout()


class _Laid(NamedTuple):
    """A frame laid out with its top left corner at (0, 0)."""

    width: float
    height: float
    enter: dict[Hashable, float]  # where lines enter, from the middle
    leave: dict[Hashable, float]
    middles: dict[int, Point]
    wires: list[Wire]
    texts: list[Text]


class _Layout:
    def __init__(self, graph: Graph) -> None:
        self.nodes = {node.number: node for node in graph.nodes}
        self.ties = [edge for edge in graph.edges if edge.tied is not None]
        self.lines = Lines(self.nodes, graph.edges)
        self.foot = self.lines.foot
        self.children: dict[int | None, list[int]] = defaultdict(list)
        for node in graph.nodes:
            if node.number not in self.foot:
                self.children[node.frame].append(node.number)
        self.inside: dict[int, _Laid] = {}
        self.places: dict[int, Rectangle] = {}
        self.wires: list[Wire] = []
        self.texts: list[Text] = []

    # Frames, from the inside

    def layout(self) -> Layout:
        whole = self._laid(None)
        self._put(None, whole, 0.0, 0.0)
        if not self.ties:
            self.places, self.wires, self.texts = in_columns(self._page())
        self._draw_ties()
        page = self._page()
        left, top, width, height = page.bounds()
        page = page.moved(_MARGIN - left, _MARGIN - top)
        return Layout(width + 2 * _MARGIN, height + 2 * _MARGIN, *page, frozenset(self.foot))

    def _laid(self, frame: int | None) -> _Laid:
        numbers, lines = self.children[frame], list(self.lines.inside[frame])
        self.inside |= {n: self._laid(n) for n in numbers if self.nodes[n].kind == "frame"}
        ends = dict.fromkeys(end for line in lines for end in (line.source, line.target) if isinstance(end, tuple))
        names: list[Hashable] = [*numbers, *ends]
        index = {name: i for i, name in enumerate(names)}
        items = [self._item(frame, name, lines) for name in names]
        links = [self._link(frame, line, index) for line in lines]
        placed = layered(items, links)
        return self._framed(frame, names, items, lines, placed)

    def _item(self, frame: int | None, name: Hashable, lines: list[Line]) -> Item:
        if isinstance(name, tuple):
            side, key = name
            # Outside, its shape is written where it leaves.
            margin = text_width(written(self.lines.leaving[key]), SMALL) / 2 if side == "out" else 0.0
            return Item(0.0, 0.0, margin, row="first" if side == "in" else "last")
        node = self.nodes[name]  # pyright: ignore[reportArgumentType]
        shapes = [written(self.lines.starts.get((frame, line), ())) for line in lines if line.source == name]
        margin = max((text_width(shape, SMALL) / 2 for shape in shapes), default=0.0)
        if node.kind == "frame":
            laid = self.inside[node.number]
            return Item(laid.width, laid.height, margin, laid.enter, laid.leave)
        row = {"input": "first", "output": "last"}.get(node.kind, "")
        return Item(*self._size(node), margin, row=row, round=node.kind == "operation")

    def _link(self, frame: int | None, line: Line, index: dict[Hashable, int]) -> Link:
        above = _WRITTEN if (frame, line) in self.lines.starts else 0.0
        below = _WRITTEN if (frame, line) in self.lines.ends else 0.0
        return Link(index[line.source], index[line.target], line.key, above, below)

    def _size(self, node: Node) -> tuple[float, float]:
        """A node's width and height; layers in one frame are of one width."""
        title, name = lines_of(node)
        if node.kind == "operation" and len(title) == 1:
            return 24.0, 24.0
        badge = _PILL if node.badge else 0.0
        if node.kind != "layer":
            tall = 38.0 if name else 26.0 if node.kind in ("input", "output") else _PILL + 2
            return self._wide(node), tall + badge
        beside = [self.nodes[n] for n in self.children[node.frame] if self.nodes[n].kind == "layer"]
        tall = _BOX_HEIGHTS[bool(name)] + len(self._feet_of(node)) * _PILL
        return max(104.0, *map(self._wide, beside)), tall + badge

    def _wide(self, node: Node) -> float:
        """How wide a node's writing makes it."""
        title, *others = *lines_of(node), *(self.nodes[n].label for n in self._feet_of(node)), node.badge
        return max(text_width(title, TITLE), *(text_width(text, SMALL) for text in others)) + 24

    def _feet_of(self, node: Node) -> list[int]:
        return [n for n, of in self.foot.items() if of == node.number]

    def _framed(
        self, frame: int | None, names: list[Hashable], items: list[Item], lines: list[Line], placed: Places
    ) -> _Laid:
        """A level with the room around it, its first corner at (0, 0)."""
        middles = dict(zip(names, placed.middles, strict=True))
        writing = self._shapes(frame, lines, placed)
        rooms = [(x - max(i.width / 2, 0), x + i.width / 2) for i, (x, _) in zip(items, placed.middles, strict=True)]
        rooms += [(t.bounds.x, t.bounds.x + t.bounds.width) for t in writing]
        rooms += [(x, x) for path in placed.paths for x, _ in path]
        left, right = min((a for a, _ in rooms), default=0.0), max((b for _, b in rooms), default=0.0)
        bottom = max((y + i.height / 2 for i, (_, y) in zip(items, placed.middles, strict=True)), default=0.0)
        head = 0.0 if frame is None else _HEADS[bool(lines_of(self.nodes[frame])[1])]
        enter = {n[1]: middles[n][0] for n in names if isinstance(n, tuple) and n[0] == "in"}
        leave = {n[1]: middles[n][0] for n in names if isinstance(n, tuple) and n[0] == "out"}
        texts: list[Text] = []
        if frame is not None:
            left, right = left - _PAD, right + _PAD
            node = self.nodes[frame]
            title = max(text_width(text, SMALL) for text in lines_of(node))
            badge = text_width(node.badge, SMALL) + 16 if node.badge else 0.0
            ports = list(enter.values()) or [left + title + 20]
            left = min(left, min(ports) - title - 20)
            right = max(right, max(ports) + badge + (30 if badge else 0))
            bottom += 0.0 if leave else _FOOT
        shift = -left, head
        wires = [
            Wire(tuple(path), not isinstance(line.target, tuple), side)
            for path, line, side in zip(placed.paths, lines, placed.sides, strict=True)
        ]
        wires = [wire.moved(*shift) for wire in wires]
        # A line that comes in crosses the head of the frame.
        wires += [Wire(((x - left, 0.0), (x - left, head)), False, False) for x in enter.values() if head]
        texts += [text.moved(*shift) for text in writing]
        width, height = right - left, bottom + head
        centre = left + width / 2
        return _Laid(
            width,
            height,
            {key: x - centre for key, x in enter.items()},
            {key: x - centre for key, x in leave.items()},
            {n: (x + shift[0], y + shift[1]) for n, (x, y) in middles.items() if isinstance(n, int)},
            wires,
            texts,
        )

    def _shapes(self, frame: int | None, lines: list[Line], placed: Places) -> list[Text]:
        """The shapes on the lines, each once where lines of one shape leave together."""
        found: dict[tuple[float, float], dict[str, None]] = defaultdict(dict)
        for path, line, side in zip(placed.paths, lines, placed.sides, strict=True):
            if (frame, line) in self.lines.starts:
                x, y = path[0]
                found[x, y + 11] |= self.lines.starts[frame, line]
            if (frame, line) in self.lines.ends:
                x, y = path[-2] if side else path[-1]
                found[x, y - (12 if side else 20)] |= self.lines.ends[frame, line]
        return [Text(written(shapes), *at, SMALL, role="shape") for at, shapes in found.items()]

    def _put(self, frame: int | None, laid: _Laid, x: float, y: float) -> None:
        """Everything in a frame whose top left corner stands at x, y."""
        self.wires += [wire.moved(x, y) for wire in laid.wires]
        self.texts += [text.moved(x, y) for text in laid.texts]
        for number, (dx, dy) in laid.middles.items():
            node = self.nodes[number]
            if node.kind == "frame":
                inner = self.inside[number]
                corner = x + dx - inner.width / 2, y + dy - inner.height / 2
                self.places[number] = Rectangle(*corner, inner.width, inner.height)
                self._head(node, self.places[number])
                self._put(number, inner, *corner)
            else:
                wide, tall = self._size(node)
                self._box(node, Rectangle(x + dx - wide / 2, y + dy - tall / 2, wide, tall))

    def _head(self, node: Node, place: Rectangle) -> None:
        title, kind = lines_of(node)
        x, y = place.x + 10, place.y + 13
        self.texts.append(Text(title, x, y, SMALL, "start", "head"))
        if kind:
            self.texts.append(Text(kind, x, y + 14, SMALL, "start", "kind"))
        if node.badge:
            self.texts.append(Text(node.badge, place.x + place.width - 14, place.y + 16, SMALL, "end", "badge"))

    def _box(self, node: Node, place: Rectangle) -> None:
        title, name = lines_of(node)
        feet = self._feet_of(node)
        middle = place.x + place.width / 2
        own = self.places[node.number] = place._replace(height=place.height - len(feet) * _PILL)
        if node.badge:
            self.texts.append(Text(node.badge, middle, own.y + own.height - _PILL / 2, SMALL, role="badge"))
        y = own.y + (own.height - _PILL * bool(node.badge)) / 2
        role = "end" if node.kind in ("input", "output") else "title"
        self.texts.append(Text(title, middle, y - (8 if name else 0), TITLE, role=role))
        if name:
            self.texts.append(Text(name, middle, y + 8, SMALL, role="name"))
        for i, foot in enumerate(feet):
            self.places[foot] = Rectangle(place.x, own.y + own.height + i * _PILL, place.width, _PILL)
            self.texts.append(Text(self.nodes[foot].label, middle, self.places[foot].y + _PILL / 2, SMALL, role="foot"))

    # Ties

    def _draw_ties(self) -> None:
        """A lane at the left for what shares one path, with a branch to each; boxes in one row are joined directly."""
        left = self._page().bounds().x
        for path, numbers in self._tied().items():
            boxes = [self.places[n] for n in numbers]
            heights = [box.y + box.height / 2 for box in boxes]
            if max(heights) - min(heights) < 12:
                for a, b in itertools.pairwise(sorted(boxes)):
                    self.wires.append(Wire(((a.x + a.width, heights[0]), (b.x, heights[0])), False, False, tie=True))
                continue
            left -= 18
            top, bottom = min(heights), max(heights)
            self.wires.append(Wire(((left, top), (left, bottom)), False, False, tie=True))
            ends = zip(boxes, heights, strict=True)
            self.wires += [Wire(((left, y), (box.x, y)), False, False, tie=True) for box, y in ends]
            label = f"tied: {path if len(path) <= _LONGEST else '…' + path[-_LONGEST:]}" if path else "tied"
            self.texts.append(Text(label, left, (top + bottom) / 2, SMALL, role="tie", upright=True))

    def _tied(self) -> dict[str, dict[int, None]]:
        found: dict[str, dict[int, None]] = defaultdict(dict)
        for tie in self.ties:
            found[tie.tied or ""] |= {self.foot.get(n, n): None for n in (tie.source, tie.target)}
        return found

    def _page(self) -> Page:
        return Page(self.places, self.wires, self.texts)


def lines_of(node: Node) -> tuple[str, str]:
    """The two lines that are written in a node: what it is, and its name and marks."""
    label, name = shortened(node.label), shortened(node.name)
    if node.kind == "frame":
        first, *others = [line for line in (name, label) if line]
        return first, " · ".join([*others, *node.tags])
    if node.kind == "array" and name:
        return name, " · ".join([label.lower(), *node.tags])
    return label, " · ".join([*([name] if name else []), *node.tags])


def shortened(text: str) -> str:
    """A text of at most 28 characters."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
