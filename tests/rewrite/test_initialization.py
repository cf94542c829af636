"""Where parameters start: rules over paths, and parameters that are drawn anew."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnets as fn
from funcnets.initializers import Constant, GlorotUniform, Normal, Ones, Uniform, Zeros
from funcnets.random import copy_key, path_key
from funcnets.rewrite import reinit, with_init

KEY, OTHER = jax.random.key(0), jax.random.key(1)
X = jnp.ones((2, 4))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for mine, theirs in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype


def far_from_zero(key, shape, dtype):
    draw = jax.random.uniform(key, shape, dtype, -10, 10)
    return jnp.where(jnp.abs(draw) >= 5, draw, 0)


def scale_init(key, x):
    return {"scale": jax.random.normal(key, x.shape[-1:]), "deep": {"shift": jnp.ones(3)}}


def scale_apply(p, x):
    return x * p["scale"][None]


def net():
    return fn.Sequential(
        fn.Dense(4), jax.nn.relu, ("block", fn.Repeat(fn.Sequential(fn.Dense(4), jnp.tanh), 3)), ("head", fn.Dense(2))
    )


def test_all_layers_of_a_kind_by_rules_and_by_fields():
    by_rule = with_init(net(), {"**/bias": Zeros(), fn.Dense: Normal(0.01)})
    by_field = fn.rewrite.replace(net(), {fn.Dense: {"kernel_init": Normal(0.01), "bias_init": Zeros()}})
    same(by_rule.init(KEY, X), by_field.init(KEY, X))
    for changed in (
        with_init(net(), {fn.Dense: Ones()}),
        fn.rewrite.replace(net(), {fn.Dense: {"kernel_init": Constant(1.0), "bias_init": Ones()}}),
    ):
        assert all((leaf == 1).all() for leaf in jax.tree.leaves(changed.init(KEY, X)))


def test_one_layer_so_and_another_so():
    params = with_init(net(), {"dense_0/kernel": GlorotUniform(), "head/kernel": Constant(42.0)}).init(KEY, X)
    same(params["dense_0"]["kernel"], GlorotUniform()(path_key(KEY, "dense_0/kernel"), (4, 4), jnp.float32))
    assert (params["head"]["kernel"] == 42).all()
    same(params["block"], net().init(KEY, X)["block"])


def test_a_function_of_ones_own():
    kernel = with_init(net(), {"**/kernel": far_from_zero}).init(KEY, X)["dense_0"]["kernel"]
    assert ((jnp.abs(kernel) >= 5) | (kernel == 0)).all() and (kernel != 0).any()
    same(kernel, far_from_zero(path_key(KEY, "dense_0/kernel"), (4, 4), jnp.float32))


def test_each_copy_is_drawn_by_its_own_key_above_and_below_the_copies():
    inside = fn.Sequential(("block", fn.Repeat(with_init(fn.Dense(4), {"kernel": Uniform(1.0)}), 3)))
    above = with_init(fn.Sequential(("block", fn.Repeat(fn.Dense(4), 3))), {"block/kernel": Uniform(1.0)})
    kernel = above.init(KEY, X)["block"]["kernel"]
    same(kernel, inside.init(KEY, X)["block"]["kernel"])
    for i in range(3):
        key = path_key(copy_key(path_key(KEY, "block"), i), "kernel")
        same(kernel[i], Uniform(1.0)(key, (4, 4), jnp.float32))
    deep = with_init(fn.Ensemble(fn.Repeat(fn.Dense(4), 3), 2), {"kernel": far_from_zero}).init(KEY, X)["kernel"]
    assert deep.shape == (2, 3, 4, 4) and len(np.unique(deep)) > 10


@pytest.mark.parametrize(
    "wrap",
    [
        fn.Remat,
        fn.Freeze,
        lambda layer: fn.Cast(layer, "bfloat16", param_dtype="bfloat16"),
        lambda layer: fn.Parametrized(layer, kernel=fn.WeightNorm()),
        lambda layer: fn.Repeat(layer, 2),
        lambda layer: fn.Repeat(layer, 2, shared=True),
        lambda layer: fn.Ensemble(layer, 2),
    ],
    ids=["remat", "freeze", "cast", "parametrized", "repeat", "shared", "ensemble"],
)
def test_the_same_initialiser_gives_the_same_bits_and_another_what_the_field_gives(wrap):
    plain, wanted = (fn.Sequential(("it", wrap(layer))) for layer in (fn.Dense(4), fn.Dense(4, kernel_init=Ones())))
    same(with_init(plain, {"it/kernel": fn.Dense(4).kernel_init}).init(KEY, X), plain.init(KEY, X))
    changed = with_init(plain, {"**/kernel": Ones()})
    same(changed.init(KEY, X), wanted.init(KEY, X))
    same(jax.jit(changed.init)(KEY, X), wanted.init(KEY, X))
    params, x = changed.init(KEY, X), X
    same(jax.jit(changed.apply)(params, x), jax.jit(wanted.apply)(params, x))


def test_an_array_within_a_pair():
    layer = fn.Sequential(("it", fn.pair(scale_init, scale_apply)))
    params = with_init(layer, {"**/shift": Constant(3.0)}).init(KEY, X)
    same(params["it"]["scale"], layer.init(KEY, X)["it"]["scale"])
    assert (params["it"]["deep"]["shift"] == 3).all()
    drawn = with_init(layer, {"it/**": Normal(1.0)}).init(KEY, X)["it"]
    same(drawn["scale"], Normal(1.0)(path_key(path_key(KEY, "it"), "scale"), (4,), jnp.float32))
    cast = fn.Cast(with_init(fn.Repeat(layer, 2), {"it/scale": Ones()}), "float32", param_dtype="bfloat16")
    assert cast.plan(X).params["it"]["scale"].dtype == jnp.bfloat16
    assert (cast.init(KEY, X)["it"]["scale"] == 1).all()
    bare = fn.pair(lambda key, x: jnp.zeros(3), lambda p, x: x + p.sum())
    same(with_init(bare, {"": Normal(1.0)}).init(KEY, X), Normal(1.0)(path_key(KEY, ""), (3,), jnp.float32))


def test_a_parametrised_parameter_is_one_and_is_then_taken_apart():
    layer = fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm())
    params = with_init(layer, {"kernel": Constant(2.0)}).init(KEY, X)
    same(params["kernel"], {"direction": jnp.full((4, 3), 2.0), "scale": jnp.full(3, 4.0)})
    with pytest.raises(ValueError, match=r"'kernel/direction' matches no parameter; there are 'kernel', 'bias'"):
        with_init(layer, {"kernel/direction": Ones()}).init(KEY, X)
    wrong = with_init(layer, {"kernel": lambda key, shape, dtype: jnp.ones((2, 2), dtype)})
    with pytest.raises(ValueError, match=r"was asked for float32\[4,3\] and returned float32\[2,2\]"):
        wrong.init(KEY, X)


def test_a_bare_parameter_and_a_tied_net():
    same(with_init(fn.Param((3,), Ones()), {"": Zeros()}).init(KEY), jnp.zeros(3))
    tied = fn.tie(fn.Sequential(("a", fn.Dense(4)), ("b", fn.Dense(4))), "b/kernel", to="a/kernel")
    assert (with_init(tied, {"a/kernel": Ones()}).init(KEY, X)["a"]["kernel"] == 1).all()
    with pytest.raises(ValueError, match="'b/kernel' matches no parameter"):
        with_init(tied, {"b/kernel": Ones()}).init(KEY, X)


def test_the_first_rule_wins_and_later_rewritings_go_first():
    once = with_init(net(), {"head/kernel": Ones(), "**/kernel": Constant(2.0)})
    params = with_init(once, {"dense_0/*": Constant(3.0)}).init(KEY, X)
    assert [float(params[name]["kernel"][0, 0]) for name in ("dense_0", "head")] == [3, 1]
    assert (params["block"]["dense_0"]["kernel"] == 2).all()


def test_several_patterns_and_functions_of_the_path():
    params = with_init(net(), {("head/kernel", lambda path: path.startswith("dense_0")): Ones()}).init(KEY, X)
    assert all((params[name]["kernel"] == 1).all() for name in ("head", "dense_0"))
    same(with_init(net(), {lambda path: False: Ones()}).init(KEY, X), net().init(KEY, X))
    same(with_init(net(), {}).init(KEY, X), net().init(KEY, X))
    odd = with_init(fn.Sequential(("a[0]", fn.Dense(2)), ("a0", fn.Bias())), {fn.Dense: Ones()}).init(KEY, X)
    assert (odd["a[0]"]["kernel"] == 1).all() and (odd["a0"]["bias"] == 0).all()


def only_in_training(m, x):
    return m.extra(m.main(x)) if m.train else m.main(x)


def test_a_parameter_met_in_training_only_counts():
    layer = fn.compose(main=fn.Dense(4), extra=fn.Dense(4))(only_in_training)
    assert (with_init(layer, {"extra/kernel": Ones()}).init(KEY, X)["extra"]["kernel"] == 1).all()


def test_it_is_a_value_that_prints_as_the_code_that_builds_it():
    changed = with_init(net(), {("head/*", "dense_0/*"): Ones(), fn.Dense: Normal(0.01)})
    space = {**vars(fn), **vars(fn.initializers), "with_init": with_init, "jax": jax}
    assert eval(repr(changed), space) == changed == pickle.loads(pickle.dumps(changed))
    assert changed != with_init(net(), {fn.Dense: Normal(0.01)})
    assert changed["head"] == fn.Dense(2)
    replaced = fn.rewrite.replace(changed, {"head": {"features": 5}})
    assert replaced.init(KEY, X)["head"]["kernel"].shape == (4, 5)
    same(jax.jit(changed.init)(KEY, X), changed.init(KEY, X))
    assert changed.plan(X).params == net().plan(X).params


def test_what_cannot_be_a_rule():
    with pytest.raises(ValueError, match=r"'head/kernle' matches no parameter \(did you mean 'head/kernel'\?\)"):
        with_init(net(), {"head/kernle": Ones()}).init(KEY, X)
    with pytest.raises(ValueError, match="the net has no layer of the class Conv"):
        with_init(net(), {fn.Conv: Ones()})
    with pytest.raises(TypeError, match=r"takes an initialiser for '\*\*/bias', .* got 0.0.*initializers.Constant"):
        with_init(net(), {"**/bias": 0.0})
    with pytest.raises(TypeError, match=r"with_init takes a net first, a layer or function, got 3"):
        with_init(3, {fn.Dense: Ones()})
    with pytest.raises(TypeError, match="a pattern is a path .* got 3"):
        reinit(net(), net().init(KEY, X), OTHER, X, patterns=3)
    for wrong in (3, (), (3,), Ones, fn.Dense(4)):
        with pytest.raises(TypeError, match="a pattern is a path"):
            with_init(net(), {wrong: Ones()})
    silent = fn.Sequential(("norm", fn.LayerNorm(use_scale=False, use_bias=False)), fn.Dense(4))
    with pytest.raises(ValueError, match="matches no parameter"):
        with_init(silent, {fn.LayerNorm: Ones()}).init(KEY, X)


# reinit


@pytest.mark.parametrize(
    ("patterns", "anew"),
    [
        ("head/**", ["head/kernel", "head/bias"]),
        (["head/kernel", "dense_0/kernel"], ["head/kernel", "dense_0/kernel"]),
        (lambda path: path.startswith("block"), ["block/dense_0/kernel", "block/dense_0/bias"]),
        (fn.Repeat, ["block/dense_0/kernel", "block/dense_0/bias"]),
        ([fn.Repeat, "head/bias"], ["block/dense_0/kernel", "block/dense_0/bias", "head/bias"]),
        ([], []),
    ],
    ids=["one", "several", "function", "class", "mixed", "none"],
)
def test_some_are_drawn_as_init_draws_them_and_the_others_stay(patterns, anew):
    noisy = fn.rewrite.replace(net(), {fn.Dense: {"bias_init": Normal(1.0)}})
    params, fresh = noisy.init(KEY, X), dict(fn.params.paths(noisy.init(OTHER, X)))
    new = dict(fn.params.paths(reinit(noisy, params, OTHER, X, patterns=patterns)))
    for path, old in fn.params.paths(params):
        if path in anew:
            same(new[path], fresh[path])
        else:
            assert new[path] is old


def test_parts_of_pairs_parametrised_and_bare_ones_are_drawn_anew():
    pair = fn.Sequential(("it", fn.Repeat(fn.pair(scale_init, scale_apply), 2)))
    params = pair.init(KEY, X)
    new = reinit(pair, params, OTHER, X, patterns="it/scale")
    same(new["it"]["scale"], pair.init(OTHER, X)["it"]["scale"])
    assert new["it"]["deep"]["shift"] is params["it"]["deep"]["shift"]
    normed = fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm())
    params = normed.init(KEY, X)
    new = reinit(normed, params, OTHER, X, patterns="kernel")
    same(new["kernel"], normed.init(OTHER, X)["kernel"])
    assert new["bias"] is params["bias"]
    bare = fn.Param((3,), Normal(1.0))
    same(reinit(bare, bare.init(KEY), OTHER, patterns=""), bare.init(OTHER))


def with_mask(m, x, mask):
    return m.dense(x) * mask


def test_keyword_inputs_and_jit():
    masked = fn.compose(dense=fn.Dense(3))(with_mask)
    params = masked.init(KEY, X, mask=jnp.ones((2, 3)))
    new = reinit(masked, params, OTHER, X, mask=jnp.ones((2, 3)), patterns="**")
    same(new, masked.init(OTHER, X, mask=jnp.ones((2, 3))))
    redraw = jax.jit(lambda params, key: reinit(net(), params, key, X, patterns="head/kernel"))
    same(redraw(net().init(KEY, X), OTHER)["head"]["kernel"], net().init(OTHER, X)["head"]["kernel"])


def test_what_cannot_be_drawn_anew():
    params = net().init(KEY, X)
    with pytest.raises(ValueError, match=r"'haed/\*' matches no parameter"):
        reinit(net(), params, OTHER, X, patterns="haed/*")
    with pytest.raises(ValueError, match=r"do not belong together(.|\n)*missing +head/kernel"):
        reinit(net(), {name: held for name, held in params.items() if name != "head"}, OTHER, X, patterns="dense_0/*")
    with pytest.raises(ValueError, match=r"do not belong together(.|\n)*reshaped +dense_0/kernel"):
        reinit(net(), params, OTHER, jnp.ones((2, 5)), patterns="head/*")
    for swapped in ((X, KEY), (params, X)):
        with pytest.raises(TypeError, match=r"reinit takes the key before the sample, reinit\(net, params, key.* got"):
            reinit(net(), params, *swapped, patterns="head/*")


def test_what_other_inputs_meet_is_left_as_it_is():
    layer = fn.compose(main=fn.Dense(4), other=fn.Dense(3))(one_or_other)
    params = {**layer.init(KEY, X), **layer.init(KEY, X, other=True)}
    new = reinit(layer, params, OTHER, X, patterns="main/*")
    assert new["other"] is params["other"]
    same(fn.train.create(layer, optax.sgd(0.1), KEY, X, params=params).params, params)
    with pytest.raises(ValueError, match=r"do not belong together(.|\n)*unread +odd"):
        fn.train.create(layer, optax.sgd(0.1), KEY, X, params={**params, "odd": X})
    with pytest.raises(ValueError, match=r"the state and the inputs do not belong together(.|\n)*unread +odd"):
        fn.train.create(layer, optax.sgd(0.1), KEY, X, state={"odd": X})


def one_or_other(m, x, other=False):
    return m.other(x) if other else m.main(x)
