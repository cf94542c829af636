"""Promotions of rank and dtype, written out: under JAX's strict settings none happens by itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def per_channel(array: jax.Array, x: jax.Array) -> jax.Array:
    """An array (channels,) as arithmetic with x (..., channels) takes it: in x's rank and dtype."""
    return jnp.expand_dims(array.astype(x.dtype), tuple(range(x.ndim - 1)))


def at_least_float32(x: jax.Array) -> jax.Array:
    """x in the precision that sums over many values take."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
