"""What a training run is at one moment, and how it begins."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from funcnets.layer import Layer
from funcnets.params import frozen
from funcnets.params.patterns import by_rules
from funcnets.plan import check_tree
from funcnets.random import run_key
from funcnets.record import KINDS
from funcnets.shapes import Tree, entry, flat, is_array, listed, mapped, show
from funcnets.train.arguments import check_net
from funcnets.train.parts import as_parts, opt_states, owners

if TYPE_CHECKING:
    import optax

Sharding = jax.sharding.Sharding


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """What a training run is at one moment; a pytree. Saved and restored, it is the same run. Printed, it is its sizes.

    Attributes:
      params: The net's parameters.
      state: The net's state (running statistics).
      opt_state: The optimiser's state, of the parameters that no `Freeze` holds; of several optimisers a dict.
      step: How many steps were taken, int32[].
      key: The key that each step folds its number into.
    """

    params: Tree
    state: Tree
    opt_state: Any
    step: jax.Array
    key: jax.Array

    def __repr__(self) -> str:
        try:
            step: Any = int(self.step)
        except Exception:  # a tracer, a spec, or what a step has consumed
            step = show(self.step)
        sizes = ", ".join(f"{name}={_size(getattr(self, name))}" for name in ("params", "state", "opt_state"))
        return f"TrainState(step={step}, {sizes}, key={show(self.key)})"


def create(
    net: Layer,
    optimizer: optax.GradientTransformation | Mapping[Any, optax.GradientTransformation],
    key: jax.Array,
    *sample: Any,
    params: Tree = None,
    state: Tree = None,
    sharding: Sharding | Mapping[Any, Sharding] | None = None,
    **kwargs: Any,
) -> TrainState:
    """A state before the first step.

    Parameters that a `Freeze` in the net holds are kept from the optimiser: they take none of its memory, and none of
    its decay. It sees the tree with `optax.MaskedNode`s in their places, so a mask or labels (`fn.params.labels`) of
    the whole tree serve as they are. To freeze by rules, put a `Freeze` where they say, `fn.rewrite.replace(net,
    {"encoder": fn.Freeze})`.

    Args:
      net: The net to train.
      optimizer: An optax optimiser; or several, each for its part of the parameters: a mapping from patterns (or layer
        classes) to optimisers, of which the first that fits a path counts.
      key: For the initial parameters, `net.init(key, *sample)`, and for the randomness of all steps.
      *sample: Inputs of the net, or their specs.
      params: Parameters to start from, in place of initial ones. They are copied: a step reuses its state's buffers.
      state: The net's state to start from, likewise.
      sharding: Where arrays are born: one sharding for all, or rules from patterns of parameters to shardings (first
        match counts). What the optimiser keeps of a parameter goes with it; all else is replicated over the same mesh.
        Nothing is ever whole on one device, and the numbers are those of a run on one.

    Raises:
      TypeError: A parameter that is no floating number.
      ValueError: Parameters or a state that are not this net's; a parameter that no optimiser's pattern fits, or no
        sharding's.

    Example:
      >>> net = fn.Sequential(("encoder", fn.Dense(8)), ("head", fn.Dense(1)))
      >>> optimizers = {"encoder/**": optax.sgd(1e-3), "**": optax.adam(1e-2)}
      >>> state = fn.train.create(net, optimizers, jax.random.key(0), jnp.ones((1, 3)))
      >>> list(state.params), int(state.step)
      (['encoder', 'head'], 0)
    """
    check_net("create", net)
    optimizers = as_parts(optimizer)
    plan = net.plan(*sample, **kwargs)
    for which, given in zip(KINDS, (params, state), strict=True):
        if given is not None:
            check_tree(plan, which, given)

    def make(key: jax.Array, params: Tree, state: Tree) -> TrainState:
        params = net.init(key, *sample, **kwargs) if params is None else jax.tree.map(jnp.array, params)
        state = net.init_state(*sample, **kwargs) if state is None else jax.tree.map(jnp.array, state)
        _check_learnable(net, params)
        opt_state = opt_states(optimizers, params, owners(net, params, optimizers))
        return TrainState(params, state, _unshared(opt_state, params), jnp.zeros((), jnp.int32), run_key(key))

    if sharding is None:
        return make(key, params, state)
    places = _places(net, sharding, jax.eval_shape(make, key, params, state))
    return jax.jit(make, out_shardings=places)(key, params, state)


def _unshared(opt_state: Any, params: Tree) -> Any:
    """An optimiser's state in which each array has a buffer of its own: a step reuses each once."""
    seen = {id(leaf) for leaf in jax.tree.leaves(params)}

    def own(leaf: Any) -> jax.Array:
        is_shared = id(leaf) in seen
        seen.add(id(leaf))
        return jnp.array(leaf) if is_shared or not isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(own, opt_state)


def _size(tree: Tree) -> str:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if is_array(leaf)]
    total = sum(math.prod(leaf.shape) for leaf in leaves)
    return f"<{len(leaves)} arrays, {total:,} numbers>" if leaves else "<no arrays>"


def _check_learnable(net: Layer, params: Tree) -> None:
    is_frozen = frozen(net)
    for path, leaf in flat(params):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact) and not is_frozen(path):
            raise TypeError(
                f"parameters are floating numbers, which an optimiser moves; {path} is {show(leaf)}: declare it among "
                "the layer's states, make it a Constant, or put the layer in a Freeze"
            )


def _places(net: Layer, sharding: Any, made: TrainState) -> TrainState:
    """The sharding of each array of a state."""
    rules = sharding if isinstance(sharding, Mapping) else {"**": sharding}
    for each in rules.values():
        if not isinstance(each, Sharding):
            raise TypeError(
                f"create takes shardings, got {show(each)}: jax.NamedSharding(mesh, jax.P('data')) of a spec on its "
                "mesh"
            )
    found = by_rules([path for path, _ in flat(made.params)], rules, net)
    if missing := [path for path, _ in flat(made.params) if path not in found]:
        raise ValueError(f"no sharding is given for {listed(missing)}: let the last pattern be '**'")
    params = mapped(lambda path, _: found[path], made.params)
    everywhere = _replicated(next(iter(rules.values())))

    def of_parameter(path: Any, leaf: Any) -> Sharding:
        names = [str(step.key) for step in path if isinstance(step, jax.tree_util.DictKey)]
        ways = ["/".join(names[i:]) for i in range(len(names) + 1)]
        way = next((way for way in ways if getattr(entry(made.params, way), "shape", None) == leaf.shape), None)
        return everywhere if way is None else found[way]

    opt_state = jax.tree.map_with_path(of_parameter, made.opt_state)
    state = jax.tree.map(lambda _: everywhere, made.state)
    return TrainState(params, state, opt_state, everywhere, everywhere)  # pyright: ignore[reportArgumentType]


def _replicated(sharding: Sharding) -> Sharding:
    if isinstance(sharding, jax.NamedSharding):
        return jax.NamedSharding(sharding.mesh, jax.P())
    return sharding


def check_state(what: str, state: Any) -> None:
    if not isinstance(state, TrainState):
        raise TypeError(
            f"{what} takes a TrainState, got {show(state)}: make it with train.create(net, optimizer, key, *sample)"
        )


def devices_of(state: TrainState) -> int:
    """On how many devices a state is: 0 if a step has reused its buffers, 1 inside another trace."""
    if not isinstance(state.step, jax.Array):
        return 1
    try:
        return 0 if state.step.is_deleted() else len(state.step.sharding.device_set)
    except jax.errors.ConcretizationTypeError:  # a traced array has no place, and is there
        return 1
