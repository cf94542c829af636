"""What a layer asks of its inputs, said from shapes and dtypes alone, before any arithmetic.

Every message has four parts: which layer, what it takes, what it got, what to do. The pass adds the layer's path.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from funcnets.layer import Layer
from funcnets.shapes import is_array, show


def check_floats(layer: Layer, x: Any, axes: str, least: int, most: float = math.inf) -> None:
    """Raises unless x holds floating numbers along these axes."""
    check_rank(layer, x, axes, least, most)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{type(layer).__name__} takes floating numbers {axes}, got {show(x)}. Convert them first, "
            f"x.astype(jnp.float32); whole numbers that are ids go through fn.Embedding"
        )


def check_whole_numbers(layer: Layer, x: Any, axes: str, least: int) -> None:
    """Raises unless x holds whole numbers along these axes."""
    check_rank(layer, x, axes, least)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(
            f"{type(layer).__name__} takes whole numbers {axes}, got {show(x)}. Convert them first, "
            f"x.astype(jnp.int32); floating features go through fn.Dense"
        )


def check_rank(layer: Layer, x: Any, axes: str, least: int, most: float = math.inf) -> None:
    """Raises unless x is an array whose rank these axes can have."""
    if not is_array(x):
        raise TypeError(f"{type(layer).__name__} takes one array {axes}, got {show(x)}. {_way_to_array(x)}")
    if len(x.shape) < least:
        raise ValueError(
            f"{type(layer).__name__} takes {axes}, got {show(x)}. Add the missing axis first: x[None] for a batch of "
            f"one, x[..., None] for a single channel"
        )
    if len(x.shape) > most:
        raise ValueError(
            f"{type(layer).__name__} takes {axes}, got {show(x)}. Merge the leading axes first with a reshape, or "
            f"map over them with jax.vmap"
        )


def check_mask(layer: Layer, name: str, mask: Any, x: Any, shape: tuple[int, ...]) -> None:
    """Raises unless an input that says which parts of x are meant is boolean and of this shape."""
    if not is_array(mask) or mask.dtype != bool:
        raise TypeError(
            f"{type(layer).__name__} takes {name} as booleans, got {show(mask)}. Compare first: ids != padding"
        )
    if mask.shape != shape:
        raise ValueError(
            f"{type(layer).__name__} takes {name} as bool[{','.join(map(str, shape))}] beside {show(x)}, got "
            f"{show(mask)}. Broadcast it first: jnp.broadcast_to({name}, {shape})"
        )


def _way_to_array(x: Any) -> str:
    """How to come by the array, from what was given in its place."""
    if x is None:
        return "Give the array; None is also what a function without a return gives"
    if isinstance(x, tuple) and len(x) == 2 and is_array(x[0]) and isinstance(x[1], dict):
        return "Given a state, apply returns (output, state): y, state = net.apply(params, x, state=state)"
    return "Take the array out of what holds it first"
