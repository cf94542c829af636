"""A look at the layers' outputs in a pass, to keep them or to change them.

A *probe* is handed from scope to scope like the keys of a pass. In a transform (`Repeat`, `Scan`, `Ensemble`, `Remat`)
outputs belong to the transform's own trace: the wrapper gives its child a probe of its own (`inside`), returns what
that one kept beside the child's output, and hands it back (`take`). So what a loop gives comes stacked along a leading
axis.

A path speaks of the outermost of the layers that share it, inside of the innermost loop among them: of
`Repeat(Residual(...), 12)` it is what each of the residual blocks gives. The others that share it have an address with
their class, "dense_0:Dense". A further call at an address has its number, "dense_0@1".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax

from funcnets.scope import Scope, now
from funcnets.shapes import is_array, join

if TYPE_CHECKING:
    from funcnets.layer import Layer


class Seen(NamedTuple):
    """A call of a layer in a pass.

    Attributes:
      path: The layer's path.
      layer: The layer.
      spoken: Whether the path speaks of this layer, and not of one that shares it.
      call: How many calls there were at this address before; None for any.
      numbers: The numbers of the copies of the loops around, outermost first.
      counts: How many copies each of these loops has.
    """

    path: str
    layer: Layer
    spoken: bool
    call: int | None = None
    numbers: tuple[Any, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def address(self) -> str:
        """What the call is known by, apart from its number."""
        return self.path if self.spoken else f"{self.path}:{type(self.layer).__name__}"


class Change(Protocol):
    """What is made of outputs."""

    def speaks_of(self, seen: Seen) -> bool:
        """Whether it changes this call's output."""
        ...

    def __call__(self, seen: Seen, output: Any) -> Any:
        """What takes the output's place."""
        ...


class Probe:
    """What looks at the outputs of the layers in a pass.

    Args:
      wanted: Which outputs to keep.
      changes: What to make of outputs, one after the other, before they are kept.
      skipped: Where to note the paths of outputs that cannot be kept, in raw transforms; without it they raise.

    Attributes:
      found: What was kept, by address; of a further call under "address@1", and so on.
    """

    def __init__(
        self,
        wanted: Callable[[Seen], bool] | None = None,
        changes: tuple[Change, ...] = (),
        skipped: set[str] | None = None,
    ) -> None:
        self._wanted = wanted
        self._changes = changes
        self._skipped = skipped
        self._numbers: tuple[Any, ...] = ()
        self._counts: tuple[int, ...] = ()
        self._notes = _Notes(Counter())

    @property
    def found(self) -> dict[str, Any]:
        return self._notes.found

    @property
    def depth(self) -> int:
        """How many loops are around."""
        return len(self._counts)

    @property
    def calls(self) -> Counter[str]:
        """How many calls there were at each address, as a copy."""
        return self._notes.calls.copy()

    def see(self, scope: Scope, output: Any) -> Any:
        """The output that goes on in the place of a layer's."""
        spoken = not scope.wrapped and spoken_in(scope.layer) is scope.layer
        seen = Seen(scope.path, scope.layer, spoken, None, self._numbers, self._counts)
        call = self._notes.calls[seen.address]
        seen = seen._replace(call=call)
        for change in self._changes:
            output = change(seen, output)
        here = self._notes.trace == now()
        if here or self._wanted is None:  # a raw transform may run its function more than once
            self._notes.calls[seen.address] += 1
        if self._wanted is not None and self._wanted(seen):
            if here:
                self._notes.found[seen.address if not call else f"{seen.address}@{call}"] = _arrays_of(output)
            elif self._skipped is None:
                raise RuntimeError(
                    f"{scope.place} runs inside a raw JAX transform of a forward function (scan, cond, vmap, grad, "
                    "checkpoint, jit), out of which its output would leak. Leave it out of what is captured, or run it "
                    "in fn.Repeat, fn.Scan, fn.Ensemble or fn.Remat, which carry it"
                )
            else:
                self._skipped.add(scope.path)
        return output

    def looks_into(self, layer: Layer, path: str) -> bool:
        """Whether it keeps or changes the output of a layer, or of one in it."""
        return any(
            (self._wanted is not None and self._wanted(seen)) or any(one.speaks_of(seen) for one in self._changes)
            for seen in _possible(layer, path)
        )

    def changing(self, change: Change) -> Probe:
        """This probe, with one more change, that comes before its own."""
        return self._like((change, *self._changes), self._numbers, self._counts, self._notes)

    def inside(self, number: Any, count: int) -> Probe:
        """A probe for a child that runs in a transform, and then belongs to it; of a loop, in a copy of `count`."""
        loop = number is not None
        numbers = (*self._numbers, number) if loop else self._numbers
        counts = (*self._counts, count) if loop else self._counts
        inner = self._notes.inner = _Notes(self.calls)
        return self._like(self._changes, numbers, counts, inner)

    def hand_out(self) -> dict[str, Any]:
        """What it kept, to be carried out of the transform it runs in; none of its trace stays behind."""
        found, self._notes.found = self._notes.found, {}
        self._notes.names = tuple(found)
        return found

    def take(self, found: dict[str, Any]) -> None:
        """Keeps what the probe of a child kept, as it came out of the transform."""
        inner = self._notes.inner
        if inner is not None:
            self._notes.calls = inner.calls
            self._notes.found |= {name: found[name] for name in inner.names}

    def _like(
        self, changes: tuple[Change, ...], numbers: tuple[Any, ...], counts: tuple[int, ...], notes: _Notes
    ) -> Probe:
        other = Probe(self._wanted, changes, self._skipped)
        other._numbers, other._counts, other._notes = numbers, counts, notes
        return other


class _Notes:
    """What is known of one trace of a pass."""

    def __init__(self, calls: Counter[str]) -> None:
        self.calls = calls
        self.found: dict[str, Any] = {}
        self.names: tuple[str, ...] = ()  # of what was handed out
        self.inner: _Notes | None = None  # those of the transform that was entered last
        self.trace = now()


def _arrays_of(output: Any) -> Any:
    """An output with None in the place of what is no array."""
    return jax.tree.map(lambda leaf: leaf if is_array(leaf) else None, output)


def spoken_in(layer: Layer) -> Layer:
    """Of a layer and those in it that share its path: the one that the path speaks of."""
    spoken = layer
    while layer._is_wrapper:
        seen_inside, layer = layer._seen_inside, layer._entries()[0][1]
        if seen_inside:
            spoken = layer
    return spoken


def _possible(layer: Layer, path: str) -> Iterator[Seen]:
    """The calls that may be seen of a layer and all in it."""
    yield Seen(path, layer, True)
    yield Seen(path, layer, False)
    for name, child in layer._entries():
        yield from _possible(child, join(path, name))
