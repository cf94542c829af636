"""A training step as a pure function of a `TrainState` and a batch.

    optimizer = optax.adamw(1e-3)
    state = train.create(net, optimizer, jax.random.key(0), images[:1])
    step = train.make_step(net, loss, optimizer)
    state, metrics = step(state, batch)

`loss(model, batch)` gets the net bound to its parameters, state and key in training mode, and returns a scalar, or a
scalar and a dict of metrics. All that a run is stands in the state, so a run that is saved and resumed is the same run:
what a step remembers besides the net's parameters and state is the optimiser's. That is where the rest is composed.

    optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))    gradients clipped
    optax.chain(optax.adamw(1e-3), train.ema(0.999))                  a moving average of the parameters
    optax.apply_if_finite(optimizer, 1000)                            steps with NaN or infinite gradients skipped
    train.scale_loss(optimizer)                                       the loss scaled, for float16
    optax.MultiSteps(optimizer, 4)                                    gradients of several batches in an update
    {"generator/**": optimizer, "critic/**": another}                 several, each for its part
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp

from funcnets.layer import Layer
from funcnets.shapes import Tree, is_array, show
from funcnets.train.arguments import check_count, check_metrics, check_net
from funcnets.train.averaging import check_chains
from funcnets.train.parts import (
    Loss,
    Turn,
    as_parts,
    as_turns,
    check_losses,
    check_opt_state,
    hidden,
    owned,
    owners,
    part_state,
    shown,
    with_part_state,
)
from funcnets.train.scaling import loss_scale, scaled_by, skipping
from funcnets.train.state import TrainState, check_state, devices_of

if TYPE_CHECKING:
    import optax

Metrics = dict[str, jax.Array]  # an OrderedDict inside, whose order JAX keeps
_Moving = tuple[Tree, Tree, Any, jax.Array]  # params, state, opt_state, step


class Step:
    """A compiled function (state, batch) → (new state, metrics); see `make_step`.

    Attributes:
      steps_per_call: How many steps a call takes.
    """

    def __init__(
        self, advance: Callable[..., tuple[_Moving, Metrics]], steps_per_call: int = 1, single: Step | None = None
    ) -> None:
        self.steps_per_call = steps_per_call
        self._advance = advance
        self._compiled = jax.jit(advance, donate_argnums=0)
        self._placed: dict[Any, Callable[..., tuple[_Moving, Metrics]]] = {}
        self._single = single

    @property
    def single(self) -> Step:
        """The step that takes one of these steps a call, for what is left where a number of them is no multiple."""
        return self._single or self

    def __repr__(self) -> str:
        return f"Step(steps_per_call={self.steps_per_call})"

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        check_state("step", state)
        devices = devices_of(state)
        if devices == 0:
            raise ValueError(
                "this state was consumed by an earlier step, which reused its buffers: go on with the state that it "
                "returned, state, metrics = step(state, batch), or give it a copy, jax.tree.map(jnp.copy, state)"
            )
        compiled = self._compiled if devices == 1 else self._for(state)
        moved, metrics = compiled(_moving(state), state.key, batch)
        params, carried, opt_state, number = moved
        return TrainState(params, carried, opt_state, number, state.key), dict(metrics)

    def lower(self, state: TrainState, batch: Any) -> Any:
        """The step lowered for these arrays or their specs, as `jax.jit(f).lower`: to look at what is compiled."""
        check_state("step.lower", state)
        return self._compiled.lower(_moving(state), state.key, batch)

    def _for(self, state: TrainState) -> Callable[..., tuple[_Moving, Metrics]]:
        """The compiled function; over several devices one that leaves every array where it is."""
        leaves, structure = jax.tree.flatten(_moving(state))
        shardings = [leaf.sharding for leaf in leaves]
        known = structure, *shardings
        if known not in self._placed:
            places = jax.tree.unflatten(structure, shardings)
            self._placed[known] = jax.jit(self._advance, donate_argnums=0, out_shardings=(places, None))
        return self._placed[known]


def _moving(state: TrainState) -> _Moving:
    """What a step consumes; the key it does not."""
    return state.params, state.state, state.opt_state, state.step


def make_step(
    net: Layer,
    loss: Loss | Mapping[Any, Loss],
    optimizer: optax.GradientTransformation | Mapping[Any, optax.GradientTransformation],
    *,
    accumulate: int = 1,
    steps_per_call: int = 1,
) -> Step:
    """A compiled function (state, batch) → (new state, metrics). It consumes the state it is given: its buffers are
    reused.

    Metrics hold "loss" and what the loss returned. Where the optimiser skips steps that are not finite
    (`optax.apply_if_finite`, `train.scale_loss`), "skipped" is 1 for one that changed nothing, the net's state neither,
    and else 0; `train.skipped(state)` counts them.

    Of losses by parts, one moves its part of the parameters after the other, in the order of the mapping, and sees what
    the one before left: {"critic/**": critic_loss, "generator/**": generator_loss}. Those of "critic/**" are then named
    "critic/loss". A step may play some of the parts only, as when a critic takes several steps for one of the
    generator's: both steps go on with one state.

    Args:
      net: The net to train.
      loss: `loss(model, batch)` → a scalar, or (scalar, dict of metrics), with the net in training mode. Or several, by
        the patterns of the optimisers.
      optimizer: What the state was created with: an optax optimiser, or several by patterns. It is also given `value`,
        `grad` and `value_fn`, which line searches ask for.
      accumulate: In how many equal pieces a batch goes through the net, one after the other, to save memory. Where the
        loss is a plain mean over examples, the gradient is that of the whole batch; one of a mask or a sum is not, and
        statistics of the batch are each piece's. Each piece has its own randomness. Metrics are means over the pieces.
      steps_per_call: k steps in one compiled loop: the batch has a new first axis of k, `data[i : i + k]`, and so have
        the metrics. A batch of None is None in each step, for a loss that holds its data.

    Raises:
      TypeError: (when first called) a loss that is no floating scalar.
      ValueError: (when called) a state that an earlier step consumed; a batch that cannot be cut so; a state of another
        optimiser.

    Example:
      >>> net, optimizer = fn.Dense(1), optax.sgd(0.1)
      >>> loss = lambda model, batch: jnp.square(model(batch) - 1).mean()
      >>> step = fn.train.make_step(net, loss, optimizer, steps_per_call=50)
      >>> state = fn.train.create(net, optimizer, jax.random.key(0), jnp.ones((4, 2)))
      >>> state, metrics = step(state, jnp.ones((50, 4, 2)))
      >>> int(state.step), metrics["loss"].shape, bool(metrics["loss"][-1] < 1e-6)
      (50, (50,), True)
    """
    check_net("make_step", net)
    check_count("make_step", "accumulate", accumulate)
    check_count("make_step", "steps_per_call", steps_per_call)
    check_losses(loss)
    optimizers = as_parts(optimizer)
    turns = as_turns(loss, optimizers)

    def once(moving: _Moving, key: jax.Array, batch: Any) -> tuple[_Moving, Metrics]:
        params, state, opt_state, number = moving
        owner = owners(net, params, optimizers)
        check_opt_state(optimizers, params, owner, opt_state)
        check_chains(opt_state)
        key = jax.random.fold_in(key, number)
        metrics: Metrics = OrderedDict()
        for i, turn in enumerate(turns):
            theirs = jax.random.fold_in(key, i) if len(turns) > 1 else key
            played = _play(net, turn, optimizers, owner, accumulate, (params, state, opt_state), theirs, batch)
            (params, state, opt_state), found = played
            metrics |= {f"{turn.name}/{name}" if turn.name else name: value for name, value in found.items()}
        return (params, state, opt_state, number + 1), metrics

    def several(moving: _Moving, key: jax.Array, batches: Any) -> tuple[_Moving, Metrics]:
        _check_stacked(batches, steps_per_call)
        return jax.lax.scan(lambda carry, batch: once(carry, key, batch), moving, batches, steps_per_call)

    single = Step(once)
    return single if steps_per_call == 1 else Step(several, steps_per_call, single)


def _play(
    net: Layer,
    turn: Turn,
    optimizers: Mapping[Any, Any],
    owner: Mapping[str, Any],
    accumulate: int,
    before: tuple[Tree, Tree, Any],
    key: jax.Array,
    batch: Any,
) -> tuple[tuple[Tree, Tree, Any], Metrics]:
    """Moves the parts of a turn by the gradient of its loss."""
    import optax

    params, state, opt_state = before
    kept = owned(owner, turn.parts)

    def objective(learned: Tree, state: Tree, key: jax.Array, piece: Any) -> tuple[jax.Array, tuple[Metrics, Tree]]:
        model = net.bind(shown(params, learned, kept), state=state, key=key, train=True)
        value, metrics = _value_and_metrics(turn.loss(model, piece))
        return value, (metrics, model.state)

    learned, moved = hidden(params, kept), list[Tree]()
    scaled = scaled_by(loss_scale(part_state(opt_state, part) for part in turn.parts), objective)
    gradients, (metrics, new_state) = _gradients(scaled, learned, state, key, batch, accumulate)
    for part in turn.parts:
        theirs = owned(owner, [part])
        mine, grads = hidden(params, theirs), hidden(gradients, theirs)
        updates, new = optax.with_extra_args_support(optimizers[part]).update(
            grads,
            part_state(opt_state, part),
            mine,
            value=metrics["loss"],
            grad=grads,
            value_fn=lambda moved, theirs=theirs: objective(shown(learned, moved, theirs), state, key, batch)[0],
        )
        params = shown(params, jax.tree.map(_added, mine, updates), theirs)
        opt_state = with_part_state(opt_state, part, new)
        moved.append(updates)
    skips = skipping([part_state(opt_state, part) for part in turn.parts], moved)
    if skips is not None:
        new_state = jax.tree.map(lambda new, old: jnp.where(skips, old, new), new_state, state)
        metrics["skipped"] = skips.astype(jnp.int32)
    return (params, new_state, opt_state), metrics


def _gradients(
    objective: Callable[..., Any], learned: Tree, state: Tree, key: jax.Array, batch: Any, pieces: int
) -> tuple[Tree, tuple[Metrics, Tree]]:
    """Gradients and metrics, the mean of those of the pieces of a batch, and the state after the last."""
    gradient = jax.grad(objective, has_aux=True)
    if pieces == 1:
        return gradient(learned, state, key, batch)

    def add(carry: Any, piece: Any) -> tuple[Any, Metrics]:
        total, state, i = carry
        found, (metrics, state) = gradient(learned, state, jax.random.fold_in(key, i), piece)
        return (jax.tree.map(_added, total, found), state, i + 1), metrics

    none = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), learned)
    carry, metrics = jax.lax.scan(add, (none, state, jnp.zeros((), jnp.int32)), _cut(batch, pieces))
    total, state, _ = carry
    gradients = jax.tree.map(lambda total, p: (total / pieces).astype(p.dtype), total, learned)
    return gradients, (jax.tree.map(lambda values: values.mean(0), metrics), state)


def _added(array: jax.Array, more: jax.Array) -> jax.Array:
    """The sum, found in the wider of both dtypes, in the dtype of the first."""
    wide = jnp.promote_types(array.dtype, more.dtype)
    return (array.astype(wide) + more.astype(wide)).astype(array.dtype)


def _cut(batch: Any, pieces: int) -> Any:
    """A batch in pieces, on a new first axis."""
    for path, leaf in jax.tree.leaves_with_path(batch):
        if not is_array(leaf) or leaf.ndim == 0 or leaf.shape[0] % pieces:
            raise ValueError(
                f"accumulate={pieces} cuts the first axis of each array of a batch into {pieces} equal pieces, got "
                f"{show(leaf)} at batch{jax.tree_util.keystr(path)}: give batches of a size divisible by {pieces}, and "
                "let the loss hold what is no example"
            )
    # each piece takes examples from all over the batch: one that is spread over devices leaves each its own part
    return jax.tree.map(
        lambda leaf: leaf.reshape(leaf.shape[0] // pieces, pieces, *leaf.shape[1:]).swapaxes(0, 1), batch
    )


def _check_stacked(batches: Any, steps: int) -> None:
    for path, leaf in jax.tree.leaves_with_path(batches):
        if not is_array(leaf) or leaf.ndim == 0 or leaf.shape[0] != steps:
            raise ValueError(
                f"steps_per_call={steps} takes the batches of {steps} steps, stacked on a new first axis, got "
                f"{show(leaf)} at batch{jax.tree_util.keystr(path)}: train.batches gives them as data[i : i + {steps}]"
            )


def _value_and_metrics(result: Any) -> tuple[jax.Array, Metrics]:
    """What a loss returned in two, with the loss among the metrics; raises for what it cannot return."""
    two = isinstance(result, tuple) and len(cast(tuple[Any, ...], result)) == 2
    value, metrics = cast(tuple[Any, Any], result if two else (result, {}))
    if not is_array(value) or value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"a loss is one floating number, got {show(value)}: take its mean, and return metrics as (loss, dict)"
        )
    check_metrics("a loss returns (loss, metrics) with a dict of these", metrics)
    if taken := {"loss", "skipped"} & set(metrics):
        raise ValueError(f"metrics of a loss have names of their own, got {sorted(taken)}: call it something else")
    return value, OrderedDict([("loss", value), *metrics.items()])
