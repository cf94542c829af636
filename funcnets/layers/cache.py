"""What attention and positions carry from call to call when a sequence comes in parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.initializers import Zeros
from funcnets.layer import Layer
from funcnets.layers.fields import check_whole
from funcnets.layers.promotion import in_dtype_of
from funcnets.leaves import Param
from funcnets.shapes import show


class Counter(Layer):
    """positions[b, i] = how many tokens of row b came before its i-th, in this call and the ones before.

    Masked tokens are not counted, so a row that is padded on the left starts at 0 with its first real token. It is the
    child `counter` of layers that go on counting from call to call.

    States:
      count: (batch,), int32

    Inputs: valid (batch, time), boolean → (batch, time), int32.

    Raises:
      RuntimeError: A second call in one pass, which would count twice.

    Source: as `cache_position` in other libraries, but of each row.

    Example:
      >>> from funcnets.layers.cache import Counter
      >>> counter, valid = Counter(), jnp.array([[False, True, True]])
      >>> positions, state = counter.apply({}, valid, state=counter.init_state(valid))
      >>> positions, state["count"]
      (Array([[0, 0, 1]], dtype=int32), Array([2], dtype=int32))
    """

    state_once = True

    def states(self, valid: jax.ShapeDtypeStruct) -> dict[str, Param]:
        return {"count": Param(valid.shape[:1], Zeros(), "int32")}

    def forward(
        self, p: dict[str, jax.Array], valid: jax.Array, *, state: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        positions = counted(valid) + state["count"][:, None]
        return positions, {"count": state["count"] + valid.sum(-1, dtype=jnp.int32)}


def counted(valid: jax.Array) -> jax.Array:
    """How many of a row's tokens (batch, time) are valid before each."""
    steps = valid.astype(jnp.int32)
    return steps.cumsum(-1, dtype=jnp.int32) - steps


class KeyValueCache(Layer):
    """The keys and values of all tokens so far: those of this call are put after the ones before.

    It is the child `cache` of an `Attention` with `cache=n`. Each row has a length of its own.

    Args:
      length: The number of places.

    States:
      keys: (batch, heads, length, features), the layout that products with it read, in the dtype of the sample's keys.
        Those of another dtype are stored in that of the state, which may be cast to theirs, and come back in their own.
      values: (batch, heads, length, features), likewise
      positions: (batch, length), int32
      valid: (batch, length), boolean: where there is something to attend to
      length: (batch,), int32: the places taken, masked tokens among them

    Inputs: keys and values (batch, time, heads, features), positions and valid (batch, time) → the keys, values,
      positions and valid of all places in a dict, and the places (batch, time) of these tokens. A token that finds the
      cache full is not stored, and its place is `length` or more.

    Raises:
      ValueError: A length that is no positive whole number; more tokens in one call than places.
      RuntimeError: A second call in one pass.

    Source: the caches of other libraries hold one length for all rows.

    Example:
      >>> from funcnets.layers.cache import KeyValueCache
      >>> cache, new = KeyValueCache(4), jnp.ones((1, 3, 2, 8))
      >>> inputs = new, new, jnp.array([[0, 1, 2]]), jnp.ones((1, 3), bool)
      >>> _, state = cache.apply({}, *inputs, state=cache.init_state(*inputs))
      >>> state["valid"], state["length"]
      (Array([[ True,  True,  True, False]], dtype=bool), Array([3], dtype=int32))
    """

    length: int

    state_once = True

    def __post_init__(self) -> None:
        check_whole(self, "length", "It is the number of tokens that are kept: prompt and continuation together")

    def states(self, keys: jax.ShapeDtypeStruct) -> dict[str, Param]:
        batch, _, heads, features = keys.shape
        stored = Param((batch, heads, self.length, features), Zeros(), keys.dtype)
        return {
            "keys": stored,
            "values": stored,
            "positions": Param((batch, self.length), Zeros(), "int32"),
            "valid": Param((batch, self.length), Zeros(), "bool"),
            "length": Param((batch,), Zeros(), "int32"),
        }

    def forward(
        self,
        p: dict[str, jax.Array],
        keys: jax.Array,
        values: jax.Array,
        positions: jax.Array,
        valid: jax.Array,
        *,
        state: dict[str, jax.Array],
    ) -> tuple[tuple[dict[str, jax.Array], jax.Array], dict[str, jax.Array]]:
        batch, time = positions.shape
        if time > self.length:
            raise ValueError(
                f"KeyValueCache({self.length}) takes at most {self.length} tokens, got {time} in {show(keys)}. Build "
                f"the decoding net with as many places as prompt and continuation have together: cache={time} or more"
            )
        places = state["length"][:, None] + jnp.arange(time, dtype=jnp.int32)[None]  # (batch, time)
        rows = jnp.arange(batch, dtype=jnp.int32)[:, None]

        def put(name: str, tokens: jax.Array, *where: Any) -> jax.Array:
            # What finds the cache full is dropped, rather than put over what is there already.
            return state[name].at[where].set(in_dtype_of(state[name], tokens), mode="drop")

        held = {
            "keys": put("keys", keys, rows, slice(None), places),
            "values": put("values", values, rows, slice(None), places),
            "positions": put("positions", positions, rows, places),
            "valid": put("valid", valid, rows, places),
        }
        own = {name: in_dtype_of(keys, held[name]).swapaxes(1, 2) for name in ("keys", "values")}
        return (held | own, places), held | {"length": state["length"] + time}


