"""Classes whose elements change the basis of a space: rotations, rotary phases, all invertible maps."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from .base import Dense, Paired, check_matrix, check_shape, largest
from .units import Fixed, Permutation

RANK = 1e-12  # singular values below this part of the largest are rounding, float64


class Orthogonal(Dense):
    """An isometry: ``T^T T = 1``, square or into a wider space (arXiv 2506.22712, Table 1, class S3)."""

    words = "any rotation or reflection"
    level = "orthogonal"
    smaller = Permutation

    def dual(self) -> Tensor:
        return self.values

    @classmethod
    def dimensions(cls, n: int) -> int:
        return n * (n - 1) // 2

    @classmethod
    def draw(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        """Uniform (the polar factor of a Gaussian matrix is)."""
        return cls.learn(torch.randn(*batch, m, n, generator=generator, dtype=torch.float64))

    @classmethod
    def flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """A rotation ``exp(t X)``, whose angles reach about half a turn."""
        x = torch.randn(*batch, n, n, generator=generator, dtype=torch.float64) * math.pi / (2 * max(n, 1)) ** 0.5
        x = cls.tangent(x)
        return lambda time: torch.linalg.matrix_exp(time * x)

    @classmethod
    def tangent(cls, x: Tensor) -> Tensor:
        """The part of a matrix along the class, at the identity: ``exp`` of it is a rotation."""
        return (x - x.mT) / 2

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        """The orthogonal Procrustes problem: the polar factor of the cost (arXiv 2506.22712, Eq. 4)."""
        return cls.learn(check_matrix(cost).double())

    @classmethod
    def project(cls, matrix: Tensor) -> Self:
        return cls.solve(matrix)

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        return cls(polar(latent))

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        error = largest(matrix.mT @ matrix - torch.eye(matrix.shape[-1], dtype=matrix.dtype))
        return f"T^T T differs from the identity by {error:.2g}" if error > atol else ""


class Stream(Orthogonal):
    """What maps of a residual stream share: they keep the root mean square, ``T^T T = (M / N) 1`` for M x N.

    Keeping the root *mean* square, a wider network has the same norms with the same epsilon.
    """

    is_stream = True

    def dual(self) -> Tensor:
        return self.values * (self.values.shape[-1] / max(self.values.shape[-2], 1))

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        m, n = matrix.shape[-2:]
        reason = Orthogonal.violation(matrix * (n / max(m, 1)) ** 0.5, atol)
        return reason if m == n else reason.replace("T^T T", f"(N / M) T^T T, with N / M = {n} / {m},")


class StreamOrthogonal(Stream):
    """A map of the residual stream between LayerNorms: it keeps the root mean square and fixes the all-ones vector.

    ``T^T T = (M / N) 1`` and ``T 1 = 1``, for M x N. Fixing the all-ones vector, it commutes with LayerNorm's centring,
    so that stock modules run the moved network.
    """

    words = "any rotation that fixes the all-ones vector"

    @classmethod
    def dimensions(cls, n: int) -> int:
        return super().dimensions(max(n - 1, 0))

    @classmethod
    def tangent(cls, x: Tensor) -> Tensor:
        """Such an X that ``X 1 = 0``, so that ``exp(t X) 1 = 1``."""
        return super().tangent(_centred(x))

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        """Procrustes on the complement of the all-ones vector; exact also where the latent says nothing about it."""
        return cls(fix_ones(latent))

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        error = largest(matrix.sum(-1) - 1) if matrix.shape[-1] else 0.0
        why = f"it moves the all-ones vector by {error:.2g}" if error > atol else ""
        return super().violation(matrix, atol) or why


class RMSOrthogonal(Stream):
    """A map of the residual stream between RMS norms, which subtract no mean: the whole group.

    ``T^T T = (M / N) 1`` for M x N. Square elements are those of :class:`Orthogonal`.
    """

    smaller = StreamOrthogonal

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        return cls(polar(latent) * (latent.shape[-2] / max(latent.shape[-1], 1)) ** 0.5)


def _centred(x: Tensor) -> Tensor:
    """A matrix without its parts along the all-ones vectors of rows and columns."""
    x = x - x.mean(-1, keepdim=True)
    return x - x.mean(-2, keepdim=True)


def fix_ones(matrix: Tensor) -> Tensor:
    """The element of :class:`StreamOrthogonal` nearest to ``matrix`` (..., M, N); differentiable like :func:`polar`.

    Without the all-ones directions on both sides the matrix maps complements to each other; a positive entry between
    the two directions keeps them together, whatever its size.
    """
    check_shape(matrix, "given")
    m, n = matrix.shape[-2:]
    if n == 0:
        return polar(matrix)
    centred = _centred(matrix)
    # any positive number would do; as large as the matrix, it drowns neither in what centring left nor the rest in it
    size = centred.detach().square().sum((-2, -1), keepdim=True).sqrt()
    size = size.maximum(matrix.detach().abs().amax((-2, -1), keepdim=True))
    size = size + (size == 0)
    return (m / n) ** 0.5 * polar(centred + size / (m * n) ** 0.5)


class Invertible(Paired):
    """Any invertible matrix: inside a head only ``QK`` and ``OV`` products are seen (arXiv 2506.22712, Table 1, S4).

    Into a wider space: any matrix of full column rank.
    """

    words = "any change of basis"
    level = "invertible"
    smaller = Orthogonal
    compact = False

    def inverted(self) -> Tensor:
        square = self.values.shape[-1] == self.values.shape[-2]
        return (torch.linalg.inv if square else torch.linalg.pinv)(self.values).mT

    @classmethod
    def dimensions(cls, n: int) -> int:
        return n**2

    @classmethod
    def draw(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        """Two rotations and log-normal singular values, so that the condition number stays moderate."""
        left, right = (Orthogonal.draw(n, wide, generator, batch).matrix() for wide in (m, n))
        scales = torch.randn(*batch, 1, n, generator=generator, dtype=torch.float64).mul(0.5).exp()
        return cls((left * scales) @ right.mT)

    @classmethod
    def flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """``exp(t X)`` for any X: its inverse is ``exp(-t X)``."""
        x = torch.randn(*batch, n, n, generator=generator, dtype=torch.float64) / max(n, 1) ** 0.5
        return lambda time: torch.linalg.matrix_exp(time * x)

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        return cls(Orthogonal.solve(cost).matrix())

    @classmethod
    def project(cls, matrix: Tensor) -> Self:
        """The matrix itself; a singular one is moved by a relative 1e-12 (there is no nearest one)."""
        matrix = check_matrix(matrix).double()
        U, S, Vh = thin_svd(matrix)
        smallest = RANK * torch.where(S[..., :1] > 0, S[..., :1], 1.0)
        singular = (smallest > S).any(-1)[..., None, None]
        return cls(torch.where(singular, (U * S.maximum(smallest).unsqueeze(-2)) @ Vh, matrix))

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        return cls(latent)

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        S = torch.linalg.svdvals(matrix)
        condition = largest(S[..., :1] / S[..., -1:])
        return (
            "" if condition * torch.finfo(S.dtype).eps < 1e-2 else f"it is singular: condition number {condition:.2g}"
        )

    @classmethod
    def likeness(cls, writers: Tensor, readers: Tensor) -> Tensor:
        """The inner product of ``X^T Y`` and ``X'^T Y'``, without computing either."""
        return (writers * readers).sum((-2, -1))

    @classmethod
    def equalise(cls, writers: Tensor, readers: Tensor) -> Self:
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
        _, S, Vh = thin_svd(torch.cat([half, dead], -2))  # P itself would be squared
        return cls.project((Vh.mT * S.unsqueeze(-2)) @ Vh)

    @classmethod
    def meet(cls, writers: Tensor, readers: Tensor) -> tuple[Tensor, Tensor]:
        """Writers are projected on the span of the readers, then readers on that of these writers.

        In a head as wide as the stream some direction always is unseen, because centred weights have a lower rank.
        """
        seen = _onto(readers)
        return seen, _onto(seen @ writers)


def _onto(x: Tensor) -> Tensor:
    """The orthogonal projection on the span of the columns of ``x`` (..., n, a)."""
    small = torch.linalg.qr(x.mT, mode="r").R.mT  # of the same span, and as small as it can be
    U, S, _ = thin_svd(small)
    U = U * (RANK * S[..., :1] < S).unsqueeze(-2)
    return U @ U.mT


def thin_svd(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``U``, ``S``, ``Vh`` of a matrix, or of its transpose: near an orthogonal one LAPACK may not converge on one."""
    try:
        return torch.linalg.svd(x, full_matrices=False)
    except torch.linalg.LinAlgError:
        V, S, Uh = torch.linalg.svd(x.mT, full_matrices=False)
        return Uh.mT, S, V.mT


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Power of a symmetric positive semi-definite matrix on its range; what is below a relative 1e-12 stays zero."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    powers = torch.where(values > RANK * values[..., -1:], values.abs().pow(exponent), 0.0)
    return (vectors * powers.unsqueeze(-2)) @ vectors.mT


