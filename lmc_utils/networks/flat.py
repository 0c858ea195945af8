"""Counting symmetries: the directions in which no logit moves, against those that the table of types explains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..arguments import brief, instance, reading
from ..spec import Params, act_on_site
from .base import Network, canonicalize, rounding

MOST = 8000  # parameters: beyond, the matrices below take more than two gigabytes
SAMPLES = 8  # at a time: the logits of one do not depend on the others
STEP = 1e-5  # of a central difference: its error is about the square
SMALL = 1e-5  # the length of what is none


@dataclass(frozen=True)
class FlatDirections:
    """How many directions in the space of all weights leave the function alone, and which of them a table explains.

    Parameters
    ----------
    flat
        How many directions move no logit. Those along which canonical form is always the same do not count.
    explained
        How many of them are small symmetries of the table.
    unexplained
        For each parameter how many of the others lie in it. The numbers add up to ``flat - explained``. It names as few
        parameters as can hold them all. It is empty if the inputs are too poor.
    poor
        Why the inputs are too poor to tell; empty if they are not.
    directions
        The unexplained directions, orthonormal: each has a tensor for each parameter named.
    """

    flat: int
    explained: int
    unexplained: dict[str, float] = field(default_factory=dict)
    poor: str = ""
    directions: tuple[Params, ...] = field(default=(), repr=False, compare=False)

    def __str__(self) -> str:
        lines = [f"{self.flat} flat directions, of which the table explains {self.explained}"]
        lines += [f"the inputs are too poor to tell: {self.poor}"] * bool(self.poor)
        return "\n".join(lines + [f"  {number:6.2f} more in {name}" for name, number in self.unexplained.items()])


def flat_directions(network: Network, inputs: Tensor) -> FlatDirections:
    """Count the directions in which no logit moves, and those that the network's table of types explains.

    A table can be exact and still incomplete: a symmetry that nobody wrote down is left to chance when networks are
    matched. Here it shows, as a direction in the kernel of the Jacobian of the logits that is no small symmetry of the
    table. The network should be small, and its weights random: a unit that is off has flat directions of its own.

    Parameters
    ----------
    network
        With at most 8000 parameters. It is looked at in float64.
    inputs
        With more logits than there are parameters, and every token, position and pixel in them.

    Raises
    ------
    TypeError
        If the network is no network, or the inputs are no tensor.
    ValueError
        If it has too many parameters, cannot read the inputs, or a logit is not finite.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> print(lmc.flat_directions(lmc.canonicalize(model), torch.randn(200, 3)))
    4 flat directions, of which the table explains 4
    """
    instance("network", network, Network)
    instance("inputs", inputs, Tensor)
    network = network.to("cpu", torch.float64)
    size = sum(p.numel() for p in network.params.values())
    if size > MOST:
        raise ValueError(f"directions are counted for at most {MOST} parameters, not {size}: build a smaller network")
    if inputs.ndim < 1 or len(inputs) < 2:
        raise ValueError(f"at least two samples are needed, not {brief(inputs)}")
    with torch.no_grad():
        logits = network(inputs)
    if not torch.isfinite(logits).all():
        raise ValueError(f"a logit is not finite for these inputs, {brief(inputs)}")
    noise = rounding(lambda p: network.architecture.forward(p, network._cast(inputs)), network.params)
    small = max(1e-9, 30 * noise / max(logits.abs().max().item(), 1e-300))

    half, moved = len(inputs) // 2, torch.zeros(size, dtype=torch.bool)
    triangle, ranks = torch.zeros(0, size, dtype=torch.float64), []
    for part in (inputs[:half], inputs[half:]):
        for rows in _jacobian(network, part, size):
            moved |= (rows != 0).any(0)
            triangle = torch.linalg.qr(torch.cat([triangle, rows]), mode="r").R  # as much as is needed of all rows
        _, values, basis = torch.linalg.svd(triangle, full_matrices=True)
        ranks.append(int((values > small * values[0]).sum()))
    kernel = basis[ranks[-1] :]

    own = _common(_span(_orbit(network)), kernel)  # the table may claim what is no symmetry: that is not counted
    if poor := _poor(network, ranks, logits.numel(), moved):
        return FlatDirections(len(kernel), len(own), poor=poor)
    rest = _folded(network, _null(own @ kernel.mT) @ kernel, own)
    named, rest = _fewest(network, torch.cat([own, rest]), len(own))
    directions = tuple({name: x for name, x in _tensors(network, row).items() if name in named} for row in rest)
    shares = {name: sum(d[name].square().sum().item() for d in directions) for name in named}
    return FlatDirections(len(own) + len(rest), len(own), shares, "", directions)


def _jacobian(network: Network, inputs: Tensor, count: int) -> Iterator[Tensor]:
    """The Jacobian of the logits in all parameters, about ``count`` rows at a time."""
    params, waiting = {name: p.detach().requires_grad_() for name, p in network.params.items()}, []
    for few in inputs.split(SAMPLES):
        with reading(few), torch.enable_grad():
            logits = network.architecture.forward(params, network._cast(few)).flatten()
        parts = torch.autograd.grad(
            logits, list(params.values()), torch.eye(len(logits), dtype=logits.dtype), is_grads_batched=True,
            materialize_grads=True,
        )  # fmt: skip
        waiting.append(torch.cat([part.flatten(1) for part in parts], 1))
        if sum(map(len, waiting)) >= count:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


@torch.no_grad()
def _orbit(network: Network) -> Tensor:
    """All small symmetries of the table, one a row: what each entry of each site's latent does to the parameters.

    They are differences, not derivatives: where units only change places nothing moves, though a gradient goes
    straight through.
    """
    spec, params, generator = network.spec, network.params, torch.Generator().manual_seed(0)
    found = [torch.zeros(0, sum(p.numel() for p in params.values()), dtype=torch.float64)]
    for name, site in spec.sites.items():
        latent, learn = site.symmetry.latent(site.size, spec.batch(name)), site.symmetry.learn
        anywhere = STEP * torch.randn(latent.shape, generator=generator, dtype=latent.dtype)
        if torch.equal(learn(latent + anywhere).matrix(), learn(latent).matrix()):
            continue  # units that only change places
        for step in STEP * torch.eye(latent.numel(), dtype=latent.dtype):
            up, down = (act_on_site(spec, name, learn(latent + x.view_as(latent)), params) for x in (step, -step))
            moved = [up[n] - down[n] if n in up else torch.zeros_like(p) for n, p in params.items()]
            found.append(torch.cat([x.flatten() for x in moved]).unsqueeze(0) / (2 * STEP))
    rows = torch.cat(found)
    return rows / rows.norm(dim=1).amax() if len(rows) else rows


@torch.no_grad()
def _folded(network: Network, directions: Tensor, own: Tensor) -> Tensor:
    """What canonical form leaves of directions, but for those of the table: orthonormal, one a row.

    Of writers along the all-ones vector it leaves nothing, say. Each fold takes time, so random directions are folded
    one by one until the next has nothing new: then, with probability one, no direction has.
    """

    def fold(change: Tensor) -> Tensor:
        moved = {name: network.params[name] + x for name, x in _tensors(network, change).items()}
        folded = canonicalize(network.architecture.to_model(moved)).params
        return torch.cat([folded[name].flatten() for name in network.params])

    generator, known = torch.Generator().manual_seed(0), own
    for _ in range(len(directions)):
        row = torch.randn(len(directions), generator=generator, dtype=directions.dtype) @ directions
        row = STEP * row / row.norm()
        new = _without((fold(row) - fold(-row)) / (2 * STEP), known)
        if new.norm() <= SMALL:
            break
        known = torch.cat([known, new.unsqueeze(0) / new.norm()])
    return known[len(own) :]


def _fewest(network: Network, flat: Tensor, explained: int) -> tuple[list[str], Tensor]:
    """As few parameters as hold all flat directions but those explained, which come first, and these directions."""
    own = flat[:explained]
    mass = _without(flat[explained:], own).square().sum(0)
    mass = {name: x.sum().item() for name, x in _tensors(network, mass).items()}
    columns = _tensors(network, torch.arange(flat.shape[1]))
    named, found = sorted(mass, key=mass.__getitem__), flat[explained:]
    for name in list(named):  # the least of them first
        fewer = [other for other in named if other != name]
        outside = torch.cat([columns[other].flatten() for other in columns if other not in fewer])
        inside = _null(flat[:, outside].mT) @ flat  # what lives in fewer parameters, some of it explained
        known = _null(_without(inside, own).mT)  # which of these are explained
        left = _null(known) @ inside
        if len(left) == len(found):
            named, found = fewer, left
    return named[::-1], found


def _without(rows: Tensor, own: Tensor) -> Tensor:
    """Rows without what they have in common with orthonormal ones."""
    return rows - rows @ own.mT @ own


def _span(rows: Tensor) -> Tensor:
    """An orthonormal basis, one a row, of the span of some rows."""
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    return basis[: int((values > SMALL).sum())]


def _common(rows: Tensor, others: Tensor) -> Tensor:
    """An orthonormal basis, one a row, of what the spans of orthonormal rows and of others have in common."""
    _, cosines, basis = torch.linalg.svd(rows @ others.mT, full_matrices=False)
    return basis[: int((cosines > 1 - SMALL).sum())] @ others


def _null(matrix: Tensor) -> Tensor:
    """An orthonormal basis, one a row, of what a matrix takes to zero."""
    squares, basis = torch.linalg.eigh(matrix.mT @ matrix)
    return basis.mT[squares <= SMALL**2]


def _tensors(network: Network, row: Tensor) -> Params:
    """One entry for each number of the network, as tensors by name."""
    parts = row.split([p.numel() for p in network.params.values()])
    return {name: part.view(p.shape) for (name, p), part in zip(network.params.items(), parts, strict=True)}


def _poor(network: Network, ranks: list[int], logits: int, moved: Tensor) -> str:
    if ranks[1] >= logits:
        return f"no more than {logits} logits, while {len(moved)} parameters want to be told apart: take more samples"
    if ranks[0] < ranks[1]:
        return f"half of them leave {len(moved) - ranks[0]} flat directions, all of them {len(moved) - ranks[1]}"
    for name, x in _tensors(network, moved).items():
        if 0 < (still := int((~x).sum())) < x.numel():
            return f"{still} of the {x.numel()} entries of {name!r} move no logit at all: they are off, or never used"
    return ""
