"""Checkpoints against orbax called directly: how long a save blocks, and how much is written in a second.

python benchmarks/checkpoints.py [directory]

Both save the same arrays asynchronously and keep two steps; ours makes a manifest with checksums besides. The contestants
take turns, and each round begins with a disk that has nothing left to write.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from measure import HEADER, row

import funcnets as fn

ROUNDS, SAVES = 5, 4
TREES = {"25 × 20 MB": (25, 5_000_000), "500 × 1 MB": (500, 250_000), "100 × 10 kB": (100, 2_500)}


class Direct:
    def __init__(self, directory: str) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        self.manager = ocp.CheckpointManager(directory, options=options)

    def save(self, step: int, tree: dict[str, jax.Array]) -> None:
        self.manager.save(step, args=ocp.args.StandardSave(tree))

    def wait(self) -> None:
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.close()


def ours(directory: str) -> fn.Checkpoints:
    return fn.Checkpoints(directory, keep=2)


def round_of(make, tree: dict[str, jax.Array], root: str) -> tuple[float, float]:
    """The median seconds that a save blocks while nothing else is written, and those that saves in a row take."""
    directory = tempfile.mkdtemp(dir=root)
    checkpoints = make(directory)
    blocked: list[float] = []
    for step in range(3):
        start = time.perf_counter()
        checkpoints.save(step, tree)
        blocked.append(time.perf_counter() - start)
        checkpoints.wait()
    os.sync()
    start = time.perf_counter()
    for step in range(3, 3 + SAVES):
        checkpoints.save(step, tree)
    checkpoints.wait()
    total = time.perf_counter() - start
    checkpoints.close()
    shutil.rmtree(directory)
    os.sync()
    return statistics.median(blocked[1:]), total


def main() -> None:
    root = sys.argv[1] if len(sys.argv) > 1 else tempfile.gettempdir()
    print(HEADER)
    for name, (count, size) in TREES.items():
        rng = np.random.default_rng(0)
        tree = {f"layer_{i}": jnp.asarray(rng.random(size, dtype=np.float32)) for i in range(count)}
        times: dict[str, list[tuple[float, float]]] = {"ours": [], "orbax": []}
        for i in range(ROUNDS):
            for who, make in [("ours", ours), ("orbax", Direct)][:: 1 if i % 2 else -1]:
                times[who].append(round_of(make, tree, root))
        one, other = ([statistics.median(column) for column in zip(*times[who], strict=True)] for who in times)
        print(row(f"{name}, blocked by a save", one[0], other[0], "orbax", 1.1))
        print(row(f"{name}, {SAVES} saves in a row", one[1], other[1], "orbax", 1.25))


if __name__ == "__main__":
    main()
