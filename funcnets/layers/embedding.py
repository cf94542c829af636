"""Layers between ids and vectors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp

from funcnets.initializers import Normal
from funcnets.layer import Layer
from funcnets.layers.fields import check_whole, is_whole, refusal
from funcnets.layers.inputs import check_floats, check_whole_numbers
from funcnets.layers.promotion import at_least_float32
from funcnets.leaves import Initializer, Param
from funcnets.record import Kind
from funcnets.shapes import is_array, join, show

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
      padding_id: An id that stands for no token: it reads as zeros, and its row takes no gradient here.
      out_of_range: What an id outside the range gives: "nan", or "clamp" for the vector of the nearest one in it.

    Params:
      table: (vocab, features)

    Inputs: ids (...), whole numbers → (..., features), in the table's dtype.

    Raises:
      ValueError: Sizes that are no positive whole numbers; a padding_id or out_of_range that cannot be.
      TypeError: Ids that are no whole numbers.

    Source: the deviation is GPT-2's; PyTorch has 1, Flax 1 / √features. A bad id raises in PyTorch; in plain JAX a
      negative one counts from the end. PyTorch's padding_idx starts out as zeros, and reads as what its row holds.

    Example:
      >>> net = fn.Embedding(vocab=100, features=8)
      >>> ids = jnp.array([[3, 14, 15]])
      >>> net.apply(net.init(jax.random.key(0), ids), ids).shape
      (1, 3, 8)
    """

    vocab: int
    features: int
    table_init: Initializer = Normal(0.02)
    padding_id: int | None = None
    out_of_range: str = "nan"

    def __post_init__(self) -> None:
        check_whole(self, "vocab", "It is the number of ids: Embedding(vocab=50_000, features=256)")
        check_whole(self, "features", "It is the width of a vector: Embedding(vocab=50_000, features=256)")
        held = self.padding_id
        if held is not None and not (is_whole(held, least=0) and held < self.vocab):
            takes = f"as None or an id from 0 to {self.vocab - 1}"
            raise refusal(self, "padding_id", takes, "It is one of the ids: count it in vocab")
        if self.out_of_range not in ("nan", "clamp"):
            raise refusal(self, "out_of_range", "as 'nan' or 'clamp'", "Ids are checked nowhere else under jit")

    def params(self, ids: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_whole_numbers(self, ids, "(...)", 0)
        return {"table": Param((self.vocab, self.features), self.table_init)}

    def forward(self, p: dict[str, jax.Array], ids: jax.Array) -> jax.Array:
        y = rows_of(p["table"], ids, clamp=self.out_of_range == "clamp")
        if self.padding_id is None or self.padding_id > jnp.iinfo(ids.dtype).max:
            return y
        return jnp.where((ids == self.padding_id)[..., None], jnp.zeros_like(y), y)


class EmbeddingBag(Layer):
    """y = the sum, mean or largest of the vectors of a bag of ids, in each feature.

    Args:
      vocab: The number of ids.
      features: The width of a vector.
      mode: "mean", "sum" or "max".
      table_init: The table's initialiser.

    Params:
      table: (vocab, features)

    Inputs: ids (..., n), whole numbers → (..., features), in the table's dtype; zeros for a bag without ids, NaN for
      one with an id out of range. Further:
      mask: (..., n), boolean: the ids that are in the bag.
      weights: (..., n), floating, with the sum alone: the factor of each vector.

    Raises:
      ValueError: A field that cannot be; a mask or weights of another shape than the ids'; weights without a sum.
      TypeError: Inputs of the wrong kind.

    Source: PyTorch's, without offsets: bags of several sizes are padded, and masked. The table's deviation there is 1.

    Example:
      >>> net = fn.EmbeddingBag(vocab=100, features=8)
      >>> ids = jnp.array([[3, 14, 15], [9, 2, 0]])
      >>> mask = jnp.array([[True, True, True], [True, True, False]])
      >>> net.apply(net.init(jax.random.key(0), ids), ids, mask=mask).shape
      (2, 8)
    """

    vocab: int
    features: int
    mode: str = "mean"
    table_init: Initializer = Normal(0.02)

    def __post_init__(self) -> None:
        check_whole(self, "vocab", "It is the number of ids: EmbeddingBag(vocab=50_000, features=256)")
        check_whole(self, "features", "It is the width of a vector: EmbeddingBag(vocab=50_000, features=256)")
        if self.mode not in ("mean", "sum", "max"):
            raise refusal(self, "mode", "as 'mean', 'sum' or 'max'", "Take the sum for weights")

    def params(self, ids: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_whole_numbers(self, ids, "(..., n)", 1)
        return {"table": Param((self.vocab, self.features), self.table_init)}

    def forward(self, p: dict[str, jax.Array], ids: jax.Array, *, mask: Any = None, weights: Any = None) -> jax.Array:
        self._check_beside(ids, mask, weights)
        rows = rows_of(p["table"], ids)  # (..., n, features)
        held = jnp.ones(ids.shape, bool) if mask is None else mask
        rows = jnp.where(held[..., None], rows, jnp.full_like(rows, -jnp.inf if self.mode == "max" else 0.0))
        if self.mode == "max":
            y = rows.max(-2, initial=-jnp.inf)
            return jnp.where(held.any(-1)[..., None], y, jnp.zeros_like(y))
        wide = at_least_float32(rows)
        y = (wide if weights is None else wide * weights[..., None].astype(wide.dtype)).sum(-2)
        if self.mode == "mean":
            y = y / jnp.maximum(held.sum(-1), 1)[..., None].astype(y.dtype)
        return y.astype(rows.dtype)

    def _check_beside(self, ids: jax.Array, mask: Any, weights: Any) -> None:
        for name, given, kind, takes in (
            ("mask", mask, jnp.bool_, "booleans, True for the ids in the bag"),
            ("weights", weights, jnp.floating, "floating numbers"),
        ):
            if given is None:
                continue
            if not is_array(given) or not jnp.issubdtype(given.dtype, kind):
                raise TypeError(f"EmbeddingBag takes {name} (..., n) of {takes}, got {show(given)}. Convert it first")
            if given.shape != ids.shape:
                raise ValueError(
                    f"EmbeddingBag takes {name} of the shape of the ids, {ids.shape}, got {show(given)}. Give one for "
                    f"each id"
                )
        if weights is not None and self.mode != "sum":
            raise ValueError(
                f"EmbeddingBag takes weights with mode='sum', got mode={self.mode!r}. Take the sum, and divide by the "
                f"sum of the weights for a weighted mean"
            )


def rows_of(table: jax.Array, ids: jax.Array, *, clamp: bool = False) -> jax.Array:
    """The rows of these ids; of those out of range NaN, or the nearest row."""
    last = table.shape[0] - 1
    unsigned = jnp.issubdtype(ids.dtype, jnp.unsignedinteger)
    if ids.dtype.itemsize > (3 if unsigned else 4):  # JAX looks up with int32, in which a wild id could seem another
        ids = jnp.clip(ids, 0 if unsigned else -1, last + 1)
    how: dict[str, Any] = {"mode": "clip"} if clamp else {"mode": "fill", "fill_value": jnp.nan}
    return table.at[ids].get(wrap_negative_indices=False, **how)


class Unembed(Layer):
    """y = x @ tableᵀ: a score for each id, with the table of the `Embedding` of the same name.

    It declares nothing and reads what stands under its name: one table, whose gradient is the sum of both uses. In a
    part of a net, `net[2:]`, it reads the table that it is given there.

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

    def _strangers(self, kind: Kind, tree: Any, path: str) -> Iterator[str]:
        if kind == "params" and isinstance(tree, dict):  # the table is known here, though another layer declares it
            yield from (join(path, name) for name in cast(dict[str, Any], tree) if name != "table")
        else:
            yield from super()._strangers(kind, tree, path)

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
