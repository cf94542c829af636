"""What is wrong with the numbers in a net."""

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn

KEY = jax.random.key(0)
floats = catalogue.floats
X = catalogue.floats(32, 8)


def test_the_first_layer_that_is_not_finite():
    net = fn.Sequential(("a", fn.Dense(8)), ("log", jnp.log), ("b", fn.Dense(4)))
    health = fn.check(net, net.init(KEY, X), X)
    assert (health.first.path, health.first.fault) == ("log", "not finite")
    log = jnp.log(net[0].apply(net.init(KEY, X)["a"], X))
    assert health.first.not_finite == int((~jnp.isfinite(log)).sum())
    assert [row.path for row in health.outputs] == ["a", "log", "b", ""]
    assert [row.path for row in health.faults] == ["log", "b", ""]
    np.testing.assert_allclose(health.first.mean, np.nanmean(log), rtol=1e-5)
    lines = str(health).splitlines()
    assert lines[0].split() == ["path", "array", "mean", "std", "min", "max", "fault"]
    assert lines[-1] == f"first fault: log: not finite, {health.first.not_finite} entries"


def test_statistics_are_those_of_numpy():
    net = fn.Sequential(fn.Dense(4), jax.nn.relu)
    params = net.init(KEY, X)
    y = np.asarray(net.apply(params, X), np.float64)
    row = fn.check(net, params, X).outputs[-1]
    np.testing.assert_allclose([row.mean, row.std, row.min, row.max], [y.mean(), y.std(), y.min(), y.max()], rtol=1e-6)
    assert row.what == "float32[32,4]"
    assert row.zeros == (y == 0).mean()
    assert row.fault == ""


def test_saturated_and_dead_and_constant():
    def net(scale, shift):
        bias = fn.initializers.Constant(shift)
        dense = fn.Dense(16, kernel_init=fn.initializers.Normal(scale), bias_init=bias)
        return fn.Sequential(dense, ("activation", jnp.tanh if shift == 0 else jax.nn.relu), fn.Dense(2))

    for scale, shift, fault in ((100.0, 0.0, "saturated"), (1.0, -9.0, "saturated"), (1e-9, -9.0, "constant")):
        made = net(scale, shift)
        rows = {row.path: row.fault for row in fn.check(made, made.init(KEY, X), X).outputs}
        assert rows["activation"] == fault, (scale, shift)
    healthy = fn.Sequential(fn.Dense(16), jnp.tanh, fn.LayerNorm(), jax.nn.relu, fn.Dense(2), jax.nn.softmax)
    health = fn.check(healthy, healthy.init(KEY, X), X)
    assert health.first is None
    assert health.faults == ()
    assert str(health).endswith("no fault")


@pytest.mark.parametrize("scan", [True, False])
def test_the_copy_of_a_loop_that_is_at_fault(scan):
    net = fn.Sequential(fn.Repeat(fn.Residual(fn.Dense(8)), 5, scan=scan), fn.Dense(2))
    params = net.init(KEY, X)
    params = fn.params.update(params, {"dense_0/kernel": params["dense_0"]["kernel"].at[3, 0, 0].set(jnp.nan)})
    health = fn.check(net, params, X)
    assert (health.first.kind, health.first.path, health.first.copy) == ("parameter", "dense_0/kernel", (3,))
    assert str(health).splitlines()[-1] == "first fault: parameter dense_0/kernel: not finite in copy 3, 1 entry"
    assert (health.outputs[0].path, health.outputs[0].copy) == ("dense_0", (3,))


def test_what_is_given_comes_first():
    @fn.compose(norm=fn.BatchNorm(), dense=fn.Dense(3))
    def net(m, x, pair, *, shift):
        return m.dense(m.norm(x + pair["b"])) + shift

    clean = {"a": jnp.arange(3), "b": X}
    params, state = net.init(KEY, X, clean, shift=1.0), net.init_state(X, clean, shift=1.0)

    def given(params, x, pair, state, shift):
        rows = fn.check(net, params, x, pair, state=state, shift=shift).given
        return [(row.label, row.fault, row.not_finite) for row in rows]

    assert given(params, X, clean, state, 1.0) == []
    broken = fn.params.update(params, {"dense/bias": params["dense"]["bias"].at[1].set(jnp.inf)})
    gone = {"norm": {**state["norm"], "mean": state["norm"]["mean"] * jnp.nan}}
    pair = {**clean, "b": jnp.asarray(X).at[0, 0].set(-jnp.inf)}
    assert given(broken, np.full((32, 8), np.nan, np.float32), pair, gone, jnp.float32(jnp.nan)) == [
        ("input 0", "not finite", 256), ("input 1['b']", "not finite", 1), ("input shift", "not finite", 1),
        ("parameter dense/bias", "not finite", 1), ("state norm/mean", "not finite", 8),
    ]  # fmt: skip

    row = fn.Sequential(fn.Dense(4), fn.LayerNorm())
    health = fn.check(row, row.init(KEY, X), jnp.asarray(X).at[3, 2].set(jnp.nan), loss=jnp.sum)
    assert (health.first.label, health.outputs[0].fault) == ("input 0", "not finite")
    lines = str(health).splitlines()
    assert lines[2].startswith("input 0 ") and lines[2].endswith("not finite, 1 entry; statistics of the others")
    assert lines[3] == "outputs"
    assert lines[-1] == "first fault: input 0: not finite, 1 entry"


