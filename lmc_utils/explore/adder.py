"""``explore_adder``: two networks that add, and what the networks between them answer to a reader's numbers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..arguments import count, instance
from ..data import Batches
from ..landscape.average import merge
from ..landscape.evaluate import whole_accuracy
from ..networks.base import Network, check_networks, check_same_architecture
from ..style import styles
from .figure import Figure, digits, quiet, show
from .methods import check_words, named

if TYPE_CHECKING:
    from matplotlib.figure import Figure as StaticFigure

CAPTION = (
    "Drag the marker from network A to network B, and type two numbers from 0 to 99: each column says what the network "
    "at that place of its path answers"
)
LEVELS = 127  # of a weight with eight bits, on either side of zero
PARTS = {"wte", "wpe", "0.q.weight", "0.fc.weight", "head.weight"}


class Adder(Figure):
    """The figure that :func:`explore_adder` returns."""

    kind = "adder"

    @property
    def data(self) -> dict[str, Any]:
        """``lambdas``, and ``right[method]``, the fraction of the sums that are right at each of them."""
        state = self.shown
        return {"lambdas": state["lambdas"], "right": {m["name"]: m["right"] for m in state["methods"]}}

    @property
    def summary(self) -> str:
        title = f"{self.shown['title']}. " if self.shown["title"] else ""
        what = ", ".join(method["name"] for method in self.shown["methods"])
        return f"{title}Sums that are right along the path from network A to network B: {what}"

    def table(self) -> tuple[list[str], list[list[str]]]:
        state, rows = self.shown, []
        for method in state["methods"]:
            right = method["right"]
            worst = min(range(len(right)), key=right.__getitem__)
            middle = right[len(right) // 2]
            rows.append(
                [
                    method["name"],
                    *(f"{show(100 * x)} %" for x in (right[0], middle, right[-1], right[worst])),
                    show(state["lambdas"][worst]),
                ]
            )
        return ["right sums", "at A", "half way", "at B", "at worst", "at λ"], rows

    def static(self) -> StaticFigure:
        """The twin in matplotlib: the fraction of right sums along each path."""
        from matplotlib.figure import Figure as StaticFigure

        figure = StaticFigure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        for method in self.shown["methods"]:
            look = {"color": method["color"], "linestyle": (0, tuple(method["dash"])), "linewidth": 2}
            axes.plot(self.shown["lambdas"], [100 * x for x in method["right"]], label=method["name"], **look)
        axes.legend(frameon=False)
        axes.set_title("sums that are right (%)", fontsize=10, loc="left")
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["A", "0.25", "λ = 0.5", "0.75", "B"])
        quiet(axes)
        return figure


def explore_adder(
    a: Network,
    ends: Mapping[str, Network],
    sums: Batches,
    *,
    points: int = 33,
    title: str = "",
    caption: str | None = None,
) -> Adder:
    """An interactive figure of the paths between two networks that add, which the page itself runs.

    The weights go into the page with eight bits each; the fractions of right sums are those of the networks so rounded.

    Parameters
    ----------
    a
        A network that ends of ``"adder"`` are made of: ``lmc.canonicalize(lmc.load_endpoint("adder"))``.
    ends
        The other end of each path: network B, and B in the coordinates of A.
    sums
        On which to count: ``lmc.load_data("sums").test``.
    points
        Size of the grid of lambdas, both ends included; an odd number.
    title, caption
        Above and below the figure.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If the networks do not add, or differ in architecture; if ``points`` is even or below 3; if the figure would
        be too large for a page.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    >>> figure = lmc.explore_adder(a, {"vanilla": b}, lmc.load_data("sums").test, points=3)
    >>> figure.data["right"]["vanilla"][0]
    1.0
    """
    check_words(title, caption)
    check_networks(a=a)
    named("ends", ends, '{"vanilla": b}')
    check_networks(**{f"ends[{name!r}]": end for name, end in ends.items()})
    instance("sums", sums, Batches, 'lmc.load_data("sums").test gives them')
    if count("points", points, 3, 101) % 2 == 0:
        raise ValueError(f"points must be odd, so that one network is half way, not {points}")
    if not ends:
        raise ValueError('ends must hold one network at least: {"vanilla": b}')
    if a.architecture.reads != (12, 8) or not a.params.keys() >= PARTS:
        raise ValueError('explore_adder shows networks that add, such as lmc.load_endpoint("adder"), and a is none')
    for end in ends.values():
        check_same_architecture(a, end)
    lambdas = torch.linspace(0, 1, points, dtype=torch.float64)
    networks = [_rounded(network) for network in (a, *ends.values())]
    first, *others = (network for network, _ in networks)
    asked = sums.inputs[:: max(1, len(sums.inputs) // 9)][:9]
    return Adder(
        {
            "title": title,
            "caption": CAPTION + "." if caption is None else caption,
            "lambdas": digits(lambdas),
            "methods": [
                {
                    "name": name,
                    "color": look.color,
                    "dark": look.dark,
                    "dash": look.dash[1],
                    "right": digits(whole_accuracy(merge(first, end, lam), sums) for lam in lambdas.tolist()),
                }
                for (name, look), end in zip(styles(ends).items(), others, strict=True)
            ],
            "sums": (asked[:, [0, 3]] * 10 + asked[:, [1, 4]]).tolist(),
            "unseen": len(sums.inputs),
            "sizes": {
                "blocks": sum(name.endswith(".q.weight") for name in a.params),
                "heads": len(a.params["0.q.bias"]),
            },
            "shapes": {name: list(p.shape) for name, p in a.params.items()},
            "networks": [stored for _, stored in networks],
        }
    )


def _rounded(network: Network) -> tuple[Network, dict[str, Any]]:
    """The network with weights of eight bits, a step for each parameter, and what goes into the page of it."""
    codes: dict[str, Tensor] = {}
    steps: dict[str, float] = {}
    for name, p in network.params.items():
        (steps[name],) = digits([p.abs().max().clamp(min=1e-30) / LEVELS])
        codes[name] = (p / steps[name]).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    weights = {name: codes[name] * steps[name] for name in codes}
    # stock modules carry the head's bias along the all-ones vector, where rounded weights would not be zero
    weights["head.weight"] = weights["head.weight"] - weights["head.weight"].mean(-1, keepdim=True)
    written = b"".join(code.numpy().tobytes() for code in codes.values())
    return Network(network.architecture, {name: w.to(network.reference.dtype) for name, w in weights.items()}), {
        "codes": base64.b64encode(written).decode(),
        "steps": list(steps.values()),
    }
