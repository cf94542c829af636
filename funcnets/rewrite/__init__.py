"""From one net value to another, and their parameters with them."""

from funcnets.places import find as find
from funcnets.places import replace as replace
from funcnets.rewrite.rolling import roll as roll
from funcnets.rewrite.stacking import stack as stack
from funcnets.rewrite.stacking import unstack as unstack
from funcnets.rewrite.unrolling import Unrolled as Unrolled
from funcnets.rewrite.unrolling import unroll as unroll
