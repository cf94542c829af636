"""Restoring: what was saved is compared with what is wanted, then verified, then read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from funcnets.checkpoint.describing import Describing
from funcnets.checkpoint.fitting import Report, advice, fit, subtree
from funcnets.checkpoint.nets import net_differences
from funcnets.checkpoint.reading import Stored, read_values, tree_of
from funcnets.checkpoint.steps import Steps
from funcnets.rows import differences, leaf_rows


class Restoring:
    """One call of restore.

    Args:
      steps: The steps.
      verify: Compares a step with its checksums, and raises Damaged if it is not as it was written.
      config: That of the net that is to go on, or None.
      like: The tree that is wanted, or None.
      under: The path of the subtree that is wanted, or "".
    """

    def __init__(self, steps: Steps, verify: Callable[[Stored], None], config: Any, like: Any, under: str) -> None:
        self.steps, self.verify, self.config, self.like, self.under = steps, verify, config, like, under
        self.wanted, self.likes = Describing()(like)

    def whole(self, stored: Stored) -> Any:
        """The tree, all of it."""
        rows = subtree(stored.rows, self.under)
        self._compare(stored, rows)
        likes = [None] * len(leaf_rows(rows)) if self.like is None else self.likes
        self.verify(stored)
        values = read_values(self.steps, stored.step, leaf_rows(rows), likes)
        return tree_of(rows, values, self.like)

    def _compare(self, stored: Stored, rows: list[Any]) -> None:
        whole = self.config is not None and stored.net is not None and not self.under
        nets = net_differences(stored.net, self.config) if whole else []
        lines = [] if self.like is None else differences(rows, self.wanted)
        if not nets and not lines:
            return
        place = f"step {stored.step} in {self.steps.directory}"
        text: list[str] = []
        if nets:
            text += [f"restore takes the net that was saved; {place} has another one than net=:", *_indented(nets)]
        if lines:
            what = f"what was saved under {self.under!r}" if self.under else "the one saved"
            text += [f"restore takes a tree like {what}; {place} differs from it:", *_indented(lines)]
        to_do = "To go on with another net and the same arrays, leave net= out"
        if lines:
            under = f"under={self.under!r}, " if self.under else ""
            otherwise = f"Restore into what was saved, or what fits: restore(like, {under}strict=False)"
            to_do = advice(rows, self.wanted, otherwise)
        raise ValueError("\n".join([*text, to_do]))

    def fitting(self, stored: Stored) -> tuple[Any, Report]:
        """The tree with what fits into it, and the report."""
        rows = subtree(stored.rows, self.under)
        found, report = fit(rows, self.wanted, self.likes, stored.step)
        fitting = [(i, row) for i, row in enumerate(found) if row is not None]
        likes = [self.likes[i] for i, _ in fitting]
        self.verify(stored)
        values = read_values(self.steps, stored.step, [row for _, row in fitting], likes)
        leaves = list(self.likes)
        for (i, _), value in zip(fitting, values, strict=True):
            leaves[i] = value
        return tree_of(rows, leaves, self.like), report


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
