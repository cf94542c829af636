"""From pooled values back to the positions that they were found at."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from funcnets.layer import Layer
from funcnets.layers.inputs import check_rank
from funcnets.layers.taps import flat_positions
from funcnets.layers.windows import (
    BATCH_SPATIAL_CHANNELS,
    Sizes,
    check_agreement,
    check_positions,
    check_sizes,
    each_axis,
    spatial_axes,
)
from funcnets.shapes import is_array, show


class MaxUnpool(Layer):
    """x[b, i, c] = y[b, o, c] where indices[b, o, c] = i, and 0 elsewhere.

    Args:
      window: That of the `MaxPool`.
      strides: That of the `MaxPool`; None for the window itself.
      size: The positions along each axis of the output, those of the `MaxPool`'s input; None for (n − 1) · stride +
        window, which is right if it left no rest and had no padding.

    Inputs: y (batch, *spatial, channels); indices, whole numbers of the same shape, as `MaxPool(indices=True)` gives
      them → (batch, *size, channels), in y's dtype. Indices past the end are left out.

    Raises:
      ValueError: Sizes that cannot be; inputs of another rank, of two shapes, or without positions.
      TypeError: Indices that are no whole numbers.

    Source: Zeiler & Fergus 2014. As PyTorch's, where size is output_size; there an index past the end raises. Where
      overlapping windows found the same maximum, one of these equal values is written and takes the gradient; in
      PyTorch each of them takes it.

    Example:
      >>> x = jnp.array([[[3.0], [1.0], [2.0], [5.0]]])
      >>> y, indices = fn.MaxPool(2, indices=True).apply({}, x)
      >>> fn.MaxUnpool(2).apply({}, y, indices)[0, :, 0]
      Array([3., 0., 0., 5.], dtype=float32)
    """

    window: Sizes
    strides: Sizes | None = None
    size: Sizes | None = None

    def __post_init__(self) -> None:
        check_sizes(self, "window")
        for name in ("strides", "size"):
            if getattr(self, name) is not None:
                check_sizes(self, name)
        check_agreement(self, "window", "strides", "size")

    def forward(self, p: dict[str, jax.Array], y: jax.Array, indices: jax.Array) -> jax.Array:
        check_rank(self, y, BATCH_SPATIAL_CHANNELS, 3, 5)
        axes = spatial_axes(self, y, "window", "strides", "size")
        check_positions(self, y)
        if not is_array(indices) or not jnp.issubdtype(indices.dtype, jnp.integer):
            raise TypeError(
                f"MaxUnpool takes indices as whole numbers of the shape of y, got {show(indices)}. Take both from one "
                f"MaxPool(indices=True)"
            )
        if indices.shape != y.shape:
            raise ValueError(
                f"MaxUnpool takes indices of the shape of y, got {show(y)} and {show(indices)}. Take both from one "
                f"MaxPool(indices=True)"
            )
        window, strides = each_axis(self.window, axes), each_axis(self.strides or self.window, axes)
        reach = tuple((n - 1) * stride + w for n, stride, w in zip(y.shape[1:-1], strides, window, strict=True))
        x = jnp.zeros((y.shape[0], *(reach if self.size is None else each_axis(self.size, axes)), y.shape[-1]), y.dtype)
        written = jnp.put_along_axis(
            flat_positions(x), flat_positions(indices), flat_positions(y), axis=1, inplace=False, mode="drop"
        )
        return written.reshape(x.shape)
