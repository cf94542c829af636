"""Pictures: what is in them, as data, and that they are drawn as they ought to be."""

import itertools
import xml.etree.ElementTree as ElementTree

import catalogue
import jax
import jax.numpy as jnp
import models
import numpy as np
import pytest
from catalogue import floats

import funcnets as fn
from funcnets.inspect.flow import traced
from funcnets.inspect.picture import labels
from funcnets.inspect.picture.graph_building import graph_of
from funcnets.inspect.picture.layout import lay_out

X = floats(2, 3)


def labels_of(drawing):
    return [node.label for node in drawing.nodes]


def edges_of(drawing):
    """The data edges, by the labels of their ends."""
    label = {node.number: node.label for node in drawing.nodes}
    return [(label[e.source], label[e.target]) for e in drawing.edges if e.tied is None]


def ties_of(drawing):
    name = {node.number: node.path for node in drawing.nodes}
    return [(name[e.source], name[e.target], e.tied) for e in drawing.edges if e.tied is not None]


def node_of(drawing, label):
    (node,) = [node for node in drawing.nodes if node.label == label]
    return node


# What is in a picture


def test_a_row_is_a_column():
    drawing = fn.draw(fn.Sequential(fn.Dense(256), jax.nn.relu, fn.Dense(10)), X)
    assert labels_of(drawing) == ["x", "Dense(256)", "relu", "Dense(10)", "output"]
    assert edges_of(drawing) == list(itertools.pairwise(labels_of(drawing)))
    assert [edge.leaving for edge in drawing.edges] == [("2×3",), ("2×256",), ("2×256",), ("2×10",)]
    assert [node.family for node in drawing.nodes][1:4] == ["linear", "activation", "linear"]


def test_a_residual_is_an_edge_past_its_body_into_a_sum():
    drawing = fn.draw(fn.Sequential(fn.Dense(3), fn.Residual(fn.Sequential(fn.LayerNorm(), fn.Dense(3)))), X)
    sums = node_of(drawing, "+").number
    into = [edge.source for edge in drawing.edges if edge.target == sums]
    assert [drawing.nodes[i].path for i in into] == ["dense_0", "sequential_0/dense_0"]
    assert drawing.nodes[into[0]].frame is None
    assert node_of(drawing, "Sequential").kind == "frame"


def test_what_the_code_of_a_composite_does():
    @fn.compose(a=fn.Dense(4), b=fn.Dense(4), c=fn.Dense(8))
    def net(m, x):
        a, b = m.a(x), m.b(x)
        y = m.c(jnp.concatenate([a * b, (a - b) / 2], -1))
        _ = jnp.tanh(y)  # not used
        return jax.nn.softmax(y @ y.T + 1), jnp.maximum(a, b) + a + b

    drawing = fn.draw(net, X)
    inside = [node.label for node in drawing.nodes if node.kind in ("operation", "function")]
    assert sorted(inside) == sorted(["×", "−", "concat", "softmax", "max", "+"])
    (into,) = [node.number for node in drawing.nodes if node.label == "+"]
    assert sum(edge.target == into for edge in drawing.edges) == 3  # a + b + c is one node
    assert labels_of(drawing)[-2:] == ["output 1", "output 2"]


@pytest.mark.parametrize(
    "function, name",
    [
        (jax.nn.relu, "relu"),
        (jax.nn.gelu, "gelu"),
        (lambda x: jax.nn.gelu(x, approximate=False), "gelu"),
        (jax.nn.silu, "silu"),
        (jax.nn.sigmoid, "sigmoid"),
        (jnp.tanh, "tanh"),
        (jax.nn.softmax, "softmax"),
        (lambda x: x.mean(0), "mean"),
        (lambda x: x.sum(), "sum"),
        (lambda x: 2 * x.T, None),
    ],
)
def test_functions_in_the_code_of_a_composite(function, name):
    @fn.compose(first=fn.Dense(3))
    def net(m, x):
        return function(m.first(x))

    drawing = fn.draw(net, X)
    assert labels_of(drawing) == ["x", "Dense(3)", *([name] if name else []), "output"]


