"""Parameters as functions of other arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.parametrization import Decomposed
from funcnets.random import path_key
from funcnets.shapes import entry

KEY, RUN = jax.random.key(0), jax.random.key(1)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32))


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
    net = fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm())
    with pytest.raises(ValueError, match=r"replaced  kernel  expected \{'direction'.*got float32\[4,3\]"):
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


class Noisy(fn.Parametrization):
    """One that draws what it holds."""

    def decompose(self, w, *, key):
        return {"weight": w, "noise": jax.random.normal(key, w.shape, w.dtype)}

    def forward(self, p, w):
        return p["weight"]


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)


COPIES = ("again", fn.Ensemble(fn.Repeat(fn.Dense(4), 2), 2))
STACKS = fn.Sequential(fn.Repeat(BLOCK, 3), COPIES, ("head", fn.Dense(4)))


def test_a_decompose_may_draw_and_the_value_is_drawn_as_without():
    net = fn.parametrize(STACKS, {"**/kernel": Noisy()}, X)
    params = net.init(KEY, X)
    _, whole = fn.bake(net, params, X)
    same_bits(whole, STACKS.init(KEY, X))
    same_bits(params, jax.jit(net.init)(KEY, X))
    keys = jax.random.split(jax.random.key(5), 2)
    many = jax.vmap(lambda key: net.init(key, X))(keys)
    for i in range(2):
        same_bits(jax.tree.map(lambda a: a[i], many), net.init(keys[i], X))  # noqa: B023
    block = params["sequential_0"]["dense_0"]["kernel"]
    noises = [block["noise"][i] for i in range(3)]
    again = params["again"]["kernel"]["noise"]
    noises += [again[i, j] for i in range(2) for j in range(2)] + [params["head"]["kernel"]["noise"]]
    assert len({np.asarray(noise).tobytes() for noise in noises}) == 8
    own = fn.Dense(4).init(KEY, X)["kernel"]
    alone = fn.Parametrized(fn.Dense(4), kernel=Noisy()).init(KEY, X)["kernel"]
    same_bits(own, alone["weight"])
    assert not np.isin(alone["noise"], jax.random.normal(path_key(KEY, "kernel"), (4, 4))).any()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_value_is_taken_apart_as_its_draw_is(impl):
    net, key = fn.parametrize(STACKS, {"**/kernel": Noisy(), "**/scale": Square()}, X), jax.random.key(0, impl=impl)
    drawn, values = net.init(key, X), STACKS.init(key, X)
    for path, one in net.plan(X).declared["params"].items():
        value, held = entry(values, path), entry(drawn, path)
        if isinstance(one.what, Decomposed):
            compiled = jax.jit(one.what.taken_apart, static_argnums=2)
            same_bits(compiled(value, key, one.steps), held)
            value = one.what.taken_apart(value, key, one.steps)
        same_bits(value, held)


class Anchored(fn.Parametrization):
    """w = anchor + change, of which the anchor does not learn."""

    fixed = ("anchor",)

    def decompose(self, w):
        return {"anchor": w, "change": jnp.zeros_like(w)}

    def forward(self, p, w):
        return p["anchor"] + p["change"]


def test_what_is_fixed_takes_no_gradient_and_is_known_as_frozen():
    net = fn.parametrize(NET, {"**/kernel": Anchored()}, X)
    frozen = fn.params.frozen(net)
    gradients = jax.grad(lambda params: net.apply(params, X).sum())(net.init(KEY, X))
    by_path = dict(fn.params.paths(gradients))
    assert {path for path in by_path if frozen(path)} == {
        "sequential_0/dense_0/kernel/anchor",
        "dense_0/kernel/anchor",
        "head/kernel/anchor",
    }
    assert all(frozen(path) == (not np.any(gradient)) for path, gradient in by_path.items())


class Nested(fn.Parametrization):
    def decompose(self, w):
        return {"a": {"b": w}}


class Turned(fn.Parametrization):
    def decompose(self, w):
        return {"w": w}

    def forward(self, p, w):
        return p["w"].T


def test_parametrisations_that_cannot_be():
    with pytest.raises(TypeError, match=r"Odd.decompose takes \(w, key\) after self: .* decompose\(self, w, \*, key"):

        class Odd(fn.Parametrization):
            def decompose(self, w, key):
                return {"w": w}

    with pytest.raises(TypeError, match=r"Nested\(\).decompose returns .*: it takes a parameter apart into a dict"):
        fn.Parametrized(fn.Dense(3), kernel=Nested()).init(KEY, X)
    with pytest.raises(
        ValueError, match=r"Turned\(\) gives float32\[3,4\] for the parameter 'kernel', which is float32\[4,3"
    ):
        fn.Parametrized(fn.Dense(3), kernel=Turned()).init(KEY, X)
    with pytest.raises(ValueError, match=r"SpectralNorm\(axis=2\) takes a parameter that has an axis 2"):
        fn.Parametrized(fn.Dense(3), kernel=fn.SpectralNorm(axis=2)).init(KEY, X)
    whole = fn.Sequential(fn.pair(lambda key, x: {"w": jnp.ones(4)}, lambda p, x: x * p["w"][None]))
    with pytest.raises(ValueError, match=r"its parameters is no single array but .*w.: float32.*, which its init"):
        fn.parametrize(whole, {"**": fn.WeightNorm()}, X).init(KEY, X)
    shared = fn.Sequential(("embed", fn.Embedding(7, 3)), jnp.tanh, ("embed", fn.Unembed()))
    with pytest.raises(ValueError, match=r"embed: Embedding\(7, 3\) and Unembed\(\) share these parameters by name"):
        fn.parametrize(shared, {"embed/table": fn.WeightNorm()}, jnp.zeros((2, 4), int))


class Failing(fn.Parametrization):
    def decompose(self, w):
        return {"w": w}

    def forward(self, p, w):
        raise ValueError("no")


def test_errors_name_the_parameter():
    for by, error, note in (
        (
            {"**/layer_norm_0/bias": fn.Orthogonal()},
            "two axes or more",
            "in layer sequential_0/layer_norm_0/bias:",
        ),
        ({"head/bias": fn.SpectralNorm(axis=1)}, "that has an axis 1", "in layer head/bias: SpectralNorm(axis=1)"),
        ({"head/bias": Nested()}, "takes a parameter apart into a dict", "in layer head/bias: Nested()"),
        ({"head/bias": Failing()}, "no", "for the parameter head/bias of Dense(2)"),
    ):
        with pytest.raises((TypeError, ValueError), match=error) as raised:
            fn.parametrize(NET, by, X).plan(X)
        assert any(one.startswith(note) for one in raised.value.__notes__), raised.value.__notes__


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


def test_what_a_freeze_says_of_what_is_baked_in():
    normed = fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm())
    net = fn.Sequential(("it", fn.Freeze(normed, but=("kernel/scale", "bias"))))
    params = net.init(KEY, X)
    with pytest.raises(ValueError, match=r"it: but='kernel/scale' of Freeze.* into 'kernel'.* but='kernel/\*\*' if so"):
        fn.bake(net, params, X)
    for but in ("kernel/**", "bias", "**", ()):  # as the message says
        said = fn.rewrite.replace(net, {"it": {"but": but}})
        plain, baked = fn.bake(said, params, X)
        assert plain == fn.Sequential(("it", fn.Freeze(fn.Dense(3), but=but)))
        np.testing.assert_allclose(plain.apply(baked, X), net.apply(params, X), rtol=1e-5, atol=1e-6)
        assert plain.plan(X).params == fn.Sequential(("it", fn.Dense(3))).plan(X).params
    array = fn.Freeze(fn.Parametrized(fn.Param((3,), fn.initializers.Ones()), {"": fn.WeightNorm()}), but="scale")
    with pytest.raises(ValueError, match=r"the net: but='scale' .* but='\*\*' if so"):
        fn.bake(array, array.init(KEY))


def test_a_layer_class_stands_for_the_kernels_of_its_layers():
    net = fn.Sequential(
        fn.Dense(4), fn.Repeat(fn.Conv(4, 1), 2), fn.LayerNorm(), fn.Cast(fn.Dense(3, rank=2), "float32")
    )
    x = jnp.ones((2, 5, 4))
    for how in (fn.WeightNorm(), fn.Orthogonal(), fn.LowRank(1), fn.LoRA(2), fn.Masked(0.5)):
        by_class = fn.parametrize(net, {fn.Dense: how}, x)
        assert by_class == fn.parametrize(net, {"dense_*/*[lpn]": how}, x)  # kernel, up, down
        assert fn.parametrize(net, {(fn.Dense, fn.Conv): how}, x) == fn.parametrize(
            net, {fn.Dense: how, fn.Conv: how}, x
        )
    both = fn.parametrize(net, {"dense_0/*": fn.Masked(0.5), fn.Dense: fn.LowRank(1)}, x)
    assert both["dense_0"] == fn.Parametrized(fn.Dense(4), kernel=fn.Masked(0.5), bias=fn.Masked(0.5))
    rest = fn.parametrize(net, {fn.Dense: fn.LowRank(1), "dense_0/*": fn.Masked(0.5)}, x)  # the first that fits
    assert rest["dense_0"] == fn.Parametrized(fn.Dense(4), kernel=fn.LowRank(1), bias=fn.Masked(0.5))
    all_of = fn.parametrize(net, {fn.params.of(net, fn.LayerNorm): fn.Masked(0.5)}, x)
    assert all_of["layer_norm_0"] == fn.Parametrized(fn.LayerNorm(), scale=fn.Masked(0.5), bias=fn.Masked(0.5))
    with pytest.raises(ValueError, match=r"LayerNorm stands for the kernels .* none: fn.params.of\(net, .*LayerNorm\)"):
        fn.parametrize(net, {fn.LayerNorm: fn.Masked(0.5)}, x)
    with pytest.raises(ValueError, match="the net has no layer of the class Embedding"):
        fn.parametrize(net, {fn.Embedding: fn.Masked(0.5)}, x)
    with pytest.raises(ValueError, match="has a parametrised 'kernel' already"):
        fn.parametrize(fn.parametrize(net, {"dense_0/kernel": fn.Masked(0.5)}, x), {fn.Dense: fn.LowRank(1)}, x)
    with pytest.raises(TypeError, match=r"parametrize takes a mapping from patterns to parametrisations, got LoRA"):
        fn.parametrize(net, fn.LoRA(2), x)


def test_what_others_are_tied_to_takes_none():
    net = fn.Sequential(("a", fn.Dense(4)), ("b", fn.Dense(4)), ("c", fn.Dense(4)))
    tied = fn.Sequential(("in", fn.tie(net, "b/kernel", to="a/kernel")))
    for by in ("in/a/kernel", "**/kernel", fn.Dense):
        with pytest.raises(
            ValueError, match=r"in/a/kernel: 'in/b/kernel' is tied to it by fn.tie, .* path != 'in/a/kernel' and"
        ):
            fn.parametrize(tied, {by: fn.WeightNorm()}, X)
    others = {lambda path: path != "in/a/kernel" and path.endswith("kernel"): fn.WeightNorm()}  # as the message says
    parametrized = fn.parametrize(tied, others, X)
    assert parametrized["in"]["c"] == fn.Parametrized(fn.Dense(4), kernel=fn.WeightNorm())
    y = parametrized.apply(parametrized.init(KEY, X), X)
    np.testing.assert_allclose(y, tied.apply(tied.init(KEY, X), X), rtol=1e-5, atol=1e-6)
    source = fn.Parametrized(fn.Dense(4), kernel=fn.WeightNorm())
    with pytest.raises(ValueError, match="tie: 'a/kernel' is no single array but"):
        fn.tie(fn.rewrite.replace(net, {"a": source}), "b/kernel", to="a/kernel").plan(X)
