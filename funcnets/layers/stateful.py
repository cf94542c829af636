"""Layers that carry state only where a field asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from funcnets.layer import Layer
from funcnets.record import Kind
from funcnets.shapes import Tree


class OptionalState(Layer):
    """A leaf whose `forward(self, p, x, *, state=None)` is given a state, and returns it anew, if it carries one."""

    def _carries(self) -> bool:
        """Whether it does; then `states` declares it."""
        raise NotImplementedError

    def _wants(self) -> Any:
        wants = super()._wants()
        return wants if self._carries() else wants._replace(state=False)

    def _strangers(self, kind: Kind, tree: Tree, path: str) -> Iterator[str]:
        if kind == "states" and not self._carries() and tree != {}:
            yield path
        else:
            yield from super()._strangers(kind, tree, path)
