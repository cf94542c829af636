import copy
import dataclasses
import functools
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.values import Value, created_at


class Point(Value):
    x: object
    y: object = 1.0


class Other(Point):
    pass


class Empty(Value):
    pass


def double(x):
    return 2 * x


def test_equal_by_contents_and_class():
    assert Point(1) == Point(1)
    assert hash(Point(1)) == hash(Point(1))
    assert Point(1) != Point(2)
    assert Point(1) != Other(1)
    assert Empty() == Empty()
    assert Point(Point(1)) == Point(Point(1))


@pytest.mark.parametrize(("a", "b"), [(2, 2.0), (1, True), (0.0, -0.0), ((1, 2), (1, 2.0)), ("1", 1), (1j, 1 + 0.0)])
def test_a_fields_type_counts(a, b):
    assert Point(a) != Point(b)


def test_nan_equals_itself():
    assert Point(float("nan")) == Point(float("nan"))
    assert Point((float("nan"),)) == Point((float("nan"),))


def test_fields_are_put_into_one_form():
    assert Point([1, [2]]).x == (1, (2,))
    assert type(Point(np.float32(2)).x) is float
    assert type(Point(np.int64(2)).x) is int
    assert type(Point(np.bool_(True)).x) is bool
    for dtype in (jnp.float32, np.float32, np.dtype("float32")):
        assert Point(dtype) == Point(np.dtype("float32"))
        assert hash(Point(dtype)) == hash(Point(np.dtype("float32")))
    assert Point(jnp.bfloat16).x == jnp.dtype("bfloat16")


def test_functions_compare_by_identity_and_partials_by_what_they_hold():
    assert Point(double) == Point(double)
    assert Point(lambda x: x) != Point(lambda x: x)
    gelu = functools.partial(jax.nn.gelu, approximate=True)
    assert Point(gelu) == Point(functools.partial(jax.nn.gelu, approximate=True))
    assert hash(Point(gelu)) == hash(Point(functools.partial(jax.nn.gelu, approximate=True)))
    assert Point(gelu) != Point(functools.partial(jax.nn.gelu, approximate=False))
    assert Point(gelu) != Point(functools.partial(jax.nn.gelu, approximate=1))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (np.zeros(3), "Point.x holds an array, float64\\[3\\].*fn.Param.*fn.Constant"),
        (jnp.zeros(3), "holds an array, float32\\[3\\]"),
        ([1, np.zeros(2)], "holds an array"),
        ({"a": 1}, "holds a dict, which can change: write a tuple of"),
        (Point, "is the class Point, not a value of it: write Point\\(...\\)"),
        (bytearray(b"a"), "holds a bytearray, which cannot be hashed"),
    ],
)
def test_what_a_field_cannot_hold(held, message):
    with pytest.raises(TypeError, match=message):
        Point(held)


def test_a_value_cannot_be_changed():
    with pytest.raises(AttributeError, match=r"Point.x cannot be set.*dataclasses.replace\(value, x=...\)"):
        Point(1).x = 2
    with pytest.raises(AttributeError, match="cannot be set"):
        del Point(1).x
    assert dataclasses.replace(Point(1), y=3) == Point(1, 3)


def test_printing_is_the_code_that_builds_it():
    for value in (Point(1), Point((1, "a"), y=None), Point(Point(2.5), y=True), Empty(), Point(()), Point((1,))):
        assert eval(repr(value)) == value
    assert repr(Point(1)) == "Point(1)"
    assert repr(Point(1, 2)) == "Point(1, y=2)"
    assert repr(Point(jax.nn.relu, y=functools.partial(jax.nn.gelu, approximate=True))) == (
        "Point(jax.nn.relu, y=partial(jax.nn.gelu, approximate=True))"
    )
    long = Point(tuple(Point("a" * 30) for _ in range(4)), y="b" * 60)
    assert "\n    y=" in repr(long)
    assert eval(repr(long)) == long


@pytest.mark.parametrize(
    "function", [double, jax.nn.relu, jax.nn.silu, jnp.tanh, jax.checkpoint_policies.dots_saveable]
)
def test_values_that_hold_functions_pickle(function):
    value = Point((function, functools.partial(function, 1)), y=function)
    assert pickle.loads(pickle.dumps(value)) == value


