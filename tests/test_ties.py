"""Tied weights stay one array, whatever is done with the parameters."""

import pickle

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnets as fn

KEY = jax.random.key(0)
IDS, X = catalogue.ids(3, 5), catalogue.floats(6, 4)


def one_name():
    """An embedding and the head that shares its name."""
    net = fn.Sequential(("embed", fn.Embedding(7, 4)), ("mlp", fn.Residual(fn.Dense(4))), ("embed", fn.Unembed()))

    def by_hand(p, ids):
        x = p["embed"]["table"][ids]
        x = x + x @ p["mlp"]["kernel"] + p["mlp"]["bias"][None, None]
        return x @ p["embed"]["table"].T

    return net, by_hand, IDS, {"embed/table", "mlp/kernel", "mlp/bias"}


def one_layer_twice():
    net = fn.Sequential(("dense", fn.Dense(4)), jnp.tanh, ("dense", fn.Dense(4)))

    def by_hand(p, x):
        for activation in (jnp.tanh, lambda x: x):
            x = activation(x @ p["dense"]["kernel"] + p["dense"]["bias"][None])
        return x

    return net, by_hand, X, {"dense/kernel", "dense/bias"}


def across_scopes():
    """A decoder whose kernel is an encoder's, transposed, with a repeated block between."""
    block = fn.Repeat(fn.Residual(fn.Dense(3)), 2)
    inner = fn.Sequential(("encoder", fn.Sequential(("code", fn.Dense(3)))), ("block", block), ("decoder", fn.Dense(4)))
    net = fn.tie(inner, "decoder/kernel", to="encoder/code/kernel", via=jnp.transpose)

    def by_hand(p, x):
        x = x @ p["encoder"]["code"]["kernel"] + p["encoder"]["code"]["bias"][None]
        for i in range(2):
            x = x + x @ p["block"]["kernel"][i] + p["block"]["bias"][i][None]
        return x @ p["encoder"]["code"]["kernel"].T + p["decoder"]["bias"][None]

    return net, by_hand, X, {
        "encoder/code/kernel", "encoder/code/bias", "block/kernel", "block/bias", "decoder/bias",
    }  # fmt: skip


each_net = pytest.mark.parametrize("case", [one_name, one_layer_twice, across_scopes])


def close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=2e-6), a, b)


def leaves(tree):
    return {path for path, _ in fn.params.paths(tree)}


@each_net
def test_one_leaf_with_the_sum_of_gradients(case):
    net, by_hand, x, paths = case()
    params = net.init(KEY, x)
    assert leaves(params) == paths
    close(net.apply(params, x), by_hand(params, x))
    gradients = [jax.grad(lambda p: jnp.mean(f(p, x) ** 2))(params) for f in (net.apply, by_hand)]  # noqa: B023
    close(*gradients)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients[0])
    assert leaves(moved) == paths
    close(net.apply(moved, x), by_hand(moved, x))


@each_net
def test_through_a_pickle(case):
    net, by_hand, x, paths = case()
    params = net.init(KEY, x)
    again = pickle.loads(pickle.dumps(params))
    assert leaves(again) == paths
    close(net.apply(again, x), by_hand(params, x))


@each_net
def test_ten_donating_steps_of_adamw_saved_and_restored(case, tmp_path):
    net, by_hand, x, paths = case()
    optimizer = optax.adamw(1e-2, weight_decay=0.1)

    def trained(apply, params):
        @jax.jit
        def step(params, state):
            gradients = jax.grad(lambda p: jnp.mean((apply(p, x) - 1) ** 2))(params)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        donating = jax.jit(step, donate_argnums=(0, 1))
        params = jax.tree.map(jnp.copy, params)
        state = optimizer.init(params)
        for _ in range(10):
            params, state = donating(params, state)
        return params

    params = net.init(KEY, x)
    with jax.numpy_dtype_promotion("standard"):
        ours, reference = trained(net.apply, params), trained(by_hand, params)
    assert leaves(ours) == paths
    close(ours, reference)
    with fn.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(10, ours)
        restored = checkpoints.restore(net.plan(x).params)
    assert leaves(restored) == paths
    close(net.apply(restored, x), by_hand(ours, x))


@each_net
def test_through_migrate_and_stack(case):
    net, by_hand, x, paths = case()
    params = net.init(KEY, x)
    edited = fn.rewrite.replace(net, {"mlp": fn.Remat}) if "mlp/kernel" in paths else fn.Remat(net)
    moved, report = fn.rewrite.migrate(net, edited, params, jax.random.key(1), x)
    assert leaves(moved) == paths
    assert not report.fresh
    close(edited.apply(moved, x), by_hand(params, x))

    several = [net.init(jax.random.key(i), x) for i in range(3)]
    stacked = fn.rewrite.stack(several)
    assert leaves(stacked) == paths
    close(fn.Ensemble(net, 3).apply(stacked, x), jnp.stack([by_hand(each, x) for each in several]))
    for one, each in zip(fn.rewrite.unstack(stacked), several, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, each)
