"""Numbers: what is found depends neither on the scale of weights nor on their dtype, and bad ones are named."""

from __future__ import annotations

import reprlib
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_learned import MAKE

import lmc_utils as lmc
from lmc_utils.matching.weight import balance
from lmc_utils.spec import Site, Spec
from lmc_utils.symmetry import (
    Fixed,
    Invertible,
    Orthogonal,
    Permutation,
    RMSOrthogonal,
    Rotary,
    RotaryPhase,
    RotarySign,
    ScaledPermutation,
    SemiPermutation,
    SoftPermutation,
    StreamOrthogonal,
    polar,
    sinkhorn,
)

HALF = [torch.float16, torch.bfloat16]
UNITS = [Fixed, Permutation, ScaledPermutation, SoftPermutation, SemiPermutation]
CLASSES = [*UNITS, Orthogonal, RMSOrthogonal, StreamOrthogonal, RotarySign, RotaryPhase, Rotary, Invertible]
every_class = pytest.mark.parametrize("cls", CLASSES)
every_network = pytest.mark.parametrize("name", ["mlp", "vit", "gpt2"])
scales = st.sampled_from([1e-150, 1e-16, 1e-8, 1e-3, 1e3, 1e8, 1e16, 1e150])


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> lmc.Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return lmc.canonicalize(MAKE[name][0]().double()).to(dtype)


def scaled(network: lmc.Network, factor: float) -> lmc.Network:
    return replace(network, params={name: p * factor for name, p in network.params.items()})


def distance(a: lmc.Network, b: lmc.Network) -> float:
    """Between the weights, relative to their size, computed in float64."""
    x, y = (torch.nn.utils.parameters_to_vector(n.to(torch.float64).params.values()) for n in (a, b))
    return ((x - y).norm() / x.norm()).item()


@every_class
@given(n=st.integers(1, 6), seed=st.integers(0, 2**31), factor=scales)
def test_the_best_element_for_a_cost_does_not_depend_on_its_scale(cls, n, seed, factor):
    n += bool(cls.obstacle(n, n))  # rotary dimensions come in pairs
    cost = torch.randn(n, n, generator=generator(seed), dtype=torch.float64)
    assert torch.allclose(cls.solve(cost).matrix(), cls.solve(factor * cost).matrix(), atol=1e-9)
    assert cls.contains(cls.solve(torch.zeros(n, n)).matrix()) == (True, "")


@given(n=st.integers(1, 4), m=st.integers(0, 4), seed=st.integers(0, 2**31), factor=scales)
def test_the_best_split_of_units_does_not_depend_on_the_scale_of_its_cost(n, m, seed, factor):
    cost = torch.randn(n + m, n, generator=generator(seed), dtype=torch.float64)
    assert torch.equal(SemiPermutation.transport(cost).matrix(), SemiPermutation.transport(factor * cost).matrix())


@pytest.mark.parametrize("cls", [Orthogonal, StreamOrthogonal])
@given(n=st.integers(1, 6), extra=st.integers(0, 3), seed=st.integers(0, 2**31), factor=scales)
def test_the_nearest_element_to_a_tiny_matrix_is_that_of_a_large_one(cls, n, extra, seed, factor):
    matrix = torch.randn(n + extra, n, generator=generator(seed), dtype=torch.float64)
    found = cls.project(factor * matrix)
    assert cls.contains(found.matrix()) == (True, "")
    assert torch.allclose(found.matrix(), cls.project(matrix).matrix(), atol=1e-9)


@given(n=st.integers(1, 6), extra=st.integers(0, 3), factor=scales)
def test_a_cost_that_is_the_same_everywhere_still_fixes_the_all_ones_vector(n, extra, factor):
    found = StreamOrthogonal.solve(torch.full((n + extra, n), factor / 3, dtype=torch.float64))
    assert StreamOrthogonal.contains(found.matrix()) == (True, "")


@pytest.mark.parametrize("factor", [0.0, 1e-200, 1e-20])
def test_a_singular_matrix_of_any_size_is_moved_to_one_with_an_inverse(factor):
    found = Invertible.project(factor * torch.ones(3, 3, dtype=torch.float64))
    assert found.inverse().matrix().isfinite().all()


