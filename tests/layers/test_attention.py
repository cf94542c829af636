from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import funcnets as fn
from funcnets.layers.scores import attend

KEY = jax.random.key(0)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# Against PyTorch


def projections(p, prefix):
    """Ours from those of a torch.nn.MultiheadAttention.

    Gradients are compared as PyTorch packs them: that of the keys' bias alone is 0 but for rounding.
    """
    p = {name.removeprefix(prefix): array for name, array in p.items() if name.startswith(prefix)}
    names = ("query", "keys", "values")
    if "in_proj_weight" in p:
        kernels = jnp.split(p["in_proj_weight"], 3)
    else:
        kernels = [p[f"{name}_proj_weight"] for name in "qkv"]
    made = {name: {"kernel": kernel.T} for name, kernel in zip(names, kernels, strict=True)}
    made["out"] = {"kernel": p["out_proj.weight"].T}
    if "in_proj_bias" in p:
        biases = jnp.split(p["in_proj_bias"], 3)
        made = {name: made[name] | {"bias": bias} for name, bias in zip(names, biases, strict=True)} | {
            "out": made["out"] | {"bias": p["out_proj.bias"]}
        }
    return made


def dense(p, name):
    return {"kernel": p[f"{name}.weight"].T, "bias": p[f"{name}.bias"]}


def norm(p, name):
    return {"scale": p[f"{name}.weight"], "bias": p[f"{name}.bias"]}


@references.each("attention", "mha")
def test_it_is_torchs_multi_head_attention(case):
    kind = case.name.removeprefix("mha-")
    net = fn.Attention(2, causal=kind == "causal", use_bias=kind != "nobias", features=6)

    def apply(params, x, *others):
        params = projections(params, "of.inner.")
        if kind in ("padding", "mask"):
            return net.apply(params, x, mask=~others[0])
        return net.apply(params, x, *others)

    case.check(apply, references.same)


@references.each("attention", "sdpa")
@pytest.mark.parametrize("by_hand", [False, True])
def test_the_arithmetic_is_torchs(case, by_hand):
    options = {"scale": case.options.get("scale", 3**-0.5), "causal": case.options.get("is_causal", False)}
    options |= {"drop": lambda weights: weights} if by_hand else {}

    def apply(_, q, k, v, *given):
        kinds = {a.dtype == bool: a for a in given}
        return attend(q, k, v, kinds.get(False), kinds.get(True), **options)

    def swap(x):  # (batch, heads, time, features)
        return x if x.dtype == bool or x.shape[-1] == x.shape[-2] else np.swapaxes(x, 1, 2)

    case.check(apply, to_input=swap, to_output=swap)


@references.each("attention", "encoder")
def test_a_block_is_torchs_encoder_layer(case):
    mlp = fn.Sequential(("linear1", fn.Dense(5)), jax.nn.relu, ("linear2", fn.Dense(6)))
    net = fn.TransformerBlock(fn.Attention(2), mlp=mlp, pre_norm=case.options["pre"])

    def to_params(p):
        p = {name.removeprefix("of."): array for name, array in p.items()}
        return {
            "attention": projections(p, "self_attn."),
            "mlp": {name: dense(p, name) for name in ("linear1", "linear2")},
            "attention_norm": norm(p, "norm1"),
            "mlp_norm": norm(p, "norm2"),
        }

    case.check(lambda p, x, padding: net.apply(to_params(p), x, mask=~padding), references.same)


@references.each("attention", "decoder")
def test_a_block_with_cross_attention_is_torchs_decoder_layer(case):
    net = fn.TransformerBlock(fn.Attention(2, causal=True), cross=fn.Attention(2), pre_norm=case.options["pre"])

    def to_params(p):
        p = {name.removeprefix("of."): array for name, array in p.items()}
        return {
            "attention": projections(p, "self_attn."),
            "cross": projections(p, "multihead_attn."),
            "mlp": {"hidden": dense(p, "linear1"), "out": dense(p, "linear2")},
            "attention_norm": norm(p, "norm1"),
            "cross_norm": norm(p, "norm2"),
            "mlp_norm": norm(p, "norm3"),
        }

    def apply(p, x, memory, hidden):
        return net.apply(to_params(p), x, memory, context_mask=~hidden)

    case.check(apply, references.same)


# Against a loop


def by_loop(params, x, heads, kv_heads, seen, *, turn=None, bias=None, softcap=None, scale=None):
    """Attention of a query at a time; seen(b, h, i, j) says whether query i takes from key j."""
    q, k, v = (x @ params[name]["kernel"] + params[name]["bias"] for name in ("query", "keys", "values"))
    batch, time, width = x.shape[0], x.shape[1], q.shape[-1] // heads
    out = np.zeros(q.shape)
    for b, h, i in np.ndindex(batch, heads, time):
        g = h // (heads // kv_heads)
        own, group = slice(h * width, (h + 1) * width), slice(g * width, (g + 1) * width)
        scores, rows = [], []
        for j in range(time):
            if not seen(b, h, i, j):
                continue
            one, other = q[b, i, own], k[b, j, group]
            one, other = (turn(one, i), turn(other, j)) if turn else (one, other)
            score = one @ other * (width**-0.5 if scale is None else scale)
            score = softcap * np.tanh(score / softcap) if softcap else score
            scores.append(score + (bias(h, i, j) if bias else 0))
            rows.append(v[b, j, group])
        if scores:
            weights = np.exp(scores - np.max(scores))
            out[b, i, own] = weights @ np.asarray(rows) / weights.sum()
    return out @ params["out"]["kernel"] + params["out"]["bias"]


