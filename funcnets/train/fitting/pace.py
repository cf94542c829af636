"""How long a run is, where its reports are, and how many steps each call takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from funcnets.train.arguments import check_count


@dataclass(frozen=True)
class Pace:
    """Where a run has its reports and its end.

    A call takes `per_call` steps where there are so many before the next report, and one where there are fewer: so
    reports are where they are wanted, and a run that is gone on with takes the calls of one that was left alone.

    Attributes:
      total: Steps in all.
      every: Steps between reports.
      per_call: Steps of a call.
    """

    total: int
    every: int
    per_call: int

    def call(self, done: int) -> int:
        """How many steps are taken next."""
        left = min(self.total, (done // self.every + 1) * self.every) - done
        return self.per_call if left >= self.per_call else 1

    def stacks(self, step: int) -> bool:
        """Whether the batch of a step, counted from 0, goes into a call of several."""
        first = step // self.every * self.every
        first_of_call = step - (step - first) % self.per_call
        return self.per_call > 1 and first_of_call + self.per_call <= min(self.total, first + self.every)

    def reports_at(self, done: int) -> bool:
        return done % self.every == 0 or done >= self.total


def pace_of(step: Any, length: int | None, epochs: int | None, steps: int | None, every: int | None) -> Pace:
    """The pace that the arguments of `fit` ask for, with data whose epoch is so long, None if that is unknown."""
    if (epochs is None) == (steps is None):
        raise ValueError(f"fit takes one of epochs= and steps=, got epochs={epochs} and steps={steps}")
    for name, count in {"epochs": epochs, "steps": steps, "every": every}.items():
        if count is not None:
            check_count("fit", name, count)
    if length is None and (epochs is not None or every is None):
        raise ValueError(
            f"fit takes {'steps=' if every else 'steps= and every=, the steps between reports,'} where the data has no "
            "length, so that nothing says what an epoch is; len(train.batches(...)) does"
        )
    epoch = length or 0  # unknown only where nothing asks for it
    total = (epochs or 0) * epoch if steps is None else steps
    pace = Pace(total, every or epoch, getattr(step, "steps_per_call", 1))
    check_count("fit", "step.steps_per_call", pace.per_call)
    if pace.per_call > pace.every:
        raise ValueError(
            f"fit takes every= of at least the {pace.per_call} steps of a call, got {pace.every}: report less often, "
            "or give make_step a smaller steps_per_call="
        )
    return pace
