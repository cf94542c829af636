"""How nets are shown: code that builds them, cut down to an outline where it is long; and in treescope."""

import ast
import pathlib
import subprocess
import sys

import catalogue
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.printing import MOST, WIDTH, call_code, elided
from funcnets.values import Value, code

MODULES = {"jax": jax, "np": np, "catalogue": catalogue}
SPACE = {**vars(fn.initializers), **vars(fn.rewrite), **vars(catalogue), **vars(fn), **MODULES}


def block(width):
    return fn.Residual(fn.Sequential(fn.LayerNorm(), fn.Dense(width), jax.nn.gelu, fn.Dense(20), fn.Dropout(0.1)))


def deep(blocks, layers):
    """A net of blocks of their own names, in which no two layers are equal."""
    return fn.Sequential(
        *((f"block {i}", fn.Sequential(*(fn.Dense(100 * i + j + 1) for j in range(layers)))) for i in range(blocks))
    )


def test_what_repeats_is_written_once_and_is_code_for_all_of_it():
    mlp = fn.Sequential(*[fn.Dense(64), jax.nn.relu] * 25, fn.Dense(10))
    assert repr(mlp) == "Sequential(*[Dense(64), jax.nn.relu] * 25, Dense(10))"
    equal = fn.Sequential(*[fn.Dense(64)] * 50)
    assert repr(equal) == "Sequential(*[Dense(64)] * 50)"
    nets = [
        mlp,
        equal,
        fn.Sequential(fn.Embedding(1000, 64), *[block(64)] * 200, ("head", fn.Dense(10))),
        fn.Sequential(*[fn.Dense(300, use_bias=False), *[jax.nn.relu, fn.Dense(301)] * 3] * 4),  # runs in runs
        fn.Sequential(*[fn.Dense(300, use_bias=False)] * 2, *[fn.Dense(301, use_bias=False)] * 2, *[block(3)] * 3),
        fn.Parallel(*[block(64)] * 4, merge="sum"),
        fn.Sequential(*[("tied", fn.Dense(20, kernel_init=fn.initializers.Normal(0.5)))] * 4),
    ]
    for net in nets:
        assert eval(repr(net), SPACE) == net
        assert len(repr(net).splitlines()) < 20
        assert max(map(len, repr(net).splitlines())) <= WIDTH
    assert "*[Residual(" in repr(nets[2])
    assert "] * 200," in repr(nets[2])


def test_what_fits_on_a_line_is_written_out():
    assert repr(fn.Sequential(*[fn.Dense(8)] * 4)) == "Sequential(Dense(8), Dense(8), Dense(8), Dense(8))"
    assert call_code("f", ["a" * 60, "b" * 60, "b" * 60]).count("\n") == 4  # two are no run


class Held(Value):
    what: tuple


@pytest.mark.parametrize(
    "what",
    [
        (1,) * 60,
        (Held(("a" * 30,)), Held(("b" * 30,)), Held(("c" * 40,))),
        ("name", (Held(("a" * 30,)),) * 9),
        ((("a" * 100,),),),
        (),
    ],
)
def test_tuples_break_over_lines_and_are_code(what):
    held = Held(what)
    assert eval(repr(held)) == held
    assert max(map(len, repr(held).splitlines())) <= WIDTH + 30


@pytest.mark.parametrize(
    ("blocks", "layers"), [(3, 18), (12, 8), (20, 1), (30, 8), (200, 3), (1, 200), (61, 0), (2, 100)]
)
def test_long_nets_show_an_outline_that_counts_what_is_left_out(blocks, layers):
    net = deep(blocks, layers)
    shown, whole = repr(net), code(net)
    assert eval(whole, SPACE) == net
    lines = shown.splitlines()
    assert len(lines) <= MOST + 1
    if len(whole.splitlines()) <= MOST:
        assert shown == whole
        return
    assert lines[-1].startswith(f"# {len(whole.splitlines())} lines in all: fn.files.to_config(net) has them")
    counts = [int(line.split("# ")[1].split()[0]) for line in lines[:-1] if "# " in line]
    closed = sum("..." in line and line.strip()[0] != "." for line in lines)  # two lines with their bracket in one
    assert sum(counts) + 2 * closed + sum("..." not in line for line in lines[:-1]) == len(whole.splitlines())
    assert len(lines) > 5 or blocks < 3
    ast.parse(shown)
    with pytest.raises(TypeError, match="Ellipsis|ellipsis"):  # an outline is not pasted for the net
        eval(shown, SPACE)


