"""Layers that disturb their input at random, in training; in evaluation each is y = x."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.layer import Layer
from funcnets.layers.axes import Axes, axes_of, check_axes
from funcnets.layers.fields import check_share, refusal
from funcnets.layers.inputs import check_floats

_SELU_LOWEST = -1.0507009873554805 * 1.6732632423543772  # −scale · alpha


class Dropout(Layer):
    """In training y = x / (1 − rate) where a coin says so, with chance 1 − rate, and 0 elsewhere; in evaluation y = x.

    Args:
      rate: The share of values dropped, in [0, 1).
      broadcast_axes: The axis, or a tuple of axes, along which all values share one coin; () for a coin each.

    Inputs: x (...), floating → the same shape and dtype. Training takes a key; the same key drops the same values.

    Raises:
      ValueError: A rate outside [0, 1); axes that cannot be, or that an input has not; (in training) no key.
      TypeError: An input of whole numbers.

    Source: Srivastava et al. 2014. rate is what is dropped, as in PyTorch, Flax and Keras; stax and the first
      TensorFlow took the share that is kept. PyTorch's Dropout2d, which drops whole channels of an image (Tompson et
      al. 2015), is Dropout(rate, (1, 2)).

    Example:
      >>> fn.Dropout(0.5).apply({}, jnp.ones(3))
      Array([1., 1., 1.], dtype=float32)
      >>> fn.Dropout(0.5).apply({}, jnp.ones(100), key=jax.random.key(0), train=True).max()
      Array(2., dtype=float32)
    """

    rate: float
    broadcast_axes: Axes = ()

    def __post_init__(self) -> None:
        _check_rate(self)
        check_axes(self, "broadcast_axes", "Dropout(0.1, (1, 2)) drops whole channels of images; () is a coin a value")

    def forward(self, p: dict[str, jax.Array], x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        check_floats(self, x, "(...)", 0)
        shared = axes_of(self, x, "broadcast_axes")
        if not train or self.rate == 0:
            return x
        shape = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape))
        return _dropped(x, self.rate, key, shape)


class DropPath(Layer):
    """In training y = x / (1 − rate) for an example where a coin says so, with chance 1 − rate, and 0 for the others;
    in evaluation y = x.

    At the end of a residual branch it is stochastic depth: the branch is left out for some examples.

    Args:
      rate: The share of examples dropped, in [0, 1).

    Inputs: x (batch, ...), floating → the same shape and dtype. Training takes a key; the same key drops the same
      examples.

    Raises:
      ValueError: A rate outside [0, 1); an input without axes; (in training) no key.
      TypeError: An input of whole numbers.

    Source: Huang et al. 2016, who flip one coin for a whole batch, and scale in evaluation instead. One an example is
      that of EfficientNet and timm, and of torchvision's stochastic_depth with mode "row".

    Example:
      >>> branch = fn.Sequential(fn.LayerNorm(), fn.Dense(8), fn.DropPath(0.1))
      >>> fn.Residual(branch).plan(jnp.ones((2, 8))).output.shape
      (2, 8)
    """

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self, "examples")

    def forward(self, p: dict[str, jax.Array], x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        check_floats(self, x, "(batch, ...)", 1)
        if not train or self.rate == 0:
            return x
        return _dropped(x, self.rate, key, (x.shape[0], *[1] * (x.ndim - 1)))


class AlphaDropout(Layer):
    """In training y = a · x + b where a coin says so, with chance 1 − rate, and a · low + b elsewhere, where low is the
    SELU's lowest value, and a and b keep mean 0 and variance 1; in evaluation y = x.

    low = −1.7581, a = ((1 − rate) · (1 + rate · low²))^(−1/2), b = −a · rate · low.

    Args:
      rate: The share of values dropped, in [0, 1).

    Inputs: x (...), floating, of mean 0 and variance 1, as `jax.nn.selu` gives it → the same shape and dtype. Training
      takes a key; the same key drops the same values.

    Raises:
      ValueError: A rate outside [0, 1); (in training) no key.
      TypeError: An input of whole numbers.

    Source: Klambauer et al. 2017; the numbers are PyTorch's and Keras's too.

    Example:
      >>> y = fn.AlphaDropout(0.5).apply({}, jnp.zeros(99), key=jax.random.key(0), train=True)
      >>> print(f"{y.min():.4f} {y.max():.4f}")
      -0.7792 0.7792
    """

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self)

    def forward(self, p: dict[str, jax.Array], x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        check_floats(self, x, "(...)", 0)
        if not train or self.rate == 0:
            return x
        a = ((1 - self.rate) * (1 + self.rate * _SELU_LOWEST**2)) ** -0.5
        b = -a * self.rate * _SELU_LOWEST
        kept = jax.random.bernoulli(key, 1 - self.rate, x.shape)
        return a * jnp.where(kept, x, jnp.full_like(x, _SELU_LOWEST)) + b


class GaussianNoise(Layer):
    """In training y = x + noise, with noise ~ N(0, stddev²) for each value; in evaluation y = x.

    Args:
      stddev: The standard deviation.

    Inputs: x (...), floating → the same shape and dtype. Training takes a key; the same key adds the same noise.

    Raises:
      ValueError: A deviation below 0, or that is no finite number; (in training) no key.
      TypeError: An input of whole numbers.

    Source: as in Keras.

    Example:
      >>> fn.GaussianNoise(0.1).apply({}, jnp.ones(3))
      Array([1., 1., 1.], dtype=float32)
    """

    stddev: float

    def __post_init__(self) -> None:
        number = isinstance(self.stddev, (int, float)) and not isinstance(self.stddev, bool)
        if not number or not 0 <= self.stddev < math.inf:
            raise refusal(self, "stddev", "as a standard deviation, 0 or more", "A variance goes in as its root")

    def forward(self, p: dict[str, jax.Array], x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        check_floats(self, x, "(...)", 0)
        if not train or self.stddev == 0:
            return x
        return x + self.stddev * jax.random.normal(key, x.shape, x.dtype)


class GaussianDropout(Layer):
    """In training y = x · (1 + noise), with noise ~ N(0, rate / (1 − rate)) for each value; in evaluation y = x.

    The factors have the mean and the variance of those of `Dropout(rate)`.

    Args:
      rate: The rate of the Dropout it stands for, in [0, 1).

    Inputs: x (...), floating → the same shape and dtype. Training takes a key; the same key draws the same factors.

    Raises:
      ValueError: A rate outside [0, 1); (in training) no key.
      TypeError: An input of whole numbers.

    Source: Srivastava et al. 2014; as in Keras.

    Example:
      >>> fn.GaussianDropout(0.1).apply({}, jnp.ones(3))
      Array([1., 1., 1.], dtype=float32)
    """

    rate: float

    def __post_init__(self) -> None:
        _check_rate(self)

    def forward(self, p: dict[str, jax.Array], x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        check_floats(self, x, "(...)", 0)
        if not train or self.rate == 0:
            return x
        stddev = math.sqrt(self.rate / (1 - self.rate))
        return x * (1 + stddev * jax.random.normal(key, x.shape, x.dtype))


def _check_rate(layer: Layer, what: str = "values") -> None:
    check_share(
        layer,
        "rate",
        f"as the share of {what} dropped, in [0, 1)",
        "A share to keep goes in as rate=1 - keep; rate=0.0 keeps all",
        one=False,
    )


def _dropped(x: jax.Array, rate: float, key: Any, coins: tuple[int, ...]) -> jax.Array:
    """x / (1 − rate) where a coin says so, of which there are so many along each axis; 0 elsewhere."""
    kept = jax.random.bernoulli(key, 1 - rate, coins)
    return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))
