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
from funcnets.values import Value

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
    catalogue.scale_apply, catalogue.wide_init,
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
)
def test_a_constant_comes_back_to_the_byte(array, written):
    net = fn.Constant(array)
    form = to_config(net)["net"]["value"]
    assert written is None or json.dumps(form) == json.dumps(written)
    again = through_text(net)
    assert again == net
    assert again.value.array.dtype == net.value.array.dtype
    assert again.value.array.tobytes() == net.value.array.tobytes()


@pytest.mark.parametrize(
    ("data", "dtype"), [(b"\x01\x00\xc0\x7f\x02\x00\xc0\xff", np.float32), (b"\x00\x02", np.bool_)]
)
def test_what_numbers_do_not_tell_stays(data, dtype):
    array = np.frombuffer(data, dtype)
    assert through_text(fn.Constant(array)).value.array.tobytes() == data


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


# Lines


def lines(net):
    return json.dumps(to_config(net), indent=2).splitlines()


def changed(old, new):
    return [line for line in difflib.ndiff(lines(old), lines(new)) if line[:2] in ("+ ", "- ")]


def test_a_change_of_the_net_changes_the_lines_of_its_place():
    first, added, last = fn.Dense(8), fn.GroupNorm(2), ("head", fn.Dense(2))
    own = json.dumps({"layer": to_config(added)["net"]}, indent=2).count("\n") - 1
    diff = changed(fn.Sequential(first, last), fn.Sequential(first, added, last))
    assert [line[:2] for line in diff] == ["+ "] * own
    assert changed(fn.Sequential(first, last), fn.Sequential(fn.Dense(9), last)) == [
        '-         "features": 8,',
        '+         "features": 9,',
    ]
    # At the end, JSON puts a comma behind the line before.
    diff = changed(fn.Sequential(first), fn.Sequential(first, added))
    assert [line for line in diff if line[:2] == "- "] == []
    assert len(diff) == own


def test_a_set_is_written_in_one_order():
    register_all()
    one, other = frozenset(map(str, range(50))), frozenset(map(str, reversed(range(50))))
    assert lines(Holder(one)) == lines(Holder(other))


# Random nets


