"""``explore_plane``: the loss on the plane through two networks and an aligned copy, with a probe to drag."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..arguments import brief, instance, wording
from ..landscape.curve import Curve
from ..landscape.plane import Plane
from ..style import GRID, MUTED, styles
from .figure import Figure, digits, show
from .methods import check_words, named
from .strip import answers, pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure as StaticFigure

CAPTION = (
    "Drag the probe over the plane, or use the arrow keys, and read the loss of the network that stands there; "
    "send it along a straight line and compare the two profiles."
)
BANDS = 14  # of colour
UNITS = 1000  # the drawn contours are whole numbers, so many over the width of the plane


class PlaneFigure(Figure):
    """The figure that :func:`explore_plane` returns."""

    kind = "plane"

    @property
    def data(self) -> dict[str, Any]:
        """What is shown, as plain lists of floats rounded to five significant digits.

        ``x``, ``y`` (distances in weight space) and ``loss`` (rows follow ``y``; nats) of the grid; ``networks[name]``,
        the place (x, y) of each; ``lambdas``, and ``paths[method]`` with ``loss`` and ``barrier``.
        """
        state = self.shown
        return {
            **{field: state[field] for field in ("x", "y", "loss", "lambdas")},
            "networks": dict(zip(state["names"], state["corners"], strict=True)),
            "paths": {path["name"]: {"loss": path["loss"], "barrier": path["barrier"]} for path in state["paths"]},
        }

    @property
    def summary(self) -> str:
        state = self.shown
        title = f"{state['title']}. " if state["title"] else ""
        return f"{title}The loss on the plane through the networks {', '.join(state['names'])}, with a probe to drag"

    def table(self) -> tuple[list[str], list[list[str]]]:
        state = self.shown
        names, corners, paths = state["names"], state["corners"], state["paths"]
        losses = [paths[0]["loss"][0], *(path["loss"][-1] for path in paths)]
        heights = ["–", *(show(path["barrier"]) for path in paths)]
        header = ["network", "loss (nats)", f"barrier from {names[0]} (nats)", *(f"distance to {n}" for n in names)]
        rows = [
            [name, show(loss), height, *(show(math.dist(place, other)) for other in corners)]
            for name, loss, height, place in zip(names, losses, heights, corners, strict=True)
        ]
        return header, rows

    def static(self) -> StaticFigure:
        """The twin in matplotlib: the plane with its contours, and the loss along both straight lines."""
        from matplotlib.figure import Figure as StaticFigure

        state = self.shown
        names, corners, lambdas, levels = (state[key] for key in ("names", "corners", "lambdas", "levels"))
        figure = StaticFigure(figsize=(9, 3.6), layout="constrained")
        plane, profile = figure.subplots(1, 2, width_ratios=(4, 3))
        grid = state["x"], state["y"], state["loss"]
        filled = plane.contourf(*grid, levels=[levels[0] / 2, *levels[1:-1], 2 * levels[-1]], colors=state["colors"])
        bar = figure.colorbar(filled, ax=plane, spacing="uniform", label="loss (nats), log scale", shrink=0.9)
        bar.set_ticks(levels[1:-1:3], labels=[show(level) for level in levels[1:-1:3]])
        for path, tip in zip(state["paths"], corners[1:], strict=True):
            color, dash, loss = path["color"], (0, tuple(path["dash"])), path["loss"]
            plane.plot(*zip(corners[0], tip, strict=True), color="white", linestyle=dash, linewidth=2)
            profile.plot(lambdas, loss, color=color, linestyle=dash, linewidth=2)
            profile.plot([0, 1], [loss[0], loss[-1]], color=color, linewidth=0.8, marker="o", markersize=4)
            at, top = max(zip(lambdas, loss, strict=True), key=lambda point: point[1])
            text = f"{path['name']}: barrier {show(path['barrier'])}"
            look = {"color": color, "fontsize": 9, "ha": "center", "parse_math": False}
            profile.annotate(text, (min(max(at, 0.4), 0.6), top), (0, 6), textcoords="offset points", **look)
        plane.scatter(*zip(*corners, strict=True), color="white", edgecolors="black", zorder=3)
        for name, place in zip(names, corners, strict=True):
            plane.annotate(name, place, (7, 6), textcoords="offset points", color="white", weight="bold")
        plane.set(xlabel="distance in weight space", aspect="equal")
        plane.tick_params(colors=MUTED, length=0)
        profile.set_title("loss along the straight lines (nats)", fontsize=10, loc="left")
        profile.set_xticks([0, 0.25, 0.5, 0.75, 1], [names[0], "0.25", "λ = 0.5", "0.75", " or ".join(names[1:])])
        profile.tick_params(colors=MUTED, length=0)
        profile.grid(axis="y", color=GRID, linewidth=0.6)
        profile.margins(y=0.15)
        for axes in (plane, profile):
            axes.spines[:].set_visible(False)
        if state["title"]:
            figure.suptitle(state["title"], fontsize=11, parse_math=False)
        return figure


def explore_plane(
    plane: Plane,
    paths: Mapping[str, Curve],
    *,
    names: Sequence[str] = ("A", "B", "π(B)"),
    title: str = "",
    caption: str | None = None,
) -> PlaneFigure:
    """An interactive figure of the loss on the plane through three networks.

    The probe moves only over networks that were measured, those of the plane's grid and those of the two paths: every
    number that it shows is one that Python computed. (The contours run straight between the points of the grid.)
    Colours follow the logarithm of the loss, so that a high ridge leaves colours for the valleys.

    Parameters
    ----------
    plane
        The loss on the plane: ``lmc.interpolate_plane([a, b, g(b)], batches)``.
    paths
        The loss on the straight lines from the first network to the second and to the third, on the same batches:
        ``{"vanilla": lmc.interpolate(a, b, batches), "learned": lmc.interpolate(a, g(b), batches)}``. The names choose
        colours and dashes (:func:`lmc_utils.style.style`). Where the batches are images, a strip shows what the network
        under the probe answers to some.
    names
        Of the three networks.
    title
        Stands above the figure.
    caption
        One sentence: what to do and what to see. A default if None.

    Raises
    ------
    TypeError
        If these are no plane and no curves, or a name, the title or the caption is no text.
    ValueError
        If there are not two paths and three different names, the paths have different lambdas or start from different
        losses, a loss is not a positive finite number, the grid does not grow, or a name has a control character or
        more than 200 letters.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b, c = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in range(3))
    >>> sums = lmc.load_data("sums").test.take(100)
    >>> paths = {name: lmc.interpolate(a, x, sums, points=3) for name, x in {"B": b, "C": c}.items()}
    >>> lmc.explore_plane(lmc.interpolate_plane([a, b, c], sums, points=3), paths)
    The loss on the plane through the networks A, B, π(B), with a probe to drag
    """
    check_words(title, caption)
    instance("plane", plane, Plane, "lmc.interpolate_plane measures one")
    named("paths", paths, '{"vanilla": lmc.interpolate(a, b, batches), ...}')
    for name, path in paths.items():
        instance(f"the path {name!r}", path, Curve, "lmc.interpolate measures one")
    instance("names", names, Sequence)
    for i, name in enumerate(names):
        wording(f"names[{i}]", name)
    if len(set(names)) < len(names):
        raise ValueError(f"names must tell the networks apart, but are {brief(list(names))}")
    if len(paths) != 2 or len(names) != 3:
        raise ValueError(
            f"a plane has three networks and two straight lines from the first one: got the names {list(names)} "
            f"and the paths {list(paths)}"
        )
    for what, loss in {"the plane": plane.loss, **{f"{name!r}": curve.loss for name, curve in paths.items()}}.items():
        if not (loss.isfinite() & (loss > 0)).all():
            raise ValueError(
                f"a loss of {what}, of shape {tuple(loss.shape)}, is not a positive finite number: "
                "take a smaller margin around the triangle, or check the networks"
            )
    for name, axis in {"x": plane.x, "y": plane.y}.items():
        if len(axis) < 2 or not (axis.diff() > 0).all():
            raise ValueError(f"{name} of the plane must be two numbers or more, each larger than the last")
    if not plane.corners.isfinite().all():
        raise ValueError(f"the corners of the plane, {plane.corners.tolist()}, must be finite")
    first, second = paths.values()
    if first.lambdas.tolist() != second.lambdas.tolist():
        raise ValueError(f"both paths need the same lambdas, but have {len(first.lambdas)} and {len(second.lambdas)}")
    if not math.isclose(first.loss[0], second.loss[0], rel_tol=1e-3):
        raise ValueError(
            f"both paths start at {names[0]}, but its loss is {show(first.loss[0].item())} on the one and "
            f"{show(second.loss[0].item())} on the other: evaluate both on the same batches"
        )
    images, chosen = None, None
    if plane.examples is not None and (picked := pictures({n: path.examples for n, path in paths.items()}, "")):
        images, chosen = picked
        if not torch.equal(plane.examples.targets, first.examples.targets):
            raise ValueError("the plane and the paths saw different examples: evaluate all on the same batches")
    levels, colors, regions = _bands(plane)
    return PlaneFigure(
        {
            "title": title,
            "caption": CAPTION if caption is None else caption,
            "names": list(names),
            "x": digits(plane.x),
            "y": digits(plane.y),
            "loss": [digits(row) for row in plane.loss],
            "images": images,
            "ground": answers(plane.examples, chosen),
            "corners": [digits(corner) for corner in plane.corners],
            "lambdas": digits(first.lambdas),
            "paths": [
                {
                    "name": name,
                    "color": look.color,
                    "dark": look.dark,
                    "dash": look.dash[1],
                    "loss": digits(paths[name].loss),
                    "barrier": digits([paths[name].barrier])[0],
                    **answers(paths[name].examples, chosen),
                }
                for name, look in styles(paths).items()
            ],
            "levels": levels,
            "colors": colors,
            "regions": regions,
        }
    )


def _bands(plane: Plane) -> tuple[list[float], list[str], list[str]]:
    """Bands of colour, each a constant factor in loss.

    Returns
    -------
    levels : list of float
        The edges of the bands, increasing, nats.
    colors : list of str
        One a band, perceptually uniform.
    regions : list of str
        For each band but the lowest the region of at least its loss, as an SVG path: drawn one upon another.
    """
    from contourpy import FillType, contour_generator
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    low, high = plane.loss.min().item(), plane.loss.max().item()
    levels = np.geomspace(low, max(high, 1.01 * low), BANDS + 1)
    width = (plane.x[-1] - plane.x[0]).item()
    generator = contour_generator(
        *((axis - axis[0]) / width * UNITS for axis in (plane.x.numpy(), plane.y.numpy())),
        plane.loss.numpy(),
        fill_type=FillType.OuterOffset,
    )
    regions = [_path(*generator.filled(level, 2 * levels[-1])) for level in levels[1:-1]]
    colors = [to_hex(colormaps["viridis"](i / (BANDS - 1))) for i in range(BANDS)]
    return digits(levels), colors, regions


def _path(polygons: list[np.ndarray], offsets: list[np.ndarray]) -> str:
    """Polygons with holes, shape (n, 2) each with the offsets of its rings, as an SVG path of whole numbers."""
    rings = (
        ring[start:end].round().astype(int)
        for ring, cuts in zip(polygons, offsets, strict=True)
        for start, end in pairwise(cuts.tolist())
    )
    return "".join("M" + "L".join(f"{x} {y}" for x, y in ring[:-1].tolist()) + "Z" for ring in rings)
