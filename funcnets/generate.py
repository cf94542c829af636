"""Text from a net that maps ids to logits: each new id is chosen, and goes in again."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.layer import Layer
from funcnets.layers.attention import Attention
from funcnets.layers.cache import KeyValueCache
from funcnets.layers.positions import Positions
from funcnets.plan import Plan
from funcnets.random import as_key
from funcnets.shapes import Tree, is_array, show


def generate(
    net: Layer,
    params: Tree,
    prompt: Any,
    steps: int,
    *,
    key: Any = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: int | Sequence[int] | None = None,
    mask: Any = None,
    unroll: bool = True,
    **inputs: Any,
) -> jax.Array:
    """The ids that a net goes on with after a prompt.

    The prompt goes in at once, then each new id by itself, in one compiled loop; what the net knows of the ids before
    is in its state. The net is therefore the decoding one: the net that was trained, with `cache=n` in its causal
    attention and `counting=True` in its position layers, for n ≥ the prompt's length + steps − 1. A cross-attention
    with `cache="context"` makes keys and values of its context once. A net that is to go on for longer than it was
    trained with looks no further back than then with `window=(length - 1, 0)` in its attention.

    Args:
      net: Called with ids (batch, time), it gives logits (batch, time, vocab).
      params: Its parameters.
      prompt: (batch, time), whole numbers, with one id at least.
      steps: The number of ids to generate.
      key: What is drawn with, where temperature is above 0.
      temperature: What logits are divided by before one id is drawn; 0 takes the likeliest.
      top_k: Draws among the k likeliest ids alone.
      top_p: Draws among the likeliest ids alone that together reach this probability, after top_k.
      stop: An id, or several, that ends a row: all that follows in it is that id.
      mask: (batch, time), boolean, for a net that takes one: the ids of the prompt that are none of padding.
      unroll: Whether the copies of a `Repeat` stand one by one in the loop. It is faster, since each id is then put
        into each copy's cache where it stands, not into a stack that is copied; False compiles one copy for all.
      **inputs: What else every call of the net takes, such as a context.

    Returns:
      The new ids, (batch, steps), int32. A row whose logits are NaN (an id out of range, positions beyond a table) goes
      on with −1.

    Raises:
      ValueError: A net that cannot decode, or keeps too few ids; options that cannot be; no key.
      TypeError: A prompt that is not of whole numbers.

    Source: top_p is the nucleus of Holtzman et al. 2020. It draws from the ids whose predecessors, in order of
      probability, do not reach top_p, so from one at least, as Hugging Face's.

    Example:
      >>> def gpt(cache=None):
      ...     attention = fn.Attention(2, causal=True, rope=fn.rotary, cache=cache)
      ...     blocks = fn.Repeat(fn.TransformerBlock(attention), 2)
      ...     return fn.Sequential(("embed", fn.Embedding(50, 8)), ("blocks", blocks), ("embed", fn.Unembed()))
      >>> prompt = jnp.array([[3, 14, 15], [9, 2, 6]])
      >>> params = gpt().init(jax.random.key(0), prompt)
      >>> fn.generate(gpt(cache=16), params, prompt, 5).shape
      (2, 5)
    """
    steps, temperature = _plain(steps), _plain(temperature)
    _check_options(steps, key, temperature, top_k, top_p)
    stops = () if stop is None else tuple(stop) if isinstance(stop, tuple | list) else (stop,)
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in stops):
        raise ValueError(
            f"generate takes stop as an id or several ids, got {stop!r}. They are whole numbers: stop=(2, 3)"
        )
    if not is_array(prompt) or len(prompt.shape) != 2 or not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise TypeError(
            f"generate takes a prompt (batch, time) of whole numbers, got {show(prompt)}. For one row: "
            f"jnp.asarray(ids)[None]"
        )
    if prompt.shape[1] < 1:
        raise ValueError(
            f"generate takes a prompt with one id at least, got {show(prompt)}. Begin with one that means so"
        )
    if mask is not None and (not is_array(mask) or mask.shape != prompt.shape or mask.dtype != jnp.bool_):
        raise ValueError(
            f"generate takes a mask of booleans like the prompt, {prompt.shape}, True for what is no padding, got "
            f"{show(mask)}. Make it with prompt != padding_id"
        )
    masked = {} if mask is None else {"mask": mask}
    _check_net(net.plan(prompt, **masked, **inputs), prompt, steps)
    drawn = {"temperature": jnp.float32(temperature), "top_p": None if top_p is None else jnp.float32(top_p)}
    keys = as_key(key) if temperature else None
    options = {"steps": steps, "top_k": top_k, "stops": stops, "unroll": unroll}
    return _generate(net, params, prompt, masked, inputs, keys, drawn, **options)


@functools.partial(jax.jit, static_argnames=("net", "steps", "top_k", "stops", "unroll"))
def _generate(
    net: Layer,
    params: Tree,
    prompt: jax.Array,
    masked: dict[str, jax.Array],
    inputs: dict[str, Any],
    key: Any,
    drawn: dict[str, Any],
    *,
    steps: int,
    top_k: int | None,
    stops: tuple[int, ...],
    unroll: bool,
) -> jax.Array:
    state = net.init_state(prompt, **masked, **inputs)
    if unroll:
        from funcnets.rewrite.unrolling import written_out

        net, params, state = written_out(net, params, state)

    def choose(logits: jax.Array, i: Any) -> jax.Array:
        wide = logits.astype(jnp.float32)
        if key is None:
            ids = wide.argmax(-1).astype(jnp.int32)
        else:
            allowed = likely(wide / drawn["temperature"], top_k, drawn["top_p"])
            ids = jax.random.categorical(jax.random.fold_in(key, i), allowed).astype(jnp.int32)
        return jnp.where(jnp.isnan(wide).any(-1), -1, ids)

    def ends(ids: jax.Array) -> jax.Array:
        return jnp.isin(ids, jnp.asarray(stops, jnp.int32))

    def step(carry: Any) -> Any:
        i, ids, last, ended, state = carry
        logits, state = net.apply(params, last[:, None], state=state, **inputs)
        last = jnp.where(ended, last, choose(logits[:, 0], i))
        return i + 1, ids.at[:, i].set(last), last, ended | ends(last), state

    def goes_on(carry: Any) -> jax.Array:
        i, _, _, ended, _ = carry
        return (i < steps) & ~ended.all()

    logits, state = net.apply(params, prompt, state=state, **masked, **inputs)
    first = choose(_of_last(logits, **masked), 0)
    ids = jnp.zeros((len(prompt), steps), jnp.int32).at[:, 0].set(first)
    carry = jnp.int32(1), ids, first, ends(first), state
    i, ids, last, _, _ = jax.lax.while_loop(goes_on, step, carry)
    return jnp.where(jnp.arange(steps, dtype=jnp.int32)[None] < i, ids, last[:, None])


def _of_last(logits: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """The logits after the last id of each row that is no padding."""
    if mask is None:
        return logits[:, -1]
    at = mask.shape[1] - 1 - mask[:, ::-1].argmax(-1)
    return jnp.take_along_axis(logits, at[:, None, None], 1)[:, 0]


def likely(logits: jax.Array, top_k: int | None, top_p: Any) -> jax.Array:
    """Logits with −∞ for ids that are not to be drawn."""
    if top_k is not None and top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p is not None:
        ordered = -jnp.sort(-logits, axis=-1)
        shares = jax.nn.softmax(ordered, axis=-1)
        before = shares.cumsum(-1) - shares  # what the likelier ids reach without this one
        least = jnp.where(before < top_p, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def _plain(number: Any) -> Any:
    return number.item() if isinstance(number, np.generic) else number


def _check_options(steps: Any, key: Any, temperature: Any, top_k: Any, top_p: Any) -> None:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"generate takes steps as a whole number, at least 1, got {steps!r}. It counts the new ids")
    number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not number or not (temperature == 0 or 1e-6 <= temperature < math.inf):
        raise ValueError(
            f"generate takes temperature as 0 or a number from 1e-6, got {temperature!r}. 0 takes the likeliest id, 1 "
            f"draws from the net's own distribution"
        )
    if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
        raise ValueError(f"generate takes top_k as a whole number, at least 1, got {top_k!r}. None draws among all ids")
    if top_p is not None and (not isinstance(top_p, (int, float)) or not 0 < top_p <= 1):
        raise ValueError(f"generate takes top_p as a probability above 0, got {top_p!r}. None draws among all ids")
    if not temperature and (top_k is not None or top_p is not None):
        raise ValueError(
            "generate takes top_k and top_p where ids are drawn, got temperature 0, which takes the likeliest. Say "
            "temperature=1.0"
        )
    if temperature and key is None:
        raise ValueError(f"generate draws with temperature={temperature!r} and needs a key: key=jax.random.key(0)")


def _check_net(plan: Plan, prompt: Any, steps: int) -> None:
    """Raises for a net that would forget what came before, or for a cache that is too short."""
    remedy = "Build the decoding net, with cache=n in its causal attention and counting=True in its position layers"
    if not plan.declared["states"]:
        raise ValueError(f"generate takes a net that carries state from id to id, got one without state. {remedy}")
    for call in plan.calls:
        layer, place = call.layer, call.path or "the net"
        if isinstance(layer, Attention) and layer.causal and layer.cache is None:
            raise ValueError(f"generate takes a net whose causal attention has a cache, got none in {place}. {remedy}")
        if isinstance(layer, Positions) and not layer.counting and not _any_whole(call.inputs):
            raise ValueError(f"generate takes a net whose positions go on counting, got {layer!r} as {place}. {remedy}")
        if isinstance(layer, KeyValueCache) and layer.length < prompt.shape[1] + steps - 1:
            raise ValueError(
                f"generate takes a cache for the prompt and all new ids but the last, {prompt.shape[1] + steps - 1}, "
                f"got {layer.length} in {place}. Build the net with a cache of that length"
            )
    out = plan.output
    if not is_array(out) or out.shape[:-1] != prompt.shape or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"generate takes a net that gives logits (batch, time, vocab) for ids {show(prompt)}, got {show(out)}. End "
            f"it with fn.Unembed() or fn.Dense(vocab)"
        )


def _any_whole(inputs: tuple[Any, ...]) -> bool:
    return any(is_array(x) and jnp.issubdtype(x.dtype, jnp.integer) for x in inputs)
