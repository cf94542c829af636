"""Writes pooling.npz: python tests/references/pooling.py (needs PyTorch)."""

import itertools

import torch
import torch.nn.functional as F
from writing import Cases

cases = Cases("pooling")
SPATIAL = {1: (8,), 2: (6, 7), 3: (4, 5, 3)}
MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
LP = {1: F.lp_pool1d, 2: F.lp_pool2d, 3: F.lp_pool3d}
ADAPTIVE_AVG = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
ADAPTIVE_MAX = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}
UNPOOL = {1: F.max_unpool1d, 2: F.max_unpool2d, 3: F.max_unpool3d}


def named(kind, *options):
    return "-".join((kind, *map(str, options))).replace(" ", "")


for axes, (window, stride, padding), dilation in itertools.product(
    (1, 2, 3), ((2, None, 0), (3, 2, 1), (2, 1, 1)), (1, 2)
):
    if SPATIAL[axes][-1] + 2 * padding < (window - 1) * dilation + 1:
        continue
    pool, x, given = MAX[axes], cases.floats(2, 2, *SPATIAL[axes]), (window, stride, padding, dilation)
    options = {"window": window, "strides": stride, "padding": padding, "dilation": dilation}
    _, at = pool(x, *given, return_indices=True)  # a second input, for the test to compare
    cases.add(named("max", f"{axes}d", *given), lambda x, at, pool=pool, o=given: pool(x, *o), x, at, options=options)
    cases.add(named("min", f"{axes}d", *given), lambda x, pool=pool, o=given: -pool(-x, *o), x, options=options)

for axes, (window, stride, padding), counted in itertools.product((1, 2, 3), ((2, None, 0), (3, 2, 1)), (True, False)):
    cases.add(
        named("avg", f"{axes}d", window, stride, padding, counted),
        lambda x, pool=AVG[axes], o=(window, stride, padding, False, counted): pool(x, *o),
        cases.floats(2, 2, *SPATIAL[axes]),
        options={"window": window, "strides": stride, "padding": padding, "count_include_pad": counted},
    )

for axes, power, (window, stride) in itertools.product((1, 2, 3), (1, 2, 3, 4, 2.5), ((2, None), (3, 2))):
    if axes > 1 and (window == 3) != (power in (2, 2.5)):
        continue
    x = cases.floats(2, 2, *SPATIAL[axes])
    x = x if power in (2, 4) else x.abs()  # else PyTorch has NaN for negative values or sums
    cases.add(
        named("lp", f"{axes}d", power, window, stride),
        lambda x, pool=LP[axes], o=(power, window, stride): pool(x, *o),
        x,
        options={"power": power, "window": window, "strides": stride},
    )

for axes, sizes in [(1, 1), (1, 3), (1, 8), (1, 11), (2, (3, 4)), (2, 1), (2, (6, 9)), (3, (2, 3, 2)), (3, (3, 7, 1))]:
    for kind, pools in (("adaptive_avg", ADAPTIVE_AVG), ("adaptive_max", ADAPTIVE_MAX)):
        cases.add(
            named(kind, f"{axes}d", sizes),
            lambda x, pool=pools[axes], sizes=sizes: pool(x, sizes),
            cases.floats(2, 2, *SPATIAL[axes]),
            options={"sizes": sizes},
        )

for axes, (window, stride), exact in itertools.product((1, 2, 3), ((2, None), (2, 3)), (True, False)):
    x = cases.floats(2, 2, *SPATIAL[axes])
    y, at = MAX[axes](x, window, stride, return_indices=True)
    size = SPATIAL[axes] if exact else None
    if size is None and max(at.flatten()) >= torch.tensor([(n - 1) * (stride or 2) + 2 for n in y.shape[2:]]).prod():
        continue
    cases.add(
        named("unpool", f"{axes}d", window, stride, exact),
        lambda y, at, pool=UNPOOL[axes], o=(window, stride), size=size: pool(y, at, *o, 0, size),
        y,
        at,
        options={"window": window, "strides": stride, "size": size},
    )
cases.write()
