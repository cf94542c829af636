from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import funcnets as fn
from funcnets.layers.batch_normalization import BatchNorm

KEY = jax.random.key(0)


def floats(*shape, seed=0):
    return (3 * np.random.default_rng(seed).standard_normal(shape) + 2).astype(np.float32)


def bools(*shape, seed=0):
    return np.random.default_rng(seed).random(shape) < 0.6


def affine(channels):
    return {"scale": floats(channels, seed=1), "bias": floats(channels, seed=2)}


def to_params(theirs):
    return {ours: theirs[name] for ours, name in (("scale", "weight"), ("bias", "bias")) if name in theirs}


def to_state(buffers):
    return {"mean": jnp.asarray(buffers["running_mean"]), "var": jnp.asarray(buffers["running_var"])}


# What PyTorch computes


@references.each("normalization", "batch_norm")
def test_outputs_gradients_and_the_state_after_it_are_those_of_torch(case):
    layer, state, train = BatchNorm(**case.options), to_state(case.buffers), "train" in case.name

    def apply(params, x):
        return layer.apply(params, x, state=state, train=train)[0]

    case.check(apply, to_params, to_input=references.channels_last, to_output=references.channels_last)
    x = references.channels_last(case.inputs[0])
    _, new = layer.apply(to_params(case.params), x, state=state, train=train)
    for name, array in to_state(case.after).items():
        references.close(new[name], array, what=name)


@pytest.mark.parametrize("name", ["features", "time", "images", "plain"])
def test_running_statistics_after_several_updates_are_those_of_torch(name):
    steps = references.cases("normalization", f"batch_norm-{name}")
    layer = BatchNorm(**steps[0].options)
    state = layer.init_state(references.channels_last(steps[0].inputs[0]))
    for case in steps[:3]:
        x = references.channels_last(case.inputs[0])
        _, state = layer.apply(to_params(case.params), x, state=state, train=True)
    for key, array in to_state(steps[3].buffers).items():
        references.close(state[key], array, what=key)


