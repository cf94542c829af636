"""Initialisers: what an array holds before anything is learned.

An initialiser is any function (key, shape, dtype) → array. Those here are values: they compare by their fields and
print as the code that builds them, and so does a layer that holds one.

    LecunNormal()(key, (3, 3, 64, 128))        # a convolution's kernel: fan_in = 3 · 3 · 64
    fn.Dense(10, kernel_init=Normal(0.02))

Nearly all are a factor times a standard draw, element by element. They say so in a `recipe`, by which
`funcnets.random.draw` makes all arrays of a net at once; the others compute. On equal keys the real numbers are those
that `jax.nn.initializers` gives outside of jit, to the bit; here they are the same under jit, vmapped and sharded too.

A kernel (…, in, out) has fan_in = in · Π… and fan_out = out · Π…. Where its axes lie otherwise, keywords tell: in_axis
and out_axis, an axis each or a tuple of axes, and batch_axis, along which kernels are held that never meet.
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


class Initializer(Value):
    """A frozen function (key, shape, dtype) → array. A subclass gives its `recipe`, or else defines `__call__`."""

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        """Draws an array.

        Args:
          key: A PRNG key; constants look at none.
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

    def _dtype(self, dtype: Any, *kinds: str) -> np.dtype[Any]:
        stated = np.dtype(dtype)
        held = jax.dtypes.canonicalize_dtype(stated)
        if held != stated and dtype not in (bool, int, float, complex):  # Python's own mean the usual width
            raise TypeError(f"{self!r} was asked for {stated}, which takes jax_enable_x64: set it, or ask for {held}")
        if kinds and not any(jnp.issubdtype(held, getattr(np, kind)) for kind in kinds):
            raise TypeError(f"{self!r} draws {' or '.join(kinds)} numbers, was asked for {held}: name such a dtype")
        return held

    def _take(self, field: str, takes: str, holds: Callable[[Any], bool]) -> None:
        if not holds(getattr(self, field)):
            raise ValueError(f"{type(self).__name__} takes {takes}, got {field}={getattr(self, field)!r}")


def _number(held: Any) -> bool:
    return isinstance(held, int | float) and not isinstance(held, bool) and math.isfinite(held)


def _deviation(held: Any) -> bool:
    return _number(held) and held >= 0


def _below(low: Any, high: float) -> bool:
    return isinstance(low, int | float) and low < high


# Constants


class Constant(Initializer):
    """x = value everywhere.

    Args:
      value: A number. (For an array of numbers, write a function of key, shape and dtype.)
    """

    value: complex

    def __post_init__(self) -> None:
        self._take("value", "a number", lambda held: isinstance(held, int | float | complex))

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        dtype = self._dtype(dtype)
        whole = not isinstance(self.value, complex) and float(self.value).is_integer()
        if not whole and not jnp.issubdtype(
            dtype, np.complexfloating if isinstance(self.value, complex) else np.inexact
        ):
            raise TypeError(f"{self!r} does not fit into {dtype}: name a dtype that holds it")
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
      stddev: The standard deviation; of complex numbers, both parts taken together.
    """

    stddev: float = 0.01

    def __post_init__(self) -> None:
        self._take("stddev", "a standard deviation of at least 0", _deviation)

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        return Recipe(_NORMAL, np.asarray(self.stddev, self._dtype(dtype, "floating", "complexfloating")))


class TruncatedNormal(Initializer):
    """x = stddev · z with z ~ N(0, 1), given lower < z < upper.

    Args:
      stddev: The standard deviation before truncation; with bounds of ±2, 0.88 of it is left.
      lower, upper: The bounds, in standard deviations.

    Source: the bounds are on z as in JAX and Flax; PyTorch's `trunc_normal_` bounds x, so its a is lower · stddev.
    """

    stddev: float = 0.01
    lower: float = -2.0
    upper: float = 2.0

    def __post_init__(self) -> None:
        self._take("stddev", "a standard deviation of at least 0", _deviation)
        self._take("upper", "a number", lambda upper: isinstance(upper, int | float))
        self._take("lower", f"a number below upper={self.upper!r}", lambda lower: _below(lower, self.upper))

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        standard = Standard(_truncated_normal, (self.lower, self.upper))
        return Recipe(standard, np.asarray(self.stddev, self._dtype(dtype, "floating")))


class Uniform(Initializer):
    """x ~ U[0, scale).

    Args:
      scale: The upper bound.

    Source: as in JAX and Flax. What Keras, Haiku and PyTorch call uniform takes both bounds: `UniformRange`.
    """

    scale: float = 0.01

    def __post_init__(self) -> None:
        self._take("scale", "a number", _number)

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        return Recipe(Standard(jax.random.uniform), np.asarray(self.scale, self._dtype(dtype, "floating")))


class UniformRange(Initializer):
    """x ~ U[low, high).

    Args:
      low, high: The bounds.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        self._take("high", "a number", _number)
        self._take("low", f"a number below high={self.high!r}", lambda low: _number(low) and _below(low, self.high))

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        standard = Standard(jax.random.uniform, (self.low, self.high))
        return Recipe(standard, np.asarray(1.0, self._dtype(dtype, "floating")))