def test_a_shape_changed_on_the_way_is_told_at_both_ends():
    @fn.compose(first=fn.Dense(4), second=fn.Dense(2))
    def net(m, x):
        return m.second(m.first(x).reshape(4, 2))

    edge = fn.draw(net, X).edges[1]
    assert (edge.leaving, edge.arriving) == (("2×4",), ("4×2",))


def test_a_loop_of_ones_own_and_constants():
    net, sample = models.fixed_hidden_mlp()
    drawing = fn.draw(net, *sample)
    assert labels_of(drawing) == [
        "x", "Dense(20)", "Constant", "matmul", "relu", "Dense(20)", "while", "sum", "output",
    ]  # fmt: skip
    assert node_of(drawing, "Constant").name == "fixed"
    assert ("Constant", "matmul") in edges_of(drawing)
    assert ties_of(drawing) == [("linear", "linear", "linear")]
    assert drawing.edges[-2].leaving == ("scalar",)


def test_layers_in_raw_loops_and_branches():
    @fn.compose(step=fn.Dense(3), other=fn.Dense(3), last=fn.Dense(3))
    def net(m, x):
        x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(m.step(x)), None), x, length=4)
        x = jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: m.other(x), x)
        return jax.lax.cond(x.sum() > 0, lambda x: m.last(x), lambda x: x, x)

    drawing = fn.draw(net, X)
    frames = {node.label: node for node in drawing.nodes if node.kind == "frame"}
    assert frames["scan"].badge == "× 4"
    paths = {node.path: node for node in drawing.nodes if node.path}
    assert paths["step"].frame == frames["scan"].number
    assert paths["other"].frame == frames["while"].number
    assert ("Dense(3)", "cond") in edges_of(drawing)


# Copies, ties, marks


def test_repeat_is_a_frame_with_its_number():
    block = fn.Residual(fn.Sequential(fn.LayerNorm(), fn.Dense(3)))
    drawing = fn.draw(fn.Sequential(("trunk", fn.Repeat(block, 12)), fn.Dense(1)), X)
    frame = next(node for node in drawing.nodes if node.name == "trunk")
    assert (frame.kind, frame.badge) == ("frame", "× 12")
    assert node_of(drawing, "+").frame == frame.number
    alone = fn.draw(fn.Repeat(fn.Dense(3), 5, shared=True), X)
    assert [node.badge for node in alone.nodes] == ["", "× 5 shared", ""]


def test_blocks_alike_in_a_row_are_one_frame():
    net = fn.Sequential(*(fn.Sequential(fn.Dense(3), fn.LayerNorm()) for _ in range(3)), fn.Dense(3))
    drawing = fn.draw(net, X)
    assert [(node.label, node.badge) for node in drawing.nodes if node.kind == "frame"] == [("Sequential", "× 3")]
    assert edges_of(drawing)[-2:] == [("LayerNorm", "Dense(3)"), ("Dense(3)", "output")]
    assert [node.badge for node in fn.draw(net, X, depth=1).nodes][1] == "× 3"


def test_tied_blocks_in_a_row_are_not_merged_but_tied():
    body = fn.Sequential(fn.Dense(3), fn.LayerNorm())
    drawing = fn.draw(fn.Sequential(("body", body), ("body", body)), X)
    assert ties_of(drawing) == [("body", "body", "body/dense_0")]
    assert [node.badge for node in drawing.nodes if node.kind == "frame"] == ["", ""]


def test_ties_by_name_by_hand_and_by_tie():
    ids = catalogue.ids(2, 4)
    by_name = fn.Sequential(("embed", fn.Embedding(7, 3)), jnp.tanh, ("embed", fn.Unembed()))
    assert ties_of(fn.draw(by_name, ids)) == [("embed", "embed", "embed")]
    net, sample = models.gpt()
    assert ties_of(fn.draw(net, *sample)) == [("embed", "unembed", "embed")]
    tied = fn.tie(catalogue.mlp, "out/kernel", to="hidden/kernel", via=jnp.transpose)
    assert ties_of(fn.draw(tied, X)) == [("hidden", "out", "hidden")]
    assert "tied: hidden" in fn.draw(tied, X).svg


