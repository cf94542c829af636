"""The calls of a traced net as rows, one for each place in it.

A place is a path: a wrapper, which adds no name, shares the row of its child. Calls of one place with equal shapes
share a row too; but where it holds parameters, its later calls have a row of their own, which is tied to the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax

from funcnets.compose import Composed
from funcnets.inspect.equations import equations
from funcnets.inspect.flops import Flops, flops_of
from funcnets.inspect.flow import Box, Flow
from funcnets.layer import Layer
from funcnets.leaves import is_child
from funcnets.params import frozen
from funcnets.plan import Plan
from funcnets.record import KINDS, Call, Kind
from funcnets.shapes import flat, join, names_of, show
from funcnets.values import code
from funcnets.wrappers import Tied


class Row(NamedTuple):
    """A place in a net, and all that is in it.

    Attributes:
      path: Its path.
      layer: The layer there, with the wrappers around it.
      depth: How many places it is in.
      inputs: Specs of what goes in, those given by name last.
      output: The spec of what comes out.
      parameters: How many numbers its parameters are: those of all copies, but not those that are counted elsewhere.
      dtypes: The dtypes of its parameters.
      frozen: How many of these numbers take no gradient, as `fn.params.frozen` tells.
      bytes: What they take.
      flops: Operations of the forward pass; None where the computation does not come by.
      gradient_flops: What the backward pass adds for the gradients of parameters; None likewise.
      state: How many numbers its state is.
      state_bytes: What they take.
      copies: How many copies there are of it in the `Repeat` and `Ensemble` around it.
      calls: How many calls the row stands for.
      tied: Whether parameters that it computes with are counted at another place, or given to it.
      train_only: Whether it is met in training alone.
    """

    path: str
    layer: Layer
    depth: int
    inputs: tuple[Any, ...]
    output: Any
    parameters: int
    frozen: int
    dtypes: tuple[str, ...]
    bytes: int
    flops: int | None
    gradient_flops: int | None
    state: int
    state_bytes: int
    copies: int
    calls: int
    tied: bool
    train_only: bool

    @property
    def code(self) -> str:
        """The layer as a table writes it: its code on one line, composites without their children."""
        return short_code(self.layer)

    @property
    def marks(self) -> str:
        """What a table adds to that: ×n for n copies, and in brackets whether it is tied, frozen, and so on."""
        words = ["tied"] * self.tied + ["frozen"] * (self.parameters == self.frozen > 0)
        words += ["training only"] * self.train_only
        words += [f"{self.calls} calls"] * (self.calls > 1)
        return f" ×{self.copies}" * (self.copies != 1) + f" ({', '.join(words)})" * bool(words)


def rows_of(plan: Plan, flow: Flow, depth: int | None) -> list[Row]:
    """The rows of a net, its own first, each before those in it.

    Args:
      plan: The net's plan.
      flow: Its flow for the same sample.
      depth: How deep to go; None for all.
    """
    rows = list(_Tree(plan, flow).root.rows(0))
    return [row for row in rows if depth is None or row.depth <= depth]


# A layer in short


def short_code(layer: Layer) -> str:
    """A layer's code on one line: a composite's without its children, a wrapper's around that of its child."""
    if not layer._entries() and not isinstance(layer, Composed):
        return " ".join(code(layer).split())
    copies = layer._copies("states")
    settings = [one for one in _settings(layer) if copies is None or one != str(copies)]
    if layer._is_wrapper:
        inside = [short_code(layer._entries()[0][1]), *settings]
        return f"{'tie' if isinstance(layer, Tied) else type(layer).__name__}({', '.join(inside)})"
    name = layer._auto_name() if isinstance(layer, Composed) else type(layer).__name__
    return f"{name}({', '.join(settings)})" if settings else name


def _settings(layer: Layer) -> list[str]:
    """The arguments of a composite that are no children."""
    if isinstance(layer, Composed):
        return [f"{name}={code(held)}" for name, held in layer._settings().items() if not _children(held)]
    settings = layer._settings()
    children = {text for name, held in settings.items() for one in _children(held) for text in _as_argument(name, one)}
    return [" ".join(one.code.split()) for one in layer._arguments() if one.code not in children]


def _children(held: Any) -> list[Any]:
    """A field's content and its items, if it holds children."""
    if is_child(held):
        return [held]
    inside = [one for item in held for one in _children(item)] if isinstance(held, tuple) else []
    return [held, *held] if inside else []


def _as_argument(name: str, held: Any) -> tuple[str, str]:
    return code(held), f"{name}={code(held)}"


# Places


