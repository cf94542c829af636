"""Other activations in the places of some."""

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn

KEY = jax.random.key(0)
X = catalogue.floats(5, 4)
BLOCK = fn.Residual(fn.Sequential(fn.Dense(4), jnp.tanh))
NET = fn.Sequential(fn.Dense(4), fn.Repeat(BLOCK, 3), ("head", fn.Dense(2)))
PARAMS = jax.jit(NET.init)(KEY, X)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def by_hand(params, x, change=lambda i, h: h):
    """The net in a loop, with a change of what each block adds to the stream."""
    h = x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"][None]
    for i in range(3):
        body = jax.tree.map(lambda a: a[i], params["sequential_0"]["dense_0"])  # noqa: B023
        h = h + change(i, jnp.tanh(h @ body["kernel"] + body["bias"][None]))
    return h @ params["head"]["kernel"] + params["head"]["bias"][None]


def test_a_function_a_number_and_an_array_take_an_activations_place():
    head = NET["head"].apply
    doubled = fn.edit(NET, {"head": lambda y: 2 * y})
    close(jax.jit(doubled.apply)(PARAMS, X), 2 * NET.apply(PARAMS, X))
    ablated = fn.edit(NET, {"sequential_0/tanh_0": 0.0})
    close(jax.jit(ablated.apply)(PARAMS, X), by_hand(PARAMS, X, lambda i, h: 0 * h))
    stream = catalogue.floats(3, 5, 4)
    close(fn.edit(NET, {"sequential_0": stream}).apply(PARAMS, X), head(PARAMS["head"], stream[-1]))
    close(fn.edit(NET, {"sequential_0": stream[0]}).apply(PARAMS, X), head(PARAMS["head"], stream[0]))
    with_class = fn.edit(NET, {fn.Residual: jnp.zeros_like})
    close(with_class.apply(PARAMS, X), head(PARAMS["head"], jnp.zeros((5, 4))))


@pytest.mark.parametrize("scan", [True, False])
def test_one_copy_of_a_repeat(scan):
    net = fn.rewrite.replace(NET, {fn.Repeat: {"scan": scan}})
    ablated = fn.edit(net, {"sequential_0/tanh_0": lambda h, i: jnp.where(i == 1, 0.0, h)})
    close(jax.jit(ablated.apply)(PARAMS, X), by_hand(PARAMS, X, lambda i, h: 0 * h if i == 1 else h))


def test_several_loops_give_several_numbers():
    net = fn.Ensemble(fn.Repeat(BLOCK, 3), 2)
    params = jax.jit(net.init)(KEY, X)

    def one(h, numbers):
        member, copy = numbers
        return jnp.where((member == 1) & (copy == 0), 0.0, h)

    y = jax.jit(fn.edit(net, {"tanh_0": one}).apply)(params, X)
    plain = net.apply(params, X)
    close(y[0], plain[0])
    rest = jax.tree.map(lambda a: a[1, 1:], params)
    close(y[1], fn.Repeat(BLOCK, 2).apply(rest, X))


def test_patching_from_one_input_to_another_in_three_lines():
    other = catalogue.floats(5, 4, seed=1)
    _, clean = fn.capture(NET, "sequential_0")(PARAMS, X)
    patched = fn.edit(NET, clean)
    y = patched.apply(PARAMS, other)
    close(y, NET.apply(PARAMS, X))  # all that the head sees is the other input's
    _, inside = fn.capture(NET, "sequential_0/tanh_0")(PARAMS, X)
    added = jnp.sum(inside["sequential_0/tanh_0"], 0)
    start = NET[0].apply(PARAMS["dense_0"], other)
    close(fn.edit(NET, inside).apply(PARAMS, other), NET["head"].apply(PARAMS["head"], start + added))


def test_an_array_of_a_trace_may_be_patched_in():
    @jax.jit
    def patched(params, x, other):
        _, clean = fn.capture(NET, "sequential_0")(params, x)
        return fn.edit(NET, clean).apply(params, other)

    close(patched(PARAMS, X, 3 * X), NET.apply(PARAMS, X))
    close(patched(PARAMS, 2 * X, 3 * X), NET.apply(PARAMS, 2 * X))  # nothing of the first trace is kept


