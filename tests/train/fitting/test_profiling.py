"""Traces of chosen steps."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest
from quick import data, start, step

import funcnets as fn
from funcnets.train.fitting.profiling import Profiler


def traced(directory):
    """The numbers of the steps that the traces in a directory have."""
    numbers = []
    for path in directory.rglob("*.trace.json.gz"):
        for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]:
            if event.get("name") == "train":
                numbers.append(int(event["args"]["step_num"]))
    return sorted(numbers)


@jax.jit
def compiled(state, batch):
    return {"step": state["step"] + 1, "x": state["x"] @ state["x"]}, {"loss": state["x"].sum()}


def test_a_trace_has_just_these_steps(tmp_path):
    state = {"step": 0, "x": jnp.eye(8)}
    run = fn.train.fit(compiled, state, None, steps=9, every=3, profile=(tmp_path / "trace", range(4, 7)))
    assert run.history.steps.tolist() == [3, 6, 9]
    assert traced(tmp_path / "trace") == [4, 5, 6]


def test_a_trace_that_is_broken_off_is_written(tmp_path):
    def fail(state, batch):
        if state["step"] == 2:
            raise LookupError
        return step(state, batch)

    with pytest.raises(LookupError):
        fn.train.fit(fail, start(), data(), steps=9, profile=(tmp_path, range(1, 7)))
    assert traced(tmp_path) == [1, 2]


def test_calls_of_several_steps_are_traced_whole(monkeypatch):
    monkeypatch.setattr(jax.profiler, "trace", lambda directory: opened.append(directory) or fake)

    class Fake:
        def __enter__(self):
            opened.append("begun")

        def __exit__(self, *_):
            opened.append("ended")

    opened, fake = [], Fake()
    with Profiler(("d", range(4, 5)), 12) as profiler:
        for first in range(0, 12, 3):
            with profiler.around(range(first, first + 3), None):
                opened.append(first)
            profiler.after(first + 3, None)
    assert opened == [0, "d", "begun", 3, "ended", 6, 9]


def test_what_is_no_profile_is_refused():
    for given in ("runs/a", ("runs/a", 3), (3, range(2)), ("a", range(0)), ("a", range(0, 4, 2)), ("a", range(1), 2)):
        with pytest.raises(ValueError, match="fit takes profile= a directory and a range of steps, .*, got"):
            fn.train.fit(step, start(), data(), steps=5, profile=given)
    for steps in (range(-1, 2), range(3, 6)):
        with pytest.raises(
            ValueError, match="fit takes profile= steps from 0 to before 5, where the run ends, got range"
        ):
            fn.train.fit(step, start(), data(), steps=5, profile=("a", steps))
