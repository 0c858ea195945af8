"""Laws of the symmetry classes, the same for all of them, and their solvers against brute force."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmc_utils.symmetry import (
    Fixed,
    Invertible,
    Orthogonal,
    Permutation,
    RMSOrthogonal,
    Rotary,
    RotaryPhase,
    RotarySign,
    ScaledPermutation,
    SemiPermutation,
    SoftPermutation,
    StreamOrthogonal,
    Symmetry,
    fix_ones,
    polar,
    sinkhorn,
)
from lmc_utils.symmetry.bases import thin_svd, to_real

UNITS = [Fixed, Permutation, ScaledPermutation, SemiPermutation]
BASES = [Orthogonal, RMSOrthogonal, StreamOrthogonal, RotarySign, RotaryPhase, Rotary, Invertible]
GROUPS = [*UNITS, *BASES]
WIDENING = [cls for cls in GROUPS if not cls.obstacle(4, 5)]  # these also map into wider sites
MOVING = [cls for cls in [*GROUPS, SoftPermutation] if cls.moves]
every_group = pytest.mark.parametrize("cls", GROUPS)
every_class = pytest.mark.parametrize("cls", [*GROUPS, SoftPermutation])  # mixing units cannot be undone: a semigroup
sizes, seeds, batches = st.integers(0, 9), st.integers(0, 2**31), st.sampled_from([(), (1,), (3,), (2, 3), (2, 0)])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fitting(cls: type[Symmetry], n: int) -> int:
    """The next size that the class allows: rotary dimensions come in pairs."""
    return n + bool(cls.obstacle(n, n))


def same(x: torch.Tensor, y: torch.Tensor) -> bool:
    return torch.allclose(x, y, atol=1e-9)


@every_class
@given(n=sizes, seed=seeds, batch=batches)
def test_samples_belong_to_the_class(cls, n, seed, batch):
    n = fitting(cls, n)
    inside, why = cls.contains(cls.sample(n, generator(seed), batch=batch).matrix())
    assert inside, why
    assert cls.contains(cls.identity(n, batch).matrix())[0]


@pytest.mark.parametrize("cls", WIDENING)
@given(n=st.integers(1, 9), extra=st.integers(0, 5), seed=seeds, batch=batches)
def test_wide_samples_belong_to_the_class_and_have_a_left_inverse(cls, n, extra, seed, batch):
    g = cls.sample(n, generator(seed), m=n + extra, batch=batch)
    assert g.shape == (n + extra, n)
    inside, why = cls.contains(g.matrix())
    assert inside, why
    assert same(g.left_inverse() @ g.matrix(), torch.eye(n, dtype=torch.float64).expand(*batch, n, n))
    if extra:
        with pytest.raises(ValueError, match="has a left inverse only"):
            g.inverse()


@every_class
@given(n=sizes, seed=seeds, steps=st.integers(1, 7), batch=batches)
def test_a_walk_stays_inside_the_class(cls, n, seed, steps, batch):
    n = fitting(cls, n)
    walk = cls.walk(n, generator(seed), steps, batch=batch)
    assert len(walk) == steps + 1
    assert torch.equal(walk[0].matrix(), cls.identity(n, batch).matrix())
    for element in walk:
        inside, why = cls.contains(element.matrix())
        assert inside, why
    again = cls.walk(n, generator(seed), steps, batch=batch)
    assert all(torch.equal(x.matrix(), y.matrix()) for x, y in zip(walk, again, strict=True))


@pytest.mark.parametrize("cls", MOVING)
def test_a_walk_leads_somewhere(cls):
    n = fitting(cls, 9)
    end, other = (cls.walk(n, generator(seed), 5, batch=(2,))[-1].matrix() for seed in (0, 1))
    for one, two in ((end, cls.identity(n, (2,)).matrix()), (end, other), (end[0], end[1])):
        assert (one - two).norm() > 1
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        cls.walk(n, generator(0), 0)


@pytest.mark.parametrize("cls", [cls for cls in BASES if not cls.discrete])
@given(n=sizes, seed=seeds, batch=batches)
def test_continuous_classes_walk_along_one_parameter_families(cls, n, seed, batch):
    n = fitting(cls, n)
    _, first, second, third = (g.matrix() for g in cls.walk(n, generator(seed), 3, batch=batch))
    assert same(first @ first, second)
    assert same(first @ second, third)


@given(n=sizes, seed=seeds)
def test_permutations_walk_one_exchange_at_a_time(n, seed):
    walk = Permutation.walk(n, generator(seed), max(1, n - 1))
    assert all((g.inverse() @ h).moved in (0, 2) for g, h in itertools.pairwise(walk))
    assert walk[-1].moved == (n if n > 1 else 0), "no unit stays"


@every_class
@given(n=sizes, seed1=seeds, seed2=seeds, batch=batches)
def test_the_class_is_closed(cls, n, seed1, seed2, batch):
    n = fitting(cls, n)
    g, h = cls.sample(n, generator(seed1), batch=batch), cls.sample(n, generator(seed2), batch=batch)
    assert same((g @ h).matrix(), g.matrix() @ h.matrix())
    assert cls.contains((g @ h).matrix())[0]


@every_group
@given(n=sizes, seed=seeds, batch=batches)
def test_the_class_has_inverses(cls, n, seed, batch):
    n = fitting(cls, n)
    g = cls.sample(n, generator(seed), batch=batch)
    assert same((g.inverse() @ g).matrix(), cls.identity(n, batch).matrix())
    assert cls.contains(g.inverse().matrix())[0]


def test_what_mixes_units_has_no_inverse():
    with pytest.raises(ValueError, match="loses what it mixes"):
        SoftPermutation.sample(3, generator(0)).inverse()


@every_group
@given(n=sizes, seed=seeds)
def test_writers_move_by_the_matrix_and_readers_by_its_dual(cls, n, seed):
    n = fitting(cls, n)
    g, x = cls.sample(n, generator(seed)), torch.randn(3, n, 2, generator=generator(seed), dtype=torch.float64)
    assert same(g.act(x, 1), torch.einsum("ij,ajb->aib", g.matrix(), x))
    assert same(g.act_dual(x, 1), torch.einsum("ij,ajb->aib", torch.linalg.inv(g.matrix()).mT, x))


@every_class
@given(n=sizes, seed=seeds)
def test_a_batched_element_acts_on_each_head_alone(cls, n, seed):
    n = fitting(cls, n)
    g = cls.sample(n, generator(seed), batch=(4,))
    x = torch.randn(2, n, 4, generator=generator(seed), dtype=torch.float64)
    for h in range(4):
        one = cls.from_matrix(g.matrix()[h])
        assert same(g.act(x, 1, (2,))[..., h], one.act(x[..., h], 1))
        assert same(g.act_dual(x, 1, (2,))[..., h], one.act_dual(x[..., h], 1))
        assert same(g.take(torch.tensor([h])).matrix()[0], one.matrix())


@every_class
@given(n=sizes, seed=seeds, batch=batches)
def test_projection_leaves_elements_where_they_are(cls, n, seed, batch):
    n = fitting(cls, n)
    g = cls.sample(n, generator(seed), batch=batch)
    assert same(cls.project(g.matrix()).matrix(), g.matrix())


@pytest.mark.parametrize("cls", WIDENING)
@given(n=st.integers(1, 9), extra=st.integers(0, 4), seed=seeds)
def test_projection_lands_in_the_class(cls, n, extra, seed):
    matrix = torch.randn(n + extra, n, generator=generator(seed), dtype=torch.float64)
    once = cls.project(matrix)
    inside, why = cls.contains(once.matrix())
    assert inside, why
    assert same(cls.project(once.matrix()).matrix(), once.matrix())


@pytest.mark.parametrize("cls", [cls for cls in GROUPS if cls is not SemiPermutation])
@given(n=st.integers(1, 5), seed=seeds)
def test_no_sampled_element_is_nearer_than_the_projection(cls, n, seed):
    n = fitting(cls, n)
    matrix = torch.randn(n, n, generator=generator(seed), dtype=torch.float64)
    nearest = (cls.project(matrix).matrix() - matrix).norm()
    for other in range(20):
        assert (cls.sample(n, generator(other)).matrix() - matrix).norm() >= nearest - 1e-9


@pytest.mark.parametrize("cls", [Permutation, ScaledPermutation, SoftPermutation])
@given(n=st.integers(1, 6), seed=seeds)
def test_the_assignment_is_optimal(cls, n, seed):
    cost = torch.randn(n, n, generator=generator(seed), dtype=torch.float64)
    best = max(sum(cost[i, p[i]] for i in range(n)) for p in itertools.permutations(range(n)))
    assert (cls.solve(cost).matrix() * cost).sum() == pytest.approx(best.item())


@given(n=st.integers(1, 6), seed=seeds)
def test_no_mixture_scores_more_than_the_best_permutation(n, seed):
    cost = torch.randn(n, n, generator=generator(seed), dtype=torch.float64)
    best = (SoftPermutation.solve(cost).matrix() * cost).sum()
    for other in range(20):
        assert (SoftPermutation.sample(n, generator(other)).matrix() * cost).sum() <= best + 1e-9


@given(n=sizes, seed=seeds)
def test_a_positive_matrix_is_projected_onto_the_doubly_stochastic_ones(n, seed):
    once = SoftPermutation.project(torch.rand(n, n, generator=generator(seed), dtype=torch.float64) + 1e-3)
    assert SoftPermutation.contains(once.matrix()) == (True, "")
    assert same(SoftPermutation.project(once.matrix()).matrix(), once.matrix())


@every_class
@given(n=sizes, batch=batches)
def test_learning_starts_at_the_identity(cls, n, batch):
    n = fitting(cls, n)
    start = cls.learn(cls.latent(n, batch)).matrix()
    near = 0.02 if cls is SoftPermutation else 1e-9  # nowhere zero, so that every entry has a gradient
    assert torch.allclose(start, cls.identity(n, batch).matrix(), atol=near)


@every_group
@given(n=st.integers(0, 5))
def test_dimensions_are_the_directions_in_which_learning_can_move(cls, n):
    n = fitting(cls, n)
    start, step = cls.latent(n), 1e-5
    moves = [step * x.view(start.shape) for x in torch.eye(start.numel(), dtype=torch.float64)]
    rows = [(cls.learn(start + move).matrix() - cls.learn(start - move).matrix()).flatten() for move in moves]
    rank = torch.linalg.matrix_rank(torch.stack(rows) / step, atol=1e-5).item() if rows else 0
    assert cls.dimensions(n) == rank


@every_class
@given(n=sizes, seed=seeds, batch=batches)
def test_whatever_the_latent_what_it_stands_for_belongs_to_the_class(cls, n, seed, batch):
    n = fitting(cls, n)
    latent = torch.randn(cls.latent(n, batch).shape, generator=generator(seed), dtype=torch.float64)
    near = 1e-2 if cls is SoftPermutation else 1e-8  # its rows and columns are normalised a few times only
    inside, why = cls.contains(cls.learn(latent).matrix(), near)
    assert inside, why


@pytest.mark.parametrize("cls", MOVING)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_learning_has_a_direction_to_start_in(cls, dtype):
    latent = cls.latent(4, (3,)).to(dtype).requires_grad_()
    learned = cls.learn(latent).matrix()
    (learned * torch.randn(3, 4, 4, generator=generator(0), dtype=dtype)).sum().backward()
    assert learned.dtype == latent.grad.dtype == dtype
    assert latent.grad.isfinite().all()
    assert (latent.grad.flatten(1).abs().amax(1) > 1e-3).all()  # of each head


@given(n=st.integers(1, 4), extra=st.integers(0, 2), seed=seeds)
def test_the_best_semi_permutation_does_not_split(n, extra, seed):
    cost = torch.randn(n + extra, n, generator=generator(seed), dtype=torch.float64)
    found = SemiPermutation.solve(cost)
    assert SemiPermutation.contains(found.matrix())[0]
    best = max(sum(cost[r[j], j] for j in range(n)) for r in itertools.permutations(range(n + extra), n))
    assert (found.matrix() * cost).sum() == pytest.approx(best.item())
    for other in range(20):
        assert (SemiPermutation.sample(n, generator(other), m=n + extra).matrix() * cost).sum() <= best + 1e-9


@pytest.mark.parametrize("cls", [Orthogonal, RMSOrthogonal, StreamOrthogonal, Invertible])
@given(n=st.integers(1, 6), extra=st.integers(0, 3), seed=seeds)
def test_procrustes_is_optimal(cls, n, extra, seed):
    cost = torch.randn(n + extra, n, generator=generator(seed), dtype=torch.float64)
    best = (cls.solve(cost).matrix() * cost).sum()
    compact = cls if cls.compact else cls.smaller
    for other in range(20):
        assert (compact.sample(n, generator(other), m=n + extra).matrix() * cost).sum() <= best + 1e-9


@given(n=st.integers(2, 8), extra=st.integers(0, 3), seed=seeds)
def test_the_residual_map_is_exact_where_the_cost_is_blind(n, extra, seed):
    x = torch.randn(n + extra, n, generator=generator(seed), dtype=torch.float64)
    centred = x - x.mean(1, keepdim=True)
    blind = centred - centred.mean(0, keepdim=True)  # says nothing about the all-ones vector: rank n - 1
    found = StreamOrthogonal.solve(blind).matrix()
    assert StreamOrthogonal.contains(found, atol=1e-9)[0]
    assert same(found, StreamOrthogonal.solve(1e3 * blind).matrix())


@pytest.mark.parametrize("cls", [ScaledPermutation, Rotary, Invertible])
@given(n=st.integers(0, 6), seed=seeds)
def test_balance_makes_writers_and_readers_equally_large(cls, n, seed):
    n = fitting(cls, n)
    x, y = torch.randn(2, n, n + 4, generator=generator(seed), dtype=torch.float64)
    g = cls.balance(x @ x.T, y @ y.T)
    assert cls.contains(g.matrix())[0]
    writers, readers = g.act(x, 0), g.act_dual(y, 0)
    left, right = writers @ writers.T, readers @ readers.T
    if cls is ScaledPermutation:
        left, right = left.diagonal(), right.diagonal()
    if cls is Rotary:
        left, right = (gram.diagonal().view(2, n // 2).sum(0) for gram in (left, right))
    assert torch.allclose(left, right, rtol=1e-6, atol=1e-8)


@given(n=st.integers(1, 6), missing=st.integers(0, 6), seed=seeds)
def test_balance_is_exact_and_invertible_where_nothing_is_written_or_read(n, missing, seed):
    x, y = torch.randn(2, n, max(n - missing, 0), generator=generator(seed), dtype=torch.float64)
    g = Invertible.balance(x @ x.T, y @ y.T)
    inside, why = Invertible.contains(g.matrix())
    assert inside, why
    writers, readers = g.act(x, 0), g.act_dual(y, 0)
    assert torch.allclose(writers @ writers.T, readers @ readers.T, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("cls", "allow", "expected"),
    [
        (Permutation, "permutation", Permutation),
        (ScaledPermutation, "orthogonal", Permutation),
        (ScaledPermutation, "invertible", ScaledPermutation),
        (StreamOrthogonal, "permutation", Permutation),
        (StreamOrthogonal, "invertible", StreamOrthogonal),
        (Invertible, "permutation", Permutation),
        (Invertible, "orthogonal", Orthogonal),
        (Invertible, "invertible", Invertible),
        (RMSOrthogonal, "permutation", Permutation),
        (RMSOrthogonal, "orthogonal", RMSOrthogonal),
        (RotarySign, "permutation", Fixed),
        (RotaryPhase, "permutation", Fixed),
        (RotaryPhase, "orthogonal", RotaryPhase),
        (Rotary, "permutation", Fixed),
        (Rotary, "orthogonal", RotaryPhase),
        (Rotary, "invertible", Rotary),
        (Fixed, "permutation", Fixed),
    ],
)
@given(n=sizes, seed=seeds)
def test_what_is_allowed_is_a_subgroup(cls, allow, expected, n, seed):
    n = fitting(cls, n)
    assert cls.restrict(allow) is expected
    assert cls.contains(expected.sample(n, generator(seed)).matrix())[0]


NAN = torch.full((2, 2), torch.nan)


@pytest.mark.parametrize(
    ("cls", "matrix", "reason"),
    [
        (Permutation, torch.ones(2, 3), "not that of a map into the same or a wider space"),
        (Permutation, torch.ones(3, 2), "cannot map 2 units to 3"),
        (Permutation, torch.tensor([[0.5, 0.5], [0.5, 0.5]]), "neither 0 nor 1"),
        (Permutation, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "exactly one 1"),
        (Permutation, NAN, "NaN"),
        (ScaledPermutation, torch.tensor([[2.0, 0.0], [1.0, 0.0]]), "exactly one positive entry"),
        (ScaledPermutation, torch.tensor([[-2.0, 0.0], [0.0, 1.0]]), "negative"),
        (SoftPermutation, torch.ones(3, 2), "cannot map 2 units to 3"),
        (SoftPermutation, torch.tensor([[1.5, -0.5], [-0.5, 1.5]]), "negative"),
        (SoftPermutation, torch.tensor([[0.5, 0.5], [0.5, 0.25]]), "sums to one only up to 0.25"),
        (SemiPermutation, torch.tensor([[0.5, 0.5], [0.5, 0.0]]), "more than one positive entry"),
        (SemiPermutation, torch.tensor([[0.5, 0.0], [0.0, 1.0]]), "does not sum to one"),
        (SemiPermutation, torch.tensor([[-1.0, 0.0], [0.0, 1.0]]), "negative"),
        (Orthogonal, 2 * torch.eye(2), r"T^T T differs from the identity by 3"),
        (StreamOrthogonal, torch.diag(torch.tensor([1.0, -1.0])), "moves the all-ones vector by 2"),
        (RMSOrthogonal, 2 * torch.eye(2), "T^T T differs from the identity by 3"),
        (RMSOrthogonal, torch.eye(3, 2), "with N / M = 2 / 3, differs from the identity by 0.33"),
        (Fixed, torch.tensor([[0.0, 1.0], [1.0, 0.0]]), "differs from the identity by 1"),
        (Fixed, torch.eye(3, 2), "cannot grow from 2 to 3 dimensions"),
        (Rotary, torch.eye(3), "3 is odd"),
        (Rotary, torch.eye(4, 2), "none is free to map 2 into 4"),
        (Rotary, torch.diag(torch.tensor([1.0, -1.0])), "does more than to turn and scale pairs, by 1"),
        (Rotary, torch.diag(torch.tensor([1.0, 0.0, 1.0, 0.0])), "the scale of a pair is 0"),
        (RotarySign, torch.diag(torch.tensor([1.0, -1.0])), "does more than to turn and scale pairs, by 1"),
        (RotarySign, torch.tensor([[0.0, -1.0], [1.0, 0.0]]), "the factor of a pair differs from 1 and -1 by 2"),
        (RotaryPhase, 2 * torch.eye(2), "the scale of a pair differs from 1 by 1"),
        (RotaryPhase, torch.eye(4).roll(1, 0), "does more than to turn and scale pairs"),
        (Invertible, torch.ones(2, 2), "singular"),
        (Invertible, torch.ones(3, 2), "singular"),
    ],
)
def test_a_matrix_outside_the_class_is_told_why(cls, matrix, reason):
    inside, why = cls.contains(matrix)
    assert not inside
    assert reason in why


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Permutation(torch.tensor([0, 0, 1])), r"not a permutation of 0\.\.2"),
        (lambda: Permutation.solve(torch.zeros(3, 2)), r"is square, but has shape \(3, 2\)"),
        (lambda: Orthogonal.solve(torch.zeros(2, 3)), r"at least as many rows as columns, .* \(2, 3\)"),
        (lambda: Permutation.solve(NAN), "NaN"),
        (lambda: Orthogonal.solve(NAN), "NaN"),
        (lambda: Permutation.sample(2, generator(0), m=3), "cannot map 2 units to 3"),
        (lambda: SoftPermutation.sample(2, generator(0), m=3), "cannot map 2 units to 3"),
        (
            lambda: Permutation.restrict("all"),
            "allow must be one of 'permutation', 'orthogonal', 'invertible', not 'all'",
        ),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_moved_counts_the_units_that_change_place():
    assert Permutation(torch.tensor([0, 2, 1, 3])).moved == 2


REFLECTION = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "at",
    [
        torch.eye(3, dtype=torch.float64),
        REFLECTION,
        torch.randn(3, 3, generator=generator(0), dtype=torch.float64),
        torch.randn(2, 5, 3, generator=generator(1), dtype=torch.float64),
    ],
    ids=["identity", "reflection", "random", "rectangular"],
)
@pytest.mark.parametrize("function", [polar, fix_ones])
def test_the_polar_factor_has_the_right_gradient_where_torchs_is_nan(function, at):
    assert torch.autograd.gradcheck(function, at.clone().requires_grad_())


@pytest.mark.parametrize("shape", [(3, 3), (2, 4, 4)])
@pytest.mark.parametrize("iterations", [3, 200], ids=["unfinished", "finished"])
def test_the_doubly_stochastic_matrix_has_the_right_gradient(shape, iterations):
    at = torch.randn(shape, generator=generator(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(partial(sinkhorn, iterations=iterations, atol=0), at)


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError):
        Symmetry()


def rotation(n: int, position: float) -> torch.Tensor:
    """What transformers' ``rotate_half`` does to queries and keys at a position, as a matrix."""
    x, half = torch.eye(n, dtype=torch.float64), n // 2
    angles = position * 0.3 ** torch.arange(half, dtype=torch.float64).repeat(2).unsqueeze(-1)
    return x * angles.cos() + torch.cat([-x[half:], x[:half]]) * angles.sin()


