"""Batches for a run, by the number of the step, from whatever holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.shapes import Tree, is_array, show


class Feed:
    """The batches of a run's steps, counted from 0.

    Args:
      data: `train.batches`, or else what `data[step]` asks for any step; a list or tuple, again and again; an iterator,
        or what is iterated over again and again; None for steps that take no batch.

    Attributes:
      length: Steps in an epoch; None if the data does not say.
      position: The iterator whose place is kept with the run; None where there is none to keep.
      resumable: Whether a run on it can be gone on with.
    """

    def __init__(self, data: Any) -> None:
        if isinstance(data, (Mapping, str)) or is_array(data):
            raise TypeError(
                f"fit takes batches, data[step], or an iterator of them, got {show(data)}: make batches of arrays with "
                "train.batches(arrays, batch_size, key)"
            )
        self._data = data
        self._indexed = data is None or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))
        if not self._indexed and not hasattr(data, "__iter__"):
            raise TypeError(f"fit takes batches, data[step], or an iterator of them, got a {type(data).__name__}")
        self.length: int | None = len(data) if hasattr(data, "__len__") else None
        if self.length == 0:
            raise ValueError(f"fit takes batches, got a {type(data).__name__} of none: are there fewer examples than one?")
        self._iterator: Iterator[Any] | None = None if self._indexed else iter(data)

    @property
    def position(self) -> Any:
        return self._iterator if _keeps_its_place(self._iterator) else None

    @property
    def resumable(self) -> bool:
        return self._indexed or self.position is not None

    def take(self, first: int, count: int) -> Tree:
        """The batch of a step or, if of several, theirs stacked. Raises StopIteration at the data's end."""
        if count == 1:
            return self._one(first)
        return stacked([self._one(step) for step in range(first, first + count)])

    def _one(self, step: int) -> Tree:
        if self._data is None:
            return None
        if isinstance(self._data, Sequence):
            return self._data[step % len(self._data)]
        if self._iterator is None:
            return self._data[step]
        try:
            return next(self._iterator)
        except StopIteration:
            if self._iterator is self._data:
                raise
        self._iterator = iter(self._data)  # what is no iterator itself gives another
        return next(self._iterator)


def stacked(batches: Sequence[Tree]) -> Tree:
    """Batches of several steps as one, with a new first axis, on the device if they are there."""

    def stack(*leaves: Any) -> Any:
        shapes = {np.shape(leaf) for leaf in leaves}
        if len(shapes) > 1:
            raise ValueError(
                f"batches of several steps in one call have one shape, got {sorted(shapes)}: leave out those that are "
                'not full, train.batches(..., partial="drop")'
            )
        return (jnp.stack if isinstance(leaves[0], jax.Array) else np.stack)(leaves)

    return jax.tree.map(stack, *batches)


def _keeps_its_place(iterator: Any) -> bool:
    return hasattr(iterator, "get_state") and hasattr(iterator, "set_state")
