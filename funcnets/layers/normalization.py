"""Normalisation: values moved to mean 0 and variance 1, then scaled and shifted as learned.

The layers differ in which values share a mean and a variance: those of a channel over the batch (BatchNorm), of one
position (LayerNorm, RMSNorm), of a group of channels of one example (GroupNorm). Statistics are taken in float32 at
least, and the output has the input's dtype.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from funcnets.initializers import Ones, Zeros
from funcnets.layer import Layer
from funcnets.layers.fields import check_flag, check_share, check_whole
from funcnets.layers.inputs import check_floats
from funcnets.layers.promotion import at_least_float32, per_channel
from funcnets.leaves import Param
from funcnets.shapes import show


class BatchNorm(Layer):
    """y = (x − mean) / √(var + epsilon) · scale + bias, with each channel's mean and variance over all other axes.

    In training they are the batch's, and the state moves towards them: new = momentum · old + (1 − momentum) · batch.
    In evaluation they are the state's, and the state stays as it is.

    Args:
      momentum: The weight of the old statistics.
      epsilon: What is added to the variance.
      use_scale: Whether to learn a scale.
      use_bias: Whether to learn a bias.
      unbiased: Whether the running variance follows Σ(x − mean)² / (count − 1); False for / count. The batch itself
        is normalised with the latter either way.

    Params:
      scale: (channels,)
      bias: (channels,)

    States:
      mean: (channels,), float32
      var: (channels,), float32

    Inputs: x (batch, ..., channels), floating → the same shape and dtype. In training a batch with a single value a
      channel gives the bias, and an empty one is normalised with the state, and leaves it as it is.

    Raises:
      ValueError: A momentum, epsilon or switch that cannot be; an input of one axis.
      TypeError: An input of whole numbers.

    Source: Ioffe & Szegedy 2015. momentum is 1 minus PyTorch's, where 0.1 weighs the new; Flax and Keras weigh the old
      with 0.99. The running variance is unbiased as in PyTorch; in Flax, Haiku and Keras it is not. Keras has
      epsilon 1e-3. PyTorch refuses a single value a channel.

    Example:
      >>> x = jnp.arange(6.0).reshape(3, 2)
      >>> net = fn.BatchNorm()
      >>> params, state = net.init(jax.random.key(0), x), net.init_state(x)
      >>> y, state = net.apply(params, x, state=state, train=True)
      >>> state["mean"]
      Array([0.2, 0.3], dtype=float32)
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    unbiased: bool = True

    def __post_init__(self) -> None:
        check_share(
            self,
            "momentum",
            "as the weight of the old statistics, from 0 to 1",
            "It is 1 minus PyTorch's; the number of channels comes from the sample: BatchNorm()",
            one=True,
        )
        _check_fields(self, "use_scale", "use_bias", "unbiased")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, "(batch, ..., channels)", 2)
        return _scale_and_bias(x, scale=self.use_scale, bias=self.use_bias)

    def states(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        return {"mean": Param(x.shape[-1:], Zeros()), "var": Param(x.shape[-1:], Ones())}

    def forward(
        self, p: dict[str, jax.Array], x: jax.Array, *, state: dict[str, jax.Array], train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        wide = at_least_float32(x)
        count = math.prod(x.shape[:-1])
        if train and count:
            axes = tuple(range(x.ndim - 1))
            mean = wide.mean(axes)  # (channels,)
            var = jnp.square(wide - per_channel(mean, wide)).mean(axes)
            state = self._moved(state, mean, var, count)
        else:
            mean, var = state["mean"].astype(wide.dtype), state["var"].astype(wide.dtype)
        factor = jax.lax.rsqrt(var + self.epsilon)
        factor = factor * p["scale"].astype(wide.dtype) if self.use_scale else factor
        y = (wide - per_channel(mean, wide)) * per_channel(factor, wide)
        y = y + per_channel(p["bias"], y) if self.use_bias else y
        return y.astype(x.dtype), state

    def _moved(self, old: dict[str, jax.Array], mean: jax.Array, var: jax.Array, count: int) -> dict[str, jax.Array]:
        """The running statistics after a batch with so many values a channel."""
        new = {"mean": mean, "var": var * (count / max(count - 1, 1)) if self.unbiased else var}
        keep = self.momentum
        return {name: keep * held + (1 - keep) * new[name].astype(held.dtype) for name, held in old.items()}


class LayerNorm(Layer):
    """y = (x − mean) / √(var + epsilon) · scale + bias, with mean and variance over the last axis.

    Args:
      epsilon: What is added to the variance.
      use_scale: Whether to learn a scale.
      use_bias: Whether to learn a bias.

    Params:
      scale: (features,)
      bias: (features,)

    Inputs: x (..., features), floating → the same shape and dtype.

    Raises:
      ValueError: An epsilon or switch that cannot be; an input without axes.
      TypeError: An input of whole numbers.

    Source: Ba et al. 2016. epsilon is that of PyTorch, Equinox and Haiku; Flax has 1e-6, Keras 1e-3.

    Example:
      >>> fn.LayerNorm(use_scale=False, use_bias=False).apply({}, jnp.array([1.0, 3.0])).round(3)
      Array([-1.,  1.], dtype=float32)
    """

    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True

    def __post_init__(self) -> None:
        _check_fields(self, "use_scale", "use_bias")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, "(..., features)", 1)
        return _scale_and_bias(x, scale=self.use_scale, bias=self.use_bias)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        # Without the barrier XLA computes the residual stream that ends here once more in each of its uses.
        wide = at_least_float32(jax.lax.optimization_barrier(x))
        centred = wide - wide.mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        y = y * per_channel(p["scale"], y) if self.use_scale else y
        y = y + per_channel(p["bias"], y) if self.use_bias else y
        return y.astype(x.dtype)


class RMSNorm(Layer):
    """y = x / √(mean of x² + epsilon) · scale, over the last axis.

    Args:
      epsilon: What is added to the mean square.
      use_scale: Whether to learn a scale.

    Params:
      scale: (features,)

    Inputs: x (..., features), floating → the same shape and dtype.

    Raises:
      ValueError: An epsilon or switch that cannot be; an input without axes.
      TypeError: An input of whole numbers.

    Source: Zhang & Sennrich 2019. epsilon is Flax's; PyTorch takes the dtype's machine epsilon.

    Example:
      >>> fn.RMSNorm(use_scale=False).apply({}, jnp.array([-2.0, 2.0])).round(3)
      Array([-1.,  1.], dtype=float32)
    """

    epsilon: float = 1e-6
    use_scale: bool = True

    def __post_init__(self) -> None:
        _check_fields(self, "use_scale")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, "(..., features)", 1)
        return _scale_and_bias(x, scale=self.use_scale, bias=False)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        wide = at_least_float32(x)
        y = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.epsilon)
        y = y * per_channel(p["scale"], y) if self.use_scale else y
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
        _check_fields(self, "use_scale", "use_bias")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, "(batch, *spatial, channels)", 2)
        if x.shape[-1] % self.groups:
            raise ValueError(
                f"GroupNorm with groups={self.groups} takes channels that its groups divide, got {x.shape[-1]} "
                f"channels in {show(x)}. Take a divisor of {x.shape[-1]} for groups"
            )
        return _scale_and_bias(x, scale=self.use_scale, bias=self.use_bias)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        wide = at_least_float32(x)
        grouped = wide.reshape(*x.shape[:-1], self.groups, x.shape[-1] // self.groups)
        axes = (*range(1, x.ndim - 1), x.ndim)  # all positions, and the channels within a group
        centred = grouped - grouped.mean(axes, keepdims=True)
        y = centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + self.epsilon)
        y = y.reshape(x.shape)
        y = y * per_channel(p["scale"], y) if self.use_scale else y
        y = y + per_channel(p["bias"], y) if self.use_bias else y
        return y.astype(x.dtype)


def _check_fields(norm: Layer, *switches: str) -> None:
    widths = f"Widths come from the sample: {type(norm).__name__}()"
    check_share(norm, "epsilon", "as a number from 0 up to 1", widths, one=False)
    for switch in switches:
        check_flag(norm, switch, widths)


def _scale_and_bias(x: jax.ShapeDtypeStruct, *, scale: bool, bias: bool) -> dict[str, Param]:
    declared = {"scale": Param(x.shape[-1:], Ones())} if scale else {}
    return declared | ({"bias": Param(x.shape[-1:], Zeros())} if bias else {})
