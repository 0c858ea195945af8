"""Segments and planes between networks, the loss along them, and the barrier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .arguments import (
    brief,
    check_targets,
    count,
    instance,
    number,
    pairs,
    reading,
    real,
    same_shape,
)
from .networks.base import Network, check_same_architecture
from .progress import progress
from .spec import Params
from .style import style
from .symmetry import StreamOrthogonal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .data import Data
    from .prompt import Prompt, Text

Batch = tuple[Tensor, Tensor]
Merge = Callable[[Network, Network, float], Network]
EXAMPLES = 512  # as many test samples' answers are kept along a path, for the figures
EMPTY = "no batch to evaluate on: the data are empty, or an iterator that has come to its end"
MOST = 100_000  # networks that one call evaluates


def check_networks(**networks: Network) -> None:
    """Raise a TypeError that names the argument if one is no network in canonical form."""
    for name, network in networks.items():
        instance(name, network, Network, "lmc.canonicalize(model) makes one of a model")


def check_functions(**functions: Callable) -> None:
    """Raise a TypeError that names the argument if one cannot be called."""
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name} must be a function of networks, not {brief(function)}")


def check_several(networks: Sequence[Network]) -> None:
    """Raise an error if this is no list of networks of one architecture."""
    instance("networks", networks, Sequence)
    check_networks(**{f"networks[{i}]": network for i, network in enumerate(networks)})
    if networks:
        check_same_architecture(*networks)


def merge(a: Network, b: Network, lam: float = 0.5) -> Network:
    """The network on the straight line between two networks: ``(1 - lam) a + lam b``, parameter by parameter.

    Raises
    ------
    TypeError
        If a or b is no network, or ``lam`` no number.
    ValueError
        If ``lam`` is outside [0, 1] or the architectures differ.
    """
    check_networks(a=a, b=b)
    if not 0 <= real("lam", lam) <= 1:
        raise ValueError(f"lam is a position between network a (0) and network b (1), in [0, 1], but is {lam}")
    check_same_architecture(a, b)
    return Network(a.architecture, {name: torch.lerp(p, b.params[name], lam) for name, p in a.params.items()})


def average(networks: Sequence[Network], weights: Sequence[float] | None = None, *, merge: Merge = merge) -> Network:
    """The network at a point of the simplex between several networks: ``sum_m weights[m] networks[m]``.

    Network by network, as a running mean: each is merged with the mean of those before it. So the mean of equal
    networks is that network to the last bit, and with two networks this is ``merge(a, b, weights[1])``.

    Parameters
    ----------
    networks
        One or more networks of one architecture, aligned already.
    weights
        Not negative, with sum one; by default all equal.
    merge
        How to average two.

    Raises
    ------
    TypeError
        If one is no network, or a weight no number.
    ValueError
        If there is no network, the architectures differ, or the weights are not as above.
    """
    check_several(networks)
    check_functions(merge=merge)
    weights = [1 / max(1, len(networks))] * len(networks) if weights is None else weights
    instance("weights", weights, Sequence)
    for i, weight in enumerate(weights):
        number(f"weights[{i}]", weight)
    if not networks or len(weights) != len(networks) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise ValueError(f"{len(networks)} networks need as many weights, not negative and with sum 1, not {weights}")
    mean, total = networks[0], weights[0]
    for network, weight in zip(networks[1:], weights[1:], strict=True):
        total += weight
        mean = merge(mean, network, weight / total if total else 1.0)
    return mean


def merge_circuits(a: Network, b: Network, lam: float = 0.5) -> Network:
    """The network between a and b whose *circuits* are the averages of theirs: products inside heads, not factors.

    Attention sees the spaces inside a head only through the products QK and OV. Averaging these instead of their
    factors (as the code of arXiv 2506.22712 does) makes the bases inside heads irrelevant, and it leaves the
    architecture: the average of two products of rank n has rank 2 n. So the heads of the result have twice the
    width: the factors of both networks side by side, no product multiplied out. For the stock module the residual
    stream is twice as wide, too. All other parameters are averaged as by :func:`merge`.

    Raises
    ------
    ValueError
        If ``lam`` is outside [0, 1], the architectures differ, or they have no heads.
    """
    average = merge(a, b, lam)
    spec, params = average.spec, dict(average.params)
    inner = [name for name, site in spec.sites.items() if site.within]
    if not inner:
        raise ValueError(f"networks without heads have no circuits; the sites are {list(spec.sites)}")
    for site in inner:
        for name, axis, _, _ in spec.touching(site):
            params[name] = torch.cat([(1 - lam) ** 0.5 * a.params[name], lam**0.5 * b.params[name]], axis)
    wide = spec.resize({site: 2 * spec.sites[site].size for site in inner})
    streams = {name: site.size for name, site in spec.sites.items() if site.symmetry is StreamOrthogonal}
    twice = {name: StreamOrthogonal(torch.eye(n).repeat_interleave(2, 0)) for name, n in streams.items()}
    widen = replace(wide.identity(), maps=wide.identity().maps | twice)
    return Network(a.architecture.resize(widen.target.sizes), widen.act(params, twice))


def logits_of(output: Any) -> Tensor:
    """What a network answered: the logits themselves, or an object that has them, as those of transformers do."""
    return getattr(output, "logits", output)


def answer(network: Callable[[Tensor], Any], inputs: Tensor) -> Tensor:
    """The logits that a network answers, shape (..., classes).

    Raises
    ------
    TypeError
        If it answers no logits.
    ValueError
        If a network of this package, or a module, cannot read the inputs.
    """
    if isinstance(network, (Network, nn.Module)):
        instance("the inputs of a minibatch", inputs, Tensor)
        with reading(inputs):
            logits = logits_of(network(inputs))
    else:
        logits = logits_of(network(inputs))
    instance("what the network answers, or its .logits,", logits, Tensor)
    if logits.ndim < 2 or not logits.shape[-1] or not logits.is_floating_point():
        raise ValueError(f"a network must answer logits of shape (..., classes), not {brief(logits)}")
    return logits


def activations_of(network: Network, inputs: Tensor) -> dict[str, Tensor]:
    """For each site what its writers write, shape (samples, size): see :meth:`lmc_utils.Network.activations`.

    Raises
    ------
    ValueError
        If the network cannot read the inputs, or they or what a site gets are not finite.
    """
    instance("the inputs of a minibatch", inputs, Tensor)
    if not inputs.isfinite().all():
        raise ValueError(f"the inputs of a minibatch, {brief(inputs)}, have NaN or infinite entries")
    with reading(inputs):
        found = network.activations(inputs)
    if wrong := [site for site, x in found.items() if not x.isfinite().all()]:
        raise ValueError(f"what is written into the site {wrong[0]!r} is NaN or infinite for some inputs")
    return found


def held(batches: Iterable[Batch]) -> list[Batch]:
    """All minibatches of tensors: one order for all networks, also where each pass over the data would shuffle them.

    Raises
    ------
    TypeError
        If they are no pairs of tensors.
    ValueError
        If there is none.
    """
    found = list(pairs(batches))
    for inputs, targets in found:
        instance("the inputs of a minibatch", inputs, Tensor)
        instance("the targets of a minibatch", targets, Tensor)
    if not found:
        raise ValueError(EMPTY)
    return found


class Evaluation(NamedTuple):
    """What :func:`evaluate` returns."""

    loss: float
    accuracy: float
    logits: Tensor


@torch.no_grad()
def evaluate(network: Callable[[Tensor], Tensor], batches: Iterable[Batch], keep: int = 0) -> Evaluation:
    """Mean loss and accuracy of a network over data.

    Parameters
    ----------
    network
        Anything that maps inputs to logits of shape (..., classes), or to an object with ``.logits``.
    batches
        ``(inputs, targets)``; targets int64 of the shape of the logits without its last axis.
    keep
        Return the logits of the first so many samples.

    Returns
    -------
    loss : float
        Mean cross entropy in nats, every target counted once.
    accuracy : float
        Fraction of targets that are the most probable class.
    logits : Tensor
        Of the first ``keep`` samples, float32.

    Raises
    ------
    TypeError
        If the network cannot be called, or the batches are no pairs of tensors.
    ValueError
        If there is no batch, the network cannot read the inputs, a target is no number of a class, or the loss is not
        finite.
    """
    return _evaluate(network, batches, count("keep", keep, 0))


def _evaluate(
    network: Callable[[Tensor], Tensor], batches: Iterable[Batch], keep: int = 0, which: str = "this network"
) -> Evaluation:
    """What :func:`evaluate` does; an error calls the network as ``which`` says."""
    if not callable(network):
        raise TypeError(f"{which} cannot be evaluated: it must be a network or a function, not {brief(network)}")
    loss, correct, total, kept = 0.0, 0, 0, []
    module = isinstance(network, nn.Module)  # which expects its inputs where it is; a Network fetches them
    device = next((p.device for p in network.parameters()), None) if module else None
    for inputs, targets in pairs(batches):
        instance("the targets of a minibatch", targets, Tensor)
        logits = answer(network, inputs if device is None or not isinstance(inputs, Tensor) else inputs.to(device))
        targets = targets.to(logits.device)
        check_targets(logits, targets)
        loss += cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum").item()
        correct += (logits.argmax(-1) == targets).sum().item()
        total += targets.numel()
        missing = keep - sum(map(len, kept))
        if missing > 0:
            kept.append(logits[:missing].float().cpu())
    if total == 0:
        raise ValueError(EMPTY)
    if not math.isfinite(loss):
        raise ValueError(f"{which} cannot be evaluated: its loss is {loss}, look at its weights and at the inputs")
    if len({logits.shape[1:] for logits in kept}) > 1:
        raise ValueError(
            f"the logits to keep have different shapes, {brief(kept[0])} first: cut all samples to one length"
        )
    return Evaluation(loss / total, correct / total, torch.cat(kept) if kept else torch.empty(0))


def calibrated_loss(logits: Tensor, targets: Tensor) -> float:
    """The mean cross entropy after one temperature, the best for these targets, has divided the logits; in nats.

    What is left of a loss when being too sure, or not sure enough, costs nothing (arXiv 1706.04599): the same for
    all positive multiples of the logits.

    Parameters
    ----------
    logits, targets
        Shapes (samples, classes) and (samples,).

    Raises
    ------
    ValueError
        If there is only one class, or the logits are not finite.
    """
    from scipy.optimize import minimize_scalar

    if logits.shape[-1] < 2:
        raise ValueError(f"a temperature needs the logits of two classes or more, but there is {brief(logits)}")
    if not logits.isfinite().all():
        raise ValueError(f"the logits to calibrate, {brief(logits)}, have NaN or infinite entries")
    unit = logits.std().item() or 1.0  # so that the search does not depend on the scale that is sought

    def loss(log_temperature: float) -> float:
        return cross_entropy(logits / (unit * math.exp(log_temperature)), targets).item()

    return minimize_scalar(loss, bounds=(-6, 6), method="bounded", options={"xatol": 1e-3}).fun


@dataclass(frozen=True)
class Examples:
    """What the networks along a path answer to the first few test samples.

    Parameters
    ----------
    inputs, targets
        The samples, shapes (n, ...) and (n,).
    probabilities
        Shape (points, n, classes).
    classes
        Names of the classes; empty if the data do not name them.
    """

    inputs: Tensor
    targets: Tensor
    probabilities: Tensor
    classes: tuple[str, ...] = ()


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
        What stands at each lambda strictly inside; the plain average, or e.g. :func:`lmc_utils.repair` with its data.
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
    """
    count("points", points, 2, MOST)
    check_networks(a=a, b=b)
    check_same_architecture(a, b)
    check_functions(merge=merge, **({} if prompt is None else {"prompt": prompt}))
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


