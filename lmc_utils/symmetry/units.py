"""Classes whose elements act on units one by one: they relabel them, scale them, split them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import one_hot

from ..arguments import count, number
from .base import Dense, Paired, Symmetry, check_matrix, largest


def assign(cost: Tensor) -> Tensor:
    """For each column the row that it is assigned to, each row at most once (SciPy solves it exactly); batched."""
    matrix = check_matrix(cost).cpu().double()
    flat = matrix.flatten(0, -3) if matrix.ndim > 2 else matrix.unsqueeze(0)
    rows = [linear_sum_assignment(c.T, maximize=True)[1] for c in flat.numpy()]
    return torch.from_numpy(np.array(rows, dtype=np.int64)).view(*cost.shape[:-2], cost.shape[-1])


def exchanges(n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Permutation]:
    """A walk on which units change places, two at a time (Sattolo's shuffle: at the end of it no unit stays)."""
    order = torch.arange(n).expand(*batch, n)
    orders = [order]
    for last in range(n - 1, 0, -1):
        chosen = torch.randint(last, (*batch, 1), generator=generator)
        pair = torch.cat([chosen, torch.full_like(chosen, last)], -1)
        order = order.scatter(-1, pair, order.gather(-1, pair.flip(-1)))
        orders.append(order)
    return lambda time: Permutation(orders[round(time * (len(orders) - 1))])


@dataclass(frozen=True, eq=False)
class Permutation(Symmetry):
    """A relabelling of units: new unit ``i`` is old unit ``indices[i]``.

    The symmetry of every elementwise non-linearity: ``f(P x) = P f(x)`` (arXiv 2506.22712, Table 1, class S1).
    Kept as indices, because gathering rows is exact and needs no n x n matrix.

    Parameters
    ----------
    indices
        Shape (..., n), int64, along the last axis a permutation of 0..n-1.

    Raises
    ------
    TypeError
        If ``indices`` are not an int64 tensor.
    ValueError
        If they are not a permutation.
    """

    words = "any relabelling"
    level = "permutation"
    discrete = True
    relabels = True
    indices: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.indices, Tensor) or self.indices.dtype != torch.int64:
            kind = getattr(self.indices, "dtype", type(self.indices).__name__)
            raise TypeError(f"the indices of a permutation must be an int64 tensor, not {kind}")
        if self.indices.ndim < 1:
            raise ValueError("the indices of a permutation have at least one axis, but these have none")
        expected = torch.arange(self.indices.shape[-1], device=self.indices.device).expand_as(self.indices)
        if (wrong := self.indices.sort(-1).values != expected).any():
            first = wrong.nonzero()[0, -1].item()
            raise ValueError(
                f"not a permutation of 0..{self.indices.shape[-1] - 1}: {first} is missing, or another is there twice"
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Permutation) and torch.equal(self.indices, other.indices)

    @property
    def shape(self) -> tuple[int, int]:
        return self.indices.shape[-1], self.indices.shape[-1]

    @property
    def batch(self) -> tuple[int, ...]:
        return tuple(self.indices.shape[:-1])

    def matrix(self) -> Tensor:
        n = self.indices.shape[-1]
        return torch.eye(n, dtype=torch.float64, device=self.indices.device)[self.indices]

    dual = matrix  # P^-T = P

    @property
    def owners(self) -> Tensor:
        return self.indices

    @property
    def moved(self) -> int:
        """How many units change their place."""
        return int((self.indices != torch.arange(self.indices.shape[-1], device=self.indices.device)).sum())

    def act(self, x: Tensor, axis: int, batch: tuple[int, ...] = ()) -> Tensor:
        if not batch:
            return x.index_select(axis, self.indices.to(x.device))
        return super().act(x, axis, batch)

    act_dual = act

    def inverse(self) -> Self:
        return type(self)(self.indices.argsort(-1))

    @classmethod
    def dimensions(cls, n: int) -> int:
        return 0

    @classmethod
    def obstacle(cls, n: int, m: int) -> str:
        return "" if m == n else f"a permutation cannot map {n} units to {m}"

    @classmethod
    def widening(cls) -> type[Symmetry]:
        return SemiPermutation

    @classmethod
    def relaxation(cls) -> type[Symmetry] | None:
        return SoftPermutation

    @classmethod
    def product(cls, g: Symmetry, h: Symmetry) -> Self:
        if not (isinstance(g, Permutation) and isinstance(h, Permutation)):
            return super().product(g, h)
        return cls(h.indices.gather(-1, g.indices))

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> Self:
        return cls(matrix.argmax(-1) if matrix.shape[-1] else matrix.new_zeros(matrix.shape[:-1], dtype=torch.int64))

    @classmethod
    def identity(cls, n: int, batch: tuple[int, ...] = ()) -> Self:
        return cls(torch.arange(n).expand(*batch, n).clone())

    @classmethod
    def draw(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        return cls(torch.rand(*batch, n, generator=generator, dtype=torch.float64).argsort(-1))

    @classmethod
    def flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """Units change places, two at a time."""
        order = exchanges(n, generator, batch)
        return lambda time: order(time).matrix()

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        """The linear assignment problem, solved exactly in O(n^3) by SciPy."""
        return cls(assign(check_matrix(cost, square=True)).argsort(-1))

    @classmethod
    def project(cls, matrix: Tensor) -> Self:
        """All permutations have the same norm, so the nearest one is the one with the largest inner product."""
        return cls.solve(matrix)

    @classmethod
    def learn(cls, latent: Tensor) -> Symmetry:
        """The nearest permutation, whose gradient goes straight through to the latent (arXiv 2209.04836, section 3.3).

        Nothing moves before another assignment overtakes the present one: from the identity about ``0.5 / lr`` steps.
        """
        return SoftPermutation(cls.project(latent).matrix().to(latent) + latent - latent.detach())

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        ones = (matrix - 1).abs() <= atol
        if not (ones | (matrix.abs() <= atol)).all():
            return "an entry is neither 0 nor 1"
        if not ((ones.sum(-1) == 1).all() and (ones.sum(-2) == 1).all()):
            return "a row or a column does not hold exactly one 1"
        return ""


class Fixed(Permutation):
    """The identity alone: the class of a site where nothing may move. It is a part of every other class."""

    words = "nothing moves"
    moves = False

    @classmethod
    def obstacle(cls, n: int, m: int) -> str:
        return "" if m == n else f"nothing moves at a fixed site: it cannot grow from {n} to {m} dimensions"

    @classmethod
    def widening(cls) -> type[Symmetry]:
        return cls

    @classmethod
    def relaxation(cls) -> None:
        return None

    @classmethod
    def draw(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        return cls.identity(n, batch)

    @classmethod
    def flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        return lambda time: cls.identity(n, batch).matrix()

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        check_matrix(cost, square=True)
        return cls.identity(cost.shape[-1], tuple(cost.shape[:-2]))

    @classmethod
    def latent(cls, n: int, batch: tuple[int, ...] = ()) -> Tensor:
        """There is nothing to learn: of each identity the size, and no entry."""
        return torch.empty(*batch, n, 0, dtype=torch.float64)

    @classmethod
    def learn(cls, latent: Tensor) -> Symmetry:
        return cls.identity(latent.shape[-2], tuple(latent.shape[:-2]))

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        error = largest(matrix - torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device))
        return f"it differs from the identity by {error:.2g}" if error > atol else ""


class SoftPermutation(Dense):
    """A doubly stochastic matrix: units are mixed, and the function is *not* the same afterwards.

    A relaxation of :class:`Permutation`, easier to learn (arXiv 2506.22712, appendix D). It belongs to no type table:
    the network that it maps answers differently, so barriers are measured against the network before the map.
    """

    words = "any mixture of relabellings"
    level = "permutation"
    smaller = Permutation

    def dual(self) -> Tensor:
        return self.values

    def inverse(self) -> Self:
        """There is none: raises ValueError."""
        raise ValueError("a mixture of units has no inverse in its class: it loses what it mixes")

    @classmethod
    def obstacle(cls, n: int, m: int) -> str:
        return "" if m == n else f"a doubly stochastic matrix is square: it cannot map {n} units to {m}"

    @classmethod
    def dimensions(cls, n: int) -> int:
        return max(n - 1, 0) ** 2

    @classmethod
    def draw(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        return cls.project(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64).exp())

    @classmethod
    def flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """Units change places, two at a time."""
        return Permutation.flow(n, generator, batch)

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        """A linear score is largest at a corner of the polytope, which is a permutation."""
        return cls(Permutation.solve(cost).matrix())

    @classmethod
    def project(cls, matrix: Tensor) -> Self:
        """The nearest in relative entropy, not in the Frobenius norm: rows and columns are normalised in turn."""
        positive = check_matrix(matrix, square=True).double().clamp_min(1e-300)
        return cls(sinkhorn(positive.log(), iterations=20_000))

    @classmethod
    def latent(cls, n: int, batch: tuple[int, ...] = ()) -> Tensor:
        """The identity, but for a hundredth that is spread over each row, so that every entry has a gradient."""
        return torch.log(0.99 * super().latent(n, batch) + 0.01 / max(n, 1))

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        return cls(sinkhorn(latent))

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        if (matrix < -atol).any():
            return "an entry is negative"
        error = max(largest(matrix.sum(axis) - 1) for axis in (-1, -2))
        return f"a row or a column sums to one only up to {error:.2g}" if error > atol else ""


def sinkhorn(logits: Tensor, iterations: int = 50, atol: float = 1e-9) -> Tensor:
    """The doubly stochastic matrix (..., n, n) that ``exp(logits)`` becomes: rows and columns normalised in turn.

    In the log domain, so that no entry under- or overflows; stops when the rows sum to one up to ``atol``.

    Raises
    ------
    TypeError, ValueError
        If the logits are no finite square matrices, or an argument is no possible number.
    """
    check_matrix(logits, "logits", square=True)
    count("iterations", iterations, 0)
    number("atol", atol, 0)
    atol = max(atol, 4 * torch.finfo(logits.dtype).eps)
    for _ in range(iterations):
        logits = logits - logits.logsumexp(-1, keepdim=True)
        logits = logits - logits.logsumexp(-2, keepdim=True)
        if largest(logits.detach().logsumexp(-1).exp() - 1) < atol:
            break
    return logits.exp()


class ScaledPermutation(Paired):
    """A relabelling and a positive scale for each unit: a matrix with one positive entry in each row and column.

    The symmetry of positively homogeneous units, ``f(s x) = s f(x)`` for ``s > 0``: ReLU and leaky ReLU. (Not in the
    list of arXiv 2506.22712, Table 1; it lies inside S4.) A rectangular one splits units, and scales what they become.
    """

    words = "any relabelling and positive scales"
    level = "invertible"
    smaller = Permutation
    compact = False
    scales = True
    relabels = True

    def inverted(self) -> Tensor:
        positive = self.values > 0
        return torch.where(positive, 1 / torch.where(positive, self.values, 1.0), 0.0)  # twice: no gradient is NaN

    @classmethod
    def dimensions(cls, n: int) -> int:
        return n

    @classmethod
    def obstacle(cls, n: int, m: int) -> str:
        return Permutation.obstacle(n, m)

    @classmethod
    def widening(cls) -> type[Symmetry]:
        return SemiPermutation

    @classmethod
    def draw(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        order = Permutation.draw(n, m, generator, batch).matrix()
        scales = torch.randn(*batch, n, 1, generator=generator, dtype=torch.float64).mul(0.5).exp()
        return cls(scales * order)

    @classmethod
    def flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """Units change places, while their scales leave 1."""
        order = exchanges(n, generator, batch)
        logs = torch.randn(*batch, n, 1, generator=generator, dtype=torch.float64).mul(0.5)
        return lambda time: (time * logs).exp() * order(time).matrix()

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        return cls(Permutation.solve(cost).matrix())

    @classmethod
    def latent(cls, n: int, batch: tuple[int, ...] = ()) -> Tensor:
        """The logarithms of the scales, (..., n): the relabelling stays as it is while they are learned."""
        return torch.zeros(*batch, n, dtype=torch.float64)

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        return cls(torch.diag_embed(latent.exp()))

    @classmethod
    def project(cls, matrix: Tensor) -> Self:
        """The nearest support holds the largest sum of squares of positive entries."""
        positive = check_matrix(matrix, square=True).double().clamp_min(0)
        support = Permutation.solve(positive.square()).matrix()
        return cls(support * positive.clamp_min(torch.finfo(torch.float64).tiny))

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        if (matrix < 0).any():
            return "an entry is negative"
        if reason := Permutation.violation((matrix > 0).double(), atol):
            return reason.replace("1", "positive entry").replace("neither 0 nor positive entry", "not 0")
        return ""

    @classmethod
    def likeness(cls, writers: Tensor, readers: Tensor) -> Tensor:
        """Each unit has a circuit, ``x^T y``; the best assignment counts."""
        return Permutation.likeness(writers * readers, torch.zeros_like(readers))

    @classmethod
    def equalise(cls, writers: Tensor, readers: Tensor) -> Self:
        """Incoming and outgoing weights of each unit get the same norm; a unit without either stays as it is."""
        incoming, outgoing = writers.diagonal(dim1=-2, dim2=-1), readers.diagonal(dim1=-2, dim2=-1)
        scales = torch.where((incoming > 0) & (outgoing > 0), (outgoing / incoming) ** 0.25, 1.0)
        return cls(torch.diag_embed(scales))


class SemiPermutation(Dense):
    """Units that split: columns are stochastic, and each row holds at most one positive entry (class S2).

    Column ``j`` says which units of the wider layer unit ``j`` becomes, and with which share of its output. Writers
    are shared out by ``T``; readers are copied by its support ``B = [T > 0]``, and ``B^T T = 1``. It holds for
    positively homogeneous units (ReLU, leaky ReLU; not GELU, not hard-tanh: a share of the input must give that share
    of the output) and for attention heads (arXiv 2506.22712, Table 1; the explicit split is ours).
    """

    words = "any relabelling and splits"
    level = "permutation"
    smaller = Permutation
    relabels = True
    splits = True

    def dual(self) -> Tensor:
        return (self.values > 0).to(self.values)

    @classmethod
    def dimensions(cls, n: int) -> int:
        return 0

    @classmethod
    def draw(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        copies = torch.randint(max(n, 1), (*batch, m - n), generator=generator)
        owners = torch.cat([Permutation.identity(n, batch).indices, copies], -1)
        owners = owners.gather(-1, Permutation.draw(m, m, generator, batch).indices)
        shares = torch.rand(*batch, m, 1, generator=generator, dtype=torch.float64) + 0.1
        weights = shares * one_hot(owners, n) if n else shares.expand(*batch, m, 0)
        return cls(weights / weights.sum(-2, keepdim=True))

    @classmethod
    def flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """Units change places, two at a time."""
        return Permutation.flow(n, generator, batch)

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        """A linear score is largest where no unit splits: a rectangular assignment, exactly."""
        return cls(_support(assign(cost), cost.shape[-2]).mT.double())

    @classmethod
    def transport(cls, cost: Tensor) -> Self:
        """Optimal transport: every unit splits into as many as any other, up to one, in equal shares.

        Maximises the sum of the costs of all pairs (new unit, old unit). Where M is a multiple of N this is the optimal
        transport between uniform distributions (as in arXiv 1910.05653): an extreme plan gives every new unit to one
        old unit, so that an assignment to M / N copies of each old unit finds it exactly.
        """
        cost = check_matrix(cost).double()
        m, n = cost.shape[-2:]
        if cost.numel() == 0:
            return cls(cost)
        spread = cost.max() - cost.min()
        must = torch.where(spread > 0, spread, 1.0) * (m + 1)  # more than anything else could gain, at any scale
        copies = torch.cat([(cost + must).repeat_interleave(m // n, -1), cost], -1)
        old = torch.cat([torch.arange(n).repeat_interleave(m // n), torch.arange(n)])
        places = old[assign(copies.mT).to(cost.device)]  # for each new unit the copy that it gets
        support = one_hot(places, n).double()
        return cls(support / support.sum(-2, keepdim=True))

    @classmethod
    def fit(cls, shared: Tensor, copied: Tensor, writers: Tensor, readers: Tensor) -> Self:
        """Which units split, and in which shares, so that the weights come closest to those of a wider network.

        A new unit ``i`` with the share ``t`` of unit ``j`` explains ``2 t W_ij - t^2 w_j`` of the squared weights that
        write it and ``2 R_ij - r_j`` of those that read it. Each goes to whom it explains best with the best ``t``, or
        stays empty, but every ``j`` must go somewhere: at the least loss, which is an assignment. Shares follow in
        closed form. (Which support is the best altogether is a combinatorial problem; true copies are found.)

        Parameters
        ----------
        shared, copied
            ``W`` and ``R``: inner products of the weights that write and that read new units and old ones, (M, N).
        writers, readers
            ``w`` and ``r``: the squared norms of those of the old ones, (N,).

        Raises
        ------
        TypeError, ValueError
            If they are not finite or their shapes do not fit.
        """
        shared, copied = check_matrix(shared, "shared"), check_matrix(copied, "copied")
        writers, readers = (
            check_matrix(x.unsqueeze(-1), name)[..., 0] for name, x in (("writers", writers), ("readers", readers))
        )
        if shared.shape != copied.shape or {writers.shape, readers.shape} != {shared.shape[-1:]}:
            raise ValueError(
                f"shared {tuple(shared.shape)} and copied {tuple(copied.shape)} are (M, N), writers "
                f"{tuple(writers.shape)} and readers {tuple(readers.shape)} (N,): these do not fit"
            )
        if shared.numel() == 0:
            return cls(shared.double())
        best = (shared / writers.clamp_min(torch.finfo(writers.dtype).tiny)).clamp(0, 1)
        gain = cls.explained(best, shared, copied, writers, readers)
        most, owners = gain.max(-1)
        support = one_hot(owners, gain.shape[-1]).bool() & (most > 0).unsqueeze(-1)
        rows = assign(gain - most.clamp_min(0).unsqueeze(-1)).to(gain.device)
        support[rows] = torch.eye(gain.shape[-1], dtype=torch.bool, device=gain.device)
        return cls(_to_simplex(best.double(), support))

    @staticmethod
    def explained(shares: Tensor, shared: Tensor, copied: Tensor, writers: Tensor, readers: Tensor) -> Tensor:
        """By how much the squared distance is smaller than with an empty unit, for each pair (see :meth:`fit`)."""
        return 2 * shares * shared - shares.square() * writers + 2 * copied - readers

    @classmethod
    def project(cls, matrix: Tensor) -> Self:
        """The nearest element with a good support: each column has its assigned row, others join their largest column.

        (Which support is the best is a combinatorial problem; an element is mapped to itself.)
        """
        matrix = check_matrix(matrix).double()
        m, n = matrix.shape[-2:]
        if n == 0:
            return cls(matrix)
        rows = assign(matrix).to(matrix.device)
        owners = matrix.argmax(-1).scatter(-1, rows, torch.arange(n, device=matrix.device).expand_as(rows))
        assigned = _support(rows, m).mT
        return cls(_to_simplex(matrix, _support(owners, n) & ((matrix > 0) | assigned)))

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        """The nearest element; the gradient of its shares goes straight through to the latent."""
        nearest = cls.project(latent.detach()).matrix().to(latent)
        return cls(nearest + (latent - latent.detach()) * (nearest > 0))

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        if (matrix < 0).any():
            return "an entry is negative"
        if ((matrix > 0).sum(-1) > 1).any():
            return "a row holds more than one positive entry"
        if ((matrix.sum(-2) - 1).abs() > atol).any():
            return "a column does not sum to one"
        return ""


def reshare(element: Symmetry, split: Symmetry, logits: Tensor) -> ScaledPermutation:
    """``element`` after units that were split have shared out their output anew among those that they became.

    Parameters
    ----------
    element
        A square map of the site where the split units are.
    split
        How they were split, (M, N).
    logits
        Shape (M,): the shares are multiplied by ``exp(logits)`` and made to sum to one again; differentiable.
    """
    shares = (split.matrix() * split.dual()).to(logits)
    weights, support = logits.exp(), (shares > 0).to(logits)
    totals = support @ (shares.mT @ weights)
    factors = torch.where(totals > 0, weights / torch.where(totals > 0, totals, 1.0), 1.0)
    return ScaledPermutation(element.matrix().to(logits) * factors, element.dual().to(logits))


def _support(places: Tensor, size: int) -> Tensor:
    """Where each of ``places`` (..., k) is among ``size``: booleans, (..., k, size)."""
    return places.unsqueeze(-1) == torch.arange(size, device=places.device)


def _to_simplex(matrix: Tensor, support: Tensor) -> Tensor:
    """Each column moved to the nearest point of the probability simplex over its support."""
    values = matrix.masked_fill(~support, -torch.inf).sort(-2, descending=True).values
    ranks = torch.arange(1, matrix.shape[-2] + 1, dtype=matrix.dtype).unsqueeze(-1)
    excess = (values.clamp_min(-1e300).where(values > -torch.inf, 0.0).cumsum(-2) - 1) / ranks
    count = ((values > excess) & (values > -torch.inf)).sum(-2, keepdim=True)
    return torch.where(support, (matrix - excess.gather(-2, count - 1)).clamp_min(0), 0.0)