def test_gradients_with_respect_to_activations():
    def loss(y):
        return jnp.sum(y**2)

    _, activations = fn.capture(NET, "sequential_0/tanh_0")(PARAMS, X)
    zeros = jax.tree.map(jnp.zeros_like, activations)
    found = jax.jit(jax.grad(lambda d: loss(fn.edit(NET, d, add=True).apply(PARAMS, X))))(zeros)

    wanted = jax.grad(lambda d: loss(by_hand(PARAMS, X, lambda i, h: h + d[i])))(jnp.zeros((3, 5, 4)))
    close(found["sequential_0/tanh_0"], wanted)


def test_every_activation_moved_by_nothing_changes_nothing():
    for row in catalogue.ROWS[::4]:
        params, state = row.layer.init(KEY, *row.sample), row.layer.init_state(*row.sample)
        (output, _), found = fn.capture(row.layer)(params, *row.sample, state=state)
        again, _ = fn.edit(row.layer, found).apply(params, *row.sample, state=state)
        jax.tree.map(close, again, output)


def test_a_backward_hook():
    @jax.custom_vjp
    def clipped(h):
        return h

    clipped.defvjp(lambda h: (h, None), lambda _, g: (jnp.clip(g, -1e-3, 1e-3),))
    net = fn.edit(NET, {"dense_0": clipped})
    close(net.apply(PARAMS, X), NET.apply(PARAMS, X))
    gradient = jax.grad(lambda p: jnp.sum(net.apply(p, X)))(PARAMS)["dense_0"]["bias"]
    assert jnp.abs(gradient).max() <= 5e-3 * 1.001
    assert jnp.abs(jax.grad(lambda p: jnp.sum(NET.apply(p, X)))(PARAMS)["dense_0"]["bias"]).max() > 5e-3


def test_an_edited_net_is_a_net():
    net = fn.edit(NET, {"head": jnp.tanh})
    assert net.plan(X).output == NET.plan(X).output
    jax.tree.map(np.testing.assert_array_equal, net.init(KEY, X), NET.init(KEY, X))
    assert net["head"] == NET["head"]
    assert net == fn.edit(NET, {"head": jnp.tanh}) != fn.edit(NET, {"head": jnp.sin})
    assert repr(fn.edit(fn.Dense(2), {"": jnp.tanh})) == "edit(Dense(2), {'': jax.nn.tanh})"
    assert repr(fn.edit(fn.Dense(2), {"": jnp.ones(2)}, add=True)) == "edit(Dense(2), {'': float32[2]}, add=True)"
    wider = fn.Sequential(net, ("last", fn.Dense(3)))  # inside another net its paths stay its own
    params = wider.init(KEY, X)
    inner = {"dense_0", "head", "sequential_0"}
    assert set(params["sequential_0"]) == inner
    _, found = fn.capture(wider, "sequential_0/head")(params, X)
    close(found["sequential_0/head"], jnp.tanh(NET.apply(params["sequential_0"], X)))
    twice = fn.edit(net, {"head": lambda y: 2 * y})
    close(twice.apply(PARAMS, X), 2 * jnp.tanh(NET.apply(PARAMS, X)))


def test_under_vmap_and_with_state():
    net = fn.Sequential(fn.Dense(4), fn.BatchNorm(), fn.Dense(2))
    params, state = net.init(KEY, X), net.init_state(X)
    edited = fn.edit(net, {"batch_norm_0": 0.0})
    y, new = edited.apply(params, X, state=state, train=True)
    close(y, jnp.zeros((5, 2)) + params["dense_1"]["bias"][None])
    _, kept = net.apply(params, X, state=state, train=True)
    jax.tree.map(close, new, kept)
    each = jax.vmap(lambda x: fn.edit(NET, {"head": lambda y: 2 * y}).apply(PARAMS, x))(jnp.stack([X, 2 * X]))
    close(each[1], 2 * NET.apply(PARAMS, 2 * X))