@dataclass(eq=False)
class _Place:
    """A place in a net, while its row is put together."""

    path: str
    layer: Layer
    inputs: tuple[Any, ...]
    output: Any
    around: _Place | None
    reads: bool = False  # parameters of its own or of places in it
    later: bool = False  # for calls after the first that it is
    train_only: bool = False
    tied: bool = False
    calls: int = 1
    frozen: int = 0
    flops: Flops | None = None
    children: list[_Place] = field(default_factory=list["_Place"])
    arrays: dict[Kind, list[Any]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def __post_init__(self) -> None:
        if self.around is not None:
            self.around.children.append(self)

    @property
    def copies(self) -> int:
        copies = 1 if self.around is None else self.around.copies
        for layer in _wrapped(self.layer):
            one = layer._copies("states")
            copies *= 1 if one is None else one
        return copies

    def all_in(self) -> Iterator[_Place]:
        yield self
        for child in self.children:
            yield from child.all_in()

    def rows(self, depth: int) -> Iterator[Row]:
        """Its row, and those of what is in it."""
        inside = list(self.all_in())
        params, states = ([one for place in inside for one in place.arrays[kind]] for kind in KINDS)
        counted = [place.flops for place in inside if place.flops is not None]
        yield Row(
            path=self.path,
            layer=self.layer,
            depth=depth,
            inputs=self.inputs,
            output=self.output,
            parameters=_count(params),
            frozen=sum(place.frozen for place in inside),
            dtypes=tuple(sorted({one.dtype.name for one in params})),
            bytes=_bytes(params),
            flops=sum(one.forward for one in counted) if counted else None,
            gradient_flops=sum(one.gradient for one in counted) if counted else None,
            state=_count(states),
            state_bytes=_bytes(states),
            copies=self.copies,
            calls=self.calls,
            tied=self.tied or (not params and self.reads),
            train_only=self.train_only,
        )
        for child in self.children:
            yield from child.rows(depth + 1)


def _wrapped(layer: Layer) -> Iterator[Layer]:
    """A layer, and while these are wrappers what is in it."""
    yield layer
    while layer._is_wrapper:
        layer = layer._entries()[0][1]
        yield layer


def _count(arrays: Iterable[Any]) -> int:
    return sum(math.prod(one.shape) for one in arrays)


def _bytes(arrays: Iterable[Any]) -> int:
    return sum(math.prod(one.shape) * one.dtype.itemsize for one in arrays)


class _Tree:
    """All places of a net."""

    def __init__(self, plan: Plan, flow: Flow) -> None:
        self._flow, self._flops = flow, flops_of(flow, plan.declared["params"])
        self._by_path: dict[str, _Place] = {}  # the first at each path
        self._by_call: dict[int, _Place] = {}
        self._known: dict[Any, _Place] = {}
        met, self._reading = self._met()
        paths = {flow.boxes[number].path for number in met}
        for box in flow.boxes:
            if box.number in met or box.path not in paths:  # what a transformation left no equation of has a row, too
                self._add(box)
        self._add_training([call for call in plan.calls if call.train_only])
        is_frozen = frozen(plan.layer)
        for kind in KINDS:
            for path, declared in plan.declared[kind].items():
                place = self._at(plan.owners[kind][path])
                place.arrays[kind] += jax.tree.leaves(declared.shapes)
                if kind == "params":
                    place.frozen += _count(one for inner, one in flat(declared.shapes, path) if is_frozen(inner))
        for box in flow.boxes:
            if isinstance(box.layer, Tied):
                self._at(join(box.path, box.layer.target)).tied = True

    @property
    def root(self) -> _Place:
        return self._by_call[0]

    def _met(self) -> tuple[set[int], set[int]]:
        """The calls that the computation comes by, and those that read parameters, or have one that does in them."""
        met: set[int] = set()
        readers = set(self._flow.given)
        for around, equation in equations(self._flow):
            box, held = self._flow.box_of(equation), self._flow.held_by(equation)
            if box is not None:
                met.add(box.number)
            if around is not None and held is not None and (held.kind, held.path) == ("params", around.path):
                readers.add(around.number)
        reading: set[int] = set()
        for number in readers:
            here: int | None = number
            while here is not None:
                reading.add(here)
                here = self._flow.boxes[here].parent
        return met, reading

    def _add(self, box: Box) -> None:
        number = box.parent
        while number is not None and number not in self._by_call:
            number = self._flow.boxes[number].parent
        around = None if number is None else self._by_call[number]
        if number is not None and around is not None and self._flow.boxes[number].layer._is_wrapper:
            place = around  # the wrapper's child, or what it has as means of its own, such as a carry
        else:
            place = self._place(box, around)
        self._by_call[box.number] = place
        if box.number in self._flops:
            place.flops = (place.flops or Flops()).plus(self._flops[box.number])

    def _place(self, box: Box, around: _Place | None) -> _Place:
        """The place of a call, which equal calls have been at or not."""
        inputs, named = box.inputs
        reads = box.number in self._reading
        later = around is not None and around.later
        key = around, box.path, box.layer, show(box.inputs), show(box.output), later
        if key in self._known and reads and not later:
            later, key = True, (*key[:-1], True)
        if key in self._known:
            self._known[key].calls += 1
        else:
            place = _Place(box.path, box.layer, (*inputs, *named.values()), box.output, around, reads, later)
            self._known[key] = place
            self._by_path.setdefault(box.path, place)
        return self._known[key]

    def _add_training(self, calls: list[Call]) -> None:
        """Places of calls that only training makes: of each path the last call, which is the outermost wrapper's."""
        outer = {call.path: call for call in calls}
        for call in sorted(outer.values(), key=lambda call: len(names_of(call.path))):
            place = _Place(call.path, call.layer, call.inputs, call.output, self._at(call.path), train_only=True)
            self._by_path[call.path] = place

    def _at(self, path: str) -> _Place:
        """The first place at a path or, where none is, above it."""
        names = names_of(path)
        while (here := "/".join(names)) not in self._by_path:
            names.pop()
        return self._by_path[here]
