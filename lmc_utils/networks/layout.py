"""An architecture as a table on the names of its stock module: where each typed parameter is in it.

A *layout* gives each parameter and buffer of the stock module a pattern, written as einops would:

- ``"(heads* qk) r*"`` is a matrix whose rows are numbered by head and by dimension inside the head. ``_`` is an axis
  that no symmetry moves, ``1`` one of size 1 that the typed parameter does not have.
- ``"r* ff -> ff r*"`` gives the typed parameter its axes in another order than the stock module has them.
- ``{"q": "[heads* qk] r*", "k": "[heads* qk*] r*"}`` is one stock parameter that is made of several, one after the
  other along the axis in brackets, each with a name of its own. ``"0: [heads qk]"`` is a part that is constant.
- A number is a parameter that is constant in canonical form, such as the scale of a norm.

From the layout follow the typed parameters, the way in and the way back, what activation matching sees and, with the
names that the configuration has for the sizes, wider networks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, product
from math import prod
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import pad

from ..spec import Params, Site, Spec, rows
from ..symmetry import apply
from .base import Architecture, Network, capture, computed, fill, skeleton
from .stock import make_tables

Layout = Mapping[str, str | float | Mapping[str, str]]
JOINT = "+"  # the axis in brackets, before its parts are told apart


@dataclass(frozen=True)
class Piece:
    """One typed parameter as a part of a stock one: a pattern, read.

    Parameters
    ----------
    name
        Of the typed parameter.
    constant
        Its value, if it is none.
    groups
        For each stock axis what it is made of; ``+`` stands for the axis in brackets.
    bracket
        What the axis in brackets is made of.
    axes
        Of the typed parameter, in its order.
    """

    name: str
    constant: float | None
    groups: tuple[tuple[str, ...], ...]
    bracket: tuple[str, ...]
    axes: tuple[str, ...]

    @classmethod
    def parse(cls, name: str, pattern: str) -> Piece:
        value, _, rest = pattern.rpartition(":")
        left, arrow, right = rest.partition("->")
        groups: list[list[str]] = []
        bracket: list[str] = []
        open_round = open_square = False
        for word in re.findall(r"[()\[\]]|[^\s()\[\]]+", left):
            if word in "([":
                if not open_round:
                    groups.append([])
                open_round, open_square = open_round or word == "(", word == "["
                if open_square:
                    groups[-1].append(JOINT)
            elif word in ")]":
                open_round, open_square = open_round and word == "]", False
            elif open_square:
                bracket.append(word)
            elif open_round:
                groups[-1].append(word)
            else:
                groups.append([word])
        piece = cls(name, float(value) if value else None, tuple(map(tuple, groups)), tuple(bracket), ())
        kept = right.split() if arrow else [axis for axis in piece.flat if axis != "1"]
        if sorted(kept) != sorted(axis for axis in piece.flat if axis != "1"):
            raise ValueError(f"the pattern {pattern!r} of {name!r} has other axes after the arrow than before")
        return replace(piece, axes=tuple(kept))

    @property
    def joint(self) -> list[str]:
        """The stock axes one by one, that in brackets as one."""
        return [axis for group in self.groups for axis in group]

    @property
    def flat(self) -> list[str]:
        """The stock axes one by one, that in brackets taken apart."""
        return [one for axis in self.joint for one in (self.bracket if axis == JOINT else (axis,))]

    @property
    def order(self) -> list[int]:
        """The place of each axis of the typed parameter among the stock axes, then those of size 1."""
        places = {axis: [i for i, one in enumerate(self.flat) if one == axis] for axis in self.flat}
        return [places[axis].pop(0) for axis in (*self.axes, *["1"] * self.flat.count("1"))]


def _site(axis: str) -> str:
    return axis.rstrip("*")


def head_size(width: int, heads: int) -> int:
    """Dimensions of each head of a stock module.

    Raises
    ------
    ValueError
        If the heads cannot have as many dimensions each.
    """
    if width % heads:
        raise ValueError(f"a stock module has a width that is a multiple of its {heads} heads, not {width}")
    return width // heads


def suffixed(pattern: str, suffix: str, shared: Sequence[str] = ("r",)) -> str:
    """A pattern whose sites are those of one block: ``"(heads* qk) r*"`` becomes ``"(heads.0* qk.0) r*"``."""
    return re.sub(r"[a-z]\w*", lambda m: m[0] if m[0] in shared else f"{m[0]}.{suffix}", pattern)


def stacked(
    prefix: str, count: int, layout: Layout, sites: Mapping[str, Site], shared: Sequence[str] = ("r",)
) -> tuple[dict[str, Any], dict[str, Site]]:
    """The layout and the sites of equal blocks, of which each has sites of its own but for those that are shared.

    Parameters
    ----------
    prefix
        The name of a block in the stock module, with ``{}`` for its number: ``"model.layers.{}."``.
    count
        How many there are.
    layout, sites
        Those of one block. The site ``ff`` is called ``ff.3`` in block 3, a part that is named ``q`` is ``3.q``. A site
        of size 0 is left out, with the parts that touch it.
    shared
        Sites that belong to all blocks, such as the residual stream.

    Examples
    --------
    >>> from lmc_utils import Permutation
    >>> stacked("layers.{}.", 1, {"fc.weight": "ff r*"}, {"ff": Site(Permutation, 8)})[0]
    {'layers.0.fc.weight': 'ff.0 r*'}
    """
    layouts, found = {}, {}
    empty = {name for name, site in sites.items() if not site.size}
    sites = {name: site for name, site in sites.items() if name not in empty}
    for i in range(count):
        for name, entry in layout.items():
            if isinstance(entry, Mapping):
                parts = {part: kind for part, kind in entry.items() if empty.isdisjoint(re.findall(r"\w+", kind))}
                entry = {f"{i}.{part}": suffixed(kind, str(i), shared) for part, kind in parts.items()}
            elif isinstance(entry, str):
                entry = suffixed(entry, str(i), shared)
            layouts[prefix.format(i) + name] = entry
        for name, site in sites.items():
            within = None if site.within is None else f"{site.within}.{i}"
            found[f"{name}.{i}"] = replace(site, within=within)
    return layouts, found


class Weights(dict[str, Tensor]):
    """The weights of a model while they are folded: read in float64, tensor by tensor, and never written into."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__({name: p.detach() for name, p in model.state_dict().items()})

    def __getitem__(self, name: str) -> Tensor:
        return super().__getitem__(name).double()

    def pop(self, name: str, *default: Any) -> Any:
        found = super().pop(name, *default)
        return found.double() if isinstance(found, Tensor) else found


