"""Layers that make spatial axes longer or shorter, one channel like another.

An input is (batch, *spatial, channels) with one to three spatial axes; sizes are given once for all of them, or axis by
axis.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.layer import Layer
from funcnets.layers.fields import check_flag, is_whole, refusal
from funcnets.layers.inputs import check_floats, check_rank
from funcnets.layers.promotion import at_least_float32
from funcnets.layers.windows import (
    BATCH_SPATIAL_CHANNELS,
    Pairs,
    Sizes,
    check_sizes,
    each_axis,
    padding_pairs,
    spatial_axes,
)
from funcnets.shapes import show

Width = int | tuple[int | tuple[int, int], ...]
Scale = float | tuple[float, ...]
Resized = list[tuple[int, int, float | None]]
"""For each spatial axis its size before and after, and the scale if one was given."""


class Pad(Layer):
    """y = x with so many positions more at the ends of each spatial axis.

    Args:
      width: A whole number, or for each axis a number or a (low, high) pair.
      mode: What stands there. "constant": the value. "edge": the last position again. "reflect": the positions before
        the last, mirrored; "symmetric": the same with the last. "circular": those of the other end.
      value: For mode "constant".

    Inputs: x (batch, *spatial, channels), of any dtype → the same with longer axes.

    Raises:
      ValueError: A width, mode or value that cannot be; an input of another rank, or too short to fill the width with
        its own positions; a value that x's dtype does not have.

    Source: jnp.pad's modes, whose "wrap" is "circular" here as in PyTorch; PyTorch's "replicate" is "edge". Zeros
      before a convolution are its own padding.

    Example:
      >>> fn.Pad(((2, 1),), mode="reflect").apply({}, jnp.arange(3.0).reshape(1, 3, 1))[0, :, 0]
      Array([2., 1., 0., 1., 2., 1.], dtype=float32)
    """

    width: Width
    mode: str = "constant"
    value: float = 0.0

    def __post_init__(self) -> None:
        _check_width(self)
        if self.mode not in _MODES:
            remedy = "Zeros are what mode='constant' gives when no value is given"
            raise refusal(self, "mode", f"as {', '.join(map(repr, _MODES))}", remedy)
        if not _is_number(self.value) or (self.mode != "constant" and self.value != 0):
            raise refusal(self, "value", "as a number, with mode='constant'", f"Leave it out with mode={self.mode!r}")

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        pairs = _pairs_for(self, x)
        name, spared = _MODES[self.mode]
        if name != "constant":
            self._check_length(x, pairs, spared)
            return jnp.pad(x, ((0, 0), *pairs, (0, 0)), mode=name)
        with np.errstate(all="ignore"):
            value = np.asarray(self.value).astype(x.dtype)
        rounds = jnp.issubdtype(x.dtype, jnp.inexact)
        if np.isfinite(value) != np.isfinite(self.value) if rounds else value != self.value:
            raise ValueError(
                f"{self!r} takes inputs whose dtype has its value, got {show(x)}. Convert them first, "
                f"x.astype(jnp.float32), or take another value"
            )
        return jnp.pad(x, ((0, 0), *pairs, (0, 0)), constant_values=value)

    def _check_length(self, x: jax.Array, pairs: Pairs, spared: int | None) -> None:
        for n, ends in zip(x.shape[1:-1], pairs, strict=True):
            least = 1 if spared is None else max(ends) + spared
            if any(ends) and n < least:
                raise ValueError(
                    f"Pad with mode={self.mode!r} takes at least {least} positions along an axis that it pads by "
                    f"{ends}, got {show(x)}. Pad less, or with mode='edge' or 'constant'"
                )


_MODES: dict[str, tuple[str, int | None]] = {
    "constant": ("constant", None),
    "edge": ("edge", None),
    "reflect": ("reflect", 1),
    "symmetric": ("symmetric", 0),
    "circular": ("wrap", 0),
}
"""jnp.pad's name, and how many positions more than the width it needs; None for a width that may be anything."""


