"""Parts of the parameters, each with its own optimiser and, in a game of several, its own loss.

    {"generator/**": optax.adam(1e-4), "critic/**": optax.rmsprop(5e-5)}       optimisers by patterns
    {"critic/**": critic_loss, "generator/**": generator_loss}                 losses: one part after the other

An optimiser sees the whole tree of parameters, with an `optax.MaskedNode` in the place of each that is not its own to
move: one of another part, or one that an `fn.Freeze` in the net holds. So masks and labels of the whole tree fit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from funcnets.layer import Layer
from funcnets.params import frozen
from funcnets.params.patterns import by_rules
from funcnets.shapes import Tree, entry, flat, listed, mapped
from funcnets.train.arguments import check_function, check_optimizer
from funcnets.values import code

if TYPE_CHECKING:
    import optax

Loss = Callable[[Any, Any], Any]

ALL = None  # the part of an optimiser that is given alone


class Turn(NamedTuple):
    """A loss, and the parts that are moved by its gradient."""

    name: str
    loss: Loss
    parts: Collection[Any]


def as_parts(optimizer: Any) -> dict[Any, optax.GradientTransformation]:
    """Optimisers by the pattern of their part, ALL of one that is given alone."""
    if not isinstance(optimizer, Mapping):
        check_optimizer(optimizer)
        return {ALL: optimizer}
    if not optimizer:
        raise ValueError("optimizers by parts are {pattern: optimizer}, got none: {'**': optax.adam(1e-3)} is one")
    for each in optimizer.values():
        check_optimizer(each)
    names = [_key(part) for part in optimizer]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"optimizers by parts are kept by the names of their patterns, got {', '.join(twice)} twice: give patterns "
            "of paths in the place of functions or classes of one name"
        )
    return dict(optimizer)


def check_losses(loss: Any) -> None:
    """Raises for what is neither a loss nor losses by parts."""
    for each in loss.values() if isinstance(loss, Mapping) else (loss,):
        check_function("make_step", "loss(model, batch)", each)


def as_turns(loss: Any, optimizers: Mapping[Any, Any]) -> list[Turn]:
    """What is done in a step, one after the other."""
    if not isinstance(loss, Mapping):
        return [Turn("", loss, list(optimizers))]
    if not loss or ALL in optimizers or set(loss) - set(optimizers):
        have = "one for all" if ALL in optimizers else ", ".join(map(code, optimizers))
        raise ValueError(
            f"losses by parts, {', '.join(map(code, loss)) or 'none'}, take an optimizer each, by the same patterns; "
            f"the optimizers are {have}: give create and make_step {{pattern: optimizer}}"
        )
    return [Turn(_short(pattern), each, [pattern]) for pattern, each in loss.items()]


def _short(pattern: Any) -> str:
    """How metrics name a part: "generator/**" is "generator"."""
    return pattern.removesuffix("/**") if isinstance(pattern, str) else getattr(pattern, "__name__", code(pattern))


def owners(net: Layer, params: Tree, optimizers: Mapping[Any, Any]) -> dict[str, Any]:
    """The part to which each parameter that learns belongs, by path.

    Raises:
      ValueError: A pattern that fits nothing; parameters that no part has.
    """
    is_frozen = frozen(net)
    learning = [path for path, _ in flat(params) if not is_frozen(path)]
    if ALL in optimizers:
        return dict.fromkeys(learning, ALL)
    found = by_rules(learning, {pattern: pattern for pattern in optimizers}, net)
    if missing := [path for path in learning if path not in found]:
        raise ValueError(
            f"no optimizer's part has {listed(missing)}: give them one "
            "(the last pattern may be '**'), or hold them by an fn.Freeze in the net"
        )
    return found


def hidden(params: Tree, kept: Collection[str]) -> Tree:
    """Parameters as an optimiser sees them: with those that are kept, and the others masked in optax's own way."""
    import optax

    return mapped(lambda path, array: array if path in kept else optax.MaskedNode(), params)


def shown(params: Tree, seen: Tree, kept: Collection[str]) -> Tree:
    """All parameters, with those that are kept as they are in `seen`."""
    return mapped(lambda path, array: entry(seen, path) if path in kept else array, params)


def opt_states(optimizers: Mapping[Any, Any], params: Tree, owner: Mapping[str, Any]) -> Any:
    """The optimisers' states before the first step: one, or a dict by parts."""
    states = {part: each.init(hidden(params, owned(owner, [part]))) for part, each in optimizers.items()}
    return states[ALL] if ALL in states else {_key(part): state for part, state in states.items()}


def part_state(opt_state: Any, part: Any) -> Any:
    """Of the optimisers' states, that of a part."""
    return opt_state if part is ALL else opt_state[_key(part)]


def with_part_state(opt_state: Any, part: Any, new: Any) -> Any:
    """The optimisers' states with another one of a part."""
    return new if part is ALL else opt_state | {_key(part): new}


def check_opt_state(optimizers: Mapping[Any, Any], params: Tree, owner: Mapping[str, Any], given: Any) -> None:
    """Raises, while JAX traces, for the state of another optimiser."""
    made = jax.eval_shape(lambda: opt_states(optimizers, params, owner))
    if jax.tree.structure(made) != jax.tree.structure(given):
        raise ValueError(
            "the optimizer's state is of another optimizer than make_step was given, or of other parameters: make both "
            "with the same one, train.create(net, optimizer, key, *sample)"
        )


def owned(owner: Mapping[str, Any], parts: Collection[Any]) -> set[str]:
    """The paths of some parts."""
    return {path for path, part in owner.items() if part in parts}


def _key(part: Any) -> str:
    """A part as a name in the dict of states, which checkpoints keep: of a class, its name."""
    return part if isinstance(part, str) else getattr(part, "__qualname__", code(part))
