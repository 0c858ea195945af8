"""How alike the units of two networks are: hidden units by their weights, heads and experts by what is inside them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..spec import Spec, Touch, rows


def order(spec: Spec) -> list[str]:
    """The sites in the order in which they are solved for: each after all that it lies within and after its units."""
    before = ([*spec.ancestors(site), *_unit(spec, site), site] for site in spec.sites)
    return list(dict.fromkeys(name for names in before for name in names))


def free(spec: Spec, site: str) -> set[str]:
    """The sites whose maps do not matter for how alike the units of a site are: all that is inside them."""
    units = [site, *spec.descendants(site)]
    return {*units[1:], *(space for unit in units for space in spaces(spec, unit))}


def spaces(spec: Spec, site: str) -> list[str]:
    """The spaces inside the units of a site, each of which belongs to the innermost units that share weights with it.

    The query-key space lies within a group of heads, whose query heads share its keys; each query head writes it.
    """
    return [space for space in tree(spec, site) if site in _unit(spec, space)]


def _unit(spec: Spec, space: str) -> list[str]:
    """The site whose units a space belongs to, in a list; empty if the site itself has units, or lies within none."""
    around = spec.ancestors(space)
    if spec.sites[space].symmetry.relabels or not around:
        return []
    shared = set().union(*(spec.named(touch.name) for touch in spec.touching(space)))
    beside = [n for n in shared if spec.sites[n].symmetry.relabels and spec.sites[n].within in around]
    return [max(sorted({*around, *beside}), key=lambda name: (len(spec.ancestors(name)), name not in around))]


def tree(spec: Spec, site: str) -> list[str]:
    """The outermost site that a site lies within, or the site itself, and all that is inside that one."""
    root = [*spec.ancestors(site), site][0]
    return [root, *spec.descendants(root)]


def _direct(spec: Spec, site: str) -> list[Touch]:
    """The parameters that touch the units of a site, and nothing inside them."""
    known = tree(spec, site)

    def innermost(touch: Touch) -> bool:
        named = [name for name in known if name in spec.named(touch.name)]
        units = all(spec.sites[name].symmetry.relabels for name in named)
        return units and max(named, key=lambda name: len(spec.ancestors(name))) == site

    return [touch for touch in spec.touching(site) if innermost(touch)]


def cost_matrix(spec: Spec, site: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """What the score ``sum_p <a_p, (T.b)_p>`` gains from each entry of the map ``T`` of one site.

    The score is linear in ``T`` (the classes solved here are orthogonal, so the dual of ``T`` is ``T``). Its gradient
    is therefore the cost matrix of the site's matching problem, for every architecture alike. Written out it is one
    product of matrices a parameter, which needs no memory but its result.

    Returns
    -------
    Tensor
        Shape (n, n), or (heads, n, n) within heads: entry (i, j) is the inner product of all weights of a's dimension i
        with those of b's dimension j. For units inside units inside units one more axis for each.
    """
    return sum(_product(touch, a, b) for touch in spec.touching(site) if touch.name in b)


def _product(touch: Touch, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    return rows(a[touch.name], touch) @ rows(b[touch.name], touch).mT


def circuit_costs(spec: Spec, site: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
    """How alike each unit of a and each of b is, where units have something inside: heads, groups of heads, experts.

    Neither the bases inside nor the order of what is inside matter. Three terms are added:

    - For a space inside, what its class says (:meth:`lmc_utils.Symmetry.alike`). Inside a head only the products of
      what writes a space with what reads it are seen: the QK and the OV circuit. The inner product of two such circuits
      ``X^T Y`` and ``X'^T Y'`` is ``sum (X X'^T) * (Y Y'^T)``, which needs matrices of d_head x d_head only. With the
      norms fixed, the most alike are the least distant (arXiv 2506.22712, section 4).
    - For units inside (the query heads of a group, the hidden units of an expert) the best that a matching of them can
      reach, for each pair of the units around them.
    - The inner products of weights that touch the unit and nothing inside it: the gate of a hidden unit, the router of
      an expert. Beside them circuits, which are products of two weights, count as one.

    Returns
    -------
    Tensor
        Shape (n, n), or (groups, n, n) for units within groups.
    """
    return sum(agreement(spec, site, a, b))


def agreement(spec: Spec, site: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """How alike units are, in two parts: what splitting a unit shares out among its copies, and what each copy keeps.

    :meth:`lmc_utils.SemiPermutation.fit` needs them apart. Each has shape (n, n), or (groups, n, n).
    """
    direct = any(_direct(spec, unit) for unit in (site, *spec.descendants(site)))
    inside = [spec.sites[name].symmetry for name in free(spec, site)]
    mixed = direct or any(symmetry.compact for symmetry in inside if not symmetry.relabels)
    return tuple(_agreement(spec, site, a, b, {touch.name: touch.dual for touch in spec.touching(site)}, mixed))


def _agreement(
    spec: Spec, site: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor], reads: Mapping[str, bool], mixed: bool
) -> Tensor:
    """Both parts of :func:`agreement`, (2, ..., n, n), for a site or for one inside it.

    ``reads`` says which parameters read the site that would split, ``mixed`` that circuits are not all there is.
    """
    touches = [touch for touch in spec.touching(site) if touch.name in b]  # it may hold some parameters only
    name, axis, batch = touches[0].name, touches[0].axis, [b[touches[0].name].shape[i] for i in touches[0].batch]
    found = b[name].new_zeros(2, *batch, a[name].shape[axis], b[name].shape[axis])
    for touch in touches:
        if touch in _direct(spec, site):
            found[int(reads[touch.name])] += _product(touch, a, b)
    for space in spaces(spec, site):
        if touches := [touch for touch in spec.touching(space) if touch.name in b]:
            value = _in_space(spec, site, space, a, b, mixed)
            copied = all(reads.get(touch.name, True) for touch in touches)
            found[int(copied)] += value.reshape(*batch, *value.shape[1:])
    for inner in spec.inside(site):
        if spec.sites[inner].symmetry.relabels and any(touch.name in b for touch in spec.touching(inner)):
            found += _matched(spec, site, inner, a, b, reads, mixed)
    return found


def _matched(
    spec: Spec,
    site: str,
    inner: str,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    reads: Mapping[str, bool],
    mixed: bool,
) -> Tensor:
    """What the best matching of the units of ``inner`` adds to both parts, between any two of the units around them."""
    place = {touch.name: touch.axis for touch in spec.touching(site) if touch.name in b}
    theirs, found = {name: b[name] for name in place}, []
    size = next(a[name].shape[axis] for name, axis in place.items())
    for i in range(size):  # one unit of a beside all of b: all pairs at once would need much memory
        one = {
            name: a[name].select(axis, i).expand(b[name].shape[axis], *[-1] * (b[name].ndim - 1)).movedim(0, axis)
            for name, axis in place.items()
        }
        parts = _agreement(spec, inner, one, theirs, reads, mixed)
        best = spec.compact().sites[inner].symmetry.solve(parts.sum(0)).matrix().to(parts)
        found.append((best * parts).sum((-2, -1)))
    return torch.stack(found, -2)


def _in_space(
    spec: Spec, site: str, space: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor], mixed: bool
) -> Tensor:
    """How alike a's units and b's are in one space inside them: (all that they lie within, n, n).

    Circuits of norm c and c' count as the weights that they come from where these are balanced and all directions are
    equally large, if something else is counted that is no circuit: ``<C, C'>`` as ``2 sqrt(d) <C, C'> / sqrt(c c')``.
    """
    symmetry, size = spec.sites[space].symmetry, spec.sites[space].size
    value = symmetry.alike(*_grams(spec, site, space, a, b, "zioax,zjobx->zijoab"))
    if mixed and not symmetry.compact:
        tiny = torch.finfo(value.dtype).tiny
        x, y = (
            symmetry.alike(*_grams(spec, site, space, own, own, "zioax,ziobx->zioab")).clamp_min(tiny).sqrt()
            for own in ({name: a[name] for name in b}, b)
        )
        value = 2 * size**0.5 * value / (x.unsqueeze(2) * y.unsqueeze(1)).sqrt()
    return value.sum(-1)


def _grams(
    spec: Spec, site: str, space: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor], product: str
) -> list[Tensor]:
    """Inner products of all that writes a space of a's units with b's, and of all that reads it.

    In ``product`` z is what the units lie within, i and j are units, o is what else the space lies within, and a and b
    are its dimensions.
    """
    grams = [torch.zeros(()), torch.zeros(())]
    for touch in spec.touching(space):
        if touch.name in b:
            x, y = (_by_unit(spec, site, space, touch.name, params[touch.name]) for params in (a, b))
            grams[touch.dual] = grams[touch.dual] + torch.einsum(product, x, y)
    return [gram if gram.ndim else torch.zeros_like(grams[1 - i]) for i, gram in enumerate(grams)]


def _by_unit(spec: Spec, site: str, space: str, name: str, parameter: Tensor) -> Tensor:
    """A parameter that touches a space of units: what they lie within, units, what else is around, dimensions, rest."""
    place = {axis.site: i for i, axis in enumerate(spec.axes(name))}
    around = spec.ancestors(site)
    apart = [outer for outer in spec.ancestors(space) if outer not in (*around, site)]
    axes = [place[outer] for outer in (*around, site, *apart, space) if outer in place]
    x = parameter.movedim(axes, tuple(range(len(axes))))
    if site not in place:  # the query heads of a group share their keys
        x = x.unsqueeze(len(around))
    batch, units, apart = x.shape[: len(around)], x.shape[len(around)], x.shape[len(around) + 1 :][: len(apart)]
    return x.reshape(math.prod(batch), units, math.prod(apart), x.shape[len(around) + 1 + len(apart)], -1)
