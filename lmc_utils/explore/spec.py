"""``explore_spec``: a network drawn from its table of types alone: its sites, and what writes and reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from ..arguments import wording
from ..networks.base import Network, check_networks
from ..spec import Axis, Spec
from ..style import MUTED
from ..symmetry import Symmetry
from .figure import Figure
from .methods import check_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as StaticFigure

CAPTION = (
    "Point at a site, tap it, or walk with the arrow keys: whatever writes or reads it lights up. "
    "Point at a parameter to see its sites, and what a symmetry makes of it."
)


class Look(NamedTuple):
    """A class of symmetry in the figure: a letter, a colour for light and one for dark pages, the class in words."""

    letter: str
    color: str
    dark: str
    words: str


LOOKS = {  # by whether units are relabelled, and the least that a matching must be allowed
    (True, "permutation"): ("P", "#B0467F", "#E49BC6"),
    (True, "invertible"): ("S", "#B84A00", "#F58A4B"),
    (False, "orthogonal"): ("O", "#5552D0", "#A9A7FA"),
    (False, "invertible"): ("G", "#6B6600", "#DDD155"),
}
OTHER = ("T", "#57606a", "#a6b0bb")


def _look(symmetry: type[Symmetry]) -> Look:
    look = LOOKS.get((symmetry.relabels, symmetry.level), OTHER) if symmetry.moves else OTHER
    return Look(*look, symmetry.words)


Part = tuple[str, str]  # a piece of text and its colour, in the static twin


class SpecFigure(Figure):
    """The figure that :func:`explore_spec` returns."""

    kind = "spec"

    @property
    def data(self) -> dict[str, Any]:
        """What is shown, with ``bus`` (a site or None), ``sites``, ``params`` and ``rows``, as plain texts and lists.

        With several networks these by the name of each.
        """
        views = {view["name"]: {key: view[key] for key in ("bus", "sites", "params", "rows")} for view in self._views}
        return views if len(views) > 1 else next(iter(views.values()))

    @property
    def _views(self) -> list[dict[str, Any]]:
        return self.shown["views"]

    @property
    def summary(self) -> str:
        title, (first, *more) = f"{self.shown['title']}. " * bool(self.shown["title"]), self._views
        if more:
            return f"{title}The type tables of {', '.join(view['name'] for view in self._views)} as pictures"
        around = f" around the bus {first['bus']}" if first["bus"] else ""
        return f"{title}The type table as a picture{around}: sites, and the parameters that write and read them"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The parameters and their types; of several networks their sites and how far each can move."""
        if len(self._views) > 1:
            rows = [
                [view["name"], name, f"{site['class']}({site['size']})", str(site["count"]), f"{site['free']:,}"]
                for view in self._views
                for name, site in view["sites"].items()
            ]
            return ["network", "site", "class", "maps", "free directions"], rows
        rows = [
            [name, " ".join(text for text, *_ in p["axes"]), p["shape"], _plain(p["moved"])]
            for name, p in self._views[0]["params"].items()
        ]
        return ["parameter", "type", "shape", "a symmetry makes it"], rows

    def static(self) -> StaticFigure:
        """The twin in matplotlib: the first network's first block; writers of the bus on its left, readers right."""
        from matplotlib.figure import Figure as StaticFigure

        state = self._views[0]
        lines = list(_lines(state))
        figure = StaticFigure(figsize=(9, 0.24 * len(lines) + 0.3))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(len(lines) + 0.2, -1))
        axes.set_axis_off()
        if state["bus"]:
            axes.axvline(0.5, color=state["sites"][state["bus"]]["color"], linewidth=9, alpha=0.25)
        advance = 8 * 0.602 / 72 / 9  # of one letter of a fixed-width font of 8 points, as a part of the width
        for y, line in enumerate(lines):
            for align, parts in line:
                width = advance * sum(len(text) for text, _ in parts)
                x = {"left": 0.52, "center": 0.5 - width / 2, "right": 0.48 - width}[align]
                paper = {"facecolor": "white", "edgecolor": "none", "pad": 1.5} if align == "center" else None
                for text, color in parts:
                    look = {"color": color, "fontsize": 8, "family": "monospace", "va": "center", "parse_math": False}
                    axes.text(x, y, text, bbox=paper, **look)
                    x += advance * len(text)
        return figure


