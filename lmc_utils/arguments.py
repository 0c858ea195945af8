"""Checks of what a caller asks for, made before any work: a clear line that names the argument and its value."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def count(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number of at least ``least``.

    Raises
    ------
    TypeError
        If the value is no whole number (``True``, ``2.5`` and ``"2"`` are not).
    ValueError
        If it is smaller than ``least``.

    Examples
    --------
    >>> count("steps", 300)
    300
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return int(value)


def number(
    name: str, value: Any, least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf
) -> float:
    """Return a finite number between ``least`` and ``most`` that is also larger than ``above``.

    Raises
    ------
    TypeError
        If the value is no real number (``True`` and ``"0.1"`` are not).
    ValueError
        If it is NaN, infinite or outside of the bounds.

    Examples
    --------
    >>> number("lr", 0.02, above=0)
    0.02
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not (math.isfinite(value) and least <= value <= most and value > above):
        low = f"above {above:g}" if above >= least else f"at least {least:g}"
        bounds = [low] * (max(least, above) > -math.inf) + [f"at most {most:g}"] * (most < math.inf)
        raise ValueError(f"{name} must be a finite number{', ' * bool(bounds)}{' and '.join(bounds)}, not {value}")
    return float(value)


def choice(name: str, value: Any, known: tuple[str, ...]) -> str:
    """Return one of the known words.

    Raises
    ------
    ValueError
        If the value is none of them.

    Examples
    --------
    >>> choice("target", "labels", ("labels", "ensemble"))
    'labels'
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}")
    return value
