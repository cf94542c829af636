"""Keys by name, and arrays that are the same however they are drawn."""

import functools
import hashlib
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from funcnets.initializers import (
    Constant,
    DeltaOrthogonal,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    LecunNormal,
    LecunUniform,
    Normal,
    Ones,
    Orthogonal,
    TorchBias,
    TorchKernel,
    TruncatedNormal,
    Uniform,
    UniformRange,
    VarianceScaling,
    Zeros,
)
from funcnets.random import (
    Recipe,
    Request,
    Standard,
    _threefry,
    _windows,
    as_key,
    copy_key,
    copy_keys,
    draw,
    path_key,
    path_keys,
    run_key,
)

FLOAT32 = np.dtype("float32")


def words(key):
    return np.asarray(jax.random.key_data(key)).tolist()


# Keys


def test_the_key_of_a_path_folds_in_its_hash(key):
    digest = hashlib.blake2b(b"dense_0/kernel", digest_size=8).digest()
    high, low = np.frombuffer(digest, ">u4")
    assert words(path_key(key, "dense_0/kernel")) == words(jax.random.fold_in(jax.random.fold_in(key, high), low))


def test_the_key_of_a_path_stays_what_it_is(key):
    assert words(path_key(key, "dense_0/kernel")) == PINNED


PINNED = [4122843452, 321366256]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_of_many_paths_are_those_of_each(impl):
    key = jax.random.key(3, impl=impl)
    paths = ["dense_0/kernel", "dense_0/bias", "", "größe/κ", "a" * 300]
    keys = path_keys(key, paths)
    assert keys.shape == (5,)
    assert [words(keys[i]) for i in range(5)] == [words(path_key(key, path)) for path in paths]
    assert path_keys(key, []).shape == (0,)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_of_copies_do_not_depend_on_their_number(impl):
    key = jax.random.key(3, impl=impl)
    few, many = copy_keys(key, 3), copy_keys(key, 7)
    assert few.shape == (3,)
    assert words(few) == words(many)[:3] == [words(copy_key(key, i)) for i in range(3)]
    assert words(jax.jit(copy_key)(key, jnp.uint32(2))) == words(few)[2]


def test_keys_of_runs_paths_and_copies_differ(key):
    derived = [key, run_key(key), *path_keys(key, ["", "a", "b"]), *copy_keys(key, 3), *copy_keys(run_key(key), 3)]
    assert len({tuple(words(one)) for one in derived}) == len(derived)


def test_words_are_taken_for_the_key_they_stand_for(key):
    old = jax.random.PRNGKey(0)
    for derive in (
        as_key,
        run_key,
        lambda k: path_key(k, "a"),
        lambda k: path_keys(k, ["a", "b"]),
        lambda k: copy_keys(k, 2),
        lambda k: copy_key(k, 1),
    ):
        assert words(derive(old)) == words(derive(np.asarray(old))) == words(derive(key))
    request = Request((("w", None),), Normal(), (3,))
    assert same(draw(old, [request])[0], draw(key, [request])[0])


@pytest.mark.parametrize("wrong", [0, None, "key", np.zeros(2), np.zeros((4, 2), np.uint32)])
def test_what_is_no_key_is_refused(wrong):
    with pytest.raises(TypeError, match=r"jax\.random\.key\(0\)"):
        as_key(wrong)


def test_many_keys_are_refused(key):
    with pytest.raises(TypeError, match=r"array of 3 keys.*jax\.vmap"):
        path_key(jax.random.split(key, 3), "a")


def test_the_cipher_is_that_of_jax():
    rng = np.random.default_rng(0)
    k0, k1 = rng.integers(0, 2**32, 2, np.uint32)
    x0, x1 = rng.integers(0, 2**32, (2, 50), np.uint32)
    theirs = threefry_2x32((jnp.asarray(k0), jnp.asarray(k1)), jnp.concatenate([x0, x1]))
    for ours in (_threefry(k0[None], k1[None], x0, x1), jax.jit(_threefry)(k0, k1, x0, x1)):
        np.testing.assert_array_equal(np.concatenate(ours), theirs)


