"""Reading ahead in a thread: the same batches, ends and errors; states of what was handed out; threads that end."""

import gc
import itertools
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback

import jax
import numpy as np
import pytest

import funcnets as fn

ROWS = np.arange(20)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "funcnets prefetch"]


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    gc.collect()
    end = time.monotonic() + 5
    while threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert not threads()


def count(n, *, read=None):
    for i in range(n):
        if read is not None:
            read.append(i)
        yield {"x": np.full(3, i)}


def until(true):
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_comes_out_is_what_goes_in_on_the_device():
    for size in (1, 2, 50):
        got = list(fn.train.prefetch(count(9), size))
        assert [batch["x"].tolist() for batch in got] == [[i] * 3 for i in range(9)]
        assert all(isinstance(batch["x"], jax.Array) for batch in got)
    assert not got[0]["x"].committed  # and goes where the parameters are


def test_it_reads_so_far_ahead_and_no_further():
    read = []
    with fn.train.prefetch(count(20, read=read), 3) as ahead:
        time.sleep(0.05)
        assert read == []  # it starts when it is first asked
        next(ahead)
        until(lambda: len(read) == 4)
        time.sleep(0.05)
        assert read == [0, 1, 2, 3]
        next(ahead)
        until(lambda: len(read) == 5)


def test_an_end_is_an_end_again():
    ahead = fn.train.prefetch(count(2))
    assert len(list(ahead)) == 2
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(ahead)
    assert list(fn.train.prefetch([])) == []


def test_an_error_comes_at_its_place_with_its_traceback():
    def source():
        yield from count(2)
        raise OSError("the disk is gone")

    ahead = fn.train.prefetch(source(), 5)
    assert [next(ahead)["x"][0] for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone") as caught:
        next(ahead)
    assert "in source" in "".join(traceback.format_exception(caught.value))
    with pytest.raises(StopIteration):  # as the generator itself
        next(ahead)


def test_a_source_that_goes_on_after_an_error_does():
    class Flaky:
        def __init__(self):
            self.n = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.n += 1
            if self.n == 2:
                raise TimeoutError("later")
            return self.n

    ahead = fn.train.prefetch(Flaky())
    assert int(next(ahead)) == 1
    with pytest.raises(TimeoutError):
        next(ahead)
    assert int(next(ahead)) == 3
    ahead.close()


def test_what_is_no_batch_is_an_error_at_its_place():
    ahead = fn.train.prefetch(iter([np.ones(2), "text"]))
    next(ahead)
    with pytest.raises(TypeError, match="not a valid JAX type"):
        next(ahead)


def test_batches_go_onto_a_sharding_or_a_device():
    mesh = jax.sharding.Mesh(np.array(jax.devices()), "data")
    sharding = jax.sharding.NamedSharding(mesh, jax.P("data"))
    batch = next(fn.train.prefetch(({"x": np.ones((16, 2))} for _ in range(3)), sharding=sharding))
    assert batch["x"].sharding == sharding
    assert next(fn.train.prefetch(count(3), sharding=jax.devices()[2]))["x"].devices() == {jax.devices()[2]}


def test_settings_of_the_thread_that_made_it_hold():
    with jax.enable_x64(True), jax.default_device(jax.devices()[3]):
        ahead = fn.train.prefetch(np.full(2, i, np.float64) for i in range(3))
    batch = next(ahead)
    assert batch.dtype == np.float64
    assert batch.devices() == {jax.devices()[3]}
    assert next(fn.train.prefetch(iter([np.ones(2, np.float64)]))).dtype == np.float32


def test_what_prefetch_refuses():
    for size in (0, -1, 1.0, True):
        with pytest.raises(ValueError, match=f"prefetch takes size= of at least 1, a whole number, got {size}"):
            fn.train.prefetch(count(2), size)
    for source in (3, ROWS, {"x": ROWS}, "text"):
        with pytest.raises(TypeError, match=r"prefetch takes an iterator of batches, got .*: give it data.stream\(\)"):
            fn.train.prefetch(source)
    with pytest.raises(TypeError, match="another order in each epoch"):
        fn.train.prefetch(fn.train.batches(ROWS, 4, jax.random.key(0)))


# States


def test_the_state_is_of_what_was_handed_out():
    data = fn.train.batches(ROWS, 4, jax.random.key(0))
    with fn.train.prefetch(data.stream(3), 4) as ahead:
        assert ahead.get_state() == {"step": 3}
        for step in range(3, 11):
            np.testing.assert_array_equal(next(ahead), data[step])
            assert ahead.get_state() == {"step": step + 1}
        ahead.set_state({"step": 1})  # back, with four read ahead
        assert ahead.get_state() == {"step": 1}
        np.testing.assert_array_equal(next(ahead), data[1])
        assert ahead.get_state() == {"step": 2}
    assert ahead.get_state() == {"step": 2}  # closed, it can still be saved
    with pytest.raises(ValueError, match="the state of a stream"):
        fn.train.prefetch(data.stream()).set_state({"next_index": 2})


def test_a_state_that_its_source_changes_in_place_is_kept():
    class Counter:
        def __init__(self):
            self.state = {"n": [0]}

        def __iter__(self):
            return self

        def __next__(self):
            self.state["n"][0] += 1
            return self.state["n"][0]

        def get_state(self):
            return self.state

        def set_state(self, state):
            self.state = state

    with fn.train.prefetch(Counter(), 3) as ahead:
        next(ahead)
        saved = ahead.get_state()
        until(lambda: ahead.get_state() == saved == {"n": [1]})
        next(ahead)
        assert saved == {"n": [1]}
        ahead.set_state(saved)
        assert [int(next(ahead)) for _ in range(3)] == [2, 3, 4]
        assert saved == {"n": [1]}


def test_it_has_its_sources_length_if_that_has_one():
    assert len(fn.train.prefetch(fn.train.batches(ROWS, 4).stream())) == len(ROWS) // 4
    assert not hasattr(fn.train.prefetch(count(3)), "__len__")
    for name, make in grain_pipelines().items():
        assert not hasattr(fn.train.prefetch(make()), "__len__"), name


def test_without_a_source_with_a_state_there_is_none():
    ahead = fn.train.prefetch(count(3))
    assert not hasattr(ahead, "get_state")
    assert not hasattr(ahead, "set_state")
    assert isinstance(ahead, fn.train.Prefetch)
    assert isinstance(fn.train.prefetch(fn.train.batches(ROWS, 4).stream()), fn.train.Prefetch)


def grain_pipelines():
    import grain

    shuffled = grain.MapDataset.source(ROWS).shuffle(seed=3).repeat().batch(3)
    sampler = grain.samplers.IndexSampler(20, shuffle=True, seed=1, num_epochs=None)
    few = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)  # sixteen threads keep two cores busy
    operations = [grain.transforms.Batch(3, drop_remainder=True)]
    loader = grain.DataLoader(data_source=ROWS, sampler=sampler, operations=operations, read_options=few)
    return {
        "MapDataset": lambda: iter(shuffled.to_iter_dataset(few)),
        "mixed": lambda: iter(shuffled.to_iter_dataset(few).map(lambda x: x + 1)),
        "DataLoader": lambda: iter(loader),
    }


