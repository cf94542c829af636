"""Steps that are not taken: losses scaled for float16, and what skipping means for a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnets.train.arguments import check_optimizer
from funcnets.train.state import TrainState, check_state

if TYPE_CHECKING:
    import optax


class ScaledLossState(NamedTuple):
    """What `scale_loss` remembers.

    Attributes:
      scale: What the loss is multiplied by, float32[].
      good_steps: Steps since the scale last changed, int32[].
      last_finite: Whether the last step was taken, bool[].
      total_notfinite: Steps that were skipped, int32[].
      inner_state: The optimiser's own state.
    """

    scale: jax.Array
    good_steps: jax.Array
    last_finite: jax.Array
    total_notfinite: jax.Array
    inner_state: Any


def scale_loss(
    optimizer: optax.GradientTransformation,
    scale: float = 2.0**15,
    *,
    growth_interval: int | None = 2000,
    factor: float = 2.0,
) -> optax.GradientTransformationExtraArgs:
    """An optimiser for nets that compute in float16: the loss is multiplied by a scale, so that small gradients do not
    vanish, and gradients are divided by it before the optimiser sees them.

    A step whose gradients are not finite is skipped: parameters, the optimiser's and the net's state stay, and the
    scale is divided by `factor`, down to 1. After `growth_interval` steps without such a one it is multiplied by it.
    `make_step` sees to the loss; around `scale_loss` there is nothing else: what is to see true gradients, such as
    clipping, goes inside, and so do several optimisers for parts of the parameters under one loss, `optax.partition`.

    Args:
      optimizer: The optimiser.
      scale: The first scale.
      growth_interval: Steps after which the scale grows; None: it stays as it is, and bad steps are skipped.
      factor: By how much it grows, and shrinks.

    Raises:
      TypeError: What is given is no optimiser.
      ValueError: A scale that is not positive, a factor of at most 1, an interval below 1.

    Source: Micikevicius et al. 2018, Mixed Precision Training. PyTorch's GradScaler starts at 2^16, and shrinks and
    grows by 2, after 2000 steps.

    Example:
      >>> optimizer = fn.train.scale_loss(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)))
      >>> state = fn.train.create(fn.Dense(2), optimizer, jax.random.key(0), jnp.ones((1, 3)))
      >>> float(state.opt_state.scale), int(state.opt_state.total_notfinite)
      (32768.0, 0)
    """
    import optax

    check_optimizer(optimizer)
    if not scale > 0 or not factor > 1 or (growth_interval is not None and growth_interval < 1):
        raise ValueError(
            "scale_loss takes a positive scale, a factor above 1 and a growth_interval of at least 1, or None, got "
            f"{scale}, {factor} and {growth_interval}"
        )
    inner = optax.with_extra_args_support(optimizer)
    least = jnp.float32(min(scale, 1.0))  # one that fell to 0 would never rise again

    def init(params: Any) -> ScaledLossState:
        none = jnp.zeros((), jnp.int32)
        return ScaledLossState(jnp.float32(scale), none, jnp.array(True), none, inner.init(params))

    def update(updates: Any, state: ScaledLossState, params: Any = None, **extra: Any) -> tuple[Any, ScaledLossState]:
        gradients = jax.tree.map(lambda g: (g.astype(jnp.float32) / state.scale).astype(g.dtype), updates)
        finite = jnp.all(jnp.array([jnp.isfinite(g).all() for g in jax.tree.leaves(gradients)]))
        found, kept = jax.lax.cond(
            finite,
            lambda: inner.update(gradients, state.inner_state, params, **extra | {"grad": gradients}),
            lambda: (jax.tree.map(jnp.zeros_like, gradients), state.inner_state),
        )
        steps, scale = jnp.where(finite, state.good_steps + 1, 0), state.scale
        if growth_interval is not None:
            grown = jnp.where(steps >= growth_interval, scale * jnp.float32(factor), scale)
            scale = jnp.where(finite, jnp.where(jnp.isfinite(grown), grown, scale), jnp.maximum(scale / factor, least))
            steps = jnp.where(steps >= growth_interval, 0, steps)
        skips = state.total_notfinite + jnp.where(finite, 0, 1)
        return found, ScaledLossState(scale, steps, finite, skips, kept)

    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def loss_scale(opt_states: Iterable[Any]) -> jax.Array | None:
    """What a loss is to be multiplied by for these optimisers; None: nothing.

    Raises:
      ValueError: A `scale_loss` inside another optimiser, or several that would scale one loss.
    """
    states = list(opt_states)
    outer = [state for state in states if isinstance(state, ScaledLossState)]
    within = [state.inner_state if isinstance(state, ScaledLossState) else state for state in states]
    if _found(within, ScaledLossState) or (outer and len(states) > 1):
        raise ValueError(
            "train.scale_loss stands around the optimizer of a loss and all else goes inside, "
            "train.scale_loss(optax.chain(...)); several optimizers under one loss are one, optax.partition, in it; or "
            "give each part a loss of its own"
        )
    return outer[0].scale if outer else None


def scaled_by(scale: jax.Array | None, objective: Callable[..., Any]) -> Callable[..., Any]:
    """An objective (value, more) with its value multiplied by the scale."""
    if scale is None:
        return objective

    def scaled(*arguments: Any) -> Any:
        value, more = objective(*arguments)
        return value.astype(jnp.float32) * scale, more

    return scaled


def skipping(opt_states: Iterable[Any], updates: Any) -> jax.Array | None:
    """Whether a step of optimisers that skip, with these updates, changed nothing; None of others."""
    found = _guards(tuple(opt_states))
    if not found:
        return None
    # optax.apply_if_finite lets a step that is not finite through after many
    moves = jnp.any(jnp.array([(leaf != 0).any() for leaf in jax.tree.leaves(updates)]))
    return ~moves & ~jnp.all(jnp.array([guard.last_finite for guard in found]))


def skipped(state: TrainState) -> int:
    """How many steps were skipped so far, as their gradients were not finite.

    Args:
      state: A state whose optimiser skips, `optax.apply_if_finite` or `train.scale_loss`; of several optimisers the
        skips of each count.

    Raises:
      ValueError: A state of another.

    Example:
      >>> optimizer = optax.apply_if_finite(optax.sgd(0.1), 100)
      >>> state = fn.train.create(fn.Dense(1), optimizer, jax.random.key(0), jnp.ones((1, 3)))
      >>> step = fn.train.make_step(fn.Dense(1), lambda model, x: model(x).sum(), optimizer)
      >>> for x in (jnp.ones((1, 3)), jnp.full((1, 3), jnp.nan)):
      ...     state, metrics = step(state, x)
      >>> int(metrics["skipped"]), fn.train.skipped(state)
      (1, 1)
    """
    check_state("skipped", state)
    guards = _guards(state.opt_state)
    if not guards:
        raise ValueError(
            "skipped takes a state whose optimizer skips: optax.apply_if_finite(optimizer, 1000) or "
            "train.scale_loss(optimizer)"
        )
    return sum(int(guard.total_notfinite) for guard in guards)


def _guards(tree: Any) -> list[Any]:
    import optax

    return _found(tree, (ScaledLossState, optax.ApplyIfFiniteState))


def _found(tree: Any, kinds: Any) -> list[Any]:
    """The states of some kinds among optimisers' states."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kinds))
    return [leaf for leaf in leaves if isinstance(leaf, kinds)]
