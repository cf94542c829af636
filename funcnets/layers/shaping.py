"""Layers that change nothing but the shape, or nothing at all."""

from __future__ import annotations

import math
from typing import Any

import jax

from funcnets.layer import Layer
from funcnets.layers.inputs import check_rank


class Flatten(Layer):
    """y[b] = all values of x[b] in a row; the first axis stays.

    Inputs: x (batch, ...) → (batch, product of the other axes), in x's dtype.

    Raises:
      ValueError: An input without axes.

    Source: as in Keras and stax; PyTorch's does the same to inputs of two axes and more.

    Example:
      >>> fn.Flatten().apply({}, jnp.ones((2, 4, 4, 3))).shape
      (2, 48)
    """

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_rank(self, x, "(batch, ...)", 1)
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


class Identity(Layer):
    """y = x.

    Inputs: Anything, in any number → the same: one input itself, several as a tuple.

    Raises: Nothing.

    Source: `fn.Sequential()` is the same function; this one says it by name.

    Example:
      >>> fn.Identity().apply({}, jnp.ones(2))
      Array([1., 1.], dtype=float32)
    """

    def forward(self, p: dict[str, jax.Array], *inputs: Any) -> Any:
        return inputs[0] if len(inputs) == 1 else inputs
