"""Activation matching: align two networks by what their units answer to the same data (Li et al., arXiv 1511.07543)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..arguments import pairs
from ..landscape.evaluate import activations_of
from ..networks.base import Network, check_networks, in_full, widening
from ..spec import Alignment, Spec, Touch
from .balance import balanced
from .likeness import free, order, spaces, tree
from .weight import solved_by


@dataclass(frozen=True)
class Moments:
    """How the activations x of one network go together with those y of another, at one site: sums over samples.

    Where units may only be relabelled, activations are counted from ``origin``: else their variances would cancel.
    """

    shape: tuple[int, ...]  # the axes of x, then those of y
    count: int
    products: Tensor
    sums: tuple[Tensor, ...] = ()  # of x, of y, of their squares
    origin: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, x: Tensor, y: Tensor, origin: tuple[Tensor, ...]) -> Moments:
        shape = (*x.shape[1:], *y.shape[1:])
        x, y = x.flatten(1), y.flatten(1)
        if not origin:
            return cls(shape, len(x), x.T @ y)
        x, y = x - origin[0], y - origin[1]
        return cls(shape, len(x), x.T @ y, (x.sum(0), y.sum(0), x.square().sum(0), y.square().sum(0)), origin)

    def __add__(self, other: Moments) -> Moments:
        sums = tuple(x + y for x, y in zip(self.sums, other.sums, strict=True))
        return replace(self, count=self.count + other.count, products=self.products + other.products, sums=sums)

    def means(self) -> Tensor:
        """Mean products, not centred."""
        found = self.products / self.count
        if self.origin:
            (x, y), (means_x, means_y) = self.origin, (total / self.count for total in self.sums[:2])
            found = found + torch.outer(x, means_y) + torch.outer(means_x + x, y)
        return found.view(self.shape)

    def correlations(self) -> Tensor:
        """Pearson's; 0 for a unit that never changes."""
        x, y, xx, yy = self.sums
        covariance = self.products - torch.outer(x, y) / self.count
        variances = torch.outer(xx - x.square() / self.count, yy - y.square() / self.count)
        return torch.where(variances <= 0, 0.0, covariance / variances.clamp_min(1e-300).sqrt()).view(self.shape)

    def compared(self) -> Tensor:
        """What decides how like each other two dimensions are: correlations, or mean products."""
        return self.correlations() if self.sums else self.means()


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
        as the norms scale it, mean products (m, n); inside heads mean products (heads, m, heads, n), with all axes that
        a weight reads there.

    Raises
    ------
    TypeError
        If a or b is no network, or the batches are no pairs of tensors.
    ValueError
        If the architectures differ or b is wider at some site; if there is no batch, fewer than two samples for a
        correlation, or inputs or activations are not finite.
    """
    return {site: moments.compared() for site, moments in _moments(a, b, batches).items()}


@torch.no_grad()
def _moments(a: Network, b: Network, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Moments]:
    """What :func:`cross_moments` counts."""
    check_networks(a=a, b=b)
    widening(a, b)  # or it says what does not fit
    found: dict[str, Moments] = {}
    for inputs, _ in pairs(batches):
        theirs = activations_of(b, inputs)
        for site, x in activations_of(a, inputs).items():
            x, y = x.double(), theirs[site].double()
            origin = ()
            if a.spec.sites[site].symmetry.relabels:
                origin = found[site].origin if site in found else (x.flatten(1).mean(0), y.flatten(1).mean(0))
            elif not a.spec.ancestors(site):
                x, y = (v / v.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny) for v in (x, y))
            moments = Moments.of(x, y, origin)
            found[site] = found[site] + moments if site in found else moments
    if not found:
        raise ValueError("no batch to compute correlations from: the data are empty")
    if lonely := [site for site, moments in found.items() if moments.count == 1 and moments.sums]:
        raise ValueError(f"correlations at the site {lonely[0]!r} need two samples or more, but there is 1")
    if wrong := [site for site, moments in found.items() if not moments.compared().isfinite().all()]:
        raise ValueError(f"products of activations at the site {wrong[0]!r} are not finite: they are too large")
    return found


@torch.no_grad()
def activation_matching(
    a: Network, b: Network, batches: Iterable[tuple[Tensor, Tensor]], *, allow: str = "invertible"
) -> Alignment:
    """The symmetry g that makes the activations of g(b) most like those of a, site by site.

    Every site is solved once and exactly: renumbering or turning one site does not change what another answers. Units
    are compared before the non-linearity; heads, groups of heads, gated units and experts by what they write into the
    residual stream, in whatever basis or order the spaces and units inside them are. If a has more hidden units or
    heads than b, those of b split where they may, by optimal transport (:meth:`SemiPermutation.transport`).

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
        is no batch, fewer than two samples, or inputs or activations are not finite or of an unexpected shape; or if
        they show nothing of some site.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    >>> sums = lmc.load_data("sums").test.take(100)
    >>> g = lmc.activation_matching(a, b, sums)
    >>> bool(lmc.invariance_error(b, g, sums.inputs) < 1e-3)
    True
    """
    check_networks(a=a, b=b)
    a, b = in_full(a, b)
    g, spec, classes = widening(a, b, allow), a.spec, solved_by(a, b, allow)
    to_a, to_b = (balanced(x.spec, x.params, classes)[0] for x in (a, b))
    a, b = to_a(a), to_b(b)
    seen = _moments(a, b, batches)
    for site, moments in seen.items():
        axes = _axes(spec, site)
        if moments.shape != tuple(network.spec.sizes[name] for network in (a, b) for name in axes):
            shape = moments.shape[: len(moments.shape) // 2]
            raise ValueError(f"activations at the site {site!r} have the shape (samples, *{shape}), not {axes}")
    leaving = {space: _axes(spec, space) for space in seen if _readers(spec, space)}
    for site in order(spec):
        symmetry, inside = classes.compact().sites[site].symmetry, free(spec, site)
        if not symmetry.moves:
            continue
        if written := [space for space, axes in leaving.items() if inside and site in axes]:
            cost = sum(_written(a, b, g, site, space, seen[space].means()) for space in written)
        elif shown := [space for space in spaces(spec, site) if space in seen]:
            cost = sum(_shown(a, b, g, site, space, seen[space].means(), classes) for space in shown)
        elif site in seen:
            cost = _answered(a, b, g, site, seen[site].compared())
        else:
            raise ValueError(
                f"nothing is seen of the site {site!r}: {type(a.architecture).__name__}.activations shows {list(seen)}"
            )
        if symmetry.splits:
            g = replace(g, maps={**g.maps, site: symmetry.transport(cost.cpu())})
        else:  # after the padding
            g = g.then(site, symmetry.solve(cost.cpu() @ g[site].matrix().mT))
    return to_a.inverse() @ g @ to_b


def _readers(spec: Spec, site: str) -> list[Touch]:
    """The weights that read the innermost of heads, units or experts in order to write what is outside of them.

    What is outside has been matched before. Where it has not, as what reads the dimensions of a stream that have a sign
    each, what they write says nothing.
    """
    if not spec.ancestors(site) or free(spec, site):
        return []
    sites, root = order(spec), tree(spec, site)[0]
    matched = sites[: sites.index(root)]

    def leaves(touch: Touch) -> bool:
        return touch.dual and any(not axis.dual and axis.site in matched for axis in spec.axes(touch.name))

    return [touch for touch in spec.touching(site) if leaves(touch)]


def _axes(spec: Spec, site: str) -> list[str]:
    """The sites of the axes of what is seen at a site: all that the weight reads which leads outside, if there is one.

    (A group's values are seen in each of its query heads.)
    """
    if readers := _readers(spec, site):
        own = tree(spec, site)
        return [axis.site for axis in spec.axes(readers[0].name) if axis.site in own]
    return [*spec.ancestors(site), site]


def _answered(a: Network, b: Network, g: Alignment, site: str, moment: Tensor) -> Tensor:
    """How alike the dimensions of a site are, seen alone, where g has matched all around them: (..., m, n)."""
    spec, axes = a.spec, _axes(a.spec, site)
    around = spec.ancestors(site)
    beside = [name for name in tree(spec, site) if name in axes and name not in (*around, site)]
    pairs = _pairs(a, b, g, [*around, *beside], site, axes, moment)[:, :, 0, :, 0]
    return pairs.reshape(*spec.batch(site), -1, *pairs.shape[1:]).sum(-3)


def _shown(a: Network, b: Network, g: Alignment, site: str, space: str, moment: Tensor, classes: Spec) -> Tensor:
    """How alike the units of a and those of b are by what is seen in a space inside them: (..., m, n)."""
    pairs = _pairs(a, b, g, a.spec.ancestors(site), site, _axes(a.spec, space), moment).transpose(2, 3)
    alike = classes.sites[space].symmetry.alike(pairs, torch.zeros_like(pairs))
    return alike.reshape(*a.spec.batch(site), *alike.shape[1:])


def _written(a: Network, b: Network, g: Alignment, site: str, space: str, moment: Tensor) -> Tensor:
    """How alike what the units of a and those of b write from a space inside them is: (..., m, n).

    ``<O x, O' x'>`` on average over the data is ``sum (x x'^T) * (O^T O')``, whatever bases and order are inside.
    """
    spec, axes = a.spec, _axes(a.spec, space)
    around = spec.ancestors(site)
    rest = [name for name in axes if name not in (*around, site)]
    still = {site, *rest, *free(spec, site)}.union(*(spec.descendants(name) for name in rest))
    moved = g.act(b.params, [name for name in g if name not in still])
    pairs, products = _pairs(a, b, g, around, site, axes, moment), torch.zeros(())
    for touch in _readers(spec, space):
        place = {axis.site: i for i, axis in enumerate(spec.axes(touch.name))}
        leading = [place[name] for name in (*around, site, *rest)]
        x, y = (
            network[touch.name].movedim(leading, tuple(range(len(leading)))).reshape(*shape, -1)
            for network, shape in ((a.params, pairs.shape[:3]), (moved, (pairs.shape[0], *pairs.shape[3:])))
        )
        products = products + torch.einsum("zicx,zjdx->zicjd", x, y)
    return (pairs * products).sum((2, 4)).reshape(*spec.batch(site), pairs.shape[1], pairs.shape[3])


def _pairs(
    a: Network, b: Network, g: Alignment, outer: Sequence[str], site: str, axes: Sequence[str], moment: Tensor
) -> Tensor:
    """The moments (*axes of a, *axes of b) for pairs of units of a site where g has matched what is ``outer``.

    Shape (outer, m, rest of a's axes, n, rest of b's).
    """
    rest = [name for name in axes if name not in (*outer, site)]
    places = [axes.index(name) for name in (*outer, site, *rest)]
    shape = [
        math.prod(network.spec.sizes[name] for name in names) for network in (a, b) for names in (outer, [site], rest)
    ]
    moment = moment.permute(*places, *(len(axes) + place for place in places)).reshape(shape)
    owners = torch.zeros((), dtype=torch.int64)  # where in b what is outer in a comes from
    for k, name in enumerate(outer):
        known = [*a.spec.ancestors(name), name]
        sizes = [a.spec.sizes[other] if other in known else 1 for other in outer[: k + 1]]
        owners = owners.unsqueeze(-1) * b.spec.sizes[name] + g[name].owners.reshape(sizes)
    return moment[torch.arange(shape[0]), :, :, owners.flatten().to(moment.device)]
