"""A moving average of the parameters, kept by the optimiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnets.shapes import flat, is_array, mapped
from funcnets.train.state import TrainState, check_state

if TYPE_CHECKING:
    import optax


class EmaState(NamedTuple):
    """What `ema` remembers.

    Attributes:
      updates: How many there were, int32[].
      average: The average of each parameter, of at least 32 bits.
    """

    updates: jax.Array
    average: Any


def ema(decay: float | Callable[[jax.Array], Any]) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the parameters: average ← decay · average + (1 - decay) · parameter.

    It stands last in a chain, where updates are what is added to the parameters, and changes none of them; `make_step`
    raises where it does not. It starts from the initial parameters. `averaged` takes it out of a state.

    Args:
      decay: From 0 to 1, or a function of the number of updates so far: `lambda n: jnp.minimum(0.999, (1 + n) / (10 +
        n))` follows closely at first.

    Raises:
      ValueError: A decay that is not from 0 to 1; (when updating) no parameters.

    Source: Polyak and Juditsky 1992 (averaging). `optax.ema` is another thing: it averages the updates. PyTorch has it
    as swa_utils.AveragedModel with get_ema_multi_avg_fn, outside the optimiser.

    Example:
      >>> optimizer = optax.chain(optax.sgd(0.1), fn.train.ema(0.9))
      >>> state = fn.train.create(fn.Dense(1), optimizer, jax.random.key(0), jnp.ones((1, 3)))
      >>> step = fn.train.make_step(fn.Dense(1), lambda model, x: model(x).sum(), optimizer)
      >>> state, _ = step(state, jnp.ones((1, 3)))
      >>> state.params["bias"], fn.train.averaged(state).params["bias"]  # one tenth of the way
      (Array([-0.1], dtype=float32), Array([-0.01], dtype=float32))
    """
    import optax

    if not callable(decay) and not 0 <= decay <= 1:
        raise ValueError(f"ema takes a decay from 0 to 1, or a function of the number of updates, got {decay}")

    def init(params: Any) -> EmaState:
        return EmaState(jnp.zeros((), jnp.int32), jax.tree.map(_wide, params))

    def update(updates: Any, state: EmaState, params: Any = None) -> tuple[Any, EmaState]:
        if params is None:
            raise ValueError("train.ema averages parameters: give them to update, update(updates, state, params)")
        rate = jnp.asarray(decay(state.updates) if callable(decay) else decay, jnp.float32)

        def moved(average: jax.Array, param: jax.Array, change: jax.Array) -> jax.Array:
            new, kept = param.astype(average.dtype) + change.astype(average.dtype), rate.astype(average.dtype)
            return kept * average + (1 - kept) * new

        average = jax.tree.map(moved, state.average, params, updates)
        return updates, EmaState(state.updates + 1, average)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def averaged(state: TrainState) -> TrainState:
    """The state with averages, as `ema` keeps them, in the place of the parameters; what is frozen stays.

    It is for evaluation, `train.evaluate(net, measure, train.averaged(state), data)`, and for use; training goes on
    with the state itself.

    Args:
      state: A state whose optimiser has an `ema`.

    Raises:
      ValueError: A state without one, or with two of one parameter.
    """
    check_state("averaged", state)
    nodes = jax.tree.leaves(state.opt_state, is_leaf=lambda node: isinstance(node, EmaState))
    kept = [(path, leaf) for node in nodes if isinstance(node, EmaState) for path, leaf in flat(node.average)]
    kept = [(path, leaf) for path, leaf in kept if is_array(leaf)]
    if not kept:
        raise ValueError("averaged takes a state with averages: optax.chain(optimizer, train.ema(0.999)), last in it")
    found = dict(kept)
    if len(found) < len(kept):
        raise ValueError("averaged takes a state with one average a parameter, and this has several: leave one ema in")
    params = mapped(lambda path, array: found[path].astype(array.dtype) if path in found else array, state.params)
    return dataclasses.replace(state, params=params)


def check_chains(opt_state: Any) -> bool:
    """Whether an optimiser's state has averages; raises for those that something follows in a chain."""
    if isinstance(opt_state, EmaState):
        return True
    children = opt_state.values() if isinstance(opt_state, dict) else opt_state if isinstance(opt_state, tuple) else ()
    found = [check_chains(child) for child in children]
    if type(opt_state) is tuple and any(found[:-1]):
        raise ValueError(
            "train.ema stands last in a chain, where updates are what is added to the parameters, and here something "
            "follows it: optax.chain(optax.adam(1e-3), train.ema(0.999))"
        )
    return any(found)


def _wide(param: Any) -> jax.Array:
    return jnp.array(param, jnp.promote_types(param.dtype, jnp.float32))
