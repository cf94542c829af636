"""The usual parametrisations, against PyTorch's and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import references

import funcnets as fn

KEY, RUN = jax.random.key(0), jax.random.key(1)
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32))


def floats(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def computed(how, held, shape):
    return how.apply(held, jax.ShapeDtypeStruct(shape, jnp.float32))


def output_last(weight):
    """PyTorch's (out, in, *window) as our (*window, in, out)."""
    return np.moveaxis(weight, (0, 1), (-1, -2))


@references.each("parametrizations", "weight_norm")
def test_weight_norm_is_that_of_torch(case):
    conv = case.name.endswith("conv")
    layer = fn.Conv(3, (3, 2), padding="VALID") if conv else fn.Dense(3)
    net = fn.Parametrized(layer, kernel=fn.WeightNorm(**case.options))
    lengths = () if "axis" in case.options else (3,)

    def ours(theirs):
        kernel = {
            "direction": output_last(theirs["parametrizations.weight.original1"]),
            "scale": theirs["parametrizations.weight.original0"].reshape(lengths),
        }
        return {"kernel": kernel, "bias": theirs["bias"]}

    last = references.channels_last if conv else references.same
    case.check(net.apply, ours, to_input=last, to_output=last)


@references.each("parametrizations", "spectral_norm")
def test_spectral_norm_is_that_of_torch_over_several_calls(case):
    conv = case.name.endswith("conv")
    layer = fn.Conv(3, 3, padding="VALID") if conv else fn.Dense(3)
    net = fn.Parametrized(layer, kernel=fn.SpectralNorm(case.options["iterations"]))
    prefix = "layer.parametrizations.weight"

    def state_of(buffers):
        v = buffers[f"{prefix}.0._v"]
        v = v.reshape(2, 3).T.ravel() if conv else v  # (in, window) there, (window, in) here
        return {"kernel": {"u": buffers[f"{prefix}.0._u"], "v": v}}

    def thrice(params, x):
        state, outputs = jax.tree.map(jnp.asarray, state_of(case.buffers)), []
        for _ in range(3):
            y, state = net.apply(params, x, state=state, train=case.options["train"])
            outputs.append(y)
        return outputs

    def ours(theirs):
        return {"kernel": {"weight": output_last(theirs[f"{prefix}.original"])}, "bias": theirs["layer.bias"]}

    last = references.channels_last if conv else references.same
    case.check(thrice, ours, to_input=last, to_output=last)
    x, params = jnp.asarray(last(case.inputs[0])), jax.tree.map(jnp.asarray, ours(case.params))
    state = jax.tree.map(jnp.asarray, state_of(case.buffers))
    for _ in range(3):
        _, state = net.apply(params, x, state=state, train=case.options["train"])
    for name, wanted in state_of(case.after)["kernel"].items():
        references.close(state["kernel"][name], wanted)


def test_the_singular_value_is_found():
    net = fn.Parametrized(fn.Dense(3), kernel=fn.SpectralNorm(iterations=100))
    params, state = net.init(KEY, X), net.init_state(X)
    _, state = net.apply(params, X, state=state, train=True)
    _, baked, _ = fn.bake(net, params, X, state=state)
    np.testing.assert_allclose(np.linalg.norm(baked["kernel"], 2), 1, rtol=1e-5)


def test_weight_norm_in_low_precision_starts_with_the_right_lengths():
    net = fn.Cast(fn.Parametrized(fn.Dense(3), kernel=fn.WeightNorm()), "bfloat16", param_dtype="bfloat16")
    kernel = net.init(KEY, jnp.ones((1, 4096)))["kernel"]
    wanted = np.linalg.norm(np.asarray(kernel["direction"], np.float32), axis=0)
    np.testing.assert_allclose(np.asarray(kernel["scale"], np.float32), wanted, rtol=1e-2)


# Orthogonal


def cayley(base, generator):
    """In float64, by an inverse; of a tall matrix."""
    base, generator = np.float64(base), np.float64(generator)
    half = (generator @ base.T - base @ generator.T) / 2
    identity = np.eye(len(base))
    return np.linalg.inv(identity - half) @ (identity + half) @ base


