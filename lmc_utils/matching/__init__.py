"""Finding the symmetry that brings one network to another: one method a file. Nothing here names an architecture."""

from .activation import activation_matching as activation_matching
from .learned import learned_matching as learned_matching
from .universe import learned_universe as learned_universe
from .universe import universe_matching as universe_matching
from .weight import weight_matching as weight_matching
