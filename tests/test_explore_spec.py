"""The picture of a type table, seen from Python: rows, sides, formulas, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from test_transformers import gpt2, vit
from torch import Tensor

import lmc_utils as lmc
from lmc_utils.explore import SpecFigure, explore_spec
from lmc_utils.explore.spec import find_bus, formula
from lmc_utils.spec import Alignment, Site, Spec

MATRICES = {
    "T": lambda element: element.matrix(),
    "T^{T}": lambda element: element.matrix().mT,
    "T^{−1}": lambda element: element.left_inverse(),
    "T^{−T}": lambda element: element.dual(),
}


@pytest.fixture(scope="module")
def network() -> lmc.Network:
    return lmc.canonicalize(gpt2().double())


@pytest.fixture(scope="module")
def figure(network: lmc.Network) -> SpecFigure:
    return explore_spec(network, title="GPT-2")


def spoken(text: str, g: Alignment, x: Tensor) -> Tensor:
    """What a formula says, done."""

    def product(text: str, x: Tensor) -> Tensor:
        before = True
        for factor in text.split():
            if "_{" not in factor:
                before = False
                continue
            kind, site = re.fullmatch(r"(.*)_\{(.*)\}", factor).groups()
            matrix = MATRICES[kind](g[site])
            if before:
                x = matrix @ x if x.ndim > matrix.ndim - 1 else (matrix @ x.unsqueeze(-1)).squeeze(-1)
            else:
                x = x @ matrix
        return x

    heads = re.search(r"⟨(\S+)_\{(.*?)\} (.*?)⟩", text)
    if heads is None:
        return product(text, x)
    kind, site, name = heads.groups()
    x = torch.tensordot(MATRICES[kind](g[site]), x, 1)
    return product(text.replace(heads[0], name), x)


def test_formulas_say_what_the_symmetry_does(network: lmc.Network) -> None:
    g = network.spec.sample(seed=0)
    moved = g.act(network.params)
    for name, x in network.params.items():
        torch.testing.assert_close(spoken(formula(network.spec, name), g, x), moved[name], msg=name)
    assert formula(network.spec, "0.q.weight") == "T_{qk.0} ⟨T^{−T}_{heads.0} 0.q.weight⟩ T^{−1}_{r}"
    assert formula(network.spec, "head.bias") == "head.bias", "no symmetry moves it"


def test_every_parameter_and_site_stands_in_one_row(figure: SpecFigure, network: lmc.Network) -> None:
    data = figure.data
    placed = [name for row in data["rows"] for side in ("left", "right") for name in row[side]]
    assert sorted(placed) == sorted(network.spec.types)
    assert [site for row in data["rows"] for site in row["sites"]] == list(network.spec.sites)


def test_writers_of_the_bus_stand_left_and_readers_right(figure: SpecFigure, network: lmc.Network) -> None:
    assert figure.data["bus"] == "r"
    for row in figure.data["rows"]:
        for side, dual in (("left", False), ("right", True)):
            for name in row[side]:
                assert {axis.dual for axis in network.spec.axes(name) if axis.site == "r"} <= {dual}, name
    attention = figure.data["rows"][1]
    assert attention["sites"] == ["heads.0", "qk.0", "ov.0"]
    assert "0.q.bias" in attention["right"], "beside the weight that also writes qk"
    assert {row["block"] for row in figure.data["rows"]} == {"", "0", "1"}


def test_bus_is_found_whatever_the_order_of_the_sites(network: lmc.Network, make_mlp) -> None:
    sites = dict(reversed(network.spec.sites.items()))
    assert find_bus(Spec(network.spec.types, sites)) == "r"
    assert find_bus(lmc.canonicalize(vit()).spec) == "r"
    assert find_bus(make_mlp().spec) is None, "a chain has no bus"


def test_chain(make_mlp) -> None:
    rows = explore_spec(make_mlp()).data["rows"]
    assert [row["sites"] for row in rows] == [["ff.0"], ["ff.1"], []]
    assert [row["right"][0] for row in rows] == ["fc0.weight", "fc1.weight", "fc2.weight"]


def test_table_is_the_table_of_types(figure: SpecFigure, network: lmc.Network) -> None:
    _, rows = figure.table()
    assert {row[0]: row[1] for row in rows} == dict(network.spec.types)
    for name, _, shape, _ in rows:
        assert shape == " × ".join(map(str, network.params[name].shape))


def test_static_twin_shows_one_block(figure: SpecFigure) -> None:
    said = [text.get_text().strip() for text in figure.static().axes[0].texts]
    assert "0.q.weight" in said and "1.q.weight" not in said and "head.weight" in said
    assert any(re.fullmatch(r"G qk\.0: Invertible\(\d+\) in each of heads\.0", text) for text in said)


def test_classes_are_told_apart_by_letter(figure: SpecFigure, make_mlp) -> None:
    letters = {site["class"]: site["letter"] for site in figure.data["sites"].values()}
    letters |= {site["class"]: site["letter"] for site in explore_spec(make_mlp()).data["sites"].values()}
    assert letters == {"StreamOrthogonal": "O", "Permutation": "P", "Invertible": "G", "ScaledPermutation": "S"}


def test_class_of_ones_own_has_the_look_of_its_base(make_mlp) -> None:
    class Shift(lmc.Permutation):
        pass

    net = make_mlp()
    sites = {name: Site(Shift, site.size) for name, site in net.spec.sites.items()}
    net = replace(net, architecture=replace(net.architecture, spec=Spec(net.spec.types, sites)))
    shown = explore_spec(net).data["sites"]["ff.0"]
    assert (shown["class"], shown["letter"]) == ("Shift", "P")


def test_free_directions_are_counted_for_all_heads_together(figure: SpecFigure, network: lmc.Network) -> None:
    sites, spec = figure.data["sites"], network.spec
    width, heads, size = spec.sizes["r"], spec.sizes["heads.0"], spec.sizes["qk.0"]
    assert sites["r"]["free"] == (width - 1) * (width - 2) // 2
    assert sites["qk.0"]["free"] == sites["ov.0"]["free"] == heads * size**2
    assert sites["heads.0"]["free"] == sites["ff.0"]["free"] == 0
    with pytest.raises(ValueError, match="site must be one of"):
        spec.dimensions("nowhere")


def test_several_networks_are_named(network: lmc.Network, make_mlp) -> None:
    figure = explore_spec({"GPT-2": network, "MLP": make_mlp()})
    assert figure.data == {"GPT-2": explore_spec(network).data, "MLP": explore_spec(make_mlp()).data}
    header, rows = figure.table()
    assert header[-1] == "free directions"
    assert [row[:2] for row in rows][-2:] == [["MLP", "ff.0"], ["MLP", "ff.1"]]
    assert figure.summary == "The type tables of GPT-2, MLP as pictures"
    assert len(explore_spec({"GPT-2": network}).table()[0]) == 4, "one network has its parameters in the table"


def test_bad_networks_are_named(network: lmc.Network) -> None:
    with pytest.raises(ValueError, match="no network to draw"):
        explore_spec({})
    with pytest.raises(TypeError, match=r"network\['b'\] .*GPT2LMHeadModel"):
        explore_spec({"a": network, "b": gpt2()})
    with pytest.raises(TypeError, match="the name of a network"):
        explore_spec({1: network})


def test_a_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"not a GPT2LMHeadModel: lmc\.canonicalize\(model\)"):
        explore_spec(gpt2())


def test_state_is_small() -> None:
    assert len(explore_spec(lmc.canonicalize(gpt2(n_layer=24))).state) < 75_000
