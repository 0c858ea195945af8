"""Classes of symmetry: what a matrix on one site may be, and how the best one is found.

An *element* ``T`` of a class acts on the activations of one site (say, the hidden units of a layer). Weights that
write the site are multiplied by ``T``, weights that read it by the dual ``T^-T``, and the function stays the same.
A class of symmetry is a Python class, an element is an instance of it. Elements may be batched: one per head.

Rectangular elements map a site into a wider one. Their dual is that of the left inverse: ``dual^T T = 1``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .arguments import choice, count, number

LEVELS = ("permutation", "orthogonal", "invertible")  # what a matching may be allowed, each includes the ones before
LARGEST = 2**20  # dimensions of a site: more is a slip, and a matrix on so many would take eight terabytes


class Symmetry(ABC):
    """One map ``T`` of the space of a site into the same or a wider one. Subclasses say which maps are allowed."""

    level: ClassVar[str]  # the least of LEVELS that admits the class
    smaller: ClassVar[type[Symmetry] | None] = (
        None  # its largest subgroup; where the class is not compact, the compact one
    )
    compact: ClassVar[bool] = True  # whether the best element for a cost exists (scales could grow for ever)
    discrete: ClassVar[bool] = False  # whether no element can be moved a little: there is no continuous direction
    is_stream: ClassVar[bool] = False  # a map between norms: what flows there is compared by its direction, and the
    # site may be widened by repeating each of its dimensions
    relabels: ClassVar[bool] = False  # whether each unit comes from one unit: only such a site has others inside
    words: ClassVar[str] = "a class of its own"  # its elements in a few words, for figures
    moves: ClassVar[bool] = True  # whether it has elements other than the identity
    scales: ClassVar[bool] = False  # whether it is positive scales, but for relabelling: latents are their logarithms
    splits: ClassVar[bool] = False  # whether a unit may become several: see SemiPermutation.transport, fit, explained

    @abstractmethod
    def matrix(self) -> Tensor:
        """``T`` itself, shape (..., M, N), float64."""

    @abstractmethod
    def dual(self) -> Tensor:
        """What happens to weights that read the site, shape (..., M, N): ``T^-T``, so that ``dual^T T = 1``."""

    def act(self, x: Tensor, axis: int, batch: tuple[int, ...] = ()) -> Tensor:
        """Multiply one axis of ``x`` by ``T``; a batched element has a map for each index of the axes ``batch``."""
        return apply(self.matrix(), x, axis, batch)

    def act_dual(self, x: Tensor, axis: int, batch: tuple[int, ...] = ()) -> Tensor:
        """Multiply one axis of ``x`` by the dual."""
        return apply(self.dual(), x, axis, batch)

    @property
    def shape(self) -> tuple[int, int]:
        """(M, N): the size of the site after and before."""
        return tuple(self.matrix().shape[-2:])

    @property
    def batch(self) -> tuple[int, ...]:
        """How many maps this is: () for one, (heads,) for one in each head."""
        return tuple(self.matrix().shape[:-2])

    def left_inverse(self) -> Tensor:
        """The matrix that undoes ``T``, shape (..., N, M)."""
        return self.dual().mT

    def inverse(self) -> Self:
        """``T^-1``, of the same class.

        Raises
        ------
        ValueError
            If the element is rectangular: then only :meth:`left_inverse` exists, and it is of no class.
        """
        if self.shape[0] != self.shape[1]:
            raise ValueError(f"a map of shape {self.shape} has a left inverse only: what it adds cannot be taken back")
        return type(self)._of(self.left_inverse())

    def __matmul__(self, other: Symmetry) -> Self:
        """The composition, of the class of ``self``: first ``other``, then ``self``.

        Raises
        ------
        TypeError
            If ``other`` is no element of a class of symmetry.
        ValueError
            If ``other`` does not lead to the space that ``self`` maps.
        """
        check_composable(self, other)
        return type(self).product(self, other)

    @classmethod
    def product(cls, g: Symmetry, h: Symmetry) -> Self:
        """First ``h``, then ``g``, where it is known to belong to this class."""
        return cls._of(g.matrix() @ h.matrix())

    @property
    def owners(self) -> Tensor:
        """For each unit after the map the unit that it comes from, shape (..., M); for one from nowhere any."""
        return self.matrix().argmax(-1)

    def take(self, indices: Tensor) -> Self:
        """Of a batched element those of the given heads."""
        kept = (getattr(self, field.name) for field in fields(self))
        return type(self)(*(None if tensor is None else tensor[indices] for tensor in kept))

    @classmethod
    def widening(cls) -> type[Symmetry]:
        """The class of this one's maps into wider sites: its own, but units that are relabelled may also split."""
        return cls

    @classmethod
    def relaxation(cls) -> type[Symmetry] | None:
        """A class of mixtures of this one's elements, which is easier to learn, where there is one."""
        return None

    @classmethod
    def pad(cls, n: int, m: int, batch: tuple[int, ...] = ()) -> Symmetry:
        """The plainest map into a site of ``m`` dimensions: the identity, and nothing in what is new."""
        if m == n:
            return cls.identity(n, batch)
        return cls.widening().project(torch.eye(m, n, dtype=torch.float64).expand(*batch, m, n))

    @classmethod
    @abstractmethod
    def _of(cls, matrix: Tensor) -> Self:
        """The element with this matrix, which is known to belong to the class."""

    @classmethod
    def identity(cls, n: int, batch: tuple[int, ...] = ()) -> Self:
        """The map that moves nothing."""
        return cls._of(torch.eye(n, dtype=torch.float64).expand(*batch, n, n).clone())

    @classmethod
    def sample(cls, n: int, generator: torch.Generator, *, m: int | None = None, batch: tuple[int, ...] = ()) -> Self:
        """Draw a random element, into a wider site of ``m`` dimensions if ``m`` is given.

        Raises
        ------
        TypeError
            If an argument is of the wrong type.
        ValueError
            If a size is no possible one, ``m`` is smaller than ``n``, or the class has no map from ``n`` to ``m``.
        """
        _check_draw(n, generator, batch)
        if m is not None and count("m", m) < n:
            raise ValueError(f"m must be at least n: no map takes {n} dimensions into {m}")
        return cls._sample(n, _dimensions("m", n if m is None else m), generator, batch)

    @classmethod
    @abstractmethod
    def _sample(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        """A random element (m, n) for arguments that are checked already."""

    @classmethod
    def walk(cls, n: int, generator: torch.Generator, steps: int, *, batch: tuple[int, ...] = ()) -> list[Self]:
        """A walk inside the class: ``steps + 1`` elements, from the identity to a random one.

        Parameters
        ----------
        n, batch
            Size of the site, and how many maps it has.
        generator
            Decides where the walk leads.
        steps
            In how many equal steps.

        Raises
        ------
        ValueError
            If there is not at least one step, or a size is no possible one.
        TypeError
            If an argument is of the wrong type.
        """
        _check_draw(n, generator, batch)
        count("steps", steps)
        flow = cls._flow(n, generator, batch)
        return [cls._of(flow(k / steps)) for k in range(steps + 1)]

    @classmethod
    def _flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """The matrix of a walk at each time in [0, 1]. Here units change places, two at a time, as every class allows.

        (Sattolo's shuffle, which ends in a random cycle: no unit stays.)
        """
        order = torch.arange(n).expand(*batch, n)
        orders = [order]
        for last in range(n - 1, 0, -1):
            chosen = torch.randint(last, (*batch, 1), generator=generator)
            pair = torch.cat([chosen, torch.full_like(chosen, last)], -1)
            order = order.scatter(-1, pair, order.gather(-1, pair.flip(-1)))
            orders.append(order)
        return lambda time: Permutation(orders[round(time * (n - 1))]).matrix()

    @classmethod
    @abstractmethod
    def solve(cls, cost: Tensor) -> Self:
        """The element that maximises ``<T, cost>``; where the class is not compact, among those of ``smaller``."""

    @classmethod
    @abstractmethod
    def project(cls, matrix: Tensor) -> Self:
        """The element nearest to ``matrix`` in the Frobenius norm."""

    @classmethod
    def latent(cls, n: int, batch: tuple[int, ...] = ()) -> Tensor:
        """The free tensor at which learning starts: it stands for the identity."""
        return torch.eye(n, dtype=torch.float64).expand(*batch, n, n).clone()

    @classmethod
    @abstractmethod
    def learn(cls, latent: Tensor) -> Symmetry:
        """The map that a latent stands for, differentiable in it (arXiv 2506.22712, Algorithm 1).

        Its matrix is one of this class; the object may be of another, whose matrices need not be checked at each step.
        """

    @classmethod
    def contains(cls, matrix: Tensor, atol: float = 1e-8) -> tuple[bool, str]:
        """Whether ``matrix`` (..., M, N) belongs to the class, and if not, why not."""
        if matrix.ndim < 2 or matrix.shape[-2] < matrix.shape[-1]:
            return False, f"shape {tuple(matrix.shape)} is not that of a map into the same or a wider space"
        if not torch.isfinite(matrix).all():
            return False, "it contains NaN or infinite entries"
        why = cls._violation(matrix.double(), atol)
        return not why, why

    @classmethod
    @abstractmethod
    def _violation(cls, matrix: Tensor, atol: float) -> str:
        """What a finite matrix of a possible shape lacks to belong to the class; empty if nothing."""

    @classmethod
    def balance(cls, writers: Tensor, readers: Tensor) -> Self:
        """The element after which writers and readers of a site have the same Gram matrices: a compact class has none.

        For classes with scales, where a cost alone decides nothing (a larger ``T`` always scores higher): balance both
        networks first, and what is left between them is an element of the compact class ``smaller``.

        Parameters
        ----------
        writers, readers
            Gram matrices ``X X^T`` (..., n, n) of all weights that write and that read the site.

        Raises
        ------
        ValueError
            If they are not square, not of one shape, or not finite.
        """
        writers, readers = (_check(x, name, square=True) for name, x in (("writers", writers), ("readers", readers)))
        if writers.shape != readers.shape:
            raise ValueError(f"writers {tuple(writers.shape)} and readers {tuple(readers.shape)} differ in their shape")
        return cls._balance(writers.double(), readers.double())

    @classmethod
    def _balance(cls, writers: Tensor, readers: Tensor) -> Self:
        """The element that balances Gram matrices which are checked already."""
        return cls.identity(writers.shape[-1], tuple(writers.shape[:-2]))

    @classmethod
    def alike(cls, writers: Tensor, readers: Tensor) -> Tensor:
        """How alike a site of one network and one of another are, whichever elements of the class move them.

        For a compact class the largest score that one of its elements reaches. The score of a class with scales would
        grow for ever: it has the inner product of what no element changes, the products of writers and readers.

        Parameters
        ----------
        writers, readers
            Inner products ``X X'^T`` (..., m, n) of all weights of the one and of the other that write the site, and
            of those that read it; the first may be wider.

        Returns
        -------
        Tensor
            Shape (...).

        Raises
        ------
        ValueError
            If they are not of one size, have fewer rows than columns, or are not finite.
        """
        writers, readers = (_check(x, name) for name, x in (("writers", writers), ("readers", readers)))
        if writers.shape[-2:] != readers.shape[-2:]:
            raise ValueError(f"writers {tuple(writers.shape)} and readers {tuple(readers.shape)} differ in their size")
        return cls._alike(writers, readers)

    @classmethod
    def _alike(cls, writers: Tensor, readers: Tensor) -> Tensor:
        """How alike two sites are, from inner products that are checked already."""
        total = writers + readers
        return (cls.solve(total).matrix().to(total) * total).sum((-2, -1))

    @classmethod
    def meet(cls, writers: Tensor, readers: Tensor) -> tuple[Tensor, Tensor] | None:
        """Projections (*B, n, n) that take away what one side does not see of the other; None if both see all.

        ``writers`` (*B, n, a) and ``readers`` (*B, n, b) hold all that meets at a site. Only products of the two
        matter, and these stay.
        """
        return None

    @classmethod
    def restrict(cls, allow: str) -> type[Symmetry]:
        """The largest part of this class that ``allow`` admits."""
        choice("allow", allow, LEVELS)
        return cls if LEVELS.index(cls.level) <= LEVELS.index(allow) else cls.smaller.restrict(allow)


def apply(matrix: Tensor, x: Tensor, axis: int, batch: tuple[int, ...] = ()) -> Tensor:
    """Multiply one axis of ``x`` by a matrix (M, N), or by one of (*B, M, N) for each index of the axes ``batch``."""
    matrix = matrix.to(x)
    if not batch and axis == x.ndim - 1:
        return x @ matrix.mT  # the same as below, but it lies in memory as x does
    if not batch:
        return torch.tensordot(matrix, x, dims=([-1], [axis])).movedim(0, axis)
    places = (*batch, axis)
    moved = x.movedim(places, tuple(range(len(places))))
    result = matrix @ moved.flatten(len(places)) if moved.ndim > len(places) else matrix @ moved.unsqueeze(-1)
    return result.reshape(*matrix.shape[:-1], *moved.shape[len(places) :]).movedim(tuple(range(len(places))), places)


def check_composable(g: Symmetry, h: Symmetry) -> None:
    """Raise a TypeError or a ValueError that says why no map is "first ``h``, then ``g``"."""
    for element in (g, h):
        if not isinstance(element, Symmetry):
            raise TypeError(f"a map composes with another Symmetry, not with a {type(element).__name__}")
    if g.shape[1] != h.shape[0] or (g.batch and h.batch and g.batch != h.batch):
        (_, n), m = g.shape, h.shape[0]
        raise ValueError(
            f"maps do not compose: the first leads to {(*h.batch, m)}, the second starts at {(*g.batch, n)}"
        )


def _dimensions(name: str, value: int) -> int:
    if count(name, value) > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST}, not {value}")
    return value


