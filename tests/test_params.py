"""Parameters as data."""

import functools
import operator
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnets as fn
from funcnets.params import (
    average,
    count,
    difference,
    drop,
    get,
    insert,
    labels,
    merge,
    nbytes,
    paths,
    rename,
    split,
    table,
    update,
)
from funcnets.values import Value

KEY = jax.random.key(0)


def tree():
    return {"dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}, "head": {"kernel": jnp.ones((3, 1))}}


def block():
    return fn.Residual(fn.Sequential(fn.LayerNorm(), fn.Dense(4), jax.nn.gelu))


def model():
    return fn.Sequential(
        ("embed", fn.Embedding(9, 4)),
        fn.Repeat(fn.Remat(block()), 3),
        fn.Freeze(fn.Ensemble(fn.Parametrized(fn.Dense(4), kernel=fn.WeightNorm()), 2)),
        fn.Cast(fn.LayerNorm(), "bfloat16"),
        ("embed", fn.Unembed()),
    )


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


def refuses(call, kind, *texts):
    with pytest.raises(kind) as caught:
        call()
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    for text in texts:
        assert text in said, said


# Reading


def test_paths_are_those_of_the_arrays_in_order():
    net = fn.Sequential(fn.Dense(3), ("head", fn.Repeat(fn.Dense(3), 2)))
    params = net.init(KEY, jnp.ones((1, 3)))
    found = paths({"b": params, "a": jnp.ones(2)})
    assert sorted(path for path, _ in found) == [
        "a", "b/dense_0/bias", "b/dense_0/kernel", "b/head/bias", "b/head/kernel",
    ]  # fmt: skip
    assert found[-1][0] == "a"  # as they stand in the dict
    assert dict(found)["b/head/kernel"] is params["head"]["kernel"]
    assert paths(jnp.ones(3))[0][0] == ""


def test_what_is_no_tree_of_parameters_is_refused():
    optimizer = optax.adam(1e-3)
    state = fn.train.create(fn.Dense(2), optimizer, KEY, jnp.ones((1, 2)))
    refuses(lambda: paths(state), TypeError, "got TrainState; of a training state, give state.params")
    refuses(lambda: count({"a": [jnp.ones(2)]}), TypeError, "a: parameters are nested dicts of arrays", "got list")
    refuses(lambda: paths({"a": None}), TypeError, "got NoneType")
    refuses(lambda: paths((tree(), tree())), TypeError, "the tree: ", "got tuple")
    for name in ("", "a/b", 0):
        refuses(lambda name=name: paths({"x": {name: jnp.ones(2)}}), ValueError, "x: para", f"got the name {name!r}")
    refuses(lambda: count({"a": "decay"}), TypeError, "a: takes arrays in nested dicts, got 'decay'")


def test_get():
    params = tree()
    assert get(params, "") is params
    assert get(params, "dense_0") is params["dense_0"]
    assert get(params, "dense_0/bias") is params["dense_0"]["bias"]
    array = jnp.ones(3)
    assert get(array, "") is array
    refuses(
        lambda: get(params, "dense_0/kernl"),
        KeyError,
        "there is no 'dense_0/kernl' (did you mean 'dense_0/kernel'?); there are the arrays 'dense_0/kernel', 'dense_",
    )
    refuses(lambda: get(params, "dense"), KeyError, "did you mean 'dense_0'?")
    refuses(lambda: get(params, "dense_0/kernel/x"), KeyError, "there is no 'dense_0/kernel/x'")
    refuses(lambda: get({}, "a"), KeyError, "there are the arrays nothing")
    refuses(lambda: get({f"a{i}": 1 for i in range(13)}, "b"), KeyError, "'a11', ...")


def test_sizes_and_the_table():
    params = {"a": {"kernel": jnp.ones((200, 30), jnp.bfloat16), "<b>": np.ones((), np.float64)}, "none": {}}
    assert (count(params), nbytes(params)) == (6001, 12008)
    assert (count({}), nbytes({})) == (0, 0)
    assert count(jnp.ones((0, 3))) == 0
    assert nbytes(jax.random.split(jax.random.key(1), 3)) == 24
    shown = table(params)
    assert str(shown).splitlines() == [
        "path      shape      dtype     elements   bytes",
        "-----------------------------------------------",
        "a/kernel  (200, 30)  bfloat16     6,000  12,000",
        "a/<b>     ()         float64          1       8",
        "-----------------------------------------------",
        "total                             6,001  12,008",
    ]
    assert repr(shown) == str(shown)
    assert shown.rows[0] == ("a/kernel", (200, 30), jnp.bfloat16, 6000, 12000)
    page = shown._repr_html_()
    assert page.count("<tr>") == page.count("</tr>") == 4
    assert "<td><code>a/&lt;b&gt;</code></td>" in page
    assert table(jnp.ones(3)).rows[0].path == ""
    assert "(all)" in str(table(jnp.ones(3)))
    assert table(params["a"]["kernel"]) == table(jax.ShapeDtypeStruct((200, 30), jnp.bfloat16))
    tied = fn.Sequential(("t", fn.Embedding(7, 4)), ("t", fn.Unembed()))
    assert count(tied.plan(jnp.array([1])).params) == 28


def test_difference_as_data():
    a = {
        "same": jnp.ones(2),
        "gone": {"x": jnp.ones(3)},
        "shape": jnp.ones((2, 3)),
        "type": jnp.ones(2),
        "turned": jnp.ones(1),
    }
    b = {
        "same": np.zeros(2, np.float32), "new": jnp.ones(1), "shape": jnp.ones((3, 2), jnp.int32),
        "type": jnp.ones(2, jnp.bfloat16), "turned": {"kernel": jnp.ones(1)},
    }  # fmt: skip
    found = difference(a, b)
    spec = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
    assert found.missing == {"gone/x": spec(3), "turned": spec(1)}
    assert found.extra == {"new": spec(1), "turned/kernel": spec(1)}
    assert found.reshaped == {"shape": (spec(2, 3), spec(3, 2, dtype=jnp.int32))}
    assert found.retyped == {"type": (spec(2), spec(2, dtype=jnp.bfloat16))}
    assert str(found).splitlines() == [
        "  missing   gone/x         expected float32[3], got nothing",
        "  missing   turned         expected float32[1], got nothing",
        "  extra     turned/kernel  expected nothing, got float32[1]",
        "  extra     new            expected nothing, got float32[1]",
        "  reshaped  shape          expected float32[2,3], got int32[3,2]",
        "  retyped   type           expected float32[2], got bfloat16[2]",
    ]
    assert found == difference(a, b)
    assert not difference(a, jax.eval_shape(lambda: a))
    assert repr(difference(a, a)) == str(difference(a, a)) == "  no difference"
    assert not difference({}, {"a": {"b": {}}})
    assert difference(jnp.ones(2), {}).missing == {"": spec(2)} == difference({}, jnp.ones(2)).extra
    with pytest.raises(AttributeError):
        found.missing = {}


def test_errors_of_nets_and_difference_list_alike():
    net, x = fn.Dense(3), jnp.ones((1, 2))
    params = {"kernel": jnp.ones((4, 3))}
    for row in str(difference(net.plan(x).params, params)).splitlines():
        with pytest.raises(ValueError, match=re.escape(row)):
            net.apply(params, x)


# Patterns


def test_what_stands_for_paths():
    params, net = model().init(KEY, jnp.array([1])), model()

    def chosen(patterns, **kwargs):
        return [path for path, _ in paths(split(params, patterns, **kwargs)[0])]

    names = [path for path, _ in paths(params)]
    assert names == [
        "embed/table", "sequential_0/layer_norm_0/scale", "sequential_0/layer_norm_0/bias",
        "sequential_0/dense_0/kernel", "sequential_0/dense_0/bias", "dense_0/kernel/direction", "dense_0/kernel/scale",
        "dense_0/bias", "layer_norm_0/scale", "layer_norm_0/bias",
    ] or sorted(names)  # fmt: skip
    assert set(chosen("**/bias")) == {name for name in names if name.endswith("/bias")}
    assert set(chosen(["embed/*", "layer_norm_0/scale"])) == {"embed/table", "layer_norm_0/scale"}
    assert chosen(()) == []
    assert set(chosen(fn.params.frozen(net))) == {name for name in names if name.startswith("dense_0/")}
    assert set(chosen({"layer_norm_0/bias": False, ("**/layer_norm_0/*", "embed/**"): True})) == {
        "layer_norm_0/scale", "sequential_0/layer_norm_0/scale", "sequential_0/layer_norm_0/bias", "embed/table",
    }  # fmt: skip
    # classes, wherever Repeat, Remat, Residual, Freeze, Ensemble, Parametrized and Cast put their layers
    assert set(chosen(fn.LayerNorm, net=net)) == {name for name in names if "layer_norm_0" in name}
    assert set(chosen(fn.Dense, net=net)) == {name for name in names if "dense_0" in name}
    assert set(chosen(fn.Ensemble, net=net)) == {name for name in names if name.startswith("dense_0")}
    assert chosen(fn.Unembed, net=fn.Sequential(("embed", fn.Embedding(9, 4)), ("embed", fn.Unembed()))) == [
        "embed/table"
    ]
    assert chosen({fn.LayerNorm: False, "layer_norm_0/*": True}, net=net) == []
    assert set(chosen((fn.Embedding, "**/kernel/scale"), net=net)) == {"embed/table", "dense_0/kernel/scale"}
    bare = fn.Param((3,), fn.initializers.Ones())
    assert split(bare.init(KEY), fn.Param, net=bare)[1] == {}
    assert split(fn.Dense(2).init(KEY, jnp.ones((1, 2))), fn.Dense, net=fn.Dense(2))[1] == {}


def test_patterns_that_cannot_be_are_refused():
    params, net = tree(), fn.Sequential(fn.Dense(3), jnp.tanh, ("head", fn.Dense(1, use_bias=False)), fn.Dropout(0.5))
    refuses(
        lambda: split(params, "dense_0/kernl"),
        ValueError,
        "the pattern 'dense_0/kernl' matches no parameter (did you mean 'dense_0/kernel'?); there are 'dense_0/ke",
    )
    refuses(lambda: drop(params, ("**/kernel", "**/scale")), ValueError, "'**/scale' matches no parameter")
    refuses(
        lambda: split(params, fn.Dropout, net=net), ValueError, "the pattern Dropout matches no parameter; there are"
    )
    refuses(
        lambda: split(params, fn.DepthwiseConv, net=net),
        ValueError,
        "the net has no layer of the class DepthwiseConv; it has Dense, Dropout, Function, Sequential",
    )
    refuses(lambda: split(params, fn.DropPath, net=net), ValueError, "DropPath (did you mean 'Dropout'?)")
    refuses(
        lambda: labels(params, {fn.Dense: 1}), TypeError, "the class Dense stands for", "give net=, or a pattern of"
    )
    for wrong in (3, fn.Dense(2), int, None, [["**"]]):
        refuses(
            lambda wrong=wrong: split(params, wrong, net=net), TypeError, "a pattern is a path with * and **, a func"
        )
    refuses(lambda: split(params, {"**": "decay"}), TypeError, "give True or False, got 'decay'")
    refuses(lambda: labels(params, "**"), TypeError, "rules are a mapping from patterns to values, got '**'")
    refuses(lambda: update(params, [("**", 1)]), TypeError, "rules are a mapping")


# Values


def test_one_element_and_a_whole_weight_set_by_hand():
    params = tree()
    new = update(params, {"dense_0/kernel": lambda w: (w + 1).at[0, 0].set(42.0)})
    np.testing.assert_array_equal(new["dense_0"]["kernel"], [[42, 2, 2], [2, 2, 2]])
    assert same(params, tree())
    assert new["dense_0"]["bias"] is params["dense_0"]["bias"]
    assert [path for path, _ in paths(new)] == [path for path, _ in paths(params)]


def test_values_numbers_and_functions():
    params = tree()
    one = lambda change, path="dense_0/bias", **more: get(update(params, {path: change}, **more), path)  # noqa: E731
    np.testing.assert_array_equal(one(2), [2, 2, 2])
    np.testing.assert_array_equal(one(True), [1, 1, 1])
    np.testing.assert_array_equal(one(jnp.arange(3.0)), [0, 1, 2])
    np.testing.assert_array_equal(one(jnp.cos), [1, 1, 1])
    np.testing.assert_array_equal(one(jnp.ones_like), [1, 1, 1])
    np.testing.assert_array_equal(one(jnp.exp2), [1, 1, 1])
    np.testing.assert_array_equal(one(functools.partial(jnp.add, 2.0)), [2, 2, 2])
    np.testing.assert_array_equal(one(operator.neg, "head/kernel"), [[-1], [-1], [-1]])
    np.testing.assert_array_equal(one(lambda w, factor=2.0: w + factor), [2, 2, 2])
    np.testing.assert_array_equal(one(lambda *arrays: len(arrays)), [1, 1, 1])
    np.testing.assert_array_equal(one(lambda path, w: w + len(path)), [12, 12, 12])
    np.testing.assert_array_equal(one(lambda path, w, by=1.0: w + len(path) * by), [12, 12, 12])
    np.testing.assert_array_equal(one(lambda path, w: 4), [4, 4, 4])
    assert one(2).dtype == jnp.float32
    assert not one(lambda w: jnp.full(3, 2.0)).weak_type
    assert np.isnan(one(float("nan"))).all()
    assert (one(-float("inf")) == -np.inf).all()

    class Plus(Value):  # a value's signature is that of its call, not of its constructor
        first: float
        second: float

        def __call__(self, w):
            return w + self.first + self.second

    np.testing.assert_array_equal(one(Plus(1.0, 2.0)), [3, 3, 3])
    assert one(lambda w: w.astype(jnp.bfloat16), keep=False).dtype == jnp.bfloat16
    assert one(jnp.ones((5, 2), jnp.int32), keep=False).shape == (5, 2)
    first = update(params, {"dense_0/*": 1, "**/bias": 2, "**/kernel": 3})  # the first rule that fits
    assert [float(array.ravel()[0]) for _, array in sorted(paths(first))] == [1, 1, 3]
    net = fn.Sequential(fn.Dense(3), ("head", fn.Dense(1, use_bias=False)))
    assert all((array == 0).all() for _, array in paths(update(params, {fn.Dense: 0}, net=net)))
    np.testing.assert_array_equal(update(jnp.ones(2), {"": 5}), [5, 5])
    assert update({}, {}) == {}
    assert update({"a": {}, "b": jnp.ones(1)}, {"b": 2})["a"] == {}


def test_no_two_places_share_what_was_put_in():
    params, array, buffer = tree(), jnp.zeros((2, 3)), np.zeros(3, np.float32)
    new = update(
        {"a": params, "b": params}, {"**/dense_0/kernel": array, "a/dense_0/bias": buffer, "b/dense_0/bias": 3}
    )
    assert new["a"]["dense_0"]["kernel"] is not new["b"]["dense_0"]["kernel"]
    buffer[:] = 7
    np.testing.assert_array_equal(new["a"]["dense_0"]["bias"], np.zeros(3))
    jax.jit(lambda p: p, donate_argnums=0)(drop(new, "*/head/*"))  # raises for one buffer in two places
    mine = {"w": np.zeros(3, np.float32)}
    got = update(mine, {"w": buffer})
    buffer[:] = 8
    np.testing.assert_array_equal(got["w"], [7, 7, 7])
    assert type(got["w"]) is np.ndarray
    other = update(params, {"dense_0/bias": lambda w: params["head"]["kernel"]}, keep=False)
    assert other["dense_0"]["bias"] is not other["head"]["kernel"]


def test_values_that_do_not_fit_are_refused():
    params = tree() | {"ids": jnp.zeros(2, jnp.int8), "on": jnp.zeros(2, bool), "key": KEY}
    put = lambda path, change, **more: lambda: update(params, {path: change}, **more)  # noqa: E731
    refuses(
        put("dense_0/bias", jnp.ones(4)),
        ValueError,
        "update: 'dense_0/bias' is float32[3], got float32[4] for it: give one of this shape and dtype, or say keep",
    )
    refuses(put("dense_0/bias", lambda w: w.astype(jnp.bfloat16)), ValueError, "is float32[3], got bfloat16[3]")
    refuses(put("dense_0/bias", np.ones(3, np.float16)), ValueError, "got float16[3]")
    assert put("dense_0/bias", np.ones(3))()["dense_0"]["bias"].dtype == jnp.float32  # as JAX takes it
    refuses(put("dense_0/bias", jnp.float32(1)), ValueError, "got float32[] for it", "A Python number fills any shape")
    for wrong in ([1, 2, 3], None, "ones", lambda w: None, jax.ShapeDtypeStruct((3,), "float32")):
        for keep in (True, False):
            refuses(
                put("dense_0/bias", wrong, keep=keep), TypeError, "update: 'dense_0/bias', float32[3], takes an array"
            )
    for path, number in (
        ("ids", 1.5),
        ("ids", 200),
        ("on", 1),
        ("key", 1),
        ("dense_0/bias", 1j),
        ("dense_0/bias", 1e39),
    ):
        refuses(put(path, number), ValueError, f"update: {path!r} is", f"does not hold {number!r}")
    np.testing.assert_array_equal(update(params, {"on": True, "ids": -128})["ids"], [-128, -128])
    refuses(
        put("dense_0/bias", lambda key, shape, dtype: None),
        TypeError,
        "a function takes (array) or (path, array), but",
        "takes (key, shape, dtype): close over the rest",
    )
    refuses(
        put("dense_0/bias", fn.initializers.Normal(0.1)),  # of key and shape
        TypeError,
        "update: for 'dense_0/bias', float32[3]: a function takes (array) or (path, array); Normal(stddev=0.1) was",
    )
    refuses(
        put("dense_0/bias", lambda a, b: a + b),
        TypeError,
        "update: for 'dense_0/bias', float32[3]: a function takes (array) or (path, array); ",
        "was called with both",
    )
    refuses(put("dense_0/bias", lambda w: w @ jnp.ones(9)), TypeError, "was called with the array")


def test_specs_and_numpy_arrays():
    specs = fn.Dense(3).plan(jnp.ones((1, 2))).params
    assert update(specs, {"kernel": lambda w: w.at[0].set(1.0), "bias": 0}) == specs
    assert update(specs, {"bias": np.zeros(3, np.float32)}) == specs
    wider = update(specs, {"**": lambda path, w: jnp.concatenate([w, w])}, keep=False)
    assert wider == {
        "kernel": jax.ShapeDtypeStruct((4, 3), jnp.float32),
        "bias": jax.ShapeDtypeStruct((6,), jnp.float32),
    }
    spec = jax.ShapeDtypeStruct((9,), jnp.int32)
    assert update(specs, {"bias": spec}, keep=False)["bias"] == spec
    assert update(specs, {"**": spec}, keep=False) == {"kernel": spec, "bias": spec}
    refuses(lambda: update(specs, {"bias": spec}), ValueError, "is float32[3], got int32[9]")
    refuses(lambda: update(specs, {"bias": jnp.ones(4)}), ValueError, "'bias' is float32[3], got float32[4]")
    wide = {"w": np.arange(3.0)}
    new = update(wide, {"w": 0.1})["w"]
    assert new.dtype == np.float64
    assert new[0] == 0.1  # to the last bit, which float32 would lose
    assert type(average([wide, wide])["w"]) is np.ndarray
    assert average([wide, wide])["w"].dtype == np.float64
    with jax.enable_x64(True):
        assert update({"w": jnp.zeros(2, "float64")}, {"w": 0.1})["w"].dtype == jnp.float64


# Names, fewer and more


def test_rename():
    params = tree()
    k, b, h = params["dense_0"]["kernel"], params["dense_0"]["bias"], params["head"]["kernel"]
    assert same(rename(params, {"dense_0/bias": "dense_0/offset"})["dense_0"], {"kernel": k, "offset": b})
    swapped = rename(params, {"dense_0": "head", "head": "dense_0"})
    assert swapped["head"]["bias"] is b
    assert swapped["dense_0"]["kernel"] is h
    assert rename(params, {"dense_0/kernel": "head/kernel", "head/kernel": "dense_0/kernel"})["head"]["kernel"] is k
    moved = rename(params, {"head": "out/deep/head"})
    assert list(moved) == ["dense_0", "out"]
    assert moved["out"]["deep"]["head"]["kernel"] is h
    assert rename(params, {"head/kernel": "head"})["head"] is h  # the dict goes with its last entry
    assert same(rename(params, {"": "net"}), {"net": params})
    assert same(rename({"net": params}, {"net": ""}), params)
    assert rename({"w": k}, {"w": ""}) is k
    assert rename(k, {"": "w"}) == {"w": k}
    assert same(params, tree())


def test_names_that_would_lose_something_are_refused():
    params = tree()
    to = lambda names: lambda: rename(params, names)  # noqa: E731
    refuses(to("head"), TypeError, "rename takes a mapping from paths, got 'head': {'old/path': 'new/path'}")
    refuses(to({"dense_1": "x"}), KeyError, "there is no 'dense_1' (did you mean 'dense_0'?)")
    refuses(
        to({"dense_0/bias": "dense_0/kernel"}),
        ValueError,
        "rename: 'dense_0/kernel' is not free, for 'dense_0/kernel' is there too: drop it first, or name a free path",
    )
    refuses(to({"head": "dense_0"}), ValueError, "'dense_0' is not free")
    refuses(to({"head": "dense_0/kernel/x"}), ValueError, "'dense_0/kernel/x' is not free, for 'dense_0/kernel' is")
    refuses(to({"head": ""}), ValueError, "'' is not free")
    refuses(to({"dense_0/kernel": "x", "dense_0/bias": "x"}), ValueError, "'x' is not free, for 'x' is there too")
    refuses(to({"dense_0/kernel": "x", "dense_0/bias": "x/y"}), ValueError, "'x' is not free, for 'x/y' is there too")
    refuses(to({"dense_0": "x", "dense_0/bias": "y"}), ValueError, "rename: 'dense_0/bias' lies in or above another")
    refuses(to({"dense_0/bias": "y", "dense_0": "x"}), ValueError, "rename: 'dense_0' lies in or above another")
    for name in ("x.y", "x//y", "x/"):
        refuses(to({"head": name}), ValueError, f"rename to {name!r}: a name is a non-empty string without")
    refuses(lambda: rename({"a": {}}, {"a": "b"}), KeyError, "there is no 'a'")


def test_drop_and_insert():
    params = tree()
    assert same(drop(params, "dense_0/**"), {"head": params["head"]})
    assert drop(params, "**") == {} == drop(jnp.ones(3), "")
    bias = jnp.zeros(1)
    more = insert(params, {"head/bias": bias, "extra": {"deep": {"w": bias}}, "scale": np.ones(2)})
    assert more["head"]["bias"] is bias is not more["extra"]["deep"]["w"]
    assert "bias" not in params["head"]
    assert insert({}, {"": bias}) is bias
    assert same(insert({}, {"": params}), params)
    refuses(
        lambda: insert(params, {"head/kernel": bias}), ValueError, "insert: 'head/kernel' is not free, for 'head/ker"
    )
    refuses(lambda: insert(params, bias), TypeError, "insert takes a mapping from paths, got float32[1]: {'path': arr")
    refuses(lambda: insert(params, {"head": {"bias": bias}}), ValueError, "insert: 'head' is not free")
    refuses(lambda: insert(params, {"head/kernel/x": bias}), ValueError, "'head/kernel/x' is not free")
    refuses(lambda: insert(params, {"x": bias, "x/y": bias}), ValueError, "'x/y' is not free, for 'x' is there too")
    refuses(lambda: insert(bias, {"x": bias}), ValueError, "'x' is not free, for '' is there too")
    refuses(lambda: insert(params, {"x": {}}), ValueError, "insert: there is no array in what is given for 'x'")
    refuses(
        lambda: insert(params, {"x": 1.0}), TypeError, "takes arrays in nested dicts, got 1.0: jnp.asarray makes one"
    )
    refuses(lambda: insert(params, {"x": {"y.z": bias}}), ValueError, "insert to 'x/y.z': a name is")


# Parts


def test_split_and_merge_are_gradients_of_a_part():
    net, x = fn.Sequential(fn.Dense(3), ("head", fn.Dense(1))), jnp.ones((2, 2))
    params = net.init(KEY, x)
    head, rest = split(params, "head/**")
    assert list(head) == ["head"]
    whole = jax.grad(lambda p: net.apply(p, x).sum())(params)
    part = jax.grad(lambda head: net.apply(merge(head, rest), x).sum())(head)
    assert same(part, {"head": whole["head"]})
    array = jnp.ones(3)
    assert split(array, "") == (array, {})
    assert split(array, ()) == ({}, array)
    assert merge({}, array) is merge(array, {}) is merge(array) is array
    assert merge() == merge({}, {"a": {}}) == split({}, ())[0] == {}
    assert list(merge(*split(params, "**/bias"))["head"]) == ["bias", "kernel"]  # in the order of the parts
    assert same(
        merge({"a": {"b": array}}, {"c": array}, {"a": {"d": array}}), {"a": {"b": array, "d": array}, "c": array}
    )


def test_parts_that_meet_are_refused():
    a, b = jnp.ones(3), jnp.ones((2, 2))
    refuses(
        lambda: merge({"x": {"y": a}}, {}, {"x": {"y": b}}),
        ValueError,
        "merge: 'x/y', float32[2,2], is an array in two trees, float32[3]: drop one of the two, or put values in",
    )
    refuses(lambda: merge({"x": a}, {"x": {"y": b}}), ValueError, "'x/y', float32[2,2], is an array, but 'x' is one")
    refuses(lambda: merge({"x": {"y": b}}, {"x": a}), ValueError, "'x', float32[3], is an array, but 'x/y' is one, fl")
    refuses(lambda: merge(a, {"x": b}), ValueError, "merge: 'x', float32[2,2], is an array, but '' is one")
    refuses(lambda: merge({"x": b}, a), ValueError, "merge: '', float32[3], is an array, but 'x' is one")
    refuses(lambda: merge(a, a), ValueError, "merge: '', float32[3], is an array in two trees")


# Labels


def test_decay_spares_biases_norms_and_embeddings_also_when_stacked():
    net = model()
    params = net.init(KEY, jnp.array([1, 2]))
    spared = (fn.Embedding, fn.LayerNorm, "**/bias", "**/kernel/scale")
    mask = labels(params, {spared: False, "**": True}, net=net)
    assert params["sequential_0"]["dense_0"]["bias"].ndim == 2  # a rule by rank would decay it
    decayed = {path for path, label in paths(mask) if label}
    assert decayed == {"sequential_0/dense_0/kernel", "dense_0/kernel/direction"}
    optimizer = optax.adamw(0.1, weight_decay=0.5, mask=mask)
    zero = jax.tree.map(jnp.zeros_like, params)
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic
        updates, _ = optimizer.update(zero, optimizer.init(params), params)
    for path, moved in paths(updates):
        wanted = -0.1 * 0.5 * get(params, path) if path in decayed else np.zeros(moved.shape)
        np.testing.assert_allclose(moved, wanted, rtol=1e-6, err_msg=path)
    lazy = optax.adamw(0.1, mask=lambda p: labels(p, {spared: False, "**": True}, net=net))
    assert same(lazy.init(params), optimizer.init(params))


def test_labels_are_what_optax_partition_and_multi_transform_take():
    params = tree()
    groups = labels(params, {"head/**": "fast", "**": "slow"})
    assert groups == {"dense_0": {"kernel": "slow", "bias": "slow"}, "head": {"kernel": "fast"}}
    ones = jax.tree.map(jnp.ones_like, params)
    for combine in (optax.partition, optax.multi_transform):
        optimizer = combine({"fast": optax.sgd(1.0), "slow": optax.sgd(0.125)}, groups)
        updates, _ = optimizer.update(ones, optimizer.init(params), params)
        assert same(updates, update(ones, {"head/**": -1.0, "**": -0.125}))
    # decay inside a group, by the same kind of tree
    decays = labels(params, {"**/bias": False, "**": True})
    optimizer = optax.partition(
        {"fast": optax.adamw(1.0, weight_decay=0.5, mask=decays), "slow": optax.sgd(0.0)}, groups
    )
    with jax.numpy_dtype_promotion("standard"):
        moved, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(moved["head"]["kernel"], -0.5 * params["head"]["kernel"])
    bare = jnp.ones(3)
    optimizer = optax.partition({"a": optax.sgd(0.5)}, labels(bare, {"": "a"}))
    np.testing.assert_array_equal(optimizer.update(bare, optimizer.init(bare))[0], [-0.5] * 3)
    frozen = labels(params, {fn.params.frozen(fn.Sequential(fn.Dense(3), ("head", fn.Dense(1)))): "no", "**": "yes"})
    assert set(jax.tree.leaves(frozen)) == {"yes"}
    assert labels({"a": {}, "b": bare}, {"b": 1}) == {"a": {}, "b": 1}
    assert labels({}, {}) == {}


def test_an_array_without_a_label_is_refused():
    refuses(
        lambda: labels(tree(), {"**/bias": "a"}),
        ValueError,
        "labels: no rule fits 'dense_0/kernel', 'head/kernel': give the rest a label with a last rule, '**'",
    )
    refuses(lambda: labels(tree(), {"**": None}), ValueError, "a label is a string, a boolean or a number, got None")
    refuses(lambda: labels(tree(), {"**": (1, 2)}), ValueError, "got (1, 2)")
    refuses(lambda: labels({f"a{i}": 1 for i in range(9)}, {"a0": 1}), ValueError, "'a6', ...")


# Means


def test_average_is_the_weighted_sum():
    normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)  # noqa: E731
    several = [{"w": normal(seed, 2, 3), "b": {"c": normal(-seed)}} for seed in (1, 2, 3)]
    stacked = jax.tree.map(lambda *each: np.stack(each).astype(np.float64), *several)
    mean = average(several)
    jax.tree.map(lambda got, all: np.testing.assert_allclose(got, all.mean(0), rtol=1e-6), mean, stacked)
    weights = (0.5, np.float64(-1.0), jnp.float32(3.0))
    summed = average(iter(several), weights)
    plain = lambda all: np.tensordot([0.5, -1.0, 3.0], all, 1)  # noqa: E731
    jax.tree.map(lambda got, all: np.testing.assert_allclose(got, plain(all), rtol=1e-5, atol=1e-6), summed, stacked)
    ema = optax.incremental_update(several[1], several[0], 0.001)
    got = average(several[:2], (0.999, 0.001))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, ema)
    assert average([{}, {}]) == {}
    np.testing.assert_array_equal(average([jnp.ones(2), 3 * jnp.ones(2)]), [2, 2])


