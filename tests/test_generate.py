from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcnets as fn
from funcnets.generate import likely
from funcnets.rewrite.unrolling import written_out

KEY = jax.random.key(0)
VOCAB = 11
PROMPT = np.array([[3, 1, 4, 1], [5, 9, 2, 6]], np.int32)
TRACES = []


def gpt(cache=None):
    """A small language model; with a cache the one that decodes."""
    attention = fn.Attention(2, causal=True, rope=fn.rotary, cache=cache)
    places = fn.PositionEmbedding(16, fn.initializers.Normal(1.0), counting=cache is not None)
    return fn.compose(
        embed=fn.Embedding(VOCAB, 8, fn.initializers.Normal(1.0)),
        places=places,
        blocks=fn.Repeat(fn.TransformerBlock(attention), 2),
        unembed=fn.Unembed(),
    )(forward)


def forward(m, ids, mask=None):
    TRACES.append(ids.shape)
    x = m.blocks(m.places(m.embed(ids), mask=mask), mask=mask)
    return m.unembed(x, params=m.embed.params)


PARAMS = gpt().init(KEY, PROMPT)


def by_full_passes(prompt, steps, mask=None):
    """Greedy decoding that runs the training net on all ids each time."""
    apply = jax.jit(gpt().apply)
    ids, mask = prompt, np.ones(prompt.shape, bool) if mask is None else mask
    for _ in range(steps):
        new = np.asarray(apply(PARAMS, ids, mask))[:, -1].argmax(-1)
        ids = np.concatenate([ids, new[:, None].astype(np.int32)], 1)
        mask = np.concatenate([mask, np.ones((len(ids), 1), bool)], 1)
    return ids[:, prompt.shape[1] :]


def test_greedy_ids_are_those_of_full_passes_and_compile_once():
    net = gpt(cache=9)
    wanted = by_full_passes(PROMPT, 6)
    assert len(np.unique(wanted)) > 2
    TRACES.clear()
    np.testing.assert_array_equal(fn.generate(net, PARAMS, PROMPT, 6), wanted)
    seen = len(TRACES)
    assert set(TRACES) == {(2, 4), (2, 1)}
    assert fn.generate(gpt(cache=9), PARAMS, PROMPT[::-1].copy(), 6).dtype == jnp.int32
    assert len(TRACES) == seen
    jitted = jax.jit(lambda params, prompt: fn.generate(net, params, prompt, 6))
    np.testing.assert_array_equal(jitted(PARAMS, PROMPT.astype(np.uint8)), wanted)
    np.testing.assert_array_equal(fn.generate(net, PARAMS, PROMPT, 1), wanted[:, :1])


def test_padding_on_either_side_changes_nothing():
    mask = np.array([[False, False, True, True], [True] * 4])
    ids = np.asarray(fn.generate(gpt(cache=9), PARAMS, PROMPT, 5, mask=mask))
    np.testing.assert_array_equal(ids, by_full_passes(PROMPT, 5, mask))
    np.testing.assert_array_equal(ids[:1], by_full_passes(PROMPT[:1, 2:], 5))
    right = np.concatenate([PROMPT[:1, 2:], PROMPT[:1, :2]], 1)
    np.testing.assert_array_equal(fn.generate(gpt(cache=9), PARAMS, right, 5, mask=mask[:1, ::-1].copy()), ids[:1])


def test_a_stop_ends_a_row_and_all_rows_the_loop():
    net = gpt(cache=12)
    free = np.asarray(fn.generate(net, PARAMS, PROMPT, 8))
    first = int(free[0, 2])
    held = np.asarray(fn.generate(net, PARAMS, PROMPT, 8, stop=first))
    for row, was in zip(held, free, strict=True):
        at = list(was).index(first) if first in was else 8
        np.testing.assert_array_equal(row[:at], was[:at])
        assert (row[at:] == first).all()
    both = fn.generate(net, PARAMS, PROMPT, 8, stop=(int(free[0, 0]), int(free[1, 0])))
    np.testing.assert_array_equal(both, np.repeat(free[:, :1], 8, 1))


def distribution(**options):
    """The share of each id among many draws after one prompt, and the logits there."""
    prompt = np.repeat(PROMPT[:1], 4000, 0)
    ids = fn.generate(gpt(cache=4), PARAMS, prompt, 1, key=KEY, **options)
    shares = np.bincount(np.asarray(ids)[:, 0], minlength=VOCAB) / len(prompt)
    return shares, np.asarray(gpt().apply(PARAMS, PROMPT[:1]))[0, -1].astype(np.float64)


def softmax(x):
    x = np.exp(x - x.max())
    return x / x.sum()