class Crop(Layer):
    """y = x without so many positions at the ends of each spatial axis.

    Args:
      width: A whole number, or for each axis a number or a (low, high) pair.

    Inputs: x (batch, *spatial, channels), of any dtype → the same with shorter axes.

    Raises:
      ValueError: A width that cannot be; an input of another rank, or of which nothing would be left.

    Source: Keras's Cropping1D to 3D; PyTorch pads by negative widths.

    Example:
      >>> fn.Crop(((2, 0),)).apply({}, jnp.arange(4.0).reshape(1, 4, 1))[0, :, 0]
      Array([2., 3.], dtype=float32)
    """

    width: Width

    def __post_init__(self) -> None:
        _check_width(self)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        pairs = _pairs_for(self, x)
        if any(n <= low + high for n, (low, high) in zip(x.shape[1:-1], pairs, strict=True)):
            raise ValueError(
                f"{self!r} takes more positions than it takes off, {pairs} along the spatial axes, got {show(x)}. "
                f"Crop less"
            )
        kept = (slice(low, n - high) for n, (low, high) in zip(x.shape[1:-1], pairs, strict=True))
        return x[(slice(None), *kept)]


class Upsample(Layer):
    """y[o] = x between its positions at o / scale: each spatial axis scaled by interpolation.

    Args:
      scale: By how much, a whole number or not, once or for each axis; below 1 leaves positions out, without
        smoothing.
      method: "nearest": the position ⌊o / scale⌋. "linear": two neighbours along each axis. "cubic": four of them,
        with the kernel of A = −0.75.
      align_corners: Whether the first and last positions of x and y lie upon each other, so that o stands for
        o · (n − 1) / (n' − 1); False for the outer edges of these, (o + ½) / scale − ½. Beyond the ends is the last
        position. Not for "nearest".
      size: The sizes to reach, once or for each axis, in place of scale.

    Inputs: x (batch, *spatial, channels), floating, for "nearest" of any dtype → (batch, ⌊spatial · scale⌋ or size,
      channels), in x's dtype; interpolated in float32 at least.

    Raises:
      ValueError: Scale and size both or neither, or such as cannot be; an unknown method; align_corners with
        "nearest"; an input of another rank, or of which nothing would be left.
      TypeError: (linear and cubic) an input of whole numbers.

    Source: torch.nn.functional.interpolate, which calls the methods "nearest", "linear", "bilinear", "trilinear" and
      "bicubic" by the number of axes. jax.image.resize has A = −0.5 and other edges for "cubic", and smooths
      when it makes smaller.

    Example:
      >>> x = jnp.array([0.0, 4.0]).reshape(1, 2, 1)
      >>> fn.Upsample(2, method="linear").apply({}, x)[0, :, 0]
      Array([0., 1., 3., 4.], dtype=float32)
    """

    scale: Scale | None = None
    method: str = "nearest"
    align_corners: bool = False
    size: Sizes | None = None

    def __post_init__(self) -> None:
        if (self.scale is None) == (self.size is None):
            raise ValueError(
                f"Upsample takes scale or size, got scale={self.scale!r} and size={self.size!r}. Write Upsample(2), or "
                f"Upsample(size=(64, 64))"
            )
        if self.size is not None:
            check_sizes(self, "size")
        else:
            entries: tuple[Any, ...] = self.scale if isinstance(self.scale, tuple) else (self.scale,)
            if not 1 <= len(entries) <= 3 or not all(_is_number(entry) and 0 < entry < np.inf for entry in entries):
                raise refusal(
                    self, "scale", "as a number above 0, or one for each spatial axis", "Write Upsample(2) for twice"
                )
        if self.method not in ("nearest", *_KERNELS):
            remedy = "bilinear and trilinear are 'linear' along two and three axes, bicubic is 'cubic'"
            raise refusal(self, "method", "as 'nearest', 'linear' or 'cubic'", remedy)
        check_flag(self, "align_corners", "Write align_corners=True where the outer positions are to stay")
        if self.align_corners and self.method == "nearest":
            raise ValueError(
                "Upsample takes align_corners=True with method='linear' or 'cubic', got method='nearest'. Leave it out"
            )

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        nearest = self.method == "nearest"
        (check_rank if nearest else check_floats)(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        axes = spatial_axes(self, x, "scale", "size")
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,) * axes
        given = (None,) * axes if self.size is None else each_axis(self.size, axes)
        spatial = x.shape[1:-1]
        sizes = [size or math.floor(n * (scale or 1)) for n, scale, size in zip(spatial, scales, given, strict=True)]
        if 0 in (*spatial, *sizes):
            raise ValueError(
                f"{self!r} takes inputs of which something is left, got {show(x)}, which would have the spatial sizes "
                f"{tuple(sizes)}. Scale by more, or give a size"
            )
        each: Resized = list(zip(spatial, sizes, scales, strict=True))
        return _picked(x, each) if nearest else self._interpolated(x, each)

    def _interpolated(self, x: jax.Array, each: Resized) -> jax.Array:
        wide = at_least_float32(x)
        operands: list[Any] = [wide, list(range(x.ndim))]
        result = list(range(x.ndim))
        for axis, (n, size, scale) in enumerate(each, 1):
            if n == size and self.method == "linear":
                continue  # PyTorch leaves such an axis, also where a scale of 1.1 made no position more of it
            weights = _weights(n, size, scale, self.method, self.align_corners).astype(wide.dtype)
            result[axis] = x.ndim + axis
            operands += [weights, [result[axis], axis]]
        # Products rather than gathers: their gradient is a product too, where a gather's is a slow scatter.
        return jnp.einsum(*operands, result, precision="highest").astype(x.dtype)


