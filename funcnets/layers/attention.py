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
from funcnets.layers.attention_inputs import check_fields, check_inputs, check_options
from funcnets.layers.cache import Counter, KeyValueCache, counted
from funcnets.layers.dropout import Dropout
from funcnets.layers.inputs import check_floats
from funcnets.layers.promotion import in_dtype_of, per_channel
from funcnets.layers.scores import attend, both, in_reach
from funcnets.leaves import Initializer, Param

_PROJECTIONS = ("query", "keys", "values", "out")


class Projection(Layer):
    """y = x @ kernel + bias, over the last axis, to a width that the caller says.

    Args:
      use_bias: Whether to add a bias.
      kernel_init: The kernel's initialiser.
      bias_init: The bias's initialiser.

    Params:
      kernel: (in, features)
      bias: (features,)

    Inputs: x (..., in), floating, and features, a whole number → (..., features), in x's dtype.

    Raises:
      TypeError: An input of whole numbers.

    Source: `fn.Dense`, whose width is a field; here it follows from the input of the layer around it.

    Example:
      >>> from funcnets.layers.attention import Projection
      >>> Projection().plan(jnp.ones((2, 3)), 8).params["kernel"].shape
      (3, 8)
    """

    use_bias: bool = True
    kernel_init: Initializer = LecunNormal()
    bias_init: Initializer = Zeros()

    def params(self, x: jax.ShapeDtypeStruct, features: int) -> dict[str, Param]:
        check_floats(self, x, "(..., in)", 1)
        kernel = Param((x.shape[-1], features), self.kernel_init)
        return {"kernel": kernel} | ({"bias": Param((features,), self.bias_init)} if self.use_bias else {})

    def forward(self, p: dict[str, jax.Array], x: jax.Array, features: int) -> jax.Array:
        y = x @ in_dtype_of(x, p["kernel"])
        return y + per_channel(p["bias"], y) if self.use_bias else y


