"""A whole run around a step: data, evaluation, checkpoints, logs, and an end that can be gone on from.

    run = train.fit(step, state, data, epochs=40, evaluate=..., best="loss", checkpoints=fn.Checkpoints("runs/a"))

`fit` is the loop that anybody would write by hand, `state, metrics = step(state, data[i])`, and knows nothing of nets:
whatever it is given are plain functions and values. With checkpoints a run that was broken off anywhere, by a signal, a
crash or a loss of power, and is started again by the same program ends as one that was left alone, bit for bit: with the
same parameters and optimiser, the same best, and the same history.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import jax
import numpy as np

from funcnets.checkpoint import Checkpoints
from funcnets.shapes import show
from funcnets.train.feed import Feed
from funcnets.train.history import Criterion, History
from funcnets.train.interruption import Interruption
from funcnets.train.journals import Callback
from funcnets.train.pending import Pending, number
from funcnets.train.profiling import Profile, Profiler
from funcnets.train.progress import Bar

S = TypeVar("S")
Stopped = Literal["finished", "patience", "callback", "exhausted", "interrupted"]
