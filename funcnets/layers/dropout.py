"""Layers that disturb their input at random, in training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcnets.layer import Layer
from funcnets.layers.fields import check_share
from funcnets.layers.inputs import check_floats


class Dropout(Layer):
    """In training y = x / (1 − rate) where a coin says so, with chance 1 − rate, and 0 elsewhere; in evaluation y = x.

    Args:
      rate: The share of values dropped, in [0, 1).

    Inputs: x (...), floating → the same shape and dtype. Training takes a key; the same key drops the same values.

    Raises:
      ValueError: A rate outside [0, 1); (in training) no key.
      TypeError: An input of whole numbers.

    Source: Srivastava et al. 2014. rate is what is dropped, as in PyTorch, Flax and Keras; stax and the first
      TensorFlow took the share that is kept.

    Example:
      >>> fn.Dropout(0.5).apply({}, jnp.ones(3))
      Array([1., 1., 1.], dtype=float32)
      >>> fn.Dropout(0.5).apply({}, jnp.ones(100), key=jax.random.key(0), train=True).max()
      Array(2., dtype=float32)
    """

    rate: float

    def __post_init__(self) -> None:
        check_share(
            self,
            "rate",
            "as the share of values dropped, in [0, 1)",
            "A share to keep goes in as rate=1 - keep; rate=0.0 keeps all",
            one=False,
        )

    def forward(self, p: dict[str, jax.Array], x: jax.Array, *, key: Any, train: bool) -> jax.Array:
        check_floats(self, x, "(...)", 0)
        if not train or self.rate == 0:
            return x
        kept = jax.random.bernoulli(key, 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), jnp.zeros_like(x))
