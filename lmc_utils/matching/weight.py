"""Weight matching: align two networks by their weights alone (Git Re-Basin, arXiv 2209.04836, section 3.2; for
transformers arXiv 2506.22712, section 4)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..arguments import count
from ..networks.base import Network, in_full, widening
from ..progress import progress
from ..spec import Alignment, Params, Spec, act_on_site, rows
from ..symmetry import SemiPermutation, Symmetry


def score(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """How well two sets of weights agree: ``sum_p <a_p, b_p>``. A high score is a small distance."""
    return sum((a[name] * b[name]).sum() for name in b).item()


def cost_matrix(spec: Spec, site: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """What the score ``sum_p <a_p, (T.b)_p>`` gains from each entry of the map ``T`` of one site.

    The score is linear in ``T`` (the classes solved here are orthogonal, so the dual of ``T`` is ``T``). Its gradient
    is therefore the cost matrix of the site's matching problem, for every architecture alike. Written out it is one
    product of matrices a parameter, which needs no memory but its result.

    Returns
    -------
    Tensor
        Shape (n, n), or (heads, n, n) within heads: entry (i, j) is the inner product of all weights of a's dimension i
        with those of b's dimension j.
    """
    return sum(product for _, product in _products(spec, site, a, b))


def _products(spec: Spec, site: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Iterator[tuple[bool, Tensor]]:
    """For each parameter that touches a site, whether it reads it, and the inner products of a's part with b's."""
    for touch in spec.touching(site):
        if touch.name in b:  # it may hold some parameters only
            yield touch.dual, rows(a[touch.name], touch) @ rows(b[touch.name], touch).mT


def circuit_costs(spec: Spec, site: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """How alike each head of a and each of b is, whatever basis the spaces inside them are in.

    Inside a head only the products of what writes a space with what reads it are seen: the QK and the OV circuit. The
    inner product of two such circuits ``X^T Y`` and ``X'^T Y'`` is ``sum (X X'^T) * (Y Y'^T)``, which needs matrices of
    d_head x d_head only. With the norms fixed, the most alike are the least distant (arXiv 2506.22712, section 4).

    Returns
    -------
    Tensor
        Shape (heads, heads).
    """
    return sum(product for _, product in _circuits(spec, site, a, b))


def _circuits(spec: Spec, site: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Iterator[tuple[bool, Tensor]]:
    """For each space inside heads, whether it only reads the head, and the inner products of a's circuits with b's."""
    for inner in spec.inside(site):
        grams = {False: torch.zeros(()), True: torch.zeros(())}  # of what writes and of what reads the inner space
        for touch in spec.touching(inner):
            x, y = (rows(p[touch.name], touch) for p in (a, b))
            grams[touch.dual] = grams[touch.dual] + torch.einsum("iax,jbx->ijab", x, y)
        reads = all(touch.dual for touch in spec.touching(site) if inner in spec.named(touch.name))
        yield reads, (grams[False] * grams[True]).sum((-2, -1))


def agreement(spec: Spec, site: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What :meth:`SemiPermutation.fit` needs: inner products of what splitting shares out, and of what it copies."""
    products = list((_circuits if spec.inside(site) else _products)(spec, site, a, b))
    none = torch.zeros_like(products[0][1])
    return tuple(sum((x for reads, x in products if reads is which), start=none) for which in (False, True))


def solved_by(a: Network, b: Network, allow: str) -> Spec:
    """The table that names for each site the class that is solved for: where units of b may split, that of splits."""
    spec = a.spec.restrict(allow)
    sites = {
        name: replace(site, symmetry=SemiPermutation) if site.splits and site.size > b.spec.sizes[name] else site
        for name, site in spec.sites.items()
    }
    return replace(spec, sites=sites)


def balance(network: Network, allow: str) -> Alignment:
    """Bring every space with scales into the basis in which its writers and readers are equally large.

    In classes that are not compact a score alone decides nothing: a larger map always scores higher. Between two
    balanced networks an orthogonal map or a permutation is left, which a score does decide. The balanced weights are
    those of least norm among all scaled copies of the network. Layers that follow one another share weights, so each is
    balanced in turn until nothing changes.

    Raises
    ------
    ValueError
        If a weight is not finite, or ``allow`` is unknown.
    """
    (network,) = in_full(network)
    return balanced(network.spec, network.params, network.spec.restrict(allow))[0]


