"""Layers that are linear in each of their inputs: products with a learned kernel, a bias, a scale."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from funcnets.initializers import LecunNormal, Ones, Zeros, with_axes
from funcnets.layer import Layer
from funcnets.layers.axes import Axes, axes_of, check_axes
from funcnets.layers.fields import check_flag, check_whole, is_whole, refusal
from funcnets.layers.inputs import check_floats
from funcnets.layers.promotion import along, in_dtype_of, per_channel
from funcnets.leaves import Initializer, Param
from funcnets.shapes import show


class Dense(Layer):
    """y = x @ kernel + bias, over the last axis or any others.

    The axes of x that are not contracted stay in their order, and the axes of the features come after them.

    Args:
      features: The width of the output; that of the input comes from the sample. A tuple for an output with several
        axes in place of the contracted ones; () for none.
      use_bias: Whether to add a bias.
      kernel_init: The kernel's initialiser. It is asked for the kernel's shape; one that goes by the fans, and was
        given no axes, takes the contracted ones for inputs and the features' for outputs.
      bias_init: The bias's initialiser.
      axis: The axis of x to contract, or a tuple of them.
      rank: The width between two factors that stand in for the kernel, y = (x @ down) @ up + bias; None for the
        kernel itself.

    Params:
      kernel: (in, features), each as many axes as axis and features name
      bias: (features,)
      down: (in, rank), with a rank, which has no kernel
      up: (rank, features), likewise

    Inputs: x (..., in), floating → (..., features), in x's dtype.

    Raises:
      ValueError: Features, an axis or a rank that cannot be; an input without the axes named.
      TypeError: An input of whole numbers.

    Source: the kernel is (in, out) as in Flax and Haiku; PyTorch and Equinox hold (out, in). The initial values are
      LeCun's normal as in Flax; PyTorch draws kernel and bias from a uniform distribution
      (`initializers.TorchKernel`). Over several axes it is Flax's DenseGeneral.

    Example:
      >>> params = fn.Dense(10).init(jax.random.key(0), jnp.ones((2, 20)))
      >>> params["kernel"].shape, params["bias"].shape
      ((20, 10), (10,))
      >>> heads = fn.Dense((4, 8)).plan(jnp.ones((2, 5, 20))).output
      >>> heads.shape, fn.Dense(20, axis=(-2, -1)).plan(heads).output.shape
      ((2, 5, 4, 8), (2, 5, 20))
    """

    features: int | tuple[int, ...]
    use_bias: bool = True
    kernel_init: Initializer = LecunNormal()
    bias_init: Initializer = Zeros()
    axis: Axes = dataclasses.field(default=-1, kw_only=True)
    rank: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.features, tuple):
            check_whole(self, "features", "It is the width of the output: Dense(256)")
        elif not all(is_whole(n, least=1) for n in self.features):
            raise refusal(
                self, "features", "as whole numbers, at least 1", "They are the output's axes: Dense((8, 64))"
            )
        check_flag(self, "use_bias", "Dense takes one width, its output's; the input's comes from the sample")
        check_axes(self, "axis", "They are the axes of the input to contract: Dense(256, axis=(-2, -1))")
        if self.rank is not None:
            check_whole(self, "rank", "It is the width between two factors; rank=None has one kernel in their place")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, *(("(..., in)", 1) if self.axis == -1 else ("(...)", 0)))
        inputs = tuple(x.shape[axis] for axis in axes_of(self, x, "axis"))
        outputs = self.features if isinstance(self.features, tuple) else (self.features,)
        if self.rank is None:
            declared = {"kernel": _kernel(inputs, outputs, self.kernel_init)}
        else:
            between = (self.rank,)
            declared = {
                "down": _kernel(inputs, between, self.kernel_init),
                "up": _kernel(between, outputs, self.kernel_init),
            }
        return declared | ({"bias": Param(outputs, self.bias_init)} if self.use_bias else {})

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        axes = axes_of(self, x, "axis")
        if self.rank is None:
            y = _contracted(x, p["kernel"], axes)
        else:
            y = _contracted(x, p["down"], axes)  # (..., rank)
            y = _contracted(y, p["up"], (y.ndim - 1,))
        return y + per_channel(p["bias"], y) if self.use_bias else y


class Bilinear(Layer):
    """y[f] = Σ over i and j of x1[i] · kernel[i, j, f] · x2[j] + bias[f], over the last axes.

    Args:
      features: The width of the output; those of the inputs come from the sample.
      use_bias: Whether to add a bias.
      kernel_init: The kernel's initialiser.
      bias_init: The bias's initialiser.

    Params:
      kernel: (in1, in2, features)
      bias: (features,)

    Inputs: x1 (..., in1) and x2 (..., in2), floating, of one dtype, alike in all but the last axis → (..., features),
      in that dtype.

    Raises:
      ValueError: Features that are no positive whole number; inputs that differ in dtype or in other axes than the
        last.
      TypeError: An input of whole numbers.

    Source: as `torch.nn.Bilinear`, which holds (features, in1, in2). The initial values are LeCun's normal with
      fan_in = in1 · in2; PyTorch's kernel and bias are both `initializers.TorchBias(in1)`.

    Example:
      >>> fn.Bilinear(4).plan(jnp.ones((2, 3)), jnp.ones((2, 5))).params["kernel"].shape
      (3, 5, 4)
    """

    features: int
    use_bias: bool = True
    kernel_init: Initializer = LecunNormal()
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_whole(self, "features", "It is the width of the output: Bilinear(256)")
        check_flag(self, "use_bias", "Bilinear takes one width, its output's; the inputs' come from the sample")

    def params(self, x1: jax.ShapeDtypeStruct, x2: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x1, "(..., in1)", 1)
        check_floats(self, x2, "(..., in2)", 1)
        if x1.shape[:-1] != x2.shape[:-1] or x1.dtype != x2.dtype:
            raise ValueError(
                f"Bilinear takes (..., in1) and (..., in2) of one dtype, alike in all but the last axis, got "
                f"{show(x1)} and {show(x2)}. Nothing is broadcast: spread or convert one of them first, with "
                f"jnp.broadcast_to or astype"
            )
        kernel = _kernel((x1.shape[-1], x2.shape[-1]), (self.features,), self.kernel_init)
        return {"kernel": kernel} | ({"bias": Param((self.features,), self.bias_init)} if self.use_bias else {})

    def forward(self, p: dict[str, jax.Array], x1: jax.Array, x2: jax.Array) -> jax.Array:
        y = jnp.einsum("...i,...j,ijf->...f", x1, x2, in_dtype_of(x1, p["kernel"]))
        return y + per_channel(p["bias"], y) if self.use_bias else y


class Bias(Layer):
    """y = x + bias, with one value along each of the named axes.

    Args:
      axis: The axis, or a tuple of axes, along which the bias varies; () for one value in all.
      bias_init: The bias's initialiser.

    Params:
      bias: x's sizes along the axes, in x's order

    Inputs: x (...), floating → the same shape and dtype.

    Raises:
      ValueError: An axis that cannot be; an input without the axes named.
      TypeError: An input of whole numbers.

    Source: what Dense and Conv add is Bias(-1). A learned position is Bias((1, 2)) on (batch, time, features).

    Example:
      >>> fn.Bias((1, 2)).plan(jnp.ones((2, 7, 3))).params["bias"].shape
      (7, 3)
    """

    axis: Axes = -1
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_axes(self, "axis", "Sizes come from the sample: Bias(-1) has a value for each channel, Bias(()) one")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        return {"bias": varying(self, x, self.bias_init)}

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return x + along(p["bias"], x, axes_of(self, x, "axis"))


class Scale(Layer):
    """y = x · scale, with one value along each of the named axes.

    At the end of a residual branch, `Scale(scale_init=initializers.Constant(1e-5))` is LayerScale, and
    `Scale((), scale_init=initializers.Zeros())` is ReZero.

    Args:
      axis: The axis, or a tuple of axes, along which the scale varies; () for one value in all.
      scale_init: The scale's initialiser.

    Params:
      scale: x's sizes along the axes, in x's order

    Inputs: x (...), floating → the same shape and dtype.

    Raises:
      ValueError: An axis that cannot be; an input without the axes named.
      TypeError: An input of whole numbers.

    Source: LayerScale: Touvron et al. 2021, who begin with 0.1 up to 18 blocks, 1e-5 for 24, 1e-6 for more. ReZero:
      Bachlechner et al. 2020.

    Example:
      >>> layer_scale = fn.Scale(scale_init=fn.initializers.Constant(1e-5))
      >>> block = fn.Residual(fn.Sequential(fn.LayerNorm(), fn.Dense(8), layer_scale))
      >>> block.plan(jnp.ones((2, 8))).params["scale_0"]["scale"].shape
      (8,)
    """

    axis: Axes = -1
    scale_init: Initializer = Ones()

    def __post_init__(self) -> None:
        check_axes(self, "axis", "Sizes come from the sample: Scale(-1) has a value for each channel, Scale(()) one")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        return {"scale": varying(self, x, self.scale_init)}

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return x * along(p["scale"], x, axes_of(self, x, "axis"))


def varying(layer: Layer, x: jax.ShapeDtypeStruct, initializer: Initializer) -> Param:
    """An array that varies along those axes of x that the layer's field `axis` names, in x's order."""
    check_floats(layer, x, "(...)", 0)
    return Param(tuple(x.shape[axis] for axis in sorted(axes_of(layer, x, "axis"))), initializer)


def _kernel(inputs: tuple[int, ...], outputs: tuple[int, ...], initializer: Initializer) -> Param:
    if len(inputs) != 1 or len(outputs) != 1:  # else the fans are where an initialiser looks for them
        initializer = with_axes(initializer, tuple(range(len(inputs))), tuple(range(-len(outputs), 0)))
    return Param((*inputs, *outputs), initializer)


def _contracted(x: jax.Array, kernel: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The sum of products over these axes of x and as many first ones of the kernel; its others come last."""
    pairs = ((axes, tuple(range(len(axes)))), ((), ()))
    return jax.lax.dot_general(x, in_dtype_of(x, kernel), pairs, preferred_element_type=x.dtype)