class Pairs(Dense):
    """What rotary classes share: dimensions ``j`` and ``j + n / 2`` are a pair, which a complex number multiplies.

    Rotary position embeddings turn each pair of queries and keys by an angle that grows with the position, at a
    frequency of its own. (This is the order of transformers' ``rotate_half``. Dimensions beyond ``rotary_pct`` are a
    site of their own.) The real matrices of n / 2 complex factors are all that commute with these rotations.
    """

    @classmethod
    @abstractmethod
    def from_factors(cls, factors: Tensor) -> Self:
        """The element whose factors (..., n / 2) are the nearest to complex numbers; differentiable."""

    @classmethod
    def obstacle(cls, n: int, m: int) -> str:
        if n % 2:
            return f"rotary positions turn pairs of dimensions, but {n} is odd"
        return "" if m == n else f"each pair of rotary dimensions has its frequency: none is free to map {n} into {m}"

    @classmethod
    def draw(cls, n: int, m: int, generator: torch.Generator, batch: tuple[int, ...]) -> Self:
        return cls(cls.flow(n, generator, batch)(1.0))

    @classmethod
    def flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """Angles, and where there are scales their logarithms, leave 0 in proportion to the time."""
        angles = math.pi * (2 * torch.rand(*batch, n // 2, generator=generator, dtype=torch.float64) - 1)
        logs = torch.randn(*batch, n // 2, generator=generator, dtype=torch.float64).mul(0 if cls.compact else 0.5)
        return lambda time: to_real(torch.exp(time * torch.complex(logs, angles)))

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        """Each pair turns by the angle of its complex number."""
        factors = RotaryPhase.from_factors(to_complex(check_matrix(cost, square=True).double()))
        return cls(factors.matrix())

    @classmethod
    def project(cls, matrix: Tensor) -> Self:
        return cls.from_factors(to_complex(check_matrix(matrix, square=True).double()))

    @classmethod
    def latent(cls, n: int, batch: tuple[int, ...] = ()) -> Tensor:
        """The real parts of all factors, then the imaginary parts, (..., n)."""
        return torch.tensor([1.0, 0.0], dtype=torch.float64).repeat_interleave(n // 2).expand(*batch, n).clone()

    @classmethod
    def learn(cls, latent: Tensor) -> Self:
        return cls.from_factors(torch.complex(*latent.unflatten(-1, (2, latent.shape[-1] // 2)).unbind(-2)))

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        error = largest(matrix - to_real(to_complex(matrix)))
        return f"it does more than to turn and scale pairs, by {error:.2g}" if error > atol else ""


class RotarySign(Pairs):
    """A sign for each pair of rotary dimensions: all that is left where a norm with a gain comes before the rotation.

    Queries and keys that are normed keep their length, so no scale is free. A gain commutes with no turn of a pair,
    unless it is the same for both its dimensions.
    """

    words = "a sign for each pair"
    level = "orthogonal"
    smaller = Fixed
    discrete = True

    def dual(self) -> Tensor:
        return self.values

    @classmethod
    def dimensions(cls, n: int) -> int:
        return 0

    @classmethod
    def from_factors(cls, factors: Tensor) -> Self:
        """The signs of the real parts, whose gradient goes straight through; 0 becomes 1."""
        real = factors.real
        signs = torch.where(real.detach() < 0, -1.0, 1.0).to(real) + (real - real.detach())
        return cls(torch.diag_embed(torch.cat([signs, signs], -1)))

    @classmethod
    def flow(cls, n: int, generator: torch.Generator, batch: tuple[int, ...]) -> Callable[[float], Tensor]:
        """About half of the pairs change their sign, each at a time of its own."""
        times = 2 * torch.rand(*batch, n // 2, generator=generator, dtype=torch.float64)
        return lambda time: cls.from_factors(torch.where(times < time, -1.0, 1.0).to(times)).matrix()

    @classmethod
    def solve(cls, cost: Tensor) -> Self:
        return cls.project(cost)

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        error = largest(to_complex(matrix).real.abs() - 1) + largest(to_complex(matrix).imag)
        why = f"the factor of a pair differs from 1 and -1 by {error:.2g}" if error > atol else ""
        return super().violation(matrix, atol) or why


class RotaryPhase(Pairs):
    """A rotation for each pair of rotary dimensions: the compact part of :class:`Rotary`."""

    words = "a rotation for each pair"
    level = "orthogonal"
    smaller = RotarySign

    def dual(self) -> Tensor:
        return self.values

    @classmethod
    def dimensions(cls, n: int) -> int:
        return n // 2

    @classmethod
    def from_factors(cls, factors: Tensor) -> Self:
        """The factors divided by their sizes; 0 becomes 1."""
        safe = torch.where(factors == 0, 1, factors)
        return cls(to_real(safe / safe.abs()))

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        error = largest(to_complex(matrix).abs() - 1)
        why = f"the scale of a pair differs from 1 by {error:.2g}" if error > atol else ""
        return super().violation(matrix, atol) or why


class Rotary(Pairs):
    """A rotation and a positive scale for each pair of rotary dimensions: all that commutes with rotated positions.

    Inside a head whose queries and keys are turned by their positions this is what :class:`Invertible` is elsewhere.
    """

    words = "a rotation and a scale for each pair"
    level = "invertible"
    smaller = RotaryPhase
    compact = False

    def dual(self) -> Tensor:
        return to_real(1 / to_complex(self.values).conj())

    @classmethod
    def dimensions(cls, n: int) -> int:
        return n

    @classmethod
    def from_factors(cls, factors: Tensor) -> Self:
        """The factors themselves; 0 becomes a relative 1e-12 (there is no nearest one)."""
        smallest = RANK * _most(factors.detach().abs())
        return cls(to_real(torch.where(factors == 0, torch.where(smallest > 0, smallest, RANK), factors)))

    @classmethod
    def violation(cls, matrix: Tensor, atol: float) -> str:
        return super().violation(matrix, atol) or "the scale of a pair is 0" * bool((to_complex(matrix) == 0).any())

    @classmethod
    def likeness(cls, writers: Tensor, readers: Tensor) -> Tensor:
        """The inner product of the circuits of pairs: complex outer products of what writes and what reads each."""
        return 4 * (to_complex(writers).conj() * to_complex(readers)).real.sum(-1)

    @classmethod
    def equalise(cls, writers: Tensor, readers: Tensor) -> Self:
        """Incoming and outgoing weights of each pair get the same norm; a pair without either stays as it is."""
        incoming, outgoing = to_complex(writers).real, to_complex(readers).real
        scales = torch.where((incoming > 0) & (outgoing > 0), (outgoing / incoming) ** 0.25, 1.0)
        return cls(torch.diag_embed(torch.cat([scales, scales], -1)))

    @classmethod
    def meet(cls, writers: Tensor, readers: Tensor) -> tuple[Tensor, Tensor]:
        """A pair that nothing writes or nothing reads is taken out."""
        sizes = [x.unflatten(-2, (2, x.shape[-2] // 2)).square().sum((-3, -1)).sqrt() for x in (writers, readers)]
        alive = torch.stack([size > RANK * _most(size) for size in sizes]).all(0).to(writers)
        seen = torch.diag_embed(torch.cat([alive, alive], -1))
        return seen, seen


def to_complex(matrix: Tensor) -> Tensor:
    """The factors (..., n / 2) of the rotary map nearest to a real matrix (..., n, n), with an error if n is odd."""
    if why := Pairs.obstacle(matrix.shape[-1], matrix.shape[-2]):
        raise ValueError(why)
    half = matrix.shape[-1] // 2
    blocks = matrix.unflatten(-1, (2, half)).unflatten(-3, (2, half)).diagonal(dim1=-3, dim2=-1)  # (..., 2, 2, n / 2)
    real = blocks[..., 0, 0, :] + blocks[..., 1, 1, :]
    return torch.complex(real, blocks[..., 1, 0, :] - blocks[..., 0, 1, :]) / 2


def to_real(factors: Tensor) -> Tensor:
    """The real matrix (..., n, n) that multiplies pairs ``(j, j + n / 2)`` by factors (..., n / 2)."""
    a, b = torch.diag_embed(factors.real), torch.diag_embed(factors.imag)
    return torch.cat([torch.cat([a, -b], -1), torch.cat([b, a], -1)], -2)


def _most(sizes: Tensor) -> Tensor:
    """The largest of the last axis, which stays with one entry, or with none where there is none."""
    return sizes.amax(-1, keepdim=True) if sizes.shape[-1] else sizes


class _Polar(torch.autograd.Function):
    """``U V^T`` of the singular value decomposition, with the derivative that stays finite where torch's is NaN."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        U, S, Vh = thin_svd(x)
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
    check_matrix(x, "given")
    return _Polar.apply(x.to(torch.promote_types(x.dtype, torch.float32)))  # no half type has a decomposition
