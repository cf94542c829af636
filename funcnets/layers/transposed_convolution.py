"""The transpose of a convolution: from its outputs' positions to its inputs'."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcnets.initializers import LecunNormal, Zeros
from funcnets.layer import Layer
from funcnets.layers.convolution import LAYOUTS
from funcnets.layers.fields import check_whole, is_whole, refusal
from funcnets.layers.promotion import in_dtype_of, per_channel
from funcnets.layers.taps import filled
from funcnets.layers.windows import (
    CONVOLUTION_FIELDS,
    FILLS,
    Padding,
    Pairs,
    Sizes,
    check_agreement,
    check_channels,
    check_convolution_fields,
    check_convolution_input,
    check_groups,
    each_axis,
    extents_of,
    padding_pairs,
    spatial_axes,
)
from funcnets.leaves import Initializer, Param
from funcnets.shapes import show


class ConvTranspose(Layer):
    """y[b, i, f] = Σ over positions o, taps t and channels c with i = o · stride + t · dilation − low of x[b, o, c] ·
    kernel[t, c, f] + bias[f]: the linear transpose of the `Conv` with the same options, from `features` channels to the
    input's.

    With n positions along an axis and extent = (taps − 1) · dilation + 1 there are n · stride outputs, where padding is
    named, or else (n − 1) · stride + extent − low − high + output_padding.

    Args:
      features: The number of output channels; that of the input comes from the sample.
      kernel_size: The taps along each axis.
      strides: The steps between the windows, so the growth of each axis.
      padding: That of the `Conv`, whose padded positions are left out here. "SAME" and "VALID" (none). "CAUSAL" (one
        axis): an output sees no earlier input; where it shall see no later one, ((0, extent − stride),). "CIRCULAR"
        and "REFLECT": what falls outside is added to the positions that `Conv` reads there. A whole number, or for
        each axis a number or a (low, high) pair.
      dilation: The steps between taps.
      groups: The parts that channels and features are cut into, each convolved by itself.
      use_bias: Whether to add a bias.
      output_padding: Positions more at the end, for "VALID" and numbers, where a stride has several lengths of the
        `Conv`'s input give one of its output; less than stride or dilation. They get what falls there.
      kernel_init: The kernel's initialiser.
      bias_init: The bias's initialiser.

    Params:
      kernel: (*kernel_size, in // groups, features)
      bias: (features,)

    Inputs: x (batch, *spatial, in), floating → (batch, *spatial', features), in x's dtype.

    Raises:
      ValueError: Sizes, padding or groups that cannot be; an input of another rank, with channels that the groups do
        not divide, or that leaves no outputs.
      TypeError: An input of whole numbers.

    Source: outputs are PyTorch's for numbers, its padding=0 being "VALID". PyTorch holds (in, features // groups,
      *kernel_size), the groups along the first axis, ours along the last: np.moveaxis(weight, (0, 1), (-2, -1)) for
      one. The `Conv` that is transposed has the last two axes the other way round, group by group, as Keras has. Flax
      counts the taps from the other end (transpose_kernel=False), and its pairs pad the strided input. "SAME" is
      theirs; their "VALID" gives n · stride where the stride is greater than the extent, and with strides Flax's
      "CIRCULAR" may be ours shifted. fan_in counts all taps, whatever the stride.

    Example:
      >>> maps = jnp.ones((2, 7, 7, 32))
      >>> params = fn.ConvTranspose(16, 3, strides=2).init(jax.random.key(0), maps)
      >>> params["kernel"].shape
      (3, 3, 32, 16)
      >>> fn.ConvTranspose(16, 3, strides=2).apply(params, maps).shape
      (2, 14, 14, 16)
    """

    features: int
    kernel_size: Sizes
    strides: Sizes = 1
    padding: Padding = "SAME"
    dilation: Sizes = 1
    groups: int = 1
    use_bias: bool = True
    output_padding: Sizes = 0
    kernel_init: Initializer = LecunNormal()
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_whole(self, "features", "It is the number of output channels; the input's comes from the sample")
        check_convolution_fields(self)
        check_groups(self)
        self._check_output_padding()

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        axes = check_convolution_input(self, x)
        spatial_axes(self, x, "output_padding")
        check_channels(self, x)
        shape = (*each_axis(self.kernel_size, axes), x.shape[-1] // self.groups, self.features)
        kernel = Param(shape, self.kernel_init)
        return {"kernel": kernel} | ({"bias": Param((self.features,), self.bias_init)} if self.use_bias else {})

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        axes = x.ndim - 2
        strides, dilation = each_axis(self.strides, axes), each_axis(self.dilation, axes)
        extents = extents_of(self.kernel_size, dilation, axes)
        lengths, pairs = self._outputs(x, extents, strides)
        folds = self.padding in FILLS
        ends: list[tuple[int, int]] = []  # around the strided input, so that a convolution gives the outputs
        for n, stride, extent, length, (low, high) in zip(x.shape[1:-1], strides, extents, lengths, pairs, strict=True):
            first, count = (0, low + length + high) if folds else (low, length)
            ends.append((extent - 1 - first, first + count - ((n - 1) * stride + 1)))
        y = jax.lax.conv_general_dilated(
            x,
            jnp.flip(in_dtype_of(x, p["kernel"]), tuple(range(axes))),
            (1,) * axes,
            ends,
            lhs_dilation=strides,
            rhs_dilation=dilation,
            dimension_numbers=LAYOUTS[axes],
            feature_group_count=self.groups,
        )
        if folds:
            inner = jax.ShapeDtypeStruct((y.shape[0], *lengths, y.shape[-1]), y.dtype)
            (y,) = jax.linear_transpose(lambda a: filled(a, self.padding, pairs), inner)(y)
        return y + per_channel(p["bias"], y) if self.use_bias else y

    def _outputs(
        self, x: jax.Array, extents: tuple[int, ...], strides: tuple[int, ...]
    ) -> tuple[tuple[int, ...], Pairs]:
        """The length of each axis of the output, and what the `Conv` pads it by."""
        lengths = tuple(n * stride for n, stride in zip(x.shape[1:-1], strides, strict=True))
        pairs = padding_pairs(self.padding, lengths, extents, strides)
        if self.padding == "VALID" or not isinstance(self.padding, str):
            more = each_axis(self.output_padding, len(strides))
            each = zip(x.shape[1:-1], strides, extents, pairs, more, strict=True)
            lengths = tuple((n - 1) * stride + extent - sum(ends) + extra for n, stride, extent, ends, extra in each)
        if min(lengths) < 1 or 0 in x.shape[1:-1]:
            raise ValueError(
                f"ConvTranspose takes at least one position along each axis, and padding that leaves as many of its "
                f"output, got {show(x)} and padding {pairs}, which leaves {lengths}. Pad less"
            )
        mirrored = self.padding == "REFLECT"
        if self.padding in FILLS and any(max(p) > n - mirrored for p, n in zip(pairs, lengths, strict=True)):
            raise ValueError(
                f"ConvTranspose with padding={self.padding!r} takes inputs long enough for the output to be padded by "
                f"{pairs}, got {show(x)}, so {lengths} outputs. Make the kernel smaller, or pad with zeros: "
                f"padding='SAME'"
            )
        return lengths, pairs

    def _check_output_padding(self) -> None:
        held: Any = self.output_padding
        entries: tuple[Any, ...] = held if isinstance(held, tuple) else (held,)
        if not 1 <= len(entries) <= 3 or not all(is_whole(entry, least=0) for entry in entries):
            raise refusal(
                self,
                "output_padding",
                "as a whole number, at least 0, or as one for each spatial axis",
                "Write output_padding=1 for one position more at the end of every axis",
            )
        check_agreement(self, *CONVOLUTION_FIELDS, "output_padding")
        if not any(entries):
            return
        if isinstance(self.padding, str) and self.padding != "VALID":
            raise refusal(
                self,
                "output_padding",
                f"0 with padding={self.padding!r}, which has n · stride outputs",
                "Give padding as numbers to choose another length",
            )
        axes = max(len(f) if isinstance(f, tuple) else 1 for f in (held, self.strides, self.dilation))
        steps = zip(each_axis(held, axes), each_axis(self.strides, axes), each_axis(self.dilation, axes), strict=True)
        if any(more >= max(stride, step) for more, stride, step in steps):
            raise refusal(
                self,
                "output_padding",
                f"less than strides or dilation, {self.strides!r} and {self.dilation!r}",
                "More positions at the end are jnp.pad's",
            )
