import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import floats

import funcnets as fn

KEY, RUN = jax.random.key(0), jax.random.key(1)
XS = jnp.asarray(floats(3, 6, 2))
CELL = fn.LSTMCell(4)
PARAMS = fn.Scan(CELL).init(KEY, XS)


def close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), a, b)


# Streaming


@pytest.mark.parametrize("train", [False, True])
def test_streaming_in_several_calls_is_one_call_with_the_same_parameters(train):
    net = fn.Streaming(fn.Scan(CELL))
    state = net.init_state(XS[:, :2])
    assert jax.tree.map(jnp.shape, state) == {"carry": {"0": (3, 4), "1": (3, 4)}}
    assert jax.tree.all(jax.tree.map(jnp.array_equal, net.init(KEY, XS), PARAMS))
    step = jax.jit(net.apply, static_argnames="train")
    parts = []
    for i in range(0, 6, 2):
        y, state = step(PARAMS, XS[:, i : i + 2], state=state, train=train)
        parts.append(y)
    carry, whole = fn.Scan(CELL, return_carry=True).apply(PARAMS, XS)
    close(jnp.concatenate(parts, 1), whole)
    close((state["carry"]["0"], state["carry"]["1"]), carry)


def test_a_net_trained_with_scans_streams_with_its_parameters():
    trained = fn.Sequential(fn.Scan(CELL), jnp.tanh, fn.Scan(fn.GRUCell(3)))
    streaming = fn.Sequential(fn.Streaming(fn.Scan(CELL)), jnp.tanh, fn.Streaming(fn.Scan(fn.GRUCell(3))))
    params, state = trained.init(KEY, XS), streaming.init_state(XS)
    assert set(state) == {"lstm_cell_0", "gru_cell_0"}
    first, state = streaming.apply(params, XS[:, :4], state=state)
    second, _ = streaming.apply(params, XS[:, 4:], state=state)
    close(jnp.concatenate([first, second], 1), trained.apply(params, XS))


def test_a_bare_cell_streams_a_step_a_call():
    net = fn.Streaming(fn.Remat(fn.GRUCell(4)))
    params, state = net.init(KEY, XS[:, 0]), net.init_state(XS[:, 0])
    ys = []
    for t in range(6):
        y, state = net.apply(params, XS[:, t], state=state)
        ys.append(y)
    close(jnp.stack(ys, 1), fn.Scan(fn.GRUCell(4)).apply(params, XS))


def test_a_stack_streams_in_repeat_with_lengths_and_resets():
    xs = jnp.asarray(floats(3, 6, 4))
    net, plain = (fn.Repeat(wrap(fn.Scan(CELL)), 2) for wrap in (fn.Streaming, lambda scan: scan))
    params, state = net.init(KEY, xs), net.init_state(xs)
    assert state["carry"]["0"].shape == (2, 3, 4)
    masks = {"lengths": jnp.array([6, 4, 3]), "reset": jnp.zeros((3, 6), bool).at[0, 1].set(True).at[2, 2].set(True)}
    first, state = net.apply(params, xs[:, :3], lengths=jnp.array([3, 3, 3]), reset=masks["reset"][:, :3], state=state)
    second, _ = net.apply(params, xs[:, 3:], lengths=jnp.array([3, 1, 0]), reset=masks["reset"][:, 3:], state=state)
    close(jnp.concatenate([first, second], 1), plain.apply(params, xs, **masks))


class Starting(fn.Composite):
    """A cell that starts from 1, 2, 3, with a state of its own and dropout."""

    dense: fn.Layer = fn.Dense(3)
    norm: fn.Layer = fn.BatchNorm()
    drop: fn.Layer = fn.Dropout(0.5)

    def initial_carry(self, x):
        return {"here": jnp.tile(jnp.arange(1.0, 4.0)[None], (x.shape[0], 1)), "steps": jnp.zeros((), jnp.int32)}

    def forward(self, m, carry, x):
        here = jnp.tanh(m.norm(m.dense(x)) + carry["here"])
        return {"here": here, "steps": carry["steps"] + 1}, m.drop(here)


def test_any_carry_streams_beside_the_cells_own_state():
    net, scan = fn.Streaming(fn.Scan(Starting())), fn.Scan(Starting(), return_carry=True)
    params, state = net.init(KEY, XS), net.init_state(XS)
    assert set(state) == {"norm", "carry"}
    np.testing.assert_array_equal(state["carry"]["0"], [[1, 2, 3]] * 3)
    assert state["carry"]["1"].dtype == jnp.int32
    (carry, wanted), norm = scan.apply(params, XS, state={"norm": state["norm"]}, key=RUN, train=True)
    ys, state = net.apply(params, XS, state=state, key=RUN, train=True)
    close(ys, wanted)
    close(state, {"norm": norm["norm"], "carry": {"0": carry["here"], "1": carry["steps"]}})


