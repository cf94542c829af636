"""Several objects and processes at one directory: one of them writes, and the others are told who."""

import gc
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

import funcnets
from funcnets.checkpoint import Checkpoints, finding


def refused(directory, who):
    return pytest.raises(
        RuntimeError,
        match=f"save takes a directory that nobody else .*; {re.escape(who)}.* is writing to {directory}: "
        ".* first.*, or give this run another directory",
    )


def test_one_object_writes_at_a_time(tmp_path):
    with Checkpoints(tmp_path) as one, Checkpoints(tmp_path) as other:
        one.save(10, {"who": "one", "a": np.ones(1_000_000)})
        for step in (10, 20):
            with refused(tmp_path, f"another Checkpoints of this process (process {os.getpid()} on "):
                other.save(step, {"who": "other", "a": np.zeros(1_000_000)})
        one.wait()
        assert other.restore(step=10)["who"] == "one"  # which all may read
        one.save(20, {"who": "one", "a": np.ones(10)})
        one.close()
        other.save(30, {"who": "other", "a": np.ones(10)})
        other.wait()
        with refused(tmp_path, "another Checkpoints of this process"):
            one.save(40, {"who": "one", "a": np.ones(10)})
        assert [one.restore(step=step)["who"] for step in one.steps()] == ["one", "one", "other"]


def test_what_was_refused_does_not_keep_others_out(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, jnp.zeros(1))
    with pytest.raises(ValueError, match="later than those there"):
        Checkpoints(tmp_path).save(2, jnp.zeros(1))
    gc.collect()
    with checkpoints:
        assert checkpoints.save(5, jnp.zeros(1))


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
        assert f"; another process (process {os.getpid()} on " in said
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
