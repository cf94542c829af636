"""Shape inference: tables, big models, ways to call init."""

import jax
import jax.numpy as jnp
import numpy as np
from catalogue import floats
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import funcnets as fn
from funcnets.random import path_key

KEY = jax.random.key(0)
X = jnp.asarray(floats(8, 16))

NET = fn.Sequential(
    fn.Dense(32), fn.BatchNorm(), jax.nn.relu, ("head", fn.Dense(8, bias_init=fn.initializers.Normal(1.0)))
)


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def test_the_printed_plan_is_a_table():
    lines = str(NET.plan(X)).splitlines()
    assert lines[0].split() == ["path", "layer", "output", "parameters"]
    assert lines[2].split() == ["dense_0", "Dense(32)", "float32[8,32]", "544"]
    assert lines[-1].split() == ["total", "float32[8,8]", "872"]
    assert len({len(line) for line in lines}) == 1


def test_shapes_of_a_plan():
    plan = NET.plan(jax.ShapeDtypeStruct((8, 16), jnp.float32))
    assert plan.params["head"]["kernel"].shape == (32, 8)
    assert plan.states["batch_norm_0"]["var"].shape == (32,)
    assert plan.output == jax.ShapeDtypeStruct((8, 8), jnp.float32)
    assert [call.path for call in plan.calls] == ["dense_0", "batch_norm_0", "relu_0", "head", ""]


def test_initial_values_are_those_of_jax_random_with_the_key_of_the_path():
    params = NET.init(KEY, X)
    expected = jax.random.normal(path_key(KEY, "head/bias"), (8,))
    np.testing.assert_array_equal(params["head"]["bias"], expected)
    kernel = fn.initializers.LecunNormal()(path_key(KEY, "dense_0/kernel"), (16, 32), jnp.float32)
    same_bits(params["dense_0"]["kernel"], kernel)


def test_init_gives_the_same_bits_eager_jitted_vmapped_and_sharded():
    eager = NET.init(KEY, X)
    same_bits(eager, jax.jit(NET.init)(KEY, X))
    keys = jnp.stack([jax.random.key(7), KEY])
    many = jax.vmap(lambda key: NET.init(key, X))(keys)
    same_bits(eager, jax.tree.map(lambda a: a[1], many))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    place = jax.tree.map(lambda a: NamedSharding(mesh, PartitionSpec(*[None] * (a.ndim - 1), "data")), eager)
    sharded = jax.jit(NET.init, out_shardings=place)(KEY, X)
    assert len(sharded["dense_0"]["kernel"].sharding.device_set) == 8
    same_bits(eager, sharded)


def test_legacy_keys_mean_the_same():
    same_bits(NET.init(jax.random.PRNGKey(0), X), NET.init(jax.random.key(0), X))


def causal(m, x):
    heads = (x.shape[-1] // 128, 128)
    q, k, v = (layer(x).reshape(*x.shape[:-1], *heads) for layer in (m.q, m.k, m.v))
    return m.out(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape))


def gated(m, x):
    return m.down(jax.nn.silu(m.gate(x)) * m.up(x))


def decoder(width, depth, vocab, *, scan):
    def dense(n):
        return fn.Dense(n, use_bias=False)

    attention = fn.compose(q=dense(width), k=dense(width), v=dense(width), out=dense(width))(causal)
    mlp = fn.compose(gate=dense(11008), up=dense(11008), down=dense(width))(gated)
    block = fn.Sequential(
        fn.Residual(fn.Sequential(fn.RMSNorm(), attention)), fn.Residual(fn.Sequential(fn.RMSNorm(), mlp))
    )
    trunk = [fn.Repeat(block, depth)] if scan else [block] * depth
    return fn.Sequential(fn.Embedding(vocab, width), *trunk, fn.RMSNorm(), dense(vocab))


def test_a_model_of_seven_billion_parameters_is_planned_without_an_array():
    ids = jax.ShapeDtypeStruct((1, 2048), jnp.int32)
    for scan in (True, False):
        spec = jax.eval_shape(decoder(4096, 32, 32000, scan=scan).init, KEY, ids)
        assert sum(leaf.size for leaf in jax.tree.leaves(spec)) == 6_738_415_616
        assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(spec))


def test_init_draws_equal_blocks_together():
    def size(depth):
        net = fn.Sequential(*[fn.Sequential(fn.Dense(16), jnp.tanh) for _ in range(depth)])
        text = jax.jit(lambda key: net.init(key, X)).lower(KEY).as_text()
        return text.count("stablehlo.shift_right_logical")

    assert size(2) == size(12)
