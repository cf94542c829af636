"""How much a net multiplies: floating-point operations, counted off a traced forward.

Products are what is counted, two operations for each multiplication with its addition: `dot_general`, `ragged_dot` and
convolutions, wherever they stand. All else counts 0: element-wise functions, sums, sorting, Fourier transforms, solving
and decomposing of matrices (with its rule for the backward pass), and the reading and writing of memory, which on
today's machines often takes the longer part of the time. Padding is worked on like any other value; zeros that a
transposed convolution puts between values are not.

- A scan counts its body for each step, a wrapper with n copies (`Repeat`, `Ensemble`) its child n times.
- A while loop counts one turn, as nobody knows the number of turns before it runs.
- Of the branches of a `cond` the one that multiplies most counts, and the others not.

The *gradient* is what the backward pass adds for the gradients of the parameters: for each product one of the same size
for each of its two operands that depends on a parameter that learns, if what comes out has a way to the outputs on
which gradients pass. What is behind `stop_gradient`, or goes into whole numbers alone, has none; inputs of the net take
none. What is computed again there (`Remat`, `jax.checkpoint`) adds its forward once more, whatever a policy keeps. A
rule of one's own for the backward pass is taken to cost what JAX's would. Of a scan, and of `Repeat`, each step counts
as the second does, whose carry depends on parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from funcnets.compose import Wrapper
from funcnets.inspect.equations import Inner, equations, inner, is_literal, product_flops
from funcnets.inspect.flow import Box, Flow, traced
from funcnets.layer import Layer
from funcnets.parametrization import Parametrized
from funcnets.record import Declared
from funcnets.shapes import below, flat, join
from funcnets.wrappers import Remat, Tied

_REMAT = ("checkpoint", "remat", "remat2")  # the equation of jax.checkpoint has had these names
_Flags = tuple[bool, ...]
_Learns = Callable[[Box | None, str], bool]
"""Whether an array that a layer sees takes a gradient, by the call that it is seen in and its path there."""


class Flops(NamedTuple):
    """Floating-point operations.

    Attributes:
      forward: Of the forward pass.
      gradient: What the backward pass adds for the gradients of the parameters.
    """

    forward: int = 0
    gradient: int = 0

    def plus(self, other: Flops, times: int = 1) -> Flops:
        return Flops(self.forward + times * other.forward, self.gradient + times * other.gradient)


Tally = dict[int | None, Flops]
"""Operations by the number of the call that they are in; None for what is in none."""


def flops_of(flow: Flow, params: Mapping[str, Declared]) -> Tally:
    """The operations of each call in a flow, without those of the calls in it.

    A call that the computation does not come by (in the branch of a `cond` that multiplies less) has no entry.

    Args:
      flow: The traced forward.
      params: The net's declared parameters by path, `plan.declared["params"]`.
    """
    return _count(flow, functools.partial(_learns, flow, params))


def net_flops(net: Layer, sample: tuple[Any, ...], kwargs: dict[str, Any]) -> Flops:
    """The operations of a whole net."""
    flow, params = traced(net, sample, kwargs), net.plan(*sample, **kwargs).declared["params"]
    return _total(flops_of(flow, params))


def _count(flow: Flow, learns: _Learns) -> Tally:
    jaxpr = flow.jaxpr.jaxpr
    inputs, outputs = (False,) * len(jaxpr.invars), (True,) * len(jaxpr.outvars)
    return _Counter(flow, learns).count(jaxpr, inputs, outputs)[0]


def _total(tally: Tally) -> Flops:
    total = Flops()
    for flops in tally.values():
        total = total.plus(flops)
    return total


# Which parameters learn


def _learns(flow: Flow, params: Mapping[str, Declared], box: Box | None, path: str) -> bool:
    """Whether an array, by the path where a layer in this call sees it, takes a gradient: some of the parameters that
    it is computed from does, past all the wrappers that the call is in.
    """
    paths = {path}
    while box is not None and paths:
        if isinstance(box.layer, Wrapper):
            paths = {join(box.path, one) for name in paths for one in _around(box.layer, box.path, name, params)}
        box = None if box.parent is None else flow.boxes[box.parent]
    return bool(paths)


def _around(wrapper: Wrapper, root: str, path: str, params: Mapping[str, Declared]) -> Iterator[str]:
    """The paths below its root of what a wrapper computes its child's parameter from, but for what it holds."""
    name = below(path, root)
    inside = [name]
    if isinstance(wrapper, Tied) and name == wrapper.target:
        inside = [wrapper.to]
    if isinstance(wrapper, Parametrized) and name in dict(wrapper.by) and path in params:
        inside = [join(name, one) for one, _ in flat(params[path].shapes)]
    yield from (one for one in inside if not wrapper.holds(one))


# The count


