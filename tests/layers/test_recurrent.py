import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import references
from catalogue import floats

import funcnets as fn
from funcnets.initializers import Constant, Normal, Ones, Orthogonal, TorchBias, Zeros

KEY, RUN = jax.random.key(0), jax.random.key(1)
X = floats(2, 3)
CELLS = [fn.RNNCell(4), fn.LSTMCell(4), fn.GRUCell(4), fn.MGUCell(4)]
each_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: type(cell).__name__)
KINDS = {"RNN": fn.RNNCell, "LSTM": fn.LSTMCell, "GRU": fn.GRUCell}


def close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), a, b)


# Against PyTorch


def kernels(p, kind, suffix, *, gradient):
    """One cell's arrays of PyTorch's; of its two biases ours is the sum, and has the gradient of either."""
    held = {"kernel": p[f"weight_ih{suffix}"].T, "recurrent_kernel": p[f"weight_hh{suffix}"].T}
    if f"bias_ih{suffix}" not in p:
        return held
    of_x, of_h = p[f"bias_ih{suffix}"], p[f"bias_hh{suffix}"]
    if kind != "GRU":
        return held | {"bias": of_x if gradient else of_x + of_h}
    gates = 2 * len(of_h) // 3
    summed = of_x if gradient else np.concatenate([of_x[:gates] + of_h[:gates], of_x[gates:]])
    return held | {"bias": summed, "recurrent_bias": of_h[gates:]}


def without(prefix, p):
    return {name.removeprefix(prefix): array for name, array in p.items()}


def to_carry(kind, states):
    return (states[1], states[0]) if kind == "LSTM" else states[0]  # PyTorch's order is h, c


@references.each("recurrent", "cell")
def test_cells_are_those_of_torch(case):
    kind, fields = case.options["cell"], dict(case.options["fields"])
    if "activation" in fields:
        fields["activation"] = jax.nn.relu
    cell = KINDS[kind](2, **fields)

    def apply(params, x, *states):
        carry, y = cell.apply(params, to_carry(kind, states), x)
        assert y is (carry[1] if kind == "LSTM" else carry)
        return carry[::-1] if kind == "LSTM" else y

    case.check(
        apply,
        lambda p: kernels(without("cell.", p), kind, "", gradient=False),
        lambda p: kernels(without("cell.", p), kind, "", gradient=True),
    )


@references.each("recurrent", "layers")
def test_layers_directions_lengths_and_states_are_those_of_torch(case):
    kind, both, depth = case.options["cell"], case.options["both"], case.options["layers"]
    lengths = case.options["lengths"] and jnp.array(case.options["lengths"])
    cell = KINDS[kind](2)
    scan = fn.Scan(cell, return_carry=True)
    layer = fn.Bidirectional(scan) if both else scan
    directions = ["", "_reverse"] if both else [""]

    def apply(params, xs, *states):
        ends = []
        for i in range(depth):
            at = range(i * len(directions), (i + 1) * len(directions))
            starts = tuple(to_carry(kind, [state[j] for state in states]) for j in at) if states else ()
            given = [starts if both else starts[0]] if states else []
            last, xs = layer.apply(params[i], *given, xs, lengths=lengths)
            ends += last if both else [last]
        last = jax.tree.map(lambda *each: jnp.stack(each), *ends)
        return xs, last[::-1] if kind == "LSTM" else last

    def mapped(p, gradient):
        p = without("layer.", p)
        layers = []
        for i in range(depth):
            each = [kernels(p, kind, f"_l{i}{direction}", gradient=gradient) for direction in directions]
            layers.append(dict(zip(("forward_rnn", "backward_rnn"), each, strict=True)) if both else each[0])
        return layers

    case.check(apply, lambda p: mapped(p, False), lambda p: mapped(p, True))


