"""One symmetry of a network: an element of a class for each site, which act, compose and invert together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .symmetry import LEVELS, SoftPermutation, Symmetry, check_composable
from .typed import Params, Table


@dataclass(frozen=True)
class Alignment:
    """One symmetry of a network: an element per site. ``g(b)`` moves network b, ``g @ h`` is first h, then g.

    Heads move first: the maps inside them are named by where the heads are afterwards, so that each copy of a head that
    was split may have a basis of its own.

    Parameters
    ----------
    spec
        The table of types that says where each element acts.
    maps
        The element of each site.
    history
        What the method that found the alignment recorded: weight matching the score after each sweep, learned
        matching a :class:`lmc_utils.train.History`.
    """

    spec: Table
    maps: Mapping[str, Symmetry]
    history: Any = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if set(self.maps) != set(self.spec.sites):
            raise ValueError(f"maps for the sites {sorted(self.maps)}, but the spec has {sorted(self.spec.sites)}")
        for name, element in self.maps.items():
            self._check_map(name, element, self.spec.sizes[name])
        for name in self.spec.sites:
            batch = tuple(self.maps[outer].shape[0] for outer in self.spec.ancestors(name))
            if self.maps[name].batch != batch:
                raise ValueError(
                    f"the map of site {name!r} has batch {self.maps[name].batch}, but it must have {batch}"
                )

    @staticmethod
    def _check_map(name: str, element: Symmetry, size: int) -> None:
        if not isinstance(element, Symmetry):
            raise TypeError(f"the map of site {name!r} must be a Symmetry, not a {type(element).__name__}")
        if element.shape[1] != size:
            raise ValueError(f"the map of site {name!r} has shape {element.shape}, but the site has {size} dimensions")

    def __getitem__(self, site: str) -> Symmetry:
        if site not in self.maps:
            raise KeyError(f"no site {site!r}; the sites are {list(self.maps)}")
        return self.maps[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    @property
    def target(self) -> Table:
        """The table of the moved network, which is another one where rectangular maps widen a site."""
        return self.spec.resize({name: element.shape[0] for name, element in self.maps.items()})

    def act(self, params: Mapping[str, Tensor], sites: Collection[str] | None = None) -> Params:
        """The moved parameters; the ones passed in are not changed. With ``sites``, only these maps act.

        They keep their dtype: half types are multiplied in float32, and rounded once.

        Raises
        ------
        KeyError
            If there is no such site.
        TypeError, ValueError
            If the parameters do not fit the table.
        """
        self.spec.check_shapes(params)
        moved = {name: p.to(torch.promote_types(p.dtype, torch.float32)) for name, p in params.items()}
        chosen = {site: self[site] for site in (self.maps if sites is None else sites)}
        for site in sorted(chosen, key=self.spec.depth):  # heads first, then the spaces inside them
            move_site(self.spec, site, chosen[site], moved)
        return {name: p.to(params[name].dtype) for name, p in moved.items()}

    def __call__(self, network: Any) -> Any:
        """The moved network: other weights, the same function.

        Raises
        ------
        ValueError
            If the network's table of types is not the alignment's.
        TypeError
            If it is no network.
        """
        if not isinstance(getattr(network, "spec", None), Table):
            raise TypeError(
                f"an alignment moves a Network, not a {type(network).__name__}: canonicalize the model first"
            )
        if different := self.spec.difference(network.spec):
            raise ValueError(f"the alignment is for another architecture than the network's: {different}")
        return replace(
            network, architecture=network.architecture.resize(self.target.sizes), params=self.act(network.params)
        )

    def then(self, site: str, element: Symmetry) -> Alignment:
        """This alignment, followed by one more map of one site.

        Raises
        ------
        KeyError
            If there is no such site.
        TypeError, ValueError
            If the map does not fit the site.
        """
        check_composable(element, self[site])
        places = _places([*map(torch.arange, self.target.batch(site)), element.owners])
        followed = {name: self.maps[name].take(*places) for name in self.spec.descendants(site)}
        return replace(self, maps={**self.maps, **followed, site: compose(element, self.maps[site])})

    def inverse(self) -> Alignment:
        """The alignment that takes this one back.

        Raises
        ------
        ValueError
            If a map is rectangular.
        """
        inverses = {name: element.inverse() for name, element in self.maps.items()}
        for name in sorted(inverses, key=self.spec.depth):  # a head's map goes with the head
            if outer := self.spec.ancestors(name):
                inverses[name] = inverses[name].take(*_places([inverses[x].owners for x in outer]))
        return Alignment(self.spec, inverses)

    def __matmul__(self, other: Alignment) -> Alignment:
        """First ``other``, then ``self``.

        Raises
        ------
        ValueError
            If they are of different architectures.
        TypeError
            If ``other`` is no alignment.
        """
        if not isinstance(other, Alignment):
            raise TypeError(f"an alignment composes with another Alignment, not with a {type(other).__name__}")
        if different := other.target.difference(self.spec):
            raise ValueError(f"only alignments of the same architecture can be composed: {different}")
        maps = {}
        for name, element in self.maps.items():
            before = other[name]
            if outer := self.spec.ancestors(name):
                before = before.take(*_places([self.maps[x].owners for x in outer]))
            maps[name] = compose(element, before)
        return Alignment(other.spec, maps)


def compose(g: Symmetry, h: Symmetry) -> Symmetry:
    """First h, then g, as an element of the larger of their classes."""
    check_composable(g, h)
    for larger, other in ((g, h), (h, g)):
        if type(larger).includes(type(other)):
            return type(larger).product(g, h)
    if any(isinstance(x, SoftPermutation) for x in (g, h)):
        raise ValueError(
            f"a {type(g).__name__} after a {type(h).__name__} is neither: soft maps compose with permutations only"
        )
    larger = max((g, h), key=lambda element: LEVELS.index(element.level))
    return type(larger).product(g, h)


def _places(owners: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Indices into a batch: for each unit of the innermost of nested sites where it and all around it come from.

    ``owners`` are those of the maps of these sites, outermost first. The indices broadcast together.
    """
    return tuple(x[(..., *[None] * inner)] for inner, x in zip(reversed(range(len(owners))), owners, strict=True))


def act_on_site(spec: Table, site: str, element: Symmetry, params: Mapping[str, Tensor]) -> Params:
    """The parameters that touch ``site``, moved by ``element``: ``T`` on plain axes, ``T^-T`` on starred ones."""
    moved = {touch.name: params[touch.name] for touch in spec.touching(site)}
    move_site(spec, site, element, moved)
    return moved


def move_site(spec: Table, site: str, element: Symmetry, params: Params) -> None:
    """Put the parameters that touch ``site``, moved by ``element``, in the place of the old ones.

    One after the other, so that a large network takes up its memory only once.
    """
    for touch in spec.touching(site):
        act = element.act_dual if touch.dual else element.act
        params[touch.name] = act(params[touch.name], touch.axis, touch.batch)
