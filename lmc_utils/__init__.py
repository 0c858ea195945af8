"""Linear mode connectivity modulo symmetry, in a few verbs: canonicalize, match, interpolate, explore."""

from .checkpoints import load_model, save_model
from .data import load_data
from .endpoints import list_endpoints, load_checkpoint, load_endpoint, save_checkpoint
from .explore import explore
from .matching import activation_matching, weight_matching
from .networks import Network, assert_invariant, canonicalize, invariance_error
from .paths import Curve, Plane, barrier, evaluate, interpolate, interpolate_plane, merge
from .repair import repair
from .spec import Alignment, Spec
from .symmetry import (
    Invertible,
    Orthogonal,
    Permutation,
    ScaledPermutation,
    SemiPermutation,
    StreamOrthogonal,
    Symmetry,
)
from .train import train

__all__ = [
    "Alignment",
    "Curve",
    "Invertible",
    "Network",
    "Orthogonal",
    "Permutation",
    "Plane",
    "ScaledPermutation",
    "SemiPermutation",
    "Spec",
    "StreamOrthogonal",
    "Symmetry",
    "activation_matching",
    "assert_invariant",
    "barrier",
    "canonicalize",
    "evaluate",
    "explore",
    "interpolate",
    "interpolate_plane",
    "invariance_error",
    "list_endpoints",
    "load_checkpoint",
    "load_data",
    "load_endpoint",
    "load_model",
    "merge",
    "repair",
    "save_checkpoint",
    "save_model",
    "train",
    "weight_matching",
]