# The law: an array is what its initialiser gives alone

INITIALIZERS = [
    Zeros(), Ones(), Constant(2), Normal(0.3), TruncatedNormal(0.3), TruncatedNormal(1.0, lower=-1, upper=3),
    Uniform(0.7), UniformRange(-10.0, 3.0), VarianceScaling(1.7, "fan_geo_avg", "normal"),
    VarianceScaling(0.3, "fan_out", "uniform"), LecunNormal(), LecunUniform(), GlorotNormal(), GlorotUniform(),
    HeNormal(), HeUniform(), TorchKernel(), TorchBias(7), Orthogonal(), Orthogonal(1.4, column_axis=0),
    DeltaOrthogonal(),
]  # fmt: skip
SHAPES = [(), (1,), (0,), (5,), (4097,), (1, 1), (0, 3), (127, 65), (3, 1, 5, 17)]


def law_requests(dtype):
    requests = []
    for i, init in enumerate(INITIALIZERS):
        shape = (3, 7, 13) if isinstance(init, DeltaOrthogonal) else (16, 13)
        requests += [(init, shape, (None,)), (init, shape, (3, None) if i % 2 else (None,))]
    for init in (Normal(0.3), TruncatedNormal(0.3), UniformRange(-10.0, 3.0)):
        requests += [(init, shape, (None,)) for shape in SHAPES]
    requests += [(Normal(), (2, 3), (2, 3, None)), (Normal(), (4100,), (None, 2, None)), (Normal(), (), (2, 2))]
    return [
        Request(tuple((f"{i}.{level}", n) for level, n in enumerate(way)), init, shape, dtype)
        for i, (init, shape, way) in enumerate(requests)
    ]


def keys_of(key, steps):
    """The keys of a request's copies by the definition, one by one."""
    if not steps:
        return [key]
    (path, n), *rest = steps
    key = path_key(key, path)
    return [end for one in ([key] if n is None else copy_keys(key, n)) for end in keys_of(one, rest)]


def alone(key, request):
    if request.copies:
        copies = [np.asarray(request.init(one, request.shape, request.dtype)) for one in keys_of(key, request.steps)]
        return np.stack(copies).reshape(*request.copies, *request.shape)
    (one,) = keys_of(key, request.steps)
    return np.asarray(request.init(one, request.shape, request.dtype))


