"""Masks over the rows of a batch, and over their steps: (batch, ...)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcnets.shapes import show


def filled(xs: jax.Array, valid: jax.Array) -> jax.Array:
    """xs (time, batch, ...) with each row's last valid step in place of those beyond it: what they hold reaches
    nothing, and a cell that cannot be differentiated at zero meets none. Rows without a valid step are zeros.
    """
    if not len(xs):
        return xs
    last = jnp.maximum(valid.sum(0, dtype=jnp.int32) - 1, 0)  # (batch,)
    axes = range(valid.ndim, xs.ndim)
    step = jnp.take_along_axis(xs, jax.lax.expand_dims(last[None], axes), axis=0)  # (1, batch, ...)
    step = jnp.where(jax.lax.expand_dims(valid[:1], axes), step, jnp.zeros_like(step))
    return jnp.where(jax.lax.expand_dims(valid, axes), xs, step)


def leads(shape: tuple[int, ...], tree: Any) -> bool:
    return all(getattr(a, "shape", ())[: len(shape)] == shape for a in jax.tree.leaves(tree))


def mask_error(name: str, takes: str, mask: Any, xs: Any) -> ValueError:
    return ValueError(
        f"Scan takes {name} as an array of {takes}, got {show(mask)} with inputs {show(xs)}. Write "
        f"{name}=jnp.asarray({name}), with the axes that come first in every input"
    )


def where(mask: jax.Array, new: Any, old: Any) -> Any:
    """new where the mask says so, else old; the mask's axes are the first of every array."""

    def one(new: Any, old: Any) -> Any:
        return jnp.where(jax.lax.expand_dims(mask, range(mask.ndim, jnp.ndim(new))), new, old)

    if not leads(mask.shape, (new, old)):
        raise ValueError(
            f"Scan with lengths or reset takes a cell whose carry and outputs have the axes {mask.shape} of the batch "
            f"first, got {show(new)}. Give each example a row of its own, or leave lengths and reset out"
        )
    return jax.tree.map(one, new, old)