def test_statistics_of_the_finite_entries_say_so():
    net = fn.Sequential(lambda x: jnp.where(x > 0, x, jnp.nan), lambda x: x * jnp.nan)
    first, second, whole = str(fn.check(net, {}, X)).splitlines()[2:5]
    assert first.endswith("entries; statistics of the others")
    assert second.endswith("256 entries") and whole.endswith("256 entries")  # there are no others


def test_gradients_too():
    def loss(y):
        return jnp.mean(y**2)

    net = fn.Sequential(fn.Dense(8), jnp.tanh, fn.Dense(1))
    params = net.init(KEY, X)
    health = fn.check(net, params, X, loss=loss)
    assert health.first is None
    names = ["", "dense_1", "tanh_0", "dense_0", "dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias"]
    assert sorted(row.path for row in health.gradients) == sorted(names)
    assert [row.path for row in health.gradients[:4]] == names[:4]  # from the loss on backwards
    gradient = jax.grad(lambda p: loss(net.apply(p, X)))(params)["dense_0"]["kernel"]
    row = next(row for row in health.gradients if row.path == "dense_0/kernel")
    np.testing.assert_allclose([row.mean, row.std], [np.mean(gradient), np.std(gradient)], rtol=1e-4)

    # sqrt at 0: outputs are fine, gradients are not
    net = fn.Sequential(fn.Dense(8), ("square", jnp.square), ("zero", lambda x: x - x), ("root", jnp.sqrt))
    health = fn.check(net, net.init(KEY, X), X, loss=jnp.sum)
    found = {row.path: row.fault for row in health.gradients}
    assert found["root"] == ""
    assert found["zero"] == "not finite"
    net = fn.Sequential(fn.Dense(8), jax.nn.relu, ("root", jnp.sqrt))
    params = net.init(KEY, X)
    health = fn.check(net, params, X, loss=jnp.sum)
    zeros = int((jax.nn.relu(net[0].apply(params["dense_0"], X)) == 0).sum())
    assert (health.first.kind, health.first.path, health.first.taker) == ("gradient", "relu_0", "root")
    assert str(health).splitlines()[-1] == (
        f"first fault: gradient of relu_0: not finite, {zeros} entries; computed in root, which takes it"
    )
    health = fn.check(net[0], params["dense_0"], X, loss=lambda y: jnp.sqrt(jnp.sum(y) * 0))
    assert str(health).splitlines()[-1] == (
        "first fault: gradient of the net: not finite, 256 entries; computed in the loss, which takes it"
    )

    dead = fn.Sequential(fn.Dense(8), fn.Freeze(fn.Dense(8)), ("cut", jax.lax.stop_gradient), fn.Dense(2))
    found = {row.path: row.fault for row in fn.check(dead, dead.init(KEY, X), X, loss=jnp.sum).gradients}
    assert found["dense_0/kernel"] == found["dense_1"] == "zero"
    assert found["dense_2/kernel"] == ""


def test_who_takes_an_output_is_told_of_rows_alone():
    @fn.compose(a=fn.Dense(8), root=fn.Sequential(("halve", lambda x: x / 2), ("root", jnp.sqrt)))
    def net(m, x):
        return m.root(m.a(x) * 0)

    health = fn.check(net, net.init(KEY, X), X, loss=jnp.sum)
    takers = {row.path: row.taker for row in health.gradients}
    assert takers["root/halve"] == "root/root"
    assert takers["a"] == takers["root/root"] == takers["root"] == takers["a/kernel"] == ""
    rows = [row for row in health.gradients if row.path == "a"]
    end = str(health._replace(outputs=(), gradients=tuple(rows))).splitlines()[-1]
    assert end.startswith("first fault: gradient of a: not finite, ") and end.endswith("; computed in what takes it")

    loop = fn.Sequential(
        fn.Repeat(fn.Sequential(("x", fn.Dense(8)), ("y", jnp.sin)), 2), fn.Repeat(fn.Dense(8), 2), jnp.cos
    )
    takers = {row.path: row.taker for row in fn.check(loop, loop.init(KEY, X), X, loss=jnp.sum).gradients}
    assert takers["sequential_0/x"] == "sequential_0/y"
    assert (
        takers["sequential_0"] == takers["dense_0"] == takers["sequential_0/y"] == ""
    )  # the next copy's, or another's
    twice = fn.Sequential(("a", fn.Dense(8)), jnp.sin, ("a", fn.Dense(8)), ("b", jnp.cos))
    takers = {row.path: row.taker for row in fn.check(twice, twice.init(KEY, X), X, loss=jnp.sum).gradients}
    assert (takers["a"], takers["a@1"], takers["sin_0"], takers[""]) == ("", "", "a", "the loss")


