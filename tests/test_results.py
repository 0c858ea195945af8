"""The tables of long runs: they load, belong to what ships, and hold what the book says of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

import lmc_utils as lmc
from lmc_utils import data as data_module

MODERN = {"llama", "neox", "resnet20"}
TABLES = ("barriers", "vit-study", "ablations", "cost", "widths", "simplices", "merging", "adding", "axes")


@pytest.fixture(scope="module")
def barriers():
    return lmc.load_table("barriers")


def barrier(rows, column: str = "loss") -> float:
    """The largest excess over the line between the first and the last value."""
    values, lambdas = (torch.tensor(rows[name].to_numpy()) for name in (column, "lambda"))
    return (values - torch.lerp(values[0], values[-1], lambdas)).max().item()


def mean_barrier(table, name: str, method: str, split: str, column: str = "loss") -> float:
    rows = table[(table.set == name) & (table.method == method) & (table.split == split)]
    assert len(rows.pair.unique()) == 3
    return sum(barrier(one, column) for _, one in rows.groupby("pair")) / 3


@pytest.mark.parametrize("name", TABLES)
def test_every_table_loads_and_is_complete(name):
    table = lmc.load_table(name)
    assert len(table) > 0
    assert not table.isna().any().any()


def test_a_missing_or_damaged_table_is_named(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "cost.csv").write_text("width\n1\n")
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  results/cost.csv\n")
    monkeypatch.setattr(data_module, "ASSETS", tmp_path)
    with pytest.raises(ValueError, match=r"results/cost.csv .*damaged"):
        lmc.load_table("cost")
    with pytest.raises(FileNotFoundError, match=r"results/none.csv is missing"):
        lmc.load_table("none")


@pytest.mark.parametrize("name", ["vit", "gpt2", "gpt2-dropout"])
def test_the_table_of_barriers_belongs_to_the_shipped_end_points(barriers, name):
    a, b = (lmc.canonicalize(lmc.load_endpoint(name, seed)) for seed in (0, 1))
    test = lmc.load_data(a.architecture.data, batch_size=50).test
    rows = barriers[(barriers.set == name) & (barriers.pair == "0-1") & (barriers.split == "test")]
    for method, g in (("vanilla", b.spec.identity()), ("weight", lmc.weight_matching(a, b))):
        losses = rows[rows.method == method].set_index("lambda").loss
        assert len(losses) == 17
        assert lmc.evaluate(lmc.merge(a, g(b)), test).loss == pytest.approx(losses[0.5], abs=2e-3)


@pytest.mark.parametrize("name", ["gpt2", "gpt2-dropout"])
def test_learned_matching_leaves_no_barrier_between_gpt2s_on_the_test_split(barriers, name):
    assert mean_barrier(barriers, name, "vanilla", "test") > 0.4
    assert mean_barrier(barriers, name, "learned", "test") <= 0.002


def test_dropout_brings_gpt2s_closer_by_weights_and_in_a_hundred_steps(barriers):
    height = {method: mean_barrier(barriers, "gpt2-dropout", method, "test") for method in ("vanilla", "weight")}
    assert height["weight"] <= 0.08 < 0.4 < height["vanilla"]
    ablations = lmc.load_table("ablations").query("ablation == 'as it is'").groupby("set").test
    assert ablations.get_group("gpt2-dropout").mean() <= 0.01 < ablations.get_group("gpt2").mean()


@pytest.mark.parametrize("name", ["vit", "gpt2-dropout"])
def test_end_points_with_dropout_are_connected_by_all_four_measures(barriers, name):
    measures = {split: mean_barrier(barriers, name, "learned", split) for split in ("test", "calibrated", "train")}
    rows = barriers[(barriers.set == name) & (barriers.method == "learned") & (barriers.split == "test")].copy()
    rows["error"] = 1 - rows.accuracy
    measures["accuracy"] = sum(barrier(one, "error") for _, one in rows.groupby("pair")) / 3
    assert all(value <= 0.01 for value in measures.values()), measures


def test_dropout_closes_the_barrier_by_all_four_measures():
    study = lmc.load_table("vit-study")
    means = study[study.method == "learned"].groupby("case")[["test", "accuracy", "calibrated", "train"]].mean()
    assert (means.loc["pooling, dropout .2"] <= 0.01).all()
    assert means.loc["pooling, overfit"].test <= 0.01 < 0.1 < means.loc["pooling, overfit"].train


def test_the_table_of_widths_belongs_to_the_shipped_end_points():
    a, b = (lmc.canonicalize(lmc.load_endpoint(name, 0)) for name in ("gpt2", "gpt2-32"))
    test = lmc.load_data("shakespeare", batch_size=50).test
    n = -(-len(test.inputs) // 200)
    thin = replace(test, inputs=test.inputs[::n], targets=test.targets[::n])
    rows = lmc.load_table("widths")
    rows = rows[(rows.narrow == "gpt2-32") & (rows.pair == "0-0") & (rows.split == "test")]
    losses = rows[rows.method == "weight"].set_index("lambda").loss
    middle = lmc.merge(a, lmc.weight_matching(a, b)(b))
    assert lmc.evaluate(middle, thin).loss == pytest.approx(losses[0.5], abs=2e-3)
    heights = {method: barrier(curve) for method, curve in rows.groupby("method")}
    assert heights["learned"] < heights["weight"] < heights["activation"] < heights["padding"]


def simplex(name: str, method: str, split: str = "test") -> lmc.Simplex:
    table = lmc.load_table("simplices")
    rows = table[(table.set == name) & (table.method == method) & (table.split == split)]
    weights, loss, accuracy, calibrated = (
        torch.tensor(rows[c].to_numpy()) for c in (["a", "b", "c"], "loss", "accuracy", "calibrated")
    )
    return lmc.Simplex(weights / weights.sum(1, keepdim=True), loss, accuracy, calibrated=calibrated)


def test_every_pair_and_triple_of_the_kinds_that_ship_in_three_seeds_is_measured(barriers):
    trios = {name for name, seeds in lmc.list_endpoints().items() if len(seeds) == 3 and name != "adder"}
    assert set(barriers.set) == trios
    assert set(lmc.load_table("simplices").set) == trios - MODERN
    assert all(set(rows.pair) == {"0-1", "0-2", "1-2"} for _, rows in barriers.groupby("set"))


@pytest.mark.parametrize("name", sorted(MODERN))
def test_the_rows_of_modern_blocks_belong_to_the_shipped_end_points(barriers, name):
    a, b = (lmc.canonicalize(lmc.load_endpoint(name, seed)) for seed in (0, 1))
    data = lmc.load_data("fashion-mnist" if name == "resnet20" else "shakespeare", batch_size=50)
    n = -(-len(data.test.inputs) // (2000 if name == "resnet20" else 250))
    test = replace(data.test, inputs=data.test.inputs[::n], targets=data.test.targets[::n])
    rows = barriers.query(f"set == '{name}' and pair == '0-1' and split == 'test'")
    for method, g in (("vanilla", b.spec.identity()), ("weight", lmc.weight_matching(a, b))):
        losses = rows[rows.method == method].set_index("lambda").loss
        assert lmc.evaluate(lmc.merge(a, g(b)), test).loss == pytest.approx(losses[0.5], abs=5e-3)


def test_modern_blocks_keep_the_order_that_the_book_tells(barriers):
    """For every pair and on every split; of ResNets activation matching is nothing without repair."""
    for (name, *where), rows in barriers[barriers.set.isin(MODERN)].groupby(["set", "pair", "split"]):
        heights = {method: barrier(curve) for method, curve in rows.groupby("method")}
        assert heights["learned"] < heights["learned, permutations only"], (name, where)
        if name == "resnet20":
            assert heights["activation, repaired"] < 0.6 < 2 < min(heights["activation"], heights["weight"]), where
            assert heights["learned"] < heights["learned, repaired"], where
        else:
            assert heights["vanilla"] > heights["activation"] > heights["weight"] > 2 * heights["learned"], where


def test_the_standard_errors_of_a_triangle_belong_to_its_excess():
    networks = [lmc.canonicalize(lmc.load_endpoint("vit", seed)) for seed in range(3)]
    test = lmc.load_data("fashion-mnist").test
    rows = lmc.load_table("simplices").query("set == 'vit' and method == 'vanilla' and split == 'test'")
    assert (rows.error[rows[["a", "b", "c"]].max(axis=1) == 1] == 0).all()
    middle = rows[(rows.a - 1 / 3).abs() + (rows.b - 1 / 3).abs() < 1e-3]
    with torch.no_grad():
        mixed, *single = (
            cross_entropy(network(test.inputs), test.targets, reduction="none")
            for network in (lmc.average(networks), *networks)
        )
    excess = mixed - sum(single) / 3
    assert excess.std().item() / len(excess) ** 0.5 == pytest.approx(middle.error.item(), rel=1e-2)


def test_the_table_of_simplices_belongs_to_the_shipped_end_points():
    networks = [lmc.canonicalize(lmc.load_endpoint("vit", seed)) for seed in range(3)]
    test = lmc.load_data("fashion-mnist", batch_size=50).test
    universe, _ = lmc.universe_matching(networks)
    found = simplex("vit", "weight, universe")
    middle = (found.weights - 1 / 3).abs().sum(1).argmin()
    assert lmc.evaluate(universe, test).loss == pytest.approx(found.loss[middle].item(), abs=5e-3)
    for vertex, network in zip(found.weights.argmax(0), networks, strict=True):
        assert lmc.evaluate(network, test).loss == pytest.approx(found.loss[vertex].item(), abs=1e-3)


def test_three_gpt2s_are_connected():
    assert simplex("gpt2", "vanilla").barrier > 0.8
    for name, split in (("gpt2", "test"), ("gpt2-dropout", "test"), ("gpt2-dropout", "train")):
        assert simplex(name, "learned", split).barrier <= 0.01


def test_three_vits_are_connected_by_all_four_measures(barriers):
    assert simplex("vit", "vanilla").barrier > 1
    found, seen = (simplex("vit", "learned, 60,000 images", split) for split in ("test", "train"))
    measures = found.barrier, found.calibrated_barrier, found.accuracy_barrier, seen.barrier
    assert all(value <= 0.01 for value in measures), measures
    assert found.barrier <= 2 * mean_barrier(barriers, "vit", "learned", "test")


def test_merging_pays_on_fresh_seeds_and_longer_training_pays_more():
    table = lmc.load_table("merging")
    assert len(table.triple.unique()) == 3
    for _, triple in table.groupby("triple"):
        found = triple.set_index("network")
        parents = found[found.index.str.startswith("network")]
        assert len(parents) == 3
        average, ensemble, longer = (found.loc[kind] for kind in ("average", "ensemble", "three times as long"))
        assert (parents.loss > average.loss).all() and (parents.accuracy < average.accuracy).all()
        assert average.loss_gain < -3 * average.loss_gain_error
        assert longer.loss < ensemble.loss < average.loss
        assert average.loss_gain == pytest.approx(average.loss - parents.loss.mean(), abs=1e-4)


def test_networks_that_add_are_connected_by_all_symmetries_and_not_by_permutations():
    table = lmc.load_table("adding")
    worst = table.groupby(["method", "pair"]).right.min()
    assert len(worst["learned"]) == 6
    assert worst["learned"].min() > 0.88
    assert worst["learned"][["3-4", "3-5", "4-5"]].min() > 0.99, "pairs that were not looked at before"
    assert worst["learned, permutations only"].max() < 0.05
    a, b = (lmc.canonicalize(lmc.load_endpoint("adder", seed)) for seed in (0, 1))
    rows = table[(table.pair == "0-1") & (table.method == "vanilla")]
    curve = lmc.interpolate(a, b, lmc.load_data("sums", batch_size=2000).test, points=17)
    assert curve.loss.tolist() == pytest.approx(rows.loss.tolist(), rel=1e-3)
