"""REPAIR: give the units of a merged network back the spread that averaging took (arXiv 2211.08403)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..arguments import pairs
from ..networks.base import Network
from ..spec import Touch
from .average import merge
from .evaluate import activations_of, held

DEAD = 1e-6  # of the spread that a unit should have: with less it is constant, up to rounding, and stays so


@torch.no_grad()
def moments(
    network: Network, batches: Iterable[tuple[Tensor, Tensor]], layers: Iterable[str] | None = None
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every unit over the data: for each site two tensors of shape (n,), float64.

    Parameters
    ----------
    network, batches
        ``(inputs, targets)``; the activations of one batch at a time are in memory.
    layers
        Parts of the stock module whose output is measured instead, each by its name.

    Raises
    ------
    ValueError
        If there is no batch, the network cannot read the inputs, or they or the activations are not finite.
    """
    seen: dict[str, tuple[int, Tensor, Tensor]] = {}  # samples, mean, summed squares of the deviations from it
    for inputs, _ in pairs(batches):
        for name, x in activations_of(network, inputs, layers).items():
            x = x.double()
            more, mean = len(x), x.mean(0)
            squares = (x - mean).square().sum(0)
            if name in seen:  # two groups as one (Chan, Golub and LeVeque 1983): it does not cancel
                before, old, summed = seen[name]
                shift, more = mean - old, before + more
                squares = summed + squares + shift.square() * (before * len(x) / more)
                mean = old + shift * (len(x) / more)
            seen[name] = more, mean, squares
    if not seen:
        raise ValueError("no batch to compute statistics from: the data are empty")
    return {name: (mean, (squares / count).sqrt()) for name, (count, mean, squares) in seen.items()}


def repair(a: Network, b: Network, lam: float, batches: Iterable[tuple[Tensor, Tensor]]) -> Network:
    """The network at ``lam`` between a and b, with every unit's mean and spread set right.

    Averaged units of two networks partly cancel and answer with a smaller standard deviation than either end point
    (*variance collapse*). REPAIR scales and shifts every unit, first layer first, so that its mean and its standard
    deviation are those of the end points, interpolated. Where several layers write one site, as into the stream of a
    residual network, each is repaired by what it writes alone. The result has the same architecture.

    Parameters
    ----------
    a, b
        Networks of one architecture, already aligned.
    lam
        Position on the line, in [0, 1].
    batches
        ``(inputs, targets)`` to measure the statistics on; training data, never the test data.

    Raises
    ------
    TypeError
        If a or b is no network, ``lam`` no number, or the batches are no pairs.
    ValueError
        If ``lam`` is outside [0, 1], the network has more than single units (heads, a stream that rotates), what a
        layer writes cannot be told apart or has no bias to shift it, or there are fewer than two samples.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("mlp", seed)) for seed in (0, 1))
    >>> train = lmc.load_data("fashion-mnist").train.take(100)
    >>> lmc.repair(a, b, 0.5, train).params["fc1.weight"].shape
    torch.Size([256, 256])
    """
    merged = merge(a, b, lam)
    spec = merged.spec
    if whole := [
        n
        for n, s in spec.sites.items()
        if s.within or spec.inside(n) or s.symmetry.restrict("orthogonal").level == "orthogonal"
    ]:
        raise ValueError(
            f"REPAIR rescales hidden units one by one, as in an MLP, but {', '.join(whole[:3])} of these networks "
            f"{'is' if len(whole) == 1 else 'are'} no hidden units: merge them without it"
        )
    batches = held(batches)
    if sum(len(inputs) for inputs, _ in batches) == 1:
        raise ValueError("REPAIR measures the spread of every unit: it needs two samples or more, but there is 1")
    sums = _sums(merged, batches[0][0])
    shifted = [_shifted(merged, *each) for each in sums]
    written = [layer for each in shifted for layer in each]
    ends = [moments(end, batches, written) for end in (a, b)]
    for (_, touches), biases in zip(sums, shifted, strict=True):
        found = moments(merged, batches, biases)  # measured anew: the layers below have just changed
        params, shifts = dict(merged.params), {}
        for layer, (mean, std) in found.items():
            goal_mean, goal_std = (torch.lerp(x, y, lam) for x, y in zip(*(end[layer] for end in ends), strict=True))
            scale = torch.where(std > DEAD * goal_std, goal_std / std, 1.0)
            for touch in touches:
                if _layer(touch) == layer:
                    shape = [-1 if i == touch.axis else 1 for i in range(params[touch.name].ndim)]
                    params[touch.name] = params[touch.name] * scale.view(shape).to(params[touch.name])
            shifts[biases[layer]] = shifts.get(biases[layer], 0) + goal_mean - scale * mean
        for name, shift in shifts.items():
            params[name] = params[name] + shift.to(params[name])
        merged = Network(merged.architecture, params)
    return merged


def _layer(touch: Touch) -> str:
    """The part of the stock module that a parameter belongs to."""
    return touch.name.rpartition(".")[0]


@torch.no_grad()
def _sums(network: Network, inputs: Tensor) -> list[tuple[str, list[Touch]]]:
    """What adds up in each site before some layer reads it: the site and its writers, in the order in which they run.

    No writer of a sum depends on another, so they can be repaired together, and the sums one after the other.

    Raises
    ------
    ValueError
        If a parameter belongs to no layer of the stock module, whose output could be measured.
    """
    layers: dict[str, list[tuple[str, Touch]]] = {}
    for site in network.spec.sites:
        for touch in network.spec.touching(site):
            layers.setdefault(_layer(touch), []).append((site, touch))
    parts = dict(getattr(network.architecture, "module", nn.Module()).named_modules())
    for layer, touches in layers.items():
        if layer not in parts or next(parts[layer].children(), None):
            raise ValueError(
                f"REPAIR measures what each layer writes, but {touches[0][1].name!r} is not a parameter of one"
            )
    order, sums, last = list(network.outputs(inputs, layers)), [], {}
    for layer in order:
        for site, touch in layers[layer]:
            if touch.dual:
                last.pop(site, None)
        for site, touch in layers[layer]:
            if not touch.dual:
                if site not in last:
                    sums.append(last.setdefault(site, (site, [])))
                last[site][1].append(touch)
    return sorted(sums, key=lambda each: order.index(_layer(each[1][-1])))


def _shifted(network: Network, site: str, touches: list[Touch]) -> dict[str, str]:
    """For each layer that writes into a sum the bias that shifts it: its own, or the next, or else the one before.

    Raises
    ------
    ValueError
        If there is none.
    """
    order = list(dict.fromkeys(map(_layer, touches)))
    flat = [touch for touch in touches if network.params[touch.name].ndim == 1]
    alone = [touch for touch in flat if [*map(_layer, flat)].count(_layer(touch)) == 1]  # beside no scale, as in a norm
    biases = {order.index(_layer(touch)): touch.name for touch in alone if touch.name.endswith("bias")}
    found = {}
    for layer in dict.fromkeys(_layer(touch) for touch in touches if touch not in flat):
        if not biases:
            raise ValueError(
                f"REPAIR shifts units through their bias, but no parameter of site {site!r} is one that could shift "
                f"what {layer!r} writes"
            )
        place = order.index(layer)
        found[layer] = biases[min(biases, key=lambda i: (i < place, abs(i - place)))]
    return found