@dataclass(frozen=True)
class Stock(Architecture):
    """A stock module with a layout. Equal if the configurations and the tables of types are.

    A subclass for one family says how a stock module in canonical form is built (:meth:`build`) and what its layout is
    (:meth:`table`), or gives both to :meth:`assemble`; the rest is derived.

    Parameters
    ----------
    config
        All that decides the function but the weights.
    spec
        The table of types.
    module
        The stock module as a skeleton: shapes without storage.
    pieces
        For each stock parameter the typed ones that it is made of, or its constant value.
    sizes
        Of the sites in the stock module. Inside a head it may have more dimensions than are used: these are zero.
    watch
        Sites that are seen where modules write, by the names of these modules, instead of where the layout says.
    """

    config: Mapping[str, Any]
    spec: Spec
    module: nn.Module = field(compare=False, repr=False)
    pieces: Mapping[str, float | tuple[Piece, ...]] = field(compare=False, repr=False)
    sizes: Mapping[str, int] = field(compare=False, repr=False)
    watch: Mapping[str, Sequence[str]] = field(compare=False, repr=False)

    widths: ClassVar[Mapping[str, str]] = {}  # what the configuration calls the size of a site: {"n_embd": "r"}
    out_axis: ClassVar[int] = 0  # the axis of a stock weight along which it writes
    call: ClassVar[Mapping[str, Any]] = {}  # further arguments of the stock module
    riding: ClassVar[Sequence[str]] = ()  # layers without a bias whose last norm shifts by the all-ones vector

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> nn.Module:
        """The stock module that runs canonical networks of this configuration; it is built without storage."""
        raise NotImplementedError(f"{cls.__name__} does not say how its modules are built")

    @classmethod
    def table(cls, config: Mapping[str, Any]) -> tuple[Layout, dict[str, Site], dict[str, Sequence[str]]]:
        """The layout, the sites, and which modules' outputs show a site (see ``watch``)."""
        raise NotImplementedError(f"{cls.__name__} has no layout")

    @classmethod
    def of(cls, config: Mapping[str, Any], sizes: Mapping[str, int] | None = None) -> Self:
        """The architecture of this configuration; ``sizes`` of sites where they are smaller than the module's.

        Raises
        ------
        ValueError
            If the stock module has fewer dimensions than ``sizes`` say, or more where these cannot be left empty.
        """
        layout, sites, watch = cls.table(config)
        full = {name: site.size for name, site in sites.items()}
        for name, size in (sizes or {}).items():
            spare = sites[name].within and not sites[name].symmetry.obstacle(size, full[name])
            if size != full[name] and not (size < full[name] and spare):
                raise ValueError(f"the stock module has {full[name]} dimensions at the site {name!r}, not {size}")
        with torch.device("meta"):
            module = cls.build(config)
        make_tables(module)
        return cls.assemble(config, skeleton(module), layout, sites, watch, sizes)

    @classmethod
    def assemble(
        cls,
        config: Mapping[str, Any],
        module: nn.Module,
        layout: Layout,
        sites: Mapping[str, Site],
        watch: Mapping[str, Sequence[str]] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> Self:
        """The architecture of a skeleton and its layout.

        Raises
        ------
        ValueError
            If the module has a parameter that the layout has not, or the other way round.
        """
        owned = {*dict(module.named_parameters(remove_duplicate=False)), *layout} & set(module.state_dict())
        if wrong := sorted((owned | {f"{layer}.bias" for layer in cls.riding}) ^ set(layout)):
            raise ValueError(f"the layout and the module differ in {wrong}")
        pieces = {}
        for name, entry in layout.items():
            if isinstance(entry, str):
                entry = {name: entry}
            pieces[name] = (
                tuple(Piece.parse(part, pattern) for part, pattern in entry.items())
                if isinstance(entry, Mapping)
                else float(entry)
            )
        types = {
            piece.name: " ".join(piece.axes)
            for entry in pieces.values()
            if not isinstance(entry, float)
            for piece in entry
            if piece.constant is None
        }
        full = {name: site.size for name, site in sites.items()}
        return cls(config, Spec(types, sites).resize(sizes or {}), module, pieces, full, watch or {})

    def network(self, weights: Weights, folds: Iterable[str] = (), dtype: torch.dtype | None = None) -> Network:
        """The network of weights that are folded by and by: only a part of them at a time takes up float64's memory.

        Parameters
        ----------
        weights
            Of the model, by the stock module's names. They are used up.
        folds
            Folds one part after the other, and gives the prefix of the names of each that is done.
        dtype
            Of the network; by default the first weight's.

        Raises
        ------
        ValueError
            If a weight is left over: the layout does not know it.
        """
        dtype = next(iter(weights.values())).dtype if dtype is None else dtype
        found: Params = {}
        for prefix in chain(folds, [""]):
            found |= self._met(self.encode(weights, prefix), dtype)
        if weights:
            raise ValueError(f"the model has {sorted(weights)}, which this architecture's layout does not know")
        return Network(self, {name: found[name] for name in self.spec.types})

    def encode(self, weights: Weights, prefix: str = "") -> Params:
        """The typed parameters, float64, of the stock ones whose names begin with ``prefix``: these are used up."""
        found: Params = {}
        for name, entry in self.pieces.items():
            if not name.startswith(prefix) or name not in weights:
                continue
            x = weights.pop(name)
            if isinstance(entry, float):
                continue
            for axis, group in reversed(list(enumerate(entry[0].groups))):
                x = self._unfold(x, axis, group)
            for piece, part in zip(entry, self._parts(x, entry[0].joint, entry), strict=True):
                if piece.constant is None:
                    part = part.permute(piece.order)
                    found[piece.name] = part.reshape(part.shape[: len(piece.axes)])
        return found

    def _unfold(self, x: Tensor, axis: int, group: Sequence[str]) -> Tensor:
        """An axis as the axes that it is made of."""
        return x if len(group) < 2 else x.unflatten(axis, [self.sizes.get(_site(one), -1) for one in group])

    def _parts(self, x: Tensor, axes: Sequence[str], pieces: Sequence[Piece]) -> Iterator[Tensor]:
        """The parts of a tensor along the axis in brackets; the tensor itself if there is none."""
        if JOINT not in axes:
            yield x
            return
        place, sizes = axes.index(JOINT), [[self.sizes[_site(one)] for one in piece.bracket] for piece in pieces]
        for own, part in zip(sizes, x.split([prod(own) for own in sizes], place), strict=True):
            yield part.unflatten(place, own)

    def _met(self, params: Params, dtype: torch.dtype) -> Params:
        """The parameters, rounded, with nothing left that is written and not read, or read and not written."""
        for site, kind in self.spec.sites.items():
            touches = self.spec.touching(site)
            if not all(touch.name in params for touch in touches):
                continue
            writers, readers = ([t for t in touches if t.dual is dual] for dual in (False, True))
            if not (writers and readers):
                continue
            sides = (torch.cat([rows(params[t.name], t) for t in side], -1) for side in (writers, readers))
            if (seen := kind.symmetry.meet(*sides)) is None:
                continue
            for touch, projection in (*product(writers, seen[:1]), *product(readers, seen[1:])):
                params[touch.name] = apply(projection, params[touch.name], touch.axis, touch.batch)
        own = {"copy": True, "memory_format": torch.contiguous_format}  # not the model's, which may be trained on
        return {name: p.to(dtype, **own) for name, p in params.items()}

    def decode(self, params: Params) -> Params:
        """The parameters of the stock module.

        A bias that it has no place for rides on the all-ones vector, which no centred weight reads: the norm shifts by
        that vector, and the bias is added to the layer's weights along it.
        """
        like, found = next(iter(params.values())), {}
        for name, entry in self.pieces.items():
            if isinstance(entry, float):
                found[name] = like.new_full(self._shapes[name], entry)
                continue
            parts = [self._stock(piece, params, like) for piece in entry]
            found[name] = torch.cat(parts, entry[0].joint.index(JOINT)) if entry[0].bracket else parts[0]
        for layer in self.riding:
            weight = found[f"{layer}.weight"]
            found[f"{layer}.weight"] = weight + found.pop(f"{layer}.bias").unsqueeze(1) / weight.shape[1]
        return {name: x.reshape(self._shapes[name]) for name, x in found.items()} | self._kept

    def _stock(self, piece: Piece, params: Params, like: Tensor) -> Tensor:
        """A typed parameter with its axes as the stock module has them, that in brackets as one."""
        if piece.constant is not None:
            x = like.new_full([self.sizes[_site(axis)] for axis in piece.flat], piece.constant)
        else:
            x = params[piece.name]
            for axis, name in enumerate(piece.axes):
                if extra := self.sizes.get(_site(name), x.shape[axis]) - x.shape[axis]:
                    x = pad(x, (0, 0) * (x.ndim - 1 - axis) + (0, extra))
            order = piece.order
            x = x.reshape(*x.shape, *[1] * (len(order) - x.ndim)).permute([order.index(i) for i in range(len(order))])
        if not piece.bracket:
            return x
        place = piece.joint.index(JOINT)
        return x.flatten(place, place + len(piece.bracket) - 1)

    @cached_property
    def _shapes(self) -> dict[str, torch.Size]:
        return {name: p.shape for name, p in self.module.state_dict(keep_vars=True).items()}

    @cached_property
    def _kept(self) -> Params:  # buffers of which the layout says nothing: they hold no numbers that are learned
        return {name: b for name, b in self.module.named_buffers() if name in self._shapes and name not in self.pieces}

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        return computed(functional_call(self.module, self.decode(params), (inputs,), dict(self.call)))

    def to_model(self, params: Params) -> nn.Module:
        return fill(self.module, self.decode(params))

    def with_sizes(self, sizes: Mapping[str, int]) -> Self:
        changed = {}
        for key, kind in self.widths.items():
            found = {size for name, size in sizes.items() if name.partition(".")[0] == kind}
            if len(found) > 1:
                raise ValueError(f"all blocks have as many {kind}, not {sorted(found)}")
            changed[key] = found.pop()
        wider = self.of({**self.config, **changed}, sizes)
        if wider.spec.sizes != dict(sizes):
            raise ValueError(f"no stock module has these sizes: {self.spec.resize(sizes).difference(wider.spec)}")
        return wider

    def activations(self, params: Params, inputs: Tensor) -> dict[str, Tensor]:
        """For each site what its writers write, shape (samples, *sites that it lies within, size).

        Hidden units are seen before the non-linearity. A space inside heads or units that some weight reads is seen
        where it is read, with all axes that this weight reads, in the order of its type.
        """
        found: dict[str, list[Tensor]] = {}
        with capture() as seen:
            for view in self._views:
                look = seen.output if view.written else seen.input
                look(self.module.get_submodule(view.module), view[:2])
            self.forward(params, inputs)
            for view in self._views:
                x = seen[view[:2]]
                x = (x.movedim(1, -1) if x.ndim == 4 else x).flatten(0, -2)  # images have their channels first
                x = self._unfold(x, 1, view.group)
                for part, axes in zip(self._parts(x, ["_", *view.group], view.pieces), view.axes, strict=True):
                    if (site := self._shown(view, axes)) is not None:
                        for axis, name in enumerate(axes, 1):
                            part = part.narrow(axis, 0, self.spec.sites[_site(name)].size)
                        found.setdefault(site, []).append(part)
        return {site: torch.cat(parts) for site, parts in found.items()}

    @cached_property
    def _views(self) -> list[View]:
        """Where to look while the module runs: behind each watched module, and on both sides of each weight."""
        views = [View(module, True, (site,), ()) for site, modules in self.watch.items() for module in modules]
        for name, entry in self.pieces.items():
            module, _, leaf = name.rpartition(".")
            if leaf == "weight" and not isinstance(entry, float) and len(entry[0].groups) > 1:
                out = 1 if isinstance(self.module.get_submodule(module), nn.Embedding) else self.out_axis
                for axis in (out, 1 - out):
                    views.append(View(module, axis == out, entry[0].groups[axis], entry))
        return [view for view in views if any(self._shown(view, axes) for axes in view.axes)]

    @cached_property
    def _read(self) -> set[str]:
        """The sites inside heads or units that a weight reads."""
        read = {
            entry[0].groups[1 - self.out_axis][-1]
            for entry in self.pieces.values()
            if not isinstance(entry, float) and len(entry[0].groups) > 1
        }
        return {site for site in self.spec.sites if f"{site}*" in read and self.spec.ancestors(site)}

    def _shown(self, view: View, axes: Sequence[str]) -> str | None:
        """The site that is seen here; None if it is none, or better seen elsewhere."""
        *outer, site = map(_site, axes)
        if (
            site not in self.spec.sites
            or (site in self.watch) is bool(view.pieces)
            or (site in self._read) is view.written
        ):
            return None
        return site if not view.written or set(outer) <= set(self.spec.ancestors(site)) else None


class View(NamedTuple):
    """One side of a module, and what the last axis of what passes there is made of."""

    module: str
    written: bool
    group: tuple[str, ...]
    pieces: tuple[Piece, ...]

    @property
    def axes(self) -> list[list[str]]:
        """The axes of each part."""
        brackets = [piece.bracket for piece in self.pieces] if JOINT in self.group else [()]
        return [[one for axis in self.group for one in (own if axis == JOINT else (axis,))] for own in brackets]
