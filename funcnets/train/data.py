"""Batches whose order is a pure function of (key, step): a resumed run needs the step number and nothing else."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from funcnets.shapes import Tree, show


class Batches:
    """Batches of arrays, by step: `data[step]`. See `batches`."""

    def __init__(self, arrays: Tree, batch_size: int, key: jax.Array | None, partial: str) -> None:
        self.arrays: Tree = jax.tree.map(np.asarray, arrays)
        lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(self.arrays)}
        if len(lengths) != 1 or lengths == {()}:
            raise ValueError(
                f"batches takes arrays with one length of their first axes, got {show(self.arrays)}: cut them to "
                "the same examples"
            )
        (self.examples,) = lengths.pop()
        if not isinstance(batch_size, int) or not 0 < batch_size <= max(self.examples, 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"batch_size is a whole number from 1 to the {self.examples} examples, got {batch_size!r}")
        if partial not in ("drop", "keep"):
            raise ValueError(
                f"partial is 'drop' or 'keep', what to do with a last batch that is not full; got {partial!r}"
            )
        self.batch_size = batch_size
        self._key = key
        self._steps = self.examples // batch_size if partial == "drop" else -(-self.examples // batch_size)
        self._order = functools.lru_cache(maxsize=2)(self._make_order)

    def __len__(self) -> int:
        """Steps in an epoch."""
        return self._steps

    def __getitem__(self, step: int) -> Tree:
        if step < 0:
            raise IndexError(f"a step is counted from 0, got {step}")
        epoch, place = divmod(step, self._steps)
        rows = self._order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        return jax.tree.map(lambda array: array[rows], self.arrays)

    def epoch(self, number: int) -> Iterator[Tree]:
        """The batches of an epoch, counted from 0."""
        return (self[step] for step in range(number * self._steps, (number + 1) * self._steps))

    def __iter__(self) -> Iterator[Tree]:
        """The batches in the order of the arrays; of those that are shuffled each epoch is another."""
        if self._key is not None:
            raise TypeError(
                "batches with a key have another order in each epoch: say which, data.epoch(0), or take a step's, "
                "data[step]"
            )
        return self.epoch(0)

    def _make_order(self, epoch: int) -> np.ndarray[Any, Any]:
        if self._key is None:
            return np.arange(self.examples)
        return np.asarray(jax.random.permutation(jax.random.fold_in(self._key, epoch), self.examples))


def batches(arrays: Tree, batch_size: int, key: jax.Array | None = None, *, partial: str = "drop") -> Batches:
    """Batches of a pytree of arrays that share their first axis: `data[step]` for any step, over as many epochs as it
    takes.

    Args:
      arrays: NumPy or JAX arrays, kept in host memory.
      batch_size: Examples a batch.
      key: Shuffles each epoch anew, `for batch in data.epoch(3)`; None keeps the order, `for batch in data`.
      partial: "drop" leaves a last batch that is not full out of its epoch (it is other examples each time), "keep"
        gives it short.

    Example:
      >>> data = fn.train.batches({"x": np.arange(10)}, 4, jax.random.key(0))
      >>> len(data), data[7]["x"].shape
      (2, (4,))
    """
    return Batches(arrays, batch_size, key, partial)