NUMBERS = st.one_of(st.booleans(), st.integers(), st.floats(), st.complex_numbers())
PLAIN = st.one_of(
    st.none(),
    NUMBERS,
    st.text(),
    st.sampled_from(["jax.nn.relu", "class", "function", "Dense", {}.__class__.__name__]),
    st.sampled_from([np.dtype(name) for name in ("float32", "bfloat16", "int8", "bool", ">i2", "complex64", "<U3")]),
    st.sampled_from([jax.nn.relu, jnp.tanh, jax.lax.add, fn.rotary, double, jax.checkpoint_policies.dots_saveable]),
    st.sampled_from(Mode),
)
CONTENTS = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Spot, inner, inner),
        st.builds(Record, inner),
        st.builds(Holder, inner, inner),
        st.builds(
            lambda args, named: functools.partial(double, *args, **named),
            st.lists(inner, max_size=2),
            st.dictionaries(st.text(max_size=3), inner, max_size=2),
        ),
    ),
    max_leaves=8,
)
ARRAYS = st.tuples(
    st.sampled_from(["float32", "bfloat16", "float16", "int8", "uint32", "bool", "complex64", "float8_e5m2", ">f8"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.binary(min_size=512, max_size=512),
)


def array_of(dtype, shape, data):
    dtype = np.dtype(dtype)
    data = bytes(byte % 2 for byte in data) if dtype == np.bool_ else data
    return np.frombuffer(data, dtype, int(np.prod(shape))).reshape(shape)


LEAVES = st.one_of(
    st.builds(fn.Dense, st.integers(1, 9), use_bias=st.booleans()),
    st.builds(fn.Dropout, st.floats(0, 0.9)),
    st.sampled_from([jax.nn.relu, fn.Attention(2, rope=fn.rotary), fn.LSTMCell(3), double, fn.BatchNorm()]),
    st.builds(lambda held: Holder(held), CONTENTS),
    ARRAYS.map(lambda drawn: fn.Constant(array_of(*drawn))),
)


def row_of(inner):
    named = st.tuples(st.sampled_from(["a", "b", "jax"]), inner).map(tuple)
    children = st.lists(st.one_of(inner, named), max_size=4)
    return st.one_of(
        children.map(lambda layers: fn.Sequential(*layers)),
        children.map(lambda layers: fn.Parallel(*layers, merge="sum")),
        children.map(lambda layers: fn.Each(*layers)),
        st.builds(fn.Repeat, inner, st.integers(0, 5), shared=st.booleans()),
        st.builds(fn.Cast, inner, st.sampled_from(["bfloat16", "float32"])),
        st.builds(lambda one, two: fn.compose(hidden=one, out=two, rate=0.5)(catalogue.mlp), inner, inner),
    )


@hypothesis.settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(st.recursive(LEAVES, row_of, max_leaves=10).map(lambda net: fn.Sequential(net)))
def test_random_nets_come_back(net):
    register_all()
    fn.files.register(catalogue.mlp)
    again = through_text(net)
    assert again == net
    assert hash(again) == hash(net)
    assert to_config(again) == to_config(net) or "nan" in str(to_config(net))
    assert from_config(json.loads(json.dumps(to_config(net), sort_keys=True))) == net  # the order of keys says nothing


# A reader of its own


def run(program, given):
    env = {**os.environ, "PYTHONPATH": str(pathlib.Path(fn.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        input=json.dumps(given), capture_output=True, text=True, timeout=120, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_another_process_reads_what_it_has_only_this_package_for():
    configs = []
    for row in catalogue.ROWS:
        if "catalogue." not in str(functions_of(row.layer)):
            configs.append([to_config(row.layer), repr(row.layer)])
    assert len(configs) > 100
    run(
        """
        import json, sys
        import funcnets as fn

        for config, text in json.load(sys.stdin):
            net = fn.files.from_config(config)
            assert repr(net) == text, (repr(net), text)
            assert fn.files.to_config(net) == config
        """,
        configs,
    )


STRANGERS = [
    {"function": "os.system"},
    {"function": "builtins.eval"},
    {"function": "__import__"},
    {"function": "jax.numpy.load"},
    {"function": "jax.numpy.save"},
    {"function": "jax.numpy.set_printoptions"},
    {"function": "jax.pure_callback"},
    {"function": "jax.nn.relu.__globals__"},
    {"function": "jax.nn.relu.__class__"},
    {"function": "funcnets.files.os.system"},
    {"function": "this/poem"},
    {"class": "this.Poem"},
    {"class": "subprocess.Popen", "args": ["true"]},
    {"class": "builtins.type"},
    {"enum": "signal.Signals", "member": "SIGTERM"},
    {"partial": {"function": "os.system"}, "args": ["true"], "keywords": {}},
]


@pytest.mark.parametrize("stranger", STRANGERS, ids=json.dumps)
def test_a_name_outside_the_registry_is_refused(stranger):
    inner = stranger.get("partial", stranger)
    name = next(iter(inner.values()))
    with pytest.raises(
        ValueError,
        match=rf"net.layers\[0\].*: the \w+ '{name}' is not registered.*once the module is imported that gives it to "
        "fn.files.register; a config imports nothing itself",
    ):
        from_config(config({"class": "Sequential", "layers": [stranger]}))


def test_reading_imports_nothing_and_opens_nothing():
    run(
        """
        import json, sys
        import funcnets as fn

        fn.files.from_config(fn.files.to_config(fn.Dense(3)))
        happened, listening = [], True

        def hook(event, args):
            if listening and event.split(".")[0] in ("import", "exec", "compile", "open", "os", "subprocess", "pickle"):
                happened.append((event, args))

        sys.addaudithook(hook)
        for stranger in json.load(sys.stdin):
            try:
                fn.files.from_config({"format": 1, "net": {"class": "Sequential", "layers": [stranger]}})
            except ValueError:
                pass
            else:
                raise AssertionError(stranger)
        listening = False
        assert not happened, happened
        assert "this" not in sys.modules
        """,
        STRANGERS,
    )


# What is refused, and how


def local():
    def inner(x):
        return x

    return inner


class Unregistered(fn.Layer):
    size: int = 1


def act(x):
    return x


class Callable:
    def __call__(self, x):
        return x

    def method(self, x):
        return x


@fn.compose(inner=act)
def composed(m, x):
    return m.inner(x)


NOT_REGISTERED = r"is not registered: define it with {} at module level and fn.files.register it \(a composite above"


@pytest.mark.parametrize(
    ("net", "place", "what", "define"),
    [
        (fn.Sequential(act), "net.layers[0]", r"function act \(in test_files\)", "def"),
        (fn.Sequential(("a", act)), "net.layers[0][1]", r"function act \(in test_files\)", "def"),
        (
            fn.Sequential(lambda x: x),
            "net.layers[0]",
            r"function <lambda> \(in test_files\) is a lambda or local",
            "def",
        ),
        (
            fn.Residual(local()),
            "net.body",
            r"function local.<locals>.inner \(in test_files\) is a lambda or loc",
            "def",
        ),
        (fn.Sequential(Callable().method), "net.layers[0]", r"function Callable.method \(in test_files\)", "def"),
        (
            fn.Sequential(Callable()),
            "net.layers[0]",
            r"function <test_files.Callable object.* \(in test_files\)",
            "def",
        ),
        (fn.Sequential(functools.partial(act, 1)), "net.layers[0].partial", "function act", "def"),
        (fn.Sequential(functools.partial(jnp.where, act)), "net.layers[0].args[0]", "function act", "def"),
        (fn.Sequential(functools.partial(jnp.where, x=act)), "net.layers[0].keywords.x", "function act", "def"),
        (composed, "net.function", r"function composed \(in test_files\)", "def"),
        (
            fn.Sequential(fn.Dense(3), Unregistered()),
            "net.layers[1]",
            r"class Unregistered \(in test_files\)",
            "class",
        ),
        (
            fn.Dense(3, kernel_init=jax.nn.initializers.he_normal()),
            "net.kernel_init",
            "function variance_scaling",
            "def",
        ),
        (fn.Sequential(jnp.load), "net.layers[0]", "function load", "def"),
        (fn.Sequential(np.tanh), "net.layers[0]", "function .*tanh", "def"),
    ],
)
def test_what_has_no_name_is_refused_with_its_place(net, place, what, define):
    with pytest.raises(TypeError, match=f": the {what}.*{NOT_REGISTERED.format(define)}") as caught:
        to_config(net)
    assert str(caught.value).startswith(f"{place}: the ")


@pytest.mark.parametrize(
    ("held", "text"),
    [
        (b"abc", r"net.held\[0\] holds b'abc', of type bytes, which a config has no form for: write it with numbers"),
        (range(3), "range"),
        (int, "holds <class 'int'>, of type type, which a config has no form"),
        (jax.tree_util.Partial(double), "function"),
        (np.dtype([("a", "f4")]), r"net.held\[0\] holds the dtype .*, which has no name of its own"),
        (Mode, "of type EnumType|of type EnumMeta"),
        (functools.partial(Spot), "class .*Spot.*no form for"),
    ],
)
def test_what_has_no_form_is_refused_with_its_place(held, text):
    register_all()
    with pytest.raises(TypeError, match=text):
        to_config(Holder((held,)))


def test_arrays_of_something_else_are_refused():
    with pytest.raises(
        TypeError, match=r"net.layers\[0\].value holds .*: a config takes arrays of numbers or booleans"
    ):
        to_config(fn.Sequential(fn.Constant(np.array(["a"]))))


@pytest.mark.parametrize("net", [jax.nn.relu, fn.Dense, {"kernel": 1}, fn.initializers.Zeros()])
def test_what_is_no_net_is_not_written(net):
    with pytest.raises(TypeError, match=r"to_config takes a net, got .*: make it a layer, fn.Sequential"):
        to_config(net)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (
            '{"format": 1}',
            TypeError,
            r"from_config takes what to_config gives, a dict, got .*: json.loads\(text\) first",
        ),
        ({"net": {}}, ValueError, r'a config is {"format": 1, "net": ...}, got the keys \'net\''),
        ({}, ValueError, "got the keys none"),
        ({"format": 1, "net": {}, "x": 1}, ValueError, "got the keys 'format', 'net', 'x'"),
        (
            {"format": 2, "net": {}},
            ValueError,
            "has format 2, and this funcnets reads format 1: read it with the version",
        ),
        ({"format": "1", "net": {}}, ValueError, "has format '1', and"),
        ({"format": True, "net": {}}, ValueError, "has format True, and"),
        (
            config({"function": "jax.nn.relu"}),
            ValueError,
            'net: a net is a layer, got .*write {"class": "Sequential", "lay',
        ),
        (config(3), ValueError, "net: a net is a layer, got 3"),
        (config({"class": "initializers.Zeros"}), ValueError, r"a net is a layer, got Zeros\(\)"),
    ],
)
def test_what_is_no_config_is_refused(given, error, text):
    with pytest.raises(error, match=text):
        from_config(given)


@pytest.mark.parametrize(
    ("held", "error", "text"),
    [
        ({"class": "Dens"}, ValueError, r"held: the class 'Dens' is not registered \(did you mean 'Dense'\?\)"),
        ({"class": "Spott"}, ValueError, r"\(did you mean 'test_files/Spot'\?\)"),
        ({"class": "lab/Spot"}, ValueError, r"\(did you mean 'test_files/Spot'\?\)"),
        ({"function": "relu"}, ValueError, r"the function 'relu' is not registered \(did you mean 'jax.nn.relu'\?\)"),
        ({"function": "test_files.double"}, ValueError, r"\(did you mean 'test_files/double'\?\)"),
        ({"class": ["Dense"]}, TypeError, r"a class goes by its name, a string, got \['Dense'\]"),
        ({"class": "jax.nn.relu"}, ValueError, 'of kind function, not class: write {"function": "jax.nn.relu"}'),
        ({"function": "Dense"}, ValueError, 'held: \'Dense\' is of kind class, not function: write {"class": "Dense"}'),
        ({"class": "test_files/Mode"}, ValueError, "is of kind enum, not class"),
        (
            {"enum": "test_files/Mode", "member": "QUICK"},
            ValueError,
            "a member of test_files/Mode, 'FAST', 'SLOW', got 'Q",
        ),
        ({"enum": "test_files/Mode", "member": []}, ValueError, "a member of test_files/Mode"),
        ({}, ValueError, "an object has one of the keys 'class', 'function', .*, got none"),
        ({"klass": "Dense"}, ValueError, "got 'klass'"),
        (
            {"function": "jax.nn.relu", "x": 1},
            ValueError,
            "an object with 'function' has the keys 'function', got 'functi",
        ),
        (
            {"partial": {"function": "jax.nn.relu"}},
            ValueError,
            "has the keys 'partial', 'args', 'keywords', got 'partial'",
        ),
        ({"partial": 3, "args": [], "keywords": {}}, ValueError, "held: a config takes a function as partial, got 3"),
        (
            {"partial": {"function": "jax.nn.relu"}, "args": 3, "keywords": {}},
            ValueError,
            "takes a list of args, got 3",
        ),
        (
            {"partial": {"function": "jax.nn.relu"}, "args": [], "keywords": []},
            ValueError,
            "takes keywords by name, got",
        ),
        ({"dtype": "flot32"}, ValueError, "takes a dtype by its name, such as \"float32\", got 'flot32'"),
        ({"dtype": "f4, x("}, ValueError, "takes a dtype by its name"),
        ({"dtype": "f4,f4"}, ValueError, "takes a dtype by its name"),
        ({"dtype": None}, ValueError, "takes a dtype by its name"),
        ({"dtype": ["float32"]}, ValueError, "takes a dtype by its name"),
        ({"float": "1.0"}, ValueError, 'takes as float "nan", "inf" or "-inf", got \'1.0\''),
        ({"float": []}, ValueError, "takes as float"),
        ({"complex": [1, 2]}, ValueError, r"takes two fractions, such as \[1.0, 0.0\], as complex, got \(1, 2\)"),
        ({"complex": 1.0}, ValueError, "takes two fractions"),
        ({"set": 3}, ValueError, "takes a list as set, got 3"),
        (
            {"array": [1, 2.5], "dtype": "int32"},
            ValueError,
            r"takes numbers that an array of int32 holds, got \[1, 2.5\]",
        ),
        ({"array": [300], "dtype": "int8"}, ValueError, "that an array of int8 holds"),
        ({"array": [1], "dtype": "bool"}, ValueError, "that an array of bool holds"),
        ({"array": [True], "dtype": "int8"}, ValueError, "that an array of int8 holds"),
        ({"array": [1e300], "dtype": "float32"}, ValueError, "that an array of float32 holds"),
        ({"array": ["1"], "dtype": "float32"}, ValueError, "that an array of float32 holds"),
        ({"array": {}, "dtype": "float32"}, ValueError, "that an array of float32 holds"),
        ({"array": [[1], 2], "dtype": "float32"}, ValueError, "inhomogeneous"),
        ({"array": [1], "dtype": "object"}, ValueError, "takes an array of numbers or booleans, got"),
        (
            {"base64": "AAAA", "dtype": "float32", "shape": [1]},
            ValueError,
            r"4 bytes in base64 for float32\[1\], got '3 b",
        ),
        ({"base64": "AAAA", "dtype": "object", "shape": [1]}, ValueError, "takes an array of numbers or booleans"),
        ({"base64": "AAA", "dtype": "uint8", "shape": [2]}, ValueError, "padding"),
        (
            {"base64": "", "dtype": "uint8", "shape": [-1]},
            ValueError,
            r"takes a list of whole numbers as shape, got \[-1\]",
        ),
        ({"base64": "", "dtype": "uint8", "shape": [10**30]}, ValueError, "bytes in base64"),
        ({"base64": 3, "dtype": "uint8", "shape": []}, ValueError, "takes a string as base64, got 3"),
        ({1, 2}, TypeError, "a config is of dicts, lists, strings, numbers, booleans and None, got {1, 2}"),
        (np.float32(1), TypeError, "a config is of dicts"),
        (b"", TypeError, "a config is of dicts"),
    ],
)
def test_what_a_field_of_a_config_cannot_be(held, error, text):
    register_all()
    with pytest.raises(error, match=text) as caught:
        from_config(config({"class": "test_files/Holder", "held": held}))
    assert "net.held" in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])


@pytest.mark.parametrize(
    ("layer", "error", "text"),
    [
        ({"class": "Dense"}, TypeError, "Dense takes features, .*, got no features"),
        ({"class": "Dense", "feature": 8}, TypeError, r"Dense has no field 'feature' \(did you mean 'features'\?\)"),
        ({"class": "Dense", "features": -1}, ValueError, "Dense takes features"),
        ({"class": "Dense", "features": 8.0}, ValueError, "Dense takes features"),
        ({"class": "Dense", "features": 8, "kernel_init": "relu"}, TypeError, "takes kernel_init as an initialiser"),
        ({"class": "initializers.Zeros", "value": 3}, TypeError, "Zeros has no field 'value'"),
        (
            {"class": "Sequential", "layers": ["relu"]},
            TypeError,
            "Sequential takes layers, functions, and .*, got 'relu'",
        ),
        ({"class": "Sequential", "layers": 3}, TypeError, "iterable"),
        ({"class": "Sequential", "children": []}, TypeError, "Sequential has no field 'children'"),
        (
            {"class": "Composed", "function": {"function": "jax.nn.relu"}, "parts": [], "x": 1},
            TypeError,
            "no field 'x'",
        ),
        ({"class": "test_files/Spot", "z": 1}, TypeError, "unexpected keyword argument 'z'"),
        ({"class": "test_files/Record"}, TypeError, "missing 1 required positional argument: 'x'"),
    ],
)
def test_a_class_checks_its_fields_and_the_error_tells_the_place(layer, error, text):
    register_all()
    net = {"class": "Sequential", "layers": [{"class": "Identity"}, ["a", {"class": "Residual", "body": layer}]]}
    with pytest.raises(error, match=text) as caught:
        from_config(config(net))
    assert caught.value.__notes__ == ["at net.layers[1][1].body"]