def turned(x, position, base=10_000.0, interleaved=False, features=None):
    y = x.astype(np.float64).copy()
    width = features or len(x)
    for i in range(width // 2):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + width // 2)
        angle = position * base ** (-2 * i / width)
        y[a] = x[a] * np.cos(angle) - x[b] * np.sin(angle)
        y[b] = x[b] * np.cos(angle) + x[a] * np.sin(angle)
    return y


def t5_bucket(distance, buckets, max_distance, bidirectional):
    """The formula of T5, for key position − query position."""
    bucket = 0
    if bidirectional:
        buckets //= 2
        bucket = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    near = buckets // 2
    if distance < near:
        return bucket + distance
    far = near + int(np.log(distance / near) / np.log(max_distance / near) * (buckets - near))
    return bucket + min(far, buckets - 1)


SEGMENTS = np.array([[0, 0, 1, 1, 1, 0], [3, 3, 3, 3, 3, 3]], np.int32)
MASK = np.random.default_rng(5).random((2, 4, 6, 6)) < 0.5
PARTIAL = functools.partial(fn.rotary, base=100.0, interleaved=True, features=2)
LOOPS = {
    "window": ({"window": (2, 1)}, {}, {"seen": lambda b, h, i, j: -2 <= j - i <= 1}),
    "causal window": ({"window": 1, "causal": True}, {}, {"seen": lambda b, h, i, j: -1 <= j - i <= 0}),
    "segments": ({"causal": True}, {"segments": SEGMENTS}, {
        "seen": lambda b, h, i, j: j <= i and SEGMENTS[b, i] == SEGMENTS[b, j]
    }),
    "padding": ({}, {"mask": MASK[:, 0, 0]}, {"seen": lambda b, h, i, j: MASK[b, 0, 0, j]}),
    "rank 3": ({}, {"mask": MASK[:, 0]}, {"seen": lambda b, h, i, j: MASK[b, 0, i, j]}),
    "rank 4 and window": ({"window": 3}, {"mask": MASK}, {
        "seen": lambda b, h, i, j: MASK[b, h, i, j] and abs(i - j) <= 3
    }),
    "one mask": ({"causal": True}, {"mask": MASK[:1, :1]}, {"seen": lambda b, h, i, j: MASK[0, 0, i, j] and j <= i}),
    "softcap": ({"softcap": 0.5, "scale": 2.0}, {}, {"softcap": 0.5, "scale": 2.0}),
    "softcap, mask, bias": ({"softcap": 0.5}, {"mask": MASK, "bias": floats(1, 4, 6, 6)}, {
        "softcap": 0.5,
        "seen": lambda b, h, i, j: MASK[b, h, i, j],
        "bias": lambda h, i, j: floats(1, 4, 6, 6)[0, h, i, j],
    }),
    "rope": ({"rope": fn.rotary}, {}, {"turn": turned}),
    "rope, partly": ({"rope": PARTIAL}, {}, {"turn": lambda x, i: turned(x, i, 100.0, True, 2)}),
    "rope, far": ({"rope": fn.rotary}, {"positions": np.arange(6, dtype=np.int32) * 50}, {
        "turn": lambda x, i: turned(x, 50 * i)
    }),
    "alibi": ({"position_bias": fn.ALiBi(), "causal": True}, {}, {
        "bias": lambda h, i, j: -(2.0 ** (-2 * (h + 1))) * abs(i - j), "seen": lambda b, h, i, j: j <= i
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", LOOPS)
def test_it_computes_what_a_loop_over_queries_does(name):
    options, inputs, wanted = LOOPS[name]
    x = floats(2, 6, 8)
    net = fn.Attention(4, kv_heads=2, head_features=4, bias_init=fn.initializers.Normal(1.0), **options)
    params = net.init(KEY, x)
    wanted = {"seen": lambda b, h, i, j: True} | wanted
    expected = by_loop(jax.tree.map(np.asarray, params), x, 4, 2, **wanted)
    close(net.apply(params, x, **inputs), expected)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_the_relative_bias_is_that_of_t5(bidirectional):
    net = fn.Attention(2, position_bias=fn.RelativeBias(8, 20, bidirectional, fn.initializers.Normal(1.0)))
    x = floats(1, 40, 4)
    params = net.init(KEY, x)
    table = np.asarray(params["position_bias"]["table"])
    assert table.shape == (8, 2)
    expected = by_loop(
        jax.tree.map(np.asarray, params), x, 2, 2, lambda *_: True,
        bias=lambda h, i, j: table[t5_bucket(j - i, 8, 20, bidirectional), h],
    )  # fmt: skip
    close(net.apply(params, x), expected)


def test_buckets_at_exact_powers_are_those_of_the_formula():
    at = jnp.arange(300)[None]
    table = {"table": jnp.arange(32, dtype=jnp.float32)[:, None]}
    for bidirectional in (True, False):
        ours = fn.RelativeBias(bidirectional=bidirectional).apply(table, jnp.array([[150]]), at, 1)[0, 0, 0]
        assert list(ours) == [t5_bucket(j - 150, 32, 128, bidirectional) for j in range(300)]


def test_a_bias_may_be_made_once_and_given_to_all():
    own = fn.Attention(2, position_bias=fn.RelativeBias(4, 8))
    x, at = floats(2, 5, 4), jnp.arange(5)[None]
    params = own.init(KEY, x)
    bias = fn.RelativeBias(4, 8).apply(params["position_bias"], at, at, 2)
    others = {name: held for name, held in params.items() if name != "position_bias"}
    close(fn.Attention(2).apply(others, x, bias=bias), own.apply(params, x))
    doubled = jnp.concatenate([bias, bias])
    close(own.apply(params, x, bias=doubled), fn.Attention(2).apply(others, x, bias=2 * bias))


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8])
def test_alibis_slopes(heads):
    at = jnp.arange(2)[None]
    slopes = -fn.ALiBi().apply({}, at, at, heads)[0, :, 0, 1]
    wanted = {
        1: [2**-8],
        2: [2**-4, 2**-8],
        3: [2**-4, 2**-8, 2**-2],
        6: [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3],
        8: [2.0**-h for h in range(1, 9)],
    }
    close(slopes, wanted[heads])


def test_norms_of_queries_and_keys_are_of_each_head():
    net = fn.Attention(2, query_norm=fn.RMSNorm(), keys_norm=fn.LayerNorm(), bias_init=fn.initializers.Normal(1.0))
    x = floats(1, 3, 8)
    params = net.init(KEY, x)
    assert params["query_norm"]["scale"].shape == (4,)
    params["query_norm"]["scale"] = jnp.array([1.0, 2, 3, 4])
    p = jax.tree.map(np.asarray, params)
    q, k, v = ((x @ p[n]["kernel"] + p[n]["bias"]).reshape(3, 2, 4) for n in ("query", "keys", "values"))
    q = q / np.sqrt((q**2).mean(-1, keepdims=True) + 1e-6) * np.array([[[1.0, 2, 3, 4]]])
    k = (k - k.mean(-1, keepdims=True)) / np.sqrt(k.var(-1, keepdims=True) + 1e-5)
    weights = np.exp(np.einsum("ihd,jhd->hij", q, k) / 2)
    y = np.einsum("hij,jhd->ihd", weights / weights.sum(-1, keepdims=True), v)
    close(net.apply(params, x)[0], y.reshape(3, 8) @ p["out"]["kernel"] + p["out"]["bias"])


def test_a_query_that_sees_nothing_takes_zeros_and_gives_finite_gradients():
    x, context = floats(2, 3, 4), floats(2, 5, 4)
    mask = np.array([[True] * 5, [False] * 5])
    net = fn.Attention(2, bias_init=fn.initializers.Normal(1.0))
    params = net.init(KEY, x, context)
    for layer in (net, dataclasses.replace(net, softcap=2.0)):
        run = lambda p, c, layer=layer: layer.apply(p, x, c, mask=mask)  # noqa: E731
        y = run(params, context)
        close(y[1], np.broadcast_to(params["out"]["bias"], (3, 4)))
        assert np.abs(y[0] - y[1]).max() > 0.1
        grads = jax.jit(jax.grad(lambda p, c, run=run: run(p, c).sum(), argnums=(0, 1)))(params, jnp.asarray(context))
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
        assert not np.asarray(grads[1][1]).any()
    close(net.apply(params, x, context[:, :0]), np.broadcast_to(params["out"]["bias"], x.shape))
    # A window that ends before the keys do
    heads = context[:, :, None]
    short = attend(heads, heads[:, :2], heads[:, :2], None, None, scale=1.0, window=(1, 1))
    assert not np.asarray(short[:, 3:]).any()
    assert np.isfinite(short).all()


def test_dropout_drops_weights_in_training_and_keeps_the_mean():
    x = floats(1, 40, 4)
    net = fn.Attention(1, dropout=0.5)
    params = net.init(KEY, x)
    params = params | {"values": {"kernel": jnp.zeros((4, 4)), "bias": jnp.ones(4)}}
    params = params | {"out": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)}}
    close(net.apply(params, x), np.ones_like(x))
    y = net.apply(params, x, key=KEY, train=True)  # the sums of the weights that were kept, doubled
    assert float(y[..., 0].std()) > 0.1
    assert abs(float(y[..., 0].mean()) - 1) < 0.1
    close(fn.Attention(1).apply(params, x, train=True), np.ones_like(x))


