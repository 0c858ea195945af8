"""Weight matching: align two networks by their weights alone (Git Re-Basin, arXiv 2209.04836, section 3.2; for
transformers arXiv 2506.22712, section 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..arguments import count
from ..networks.base import Network, in_full, widening
from ..progress import progress
from ..spec import Alignment, Params, Spec, move_site
from ..symmetry import Symmetry
from .balance import balance as balance
from .balance import balanced
from .likeness import agreement, circuit_costs, cost_matrix, free, order


def score(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """How well two sets of weights agree: ``sum_p <a_p, b_p>``. A high score is a small distance."""
    return sum((a[name] * b[name]).sum() for name in b).item()


def solved_by(a: Network, b: Network, allow: str) -> Spec:
    """Return the table with the class to solve for at each site: the class of splits where units of b may split."""
    spec = a.spec.restrict(allow)
    sites = {
        name: replace(site, symmetry=site.symmetry.widening())
        if site.splits and site.size > b.spec.sizes[name]
        else site
        for name, site in spec.sites.items()
    }
    return replace(spec, sites=sites)


@torch.no_grad()
def weight_matching(a: Network, b: Network, *, allow: str = "invertible", sweeps: int = 100) -> Alignment:
    """The symmetry g that makes the weights of g(b) closest to those of a. Needs no data and no random numbers.

    Maximises ``sum_p <a_p, g(b)_p>``, which is the same as minimising the squared distance of the weights, by solving
    each site exactly while the others are held fixed, until no site improves. (Heads are assigned by the distance of
    their circuits, which does not depend on the bases inside them.) The joint problem is NP-hard (arXiv 2209.04836,
    section 3.2); this finds a local optimum. In the first sweep a site sees only parameters whose other sites are
    settled: a residual stream starts from the embeddings.

    If a is wider than b, b is padded first, exactly, and the maps are rectangular: isometries, and where hidden units
    or heads are more numerous in a, those of b may split (:meth:`SemiPermutation.fit`).

    Parameters
    ----------
    a, b
        Networks of one architecture; a may be wider at some sites, or have more heads.
    allow
        ``"permutation"`` everywhere; also ``"orthogonal"`` maps where they are symmetries; or all, ``"invertible"``.
    sweeps
        Stop after this many rounds through all sites, converged or not.

    Returns
    -------
    Alignment
        With the score at the start and after each sweep in ``history``.

    Raises
    ------
    ValueError
        If the architectures differ, b is wider at some site, a weight is not finite, or ``allow`` or ``sweeps`` is no
        possible value.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    >>> scores = lmc.weight_matching(a, b).history
    >>> scores[-1] > scores[0]
    True
    """
    count("sweeps", sweeps, 0)
    a, b = in_full(a, b)
    start, spec, classes = widening(a, b, allow), a.spec, solved_by(a, b, allow)
    unit = _unit(a.params, b.params)
    (to_a, fixed), (to_b, narrow) = (
        balanced(x.spec, {name: p * unit for name, p in x.params.items()} if unit != 1 else x.params, classes)
        for x in (a, b)
    )
    g, settled, solved = start, set(), classes.compact().sites
    moved = dict(narrow) if spec == b.spec else start.act(narrow)
    if not any(site.symmetry.splits for site in solved.values()):
        narrow.clear()  # only splits begin again with it, and each copy of a large network counts
    history = [score(fixed, moved)]
    for _ in progress(range(sweeps), desc="weight matching", leave=False):
        improved = False
        for site in order(spec):
            symmetry, inside = solved[site].symmetry, free(spec, site)
            known = [n for n in moved if spec.named(n) <= settled | inside | {site}]
            if not any(touch.name in known for touch in spec.touching(site)):
                continue
            if symmetry.splits:
                bare = g.act(narrow, [n for n in g if n != site and n not in inside])  # moved at all sites but this
                split = _split(spec, site, symmetry, fixed, {n: bare[n] for n in known}, g[site], site in settled)
                if split is not None:
                    anew = {name: start[name] for name in inside}  # bases inside heads begin again
                    g, improved = replace(g, maps={**g.maps, **anew, site: split}), True
                    rebalance, moved = balanced(spec, g.act(narrow), classes)  # copies make others larger
                    g = rebalance @ g
            else:
                cost = (circuit_costs if inside else cost_matrix)(spec, site, fixed, {n: moved[n] for n in known}).cpu()
                step = symmetry.solve(cost)
                best, now = _inner(step.matrix(), cost), cost.diagonal(dim1=-2, dim2=-1).sum()
                if site not in settled or best - now > 10 * torch.finfo(cost.dtype).eps * best.abs():  # above rounding
                    move_site(spec, site, step, moved)
                    g, improved = g.then(site, step), True
            settled.add(site)
        if not improved:
            break
        history.append(score(fixed, moved))
    return replace(to_a.inverse() @ g @ to_b, history=tuple(value / unit / unit for value in history))


def _unit(*networks: Params) -> float:
    """What weights are multiplied by before they are compared: their products must neither over- nor underflow.

    A power of two, so nothing is rounded; one, where the largest weight is of ordinary size.
    """
    largest = max(p.abs().max().item() for params in networks for p in params.values())
    return 1.0 if largest == 0 or 2**-20 < largest < 2**20 else 2.0 ** -math.frexp(largest)[1]


def _split(
    spec: Spec, site: str, symmetry: type[Symmetry], a: Params, b: Params, present: Symmetry, settled: bool
) -> Symmetry | None:
    """The split of b's units that brings its weights closest to a's; None if the present one is as good."""
    products = [x.cpu().double() for x in agreement(spec, site, a, b)]
    norms = [x.cpu().double().diagonal() for x in agreement(spec, site, b, b)]
    found = symmetry.fit(*products, *norms)
    best, now = ((symmetry.explained(x, *products, *norms) * (x > 0)).sum() for x in (found.matrix(), present.matrix()))
    eps = torch.finfo(next(iter(b.values())).dtype).eps
    return found if not settled or best - now > 10 * eps * best.abs() else None


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x.to(y) * y).sum()
