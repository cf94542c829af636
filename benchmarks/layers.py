"""Output and gradients of single layers, against JAX written by hand, Flax (Linen) and Equinox on the same weights.

A call computes the output, and the gradients of parameters and input for a given gradient of the output. All of a row
are checked to give the same before they are timed. A run takes the median of each contestant in turns; the table shows
the run of three whose ratio, ours to the fastest other, lies in the middle.

    pip install -e '.[benchmarks]'
    python benchmarks/layers.py [what begins so ...]
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
from contestants import Contestant, eqx, linen, normal, of_equinox, of_linen, started
from measure import HEADER, interleaved, row

import funcnets as fn

RUNS, ROUNDS, BOUND = 3, 21, 1.05


def dense():
    """MLP 512 → 2048 → 512, 256 rows"""
    x = normal(256, 512)
    net = fn.Sequential(fn.Dense(2048), jax.nn.relu, fn.Dense(512))
    p = started(net, x)
    up, down = p["dense_0"], p["dense_1"]

    def by_hand(p, x):
        x = jax.nn.relu(x @ p["dense_0"]["kernel"] + p["dense_0"]["bias"])
        return x @ p["dense_1"]["kernel"] + p["dense_1"]["bias"]

    others = {"hand": Contestant(by_hand, p)}
    if linen:
        module = linen.Sequential([linen.Dense(2048), linen.relu, linen.Dense(512)])
        others["flax"] = of_linen(module, {"layers_0": up, "layers_2": down})
    if eqx:
        module = eqx.nn.MLP(512, 512, 2048, 1, key=jax.random.key(0))
        others["equinox"] = of_equinox(module, [a for d in (up, down) for a in (d["kernel"].T, d["bias"])])
    return Contestant(net.apply, p), x, others


def convolution(net, x, groups):
    p = started(net, x)
    features, inputs = p["kernel"].shape[-1], x.shape[-1]

    def by_hand(p, x):
        dims = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "SAME", dimension_numbers=dims, feature_group_count=groups
        )
        return y + p["bias"]

    others = {"hand": Contestant(by_hand, p)}
    if linen:
        others["flax"] = of_linen(linen.Conv(features, (3, 3), feature_group_count=groups), p)
    if eqx:
        module = eqx.nn.Conv2d(inputs, features, 3, padding=1, groups=groups, key=jax.random.key(0))
        arrays = [p["kernel"].transpose(3, 2, 0, 1), p["bias"][:, None, None]]
        others["equinox"] = of_equinox(module, arrays, channels_first=True)
    return Contestant(net.apply, p), x, others


def conv():
    """Conv 3×3, 64 → 64, 8×32×32"""
    return convolution(fn.Conv(64, 3), normal(8, 32, 32, 64), 1)


def depthwise():
    """DepthwiseConv 3×3, 32, 4×32×32"""
    return convolution(fn.DepthwiseConv(3), normal(4, 32, 32, 32), 32)


def by_hand_both_ways(f, p):
    """The product with the input at each step, and of all steps ahead of the loop."""
    ways = {"hand": False, "hand, product ahead": True}
    return {name: Contestant(functools.partial(f, ahead=ahead), p) for name, ahead in ways.items()}


def lstm_on(x):
    net = fn.Scan(fn.LSTMCell(256))
    p = started(net, x)

    def by_hand(p, x, ahead):
        def of_x(x):
            return x @ p["kernel"] + p["bias"]

        def step(carry, x):
            c, h = carry
            gates = (x if ahead else of_x(x)) + h @ p["recurrent_kernel"]
            i, f, g, o = jnp.split(gates, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        xs, zeros = x.swapaxes(0, 1), jnp.zeros((x.shape[0], 256))
        return jax.lax.scan(step, (zeros, zeros), of_x(xs) if ahead else xs)[1].swapaxes(0, 1)

    others = by_hand_both_ways(by_hand, p)
    kernel, recurrent, bias = (jnp.split(p[name], 4, -1) for name in ("kernel", "recurrent_kernel", "bias"))
    if linen:
        of_x = {f"i{gate}": {"kernel": kernel[i]} for i, gate in enumerate("ifgo")}
        of_h = {f"h{gate}": {"kernel": recurrent[i], "bias": bias[i]} for i, gate in enumerate("ifgo")}
        others["flax"] = of_linen(linen.RNN(linen.OptimizedLSTMCell(256)), {"cell": of_x | of_h})
    if eqx:
        module = eqx.nn.LSTMCell(256, 256, key=jax.random.key(0))
        arrays = [p["kernel"].T, p["recurrent_kernel"].T, p["bias"]]

        def steps(cell, xs):
            def step(carry, x):
                h, c = cell(x, carry)
                return (h, c), h

            return jax.lax.scan(step, (jnp.zeros(256), jnp.zeros(256)), xs)[1]

        others["equinox"] = of_equinox(module, arrays, call=steps)
    return Contestant(net.apply, p), x, others


def lstm():
    """Scan(LSTMCell(256)), 32×64×256"""
    return lstm_on(normal(32, 64, 256))


def lstm_of_few():
    """Scan(LSTMCell(256)), 4×256×256"""
    return lstm_on(normal(4, 256, 256))


def gru():
    """Scan(GRUCell(256)), 32×64×256"""
    x = normal(32, 64, 256)
    net = fn.Scan(fn.GRUCell(256))
    p = started(net, x)

    def by_hand(p, x, ahead):
        def of_x(x):
            return x @ p["kernel"] + p["bias"]

        def step(h, x):
            x_rz, x_n = jnp.split(x if ahead else of_x(x), [512], -1)
            h_rz, h_n = jnp.split(h @ p["recurrent_kernel"], [512], -1)
            r, z = jnp.split(jax.nn.sigmoid(x_rz + h_rz), 2, -1)
            n = jnp.tanh(x_n + r * (h_n + p["recurrent_bias"]))
            h = (1 - z) * n + z * h
            return h, h

        xs, zeros = x.swapaxes(0, 1), jnp.zeros((x.shape[0], 256))
        return jax.lax.scan(step, zeros, of_x(xs) if ahead else xs)[1].swapaxes(0, 1)

    others = by_hand_both_ways(by_hand, p)
    kernel, recurrent, bias = (jnp.split(p[name], 3, -1) for name in ("kernel", "recurrent_kernel", "bias"))
    if linen:
        cell = {f"i{gate}": {"kernel": kernel[i], "bias": bias[i]} for i, gate in enumerate("rzn")}
        cell |= {f"h{gate}": {"kernel": recurrent[i]} for i, gate in enumerate("rzn")}
        cell["hn"]["bias"] = p["recurrent_bias"]
        others["flax"] = of_linen(linen.RNN(linen.GRUCell(256)), {"cell": cell})
    if eqx:
        module = eqx.nn.GRUCell(256, 256, key=jax.random.key(0))
        arrays = [p["kernel"].T, p["recurrent_kernel"].T, p["bias"], p["recurrent_bias"]]

        def steps(cell, xs):
            def step(h, x):
                h = cell(x, h)
                return h, h

            return jax.lax.scan(step, jnp.zeros(256), xs)[1]

        others["equinox"] = of_equinox(module, arrays, call=steps)
    return Contestant(net.apply, p), x, others


def centred_norm(p, x, axes, epsilon=1e-5):
    mean = x.mean(axes, keepdims=True)
    var = jnp.square(x - mean).mean(axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + epsilon)


def layer_norm():
    """LayerNorm, 32×128×512"""
    x = normal(32, 128, 512)
    net = fn.LayerNorm()
    p = started(net, x)
    others = {"hand": Contestant(lambda p, x: centred_norm(p, x, -1) * p["scale"] + p["bias"], p)}
    if linen:
        others["flax"] = of_linen(linen.LayerNorm(epsilon=1e-5, use_fast_variance=False), p)
    if eqx:
        others["equinox"] = of_equinox(eqx.nn.LayerNorm(512), [p["scale"], p["bias"]], axes=2)
    return Contestant(net.apply, p), x, others


def rms_norm():
    """RMSNorm, 32×128×512"""
    x = normal(32, 128, 512)
    net = fn.RMSNorm()
    p = started(net, x)

    def by_hand(p, x):
        return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * p["scale"]

    others = {"hand": Contestant(by_hand, p)}
    if linen:
        others["flax"] = of_linen(linen.RMSNorm(), p)
    if eqx:
        others["equinox"] = of_equinox(eqx.nn.RMSNorm(512, eps=1e-6, use_bias=False), [p["scale"]], axes=2)
    return Contestant(net.apply, p), x, others


def group_norm():
    """GroupNorm(32), 32×32×32×128"""
    x = normal(32, 32, 32, 128)
    net = fn.GroupNorm(32)
    p = started(net, x)

    def by_hand(p, x):
        grouped = x.reshape(*x.shape[:-1], 32, -1)
        return centred_norm(p, grouped, (1, 2, 4)).reshape(x.shape) * p["scale"] + p["bias"]

    others = {"hand": Contestant(by_hand, p)}
    if linen:
        others["flax"] = of_linen(linen.GroupNorm(32, epsilon=1e-5, use_fast_variance=False), p)
    if eqx:
        arrays = [p["scale"], p["bias"]]
        others["equinox"] = of_equinox(eqx.nn.GroupNorm(32, 128), arrays, channels_first=True)
    return Contestant(net.apply, p), x, others


def batch_norm():
    """BatchNorm, training, 32×32×32×128"""
    x = normal(32, 32, 32, 128)
    net = fn.BatchNorm(unbiased=False)
    p, state = started(net, x), net.init_state(x)
    ours = Contestant(lambda p, x: net.apply(p, x, state=state, train=True), p, stateful=True)

    def by_hand(p, x):
        mean = x.mean((0, 1, 2))
        var = jnp.square(x - mean).mean((0, 1, 2))
        y = (x - mean) * (jax.lax.rsqrt(var + 1e-5) * p["scale"]) + p["bias"]
        new = {"mean": mean, "var": var}
        return y, {name: 0.9 * state[name] + 0.1 * new[name] for name in state}

    others = {"hand": Contestant(by_hand, p, stateful=True)}
    if linen:
        module = linen.BatchNorm(use_running_average=False, momentum=0.9, use_fast_variance=False)

        def of_module(p, x):
            y, new = module.apply({"params": p, "batch_stats": state}, x, mutable="batch_stats")
            return y, new["batch_stats"]

        others["flax"] = Contestant(of_module, p, stateful=True)
    if eqx:
        whole, start = eqx.nn.make_with_state(eqx.nn.BatchNorm)(128, "batch", mode="batch", momentum=0.9)

        def of_arrays(arrays, x):
            module = eqx.tree_at(lambda held: (held.weight, held.bias), whole, arrays)
            each = jax.vmap(module, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
            return each(x, start)

        others["equinox"] = Contestant(of_arrays, (p["scale"], p["bias"]), channels_first=True, stateful=True)
    return ours, x, others


def attention():
    """Attention(8), causal, 4×256×512"""
    x = normal(4, 256, 512)
    net = fn.Attention(8, causal=True)
    p = started(net, x)
    names = ("query", "keys", "values", "out")

    def by_hand(p, x):
        q, k, v = ((x @ p[name]["kernel"] + p[name]["bias"]).reshape(4, 256, 8, 64) for name in names[:3])
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
        return y @ p["out"]["kernel"] + p["out"]["bias"]

    others = {"hand": Contestant(by_hand, p)}
    if linen:
        heads = {"query": p["query"], "key": p["keys"], "value": p["values"]}
        split = {"kernel": (512, 8, 64), "bias": (8, 64)}
        heads = {name: {leaf: a.reshape(split[leaf]) for leaf, a in of.items()} for name, of in heads.items()}
        heads["out"] = {"kernel": p["out"]["kernel"].reshape(8, 64, 512), "bias": p["out"]["bias"]}
        masked = linen.MultiHeadDotProductAttention(8)
        mask = linen.make_causal_mask(x[..., 0])
        others["flax"] = Contestant(lambda p, x: masked.apply({"params": p}, x, mask=mask), heads)
    if eqx:
        biases = dict.fromkeys(("use_query_bias", "use_key_bias", "use_value_bias", "use_output_bias"), True)
        module = eqx.nn.MultiheadAttention(8, 512, **biases, key=jax.random.key(0))
        causal = jnp.tril(jnp.ones((256, 256), bool))
        arrays = [a for name in names for a in (p[name]["kernel"].T, p[name]["bias"])]
        others["equinox"] = of_equinox(module, arrays, call=lambda module, x: module(x, x, x, mask=causal))
    return Contestant(net.apply, p), x, others


CASES = [dense, conv, depthwise, lstm, lstm_of_few, gru, layer_norm, rms_norm, group_norm, batch_norm, attention]


def prepared(case):
    """The calls of a row, found to agree."""
    ours, x, others = case()
    contestants = {"ours": ours} | others
    y = jax.eval_shape(ours.f, ours.params, x)
    dy = normal(*(y[0] if ours.stateful else y).shape, seed=2)
    calls = {name: one.call(x, dy) for name, one in contestants.items()}
    want = ours.answer(calls["ours"])
    for name, one in contestants.items():
        for got, wanted in zip(one.answer(calls[name]), want, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3, err_msg=f"{case.__doc__}: {name}")
    return calls


def fastest(times):
    """Who was the fastest of the others."""
    return min(times.keys() - {"ours"}, key=times.__getitem__)


def main(wanted):
    print(HEADER)
    for case in CASES:
        if wanted and not case.__doc__.startswith(tuple(wanted)):
            continue
        calls = prepared(case)
        runs = [interleaved(calls, ROUNDS) for _ in range(RUNS)]
        times = sorted(runs, key=lambda times: times["ours"] / times[fastest(times)])[RUNS // 2]
        other = fastest(times)
        print(row(case.__doc__, times["ours"], times[other], other, BOUND), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
