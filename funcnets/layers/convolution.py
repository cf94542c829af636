"""Convolutions over one to three spatial axes, channels last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from funcnets.combinators import Sequential
from funcnets.compose import Composite
from funcnets.initializers import LecunNormal, Zeros
from funcnets.layer import Layer
from funcnets.layers.fields import check_whole
from funcnets.layers.promotion import in_dtype_of, per_channel
from funcnets.layers.taps import filled
from funcnets.layers.windows import (
    FILLS,
    Padding,
    Sizes,
    check_channels,
    check_convolution_fields,
    check_convolution_input,
    check_fill,
    check_fit,
    check_groups,
    each_axis,
    extents_of,
    padding_pairs,
)
from funcnets.leaves import Initializer, Param
from funcnets.shapes import show

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
_FEATURES = "It is the number of output channels; the input's comes from the sample"
_MULTIPLIER = "It is the number of outputs for each channel of the input: multiplier=1"


class Conv(Layer):
    """y[b, o, f] = Σ over taps t and channels c of x[b, o · stride + t · dilation − low, c] · kernel[t, c, f] + bias[f]
    with low positions padded in front.

    Sizes given as a whole number mean the same along each spatial axis, of which there are as many as the input has
    axes between batch and channels.

    Args:
      features: The number of output channels; that of the input comes from the sample.
      kernel_size: The taps along each axis.
      strides: The steps between windows.
      padding: "SAME": zeros, for ⌈n / stride⌉ outputs. "VALID": none. "CAUSAL" (one axis): zeros in front, so that
        an output sees no later input. "CIRCULAR" and "REFLECT": the input's own values, (extent − 1) // 2 in front and
        extent // 2 behind, where extent = (taps − 1) · dilation + 1. A whole number, or for each axis a number or a
        (low, high) pair: so many zeros.
      dilation: The steps between taps.
      groups: The parts that channels and features are cut into, each convolved by itself; as many groups as channels
        make a depthwise convolution.
      use_bias: Whether to add a bias.
      kernel_init: The kernel's initialiser.
      bias_init: The bias's initialiser.

    Params:
      kernel: (*kernel_size, in // groups, features)
      bias: (features,)

    Inputs: x (batch, *spatial, in), floating → (batch, *spatial', features), in x's dtype.

    Raises:
      ValueError: Sizes, padding or groups that cannot be; an input of another rank, with channels that the groups do
        not divide, or smaller than the window.
      TypeError: An input of whole numbers.

    Source: layouts and "SAME" are Flax's and Keras's, so that with strides "SAME" may pad one more behind than in
      front, where PyTorch's whole numbers pad alike. "CIRCULAR" and "REFLECT" are Flax's, and for odd extents
      PyTorch's padding_mode. PyTorch holds (features, in // groups, *kernel_size).

    Example:
      >>> images = jnp.ones((2, 28, 28, 3))
      >>> params = fn.Conv(16, 3, strides=2).init(jax.random.key(0), images)
      >>> params["kernel"].shape
      (3, 3, 3, 16)
      >>> fn.Conv(16, 3, strides=2).apply(params, images).shape
      (2, 14, 14, 16)
    """

    features: int
    kernel_size: Sizes
    strides: Sizes = 1
    padding: Padding = "SAME"
    dilation: Sizes = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = LecunNormal()
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_whole(self, "features", _FEATURES)
        check_convolution_fields(self)
        check_groups(self)

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        axes = check_convolution_input(self, x)
        check_channels(self, x)
        shape = (*each_axis(self.kernel_size, axes), x.shape[-1] // self.groups, self.features)
        kernel = Param(shape, self.kernel_init)
        return {"kernel": kernel} | ({"bias": Param((self.features,), self.bias_init)} if self.use_bias else {})

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return _convolved(self, p, x, self.groups)


class DepthwiseConv(Layer):
    """y[b, o, c · multiplier + j] = Σ over taps t of x[b, o · stride + t · dilation − low, c] ·
    kernel[t, 0, c · multiplier + j] + bias[c · multiplier + j]: each channel is convolved by itself.

    Args:
      kernel_size: The taps along each axis.
      multiplier: The outputs of each channel.
      strides, padding, dilation: As of `Conv`.
      use_bias: Whether to add a bias.
      kernel_init: The kernel's initialiser.
      bias_init: The bias's initialiser.

    Params:
      kernel: (*kernel_size, 1, channels · multiplier)
      bias: (channels · multiplier,)

    Inputs: x (batch, *spatial, channels), floating → (batch, *spatial', channels · multiplier), in x's dtype.

    Raises:
      ValueError: Sizes or padding that cannot be; an input of another rank, without channels, or smaller than the
        window.
      TypeError: An input of whole numbers.

    Source: it is `Conv(channels · multiplier, kernel_size, groups=channels)` for the channels of the sample, in PyTorch
      too. Keras holds (*kernel_size, channels, multiplier), the same numbers in the same order.

    Example:
      >>> images = jnp.ones((2, 28, 28, 3))
      >>> params = fn.DepthwiseConv(3, multiplier=2).init(jax.random.key(0), images)
      >>> params["kernel"].shape
      (3, 3, 1, 6)
    """

    kernel_size: Sizes
    multiplier: int = 1
    strides: Sizes = 1
    padding: Padding = "SAME"
    dilation: Sizes = 1
    use_bias: bool = True
    kernel_init: Initializer = LecunNormal()
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_convolution_fields(self)
        check_whole(self, "multiplier", _MULTIPLIER)

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        axes = check_convolution_input(self, x)
        if x.shape[-1] == 0:
            raise ValueError(f"DepthwiseConv takes at least one channel, got {show(x)}. Leave the layer out for none")
        features = x.shape[-1] * self.multiplier
        kernel = Param((*each_axis(self.kernel_size, axes), 1, features), self.kernel_init)
        return {"kernel": kernel} | ({"bias": Param((features,), self.bias_init)} if self.use_bias else {})

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return _convolved(self, p, x, x.shape[-1])


class SeparableConv(Composite):
    """y = pointwise(depthwise(x)): each channel convolved by itself, without a bias, then the channels mixed at each
    position.

    Args:
      features: The number of output channels; that of the input comes from the sample.
      kernel_size: The taps of the depthwise convolution along each axis.
      multiplier: The outputs of each channel of the depthwise convolution.
      strides, padding, dilation: Of the depthwise convolution, as of `Conv`.
      use_bias: Whether the pointwise convolution adds a bias.
      kernel_init: The initialiser of both kernels.
      bias_init: The bias's initialiser.

    Params:
      depthwise/kernel: (*kernel_size, 1, channels · multiplier)
      pointwise/kernel: (1, ..., channels · multiplier, features), with a 1 for each spatial axis
      pointwise/bias: (features,)

    Inputs: x (batch, *spatial, channels), floating → (batch, *spatial', features), in x's dtype.

    Raises:
      ValueError: Features, sizes or padding that cannot be; an input that `DepthwiseConv` does not take.
      TypeError: An input of whole numbers.

    Source: Sifre & Mallat 2014; Chollet 2017, Xception. With a normalisation and an activation between the two, as in
      MobileNet, write `Sequential(DepthwiseConv(3), BatchNorm(), jax.nn.relu, Conv(features, 1))`.

    Example:
      >>> images = jnp.ones((2, 28, 28, 3))
      >>> params = fn.SeparableConv(16, 3).init(jax.random.key(0), images)
      >>> params["depthwise"]["kernel"].shape, params["pointwise"]["kernel"].shape
      ((3, 3, 1, 3), (1, 1, 3, 16))
    """

    features: int
    kernel_size: Sizes
    multiplier: int = 1
    strides: Sizes = 1
    padding: Padding = "SAME"
    dilation: Sizes = 1
    use_bias: bool = True
    kernel_init: Initializer = LecunNormal()
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_whole(self, "features", _FEATURES)
        check_convolution_fields(self)
        check_whole(self, "multiplier", _MULTIPLIER)

    def _parts(self) -> dict[str, Any]:
        window = (self.kernel_size, self.multiplier, self.strides, self.padding, self.dilation)
        kernel_init, bias_init = self.kernel_init, self.bias_init
        depthwise = DepthwiseConv(*window, use_bias=False, kernel_init=kernel_init)
        pointwise = Conv(self.features, 1, use_bias=self.use_bias, kernel_init=kernel_init, bias_init=bias_init)
        return {"depthwise": depthwise, "pointwise": pointwise}

    def _with_parts(self, changed: Mapping[str, Any]) -> Layer:
        return Sequential(layers={**self._parts(), **changed}.items())

    def forward(self, m: Any, x: jax.Array) -> jax.Array:
        return m.pointwise(m.depthwise(x))


def _convolved(conv: Conv | DepthwiseConv, p: dict[str, jax.Array], x: jax.Array, groups: int) -> jax.Array:
    axes = x.ndim - 2
    strides, dilation = each_axis(conv.strides, axes), each_axis(conv.dilation, axes)
    extents = extents_of(conv.kernel_size, dilation, axes)
    pairs = padding_pairs(conv.padding, x.shape[1:-1], extents, strides)
    check_fit(conv, x, extents, pairs)
    if conv.padding in FILLS:
        check_fill(conv, x, pairs)
        x, pairs = filled(x, conv.padding, pairs), ((0, 0),) * axes
    y = jax.lax.conv_general_dilated(
        x,
        in_dtype_of(x, p["kernel"]),
        strides,
        pairs,
        rhs_dilation=dilation,
        dimension_numbers=LAYOUTS[axes],
        feature_group_count=groups,
    )
    return y + per_channel(p["bias"], y) if conv.use_bias else y