def test_sizes_initialisers_and_names():
    x, context = jnp.ones((2, 5, 12)), jnp.ones((2, 7, 3))
    net = fn.Attention(6, kv_heads=2, head_features=4, features=9)
    shapes = jax.tree.map(jnp.shape, net.init(KEY, x, context), is_leaf=lambda a: hasattr(a, "shape"))
    assert shapes == {
        "query": {"kernel": (12, 24), "bias": (24,)},
        "keys": {"kernel": (3, 8), "bias": (8,)},
        "values": {"kernel": (3, 8), "bias": (8,)},
        "out": {"kernel": (24, 9), "bias": (9,)},
    }
    assert net.plan(x, context).output.shape == (2, 5, 9)
    assert not any("bias" in p for p in fn.Attention(6, use_bias=False).init(KEY, x).values())
    ones = fn.Attention(6, kernel_init=fn.initializers.Ones()).init(KEY, x)
    assert all((p["kernel"] == 1).all() and (p["bias"] == 0).all() for p in ones.values())
    small = fn.Attention(6, out=fn.Projection(kernel_init=fn.initializers.Zeros())).init(KEY, x)
    assert not small["out"]["kernel"].any()
    assert small["query"]["kernel"].any()
    assert list(dict(net._entries())) == ["query", "keys", "values", "out"]
    function = fn.Attention(2, kernel_init=lambda key, shape, dtype: jnp.full(shape, 2, dtype))
    assert (function.init(KEY, x)["keys"]["kernel"] == 2).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_comes_close(dtype):
    x = floats(2, 5, 8)
    net = fn.Attention(2, causal=True, rope=fn.rotary)
    params = net.init(KEY, x)
    y = net.apply(params, jnp.asarray(x, dtype))
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, np.float32), net.apply(params, x), rtol=0.05, atol=0.05)


def test_float64_is_not_rounded():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 4)))
        params = jax.tree.map(lambda a: a.astype(jnp.float64), fn.Attention(1).init(KEY, x))
        p = jax.tree.map(np.asarray, params)
        expected = by_loop(p, np.asarray(x), 1, 1, lambda *_: True)
        np.testing.assert_allclose(fn.Attention(1).apply(params, x), expected, rtol=1e-13, atol=1e-13)


def test_an_implementation_may_be_chosen():
    x, mask = floats(2, 3, 4), np.array([[True, True, False], [False] * 3])
    params = fn.Attention(2, kv_heads=1).init(KEY, x)
    for options in ({}, {"mask": mask}):
        chosen = fn.Attention(2, kv_heads=1, causal=True, implementation="xla").apply(params, x, **options)
        close(chosen, fn.Attention(2, kv_heads=1, causal=True).apply(params, x, **options))


def test_positions_of_any_whole_dtype():
    x = floats(2, 6, 8)
    net = fn.Attention(2, rope=fn.rotary, position_bias=fn.ALiBi())
    params = net.init(KEY, x)
    for at in (jnp.arange(6, dtype=jnp.uint8), jnp.arange(6, dtype=jnp.int16)[None]):
        close(net.apply(params, x, positions=at), net.apply(params, x))
    close(net.apply(params, x, positions=jnp.ones((2, 1), jnp.int32)), net.apply(params, x, positions=jnp.ones(6, int)))


# Decoding


def in_parts(net, params, x, lengths, mask=None, **options):
    """What a net gives for x in parts; it is compiled once for each length."""
    traces = []

    @jax.jit
    def step(params, state, x, mask):
        traces.append(1)
        return net.apply(params, x, state=state, **({} if mask is None else {"mask": mask}), **options)

    state = net.init_state(x[:, : lengths[0]])
    outputs, start = [], 0
    for length in lengths:
        part = slice(start, start + length)
        y, state = step(params, state, x[:, part], None if mask is None else mask[:, part])
        outputs.append(y)
        start += length
    assert len(traces) == len(set(lengths))
    return jnp.concatenate(outputs, 1), state


DECODERS = {
    "plain": {},
    "rope, groups": {"kv_heads": 2, "rope": fn.rotary},
    "window": {"window": 2, "kv_heads": 1},
    "alibi, softcap": {"position_bias": fn.ALiBi(), "softcap": 1.0},
    "relative": {"position_bias": fn.RelativeBias(4, 6, bidirectional=False)},
}


