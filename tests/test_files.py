"""Nets as data: what is written is read as an equal net; what cannot be is refused by name and place."""

import dataclasses
import difflib
import enum
import functools
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import typing

import catalogue
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import funcnets as fn
from funcnets import registry
from funcnets.values import Value, comparable

to_config, from_config = fn.files.to_config, fn.files.from_config


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """A registry of the test's own."""
    monkeypatch.setattr(registry, "_registered", {})


def through_text(net):
    return from_config(json.loads(json.dumps(to_config(net), indent=2, allow_nan=False)))


def config(net):
    return {"format": 1, "net": net}


class Holder(fn.Layer):
    held: object = None
    other: object = 1


class Spot(typing.NamedTuple):
    x: object
    y: object = 2


@dataclasses.dataclass(frozen=True)
class Record:
    x: object
    twice: object = dataclasses.field(default=0, init=False)


class Mode(enum.IntEnum):
    FAST = 1
    SLOW = 2


def double(x):
    return 2 * x


def register_all():
    for held in (Holder, Spot, Record, Mode, double):
        fn.files.register(held)


# What comes back is equal


OF_ITS_OWN = (
    catalogue.mlp, catalogue.cell, catalogue.weighted, catalogue.mixed, catalogue.quantised, catalogue.scale_init,
    catalogue.scale_apply,
)  # fmt: skip


@pytest.mark.parametrize("row", catalogue.ROWS, ids=lambda row: row.name)
def test_every_row_of_the_catalogue_comes_back(row):
    needs_registering = "catalogue." in str(sorted(functions_of(row.layer)))
    if needs_registering:
        with pytest.raises(
            TypeError, match=r"net.*: the function \w+ \(in catalogue\) is not registered: define it with def"
        ):
            to_config(row.layer)
    for held in OF_ITS_OWN:
        fn.files.register(held)
    again = through_text(row.layer)
    assert again == row.layer
    assert hash(again) == hash(row.layer)
    assert repr(again) == repr(row.layer)
    assert from_config(to_config(row.layer)) == row.layer
    assert not [name for name in names_in(to_config(row.layer)) if name.startswith("_") or "._" in name]


def functions_of(held):
    """The functions in a value, as module.name."""
    if isinstance(held, Value):
        return set().union(*(functions_of(getattr(held, field.name)) for field in dataclasses.fields(held)))
    if isinstance(held, tuple):
        return set().union(*map(functions_of, held))
    return {f"{held.__module__}.{held.__qualname__}"} if callable(held) and hasattr(held, "__qualname__") else set()


