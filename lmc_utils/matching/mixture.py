"""Gradient descent on the loss of mixtures of moved networks (arXiv 2506.22712, Algorithm 1): the engine of learned
matching, for two networks and for more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..arguments import brief, check_targets, choice, instance
from ..data import Batch, Batches
from ..landscape.average import Merge, average, merge
from ..landscape.evaluate import evaluate
from ..landscape.recipe import Recipe
from ..networks.base import Network, check_same_architecture
from ..spec import Alignment, Spec
from ..storage import fingerprint, named
from ..symmetry import Symmetry, reshare
from ..train import check_batches, fit
from .balance import balance

TOKENS = 1024  # targets in a step by default: 8 texts of 128 tokens; of images at most 64, whose activations are larger


class Movable(nn.Module):
    """A network, and for each of some sites the free tensor that decides how it is moved.

    Where units were split before, the shares of their output are free, too.
    """

    def __init__(self, network: Network, spec: Spec, sites: Collection[str], split: Mapping[str, Symmetry]) -> None:
        super().__init__()
        self.network, self.spec, self.sites, self.split = network, spec, sites, split
        self.latents = nn.ParameterList(
            spec.sites[name].symmetry.latent(spec.sites[name].size, spec.batch(name)).to(network.reference)
            for name in sites
        )
        self.logits = nn.ParameterList(network.reference.new_zeros(element.shape[0]) for element in split.values())
        self.identity = spec.identity()

    def _shared(self, maps: Mapping[str, Symmetry], logits: Iterable[Tensor]) -> Alignment:
        """The maps, each after the new shares of its site."""
        shares = zip(self.split.items(), logits, strict=True)
        anew = {name: reshare(maps[name], element, z) for (name, element), z in shares}
        return replace(self.identity, maps={**maps, **anew})

    def alignment(self) -> Alignment:
        learned = {n: self.spec.sites[n].symmetry.learn(z) for n, z in zip(self.sites, self.latents, strict=True)}
        return self._shared(self.identity.maps | learned, self.logits)

    def forward(self) -> Network:
        """The moved network, differentiable in the latents."""
        moving = dict.fromkeys([*self.sites, *self.split])
        return replace(self.network, params=self.alignment().act(self.network.params, moving))

    @torch.no_grad()
    def found(self) -> Alignment:
        """What was learned, every map exactly in its class."""
        classes = {n: self.spec.sites[n].symmetry for n in self.sites}
        learned = {n: classes[n].learn(z).matrix().cpu() for n, z in zip(self.sites, self.latents, strict=True)}
        maps = self.identity.maps | {n: classes[n].project(matrix) for n, matrix in learned.items()}
        return self._shared(maps, (z.double().cpu() for z in self.logits))


class Mixture(nn.Module):
    """The loss of the average of several networks, as a function of how they are moved."""

    def __init__(
        self, movables: list[Movable], merge: Merge, sample: Callable[[], Sequence[float]], teachers: list[Network]
    ) -> None:
        super().__init__()
        self.movables, self.merge, self.sample, self.teachers = nn.ModuleList(movables), merge, sample, teachers

    def average(self, weights: Sequence[float] | None = None) -> Network:
        """Average the moved networks with these weights; equally without."""
        return average([movable() for movable in self.movables], weights, merge=self.merge)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of a batch, nats, at a mixture drawn at random."""
        with torch.autocast(inputs.device.type, enabled=False):  # weights are moved exactly, whatever runs them
            mixture = self.average(self.sample())
        logits = mixture(inputs)
        check_targets(logits, targets)
        if not self.teachers:
            return cross_entropy(logits.flatten(0, -2), targets.flatten())
        with torch.no_grad():
            answers = torch.stack([teacher(inputs).softmax(-1) for teacher in self.teachers]).mean(0)
        return cross_entropy(logits.flatten(0, -2), answers.flatten(0, -2))