@pytest.mark.parametrize("cls", [RotarySign, RotaryPhase, Rotary])
@given(half=st.integers(1, 4), seed=seeds, position=st.floats(-9, 9))
def test_rotary_maps_commute_with_all_rotations_of_positions(cls, half, seed, position):
    T, R = cls.sample(2 * half, generator(seed)).matrix(), rotation(2 * half, position)
    assert same(T @ R, R @ T)


@given(half=st.integers(1, 4), seed=seeds)
def test_what_commutes_with_all_rotations_is_rotary(half, seed):
    n = 2 * half
    eye, rotations = torch.eye(n, dtype=torch.float64), [rotation(n, t) for t in (0.7, 1.3)]
    blind = torch.cat([torch.kron(R, eye) - torch.kron(eye, R.T.contiguous()) for R in rotations])
    commutant = torch.linalg.svd(blind).Vh[n * n - n :]  # of n real dimensions, which these equations do not see
    assert torch.linalg.svdvals(blind)[n * n - n - 1] > 1e-3 and (blind @ commutant.T).abs().max() < 1e-9
    weights = torch.randn(n, generator=generator(seed), dtype=torch.float64)
    assert Rotary.contains((weights @ commutant).view(n, n)) == (True, "")


@pytest.mark.parametrize("cls", [RotaryPhase, Rotary])
@given(half=st.integers(1, 3), seed=seeds)
def test_each_pair_turns_by_the_best_of_all_angles(cls, half, seed):
    cost = torch.randn(2 * half, 2 * half, generator=generator(seed), dtype=torch.float64)
    angles = torch.linspace(0, 2 * torch.pi, 361, dtype=torch.float64)
    turned = torch.polar(torch.ones_like(angles), angles).view(-1, 1, 1) * torch.eye(half)  # one pair, the others are 0
    brute = (to_real(turned) * cost).sum((-2, -1)).amax(0).sum()
    best = (cls.solve(cost).matrix() * cost).sum()
    assert brute - 1e-9 <= best <= brute + 1e-3 * cost.norm()


