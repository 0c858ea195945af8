"""The table of types of an architecture, and the symmetries of all networks that it has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch

from .alignment import Alignment, act_on_site, compose, move_site
from .arguments import choice, count
from .symmetry import LARGEST, LEVELS
from .typed import Axis, Params, Site, Table, Touch, rows

__all__ = ["Alignment", "Axis", "Params", "Site", "Spec", "Table", "Touch", "act_on_site", "move_site", "rows"]


@dataclass(frozen=True)
class Spec(Table):
    """The table of types of one architecture, which also makes symmetries of its networks.

    Parameters
    ----------
    types
        For each parameter the type of each of its axes, e.g. ``{"fc1.weight": "ff.1 ff.0*"}``. One site may be on
        one axis of a parameter only.
    sites
        The sites in the order in which they are solved for, e.g. ``{"ff.0": Site(Permutation, 256)}``.

    Raises
    ------
    ValueError
        If a type names an unknown site or one site twice, or a site that no parameter touches is listed, or a size is
        no possible one.
    TypeError
        If a type is no text, or a site no :class:`Site` with a class of symmetry.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> spec = Spec({"in": "h _", "out": "_ h*"}, {"h": Site(lmc.Permutation, 3)})
    >>> spec.sample(0).act({"in": torch.eye(3), "out": torch.eye(3)})["in"].sum(0)
    tensor([1., 1., 1.])
    """

    def identity(self) -> Alignment:
        """The alignment that moves nothing."""
        return Alignment(self, {n: s.symmetry.identity(s.size, self.batch(n)) for n, s in self.sites.items()})

    def dimensions(self, site: str) -> int:
        """In how many independent directions the maps of one site can be moved a little, those of all heads together.

        Raises
        ------
        ValueError
            If there is no such site.

        Examples
        --------
        >>> import lmc_utils as lmc
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> lmc.canonicalize(model).spec.dimensions("ff.0")  # a positive scale for each unit
        4
        """
        choice("site", site, tuple(self.sites))
        found = self.sites[site]
        return math.prod(self.batch(site)) * found.symmetry.dimensions(found.size)

    def widen(self, sizes: Mapping[str, int], allow: str = "invertible") -> Alignment:
        """Into wider sites in the plainest way: what there is stays, and what is new does nothing (zero padding).

        Maps of sites that keep their size are identities of the class that ``allow`` (see :meth:`sample`) admits.

        Raises
        ------
        ValueError
            If ``allow`` or a site is unknown, or the class of a site has no map into one of the new size.
        TypeError
            If an argument is of the wrong type.
        """
        target, maps = self._wider(sizes), {}
        for name, site in self.sites.items():
            wider = target.sizes[name]
            symmetry = site.symmetry if wider > site.size else site.symmetry.restrict(allow)
            maps[name] = symmetry.pad(site.size, wider, target.batch(name))
        return Alignment(self, maps)

    def sample(self, seed: int, *, allow: str = "invertible", sizes: Mapping[str, int] | None = None) -> Alignment:
        """A random symmetry of every network with this table: one random element per site.

        Parameters
        ----------
        seed
            Decides the elements.
        allow
            ``"permutation"``, ``"orthogonal"`` or ``"invertible"``: how much of each site's class to use.
        sizes
            Sites to map into wider ones, e.g. ``{"r": 100}``: by an isometry, by splitting units where they split, or,
            where they do not, by putting units between them that do nothing.

        Raises
        ------
        ValueError
            If ``allow`` or a site is unknown, the class of a site has no map into one of the new size, or ``seed`` is
            no seed of torch's.
        TypeError
            If an argument is of the wrong type.
        """
        if count("seed", seed, -(2**63)) >= 2**64:
            raise ValueError(f"seed must be below 2**64, not {seed}")
        choice("allow", allow, LEVELS)
        generator = torch.Generator().manual_seed(seed)
        target, maps = self._wider({} if sizes is None else sizes), {}
        for name, site in self.sites.items():
            wider, symmetry, batch = target.sizes[name], site.symmetry.restrict(allow), target.batch(name)
            if wider > site.size and site.splits:
                maps[name] = site.symmetry.widening().sample(site.size, generator, m=wider, batch=batch)
            elif wider == site.size or symmetry.widening() is symmetry:
                maps[name] = symmetry.sample(site.size, generator, m=wider, batch=batch)
            else:
                turn = symmetry.sample(wider, generator, batch=batch)
                maps[name] = compose(turn, site.symmetry.pad(site.size, wider, batch))
        return Alignment(self, maps)

    def _wider(self, sizes: Mapping[str, int]) -> Self:
        """The table with other sizes of some sites, into which there are maps, or an error that names the site."""
        if not isinstance(sizes, Mapping):
            raise TypeError(f"sizes must map sites to whole numbers, not be a {type(sizes).__name__}")
        if unknown := set(sizes) - set(self.sites):
            raise ValueError(f"no sites {sorted(map(str, unknown))} to widen; the sites are {list(self.sites)}")
        for name, size in sizes.items():
            site = self.sites[name]
            count(f"the size of site {name!r}", size, 0, LARGEST)
            if why := site.symmetry.widening().obstacle(site.size, size):
                raise ValueError(
                    f"site {name!r} has {site.size} dimensions: it cannot be widened to {size}, because {why}"
                )
        return self.resize(sizes)
