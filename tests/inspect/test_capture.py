"""Activations by path."""

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.places import Place, walk

KEY = jax.random.key(0)
X = catalogue.floats(5, 4)


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def made(net, *sample):
    return jax.jit(net.init)(KEY, *sample)


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


@pytest.mark.parametrize("row", catalogue.ROWS, ids=lambda row: row.name)
def test_capturing_changes_no_bit_of_the_output_and_finds_what_the_plan_saw(row):
    params, state = made(row.layer, *row.sample), row.layer.init_state(*row.sample)
    output = row.layer.apply(params, *row.sample, state=state)
    captured, found = fn.capture(row.layer)(params, *row.sample, state=state)
    same_bits(captured, output)
    planned = {call.path for call in row.layer.plan(*row.sample).calls if not call.train_only}
    planned &= {place.path for place in walk(Place("", row.layer))}  # but not a wrapper's own means
    assert {path.partition("@")[0] for path in found} == planned
    jitted = jax.jit(fn.capture(row.layer))(params, *row.sample, state=state)
    assert shapes(jitted) == shapes((captured, found))
    same_bits(jitted[0], jax.jit(row.layer.apply)(params, *row.sample, state=state))


def by_hand(params, x):
    first = x @ params["dense_0"]["kernel"] + params["dense_0"]["bias"][None]
    stream, inside = [first], []
    for i in range(3):
        body = jax.tree.map(lambda a: a[i], params["sequential_0"]["dense_0"])  # noqa: B023
        inside.append(stream[-1] @ body["kernel"] + body["bias"][None])
        stream.append(stream[-1] + jnp.tanh(inside[-1]))
    return {"dense_0": first, "sequential_0": jnp.stack(stream[1:]), "sequential_0/dense_0": jnp.stack(inside)}


BLOCK = fn.Residual(fn.Sequential(fn.Dense(4), jnp.tanh))


@pytest.mark.parametrize(
    "repeat", [fn.Repeat(BLOCK, 3), fn.Repeat(BLOCK, 3, scan=False), fn.Repeat(fn.Remat(BLOCK), 3)]
)
def test_what_a_repeat_gives_is_stacked_along_a_leading_axis(repeat):
    net = fn.Sequential(fn.Dense(4), repeat)
    params = made(net, X)
    _, found = jax.jit(fn.capture(net, ["dense_0", "sequential_0", "**/dense_0"]))(params, X)
    wanted = by_hand(params, X)
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_allclose(found[path], value, rtol=1e-6, atol=1e-6)


def test_loops_in_loops_stack_outermost_first():
    net = fn.Ensemble(fn.Repeat(fn.Repeat(BLOCK, 3), 2), 5)
    _, found = fn.capture(net, fn.Dense)(made(net, X), X)
    assert shapes(found) == {"dense_0": (5, 2, 3, 5, 4)}


def test_a_scan_gives_carry_and_output_of_each_step():
    net, xs = fn.Scan(fn.LSTMCell(3)), catalogue.floats(2, 7, 4)
    params = made(net, xs)
    ys, found = jax.jit(fn.capture(net, ""))(params, xs)
    (c, h), y = found[""]
    assert c.shape == h.shape == y.shape == (7, 2, 3)
    np.testing.assert_array_equal(y.swapaxes(0, 1), ys)
    remat = fn.Scan(fn.LSTMCell(3), remat=3, reverse=True)
    _, found = fn.capture(remat, "")(params, xs)
    np.testing.assert_allclose(found[""][1].swapaxes(0, 1), remat.apply(params, xs), rtol=1e-6)


def test_of_wrappers_the_outermost_is_meant_and_a_class_reaches_those_inside():
    net = fn.Residual(fn.Freeze(fn.Dense(4)))
    params = made(net, X)
    y, outer = fn.capture(net, "")(params, X)
    same_bits(outer, {"": y})
    _, inner = fn.capture(net, fn.Dense)(params, X)
    np.testing.assert_allclose(inner[":Dense"] + X, y, rtol=1e-6)
    same_bits(fn.capture(net, ":Freeze")(params, X)[1], {":Freeze": inner[":Dense"]})


