"""Parameters as functions of other arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

import funcnets as fn

KEY, RUN = jax.random.key(0), jax.random.key(1)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32))


def output_last(weight):
    """PyTorch's (out, in, *window) as our (*window, in, out)."""
    return np.moveaxis(weight, (0, 1), (-1, -2))


@references.each("parametrizations", "weight_norm")
def test_weight_norm_is_that_of_torch(case):
    conv = case.name.endswith("conv")
    layer = fn.Conv(3, (3, 2), padding="VALID") if conv else fn.Dense(3)
    net = fn.Parametrized(layer, kernel=fn.WeightNorm(**case.options))
    lengths = () if "axis" in case.options else (3,)

    def ours(theirs):
        kernel = {
            "direction": output_last(theirs["parametrizations.weight.original1"]),
            "scale": theirs["parametrizations.weight.original0"].reshape(lengths),
        }
        return {"kernel": kernel, "bias": theirs["bias"]}

    last = references.channels_last if conv else references.same
    case.check(net.apply, ours, to_input=last, to_output=last)


@references.each("parametrizations", "spectral_norm")
def test_spectral_norm_is_that_of_torch_over_several_calls(case):
    conv = case.name.endswith("conv")
    layer = fn.Conv(3, 3, padding="VALID") if conv else fn.Dense(3)
    net = fn.Parametrized(layer, kernel=fn.SpectralNorm(case.options["iterations"]))
    prefix = "layer.parametrizations.weight"

    def state_of(buffers):
        v = buffers[f"{prefix}.0._v"]
        v = v.reshape(2, 3).T.ravel() if conv else v  # (in, window) there, (window, in) here
        return {"kernel": {"u": buffers[f"{prefix}.0._u"], "v": v}}

    def thrice(params, x):
        state, outputs = jax.tree.map(jnp.asarray, state_of(case.buffers)), []
        for _ in range(3):
            y, state = net.apply(params, x, state=state, train=case.options["train"])
            outputs.append(y)
        return outputs

    def ours(theirs):
        return {"kernel": {"weight": output_last(theirs[f"{prefix}.original"])}, "bias": theirs["layer.bias"]}

    last = references.channels_last if conv else references.same
    case.check(thrice, ours, to_input=last, to_output=last)
    x, params = jnp.asarray(last(case.inputs[0])), jax.tree.map(jnp.asarray, ours(case.params))
    state = jax.tree.map(jnp.asarray, state_of(case.buffers))
    for _ in range(3):
        _, state = net.apply(params, x, state=state, train=case.options["train"])
    for name, wanted in state_of(case.after)["kernel"].items():
        references.close(state["kernel"][name], wanted)


BLOCK = fn.Residual(fn.Sequential(fn.LayerNorm(), fn.Dense(4), fn.Dropout(0.2)))
NET = fn.Sequential(fn.Repeat(fn.Remat(BLOCK), 3), fn.Cast(fn.Dense(4), "float32"), ("head", fn.Dense(2)))


def test_by_path_anywhere_in_a_net_and_baked_in_again():
    by = {
        "**/dense_0/kernel": fn.SpectralNorm(),
        "head/kernel": fn.WeightNorm(axis=None),
        "**/layer_norm_0/scale": Square(),
    }
    net = fn.parametrize(NET, by, X)
    assert net["head"] == fn.Parametrized(fn.Dense(2), kernel=fn.WeightNorm(axis=None))
    params, state = net.init(KEY, X), net.init_state(X)
    assert params["sequential_0"]["dense_0"]["kernel"]["weight"].shape == (3, 4, 4)
    assert state["sequential_0"]["dense_0"]["kernel"]["u"].shape == (3, 4)
    y, state = jax.jit(net.apply, static_argnames="train")(params, X, state=state, key=RUN, train=True)
    assert jnp.isfinite(y).all()
    y, same = net.apply(params, X, state=state)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), state, same))
    plain, baked, left = fn.bake(net, params, X, state=state)
    assert plain == NET
    assert left == {}
    np.testing.assert_allclose(plain.apply(baked, X), y, rtol=1e-5, atol=1e-6)


