"""Checkpoints: what is saved comes back, nothing is lost silently, nothing is adapted silently."""

import asyncio
import contextlib
import os
import pathlib
import resource
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from trees import TREES, WRONG, State, assert_goes_where_like_is, assert_same, model, plain, spec, spread_out

import funcnets
from funcnets.checkpoint import Checkpoints


@pytest.mark.parametrize("name", TREES)
def test_a_tree_comes_back_exactly(tmp_path, name):
    tree = TREES[name]()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(0, tree)
        assert_same(checkpoints.restore(like=tree), tree)
        assert_same(checkpoints.restore(like=jax.tree.map(spec, tree)), tree)
        assert_same(checkpoints.resume(tree), tree)
        assert_same(checkpoints.restore(), plain(tree))


def test_resuming_gives_the_initial_state_or_the_newest(tmp_path):
    initial = {"total": jnp.zeros(())}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.resume(initial) is initial
        checkpoints.save(3, {"total": jnp.ones(())})
        checkpoints.save(7, {"total": jnp.full((), 2.0)})
        assert checkpoints.resume(initial)["total"] == 2
        assert checkpoints.restore(initial, step=3)["total"] == 1
    assert Checkpoints(tmp_path).resume(initial)["total"] == 2


def test_only_due_steps_are_saved_and_the_newest_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2, every=3) as checkpoints:
        saved = [step for step in range(11) if checkpoints.save(step, {"a": jnp.full(1, step)})]
        assert saved == [0, 3, 6, 9]
        assert checkpoints.steps() == (6, 9)
        assert not checkpoints.save(10, {"a": jnp.zeros(1)})
        assert checkpoints.save(10, {"a": jnp.zeros(1)}, force=True)
        assert checkpoints.steps() == (9, 10)
        assert checkpoints.latest_step == 10
    assert sorted(os.listdir(tmp_path)) == [".lock", "10", "9"]


def test_all_steps_can_be_kept(tmp_path):
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        assert all(checkpoints.save(step, jnp.zeros(1)) for step in range(5))
        assert checkpoints.steps() == (0, 1, 2, 3, 4)


