"""The laws that hold for every layer, over every row of the catalogue."""

import functools
import pickle

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn

KEY = jax.random.key(0)
RUN = jax.random.key(1)

each_batched_row = pytest.mark.parametrize(
    "row", [row for row in catalogue.ROWS if row.batched], ids=lambda row: row.name
)
each_row = pytest.mark.parametrize("row", catalogue.ROWS, ids=lambda row: row.name)


def close(a, b, tolerance=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(np.asarray(x, np.float32), np.asarray(y, np.float32), rtol=tolerance, atol=tolerance)


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def shapes(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), tree)


def made(row):
    return jax.jit(row.layer.init)(KEY, *row.sample), row.layer.init_state(*row.sample)


@functools.cache
def compiled(layer):
    """Its apply, compiled: quicker than op by op, and the same (that is a law)."""
    return jax.jit(layer.apply, static_argnames="train")


def is_random(row):
    return bool(row.layer._random_paths)


@each_row
def test_the_plan_tells_the_real_shapes(row):
    plan = row.layer.plan(*row.sample)
    params, state = made(row)
    assert shapes(params) == plan.params
    assert shapes(state) == plan.states
    assert shapes(compiled(row.layer)(params, *row.sample, state=state)[0]) == plan.output
    assert str(plan).splitlines()[-1].startswith("total")


@each_row
def test_init_from_arrays_and_from_shapes_gives_the_same_bits_and_runs_no_model(row):
    specs = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), row.sample)
    eager = row.layer.init(KEY, *row.sample)
    same_bits(eager, row.layer.init(KEY, *specs))
    same_bits(eager, jax.jit(row.layer.init)(KEY, *row.sample))
    jaxpr = str(jax.make_jaxpr(lambda key: row.layer.init(key, *row.sample))(KEY))
    assert row.multiplies or "dot_general" not in jaxpr
    assert "conv_general" not in jaxpr


@each_row
def test_jit_computes_what_eager_does(row):
    params, state = made(row)
    apply = row.layer.apply
    close(apply(params, *row.sample, state=state), jax.jit(apply)(params, *row.sample, state=state))
    train = jax.jit(apply, static_argnames="train")
    close(
        apply(params, *row.sample, state=state, key=RUN, train=True),
        train(params, *row.sample, state=state, key=RUN, train=True),
    )


@each_row
def test_vmap_computes_what_a_loop_does(row):
    params, state = made(row)
    batch = jax.tree.map(lambda a: jnp.stack([a, a[::-1]]), row.sample)

    def one(*inputs):
        return compiled(row.layer)(params, *inputs, state=state)[0]

    looped = [one(*(a[i] for a in batch)) for i in range(2)]
    close(jax.vmap(one)(*batch), jax.tree.map(lambda *each: jnp.stack(each), *looped))


@each_row
def test_gradients_are_finite(row):
    params, state = made(row)
    floating = [i for i, a in enumerate(row.sample) if a.dtype == np.float32]

    def loss(params, inputs):
        given = list(row.sample)
        for i, value in zip(floating, inputs, strict=True):
            given[i] = value
        output, _ = row.layer.apply(params, *given, state=state, key=RUN, train=True)
        return sum(jnp.sum(y.astype(jnp.float32) ** 2) for y in jax.tree.leaves(output))

    # Under jit: eager jax.grad of jax.checkpoint over a key trips the checker of key reuse, in plain JAX too.
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, [jnp.asarray(row.sample[i]) for i in floating])
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@each_row
def test_bfloat16_in_bfloat16_out(row):
    params, state = made(row)
    inputs = [jnp.asarray(a, jnp.bfloat16) if a.dtype == np.float32 else a for a in row.sample]
    if row.name in ("Embedding", "EmbeddingBag", "Unembed"):
        params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    output, _ = compiled(row.layer)(params, *inputs, state=state, key=RUN, train=True)
    wanted = jnp.float32 if row.name == "Cast" else jnp.bfloat16  # the row casts its output
    assert {y.dtype for y in jax.tree.leaves(output)} == {jnp.dtype(wanted)}


