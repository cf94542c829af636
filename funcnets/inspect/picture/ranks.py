"""The parts of a layered layout that need no more than numbers: rows, reach, and how blocks spread sideways."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import NamedTuple


class Item(NamedTuple):
    """What is to be placed.

    Attributes:
      width, height: Its size.
      margin: How far what is written at its end reaches to either side.
      enter, leave: Where links enter and leave, from the middle, by their keys; where links of other keys do is free.
      row: "first" or "last" for items of that row, else "".
      round: Whether links may also enter it from a side.
    """

    width: float
    height: float
    margin: float = 0.0
    enter: Mapping[Hashable, float] = {}
    leave: Mapping[Hashable, float] = {}
    row: str = ""
    round: bool = False


class Link(NamedTuple):
    """A link from item to item, by numbers; links of a source with one key share a lane.

    Attributes:
      source, target: The items.
      key: What tells its ends apart at items that have ends by key.
      above, below: The room for what is written where it starts and where it ends.
    """

    source: int
    target: int
    key: Hashable = None
    above: float = 0.0
    below: float = 0.0


class Piece(NamedTuple):
    """A part of a link, from one row to the next."""

    upper: int
    lower: int
    key: Hashable


def rows_of(items: Sequence[Item], links: Sequence[Link]) -> list[int]:
    """The row of each item: one below the lowest that leads to it; where nothing does, right above the highest next."""
    before: dict[int, set[int]] = {v: set() for v in range(len(items))}
    for link in links:
        before[link.target].add(link.source)
    top = any(item.row == "first" for item in items)
    row: dict[int, int] = {}
    for v in TopologicalSorter(before).static_order():
        start = 1 if top and items[v].row != "first" else 0
        row[v] = max([start, *(row[u] + 1 for u in before[v])])
    for v, item in enumerate(items):
        after = [row[link.target] for link in links if link.source == v]
        if item.row == "" and not before[v] and after:
            row[v] = max(min(after) - 1, 0)
    last = max((r for v, r in row.items() if items[v].row != "last"), default=-1) + 1
    for v, item in enumerate(items):
        if item.row == "last":
            row[v] = last
    used = {r: i for i, r in enumerate(sorted(set(row.values())))}
    return [used[row[v]] for v in range(len(items))]


def reach_of(pieces: Iterable[Piece], items: int, *, upwards: bool) -> dict[int, int]:
    """How many items the longest way from each vertex passes."""
    following: dict[int, set[int]] = defaultdict(set)
    for p in pieces:
        a, b = (p.lower, p.upper) if upwards else (p.upper, p.lower)
        following[a].add(b)
    reach: dict[int, int] = {}
    for v in TopologicalSorter(following).static_order():
        reach[v] = max((reach[u] + (u < items) for u in following[v]), default=0)
    return reach


def spread(
    blocks: Iterable[int],
    apart: Mapping[tuple[int, int], float],
    pulls: Mapping[int, Sequence[tuple[int, float, float]]],
) -> dict[int, float]:
    """x of each block: as far apart as they must be, and as near to what pulls them as they may."""
    left: dict[int, list[tuple[int, float]]] = defaultdict(list)
    right: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for (a, b), distance in apart.items():
        left[b].append((a, distance))
        right[a].append((b, distance))
    blocks, x = list(blocks), dict[int, float]()
    for b in TopologicalSorter({b: [a for a, _ in left[b]] for b in blocks}).static_order():
        x[b] = max((x[a] + distance for a, distance in left[b]), default=0.0)
    for turn in range(40):
        for b in sorted(blocks, key=lambda b: x[b], reverse=turn % 2 == 0):
            if pulls.get(b):
                wanted = sum((x[a] + shift) * w for a, shift, w in pulls[b]) / sum(w for _, _, w in pulls[b])
                lowest = max((x[a] + distance for a, distance in left[b]), default=wanted)
                highest = min((x[c] - distance for c, distance in right[b]), default=wanted)
                x[b] = max(lowest, min(wanted, highest)) if lowest <= highest else x[b]
    return x
