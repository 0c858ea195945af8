"""Activation matching: align two networks by what their units answer to the same data (Li et al., arXiv 1511.07543)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from ..arguments import pairs
from ..landscape.evaluate import activations_of
from ..networks.base import Network, check_networks, in_full, widening
from ..spec import Alignment, Params, Spec
from ..symmetry import Permutation, SemiPermutation
from .weight import balanced, rows, solved_by


@torch.no_grad()
def cross_moments(a: Network, b: Network, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """How the activations of a go together with those of b over the data, at every site, in one pass.

    Parameters
    ----------
    a, b
        Networks of one architecture, a as wide as b or wider.
    batches
        ``(inputs, targets)``; the targets are not used.

    Returns
    -------
    dict
        For each site, float64, first axes for a, later ones for b: where units may only be relabelled, Pearson
        correlations (m, n), 0 for a unit that never changes; of the residual stream, each vector scaled to length one
        as the norms scale it, mean products (m, n); inside heads mean products (heads, heads, m, n).

    Raises
    ------
    TypeError
        If a or b is no network, or the batches are no pairs of tensors.
    ValueError
        If the architectures differ or b is wider at some site; if there is no batch, fewer than two samples for a
        correlation, or inputs or activations are not finite.
    """
    check_networks(a=a, b=b)
    widening(a, b)  # or it says what does not fit
    count, moments = {}, {}
    for inputs, _ in pairs(batches):
        theirs = activations_of(b, inputs)
        for site, x in activations_of(a, inputs).items():
            x, y = x.double(), theirs[site].double()
            if x.ndim == 3:
                news = [torch.einsum("sia,sjb->ijab", x, y)]
            elif a.spec.sites[site].symmetry.restrict("orthogonal") is not Permutation:
                x, y = (v / v.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny) for v in (x, y))
                news = [x.T @ y]
            else:
                shift = moments.setdefault(f"{site} shift", (x.mean(0), y.mean(0)))  # or the variances would cancel
                x, y = x - shift[0], y - shift[1]
                news = [x.T @ y, x.sum(0), y.sum(0), x.square().sum(0), y.square().sum(0)]
            olds = moments.get(site, [torch.zeros(())] * len(news))
            moments[site] = [old + new for old, new in zip(olds, news, strict=True)]
            count[site] = count.get(site, 0) + len(x)
    if not count:
        raise ValueError("no batch to compute correlations from: the data are empty")
    if lonely := [site for site, n in count.items() if n == 1 and len(moments[site]) > 1]:
        raise ValueError(f"correlations at the site {lonely[0]!r} need two samples or more, but there is 1")
    found = {site: _finish(*moments[site], count=n) for site, n in count.items()}
    if wrong := [site for site, moment in found.items() if not moment.isfinite().all()]:
        raise ValueError(f"products of activations at the site {wrong[0]!r} are not finite: they are too large")
    return found


def _finish(xy: Tensor, *sums: Tensor, count: int) -> Tensor:
    if not sums:
        return xy / count
    x, y, xx, yy = sums
    covariance = xy - torch.outer(x, y) / count
    variances = torch.outer(xx - x.square() / count, yy - y.square() / count)
    return torch.where(variances > 0, covariance / variances.clamp_min(1e-300).sqrt(), 0.0)


@torch.no_grad()
def activation_matching(
    a: Network, b: Network, batches: Iterable[tuple[Tensor, Tensor]], *, allow: str = "invertible"
) -> Alignment:
    """The symmetry g that makes the activations of g(b) most like those of a, site by site.

    Every site is solved once and exactly: renumbering or turning one site does not change what another answers. Units
    are compared before the non-linearity; heads by what they write into the residual stream, in whatever basis the
    spaces inside them are. If a has more hidden units or heads than b, those of b split where they may, by optimal
    transport (:meth:`SemiPermutation.transport`).

    Parameters
    ----------
    a, b
        Networks of one architecture; a may be wider at some sites, or have more heads.
    batches
        ``(inputs, targets)``, usually the training data; the targets are not used.
    allow
        ``"permutation"`` everywhere; also ``"orthogonal"`` maps where they are symmetries; or all, ``"invertible"``.

    Raises
    ------
    TypeError
        If a or b is no network, or the batches are no pairs of tensors.
    ValueError
        If the architectures differ, b is wider at some site, a weight is not finite or ``allow`` is unknown; if there
        is no batch, fewer than two samples, or inputs or activations are not finite.
    """
    check_networks(a=a, b=b)
    a, b = in_full(a, b)
    g, spec, classes = widening(a, b, allow), a.spec, solved_by(a, b, allow)
    to_a, to_b = (balanced(x.spec, x.params, classes)[0] for x in (a, b))
    a, b = to_a(a), to_b(b)
    costs = cross_moments(a, b, batches)
    for site, (symmetry, _, within, _) in classes.compact().sites.items():
        if inside := spec.inside(site):
            moved = g.act(b.params, [n for n in g if n not in (site, *inside)])
            cost = sum(_written(spec, a.params, moved, inner, costs[inner]) for inner in inside if inner in costs)
        elif within:
            cost = costs[site][torch.arange(spec.sites[within].size), g[within].owners]
        else:
            cost = costs[site]
        if symmetry is SemiPermutation:
            g = replace(g, maps={**g.maps, site: symmetry.transport(cost.cpu())})
        else:  # after the padding
            g = g.then(site, symmetry.solve(cost.cpu() @ g[site].matrix().mT))
    return to_a.inverse() @ g @ to_b


def _written(spec: Spec, a: Params, b: Params, inner: str, moment: Tensor) -> Tensor:
    """How alike what each head of a writes from an inner space and what each of b does is, shape (heads, heads)."""
    readers = [t for t in spec.touching(inner) if t.dual and any(x.site and not x.dual for x in spec.axes(t.name))]
    return sum(
        (moment * torch.einsum("iax,jbx->ijab", rows(a[t.name], t), rows(b[t.name], t))).sum((-2, -1)) for t in readers
    )
