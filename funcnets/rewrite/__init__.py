"""From one net value to another, and their parameters with them."""

from funcnets.places import find as find
from funcnets.places import replace as replace