@pytest.mark.parametrize("momentum", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("unbiased", [True, False])
def test_running_statistics_after_several_updates(momentum, unbiased):
    net = BatchNorm(momentum, unbiased=unbiased)
    batches = [floats(5, 2, 3, seed=seed) for seed in range(4)]
    params, state = net.init(KEY, batches[0]), net.init_state(batches[0])
    mean, var = np.zeros(3), np.ones(3)
    for x in batches:
        _, state = net.apply(params, x, state=state, train=True)
        flat = x.reshape(-1, 3).astype(np.float64)
        mean = momentum * mean + (1 - momentum) * flat.mean(0)
        var = momentum * var + (1 - momentum) * flat.var(0, ddof=1 if unbiased else 0)
    np.testing.assert_allclose(state["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(state["var"], var, rtol=1e-5)

    y, kept = net.apply(params, batches[0], state=state)
    np.testing.assert_allclose(y, (batches[0] - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-4)
    assert kept is state


def test_evaluation_does_not_depend_on_batch_mates():
    x, net = floats(4, 3), BatchNorm()
    params, state = net.init(KEY, x), {"mean": jnp.arange(3.0), "var": jnp.arange(1.0, 4.0)}
    whole = net.apply(params, x, state=state)[0]
    alone = jnp.concatenate([net.apply(params, x[i : i + 1], state=state)[0] for i in range(4)])
    np.testing.assert_array_equal(whole, alone)


def test_batches_too_small_for_statistics():
    net, x = BatchNorm(), floats(1, 3)
    params, state = affine(3), net.init_state(x)
    y, new = net.apply(params, x, state=state, train=True)
    np.testing.assert_allclose(y, params["bias"][None], rtol=1e-6)
    np.testing.assert_allclose(new["var"], 0.9 * np.ones(3), rtol=1e-6)
    y, new = net.apply(params, jnp.ones((0, 3)), state=state, train=True)
    assert y.shape == (0, 3)
    assert new is state


def test_the_jaxpr_in_training_is_that_of_the_formula():
    net, x = BatchNorm(), jnp.asarray(floats(2, 4, 3))
    params, state = net.init(KEY, x), net.init_state(x)

    def formula(p, state, x):
        mean = x.mean((0, 1))
        var = jnp.square(x - mean[None, None]).mean((0, 1))
        new = {"mean": mean, "var": var * (8 / 7)}
        new = {name: 0.9 * state[name] + (1 - 0.9) * new[name] for name in ("mean", "var")}
        factor = jax.lax.rsqrt(var + 1e-5) * p["scale"]
        return (x - mean) * factor + p["bias"], new

    def ours(p, state, x):
        return net.apply(p, x, state=state, train=True)

    def primitives(f):
        return re.sub(r"\b[a-z]+:|\b[a-z]{1,2}\b", "", str(jax.make_jaxpr(f)(params, state, x)))

    with jax.numpy_rank_promotion("allow"):
        assert primitives(ours) == primitives(formula)


# Masks


def masked_and_compact(net, x, mask, weight):
    """Outputs, gradients and states of a masked batch, and of what counts of it as a batch by itself."""
    params, state = affine(x.shape[-1]), net.init_state(x)

    def loss(params, x, weight, *mask):
        y, new = net.apply(params, x, *mask, state=state, train=True)
        return (y * weight).sum(), (y, new)

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    kept = np.where(mask[..., None], weight, np.float32(0))
    return run(params, x, kept, mask), run(params, x[mask], weight[mask])


@pytest.mark.parametrize("shape", [(6, 3), (3, 4, 2), (2, 2, 3, 2)])
@pytest.mark.parametrize("unbiased", [True, False])
def test_a_masked_batch_has_the_statistics_of_what_counts(shape, unbiased):
    x, mask = floats(*shape), bools(*shape[:-1])
    net = BatchNorm(0.7, unbiased=unbiased)
    (grads, (y, state)), (compact_grads, (compact, compact_state)) = masked_and_compact(
        net, x, mask, floats(*shape, seed=3)
    )
    assert 1 < mask.sum() < mask.size
    references.close(y[mask], compact)
    for one, other in zip(
        jax.tree.leaves((state, grads[0])), jax.tree.leaves((compact_state, compact_grads[0])), strict=True
    ):
        references.close(one, other, 2e-5)
    references.close(grads[1][mask], compact_grads[1], 2e-5)
    np.testing.assert_array_equal(grads[1][~mask], 0)


def test_positions_that_do_not_count_are_normalised_all_the_same():
    x, mask, net = floats(4, 5, 3), bools(4, 5), BatchNorm()
    params, state = affine(3), net.init_state(x)
    y, _ = net.apply(params, x, mask, state=state, train=True)
    inside = x[mask].astype(np.float64)
    expected = (x - inside.mean(0)) / np.sqrt(inside.var(0) + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_what_stands_where_nothing_counts_does_not_matter():
    x, mask, net = floats(4, 5, 3), bools(4, 5), BatchNorm()
    params, state = affine(3), net.init_state(x)

    @jax.jit
    def run(x):
        def loss(x):
            y, new = net.apply(params, x, mask, state=state, train=True)
            return jnp.where(mask[..., None], y, 0).sum() * 2, new

        return jax.grad(loss, has_aux=True)(x)

    for filler in (0.0, 1e30, np.inf, np.nan):
        grads, new = run(np.where(mask[..., None], x, np.float32(filler)))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new)), filler
        references.close(new["mean"], run(x)[1]["mean"])
        if np.isfinite(filler):
            assert np.isfinite(grads).all()


@pytest.mark.parametrize("share", [0, 1])
def test_a_mask_of_nothing_or_of_all(share):
    x, mask, net = floats(4, 5, 3), np.full((4, 5), bool(share)), BatchNorm()
    params, state = affine(3), {"mean": jnp.arange(3.0), "var": jnp.arange(1.0, 4.0)}
    y, new = net.apply(params, x, mask, state=state, train=True)
    if share:
        expected, kept = net.apply(params, x, state=state, train=True)
    else:  # as an empty batch: normalised with the state, which stays
        expected, kept = net.apply(params, x, state=state)
        for name, array in state.items():
            np.testing.assert_array_equal(new[name], array)
    references.close(y, expected)
    for name, array in kept.items():
        references.close(new[name], array, what=name)
    grads = jax.grad(lambda x: net.apply(params, x, mask, state=state, train=True)[0].sum())(jnp.asarray(x))
    assert np.isfinite(grads).all()


def test_one_position_that_counts_gives_the_bias_there():
    x, mask, net = floats(2, 3, 3), np.zeros((2, 3), bool), BatchNorm()
    mask[1, 2] = True
    y, new = net.apply(affine(3), x, mask, state=net.init_state(x), train=True)
    np.testing.assert_allclose(y[1, 2], affine(3)["bias"], rtol=1e-6)
    np.testing.assert_allclose(new["var"], 0.9 * np.ones(3), rtol=1e-6)


def test_a_mask_changes_nothing_in_evaluation():
    x, net = floats(2, 3, 3), BatchNorm()
    params, state = affine(3), {"mean": jnp.arange(3.0), "var": jnp.arange(1.0, 4.0)}
    with_mask, kept = net.apply(params, x, bools(2, 3), state=state)
    np.testing.assert_array_equal(with_mask, net.apply(params, x, state=state)[0])
    assert kept is state


# Named axes


def shares(n, shape, *, masked):
    """A batch in n equal parts, (n, batch, ...), and a mask of it."""
    x = floats(n, *shape)
    mask = bools(n, *shape[:-1])
    mask[0] = False  # a device with nothing that counts
    return (x, mask) if masked else (x,)


def joined(net, masked, mapped, shape=(3, 2, 2), n=4):
    """Gradients, outputs and state of a mapped norm with a named axis, and of one device with the whole batch."""
    given = shares(n, shape, masked=masked)
    params, weight = affine(shape[-1]), floats(n, *shape, seed=5)
    whole = BatchNorm(net.momentum, unbiased=net.unbiased)
    state = whole.init_state(given[0][0])

    def one(params, state, weight, given):
        y, new = net.apply(params, *given, state=state, train=True)
        return y, new, (y * weight).sum()

    def alone(params, given):
        flat = [a.reshape(-1, *a.shape[2:]) for a in given]
        y, new = whole.apply(params, *flat, state=state, train=True)
        return (y.reshape(weight.shape) * weight).sum(), (y.reshape(weight.shape), new)

    def together(params, given):
        y, new, losses = mapped(one)(params, state, weight, given)
        return losses.sum(), (y, new)

    given = tuple(map(jnp.asarray, given))
    x, rest = given[0], given[1:]
    results = []
    for loss in (together, alone):
        run = jax.jit(jax.grad(lambda params, x, loss=loss: loss(params, (x, *rest)), (0, 1), has_aux=True))
        results.append(run(params, x))
    return results


def check_joined(ours, theirs, *, per_device):
    (grads, (y, new)), (whole_grads, (whole, whole_new)) = ours, theirs
    references.close(y, whole)
    for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(whole_grads), strict=True):
        references.close(one, other, 2e-5)
    for name, array in whole_new.items():
        for device in new[name] if per_device else [new[name]]:
            references.close(device, array, what=name)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("unbiased", [False, True])
def test_under_vmap_n_parts_are_one_batch(masked, unbiased):
    def mapped(function):
        return jax.vmap(function, in_axes=(None, None, 0, 0), axis_name="batch")

    net = BatchNorm(0.8, unbiased=unbiased, axis_name="batch")
    check_joined(*joined(net, masked, mapped), per_device=True)


@pytest.mark.parametrize("masked", [False, True])
def test_under_shard_map_n_devices_are_one(masked):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "more"))
    split, same = jax.P(("data", "more")), jax.P()

    def mapped(function):
        def local(params, state, weight, given):
            squeezed = jax.tree.map(lambda a: a[0], (weight, given))
            y, new, loss = function(params, state, *squeezed)
            return y[None], new, loss[None]

        return jax.shard_map(local, mesh=mesh, in_specs=(same, same, split, split), out_specs=(split, same, split))

    net = BatchNorm(axis_name=("data", "more"))
    check_joined(*joined(net, masked, mapped), per_device=False)