@every_network
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("factor", [1e-20, 1e-8, 2.0**-27, 1e8, 1e16])
def test_weight_matching_does_not_depend_on_the_scale_of_both_networks(name, dtype, factor):
    a, b = network(name, 0, dtype), network(name, 1, dtype)
    g, h = lmc.weight_matching(a, b), lmc.weight_matching(scaled(a, factor), scaled(b, factor))
    near = 1e-6 if dtype == torch.float64 else 2e-3
    assert distance(g(b), h(b)) < near
    for end in (0, 1, -1):  # where the last sweep gains no more than rounding, it may be one more or less
        assert h.history[end] / factor**2 == pytest.approx(g.history[end], rel=near)
    assert all(y >= x - 1e-5 * abs(x) for x, y in zip(h.history, h.history[1:], strict=False))


@every_network
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_planted_symmetry_is_found_in_every_dtype(name, dtype):
    full = network(name)
    a, b = full.to(dtype), full.spec.sample(1)(full).to(dtype)
    moved = lmc.weight_matching(a, b)(b)
    assert {p.dtype for p in moved.params.values()} == {dtype}
    near = 1 if dtype in HALF else 10  # in units of rounding
    assert distance(a, moved) < near * torch.finfo(dtype).eps + 1e-9


@pytest.mark.parametrize("dtype", HALF)
def test_the_same_alignment_is_found_for_half_types_and_for_what_they_hold(dtype):
    a, b = network("vit", 0, dtype), network("vit", 1, dtype)
    data = MAKE["vit"][1]()
    for match in (lmc.weight_matching, partial(lmc.activation_matching, batches=data)):
        g, h = match(a, b), match(a.to(torch.float32), b.to(torch.float32))
        assert all(torch.equal(g[site].matrix(), h[site].matrix()) for site in g)


@pytest.mark.parametrize("dtype", HALF)
def test_moved_half_types_are_rounded_once(dtype):
    b = network("vit", 0, dtype)
    g = b.spec.sample(3)
    exact = g(b.to(torch.float64)).to(dtype)
    for name, p in g(b).params.items():
        ulp = torch.finfo(dtype).eps * p.double().abs()
        assert ((p.double() - exact.params[name].double()).abs() <= 1.01 * ulp + 1e-6).all(), name
        assert (p != exact.params[name]).double().mean() < 0.01, name


@pytest.mark.parametrize("dtype", [*HALF, torch.float32])
def test_a_universe_is_in_the_dtype_of_its_networks(dtype):
    full = network("vit")
    networks = [full.spec.sample(seed)(full).to(dtype) for seed in range(3)]
    universe, gs = lmc.universe_matching(networks)
    assert {p.dtype for p in universe.params.values()} == {dtype}
    assert (
        max(distance(universe, g(x)) for g, x in zip(gs, networks, strict=True))
        < (1 if dtype in HALF else 3) * torch.finfo(dtype).eps
    )


def test_networks_of_two_dtypes_are_matched_in_the_finer_one():
    a = network("mlp")
    b = a.spec.sample(1)(a).to(torch.float32)
    moved = lmc.weight_matching(a, b)(b)
    assert moved.reference.dtype == torch.float32
    assert distance(a, moved) < 1e-6


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_went_bad_since_are_noticed_before_they_are_decomposed(bad):
    a, b = network("vit", 0), network("vit", 1)
    next(iter(b.params.values()))[0] = bad  # weights are tensors: they can be written to
    message = r"parameter '.*' of shape .* has \d+ NaN or infinite entries"
    for match in (
        lambda: lmc.weight_matching(a, b),
        lambda: lmc.activation_matching(a, b, MAKE["vit"][1]()),
        lambda: lmc.universe_matching([a, b]),
        lambda: balance(b, "invertible"),
    ):
        with pytest.raises(ValueError, match=message):
            match()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_whose_products_overflow_are_matched_all_the_same(dtype):
    a = scaled(network("vit", 0, dtype), 1e20)
    b = a.spec.sample(1)(a)
    assert distance(a, lmc.weight_matching(a, b)(b)) < 1e-4


@pytest.mark.parametrize(("sweeps", "error"), [(-1, ValueError), (2.5, TypeError), ("3", TypeError), (True, TypeError)])
def test_sweeps_and_rounds_are_whole_numbers(sweeps, error):
    a = network("mlp")
    with pytest.raises(error, match="sweeps must be"):
        lmc.weight_matching(a, a, sweeps=sweeps)
    with pytest.raises(error, match="rounds must be"):
        lmc.universe_matching([a, a], rounds=sweeps)