def test_inside_a_raw_transform():
    @fn.compose(dense=fn.Dense(4))
    def net(m, x):
        return jax.lax.fori_loop(0, 3, lambda _, h: m.dense(h), x)

    params = net.init(KEY, X)
    y = fn.edit(net, {"dense": lambda h: jnp.ones_like(h)}).apply(params, X)
    close(y, jnp.ones((5, 4)))


def test_calls_by_number():
    net = fn.Sequential(("dense", fn.Dense(4)), jnp.tanh, ("dense", fn.Dense(4)))
    params = net.init(KEY, X)
    y = fn.edit(net, {"dense@1": lambda y: 2 * y}).apply(params, X)
    close(y, 2 * net.apply(params, X))
    y = fn.edit(net, {"dense": lambda y: 2 * y, "dense@1": lambda y: y}).apply(params, X)
    dense = params["dense"]
    close(y, fn.Dense(4).apply(dense, jnp.tanh(2 * fn.Dense(4).apply(dense, X))))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"'hed' matches no layer \(did you mean 'head'\?\)"):
        fn.edit(NET, {"hed": 0.0})
    with pytest.raises(TypeError, match="edit takes a mapping from what is replaced to its replacement, got "):
        fn.edit(NET, "head")
    with pytest.raises(
        ValueError, match=r"an activation is like it, float32\[5,2\] at head, got float32\[5,3\]. Cast or reshape it"
    ):
        fn.edit(NET, {"head": jnp.zeros((5, 3))}).apply(PARAMS, X)
    with pytest.raises(ValueError, match=r"got bfloat16\[5,2\]"):
        fn.edit(NET, {"head": lambda y: y.astype("bfloat16")}).apply(PARAMS, X)
    with pytest.raises(TypeError, match=r"takes \(activation, index\), but head is in no loop"):
        fn.edit(NET, {"head": lambda y, i: y}).apply(PARAMS, X)

    @fn.compose(body=fn.Dense(4), projection=fn.Dense(4))
    def net(m, x):
        return m.body(x) if x.shape[-1] == 4 else m.projection(x)

    with pytest.raises(ValueError, match="no layer that 'projection' speaks of was called with these inputs"):
        fn.edit(net, {"projection": 0.0}).apply(net.init(KEY, X), X)
    with pytest.raises(ValueError, match="'dense_0@1' speaks of was called"):
        fn.edit(NET, {"dense_0@1": 0.0}).apply(PARAMS, X)


def test_an_edited_net_computes_the_same_wherever_it_stands_and_whoever_looks():
    """What an edit sees (numbers of copies, calls, paths) is counted from its own net on."""
    per_copy = fn.edit(fn.Repeat(fn.Residual(fn.Dense(4)), 2), {"": lambda y, i: jnp.where(i == 1, 0.0, y)})
    first_call = fn.edit(fn.Sequential(("a", fn.Dense(4))), {"a@0": lambda y: 0 * y})
    nets = [
        fn.Repeat(fn.Sequential(per_copy), 3),
        fn.Ensemble(per_copy, 2),
        fn.Sequential(("t", first_call), ("t", first_call)),
        fn.Repeat(fn.Remat(first_call), 2),
        fn.Residual(fn.edit(fn.Dense(4), {"": jnp.tanh})),
    ]
    for net in nets:
        params = net.init(KEY, X)
        plain = jax.jit(net.apply)(params, X)
        close(jax.jit(lambda p, net=net: fn.capture(net)(p, X)[0])(params), plain)
        close(fn.edit(net, {"": lambda y: y}).apply(params, X), plain)
    with pytest.raises(TypeError, match=r"takes \(activation, index\), but the net is in no loop"):
        inner = fn.edit(fn.Dense(4), {"": lambda y, i: y})
        net = fn.Repeat(inner, 2)  # the loop is around the edited net, not in it
        fn.capture(net)(net.init(KEY, X), X)


