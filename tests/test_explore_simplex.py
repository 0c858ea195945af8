"""The triangle, seen from Python: what goes into the page, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.path import Path as Outline
from test_explore import make_examples

from lmc_utils.explore import Triangle, explore_simplex
from lmc_utils.explore.figure import script, show
from lmc_utils.explore.strip import IMAGES
from lmc_utils.landscape.simplex import Simplex, lattice, triangle
from lmc_utils.style import style


def make_simplex(height: float, *, points: int = 7, images: bool = True) -> Simplex:
    """A hill in the middle, with lower ones on the edges, over vertices with losses 0.40, 0.41, 0.42."""
    weights = lattice(3, points)
    excess = height * (27 * weights.prod(1) + 2 * (weights[:, :1] * weights[:, 1:]).sum(1)) / 1.5
    loss = 0.4 + weights @ torch.tensor([0.0, 0.01, 0.02]).double() + excess
    examples = make_examples(excess, n=64) if images else None
    return Simplex(weights, loss, 0.85 * torch.exp(-0.4 * excess), examples)


def make_simplices() -> dict[str, Simplex]:
    return {"vanilla": make_simplex(1.6), "weight": make_simplex(0.12), "learned": make_simplex(0.004)}


def make_split_simplices() -> dict[str, dict[str, Simplex]]:
    return {
        name: {"test": simplex, "train": make_simplex(1.3 * simplex.barrier)}
        for name, simplex in make_simplices().items()
    }


@pytest.fixture
def figure() -> Triangle:
    return explore_simplex(make_simplices())


def test_data_are_the_simplices(figure: Triangle) -> None:
    for name, simplex in make_simplices().items():
        shown = figure.data["simplices"][name][""]
        for field in ("loss", "excess", "accuracy"):
            np.testing.assert_allclose(shown[field], getattr(simplex, field), rtol=5e-5, atol=1e-9)
        for field in ("barrier", "barycentre", "accuracy_barrier"):
            assert shown[field] == pytest.approx(getattr(simplex, field), rel=5e-5)
    np.testing.assert_allclose(figure.data["weights"], lattice(3, 7))


def test_splits_and_the_order_of_methods(figure: Triangle) -> None:
    shown = explore_simplex(make_split_simplices()).data["simplices"]
    assert [list(row) for row in shown.values()] == [["test", "train"]] * 3
    again = json.loads(json.dumps(json.loads(figure.state), sort_keys=True))
    assert [method["name"] for method in again["methods"]] == list(make_simplices())


def test_regions_hold_the_points_that_lie_above(figure: Triangle) -> None:
    state = json.loads(figure.state)
    xy = 1000 * triangle(lattice(3, 7)).T
    for (surface,), simplex in zip(state["surfaces"], make_simplices().values(), strict=True):
        assert len(surface["regions"]) == len(state["levels"][0]) - 2
        for level, region in zip(state["levels"][0][1:-1], surface["regions"], strict=True):
            inside = np.zeros(len(xy), int)
            for polygon in region.removesuffix("Z").split("Z"):
                if polygon:
                    corners = [[float(x) for x in corner.split()] for corner in polygon[1:].split("L")]
                    inside += Outline(corners).contains_points(xy, radius=3) | Outline(corners).contains_points(
                        xy, radius=-3
                    )
            clear = (simplex.loss - level).abs() > 0.02 * state["levels"][0][-1]
            np.testing.assert_array_equal((inside % 2 == 1)[clear], (simplex.loss > level)[clear])
    low, *_, high = state["levels"][0]
    losses = torch.cat([simplex.loss for simplex in make_simplices().values()])
    assert (low, high) == pytest.approx((losses.min().item(), losses.max().item()), rel=1e-4)


def test_answers_belong_to_images_that_all_three_recognise(figure: Triangle) -> None:
    state = json.loads(figure.state)
    (images,) = state["images"]
    assert len(images["truth"]) == IMAGES
    assert images["why"].startswith("Images that all three recognise")
    vertices = lattice(3, 7).argmax(0).tolist()
    for (surface,) in state["surfaces"]:
        answers = np.array(surface["answers"])
        np.testing.assert_array_equal(answers[vertices], [images["truth"]] * 3)
    assert (
        "answers" not in json.loads(explore_simplex({"vanilla": make_simplex(1, images=False)}).state)["surfaces"][0][0]
    )


def test_bundle_has_the_numbers_and_no_imports(figure: Triangle) -> None:
    data, _ = figure._repr_mimebundle_()
    assert (
        data["text/plain"]
        == figure.summary
        == "Loss over the triangle between three networks: vanilla, weight, learned"
    )
    fallback = data["text/html"].split("<script")[0]
    for simplex in make_simplices().values():
        assert f"<td>{show(float(f'{simplex.barrier:.5g}'))}</td>" in fallback
    assert "import" not in script("simplex")
    assert len(explore_simplex(make_split_simplices()).state) < 75_000


def test_static_twin_draws_every_method() -> None:
    profile, *triangles = explore_simplex(make_split_simplices(), title="both").static().axes
    assert len(triangles) == 3
    assert profile.get_title(loc="left") == "test loss around the triangle (nats)"
    weights = lattice(3, 7)
    for (name, row), line in zip(make_split_simplices().items(), profile.lines, strict=True):
        assert to_hex(line.get_color()) == style(name).color.lower()
        ends = [line.get_ydata()[i] for i in (0, 6, 12, 18)]
        corners = row["test"].loss[weights.argmax(0)].tolist()
        assert ends == pytest.approx([*corners, corners[0]], rel=1e-4)


def broken(field: str) -> Simplex:
    simplex = make_simplex(1)
    values = getattr(simplex, field).clone()
    values[3] = float("nan")
    return replace(simplex, **{field: values})


@pytest.mark.parametrize(
    ("simplices", "error", "message"),
    [
        ({}, ValueError, "at least one"),
        ({"vanilla": {}}, ValueError, "at least one"),
        ({"vanilla": [1, 2]}, TypeError, "'vanilla': expected a Simplex.*got list"),
        ({"a": make_simplex(1), "b": make_simplex(1, points=10)}, ValueError, "'b' has 55 points, 'a' 28"),
        ({"a": make_simplex(1), "b": {"test": make_simplex(1)}}, ValueError, "same splits: 'a' has"),
        ({"a": make_simplex(1, points=6)}, ValueError, r"points=7\), or 10"),
        ({"a": Simplex(lattice(4, 5), torch.ones(35).double(), torch.ones(35).double())}, ValueError, "these are of 4"),
        ({"a": broken("loss")}, ValueError, "the loss of 'a' is not finite at the mixture"),
        ({"a": {"train": broken("accuracy")}}, ValueError, "the accuracy of 'a' on 'train' is not finite"),
    ],
)  # fmt: skip
def test_errors(simplices: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        explore_simplex(simplices)


def test_examples_must_be_the_same_samples() -> None:
    simplices = make_simplices()
    other = make_examples(simplices["weight"].excess, n=40)
    with pytest.raises(ValueError, match="saw different examples"):
        explore_simplex(simplices | {"weight": replace(simplices["weight"], examples=other)})
