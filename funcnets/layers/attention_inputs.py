"""What attention asks of its fields and inputs, said before any arithmetic."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp

from funcnets.layers.fields import check_flag, check_share, check_whole, is_whole, refusal
from funcnets.layers.inputs import check_floats
from funcnets.leaves import is_child
from funcnets.shapes import show

_SIZES = "The widths come from the sample: Attention(8), or Attention(8, kv_heads=2, head_features=64)"

_CHILDREN = {
    "rope": "fn.rotary, or functools.partial(fn.rotary, base=500_000.0)",
    "position_bias": "fn.ALiBi()",
    "query_norm": "fn.RMSNorm()",
    "keys_norm": "fn.RMSNorm()",
    "query": "fn.Projection(use_bias=False)",
    "keys": "fn.Projection(use_bias=False)",
    "values": "fn.Projection(use_bias=False)",
    "out": "fn.Projection(use_bias=False)",
}


def check_fields(layer: Any) -> None:
    """Raises for hyperparameters of an Attention that cannot be."""
    check_whole(layer, "heads", _SIZES)
    for name in ("kv_heads", "head_features", "features"):
        if getattr(layer, name) is not None:
            check_whole(layer, name, _SIZES)
    if layer.cache is not None and layer.cache != "context" and not is_whole(layer.cache, least=1):
        note = "The number counts the tokens to keep, those of a prompt and of what follows"
        raise refusal(layer, "cache", "as a whole number, at least 1, or 'context' in a cross-attention", note)
    if layer.kv_heads is not None and layer.heads % layer.kv_heads:
        raise refusal(layer, "kv_heads", f"as a divisor of heads={layer.heads}", "Each serves a group of query heads")
    for name, example in _CHILDREN.items():
        if getattr(layer, name) is not None and not callable(getattr(layer, name)):
            raise refusal(layer, name, "as a layer or a function", f"Such as {name}={example}")
    check_flag(layer, "use_bias", "It is whether the projections add a bias")
    check_flag(layer, "causal", "It is whether tokens see none that come after them")
    pair = layer.window if isinstance(layer.window, tuple) else (layer.window, layer.window)
    if layer.window is not None and not (len(pair) == 2 and all(is_whole(n, least=0) for n in pair)):
        takes = "as whole numbers (before, after), or one for both"
        raise refusal(layer, "window", takes, "The token itself is not counted: window=(3, 0) sees four tokens")
    for name in ("scale", "softcap"):
        held = getattr(layer, name)
        number = isinstance(held, (int, float)) and not isinstance(held, bool) and math.isfinite(held)
        if held is not None and not (number and held > 0):
            raise refusal(layer, name, "as a number above 0", "Leave it out for none of your own")
    if not is_child(layer.dropout):
        check_share(layer, "dropout", "as the share of weights dropped, in [0, 1)", "0.0 keeps all", one=False)
    if layer.implementation not in (None, "xla", "cudnn"):
        raise refusal(layer, "implementation", "as None, 'xla' or 'cudnn'", "It is jax.nn.dot_product_attention's")
    if layer.implementation is not None and (layer.softcap is not None or layer.dropout):
        raise refusal(
            layer,
            "implementation",
            "as None beside softcap or dropout",
            "jax.nn.dot_product_attention has neither: leave out one or the other",
        )
    if is_whole(layer.cache, least=1) and not layer.causal:
        note = "Tokens that are kept cannot see those to come: say causal=True; a cross-attention takes cache='context'"
        raise refusal(layer, "cache", "with causal=True", note)
    if layer.cache == "context" and (layer.causal or layer.window is not None):
        note = "A context has no order with x: leave causal and window out"
        raise refusal(layer, "cache", "in a cross-attention, without causal or window", note)


def check_inputs(layer: Any, x: Any, context: Any, values: Any) -> None:
    """Raises for arrays that attention cannot be between."""
    check_floats(layer, x, "(batch, time, features)", 3, 3)
    refuse_mask(layer, context, values)
    crossed = context is not None
    source = context if crossed else x
    content = source if values is None else values
    for name, given in (("a context", source), ("values", content)):
        check_floats(layer, given, "(batch, keys, features)", 3, 3)
        if given.shape[0] != x.shape[0] or given.shape[1] != source.shape[1] or given.dtype != x.dtype:
            raise ValueError(
                f"Attention takes {name} ({x.shape[0]}, {source.shape[1]}, features) in {x.dtype.name} beside x "
                f"{show(x)}{f' and keys from {show(source)}' if crossed else ''}, got {show(given)}. Bring it to that "
                f"batch, length and dtype first"
            )
    if layer.head_features is None and (x.shape[-1] % layer.heads or not x.shape[-1]):
        raise ValueError(
            f"Attention with heads={layer.heads} takes features that its heads divide, got {x.shape[-1]} features in "
            f"{show(x)}. Say the width of a head, head_features=..., or take a divisor of {x.shape[-1]} for heads"
        )
    if is_whole(layer.cache, least=1) and (crossed or values is not None):
        raise ValueError(
            f"Attention with cache={layer.cache} takes x alone, got a context or values too, {show(content)}. That "
            f"cache is for self-attention: build the cross-attention without, or with cache='context'"
        )
    if layer.cache == "context" and not crossed:
        raise ValueError(
            f"Attention with cache='context' takes (x, context) in each call, got x {show(x)} alone. Self-attention "
            f"keeps a number of tokens: cache=128, causal=True"
        )
    if crossed and (layer.causal or layer.window is not None):
        own = "causal=True" if layer.causal else f"window={layer.window}"
        raise ValueError(
            f"Attention with {own} takes tokens of one sequence, (x) or (x, values=...), got a context {show(context)} "
            f"too, whose tokens have no order with those of x. Build the cross-attention without {own}; what each "
            f"query sees of a context, a mask (batch, queries, keys) says"
        )


def refuse_mask(layer: Any, *arrays: Any) -> None:
    """Raises for a mask where a context is wanted."""
    for given in arrays:
        if getattr(given, "dtype", None) == jnp.bool_:
            raise TypeError(
                f"{type(layer).__name__} takes a context of floating numbers after x, got {show(given)}. A mask goes "
                f"in by name: key_mask= for the tokens (batch, keys), mask= for (batch, queries, keys)"
            )


def check_options(
    layer: Any, x: Any, source: Any, crossed: bool, mask: Any, key_mask: Any, bias: Any, segments: Any, positions: Any
) -> None:
    """Raises for masks, a bias, segments or positions that do not fit the arrays."""
    (batch, time), keys = x.shape[:2], source.shape[1]
    cached = is_whole(layer.cache, least=1)
    if key_mask is not None:
        _check_boolean("key_mask", key_mask)
        named = "(batch, keys)" + ", for the new tokens alone, as the cache keeps those before" * cached
        _check_sizes("a key_mask", key_mask, {2: (batch, keys)}, named, "An axis of 1 stands for all")
    if mask is not None:
        _check_mask(layer, mask, key_mask, batch, time, keys)
    if bias is not None and not callable(bias):
        check_bias(layer, x, layer.cache if cached else keys, bias)
    if segments is not None:
        if crossed or cached:
            raise ValueError(
                f"Attention takes segments where a whole sequence attends to itself, got {show(segments)} beside "
                f"{'a cache' if cached else 'a context'}. Give a mask (batch, queries, keys) instead"
            )
        _check_numbers("segments", segments, (batch, time), {2})
    if positions is not None:
        _check_numbers("positions", positions, (batch, time), {1, 2})
        if layer.rope is None and layer.position_bias is None and not callable(bias):
            raise ValueError(
                f"Attention takes positions where something depends on them, got {show(positions)} beside neither "
                f"rope, position_bias nor a function as bias. Build it with rope=fn.rotary, or add "
                f"fn.PositionEmbedding(n) to x before"
            )


def check_bias(layer: Any, x: Any, keys: int, bias: Any) -> None:
    """Raises for a bias that is not one of the scores between x and so many keys."""
    check_floats(layer, bias, "(batch, heads, queries, keys)", 4, 4)
    shape = (x.shape[0], layer.heads, x.shape[1], keys)
    note = "An axis of 1 stands for all; with a cache the keys are all its places"
    _check_sizes("a bias", bias, {4: shape}, "(batch, heads, queries, keys)", note)


def _check_boolean(name: str, mask: Any) -> None:
    if not hasattr(mask, "dtype") or mask.dtype != jnp.bool_:
        raise TypeError(
            f"Attention takes a {name} of booleans, True for what is seen, got {show(mask)}. What is added to the "
            f"scores goes in as bias; of PyTorch's masks, which are True for what is hidden, take ~{name}"
        )


def _check_mask(layer: Any, mask: Any, key_mask: Any, batch: int, time: int, keys: int) -> None:
    _check_boolean("mask", mask)
    if is_whole(layer.cache, least=1):
        shapes = {2: (batch, keys)}
        named = "(batch, keys), for the new tokens alone, as the cache keeps those before"
    else:
        shapes = {2: (batch, keys), 3: (batch, time, keys), 4: (batch, layer.heads, time, keys)}
        named = "(batch, keys), (batch, queries, keys) or (batch, heads, queries, keys)"
    _check_sizes("a mask", mask, shapes, named, "An axis of 1 stands for all: mask[None] for (queries, keys)")
    if mask.ndim != 2:
        return
    if key_mask is not None:
        raise ValueError(
            f"Attention takes a mask (batch, queries, keys) beside a key_mask, got {show(mask)} beside "
            f"{show(key_mask)}. Write mask[None] for (queries, keys), or join the two, key_mask & mask"
        )
    if len(shapes) > 1 and mask.shape[0] == batch == time > 1:
        raise ValueError(
            f"Attention takes a mask of two axes where it can only be (batch, keys), got {show(mask)} with as many "
            f"queries as rows, which might be (queries, keys) too. Say which: key_mask=mask for the tokens of each "
            f"row, mask=mask[None] for what each query sees"
        )


def _check_sizes(what: str, array: Any, shapes: dict[int, tuple[int, ...]], named: str, note: str) -> None:
    """Raises unless each axis of an array has its size, or 1."""
    wanted = shapes.get(len(array.shape))
    if wanted is None or not all(n in (1, size) for n, size in zip(array.shape, wanted, strict=True)):
        sizes = " or ".join(map(str, shapes.values()))
        raise ValueError(f"Attention takes {what} {named}, here {sizes}, got {show(array)}. {note}")


def _check_numbers(what: str, array: Any, shape: tuple[int, int], ranks: set[int]) -> None:
    """Raises unless these are whole numbers (batch, time), or (time,) where that may be."""
    axes = "(batch, time)" + (" or (time,)" if 1 in ranks else "")
    if not hasattr(array, "dtype") or not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"Attention takes {what} {axes} as whole numbers, got {show(array)}. Convert them first, "
            f"jnp.asarray({what}, jnp.int32)"
        )
    shapes = {2: shape} | ({1: shape[1:]} if 1 in ranks else {})
    _check_sizes(what, array, shapes, axes, "An axis of 1 stands for all")
