"""Tables of results: HTML that reads on a phone and in the dark, with the same numbers as plain text."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from itertools import groupby
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from ..arguments import brief, choice, count, instance, wording
from ..landscape.estimate import Estimate
from .figure import FOLDER

if TYPE_CHECKING:
    import pandas as pd

BEST = {"min": min, "max": max}
STYLE = re.compile(r'<style data-lmc-style="table-\w+">.*?</style>', re.S)


def _style() -> str:
    """Today's style sheet, with the name of its version: a page loads it once (:mod:`lmc_utils.explore.once`)."""
    style = (FOLDER / "table.css").read_text(encoding="utf-8")
    return f'<style data-lmc-style="table-{hashlib.sha256(style.encode()).hexdigest()[:8]}">{style}</style>'


def restyle(fragment: str) -> str:
    """Return a piece of a page with today's style sheet in place of the one that its table came with.

    Examples
    --------
    >>> fragment = table({"a": {"b": 1}}, "One.")._repr_html_()
    >>> restyle(fragment.replace("max-width", "min-width")) == fragment
    True
    """
    return STYLE.sub(lambda _: _style(), fragment)


@dataclass(frozen=True)
class ResultTable:
    """A table with a caption, which a notebook shows as HTML and a terminal as plain text; :func:`table` makes it.

    Parameters
    ----------
    frame
        The entries as given.
    caption
        What the table says, in a sentence.
    digits
        Decimals of a number.
    best
        For each column that has a best entry, whether it is the smallest or the largest.
    bars
        The column whose entries get a bar.
    """

    frame: pd.DataFrame
    caption: str
    digits: int
    best: Mapping[Any, str]
    bars: Any

    def __str__(self) -> str:
        return f"{self.caption}\n{self.frame.map(self._text).to_string(na_rep='')}"

    __repr__ = __str__

    def _text(self, value: Any) -> str:
        return " ± ".join(self._parts(value))

    def _parts(self, value: Any) -> list[str]:
        """A value's mean and errors, or its one text."""
        if isinstance(value, Estimate):
            return [self._number(x) for x in value if x is not None]
        return [self._number(value)]

    def _number(self, value: Any) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, Real) and not isinstance(value, (bool, Integral)):
            text = f"{value:.{self.digits}f}"
            return text.removeprefix("-") if float(text) == 0 else text
        return str(value)

    def _marked(self) -> set[tuple[int, int]]:
        """Row and column of every entry that reads like the best of its column: ties at the printed digits included."""
        found = set()
        for j, column in enumerate(self.frame):
            if column in self.best:
                entries = enumerate(self.frame.iloc[:, j])
                values = {i: round(_mean(x), self.digits) for i, x in entries if _is_number(x)}
                top = BEST[self.best[column]](values.values(), default=None)
                found |= {(i, j) for i, value in values.items() if value == top}
        return found

    def _repr_html_(self) -> str:
        caption, numeric = escape(self.caption), [any(map(_is_number, column)) for _, column in self.frame.items()]
        sides = ["" if n else ' class="lmc-left"' for n in numeric]
        return (
            f"{_style()}\n"
            f'<figure class="lmc-table"><figcaption>{caption}</figcaption>\n'
            f'<div role="region" aria-label="{caption}" tabindex="0"><table aria-label="{caption}">\n'
            f"<thead>{self._head(sides)}</thead>\n<tbody>\n{self._body(sides)}\n</tbody></table></div></figure>"
        )

    def _head(self, sides: list[str]) -> str:
        """One row of column names, or two: groups of columns above, names below."""
        columns = self.frame.columns
        name, span = escape(str(self.frame.index.name or "")), f' rowspan="{columns.nlevels}"'
        corner = f'<th scope="col"{span}>{name}</th>' if name else f"<td{span}></td>"
        lowest = columns.get_level_values(-1)
        row = "".join(f'<th scope="col"{side}>{escape(str(x))}</th>' for x, side in zip(lowest, sides, strict=True))
        if columns.nlevels == 1:
            return f"<tr>{corner}{row}</tr>"
        groups = [(group, len(list(same))) for group, same in groupby(columns.get_level_values(0))]
        above = (f'<th scope="colgroup" colspan="{span}">{escape(str(group))}</th>' for group, span in groups)
        return f"<tr>{corner}{''.join(above)}</tr><tr>{row}</tr>"

    def _body(self, sides: list[str]) -> str:
        marked, rows = self._marked(), []
        for i, label in enumerate(self.frame.index):
            cells = [f"<td{side}>{self._cell(i, j, (i, j) in marked)}</td>" for j, side in enumerate(sides)]
            rows.append(f'<tr><th scope="row">{escape(str(label))}</th>{"".join(cells)}</tr>')
        return "\n".join(rows)

    def _cell(self, i: int, j: int, best: bool) -> str:
        value = self.frame.iat[i, j]
        first, *errors = map(escape, self._parts(value))
        text = f"<b>{first}</b>" if best else first
        if errors:
            text += f' <span class="lmc-errors">± {" ± ".join(errors)}</span>'
        if self.frame.columns[j] != self.bars or not _is_number(value):
            return text
        top = max(_mean(x) + _error(x) for x in self.frame.iloc[:, j] if _is_number(x)) or 1.0
        ends = {"mean": _mean(value), "low": _mean(value) - _error(value), "high": _mean(value) + _error(value)}
        at = "; ".join(f"--{name}: {100 * max(0.0, x) / top:.1f}%" for name, x in ends.items())
        return f'{text}<span class="lmc-bar" style="{at}"></span>'


