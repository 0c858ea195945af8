"""Learned matching: move one network by gradient descent on the loss of the average (arXiv 2506.22712, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..data import Batches
from ..networks.base import Network, check_same_architecture, widening
from ..paths import Batch, Merge, evaluate, merge
from ..spec import Alignment, Spec
from ..storage import fingerprint, named
from ..symmetry import Permutation, ScaledPermutation, SoftPermutation, Symmetry, reshare
from ..train import fit
from .weight import balance, weight_matching

TOKENS = 1024  # targets in a step by default: 8 texts of 128 tokens; of images at most 64, whose activations are larger


class _Movable(nn.Module):
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


class _Matching(nn.Module):
    """The loss of the average of two networks, as a function of how they are moved."""

    def __init__(
        self, a: _Movable, b: _Movable, merge: Merge, sample: Callable[[], float], teachers: tuple[Network, ...]
    ) -> None:
        super().__init__()
        self.a, self.b, self.merge, self.sample, self.teachers = a, b, merge, sample, teachers

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of a batch, nats, at a position drawn at random."""
        with torch.autocast(inputs.device.type, enabled=False):  # weights are moved exactly, whatever runs them
            average = self.merge(self.a(), self.b(), self.sample())
        logits = average(inputs)
        if not self.teachers:
            return cross_entropy(logits.flatten(0, -2), targets.flatten())
        with torch.no_grad():
            answers = torch.stack([teacher(inputs).softmax(-1) for teacher in self.teachers]).mean(0)
        return cross_entropy(logits.flatten(0, -2), answers.flatten(0, -2))


