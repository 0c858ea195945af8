"""Mixtures of three networks and more: the loss over the simplex, and its barrier (arXiv 2506.22712, Eq. 2)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..arguments import brief, count, instance, same_shape
from ..data import Batch
from ..networks.base import Network
from ..progress import progress
from .average import average, check_several
from .evaluate import MOST, Examples, held, measure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.tri import Triangulation, TriContourSet


@dataclass(frozen=True)
class Simplex:
    """Loss and accuracy of mixtures of M networks.

    Parameters
    ----------
    weights
        Shape (points, M): row by row the weights of a mixture, not negative, with sum one. The vertices are among them.
    loss
        Shape (points,), nats.
    accuracy
        Shape (points,), fractions.
    examples
        The answers to a few samples, for the figures; None for networks that do not classify whole inputs.
    calibrated
        The loss of each mixture with one temperature fitted to it, shape (points,), nats; None if not asked for.

    Raises
    ------
    TypeError
        If ``weights`` or a measure is no tensor.
    ValueError
        If the shapes do not fit, or a vertex is missing.
    """

    weights: Tensor
    loss: Tensor
    accuracy: Tensor
    examples: Examples | None = None
    calibrated: Tensor | None = None

    def __post_init__(self) -> None:
        instance("weights", self.weights, Tensor)
        same_shape(self.weights.shape, weights=self.weights)
        if self.weights.ndim != 2 or not self.weights.numel() or not self.weights.amax(0).min() > 1 - 1e-6:
            raise ValueError(f"weights must be rows of mixtures, each vertex among them, not {brief(self.weights)}")
        calibrated = {} if self.calibrated is None else {"calibrated": self.calibrated}
        same_shape(self.weights.shape[:1], loss=self.loss, accuracy=self.accuracy, **calibrated)

    def _over(self, values: Tensor) -> Tensor:
        """How far values lie above the mean of those at the vertices, weighted as the networks are."""
        return values - self.weights @ values[self.weights.argmax(0)]

    @property
    def excess(self) -> Tensor:
        """The loss of each mixture above the mixture of the networks' losses, shape (points,), nats."""
        return self._over(self.loss)

    @property
    def barrier(self) -> float:
        """The largest excess on the grid, in nats, for the supremum over the simplex (arXiv 2506.22712, Eq. 2)."""
        return self.excess.max().item()

    @property
    def barrier_at(self) -> tuple[float, ...]:
        """The weights of the mixture with the largest excess."""
        return tuple(self.weights[self.excess.argmax()].tolist())

    @property
    def barycentre(self) -> float:
        """The excess of the plain average of all networks, in nats."""
        return self.excess[self._middle].item()

    @property
    def accuracy_barrier(self) -> float:
        """The largest drop of a mixture's accuracy below the mixture of the networks' accuracies, a fraction."""
        return self._over(-self.accuracy).max().item()

    @property
    def calibrated_barrier(self) -> float:
        """The barrier of the calibrated loss, in nats; raises ValueError if it was not asked for."""
        if self.calibrated is None:
            raise ValueError("no calibrated loss here: ask for it with interpolate_simplex(..., calibrate=True)")
        return self._over(self.calibrated).max().item()

    @property
    def _middle(self) -> int:
        return int((self.weights - 1 / self.weights.shape[1]).abs().amax(1).argmin())

    def plot(self, ax: Axes | None = None, names: Sequence[str] = "ABC") -> Axes:
        """Draw the loss: over the triangle for three networks, else the excess by how many networks are mixed."""
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(5, 4), layout="constrained")
        if self.weights.shape[1] == 3:
            filled = draw_triangle(ax, self.weights, self.loss, names, levels=24)
            ax.figure.colorbar(filled, ax=ax, label="loss (nats)")
        else:
            ax.scatter(1 / self.weights.square().sum(1), self.excess, s=14)
            ax.set(xlabel="networks mixed: 1 / sum of squared weights", ylabel="excess loss (nats)")
            ax.spines[["top", "right"]].set_visible(False)
        return ax


def triangle(weights: Tensor) -> Tensor:
    """Mixtures of three networks as points of a triangle with sides of length 1, shape (2, points).

    The first network is at the lower left, the second at the lower right, the third on top.
    """
    return (weights @ torch.tensor([[0, 0], [1, 0], [0.5, 0.75**0.5]], dtype=weights.dtype)).T


