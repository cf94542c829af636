"""From one net value to another, and their parameters with them."""

from funcnets.places import find as find
from funcnets.places import replace as replace
from funcnets.rewrite.initialization import reinit as reinit
from funcnets.rewrite.initialization import with_init as with_init
from funcnets.rewrite.migration import Migration as Migration
from funcnets.rewrite.migration import migrate as migrate
