"""What a training step can do besides a step: pieces of batches, several steps in a call, several optimisers and
losses, averages, steps that are not taken, states born on several devices.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import floats

import funcnets as fn
from funcnets import train

KEY = jax.random.key(0)
X, Y = floats(32, 5), floats(32, 1, seed=1)
BATCH = {"x": X, "y": Y}
PLAIN = fn.Sequential(fn.Dense(8), jnp.tanh, fn.Dense(1))
NET = fn.Sequential(fn.Dense(8), fn.BatchNorm(), jax.nn.relu, fn.Dropout(0.2), fn.Dense(1))


def loss(model, batch):
    error = jnp.square(model(batch["x"]) - batch["y"])
    return error.mean(), {"error": error.mean()}


def close(a, b, rtol=1e-5, atol=1e-7):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)

    def bits(x):
        return np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x).tobytes()

    jax.tree.map(lambda x, y: np.testing.assert_equal(bits(x), bits(y)), a, b)


# Accumulation


@pytest.mark.parametrize("pieces", [2, 4, 32])
def test_pieces_of_a_batch_give_the_step_of_the_whole(pieces):
    optimizer = optax.adam(1e-2)
    whole, metrics = train.make_step(PLAIN, loss, optimizer)(train.create(PLAIN, optimizer, KEY, X), BATCH)
    step = train.make_step(PLAIN, loss, optimizer, accumulate=pieces)
    accumulated, theirs = step(train.create(PLAIN, optimizer, KEY, X), BATCH)
    close(accumulated.params, whole.params, rtol=1e-4)
    close(theirs, metrics)
    assert int(accumulated.step) == 1


def test_each_piece_has_its_own_randomness_and_statistics_go_on_from_piece_to_piece():
    optimizer = optax.sgd(0.1)
    net = fn.Sequential(fn.BatchNorm(), fn.Dropout(0.5))

    start = train.create(net, optimizer, KEY, X)
    step = train.make_step(net, lambda model, batch: (model(batch) ** 2).mean(), optimizer, accumulate=2)
    same_halves = jnp.repeat(X[:16], 2, axis=0)  # every second example is in a piece
    carried = net.init_state(X)
    for _ in range(2):
        _, carried = net.apply(start.params, X[:16], state=carried, key=KEY, train=True)
    after, _ = step(start, same_halves)
    close(after.state, carried)
    masks = []

    def record(model, batch):
        y = model(batch)
        jax.debug.callback(lambda y: masks.append(np.asarray(y == 0)), y)
        return y.mean()

    train.make_step(fn.Dropout(0.5), record, optimizer, accumulate=2)(
        train.create(fn.Dropout(0.5), optimizer, KEY, X), jnp.ones((32, 5))
    )
    jax.effects_barrier()
    assert len(masks) == 2
    assert (masks[0] != masks[1]).any()


def test_gradients_of_low_precision_are_added_in_float32():
    net = fn.Param((1,), fn.initializers.Zeros(), "bfloat16")
    optimizer = optax.sgd(1.0)
    batch = jnp.full((256,), 1 / 256 + 1, jnp.bfloat16).at[0].set(jnp.bfloat16(256))
    step = train.make_step(net, lambda model, x: (model() * x).mean().astype("float32"), optimizer, accumulate=256)
    after, _ = step(train.create(net, optimizer, KEY), batch)
    exact = -np.asarray(batch, np.float64).mean()
    np.testing.assert_allclose(np.asarray(after.params, np.float64), exact, rtol=2**-8)


def test_a_batch_that_cannot_be_cut_is_refused():
    optimizer = optax.sgd(0.1)
    state = train.create(PLAIN, optimizer, KEY, X)
    for bad in ({"x": X, "y": Y[:30]}, {"x": X, "y": jnp.ones(())}):
        step = train.make_step(PLAIN, loss, optimizer, accumulate=4)
        with pytest.raises(ValueError, match=r"accumulate=4 cuts the first axis .* got float32\[.*\] at batch\['y'\]"):
            step(state, bad)
    for count in (0, 1.5, True):
        with pytest.raises(ValueError, match="make_step takes accumulate= of at least 1, a whole number"):
            train.make_step(PLAIN, loss, optimizer, accumulate=count)
        with pytest.raises(ValueError, match="make_step takes steps_per_call= of at least 1, a whole number"):
            train.make_step(PLAIN, loss, optimizer, steps_per_call=count)


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_pieces_of_a_batch_over_devices_stay_where_they_are(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    everywhere, spread = jax.NamedSharding(mesh, jax.P()), jax.NamedSharding(mesh, jax.P("data"))
    batch = jax.device_put(BATCH, spread)
    optimizer = optax.sgd(0.1)
    state = train.create(PLAIN, optimizer, KEY, X, sharding=everywhere)
    step = train.make_step(PLAIN, loss, optimizer, accumulate=4)
    program = jax.jit(step._advance).lower((state.params, state.state, state.opt_state, state.step), state.key, batch)
    assert "all-gather" not in program.compile().as_text()
    state, _ = step(state, batch)
    plain, _ = train.make_step(PLAIN, loss, optimizer)(train.create(PLAIN, optimizer, KEY, X), BATCH)
    close(state.params, plain.params)


# Several steps in a call


def test_several_steps_in_a_call_are_those_one_by_one():
    optimizer = optax.adamw(optax.linear_schedule(1e-2, 0, 12))
    xs, ys = floats(12, 8, 5, seed=2), floats(12, 8, 1, seed=3)
    single = train.make_step(NET, loss, optimizer)
    several = train.make_step(NET, loss, optimizer, steps_per_call=4)
    assert (single.steps_per_call, several.steps_per_call) == (1, 4)
    one, many, losses = train.create(NET, optimizer, KEY, X), train.create(NET, optimizer, KEY, X), []
    for i in range(12):
        one, metrics = single(one, {"x": xs[i], "y": ys[i]})
        losses.append(metrics["loss"])
    found = []
    for i in range(0, 12, 4):
        many, metrics = several(many, {"x": xs[i : i + 4], "y": ys[i : i + 4]})
        assert metrics["loss"].shape == metrics["error"].shape == (4,)
        found.extend(metrics["loss"])
    close(many.params, one.params, rtol=1e-4, atol=1e-6)
    close(many.state, one.state, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    assert int(many.step) == 12
    same_bits(many.key, one.key)


def test_a_loss_that_holds_its_data_takes_no_batch():
    optimizer = optax.sgd(0.1)
    step = train.make_step(PLAIN, lambda model, _: loss(model, BATCH), optimizer, steps_per_call=7)
    state, metrics = step(train.create(PLAIN, optimizer, KEY, X), None)
    assert metrics["loss"].shape == (7,)
    assert metrics["loss"][-1] < metrics["loss"][0]
    assert int(state.step) == 7


def test_batches_that_are_not_stacked_are_refused():
    optimizer = optax.sgd(0.1)
    step = train.make_step(PLAIN, loss, optimizer, steps_per_call=4)
    with pytest.raises(ValueError, match=r"steps_per_call=4 takes the batches of 4 steps, .* float32\[32,5\] at batch"):
        step(train.create(PLAIN, optimizer, KEY, X), BATCH)


def test_a_call_of_many_steps_compiles_one():
    optimizer = optax.sgd(0.1)
    lines = []
    for k in (2, 64):
        step = train.make_step(PLAIN, lambda model, _: loss(model, BATCH), optimizer, steps_per_call=k)
        lines.append(len(step.lower(train.create(PLAIN, optimizer, KEY, X), None).as_text().splitlines()))
    assert lines[0] == lines[1]


# Several optimisers and losses


def test_optimizers_by_parts_are_those_of_optax_partition():
    rules = {"dense_0/**": optax.sgd(0.1), "**": optax.adam(1e-2)}
    step = train.make_step(PLAIN, loss, rules)
    state, _ = step(train.create(PLAIN, rules, KEY, X), BATCH)
    params = PLAIN.init(KEY, X)
    labels = fn.params.labels(params, {"dense_0/**": "a", "**": "b"})
    optimizer = optax.partition({"a": optax.sgd(0.1), "b": optax.adam(1e-2)}, labels)
    other, _ = train.make_step(PLAIN, loss, optimizer)(train.create(PLAIN, optimizer, KEY, X), BATCH)
    same_bits(state.params, other.params)
    assert set(state.opt_state) == {"dense_0/**", "**"}
    assert not jax.tree.leaves(state.opt_state["dense_0/**"])  # plain descent remembers nothing


class Gan(fn.Composite):
    generator: fn.Layer
    critic: fn.Layer

    def forward(self, m, z):
        return m.critic(m.generator(z))


GAN = Gan(fn.MLP(8, 2), fn.Sequential(fn.Dense(8, use_bias=False), fn.BatchNorm(), jnp.tanh, fn.Dense(1)))


def critic_loss(model, batch):
    real, fake = model.critic(batch), model.critic(model.generator(batch))
    return jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean(), {"real": real.mean()}


def generator_loss(model, batch):
    return jax.nn.softplus(-model.critic(model.generator(batch))).mean()


def test_two_losses_move_their_parts_one_after_the_other():
    z = floats(16, 2)
    optimizers = {"critic/**": optax.adam(1e-2), "generator/**": optax.sgd(0.1)}
    step = train.make_step(GAN, {"critic/**": critic_loss, "generator/**": generator_loss}, optimizers)
    start = train.create(GAN, optimizers, KEY, z)

    def by_hand(params, state, opt_states):
        key = jax.random.fold_in(start.key, start.step)
        for i, (part, of, optimizer) in enumerate(
            [("critic", critic_loss, optax.adam(1e-2)), ("generator", generator_loss, optax.sgd(0.1))]
        ):

            def objective(theirs, params=params, state=state, part=part, of=of, i=i):
                key_ = jax.random.fold_in(key, i)
                model = GAN.bind(params | {part: theirs}, state=state, key=key_, train=True)
                value = of(model, z)
                return value[0] if isinstance(value, tuple) else value, model.state

            gradient, state = jax.grad(objective, has_aux=True)(params[part])
            updates, _ = optimizer.update(gradient, opt_states[i], params[part])
            params = params | {part: optax.apply_updates(params[part], updates)}
        return params, state

    states = [optax.adam(1e-2).init(start.params["critic"]), optax.sgd(0.1).init(start.params["generator"])]
    params, carried = by_hand(start.params, start.state, states)
    after, metrics = step(start, z)
    close(after.params, params)
    close(after.state, carried)
    assert list(metrics) == ["critic/loss", "critic/real", "generator/loss"]


def test_a_step_may_play_one_part_and_leaves_the_others_as_they_are():
    z = floats(16, 2)
    optimizers = {"critic/**": optax.adam(1e-2), "generator/**": optax.adam(1e-2)}
    critic = train.make_step(GAN, {"critic/**": critic_loss}, optimizers)
    generator = train.make_step(GAN, {"generator/**": generator_loss}, optimizers)
    state = train.create(GAN, optimizers, KEY, z)
    before = jax.tree.map(np.array, state.params)
    for _ in range(3):
        state, _ = critic(state, z)
    same_bits(state.params["generator"], before["generator"])
    moved = jax.tree.map(np.array, state.params)
    assert (moved["critic"]["dense_0"]["kernel"] != before["critic"]["dense_0"]["kernel"]).any()
    state, metrics = generator(state, z)
    same_bits(state.params["critic"], moved["critic"])
    assert int(state.step) == 4
    assert list(metrics) == ["generator/loss"]


def test_parts_that_do_not_fit_are_refused():
    adam = optax.adam(1e-3)
    with pytest.raises(ValueError, match=r"no optimizer's part has dense_1/kernel, dense_1/bias: give them one"):
        train.create(PLAIN, {"dense_0/**": adam}, KEY, X)
    with pytest.raises(ValueError, match=r"the pattern 'dens_0/\*\*' matches no parameter"):
        train.create(PLAIN, {"dens_0/**": adam, "**": adam}, KEY, X)
    with pytest.raises(ValueError, match=r"optimizers by parts are \{pattern: optimizer\}, got none"):
        train.create(PLAIN, {}, KEY, X)
    with pytest.raises(TypeError, match="an optimizer is one of optax's"):
        train.create(PLAIN, {"**": optax.adam}, KEY, X)
    with pytest.raises(ValueError, match=r"losses by parts, 'a/\*\*', .* the optimizers are one for all"):
        train.make_step(PLAIN, {"a/**": loss}, adam)
    with pytest.raises(ValueError, match=r"losses by parts, 'a/\*\*', .* the optimizers are 'b/\*\*'"):
        train.make_step(PLAIN, {"a/**": loss}, {"b/**": adam})
    step = train.make_step(PLAIN, loss, {"dense_0/**": adam, "**": adam})
    with pytest.raises(ValueError, match="the optimizer's state is of another optimizer than make_step was given"):
        step(train.create(PLAIN, adam, KEY, X), BATCH)


def test_parts_that_would_be_kept_under_one_name_are_refused():
    kernels, biases = (lambda path: path.endswith("kernel")), (lambda path: path.endswith("bias"))
    with pytest.raises(ValueError, match=r"kept by the names of their patterns, got .*<lambda> twice: give patterns"):
        train.create(PLAIN, {kernels: optax.sgd(0.1), biases: optax.adam(0.1)}, KEY, X)


def test_a_layer_class_is_a_part_and_frozen_parameters_are_in_none():
    net = fn.Sequential(fn.Dense(8), fn.LayerNorm(), ("head", fn.Freeze(fn.Dense(1))))
    rules = {fn.LayerNorm: optax.sgd(0.0), "**": optax.sgd(0.1)}
    state = train.create(net, rules, KEY, X)
    before = jax.tree.map(np.array, state.params)
    state, _ = train.make_step(net, loss, rules)(state, BATCH)
    same_bits(state.params["head"], before["head"])
    same_bits(state.params["layer_norm_0"], before["layer_norm_0"])
    assert (np.asarray(state.params["dense_0"]["kernel"]) != before["dense_0"]["kernel"]).any()
    assert set(state.opt_state) == {"LayerNorm", "**"}


def test_line_searches_are_given_what_they_ask_for():
    optimizer = optax.lbfgs()
    step = train.make_step(PLAIN, loss, optimizer)
    state, losses = train.create(PLAIN, optimizer, KEY, X), []
    for _ in range(30):
        state, metrics = step(state, BATCH)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.05 * losses[0]


# Averages


def test_the_average_is_the_recurrence_by_hand():
    decay = 0.8
    optimizer = optax.chain(optax.sgd(0.1), train.ema(decay))
    step = train.make_step(NET, loss, optimizer)
    state = train.create(NET, optimizer, KEY, X)
    average = jax.tree.map(lambda p: np.asarray(p, np.float64), state.params)
    for _ in range(5):
        state, _ = step(state, BATCH)
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * np.asarray(p, np.float64), average, state.params)
    found = train.averaged(state)
    close(found.params, average, rtol=1e-5, atol=1e-7)
    assert found.state is state.state
    assert int(found.step) == 5
    evaluated = train.evaluate(NET, lambda m, b: {"e": jnp.square(m(b["x"]) - b["y"])[:, 0]}, found, [BATCH])
    assert np.isfinite(evaluated["e"])


def test_a_decay_may_change_and_averages_are_kept_in_32_bits():
    net = fn.Param((1,), fn.initializers.Ones(), "bfloat16")
    optimizer = optax.chain(optax.sgd(0.0), train.ema(lambda n: jnp.minimum(0.999, (1 + n) / (10 + n))))
    state = train.create(net, optimizer, KEY)
    assert state.opt_state[1].average.dtype == jnp.float32
    step = train.make_step(net, lambda model, _: model().sum().astype("float32"), optimizer)
    state, _ = step(dataclasses.replace(state, params=jnp.full((1,), 2, jnp.bfloat16)), None)
    np.testing.assert_allclose(state.opt_state[1].average, 1.9)  # 0.1 · 1 + 0.9 · 2
    assert train.averaged(state).params.dtype == jnp.bfloat16


def test_averages_of_parts_and_of_frozen_nets():
    net = fn.Sequential(("encoder", fn.Freeze(fn.Dense(8))), ("head", fn.Dense(1)))
    rules = {"head/kernel": optax.chain(optax.sgd(0.1), train.ema(0.0)), "**": optax.sgd(0.1)}
    state, _ = train.make_step(net, loss, rules)(train.create(net, rules, KEY, X), BATCH)
    close(train.averaged(state).params, state.params)
    with pytest.raises(ValueError, match="averaged takes a state with averages"):
        train.averaged(train.create(PLAIN, optax.sgd(0.1), KEY, X))
    twice = optax.chain(optax.sgd(0.1), optax.chain(train.ema(0.5)), train.ema(0.9))
    with pytest.raises(ValueError, match="train.ema stands last in a chain"):
        train.make_step(PLAIN, loss, twice)(train.create(PLAIN, twice, KEY, X), BATCH)
    several = optax.partition({"a": train.ema(0.5)}, "a")
    inside = optax.chain(optax.sgd(0.1), optax.apply_if_finite(optax.chain(optax.identity(), several), 3))
    state, _ = train.make_step(PLAIN, loss, inside)(train.create(PLAIN, inside, KEY, X), BATCH)
    assert train.averaged(state).params["dense_0"]["kernel"].shape == (5, 8)
    state = dataclasses.replace(state, opt_state=(state.opt_state, state.opt_state))
    with pytest.raises(ValueError, match="one average a parameter, and this has several"):
        train.averaged(state)
    with pytest.raises(ValueError, match="ema takes a decay from 0 to 1"):
        train.ema(1.5)
    with pytest.raises(ValueError, match="train.ema averages parameters: give them to update"):
        train.ema(0.5).update({}, train.ema(0.5).init({}))


# Steps that are not taken


def poisoned(at):
    return [BATCH if i not in at else BATCH | {"x": X * jnp.nan} for i in range(5)]


@pytest.mark.parametrize(
    "guarded", [lambda o: optax.apply_if_finite(o, 1000), train.scale_loss], ids=["apply_if_finite", "scale_loss"]
)
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(guarded):
    optimizer = guarded(optax.chain(optax.adam(1e-2), train.ema(0.9)))
    step = train.make_step(NET, loss, optimizer)
    state = train.create(NET, optimizer, KEY, X)
    counts = []
    for i, batch in enumerate(poisoned({1, 3})):
        kept = jax.tree.map(np.array, (state.params, state.state, state.opt_state.inner_state))
        state, metrics = step(state, batch)
        counts.append((int(metrics["skipped"]), train.skipped(state)))
        if i in (1, 3):
            same_bits((state.params, state.state, state.opt_state.inner_state), kept)
            assert np.isnan(metrics["loss"])
        else:
            assert (np.asarray(state.params["dense_0"]["kernel"]) != kept[0]["dense_0"]["kernel"]).any()
    assert counts == [(0, 0), (1, 1), (0, 1), (1, 2), (0, 2)]
    assert int(state.step) == 5


def test_what_is_skipped_by_parts_and_what_is_let_through():
    def guarded():
        return optax.apply_if_finite(optax.sgd(1e-2), 2)

    optimizers = {"dense_0/**": guarded(), "**": guarded()}
    state, step = train.create(PLAIN, optimizers, KEY, X), train.make_step(PLAIN, loss, optimizers)
    state, metrics = step(state, poisoned({0})[0])
    assert (int(metrics["skipped"]), train.skipped(state)) == (1, 2)  # a step, of which each optimiser counts its part

    net, optimizer = fn.Sequential(fn.Dense(1), fn.BatchNorm()), guarded()
    state, step = train.create(net, optimizer, KEY, X), train.make_step(net, loss, optimizer)
    told = []
    for batch in [poisoned({0})[0]] * 4:  # the third in a row is let through, by optax's own rule
        state, metrics = step(state, batch)
        told.append(int(metrics["skipped"]))
    assert told == [1, 1, 0, 0]
    assert jnp.isnan(state.state["batch_norm_0"]["mean"]).all()  # it goes with the parameters
    with pytest.raises(ValueError, match="skipped takes a state whose optimizer skips: optax.apply_if_finite"):
        train.skipped(train.create(PLAIN, optax.sgd(0.1), KEY, X))


def test_a_scale_does_not_fall_so_low_that_it_cannot_rise():
    optimizer = train.scale_loss(optax.sgd(1e-2), 4.0, growth_interval=1)
    state, step = train.create(PLAIN, optimizer, KEY, X), train.make_step(PLAIN, loss, optimizer)
    scales = []
    for batch in [poisoned({0})[0]] * 4 + [BATCH] * 2:
        state, _ = step(state, batch)
        scales.append(float(state.opt_state.scale))
    assert scales == [2.0, 1.0, 1.0, 1.0, 2.0, 4.0]
    with pytest.raises(TypeError, match="an optimizer is one of optax's"):
        train.scale_loss({"**": optax.sgd(1e-2)})


def test_a_scaled_loss_gives_the_step_of_the_plain_one_and_its_scale_moves():
    plain, scaled = optax.adam(1e-2), train.scale_loss(optax.adam(1e-2), 2.0**10, growth_interval=2)
    step, other = train.make_step(PLAIN, loss, plain), train.make_step(PLAIN, loss, scaled)
    a, b = train.create(PLAIN, plain, KEY, X), train.create(PLAIN, scaled, KEY, X)
    scales = []
    for batch in (BATCH, BATCH, BATCH, BATCH):
        (a, metrics), (b, theirs) = step(a, batch), other(b, batch)
        scales.append(float(b.opt_state.scale))
        np.testing.assert_allclose(metrics["loss"], theirs["loss"], rtol=1e-6)  # reported as it is
    close(a.params, b.params, rtol=1e-5)
    assert scales == [2.0**10, 2.0**11, 2.0**11, 2.0**12]
    b, _ = other(b, poisoned({0})[0])
    assert float(b.opt_state.scale) == 2.0**11
    assert int(b.opt_state.good_steps) == 0


def test_float16_learns_with_a_scaled_loss_where_gradients_vanish_without():
    net = fn.Cast(fn.Dense(1, use_bias=False), "float16")
    x = np.full((4, 2), 1e-4, np.float32)

    def tiny(model, x):
        return (model(x).astype(jnp.float16) * jnp.float16(1e-4)).mean().astype(jnp.float32)

    moved = []
    for optimizer in (optax.sgd(1e4), train.scale_loss(optax.sgd(1e4))):
        state = train.create(net, optimizer, KEY, x)
        before = np.array(jax.tree.leaves(state.params)[0])
        state, _ = train.make_step(net, tiny, optimizer)(state, x)
        moved.append(np.abs(np.asarray(jax.tree.leaves(state.params)[0]) - before).max())
    assert moved[0] == 0
    np.testing.assert_allclose(moved[1], 1e-4, rtol=0.05)


def test_a_scale_that_would_not_be_right_is_refused():
    inside = optax.chain(train.scale_loss(optax.sgd(0.1)), optax.clip(1.0))
    with pytest.raises(ValueError, match="train.scale_loss stands around the optimizer of a loss"):
        train.make_step(PLAIN, loss, inside)(train.create(PLAIN, inside, KEY, X), BATCH)
    several = {"dense_0/**": train.scale_loss(optax.sgd(0.1)), "**": optax.sgd(0.1)}
    with pytest.raises(ValueError, match="several optimizers under one loss are one, optax.partition, in it"):
        train.make_step(PLAIN, loss, several)(train.create(PLAIN, several, KEY, X), BATCH)
    for arguments in ({"scale": 0.0}, {"factor": 1.0}, {"growth_interval": 0}, {"scale": float("nan")}):
        with pytest.raises(ValueError, match="scale_loss takes a positive scale"):
            train.scale_loss(optax.sgd(0.1), **arguments)


def test_a_metric_keeps_its_name():
    optimizer = optax.sgd(0.1)
    state = train.create(PLAIN, optimizer, KEY, X)
    step = train.make_step(PLAIN, lambda m, b: (m(b["x"]).mean(), {"loss": jnp.float32(0)}), optimizer)
    with pytest.raises(ValueError, match=r"metrics of a loss have names of their own, got \['loss'\]"):
        step(state, BATCH)


# Clipping, and gradients over several calls, are optax's


def test_clipping_and_accumulating_over_calls_are_the_optimizers():
    optimizer = optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0))
    state = train.create(PLAIN, optimizer, KEY, X)
    before = jax.tree.map(np.array, state.params)
    state, _ = train.make_step(PLAIN, loss, optimizer)(state, BATCH)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - b, state.params, before)
    np.testing.assert_allclose(optax.tree.norm(moved), 0.01, rtol=1e-4)

    several = optax.MultiSteps(optax.adam(1e-2), 2)
    step = train.make_step(PLAIN, loss, several)
    state = train.create(PLAIN, several, KEY, X)
    for half in (slice(0, 16), slice(16, 32)):
        state, _ = step(state, {"x": X[half], "y": Y[half]})
    whole, _ = train.make_step(PLAIN, loss, optax.adam(1e-2))(train.create(PLAIN, optax.adam(1e-2), KEY, X), BATCH)
    close(state.params, whole.params, rtol=1e-4)


# Born on several devices


def mesh():
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def test_a_state_is_born_where_rules_say_and_stays_there():
    mesh_ = mesh()
    columns, whole = jax.NamedSharding(mesh_, jax.P(None, "model")), jax.NamedSharding(mesh_, jax.P())
    rules = {"dense_0/kernel": columns, "**": whole}
    optimizer = optax.chain(optax.sgd(1e-2, momentum=0.9), train.ema(0.9))
    state = train.create(NET, optimizer, KEY, X, sharding=rules)
    same_bits(state, train.create(NET, optimizer, KEY, X))

    def check(state):
        moment = state.opt_state[0][0].trace["dense_0"]["kernel"]
        for leaf in (state.params["dense_0"]["kernel"], moment, state.opt_state[1].average["dense_0"]["kernel"]):
            assert leaf.sharding.is_equivalent_to(columns, 2)
        for leaf in (state.params["dense_1"]["kernel"], state.step, *jax.tree.leaves(state.state)):
            assert leaf.sharding.is_equivalent_to(whole, leaf.ndim)

    check(state)
    step = train.make_step(NET, loss, optimizer)
    rows = jax.NamedSharding(mesh_, jax.P("data"))
    plain = train.create(NET, optimizer, KEY, X)
    for _ in range(3):
        state, metrics = step(state, jax.device_put(BATCH, rows))
        check(state)
        plain, alone = train.make_step(NET, loss, optimizer)(plain, BATCH)
        np.testing.assert_allclose(metrics["loss"], alone["loss"], rtol=1e-5)
    close(state.params, jax.device_get(plain.params), rtol=1e-4, atol=1e-6)


def test_one_sharding_is_for_all_and_given_parameters_are_copied():
    whole = jax.NamedSharding(mesh(), jax.P())
    params = PLAIN.init(KEY, X)
    state = train.create(PLAIN, optax.sgd(0.1), KEY, X, params=params, sharding=whole)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(state))
    train.make_step(PLAIN, loss, optax.sgd(0.1))(state, jax.device_put(BATCH, whole))
    params = jax.device_put(params, whole)
    state = train.create(PLAIN, optax.sgd(0.1), KEY, X, params=params, sharding=whole)
    train.make_step(PLAIN, loss, optax.sgd(0.1))(state, jax.device_put(BATCH, whole))
    jax.block_until_ready(params)  # still there


def test_shardings_that_do_not_fit_are_refused():
    whole = jax.NamedSharding(mesh(), jax.P())
    for sharding, error, message in [
        ({"dense_0/**": whole}, ValueError, "no sharding is given for dense_1/bias"),
        ({"dense_7/**": whole, "**": whole}, ValueError, "matches no parameter"),
        ({"**": jax.P("model")}, TypeError, "create takes shardings, got"),
        (jax.P("model"), TypeError, "create takes shardings, got"),
    ]:
        with pytest.raises(error, match=message):
            train.create(PLAIN, optax.sgd(0.1), KEY, X, sharding=sharding)


def test_nothing_is_whole_on_one_device():
    """Compiled, what makes the state has arguments of a key and outputs of a share."""
    big = fn.Dense(4096, use_bias=False)
    mesh_ = mesh()
    rows = jax.NamedSharding(mesh_, jax.P(("data", "model")))
    state = train.create(
        big, optax.sgd(0.1), KEY, jax.ShapeDtypeStruct((1, 512), jnp.float32), sharding={"kernel": rows}
    )
    assert state.params["kernel"].addressable_shards[0].data.shape == (64, 4096)


def test_a_step_inside_another_trace_is_pure():
    optimizer = optax.adam(1e-2)
    step = train.make_step(NET, loss, optimizer)
    state = train.create(NET, optimizer, KEY, X)
    traced, _ = jax.jit(step)(state, BATCH)
    jax.block_until_ready(state.params)  # a step within a trace reuses nothing of the caller's
    ensemble = jax.vmap(lambda key: train.create(NET, optimizer, key, X))(jax.random.split(KEY, 3))
    many, metrics = jax.vmap(step, (0, None))(ensemble, BATCH)
    assert metrics["loss"].shape == (3,)
    alone, _ = step(state, BATCH)
    close(traced.params, alone.params, rtol=1e-4, atol=1e-6)
    assert int(many.step[0]) == 1
