"""Writes recurrent.npz: python tests/references/recurrent.py (needs PyTorch)."""

import itertools

import torch
from writing import Cases

IN, HIDDEN, BATCH, TIME = 3, 2, 3, 5
LENGTHS = [3, 5, 1]
CELLS = {"RNN": torch.nn.RNNCell, "LSTM": torch.nn.LSTMCell, "GRU": torch.nn.GRUCell}
LAYERS = {"RNN": torch.nn.RNN, "LSTM": torch.nn.LSTM, "GRU": torch.nn.GRU}


class Cell(torch.nn.Module):
    """A cell, which is given its states one by one."""

    def __init__(self, kind, **options):
        super().__init__()
        self.cell = CELLS[kind](IN, HIDDEN, **options)

    def forward(self, x, *states):
        return self.cell(x, states if len(states) == 2 else states[0])


class Run(torch.nn.Module):
    """A recurrent layer over sequences of these lengths, which is given its states one by one, if any."""

    def __init__(self, kind, lengths, **options):
        super().__init__()
        self.layer = LAYERS[kind](IN, HIDDEN, batch_first=True, **options)
        self.lengths = lengths

    def forward(self, x, *states):
        start = (states if len(states) == 2 else states[0]) if states else None
        if self.lengths is None:
            return self.layer(x, start)
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            x, torch.tensor(self.lengths), batch_first=True, enforce_sorted=False
        )
        y, last = self.layer(packed, start)
        return torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=TIME)[0], last


cases = Cases("recurrent")


def states(kind, *shape):
    return [cases.floats(*shape, HIDDEN) for _ in range(2 if kind == "LSTM" else 1)]


for kind, bias in itertools.product(CELLS, (True, False)):
    name = f"cell-{kind}-{'bias' if bias else 'plain'}"
    options = {"cell": kind, "fields": {"use_bias": bias}}
    cases.add(name, Cell(kind, bias=bias), cases.floats(BATCH, IN), *states(kind, BATCH), options=options)
cases.add(
    "cell-RNN-relu",
    Cell("RNN", nonlinearity="relu"),
    cases.floats(BATCH, IN),
    *states("RNN", BATCH),
    options={"cell": "RNN", "fields": {"activation": "relu"}},
)

for kind, (layers, both, lengths, given) in itertools.product(
    LAYERS, [(1, False, None, False), (2, False, LENGTHS, True), (1, True, None, True), (2, True, LENGTHS, False)]
):
    name = f"layers-{kind}-{layers}{'-both' * both}{'-lengths' * bool(lengths)}{'-states' * given}"
    cases.add(
        name,
        Run(kind, lengths, num_layers=layers, bidirectional=both),
        cases.floats(BATCH, TIME, IN),
        *(states(kind, layers * (1 + both), BATCH) if given else []),
        options={"cell": kind, "fields": {}, "layers": layers, "both": both, "lengths": lengths},
    )
cases.write()