def _check_draw(n: int, generator: torch.Generator, batch: tuple[int, ...]) -> None:
    _dimensions("n", n)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, not a {type(generator).__name__}")
    if not isinstance(batch, tuple):
        raise TypeError(f"batch must be a tuple of whole numbers, not {batch!r}")
    for size in batch:
        _dimensions("an entry of batch", size)


def _check_shape(x: Tensor, name: str, square: bool = False) -> None:
    if not isinstance(x, Tensor) or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(
            f"the {name} matrix must be a tensor of real numbers, not {getattr(x, 'dtype', type(x).__name__)}"
        )
    if x.ndim < 2 or x.shape[-2] < x.shape[-1] or 0 in x.shape:
        raise ValueError(
            f"a {name} matrix has at least as many rows as columns, and one, but its shape is {tuple(x.shape)}"
        )
    if square and x.shape[-2] != x.shape[-1]:
        raise ValueError(f"the {name} matrix is square, but has shape {tuple(x.shape)}")


def _check(x: Tensor, name: str = "cost", square: bool = False) -> Tensor:
    """A matrix to be decomposed, cut off from its gradient: real, finite, and with as many rows as columns or more."""
    _check_shape(x, name, square)
    if not torch.isfinite(x).all():
        raise ValueError(f"the {name} matrix of shape {tuple(x.shape)} contains NaN or infinite entries")
    return x.detach()


