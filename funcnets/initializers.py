"""Initialisers: what an array holds before anything is learned.

An initialiser is any function (key, shape, dtype) → array. Those here are values: they compare and print as the code
that builds them, so a layer that holds one does.

    LecunNormal()(key, (3, 3, 64, 128))                        # a kernel, fan_in = 3·3·64
    dataclasses.replace(fn.Dense(10), kernel_init=Normal(0.02))

Nearly all are a factor times a standard draw, element by element. They say so in a `recipe`, by which
`funcnets.random.draw` makes all arrays of a net at once; the others compute. On equal keys the numbers are those of
`jax.nn.initializers`, at most the last bit aside, since here they are the same eager, under jit, vmapped and sharded.

A *fan* is how many numbers meet in one: a kernel (…, in, out) has fan_in = in · (product of …), fan_out = out · (…).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcnets.random import Recipe, Standard
from funcnets.values import Value

_NORMAL = Standard(jax.random.normal)
_SYMMETRIC = Standard(jax.random.uniform, (-1.0, 1.0))


class Initializer(Value):
    """A frozen function (key, shape, dtype) → array.

    A subclass gives the `recipe` of an elementwise draw, or else defines `__call__`.
    """

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        """Draws an array.

        Args:
          key: A PRNG key.
          shape: The shape of the array.
          dtype: Its dtype, floating or complex; constants take any.
        """
        recipe = self.recipe(tuple(shape), dtype)
        if recipe is None:
            raise NotImplementedError(f"{type(self).__name__} defines neither recipe nor __call__")
        return recipe(key, tuple(shape))

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe | None:
        """The factor and the standard draw that make the array; None for what is not drawn so."""
        return None

    def _dtype(self, dtype: Any, *kinds: Any) -> np.dtype[Any]:
        stated = np.dtype(dtype)
        held = jax.dtypes.canonicalize_dtype(stated)
        if held != stated and dtype not in (bool, int, float, complex):  # Python's own mean the usual width
            raise TypeError(
                f"{self!r} was asked for {stated}, which JAX holds with jax_enable_x64 only: ask for {held}"
            )
        if kinds and not any(jnp.issubdtype(held, kind) for kind in kinds):
            names = " or ".join({np.floating: "floating", np.complexfloating: "complex"}[kind] for kind in kinds)
            raise TypeError(f"{self!r} draws {names} numbers, got dtype {held}: give the array such a dtype")
        return held

    def _check(self, holds: bool, takes: str, field: str) -> None:
        if not holds:
            raise ValueError(f"{type(self).__name__} takes {takes}, got {field}={getattr(self, field)!r}")


def _is_number(value: Any, low: float = -math.inf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value < math.inf


# Constants


class Constant(Initializer):
    """x = value everywhere; no randomness is used.

    Args:
      value: A number. For an array of numbers, use a function: `lambda key, shape, dtype: ...`.
    """

    value: complex

    def __post_init__(self) -> None:
        self._check(isinstance(self.value, int | float | complex), "a number", "value")

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        dtype = self._dtype(dtype)
        if not jnp.issubdtype(dtype, np.inexact) and self.value != int(self.value.real):
            raise TypeError(f"{self!r} does not fit into {dtype}: give the array a floating dtype")
        if isinstance(self.value, complex) and dtype.kind != "c":
            raise TypeError(f"{self!r} does not fit into {dtype}: give the array a complex dtype")
        return Recipe(None, np.asarray(self.value, dtype))


class Zeros(Constant):
    """x = 0."""

    value: complex = dataclasses.field(default=0.0, init=False)


class Ones(Constant):
    """x = 1."""

    value: complex = dataclasses.field(default=1.0, init=False)


# Draws of a given width


class Normal(Initializer):
    """x ~ N(0, stddev²).

    Args:
      stddev: The standard deviation. (A complex array has it in its modulus.)
    """

    stddev: float = 0.01

    def __post_init__(self) -> None:
        self._check(_is_number(self.stddev, 0), "a standard deviation of at least 0", "stddev")

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        return Recipe(_NORMAL, np.asarray(self.stddev, self._dtype(dtype, np.floating, np.complexfloating)))


class TruncatedNormal(Initializer):
    """x = stddev · z with z ~ N(0, 1) given lower < z < upper.

    Args:
      stddev: The standard deviation before truncation; of the default (−2, 2), 0.88 of it is left.
      lower, upper: The bounds, in standard deviations.

    Source: JAX and Flax bound z as here; PyTorch's `trunc_normal_` bounds x itself, which is lower=a/stddev.
    """

    stddev: float = 0.01
    lower: float = -2.0
    upper: float = 2.0

    def __post_init__(self) -> None:
        self._check(_is_number(self.stddev, 0), "a standard deviation of at least 0", "stddev")
        self._check(self.lower < self.upper, f"a lower bound below upper={self.upper!r}", "lower")

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        factor = np.asarray(self.stddev, self._dtype(dtype, np.floating))
        return Recipe(Standard(_truncated_normal, (self.lower, self.upper)), factor)


class Uniform(Initializer):
    """x ~ U[0, scale).

    Args:
      scale: The upper bound.

    Source: as in JAX and Flax. Keras, Haiku and PyTorch give both bounds: `UniformRange`.
    """

    scale: float = 0.01

    def __post_init__(self) -> None:
        self._check(_is_number(self.scale), "a number", "scale")

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        return Recipe(Standard(jax.random.uniform), np.asarray(self.scale, self._dtype(dtype, np.floating)))


class UniformRange(Initializer):
    """x ~ U[low, high).

    Args:
      low, high: The bounds.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        self._check(_is_number(self.low) and _is_number(self.high), "two numbers", "low")
        self._check(self.low <= self.high, f"a lower bound of at most high={self.high!r}", "low")

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        factor = np.asarray(1.0, self._dtype(dtype, np.floating))
        return Recipe(Standard(jax.random.uniform, (self.low, self.high)), factor)