class Long(fn.Layer):
    """A cell that carries its last twelve inputs."""

    def initial_carry(self, x):
        return tuple(jnp.full(x.shape, i, x.dtype) for i in range(12))

    def forward(self, p, carry, x):
        return (*carry[1:], x), carry[0]


def test_the_arrays_of_a_long_carry_keep_their_places_through_jit():
    net, xs = fn.Streaming(Long()), jnp.arange(20.0)
    state, ys = net.init_state(xs[0]), []
    for x in xs:
        y, state = jax.jit(net.apply)({}, x, state=state)
        ys.append(float(y))
    assert ys == [*range(12), *range(8)]


def test_a_streams_state_keeps_its_dtype():
    net = fn.Streaming(fn.Scan(CELL))
    y, state = net.apply(PARAMS, XS.astype(jnp.bfloat16), state=net.init_state(XS))
    assert y.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    cast = fn.Cast(net, "bfloat16")
    assert {a.dtype for a in jax.tree.leaves(cast.apply(PARAMS, XS, state=cast.init_state(XS)))} == {
        jnp.dtype("bfloat16")
    }


@fn.compose(dense=fn.Dense(2))
def no_start(m, carry, x):
    return carry, m.dense(x)


class CountingLeaf(fn.Layer):
    def initial_carry(self, x):
        return jnp.zeros(x.shape)

    def states(self, carry, x):
        return {"count": fn.Param((), fn.initializers.Zeros())}

    def forward(self, p, carry, x, *, state):
        return (carry, x), state


