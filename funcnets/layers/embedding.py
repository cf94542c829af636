"""Layers between ids and vectors."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcnets.initializers import Normal
from funcnets.layer import Layer
from funcnets.layers.fields import check_whole
from funcnets.layers.inputs import check_floats, check_whole_numbers
from funcnets.leaves import Initializer, Param
from funcnets.shapes import show

_TIE = (
    'Tie it to an Embedding by name, fn.Sequential(("embed", fn.Embedding(v, d)), ..., ("embed", fn.Unembed())), or '
    "hand it over in a forward function, m.unembed(x, params=m.embed.params)"
)


class Embedding(Layer):
    """y = table[id]: a learned vector for each id from 0 to vocab − 1.

    An id outside that range, a negative one too, gives a row of NaN rather than another id's vector.

    Args:
      vocab: The number of ids.
      features: The width of a vector.
      table_init: The table's initialiser: normal with deviation 0.02, so that logits of a tied `Unembed` start out
        small.

    Params:
      table: (vocab, features)

    Inputs: ids (...), whole numbers → (..., features), in the table's dtype.

    Raises:
      ValueError: Sizes that are no positive whole numbers.
      TypeError: Ids that are no whole numbers.

    Source: the deviation is GPT-2's; PyTorch has 1, Flax 1 / √features. A bad id raises in PyTorch; in plain JAX a
      negative one counts from the end.

    Example:
      >>> net = fn.Embedding(vocab=100, features=8)
      >>> ids = jnp.array([[3, 14, 15]])
      >>> net.apply(net.init(jax.random.key(0), ids), ids).shape
      (1, 3, 8)
    """

    vocab: int
    features: int
    table_init: Initializer = Normal(0.02)

    def __post_init__(self) -> None:
        check_whole(self, "vocab", "It is the number of ids: Embedding(vocab=50_000, features=256)")
        check_whole(self, "features", "It is the width of a vector: Embedding(vocab=50_000, features=256)")

    def params(self, ids: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_whole_numbers(self, ids, "(...)", 0)
        return {"table": Param((self.vocab, self.features), self.table_init)}

    def forward(self, p: dict[str, jax.Array], ids: jax.Array) -> jax.Array:
        if ids.dtype.itemsize > 4:  # JAX looks up with 32 bits, in which a wild id could seem to be in range
            ids = jnp.where((ids >= 0) & (ids < self.vocab), ids, self.vocab)
        return p["table"].at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


class Unembed(Layer):
    """y = x @ tableᵀ: a score for each id, with the table of the `Embedding` of the same name.

    It declares nothing and reads what stands under its name: one table, whose gradient is the sum of both uses.

    Inputs: x (..., features), floating → (..., vocab), in x's dtype.

    Raises:
      ValueError: No table under its name, or one of another width than x.
      TypeError: An input of whole numbers.

    Source: Press & Wolf 2017, Using the output embedding to improve language models; `Embed.attend` in Flax.

    Example:
      >>> net = fn.Sequential(("embed", fn.Embedding(100, 8)), jnp.tanh, ("embed", fn.Unembed()))
      >>> ids = jnp.array([3, 14, 15])
      >>> params = net.init(jax.random.key(0), ids)
      >>> list(params), net.apply(params, ids).shape
      (['embed'], (3, 100))
    """

    def forward(self, p: Any, x: jax.Array) -> jax.Array:
        check_floats(self, x, "(..., features)", 1)
        if not isinstance(p, dict) or "table" not in p:
            raise ValueError(f"Unembed takes a table that stands under its name, got {show(p)}. {_TIE}")
        table = p["table"].astype(x.dtype)
        if x.shape[-1] != table.shape[1]:
            raise ValueError(
                f"Unembed with the table {show(table)} takes (..., {table.shape[1]}), got {show(x)}. Bring x to that "
                f"width first: fn.Dense({table.shape[1]})"
            )
        return x @ table.T
