"""Parts of a tree, trees that fit in part, other nets, and iterators."""

import os
import subprocess
import sys
import textwrap

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.checkpoint import Checkpoints


def model(width=3):
    return {"encoder": {"kernel": jnp.ones((2, width)), "bias": jnp.ones(3)}, "head": [jnp.full(2, 2.0), 5]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, {"params": model(), "key": jax.random.key(0), "step": 7})
    return Checkpoints(directory)


def zeros(tree):
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if isinstance(leaf, jax.Array) else 0, tree)


# A subtree


def test_a_subtree_is_read_alone(saved):
    encoder = saved.restore(zeros(model()["encoder"]), under="params/encoder")
    assert jax.tree.map(jnp.array_equal, encoder, model()["encoder"]) == {"kernel": True, "bias": True}
    assert saved.restore(jnp.zeros(2), under="params/head/0")[0] == 2
    assert saved.restore(under="step") == 7
    plain = saved.restore(under="params/encoder")
    assert isinstance(plain["bias"], np.ndarray) and set(plain) == {"kernel", "bias"}


def test_only_the_arrays_wanted_are_read(tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    wanted = []
    restore = ocp.PyTreeCheckpointHandler.restore

    def spy(self, directory, args):
        wanted.append(set(args.item))
        return restore(self, directory, args=args)

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jnp.ones(1), "b": jnp.full(1, 2.0), "c": {"d": jnp.full(2, 3.0)}})
    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", spy)
    assert checkpoints.restore(under="b") == 2
    assert checkpoints.restore({"b": jnp.zeros(1), "c": {"d": jnp.zeros(3)}}, strict=False)[0]["b"] == 2
    assert wanted == [{"1"}, {"1"}]


