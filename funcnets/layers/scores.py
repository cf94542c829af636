"""The arithmetic of attention: which places a query sees, and the weighted sum of their values.

Arrays are (batch, time, heads, features); masks and biases (batch, heads, queries, keys), where an axis of 1 stands
for all.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    *,
    scale: float,
    softcap: float | None = None,
    drop: Callable[[jax.Array], jax.Array] | None = None,
    method: Any = None,
    causal: bool = False,
    window: tuple[int, int] | None = None,
) -> jax.Array:
    """softmax(scale · q kᵀ + bias) v, over the keys that the mask lets through; a query that sees none gives 0.

    The softmax is taken in float32 at least. Query heads share key heads in groups, in order.

    Args:
      scale: The factor of the scores.
      softcap: Bounds the scores before the bias: softcap · tanh(scores / softcap).
      drop: Called with the weights.
      method: None, or the implementation of `jax.nn.dot_product_attention`, which then computes.
      causal: Whether a query sees no key of a later place.
      window: How many places before and after its own a query sees.
    """
    wide = jnp.float32 if q.dtype.itemsize < 4 else q.dtype
    bias = None if bias is None else bias.astype(wide)
    # JAX's own rounds float64, refuses half precision under strict promotion of dtypes, and is slower on CPU.
    by_hand = softcap is not None or drop is not None or method is None
    some_blind = mask is not None or q.shape[1] != k.shape[1]  # else each query sees its own place at least
    if by_hand or some_blind:
        places = (jnp.arange(a.shape[1], dtype=jnp.int32)[None] for a in (q, k))
        mask = both(mask, in_reach(*places, causal=causal, window=window))
        causal, window = False, None
    if by_hand:
        y = _by_hand(q, k, v, bias, mask, scale, softcap, drop)
    else:
        y = jax.nn.dot_product_attention(
            q, k, v, bias, mask, scale=scale, is_causal=causal, local_window_size=window, implementation=method
        )
    if mask is None or not some_blind:
        return y
    return jnp.where(mask.any(-1).swapaxes(1, 2)[..., None], y, jnp.zeros_like(y))  # (batch, queries, heads, 1)


def _by_hand(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    scale: float,
    softcap: float | None,
    drop: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    wide = jnp.float32 if q.dtype.itemsize < 4 else q.dtype
    # Heads before time, and the queries of a group in a row: products then read their operands as they lie.
    q, k, v = (a.swapaxes(1, 2) for a in (q, k, v))
    batch, heads, time, features = q.shape
    rows = (batch, k.shape[1], heads // k.shape[1] * time)
    scores = jnp.einsum("bkrd,bksd->bkrs", q.reshape(*rows, features), k, preferred_element_type=wide) * scale
    scores = scores.reshape(batch, heads, time, k.shape[2])
    scores = scores if softcap is None else softcap * jnp.tanh(scores / softcap)
    scores = scores if bias is None else scores + bias
    scores = scores if mask is None else jnp.where(mask, scores, jnp.finfo(wide).min / 2)
    weights = jax.nn.softmax(scores, axis=-1)
    weights = (weights if drop is None else drop(weights)).astype(v.dtype)
    y = jnp.einsum("bkrs,bksd->bkrd", weights.reshape(*rows, k.shape[2]), v)
    return y.reshape(q.shape).swapaxes(1, 2)


def in_reach(queries: jax.Array, keys: jax.Array, *, causal: bool, window: tuple[int, int] | None) -> jax.Array | None:
    """Which keys a query sees by their places (batch, time): none after its own if causal, and those in the window."""
    ahead = keys[:, None, None, :] - queries[:, None, :, None]  # (batch, 1, queries, keys)
    seen = [ahead <= 0] if causal else []
    seen += [] if window is None else [ahead >= -window[0], ahead <= window[1]]
    return both(*seen)


def both(*masks: jax.Array | None) -> jax.Array | None:
    """What all masks let through; None for everything."""
    given = [mask for mask in masks if mask is not None]
    return functools.reduce(jnp.logical_and, given) if given else None
