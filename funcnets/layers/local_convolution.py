"""A convolution whose weights are not shared."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.initializers import Initializer as InitializerValue
from funcnets.initializers import LecunNormal, Zeros
from funcnets.layer import Layer
from funcnets.layers.fields import check_whole, refusal
from funcnets.layers.promotion import in_dtype_of
from funcnets.layers.taps import Windows, filled, gathered
from funcnets.layers.windows import (
    FILLS,
    Padding,
    Sizes,
    check_convolution_fields,
    check_convolution_input,
    check_fill,
    check_fit,
    each_axis,
    extents_of,
    padding_pairs,
)
from funcnets.leaves import Initializer, Param
from funcnets.random import Recipe


class LocallyConnected(Layer):
    """y[b, o, f] = Σ over taps t and channels c of x[b, o · stride + t · dilation − low, c] · kernel[o, t, c, f] +
    bias[o, f]: a convolution with a kernel and a bias of its own for each position of the output.

    Args:
      features: The number of output channels; that of the input comes from the sample.
      kernel_size: The taps along each axis.
      strides, padding, dilation: As of `Conv`.
      use_bias: Whether to add a bias.
      kernel_init: The initialiser of the kernel of each position, (*kernel_size, in, features).
      bias_init: The bias's initialiser.

    Params:
      kernel: (positions, *kernel_size, in, features), all positions of the output, the last spatial axis fastest
      bias: (positions, features)

    Inputs: x (batch, *spatial, in), floating, with the sample's spatial axes → (batch, *spatial', features), in x's
      dtype.

    Raises:
      ValueError: Features, sizes or padding that cannot be; an input of another rank, or smaller than the window.
      TypeError: An input of whole numbers.

    Source: as `jax.lax.conv_general_dilated_local`. Flax (ConvLocal) holds (*spatial', taps · in, features), Keras 2
      (positions, taps · in, features), channels fastest in Keras and slowest in Flax.

    Example:
      >>> images = jnp.ones((2, 8, 8, 3))
      >>> params = fn.LocallyConnected(4, 3, strides=2).init(jax.random.key(0), images)
      >>> params["kernel"].shape, params["bias"].shape
      ((16, 3, 3, 3, 4), (16, 4))
    """

    features: int
    kernel_size: Sizes
    strides: Sizes = 1
    padding: Padding = "SAME"
    dilation: Sizes = 1
    use_bias: bool = True
    kernel_init: Initializer = LecunNormal()
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_whole(self, "features", "It is the number of output channels; the input's comes from the sample")
        check_convolution_fields(self)
        if not callable(self.kernel_init):
            raise refusal(
                self,
                "kernel_init",
                "as an initialiser, a function (key, shape, dtype) -> array",
                "It draws the kernel of one position: kernel_init=fn.initializers.HeNormal()",
            )

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_convolution_input(self, x)
        windows = self._windows(x)
        positions = math.prod(len(table) for table in windows.tables(x.shape[1:-1]))
        kernel = Param((positions, *windows.widths, x.shape[-1], self.features), _Each(self.kernel_init))
        bias = Param((positions, self.features), self.bias_init)
        return {"kernel": kernel} | ({"bias": bias} if self.use_bias else {})

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        windows = self._windows(x)
        padded = filled(x, self.padding, windows.pairs)
        tables = windows._replace(pairs=((0, 0),) * (x.ndim - 2)).tables(padded.shape[1:-1])
        kernel = in_dtype_of(x, p["kernel"]).reshape(*map(len, tables), *p["kernel"].shape[1:])
        o, t = "opq"[: len(tables)], "tuv"[: len(tables)]
        each = "".join(position + tap for position, tap in zip(o, t, strict=True))
        y = jnp.einsum(f"b{each}c,{o}{t}cf->b{o}f", gathered(padded, tables), kernel)
        return y + in_dtype_of(y, p["bias"]).reshape(1, *y.shape[1:]) if self.use_bias else y

    def _windows(self, x: Any) -> Windows:
        axes = len(x.shape) - 2
        strides, dilation = each_axis(self.strides, axes), each_axis(self.dilation, axes)
        extents = extents_of(self.kernel_size, dilation, axes)
        pairs = padding_pairs(self.padding, x.shape[1:-1], extents, strides)
        check_fit(self, x, extents, pairs)
        if self.padding in FILLS:
            check_fill(self, x, pairs)
        return Windows(each_axis(self.kernel_size, axes), strides, dilation, pairs)


class _Each(InitializerValue):
    """Draws what lies along the first axis one by one, so that fans are those of one."""

    one: Initializer

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        if self.recipe(shape, dtype) is not None:
            return super().__call__(key, shape, dtype)
        return jax.vmap(lambda key: self.one(key, shape[1:], dtype))(jax.random.split(key, shape[0]))

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe | None:
        return self.one.recipe(shape[1:], dtype) if isinstance(self.one, InitializerValue) else None
