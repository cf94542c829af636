"""What a picture is drawn of: rectangles, lines and writing, each with the room that it takes."""

from __future__ import annotations

from typing import NamedTuple

Point = tuple[float, float]


class Rectangle(NamedTuple):
    """A node's place: the top left corner and the size."""

    x: float
    y: float
    width: float
    height: float

    def moved(self, x: float, y: float) -> Rectangle:
        return self._replace(x=self.x + x, y=self.y + y)


class Text(NamedTuple):
    """A piece of writing.

    Attributes:
      text: What it says.
      x, y: The middle of the line at its anchor.
      size: The size of its letters.
      anchor: "start", "middle" or "end".
      role: What it is: "title", "name", "foot", "end", "shape", "badge", "tie", "head" or "kind".
      upright: Whether it runs from the bottom to the top.
    """

    text: str
    x: float
    y: float
    size: float
    anchor: str = "middle"
    role: str = "title"
    upright: bool = False

    def moved(self, x: float, y: float) -> Text:
        return self._replace(x=self.x + x, y=self.y + y)

    @property
    def bounds(self) -> Rectangle:
        """The room that it takes."""
        width, height = text_width(self.text, self.size), self.size * 1.2
        if self.upright:
            return Rectangle(self.x - height / 2, self.y - width / 2, height, width)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return Rectangle(left, self.y - height / 2, width, height)


class Wire(NamedTuple):
    """A line.

    Attributes:
      points: What it runs through: straight down, or bent where it goes aside.
      arrow: Whether it ends in an arrow.
      side: Whether it enters its end from a side.
      tie: Whether it is a tie, straight from point to point.
      square: Whether it turns at right angles.
    """

    points: tuple[Point, ...]
    arrow: bool
    side: bool
    tie: bool = False
    square: bool = False

    def moved(self, x: float, y: float) -> Wire:
        return self._replace(points=tuple((a + x, b + y) for a, b in self.points))

    @property
    def bounds(self) -> Rectangle:
        """The room that it takes."""
        xs, ys = zip(*self.points, strict=True)
        return Rectangle(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


_NARROW, _WIDE = frozenset("ijl|.,:;'!()[] tfrI"), frozenset("mwMW@%→")


def text_width(text: str, size: float) -> float:
    """About how wide a text is, rather too wide than too narrow: the fonts of viewers differ."""
    units = sum(
        0.44 if c in _NARROW else 1.0 if c in _WIDE else 0.78 if c.isupper() else 0.88 if c in "×+−÷…" else 0.67
        for c in text
    )
    return units * size