def test_what_has_no_numbers_has_no_rows():
    none = fn.Sequential(fn.Repeat(fn.Dense(8), 0), fn.Dense(2))
    health = fn.check(none, none.init(KEY, X), X, loss=jnp.sum)
    assert health.first is None
    assert [row.path for row in health.outputs] == ["dense_1", ""]
    assert fn.check(fn.Dense(2), fn.Dense(2).init(KEY, X), X[:0], loss=jnp.sum).outputs == ()


def test_gradients_of_parameters_tell_the_copy():
    net = fn.Repeat(fn.Residual(fn.Dense(8)), 3)
    params = net.init(KEY, X)
    dead = fn.check(net, params, X, loss=lambda y: jnp.sum(y) * 0)
    row = next(row for row in dead.gradients if row.path == "kernel")
    assert (row.label, row.trouble) == ("gradient of parameter kernel", "zero")  # in all copies
    lost = fn.check(fn.edit(net, {"": lambda y, i: jnp.where(i == 1, y * jnp.inf, y)}), params, X, loss=jnp.sum)
    row = next(row for row in lost.gradients if row.path == "kernel")
    assert row.trouble.startswith("not finite in copy ")


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda y: y.sum(-1), r"a loss that gives one floating number, got float32\[32\]: take its mean"),
        (lambda y: (y.sum(), {"a": y}), r"one floating number, got \(float32\[\], \{'a': float32\[32,4\]\}\)"),
        (lambda y: (y > 0).sum(), r"one floating number, got int32\[\]"),
        (lambda y: None, "one floating number, got None"),
        (lambda model, batch: 0.0, r"a function of the net's output, .*, got one of \(model, batch\)"),
        (3.0, r"a function of the net's output, .*, got 3\.0"),
        (fn.Dense(1), r"a function of the net's output, .*, got Dense\(1\)"),
    ],
)
def test_a_loss_gives_one_number(loss, says):
    net = fn.Dense(4)
    with pytest.raises(TypeError, match=f"check takes .*{says}"):
        fn.check(net, net.init(KEY, X), X, loss=loss)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, lambda f: jax.grad(lambda x: f(x).sum())])
def test_it_runs_outside_of_transforms(transform):
    net = fn.Dense(4)
    params, ids = net.init(KEY, X), jnp.arange(3)

    def looked(x):
        fn.check(net, params, x)
        return x

    with pytest.raises(RuntimeError, match="check looks at numbers, .* tracers, .*: call it outside"):
        transform(looked)(X[None])
    with pytest.raises(RuntimeError, match="call it outside"):
        jax.jit(lambda ids: fn.check(fn.Embedding(3, 2), {"table": np.ones((3, 2), np.float32)}, ids))(ids)
    with pytest.raises(TypeError, match=r"check runs the net, so it takes arrays .*, got the spec float32\[32,8\]"):
        fn.check(net, params, jax.ShapeDtypeStruct(X.shape, X.dtype))


def test_states_keys_modes_and_inputs_of_all_kinds():
    @fn.compose(embed=fn.Embedding(9, 8), trunk=fn.Sequential(fn.Dense(8), fn.BatchNorm(), fn.Dropout(0.5)))
    def net(m, ids, depth, *, scale):
        x = m.embed(ids)
        for _ in range(depth):
            x = m.trunk(x) * scale
        return {"x": x, "ids": ids}

    ids = jnp.arange(8) % 9
    params, state = net.init(KEY, ids, 2, scale=2.0), net.init_state(ids, 2, scale=2.0)
    health = fn.check(net, params, ids, 2, scale=2.0, state=state, key=KEY, train=True, loss=lambda y: y["x"].sum())
    assert {"embed", "trunk", "trunk@1", "trunk/dropout_0@1"} <= {row.path for row in health.outputs}
    assert "embed/table" in {row.path for row in health.gradients}


