"""Matching: planted permutations come back, costs are what the formulas say, bad input is named."""

from __future__ import annotations

import pytest
import torch

import lmc_utils as lmc
from lmc_utils.matching.activation import cross_moments
from lmc_utils.matching.weight import cost_matrix

METHODS = {
    "weights": lambda a, b, batches, **options: lmc.weight_matching(a, b, **options),
    "activations": lmc.activation_matching,
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("widths", [(4, 5, 6, 3), (9, 32, 2, 17, 10), (3, 1, 2)], ids=str)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("allow", ["permutation", "invertible"])
def test_a_planted_symmetry_is_found(make_mlp, make_batches, method, widths, seed, allow):
    a = make_mlp(widths, seed)
    b = a.spec.sample(seed + 1, allow=allow)(a)
    g = method(a, b, make_batches(widths), allow=allow)
    assert all(torch.allclose(a.params[name], p, atol=1e-9) for name, p in g(b).params.items())
    assert lmc.interpolate(a, g(b), make_batches(widths), points=5).barrier < 1e-12


def test_the_gradient_of_the_score_is_the_cost_of_git_re_basin(make_mlp):
    a, b = make_mlp(seed=0), make_mlp(seed=1)
    A, B = a.params, b.params
    expected = A["fc0.weight"] @ B["fc0.weight"].T + torch.outer(A["fc0.bias"], B["fc0.bias"])
    expected += A["fc1.weight"].T @ B["fc1.weight"]
    assert torch.allclose(cost_matrix(a.spec, "ff.0", A, B), expected)


def test_weight_matching_only_ever_improves_and_shortens_the_distance(make_mlp):
    a, b = make_mlp((8, 20, 20, 20, 4), 0), make_mlp((8, 20, 20, 20, 4), 1)
    g = lmc.weight_matching(a, b, allow="permutation")
    assert list(g.history) == sorted(g.history)
    assert len(g.history) > 2

    def distance(x, y):
        return sum((x.params[name] - y.params[name]).square().sum() for name in x.params)

    assert distance(a, g(b)) < distance(a, b)
    # the score and the squared distance say the same: |a - gb|^2 = |a|^2 + |b|^2 - 2 score
    assert (distance(a, b) - distance(a, g(b))).item() == pytest.approx(2 * (g.history[-1] - g.history[0]))
    again = lmc.weight_matching(a, g(b), allow="permutation")
    assert again.history[0] == pytest.approx(g.history[-1])
    assert all(again[site].moved == 0 for site in again)


def test_sweeps_limit_the_work(make_mlp):
    a, b = make_mlp((8, 20, 20, 20, 4), 0), make_mlp((8, 20, 20, 20, 4), 1)
    assert len(lmc.weight_matching(a, b, sweeps=1).history) == 2
    assert len(lmc.weight_matching(a, b, sweeps=0).history) == 1
    with pytest.raises(ValueError, match="allow must be one of"):
        lmc.weight_matching(a, b, allow="everything")


def test_correlations_are_numpys(make_mlp, make_batches):
    a, b = make_mlp(seed=0), make_mlp(seed=1)
    batches = make_batches((4, 5, 6, 3))
    x = torch.cat([inputs for inputs, _ in batches])
    for site, found in cross_moments(a, b, batches).items():
        n = a.spec.sites[site].size
        both = torch.cat([a.activations(x)[site], b.activations(x)[site]], 1)
        assert torch.allclose(found, torch.corrcoef(both.T)[:n, n:])


def test_a_unit_that_never_changes_correlates_with_nothing(make_mlp, make_batches):
    a = make_mlp()
    params = {**a.params, "fc0.weight": a.params["fc0.weight"].clone()}
    params["fc0.weight"][2] = 0
    dead = lmc.Network(a.architecture, params)
    found = cross_moments(dead, a, make_batches((4, 5, 6, 3)))["ff.0"]
    assert (found[2] == 0).all()
    assert torch.isfinite(found).all()


def test_activation_matching_needs_data(make_mlp):
    with pytest.raises(ValueError, match="the data are empty"):
        lmc.activation_matching(make_mlp(), make_mlp(), [])
