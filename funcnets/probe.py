"""A look at the layers' outputs in a pass, to keep them or to change them.

A *probe* is handed from scope to scope like the keys of a pass. In a transform (`Repeat`, `Scan`, `Ensemble`, `Remat`)
outputs belong to the transform's own trace: the wrapper gives its child a probe of its own (`inside`), returns what
that one kept beside the child's output, and hands it back (`take`). So what a loop gives comes stacked along a leading
axis.

A path speaks of the outermost of the layers that share it, inside of the innermost loop among them: of
`Repeat(Residual(...), 12)` it is what each of the residual blocks gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from funcnets.scope import Scope, leak, now

if TYPE_CHECKING:
    from funcnets.layer import Layer


class Seen(NamedTuple):
    """A call of a layer in a pass.

    Attributes:
      path: The layer's path.
      layer: The layer.
      spoken: Whether the path speaks of this layer, and not of one that shares it.
      call: How many calls there were at this path before.
      numbers: The numbers of the copies of the loops around, outermost first.
    """

    path: str
    layer: Layer
    spoken: bool
    call: int
    numbers: tuple[Any, ...]


Change = Callable[[Seen, Any], Any]
"""A call and its output → the output that takes its place."""


class Probe:
    """What looks at the outputs of the layers in a pass.

    Args:
      wanted: Which outputs to keep.
      changes: What to make of outputs, one after the other, before they are kept.
      skipped: Where to note the paths of outputs that cannot be kept, in raw transforms; without it they raise.

    Attributes:
      found: What was kept, by path; of a second call at a path under "path@1", and so on.
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
        self._index: tuple[Any, ...] = ()
        self._notes = _Notes(Counter())

    @property
    def found(self) -> dict[str, Any]:
        return self._notes.found

    def see(self, scope: Scope, output: Any) -> Any:
        """The output that goes on in the place of a layer's."""
        path, spoken = scope.path, not scope.wrapped and not _is_seen_inside(scope.layer)
        seen = Seen(path, scope.layer, spoken, self._notes.calls[path], self._index)
        self._notes.calls[path] += spoken
        for change in self._changes:
            output = change(seen, output)
        if self._wanted is not None and self._wanted(seen):
            if self._notes.trace == now():
                self._notes.keep(path, output)
            elif self._skipped is None:
                raise leak("an output that is to be kept", path)
            else:
                self._skipped.add(path)
        return output

    def changing(self, change: Change) -> Probe:
        """This probe, with one more change, that comes before its own."""
        return self._like((change, *self._changes), self._index, self._notes)

    def inside(self, index: Any) -> Probe:
        """A probe for a child that runs in a transform, and then belongs to it; of a loop, in copy `index`."""
        around = self._index if index is None else (*self._index, index)
        inner = self._notes.inner = _Notes(self._notes.calls.copy())
        return self._like(self._changes, around, inner)

    def take(self, found: dict[str, Any]) -> None:
        """Keeps what the probe of a child kept, as it came out of the transform."""
        if self._notes.inner is not None:
            self._notes.calls = self._notes.inner.calls
            for name in self._notes.inner.found:
                self._notes.keep(name.partition("@")[0], found[name])

    def _like(self, changes: tuple[Change, ...], index: tuple[Any, ...], notes: _Notes) -> Probe:
        other = Probe(self._wanted, changes, self._skipped)
        other._index, other._notes = index, notes
        return other


class _Notes:
    """What is known of one trace of a pass."""

    def __init__(self, calls: Counter[str]) -> None:
        self.calls = calls
        self.found: dict[str, Any] = {}
        self.inner: _Notes | None = None  # those of the transform that was entered last
        self.trace = now()

    def keep(self, path: str, output: Any) -> None:
        name, count = path, 0
        while name in self.found:
            count += 1
            name = f"{path}@{count}"
        self.found[name] = output


def _is_seen_inside(layer: Layer) -> bool:
    """Whether the output that a layer's path speaks of is one of its wrapped child."""
    while layer._is_wrapper:
        if layer._seen_inside:
            return True
        layer = layer._entries()[0][1]
    return False
