"""``explore_simplex``: the loss over the triangle between three networks, for several methods, with a point to drag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..landscape.simplex import Simplex, draw_triangle, surface
from ..style import styles
from .figure import Figure, digits, quiet, show
from .methods import Comparison, check_words
from .strip import IMAGES, answers, pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure as StaticFigure

    from ..landscape.evaluate import Examples

CAPTION = (
    "Drag the point, or move it with the arrow keys, through the mixtures of the three networks, and switch methods: "
    "the stronger the colour, the higher the loss, on one scale for all. The plot beside it walks around the triangle"
)
NAMES = "ABC"
FIELDS = ("loss", "excess", "accuracy")
BANDS = 8  # steps of colour


class Triangle(Figure):
    """The figure that :func:`explore_simplex` returns."""

    kind = "simplex"

    @property
    def data(self) -> dict[str, Any]:
        """What is shown, as plain lists of floats rounded to five significant digits.

        ``weights`` (points, 3), and ``simplices[method][split]`` with ``loss`` and ``excess`` in nats, ``accuracy`` as
        a fraction, ``barrier``, ``barycentre``, ``accuracy_barrier``; the split is ``""`` where there is only one.
        """
        state = self.shown
        fields = (*FIELDS, "barrier", "barycentre", "accuracy_barrier")
        return {
            "weights": [[x / state["n"] for x in place] for place in state["places"]],
            "simplices": {
                method["name"]: {s: {f: one[f] for f in fields} for s, one in zip(state["splits"], row, strict=True)}
                for method, row in zip(state["methods"], state["surfaces"], strict=True)
            },
        }

    @property
    def summary(self) -> str:
        state = self.shown
        title = f"{state['title']}. " if state["title"] else ""
        return f"{title}Loss over the triangle between three networks: " + ", ".join(
            m["name"] for m in state["methods"]
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        state = self.shown
        rows = [
            [
                f"{method['name']}, {split}" if split else method["name"],
                show(one["barycentre"]),
                show(one["barrier"]),
                " : ".join(f"{x / state['n']:.2f}" for x in state["places"][one["at"]]) if one["barrier"] > 0 else "–",
            ]
            for method, row in zip(state["methods"], state["surfaces"], strict=True)
            for split, one in zip(state["splits"], row, strict=True)
        ]
        return ["method", "excess at the barycentre (nats)", "barrier (nats)", "at A : B : C"], rows

    def static(self) -> StaticFigure:
        """The twin in matplotlib: a triangle for each method on the first split, and the loss around it."""
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.figure import Figure as StaticFigure

        state = self.shown
        n, levels, around = state["n"], state["levels"][0], _around(state["places"], state["n"])
        figure = StaticFigure(figsize=(9, 5.4), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(4, 3))
        profile = below.subplots()
        for ax, method, (one, *_) in zip(
            above.subplots(1, len(state["methods"]), squeeze=False)[0], state["methods"], state["surfaces"], strict=True
        ):
            shades = LinearSegmentedColormap.from_list("method", ["white", method["color"]])
            draw_triangle(ax, torch.tensor(state["places"]) / n, one["loss"], NAMES, levels=levels, cmap=shades)
            title = f"{method['name']}\nbarrier {show(one['barrier'])}"
            ax.set_title(title, fontsize=9, color=method["color"], parse_math=False, pad=18)
            look = {"color": method["color"], "linestyle": (0, tuple(method["dash"])), "linewidth": 2}
            profile.plot([one["loss"][i] for i in around], **look)
        profile.set_xticks([0, n, 2 * n, 3 * n], [*NAMES, NAMES[0]])
        profile.set_title(f"{state['splits'][0]} loss around the triangle (nats)".strip(), fontsize=10, loc="left")
        quiet(profile)
        if state["title"]:
            figure.suptitle(state["title"], fontsize=11, parse_math=False)
        return figure


def explore_simplex(
    simplices: Mapping[str, Simplex | Mapping[str, Simplex]], *, title: str = "", caption: str | None = None
) -> Triangle:
    """An interactive figure of the mixtures of three networks.

    Parameters
    ----------
    simplices
        What :func:`lmc_utils.interpolate_simplex` measured for each method, ``{"vanilla": simplex, ...}``, or on
        several splits of the data, ``{"vanilla": {"test": simplex, "train": simplex}, ...}``. Three networks, with
        ``points`` = 7, 10, 13, ...: so the barycentre is on the grid. The names choose the colours
        (:func:`lmc_utils.style.style`). Images that come with the simplices are shown as a strip.
    title
        Stands above the figure.
    caption
        One sentence: what to do and what to see. A default if None.

    Raises
    ------
    ValueError
        If there is no simplex, a split is missing, a simplex is not one of three networks, grids or examples differ
        between methods, the grid has no barycentre, a value is not finite, or a name has a control character or more
        than 200 letters.
    TypeError
        If something is not a simplex, or a name, the title or the caption no text.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b, c = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in range(3))
    >>> sums = lmc.load_data("sums").test.take(100)
    >>> lmc.explore_simplex({"vanilla": lmc.interpolate_simplex([a, b, c], sums, points=4)})
    Loss over the triangle between three networks: vanilla
    """
    check_words(title, caption)
    compared = Comparison.of(simplices, Simplex, "lmc.interpolate_simplex")
    rows, splits = compared.rows, compared.splits
    weights = compared.grid("weights", lambda place: f"the mixture {[round(w, 3) for w in place.tolist()]}")
    n, measured = _parts(weights), [compared.on(split) for split in splits]
    levels = [_levels([simplex.loss for simplex in by.values()]) for by in measured]
    examples = [_recognised({name: simplex.examples for name, simplex in by.items()}, weights) for by in measured]
    picked = [pictures(known, split) or (None, None) for known, split in zip(examples, splits, strict=True)]
    if caption is None:
        caption = CAPTION + (", and the strip shows what the mixture answers." if picked[0][0] else ".")
    return Triangle(
        {
            "title": title,
            "caption": caption,
            "n": n,
            "places": (weights * n).round().int().tolist(),
            "splits": splits,
            "methods": [
                {"name": name, "color": look.color, "dark": look.dark, "dash": look.dash[1]}
                for name, look in styles(rows).items()
            ],
            "levels": [digits(steps) for steps in levels],
            "surfaces": [
                [
                    _plain(row[split], steps, known.get(name), chosen)
                    for split, steps, known, (_, chosen) in zip(splits, levels, examples, picked, strict=True)
                ]
                for name, row in rows.items()
            ],
            "images": [
                images and images | {"why": images["why"].replace("both ends", "all three")} for images, _ in picked
            ],
        }
    )


def _parts(weights: Tensor) -> int:
    """Into how many parts the grid divides an edge of a triangle whose barycentre is on it."""
    if weights.shape[1] != 3:
        raise ValueError(f"a triangle shows mixtures of three networks, but these are of {weights.shape[1]}")
    n = int((2 * len(weights)) ** 0.5) - 1
    if n % 3 or len(weights) != (n + 1) * (n + 2) // 2:
        raise ValueError("the barycentre must be on the grid: interpolate_simplex(..., points=7), or 10, or 13")
    return n


def _levels(losses: list[Tensor]) -> list[float]:
    """Losses at which the colour changes, from the lowest of all methods to the highest, closer together below.

    (So that a low hill is seen beside a high one.)
    """
    every = torch.cat(losses)
    low, span = every.min(), (every.max() - every.min()).clamp_min(1e-6)
    return (low + span * torch.linspace(0, 1, BANDS + 1, dtype=torch.float64).square()).tolist()


def _recognised(examples: Mapping[str, Examples | None], weights: Tensor) -> dict[str, Examples]:
    """The samples that all three networks recognise, if there are enough of them."""
    known = {name: e for name, e in examples.items() if e is not None}
    if len({e.targets.shape for e in known.values()}) != 1:
        return known
    right = [(e.probabilities[weights.argmax(0)].argmax(-1) == e.targets).all(0) for e in known.values()]
    keep = torch.stack(right).all(0)
    if keep.sum() < IMAGES:
        return known
    return {
        name: replace(e, inputs=e.inputs[keep], targets=e.targets[keep], probabilities=e.probabilities[:, keep])
        for name, e in known.items()
    }


def _plain(simplex: Simplex, levels: list[float], examples: Examples | None, chosen: Tensor | None) -> dict[str, Any]:
    """One simplex for the state, with its answers to the chosen examples."""
    plain: dict[str, Any] = {field: digits(getattr(simplex, field)) for field in FIELDS}
    for field in ("barrier", "barycentre", "accuracy_barrier"):
        (plain[field],) = digits([getattr(simplex, field)])
    plain["at"] = int(simplex.excess.argmax())
    plain["regions"] = [_above(simplex, level) for level in levels[1:-1]]
    return plain | answers(examples, chosen)


def _above(simplex: Simplex, level: float) -> str:
    """Where the loss is above a level, as an SVG path; the triangle has sides of length 1000."""
    from matplotlib.figure import Figure as StaticFigure

    drawn, loss = surface(simplex.weights, simplex.loss)
    if loss.max() <= level:
        return ""
    filled = StaticFigure().add_subplot().tricontourf(drawn, loss, levels=[level, loss.max() + 1])
    polygons = [polygon for path in filled.get_paths() for polygon in path.to_polygons()]
    return "".join("M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in 1000 * polygon) + "Z" for polygon in polygons)


def _around(places: list[list[int]], n: int) -> list[int]:
    """The points on a walk around the triangle: A, B, C, A."""
    sides = [[n - k, k, 0] for k in range(n)], [[0, n - k, k] for k in range(n)], [[k, 0, n - k] for k in range(n + 1)]
    return [places.index(place) for side in sides for place in side]
