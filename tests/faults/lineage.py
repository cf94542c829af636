"""Runs of run.py that are ended and started again until they are done, against one that nothing disturbs."""

import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np

import funcnets as fn

HERE = pathlib.Path(__file__).parent
STEPS = 24


@dataclasses.dataclass
class Ended:
    """What a process told before it ended, and how it ended."""

    code: int
    told: list[str]
    errors: str

    def numbers(self, what):
        return [int(line.split()[1]) for line in self.told if line.startswith(what)]


def environment(cache):
    root = str(HERE.parent.parent)
    flags = "--xla_cpu_multi_thread_eigen=false"
    return {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "CACHE": str(cache)}


def start(directory, cache, *arguments, steps=STEPS, fault="", after=()):
    """Runs run.py to its end, whatever that is; `after` are pairs of seconds from the start and a signal."""
    command = [sys.executable, str(HERE / "run.py"), str(directory), str(steps), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env={**environment(cache), "FAULT": fault}, **pipes)
    for seconds, number in after:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    out, errors = process.communicate(timeout=120)
    return Ended(process.returncode, out.splitlines(), errors)


def leaves(tree):
    """The leaves by path, each with its type and bytes."""

    def held(leaf):
        leaf = jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        return leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()

    return {jax.tree_util.keystr(path): held(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


class Reference:
    """The run that nothing disturbs: what stands in each of its steps, and how long it takes."""

    def __init__(self, directory, steps=STEPS):
        self.cache, self.steps = directory / "cache", steps  # what is compiled here is not compiled again
        began = time.monotonic()
        ended = start(directory / "whole", self.cache, steps=steps)
        self.seconds = time.monotonic() - began
        assert (ended.code, ended.errors, ended.told[-1]) == (0, "", "done"), ended
        checkpoints = fn.Checkpoints(directory / "whole", keep=None)
        self.at = {step: leaves(checkpoints.restore(step=step)) for step in checkpoints.steps()}
        assert max(self.at) == steps

    def check(self, directory):
        """Compares every step there with that of the undisturbed run, bit by bit; returns their numbers."""
        checkpoints = fn.Checkpoints(directory)
        for step in checkpoints.steps():
            assert leaves(checkpoints.restore(step=step)) == self.at[step], f"step {step} in {directory}"
        return checkpoints.steps()


def moment(rng, reference, number):
    """A random moment to send a signal at, as arguments of `start`: anywhere in the run, or soon after something that
    happens there.
    """
    kind = rng.choices(["clock", "saved", "done"], [3, 6, 1])[0]
    if kind == "clock":
        return {"after": [(rng.uniform(0, 0.6 * reference.seconds), number)]}
    event = "done" if kind == "done" else f"{rng.choice([1, 1, 2, 3, 4])}. saved"
    return {"fault": f"{event},{rng.uniform(0, 120):.2f},{int(number)}"}


def lineage(directory, reference, seed, number, keep=(2,)):
    """Starts run.py again and again until it is done, and ends it each time at a random moment. Yields, for each start,
    how it ended and the steps that are there then, all compared with the undisturbed run.
    """
    rng = random.Random(seed)
    while True:
        ended = start(directory, reference.cache, *keep, steps=reference.steps, **moment(rng, reference, number))
        yield ended, reference.check(directory)
        if ended.code == 0:
            return


def names(directory):
    """What is in the directory beside its lock."""
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock") if directory.is_dir() else []


KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
