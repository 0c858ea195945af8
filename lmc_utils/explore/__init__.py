"""Figures that people drag: live widgets in JupyterLab and Colab, plain pages with a script in the static book."""

from .curves import Curves, explore
from .figure import Figure
from .plane import PlaneFigure, explore_plane
from .simplex import Triangle, explore_simplex
from .spec import SpecFigure, explore_spec
from .symmetry import Walk, explore_symmetry

__all__ = [
    "Curves",
    "Figure",
    "PlaneFigure",
    "SpecFigure",
    "Triangle",
    "Walk",
    "explore",
    "explore_plane",
    "explore_simplex",
    "explore_spec",
    "explore_symmetry",
]