class Measures(NamedTuple):
    """What :func:`measure` returns: the fields of a :class:`Curve` and of a :class:`lmc_utils.Simplex`."""

    loss: Tensor
    accuracy: Tensor
    examples: Examples | None
    calibrated: Tensor | None


def measure(
    networks: Iterable[tuple[str, Network]],
    batches: Sequence[Batch],
    classes: tuple[str, ...] = (),
    calibrate: bool = False,
) -> Measures:
    """Loss, accuracy and a few answers of each of several networks, in one order of the data.

    Parameters
    ----------
    networks
        One at a time, each after the words by which an error calls it: none is kept.
    batches
        ``(inputs, targets)``, as :func:`held` gives them; ``classes`` are the names of the targets.
    calibrate
        Also fit one temperature to each network, for which all its logits are held in memory.
    """
    alike = len({inputs.shape[1:] for inputs, _ in batches}) == 1
    few = EXAMPLES if alike and batches[0][1].ndim == 1 else 0  # answers to texts are not kept: they are large
    loss, accuracy, kept, calibrated = [], [], [], []
    for which, network in networks:
        found = _evaluate(network, batches, sum(len(y) for _, y in batches) if calibrate else few, which)
        loss.append(found.loss)
        accuracy.append(found.accuracy)
        kept.append(found.logits[:few].clone())
        if calibrate:
            targets = torch.cat([y.flatten() for _, y in batches])
            calibrated.append(calibrated_loss(found.logits.flatten(0, -2), targets))
    return Measures(
        _vector(loss),
        _vector(accuracy),
        _examples(batches, torch.stack(kept), classes) if few else None,
        _vector(calibrated) if calibrate else None,
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
    """
    if missing := [split for split in ("train", "test", "validation") if not hasattr(data, split)]:
        raise TypeError(f"data must be a set in its splits, from lmc.load_data, but {brief(data)} has no {missing[0]}")
    along = partial(interpolate, a, b, points=points, merge=merge, ends=ends)
    test = along(data.test, calibrate=True)
    others = (None if split is None else along(split).barrier for split in (data.train, data.validation))
    return Barriers(test.barrier, test.accuracy_barrier, test.calibrated_barrier, *others)


def _vector(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _examples(batches: Iterable[Batch], logits: Tensor, classes: tuple[str, ...]) -> Examples:
    """The samples that go with the kept logits, shape (points, n, classes)."""
    inputs, targets = (torch.cat(parts)[: logits.shape[1]] for parts in zip(*batches, strict=True))
    return Examples(inputs, targets, logits.softmax(-1), classes)


@dataclass(frozen=True)
class Plane:
    """The loss on the plane through three networks.

    Parameters
    ----------
    x, y
        Coordinates of the grid, shape (points,) each, in units of distance in weight space.
    loss
        Shape (points, points), nats; rows follow ``y``, columns ``x``.
    corners
        Where the three networks stand, shape (3, 2).

    Raises
    ------
    TypeError
        If one of them is no tensor.
    ValueError
        If the shapes do not fit.
    """

    x: Tensor
    y: Tensor
    loss: Tensor
    corners: Tensor

    def __post_init__(self) -> None:
        for name, axis in {"x": self.x, "y": self.y}.items():
            instance(name, axis, Tensor)
            same_shape((axis.numel(),), **{name: axis})
        same_shape((len(self.y), len(self.x)), loss=self.loss)
        same_shape((3, 2), corners=self.corners)

    def plot(self, ax: Axes | None = None, names: Sequence[str] = "ABC") -> Axes:
        """Draw the loss as filled contours, with the three networks and the straight lines between them."""
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(5.5, 4.4), layout="constrained")
        filled = ax.contourf(self.x, self.y, self.loss, levels=24, cmap="viridis")
        ax.figure.colorbar(filled, ax=ax, label="loss (nats)")
        ax.plot(*self.corners[[0, 1, 2, 0]].T, color="white", linewidth=1, linestyle=":")
        ax.plot(*self.corners.T, "o", color="white", markeredgecolor="black")
        for name, corner in zip(names, self.corners, strict=True):
            ax.annotate(name, corner, xytext=(6, 6), textcoords="offset points", color="white", weight="bold")
        ax.set(xlabel="distance in weight space", ylabel="distance in weight space", aspect="equal")
        return ax


def interpolate_plane(
    networks: Sequence[Network], batches: Iterable[Batch], *, points: int = 21, margin: float = 0.25
) -> Plane:
    """The loss on the plane through three networks (as in Garipov et al., arXiv 1802.10026, appendix).

    Parameters
    ----------
    networks
        Three networks of one architecture, not on one line.
    batches
        ``(inputs, targets)`` to evaluate on, held in memory.
    points
        The grid has ``points`` x ``points`` networks.
    margin
        How far the grid goes beyond the triangle, as a fraction of its width and height.

    Raises
    ------
    TypeError
        If one is no network, or the batches are no pairs of tensors.
    ValueError
        If there are not three networks, their architectures differ, or they lie on one line; if ``points`` is below 2
        or ``margin`` makes the grid vanish; if there is no batch, or a loss is not finite.
    """
    check_several(networks)
    if len(networks) != 3:
        raise ValueError(f"three networks span a plane, but there are {len(networks)}")
    count("points", points, 2, math.isqrt(MOST))
    margin = number("margin", margin, above=-0.5)
    passes = held(batches)
    origin, p, q = (_flatten(network.params) for network in networks)
    ex = (p - origin) / (p - origin).norm()
    ey = (q - origin) - ex.dot(q - origin) * ex
    if ey.norm() < 1e-6 * (q - origin).norm() or not torch.isfinite(ex).all():
        raise ValueError("the three networks lie on one line: they span no plane")
    ey /= ey.norm()
    corners = torch.stack([torch.stack([ex.dot(v - origin), ey.dot(v - origin)]) for v in (origin, p, q)])
    low, high = corners.min(0).values, corners.max(0).values
    low, high = low - margin * (high - low), high + margin * (high - low)
    x, y = (torch.linspace(low[i], high[i], points, dtype=torch.float64) for i in (0, 1))
    steps = [(u, v) for v in y for u in x]
    template = networks[0]
    losses = [
        _evaluate(
            Network(template.architecture, _unflatten(origin + u * ex + v * ey, template.params)),
            passes,
            which=f"the network at ({u:.4g}, {v:.4g}) of the plane",
        ).loss
        for u, v in progress(steps, desc="plane")
    ]
    return Plane(x, y, _vector(losses).view(points, points), corners)


def _flatten(params: Params) -> Tensor:
    return torch.nn.utils.parameters_to_vector(params.values()).double()


def _unflatten(vector: Tensor, like: Params) -> Params:
    pieces = vector.split([p.numel() for p in like.values()])
    return {name: piece.view_as(p).to(p.dtype) for (name, p), piece in zip(like.items(), pieces, strict=True)}