def same(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_law(requests, arrays, expected):
    for request, array, one in zip(requests, arrays, expected, strict=True):
        assert same(array, one), request


@functools.cache
def law(dtype):
    requests = law_requests(np.dtype(dtype))
    return requests, [alone(jax.random.key(7), request) for request in requests]


DTYPES = ["float32", "bfloat16", "float16"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_drawn_together_is_drawn_alone(dtype):
    requests, expected = law(jnp.dtype(dtype))
    assert_law(requests, draw(jax.random.key(7), requests), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_drawn_under_jit_is_drawn_alone(dtype):
    requests, expected = law(jnp.dtype(dtype))
    if dtype != "float32":
        requests, expected = requests[::3], expected[::3]
    assert_law(requests, jax.jit(lambda key: draw(key, requests))(jax.random.key(7)), expected)


def test_drawn_under_vmap_is_drawn_alone():
    requests, expected = (all_of_them[::2] for all_of_them in law(FLOAT32))
    keys = jnp.stack([jax.random.key(1), jax.random.key(7)])
    arrays = jax.vmap(lambda key: draw(key, requests))(keys)
    assert_law(requests, [array[1] for array in arrays], expected)


def test_drawn_over_devices_is_drawn_alone():
    requests, expected = (all_of_them[::2] for all_of_them in law(FLOAT32))
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def sharding(request):
        shape = (*request.copies, *request.shape)
        split = next((axis for axis, n in enumerate(shape) if n % 8 == 0 and n > 0), None)
        return jax.NamedSharding(mesh, jax.P(*("x" if axis == split else None for axis in range(len(shape)))))

    shardings = [sharding(request) for request in requests]
    assert sum(not one.is_fully_replicated for one in shardings) > 10
    arrays = jax.jit(lambda key: draw(key, requests), out_shardings=shardings)(jax.random.key(7))
    assert_law(requests, arrays, expected)


def test_an_initialiser_under_jit_draws_what_it_draws_eagerly():
    requests, expected = law(FLOAT32)
    few = [i for i, request in enumerate(requests) if not request.copies][::4]
    arrays = jax.jit(lambda keys: [requests[i].init(k, requests[i].shape) for i, k in zip(few, keys, strict=True)])(
        [keys_of(jax.random.key(7), requests[i].steps)[0] for i in few]
    )
    assert_law([requests[i] for i in few], arrays, [expected[i] for i in few])


def test_the_law_in_double_precision_and_for_complex_numbers():
    program = f"""
import sys; sys.path.insert(0, {__file__.rpartition("/")[0]!r})
import jax; jax.config.update("jax_enable_x64", True)
import conftest, numpy as np
from test_random import *
for dtype in ("float64", "complex64", "complex128"):
    requests = [one for one in law_requests(np.dtype(dtype)) if one.shape != (3, 7, 13)][::4]
    if dtype != "float64":
        real = (TruncatedNormal, Uniform, UniformRange, TorchBias)
        requests = [one for one in requests if not isinstance(one.init, real)][::2]
    expected = [alone(jax.random.key(7), request) for request in requests]
    assert_law(requests, draw(jax.random.key(7), requests), expected)
    if dtype != "complex64":
        assert_law(requests, jax.jit(lambda key: draw(key, requests))(jax.random.key(7)), expected)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def test_draws_are_those_of_jax_with_the_same_keys(key):
    shape = (70, 129)
    inits = {
        Normal(1.0): jax.random.normal,
        Uniform(1.0): jax.random.uniform,
        TruncatedNormal(1.0): lambda key, shape: jax.random.truncated_normal(key, -2.0, 2.0, shape),
        UniformRange(-10.0, 3.0): lambda key, shape: jax.random.uniform(key, shape, minval=-10.0, maxval=3.0),
    }
    requests = [Request(((str(i), None),), init, shape) for i, init in enumerate(inits)]
    for i, (array, theirs) in enumerate(zip(draw(key, requests), inits.values(), strict=True)):
        assert same(array, theirs(path_key(key, str(i)), shape))


@pytest.mark.parametrize("stage", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("partitionable", [True, False])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_other_keys_are_drawn_from_one_by_one(impl, partitionable, stage):
    key = jax.random.key(5, impl=impl)
    inits = [
        LecunNormal(),
        LecunNormal(),
        Orthogonal(),
        Zeros(),
        lambda key, shape, dtype: jax.random.normal(key, shape),
    ]
    requests = [Request(((str(i), None),), init, (6, 5)) for i, init in enumerate(inits)]
    requests += [Request(((str(i), 3), ("w", None)), init, (6, 5)) for i, init in enumerate(inits)]
    with jax.threefry_partitionable(partitionable):
        arrays = stage(lambda key: draw(key, requests))(key)
        assert_law(requests, arrays, [alone(key, request) for request in requests])


# What may be asked for


def test_nothing_asked_for_is_nothing_done(key):
    assert draw(key, []) == []
    assert not jax.make_jaxpr(lambda key: draw(key, []))(key).eqns


def test_constants_look_at_no_key(key):
    requests = [Request(((str(i), n),), init, (3,)) for i, (init, n) in enumerate([(Zeros(), None), (Constant(2), 4)])]
    jaxpr = jax.make_jaxpr(lambda key: draw(key, requests))(key)
    assert {eqn.primitive.name for eqn in jaxpr.eqns} == {"broadcast_in_dim"}
    zeros, twos = draw(key, requests)
    np.testing.assert_array_equal(zeros, np.zeros(3))
    np.testing.assert_array_equal(twos, np.full((4, 3), 2.0))


def test_a_key_may_be_closed_over_and_used_again(key):
    requests = [Request((("w", None),), Normal(), (3,)), Request((("z", None),), Zeros(), (3,))]
    once, again, staged = draw(key, requests), draw(key, requests), jax.jit(lambda: draw(key, requests))()
    assert all(same(a, b) and same(a, c) for a, b, c in zip(once, again, staged, strict=True))


def test_a_function_is_called_once_for_an_array_and_once_for_all_copies(key):
    met = []

    def ours(key, shape, dtype):
        met.append((key.shape, shape, dtype))
        return jax.random.normal(key, shape, dtype)

    requests = [Request((("a", None),), ours, (3,)), Request((("b", None),), ours, (3,))]
    arrays = draw(key, requests)
    assert met == [((), (3,), FLOAT32)] * 2
    assert_law(requests, arrays, [alone(key, request) for request in requests])
    met.clear()
    stacked = draw(key, [Request((("c", 4), ("d", 2)), ours, (3,))])[0]
    assert met == [((), (3,), FLOAT32)]
    assert stacked.shape == (4, 2, 3)


def test_any_tree_may_be_made(key):
    def make(key):
        return {"w": jax.random.normal(key, (3,)), "b": (jnp.zeros(2), jnp.ones((), jnp.int32))}

    for steps, copies in [((("a", None),), ()), ((("a", 2), ("b", 3), ("c", None)), (2, 3))]:
        tree = draw(key, [Request(steps, make=make)])[0]
        expected = [make(one)["w"] for one in keys_of(key, steps)]
        assert same(tree["w"], np.stack(expected).reshape(*copies, 3))
        assert tree["b"][0].shape == (*copies, 2) and tree["b"][1].dtype == np.int32


def test_an_initialiser_with_a_recipe_need_not_be_ours(key):
    class Half:
        def recipe(self, shape, dtype):
            return Recipe(Standard(jax.random.uniform), np.asarray(0.5, dtype))

        def __call__(self, key, shape, dtype):
            return self.recipe(shape, dtype)(key, shape)

    request = Request((("w", None),), Half(), (5000,))
    assert same(draw(key, [request])[0], jax.random.uniform(path_key(key, "w"), (5000,)) * 0.5)


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (lambda key, shape, dtype: jnp.zeros(4, dtype), r"float32\[4\]"),
        (lambda key, shape, dtype: jnp.zeros(shape, jnp.float16), r"float16\[3\]"),
        (lambda key, shape, dtype: jax.nn.initializers.normal(), "function"),
    ],
)
def test_a_function_that_returns_something_else_is_named(key, wrong, got):
    with pytest.raises(ValueError, match=rf"asked for float32\[3\] and returned {got}") as caught:
        draw(key, [Request((("blocks", 2), ("w", None)), wrong, (3,))])
    assert "; <lambda> was asked for" in str(caught.value)
    assert "while drawing blocks/w" in caught.value.__notes__


def test_an_error_in_an_initialiser_names_the_array(key):
    with pytest.raises(ValueError, match="in_axis=-2") as caught:
        draw(key, [Request((("", 2), ("dense/bias", None)), LecunNormal(), (3,))])
    assert "while drawing dense/bias" in caught.value.__notes__


def test_arrays_live_where_the_key_does(key):
    requests = [Request((("w", None),), Normal(), (3,)), Request((("z", None),), Zeros(), (3,))]
    assert not any(array.committed for array in draw(key, requests))
    device = jax.devices()[3]
    arrays = draw(jax.device_put(key, device), requests)
    assert all(array.committed and array.devices() == {device} for array in arrays)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = draw(jax.device_put(key, jax.NamedSharding(mesh, jax.P())), requests)
    assert len(spread[0].devices()) == 8
    assert same(spread[0], arrays[0])


def test_each_array_has_memory_of_its_own(key):
    arrays = draw(
        key, [Request(((str(i), None),), init, (64, 64)) for i, init in enumerate([Zeros(), Zeros(), Normal()])]
    )
    assert len({array.unsafe_buffer_pointer() for array in arrays}) == 3
    before = np.asarray(arrays[1]).copy()
    for array in (arrays[0], arrays[2]):
        place = array.unsafe_buffer_pointer()
        reused = jax.block_until_ready(jax.jit(lambda x: x + 1, donate_argnums=0)(array))
        assert array.is_deleted()
        assert reused.unsafe_buffer_pointer() == place  # no copy was made: NumPy has no part in it
    np.testing.assert_array_equal(arrays[1], before)


def test_a_standard_is_a_value():
    one = Standard(jax.random.uniform, (-1.0, 1.0))
    assert one == Standard(jax.random.uniform, (-1.0, 1.0)) != Standard(jax.random.uniform, (-1.0, 2.0))
    assert pickle.loads(pickle.dumps(one)) == one


def test_an_array_may_have_more_than_2_to_the_32_words(key):
    for shape in ((2**16, 2**16 + 1), (1, 2**32 - 1), (2**32 - 1, 1), (2**31 + 1,)):
        for stage in (lambda f: f, jax.jit):
            request = Request((("w", None),), Normal(), shape)
            array = jax.eval_shape(stage(lambda key, request=request: draw(key, [request])[0]), key)
            assert (array.shape, array.dtype) == (shape, FLOAT32)


def test_words_are_counted_beyond_2_to_the_32(key):
    stream = np.array([[*words(key), 3, 4096]], np.uint32)
    bits = Standard(lambda key, shape, dtype: jax.random.bits(key, shape).astype(dtype))
    drawn = _windows(stream, np.ones(1, np.float32), bits)
    high, low = np.full(4096, 3, np.uint32), np.arange(4096, 8192, dtype=np.uint32)
    a, b = _threefry(*np.array(words(key), np.uint32)[:, None], high, low)
    np.testing.assert_array_equal(drawn[0], np.float32(a ^ b))


# How much is compiled


def lines(requests):
    return jax.jit(lambda key: draw(key, requests)).lower(jax.random.key(0)).as_text().count("\n")


def test_the_program_does_not_grow_with_the_number_of_copies():
    def stacked(n):
        return [Request((("blocks", n), (name, None)), LecunNormal(), shape) for name, shape in SIZES.items()]

    assert lines(stacked(200)) == lines(stacked(2))


SIZES = {"qkv": (8, 24), "out": (8, 8), "up": (8, 32), "down": (32, 8)}


def test_equal_arrays_are_drawn_by_one_piece_of_program():
    def blocks(n):
        return [
            Request(((f"block_{i}/{name}", None),), LecunNormal(), shape)
            for i in range(n)
            for name, shape in SIZES.items()
        ]

    def barriers(requests):
        return str(jax.make_jaxpr(lambda key: draw(key, requests))(jax.random.key(0))).count("optimization_barrier")

    assert barriers(blocks(12)) == barriers(blocks(2)) == len(SIZES)
    assert (lines(blocks(12)) - lines(blocks(2))) / (10 * len(SIZES)) < 10


def test_eager_arrays_of_many_shapes_take_few_programs(key, caplog):
    requests = [Request(((str(i), None),), LecunNormal(), (3 + i, 40 + i)) for i in range(40)]
    requests += [Request(((f"{i}.", 2 + i), ("w", None)), Ones(), (3, i)) for i in range(40)]
    jax.clear_caches()
    with jax.log_compiles():
        jax.block_until_ready(draw(key, requests))
    assert sum("Finished XLA compilation" in record.message for record in caplog.records) <= 3


def test_a_draw_of_many_windows_is_the_draw_of_one(key):
    request = Request((("big", None),), Normal(0.02), (1100, 4096))  # more windows than go at once
    (array,) = draw(key, [request])
    one = jax.random.normal(path_key(key, "big"), (1100, 4096)) * np.float32(0.02)
    np.testing.assert_array_equal(array, one)
