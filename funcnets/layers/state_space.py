"""State-space layers: linear recurrences h_t = a_t · h_{t−1} + b_t, all steps of time at once by a parallel scan."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.initializers import Initializer, LecunNormal, Normal, VarianceScaling, Zeros
from funcnets.layer import Layer
from funcnets.layers.fields import check_flag, check_whole, refusal
from funcnets.layers.inputs import check_floats, check_mask
from funcnets.layers.promotion import at_least_float32, in_dtype_of, per_channel
from funcnets.leaves import Param
from funcnets.shapes import show

_CARRY = "Write carry=True to keep the last h in the state, from call to call"


class _LinearRecurrence(Layer):
    """What a linear recurrence has in common: the scan, the carry and the reset."""

    def forward(
        self,
        p: dict[str, jax.Array],
        x: jax.Array,
        reset: jax.Array | None = None,
        *,
        state: dict[str, jax.Array] | None = None,
    ) -> Any:
        if reset is not None:
            check_mask(self, "reset", reset, x, x.shape[:-1])
        wide = at_least_float32(x)
        p = {name: in_dtype_of(wide, array) for name, array in p.items()}
        a, b = self._terms(p, wide)
        a = a if reset is None else jnp.where(reset[..., None], jnp.zeros_like(a), a)
        h = _scan(a, b, None if state is None else state["carry"].astype(b.dtype))
        y = self._read(p, h, wide).astype(x.dtype)
        if state is None:
            return y
        return y, {"carry": h[..., -1, :].astype(state["carry"].dtype)} if x.shape[-2] else state

    def _terms(self, p: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """a and b (..., time, width of h); axes of a may be 1."""
        raise NotImplementedError

    def _read(self, p: dict[str, jax.Array], h: jax.Array, x: jax.Array) -> jax.Array:
        """y (..., time, features)."""
        raise NotImplementedError


@jax.jit  # where a layer runs op by op, the scan's many small ones would each be compiled
def _scan(a: jax.Array, b: jax.Array, start: jax.Array | None) -> jax.Array:
    """h_t = a_t · h_{t−1} + b_t along the axis before the last, from the start or 0."""
    a = jnp.broadcast_to(a, (*a.shape[:-2], *b.shape[-2:]))
    if start is not None:
        b = b.at[..., :1, :].add(a[..., :1, :] * start[..., None, :])

    def both(early: tuple[jax.Array, jax.Array], late: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return early[0] * late[0], late[0] * early[1] + late[1]

    return jax.lax.associative_scan(both, (a, b), axis=b.ndim - 2)[1]


def _input_scale(log_a: jax.Array) -> jax.Array:
    """√(1 − |a|²), by which h keeps the variance of its inputs; its gradient is finite at |a| = 1 too."""
    return jnp.sqrt(jnp.maximum(-jnp.expm1(2 * log_a), float(np.finfo(np.float32).tiny)))


class LRU(_LinearRecurrence):
    """y_t = Re(h_t @ output_kernel) + skip · x_t with h_t = λ · h_{t−1} + √(1 − |λ|²) · (x_t @ input_kernel), complex
    and diagonal, where log λ = −exp(decay) + i · exp(phase), so that |λ| < 1 whatever is learned.

    Args:
      hidden: The width of h.
      r_min, r_max: The ring in which λ starts, uniformly over its area: r_min ≤ |λ| < r_max. Long sequences take it
        near 1.
      max_phase: The largest angle of λ at the start; π/10 or less for long sequences.
      carry: Whether h goes on from call to call in the state, for a sequence that comes in parts.

    Params:
      decay: (hidden,), log(−log |λ|)
      phase: (hidden,), log of λ's angle
      input_kernel: (2, features, hidden), real and imaginary parts
      output_kernel: (2, hidden, features), likewise
      skip: (features,)

    States:
      carry: (..., hidden), complex64; with carry=True. To start from some h, write it there.

    Inputs: x (..., time, features), floating; optionally reset (..., time), True where a new sequence begins, which
      sees nothing before it → the same shape and dtype as x. h is complex64 at least.

    Raises:
      ValueError: Fields that cannot be; an input of one axis; a reset of another shape.
      TypeError: An input of whole numbers; a reset that is not boolean.

    Source: Orvieto et al. 2023, Resurrecting recurrent neural networks for long sequences. There the input's factor is
      learned, from √(1 − |λ|²) on; here it stays that function of λ.

    Example:
      >>> layer, x = fn.LRU(16, r_min=0.9, r_max=0.999, carry=True), jnp.ones((2, 6, 4))
      >>> params, state = layer.init(jax.random.key(0), x), layer.init_state(x)
      >>> whole, _ = layer.apply(params, x, state=state)
      >>> first, state = layer.apply(params, x[:, :4], state=state)
      >>> second, state = layer.apply(params, x[:, 4:], state=state)
      >>> bool(jnp.allclose(whole, jnp.concatenate([first, second], 1), atol=1e-5))
      True
    """

    hidden: int
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi
    carry: bool = False

    def __post_init__(self) -> None:
        check_whole(self, "hidden", "It is the width of h; that of y comes from the sample: LRU(64)")
        _check_ring(self, "r_min", "r_max", "A ring near 1 remembers long: LRU(64, r_min=0.9, r_max=0.999)")
        if not _is_number(self.max_phase) or not 0 < self.max_phase <= 2 * math.pi:
            raise refusal(self, "max_phase", "as an angle above 0, at most 2π", "Write max_phase=math.pi / 10")
        check_flag(self, "carry", _CARRY)

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, "(..., time, features)", 2)
        features = x.shape[-1]
        return {
            "decay": Param((self.hidden,), RingDecay(self.r_min, self.r_max)),
            "phase": Param((self.hidden,), LogUniform(self.max_phase)),
            "input_kernel": Param((2, features, self.hidden), VarianceScaling(0.5, "fan_in", "normal", batch_axis=0)),
            "output_kernel": Param((2, self.hidden, features), VarianceScaling(1.0, "fan_in", "normal", batch_axis=0)),
            "skip": Param((features,), Normal(1.0)),
        }

    def states(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        return {"carry": Param((*x.shape[:-2], self.hidden), Zeros(), "complex64")} if self.carry else {}

    def _terms(self, p: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
        log_radius = -jnp.exp(p["decay"])
        a = jnp.exp(jax.lax.complex(log_radius, jnp.exp(p["phase"])))
        kernel = p["input_kernel"] * _input_scale(log_radius)[None, None]
        return jax.lax.expand_dims(a, range(x.ndim - 1)), jax.lax.complex(x @ kernel[0], x @ kernel[1])

    def _read(self, p: dict[str, jax.Array], h: jax.Array, x: jax.Array) -> jax.Array:
        kernel = p["output_kernel"]
        return h.real @ kernel[0] - h.imag @ kernel[1] + per_channel(p["skip"], x) * x


class RGLRU(_LinearRecurrence):
    """y_t = a_t · y_{t−1} + √(1 − a_t²) · i_t · x_t with gates r, i = sigmoid(x @ kernel + bias) and
    a_t = exp(−8 · softplus(decay) · r_t): the real-gated linear recurrent unit. Channels meet in the gates alone.

    Args:
      blocks: The parts that the features are cut into for the gates, each part's gates seeing that part alone.
      a_min, a_max: Where a lies at the start with an open gate (r = 1), uniformly.
      carry: Whether y goes on from call to call in the state, for a sequence that comes in parts.

    Params:
      decay: (features,)
      recurrence_kernel: (blocks, features / blocks, features / blocks), of the gate r
      recurrence_bias: (features,)
      input_kernel: (blocks, features / blocks, features / blocks), of the gate i
      input_bias: (features,)

    States:
      carry: (..., features), float32; with carry=True. To start from some y, write it there.

    Inputs: x (..., time, features), floating; optionally reset (..., time), True where a new sequence begins, which
      sees nothing before it → the same shape and dtype as x. y is computed in float32 at least.

    Raises:
      ValueError: Fields that cannot be; an input of one axis, or with features that the blocks do not divide; a reset
        of another shape.
      TypeError: An input of whole numbers; a reset that is not boolean.

    Source: De et al. 2024, Griffin. In RecurrentGemma's code the first input of a sequence has the factor 1.

    Example:
      >>> layer, x = fn.RGLRU(blocks=2), jnp.ones((2, 6, 4))
      >>> params = layer.init(jax.random.key(0), x)
      >>> params["input_kernel"].shape, layer.apply(params, x).shape
      ((2, 2, 2), (2, 6, 4))
    """

    blocks: int = 1
    a_min: float = 0.9
    a_max: float = 0.999
    carry: bool = False

    def __post_init__(self) -> None:
        check_whole(self, "blocks", "Write blocks=1 for gates that see all features; widths come from the sample")
        _check_ring(self, "a_min", "a_max", "Leave them out for 0.9 and 0.999")
        check_flag(self, "carry", _CARRY)

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, "(..., time, features)", 2)
        features = x.shape[-1]
        if features % self.blocks:
            raise ValueError(
                f"RGLRU with blocks={self.blocks} takes features that its blocks divide, got {features} features in "
                f"{show(x)}. Take a divisor of {features} for blocks"
            )
        width = features // self.blocks
        kernel, bias = Param((self.blocks, width, width), LecunNormal(batch_axis=0)), Param((features,), Zeros())
        return {
            "decay": Param((features,), GatedDecay(self.a_min, self.a_max)),
            "recurrence_kernel": kernel,
            "recurrence_bias": bias,
            "input_kernel": kernel,
            "input_bias": bias,
        }

    def states(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        return {"carry": Param((*x.shape[:-2], x.shape[-1]), Zeros())} if self.carry else {}

    def _terms(self, p: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
        r, i = (self._gate(x, p[f"{name}_kernel"], p[f"{name}_bias"]) for name in ("recurrence", "input"))
        log_a = -_SHARPNESS * per_channel(jax.nn.softplus(p["decay"]), x) * r
        return jnp.exp(log_a), _input_scale(log_a) * i * x

    def _gate(self, x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
        parts = x.reshape(*x.shape[:-1], self.blocks, kernel.shape[1])
        mixed = jnp.einsum("...bi,bij->...bj", parts, kernel).reshape(x.shape)
        return jax.nn.sigmoid(mixed + per_channel(bias, x))

    def _read(self, p: dict[str, jax.Array], h: jax.Array, x: jax.Array) -> jax.Array:
        return h


_SHARPNESS = 8.0  # c in the paper: how much faster a fully open gate forgets than softplus(decay) says


def _is_number(held: Any) -> bool:
    return isinstance(held, (int, float)) and not isinstance(held, bool)


def _check_ring(layer: Layer, low: str, high: str, remedy: str) -> None:
    """Raises unless 0 ≤ low < high ≤ 1."""
    least, most = getattr(layer, low), getattr(layer, high)
    if not _is_number(most) or not 0 < most <= 1:
        raise refusal(layer, high, "as a number above 0, at most 1", remedy)
    if not _is_number(least) or not 0 <= least < most:
        raise refusal(layer, low, f"as a number from 0 up to {high}={most!r}", remedy)


# Initialisers


class RingDecay(Initializer):
    """x = log(−log r) with r² ~ U[low², high²): r = exp(−exp(x)) is the radius of a point uniform in a ring.

    Args:
      low, high: The ring's radii, from 0 to 1.
    """

    low: float
    high: float

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        square = _uniform(key, shape, self.low**2, self.high**2)
        return jnp.log(-0.5 * jnp.log(square)).astype(self._dtype(dtype, "floating"))


class LogUniform(Initializer):
    """x = log u with u ~ U(0, high).

    Args:
      high: The upper bound.
    """

    high: float

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return (jnp.log(_uniform(key, shape, 0.0, 1.0)) + math.log(self.high)).astype(self._dtype(dtype, "floating"))


class GatedDecay(Initializer):
    """softplus(x) = −log(a) / 8 with a ~ U[low, high).

    Args:
      low, high: The bounds, from 0 to 1.
    """

    low: float
    high: float

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        rate = -jnp.log(_uniform(key, shape, self.low, self.high)) / _SHARPNESS
        return jnp.log(jnp.expm1(rate)).astype(self._dtype(dtype, "floating"))


def _uniform(key: Any, shape: tuple[int, ...], low: float, high: float) -> jax.Array:
    """u ~ U(low, high) in float32, off 0 and 1, where logarithms end."""
    u = jax.random.uniform(key, shape, jnp.float32) * (high - low) + low
    return jax.lax.optimization_barrier(jnp.clip(u, 1e-30, 1 - 1e-7))