# Against loops


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_minimal_gated_unit_by_hand(use_bias):
    cell, h = fn.MGUCell(2, use_bias=use_bias, bias_init=Normal(1.0)), floats(2, 2, seed=1)
    params = cell.init(KEY, h, X)
    p = {name: np.asarray(array, np.float64) for name, array in params.items()}
    wanted = np.zeros((2, 2))
    for b in range(2):
        f, n = np.zeros(2), np.zeros(2)
        for j in range(2):
            f[j] = sum(X[b, i] * p["kernel"][i, j] for i in range(3))
            f[j] += sum(h[b, i] * p["recurrent_kernel"][i, j] for i in range(2))
            f[j] = sigmoid(f[j] + (p["bias"][j] if use_bias else 0))
        for j in range(2):
            n[j] = sum(X[b, i] * p["kernel"][i, 2 + j] for i in range(3))
            n[j] += sum(f[i] * h[b, i] * p["recurrent_kernel"][i, 2 + j] for i in range(2))
            n[j] = np.tanh(n[j] + (p["bias"][2 + j] if use_bias else 0))
        wanted[b] = (1 - f) * h[b] + f * n
    carry, y = cell.apply(params, h, X)
    np.testing.assert_allclose(y, wanted, rtol=1e-5)
    np.testing.assert_array_equal(carry, y)


