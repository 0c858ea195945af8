"""The loss on the straight line between two networks, and the barrier."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

import torch
from torch import Tensor

from ..arguments import brief, count, function, instance, same_shape
from ..data import Batch
from ..networks.base import Network, check_networks, check_same_architecture
from ..progress import progress
from ..style import style
from .average import Merge, merge
from .evaluate import MOST, Examples, held, measure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from ..data import Data
    from .prompt import Prompt, Text


@dataclass(frozen=True)
class Curve:
    """Loss and accuracy along the path from network a (``lambda = 0``) to network b (``lambda = 1``).

    Parameters
    ----------
    lambdas
        Shape (points,), in [0, 1], increasing, both ends included.
    loss
        Shape (points,), nats.
    accuracy
        Shape (points,), fractions.
    examples
        The answers to a few samples, for the figures; None for networks that do not classify whole inputs.
    ends
        The end points as they were, a curve of two points, where a map that is no symmetry changed one of them; None
        if they are the path's own ends.
    calibrated
        The loss at each lambda with one temperature fitted there, shape (points,), nats; None if not asked for.
    texts
        What the network at each lambda writes from a prompt; None if not asked for.

    Raises
    ------
    TypeError
        If ``lambdas`` or a measure is no tensor.
    ValueError
        If they have different shapes, or ``lambdas`` do not begin at 0 and end at 1.
    """

    lambdas: Tensor
    loss: Tensor
    accuracy: Tensor
    examples: Examples | None = None
    ends: Curve | None = None
    calibrated: Tensor | None = None
    texts: tuple[Text, ...] | None = None

    def __post_init__(self) -> None:
        instance("lambdas", self.lambdas, Tensor)
        if self.lambdas.ndim != 1 or self.lambdas[:1].tolist() != [0] or self.lambdas[-1:].tolist() != [1]:
            raise ValueError(f"lambdas must be a row of numbers, the first 0 and the last 1, not {brief(self.lambdas)}")
        calibrated = {} if self.calibrated is None else {"calibrated": self.calibrated}
        same_shape(self.lambdas.shape, loss=self.loss, accuracy=self.accuracy, **calibrated)

    @classmethod
    def from_rows(cls, rows: pd.DataFrame) -> Self:
        """Return the curve that the rows of a table hold, one row a lambda, in any order.

        Parameters
        ----------
        rows
            Columns ``lambda``, ``loss`` (nats) and ``accuracy`` (fractions), as in ``lmc.load_table("barriers")``.

        Raises
        ------
        ValueError
            If they are not one path from 0 to 1: the rows of several pairs, methods or splits, say.

        Examples
        --------
        >>> import lmc_utils as lmc
        >>> rows = lmc.load_table("barriers").query("set == 'mlp' and pair == '0-1' and method == 'weight'")
        >>> lmc.Curve.from_rows(rows.query("split == 'train'")).loss.shape
        torch.Size([17])
        """
        rows = rows.sort_values("lambda")
        if rows["lambda"].duplicated().any():
            raise ValueError(f"{len(rows)} rows hold a lambda twice: choose one set, pair, method and split")
        return cls(*(torch.tensor(rows[column].to_numpy()) for column in ("lambda", "loss", "accuracy")))

    @property
    def baseline(self) -> Tensor:
        """The straight line between the two end-point losses, in nats."""
        return self._chord("loss")

    def _chord(self, measure: str) -> Tensor:
        first, last = getattr(self.ends or self, measure)[[0, -1]]
        return torch.lerp(first, last, self.lambdas)

    @property
    def excess(self) -> Tensor:
        """The loss above the base line at each lambda, in nats."""
        return self.loss - self.baseline

    @property
    def barrier(self) -> float:
        """The largest excess on the grid, in nats (arXiv 2506.22712, section 2). Never negative, but with ``ends``."""
        return barrier(self)

    @property
    def barrier_at(self) -> float:
        """The lambda of the largest excess."""
        return self.lambdas[self.excess.argmax()].item()

    @property
    def accuracy_barrier(self) -> float:
        """The largest drop of the accuracy below the straight line between the end points', a fraction."""
        return (self._chord("accuracy") - self.accuracy).max().item()

    @property
    def calibrated_barrier(self) -> float:
        """The barrier of the calibrated loss, in nats; raises ValueError if it was not asked for."""
        if self.calibrated is None:
            raise ValueError("no calibrated loss on this curve: ask for it with interpolate(..., calibrate=True)")
        return (self.calibrated - self._chord("calibrated")).max().item()

    def plot(self, axes: Sequence[Axes] | None = None, label: str = "path") -> Sequence[Axes]:
        """Draw loss and accuracy over lambda: the static twin of the interactive figure.

        Parameters
        ----------
        axes
            Two axes to draw into (loss, accuracy); made if None.
        label
            Name of the method; it chooses colour and dash.
        """
        import matplotlib.pyplot as plt

        if axes is None:
            _, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        if len(axes) != 2 or not all(hasattr(ax, "plot") for ax in axes):
            raise TypeError(f"axes must be two axes of matplotlib, for loss and accuracy, not {brief(axes)}")
        look = style(label)
        drawn = (self.loss, self.baseline, "loss (nats)"), (self.accuracy, self.accuracy, "accuracy")
        for ax, (values, line, name) in zip(axes, drawn, strict=True):
            ax.plot(self.lambdas, values, color=look.color, linestyle=look.dash, label=label)
            ax.plot([0, 1], line[[0, -1]], color=look.color, linewidth=0.8, alpha=0.6, marker="o", markersize=4)
            ax.set(xlabel=r"$\lambda$", ylabel=name, xlim=(-0.02, 1.02))
            ax.spines[["top", "right"]].set_visible(False)
        at = self.excess.argmax()
        axes[0].vlines(self.lambdas[at], self.baseline[at], self.loss[at], color=look.color, linewidth=0.8)
        return axes


