from __future__ import annotations

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from funcnets.layers.pooling import AvgPool
from funcnets.layers.taps import dividing_table, picked, sliding_counts, sliding_table


def test_sliding_windows_are_those_of_the_formula():
    options = itertools.product(range(1, 6), (1, 2, 3), (1, 2, 3), (1, 2), range(4), range(4))
    for n, width, stride, dilation, low, high in options:
        given = (n, width, stride, dilation, (low, high))
        wanted: list[list[int]] = []
        for start in range(-low, n + high - (width - 1) * dilation, stride):
            taps = [start + t * dilation for t in range(width)]
            wanted.append([i if 0 <= i < n else -1 for i in taps])
        if wanted:
            assert sliding_table(*given).tolist() == wanted, given
            assert sliding_counts(*given).tolist() == [sum(i >= 0 for i in taps) for taps in wanted], given


def test_dividing_windows_run_from_floor_to_ceil():
    for n, windows in itertools.product(range(1, 9), range(1, 12)):
        table = dividing_table(n, windows)
        for o, taps in enumerate(table):
            wanted = list(range(math.floor(o * n / windows), math.ceil((o + 1) * n / windows)))
            assert [i for i in taps.tolist() if i >= 0] == wanted, (n, windows)


@pytest.mark.parametrize("spatial", [(5,), (5, 4), (5, 4, 3)])
def test_picked_values_stand_at_their_indices(spatial):
    x = np.random.default_rng(0).standard_normal((2, *spatial, 2)).astype(np.float32)
    tables = [sliding_table(n, 2, 1, 2, (1, 1)) for n in spatial]
    y, indices = picked(jnp.asarray(x), tables, jnp.argmin)
    at = np.asarray(indices).reshape(2, -1, 2)
    np.testing.assert_array_equal(np.take_along_axis(x.reshape(2, -1, 2), at, 1).reshape(y.shape), y)


def test_a_wide_window_over_a_long_axis_takes_little_memory():
    net = AvgPool(50_000, strides=1, padding="SAME")
    assert net.plan(np.zeros((1, 200_000, 1), np.float32)).output.shape == (1, 200_000, 1)