class TorchBias(Initializer):
    """x ~ U(−b, b) with b = 1 / √fan_in, as PyTorch draws biases.

    Its recurrent layers draw kernels and biases so, with the hidden size for fan_in; Bilinear with the first input's.

    Args:
      fan_in: The fan_in of the kernel that the bias goes with.

    Source: `torch.nn.Linear.reset_parameters`.
    """

    fan_in: int

    def __post_init__(self) -> None:
        self._take("fan_in", "the kernel's fan_in, 1 or more", lambda held: isinstance(held, int) and held >= 1)

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        return Recipe(_SYMMETRIC, np.asarray(1 / math.sqrt(self.fan_in), self._dtype(dtype, "floating")))


# Draws as wide as the fans ask


class _Kernel(Initializer):
    """x with mean 0 and variance scale / n, n being a fan."""

    in_axis: int | tuple[int, ...] = dataclasses.field(default=-2, kw_only=True)
    out_axis: int | tuple[int, ...] = dataclasses.field(default=-1, kw_only=True)
    batch_axis: int | tuple[int, ...] = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        for field in ("in_axis", "out_axis", "batch_axis"):
            self._take(field, "an axis or a tuple of axes", lambda held: all(isinstance(a, int) for a in _axes(held)))

    def _law(self) -> tuple[float, str, str]:
        """Scale, mode and distribution."""
        raise NotImplementedError

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe:
        scale, mode, distribution = self._law()
        dtype = self._dtype(dtype, "floating", "complexfloating")
        standard, wider, left = (_COMPLEX if dtype.kind == "c" else _DISTRIBUTIONS)[distribution]
        variance = np.asarray(scale / _MODES[mode](*self._fans(shape)), dtype)
        return Recipe(standard, np.sqrt(np.asarray(wider, dtype) * variance) / np.asarray(left, dtype))

    def _fans(self, shape: tuple[int, ...]) -> tuple[float, float]:
        named = (self.in_axis, self.out_axis, self.batch_axis)
        try:
            inputs, outputs, batch = (math.prod(shape[axis] for axis in _axes(axes)) for axes in named)
        except IndexError:
            raise ValueError(
                f"{self!r} takes an array with axes in_axis={self.in_axis} and out_axis={self.out_axis}, got shape "
                f"{shape}: name the axes, or use an initialiser of a given width, such as Normal"
            ) from None
        if 0 in shape:
            return 1, 1  # nothing will be drawn
        rest = math.prod(shape) / inputs / outputs / batch
        return inputs * rest, outputs * rest


def _axes(axes: int | tuple[int, ...]) -> tuple[int, ...]:
    return axes if isinstance(axes, tuple) else (axes,)


def with_axes(
    initializer: Callable[..., Any],
    in_axis: tuple[int, ...],
    out_axis: tuple[int, ...],
    batch_axis: tuple[int, ...] = (),
) -> Callable[..., Any]:
    """An initialiser of a layer that knows its kernel's axes: one that goes by the fans, and was given no axes of its
    own, with these; any other as it is.
    """
    if not isinstance(initializer, _Kernel):
        return initializer
    if (initializer.in_axis, initializer.out_axis, initializer.batch_axis) != (-2, -1, ()):
        return initializer
    return dataclasses.replace(initializer, in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis)