def test_draws_follow_the_temperature_and_the_likeliest():
    shares, logits = distribution(temperature=8.0)
    np.testing.assert_allclose(shares, softmax(logits / 8), atol=0.03)
    order = np.argsort(-logits)
    shares, _ = distribution(temperature=20.0, top_k=3)
    wanted = np.zeros(VOCAB)
    wanted[order[:3]] = softmax(logits[order[:3]] / 20)
    np.testing.assert_allclose(shares, wanted, atol=0.03)
    shares, _ = distribution(temperature=20.0, top_p=0.5)
    ordered = softmax(logits / 20)[order]
    kept = order[: int(np.searchsorted(np.cumsum(ordered), 0.5)) + 1]
    wanted = np.zeros(VOCAB)
    wanted[kept] = softmax(logits[kept] / 20)
    np.testing.assert_allclose(shares, wanted, atol=0.03)


@pytest.mark.parametrize("top_k", [None, 1, 4, 100])
@pytest.mark.parametrize("top_p", [None, 1e-6, 0.3, 0.9, 1.0])
def test_the_likely_are_those_of_numpy(top_k, top_p):
    logits = np.random.default_rng(0).standard_normal((5, 9)).astype(np.float32) * 2
    ours = np.asarray(likely(jnp.asarray(logits), top_k, top_p))
    for row, out in zip(logits, ours, strict=True):
        order = np.argsort(-row)[: top_k or None]
        reached, kept = 0.0, []
        for place, share in zip(order, softmax(row[order].astype(np.float64)), strict=True):
            if reached >= (1.1 if top_p is None else top_p):
                break
            kept.append(place)
            reached += share
        assert set(np.flatnonzero(np.isfinite(out))) == set(kept)
        np.testing.assert_array_equal(out[kept], row[kept])


def test_draws_repeat_with_the_key_and_differ_with_another():
    run = lambda key, **options: fn.generate(  # noqa: E731
        gpt(cache=13), PARAMS, PROMPT, 10, key=jax.random.key(key), temperature=30.0, **options
    )
    np.testing.assert_array_equal(run(1), run(1))
    assert (run(1) != run(2)).any()
    np.testing.assert_array_equal(run(1, top_k=1), fn.generate(gpt(cache=13), PARAMS, PROMPT, 10))


def test_it_runs_with_64_bits():
    with jax.enable_x64(True):
        prompt = jnp.asarray(PROMPT.astype(np.int64))
        options = {"key": KEY, "temperature": 1.0, "top_k": 3, "top_p": 0.9, "stop": 3}
        ids = fn.generate(gpt(cache=9), PARAMS, prompt, 4, mask=prompt > 1, **options)
        assert ids.dtype == jnp.int32
        assert (ids >= 0).all()


def test_nan_is_no_id():
    ids = fn.generate(gpt(cache=9), PARAMS, np.array([[1, 2], [1, VOCAB]], np.int32), 3)
    assert (ids[1] == -1).all()
    assert (ids[0] >= 0).all()
    beyond = fn.generate(gpt(cache=30), PARAMS, PROMPT, 20)
    assert (beyond[:, :13] >= 0).all()
    assert (beyond[:, 13:] == -1).all()  # the table has 16 positions


def test_a_context_goes_into_every_call():
    def translate(m, ids, context):
        return m.head(m.block(m.embed(ids), context))

    def net(cache=None):
        block = fn.TransformerBlock(fn.Attention(2, causal=True, cache=cache), cross=fn.Attention(2))
        return fn.compose(embed=fn.Embedding(VOCAB, 8), block=block, head=fn.Dense(VOCAB))(translate)

    context = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(np.float32)
    params = net().init(KEY, PROMPT, context=context)
    ids = np.asarray(fn.generate(net(9), params, PROMPT, 4, context=context))
    whole = np.concatenate([PROMPT, ids], 1)
    logits = net().apply(params, whole, context=context)
    np.testing.assert_array_equal(ids, np.asarray(logits)[:, 3:-1].argmax(-1))


NO_STATE = fn.Sequential(fn.Embedding(VOCAB, 8), fn.Dense(VOCAB))
REMEDY = "Build the decoding net, with cache=n in its causal attention and counting=True in its position layers"


