"""Which steps are kept: the newest or, by a metric, the best and the newest."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any, Literal

from funcnets.checkpoint.reading import read_description
from funcnets.checkpoint.steps import Steps
from funcnets.shapes import show

Criterion = tuple[str, Literal["min", "max"]]
"""The name of a metric, and whether little or much of it is good."""


def criterion(what: str, best: str | Criterion | None) -> Criterion | None:
    """What `best=` asks for; raises for what is none."""
    pair = (best, "min") if isinstance(best, str) else best
    if pair is not None and (not isinstance(pair, tuple) or len(pair) != 2 or pair[1] not in ("min", "max")):
        raise ValueError(f'{what} takes as best= "loss" (less is better) or ("accuracy", "max"), got {show(best)}')
    return pair


class Keeping:
    """Which steps of a directory are kept, and which is best.

    Args:
      steps: The steps.
      keep: How many; None is all.
      best: What is best; None goes by the numbers of the steps.
      damaged: The steps that are known to be damaged.
    """

    def __init__(self, steps: Steps, keep: int | None, best: Criterion | None, damaged: Container[int]) -> None:
        self.steps, self.keep, self.best, self.damaged = steps, keep, best, damaged
        self._scores: dict[int, float] = {}

    def checked(self, metrics: Mapping[str, Any] | None) -> dict[str, float]:
        """What of the metrics is stored."""
        if self.best is None and metrics is None:
            return {}
        if self.best is None or metrics is None or self.best[0] not in metrics:
            got = None if metrics is None else list(metrics)
            raise ValueError(f"save takes metrics= with what best= names, or neither, got {got} and best={self.best}")
        return {self.best[0]: float(metrics[self.best[0]])}

    def enter(self, step: int, metrics: Mapping[str, float]) -> None:
        """Notes the metrics of a step that is being written."""
        name, mode = self.best or ("", "")
        value = metrics.get(name, math.nan) * (1 if mode == "max" else -1)
        self._scores[step] = -math.inf if math.isnan(value) else value

    def ranked(self, there: Sequence[int]) -> list[int]:
        """The steps, the best last."""
        return sorted(there) if self.best is None else sorted(there, key=lambda step: (self._score(step), step))

    def superfluous(self) -> list[int]:
        """The steps there that are not to be kept: neither of all nor of those that are not known to be damaged."""
        there = self.steps.numbers()
        if self.keep is None:
            return []
        good = [step for step in there if step not in self.damaged]
        kept = {*self.ranked(there)[-self.keep :], *self.ranked(good)[-self.keep :], *there[-1:]}
        return [step for step in there if step not in kept]

    def _score(self, step: int) -> float:
        if step not in self._scores:
            try:
                self.enter(step, read_description(self.steps, step).metrics)
            except (ValueError, OSError):  # damaged, of another program, or deleted by now
                self.enter(step, {})
        return self._scores[step]
