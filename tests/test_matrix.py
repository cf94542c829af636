"""Every kind of layer in every wrapper, alone and beside a stateful sibling, plainly and inside raw transforms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import floats

import funcnets as fn

KEY, RUN = jax.random.key(0), jax.random.key(1)
X = jnp.asarray(floats(4, 3))


@fn.compose(dense=fn.Dense(3))
def composite(m, x):
    return jnp.tanh(m.dense(x))


LAYERS = {
    "leaf": fn.Dense(3),
    "norm": fn.BatchNorm(),
    "dropout": fn.Dropout(0.5),
    "composite": composite,
    "function": jnp.tanh,
    "all": fn.Sequential(fn.Dense(3), fn.BatchNorm(), fn.Dropout(0.5)),
}
WRAPPERS = {
    "bare": lambda layer: fn.Sequential(("it", layer)),
    "remat": fn.Remat,
    "repeat": lambda layer: fn.Repeat(layer, 2),
    "loop": lambda layer: fn.Repeat(layer, 2, scan=False),
    "shared": lambda layer: fn.Repeat(layer, 2, shared=True),
    "ensemble": lambda layer: fn.Sequential(fn.Ensemble(layer, 2), lambda y: y.sum(0)),
    "scan": lambda layer: fn.Sequential(lambda x: (x, x[:, None]), _scan(layer)),
    "nested": lambda layer: fn.Repeat(fn.Remat(fn.Repeat(layer, 2)), 2),
    "cast": lambda layer: fn.Cast(layer, "float32"),
    "freeze": fn.Freeze,
}
TRANSFORMS = {
    "none": lambda f, x: f(x),
    "jit": lambda f, x: jax.jit(f)(x),
    "checkpoint": lambda f, x: jax.checkpoint(f)(x),
    "cond": lambda f, x: jax.lax.cond(x[0, 0] < 1e9, f, lambda x: x, x),
    "scan": lambda f, x: jax.lax.scan(lambda c, _: (f(c), None), x, length=1)[0],
    "vmap": lambda f, x: jax.vmap(f)(x[None])[0],
    "grad": lambda f, x: jax.grad(lambda x: f(x).sum())(x),
}


@fn.compose(inner=fn.Identity())
def scan_cell(m, carry, x):
    return m.inner(carry), x


def _scan(layer):
    scanned = fn.Scan(fn.compose(inner=layer)(scan_cell))
    return fn.compose(scanned=scanned)(first_of_scan)


def first_of_scan(m, pair):
    return m.scanned(*pair)[0]


def in_transform(m, x, name):
    return m.out(TRANSFORMS[name](m.it, x))


def build(layer, wrapper, sibling):
    # The sibling makes the pass carry state that the layer may know nothing of.
    out = fn.BatchNorm() if sibling else fn.Identity()
    return fn.compose(it=WRAPPERS[wrapper](LAYERS[layer]), out=out)(in_transform)


@pytest.mark.parametrize("sibling", [False, True], ids=["alone", "sibling"])
@pytest.mark.parametrize(("layer", "wrapper"), list(itertools.product(LAYERS, WRAPPERS)))
def test_every_layer_in_every_wrapper(layer, wrapper, sibling):
    net = build(layer, wrapper, sibling)
    params, state = net.init(KEY, X, "none"), net.init_state(X, "none")
    plain, _ = net.apply(params, X, "none", state=state)
    # Evaluation changes no state and draws nothing, with a key and without, wherever it is called.
    for transform, key in (("none", None), ("scan", None), ("checkpoint", RUN), ("vmap", RUN)):
        y, kept = net.apply(params, X, transform, state=state, key=key)
        np.testing.assert_allclose(y, plain, rtol=1e-5, atol=1e-5)
        assert jax.tree.structure(kept) == jax.tree.structure(state)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, kept, state))
    jaxpr = str(jax.make_jaxpr(lambda p: net.apply(p, X, "none", state=state, key=RUN)[0])(params))
    assert "random" not in jaxpr


@pytest.mark.parametrize("transform", ["none", "scan", "vmap", "grad"])
@pytest.mark.parametrize(("layer", "wrapper"), list(itertools.product(["composite", "norm", "all"], WRAPPERS)))
def test_training_inside_raw_transforms(layer, wrapper, transform):
    net = build(layer, wrapper, False)
    params, state = net.init(KEY, X, "none"), net.init_state(X, "none")
    draws, carries = layer in ("dropout", "all"), layer in ("norm", "all")

    def run():
        return net.apply(params, X, transform, state=state, key=RUN, train=True)

    if transform == "none" or not (draws or carries):
        y, new = run()
        again, _ = run()
        np.testing.assert_array_equal(y, again)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        if carries:
            assert not jax.tree.all(jax.tree.map(jnp.array_equal, new, state))
        if not draws:
            jaxpr = str(jax.make_jaxpr(lambda p: net.apply(p, X, transform, state=state, key=RUN, train=True))(params))
            assert "random" not in jaxpr
    else:
        with pytest.raises(RuntimeError, match="inside a raw JAX transform"):
            run()


def test_a_net_without_state_takes_an_empty_one():
    for wrapper in WRAPPERS:
        net = WRAPPERS[wrapper](LAYERS["leaf"])
        assert net.apply(net.init(KEY, X), X, state={})[1] == {}