def learned_matching(
    a: Network,
    b: Network,
    batches: Iterable[Batch],
    *,
    init: Alignment | None = None,
    allow: str = "invertible",
    sites: Collection[str] | None = None,
    steps: int = 300,
    lr: float = 2e-2,
    batch_size: int | None = None,
    warmup: float = 0.1,
    lambdas: tuple[float, float] | Callable[[], float] = (0.4, 0.6),
    target: str = "labels",
    merge: Merge = merge,
    augment: Callable[[Tensor], Tensor] | None = None,
    dual: bool = False,
    soft: bool = False,
    validation: Iterable[Batch] | None = None,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> Alignment:
    """The symmetry g for which averages of a and g(b) have the least loss, found by gradient descent.

    Each site has a latent, which its class turns into a map: a polar factor on the residual stream, free matrices
    inside heads, an assignment with straight-through gradients where only relabelling is allowed. At each step the
    weights of b are moved and averaged with those of a once, the stock module runs the average, and Adam moves the
    latents. b is moved by ``init`` first, so that latents start at the identity.

    Parameters
    ----------
    a, b
        Networks of one architecture; a may be wider at some sites, or have more heads. What b's units become where
        they were split is decided by ``init``; the shares of their output are learned.
    batches
        Training data, ``(inputs, targets)``: images (n, C, H, W) or tokens (n, T) with int64 targets (n,) or (n, T).
    init
        Where to start; by default what :func:`weight_matching` finds.
    allow
        ``"permutation"`` everywhere; also ``"orthogonal"`` maps where they are symmetries; or all, ``"invertible"``.
    sites
        What to learn; the other sites stay as ``init`` has them. Default: every site with continuous maps, or all
        sites if there is none. (Beside continuous maps, permutations cost time and do not change:
        arXiv 2506.22712, Fig. 5.)
    steps, lr, batch_size, warmup
        Steps of Adam; its highest learning rate; samples in a step, where ``batches`` are
        :class:`lmc_utils.data.Batches` (default: 64, or as many texts as make 1,024 tokens); the part of the steps in
        which the rate rises, before it falls along half a cosine. (Without warm-up the first step moves every latent by
        ``lr`` and undoes the start.)
    lambdas
        Where on the line the loss is taken: uniformly in this interval, or what a function returns (torch's global
        random numbers are seeded for it).
    target
        ``"labels"``, or ``"ensemble"``: the mean of what a and b answer, at two more passes a step.
    merge
        How to average; :func:`lmc_utils.merge_circuits` averages the products inside heads, as the paper's code does.
    augment
        What to do to each single input before a step uses it, as in training.
    dual
        Move both networks. What is returned moves b alone, to the same effect: ``g_a^-1 g_b``.
    soft
        Doubly stochastic maps instead of permutations. **The result is no symmetry**: ``g(b)`` is another function
        than b. Measure barriers against the original network: ``interpolate(..., ends=(a, b))``.
    validation, patience
        Data held out: the alignment whose midpoint has the least loss on them is kept; and after how many of the ten
        evaluations without a better one to stop.
    seed
        Decides the order of the data and the positions.
    checkpoint
        A safetensors file to write ten times on the way, and to go on from if it exists.

    Returns
    -------
    Alignment
        With a :class:`lmc_utils.train.History` in ``history``.

    Raises
    ------
    ValueError
        If the architectures differ, b is wider at some site, an argument is not one of those named above, ``lambdas``
        leave [0, 1], there is no batch, the loss is not finite (``lr`` is too high), or the checkpoint is corrupt or of
        another run.
    """
    from accelerate import Accelerator

    widening(a, b) if init is None else check_same_architecture(a, init(b))
    spec, sample = a.spec.restrict(allow), _sampler(lambdas)
    if target not in ("labels", "ensemble"):
        raise ValueError(f"target must be 'labels' or 'ensemble', not {target!r}")
    if soft:
        if dual:
            raise ValueError("dual=True needs maps with an inverse, which soft=True has not: choose one")
        spec = _mixed(spec, init)
    if unknown := set(sites or ()) - set(spec.sites):
        raise ValueError(f"no sites {sorted(unknown)} to learn; the sites are {list(spec.sites)}")
    continuous = {name for name, site in spec.sites.items() if site.symmetry is not Permutation}
    chosen = (continuous or set(spec.sites)) if sites is None else set(sites)
    if not chosen:
        raise ValueError("sites is empty: there is nothing to learn")
    order = [name for name in spec.sites if name in chosen]
    start = weight_matching(a, b, allow=allow) if init is None else init
    split = {
        name: start[name]
        for name, site in spec.sites.items()
        if site.splits and start[name].shape[0] > start[name].shape[1] and (sites is None or name in chosen)
    }
    device, dtype = Accelerator().device, torch.promote_types(a.reference.dtype, torch.float32)
    basis = balance(a, allow)  # in balanced coordinates all directions inside a head are equally steep
    one, two = (basis(network).to(device, dtype) for network in (a, start(b)))
    teachers = (a.to(device), b.to(device)) if target == "ensemble" else ()
    matching = _Matching(
        _Movable(one, spec, order if dual else (), {}), _Movable(two, spec, order, split), merge, sample, teachers
    )

    @torch.no_grad()
    def midpoint(matching: _Matching) -> float:
        return evaluate(merge(matching.a(), matching.b(), 0.5), validation).loss

    if batch_size is None and isinstance(batches, Batches):
        batch_size = max(1, min(64, TOKENS // batches.targets[0].numel()))
    history = fit(
        matching,
        batches,
        steps=steps,
        lr=lr,
        batch_size=batch_size,
        betas=(0.9, 0.99),
        warmup=warmup,
        augment=augment,
        validate=None if validation is None else midpoint,
        patience=patience,
        seed=seed,
        checkpoint=checkpoint,
        run={
            "allow": allow,
            "sites": order,
            "target": target,
            "dual": dual,
            "soft": soft,
            "merge": named(merge),
            "lambdas": named(lambdas) if callable(lambdas) else list(lambdas),
            "augment": named(augment),
            "networks": fingerprint([*one.params.values(), *two.params.values()]),
        },
        desc="learned matching",
    )
    found = matching.b.found()
    if dual:
        found = matching.a.found().inverse() @ found
    return replace(basis.inverse() @ found @ basis @ start, history=history)


def _mixed(spec: Spec, init: Alignment | None) -> Spec:
    """The table with soft permutations for permutations; heads stay whole, or what lies inside could not follow."""
    if scaled := [name for name, site in spec.sites.items() if issubclass(site.symmetry, ScaledPermutation)]:
        raise ValueError(f"soft=True mixes units, but those of {scaled} also have scales: use allow='permutation'")
    sites = {
        name: site._replace(symmetry=SoftPermutation)
        if site.symmetry is Permutation and not (spec.inside(name) or site.within)
        else site
        for name, site in spec.sites.items()
    }
    mixed = [name for name, site in sites.items() if site.symmetry is SoftPermutation]
    if wrong := [n for n in mixed if init is not None and not isinstance(init[n], (Permutation, SoftPermutation))]:
        raise ValueError(
            f"soft=True starts from permutations, but init has others at {wrong}: match with the same allow"
        )
    return replace(spec, sites=sites)


def _sampler(lambdas: tuple[float, float] | Callable[[], float]) -> Callable[[], float]:
    if callable(lambdas):
        return lambdas
    low, high = lambdas
    if not 0 <= low <= high <= 1:
        raise ValueError(f"lambdas must be an interval inside [0, 1], not {lambdas}")
    return lambda: low + (high - low) * torch.rand(()).item()
