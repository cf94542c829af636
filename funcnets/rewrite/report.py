"""What became of the parameters of a net that has changed: as data, whole, and printed, as short as it can be said.

A fate that many parameters share is printed by places: a layer of which all is gone is one line, and layers that count
up are one, `block_{0..11}`.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from funcnets.shapes import names_of, show

_FEW = 6  # parameters of one fate that are printed one by one


class Moved(NamedTuple):
    """A parameter that is kept under another path."""

    old: str
    new: str


class Changed(NamedTuple):
    """A parameter that has another shape, dtype or form in the new net.

    Attributes:
      path: Its path there.
      old: The specs of what the old net holds.
      new: Those of what the new one does.
      old_path: Its path in the old net.
    """

    path: str
    old: Any
    new: Any
    old_path: str


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """What became of the parameters of two nets; printed, a table.

    Each parameter of the old net stands once among `kept`, `moved`, `dropped` and `reshaped`, each of the new net once
    among `kept`, `moved`, `fresh` and `reshaped`. The table tells of more than a few by the places that they are in.

    Attributes:
      kept: The paths of those that stay as they are.
      moved: Those that are kept under another path, (old, new).
      fresh: The paths of those that only the new net has; drawn.
      dropped: The paths of those that only the old net has.
      reshaped: Those that both have, and that do not fit any more; drawn anew.
      converted: Those, among the kept and moved, that are held in another dtype, or in other arrays that the parameter
        is computed from.
      state: The same of the state, where one was given.
      without_state: Whether both nets carry a state, and none was given.
      hint: What carries parameters that were left behind, where it is known; else empty.
    """

    kept: tuple[str, ...] = ()
    moved: tuple[Moved, ...] = ()
    fresh: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    reshaped: tuple[Changed, ...] = ()
    converted: tuple[Changed, ...] = ()
    state: Report | None = None
    without_state: bool = False
    hint: str = ""

    def __repr__(self) -> str:
        before = [*self.kept, *(one.old for one in self.moved), *self.dropped, *(one.old_path for one in self.reshaped)]
        after = [*self.kept, *(one.new for one in self.moved), *self.fresh, *(one.path for one in self.reshaped)]
        converted = [_changed(one) for one in self.converted]
        reshaped = [_changed(one, "  (drawn)") for one in self.reshaped]
        drawn, gone = _places(self.fresh, after), _places(self.dropped, before)
        lines = [f"kept       {len(self.kept)} as they are"]
        lines += _told("moved", [_Line(one) for one in self.moved], [_Line(_ends(*one)) for one in self.moved])
        lines += _told("converted", converted, converted)
        lines += _told("reshaped", reshaped, reshaped)
        lines += _told("fresh", *([_Line((path,), "  (drawn)") for path in paths] for paths in (self.fresh, drawn)))
        lines += _told("dropped", *([_Line((path,)) for path in paths] for paths in (self.dropped, gone)))
        if self.state is not None:
            lines += ["state", *(f"  {line}" for line in str(self.state).splitlines())]
        if self.without_state:
            lines.append("state      not given: it starts as init_state gives it")
        if self.hint:
            lines.append(f"hint       {self.hint}")
        return "\n".join(lines)


# Lines


class _Line(NamedTuple):
    """A path, or an old one and a new one, with what is said of it, and the number of parameters that it speaks of."""

    paths: tuple[str, ...]
    tail: str = ""
    n: int = 1


def _changed(one: Changed, then: str = "") -> _Line:
    paths = (one.path,) if one.old_path == one.path else (one.old_path, one.path)
    return _Line(paths, f"  {show(one.old)} -> {show(one.new)}{then}")


def _told(what: str, each: list[_Line], in_places: list[_Line]) -> Iterator[str]:
    """The lines of one fate; of many parameters, those of the places that they are in."""
    for paths, tail, n in each if len(each) <= _FEW else _in_runs(in_places):
        number = f"{n} in " if n > 1 else ""
        yield f"{what:<9}  {number}{' -> '.join(path or '(all)' for path in paths)}{tail}"


def _places(paths: Iterable[str], among: Iterable[str]) -> Iterator[str]:
    """For each path the outermost layer of which all is among the paths; itself where there is none."""
    mine, whole = (Counter(above for path in some for above in _above(path)) for some in (list(paths), among))
    for path in paths:
        yield next((above for above in _above(path) if mine[above] == whole[above]), path)


def _above(path: str) -> list[str]:
    names = names_of(path)
    return ["/".join(names[: i + 1]) for i in range(len(names))]


def _ends(old: str, new: str) -> tuple[str, str]:
    """Two paths without the names that both end in."""
    mine, theirs = names_of(old), names_of(new)
    n = 0
    while n + 1 < min(len(mine), len(theirs)) and mine[-1 - n] == theirs[-1 - n]:
        n += 1
    return "/".join(mine[: len(mine) - n]), "/".join(theirs[: len(theirs) - n])


def _in_runs(lines: list[_Line]) -> list[_Line]:
    """Equal lines as one, and likewise lines that are equal but for a name that counts up from each to the next."""
    found = [line._replace(n=line.n * n) for line, n in Counter(lines).items()]
    for depth in range(max(len(names_of(path)) for line in found for path in line.paths)):
        found = _in_runs_at(depth, found)
    return found


def _in_runs_at(depth: int, lines: list[_Line]) -> list[_Line]:
    runs: list[list[_Line]] = []
    last: dict[_Line, tuple[tuple[int, ...], list[_Line]]] = {}  # by what they have in common: numbers, and the run
    for line in lines:
        pieces = [_numbered(path, depth) for path in line.paths]
        numbers = tuple(int(piece[1]) for piece in pieces if piece)
        common = line._replace(paths=tuple("{}".join((piece[0], piece[2])) for piece in pieces if piece))
        before, run = last.get(common, ((), []))
        if len(numbers) < len(pieces) or numbers != tuple(number + 1 for number in before):
            run = []
            runs.append(run)
        run.append(line)
        if len(numbers) == len(pieces):
            last[common] = numbers, run
    return [_as_one(run, depth) if len(run) > 1 else run[0] for run in runs]


def _numbered(path: str, depth: int) -> tuple[str, str, str] | None:
    """A path before, in and after the number that its name at this depth ends in."""
    names = names_of(path)
    found = re.fullmatch("(.*?)([0-9]+)", names[depth]) if depth < len(names) else None
    if found is None:
        return None
    return "/".join([*names[:depth], found[1]]), found[2], "/".join(["", *names[depth + 1 :]])


def _as_one(run: list[_Line], depth: int) -> _Line:
    ends = zip(run[0].paths, run[-1].paths, strict=True)
    pairs = [(_numbered(first, depth), _numbered(last, depth)) for first, last in ends]
    paths = tuple(f"{a[0]}{{{a[1]}..{b[1]}}}{a[2]}" for a, b in pairs if a and b)
    return run[0]._replace(paths=paths, n=sum(line.n for line in run))
