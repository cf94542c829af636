"""Pooling: windows, or all positions, reduced to their maximum or mean. Channels stay apart."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.layer import Layer
from funcnets.layers.fields import check_flag
from funcnets.layers.inputs import check_floats, check_rank
from funcnets.layers.promotion import at_least_float32
from funcnets.layers.windows import (
    BATCH_SPATIAL_CHANNELS,
    Padding,
    Pairs,
    Sizes,
    check_agreement,
    check_fit,
    check_padding,
    check_sizes,
    each_axis,
    padding_pairs,
    spatial_axes,
)
from funcnets.shapes import show


class MaxPool(Layer):
    """y[b, o, c] = max over taps t of x[b, o · strides − low + t, c].

    Args:
      window: The taps along each axis.
      strides: The steps between windows; None for the window itself, so that windows lie side by side.
      padding: "VALID": none, a rest at the end is left out. "SAME": for ⌈n / stride⌉ outputs. A whole number, or for
        each axis a number or a (low, high) pair, smaller than the window. Padding never is the maximum.

    Inputs: x (batch, *spatial, channels), floating, whole numbers or booleans → (batch, *spatial', channels), in x's
      dtype.

    Raises:
      ValueError: Sizes or padding that cannot be; an input of another rank or smaller than the window.

    Source: strides left out are the window, as in PyTorch and Keras; in Flax and stax they are 1. A rest at the end is
      left out as in all of them (PyTorch's ceil_mode=False).

    Example:
      >>> fn.MaxPool(2).apply({}, jnp.ones((1, 28, 28, 3))).shape
      (1, 14, 14, 3)
    """

    window: Sizes
    strides: Sizes | None = None
    padding: Padding = "VALID"

    def __post_init__(self) -> None:
        _check_fields(self)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_rank(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        window, strides, pairs = _windows(self, x)
        full = ((0, 0), *pairs, (0, 0))
        return jax.lax.reduce_window(x, _lowest(x.dtype), jax.lax.max, (1, *window, 1), (1, *strides, 1), full)


class AvgPool(Layer):
    """y[b, o, c] = mean over taps t of x[b, o · strides − low + t, c]; taken in float32 at least.

    Args:
      window: The taps along each axis.
      strides: The steps between windows; None for the window itself, so that windows lie side by side.
      padding: "VALID": none, a rest at the end is left out. "SAME": for ⌈n / stride⌉ outputs. A whole number, or for
        each axis a number or a (low, high) pair, smaller than the window.
      count_include_pad: Whether padding counts as zeros in the mean; if not, a mean is over real values alone.

    Inputs: x (batch, *spatial, channels), floating → (batch, *spatial', channels), in x's dtype.

    Raises:
      ValueError: Sizes or padding that cannot be; an input of another rank or smaller than the window.
      TypeError: An input of whole numbers.

    Source: padding does not count in Keras and ONNX; in PyTorch and Flax count_include_pad is True when not given.

    Example:
      >>> fn.AvgPool(2, padding="SAME").apply({}, jnp.ones((1, 3, 1)))[0, :, 0]
      Array([1., 1.], dtype=float32)
    """

    window: Sizes
    strides: Sizes | None = None
    padding: Padding = "VALID"
    count_include_pad: bool = False

    def __post_init__(self) -> None:
        _check_fields(self)
        check_flag(self, "count_include_pad", "Write count_include_pad=True for PyTorch's default")

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_floats(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        window, strides, pairs = _windows(self, x)
        full = ((0, 0), *pairs, (0, 0))
        wide = at_least_float32(x)
        total = jax.lax.reduce_window(
            wide, np.zeros((), wide.dtype), jax.lax.add, (1, *window, 1), (1, *strides, 1), full
        )
        if self.count_include_pad or not any(map(any, pairs)):
            return (total / math.prod(window)).astype(x.dtype)
        counts = [_counts(n, w, s, ends) for n, w, s, ends in zip(x.shape[1:-1], window, strides, pairs, strict=True)]
        count = functools.reduce(np.multiply.outer, counts)[None, ..., None]  # (1, *spatial', 1)
        return (total / count.astype(total.dtype)).astype(x.dtype)


class GlobalAvgPool(Layer):
    """y[b, c] = mean over all positions of x[b, ..., c]; taken in float32 at least.

    Inputs: x (batch, *spatial, channels), floating → (batch, channels), in x's dtype.

    Raises:
      ValueError: An input of another rank, or without positions.
      TypeError: An input of whole numbers.

    Source: Lin et al. 2013, Network in network.

    Example:
      >>> fn.GlobalAvgPool().apply({}, jnp.ones((2, 7, 7, 64))).shape
      (2, 64)
    """

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_floats(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        return at_least_float32(x).mean(_positions(self, x)).astype(x.dtype)


class GlobalMaxPool(Layer):
    """y[b, c] = max over all positions of x[b, ..., c].

    Inputs: x (batch, *spatial, channels), floating, whole numbers or booleans → (batch, channels), in x's dtype.

    Raises:
      ValueError: An input of another rank, or without positions.

    Source: where several positions hold the maximum they share its gradient equally (JAX's max); in PyTorch one of
      them takes it.

    Example:
      >>> fn.GlobalMaxPool().apply({}, jnp.ones((2, 7, 7, 64))).shape
      (2, 64)
    """

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_rank(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        return x.max(_positions(self, x))


def _check_fields(pool: MaxPool | AvgPool) -> None:
    check_sizes(pool, "window")
    if pool.strides is not None:
        check_sizes(pool, "strides")
    check_padding(pool, ("SAME", "VALID"))
    check_agreement(pool, "window", "strides", "padding")
    if isinstance(pool.padding, str):
        return
    # Beyond that a window could lie in the padding alone, and have neither maximum nor mean.
    axes = max(len(held) if isinstance(held, tuple) else 1 for held in (pool.window, pool.padding))
    window = each_axis(pool.window, axes)
    pairs = padding_pairs(pool.padding, window, window, window)
    if any(max(ends) >= width for ends, width in zip(pairs, window, strict=True)):
        raise ValueError(
            f"{type(pool).__name__} takes padding smaller than its window, got window={pool.window!r} and "
            f"padding={pool.padding!r}. Pad less, or pad the input first with jnp.pad"
        )


def _windows(pool: MaxPool | AvgPool, x: jax.Array) -> tuple[tuple[int, ...], tuple[int, ...], Pairs]:
    """Window, strides and padding for each spatial axis of x."""
    axes = spatial_axes(pool, x, "window", "strides", "padding")
    window = each_axis(pool.window, axes)
    strides = each_axis(pool.window if pool.strides is None else pool.strides, axes)
    pairs = padding_pairs(pool.padding, x.shape[1:-1], window, strides)
    check_fit(pool, x, window, pairs)
    return window, strides, pairs


def _lowest(dtype: np.dtype) -> np.ndarray:
    """What is no greater than any value of a dtype."""
    if dtype == jnp.bool_:
        return np.zeros((), dtype)
    if jnp.issubdtype(dtype, jnp.integer):
        return np.array(jnp.iinfo(dtype).min, dtype)
    return np.array(-np.inf, dtype)


def _counts(n: int, width: int, stride: int, ends: tuple[int, int]) -> np.ndarray:
    """How many real values each window along an axis holds."""
    low, high = ends
    starts = np.arange((n + low + high - width) // stride + 1) * stride - low
    return np.minimum(starts + width, n) - np.maximum(starts, 0)


def _positions(layer: Layer, x: jax.Array) -> tuple[int, ...]:
    """The spatial axes of x; raises where they hold nothing."""
    if 0 in x.shape[1:-1]:
        raise ValueError(
            f"{type(layer).__name__} takes at least one position along each spatial axis, got {show(x)}. Leave out "
            f"empty inputs"
        )
    return tuple(range(1, x.ndim - 1))