def test_a_long_flat_net_shows_its_ends():
    lines = repr(fn.Sequential(*(fn.Dense(i + 1) for i in range(200)))).splitlines()
    assert lines[1] == "    Dense(1),"
    assert lines[-3] == "    Dense(200),"
    assert "    ...,  # 144 lines" in lines


def test_errors_speak_of_long_nets_on_one_line():
    net = deep(50, 5)
    with pytest.raises(KeyError) as error:
        net["nothing"]
    assert "lines" not in str(error.value)
    assert "Sequential(('block 0', Sequential(Dense(1), Dense(2)," in str(error.value)


def test_a_text_of_sixty_lines_is_whole():
    text = "\n".join(["f("] + [f"    {i}," for i in range(MOST - 2)] + [")"])
    assert elided(text, "x") == text
    assert elided(text.replace("f(", "f(\n    -1,"), "see x").splitlines()[-1] == f"# {MOST + 1} lines in all: see x"


def test_a_class_that_prints_itself_is_heard():
    class Named(fn.Layer):
        def forward(self, p, x):
            return x

        def __repr__(self):
            return "mine"

    assert repr(fn.Sequential(Named(), fn.Dense(2))) == "Sequential(mine, Dense(2))"


def test_a_class_that_prints_itself_on_many_lines_is_shown():
    class Poem(fn.Layer):
        number: int

        def forward(self, p, x):
            return x

        def __repr__(self):
            return f"Poem {self.number}:\n\n    a line\n"

    lines = repr(fn.Sequential(*(Poem(i) for i in range(100)))).splitlines()
    assert len(lines) < MOST + 5
    assert "Poem 0:" in lines[1]


# In treescope


def unspaced(text):
    return "".join(text.split()).replace(",)", ")")


def test_in_treescope_a_net_is_its_code():
    treescope = pytest.importorskip("treescope")
    for row in catalogue.ROWS:
        text = treescope.render_to_text(row.layer)
        if "catalogue." not in text:  # a composite goes by its name in its module, and unfolds to its code
            assert unspaced(text) == unspaced(code(row.layer)), row.name
        if row.name not in ("Param", "Constant", "pair"):
            assert eval(text, SPACE) == row.layer
            assert eval(treescope.render_to_text(row.layer, roundtrip_mode=True), SPACE) == row.layer
        html = treescope.render_to_html(row.layer, compressed=False)
        assert code(row.layer).split("(")[0] in html, row.name


def test_treescope_says_how_a_layer_is_reached():
    treescope = pytest.importorskip("treescope")
    blocks = (fn.Dense(2), ("named", fn.Dense(3)))

    class Net(fn.Composite):
        blocks: tuple
        head: fn.Layer

        def forward(self, m, x):
            return m.head(x)

    net = fn.Sequential(("first", fn.Dense(200)), Net(blocks, head=fn.Residual(fn.Dense(30))))
    found = []

    def note(node, path, render):
        found.append((path, node))
        return node.__treescope_repr__(path, lambda child, path: note(child, path, render))

    note(net, "net", None)
    assert unspaced(treescope.render_to_text(net)) == unspaced(repr(net))
    assert [path for path, _ in found] == [
        "net",
        "net[0]",
        "net[1]",
        "net[1].blocks[0]",
        "net[1].blocks[1][1]",
        "net[1].head",
        "net[1].head.body",
    ]
    assert all(eval(path, {"net": net}) == node for path, node in found if path)


def test_treescope_unfolds_what_repeats_and_prints_what_runs():
    treescope = pytest.importorskip("treescope")
    assert eval(treescope.render_to_text(Held(tuple(range(60))))) == Held(tuple(range(60)))
    long = fn.Sequential(*[block(4)] * 50)
    assert treescope.render_to_text(long).count("Residual(") == 50
    net, x = fn.Sequential(fn.Dense(3)), jnp.ones((2, 5))
    params = net.init(jax.random.key(0), x)
    assert "Dense(3)" in treescope.render_to_text(net.bind(params))
    assert "Dense(3)" in treescope.render_to_text(net.plan(x))
    assert "Dense(3)" in treescope.render_to_text(fn.summary(net, x))
    text = treescope.render_to_text({"net": net, "params": params})
    assert "Sequential(Dense(3))" in text
    assert "kernel" in text


def test_importing_funcnets_does_not_import_treescope():
    program = "import sys, funcnets; repr(funcnets.Dense(2)); assert 'treescope' not in sys.modules"
    here = pathlib.Path(fn.__file__).parent.parent
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=here)
