"""Batches: which examples each step gets, stacks of several, streams and what stands in the way."""

import subprocess
import sys

import jax
import numpy as np
import pytest
from catalogue import floats

import funcnets as fn

X = floats(32, 5)


def philox(key, counter, count):
    """Philox4x64-10 as its paper defines it (Salmon et al., 2011), in Python's integers."""
    full, words = 2**64 - 1, []
    while len(words) < count:
        counter += 1
        c = [counter >> 64 * i & full for i in range(4)]
        k = [key & full, key >> 64]
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [(b >> 64) ^ c[1] ^ k[0], b & full, (a >> 64) ^ c[3] ^ k[1], a & full]
            k = [(k[0] + 0x9E3779B97F4A7C15) & full, (k[1] + 0xBB67AE8584CAA73B) & full]
        words += c
    return words[:count]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_the_order_is_that_of_sorted_random_words(impl):
    key, n = jax.random.key(7, impl=impl), 37
    number = sum(int(word) << 32 * i for i, word in enumerate(jax.random.key_data(key)))
    data = fn.train.batches(np.arange(n), n, key)
    for epoch in (0, 3):
        words = philox(number, epoch << 192, n)
        wanted = sorted(range(n), key=lambda i: (words[i] >> n.bit_length(), i))
        np.testing.assert_array_equal(data[epoch], wanted)


