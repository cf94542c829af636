"""Batch normalisation: the one layer whose statistics are shared by the examples of a batch, and kept for evaluation.

The batch may be padded, in which case a mask says what counts, and it may lie on many devices, in which case a named
axis says which of them take their statistics together.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.initializers import Ones, Zeros
from funcnets.layer import Layer
from funcnets.layers.fields import check_share, refusal
from funcnets.layers.inputs import check_floats
from funcnets.layers.normalization import check_norm, scale_and_bias
from funcnets.layers.promotion import at_least_float32, per_channel
from funcnets.leaves import Param
from funcnets.shapes import is_array, show

Arrays = dict[str, jax.Array]


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
      axis_name: In training, the named axis (or axes) of jax.vmap, jax.shard_map or jax.pmap over which statistics
        are taken together, so that n devices with b examples each compute what one does with n · b. None: each its own.
      frozen: Whether training is as evaluation: for fine-tuning with the statistics of a trained net,
        `fn.rewrite.replace(net, {fn.BatchNorm: {"frozen": True}})`. Scale and bias still learn; `Freeze` stops them.

    Params:
      scale: (channels,)
      bias: (channels,)

    States:
      mean: (channels,), float32
      var: (channels,), float32

    Inputs: x (batch, ..., channels), floating → the same shape and dtype. In training a batch with a single value a
      channel gives the bias, and an empty one is normalised with the state, and leaves it as it is.
      mask (batch, ...), bool, optional: True for positions that enter the batch's statistics; all are normalised with
      them. Where no position counts, the batch is as an empty one.

    Raises:
      ValueError: A momentum, epsilon, switch or axis_name that cannot be; an input of one axis; a mask of another
        shape; (in training) an axis_name that nothing around the call has.
      TypeError: An input of whole numbers, or a mask of numbers.

    Source: Ioffe & Szegedy 2015. momentum is 1 minus PyTorch's, where 0.1 weighs the new; Flax and Keras weigh the old
      with 0.99. The running variance is unbiased as in PyTorch; in Flax, Haiku and Keras it is not. Keras has
      epsilon 1e-3. PyTorch refuses a single value a channel; its SyncBatchNorm is an axis_name here.

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
    axis_name: str | tuple[str, ...] | None = None
    frozen: bool = False

    def __post_init__(self) -> None:
        check_share(
            self,
            "momentum",
            "as the weight of the old statistics, from 0 to 1",
            "It is 1 minus PyTorch's; the number of channels comes from the sample: BatchNorm()",
            one=True,
        )
        check_norm(self, "use_scale", "use_bias", "unbiased", "frozen")
        held: Any = self.axis_name
        names: tuple[Any, ...] = () if held is None else held if isinstance(held, tuple) else (held,)
        if held == () or not all(isinstance(name, str) and name for name in names):
            raise refusal(
                self,
                "axis_name",
                "as the name of an axis, a tuple of names, or None",
                'It is what jax.vmap(f, axis_name="batch") or a mesh axis of jax.shard_map is called; axes of x need '
                "no name",
            )

    def params(self, x: jax.ShapeDtypeStruct, mask: Any = None) -> dict[str, Param]:
        check_floats(self, x, "(batch, ..., channels)", 2)
        _check_mask(self, x, mask)
        return scale_and_bias(x.shape[-1:], scale=self.use_scale, bias=self.use_bias)

    def states(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        return {"mean": Param(x.shape[-1:], Zeros()), "var": Param(x.shape[-1:], Ones())}

    def forward(
        self, p: Arrays, x: jax.Array, mask: jax.Array | None = None, *, state: Arrays, train: bool
    ) -> tuple[jax.Array, Arrays]:
        wide = at_least_float32(x)
        if train and not self.frozen and math.prod(x.shape[:-1]):
            mean, var, state = self._in_training(wide, mask, state)
        else:
            mean, var = _held(state, wide)
        factor = jax.lax.rsqrt(var + self.epsilon)
        factor = factor * p["scale"].astype(wide.dtype) if self.use_scale else factor
        y = (wide - per_channel(mean, wide)) * per_channel(factor, wide)
        y = y + per_channel(p["bias"], y) if self.use_bias else y
        return y.astype(x.dtype), state

    def _in_training(self, wide: jax.Array, mask: jax.Array | None, old: Arrays) -> tuple[jax.Array, jax.Array, Arrays]:
        """The batch's mean and variance, and the state after it; with no position that counts, the state's and the
        state.
        """
        count, mean, var = self._statistics(wide, mask)
        new = self._moved(old, mean, var, count)
        if isinstance(count, int):
            return mean, var, new
        some = count > 0
        held_mean, held_var = _held(old, wide)
        new = {name: jnp.where(some, now, old[name]) for name, now in new.items()}
        return jnp.where(some, mean, held_mean), jnp.where(some, var, held_var), new

    def _statistics(self, wide: jax.Array, mask: jax.Array | None) -> tuple[int | jax.Array, jax.Array, jax.Array]:
        """The number of values a channel, here and on all devices that count together, their mean and variance."""

        def counted(values: jax.Array) -> jax.Array:
            return values if mask is None else jnp.where(mask[..., None], values, 0)

        axes = tuple(range(wide.ndim - 1))
        count = self._together(math.prod(wide.shape[:-1]) if mask is None else mask.sum())
        count = count if isinstance(count, int) else count.astype(wide.dtype)
        divisor = _positive(count)
        mean = self._together(counted(wide).sum(axes)) / divisor  # (channels,)
        centred = counted(wide - per_channel(mean, wide))
        return count, mean, self._together(jnp.square(centred).sum(axes)) / divisor

    def _together(self, total: Any) -> Any:
        """The sum over the named axes; that of a Python number is one too."""
        if self.axis_name is None:
            return total
        try:
            return jax.lax.psum(total, self.axis_name)
        except NameError as error:
            raise ValueError(
                f"BatchNorm with axis_name={self.axis_name!r} takes, in training, a call inside jax.vmap, "
                f"jax.shard_map or jax.pmap over axes of these names, got one outside ({error}). Name the axis where "
                f"the batch is mapped, or build it without: BatchNorm(axis_name=None)"
            ) from error

    def _moved(self, old: Arrays, mean: jax.Array, var: jax.Array, count: int | jax.Array) -> Arrays:
        """The running statistics after a batch with so many values a channel."""
        new = {"mean": mean, "var": var * (count / _positive(count - 1)) if self.unbiased else var}
        keep = self.momentum
        return {name: keep * held + (1 - keep) * new[name].astype(held.dtype) for name, held in old.items()}


def _positive(count: Any) -> Any:
    return max(count, 1) if isinstance(count, int) else jnp.maximum(count, 1)


def _held(state: Arrays, wide: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The running mean and variance in the precision of the arithmetic."""
    return state["mean"].astype(wide.dtype), state["var"].astype(wide.dtype)


def _check_mask(norm: Layer, x: jax.ShapeDtypeStruct, mask: Any) -> None:
    if mask is None:
        return
    shape = x.shape[:-1]
    if not is_array(mask) or mask.dtype != jnp.bool_:
        raise TypeError(
            f"{type(norm).__name__} takes mask as an array of booleans, True where a position counts, got "
            f"{show(mask)}. Compare first: lengths[:, None] > jnp.arange(n)[None]"
        )
    if mask.shape != shape:
        raise ValueError(
            f"{type(norm).__name__} takes a mask with the axes of x but the last, {shape} for {show(x)}, got "
            f"{show(mask)}. Widen it first: jnp.broadcast_to(mask, x.shape[:-1])"
        )
