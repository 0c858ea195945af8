"""Figures that people drag: live widgets in JupyterLab and Colab, plain pages with a script in the static book."""

from .curves import Curves, explore
from .figure import Figure

__all__ = ["Curves", "Figure", "explore"]