class Attention(Composite):
    """y = out(softmax(scale · q kᵀ + bias) v) in each head, with q = query(x), k = keys(x), v = values(x).

    With a context, keys and values are made of that: cross-attention. The softmax runs, in float32 at least, over the
    keys that a query sees; one that sees none takes zeros.

    A decoding net is the training net with `cache=n`: the same parameters, and a state that holds n tokens, with
    `net.init_state(sample)` for the sample's batch. Calls then continue each other: tokens in parts of any lengths,
    with their masks, give what one call with all of them gives. Tokens that find the cache full come out as NaN.

    Args:
      heads: The number of heads, each with a softmax of its own.
      kv_heads: The number of key and value heads, each for a group of heads; None for as many as heads.
      head_features: The width of a head; None for x's width / heads.
      features: The width of the output; None for x's.
      use_bias: Whether the four projections add a bias.
      causal: Whether a token sees none that come after it.
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
      cache: How many tokens to keep for the calls to come.
      implementation: None, or that of `jax.nn.dot_product_attention`: "cudnn" is flash attention on NVIDIA's GPUs.
      kernel_init: The initialiser of the projections' kernels.
      bias_init: The initialiser of their biases.
      query: A layer of (x, width) in place of the projection; keys, values and out likewise.

    Params:
      query/kernel: (in, heads · head_features), query/bias: (heads · head_features,)
      keys/kernel, values/kernel: (context's in, kv_heads · head_features), and their biases
      out/kernel: (heads · head_features, features), out/bias: (features,)
      and those of position_bias, query_norm and keys_norm under their names.

    States: with a cache, cache/keys and cache/values (batch, kv_heads, cache, head_features), cache/positions,
      cache/valid, cache/length and counter/count.

    Inputs: x (batch, time, in) → (batch, time, features), in x's dtype. Further:
      context: (batch, keys, in'), in place of x for keys and values.
      values: (batch, keys, in''), in place of that for the values.
      mask: Boolean, True for what is seen. By its rank: (batch, keys), the tokens that are none of padding; (batch,
        queries, keys); (batch, heads, queries, keys). An axis of 1 stands for all.
      bias: (batch, heads, queries, keys), floating, added to the scores. An axis of 1 stands for all.
      segments: (batch, time), whole numbers: tokens see those of the same number, of several texts in a row.
      positions: (batch, time) or (time,), whole numbers, for rope and position_bias; by default the number of tokens
        before that a mask (batch, keys) lets through. Those of a context always are.

    Raises:
      ValueError: A field that cannot be; widths or heads that do not divide; inputs that do not fit each other.
      TypeError: A mask that is not boolean; inputs of the wrong kind of numbers.

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
    cache: int | None = None
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
            made |= {"cache": KeyValueCache(self.cache), "counter": Counter()}
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
        bias: jax.Array | None = None,
        segments: jax.Array | None = None,
        positions: jax.Array | None = None,
    ) -> jax.Array:
        source = x if context is None else context
        content = source if values is None else values
        check_inputs(self, x, source, content, context is not None)
        check_options(self, x, source, context is not None, mask, bias, segments, positions)
        valid = mask if mask is not None and mask.ndim == 2 else None  # (batch, keys)
        at, key_at = self._positions(m, x, source, valid, positions, own=context is None)
        q, k, v = self._heads_of(m, x, source, content, at, key_at)
        reach: dict[str, Any] = {"causal": self.causal, "window": self._window()}
        mask, places = both(_over_heads(mask), _same(segments)), None
        if self.cache is not None:
            held, places = m.cache(k, v, at, _whole(valid, x))
            k, v, key_at = held["keys"], held["values"], held["positions"]
            key_places = jnp.arange(self.cache, dtype=jnp.int32)[None]
            mask = both(held["valid"][:, None, None], in_reach(places, key_places, **reach))
            reach = {}
        if self.position_bias is not None:
            learned = m.position_bias(at, key_at, self.heads)
            bias = learned if bias is None else bias + in_dtype_of(bias, learned)
        drop = m.dropout if self.dropout and m.train else None
        scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
        y = attend(
            q, k, v, bias, mask, scale=scale, softcap=self.softcap, drop=drop, method=self.implementation, **reach
        )
        if places is not None:  # a token that was not kept has no answer
            y = jnp.where((places < self.cache)[..., None, None], y, jnp.full_like(y, jnp.nan))
        return m.out(y.reshape(*y.shape[:2], y.shape[2] * y.shape[3]), self.features or x.shape[-1])

    def _window(self) -> tuple[int, int] | None:
        return (self.window, self.window) if isinstance(self.window, int) else self.window

    def _positions(
        self, m: Any, x: jax.Array, source: jax.Array, valid: jax.Array | None, given: jax.Array | None, *, own: bool
    ) -> tuple[jax.Array, jax.Array]:
        """The positions of queries and keys: (batch or 1, time)."""
        if given is not None:
            given = jnp.atleast_2d(given).astype(jnp.int32)
            given = jnp.broadcast_to(given, (given.shape[0], x.shape[1]))
        if self.cache is not None:
            counts = m.counter(_whole(valid, x))
            at = counts if given is None else jnp.broadcast_to(given, counts.shape)
            return at, at
        key_at = _count(source) if valid is None else counted(_whole(valid, source))
        if own:
            return (key_at, key_at) if given is None else (given, given)
        return (_count(x) if given is None else given), key_at

    def _heads_of(
        self, m: Any, x: jax.Array, source: jax.Array, content: jax.Array, at: jax.Array, key_at: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values: (batch, time, heads, head_features)."""
        width = self.head_features or x.shape[-1] // self.heads
        kv_heads = self.kv_heads or self.heads
        q = _split(m.query(x, self.heads * width), self.heads)
        k = _split(m.keys(source, kv_heads * width), kv_heads)
        v = _split(m.values(content, kv_heads * width), kv_heads)
        q = q if self.query_norm is None else m.query_norm(q)
        k = k if self.keys_norm is None else m.keys_norm(k)
        return (q, k, v) if self.rope is None else (m.rope(q, at), m.rope(k, key_at), v)


def _split(x: jax.Array, heads: int) -> jax.Array:
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads)


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