class TorchBias(Initializer):
    """x ~ U(−b, b) with b = 1 / √fan_in, as PyTorch draws a bias.

    A recurrent layer's kernels and biases are all drawn so there, with its hidden size for fan_in.

    Args:
      fan_in: The fan_in of the kernel beside it.

    Source: `torch.nn.Linear.reset_parameters`.
    """

    fan_in: int

    def __post_init__(self) -> None:
        self._check(isinstance(self.fan_in, int) and self.fan_in >= 1, "the kernel's fan_in, at least 1", "fan_in")

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        return Recipe(_SYMMETRIC, np.asarray(1 / math.sqrt(self.fan_in), self._dtype(dtype, np.floating)))


# Draws as wide as the fans ask


class VarianceScaling(Initializer):
    """x with mean 0 and variance scale / n, n being a fan of the kernel.

    Args:
      scale: The gain, squared.
      mode: What n is: "fan_in", "fan_out", "fan_avg" (their mean) or "fan_geo_avg" (the root of their product).
      distribution: "normal"; "truncated_normal", which is cut at two standard deviations and widened to keep the
        variance; or "uniform". Complex arrays take the last two from a disk.
      in_axis, out_axis: The axis, or tuple of axes, of the inputs and of the outputs.
      batch_axis: Axes over which the kernel holds independent ones. All further axes count towards both fans.
    """

    scale: float
    mode: str
    distribution: str
    in_axis: int | tuple[int, ...] = -2
    out_axis: int | tuple[int, ...] = -1
    batch_axis: int | tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._check(_is_number(self.scale, 0), "a scale of at least 0", "scale")
        for field, known in (("mode", _MODES), ("distribution", _DISTRIBUTIONS)):
            self._check(getattr(self, field) in known, " or ".join(map(repr, known)), field)
        for field in ("in_axis", "out_axis", "batch_axis"):
            axes = getattr(self, field)
            axes = axes if isinstance(axes, tuple) else (axes,)
            self._check(all(isinstance(axis, int) for axis in axes), "an axis or a tuple of axes", field)

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        dtype = self._dtype(dtype, np.floating, np.complexfloating)
        variance = np.asarray(self.scale / _MODES[self.mode](*self._fans(shape)), dtype)
        standard, factor = _DISTRIBUTIONS[self.distribution](variance)
        return Recipe(standard, factor)

    def _fans(self, shape: tuple[int, ...]) -> tuple[float, float]:
        try:
            inputs, outputs, batch = (
                math.prod(shape[axis] for axis in ((axes,) if isinstance(axes, int) else axes))
                for axes in (self.in_axis, self.out_axis, self.batch_axis)
            )
        except IndexError:
            raise ValueError(
                f"{self!r} takes an array with the axes in_axis={self.in_axis} and out_axis={self.out_axis}, got shape "
                f"{shape}: say which axes are meant, or use Normal, Uniform or a constant"
            ) from None
        if 0 in shape:
            return 1, 1  # nothing is drawn
        rest = math.prod(shape) / inputs / outputs / batch
        return inputs * rest, outputs * rest