@pytest.mark.parametrize("name", DECODERS)
def test_decoding_in_parts_is_the_full_pass_with_left_padding_too(name):
    net = fn.Attention(4, causal=True, **DECODERS[name])
    decoder = dataclasses.replace(net, cache=10)
    x = floats(3, 8, 8)
    params = net.init(KEY, x)
    assert jax.tree.structure(decoder.init(KEY, x)) == jax.tree.structure(params)
    apply = jax.jit(net.apply)
    whole = apply(params, x)
    for lengths in [[8], [1] * 8, [4, 1, 3]]:
        close(in_parts(decoder, params, x, lengths)[0], whole)
    padded = np.arange(8)[None] >= np.array([[0], [2], [5]])
    y, state = in_parts(decoder, params, x, [6, 1, 1], padded)
    close(y, apply(params, x, mask=padded))
    assert list(state["counter"]["count"]) == [8, 6, 3]
    assert list(state["cache"]["length"]) == [8, 8, 8]
    close(y[2:, 5:], apply(params, x[2:, 5:]))  # a row is what it is without its padding


def test_padding_in_the_middle_does_not_count():
    net = fn.Attention(2, causal=True, rope=fn.rotary)
    x, mask = floats(2, 6, 4), np.array([[1, 1, 0, 0, 1, 1], [1, 0, 0, 1, 1, 1]], bool)
    params = net.init(KEY, x)
    y, _ = in_parts(dataclasses.replace(net, cache=6), params, x, [4, 2], mask)
    close(y, net.apply(params, x, mask=mask))
    close(y[0, mask[0]], net.apply(params, x[:1, mask[0]])[0])
    close(y[1, mask[1]], net.apply(params, x[1:, mask[1]])[0])


def test_caches_are_per_copy_in_a_repeat_and_take_its_body_once():
    def blocks(cache=None, **options):
        body = fn.TransformerBlock(fn.Attention(2, causal=True, rope=fn.rotary, cache=cache), dropout=0.1)
        return fn.Repeat(body, 3, **options)

    x, mask = floats(2, 6, 4), np.arange(6)[None] >= np.array([[0], [3]])
    for options in ({}, {"shared": True}, {"scan": False}):
        params = blocks(**options).init(KEY, x)
        y, state = in_parts(blocks(7, **options), params, x, [4, 1, 1], mask)
        close(y, blocks(**options).apply(params, x, mask=mask))
        assert state["attention"]["cache"]["keys"].shape == (3, 2, 2, 7, 2)
        assert (state["attention"]["cache"]["length"] == 6).all()
    decoder = fn.Attention(2, causal=True, cache=4)
    twice = fn.Sequential(("a", decoder), ("a", decoder))
    with pytest.raises(RuntimeError, match=r"called twice in one pass.*shared=True"):
        twice.apply(twice.init(KEY, x[:, :2]), x[:, :2], state=twice.init_state(x[:, :2]))


def test_positions_may_be_given_to_a_decoder():
    net = fn.Attention(2, causal=True, rope=fn.rotary)
    decoder = dataclasses.replace(net, cache=4)
    x, at = floats(1, 4, 4), jnp.array([5, 9, 2, 7])
    params = net.init(KEY, x)
    first, state = decoder.apply(params, x[:, :3], positions=at[:3], state=decoder.init_state(x))
    second, _ = decoder.apply(params, x[:, 3:], positions=at[None, 3:], state=state)
    close(jnp.concatenate([first, second], 1), net.apply(params, x, positions=at))


