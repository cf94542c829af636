"""A training step as a pure function of a `TrainState` and a batch.

    optimizer = optax.adamw(1e-3)
    state = train.create(net, optimizer, jax.random.key(0), images[:1])
    step = train.make_step(net, loss, optimizer)
    state, metrics = step(state, batch)

`loss(model, batch)` gets the net bound to its parameters, state and key in training mode, and returns a scalar, or a
scalar and a dict of metrics. All that a run is stands in the state, so a run that is saved and resumed is the same run.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.bound import Bound
from funcnets.layer import Layer
from funcnets.params import frozen
from funcnets.plan import check_tree
from funcnets.random import run_key
from funcnets.record import KINDS
from funcnets.shapes import Tree, entry, flat, is_array, mapped, show
from funcnets.values import holds_nothing

if TYPE_CHECKING:
    import optax

Loss = Callable[[Bound, Any], Any]
Measure = Callable[[Bound, Any], dict[str, jax.Array]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What a training run is at one moment; a pytree.

    Attributes:
      params: The net's parameters.
      state: The net's state (running statistics).
      opt_state: The optimiser's state, of the parameters that no `Freeze` holds.
      step: How many steps were taken, int32[].
      key: The key that each step folds its number into.
    """

    params: Tree
    state: Tree
    opt_state: Any
    step: jax.Array
    key: jax.Array


def create(
    net: Layer,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    *sample: Any,
    params: Tree = None,
    state: Tree = None,
    **kwargs: Any,
) -> TrainState:
    """A state before the first step.

    Parameters that a `Freeze` in the net holds are kept from the optimiser: they take none of its memory, and none of
    its decay. It sees the tree with `optax.MaskedNode`s in their places, so a mask or labels (`fn.params.labels`) of
    the whole tree serve as they are.

    Args:
      net: The net to train.
      optimizer: An optax optimiser.
      key: For the initial parameters, `net.init(key, *sample)`, and for the randomness of all steps.
      *sample: Inputs of the net, or their specs.
      params: Parameters to start from, in place of initial ones. They are copied: a step reuses its state's buffers.
      state: The net's state to start from, likewise.

    Raises:
      TypeError: A parameter that is no floating number.
      ValueError: Parameters or a state that are not this net's.
    """
    _check_net("create", net)
    _check_optimizer(optimizer)
    plan = net.plan(*sample, **kwargs)
    for kind, given in zip(KINDS, (params, state), strict=True):
        if given is not None:
            check_tree(plan, kind, given)
    params = net.init(key, *sample, **kwargs) if params is None else jax.tree.map(jnp.array, params)
    state = net.init_state(*sample, **kwargs) if state is None else jax.tree.map(jnp.array, state)
    is_frozen = frozen(net)
    for path, leaf in flat(params):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact) and not is_frozen(path):
            raise TypeError(
                f"parameters are floating numbers, which an optimiser moves; {path} is {show(leaf)}: declare it among "
                "the layer's states, make it a Constant, or put the layer in a Freeze"
            )
    return TrainState(params, state, optimizer.init(_learned(net, params)), jnp.zeros((), jnp.int32), run_key(key))