_MODES = {
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
    "fan_geo_avg": lambda fan_in, fan_out: (fan_in * fan_out) ** 0.5,
}


def _truncated(variance: Any) -> tuple[Standard, Any]:
    # The divisors are the deviations of the standard draws.
    if variance.dtype.kind == "c":
        return Standard(_disk_normal), np.sqrt(variance) / np.asarray(0.95311164380491208, variance.dtype)
    two_sided = Standard(_truncated_normal, (-2.0, 2.0))
    return two_sided, np.sqrt(variance) / np.asarray(0.87962566103423978, variance.dtype)


def _uniform(variance: Any) -> tuple[Standard, Any]:
    if variance.dtype.kind == "c":
        return Standard(_disk_uniform), np.sqrt(variance)
    return _SYMMETRIC, np.sqrt(np.asarray(3, variance.dtype) * variance)


_DISTRIBUTIONS = {
    "normal": lambda variance: (_NORMAL, np.sqrt(variance)),
    "truncated_normal": _truncated,
    "uniform": _uniform,
}


def _truncated_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any, lower: float, upper: float) -> jax.Array:
    return jax.random.truncated_normal(key, lower, upper, shape, dtype)


def _disk_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Complex numbers uniform in a disk, with variance 1."""
    return _disk(key, shape, dtype, lambda u: jnp.sqrt(2 * u))


def _disk_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Complex normal numbers of variance 1, given that the modulus is below 2."""
    return _disk(key, shape, dtype, lambda u: jnp.sqrt(-jnp.log(1 - (1 - jnp.exp(jnp.full((), -4, u.dtype))) * u)))


def _disk(key: jax.Array, shape: tuple[int, ...], dtype: Any, modulus: Callable[[jax.Array], jax.Array]) -> jax.Array:
    real = np.zeros((), dtype).real.dtype
    u, angle = (jax.random.uniform(k, shape, real) for k in jax.random.split(key))
    r, angle = modulus(u), 2 * np.pi * angle
    return lax.complex(r * jnp.cos(angle), r * jnp.sin(angle))


class LecunNormal(VarianceScaling):
    """x ~ truncated normal with variance 1 / fan_in.

    Args:
      in_axis, out_axis, batch_axis: As of `VarianceScaling`.

    Source: LeCun et al., Efficient backprop (1998); Klambauer et al., Self-normalizing neural networks (2017). Flax's
    default for kernels.
    """

    scale: float = dataclasses.field(default=1.0, init=False)
    mode: str = dataclasses.field(default="fan_in", init=False)
    distribution: str = dataclasses.field(default="truncated_normal", init=False)


class LecunUniform(VarianceScaling):
    """x ~ U(−b, b) with b = √(3 / fan_in). Args and source: as of `LecunNormal`."""

    scale: float = dataclasses.field(default=1.0, init=False)
    mode: str = dataclasses.field(default="fan_in", init=False)
    distribution: str = dataclasses.field(default="uniform", init=False)


class GlorotNormal(VarianceScaling):
    """x ~ truncated normal with variance 2 / (fan_in + fan_out).

    Args:
      in_axis, out_axis, batch_axis: As of `VarianceScaling`.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks (2010).
    PyTorch's `xavier_normal_` is not truncated: `VarianceScaling(1.0, "fan_avg", "normal")`.
    """

    scale: float = dataclasses.field(default=1.0, init=False)
    mode: str = dataclasses.field(default="fan_avg", init=False)
    distribution: str = dataclasses.field(default="truncated_normal", init=False)


class GlorotUniform(VarianceScaling):
    """x ~ U(−b, b) with b = √(6 / (fan_in + fan_out)). Args and source: as of `GlorotNormal`; Keras' default."""

    scale: float = dataclasses.field(default=1.0, init=False)
    mode: str = dataclasses.field(default="fan_avg", init=False)
    distribution: str = dataclasses.field(default="uniform", init=False)


