"""Small nets that others are built from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from funcnets.combinators import Child, Sequential
from funcnets.compose import Composite
from funcnets.layer import Layer
from funcnets.layers.dropout import Dropout
from funcnets.layers.fields import check_flag, check_function, check_share, check_whole, is_whole, refusal
from funcnets.layers.inputs import check_floats
from funcnets.layers.linear import Dense
from funcnets.layers.pooling import GlobalAvgPool
from funcnets.layers.promotion import along
from funcnets.layers.windows import BATCH_SPATIAL_CHANNELS
from funcnets.leaves import is_child
from funcnets.values import Argument


class MLP(Composite):
    """y = Dense(… activation(Dense(activation(Dense(x))))), over the last axis.

    It is a `Sequential` of the same layers under the same names, so it computes the same with the same parameters. An
    activation that is a layer with parameters stands once for each place.

    Args:
      *widths: The width of each Dense, the last being that of the output.
      activation: The function or layer between.
      dropout: The share of values dropped after each activation in training.
      use_bias: Whether to add biases.
      activate_final: Whether activation and dropout follow the last Dense too.
      features: The widths as one iterable, after those given one by one.

    Params:
      dense_0/kernel: (in, features[0]), and so on
      dense_0/bias: (features[0],), and so on

    Inputs: x (..., in), floating → (..., features[-1]), in x's dtype. With dropout, training takes a key.

    Raises:
      ValueError: Widths, an activation, a share or a switch that cannot be; an input without axes.
      TypeError: An input of whole numbers.

    Source: the form is torchvision's, which drops after the last Dense as well; Equinox's takes one width and a depth.

    Example:
      >>> mlp = fn.MLP(256, 256, 10, activation=jax.nn.gelu, dropout=0.1)
      >>> list(mlp.init(jax.random.key(0), jnp.ones((2, 20))))
      ['dense_0', 'dense_1', 'dense_2']
    """

    features: tuple[int, ...]
    activation: Layer | Callable[..., Any] = jax.nn.relu
    dropout: float = 0.0
    use_bias: bool = True
    activate_final: bool = False

    def __init__(
        self,
        *widths: int,
        activation: Layer | Callable[..., Any] = jax.nn.relu,
        dropout: float = 0.0,
        use_bias: bool = True,
        activate_final: bool = False,
        features: Iterable[int] = (),
    ) -> None:
        self._fill(
            features=(*widths, *features),
            activation=activation,
            dropout=dropout,
            use_bias=use_bias,
            activate_final=activate_final,
        )

    def __post_init__(self) -> None:
        if not self.features or not all(is_whole(width, least=1) for width in self.features):
            remedy = "They are the widths of its layers: MLP(256, 256, 10)"
            raise refusal(self, "features", "as whole numbers, at least 1, one by one", remedy)
        if not is_child(self.activation):
            raise refusal(self, "activation", "as a function or a layer", "Pass it itself: activation=jax.nn.gelu")
        check_share(
            self,
            "dropout",
            "as the share of values dropped, in [0, 1)",
            "A share to keep goes in as dropout=1 - keep; dropout=0.0 keeps all",
            one=False,
        )
        check_flag(self, "use_bias", "Widths come one by one: MLP(256, 10, use_bias=False)")
        check_flag(self, "activate_final", "Widths come one by one: MLP(256, 10, activate_final=True)")

    @property
    def layers(self) -> tuple[Child, ...]:
        """What it runs, in order."""
        between = (self.activation, *([Dropout(self.dropout)] if self.dropout else []))
        row = tuple(layer for width in self.features for layer in (Dense(width, self.use_bias), *between))
        return row if self.activate_final else row[: -len(between)]

    def forward(self, m: Any, x: jax.Array) -> jax.Array:
        for layer in m.layers:
            x = layer(x)
        return x

    def _parts(self) -> dict[str, Any]:
        return {"layers": self.layers}

    def _with_parts(self, changed: Mapping[str, Any]) -> Layer:
        return Sequential(layers=changed["layers"])

    def _arguments(self) -> list[Argument]:
        return [*map(Argument, self.features), *super()._arguments()[1:]]


class SqueezeExcite(Layer):
    """y = x · gate(activation(mean @ down + bias) @ up + bias), where mean is that of each channel over all positions.

    Args:
      ratio: Channels over hidden; 4 if neither of them is given. The width is rounded down, to 1 at the least.
      hidden: The width between.
      activation: The function between.
      gate: The function that makes the factors.

    Params:
      down/kernel: (channels, hidden)
      down/bias: (hidden,)
      up/kernel: (hidden, channels)
      up/bias: (channels,)

    Inputs: x (batch, *spatial, channels), floating → the same shape and dtype.

    Raises:
      ValueError: A ratio, a hidden width or functions that cannot be; both ratio and hidden; an input of another rank,
        or without positions.
      TypeError: An input of whole numbers.

    Source: Hu et al. 2018, with a ratio of 16; MobileNetV3 has 4, and `jax.nn.hard_sigmoid` for the gate. EfficientNet
      has the SiLU for the activation, and takes hidden from the width of its block.

    Example:
      >>> fn.SqueezeExcite(16).plan(jnp.ones((2, 8, 8, 64))).params["down"]["kernel"].shape
      (64, 4)
    """

    ratio: int | None = None
    hidden: int | None = None
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu
    gate: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid

    def __post_init__(self) -> None:
        for name in ("ratio", "hidden"):
            if getattr(self, name) is not None:
                check_whole(self, name, "SqueezeExcite(4) has a quarter of the channels between, hidden=8 has 8")
        if self.ratio is not None and self.hidden is not None:
            raise ValueError(
                f"SqueezeExcite takes ratio or hidden, got ratio={self.ratio} and hidden={self.hidden}. Leave one out: "
                f"ratio follows the channels, hidden is the same for all"
            )
        check_function(self, "activation")
        check_function(self, "gate")

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Any]:
        check_floats(self, x, BATCH_SPATIAL_CHANNELS, 3, 5)
        down, up = self._denses(x)
        channels = jax.ShapeDtypeStruct((x.shape[0], x.shape[-1]), x.dtype)
        hidden = jax.ShapeDtypeStruct((x.shape[0], down.features), x.dtype)
        return {"down": down.params(channels), "up": up.params(hidden)}

    def forward(self, p: dict[str, dict[str, jax.Array]], x: jax.Array) -> jax.Array:
        down, up = self._denses(x)
        factors = GlobalAvgPool().forward({}, x)  # (batch, channels)
        factors = self.activation(down.forward(p["down"], factors))  # (batch, hidden)
        factors = self.gate(up.forward(p["up"], factors))  # (batch, channels)
        return x * along(factors, x, (0, x.ndim - 1))

    def _denses(self, x: Any) -> tuple[Dense, Dense]:
        channels = x.shape[-1]
        return Dense(self.hidden or max(channels // (self.ratio or 4), 1)), Dense(channels)
