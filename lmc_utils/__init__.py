"""Linear mode connectivity modulo symmetry, in a few verbs: canonicalize, match, interpolate, explore."""

from .checks import check_network
from .data import load_data, load_table
from .explore import (
    explore,
    explore_adder,
    explore_matching,
    explore_plane,
    explore_simplex,
    explore_spec,
    explore_symmetry,
    table,
)
from .landscape.average import average, merge, merge_circuits
from .landscape.curve import Barriers, Curve, barrier, barriers, interpolate
from .landscape.estimate import Estimate, estimate, summarize
from .landscape.evaluate import evaluate
from .landscape.plane import Plane, interpolate_plane
from .landscape.prompt import Prompt, Text
from .landscape.repair import repair
from .landscape.simplex import Simplex, interpolate_simplex
from .matching import activation_matching, learned_matching, learned_universe, universe_matching, weight_matching
from .moved import MOVED, Moved
from .networks import (
    Network,
    assert_canonical,
    assert_invariant,
    canonicalize,
    flat_directions,
    invariance_error,
)
from .spec import Alignment, Spec
from .symmetry import (
    Fixed,
    Invertible,
    Orthogonal,
    Permutation,
    RMSOrthogonal,
    Rotary,
    RotaryPhase,
    RotarySign,
    ScaledPermutation,
    SemiPermutation,
    SoftPermutation,
    StreamOrthogonal,
    Symmetry,
)
from .train import train
from .zoo.endpoints import list_endpoints, load_checkpoint, load_endpoint, save_checkpoint
from .zoo.folders import load_model, save_model

for _old in MOVED:
    globals().setdefault(_old, Moved(_old))

__all__ = [
    "Alignment",
    "Barriers",
    "Curve",
    "Estimate",
    "Fixed",
    "Invertible",
    "Network",
    "Orthogonal",
    "Permutation",
    "Plane",
    "Prompt",
    "RMSOrthogonal",
    "Rotary",
    "RotaryPhase",
    "RotarySign",
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
    "check_network",
    "estimate",
    "evaluate",
    "explore",
    "explore_adder",
    "explore_matching",
    "explore_plane",
    "explore_simplex",
    "explore_spec",
    "explore_symmetry",
    "flat_directions",
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
    "summarize",
    "table",
    "train",
    "universe_matching",
    "weight_matching",
]
