"""Interleaved timing: contestants take turns, so that a machine whose speed drifts is unfair to none of them."""

import statistics
import time
from collections.abc import Callable

import jax


def interleaved(contestants: dict[str, Callable[[], object]], rounds: int, *, warm: int = 3) -> dict[str, float]:
    """The median seconds of each contestant, called in turn."""
    for _ in range(warm):
        for run in contestants.values():
            jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for i in range(rounds):
        for name in names if i % 2 else reversed(names):
            start = time.perf_counter()
            jax.block_until_ready(contestants[name]())
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def row(what: str, ours: float, other: float, other_name: str, bound: float | None) -> str:
    """A line of the table: both times, their ratio and whether it is within the bound that the project holds itself to,
    where there is one.
    """
    ratio = ours / other
    times = f"{ours * 1e3:>11.3f}{other * 1e3:>11.3f}  {ratio:>6.3f}"
    verdict = "" if bound is None else f"at most {bound:.3g}: {'met' if ratio <= bound else 'not met'}"
    return f"{what:<34}{times}  {verdict:<23}against {other_name}"


HEADER = f"{'':<34}{'ours, ms':>11}{'other, ms':>11}  {'ratio':>6}"
