"""One look for each method, the same through the whole book: colour for light and dark pages, and a dash.

The colours are those of Okabe and Ito (distinguishable by colour-blind readers), some of them darkened until lines have
a contrast of 3:1 on white; the dashes tell the methods apart without colour.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import count
from typing import NamedTuple

from .arguments import wording

MUTED, GRID = "#57606a", "#d8dee4"  # axes and base lines, grid lines, on a light page

Dash = tuple[float, ...]


class Style(NamedTuple):
    """How the line of a method looks.

    Parameters
    ----------
    color, dark
        ``#rrggbb`` on a light and on a dark page.
    dash
        Matplotlib's ``(offset, (on, off, ...))`` in widths of the line; an empty inner tuple is a solid line.
    """

    color: str
    dark: str
    dash: tuple[int, Dash]


# The first keyword found in a name decides, so the more special comes first: colour, dark, dash, dash with REPAIR.
_KNOWN: dict[str, tuple[str, str, Dash, Dash]] = {
    "permutations only": ("#B85C93", "#DE9BC3", (2.5, 1.5), (2.5, 1.2, 1, 1.2)),
    "learned": ("#00916A", "#2CC295", (5, 1.5, 1, 1.5), (5, 1.5, 1, 1.5, 1, 1.5)),
    "activation": ("#C88600", "#F0B033", (4, 2), (4, 1.2, 1, 1.2, 1, 1.2, 1, 1.2)),
    "weight": ("#0072B2", "#4DA9E3", (), (6, 1.2)),
    "vanilla": ("#6E7781", "#A3ABB5", (1, 1.5), (1, 3.5)),
}
_OTHERS = (("#D55E00", "#F0803C"), ("#2B8FC7", "#8CCBF0"), ("#8A8300", "#E8DC50"))
_OTHER_DASHES: tuple[Dash, ...] = ((), (6, 2), (4, 1.5, 1, 1.5), (2, 1))
_fresh = count()


def style(name: str) -> Style:
    """The look of a method, found by a keyword in its name.

    Parameters
    ----------
    name
        Any case. Known keywords: "vanilla", "activation", "weight", "learned", "permutations only"; with "REPAIR" the
        method keeps its colour and changes its dash. Unknown names get the remaining colours in the order in which they
        are first asked for.

    Raises
    ------
    TypeError
        If the name is no text.
    ValueError
        If it has a control character, or more than 200 letters.
    """
    return _look(wording("name", name))


@cache
def _look(name: str) -> Style:
    lower = name.lower()
    for keyword, (color, dark, dash, repaired) in _KNOWN.items():
        if keyword in lower:
            return Style(color, dark, (0, repaired if "repair" in lower else dash))
    turn, index = divmod(next(_fresh), len(_OTHERS))
    return Style(*_OTHERS[index], (0, _OTHER_DASHES[turn % len(_OTHER_DASHES)]))


def styles(names: Iterable[str]) -> dict[str, Style]:
    """The looks of the methods of one figure: as :func:`style`, but of two that are alike one gets another dash."""
    chosen: dict[str, Style] = {}
    for name in names:
        look = style(name)
        spare = iter(_OTHER_DASHES)
        while look in chosen.values() and (dash := next(spare, None)) is not None:
            look = look._replace(dash=(0, dash))
        chosen[name] = look
    return chosen
