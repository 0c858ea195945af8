"""Means with their standard errors: over seeds, where pairs share networks, and over samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..arguments import brief, choice, instance, number
from .curve import Curve

if TYPE_CHECKING:
    import pandas as pd

MEASURES = {"loss": "barrier", "accuracy": "accuracy_barrier"}
VALUES = ("pair", "seconds", "lambda", "loss", "accuracy", "error")  # the columns of a table of curves that are no key


class Estimate(NamedTuple):
    """A mean and its standard errors, over seeds and over samples; None where there is no such error.

    ``f"{estimate:.2f}"`` formats all three alike.
    """

    mean: float
    seeds: float | None = None
    samples: float | None = None

    def __format__(self, spec: str) -> str:
        return " ± ".join(format(x, spec) for x in self if x is not None)

    def __str__(self) -> str:
        return format(self, ".3f")


def estimate(values: Mapping[str, float], samples: Mapping[str, float] | None = None) -> Estimate:
    """Return the mean over pairs (or triples) of seeds, with a standard error that allows for the seeds they share.

    Three pairs of three networks are not three independent measurements: each network is in two of them. The error over
    seeds is therefore a jackknife, which leaves out one network at a time with all its pairs (B. Efron and C. Stein,
    *The Jackknife Estimate of Variance*, 1981). Of single networks it is the usual standard error of a mean.

    Parameters
    ----------
    values
        What was measured, by the seeds it was measured on: ``{"0-1": .54, "0-2": .57, "1-2": .51}``. Where first and
        second networks are of two kinds, give their seeds different names, ``"narrow 0-wide 1"``: each kind is left
        out by itself.
    samples
        For each of these the standard error over samples. All pairs are measured on the same samples, so that these
        errors go together: their mean is the error of the mean.

    Returns
    -------
    Estimate
        Without an error over seeds if nothing is left once a seed is left out. A kind of which there is one network
        only adds nothing to the error.

    Raises
    ------
    TypeError
        If values is no mapping, or a value no number.
    ValueError
        If there is no value, a key is empty or longer than another, or samples has other keys.

    Examples
    --------
    >>> print(f"{estimate({'0-1': 0.5, '0-2': 0.6, '1-2': 0.7}):.2f}")
    0.60 ± 0.12
    """
    instance("values", values, Mapping)
    values = {tuple(str(key).split("-")): number(f"values[{key!r}]", value) for key, value in values.items()}
    if not values or len(set(map(len, values))) > 1 or not all(all(key) for key in values):
        raise ValueError(f"values must have seeds for keys, such as '0-1', but has {brief([*map('-'.join, values)])}")
    variances = [x for seeds in _populations(values) if (x := _jackknife(values, seeds)) is not None]
    over_samples = None
    if samples is not None:
        instance("samples", samples, Mapping)
        if {tuple(str(key).split("-")) for key in samples} != set(values):
            raise ValueError(f"samples must have the keys of values, not {brief(list(samples))}")
        over_samples = sum(number(f"samples[{key!r}]", x, 0) for key, x in samples.items()) / len(samples)
    error = math.sqrt(sum(variances)) if variances else None
    return Estimate(sum(values.values()) / len(values), error, over_samples)


def _populations(keys: Iterable[tuple[str, ...]]) -> list[set[str]]:
    """The seeds that can take each other's place: those of all places of a key, but for places that share no seed."""
    found: list[set[str]] = []
    for seeds in map(set, zip(*keys, strict=True)):
        met = [population for population in found if population & seeds]
        found = [population for population in found if population not in met] + [seeds.union(*met)]
    return found


def _jackknife(values: Mapping[tuple[str, ...], float], seeds: set[str]) -> float | None:
    """The variance of the mean over the draw of these seeds; None if nothing is left without one of them."""
    rest = [[value for key, value in values.items() if seed not in key] for seed in seeds]
    if not all(rest):
        return None
    left = [sum(some) / len(some) for some in rest]
    middle, n = sum(left) / len(left), len(left)
    return (n - 1) / n * sum((x - middle) ** 2 for x in left)


def summarize(table: pd.DataFrame, measure: str = "loss") -> pd.DataFrame:
    """Return the barriers that a table of curves holds: means over pairs, with their errors.

    Parameters
    ----------
    table
        Rows of ``lmc.load_table("barriers")``, or of any table with its columns: ``lambda``, ``loss``,
        ``accuracy``, ``pair``, ``method`` and ``split``; the rows that agree in every other column belong to one mean.
    measure
        ``"loss"``: the barrier in nats. ``"accuracy"``: the largest drop of the accuracy below the straight line, a
        fraction.

    Returns
    -------
    pandas.DataFrame
        Entries are of :class:`Estimate`. One column a split; one row for each combination of the other columns.
        Columns with one value only are left out. With a column ``error``, barriers have an error over samples.

    Raises
    ------
    ValueError
        If a column is missing, or there is no row.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> rows = lmc.load_table("barriers").query("set == 'gpt2'")
    >>> barriers = lmc.summarize(rows)
    >>> barriers.loc["weight", "test"].mean < barriers.loc["vanilla", "test"].mean
    True
    """
    import pandas as pd

    instance("table", table, pd.DataFrame)
    height = MEASURES[choice("measure", measure, tuple(MEASURES))]
    needed = ["pair", "method", "split", "lambda", "loss", "accuracy"]
    if missing := [column for column in needed if column not in table]:
        raise ValueError(f"the table has no column {missing[0]!r}, but {brief(list(table))}")
    if table.empty:
        raise ValueError("the table has no rows: check the query that chose them")
    keys = [column for column in table if column not in VALUES]
    found = {}
    for key, rows in table.groupby(keys, sort=False):
        curves = {pair: Curve.from_rows(curve) for pair, curve in rows.groupby("pair")}
        samples = None
        if "error" in rows and measure == "loss":
            errors = rows.set_index(["pair", "lambda"]).error
            samples = {pair: errors[pair, curve.barrier_at] for pair, curve in curves.items()}
        found[key] = estimate({pair: getattr(curve, height) for pair, curve in curves.items()}, samples)
    series = pd.Series(list(found.values()), pd.MultiIndex.from_tuples(found, names=keys), dtype=object)
    frame = series.unstack("split", sort=False).rename_axis(columns=None)
    single = [level for level in frame.index.names if frame.index.get_level_values(level).nunique() == 1]
    return frame.droplevel(single[: frame.index.nlevels - 1])