@pytest.mark.parametrize(
    ("net", "options", "text"),
    [
        (NO_STATE, {}, f"generate takes a net that carries state from id to id, got one without state. {REMEDY}"),
        (
            fn.Sequential(
                fn.Embedding(VOCAB, 8),
                ("a", fn.Attention(2, causal=True, cache=9)),
                fn.Repeat(fn.TransformerBlock(fn.Attention(2, causal=True)), 2),
                fn.Dense(VOCAB),
            ),
            {},
            "generate takes a net whose causal attention has a cache, got none in transformer_block_0/attention. "
            + REMEDY,
        ),
        (
            fn.Sequential(
                fn.Embedding(VOCAB, 8),
                ("places", fn.SinusoidalPositions()),
                fn.Attention(2, causal=True, cache=9),
                fn.Dense(VOCAB),
            ),
            {},
            f"generate takes a net whose positions go on counting, got SinusoidalPositions() as places. {REMEDY}",
        ),
        (
            gpt(cache=6),
            {},
            "generate takes a cache for the prompt and all new ids but the last, 7, got 6 in blocks/attention/cache. "
            "Build the net with a cache of that length",
        ),
        (
            fn.Sequential(fn.Embedding(VOCAB, 8), fn.Attention(2, causal=True, cache=9), lambda x: x.sum(1)),
            {},
            "generate takes a net that gives logits (batch, time, vocab) for ids int32[2,4], got float32[2,8]. End it "
            "with fn.Unembed() or fn.Dense(vocab)",
        ),
        (
            gpt(9),
            {"prompt": PROMPT[0]},
            "generate takes a prompt (batch, time) of whole numbers, got int32[4]. For one",
        ),
        (gpt(9), {"prompt": PROMPT * 1.0}, "generate takes a prompt (batch, time) of whole numbers, got float64[2,4]."),
        (gpt(9), {"prompt": PROMPT[:, :0]}, "generate takes a prompt with one id at least, got int32[2,0]. Begin with"),
        (
            gpt(9),
            {"mask": PROMPT},
            "generate takes a mask of booleans like the prompt, (2, 4), True for what is no pad",
        ),
        (gpt(9), {"steps": 0}, "generate takes steps as a whole number, at least 1, got 0. It counts the new ids"),
        (
            gpt(9),
            {"temperature": -1},
            "generate takes temperature as 0 or a number from 1e-6, got -1. 0 takes the likeliest id",
        ),
        (
            gpt(9),
            {"temperature": 1.0, "top_k": 0},
            "generate takes top_k as a whole number, at least 1, got 0. None dra",
        ),
        (
            gpt(9),
            {"temperature": 1.0, "top_p": 0.0},
            "generate takes top_p as a probability above 0, got 0.0. None draw",
        ),
        (
            gpt(9),
            {"top_k": 3},
            "generate takes top_k and top_p where ids are drawn, got temperature 0, which takes the",
        ),
        (gpt(9), {"temperature": 1.0}, "generate draws with temperature=1.0 and needs a key: key=jax.random.key(0)"),
        (gpt(9), {"stop": "end"}, "generate takes stop as an id or several ids, got 'end'. They are whole numbers"),
    ],
)
def test_it_refuses_what_it_cannot_decode(net, options, text):
    with pytest.raises((ValueError, TypeError), match=re.escape(text)):
        fn.generate(net, PARAMS, **{"prompt": PROMPT, "steps": 4} | options)


def deep(cache=None, *, scan=True):
    attention = fn.Attention(2, causal=True, rope=fn.rotary, cache=cache)
    block = fn.TransformerBlock(attention)
    inner = fn.Repeat(fn.Sequential(fn.Repeat(block, 2)), 2, scan=scan)
    trunk = fn.Remat(fn.Repeat(block, 2, scan=scan))
    return fn.Sequential(
        ("e", fn.Embedding(11, 8)), trunk, inner, fn.Repeat(block, 2, shared=True), ("e", fn.Unembed())
    )


def test_copies_that_stand_one_by_one_give_what_a_stack_of_them_gives():
    prompt = jnp.array([[1, 2, 3], [4, 5, 6]])
    params = jax.jit(deep().init)(jax.random.key(0), prompt)
    decoder = deep(9)
    state = decoder.init_state(prompt)
    wanted, _ = jax.jit(decoder.apply)(params, prompt, state=state)
    net, apart, states = fn.rewrite.unroll(decoder, params, state=state)
    assert len(fn.rewrite.find(net, fn.Repeat)) == 1  # the one that is shared
    logits, states = jax.jit(net.apply)(apart, prompt, state=states)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)
    stacked = fn.generate(decoder, params, prompt, 5, unroll=False)
    np.testing.assert_array_equal(fn.generate(decoder, params, prompt, 5), stacked)

    def scans(unroll):
        return str(jax.make_jaxpr(lambda p: fn.generate(decoder, p, prompt, 5, unroll=unroll))(params)).count("scan[")

    assert scans(True) < scans(False)


def test_nets_whose_copies_cannot_stand_apart_run_as_they_are():
    prompt = jnp.array([[1, 2, 3]])
    attention = fn.Attention(2, causal=True, cache=9)
    plain = fn.Sequential(("e", fn.Embedding(11, 8)), ("r", fn.Repeat(fn.TransformerBlock(attention), 2)), fn.Dense(11))
    tied = fn.tie(plain, "dense_0/kernel", to="e/table", via=jnp.transpose)
    into = fn.tie(plain, "r/mlp_norm/scale", to="r/attention_norm/scale")
    for net, stuck in ((tied, False), (into, True), (fn.Freeze(plain, but="r/*/bias"), True)):
        params, state = net.init(jax.random.key(0), prompt), net.init_state(prompt)
        assert (written_out(net, params, state) == (net, params, state)) is stuck
        stacked = fn.generate(net, params, prompt, 4, unroll=False)
        np.testing.assert_array_equal(fn.generate(net, params, prompt, 4), stacked)


def test_numbers_of_numpy_and_lists_are_taken():
    prompt = jnp.array([[1, 2, 3]])
    net = gpt(9)
    params = net.init(jax.random.key(0), prompt)
    ids = fn.generate(net, params, prompt, np.int64(3), temperature=np.float32(1), key=jax.random.key(1), stop=[3, 4])
    assert ids.shape == (1, 3)