class _Counter:
    """Counts jaxprs. Flags say of inputs whether they depend on parameters that learn, of outputs whether gradients
    come in there.
    """

    def __init__(self, flow: Flow, learns: _Learns) -> None:
        self._flow = flow
        self._learns = learns
        self._learning = {  # of each equation that stands for an array, by its id
            id(equation): held.kind == "params" and learns(box, held.array)
            for box, equation in equations(flow)
            if (held := flow.held_by(equation)) is not None
        }
        self._known: dict[Any, Any] = {}

    def count(self, jaxpr: Any, inputs: _Flags, outputs: _Flags) -> tuple[Tally, _Flags]:
        """The operations (None for those in no call), and at which inputs gradients come out."""
        key = id(jaxpr), inputs, outputs
        if key not in self._known:
            self._known[key] = self._count(jaxpr, inputs, outputs)
        return self._known[key]

    def _count(self, jaxpr: Any, inputs: _Flags, outputs: _Flags) -> tuple[Tally, _Flags]:
        depends = self._depends(jaxpr, inputs)
        used = {v for e in jaxpr.eqns for v in e.invars if not is_literal(v)}
        used |= {v for v in jaxpr.outvars if not is_literal(v)}
        reached = {v for v, flag in zip(jaxpr.outvars, outputs, strict=True) if flag and depends(v)}
        tally: Tally = {}
        for equation in reversed(jaxpr.eqns):
            # What nothing takes is given to a layer in a way that a plan does not follow: as its parameters.
            come_in = tuple(depends(v) and (v in reached or v not in used) for v in equation.outvars)
            part, come_out = self._equation(equation, tuple(map(depends, equation.invars)), come_in)
            _add(tally, part)
            reached |= {v for v, flag in zip(equation.invars, come_out, strict=True) if flag}
        return tally, tuple(v in reached for v in jaxpr.invars)

    def _equation(self, equation: Any, inputs: _Flags, outputs: _Flags) -> tuple[Tally, _Flags]:
        box = self._flow.box_of(equation)
        inside = inner(equation, box)
        if not inside:
            flops = product_flops(equation)
            gradient = flops * sum(inputs[:2]) if any(outputs) else 0
            return {None: Flops(flops, gradient)}, inputs if any(outputs) else (False,) * len(inputs)
        parts = [(one, *self._turns(one, inputs, outputs)) for one in inside]
        most = max((part for part in parts if part[0].gives), key=lambda part: sum(map(sum, part[1].values())))
        tally: Tally = {}
        for one, part, _ in parts:
            if not one.gives or part is most[1]:
                _add(tally, part)
        if any(outputs) and (equation.primitive.name in _REMAT or (box and isinstance(box.layer, Remat))):
            tally = {number: flops.plus(Flops(0, flops.forward)) for number, flops in tally.items()}
        if box is not None:
            tally = {box.number if number is None else number: flops for number, flops in tally.items()}
            _add(tally, {box.number: self._parametrized(box, any(outputs))})
        come_out = [False] * len(inputs)
        for one, _, flags in parts:
            for i, flag in zip(one.takes, flags, strict=True):
                come_out[i] |= flag
        return tally, tuple(come_out)

    def _parametrized(self, box: Box, gradients: bool) -> Flops:
        """What a wrapper computes its child's parameters with, which a plan leaves out."""
        total, layer = Flops(), box.layer
        if isinstance(layer, Parametrized):
            shapes = layer._targets(*box.inputs)
            for name, how in layer.by:
                made = _total(_count(traced(how, (shapes[name],), {}), self._in_place_of(box, name)))
                total = total.plus(made if gradients else made._replace(gradient=0))
        return total

    def _in_place_of(self, box: Box, name: str) -> _Learns:
        """Which of the arrays that are held in the place of a wrapper's parameter learn."""
        return lambda _, path: self._learns(box, join(join(box.path, name), path))

    def _turns(self, one: Inner, inputs: _Flags, outputs: _Flags) -> tuple[Tally, _Flags]:
        """All turns of a computation in an equation with these flags."""
        own = self._settled(one, tuple(inputs[i] for i in one.takes))
        wanted = list(outputs) if one.gives else [False] * len(one.jaxpr.outvars)
        while True:
            tally, come_out = self.count(one.jaxpr, own, tuple(wanted))
            more = [o for i, o in one.carries if come_out[i] and not wanted[o]]
            if not more:
                return {number: Flops().plus(flops, one.times) for number, flops in tally.items()}, come_out
            for o in more:
                wanted[o] = True

    def _depends(self, jaxpr: Any, inputs: _Flags) -> Any:
        """A function that tells of each value in a jaxpr whether it depends on parameters that learn."""
        key = id(jaxpr), inputs
        if key not in self._known:
            self._known[key] = self._spread(jaxpr, inputs)
        known = self._known[key]
        return lambda v: not is_literal(v) and known[v]

    def _spread(self, jaxpr: Any, inputs: _Flags) -> dict[Any, bool]:
        known = dict.fromkeys(jaxpr.constvars, False) | dict(zip(jaxpr.invars, inputs, strict=True))
        for equation in jaxpr.eqns:
            flags = self._spread_over(equation, tuple(not is_literal(v) and known[v] for v in equation.invars))
            for v, flag in zip(equation.outvars, flags, strict=True):
                known[v] = flag and jnp.issubdtype(getattr(v.aval, "dtype", bool), jnp.inexact)
        return known

    def _spread_over(self, equation: Any, inputs: _Flags) -> _Flags:
        if self._flow.held_by(equation) is not None:
            return (self._learning[id(equation)],) * len(equation.outvars)
        if equation.primitive.name == "stop_gradient":
            return (False,) * len(equation.outvars)
        inside = [one for one in inner(equation, self._flow.box_of(equation)) if one.gives]
        if not inside:
            return (any(inputs),) * len(equation.outvars)
        each: list[_Flags] = []
        for one in inside:
            depends = self._depends(one.jaxpr, self._settled(one, tuple(inputs[i] for i in one.takes)))
            each.append(tuple(map(depends, one.jaxpr.outvars)))
        return tuple(map(any, zip(*each, strict=True)))

    def _settled(self, one: Inner, inputs: _Flags) -> _Flags:
        """The flags of the inputs as they are in the later turns of a loop."""
        while True:
            depends = self._depends(one.jaxpr, inputs)
            more = {i for i, o in one.carries if depends(one.jaxpr.outvars[o]) and not inputs[i]}
            if not more:
                return inputs
            inputs = tuple(flag or i in more for i, flag in enumerate(inputs))


def _add(tally: Tally, part: Tally) -> None:
    for number, flops in part.items():
        tally[number] = tally.get(number, Flops()).plus(flops)