def test_gradients_taken_on_each_device_add_up_to_those_of_one():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    named = fn.Sequential(fn.Dense(3), BatchNorm(axis_name="data"), jnp.tanh)
    alone = fn.Sequential(fn.Dense(3), BatchNorm(), jnp.tanh)
    x, weight = floats(8, 2), floats(8, 3, seed=1)
    params, state = alone.init(KEY, x), alone.init_state(x)

    def gradients(net, params, x, weight):
        return jax.grad(lambda p: (net.apply(p, x, state=state, train=True)[0] * weight).sum())(params)

    def on_device(params, x, weight):  # of parameters that all devices hold, JAX adds up the gradients itself
        return gradients(named, params, x, weight)

    split = jax.shard_map(on_device, mesh=mesh, in_specs=(jax.P(), jax.P("data"), jax.P("data")), out_specs=jax.P())
    ours, whole = jax.jit(split)(params, x, weight), gradients(alone, params, x, weight)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(whole))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * scale)


def test_a_named_axis_matters_in_training_alone():
    net, x = BatchNorm(axis_name="batch"), floats(3, 2)
    params, state = affine(2), BatchNorm().init_state(x)
    np.testing.assert_array_equal(net.apply(params, x, state=state)[0], BatchNorm().apply(params, x, state=state)[0])
    text = (
        "BatchNorm with axis_name='batch' takes, in training, a call inside jax.vmap, jax.shard_map or jax.pmap over "
        "axes of these names, got one outside"
    )
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        net.apply(params, x, state=state, train=True)
    assert "Name the axis where the batch is mapped, or build it without" in str(caught.value)


