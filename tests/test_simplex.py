"""The simplex: its grid, its barrier, and that its edges are the paths between pairs."""

from __future__ import annotations

import math

import pytest
import torch

import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.landscape.simplex import lattice, surface, triangle

WIDTHS = (4, 5, 6, 3)


@pytest.fixture
def three(make_mlp):
    """Copies of one network, with weights so large that it is sure of its answers; their averages are not."""
    network = make_mlp(WIDTHS)
    network = lmc.Network(network.architecture, {name: 4 * p for name, p in network.params.items()})
    return [network, *(network.spec.sample(seed)(network) for seed in (1, 2))]


@pytest.fixture
def batches(three):
    """The answers of the three networks are the right ones."""
    inputs = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    return Batches(inputs, three[0](inputs).argmax(-1), 20)


@pytest.mark.parametrize(("vertices", "points"), [(2, 5), (3, 7), (3, 4), (4, 5), (5, 6)])
def test_the_lattice_holds_every_mixture_once(vertices, points):
    weights = lattice(vertices, points)
    assert len(weights) == math.comb(points + vertices - 2, vertices - 1)
    assert (weights >= 0).all() and torch.allclose(weights.sum(1), torch.ones(len(weights)).double())
    counts = (weights * (points - 1)).round()
    assert torch.allclose(counts, weights * (points - 1)), "or the barycentre is on the grid already"
    assert len(counts.unique(dim=0)) == len(counts)
    assert (weights.max(0).values == 1).all()


def test_the_barycentre_is_added_where_the_grid_has_none():
    weights = lattice(3, 3)
    assert len(weights) == 6 + 1
    assert torch.allclose(weights[-1], torch.full((3,), 1 / 3).double())


def test_edges_are_paths(three, batches):
    simplex = lmc.interpolate_simplex(three, batches, points=5, calibrate=True)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (0, 2, 1)):
        curve = lmc.interpolate(three[i], three[j], batches, points=5, calibrate=True)
        edge = (simplex.weights[:, k] == 0).nonzero().squeeze(1)
        edge = edge[simplex.weights[edge, j].argsort()]
        for field in ("loss", "accuracy", "excess", "calibrated"):
            assert torch.allclose(getattr(simplex, field)[edge], getattr(curve, field), atol=1e-9), field
        assert torch.allclose(simplex.examples.probabilities[edge], curve.examples.probabilities, atol=1e-6)
        assert simplex.barrier >= curve.barrier - 1e-12


def test_the_barrier_is_the_papers(three, batches):
    """arXiv 2506.22712, Eq. 2: sup over the simplex of L[sum lambda theta] - sum lambda L[theta]."""
    simplex = lmc.interpolate_simplex(three, batches, points=4)
    ends = torch.tensor([lmc.evaluate(network, batches).loss for network in three], dtype=torch.float64)
    excesses = []
    for weights, loss, accuracy in zip(simplex.weights, simplex.loss, simplex.accuracy, strict=True):
        params = {
            name: sum(w * x.params[name] for w, x in zip(weights, three, strict=True)) for name in three[0].params
        }
        found = lmc.evaluate(lmc.Network(three[0].architecture, params), batches)
        assert (found.loss, found.accuracy) == pytest.approx((loss.item(), accuracy.item()))
        excesses.append(found.loss - (weights @ ends).item())
    assert simplex.excess.tolist() == pytest.approx(excesses, abs=1e-12)
    assert simplex.barrier == pytest.approx(max(excesses)) and simplex.barrier > 0.01
    assert simplex.barrier_at == tuple(simplex.weights[torch.tensor(excesses).argmax()].tolist())
    middle = lmc.evaluate(lmc.average(three), batches).loss
    assert simplex.barycentre == pytest.approx(middle - ends.mean().item())


def test_measures_by_hand():
    weights = lattice(3, 4)
    loss = 1 + weights @ torch.tensor([0.0, 1.0, 2.0]).double() + 27 * weights.prod(1)
    simplex = lmc.Simplex(weights, loss, 1 - 0.1 * loss, calibrated=loss - 5)
    assert (simplex.barrier, simplex.barycentre) == pytest.approx((1, 1))
    assert simplex.accuracy_barrier == pytest.approx(0.1)
    assert str(lmc.Simplex(weights, loss, torch.ones_like(loss)).accuracy_barrier) == "0.0", "without a sign"
    assert simplex.calibrated_barrier == pytest.approx(1)
    assert simplex.barrier_at == pytest.approx((1 / 3,) * 3)
    with pytest.raises(ValueError, match="calibrate=True"):
        _ = lmc.Simplex(weights, loss, loss).calibrated_barrier


def test_the_average_of_equal_networks_is_the_network(three):
    a, b, c = three
    same = lmc.average([a, a, a], [0.1, 0.2, 0.7])
    assert all(torch.equal(same.params[name], p) for name, p in a.params.items())
    for lam in (0.0, 0.1, 0.5, 0.7, 1.0):
        two, line = lmc.average([a, b], [1 - lam, lam]), lmc.merge(a, b, lam)
        assert all(torch.equal(two.params[name], p) for name, p in line.params.items())
    corner = lmc.average(three, [0, 0, 1])
    assert all(torch.equal(corner.params[name], p) for name, p in c.params.items())
    mean = lmc.average(three)
    assert all(torch.allclose(p, sum(x.params[n] for x in three) / 3) for n, p in mean.params.items())


def test_plots_have_their_units(three, batches):
    from matplotlib.figure import Figure

    triangle = lmc.interpolate_simplex(three, batches, points=4).plot(Figure().add_subplot())
    assert {text.get_text() for text in triangle.texts} == {"A", "B", "C"}
    assert triangle.figure.axes[1].get_ylabel() == "loss (nats)"
    four = lmc.interpolate_simplex([*three, three[0]], batches, points=3)
    axes = four.plot(Figure().add_subplot())
    assert axes.get_ylabel() == "excess loss (nats)"
    assert axes.collections[0].get_offsets()[:, 0].max() == pytest.approx(4)


def test_mistakes_are_named(three, batches, make_mlp):
    for message, arguments in {
        "two networks or more, not 1": (three[:1], batches),
        r"fc0\.weight has shape": ([*three, make_mlp((4, 7, 6, 3))], batches),
        "the data are empty|no batch": (three, []),
    }.items():
        with pytest.raises(ValueError, match=message):
            lmc.interpolate_simplex(*arguments)
    with pytest.raises(ValueError, match="points must be at least 2, not 1"):
        lmc.interpolate_simplex(three, batches, points=1)
    for weights in ([0.5, 0.5], [0.5, 0.6, -0.1], [0.5, 0.5, 0.5]):
        with pytest.raises(ValueError, match="3 networks need as many weights, not negative and with sum 1"):
            lmc.average(three, weights)
    with pytest.raises(ValueError, match="0 networks need"):
        lmc.average([])


def test_the_surface_passes_through_the_values_and_shows_no_other_hill():
    weights = lattice(3, 7)
    values = torch.zeros(len(weights), dtype=torch.float64)
    values[9] = 1.0  # a peak, beside which a smooth surface would dip below zero
    fine, smooth = surface(weights, values)
    points = dict(zip(zip(fine.x.round(6), fine.y.round(6), strict=True), smooth, strict=True))
    for x, y, value in zip(*triangle(weights).numpy().round(6), values.tolist(), strict=True):
        assert points[x, y] == pytest.approx(value, abs=1e-10)
    assert smooth.min() >= 0 and smooth.max() <= 1