def test_a_local_function_cannot_be_pickled_and_the_error_says_what_to_do():
    with pytest.raises(
        pickle.PicklingError, match="lambda, local to a function.*Define it with def at the top of a module"
    ):
        pickle.dumps(Point(lambda x: x))
    local = Point(lambda x: x)
    assert copy.deepcopy(local) is local
    assert copy.copy(local) is local


def test_no_cached_hash_travels_in_a_pickle():
    value = Point("a")
    hash(value)
    assert b"_hash" not in pickle.dumps(value)
    assert "_hash" not in pickle.loads(pickle.dumps(value)).__dict__


def test_a_value_is_static_in_jax():
    assert jax.tree.leaves(Point(1)) == []

    @jax.jit
    def f(point, x):
        return x * point.x

    assert f(Point(2), 3) == 6


def test_validation_finds_normalised_fields():
    class Checked(Value):
        sizes: tuple

        def __post_init__(self):
            assert isinstance(self.sizes, tuple)

    assert Checked([1, 2]).sizes == (1, 2)


def test_where_a_value_was_built_is_known_and_no_part_of_it():
    a, b = Point(1), Empty()
    assert created_at(a).startswith("tests") or created_at(a).startswith("test_values.py")
    assert created_at(b).split(":")[-1] == created_at(a).split(":")[-1]
    assert created_at(pickle.loads(pickle.dumps(a))) == ""


def test_a_value_of_a_notebook_is_told_by_its_cell():
    space = {"Point": Point}
    exec(compile("\n\npoint = Point(1)", "/tmp/ipykernel_123/456789.py", "exec"), space)
    assert created_at(space["point"]) == "<notebook cell>:3"
    exec(compile("point = Point(1)", "<stdin>", "exec"), space)
    assert created_at(space["point"]) == "<stdin>:1"


def test_what_peers_do_wrong_with_equality():
    # Two models that compare equal have equal parameter trees, and an initialiser made twice does not break equality.
    a = fn.Sequential(fn.Dense(4, kernel_init=fn.initializers.Normal(0.1)), fn.Dense(4))
    b = fn.Sequential(fn.Dense(4, kernel_init=fn.initializers.Normal(0.1)), fn.Dense(4))
    shared = fn.Dense(4)
    assert a == b
    assert fn.Sequential(shared, shared) == fn.Sequential(fn.Dense(4), fn.Dense(4))
    x = jnp.ones((1, 3))
    assert fn.Sequential(shared, shared).plan(x).params == fn.Sequential(fn.Dense(4), fn.Dense(4)).plan(x).params


class Spot(Value):
    x: float
    y: float = 0.0
    tags: tuple = dataclasses.field(default_factory=tuple, kw_only=True)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Spot(), "Spot takes x, y, tags, got no x"),
        (lambda: Spot(1.0, 2.0, ()), "of these 2 by position, got 3: give the others by name"),
        (lambda: Spot(1.0, x=2.0), "got x twice, by position and by name"),
        (lambda: Spot(1.0, tag=()), r"Spot has no field 'tag' \(did you mean 'tags'\?\); it has x, y, tags"),
        (lambda: fn.Flatten(3), "Flatten takes nothing, of these 0 by position, got 1"),
    ],
)
def test_a_constructor_says_what_it_takes(build, text):
    with pytest.raises(TypeError, match=text):
        build()


def test_a_constructor_has_the_signature_of_its_fields():
    parameters = inspect.signature(Spot).parameters
    assert list(parameters) == ["x", "y", "tags"]
    assert parameters["y"].default == 0.0
    assert parameters["tags"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(inspect.signature(fn.Sequential).parameters) == ["children", "layers"]
    assert dataclasses.replace(Spot(1.0), y=2.0) == Spot(1.0, 2.0)

    class Named(fn.Sequential):
        label: str = "net"

        def forward(self, m, x):
            return super().forward(m, x)

    assert Named(layers=[fn.Dense(2)], label="other").label == "other"
