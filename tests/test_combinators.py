"""Repeat, Scan, Ensemble and Remat against loops by hand; Sequential, Parallel and Each against their laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import floats

import funcnets as fn
from funcnets.random import copy_keys, path_key, run_key

KEY = jax.random.key(0)
RUN = jax.random.key(1)
X = jnp.asarray(floats(4, 3))
BODY = fn.Residual(fn.Sequential(fn.Dense(3), fn.BatchNorm(), jnp.tanh, fn.Dropout(0.3)))


def close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, a, b))


def at(tree, i):
    return jax.tree.map(lambda a: a[i], tree)


def test_sequential_is_the_identity_when_empty_and_associates():
    assert fn.Sequential().apply({}, X) is X
    a, b, c = fn.Dense(4), jnp.tanh, fn.Dense(2)
    flat, nested = fn.Sequential(("a", a), b, ("c", c)), fn.Sequential(("a", a), ("rest", fn.Sequential(b, ("c", c))))
    params = flat.init(KEY, X)
    same(flat.apply(params, X), nested.apply({"a": params["a"], "rest": {"c": params["c"]}}, X))


def test_sequential_gives_all_inputs_to_the_first_and_never_splats():
    both = fn.Sequential(jnp.add, jnp.tanh)
    same(both.apply({}, X, X), jnp.tanh(X + X))
    seen = fn.Sequential(lambda x: (x, x), lambda pair: pair[0])
    same(seen.apply({}, X), X)


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
def test_parallel_merges(merge, by_hand):
    net = fn.Parallel(("a", fn.Dense(3)), ("b", fn.Dense(3)), merge=merge)
    params = net.init(KEY, X)
    a, b = (fn.Dense(3).apply(params[name], X) for name in "ab")
    close(net.apply(params, X), by_hand(a, b))


def test_branches_that_cannot_merge_are_named():
    net = fn.Parallel(("a", fn.Dense(3)), ("b", fn.Dense(4)), merge="sum")
    with pytest.raises(
        ValueError, match=r"(?s)merge='sum' takes outputs of one shape.*a: float32\[4,3\].*b: float32\[4,4\]"
    ):
        net.init(KEY, X)
    with pytest.raises(ValueError, match="Parallel merges by 'concat', .* got merge='add'"):
        fn.Parallel(fn.Dense(3), merge="add")


def test_each_takes_as_many_inputs_as_it_has_layers():
    net = fn.Each(fn.Dense(2), jnp.tanh)
    params = net.init(KEY, X, X)
    same(net.apply(params, X, X), net.apply(params, (X, X)))
    with pytest.raises(TypeError, match="Each has 2 layers, so it takes 2 inputs, got 1"):
        net.init(KEY, X)


def test_residual_keeps_the_shape():
    with pytest.raises(ValueError, match=r"float32\[4,3\] became float32\[4,5\]"):
        fn.Residual(fn.Dense(5)).init(KEY, X)


# Repeat


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("scan", [False, True])
def test_repeat_is_its_copies_in_a_row(scan, shared, train):
    net = fn.Repeat(BODY, 3, scan=scan, shared=shared)
    params, state = net.init(KEY, X), net.init_state(X)
    y, new = jax.jit(net.apply, static_argnames="train")(params, X, state=state, key=RUN, train=train)
    keys = copy_keys(path_key(run_key(RUN), ""), 3)
    x, states = X, []
    for i in range(3):
        own = params if shared else at(params, i)
        x, one = BODY.apply(own, x, state=at(state, i), key=keys[i], train=train)
        states.append(one)
    close(y, x)
    close(new, jax.tree.map(lambda *each: jnp.stack(each), *states))


def test_repeat_has_one_tree_and_one_set_of_bits_however_it_runs():
    scanned, looped = (fn.Repeat(BODY, 3, scan=scan) for scan in (True, False))
    same(scanned.init(KEY, X), looped.init(KEY, X))
    same(scanned.init_state(X), looped.init_state(X))
    keys = copy_keys(path_key(KEY, ""), 3)
    for i in range(3):
        same(at(scanned.init(KEY, X), i), BODY.init(keys[i], X))


def test_repeat_gives_further_inputs_to_every_copy():
    @fn.compose(dense=fn.Dense(3))
    def body(m, x, mask, *, scale):
        return jnp.where(mask, m.dense(x) * scale, x)

    net = fn.Repeat(body, 2)
    mask = jnp.array([[True], [False], [True], [True]])
    params = net.init(KEY, X, mask, scale=2.0)
    y = net.apply(params, X, mask, scale=2.0)
    x = X
    for i in range(2):
        x = body.apply(at(params, i), x, mask, scale=2.0)
    close(y, x)


def test_repeat_in_repeat_and_of_nothing():
    net = fn.Repeat(fn.Repeat(BODY, 2), 3)
    params, state = net.init(KEY, X), net.init_state(X)
    assert params["dense_0"]["kernel"].shape == (3, 2, 3, 3)
    _, new = net.apply(params, X, state=state, key=RUN, train=True)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert len({np.asarray(k).tobytes() for k in params["dense_0"]["kernel"].reshape(6, 3, 3)}) == 6
    empty = fn.Repeat(fn.Dense(3), 0)
    same(empty.apply(empty.init(KEY, X), X), X)


def hlo_lines(function, *arguments):
    return len(jax.jit(function).lower(*arguments).as_text().splitlines())


def test_the_program_of_repeat_does_not_grow_with_n():
    def sizes(n):
        net = fn.Repeat(fn.Residual(fn.Sequential(fn.Dense(3), jnp.tanh, fn.Dense(3))), n)
        params = net.init(KEY, X)
        return (
            hlo_lines(lambda key: net.init(key, X), KEY),
            hlo_lines(net.apply, params, X),
            hlo_lines(jax.grad(lambda p, x: net.apply(p, x).sum()), params, X),
        )

    assert sizes(2) == sizes(9)


def test_a_body_that_changes_shape_or_dtype_is_refused():
    with pytest.raises(ValueError, match=r"the body keeps shape and dtype; float32\[4,3\] became float32\[4,5\]"):
        fn.Repeat(fn.Dense(5), 2).init(KEY, X)
    with pytest.raises(ValueError, match="became bfloat16"):
        fn.Repeat(lambda x: x.astype(jnp.bfloat16), 2).init(KEY, X)


def test_params_stacked_for_another_n_are_refused():
    params = fn.Repeat(fn.Dense(3), 3).init(KEY, X)
    with pytest.raises(ValueError, match=r"reshaped  kernel  expected float32\[2,3,3\], got float32\[3,3,3\]"):
        fn.Repeat(fn.Dense(3), 2).apply(params, X)
    with pytest.raises(ValueError, match="unread"):
        net = fn.Sequential(fn.Repeat(fn.Sequential(fn.Dense(3)), 2))
        inner = net.init(KEY, X)["sequential_0"]
        net.apply({"sequential_0": {**inner, "stranger": jnp.zeros((2, 3))}}, X)


def test_one_block_used_twelve_times():
    by_name = fn.Sequential(*[("block", BODY)] * 4)
    shared = fn.Repeat(BODY, 4, shared=True)
    params, state = by_name.init(KEY, X), by_name.init_state(X)
    assert jax.tree.structure(params["block"]) == jax.tree.structure(shared.init(KEY, X))
    y, _ = by_name.apply(params, X, state=state)
    z, _ = shared.apply(params["block"], X, state=shared.init_state(X))
    close(y, z)
    # Under one name, state goes through the calls in order.
    _, new = by_name.apply(params, X, state=state, key=RUN, train=True)
    assert jax.tree.structure(new) == jax.tree.structure(state)


# Remat


def test_remat_changes_no_bit_of_output_state_or_gradient():
    plain, remat = fn.Sequential(BODY, fn.Dense(2)), fn.Sequential(fn.Remat(BODY), fn.Dense(2))
    params, state = plain.init(KEY, X), plain.init_state(X)
    same(params, remat.init(KEY, X))

    def run(net, params):
        y, new = net.apply(params, X, state=state, key=RUN, train=True)
        return y.sum(), (y, new)

    (a, aux_a), (b, aux_b) = (jax.grad(functools.partial(run, net), has_aux=True)(params) for net in (plain, remat))
    close(a, b)
    close(aux_a, aux_b)
    assert "remat" in str(jax.make_jaxpr(lambda p: run(remat, p)[0])(params))


def test_remat_in_repeat_with_dropout_and_state():
    plain, remat = fn.Repeat(BODY, 3), fn.Repeat(fn.Remat(BODY, prevent_cse=False), 3)
    params, state = plain.init(KEY, X), plain.init_state(X)
    close(
        plain.apply(params, X, state=state, key=RUN, train=True),
        remat.apply(params, X, state=state, key=RUN, train=True),
    )


# Scan


@fn.compose(inner=fn.Dense(3), drop=fn.Dropout(0.3))
def cell(m, carry, x):
    carry = jnp.tanh(m.inner(x) + carry)
    return carry, m.drop(carry)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_scan_is_a_loop_over_time(axis, reverse):
    xs = jnp.asarray(floats(2, 5, 3))
    net = fn.Scan(cell, axis=axis, reverse=reverse)
    steps = xs.shape[axis]
    carry = jnp.zeros((xs.shape[1 - axis], 3))
    params = net.init(KEY, carry, xs)
    assert set(params) == {"inner"}
    last, ys = net.apply(params, carry, xs, key=RUN, train=True)
    keys = copy_keys(path_key(run_key(RUN), ""), steps)
    outputs = [None] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        carry, outputs[t] = cell.apply(params, carry, jnp.take(xs, t, axis), key=keys[t], train=True)
    close(last, carry)
    close(ys, jnp.stack(outputs, axis))


class Counting(fn.Layer):
    """A cell that carries its own count, and knows where to start."""

    def initial_carry(self, x):
        return jnp.zeros(x.shape, x.dtype)

    def states(self, carry, x):
        return {"count": fn.Param((), fn.initializers.Zeros())}

    def forward(self, p, carry, x, *, state, train):
        new = {"count": state["count"] + 1} if train else state
        return (carry + x, carry + x), new


def test_scan_threads_state_and_starts_from_the_cells_own_carry():
    xs = jnp.asarray(floats(2, 5, 3))
    net = fn.Scan(Counting())
    state = net.init_state(xs)
    ys, new = net.apply({}, xs, state=state, train=True)
    close(ys, jnp.cumsum(xs, 1))
    assert float(new["count"]) == 5
    with pytest.raises(TypeError, match="no initial_carry"):
        fn.Scan(cell).init(KEY, xs)


# Ensemble


@pytest.mark.parametrize("train", [False, True])
def test_ensemble_is_its_members_side_by_side(train):
    net = fn.Ensemble(BODY, 3)
    params, state = net.init(KEY, X), net.init_state(X)
    y, new = net.apply(params, X, state=state, key=RUN, train=train)
    keys = copy_keys(path_key(run_key(RUN), ""), 3)
    for i in range(3):
        one, one_state = BODY.apply(at(params, i), X, state=at(state, i), key=keys[i], train=train)
        close(y[i], one)
        close(at(new, i), one_state)


# Cast and Freeze


def test_cast_computes_in_one_precision_and_stores_in_another():
    net = fn.Cast(fn.Sequential(fn.Dense(3), fn.BatchNorm()), "bfloat16", output="float32")
    params, state = net.init(KEY, X), net.init_state(X)
    assert {a.dtype for a in jax.tree.leaves((params, state))} == {jnp.dtype("float32")}
    jaxpr = str(jax.make_jaxpr(lambda p: net.apply(p, X, state=state)[0])(params))
    assert "preferred_element_type=bfloat16" in jaxpr
    assert net.apply(params, X, state=state)[0].dtype == jnp.float32
    stored = fn.Cast(fn.Dense(3), "bfloat16", param_dtype="bfloat16")
    assert {a.dtype for a in jax.tree.leaves(stored.init(KEY, X))} == {jnp.dtype("bfloat16")}
    assert stored.init(KEY, jnp.arange(3.0))["bias"].shape == (3,)


def test_freeze_takes_no_gradient_and_passes_that_of_its_inputs():
    net = fn.Sequential(fn.Dense(3), ("frozen", fn.Freeze(fn.Dense(3))), fn.Dense(2))
    gradients = jax.grad(lambda p: net.apply(p, X).sum())(net.init(KEY, X))
    assert all((g == 0).all() for g in jax.tree.leaves(gradients["frozen"]))
    assert all((g != 0).any() for g in jax.tree.leaves(gradients["dense_0"]))


def test_tie_says_what_is_wrong():
    net = fn.Sequential(("a", fn.Dense(5)), ("b", fn.Dense(3)))
    with pytest.raises(ValueError, match=r"no parameter 'b/kernl' \(did you mean 'b/kernel'\?\)"):
        fn.tie(net, "b/kernl", to="a/kernel").init(KEY, X)
    with pytest.raises(ValueError, match=r"'b/kernel' is float32\[5,3\], but 'a/kernel', float32\[3,5\], unchanged"):
        fn.tie(net, "b/kernel", to="a/kernel").init(KEY, X)


def names(row):
    return [name for name, _ in row._entries()]


def test_a_slice_of_a_row_keeps_names_and_parameters():
    net = fn.Sequential(fn.Dense(8), jax.nn.relu, fn.Dense(8), ("norm", fn.LayerNorm()), jax.nn.relu, fn.Dense(3))
    params = net.init(KEY, X)
    top, bottom = net[2:], net[:2]
    assert top == fn.Sequential(
        ("dense_1", fn.Dense(8)), ("norm", fn.LayerNorm()), jax.nn.relu, ("dense_2", fn.Dense(3))
    )
    assert bottom == fn.Sequential(fn.Dense(8), jax.nn.relu)
    y = bottom.apply({"dense_0": params["dense_0"]}, X)
    same(top.apply({name: params[name] for name in ("dense_1", "norm", "dense_2")}, y), net.apply(params, X))
    assert net[:] == net[0:] == net[-6:] == net
    assert net[7:] == fn.Sequential()
    assert net[::2] == fn.Sequential(fn.Dense(8), fn.Dense(8), jax.nn.relu)
    assert names(net[::-1])[:2] == ["dense_2", "relu_0"]
    assert net[1:][1:] == net[2:]
    assert fn.Parallel(fn.Dense(2), fn.Dense(3), merge="sum")[1:] == fn.Parallel(("dense_1", fn.Dense(3)), merge="sum")
    tied = fn.Each(("e", fn.Dense(2)), ("e", fn.Dense(2)), jnp.tanh)
    assert tied[:2] == fn.Each(("e", fn.Dense(2)), ("e", fn.Dense(2)))
    merging = fn.Parallel(fn.Dense(2), jnp.tanh, merge=jnp.add)
    assert merging[:1] == fn.Parallel(fn.Dense(2), merge=jnp.add)
    assert merging.append(fn.Dense(2)) == fn.Parallel(fn.Dense(2), jnp.tanh, fn.Dense(2), merge=jnp.add)


def test_a_row_takes_more_layers_and_the_others_keep_their_names():
    net = fn.Sequential(fn.Dense(8), jax.nn.relu, ("head", fn.Dense(3)))
    assert net.append(fn.Dense(2)) == fn.Sequential(*net.layers, fn.Dense(2))
    assert net.append(("out", jnp.tanh)) == fn.Sequential(*net.layers, ("out", jnp.tanh))
    assert net.append(jax.nn.relu) == fn.Sequential(*net.layers, jax.nn.relu)
    first = net.insert(0, fn.Dense(5))
    assert first == fn.Sequential(("dense_1", fn.Dense(5)), *net.layers)
    assert names(first.insert(1, fn.Dense(5)))[:3] == ["dense_1", "dense_2", "dense_0"]
    assert net.insert(-1, fn.LayerNorm()) == fn.Sequential(*net.layers[:2], fn.LayerNorm(), net.layers[2])
    assert net.insert(3, fn.LayerNorm()) == net.append(fn.LayerNorm())
    assert net.insert(-3, jnp.tanh) == fn.Sequential(jnp.tanh, *net.layers)
    assert fn.Sequential().append(fn.Dense(2)).insert(0, jnp.tanh) == fn.Sequential(jnp.tanh, fn.Dense(2))
    for name in ("head", "dense_0"):
        with pytest.raises(ValueError, match=f"has a child '{name}' already: give the new one another name. To tie"):
            net.append((name, fn.Dense(2)))
    for index in (4, -4, True, "head"):
        with pytest.raises(IndexError, match=f"Sequential has 3 children, so none goes in at {index!r}"):
            net.insert(index, jnp.tanh)
    with pytest.raises(TypeError, match="Sequential takes layers, functions, and .name, layer. pairs, got 3"):
        net.append(3)
    with pytest.raises(ValueError, match="the name 'relu_1' is given to .* and is also the automatic name"):
        fn.Sequential(jax.nn.relu, ("relu_1", fn.Dense(2))).insert(0, jax.nn.relu)
    assert net == fn.Sequential(fn.Dense(8), jax.nn.relu, ("head", fn.Dense(3)))


def test_a_row_is_walked_layer_by_layer_and_never_false():
    net = fn.Sequential(fn.Dense(8), jax.nn.relu, ("head", fn.Dense(3)))
    assert list(net) == [net[0], net[1], net[2]]
    assert (len(net), len(fn.Sequential()), list(fn.Sequential())) == (3, 0, [])
    assert all([net, fn.Sequential(), fn.Each(), fn.Parallel(jnp.tanh)])
    assert len(fn.Parallel(fn.Dense(2), merge=jnp.add)) == 1 == len(list(fn.Parallel(fn.Dense(2), merge=jnp.add)))