def table(
    data: pd.DataFrame | Mapping[str, Mapping[str, Any]],
    caption: str,
    *,
    best: str | Mapping[Any, str] | None = None,
    digits: int = 3,
    bars: Any = None,
) -> ResultTable:
    """Return a table of results that a notebook shows as HTML, and a terminal as plain text.

    Parameters
    ----------
    data
        A frame, whose columns may be in named groups (two levels), or for each row the entries by column. Entries
        are numbers, :class:`lmc_utils.Estimate` (a mean with its errors) and texts; None and NaN stay empty.
    caption
        A sentence that says what the table shows, with the unit of its numbers.
    best
        ``"min"`` or ``"max"``: mark the smallest or largest number of each column; entries that read alike share the
        mark. A mapping says so for some columns.
    digits
        Decimals of each number but whole ones.
    bars
        The column whose means are also drawn as bars, with an interval as wide as the larger of their errors.

    Raises
    ------
    TypeError
        If data is neither a frame nor a mapping of mappings, or best neither a text nor a mapping.
    ValueError
        If there are no rows, a named column is missing, or best says neither "min" nor "max".

    Examples
    --------
    >>> rows = {"vanilla": {"barrier": 1.5189}, "learned": {"barrier": 0.0049}}
    >>> print(table(rows, "Barriers between two ViTs (nats).", best="min"))
    Barriers between two ViTs (nats).
            barrier
    vanilla   1.519
    learned   0.005
    """
    import pandas as pd

    if not isinstance(data, pd.DataFrame):
        instance("data", data, Mapping)
        for label, row in data.items():
            instance(f"data[{label!r}]", row, Mapping)
        names = list(dict.fromkeys(name for row in data.values() for name in row))
        columns = {name: pd.Series([row.get(name) for row in data.values()], dtype=object) for name in names}
        data = pd.DataFrame(columns).set_axis(list(data), axis=0)
    if data.empty:
        raise ValueError("data has no entries: check the query that chose them")
    if isinstance(best, str):
        best = dict.fromkeys(data.columns, choice("best", best, tuple(BEST)))
    elif best is not None:
        instance("best", best, Mapping)
    best = {column: choice(f"best[{column!r}]", which, tuple(BEST)) for column, which in (best or {}).items()}
    for column in [*best, *([] if bars is None else [bars])]:
        if column not in data.columns:
            raise ValueError(f"there is no column {brief(column)}, but {brief(list(data.columns))}")
    return ResultTable(data, wording("caption", caption, most=1000), count("digits", digits, 0, 12), best, bars)


def _is_number(value: Any) -> bool:
    real = isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)
    return isinstance(value, Estimate) or real


def _mean(value: Any) -> float:
    return value.mean if isinstance(value, Estimate) else float(value)


def _error(value: Any) -> float:
    return max((x for x in value[1:] if x is not None), default=0.0) if isinstance(value, Estimate) else 0.0
