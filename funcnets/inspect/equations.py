"""The equations of a traced net: what each multiplies, and the computations in it that are equations in turn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from funcnets.combinators import Repeat
from funcnets.inspect.flow import Box, Flow
from funcnets.shapes import is_array

_PRODUCTS = ("dot_general", "ragged_dot_general", "conv_general_dilated")


def is_literal(variable: Any) -> bool:
    """Whether what an equation takes is a number that is written into it. (`jax.extend` has the class, and takes longer
    to import than all of this package.)
    """
    return hasattr(variable, "val")


def product_flops(equation: Any) -> int:
    """The operations of one equation of a jaxpr, 0 unless it is a product."""
    kind = equation.primitive.name
    if kind not in _PRODUCTS:
        return 0
    left, right = (v.aval.shape for v in equation.invars[:2])
    out = math.prod(equation.outvars[0].aval.shape)
    if kind == "conv_general_dilated":
        return 2 * _convolution(left, right, equation.outvars[0].aval.shape, equation.params)
    if kind == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2 * out * math.prod(left[i] for i in contracted)
    numbers = equation.params["ragged_dot_dimension_numbers"]
    (contracted, _), _ = numbers.dot_dimension_numbers
    if set(numbers.lhs_ragged_dimensions) <= set(contracted):  # each group sums over rows of its own
        out //= equation.invars[2].aval.shape[-1] or 1
    return 2 * out * math.prod(left[i] for i in contracted)


def _convolution(left: Any, right: Any, out: Any, how: dict[str, Any]) -> int:
    numbers = how["dimension_numbers"]
    count = math.prod(out[i] for i in numbers.out_spec[:2]) * right[numbers.rhs_spec[1]]
    for i, dilation in enumerate(how["lhs_dilation"]):
        place, weight = out[numbers.out_spec[2 + i]], right[numbers.rhs_spec[2 + i]]
        value = left[numbers.lhs_spec[2 + i]]
        # Between dilated values stand zeros; of a place, a weight and a value that meet, two tell the third.
        count *= place * weight if dilation == 1 else math.prod(sorted((place, weight, value))[:2])
    return count


# What is in an equation


class Inner(NamedTuple):
    """A computation in an equation.

    Attributes:
      jaxpr: The computation.
      takes: Which of the equation's inputs it takes.
      gives: Whether its outputs are the equation's.
      carries: (input, output) numbers of what goes from one turn to the next.
      times: How many turns there are.
    """

    jaxpr: Any
    takes: tuple[int, ...]
    gives: bool = True
    carries: tuple[tuple[int, int], ...] = ()
    times: int = 1


def inner(equation: Any, box: Box | None) -> list[Inner]:
    """The computations in an equation; several in the branches of a `cond`, or the parts of a loop."""
    kind, held, n = equation.primitive.name, equation.params, len(equation.invars)
    if kind == "scan":
        first = held["num_consts"]
        carries = tuple((first + i, i) for i in range(held["num_carry"]))
        return [Inner(held["jaxpr"].jaxpr, tuple(range(n)), carries=carries, times=held["length"])]
    if kind == "while":
        test, body = held["cond_nconsts"], held["body_nconsts"]
        carries = tuple((body + i, i) for i in range(n - test - body))
        condition = (*range(test), *range(test + body, n))
        return [
            Inner(held["body_jaxpr"].jaxpr, tuple(range(test, n)), carries=carries),
            Inner(held["cond_jaxpr"].jaxpr, condition, gives=False),
        ]
    if kind == "cond":
        return [Inner(branch.jaxpr, tuple(range(1, n))) for branch in held["branches"]]
    closed = held.get("jaxpr", held.get("call_jaxpr"))
    jaxpr = getattr(closed, "jaxpr", closed)
    if jaxpr is None or (len(jaxpr.invars), len(jaxpr.outvars)) != (n, len(equation.outvars)):
        return []  # a function of single values, in a reduction say
    carries, times = _copies(box, n)
    return [Inner(jaxpr, tuple(range(n)), carries=carries, times=times)]


def _copies(box: Box | None, n: int) -> tuple[tuple[tuple[int, int], ...], int]:
    """What goes from copy to copy in a call with n inputs, and how many copies there are."""
    if box is None:
        return (), 1
    if not isinstance(box.layer, Repeat):
        return (), box.copies
    given = sum(map(is_array, jax.tree.leaves(box.inputs)))
    carried = sum(map(is_array, jax.tree.leaves(box.output)))
    return tuple((n - given + i, i) for i in range(carried)), box.copies


def equations(flow: Flow) -> Iterator[tuple[Box | None, Any]]:
    """All equations of a flow at any depth, each with the innermost call that it is in."""

    def walk(jaxpr: Any, box: Box | None) -> Iterator[tuple[Box | None, Any]]:
        for equation in jaxpr.eqns:
            yield box, equation
            here = flow.box_of(equation)
            for one in inner(equation, here):
                yield from walk(one.jaxpr, here or box)

    return walk(flow.jaxpr.jaxpr, None)
