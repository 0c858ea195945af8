"""The plane with a probe, seen from Python."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor

from lmc_utils.explore import PlaneFigure, explore_plane
from lmc_utils.explore.figure import show
from lmc_utils.explore.plane import BANDS
from lmc_utils.explore.strip import pictures
from lmc_utils.landscape.curve import Curve
from lmc_utils.landscape.evaluate import Examples
from lmc_utils.landscape.plane import Plane

CORNERS = torch.tensor([[0.0, 0.0], [8.0, 0.0], [2.0, 5.0]], dtype=torch.float64)


def loss_at(x: Tensor, y: Tensor) -> Tensor:
    """A ridge between the first network and the second one; the third lies on the first one's side."""
    return 0.4 + 2 * torch.exp(-((x - 4 - y / 4) ** 2)) + 0.01 * (x**2 + y**2) / 9


def make_plane(points: int = 21) -> Plane:
    x, y = (torch.linspace(low, high, points, dtype=torch.float64) for low, high in ((-2, 10), (-1.25, 6.25)))
    return Plane(x, y, loss_at(x, y[:, None]), CORNERS)


def make_paths(points: int = 25) -> dict[str, Curve]:
    lambdas = torch.linspace(0, 1, points, dtype=torch.float64)
    losses = [loss_at(*(lambdas[:, None] * tip).T) for tip in CORNERS[1:]]
    return {
        name: Curve(lambdas, loss, 0.9 - loss / 10) for name, loss in zip(("vanilla", "learned"), losses, strict=True)
    }


@pytest.fixture
def figure() -> PlaneFigure:
    return explore_plane(make_plane(), make_paths())


def test_data_are_what_was_measured(figure: PlaneFigure) -> None:
    shown, plane = figure.data, make_plane()
    for field in ("x", "y", "loss"):
        np.testing.assert_allclose(shown[field], getattr(plane, field), rtol=5e-5, atol=1e-9)
    np.testing.assert_allclose(list(shown["networks"].values()), plane.corners)
    assert list(shown["networks"]) == ["A", "B", "π(B)"]
    for name, curve in make_paths().items():
        np.testing.assert_allclose(shown["paths"][name]["loss"], curve.loss, rtol=5e-5)
        assert shown["paths"][name]["barrier"] == pytest.approx(curve.barrier, rel=5e-5)


def rings(d: str) -> list[np.ndarray]:
    return [np.array([point.split() for point in ring.split("L")], float) for ring in re.findall(r"M([^Z]*)Z", d)]


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def test_regions_hold_as_much_of_the_plane_as_lies_above_their_level(figure: PlaneFigure) -> None:
    state, plane = json.loads(figure.state), make_plane(points=401)
    assert len(state["colors"]) == BANDS and len(state["levels"]) == BANDS + 1 and len(state["regions"]) == BANDS - 1
    ratios = np.divide(state["levels"][1:], state["levels"][:-1])
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-3)
    whole = 1000 * 1000 * 7.5 / 12
    for level, region in zip(state["levels"][1:-1], state["regions"], strict=True):
        share = sum(map(area, rings(region))) / whole  # holes turn the other way round
        assert share == pytest.approx((plane.loss >= level).double().mean().item(), abs=0.02)


