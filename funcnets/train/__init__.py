"""Training: a state, a compiled step, data in an order that a resume can find again. Losses and optimisers are
optax's.
"""

from funcnets.train.data import Batches as Batches
from funcnets.train.data import batches as batches
from funcnets.train.step import TrainState as TrainState
from funcnets.train.step import create as create
from funcnets.train.step import evaluate as evaluate
from funcnets.train.step import make_step as make_step

__all__ = [
    "Batches",
    "TrainState",
    "batches",
    "create",
    "evaluate",
    "make_step",
]
