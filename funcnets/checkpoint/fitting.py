"""Parts of what was saved: one subtree, or what fits into another tree."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from funcnets.rows import Row, differences, leaf_rows, row_path
from funcnets.shapes import near, show


@dataclasses.dataclass(frozen=True)
class Report:
    """What `restore(strict=False)` did; printed, a line for each difference.

    Attributes:
      step: The step that was read.
      restored: The paths of the leaves that come from the checkpoint.
      kept: Those that stayed as they were in `like`.
      unused: Those that only the checkpoint has, or has otherwise.
      differences: The lines: path, what the checkpoint has, and what the model.
    """

    step: int
    restored: tuple[str, ...]
    kept: tuple[str, ...]
    unused: tuple[str, ...]
    differences: tuple[str, ...]

    def __str__(self) -> str:
        counts = f"{len(self.restored)} restored, {len(self.kept)} kept, {len(self.unused)} unused"
        return "\n  ".join([f"step {self.step}: {counts}", *self.differences])


def subtree(rows: Sequence[Row], path: str) -> list[Row]:
    """The rows of the subtree at a path, as a tree of its own; of the whole tree at an empty one."""
    if not path:
        return list(rows)
    place = next((row["path"] for row in rows if row["path"] and row_path(row) == path), None)
    if place is None:
        there = [row_path(row) for row in rows if row["path"]]
        first = [name for name in there if "/" not in name]
        raise ValueError(
            f"restore takes as under= a path in the checkpoint, got {path!r}{near(path, there)}; at its top are "
            f"{', '.join(first) or 'no names'}"
        )
    depth = len(place)
    return [row | {"path": row["path"][depth:]} for row in rows if row["path"][:depth] == place]


def advice(rows: Sequence[Row], wanted: Sequence[Row], otherwise: str) -> str:
    """What to do where a tree differs from the one saved: it may be a part of that, or no tree at all."""
    size = len(wanted)
    for i, row in enumerate(rows[: 1 - size or None]):  # a node's rows come right after it
        last, after = rows[i + size - 1], rows[i + size : i + size + 1]
        if row["path"] and _is_in(last, row) and not any(_is_in(one, row) for one in after):
            path = row_path(row)
            if not differences(subtree(rows, path), wanted):
                return f"It is like what was saved under {path!r}: restore(like, under={path!r})"
    if [row.get("dtype") for row in wanted] == ["int"]:
        return "The number of a step is given by name: restore(step=...)"
    return otherwise


def _is_in(row: Row, outer: Row) -> bool:
    return row["path"][: len(outer["path"])] == outer["path"]


def fit(rows: Sequence[Row], wanted: Sequence[Row], likes: Sequence[Any], step: int) -> tuple[list[Row | None], Report]:
    """For each leaf wanted the row that fits it, or None; and the report."""
    lines = differences(rows, wanted)
    there = {tuple(row["path"]): row for row in leaf_rows(rows)}
    found: list[Row | None] = []
    for row in leaf_rows(wanted):
        other = there.get(tuple(row["path"]))
        found.append(other if other is not None and not differences([other], [row]) else None)
    pairs = list(zip(leaf_rows(wanted), found, strict=True))
    restored = [row_path(row) for row, other in pairs if other is not None]
    used = {tuple(other["path"]) for other in found if other is not None}
    kept = [row_path(row) for row, other in pairs if other is None]
    unused = [row_path(row) for path, row in there.items() if path not in used]
    if wanted and kept and not restored:
        raise ValueError(
            f"restore(strict=False) finds nothing in step {step} that fits:\n  "
            + "\n  ".join(lines)
            + "\n"
            + advice(rows, wanted, "Compare the paths: under= takes the one of a subtree")
        )
    empty = [
        f"{row_path(row)}: {show(like)}"
        for (row, other), like in zip(pairs, likes, strict=True)
        if other is None and isinstance(like, jax.ShapeDtypeStruct)
    ]
    if empty:
        raise ValueError(
            f"restore(strict=False) keeps of like= what step {step} does not have, and these are specs, which hold "
            "nothing:\n  " + "\n  ".join(empty) + "\nGive arrays there, such as those of net.init(key, x)"
        )
    return found, Report(step, tuple(restored), tuple(kept), tuple(unused), tuple(lines))