def test_a_full_cache_is_seen_as_nan_and_keeps_what_it_has():
    net = fn.Attention(2, causal=True)
    decoder = dataclasses.replace(net, cache=5)
    x = floats(2, 8, 4)
    params = net.init(KEY, x)
    y, state = in_parts(decoder, params, x, [4, 3, 1])
    close(y[:, :5], net.apply(params, x)[:, :5])
    assert np.isnan(y[:, 5:]).all()
    close(state["cache"]["keys"], in_parts(decoder, params, x, [5])[1]["cache"]["keys"])
    text = (
        "KeyValueCache(5) takes at most 5 tokens, got 8 in float32[2,8,2,2]. Build the decoding net with as many "
        "places as prompt and continuation have together: cache=8 or more"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        decoder.apply(params, x, state=decoder.init_state(x))


def test_a_cache_holds_the_dtype_of_the_keys_and_rows_are_their_own():
    decoder = fn.Attention(2, causal=True, cache=5)
    x = jnp.asarray(floats(2, 3, 4), jnp.bfloat16)
    state = decoder.init_state(x)
    assert state["cache"]["keys"].dtype == jnp.bfloat16
    params = decoder.init(KEY, x)
    cast = fn.Cast(decoder, "bfloat16", output="float32")
    held = cast.init_state(floats(2, 3, 4))
    assert held["cache"]["keys"].dtype == jnp.bfloat16
    assert cast.apply(params, floats(2, 3, 4), state=held)[0].dtype == jnp.float32
    # Rows at different places in one batch: the first goes on, the second starts.
    net, decoder = fn.Attention(2, causal=True), fn.Attention(2, causal=True, cache=5)
    x = floats(2, 4, 4)
    _, old = decoder.apply(params, x[:, :3], state=decoder.init_state(x))
    fresh = decoder.init_state(x)
    mixed = jax.tree.map(lambda a, b: jnp.stack([a[0], b[1]]), old, fresh)
    y, _ = decoder.apply(params, x[:, 3:], state=mixed)
    close(y[0], net.apply(params, x)[0, 3:])
    close(y[1], net.apply(params, x[:, 3:])[1])


@pytest.mark.parametrize(("dtype", "stored", "held"), [(jnp.bfloat16, 0.1, 0.1), (jnp.float64, 1e-6, 1e-12)])
def test_parameters_in_another_dtype_than_declared_decode_in_theirs(dtype, stored, held):
    def net(cache=None):
        block = fn.TransformerBlock(fn.Attention(2, causal=True, cache=cache))
        return fn.Sequential(("ids", fn.Embedding(9, 8)), ("block", block), ("ids", fn.Unembed()))

    ids = jnp.array([[1, 2, 3], [4, 5, 6]])
    with jax.enable_x64(dtype == jnp.float64):
        params = jax.tree.map(lambda a: a.astype(dtype), net().init(KEY, ids))
        apply, start = jax.jit(net(8).apply), net(8).init_state(ids)
        wide = jax.tree.map(lambda a: a.astype(dtype) if a.dtype == jnp.float32 else a, start)
        whole = net().apply(params, ids)
        for state, tolerance in ((start, stored), (wide, held)):
            y, kept = apply(params, ids, state=state)
            assert y.dtype == whole.dtype == dtype
            np.testing.assert_allclose(y.astype(float), whole.astype(float), rtol=0, atol=tolerance)
            assert jax.tree.map(lambda a: a.dtype, kept) == jax.tree.map(lambda a: a.dtype, state)
        new = fn.generate(net(8), params, ids, 3)
        logits = net().apply(params, jnp.concatenate([ids, new], 1))[:, 2:5].astype(float)
        chosen = jnp.take_along_axis(logits, new[..., None], -1)[..., 0]
        assert (chosen >= logits.max(-1) - stored).all()


def test_a_whole_decoder_counts_its_positions():
    def net(cache=None):
        @fn.compose(
            places=fn.PositionEmbedding(9, counting=cache is not None),
            waves=fn.SinusoidalPositions(counting=cache is not None),
            blocks=fn.Repeat(fn.TransformerBlock(fn.Attention(2, causal=True, cache=cache)), 2),
        )
        def decoder(m, x, mask=None):
            return m.blocks(m.waves(m.places(x, mask=mask), mask=mask), mask=mask)

        return decoder

    x, mask = floats(2, 6, 4), np.arange(6)[None] >= np.array([[0], [2]])
    params = net().init(KEY, x)
    y, _ = in_parts(net(6), params, x, [3, 1, 1, 1], mask)
    whole = net().apply(params, x, mask=mask)
    close(y, whole)
    close(whole[1:, 2:], net().apply(params, x[1:, 2:]))


@pytest.mark.parametrize("options", [{}, {"rope": fn.rotary, "kv_heads": 1}, {"position_bias": fn.RelativeBias(4, 8)}])
def test_a_context_is_looked_at_once(options):
    net, decoder = fn.Attention(2, **options), fn.Attention(2, cache="context", **options)
    x, context = floats(2, 5, 4), floats(2, 3, 6)
    mask, seen = np.array([[True, True, False], [True] * 3]), np.ones((2, 5, 3), bool)
    seen[0, :, 0] = False
    params = net.init(KEY, x, context)
    assert jax.tree.structure(decoder.init(KEY, x, context)) == jax.tree.structure(params)
    whole = net.apply(params, x, context, key_mask=mask, mask=seen)
    step = jax.jit(lambda x, context, seen, state: decoder.apply(
        params, x, context, key_mask=mask, mask=seen, state=state
    ))  # fmt: skip
    start = decoder.init_state(x[:, :2], context)
    first, state = step(x[:, :2], context, seen[:, :2], start)
    assert state["cache"]["keys"].shape == (2, 3, decoder.kv_heads or 2, 2)
    second, _ = step(x[:, 2:], np.full_like(context, np.nan), seen[:, 2:], state)
    close(jnp.concatenate([first, second], 1), whole)
    # A row that begins beside one that goes on
    mixed = jax.tree.map(lambda old, new: jnp.stack([old[0], new[1]]), state, start)
    other = context.copy()
    other[0] = np.nan
    y, _ = step(x[:, 2:4], other, seen[:, 2:4], mixed)
    close(y[0], whole[0, 2:4])
    close(y[1], net.apply(params, x[1:, 2:4], context[1:])[0])
    # Nothing of the context is computed in the branch that keeps: the products with its kernels are in the other.
    jaxpr = jax.make_jaxpr(step)(x[:, :2], context, seen[:, :2], start).jaxpr.eqns[0].params["jaxpr"]
    (cond,) = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "cond")
    counts = [sum(eqn.primitive.name == "dot_general" for eqn in branch.eqns) for branch in cond.params["branches"]]
    assert sorted(counts) == [0, 2]


def test_a_translator_decodes_with_a_context_that_is_kept():
    def net(cache=None, context=None):
        @fn.compose(
            embed=fn.Embedding(9, 8),
            blocks=fn.Repeat(
                fn.TransformerBlock(
                    fn.Attention(2, causal=True, cache=cache), cross=fn.Attention(2, kv_heads=1, cache=context)
                ),
                2,
            ),
            head=fn.Dense(9),
        )
        def translator(m, ids, context, context_mask, mask=None):
            return m.head(m.blocks(m.embed(ids), context, key_mask=mask, context_mask=context_mask))

        return translator

    ids, context = np.array([[3, 1, 4], [1, 5, 2]]), floats(2, 2, 5)
    ids, mask = ids.astype(np.int32), np.array([[True, False], [True, True]])
    inputs = {"context": context, "context_mask": mask}
    params, kept = net().init(KEY, ids, context, mask), net(9, "context")
    whole = net().apply(params, ids, context, mask)
    y, state = kept.apply(params, ids[:, :1], context, mask, state=kept.init_state(ids, context, mask))
    assert state["blocks"]["cross"]["cache"]["keys"].shape == (2, 2, 2, 1, 4)
    assert state["blocks"]["cross"]["cache"]["filled"].all()
    rest, _ = kept.apply(params, ids[:, 1:], np.full_like(context, np.nan), mask, state=state)
    close(jnp.concatenate([y, rest], 1), whole)
    new = fn.generate(kept, params, ids, 4, mask=ids > 1, **inputs)
    np.testing.assert_array_equal(new, fn.generate(net(9), params, ids, 4, mask=ids > 1, **inputs))
    # Several at once, and gradients
    several = jax.vmap(lambda c: kept.apply(params, ids, c, mask, state=kept.init_state(ids, c, mask))[0])
    close(several(jnp.stack([context, context])), jnp.stack([whole, whole]))
    loss = lambda p, net, **state: jnp.sum(jax.tree.leaves(net.apply(p, ids, context, mask, **state))[0] ** 2)  # noqa: E731
    grads = jax.grad(loss)(params, kept, state=kept.init_state(ids, context, mask))
    jax.tree.map(lambda a, b: close(a, b, 1e-4), grads, jax.grad(loss)(params, net()))


