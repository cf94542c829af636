"""How long initial values take: `funcnets.random.draw` against a plain loop over the same arrays.

    python benchmarks/init_draws.py [repeats]

The loop is `jax.random.normal(jax.random.fold_in(key, i), shape) * 0.02`, with `jnp.zeros` and `jnp.ones`, as one would
write it by hand. *Cold* is the first draw in a fresh process without a compilation cache, import excluded; the two are
run in turn, and the table gives medians and the ratio in the same turn. *Warm* is the best of five draws after the
first. *jit* compiles the whole into one program, and runs it once.
"""

import statistics
import subprocess
import sys
import time


def resnet50():
    """(kind, shape) of each array of a ResNet-50."""
    arrays = []

    def conv(size, inputs, outputs):
        arrays.extend([("kernel", (size, size, inputs, outputs)), ("one", (outputs,)), ("zero", (outputs,))])

    conv(7, 3, 64)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            conv(1, inputs, width)
            conv(3, width, width)
            conv(1, width, 4 * width)
            if block == 0:
                conv(1, inputs, 4 * width)
            inputs = 4 * width
    return [*arrays, ("kernel", (2048, 1000)), ("zero", (1000,))]


def blocks(n=24, width=512):
    """(kind, shape) of each array of n transformer blocks."""
    norm = [("one", (width,)), ("zero", (width,))]
    attention = [("kernel", (width, width)), ("zero", (width,))] * 4
    mlp = [("kernel", (width, 4 * width)), ("zero", (4 * width,)), ("kernel", (4 * width, width)), ("zero", (width,))]
    return [*norm, *attention, *norm, *mlp] * n


def dense(n=50, width=64):
    """(kind, shape) of each array of n equal dense layers."""
    return [("kernel", (width, width)), ("zero", (width,))] * n


NETS = {"resnet50": resnet50, "blocks": blocks, "dense": dense}


def by_loop(arrays):
    import jax
    import jax.numpy as jnp

    def one(key, i, kind, shape):
        if kind == "kernel":
            return jax.random.normal(jax.random.fold_in(key, i), shape) * 0.02
        return jnp.ones(shape) if kind == "one" else jnp.zeros(shape)

    return lambda key: [one(key, i, kind, shape) for i, (kind, shape) in enumerate(arrays)]


def by_draw(arrays):
    from funcnets.initializers import Normal, Ones, Zeros
    from funcnets.random import Request, draw

    inits = {"kernel": Normal(0.02), "one": Ones(), "zero": Zeros()}
    requests = [Request(((f"array_{i}", None),), inits[kind], shape) for i, (kind, shape) in enumerate(arrays)]
    return lambda key: draw(key, requests)


def measure(net, way, mode):
    """Cold and warm seconds, printed for the process that asked."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    make = {"loop": by_loop, "draw": by_draw}[way](NETS[net]())
    make = jax.jit(make) if mode == "jit" else make
    times = []
    for seed in range(6):
        key = jax.random.key(seed)
        start = time.perf_counter()
        arrays = jax.block_until_ready(make(key))
        times.append(time.perf_counter() - start)
        del arrays
    print(times[0], min(times[1:]))


def main(repeats):
    print(f"{'net':<10}{'mode':<7}{'cold loop':>10}{'cold draw':>10}{'ratio':>7}{'warm loop':>11}{'warm draw':>10}")
    for net in NETS:
        for mode in ("eager", "jit"):
            turns = []
            for _ in range(repeats):
                turn = {}
                for way in ("loop", "draw"):
                    command = [sys.executable, __file__, net, way, mode]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    turn[way] = tuple(map(float, done.stdout.split()))
                turns.append(turn)
            cold, warm = ({way: statistics.median(t[way][i] for t in turns) for way in turns[0]} for i in (0, 1))
            ratio = statistics.median(t["draw"][0] / t["loop"][0] for t in turns)
            print(
                f"{net:<10}{mode:<7}{cold['loop']:>8.2f} s{cold['draw']:>8.2f} s{ratio:>7.2f}"
                f"{1e3 * warm['loop']:>8.0f} ms{1e3 * warm['draw']:>7.0f} ms",
                flush=True,
            )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        measure(*sys.argv[1:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
