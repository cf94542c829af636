"""Writes attention.npz: python tests/references/attention.py (needs PyTorch)."""

import torch
from torch.nn import functional
from writing import Cases

cases = Cases("attention")
BATCH, TIME, KEYS, WIDTH, HEADS = 2, 4, 3, 6, 2


class MultiHead(torch.nn.Module):
    """Multi-head attention that returns its output alone; masks are True for what is hidden."""

    def __init__(self, causal=False, **options):
        super().__init__()
        self.inner = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)
        self.causal = causal

    def forward(self, query, key=None, value=None, padding=None, mask=None):
        key = query if key is None else key
        value = key if value is None else value
        if self.causal:
            mask = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool).triu(1)
        if mask is not None and mask.ndim == 4:
            mask = mask.flatten(0, 1)
        options = {"key_padding_mask": padding, "attn_mask": mask, "need_weights": False}
        return self.inner(query, key, value, **options)[0]


def hidden(*shape):
    """A mask that hides some, and never the first key."""
    mask = torch.tensor(cases.rng.random(shape) < 0.4)
    mask[..., 0] = False
    return mask


class Named(torch.nn.Module):
    """A module called with its inputs by name."""

    def __init__(self, module, names):
        super().__init__()
        self.of = module
        self.names = names

    def forward(self, *inputs):
        return self.of(**dict(zip(self.names, inputs, strict=True)))


def mha(name, *inputs, causal=False, given=None, **options):
    names = given or ["query", "key", "value"][: len(inputs)]
    cases.add(f"mha-{name}", Named(MultiHead(causal, **options), names), *inputs)


x, context = (BATCH, TIME, WIDTH), (BATCH, KEYS, 5)
mha("plain", cases.floats(*x))
mha("causal", cases.floats(*x), causal=True)
mha("nobias", cases.floats(*x), bias=False)
mha("padding", cases.floats(*x), hidden(BATCH, TIME), given=["query", "padding"])
mha("mask", cases.floats(*x), hidden(BATCH, HEADS, TIME, TIME), given=["query", "mask"])
mha("cross", cases.floats(*x), cases.floats(*context), kdim=5, vdim=5)
mha("three", cases.floats(*x), cases.floats(*context), cases.floats(BATCH, KEYS, 7), kdim=5, vdim=7)


def sdpa(name, heads=4, keys=TIME, mask=None, **options):
    def call(q, k, v, *masks):
        return functional.scaled_dot_product_attention(q, k, v, *masks, enable_gqa=True, **options)

    inputs = [cases.floats(BATCH, 4, TIME, 3), cases.floats(BATCH, heads, keys, 3), cases.floats(BATCH, heads, keys, 3)]
    cases.add(f"sdpa-{name}", call, *inputs, *([] if mask is None else [mask]), options=options)


sdpa("plain")
sdpa("grouped", heads=2, is_causal=True)
sdpa("multiquery", heads=1, keys=5, scale=0.7)
sdpa("mask", mask=~hidden(BATCH, 4, TIME, TIME))
sdpa("bias", heads=2, mask=cases.floats(BATCH, 4, TIME, TIME))

for norm_first in (True, False):
    options = {"dropout": 0.0, "batch_first": True, "norm_first": norm_first}
    where = "pre" if norm_first else "post"
    layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 5, activation="relu", **options)
    names = ["src", "src_key_padding_mask"]
    cases.add(
        f"encoder-{where}", Named(layer, names), cases.floats(*x), hidden(BATCH, TIME), options={"pre": norm_first}
    )
    gelu = lambda x: functional.gelu(x, approximate="tanh")  # noqa: E731
    layer = torch.nn.TransformerDecoderLayer(WIDTH, HEADS, 4 * WIDTH, activation=gelu, **options)

    class Causal(torch.nn.Module):
        def __init__(self, of):
            super().__init__()
            self.of = of

        def forward(self, x, memory, padding):
            mask = torch.ones(TIME, TIME, dtype=torch.bool).triu(1)
            return self.of(x, memory, tgt_mask=mask, memory_key_padding_mask=padding)

    inputs = cases.floats(*x), cases.floats(BATCH, KEYS, WIDTH), hidden(BATCH, KEYS)
    cases.add(f"decoder-{where}", Causal(layer), *inputs, options={"pre": norm_first})

cases.write()
