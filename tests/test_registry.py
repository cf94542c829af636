import enum
import functools
import inspect
import os
import pathlib
import subprocess
import sys
import textwrap
import typing

import jax
import jax.numpy as jnp
import pytest

import funcnets as fn
from funcnets import registry
from funcnets.values import Value, public_functions

PATHS = {**os.environ, "PYTHONPATH": str(pathlib.Path(fn.__file__).parents[1])}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """A registry of the test's own."""
    monkeypatch.setattr(registry, "_registered", {})
    return registry._registered


class Block(fn.Composite):
    inner: fn.Layer = fn.Dense(3)

    def forward(self, m, x):
        return m.inner(x)


class Mode(enum.Enum):
    FAST = 1


class Spot(typing.NamedTuple):
    x: int


def double(x):
    return 2 * x


@fn.compose(inner=fn.Dense(3))
def composed(m, x):
    return m.inner(x)


def test_register_takes_classes_functions_and_composites_and_gives_them_back():
    for held in (Block, Mode, Spot, double, composed):
        assert fn.files.register(held) is held
    assert fn.files.register(name="lab/double")(double) is double
    assert fn.files.register(double, name="lab/second") is double
    known = registry.known()
    assert known["test_registry/Block"] is Block
    assert known["test_registry/composed"] is composed.function
    assert known["test_registry/double"] is known["lab/double"] is known["lab/second"] is double


def test_a_composite_with_other_parts_goes_by_its_forward(registered):
    fn.files.register(composed)
    fn.files.register(fn.compose(inner=fn.Dense(4))(composed))  # the same forward, so the same name
    assert registered == {"test_registry/composed": composed.function}


def test_the_first_name_is_written_and_all_are_read():
    fn.files.register(double, name="lab/new")
    fn.files.register(double, name="lab/old")
    config = fn.files.to_config(fn.Sequential(double))
    assert config["net"]["layers"] == [{"function": "lab/new"}]
    config["net"]["layers"] = [{"function": "lab/old"}]
    assert fn.files.from_config(config) == fn.Sequential(double)


def definition(text):
    space = {"__name__": "notebook", "fn": fn}
    exec(text, space)
    return space["thing"]


@pytest.mark.parametrize(
    "text",
    ["class thing(fn.Layer):\n  size: int = 1", "def thing(x): return x", "@fn.compose()\ndef thing(m, x): return x"],
)
def test_what_is_defined_again_takes_the_place_of_the_former(text):
    former, later = definition(text), definition(text)
    for each in (former, former, later):
        fn.files.register(each)
    net, again = (fn.Sequential(each() if isinstance(each, type) else each) for each in (former, later))
    assert fn.files.from_config(fn.files.to_config(again)) == again
    with pytest.raises(
        TypeError, match=r"thing \(in notebook\) is not the one that is registered, which was defined lat"
    ):
        fn.files.to_config(net)


def test_a_name_that_stands_for_something_else_is_refused():
    fn.files.register(double, name="lab/thing")
    with pytest.raises(
        ValueError, match=r"the name 'lab/thing' stands for <function double.*register <class .*Block'> by"
    ):
        fn.files.register(Block, name="lab/thing")

    def local(scale):
        return fn.files.register(lambda x: x * scale, name="lab/local")

    local(1)
    with pytest.raises(ValueError, match="'lab/local' stands for"):  # two closures are two functions
        local(2)


@pytest.mark.parametrize("name", ["double", "/", "lab/", "/double", "jax.nn.relu", "", 3])
def test_a_name_of_ones_own_has_a_slash(name):
    with pytest.raises(ValueError, match='takes a name with a "/", got .* those without are the library\'s'):
        fn.files.register(double, name=name)


@pytest.mark.parametrize("held", [fn.Dense(3), 3, int, "double", [].append, fn.Dense.mro, functools.partial(double, 1)])
def test_what_cannot_be_registered(held):
    with pytest.raises(TypeError, match=r"register takes a class of layers .*; a name goes in as name=\.\.\."):
        fn.files.register(held, name="lab/thing")