def test_one_bias_that_all_layers_share_is_decoded_with_a_cache():
    def net(cache=None, **options):
        block = fn.TransformerBlock(fn.Attention(2, causal=True, cache=cache))
        bias = fn.RelativeBias(4, 6, bidirectional=False, table_init=fn.initializers.Normal(1.0))

        @fn.compose(bias=bias, blocks=fn.Repeat(block, 3, **options))
        def t5(m, x, key_mask=None, positions=None):
            given = {} if positions is None else {"positions": positions}
            return m.blocks(x, bias=m.bias, key_mask=key_mask, **given)

        return t5

    x, at = floats(2, 6, 4), jnp.arange(6)[None]
    params = net().init(KEY, x)
    assert params["bias"]["table"].shape == (4, 2)
    assert "position_bias" not in params["blocks"]["attention"]
    whole = net().apply(params, x)
    table = fn.RelativeBias(4, 6, bidirectional=False).apply(params["bias"], at, at, 2)
    plain = fn.Repeat(fn.TransformerBlock(fn.Attention(2, causal=True)), 3)
    close(whole, plain.apply(params["blocks"], x, bias=table))
    close(net(scan=False).apply(params, x), whole)
    close(net().apply(params, x, positions=at * 1), whole)
    assert np.abs(net().apply(params, x, positions=at * 3) - whole).max() > 0.01
    step = jax.jit(net(8).apply)
    mask = np.arange(6)[None] >= np.array([[0], [3]])
    for options in ({}, {"key_mask": mask}):
        state, outputs = net(8).init_state(x), []
        for part in (slice(0, 4), slice(4, 5), slice(5, 6)):
            y, state = step(params, x[:, part], **{n: o[:, part] for n, o in options.items()}, state=state)
            outputs.append(y)
        close(jnp.concatenate(outputs, 1), net().apply(params, x, **options))
    grads = jax.grad(lambda p: net().apply(p, x).sum())(params)
    assert np.asarray(grads["bias"]["table"]).any()


# Masks that could be read in two ways


def test_a_key_mask_is_one_for_every_batch_and_a_mask_of_two_axes_where_it_can_only_be_one():
    net = fn.Attention(2, rope=fn.rotary)
    x, tril = floats(3, 3, 4), np.tril(np.ones((3, 3), bool))
    params = net.init(KEY, x)
    padding = net.apply(params, x, key_mask=tril)
    close(padding, jnp.concatenate([net.apply(params, x[i : i + 1], mask=tril[i : i + 1]) for i in range(3)]))
    close(padding[:2], net.apply(params, x[:2], mask=tril[:2]))
    order = net.apply(params, x, mask=tril[None])
    close(order, fn.Attention(2, rope=fn.rotary, causal=True).apply(params, x))
    assert np.abs(order - padding).max() > 0.01
    close(net.apply(params, x, key_mask=tril[:1]), net.apply(params, x, mask=tril[:1]))
    close(net.apply(params, x, key_mask=tril, mask=tril[None])[0], net.apply(params, x[:1], key_mask=tril[:1])[0])
    block = fn.TransformerBlock(fn.Attention(2), cross=fn.Attention(2))
    params = block.init(KEY, x, x)
    y = block.apply(params, x, x, key_mask=tril, context_mask=tril)
    close(y[:2], block.apply(params, x[:2], x[:2], mask=tril[:2], context_mask=tril[:2]))


def test_a_decoder_takes_masks_of_as_many_tokens_as_rows():
    decoder, net = fn.Attention(2, causal=True, cache=4), fn.Attention(2, causal=True)
    x, mask = floats(2, 2, 4), np.array([[False, True], [True, True]])
    params = net.init(KEY, x)
    for options in ({"mask": mask}, {"key_mask": mask}):
        y, _ = decoder.apply(params, x, **options, state=decoder.init_state(x))
        close(y, net.apply(params, x, key_mask=mask))


# Projections


def test_a_projection_may_be_any_layer_of_the_width():
    x, plain = floats(2, 3, 4), fn.Projection(use_bias=False)
    params = fn.Attention(2).init(KEY, x)
    bare = {name: held if name == "out" else {"kernel": held["kernel"]} for name, held in params.items()}
    whole = fn.Attention(2).apply(params, x)  # biases begin at 0
    dense = fn.Dense(4, use_bias=False)
    for one in (plain, dense, fn.Freeze(plain), fn.Cast(dense, "float32")):
        close(fn.Attention(2, query=one, keys=one, values=one).apply(bare, x), whole)
    rows = {"values": fn.Sequential(("p", plain), jnp.tanh), "out": fn.Sequential(("d", fn.Dense(4)), jnp.tanh)}
    nested = bare | {"values": {"p": bare["values"]}, "out": {"d": params["out"]}}
    nested["query"], nested["keys"] = params["query"], params["keys"]
    y = fn.Attention(2, **rows).apply(nested, x)
    assert y.shape == x.shape
    values = np.tanh(x @ bare["values"]["kernel"])
    one = fn.Attention(2, values=lambda x: x, out=lambda x: x)
    projected = {name: params[name] for name in ("query", "keys")}
    close(y, np.tanh(one.apply(projected, x, values=values) @ params["out"]["kernel"]))
    ours = fn.compose(p=plain)(lambda m, x, width: m.p(x, width))
    assert fn.Attention(2, query=ours).init(KEY, x)["query"]["p"]["kernel"].shape == (4, 4)
    normed = fn.Parametrized(plain, kernel=fn.WeightNorm())
    assert fn.Attention(2, keys=normed).plan(x).output.shape == x.shape
    pair = fn.pair(lambda key, x: {"kernel": jnp.eye(4)}, lambda p, x: x @ p["kernel"])
    assert fn.Attention(2, keys=pair).plan(x).output.shape == x.shape


