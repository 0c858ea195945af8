"""Figures that people drag: live widgets in JupyterLab and Colab, plain pages with a script in the static book."""

from .curves import Curves, explore
from .figure import Figure
from .spec import SpecFigure, explore_spec

__all__ = ["Curves", "Figure", "SpecFigure", "explore", "explore_spec"]
