"""The training step and evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import floats

import funcnets as fn

KEY = jax.random.key(0)
X, Y = floats(32, 5), floats(32, 1, seed=1)
NET = fn.Sequential(fn.Dense(8), fn.BatchNorm(), jax.nn.relu, fn.Dropout(0.2), fn.Dense(1))


def loss(model, batch):
    error = (model(batch["x"]) - batch["y"]) ** 2
    return error.mean(), {"worst": error.max()}


def test_the_parameters_are_those_of_init():
    same(fn.train.create(NET, optax.sgd(0.1), KEY, X).params, NET.init(KEY, X))


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, a, b))


def test_a_step_is_the_one_written_by_hand():
    optimizer = optax.adam(1e-2)
    start = fn.train.create(NET, optimizer, KEY, X)
    batch = {"x": X, "y": Y}

    def by_hand(params):
        key = jax.random.fold_in(start.key, start.step)
        y, state = NET.apply(params, X, state=start.state, key=key, train=True)
        return ((y - Y) ** 2).mean(), state

    (value, state), gradients = jax.jit(jax.value_and_grad(by_hand, has_aux=True))(start.params)
    updates, opt_state = optimizer.update(gradients, start.opt_state, start.params)
    params = optax.apply_updates(start.params, updates)
    after, metrics = fn.train.make_step(NET, loss, optimizer)(start, batch)
    assert int(after.step) == 1
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)
    assert float(metrics["worst"]) > float(metrics["loss"])
    for a, b in ((after.params, params), (after.state, state), (after.opt_state, opt_state)):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_the_state_given_is_consumed():
    optimizer = optax.sgd(1e-2)
    start = fn.train.create(NET, optimizer, KEY, X)
    step = fn.train.make_step(NET, loss, optimizer)
    step(start, {"x": X, "y": Y})
    with pytest.raises(ValueError, match="this state was consumed by an earlier step"):
        step(start, {"x": X, "y": Y})
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start.params))


def test_training_goes_on_and_repeats_to_the_bit():
    optimizer = optax.adam(1e-2)
    step = fn.train.make_step(NET, loss, optimizer)
    data = fn.train.batches({"x": X, "y": Y}, 8, jax.random.key(2))

    def run():
        state, losses = fn.train.create(NET, optimizer, KEY, X), []
        for i in range(160):
            state, metrics = step(state, data[i])
            losses.append(float(metrics["loss"]))
        return state, losses

    (a, losses), (b, again) = run(), run()
    same(jax.tree.map(lambda x: x, a.params), b.params)
    assert losses == again
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


def test_a_loss_that_is_no_number_is_refused():
    step = fn.train.make_step(NET, lambda model, batch: model(batch["x"]), optax.sgd(0.1))
    with pytest.raises(TypeError, match=r"a loss is one floating number, got float32\[32,1\]"):
        step(fn.train.create(NET, optax.sgd(0.1), KEY, X), {"x": X, "y": Y})


def test_evaluation_averages_over_examples_and_not_over_batches():
    state = fn.train.create(NET, optax.sgd(0.1), KEY, X)

    def measure(model, batch):
        return {"error": ((model(batch["x"]) - batch["y"]) ** 2)[:, 0]}

    data = fn.train.batches({"x": X, "y": Y}, 12, partial="keep")
    assert [len(batch["x"]) for batch in data] == [12, 12, 8]
    got = fn.train.evaluate(NET, measure, state, data)
    y, _ = NET.apply(state.params, X, state=state.state)
    np.testing.assert_allclose(got["error"], ((y - Y) ** 2).mean(), rtol=1e-5)
    with pytest.raises(ValueError, match="no batches"):
        fn.train.evaluate(NET, measure, state, [])
    with pytest.raises(ValueError, match="evaluate takes all examples, and these batches leave 8 of 32 out"):
        fn.train.evaluate(NET, measure, state, fn.train.batches({"x": X, "y": Y}, 12, partial="drop"))
    with jax.enable_x64(True):
        plain = fn.train.create(fn.Dense(1), optax.sgd(0.1), KEY, X)
        exact = fn.train.evaluate(fn.Dense(1), lambda model, x: {"x": x}, plain, [np.array([1 + 1e-12])])
    assert exact == {"x": 1 + 1e-12}
    with pytest.raises(TypeError, match="one number an example"):
        fn.train.evaluate(NET, lambda model, batch: {"mean": model(batch["x"]).mean()}, state, data)


# Frozen parameters


def frozen_net():
    encoder = fn.Sequential(fn.Dense(8), fn.LayerNorm(), jax.nn.relu)
    return fn.Sequential(("encoder", fn.Freeze(encoder)), ("head", fn.Dense(1)))


def test_frozen_parameters_take_no_memory_of_the_optimiser_and_keep_their_bits():
    net, optimizer = frozen_net(), optax.adamw(1e-2, weight_decay=0.1)
    start = fn.train.create(net, optimizer, KEY, X)
    before = jax.tree.map(jnp.copy, start.params)
    head = fn.params.nbytes(start.params["head"])
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(start.opt_state)) == 2 * head + 4  # two moments and a count
    step = fn.train.make_step(net, loss, optimizer)
    state = start
    for _ in range(3):
        state, _ = step(state, {"x": X, "y": Y})
    assert jax.tree.structure(state.params) == jax.tree.structure(before)
    same(state.params["encoder"], before["encoder"])
    assert not jnp.array_equal(state.params["head"]["kernel"], before["head"]["kernel"])


def test_frozen_parameters_have_no_gradient_in_the_jaxpr():
    def products(net):
        start = fn.train.create(net, optax.sgd(0.1), KEY, X)
        step = fn.train.make_step(net, loss, optax.sgd(0.1))
        return str(jax.make_jaxpr(step)(start, {"x": X, "y": Y})).count("dot_general")

    free = fn.rewrite.replace(frozen_net(), {fn.Freeze: lambda freeze: freeze.body})
    # forward 2; backward: both kernels and the stream between, or the head's kernel alone
    assert (products(free), products(frozen_net())) == (5, 3)

    params = frozen_net().init(KEY, X)
    gradient = jax.make_jaxpr(jax.grad(lambda p: frozen_net().apply(p, X).sum()))(params)
    assert str(gradient).count("dot_general") == 3


def test_a_part_that_is_frozen_but_for_some():
    net = fn.Freeze(fn.Sequential(fn.Dense(8), jax.nn.relu, fn.Dense(1)), but="**/bias")
    start = fn.train.create(net, optax.sgd(0.1), KEY, X)
    before = jax.tree.map(jnp.copy, start.params)
    state, _ = fn.train.make_step(net, loss, optax.sgd(0.1))(start, {"x": X, "y": Y})
    moved = {path for path, array in fn.params.paths(state.params) if (array != fn.params.get(before, path)).any()}
    assert moved == {"dense_0/bias", "dense_1/bias"}


def test_parameters_and_state_to_start_from_are_copied_and_must_fit():
    params, state = NET.init(KEY, X), NET.init_state(X)
    optimizer = optax.sgd(0.1)
    start = fn.train.create(NET, optimizer, jax.random.key(7), X, params=params, state=state)
    same(start.params, params)
    fn.train.make_step(NET, loss, optimizer)(start, {"x": X, "y": Y})
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, state)))
    with pytest.raises(ValueError, match=r"missing\s+dense_1/bias"):
        fn.train.create(NET, optimizer, KEY, X, params=fn.params.drop(params, "dense_1/bias"))
    with pytest.raises(ValueError, match=r"the state and the inputs do not belong together"):
        fn.train.create(NET, optimizer, KEY, X, state={"batch_norm_0": {"mean": jnp.zeros(8)}})


def test_masks_and_labels_of_the_whole_tree_go_with_frozen_parts():
    net = frozen_net()
    params = net.init(KEY, X)
    decayed = fn.params.labels(params, {"**/bias": False, "encoder/**": True, "**": True})
    groups = fn.params.labels(params, {"encoder/**": "old", "**": "new"})
    optimizers = [
        optax.adamw(1e-2, mask=decayed),
        optax.adamw(1e-2, mask=lambda tree: fn.params.labels(tree, {"encoder/**": False, "**": True})),
        optax.partition({"old": optax.adam(1e-3), "new": optax.adam(1e-2)}, groups),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)),
    ]
    for optimizer in optimizers:
        start = fn.train.create(net, optimizer, KEY, X, params=params)
        state, _ = fn.train.make_step(net, loss, optimizer)(start, {"x": X, "y": Y})
        same(state.params["encoder"], params["encoder"])
        assert not jnp.array_equal(state.params["head"]["kernel"], params["head"]["kernel"])
        assert max(leaf.size for leaf in jax.tree.leaves(state.opt_state)) == params["head"]["kernel"].size


def test_everything_frozen_changes_nothing():
    net, optimizer = fn.Freeze(NET), optax.adam(1e-2)
    start = fn.train.create(net, optimizer, KEY, X)
    before = jax.tree.map(jnp.copy, start.params)
    state, metrics = fn.train.make_step(net, loss, optimizer)(start, {"x": X, "y": Y})
    same(state.params, before)
    assert np.isfinite(metrics["loss"])


def test_a_frozen_array_of_whole_numbers_may_be_a_parameter():
    class Quantised(fn.Layer):
        def params(self, x):
            return {"q": fn.Param((x.shape[-1],), fn.initializers.Constant(3), "int8")}

        def forward(self, p, x):
            return x * p["q"].astype(x.dtype)[None]

    net = fn.Sequential(fn.Freeze(Quantised()), fn.Dense(1))
    state = fn.train.create(net, optax.sgd(0.1), KEY, X)
    state, _ = fn.train.make_step(net, loss, optax.sgd(0.1))(state, {"x": X, "y": Y})
    assert state.params["quantised_0"]["q"].tolist() == [3] * 5
    with pytest.raises(TypeError, match="q is int8"):
        fn.train.create(Quantised(), optax.sgd(0.1), KEY, X)


def test_what_is_printed_are_sizes():
    state = fn.train.create(NET, optax.sgd(0.1), KEY, X)
    sizes = f"params=<{len(jax.tree.leaves(state.params))} arrays, {fn.params.count(state.params)} numbers>"
    assert repr(state).startswith(
        f"TrainState(step=0, {sizes}, state=<2 arrays, 16 numbers>, opt_state=<no arrays>, key="
    )
    assert "step=int32[]" in repr(jax.eval_shape(lambda: state))
    assert repr(fn.train.make_step(NET, lambda model, x: model(x).sum(), optax.sgd(0.1))) == "Step(steps_per_call=1)"


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"steps_per_call": 2}])
def test_metrics_keep_their_order(options):
    def measured(model, batch):
        y = model(batch)
        return y.sum(), {"z": y.max(), "a": y.min()}

    state = fn.train.create(fn.Dense(1), optax.sgd(0.1), KEY, X)
    step = fn.train.make_step(fn.Dense(1), measured, optax.sgd(0.1), **options)
    _, metrics = step(state, X.reshape(2, 16, 5) if "steps_per_call" in options else X)
    assert type(metrics) is dict
    assert list(metrics) == ["loss", "z", "a"]
    state = fn.train.create(fn.Dense(1), optax.sgd(0.1), KEY, X)
    found = fn.train.evaluate(fn.Dense(1), lambda model, x: {"z": x[:, 0], "a": x[:, 1]}, state, [X])
    assert list(found) == ["z", "a"]