class VarianceScaling(_Kernel):
    """x with mean 0 and variance scale / n, n being a fan of the kernel.

    Args:
      scale: The square of the gain.
      mode: What n is: "fan_in", "fan_out", "fan_avg" (their mean) or "fan_geo_avg" (their geometric mean).
      distribution: "normal", "truncated_normal" (at two standard deviations, then widened to the stated variance) or
        "uniform". Of complex numbers, the last two are in a disk.
      in_axis, out_axis, batch_axis: The kernel's axes.
    """

    scale: float
    mode: str
    distribution: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self._take("scale", "a scale of at least 0", _deviation)
        self._take("mode", " or ".join(map(repr, _MODES)), _MODES.__contains__)
        self._take("distribution", " or ".join(map(repr, _DISTRIBUTIONS)), _DISTRIBUTIONS.__contains__)

    def _law(self) -> tuple[float, str, str]:
        return self.scale, self.mode, self.distribution


class LecunNormal(_Kernel):
    """x ~ truncated normal of variance 1 / fan_in.

    Args:
      in_axis, out_axis, batch_axis: The kernel's axes.

    Source: LeCun et al., Efficient backprop (1998). The default of Flax.
    """

    def _law(self) -> tuple[float, str, str]:
        return 1.0, "fan_in", "truncated_normal"


class LecunUniform(_Kernel):
    """x ~ U(−b, b) with b = √(3 / fan_in). Args, Source: as of `LecunNormal`."""

    def _law(self) -> tuple[float, str, str]:
        return 1.0, "fan_in", "uniform"


class GlorotNormal(_Kernel):
    """x ~ truncated normal of variance 2 / (fan_in + fan_out).

    Args:
      in_axis, out_axis, batch_axis: The kernel's axes.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks (2010).
    PyTorch's `xavier_normal_` is not truncated: `VarianceScaling(1.0, "fan_avg", "normal")`.
    """

    def _law(self) -> tuple[float, str, str]:
        return 1.0, "fan_avg", "truncated_normal"


class GlorotUniform(_Kernel):
    """x ~ U(−b, b) with b = √(6 / (fan_in + fan_out)), the default of Keras. Args, Source: as of `GlorotNormal`."""

    def _law(self) -> tuple[float, str, str]:
        return 1.0, "fan_avg", "uniform"


class HeNormal(_Kernel):
    """x ~ truncated normal of variance 2 / fan_in, for what a relu follows.

    Args:
      in_axis, out_axis, batch_axis: The kernel's axes.

    Source: He et al., Delving deep into rectifiers (2015). PyTorch's `kaiming_normal_` is not truncated:
    `VarianceScaling(2.0, "fan_in", "normal")`.
    """

    def _law(self) -> tuple[float, str, str]:
        return 2.0, "fan_in", "truncated_normal"


class HeUniform(_Kernel):
    """x ~ U(−b, b) with b = √(6 / fan_in). Args, Source: as of `HeNormal`."""

    def _law(self) -> tuple[float, str, str]:
        return 2.0, "fan_in", "uniform"


class TorchKernel(_Kernel):
    """x ~ U(−b, b) with b = 1 / √fan_in, as PyTorch draws the kernels of Linear and Conv.

    Args:
      in_axis, out_axis, batch_axis: The kernel's axes.

    Source: `torch.nn.Linear.reset_parameters`, where it is He's for a leaky relu of slope √5. Of the other layers
    there, ConvTranspose takes fan_out, `VarianceScaling(1 / 3, "fan_out", "uniform")`; attention draws its packed
    projection by `GlorotUniform()`, its biases are 0; Embedding is `Normal(1.0)`, PReLU `Constant(0.25)`.
    """

    def _law(self) -> tuple[float, str, str]:
        return 1 / 3, "fan_in", "uniform"


# The same by the author's other name. They print as Glorot… and He….
XavierNormal = GlorotNormal
XavierUniform = GlorotUniform
KaimingNormal = HeNormal
KaimingUniform = HeUniform


