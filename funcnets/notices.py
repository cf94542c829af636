"""Notices: what a program is told beside its results, on the line of its own that called for it, and by one process."""

from __future__ import annotations

import sys
import warnings

import jax


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warns of the line outside of funcnets that called it."""
    frame, depth = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] == "funcnets":
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, category, stacklevel=depth)


def first_process() -> bool:
    """Whether this is the process that speaks, and writes, for all those of a run."""
    return jax.process_index() == 0
