"""The jobs that class-based, stateful teaching examples do with mutable modules, done with values and pure
functions.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import floats
from jax.test_util import check_grads

import funcnets as fn
from funcnets import train

KEY = jax.random.key(0)
X = jnp.asarray(floats(2, 20))


def shapes(tree):
    return jax.tree.map(lambda a: a.shape, tree)


# T1: stack layers


def test_t1_layers_in_a_row_with_sizes_from_the_data():
    net = fn.Sequential(fn.Dense(256), jax.nn.relu, fn.Dense(10))
    params = net.init(KEY, X)
    assert shapes(params) == {
        "dense_0": {"kernel": (20, 256), "bias": (256,)},
        "dense_1": {"kernel": (256, 10), "bias": (10,)},
    }
    hidden = jnp.maximum(X @ params["dense_0"]["kernel"] + params["dense_0"]["bias"][None], 0)
    expected = hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"][None]
    np.testing.assert_allclose(net.apply(params, X), expected, rtol=1e-6)


# T2: a module of one's own


@fn.compose(hidden=fn.Dense(256), out=fn.Dense(10))
def mlp(m, x):
    return m.out(jax.nn.relu(m.hidden(x)))


class Mlp(fn.Composite):
    hidden: fn.Layer = fn.Dense(256)
    out: fn.Layer = fn.Dense(10)

    def forward(self, m, x):
        return m.out(jax.nn.relu(m.hidden(x)))


def test_t2_a_forward_over_named_children():
    params = mlp.init(KEY, X)
    assert set(params) == {"hidden", "out"}
    assert (mlp.apply(params, X) == Mlp().apply(Mlp().init(KEY, X), X)).all()


# T3: Sequential by hand


class MySequential(fn.Composite):
    layers: tuple = ()

    def forward(self, m, x):
        return functools.reduce(lambda x, layer: layer(x), m.layers, x)


def test_t3_sequential_written_by_a_user():
    mine = MySequential((fn.Dense(256), jax.nn.relu, fn.Dense(10)))
    ours = fn.Sequential(fn.Dense(256), jax.nn.relu, fn.Dense(10))
    params = mine.init(KEY, X)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params, ours.init(KEY, X)))
    assert (mine.apply(params, X) == ours.apply(params, X)).all()


# T4: arbitrary code in the forward pass


@fn.compose(linear=fn.Dense(20), r=fn.Constant(jax.random.uniform(jax.random.key(7), (20, 20))))
def fixed_hidden(m, x):
    x = m.linear(x)
    x = jax.nn.relu(x @ m.r() + 1)
    x = m.linear(x)
    x = jax.lax.while_loop(lambda x: jnp.abs(x).sum() > 1, lambda x: x / 2, x)
    return x.sum()


def fixed_hidden_by_hand(params, x, r):
    kernel, bias = np.asarray(params["linear"]["kernel"]), np.asarray(params["linear"]["bias"])
    x = np.maximum((x @ kernel + bias) @ r + 1, 0) @ kernel + bias
    while np.abs(x).sum() > 1:
        x = x / 2
    return x.sum()


def test_t4_python_and_jax_control_flow_with_a_constant_and_a_reused_layer():
    params = fixed_hidden.init(KEY, X)
    assert shapes(params) == {"linear": {"kernel": (20, 20), "bias": (20,)}}
    r = np.asarray(fixed_hidden.r.value.array)
    expected = fixed_hidden_by_hand(params, np.asarray(X), r)
    np.testing.assert_allclose(fixed_hidden.apply(params, X), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.jit(fixed_hidden.apply)(params, X), expected, rtol=1e-4, atol=1e-6)
    assert fixed_hidden.init(KEY, jax.ShapeDtypeStruct((2, 20), jnp.float32)).keys() == {"linear"}


# T5: differentiate that loop


@fn.compose(linear=fn.Dense(20))
def halving(m, x):
    return fn.bounded_while(lambda x: jnp.abs(x).sum() > 1, lambda x: x / 2, m.linear(x), 16).sum()


def test_t5_a_bounded_loop_is_differentiable_and_equals_the_unrolled_one():
    params = halving.init(KEY, X)

    def unrolled(params):
        x = X @ params["linear"]["kernel"] + params["linear"]["bias"][None]
        while float(jnp.abs(jax.lax.stop_gradient(x)).sum()) > 1:
            x = x / 2
        return x.sum()

    np.testing.assert_allclose(halving.apply(params, X), unrolled(params), rtol=1e-5)
    by_hand = jax.vjp(lambda p: X @ p["linear"]["kernel"] + p["linear"]["bias"][None], params)
    steps = int(np.ceil(np.log2(float(jnp.abs(by_hand[0]).sum()))))
    (expected,) = by_hand[1](jnp.full((2, 20), 0.5**steps))
    for gradient in (jax.grad(halving.apply)(params, X), jax.jit(jax.grad(halving.apply))(params, X)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), gradient, expected)


def test_t5_a_bounded_loop_stops_at_its_bound():
    assert float(fn.bounded_while(lambda x: x > 1, lambda x: x / 2, jnp.float32(1024), 3)) == 128
    assert float(fn.bounded_while(lambda x: x > 1, lambda x: x / 2, jnp.float32(1024), 30)) == 1


# T6: nest and mix


def test_t6_a_chimera_has_one_nested_tree():
    nested = fn.Sequential(fn.Dense(64), jax.nn.relu, fn.Dense(32), jax.nn.relu, fn.Dense(20))
    chimera = fn.Sequential(("nest", nested), fn.Dense(20), fixed_hidden)
    params = chimera.init(KEY, X)
    assert set(params) == {"nest", "dense_0", "fixed_hidden_0"}
    assert set(params["nest"]) == {"dense_0", "dense_1", "dense_2"}
    assert jax.jit(chimera.apply)(params, X).shape == ()
    assert chimera["nest"][0] == chimera.at("nest/dense_0") == fn.Dense(64)
    assert chimera[2].linear == fn.Dense(20)


# T7: see the model


def test_t7_a_net_prints_as_code_and_with_sizes_once_a_sample_is_seen():
    net = fn.Sequential(("mlp", fn.Sequential(fn.Dense(256), jax.nn.relu)), ("head", fn.Dense(10)))
    assert repr(net) == "Sequential(('mlp', Sequential(Dense(256), jax.nn.relu)), ('head', Dense(10)))"
    assert eval(repr(net), {**vars(fn), "jax": jax}) == net
    summary = fn.summary(net, X)
    rows = {row.path: row for row in summary.rows}
    assert rows["mlp/dense_0"].parameters == 20 * 256 + 256
    assert rows["head"].flops == 2 * 2 * 256 * 10
    assert all(path in str(summary) for path in ("mlp", "dense_0", "head"))
    drawing = fn.draw(net, X)
    assert drawing.svg.startswith("<svg")
    assert "head" in drawing.svg


# T8: reach a child


def test_t8_layers_parameters_and_activations_by_number_name_and_path():
    block = fn.Sequential(fn.Dense(4), jax.nn.relu)
    net = fn.Sequential(("blocks", fn.Sequential(block, block)), ("head", fn.Dense(2)))
    params = net.init(KEY, X)
    assert net[0][1][0] == net["blocks"]["sequential_1"]["dense_0"] == net.at("blocks/sequential_1/dense_0")
    assert net[-1] == net["head"] == fn.Dense(2)
    path = "blocks/sequential_1/dense_0"
    assert fn.params.get(params, f"{path}/kernel") is params["blocks"]["sequential_1"]["dense_0"]["kernel"]
    y, activations = fn.capture(net, (path, "head"))(params, X)
    assert activations[path].shape == (2, 4)
    assert (activations["head"] == y).all()


# T9: list parameters


def test_t9_paths_shapes_and_counts_over_a_plain_dict():
    net = fn.Sequential(fn.Dense(256), jax.nn.relu, fn.Dense(10))
    params = net.init(KEY, X)
    assert [(path, array.shape) for path, array in fn.params.paths(params)] == [
        ("dense_0/kernel", (20, 256)), ("dense_0/bias", (256,)),
        ("dense_1/kernel", (256, 10)), ("dense_1/bias", (10,)),
    ]  # fmt: skip
    assert fn.params.get(params, "dense_1/bias") is params["dense_1"]["bias"]
    assert fn.params.count(params) == 20 * 256 + 256 + 256 * 10 + 10
    assert fn.params.nbytes(params) == 4 * fn.params.count(params)
    assert type(params) is type(params["dense_0"]) is dict


# T10: collect from nested blocks


def make_block():
    return fn.Sequential(fn.Dense(8), jax.nn.relu, fn.Dense(4), jax.nn.relu)


def test_t10_a_factory_gives_equal_values_and_each_place_its_own_weights():
    assert make_block() == make_block()
    blocks = fn.Sequential(*((f"block {i}", make_block()) for i in range(4)))
    net = fn.Sequential(("blocks", blocks), fn.Dense(1))
    params = net.init(KEY, X)
    assert list(params["blocks"]) == ["block 0", "block 1", "block 2", "block 3"]
    kernels = [np.asarray(params["blocks"][f"block {i}"]["dense_1"]["kernel"]) for i in range(4)]
    assert len({kernel.tobytes() for kernel in kernels}) == 4


# T11: tie parameters


def test_t11_a_name_used_twice_is_one_layer_and_gradients_add():
    net = fn.Sequential(("shared", fn.Dense(20)), jnp.tanh, ("shared", fn.Dense(20)), fn.Dense(1))
    params = net.init(KEY, X)
    assert set(params) == {"shared", "dense_0"}

    def twice(first, second, head):
        hidden = jnp.tanh(X @ first["kernel"] + first["bias"][None]) @ second["kernel"] + second["bias"][None]
        return (hidden @ head["kernel"] + head["bias"][None]).sum()

    one, two = jax.grad(twice, (0, 1))(params["shared"], params["shared"], params["dense_0"])
    gradient = jax.grad(lambda p: net.apply(p, X).sum())(params)["shared"]
    jax.tree.map(lambda g, a, b: np.testing.assert_allclose(g, a + b, rtol=1e-5), gradient, one, two)


def test_t11_an_embedding_and_its_transposed_output_head():
    ids = jnp.array([[1, 2, 3]])
    net = fn.Sequential(("embed", fn.Embedding(7, 4)), jnp.tanh, ("embed", fn.Unembed()))
    params = net.init(KEY, ids)
    assert shapes(params) == {"embed": {"table": (7, 4)}}
    table = params["embed"]["table"]
    np.testing.assert_allclose(net.apply(params, ids), jnp.tanh(table[ids]) @ table.T, rtol=1e-5)


@fn.compose(encoder=fn.Sequential(fn.Dense(5), jnp.tanh), decoder=fn.Dense(20))
def autoencoder(m, x):
    return m.decoder(m.encoder(x))


def test_t11_across_scopes_with_a_transpose():
    tied = fn.tie(autoencoder, "decoder/kernel", to="encoder/dense_0/kernel", via=jnp.transpose)
    params = tied.init(KEY, X)
    assert shapes(params) == {"encoder": {"dense_0": {"kernel": (20, 5), "bias": (5,)}}, "decoder": {"bias": (20,)}}

    def by_hand(p):
        first = p["encoder"]["dense_0"]
        return (
            jnp.tanh(X @ first["kernel"] + first["bias"][None]) @ first["kernel"].T + p["decoder"]["bias"][None]
        ).sum()

    np.testing.assert_allclose(tied.apply(params, X).sum(), by_hand(params), rtol=1e-5)
    gradients = jax.grad(lambda p: tied.apply(p, X).sum())(params), jax.grad(by_hand)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *gradients)


# T12: initialise all layers of a kind


def test_t12_all_layers_of_a_kind_by_values_and_by_rules():
    net = fn.Sequential(fn.Dense(64), jax.nn.relu, ("head", fn.Dense(10)))
    normal, ones = fn.initializers.Normal(0.01), fn.initializers.Constant(1.0)
    by_values = fn.rewrite.replace(net, {fn.Dense: {"kernel_init": normal, "bias_init": fn.initializers.Zeros()}})
    by_rules = fn.rewrite.with_init(net, {"**/kernel": normal, fn.Dense: fn.initializers.Zeros()})
    params = by_values.init(KEY, X)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, params, by_rules.init(KEY, X)))
    assert abs(params["dense_0"]["kernel"].std() - 0.01) < 1e-3
    assert not params["head"]["bias"].any()
    constant = fn.rewrite.with_init(net, {fn.Dense: ones}).init(KEY, X)
    assert all((array == 1).all() for array in jax.tree.leaves(constant))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, constant, fn.params.update(params, {"**": 1.0})))


# T13: initialise parts differently


def test_t13_parts_by_path():
    net = fn.Sequential(fn.Dense(64), jax.nn.relu, ("head", fn.Dense(10)))
    xavier, constant = fn.initializers.GlorotUniform(), fn.initializers.Constant(42.0)
    params = fn.rewrite.with_init(net, {"dense_0/kernel": xavier, "head/kernel": constant}).init(KEY, X)
    bound = (6 / (20 + 64)) ** 0.5
    assert 0.9 * bound < jnp.abs(params["dense_0"]["kernel"]).max() <= bound
    assert (params["head"]["kernel"] == 42).all()
    assert not params["head"]["bias"].any()  # as before


# T14: an initialiser of one's own


def far_from_zero(key, shape, dtype):
    """U(-10, 10), kept only where it is at least 5 from zero."""
    value = jax.random.uniform(key, shape, dtype, -10, 10)
    return jnp.where(jnp.abs(value) >= 5, value, 0)


def test_t14_any_function_of_key_shape_and_dtype():
    net = fn.Sequential(fn.Dense(1000, kernel_init=far_from_zero), jax.nn.relu, fn.Dense(10))
    kernel = net.init(KEY, X)["dense_0"]["kernel"]
    for part, share in ((kernel == 0, 0.5), (kernel >= 5, 0.25), (kernel <= -5, 0.25)):
        assert abs(part.mean() - share) < 0.02
    assert (jnp.abs(kernel) <= 10).all()
    ruled = fn.rewrite.with_init(fn.Sequential(fn.Dense(1000), jax.nn.relu, fn.Dense(10)), {"*/kernel": far_from_zero})
    assert (ruled.init(KEY, X)["dense_0"]["kernel"] == kernel).all()


# T15: set parameters by hand


def test_t15_a_new_tree_and_the_old_one_unchanged():
    net = fn.Sequential(fn.Dense(4), jax.nn.relu, fn.Dense(2))
    params = net.init(KEY, X)
    old = params["dense_0"]["kernel"]
    new = fn.params.update(params, {"dense_0/kernel": lambda w: (w + 1).at[0, 0].set(42.0)})
    assert new["dense_0"]["kernel"][0, 0] == 42
    assert (new["dense_0"]["kernel"][1:] == old[1:] + 1).all()
    assert params["dense_0"]["kernel"] is old
    assert new["dense_1"]["kernel"] is params["dense_1"]["kernel"]


# T16: deferred initialisation


def test_t16_another_input_width_needs_no_change_of_code():
    net = fn.Sequential(fn.Dense(4), jax.nn.relu, fn.Dense(2))
    for width in (3, 30):
        sample = jax.ShapeDtypeStruct((1, width), jnp.float32)
        assert net.init(KEY, sample)["dense_0"]["kernel"].shape == (width, 4)
    with pytest.raises(TypeError, match=r"net\.init\(key, \*sample\)"):
        net.apply(None, X)
    with pytest.raises(TypeError, match="params is a function"):
        net.apply(net.init, X)


# T17: a layer without parameters


def centred(x):
    return x - x.mean()


def test_t17_any_function_is_a_layer():
    net = fn.Sequential(fn.Dense(8), centred)
    params = net.init(KEY, X)
    assert set(params) == {"dense_0"}
    assert abs(float(net.apply(params, X).mean())) < 1e-6


# T18: a layer with parameters


def my_init(key, x):
    return {"weight": jax.random.normal(key, (x.shape[-1], 3)), "bias": jnp.zeros(3)}


def my_apply(params, x):
    return jax.nn.relu(x @ params["weight"] + params["bias"][None])


def test_t18_an_init_and_apply_pair():
    net = fn.Sequential(fn.pair(my_init, my_apply), fn.pair(my_init, my_apply))
    params = net.init(KEY, X)
    assert shapes(params) == {
        "my_apply_0": {"weight": (20, 3), "bias": (3,)},
        "my_apply_1": {"weight": (3, 3), "bias": (3,)},
    }
    assert net.apply(params, X).shape == (2, 3)


# T19, T20: in parallel, and many from a factory


def test_t19_parallel_concatenates():
    net = fn.Parallel(("left", fn.Dense(3)), ("right", fn.Dense(4)))
    params = net.init(KEY, X)
    y = net.apply(params, X)
    assert y.shape == (2, 7)
    left = X @ params["left"]["kernel"] + params["left"]["bias"][None]
    np.testing.assert_allclose(y[:, :3], left, rtol=1e-6)


def test_t20_many_instances_in_a_row_side_by_side_and_as_an_ensemble():
    row = fn.Sequential(*(make_block() for _ in range(3)))
    assert len(row.init(KEY, X)) == 3
    side = fn.Parallel(*(make_block() for _ in range(3)))
    assert side.apply(side.init(KEY, X), X).shape == (2, 12)
    stacked = fn.Parallel(*(make_block() for _ in range(3)), merge="stack")
    assert stacked.apply(stacked.init(KEY, X), X).shape == (3, 2, 4)
    ensemble = fn.Ensemble(make_block(), 3)
    params = ensemble.init(KEY, X)
    outputs = ensemble.apply(params, X)
    assert outputs.shape == (3, 2, 4)
    for i in range(3):
        alone = make_block().apply(jax.tree.map(lambda a, i=i: a[i], params), X)
        np.testing.assert_allclose(outputs[i], alone, rtol=1e-5, atol=1e-6)


# T21: the list pitfall


def test_t21_layers_in_a_list_cannot_be_lost():
    net = MySequential([fn.Dense(8), fn.Dense(4)])  # a list becomes a tuple, and a tuple of layers is children
    assert set(net.init(KEY, X)) == {"dense_0", "dense_1"}
    with pytest.raises(TypeError, match=r"Sequential\(\*layers\)"):
        fn.Sequential([fn.Dense(8), fn.Dense(4)])
    with pytest.raises(TypeError, match="would be lost"):
        MySequential([[fn.Dense(8)], fn.Dense(4)])


# T22: arrays to and from disk


def test_t22_an_array_a_list_and_a_dict_to_and_from_disk(tmp_path):
    x, y = jnp.arange(4), jnp.zeros(4)
    for name, tree in (("x.npz", x), ("xy.npz", [x, y]), ("named.npz", {"x": x, "y": y})):
        fn.files.save_tree(tmp_path / name, tree)
        found = fn.files.load_tree(tmp_path / name)
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, found, tree))
    np.testing.assert_array_equal(np.load(tmp_path / "named.npz")["x"], x)  # the file is NumPy's own


# T23: parameters to and from disk


def build():
    return fn.Sequential(("hidden", fn.Dense(256)), jax.nn.relu, ("output", fn.Dense(10)))


def test_t23_parameters_from_a_file_into_a_net_that_is_built_again(tmp_path):
    net = build()
    params = net.init(KEY, X)
    fn.files.save_tree(tmp_path / "mlp.params", params)

    clone = build()
    like = jax.eval_shape(clone.init, KEY, X)  # shapes alone: nothing is drawn
    loaded = fn.files.load_tree(tmp_path / "mlp.params", like)
    assert (clone.apply(loaded, X) == net.apply(params, X)).all()

    wider = fn.rewrite.replace(clone, {"hidden": {"features": 300}})
    with pytest.raises(ValueError, match=r"hidden/bias: file float32\[256\], model float32\[300\]"):
        fn.files.load_tree(tmp_path / "mlp.params", jax.eval_shape(wider.init, KEY, X))


def test_t23_the_net_and_its_parameters_in_one_file_that_runs_no_code(tmp_path):
    net = build()
    params = net.init(KEY, X)
    fn.files.save_tree(tmp_path / "mlp.npz", {"net": fn.files.to_config(net), "params": params})

    found = fn.files.load_tree(tmp_path / "mlp.npz")
    clone = fn.files.from_config(found["net"])
    assert clone == net
    assert (clone.apply(found["params"], X) == net.apply(params, X)).all()

    found["net"]["net"]["layers"][1] = {"function": "os.system"}  # names are looked up, never imported
    with pytest.raises(ValueError, match="'os.system' is not registered"):
        fn.files.from_config(found["net"])


# T24: checkpoints in a long training


def test_t24_a_run_that_crashed_goes_on_where_it_was(tmp_path):
    net = fn.Sequential(fn.Dense(16), jax.nn.relu, fn.Dropout(0.1), fn.Dense(1))
    data = train.batches({"x": floats(40, 5), "y": floats(40, 1, seed=1)}, 8, jax.random.key(1))
    optimizer = optax.sgd(1e-2, momentum=0.9)
    step = train.make_step(net, lambda model, batch: jnp.square(model(batch["x"]) - batch["y"]).mean(), optimizer)

    def run(directory, crash_at=None):
        state = train.create(net, optimizer, KEY, floats(1, 5))
        with fn.Checkpoints(directory, keep=2, every=10) as checkpoints:
            state = checkpoints.resume(state)
            for i in range(int(state.step), 40):
                if i == crash_at:
                    raise RuntimeError("the power went")
                state, _ = step(state, data[i])
                checkpoints.save(i + 1, state)
        return state

    with pytest.raises(RuntimeError, match="the power went"):
        run(tmp_path / "crashed", crash_at=35)
    assert fn.Checkpoints(tmp_path / "crashed").steps() == (20, 30)
    resumed, whole = run(tmp_path / "crashed"), run(tmp_path / "whole")
    assert int(resumed.step) == int(whole.step) == 40
    assert (resumed.key == whole.key).all()
    for part in ("params", "opt_state"):
        assert jax.tree.all(jax.tree.map(jnp.array_equal, getattr(resumed, part), getattr(whole, part)))


# T27: learn by hand in NumPy, then hand over one piece at a time


def targets_to_learn_by_heart():
    """64 examples of 1000 numbers each, and 10 random targets for each of them."""
    return floats(64, 1000, seed=10), floats(64, 10, seed=20)


def first_weights():
    return floats(1000, 100, seed=2), floats(100, 10, seed=3)


def losses_of(step, *weights, steps=500):
    losses = []
    for _ in range(steps):
        loss, *weights = step(*weights)
        losses.append(float(loss))
    return np.array(losses)


def step_in_numpy(x, y, w1, w2):
    hidden = x @ w1
    active = np.maximum(hidden, 0)
    error = active @ w2 - y
    loss = np.square(error).sum()

    error_grad = 2 * error
    w2_grad = active.T @ error_grad
    hidden_grad = (error_grad @ w2.T) * (hidden > 0)
    w1_grad = x.T @ hidden_grad
    return loss, w1 - 1e-6 * w1_grad, w2 - 1e-6 * w2_grad


@jax.jit
def step_in_jax(x, y, w1, w2):
    hidden = x @ w1
    active = jnp.maximum(hidden, 0)
    error = active @ w2 - y
    loss = jnp.square(error).sum()

    error_grad = 2 * error
    w2_grad = active.T @ error_grad
    hidden_grad = jnp.where(hidden > 0, error_grad @ w2.T, 0)
    w1_grad = x.T @ hidden_grad
    return loss, w1 - 1e-6 * w1_grad, w2 - 1e-6 * w2_grad


@jax.jit
def step_by_grad(x, y, w1, w2):
    def loss_of(weights):
        w1, w2 = weights
        return jnp.square(jnp.maximum(x @ w1, 0) @ w2 - y).sum()

    loss, (w1_grad, w2_grad) = jax.value_and_grad(loss_of)((w1, w2))
    return loss, w1 - 1e-6 * w1_grad, w2 - 1e-6 * w2_grad


two_layers = fn.Sequential(fn.Dense(100, use_bias=False), jax.nn.relu, fn.Dense(10, use_bias=False))


@jax.jit
def step_of_layers(x, y, params):
    def loss_of(params):
        return jnp.square(two_layers.apply(params, x) - y).sum()

    loss, grads = jax.value_and_grad(loss_of)(params)
    return loss, jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads)


@jax.jit
def step_with_a_loss_of_optax(x, y, params):
    def loss_of(params):
        return optax.losses.squared_error(two_layers.apply(params, x), y).sum()

    loss, grads = jax.value_and_grad(loss_of)(params)
    return loss, jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads)


def sum_of_squares(model, batch):
    return optax.losses.squared_error(model(batch["x"]), batch["y"]).sum()


def test_t27_from_numpy_by_hand_to_optax_with_the_same_losses():
    x, y = targets_to_learn_by_heart()
    w1, w2 = first_weights()
    params = {"dense_0": {"kernel": w1}, "dense_1": {"kernel": w2}}
    optimizer = optax.sgd(1e-6)
    state = train.create(two_layers, optimizer, KEY, x, params=params)
    compiled = train.make_step(two_layers, sum_of_squares, optimizer)

    def step_of_optax(state):
        state, metrics = compiled(state, {"x": x, "y": y})
        return metrics["loss"], state

    stages = {
        "numpy": losses_of(functools.partial(step_in_numpy, x, y), w1, w2),
        "jax arrays": losses_of(functools.partial(step_in_jax, x, y), w1, w2),
        "jax.grad": losses_of(functools.partial(step_by_grad, x, y), w1, w2),
        "layers": losses_of(functools.partial(step_of_layers, x, y), params),
        "losses": losses_of(functools.partial(step_with_a_loss_of_optax, x, y), params),
        "optax": losses_of(step_of_optax, state),
    }
    for losses in stages.values():
        assert 1e7 < losses[0] < 1e8
        assert 1e-6 < losses[-1] < 1e-4  # the order of what 32 bits can tell of targets of order 1
    for before, after in itertools.pairwise(stages.values()):
        np.testing.assert_allclose(after[:200], before[:200], rtol=1e-3)  # one after the other: rounding adds up
        np.testing.assert_allclose(after, before, rtol=0.05)  # the last are sums of squared roundings


# T28: a gradient


def test_t28_the_gradient_of_a_mean():
    def mean(x):
        z = 3 * (x + 2) ** 2
        return z.mean()

    assert mean(jnp.ones((2, 2))) == 27
    assert (jax.grad(mean)(jnp.ones((2, 2))) == 4.5).all()


# T29: a function with a derivative of its own


@jax.custom_vjp
def my_exp(x):
    return jnp.exp(x)


def my_exp_forward(x):
    y = jnp.exp(x)
    return y, y  # the output, and what the way back needs


def my_exp_backward(y, grad):
    return (grad * y,)


my_exp.defvjp(my_exp_forward, my_exp_backward)


@jax.custom_vjp
def my_relu(x):
    return jnp.maximum(x, 0)


def my_relu_forward(x):
    return jnp.maximum(x, 0), x


def my_relu_backward(x, grad):
    return (jnp.where(x > 0, grad, 0),)


my_relu.defvjp(my_relu_forward, my_relu_backward)


def test_t29_functions_with_derivatives_of_their_own_are_layers():
    net = fn.Sequential(fn.Dense(8), my_relu, fn.Dense(3), my_exp)
    params = net.init(KEY, X)
    assert set(params) == {"dense_0", "dense_1"}
    jaxs = fn.rewrite.replace(net, {my_relu: lambda _: jax.nn.relu, my_exp: lambda _: jnp.exp})
    assert (net.apply(params, X) == jaxs.apply(params, X)).all()
    mine, theirs = (jax.jit(jax.grad(lambda p, net=net: net.apply(p, X).sum()))(params) for net in (net, jaxs))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), mine, theirs)
    check_grads(lambda p: net.apply(p, X), (params,), order=1, modes="rev", rtol=1e-2)

    steep = jax.custom_vjp(jnp.exp)  # the derivative is the one that is given, here twice the true one
    steep.defvjp(my_exp_forward, lambda y, grad: (2 * grad * y,))
    steeper = fn.rewrite.replace(net, {my_exp: lambda _: steep})
    doubled = jax.grad(lambda p: steeper.apply(p, X).sum())(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 2 * b, rtol=1e-5), doubled, mine)


def test_t29_a_net_learns_through_a_function_of_ones_own():
    x, y = targets_to_learn_by_heart()
    w1, w2 = first_weights()
    params = {"dense_0": {"kernel": w1}, "dense_1": {"kernel": w2}}
    net = fn.rewrite.replace(two_layers, {jax.nn.relu: lambda _: my_relu})

    @jax.jit
    def step(params):
        loss, grads = jax.value_and_grad(lambda p: jnp.square(net.apply(p, x) - y).sum())(params)
        return loss, jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads)

    expected = losses_of(functools.partial(step_of_layers, x, y), params, steps=200)
    np.testing.assert_allclose(losses_of(step, params, steps=200), expected, rtol=1e-3)


# T30: layers, a loss and an update by hand


def regression_net():
    return fn.Sequential(
        fn.Dense(100, kernel_init=fn.initializers.TorchKernel()),
        jax.nn.relu,
        fn.Dense(10, kernel_init=fn.initializers.TorchKernel()),
    )


def losses_by_hand(x, y):
    net = regression_net()

    @jax.jit
    def step(params):
        def loss_of(params):
            return optax.losses.squared_error(net.apply(params, x), y).sum()

        loss, grads = jax.value_and_grad(loss_of)(params)
        return loss, jax.tree.map(lambda p, g: p - 1e-4 * g, params, grads)

    return losses_of(step, net.init(KEY, x))


def test_t30_layers_a_loss_and_an_update_by_hand():
    losses = losses_by_hand(*targets_to_learn_by_heart())
    assert 5e2 < losses[0] < 1e3
    assert 1e-7 < losses[-1] < 3e-5


# T31: optimisers


def losses_by(optimizer, x, y):
    net = regression_net()
    state = train.create(net, optimizer, KEY, x)
    step = train.make_step(net, sum_of_squares, optimizer)
    losses = []
    for _ in range(500):
        state, metrics = step(state, {"x": x, "y": y})
        losses.append(float(metrics["loss"]))
    return np.array(losses)


def test_t31_sgd_momentum_and_adam():
    x, y = targets_to_learn_by_heart()
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        sgd, momentum, adam = (
            losses_by(optimizer, x, y)
            for optimizer in (optax.sgd(1e-4), optax.sgd(1e-4, momentum=0.9), optax.adam(1e-4))
        )
    by_hand = losses_by_hand(x, y)
    np.testing.assert_allclose(sgd[:300], by_hand[:300], rtol=1e-3)
    assert 0.5 < sgd[-1] / by_hand[-1] < 2
    assert momentum[100] < sgd[100] < adam[100]  # who is quick to start
    assert momentum[-1] < adam[-1] < 1e-7 < sgd[-1] < 3e-5  # and who gets far


def momentum_by_hand(trace, grad, i):
    trace = 0.9 * trace + grad
    return trace, -1e-2 * trace


def adam_by_hand(moments, grad, i):
    mean, square = moments
    mean, square = 0.9 * mean + 0.1 * grad, 0.999 * square + 0.001 * grad**2
    return (mean, square), -1e-2 * (mean / (1 - 0.9**i)) / (np.sqrt(square / (1 - 0.999**i)) + 1e-8)


@pytest.mark.parametrize(
    ("optimizer", "by_hand", "start"),
    [(optax.sgd(1e-2, momentum=0.9), momentum_by_hand, 0.0), (optax.adam(1e-2), adam_by_hand, (0.0, 0.0))],
    ids=["momentum", "adam"],
)
def test_t31_an_optimiser_takes_the_steps_of_its_formula(optimizer, by_hand, start):
    net, x = fn.Dense(1, use_bias=False), floats(16, 5)
    y = np.float32(x @ floats(5, 1, seed=1))
    kernel = floats(5, 1, seed=2)
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        state = train.create(net, optimizer, KEY, x, params={"kernel": kernel})
        step = train.make_step(net, lambda model, batch: jnp.square(model(x) - y).mean(), optimizer)
        memory = start
        for i in range(1, 21):
            state, _ = step(state, None)
            memory, update = by_hand(memory, 2 / 16 * x.T @ (x @ kernel - y), i)
            kernel = kernel + update
            np.testing.assert_allclose(state.params["kernel"], kernel, rtol=1e-4, atol=1e-6)


# T32: hooks


def test_t32_activations_are_read_replaced_and_differentiated_under_jit():
    net = fn.Sequential(fn.Dense(8), jnp.tanh, fn.Repeat(fn.Residual(fn.Dense(8)), 3), ("head", fn.Dense(1)))
    params = net.init(KEY, X)

    y, activations = jax.jit(fn.capture(net, "**"))(params, X)  # a forward hook that reads
    assert (y == jax.jit(net.apply)(params, X)).all()
    assert activations["tanh_0"].shape == (2, 8)
    assert activations["dense_1"].shape == (3, 2, 8)

    doubled = fn.edit(net, {"tanh_0": lambda h: 2 * h})  # a forward hook that changes
    wanted = net[2:].apply(fn.params.drop(params, "dense_0/**"), 2 * activations["tanh_0"])
    np.testing.assert_allclose(jax.jit(doubled.apply)(params, X), wanted, rtol=1e-5)

    def loss(moves):
        return fn.edit(net, moves, add=True).apply(params, X).sum()

    gradients = jax.jit(jax.grad(loss))(jax.tree.map(jnp.zeros_like, activations))  # a backward hook that reads
    by_hand = jax.grad(lambda h: net["head"].apply(params["head"], h).sum())(activations["dense_1"][-1])
    np.testing.assert_allclose(gradients["dense_1"][-1], by_hand, rtol=1e-5)

    @jax.custom_vjp
    def halved(h):
        return h

    halved.defvjp(lambda h: (h, None), lambda _, g: (g / 2,))  # a backward hook that changes
    hooked = fn.edit(net, {"head": halved})
    whole, half = (jax.grad(lambda p, n=n: n.apply(p, X).sum())(params) for n in (net, hooked))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a / 2, b, rtol=1e-5), whole, half)


# T33: dynamic depth


@fn.compose(first=fn.Dense(16), middle=fn.Dense(16), last=fn.Dense(1))
def dynamic(m, x, depth):
    x = jax.nn.relu(m.first(x))
    if isinstance(depth, int):
        for _ in range(depth):
            x = jax.nn.relu(m.middle(x))
    else:
        x = jax.lax.fori_loop(0, depth, lambda _, x: jax.nn.relu(m.middle(x)), x)
    return m.last(x)


def test_t33_dynamic_depth_by_a_python_loop_and_by_fori_loop():
    params = dynamic.init(KEY, X, jax.ShapeDtypeStruct((), jnp.int32))
    assert set(params) == {"first", "middle", "last"}
    assert set(dynamic.init(KEY, X, 2)) == {"first", "middle", "last"}
    for depth in range(4):
        traced = jax.jit(dynamic.apply)(params, X, jnp.int32(depth))
        np.testing.assert_allclose(dynamic.apply(params, X, depth), traced, rtol=1e-5, atol=1e-6)


@fn.compose(first=fn.Dense(16), middle=fn.Dense(16), last=fn.Dense(1))
def dynamic_and_trained(m, x, depth):
    def once_more(carry):
        done, x = carry
        return done + 1, jax.nn.relu(m.middle(x))

    x = jax.nn.relu(m.first(x))
    _, x = fn.bounded_while(lambda carry: carry[0] < depth, once_more, (0, x), 3)  # with gradients, to a depth of 3
    return m.last(x)


def test_t33_the_middle_layer_has_one_set_of_weights_whose_gradients_add():
    params = dynamic.init(KEY, X, 2)
    middle = params["middle"]

    def unrolled(middles):
        x = jax.nn.relu(fn.Dense(16).apply(params["first"], X))
        for layer in middles:
            x = jax.nn.relu(fn.Dense(16).apply(layer, x))
        return fn.Dense(1).apply(params["last"], x).sum()

    for depth in range(4):
        grads = jax.grad(unrolled)([middle] * depth)
        expected = jax.tree.map(
            lambda *each: sum(each, jnp.zeros_like(each[0])), jax.tree.map(jnp.zeros_like, middle), *grads
        )
        for net, steps in ((dynamic, depth), (dynamic_and_trained, jnp.int32(depth))):
            found = jax.grad(lambda p, net=net, steps=steps: net.apply(p, X, steps).sum())(params)["middle"]
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


def test_t33_dynamic_depth_trains_by_momentum():
    x = floats(64, 5)
    y = np.sin(x.sum(-1, keepdims=True))
    optimizer = optax.sgd(1e-2, momentum=0.9)

    def step_of(net, depth=None):
        def loss(model, given):
            return jnp.square(model(x, given if depth is None else depth) - y).mean()

        return train.make_step(net, loss, optimizer)

    bounded = step_of(dynamic_and_trained)  # compiled once, for any depth
    python = [step_of(dynamic, depth) for depth in range(4)]  # compiled once a depth
    state = train.create(dynamic_and_trained, optimizer, KEY, x, jnp.int32(1))
    other = train.create(dynamic, optimizer, KEY, x, 1)
    losses = []
    for depth in np.random.default_rng(0).integers(0, 4, 200):
        state, metrics = bounded(state, jnp.int32(depth))
        other, expected = python[depth](other, None)
        np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-3)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-20:]) < 0.5 * losses[0]
