"""The loss on the plane through three networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..arguments import count, instance, number, same_shape
from ..data import Batch
from ..networks.base import Network
from ..progress import progress
from ..spec import Params
from .average import check_several
from .evaluate import MOST, Examples, held, measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Plane:
    """The loss on the plane through three networks.

    Parameters
    ----------
    x, y
        Coordinates of the grid, shape (points,) each, in units of distance in weight space.
    loss
        Shape (points, points), nats; rows follow ``y``, columns ``x``.
    corners
        The places of the three networks, shape (3, 2).
    examples
        What the networks of the grid answer to the first few images, row after row; None if the data are no images.

    Raises
    ------
    TypeError
        If one of them is no tensor.
    ValueError
        If the shapes do not fit.
    """

    x: Tensor
    y: Tensor
    loss: Tensor
    corners: Tensor
    examples: Examples | None = None

    def __post_init__(self) -> None:
        for name, axis in {"x": self.x, "y": self.y}.items():
            instance(name, axis, Tensor)
            same_shape((axis.numel(),), **{name: axis})
        same_shape((len(self.y), len(self.x)), loss=self.loss)
        same_shape((3, 2), corners=self.corners)

    def plot(self, ax: Axes | None = None, names: Sequence[str] = "ABC") -> Axes:
        """Draw the loss as filled contours, with the three networks and the straight lines between them."""
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(5.5, 4.4), layout="constrained")
        filled = ax.contourf(self.x, self.y, self.loss, levels=24, cmap="viridis")
        ax.figure.colorbar(filled, ax=ax, label="loss (nats)")
        ax.plot(*self.corners[[0, 1, 2, 0]].T, color="white", linewidth=1, linestyle=":")
        ax.plot(*self.corners.T, "o", color="white", markeredgecolor="black")
        for name, corner in zip(names, self.corners, strict=True):
            ax.annotate(name, corner, xytext=(6, 6), textcoords="offset points", color="white", weight="bold")
        ax.set(xlabel="distance in weight space", ylabel="distance in weight space", aspect="equal")
        return ax


def interpolate_plane(
    networks: Sequence[Network], batches: Iterable[Batch], *, points: int = 21, margin: float = 0.25
) -> Plane:
    """The loss on the plane through three networks (as in Garipov et al., arXiv 1802.10026, appendix).

    Parameters
    ----------
    networks
        Three networks of one architecture, not on one line.
    batches
        ``(inputs, targets)`` to evaluate on, held in memory.
    points
        The grid has ``points`` x ``points`` networks.
    margin
        How far the grid goes beyond the triangle, as a fraction of its width and height.

    Raises
    ------
    TypeError
        If one is no network, or the batches are no pairs of tensors.
    ValueError
        If there are not three networks, their architectures differ, or they lie on one line; if ``points`` is below 2
        or ``margin`` makes the grid vanish; if there is no batch, or a loss is not finite.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b, c = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in range(3))
    >>> sums = lmc.load_data("sums").test.take(100)
    >>> lmc.interpolate_plane([a, b, c], sums, points=3).loss.shape
    torch.Size([3, 3])
    """
    check_several(networks)
    if len(networks) != 3:
        raise ValueError(f"three networks span a plane, but there are {len(networks)}")
    count("points", points, 2, math.isqrt(MOST))
    margin = number("margin", margin, above=-0.5)
    passes = held(batches)
    origin, p, q = (_flatten(network.params) for network in networks)
    ex = (p - origin) / (p - origin).norm()
    ey = (q - origin) - ex.dot(q - origin) * ex
    if ey.norm() < 1e-6 * (q - origin).norm() or not torch.isfinite(ex).all():
        raise ValueError("the three networks lie on one line: they span no plane")
    ey /= ey.norm()
    corners = torch.stack([torch.stack([ex.dot(v - origin), ey.dot(v - origin)]) for v in (origin, p, q)])
    low, high = corners.min(0).values, corners.max(0).values
    low, high = low - margin * (high - low), high + margin * (high - low)
    x, y = (torch.linspace(low[i], high[i], points, dtype=torch.float64) for i in (0, 1))
    steps = [(u, v) for v in y for u in x]
    template = networks[0]

    def grid() -> Iterator[tuple[str, Network]]:
        for u, v in progress(steps, desc="plane"):
            params = _unflatten(origin + u * ex + v * ey, template.params)
            yield f"the network at ({u:.4g}, {v:.4g}) of the plane", Network(template.architecture, params)

    found = measure(grid(), passes, tuple(getattr(batches, "classes", ())))
    return Plane(x, y, found.loss.view(points, points), corners, found.examples)


def _flatten(params: Params) -> Tensor:
    return torch.nn.utils.parameters_to_vector(params.values()).double()


def _unflatten(vector: Tensor, like: Params) -> Params:
    pieces = vector.split([p.numel() for p in like.values()])
    return {name: piece.view_as(p).to(p.dtype) for (name, p), piece in zip(like.items(), pieces, strict=True)}