def test_a_step_is_any_integer(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(np.int64(3), jnp.zeros(1))
        checkpoints.save(jnp.asarray(4), jnp.zeros(1))
        assert checkpoints.steps() == (3, 4)
        with pytest.raises(TypeError):
            checkpoints.save(5.0, jnp.zeros(1))
        with pytest.raises(ValueError, match="not negative, got -6"):
            checkpoints.save(-6, jnp.zeros(1))


def test_an_existing_or_older_step_is_refused(tmp_path):
    with Checkpoints(tmp_path, every=4) as checkpoints:
        checkpoints.save(4, jnp.zeros(1))
        checkpoints.save(8, jnp.zeros(1))
        for step, force in [(0, False), (4, False), (8, False), (7, True), (8, True)]:
            with pytest.raises(ValueError, match=rf"got {step}; .*\[4, 8\].*resume from the newest") as error:
                checkpoints.save(step, jnp.ones(1), force=force)
            assert str(tmp_path) in str(error.value)
        assert checkpoints.restore(step=8) == 0


def test_reading_where_nothing_is(tmp_path):
    directory = tmp_path / "misspelt"
    checkpoints = Checkpoints(directory)
    assert checkpoints.steps() == ()
    assert checkpoints.latest_step is None
    for like in (None, {"a": jnp.zeros(1)}):
        with pytest.raises(FileNotFoundError, match=str(directory)):
            checkpoints.restore(like)
    assert not directory.exists()
    with checkpoints:
        checkpoints.save(2, jnp.zeros(1))
        with pytest.raises(FileNotFoundError, match=r"no step 3, only \[2\]"):
            checkpoints.restore(step=3)


def test_a_relative_path_is_pinned(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with Checkpoints("runs/digits") as checkpoints:
        monkeypatch.chdir(tmp_path / "elsewhere")
        checkpoints.save(1, jnp.arange(3))
        assert checkpoints.restore()[2] == 2
    assert (tmp_path / "runs" / "digits" / "1").is_dir()
    assert not os.listdir(tmp_path / "elsewhere")


def test_another_object_sees_new_steps_and_a_closed_one_opens_again(tmp_path):
    writer, reader = Checkpoints(tmp_path), Checkpoints(tmp_path)
    with writer, reader:
        writer.save(1, jnp.zeros(1))
        assert writer.steps() == (1,)
        assert reader.steps() == (1,)
        writer.save(2, jnp.zeros(1))
        writer.wait()
        assert reader.latest_step == 2
    writer.close()
    with writer:
        writer.save(3, jnp.ones(1))
    assert writer.restore() == 1
    writer.close()


@pytest.mark.parametrize(
    "arguments", [{"keep": 0}, {"every": 0}, {"best": ("loss", "low")}, {"best": ("loss",)}, {"best": ["a", "b", "c"]}]
)
def test_wrong_arguments_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="Checkpoints takes"):
        Checkpoints(tmp_path, **arguments)


# What is kept by a metric


@pytest.mark.parametrize(("best", "sign"), [("loss", 1), (("loss", "min"), 1), (("loss", "max"), -1)])
def test_the_best_and_the_newest_are_kept(tmp_path, best, sign):
    losses = [3.0, 1.0, float("nan"), 2.0, 5.0, 4.0]
    with Checkpoints(tmp_path, keep=2, best=best) as checkpoints:
        assert checkpoints.best_step is None
        for step, loss in enumerate(losses):
            checkpoints.save(step, {"a": jnp.full(1, step)}, metrics={"loss": jnp.asarray(sign * loss), "other": "x"})
        assert checkpoints.steps() == (1, 3, 5)
        assert checkpoints.best_step == 1
    with Checkpoints(tmp_path, keep=2, best=best) as again:
        again.save(6, {"a": jnp.full(1, 6)}, metrics={"loss": sign * 0.5})
        assert again.steps() == (1, 6)
        assert again.best_step == 6


def test_a_metric_is_needed_exactly_when_it_decides(tmp_path):
    checkpoints = Checkpoints(tmp_path, every=2, best="loss")
    assert not checkpoints.save(1, jnp.zeros(1))
    for metrics in (None, {"accuracy": 1.0}):
        with pytest.raises(ValueError, match="save takes metrics= with what best= names"):
            checkpoints.save(2, jnp.zeros(1), metrics=metrics)
    with pytest.raises(ValueError, match=r"got \['loss'\] and best=None"):
        Checkpoints(tmp_path).save(2, jnp.zeros(1), metrics={"loss": 1.0})
    with pytest.raises(ValueError, match="best_step takes"):
        _ = Checkpoints(tmp_path).best_step


# Nothing is adapted


@pytest.mark.parametrize("case", WRONG)
def test_another_tree_is_refused_with_all_differences_before_reading(tmp_path, case):
    wrong, lines = WRONG[case]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, model())
        checkpoints.wait()
        for path in (tmp_path / "1" / "arrays").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")  # nothing of it can be read
        for like in (wrong, jax.tree.map(spec, wrong)):
            with pytest.raises(ValueError, match="restore takes a tree like the one saved") as error:
                checkpoints.restore(like=like)
            assert sorted(line[2:] for line in str(error.value).splitlines() if line.startswith("  ")) == sorted(lines)
        with pytest.raises(ValueError, match="restore takes a tree like the one saved"):
            checkpoints.resume(wrong)


def test_names_that_look_alike_differ(tmp_path):
    one, other = {"a": {"b/c": jnp.zeros(1)}, 'a/b': {"c": jnp.zeros(2)}}, {"a": {"b/c": jnp.zeros(1)}}  # fmt: skip
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": {1: jnp.zeros(1)}})
        with pytest.raises(ValueError, match="x/'1': checkpoint nothing, model"):
            checkpoints.restore({"x": {"1": jnp.zeros(1)}})
        with pytest.raises(ValueError, match="x: checkpoint dict, model list"):
            checkpoints.restore({"x": [jnp.zeros(1)]})
        checkpoints.save(2, one)
        with pytest.raises(ValueError, match=r"a/b/c: checkpoint float32\[2\], model nothing"):
            checkpoints.restore(other)


def test_a_spec_of_64_bits_is_what_jax_makes_of_it(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, np.ones(3))
        assert checkpoints.restore(np.zeros(3)).dtype == np.float64
        with pytest.raises(ValueError, match=r"the tree: checkpoint float64\[3\], model float32\[3\]"):
            checkpoints.restore(jax.ShapeDtypeStruct((3,), np.float64))


@pytest.mark.parametrize("leaf", [b"bytes", object(), np.array(["a"]), np.array([None]), np.ones(1, [("x", "f4")])])
def test_what_is_no_number_is_refused_by_its_path(tmp_path, leaf):
    with pytest.raises(TypeError, match=r"a checkpoint takes arrays of numbers.*; layers/0/b is "):
        Checkpoints(tmp_path).save(1, {"layers": [{"a": 3, "b": leaf}]})
    assert not os.listdir(tmp_path)