def test_region_of_an_island_has_a_hole() -> None:
    plane = make_plane()
    ring = (plane.x - 4) ** 2 + (plane.y[:, None] - 2.5) ** 2
    state = json.loads(explore_plane(replace(plane, loss=0.5 + torch.exp(-((ring - 4) ** 2))), make_paths()).state)
    signs = [np.sign(area(ring)) for ring in rings(state["regions"][BANDS // 2])]
    assert sorted(signs) == [-1, 1], "a ring: an outer edge and a hole"


def test_a_flat_plane_has_colours(figure: PlaneFigure) -> None:
    flat = explore_plane(replace(make_plane(), loss=torch.full((21, 21), 0.4)), make_paths())
    assert json.loads(flat.state)["levels"][-1] > 0.4


def test_table_and_summary(figure: PlaneFigure) -> None:
    header, rows = figure.table()
    curves = list(make_paths().values())
    assert header[-3:] == ["distance to A", "distance to B", "distance to π(B)"]
    assert [row[:3] for row in rows] == [
        ["A", show(0.4), "–"] if k == 0 else [name, show(curve.loss[-1].item()), show(curve.barrier)]
        for k, (name, curve) in enumerate(zip(("A", "B", "π(B)"), (curves[0], *curves), strict=True))
    ]
    assert rows[1][3:] == ["8.00", "0", show(61**0.5)]
    assert "A, B, π(B)" in figure.summary and not re.search(r"\d", figure.summary)


def test_sizes_and_stability(figure: PlaneFigure) -> None:
    assert len(figure.state.encode()) < 30_000
    assert explore_plane(make_plane(), make_paths())._fragment() == figure._fragment()


def test_static_twin(figure: PlaneFigure) -> None:
    plane, profile, *_ = figure.static().axes
    assert [text.get_text() for text in plane.texts] == ["A", "B", "π(B)"]
    drawn = [line.get_ydata() for line in profile.lines if len(line.get_xdata()) == 25]
    for values, curve in zip(drawn, make_paths().values(), strict=True):
        np.testing.assert_allclose(values, curve.loss, rtol=5e-5)
    figure.static().savefig(io.BytesIO())
    plt.close("all")


def changed(**fields: Tensor) -> Plane:
    return replace(make_plane(), **fields)


@pytest.mark.parametrize(
    ("plane", "paths", "names", "message"),
    [
        (make_plane(), dict(list(make_paths().items())[:1]), "ABC", "two straight lines .* paths \\['vanilla'\\]"),
        (make_plane(), make_paths(), "AB", "three networks .* names \\['A', 'B'\\]"),
        (changed(loss=make_plane().loss.clone().fill_(float("nan"))), make_paths(), "ABC", "the plane, of shape .21"),
        (changed(loss=make_plane().loss - 1), make_paths(), "ABC", "not a positive finite number: take a smaller"),
        (make_plane(), {**make_paths(), "learned": make_paths(11)["learned"]}, "ABC", "same lambdas.* 25 and 11"),
        (make_plane(), {**make_paths(), "learned": replace((c := make_paths()["learned"]), loss=c.loss + 1)}, "ABC",
         "both paths start at A, but its loss is 0.400 on the one and 1.40"),
    ],
)  # fmt: skip
def test_errors(plane: Plane, paths: dict[str, Curve], names: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explore_plane(plane, paths, names=names)


def images(at: int, seed: int = 0) -> Examples:
    """What so many networks answer to twelve images of three classes."""
    draw = torch.Generator().manual_seed(seed)
    answers = torch.rand(at, 12, 3, generator=draw).softmax(-1)
    return Examples(torch.rand(12, 1, 4, 4, generator=draw), torch.arange(12) % 3, answers, ("cat", "dog", "owl"))


def test_images_that_come_with_the_plane_are_shown_with_the_answers_there() -> None:
    plane = replace(make_plane(3), examples=images(9))
    paths = {name: replace(path, examples=images(5)) for name, path in make_paths(5).items()}
    shown = explore_plane(plane, paths).shown
    _, chosen = pictures({name: path.examples for name, path in paths.items()}, "")
    assert shown["images"]["truth"] == (chosen % 3).tolist()
    assert shown["images"]["classes"] == ["cat", "dog", "owl"]
    for found, given in ((shown["ground"], plane), *zip(shown["paths"], paths.values(), strict=True)):
        sure, answers = given.examples.probabilities[:, chosen].max(-1)
        assert found["answers"] == answers.tolist()
        assert torch.tensor(found["sure"]).allclose(sure, atol=1e-3)
    other = replace(images(9), targets=torch.zeros(12, dtype=torch.int64))
    with pytest.raises(ValueError, match="the plane and the paths saw different examples"):
        explore_plane(replace(plane, examples=other), paths)
    assert explore_plane(make_plane(3), make_paths(5)).shown["images"] is None
