"""Canonical form: the same function, exactly, and every symmetry of the table leaves it alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lmc_utils as lmc
from lmc_utils.networks.mlp import ELEMENTWISE, mlp


@pytest.mark.parametrize("widths", [(4, 5, 6, 3), (1, 1, 2), (7, 13, 2, 9, 11)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_symmetry_leaves_the_function_alone(make_mlp, widths, dtype):
    network = make_mlp(widths).to(dtype)
    for seed in range(5):
        for samples in (1, 8):
            lmc.assert_invariant(network, network.spec.sample(seed), torch.randn(samples, widths[0]))


@pytest.mark.parametrize("nonlinearity", ELEMENTWISE)
def test_every_elementwise_nonlinearity_allows_permutations(nonlinearity):
    model = nn.Sequential(nn.Linear(4, 6), nonlinearity(), nn.Linear(6, 6, bias=False), nonlinearity(), nn.Linear(6, 2))
    network = lmc.canonicalize(model.double().eval())
    lmc.assert_invariant(network, network.spec.sample(0), torch.randn(9, 4))


def test_assert_invariant_sees_what_is_no_symmetry(make_mlp):
    network = make_mlp()
    other = lmc.canonicalize(nn.Sequential(nn.Flatten(), *(layer for layer in network.to_model()[1:])))
    wrong = lmc.spec.Spec({**other.spec.types, "3.weight": "ff.1 _"}, other.spec.sites)  # forgets who reads ff.0
    broken = lmc.Network(_with_spec(other.architecture, wrong), other.params)
    with pytest.raises(AssertionError, match=r"a logit changes by .*, allowed is 1e-10"):
        lmc.assert_invariant(broken, wrong.sample(0), torch.randn(9, 4))
    assert lmc.invariance_error(broken, wrong.sample(0), torch.randn(9, 4)) > 1e-3


def _with_spec(architecture, spec):
    from dataclasses import replace

    return replace(architecture, spec=spec)


def test_models_come_back_and_are_never_changed(make_mlp):
    torch.manual_seed(0)
    model = mlp((4, 5, 6, 3)).double()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    network = lmc.canonicalize(model)
    moved = network.spec.sample(1)(network)
    x = torch.randn(9, 4, dtype=torch.float64)
    assert torch.allclose(moved.to_model()(x), model(x), atol=1e-12)
    assert torch.equal(network.to_model()(x), model(x))
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert model.training


def test_activations_are_what_the_writers_write(make_mlp):
    network = make_mlp()
    x = torch.randn(9, 4, dtype=torch.float64)
    found = network.activations(x)
    assert list(found) == ["ff.0", "ff.1"]
    first = nn.functional.linear(x, network.params["fc0.weight"], network.params["fc0.bias"])
    assert torch.equal(found["ff.0"], first)
    assert torch.equal(
        found["ff.1"], nn.functional.linear(first.relu(), network.params["fc1.weight"], network.params["fc1.bias"])
    )


def test_one_relu_module_may_serve_all_layers():
    relu = nn.ReLU()
    network = lmc.canonicalize(nn.Sequential(nn.Linear(4, 5), relu, nn.Linear(5, 5), relu, nn.Linear(5, 2)).double())
    assert (network.activations(torch.randn(50, 4))["ff.1"] < 0).any()
    lmc.assert_invariant(network, network.spec.sample(0), torch.randn(9, 4))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.LSTM(2, 3), TypeError, "no canonical form is known for LSTM"),
        (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), ValueError, "layer '1' is a BatchNorm1d"),
        (nn.Sequential(nn.Linear(2, 3)), ValueError, "1 linear layers has no hidden units"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_known_is_refused_by_name(model, error, message):
    with pytest.raises(error, match=message):
        lmc.canonicalize(model)


def test_weights_that_are_not_finite_are_named():
    model = mlp((4, 5, 3))
    with torch.no_grad():
        model.fc1.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'fc1.weight' of shape \(3, 5\) has 1 NaN"):
        lmc.canonicalize(model)
