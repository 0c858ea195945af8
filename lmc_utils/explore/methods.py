"""What figures that compare methods share: every method on the same splits of the data, and values that are numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from ..arguments import LETTERS, instance, wording

T = TypeVar("T")


def named(name: str, things: Any, hint: str) -> None:
    """Check that things come in a mapping by names that may stand in a page; ``hint`` says what is expected.

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
    """Check what stands above and below a figure: texts of one line or more, without control characters."""
    wording("title", title, LETTERS, lines=True)
    if caption is not None:
        wording("caption", caption, 10 * LETTERS, lines=True)


def by_split(given: Mapping[str, T | Mapping[str, T]], kind: type[T], source: str) -> dict[str, dict[str, T]]:
    """Every method with the same splits in the same order; one split without a name where there are none.

    Parameters
    ----------
    given
        What was measured for each method, or for each of its splits.
    kind, source
        What each of them must be, and where such things come from, for the error.

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
            need = ", ".join(map(repr, missing)) if "" not in missing else f"the single {what} that other methods have"
            raise ValueError(f"every method needs the same splits: {name!r} has {has}, but not {need}")
        for value in row.values():
            if not isinstance(value, kind):
                raise TypeError(f"method {name!r}: expected a {what} (from {source}), got {type(value).__name__}")
    return {name: {split: row[split] for split in union} for name, row in rows.items()}


def labelled(rows: Mapping[str, Mapping[str, T]]) -> Iterator[tuple[str, T]]:
    """Everything, with the words by which an error calls it."""
    for name, row in rows.items():
        for split, value in row.items():
            yield (f"{name!r} on {split!r}" if split else repr(name)), value


def check_finite(rows: Mapping[str, Mapping[str, T]], where: Callable[[int], str]) -> None:
    """Raise a ValueError that says where the first loss, accuracy or excess is NaN or infinite."""
    for label, value in labelled(rows):
        for field in ("loss", "accuracy", "excess"):
            bad = (~getattr(value, field).isfinite()).nonzero()
            if len(bad):
                raise ValueError(f"the {field} of {label} is not finite at {where(int(bad[0, 0]))}")