def test_average_sums_in_float32_at_least_and_keeps_dtypes():
    small = [{"w": jnp.full(2, value, jnp.bfloat16)} for value in [256.0] + [1.0] * 256]
    got = average(small, [1.0] * 257)["w"]  # in bfloat16, 256 + 1 is 256
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got.astype(jnp.float32), [512, 512])
    for dtype in (jnp.float16, jnp.float8_e4m3fn, jnp.complex64):
        assert average([jnp.ones(2, dtype)] * 2).dtype == dtype
    np.testing.assert_array_equal(average([jnp.full(2, 1j), jnp.ones(2, "complex64")]), [0.5 + 0.5j] * 2)
    with jax.enable_x64(True):
        third = average([jnp.ones((), "float64"), jnp.zeros((), "float64")], (1 / 3, 0))
        assert third == np.float64(1 / 3)


def test_trees_without_a_mean_are_refused():
    a = {"w": jnp.ones((2, 3)), "b": jnp.ones(2)}
    refuses(
        lambda: average([a, a, {"w": jnp.ones((2, 4)), "c": jnp.ones(2)}]),
        ValueError,
        "average: tree 2 is not like the first:\n  missing   b  expected float32[2], got nothing\n  extra     c  ",
        "reshaped  w  expected float32[2,3], got float32[2,4]\nGive checkpoints of one net",
    )
    refuses(lambda: average([a, update(a, {"b": jnp.ones(2, "bfloat16")}, keep=False)]), ValueError, "retyped   b")
    refuses(lambda: average([]), ValueError, "average takes one tree or more, got none")
    refuses(lambda: average([a, a], [1.0]), ValueError, "average takes a weight for each tree, got 1 for 2 trees")
    refuses(lambda: average(a), TypeError, "average takes several trees, [params, others], got one dict")
    for odd in (jnp.ones(2, jnp.int32), jnp.ones(2, bool), KEY):
        refuses(
            lambda odd=odd: average([{"n": odd}]), TypeError, "average: 'n' is ", "no floating number, and has no mean"
        )
    refuses(lambda: average([jax.eval_shape(lambda: a)]), TypeError, "'b' is float32[2], a spec, and has no mean")