MATRICES = [
    ((5, 3), -1),
    ((3, 5), -1),
    ((4, 4), -1),
    ((3, 2, 2, 6), -1),
    ((2, 3, 2, 20), -1),
    ((6, 2, 4), 1),
    ((1, 3), 0),
]


def rows_and_columns(w, axis):
    return np.moveaxis(np.asarray(w), axis, -1).reshape(-1, w.shape[axis])


@pytest.mark.parametrize(("shape", "axis"), MATRICES)
def test_orthogonal_is_the_cayley_transform_of_the_polar_factor(shape, axis):
    how, w = fn.Orthogonal(axis), floats(*shape)
    held = how.decompose(w)
    u, _, v = np.linalg.svd(rows_and_columns(w, axis), full_matrices=False)
    polar = u @ v
    np.testing.assert_allclose(rows_and_columns(computed(how, held, shape), axis), polar, atol=1e-5)
    held["generator"] = floats(*shape, seed=1)
    got = rows_and_columns(computed(how, held, shape), axis)
    generator = rows_and_columns(held["generator"], axis)
    wide = polar.shape[0] < polar.shape[1]
    wanted = cayley(polar.T, generator.T).T if wide else cayley(polar, generator)
    np.testing.assert_allclose(got, wanted, atol=2e-5)
    product = got @ got.T if wide else got.T @ got
    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-5)
    again = how.decompose(computed(how, held, shape))  # orthogonal already: the very same
    np.testing.assert_allclose(again["base"], computed(how, held, shape), atol=1e-5)


def test_orthogonal_stays_so_in_training_and_can_get_anywhere():
    target = np.linalg.qr(np.random.default_rng(3).normal(size=(6, 3)))[0].astype(np.float32)
    net, x = fn.Parametrized(fn.Dense(3, use_bias=False), kernel=fn.Orthogonal()), jnp.eye(6)
    params, optimizer = net.init(KEY, x), optax.sgd(0.3)
    loss = jax.jit(jax.value_and_grad(lambda params: jnp.square(net.apply(params, x) - target).sum()))
    state, first = optimizer.init(params), loss(params)[0]
    for step in range(200):
        gradients = loss(params)[1]
        assert step > 10 or not np.any(gradients["kernel"]["base"])
        updates, state = optimizer.update(gradients, state)
        params = optax.apply_updates(params, updates)
        if step in (10, 199):
            _, baked = fn.bake(net, params, x)
            np.testing.assert_allclose(baked["kernel"].T @ baked["kernel"], np.eye(3), atol=1e-5)
    assert loss(params)[0] < 1e-3 * first


def test_orthogonal_stays_so_where_an_optimiser_decays_all_that_it_is_given():
    net, x = fn.Parametrized(fn.Dense(3), kernel=fn.Orthogonal()), floats(2, 5)
    params, optimizer = net.init(KEY, x), optax.adamw(1e-1, weight_decay=1.0)
    state = optimizer.init(params)
    grad = jax.jit(jax.grad(lambda params: jnp.square(net.apply(params, x) - 1).sum()))
    for _ in range(10):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grad(params), state, params)
            params = optax.apply_updates(params, updates)
    assert jnp.linalg.norm(params["kernel"]["base"]) < 1
    kernel = fn.bake(net, params, x)[1]["kernel"]
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(3), atol=1e-5)


def test_orthogonal_of_what_has_no_polar_factor_and_of_nothing():
    base = fn.Orthogonal().decompose(jnp.zeros((4, 3)))["base"]
    np.testing.assert_allclose(base.T @ base, np.eye(3), atol=1e-6)
    for shape in ((0, 3), (3, 0)):
        assert computed(fn.Orthogonal(), fn.Orthogonal().decompose(jnp.zeros(shape)), shape).shape == shape


@references.each("parametrizations", "orthogonal")
def test_orthogonal_is_that_of_torch(case):
    weight = case.params["parametrizations.weight.original"]
    triangle = np.tril(weight, -1)
    base = case.buffers["parametrizations.weight.0.base"]  # theirs: base · cayley(skew), on (out, in)
    held = {"base": base, "generator": base @ (triangle - triangle.T) / 2}
    w = computed(fn.Orthogonal(axis=0), jax.tree.map(jnp.asarray, held), weight.shape)
    references.close(jnp.asarray(case.inputs[0]) @ w.T + case.params["bias"][None], case.outputs[0])


