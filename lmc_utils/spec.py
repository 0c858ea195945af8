"""Typed parameters: which axis of which parameter lives in which space, and how symmetries act on them.

A network's activations live in a few spaces, its *sites*. The type of a parameter names the site of each of its axes:
``"ff.1 ff.0*"`` is a matrix that writes site ``ff.1`` and reads site ``ff.0``; ``_`` is an axis that no symmetry moves.
A symmetry is one element per site; it acts with ``T`` on a plain axis and with the dual ``T^-T`` on a starred one.
That one rule is the whole framework: everything above this file works from the table and knows no architecture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .symmetry import Symmetry

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


class Site(NamedTuple):
    """A space of activations: the class of symmetry that it allows and its number of dimensions."""

    symmetry: type[Symmetry]
    size: int


@dataclass(frozen=True)
class Spec:
    """The table of types of one architecture.

    Parameters
    ----------
    types
        For each parameter the type of each of its axes, e.g. ``{"fc1.weight": "ff.1 ff.0*"}``. One site may stand on
        one axis of a parameter only.
    sites
        The sites in the order in which they are solved for, e.g. ``{"ff.0": Site(Permutation, 256)}``.

    Raises
    ------
    ValueError
        If a type names an unknown site or one site twice, or a site that no parameter touches is listed.
    """

    types: Mapping[str, str]
    sites: Mapping[str, Site]

    def __post_init__(self) -> None:
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

    def axes(self, name: str) -> tuple[Axis, ...]:
        """The typed axes of one parameter."""
        return tuple(Axis.parse(text) for text in self.types[name].split())

    def touching(self, site: str) -> list[tuple[str, int, bool]]:
        """The parameters that write or read a site, each as (name, axis, dual)."""
        return [(n, i, a.dual) for n in self.types for i, a in enumerate(self.axes(n)) if a.site == site]

    def check(self, params: Mapping[str, Tensor]) -> None:
        """Raise a ValueError that names the parameter if ``params`` do not fit this table or are not finite."""
        if set(params) != set(self.types):
            missing, extra = sorted(set(self.types) - set(params)), sorted(set(params) - set(self.types))
            raise ValueError(f"parameters do not fit the type table: missing {missing}, unknown {extra}")
        for name, tensor in params.items():
            axes = self.axes(name)
            sizes = [self.sites[a.site].size if a.site else n for a, n in zip(axes, tensor.shape, strict=False)]
            if len(axes) != tensor.ndim or list(tensor.shape) != sizes:
                raise ValueError(
                    f"parameter {name!r} has shape {tuple(tensor.shape)}, but its type {self.types[name]!r} "
                    f"asks for {tuple(self.sites[a.site].size if a.site else '*' for a in axes)}"
                )
            if not torch.isfinite(tensor).all():
                bad = int((~torch.isfinite(tensor)).sum())
                raise ValueError(f"parameter {name!r} of shape {tuple(tensor.shape)} has {bad} NaN or infinite entries")

    def identity(self) -> Alignment:
        """The alignment that moves nothing."""
        return Alignment(self, {name: s.symmetry.identity(s.size) for name, s in self.sites.items()})

    def sample(self, seed: int) -> Alignment:
        """A random symmetry of every network with this table: one random element per site."""
        generator = torch.Generator().manual_seed(seed)
        return Alignment(self, {name: s.symmetry.sample(s.size, generator) for name, s in self.sites.items()})

    def __str__(self) -> str:
        width = max(map(len, self.types))
        table = [f"{name:<{width}}  {kind}" for name, kind in self.types.items()]
        legend = [f"{name:<{width}}  {s.symmetry.__name__}({s.size})" for name, s in self.sites.items()]
        return "\n".join([f"{'parameter':<{width}}  type", *table, "", f"{'site':<{width}}  symmetry", *legend])


@dataclass(frozen=True)
class Alignment:
    """One symmetry of a network: an element per site. ``g(b)`` moves network b, ``g @ h`` is first h, then g.

    Parameters
    ----------
    spec
        The table of types that says where each element acts.
    maps
        The element of each site.
    history
        What the method that found the alignment recorded: for weight matching the score after each sweep.
    """

    spec: Spec
    maps: Mapping[str, Symmetry]
    history: tuple[float, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if set(self.maps) != set(self.spec.sites):
            raise ValueError(f"maps for the sites {sorted(self.maps)}, but the spec has {sorted(self.spec.sites)}")

    def __getitem__(self, site: str) -> Symmetry:
        if site not in self.maps:
            raise KeyError(f"no site {site!r}; the sites are {list(self.maps)}")
        return self.maps[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def act(self, params: Mapping[str, Tensor]) -> Params:
        """The moved parameters; the ones passed in are not changed."""
        moved = dict(params)
        for site, element in self.maps.items():
            moved |= act_on_site(self.spec, site, element, moved)
        return moved

    def __call__(self, network: Any) -> Any:
        """The moved network: other weights, the same function.

        Raises
        ------
        ValueError
            If the network's table of types is not the alignment's.
        """
        if network.spec != self.spec:
            raise ValueError(
                f"the alignment is for another architecture:\n{self.spec}\n\nthe network has\n{network.spec}"
            )
        return replace(network, params=self.act(network.params))

    def inverse(self) -> Alignment:
        return Alignment(self.spec, {site: element.inverse() for site, element in self.maps.items()})

    def __matmul__(self, other: Alignment) -> Alignment:
        if other.spec != self.spec:
            raise ValueError("only alignments of the same architecture can be composed")
        return Alignment(self.spec, {site: element @ other[site] for site, element in self.maps.items()})


def act_on_site(spec: Spec, site: str, element: Symmetry, params: Mapping[str, Tensor]) -> Params:
    """The parameters that touch ``site``, moved by ``element``: ``T`` on plain axes, ``T^-T`` on starred ones."""
    return {
        name: (element.act_dual if dual else element.act)(params[name], axis)
        for name, axis, dual in spec.touching(site)
    }
