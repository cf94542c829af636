"""Attention: every token takes from others what it looks for in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.compose import Composite
from funcnets.initializers import LecunNormal, Zeros
from funcnets.layer import Layer
from funcnets.layers.attention_inputs import check_bias, check_fields, check_inputs, check_options
from funcnets.layers.attention_projection import Projection, project
from funcnets.layers.cache import ContextCache, Counter, KeyValueCache, counted
from funcnets.layers.dropout import Dropout
from funcnets.layers.promotion import in_dtype_of
from funcnets.layers.scores import attend, both, in_reach
from funcnets.leaves import Initializer

_PROJECTIONS = ("query", "keys", "values", "out")


class Attention(Composite):
    """y = out(softmax(scale · q kᵀ + bias) v) in each head, with q = query(x), k = keys(x), v = values(x).

    With a context, keys and values are made of that: cross-attention. The softmax runs, in float32 at least, over the
    keys that a query sees; one that sees none takes zeros.

    A decoding net is the training net with `cache=n`: the same parameters, and a state that holds n tokens, with
    `net.init_state(sample)` for the sample's batch. Calls then continue each other: tokens in parts of any lengths,
    with their masks, give what one call with all of them gives. Tokens that find the cache full come out as NaN. A
    cross-attention with `cache="context"` keeps the keys, values and key_mask of its first call's context: later calls
    are given it again, and do not look at it.

    Args:
      heads: The number of heads, each with a softmax of its own.
      kv_heads: The number of key and value heads, each for a group of heads; None for as many as heads.
      head_features: The width of a head; None for x's width / heads.
      features: The width of the output; None for x's.
      use_bias: Whether the four projections add a bias.
      causal: Whether a token sees none that come after it. It is for tokens of one sequence, as window is: not beside a
        context.
      window: How many tokens before and after its own a token sees, (before, after), or one number for both. Masked
        ones count.
      scale: The factor of the scores; None for 1 / √(width of a head).
      softcap: A bound of the scores: softcap · tanh(scores / softcap), before the bias.
      dropout: The share of the weights dropped in training; or a layer for it.
      rope: Turns queries and keys by their positions: `fn.rotary`, `partial(fn.rotary, base=500_000.0)`, or another
        function of (batch, time, heads, features) and positions (batch, time).
      position_bias: A layer of query positions, key positions and the number of heads, that gives a bias (batch,
        heads, queries, keys): `ALiBi()`, `RelativeBias()`.
      query_norm: A layer for each head's queries, before rope: `RMSNorm()`.
      keys_norm: The same for keys.
      cache: How many tokens to keep for the calls to come; or "context", to keep what is made of a context.
      implementation: None, or that of `jax.nn.dot_product_attention`: "cudnn" is flash attention on NVIDIA's GPUs.
      kernel_init: The initialiser of the projections' kernels.
      bias_init: The initialiser of their biases.
      query: A layer of (x), or (x, width), that gives the width wanted there in place of the projection: `Dense(8)`,
        `Projection(use_bias=False)`; keys, values and out likewise.

    Params:
      query/kernel: (in, heads · head_features), query/bias: (heads · head_features,)
      keys/kernel, values/kernel: (context's in, kv_heads · head_features), and their biases
      out/kernel: (heads · head_features, features), out/bias: (features,)
      and those of position_bias, query_norm and keys_norm under their names.

    States: with a cache, cache/keys and cache/values (batch, kv_heads, cache, head_features), cache/positions,
      cache/valid, cache/length and counter/count. With that of a context, cache/keys and cache/values (batch, keys,
      kv_heads, head_features), cache/valid, cache/filled and counter/count.

    Inputs: x (batch, time, in) → (batch, time, features), in x's dtype. Further:
      context: (batch, keys, in'), in place of x for keys and values.
      values: (batch, keys, in''), in place of that for the values.
      key_mask: (batch, keys), boolean, True for tokens that are none of padding. Others are not seen, and not counted
        in positions.
      mask: Boolean, True for what is seen: (batch, queries, keys) or (batch, heads, queries, keys), which positions do
        not depend on. Of two axes it is a key_mask, (batch, keys), and refused where it might be PyTorch's (queries,
        keys), with as many queries as rows. An axis of 1 stands for all.
      bias: (batch, heads, queries, keys), floating, added to the scores. An axis of 1 stands for all. Or a function
        that gives it for the positions of queries and keys, (batch or 1, time), and the number of heads: `m.bias`, a
        `RelativeBias` of the net around, one for all layers, also with a cache.
      segments: (batch, time), whole numbers: tokens see those of the same number, of several texts in a row.
      positions: (batch, time) or (time,), whole numbers, for rope, position_bias and a function as bias; by default the
        number of tokens before that a key_mask lets through. Those of a context always are.

    Raises:
      ValueError: A field that cannot be; widths or heads that do not divide; inputs that do not fit each other, or that
        nothing would look at.
      TypeError: A mask that is not boolean, or not given by name; inputs of the wrong kind of numbers.

    Source: Vaswani et al. 2017; groups: Ainslie et al. 2023; softcap: Gemma 2. PyTorch packs the kernels of query, keys
      and values, (out, in), into one, masks what is *True*, and gives NaN where a query sees nothing. Flax and Keras
      hold kernels (in, heads, head_features). A sliding window of n tokens that counts its own (Mistral) is n − 1 here.

    Example:
      >>> import dataclasses
      >>> x = jnp.ones((2, 5, 16))
      >>> net = fn.Attention(4, causal=True, rope=fn.rotary)
      >>> params = net.init(jax.random.key(0), x)
      >>> params["query"]["kernel"].shape, net.apply(params, x).shape
      ((16, 16), (2, 5, 16))
      >>> decoder = dataclasses.replace(net, cache=8)
      >>> state = decoder.init_state(x)
      >>> first, state = decoder.apply(params, x[:, :3], state=state)
      >>> others, state = decoder.apply(params, x[:, 3:], state=state)
      >>> others.shape, state["cache"]["length"]
      ((2, 2, 16), Array([5, 5], dtype=int32))
    """

    heads: int
    _: KW_ONLY
    kv_heads: int | None = None
    head_features: int | None = None
    features: int | None = None
    use_bias: bool = True
    causal: bool = False
    window: int | tuple[int, int] | None = None
    scale: float | None = None
    softcap: float | None = None
    dropout: float | Layer | Callable[..., Any] = 0.0
    rope: Layer | Callable[..., Any] | None = None
    position_bias: Layer | Callable[..., Any] | None = None
    query_norm: Layer | Callable[..., Any] | None = None
    keys_norm: Layer | Callable[..., Any] | None = None
    cache: int | str | None = None
    implementation: str | None = None
    kernel_init: Initializer = LecunNormal()
    bias_init: Initializer = Zeros()
    query: Layer | Callable[..., Any] | None = None
    keys: Layer | Callable[..., Any] | None = None
    values: Layer | Callable[..., Any] | None = None
    out: Layer | Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    def _parts(self) -> dict[str, Any]:
        # Children that follow from hyperparameters stand under the names of their fields.
        made: dict[str, Any] = dict.fromkeys(("kernel_init", "bias_init"))
        if isinstance(self.dropout, int | float) and self.dropout:
            made["dropout"] = Dropout(self.dropout)
        if self.cache is not None:
            held = ContextCache() if isinstance(self.cache, str) else KeyValueCache(self.cache)
            made |= {"cache": held, "counter": Counter()}
        for name in _PROJECTIONS:
            if getattr(self, name) is None:
                made[name] = Projection(self.use_bias, self.kernel_init, self.bias_init)
        return {**super()._parts(), **made}

    def forward(
        self,
        m: Any,
        x: jax.Array,
        context: jax.Array | None = None,
        values: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        key_mask: jax.Array | None = None,
        bias: Any = None,
        segments: jax.Array | None = None,
        positions: jax.Array | None = None,
    ) -> jax.Array:
        check_inputs(self, x, context, values)
        source = x if context is None else context
        options = {"mask": mask, "key_mask": key_mask, "bias": bias, "segments": segments, "positions": positions}
        check_options(self, x, source, context is not None, **options)
        if mask is not None and mask.ndim == 2:
            mask, key_mask = None, mask
        at, key_at = self._positions(m, x, source, key_mask, positions, own=context is None)
        q = self._heads(m, "query", x, self.heads, self._width(x))
        q = q if self.query_norm is None else m.query_norm(q)
        q = q if self.rope is None else m.rope(q, at)
        k, v, key_at, seen, stored = self._keys_and_values(m, x, source, values, key_mask, at, key_at)
        bias = self._bias(m, bias, x, at, key_at)
        mask = both(_over_heads(mask), _same(segments), seen)
        cached = stored is not None  # then causal and window are in what is seen
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        y = attend(
            q, k, v, bias, mask, scale=scale, softcap=self.softcap, method=self.implementation,
            drop=m.dropout if self.dropout and m.train else None,
            causal=self.causal and not cached, window=None if cached else self._window(),
        )  # fmt: skip
        if stored is not None:  # a token that was not kept has no answer
            y = jnp.where(stored[..., None, None], y, jnp.full_like(y, jnp.nan))
        y = y.reshape(*y.shape[:2], y.shape[2] * y.shape[3])
        return project(m, "out", y, self.features or x.shape[-1], "Say features=, or give its layer that width")

    def _keys_and_values(
        self,
        m: Any,
        x: jax.Array,
        source: jax.Array,
        values: jax.Array | None,
        key_mask: jax.Array | None,
        at: jax.Array,
        key_at: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array | None]:
        """Keys, values, the keys' positions, which each query sees, and which tokens of x a cache of such stored."""
        heads, width = self.kv_heads or self.heads, self._width(x)

        def make() -> tuple[jax.Array, jax.Array]:
            k = self._heads(m, "keys", source, heads, width)
            v = self._heads(m, "values", source if values is None else values, heads, width)
            k = k if self.keys_norm is None else m.keys_norm(k)
            return k if self.rope is None else m.rope(k, key_at), v

        if self.cache is None:
            return *make(), key_at, _over_heads(key_mask), None
        if isinstance(self.cache, str):
            valid = _whole(key_mask, source)
            keys = jax.ShapeDtypeStruct((*source.shape[:2], heads, width), x.dtype)
            k, v, valid = m.cache(keys, lambda: (*make(), valid))
            return k, v, counted(valid), _over_heads(valid), None
        held, places = m.cache(*make(), at, _whole(key_mask, x))
        key_places = jnp.arange(self.cache, dtype=jnp.int32)[None]
        reached = in_reach(places, key_places, causal=self.causal, window=self._window())
        seen = both(_over_heads(held["valid"]), reached)
        return held["keys"], held["values"], held["positions"], seen, places < self.cache

    def _bias(self, m: Any, given: Any, x: jax.Array, at: jax.Array, key_at: jax.Array) -> jax.Array | None:
        if callable(given):
            given = given(at, key_at, self.heads)
            check_bias(self, x, key_at.shape[1], given)
        if self.position_bias is None:
            return given
        learned = m.position_bias(at, key_at, self.heads)
        return learned if given is None else given + in_dtype_of(given, learned)

    def _width(self, x: jax.Array) -> int:
        """The width of a head."""
        return self.head_features or x.shape[-1] // self.heads

    def _window(self) -> tuple[int, int] | None:
        return (self.window, self.window) if isinstance(self.window, int) else self.window

    def _positions(
        self, m: Any, x: jax.Array, source: jax.Array, valid: jax.Array | None, given: jax.Array | None, *, own: bool
    ) -> tuple[jax.Array, jax.Array]:
        """The positions of queries and keys: (batch or 1, time)."""
        if given is not None:
            given = jnp.atleast_2d(given).astype(jnp.int32)
            given = jnp.broadcast_to(given, (given.shape[0], x.shape[1]))
        at = _count(x)
        if self.cache is not None:
            at = m.counter(_whole(valid if own else None, x))
            given = given if given is None else jnp.broadcast_to(given, at.shape)
        elif own and valid is not None:
            at = counted(_whole(valid, x))
        at = at if given is None else given
        if own:
            return at, at
        return at, _count(source) if valid is None else counted(_whole(valid, source))

    def _heads(self, m: Any, name: str, x: jax.Array, heads: int, width: int) -> jax.Array:
        """Queries, keys or values: (batch, time, heads, width)."""
        y = project(m, name, x, heads * width, "Say head_features=, or give its layer heads times the width of a head")
        return y.reshape(*y.shape[:2], heads, width)


def _count(x: jax.Array) -> jax.Array:
    """0, 1, 2, … along the tokens: (1, time)."""
    return jnp.arange(x.shape[1], dtype=jnp.int32)[None]


def _whole(valid: jax.Array | None, x: jax.Array) -> jax.Array:
    """A mask (batch or 1, time) of tokens in full; None is all of them."""
    return jnp.ones(x.shape[:2], bool) if valid is None else jnp.broadcast_to(valid, x.shape[:2])


def _over_heads(mask: jax.Array | None) -> jax.Array | None:
    """A mask in the form (batch, heads, queries, keys)."""
    if mask is None or mask.ndim == 4:
        return mask
    return mask[:, None, None] if mask.ndim == 2 else mask[:, None]


def _same(segments: jax.Array | None) -> jax.Array | None:
    return None if segments is None else segments[:, None, :, None] == segments[:, None, None, :]