def _plain(formula: str) -> str:
    """A formula as text: ``T^−1[r]``."""
    return re.sub(r"\^\{(.*?)\}", r"^\1", re.sub(r"_\{(.*?)\}", r"[\1]", formula))


def _lines(state: dict[str, Any]) -> Iterator[list[tuple[str, list[Part]]]]:
    """The lines of the static twin, each a few texts with their alignment: the sites of a row, and its parameters."""
    shown = next((row["block"] for row in state["rows"] if row["block"]), "")

    def sites(names: list[str]) -> Iterator[list[tuple[str, list[Part]]]]:
        found = {name: state["sites"][name] for name in names}
        within = {name: f" in each of {site['within']}" * bool(site["within"]) for name, site in found.items()}
        parts = [(f" {s['letter']} {n}: {s['class']}({s['size']}){within[n]} ", s["color"]) for n, s in found.items()]
        if parts:
            yield [("center", parts)]

    def typed(name: str) -> list[Part]:
        axes = state["params"][name]["axes"]
        kind = [(f" {text}", state["sites"][site]["color"] if site else MUTED) for text, site, _ in axes]
        return [(f"{name} ", "#1f2328"), *kind]

    for row in state["rows"]:
        if row["block"] not in ("", shown):
            continue
        if not state["bus"]:
            yield from ([("center", typed(name))] for name in row["right"])
            yield from sites(row["sites"])
            continue
        yield from sites(row["sites"])
        for left, right in zip_longest(row["left"], row["right"]):
            yield [(side, typed(name)) for side, name in (("right", left), ("left", right)) if name]


def explore_spec(network: Network | Mapping[str, Network], *, title: str = "", caption: str = CAPTION) -> SpecFigure:
    """An interactive figure of a type table: who writes each site, who reads it, and how a symmetry moves them.

    Drawn from ``network.spec`` and the shapes of the parameters alone, so it fits every architecture. Where all blocks
    write and read one site, that site is drawn as a bus: a transformer's residual stream. A line counts the free
    directions: in how many the weights can be moved a little without moving the function, says the table.

    Parameters
    ----------
    network
        A network in canonical form, or several by their names, to switch between.
    title
        Stands above the figure.
    caption
        One sentence: what to do and what to see.

    Raises
    ------
    TypeError
        If it is no network, but for instance a model, or a name, the title or the caption is no text.
    ValueError
        If one of these has a control character, there is no network, or they are too large for a page.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> figure = explore_spec(lmc.canonicalize(model), title="one hidden layer")
    >>> figure.data["sites"]["ff.0"]["free"]  # each unit can be scaled
    4
    """
    networks = network if isinstance(network, Mapping) else {"": network}
    if not networks:
        raise ValueError("there is no network to draw: give one, or several by their names")
    for name, one in networks.items():
        several = networks is network
        check_networks(**{f"network[{wording('the name of a network', name)!r}]" if several else "network": one})
    check_words(title, caption)
    return SpecFigure({"title": title, "caption": caption, "views": [_view(*item) for item in networks.items()]})


def _view(name: str, network: Network) -> dict[str, Any]:
    """One network as the figure draws it."""
    spec = network.spec
    bus = find_bus(spec)
    return {
        "name": name,
        "bus": bus,
        "sites": {
            name: {
                "class": site.symmetry.__name__,
                **_look(site.symmetry)._asdict(),
                "size": site.size,
                "within": site.within,
                "count": math.prod(spec.batch(name)),
                "free": spec.dimensions(name),
                "splits": site.splits,
            }
            for name, site in spec.sites.items()
        },
        "params": {
            name: {
                "axes": [[str(axis), axis.site, axis.dual] for axis in spec.axes(name)],
                "shape": " × ".join(map(str, tensor.shape)),
                "moved": formula(spec, name),
            }
            for name, tensor in ((name, network.params[name]) for name in spec.types)
        },
        "rows": _rows(spec, bus),
    }


