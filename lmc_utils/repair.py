"""REPAIR: give the units of a merged network back the spread that averaging took (arXiv 2211.08403)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .networks.base import Network
from .paths import merge


@torch.no_grad()
def moments(network: Network, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of every unit over the data: for each site two tensors of shape (n,), float64.

    Raises
    ------
    ValueError
        If there is no batch.
    """
    seen: dict[str, list[Tensor]] = {}
    for inputs, _ in batches:
        for site, x in network.activations(inputs).items():
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
    ValueError
        If ``lam`` is outside [0, 1], a hidden layer has no bias to shift, or there is no batch.
    """
    merged = merge(a, b, lam)
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
