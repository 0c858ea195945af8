"""The base class of all classes of symmetry, and the two ways to keep an element: its matrix, or with it the dual.

An *element* ``T`` of a class acts on the activations of one site (say, the hidden units of a layer). Weights that
write the site are multiplied by ``T``, weights that read it by the dual ``T^-T``, and the function stays the same.
A class of symmetry is a Python class, an element is an instance of it. Elements may be batched: one per head.

Rectangular elements map a site into a wider one. Their dual is that of the left inverse: ``dual^T T = 1``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import torch
from torch import Tensor

from ..arguments import choice, count

LEVELS = ("permutation", "orthogonal", "invertible")  # what a matching may be allowed, each includes the ones before
LARGEST = 2**20  # dimensions of a site: more is a slip, and a matrix on so many would take eight terabytes


class Symmetry(ABC):
    """One map ``T`` of the space of a site into the same or a wider one. Subclasses say which maps are allowed.

    A subclass is a dataclass of tensors whose first axes are the batch axes; :class:`Dense` and :class:`Paired` keep a
    matrix. It sets ``level`` and ``smaller``, and the attributes below where they differ from their defaults. It
    defines :meth:`matrix`, :meth:`dual`, :meth:`from_matrix`, :meth:`solve`, :meth:`project`, :meth:`learn` and
    :meth:`dimensions`. Four more methods are called with arguments that are already checked: :meth:`draw` by
    :meth:`sample`, :meth:`flow` by :meth:`walk`, :meth:`violation` by :meth:`contains`, and for a class with scales
    :meth:`equalise` by :meth:`balance`.

    Attributes
    ----------
    level
        The least of ``"permutation"``, ``"orthogonal"``, ``"invertible"`` that admits the class.
    smaller
        The class to fall back to where this one is too large: the largest that it includes, and where it is not
        compact, the largest compact one.
    words
        The elements of the class in a few words, for figures.
    moves
        Whether there are elements other than the identity.
    compact
        Whether the best element for a cost exists. (Scales could grow for ever.)
    discrete
        Whether there is no continuous direction: no element can be moved a little.
    scales
        Whether the elements are positive scales, apart from relabelling. Their latents are logarithms of the scales.
    is_stream
        Whether the site lies between norms: what flows there is compared by its direction, and the site may be widened
        by repeating each of its dimensions.
    relabels
        Whether each new unit comes from one old unit. Other sites may lie within such a site only.
    splits
        Whether one unit may become several (see :class:`SemiPermutation`).
    """

    level: ClassVar[str]
    smaller: ClassVar[type[Symmetry] | None] = None
    words: ClassVar[str] = "a class of its own"
    moves: ClassVar[bool] = True
    compact: ClassVar[bool] = True
    discrete: ClassVar[bool] = False
    scales: ClassVar[bool] = False
    is_stream: ClassVar[bool] = False
    relabels: ClassVar[bool] = False
    splits: ClassVar[bool] = False

    @abstractmethod
    def matrix(self) -> Tensor:
        """``T`` itself, shape (..., M, N), float64."""

    @abstractmethod
    def dual(self) -> Tensor:
        """What happens to weights that read the site, shape (..., M, N): ``T^-T``, so that ``dual^T T = 1``."""

    @classmethod
    @abstractmethod
    def from_matrix(cls, matrix: Tensor) -> Self:
        """The element with this matrix, which is known to belong to the class."""

    @classmethod
    @abstractmethod
    def draw(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        """A random element (m, n)."""

    @classmethod
    @abstractmethod
    def flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """The matrix of a walk at each time in [0, 1]: the identity at 0, and an element of the class at any time."""

    @classmethod
    @abstractmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        """What a finite float64 matrix of a possible shape lacks to belong to the class; empty if nothing."""

    @classmethod
    @abstractmethod
    def solve(cls, cost: Tensor) -> Self:
        """The element that maximises ``<T, cost>``; where the class is not compact, among those of ``smaller``."""

    @classmethod
    @abstractmethod
    def project(cls, matrix: Tensor) -> Self:
        """The element nearest to ``matrix`` in the Frobenius norm."""

    @classmethod
    @abstractmethod
    def learn(cls, latent: Tensor) -> Symmetry:
        """Return the map that a latent encodes, differentiable in it (arXiv 2506.22712, Algorithm 1).

        Its matrix is one of this class; the object may be of another, whose matrices need not be checked at each step.
        """

    @classmethod
    @abstractmethod
    def dimensions(cls, n: int) -> int:
        """In how many independent directions a square element (n, n) can be moved a little; 0 if it cannot."""

    @classmethod
    def latent(cls, n: int, batch: tuple[int, ...] = ()) -> Tensor:
        """Return the free tensor at which learning starts; it encodes the identity. It is empty if nothing moves."""
        return torch.eye(n, dtype=torch.float64).expand(*batch, n, n).clone()

    @classmethod
    def equalise(cls, writers: Tensor, readers: Tensor) -> Self:
        """The element that balances Gram matrices (..., n, n), float64; the identity where there are no scales."""
        return cls.identity(writers.shape[-1], tuple(writers.shape[:-2]))

    @classmethod
    def likeness(cls, writers: Tensor, readers: Tensor) -> Tensor:
        """How alike two sites are, from inner products (..., m, n); the best score where there are no scales."""
        total = writers + readers
        return (cls.solve(total).matrix().to(total) * total).sum((-2, -1))

    @classmethod
    def meet(cls, writers: Tensor, readers: Tensor) -> tuple[Tensor, Tensor] | None:
        """What to project writers and readers of a site on, so that nothing is written that no weight reads.

        Where writers and readers only ever appear as products, what the other side never sees carries no function. It
        would make equal networks look different, so canonical form takes it away.

        Parameters
        ----------
        writers, readers
            Weights (..., n, a) and (..., n, b), floating point, one row for each dimension of the site.

        Returns
        -------
        tuple of Tensor or None
            Two matrices (..., n, n), one for everything that writes and one for everything that reads the site, of the
            dtype of the weights; None where nothing is to be taken away, as in most classes.
        """
        return None

    @classmethod
    def obstacle(cls, n: int, m: int) -> str:
        """Why the class has no map from ``n`` dimensions into ``m``; empty if it has one."""
        return "" if m == n or m > n > 0 else f"no map takes {n} dimensions into {m}"

    @classmethod
    def widening(cls) -> type[Symmetry]:
        """The class of this one's maps into wider sites: its own, but units that are relabelled may also split."""
        return cls

    @classmethod
    def relaxation(cls) -> type[Symmetry] | None:
        """A class of mixtures of this one's elements, which is easier to learn, where there is one."""
        return None

    @classmethod
    def identity(cls, n: int, batch: tuple[int, ...] = ()) -> Self:
        """The map that moves nothing."""
        return cls.from_matrix(torch.eye(n, dtype=torch.float64).expand(*batch, n, n).clone())

    @classmethod
    def product(cls, g: Symmetry, h: Symmetry) -> Self:
        """First ``h``, then ``g``, where it is known to belong to this class."""
        return cls.from_matrix(g.matrix() @ h.matrix())

    def act(self, x: Tensor, axis: int, batch: tuple[int, ...] = ()) -> Tensor:
        """Multiply one axis of ``x`` by ``T``; a batched element has a map for each index of the axes ``batch``."""
        return apply(self.matrix(), x, axis, batch)

    def act_dual(self, x: Tensor, axis: int, batch: tuple[int, ...] = ()) -> Tensor:
        """Multiply one axis of ``x`` by the dual."""
        return apply(self.dual(), x, axis, batch)

    @property
    def shape(self) -> tuple[int, int]:
        """The size of the site after and before, (M, N)."""
        return tuple(self.matrix().shape[-2:])

    @property
    def batch(self) -> tuple[int, ...]:
        """How many maps this is, () for one and (heads,) for one in each head."""
        return tuple(self.matrix().shape[:-2])

    @property
    def owners(self) -> Tensor:
        """The unit that each unit after the map comes from, shape (..., M); an arbitrary one for a new, empty unit."""
        matrix = self.matrix()
        return matrix.argmax(-1) if matrix.shape[-1] else matrix.new_zeros(matrix.shape[:-1], dtype=torch.int64)

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
        return type(self).from_matrix(self.left_inverse())

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

    def take(self, *indices: Tensor) -> Self:
        """Of a batched element the maps with the given indices.

        Parameters
        ----------
        indices
            One tensor of whole numbers for each batch axis, outermost first, which broadcast together as they are.
        """
        kept = (getattr(self, field.name) for field in fields(self))
        return type(self)(*(None if tensor is None else tensor[indices] for tensor in kept))

    @classmethod
    def pad(cls, n: int, m: int, batch: tuple[int, ...] = ()) -> Symmetry:
        """The plainest map into a site of ``m`` dimensions: the identity, and nothing in what is new."""
        if m == n:
            return cls.identity(n, batch)
        return cls.widening().project(torch.eye(m, n, dtype=torch.float64).expand(*batch, m, n))

    @classmethod
    def sample(cls, n: int, generator: torch.Generator, *, m: int | None = None, batch: tuple[int, ...] = ()) -> Self:
        """Draw a random element, into a wider site of ``m`` dimensions if ``m`` is given.

        Raises
        ------
        TypeError
            If an argument is of the wrong type.
        ValueError
            If a size is no possible one, ``m`` is smaller than ``n``, or the class has no map from ``n`` to ``m``.

        Examples
        --------
        >>> import lmc_utils as lmc
        >>> lmc.Orthogonal.sample(3, torch.Generator().manual_seed(0), m=5).shape
        (5, 3)
        """
        m = n if m is None else count("m", m, 0, LARGEST)
        cls._check_draw(n, m, generator, batch)
        return cls.draw(n, m, generator, batch)

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
        cls._check_draw(n, n, generator, batch)
        count("steps", steps)
        flow = cls.flow(n, generator, batch)
        return [cls.from_matrix(flow(k / steps)) for k in range(steps + 1)]

    @classmethod
    def _check_draw(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> None:
        count("n", n, 0, LARGEST)
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator, not a {type(generator).__name__}")
        if not isinstance(batch, tuple):
            raise TypeError(f"batch must be a tuple of whole numbers, not {batch!r}")
        for size in batch:
            count("an entry of batch", size, 0, LARGEST)
        if why := cls.obstacle(n, m):
            raise ValueError(why)

    @classmethod
    def contains(cls, matrix: Tensor, atol: float = 1e-8) -> tuple[bool, str]:
        """Whether ``matrix`` (..., M, N) belongs to the class, and if not, why not."""
        if matrix.ndim < 2 or matrix.shape[-2] < matrix.shape[-1]:
            return False, f"shape {tuple(matrix.shape)} is not that of a map into the same or a wider space"
        if not torch.isfinite(matrix).all():
            return False, "it contains NaN or infinite entries"
        m, n = matrix.shape[-2:]
        why = cls.obstacle(n, m) or cls.violation(matrix.double(), atol)
        return not why, why

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
        writers, readers = check_both(writers, readers, square=True)
        return cls.equalise(writers.double(), readers.double())

    @classmethod
    def alike(cls, writers: Tensor, readers: Tensor) -> Tensor:
        """How alike a site of one network and one of another are, whichever elements of the class move them.

        For a compact class this is the largest score that one of its elements reaches. The score of a class with
        scales would grow for ever. There it is the inner product of what no element changes, the products of writers
        with readers.

        Parameters
        ----------
        writers, readers
            Inner products ``X X'^T`` (..., m, n) of the weights of both networks that write the site, and of those that
            read it. The first network may be wider.

        Returns
        -------
        Tensor
            Shape (...).

        Raises
        ------
        ValueError
            If they are not of one shape, have fewer rows than columns, or are not finite.
        """
        return cls.likeness(*check_both(writers, readers))

    @classmethod
    def restrict(cls, allow: str) -> type[Symmetry]:
        """The largest part of this class that ``allow`` admits."""
        choice("allow", allow, LEVELS)
        return cls if LEVELS.index(cls.level) <= LEVELS.index(allow) else cls.smaller.restrict(allow)

    @classmethod
    def includes(cls, other: type[Symmetry]) -> bool:
        """Whether the square elements of another class belong to this one: it is a subclass, or so of ``smaller``."""
        return issubclass(other, cls) or (cls.smaller is not None and cls.smaller.includes(other))


@dataclass(frozen=True, eq=False)
class Dense(Symmetry):
    """An element that is kept as its matrix.

    Parameters
    ----------
    values
        Shape (..., M, N), with M at least N.

    Raises
    ------
    TypeError, ValueError
        If the matrix is not real or of another shape.
    """

    values: Tensor

    def __post_init__(self) -> None:
        check_shape(self.values, type(self).__name__)

    def matrix(self) -> Tensor:
        return self.values

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> Self:
        return cls(matrix)


@dataclass(frozen=True, eq=False)
class Paired(Dense):
    """An element that also keeps its dual where the matrix alone does not say which one: a rectangular one has many.

    Parameters
    ----------
    values, readers
        The matrix and its dual, (..., M, N); without a dual :meth:`inverted` computes it.
    """

    readers: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.readers is not None:
            check_shape(self.readers, "readers'")
            if self.readers.shape != self.values.shape:
                raise ValueError(f"the dual has shape {tuple(self.readers.shape)}, its map {tuple(self.values.shape)}")

    def dual(self) -> Tensor:
        return self.inverted() if self.readers is None else self.readers

    @abstractmethod
    def inverted(self) -> Tensor:
        """The dual where none is kept."""

    @classmethod
    def product(cls, g: Symmetry, h: Symmetry) -> Self:
        matrix = g.matrix() @ h.matrix()
        kept = matrix.shape[-2] > matrix.shape[-1] or any(
            isinstance(x, Paired) and x.readers is not None for x in (g, h)
        )
        return cls(matrix, g.dual() @ h.dual() if kept else None)


def apply(matrix: Tensor, x: Tensor, axis: int, batch: tuple[int, ...] = ()) -> Tensor:
    """Multiply one axis of ``x`` by a matrix (M, N), or by one of (*B, M, N) for each index of the axes ``batch``."""
    matrix = matrix.to(x)
    if not batch and axis == x.ndim - 1:
        return x @ matrix.mT  # the same as below, but it lies in memory as x does
    if not batch:
        return torch.tensordot(matrix, x, dims=([-1], [axis])).movedim(0, axis)
    moved = to_front(x, axis, batch)
    rest = moved.shape[len(batch) + 1 :]
    result = matrix @ moved.unsqueeze(-1).flatten(len(batch) + 1)
    return from_front(result.reshape(*matrix.shape[:-1], *rest), axis, batch)


def to_front(x: Tensor, axis: int, batch: tuple[int, ...]) -> Tensor:
    """The tensor with the axes ``batch`` first, then ``axis``, then the rest."""
    return x.movedim((*batch, axis), tuple(range(len(batch) + 1)))


def from_front(x: Tensor, axis: int, batch: tuple[int, ...]) -> Tensor:
    """What :func:`to_front` did, undone."""
    return x.movedim(tuple(range(len(batch) + 1)), (*batch, axis))


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


def check_shape(x: Tensor, name: str, square: bool = False) -> None:
    """Raise a TypeError or a ValueError if this is no real matrix (..., M, N) with M at least N, or not ``square``."""
    if not isinstance(x, Tensor) or x.is_complex() or x.dtype == torch.bool:
        raise TypeError(
            f"the {name} matrix must be a tensor of real numbers, not {getattr(x, 'dtype', type(x).__name__)}"
        )
    if x.ndim < 2 or not (x.shape[-2] == x.shape[-1] or x.shape[-2] > x.shape[-1] > 0):
        raise ValueError(
            f"a {name} matrix has at least as many rows as columns, and a column if it has a row, but its shape is "
            f"{tuple(x.shape)}"
        )
    if square and x.shape[-2] != x.shape[-1]:
        raise ValueError(f"the {name} matrix is square, but has shape {tuple(x.shape)}")


def check_matrix(x: Tensor, name: str = "cost", square: bool = False) -> Tensor:
    """A matrix to be decomposed, cut off from its gradient: real, finite, and with as many rows as columns or more.

    Raises
    ------
    TypeError, ValueError
        If it is not; the message calls it by ``name``.
    """
    check_shape(x, name, square)
    if not torch.isfinite(x).all():
        raise ValueError(f"the {name} matrix of shape {tuple(x.shape)} contains NaN or infinite entries")
    return x.detach()


def check_both(writers: Tensor, readers: Tensor, square: bool = False) -> tuple[Tensor, Tensor]:
    """Two matrices that :func:`check_matrix` takes, of one size."""
    writers, readers = (check_matrix(x, name, square) for name, x in (("writers", writers), ("readers", readers)))
    if writers.shape[-2:] != readers.shape[-2:] or (square and writers.shape != readers.shape):
        raise ValueError(f"writers {tuple(writers.shape)} and readers {tuple(readers.shape)} differ in their shape")
    return writers, readers


def largest(x: Tensor) -> float:
    """The largest absolute value of a tensor, 0 if it is empty."""
    return x.abs().max().item() if x.numel() else 0.0