def learn(
    networks: Sequence[Network],
    starts: Callable[[], Sequence[Alignment]],
    batches: Iterable[Batch],
    sample: Callable[[], Sequence[float]],
    described: dict[str, Any],
    recipe: Recipe,
    *,
    allow: str,
    sites: Collection[str] | None = None,
    target: str = "labels",
    merge: Merge = merge,
    dual: bool = False,
    soft: bool = False,
    validation: Iterable[Batch] | None = None,
) -> list[Alignment]:
    """The symmetries for which mixtures of the moved networks have the least loss: for two networks or more.

    Parameters
    ----------
    networks, starts
        The networks, and what finds the alignments at which learning starts, once all else is known to be right. The
        first network stays where its start has it: maps act linearly, so moving all networks by one more map moves
        their mixtures by it, and changes no loss.
    sample
        Draws the weights of a mixture; ``described`` is what a checkpoint says of it.
    recipe
        How to learn; all else is as for :func:`learned_matching`.
    """
    from accelerate import Accelerator

    spec = networks[0].spec.restrict(allow)
    choice("target", target, ("labels", "ensemble"))
    instance("soft", soft, bool)
    instance("dual", dual, bool)
    if soft and dual:
        raise ValueError("dual=True needs maps with an inverse, which soft=True has not: choose one")
    if isinstance(sites, str):
        raise TypeError(f"sites must be a collection of names, not a string: write [{sites!r}]")
    names = isinstance(sites, Collection) and not isinstance(sites, Tensor) and all(isinstance(s, str) for s in sites)
    if sites is not None and not names:
        raise TypeError(f"sites must be a collection of names, not {brief(sites)}")
    if unknown := set(sites or ()) - set(spec.sites):
        raise ValueError(f"no sites {sorted(unknown)} to learn; the sites are {list(spec.sites)}")
    if sites is not None and not len(sites):
        raise ValueError("sites is empty: there is nothing to learn")
    _learnable(spec, allow, sites)  # or it says that nothing is left to learn
    recipe.check_patience(validation is not None)
    for name, data in {"batches": batches, "validation": validation}.items():
        if name == "batches" or data is not None:
            check_batches(name, data, networks[0])
    if not callable(merge) or not isinstance(merge(networks[0], networks[0], 0.5), Network):
        raise TypeError(f"merge must be a function of two networks and a position that gives a network, not {merge!r}")

    starts = starts()
    moved = [start(network) for start, network in zip(starts, networks, strict=True)]
    check_same_architecture(*moved)
    first = moved[0]
    spec = first.spec.restrict(allow)
    if soft:
        spec = _mixed(spec, starts[1:])
    order = _learnable(spec, allow, sites)
    device, dtype = Accelerator().device, torch.promote_types(first.reference.dtype, torch.float32)
    basis = balance(first, allow)  # in balanced coordinates all directions inside a head are equally steep
    moved = [basis(network).to(device, dtype) for network in moved]
    movables = [
        Movable(network, spec, order if i or dual else (), _split(start, order, sites is None) if i else {})
        for i, (network, start) in enumerate(zip(moved, starts, strict=True))
    ]
    teachers = [network.to(device) for network in networks] if target == "ensemble" else []
    mixture = Mixture(movables, merge, sample, teachers)

    @torch.no_grad()
    def middle(mixture: Mixture) -> float:
        return evaluate(mixture.average(), validation).loss

    if recipe.batch_size is None and isinstance(batches, Batches):
        recipe = replace(recipe, batch_size=max(1, min(64, TOKENS // batches.targets[0].numel())))
    history = fit(
        mixture,
        batches,
        validate=None if validation is None else middle,
        run={
            "allow": allow,
            "sites": order,
            "target": target,
            "dual": dual,
            "soft": soft,
            "merge": named(merge),
            "networks": fingerprint([p for network in moved for p in network.params.values()]),
        }
        | described,
        desc="learned matching",
        **vars(replace(recipe, betas=(0.9, 0.99))),
    )
    found = [movable.found() for movable in movables]
    if dual:
        found = [found[0].inverse() @ one for one in found]
    return [
        replace(basis.inverse() @ one @ basis @ start if i else start, history=history)
        for i, (one, start) in enumerate(zip(found, starts, strict=True))
    ]


def _learnable(spec: Spec, allow: str, sites: Collection[str] | None) -> list[str]:
    """The sites to learn, in the order of the table: those asked for, or else all with continuous maps, or else all."""
    chosen = [name for name in spec.sites if spec.sites[name].symmetry.moves and (sites is None or name in sites)]
    if not chosen:
        which = "no site" if sites is None else f"none of {sorted(sites)}"
        raise ValueError(f"nothing to learn: with allow={allow!r} {which} has a symmetry")
    return [n for n in chosen if sites is not None or not spec.sites[n].symmetry.discrete] or chosen


def check_start(init: Alignment) -> None:
    """Raise a TypeError if this is no alignment."""
    if not isinstance(init, Alignment):
        raise TypeError(f"init must be an alignment, such as weight_matching(a, b), not {type(init).__name__}")


def _split(start: Alignment, sites: Collection[str], all_sites: bool) -> dict[str, Symmetry]:
    """The maps at which units or heads were split, at the sites that are learned."""
    return {
        name: start[name]
        for name, site in start.spec.sites.items()
        if site.splits and start[name].shape[0] > start[name].shape[1] and (all_sites or name in sites)
    }


def _mixed(spec: Spec, starts: Sequence[Alignment]) -> Spec:
    """The table with soft permutations for permutations; heads stay whole, or what lies inside could not follow."""
    if scaled := [n for n, site in spec.sites.items() if site.symmetry.relabels and not site.symmetry.discrete]:
        raise ValueError(f"soft=True mixes units, but those of {scaled} also have scales: use allow='permutation'")
    mixed = {
        name: replace(site, symmetry=soft)
        for name, site in spec.sites.items()
        if (soft := site.symmetry.relaxation()) and not (spec.inside(name) or site.within)
    }
    classes = {name: (site.symmetry, spec.sites[name].symmetry) for name, site in mixed.items()}
    if wrong := [name for name in mixed for g in starts if not isinstance(g[name], classes[name])]:
        raise ValueError(
            f"soft=True starts from permutations, but init has others at {wrong}: match with the same allow"
        )
    return replace(spec, sites={**spec.sites, **mixed})