def test_what_runs_in_a_raw_transform_is_named():
    @fn.compose(dense=fn.Dense(8), out=fn.Dense(2))
    def net(m, x):
        return m.out(jax.lax.fori_loop(0, 3, lambda _, h: m.dense(h), x))

    health = fn.check(net, net.init(KEY, X), X)
    assert health.unseen == ("dense",)
    assert [row.path for row in health.outputs] == ["out", ""]
    assert str(health).endswith("not seen, in raw JAX transforms: dense")


@pytest.mark.parametrize("row", catalogue.ROWS, ids=lambda row: row.name)
def test_every_layer_can_be_checked(row):
    params, state = jax.jit(row.layer.init)(KEY, *row.sample), row.layer.init_state(*row.sample)
    health = fn.check(row.layer, params, *row.sample, state=state)
    assert all(vitals.fault != "not finite" for vitals in health.outputs)
    assert health.outputs


def test_the_first_fault_in_time():
    """Of several faults, also of a layer that is called again, and of copies of a loop."""
    twice = fn.Sequential(("d", fn.Dense(8)), ("log", jnp.log), ("d", fn.Dense(8)))
    health = fn.check(twice, twice.init(KEY, X), X)
    assert [row.path for row in health.faults] == ["log", "d@1", ""]
    net = fn.Repeat(fn.Sequential(("a", fn.Dense(8)), ("b", fn.Dense(8))), 4)
    params = net.init(KEY, X)
    net2 = fn.edit(net, {"b": lambda y, i: jnp.where(i == 1, jnp.nan, y)})
    first = fn.check(net2, params, X).first
    assert (first.path, first.copy) == ("b", (1,))  # a is at fault in copy 2, which comes later
    roots = fn.Sequential(fn.Dense(8), fn.Repeat(fn.Sequential(("square", jnp.square), ("root", jnp.sqrt)), 3))
    zeroed = fn.edit(roots, {"dense_0": 0.0})
    health = fn.check(zeroed, roots.init(KEY, X), X, loss=jnp.sum)
    assert health.gradients
    gradient = next(row for row in health.faults if row.kind == "gradient" and row.fault == "not finite")
    assert (gradient.path, gradient.copy) == ("sequential_0/square", (2,))  # from the loss on, the last copy is first


@pytest.mark.parametrize(
    "x",
    [
        np.where(np.arange(2000).reshape(20, 100) == 7, np.float32(3000), floats(20, 100)),  # one outlier
        np.eye(10, dtype=np.float32)[np.arange(50) % 10],  # a one-hot code
        np.asarray(jax.nn.softmax(20 * floats(8, 1000))),  # confident
    ],
)
def test_healthy_outputs_have_no_fault(x):
    assert fn.check(fn.Identity(), {}, x).first is None


def test_gradients_that_are_zero_for_a_reason_are_no_fault():
    xs = floats(2, 6, 4)
    lstm = fn.Sequential(fn.Scan(fn.LSTMCell(8)), fn.Dense(2))
    assert fn.check(lstm, lstm.init(KEY, xs), xs, loss=lambda y: (y**2).sum()).first is None
    net = fn.Sequential(fn.Freeze(fn.Dense(8)), fn.Dense(2))
    assert fn.check(net, net.init(KEY, X), X, loss=lambda y: (y**2).sum()).first is None


def test_a_layer_in_and_outside_a_raw_transform():
    @fn.compose(dense=fn.Dense(8))
    def net(m, x):
        return jax.lax.fori_loop(0, 3, lambda _, h: jnp.tanh(m.dense(h)), m.dense(x))

    params = net.init(KEY, X)
    health = fn.check(net, params, X, loss=jnp.sum)
    assert health.unseen == ("dense",)
    row = next(row for row in health.gradients if row.path == "dense")

    def by_hand(h):
        for _ in range(3):
            h = jnp.tanh(net["dense"].apply(params["dense"], h))
        return h.sum()

    gradient = jax.grad(by_hand)(net["dense"].apply(params["dense"], X))
    np.testing.assert_allclose(row.mean, gradient.mean(), rtol=1e-4)


def test_copies_of_a_loop_that_is_called_twice():
    net = fn.Sequential(*[("t", fn.Repeat(fn.Dense(8), 2))] * 2)
    params = fn.params.update(net.init(KEY, X), {"t/kernel": lambda w: w.at[1, 0, 0].set(jnp.nan)})
    health = fn.check(net, params, X)
    assert [(row.label, row.copy) for row in health.faults] == [
        ("parameter t/kernel", (1,)), ("t", (1,)), ("t@1", (0,)), ("the net", ()),
    ]  # fmt: skip
