from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references

from funcnets.combinators import Sequential
from funcnets.compose import compose
from funcnets.initializers import Ones
from funcnets.layers.embedding import Embedding, EmbeddingBag, Unembed
from funcnets.layers.linear import Dense

KEY = jax.random.key(0)
TABLE = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)


@pytest.mark.parametrize("ids", [4, [0, 4, 2], [[1, 1], [3, 0]], np.zeros((2, 0))], ids=str)
def test_each_id_gives_its_row_and_gathers_its_gradient(ids):
    ids = np.asarray(ids, np.int32)
    weight = np.random.default_rng(1).standard_normal((*ids.shape, 3)).astype(np.float32)
    y, pull = jax.vjp(lambda p: Embedding(5, 3).apply(p, ids), {"table": jnp.asarray(TABLE)})
    expected, gathered = np.zeros(weight.shape), np.zeros((5, 3))
    for at in np.ndindex(*ids.shape):
        expected[at] = TABLE[ids[at]]
        gathered[ids[at]] += weight[at]
    np.testing.assert_array_equal(y, expected.astype(np.float32))
    np.testing.assert_allclose(pull(jnp.asarray(weight))[0]["table"], gathered, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.int32, jnp.uint32])
def test_ids_of_any_whole_dtype(dtype):
    table = {"table": jnp.arange(200.0)[:, None]}
    y = Embedding(200, 1).apply(table, jnp.array([0, 100, 127], dtype))
    np.testing.assert_array_equal(y[:, 0], [0, 100, 127])


def test_an_id_out_of_range_gives_nan_and_never_another_row():
    y = Embedding(5, 3).apply({"table": jnp.asarray(TABLE)}, jnp.array([-1, 0, 4, 5, -6, 2**31 - 1]))
    np.testing.assert_array_equal(np.isnan(y).all(-1), [True, False, False, True, True, True])
    np.testing.assert_array_equal(np.isnan(y).any(-1), np.isnan(y).all(-1))
    small = Embedding(5, 3).apply({"table": jnp.asarray(TABLE)}, jnp.array([255, 4], jnp.uint8))
    np.testing.assert_array_equal(np.isnan(small).all(-1), [True, False])


def test_a_wild_id_of_64_bits_gives_nan_too():
    with jax.enable_x64(True):
        ids = jnp.array([1, 2**40, 2**32 + 2, -(2**40)])
        assert ids.dtype == jnp.int64
        y = Embedding(5, 3).apply({"table": jnp.asarray(TABLE)}, ids)
    np.testing.assert_array_equal(np.isnan(y).all(-1), [False, True, True, True])


@references.each("embedding", "embedding")
def test_the_padding_id_reads_as_zeros_and_takes_no_gradient(case):
    def to_params(p):  # PyTorch's row reads as what it holds; ours as zeros, whatever it holds
        return {"table": np.where(np.arange(5)[:, None] == 2, 7, p["weight"]).astype(np.float32)}

    net = Embedding(5, 3, padding_id=2)
    ids, weight = jnp.asarray(case.inputs[0]), case.cotangents[0]
    y, pull = jax.vjp(lambda p: net.apply(p, ids), jax.tree.map(jnp.asarray, to_params(case.params)))
    wanted = np.where((ids == 2)[..., None], 0, case.outputs[0])
    np.testing.assert_array_equal(y, wanted)
    references.close(pull(jnp.asarray(weight))[0]["table"], case.gradients["weight"])
    assert not case.gradients["weight"][2].any()
    few = Embedding(300, 3, padding_id=200).apply({"table": jnp.ones((300, 3))}, jnp.array([100], jnp.int8))
    np.testing.assert_array_equal(few, np.ones((1, 3)))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int32, jnp.uint32])
def test_ids_out_of_range_may_be_clamped(dtype):
    table = {"table": jnp.arange(100.0)[:, None]}
    top, low = jnp.iinfo(dtype).max, jnp.iinfo(dtype).min
    y = Embedding(100, 1, out_of_range="clamp").apply(table, jnp.array([low, 5, 99, 100, top], dtype))
    np.testing.assert_array_equal(y[:, 0], [0, 5, 99, 99, 99])
    y = Embedding(100, 1).apply(table, jnp.array([5, 99, 100, top], dtype))
    np.testing.assert_array_equal(np.isnan(y[:, 0]), [False, False, True, True])


def test_ids_of_64_bits_may_be_clamped():
    with jax.enable_x64(True):
        table = {"table": jnp.arange(5, dtype=jnp.float32)[:, None]}
        net = Embedding(5, 1, out_of_range="clamp")
        np.testing.assert_array_equal(net.apply(table, jnp.array([2**40, -(2**40), 2**32 + 2, 3]))[:, 0], [4, 0, 4, 3])
        wild = jnp.array([2**64 - 1, 2**32, 1], jnp.uint64)
        np.testing.assert_array_equal(net.apply(table, wild)[:, 0], [4, 4, 1])


