"""The loss, the accuracy and the answers of a network over data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..arguments import brief, check_targets, count, instance, pairs, reading
from ..data import Batch
from ..networks.base import Network

EXAMPLES = 512  # as many test samples' answers are kept along a path, for the figures
EMPTY = "no batch to evaluate on: the data are empty, or an iterator that has come to its end"
MOST = 100_000  # networks that one call evaluates


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


def activations_of(network: Network, inputs: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
    """For each site what its writers write, or for each of these layers what it answers, shape (samples, size).

    Raises
    ------
    ValueError
        If the network cannot read the inputs, or they or what is seen are not finite.
    """
    instance("the inputs of a minibatch", inputs, Tensor)
    if not inputs.isfinite().all():
        raise ValueError(f"the inputs of a minibatch, {brief(inputs)}, have NaN or infinite entries")
    with reading(inputs):
        found = network.activations(inputs) if layers is None else network.outputs(inputs, layers)
    if wrong := [name for name, x in found.items() if not x.isfinite().all()]:
        raise ValueError(f"what is written at {wrong[0]!r} is NaN or infinite for some inputs")
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

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> network = lmc.canonicalize(lmc.load_endpoint("adder"))
    >>> lmc.evaluate(network, lmc.load_data("sums").test).accuracy
    1.0
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


@torch.no_grad()
def whole_accuracy(network: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> float:
    """The fraction of samples of which every target is the most probable class: of sums, those that are right.

    Arguments and errors are those of :func:`evaluate`.
    """
    right = total = 0
    for inputs, targets in pairs(batches, tensors=True):
        logits = answer(network, inputs)
        check_targets(logits, targets)
        right += (logits.argmax(-1) == targets).view(len(targets), -1).all(1).sum().item()
        total += len(targets)
    if total == 0:
        raise ValueError(EMPTY)
    return right / total


def best_temperature(logits: Tensor, targets: Tensor) -> float:
    """The number by which to divide logits so that their mean cross entropy with these targets is least.

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

    return unit * math.exp(minimize_scalar(loss, bounds=(-6, 6), method="bounded", options={"xatol": 1e-3}).x)


def calibrated_loss(logits: Tensor, targets: Tensor) -> float:
    """The mean cross entropy after the best temperature has divided the logits, in nats.

    What is left of a loss when being too sure, or not sure enough, costs nothing (arXiv 1706.04599): the same for
    all positive multiples of the logits. Arguments and errors are those of :func:`best_temperature`.
    """
    return cross_entropy(logits / best_temperature(logits, targets), targets).item()


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


def _vector(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _examples(batches: Iterable[Batch], logits: Tensor, classes: tuple[str, ...]) -> Examples:
    """The samples that go with the kept logits, shape (points, n, classes)."""
    inputs, targets = (torch.cat(parts)[: logits.shape[1]] for parts in zip(*batches, strict=True))
    return Examples(inputs, targets, logits.softmax(-1), classes)