def balanced(spec: Spec, params: Params, classes: Spec) -> tuple[Alignment, Params]:
    """The alignment that balances the sites whose class in ``classes`` has scales, and the parameters there.

    Parameters that touch no scales are shared, not copied.
    """
    params, g = dict(params), Alignment(spec, classes.resize(spec.sizes).identity().maps)
    scaled = {name: site.symmetry for name, site in classes.sites.items() if not site.symmetry.compact}
    size = max((spec.sizes[name] for name in scaled), default=0)
    near = 100 * size**0.5 * torch.finfo(next(iter(params.values())).dtype).eps
    for _ in range(BALANCING if scaled else 0):
        change = 0.0
        for name, symmetry in scaled.items():
            grams = {False: torch.zeros(()), True: torch.zeros(())}
            for touch in spec.touching(name):
                x = rows(params[touch.name], touch).double()  # or rounding would look like live directions
                grams[touch.dual] = grams[touch.dual] + x @ x.mT
            step = symmetry.balance(grams[False].cpu(), grams[True].cpu())  # maps live on the CPU, weights anywhere
            params |= act_on_site(spec, name, step, params)
            g = g.then(name, step)
            eye = torch.eye(spec.sizes[name], dtype=torch.float64)
            change = max(change, (step.matrix() - eye).abs().max().item())
        if change < near:
            break
    return g, params


BALANCING = 200  # rounds at most; heads need one, the shipped MLP 18 in float32 and 47 in float64


@torch.no_grad()
def weight_matching(a: Network, b: Network, *, allow: str = "invertible", sweeps: int = 100) -> Alignment:
    """The symmetry g that makes the weights of g(b) closest to those of a. Uses no data and no chance.

    Maximises ``sum_p <a_p, g(b)_p>``, which is the same as minimising the squared distance of the weights, by solving
    each site exactly while the others stand still, until no site improves. (Heads are assigned by the distance of
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
    """
    count("sweeps", sweeps, 0)
    a, b = in_full(a, b)
    start, spec, classes = widening(a, b, allow), a.spec, solved_by(a, b, allow)
    unit = _unit(a.params, b.params)
    (to_a, fixed), (to_b, narrow) = (
        balanced(x.spec, {name: p * unit for name, p in x.params.items()} if unit != 1 else x.params, classes)
        for x in (a, b)
    )
    g, moved, settled = start, start.act(narrow), set()
    history = [score(fixed, moved)]
    for _ in progress(range(sweeps), desc="weight matching", leave=False):
        improved = False
        for site, solved in classes.compact().sites.items():
            inside = spec.inside(site)
            known = [n for n in moved if spec.named(n) <= settled | {site, *inside}]
            if not any(touch.name in known for touch in spec.touching(site)):
                continue
            if solved.symmetry is SemiPermutation:
                bare = g.act(narrow, [n for n in g if n not in (site, *inside)])  # moved at all sites but this
                split = _split(spec, site, fixed, {n: bare[n] for n in known}, g[site], site in settled)
                if split is not None:
                    anew = {name: start[name] for name in inside}  # bases inside heads begin again
                    g, improved = replace(g, maps={**g.maps, **anew, site: split}), True
                    rebalance, moved = balanced(spec, g.act(narrow), classes)  # copies make others larger
                    g = rebalance @ g
            else:
                cost = (circuit_costs if inside else cost_matrix)(spec, site, fixed, {n: moved[n] for n in known}).cpu()
                step = solved.symmetry.solve(cost)
                best, now = _inner(step.matrix(), cost), cost.diagonal(dim1=-2, dim2=-1).sum()
                if site not in settled or best - now > 10 * torch.finfo(cost.dtype).eps * best.abs():  # above rounding
                    moved |= act_on_site(spec, site, step, moved)
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


def _split(spec: Spec, site: str, a: Params, b: Params, present: Symmetry, settled: bool) -> SemiPermutation | None:
    """The split of b's units that brings its weights closest to a's; None if the present one is as good."""
    products = [x.cpu().double() for x in agreement(spec, site, a, b)]
    norms = [x.cpu().double().diagonal() for x in agreement(spec, site, b, b)]
    found = SemiPermutation.fit(*products, *norms)
    best, now = (
        (SemiPermutation.explained(x, *products, *norms) * (x > 0)).sum() for x in (found.matrix(), present.matrix())
    )
    eps = torch.finfo(next(iter(b.values())).dtype).eps
    return found if not settled or best - now > 10 * eps * best.abs() else None


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x.to(y) * y).sum()
