"""A trace of chosen steps of a run, by JAX's profiler."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Self

import jax

from funcnets.shapes import show

Profile = tuple[str | os.PathLike[str], range]


class Profiler:
    """Traces the calls that the steps of a range are in; leaving its `with` ends a trace that goes on.

    Args:
      profile: The directory for the trace, and the range, counted from 0 as batches are; None traces nothing.
      total: Steps in all.
    """

    def __init__(self, profile: Profile | None, total: int) -> None:
        self._directory, self._steps = ("", range(0)) if profile is None else _checked(profile, total)
        self._trace = contextlib.ExitStack()
        self._tracing = False

    def around(self, steps: range, state: Any) -> contextlib.AbstractContextManager[Any]:
        """For the `with` of a call of these steps. The trace starts when all that was before is done."""
        if steps[-1] < self._steps.start or steps[0] >= self._steps.stop:
            return contextlib.nullcontext()
        if not self._tracing:
            jax.block_until_ready(state)
            self._trace.enter_context(jax.profiler.trace(self._directory))
            self._tracing = True
        return jax.profiler.StepTraceAnnotation("train", step_num=steps[0])

    def after(self, done: int, state: Any) -> None:
        """Ends the trace with the range, when the device has done its part."""
        if self._tracing and done >= self._steps.stop:
            jax.block_until_ready(state)
            self._trace.close()
            self._tracing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._trace.close()


def _checked(profile: Any, total: int) -> tuple[str, range]:
    directory, steps = profile if isinstance(profile, tuple) and len(profile) == 2 else (None, None)
    if not isinstance(directory, str | os.PathLike) or not isinstance(steps, range) or steps.step != 1 or not steps:
        raise ValueError(
            f'fit takes profile= a directory and a range of steps, ("runs/a/profile", range(10, 13)), got '
            f"{show(profile)}"
        )
    if steps.start < 0 or steps.stop > total:
        raise ValueError(f"fit takes profile= steps from 0 to before {total}, where the run ends, got {steps}")
    return os.fspath(directory), steps
