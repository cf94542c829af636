"""What authors' functions name, and what they are given: inputs, and after a `*` the key, the mode and the state."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.scope import Scope
from funcnets.shapes import Tree, describe, is_numbers, show

MODES = ("key", "train", "state")  # what apply takes beside parameters and inputs


# What inputs are taken


def as_inputs(tree: Tree) -> Tree:
    """Inputs of a pass: NumPy arrays as JAX arrays, everything else as it is."""
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, (np.ndarray, np.generic)) else x, tree)


def check_first_input(scope: Scope, inputs: tuple[Any, ...]) -> None:
    """Raises for a leaf whose first input is made of Python numbers, or a shape: dtype, or all, would be a guess."""
    if not inputs or not is_numbers(inputs[0]):
        return
    first = inputs[0]
    takes = f"{scope.place}: {describe(scope.layer)} takes an array first"
    if isinstance(first, (tuple, list)):
        if all(type(n) is int for n in first):
            shape = tuple(first)
            raise TypeError(
                f"{takes}, got the numbers {show(first)}. For a shape, write jax.ShapeDtypeStruct({show(shape)}, "
                f"jnp.float32); for an array of them, jnp.asarray"
            )
        raise TypeError(f"{takes}, got Python's numbers, {show(first)}. Wrap them: jnp.asarray(x, dtype)")
    raise TypeError(f"{takes}, got the Python {type(first).__name__} {first!r}. Wrap it: jnp.asarray({first!r}, dtype)")


def check_arity(scope: Scope, takes: inspect.Signature, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises for inputs that a layer's forward does not take."""
    try:
        takes.bind(*inputs, **kwargs)
    except TypeError as error:
        got = ", ".join([*map(show, inputs), *(f"{name}={show(x)}" for name, x in kwargs.items())]) or "nothing"
        advice = _advice(scope.layer, takes, inputs, kwargs)
        raise TypeError(f"{scope.place}: {describe(scope.layer)} takes {takes}, got {got}: {error}. {advice}") from None


def _advice(layer: Any, takes: inspect.Signature, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What to do about inputs that a layer does not take, where the slip is a likely one."""
    keys = [x for x in inputs if jnp.issubdtype(getattr(x, "dtype", jnp.float32), jax.dtypes.prng_key)]
    modes = {"training", "deterministic", "is_training", "inference", "rng", "rngs"}
    if not takes.parameters and inputs:
        if layer._entries():
            return "A composite's forward takes m before its inputs: def forward(self, m, x)"
        return "A leaf's forward takes p before its inputs, def forward(self, p, x); a Param is called without any"
    if keys or kwargs.keys() & modes or any(isinstance(x, dict) for x in inputs):
        return "Mode, randomness and state go in by name: train=True, key=key, state=state"
    if hasattr(layer, "initial_carry") and len(inputs) == 1:
        return "A cell takes one step, (carry, x); over time it runs inside fn.Scan"
    if kwargs and inputs:
        return "A row hands its inputs to its first layer alone: a composite of your own hands them to each"
    if not inputs:
        return "Sizes come from a sample: init(key, x), plan(x). Inputs go in by position: apply(params, x)"
    return "Give it what it takes: a composite of your own hands several inputs to its layers"


# What a leaf's functions name


class Wants(NamedTuple):
    """What a forward is called with: its inputs, and what else it names."""

    inputs: inspect.Signature
    key: bool
    key_required: bool
    train: bool
    state: bool
    state_required: bool


def wants_of(forward: Any, skip: int) -> Wants:
    """What a forward names, after its first parameters."""
    parameters = list(inspect.signature(forward).parameters.values())
    parameters = [p for i, p in enumerate(parameters) if i >= skip or p.kind is p.VAR_POSITIONAL]
    named = {p.name: p for p in parameters if p.name in MODES and p.kind is p.KEYWORD_ONLY}
    key, state = named.get("key"), named.get("state")
    others = [p.replace(annotation=p.empty) for p in parameters if p.name not in named]
    return Wants(
        inputs=inspect.Signature(others),
        key=key is not None,
        key_required=key is not None and key.default is key.empty,
        train="train" in named,
        state=state is not None,
        state_required=state is not None and state.default is state.empty,
    )


class Takes(NamedTuple):
    """Which inputs a function is called with: those that it names."""

    positional: int | None  # None: all
    names: frozenset[str] | None  # None: any


def takes_of(method: Any) -> Takes:
    """Which inputs a layer's `params` or `states` is called with."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    kinds = {p.kind for p in parameters}
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return Takes(
        None if inspect.Parameter.VAR_POSITIONAL in kinds else len(positional),
        None if inspect.Parameter.VAR_KEYWORD in kinds else frozenset(p.name for p in named),
    )


def modes_of(function: Any) -> list[str]:
    """What a function names of a pass after its `*`: the mode, a key, a state."""
    held = function.__code__
    named = held.co_varnames[held.co_argcount : held.co_argcount + held.co_kwonlyargcount]
    return [name for name in named if name in MODES]