@references.each("embedding", "bag")
def test_a_bag_is_torchs(case):
    case.check(EmbeddingBag(5, 3, **case.options).apply, lambda p: {"table": p["weight"]})


@references.each("embedding", "masked")
def test_a_mask_leaves_ids_out_of_a_bag_as_torchs_padding_does(case):
    net = EmbeddingBag(5, 3, **case.options)
    wild = lambda ids: jnp.where(ids == 2, -1, ids)  # noqa: E731  # what is masked may be anything
    case.check(lambda p, ids: net.apply(p, wild(ids), mask=ids != 2), lambda p: {"table": p["weight"]})


@references.each("embedding", "weighted")
def test_weights_of_a_bag_are_torchs(case):
    net = EmbeddingBag(5, 3, "sum")
    case.check(lambda p, ids, weights, table: net.apply({"table": table}, ids, weights=weights))


def test_a_bag_may_be_empty_or_of_strangers():
    table = {"table": jnp.asarray(TABLE)}
    for mode in ("mean", "sum", "max"):
        net = EmbeddingBag(5, 3, mode)
        np.testing.assert_array_equal(net.apply(table, jnp.zeros((2, 0), jnp.int32)), np.zeros((2, 3)))
        assert np.isnan(net.apply(table, jnp.array([1, 5]))).all()
        hidden = lambda p, w, net=net: net.apply(  # noqa: E731
            p, jnp.array([1, -1]), mask=jnp.array([True, False]), **({"weights": w} if net.mode == "sum" else {})
        )
        grads = jax.grad(lambda p, w: hidden(p, w).sum(), argnums=(0, 1))(table, jnp.ones(2))  # noqa: B023
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ("mode", "inputs", "kind", "text"),
    [
        (
            "sum",
            {"mask": jnp.ones(2, bool)},
            ValueError,
            "EmbeddingBag takes mask of the shape of the ids, (3,), got b",
        ),
        (
            "sum",
            {"mask": jnp.ones(3)},
            TypeError,
            "takes mask (..., n) of booleans, True for the ids in the bag, got f",
        ),
        (
            "sum",
            {"weights": jnp.ones(3, bool)},
            TypeError,
            "EmbeddingBag takes weights (..., n) of floating numbers, g",
        ),
        (
            "mean",
            {"weights": jnp.ones(3)},
            ValueError,
            "EmbeddingBag takes weights with mode='sum', got mode='mean'. T",
        ),
    ],
)
def test_a_bag_refuses_inputs(mode, inputs, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        EmbeddingBag(5, 3, mode).plan(jnp.zeros(3, jnp.int32), **inputs)
    with pytest.raises(ValueError, match=re.escape("EmbeddingBag takes (..., n), got int32[].")):
        EmbeddingBag(5, 3).plan(jnp.asarray(1))
    with pytest.raises(TypeError, match=re.escape("EmbeddingBag takes whole numbers (..., n), got float32[3].")):
        EmbeddingBag(5, 3).plan(jnp.ones(3))


def test_it_declares_its_table_and_draws_it_from_the_initialiser():
    ids = jax.ShapeDtypeStruct((2, 7), jnp.int32)
    plan = Embedding(1000, 64).plan(ids)
    assert plan.params == {"table": jax.ShapeDtypeStruct((1000, 64), jnp.float32)}
    assert plan.output == jax.ShapeDtypeStruct((2, 7, 64), jnp.float32)
    table = Embedding(1000, 64).init(KEY, ids)["table"]
    assert abs(float(table.std()) - 0.02) < 1e-3
    assert (Embedding(4, 2, table_init=Ones()).init(KEY, ids)["table"] == 1).all()


def test_a_tied_unembed_scores_with_the_same_table():
    net = Sequential(("embed", Embedding(5, 3)), jnp.tanh, ("embed", Unembed()))
    ids = jnp.array([[0, 4, 2]])
    params = {"embed": {"table": jnp.asarray(TABLE)}}
    assert jax.tree.structure(net.init(KEY, ids)) == jax.tree.structure(params)
    weight = np.random.default_rng(1).standard_normal((1, 3, 5)).astype(np.float32)

    def loss(params):
        y = net.apply(params, ids)
        return (y * weight).sum(), y

    (_, y), grads = jax.value_and_grad(loss, has_aux=True)(params)
    hidden = np.tanh(TABLE[ids])
    np.testing.assert_allclose(y, hidden @ TABLE.T, rtol=1e-5, atol=1e-6)
    out = np.einsum("btv,btd->vd", weight, hidden)
    into = np.zeros((5, 3))
    np.add.at(into, np.asarray(ids), (weight @ TABLE) * (1 - hidden**2))
    np.testing.assert_allclose(grads["embed"]["table"], out + into, rtol=1e-5, atol=1e-5)


def test_a_part_of_a_tied_net_reads_the_table_that_it_is_given():
    net = Sequential(("embed", Embedding(5, 3)), Dense(3), ("embed", Unembed()))
    params, ids = net.init(KEY, jnp.array([0, 4])), jnp.array([0, 4])
    stream = net[:2].apply({name: params[name] for name in ("embed", "dense_0")}, ids)
    y = net[2:].apply({"embed": params["embed"]}, stream)
    np.testing.assert_array_equal(y, net.apply(params, ids))
    np.testing.assert_array_equal(y, Unembed().apply(params["embed"], stream))
    with pytest.raises(ValueError, match="unread    embed/kernel  expected nothing"):
        net[2:].apply({"embed": params["embed"] | {"kernel": stream}}, stream)
    with pytest.raises(ValueError, match="unread"):
        Unembed().apply(params["embed"], stream, state={"table": stream})


def test_unembed_takes_a_table_handed_over_in_a_forward_function():
    @compose(embed=Embedding(5, 3), scores=Unembed())
    def net(m, ids):
        return m.scores(m.embed(ids), params=m.embed.params)

    ids = jnp.array([1, 2])
    params = net.init(KEY, ids)
    assert list(params) == ["embed"]
    table = params["embed"]["table"]
    np.testing.assert_allclose(net.apply(params, ids), table[ids] @ table.T, rtol=1e-5)


def test_unembed_computes_in_the_dtype_of_its_input():
    net = Sequential(("embed", Embedding(5, 3)), lambda x: x.astype(jnp.bfloat16), ("embed", Unembed()))
    ids = jnp.array([1, 2])
    assert net.apply(net.init(KEY, ids), ids).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: Embedding(0, 3),
            "Embedding takes vocab as a whole number, at least 1, got 0. It is the number of ids",
        ),
        (lambda: Embedding(3, 2.5), "Embedding takes features as a whole number, at least 1, got 2.5. It is the width"),
        (
            lambda: Embedding(3, 2, padding_id=3),
            "Embedding takes padding_id as None or an id from 0 to 2, got 3. It is one of the ids: count it in vocab",
        ),
        (lambda: Embedding(3, 2, padding_id=-1), "Embedding takes padding_id as None or an id from 0 to 2, got -1."),
        (
            lambda: Embedding(3, 2, out_of_range="raise"),
            "Embedding takes out_of_range as 'nan' or 'clamp', got 'raise'.",
        ),
        (lambda: EmbeddingBag(0, 3), "EmbeddingBag takes vocab as a whole number, at least 1, got 0. It is the number"),
        (lambda: EmbeddingBag(3, 0), "EmbeddingBag takes features as a whole number, at least 1, got 0. It is the wid"),
        (lambda: EmbeddingBag(3, 2, "avg"), "EmbeddingBag takes mode as 'mean', 'sum' or 'max', got 'avg'. Take the s"),
    ],
)
def test_embedding_refuses_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bool_])
def test_embedding_refuses_ids_that_are_no_whole_numbers(dtype):
    text = (
        f"Embedding takes whole numbers (...), got {jnp.dtype(dtype).name}[3]. Convert them first, x.astype(jnp.int32)"
    )
    with pytest.raises(TypeError, match=re.escape(text)):
        Embedding(5, 3).plan(jnp.ones(3, dtype))