def test_a_subtree_in_the_place_of_another():
    params = {"encoder": {"a": {"kernel": jnp.ones(2)}, "bias": jnp.ones(3)}, "head": {"kernel": jnp.ones(4)}}
    new = {"bias": np.full(3, 7.0), "a": {"kernel": np.full(2, 5.0)}}
    updated = update(params, {"encoder": new, "**/kernel": 2.0})
    assert updated["encoder"]["bias"].tolist() == [7.0] * 3
    assert updated["encoder"]["a"]["kernel"].tolist() == [5.0] * 2  # the first rule that fits
    assert updated["head"]["kernel"].tolist() == [2.0] * 4
    assert isinstance(updated["encoder"]["bias"], jax.Array)
    refuses(
        lambda: update(params, {"encoder": {"bias": jnp.ones(3), "c": jnp.ones(1)}}),
        ValueError,
        "the subtree given for 'encoder' has other arrays than are there: missing encoder/a/kernel, more encoder/c.",
    )
    refuses(lambda: update(params, {"encode": new}), KeyError, "there is no 'encode' (did you mean 'encoder'?)")


def test_arrays_of_the_layers_of_a_class():
    block = fn.Residual(fn.Sequential(fn.LayerNorm(), fn.Dense(4)))
    net = fn.Sequential(fn.Dense(4), fn.Repeat(block, 2), ("head", fn.Freeze(fn.Dense(2))))
    params = net.init(KEY, jnp.ones((1, 3)))
    kernels = fn.params.of(net, fn.Dense, "kernel")
    assert {path for path, _ in paths(params) if kernels(path)} == {
        "dense_0/kernel", "sequential_0/dense_0/kernel", "head/kernel",
    }  # fmt: skip
    assert kernels == fn.params.of(net, fn.Dense, "kernel") != fn.params.of(net, fn.Dense)
    head, _ = fn.params.split(params, fn.params.of(net, "head"))
    assert set(head) == {"head"}
    refuses(lambda: fn.params.of(net, fn.Conv), ValueError, "of: the net has no layer Conv; it has Dense")