# What is refused


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"heads": 0}, "Attention takes heads as a whole number, at least 1, got 0. The widths come from the sample"),
        ({"kv_heads": 3}, "Attention takes kv_heads as a divisor of heads=4, got 3. Each serves a group"),
        ({"kv_heads": 0}, "Attention takes kv_heads as a whole number, at least 1, got 0."),
        ({"head_features": 2.0}, "Attention takes head_features as a whole number, at least 1, got 2.0."),
        ({"features": 0}, "Attention takes features as a whole number, at least 1, got 0."),
        ({"use_bias": 1}, "Attention takes use_bias as True or False, got 1. It is whether"),
        ({"causal": None}, "Attention takes causal as True or False, got None. It is whether"),
        (
            {"window": -1},
            "Attention takes window as whole numbers (before, after), or one for both, got -1. The token",
        ),
        ({"window": (1, 2, 3)}, "Attention takes window as whole numbers (before, after), or one for both, got (1, 2"),
        ({"scale": 0.0}, "Attention takes scale as a number above 0, got 0.0. Leave it out"),
        ({"softcap": "a"}, "Attention takes softcap as a number above 0, got 'a'. Leave it out"),
        ({"dropout": 1.0}, "Attention takes dropout as the share of weights dropped, in [0, 1), got 1.0. 0.0 keeps"),
        ({"rope": 10_000.0}, "Attention takes rope as a layer or a function, got 10000.0. Such as rope=fn.rotary"),
        ({"query_norm": True}, "Attention takes query_norm as a layer or a function, got True. Such as query_norm=fn"),
        (
            {"cache": 0, "causal": True},
            "Attention takes cache as a whole number, at least 1, or 'context' in a cross-attention, got 0. The",
        ),
        ({"cache": "keys"}, "or 'context' in a cross-attention, got 'keys'. The number counts the tokens to keep"),
        (
            {"cache": "context", "causal": True},
            "Attention takes cache in a cross-attention, without causal or window, got 'context'. A context has no",
        ),
        ({"cache": 8}, "Attention takes cache with causal=True, got 8. Tokens that are kept cannot see those to come"),
        ({"implementation": "flash"}, "Attention takes implementation as None, 'xla' or 'cudnn', got 'flash'. It is"),
        (
            {"implementation": "cudnn", "softcap": 1.0},
            "Attention takes implementation as None beside softcap or dropout",
        ),
    ],
)
def test_attention_refuses_fields_when_built(options, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        fn.Attention(**{"heads": 4} | options)


def test_the_width_is_no_argument():
    with pytest.raises(TypeError, match="of these 1 by position"):
        fn.Attention(512, 8)


X = jnp.ones((2, 3, 4))
CONTEXT = jnp.ones((2, 5, 6))
CACHED = fn.Attention(2, causal=True, cache=4)


@pytest.mark.parametrize(
    ("net", "inputs", "options", "kind", "text"),
    [
        (fn.Attention(2), (jnp.ones((3, 4)),), {}, ValueError, "takes (batch, time, features), got float32[3,4]. Add"),
        (fn.Attention(2), (jnp.ones((2, 3), jnp.int32),), {}, ValueError, "takes (batch, time, features), got int32[2"),
        (fn.Attention(2), (X.astype(jnp.int32),), {}, TypeError, "Attention takes floating numbers (batch, time, feat"),
        (
            fn.Attention(3),
            (X,),
            {},
            ValueError,
            "Attention with heads=3 takes features that its heads divide, got 4 features in float32[2,3,4]. Say the "
            "width of a head, head_features=..., or take a divisor of 4 for heads",
        ),
        (
            fn.Attention(2),
            (X, CONTEXT[:1]),
            {},
            ValueError,
            "Attention takes a context (2, 5, features) in float32 beside x float32[2,3,4] and keys from "
            "float32[1,5,6], got float32[1,5,6]. Bring it to that batch, length and dtype first",
        ),
        (
            fn.Attention(1),
            (X[..., :0],),
            {},
            ValueError,
            "takes features that its heads divide, got 0 features in floa",
        ),
        (fn.Attention(2), (X, CONTEXT.astype(jnp.bfloat16)), {}, ValueError, "got bfloat16[2,5,6]. Bring it to that"),
        (fn.Attention(2), (X, CONTEXT, X), {}, ValueError, "takes values (2, 5, features) in float32 beside x"),
        (
            fn.Attention(2),
            (X,),
            {"mask": jnp.ones((2, 3))},
            TypeError,
            "Attention takes a mask of booleans, True for what is seen, got float32[2,3]. What is added to the scores "
            "goes in as bias; of PyTorch's masks, which are True for what is hidden, take ~mask",
        ),
        (
            fn.Attention(2),
            (X,),
            {"mask": jnp.ones((3, 3), bool)},
            ValueError,
            "Attention takes a mask (batch, keys), (batch, queries, keys) or (batch, heads, queries, keys), here "
            "(2, 3) or (2, 3, 3) or (2, 2, 3, 3), got bool[3,3]. An axis of 1 stands for all: mask[None] for "
            "(queries, keys)",
        ),
        (fn.Attention(2), (X,), {"mask": jnp.ones(3, bool)}, ValueError, "got bool[3]. An axis of 1 stands for all"),
        (fn.Attention(2), (X,), {"mask": jnp.ones((2, 4, 3, 3), bool)}, ValueError, "got bool[2,4,3,3]. An axis"),
        (fn.Attention(2), (X, CONTEXT), {"mask": jnp.ones((2, 3), bool)}, ValueError, "here (2, 5) or (2, 3, 5)"),
        (
            CACHED,
            (X,),
            {"mask": jnp.ones((2, 3, 3), bool)},
            ValueError,
            "Attention takes a mask (batch, keys), for the new tokens alone, as the cache keeps those before, here "
            "(2, 3), got bool[2,3,3].",
        ),
        (
            fn.Attention(2),
            (X,),
            {"bias": jnp.ones((2, 3, 3))},
            ValueError,
            "takes (batch, heads, queries, keys), got f",
        ),
        (
            fn.Attention(2),
            (X,),
            {"bias": jnp.ones((2, 2, 3, 4))},
            ValueError,
            "Attention takes a bias (batch, heads, queries, keys), here (2, 2, 3, 3), got float32[2,2,3,4]. An axis of "
            "1 stands for all; with a cache the keys are all its places",
        ),
        (
            fn.Attention(2),
            (X, CONTEXT),
            {"segments": jnp.ones((2, 3), jnp.int32)},
            ValueError,
            "Attention takes segments where a whole sequence attends to itself, got int32[2,3] beside a context. Give "
            "a mask (batch, queries, keys) instead",
        ),
        (CACHED, (X,), {"segments": jnp.ones((2, 3), jnp.int32)}, ValueError, "got int32[2,3] beside a cache. Give"),
        (
            fn.Attention(2),
            (X,),
            {"segments": jnp.ones((2, 3))},
            TypeError,
            "Attention takes segments (batch, time) as whole numbers, got float32[2,3]. Convert them first, "
            "jnp.asarray(segments, jnp.int32)",
        ),
        (
            fn.Attention(2),
            (X,),
            {"positions": jnp.arange(4)},
            ValueError,
            "Attention takes positions (batch, time) or (time,), here (2, 3) or (3,), got int32[4]. An axis of 1",
        ),
        (
            CACHED,
            (X, CONTEXT),
            {},
            ValueError,
            "Attention with cache=4 takes x alone, got a context or values too, float32[2,5,6]. That "
            "cache is for self-attention: build the cross-attention without, or with cache='context'",
        ),
        (
            fn.Attention(2, cache="context"),
            (X,),
            {},
            ValueError,
            "Attention with cache='context' takes (x, context) in each call, got x float32[2,3,4] alone. "
            "Self-attention keeps a number of tokens: cache=128, causal=True",
        ),
        (
            fn.Attention(2, causal=True),
            (X, CONTEXT),
            {},
            ValueError,
            "Attention with causal=True takes tokens of one sequence, (x) or (x, values=...), got a context "
            "float32[2,5,6] too, whose tokens have no order with those of x. Build the cross-attention without "
            "causal=True; what each query sees of a context, a mask (batch, queries, keys) says",
        ),
        (fn.Attention(2, window=(1, 0)), (X, X), {}, ValueError, "Build the cross-attention without window=(1, 0)"),
        (
            fn.Attention(2),
            (X, jnp.ones((2, 3), bool)),
            {},
            TypeError,
            "Attention takes a context of floating numbers after x, got bool[2,3]. A mask goes in by name: key_mask= "
            "for the tokens (batch, keys), mask= for (batch, queries, keys)",
        ),
        (
            fn.TransformerBlock(fn.Attention(2)),
            (X, jnp.ones((2, 3), bool)),
            {},
            TypeError,
            "TransformerBlock takes a c",
        ),
        (
            fn.Attention(2),
            (X,),
            {"positions": jnp.arange(3)},
            ValueError,
            "Attention takes positions where something depends on them, got int32[3] beside neither rope, "
            "position_bias nor a function as bias. Build it with rope=fn.rotary, or add fn.PositionEmbedding(n) to x",
        ),
        (
            fn.Attention(2),
            (X[:, :2],),
            {"mask": jnp.ones((2, 2), bool)},
            ValueError,
            "Attention takes a mask of two axes where it can only be (batch, keys), got bool[2,2] with as many queries "
            "as rows, which might be (queries, keys) too. Say which: key_mask=mask for the tokens of each row, "
            "mask=mask[None] for what each query sees",
        ),
        (
            fn.Attention(2),
            (X,),
            {"mask": jnp.ones((2, 3), bool), "key_mask": jnp.ones((2, 3), bool)},
            ValueError,
            "Attention takes a mask (batch, queries, keys) beside a key_mask, got bool[2,3] beside bool[2,3]. Write "
            "mask[None] for (queries, keys), or join the two, key_mask & mask",
        ),
        (fn.Attention(2), (X,), {"key_mask": jnp.ones((2, 3))}, TypeError, "Attention takes a key_mask of booleans"),
        (
            fn.Attention(2),
            (X,),
            {"key_mask": jnp.ones((2, 3, 3), bool)},
            ValueError,
            "Attention takes a key_mask (batch, keys), here (2, 3), got bool[2,3,3]. An axis of 1 stands for all",
        ),
        (CACHED, (X,), {"key_mask": jnp.ones((2, 4), bool)}, ValueError, "(batch, keys), for the new tokens alone, as"),
        (
            fn.Attention(2),
            (X,),
            {"bias": lambda queries, keys, heads: jnp.zeros((1, heads, 3, 2))},
            ValueError,
            "Attention takes a bias (batch, heads, queries, keys), here (2, 2, 3, 3), got float32[1,2,3,2].",
        ),
        (
            fn.Attention(2, head_features=3, query=fn.Dense(4)),
            (X,),
            {},
            ValueError,
            "Attention takes query as a layer that gives float32[2,3,6] for x float32[2,3,4], got float32[2,3,4]. Say "
            "head_features=, or give its layer heads times the width of a head",
        ),
        (
            fn.Attention(2, out=fn.Dense(5)),
            (X,),
            {},
            ValueError,
            "Attention takes out as a layer that gives float32[2,3,4] for x float32[2,3,4], got float32[2,3,5]. Say "
            "features=, or give its layer that width",
        ),
    ],
)
def test_attention_refuses_inputs(net, inputs, options, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        net.plan(*inputs, **options)


def test_a_block_refuses_what_it_cannot_add_and_a_context_out_of_place():
    text = (
        "TransformerBlock takes layers that keep shape and dtype, as what they give is added to float32[2,3,4], got "
        "float32[2,3,5]. Leave out features=, or give the width of x"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        fn.TransformerBlock(fn.Attention(2, features=5)).plan(X)
    text = (
        "TransformerBlock takes a context just when it has a cross-attention, got cross=None, context float32[2,5,6], "
        "context_mask None. Build it with cross=fn.Attention(8), and call it (x, context)"
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        fn.TransformerBlock(fn.Attention(2)).plan(X, CONTEXT)
    with pytest.raises(ValueError, match=re.escape("got cross=Attention(2), context None, context_mask None.")):
        fn.TransformerBlock(fn.Attention(2), cross=fn.Attention(2)).plan(X)
    one = fn.Attention(2, causal=True)
    with pytest.raises(ValueError, match=re.escape("Build the cross-attention without causal=True")):
        fn.TransformerBlock(one, cross=one).plan(X, X)
    for options, text in [
        ({"attention": 8}, "TransformerBlock takes attention as a layer or a function, got 8. Such as Transf"),
        ({"norm": None}, "TransformerBlock takes norm as a layer or a function, got None."),
        (
            {"pre_norm": fn.LayerNorm()},
            "TransformerBlock takes pre_norm as True or False, got LayerNorm(). It is where",
        ),
        ({"dropout": 2}, "TransformerBlock takes dropout as the share of values dropped, in [0, 1), got 2."),
    ]:
        with pytest.raises(ValueError, match=re.escape(text)):
            fn.TransformerBlock(**{"attention": fn.Attention(2)} | options)


def test_a_block_gives_attention_only_the_inputs_that_there_are():
    block = fn.TransformerBlock(jnp.tanh, mlp=fn.Dense(4), norm=fn.Identity(), mlp_norm=fn.RMSNorm())
    assert set(block.init(KEY, X)) == {"mlp", "mlp_norm"}
    net = fn.TransformerBlock(fn.Attention(2))
    params = net.init(KEY, X)
    mask = np.array([[True, True, False]] * 2)
    inner = fn.Attention(2).apply(params["attention"], fn.LayerNorm().apply(params["attention_norm"], X), mask=mask)
    changed = dataclasses.replace(net, mlp=lambda x: jnp.zeros_like(x))
    kept = {name: held for name, held in params.items() if name != "mlp"}
    close(changed.apply(kept, X, mask=mask), X + inner)
