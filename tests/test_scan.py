"""Scan against loops and separate runs: lengths, resets, keys, chunks that are computed again."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import floats

import funcnets as fn
from funcnets.random import copy_key, path_key, run_key

KEY, RUN = jax.random.key(0), jax.random.key(1)
XS = jnp.asarray(floats(3, 5, 2))
CELL = fn.LSTMCell(4)
PARAMS = fn.Scan(CELL).init(KEY, XS)


def close(a, b, tolerance=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def row(tree, b):
    return jax.tree.map(lambda a: a[b : b + 1], tree)


# Lengths and resets


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_lengths_are_separate_runs_of_rows_cut_short(axis, reverse, given):
    net = fn.Scan(CELL, axis=axis, reverse=reverse, return_carry=True)
    lengths = np.array([3, 5, 0], np.uint8)
    start = (
        (jnp.asarray(floats(3, 4, seed=1)), jnp.asarray(floats(3, 4, seed=2)))
        if given
        else CELL.initial_carry(XS[:, 0])
    )
    inputs = [start] if given else []
    carry, ys = net.apply(PARAMS, *inputs, jnp.moveaxis(XS, 1, axis), lengths=lengths)
    ys = jnp.moveaxis(ys, axis, 1)
    for b, n in enumerate(lengths):
        one, cut = fn.Scan(CELL, reverse=reverse).apply(PARAMS, row(start, b), XS[b : b + 1, :n])
        close(row(carry, b), one)
        close(ys[b : b + 1, :n], cut)
        assert (ys[b, n:] == 0).all()


def test_what_stands_beyond_a_length_is_never_seen():
    net, lengths = fn.Scan(CELL), jnp.array([3, 5, 1])
    beyond = jnp.arange(5)[None] >= lengths[:, None]

    @jax.jit
    @jax.value_and_grad
    def loss(params, padding):
        xs = jnp.where(beyond[..., None], padding, XS)
        return jnp.square(net.apply(params, xs, lengths=lengths)).sum()

    close(loss(PARAMS, jnp.float32(jnp.nan)), loss(PARAMS, jnp.float32(7)))


def test_one_sequence_has_a_length_without_axes():
    net = fn.Scan(CELL, axis=0)
    assert (net.apply(PARAMS, XS[0], lengths=jnp.int32(2))[2:] == 0).all()
    per_row = jax.vmap(lambda xs, n: net.apply(PARAMS, xs, lengths=n))(XS, jnp.array([3, 5, 1]))
    close(per_row, fn.Scan(CELL).apply(PARAMS, XS, lengths=jnp.array([3, 5, 1])))


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_reset_is_separate_runs(axis):
    xs = jnp.moveaxis(XS, 1, axis)
    reset = np.zeros((3, 5), bool)
    reset[0, 2] = reset[1, 0] = reset[2, 1] = reset[2, 4] = True
    start = (jnp.ones((3, 4)), jnp.ones((3, 4)))
    net = fn.Scan(CELL, axis=axis)
    _, ys = net.apply(PARAMS, start, xs, reset=np.moveaxis(reset, 1, 0) if axis == 0 else reset)
    ys = jnp.moveaxis(ys, axis, 1) if axis == 0 else ys
    plain = fn.Scan(CELL)
    for b, cuts in enumerate([[2], [0], [1, 4]]):
        parts = [plain.apply(PARAMS, row(start, b), XS[b : b + 1, : cuts[0]])[1]]
        parts += [plain.apply(PARAMS, XS[b : b + 1, a:z]) for a, z in zip(cuts, [*cuts[1:], 5], strict=True)]
        close(ys[b : b + 1], jnp.concatenate(parts, 1))


def test_reset_in_reverse_comes_before_the_step_in_the_order_of_running_and_not_beyond_a_length():
    net, plain = fn.Scan(CELL, reverse=True), fn.Scan(CELL, reverse=True)
    reset = jnp.zeros((3, 5), bool).at[:, 1].set(True).at[0, 4].set(True)
    start = (jnp.ones((3, 4)), jnp.ones((3, 4)))
    _, ys = net.apply(PARAMS, start, XS, reset=reset, lengths=jnp.array([4, 5, 5]))
    close(ys[:, :2], plain.apply(PARAMS, XS[:, :2]))
    close(ys[:1, 2:4], plain.apply(PARAMS, row(start, 0), XS[:1, 2:4])[1])


def test_lengths_and_resets_go_through_planning_numpy_and_empty_batches():
    net = fn.Scan(CELL)
    masks = {"lengths": np.array([1, 2, 5]), "reset": np.zeros((3, 5), bool)}
    assert net.plan(XS, **masks).output.shape == (3, 5, 4)
    assert net.apply(PARAMS, XS, **masks).shape == (3, 5, 4)
    assert net.apply(PARAMS, XS[:0], lengths=jnp.zeros(0, jnp.int32)).shape == (0, 5, 4)
    assert net.apply(PARAMS, XS[:, :0], lengths=jnp.zeros(3, jnp.int32)).shape == (3, 0, 4)


# Carries


def test_the_carry_is_returned_where_it_is_given_or_asked_for():
    zeros = CELL.initial_carry(XS[:, 0])
    given = fn.Scan(CELL).apply(PARAMS, zeros, XS)
    close(fn.Scan(CELL, return_carry=True).apply(PARAMS, XS), given)
    close(fn.Scan(CELL, return_carry=True).apply(PARAMS, zeros, XS), given)
    close(fn.Scan(CELL).apply(PARAMS, XS), given[1])


def test_the_cell_behind_wrappers_says_where_to_start():
    close(fn.Scan(fn.Remat(fn.Freeze(CELL))).apply(PARAMS, XS), fn.Scan(CELL).apply(PARAMS, XS))


def test_a_scan_is_a_cell():
    grid = jnp.asarray(floats(2, 4, 5, 3))  # (batch, rows, columns, channels): each row's start is the last one's end
    net = fn.Scan(fn.Scan(CELL))
    params = net.init(KEY, grid)
    flat = fn.Scan(CELL).apply(params, grid.reshape(2, 20, 3))
    close(net.apply(params, grid), flat.reshape(2, 4, 5, 4))


# Keys


@fn.compose(drop=fn.Dropout(0.5))
def dropping(m, carry, x):
    return carry, m.drop(x)


@pytest.mark.parametrize("remat", [None, 2])
def test_keys_are_a_steps_own_or_the_sequences(remat):
    ones = jnp.ones((2, 5, 8))

    def run(keys):
        net = fn.Scan(dropping, keys=keys, remat=remat)
        return net.apply({}, jnp.zeros(2), ones, key=RUN, train=True)[1]

    step, sequence = run("step"), run("sequence")
    for t in range(5):
        key = copy_key(path_key(run_key(RUN), ""), t)
        wanted = dropping.apply({}, jnp.zeros(2), ones[:, t], key=key, train=True)[1]
        np.testing.assert_array_equal(step[:, t], wanted)
        np.testing.assert_array_equal(sequence[:, t], step[:, 0])
    assert (step[:, 0] != step[:, 1]).any()


# Chunks


class Count(fn.Layer):
    """Counts its steps in training, and tells by a factor."""

    def states(self, x):
        return {"count": fn.Param((), fn.initializers.Zeros())}

    def forward(self, p, x, *, state, train):
        return x * (1 + state["count"] / 1000), {"count": state["count"] + 1} if train else state


class Noisy(fn.Composite):
    gru: fn.Layer = fn.GRUCell(4)
    drop: fn.Layer = fn.Dropout(0.2)
    count: fn.Layer = Count()

    def initial_carry(self, x):
        return self.gru.initial_carry(x)

    def forward(self, m, carry, x):
        carry, y = m.gru(carry, x)
        return carry, m.count(m.drop(y))


LONG = jnp.asarray(floats(2, 1000, 3))
MASKS = {"lengths": jnp.array([1000, 777]), "reset": jnp.zeros((2, 1000), bool).at[0, 500].set(True)}


@pytest.mark.parametrize(
    ("remat", "options", "masks"),
    [
        ("sqrt", {}, {}),
        (7, {"reverse": True}, MASKS),
        (30, {"unroll": 2, "keys": "sequence"}, MASKS),
        (2000, {"reverse": True}, {}),
    ],
)
def test_gradients_through_chunks_are_the_plain_ones_with_states_and_keys(remat, options, masks):
    plain, chunked = fn.Scan(Noisy(), **options), fn.Scan(Noisy(), **options, remat=remat)
    params, state, start = plain.init(KEY, LONG), plain.init_state(LONG), jnp.zeros((2, 4))

    def run(net):
        def loss(params, start, xs):
            (carry, ys), new = net.apply(params, start, xs, **masks, state=state, key=RUN, train=True)
            return jnp.square(carry).sum() + jnp.square(ys).mean(), (carry, ys, new)

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(params, start, LONG)

    with jax.debug_key_reuse(False):  # the gradient of a scan in a checkpoint in a scan trips it in plain JAX too
        by_chunks = run(chunked)
        close(by_chunks, run(plain))
    assert float(by_chunks[0][1][2]["count"]["count"]) == 1000


def test_chunks_take_memory_for_the_square_root_of_the_steps():
    def temporaries(steps, remat):
        net, xs = fn.Scan(CELL, remat=remat, return_carry=True), jax.ShapeDtypeStruct((2, steps, 2), jnp.float32)
        gradient = jax.jit(jax.grad(lambda params, xs: net.apply(params, xs)[0][1].sum()))
        return gradient.lower(PARAMS, xs).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(1000, "sqrt") < temporaries(1000, None) / 8
    assert temporaries(4000, "sqrt") < 3 * temporaries(1000, "sqrt")  # 2 for the square root, 4 for all steps


def test_chunks_of_no_steps():
    for net in (fn.Scan(CELL, remat="sqrt"), fn.Scan(CELL, remat=3, reverse=True)):
        assert net.apply(PARAMS, XS[:, :0]).shape == (3, 0, 4)
        assert net.apply(PARAMS, XS[:0]).shape == (0, 5, 4)


# What is refused


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"axis": 1.0}, "Scan takes axis as a whole number, got 1.0. The time axis of (batch, time, ...) is 1"),
        ({"reverse": 1}, "Scan takes reverse as True or False, got 1. Write reverse=True"),
        ({"unroll": 0}, "Scan takes unroll as a whole number, at least 1, got 0. It is a number of steps"),
        ({"remat": True}, "Scan takes remat as None, 'sqrt', or a whole number, at least 1, got True. It is a number"),
        ({"remat": "log"}, "Scan takes remat as None, 'sqrt', or a whole number, at least 1, got 'log'."),
        ({"keys": "batch"}, "Scan takes keys as 'step' or 'sequence', got 'batch'. A key itself goes to apply"),
        ({"return_carry": None}, "Scan takes return_carry as True or False, got None. Write return_carry=True"),
    ],
)
def test_it_refuses_fields(fields, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        fn.Scan(CELL, **fields)


def moved(carry, x):
    return carry.astype(jnp.bfloat16), x


def shared(carry, x):
    return carry, x.sum(0)


@pytest.mark.parametrize(
    ("net", "inputs", "masks", "kind", "text"),
    [
        (fn.Scan(CELL), (), {}, TypeError, "Scan takes (xs) or (carry, xs), got 0 inputs: ()"),
        (
            fn.Scan(CELL),
            (jnp.ones(7),),
            {},
            ValueError,
            "Scan takes inputs with a time axis 1, got float32[7]. For one sequence (time, ...), set axis=0",
        ),
        (
            fn.Scan(CELL),
            ((XS, XS[:, 1:]),),
            {},
            ValueError,
            "Scan takes inputs with one length along axis 1, got (float32[3,5,2], float32[3,4,2])",
        ),
        (fn.Scan(dropping), (XS,), {}, TypeError, "the cell has no initial_carry(x), so give the carry to start from"),
        (fn.Scan(jnp.add), (XS[:, 0], XS), {}, TypeError, "a cell returns (carry, y), got float32[3,2]"),
        (
            fn.Scan(moved),
            (XS[:, 0], XS),
            {},
            ValueError,
            "a cell keeps its carry's shapes and dtypes; float32[3,2] became bfloat16[3,2]. Give a carry of the cell's "
            "own, or cast it back; in another precision, Cast(Scan(cell), dtype)",
        ),
        (
            fn.Scan(CELL),
            (XS,),
            {"lengths": jnp.ones(3)},
            ValueError,
            "Scan takes lengths as an array of whole numbers, one for each row: (batch,), got float32[3] with inputs "
            "float32[3,5,2]. Write lengths=jnp.asarray(lengths), with the axes that come first in every input",
        ),
        (fn.Scan(CELL), (XS,), {"lengths": [3, 5, 1]}, ValueError, "one for each row: (batch,), got [3, 5, 1] with"),
        (fn.Scan(CELL), (XS,), {"lengths": jnp.ones(5, int)}, ValueError, "(batch,), got int32[5] with inputs"),
        (
            fn.Scan(CELL),
            (XS,),
            {"reset": jnp.ones((3, 4), bool)},
            ValueError,
            "Scan takes reset as an array of booleans, one for each row and step: (batch, time), got bool[3,4] with "
            "inputs float32[3,5,2]",
        ),
        (fn.Scan(CELL), (XS,), {"reset": jnp.ones((3, 5))}, ValueError, "(batch, time), got float32[3,5] with inputs"),
        (fn.Scan(CELL), (XS,), {"reset": jnp.ones(3, bool)}, ValueError, "(batch, time), got bool[3] with inputs"),
        (
            fn.Scan(dropping),
            (jnp.zeros(3), XS),
            {"reset": jnp.ones((3, 5), bool)},
            TypeError,
            "the cell has no initial_carry(x)",
        ),
        (
            fn.Scan(shared),
            (jnp.zeros(3), XS),
            {"lengths": jnp.ones(3, int)},
            ValueError,
            "Scan with lengths or reset takes a cell whose carry and outputs have the axes (3,) of the batch first, "
            "got (float32[3], float32[2]). Give each example a row of its own, or leave lengths and reset out",
        ),
    ],
)
def test_it_refuses_inputs_and_cells(net, inputs, masks, kind, text):
    for call in (net.plan, lambda *inputs, **masks: net.apply(PARAMS if net.cell is CELL else {}, *inputs, **masks)):
        with pytest.raises(kind, match=re.escape(text)):
            call(*inputs, **masks)


@fn.compose(dense=fn.Dense(3))
def normed(m, carry, x):
    carry = jnp.tanh(m.dense(x / jnp.linalg.norm(x, axis=-1, keepdims=True)) + carry)
    return carry, carry


def test_gradients_past_a_length_are_finite_where_the_cell_has_none_at_zero():
    xs = jax.random.normal(jax.random.key(3), (3, 7, 3))
    net, carry, lengths = fn.Scan(normed), jnp.zeros((3, 3)), jnp.array([7, 3, 5])
    params = net.init(jax.random.key(0), carry, xs)

    def loss(params, xs):
        return net.apply(params, carry, xs, lengths=lengths)[1].sum()

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, xs.at[1, 3:].set(jnp.nan))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert (gradients[1][1, 3:] == 0).all()


def test_a_sequence_without_a_batch_is_not_run_over_its_features():
    with pytest.raises(
        ValueError, match=r"got float32\[5,4\], whose axis 1 is the last. For one sequence .* set axis=0"
    ):
        fn.Scan(fn.LSTMCell(3)).init(jax.random.key(0), jnp.ones((5, 4)))
    assert fn.Scan(fn.LSTMCell(3), axis=0).plan(jnp.ones((5, 4))).output.shape == (5, 3)
