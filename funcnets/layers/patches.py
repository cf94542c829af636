"""Layers between positions and channels: what lies in a small window of positions becomes channels, or the other way.

An input is (batch, *spatial, channels) with one to three spatial axes.
"""

from __future__ import annotations

import math

import jax

from funcnets.layer import Layer
from funcnets.layers.fields import check_whole
from funcnets.layers.inputs import check_rank
from funcnets.layers.windows import BATCH_SPATIAL_CHANNELS, Sizes, check_sizes, each_axis, spatial_axes
from funcnets.shapes import show


class PixelShuffle(Layer):
    """y[b, r·i + u, r·j + v, c] = x[b, i, j, (c · r + u) · r + v] with r the factor: channels turned into positions.

    Args:
      factor: By how much each spatial axis grows.

    Inputs: x (batch, *spatial, channels · factor^axes) with one to three spatial axes → (batch, *spatial · factor,
      channels), in x's dtype.

    Raises:
      ValueError: A factor that is no positive whole number; an input of another rank, or with channels that are no
        multiple.

    Source: Shi et al. 2016. The order of the channels is PyTorch's, whose layer takes two spatial axes; TensorFlow's
      depth_to_space has the channel c last, (u · r + v) · channels + c.

    Example:
      >>> fn.PixelShuffle(2).apply({}, jnp.arange(4).reshape(1, 1, 1, 4))[0, :, :, 0]
      Array([[0, 1],
             [2, 3]], dtype=int32)
    """

    factor: int

    def __post_init__(self) -> None:
        check_whole(self, "factor", "It is by how much each spatial axis grows: PixelShuffle(2)")

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_rank(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        batch, *spatial, channels = x.shape
        axes, r = len(spatial), self.factor
        if channels % r**axes:
            raise ValueError(
                f"PixelShuffle with factor={r} takes a multiple of {r**axes} channels, {r} for each of {axes} spatial "
                f"axes, got {channels} in {show(x)}. Make so many in the layer before: Conv(features * {r**axes}, ...)"
            )
        x = x.reshape(batch, *spatial, channels // r**axes, *(r,) * axes)
        places = [place for axis in range(axes) for place in (1 + axis, 2 + axes + axis)]
        x = x.transpose(0, *places, 1 + axes)  # (batch, n, r, m, r, channels)
        return x.reshape(batch, *(n * r for n in spatial), channels // r**axes)


class PixelUnshuffle(Layer):
    """y[b, i, j, (c · r + u) · r + v] = x[b, r·i + u, r·j + v, c] with r the factor: positions turned into channels.

    Args:
      factor: By how much each spatial axis shrinks.

    Inputs: x (batch, *spatial, channels) with one to three spatial axes → (batch, *spatial / factor, channels ·
      factor^axes), in x's dtype.

    Raises:
      ValueError: A factor that is no positive whole number; an input of another rank, or with axes that the factor
        does not divide.

    Source: the inverse of PixelShuffle, with PyTorch's order of the channels, as there.

    Example:
      >>> fn.PixelUnshuffle(2).apply({}, jnp.ones((1, 8, 6, 3))).shape
      (1, 4, 3, 12)
    """

    factor: int

    def __post_init__(self) -> None:
        check_whole(self, "factor", "It is by how much each spatial axis shrinks: PixelUnshuffle(2)")

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_rank(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        axes = len(x.shape) - 2
        cut = _in_parts(self, x, (self.factor,) * axes)
        places = range(1, 1 + 2 * axes)
        cut = cut.transpose(0, *places[::2], 1 + 2 * axes, *places[1::2])  # (batch, *spatial, channels, r, r)
        return cut.reshape(*cut.shape[: 1 + axes], x.shape[-1] * self.factor**axes)


class Patchify(Layer):
    """y[b, n] = the values of the n-th patch of x[b], position by position with the channels innermost; patches lie
    side by side and count along the last spatial axis first.

    Args:
      size: The positions of a patch along each axis.

    Inputs: x (batch, *spatial, channels) with one to three spatial axes → (batch, patches, values of a patch), in x's
      dtype.

    Raises:
      ValueError: A size that cannot be; an input of another rank, or with axes that the size does not divide.

    Source: Dosovitskiy et al. 2021. A Dense after it is the Conv with kernel_size and strides of the size, whose
      kernel (*size, channels, features) is the Dense's in another shape. PyTorch's unfold has the channels outermost.

    Example:
      >>> fn.Patchify(16).apply({}, jnp.ones((2, 224, 224, 3))).shape
      (2, 196, 768)
    """

    size: Sizes

    def __post_init__(self) -> None:
        check_sizes(self, "size")

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_rank(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        axes = spatial_axes(self, x, "size")
        size = each_axis(self.size, axes)
        cut = _in_parts(self, x, size)
        places = range(1, 1 + 2 * axes)
        cut = cut.transpose(0, *places[::2], *places[1::2], 1 + 2 * axes)  # (batch, *patches, *size, channels)
        patches = math.prod(cut.shape[1 : 1 + axes])
        return cut.reshape(x.shape[0], patches, math.prod(size) * x.shape[-1])


def _in_parts(layer: Layer, x: jax.Array, parts: tuple[int, ...]) -> jax.Array:
    """x with every spatial axis as two, (n / part, part); raises where a part does not divide."""
    batch, *spatial, channels = x.shape
    if any(n % part for n, part in zip(spatial, parts, strict=True)):
        raise ValueError(
            f"{layer!r} takes spatial axes that are multiples of {parts}, got {show(x)}. Pad or crop them first: "
            f"fn.Pad, fn.Crop"
        )
    cut = [size for n, part in zip(spatial, parts, strict=True) for size in (n // part, part)]
    return x.reshape(batch, *cut, channels)
