"""From one net value to another, and their parameters with them."""

from funcnets.places import find as find
from funcnets.places import replace as replace
from funcnets.rewrite.adapters import Adapted as Adapted
from funcnets.rewrite.adapters import lora as lora
from funcnets.rewrite.adapters import merge_lora as merge_lora