def test_editing_a_layer_does_not_change_what_its_path_means():
    plain = fn.Sequential(fn.Residual(fn.Dense(4)))
    edited = fn.Sequential(fn.Residual(fn.edit(fn.Dense(4), {"": lambda y: y})))
    params = plain.init(KEY, X)
    found = [fn.capture(net, "dense_0")(params, X)[1]["dense_0"] for net in (plain, edited)]
    close(*found)


def test_what_capture_names_edit_knows():
    residual = fn.Sequential(fn.Residual(fn.Dense(4)), fn.Dense(2))
    params = residual.init(KEY, X)
    for what in (fn.Dense, fn.Dense(4), "dense_0:Dense", ("**", fn.Dense)):
        _, found = fn.capture(residual, what)(params, X)
        assert "dense_0:Dense" in found
        close(fn.edit(residual, found).apply(params, X), residual.apply(params, X))
    tied = fn.Sequential(("e", fn.Embedding(4, 4)), ("e", fn.Unembed()))
    ids = jnp.array([[1, 2, 3]])
    params = tied.init(KEY, ids)
    y, found = fn.capture(tied, "e")(params, ids)
    assert list(found) == ["e", "e@1"]
    close(fn.edit(tied, {"e": found["e"]}).apply(params, ids), y)  # arrays are for one call
    assert list(fn.capture(tied, "e@1")(params, ids)[1]) == ["e@1"]
    assert list(fn.capture(tied, fn.Unembed)(params, ids)[1]) == ["e@1"]


def test_a_patch_for_another_number_of_copies_or_steps_is_refused():
    net, xs = fn.Sequential(fn.Scan(fn.LSTMCell(3)), fn.Dense(2)), catalogue.floats(2, 7, 4)
    params = net.init(KEY, xs)
    _, short = fn.capture(net, "lstm_cell_0")(params, xs[:, :5])
    with pytest.raises(ValueError, match=r"one entry each, \(7, 2, 3\) at lstm_cell_0, got float32\[5,2,3\]"):
        fn.edit(net, short).apply(params, xs)
    ensemble = fn.Ensemble(fn.Dense(2), 4)
    with pytest.raises(ValueError, match=r"\(4, 5, 2\) at the net, got float32\[2,5,2\]"):
        fn.edit(ensemble, {"": jnp.zeros((2, 5, 2))}).apply(ensemble.init(KEY, X), X)
    none = fn.Sequential(fn.Repeat(fn.Dense(4), 0), fn.Dense(2))
    params = none.init(KEY, X)
    _, found = fn.capture(none)(params, X)
    close(fn.edit(none, found).apply(params, X), none.apply(params, X))


def test_what_is_added_is_like_the_activation():
    with pytest.raises(ValueError, match=r"float32\[5,2\] at head, got float32\[1,2\]"):
        fn.edit(NET, {"head": jnp.zeros((1, 2))}, add=True).apply(PARAMS, X)
    with pytest.raises(TypeError, match="adds numbers and arrays, got the function jax.nn.tanh: add in it"):
        fn.edit(NET, {"head": jnp.tanh}, add=True)
    close(fn.edit(NET, {"head": 2.0}, add=True).apply(PARAMS, X), NET.apply(PARAMS, X) + 2)
    traced = jax.jit(lambda fill: fn.edit(NET, {"head": fill}).apply(PARAMS, X))(jnp.float32(3))
    close(traced, jnp.full((5, 2), 3.0))


def test_slips_are_answered():
    for wrong in (jnp.tanh, PARAMS, NET.apply):
        with pytest.raises(TypeError, match="edit takes a net first, got "):
            fn.edit(wrong, {"head": 0.0})
        with pytest.raises(TypeError, match="capture takes a net first, got "):
            fn.capture(wrong, "head")
    with pytest.raises(ValueError, match="capture takes what it speaks of, .* got none"):
        fn.capture(NET, [])
    for change in (fn.Dense(4), "zero"):
        with pytest.raises(TypeError, match=r"a function of the activation, a number or arrays for 'head', got "):
            fn.edit(NET, {"head": change})
    with pytest.raises(ValueError, match="a name is a non-empty string without '/', '.', ':' and '@', got 'a@1'"):
        fn.Sequential(("a@1", fn.Dense(4)))
