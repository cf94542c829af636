"""Normalisation: values moved to mean 0 and variance 1, then scaled and shifted as learned.

The layers differ in which values share a mean and a variance: those of one position (LayerNorm, RMSNorm), of a channel
or a group of channels of one example (InstanceNorm, GroupNorm), of neighbouring channels of one position
(LocalResponseNorm), of a channel over the batch (BatchNorm, in a file of its own). Statistics are taken in float32 at
least, and the output has the input's dtype.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.initializers import Ones, Zeros
from funcnets.layer import Layer
from funcnets.layers.fields import check_flag, check_share, check_whole, refusal
from funcnets.layers.inputs import check_floats
from funcnets.layers.promotion import at_least_float32, in_dtype_of, per_channel
from funcnets.leaves import Param
from funcnets.shapes import show

Axes = int | tuple[int, ...]


class LayerNorm(Layer):
    """y = (x − mean) / √(var + epsilon) · scale + bias, with mean and variance over the last axis, or given ones.

    Args:
      epsilon: What is added to the variance.
      use_scale: Whether to learn a scale.
      use_bias: Whether to learn a bias.
      axis: The axis, or axes, that share a mean and a variance, and along which scale and bias differ. With a batch's
        axis among them its examples would see each other.

    Params:
      scale: (features,), or the sizes of the axes in the order in which x has them
      bias: likewise

    Inputs: x (..., features), floating, or any x that has the axes → the same shape and dtype.

    Raises:
      ValueError: An epsilon, switch or axis that cannot be; an input without these axes.
      TypeError: An input of whole numbers.

    Source: Ba et al. 2016. epsilon is that of PyTorch, Equinox and Haiku; Flax has 1e-6, Keras 1e-3. PyTorch's
      normalized_shape of n sizes is the last n axes, (-n, ..., -1).

    Example:
      >>> fn.LayerNorm(use_scale=False, use_bias=False).apply({}, jnp.array([1.0, 3.0])).round(3)
      Array([-1.,  1.], dtype=float32)
      >>> fn.LayerNorm(axis=(-2, -1)).plan(jnp.ones((2, 4, 3))).params["scale"].shape
      (4, 3)
    """

    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    axis: Axes = -1

    def __post_init__(self) -> None:
        check_norm(self, "use_scale", "use_bias")
        _check_axis_field(self)

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        shape = tuple(x.shape[axis] for axis in _axes_in(self, x))
        return scale_and_bias(shape, scale=self.use_scale, bias=self.use_bias)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        # Without the barrier XLA computes the residual stream that ends here once more in each of its uses.
        wide = at_least_float32(jax.lax.optimization_barrier(x))
        axes = _axes_in(self, x)
        y = _standardised(wide, axes, self.epsilon)
        y = y * _along(p["scale"], y, axes) if self.use_scale else y
        y = y + _along(p["bias"], y, axes) if self.use_bias else y
        return y.astype(x.dtype)


class RMSNorm(Layer):
    """y = x / √(mean of x² + epsilon) · scale, over the last axis, or given ones.

    Args:
      epsilon: What is added to the mean square.
      use_scale: Whether to learn a scale.
      axis: The axis, or axes, that share a mean square, and along which the scale differs.

    Params:
      scale: (features,), or the sizes of the axes in the order in which x has them

    Inputs: x (..., features), floating, or any x that has the axes → the same shape and dtype.

    Raises:
      ValueError: An epsilon, switch or axis that cannot be; an input without these axes.
      TypeError: An input of whole numbers.

    Source: Zhang & Sennrich 2019. epsilon is Flax's; PyTorch takes the dtype's machine epsilon.

    Example:
      >>> fn.RMSNorm(use_scale=False).apply({}, jnp.array([-2.0, 2.0])).round(3)
      Array([-1.,  1.], dtype=float32)
    """

    epsilon: float = 1e-6
    use_scale: bool = True
    axis: Axes = -1

    def __post_init__(self) -> None:
        check_norm(self, "use_scale")
        _check_axis_field(self)

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        shape = tuple(x.shape[axis] for axis in _axes_in(self, x))
        return scale_and_bias(shape, scale=self.use_scale, bias=False)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        wide, axes = at_least_float32(x), _axes_in(self, x)
        y = wide * jax.lax.rsqrt(jnp.square(wide).mean(axes, keepdims=True) + self.epsilon)
        y = y * _along(p["scale"], y, axes) if self.use_scale else y
        return y.astype(x.dtype)


class GroupNorm(Layer):
    """y = (x − mean) / √(var + epsilon) · scale + bias, with mean and variance over all positions and the channels of
    a group, for each example.

    Args:
      groups: The parts that the channels are cut into.
      epsilon: What is added to the variance.
      use_scale: Whether to learn a scale.
      use_bias: Whether to learn a bias.

    Params:
      scale: (channels,)
      bias: (channels,)

    Inputs: x (batch, *spatial, channels), floating → the same shape and dtype.

    Raises:
      ValueError: Groups, an epsilon or a switch that cannot be; an input of one axis, or with channels that the groups
        do not divide.
      TypeError: An input of whole numbers.

    Source: Wu & He 2018. epsilon is PyTorch's; Flax has 1e-6, Keras 1e-3. PyTorch takes the groups without a default,
      and the number of channels beside them.

    Example:
      >>> fn.GroupNorm(2).plan(jnp.ones((2, 8, 8, 6))).params["scale"].shape
      (6,)
    """

    groups: int = 32
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True

    def __post_init__(self) -> None:
        check_whole(self, "groups", "Write GroupNorm(1) for one group of all channels")
        check_norm(self, "use_scale", "use_bias")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, "(batch, *spatial, channels)", 2)
        if x.shape[-1] % self.groups:
            raise ValueError(
                f"GroupNorm with groups={self.groups} takes channels that its groups divide, got {x.shape[-1]} "
                f"channels in {show(x)}. Take a divisor of {x.shape[-1]} for groups"
            )
        return scale_and_bias(x.shape[-1:], scale=self.use_scale, bias=self.use_bias)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return _normalised_groups(self, p, x, self.groups)


class InstanceNorm(Layer):
    """y = (x − mean) / √(var + epsilon) · scale + bias, with each channel's mean and variance over all positions, for
    each example: GroupNorm with a group for every channel.

    Args:
      epsilon: What is added to the variance.
      use_scale: Whether to learn a scale.
      use_bias: Whether to learn a bias.

    Params:
      scale: (channels,)
      bias: (channels,)

    Inputs: x (batch, *spatial, channels), floating, with at least one spatial axis → the same shape and dtype. A
      single position gives the bias.

    Raises:
      ValueError: An epsilon or a switch that cannot be; an input without spatial axes.
      TypeError: An input of whole numbers.

    Source: Ulyanov et al. 2016. epsilon is PyTorch's; Flax has 1e-6. PyTorch learns no scale and bias unless
      affine=True, and can keep running statistics, for which there is BatchNorm.

    Example:
      >>> x = jnp.array([[[1.0], [3.0]]])                       # one example, two positions, one channel
      >>> fn.InstanceNorm(use_scale=False, use_bias=False).apply({}, x)[0, :, 0].round(3)
      Array([-1.,  1.], dtype=float32)
    """

    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True

    def __post_init__(self) -> None:
        check_norm(self, "use_scale", "use_bias")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, "(batch, *spatial, channels) with at least one spatial axis", 3)
        return scale_and_bias(x.shape[-1:], scale=self.use_scale, bias=self.use_bias)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return _normalised_groups(self, p, x, x.shape[-1])


class LocalResponseNorm(Layer):
    """y[c] = x[c] / (k + alpha / size · Σ x[n]²)^beta, with n over the size channels around c; there is nothing
    beyond the ends.

    Args:
      size: The number of channels in a window; c − size // 2 is the first.
      alpha: The weight of the mean square.
      beta: The exponent.
      k: What is added.

    Inputs: x (..., channels), floating → the same shape and dtype.

    Raises:
      ValueError: A size, alpha, beta or k that cannot be; an input without axes.
      TypeError: An input of whole numbers.

    Source: Krizhevsky et al. 2012, where alpha weighs the sum. The form and the numbers left out are PyTorch's, but
      for size, which it has no default for; the paper's are size=5, k=2 and, in this form, alpha=5e-4.

    Example:
      >>> fn.LocalResponseNorm(size=3, alpha=3.0, beta=1.0).apply({}, jnp.ones((1, 4)))
      Array([[0.33333334, 0.25      , 0.25      , 0.33333334]], dtype=float32)
    """

    size: int = 5
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def __post_init__(self) -> None:
        check_whole(self, "size", "It is the number of neighbouring channels: LocalResponseNorm(5)")
        for name in ("alpha", "beta", "k"):
            held: Any = getattr(self, name)
            number = isinstance(held, (int, float)) and not isinstance(held, bool)
            if not number or not (0 <= held < np.inf) or (name == "k" and held == 0):
                least = "above 0" if name == "k" else "from 0 up"
                raise refusal(self, name, f"as a number {least}", "Left out they are alpha=1e-4, beta=0.75, k=1.0")

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_floats(self, x, "(..., channels)", 1)
        wide = at_least_float32(x)
        leading = x.ndim - 1
        ends = (*((0, 0),) * leading, (self.size // 2, (self.size - 1) // 2))
        window, ones = (*(1,) * leading, self.size), (1,) * x.ndim
        total = jax.lax.reduce_window(jnp.square(wide), np.zeros((), wide.dtype), jax.lax.add, window, ones, ends)
        return (wide / (self.k + self.alpha / self.size * total) ** self.beta).astype(x.dtype)


# The arithmetic that they share


def _standardised(wide: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Values with mean 0 and variance 1 over these axes."""
    centred = wide - wide.mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + epsilon)