def test_what_has_no_name_at_the_top_of_a_module_takes_one():
    class Local(fn.Layer):
        size: int

    for held in (lambda x: x, Local):
        with pytest.raises(
            TypeError, match=r"<locals>.* is a lambda, local to a function, or without a name: define it"
        ):
            fn.files.register(held)
    fn.files.register(Local, name="lab/Local")
    assert fn.files.from_config(fn.files.to_config(Local(3))) == Local(3)
    with pytest.raises(TypeError, match="without a name"):
        fn.files.register(object.__new__(type("Callable", (), {"__call__": double})))


def test_a_script_goes_by_the_name_of_its_file(tmp_path):
    """Also where another module imports it, and its definitions are made a second time."""
    script = tmp_path / "training.py"
    script.write_text(
        textwrap.dedent("""
            import funcnets as fn
            from funcnets import registry

            @fn.files.register
            class Block(fn.Layer):
                size: int

            if __name__ == "__main__":
                assert fn.files.to_config(Block(3))["net"] == {"class": "training/Block", "size": 3}
                import training
                assert registry._registered == {"training/Block": training.Block}
                assert training.Block is not Block
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, env=PATHS)
    assert done.returncode == 0, done.stderr


def test_a_prompt_goes_by_main(monkeypatch, registered):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    double_there = type(double)(double.__code__, {"__name__": "__main__"})
    fn.files.register(double_there)
    assert list(registered) == ["__main__/double"]


# What is known


def library():
    found, todo = set(), [Value]
    while todo:
        todo += [kind for kind in todo.pop().__subclasses__() if kind not in found and not found.add(kind)]
    return {kind for kind in found if kind.__module__.startswith("funcnets.") and not kind.__name__.startswith("_")}


def test_the_public_names_are_known_as_they_are_written():
    known = registry.known()
    for face, prefix in ((fn, ""), (fn.initializers, "initializers.")):
        for name, held in vars(face).items():
            is_value = isinstance(held, type) and issubclass(held, Value) and not name.startswith("_")
            if is_value and (face is fn or held.__module__ == face.__name__):
                assert known[prefix + name] is held, name
    assert known["rotary"] is fn.rotary
    assert known["initializers.XavierNormal"] is fn.initializers.GlorotNormal


def test_each_class_and_function_of_the_library_has_a_name_of_its_own():
    known = registry.known()
    assert not {kind for kind in library() if known.get(kind.__name__) is not kind} - {
        kind for kind in library() if known.get(f"initializers.{kind.__name__}") is kind
    }
    assert not [name for name in known if "/" in name]
    functions = {
        held
        for name, module in sys.modules.items()
        if name.startswith("funcnets.layers.")
        for held in vars(module).values()
        if inspect.isfunction(held) and held.__module__ == name and not held.__name__.startswith("_")
    }
    assert fn.rotary in functions
    assert not [held for held in functions if known[held.__name__] is not held]


def test_the_functions_of_jax_are_known_under_all_their_names():
    known = registry.known()
    assert known["jax.nn.relu"] is jax.nn.relu
    assert known["jax.numpy.tanh"] is jnp.tanh
    assert known["jax.random.normal"] is jax.random.normal
    assert known["jax.nn.initializers.zeros"] is jax.nn.initializers.zeros
    assert known["jax.checkpoint_policies.dots_saveable"] is jax.checkpoint_policies.dots_saveable
    assert {held for place, held in public_functions().items() if place[1] not in registry._APART} <= {
        held for held in known.values() if not inspect.isclass(held)
    }


def test_functions_of_jax_that_touch_files_or_settings_are_not_known():
    known = registry.known()
    words = ("load", "save", "file", "print", "open", "callback", "debug", "infeed", "outfeed", "export")
    touching = {name for name in known if name.startswith("jax.") and any(word in name for word in words)}
    # Policies tell what is kept for a backward pass, and the other reads a setting.
    assert {name for name in touching if ".checkpoint_policies." not in name} == {"jax.numpy.get_printoptions"}
    for name in registry._APART:
        assert hasattr(jnp, name), f"jax.numpy has no {name} any more"
