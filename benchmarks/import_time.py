"""What importing funcnets costs over importing jax, in fresh processes that take turns.

python benchmarks/import_time.py
"""

import os
import statistics
import subprocess
import sys

PROGRAM = "import time, jax; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds(module):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module)], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout)


def main():
    seconds("funcnets")  # writes the bytecode
    times = {module: [] for module in ("funcnets", "optax", "orbax.checkpoint")}
    for _ in range(9):
        for module, each in times.items():
            each.append(seconds(module))
    for module, each in times.items():
        bound = "  (at most 30)" if module == "funcnets" else ""
        print(f"import {module:<20}{statistics.median(each) * 1e3:>8.1f} ms over jax{bound}")


if __name__ == "__main__":
    main()
