"""The projections of attention: kernels whose width follows from the attention around them."""

from __future__ import annotations

import inspect
from typing import Any

import jax

from funcnets.initializers import LecunNormal, Zeros
from funcnets.layer import Layer
from funcnets.layers.inputs import check_floats
from funcnets.layers.promotion import in_dtype_of, per_channel
from funcnets.leaves import Function, Initializer, Param
from funcnets.shapes import is_array, show


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

    Source: `fn.Dense`, whose width is a field. In an Attention each of the four may be another: without a bias, with
      another initialiser, or a Dense of the width that is wanted there.

    Example:
      >>> plain = fn.Projection(use_bias=False)
      >>> net = fn.Attention(2, query=plain, keys=plain, values=plain)
      >>> {name: list(arrays) for name, arrays in net.plan(jnp.ones((2, 3, 8))).params.items()}
      {'query': ['kernel'], 'keys': ['kernel'], 'values': ['kernel'], 'out': ['kernel', 'bias']}
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


def project(m: Any, name: str, x: jax.Array, width: int, remedy: str) -> jax.Array:
    """What attention's child of this name makes of x (batch, time, in): (batch, time, width)."""
    child = getattr(m, name)
    y = child(x, width) if _takes_width(child._scope.layer) else child(x)
    wanted = jax.ShapeDtypeStruct((*x.shape[:-1], width), x.dtype)
    if not is_array(y) or y.shape != wanted.shape or y.dtype != wanted.dtype:
        raise ValueError(
            f"Attention takes {name} as a layer that gives {show(wanted)} for x {show(x)}, got {show(y)}. {remedy}"
        )
    return y


def _takes_width(layer: Layer) -> bool:
    """Whether a layer is called (x, width), as it asks for two inputs, rather than (x)."""
    while layer._is_wrapper:
        layer = layer._entries()[0][1]
    if isinstance(layer, Function):
        try:
            takes = inspect.signature(layer.function)
        except (TypeError, ValueError):  # a builtin that does not tell
            return False
    else:
        takes = layer._wants.inputs
    parameters = takes.parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) and layer._entries():
        return _takes_width(layer._entries()[0][1])  # a row, whose first layer takes the inputs
    asked = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(asked) > 1
