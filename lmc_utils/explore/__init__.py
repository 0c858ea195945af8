"""Figures that people drag: live widgets in JupyterLab and Colab, plain pages with a script in the static book."""

import json

from .adder import Adder, explore_adder
from .curves import Curves, explore
from .figure import Figure
from .matching import Matching, explore_matching
from .plane import PlaneFigure, explore_plane
from .simplex import Triangle, explore_simplex
from .spec import SpecFigure, explore_spec
from .symmetry import Walk, explore_symmetry
from .table import ResultTable, restyle, table

__all__ = [
    "Adder",
    "Curves",
    "Figure",
    "Matching",
    "PlaneFigure",
    "ResultTable",
    "SpecFigure",
    "Triangle",
    "Walk",
    "explore",
    "explore_adder",
    "explore_matching",
    "explore_plane",
    "explore_simplex",
    "explore_spec",
    "explore_symmetry",
    "restyle",
    "table",
    "wrap",
]

KINDS = {kind.kind: kind for kind in (Adder, Curves, Matching, PlaneFigure, SpecFigure, Triangle, Walk)}


def wrap(state: str) -> str:
    """Return the page fragment that today's script and style give a figure whose state an earlier output holds.

    Parameters
    ----------
    state
        The JSON text that a fragment carries in its script ``data-lmc-state``.

    Raises
    ------
    ValueError
        If there is no figure of this kind.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> figure = lmc.explore_spec(lmc.canonicalize(lmc.load_endpoint("mlp")))
    >>> wrap(figure.state) == figure._fragment()
    True
    """
    values = json.loads(state)
    if values.get("kind") not in KINDS:
        raise ValueError(f"there is no figure of kind {values.get('kind')!r}; there are {sorted(KINDS)}")
    return KINDS[values["kind"]](values)._fragment()