# Masked


def test_masked_keeps_the_largest():
    w = jnp.asarray([[0.1, -3.0, 2.0], [-0.2, 0.0, 5.0]])
    for sparsity, left in ((0.0, 6), (0.34, 4), (0.5, 3), (1, 0)):
        mask = np.asarray(fn.Masked(sparsity).decompose(w)["mask"])
        assert mask.sum() == left
        assert (np.abs(w)[mask == 1].min() if left else 9) >= (np.abs(w)[mask == 0].max() if left < 6 else 0)
    ties = fn.Masked(0.5).decompose(jnp.ones((2, 2)))["mask"]
    np.testing.assert_array_equal(ties, [[0, 0], [1, 1]])  # exactly so many


def test_a_trained_net_is_pruned_trained_on_and_pruned_again():
    plain = fn.Sequential(fn.Repeat(fn.Residual(fn.Dense(4)), 2), ("head", fn.Dense(3)))
    trained = plain.init(KEY, X)
    net = fn.parametrize(plain, {"**/kernel": fn.Masked(0.5)}, X)
    params = net.init(KEY, X)  # the same values, since keys go by name
    kernels = {"dense_0": trained["dense_0"]["kernel"], "head": trained["head"]["kernel"]}
    for name, kernel in kernels.items():
        np.testing.assert_array_equal(params[name]["kernel"]["weight"], kernel)
    sparse = lambda kernel: [int((np.asarray(one) == 0).sum()) for one in kernel]  # noqa: E731
    assert sparse(params["dense_0"]["kernel"]["mask"]) == [8, 8]  # in each copy

    optimizer = optax.adamw(1e-1, weight_decay=0.5)
    state = optimizer.init(params)
    grad = jax.jit(jax.grad(lambda params: jnp.square(net.apply(params, X) - 1).sum()))
    for step in range(5):
        gradients = grad(params)
        for name in kernels:
            held = params[name]["kernel"]
            assert not np.any(np.asarray(gradients[name]["kernel"]["weight"])[np.asarray(held["mask"]) == 0])
            assert not np.any(gradients[name]["kernel"]["mask"])
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
        if step == 2:  # pruned again by hand
            head = params["head"]["kernel"]
            mask = fn.Masked(0.75).decompose(head["weight"] * jnp.sign(head["mask"]))["mask"]
            params = {**params, "head": {**params["head"], "kernel": {**head, "mask": mask}}}
    bare, baked = fn.bake(net, params, X)
    assert bare == plain
    assert sparse(baked["dense_0"]["kernel"]) == [8, 8]
    assert sparse([baked["head"]["kernel"]]) == [9]
    np.testing.assert_allclose(bare.apply(baked, X), net.apply(params, X), rtol=1e-6)
    assert [path for path, _ in fn.params.paths(params) if fn.params.frozen(net)(path)] == [
        "dense_0/kernel/mask",
        "head/kernel/mask",
    ]


# LowRank


@pytest.mark.parametrize("shape", [(6, 4), (3, 5), (2, 3, 5), (3, 2, 2, 4)])
def test_low_rank_starts_as_the_best_approximation(shape):
    w = floats(*shape)
    matrix = np.float64(w).reshape(-1, shape[-1])
    sizes = np.linalg.svd(matrix, compute_uv=False)
    for rank in (1, 2, min(matrix.shape), 9):
        how = fn.LowRank(rank)
        held = how.decompose(w)
        width = min(rank, *matrix.shape)
        assert jax.tree.map(jnp.shape, held) == {"down": (*shape[:-1], width), "up": (width, shape[-1])}
        error = np.linalg.norm(np.asarray(computed(how, held, shape)).reshape(matrix.shape) - matrix)
        np.testing.assert_allclose(error, np.linalg.norm(sizes[rank:]), atol=2e-5)  # Eckart and Young
        np.testing.assert_allclose(np.linalg.norm(held["down"]), np.linalg.norm(held["up"]), rtol=1e-5)


def test_low_rank_is_dense_with_a_rank():
    net, dense = fn.Parametrized(fn.Dense(5), kernel=fn.LowRank(2)), fn.Dense(5, rank=2)
    params = net.init(KEY, X)
    y = dense.apply({**params["kernel"], "bias": params["bias"]}, X)
    np.testing.assert_allclose(net.apply(params, X), y, rtol=1e-5, atol=1e-6)


