"""Linear mode connectivity modulo symmetry, in a few verbs: canonicalize, match, interpolate, explore."""

from .checkpoints import load_model, save_model
from .data import load_data, load_table
from .endpoints import list_endpoints, load_checkpoint, load_endpoint, save_checkpoint
from .explore import explore, explore_plane, explore_simplex, explore_spec, explore_symmetry
from .matching import activation_matching, learned_matching, learned_universe, universe_matching, weight_matching
from .networks import Network, assert_canonical, assert_invariant, canonicalize, invariance_error
from .paths import (
    Barriers,
    Curve,
    Plane,
    average,
    barrier,
    barriers,
    evaluate,
    interpolate,
    interpolate_plane,
    merge,
    merge_circuits,
)
from .prompt import Prompt, Text
from .repair import repair
from .simplex import Simplex, interpolate_simplex
from .spec import Alignment, Spec
from .symmetry import (
    Invertible,
    Orthogonal,
    Permutation,
    ScaledPermutation,
    SemiPermutation,
    SoftPermutation,
    StreamOrthogonal,
    Symmetry,
)
from .train import train

__all__ = [
    "Alignment",
    "Barriers",
    "Curve",
    "Invertible",
    "Network",
    "Orthogonal",
    "Permutation",
    "Plane",
    "Prompt",
    "ScaledPermutation",
    "SemiPermutation",
    "Simplex",
    "SoftPermutation",
    "Spec",
    "StreamOrthogonal",
    "Symmetry",
    "Text",
    "activation_matching",
    "assert_canonical",
    "assert_invariant",
    "average",
    "barrier",
    "barriers",
    "canonicalize",
    "evaluate",
    "explore",
    "explore_plane",
    "explore_simplex",
    "explore_spec",
    "explore_symmetry",
    "interpolate",
    "interpolate_plane",
    "interpolate_simplex",
    "invariance_error",
    "learned_matching",
    "learned_universe",
    "list_endpoints",
    "load_checkpoint",
    "load_data",
    "load_endpoint",
    "load_model",
    "load_table",
    "merge",
    "merge_circuits",
    "repair",
    "save_checkpoint",
    "save_model",
    "train",
    "universe_matching",
    "weight_matching",
]