def surface(weights: Tensor, values: Tensor) -> tuple[Triangulation, np.ndarray]:
    """A smooth surface through values over mixtures of three networks: each triangle of the grid in sixteen.

    Inside of a triangle it stays between the values at the corners, so it shows no hill that was not measured.
    """
    from matplotlib.tri import CubicTriInterpolator, Triangulation, UniformTriRefiner

    grid, values = Triangulation(*triangle(weights).numpy()), values.numpy()
    refiner = UniformTriRefiner(grid)
    fine, smooth = refiner.refine_field(values, CubicTriInterpolator(grid, values, kind="geom"), subdiv=2)
    _, inside = refiner.refine_triangulation(return_tri_index=True, subdiv=2)
    corners = values[grid.triangles[inside]]
    return fine, smooth.clip(corners.min(1), corners.max(1))


def draw_triangle(
    ax: Axes, weights: Tensor, values: Sequence[float], names: Sequence[str], **look: object
) -> TriContourSet:
    """Filled contours of values over mixtures of three networks."""
    filled = ax.tricontourf(*surface(weights, torch.as_tensor(values)), extend="both", **look)
    filled.set_rasterized(True)  # a drawing of all its small triangles would be ten times as large
    corners = triangle(torch.eye(3))
    ax.plot(*corners[:, [0, 1, 2, 0]], color="black", linewidth=0.8)
    for name, corner, shift in zip(names, corners.T.tolist(), [(-9, -9), (9, -9), (0, 9)], strict=True):
        ax.annotate(name, corner, shift, textcoords="offset points", ha="center", va="center", weight="bold")
    ax.set(aspect="equal")
    ax.axis("off")
    return filled


def lattice(vertices: int, points: int) -> Tensor:
    """All mixtures whose weights are multiples of ``1 / (points - 1)``, and the barycentre; shape (mixtures, vertices).

    Each edge has ``points`` of them. In order of the last weight, then of the one before it: the first vertex is first.
    """
    n = points - 1
    bars = combinations(range(n + vertices - 1), vertices - 1)  # between them lie the weights but the first, as counts
    rests = [[right - left - 1 for left, right in pairwise((-1, *places))] for places in bars]
    weights = torch.tensor([(n - sum(rest), *reversed(rest)) for rest in rests], dtype=torch.float64) / n
    return weights if n % vertices == 0 else torch.cat([weights, torch.full_like(weights[:1], 1 / vertices)])


def interpolate_simplex(
    networks: Sequence[Network], batches: Iterable[Batch], *, points: int = 7, calibrate: bool = False
) -> Simplex:
    """Loss and accuracy of mixtures of several networks, on a regular grid over the simplex.

    Parameters
    ----------
    networks
        M of one architecture, two or more; align them first to see what the symmetries hide.
    batches
        ``(inputs, targets)`` to evaluate on, held in memory; if they have ``classes``, these name the classes.
    points
        On each edge, both ends included: ``(points + M - 2)! / ((points - 1)! (M - 1)!)`` mixtures in all, 28 for three
        networks and 210 for five. The barycentre is added where the grid has none.
    calibrate
        Also fit one temperature to each mixture, for which all logits of one network at a time are held in memory.

    Raises
    ------
    TypeError
        If one is no network, or the batches are no pairs of tensors.
    ValueError
        If there are fewer than two networks, their architectures differ, ``points`` is below 2 or asks for more than
        100,000 mixtures; if there is no batch, a target is no number of a class, or a loss is not finite.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b, c = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in range(3))
    >>> sums = lmc.load_data("sums").test.take(100)
    >>> lmc.interpolate_simplex([a, b, c], sums, points=3).loss.shape
    torch.Size([7])
    """
    check_several(networks)
    if len(networks) < 2:
        raise ValueError(f"mixtures need two networks or more, not {len(networks)}")
    count("points", points, 2, MOST)
    instance("calibrate", calibrate, bool)
    if (many := math.comb(points + len(networks) - 2, points - 1)) > MOST:
        raise ValueError(f"points={points} for {len(networks)} networks are {many} mixtures, over {MOST}: lower points")
    passes, weights = held(batches), lattice(len(networks), points)

    def mixtures() -> Iterator[tuple[str, Network]]:
        for row in progress(weights.tolist(), desc="simplex"):
            yield f"the mixture {[round(weight, 4) for weight in row]}", average(networks, row)

    found = measure(mixtures(), passes, tuple(getattr(batches, "classes", ())), calibrate)
    return Simplex(weights, **found._asdict())
