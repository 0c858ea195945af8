"""Classes of symmetry: what a matrix on one site may be, and how the best one is found.

An *element* ``T`` of a class acts on the activations of one site (say, the hidden units of a layer). Weights that
write the site are multiplied by ``T``, weights that read it by the dual ``T^-T``, and the function stays the same.
A class of symmetry is a Python class, an element is an instance of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Symmetry(ABC):
    """One invertible map ``T`` of the space of a site. Subclasses say which maps are allowed."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """``T`` itself, shape (n, n), float64."""

    @abstractmethod
    def act(self, x: Tensor, axis: int) -> Tensor:
        """Multiply the given axis of ``x`` by ``T``."""

    @abstractmethod
    def act_dual(self, x: Tensor, axis: int) -> Tensor:
        """Multiply the given axis of ``x`` by ``T^-T``: what happens to weights that read the site."""

    @abstractmethod
    def inverse(self) -> Symmetry:
        """``T^-1``, of the same class."""

    @abstractmethod
    def __matmul__(self, other: Symmetry) -> Symmetry:
        """The composition: first ``other``, then ``self``."""

    @classmethod
    @abstractmethod
    def identity(cls, n: int) -> Symmetry:
        """The map that moves nothing."""

    @classmethod
    @abstractmethod
    def sample(cls, n: int, generator: torch.Generator) -> Symmetry:
        """A random element, uniform over the class where that has a meaning."""

    @classmethod
    @abstractmethod
    def solve(cls, cost: Tensor) -> Symmetry:
        """The element that maximises ``<T, cost> = sum_ij T_ij cost_ij``."""

    @classmethod
    @abstractmethod
    def project(cls, matrix: Tensor) -> Symmetry:
        """The element nearest to ``matrix`` in the Frobenius norm."""

    @classmethod
    @abstractmethod
    def contains(cls, matrix: Tensor, atol: float = 1e-8) -> tuple[bool, str]:
        """Whether ``matrix`` belongs to the class, and if not, why not."""


def _check_square(matrix: Tensor, what: str) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{what} must be a square matrix, but has shape {tuple(matrix.shape)}")
    if not torch.isfinite(matrix).all():
        raise ValueError(f"{what} of shape {tuple(matrix.shape)} contains NaN or infinite entries")


@dataclass(frozen=True, eq=False)
class Permutation(Symmetry):
    """A relabelling of units: new unit ``i`` is old unit ``indices[i]``.

    The symmetry of every elementwise non-linearity: ``f(P x) = P f(x)`` (arXiv 2506.22712, Table 1, class S1).
    Kept as indices, because gathering rows is exact and needs no n x n matrix.

    Parameters
    ----------
    indices
        Shape (n,), int64, a permutation of 0..n-1.

    Raises
    ------
    ValueError
        If ``indices`` are not a permutation.
    """

    indices: Tensor

    def __post_init__(self) -> None:
        expected = torch.arange(len(self.indices), device=self.indices.device)
        if self.indices.ndim != 1 or not torch.equal(self.indices.sort().values, expected):
            raise ValueError(f"not a permutation of 0..{len(self.indices) - 1}: {self.indices}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Permutation) and torch.equal(self.indices, other.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def matrix(self) -> Tensor:
        return torch.eye(len(self), dtype=torch.float64, device=self.indices.device)[self.indices]

    def act(self, x: Tensor, axis: int) -> Tensor:
        return x.index_select(axis, self.indices.to(x.device))

    act_dual = act  # P^-T = P

    def inverse(self) -> Permutation:
        return Permutation(self.indices.argsort())

    def __matmul__(self, other: Permutation) -> Permutation:
        return Permutation(other.indices[self.indices])

    @property
    def moved(self) -> int:
        """How many units change their place."""
        return int((self.indices != torch.arange(len(self), device=self.indices.device)).sum())

    @classmethod
    def identity(cls, n: int) -> Permutation:
        return cls(torch.arange(n))

    @classmethod
    def sample(cls, n: int, generator: torch.Generator) -> Permutation:
        return cls(torch.randperm(n, generator=generator))

    @classmethod
    def solve(cls, cost: Tensor) -> Permutation:
        """The linear assignment problem, solved exactly in O(n^3) by SciPy."""
        _check_square(cost, "the cost matrix of an assignment")
        _, columns = linear_sum_assignment(cost.detach().cpu().numpy(), maximize=True)
        return cls(torch.from_numpy(columns))

    @classmethod
    def project(cls, matrix: Tensor) -> Permutation:
        """All permutations have the same norm, so the nearest one is the one with the largest inner product."""
        return cls.solve(matrix)

    @classmethod
    def contains(cls, matrix: Tensor, atol: float = 1e-8) -> tuple[bool, str]:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            return False, f"not square: shape {tuple(matrix.shape)}"
        ones = (matrix - 1).abs() <= atol
        if not (ones | (matrix.abs() <= atol)).all():
            return False, "an entry is neither 0 nor 1"
        if not ((ones.sum(0) == 1).all() and (ones.sum(1) == 1).all()):
            return False, "a row or a column does not hold exactly one 1"
        return True, ""
