"""Finding the symmetry that brings one network to another: one method a file. Nothing here names an architecture."""

from .activation import activation_matching as activation_matching
from .learned import learned_matching as learned_matching
from .weight import weight_matching as weight_matching
