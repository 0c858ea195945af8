"""Paths, planes, the barrier and its conventions, and REPAIR."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import matplotlib
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

import lmc_utils as lmc
from lmc_utils.data import Data
from lmc_utils.landscape.evaluate import calibrated_loss
from lmc_utils.landscape.repair import moments

matplotlib.use("agg")
WIDTHS = (4, 5, 6, 3)


def curve(*loss: float) -> lmc.Curve:
    lambdas = torch.linspace(0, 1, len(loss), dtype=torch.float64)
    return lmc.Curve(lambdas, torch.tensor(loss, dtype=torch.float64), 1 - torch.tensor(loss, dtype=torch.float64) / 10)


def test_a_path_goes_from_a_to_b(make_mlp, make_batches):
    a, b, batches = make_mlp(seed=0), make_mlp(seed=1), make_batches(WIDTHS)
    path = lmc.interpolate(a, b, batches, points=5)
    assert path.lambdas.tolist() == [0, 0.25, 0.5, 0.75, 1]
    for i, network in ((0, a), (1, lmc.merge(a, b, 0.25)), (4, b)):
        loss, accuracy, _ = lmc.evaluate(network, batches)
        assert path.loss[i].item() == pytest.approx(loss, abs=1e-12)
        assert path.accuracy[i].item() == accuracy


def test_the_loss_counts_every_sample_once(make_mlp, make_batches):
    network, batches = make_mlp(), make_batches(WIDTHS)  # the last batch is smaller
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    loss, accuracy, logits = lmc.evaluate(network, batches, keep=7)
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(network(x), y).item())
    assert accuracy == pytest.approx((network(x).argmax(-1) == y).double().mean().item())
    assert torch.equal(logits, network(x[:7]).float())


def test_sequences_of_targets_are_counted_one_by_one():
    logits = torch.randn(2, 5, 7)
    targets = torch.randint(7, (2, 5))
    loss, accuracy, _ = lmc.evaluate(lambda x: logits, [(None, targets)])
    assert loss == pytest.approx(
        torch.nn.functional.cross_entropy(logits.view(10, 7), targets.view(10)).item(), rel=1e-6
    )
    assert accuracy == pytest.approx((logits.argmax(-1) == targets).double().mean().item())


def test_an_answer_may_be_an_object_that_has_logits(make_mlp, make_batches):
    network, batches = make_mlp(), make_batches(WIDTHS)
    wrapped = lmc.evaluate(lambda x: SimpleNamespace(logits=network(x)), batches, keep=3)
    plain = lmc.evaluate(network, batches, keep=3)
    assert wrapped[:2] == plain[:2]
    assert torch.equal(wrapped.logits, plain.logits)


def test_inputs_are_brought_to_where_a_module_is(make_batches):
    seen = []
    module = torch.nn.Linear(4, 3, device="meta")
    module.forward = lambda x: seen.append(x.device.type) or torch.zeros(len(x), 3)
    lmc.evaluate(module, make_batches(WIDTHS))
    assert set(seen) == {"meta"}


def test_examples_are_the_first_samples_with_their_answers(make_mlp, make_batches):
    a, b, batches = make_mlp(seed=0), make_mlp(seed=1), make_batches(WIDTHS)
    examples = lmc.interpolate(a, b, batches, points=3).examples
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(examples.inputs, x)
    assert torch.equal(examples.targets, y)
    assert torch.allclose(examples.probabilities[1], lmc.merge(a, b, 0.5)(x).softmax(-1).float())


def test_the_barrier_is_the_largest_excess_over_the_line():
    path = curve(1.0, 2.5, 2.0, 2.4, 2.0)  # M-shaped: the middle is not the maximum
    assert path.excess.tolist() == pytest.approx([0, 1.25, 0.5, 0.65, 0])
    assert path.barrier == pytest.approx(1.25)
    assert path.barrier_at == 0.25
    assert path.accuracy_barrier == pytest.approx(0.125)


@pytest.mark.parametrize(("convention", "height"), [("line", 1.25), ("mean", 1.0), ("worst", 0.5), ("midpoint", 0.5)])
def test_conventions_of_the_literature(convention, height):
    assert lmc.barrier(curve(1.0, 2.5, 2.0, 2.4, 2.0), convention) == pytest.approx(height)


def test_a_path_below_its_line_has_no_barrier():
    path = curve(1.0, 0.5, 1.0)
    assert path.barrier == 0
    assert lmc.barrier(path, "midpoint") == -0.5


def test_the_base_line_may_join_other_end_points(make_mlp, make_batches):
    a, b, c, batches = *(make_mlp(seed=seed) for seed in range(3)), make_batches(WIDTHS)
    plain, path = (lmc.interpolate(a, b, batches, points=3, ends=ends) for ends in (None, (a, c)))
    first, last = (lmc.evaluate(network, batches).loss for network in (a, c))
    assert path.baseline.tolist() == pytest.approx([first, (first + last) / 2, last])
    assert path.excess.tolist() == pytest.approx((path.loss - path.baseline).tolist())
    assert torch.equal(path.loss, plain.loss)
    accuracies = [lmc.evaluate(network, batches).accuracy for network in (a, c)]
    drop = torch.lerp(*torch.tensor(accuracies, dtype=torch.float64), path.lambdas) - path.accuracy
    assert path.accuracy_barrier == pytest.approx(drop.max().item())
    axes = path.plot()
    assert axes[0].lines[1].get_ydata() == pytest.approx([first, last])
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize(("convention", "height"), [("line", 1.5), ("mean", 1.5), ("worst", 1.0), ("midpoint", 1.5)])
def test_every_convention_measures_from_the_end_points_as_they_were(convention, height):
    path = replace(curve(1.0, 3.0, 2.5), ends=curve(1.0, 2.0))
    assert lmc.barrier(path, convention) == pytest.approx(height)


def test_data_that_come_in_another_order_at_each_pass_are_read_once(make_mlp, make_batches):
    a, b, batches = make_mlp(seed=0), make_mlp(seed=1), make_batches(WIDTHS)

    class Shuffled:
        def __iter__(self):
            order = torch.randperm(len(batches.inputs))
            return iter([(batches.inputs[order], batches.targets[order])])

    plain, shuffled = (lmc.interpolate(a, b, data, points=3, calibrate=True) for data in (batches, Shuffled()))
    assert torch.allclose(plain.calibrated, shuffled.calibrated, atol=1e-6)
    assert (shuffled.examples.probabilities[0].double() - a(shuffled.examples.inputs).softmax(-1)).abs().max() < 1e-6


def answers(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of three classes that are right more often than not, and targets."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (40,), generator=generator)
    noise = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    return torch.nn.functional.one_hot(targets, 3) + noise, targets


@given(seed=st.integers(0, 999), scale=st.floats(-12, 12).map(lambda x: 2**x))
def test_the_calibrated_loss_does_not_depend_on_the_scale_of_the_logits(seed, scale):
    logits, targets = answers(seed)
    assert calibrated_loss(scale * logits, targets) == pytest.approx(calibrated_loss(logits, targets), abs=1e-6)


@given(seed=st.integers(0, 999), scale=st.floats(-5, 5).map(lambda x: 2**x))
def test_no_temperature_is_better_than_the_calibrated_one(seed, scale):
    logits, targets = answers(seed)
    assert calibrated_loss(logits, targets) <= cross_entropy(scale * logits, targets).item() + 1e-6


def test_answers_that_say_nothing_or_all_are_calibrated():
    targets = torch.tensor([0, 1, 2])
    assert calibrated_loss(torch.zeros(3, 3), targets) == pytest.approx(torch.tensor(3.0).log().item(), abs=1e-4)
    assert calibrated_loss(torch.eye(3) / 100, targets) == pytest.approx(0, abs=1e-6)


def louder(a: lmc.Network, b: lmc.Network, lam: float) -> lmc.Network:
    """The average, but the nearer the middle, the more sure of its answers."""
    average = lmc.merge(a, b, lam)
    last = {name: (1 + 99 * lam * (1 - lam)) * p for name, p in average.params.items() if name.startswith("fc2.")}
    return replace(average, params=average.params | last)


def test_a_barrier_of_too_much_confidence_is_not_one_of_the_calibrated_loss(make_mlp, make_batches):
    a, batches = make_mlp(), make_batches(WIDTHS)
    path = lmc.interpolate(a, a, batches, points=5, merge=louder, calibrate=True)
    assert path.barrier > 1
    assert path.calibrated_barrier < 1e-5
    assert (path.calibrated <= path.loss).all()


def test_the_calibrated_barrier_must_be_asked_for(make_mlp, make_batches):
    path = lmc.interpolate(make_mlp(seed=0), make_mlp(seed=1), make_batches(WIDTHS), points=3)
    with pytest.raises(ValueError, match="calibrate=True"):
        _ = path.calibrated_barrier


def test_barriers_are_those_of_each_split(make_mlp, make_batches):
    a, b, batches = make_mlp(seed=0), make_mlp(seed=1), make_batches(WIDTHS)
    data = Data("toy", batches, make_batches(WIDTHS, 30), batches.take(20))
    how = {"points": 5, "merge": louder}
    found = lmc.barriers(a, b, data, **how)
    test, train, validation = (
        lmc.interpolate(a, b, split, **how, calibrate=True) for split in (data.test, data.train, data.validation)
    )
    assert found == (test.barrier, test.accuracy_barrier, test.calibrated_barrier, train.barrier, validation.barrier)
    assert len({found.test, found.train, found.validation}) == 3
    assert lmc.barriers(a, b, replace(data, validation=None), **how) == found._replace(validation=None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b, d: lmc.merge(a, b, 1.5), r"in \[0, 1\], but is 1.5"),
        (lambda a, b, d: lmc.merge(a, b, float("nan")), "but is nan"),
        (lambda a, b, d: lmc.repair(a, b, -0.1, d), r"in \[0, 1\], but is -0.1"),
        (lambda a, b, d: lmc.interpolate(a, b, d, points=1), "points must be at least 2, not 1"),
        (lambda a, b, d: lmc.interpolate(a, b, []), "the data are empty"),
        (lambda a, b, d: lmc.repair(a, b, 0.5, []), "the data are empty"),
        (lambda a, b, d: lmc.barrier(curve(1.0, 1.0), "midpoint"), "a grid of 2 points has no midpoint"),
        (lambda a, b, d: lmc.barrier(curve(1.0, 1.0), "height"), "unknown convention 'height'"),
        (lambda a, b, d: lmc.interpolate_plane([a, b], d), "there are 2"),
        (lambda a, b, d: lmc.interpolate_plane([a, b, lmc.merge(a, b)], d), "lie on one line"),
        (lambda a, b, d: lmc.interpolate_plane([a, a, b], d), "lie on one line"),
    ],
)
def test_bad_input_is_named(make_mlp, make_batches, call, message):
    with pytest.raises(ValueError, match=message):
        call(make_mlp(seed=0), make_mlp(seed=1), make_batches(WIDTHS))


def test_different_architectures_have_no_line_between_them(make_mlp, make_batches):
    with pytest.raises(ValueError, match=r"fc1\.weight has shape \(6, 5\) and \(3, 5\)"):
        lmc.interpolate(make_mlp(WIDTHS), make_mlp((4, 5, 3)), make_batches(WIDTHS))


def test_the_plane_holds_the_networks_at_its_corners(make_mlp, make_batches):
    networks, batches = [make_mlp(seed=seed) for seed in range(3)], make_batches(WIDTHS)
    plane = lmc.interpolate_plane(networks, batches, points=3, margin=0)
    # without a margin the first network lies on the grid where both its coordinates are the smallest, or inside
    distances = torch.cdist(plane.corners, plane.corners)
    for i in range(3):
        for j in range(3):
            apart = sum((networks[i].params[n] - p).square().sum() for n, p in networks[j].params.items()).sqrt()
            assert distances[i, j].item() == pytest.approx(apart.item(), abs=1e-9)
    at = ((plane.x - plane.corners[2, 0]).abs().argmin(), (plane.y - plane.corners[2, 1]).abs().argmin())
    if (plane.x[at[0]] - plane.corners[2, 0]).abs() < 1e-9:
        assert plane.loss[at[1], at[0]].item() == pytest.approx(lmc.evaluate(networks[2], batches).loss)
    corner = (plane.x - plane.corners[0, 0]).abs().argmin(), (plane.y - plane.corners[0, 1]).abs().argmin()
    assert plane.y[corner[1]].item() == pytest.approx(0, abs=1e-9)


def test_static_twins_draw(make_mlp, make_batches):
    networks, batches = [make_mlp(seed=seed) for seed in range(3)], make_batches(WIDTHS)
    loss, accuracy = lmc.interpolate(*networks[:2], batches, points=3).plot(label="vanilla")
    assert loss.get_ylabel() == "loss (nats)"
    assert accuracy.get_ylabel() == "accuracy"
    assert lmc.interpolate_plane(networks, batches, points=3).plot().collections
    matplotlib.pyplot.close("all")


def test_repair_gives_every_unit_the_interpolated_mean_and_spread(make_mlp, make_batches):
    a, b, batches = make_mlp(seed=0), make_mlp(seed=1), make_batches(WIDTHS)
    repaired = lmc.repair(a, b, 0.25, batches)
    ends, now = (moments(a, batches), moments(b, batches)), moments(repaired, batches)
    for site in a.spec.sites:
        for i in range(2):  # mean, standard deviation
            goal = 0.75 * ends[0][site][i] + 0.25 * ends[1][site][i]
            assert torch.allclose(now[site][i], goal)


def test_repair_leaves_the_end_points_alone(make_mlp, make_batches):
    a, b, batches = make_mlp(seed=0), make_mlp(seed=1), make_batches(WIDTHS)
    plain, repaired = (
        lmc.interpolate(a, b, batches, points=3, merge=how) for how in (lmc.merge, partial(lmc.repair, batches=batches))
    )
    assert torch.equal(plain.loss[[0, 2]], repaired.loss[[0, 2]])
    assert plain.loss[1] != repaired.loss[1]
    for lam, end in ((0.0, a), (1.0, b)):
        same = lmc.repair(a, b, lam, batches)
        assert all(torch.allclose(p, end.params[name]) for name, p in same.params.items())


def test_repair_needs_a_bias_to_shift(make_batches):
    from torch import nn

    networks = [
        lmc.canonicalize(nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 3))) for _ in range(2)
    ]
    with pytest.raises(ValueError, match=r"no parameter of site 'ff\.0' is one"):
        lmc.repair(*networks, 0.5, make_batches((4, 5, 3)))
