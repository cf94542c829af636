"""Batches for a run, by the number of the step, from whatever holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.checkpoint.describing import is_iterator
from funcnets.notices import warn
from funcnets.shapes import Tree, is_array, show
from funcnets.train.data import Batches


class Feed:
    """The batches of a run's steps, counted from 0.

    Args:
      data: `train.batches`, or what `data[step]` asks for any step; a list or tuple, again and again; an iterator, or
        what is iterated over again and again; None for steps that take no batch.

    Attributes:
      length: Steps in an epoch; None if the data does not say.
    """

    def __init__(self, data: Any) -> None:
        by_step = data is None or hasattr(data, "__getitem__")
        if isinstance(data, Mapping | str) or is_array(data) or not (by_step or hasattr(data, "__iter__")):
            raise TypeError(
                f"fit takes batches, data[step], or an iterator of them, got {show(data)}: make batches of arrays with "
                "train.batches(arrays, batch_size, key)"
            )
        held: Any = data
        self.length: int | None = len(held) if hasattr(held, "__len__") else None
        if self.length == 0:
            raise ValueError(
                f"fit takes batches, got a {type(data).__name__} of none: are there fewer examples than one?"
            )
        self._data = held
        self._iterator: Iterator[Any] | None = None if by_step else iter(held)

    @property
    def position(self) -> Any:
        """The iterator, if it can be saved and restored."""
        return self._iterator if is_iterator(self._iterator) else None

    @property
    def resumable(self) -> bool:
        """Whether a run that has begun can go on with it."""
        return self._iterator is None or is_iterator(self._iterator)

    def take(self, first: int, count: int) -> Tree:
        """The batch of a step or, if of several, theirs stacked. Raises StopIteration at the data's end."""
        if count == 1:
            return self._one(first)
        if isinstance(self._data, Batches):
            return self._data[first : first + count]
        batches: list[Tree] = []
        try:
            for step in range(first, first + count):
                batches.append(self._one(step))
        except StopIteration:
            if batches:
                warn(
                    f"the data ended {len(batches)} batches into a call of {count} steps, which were not taken: let it "
                    "give a multiple, or give make_step a smaller steps_per_call=",
                    RuntimeWarning,
                )
            raise
        return stacked(batches)

    def _one(self, step: int) -> Tree:
        if self._data is None:
            return None
        if self._iterator is None:
            return self._data[step % len(self._data) if isinstance(self._data, Sequence) else step]
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
                "not full"
            )
        return (jnp.stack if isinstance(leaves[0], jax.Array) else np.stack)(leaves)

    return jax.tree.map(stack, *batches)
