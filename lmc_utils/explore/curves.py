"""``explore``: loss and accuracy along the path between two networks, for several methods, with a marker to drag."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..landscape.curve import Curve
from ..style import styles
from .figure import Figure, digits, quiet, show
from .methods import Comparison, check_words
from .strip import answers, pictures, writings

if TYPE_CHECKING:
    from matplotlib.figure import Figure as StaticFigure

CAPTION = (
    "Drag the marker, or use the arrow keys, to walk from network A to network B and watch how far each method’s loss "
    "rises above the straight line between its ends"
)
MATCHED = ("match", "activation", "weight", "learned", "permut", "align")  # methods that move B


class Curves(Figure):
    """The figure that :func:`explore` returns."""

    kind = "curves"

    @property
    def data(self) -> dict[str, Any]:
        """What is shown, as plain lists of floats rounded to five significant digits.

        ``lambdas``, and ``curves[method]`` (``curves[method][split]`` where there are splits) with ``loss`` and
        ``excess`` in nats, ``accuracy`` as a fraction, ``barrier``, ``barrier_at``, ``accuracy_barrier``. Where
        networks write, ``texts[method]``: one text for each lambda, without the prompt.
        """
        state = self.shown
        fields = ("loss", "excess", "accuracy", "barrier", "barrier_at", "accuracy_barrier")
        splits = state["splits"]
        curves = {
            method["name"]: {split: {f: curve[f] for f in fields} for split, curve in zip(splits, row, strict=True)}
            for method, row in zip(state["methods"], state["curves"], strict=True)
        }
        if splits == [""]:
            curves = {name: row[""] for name, row in curves.items()}
        data = {"lambdas": state["lambdas"], "curves": curves}
        if state["texts"]:
            written = zip(state["methods"], state["texts"]["written"], strict=True)
            data["texts"] = {m["name"]: ["".join(tokens) for tokens in by["tokens"]] for m, by in written if by}
        return data

    @property
    def summary(self) -> str:
        state = self.shown
        what = ", ".join(method["name"] for method in state["methods"])
        title = f"{state['title']}. " if state["title"] else ""
        return f"{title}Loss and accuracy along the path from network A to network B: {what}"

    def table(self) -> tuple[list[str], list[list[str]]]:
        state = self.shown
        rows = [
            [
                f"{method['name']}, {split}" if split else method["name"],
                *(f"{show(curve[field][0])} … {show(curve[field][-1])}" for field in ("loss", "accuracy")),
                show(curve["barrier"]),
                f"{curve['barrier_at']:.3g}" if curve["barrier"] > 0 else "–",
            ]
            for method, row in zip(state["methods"], state["curves"], strict=True)
            for split, curve in zip(state["splits"], row, strict=True)
        ]
        return ["method", "loss at A … B (nats)", "accuracy at A … B", "barrier (nats)", "at λ"], rows

    def static(self) -> StaticFigure:
        """The twin in matplotlib: every method on the first split, with base lines and barriers."""
        from matplotlib.figure import Figure as StaticFigure

        state = self.shown
        lambdas, split = state["lambdas"], state["splits"][0]
        figure = StaticFigure(figsize=(9, 3.4), layout="constrained")
        loss_axes, accuracy_axes = figure.subplots(1, 2, width_ratios=(4, 3))
        peaks = []
        for method, (curve, *_) in zip(state["methods"], state["curves"], strict=True):
            color, dash = method["color"], (0, tuple(method["dash"]))
            for axes, field in ((loss_axes, "loss"), (accuracy_axes, "accuracy")):
                values = curve[field]
                axes.plot(lambdas, values, color=color, linestyle=dash, linewidth=2)
                axes.plot(
                    [0, 1], [values[0], values[-1]], color=color, linewidth=0.8, marker="o", markersize=4, zorder=1
                )
            excess = curve["excess"] if curve["barrier"] > 0 else [abs(x) for x in curve["excess"]]
            at = excess.index(max(excess))
            top = curve["loss"][at]
            loss_axes.vlines(lambdas[at], top - curve["barrier"], top, color=color, linewidth=0.8)
            peaks.append(
                (top, curve["barrier"], lambdas[at], f"{method['name']}: barrier {show(curve['barrier'])}", color)
            )
        low, high = loss_axes.get_ylim()
        gap = 0.08 * (high - low)
        above, below = low, min(min(curve["loss"]) for curve, *_ in state["curves"])
        for top, height, at, text, color in sorted(peaks):  # hills are labelled on top, flat paths under all lines
            flat = height < gap
            above = above if flat else max(top + 0.2 * gap, above + gap)
            below = below - gap if flat else below
            place = {"ha": "left" if at < 0.2 else "right" if at > 0.8 else "center", "va": "bottom"}
            paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
            look = {"color": color, "fontsize": 9, "bbox": paper, "parse_math": False}
            loss_axes.text(at, below if flat else above, text, **look, **place)
        loss_axes.set_ylim(min(low, below), max(high, above + 1.3 * gap))
        for axes, name in ((loss_axes, "loss (nats)"), (accuracy_axes, "accuracy")):
            axes.set_title(f"{split} {name}".strip(), fontsize=10, loc="left", parse_math=False)
            axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["A", "0.25", "λ = 0.5", "0.75", "B"])
            quiet(axes)
        if state["title"]:
            figure.suptitle(state["title"], fontsize=11, parse_math=False)
        return figure


def explore(
    curves: Mapping[str, Curve | Mapping[str, Curve]], *, title: str = "", caption: str | None = None
) -> Curves:
    """An interactive figure of paths between two networks.

    Parameters
    ----------
    curves
        The curve of each method, ``{"vanilla": curve, ...}``, or its curves on several splits of the data,
        ``{"vanilla": {"test": curve, "train": curve}, ...}``. The first split is shown first; the names choose the
        colours (:func:`lmc_utils.style.style`). Images that come with the curves are shown as a strip; of
        curves with a prompt the text (of the first split that has one: what a network writes depends on no split).
    title
        Stands above the figure.
    caption
        One sentence: what to do and what to see. A default if None.

    Raises
    ------
    ValueError
        If there is no curve, a split is missing, grids, examples or prompts differ between methods, a value is not
        finite, or a name has a control character or more than 200 letters.
    TypeError
        If something is not a curve, or a name, the title or the caption no text.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    >>> sums = lmc.load_data("sums").test.take(100)
    >>> lmc.explore({"vanilla": lmc.interpolate(a, b, sums, points=3)})
    Loss and accuracy along the path from network A to network B: vanilla
    """
    check_words(title, caption)
    compared = Comparison.of(curves, Curve, "lmc.interpolate")
    rows, splits = compared.rows, compared.splits
    lambdas = compared.grid("lambdas", lambda place: f"lambda = {place.item():.3g}")
    images: list[dict[str, Any] | None] = []
    chosen: list[Tensor | None] = []
    for split in splits:
        picked = pictures({name: curve.examples for name, curve in compared.on(split).items()}, split)
        images.append(picked and picked[0])
        chosen.append(picked and picked[1])
    texts = writings(rows)
    if caption is None:
        does = "writes" if texts else "answers" if any(images) else ""
        caption = CAPTION + (f", and what the network in between {does}." if does else ".")
    return Curves(
        {
            "title": title,
            "caption": caption,
            "lambdas": digits(lambdas),
            "splits": splits,
            "methods": [
                {
                    "name": name,
                    "color": look.color,
                    "dark": look.dark,
                    "dash": look.dash[1],
                    "end": "π(B)" if any(word in name.lower() for word in MATCHED) else "B",
                }
                for name, look in styles(rows).items()
            ],
            "curves": [
                [_plain(row[split], where) for split, where in zip(splits, chosen, strict=True)]
                for row in rows.values()
            ],
            "images": images,
            "texts": texts,
        }
    )


def _plain(curve: Curve, chosen: Tensor | None) -> dict[str, Any]:
    """One curve for the state, with its answers to the chosen examples."""
    plain = {field: digits(getattr(curve, field)) for field in ("loss", "excess", "accuracy")}
    for field in ("barrier", "barrier_at", "accuracy_barrier"):
        (plain[field],) = digits([getattr(curve, field)])
    return plain | answers(curve.examples, chosen)
