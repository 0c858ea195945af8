"""What figures that compare methods share: every method on the same splits of the data, and values that are numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from ..arguments import LETTERS, instance, wording

T = TypeVar("T")


def named(name: str, things: Any, hint: str) -> None:
    """Check that things come in a mapping by names that a page can show; ``hint`` says what is expected.

    Raises
    ------
    TypeError
        If it is no mapping, or a name is no text.
    ValueError
        If a name has a control character or is too long.
    """
    instance(name, things, Mapping, hint)
    for key in things:
        wording(f"a name in {name}", key)


def check_words(title: str, caption: str | None) -> None:
    """Check the words above and below a figure: texts of one line or more, without control characters."""
    wording("title", title, LETTERS, lines=True)
    if caption is not None:
        wording("caption", caption, 10 * LETTERS, lines=True)


@dataclass(frozen=True)
class Comparison(Generic[T]):
    """What several methods measured on the same splits of the data and at the same places.

    Parameters
    ----------
    rows
        For each method its value on each split; every method has the same splits in the same order, and one split
        without a name where there are none.
    """

    rows: dict[str, dict[str, T]]

    @classmethod
    def of(cls, given: Mapping[str, T | Mapping[str, T]], kind: type[T], source: str) -> Comparison[T]:
        """Sort what was measured for each method, or for each of its splits.

        Parameters
        ----------
        given
            By the name of the method, or of the method and the split.
        kind, source
            What each value must be, and where such things come from, for the error.

        Raises
        ------
        ValueError
            If there is nothing, or a split is missing.
        TypeError
            If something is not of this kind.
        """
        what = kind.__name__
        hint = f'{{"vanilla": ...}} with what {source} measured for each method'
        named("what is explored", given, hint)
        for name, value in given.items():
            if isinstance(value, Mapping):
                named(f"the splits of {name!r}", value, hint)
        if not given:
            raise ValueError(f'at least one {what} is needed, from {source}: {{"vanilla": ...}}')
        rows = {name: value if isinstance(value, Mapping) else {"": value} for name, value in given.items()}
        union = list(dict.fromkeys(split for row in rows.values() for split in row))
        if not union:
            raise ValueError(f"method {next(iter(rows))!r} comes without a {what}: at least one is needed")
        for name, row in rows.items():
            if missing := [split for split in union if split not in row]:
                has = ", ".join(filter(None, row)) or f"one {what} without a split"
                need = ", ".join(map(repr, missing)) if "" not in missing else f"the single {what} that others have"
                raise ValueError(f"every method needs the same splits: {name!r} has {has}, but not {need}")
            for value in row.values():
                if not isinstance(value, kind):
                    raise TypeError(f"method {name!r}: expected a {what} (from {source}), got {type(value).__name__}")
        return cls({name: {split: row[split] for split in union} for name, row in rows.items()})

    @property
    def splits(self) -> list[str]:
        return list(next(iter(self.rows.values())))

    def on(self, split: str) -> dict[str, T]:
        """Return the value of each method on one split."""
        return {name: row[split] for name, row in self.rows.items()}

    def grid(self, field: str, where: Callable[[Tensor], str]) -> Tensor:
        """Return the places that all share, at which every loss, accuracy and excess is a number.

        Parameters
        ----------
        field
            What holds the places.
        where
            Says one of them in words, for the error.

        Raises
        ------
        ValueError
            If two values have other places, or a loss, an accuracy or an excess is NaN or infinite.
        """
        grid, first = None, ""
        for name, row in self.rows.items():
            for split, value in row.items():
                label, places = f"{name!r} on {split!r}" if split else repr(name), getattr(value, field)
                if grid is None:
                    grid, first = places, label
                if places.shape != grid.shape or not torch.allclose(places, grid):
                    raise ValueError(
                        f"all must share one grid of {field}: {label} has {len(places)} points, {first} {len(grid)} "
                        "(or they lie elsewhere); interpolate all with the same points"
                    )
                for measure in ("loss", "accuracy", "excess"):
                    bad = (~getattr(value, measure).isfinite()).nonzero()
                    if len(bad):
                        raise ValueError(f"the {measure} of {label} is not finite at {where(grid[int(bad[0, 0])])}")
        return grid