def one_line(make) -> str:
    """The message of a ValueError or TypeError, which nothing but ``make`` may raise."""
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    message = str(caught.value)
    assert not isinstance(caught.value, torch.linalg.LinAlgError)
    assert "\n" not in message and len(message) <= 300, message
    return message


NAN = torch.full((2, 2), torch.nan)
HOSTILE = {
    "a vector": torch.ones(2),
    "a number": torch.tensor(1.0),
    "NaN": NAN,
    "infinite": NAN.nan_to_num(torch.inf),
    "no column": torch.empty(2, 0),
    "wide": torch.ones(2, 3),
    "bool": torch.ones(2, 2, dtype=torch.bool),
    "complex": torch.ones(2, 2, dtype=torch.complex64),
    "a list": [[1.0, 0.0], [0.0, 1.0]],
    "nothing": None,
    "text": "identity",
}


@every_class
@pytest.mark.parametrize("matrix", HOSTILE.values(), ids=HOSTILE)
def test_no_class_takes_what_is_no_finite_matrix_of_a_map(cls, matrix):
    for make in (
        cls.solve,
        cls.project,
        lambda x: cls.balance(x, torch.eye(2)),
        lambda x: cls.balance(torch.eye(2), x),
    ):
        one_line(partial(make, matrix))


@pytest.mark.parametrize("matrix", HOSTILE.values(), ids=HOSTILE)
def test_neither_do_the_functions_below_the_classes(matrix):
    for make in (polar, sinkhorn, SemiPermutation.transport, lambda x: SemiPermutation.fit(x, x, x, x)):
        one_line(partial(make, matrix))


@pytest.mark.parametrize("cls", [ScaledPermutation, SoftPermutation, SemiPermutation, Orthogonal, Invertible])
@pytest.mark.parametrize("what", [kind for kind in HOSTILE if kind not in ("NaN", "infinite")])
def test_no_element_is_made_from_what_has_not_the_shape_of_a_map(cls, what):
    one_line(lambda: cls(HOSTILE[what]))


@pytest.mark.parametrize(
    "indices",
    [
        torch.tensor([0.0, 1.0]),
        torch.tensor(0),
        torch.ones(2, dtype=torch.bool),
        torch.tensor([1, 2]),
        torch.tensor([-1, 0]),
        torch.zeros(9999, dtype=torch.int64),
        [0, 1],
        None,
    ],
    ids=reprlib.repr,
)
def test_no_permutation_is_made_from_what_is_none(indices):
    one_line(lambda: Permutation(indices))


@every_class
@pytest.mark.parametrize(
    "arguments",
    [
        {"n": -1},
        {"n": 2.0},
        {"n": "2"},
        {"n": True},
        {"n": 10**30},
        {"n": 3, "m": 2},
        {"n": 3, "m": 3.5},
        {"n": 2, "batch": 3},
        {"n": 2, "batch": (True,)},
        {"n": 2, "batch": (-1,)},
        {"n": 2, "generator": 0},
    ],
    ids=str,
)
def test_no_element_is_drawn_for_impossible_sizes(cls, arguments):
    arguments = {"generator": generator(0)} | arguments
    one_line(lambda: cls.sample(**arguments))
    if "m" not in arguments:
        one_line(lambda: cls.walk(**arguments, steps=2))


@every_class
def test_maps_compose_only_with_maps_that_lead_to_their_space(cls):
    g = cls.sample(4, generator(0))
    for other in (cls.sample(6, generator(0)), torch.eye(4), None):
        one_line(lambda other=other: g @ other)


@pytest.mark.parametrize(
    "arguments",
    [
        {"seed": 0.5},
        {"seed": "0"},
        {"seed": None},
        {"seed": 2**64},
        {"seed": -(2**64)},
        {"seed": 0, "allow": None},
        {"seed": 0, "allow": ["permutation"]},
        {"seed": 0, "sizes": 7},
        {"seed": 0, "sizes": {"ff.0": 9.5}},
        {"seed": 0, "sizes": {"ff.0": "9"}},
        {"seed": 0, "sizes": {1: 9}},
        {"seed": 0, "sizes": {"ff.0": -9}},
    ],
    ids=str,
)
def test_no_symmetry_is_drawn_from_nonsense(make_mlp, arguments):
    one_line(lambda: make_mlp().spec.sample(**arguments))


