"""Layers that change nothing but where values stand, or nothing at all."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import jax

from funcnets.layer import Layer
from funcnets.layers.fields import is_whole, refusal
from funcnets.layers.inputs import check_rank
from funcnets.shapes import show
from funcnets.values import Argument


class Flatten(Layer):
    """y[b] = all values of x[b] in a row; the first axis stays.

    Inputs: x (batch, ...) → (batch, product of the other axes), in x's dtype.

    Raises:
      ValueError: An input without axes.

    Source: as in Keras and stax; PyTorch's does the same to inputs of two axes and more.

    Example:
      >>> fn.Flatten().apply({}, jnp.ones((2, 4, 4, 3))).shape
      (2, 48)
    """

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_rank(self, x, "(batch, ...)", 1)
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


class Identity(Layer):
    """y = x.

    Inputs: Anything, in any number → the same: one input itself, several as a tuple.

    Raises: Nothing.

    Source: `fn.Sequential()` is the same function; this one says it by name.

    Example:
      >>> fn.Identity().apply({}, jnp.ones(2))
      Array([1., 1.], dtype=float32)
    """

    def forward(self, p: dict[str, jax.Array], *inputs: Any) -> Any:
        return inputs[0] if len(inputs) == 1 else inputs


class Reshape(Layer):
    """y[b] = x[b] in another shape, with the values in the same order; the first axis stays.

    Args:
      *each: The sizes of the axes after the batch, one by one; one may be -1, for what is left.
      sizes: The same as one iterable, after them.

    Inputs: x (batch, ...) → (batch, *sizes), in x's dtype.

    Raises:
      ValueError: Sizes that cannot be; an input without axes, or with another number of values an example.

    Source: Keras's leaves the batch out likewise; PyTorch's Unflatten opens one axis.

    Example:
      >>> fn.Reshape(4, 4, -1).apply({}, jnp.ones((2, 48))).shape
      (2, 4, 4, 3)
    """

    sizes: tuple[int, ...]

    def __init__(self, *each: int, sizes: Iterable[int] = ()) -> None:
        self._fill(sizes=(*each, *sizes))

    def __post_init__(self) -> None:
        whole = all(is_whole(size, least=-1) and size != 0 for size in self.sizes)
        if not whole or self.sizes.count(-1) > 1:
            raise refusal(
                self,
                "sizes",
                "as whole numbers, at least 1, with at most one -1 among them",
                "Write them one by one, without the batch: Reshape(4, 4, -1)",
            )

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_rank(self, x, "(batch, ...)", 1)
        values, known = math.prod(x.shape[1:]), math.prod(size for size in self.sizes if size != -1)
        if values % known or (values != known and -1 not in self.sizes):
            raise ValueError(
                f"{self!r} takes {'a multiple of ' if -1 in self.sizes else ''}{known} values an example, got {values} "
                f"in {show(x)}. Sizes leave the batch out; one of them may be -1, for what is left"
            )
        return x.reshape(x.shape[0], *(values // known if size == -1 else size for size in self.sizes))

    def _arguments(self) -> list[Argument]:
        return [Argument(size) for size in self.sizes]


class Transpose(Layer):
    """y[b] = x[b] with its axes in another order; the first axis stays.

    Args:
      *each: For each axis after the batch, which of x's axes it is, numbered as in jnp.transpose: the batch is 0, and
        is not among them.
      axes: The same as one iterable, after them.

    Inputs: x (batch, n axes) → (batch, the same axes in this order), in x's dtype.

    Raises:
      ValueError: Axes that are no reordering of 1 to n; an input with another number of axes.

    Source: Keras's Permute. To move the batch, write the function: lambda x: x.transpose(1, 0, 2).

    Example:
      >>> fn.Transpose(3, 1, 2).apply({}, jnp.ones((2, 8, 6, 3))).shape     # channels first
      (2, 3, 8, 6)
    """

    axes: tuple[int, ...]

    def __init__(self, *each: int, axes: Iterable[int] = ()) -> None:
        self._fill(axes=(*each, *axes))

    def __post_init__(self) -> None:
        wanted = list(range(1, len(self.axes) + 1))
        if not wanted or not all(is_whole(axis, least=1) for axis in self.axes) or sorted(self.axes) != wanted:
            raise refusal(
                self,
                "axes",
                "as a reordering of 1 to n, the axes after the batch",
                "Write them one by one; the batch, axis 0, stays: Transpose(2, 1) is x.transpose(0, 2, 1)",
            )

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        check_rank(self, x, f"(batch, and {len(self.axes)} more)", 1)
        if len(x.shape) != len(self.axes) + 1:
            raise ValueError(
                f"{self!r} takes (batch, and {len(self.axes)} more), got {show(x)}. Name each axis after the batch once"
            )
        return x.transpose(0, *self.axes)

    def _arguments(self) -> list[Argument]:
        return [Argument(axis) for axis in self.axes]


class Rearrange(Layer):
    """y = einops.rearrange(x, pattern): axes moved, merged and split as the pattern says.

    Args:
      pattern: "b h w c -> b (h w) c": the axes of x by name, and those of y; an axis merged from several stands as
        these in brackets, "..." for any axes.
      sizes: The sizes that a split needs, as pairs of an axis's name and a whole number.
      **named: The same by keyword.

    Inputs: x, of the axes on the left → those on the right, in x's dtype.

    Raises:
      ImportError: einops is not installed.
      ValueError: A pattern or sizes that cannot be; an input that the pattern does not fit.

    Source: Rogozhnikov 2022, and the package einops, which this layer calls: pip install 'funcnets[einops]'.

    Example:
      >>> fn.Rearrange("b (h w) c -> b h w c", h=4).apply({}, jnp.ones((2, 12, 3))).shape
      (2, 4, 3, 3)
    """

    pattern: str
    sizes: tuple[tuple[str, int], ...] = ()

    def __init__(self, pattern: str, *, sizes: Iterable[tuple[str, int]] = (), **named: int) -> None:
        self._fill(pattern=pattern, sizes=tuple(sorted({**dict(sizes), **named}.items())))

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str) or self.pattern.count("->") != 1:
            raise refusal(
                self, "pattern", "as a text with one '->'", "Name x's axes and y's: Rearrange('b h w c -> b (h w) c')"
            )
        if not all(is_whole(size, least=1) for _, size in self.sizes):
            remedy = "Give a number for an axis's name: Rearrange('b (h w) -> b h w', h=4)"
            raise refusal(self, "sizes", "as whole numbers, at least 1", remedy)
        einops = _einops()
        from einops.layers import RearrangeMixin  # checks a pattern before there is an array

        try:
            RearrangeMixin(self.pattern, **dict(self.sizes))
        except einops.EinopsError as error:
            raise refusal(
                self, "pattern", "as a pattern of einops", f"{_reason(error)}. Give sizes by name: h=4"
            ) from error

    def forward(self, p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        einops, axes = _einops(), self.pattern.split("->")[0].strip()
        check_rank(self, x, f"({axes})", 0)
        try:
            return einops.rearrange(x, self.pattern, **dict(self.sizes))
        except einops.EinopsError as error:
            raise ValueError(
                f"{self!r} takes ({axes}), got {show(x)}: {_reason(error)}. Change the pattern, or its sizes"
            ) from error

    def _arguments(self) -> list[Argument]:
        return [Argument(self.pattern), *(Argument(size, name) for name, size in self.sizes)]


def _einops() -> Any:
    try:
        import einops
    except ImportError as error:
        raise ImportError(
            "Rearrange takes its patterns from the package einops, which is not installed here: pip install "
            "'funcnets[einops]', or write Reshape and Transpose"
        ) from error
    return einops


def _reason(error: Exception) -> str:
    """The last line of einops's message, which is what went wrong."""
    return str(error).splitlines()[-1].strip().rstrip(".")
