"""Checks of what a caller asks for, made before any work: a clear line that names the argument and its value."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def count(name: str, value: Any, least: int = 1, most: float = math.inf) -> int:
    """Return a whole number between ``least`` and ``most``.

    Raises
    ------
    TypeError
        If the value is no whole number (``True``, ``2.5`` and ``"2"`` are not).
    ValueError
        If it is smaller than ``least`` or larger than ``most``.

    Examples
    --------
    >>> count("steps", 300)
    300
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, not {value}")
    return int(value)


def number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Return a finite number between ``least`` and ``most`` that is also larger than ``above``, smaller than ``below``.

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
    if not (math.isfinite(value) and least <= value <= most and above < value < below):
        low = f"above {above:g}" if above >= least else f"at least {least:g}"
        high = f"below {below:g}" if below <= most else f"at most {most:g}"
        bounds = [low] * (max(least, above) > -math.inf) + [high] * (min(most, below) < math.inf)
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


def check_targets(logits: Tensor, targets: Tensor) -> None:
    """Check that there is a class number for each answer of a network: cross entropy would skip -100 without a word.

    Parameters
    ----------
    logits
        Shape (..., classes).
    targets
        Shape (...), int64, from 0 to classes - 1.

    Raises
    ------
    ValueError
        If the targets have another shape or dtype, or a number that is no class.

    Examples
    --------
    >>> check_targets(torch.zeros(2, 10), torch.tensor([3, 9]))
    """
    classes = logits.shape[-1]
    if targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"targets must have the shape of the logits without its last axis, {tuple(logits.shape[:-1])}, "
            f"not {tuple(targets.shape)}"
        )
    if targets.dtype != torch.int64:
        raise ValueError(f"targets must be class numbers of dtype int64, not {targets.dtype}: use targets.long()")
    if targets.numel() and not 0 <= targets.min() <= targets.max() < classes:
        value = targets[(targets < 0) | (targets >= classes)][0]
        raise ValueError(f"targets must be class numbers from 0 to {classes - 1}, but there is {value}")
