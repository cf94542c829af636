"""Convolutions over one to three spatial axes, channels last."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from funcnets.initializers import LecunNormal, Zeros
from funcnets.layer import Layer
from funcnets.layers.fields import check_flag, check_whole
from funcnets.layers.inputs import check_floats
from funcnets.layers.promotion import in_dtype_of, per_channel
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
from funcnets.leaves import Initializer, Param
from funcnets.shapes import show

_LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}
_WINDOW_FIELDS = ("kernel_size", "strides", "padding", "dilation")


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
        check_whole(self, "features", "It is the number of output channels; the input's comes from the sample")
        check_sizes(self, "kernel_size")
        check_sizes(self, "strides")
        check_padding(self, ("SAME", "VALID", "CAUSAL", "CIRCULAR", "REFLECT"))
        check_sizes(self, "dilation")
        check_agreement(self, *_WINDOW_FIELDS)
        check_whole(self, "groups", "Write groups=1 for a plain convolution")
        check_flag(self, "use_bias", "Write use_bias=False where a normalisation with a bias of its own follows")
        if self.features % self.groups:
            raise ValueError(
                f"Conv takes features that its groups divide, got features={self.features} and groups={self.groups}. "
                f"Take a multiple of {self.groups} for features"
            )

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        axes = spatial_axes(self, x, *_WINDOW_FIELDS)
        if self.padding == "CAUSAL" and axes != 1:
            raise ValueError(
                f"Conv with padding='CAUSAL' takes (batch, time, channels), got {show(x)}. Over more axes say which "
                f"of them is time: padding=((kernel - 1, 0), (0, 0))"
            )
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(
                f"Conv with groups={self.groups} takes channels that its groups divide, got {channels} channels in "
                f"{show(x)}. Take a divisor of {channels} for groups"
            )
        shape = (*each_axis(self.kernel_size, axes), channels // self.groups, self.features)
        kernel = Param(shape, self.kernel_init)
        return {"kernel": kernel} | ({"bias": Param((self.features,), self.bias_init)} if self.use_bias else {})

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        axes = x.ndim - 2
        strides, dilation = each_axis(self.strides, axes), each_axis(self.dilation, axes)
        extents = tuple((k - 1) * d + 1 for k, d in zip(each_axis(self.kernel_size, axes), dilation, strict=True))
        pairs = padding_pairs(self.padding, x.shape[1:-1], extents, strides)
        check_fit(self, x, extents, pairs)
        if self.padding in ("CIRCULAR", "REFLECT"):
            x, pairs = self._filled(x, pairs), ((0, 0),) * axes
        y = jax.lax.conv_general_dilated(
            x,
            in_dtype_of(x, p["kernel"]),
            strides,
            pairs,
            rhs_dilation=dilation,
            dimension_numbers=_LAYOUTS[axes],
            feature_group_count=self.groups,
        )
        return y + per_channel(p["bias"], y) if self.use_bias else y

    def _filled(self, x: jax.Array, pairs: Pairs) -> jax.Array:
        """x with values of its own around it."""
        mirrored = self.padding == "REFLECT"
        for n, ends in zip(x.shape[1:-1], pairs, strict=True):
            if max(ends) > n - mirrored:  # a mirror does not repeat the value at the edge
                raise ValueError(
                    f"Conv with padding={self.padding!r} takes at least {max(ends) + mirrored} positions along an axis "
                    f"that it pads by {ends}, got {show(x)}. Make the kernel smaller, or pad with zeros: "
                    f"padding='SAME'"
                )
        return jnp.pad(x, ((0, 0), *pairs, (0, 0)), mode="reflect" if mirrored else "wrap")
