"""Shape inference: tables, big models, ways to call init."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import floats
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import funcnets as fn
from funcnets import plan
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
    assert repr(NET.plan(X)) == str(NET.plan(X))
    assert str(fn.Dense(3).plan(X)).splitlines()[2].split()[:3] == ["(the", "net)", "Dense(3)"]


def test_a_notebook_shows_the_plan_as_a_table_whose_cells_are_whole():
    def a_function_with_a_name_that_no_column_of_text_would_hold(x):
        return x

    page = fn.Sequential(fn.Dense(32), a_function_with_a_name_that_no_column_of_text_would_hold).plan(X)._repr_html_()
    assert "<td><code>dense_0</code></td><td><code>Dense(32)</code></td><td><code>float32[8,32]</code></td>" in page
    assert "a_function_with_a_name_that_no_column_of_text_would_hold</code>" in page
    assert page.count('<td class="number">544</td>') == 2  # the layer's, and in total
    assert page.count("<tr>") == page.count("</tr>") == 4


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


def shared_inside(m, x):
    return m.head(m.embed(m.mid(m.embed(x))))


EQUAL_BLOCKS = {
    "sequential": fn.Sequential(fn.Dense(4), fn.BatchNorm(), jnp.tanh, fn.Dropout(0.5)),
    "residual": fn.Residual(fn.Sequential(fn.Dense(4), fn.LayerNorm())),
    "repeat": fn.Repeat(fn.Residual(fn.Sequential(fn.Dense(4), fn.BatchNorm())), 3),
    "ensemble": fn.Sequential(fn.Ensemble(fn.Sequential(fn.Dense(4)), 2), lambda y: y.sum(0)),
    "remat": fn.Remat(fn.Sequential(fn.Dense(4), fn.Sequential(fn.Dense(4)))),
    "cast": fn.Cast(fn.Sequential(fn.Dense(4)), "float32", param_dtype="bfloat16"),
    "tied": fn.tie(fn.Sequential(("a", fn.Dense(4)), ("b", fn.Dense(4))), "b/kernel", to="a/kernel"),
    "shared": fn.compose(embed=fn.Dense(4), mid=fn.Sequential(fn.Dense(4)), head=fn.Dense(4))(shared_inside),
}


@pytest.mark.parametrize("name", EQUAL_BLOCKS)
def test_equal_blocks_are_planned_once_and_noted_as_if_each_were(name, monkeypatch):
    block = EQUAL_BLOCKS[name]
    nets = [
        fn.Sequential(*[block] * 3),
        fn.Repeat(fn.Sequential(*[block] * 2), 2),
        fn.Sequential(("first", block), ("second", fn.Remat(fn.Sequential(block, block))), ("first", block)),
        fn.Cast(fn.Sequential(*[block] * 2), "float32"),
        fn.Parallel(block, block, fn.Sequential(block), merge="sum"),
    ]
    x = jnp.ones((2, 4))
    for net in nets:
        known = plan._plan(net, plan.Sample(((x,), {})))
        with monkeypatch.context() as patched:
            patched.setattr(plan.Planning, "_known_by", lambda *_: None)
            anew = plan._plan(net, plan.Sample(((x,), {})))
        assert known.params == anew.params
        assert known.states == anew.states
        assert known.owners == anew.owners
        assert [call[:4] for call in known.calls] == [call[:4] for call in anew.calls]
        assert known.declared == anew.declared


def test_a_block_that_comes_again_is_not_traced_again():
    traces = []

    def counted(x):
        traces.append(x.shape)
        return x

    block = fn.Sequential(fn.Dense(4), counted)
    fn.Sequential(*[block] * 12).plan(jnp.ones((2, 4)))
    assert traces == [(2, 4)]
    fn.Sequential(fn.Dense(3), block, block).plan(jnp.ones((2, 4)))
    assert len(traces) == 3  # the two blocks meet different inputs


def test_a_block_that_reads_what_stands_there_is_planned_for_itself():
    reader = fn.Sequential(("table", fn.Unembed()))
    net = fn.Sequential(
        ("a", fn.Sequential(("table", fn.Embedding(7, 4)))),
        ("a", reader),
        lambda y: y.argmax(-1),
        ("b", fn.Sequential(("table", fn.Embedding(9, 4)))),
        ("b", reader),
    )
    assert net.plan(jnp.zeros((2,), int)).output.shape == (2, 9)


class MeanOver(fn.Layer):
    axis_name: str | None = None

    def params(self, x):
        return {"scale": fn.Param(x.shape[-1:], fn.initializers.Ones())}

    def forward(self, p, x):
        return jax.lax.pmean(x * p["scale"], self.axis_name)


def test_axes_that_a_layer_names_are_bound_while_it_is_planned():
    net = fn.Sequential(fn.Dense(3), MeanOver("batch"))
    x = jax.random.normal(jax.random.key(1), (4, 5))
    params = net.init(jax.random.key(0), x[0])
    y = jax.vmap(net.apply, in_axes=(None, 0), axis_name="batch")(params, x)
    np.testing.assert_allclose(y[0], (x @ params["dense_0"]["kernel"]).mean(0), rtol=1e-5, atol=1e-6)
    with pytest.raises(NameError, match="batch"):
        net.apply(params, x[0])