def test_a_net_starts_out_as_it_would_without():
    by = {"**/kernel": fn.WeightNorm(), "**/layer_norm_0/scale": Square()}
    net = fn.parametrize(NET, by, X)
    params = net.init(KEY, X)
    np.testing.assert_allclose(net.apply(params, X), NET.apply(NET.init(KEY, X), X), rtol=1e-5, atol=1e-6)
    plain, baked = fn.bake(net, params, X)
    for (path, a), b in zip(jax.tree.leaves_with_path(baked), jax.tree.leaves(plain.init(KEY, X)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=jax.tree_util.keystr(path))


class Square(fn.Parametrization):
    def decompose(self, w):
        return {"root": jnp.sqrt(w)}

    def forward(self, p, w):
        return jnp.square(p["root"])


class DropConnect(fn.Parametrization):
    """A parametrisation with randomness."""

    rate: float

    def decompose(self, w):
        return {"weight": w}

    def forward(self, p, w, *, key, train):
        return jnp.where(jax.random.bernoulli(key, self.rate, w.shape), 0.0, p["weight"]) if train else p["weight"]


def test_a_parametrisation_may_be_random():
    net = fn.Sequential(fn.Parametrized(fn.Dense(3), kernel=DropConnect(0.5)))
    params = net.init(KEY, X)
    plain = fn.Sequential(fn.Dense(3))
    np.testing.assert_array_equal(net.apply(params, X), plain.apply(plain.init(KEY, X), X))
    noisy = net.apply(params, X, key=RUN, train=True)
    np.testing.assert_array_equal(noisy, net.apply(params, X, key=RUN, train=True))
    assert (noisy != net.apply(params, X, key=jax.random.key(2), train=True)).any()
    with pytest.raises(ValueError, match="dense_0/kernel: DropConnect.* needs a key"):
        net.apply(params, X, train=True)


def test_the_singular_value_is_found():
    net = fn.Parametrized(fn.Dense(3), kernel=fn.SpectralNorm(iterations=100))
    params, state = net.init(KEY, X), net.init_state(X)
    _, state = net.apply(params, X, state=state, train=True)
    _, baked, _ = fn.bake(net, params, X, state=state)
    np.testing.assert_allclose(np.linalg.norm(baked["kernel"], 2), 1, rtol=1e-5)


def test_what_cannot_be():
    with pytest.raises(TypeError, match=r"Parametrized takes one layer .* got Sequential\(\).*fn.parametrize"):
        fn.Parametrized(fn.Sequential(), kernel=fn.WeightNorm())
    with pytest.raises(TypeError, match=r"takes parametrisations by name, got kernel=Dense\(2\)"):
        fn.Parametrized(fn.Dense(3), kernel=fn.Dense(2))
    with pytest.raises(ValueError, match=r"Dense\(3\).* has no parameter 'kernl' \(did you mean 'kernel'\?\); it has"):
        fn.Parametrized(fn.Dense(3), kernl=fn.WeightNorm()).init(KEY, X)
    with pytest.raises(ValueError, match=r"'\*\*/kernl' matches no parameter"):
        fn.parametrize(NET, {"**/kernl": fn.WeightNorm()}, X)
    with pytest.raises(
        ValueError, match=r"WeightNorm\(axis=2\) takes a parameter that has an axis 2, got float32\[4,3\]"
    ):
        fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm(axis=2)).init(KEY, X)
    with pytest.raises(ValueError, match="SpectralNorm takes iterations as a whole number, at least 1, got 0"):
        fn.SpectralNorm(0)
    net = fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm())
    with pytest.raises(ValueError, match=r"reshaped  kernel  expected \{'direction'.*got float32\[4,3\]"):
        net.apply(fn.Dense(3).init(KEY, X), X)
    stateful = fn.Parametrized(fn.Dense(3), kernel=fn.SpectralNorm())
    with pytest.raises(ValueError, match="kernel: SpectralNorm.* carries state, and none was given"):
        stateful.apply(stateful.init(KEY, X), X)
    with pytest.raises(NotImplementedError, match="has no decompose"):
        fn.Parametrized(fn.Dense(3), kernel=fn.Parametrization()).init(KEY, X)


