"""Writes embedding.npz: python tests/references/embedding.py (needs PyTorch)."""

import torch
from writing import Cases

cases = Cases("embedding")
ids = torch.tensor(cases.rng.integers(0, 5, size=(3, 4)))
cases.add("embedding-padding", torch.nn.Embedding(5, 3, padding_idx=2), ids, options={"padding_id": 2})
for mode in ("mean", "sum", "max"):
    bag = torch.nn.EmbeddingBag(5, 3, mode=mode)
    cases.add(f"bag-{mode}", bag, ids, options={"mode": mode})
    # PyTorch leaves its padding_idx out of a bag: the last bag is empty.
    padded = ids.clone()
    padded[2] = 2
    cases.add(f"masked-{mode}", torch.nn.EmbeddingBag(5, 3, mode=mode, padding_idx=2), padded, options={"mode": mode})
cases.add("weighted-sum", lambda ids, weights, table: torch.nn.functional.embedding_bag(
    ids, table, mode="sum", per_sample_weights=weights
), ids, cases.floats(3, 4), cases.floats(5, 3))  # fmt: skip
cases.write()