def test_loops_over_time_and_ensembles():
    net, sample = models.lstm()
    badges = {node.badge for node in fn.draw(net, *sample).nodes if node.label == "LSTMCell(8)"}
    assert badges == {"over time × 7"}
    both = fn.draw(fn.Bidirectional(fn.GRUCell(4)), floats(2, 5, 3), depth=1)
    assert [node.badge for node in both.nodes if node.label == "GRUCell(4)"] == [
        "over time × 5",
        "over time × 5, reversed",
    ]
    assert ("GRUCell(4)", "concat") in edges_of(both)
    ensemble = fn.draw(fn.Ensemble(fn.Dense(1), 5), X)
    assert node_of(ensemble, "Dense(1)").badge == "5 side by side"


def test_a_scan_in_chunks_shows_its_cell_once():
    drawing = fn.draw(fn.Scan(catalogue.cell, remat=2), floats(2, 3), floats(2, 5, 3))
    assert sum(node.path == "inner" for node in drawing.nodes) == 1


def test_wrappers_are_marks():
    net = fn.Sequential(fn.Freeze(fn.Dense(3)), fn.Cast(fn.Remat(fn.Dense(3)), "bfloat16", output="float32"))
    drawing = fn.draw(net, X)
    assert [node.tags for node in drawing.nodes] == [(), ("frozen",), ("bfloat16", "remat"), ()]
    assert drawing.edges[1].arriving == ("2×3 bfloat16",)
    partly = fn.draw(fn.Freeze(fn.Dense(3), but="bias"), X).nodes[1]
    assert partly.tags == ("frozen but bias",)
    assert fn.draw(fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm()), X).nodes[1].tags == ("WeightNorm",)


def test_u_net_has_an_edge_past_each_level():
    net, sample = models.unet()
    drawing = fn.draw(net, *sample, depth=1)
    paths = {node.number: node.path for node in drawing.nodes}
    skips = [(paths[edge.source], edge.leaving) for edge in drawing.edges if paths[edge.source].startswith("down")]
    assert [path for path, _ in skips].count("down_1") == [path for path, _ in skips].count("down_2") == 2
    joins = [node.number for node in drawing.nodes if node.label == "concat"]
    into = [[paths[e.source] for e in drawing.edges if e.target == join] for join in joins]
    assert into == [["up_2", "down_2"], ["up_1", "down_1"]]


def test_inputs_and_outputs_have_their_names():
    @fn.compose(a=fn.Dense(3), b=fn.Dense(3))
    def net(m, batch, bias, *, zeta, mask):
        return {"y": m.a(batch["x"]) + bias, "losses": (m.b(zeta).sum(), mask.sum())}

    sample = {"x": X, "unused": X[0]}, floats(2, 3)
    drawing = fn.draw(net, *sample, zeta=floats(1, 3), mask=np.ones(2, bool))
    assert [node.label for node in drawing.nodes if node.kind == "input"] == [
        "batch/unused", "batch/x", "bias", "mask", "zeta",
    ]  # fmt: skip
    assert [node.label for node in drawing.nodes if node.kind == "output"] == ["losses/0", "losses/1", "y"]
    assert ("zeta", "Dense(3)") in edges_of(drawing)
    assert ("batch/x", "Dense(3)") in edges_of(drawing)


def test_several_inputs_without_names():
    drawing = fn.draw(fn.Each(fn.Dense(2), jnp.tanh), X, X)
    assert labels_of(drawing) == ["input 1", "input 2", "Dense(2)", "tanh", "output 1", "output 2"]


# Depth


def test_depth_folds_what_is_below():
    net = fn.Sequential(
        ("a", fn.Sequential(fn.Dense(3), ("b", fn.Sequential(fn.Dense(2), fn.LayerNorm())))), fn.Dense(1)
    )
    assert [len(fn.draw(net, X, depth=d).nodes) for d in range(4)] == [3, 4, 6, 8]
    assert fn.draw(net, X).depth == 3
    folded = fn.draw(net, X, depth=1).nodes[1]
    assert (folded.label, folded.name, folded.family) == ("Dense → Sequential", "a", "linear")


