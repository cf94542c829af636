"""Checkpoints against orbax called directly: how long a save blocks, and how much is written in a second.

python benchmarks/checkpoints.py [directory]

Both save the same arrays asynchronously and keep two steps; ours makes a manifest with checksums besides. They take
turns, save by save; each begins with nothing that is being written, and is timed until `save` returns and until all is
written.
"""

import logging
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

TREES = {"25 × 20 MB": (25, 5_000_000, 15), "500 × 1 MB": (500, 250_000, 15), "100 × 10 kB": (100, 2_500, 101)}
WARM = 3


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


def timed(checkpoints, step: int, tree: dict[str, jax.Array]) -> tuple[float, float]:
    """The seconds that a save blocks, and those until all is written."""
    os.sync()
    start = time.perf_counter()
    checkpoints.save(step, tree)
    blocked = time.perf_counter() - start
    checkpoints.wait()
    return blocked, time.perf_counter() - start


def main() -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of every wait
    root = tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None)
    print(HEADER)
    for name, (count, size, rounds) in TREES.items():
        rng = np.random.default_rng(0)
        tree = {f"layer_{i}": jnp.asarray(rng.random(size, dtype=np.float32)) for i in range(count)}
        contestants = {"ours": ours(tempfile.mkdtemp(dir=root)), "orbax": Direct(tempfile.mkdtemp(dir=root))}
        times: dict[str, list[tuple[float, float]]] = {who: [] for who in contestants}
        for step in range(WARM + rounds):
            for who in [*contestants][:: 1 if step % 2 else -1]:
                times[who].append(timed(contestants[who], step, tree))
        for checkpoints in contestants.values():
            checkpoints.close()
        columns = (zip(*each[WARM:], strict=True) for each in times.values())
        one, other = ([statistics.median(column) for column in each] for each in columns)
        print(row(f"{name}, blocked by a save", one[0], other[0], "orbax", 1.1))
        print(row(f"{name}, until all is written", one[1], other[1], "orbax", 1.25), flush=True)
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
