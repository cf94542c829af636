"""LoRA on trained nets, against LoRA by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnets as fn
from funcnets.rewrite import Adapted, lora, merge_lora

KEY, NEW = jax.random.key(0), jax.random.key(1)


def floats(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


X = floats(2, 4)
TOKENS = jnp.asarray([[1, 5, 2], [0, 3, 6]])
GPT = fn.Sequential(
    ("embed", fn.Embedding(7, 8)),
    fn.Repeat(fn.Remat(fn.TransformerBlock(fn.Attention(2, causal=True))), 2),
    fn.LayerNorm(),
    ("embed", fn.Unembed()),
)


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)


def learned(net, params):
    """The paths of what takes a gradient."""
    frozen = fn.params.frozen(net)
    return [path for path, _ in fn.params.paths(params) if not frozen(path)]


def moved(net, params, seed=3):
    """Parameters as training would leave them: all that learns has other values."""
    frozen, rng = fn.params.frozen(net), np.random.default_rng(seed)

    def move(path, array):
        change = rng.normal(size=array.shape).astype(np.float32)
        return array if frozen("/".join(step.key for step in path)) else array + jnp.asarray(change, array.dtype)

    return jax.tree.map_with_path(move, params)


def test_lora_by_hand():
    net = fn.Sequential(fn.Dense(5), jnp.tanh, ("head", fn.Dense(3)))
    params = net.init(KEY, X)
    adapted, new = lora(net, {"dense_0/kernel": 2, "head/kernel": fn.LoRA(3, alpha=6)}, params, NEW, X)
    assert learned(adapted, new) == [
        f"{name}/kernel/{factor}" for name in ("dense_0", "head") for factor in ("down", "up")
    ]
    new = moved(adapted, new)
    factors = {name: new[name]["kernel"] for name in ("dense_0", "head")}

    def by_hand(factors):
        w = {
            name: params[name]["kernel"] + scale * (factors[name]["down"] @ factors[name]["up"])
            for name, scale in (("dense_0", 1.0), ("head", 2.0))
        }
        y = jnp.tanh(X @ w["dense_0"] + params["dense_0"]["bias"][None])
        return y @ w["head"] + params["head"]["bias"][None]

    np.testing.assert_allclose(adapted.apply(new, X), by_hand(factors), rtol=1e-5, atol=1e-6)
    ours = jax.grad(lambda new: jnp.square(adapted.apply(new, X)).sum())(new)
    theirs = jax.grad(lambda factors: jnp.square(by_hand(factors)).sum())(factors)
    frozen = fn.params.frozen(adapted)
    for path, gradient in fn.params.paths(ours):
        if frozen(path):
            assert not np.any(gradient), path
        else:
            name, _, factor = path.split("/")
            np.testing.assert_allclose(gradient, theirs[name][factor], rtol=1e-4, atol=1e-5, err_msg=path)


def test_the_kernel_of_a_convolution_by_hand():
    net, x = fn.Conv(5, (3, 2)), floats(2, 6, 5, 4)
    params = net.init(KEY, x)
    adapted, new = lora(net, {"kernel": 2}, params, NEW, x)
    new = moved(adapted, new)
    held = new["kernel"]
    assert held["down"].shape == (3, 2, 4, 2)
    kernel = params["kernel"] + jnp.einsum("hwir,ro->hwio", held["down"], held["up"])
    wanted = net.apply({**params, "kernel": kernel}, x)
    np.testing.assert_allclose(adapted.apply(new, x), wanted, rtol=1e-4, atol=1e-5)


def test_on_every_linear_layer_of_a_transformer_trained_and_merged():
    params = GPT.init(KEY, TOKENS)
    adapted, new = lora(GPT, {"**/kernel": 2}, params, NEW, TOKENS)
    paths = learned(adapted, new)
    assert len(paths) == 2 * 6  # query, keys, values, out and the two of the MLP, in both blocks at once
    assert {path.split("/")[-3] for path in paths} >= {"query", "keys", "values", "out"}
    assert all(path.endswith(("/down", "/up")) for path in paths)
    run = jax.jit(adapted.apply)
    same_bits(run(new, TOKENS), jax.jit(GPT.apply)(params, TOKENS))  # it starts out as it was

    frozen = fn.params.frozen(adapted)
    labels = jax.tree.map_with_path(lambda path, _: "off" if frozen("/".join(k.key for k in path)) else "on", new)
    optimizer = optax.multi_transform({"on": optax.adamw(1e-2, weight_decay=0.1), "off": optax.set_to_zero()}, labels)
    opt_state = optimizer.init(new)
    sizes = sum(array.nbytes for path, array in fn.params.paths(new) if not frozen(path))
    assert sum(array.nbytes for array in jax.tree.leaves(opt_state)) == 2 * sizes + 4  # two moments and a count

    @jax.jit
    def step(new, opt_state):
        def loss(new):
            logits = adapted.apply(new, TOKENS)
            return optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS).mean()

        value, gradients = jax.value_and_grad(loss)(new)
        updates, opt_state = optimizer.update(gradients, opt_state, new)
        return optax.apply_updates(new, updates), opt_state, value

    trained, losses = new, []
    for _ in range(5):
        with jax.numpy_dtype_promotion("standard"):
            trained, opt_state, value = step(trained, opt_state)
        losses.append(float(value))
    assert losses[-1] < losses[0]
    after_all = dict(fn.params.paths(trained))
    for path, before in fn.params.paths(new):
        after = after_all[path]
        assert (np.asarray(before).tobytes() == np.asarray(after).tobytes()) == frozen(path), path

    plain, merged = merge_lora(adapted, trained, TOKENS)
    assert plain == GPT
    same_bits(jax.jit(plain.apply)(merged, TOKENS), run(trained, TOKENS))


BLOCK = fn.Residual(fn.Sequential(fn.Dense(4), fn.BatchNorm(), fn.Dropout(0.2)))
NETS = {
    "dense": fn.Dense(3),
    "low rank": fn.Dense(3, rank=2),
    "repeat": fn.Repeat(BLOCK, 3),
    "loop": fn.Repeat(fn.Dense(4), 2, scan=False),
    "shared": fn.Repeat(fn.Residual(fn.Dense(4)), 2, shared=True),
    "ensemble": fn.Ensemble(fn.Sequential(fn.Dense(3), fn.BatchNorm()), 2),
    "around": fn.Remat(fn.Ensemble(fn.Repeat(fn.Remat(fn.Dense(4)), 2), 2)),
    "cast": fn.Cast(fn.Sequential(fn.Dense(3), fn.BatchNorm()), "bfloat16", output="float32"),
    "stored": fn.Cast(fn.Dense(3), "bfloat16", param_dtype="bfloat16"),
    "frozen": fn.Sequential(("encoder", fn.Freeze(fn.Dense(3), but="bias")), ("head", fn.Dense(2))),
    "its own kernel": fn.Sequential(("encoder", fn.Freeze(fn.Dense(3), but="**/kernel")), ("head", fn.Dense(2))),
    "all frozen": fn.Freeze(fn.Freeze(fn.Dense(3))),
    "others": fn.Sequential(fn.Parametrized(fn.Dense(3), bias=fn.Masked(0.5)), fn.Dense(2)),
    "array": fn.Param((4, 3), fn.initializers.Normal(1.0)),
    "pattern": fn.Sequential(("a[0-9]*", fn.Dense(3)), ("a1", fn.Dense(2))),
}


@pytest.mark.parametrize("name", NETS)
def test_anywhere(name):
    net, x = NETS[name], () if name == "array" else (floats(5, 4),)
    patterns = {"**/kernel": 2} if name not in ("array", "low rank") else {"": 2} if name == "array" else {"down": 1}
    params, state = net.init(KEY, *x), net.init_state(*x)
    adapted, new = lora(net, patterns, params, NEW, *x)
    assert learned(adapted, new)
    assert all(path.rsplit("/", 1)[-1] in ("down", "up") for path in learned(adapted, new))
    run = jax.jit(adapted.apply, static_argnames="train")
    plain = jax.jit(net.apply, static_argnames="train")
    modes = {"key": KEY, "train": True}
    same_bits(run(new, *x, state=state, **modes), plain(params, *x, state=state, **modes))
    compiled = jax.jit(lambda params: lora(net, patterns, params, NEW, *x)[1])(params)
    same_bits(compiled, new)

    new = moved(adapted, new)
    gradients = jax.jit(jax.grad(lambda new: jnp.sin(run(new, *x, state=state, **modes)[0]).sum()))(new)
    frozen = fn.params.frozen(adapted)
    some = [path for path, gradient in fn.params.paths(gradients) if np.any(gradient)]
    assert some
    assert not any(map(frozen, some))

    back, merged = merge_lora(adapted, new, *x)
    assert back == net
    assert jax.tree.map(lambda a: (a.shape, a.dtype), merged) == jax.tree.map(lambda a: (a.shape, a.dtype), params)
    ours, theirs = run(new, *x, state=state)[0], plain(merged, *x, state=state)[0]
    if name in ("cast",):
        np.testing.assert_allclose(ours, theirs, rtol=3e-2, atol=3e-2)
    else:
        same_bits(ours, theirs)
    same_bits(jax.jit(lambda new: merge_lora(adapted, new, *x)[1])(new), merged)


def test_each_copy_draws_its_own():
    net = fn.Repeat(fn.Residual(fn.Dense(4)), 3)
    _, new = lora(net, {"**/kernel": 2}, net.init(KEY, X), NEW, X)
    down = new["kernel"]["down"]
    assert len({np.asarray(one).tobytes() for one in down}) == 3
    drawn = fn.parametrize(net, {"**/kernel": fn.LoRA(2)}, X).init(NEW, X)
    same_bits(down, drawn["kernel"]["down"])  # as init draws it


def test_twice_is_both_at_once():
    net = fn.Sequential(fn.Freeze(fn.Dense(4)), fn.Dense(4), ("head", fn.Dense(3)))
    params = net.init(KEY, X)
    once, first = lora(net, {"head/kernel": 1}, params, NEW, X)
    twice, both = lora(once, {"dense_*/kernel": 2}, first, NEW, X)
    whole, at_once = lora(net, {"head/kernel": 1, "dense_*/kernel": 2}, params, NEW, X)
    assert twice == whole
    same_bits(both, at_once)
    assert len(learned(twice, both)) == 6
    plain, merged = merge_lora(twice, both, X)
    assert plain == net
    same_bits(merged, params)


def test_a_part_that_is_adapted_and_a_head_that_learns():
    encoder = fn.Sequential(fn.Dense(4), jnp.tanh)
    adapted, new = lora(encoder, {"**/kernel": 2}, encoder.init(KEY, X), NEW, X)
    net = fn.Sequential(("encoder", adapted), ("head", fn.Dense(3)))
    params = {"encoder": new, "head": fn.Dense(3).init(KEY, X)}
    wanted = ["encoder/dense_0/kernel/down", "encoder/dense_0/kernel/up", "head/kernel", "head/bias"]
    assert sorted(learned(net, params)) == sorted(wanted)
    plain, merged = merge_lora(net, params, X)
    assert plain == fn.Sequential(("encoder", encoder), ("head", fn.Dense(3)))
    assert merged["head"] is params["head"]

    adapted, params = lora(plain, {"encoder/**/kernel": 2}, merged, NEW, X)
    adapted = dataclasses.replace(adapted, but="head/**")
    assert sorted(learned(adapted, params)) == sorted(wanted)
    assert merge_lora(adapted, params, X)[0] == plain
    with pytest.raises(ValueError, match=r"'tail/\*\*' matches no parameter that Adapted holds"):
        dataclasses.replace(adapted, but="tail/**").init(KEY, X)


def test_what_a_freeze_of_the_whole_net_lets_learn_goes_on_learning():
    body = fn.Sequential(("trunk", fn.Dense(4)), ("head", fn.Dense(3)))
    net = fn.Freeze(body, but="head/**")
    params = net.init(KEY, X)
    factors = ["trunk/kernel/down", "trunk/kernel/up"]
    for around in (net, fn.Remat(net), fn.Cast(fn.Freeze(net.body, but="head/**"), "float32")):
        adapted, new = lora(around, {"trunk/kernel": 2}, params, NEW, X)
        assert sorted(learned(adapted, new)) == ["head/bias", "head/kernel", *factors]
        assert merge_lora(adapted, new, X)[0] == around
    adapted, new = lora(net, {"trunk/kernel": 2}, params, NEW, X)
    assert repr(adapted).count("Adapted") == 1
    assert learned(*lora(fn.Freeze(body), {"trunk/kernel": 2}, params, NEW, X)) == factors


class Branch(fn.Composite):
    """A projection where widths differ."""

    body: fn.Layer
    proj: fn.Layer

    def forward(self, m, x):
        y = m.body(x)
        return y + (x if x.shape == y.shape else m.proj(x))


BRANCH, WIDE = Branch(fn.Dense(8), fn.Dense(8)), jnp.ones((2, 8))


def test_a_branch_that_the_sample_does_not_meet():
    params = BRANCH.init(KEY, X)
    adapted, new = lora(BRANCH, {"**/kernel": 2}, params, NEW, X)
    whole = {"body": fn.Dense(8).init(KEY, WIDE), "proj": new["proj"]}
    some, half = lora(fn.rewrite.replace(BRANCH, {"proj": adapted["proj"]}), {"body/kernel": 2}, whole, NEW, WIDE)
    assert half["proj"] is new["proj"]  # taken as it is
    for merged in (merge_lora, fn.bake):
        with pytest.raises(ValueError, match=r"proj/kernel: the sample does not meet Parametrized.* bake such a layer"):
            merged(some, half, WIDE)
        net, old = merged(adapted, new, X)
        assert net == BRANCH
        same_bits(old, params)
    one, alone = merge_lora(some["proj"], half["proj"], X)  # as the message says
    assert one == fn.Dense(8)
    same_bits(alone, params["proj"])
    unmet = fn.rewrite.replace(BRANCH, {"proj": adapted["proj"]})  # and without parameters for it there is no harm
    assert merge_lora(unmet, BRANCH.init(KEY, WIDE), WIDE)[0] == BRANCH
    plain = {"body": whole["body"], "proj": params["proj"]}
    kept = lora(BRANCH, {"body/kernel": 2}, plain, NEW, WIDE)[1]
    assert kept["proj"] is plain["proj"]
    with pytest.raises(ValueError, match=r"unread +tail/kernel +expected nothing, got float32\[4,8\]"):
        lora(BRANCH, {"body/kernel": 2}, {**plain, "tail": {"kernel": params["proj"]["kernel"]}}, NEW, WIDE)


def test_bake_leaves_nothing_frozen_by_lora():
    for net in (fn.Dense(3), fn.Freeze(fn.Dense(3), but="bias"), fn.Sequential(fn.Freeze(fn.Dense(4)), fn.Dense(3))):
        params = net.init(KEY, X)
        adapted, new = lora(net, {"**/kernel": 2}, params, NEW, X)
        new = moved(adapted, new)
        plain, baked = fn.bake(adapted, new, X)
        assert plain == net
        assert plain == merge_lora(adapted, new, X)[0]
        same_bits(baked, merge_lora(adapted, new, X)[1])
        assert sorted(learned(plain, baked)) == sorted(learned(net, params))
    net = fn.Parametrized(fn.Dense(3), bias=fn.Masked(0.5), kernel=fn.LoRA(2))
    params = net.init(KEY, X)
    assert merge_lora(net, params, X)[0] == fn.Parametrized(fn.Dense(3), bias=fn.Masked(0.5))
    assert fn.bake(net, params, X)[0] == fn.Dense(3)


def test_only_adapters_learn_whatever_else_has_their_names():
    net = fn.Sequential(("down", fn.Dense(3)), ("low", fn.Dense(3, rank=2)))
    adapted, new = lora(net, {"down/kernel": 1}, net.init(KEY, X), NEW, X)
    assert learned(adapted, new) == ["down/kernel/down", "down/kernel/up"]


def test_other_parametrisations_stay():
    net = fn.parametrize(fn.Sequential(fn.Dense(4), ("head", fn.Dense(3))), {"head/kernel": fn.SpectralNorm()}, X)
    params, state = net.init(KEY, X), net.init_state(X)
    adapted, new = lora(net, {"dense_0/kernel": 2}, params, NEW, X)
    plain, merged = merge_lora(adapted, moved(adapted, new), X)
    assert plain == net
    same_bits(merged["head"], params["head"])
    assert plain.apply(merged, X, state=state)[0].shape == (2, 3)
    with pytest.raises(ValueError, match=r"merge_lora takes a net that lora has adapted, and .* no parameter with"):
        merge_lora(net, params, X)


def test_a_net_that_makes_its_layers_stays_a_row_of_them():
    net = fn.Sequential(fn.MLP(4, 3), fn.Dense(2))
    params = net.init(KEY, X)
    plain, merged = merge_lora(*lora(net, {"**/kernel": 2}, params, NEW, X), X)
    assert isinstance(plain[0], fn.Sequential)
    same_bits(merged, params)
    same_bits(plain.apply(merged, X), net.apply(params, X))


def test_on_shapes_alone():
    params = GPT.init(KEY, TOKENS)
    adapted, new = lora(GPT, {"**/kernel": 2}, params, NEW, TOKENS)
    again, specs = jax.eval_shape(lambda params: lora(GPT, {"**/kernel": 2}, params, NEW, TOKENS), params)
    assert again == adapted
    assert specs == jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), new) == adapted.plan(TOKENS).params


def test_it_prints_as_the_code_that_builds_it():
    adapted, _ = lora(fn.Dense(3), {"kernel": 2}, fn.Dense(3).init(KEY, X), NEW, X)
    assert repr(adapted) == "Adapted(Parametrized(Dense(3), kernel=LoRA(2)))"
    assert eval(repr(adapted), {**vars(fn), "Adapted": Adapted}) == adapted


def test_what_cannot_be():
    net = fn.Sequential(fn.Dense(4), ("head", fn.Dense(3)))
    params = net.init(KEY, X)
    for rules, kind, message in (
        ({"**/kernl": 2}, ValueError, r"'\*\*/kernl' matches no parameter"),
        ({"**": 2}, ValueError, r"LoRA\(2\) takes a floating parameter with two axes or more, got float32\[4\]"),
        ({"**/kernel": 0}, ValueError, "LoRA takes rank as a whole number, at least 1, got 0"),
        ({"**/kernel": "2"}, TypeError, r"lora takes a rank or an fn.LoRA for '\*\*/kernel', got '2'"),
        ({"**/kernel": fn.WeightNorm()}, TypeError, r"got WeightNorm\(\).* there is fn.parametrize"),
    ):
        with pytest.raises(kind, match=message):
            lora(net, rules, params, NEW, X)
    with pytest.raises(ValueError, match=r"missing +head/kernel +expected float32\[4,3\], got nothing"):
        lora(net, {"**/kernel": 2}, {"dense_0": params["dense_0"]}, NEW, X)
    assert learned(*lora(net, {"**/kernel": 40}, params, NEW, X))  # more than any change of it needs: no harm
    empty = floats(2, 0)  # a kernel with no entries
    assert learned(*lora(net, {"dense_0/kernel": 1}, net.init(KEY, empty), NEW, empty))
    adapted, new = lora(net, {"**/kernel": 2}, params, NEW, X)
    with pytest.raises(ValueError, match="has a parametrised 'kernel' already"):
        lora(adapted, {"head/kernel": 2}, new, NEW, X)
    with pytest.raises(ValueError, match=r"dense_0/kernel: LoRA\(2\) holds .* got float32.* Give the parameters"):
        merge_lora(adapted, params, X)
    with pytest.raises(ValueError, match="embed: Embedding.* and Unembed.* share these parameters by name"):
        lora(GPT, {"embed/table": 2}, GPT.init(KEY, TOKENS), NEW, TOKENS)


def test_a_layer_class_as_a_rule():
    net = fn.Sequential(("embed", fn.Embedding(7, 8)), fn.Dense(4), fn.LayerNorm(), ("head", fn.Dense(3)))
    params = net.init(KEY, TOKENS)
    adapted, new = lora(net, {fn.Dense: 3}, params, NEW, TOKENS)
    again, same = lora(net, {"*/kernel": 3}, params, NEW, TOKENS)
    assert adapted == again
    same_bits(new, same)
    assert {path.split("/")[0] for path in learned(adapted, new)} == {"dense_0", "head"}
    params = GPT.init(KEY, TOKENS)
    ours, theirs = ({fn.TransformerBlock: 2}, {"transformer_block_0/**/kernel": 2})
    assert lora(GPT, ours, params, NEW, TOKENS)[0] == lora(GPT, theirs, params, NEW, TOKENS)[0]


def test_a_tied_net():
    net = fn.tie(fn.Sequential(("a", fn.Dense(4)), ("b", fn.Dense(4)), ("c", fn.Dense(4))), "b/kernel", to="a/kernel")
    params = net.init(KEY, X)
    with pytest.raises(ValueError, match="a/kernel: 'b/kernel' is tied to it by fn.tie.* or untie the two"):
        lora(net, {"**/kernel": 2}, params, NEW, X)
    adapted, new = lora(net, {"c/kernel": 2}, params, NEW, X)
    assert learned(adapted, new) == ["c/kernel/down", "c/kernel/up"]
    assert merge_lora(adapted, new, X)[0] == net
    untied = {**params, "b": {**params["b"], "kernel": params["a"]["kernel"]}}  # as the message says
    adapted, new = lora(net.body, {"**/kernel": 2}, untied, NEW, X)
    assert len(learned(adapted, new)) == 6
    same_bits(adapted.apply(new, X), net.apply(params, X))
