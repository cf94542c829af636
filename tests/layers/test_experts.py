from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.layers.experts import MixtureOfExperts

KEY = jax.random.key(0)


def made(layer, *shape, seed=0):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return jax.tree.map(lambda a: 3 * a, layer.init(KEY, x)), x


def loop(layer, params, x, mask=None):
    """Token by token in float64: output and losses."""
    p = {name: np.asarray(array, np.float64) for name, array in params.items()}
    activation = {jax.nn.silu: lambda h: h / (1 + np.exp(-h)), jnp.tanh: np.tanh}[layer.activation]
    tokens = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    counts = np.ones(len(tokens), bool) if mask is None else mask.reshape(-1)
    y, share, mean, squares = np.zeros_like(tokens), np.zeros(layer.experts), np.zeros(layer.experts), 0.0
    for t, token in enumerate(tokens):
        logits = token @ p["router"]
        probability = np.exp(logits) / np.exp(logits).sum()
        chosen = np.argsort(-logits)[: layer.top_k]
        weights = probability[chosen] / (probability[chosen].sum() if layer.renormalize else 1)
        for e, weight in zip(chosen, weights, strict=True):
            up = token @ p["up"][e]
            hidden = activation(token @ p["gate"][e]) * up if layer.gated else activation(up)
            y[t] += weight * (hidden @ p["down"][e])
        if counts[t]:
            share[chosen] += 1 / layer.top_k
            mean += probability
            squares += np.log(np.exp(logits).sum()) ** 2
    total = max(counts.sum(), 1)
    losses = {"load_balancing": layer.experts * (share / total) @ (mean / total), "z": squares / total}
    return y.reshape(x.shape), losses


def dense(layer, p, x):
    """All experts for all tokens, with weight 0 where one was not chosen."""
    logits = x @ p["router"]
    chosen = jax.nn.one_hot(jax.lax.top_k(logits, layer.top_k)[1], layer.experts).sum(-2)  # (..., experts)
    weights = jax.nn.softmax(logits) * chosen
    weights = weights / weights.sum(-1, keepdims=True) if layer.renormalize else weights
    up = jnp.einsum("...d,edh->...eh", x, p["up"])
    gate = jnp.einsum("...d,edh->...eh", x, p["gate"]) if layer.gated else up
    hidden = layer.activation(gate) * (up if layer.gated else 1)
    y = jnp.einsum("...eh,ehd,...e->...d", hidden, p["down"], weights)
    share = jax.lax.stop_gradient(chosen.reshape(-1, layer.experts).mean(0) / layer.top_k)
    load = layer.experts * jnp.vdot(share, jax.nn.softmax(logits).reshape(-1, layer.experts).mean(0))
    return y, {"load_balancing": load, "z": jnp.square(jax.nn.logsumexp(logits, axis=-1)).mean()}


def close(ours, theirs, tolerance=1e-5):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(float(np.abs(b).max()), 1e-30))


LAYERS = [
    MixtureOfExperts(4, 5),
    MixtureOfExperts(4, 5, impl="ragged"),
    MixtureOfExperts(3, 2, top_k=1, renormalize=False, gated=False),
    MixtureOfExperts(5, 3, top_k=3, renormalize=False, activation=jnp.tanh),
    MixtureOfExperts(2, 3, activation=jnp.tanh, gated=False, impl="ragged"),
    MixtureOfExperts(1, 3, top_k=1),
]
each_layer = pytest.mark.parametrize("layer", LAYERS, ids=repr)


@each_layer
def test_output_and_losses_are_those_of_a_loop_over_tokens(layer):
    params, x = made(layer, 2, 7, 3)
    apply = jax.jit(layer.apply)
    for mask in [np.ones((2, 7), bool), np.arange(14).reshape(2, 7) % 3 > 0]:
        close(apply(params, x, mask), loop(layer, params, x, mask))


def test_one_token_is_taken_as_it_is():
    params, x = made(LAYERS[0], 3)
    close(jax.jit(LAYERS[0].apply)(params, x), loop(LAYERS[0], params, x))


