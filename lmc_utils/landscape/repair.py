"""REPAIR: give the units of a merged network back the spread that averaging took (arXiv 2211.08403)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..arguments import instance, pairs
from ..networks.base import Network
from .average import merge
from .evaluate import activations_of


@torch.no_grad()
def moments(network: Network, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every unit over the data: for each site two tensors of shape (n,), float64.

    Raises
    ------
    ValueError
        If there is no batch, the network cannot read the inputs, or they or the activations are not finite.
    """
    seen: dict[str, list[Tensor]] = {}
    for inputs, _ in pairs(batches):
        for site, x in activations_of(network, inputs).items():
            seen.setdefault(site, []).append(x.double())
    if not seen:
        raise ValueError("no batch to compute statistics from: the data are empty")
    return {site: (x.mean(0), x.std(0, correction=0)) for site, x in ((s, torch.cat(xs)) for s, xs in seen.items())}


def repair(a: Network, b: Network, lam: float, batches: Iterable[tuple[Tensor, Tensor]]) -> Network:
    """The network at ``lam`` between a and b, with every hidden unit's mean and spread set right.

    Averaged units of two networks partly cancel and answer with a smaller standard deviation than either end point
    (*variance collapse*). REPAIR scales and shifts every unit, first layer first, so that its mean and its standard
    deviation are those of the end points, interpolated. The result has the same architecture.

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
        If ``lam`` is outside [0, 1], the network has more than hidden units (heads, a residual stream), a hidden layer
        has no bias to shift, or there are fewer than two samples.
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
    batches = list(pairs(batches))
    for inputs, _ in batches:
        instance("the inputs of a minibatch", inputs, Tensor)
    if sum(len(inputs) for inputs, _ in batches) == 1:
        raise ValueError("REPAIR measures the spread of every unit: it needs two samples or more, but there is 1")
    goal_a, goal_b = moments(a, batches), moments(b, batches)
    for site in merged.spec.sites:
        mean, std = moments(merged, batches)[site]  # measured anew: the layers below have just changed
        (mean_a, std_a), (mean_b, std_b) = goal_a[site], goal_b[site]
        goal_mean, goal_std = torch.lerp(mean_a, mean_b, lam), torch.lerp(std_a, std_b, lam)
        scale = torch.where(std > 0, goal_std / std.clamp_min(1e-12), 1.0)
        params = dict(merged.params)
        writers = [(touch.name, touch.axis) for touch in merged.spec.touching(site) if not touch.dual]
        biases = [name for name, _ in writers if params[name].ndim == 1]
        if not biases:
            raise ValueError(f"REPAIR shifts units through their bias, but no parameter of site {site!r} is one")
        for name, axis in writers:
            shape = [-1 if i == axis else 1 for i in range(params[name].ndim)]
            params[name] = params[name] * scale.view(shape).to(params[name])
        params[biases[0]] = params[biases[0]] + (goal_mean - scale * mean).to(params[biases[0]])
        merged = Network(merged.architecture, params)
    return merged
