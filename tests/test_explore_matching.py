"""A matching that is carried out unit by unit: what the figure shows is what the networks do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from drivers import drive_matching
from playwright.sync_api import Page
from test_figures import troubles  # noqa: F401

import lmc_utils as lmc
from lmc_utils.explore.matching import Matching

DATA = lmc.load_data("digits", batch_size=400)
FLAT = [(x.flatten(1), y) for x, y in DATA.test]


def network(seed: int) -> lmc.Network:
    torch.manual_seed(seed)
    layers = torch.nn.Linear(64, 12), torch.nn.ReLU(), torch.nn.Linear(12, 12), torch.nn.ReLU(), torch.nn.Linear(12, 10)
    return lmc.canonicalize(torch.nn.Sequential(*layers))


A, B = network(0), network(1)
G = lmc.weight_matching(A, B)


@pytest.fixture(scope="module")
def figure() -> Matching:
    return lmc.explore_matching(A, B, G, FLAT, steps=4, title="Digits")


def test_it_begins_with_b_as_it_is_and_ends_with_b_matched(figure):
    excess = figure.data["excess"]
    as_it_is, matched = (lmc.interpolate(A, end, FLAT, points=3).excess[1].item() for end in (B, G(B)))
    assert excess[-1] == pytest.approx(matched, rel=1e-3, abs=1e-6)
    relabelled = lmc.explore_matching(A, B, lmc.weight_matching(A, B, allow="permutation"), FLAT, steps=1)
    assert relabelled.data["excess"][0] == pytest.approx(as_it_is, rel=1e-3, abs=1e-6)


def test_each_step_is_a_relabelling_and_the_best_pairs_come_first(figure):
    state = figure.shown
    assert state["placed"] == [0, 3, 6, 9, 12]
    assert all(sorted(order) == list(range(12)) for order in state["orders"])
    final = state["orders"][-1]
    for placed, order in zip(state["placed"], state["orders"], strict=True):
        assert order[:placed] == final[:placed]
    x, y = (net.activations(FLAT[0][0])["ff.0"] for net in (A, B))
    table = torch.corrcoef(torch.cat([x.T, y.T]))[:12, 12:].nan_to_num()
    partners = G["ff.0"].matrix().argmax(1)
    pairs = table[torch.arange(12), partners]
    assert final == partners[pairs.argsort(descending=True)].tolist()
    assert figure.data["likeness"][-1] == pytest.approx(pairs.mean().item(), abs=1e-4)


def test_a_planted_relabelling_ends_at_the_loss_of_a():
    planted = A.spec.sample(0, allow="permutation")
    shown = lmc.explore_matching(A, planted.inverse()(A), planted, FLAT, steps=3)
    assert shown.data["excess"][-1] == pytest.approx(0, abs=1e-6)
    assert shown.data["likeness"][-1] == pytest.approx(1, abs=1e-4)


def test_the_bundle_has_twin_and_numbers(figure):
    header, rows = figure.table()
    assert [len(row) for row in rows] == [len(header)] * 5
    assert len(figure.static().axes[0].lines) == 1
    assert figure.summary.startswith("Digits. Units of B numbered like those of A")


def test_heads_which_no_activation_shows_are_moved_at_once():
    a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    g, sums = lmc.weight_matching(a, b), lmc.load_data("sums").test.take(50)
    shown = lmc.explore_matching(a, b, g, sums, steps=1)
    assert shown.shown["site"] == "ff.0"
    expected = lmc.interpolate(a, g(b), sums, points=3).excess[1].item()
    assert shown.data["excess"][-1] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_driven_by_mouse_and_keys(figure, page: Page, troubles: list, tmp_path: Path, width):  # noqa: F811
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(figure.to_html(tmp_path / "figure.html").as_uri())
    drive_matching(page, page.locator(".lmc-figure"), json.loads(figure.state))
