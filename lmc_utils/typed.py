"""Typed parameters: which axis of which parameter lives in which space, and how symmetries act on them.

A network's activations live in a few spaces, its *sites*. The type of a parameter names the site of each of its axes:
``"ff.1 ff.0*"`` is a matrix that writes site ``ff.1`` and reads site ``ff.0``; ``_`` is an axis that no symmetry moves.
A symmetry is one element per site; it acts with ``T`` on a plain axis and with the dual ``T^-T`` on a starred one.
That one rule is the whole framework: everything above this file works from the table and knows no architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor

from .arguments import count, instance
from .symmetry import LARGEST, Symmetry, to_front

Params = dict[str, Tensor]


class Axis(NamedTuple):
    """One axis of a parameter: the site it lives in (None: no symmetry moves it), and whether it reads that site."""

    site: str | None
    dual: bool = False

    @classmethod
    def parse(cls, text: str) -> Axis:
        return cls(None) if text == "_" else cls(text.rstrip("*"), text.endswith("*"))

    def __str__(self) -> str:
        return "_" if self.site is None else self.site + "*" * self.dual


@dataclass(frozen=True)
class Site:
    """A space of activations.

    Parameters
    ----------
    symmetry
        The largest class of symmetry that it allows.
    size
        Its number of dimensions.
    within
        The site that it is a part of: inside each head there is one such space, and each has a map of its own. That
        site may lie within another one, to any depth.
    splits
        Whether a unit may be split into several that share its output (:class:`SemiPermutation`).
    """

    symmetry: type[Symmetry]
    size: int
    within: str | None = None
    splits: bool = False


@dataclass(frozen=True)
class Touch:
    """One parameter that writes or reads a site, and where.

    Parameters
    ----------
    name, axis
        The parameter, and which of its axes lives in the site.
    dual
        Whether it reads the site.
    batch
        The axes of all sites that this one lies within, outermost first; () where it lies within none.
    """

    name: str
    axis: int
    dual: bool
    batch: tuple[int, ...] = ()


@dataclass(frozen=True)
class Table:
    """Which axis of which parameter lives in which site.

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
    """

    types: Mapping[str, str]
    sites: Mapping[str, Site]

    def __post_init__(self) -> None:
        for what, table, kind in (("types", self.types, str), ("sites", self.sites, Site)):
            if not isinstance(table, Mapping):
                raise TypeError(f"{what} must be a mapping from names, not a {type(table).__name__}")
            for name, value in table.items():
                if not (isinstance(name, str) and isinstance(value, kind)):
                    raise TypeError(f"{what} must map names to {kind.__name__}, not {name!r} to {value!r:.100}")
        for name, site in self.sites.items():
            if not (isinstance(site.symmetry, type) and issubclass(site.symmetry, Symmetry)):
                raise TypeError(
                    f"the symmetry of site {name!r} must be a subclass of Symmetry, not {site.symmetry!r:.100}"
                )
            count(f"the size of site {name!r}", site.size, 0, LARGEST)
            if why := site.symmetry.obstacle(site.size, site.size):
                raise ValueError(
                    f"site {name!r} of size {site.size} cannot have the symmetry {site.symmetry.__name__}: {why}"
                )
            if site.within is not None and (site.within not in self.sites or site.within == name):
                raise ValueError(f"site {name!r} lies within {site.within!r:.100}, which is no other site")
        for name in self.sites:
            chain = [name]
            while (outer := self.sites[chain[-1]].within) is not None:
                chain.append(outer)
                if outer in chain[:-1]:
                    raise ValueError(f"sites lie within each other in a circle: {' within '.join(map(repr, chain))}")
        for name in self.types:
            named = [axis.site for axis in self.axes(name) if axis.site is not None]
            if unknown := set(named) - set(self.sites):
                raise ValueError(
                    f"the type of {name!r}, {self.types[name]!r}, names the unknown site {sorted(unknown)}"
                )
            if len(set(named)) < len(named):
                raise ValueError(f"the type of {name!r}, {self.types[name]!r}, names a site twice")
        if idle := [site for site in self.sites if not self.touching(site)]:
            raise ValueError(f"no parameter touches the sites {idle}")
        for name in self.sites:
            for touch in self.touching(name):
                if missing := set(self.ancestors(name)) - self.named(touch.name):
                    raise ValueError(
                        f"site {name!r} lies within {sorted(missing)}, but the type of {touch.name!r}, "
                        f"{self.types[touch.name]!r}, has one without the other"
                    )

    @cached_property
    def _axes(self) -> dict[str, tuple[Axis, ...]]:  # parsed once: learned matching asks at every step
        return {name: tuple(Axis.parse(text) for text in kind.split()) for name, kind in self.types.items()}

    @cached_property
    def _touching(self) -> dict[str, list[Touch]]:
        found: dict[str, list[Touch]] = {site: [] for site in self.sites}
        for name, axes in self._axes.items():
            place = {axis.site: i for i, axis in enumerate(axes)}
            for i, (site, dual) in enumerate(axes):
                if site is not None:
                    batch = tuple(place[outer] for outer in self.ancestors(site) if outer in place)
                    found[site].append(Touch(name, i, dual, batch))
        return found

    def axes(self, name: str) -> tuple[Axis, ...]:
        """The typed axes of one parameter."""
        return self._axes[name]

    def touching(self, site: str) -> list[Touch]:
        """The parameters that write or read a site."""
        return self._touching[site]

    @property
    def sizes(self) -> dict[str, int]:
        """The number of dimensions of each site."""
        return {name: site.size for name, site in self.sites.items()}

    def batch(self, site: str) -> tuple[int, ...]:
        """How many maps a site has: the sizes of all that it lies within, outermost first; () for one map."""
        return tuple(self.sites[name].size for name in self.ancestors(site))

    def ancestors(self, site: str) -> list[str]:
        """The sites that a site lies within, outermost first."""
        outer = self.sites[site].within
        return [] if outer is None else [*self.ancestors(outer), outer]

    def depth(self, site: str) -> int:
        """How many sites a site lies within."""
        return len(self.ancestors(site))

    def inside(self, site: str) -> list[str]:
        """The sites that lie directly within a site."""
        return [name for name, other in self.sites.items() if other.within == site]

    def descendants(self, site: str) -> list[str]:
        """The sites that lie within a site at any depth, each after those around it."""
        return [name for inner in self.inside(site) for name in (inner, *self.descendants(inner))]

    def named(self, name: str) -> set[str]:
        """The sites that a parameter touches."""
        return {axis.site for axis in self.axes(name) if axis.site is not None}

    def compact(self) -> Self:
        """The same table with every class that has scales cut down to its compact part."""
        sites = {n: s if s.symmetry.compact else replace(s, symmetry=s.symmetry.smaller) for n, s in self.sites.items()}
        return replace(self, sites=sites)

    def restrict(self, allow: str) -> Self:
        """The same table, every site's class cut down to what ``allow`` (see :meth:`lmc_utils.Spec.sample`) admits."""
        return replace(self, sites={n: replace(s, symmetry=s.symmetry.restrict(allow)) for n, s in self.sites.items()})

    def resize(self, sizes: Mapping[str, int]) -> Self:
        """The same table for a network with other sizes of some sites."""
        instance("sizes", sizes, Mapping)
        return replace(self, sites={n: replace(s, size=sizes.get(n, s.size)) for n, s in self.sites.items()})

    def difference(self, other: Self) -> str:
        """The first thing in which another table differs, with both values in that order; empty if nothing does.

        Examples
        --------
        >>> from lmc_utils import Permutation
        >>> one, two = (Table({"w": "h _"}, {"h": Site(Permutation, n)}) for n in (3, 4))
        >>> one.difference(two)
        "site 'h' has size 3 and 4"
        """
        tables = (
            ("parameter {!r} has type", self.types, other.types),
            ("site {!r} has size", self.sizes, other.sizes),
        )
        for text, ours, theirs in tables:
            for name in [*ours, *(name for name in theirs if name not in ours)]:
                values = [repr(table[name]) if name in table else "none" for table in (ours, theirs)]
                if values[0] != values[1]:
                    return f"{text.format(name)} {values[0]} and {values[1]}"
        return ""

    def check(self, params: Mapping[str, Tensor]) -> None:
        """Raise a ValueError that names the parameter if ``params`` do not fit this table or are not finite.

        Raises
        ------
        TypeError
            If a parameter is no tensor of floating-point numbers.
        ValueError
            If one is missing, unknown, of the wrong shape, of another dtype or device than the first, or not finite.
        """
        self.check_shapes(params)
        for name, tensor in params.items():
            # the sum first: it costs a fifth, and learned matching comes by here at every step
            if not tensor.detach().sum().isfinite() and not torch.isfinite(tensor).all():
                bad = int((~torch.isfinite(tensor)).sum())
                raise ValueError(f"parameter {name!r} of shape {tuple(tensor.shape)} has {bad} NaN or infinite entries")

    def check_shapes(self, params: Mapping[str, Tensor]) -> None:
        """Raise what :meth:`check` does, but do not look at the numbers."""
        if not isinstance(params, Mapping):
            raise TypeError(f"params must map names to tensors, not be a {type(params).__name__}")
        if set(params) != set(self.types):
            missing, extra = sorted(set(self.types) - set(params)), sorted(set(params) - set(self.types))
            raise ValueError(f"parameters do not fit the type table: missing {missing}, unknown {extra}")
        for name, tensor in params.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                kind = getattr(tensor, "dtype", type(tensor).__name__)
                raise TypeError(f"parameter {name!r} must be a tensor of floating-point numbers, not {kind}")
            like = next(iter(params.values()))
            if (tensor.dtype, tensor.device) != (like.dtype, like.device):
                raise ValueError(
                    f"parameter {name!r} is {tensor.dtype} on {tensor.device}, others are {like.dtype} on {like.device}"
                    ": bring the model into one dtype and on one device, model.to(...)"
                )
            axes = self.axes(name)
            sizes = [self.sites[a.site].size if a.site else n for a, n in zip(axes, tensor.shape, strict=False)]
            if len(axes) != tensor.ndim or list(tensor.shape) != sizes:
                raise ValueError(
                    f"parameter {name!r} has shape {tuple(tensor.shape)}, but its type {self.types[name]!r} "
                    f"asks for {tuple(self.sites[a.site].size if a.site else '*' for a in axes)}"
                )

    def __str__(self) -> str:
        width = max(map(len, [*self.types, *self.sites]))
        table = [f"{name:<{width}}  {kind}" for name, kind in self.types.items()]
        legend = [
            f"{name:<{width}}  {site.symmetry.__name__}({site.size})"
            + (f" in each of {site.within}" if site.within else "")
            for name, site in self.sites.items()
        ]
        return "\n".join([f"{'parameter':<{width}}  type", *table, "", f"{'site':<{width}}  symmetry", *legend])


def rows(parameter: Tensor, touch: Touch) -> Tensor:
    """A parameter that touches a site, as (*sizes of all that the site lies within, size of the site, all the rest)."""
    return to_front(parameter, touch.axis, touch.batch).unsqueeze(-1).flatten(len(touch.batch) + 1)