# Orthogonal matrices


class Orthogonal(Initializer):
    """x = scale · Q with orthonormal columns, or rows where these are fewer; uniform among such matrices.

    All axes but the columns' together are the rows. Half-precision arrays are rounded from float32.

    Args:
      scale: The gain.
      column_axis: The axis of the columns.

    Source: Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear neural networks (2013).
    """

    scale: float = 1.0
    column_axis: int = -1

    def __post_init__(self) -> None:
        self._take("scale", "a number", _number)
        self._take("column_axis", "an axis", lambda held: isinstance(held, int))

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        dtype = self._dtype(dtype, "floating", "complexfloating")
        self._expect(len(shape) >= 2, "an array with two axes or more", shape)
        if 0 in shape:
            return jnp.zeros(shape, dtype)
        columns = shape[self.column_axis]
        rows = list(shape)
        del rows[self.column_axis]
        exact = dtype if dtype.itemsize >= 4 else np.dtype(np.float32)
        q = jax.random.orthogonal(key, math.prod(rows), (), exact, columns).reshape(*rows, columns)
        q = lax.optimization_barrier(jnp.moveaxis(q, -1, self.column_axis))
        return (q * np.asarray(self.scale, exact)).astype(dtype)

    def _expect(self, holds: bool, takes: str, shape: tuple[int, ...]) -> None:
        if not holds:
            raise ValueError(f"{self!r} takes {takes}, got shape {tuple(shape)}: use another initialiser for it")


class DeltaOrthogonal(Orthogonal):
    """x = scale · Q at the centre of a convolution's window, 0 elsewhere.

    Args:
      scale, column_axis: As of `Orthogonal`.

    Source: Xiao et al., Dynamical isometry and a mean field theory of CNNs (2018).
    """

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        self._expect(3 <= len(shape) <= 5, "a convolution's kernel with 1 to 3 axes of its window", shape)
        *window, inputs, outputs = shape
        self._expect(inputs <= outputs, "a kernel with at least as many outputs as inputs", shape)
        q = super().__call__(key, (inputs, outputs), dtype)
        if 0 in window:
            return jnp.zeros(shape, q.dtype)
        return jnp.zeros(shape, q.dtype).at[tuple((n - 1) // 2 for n in window)].set(q)


# Standard draws


def _truncated_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any, lower: float, upper: float) -> jax.Array:
    return jax.random.truncated_normal(key, lower, upper, shape, dtype)


def _disk(key: jax.Array, shape: tuple[int, ...], dtype: Any, radius: float | None = None) -> jax.Array:
    """Complex numbers of variance 1: uniform in a disk, or normal and cut at a radius."""
    real = np.zeros((), dtype).real.dtype
    u, v = (jax.random.uniform(k, shape, real) for k in jax.random.split(key))
    r = jnp.sqrt(2 * u) if radius is None else jnp.sqrt(-jnp.log(1 - (1 - math.exp(-(radius**2))) * u))
    return lax.complex(r * jnp.cos(2 * np.pi * v), r * jnp.sin(2 * np.pi * v))


_NORMAL = Standard(jax.random.normal)
_SYMMETRIC = Standard(jax.random.uniform, (-1.0, 1.0))
_TRUNCATED = Standard(_truncated_normal, (-2.0, 2.0))

_MODES: dict[str, Callable[[float, float], float]] = {
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
    "fan_geo_avg": lambda fan_in, fan_out: (fan_in * fan_out) ** 0.5,
}


# A standard draw; what its variance of 1 or less is multiplied by, and its standard deviation divided by, to be 1.
_DISTRIBUTIONS: dict[str, tuple[Standard, float, float]] = {
    "normal": (_NORMAL, 1, 1),
    "truncated_normal": (_TRUNCATED, 1, 0.87962566103423978),
    "uniform": (_SYMMETRIC, 3, 1),
}
_COMPLEX: dict[str, tuple[Standard, float, float]] = {
    "normal": (_NORMAL, 1, 1),
    "truncated_normal": (Standard(_disk, (2.0,)), 1, 0.95311164380491208),
    "uniform": (Standard(_disk), 1, 1),
}
