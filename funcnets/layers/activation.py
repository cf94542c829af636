"""Activations that have parameters or options; one that has neither is a function, such as `jax.nn.gelu`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.initializers import Constant, LecunNormal, Zeros
from funcnets.layer import Layer
from funcnets.layers.axes import Axes, axes_of, check_axes
from funcnets.layers.fields import check_flag, check_function, check_whole, refusal
from funcnets.layers.inputs import check_floats
from funcnets.layers.linear import Dense, varying
from funcnets.layers.promotion import along
from funcnets.leaves import Initializer, Param
from funcnets.shapes import show


class PReLU(Layer):
    """y = x where x > 0, and slope · x elsewhere, with one slope along each of the named axes.

    Args:
      axis: The axis, or a tuple of axes, along which the slope varies; () for one slope in all.
      slope_init: The slope's initialiser.

    Params:
      slope: x's sizes along the axes, in x's order

    Inputs: x (...), floating → the same shape and dtype.

    Raises:
      ValueError: An axis that cannot be; an input without the axes named.
      TypeError: An input of whole numbers.

    Source: He et al. 2015. PyTorch has one slope, (1,), or one a channel, here PReLU(-1); Keras one for each value of
      an example. Weight decay draws the slope to 0, where this is a plain relu.

    Example:
      >>> layer, x = fn.PReLU(), jnp.array([-2.0, 3.0])
      >>> layer.apply(layer.init(jax.random.key(0), x), x)
      Array([-0.5,  3. ], dtype=float32)
    """

    axis: Axes = ()
    slope_init: Initializer = Constant(0.25)

    def __post_init__(self) -> None:
        check_axes(self, "axis", "Sizes come from the sample: PReLU(-1) has a slope for each channel, PReLU() one")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        return {"slope": varying(self, x, self.slope_init)}

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return jnp.where(x > 0, x, x * along(p["slope"], x, axes_of(self, x, "axis")))

    def _auto_name(self) -> str:
        return "prelu"


class GLU(Layer):
    """y = a · activation(b), where a and b are the halves of x along an axis.

    Args:
      activation: The function that makes the gate of the second half.
      axis: The axis to halve.

    Inputs: x (...), floating, of an even size along the axis → half that size, in x's dtype.

    Raises:
      ValueError: An activation or axis that cannot be; an input without the axis, or of an odd size along it.
      TypeError: An input of whole numbers.

    Source: Dauphin et al. 2017; the halves in PyTorch's order. With the sigmoid it is `jax.nn.glu`. Where the halves
      come from one product each, and another follows, it is `GatedMLP`.

    Example:
      >>> fn.GLU(jax.nn.relu).apply({}, jnp.array([2.0, 3.0, -1.0, 5.0]))
      Array([ 0., 15.], dtype=float32)
    """

    activation: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid
    axis: int = -1

    def __post_init__(self) -> None:
        check_function(self, "activation")
        if not isinstance(self.axis, int) or isinstance(self.axis, bool):
            raise refusal(self, "axis", "as one axis", "It is the one that is cut in half: GLU(axis=-1)")

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_floats(self, x, "(...)", 0)
        (axis,) = axes_of(self, x, "axis")
        if x.shape[axis] % 2:
            raise ValueError(
                f"GLU with axis={self.axis} takes inputs of an even size along it, got {show(x)}. Make the layer "
                f"before it twice as wide as the output is to be"
            )
        a, b = jnp.split(x, 2, axis)
        return a * self.activation(b)


class Maxout(Layer):
    """y[f] = max over the pieces p of x @ kernel[:, p, f] + bias[p, f], over the last axis.

    Args:
      features: The width of the output; that of the input comes from the sample.
      pieces: The number of products of which the largest is taken.
      use_bias: Whether to add a bias.
      kernel_init: The kernel's initialiser.
      bias_init: The bias's initialiser.

    Params:
      kernel: (in, pieces, features)
      bias: (pieces, features)

    Inputs: x (..., in), floating → (..., features), in x's dtype.

    Raises:
      ValueError: Features, pieces or a switch that cannot be; an input without axes.
      TypeError: An input of whole numbers.

    Source: Goodfellow et al. 2013. Pieces that are equal share the gradient (JAX's max).

    Example:
      >>> fn.Maxout(4, pieces=3).plan(jnp.ones((2, 5))).params["kernel"].shape
      (5, 3, 4)
    """

    features: int
    pieces: int = 2
    use_bias: bool = True
    kernel_init: Initializer = LecunNormal()
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_whole(self, "features", "It is the width of the output: Maxout(256)")
        check_whole(self, "pieces", "It is how many products each output is the largest of: Maxout(256, pieces=2)")
        check_flag(self, "use_bias", "The pieces come before it: Maxout(256, 2, False)")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, "(..., in)", 1)
        return self._dense().params(x)

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return self._dense().forward(p, x).max(-2)

    def _dense(self) -> Dense:
        return Dense((self.pieces, self.features), self.use_bias, self.kernel_init, self.bias_init)


class GatedMLP(Layer):
    """y = (activation(x @ gate) · (x @ up)) @ down, over the last axis.

    With the SiLU it is SwiGLU, with `jax.nn.gelu` GEGLU, with `jax.nn.sigmoid` the GLU of a transformer.

    Args:
      hidden: The width between.
      features: The width of the output; None for the input's.
      activation: The function that makes the gate.
      use_bias: Whether to add biases.

    Params:
      gate/kernel: (in, hidden)
      up/kernel: (in, hidden)
      down/kernel: (hidden, features)
      gate/bias, up/bias: (hidden,)
      down/bias: (features,)

    Inputs: x (..., in), floating → (..., features), in x's dtype.

    Raises:
      ValueError: Widths, an activation or a switch that cannot be; an input without axes.
      TypeError: An input of whole numbers.

    Source: Shazeer 2020, where hidden is 2/3 of that of a plain MLP with as many parameters. The names are those of
      Llama's weights; there w1 is gate, w3 up and w2 down.

    Example:
      >>> params = fn.GatedMLP(16).init(jax.random.key(0), jnp.ones((2, 8)))
      >>> params["gate"]["kernel"].shape, params["down"]["kernel"].shape
      ((8, 16), (16, 8))
    """

    hidden: int
    features: int | None = None
    activation: Callable[[jax.Array], jax.Array] = jax.nn.silu
    use_bias: bool = False

    def __post_init__(self) -> None:
        check_whole(self, "hidden", "It is the width between: GatedMLP(1024)")
        if self.features is not None:
            check_whole(self, "features", "It is the width of the output; features=None has the input's")
        check_function(self, "activation")
        check_flag(self, "use_bias", "It comes after the activation: GatedMLP(1024, use_bias=True)")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Any]:
        check_floats(self, x, "(..., in)", 1)
        wide, back = self._denses(x)
        gated = jax.ShapeDtypeStruct((*x.shape[:-1], self.hidden), x.dtype)
        return {"gate": wide.params(x), "up": wide.params(x), "down": back.params(gated)}

    def forward(self, p: dict[str, dict[str, jax.Array]], x: jax.Array) -> jax.Array:
        wide, back = self._denses(x)
        gated = self.activation(wide.forward(p["gate"], x)) * wide.forward(p["up"], x)  # (..., hidden)
        return back.forward(p["down"], gated)

    def _denses(self, x: Any) -> tuple[Dense, Dense]:
        return Dense(self.hidden, self.use_bias), Dense(self.features or x.shape[-1], self.use_bias)