class ContextCache(Layer):
    """The keys and values of a context: made in the first call, and kept for the others.

    It is the child `cache` of an `Attention` with `cache="context"`. Where a batch has rows of both kinds, those of the
    first call are made anew, and the others keep theirs.

    States:
      keys: (batch, keys, heads, features), in the dtype of the sample's keys
      values: (batch, keys, heads, features), likewise
      valid: (batch, keys), boolean: where there is something to attend to
      filled: (batch,), boolean: whether there was a call

    Inputs: keys, the shape and dtype of the keys, and make, a function without inputs that gives keys, values and valid
      → what is kept of them, in the keys' dtype.

    Raises:
      RuntimeError: A second call in one pass.

    Source: the encoder's part of `past_key_values` in other libraries.

    Example:
      >>> from funcnets.layers.cache import ContextCache
      >>> cache, new = ContextCache(), jnp.ones((1, 3, 2, 8))
      >>> make = lambda: (new, new, jnp.ones((1, 3), bool))
      >>> _, state = cache.apply({}, new, make, state=cache.init_state(new, make))
      >>> state["valid"], state["filled"]
      (Array([[ True,  True,  True]], dtype=bool), Array([ True], dtype=bool))
    """

    state_once = True

    def states(self, keys: jax.ShapeDtypeStruct) -> dict[str, Param]:
        stored = Param(keys.shape, Zeros(), keys.dtype)
        return {
            "keys": stored,
            "values": stored,
            "valid": Param(keys.shape[:2], Zeros(), "bool"),
            "filled": Param(keys.shape[:1], Zeros(), "bool"),
        }

    def forward(
        self,
        p: dict[str, jax.Array],
        keys: jax.ShapeDtypeStruct,
        make: Callable[[], tuple[jax.Array, jax.Array, jax.Array]],
        *,
        state: dict[str, jax.Array],
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], dict[str, jax.Array]]:
        filled = state["filled"]
        old = state["keys"], state["values"], state["valid"]

        def fill() -> tuple[jax.Array, ...]:
            def one(old: jax.Array, new: jax.Array) -> jax.Array:
                return jnp.where(jax.lax.expand_dims(filled, range(1, old.ndim)), old, in_dtype_of(old, new))

            return tuple(map(one, old, make()))

        k, v, valid = jax.lax.cond(filled.all(), lambda: old, fill)
        new = {"keys": k, "values": v, "valid": valid, "filled": jnp.ones_like(filled)}
        return (k.astype(keys.dtype), v.astype(keys.dtype), valid), new