def barrier(curve: Curve, convention: str = "line") -> float:
    """The height of the barrier on a path, in nats, by one of the conventions of the literature.

    Parameters
    ----------
    curve
        The path.
    convention
        ``"line"``: largest excess over the straight line between the end-point losses (arXiv 2506.22712, section 2,
        and arXiv 2110.06296); ``"mean"``: largest loss minus the mean of the end-point losses (arXiv 1912.05671);
        ``"worst"``: largest loss minus the larger end-point loss; ``"midpoint"``: the excess at lambda = 1/2.

    Raises
    ------
    TypeError
        If this is no curve.
    ValueError
        If the convention is unknown, or it is the midpoint's and the grid has none.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    >>> sums = lmc.load_data("sums").test.take(100)
    >>> curve = lmc.interpolate(a, b, sums, points=3)
    >>> lmc.barrier(curve) == lmc.barrier(curve, "midpoint")
    True
    """
    instance("curve", curve, Curve, "lmc.interpolate measures one")
    ends = curve.baseline[[0, -1]]
    match convention:
        case "line":
            return curve.excess.max().item()
        case "mean":
            return (curve.loss.max() - ends.mean()).item()
        case "worst":
            return (curve.loss.max() - ends.max()).item()
        case "midpoint":
            middle = (curve.lambdas - 0.5).abs().argmin()
            if (curve.lambdas[middle] - 0.5).abs() > 1e-9:
                raise ValueError(f"a grid of {len(curve.lambdas)} points has no midpoint: take an odd number")
            return curve.excess[middle].item()
    raise ValueError(f"unknown convention {brief(convention)}; known are 'line', 'mean', 'worst', 'midpoint'")


