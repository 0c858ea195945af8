"""Classes of symmetry: what a matrix on one site may be, and how the best one is found."""

from .base import LARGEST, LEVELS, Dense, Paired, Symmetry, apply, check_composable, to_front
from .bases import (
    Invertible,
    Orthogonal,
    RMSOrthogonal,
    Rotary,
    RotaryPhase,
    RotarySign,
    StreamOrthogonal,
    fix_ones,
    polar,
)
from .units import (
    Fixed,
    Permutation,
    ScaledPermutation,
    SemiPermutation,
    SoftPermutation,
    reshare,
    sinkhorn,
)

__all__ = [
    "LARGEST",
    "LEVELS",
    "Dense",
    "Fixed",
    "Invertible",
    "Orthogonal",
    "Paired",
    "Permutation",
    "RMSOrthogonal",
    "Rotary",
    "RotaryPhase",
    "RotarySign",
    "ScaledPermutation",
    "SemiPermutation",
    "SoftPermutation",
    "StreamOrthogonal",
    "Symmetry",
    "apply",
    "check_composable",
    "fix_ones",
    "polar",
    "reshare",
    "sinkhorn",
    "to_front",
]