def test_a_subtree_is_compared_and_found_by_name(saved):
    with pytest.raises(
        ValueError, match=r"like what was saved under 'params/encoder'; (.|\n)*bias: checkpoint float32"
    ) as error:
        saved.restore({"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(9)}, under="params/encoder")
    assert "\n  bias: checkpoint float32[3], model float32[9]\n" in str(error.value)
    assert str(error.value).endswith("restore(like, under='params/encoder', strict=False)")
    with pytest.raises(
        ValueError, match=r"under= a path.*'params/encodr' \(did you mean 'params/encoder'\?\).*key, params"
    ):
        saved.restore(under="params/encodr")
    with pytest.raises(ValueError, match=r"It is like what was saved under 'params': restore\(like, under='params'\)"):
        saved.restore(model())
    with pytest.raises(ValueError, match=r"It is like what was saved under 'params/head/1'|restore\(step=\.\.\.\)"):
        saved.restore(5)


def test_the_number_of_a_step_given_as_tree_is_answered(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jnp.ones(1)})
        with pytest.raises(ValueError, match=r"The number of a step is given by name: restore\(step=\.\.\.\)"):
            checkpoints.restore(1)
        for tree in ({"a": jnp.ones(1)}, jnp.ones(3), 2.5, None):
            with pytest.raises(TypeError, match=r"save takes the number of the step first, save\(step, tree\), got "):
                checkpoints.save(tree, 2)


# What fits


def test_what_fits_is_taken_over_and_the_rest_kept(saved):
    like = {"params": zeros(model(width=4)) | {"extra": jnp.full(1, 9.0)}, "step": 0}
    found, report = saved.restore(like, strict=False)
    assert found["step"] == 7
    assert found["params"]["extra"] is like["params"]["extra"]
    assert found["params"]["encoder"]["kernel"] is like["params"]["encoder"]["kernel"]
    assert found["params"]["encoder"]["bias"][0] == 1
    assert isinstance(found["params"]["head"], list)
    assert report.restored == ("params/encoder/bias", "params/head/0", "params/head/1", "step")
    assert report.kept == ("params/encoder/kernel", "params/extra")
    assert report.unused == ("key", "params/encoder/kernel")
    assert str(report).splitlines() == [
        "step 1: 4 restored, 2 kept, 2 unused",
        "  key: checkpoint key<fry>[], model nothing",
        "  params/encoder/kernel: checkpoint float32[2,3], model float32[2,4]",
        "  params/extra: checkpoint nothing, model float32[1]",
    ]


def test_what_fits_under_a_path(saved):
    found, report = saved.restore(
        {"kernel": jnp.zeros((2, 3)), "scale": jnp.zeros(3)}, under="params/encoder", strict=False
    )
    assert (found["kernel"] == 1).all()
    assert (report.restored, report.kept, report.unused) == (("kernel",), ("scale",), ("bias",))


def test_specs_that_nothing_fits_are_refused(saved):
    like = jax.eval_shape(lambda: {"key": jax.random.key(1), "params": {"encoder": {"kernel": jnp.zeros((5, 5))}}})
    with pytest.raises(ValueError, match=r"these are specs.*\n  params/encoder/kernel: float32\[5,5\]\nGive arrays"):
        saved.restore(like, strict=False)


def test_nothing_that_fits_is_an_error(saved):
    with pytest.raises(ValueError, match=r"finds nothing in step 1 that fits:\n(.|\n)*under='params'\)"):
        saved.restore(zeros(model()), strict=False)
    with pytest.raises(ValueError, match=r"restore\(strict=False\) takes a tree like= to keep"):
        saved.restore(strict=False)


# The net


NET = fn.Sequential(fn.Dense(4), jax.nn.relu, fn.Dense(2))


def test_the_net_travels_along(tmp_path):
    params = NET.init(jax.random.key(0), jnp.zeros((1, 3)))
    with Checkpoints(tmp_path, net=NET) as checkpoints:
        checkpoints.save(1, params)
        again = jax.tree.map(jnp.array_equal, checkpoints.restore(params), params)
        assert all(jax.tree.leaves(again))
    assert Checkpoints(tmp_path).net() == NET
    assert Checkpoints(tmp_path).net(1) == NET
    other = fn.Sequential(fn.Dense(4), jax.nn.tanh, fn.Dense(3))
    like = other.init(jax.random.key(0), jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match="restore takes the net that was saved") as error:
        Checkpoints(tmp_path, net=other).restore(like)
    for line in str(fn.diff(NET, other)).splitlines():
        assert line in str(error.value)
    assert "dense_1/kernel: checkpoint float32[4,2], model float32[4,3]" in str(error.value)
    same_arrays = fn.Sequential(fn.Dense(4), jax.nn.tanh, fn.Dense(2))
    with pytest.raises(
        ValueError, match=r"jax\.nn\.relu(.|\n)*To go on with another net and the same arrays, leave net= out"
    ):
        Checkpoints(tmp_path, net=same_arrays).resume(params)
    assert set(Checkpoints(tmp_path, net=same_arrays).restore(params, strict=False)[1].restored)
    Checkpoints(tmp_path, net=same_arrays).restore(params["dense_0"], under="dense_0")


def test_a_net_that_cannot_be_stored_is_refused_at_once(tmp_path):
    with pytest.raises(TypeError, match="is not registered") as error:
        Checkpoints(tmp_path, net=fn.Sequential(fn.Dense(2), lambda x: x))
    assert "without net= only arrays are stored" in error.value.__notes__[-1]
    with pytest.raises(TypeError, match="to_config takes a net"):
        Checkpoints(tmp_path, net={"a": 1})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, jnp.ones(1))
        with pytest.raises(ValueError, match="step 1 in .* was saved without a net"):
            checkpoints.net()
    assert Checkpoints(tmp_path, net=NET).restore(jnp.zeros(1)) == 1


@fn.files.register(name="mine/scale")
def scale(x):
    return 2 * x


def test_a_net_of_classes_that_are_not_known_here(tmp_path):
    net = fn.Sequential(fn.Dense(2), scale)
    with Checkpoints(tmp_path, net=net) as checkpoints:
        checkpoints.save(1, jnp.ones(1))
    program = """
        import sys
        import jax, jax.numpy as jnp
        import funcnets as fn

        for net in (fn.Sequential(fn.Dense(2), jax.nn.relu), None):
            checkpoints = fn.Checkpoints(sys.argv[1], net=net)
            for read in (lambda: checkpoints.restore(jnp.zeros(1)), checkpoints.net):
                try:
                    print(read())
                except ValueError as error:
                    print(error)
    """
    said = run(program, tmp_path)
    assert 'net.layers[1].function: checkpoint "mine/scale", model "jax.nn.relu"' in said
    assert "(the net stored cannot be built: " in said
    assert said.count("'mine/scale' is not registered") == 3
    assert "[1.]" in said


