"""Promotions of rank and dtype, written out: under JAX's strict settings none happens by itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def in_dtype_of(x: jax.Array, array: jax.Array) -> jax.Array:
    """An array in the dtype of x, as it is where it has it: a cast that casts nothing takes its time in a trace."""
    return array if array.dtype == x.dtype else array.astype(x.dtype)


def per_channel(array: jax.Array, x: jax.Array) -> jax.Array:
    """An array with x's last axes as arithmetic with x takes it: in x's rank and dtype."""
    return jax.lax.expand_dims(in_dtype_of(x, array), tuple(range(x.ndim - array.ndim)))


def along(array: jax.Array, x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """An array with these axes of x, in x's order, as arithmetic with x takes it: in x's rank and dtype."""
    others = tuple(axis for axis in range(x.ndim) if axis not in axes)
    return jax.lax.expand_dims(in_dtype_of(x, array), others)


def at_least_float32(x: jax.Array) -> jax.Array:
    """x in the precision that sums over many values take."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
