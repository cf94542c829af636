"""Cold `net.init` of whole nets in fresh processes without a compilation cache, against a loop of `jax.random` draws.

The plan is part of it. The loop draws the same shapes: `jax.random.normal(fold_in(key, i), shape) * 0.02`, ones and
zeros.

    python benchmarks/cold_init.py [repeats]
"""

import statistics
import subprocess
import sys
import time


def bottleneck(width, stride, project):
    import jax

    import funcnets as fn

    def conv(features, size, stride=1):
        return fn.Conv(features, size, strides=stride, use_bias=False)

    body = fn.Sequential(
        *(conv(width, 1), fn.BatchNorm(), jax.nn.relu),
        *(conv(width, 3, stride), fn.BatchNorm(), jax.nn.relu),
        *(conv(4 * width, 1), fn.BatchNorm()),
    )
    shortcut = fn.Sequential(conv(4 * width, 1, stride), fn.BatchNorm()) if project else fn.Identity()
    return fn.Sequential(fn.Parallel(("body", body), ("shortcut", shortcut), merge="sum"), jax.nn.relu)


def resnet50():
    import jax
    import jax.numpy as jnp

    import funcnets as fn

    blocks = [
        bottleneck(64 * 2**stage, 2 if stage and not i else 1, not i)
        for stage, depth in enumerate((3, 4, 6, 3))
        for i in range(depth)
    ]
    stem = (fn.Conv(64, 7, strides=2, use_bias=False), fn.BatchNorm(), jax.nn.relu, fn.MaxPool(3, 2, padding="SAME"))
    net = fn.Sequential(*stem, *blocks, fn.GlobalAvgPool(), fn.Dense(1000))
    return net, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)


def attention(m, x):
    import jax

    q, k, v = (layer(x).reshape(*x.shape[:-1], 8, 64) for layer in (m.q, m.k, m.v))
    return m.out(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))


def blocks():
    import jax
    import jax.numpy as jnp

    import funcnets as fn

    attend = fn.compose(**{name: fn.Dense(512) for name in ("q", "k", "v", "out")})(attention)
    mlp = fn.Sequential(fn.Dense(2048), jax.nn.gelu, fn.Dense(512))
    block = fn.Sequential(
        fn.Residual(fn.Sequential(fn.LayerNorm(), attend)), fn.Residual(fn.Sequential(fn.LayerNorm(), mlp))
    )
    return fn.Sequential(*[block] * 24), jax.ShapeDtypeStruct((1, 16, 512), jnp.float32)


NETS = {"resnet50": (resnet50, 1.0), "24 blocks": (blocks, 0.6)}


def cold(name, way):
    """Seconds of the first init in this process, printed for the process that asked."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_compilation_cache", False)
    net, sample = NETS[name][0]()
    key = jax.random.key(0)
    if way == "loop":
        shapes = [(path[-1].key, leaf.shape) for path, leaf in jax.tree.leaves_with_path(net.plan(sample).params)]
        jax.clear_caches()
        fills = {"bias": jnp.zeros, "scale": jnp.ones}
        start = time.perf_counter()
        arrays = [
            fills[kind](shape) if kind in fills else jax.random.normal(jax.random.fold_in(key, i), shape) * 0.02
            for i, (kind, shape) in enumerate(shapes)
        ]
    else:
        start = time.perf_counter()
        arrays = net.init(key, sample)
    jax.block_until_ready(arrays)
    print(time.perf_counter() - start)


def main(repeats):
    print(f"{'cold init':<12}{'ours':>9}{'loop':>9}{'ratio':>8}")
    for name, (_, bound) in NETS.items():
        turns = []
        for _ in range(repeats):
            commands = [[sys.executable, __file__, name, way] for way in ("ours", "loop")]
            done = [subprocess.run(command, capture_output=True, text=True, check=True) for command in commands]
            turns.append([float(each.stdout) for each in done])
        ours, loop = (statistics.median(turn[i] for turn in turns) for i in (0, 1))
        ratio = statistics.median(turn[0] / turn[1] for turn in turns)
        print(f"{name:<12}{ours:>7.2f} s{loop:>7.2f} s{ratio:>8.2f}  (at most {bound})", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        cold(*sys.argv[1:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