# Iterators


class Stream:
    def __init__(self, give=lambda step: {"step": step}):
        self.step, self.give = 0, give

    def __next__(self):
        self.step += 1
        return self.step

    def get_state(self):
        return self.give(self.step)

    def set_state(self, state):
        if state["step"] > 50:
            raise KeyError("beyond")
        self.step = state["step"]


def test_iterators_are_leaves(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        stream = Stream()
        for step in range(1, 4):
            next(stream)
            checkpoints.save(step, ({"w": jnp.full(2, step)}, stream))
        next(stream)
        other = Stream()
        state, found = checkpoints.restore(({"w": jnp.zeros(2, int)}, other), step=2)
        assert found is other and next(other) == 3 and state["w"][0] == 2
        assert checkpoints.restore()[1] == {"step": 3}
        assert checkpoints.restore(Stream(), under="1").step == 3
        with pytest.raises(ValueError, match=r"1: checkpoint iterator, model float32\[2\]"):
            checkpoints.restore(({"w": jnp.zeros(2, int)}, jnp.zeros(2)))
        found, report = checkpoints.restore({"w": jnp.zeros(2, int), "s": other}, under="0", strict=False)
        assert found["s"].step == 3 and report.kept == ("s",)
        stream.step = 60
        checkpoints.save(4, ({"w": jnp.full(2, 4)}, stream))
        with pytest.raises(KeyError, match="beyond") as error:
            checkpoints.restore(({"w": jnp.zeros(2, int)}, stream))
        assert error.value.__notes__[-1] == "from set_state of 1, a Stream"


def test_states_of_iterators_are_json_or_bytes(tmp_path):
    for give, kind in [
        (lambda step: {"step": (1, 2)}, "tuple"), (lambda step: {1: 2}, "int"), (lambda step: np.ones(1), "array"),
        (lambda step: float("nan"), "nan"),
    ]:  # fmt: skip
        with pytest.raises(TypeError, match=r"states of iterators that are JSON.*; data/x is a Stream whose get_state"):
            Checkpoints(tmp_path / kind).save(1, {"data": {"x": Stream(give)}})
        assert not (tmp_path / kind).exists()
    plain = {"a": [1, 2.5, "é", None, True], "b": {}}
    for i, content in enumerate((plain, b"\x00\xff", b"", None)):
        with Checkpoints(tmp_path / str(i)) as checkpoints:
            checkpoints.save(1, Stream(lambda step, content=content: content))
            assert checkpoints.restore() == content


class Placed:
    """Its state is bytes; the places are where it puts batches."""

    def __init__(self, state):
        self.state, self.sharding = state, jax.NamedSharding(jax.make_mesh((8,), ("a",)), jax.P("a"))

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.state = state


def test_states_of_bytes_are_arrays_and_not_text(tmp_path):
    states = [np.random.default_rng(0).bytes(10_001), b"", b"123"]
    tree = {"data": [Placed(state) for state in states], "w": jnp.ones(2)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree)
        found = checkpoints.restore({"data": [Placed(b"") for _ in states], "w": jnp.zeros(2)})
        assert [one.state for one in found["data"]] == states and (found["w"] == 1).all()
        assert checkpoints.restore(under="data") == states
        assert checkpoints.restore({"data": [Placed(b"")]}, strict=False)[0]["data"][0].state == states[0]
    assert (tmp_path / "1" / "tree.json").stat().st_size < 1000


def test_grain_iterators_resume(tmp_path):
    def dataset():
        return iter(grain.MapDataset.range(20).shuffle(seed=1).batch(3).to_iter_dataset())

    def loader():
        sampler = grain.samplers.IndexSampler(20, shuffle=True, seed=1, num_epochs=1)
        return iter(grain.DataLoader(data_source=range(20), sampler=sampler, worker_count=0))

    with Checkpoints(tmp_path) as checkpoints:
        ones = dataset(), loader()
        for one in ones:
            next(one), next(one)
        checkpoints.save(1, ones)
        expected = [np.asarray(next(one)) for one in ones]
        found = checkpoints.restore((dataset(), loader()))
        for one, value in zip(found, expected, strict=True):
            np.testing.assert_array_equal(next(one), value)


# Another machine


def run(program, *arguments):
    root = os.path.dirname(os.path.dirname(fn.__file__))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": root, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


MACHINE = """
    import sys
    import jax
    directory, devices = sys.argv[1], int(sys.argv[2])
    jax.config.update("jax_num_cpu_devices", devices)
    import jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P
    import funcnets as fn

    def over(*names):
        shape = {1: (1, 1), 2: (1, 2), 8: (4, 2)}[devices]
        mesh = jax.make_mesh(shape, ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
        return NamedSharding(mesh, P(*names))

    x = np.arange(64.0, dtype="float32").reshape(16, 4)
    keys = jax.random.split(jax.random.key(0), 8)
    data = np.asarray(jax.random.key_data(keys))
    checkpoints = fn.Checkpoints(directory)
"""


def test_a_checkpoint_of_eight_devices_is_read_on_fewer(tmp_path):
    run(
        MACHINE
        + """
    tree = {"x": jax.device_put(x, over("a", "b")), "k": jax.device_put(keys, over("a"))}
    tree["y"] = jax.device_put(x, over())
    assert len(tree["x"].sharding.device_set) == 8
    with checkpoints:
        checkpoints.save(1, tree)
    """,
        tmp_path,
        8,
    )
    for devices in (1, 2, 8):
        run(
            MACHINE
            + """
    for place in (over(None, "b"), over("b", None), over(), None):
        put = (lambda v: jnp.array(v)) if place is None else lambda v: jax.device_put(v, place)
        like = {"x": put(np.zeros_like(x)), "k": keys, "y": put(np.zeros_like(x))}
        found = checkpoints.restore(like)
        for name in "xy":
            assert found[name].sharding == like[name].sharding
            assert np.asarray(found[name]).tobytes() == x.tobytes()
        assert np.array_equal(jax.random.key_data(found["k"]), data)
    found = checkpoints.restore()
    assert type(found["x"]) is np.ndarray and np.array_equal(found["x"], x)
    assert np.array_equal(checkpoints.restore(under="y"), x)
    """,
            tmp_path,
            devices,
        )


def test_fifty_saves_of_donated_states_are_those_of_a_run_without_donation(tmp_path):
    def update(state):
        key, used = jax.random.split(state["key"])
        return {"w": state["w"] * 0.9 + jax.random.normal(used, state["w"].shape), "key": key}

    def initial():
        return {"w": jnp.zeros((100, 100)), "key": jax.random.key(0)}

    donating, keeping = jax.jit(update, donate_argnums=0), jax.jit(update)
    state, expected = initial(), initial()
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        for step in range(50):
            checkpoints.save(step, state)
            state = donating(state)
    checkpoints = Checkpoints(tmp_path, verify=False)
    for step in range(50):
        found = checkpoints.restore(step=step)
        assert found["w"].tobytes() == np.asarray(expected["w"]).tobytes()
        assert jnp.array_equal(jax.random.key_data(found["key"]), jax.random.key_data(expected["key"]))
        expected = keeping(expected)


def test_names_tied_in_a_net_are_one_leaf(tmp_path):
    net = fn.Sequential(("embed", fn.Embedding(5, 3)), fn.Dense(3), ("embed", fn.Unembed()))
    params = net.init(jax.random.key(0), jnp.zeros(2, int))
    with Checkpoints(tmp_path, net=net) as checkpoints:
        checkpoints.save(1, params)
        found = checkpoints.restore(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(2, int)))
    assert sorted(path for path, _ in fn.params.paths(found)) == ["dense_0/bias", "dense_0/kernel", "embed/table"]
    x = jnp.arange(2)
    np.testing.assert_array_equal(net.apply(found, x), net.apply(params, x))
