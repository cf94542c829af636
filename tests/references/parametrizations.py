"""Writes parametrizations.npz: python tests/references/parametrizations.py (needs PyTorch)."""

import torch
from torch.nn.utils import parametrizations
from writing import Cases

cases = Cases("parametrizations")


class Thrice(torch.nn.Module):
    """Three calls in a row, each of which moves the buffers."""

    def __init__(self, layer, train):
        super().__init__()
        self.layer = layer
        self.train(train)

    def forward(self, x):
        return self.layer(x), self.layer(x), self.layer(x)


cases.add("weight_norm-dense", parametrizations.weight_norm(torch.nn.Linear(4, 3)), cases.floats(2, 4))
cases.add("weight_norm-conv", parametrizations.weight_norm(torch.nn.Conv2d(2, 3, (3, 2))), cases.floats(2, 2, 5, 4))
whole = parametrizations.weight_norm(torch.nn.Linear(4, 3), dim=None)
cases.add("weight_norm-whole", whole, cases.floats(2, 4), options={"axis": None})
for iterations in (1, 3):
    for train in (True, False):
        layer = parametrizations.spectral_norm(torch.nn.Linear(4, 3), n_power_iterations=iterations)
        name = f"spectral_norm-{iterations}-{'train' if train else 'eval'}"
        cases.add(name, Thrice(layer, train), cases.floats(2, 4), options={"iterations": iterations, "train": train})
conv = parametrizations.spectral_norm(torch.nn.Conv1d(2, 3, 3))
cases.add("spectral_norm-conv", Thrice(conv, True), cases.floats(2, 2, 5), options={"iterations": 1, "train": True})
cases.add("orthogonal", parametrizations.orthogonal(torch.nn.Linear(4, 4), orthogonal_map="cayley"), cases.floats(2, 4))
cases.write()
