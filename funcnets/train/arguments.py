"""What the functions of this package are given, looked at before anything runs."""

from __future__ import annotations

import inspect
from typing import Any

from funcnets.layer import Layer
from funcnets.shapes import is_array, show


def check_net(what: str, net: Any) -> None:
    if not isinstance(net, Layer):
        raise TypeError(
            f"{what} takes the net first, got {show(net)}: give the layer itself, neither net.apply nor params"
        )


def check_function(what: str, form: str, function: Any) -> None:
    """Raises unless it is a function of a model and a batch."""
    if not callable(function) or isinstance(function, Layer):
        raise TypeError(
            f"{what} takes a function {form}, got {kind(function)}: its arguments are (net, "
            f"{form.partition('(')[0]}, ...), in this order"
        )
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        raise TypeError(
            f"{what} takes a function {form}, got one of {inspect.signature(function)}: a batch is one tree, such as a "
            "dict of arrays"
        ) from None
    except ValueError:  # a builtin that does not tell
        pass


def check_optimizer(optimizer: Any) -> None:
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        raise TypeError(
            f"an optimizer is one of optax's, such as optax.adam(1e-3), called already, got {kind(optimizer)}"
        )


def check_count(what: str, name: str, count: Any) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{what} takes {name}= of at least 1, a whole number, got {show(count)}")


def check_metrics(takes: str, metrics: Any) -> None:
    if not isinstance(metrics, dict):
        raise TypeError(f"{takes}, by name, got {show(metrics)}: write {{'accuracy': accuracy}}")


def kind(held: Any) -> str:
    return show(held) if is_array(held) else f"a {type(held).__name__}"