@given(half=st.integers(1, 4), seed=seeds)
def test_a_sign_is_the_best_of_all(half, seed):
    cost = torch.randn(2 * half, 2 * half, generator=generator(seed), dtype=torch.float64)
    best = max(
        (to_real(torch.tensor(s, dtype=torch.complex128)) * cost).sum() for s in itertools.product([-1, 1], repeat=half)
    )
    assert (RotarySign.solve(cost).matrix() * cost).sum() == pytest.approx(best.item())
    assert RotaryPhase.contains(RotarySign.solve(cost).matrix())[0]


@given(n=st.integers(1, 6), extra=st.integers(0, 3), seed=seeds)
def test_a_map_between_rms_norms_keeps_the_root_mean_square(n, extra, seed):
    g, x = RMSOrthogonal.sample(n, generator(seed), m=n + extra), torch.randn(7, n, dtype=torch.float64)
    assert same(g.act(x, 1).square().mean(1), x.square().mean(1))
    assert RMSOrthogonal.contains(StreamOrthogonal.sample(n, generator(seed), m=n + extra).matrix())[0]


@given(n=st.integers(2, 6), seed=seeds)
def test_a_map_between_rms_norms_moves_the_all_ones_vector(n, seed):
    T = RMSOrthogonal.sample(n, generator(seed)).matrix()
    assert (T.sum(1) - 1).abs().max() > 1e-3