def make_step(
    net: Layer, loss: Loss, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]]:
    """A compiled function (state, batch) → (new state, metrics). It consumes the state it is given: its buffers are
    reused.

    Args:
      net: The net to train.
      loss: `loss(model, batch)` → a scalar, or (scalar, dict of metrics), with the net in training mode.
      optimizer: The optax optimiser that the state was created with.

    Raises:
      TypeError: (when first called) a loss that is no floating scalar.
      ValueError: (when called) a state that an earlier step consumed.
    """

    _check_net("make_step", net)
    _check_function("make_step", "loss(model, batch)", loss)
    _check_optimizer(optimizer)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        def objective(learned: Tree) -> tuple[jax.Array, tuple[dict[str, Any], Tree]]:
            params = _with_learned(net, state.params, learned)
            key = jax.random.fold_in(state.key, state.step)
            model = net.bind(params, state=state.state, key=key, train=True)
            value, metrics = _value_and_metrics(loss(model, batch))
            return value, ({"loss": value, **metrics}, model.state)

        learned = _learned(net, state.params)
        gradients, (metrics, carried) = jax.grad(objective, has_aux=True)(learned)
        _check_opt_state(optimizer, learned, state.opt_state)
        updates, opt_state = optimizer.update(gradients, state.opt_state, learned)
        learned = jax.tree.map(lambda p, u: p + u.astype(p.dtype), learned, updates)
        params = _with_learned(net, state.params, learned)
        return TrainState(params, carried, opt_state, state.step + 1, state.key), metrics

    compiled = jax.jit(step, donate_argnums=0)

    @functools.wraps(compiled)
    def once(state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        _check_state("step", state)
        if _is_consumed(state):
            raise ValueError(
                "this state was consumed by an earlier step, which reused its buffers: go on with the state that it "
                "returned, state, metrics = step(state, batch); copy one that is to be kept"
            )
        return compiled(state, batch)

    return once


def _learned(net: Layer, params: Tree) -> Tree:
    """Parameters as the optimiser sees them: what a `Freeze` holds is hidden, in optax's own way, so that masks and
    labels of the whole tree fit.
    """
    import optax

    is_frozen = frozen(net)
    return mapped(lambda path, array: optax.MaskedNode() if is_frozen(path) else array, params)


def _with_learned(net: Layer, params: Tree, learned: Tree) -> Tree:
    """All parameters, with those that the optimiser sees as they are in `learned`."""
    is_frozen = frozen(net)
    return mapped(lambda path, array: array if is_frozen(path) else entry(learned, path), params)


def _check_net(what: str, net: Any) -> None:
    if not isinstance(net, Layer):
        raise TypeError(
            f"{what} takes the net first, got {show(net)}: give the layer itself, neither net.apply nor params"
        )


def _check_function(what: str, form: str, function: Any) -> None:
    """Raises unless it is a function of a model and a batch."""
    if not callable(function) or isinstance(function, Layer):
        raise TypeError(
            f"{what} takes a function {form}, got {_kind(function)}: its arguments are (net, "
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


def _check_optimizer(optimizer: Any) -> None:
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        raise TypeError(
            f"an optimizer is one of optax's, such as optax.adam(1e-3), called already, got {_kind(optimizer)}"
        )


def _kind(held: Any) -> str:
    return show(held) if is_array(held) else f"a {type(held).__name__}"


def _check_state(what: str, state: Any) -> None:
    if not isinstance(state, TrainState):
        raise TypeError(
            f"{what} takes a TrainState, got {show(state)}: make it with train.create(net, optimizer, key, *sample)"
        )


def _check_opt_state(optimizer: optax.GradientTransformation, learned: Tree, opt_state: Any) -> None:
    """Raises, while JAX traces, for the state of another optimiser."""
    if jax.tree.structure(jax.eval_shape(optimizer.init, learned)) != jax.tree.structure(opt_state):
        raise ValueError(
            "the optimizer's state is of another optimizer than make_step was given, or of other parameters: make both "
            "with the same one, train.create(net, optimizer, key, *sample)"
        )


def _check_metrics(takes: str, metrics: Any) -> None:
    if not isinstance(metrics, dict):
        raise TypeError(f"{takes}, by name, got {show(metrics)}: write {{'accuracy': accuracy}}")


def _is_consumed(state: TrainState) -> bool:
    try:
        return isinstance(state.step, jax.Array) and state.step.is_deleted()
    except jax.errors.ConcretizationTypeError:  # inside another trace nothing is consumed
        return False


def _value_and_metrics(result: Any) -> tuple[jax.Array, dict[str, Any]]:
    """What a loss returned in two; raises for what it cannot return."""
    two = isinstance(result, tuple) and len(cast(tuple[Any, ...], result)) == 2
    value, metrics = cast(tuple[Any, Any], result if two else (result, {}))
    if not is_array(value) or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"a loss is one floating number, got {show(value)}: take its mean, and return metrics as (loss, dict)"
        )
    _check_metrics("a loss returns (loss, metrics) with a dict of these", metrics)
    return value, metrics


def evaluate(net: Layer, measure: Measure, state: TrainState, batches: Iterable[Any]) -> dict[str, float]:
    """The mean of each metric over all examples, in evaluation mode; batches need not be of one size.

    Args:
      net: The net.
      measure: `measure(model, batch)` → a dict of one number an example, float[batch].
      state: Its parameters and state are used.
      batches: The data.
    """

    _check_net("evaluate", net)
    _check_function("evaluate", "measure(model, batch)", measure)
    _check_state("evaluate", state)
    # Compiled once for all calls; but not with a function that would keep what it closes over alive.
    kept = holds_nothing(net) and holds_nothing(measure)
    totals = _totals if kept else jax.jit(_total, static_argnums=(0, 1))
    sums: dict[str, np.ndarray[Any, Any]] = {}
    for batch in batches:
        for name, total in totals(net, measure, state.params, state.state, batch).items():
            sums[name] = sums.get(name, np.zeros(2)) + np.asarray(total, np.float64)
    if not sums:
        raise ValueError(
            "evaluate was given no batches: an iterator that was run through gives none a second time; pass a list, or "
            "train.batches"
        )
    return {name: float(total / count) for name, (total, count) in sums.items()}


def _total(net: Layer, measure: Measure, params: Tree, state: Tree, batch: Any) -> dict[str, tuple[jax.Array, int]]:
    values = measure(net.bind(params, state=state), batch)
    _check_metrics("measure returns a dict of metrics", values)
    for name, value in values.items():
        if getattr(value, "ndim", 0) != 1:
            raise TypeError(
                f"measure returns one number an example, a vector, got {show(value)} for {name!r}: evaluate takes the "
                "means"
            )
    return {name: (value.astype(jnp.float32).sum(), value.shape[0]) for name, value in values.items()}


_totals = jax.jit(_total, static_argnums=(0, 1))