def test_a_net_with_a_named_axis_is_planned_outside_of_any_map():
    @fn.compose(norm=BatchNorm(axis_name="batch"))
    def net(m, x):
        return m.norm(x) if m.train else m.norm(x) + 1  # reads the mode, so that training is planned too

    x = jax.ShapeDtypeStruct((3, 2), jnp.float32)
    assert net.init(KEY, x)["norm"]["scale"].shape == (2,)


# What it refuses


@pytest.mark.parametrize("axis_name", ["", (), ("batch", ""), 0, ("batch", 1)])
def test_it_refuses_an_axis_name_that_is_none(axis_name):
    text = (
        f"BatchNorm takes axis_name as the name of an axis, a tuple of names, or None, got {axis_name!r}. It is what "
        f'jax.vmap(f, axis_name="batch") or a mesh axis of jax.shard_map is called'
    )
    with pytest.raises(ValueError, match=re.escape(text)):
        BatchNorm(axis_name=axis_name)


@pytest.mark.parametrize(
    ("mask", "kind", "text"),
    [
        (
            jnp.ones((2, 3)),
            TypeError,
            "BatchNorm takes mask as an array of booleans, True where a position counts, got float32[2,3]. Compare "
            "first: lengths[:, None] > jnp.arange(n)[None]",
        ),
        (True, TypeError, "BatchNorm takes mask as an array of booleans, True where a position counts, got True."),
        (
            jnp.ones((2,), bool),
            ValueError,
            "BatchNorm takes a mask with the axes of x but the last, (2, 3) for float32[2,3,4], got bool[2]. Widen it "
            "first: jnp.broadcast_to(mask, x.shape[:-1])",
        ),
        (jnp.ones((2, 3, 1), bool), ValueError, "got bool[2,3,1]."),
    ],
)
@pytest.mark.parametrize("how", ["plan", "apply"])
def test_it_refuses_masks_before_arithmetic(mask, kind, text, how):
    x, net = jnp.ones((2, 3, 4)), BatchNorm()
    with pytest.raises(kind, match=re.escape(text)):
        if how == "plan":
            net.plan(x, mask)
        else:
            net.apply(net.init(KEY, x), x, mask, state=net.init_state(x), train=True)


def test_a_frozen_norm_trains_with_the_statistics_that_it_has():
    net = fn.Sequential(fn.BatchNorm(), fn.Dense(2))
    x = jax.random.normal(jax.random.key(3), (8, 3)) * 2 + 1
    params, state = net.init(jax.random.key(0), x), net.init_state(x)
    _, state = net.apply(params, x, state=state, train=True)
    frozen = fn.rewrite.replace(net, {fn.BatchNorm: {"frozen": True}})
    trained, kept = frozen.apply(params, x, state=state, train=True)
    wanted, _ = net.apply(params, x, state=state)
    np.testing.assert_array_equal(trained, wanted)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), kept, state))
