"""Biases of attention's scores by how far apart two tokens are.

Each is called with the positions of queries and keys, (batch, time) or (time,), and the number of heads, and gives
(batch, heads, queries, keys): a layer for `Attention(position_bias=...)`. A bias that several attentions share is a
child of the net around, whose forward gives it to each: `m.blocks(x, bias=m.bias)`. They call it with positions of
their own, which are those of a cache too.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.initializers import Normal
from funcnets.layer import Layer
from funcnets.layers.fields import check_flag, check_whole, is_whole, refusal
from funcnets.leaves import Initializer, Param


class ALiBi(Layer):
    """bias = −slope · |query position − key position|, with a slope for each head, 2^(−8 h / heads) for h = 1 … heads.

    Where heads are no power of 2, the slopes are those of the next lower one, and then every other one of the next
    higher.

    Inputs: the positions of queries (batch, queries) and keys (batch, keys), or without the batch, whole numbers, and
      the number of heads → (batch, heads, queries, keys), float32.

    Raises: Nothing.

    Source: Press et al. 2022, Train short, test long; there for causal attention alone.

    Example:
      >>> at = jnp.arange(3)[None]
      >>> fn.ALiBi().apply({}, at, at, 1)[0, 0, 2]
      Array([-0.0078125 , -0.00390625, -0.        ], dtype=float32)
    """

    def forward(self, p: Any, queries: jax.Array, keys: jax.Array, heads: int) -> jax.Array:
        slopes = jnp.asarray(_slopes(heads), jnp.float32)[None, :, None, None]
        distance = jnp.abs(_ahead(queries, keys)).astype(jnp.float32)
        return -slopes * distance[:, None]


def _ahead(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """How far each key stands after each query: (batch, queries, keys)."""
    queries, keys = (jnp.atleast_2d(at).astype(jnp.int32) for at in (queries, keys))
    return keys[:, None] - queries[:, :, None]


def _slopes(heads: int) -> list[float]:
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * h / power) for h in range(1, power + 1)]
    return slopes if power == heads else slopes + _slopes(2 * power)[::2][: heads - power]


class RelativeBias(Layer):
    """bias = table[bucket of (key position − query position)] of each head.

    Of its buckets, half hold one distance each, from 0, and half spans that grow as powers, up to max_distance; all
    beyond that is in the last.

    Args:
      buckets: The number of buckets.
      max_distance: Where the last bucket begins.
      bidirectional: Whether half of the buckets is for keys after the query (an encoder); otherwise those all share
        the first (a causal decoder).
      table_init: The table's initialiser.

    Params:
      table: (buckets, heads)

    Inputs: the positions of queries (batch, queries) and keys (batch, keys), or without the batch, whole numbers, and
      the number of heads → (batch, heads, queries, keys), in the table's dtype.

    Raises:
      ValueError: Buckets or a distance that leave none for the spans.

    Source: Raffel et al. 2020 (T5), whose first attention has it for all; there the numbers are 32 and 128.

    Example:
      >>> @fn.compose(
      ...     bias=fn.RelativeBias(8, max_distance=16, bidirectional=False),
      ...     blocks=fn.Repeat(fn.TransformerBlock(fn.Attention(2, causal=True)), 3),
      ... )
      ... def t5(m, x):
      ...     return m.blocks(x, bias=m.bias)   # one for all layers
      >>> t5.plan(jnp.ones((1, 5, 4))).params["bias"]["table"].shape
      (8, 2)
    """

    buckets: int = 32
    max_distance: int = 128
    bidirectional: bool = True
    table_init: Initializer = Normal(0.02)

    def __post_init__(self) -> None:
        least = 4 if self.bidirectional else 2
        if not is_whole(self.buckets, least=least) or self.buckets % least:
            note = "The first half is for near distances, the other for spans" + (", in both directions" * (least == 4))
            raise refusal(self, "buckets", f"as a whole number that {least} divides", note)
        check_whole(self, "max_distance", "It is where the last bucket begins")
        if self.max_distance <= self.buckets // least:
            note = "So many near distances have a bucket of their own"
            raise refusal(self, "max_distance", f"above {self.buckets // least}", note)
        check_flag(self, "bidirectional", "It is False for a causal decoder")

    def params(self, queries: jax.ShapeDtypeStruct, keys: jax.ShapeDtypeStruct, heads: int) -> dict[str, Param]:
        return {"table": Param((self.buckets, heads), self.table_init)}

    def forward(self, p: dict[str, jax.Array], queries: jax.Array, keys: jax.Array, heads: int) -> jax.Array:
        ahead = _ahead(queries, keys)
        distance = jnp.abs(ahead) if self.bidirectional else jnp.maximum(-ahead, 0)
        bucket = jnp.asarray(self._bucket_of())[jnp.minimum(distance, self.max_distance)]
        if self.bidirectional:
            bucket = jnp.where(ahead > 0, bucket + self.buckets // 2, bucket)
        return jnp.moveaxis(p["table"][bucket], -1, 1)

    def _bucket_of(self) -> np.ndarray[Any, Any]:
        """The bucket of each distance from 0 to max_distance."""
        count = self.buckets // 2 if self.bidirectional else self.buckets
        near = count // 2
        distance = np.arange(self.max_distance + 1)
        spans = np.log(np.maximum(distance, near) / near) / math.log(self.max_distance / near) * (count - near)
        far = np.minimum(near + np.floor(spans + 1e-6), count - 1)  # a power that rounding left just below itself
        return np.where(distance < near, distance, far).astype(np.int32)
