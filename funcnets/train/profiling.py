"""A trace of chosen steps of a run, by JAX's profiler."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Self

import jax

from funcnets.shapes import show

Profile = tuple[str | os.PathLike[str], range]


class Profiler:
    """Traces the steps of a range, counted from 0 as batches are; leaving its `with` ends a trace that goes on.

    Args:
      profile: The directory for the trace, and the range; None traces nothing.
      total: Steps in all.
      steps_per_call: How many steps a call takes.
    """

    def __init__(self, profile: Profile | None, total: int, steps_per_call: int) -> None:
        self._directory, self._steps = ("", range(0)) if profile is None else _checked(profile, total, steps_per_call)
        self._traces = contextlib.ExitStack()
        self._tracing = False

    def around(self, step: int, state: Any) -> contextlib.AbstractContextManager[Any]:
        """For a call's `with`; starts the trace where the range does, when all that was before is done."""
        if step not in self._steps:
            return contextlib.nullcontext()
        if not self._tracing:
            jax.block_until_ready(state)
            self._traces.enter_context(jax.profiler.trace(self._directory))
            self._tracing = True
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def after(self, done: int, state: Any) -> None:
        """Ends the trace where the range ends, when the device has done its part."""
        if self._tracing and done not in self._steps:
            jax.block_until_ready(state)
            self._traces.close()
            self._tracing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._traces.close()


def _checked(profile: Any, total: int, steps_per_call: int) -> tuple[str, range]:
    pair = profile if isinstance(profile, tuple) and len(profile) == 2 else (None, None)
    directory, steps = pair
    if not isinstance(directory, str | os.PathLike) or not isinstance(steps, range) or steps.step != 1 or not steps:
        raise ValueError(
            f'profile= takes a directory and a range of steps, profile=("runs/a/profile", range(10, 13)), got '
            f"{show(profile)}"
        )
    if steps.start < 0 or steps.stop > total:
        raise ValueError(f"profile= names steps from 0 to before {total}, where the run ends, got {steps}")
    if steps.start % steps_per_call or steps.stop % steps_per_call:
        raise ValueError(
            f"this step function takes {steps_per_call} steps a call, and profile= names {steps}: let it start and stop "
            f"at multiples of {steps_per_call}"
        )
    return os.fspath(directory), steps