def test_one_after_the_other_is_both_at_once():
    first = fn.parametrize(NET, {"head/kernel": fn.WeightNorm()}, X)
    both = fn.parametrize(first, {"head/bias": Shifted()}, X)
    assert both["head"] == fn.Parametrized(fn.Dense(2), kernel=fn.WeightNorm(), bias=Shifted())
    with pytest.raises(ValueError, match="has a parametrised 'kernel' already"):
        fn.Parametrized(first["head"], kernel=fn.WeightNorm())


class Shifted(fn.Parametrization):
    def decompose(self, w):
        return {"shifted": w - 1}

    def forward(self, p, w):
        return p["shifted"] + 1


def test_weight_norm_in_low_precision_starts_with_the_right_lengths():
    net = fn.Cast(fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm()), "bfloat16", param_dtype="bfloat16")
    kernel = net.init(KEY, jnp.ones((1, 4096)))["kernel"]
    wanted = np.linalg.norm(np.asarray(kernel["direction"], np.float32), axis=0)
    np.testing.assert_allclose(np.asarray(kernel["scale"], np.float32), wanted, rtol=1e-2)


class Nested(fn.Parametrization):
    def decompose(self, w):
        return {"a": {"b": w}}


class Turned(fn.Parametrization):
    def decompose(self, w):
        return {"w": w}

    def forward(self, p, w):
        return p["w"].T


def test_parametrisations_that_cannot_be():
    with pytest.raises(TypeError, match=r"Nested\(\).decompose returns .*: it takes a parameter apart into a dict"):
        fn.Parametrized(fn.Dense(3), kernel=Nested()).init(KEY, X)
    with pytest.raises(
        ValueError, match=r"Turned\(\) gives float32\[3,4\] for the parameter 'kernel', which is float32\[4,3"
    ):
        fn.Parametrized(fn.Dense(3), kernel=Turned()).init(KEY, X)
    with pytest.raises(ValueError, match=r"SpectralNorm\(axis=2\) takes a parameter that has an axis 2"):
        fn.Parametrized(fn.Dense(3), kernel=fn.SpectralNorm(axis=2)).init(KEY, X)
    with pytest.raises(ValueError, match="WeightNorm takes axis as a whole number or None, got 'last'"):
        fn.WeightNorm(axis="last")
    tied = fn.tie(fn.Sequential(("a", fn.Dense(4)), ("b", fn.Dense(4))), "b/kernel", to="a/kernel")
    with pytest.raises(ValueError, match="tie: 'a/kernel' is no single array but"):
        fn.parametrize(tied, {"a/kernel": fn.WeightNorm()}, X).init(KEY, X)
    shared = fn.Sequential(("embed", fn.Embedding(7, 3)), jnp.tanh, ("embed", fn.Unembed()))
    with pytest.raises(ValueError, match=r"embed: Embedding\(7, 3\) and Unembed\(\) share these parameters by name"):
        fn.parametrize(shared, {"embed/table": fn.WeightNorm()}, jnp.zeros((2, 4), int))


def test_what_cannot_be_baked():
    net = fn.Sequential(("it", fn.Parametrized(fn.Dense(4), kernel=fn.SpectralNorm())))
    params, state = net.init(KEY, X), net.init_state(X)
    with pytest.raises(ValueError, match="it/kernel: SpectralNorm.* carries state: give it too"):
        fn.bake(net, params, X)
    with pytest.raises(ValueError, match="it/kernel: SpectralNorm.* holds .* got float32"):
        fn.bake(net, fn.Sequential(("it", fn.Dense(4))).init(KEY, X), X, state=state)
    shared = fn.Repeat(fn.Parametrized(fn.Dense(4), kernel=fn.SpectralNorm()), 2, shared=True)
    with pytest.raises(ValueError, match="kernel: one parameter with a state for each of several copies"):
        fn.bake(shared, shared.init(KEY, X), X, state=shared.init_state(X))
    plain = fn.Dense(3)
    params = plain.init(KEY, X)
    assert fn.bake(plain, params, X) == (plain, params)
