from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.layers.quantization import VectorQuantizer

KEY = jax.random.key(0)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def brute_force(table, x):
    """Nearest codes one by one in float64: the quantised and what is found."""
    table, x = np.asarray(table, np.float64), np.asarray(x, np.float64)
    indices = np.zeros(x.shape[:-1], np.int32)
    for at in np.ndindex(indices.shape):
        distances = [((x[at] - code) ** 2).sum() for code in table]
        indices[at] = distances.index(min(distances))
    y = table[indices]
    share = np.bincount(indices.ravel(), minlength=len(table)) / max(indices.size, 1)
    loss = ((x - y) ** 2).mean()
    perplexity = np.exp(-sum(s * np.log(s) for s in share if s > 0))
    return y, {"indices": indices, "commitment": loss, "codebook": loss, "perplexity": perplexity}


def close(ours, theirs, tolerance=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", [(3,), (7, 3), (2, 5, 3)])
def test_codes_and_losses_are_those_of_a_search(shape):
    layer, table, x = VectorQuantizer(6, decay=None), floats(6, 3, seed=1), floats(*shape)
    y, found = jax.jit(layer.apply)({"table": table}, x)
    close((y, found), brute_force(table, x))
    assert (y == table[found["indices"]]).all()  # to the bit
    assert found["indices"].dtype == jnp.int32


def test_a_running_codebook_follows_the_batches_in_training():
    layer = VectorQuantizer(4, decay=0.9, epsilon=1e-2)
    state = layer.init_state(floats(10, 3))
    counts, sums = np.ones(4), np.asarray(state["sums"], np.float64)
    apply = jax.jit(layer.apply, static_argnames="train")
    for step in range(6):
        x = floats(10, 3, seed=step) + step
        table = sums / ((counts + 1e-2) / (counts.sum() + 4 * 1e-2) * counts.sum())[:, None]
        close(layer.codebook(state), table)
        y, found = brute_force(table, x)
        del found["codebook"]
        evaluated, kept = apply({}, x, state=state)
        close(kept, state, 0)
        result, state = apply({}, x, state=state, train=True)
        close(evaluated, (y, found))
        close(result, (y, found))
        for code in range(4):
            mine = x[found["indices"] == code].astype(np.float64)
            counts[code] = 0.9 * counts[code] + 0.1 * len(mine)
            sums[code] = 0.9 * sums[code] + 0.1 * mine.sum(0)
        close(state, {"counts": counts, "sums": sums})


def test_an_empty_batch_leaves_the_state():
    layer, x = VectorQuantizer(4), floats(10, 3)
    state = layer.init_state(x)
    _, kept = layer.apply({}, x[:0], state=state, train=True)
    close(kept, state, 0)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_gradients_go_straight_through_and_each_loss_teaches_its_own_side(decay):
    layer, x, weight = VectorQuantizer(6, decay=decay), floats(7, 3), floats(7, 3, seed=2)
    state = layer.init_state(x)
    params = layer.init(KEY, x)

    @jax.jit
    def gradients(params, x, through, commitment, codebook):
        def loss(params, x):
            (y, found), _ = layer.apply(params, x, state=state, train=True)
            return (
                through * jnp.vdot(y, weight)
                + commitment * found["commitment"]
                + codebook * found.get("codebook", jnp.zeros(()))
                + found["perplexity"]
            )

        return jax.grad(loss, (0, 1))(params, x)

    table = np.asarray(layer.codebook(state if decay else params))
    y, found = brute_force(table, x)
    of_params, of_x = gradients(params, x, 1.0, 0.0, 0.0)
    close(of_x, weight)
    assert all((g == 0).all() for g in jax.tree.leaves(of_params))
    of_params, of_x = gradients(params, x, 0.0, 1.0, 0.0)
    close(of_x, 2 * (x - y) / x.size)
    assert all((g == 0).all() for g in jax.tree.leaves(of_params))
    of_params, of_x = gradients(params, x, 0.0, 0.0, 1.0)
    assert (of_x == 0).all()
    if decay is None:
        wanted = np.zeros((6, 3))
        np.add.at(wanted, found["indices"], 2 * (y - x) / x.size)
        close(of_params["table"], wanted)


def test_ties_go_to_the_lowest_index():
    table = np.float32([[2, 0], [0, 1], [0, -1], [0, 1], [1, 0]])
    x = np.float32([[0, 0], [0, 1], [-9, 0], [1.5, 0]])
    indices = VectorQuantizer(5, decay=None).apply({"table": table}, x)[1]["indices"]
    assert indices.tolist() == [1, 1, 1, 0]


def test_far_from_the_origin_the_nearest_is_still_found():
    table, x = floats(8, 3, seed=1) + np.float32(1000), floats(50, 3) + np.float32(1000)
    indices = VectorQuantizer(8, decay=None).apply({"table": table}, x)[1]["indices"]
    assert (indices == brute_force(table, x)[1]["indices"]).all()


def test_an_empty_batch_has_no_losses():
    for layer in (VectorQuantizer(4), VectorQuantizer(4, decay=None)):
        x = np.zeros((0, 3), np.float32)
        (y, found), _ = layer.apply(layer.init(KEY, x), x, state=layer.init_state(x), train=True)
        assert y.shape == (0, 3) and found["indices"].shape == (0,)
        assert found["commitment"] == 0 and found.get("codebook", 0) == 0 and found["perplexity"] == 1


def test_a_bad_example_spoils_itself_alone():
    layer, x = VectorQuantizer(4, decay=None), floats(3, 3)
    params = layer.init(KEY, x)
    clean, _ = layer.apply(params, x)
    x[1] = np.nan
    y, _ = layer.apply(params, x)
    assert np.isnan(y[1]).all() and (y[0] == clean[0]).all() and (y[2] == clean[2]).all()


def test_bfloat16_searches_in_float32():
    layer, x = VectorQuantizer(6, decay=None), jnp.asarray(floats(7, 3), jnp.bfloat16)
    params = layer.init(KEY, x)
    y, found = layer.apply(params, x)
    wanted, same = brute_force(params["table"], x.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16 and found["commitment"].dtype == jnp.float32
    close(found, same)
    assert (y == jnp.asarray(wanted, jnp.bfloat16)).all()


def test_unused_codes_stay_finite():
    layer, x = VectorQuantizer(3, decay=0.0), floats(5, 2)
    _, state = layer.apply({}, jnp.zeros((5, 2)), state=layer.init_state(x), train=True)
    assert sorted(state["counts"].tolist()) == [0, 0, 5]
    assert np.isfinite(layer.codebook(state)).all()


def test_copies_and_recomputation():
    x = floats(7, 3)
    for net in (fn.Ensemble(VectorQuantizer(4), 2), fn.Remat(VectorQuantizer(4, decay=None))):
        params, state = net.init(KEY, x), net.init_state(x)

        def loss(params, x, net=net, state=state):
            (y, found), new = net.apply(params, x, state=state, train=True)
            return jnp.sum(y) + jnp.sum(found["commitment"]), new

        gradient, new = jax.jit(jax.grad(loss, 1, has_aux=True))(params, x)
        assert np.isfinite(gradient).all()
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)


def test_arrays_have_the_stated_shapes():
    plan = VectorQuantizer(400).plan(jnp.ones((2, 3)))
    assert plan.params == {} and plan.states["sums"].shape == (400, 3) and plan.states["counts"].shape == (400,)
    plan = VectorQuantizer(400, decay=None).plan(jnp.ones((2, 3)))
    assert plan.params["table"].shape == (400, 3) and plan.states == {}
    assert VectorQuantizer(400).init_state(jnp.ones((2, 3)))["sums"].var() == pytest.approx(1 / 3, rel=0.1)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: VectorQuantizer(0),
            "VectorQuantizer takes codes as a whole number, at least 1, got 0. It is the size",
        ),
        (
            lambda: VectorQuantizer(4, decay=1.0),
            "VectorQuantizer takes decay as the weight of the old counts and sums, in [0, 1), or as None, got 1.0. "
            "None is for a codebook learned by gradients",
        ),
        (lambda: VectorQuantizer(4, decay=True), "or as None, got True. None is for a codebook learned by gradients"),
        (
            lambda: VectorQuantizer(4, epsilon=0.0),
            "VectorQuantizer takes epsilon as a number above 0, below 1, got 0.0.",
        ),
        (lambda: VectorQuantizer(4, epsilon=-1), "VectorQuantizer takes epsilon as a number above 0, below 1, got -1."),
    ],
)
def test_it_refuses_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("x", "kind", "text"),
    [
        (jnp.ones(()), ValueError, "VectorQuantizer takes (..., features), got float32[]. Add the missing axis first"),
        (jnp.ones(3, jnp.int32), TypeError, "VectorQuantizer takes floating numbers (..., features), got int32[3]."),
    ],
)
@pytest.mark.parametrize("decay", [None, 0.9])
def test_it_refuses_inputs_before_arithmetic(x, kind, text, decay):
    with pytest.raises(kind, match=re.escape(text)):
        VectorQuantizer(4, decay=decay).plan(x)
