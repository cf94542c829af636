"""Batches for a run, by the number of the step, from whatever holds them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.checkpoint.describing import is_iterator
from funcnets.notices import warn
from funcnets.shapes import Tree, is_array, show
from funcnets.train.data import Batches

_WITHOUT_PLACE = "data without a place"


class Feed:
    """The batches of a run's steps, counted from 0.

    Args:
      data: `train.batches`, or what `data[step]` asks for any step, or again and again for those of its length; an
        iterator, or what is iterated over again and again; None for steps that take no batch.

    Attributes:
      length: Steps in an epoch; None if the data does not say.
      has_place: Whether it is an iterator whose place can be saved and restored.
      changed: What is otherwise than in the state that was set, as lines.
    """

    def __init__(self, data: Any) -> None:
        by_step = data is None or hasattr(data, "__getitem__")
        if isinstance(data, Mapping | str) or is_array(data) or not (by_step or hasattr(data, "__iter__")):
            raise TypeError(
                f"fit takes batches, data[step], or an iterator of them, got {show(data)}: make batches of arrays with "
                "train.batches(arrays, batch_size, key)"
            )
        held: Any = data
        self.length: int | None = None
        with contextlib.suppress(TypeError):  # which a loader of what has no length raises too
            self.length = len(held)
        if self.length == 0:
            raise ValueError(
                f"fit takes batches, got a {type(data).__name__} of none: are there fewer examples than one?"
            )
        self._data = held
        self._iterator: Any = None if by_step else iter(held)
        self.has_place = is_iterator(self._iterator)
        self.changed: list[str] = []
        self._place: Any = self._reached()
        self._is_ahead = False

    def can_go_on_from(self, step: int) -> bool:
        """Whether it has the batches from a step on: what gives an iterator for each epoch has those of a whole one."""
        is_renewed = self._iterator is not self._data and self.length is not None and step % self.length == 0
        return self._iterator is None or self.has_place or is_renewed

    def short(self, steps: range) -> range:
        """Those of the steps whose batches are known not to be full."""
        data = self._data
        if not isinstance(data, Batches) or len(data) * data.batch_size <= data.examples:
            return range(0)
        return range(steps.start + (-1 - steps.start) % len(data), steps.stop, len(data))

    def get_state(self) -> Any:
        """Where the iterator was after the batches that were used, whatever was taken since; of what has no place, what
        it is.
        """
        return copy.deepcopy(self._place) if self.has_place else {_WITHOUT_PLACE: self._features()}

    def set_state(self, state: Any) -> None:
        """Goes on from a state that `get_state` gave.

        Raises:
          ValueError: It has no place, and this is an iterator, which would need one.
        """
        saved: Any = state.get(_WITHOUT_PLACE) if isinstance(state, dict) else None
        if not self.has_place:
            old, new = saved or {"kind": "an iterator"}, self._features()
            differing = [name for name in new if old.get(name, new[name]) != new[name]]
            self.changed = [f"{name} {old[name]} -> {new[name]}" for name in differing]
        elif saved is None:
            self._iterator.set_state(copy.deepcopy(state))
            self._place, self._is_ahead = state, False
        else:
            raise ValueError(
                f"this run was saved with {saved['kind']} as its data, of which no place is kept, and got an iterator, "
                "which would begin anew: go on with what it had"
            )

    def _features(self) -> dict[str, Any]:
        """What is told of data without a place."""
        if not isinstance(self._data, Batches):
            return {"kind": type(self._data).__name__, "steps in an epoch": self.length}
        words = self._data._words
        return {
            "kind": "train.batches",
            "examples": self._data.examples,
            "batch_size": self._data.batch_size,
            "key": None if words is None else words.tolist(),
            "steps in an epoch": self.length,
        }

    def used(self) -> None:
        """The batches that were taken have become steps."""
        self._place, self._is_ahead = self._reached(), False

    def put_back(self) -> None:
        """Gives the iterator back what was taken of it and not used."""
        if self.has_place and self._is_ahead:
            self.set_state(self._place)

    def _reached(self) -> Any:
        return copy.deepcopy(self._iterator.get_state()) if self.has_place else None

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
            return self._data[step % self.length if self.length and not isinstance(self._data, Batches) else step]
        try:
            batch = next(self._iterator)
        except StopIteration:
            if self._iterator is self._data:
                raise
            self._iterator = iter(self._data)  # what is no iterator itself gives another
            batch = next(self._iterator)
        self._is_ahead = True
        return batch


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
