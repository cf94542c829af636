"""Pooling into a given number of windows, whatever the size of the input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.layer import Layer
from funcnets.layers.inputs import check_floats, check_rank
from funcnets.layers.promotion import at_least_float32
from funcnets.layers.taps import dividing_table, inside, picked
from funcnets.layers.windows import (
    BATCH_SPATIAL_CHANNELS,
    Sizes,
    check_positions,
    check_sizes,
    each_axis,
    spatial_axes,
)


class AdaptiveAvgPool(Layer):
    """y[b, o, c] = mean over i of x[b, i, c] with ⌊o · n / size⌋ ≤ i < ⌈(o + 1) · n / size⌉ along an axis of n
    positions; taken in float32 at least.

    Where size does not divide n, neighbouring windows overlap; where it is greater, values are repeated.

    Args:
      sizes: The windows along each axis, so the spatial shape of the output.

    Inputs: x (batch, *spatial, channels), floating → (batch, *sizes, channels), in x's dtype.

    Raises:
      ValueError: Sizes that cannot be; an input of another rank, or without positions.
      TypeError: An input of whole numbers.

    Source: as PyTorch's, and in Equinox where size divides n. `GlobalAvgPool` is that of size 1, without its axes.

    Example:
      >>> fn.AdaptiveAvgPool(2).apply({}, jnp.array([[[1.0], [2.0], [3.0]]]))[0, :, 0]
      Array([1.5, 2.5], dtype=float32)
    """

    sizes: Sizes

    def __post_init__(self) -> None:
        check_sizes(self, "sizes")

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_floats(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        y = at_least_float32(x)
        for i, table in enumerate(_tables(self, x)):  # axis by axis, as windows are boxes
            under = jnp.take(jnp.moveaxis(y, i + 1, -1), inside(table), axis=-1, mode="clip")  # (..., windows, taps)
            real = jnp.broadcast_to(table >= 0, under.shape)
            y = jnp.moveaxis(under.mean(-1, where=real), -1, i + 1)
        return y.astype(x.dtype)


class AdaptiveMaxPool(Layer):
    """y[b, o, c] = max over i of x[b, i, c] with ⌊o · n / size⌋ ≤ i < ⌈(o + 1) · n / size⌉ along an axis of n
    positions.

    Args:
      sizes: The windows along each axis, so the spatial shape of the output.

    Inputs: x (batch, *spatial, channels), floating, whole numbers or booleans → (batch, *sizes, channels), in x's
      dtype.

    Raises:
      ValueError: Sizes that cannot be; an input of another rank, or without positions.

    Source: as PyTorch's. Of equal values the first takes the gradient.

    Example:
      >>> fn.AdaptiveMaxPool((2, 1)).apply({}, jnp.ones((1, 5, 7, 3))).shape
      (1, 2, 1, 3)
    """

    sizes: Sizes

    def __post_init__(self) -> None:
        check_sizes(self, "sizes")

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_rank(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        return picked(x, _tables(self, x), jnp.argmax)[0]


def _tables(pool: AdaptiveAvgPool | AdaptiveMaxPool, x: Any) -> list[np.ndarray]:
    axes = spatial_axes(pool, x, "sizes")
    check_positions(pool, x)
    return [dividing_table(n, size) for n, size in zip(x.shape[1:-1], each_axis(pool.sizes, axes), strict=True)]
