"""Initialisers against JAX's, PyTorch's formulas and their own definitions."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnets import initializers
from funcnets.initializers import (
    Constant,
    DeltaOrthogonal,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    Initializer,
    KaimingNormal,
    KaimingUniform,
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
    XavierNormal,
    XavierUniform,
    Zeros,
)

theirs = jax.nn.initializers

# Ours, JAX's
PAIRS = [
    (Zeros(), theirs.zeros),
    (Ones(), theirs.ones),
    (Constant(-7), theirs.constant(-7)),
    (Normal(), theirs.normal()),
    (Normal(0.3), theirs.normal(0.3)),
    (TruncatedNormal(), theirs.truncated_normal()),
    (TruncatedNormal(0.3, lower=-1.0, upper=3.0), theirs.truncated_normal(0.3, lower=-1.0, upper=3.0)),
    (Uniform(), theirs.uniform()),
    (Uniform(-0.7), theirs.uniform(-0.7)),
    (LecunNormal(), theirs.lecun_normal()),
    (LecunUniform(), theirs.lecun_uniform()),
    (GlorotNormal(), theirs.glorot_normal()),
    (GlorotUniform(), theirs.glorot_uniform()),
    (HeNormal(), theirs.he_normal()),
    (HeUniform(), theirs.he_uniform()),
    (Orthogonal(), theirs.orthogonal()),
    (Orthogonal(1.5, column_axis=0), theirs.orthogonal(1.5, column_axis=0)),
    (DeltaOrthogonal(), theirs.delta_orthogonal()),
    (DeltaOrthogonal(0.5), theirs.delta_orthogonal(0.5)),
    *(
        (VarianceScaling(0.7, mode, distribution), theirs.variance_scaling(0.7, mode, distribution))
        for mode in ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
        for distribution in ("normal", "truncated_normal", "uniform")
    ),
    (
        VarianceScaling(2.0, "fan_in", "normal", in_axis=(0, 1), out_axis=3, batch_axis=2),
        theirs.variance_scaling(2.0, "fan_in", "normal", in_axis=(0, 1), out_axis=3, batch_axis=2),
    ),
    (LecunNormal(in_axis=3, out_axis=(0, 1)), theirs.lecun_normal(in_axis=3, out_axis=(0, 1))),
]
NO_COMPLEX = (TruncatedNormal, Uniform)


@pytest.mark.parametrize(("ours", "other"), PAIRS, ids=lambda held: repr(held) if isinstance(held, Initializer) else "")
def test_draws_are_those_of_jax(ours, other):
    for dtype in ("float32", "bfloat16", "float16", "complex64"):
        if isinstance(ours, Orthogonal) and dtype in ("bfloat16", "float16"):
            continue  # JAX has none
        if isinstance(ours, NO_COMPLEX) and dtype == "complex64":
            with pytest.raises(TypeError, match=r"draws floating numbers, was asked for complex64"):
                ours(jax.random.key(0), (2, 3, 4, 5), dtype)
            continue
        dtype = jnp.dtype(dtype)
        array, expected = (draw(jax.random.key(0), (2, 3, 4, 5), dtype) for draw in (ours, other))
        assert array.dtype == dtype
        if dtype.kind == "c":
            np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-12)
        else:
            assert np.asarray(array).tobytes() == np.asarray(expected).tobytes()


def test_every_initialiser_of_jax_is_here():
    for name in dir(theirs):
        if not name.startswith("_") and name != "Initializer":
            assert issubclass(getattr(initializers, name.title().replace("_", "")), Initializer), name


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
def test_the_variance_is_the_scale_over_the_fan(distribution, dtype, key):
    x = np.asarray(VarianceScaling(3.0, "fan_out", distribution)(key, (5, 5, 20, 80), dtype))
    np.testing.assert_allclose(np.var(x), 3.0 / (5 * 5 * 80), rtol=0.03)
    assert abs(np.mean(x)) < 5e-4


def test_bounds_are_kept(key):
    x = TruncatedNormal(0.1, lower=-0.5, upper=3.0)(key, (10_000,))
    assert -0.05 <= x.min() < -0.0499 and 0.25 < x.max() <= 0.3
    x = UniformRange(5, 10)(jax.random.clone(key), (10_000,))
    assert 5 <= x.min() < 5.01 and 9.99 < x.max() < 10


@pytest.mark.parametrize(
    ("init", "shape", "fan_in"),
    [
        (TorchKernel(), (64, 32), 64),  # Linear
        (TorchKernel(), (3, 3, 16, 32), 144),  # Conv2d
        (TorchKernel(in_axis=-1, out_axis=0), (32, 16, 3, 3)[:2], 16),  # PyTorch's own layout
        (TorchBias(49), (4000,), 49),
        (VarianceScaling(1 / 3, "fan_out", "uniform"), (3, 3, 16, 32), 288),  # ConvTranspose2d
    ],
)
def test_pytorch_draws_between_the_roots_of_the_fan(init, shape, fan_in, key):
    x = np.asarray(init(key, shape))
    bound = 1 / np.sqrt(fan_in)
    assert bound * 0.97 < np.abs(x).max() <= bound * (1 + 1e-6)
    np.testing.assert_allclose(np.std(x), bound / np.sqrt(3), rtol=0.05)


# Orthogonal matrices


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_columns_are_orthonormal_or_else_rows_are(dtype, key):
    tolerance = 0.05 if dtype == "bfloat16" else 1e-5
    for shape in ((8, 5), (5, 8), (2, 4, 5)):
        q = Orthogonal(2.0)(jax.random.clone(key), shape, dtype)
        assert q.dtype == jnp.dtype(dtype)
        q = np.asarray(q, np.complex64).reshape(-1, shape[-1]) / 2
        gram = q.conj().T @ q if q.shape[0] >= q.shape[1] else q @ q.conj().T
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=tolerance)


def test_the_axis_of_the_columns_is_told(key):
    q = np.asarray(Orthogonal(column_axis=1)(key, (4, 3, 5))).transpose(0, 2, 1).reshape(-1, 3)
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-5)


def test_a_delta_orthogonal_kernel_keeps_norms(key):
    x = jax.random.normal(jax.random.clone(key), (1, 8, 8, 3))
    kernel = DeltaOrthogonal()(key, (3, 3, 3, 7))
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-4)


@pytest.mark.parametrize(
    ("init", "shape"), [(Orthogonal(), (0, 3)), (DeltaOrthogonal(), (0, 2, 3)), (HeNormal(), (0, 3))]
)
def test_nothing_is_drawn_for_an_empty_array(init, shape, key):
    assert init(key, shape).shape == shape


# Constants


def test_constants_take_any_dtype_that_holds_them():
    for dtype in ("int32", "bool", "bfloat16", "complex64", "uint8"):
        for init, value in ((Zeros(), 0), (Ones(), 1), (Constant(1.0), 1), (Constant(True), 1)):
            array = init(None, (2,), dtype)
            assert array.dtype == jnp.dtype(dtype)
            np.testing.assert_array_equal(np.asarray(array, np.complex64), np.full(2, value))
    assert np.isnan(Constant(float("nan"))(None, (1,))[0])


@pytest.mark.parametrize(
    ("value", "dtype"), [(0.5, "int32"), (float("inf"), "int32"), (1j, "float32"), (1 + 0j, "int32")]
)
def test_a_constant_that_does_not_fit_raises(value, dtype):
    with pytest.raises(TypeError, match=rf"does not fit into {dtype}"):
        Constant(value)(None, (2,), dtype)


# Values


@pytest.mark.parametrize(
    ("init", "text"),
    [
        (LecunNormal(), "LecunNormal()"),
        (HeNormal(in_axis=[0, 1]), "HeNormal(in_axis=(0, 1))"),
        (Normal(), "Normal()"),
        (Normal(np.float64(0.5)), "Normal(stddev=0.5)"),
        (Zeros(), "Zeros()"),
        (Constant(2), "Constant(2)"),
        (TorchBias(3), "TorchBias(3)"),
        (UniformRange(-1.0, 1.0), "UniformRange(-1.0, 1.0)"),
        (
            VarianceScaling(2.0, "fan_in", "normal", out_axis=0),
            "VarianceScaling(out_axis=0, scale=2.0, mode='fan_in', distribution='normal')",
        ),
    ],
)
def test_an_initialiser_is_a_value(init, text):
    assert repr(init) == text
    built = eval(text, vars(initializers))
    assert built == init and hash(built) == hash(init)
    assert pickle.loads(pickle.dumps(init)) == init


def test_values_differ_by_kind_and_fields():
    kinds = [Zeros(), Ones(), Constant(0.0), LecunNormal(), HeNormal(), LecunNormal(in_axis=0), Normal(1), Normal(1.0)]
    assert len(set(kinds)) == len(kinds)


def test_one_initialiser_has_two_names():
    assert (XavierNormal, XavierUniform) == (GlorotNormal, GlorotUniform)
    assert (KaimingNormal, KaimingUniform) == (HeNormal, HeUniform)


def test_old_keys_draw_the_same(key):
    np.testing.assert_array_equal(LecunNormal()(key, (3, 4)), LecunNormal()(jax.random.PRNGKey(0), [3, 4]))


def test_an_initialiser_of_ones_own_gives_a_recipe_or_a_call(key):
    class Half(Uniform):
        def recipe(self, shape, dtype):
            recipe = super().recipe(shape, dtype)
            return recipe._replace(factor=recipe.factor / 2)

    np.testing.assert_array_equal(Half(1.0)(key, (3,)), jax.random.uniform(jax.random.clone(key), (3,)) / 2)
    with pytest.raises(NotImplementedError, match="neither recipe nor __call__"):
        Initializer()(key, (3,))


# Errors


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Normal(-1.0), r"Normal takes a standard deviation of at least 0, got stddev=-1.0"),
        (lambda: Normal(float("nan")), r"got stddev=nan"),
        (lambda: Normal("1"), r"got stddev='1'"),
        (lambda: TruncatedNormal(lower=2.0), r"TruncatedNormal takes a number below upper=2.0, got lower=2.0"),
        (lambda: TruncatedNormal(upper="x"), r"got upper='x'"),
        (lambda: Uniform(None), r"Uniform takes a number, got scale=None"),
        (lambda: UniformRange(2.0, 1.0), r"a number below high=1.0, got low=2.0"),
        (lambda: UniformRange(2.0, "x"), r"got high='x'"),
        (lambda: Constant("1"), r"Constant takes a number, got value='1'"),
        (lambda: TorchBias(0), r"the kernel's fan_in, 1 or more, got fan_in=0"),
        (lambda: VarianceScaling(-1.0, "fan_in", "normal"), r"a scale of at least 0, got scale=-1.0"),
        (lambda: VarianceScaling(1.0, "fan", "normal"), r"'fan_in' or 'fan_out' or .*, got mode='fan'"),
        (lambda: VarianceScaling(1.0, "fan_in", "gauss"), r"'normal' or .*, got distribution='gauss'"),
        (lambda: LecunNormal(in_axis=0.5), r"LecunNormal takes an axis or a tuple of axes, got in_axis=0.5"),
        (lambda: Orthogonal(column_axis="x"), r"an axis, got column_axis='x'"),
    ],
)
def test_a_field_out_of_range_raises_when_built(build, text):
    with pytest.raises(ValueError, match=text):
        build()


@pytest.mark.parametrize(
    ("init", "shape", "text"),
    [
        (LecunNormal(), (3,), r"LecunNormal\(\) takes an array with axes in_axis=-2 and out_axis=-1, got shape \(3,\)"),
        (HeNormal(in_axis=4), (3, 3), r"in_axis=4"),
        (Orthogonal(), (3,), r"Orthogonal\(\) takes an array with two axes or more, got shape \(3,\)"),
        (DeltaOrthogonal(), (3, 3), r"1 to 3 axes of its window, got shape \(3, 3\)"),
        (DeltaOrthogonal(), (3, 4, 3), r"at least as many outputs as inputs, got shape \(3, 4, 3\)"),
    ],
)
def test_a_shape_that_has_no_such_draw_raises(init, shape, text, key):
    with pytest.raises(ValueError, match=text):
        init(key, shape)


def test_a_dtype_that_cannot_be_drawn_raises(key):
    with pytest.raises(TypeError, match=r"Normal\(\) draws floating or complexfloating numbers, was asked for int32"):
        Normal()(key, (3,), jnp.int32)
    with pytest.raises(
        TypeError, match=r"was asked for float64, which takes jax_enable_x64: set it, or ask for float32"
    ):
        Normal()(key, (3,), np.float64)
    assert Normal()(key, (3,), float).dtype == np.float32


def test_a_key_is_asked_for():
    with pytest.raises(TypeError, match=r"jax\.random\.key\(0\)"):
        Normal()(0, (3,))
