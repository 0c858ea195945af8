"""``explore_matching``: how alike the units of two networks are, while they are numbered alike one by one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..alignment import Alignment
from ..arguments import choice, count, instance
from ..data import Batch
from ..landscape.average import merge
from ..landscape.evaluate import evaluate, held
from ..matching.activation import cross_moments
from ..networks.base import Network, check_networks, check_same_architecture
from ..progress import progress
from .figure import Figure, digits, png, quiet, show
from .methods import check_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as StaticFigure

CAPTION = (
    "Drag the marker to give units of B the numbers of their partners in A, the best pairs first: the diagonal "
    "appears, and the loss of the network half way falls"
)
BLUE, ORANGE = (0, 114, 178), (213, 94, 0)  # alike, and opposite
SHADES = 16  # of a correlation: a page needs no more, and they take a quarter of the room


class Matching(Figure):
    """The figure that :func:`explore_matching` returns."""

    kind = "matching"

    @property
    def data(self) -> dict[str, Any]:
        """``placed`` units, ``excess`` half way (nats) and ``likeness``, the mean correlation of pairs, by step."""
        return {key: self.shown[key] for key in ("placed", "excess", "likeness")}

    @property
    def summary(self) -> str:
        title = f"{self.shown['title']}. " if self.shown["title"] else ""
        return f"{title}Units of B numbered like those of A, one by one: their correlations, and the loss half way"

    def table(self) -> tuple[list[str], list[list[str]]]:
        columns = [self.shown[key] for key in ("placed", "excess", "likeness")]
        rows = [[str(placed), *map(show, rest)] for placed, *rest in zip(*columns, strict=True)]
        return ["units in place", "excess half way (nats)", "mean correlation of pairs"], rows

    def static(self) -> StaticFigure:
        """The twin in matplotlib: the excess half way while units find their places."""
        from matplotlib.figure import Figure as StaticFigure

        figure = StaticFigure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.shown["placed"], self.shown["excess"], color="#0072B2", linewidth=2, marker="o", markersize=4)
        axes.set_title("excess of the loss half way (nats)", fontsize=10, loc="left")
        axes.set_xlabel("units of each layer that are in place")
        quiet(axes)
        return figure


def explore_matching(
    a: Network,
    b: Network,
    alignment: Alignment,
    batches: Iterable[Batch],
    *,
    site: str | None = None,
    steps: int = 16,
    title: str = "",
    caption: str | None = None,
) -> Matching:
    """An interactive figure of a matching while it is carried out, unit by unit, in all layers at once.

    Parameters
    ----------
    a, b
        Networks of one architecture.
    alignment
        What brings b into the coordinates of a: relabelling is done step by step; all other maps are applied at once.
    batches
        ``(inputs, targets)`` for losses; the first minibatch shows how the activations of units correlate.
    site
        Whose units are shown; by default the first that is relabelled. Of its 512 units at most.
    steps
        Into how many the assignment is divided.
    title, caption
        Above and below the figure.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If the networks differ in architecture or size, none of their units are relabelled, ``site`` is none of these
        or has more than 512 units, or the data are empty or cannot be read.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("mlp", seed)) for seed in (0, 1))
    >>> few = lmc.load_data("fashion-mnist").test.take(200)
    >>> figure = lmc.explore_matching(a, b, lmc.weight_matching(a, b), few, steps=2)
    >>> figure.data["placed"]
    [0, 128, 256]
    """
    check_words(title, caption)
    check_networks(a=a, b=b)
    check_same_architecture(a, b)
    instance("alignment", alignment, Alignment, "such as weight_matching(a, b)")
    count("steps", steps, 1, 64)
    passes = held(batches)
    moments = cross_moments(a, b, passes[:1])
    classes = {name: b.spec.sites[name].symmetry for name in moments if not b.spec.sites[name].within}
    sites = [name for name, symmetry in classes.items() if symmetry.relabels and symmetry.moves]
    if not sites:
        raise ValueError("no units of these networks are relabelled: there is no matching to show")
    site = choice("site", sites[0] if site is None else site, tuple(sites))
    n = count(f"the size of site {site!r}", a.spec.sizes[site], 2, 512)
    alike = {name: moments[name] for name in sites}
    ends = (evaluate(a, passes).loss + evaluate(b, passes).loss) / 2
    best = {name: _best_first(alignment, name, alike[name]) for name in sites}
    orders, excess, likeness = [], [], []
    for step in progress(range(steps + 1), desc="matching"):
        partners = {name: _partners(alignment, name, best[name], step / steps) for name in sites}
        maps = {name: _relabelling(alignment, name, *found) for name, found in partners.items()}
        partial = Alignment(alignment.spec, {**alignment.maps, **maps})
        excess.append(evaluate(merge(a, partial(b), 0.5), passes).loss - ends)
        own, _ = partners[site]
        likeness.append(alike[site][torch.arange(n), own].mean())
        orders.append(own[best[site]].tolist())
    return Matching(
        {
            "title": title,
            "caption": CAPTION + "." if caption is None else caption,
            "site": site,
            "placed": [round(step / steps * n) for step in range(steps + 1)],
            "orders": orders,
            "excess": digits(excess),
            "likeness": digits(likeness),
            "image": png(_shaded(alike[site][best[site]])),
        }
    )


def _best_first(alignment: Alignment, site: str, alike: Tensor) -> Tensor:
    """The units of A, those first whose partner is most like them."""
    return alike.gather(1, alignment[site].matrix().argmax(1, keepdim=True)).flatten().argsort(descending=True)


def _partners(alignment: Alignment, site: str, best: Tensor, part: float) -> tuple[Tensor, Tensor]:
    """For each unit of A the unit of B beside it once this part of the pairs is made, and which units these are."""
    partners = alignment[site].matrix().argmax(1)
    done = torch.zeros(len(best), dtype=torch.bool)
    done[best[: round(part * len(best))]] = True
    free = torch.ones(len(best), dtype=torch.bool)
    free[partners[done]] = False
    partners[~done] = free.nonzero().flatten()  # the others in their order
    return partners, done


def _relabelling(alignment: Alignment, site: str, partners: Tensor, done: Tensor) -> Any:
    """The map that gives each unit of A this partner, scaled as the alignment has it where the pair is one of its."""
    matrix = alignment[site].matrix()
    placed = torch.zeros_like(matrix)
    placed[torch.arange(len(partners)), partners] = 1
    placed[done] = matrix[done]
    return alignment.spec.sites[site].symmetry.project(placed)


def _shaded(correlations: Tensor) -> Image.Image:
    """Blue where units agree, orange where they are opposite; as strong as the part of the variance that they share."""
    strength = (correlations.square().clamp(max=1) * (SHADES - 1)).round() / (SHADES - 1)
    pixels = np.zeros((*correlations.shape, 4), dtype=np.uint8)
    pixels[..., :3] = np.where((correlations > 0).numpy()[..., None], BLUE, ORANGE)
    pixels[..., 3] = (255 * strength).numpy()
    pixels[pixels[..., 3] == 0] = 0
    return Image.fromarray(pixels)
