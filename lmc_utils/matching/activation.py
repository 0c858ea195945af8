"""Activation matching: align two networks by what their units answer to the same data (Li et al., arXiv 1511.07543)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from ..networks.base import Network, check_same_architecture
from ..spec import Alignment


@torch.no_grad()
def correlations(a: Network, b: Network, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """How each unit of a correlates with each unit of b over the data, at every site, in one pass.

    Parameters
    ----------
    a, b
        Networks of one architecture.
    batches
        ``(inputs, targets)``; the targets are not used.

    Returns
    -------
    dict
        For each site the Pearson correlations of the activations, shape (n, n), float64, rows for a, columns for b.
        A unit that never changes correlates with nothing (0).

    Raises
    ------
    ValueError
        If the architectures differ or there is no batch.
    """
    check_same_architecture(a, b)
    count, sums = 0, {}
    for inputs, _ in batches:
        theirs = b.activations(inputs)
        for site, x in a.activations(inputs).items():
            x, y = x.double(), theirs[site].double()
            if count == 0:  # shift by the first batch's mean, or the variances below would cancel
                sums[site] = [x.mean(0), y.mean(0), *(0.0,) * 5]
            x, y = x - sums[site][0], y - sums[site][1]
            news = (x.sum(0), y.sum(0), x.square().sum(0), y.square().sum(0), x.T @ y)
            sums[site][2:] = [old + new for old, new in zip(sums[site][2:], news, strict=True)]
        count += len(x)
    if count == 0:
        raise ValueError("no batch to compute correlations from: the data are empty")
    result = {}
    for site, (_, _, sx, sy, sxx, syy, sxy) in sums.items():
        covariance = sxy - torch.outer(sx, sy) / count
        variances = torch.outer(sxx - sx.square() / count, syy - sy.square() / count)
        result[site] = torch.where(variances > 0, covariance / variances.clamp_min(1e-300).sqrt(), 0.0)
    return result


def activation_matching(a: Network, b: Network, batches: Iterable[tuple[Tensor, Tensor]]) -> Alignment:
    """The symmetry g that makes the units of g(b) correlate best with those of a, site by site.

    Every site is solved once and exactly: relabelling one layer does not change what another layer answers.
    Units are compared before the non-linearity.

    Parameters
    ----------
    a, b
        Networks of one architecture.
    batches
        ``(inputs, targets)``, usually the training data; the targets are not used.

    Raises
    ------
    ValueError
        If the architectures differ or there is no batch.
    """
    spec = a.spec
    found = correlations(a, b, batches)
    return Alignment(spec, {site: spec.sites[site].symmetry.solve(cost) for site, cost in found.items()})
