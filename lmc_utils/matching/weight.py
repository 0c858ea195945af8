"""Weight matching: align two networks by their weights alone (Git Re-Basin, arXiv 2209.04836, section 3.2; for
transformers arXiv 2506.22712, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..networks.base import Network, check_same_architecture
from ..progress import progress
from ..spec import Alignment, Params, Spec, Touch, act_on_site


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
    touching = [touch for touch in spec.touching(site) if touch.name in b]  # b may hold some parameters only
    return sum(rows(a[touch.name], touch) @ rows(b[touch.name], touch).mT for touch in touching)


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
    total = torch.zeros(())
    for inner in spec.inside(site):
        grams = {False: torch.zeros(()), True: torch.zeros(())}  # of what writes and of what reads the inner space
        for touch in spec.touching(inner):
            x, y = (rows(p[touch.name], touch) for p in (a, b))
            grams[touch.dual] = grams[touch.dual] + torch.einsum("iax,jbx->ijab", x, y)
        total = total + (grams[False] * grams[True]).sum((-2, -1))
    return total


def rows(parameter: Tensor, touch: Touch) -> Tensor:
    """A parameter that touches a site, as (size of the site, all the rest), or within heads (heads, size, rest)."""
    if touch.batch is None:
        return parameter.movedim(touch.axis, 0).reshape(parameter.shape[touch.axis], -1)
    moved = parameter.movedim((touch.batch, touch.axis), (0, 1))
    return moved.reshape(*moved.shape[:2], -1)


def balance(network: Network, allow: str) -> Alignment:
    """Bring every space with scales into the basis in which its writers and readers are equally large.

    In classes that are not compact a score alone decides nothing: a larger map always scores higher. Between two
    balanced networks an orthogonal map or a permutation is left, which a score does decide. The balanced weights are
    those of least norm among all scaled copies of the network. Layers that follow one another share weights, so each is
    balanced in turn until nothing changes.
    """
    return balanced(network, allow)[0]


def balanced(network: Network, allow: str) -> tuple[Alignment, Params]:
    """What :func:`balance` finds, and the parameters there; those that touch no scales are shared, not copied."""
    spec, params = network.spec, dict(network.params)
    g = spec.restrict(allow).identity()
    scaled = {name: site for name, site in g.spec.sites.items() if not site.symmetry.compact}
    for _ in range(BALANCING if scaled else 0):
        change = 0.0
        for name, site in scaled.items():
            grams = {False: torch.zeros(()), True: torch.zeros(())}
            for touch in spec.touching(name):
                x = rows(params[touch.name], touch).double()  # or rounding would look like live directions
                grams[touch.dual] = grams[touch.dual] + x @ x.mT
            step = site.symmetry.balance(
                grams[False].cpu(), grams[True].cpu()
            )  # maps live on the CPU, weights anywhere
            params |= act_on_site(spec, name, step, params)
            g = g.then(name, step)
            eye = torch.eye(site.size, dtype=torch.float64)
            change = max(change, (step.matrix() - eye).abs().max().item())
        if change < 100 * torch.finfo(network.reference.dtype).eps:
            break
    return Alignment(spec, g.maps), params


BALANCING = 200  # rounds at most; heads need one, the shipped MLP 18 in float32 and 47 in float64


@torch.no_grad()
def weight_matching(a: Network, b: Network, *, allow: str = "invertible", sweeps: int = 100) -> Alignment:
    """The symmetry g that makes the weights of g(b) closest to those of a. Uses no data and no chance.

    Maximises ``sum_p <a_p, g(b)_p>``, which is the same as minimising the squared distance of the weights, by solving
    each site exactly while the others stand still, until no site improves. (Heads are assigned by the distance of
    their circuits, which does not depend on the bases inside them.) The joint problem is NP-hard (arXiv 2209.04836,
    section 3.2); this finds a local optimum. In the first sweep a site sees only parameters whose other sites are
    settled: a residual stream starts from the embeddings.

    Parameters
    ----------
    a, b
        Networks of one architecture.
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
        If the architectures differ or ``allow`` is unknown.
    """
    check_same_architecture(a, b)
    spec = a.spec
    (to_a, fixed), (to_b, moved) = balanced(a, allow), balanced(b, allow)
    g, settled, history = spec.restrict(allow).compact().identity(), set(), [score(fixed, moved)]
    for _ in progress(range(sweeps), desc="weight matching", leave=False):
        improved = False
        for site, (symmetry, *_) in g.spec.sites.items():
            inside = spec.inside(site)
            known = {n: p for n, p in moved.items() if spec.named(n) <= settled | {site, *inside}}
            if not any(touch.name in known for touch in spec.touching(site)):
                continue
            cost = (circuit_costs if inside else cost_matrix)(spec, site, fixed, known).cpu()
            step = symmetry.solve(cost)
            best, now = _inner(step.matrix(), cost), cost.diagonal(dim1=-2, dim2=-1).sum()
            if site not in settled or best - now > 10 * torch.finfo(cost.dtype).eps * best.abs():  # more than rounding
                moved |= act_on_site(spec, site, step, moved)
                g, improved = g.then(site, step), True
            settled.add(site)
        if not improved:
            break
        history.append(score(fixed, moved))
    found = to_a.inverse() @ Alignment(spec, g.maps) @ to_b
    return replace(found, history=tuple(history))


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x.to(y) * y).sum()