def test_grain_goes_on_exactly_where_it_was():
    for name, make in grain_pipelines().items():
        with fn.train.prefetch(make(), 3) as ahead:
            first = [next(ahead) for _ in range(5)]
            state = ahead.get_state()
            rest = [next(ahead) for _ in range(6)]
        plain = list(itertools.islice(make(), 11))
        np.testing.assert_array_equal(np.stack([*first, *rest]), np.stack(plain), err_msg=name)
        stored = state if isinstance(state, bytes) else json.loads(json.dumps(state))
        for restored in (make(), fn.train.prefetch(make())):
            restored.set_state(stored)
            again = [np.asarray(next(restored)) for _ in range(6)]
            np.testing.assert_array_equal(np.stack(again), np.stack(rest), err_msg=name)


def test_training_from_grain_repeats_to_the_bit(tmp_path):
    import optax

    make = grain_pipelines()["MapDataset"]
    net, optimizer = fn.Dense(2), optax.adam(1e-2)

    def loss(model, batch):
        x = batch.astype("float32")[:, None] / 20
        return ((model(x) - x) ** 2).mean()

    step = fn.train.make_step(net, loss, optimizer)

    def run(steps, state, source):
        for batch in itertools.islice(source, steps):
            state, _ = step(state, batch)
        return state

    def start():
        return fn.train.create(net, optimizer, jax.random.key(0), np.ones((3, 1), np.float32))

    with fn.train.prefetch(make()) as whole, fn.train.prefetch(make()) as begun, fn.train.prefetch(make()) as resumed:
        straight = run(15, start(), whole)
        with fn.Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(7, (run(7, start(), begun), begun))
            half, resumed = checkpoints.resume((start(), resumed))
        jax.tree.map(np.testing.assert_array_equal, run(8, half, resumed).params, straight.params)


# Threads that end


def test_the_thread_ends_when_the_iterator_is_closed_or_forgotten():
    ahead = fn.train.prefetch(count(100))
    next(ahead)
    assert len(threads()) == 1
    ahead.close()
    assert not threads()
    for _ in range(2):
        with pytest.raises(ValueError, match="this prefetch was closed: make another"):
            next(ahead)
        ahead.close()
    closed = fn.train.prefetch(fn.train.batches(ROWS, 4).stream())
    closed.close()
    with pytest.raises(ValueError, match="this prefetch was closed"):
        closed.set_state({"step": 0})

    forgotten = fn.train.prefetch(count(100))
    next(forgotten)
    del forgotten
    gc.collect()
    assert not threads()


def test_a_source_that_blocks_does_not_hold_up_close():
    go = threading.Event()

    def source():
        yield np.ones(1)
        go.wait()
        yield np.ones(1)

    ahead = fn.train.prefetch(source())
    next(ahead)
    began = time.monotonic()
    ahead.close()
    assert time.monotonic() - began < 3
    assert len(threads()) == 1  # left to itself
    go.set()


PROGRAM = """
    import time
    import numpy as np
    import funcnets as fn

    def source(block):
        for i in range(10**9):
            if i == block:
                time.sleep(1000)
            yield np.full((64, 64), i, np.float32)

"""


@pytest.mark.parametrize(("block", "size"), [(None, 2), (None, 10**6), (1, 2)])
def test_a_program_ends_while_its_thread_runs(block, size):
    program = textwrap.dedent(PROGRAM) + f"ahead = fn.train.prefetch(source({block}), {size})\nnext(ahead)\n"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT")
def test_an_interrupt_ends_the_wait_for_a_source_that_blocks():
    program = textwrap.dedent(PROGRAM) + textwrap.dedent("""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may be started without
        with fn.train.prefetch(source(1)) as ahead:
            next(ahead)
            print("waits", flush=True)
            next(ahead)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline() == "waits\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