def test_the_automatic_depth_keeps_a_picture_readable():
    def size(drawing):
        return sum(node.kind not in ("frame", "function") for node in drawing.nodes), drawing_height(drawing)

    for model, depth in ((models.resnet18, 3), (models.unet, 1), (models.gpt, 2)):
        net, sample = model()
        drawing = fn.draw(net, *sample)
        deeper = fn.draw(net, *sample, depth=depth + 1)
        assert drawing.depth == depth
        assert size(drawing)[0] <= 40 and size(drawing)[1] <= 1400
        assert size(deeper)[0] > 40 or size(deeper)[1] > 1400
    net, sample = models.resnet18()
    assert labels_of(fn.draw(net, *sample)).count("+") == 7  # 8 blocks, of which the first two are one frame × 2


def drawing_height(drawing):
    return float(ElementTree.fromstring(drawing.svg).get("height"))


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"draw takes the net first, draw\(net, x\), got"):
        fn.draw({"kernel": X}, X)
    for depth in (-1, 1.0, True, "all"):
        with pytest.raises(ValueError, match="draw takes depth as a whole number"):
            fn.draw(fn.Dense(3), X, depth=depth)
    with pytest.raises(ValueError, match=r"ends in \.svg, got 'net.png'"):
        fn.draw(fn.Dense(3), X).save("net.png")


# The picture itself


def test_a_tall_picture_stands_in_columns():
    net, sample = models.resnet18()
    layout = lay_out(graph_of(traced(net, sample, {}), 3))
    assert layout.width > layout.height
    assert sum(wire.square for wire in layout.wires) == 3
    column = lay_out(graph_of(traced(models.unet()[0], models.unet()[1], {}), 2))  # skips leave no place to cut
    assert column.width < column.height
    assert not any(wire.square for wire in column.wires)


def test_a_path_that_many_share_has_one_lane():
    net = fn.Sequential(("a", fn.Dense(3)), fn.Dense(3), ("a", fn.Dense(3)), ("a", fn.Dense(3)))
    drawing = fn.draw(net, X)
    assert ties_of(drawing) == [("a", "a", "a")] * 2
    assert drawing.svg.count("tied: a<") == 1


def test_long_names_are_cut():
    text = fn.draw(fn.Sequential(("a" * 40, fn.Dense(3))), X).svg
    assert "a" * 27 + "…" in text
    assert "a" * 28 not in text


def test_ties_in_one_row_are_joined_directly():
    encoder = fn.Sequential(fn.Dense(3), fn.LayerNorm())
    net = fn.Each(*[("encoder", encoder)] * 3)
    layout = lay_out(graph_of(traced(net, (X, X, X), {}), 2))
    ties = [wire.points for wire in layout.wires if wire.tie]
    assert len(ties) == 2
    assert all(a[1] == b[1] and a[0] < b[0] for a, b in ties)


def check_picture(flow, depth):
    """No two texts overlap, and all is in the picture."""
    layout = lay_out(graph_of(flow, depth))
    bounds = [(text, text.bounds) for text in layout.texts]
    for (one, a), (two, b) in itertools.combinations(bounds, 2):
        apart = a.x + a.width <= b.x + 0.5 or b.x + b.width <= a.x + 0.5
        apart = apart or a.y + a.height <= b.y + 1 or b.y + b.height <= a.y + 1
        assert apart, (one, two)
    boxes = list(layout.places.values())
    for box in (*boxes, *(b for _, b in bounds)):
        assert box.x >= 0 and box.y >= 0
        assert box.x + box.width <= layout.width and box.y + box.height <= layout.height
    for wire in layout.wires:
        assert all(0 <= x <= layout.width and 0 <= y <= layout.height for x, y in wire.points)


@pytest.mark.parametrize("row", catalogue.ROWS, ids=lambda row: row.name)
def test_every_layer_draws(row):
    drawing = fn.draw(row.layer, *row.sample)
    ElementTree.fromstring(drawing.svg)
    assert {node.kind for node in drawing.nodes} >= {"input", "output"}
    check_picture(traced(row.layer, row.sample, {}), drawing.depth)


@pytest.mark.parametrize("model", models.ALL, ids=lambda model: model.__name__)
def test_models_draw_at_every_depth(model):
    net, sample = model()
    flow = traced(net, sample, {})
    for depth in range(5):
        check_picture(flow, depth)


def two_ways(m, x):
    a = m.a(x)
    return m.b(a), a, (m.b(x) * 2).sum()