class HeNormal(VarianceScaling):
    """x ~ truncated normal with variance 2 / fan_in, for what goes into a relu.

    Args:
      in_axis, out_axis, batch_axis: As of `VarianceScaling`.

    Source: He et al., Delving deep into rectifiers (2015). PyTorch's `kaiming_normal_` is not truncated:
    `VarianceScaling(2.0, "fan_in", "normal")`.
    """

    scale: float = dataclasses.field(default=2.0, init=False)
    mode: str = dataclasses.field(default="fan_in", init=False)
    distribution: str = dataclasses.field(default="truncated_normal", init=False)


class HeUniform(VarianceScaling):
    """x ~ U(−b, b) with b = √(6 / fan_in). Args and source: as of `HeNormal`."""

    scale: float = dataclasses.field(default=2.0, init=False)
    mode: str = dataclasses.field(default="fan_in", init=False)
    distribution: str = dataclasses.field(default="uniform", init=False)


class TorchKernel(VarianceScaling):
    """x ~ U(−b, b) with b = 1 / √fan_in, as PyTorch draws the kernels of Linear and Conv.

    Args:
      in_axis, out_axis, batch_axis: As of `VarianceScaling`.

    Source: `torch.nn.Linear.reset_parameters`: He's uniform for a leaky relu of slope √5. Its transposed convolutions
    take fan_out for fan_in: `VarianceScaling(1 / 3, "fan_out", "uniform")`; its attention is `GlorotUniform` over the
    packed projection, its embedding `Normal(1.0)`.
    """

    scale: float = dataclasses.field(default=1 / 3, init=False)
    mode: str = dataclasses.field(default="fan_in", init=False)
    distribution: str = dataclasses.field(default="uniform", init=False)


XavierNormal = GlorotNormal  # the same under the author's first name; it prints as GlorotNormal()
XavierUniform = GlorotUniform
KaimingNormal = HeNormal
KaimingUniform = HeUniform


# Orthogonal matrices


class Orthogonal(Initializer):
    """x = scale · Q with QᵀQ = 1 (QQᵀ = 1 where Q is wider than high), uniform among such matrices.

    Axes but column_axis are taken together as rows. Half-precision arrays are rounded from float32.

    Args:
      scale: The gain.
      column_axis: The axis of the columns.

    Source: Saxe et al., Exact solutions to the nonlinear dynamics of learning (2013).
    """

    scale: float = 1.0
    column_axis: int = -1

    def __post_init__(self) -> None:
        self._check(_is_number(self.scale), "a number", "scale")
        self._check(isinstance(self.column_axis, int), "an axis", "column_axis")

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        dtype = self._dtype(dtype, np.floating, np.complexfloating)
        self._check_shape(shape, len(shape) >= 2, "two axes or more")
        if 0 in shape:
            return jnp.zeros(shape, dtype)
        columns = shape[self.column_axis]
        rows = [*shape]
        del rows[self.column_axis]
        exact = dtype if dtype.itemsize >= 4 else np.dtype(np.float32)
        q = jax.random.orthogonal(key, math.prod(rows), (), exact, columns).reshape(*rows, columns)
        q = lax.optimization_barrier(jnp.moveaxis(q, -1, self.column_axis))
        return (q * np.asarray(self.scale, exact)).astype(dtype)

    def _check_shape(self, shape: tuple[int, ...], holds: bool, takes: str) -> None:
        if not holds:
            raise ValueError(f"{self!r} takes {takes}, got shape {tuple(shape)}: use another initialiser there")


class DeltaOrthogonal(Orthogonal):
    """x = scale · Q at the centre of a convolution's window, 0 elsewhere; see `Orthogonal`.

    Source: Xiao et al., Dynamical isometry and a mean field theory of CNNs (2018).
    """

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        *window, inputs, outputs = shape
        self._check_shape(shape, 1 <= len(window) <= 3, "a convolution's kernel with a window of 1 to 3 axes")
        self._check_shape(shape, inputs <= outputs, "at least as many outputs as inputs, (…, in, out)")
        q = super().__call__(key, (inputs, outputs), dtype)
        centre = tuple((n - 1) // 2 for n in window)
        return jnp.zeros(shape, q.dtype).at[centre].set(q)