@pytest.mark.parametrize(("size", "spatial"), [(3, (4,)), ((3, 2), (4, 3)), ((1, 3, 2), (2, 3, 2))])
def test_convolutional_lstm_by_hand(size, spatial):
    features, x = 2, floats(2, *spatial, 3)
    cell = fn.ConvLSTMCell(features, size, bias_init=Normal(1.0))
    c, h = (floats(2, *spatial, features, seed=seed) for seed in (1, 2))
    params = cell.init(KEY, (c, h), x)
    p = {name: np.asarray(array, np.float64) for name, array in params.items()}
    taps = p["kernel"].shape[:-2]

    def convolved(x, kernel):
        y = np.zeros((*x.shape[:-1], kernel.shape[-1]))
        for at in np.ndindex(*spatial):
            for tap in np.ndindex(*taps):
                place = tuple(a + t - (k - 1) // 2 for a, t, k in zip(at, tap, taps, strict=True))
                if all(0 <= q < n for q, n in zip(place, spatial, strict=True)):
                    y[(slice(None), *at)] += x[(slice(None), *place)] @ kernel[tap]
        return y

    gates = convolved(x, p["kernel"]) + convolved(h, p["recurrent_kernel"]) + p["bias"]
    i, f, g, o = np.split(gates, 4, axis=-1)
    wanted_c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    wanted_h = sigmoid(o) * np.tanh(wanted_c)
    close(cell.apply(params, (c, h), x), ((np.float32(wanted_c), np.float32(wanted_h)), np.float32(wanted_h)))
    assert params["recurrent_kernel"].shape == (*taps, features, 4 * features)


def test_the_jaxpr_of_a_scanned_cell_is_that_of_a_loop_by_hand():
    net, xs = fn.Scan(fn.LSTMCell(4)), jnp.asarray(floats(9, 5, 3))

    def by_hand(p, xs):
        def step(carry, x):
            c, h = carry
            i, f, g, o = jnp.split(x @ p["kernel"] + p["bias"] + h @ p["recurrent_kernel"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (c, h), h

        start = jnp.zeros((9, 4)), jnp.zeros((9, 4))
        return jnp.moveaxis(jax.lax.scan(step, start, jnp.moveaxis(xs, 1, 0))[1], 0, 1)

    params = net.init(KEY, xs)
    with jax.numpy_rank_promotion("allow"):
        assert str(jax.make_jaxpr(net.apply)(params, xs)) == str(jax.make_jaxpr(by_hand)(params, xs))


# Arrays and carries


@each_cell
def test_leading_axes_are_free(cell):
    params = cell.init(KEY, cell.initial_carry(X[0]), X[0])
    xs = floats(2, 5, 3)
    carry, y = cell.apply(params, cell.initial_carry(xs), xs)
    for at in np.ndindex(2, 5):
        one = cell.apply(params, cell.initial_carry(xs[at]), xs[at])
        close(jax.tree.map(lambda a, at=at: a[at], (carry, y)), one)


@each_cell
def test_the_first_carry_is_zeros_like_the_input_from_arrays_and_specs(cell):
    spec = jax.ShapeDtypeStruct((5, 2, 3), jnp.bfloat16)
    for x in (spec, jnp.zeros(spec.shape, spec.dtype)):
        for array in jax.tree.leaves(cell.initial_carry(x)):
            assert array.shape == (5, 2, 4)
            assert array.dtype == jnp.bfloat16
            assert (array == 0).all()


@each_cell
def test_low_precision_gives_its_own_carry_and_leaves_the_parameters_theirs(cell):
    x = jnp.ones((2, 3), jnp.bfloat16)
    carry = cell.initial_carry(x)
    params = cell.init(KEY, carry, x)
    assert {a.dtype for a in jax.tree.leaves(cell.apply(params, carry, x))} == {jnp.dtype("bfloat16")}
    assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_each_gate_is_drawn_by_itself():
    params = fn.Scan(fn.LSTMCell(4)).init(KEY, X[:, None])
    for gate in jnp.split(params["recurrent_kernel"], 4, axis=-1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(4), atol=1e-5)
    whole = fn.Scan(fn.LSTMCell(64, kernel_init=fn.initializers.GlorotNormal())).init(KEY, floats(1, 1, 64))
    assert abs(float(whole["kernel"].std()) * 8 - 1) < 0.05  # the variance is 2 / (64 + 64), not 2 / (64 + 256)
    assert (fn.Scan(fn.GRUCell(4)).init(KEY, X[:, None])["recurrent_bias"] == 0).all()


def test_a_tuple_of_initialisers_is_one_for_each_gate():
    open_gate = fn.LSTMCell(2, bias_init=(Zeros(), Ones(), Zeros(), Constant(3.0)))
    np.testing.assert_array_equal(
        fn.Scan(open_gate).init(KEY, X[:, None])["bias"], np.float32([0, 0, 1, 1, 0, 0, 3, 3])
    )
    gru = fn.GRUCell(2, bias_init=[Zeros(), Ones(), Constant(2.0)], recurrent_init=(Orthogonal(), Zeros(), Normal()))
    params = fn.Scan(gru).init(KEY, X[:, None])
    np.testing.assert_array_equal(params["bias"], np.float32([0, 0, 1, 1, 2, 2]))
    np.testing.assert_array_equal(params["recurrent_bias"], np.float32([2, 2]))
    assert (params["recurrent_kernel"][:, 2:4] == 0).all()
    jitted = jax.jit(fn.Scan(gru).init)(KEY, X[:, None])
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params, jitted))


def test_any_function_is_an_initialiser():
    def threes(key, shape, dtype):
        return jnp.full(shape, 3, dtype)

    cell = fn.LSTMCell(2, kernel_init=threes, recurrent_init=TorchBias(2), bias_init=(threes, Zeros(), threes, threes))
    params = fn.Scan(cell).init(KEY, X[:, None])
    assert (params["kernel"] == 3).all()
    assert 0.3 < float(abs(params["recurrent_kernel"]).max()) <= 2**-0.5
    np.testing.assert_array_equal(params["bias"], np.float32([3, 3, 0, 0, 3, 3, 3, 3]))


# In other layers


class Dropping(fn.Composite):
    """A cell with dropout on its way out."""

    cell: fn.Layer
    drop: fn.Layer = fn.Dropout(0.5)

    def initial_carry(self, x):
        return self.cell.initial_carry(x)

    def forward(self, m, carry, x):
        carry, y = m.cell(carry, x)
        return carry, m.drop(y)


@pytest.mark.parametrize("train", [False, True])
def test_in_repeat_ensemble_remat_and_vmap_with_dropout(train):
    xs = jnp.asarray(floats(2, 5, 4))
    scan = fn.Scan(Dropping(fn.LSTMCell(4)))
    repeated = fn.Repeat(scan, 2)
    params = repeated.init(KEY, xs)
    y = repeated.apply(params, xs, key=RUN, train=train)
    unrolled = fn.Repeat(scan, 2, scan=False).apply(params, xs, key=RUN, train=train)
    close(unrolled, y)
    close(fn.Repeat(fn.Remat(scan), 2).apply(params, xs, key=RUN, train=train), y)
    chunked = fn.Repeat(fn.Scan(scan.cell, remat=2), 2)
    close(jax.jit(chunked.apply, static_argnames="train")(params, xs, key=RUN, train=train), y)
    side_by_side = fn.Ensemble(scan, 2).apply(params, xs, key=RUN, train=train)
    assert side_by_side.shape == (2, 2, 5, 4)
    if not train:
        first, second = (jax.tree.map(lambda a, i=i: a[i], params) for i in range(2))
        close(y, scan.apply(second, scan.apply(first, xs)))
        close(side_by_side, jnp.stack([scan.apply(first, xs), scan.apply(second, xs)]))
        close(
            jax.vmap(lambda xs: fn.Scan(Dropping(fn.LSTMCell(4)), axis=0).apply(first, xs))(xs), scan.apply(first, xs)
        )
    else:
        assert 0.3 < float((side_by_side == 0).mean()) < 0.7


def test_in_another_precision():
    xs = jnp.asarray(floats(2, 5, 3))
    net = fn.Cast(fn.Scan(fn.GRUCell(4)), "bfloat16", output="float32")
    params = net.init(KEY, xs)
    np.testing.assert_allclose(net.apply(params, xs), fn.Scan(fn.GRUCell(4)).apply(params, xs), atol=0.03)


# What is refused


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: fn.LSTMCell(0),
            "LSTMCell takes features as a whole number, at least 1, got 0. It is the width of the carry; that of x "
            "comes from the sample",
        ),
        (
            lambda: fn.GRUCell(2, use_bias=1),
            "GRUCell takes use_bias as True or False, got 1. The width of x comes from",
        ),
        (
            lambda: fn.LSTMCell(2, bias_init=(Zeros(), Ones())),
            "LSTMCell takes bias_init as one initialiser, or a tuple of one for each gate (i f g o), got (Zeros(), "
            "Ones()). Give as many as there are gates, or one: bias_init=Zeros()",
        ),
        (
            lambda: fn.MGUCell(2, kernel_init="lecun"),
            "MGUCell takes kernel_init as one initialiser, or a tuple of one for each gate (f n), got 'lecun'.",
        ),
        (
            lambda: fn.RNNCell(2, "relu"),
            "RNNCell takes activation as a function of arrays, got 'relu'. Write jnp.tanh or jax.nn.relu",
        ),
        (lambda: fn.RNNCell(2, fn.Dense(2)), "RNNCell takes activation as a function of arrays, got Dense(2)."),
        (lambda: fn.ConvLSTMCell(2, 0), "ConvLSTMCell takes kernel_size as a whole number, at least 1, or as one for"),
    ],
)
def test_it_refuses_fields_when_built(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("cell", "carry", "x", "kind", "text"),
    [
        (
            fn.GRUCell(4),
            jnp.zeros((2, 5)),
            jnp.zeros((2, 3)),
            ValueError,
            "GRUCell with x float32[2,3] takes a carry float32[2,4], got float32[2,5]. Start from "
            "cell.initial_carry(x), where x is one step's input",
        ),
        (
            fn.LSTMCell(4),
            jnp.zeros((2, 4)),
            jnp.zeros((2, 3)),
            ValueError,
            "LSTMCell with x float32[2,3] takes a carry (float32[2,4], float32[2,4]), got float32[2,4].",
        ),
        (
            fn.RNNCell(4),
            jnp.zeros((2, 4)),
            jnp.zeros((2, 3), jnp.bfloat16),
            ValueError,
            "RNNCell with x bfloat16[2,3] takes a carry bfloat16[2,4], got float32[2,4].",
        ),
        (fn.MGUCell(4), jnp.zeros(4), jnp.zeros(()), ValueError, "MGUCell takes x (..., in), got float32[]. Add the"),
        (fn.RNNCell(4), jnp.zeros(4), jnp.zeros(3, int), TypeError, "RNNCell takes floating numbers x (..., in), got"),
        (
            fn.ConvLSTMCell(4, 3),
            (jnp.zeros((2, 4)),) * 2,
            jnp.zeros((2, 3)),
            ValueError,
            "ConvLSTMCell takes x (batch, *spatial, channels) with one to three spatial axes, got float32[2,3].",
        ),
        (
            fn.ConvLSTMCell(4, (3, 3)),
            (jnp.zeros((2, 5, 4)),) * 2,
            jnp.zeros((2, 5, 3)),
            ValueError,
            "ConvLSTMCell with kernel_size=(3, 3) takes (batch, *spatial, channels) with 2 spatial axes, got",
        ),
    ],
)
def test_it_refuses_inputs_before_arithmetic(cell, carry, x, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        cell.plan(carry, x)
    with pytest.raises(kind, match=re.escape(text)):
        cell.apply({}, carry, x)


@pytest.mark.parametrize(("cell", "x"), [(fn.LSTMCell(4), jnp.zeros((2, 3), int)), (fn.ConvLSTMCell(4, 3), X)])
def test_the_first_carry_is_refused_for_inputs_that_cannot_be(cell, x):
    with pytest.raises((ValueError, TypeError), match=f"{type(cell).__name__} takes"):
        cell.initial_carry(x)
