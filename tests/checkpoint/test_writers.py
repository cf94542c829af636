"""Several objects and processes at one directory: one of them writes, and the others are told who."""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

import funcnets
from funcnets.checkpoint import Checkpoints, finding


def test_objects_of_one_process_take_turns(tmp_path):
    one, other = Checkpoints(tmp_path), Checkpoints(tmp_path)
    for step in range(1, 9, 2):  # each while the other is at it
        one.save(step, {"who": "one", "a": np.full(1_000_000, step)})
        other.save(step + 1, {"who": "other", "a": np.full(10, step + 1)})
    with pytest.raises(ValueError, match="later than those there"):
        one.save(8, {"who": "one", "a": np.ones(10)})
    assert one.steps() == other.steps() == (6, 7, 8)
    for step in (6, 7, 8):
        found = one.restore(step=step)
        assert found["who"] == ("one" if step % 2 else "other")
        assert (found["a"] == step).all()
    assert repr(one) == f"Checkpoints({str(tmp_path)!r}, steps=[6, 7, 8])"
    other.close()


def test_one_that_cannot_be_reached_any_more_is_taken_over_from(tmp_path):
    def cell():  # as a notebook's that is run again, which has no `with`
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(len(checkpoints.steps()), jnp.zeros(1))

    cell()
    cell()
    with Checkpoints(tmp_path) as last:
        last.save(2, jnp.zeros(1))
        assert last.steps() == (0, 1, 2)


def test_a_step_that_is_deleted_while_it_is_read_is_none_that_is_damaged(tmp_path, monkeypatch):
    check = finding.check

    def overtaken(folder, files):
        if overtaken.times:
            overtaken.times -= 1
            writer.save(writer.steps()[-1] + 1, jnp.full(1, writer.steps()[-1] + 1), metrics={"loss": 1.0})
            writer.wait()
        check(folder, files)

    reader = Checkpoints(tmp_path, best="loss")
    monkeypatch.setattr(finding, "check", overtaken)
    with Checkpoints(tmp_path, keep=1, best="loss") as writer:
        writer.save(1, jnp.ones(1), metrics={"loss": 1.0})
        writer.wait()
        for read in (reader.restore, lambda: reader.resume(jnp.zeros(1, int)), lambda: reader.best_step):
            overtaken.times = 2
            assert read() == writer.steps()[-1]
            assert not overtaken.times
        overtaken.times = 1
        (step,) = writer.steps()
        with pytest.raises(
            FileNotFoundError, match=rf"lost step {step} while it was .* has \[{step + 1}\]: .* or read without"
        ):
            reader.restore(step=step)
        overtaken.times = 99
        with pytest.raises(FileNotFoundError, match=r"loses its steps, 10 times by now, .*: have the .* keep more, "):
            reader.restore()


def test_a_directory_without_locks_is_written_to_all_the_same(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jnp.ones(1))
        assert checkpoints.restore() == 1


OTHER = """
import os, signal, sys
import jax.numpy as jnp
import funcnets as fn

checkpoints = fn.Checkpoints(sys.argv[1])
try:
    checkpoints.save(2, jnp.zeros(1))
except RuntimeError as error:
    print(error, flush=True)
input()
checkpoints.save(2, jnp.zeros(1))
checkpoints.wait()
child = os.fork()
if not child:
    signal.pause()
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process that forks")
def test_a_lock_ends_with_its_process(tmp_path):
    root = str(pathlib.Path(funcnets.__file__).parent.parent)
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(OTHER), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jnp.zeros(1))
        process = subprocess.Popen(command, env=environment, **pipes)
        said = process.stdout.readline()
        assert f"; process {os.getpid()} on " in said
        assert f"is writing to {tmp_path}: end that one first, or give this run another directory" in said
    print(file=process.stdin, flush=True)
    child = int(process.stdout.readline())
    try:
        assert process.wait(60) == -signal.SIGKILL
        with checkpoints:  # though what was forked off lives on
            assert checkpoints.steps() == (1, 2)
            checkpoints.save(3, jnp.zeros(1))
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()