def _picked(x: jax.Array, each: Resized) -> jax.Array:
    """x at the nearest positions."""
    for axis, (n, size, scale) in enumerate(each, 1):
        if size % n == 0 and scale in (None, size // n):
            x = jnp.repeat(x, size // n, axis)  # whose gradient is a sum, where a gather's is a slow scatter
        else:
            o = np.arange(size)
            places = o * n // size if scale is None else np.floor(o / scale).astype(int)
            x = jnp.take(x, np.minimum(places, n - 1), axis, mode="clip")
    return x


def _weights(n: int, size: int, scale: float | None, method: str, align_corners: bool) -> np.ndarray:
    """(size, n): by what each position of x enters each position of y."""
    o = np.arange(size)
    if align_corners:
        at = o * ((n - 1) / max(size - 1, 1))
    else:
        at = (o + 0.5) * (n / size if scale is None else 1 / scale) - 0.5
    taps, kernel = _KERNELS[method]
    weights = np.zeros((size, n))
    for tap in taps:
        place = np.floor(at).astype(int) + tap
        np.add.at(weights, (o, np.clip(place, 0, n - 1)), kernel(np.abs(at - place)))
    return weights


def _linear(distance: np.ndarray) -> np.ndarray:
    return 1 - distance


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys's kernel (1981)."""
    d, a = distance, -0.75
    return np.where(d <= 1, ((a + 2) * d - (a + 3)) * d**2 + 1, ((d - 5) * d + 8) * d * a - 4 * a)


_KERNELS = {"linear": (range(2), _linear), "cubic": (range(-1, 3), _cubic)}


# What they check


def _is_number(held: Any) -> bool:
    return isinstance(held, (int, float)) and not isinstance(held, bool)


def _check_width(layer: Pad | Crop) -> None:
    held: Any = layer.width
    entries: tuple[Any, ...] = held if isinstance(held, tuple) else (held,)
    # A pair stands within a tuple of axes only: (1, 2) is two axes.
    ends = [end for entry in entries for end in (entry if isinstance(entry, tuple) and len(entry) == 2 else (entry,))]
    if not 1 <= len(entries) <= 3 or not all(is_whole(end, least=0) for end in ends):
        raise refusal(
            layer,
            "width",
            "as a whole number, at least 0, or as a number or (low, high) pair for each spatial axis",
            "Write width=1 for the same at every end, width=((1, 0),) for one axis with two different ends",
        )


def _pairs_for(layer: Pad | Crop, x: jax.Array) -> Pairs:
    """The width at both ends of each spatial axis of x."""
    check_rank(layer, x, BATCH_SPATIAL_CHANNELS, 3, 5)
    spatial_axes(layer, x, "width")
    spatial = x.shape[1:-1]
    return padding_pairs(layer.width, spatial, spatial, spatial)
