"""The rules of the house, held by tests: which way imports run, what is public, how it is documented."""

import ast
import inspect
import pathlib
import pydoc
import re
import subprocess
import sys
import textwrap

import catalogue
import pytest

import funcnets as fn
from funcnets.later import ROOMS, VIEWS

PACKAGE = pathlib.Path(fn.__file__).parent

# From the ground up: a room imports only from rooms named before it.
FLOORS = [
    "printing", "notices", "values", "shapes", "rules", "random", "initializers", "record", "scope", "probe",
    "signatures", "bound", "plan", "layer", "leaves", "compose", "places",
    "combinators", "masks", "gated", "scan", "wrappers", "params", "loops", "layers",
    "parametrization", "parametrizations", "rewrite", "inspect", "generate",
    "registry", "rows", "files", "checkpoint", "train", "later",
]  # fmt: skip


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def room(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(path, *, also_types=False):
    tree = ast.parse(path.read_text())
    skipped = set()
    if not also_types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_run_upwards_only():
    for path in sources():
        here = room(path)
        if here == "__init__":
            continue
        for name in imports(path):
            if name == "funcnets" or name.startswith("funcnets."):
                there = name.split(".")[1]
                assert there in FLOORS, f"{path.name} imports {name}"
                assert FLOORS.index(there) <= FLOORS.index(here), f"{path.name} imports {name}, which is above it"


def test_every_room_is_on_the_list():
    assert {room(path) for path in sources()} - {"__init__"} <= set(FLOORS)


def test_only_public_jax():
    for path in sources():
        for name in imports(path, also_types=True):
            assert not name.startswith(("jax._src", "jax.core", "jax.interpreters")), f"{path.name} imports {name}"
        assert "jax.core." not in path.read_text()
        assert "jax._src" not in path.read_text()


def test_no_room_for_odds_and_ends():
    assert not {path.stem for path in sources()} & {"utils", "util", "common", "misc", "helpers"}


def public():
    held = {name: getattr(fn, name) for name in dir(fn) if not name.startswith("_")}
    return {name: one for name, one in held.items() if not inspect.ismodule(one)}


def test_every_public_layer_is_in_the_catalogue():
    rows = {row.name for row in catalogue.ROWS}
    base = {"Layer", "Composite", "Wrapper", "Parametrization"}
    layers = {name for name, held in public().items() if isinstance(held, type) and issubclass(held, fn.Layer)} - base
    layers = {name for name in layers if not issubclass(vars(fn)[name], fn.Parametrization)}  # in Parametrized's rows
    assert layers <= rows, layers - rows


@pytest.mark.parametrize("name", sorted(public()))
def test_every_public_name_is_documented(name):
    held = public()[name]
    doc = inspect.getdoc(held) or ""
    assert len(doc) > 40, name
    if isinstance(held, type) and fn.Layer in held.__mro__[1:]:
        assert inspect.getdoc(held) != inspect.getdoc(held.__mro__[1]), f"{name} has only its base's docstring"


def test_the_face_is_a_table_of_contents():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    later = [node for node in tree.body if isinstance(node, ast.If)]
    for node in tree.body[1:]:
        assert isinstance(node, ast.ImportFrom | ast.FunctionDef | ast.If), ast.unparse(node)
    assert all(isinstance(node, ast.ImportFrom) for part in later for node in part.body)
    assert {alias.name for part in later for node in part.body for alias in node.names} == {*ROOMS, *VIEWS}


def test_what_comes_later_comes_when_it_is_asked_for():
    run("""
        import sys
        import funcnets as fn

        later = ("funcnets.inspect", "funcnets.params", "funcnets.rewrite", "funcnets.train", "jax.extend")
        assert not [name for name in sys.modules if name.startswith(later)]
        assert {"summary", "inspect", "rewrite", "files", "Dense"} <= set(dir(fn))
        assert fn.summary is fn.inspect.summary
        assert "summary" in vars(fn)
        from funcnets import files, rewrite
        assert callable(files.to_config) and callable(rewrite.migrate)
        import funcnets.inspect
    """)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Linear", "funcnets has no 'Linear': here it is fn.Dense"),
        ("ReLU", "here it is the function itself, jax.nn.relu"),
        ("Sequentiel", "did you mean 'Sequential'?"),
        ("summery", "did you mean 'summary'?"),
    ],
)
def test_a_name_of_another_library_is_answered(name, says):
    with pytest.raises(AttributeError, match=re.escape(says)):
        getattr(fn, name)


def run(program):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_starts_no_backend_and_loads_neither_optax_nor_orbax():
    run("""
        import sys, jax
        import funcnets

        heavy = ("optax", "orbax", "orbax.checkpoint", "chex", "tqdm", "matplotlib", "tensorboardX")
        loaded = [name for name in heavy if name in sys.modules]
        assert not loaded, loaded
        import funcnets.train
        loaded = [name for name in heavy if name in sys.modules]
        assert not loaded, loaded
        jax.config.update("jax_num_cpu_devices", 3)  # raises once a backend is running
        assert jax.device_count() == 3
    """)


@pytest.mark.parametrize("name", sorted(public()))
def test_help_shows_every_public_name(name):
    held = public()[name]
    text = pydoc.plain(pydoc.render_doc(held))
    assert (inspect.getdoc(held) or "").splitlines()[0][:40] in text


@pytest.mark.parametrize("room", ["files", "inspect", "params", "rewrite", "train"])
def test_help_of_a_room_lists_what_is_in_it(room):
    module = getattr(fn, room)
    names = set(module.__all__)
    if hasattr(module, "__path__"):  # a package, which imports nothing but what it has
        assert names == {name for name, held in vars(module).items() if name[0] != "_" and not inspect.ismodule(held)}
    text = pydoc.plain(pydoc.render_doc(module))
    assert all(re.search(rf"\b{name}\b", text, re.MULTILINE) for name in names), text
