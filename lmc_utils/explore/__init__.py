"""Figures that people drag: live widgets in JupyterLab and Colab, plain pages with a script in the static book."""

from .curves import Curves, explore
from .figure import Figure
from .simplex import Triangle, explore_simplex

__all__ = ["Curves", "Figure", "Triangle", "explore", "explore_simplex"]
