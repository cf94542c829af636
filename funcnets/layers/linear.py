"""Layers that are a matrix product."""

from __future__ import annotations

import jax

from funcnets.initializers import LecunNormal, Zeros
from funcnets.layer import Layer
from funcnets.layers.fields import check_flag, check_whole
from funcnets.layers.inputs import check_floats
from funcnets.layers.promotion import in_dtype_of, per_channel
from funcnets.leaves import Initializer, Param


class Dense(Layer):
    """y = x @ kernel + bias, over the last axis.

    Args:
      features: The width of the output; that of the input comes from the sample.
      use_bias: Whether to add a bias.
      kernel_init: The kernel's initialiser.
      bias_init: The bias's initialiser.

    Params:
      kernel: (in, features)
      bias: (features,)

    Inputs: x (..., in), floating → (..., features), in x's dtype.

    Raises:
      ValueError: Features that are no positive whole number; an input without axes.
      TypeError: An input of whole numbers.

    Source: the kernel is (in, out) as in Flax and Haiku; PyTorch and Equinox hold (out, in). The initial values are
      LeCun's normal as in Flax; PyTorch draws kernel and bias from a uniform distribution
      (`initializers.TorchKernel`).

    Example:
      >>> params = fn.Dense(10).init(jax.random.key(0), jnp.ones((2, 20)))
      >>> params["kernel"].shape, params["bias"].shape
      ((20, 10), (10,))
    """

    features: int
    use_bias: bool = True
    kernel_init: Initializer = LecunNormal()
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_whole(self, "features", "It is the width of the output: Dense(256)")
        check_flag(self, "use_bias", "Dense takes one width, its output's; the input's comes from the sample")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        check_floats(self, x, "(..., in)", 1)
        kernel = Param((x.shape[-1], self.features), self.kernel_init)
        return {"kernel": kernel} | ({"bias": Param((self.features,), self.bias_init)} if self.use_bias else {})

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        y = x @ in_dtype_of(x, p["kernel"])
        return y + per_channel(p["bias"], y) if self.use_bias else y