def test_no_array_stands_in_two_places():
    w, own = jnp.ones(2), np.ones(2, np.float32)
    for tree in (
        insert({"a": w}, {"b": w}),
        fn.params.merge({"a": w}, {"b": w}),
        update({"a": w, "b": w + 1}, {"b": w}),
    ):
        assert tree["a"] is w
        jax.jit(lambda t: jax.tree.map(lambda x: x + 1, t), donate_argnums=0)(jax.tree.map(jnp.copy, tree))
        assert tree["a"].unsafe_buffer_pointer() != tree["b"].unsafe_buffer_pointer()
    inserted = insert({"a": w}, {"b": own})
    own[:] = 5
    assert inserted["b"].tolist() == [1.0, 1.0]


def test_a_frozen_layers_parameters_take_no_gradient_where_a_composite_reads_them():
    class Reader(fn.Composite):
        frozen: fn.Layer = fn.Sequential(("inner", fn.Freeze(fn.Dense(2), but="bias")))
        free: fn.Layer = fn.Dense(2)

        def forward(self, m, x):
            y = m.free(m.frozen(x))
            own = m.params["frozen"]["inner"]
            read = m.frozen[0].params["kernel"].sum() + own["kernel"].sum() + own["bias"].sum()
            return y + m.free.params["kernel"].sum() + read

    net, x = Reader(), jnp.ones((3, 2))
    gradient = jax.grad(lambda p: net.apply(p, x).sum())(net.init(KEY, x))
    assert not gradient["frozen"]["inner"]["kernel"].any()
    assert gradient["frozen"]["inner"]["bias"].all()
    assert gradient["free"]["kernel"].all()
