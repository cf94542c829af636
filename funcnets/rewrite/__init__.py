"""From one net value to another, and their parameters with them."""

from funcnets.places import find as find
from funcnets.places import replace as replace
from funcnets.rewrite.adapters import Adapted as Adapted
from funcnets.rewrite.adapters import lora as lora
from funcnets.rewrite.adapters import merge_lora as merge_lora
from funcnets.rewrite.initialization import reinit as reinit
from funcnets.rewrite.initialization import with_init as with_init
from funcnets.rewrite.migration import Migration as Migration
from funcnets.rewrite.migration import migrate as migrate
from funcnets.rewrite.rolling import roll as roll
from funcnets.rewrite.stacking import stack as stack
from funcnets.rewrite.stacking import unstack as unstack
from funcnets.rewrite.unrolling import Unrolled as Unrolled
from funcnets.rewrite.unrolling import unroll as unroll

__all__ = [
    "Adapted",
    "Migration",
    "Unrolled",
    "find",
    "lora",
    "merge_lora",
    "migrate",
    "reinit",
    "replace",
    "roll",
    "stack",
    "unroll",
    "unstack",
    "with_init",
]