def names_in(node):
    if isinstance(node, dict):
        for key, inner in node.items():
            yield from [inner] if key in ("class", "function") and isinstance(inner, str) else names_in(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from names_in(inner)


def test_every_initialiser_comes_back():
    made = {
        "Constant": [fn.initializers.Constant(2), fn.initializers.Constant(2.0), fn.initializers.Constant(1 - 2j)],
        "UniformRange": [fn.initializers.UniformRange(-1.0, 1.0)],
        "TorchBias": [fn.initializers.TorchBias(3)],
        "VarianceScaling": [fn.initializers.VarianceScaling(2.0, "fan_avg", "uniform", in_axis=(0, 1), batch_axis=2)],
    }
    for name, kind in vars(fn.initializers).items():
        if isinstance(kind, type) and issubclass(kind, fn.initializers.Initializer) and not name.startswith("_"):
            for initializer in made.get(name) or [kind()]:
                net = fn.Dense(3, kernel_init=initializer)
                assert through_text(net) == net
                if name != "Initializer":
                    assert to_config(net)["net"]["kernel_init"]["class"] == f"initializers.{kind.__name__}"


@pytest.mark.parametrize(
    ("held", "written"),
    [
        (None, None),
        (True, True),
        (2, 2),
        (2.0, 2.0),
        (-0.0, -0.0),
        (10**30, 10**30),
        (float("nan"), {"float": "nan"}),
        (-float("inf"), {"float": "-inf"}),
        (complex(1, float("inf")), {"complex": [1.0, {"float": "inf"}]}),
        ("jax.nn.relu", "jax.nn.relu"),
        (jax.nn.relu, {"function": "jax.nn.relu"}),
        (fn.rotary, {"function": "rotary"}),
        (double, {"function": "test_files/double"}),
        (jax.random.normal, {"function": "jax.random.normal"}),
        (jax.nn.initializers.ones, {"function": "jax.nn.initializers.ones"}),
        ((), []),
        ((1, ("a", (2.0,))), [1, ["a", [2.0]]]),
        (frozenset({2, 1}), {"set": [1, 2]}),
        (frozenset({"b", (1, "a")}), {"set": ["b", [1, "a"]]}),
        (np.dtype("float32"), {"dtype": "float32"}),
        (jnp.dtype("bfloat16"), {"dtype": "bfloat16"}),
        (np.dtype(">f4"), {"dtype": ">f4"}),
        (Mode.SLOW, {"enum": "test_files/Mode", "member": "SLOW"}),
        (Spot(1), {"class": "test_files/Spot", "x": 1, "y": 2}),
        (Record((1,)), {"class": "test_files/Record", "x": [1]}),
        (
            functools.partial(jax.nn.gelu, approximate=False),
            {"partial": {"function": "jax.nn.gelu"}, "args": [], "keywords": {"approximate": False}},
        ),
        (
            functools.partial(functools.partial(double, 1), k=double),
            {
                "partial": {"function": "test_files/double"},
                "args": [1],
                "keywords": {"k": {"function": "test_files/double"}},
            },
        ),
    ],
    ids=str,
)
def test_the_form_of_what_a_field_holds(held, written):
    register_all()
    form = to_config(Holder(held))["net"]["held"]
    assert (form, type(form)) == (written, type(written))
    assert json.dumps(form) == json.dumps(written)  # -0.0 too
    assert through_text(Holder(held)) == Holder(held)
    assert type(through_text(Holder(held)).held) is type(held)


@pytest.mark.parametrize(
    ("array", "written"),
    [
        (np.float32([[1, 2]]), {"array": [[1.0, 2.0]], "dtype": "float32"}),
        (np.float32(0.1), {"array": 0.10000000149011612, "dtype": "float32"}),
        (np.array([2**63, 1], "uint64"), {"array": [2**63, 1], "dtype": "uint64"}),
        (np.int8([-128]), {"array": [-128], "dtype": "int8"}),
        (np.array([True, False]), {"array": [True, False], "dtype": "bool"}),
        (jnp.array([1.5, -0.0], "bfloat16"), {"array": [1.5, -0.0], "dtype": "bfloat16"}),
        (np.array([1, -8], "int4"), {"array": [1, -8], "dtype": "int4"}),
        (np.array([1.5], jnp.float8_e4m3fn), {"array": [1.5], "dtype": "float8_e4m3fn"}),
        (np.float32([np.nan]), {"base64": "AADAfw==", "dtype": "float32", "shape": [1]}),
        (np.complex64(1j), {"base64": "AAAAAAAAgD8=", "dtype": "complex64", "shape": []}),
        (np.zeros((0, 3), "int32"), {"base64": "", "dtype": "int32", "shape": [0, 3]}),
        (np.array([1.0], ">f4"), {"array": [1.0], "dtype": ">f4"}),
        (np.arange(65, dtype="uint8").reshape(5, 13), None),
    ],
    ids=str,
)
def test_a_constant_comes_back_to_the_byte(array, written):
    net = fn.Constant(array)
    form = to_config(net)["net"]["value"]
    assert written is None or json.dumps(form) == json.dumps(written)
    again = through_text(net)
    assert again == net
    assert again.value.array.dtype == net.value.array.dtype
    assert again.value.array.tobytes() == net.value.array.tobytes()


def test_payloads_of_nan_stay():
    array = np.frombuffer(b"\x01\x00\xc0\x7f\x02\x00\xc0\xff", np.float32)
    assert through_text(fn.Constant(array)).value.array.tobytes() == array.tobytes()


def test_fields_at_their_defaults_are_written_and_may_lack():
    assert to_config(fn.Dense(8))["net"] == {
        "class": "Dense",
        "features": 8,
        "use_bias": True,
        "kernel_init": {"class": "initializers.LecunNormal", "in_axis": -2, "out_axis": -1, "batch_axis": []},
        "bias_init": {"class": "initializers.Zeros"},
        "axis": -1,
        "rank": None,
    }
    assert from_config(config({"class": "Dense", "features": 8})) == fn.Dense(8)


def test_a_default_that_changes_changes_no_net_of_a_file():
    def version(default):
        class Layer(fn.Layer):
            rate: float = default

        return Layer

    old, new = version(0.1), version(0.2)
    fn.files.register(old, name="lab/Layer")
    written = to_config(old())
    registry._registered.clear()
    fn.files.register(new, name="lab/Layer")
    assert from_config(written) == new(rate=0.1)


def test_composites_with_their_own_constructors():
    class Twice(fn.Composite):
        inner: fn.Layer
        n: int

        def __init__(self, width):
            super().__init__(inner=fn.Dense(width), n=2 * width)

    fn.files.register(Twice, name="lab/Twice")
    assert through_text(Twice(3)) == Twice(3)
    assert through_text(Twice(3)).n == 6
    with pytest.raises(TypeError, match="Twice takes inner, n, got no n"):
        from_config(config({"class": "lab/Twice", "inner": {"class": "Dense", "features": 3}}))


def test_a_constructor_that_changes_its_fields_is_refused():
    class Grows(fn.Layer):
        n: int

        def __post_init__(self):
            object.__setattr__(self, "n", self.n + 1)

    fn.files.register(Grows, name="lab/Grows")
    with pytest.raises(TypeError, match=r"Grows\(2\), made again of its own fields, is another") as caught:
        to_config(fn.Sequential(Grows(1)))
    assert caught.value.__notes__ == ["at net.layers[0]"]


def test_bare_layers_and_nets_of_no_arrays():
    for net in (
        fn.Sequential(),
        fn.Param((3,), jax.nn.initializers.ones, "bfloat16"),
        fn.Identity(),
        fn.Param(0, double),
    ):
        register_all()
        assert through_text(net) == net


def test_a_net_that_comes_back_computes_the_same():
    for held in OF_ITS_OWN:
        fn.files.register(held)
    x = jnp.ones((2, 3))
    net = fn.tie(catalogue.mlp, "out/kernel", to="hidden/kernel", via=jnp.transpose)
    params, again = net.init(jax.random.key(0), x), through_text(net)
    assert again.apply is net.apply
    np.testing.assert_array_equal(again.apply(params, x), net.apply(params, x))
