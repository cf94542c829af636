"""A picture that is far taller than wide, in columns: cut where a single line goes from one part to the next."""

from __future__ import annotations

import itertools
import math
from bisect import bisect, bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from funcnets.inspect.picture.marks import Rectangle, Text, Wire

_TALL = 1100.0  # what is lower stays in one column
_ASPECT = 1.5  # width to height of what is looked for, about that of a slide
_UNEVEN = 3.0  # how much higher than the lowest column the highest may be
_GUTTER, _TURN, _BEFORE = 52.0, 18.0, 13.0  # between columns, how far lines turn outside of them, where they are cut


class Page(NamedTuple):
    """What stands on a page."""

    places: dict[int, Rectangle]
    wires: list[Wire]
    texts: list[Text]

    def moved(self, x: float, y: float) -> Page:
        return Page(
            {n: box.moved(x, y) for n, box in self.places.items()},
            [wire.moved(x, y) for wire in self.wires],
            [text.moved(x, y) for text in self.texts],
        )

    def bounds(self) -> Rectangle:
        """The room that all of it takes."""
        return around([*self.places.values(), *(t.bounds for t in self.texts), *(w.bounds for w in self.wires)])


def around(boxes: Iterable[Rectangle]) -> Rectangle:
    """The smallest rectangle around others."""
    boxes = list(boxes) or [Rectangle(0.0, 0.0, 0.0, 0.0)]
    left, top = min(box.x for box in boxes), min(box.y for box in boxes)
    return Rectangle(left, top, max(b.x + b.width for b in boxes) - left, max(b.y + b.height for b in boxes) - top)


def in_columns(page: Page) -> Page:
    """The same page in as many columns as bring it to the shape of a slide, or as it is."""
    whole = page.bounds()
    if whole.height < max(_TALL, 2 * whole.width):
        return page
    cuts = _cuts(page)
    best, off = page, _off(whole)
    likely = round(math.sqrt(_ASPECT * whole.height / whole.width))
    for count in range(max(likely - 2, 2), likely + 3):
        chosen = _even(cuts, whole, count)
        ends = [whole.y, *chosen, whole.y + whole.height]
        heights = [b - a for a, b in itertools.pairwise(ends)]
        candidate = _cut(page, chosen)
        if max(heights) <= _UNEVEN * min(heights) and _off(candidate.bounds()) < off:
            best, off = candidate, _off(candidate.bounds())
    return best


def _even(cuts: Sequence[float], whole: Rectangle, count: int) -> list[float]:
    """The cuts that make so many columns at most, the highest of them as low as may be."""
    ends = [whole.y, *cuts, whole.y + whole.height]
    heights = sorted({b - a for a, b in itertools.combinations(ends, 2)})
    least = bisect_left(heights, True, key=lambda height: len(_chosen(cuts, whole, height)) < count)
    return _chosen(cuts, whole, heights[min(least, len(heights) - 1)])


def _off(bounds: Rectangle) -> float:
    ratio = bounds.width / bounds.height / _ASPECT
    return max(ratio, 1 / ratio)


def _cuts(page: Page) -> list[float]:
    """The heights at which nothing but one straight line would be cut."""
    cuts: list[float] = []
    for low in sorted({box.y for box in page.places.values()}):
        y = low - _BEFORE
        inside = any(box.y < y < box.y + box.height for box in page.places.values())
        crossing = [wire for wire in page.wires if wire.bounds.y < y < wire.bounds.y + wire.bounds.height]
        if not inside and len(crossing) == 1 and _straight_at(crossing[0], y) is not None:
            cuts.append(y)
    return cuts


def _straight_at(wire: Wire, y: float) -> float | None:
    """Where a line crosses a height, if it is upright there."""
    for (a, top), (b, bottom) in itertools.pairwise(wire.points):
        if top < y < bottom:
            return a if abs(a - b) < 0.05 else None
    return None


def _chosen(cuts: Sequence[float], whole: Rectangle, height: float) -> list[float]:
    """The cuts that make columns as high as may be, up to a height."""
    chosen, start = list[float](), whole.y
    for cut, following in itertools.pairwise([*cuts, whole.y + whole.height]):
        if following - start > height:
            chosen.append(cut)
            start = cut
    return chosen


def _cut(page: Page, cuts: Sequence[float]) -> Page:
    columns = [Page({}, [], []) for _ in range(len(cuts) + 1)]
    for n, box in page.places.items():
        columns[bisect(cuts, box.y)].places[n] = box
    for text in page.texts:
        columns[bisect(cuts, text.y)].texts.append(text)
    for wire in page.wires:
        if bisect(cuts, wire.bounds.y) == bisect(cuts, wire.bounds.y + wire.bounds.height):
            columns[bisect(cuts, wire.bounds.y)].wires.append(wire)
    top, left = page.bounds().y, page.bounds().x
    shifts: list[tuple[float, float]] = []
    for column in columns:
        bounds = column.bounds()
        shifts.append((left - bounds.x, top - bounds.y))
        left += bounds.width + _GUTTER
    moved = [column.moved(*shift) for column, shift in zip(columns, shifts, strict=True)]
    places = {n: box for column in moved for n, box in column.places.items()}
    wires = [wire for column in moved for wire in column.wires]
    for i, y in enumerate(cuts):
        (wire,) = [w for w in page.wires if w.bounds.y < y < w.bounds.y + w.bounds.height]
        gutter = moved[i + 1].bounds().x - _GUTTER / 2
        column = moved[i].bounds()
        turns = gutter, top - _TURN, column.y + column.height + _TURN
        wires.append(_led(wire, y, shifts[i], shifts[i + 1], turns))
    return Page({n: places[n] for n in page.places}, wires, [text for column in moved for text in column.texts])


def _led(
    wire: Wire, y: float, before: tuple[float, float], after: tuple[float, float], turns: tuple[float, float, float]
) -> Wire:
    """A cut line, led from the foot of its column up to the head of the next."""
    gutter, top, bottom = turns
    upper = [(a + before[0], b + before[1]) for a, b in wire.points if b < y]
    lower = [(a + after[0], b + after[1]) for a, b in wire.points if b > y]
    corners = [(upper[-1][0], bottom), (gutter, bottom), (gutter, top), (lower[0][0], top)]
    return wire._replace(points=(*upper, *corners, *lower), square=True)
