"""The table of a net: its rows against the arrays that init draws, and the forms that it is shown in."""

import dataclasses
import html.parser
import re
import time

import catalogue
import jax
import jax.numpy as jnp
import models
import pytest

import funcnets as fn
from funcnets.inspect.flops import net_flops
from funcnets.inspect.tables import in_units

X = jnp.ones((4, 3))
KEY = jax.random.key(0)
NETS = {f"{i} {row.name}": (row.layer, row.sample) for i, row in enumerate(catalogue.ROWS)}
NETS |= {model.__name__: model() for model in models.ALL}


def by_path(table):
    return {row.path: row for row in table.rows}


def size(tree):
    leaves = jax.tree.leaves(tree)
    return sum(leaf.size for leaf in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def composed(forward, **parts):
    return fn.compose(**parts)(forward)


class Page(html.parser.HTMLParser):
    """The cells of a table, row by row; raises for tags that do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.rows, self.paddings = [], set(), [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.paddings += [value.removeprefix("padding-left:") for name, value in attrs if name == "style"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


# What it counts


@pytest.mark.parametrize("name", NETS)
def test_a_table_of_every_layer_and_model_has_the_sizes_of_its_arrays(name):
    net, sample = NETS[name]
    table = fn.summary(net, *sample)
    total = table.totals
    assert (total.parameters, total.bytes) == size(jax.eval_shape(net.init, KEY, *sample))
    assert (total.state, total.state_bytes) == size(jax.eval_shape(lambda: net.init_state(*sample)))
    assert (total.flops, total.gradient_flops) == net_flops(net, sample, {})
    assert total.frozen == size(fn.params.split(net.plan(*sample).params, fn.params.frozen(net))[0])[0]
    hidden = {"carry"} if isinstance(net, fn.Streaming) else set()  # a wrapper's own means
    assert {row.path for row in table.rows} | {""} == {call.path for call in net.plan(*sample).calls} - hidden | {""}
    children = fn.summary(net, *sample, depth=1).rows
    assert sum(row.parameters for row in children) == total.parameters
    assert sum(row.state for row in children) == total.state
    for width in (20, 60, 80, 120, 200):
        lines = str(dataclasses.replace(table, width=width)).splitlines()
        assert max(map(len, lines)) <= width
    page = Page(table._repr_html_())
    assert all(float(padding.removesuffix("em")) > 0 for padding in page.paddings)
    assert len(page.rows) == len(table.rows) + 2 and len({len(row) for row in page.rows}) == 1


def test_the_rows_of_a_perceptron():
    net, sample = models.mlp()
    first, relu, last = fn.summary(net, *sample).rows
    assert (first.path, first.layer, first.depth, first.marks) == ("dense_0", fn.Dense(256), 1, "")
    assert first.inputs == (jax.ShapeDtypeStruct((2, 20), jnp.float32),)
    assert first.output == jax.ShapeDtypeStruct((2, 256), jnp.float32)
    assert (first.parameters, first.bytes, first.dtypes) == (5376, 21504, ("float32",))
    assert (first.flops, first.gradient_flops) == (20480, 20480)
    assert (relu.parameters, relu.dtypes, relu.flops) == (0, (), 0)
    assert (last.parameters, last.flops, last.gradient_flops) == (2570, 10240, 20480)


def test_a_row_has_what_is_in_it_and_depth_folds():
    net, sample = models.resnet18()
    full, folded = fn.summary(net, *sample), fn.summary(net, *sample, depth=1)
    assert folded.totals == full.totals
    assert [row.path for row in folded.rows] == [row.path for row in full.rows if "/" not in row.path]
    everything = by_path(full)
    for row in folded.rows:
        assert everything[row.path] == row
        leaves = [one for one in full.rows if one.path.startswith(f"{row.path}/") and not one.layer._entries()]
        if leaves:
            for field in ("parameters", "bytes", "flops", "gradient_flops", "state", "state_bytes"):
                assert getattr(row, field) == sum(getattr(leaf, field) for leaf in leaves)
    assert max(row.depth for row in fn.summary(net, *sample, depth=2).rows) == 2


def test_the_products_of_a_composite_are_in_its_row_alone():
    net, sample = models.fixed_hidden_mlp()
    table = fn.summary(net, *sample)
    assert table.totals.flops - sum(row.flops for row in table.rows) == 2 * 2 * 20 * 20


def test_dtypes_and_bytes_are_those_that_are_stored():
    net = fn.Sequential(fn.Cast(fn.Dense(4), "float32", param_dtype="bfloat16"), fn.Dense(2))
    total = fn.summary(net, X).totals
    assert (total.dtypes, total.bytes) == (("bfloat16", "float32"), 2 * 16 + 4 * 10)


def test_a_model_of_seven_billion_parameters_takes_no_memory_and_little_time():
    block = fn.TransformerBlock(fn.Attention(32, causal=True))
    net = fn.Sequential(fn.Embedding(32000, 4096), *[block] * 32, fn.LayerNorm(), fn.Dense(32000))
    started = time.monotonic()
    total = fn.summary(net, jax.ShapeDtypeStruct((1, 2048), jnp.int32)).totals
    assert time.monotonic() - started < 30  # a few seconds on a machine of one's own
    assert 6.6e9 < total.parameters < 6.8e9
    attention = 32 * 4 * 2048**2 * 4096
    matrices = total.parameters - 32000 * 4096
    assert total.flops == pytest.approx(2 * 2048 * matrices + attention, rel=0.001)


# What it says of ties, copies and calls


def test_ties_count_where_they_are_first_met_and_are_marked():
    named = fn.Sequential(("embed", fn.Embedding(7, 3)), jnp.tanh, ("embed", fn.Unembed()))
    first, _, last = fn.summary(named, jnp.zeros((2, 4), jnp.int32)).rows
    assert (first.parameters, first.tied, last.parameters, last.tied) == (21, False, 0, True)
    assert last.marks == " (tied)"

    given, sample = models.gpt()
    rows = by_path(fn.summary(given, *sample))
    assert (rows["embed"].parameters, rows["unembed"].parameters, rows["unembed"].tied) == (800, 0, True)

    across = fn.tie(fn.Sequential(fn.Dense(3), fn.Dense(3)), "dense_1/kernel", to="dense_0/kernel")
    rows = by_path(fn.summary(across, X))
    assert (rows["dense_0"].parameters, rows["dense_0"].tied) == (12, False)
    assert (rows["dense_1"].parameters, rows["dense_1"].tied) == (3, True)

    siamese = fn.Each(("net", fn.Sequential(fn.Dense(3), jnp.tanh)), ("net", fn.Sequential(fn.Dense(3), jnp.tanh)))
    rows = fn.summary(siamese, X, X).rows
    assert [(row.path, row.parameters, row.tied) for row in rows] == [
        ("net", 12, False), ("net/dense_0", 12, False), ("net/tanh_0", 0, False),
        ("net", 0, True), ("net/dense_0", 0, True), ("net/tanh_0", 0, False),
    ]  # fmt: skip


def test_many_calls_of_one_layer_take_two_rows():
    net = composed(lambda m, x: m.f(m.d(m.d(m.f(m.d(m.d(x)))))), d=fn.Sequential(fn.Dense(3)), f=jnp.tanh)
    rows = [(row.path, row.calls, row.tied, row.flops) for row in fn.summary(net, X).rows]
    once = 2 * 4 * 3 * 3
    assert rows == [
        ("d", 1, False, once), ("d/dense_0", 1, False, once), ("d", 3, True, 3 * once),
        ("d/dense_0", 3, True, 3 * once), ("f", 2, False, 0),
    ]  # fmt: skip
    assert fn.summary(net, X).rows[2].marks == " (tied, 3 calls)"


def test_copies_are_one_row_that_counts_all():
    net = fn.Sequential(fn.Repeat(fn.Sequential(fn.Dense(3), fn.Repeat(fn.BatchNorm(), 2)), 5))
    outer, dense, norm = fn.summary(net, X).rows
    assert (outer.copies, dense.copies, norm.copies) == (5, 5, 10)
    assert (dense.parameters, norm.parameters, norm.state) == (5 * 12, 10 * 6, 10 * 6)
    assert (outer.code, outer.marks) == ("Repeat(Sequential)", " ×5")
    assert (norm.code, norm.marks) == ("Repeat(BatchNorm())", " ×10")
    shared = fn.summary(fn.Sequential(fn.Repeat(fn.Dense(3), 5, shared=True)), X).rows[0]
    assert (shared.parameters, shared.copies, shared.flops) == (12, 5, 5 * 72)


def test_what_is_frozen_is_counted_and_marked():
    encoder = fn.Freeze(fn.Sequential(fn.Dense(4), fn.Repeat(fn.Dense(4), 3)))
    net = fn.Sequential(("encoder", encoder), fn.Freeze(fn.Dense(2), but="bias"), ("head", fn.Dense(2)))
    table = fn.summary(net, X, width=100)
    rows = {row.path: (row.frozen, row.parameters, "frozen" in row.marks) for row in table.rows}
    assert rows == {
        "encoder": (16 + 60, 76, True), "encoder/dense_0": (16, 16, True), "encoder/dense_1": (60, 60, True),
        "dense_0": (8, 10, False), "head": (0, 6, False),
    }  # fmt: skip
    assert by_path(table)["encoder/dense_1"].marks == " ×3 (frozen)"
    assert table.totals.frozen == 84
    assert str(table).splitlines()[-2] == "84 of 92 parameters are frozen"
    assert "<p>84 of 92 parameters are frozen</p>" in table._repr_html_()
    Page(table._repr_html_())
    assert "frozen" not in str(fn.summary(fn.Dense(3), X))
    assert str(fn.summary(fn.Freeze(fn.Dense(3)), X, width=200)).splitlines()[-1] == "12 of 12 parameters are frozen"


def test_of_an_adapted_net_all_but_the_adapters_is_frozen():
    net, sample = models.gpt()
    adapted, params = fn.rewrite.lora(net, {"**/kernel": 2}, net.init(KEY, *sample), KEY, *sample)
    total = fn.summary(adapted, *sample).totals
    is_frozen = fn.params.frozen(adapted)
    assert total.frozen == sum(array.size for path, array in fn.params.paths(params) if is_frozen(path))
    assert 0 < total.frozen < total.parameters
    assert total.gradient_flops > 0


def test_layers_of_training_alone_are_marked_and_without_flops():
    def forward(m, x):
        return m.head(m.trunk(x) + (m.noise(x) if m.train else 0))

    net = composed(
        forward, trunk=fn.Dense(3), noise=fn.Residual(fn.Sequential(fn.Dense(3), fn.Dropout(0.5))), head=fn.Dense(2)
    )
    table = fn.summary(net, X)
    rows = by_path(table)
    assert [row.path for row in table.rows if row.train_only] == ["noise", "noise/dense_0", "noise/dropout_0"]
    noise = rows["noise"]
    assert (noise.code, noise.marks) == ("Residual(Sequential)", " (training only)")
    assert (noise.parameters, noise.depth, noise.flops, noise.gradient_flops) == (12, 1, None, None)
    assert rows["noise/dense_0"].depth == 2
    assert table.totals.parameters == size(net.init(KEY, X))[0]
    assert " –" in str(table)


def test_a_branch_that_does_not_count_has_no_flops():
    net = composed(lambda m, x: jax.lax.cond(x.sum() > 0, m.small, m.large, x), small=fn.Dense(3), large=fn.Maxout(3))
    rows = by_path(fn.summary(net, X))
    assert (rows["small"].flops, rows["small"].parameters) == (None, 12)
    assert rows["large"].flops == fn.summary(net, X).totals.flops > 0


def test_layers_in_transformations_have_rows():
    net = composed(
        lambda m, x: jax.grad(lambda x: jax.vmap(m.a)(jax.checkpoint(m.b)(x)).sum())(x), a=fn.Dense(1), b=fn.Dense(5)
    )
    rows = by_path(fn.summary(net, X))
    assert {path: row.parameters for path, row in rows.items()} == {"a": 6, "b": 20}
    assert rows["a"].inputs[0].shape == (5,)  # as vmap shows it


def test_names_are_code_without_children():
    def code(layer):
        return fn.summary(fn.Sequential(layer), jnp.ones((2, 4, 4))).rows[0].code

    assert code(fn.Attention(2, causal=True)) == "Attention(2, causal=True)"
    assert code(fn.Remat(fn.Residual(fn.Sequential(fn.Dense(4))))) == "Remat(Residual(Sequential))"
    assert code(fn.Freeze(fn.Dense(4), but="bias")) == "Freeze(Dense(4), but=('bias',))"
    assert code(fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm())) == "Parametrized(Dense(3), kernel=WeightNorm())"
    assert code(fn.Repeat(fn.Dense(4), 3, scan=False)) == "Repeat(Dense(4), scan=False)"
    assert code(fn.Parallel(fn.Dense(4), jnp.tanh, merge="sum")) == "Parallel(merge='sum')"
    assert code(composed(lambda m, x: x * m.gain, gain=2.0)) == "function(gain=2.0)"
    tied = fn.tie(fn.Sequential(fn.Dense(4), fn.Dense(4)), "dense_1/kernel", to="dense_0/kernel")
    assert code(tied) == "tie(Sequential, 'dense_1/kernel', to='dense_0/kernel')"


# What it is shown as


def test_text_leaves_out_what_does_not_fit_and_says_so():
    net, sample = models.gpt()
    wide = str(fn.summary(net, *sample, width=200)).splitlines()
    titles = ["path", "layer", "input", "output", "parameters", "dtype", "bytes", "FLOPs", "gradient FLOPs"]
    assert re.split(" {2,}", wide[0]) == titles
    assert wide[-1].split() == [
        "total", "gpt_forward", "int32[2,8]", "float32[2,8,50]", "11,184", "float32", "44.7k", "345k", "690k",
    ]  # fmt: skip
    assert "  attention_norm " in wide[6]
    narrow = str(fn.summary(net, *sample, width=80)).splitlines()
    assert narrow[0].split() == ["path", "layer", "output", "parameters", "FLOPs"]
    assert narrow[-1] == "left out at this width: input, dtype, bytes, gradient FLOPs"
    assert any(line.startswith("blocks ") and "... ×3 " in line for line in narrow)  # what is cut keeps its marks
    assert any("Unembed() (tied)" in line for line in narrow)


def test_text_is_as_wide_as_the_terminal(monkeypatch):
    net, sample = models.gpt()
    for width in (50, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        assert str(fn.summary(net, *sample)) == str(fn.summary(net, *sample, width=width))


def test_columns_of_state_are_there_where_there_is_state():
    assert "state bytes" in str(fn.summary(*(models.resnet18()[0], *models.resnet18()[1]), width=200))
    assert "state" not in str(fn.summary(fn.Dense(3), X, width=200))


def test_html_is_escaped_and_complete_in_itself():
    net, sample = models.fixed_hidden_mlp()
    table = fn.summary(net, *sample)
    page = Page(table._repr_html_())
    assert page.tags == {"div", "style", "table", "thead", "tbody", "tfoot", "tr", "th", "td", "code"}
    assert page.rows[2][:2] == ["fixed", "Constant(<float32[20,20]>)"]
    assert page.rows[3][1] == "Dense(20) (tied)"
    assert page.rows[-1][0] == "total" and 'title="4,800"' in table._repr_html_()
    assert "http" not in table._repr_html_()


def test_a_layer_alone_and_nothing_at_all():
    table = fn.summary(fn.Dense(3), X)
    assert table.rows == (table.totals,) and "(the net)" in str(table)
    assert fn.summary(fn.Sequential(), X).totals.flops == 0
    bare = fn.summary(fn.Param((3, 2), fn.initializers.Zeros()))
    assert (bare.totals.parameters, bare.totals.inputs) == (6, ())
    assert fn.summary(fn.Dense(3), jnp.ones((0, 4))).totals.flops == 0


def test_a_summary_is_a_value_and_prints_where_it_is_evaluated():
    net, sample = models.mlp()
    assert fn.summary(net, *sample) == fn.summary(net, *sample)
    assert repr(fn.summary(net, *sample)) == str(fn.summary(net, *sample))


def test_inputs_by_name_and_inputs_that_are_no_arrays():
    @fn.compose(dense=fn.Dense(3))
    def deep(m, x, *, times):
        for _ in range(times):
            x = m.dense(x)
        return x

    table = fn.summary(deep, X, times=3)
    assert [row.calls for row in table.rows] == [1, 2]
    assert table.totals.inputs[1:] == (3,)


@pytest.mark.parametrize("wrong", [{"depth": 0}, {"depth": True}, {"depth": 1.0}, {"width": 19}, {"width": "wide"}])
def test_depth_and_width_are_whole_numbers(wrong):
    ((name, held),) = wrong.items()
    least = {"depth": 1, "width": 20}[name]
    with pytest.raises(
        ValueError, match=f"summary takes {name} as None or a whole number, at least {least}, got {held!r}"
    ):
        fn.summary(fn.Dense(3), X, **wrong)


def test_something_else_than_a_net_is_refused():
    for wrong in ("net", jnp.tanh, fn.Dense(3).init):
        with pytest.raises(TypeError, match="summary takes the net first, .*, got .* a function becomes one"):
            fn.summary(wrong, X)


def test_long_marks_and_short_lines_go_together():
    net = composed(lambda m, x: m.d(m.d(m.d(x))), d=fn.Repeat(fn.Dense(3, use_bias=False), 1000))
    table = fn.summary(fn.Sequential(net), X)
    assert table.rows[-1].marks == " ×1000 (tied, 2 calls)"
    for width in range(20, 120):
        assert max(map(len, str(dataclasses.replace(table, width=width)).splitlines())) <= width


def test_the_mode_is_no_input():
    with pytest.raises(TypeError, match="not train"):
        fn.summary(fn.Dense(3), X, train=True)


def test_numbers_have_three_digits():
    numbers = [0, 999, 1000, 1234, 12_345, 999_499, 999_500, 29_300_000_000_000, 10**24, None]
    assert [in_units(n) for n in numbers] == [
        "0", "999", "1.00k", "1.23k", "12.3k", "999k", "1.00M", "29.3T", "1.00Y", "–",
    ]  # fmt: skip
