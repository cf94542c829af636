"""A product with a learned kernel over any axes, said by letters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from funcnets.initializers import LecunNormal, Zeros, with_axes
from funcnets.layer import Layer
from funcnets.layers.fields import is_whole, refusal
from funcnets.layers.inputs import check_floats
from funcnets.layers.promotion import along, in_dtype_of
from funcnets.leaves import Initializer, Param
from funcnets.values import Argument

_FORM = re.compile(r"([A-Za-z]*(?:\.{3})?[A-Za-z]*),([A-Za-z]*)->([A-Za-z]*(?:\.{3})?[A-Za-z]*)")


class Einsum(Layer):
    """y = einsum(equation, x, kernel) + bias, with the kernel's axes named in the equation.

    Args:
      equation: "x,kernel->y": a letter for each axis, and ... for further axes of x and y, which are those of a batch.
      bias_axes: The letters of y along which a bias varies, in y's order; "" for no bias.
      kernel_init: The kernel's initialiser. It is asked for the kernel's shape; one that goes by the fans, and was
        given no axes, takes letters that y has not for inputs, those that x has not for outputs, and those of both for
        axes of a batch.
      bias_init: The bias's initialiser.
      sizes: The sizes as (letter, size) pairs, beside those given as keywords.
      **axes: The size of each letter of the kernel that x has not: h=8.

    Params:
      kernel: as the equation names its axes
      bias: as bias_axes names them

    Inputs: x with the axes of the equation, floating → y, in x's dtype.

    Raises:
      ValueError: An equation that is no such one; sizes of other letters, or that are no positive whole numbers; bias
        axes that y has not; an input of another rank.
      TypeError: An input of whole numbers.

    Source: letters as in `numpy.einsum`, each once in an operand. Keras's EinsumDense takes the shape of y instead of
      sizes; Flax's Einsum the shape of the kernel.

    Example:
      >>> layer = fn.Einsum("...d,dhk->...hk", h=4, k=8, bias_axes="hk")
      >>> plan = layer.plan(jnp.ones((2, 5, 20)))
      >>> plan.params["kernel"].shape, plan.params["bias"].shape, plan.output.shape
      ((20, 4, 8), (4, 8), (2, 5, 4, 8))
    """

    equation: str
    sizes: tuple[tuple[str, int], ...]
    bias_axes: str = ""
    kernel_init: Initializer = LecunNormal()
    bias_init: Initializer = Zeros()

    def __init__(
        self,
        equation: str,
        *,
        bias_axes: str = "",
        kernel_init: Initializer = LecunNormal(),  # noqa: B008
        bias_init: Initializer = Zeros(),  # noqa: B008
        sizes: Iterable[tuple[str, int]] = (),
        **axes: int,
    ) -> None:
        self._fill(
            equation=equation.replace(" ", "") if isinstance(equation, str) else equation,
            sizes=tuple(sorted({**dict(sizes), **axes}.items())),
            bias_axes=bias_axes,
            kernel_init=kernel_init,
            bias_init=bias_init,
        )

    def __post_init__(self) -> None:
        form = _FORM.fullmatch(self.equation) if isinstance(self.equation, str) else None
        rule = "" if form is None else _broken(*form.groups())
        if form is None or rule:
            remedy = "The kernel comes second, a batch of any rank is ...: Einsum('...d,dhk->...hk', h=8, k=64)"
            raise refusal(self, "equation", f"as 'x,kernel->y'{rule and f' with {rule}'}", remedy)
        x, kernel, y = form.groups()
        wanted = sorted(set(kernel) - set(x))
        if wanted != [letter for letter, _ in self.sizes] or not all(is_whole(n, least=1) for _, n in self.sizes):
            got = ", ".join(f"{letter}={size!r}" for letter, size in self.sizes) or "none"
            how = "".join(f", {letter}=..." for letter in wanted)
            raise ValueError(
                f"Einsum takes sizes, at least 1, of those letters of the kernel that x has not, here "
                f"{', '.join(wanted) or 'none'}, got {got}. Write Einsum({self.equation!r}{how}); the others come from "
                f"the sample"
            )
        if not isinstance(self.bias_axes, str) or self.bias_axes != "".join(a for a in y if a in set(self.bias_axes)):
            remedy = f"Choose among {y.replace('...', '')!r}; bias_axes='' has no bias"
            raise refusal(self, "bias_axes", "as letters of y, in y's order", remedy)

    def params(self, x: jax.ShapeDtypeStruct) -> dict[str, Param]:
        named, kernel, y = self._operands()
        letters = re.findall(r"\.{3}|\w", named)
        least = sum(letter != "..." for letter in letters)
        check_floats(self, x, f"({', '.join(letters)})", least, math.inf if "..." in letters else least)
        sizes = dict(self.sizes) | {letter: x.shape[axis] for letter, axis in _places(named, len(x.shape)).items()}
        inputs, outputs, batch = (
            tuple(axis for axis, letter in enumerate(kernel) if (letter in named, letter in y) == where)
            for where in ((True, False), (False, True), (True, True))
        )
        shape = tuple(sizes[letter] for letter in kernel)
        declared = {"kernel": Param(shape, with_axes(self.kernel_init, inputs, outputs, batch))}
        bias = tuple(sizes[letter] for letter in self.bias_axes)
        return declared | ({"bias": Param(bias, self.bias_init)} if self.bias_axes else {})

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        y = jnp.einsum(self.equation, x, in_dtype_of(x, p["kernel"]))
        if not self.bias_axes:
            return y
        places = _places(self._operands()[2], y.ndim)
        return y + along(p["bias"], y, tuple(places[letter] for letter in self.bias_axes))

    def _operands(self) -> list[str]:
        return re.split(",|->", self.equation)

    def _arguments(self) -> list[Argument]:
        equation, _, *others = super()._arguments()
        return [equation, *(Argument(size, letter) for letter, size in self.sizes), *others]


def _broken(x: str, kernel: str, y: str) -> str:
    """The rule that the operands of an equation break; empty where they break none."""
    letters = [operand.replace("...", "") for operand in (x, kernel, y)]
    if any(len(set(operand)) < len(operand) for operand in letters):
        return "different letters for the axes of an operand"
    if ("..." in x) != ("..." in y):
        return "... in both x and y, or in neither"
    if set(letters[2]) - set(x + kernel):
        return "every letter of y in x or the kernel"
    if set(kernel) - set(x + y):
        return "every letter of the kernel in x or y"
    return ""


def _places(operand: str, rank: int) -> dict[str, int]:
    """Where the letters of an operand stand in an array of this rank."""
    front, _, back = operand.partition("...")
    return {**{a: i for i, a in enumerate(front)}, **{a: rank - len(back) + i for i, a in enumerate(back)}}
