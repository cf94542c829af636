"""What the inputs and outputs of a net are called."""

from __future__ import annotations

import inspect
from typing import Any

import jax

from funcnets.combinators import Each
from funcnets.compose import Composed
from funcnets.inspect.flow import Box
from funcnets.layer import Layer
from funcnets.leaves import Function
from funcnets.shapes import is_array, join


def input_names(box: Box) -> list[str]:
    """The arrays that go into a call, by the names that its forward has for its inputs."""
    inputs, kwargs = box.inputs
    names = _parameter_names(box.layer)[: len(inputs)]
    names += [f"input {i + 1}" if len(inputs) > 1 else "input" for i in range(len(names), len(inputs))]
    pairs = [*zip(names, inputs, strict=True), *sorted(kwargs.items())]
    return [join(name, inner) for name, tree in pairs for inner in _places(tree)]


def output_names(box: Box) -> list[str]:
    """The arrays that come out of a call, by their places."""
    found: list[str] = []
    for place in _places(box.output):
        first, *others = place.split("/")
        found.append("/".join([f"output {int(first) + 1}" if first.isdigit() else first or "output", *others]))
    return found


def _places(tree: Any) -> list[str]:
    """The places of the arrays in a tree; "" of one that is an array itself."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(place, simple=True, separator="/") for place, leaf in leaves if is_array(leaf)]


def _parameter_names(layer: Layer) -> list[str]:
    """The names of the positional inputs that a layer's forward lists; of one that takes any, its first child's."""
    forward = layer.function if isinstance(layer, Composed | Function) else type(layer).forward
    try:
        parameters = list(inspect.signature(forward).parameters.values())
    except ValueError:  # a function in C
        return []
    skipped = 0 if isinstance(layer, Function) else 1 if isinstance(layer, Composed) else 2
    parameters = parameters[skipped:]
    if any(one.kind is one.VAR_POSITIONAL for one in parameters):
        children = layer._entries()
        return _parameter_names(children[0][1]) if children and not isinstance(layer, Each) else []
    return [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY]
