"""Weight matching: align two networks by their weights alone (Git Re-Basin, arXiv 2209.04836, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..networks.base import Network, check_same_architecture
from ..spec import Alignment, Spec, act_on_site


def cost_matrix(spec: Spec, site: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """What the score ``sum_p <a_p, (T.b)_p>`` gains from each entry of the map ``T`` of one site.

    The score is linear in ``T`` (the classes solved here are orthogonal, so the dual of ``T`` is ``T``). Its gradient
    is therefore the cost matrix of the site's matching problem, for every architecture alike.

    Returns
    -------
    Tensor
        Shape (n, n): entry (i, j) is the inner product of all weights of a's unit i with those of b's unit j.
    """
    n = spec.sites[site].size
    any_param = b[spec.touching(site)[0][0]]
    T = torch.eye(n, dtype=any_param.dtype, device=any_param.device, requires_grad=True)
    with torch.enable_grad():
        score = sum(
            (a[name] * torch.tensordot(T, b[name], dims=([1], [axis])).movedim(0, axis)).sum()
            for name, axis, _ in spec.touching(site)
        )
        return torch.autograd.grad(score, T)[0]


@torch.no_grad()
def weight_matching(a: Network, b: Network, *, sweeps: int = 100) -> Alignment:
    """The symmetry g that makes the weights of g(b) closest to those of a. Uses no data and no chance.

    Maximises ``sum_p <a_p, g(b)_p>``, which is the same as minimising the squared distance of the weights, by
    solving each site exactly while the others stand still, until no site improves. The joint problem is NP-hard
    (arXiv 2209.04836, section 3.2); this finds a local optimum.

    Parameters
    ----------
    a, b
        Networks of one architecture.
    sweeps
        Stop after this many rounds through all sites, converged or not.

    Returns
    -------
    Alignment
        With the score at the start and after each sweep in ``history``.

    Raises
    ------
    ValueError
        If the architectures differ.
    """
    check_same_architecture(a, b)
    spec, moved = a.spec, dict(b.params)
    maps = dict(spec.identity().maps)
    history = [_score(a.params, moved)]
    for _ in range(sweeps):
        improved = False
        for site, (symmetry, _) in spec.sites.items():
            cost = cost_matrix(spec, site, a.params, moved)
            step = symmetry.solve(cost)
            best = _inner(step.matrix(), cost)
            if best - cost.trace() > 10 * torch.finfo(cost.dtype).eps * best.abs():  # rounding is no improvement
                moved |= act_on_site(spec, site, step, moved)
                maps[site] = step @ maps[site]
                improved = True
        if not improved:
            break
        history.append(_score(a.params, moved))
    return Alignment(spec, maps, history=tuple(history))


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x.to(y) * y).sum()


def _score(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return sum(_inner(a[name], b[name]) for name in a).item()
