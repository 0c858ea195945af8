"""Checks of what a caller asks for, made before any work: a clear line that names the argument and its value."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

# What neither an SVG nor a file's name can hold: control characters but for tab and line feed, halves of pairs, no
# characters at all.
BROKEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
LETTERS = 200  # in the name of a thing at most


def brief(value: Any) -> str:
    """Return a value as one short line, for an error: a tensor by its shape, everything else cut after 80 letters."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {str(value.dtype).removeprefix('torch.')}"
    return one_line(repr(value), 80)


def one_line(text: object, most: float = 300) -> str:
    """Return a text, or an error's, on one line of at most ``most`` characters, its control characters escaped.

    Examples
    --------
    >>> one_line(ValueError("no such\\n  layer"))
    'no such layer'
    """
    line = " ".join(str(text).split()) or type(text).__name__
    line = "".join(repr(c)[1:-1] if unprintable(c) else c for c in line)
    return line if len(line) <= most else line[: most - 3] + "..."


def unprintable(character: str) -> bool:
    """Tell whether a character is a control character or a stray byte of a file name."""
    return unicodedata.category(character) in ("Cc", "Cs")


def instance(name: str, value: Any, kind: type | tuple[type, ...], hint: str = "") -> None:
    """Check that a value is of a kind; ``hint`` says how to get one.

    Raises
    ------
    TypeError
        If it is of another kind.

    Examples
    --------
    >>> instance("networks", [], (list, tuple))
    """
    if not isinstance(value, kind):
        kinds = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise TypeError(f"{name} must be a {kinds}, not a {type(value).__name__}{': ' * bool(hint)}{hint}")


def function(name: str, value: Any, optional: bool = False) -> None:
    """Check that a value can be called, or is None where that is a choice.

    Raises
    ------
    TypeError
        If it cannot be called.

    Examples
    --------
    >>> function("augment", None, optional=True)
    """
    if not callable(value) and not (optional and value is None):
        raise TypeError(f"{name} must be a function{' or None' * optional}, not {brief(value)}")


def same_shape(shape: tuple[int, ...], **values: Tensor) -> None:
    """Check that tensors of real numbers have one shape.

    Raises
    ------
    TypeError
        If one is no tensor.
    ValueError
        If one has another shape, or not a float for a dtype.
    """
    for name, value in values.items():
        instance(name, value, Tensor)
        if tuple(value.shape) != tuple(shape) or not value.is_floating_point():
            raise ValueError(f"{name} must be floats of shape {tuple(shape)}, but is {brief(value)}")


def count(name: str, value: Any, least: int = 1, most: float = math.inf) -> int:
    """Return a whole number of at least ``least`` and at most ``most``.

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
        raise TypeError(f"{name} must be a whole number, not {brief(value)}")
    value = int(value)
    if not least <= value <= most:
        raise ValueError(
            f"{name} must be at {f'least {least}' if value < least else f'most {most}'}, not {brief(value)}"
        )
    return value


def real(name: str, value: Any) -> float:
    """Return a number, which may be NaN or infinite.

    Raises
    ------
    TypeError
        If the value is no real number (``True`` and ``"0.1"`` are not).

    Examples
    --------
    >>> real("lam", 0.5)
    0.5
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, not {brief(value)}")
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        return math.copysign(math.inf, value > 0 or -1)


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
    value = real(name, value)
    if not (math.isfinite(value) and least <= value <= most and above < value < below):
        low = f"above {above:g}" if above >= least else f"at least {least:g}"
        high = f"below {below:g}" if below <= most else f"at most {most:g}"
        bounds = [low] * (max(least, above) > -math.inf) + [high] * (min(most, below) < math.inf)
        raise ValueError(f"{name} must be a finite number{', ' * bool(bounds)}{' and '.join(bounds)}, not {value:g}")
    return value


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
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {brief(value)}")
    return value


def wording(name: str, value: Any, most: float = LETTERS, lines: bool = False) -> str:
    """Return a text that is fit for a page, an SVG or the name of a file.

    Parameters
    ----------
    name, value
        What is looked at, and how the error calls it.
    most
        So many letters at most.
    lines
        Whether it may have several lines, and be empty.

    Raises
    ------
    TypeError
        If the value is no text.
    ValueError
        If it has a control character, is too long or, as a name, empty.

    Examples
    --------
    >>> wording("title", "From A to B")
    'From A to B'
    """
    instance(name, value, str)
    if len(value) > most:
        raise ValueError(f"{name} must have at most {most} letters, but has {len(value)}: {brief(value)}")
    if BROKEN.search(value) or (not lines and ("\n" in value or "\t" in value)):
        raise ValueError(f"{name} must have no control character, but is {brief(value)}")
    if not (value or lines):
        raise ValueError(f"{name} must not be empty")
    return value


def pairs(batches: Iterable, tensors: bool = False) -> Iterator[tuple[Any, Any]]:
    """Go through minibatches and look at each before it is used; those without a sample are left out.

    Parameters
    ----------
    batches
        Pairs ``(inputs, targets)``.
    tensors
        Whether both must be tensors, with as many inputs as targets.

    Raises
    ------
    TypeError
        If they cannot be iterated over, or one of them is no pair.
    ValueError
        If one has inputs and no targets, or the other way round, or a scalar for many.
    """
    if isinstance(batches, (str, bytes, Mapping, Tensor)) or not isinstance(batches, Iterable):
        raise TypeError(
            f"batches must be minibatches (inputs, targets), such as lmc.data.Batches, not {brief(batches)}"
        )
    for i, batch in enumerate(batches):
        parts = [part for part in batch if isinstance(part, Tensor)] if isinstance(batch, (tuple, list)) else []
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or (tensors and len(parts) != 2):
            kind = "a pair of tensors" if tensors else "a pair"
            raise TypeError(f"each minibatch must be {kind} (inputs, targets), but number {i} is {brief(batch)}")
        if lone := [brief(part) for part in parts if not part.ndim]:
            raise ValueError(f"each minibatch must have one row for each sample, but in number {i} is {lone[0]}")
        sizes = {len(part) for part in parts}
        if len(sizes) > 1 and (tensors or 0 in sizes):
            raise ValueError(
                f"minibatch {i} must have as many inputs as targets, but is {' and '.join(map(brief, parts))}"
            )
        if sizes != {0}:
            yield batch[0], batch[1]


@contextmanager
def reading(inputs: Any) -> Iterator[None]:
    """Run a network; if its library cannot go through with it, say of which inputs.

    Raises
    ------
    ValueError
        In place of the errors that torch and timm raise for inputs of a wrong shape, dtype or range.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ValueError(f"the network cannot read these inputs, {brief(inputs)}: {why}") from error


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
