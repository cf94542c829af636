"""What a layer asks of its fields, said when it is built.

Every message has four parts: which layer, what it takes, what it got, what to do. The remedy is the caller's, since
only the layer knows the slip that is likely there: a width where none is wanted, the share to keep for the share to
drop.
"""

from __future__ import annotations

from typing import Any

from funcnets.layer import Layer
from funcnets.leaves import is_child


def check_whole(layer: Layer, name: str, remedy: str) -> None:
    """Raises unless the field holds a whole number of at least 1."""
    if not is_whole(getattr(layer, name), least=1):
        raise refusal(layer, name, "as a whole number, at least 1", remedy)


def check_flag(layer: Layer, name: str, remedy: str) -> None:
    """Raises unless the field holds True or False."""
    if not isinstance(getattr(layer, name), bool):
        raise refusal(layer, name, "as True or False", remedy)


def check_share(layer: Layer, name: str, takes: str, remedy: str, *, one: bool) -> None:
    """Raises unless the field holds a number from 0 up to 1, with or without 1 itself."""
    held: Any = getattr(layer, name)
    number = isinstance(held, (int, float)) and not isinstance(held, bool)
    if not number or not (0 <= held < 1 or (one and held == 1)):
        raise refusal(layer, name, takes, remedy)


def check_function(layer: Layer, name: str) -> None:
    """Raises unless the field holds a function; a layer, which may have parameters, is none."""
    held: Any = getattr(layer, name)
    if isinstance(held, Layer) or not is_child(held):
        raise refusal(
            layer,
            name,
            "as a function of an array, without parameters",
            f"Pass the function itself, {name}=jax.nn.gelu; around a layer write a composite of your own",
        )


def refusal(layer: Layer, name: str, takes: str, remedy: str) -> ValueError:
    """The error for a field that cannot be."""
    return ValueError(f"{type(layer).__name__} takes {name} {takes}, got {getattr(layer, name)!r}. {remedy}")


def is_whole(held: Any, *, least: int) -> bool:
    """Whether something is a whole number of at least this; True and False are none."""
    return isinstance(held, int) and not isinstance(held, bool) and held >= least