@each_layer
def test_gradients_are_those_of_all_experts_computed(layer):
    params, x = made(layer, 9, 3)
    weight = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)

    def gradients(apply):
        def loss(params, x):
            y, losses = apply(params, x)
            return jnp.vdot(y, weight) + 0.3 * losses["load_balancing"] + 0.2 * losses["z"]

        return jax.jit(jax.grad(loss, (0, 1)))(params, x)

    close(gradients(layer.apply), gradients(lambda p, x: dense(layer, p, x)))


@pytest.mark.parametrize("impl", ["blocks", "ragged"])
def test_every_token_is_served_however_they_fall(impl):
    rng = np.random.default_rng(0)
    for experts, tokens, top_k in [(2, 1, 2), (8, 3, 2), (4, 13, 1), (3, 8, 2), (5, 21, 3)]:
        layer = MixtureOfExperts(experts, 2, top_k, impl=impl, gated=False, renormalize=top_k > 1)
        params, x = made(layer, tokens, 3)
        apply = jax.jit(layer.apply)
        x[:, 0] = 1  # the first row of the router is a bias
        for _ in range(6):
            skew = rng.normal(size=experts) * rng.choice([0, 3, 100])
            skewed = {**params, "router": params["router"].at[0].set(skew.astype(np.float32))}
            close(apply(skewed, x)[0], loop(layer, skewed, x)[0])


def test_the_losses_at_perfect_balance_and_at_none():
    layer = MixtureOfExperts(3, 2, top_k=1, renormalize=False)
    params, _ = made(layer, 3, 3)
    params, eye, apply = (
        {**params, "router": 100 * np.eye(3, dtype=np.float32)},
        np.eye(3, dtype=np.float32),
        jax.jit(layer.apply),
    )
    balanced = apply(params, eye)[1]
    assert balanced["load_balancing"] == pytest.approx(1)
    assert balanced["z"] == pytest.approx(100**2)
    gathered = apply(params, eye[[0, 0, 0]])[1]
    assert gathered["load_balancing"] == pytest.approx(3)


def test_no_tokens_and_no_counted_tokens_have_no_loss():
    layer = MixtureOfExperts(4, 5)
    params, x = made(layer, 2, 3)

    def total(params, x, mask=None):
        y, losses = layer.apply(params, x, mask)
        return y.sum() + losses["load_balancing"] + losses["z"], losses

    for inputs in [(x[:0],), (x, np.zeros(2, bool)), (np.zeros((2, 0, 3), np.float32),)]:
        gradients, losses = jax.jit(jax.grad(total, has_aux=True))(params, *inputs)
        assert losses == {"load_balancing": 0, "z": 0}
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_the_router_learns_from_a_single_choice():
    layer = MixtureOfExperts(3, 2, top_k=1, renormalize=False)
    params, x = made(layer, 5, 3)
    assert jnp.abs(jax.jit(jax.grad(lambda p: layer.apply(p, x)[0].sum()))(params)["router"]).max() > 1e-3


