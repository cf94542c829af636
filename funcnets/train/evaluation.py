"""Metrics over data, in evaluation mode."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from funcnets.bound import Bound
from funcnets.layer import Layer
from funcnets.shapes import Tree, is_array, show
from funcnets.train.arguments import check_function, check_metrics, check_net
from funcnets.train.data import Batches
from funcnets.train.state import TrainState, check_state
from funcnets.values import holds_nothing

Measure = Callable[[Bound, Any], dict[str, Any]]


def evaluate(net: Layer, measure: Measure, state: TrainState, batches: Iterable[Any]) -> dict[str, float]:
    """The mean of each metric over all examples, in evaluation mode; batches need not be of one size.

    mean = Σ weight · number / Σ weight, over all numbers of all batches

    Args:
      net: The net.
      measure: `measure(model, batch)` → a dict of metrics, each an array of numbers: one an example, float[batch], or
        one a token, float[batch, length]. Or (numbers, weights), both of that shape: a mask of what counts. It is
        compiled once if it is defined once; a lambda in a loop is another function each time.
      state: Its parameters and state are used.
      batches: The data: a list, an iterator, or `train.batches` without a key, which give each example once.

    Raises:
      TypeError: A metric that is a mean already.
      ValueError: No batches; those of `train.batches(..., partial="drop")` where that drops some; weights of another
        shape; a metric all of whose weights are zero.

    Example:
      >>> net = fn.Dense(1)
      >>> state = fn.train.create(net, optax.sgd(0.1), jax.random.key(0), jnp.ones((1, 3)))
      >>> data = fn.train.batches({"x": np.zeros((10, 3), "float32")}, 4)
      >>> fn.train.evaluate(net, lambda model, batch: {"positive": model(batch["x"])[:, 0] > 0}, state, data)
      {'positive': 0.0}
    """

    check_net("evaluate", net)
    check_function("evaluate", "measure(model, batch)", measure)
    check_state("evaluate", state)
    if isinstance(batches, Batches) and batches.dropped:
        raise ValueError(
            f"evaluate takes all examples, and these batches leave {batches.dropped} of {batches.examples} out: "
            'train.batches(arrays, batch_size, partial="keep")'
        )
    # Compiled once for all calls; but not with a function that would keep what it closes over alive.
    kept = holds_nothing(net) and holds_nothing(measure)
    totals = _totals if kept else jax.jit(_total, static_argnums=(0, 1))
    sums: dict[str, np.ndarray[Any, Any]] = {}
    ahead: deque[Any] = deque()  # what is being computed while the next batch is read

    def add(found: dict[str, Any]) -> None:
        if sums and sums.keys() != found.keys():
            raise ValueError(f"measure returns the same metrics for each batch, got {list(found)} and {list(sums)}")
        for name, total in found.items():
            sums[name] = sums.get(name, np.zeros(2)) + np.asarray(total, np.float64)

    for batch in batches:
        ahead.append(totals(net, measure, state.params, state.state, batch))
        if len(ahead) > 2:
            add(ahead.popleft())
    for found in ahead:
        add(found)
    if not sums:
        raise ValueError(
            "evaluate was given no batches: an iterator that was run through gives none a second time; pass a list, or "
            "train.batches"
        )
    if empty := [name for name, (_, weight) in sums.items() if weight == 0]:
        raise ValueError(f"evaluate: of {', '.join(empty)} no number has any weight: there is no mean")
    return {name: float(total / weight) for name, (total, weight) in sums.items()}


def _total(net: Layer, measure: Measure, params: Tree, state: Tree, batch: Any) -> dict[str, tuple[Any, Any]]:
    values = measure(net.bind(params, state=state), batch)
    check_metrics("measure returns a dict of metrics", values)
    return OrderedDict((name, _weighed(name, value)) for name, value in values.items())  # whose order JAX keeps


def _weighed(name: str, value: Any) -> tuple[Any, Any]:
    """Σ weight · number, and Σ weight."""
    numbers, weights = cast(tuple[Any, Any], value) if isinstance(value, tuple) else (value, None)
    if not is_array(numbers) or numbers.ndim == 0:
        raise TypeError(
            f"measure returns one number an example, a vector, got {show(numbers)} for {name!r}: evaluate takes the "
            "means"
        )
    numbers = numbers.astype(jnp.promote_types(numbers.dtype, jnp.float32))
    if weights is None:
        return numbers.sum(), numbers.size
    if not is_array(weights) or weights.shape != numbers.shape:
        raise ValueError(
            f"measure returns (numbers, weights) of one shape, got {show(numbers)} and {show(weights)} for {name!r}"
        )
    weights = weights.astype(numbers.dtype)
    return jnp.where(weights == 0, 0, numbers * weights).sum(), weights.sum()


_totals = jax.jit(_total, static_argnums=(0, 1))