def test_layers_are_spoken_of_by_class_value_and_function():
    net = fn.Sequential(fn.Dense(4), jax.nn.relu, fn.Dense(3), jax.nn.relu)
    params = made(net, X)
    assert list(fn.capture(net, jax.nn.relu)(params, X)[1]) == ["relu_0", "relu_1"]
    assert list(fn.capture(net, fn.Dense(3))(params, X)[1]) == ["dense_1"]
    assert list(fn.capture(net, (fn.Dense, "relu_0"))(params, X)[1]) == ["dense_0", "relu_0", "dense_1"]


def test_further_calls_of_a_layer_are_numbered():
    @fn.compose(dense=fn.Dense(4), trunk=fn.Repeat(BLOCK, 2))
    def net(m, x):
        return m.dense(m.trunk(m.dense(m.trunk(m.dense(x)))))

    params = made(net, X)
    y, found = jax.jit(fn.capture(net, ["dense", "trunk/**"]))(params, X)
    assert set(found) == {
        "dense", "dense@1", "dense@2", "trunk", "trunk@1", "trunk/dense_0", "trunk/dense_0@1", "trunk/tanh_0",
        "trunk/tanh_0@1",
    }  # fmt: skip
    same_bits(found["dense@2"], y)
    np.testing.assert_allclose(found["dense@1"], net["dense"].apply(params["dense"], found["trunk"][-1]), rtol=1e-6)


def test_state_keys_and_mode_go_through():
    net = fn.Sequential(fn.Repeat(fn.Sequential(fn.Dense(4), fn.BatchNorm(), fn.Dropout(0.5)), 2))
    params, state = made(net, X), net.init_state(X)
    plain = net.apply(params, X, state=state, key=KEY, train=True)
    captured, found = fn.capture(net)(params, X, state=state, key=KEY, train=True)
    same_bits(captured, plain)
    same_bits(found["sequential_0/dropout_0"][-1], plain[0])


def test_under_grad_and_vmap():
    net = fn.Sequential(fn.Dense(4), fn.Repeat(BLOCK, 2), fn.Dense(1))
    params, captured = made(net, X), fn.capture(net, "sequential_0")
    found = jax.vmap(lambda x: captured(params, x)[1])(jnp.stack([X, 2 * X]))
    assert shapes(found) == {"sequential_0": (2, 2, 5, 4)}

    def loss(params):
        y, found = captured(params, X)
        return jnp.sum(y), found

    gradients, found = jax.grad(loss, has_aux=True)(params)
    same_bits(gradients, jax.grad(lambda p: jnp.sum(net.apply(p, X)))(params))
    assert shapes(found) == {"sequential_0": (2, 5, 4)}


def products(f, *args):
    text = str(jax.make_jaxpr(f)(*args))
    return text.count("dot_general"), text.count("conv_general_dilated")


def test_capturing_everything_in_a_deep_net_computes_nothing_twice():
    conv = fn.Residual(fn.Sequential(fn.Conv(2, 3), jax.nn.relu))
    net = fn.Sequential(*[conv] * 4, fn.Repeat(fn.Remat(fn.TransformerBlock(fn.Attention(2), mlp=fn.MLP(4, 2))), 20))
    x = catalogue.floats(1, 6, 2)
    params = made(net, x)
    plain = products(net.apply, params, x)
    assert plain == products(fn.capture(net), params, x)
    assert min(plain) > 0

    def loss(apply):
        return lambda p: jnp.sum(jax.tree.leaves(apply(p, x))[0])

    assert products(jax.grad(loss(net.apply)), params) == products(jax.grad(loss(fn.capture(net))), params)
    # Compiled too: XLA may merge products, and makes the same of both.
    texts = [jax.jit(f).lower(params, x).compile().as_text() for f in (net.apply, fn.capture(net))]
    assert texts[0].count(" dot(") == texts[1].count(" dot(")


TRACES = []


def counted(x):
    TRACES.append(1)
    return x


def test_equal_captures_and_edits_are_compiled_once():
    def net():
        return fn.Sequential(fn.Dense(3), counted)

    params = made(net(), X)
    for made_anew in (lambda: fn.capture(net(), "dense_0"), lambda: fn.edit(net(), {"dense_0": jnp.tanh}).apply):
        jax.jit(made_anew())(params, X)
        before = len(TRACES)
        for _ in range(3):
            jax.jit(made_anew())(params, X)  # nothing keeps the one before alive
        assert len(TRACES) == before
    assert repr(fn.capture(fn.Dense(3), "")) == "<capture of '' in dense>"