def test_arrays_that_hold_nothing_are_refused_by_their_path(tmp_path):
    x = jnp.zeros(3)
    jax.jit(lambda x: x + 1, donate_argnums=0)(x)
    for leaf in (x, jax.ShapeDtypeStruct((3,), jnp.float32)):
        with pytest.raises(ValueError, match=r"; layers/a is a .*save what the step returned"):
            Checkpoints(tmp_path).save(1, {"layers": {"a": leaf}})
    assert not os.listdir(tmp_path)


def test_the_checkpoint_of_another_program_is_none(tmp_path):
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=ocp.args.Composite(state=ocp.args.PyTreeSave({"a": jnp.zeros(1)})))
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.warns(
            UserWarning, match=rf"1 in {tmp_path} has neither tree.json nor .* passed over: move it"
        ) as said:
            assert checkpoints.resume(5) == 5
        assert [one.filename for one in said] == [__file__]
        with pytest.raises(FileNotFoundError, match="has no steps"):
            checkpoints.restore()
        with pytest.raises(ValueError, match=rf"save takes a number that is free; {tmp_path} has 1, which .*: move it"):
            checkpoints.save(1, jnp.zeros(1))


def test_a_directory_of_another_origin_is_passed_over(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jnp.zeros(1))
    (tmp_path / "2024").mkdir()
    (tmp_path / "7").mkdir()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        with pytest.warns(UserWarning, match="7, 2024 in .* is no step of Checkpoints") as said:
            assert checkpoints.resume(jnp.ones(1)) == 0
            checkpoints.save(2, jnp.full(1, 2.0))
            assert (checkpoints.restore(), checkpoints.steps(), checkpoints.latest_step) == (2, (2,), 2)
        assert len(said) == 1
        with pytest.raises(ValueError, match="save takes a number that is free"):
            checkpoints.save(7, jnp.zeros(1))
    assert sorted(os.listdir(tmp_path)) == [".lock", "2", "2024", "7"]


# Where arrays are


def test_arrays_go_where_those_of_the_target_are(tmp_path):
    tree, host, places = spread_out()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree)
        assert_same(checkpoints.restore(), host)
        assert_goes_where_like_is(checkpoints.restore, tree, host, places)
        moved = checkpoints.restore(host | {"k": jax.device_put(host["k"], places[-1])})
        assert moved["k"].sharding == places[-1]
        assert_same(checkpoints.restore(host), host)


def test_an_array_without_a_place_stays_without_one(tmp_path):
    free, placed = jnp.ones(3), jax.device_put(jnp.ones(3), jax.devices()[0])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"free": free, "placed": placed})
        found = checkpoints.restore({"free": free, "placed": placed})
        assert (found["free"].committed, found["placed"].committed) == (False, True)
        assert (found["free"] + jax.device_put(jnp.ones(3), jax.devices()[3])).devices() == {jax.devices()[3]}
        specs = checkpoints.restore({"free": spec(free), "placed": spec(placed)})
        assert {array.device for array in specs.values()} == {jax.devices()[0]}


# A save that returned is kept


def test_a_snapshot_is_saved_though_its_arrays_are_donated(tmp_path):
    def update(state):
        key, used = jax.random.split(state["key"])
        kernel = state["kernel"] * 0.9 + jax.random.normal(used, state["kernel"].shape)
        return {"kernel": kernel, "key": key, "count": state["count"] + 1}

    def initial():
        return {"kernel": jnp.zeros((300, 300)), "key": jax.random.key(0), "count": jnp.zeros((), jnp.int32)}

    donating, keeping = jax.jit(update, donate_argnums=0), jax.jit(update)
    donated = initial()
    donating(donated)
    assert donated["kernel"].is_deleted()
    state = initial()
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        for i in range(20):
            checkpoints.save(i, state)
            state = donating(state)
        expected = initial()
        for i in range(20):
            assert_same(checkpoints.restore(donated, step=i), expected)  # a donated array still says what it was
            expected = keeping(expected)


def test_numpy_arrays_may_be_written_to_after_the_save(tmp_path):
    x = np.random.default_rng(0).random(500_000)
    expected = x.copy()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": x})
        x[:] = 0
        np.testing.assert_array_equal(checkpoints.restore()["x"], expected)


