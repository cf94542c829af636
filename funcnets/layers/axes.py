"""Axes by number: from 0 at the front of an input or from −1 at its end, one or a tuple of them; () is none."""

from __future__ import annotations

from typing import Any

from funcnets.layer import Layer
from funcnets.layers.fields import refusal
from funcnets.shapes import show

Axes = int | tuple[int, ...]


def check_axes(layer: Layer, name: str, remedy: str) -> None:
    """Raises unless the field holds a whole number, or a tuple of different ones."""
    held: Any = getattr(layer, name)
    entries: tuple[Any, ...] = held if isinstance(held, tuple) else (held,)
    whole = all(isinstance(entry, int) and not isinstance(entry, bool) for entry in entries)
    if not whole or len(set(entries)) < len(entries):
        raise refusal(layer, name, "as an axis, or a tuple of different axes", remedy)


def axes_of(layer: Layer, x: Any, name: str) -> tuple[int, ...]:
    """The axes that a field names, counted from the front of x, in the field's order; raises where x has them not."""
    held: Axes = getattr(layer, name)
    entries = held if isinstance(held, tuple) else (held,)
    rank = len(x.shape)
    axes = tuple(axis + rank if axis < 0 else axis for axis in entries)
    if not all(0 <= axis < rank for axis in axes) or len(set(axes)) < len(axes):
        raise ValueError(
            f"{type(layer).__name__} with {name}={held!r} takes inputs that have these axes, each once, got "
            f"{show(x)}. Axes count from 0 at the front, or from -1 at the end"
        )
    return axes
