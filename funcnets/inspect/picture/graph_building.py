"""From a traced forward to the graph that a picture shows.

Nodes are layers, inputs and outputs, and what a composite's own code does where data of two sources meet. Operations on
one value alone are part of the edge, unless they amount to a function with a name. Composites are frames around their
children, down to a depth at which they are nodes; wrappers are tags on what they hold, and copies and loops a badge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from funcnets.combinators import Ensemble, Repeat
from funcnets.compose import Composite
from funcnets.inspect.equations import Inner, inner, is_literal
from funcnets.inspect.flow import Box, Flow
from funcnets.inspect.picture import labels
from funcnets.inspect.picture.ends import input_names, output_names
from funcnets.inspect.picture.graph import Graph
from funcnets.inspect.picture.sketch import NOTHING, At, Sketch, Value, value_of
from funcnets.leaves import Constant, Function, Param
from funcnets.scan import Scan
from funcnets.shapes import names_of
from funcnets.wrappers import Tied


class _Repeated(NamedTuple):
    """A composite just drawn, which may turn out the first of several alike."""

    box: Box
    equation: Any
    node: int
    times: int


_COPIES, _ARRAYS = (Repeat, Ensemble, Scan), (Param, Constant)
_MULTIPLY = ("dot_general", "conv_general_dilated")


def graph_of(flow: Flow, depth: int) -> Graph:
    """The graph of a flow with composites opened down to a depth.

    Args:
      flow: A traced forward.
      depth: How many levels of composites are opened; 0 makes the net one node.
    """
    return _Builder(flow).built(depth)


class _Builder(Sketch):
    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
        self.last: dict[int | None, _Repeated] = {}
        self.loops: dict[int | None, list[Value]] = {}  # what the loop of a Scan's frame gives
        self.uses: Counter[Any] = Counter()
        self.whole = True

    def built(self, depth: int) -> Graph:
        outer, root = self.flow.jaxpr.jaxpr, self.flow.boxes[0]
        env: dict[Any, Value] = {}
        at = At(None, depth, bare=True)
        for var, name in zip(outer.invars, input_names(root), strict=True):
            env[var] = self.start(self.node("input", name, at), var)
        self._walk(outer, env, at)
        for var, name in zip(outer.outvars, output_names(root), strict=True):
            self.fed("output", name, at, env, [var])
        return self.graph(self.whole)

    # Equations

    def _walk(self, jaxpr: Any, env: dict[Any, Value], at: At) -> None:
        inputs = [var for equation in jaxpr.eqns for var in equation.invars]
        self.uses.update(var for var in (*inputs, *jaxpr.outvars) if not is_literal(var))
        for equation in jaxpr.eqns:
            held = self.flow.held_by(equation)
            box = self.flow.box_of(equation)
            if held is not None:
                paths = frozenset([held.path] if held.kind == "params" else [])
                outputs = [Value(held=paths)] * len(equation.outvars)
            elif box is not None:
                outputs = self._box(box, equation, env, at)
            elif self._has_boxes(equation):
                outputs = self._control(equation, env, at)
            else:
                outputs = self._operation(equation, env, at)
            env.update(zip(equation.outvars, outputs, strict=True))

    def _inside(self, jaxpr: Any, values: Sequence[Value], at: At) -> list[Value]:
        """The outputs of a jaxpr, drawn for given inputs."""
        env = dict(zip(jaxpr.invars, values, strict=True))
        self._walk(jaxpr, env, at)
        return [self.settled(env, var, at) if at.frame is not None else value_of(env, var) for var in jaxpr.outvars]

    def _has_boxes(self, equation: Any) -> bool:
        return any(self.flow.box_of(one) is not None for one in _all_equations(equation))

    def _control(self, equation: Any, env: dict[Any, Value], at: At) -> list[Value]:
        """An equation that has calls of layers inside: a loop, a branch, or a function of functions."""
        name, parts, outside = equation.primitive.name, inner(equation, None), at._replace(tags=())
        if name == "cond":
            for var in equation.invars:
                self.settled(env, var, at)
            node = self.node("operation", "cond", outside)
            self.feed(node, env, equation.invars[:1], at)
            for branch in parts:
                within = {var: value_of(env, equation.invars[i]) for var, i in _takes(branch)}
                self._walk(branch.jaxpr, within, at)
                self.feed(node, within, branch.jaxpr.outvars, at)
            return [self.start(node, var) for var in equation.outvars]
        if name == "scan" and at.loop and at.frame in self.loops:
            return self.loops[at.frame]  # steps that are left over when time is cut into chunks
        if name in ("scan", "while") and not at.loop:
            values = [self.settled(env, var, at) for var in equation.invars]
            badge = f"× {equation.params['length']}" if name == "scan" else ""
            at = outside._replace(frame=self.node("frame", name, outside, badge=badge))
        else:
            values = [value_of(env, var) for var in equation.invars]
        outputs = self._inside(parts[0].jaxpr, [values[i] for _, i in _takes(parts[0])], at)
        if name == "scan" and at.loop:
            self.loops[at.frame] = outputs
        return outputs

    def _operation(self, equation: Any, env: dict[Any, Value], at: At) -> list[Value]:
        """An equation of a composite's own code."""
        values = [value_of(env, var) for var in equation.invars]
        origins = {value.origin for value in values} - {None}
        held = frozenset[str]().union(*(value.held for value in values))
        primitive, name = equation.primitive.name, _function_name(equation)
        multiplied = bool(held) and primitive in _MULTIPLY
        if len(origins) < 2 and not (origins and (name or multiplied or primitive in ("while", "scan", "cond"))):
            done = frozenset({primitive, *(one.primitive.name for one in _all_equations(equation))})
            origin = next((value for value in values if value.origin is not None), NOTHING)
            through = frozenset[str]().union(done, *(value.through for value in values))
            return [origin._replace(through=through, held=held)] * len(equation.outvars)
        label = name or labels.operation(str(equation.params.get("name") or primitive))
        joined = self._joined(label, equation, values, at)
        kind = "function" if name and len(origins) < 2 else "operation"
        more = {"family": "activation"} if kind == "function" else {}
        if joined is None:
            joined = self.fed(kind, label, at._replace(tags=()), env, equation.invars, **more)
        else:
            self.feed(joined, env, equation.invars, at)
        return [self.start(joined, var) for var in equation.outvars]

    def _joined(self, label: str, equation: Any, values: list[Value], at: At) -> int | None:
        """The sum (or product) that this one goes on with, so that a + b + c is one node."""
        for var, value in zip(equation.invars, values, strict=True):
            if value.origin is None or value.through or label not in ("+", "×") or self.uses[var] != 1:
                continue
            node = self.nodes[value.origin]
            if (node.kind, node.label, node.frame) == ("operation", label, at.frame):
                return node.number
        return None

    # Calls of layers

    def _box(self, box: Box, equation: Any, env: dict[Any, Value], at: At) -> list[Value]:
        layer, jaxpr = box.layer, equation.params["jaxpr"].jaxpr
        copies = isinstance(layer, _COPIES)
        if layer._is_wrapper and not copies:
            self._link(box)
            word = labels.tag(layer)
            tags = at.tags if not word or word in at.tags else (*at.tags, word)
            return self._inside_wrapper(jaxpr, equation, env, at._replace(tags=tags))
        opens = isinstance(layer, Composite) and any(map(self._is_or_has_box, jaxpr.eqns))
        if opens and not copies and at.bare and at.depth:
            below = at._replace(depth=at.depth - 1, bare=False, tags=(), loop=False)
            return self._inside(jaxpr, [value_of(env, var) for var in equation.invars], below)
        if isinstance(layer, Composite):
            again = self._again(box, equation, env, at)
            if again is not None:
                return again
        if copies:
            outputs = self._copies(box, equation, env, at)
        elif opens and at.depth and self._calls(equation) > 1:
            outputs = self._frame(box, equation, env, at, at._replace(depth=at.depth - 1, bare=False, loop=False))
        else:
            self.whole = self.whole and self._calls(equation) < 2
            outputs = self._leaf(box, equation, env, at)
        return outputs

    def _inside_wrapper(self, jaxpr: Any, equation: Any, env: dict[Any, Value], at: At) -> list[Value]:
        within = dict(zip(jaxpr.invars, (value_of(env, var) for var in equation.invars), strict=True))
        self._walk(jaxpr, within, at)
        return [value_of(within, var) for var in jaxpr.outvars]

    def _is_or_has_box(self, equation: Any) -> bool:
        return self.flow.box_of(equation) is not None or self._has_boxes(equation)

    def _leaf(self, box: Box, equation: Any, env: dict[Any, Value], at: At) -> list[Value]:
        layer = box.layer
        kind = "function" if isinstance(layer, Function) else "array" if isinstance(layer, _ARRAYS) else "layer"
        what = {"path": box.path, "family": labels.family(layer), "name": labels.given_name(box.path, layer)}
        node = self.fed(kind, labels.label(layer), at, env, equation.invars, **what)
        self.reads[node] = self.reads.get(node, frozenset()) | frozenset(self._read_in(equation))
        self.last[at.frame] = _Repeated(box, equation, node, 1)
        return [self.start(node, var) for var in equation.outvars]

    def _frame(self, box: Box, equation: Any, env: dict[Any, Value], at: At, below: At) -> list[Value]:
        layer, name = box.layer, labels.given_name(box.path, box.layer)
        badge = labels.badge(layer, _steps(box))
        values = [self.settled(env, var, at) for var in equation.invars]
        frame = self.node("frame", labels.kind(layer), at, name=name, path=box.path, badge=badge)
        outputs = self._inside(equation.params["jaxpr"].jaxpr, values, below._replace(frame=frame, tags=()))
        self.last[at.frame] = _Repeated(box, equation, frame, 1)
        return outputs

    def _copies(self, box: Box, equation: Any, env: dict[Any, Value], at: At) -> list[Value]:
        """A wrapper that runs its child many times: a frame with a badge, or the badge alone on a single node."""
        outputs = self._frame(box, equation, env, at, at._replace(bare=True, loop=isinstance(box.layer, Scan)))
        frame = self.last[at.frame].node
        inside = [node for node in self.nodes.values() if node.frame == frame]
        if len(inside) != 1 or inside[0].badge or inside[0].kind == "frame":
            return outputs
        (node,), around = inside, self.nodes.pop(frame)
        name = node.name or around.name
        self.nodes[node.number] = node._replace(
            frame=at.frame, badge=around.badge, name=name, tags=(*at.tags, *node.tags)
        )
        self.last[at.frame] = self.last[at.frame]._replace(node=node.number)
        self.edges = {pair: shapes for pair, shapes in self.edges.items() if pair[1] != node.number}
        self.feed(node.number, env, equation.invars, at)
        ends = zip(equation.outvars, outputs, strict=True)
        return [self.start(node.number, var) if value.origin == node.number else value for var, value in ends]

    def _again(self, box: Box, equation: Any, env: dict[Any, Value], at: At) -> list[Value] | None:
        """The outputs of a composite that does the same as the one before it, to what that one gave: one frame × 2."""
        last = self.last.get(at.frame)
        if last is None or last.box.layer != box.layer or last.box.path == box.path or last.box.inputs != box.inputs:
            return None
        before = last.equation
        chained = [var in before.outvars for var in equation.invars]
        if len(before.invars) != len(chained) or not any(chained):
            return None
        pairs = zip(chained, equation.invars, before.invars, strict=True)
        if not all(goes_on or one is other for goes_on, one, other in pairs):
            return None
        if any(self.uses[var] != 1 for var in before.outvars):
            return None
        node, count = self.nodes[last.node], last.times + 1
        name = f"{node.name.split(' … ')[0]} … {labels.given_name(box.path, box.layer)}" if node.name else ""
        self.nodes[last.node] = node._replace(badge=f"× {count}", name=name)
        self.last[at.frame] = _Repeated(box, equation, last.node, count)
        return [value_of(env, var) for var in before.outvars]

    def _calls(self, equation: Any) -> int:
        """How many calls of layers, wrappers aside, are in an equation: a frame around one would say little."""
        boxes = [self.flow.box_of(one) for one in _all_equations(equation)]
        return sum(box is not None and not box.layer._is_wrapper for box in boxes)

    def _read_in(self, equation: Any) -> Iterator[str]:
        for one in _all_equations(equation):
            held = self.flow.held_by(one)
            if held is not None and held.kind == "params":
                yield held.path

    def _link(self, box: Box) -> None:
        if isinstance(box.layer, Tied):
            self.linked.append((_layer_path(box.path, box.layer.to), _layer_path(box.path, box.layer.target)))


# Jaxprs


def _takes(part: Inner) -> Iterator[tuple[Any, int]]:
    """The inputs of a computation in an equation, and which of the equation's they are."""
    return zip(part.jaxpr.invars, part.takes, strict=True)


def _all_equations(equation: Any) -> Iterator[Any]:
    """The equations in an equation, at any depth."""
    for part in inner(equation, None):
        for one in part.jaxpr.eqns:
            yield one
            yield from _all_equations(one)


def _function_name(equation: Any) -> str:
    """The name of a function that an equation calls, if it is a public one."""
    parts = inner(equation, None)
    if not parts:
        return ""
    if "name" not in equation.params:  # of a function with a derivative of its own, what it calls has the name
        return _function_name(parts[0].jaxpr.eqns[0]) if len(parts[0].jaxpr.eqns) == 1 else ""
    name = str(equation.params["name"])
    return name if name.isidentifier() and not name.startswith("_") else ""


# Calls


def _steps(box: Box) -> int | None:
    return box.layer._time(box.inputs[0][-1]) if isinstance(box.layer, Scan) else None


def _layer_path(root: str, array: str) -> str:
    """The path of the layer that an array, whose path is relative to a root, belongs to."""
    return "/".join((*names_of(root), *names_of(array)[:-1]))
