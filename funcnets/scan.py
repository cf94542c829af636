"""Cells over time.

A *cell* is a layer called `cell(carry, x)` that returns (carry, y): one step. A cell that knows where to start has a
method `initial_carry(x)`, given one step's input or its spec. A cell whose parameters act on its gates alone may say
so, as a `GatedCell` of `funcnets.gated`, for faster gradients. A `Scan`, called `(carry, xs)`, is a cell itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.bound import Carried
from funcnets.combinators import _Copies, copy_keys_of
from funcnets.gated import gated_cell, over_gates
from funcnets.layer import Layer
from funcnets.masks import filled, leads, mask_error, where
from funcnets.shapes import Tree, describe, is_array, show

_PureCell = Callable[[Any, Any, Tree, Any], tuple[Any, Carried]]
"""carry, x, state, number of the step → (carry, y), and what is carried out beside."""


class Scan(_Copies):
    """A cell over time: (carryₜ, yₜ) = cell(carryₜ₋₁, xₜ), with one set of parameters for all steps.

    A state of the cell goes from step to step, also those beyond a length. It runs as a `lax.scan`.

    Args:
      cell: The layer to run over time, called `cell(carry, x)` with x one time step, returning (carry, y).
      axis: The time axis of every array in xs and ys; by default (batch, time, ...).
      reverse: Whether to run from the last step to the first; outputs stay in the order of the inputs.
      unroll: How many steps one turn of the loop takes.
      remat: None, or how many steps make a chunk, "sqrt" for √time: what the steps of a chunk computed is computed
        again in the backward pass. Gradients then take memory for a carry a chunk, and for the steps of one chunk.
      keys: "step": new random numbers (dropout) at each step. "sequence": those of the first step at every step.
      return_carry: Whether the last carry is returned also where none was given.

    Params: the cell's.

    States: the cell's.

    Inputs: carry, xs → (carry, ys). With xs alone the cell gives the carry to start from, `cell.initial_carry(x)`, and
      ys alone are returned unless return_carry.
      lengths: Whole numbers (batch,). Steps at and beyond a row's length leave its carry and give y = 0, and nothing
        depends on x there; in reverse a row starts at its own last step.
      reset: Booleans (batch, time). Where one is True the carry is `cell.initial_carry(x)` again before that step.

    Raises:
      TypeError: A cell that does not return (carry, y), or has no carry to start from; other inputs than these.
      ValueError: Fields that cannot be; inputs of several lengths, or without a time axis; a cell that changes shape or
        dtype of its carry; lengths or resets for another batch.

    Source: with lengths, the output is that of PyTorch's packed sequences. The memory of remat is that of Chen et al.
      2016, Training deep nets with sublinear memory cost. keys="sequence" is the dropout of Gal & Ghahramani 2016.

    Example:
      >>> @fn.compose(dense=fn.Dense(4))
      ... def cell(m, carry, x):
      ...     carry = jnp.tanh(m.dense(x) + carry)
      ...     return carry, carry
      >>> fn.Scan(cell).plan(jnp.zeros((2, 4)), jnp.ones((2, 7, 3))).output[1].shape
      (2, 7, 4)
      >>> stack = fn.Sequential(fn.Scan(fn.LSTMCell(8)), fn.Scan(fn.LSTMCell(5)))
      >>> stack.plan(jnp.ones((2, 7, 3))).output.shape
      (2, 7, 5)

      Lengths are an input of every layer of a stack, which a composite hands out:

      >>> @fn.compose(first=fn.Bidirectional(fn.LSTMCell(8)), second=fn.Scan(fn.GRUCell(5)))
      ... def encoder(m, xs, lengths):
      ...     return m.second(m.first(xs, lengths=lengths), lengths=lengths)
      >>> encoder.plan(jnp.ones((2, 7, 3)), jnp.array([7, 4])).output.shape
      (2, 7, 5)
    """

    cell: Layer | Callable[..., Any]
    axis: int = 1
    reverse: bool = False
    unroll: int = 1
    remat: int | str | None = None
    keys: str = "step"
    return_carry: bool = False

    def __post_init__(self) -> None:
        def steps(held: Any) -> bool:
            return type(held) is int and held >= 1

        self._take("axis", type(self.axis) is int, "as a whole number", "The time axis of (batch, time, ...) is 1")
        self._take("reverse", isinstance(self.reverse, bool), "as True or False", "Write reverse=True")
        self._take("unroll", steps(self.unroll), "as a whole number, at least 1", "It is a number of steps")
        chunk = self.remat is None or self.remat == "sqrt" or steps(self.remat)
        self._take("remat", chunk, "as None, 'sqrt', or a whole number, at least 1", "It is a number of steps")
        self._take("keys", self.keys in ("step", "sequence"), "as 'step' or 'sequence'", "A key itself goes to apply")
        self._take("return_carry", isinstance(self.return_carry, bool), "as True or False", "Write return_carry=True")

    def _take(self, name: str, valid: bool, takes: str, remedy: str) -> None:
        if not valid:
            raise ValueError(f"Scan takes {name} {takes}, got {getattr(self, name)!r}. {remedy}")

    def initial_carry(self, xs: Any) -> Any:
        """The cell's carry to start from, for these inputs or their specs."""
        start = start_of(self.cell)
        if start is None:
            raise TypeError(
                f"{describe(self)}: the cell has no initial_carry(x), so give the carry to start from: (carry, xs). A "
                f"layer that is no cell, such as Dense, takes (batch, time, features) as it is, without a Scan"
            )
        self._time(xs)
        return start(jax.tree.map(self._step_of, xs))

    def _step_of(self, a: Any) -> jax.ShapeDtypeStruct:
        shape = list(a.shape)
        del shape[self.axis]
        return jax.ShapeDtypeStruct(tuple(shape), a.dtype)

    def outline(self, m: Any, *inputs: Any, lengths: Any = None, reset: Any = None) -> Any:
        def cell(carry: Any, x: Any, state: Tree, i: Any) -> tuple[Any, Carried]:
            return m.cell(carry, x), Carried(None, {})

        return self._over_time(m, inputs, lengths, reset, cell)

    def forward(self, m: Any, *inputs: Any, lengths: Any = None, reset: Any = None) -> Any:
        params, keys = m.cell.params, copy_keys_of(m.cell)
        time = self._time(inputs[-1]) if inputs else 0

        def cell(carry: Any, x: Any, state: Tree, i: Any) -> tuple[Any, Carried]:
            key = keys(0 if self.keys == "sequence" else i)
            return m.cell._pure((carry, x), {}, params, state, key, index=i, count=time)

        return self._over_time(m, inputs, lengths, reset, cell, m.cell._state_or_none(), params)

    def _over_time(
        self,
        m: Any,
        inputs: tuple[Any, ...],
        lengths: Any,
        reset: Any,
        cell: _PureCell,
        state: Tree = None,
        params: Tree = None,
    ) -> Any:
        if len(inputs) not in (1, 2):
            raise TypeError(f"Scan takes (xs) or (carry, xs), got {len(inputs)} inputs: {show(inputs)}")
        given = inputs[-1]
        time = self._time(given)
        start = inputs[0] if len(inputs) == 2 else self.initial_carry(given)
        fresh = None if reset is None else self.initial_carry(given)
        resets = None if reset is None else self._resets(reset, given)
        valid = None if lengths is None else self._valid(lengths, given, time)
        xs: Any = jax.tree.map(lambda a: jnp.moveaxis(a, self.axis, 0), given)
        if valid is not None:
            xs = jax.tree.map(lambda a: filled(a, valid), xs)
        probe = m._scope.probe
        watched = probe is not None and probe.looks_into(self.cell, m._scope.path)
        step_by_step = params is None or self.remat is not None or watched
        gated = None if step_by_step else gated_cell(self.cell, xs)
        if gated is not None:
            one = jax.tree.map(self._step_of, given)
            jax.eval_shape(lambda carry, x: cell(carry, x, None, None)[0], start, one)  # the checks of any layer
            carry, ys = over_gates(gated, self._loop_of)(params, (start, fresh), xs, (valid, resets))
        else:
            counted = probe is not None or (m._scope.keys is not None and self.keys == "step")
            numbers = jnp.arange(time) if counted else None
            changed: list[bool] = []
            step = self._step(cell, fresh, changed)
            (carry, state), (ys, seen) = self._loop(step, (start, state), (xs, numbers, valid, resets), time)
            m.cell._put(Carried(state if any(changed) else None, seen))
        ys = jax.tree.map(lambda a: jnp.moveaxis(a, 0, self.axis), ys)
        return (carry, ys) if len(inputs) == 2 or self.return_carry else ys

    def _loop_of(self, body: Callable[..., Any], begin: Any, xs: Any, masks: Any) -> tuple[Any, Any]:
        """The loop of a cell that is a function of carry and x alone."""
        start, fresh = begin
        step = self._step(lambda carry, x, *_: (body(carry, x), Carried(None, {})), fresh, [])
        (carry, _), (ys, _) = self._loop(step, (start, None), (xs, None, *masks), jax.tree.leaves(xs)[0].shape[0])
        return carry, ys

    def _step(self, cell: _PureCell, fresh: Any, changed: list[bool]) -> Callable[..., Any]:
        """The loop's body; it notes whether it found a new state."""

        def step(carried: tuple[Any, Tree], each: tuple[Any, ...]) -> tuple[tuple[Any, Tree], Any]:
            (old, state), (x, i, valid, reset) = carried, each
            output, (new, seen) = cell(old if reset is None else where(reset, fresh, old), x, state, i)
            changed.append(new is not None)
            carry, y = self._kept(old, output)
            if valid is not None:
                carry, y = where(valid, (carry, y), (old, jax.tree.map(jnp.zeros_like, y)))
            return (carry, state if new is None else new), (y, seen)

        return step

    def _loop(self, step: Callable[..., Any], start: Any, xs: Any, time: int) -> tuple[Any, Any]:
        loop = functools.partial(jax.lax.scan, step, reverse=self.reverse, unroll=self.unroll)
        if self.remat is None:
            return loop(start, xs, length=time)
        chunk = _root(time) if isinstance(self.remat, str) else max(min(self.remat, time), 1)
        n, rest = divmod(time, chunk)
        chunks = jax.tree.map(lambda a: a[: n * chunk].reshape(n, chunk, *a.shape[1:]), xs)
        left = jax.tree.map(lambda a: a[n * chunk :], xs)  # fewer steps than a chunk: these are kept
        # Inside a loop nothing can be merged with what is computed again.
        again = jax.checkpoint(functools.partial(loop, length=chunk), prevent_cse=False)  # pyright: ignore[reportPrivateImportUsage]
        ys_left = None
        if rest and self.reverse:
            start, ys_left = loop(start, left, length=rest)
        last, ys = jax.lax.scan(again, start, chunks, length=n, reverse=self.reverse)
        if rest and not self.reverse:
            last, ys_left = loop(last, left, length=rest)
        ys = jax.tree.map(lambda a: a.reshape(n * chunk, *a.shape[2:]), ys)
        return last, jax.tree.map(lambda *parts: jnp.concatenate(parts), ys, ys_left) if rest else ys

    def _time(self, xs: Any) -> int:
        """The number of steps."""
        leaves = jax.tree.leaves(xs)
        if any(not -jnp.ndim(a) <= self.axis < jnp.ndim(a) for a in leaves):
            raise ValueError(
                f"Scan takes inputs with a time axis {self.axis}, got {show(xs)}. For one sequence (time, ...), set "
                f"axis=0"
            )
        if self.axis == 1 and any(jnp.ndim(a) == 2 and jnp.issubdtype(a.dtype, jnp.floating) for a in leaves):
            raise ValueError(
                f"Scan takes (batch, time, ...) with features after the time, got {show(xs)}, whose axis 1 is the "
                f"last. For one sequence (time, features), set axis=0; to run over the last axis all the same, axis=-1"
            )
        found = {a.shape[self.axis] for a in leaves}
        if len(found) != 1:
            raise ValueError(f"Scan takes inputs with one length along axis {self.axis}, got {show(xs)}")
        return found.pop()

    def _valid(self, lengths: Any, xs: Any, time: int) -> jax.Array:
        """Which steps count: (time, batch)."""
        whole = is_array(lengths) and jnp.issubdtype(lengths.dtype, jnp.integer)
        if not whole or not leads(lengths.shape, jax.tree.map(self._step_of, xs)):
            raise mask_error("lengths", "whole numbers, one for each row: (batch,)", lengths, xs)
        steps = jax.lax.broadcasted_iota(jnp.int32, (time, *lengths.shape), 0)
        return steps < jnp.asarray(lengths, jnp.int32)[None]

    def _resets(self, reset: Any, xs: Any) -> jax.Array:
        """Before which steps the carry starts anew: (time, batch)."""
        if is_array(reset) and reset.dtype == jnp.bool_ and leads(reset.shape, xs):
            axis = self.axis % jnp.ndim(jax.tree.leaves(xs)[0])
            if axis < reset.ndim:
                return jnp.moveaxis(reset, axis, 0)
        raise mask_error("reset", "booleans, one for each row and step: (batch, time)", reset, xs)

    def _kept(self, old: Any, output: Any) -> tuple[Any, Any]:
        if not isinstance(output, tuple) or len(output) != 2:
            raise TypeError(
                f"{describe(self)}: a cell returns (carry, y), got {show(output)}. Where the two are one: return y, y"
            )
        was, new = (jax.tree.map(_spec, carry) for carry in (old, output[0]))
        if jax.tree.structure(was) != jax.tree.structure(new) or jax.tree.leaves(was) != jax.tree.leaves(new):
            raise ValueError(
                f"{describe(self)}: a cell keeps its carry's shapes and dtypes; {show(was)} became {show(new)}. Give a "
                f"carry of the cell's own, or cast it back; in another precision, Cast(Scan(cell), dtype)"
            )
        return output


def _spec(a: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a))


def start_of(cell: Any) -> Callable[[Any], Any] | None:
    """The initial_carry of a cell, or of what its wrappers hold; None where there is none, or copies with one each."""
    while isinstance(cell, Layer) and cell._is_wrapper and not hasattr(cell, "initial_carry"):
        if cell._copies("states") is not None:
            return None
        cell = cell._entries()[0][1]
    return getattr(cell, "initial_carry", None)


def scan_in(layer: Any) -> Scan | None:
    """The Scan that a layer is, or that its wrappers hold."""
    while isinstance(layer, Layer) and layer._is_wrapper and not isinstance(layer, Scan):
        layer = layer._entries()[0][1]
    return layer if isinstance(layer, Scan) else None


def _root(time: int) -> int:
    """A chunk of about √time steps, of which none are left over if one of that size divides the time."""
    root = max(math.isqrt(time), 1)
    return next((chunk for chunk in range(root, root // 2, -1) if time % chunk == 0), root)
