"""fit against the loop written by hand: what it computes, reports, keeps, stops at and refuses."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import floats
from quick import by_hand, data, evaluate, same, start, step

import funcnets as fn
from funcnets.train.fitting import pending
from funcnets.train.fitting.history import Series

X, Y = floats(32, 5), floats(32, 1, seed=1)
NET = fn.Sequential(fn.Dense(8), fn.BatchNorm(), jax.nn.relu, fn.Dropout(0.2), fn.Dense(1))
OPTIMIZER = optax.chain(optax.adam(1e-2), fn.train.ema(0.9))


def loss(model, batch):
    error = (model(batch["x"]) - batch["y"]) ** 2
    return error.mean(), {"worst": error.max()}


def created():
    return fn.train.create(NET, OPTIMIZER, jax.random.key(0), X)


def batches():
    return fn.train.batches({"x": X, "y": Y}, 8, jax.random.key(1))  # four steps an epoch


STEP = fn.train.make_step(NET, loss, OPTIMIZER)
THREE = fn.train.make_step(NET, loss, OPTIMIZER, steps_per_call=3)


class Items:
    """Batches by step, and nothing else."""

    def __getitem__(self, step):
        return batches()[step]


class Again:
    """Iterated over again and again, as data loaders are."""

    def __len__(self):
        return 4

    def __iter__(self):
        return (batches()[i] for i in range(4))


# The same numbers as by hand


@pytest.fixture(scope="module")
def hand():
    with jax.numpy_dtype_promotion("standard"):
        state, all_metrics = created(), []
        for i in range(10):
            state, metrics = STEP(state, batches()[i])
            all_metrics.append(metrics)
    return state, all_metrics


@pytest.mark.parametrize(
    ("make", "given", "every"),
    [
        (batches, {"steps": 10}, 4),
        (batches, {"steps": 10, "every": 3}, 3),
        (Items, {"steps": 10, "every": 4}, 4),
        (lambda: batches().stream(), {"steps": 10, "every": 4}, 4),
        (lambda: fn.train.prefetch(batches().stream()), {"steps": 10, "every": 7}, 7),
        (lambda: (batches()[i] for i in itertools.count()), {"steps": 10, "every": 100}, 100),
        (lambda: [batches()[i] for i in range(10)], {"epochs": 1}, 10),
    ],
    ids=["batches", "every", "items", "stream", "prefetch", "generator", "list"],
)
def test_it_is_the_loop_written_by_hand(hand, make, given, every):
    run = fn.train.fit(STEP, created(), make(), **given)
    state, metrics = hand
    same(run.state, state)
    assert (run.stopped, run.best) == ("finished", None)
    assert run.history.training.steps.tolist() == list(range(1, 11))
    for name in ("loss", "worst"):
        same(run.history.training[name], np.array([float(one[name]) for one in metrics]))
    reports = sorted({*range(every, 11, every), 10})
    assert run.history.steps.tolist() == reports
    losses = np.array([float(one["loss"]) for one in metrics])
    means = [losses[a:b].mean() for a, b in itertools.pairwise([0, *reports])]
    same(run.history["loss"], np.array(means))


def test_epochs_are_of_the_data():
    states, _ = by_hand(10)
    run = fn.train.fit(step, start(), data(), epochs=2)
    same(run.state, states[9])
    assert run.history.steps.tolist() == [5, 10]
    again = fn.train.fit(step, start(), [np.ones(4), np.zeros(4)], epochs=3)
    same(again.state, by_hand(6, lambda i: np.full(4, float(i % 2 == 0)))[0][5])
    run = fn.train.fit(STEP, created(), Again(), epochs=2)
    state = created()
    for i in (*range(4), *range(4)):
        state, _ = STEP(state, batches()[i])
    same(run.state, state)
    assert run.history.steps.tolist() == [4, 8]


def test_a_state_that_has_begun_goes_on():
    states, metrics = by_hand(10)
    run = fn.train.fit(step, states[3], data(), steps=10, every=4)
    same(run.state, states[9])
    assert (run.history.training.steps.tolist(), run.history.steps.tolist()) == ([5, 6, 7, 8, 9, 10], [8, 10])
    same(run.history.training["loss"], np.array([float(one["loss"]) for one in metrics[4:]]))
    run = fn.train.fit(step, states[9], data(), steps=10)
    assert run.state is states[9] and run.stopped == "finished" and not run.history.steps.size


def in_threes(calls):
    """By hand: THREE where `calls` has a 3, its single step where it has a 1."""
    state, losses, i = created(), [], 0
    for count in calls:
        step, batch = (THREE, batches()[i : i + 3]) if count == 3 else (THREE.single, batches()[i])
        state, metrics = step(state, batch)
        losses.append(np.asarray(metrics["loss"], np.float64).reshape(count))
        i += count
    return state, np.concatenate(losses)


@pytest.mark.parametrize(
    "make",
    [batches, lambda: batches().stream(), lambda: fn.train.prefetch(batches().stream())],
    ids=["batches", "stream", "prefetch"],
)
def test_calls_of_several_steps(make):
    for steps, every, calls, reports in (
        (9, 3, [3, 3, 3], [3, 6, 9]),
        (10, 9, [3, 3, 3, 1], [9, 10]),
        (8, 4, [3, 1, 3, 1], [4, 8]),
    ):
        run = fn.train.fit(THREE, created(), make(), steps=steps, every=every)
        state, losses = in_threes(calls)
        same((run.state, run.history.training["loss"]), (state, losses))
        assert run.history.steps.tolist() == reports


def test_steps_without_batches():
    net, optimizer = fn.Dense(1), optax.sgd(1e-2)
    for k in (1, 3):
        full = fn.train.make_step(net, lambda model, _: ((model(X) - Y) ** 2).mean(), optimizer, steps_per_call=k)
        new = lambda: fn.train.create(net, optimizer, jax.random.key(0), X)  # noqa: E731
        run, state = fn.train.fit(full, new(), None, steps=6, every=6), new()
        for _ in range(6 // k):
            state, _ = full(state, None)
        same(run.state, state)


# Without waiting


class Later:
    """An array that is there when the device has come so far, and may not be looked at before."""

    def __init__(self, value, step, device):
        self.value, self.step, self.device = value, step, device
        self.shape, self.dtype = (), np.dtype(np.float32)

    def is_ready(self):
        return self.step <= self.device["at"]

    def __array__(self, *_, **__):
        assert self.is_ready(), f"step {self.step} was waited for at step {self.device['at']}"
        return np.array(self.value, np.float32)

    def __index__(self):
        return int(self.__array__())


@pytest.mark.parametrize("slow", [0, 3], ids=["at none", "three steps behind"])
def test_no_step_waits_for_the_one_before(monkeypatch, slow):
    device, moved = {"at": 0}, []
    monkeypatch.setattr(pending, "_OFTEN", 0)
    extend = Series._extend
    monkeypatch.setattr(Series, "_extend", lambda self, steps, _: (moved.append(steps), extend(self, steps, _)))

    def later(state, batch):
        number = batch + 1
        device["at"] = number if number == 8 else number - slow if slow else 0  # at a report it is waited for
        return {"step": Later(number, number, device)}, {"loss": Later(number / 2, number, device)}

    run = fn.train.fit(later, {"step": 0}, range(100), steps=8, every=8)
    assert run.history.training["loss"].tolist() == [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert moved == ([[1], [2], [3], [4], [5, 6, 7, 8], [8]] if slow else [[*range(1, 9)], [8]])


def test_metrics_are_fetched_together_only_where_the_device_is_far(monkeypatch):
    calls, fetch = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: calls.append(tree) or fetch(tree))
    found = []
    for backend in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        found.append(fn.train.fit(STEP, created(), batches(), epochs=1).history)
        assert bool(calls) == (backend == "gpu")
    same(dict(found[0].training), dict(found[1].training))


# Reports


def test_reports_are_means_and_evaluations():
    told = []
    run = fn.train.fit(
        step, start(), data(), epochs=2, evaluate=evaluate, callbacks=[lambda *given: told.append(given)]
    )
    states, metrics = by_hand(10)
    for i, (number, report, state) in enumerate(told):
        part = metrics[5 * i : 5 * i + 5]
        means = {"train/loss": np.mean([m["loss"] for m in part]), "mean": np.mean([m["mean"] for m in part])}
        assert (number, report) == (5 * i + 5, means | evaluate(states[5 * i + 4]))
        same(state, states[5 * i + 4])
    assert len(told) == 2
    assert list(run.history) == ["train/loss", "mean", "loss", "seen"]
    assert list(run.history.training) == ["loss", "mean"]


def test_the_best_is_kept_although_states_are_consumed():
    values = iter([3.0, np.nan, 1.0, 1.0, 2.0])
    states = []
    run = fn.train.fit(
        STEP, created(), batches(), epochs=5, every=4, best="loss", evaluate=lambda state: {"loss": next(values)},
        callbacks=[lambda step, metrics, state: states.append(jax.tree.map(jnp.copy, state))],
    )  # fmt: skip
    assert (run.history.best_step, run.history.best_value) == (12, 1.0)
    same(run.best, states[2])
    same(run.state, states[4])
    most = fn.train.fit(step, start(), data(), epochs=4, best=("mean", "max"))
    assert most.history.best_value == most.history["mean"].max()
    same(most.best, by_hand(most.history.best_step)[0][-1])
    none = fn.train.fit(step, start(), data(), steps=2, best="nan", evaluate=lambda state: {"nan": np.nan})
    assert none.best is None and none.history.best_step is None and none.history.best_value is None


def test_the_best_is_where_the_state_is():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P())
    net, optimizer = fn.Dense(1), optax.sgd(1e-2)
    state = fn.train.create(net, optimizer, jax.random.key(0), X, sharding=sharding)
    run = fn.train.fit(fn.train.make_step(net, loss, optimizer), state, batches(), epochs=1, best="loss")
    assert all(leaf.sharding == sharding for leaf in jax.tree.leaves(run.best.params))
    same(run.best, run.state)


def test_data_parallel():
    """Over eight devices as on one, with batches put in pieces on each, and their epochs counted."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole, split = jax.NamedSharding(mesh, jax.P()), jax.NamedSharding(mesh, jax.P("data"))
    net, optimizer = fn.Dense(1), optax.adam(1e-2)

    def run(step, data, **given):
        state = fn.train.create(net, optimizer, jax.random.key(0), X, **given)
        return fn.train.fit(step, state, data, epochs=2, best="loss")

    for k in (1, 2):
        step = fn.train.make_step(net, loss, optimizer, steps_per_call=k)
        seen = []

        def looking(state, batch, step=step, seen=seen):
            seen.append(batch["x"].sharding.shard_shape(batch["x"].shape))
            return step(state, batch)

        looking.steps_per_call, looking.single = k, step.single
        sharded = run(looking, fn.train.prefetch(batches().stream(), sharding=split), sharding=whole)
        assert set(seen) == {(1, 5) if k == 1 else (2, 1, 5)}
        assert all(leaf.sharding == whole for leaf in jax.tree.leaves(sharded.state.params))
        alone = run(step, batches())
        assert sharded.history.steps.tolist() == alone.history.steps.tolist() == [4, 8]
        for one, other in zip(jax.tree.leaves(sharded.state.params), jax.tree.leaves(alone.state.params), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# Ends


def test_patience():
    values = [5.0, 4.0, 4.5, 4.0, 3.0, 9.0, np.nan, 9.0, 0.0]
    given = {"evaluate": lambda state: {"loss": values[state["step"] // 2 - 1]}, "every": 2, "best": "loss"}
    run = fn.train.fit(step, start(), data(), steps=18, patience=3, **given)
    assert (run.stopped, run.state["step"], run.history.best_step) == ("patience", 16, 10)
    run = fn.train.fit(step, start(), data(), steps=18, patience=2, **given)
    assert (run.stopped, run.state["step"], run.history.best_step) == ("patience", 8, 4)
    run = fn.train.fit(step, start(), data(), steps=18, patience=4, **given)
    assert (run.stopped, run.state["step"], run.history.best_step) == ("finished", 18, 18)


def test_a_callback_ends_the_run():
    told = []
    run = fn.train.fit(
        step, start(), data(), epochs=9,
        callbacks=[lambda step, metrics, state: step >= 10, lambda step, metrics, state: told.append(step)],
    )  # fmt: skip
    assert (run.stopped, run.state["step"], told) == ("callback", 10, [5, 10])


def test_data_that_ends():
    run = fn.train.fit(step, start(), (data()[i] for i in range(7)), steps=100, every=5)
    same(run.state, by_hand(7)[0][6])
    assert (run.stopped, run.history.steps.tolist()) == ("exhausted", [5, 7])
    run = fn.train.fit(step, start(), (data()[i] for i in range(5)), steps=100, every=5)
    assert (run.stopped, run.history.steps.tolist()) == ("exhausted", [5])
    with pytest.warns(RuntimeWarning, match="ended 2 batches into a call of 3 steps, which were not taken") as caught:
        run = fn.train.fit(THREE, created(), (batches()[i] for i in range(5)), steps=100, every=50)
    assert caught[0].filename == __file__
    assert (run.stopped, int(run.state.step), run.history.steps.tolist()) == ("exhausted", 3, [3])


# What goes wrong


def at(number, value):
    def broken(state, batch):
        state, _ = step(state, batch)
        return state, {"loss": value} if state["step"] == number else {"loss": 1.0}

    return broken


def test_a_loss_that_is_not_finite_is_said_once():
    def gone(state, batch):
        state, _ = step(state, batch)
        return state, {"critic/loss": np.inf if state["step"] > 3 else 1.0, "gap": np.nan}

    with pytest.warns(RuntimeWarning, match="'critic/loss' of step 4 is inf, and training goes on: fn.check") as caught:
        fn.train.fit(gone, start(), data(), epochs=2)
    assert len(caught) == 1 and caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fn.train.fit(at(2, 1.0), start(), data(), steps=3)
        skipping = lambda s, b: (step(s, b)[0], {"loss": np.nan, "skipped": 1})  # noqa: E731
        fn.train.fit(skipping, start(), data(), steps=3)


def raises(error, says, *given, **named):
    named = named if {"steps", "epochs"} & set(named) else {"steps": 4, **named}
    with pytest.raises(error, match=says) as raised:
        fn.train.fit(*({0: step, 1: start(), 2: data()} | dict(enumerate(given))).values(), **named)
    return "\n".join(getattr(raised.value, "__notes__", []))


def test_exceptions_say_where_they_came():
    def fail(*_):
        raise LookupError("mine")

    late = lambda *given: fail() if given[0] == 4 else None  # noqa: E731
    assert "in evaluate, after step 5 of fit" in raises(LookupError, "mine", evaluate=fail, epochs=1)
    assert "in a callback, after step 4 of fit" in raises(LookupError, "mine", callbacks=[late], every=2, steps=9)
    assert "in step 1 of fit" in raises(LookupError, "mine", fail)
    generator = (data()[i] if i < 2 else fail() for i in range(5))
    assert "in step 3 of fit" in raises(LookupError, "mine", step, start(), generator, every=5)


def test_what_steps_and_evaluate_may_not_return():
    raises(TypeError, r"a step returns \(state, metrics\), got a dict", lambda s, b: s)
    raises(TypeError, r"returns \(state, metrics\) with a dict of these, by name, got 0.5", lambda s, b: (s, 0.5))
    raises(TypeError, "a metric of a step is a real number, got 'a' for 'loss'", at(1, "a"))
    raises(TypeError, "a metric of a step is a real number, got complex64", at(1, np.complex64(1)))
    raises(
        ValueError, r"a metric of a step is one number, got float64\[2\] for 'loss': take its mean", at(1, np.ones(2))
    )
    raises(ValueError, r"got 'step', which is the step's number", lambda s, b: (s, {"step": 1}))
    changing = lambda s, b: (step(s, b)[0], {"abc"[s["step"]]: 1.0})  # noqa: E731
    raises(ValueError, r"a step returns the same metrics each time, got \['b'\] after \['a'\]", changing)
    raises(ValueError, "after 4 steps the state says that it has taken 0", lambda s, b: (s, {}))
    raises(TypeError, "evaluate returns a dict of numbers, by name, got 0.5|a float", evaluate=lambda s: 0.5)
    raises(TypeError, "what evaluate returns is a real number, got None for 'a'", evaluate=lambda s: {"a": None})
    raises(ValueError, r"what evaluate returns is one number, got float32\[2\]", evaluate=lambda s: {"a": jnp.ones(2)})
    doubly = lambda s, b: (step(s, b)[0], {"loss": 1.0, "train/loss": 1.0})  # noqa: E731
    raises(
        ValueError,
        r"evaluate and a step measure \['loss', 'seen'\] and .*: give them other names",
        doubly,
        evaluate=evaluate,
    )
    names = iter("ab")
    raises(ValueError, "evaluate returns the same metrics each time", evaluate=lambda s: {next(names): 1}, every=1)
    raises(ValueError, r"got 'lost' \(did you mean 'loss'\?\); there are \['loss', 'mean'\]", best="lost")

    def short(state, batch):
        return {"step": state["step"] + 3}, {"loss": np.ones(2)}

    short.steps_per_call = 3
    raises(
        ValueError,
        r"one number, for each step of a call, got float64\[2\] for 'loss'",
        short,
        start(),
        None,
        steps=3,
        every=3,
    )


def test_arguments_that_are_refused():
    raises(TypeError, "fit takes the step first, got a Dense", fn.Dense(1))
    raises(ValueError, "one of epochs= and steps=, got epochs=1 and steps=2", epochs=1, steps=2)
    raises(ValueError, "one of epochs= and steps=, got epochs=None and steps=None", steps=None)
    raises(ValueError, "fit takes epochs= of at least 1, a whole number, got 0", epochs=0)
    raises(ValueError, "fit takes every= of at least 1", every=0.5)
    raises(ValueError, "fit takes patience= of at least 1", patience=0, best="loss")
    raises(ValueError, "fit takes patience= with best=", patience=3)
    raises(ValueError, r"fit takes as best= \"loss\" \(less is better\)", best=("loss", "least"))
    raises(ValueError, r"fit takes as best=", best={"loss": "min"})
    raises(TypeError, "evaluate= a function of the state, got a dict", evaluate={})
    raises(TypeError, r"fit takes checkpoints=fn.Checkpoints\(directory\), got 'runs/a'", checkpoints="runs/a")
    raises(TypeError, r"callbacks= a list of functions \(step, metrics, state\)", callbacks=print)
    raises(TypeError, r"callbacks= a list of functions", callbacks=["log"])
    raises(TypeError, "the number of its steps, state.step or state\\['step'\\], got None", step, {"total": 0})
    raises(ValueError, r"fit takes steps= and every=, the steps between reports,", step, start(), None)
    raises(ValueError, r"fit takes steps= where the data has no length", step, start(), None, epochs=1, every=2)


def test_calls_that_do_not_go_into_the_run():
    raises(
        ValueError,
        "every= of at least the 3 steps of a call, got 2: report less often",
        THREE,
        created(),
        batches(),
        every=2,
    )

    def three(state, batch):
        return {"step": state["step"] + 3}, {"loss": batch.mean((1, 2))}

    three.steps_per_call = 3
    says = r"takes 3 steps a call and has no `single` for fewer, got {'steps in all': 4}: give multiples"
    raises(ValueError, says, three, {"step": 0}, data(), every=3)
    raises(ValueError, "{'steps done': 1}", three, {"step": 1}, data(), every=3, steps=6)
    assert fn.train.fit(three, {"step": 0}, [np.ones((2, 2))], steps=6, every=3).state == {"step": 6}
    three.steps_per_call = 0
    raises(ValueError, "fit takes step.steps_per_call= of at least 1", three)


def test_batches_that_are_not_full_and_calls_of_several_steps():
    """fit knows before it begins whether a call would have to stack one: what runs by hand runs, and nothing else."""
    calls = []

    def several(state, batch):
        calls.append(batch)
        return {"step": state["step"] + k}, {}

    several.single = lambda state, batch: ({"step": state["step"] + 1}, {})
    short = fn.train.batches(np.arange(14.0), 4, partial="keep")  # the last of four has two
    for k, every, steps, bad in (
        (3, 15, 20, 3), (3, 4, 20, None), (2, 4, 20, 3), (2, 5, 20, 3), (2, 4, 3, None), (2, 7, 7, 3), (5, 5, 9, 3)
    ):  # fmt: skip
        several.steps_per_call = k
        if bad is None:
            assert fn.train.fit(several, {"step": 0}, short, steps=steps, every=every).stopped == "finished"
            continue
        calls.clear()
        says = rf"a call of {k} steps takes full batches, and data\[{bad}\], its epoch's last, is not: give train"
        raises(ValueError, says, several, {"step": 0}, short, steps=steps, every=every)
        assert not calls
    several.steps_per_call = k = 3
    full = fn.train.batches(np.arange(16.0), 4, partial="keep")
    assert fn.train.fit(several, {"step": 0}, full, steps=20, every=15).stopped == "finished"
    assert fn.train.fit(several, {"step": 4}, short, steps=7, every=4).stopped == "finished"


def test_a_state_that_was_consumed_is_said():
    state = created()
    fn.train.fit(STEP, state, batches(), steps=1)
    with pytest.raises(ValueError, match="consumed by an earlier step, which reused its buffers: fit takes the one"):
        fn.train.fit(STEP, state, batches(), steps=1)


def test_a_run_prints_short():
    run = fn.train.fit(step, start(), data(), steps=5)
    assert repr(run) == "Run(stopped='finished', history=History(1 × loss, mean))"
