"""How the functions of this room are called, and what is said to whoever calls them otherwise."""

from __future__ import annotations

from typing import Any

from funcnets.layer import Layer
from funcnets.plan import Plan
from funcnets.shapes import is_array, show


def check_net(form: str, net: Any) -> None:
    """Raises unless a function, whose call has this form, was given a net."""
    if not isinstance(net, Layer):
        raise TypeError(
            f"{_name(form)} takes the net first, {form}, got {show(net)}: give the layer itself, neither net.apply nor "
            "params; a function becomes one by fn.Sequential(f)"
        )


def plan_of(form: str, net: Any, sample: tuple[Any, ...], kwargs: dict[str, Any], params: Any = None) -> Plan:
    """The plan of a net for the inputs that a function was called with; told better where these are none at all, or
    parameters among them.

    Args:
      form: How the function is called.
      net: What it was given as a net.
      sample: What it was given as inputs.
      kwargs: What it was given by name.
      params: What it was given as parameters, if it takes any.
    """
    check_net(form, net)
    try:
        return net.plan(*sample, **kwargs)
    except (TypeError, ValueError) as error:
        given = (*sample, *kwargs.values())
        got = given if params is None else (params, *given)
        if not given:
            what = "none" if params is None else f"{show(params)} and no inputs"
            do = "give a sample, an array or its jax.ShapeDtypeStruct" if params is None else "give them last"
            error.add_note(f"{_name(form)} takes inputs of the net, {form}, got {what}: {do}")
        if any(_are_params(net, one) for one in given):
            do = "leave them out" if params is None else "they come right after the net"
            listed = ", ".join(map(show, got))
            raise TypeError(
                f"{_name(form)} is called {form}, got parameters among the inputs, {listed}: {do}"
            ) from None
        raise


def _name(form: str) -> str:
    return form.partition("(")[0]


def _are_params(net: Layer, given: Any) -> bool:
    """Whether it is a dict of arrays, all of which this net reads as parameters."""
    return (
        isinstance(given, dict) and bool(given) and not is_array(given) and not any(net._strangers("params", given, ""))
    )