def test_the_order_of_batches_is_a_function_of_key_and_step():
    rows = np.arange(10)
    data = fn.train.batches(rows, 3, jax.random.key(0))
    assert len(data) == 3
    again = fn.train.batches(rows, 3, jax.random.PRNGKey(0))  # the same key, written the old way
    for step in (7, 0, 5):  # in any order, without what came before
        np.testing.assert_array_equal(data[step], again[step])
    epochs = [np.concatenate([data[3 * epoch + i] for i in range(3)]) for epoch in range(2)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert not np.array_equal(*epochs)
    assert not np.array_equal(data[0], fn.train.batches(rows, 3, jax.random.key(1))[0])
    keep = fn.train.batches(rows, 3, jax.random.key(0), partial="keep")
    assert sorted(np.concatenate(list(keep.epoch(0)))) == list(rows)
    np.testing.assert_array_equal(fn.train.batches(rows, 4)[0], [0, 1, 2, 3])


def test_every_order_of_few_examples_is_as_likely():
    data = fn.train.batches(np.arange(4), 4, jax.random.key(0))
    count = np.zeros((4, 4, 4, 4))
    for epoch in range(2400):
        count[tuple(data[epoch])] += 1
    seen = count[count > 0]
    assert len(seen) == 24
    assert ((seen - 100) ** 2 / 100).sum() < 49.7  # chi-squared with 23 degrees of freedom, p = 0.001


def test_the_order_heeds_no_setting_of_the_random_numbers():
    key, rows = jax.random.key(0), np.arange(10)
    wanted = fn.train.batches(rows, 10, key)[0]
    with jax.threefry_partitionable(False), jax.default_prng_impl("rbg"), jax.enable_x64(True):
        np.testing.assert_array_equal(fn.train.batches(rows, 10, key)[0], wanted)


def test_shuffled_batches_are_asked_for_by_epoch():
    data = fn.train.batches({"x": np.arange(10)}, 5, jax.random.key(0))
    with pytest.raises(TypeError, match=r"another order in each epoch: say which, data.epoch\(0\)"):
        next(iter(data))
    orders = [np.concatenate([batch["x"] for batch in data.epoch(n)]) for n in range(2)]
    assert (np.sort(orders[0]) == np.sort(orders[1])).all()
    assert (orders[0] != orders[1]).any()
    np.testing.assert_array_equal(orders[1][:5], data[2]["x"])
    assert [len(batch["x"]) for batch in fn.train.batches({"x": np.arange(10)}, 5)] == [5, 5]
    with pytest.raises(IndexError, match="an epoch is counted from 0, got -1"):
        data.epoch(-1)


@pytest.mark.parametrize("key", [None, jax.random.key(0)])
def test_a_slice_is_the_batches_of_its_steps_stacked(key):
    data = fn.train.batches({"x": X, "i": (np.arange(32),)}, 6, key, partial="drop")
    for first, end in ((0, 1), (1, 4), (3, 12)):  # within an epoch, and over three of five steps
        got, each = data[first:end], [data[step] for step in range(first, end)]
        assert jax.tree.structure(got) == jax.tree.structure(each[0])
        jax.tree.map(lambda stack, *batches: np.testing.assert_array_equal(stack, np.stack(batches)), got, *each)
    np.testing.assert_array_equal(data[np.int64(2) : jax.numpy.int32(4)]["x"], data[2:4]["x"])


def test_slices_that_are_refused():
    data = fn.train.batches(X, 12, partial="keep")
    assert data[0:2].shape == (2, 12, 5)
    with pytest.raises(ValueError, match=r"in data\[1:4\] that of step 2 has 8 of 12 examples: take it alone"):
        data[1:4]
    for steps in (slice(None, 2), slice(1, None), slice(0, 4, 2)):
        with pytest.raises(ValueError, match="a slice of steps has a start, an end and no stride"):
            data[steps]
    for steps in (slice(2, 2), slice(3, 1), slice(-2, 1)):
        with pytest.raises(ValueError, match=rf"holds at least one; got data\[{steps.start}:{steps.stop}\]"):
            data[steps]
    with pytest.raises(TypeError, match="a step is a whole number, got 1.0"):
        data[0:1.0]


def test_what_numbers_a_step():
    data = fn.train.batches(X, 8)
    for step in (np.int64(3), np.array(3), jax.numpy.int32(3)):
        np.testing.assert_array_equal(data[step], X[24:])
    for step, got in ((True, "True"), (2.0, "2.0"), (np.float32(2), "float32"), (np.ones(1, int), r"int64\[1\]")):
        with pytest.raises(TypeError, match=f"a step is a whole number, got {got}"):
            data[step]
    with pytest.raises(IndexError, match="a step is counted from 0, got -1"):
        data[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"a": X, "b": X[:3]}, 2), "one length of their first axes"),
        (({}, 2), "one length of their first axes"),
        (({"a": X, "b": 1.0}, 2), "one length of their first axes"),
        ((X, 0), "batch_size is a whole number from 1 to the 32 examples, got 0"),
        ((X, 33, jax.random.key(0)), "batch_size is a whole number from 1 to the 32 examples, got 33"),
        ((X, 2.0), "batch_size is a whole number, got 2.0"),
        ((X, True), "batch_size is a whole number, got True"),
        ((X, 2, 0), r"a key is taken, as jax.random.key\(0\) makes it, got 0"),
        ((X, 2, jax.random.split(jax.random.key(0))), "one key is taken, got an array of 2 keys"),
    ],
)
def test_what_batches_refuses(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fn.train.batches(*arguments)


def test_a_last_batch_is_dropped_or_kept_and_nothing_else():
    with pytest.raises(ValueError, match="partial is 'drop' or 'keep'"):
        fn.train.batches(X, 2, partial="pad")
    assert [len(batch) for batch in fn.train.batches(X, 12)] == [12, 12, 8]  # in order none is left out
    assert [len(batch) for batch in fn.train.batches(X, 12, partial="drop")] == [12, 12]
    assert [len(batch) for batch in fn.train.batches(X, 12, jax.random.key(0)).epoch(0)] == [12, 12]
    assert [len(batch) for batch in fn.train.batches(X, 100)] == [32]
    assert (fn.train.batches(X, 12).dropped, fn.train.batches(X, 12, partial="drop").dropped) == (0, 8)
    assert repr(fn.train.batches(X, 12)) == "Batches(32 examples, 12 a batch, 3 an epoch, in order)"
    keep = fn.train.batches(X, 12, jax.random.key(0), partial="keep")
    assert [len(keep[step]) for step in range(6)] == [12, 12, 8] * 2


def test_what_is_no_number_is_refused():
    for strange in (np.array(["a", "b"]), np.array([None, 1]), np.array(["2020"], "datetime64[Y]")):
        with pytest.raises(TypeError, match="batches takes arrays of numbers, got"):
            fn.train.batches({"x": strange}, 1)
    assert len(fn.train.batches(jax.numpy.ones(4, "bfloat16"), 2)) == 2


def test_no_examples_are_no_batches():
    for partial in ("drop", "keep"):
        data = fn.train.batches(X[:0], 1, jax.random.key(0), partial=partial)
        assert (len(data), list(data.epoch(2))) == (0, [])
        with pytest.raises(IndexError, match="there are no batches: 0 examples, 1 in a batch"):
            data[0]
    assert len(fn.train.batches(X[:1], 1, jax.random.key(0))) == 1


def test_mapped_files_and_large_arrays_are_not_copied(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = fn.train.batches({"x": mapped, "y": X}, 8, jax.random.key(0))
    assert np.shares_memory(data.arrays["x"], mapped)
    assert np.shares_memory(data.arrays["y"], X)
    for batch in (data[1], data[1:3]):
        assert not np.shares_memory(batch["x"], mapped)
        np.testing.assert_array_equal(batch["x"], batch["y"])


def test_a_mapped_file_larger_than_the_memory_allowed_is_trained_on(tmp_path):
    file = tmp_path / "x.npy"
    np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(2**20, 512)).flush()  # 2 GB, a sparse file
    program = f"""
import resource
import jax, numpy as np
import funcnets as fn
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = fn.train.batches(np.load({str(file)!r}, mmap_mode="r"), 64, jax.random.key(0))
assert data[0:2].shape == (2, 64, 512)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300  # MB


# Streams


def test_a_stream_goes_on_from_its_state():
    data = fn.train.batches(np.arange(10), 4, jax.random.key(0))
    stream = data.stream(np.int64(3))
    assert stream.get_state() == {"step": 3}
    assert iter(stream) is stream
    assert len(stream) == len(data) == 2  # an epoch's
    for step in range(3, 8):
        np.testing.assert_array_equal(next(stream), data[step])
    state = stream.get_state()
    assert state == {"step": 8}
    assert type(state["step"]) is int
    np.testing.assert_array_equal(next(stream), data[8])
    other = data.stream()
    other.set_state(state)
    np.testing.assert_array_equal(next(other), data[8])


def test_states_that_are_not_a_streams():
    stream = fn.train.batches(np.arange(10), 4).stream(2)
    for state in ({"next_index": 2}, {"step": 2, "epoch": 0}, 2, b"2", None):
        with pytest.raises(ValueError, match=r"the state of a stream of batches is \{'step': n\}, got"):
            stream.set_state(state)
    with pytest.raises(TypeError, match="a step is a whole number, got 1.5"):
        stream.set_state({"step": 1.5})
    with pytest.raises(ValueError, match="counted from 0, got -1"):
        stream.set_state({"step": -1})
    assert stream.get_state() == {"step": 2}
    with pytest.raises(ValueError, match="counted from 0, got -3"):
        fn.train.batches(np.arange(10), 4).stream(-3)