@pytest.mark.parametrize(
    ("types", "sites"),
    [
        (None, {}),
        ({"w": None}, {"h": Site(Permutation, 3)}),
        ({"w": "h _"}, {"h": 3}),
        ({"w": "h _"}, {"h": Site(int, 3)}),
        ({"w": "h _"}, {"h": Site(Permutation, 2.5)}),
        ({"w": "h _"}, {"h": Site(Permutation, -1)}),
        ({"w": "h _"}, {"h": Site(Permutation, 3, within="g")}),
        ({"w": "h _"}, {"h": Site(Permutation, 3, within="h")}),
    ],
    ids=str,
)
def test_no_table_is_made_of_nonsense(types, sites):
    one_line(lambda: Spec(types, sites))


def test_an_alignment_has_maps_that_fit_its_sites(make_mlp):
    b = make_mlp()
    g = b.spec.sample(0)
    for wrong in (Permutation.identity(9), Permutation.identity(5, (2,)), torch.eye(5), None):
        one_line(lambda wrong=wrong: replace(g, maps={**g.maps, "ff.0": wrong}))
        one_line(lambda wrong=wrong: g.then("ff.0", wrong))
    for params in ({}, None, {**b.params, "fc0.weight": torch.ones(2)}, {**b.params, "fc0.weight": None}):
        one_line(lambda params=params: g.act(params))
    for nothing in (None, torch.nn.Linear(2, 2), b.params):
        one_line(lambda nothing=nothing: g(nothing))
        one_line(lambda nothing=nothing: g @ nothing)
        one_line(lambda nothing=nothing: lmc.weight_matching(b, nothing))
    for name in ("ff.9", 0):
        for ask in (lambda name: g[name], lambda name: g.act(b.params, [name]), lambda name: g.then(name, g["ff.0"])):
            with pytest.raises(KeyError, match="no site"):
                ask(name)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.int64), "'v' must be a tensor of floating-point numbers, not torch.int64"),
        ([0.0], "'v' must be a tensor of floating-point numbers, not list"),
        (torch.zeros(3, 2, dtype=torch.float16), "'v' is torch.float16 on cpu, others are torch.float32"),
    ],
)
def test_parameters_are_of_one_floating_point_type(p, message):
    spec = Spec({"w": "h _", "v": "h _"}, {"h": Site(Permutation, 3)})
    assert message in one_line(lambda: spec.check({"w": torch.zeros(3, 2), "v": p}))


def test_the_first_difference_of_two_architectures_is_named_and_no_other(make_mlp):
    a = network("gpt2")
    b = replace(a, architecture=a.architecture)
    others = {
        "the other": network("vit"),
        "site 'ff.0' has size 5 and 7": make_mlp((4, 7, 8, 3)),
        "has type": make_mlp((4, 5, 6, 3, 3)),
    }
    mine = {"the other": b, "site 'ff.0' has size 5 and 7": make_mlp(), "has type": make_mlp()}
    for difference, other in others.items():
        g = mine[difference].spec.identity()
        for make in (partial(g, other), lambda g=g, other=other: other.spec.identity() @ g):
            message = one_line(make)
            assert " and " in message
            assert message.count("parameter ") + message.count("site ") == 1
        one_line(partial(lmc.merge, mine[difference], other))
        one_line(partial(lmc.universe_matching, [mine[difference], other]))


def test_architectures_of_one_shape_differ_in_an_entry_that_is_named():
    with torch.random.fork_rng():
        models = [
            torch.nn.Sequential(torch.nn.Linear(2, 3), f, torch.nn.Linear(3, 2))
            for f in (torch.nn.GELU(), torch.nn.SiLU())
        ]
    message = one_line(partial(lmc.merge, *map(lmc.canonicalize, models)))
    assert message.endswith("""config['layers'][1] is "1: GELU(approximate='none')" and '1: SiLU()'""")


def test_a_site_is_not_widened_beyond_all_memory(make_mlp):
    with pytest.raises(ValueError, match=r"the size of site 'ff.0' must be at most"):
        make_mlp().spec.widen({"ff.0": 2**40})
