"""What lies under each tap of each window: the input's own values around it, positions, and values gathered by them.

A *table* tells for one axis which position each tap of each window has: whole numbers (windows, taps), with -1 for a
tap outside the input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.layers.windows import FILLS, Pairs, check_fit, each_axis, extents_of, padding_pairs, spatial_axes
from funcnets.shapes import show


def filled(x: jax.Array, padding: Any, pairs: Pairs) -> jax.Array:
    """x with so many positions more at the ends of its spatial axes: its own values, or zeros."""
    mode = FILLS.get(padding, "constant")
    return jnp.pad(x, ((0, 0), *pairs, (0, 0)), mode=mode)


def sliding_table(n: int, width: int, stride: int, dilation: int, ends: tuple[int, int]) -> np.ndarray:
    """The table of windows that slide over an axis of n positions, padded at its ends."""
    low, high = ends
    extent = (width - 1) * dilation + 1
    starts = np.arange((n + low + high - extent) // stride + 1) * stride - low
    at = starts[:, None] + np.arange(width) * dilation  # (windows, taps)
    return np.where((at >= 0) & (at < n), at, -1)


def sliding_counts(n: int, width: int, stride: int, dilation: int, ends: tuple[int, int]) -> np.ndarray:
    """How many taps of each of these windows are inside; without their table, as windows may be wide."""
    low, high = ends
    starts = np.arange((n + low + high - (width - 1) * dilation - 1) // stride + 1) * stride - low
    before = -(starts // dilation)  # ⌈−start / dilation⌉ taps, where that is positive
    return np.maximum(np.minimum((n - 1 - starts) // dilation + 1, width) - np.maximum(before, 0), 0)


def dividing_table(n: int, windows: int) -> np.ndarray:
    """The table of windows that cut an axis of n positions into parts as equal as can be; where they cannot be equal,
    neighbours overlap.
    """
    starts = np.arange(windows) * n // windows
    stops = -(-(np.arange(windows) + 1) * n // windows)
    at = starts[:, None] + np.arange((stops - starts).max())
    return np.where(at < stops[:, None], at, -1)


def gathered(x: jax.Array, tables: list[np.ndarray]) -> jax.Array:
    """The values under all windows: (batch, *spatial, channels) → (batch, windows, taps, ..., channels), two axes for
    each table. A tap outside repeats the first one inside its window.
    """
    for i, table in enumerate(tables):
        x = jnp.take(x, inside(table), axis=2 * i + 1, mode="clip")
    return x


def picked(x: jax.Array, tables: list[np.ndarray], choose: Callable[..., jax.Array]) -> tuple[jax.Array, jax.Array]:
    """One value of each window, and its position counted over all spatial axes of x, the last one fastest.

    Args:
      x: (batch, *spatial, channels).
      tables: One for each spatial axis.
      choose: jnp.argmax or jnp.argmin; of equal values the first is taken.
    """
    axes = len(tables)
    windows, taps = [table.shape[0] for table in tables], [table.shape[1] for table in tables]
    values = gathered(jax.lax.stop_gradient(x), tables)
    order = (0, *range(1, 2 * axes, 2), 2 * axes + 1, *range(2, 2 * axes + 1, 2))
    values = values.transpose(order).reshape(x.shape[0], *windows, x.shape[-1], math.prod(taps))
    tap = jnp.unravel_index(choose(values, axis=-1), taps)  # along each axis: (batch, *windows, channels)
    indices = jnp.zeros_like(tap[0], jnp.int32)
    for i, (n, table) in enumerate(zip(x.shape[1:-1], tables, strict=True)):
        window = jax.lax.broadcasted_iota(jnp.int32, indices.shape, i + 1)
        indices = indices * n + jnp.asarray(inside(table), jnp.int32)[window, tap[i]]
    y = jnp.take_along_axis(flat_positions(x), flat_positions(indices), axis=1, mode="clip")
    return y.reshape(indices.shape), indices


def flat_positions(x: jax.Array) -> jax.Array:
    """(batch, *spatial, channels) → (batch, positions, channels)."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


class Windows(NamedTuple):
    """Windows that slide over the spatial axes of an input, one entry for each axis."""

    widths: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    pairs: Pairs

    @property
    def is_padded(self) -> bool:
        return any(map(any, self.pairs))

    def tables(self, spatial: tuple[int, ...]) -> list[np.ndarray]:
        """The tables for axes of these lengths."""
        return [sliding_table(*axis) for axis in zip(spatial, *self, strict=True)]

    def counts(self, spatial: tuple[int, ...]) -> list[np.ndarray]:
        """How many taps of each window are inside, for axes of these lengths."""
        return [sliding_counts(*axis) for axis in zip(spatial, *self, strict=True)]

    def reduced(self, x: jax.Array, start: np.ndarray, reduce: Callable[..., jax.Array]) -> jax.Array:
        one = ((0, 0),)
        return jax.lax.reduce_window(
            x,
            start,
            reduce,
            (1, *self.widths, 1),
            (1, *self.strides, 1),
            (*one, *self.pairs, *one),
            window_dilation=(1, *self.dilation, 1),
        )

    def sums(self, x: jax.Array) -> jax.Array:
        return self.reduced(x, np.zeros((), x.dtype), jax.lax.add)


def windows_of(pool: Any, x: jax.Array) -> Windows:
    """The windows of a pool over an input; raises where they do not fit."""
    axes = spatial_axes(pool, x, "window", "strides", "padding", "dilation")
    widths, dilation = each_axis(pool.window, axes), each_axis(pool.dilation, axes)
    strides = each_axis(pool.window if pool.strides is None else pool.strides, axes)
    extents = extents_of(widths, dilation, axes)
    pairs = padding_pairs(pool.padding, x.shape[1:-1], extents, strides)
    check_fit(pool, x, extents, pairs)
    windows = Windows(widths, strides, dilation, pairs)
    if windows.is_padded and not all(count.all() for count in windows.counts(x.shape[1:-1])):
        raise ValueError(
            f"{type(pool).__name__} takes inputs with a value in each window, got {show(x)}, over which the taps of "
            f"window={pool.window!r} with dilation={pool.dilation!r} step from padding to padding {pairs}. Dilate less"
        )
    return windows


def inside(table: np.ndarray) -> np.ndarray:
    """A table with the first tap inside each window in the place of those outside."""
    first = np.take_along_axis(table, (table >= 0).argmax(1)[:, None], axis=1)
    return np.where(table >= 0, table, first)