# LoRA


@pytest.mark.parametrize("shape", [(4, 3), (3, 2, 4, 5), (2, 1, 3)])
def test_lora_adds_the_product_and_starts_as_the_weight(shape):
    w = floats(*shape)
    for how, scale in ((fn.LoRA(2), 1.0), (fn.LoRA(4, alpha=8), 2.0), (fn.LoRA(2, alpha=0.5), 0.25)):
        held = how.decompose(w, key=KEY)
        assert np.asarray(computed(how, held, shape)).tobytes() == np.asarray(w).tobytes()
        fan_in = w.size // shape[-1]
        np.testing.assert_array_equal(held["down"], fn.initializers.TorchKernel()(KEY, (*shape[:-1], how.rank)))
        assert np.abs(held["down"]).max() <= 1 / np.sqrt(fan_in)
        held["up"] = floats(how.rank, shape[-1], seed=1)
        down = np.float64(held["down"]).reshape(fan_in, how.rank)
        wanted = np.asarray(w) + scale * (down @ np.float64(held["up"])).reshape(shape)
        np.testing.assert_allclose(computed(how, held, shape), wanted, rtol=1e-5, atol=1e-6)


def test_in_low_precision_they_keep_the_dtype_and_in_double_the_digits():
    hows = {fn.Orthogonal(): 2e-2, fn.Masked(0.5): 0, fn.LowRank(3): 2e-2, fn.LoRA(2): 0}
    for how, tolerance in hows.items():
        net = fn.Cast(fn.Parametrized(fn.Dense(3, use_bias=False), kernel=how), "bfloat16", param_dtype="bfloat16")
        params = net.init(KEY, X)
        assert {array.dtype for array in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
        y = net.apply(params, jnp.eye(4))
        held = jax.tree.map(lambda a: a.astype(jnp.float32), params["kernel"])
        np.testing.assert_allclose(np.float32(y), computed(how, held, (4, 3)), rtol=tolerance, atol=tolerance)
    with jax.enable_x64(True):
        w = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
        for how in (fn.LowRank(3), fn.Masked(), fn.LoRA(2)):
            held = how._decomposed(w, KEY)
            got = how.apply(held, jax.ShapeDtypeStruct((4, 3), jnp.float64))
            np.testing.assert_allclose(got, w, rtol=1e-12)
        q = fn.Orthogonal().apply(fn.Orthogonal().decompose(w), jax.ShapeDtypeStruct((4, 3), jnp.float64))
        np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fn.SpectralNorm(0), "SpectralNorm takes iterations as a whole number, at least 1, got 0"),
        (lambda: fn.WeightNorm(axis="last"), "WeightNorm takes axis as a whole number or None, got 'last'"),
        (lambda: fn.Orthogonal(None), "Orthogonal takes axis as a whole number, got None"),
        (
            lambda: fn.Masked(1.5),
            "Masked takes sparsity from 0 to 1, got 1.5. It is the share of entries that",
        ),
        (lambda: fn.LowRank(0), "LowRank takes rank as a whole number, at least 1, got 0"),
        (lambda: fn.LoRA(2.0), "LoRA takes rank as a whole number, at least 1, got 2.0"),
        (lambda: fn.LoRA(2, 0), "LoRA takes alpha as a number above 0 or None, got 0"),
        (lambda: fn.LoRA(2, float("inf")), "LoRA takes alpha as a number above 0 or None, got inf"),
        (lambda: fn.LoRA(2, "4"), "LoRA takes alpha as a number above 0 or None, got '4'"),
    ],
)
def test_fields_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_parameters_that_are_no_matrix():
    for how in (fn.Orthogonal(), fn.LowRank(2), fn.LoRA(2)):
        with pytest.raises(
            ValueError, match=r"takes a floating parameter with two axes or more, got float32\[3\]: name"
        ):
            fn.Parametrized(fn.Dense(3), bias=how).init(KEY, X)
    with pytest.raises(ValueError, match=r"Orthogonal\(axis=2\) takes a parameter that has an axis 2, got float32"):
        fn.Parametrized(fn.Dense(3), kernel=fn.Orthogonal(2)).init(KEY, X)
