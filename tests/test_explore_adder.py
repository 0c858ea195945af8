"""Two networks that add: the data, what a page holds of the networks, and the figure in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from drivers import drive_adder
from playwright.sync_api import Page, expect
from test_figures import troubles  # noqa: F401

import lmc_utils as lmc
from lmc_utils.explore.adder import Adder
from lmc_utils.landscape.evaluate import whole_accuracy

SUMS = lmc.load_data("sums")


def network(seed: int) -> lmc.Network:
    return lmc.canonicalize(lmc.load_endpoint("adder", seed))


@pytest.fixture(scope="module")
def figure() -> Adder:
    ends = {"vanilla": network(1), "weight": lmc.weight_matching(network(0), network(1))(network(1))}
    return lmc.explore_adder(network(0), ends, SUMS.test, title="Sums", points=5)


def questions(split: lmc.data.Batches) -> set[tuple[int, int]]:
    a, b = (split.inputs[:, i] * 10 + split.inputs[:, i + 1] for i in (0, 3))
    return set(zip(a.tolist(), b.tolist(), strict=True))


def test_sums_are_all_sums_each_once_and_right():
    train, test = (questions(split) for split in (SUMS.train, SUMS.test))
    assert len(train) == 8000
    assert len(test) == 2000
    assert not train & test
    assert not {(b, a) for a, b in train} & test, "whoever knows 38 + 47 has seen 47 + 38"
    for split in (SUMS.train, SUMS.test):
        for read, told in zip(split.inputs[::97].tolist(), split.targets[::97].tolist(), strict=True):
            question = SUMS.tokenizer.decode(read)[:6]
            assert told[:5] == [11] * 5
            assert f"{eval(question[:5].replace('+0', '+').lstrip('0') or '0'):03}" == "".join(map(str, told[:4:-1]))
            assert read[6:] == told[5:7], "what was answered is read"
    assert SUMS.tokenizer.encode("47+38=").ids == [4, 7, 10, 3, 8, 11]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_end_point_adds(seed):
    assert whole_accuracy(network(seed), SUMS.test) == 1


def test_a_sum_is_right_if_all_its_digits_are():
    class Echo(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(x, 12).float()

    inputs = torch.tensor([[1, 2], [3, 4], [5, 6]])
    targets = torch.tensor([[1, 2], [3, 9], [9, 9]])
    assert whole_accuracy(Echo(), [(inputs, targets)]) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="no batch to evaluate on"):
        whole_accuracy(Echo(), [])


def test_eight_bits_leave_the_answers_alone(figure):
    right = figure.data["right"]["vanilla"]
    a, b = network(0), network(1)
    exact = [whole_accuracy(lmc.merge(a, b, lam), SUMS.test) for lam in figure.data["lambdas"]]
    assert right == pytest.approx(exact, abs=0.03)
    assert right[0] == right[-1] == 1
    assert right[2] < 0.01 < figure.data["right"]["weight"][2]


def test_the_bundle_is_small_and_has_twin_and_numbers(figure):
    assert len(figure.state) < 150_000
    header, rows = figure.table()
    assert [row[0] for row in rows] == ["vanilla", "weight"]
    assert len(header) == len(rows[0])
    assert rows[0][1] == "100 %"
    assert len(figure.static().axes[0].lines) == 2
    assert figure.summary == "Sums. Sums that are right along the path from network A to network B: vanilla, weight"


def test_another_size_is_run_as_well(page: Page, troubles: list, tmp_path: Path):  # noqa: F811
    """The script reads the sizes from the state: three blocks, two heads."""
    from lmc_utils.networks.base import BUILDERS
    from lmc_utils.zoo.presets import PRESETS, shaped

    config = shaped("gpt2", PRESETS["adder"].config | {"n_layer": 3, "n_head": 2}, SUMS)
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(lmc.canonicalize(BUILDERS["gpt2"](**config)))
    drawn = lmc.explore_adder(networks[0], {"vanilla": networks[1]}, SUMS.test.take(20), points=3)
    page.goto(drawn.to_html(tmp_path / "figure.html").as_uri())
    assert drawn.shown["sizes"] == {"blocks": 3, "heads": 2}
    for row in page.locator("tbody tr").all():
        expect(row.locator("td")).to_contain_text(", wrong")


@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_driven_by_mouse_keys_and_typing(figure, page: Page, troubles: list, tmp_path: Path, width):  # noqa: F811
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(figure.to_html(tmp_path / "figure.html").as_uri())
    drive_adder(page, page.locator(".lmc-figure"), json.loads(figure.state))


def test_an_empty_field_waits(figure, page: Page, troubles: list, tmp_path: Path):  # noqa: F811
    page.goto(figure.to_html(tmp_path / "figure.html").as_uri())
    first = page.get_by_label("first number")
    row = page.locator("tbody tr").first
    before = row.locator("td").all_inner_texts()
    first.fill("")
    assert row.locator("td").all_inner_texts() == before
    page.locator("input[type=range]").fill("0")
    first.fill("0")
    page.get_by_label("second number").fill("0")
    expect(row.locator("td").first).to_have_text("0✓, right")
