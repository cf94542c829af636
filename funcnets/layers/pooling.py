"""Pooling: windows, or all positions, reduced to one value. Channels stay apart."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.layer import Layer
from funcnets.layers.fields import check_flag, refusal
from funcnets.layers.inputs import check_floats, check_rank
from funcnets.layers.promotion import at_least_float32
from funcnets.layers.taps import picked, windows_of
from funcnets.layers.windows import BATCH_SPATIAL_CHANNELS, Padding, Sizes, check_pool_fields, check_positions


class MaxPool(Layer):
    """y[b, o, c] = max over taps t of x[b, o · stride + t · dilation − low, c].

    Args:
      window: The taps along each axis.
      strides: The steps between windows; None for the window itself, so that windows lie side by side.
      padding: "VALID": none, a rest at the end is left out. "SAME": for ⌈n / stride⌉ outputs. A whole number, or for
        each axis a number or a (low, high) pair, smaller than the window. Padding never is the maximum.
      dilation: The steps between taps.
      indices: Whether to return as well where each maximum was found: its position counted over all spatial axes of
        x, the last one fastest. `MaxUnpool` takes them.

    Inputs: x (batch, *spatial, channels), floating, whole numbers or booleans → (batch, *spatial', channels), in x's
      dtype; with indices, that and int32 of the same shape.

    Raises:
      ValueError: Sizes or padding that cannot be; an input of another rank, smaller than the window, or with windows
        whose taps are all in the padding.

    Source: strides left out are the window, as in PyTorch and Keras; in Flax and stax they are 1. A rest at the end is
      left out as in all of them (PyTorch's ceil_mode=False). Indices are those of PyTorch's return_indices. Of equal
      values the first is the maximum, and takes the gradient. With dilation or indices the windows are laid out in
      memory: for windows side by side as much as x, for overlapping ones more.

    Example:
      >>> fn.MaxPool(2).apply({}, jnp.ones((1, 28, 28, 3))).shape
      (1, 14, 14, 3)
    """

    window: Sizes
    strides: Sizes | None = None
    padding: Padding = "VALID"
    dilation: Sizes = 1
    indices: bool = False

    def __post_init__(self) -> None:
        check_pool_fields(self)
        check_flag(self, "indices", "Write indices=True for (y, indices)")

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array | tuple[jax.Array, jax.Array]:
        if self.indices:
            check_rank(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
            return picked(x, windows_of(self, x).tables(x.shape[1:-1]), jnp.argmax)
        return _extreme(self, x, jax.lax.max, jnp.argmax, -np.inf)


class MinPool(Layer):
    """y[b, o, c] = min over taps t of x[b, o · stride + t · dilation − low, c].

    Args:
      window, strides, padding, dilation: As of `MaxPool`. Padding never is the minimum.

    Inputs: x (batch, *spatial, channels), floating, whole numbers or booleans → (batch, *spatial', channels), in x's
      dtype.

    Raises:
      ValueError: As of `MaxPool`.

    Source: −MaxPool(−x), for dtypes without a sign too. Flax has it as min_pool.

    Example:
      >>> fn.MinPool(2).apply({}, jnp.array([[[3.0], [1.0], [2.0], [5.0]]]))[0, :, 0]
      Array([1., 2.], dtype=float32)
    """

    window: Sizes
    strides: Sizes | None = None
    padding: Padding = "VALID"
    dilation: Sizes = 1

    def __post_init__(self) -> None:
        check_pool_fields(self)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return _extreme(self, x, jax.lax.min, jnp.argmin, np.inf)


class SumPool(Layer):
    """y[b, o, c] = Σ over taps t of x[b, o · stride + t · dilation − low, c]; taken in float32 at least.

    Args:
      window, strides, padding, dilation: As of `MaxPool`. Padding adds nothing.

    Inputs: x (batch, *spatial, channels), floating → (batch, *spatial', channels), in x's dtype.

    Raises:
      ValueError: As of `MaxPool`.
      TypeError: An input of whole numbers.

    Source: PyTorch has it as LPPool of power 1, and as avg_pool with divisor_override=1.

    Example:
      >>> fn.SumPool(2).apply({}, jnp.ones((1, 4, 4, 1)))[0, ..., 0]
      Array([[4., 4.],
             [4., 4.]], dtype=float32)
    """

    window: Sizes
    strides: Sizes | None = None
    padding: Padding = "VALID"
    dilation: Sizes = 1

    def __post_init__(self) -> None:
        check_pool_fields(self)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_floats(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        return windows_of(self, x).sums(at_least_float32(x)).astype(x.dtype)


class AvgPool(Layer):
    """y[b, o, c] = mean over taps t of x[b, o · stride + t · dilation − low, c]; taken in float32 at least.

    Args:
      window: The taps along each axis.
      strides: The steps between windows; None for the window itself, so that windows lie side by side.
      padding: "VALID": none, a rest at the end is left out. "SAME": for ⌈n / stride⌉ outputs. A whole number, or for
        each axis a number or a (low, high) pair, smaller than the window.
      count_include_pad: Whether padding counts as zeros in the mean; if not, a mean is over real values alone.
      dilation: The steps between taps.

    Inputs: x (batch, *spatial, channels), floating → (batch, *spatial', channels), in x's dtype.

    Raises:
      ValueError: As of `MaxPool`.
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
    dilation: Sizes = 1

    def __post_init__(self) -> None:
        check_pool_fields(self)
        check_flag(self, "count_include_pad", "Write count_include_pad=True for PyTorch's default")

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_floats(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        windows = windows_of(self, x)
        total = windows.sums(at_least_float32(x))
        if self.count_include_pad or not windows.is_padded:
            return (total / math.prod(windows.widths)).astype(x.dtype)
        counts = windows.counts(x.shape[1:-1])
        count = functools.reduce(np.multiply.outer, counts)[None, ..., None]  # (1, *spatial', 1)
        return (total / count.astype(total.dtype)).astype(x.dtype)


class LpPool(Layer):
    """y[b, o, c] = (Σ over taps t of xᵖ)^(1/p) with p = power and x[b, o · stride + t · dilation − low, c]; taken in
    float32 at least.

    An odd p keeps signs, so that the root of a negative sum is negative; any other takes |x|. Where a sum is 0 its root
    has no finite slope, unless p is 1: there the gradient is 0, as in PyTorch.

    Args:
      power: p, a number of at least 1: 1 for sums, 2 for the norm of each window.
      window, strides, padding, dilation: As of `MaxPool`. Padding adds nothing.

    Inputs: x (batch, *spatial, channels), floating → (batch, *spatial', channels), in x's dtype.

    Raises:
      ValueError: A power that cannot be; else as of `MaxPool`.
      TypeError: An input of whole numbers.

    Source: Gulcehre et al. 2014, Learned-norm pooling. As PyTorch's LPPool wherever that is a number; it gives NaN for
      negative sums, and for negative x and a power that is not whole. ONNX takes |x| for odd powers too.

    Example:
      >>> fn.LpPool(2, window=2).apply({}, jnp.array([[[3.0], [4.0]]]))[0, :, 0]
      Array([5.], dtype=float32)
    """

    power: float
    window: Sizes
    strides: Sizes | None = None
    padding: Padding = "VALID"
    dilation: Sizes = 1

    def __post_init__(self) -> None:
        number = isinstance(self.power, (int, float)) and not isinstance(self.power, bool)
        if not number or not 1 <= self.power < math.inf:
            raise refusal(self, "power", "as a number of at least 1", "For the largest value take MaxPool")
        check_pool_fields(self)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_floats(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        windows, wide = windows_of(self, x), at_least_float32(x)
        if self.power == 1:
            return windows.sums(wide).astype(x.dtype)
        whole = float(self.power).is_integer()
        total = windows.sums(wide ** int(self.power) if whole else jnp.abs(wide) ** self.power)
        zero = total == 0
        size = jnp.where(zero, 1, jnp.abs(total)) ** (1 / self.power)
        return jnp.where(zero, 0, jnp.sign(total) * size).astype(x.dtype)


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


def _extreme(
    pool: MaxPool | MinPool,
    x: jax.Array,
    reduce: Callable[..., jax.Array],
    choose: Callable[..., jax.Array],
    last: float,
) -> jax.Array:
    """The largest or smallest value of each window; `last` is what any other comes before."""
    check_rank(pool, x, BATCH_SPATIAL_CHANNELS, 3, 5)
    windows = windows_of(pool, x)
    if max(windows.dilation) > 1:  # a maximum over dilated windows has no gradient in JAX
        return picked(x, windows.tables(x.shape[1:-1]), choose)[0]
    return windows.reduced(x, _bound(x.dtype, last), reduce)


def _bound(dtype: np.dtype, infinity: float) -> np.ndarray:
    """The greatest or least value of a dtype."""
    if jnp.issubdtype(dtype, jnp.integer):
        info = jnp.iinfo(dtype)
        return np.array(info.max if infinity > 0 else info.min, dtype)
    return np.array(infinity > 0 if dtype == jnp.bool_ else infinity, dtype)


def _positions(layer: Layer, x: jax.Array) -> tuple[int, ...]:
    """The spatial axes of x; raises where they hold nothing."""
    check_positions(layer, x)
    return tuple(range(1, x.ndim - 1))