def interpolate(
    a: Network,
    b: Network,
    batches: Iterable[Batch],
    *,
    points: int = 25,
    merge: Merge = merge,
    ends: tuple[Network, Network] | None = None,
    calibrate: bool = False,
    prompt: Prompt | None = None,
) -> Curve:
    """Loss and accuracy on the straight line from a to b.

    Parameters
    ----------
    a, b
        Networks of one architecture; align b first to see what the symmetries hide.
    batches
        ``(inputs, targets)`` to evaluate on, held in memory; if they have ``classes``, these name the classes.
    points
        Size of the grid of lambdas, both ends included.
    merge
        Makes the network at each lambda strictly inside: the plain average, or e.g. :func:`lmc_utils.repair` with data.
    ends
        The original end points, whose losses the base line joins, if b was moved by a map that is no symmetry.
    calibrate
        Also fit one temperature at each lambda, for which all logits of one network at a time are held in memory.
    prompt
        Also let the network at each lambda write from this beginning, for the figures.

    Raises
    ------
    TypeError
        If a or b is no network, the batches are no pairs of tensors, or ``merge`` or ``prompt`` cannot be called.
    ValueError
        If the architectures differ, ``points`` is below 2, there is no batch, a network cannot read the inputs, a
        target is no number of a class, or a loss is not finite.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    >>> sums = lmc.load_data("sums").test.take(100)
    >>> lmc.interpolate(a, b, sums, points=3).lambdas.tolist()
    [0.0, 0.5, 1.0]
    """
    count("points", points, 2, MOST)
    check_networks(a=a, b=b)
    check_same_architecture(a, b)
    function("merge", merge)
    function("prompt", prompt, optional=True)
    instance("calibrate", calibrate, bool)
    if ends is not None:
        if not isinstance(ends, Sequence) or len(ends) != 2:
            raise TypeError(f"ends must be the two original end points, not {brief(ends)}")
        check_networks(**{f"ends[{i}]": network for i, network in enumerate(ends)})
    lambdas = torch.linspace(0, 1, points, dtype=torch.float64)
    inside = (merge(a, b, lam) for lam in lambdas[1:-1].tolist())
    passes = held(batches)
    classes = tuple(getattr(batches, "classes", ()))
    texts: list[Text] = []

    def path() -> Iterator[tuple[str, Network]]:
        networks = progress(chain([a], inside, [b]), total=points, desc="path")
        for lam, network in zip(lambdas.tolist(), networks, strict=True):
            if prompt:
                texts.append(prompt(network))
            yield f"the network at lambda = {lam:.4g}", network

    found = measure(path(), passes, classes, calibrate)
    return Curve(
        lambdas,
        **found._asdict(),
        ends=interpolate(*ends, passes, points=2, calibrate=calibrate) if ends else None,
        texts=tuple(texts) if prompt else None,
    )


class Barriers(NamedTuple):
    """Four measures of one barrier, and a fifth where there are validation data; what :func:`barriers` returns."""

    test: float
    accuracy: float
    calibrated: float
    train: float
    validation: float | None


def barriers(
    a: Network,
    b: Network,
    data: Data,
    *,
    points: int = 25,
    merge: Merge = merge,
    ends: tuple[Network, Network] | None = None,
) -> Barriers:
    """The barrier between two networks, measured so that overfit end points cannot hide it.

    The test loss of overfit end points can be worse than that of the networks between them, whose averaged logits are
    less sure: then its barrier is zero for a reason that has nothing to do with the landscape.

    Parameters
    ----------
    a, b
        Networks of one architecture, b aligned already.
    data
        Its training split is what the barrier on training data is measured on: pass a part of it if it is large.
    points, merge, ends
        As for :func:`interpolate`, which also says what is refused.

    Returns
    -------
    test : float
        The paper's barrier, nats.
    accuracy : float
        The largest drop of the test accuracy below the straight line, a fraction.
    calibrated : float
        The barrier of the test loss with one temperature fitted to each network on the path, nats.
    train, validation : float
        The barrier of the loss on the other splits, nats; None where there is no such split.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    >>> data = lmc.load_data("sums")
    >>> lmc.barriers(a, b, data, points=3).test > 1
    True
    """
    if missing := [split for split in ("train", "test", "validation") if not hasattr(data, split)]:
        raise TypeError(f"data must be a set in its splits, from lmc.load_data, but {brief(data)} has no {missing[0]}")
    along = partial(interpolate, a, b, points=points, merge=merge, ends=ends)
    test = along(data.test, calibrate=True)
    others = (None if split is None else along(split).barrier for split in (data.train, data.validation))
    return Barriers(test.barrier, test.accuracy_barrier, test.calibrated_barrier, *others)