def branching(depth):
    """Branches in branches, whose parts have several outputs, loops, ties and long names."""
    inner = branching(depth - 1) if depth else fn.Dense(3)
    parts = fn.compose(a=fn.Sequential(inner, fn.LayerNorm()), b=fn.Freeze(fn.Dense(3)))(two_ways)
    wide = fn.compose(split=parts, a_rather_long_name_for_a_layer=fn.Repeat(fn.Residual(inner), 12))(gathered)
    return fn.Parallel(wide, fn.Repeat(jnp.tanh, 3), fn.Residual(fn.Dense(3)), merge="sum")


def gathered(m, x):
    first, second, third = m.split(x)
    return m.a_rather_long_name_for_a_layer(first + second) * third


def residual_of_many(m, x, *others):
    return sum((m.layer(other) for other in others), x)


ODD = [
    (fn.compose(a=fn.Dense(3), b=fn.Dense(3))(two_ways), (X,)),
    (fn.compose(inner=branching(1))(lambda m, x: m.inner(x)), (X,)),
    (fn.compose(layer=branching(0))(residual_of_many), [X] * 6),
    (fn.Sequential(fn.Repeat(jnp.tanh, 3), fn.Repeat(fn.Dense(3), 0)), (X,)),
    (fn.Param((3,), fn.initializers.Ones()), ()),
    (fn.Sequential(), (X,)),
    (fn.Dense(2), (np.ones((0, 3), np.float32),)),
]


@pytest.mark.parametrize("which", range(len(ODD)))
def test_odd_nets_draw(which):
    net, sample = ODD[which]
    flow = traced(net, sample, {})
    for depth in range(6):
        check_picture(flow, depth)


def test_boxes_do_not_overlap():
    for net, sample in [*(model() for model in models.ALL), *ODD]:
        drawing = fn.draw(net, *sample)
        places = lay_out(graph_of(traced(net, sample, {}), drawing.depth)).places
        inner = [places[node.number] for node in drawing.nodes if node.kind != "frame"]
        for a, b in itertools.combinations(inner, 2):
            apart = a.x + a.width <= b.x or b.x + b.width <= a.x
            assert apart or a.y + a.height <= b.y + 1e-6 or b.y + b.height <= a.y + 1e-6
        for node in drawing.nodes:
            if node.frame is not None:
                a, b = places[node.number], places[node.frame]
                assert b.x <= a.x and a.x + a.width <= b.x + b.width
                assert b.y <= a.y and a.y + a.height <= b.y + b.height


def test_a_drawing_shows_itself_and_goes_to_a_file(tmp_path):
    net = fn.Sequential(fn.Dense(3), jnp.tanh)
    drawing = fn.draw(net, X)
    assert drawing._repr_svg_() == drawing.svg
    drawing.save(tmp_path / "net.svg")
    assert (tmp_path / "net.svg").read_text(encoding="utf-8") == drawing.svg
    assert repr(drawing) == "<drawing of Sequential: 4 nodes, 3 edges, depth 1>"


def test_the_same_net_gives_the_same_picture_and_ids_are_its_own():
    one, same, other = (fn.draw(fn.Dense(n), X).svg for n in (3, 3, 4))
    assert one == same

    def ids(svg):
        return {element.get("id") for element in ElementTree.fromstring(svg).iter()} - {None}

    assert ids(one) and not ids(one) & ids(other)


def test_text_is_escaped():
    def forward(m, x):
        return m.a(x)

    forward.__name__ = "<&>"
    net = fn.Sequential(("a<b&c", fn.Dense(3)), fn.compose(a=fn.Dense(2), b=fn.Dense(2))(forward))
    texts = [element.text for element in ElementTree.fromstring(fn.draw(net, X, depth=1).svg).iter()]
    assert "a<b&c" in texts
    assert "<&>" in texts


def test_shapes_are_written_short():
    assert labels.shape(jax.ShapeDtypeStruct((32, 256), jnp.float32)) == "32×256"
    assert labels.shape(jax.ShapeDtypeStruct((), jnp.bfloat16)) == "scalar bfloat16"
    assert labels.shape(jax.eval_shape(lambda: jax.random.key(0))) == "scalar key<fry>"