def test_streaming_says_what_is_wrong():
    with pytest.raises(
        TypeError,
        match=re.escape("Streaming takes a cell with initial_carry(x), or a Scan of one, got Bidirectional(")
        + ".*Give the cell that method, or hand the carry from call to call",
    ):
        fn.Streaming(fn.Bidirectional(CELL)).init(KEY, XS)
    with pytest.raises(TypeError, match=r"the cell has no initial_carry\(x\)"):
        fn.Streaming(fn.Scan(no_start)).init(KEY, XS)
    net = fn.Streaming(fn.Scan(CELL))
    with pytest.raises(ValueError, match="^carry: .* carries state, and none was given. Make it with state = net.init"):
        net.apply(PARAMS, XS)
    with pytest.raises(ValueError, match=r"takes state \{'0': float32\[2,4\].* for these inputs, but there is"):
        net.apply(PARAMS, XS[:2], state=net.init_state(XS))
    with pytest.raises(ValueError, match=r"unread +other +expected nothing"):
        net.apply(PARAMS, XS, state=net.init_state(XS) | {"other": jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"unread +dense +expected nothing"):
        own = fn.Streaming(fn.Scan(Starting()))
        own.apply(own.init(KEY, XS), XS, state=own.init_state(XS) | {"dense": {"other": jnp.zeros(2)}})
    with pytest.raises(ValueError, match="two layers disagree on the states under this name"):
        fn.Streaming(fn.Scan(CountingLeaf())).init_state(XS)

    def in_vmap(m, xs):
        return jax.vmap(m.net)(xs[None])

    with pytest.raises(RuntimeError, match="^net/carry: a new state inside a raw JAX transform"):
        outer = fn.compose(net=net)(in_vmap)
        outer.apply({"net": PARAMS}, XS, state=outer.init_state(XS))


# Bidirectional


@pytest.mark.parametrize(
    ("merge", "by_hand"),
    [
        ("concat", lambda a, b: jnp.concatenate([a, b], -1)),
        ("sum", lambda a, b: a + b),
        ("mean", lambda a, b: (a + b) / 2),
        ("stack", lambda a, b: jnp.stack([a, b])),
        ("tuple", lambda a, b: (a, b)),
        (jnp.multiply, lambda a, b: a * b),
    ],
)
def test_both_directions_are_two_scans_merged(merge, by_hand):
    net = fn.Bidirectional(CELL, merge=merge)
    params = net.init(KEY, XS)
    assert set(params) == {"forward_rnn", "backward_rnn"}
    lengths = jnp.array([6, 2, 0])
    ahead = fn.Scan(CELL).apply(params["forward_rnn"], XS, lengths=lengths)
    back = fn.Scan(CELL, reverse=True).apply(params["backward_rnn"], XS, lengths=lengths)
    close(net.apply(params, XS, lengths=lengths), by_hand(ahead, back))


def test_the_way_back_is_over_the_reversed_sequence():
    net = fn.Bidirectional(fn.RNNCell(2), fn.GRUCell(3))
    params = net.init(KEY, XS)
    y = net.apply(params, XS)
    close(y[..., :2], fn.Scan(fn.RNNCell(2)).apply(params["forward_rnn"], XS))
    close(y[..., 2:], fn.Scan(fn.GRUCell(3)).apply(params["backward_rnn"], XS[:, ::-1])[:, ::-1])


def test_carries_go_in_and_come_out_in_pairs():
    net = fn.Bidirectional(fn.Scan(CELL, return_carry=True, remat=2), merge="tuple")
    params = net.init(KEY, XS)
    starts = CELL.initial_carry(XS[:, 0]), CELL.initial_carry(XS[:, 0])
    (ahead, back), ys = net.apply(params, XS)
    close(((ahead, back), ys), fn.Bidirectional(CELL, merge="tuple").apply(params, starts, XS))
    close((ahead[1], back[1]), (ys[0][:, -1], ys[1][:, 0]))


def test_a_merging_layer_has_its_parameters_beside():
    net = fn.Bidirectional(CELL, merge=fn.Sequential(jnp.add, ("out", fn.Dense(2))))
    params = net.init(KEY, XS)
    assert params["merge"]["out"]["kernel"].shape == (4, 2)
    assert net.apply(params, XS).shape == (3, 6, 2)


def test_a_cell_and_a_scan_of_it_make_equal_nets():
    assert fn.Bidirectional(CELL) == fn.Bidirectional(fn.Scan(CELL), fn.Scan(CELL, reverse=True))
    assert fn.Bidirectional(CELL) != fn.Bidirectional(CELL, fn.LSTMCell(5))
    assert fn.Bidirectional(fn.Scan(CELL, axis=0)).backward_rnn == fn.Scan(CELL, axis=0, reverse=True)
    assert fn.Bidirectional(fn.Scan(CELL, axis=0), fn.GRUCell(2)).backward_rnn.axis == 0


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: fn.Bidirectional(fn.Scan(CELL, reverse=True)),
            "Bidirectional takes forward_rnn as a cell, or a Scan with reverse=False, got Scan(LSTMCell(4), "
            "reverse=True). Give the cell alone: it is then run in its direction",
        ),
        (
            lambda: fn.Bidirectional(CELL, fn.Scan(CELL)),
            "Bidirectional takes backward_rnn as a cell, or a Scan with reverse=True, got Scan(LSTMCell(4)).",
        ),
        (
            lambda: fn.Bidirectional(CELL, fn.Scan(CELL, reverse=True, return_carry=True)),
            "Bidirectional takes two Scans with the same return_carry, got Scan(LSTMCell(4)) and Scan(LSTMCell(4), "
            "reverse=True, return_carry=True). Set it in both",
        ),
        (
            lambda: fn.Bidirectional(CELL, merge="add"),
            "Bidirectional merges by 'concat', 'sum', 'mean', 'stack', 'tuple' or a function of the outputs, got "
            "merge='add'. Write merge='concat' for outputs side by side along the last axis",
        ),
    ],
)
def test_bidirectional_refuses_fields(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


def test_bidirectional_says_what_is_wrong():
    with pytest.raises(
        TypeError,
        match=re.escape(
            "Bidirectional takes a carry for each direction, (forward's, backward's), got float32[3,4]. Give the pair, "
            "or xs alone"
        ),
    ):
        fn.Bidirectional(CELL).init(KEY, jnp.zeros((3, 4)), XS)
    with pytest.raises(
        ValueError,
        match=re.escape(
            "merge='sum' takes outputs of one shape and of one dtype, got\n  forward_rnn: float32[3,6,4]\n  "
            "backward_rnn: float32[3,6,5]\nMake them alike, or take merge='tuple' or a function"
        ),
    ):
        fn.Bidirectional(CELL, fn.LSTMCell(5), merge="sum").init(KEY, XS)


def test_a_scan_in_wrappers_is_found():
    wrapped = fn.Bidirectional(fn.Remat(fn.Scan(CELL)))
    assert wrapped.backward_rnn == fn.Remat(fn.Scan(CELL, reverse=True))
    plain = fn.Bidirectional(CELL)
    assert fn.rewrite.replace(plain, {fn.Scan: fn.Remat}) == wrapped
    params = plain.init(KEY, XS)
    np.testing.assert_allclose(wrapped.apply(params, XS), plain.apply(params, XS), rtol=1e-5, atol=1e-6)


def test_streaming_refuses_what_cannot_go_on():
    with pytest.raises(ValueError, match="Streaming takes a Scan that runs forward, got Scan.*reverse=True"):
        fn.Streaming(fn.Scan(CELL, reverse=True))
    with pytest.raises(ValueError, match="Streaming keeps the carry under the name 'carry'"):
        fn.Streaming(fn.compose(carry=fn.Dense(2))(lambda m, carry, x: (carry, m.carry(x))))
    with pytest.raises(ValueError, match="Scan takes inputs with a time axis 1"):
        fn.Streaming(fn.Scan(CELL)).init_state(jnp.ones(3))
    with pytest.raises(TypeError, match="has no initial_carry"):
        fn.Scan(fn.Ensemble(CELL, 2)).init(KEY, XS)
