"""What is wrong with the numbers in a net."""

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn

KEY = jax.random.key(0)
X = catalogue.floats(32, 8)


def test_the_first_layer_that_is_not_finite():
    net = fn.Sequential(("a", fn.Dense(8)), ("log", jnp.log), ("b", fn.Dense(4)))
    health = fn.check(net, net.init(KEY, X), X)
    assert (health.first.path, health.first.fault) == ("log", "not finite")
    log = jnp.log(net[0].apply(net.init(KEY, X)["a"], X))
    assert health.first.not_finite == int((~jnp.isfinite(log)).sum())
    assert [row.path for row in health.outputs] == ["a", "log", "b", ""]
    assert [row.path for row in health.faults] == ["log", "b", ""]
    np.testing.assert_allclose(health.first.mean, np.nanmean(log), rtol=1e-5)
    lines = str(health).splitlines()
    assert lines[0].split() == ["path", "output", "mean", "std", "min", "max", "fault"]
    assert lines[-1] == f"first fault: log: not finite, {health.first.not_finite} entries"


def test_statistics_are_those_of_numpy():
    net = fn.Sequential(fn.Dense(4), jax.nn.relu)
    params = net.init(KEY, X)
    y = np.asarray(net.apply(params, X), np.float64)
    row = fn.check(net, params, X).outputs[-1]
    np.testing.assert_allclose([row.mean, row.std, row.min, row.max], [y.mean(), y.std(), y.min(), y.max()], rtol=1e-6)
    assert row.what == "float32[32,4]"
    assert row.zeros == (y == 0).mean()
    assert row.fault == ""


def test_saturated_and_dead_and_constant():
    def net(scale, shift):
        bias = fn.initializers.Constant(shift)
        dense = fn.Dense(16, kernel_init=fn.initializers.Normal(scale), bias_init=bias)
        return fn.Sequential(dense, ("activation", jnp.tanh if shift == 0 else jax.nn.relu), fn.Dense(2))

    for scale, shift, fault in ((100.0, 0.0, "saturated"), (1.0, -9.0, "saturated"), (1e-9, -9.0, "constant")):
        made = net(scale, shift)
        rows = {row.path: row.fault for row in fn.check(made, made.init(KEY, X), X).outputs}
        assert rows["activation"] == fault, (scale, shift)
    healthy = fn.Sequential(fn.Dense(16), jnp.tanh, fn.LayerNorm(), jax.nn.relu, fn.Dense(2), jax.nn.softmax)
    health = fn.check(healthy, healthy.init(KEY, X), X)
    assert health.first is None
    assert health.faults == ()
    assert str(health).endswith("no fault")


@pytest.mark.parametrize("scan", [True, False])
def test_the_copy_of_a_loop_that_is_at_fault(scan):
    net = fn.Sequential(fn.Repeat(fn.Residual(fn.Dense(8)), 5, scan=scan), fn.Dense(2))
    params = net.init(KEY, X)
    params = fn.params.update(params, {"dense_0/kernel": params["dense_0"]["kernel"].at[3, 0, 0].set(jnp.nan)})
    health = fn.check(net, params, X)
    assert (health.first.path, health.first.copy) == ("dense_0", (3,))
    assert str(health).splitlines()[-1].startswith("first fault: dense_0: not finite in copy 3, ")


def test_gradients_too():
    def loss(y):
        return jnp.mean(y**2)

    net = fn.Sequential(fn.Dense(8), jnp.tanh, fn.Dense(1))
    params = net.init(KEY, X)
    health = fn.check(net, params, X, loss=loss)
    assert health.first is None
    names = ["", "dense_1", "tanh_0", "dense_0", "dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias"]
    assert sorted(row.path for row in health.gradients) == sorted(names)
    assert [row.path for row in health.gradients[:4]] == names[:4]  # from the loss on backwards
    gradient = jax.grad(lambda p: loss(net.apply(p, X)))(params)["dense_0"]["kernel"]
    row = next(row for row in health.gradients if row.path == "dense_0/kernel")
    np.testing.assert_allclose([row.mean, row.std], [np.mean(gradient), np.std(gradient)], rtol=1e-4)

    # sqrt at 0: outputs are fine, gradients are not
    net = fn.Sequential(fn.Dense(8), ("square", jnp.square), ("zero", lambda x: x - x), ("root", jnp.sqrt))
    health = fn.check(net, net.init(KEY, X), X, loss=jnp.sum)
    found = {row.path: row.fault for row in health.gradients}
    assert found["root"] == ""
    assert found["zero"] == "not finite"

    dead = fn.Sequential(fn.Dense(8), fn.Freeze(fn.Dense(8)), ("cut", jax.lax.stop_gradient), fn.Dense(2))
    found = {row.path: row.fault for row in fn.check(dead, dead.init(KEY, X), X, loss=jnp.sum).gradients}
    assert found["dense_0/kernel"] == found["dense_1"] == "zero"
    assert found["dense_2/kernel"] == ""


def test_states_keys_modes_and_inputs_of_all_kinds():
    @fn.compose(embed=fn.Embedding(9, 8), trunk=fn.Sequential(fn.Dense(8), fn.BatchNorm(), fn.Dropout(0.5)))
    def net(m, ids, depth, *, scale):
        x = m.embed(ids)
        for _ in range(depth):
            x = m.trunk(x) * scale
        return {"x": x, "ids": ids}

    ids = jnp.arange(8) % 9
    params, state = net.init(KEY, ids, 2, scale=2.0), net.init_state(ids, 2, scale=2.0)
    health = fn.check(net, params, ids, 2, scale=2.0, state=state, key=KEY, train=True, loss=lambda y: y["x"].sum())
    assert {"embed", "trunk", "trunk@1", "trunk/dropout_0@1"} <= {row.path for row in health.outputs}
    assert "embed/table" in {row.path for row in health.gradients}


def test_what_runs_in_a_raw_transform_is_named():
    @fn.compose(dense=fn.Dense(8), out=fn.Dense(2))
    def net(m, x):
        return m.out(jax.lax.fori_loop(0, 3, lambda _, h: m.dense(h), x))

    health = fn.check(net, net.init(KEY, X), X)
    assert health.unseen == ("dense",)
    assert [row.path for row in health.outputs] == ["out", ""]
    assert str(health).endswith("not seen, in raw JAX transforms: dense")


@pytest.mark.parametrize("row", catalogue.ROWS, ids=lambda row: row.name)
def test_every_layer_can_be_checked(row):
    params, state = jax.jit(row.layer.init)(KEY, *row.sample), row.layer.init_state(*row.sample)
    health = fn.check(row.layer, params, *row.sample, state=state)
    assert all(vitals.fault != "not finite" for vitals in health.outputs)
    assert health.outputs