def test_saving_goes_on_behind_the_program(tmp_path):
    x = np.random.default_rng(0).random(4_000_000)
    with Checkpoints(tmp_path) as checkpoints:
        behind = [checkpoints.save(step, x) and not (tmp_path / str(step)).exists() for step in range(3)]
        assert any(behind)
        checkpoints.wait()
        assert (tmp_path / "2").is_dir()


def test_leaving_the_with_by_an_exception_writes_to_the_end(tmp_path):
    with pytest.raises(KeyError, match="mine"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, np.random.default_rng(0).random(1_000_000))
        raise KeyError("mine")
    assert (tmp_path / "1").is_dir()


@contextlib.contextmanager
def full_disk(size=100_000):
    """No file may grow beyond the size: what writes more fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("call", ["save", "wait", "close", "steps", "restore"])
def test_what_writing_failed_with_is_raised_by_the_next_call(tmp_path, call):
    big = np.random.default_rng(0).random(200_000)
    calls = {"save": lambda: checkpoints.save(3, big), "restore": lambda: checkpoints.restore(step=1)}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, big)
        checkpoints.wait()
        with full_disk():
            assert checkpoints.save(2, big)
            with pytest.raises(ValueError, match="File too large") as error:
                calls.get(call, getattr(checkpoints, call))()
        assert f"while writing to {tmp_path}; the steps [1] are there" in error.value.__notes__
        assert checkpoints.steps() == (1,)
        checkpoints.save(2, 2 * big)
        assert checkpoints.steps() == (2,)
        np.testing.assert_array_equal(checkpoints.restore(big), 2 * big)


def test_a_directory_that_cannot_be_made_is_said_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with Checkpoints(tmp_path / "file" / "runs") as checkpoints, pytest.raises(NotADirectoryError):
        checkpoints.save(1, jnp.zeros(1))


def test_inside_a_running_event_loop(tmp_path):
    async def notebook():
        with Checkpoints(tmp_path) as checkpoints:
            for step in range(3):
                checkpoints.save(step, {"a": jnp.full(3, step)})
                await asyncio.sleep(0)
            return checkpoints.restore({"a": jnp.zeros(3, jnp.int32)})

    assert asyncio.run(notebook())["a"][0] == 2


# Real processes


def run(program, *arguments):
    root = str(pathlib.Path(funcnets.__file__).parent.parent)
    command = [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_waiting_is_quiet(tmp_path, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(3):
            checkpoints.save(step, jnp.zeros(1))
            checkpoints.wait()
    assert not [record for record in caplog.records if record.levelname != "INFO"]


def test_usual_work_is_quiet_and_imports_orbax_when_needed(tmp_path):
    done = run(
        """
        import sys, warnings
        warnings.simplefilter("error")
        import jax, jax.numpy as jnp
        from funcnets.checkpoint import Checkpoints
        assert not [name for name in sys.modules if name.startswith("orbax")]

        state = {"x": jnp.zeros(3), "key": jax.random.key(0), "empty": jnp.zeros(0), "none": None, "n": 0}
        for first in (0, 5):
            with Checkpoints(sys.argv[1], keep=2, every=2, best="loss") as checkpoints:
                state = checkpoints.resume(state)
                for step in range(first, first + 5):
                    checkpoints.save(step, state, metrics={"loss": 1.0 / (1 + step)})
                checkpoints.restore()
        assert checkpoints.steps() == (6, 8), checkpoints.steps()
        """,
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_run_in_two_parts_is_the_same_run(tmp_path):
    optimizer = optax.adam(optax.linear_schedule(1e-2, 0.0, 30))

    @jax.jit
    def step(state):
        key, used = jax.random.split(state.key)
        x = jax.random.normal(used, (8, 2))
        grads = jax.grad(lambda p: jnp.mean((x @ p["w"] - 1) ** 2))(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, updates), opt_state, key, state.step + 1)

    def initial():
        params = {"w": jnp.ones((2, 3))}
        return State(params, optimizer.init(params), jax.random.key(0), jnp.asarray(0))

    def train(directory, until):
        with Checkpoints(directory, every=5) as checkpoints:
            state = checkpoints.resume(initial())
            for i in range(int(state.step) + 1, until + 1):
                state = step(state)
                checkpoints.save(i, state)
        return state

    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        train(tmp_path / "parts", 12)
        assert_same(train(tmp_path / "parts", 30), train(tmp_path / "whole", 30))
