"""Laws of the symmetry classes, and their solvers against brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmc_utils import Permutation

sizes, seeds = st.integers(1, 12), st.integers(0, 2**31)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(sizes, seeds)
def test_elements_act_as_their_matrix_and_its_dual(n, seed):
    g = Permutation.sample(n, generator(seed))
    x = torch.randn(3, n, generator=generator(seed), dtype=torch.float64)
    assert torch.equal(g.act(x, 1), x @ g.matrix().T)
    assert torch.allclose(g.act_dual(x, 1), x @ torch.linalg.inv(g.matrix()))  # (T^-T)^T = T^-1


@given(sizes, seeds, seeds)
def test_the_class_is_a_group(n, seed1, seed2):
    g, h = Permutation.sample(n, generator(seed1)), Permutation.sample(n, generator(seed2))
    assert Permutation.contains((g @ h).matrix())[0]
    assert torch.equal((g @ h).matrix(), g.matrix() @ h.matrix())
    assert g @ g.inverse() == Permutation.identity(n) == g.inverse() @ g


@given(sizes, seeds)
def test_projection_of_an_element_is_the_element(n, seed):
    g = Permutation.sample(n, generator(seed))
    assert Permutation.project(g.matrix()) == g


@given(st.integers(1, 6), seeds)
def test_the_solver_is_optimal(n, seed):
    cost = torch.randn(n, n, generator=generator(seed), dtype=torch.float64)
    best = max(sum(cost[i, p[i]] for i in range(n)) for p in itertools.permutations(range(n)))
    assert (Permutation.solve(cost).matrix() * cost).sum() == pytest.approx(best.item())


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (torch.ones(2, 3), "not square"),
        (torch.tensor([[0.5, 0.5], [0.5, 0.5]]), "neither 0 nor 1"),
        (torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "exactly one 1"),
        (torch.full((2, 2), float("nan")), "neither 0 nor 1"),
    ],
)
def test_a_matrix_outside_the_class_is_told_why(matrix, reason):
    inside, why = Permutation.contains(matrix)
    assert not inside
    assert reason in why


def test_moved_counts_the_units_that_change_place():
    assert Permutation(torch.tensor([0, 2, 1, 3])).moved == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Permutation(torch.tensor([0, 0, 1])), "not a permutation of 0..2"),
        (lambda: Permutation.solve(torch.zeros(2, 3)), r"square matrix, but has shape \(2, 3\)"),
        (lambda: Permutation.solve(torch.tensor([[1.0, float("nan")], [0.0, 1.0]])), "NaN"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