@pytest.mark.parametrize("cls", [cls for cls in GROUPS if cls.compact])
@given(n=st.integers(1, 5), seed=seeds)
def test_likeness_is_the_best_score_that_an_element_reaches(cls, n, seed):
    n = fitting(cls, n)
    writers, readers = torch.randn(2, 3, n, n, generator=generator(seed), dtype=torch.float64)
    found, total = cls.alike(writers, readers), writers + readers
    assert same(found, (cls.solve(total).matrix() * total).sum((-2, -1)))
    for other in range(20):
        assert ((cls.sample(n, generator(other)).matrix() * total).sum((-2, -1)) <= found + 1e-9).all()


@pytest.mark.parametrize("cls", [ScaledPermutation, Rotary, Invertible])
@given(n=st.integers(1, 6), seed=seeds)
def test_likeness_is_blind_to_what_a_class_with_scales_may_change(cls, n, seed):
    n = fitting(cls, n)
    x, y, z, w = torch.randn(4, n, 5, generator=generator(seed), dtype=torch.float64)
    g, h = cls.sample(n, generator(seed)), cls.sample(n, generator(seed + 1))
    moved = cls.alike(g.act(x, 0) @ h.act(z, 0).T, g.act_dual(y, 0) @ h.act_dual(w, 0).T)
    torch.testing.assert_close(moved, cls.alike(x @ z.T, y @ w.T), rtol=1e-8, atol=1e-8)