def test_bfloat16_routes_in_float32():
    layer = MixtureOfExperts(4, 5)
    params, x = made(layer, 6, 3)
    apply = jax.jit(layer.apply)
    y, losses = apply(params, jnp.asarray(x, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    exact, wanted = apply(params, jnp.asarray(x, jnp.bfloat16).astype(jnp.float32))
    close(losses, wanted, 1e-6)  # the losses are the router's alone
    close(y.astype(jnp.float32), exact, 3e-2)
    assert {a.dtype for a in losses.values()} == {jnp.dtype("float32")}


def test_batch_mates_change_nothing():
    layer = MixtureOfExperts(4, 5)
    params, x = made(layer, 6, 3)
    mates = np.full_like(x, np.nan)
    mates[0] = x[0]
    close(layer.apply(params, mates)[0][0], layer.apply(params, x)[0][0])


@fn.compose(moe=MixtureOfExperts(3, 4))
def block(m, x, loss):
    y, losses = m.moe(x)
    return x + y, loss + losses["load_balancing"]


@fn.compose(block=block)
def carrying(m, carried):
    return m.block(*carried)


@pytest.mark.parametrize("net", [fn.Repeat(carrying, 2), fn.Remat(carrying), fn.Ensemble(carrying, 2)], ids=repr)
def test_in_wrappers_and_under_vmap_of_a_gradient(net):
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    params = net.init(KEY, (x[0], jnp.zeros(())))

    def loss(params, x):
        y, losses = net.apply(params, (x, jnp.zeros(())))
        return jnp.sum(y**2) + losses.sum()

    gradient = jax.jit(jax.grad(loss))
    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, x)
    close(each, jax.tree.map(lambda *g: np.stack(g), *(gradient(params, one) for one in x)))


def test_the_carried_loss_is_the_sum_over_copies():
    net = fn.Repeat(carrying, 2)
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    params = net.init(KEY, (x, jnp.zeros(())))
    y, total = x, 0.0
    for i in range(2):
        own = jax.tree.map(lambda a: a[i], params)["block"]["moe"]  # noqa: B023
        out, losses = loop(block["moe"], own, y)
        y, total = y + out, total + losses["load_balancing"]
    close(net.apply(params, (x, jnp.zeros(()))), (y, np.asarray(total)))


def test_params_have_the_stated_shapes_and_fans():
    shapes = MixtureOfExperts(400, 3).plan(jnp.ones((2, 5))).params
    assert {name: a.shape for name, a in shapes.items()} == {
        "router": (5, 400),
        "gate": (400, 5, 3),
        "up": (400, 5, 3),
        "down": (400, 3, 5),
    }
    assert list(MixtureOfExperts(4, 3, gated=False).plan(jnp.ones((2, 5))).params) == ["router", "up", "down"]
    params = MixtureOfExperts(400, 3).init(KEY, jnp.ones((2, 5)))
    assert params["up"].var() == pytest.approx(1 / 5, rel=0.1)  # the fan of one expert
    assert params["down"].var() == pytest.approx(1 / 3, rel=0.1)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"experts": 0},
            "MixtureOfExperts takes experts as a whole number, at least 1, got 0. Write Mix",
        ),
        (
            {"hidden": 2.5},
            "MixtureOfExperts takes hidden as a whole number, at least 1, got 2.5. It is the width",
        ),
        ({"top_k": 0}, "MixtureOfExperts takes top_k as a whole number, at least 1, got 0. It is how many experts a"),
        ({"top_k": 5}, "MixtureOfExperts takes top_k as at most its 4 experts, got 5. Take fewer, or make more"),
        ({"activation": "silu"}, "MixtureOfExperts takes activation as a function of one array, got 'silu'. Write act"),
        ({"activation": fn.Dense(3)}, "MixtureOfExperts takes activation as a function of one array, got Dense(3)."),
        ({"gated": 1}, "MixtureOfExperts takes gated as True or False, got 1. Write gated=False for"),
        ({"renormalize": None}, "MixtureOfExperts takes renormalize as True or False, got None. Write renormalize="),
        (
            {"top_k": 1},
            "MixtureOfExperts takes renormalize as False with top_k=1, got True. The weight of a single choice over "
            "itself is 1, and the router would learn nothing from it",
        ),
        ({"impl": "dense"}, "MixtureOfExperts takes impl as 'blocks' or 'ragged', got 'dense'. Leave it out where"),
    ],
)
def test_it_refuses_fields_when_built(fields, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        MixtureOfExperts(**{"experts": 4, "hidden": 5, **fields})


@pytest.mark.parametrize(
    ("inputs", "kind", "text"),
    [
        ((jnp.ones(()),), ValueError, "MixtureOfExperts takes (..., in), got float32[]. Add the missing axis first"),
        ((jnp.ones(3, jnp.int32),), TypeError, "MixtureOfExperts takes floating numbers (..., in), got int32[3]."),
        (
            (jnp.ones((2, 3)), jnp.ones(2)),
            TypeError,
            "MixtureOfExperts takes mask as booleans, got float32[2]. Compare first: ids != padding",
        ),
        (
            (jnp.ones((2, 3)), jnp.ones(3, bool)),
            ValueError,
            "MixtureOfExperts takes mask as bool[2] beside float32[2,3], got bool[3]. Broadcast it first: "
            "jnp.broadcast_to(mask, (2,))",
        ),
    ],
)
def test_it_refuses_inputs_before_arithmetic(inputs, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        MixtureOfExperts(4, 5).plan(*inputs)
