"""Where tokens stand: vectors added for their positions, and rotations by them.

Positions are whole numbers (batch, time) or (time,); by default the number of tokens before, without those that a mask
(batch, time) hides. A layer that is `counting` carries that number from call to call, as an attention with a cache
carries its keys.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.compose import Composite
from funcnets.initializers import Normal
from funcnets.layer import Layer
from funcnets.layers.cache import Counter, counted
from funcnets.layers.embedding import rows_of
from funcnets.layers.fields import check_flag, check_whole, refusal
from funcnets.layers.inputs import check_floats
from funcnets.layers.promotion import at_least_float32
from funcnets.leaves import Initializer, Param
from funcnets.shapes import show


def rotary(
    x: jax.Array,
    positions: jax.Array,
    base: float = 10_000.0,
    interleaved: bool = False,
    features: int | None = None,
) -> jax.Array:
    """Turns each pair of features (a, b) by an angle that grows with the position: the score of a query and a key
    then depends on how far apart they are.

        a', b' = a cos θ − b sin θ,  b cos θ + a sin θ,    θ = position · base^(−2 i / features) for the i-th pair

    Args:
      x: (batch, time, heads, head_features), floating.
      positions: (batch, time), or (time,) or (1, time) for all.
      base: The slowest turn takes about 2π · base positions.
      interleaved: Whether a pair is (0, 1), (2, 3), …, as in the paper and GPT-J; otherwise features i and
        i + features / 2 are one, as in GPT-NeoX, Llama and their kin. The two are no different but for the order of
        the kernels' columns.
      features: How many features of a head turn, from the first; the others stay. None for all.

    Returns:
      The same shape and dtype.

    Raises:
      ValueError: Shapes that cannot be, or features that are no pairs.
      TypeError: An x of whole numbers, or positions that are none.

    Source: Su et al. 2021, RoFormer.

    Example:
      >>> y = fn.rotary(jnp.ones((1, 6, 1, 2)), jnp.arange(6))[0, :, 0]
      >>> bool(jnp.allclose(y[0] @ y[2], y[3] @ y[5]))   # both two apart
      True
    """
    positions = jnp.atleast_2d(positions)
    turned = x.shape[-1] if features is None else features
    _check_rotary(x, positions, turned)
    wide = at_least_float32(x[..., :turned])
    angles = _angles(positions, turned, base, wide.dtype)[:, :, None]  # (batch, time, 1, pairs)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    pairs = wide.reshape(*x.shape[:-1], *((turned // 2, 2) if interleaved else (2, turned // 2)))
    axis = -1 if interleaved else -2
    a, b = pairs.take(0, axis), pairs.take(1, axis)
    y = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis).reshape(wide.shape).astype(x.dtype)
    return y if turned == x.shape[-1] else jnp.concatenate([y, x[..., turned:]], -1)


def _angles(positions: jax.Array, features: int, base: float, dtype: Any) -> jax.Array:
    """position · base^(−2 i / features) for each pair of features: (batch, time, pairs)."""
    rates = base ** (-jnp.arange(0, features, 2, dtype=dtype) / features)
    return positions.astype(dtype)[..., None] * rates[None, None]


def _check_rotary(x: Any, positions: jax.Array, turned: int) -> None:
    if len(x.shape) != 4 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"rotary takes floating x (batch, time, heads, features), got {show(x)}. Split the heads apart first, "
            f"x.reshape(batch, time, heads, -1)"
        )
    if not jnp.issubdtype(positions.dtype, jnp.integer):
        raise TypeError(
            f"rotary takes positions (batch, time) as whole numbers, got {show(positions)}. Convert them first, "
            f"positions.astype(jnp.int32)"
        )
    if len(positions.shape) != 2 or positions.shape[0] not in (1, x.shape[0]) or positions.shape[1] != x.shape[1]:
        raise ValueError(
            f"rotary takes positions {x.shape[:2]} or ({x.shape[1]},) beside x {show(x)}, got {show(positions)}. Give "
            f"one for each token"
        )
    if turned < 2 or turned % 2 or turned > x.shape[-1]:
        raise ValueError(
            f"rotary turns pairs among the {x.shape[-1]} features of a head in {show(x)}, got features={turned}. Take "
            f"an even number up to that"
        )


class Positions(Composite):
    """A layer that adds something by positions; `counting` gives it a counter."""

    _: KW_ONLY
    counting: bool = False

    def _parts(self) -> dict[str, Any]:
        return {**super()._parts(), **({"counter": Counter()} if self.counting else {})}

    def _of(self, m: Any, x: Any, positions: Any, mask: Any) -> jax.Array:
        """The positions of the tokens x: (batch or 1, time)."""
        check_floats(self, x, "(batch, time, features)", 3, 3)
        for name, given, kind in (("positions", positions, jnp.integer), ("mask", mask, jnp.bool_)):
            if given is not None and not (hasattr(given, "dtype") and jnp.issubdtype(given.dtype, kind)):
                takes = "whole numbers" if name == "positions" else "booleans, True for the tokens that count"
                raise TypeError(
                    f"{type(self).__name__} takes {name} (batch, time) of {takes}, got {show(given)}. Convert it first"
                )
        shape = x.shape[:2]
        for name, given in (("positions", positions), ("mask", mask)):
            single = name == "positions" and given is not None and given.shape == shape[1:]
            if given is not None and not single and given.shape not in (shape, (1, shape[1])):
                raise ValueError(
                    f"{type(self).__name__} takes {name} {shape} beside x {show(x)}, got {show(given)}. Give one for "
                    f"each token of x"
                )
        valid = jnp.ones(shape, bool) if mask is None else jnp.broadcast_to(mask, shape)
        if self.counting:
            at = m.counter(valid)
        else:
            at = jnp.arange(shape[1], dtype=jnp.int32)[None] if mask is None else counted(valid)
        return at if positions is None else jnp.atleast_2d(positions)


class PositionTable(Layer):
    """The vectors of a range of positions: one array."""

    length: int
    table_init: Initializer

    def params(self, x: jax.ShapeDtypeStruct) -> Param:
        return Param((self.length, x.shape[-1]), self.table_init)

    def forward(self, p: jax.Array, x: jax.Array, positions: jax.Array) -> jax.Array:
        return x + rows_of(p, positions).astype(x.dtype)


class PositionEmbedding(Positions):
    """y = x + table[position]: a learned vector for each position from 0 to length − 1, added to the tokens.

    A position outside that range gives NaN rather than another one's vector.

    Args:
      length: The number of positions.
      table_init: The table's initialiser.
      counting: Whether to go on counting from call to call: for decoding beside attention with a cache.

    Params:
      table: (length, features)

    States: counter/count (batch,), int32, if counting.

    Inputs: x (batch, time, features), floating → the same shape and dtype. Further:
      positions: (batch, time) or (time,), whole numbers; by default the tokens before are counted.
      mask: (batch, time), boolean: the tokens that count.

    Raises:
      ValueError: A field that cannot be; more tokens than positions; positions or a mask of another shape than x's.
      TypeError: An x of whole numbers; positions or a mask of the wrong kind.

    Source: Gehring et al. 2017. The deviation is BERT's.

    Example:
      >>> x = jnp.zeros((2, 5, 8))
      >>> net = fn.PositionEmbedding(100)
      >>> net.init(jax.random.key(0), x)["table"].shape
      (100, 8)
    """

    length: int
    table_init: Initializer = Normal(0.02)

    def __post_init__(self) -> None:
        check_whole(self, "length", "It is the number of positions; the width comes from the sample")
        check_flag(self, "counting", "It is for decoding in parts: PositionEmbedding(1024, counting=True)")

    def _parts(self) -> dict[str, Any]:
        made = {"table_init": None, "table": PositionTable(self.length, self.table_init)}
        return {**super()._parts(), **made}

    def forward(self, m: Any, x: jax.Array, positions: Any = None, *, mask: Any = None) -> jax.Array:
        at = self._of(m, x, positions, mask)
        if positions is None and x.shape[1] > self.length:
            raise ValueError(
                f"PositionEmbedding({self.length}) takes at most {self.length} tokens, got {x.shape[1]} in {show(x)}. "
                f"Build it for the longest sequence, or cut this one"
            )
        return m.table(x, at)


class SinusoidalPositions(Positions):
    """y = x + [sin(position · rate₀), cos(position · rate₀), sin(position · rate₁), …], rateᵢ = base^(−2 i / features).

    Args:
      base: The slowest wave takes about 2π · base positions.
      counting: Whether to go on counting from call to call: for decoding beside attention with a cache.

    States: counter/count (batch,), int32, if counting.

    Inputs: x (batch, time, features), floating, of an even width → the same shape and dtype. Further:
      positions: (batch, time) or (time,), whole numbers; by default the tokens before are counted.
      mask: (batch, time), boolean: the tokens that count.

    Raises:
      ValueError: A field that cannot be; an odd width; positions or a mask of another shape than x's.
      TypeError: An x of whole numbers; positions or a mask of the wrong kind.

    Source: Vaswani et al. 2017, with sines and cosines in turn; tensor2tensor and some others put all sines first.

    Example:
      >>> fn.SinusoidalPositions().apply({}, jnp.zeros((1, 2, 2))).round(1)
      Array([[[0. , 1. ],
              [0.8, 0.5]]], dtype=float32)
    """

    base: float = 10_000.0

    def __post_init__(self) -> None:
        if not isinstance(self.base, (int, float)) or isinstance(self.base, bool) or not self.base > 1:
            raise refusal(self, "base", "as a number above 1", "Widths come from the sample: SinusoidalPositions()")
        check_flag(self, "counting", "It is for decoding in parts: SinusoidalPositions(counting=True)")

    def forward(self, m: Any, x: jax.Array, positions: Any = None, *, mask: Any = None) -> jax.Array:
        at, width = self._of(m, x, positions, mask), x.shape[-1]
        if width % 2:
            raise ValueError(
                f"SinusoidalPositions takes an even number of features, a sine and a cosine for each rate, got {width} "
                f"in {show(x)}. Take an even width"
            )
        angles = _angles(at, width, self.base, at_least_float32(x).dtype)
        waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1)
        return x + waves.reshape(*at.shape, width).astype(x.dtype)
