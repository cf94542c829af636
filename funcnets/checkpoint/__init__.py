"""Checkpoints: training states on disk, by step; what holds of them is said in `funcnets.checkpoint.checkpoints`."""

from funcnets.checkpoint.checkpoints import Checkpoints as Checkpoints

__all__ = ["Checkpoints"]
