"""Places for the items of a directed graph, in rows from top to bottom.

The usual way (Sugiyama et al. 1981): rows by the longest path; a link that passes rows has a lane in each; the order in
a row follows the neighbours' until crossings get no fewer. What goes on to the one item that leads furthest is put
straight under it, so that the main path of a net is one line, and lanes are straight. It knows nothing of nets.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

from funcnets.inspect.picture.marks import Point
from funcnets.inspect.picture.ranks import Item, Link, Piece, reach_of, rows_of, spread

_GAP, _NEAR, _LANE = 28.0, 18.0, 12.0  # between items, between an item and a lane, between lanes
_PORT = 16.0  # between two ends at one item


class Places(NamedTuple):
    """Where all is.

    Attributes:
      middles: The middle of each item.
      paths: For each link, the points it runs through; between two it runs straight, or bends with upright ends.
      sides: For each link, whether it enters its target from a side.
    """

    middles: list[Point]
    paths: list[list[Point]]
    sides: list[bool]


def layered(items: Sequence[Item], links: Sequence[Link]) -> Places:
    """Places for items, with the top left corner at about (0, 0)."""
    return _Layout(items, links).places()


class _Layout:
    def __init__(self, items: Sequence[Item], links: Sequence[Link]) -> None:
        self.items, self.links = list(items), links
        self.row = rows_of(items, links)
        self.count = len(items)  # what is beyond are lanes
        self.pieces: list[Piece] = []
        self.chains: list[list[int]] = []  # the vertices that a link passes
        self._with_lanes()
        self.up: dict[int, list[Piece]] = defaultdict(list)
        self.down: dict[int, list[Piece]] = defaultdict(list)
        for piece in self.pieces:
            self.down[piece.upper].append(piece)
            self.up[piece.lower].append(piece)
        self.order = self._ordered()
        self.at = {v: i for row in self.order for i, v in enumerate(row)}
        self.height, self.depth = (reach_of(self.pieces, self.count, upwards=up) for up in (False, True))
        self.straight = self._straightened()
        self.enter = self._entrances()

    def _with_lanes(self) -> None:
        lanes: dict[tuple[int, Hashable, int], int] = {}
        seen: dict[Piece, None] = {}
        for link in self.links:
            chain = [link.source]
            for row in range(self.row[link.source] + 1, self.row[link.target]):
                place = (link.source, link.key, row)
                if place not in lanes:
                    lanes[place] = len(self.items)
                    self.items.append(Item(0.0, 0.0))
                    self.row.append(row)
                chain.append(lanes[place])
            chain.append(link.target)
            self.chains.append(chain)
            seen |= dict.fromkeys(Piece(a, b, link.key) for a, b in itertools.pairwise(chain))
        self.pieces = list(seen)

    def _is_lane(self, v: int) -> bool:
        return v >= self.count

    # The order in each row

    def _ordered(self) -> list[list[int]]:
        rows: list[list[int]] = [[] for _ in range(max(self.row, default=-1) + 1)]
        for v in range(len(self.items)):  # lanes come after items, so they are to the right of them
            rows[self.row[v]].append(v)
        best, fewest = [list(row) for row in rows], self._crossings(rows)
        for sweep in range(8):
            downwards = sweep % 2 == 0
            neighbours = self.up if downwards else self.down
            for row in rows if downwards else reversed(rows):
                self.at = {v: i for each in rows for i, v in enumerate(each)}
                middle = {v: self._mean_end(v, neighbours) for v in row}
                row.sort(key=middle.__getitem__)
            crossings = self._crossings(rows)
            if crossings < fewest or (crossings == fewest and sweep == 0):
                best, fewest = [list(row) for row in rows], crossings
        return best

    def _mean_end(self, v: int, neighbours: Mapping[int, list[Piece]]) -> float:
        ends = [self._upper_end(p) if p.lower == v else self._lower_end(p) for p in neighbours.get(v, ())]
        return sum(ends) / len(ends) if ends else float(self.at[v])

    def _upper_end(self, piece: Piece) -> float:
        """Where a piece starts in the order of its row; between whole numbers where its item has ends apart."""
        return self.at[piece.upper] + self._leave(piece) / (self.items[piece.upper].width + 1)

    def _lower_end(self, piece: Piece) -> float:
        item = self.items[piece.lower]
        return self.at[piece.lower] + item.enter.get(piece.key, 0.0) / (item.width + 1)

    def _crossings(self, rows: list[list[int]]) -> int:
        self.at = {v: i for row in rows for i, v in enumerate(row)}
        by_row: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for piece in self.pieces:
            by_row[self.row[piece.upper]].append((self._upper_end(piece), self._lower_end(piece)))
        pairs = itertools.chain.from_iterable(itertools.combinations(ends, 2) for ends in by_row.values())
        return sum((a - c) * (b - d) < 0 for (a, b), (c, d) in pairs)

    # What is straight

    def _straightened(self) -> dict[int, int]:
        """The vertices that stand straight under another: the main path, and each lane."""
        taken: list[Piece] = []
        main = [p for p in self.pieces if self._is_main(p)]
        lanes = [p for p in self.pieces if self._is_lane(p.upper) and self._is_lane(p.lower)]
        loose = [p for p in self.pieces if len(self.down[p.upper]) == 1 and len(self.up[p.lower]) == 1]
        for piece in (*main, *lanes, *loose):
            row = self.row[piece.upper]
            clash = any(
                piece.upper == other.upper
                or piece.lower == other.lower
                or (self.at[piece.upper] - self.at[other.upper]) * (self.at[piece.lower] - self.at[other.lower]) < 0
                for other in taken
                if self.row[other.upper] == row
            )
            if not clash:
                taken.append(piece)
        return {p.lower: p.upper for p in taken}

    def _is_main(self, piece: Piece) -> bool:
        """Whether each end is the other's way on: the one that leads furthest, or the middle one of those that do."""
        if self._is_lane(piece.upper) or self._is_lane(piece.lower):
            return False
        after = {p: self.height[p.lower] for p in self.down[piece.upper] if not self._is_lane(p.lower)}
        before = {p: self.depth[p.upper] for p in self.up[piece.lower] if not self._is_lane(p.upper)}
        return self._middle(after, self._lower_end) == piece == self._middle(before, self._upper_end)

    def _middle(self, reach: Mapping[Piece, int], end: Callable[[Piece], float]) -> Piece | None:
        best = sorted((p for p in reach if reach[p] == max(reach.values())), key=end)
        return best[len(best) // 2] if len(best) % 2 else None

    # Where links enter and leave

    def _entrances(self) -> dict[Piece, float]:
        enter: dict[Piece, float] = {}
        for v, pieces in self.up.items():
            item, own = self.items[v], [p for p in pieces if p.key not in self.items[v].enter]
            own.sort(key=self._upper_end)
            main = next((i for i, p in enumerate(own) if self.straight.get(v) == p.upper), (len(own) - 1) / 2)
            room = max(item.width / 2 - 8, 0.0)
            step = 0.0 if item.round else min(_PORT, 2 * room / max(len(own), 1))
            enter |= {p: max(-room, min(room, (i - main) * step)) for i, p in enumerate(own)}
            enter |= {p: item.enter[p.key] for p in pieces if p.key in item.enter}
        return enter

    def _leave(self, piece: Piece) -> float:
        return self.items[piece.upper].leave.get(piece.key, 0.0)

    # Left and right

    def _columns(self) -> list[float]:
        """x of every vertex. Those that stand straight under each other move as one."""
        head, offset = list(range(len(self.items))), [0.0] * len(self.items)
        for v in sorted(self.straight, key=lambda v: self.row[v]):
            over = self.straight[v]
            piece = next(p for p in self.up[v] if p.upper == over)
            head[v], offset[v] = head[over], offset[over] + self._leave(piece) - self.enter[piece]
        apart: dict[tuple[int, int], float] = {}
        for row in self.order:
            for a, b in itertools.pairwise(row):
                pair = head[a], head[b]
                apart[pair] = max(apart.get(pair, 0.0), self._distance(a, b) + offset[a] - offset[b])
        pulls: dict[int, list[tuple[int, float, float]]] = defaultdict(list)  # (other, where relative to it, weight)
        for p in self.pieces:
            a, b = head[p.upper], head[p.lower]
            if a != b:
                shift = offset[p.upper] + self._leave(p) - offset[p.lower] - self.enter[p]
                weight = 1.0 if self._is_lane(p.upper) or self._is_lane(p.lower) else 4.0
                pulls[b].append((a, shift, weight))
                pulls[a].append((b, -shift, weight))
        x = spread(dict.fromkeys(head), apart, pulls)
        return [x[head[v]] + offset[v] for v in range(len(self.items))]

    def _distance(self, a: int, b: int) -> float:
        lanes = self._is_lane(a) + self._is_lane(b)
        half = sum(max(self.items[v].width / 2, self.items[v].margin) for v in (a, b))
        return half + (_GAP, _NEAR, _LANE)[lanes]

    # Up and down

    def places(self) -> Places:
        x = self._columns()
        y, tops, bottoms = self._heights(x)
        paths: list[list[Point]] = []
        sides: list[bool] = []
        for chain, link in zip(self.chains, self.links, strict=True):
            path: list[Point] = []
            for a, b in itertools.pairwise(chain):
                piece = Piece(a, b, link.key)
                start, end = x[a] + self._leave(piece), x[b] + self.enter[piece]
                if not self._is_lane(a):
                    path.append((start, y[a] + self.items[a].height / 2))
                path += [(start, bottoms[self.row[a]]), (end, tops[self.row[b]])]
            side = self._side(chain, x)
            if side:
                v, lane = chain[-1], path[-2][0]
                path[-1:] = [(lane, y[v] - 10), (x[v] + side * self.items[v].width / 2, y[v])]
            else:
                path.append((path[-1][0], y[chain[-1]] - self.items[chain[-1]].height / 2))
            paths.append(_without_repeats(path))
            sides.append(bool(side))
        return Places([(x[v], y[v]) for v in range(self.count)], paths, sides)

    def _side(self, chain: list[int], x: list[float]) -> int:
        """From which side a link enters the last of its chain: −1 left, 1 right, 0 from above."""
        before, v = chain[-2:]
        start = x[before] + self._leave(Piece(before, v, None)) if self._is_lane(before) else x[before]
        apart = start - x[v]
        if not self.items[v].round or abs(apart) < self.items[v].width / 2 + 10:
            return 0
        low, high = sorted((start, x[v]))
        others = [u for u in self.order[self.row[v]] if u != v and (not self._is_lane(u) or abs(x[u] - start) > 1)]
        reach = {u: self.items[u].width / 2 + 4 for u in others}
        if any(low < x[u] + reach[u] and x[u] - reach[u] < high for u in others):
            return 0
        return 1 if apart > 0 else -1

    def _heights(self, x: list[float]) -> tuple[list[float], list[float], list[float]]:
        tops: list[float] = []
        bottoms: list[float] = []
        y = 0.0
        for i, row in enumerate(self.order):
            height = max(self.items[v].height for v in row)
            tops.append(y)
            bottoms.append(y + height)
            y += height + self._gap(i, x)
        middle = [(tops[row] + bottoms[row]) / 2 for row in self.row]
        return middle, tops, bottoms

    def _gap(self, row: int, x: list[float]) -> float:
        """The room between a row and the next: for arrow heads, bends and writing."""
        starting = [link.above for link in self.links if self.row[link.source] == row]
        ending = [link.below for link in self.links if self.row[link.target] == row + 1]
        ends = [
            (x[p.upper] + self._leave(p), x[p.lower] + self.enter[p]) for p in self.pieces if self.row[p.upper] == row
        ]
        bend = max((abs(a - b) for a, b in ends), default=0.0)
        return 15 + max(starting, default=0.0) + max(ending, default=0.0) + (min(8 + bend / 12, 28) if bend > 2 else 0)


def _without_repeats(path: list[Point]) -> list[Point]:
    pairs = itertools.pairwise(path)
    return path[:1] + [b for a, b in pairs if abs(a[0] - b[0]) > 0.01 or abs(a[1] - b[1]) > 0.01]