def formula(spec: Spec, name: str) -> str:
    """What a symmetry makes of a parameter, built from its type: ``T_{ff.1} fc1.weight T^{−1}_{ff.0}``.

    ``T`` on the left of a plain first axis, its transpose on the right of a plain last one, and the duals where the
    axis has a star. ``⟨ ⟩`` holds the heads, moved; what is outside happens in each of them.
    """
    axes = spec.axes(name)
    within = {spec.sites[axis.site].within for axis in axes if axis.site} - {None}
    outer = [axis for axis in axes if axis.site in within]
    inner = [axis for axis in axes if axis.site not in within]

    def factor(axis: Axis, plain: str, dual: str) -> str:
        return f"{dual if axis.dual else plain}_{{{axis.site}}}"

    moved = name
    for axis in outer:
        moved = f"⟨{factor(axis, 'T', 'T^{−T}')} {moved}⟩"
    if inner and inner[0].site:
        moved = f"{factor(inner[0], 'T', 'T^{−T}')} {moved}"
    if len(inner) > 1 and inner[-1].site:
        moved = f"{moved} {factor(inner[-1], 'T^{T}', 'T^{−1}')}"
    for axis in filter(lambda axis: axis.site, inner[1:-1]):
        moved = f"{moved}, on axis {axes.index(axis)} {factor(axis, 'T', 'T^{−T}')}"
    return moved


def find_bus(spec: Spec) -> str | None:
    """The site that groups of other sites both read and write, as blocks do with a residual stream; None in a chain."""
    for site in sorted(spec.sites, key=lambda name: -len(spec.touching(name))):
        uses: dict[frozenset[str], set[bool]] = {}
        groups = _groups(spec, site)
        for touch in spec.touching(site):
            if groups[touch.name]:
                uses.setdefault(groups[touch.name], set()).add(touch.dual)
        if {True, False} in uses.values():
            return site
    return None


def _groups(spec: Spec, bus: str) -> dict[str, frozenset[str]]:
    """For each parameter the sites, but for the bus and what is inside it, that it is connected with."""
    along = {bus, *spec.descendants(bus)}
    group = {site: frozenset([site]) for site in spec.sites if site not in along}
    for name in spec.types:
        joined = frozenset().union(*(group[site] for site in spec.named(name) - along))
        group |= dict.fromkeys(joined, joined)
    return {name: next((group[site] for site in spec.named(name) - along), frozenset()) for name in spec.types}


def _rows(spec: Spec, bus: str | None) -> list[dict[str, Any]]:
    """The picture from above: parameters that share sites are in one row, in the order of the table.

    ``block`` is the first number in the names, ``left`` what writes the bus (or reads other sites only), ``right`` the
    rest. Without a bus a row holds what writes a site, and the next one what reads it.
    """
    groups, outer = _groups(spec, bus) if bus else {}, {site.within for site in spec.sites.values()}
    rows: list[dict[str, Any]] = []
    row: dict[str, Any] = {}
    seen, last, side = set(), None, "right"
    for name in spec.types:
        axes = [axis for axis in spec.axes(name) if axis.site]
        block = next((part for part in name.split(".") if part.isdigit()), "") if bus else ""
        own = groups[name] if bus else {axis.site for axis in axes if not axis.dual}
        if not row or row["block"] != block or (own != last and (own or not bus)):
            row = {"block": block, "sites": [], "left": [], "right": []}
            rows.append(row)
            last = own
        if bus and axes:
            inner = [not axis.dual for axis in axes if axis.site not in outer]
            side = "right" if next((axis.dual for axis in axes if axis.site == bus), all(inner)) else "left"
        row[side].append(name)
        new = [site for site in spec.sites if site in spec.named(name) - seen]
        row["sites"] += new
        seen.update(new)
    return rows