@each_row
def test_numpy_inputs_are_taken_and_left_alone(row):
    params, state = made(row)
    kept = [a.copy() for a in row.sample]
    output = row.layer.apply(params, *row.sample, state=state)[0]
    close(output, row.layer.apply(params, *map(jnp.asarray, row.sample), state=state)[0])
    assert all(isinstance(y, jax.Array) for y in jax.tree.leaves(output))
    assert all((a == b).all() for a, b in zip(kept, row.sample, strict=True))


@each_row
def test_a_layer_is_a_value(row):
    again = pickle.loads(pickle.dumps(row.layer))
    assert again == row.layer
    assert hash(again) == hash(row.layer)
    assert again.apply is row.layer.apply
    space = {**vars(fn), **vars(fn.rewrite), **vars(catalogue), "jax": jax, "np": np}
    if row.name not in ("Param", "Constant", "pair"):  # the first two show an array, the last its functions
        assert eval(repr(row.layer), space) == row.layer
    assert not jax.tree.leaves(row.layer)


@each_row
def test_evaluation_needs_no_key_and_leaves_the_state(row):
    params, state = made(row)
    first, kept = compiled(row.layer)(params, *row.sample, state=state)
    second, _ = compiled(row.layer)(params, *row.sample, state=state, key=RUN)
    same_bits(first, second)
    if not row.streams:
        same_bits(kept, state)


@each_batched_row
def test_in_evaluation_examples_do_not_see_each_other(row):
    params, state = made(row)
    whole, _ = compiled(row.layer)(params, *row.sample, state=state)
    one, _ = compiled(row.layer)(
        params, *(a[:1] for a in row.sample), state=row.layer.init_state(*(a[:1] for a in row.sample))
    )
    close(one, jax.tree.map(lambda y: jax.lax.slice_in_dim(y, 0, 1, axis=row.out_axis), whole))


@each_batched_row
def test_an_empty_batch_gives_empty_outputs_and_finite_gradients(row):
    params, _ = made(row)
    empty = [a[:0] for a in row.sample]
    state = row.layer.init_state(*empty)

    def loss(params):
        output, _ = row.layer.apply(params, *empty, state=state, key=RUN, train=True)
        assert {y.shape[row.out_axis] for y in jax.tree.leaves(output)} == {0}
        return sum(jnp.sum(y.astype(jnp.float32)) for y in jax.tree.leaves(output))

    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.jit(jax.grad(loss))(params)))


@each_row
def test_training_keeps_the_structure_of_the_state_and_repeats_with_the_key(row):
    params, state = made(row)
    apply = compiled(row.layer)
    first, new = apply(params, *row.sample, state=state, key=RUN, train=True)
    second, _ = apply(params, *row.sample, state=state, key=RUN, train=True)
    same_bits(first, second)
    assert shapes(new) == shapes(state)
    if is_random(row):
        with pytest.raises(ValueError, match="needs a key"):
            apply(params, *row.sample, state=state, train=True)
    if state:
        with pytest.raises(ValueError, match="init_state"):
            apply(params, *row.sample, key=RUN)


@each_row
def test_wrong_trees_are_refused(row):
    params, state = made(row)
    with pytest.raises((ValueError, TypeError), match="unread|takes parameters"):
        row.layer.apply({**params, "stranger": jnp.zeros(2)}, *row.sample, state=state)
    for drop in params:
        with pytest.raises(ValueError, match="missing|takes parameters"):
            row.layer.apply({k: v for k, v in params.items() if k != drop}, *row.sample, state=state)


@each_row
def test_the_deterministic_have_no_random_bits(row):
    params, state = made(row)
    jaxpr = str(jax.make_jaxpr(lambda p: row.layer.apply(p, *row.sample, state=state))(params))
    assert "random" not in jaxpr
    assert "threefry" not in jaxpr


def test_equal_nets_do_not_retrace():
    traces = []

    def count(x):
        traces.append(1)
        return x

    def net():
        return fn.Sequential(fn.Dense(3), count)

    x = jnp.ones((2, 3))
    params = net().init(KEY, x)
    before = len(traces)
    for _ in range(3):
        jax.jit(net().apply)(params, x)
    assert len(traces) == before + 1

    @jax.jit
    def static(layer, params, x):
        return layer.apply(params, x)

    before = len(traces)
    for _ in range(3):
        static(net(), params, x)
    assert len(traces) == before + 1
