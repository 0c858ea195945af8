"""Typed parameters: the table, its checks, and alignments as a group that acts on networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import lmc_utils as lmc
from lmc_utils.spec import Axis, Site, Spec, Touch
from lmc_utils.symmetry import Permutation

HIDDEN = {"h": Site(Permutation, 3)}


def equal(a: lmc.Network, b: lmc.Network) -> bool:
    return all(torch.equal(a.params[name], b.params[name]) for name in a.params)


def close(a: lmc.Network, b: lmc.Network) -> bool:
    return all(torch.allclose(a.params[name], b.params[name], atol=1e-12) for name in a.params)


def test_types_are_read_as_they_are_printed():
    for text in ("_", "ff.0", "ff.0*"):
        assert str(Axis.parse(text)) == text


def test_the_spec_prints_as_a_table_of_types(make_mlp):
    table = str(make_mlp().spec)
    assert "fc1.weight  ff.1 ff.0*" in table
    assert "ff.1        ScaledPermutation(6)" in table


def test_touching_lists_writers_and_readers(make_mlp):
    assert make_mlp().spec.touching("ff.0") == [
        Touch("fc0.weight", 0, False),
        Touch("fc0.bias", 0, False),
        Touch("fc1.weight", 1, True),
    ]


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_alignments_act_as_a_group(make_mlp, seed1, seed2):
    b = make_mlp()
    g, h = b.spec.sample(seed1), b.spec.sample(seed2)
    assert close((g @ h)(b), g(h(b)))
    assert close(g.inverse()(g(b)), b)
    assert equal(b.spec.identity()(b), b)


def test_acting_changes_nothing_that_was_passed_in(make_mlp):
    b, before = make_mlp(), make_mlp()
    b.spec.sample(1)(b)
    assert equal(b, before)


def test_the_sample_is_decided_by_its_seed(make_mlp):
    spec = make_mlp().spec
    one, again, other = (spec.sample(seed, allow="permutation") for seed in (3, 3, 4))
    assert all(one[site] == again[site] for site in spec.sites)
    assert any(one[site] != other[site] for site in spec.sites)


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ({"w": "q h*"}, r"'w', 'q h\*', names the unknown site \['q'\]"),
        ({"w": "h h*"}, "names a site twice"),
        ({"w": "_ _"}, r"no parameter touches the sites \['h'\]"),
    ],
)
def test_a_bad_table_is_refused(types, message):
    with pytest.raises(ValueError, match=message):
        Spec(types, HIDDEN)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, r"missing \['w'\]"),
        ({"w": torch.zeros(3, 2), "v": torch.zeros(1)}, r"unknown \['v'\]"),
        ({"w": torch.zeros(4, 2)}, r"'w' has shape \(4, 2\).*asks for \(3, '\*'\)"),
        ({"w": torch.zeros(3)}, r"'w' has shape \(3,\)"),
        (
            {"w": torch.tensor([[0.0, 1.0], [1.0, float("nan")], [0.0, float("inf")]])},
            r"\(3, 2\) has 2 NaN or infinite",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        Spec({"w": "h _"}, HIDDEN).check(params)


def test_alignments_are_for_one_architecture(make_mlp):
    small, large = make_mlp((4, 5, 6, 3)), make_mlp((4, 5, 7, 3))
    with pytest.raises(ValueError, match="another architecture"):
        small.spec.identity()(large)
    with pytest.raises(ValueError, match="same architecture"):
        small.spec.identity() @ large.spec.identity()
    with pytest.raises(KeyError, match=r"no site 'ff.9'; the sites are \['ff.0', 'ff.1'\]"):
        small.spec.identity()["ff.9"]
    with pytest.raises(ValueError, match="maps for the sites"):
        replace(small.spec.identity(), maps={})