@pytest.mark.parametrize(
    ("net", "x", "kind", "text"),
    [
        (
            Unembed(),
            jnp.ones(3),
            ValueError,
            "Unembed takes a table that stands under its name, got {}. Tie it to an Embedding by name, "
            'fn.Sequential(("embed", fn.Embedding(v, d)), ..., ("embed", fn.Unembed())), or hand it over in a forward '
            "function, m.unembed(x, params=m.embed.params)",
        ),
        (
            Sequential(("embed", Dense(3)), ("embed", Unembed())),
            jnp.ones((2, 3)),
            ValueError,
            "Unembed takes a table that stands under its name, got {'kernel': float32[3,3], 'bias': float32[3]}.",
        ),
        (
            Sequential(("embed", Embedding(5, 3)), Dense(2), ("embed", Unembed())),
            jnp.ones(2, jnp.int32),
            ValueError,
            "Unembed with the table float32[5,3] takes (..., 3), got float32[2,2]. Bring x to that width first: "
            "fn.Dense(3)",
        ),
        (Unembed(), jnp.ones(3, jnp.int32), TypeError, "Unembed takes floating numbers (..., features), got int32[3]."),
    ],
)
def test_unembed_refuses_inputs_and_says_how_to_tie(net, x, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        net.plan(x)
