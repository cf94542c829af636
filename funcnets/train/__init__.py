"""Training: a state, a compiled step, data in an order that a resume can find again, and a loop around them that may
be broken off anywhere. Losses and optimisers are optax's.
"""

from funcnets.train.averaging import averaged as averaged
from funcnets.train.averaging import ema as ema
from funcnets.train.compilation import cache_compilations as cache_compilations
from funcnets.train.data import Batches as Batches
from funcnets.train.data import batches as batches
from funcnets.train.evaluation import evaluate as evaluate
from funcnets.train.fitting.fit import Run as Run
from funcnets.train.fitting.fit import fit as fit
from funcnets.train.fitting.history import History as History
from funcnets.train.fitting.journals import json_lines as json_lines
from funcnets.train.fitting.journals import tensorboard as tensorboard
from funcnets.train.prefetching import Prefetch as Prefetch
from funcnets.train.prefetching import prefetch as prefetch
from funcnets.train.scaling import scale_loss as scale_loss
from funcnets.train.scaling import skipped as skipped
from funcnets.train.state import TrainState as TrainState
from funcnets.train.state import create as create
from funcnets.train.step import Step as Step
from funcnets.train.step import make_step as make_step

__all__ = [
    "Batches",
    "History",
    "Prefetch",
    "Run",
    "Step",
    "TrainState",
    "averaged",
    "batches",
    "cache_compilations",
    "create",
    "ema",
    "evaluate",
    "fit",
    "json_lines",
    "make_step",
    "prefetch",
    "scale_loss",
    "skipped",
    "tensorboard",
]
