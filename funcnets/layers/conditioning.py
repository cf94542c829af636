"""Conditioning: a layer's features scaled and shifted as a second input says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.compose import Composite
from funcnets.initializers import Zeros
from funcnets.layer import Layer
from funcnets.layers.inputs import check_floats
from funcnets.layers.promotion import in_dtype_of, per_channel
from funcnets.layers.shaping import Identity
from funcnets.leaves import Param
from funcnets.shapes import show


class Modulation(Layer):
    """y = x · (1 + γ) + β with (γ, β) = condition @ kernel + bias: what FiLM does after its norm.

    Params:
      kernel: (c, 2 · channels), γ before β; zeros at first
      bias: (2 · channels,), likewise

    Inputs: x (..., channels), condition (batch, c) or (..., c) → x's shape and dtype.

    Raises:
      TypeError, ValueError: As FiLM.

    Source: see FiLM.

    Example:
      >>> fn.FiLM().modulation.plan(jnp.ones((2, 8)), jnp.ones((2, 3))).params["kernel"].shape
      (3, 16)
    """

    def params(self, x: jax.ShapeDtypeStruct, condition: jax.ShapeDtypeStruct) -> dict[str, Param]:
        width = 2 * x.shape[-1]
        return {"kernel": Param((condition.shape[-1], width), Zeros()), "bias": Param((width,), Zeros())}

    def forward(self, p: dict[str, jax.Array], x: jax.Array, condition: jax.Array) -> jax.Array:
        both = condition @ in_dtype_of(condition, p["kernel"])
        both = in_dtype_of(x, both + per_channel(p["bias"], both))  # (..., 2 · channels)
        between = tuple(range(1, x.ndim - both.ndim + 1))  # the axes that the condition has not
        gamma, beta = jnp.split(jax.lax.expand_dims(both, between), 2, -1)
        return x * (1 + gamma) + beta


class FiLM(Composite):
    """y = norm(x) · (1 + γ(condition)) + β(condition), with γ and β by one projection that begins as zero.

    A net therefore begins as if it had no condition. With `norm=fn.LayerNorm(use_scale=False, use_bias=False)` it is
    the adaptive layer norm of diffusion transformers.

    Args:
      norm: A layer or function of x alone that comes first; the scale and bias that it would learn are γ's and β's
        task.
      modulation: What is called with norm(x) and the condition after it; another layer may stand in.

    Params:
      norm: the norm's.
      modulation: kernel (c, 2 · channels), γ before β; bias (2 · channels,).

    Inputs: x (batch, ..., channels), condition (batch, c) for all positions of an example, or (batch, ..., c) for each
      of them; both floating → x's shape and dtype.

    Raises:
      ValueError: An input without axes; a condition with other leading axes.
      TypeError: An input of whole numbers.

    Source: Perez et al. 2018; Peebles & Xie 2023 (adaLN, which puts a silu before the projection: give the condition
      so). Perez et al. have γ itself, where 1 + γ here begins as 1.

    Example:
      >>> net = fn.FiLM(fn.LayerNorm(use_scale=False, use_bias=False))
      >>> net.plan(jnp.ones((2, 5, 8)), jnp.ones((2, 3))).params["modulation"]["kernel"].shape
      (3, 16)
    """

    norm: Layer | Callable[..., Any] = Identity()
    modulation: Layer | Callable[..., Any] = Modulation()

    def forward(self, m: Any, x: jax.Array, condition: jax.Array) -> jax.Array:
        check_floats(self, x, "as x (batch, ..., channels)", 1)
        check_floats(self, condition, "as the condition (batch, ..., c)", 1)
        one_each = x.ndim >= 2 and condition.ndim == 2 and condition.shape[:1] == x.shape[:1]
        if not one_each and condition.shape[:-1] != x.shape[:-1]:
            raise ValueError(
                f"FiLM takes a condition {(*x.shape[:1], 'c')} or {(*x.shape[:-1], 'c')} for x {show(x)}, got "
                f"{show(condition)}. Give an example one condition, or one a position: add or widen its axes first, "
                f"condition[:, None], or jnp.broadcast_to"
            )
        return m.modulation(m.norm(x), condition)
