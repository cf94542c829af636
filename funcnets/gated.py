"""Cells whose parameters act on their gates alone, and the gradients of all their steps at once.

Most recurrent cells are of this form: a matrix product or two for the gates, and arithmetic with them that knows no
parameters. In the backward pass of a plain loop each step adds its share to the gradient of every kernel; with few
rows the time goes into reading and writing these sums. But a parameter can be seen as a shift of the gates of each
step: the loop backward need only find the gradients of the gates, and those of parameters and inputs follow from them
in one product over all steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcnets.layer import Layer
from funcnets.shapes import Tree, describe

FEW_ROWS = 8
"""Up to how many rows the gradients of all steps at once are the faster (on a CPU, at 64 and 256 features). With more,
a step's own products are large enough, and the gates' gradients of all steps cost more memory than they save."""

_Loop = Callable[[Callable[[Any, Any], Any], Any, Any, Any], tuple[Any, Any]]
"""A body, the carries to start from (at first, at a reset), xs, masks → (last carry, ys)."""


class GatedCell(Layer):
    """(carry', y) = step(carry, gates(p, carry, x)): a cell in two parts, of which the first has all parameters.

    A subclass writes `params`, `gates` and `step` in place of a forward. A `Scan` of one over few rows finds the
    gradients of all steps at once; what it computes is the same.

    Example:
      >>> from funcnets.gated import GatedCell
      >>> class Decay(GatedCell):
      ...     def params(self, carry, x):
      ...         return {"kernel": fn.Param((x.shape[-1], x.shape[-1]), fn.initializers.LecunNormal())}
      ...     def gates(self, p, carry, x):
      ...         return x @ p["kernel"]
      ...     def step(self, carry, gates):
      ...         carry = jax.nn.sigmoid(gates) * carry + gates
      ...         return carry, carry
      ...     def initial_carry(self, x):
      ...         return jnp.zeros(x.shape, x.dtype)
      >>> fn.Scan(Decay()).plan(jnp.ones((2, 7, 3))).output.shape
      (2, 7, 3)
    """

    def gates(self, p: Any, carry: Any, x: Any) -> Any:
        """What parameters, carry and one step's input give: floating arrays."""
        raise NotImplementedError(f"{describe(self)} has no gates: write def gates(self, p, carry, x)")

    def step(self, carry: Any, gates: Any) -> tuple[Any, Any]:
        """(carry', y), of carry and gates alone."""
        raise NotImplementedError(f"{describe(self)} has no step: write def step(self, carry, gates)")

    def forward(self, p: Any, carry: Any, x: Any) -> Any:
        return self.step(carry, self.gates(p, carry, x))


def gated_cell(cell: Any, xs: Tree) -> GatedCell | None:
    """The cell if gradients of all its steps at once are the same, and faster for xs (time, ..., features).

    They are not the same for a subclass with another forward, nor where a field may hold what is differentiated.
    """
    if not isinstance(cell, GatedCell) or type(cell).forward is not GatedCell.forward or not cell._memoable:
        return None
    return cell if all(math.prod(a.shape[1:-1]) <= FEW_ROWS for a in jax.tree.leaves(xs)) else None


def over_gates(cell: GatedCell, loop: _Loop) -> Callable[[Tree, Any, Any, Any], tuple[Any, Any]]:
    """params, the carries to start from, xs, masks → (last carry, ys), with gradients of all steps at once."""

    def run(p: Tree, begin: Any, xs: Any, masks: Any, shifts: Any) -> tuple[Any, Any]:
        def body(carry: Any, each: Any) -> tuple[Any, Any]:
            x, shift = each
            gates = cell.gates(p, carry, x)
            if shift is None:
                return cell.step(carry, gates)
            new, y = cell.step(carry, jax.tree.map(jnp.add, gates, shift))
            return new, (y, carry)

        return loop(body, begin, (xs, shifts), masks)

    @jax.custom_jvp
    def whole(p: Tree, begin: Any, xs: Any, masks: Any) -> tuple[Any, Any]:
        return run(p, begin, xs, masks, None)

    @whole.defjvp
    def tangents_of(primals: Any, tangents: Any) -> Any:  # pyright: ignore[reportUnusedFunction]
        (p, begin, xs, masks), (dp, dbegin, dxs, _) = primals, tangents

        def shifted(begin: Any, shifts: Any) -> tuple[Any, Any]:
            return run(p, begin, xs, masks, shifts)

        def gates_of(p: Tree, xs: Any) -> Any:
            return jax.vmap(cell.gates, in_axes=(None, 0, 0))(p, carries, xs)

        (last, (ys, carries)), tangent = jax.linearize(shifted, begin, _no_shifts(cell, p, begin, xs))
        _, shifts = jax.jvp(gates_of, (p, xs), (dp, dxs))
        dlast, (dys, _) = tangent(dbegin, shifts)
        return (last, ys), (dlast, dys)

    return whole


def _no_shifts(cell: GatedCell, p: Tree, begin: Any, xs: Any) -> Any:
    """Zeros like the gates of all steps."""

    def gates(p: Tree, begin: Any, xs: Any) -> Any:
        return jax.vmap(cell.gates, in_axes=(None, None, 0))(p, begin[0], xs)

    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(gates, p, begin, xs))