def _normalised_groups(norm: GroupNorm | InstanceNorm, p: dict[str, jax.Array], x: jax.Array, groups: int) -> jax.Array:
    """Each group of channels of each example normalised over all positions, then scaled and shifted."""
    wide = at_least_float32(x)
    centred = wide - _of_groups(wide, groups)
    factor = jax.lax.rsqrt(_of_groups(jnp.square(centred), groups) + norm.epsilon)
    factor = factor * per_channel(p["scale"], factor) if norm.use_scale else factor
    y = centred * factor
    y = y + per_channel(p["bias"], y) if norm.use_bias else y
    return y.astype(x.dtype)


def _of_groups(wide: jax.Array, groups: int) -> jax.Array:
    """Each group's mean over its channels and all positions, at each of its channels: (batch, 1, ..., channels)."""
    # Positions first: a sum of whole rows of channels is faster than one that cuts each row into groups.
    mean = wide.mean(tuple(range(1, wide.ndim - 1)), keepdims=True)
    grouped = mean.reshape(*mean.shape[:-1], groups, mean.shape[-1] // max(groups, 1))
    return jnp.broadcast_to(grouped.mean(-1, keepdims=True), grouped.shape).reshape(mean.shape)


def _along(array: jax.Array, y: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """An array with an entry for each of these axes of y, as arithmetic with y takes it."""
    return jax.lax.expand_dims(in_dtype_of(y, array), tuple(axis for axis in range(y.ndim) if axis not in axes))


# What they check and declare


def check_norm(norm: Layer, *switches: str) -> None:
    """Raises unless epsilon and these switches hold what they can."""
    widths = f"Widths come from the sample: {type(norm).__name__}()"
    check_share(norm, "epsilon", "as a number from 0 up to 1", widths, one=False)
    for switch in switches:
        check_flag(norm, switch, widths)


def scale_and_bias(shape: tuple[int, ...], *, scale: bool, bias: bool) -> dict[str, Param]:
    """What a norm learns, as far as it learns it."""
    declared = {"scale": Param(shape, Ones())} if scale else {}
    return declared | ({"bias": Param(shape, Zeros())} if bias else {})


def _check_axis_field(norm: LayerNorm | RMSNorm) -> None:
    held: Any = norm.axis
    entries: tuple[Any, ...] = held if isinstance(held, tuple) else (held,)
    if not entries or not all(type(entry) is int for entry in entries) or len(set(entries)) < len(entries):
        raise refusal(
            norm,
            "axis",
            "as a whole number, or as a tuple of different ones",
            "Write axis=-1 for the last axis, axis=(-2, -1) for the last two",
        )


def _axes_in(norm: LayerNorm | RMSNorm, x: Any) -> tuple[int, ...]:
    """The axes of x that are normalised over, from the first; raises where x has them not."""
    given = norm.axis if isinstance(norm.axis, tuple) else (norm.axis,)
    check_floats(norm, x, "(..., features)", 1)
    rank = len(x.shape)
    axes = sorted({axis % rank for axis in given})
    if not all(-rank <= axis < rank for axis in given) or len(axes) < len(given):
        raise ValueError(
            f"{type(norm).__name__} with axis={norm.axis!r} takes inputs that have each of these axes, and once, got "
            f"{show(x)}. Its axes are 0 to {rank - 1}, or -{rank} to -1 from the end"
        )
    return tuple(axes)