@given(half=st.integers(1, 3), seed=seeds)
def test_likeness_of_rotary_pairs_is_that_of_their_scores_at_all_distances(half, seed):
    """Queries meet keys through ``Q^T R(t) K``: the mean product over all t sees each pair's circuit alone."""
    q, k, p, c = torch.randn(4, 2 * half, 5, generator=generator(seed), dtype=torch.float64)
    x, y, z, w = (torch.complex(v[:half], v[half:]) for v in (q, k, p, c))
    one, two = torch.einsum("ja,jb->jab", x, y.conj()), torch.einsum("ja,jb->jab", z, w.conj())
    assert same(Rotary.alike(q @ p.T, k @ c.T), (one.conj() * two).real.sum())


@pytest.mark.parametrize("cls", [Rotary, Invertible])
@given(n=st.integers(0, 6), rank=st.integers(0, 4), seed=seeds)
def test_where_writers_meet_readers_nothing_is_left_that_the_other_side_does_not_see(cls, n, rank, seed):
    n = fitting(cls, n)
    x, y = torch.randn(2, 2, n, 5, generator=generator(seed), dtype=torch.float64)
    if cls is Rotary:
        x[:, : n // 2 - 1 : 2], x[:, n // 2 : n - 1 : 2] = 0, 0
        y[:, n // 2 :: 3], y[:, : n // 2 : 3] = 0, 0
    else:
        y = y[..., :rank] @ torch.randn(rank, 7, generator=generator(seed), dtype=torch.float64)
    writing, reading = cls.meet(x, y)
    seen, read = writing @ x, reading @ y
    assert same(seen.mT @ read, x.mT @ y), "the product stays"
    assert all(same(again, reading) for again in cls.meet(seen, read)), "both span one space"
    assert same(writing @ writing, writing) and same(writing, writing.mT)


def test_most_classes_take_nothing_away_where_writers_meet_readers():
    assert [cls for cls in GROUPS if cls.meet(torch.zeros(4, 3), torch.ones(4, 2)) is not None] == [Rotary, Invertible]


@pytest.mark.parametrize("cls", GROUPS)
def test_a_class_says_in_words_what_it_does(cls):
    assert cls.words != Symmetry.words
    assert cls.discrete == (cls in (Fixed, Permutation, RotarySign))
    assert cls.is_stream == (cls in (RMSOrthogonal, StreamOrthogonal))
    assert cls.relabels == (cls in UNITS)


def test_where_lapack_does_not_converge_the_transpose_is_decomposed(monkeypatch):
    svd, x = torch.linalg.svd, torch.randn(2, 5, 3, generator=generator(0), dtype=torch.float64)

    def fails_when_tall(matrix: torch.Tensor, **options: bool) -> object:
        if matrix.shape[-2] > matrix.shape[-1]:
            raise torch.linalg.LinAlgError("did not converge")
        return svd(matrix, **options)

    monkeypatch.setattr(torch.linalg, "svd", fails_when_tall)
    U, S, Vh = thin_svd(x)
    assert U.shape == x.shape and Vh.shape == (2, 3, 3)
    torch.testing.assert_close((U * S.unsqueeze(-2)) @ Vh, x)