def test_what_speaks_of_nothing_is_refused():
    net = fn.Sequential(("hidden", fn.Dense(4)))
    with pytest.raises(ValueError, match=r"'hiden' matches no layer \(did you mean 'hidden'\?\)"):
        fn.capture(net, "hiden")
    with pytest.raises(ValueError, match="matches no layer"):
        fn.capture(net, fn.Conv)


def test_an_activation_that_would_leak_out_of_a_raw_transform_is_refused():
    @fn.compose(dense=fn.Dense(4), other=fn.Dense(4))
    def net(m, x):
        return jax.lax.fori_loop(0, 3, lambda _, h: m.dense(h), m.other(x))

    params = made(net, X)
    with pytest.raises(RuntimeError, match=r"dense runs inside a raw JAX transform .* Leave it out of what"):
        fn.capture(net)(params, X)
    assert list(fn.capture(net, ["other", ""])(params, X)[1]) == ["other", ""]


def test_what_is_not_called_is_not_there():
    @fn.compose(body=fn.Dense(4), projection=fn.Dense(4))
    def net(m, x):
        y = m.body(x)
        return y + (x if x.shape == y.shape else m.projection(x))

    _, found = fn.capture(net, "*")(made(net, X), X)
    assert list(found) == ["body"]


def test_nothing_leaks():
    net = fn.Sequential(fn.Dense(4), fn.Repeat(fn.Remat(BLOCK), 2))
    params = made(net, X)
    with jax.checking_leaks():
        jax.jit(jax.grad(lambda p: (fn.capture(net)(p, X)[0] ** 2).sum()))(params)


def test_outputs_that_are_no_arrays_are_left_out():
    @fn.compose(inner=fn.compose(dense=fn.Dense(4))(lambda m, x: (m.dense(x), "mode")))
    def net(m, x):
        return m.inner(x)[0]

    looped = fn.Repeat(fn.Remat(net), 2)
    _, found = fn.capture(looped)(made(looped, X), X)
    assert shapes(found["inner"]) == ((2, 5, 4), None)


def test_under_training_it_draws_the_same_and_gives_the_same_gradients():
    block = fn.Residual(fn.Sequential(fn.Dense(4), fn.Dropout(0.5), fn.BatchNorm()))
    net = fn.Sequential(fn.Repeat(block, 2), fn.Ensemble(fn.Sequential(fn.Dropout(0.5), fn.Dense(2)), 3))
    params, state = made(net, X), net.init_state(X)

    def loss(params, apply):
        y, new = apply(params, X, state=state, key=KEY, train=True)
        return jnp.sum(y**2), new

    plain = jax.jit(jax.grad(lambda p: loss(p, net.apply), has_aux=True))(params)
    watched = jax.jit(jax.grad(lambda p: loss(p, lambda *a, **k: fn.capture(net)(*a, **k)[0]), has_aux=True))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, watched)


def test_a_scan_that_is_not_looked_into_keeps_its_backward_pass():
    net = fn.Sequential(("rnn", fn.Scan(fn.LSTMCell(4))), ("head", fn.Dense(2)))
    xs = catalogue.floats(2, 7, 4)
    params = made(net, xs)

    def backward(apply):
        return str(jax.make_jaxpr(jax.grad(lambda p: apply(p, xs).sum()))(params)).count("dot_general")

    plain = backward(net.apply)
    assert backward(lambda p, x: fn.capture(net, "head")(p, x)[0]) == plain
    assert backward(lambda p, x: fn.capture(net, "rnn")(p, x)[0]) != plain


def test_the_weights_of_an_attention_follow_from_its_queries_and_keys():
    heads, x = 2, catalogue.floats(3, 5, 8)
    net = fn.Sequential(("attend", fn.Attention(heads, out=fn.Dense(8))))
    params = net.init(KEY, x)
    y, kept = fn.capture(net, ["*/query", "*/keys", "*/values"])(params, x)
    query, keys, values = (kept[f"attend/{name}"] for name in ("query", "keys", "values"))

    q, k = (y.reshape(*y.shape[:2], heads, -1) for y in (query, keys))
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5)

    v = values.reshape(*values.shape[:2], heads, -1)
    together = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(values.shape)
    np.testing.assert_allclose(fn.Dense(8).apply(params["attend"]["out"], together), y, rtol=1e-5, atol=1e-6)
