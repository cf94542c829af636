"""Cells of recurrent nets: one step in time, to be run by `Scan`, `Bidirectional` or `Streaming`.

A cell is called `cell(carry, x)` and returns (carry, y). Its gates stand side by side along the last axis of its
arrays, so that one matrix product serves them all. An initialiser draws each gate by itself, as if its part were an
array of its own; a tuple of them gives one for each gate, in the order that the cell names:

    fn.LSTMCell(8, bias_init=(Zeros(), Ones(), Zeros(), Zeros()))        # i f g o: the forget gate begins open

All but the MGU, whose gate acts on h before a product, are a `GatedCell`: parameters act on the gates alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from funcnets.gated import GatedCell
from funcnets.initializers import Initializer, LecunNormal, Orthogonal, Zeros
from funcnets.layer import Layer
from funcnets.layers.convolution import Conv
from funcnets.layers.fields import check_flag, check_whole, refusal
from funcnets.layers.inputs import check_floats
from funcnets.layers.promotion import in_dtype_of, per_channel
from funcnets.layers.windows import BATCH_SPATIAL_CHANNELS, Sizes, check_sizes, each_axis, spatial_axes
from funcnets.leaves import Initializer as Init
from funcnets.leaves import Param
from funcnets.random import Elementwise, Recipe, copy_key
from funcnets.shapes import Tree, show, specs

Inits = Init | tuple[Init, ...]
"""An initialiser of every gate, or one for each."""


class PerGate(Initializer):
    """Equal parts along the last axis, one a gate, each drawn by its own initialiser.

    Args:
      gates: The initialisers.
    """

    gates: tuple[Init, ...]

    def recipe(self, shape: tuple[int, ...], dtype: Any) -> Recipe | None:
        first = self.gates[0]
        if not isinstance(first, Elementwise) or any(other != first for other in self.gates):
            return None
        return first.recipe(self._part(shape), dtype)

    def __call__(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        recipe = self.recipe(shape, dtype)
        if recipe is not None:
            return recipe(key, shape)
        parts = [init(copy_key(key, i), self._part(shape), dtype) for i, init in enumerate(self.gates)]
        return jnp.concatenate(parts, axis=-1)

    def _part(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:-1], shape[-1] // len(self.gates))


class _Cell(GatedCell):
    """What cells share: fields, arrays, and the carry to start from."""

    features: int
    use_bias: bool = dataclasses.field(default=True, kw_only=True)
    kernel_init: Inits = dataclasses.field(default=LecunNormal(), kw_only=True)
    recurrent_init: Inits = dataclasses.field(default=Orthogonal(), kw_only=True)
    bias_init: Inits = dataclasses.field(default=Zeros(), kw_only=True)

    _gates: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_whole(self, "features", "It is the width of the carry; that of x comes from the sample")
        check_flag(self, "use_bias", "The width of x comes from the sample")
        for name in ("kernel_init", "recurrent_init", "bias_init"):
            inits = self._inits(name)
            if len(inits) != len(self._gates) or not all(map(callable, inits)):
                takes = f"as one initialiser, or a tuple of one for each gate ({' '.join(self._gates)})"
                raise refusal(self, name, takes, f"Give as many as there are gates, or one: {name}=Zeros()")

    def initial_carry(self, x: Any) -> Any:
        """The carry to start from, zeros, for one step's input or its spec."""
        self._check_x(x)
        return jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), self._start(x))

    def _start(self, x: Any) -> Any:
        """The spec of the carry."""
        return jax.ShapeDtypeStruct((*x.shape[:-1], self.features), x.dtype)

    def _check_x(self, x: Any) -> None:
        check_floats(self, x, "x (..., in)", 1)

    def _taps(self, x: Any) -> tuple[int, ...]:
        """The axes of the kernels before those of input and output."""
        return ()

    def params(self, carry: Any, x: Any) -> dict[str, Param]:
        self._check_x(x)
        start = self._start(x)
        if specs(carry) != start:
            raise ValueError(
                f"{type(self).__name__} with x {show(x)} takes a carry {show(start)}, got {show(carry)}. Start from "
                f"cell.initial_carry(x), where x is one step's input"
            )
        taps, width = self._taps(x), len(self._gates) * self.features
        declared = {
            "kernel": Param((*taps, x.shape[-1], width), PerGate(self._inits("kernel_init"))),
            "recurrent_kernel": Param((*taps, self.features, width), PerGate(self._inits("recurrent_init"))),
        }
        return declared | ({"bias": Param((width,), PerGate(self._inits("bias_init")))} if self.use_bias else {})

    def _inits(self, name: str) -> tuple[Init, ...]:
        """The initialisers that a field holds, one for each gate."""
        held: Inits = getattr(self, name)
        return held if isinstance(held, tuple) else (held,) * len(self._gates)

    def _of_x(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        """What the input and the bias give each gate."""
        y = x @ in_dtype_of(x, p["kernel"])
        return y + per_channel(p["bias"], y) if self.use_bias else y

    def _of_h(self, p: dict[str, jax.Array], h: jax.Array) -> jax.Array:
        """What the last output gives each gate."""
        return h @ in_dtype_of(h, p["recurrent_kernel"])

    def _split(self, y: jax.Array) -> list[jax.Array]:
        return jnp.split(y, len(self._gates), axis=-1)


class RNNCell(_Cell):
    """h' = activation(x @ kernel + h @ recurrent_kernel + bias), y = h'.

    Args:
      features: The width of h.
      activation: A function of arrays.
      use_bias: Whether to add a bias.
      kernel_init: The initialiser of the kernel.
      recurrent_init: That of the recurrent kernel.
      bias_init: That of the bias.

    Params:
      kernel: (in, features)
      recurrent_kernel: (features, features)
      bias: (features,)

    Inputs: carry h (..., features), x (..., in), floating → (h', h'), in x's dtype.

    Raises:
      ValueError: Fields that cannot be; an x without axes; a carry of another shape or dtype.
      TypeError: An x of whole numbers.

    Source: Elman 1990, Finding structure in time. PyTorch holds two biases, of which this is the sum, kernels that are
      (out, in), and draws all by `initializers.TorchBias(features)`. The recurrent kernel is orthogonal as in Keras.

    Example:
      >>> fn.Scan(fn.RNNCell(8)).plan(jnp.ones((2, 7, 3))).output.shape
      (2, 7, 8)
    """

    activation: Callable[[jax.Array], jax.Array] = jnp.tanh

    _gates: ClassVar[tuple[str, ...]] = ("h",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.activation) or isinstance(self.activation, Layer):
            raise refusal(self, "activation", "as a function of arrays", "Write jnp.tanh or jax.nn.relu")

    def gates(self, p: dict[str, jax.Array], carry: jax.Array, x: jax.Array) -> jax.Array:
        return self._of_x(p, x) + self._of_h(p, carry)

    def step(self, carry: jax.Array, gates: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = self.activation(gates)
        return h, h


class LSTMCell(_Cell):
    """c' = σ(f) · c + σ(i) · tanh(g), h' = σ(o) · tanh(c'), y = h', with i f g o = x @ kernel + h @ recurrent_kernel +
    bias.

    Args:
      features: The width of c and h.
      use_bias: Whether to add a bias.
      kernel_init: The initialiser of the kernel, or a tuple of one for each of i f g o.
      recurrent_init: That of the recurrent kernel.
      bias_init: That of the bias; (Zeros(), Ones(), Zeros(), Zeros()) for a forget gate that begins open.

    Params:
      kernel: (in, 4 · features)
      recurrent_kernel: (features, 4 · features)
      bias: (4 · features,)

    Inputs: carry (c, h), each (..., features), and x (..., in), floating → ((c', h'), h'), in x's dtype.

    Raises:
      ValueError: Fields that cannot be; an x without axes; a carry of another shape or dtype.
      TypeError: An x of whole numbers.

    Source: Hochreiter & Schmidhuber 1997; the forget gate is that of Gers et al. 2000. The carry is (c, h) as in Flax;
      in PyTorch and Keras it is (h, c). PyTorch has the same order of gates and two biases, of which this is the sum;
      Haiku has i g f o. Keras's forget gate begins open.

    Example:
      >>> net = fn.Scan(fn.LSTMCell(8), return_carry=True)
      >>> (c, h), ys = net.plan(jnp.ones((2, 7, 3))).output
      >>> h.shape, ys.shape
      ((2, 8), (2, 7, 8))
    """

    _gates: ClassVar[tuple[str, ...]] = ("i", "f", "g", "o")

    def _start(self, x: Any) -> Any:
        return super()._start(x), super()._start(x)

    def gates(self, p: dict[str, jax.Array], carry: Tree, x: jax.Array) -> jax.Array:
        return self._of_x(p, x) + self._of_h(p, carry[1])

    def step(self, carry: Tree, gates: jax.Array) -> tuple[Tree, jax.Array]:
        c, _ = carry
        i, f, g, o = self._split(gates)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (c, h), h


class GRUCell(_Cell):
    """h' = (1 − σ(z)) · n + σ(z) · h, y = h', with n = tanh(nₓ + σ(r) · (nₕ + recurrent_bias)), where r z n of x are
    x @ kernel + bias, those of h are h @ recurrent_kernel, and r and z are the sums of both.

    Args:
      features: The width of h.
      use_bias: Whether to add biases.
      kernel_init: The initialiser of the kernel, or a tuple of one for each of r z n.
      recurrent_init: That of the recurrent kernel.
      bias_init: That of the biases; the last of a tuple draws both of n's.

    Params:
      kernel: (in, 3 · features)
      recurrent_kernel: (features, 3 · features)
      bias: (3 · features,)
      recurrent_bias: (features,)

    Inputs: carry h (..., features), x (..., in), floating → (h', h'), in x's dtype.

    Raises:
      ValueError: Fields that cannot be; an x without axes; a carry of another shape or dtype.
      TypeError: An x of whole numbers.

    Source: Cho et al. 2014, in the form of PyTorch, Flax and Keras (reset_after), which gate the recurrent product; the
      paper gates h before it. PyTorch's other two recurrent biases are added to ours.

    Example:
      >>> fn.Scan(fn.GRUCell(8)).plan(jnp.ones((2, 7, 3))).output.shape
      (2, 7, 8)
    """

    _gates: ClassVar[tuple[str, ...]] = ("r", "z", "n")

    def params(self, carry: Any, x: Any) -> dict[str, Param]:
        declared = super().params(carry, x)
        return declared | (
            {"recurrent_bias": Param((self.features,), self._inits("bias_init")[-1])} if self.use_bias else {}
        )

    def gates(self, p: dict[str, jax.Array], carry: jax.Array, x: jax.Array) -> tuple[jax.Array, ...]:
        of_x, of_h = self._split(self._of_x(p, x)), self._split(self._of_h(p, carry))
        r, z = (a + b for a, b in zip(of_x[:2], of_h[:2], strict=True))
        recurrent = of_h[2] + per_channel(p["recurrent_bias"], x) if self.use_bias else of_h[2]
        return r, z, of_x[2], recurrent

    def step(self, carry: jax.Array, gates: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        r, z, n, recurrent = gates
        r, z = jax.nn.sigmoid(r), jax.nn.sigmoid(z)
        n = jnp.tanh(n + r * recurrent)
        h = (1 - z) * n + z * carry
        return h, h


class MGUCell(_Cell):
    """h' = (1 − f) · h + f · n, y = h', with f = σ(fₓ + h @ recurrent_f), n = tanh(nₓ + (f · h) @ recurrent_n), where
    f n of x are x @ kernel + bias: the minimal gated unit.

    Args:
      features: The width of h.
      use_bias: Whether to add a bias.
      kernel_init: The initialiser of the kernel, or a tuple of one for each of f n.
      recurrent_init: That of the recurrent kernel.
      bias_init: That of the bias.

    Params:
      kernel: (in, 2 · features)
      recurrent_kernel: (features, 2 · features), recurrent_f and recurrent_n side by side
      bias: (2 · features,)

    Inputs: carry h (..., features), x (..., in), floating → (h', h'), in x's dtype.

    Raises:
      ValueError: Fields that cannot be; an x without axes; a carry of another shape or dtype.
      TypeError: An x of whole numbers.

    Source: Zhou et al. 2016, Minimal gated unit for recurrent neural networks. Flax's MGUCell gates the recurrent
      product rather than h, and gives f the other role: h' = (1 − f) · n + f · h.

    Example:
      >>> fn.Scan(fn.MGUCell(8)).plan(jnp.ones((2, 7, 3))).output.shape
      (2, 7, 8)
    """

    _gates: ClassVar[tuple[str, ...]] = ("f", "n")

    def forward(self, p: dict[str, jax.Array], carry: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_x, recurrent = self._split(self._of_x(p, x)), self._split(in_dtype_of(x, p["recurrent_kernel"]))
        f = jax.nn.sigmoid(of_x[0] + carry @ recurrent[0])
        n = jnp.tanh(of_x[1] + (f * carry) @ recurrent[1])
        h = (1 - f) * carry + f * n
        return h, h


class ConvLSTMCell(LSTMCell):
    """The LSTM cell with convolutions for matrix products, over one to three spatial axes:
    i f g o = conv(x, kernel) + conv(h, recurrent_kernel) + bias.

    Args:
      features: The channels of c and h.
      kernel_size: The taps along each axis; the edges are padded with zeros, so that sizes stay.
      use_bias: Whether to add a bias.
      kernel_init: The initialiser of the kernel, or a tuple of one for each of i f g o.
      recurrent_init: That of the recurrent kernel.
      bias_init: That of the bias.

    Params:
      kernel: (*kernel_size, in, 4 · features)
      recurrent_kernel: (*kernel_size, features, 4 · features)
      bias: (4 · features,)

    Inputs: carry (c, h), each (batch, *spatial, features), and x (batch, *spatial, in), floating → ((c', h'), h'), in
      x's dtype.

    Raises:
      ValueError: Fields that cannot be; an x of another rank; a carry of another shape or dtype.
      TypeError: An x of whole numbers.

    Source: Shi et al. 2015, Convolutional LSTM network, without its products of c and the gates (peepholes), as in
      Keras, Flax and Haiku.

    Example:
      >>> fn.Scan(fn.ConvLSTMCell(8, 3)).plan(jnp.ones((2, 5, 16, 16, 3))).output.shape
      (2, 5, 16, 16, 8)
    """

    kernel_size: Sizes

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sizes(self, "kernel_size")

    def _check_x(self, x: Any) -> None:
        check_floats(self, x, f"x {BATCH_SPATIAL_CHANNELS}", 3, 5)
        spatial_axes(self, x, "kernel_size")

    def _taps(self, x: Any) -> tuple[int, ...]:
        return each_axis(self.kernel_size, len(x.shape) - 2)

    def _of_x(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        y = self._conv().forward({"kernel": p["kernel"]}, x)
        return y + per_channel(p["bias"], y) if self.use_bias else y

    def _of_h(self, p: dict[str, jax.Array], h: jax.Array) -> jax.Array:
        return self._conv().forward({"kernel": p["recurrent_kernel"]}, h)

    def _conv(self) -> Conv:
        return Conv(4 * self.features, self.kernel_size, use_bias=False)