def _assign(cost: Tensor) -> Tensor:
    """For each column the row that it is assigned to, each row at most once (SciPy solves it exactly); batched."""
    matrix = _check(cost).cpu().double()
    flat = matrix.flatten(0, -3).numpy() if matrix.ndim > 2 else [matrix.numpy()]
    rows = [linear_sum_assignment(c.T, maximize=True)[1] for c in flat]
    return torch.stack([torch.from_numpy(r) for r in rows]).view(*cost.shape[:-2], cost.shape[-1])


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
        if self.indices.ndim < 1 or 0 in self.indices.shape:
            raise ValueError(
                f"a permutation has at least one unit, but its indices have shape {tuple(self.indices.shape)}"
            )
        expected = torch.arange(self.indices.shape[-1], device=self.indices.device).expand_as(self.indices)
        if (wrong := self.indices.sort(-1).values != expected).any():
            first = wrong.nonzero()[0, -1].item()
            raise ValueError(
                f"not a permutation of 0..{self.indices.shape[-1] - 1}: {first} is missing, or another stands twice"
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

    @classmethod
    def widening(cls) -> type[Symmetry]:
        return SemiPermutation

    @classmethod
    def relaxation(cls) -> type[Symmetry]:
        return SoftPermutation

    def act(self, x: Tensor, axis: int, batch: tuple[int, ...] = ()) -> Tensor:
        if not batch:
            return x.index_select(axis, self.indices.to(x.device))
        return super().act(x, axis, batch)

    act_dual = act

    def inverse(self) -> Self:
        return type(self)(self.indices.argsort(-1))

    @classmethod
    def product(cls, g: Symmetry, h: Symmetry) -> Self:
        if not (isinstance(g, Permutation) and isinstance(h, Permutation)):
            return super().product(g, h)
        return cls(h.indices.gather(-1, g.indices))

    @property
    def moved(self) -> int:
        """How many units change their place."""
        return int((self.indices != torch.arange(self.indices.shape[-1], device=self.indices.device)).sum())

    @classmethod
    def _of(cls, matrix: Tensor) -> Self:
        return cls(matrix.argmax(-1))

    @classmethod
    def identity(cls, n: int, batch: tuple[int, ...] = ()) -> Self:
        return cls(torch.arange(n).expand(*batch, n).clone())

    @classmethod
    def _sample(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        if m != n:
            raise ValueError(f"a permutation cannot map {n} units to {m}")
        return cls(torch.rand(*batch, n, generator=generator, dtype=torch.float64).argsort(-1))

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        """The linear assignment problem, solved exactly in O(n^3) by SciPy."""
        return cls(_assign(_check(cost, square=True)).argsort(-1))

    @classmethod
    def project(cls, matrix: Tensor) -> Self:
        """All permutations have the same norm, so the nearest one is the one with the largest inner product."""
        return cls.solve(matrix)

    @classmethod
    def learn(cls, latent: Tensor) -> SoftPermutation:
        """The nearest permutation, whose gradient goes straight through to the latent (arXiv 2209.04836, section 3.3).

        Nothing moves before another assignment overtakes the present one: from the identity about ``0.5 / lr`` steps.
        """
        return SoftPermutation(cls.project(latent).matrix().to(latent) + latent - latent.detach())

    @classmethod
    def _violation(cls, matrix: Tensor, atol: float) -> str:
        if matrix.shape[-1] != matrix.shape[-2]:
            return f"not square: shape {tuple(matrix.shape)}"
        ones = (matrix - 1).abs() <= atol
        if not (ones | (matrix.abs() <= atol)).all():
            return "an entry is neither 0 nor 1"
        if not ((ones.sum(-1) == 1).all() and (ones.sum(-2) == 1).all()):
            return "a row or a column does not hold exactly one 1"
        return ""


@dataclass(frozen=True, eq=False)
class _Matrix(Symmetry):
    """An element that is kept as its matrix, shape (..., M, N)."""

    values: Tensor

    def __post_init__(self) -> None:
        _check_shape(self.values, type(self).__name__)

    def matrix(self) -> Tensor:
        return self.values

    @classmethod
    def _of(cls, matrix: Tensor) -> Self:
        return cls(matrix)


@dataclass(frozen=True, eq=False)
class _Pair(_Matrix):
    """An element that also keeps its dual where the matrix alone does not say which one: a rectangular one has many."""

    readers: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.readers is not None:
            _check_shape(self.readers, "readers'")
            if self.readers.shape != self.values.shape:
                raise ValueError(f"the dual has shape {tuple(self.readers.shape)}, its map {tuple(self.values.shape)}")

    def dual(self) -> Tensor:
        return self._inverse() if self.readers is None else self.readers

    @abstractmethod
    def _inverse(self) -> Tensor:
        """The dual where none is kept."""

    @classmethod
    def product(cls, g: Symmetry, h: Symmetry) -> Self:
        matrix = g.matrix() @ h.matrix()
        kept = matrix.shape[-2] > matrix.shape[-1] or any(
            isinstance(x, _Pair) and x.readers is not None for x in (g, h)
        )
        return cls(matrix, g.dual() @ h.dual() if kept else None)


class SoftPermutation(_Matrix):
    """A doubly stochastic matrix: units are mixed, and the function is *not* the same afterwards.

    A relaxation of :class:`Permutation`, easier to learn (arXiv 2506.22712, appendix D). It belongs to no type table:
    the network that it maps answers differently, so barriers are measured against the network before the map.
    """

    level = "permutation"
    smaller = Permutation

    def dual(self) -> Tensor:
        return self.values

    def inverse(self) -> Self:
        """There is none: raises ValueError."""
        raise ValueError("a mixture of units has no inverse in its class: it loses what it mixes")

    @classmethod
    def _sample(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        if m != n:
            raise ValueError(f"a doubly stochastic matrix is square: it cannot map {n} units to {m}")
        return cls.project(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64).exp())

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        """A linear score is largest at a corner of the polytope, which is a permutation."""
        return cls(Permutation.solve(cost).matrix())

    @classmethod
    def project(cls, matrix: Tensor) -> Self:
        """The nearest in relative entropy, not in the Frobenius norm: rows and columns are normalised in turn."""
        positive = _check(matrix, square=True).double().clamp_min(1e-300)
        return cls(sinkhorn(positive.log(), iterations=20_000))

    @classmethod
    def latent(cls, n: int, batch: tuple[int, ...] = ()) -> Tensor:
        """The identity, but for a hundredth that is spread over each row, so that every entry has a gradient."""
        return torch.log(0.99 * super().latent(n, batch) + 0.01 / n)

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        return cls(sinkhorn(latent))

    @classmethod
    def _violation(cls, matrix: Tensor, atol: float) -> str:
        if matrix.shape[-1] != matrix.shape[-2]:
            return f"not square: shape {tuple(matrix.shape)}"
        if (matrix < -atol).any():
            return "an entry is negative"
        error = max((matrix.sum(axis) - 1).abs().max() for axis in (-1, -2))
        return f"a row or a column sums to one only up to {error:.2g}" if error > atol else ""


def sinkhorn(logits: Tensor, iterations: int = 50, atol: float = 1e-9) -> Tensor:
    """The doubly stochastic matrix (..., n, n) that ``exp(logits)`` becomes: rows and columns normalised in turn.

    In the log domain, so that no entry under- or overflows; stops when the rows sum to one up to ``atol``.

    Raises
    ------
    TypeError, ValueError
        If the logits are no finite square matrices, or an argument is no possible number.
    """
    _check(logits, "logits", square=True)
    count("iterations", iterations, 0)
    number("atol", atol, 0)
    atol = max(atol, 4 * torch.finfo(logits.dtype).eps)
    for _ in range(iterations):
        logits = logits - logits.logsumexp(-1, keepdim=True)
        logits = logits - logits.logsumexp(-2, keepdim=True)
        if (logits.detach().logsumexp(-1).exp() - 1).abs().max() < atol:
            break
    return logits.exp()


class ScaledPermutation(_Pair):
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

    @classmethod
    def widening(cls) -> type[Symmetry]:
        return SemiPermutation

    def _inverse(self) -> Tensor:
        positive = self.values > 0
        return torch.where(positive, 1 / torch.where(positive, self.values, 1.0), 0.0)  # twice: no gradient is NaN

    @classmethod
    def _sample(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        order = Permutation._sample(n, m, generator, batch).matrix()
        scales = torch.randn(*batch, n, 1, generator=generator, dtype=torch.float64).mul(0.5).exp()
        return cls(scales * order)

    @classmethod
    def _flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """Units change places, while their scales leave 1."""
        order = super()._flow(n, generator, batch)
        logs = torch.randn(*batch, n, 1, generator=generator, dtype=torch.float64).mul(0.5)
        return lambda time: (time * logs).exp() * order(time)

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
        positive = _check(matrix, square=True).double().clamp_min(0)
        support = Permutation.solve(positive.square()).matrix()
        return cls(support * positive.clamp_min(torch.finfo(torch.float64).tiny))

    @classmethod
    def _violation(cls, matrix: Tensor, atol: float) -> str:
        if (matrix < 0).any():
            return "an entry is negative"
        if reason := Permutation._violation((matrix > 0).double(), atol):
            return reason.replace("1", "positive entry").replace("neither 0 nor positive entry", "not 0")
        return ""

    @classmethod
    def _alike(cls, writers: Tensor, readers: Tensor) -> Tensor:
        """Each unit has a circuit, ``x^T y``; the best assignment counts."""
        return Permutation._alike(writers * readers, torch.zeros_like(readers))

    @classmethod
    def _balance(cls, writers: Tensor, readers: Tensor) -> Self:
        """Incoming and outgoing weights of each unit get the same norm; a unit without either stays as it is."""
        incoming, outgoing = writers.diagonal(dim1=-2, dim2=-1), readers.diagonal(dim1=-2, dim2=-1)
        scales = torch.where((incoming > 0) & (outgoing > 0), (outgoing / incoming) ** 0.25, 1.0)
        return cls(torch.diag_embed(scales))


class SemiPermutation(_Matrix):
    """Units that split: columns are stochastic, and each row holds at most one positive entry (class S2).

    Column ``j`` says which units of the wider layer unit ``j`` becomes, and with which share of its output. Writers
    are shared out by ``T``; readers are copied by its support ``B = [T > 0]``, and ``B^T T = 1``. It holds for
    positively homogeneous units (ReLU, leaky ReLU; not GELU, not hard-tanh: a share of the input must give that share
    of the output) and for attention heads (arXiv 2506.22712, Table 1; the explicit split is ours).
    """

    level = "permutation"
    relabels = True
    splits = True

    def dual(self) -> Tensor:
        return (self.values > 0).to(self.values)

    @classmethod
    def _sample(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        owners = torch.cat(
            [Permutation.identity(n, batch).indices, torch.randint(n, (*batch, m - n), generator=generator)], -1
        )
        owners = owners.gather(-1, Permutation.sample(m, generator, batch=batch).indices)
        shares = torch.rand(*batch, m, 1, generator=generator, dtype=torch.float64) + 0.1
        weights = shares * torch.nn.functional.one_hot(owners, n)
        return cls(weights / weights.sum(-2, keepdim=True))

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        """A linear score is largest where no unit splits: a rectangular assignment, exactly."""
        rows = _assign(cost)
        return cls(torch.nn.functional.one_hot(rows, cost.shape[-2]).mT.double())

    @classmethod
    def transport(cls, cost: Tensor) -> Self:
        """Optimal transport: every unit splits into as many as any other, up to one, in equal shares.

        Maximises the sum of the costs of all pairs (new unit, old unit). Where M is a multiple of N this is the optimal
        transport between uniform distributions (as in arXiv 1910.05653): an extreme plan gives every new unit to one
        old unit, so that an assignment to M / N copies of each old unit finds it exactly.
        """
        cost = _check(cost).double()
        m, n = cost.shape[-2:]
        spread = cost.max() - cost.min()
        must = torch.where(spread > 0, spread, 1.0) * (m + 1)  # more than anything else could gain, at any scale
        copies = torch.cat([(cost + must).repeat_interleave(m // n, -1), cost], -1)
        old = torch.cat([torch.arange(n).repeat_interleave(m // n), torch.arange(n)])
        places = old[_assign(copies.mT).to(cost.device)]  # for each new unit the copy that it gets
        support = torch.nn.functional.one_hot(places, n).double()
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
        shared, copied = _check(shared, "shared"), _check(copied, "copied")
        writers, readers = (
            _check(x.unsqueeze(-1), name)[..., 0] for name, x in (("writers", writers), ("readers", readers))
        )
        if shared.shape != copied.shape or {writers.shape, readers.shape} != {shared.shape[-1:]}:
            raise ValueError(
                f"shared {tuple(shared.shape)} and copied {tuple(copied.shape)} are (M, N), writers "
                f"{tuple(writers.shape)} and readers {tuple(readers.shape)} (N,): these do not fit"
            )
        best = (shared / writers.clamp_min(torch.finfo(writers.dtype).tiny)).clamp(0, 1)
        gain = cls.explained(best, shared, copied, writers, readers)
        most, owners = gain.max(-1)
        support = torch.nn.functional.one_hot(owners, gain.shape[-1]).bool() & (most > 0).unsqueeze(-1)
        rows = _assign(gain - most.clamp_min(0).unsqueeze(-1)).to(gain.device)
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
        matrix = _check(matrix).double()
        rows, n = _assign(matrix).to(matrix.device), matrix.shape[-1]
        owners = matrix.argmax(-1).scatter(-1, rows, torch.arange(n, device=matrix.device).expand_as(rows))
        assigned = torch.nn.functional.one_hot(rows, matrix.shape[-2]).mT > 0
        support = torch.nn.functional.one_hot(owners, n).bool() & ((matrix > 0) | assigned)
        return cls(_to_simplex(matrix, support))

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        """The nearest element; the gradient of its shares goes straight through to the latent."""
        nearest = cls.project(latent.detach()).matrix().to(latent)
        return cls(nearest + (latent - latent.detach()) * (nearest > 0))

    @classmethod
    def _violation(cls, matrix: Tensor, atol: float) -> str:
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


def _to_simplex(matrix: Tensor, support: Tensor) -> Tensor:
    """Each column moved to the nearest point of the probability simplex over its support."""
    values = matrix.masked_fill(~support, -torch.inf).sort(-2, descending=True).values
    ranks = torch.arange(1, matrix.shape[-2] + 1, dtype=matrix.dtype).unsqueeze(-1)
    excess = (values.clamp_min(-1e300).where(values > -torch.inf, 0.0).cumsum(-2) - 1) / ranks
    count = ((values > excess) & (values > -torch.inf)).sum(-2, keepdim=True)
    return torch.where(support, (matrix - excess.gather(-2, count - 1)).clamp_min(0), 0.0)


class Orthogonal(_Matrix):
    """An isometry: ``T^T T = 1``, square or into a wider space (arXiv 2506.22712, Table 1, class S3)."""

    words = "any rotation or reflection"
    level = "orthogonal"
    smaller = Permutation

    def dual(self) -> Tensor:
        return self.values

    @classmethod
    def _sample(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        """Uniform (the polar factor of a Gaussian matrix is)."""
        return cls(polar(torch.randn(*batch, m, n, generator=generator, dtype=torch.float64)))

    @classmethod
    def _flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """A rotation ``exp(t X)``, whose angles reach about half a turn."""
        x = cls._skew(torch.randn(*batch, n, n, generator=generator, dtype=torch.float64)) * math.pi / (2 * n) ** 0.5
        return lambda time: torch.linalg.matrix_exp(time * x)

    @classmethod
    def _skew(cls, x: Tensor) -> Tensor:
        """The part of a matrix along the class, at the identity: ``exp`` of it is a rotation."""
        return (x - x.mT) / 2

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        """The orthogonal Procrustes problem: the polar factor of the cost (arXiv 2506.22712, Eq. 4)."""
        return cls(polar(_check(cost).double()))

    @classmethod
    def project(cls, matrix: Tensor) -> Self:
        return cls.solve(matrix)

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        return cls(polar(latent))

    @classmethod
    def _violation(cls, matrix: Tensor, atol: float) -> str:
        error = (matrix.mT @ matrix - torch.eye(matrix.shape[-1], dtype=matrix.dtype)).abs().max()
        return f"T^T T differs from the identity by {error:.2g}" if error > atol else ""


class StreamOrthogonal(Orthogonal):
    """A map of the residual stream between norms: it keeps the root mean square and fixes the all-ones vector.

    ``T^T T = (M / N) 1`` and ``T 1 = 1``, for M x N. Keeping the root *mean* square, a wider network has the same norms
    with the same epsilon. Fixing the all-ones vector, it commutes with LayerNorm's centring, so that stock modules run
    the moved network.
    """

    words = "any rotation that fixes the all-ones vector"
    is_stream = True

    def dual(self) -> Tensor:
        return self.values * (self.values.shape[-1] / self.values.shape[-2])

    @classmethod
    def _sample(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        return cls.solve(torch.randn(*batch, m, n, generator=generator, dtype=torch.float64))

    @classmethod
    def _skew(cls, x: Tensor) -> Tensor:
        """Such an X that ``X 1 = 0``, so that ``exp(t X) 1 = 1``."""
        centred = x - x.mean(-1, keepdim=True)
        return super()._skew(centred - centred.mean(-2, keepdim=True))

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        """Procrustes on the complement of the all-ones vector; exact also where the cost says nothing about it."""
        return cls(fix_ones(_check(cost).double()))

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        return cls(fix_ones(latent))

    @classmethod
    def _violation(cls, matrix: Tensor, atol: float) -> str:
        m, n = matrix.shape[-2:]
        if reason := Orthogonal._violation(matrix * (n / m) ** 0.5, atol):
            return reason if m == n else reason.replace("T^T T", f"(N / M) T^T T, with N / M = {n} / {m},")
        error = (matrix.sum(-1) - 1).abs().max()
        return f"it moves the all-ones vector by {error:.2g}" if error > atol else ""


def fix_ones(matrix: Tensor) -> Tensor:
    """The element of :class:`StreamOrthogonal` nearest to ``matrix`` (..., M, N); differentiable like :func:`polar`.

    Without the all-ones directions on both sides the matrix maps complements to each other; a positive entry between
    the two directions keeps them together, whatever its size.
    """
    _check_shape(matrix, "given")
    m, n = matrix.shape[-2:]
    centred = matrix - matrix.mean(-1, keepdim=True)
    centred = centred - centred.mean(-2, keepdim=True)
    # any positive number would do; as large as the matrix, it drowns neither in what centring left nor the rest in it
    size = centred.detach().square().sum((-2, -1), keepdim=True).sqrt()
    size = size.maximum(matrix.detach().abs().amax((-2, -1), keepdim=True))
    size = size + (size == 0)
    return (m / n) ** 0.5 * polar(centred + size / (m * n) ** 0.5)


def _onto(x: Tensor) -> Tensor:
    """The projection (*B, n, n) on the range of ``x`` (*B, n, a)."""
    small = torch.linalg.qr(x.mT, mode="r").R.mT  # of the same range, and as small as it can be
    return small @ torch.linalg.pinv(small, rtol=1e-12)


class Invertible(_Pair):
    """Any invertible matrix: inside a head only ``QK`` and ``OV`` products are seen (arXiv 2506.22712, Table 1, S4).

    Into a wider space: any matrix of full column rank.
    """

    words = "any change of basis"
    level = "invertible"
    smaller = Orthogonal
    compact = False

    @classmethod
    def meet(cls, writers: Tensor, readers: Tensor) -> tuple[Tensor, Tensor]:
        """In a head as wide as the stream some direction always is unseen, because centred weights have a lower rank.

        What lies there would be left to chance when networks are compared.
        """
        seen = _onto(readers)
        return seen, _onto(seen @ writers)

    def _inverse(self) -> Tensor:
        square = self.values.shape[-1] == self.values.shape[-2]
        return (torch.linalg.inv if square else torch.linalg.pinv)(self.values).mT

    @classmethod
    def _sample(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        """Two rotations and log-normal singular values, so that the condition number stays moderate."""
        left, right = (Orthogonal.sample(n, generator, m=wide, batch=batch).matrix() for wide in (m, n))
        scales = torch.randn(*batch, 1, n, generator=generator, dtype=torch.float64).mul(0.5).exp()
        return cls((left * scales) @ right.mT)

    @classmethod
    def _flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """``exp(t X)`` for any X: its inverse is ``exp(-t X)``."""
        x = torch.randn(*batch, n, n, generator=generator, dtype=torch.float64) / n**0.5
        return lambda time: torch.linalg.matrix_exp(time * x)

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        return cls(Orthogonal.solve(cost).matrix())

    @classmethod
    def project(cls, matrix: Tensor) -> Self:
        """The matrix itself; a singular one is moved by a relative 1e-12 (there is no nearest one)."""
        matrix = _check(matrix).double()
        U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
        smallest = 1e-12 * torch.where(S[..., :1] > 0, S[..., :1], 1.0)
        return cls(
            torch.where((S[..., -1:] >= smallest).unsqueeze(-1), matrix, (U * S.maximum(smallest).unsqueeze(-2)) @ Vh)
        )

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        return cls(latent)

    @classmethod
    def _violation(cls, matrix: Tensor, atol: float) -> str:
        condition = torch.linalg.cond(matrix).max()
        return (
            ""
            if condition * torch.finfo(matrix.dtype).eps < 1e-2
            else f"it is singular: condition number {condition:.2g}"
        )

    @classmethod
    def _alike(cls, writers: Tensor, readers: Tensor) -> Tensor:
        """The inner product of ``X^T Y`` and ``X'^T Y'``, without computing either."""
        return (writers * readers).sum((-2, -1))

    @classmethod
    def _balance(cls, writers: Tensor, readers: Tensor) -> Self:
        """``T`` with ``T G T^T = T^-T H T^-1``: the square root of the geometric mean of ``G^-1`` and ``H``.

        The mean is ``P = H^1/2 (H^1/2 G H^1/2)^-1/2 H^1/2``, which inverts nothing that is not both written and read.
        Directions that lack either carry no function, and no weights in a canonical network; ``T`` must not be
        singular there, so ``P`` is completed by the projection on the kernel of ``P G``: ``P G P = H`` stays true.
        """
        G, H = writers, readers
        root = _power(H, 0.5)
        half = _power(root @ G @ root, -0.25) @ root  # half^T half = P
        live = half @ G
        dead = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device) - torch.linalg.pinv(live, rtol=1e-9) @ live
        _, S, Vh = torch.linalg.svd(torch.cat([half, dead], -2), full_matrices=False)  # P itself would be squared
        return cls.project((Vh.mT * S.unsqueeze(-2)) @ Vh)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Power of a symmetric positive semi-definite matrix on its range; what is below a relative 1e-12 stays zero."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    powers = torch.where(values > 1e-12 * values[..., -1:], values.abs().pow(exponent), 0.0)
    return (vectors * powers.unsqueeze(-2)) @ vectors.mT


class _Polar(torch.autograd.Function):
    """``U V^T`` of the singular value decomposition, with the derivative that stays finite where torch's is NaN."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        U, S, Vh = torch.linalg.svd(x, full_matrices=False)
        ctx.save_for_backward(U, S, Vh)
        return U @ Vh

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        U, S, Vh = ctx.saved_tensors
        tiny = torch.finfo(S.dtype).eps * S[..., :1].unsqueeze(-1) + torch.finfo(S.dtype).tiny
        inner = U.mT @ grad @ Vh.mT
        skew = (inner - inner.mT) / (S.unsqueeze(-1) + S.unsqueeze(-2)).clamp_min(tiny)
        result = U @ skew @ Vh
        if U.shape[-2] > U.shape[-1]:  # rectangular: the part of the gradient that leaves the range of U
            outside = grad - U @ (U.mT @ grad)
            result = result + (outside @ Vh.mT / S.unsqueeze(-2).clamp_min(tiny)) @ Vh
        return result


def polar(x: Tensor) -> Tensor:
    """The orthogonal polar factor of ``x`` (..., M, N), M >= N: the nearest isometry, differentiable where unique.

    Its derivative in closed form, ``U [(M - M^T) / (s_i + s_j)] V^T`` with ``M = U^T G V``, needs sums of singular
    values only. (torch differentiates the factors U and V one by one, divides by differences, and is NaN at the
    identity.)

    Raises
    ------
    TypeError, ValueError
        If ``x`` is not real, not finite, or has fewer rows than columns.
    """
    _check(x, "given")
    return _Polar.apply(x.to(torch.promote_types(x.dtype, torch.float32)))  # no half type has a decomposition


def newton_schulz(x: Tensor, iterations: int = 12) -> Tensor:
    """The polar factor by matrix products alone: ``Q <- 1.5 Q - 0.5 Q Q^T Q`` from ``x / |x|``; much faster than SVD.

    Accurate to rounding where the singular values of ``x`` are close together, as those of a latent that started at
    the identity are; a small singular value needs more iterations, and a zero one stays zero.
    """
    q = x / torch.linalg.matrix_norm(x, 2, keepdim=True)
    for _ in range(iterations):
        q = 1.5 * q - 0.5 * q @ (q.mT @ q)
    return q



def to_complex(x):
    """(..., d, d) to (..., d/2): its nearest commuting map, one complex number for each pair (j, j + d/2)."""
    h = x.shape[-1] // 2
    block = lambda i, j: x[..., i * h : (i + 1) * h, j * h : (j + 1) * h].diagonal(dim1=-2, dim2=-1)
    return torch.complex(block(0, 0) + block(1, 1), block(1, 0) - block(0, 1)) / 2


def to_real(z):
    a, b = torch.diag_embed(z.real), torch.diag_embed(z.imag)
    return torch.cat([torch.cat([a, -b], -1), torch.cat([b, a], -1)], -2)


class Fixed(Permutation):
    moves=False
    """Nothing moves."""

    @classmethod
    def sample(cls, n, generator, *, m=None, batch=()):
        return cls.identity(n, batch)

    @classmethod
    def solve(cls, cost):
        return cls.identity(cost.shape[-1], tuple(cost.shape[:-2]))

    words = "nothing moves"
    project = solve

    @classmethod
    def learn(cls, latent):
        return cls.solve(latent)


class RotaryPhase(Orthogonal):
    """One phase for each pair: rotations that commute with all rotary rotations."""

    words = "one angle for each pair"
    smaller = Fixed

    @classmethod
    def sample(cls, n, generator, *, m=None, batch=()):
        angles = 2 * torch.pi * torch.rand(*batch, n // 2, generator=generator, dtype=torch.float64)
        return cls(to_real(torch.polar(torch.ones_like(angles), angles)))

    @classmethod
    def solve(cls, cost):
        return cls.learn(cost.double())

    @classmethod
    def learn(cls, latent):
        z = to_complex(latent)
        return cls(to_real(z / z.abs().clamp_min(1e-30)))

    @classmethod
    def _violation(cls, matrix, atol):
        off = (matrix - to_real(to_complex(matrix))).abs().max()
        return f"it mixes frequencies by {off:.2g}" if off > atol else super()._violation(matrix, atol)


class Rotary(Invertible):
    @classmethod
    def _alike(cls,w,r):
        return (to_complex(w).conj()*to_complex(r)).real.sum(-1)*4

    """One complex number for each pair: all that commutes with rotary positions (convention rotate_half)."""

    words = "one complex number for each pair"
    smaller = RotaryPhase

    @classmethod
    def sample(cls, n, generator, *, m=None, batch=()):
        scales = torch.randn(*batch, n // 2, generator=generator, dtype=torch.float64).mul(0.5).exp()
        return cls(RotaryPhase.sample(n, generator, batch=batch).matrix() * torch.cat([scales, scales], -1).unsqueeze(-1))

    @classmethod
    def solve(cls, cost):
        return cls(RotaryPhase.solve(cost).matrix())

    @classmethod
    def project(cls, matrix):
        return cls(to_real(to_complex(matrix.double())))

    @classmethod
    def learn(cls, latent):
        return cls(to_real(to_complex(latent)))

    @classmethod
    def _violation(cls, matrix, atol):
        off = (matrix - to_real(to_complex(matrix))).abs().max()
        return f"it mixes frequencies by {off:.2g}" if off > atol else super()._violation(matrix, atol)

    @classmethod
    def balance(cls, writers, readers):
        w, r = (to_complex(x.double()).real for x in (writers, readers))
        scale = torch.where((w > 0) & (r > 0), (r / w.clamp_min(1e-300)) ** 0.25, 1.0)
        return cls(to_real(scale.to(torch.complex128)))


class RMSOrthogonal(Orthogonal):
    """A map of a stream between RMSNorms: it keeps the root mean square, and moves the all-ones vector as it likes."""

    words = "any rotation or reflection"

    def dual(self):
        return self.values * (self.values.shape[-1] / self.values.shape[-2])

    @classmethod
    def sample(cls, n, generator, *, m=None, batch=()):
        return cls.solve(torch.randn(*batch, m or n, n, generator=generator, dtype=torch.float64))

    @classmethod
    def solve(cls, cost):
        return cls.learn(cost.double())

    @classmethod
    def learn(cls, latent):
        return cls((latent.shape[-2] / latent.shape[-1]) ** 0.5 * polar(latent))

    @classmethod
    def _violation(cls, matrix, atol):
        return Orthogonal._violation(matrix * (matrix.shape[-1] / matrix.shape[-2]) ** 0.5, atol)
