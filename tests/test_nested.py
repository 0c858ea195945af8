"""Sites within sites within sites: grouped queries with rotary positions, then experts of gated units."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmc_utils.spec import Alignment, Params, Site, Spec, Touch, act_on_site, rows
from lmc_utils.symmetry import Invertible, Permutation, RMSOrthogonal, Rotary, ScaledPermutation

SITES = {  # inner sites first on purpose: the order in which sites are solved for is not that in which they act
    "up": Site(Invertible, 2, within="ff"),
    "q": Site(Permutation, 2, within="kv", splits=True),
    "qk": Site(Rotary, 4, within="kv"),
    "ov": Site(Invertible, 3, within="kv"),
    "ff": Site(Permutation, 4, within="ex", splits=True),
    "r": Site(RMSOrthogonal, 5),
    "kv": Site(Permutation, 2, splits=True),
    "ex": Site(Permutation, 3, splits=True),
}
TYPES = {
    "embed": "_ r",
    "q": "kv* q* qk r*",
    "k": "kv* qk* r*",
    "k.bias": "kv* qk*",
    "v": "kv ov r*",
    "o": "r kv* q ov*",
    "router": "r* ex",
    "gate": "ff* ex* r*",
    "up": "up ex* r* ff",
    "down": "ex* ff* r up*",
    "head": "_ r*",
}
WORDS, TIME = 7, 6
seeds = st.integers(0, 2**31)
sizes = st.fixed_dictionaries(
    {
        "r": st.integers(1, 6),
        "kv": st.integers(0, 3),
        "q": st.integers(0, 3),
        "qk": st.sampled_from([0, 2, 4]),
        "ov": st.integers(0, 3),
        "ex": st.integers(0, 3),
        "ff": st.integers(0, 4),
        "up": st.integers(0, 2),
    }
)
NESTED = Spec(TYPES, SITES)


def norm(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def rotate(x: Tensor) -> Tensor:
    """Rotary positions (..., TIME, d), as transformers computes them."""
    a, b = x.chunk(2, -1) if x.shape[-1] else (x, x)
    angles = torch.arange(TIME).double().unsqueeze(-1) * 0.3 ** torch.arange(a.shape[-1]).double()
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)[..., : x.shape[-1]]


def logits(p: Params) -> Tensor:
    x = p["embed"][torch.arange(TIME) % WORDS]
    h = norm(x)
    queries = rotate(torch.einsum("kqcd,td->kqtc", p["q"], h))
    keys = rotate(torch.einsum("kcd,td->ktc", p["k"], h) + p["k.bias"].unsqueeze(1))
    attention = torch.einsum("kqtc,kuc->kqtu", queries, keys).softmax(-1)
    x = x + torch.einsum("kqtu,kod,ud,rkqo->tr", attention, p["v"], h, p["o"])
    h = norm(x)
    units = torch.einsum("fed,td->tef", p["gate"], h).relu().unsqueeze(-1) * torch.einsum("uedf,td->tefu", p["up"], h)
    return norm(x + torch.einsum("td,de,tefu,efru->tr", h, p["router"], units, p["down"])) @ p["head"].T


def random(spec: Spec, seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)
    shapes = {n: [spec.sizes.get(axis.site, WORDS) for axis in spec.axes(n)] for n in spec.types}
    return {n: torch.randn(shape, generator=generator, dtype=torch.float64) for n, shape in shapes.items()}


def assert_same(p: Params, q: Params, atol: float = 1e-8) -> None:
    for name in p:
        torch.testing.assert_close(
            p[name], q[name], rtol=1e-8, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_function(p: Params, q: Params) -> None:
    torch.testing.assert_close(logits(p), logits(q), rtol=1e-9, atol=1e-9)


@given(sizes=sizes, seed=seeds, allow=st.sampled_from(["permutation", "orthogonal", "invertible"]))
def test_all_sites_at_once_leave_the_function_alone(sizes, seed, allow):
    spec = NESTED.resize(sizes)
    params = random(spec, seed)
    assert_function(spec.sample(seed, allow=allow).act(params), params)


@given(sizes=sizes, seed=seeds)
def test_alignments_of_nested_sites_act_as_a_group(sizes, seed):
    spec = NESTED.resize(sizes)
    params, g, h = random(spec, seed), spec.sample(seed), spec.sample(seed + 1)
    assert_same((g @ h).act(params), g.act(h.act(params)))
    assert_same(g.inverse().act(g.act(params)), params)
    assert_same((g @ g.inverse()).act(params), params)
    assert_same(spec.identity().act(params), params, 0)


@given(sizes=sizes, seed=seeds, site=st.sampled_from(list(SITES)), extra=st.integers(0, 2))
def test_one_more_map_of_a_site_acts_after_all_others(sizes, seed, site, extra):
    spec = NESTED.resize(sizes)
    wider = {site: spec.sizes[site] + extra} if spec.sizes[site] and site != "qk" else {}
    params, g, element = random(spec, seed), spec.sample(seed), spec.sample(seed + 1, sizes=wider)[site]
    moved = g.act(params)
    assert_same(g.then(site, element).act(params), moved | act_on_site(spec, site, element, moved))


growth = st.fixed_dictionaries({name: st.integers(0, 2) for name in SITES if name != "qk"})


@given(growth=growth, seed=seeds, sampled=st.booleans())
@settings(max_examples=40)
def test_sites_at_any_depth_become_wider(growth, seed, sampled):
    sizes = {name: SITES[name].size + extra for name, extra in growth.items()}
    wide = NESTED.sample(seed, sizes=sizes) if sampled else NESTED.widen(sizes)
    params = random(NESTED, seed)
    assert wide.target.sizes == NESTED.sizes | sizes
    assert_function(wide.act(params), params)
    g, h = wide.target.sample(seed), NESTED.sample(seed + 1)
    assert_same((g @ wide @ h).act(params), g.act(wide.act(h.act(params))))


@given(seed=seeds)
def test_each_unit_of_each_expert_has_a_map_of_its_own(seed):
    g, params = NESTED.sample(seed), random(NESTED, seed)
    assert g["up"].batch == (3, 4) and g["ff"].batch == (3,)
    moved = g.act(params)
    for e in range(3):
        for f in range(4):
            expert = g["ex"].indices[e]
            unit = g["ff"].indices[e, f]
            written = g["up"].matrix()[e, f] @ params["up"][:, expert, :, unit] @ g["r"].matrix().mT
            torch.testing.assert_close(moved["up"][:, e, :, f], written)


def test_the_table_knows_who_lies_within_whom():
    assert NESTED.ancestors("up") == ["ex", "ff"] and NESTED.ancestors("ex") == []
    assert NESTED.batch("up") == (3, 4) and NESTED.batch("r") == ()
    assert NESTED.inside("ex") == ["ff"] and NESTED.descendants("ex") == ["ff", "up"]
    assert Touch("up", 0, False, (1, 3)) in NESTED.touching("up")
    assert {touch.batch for touch in NESTED.touching("r")} == {()}


def test_rows_have_the_axes_of_all_that_a_site_lies_within_in_front():
    params = random(NESTED, 0)
    shapes = {t.name: tuple(rows(params[t.name], t).shape) for t in NESTED.touching("up")}
    assert shapes == {"up": (3, 4, 2, 5), "down": (3, 4, 2, 5)}
    touch = next(t for t in NESTED.touching("up") if t.name == "up")
    assert torch.equal(rows(params["up"], touch)[1, 2, 0], params["up"][0, 1, :, 2])
    bias = next(t for t in NESTED.touching("qk") if t.name == "k.bias")
    assert rows(params["k.bias"], bias).shape == (2, 4, 1)


def test_a_layer_without_units_is_a_site_like_any_other():
    spec = Spec({"in": "h _", "out": "_ h*"}, {"h": Site(ScaledPermutation, 0)})
    params = {"in": torch.zeros(0, 3), "out": torch.zeros(2, 0)}
    g = spec.sample(0) @ spec.sample(1).inverse()
    assert {name: p.shape for name, p in g.act(params).items()} == {"in": (0, 3), "out": (2, 0)}
    with pytest.raises(ValueError, match="site 'h' has 0 dimensions: it cannot be widened to 2"):
        spec.sample(0, sizes={"h": 2})


@pytest.mark.parametrize(
    ("sites", "types", "message"),
    [
        ({"a": Site(Permutation, 2, within="b"), "b": Site(Permutation, 2, within="a")}, {"w": "a b"}, "in a circle"),
        (SITES, TYPES | {"gate": "_ ff* r*"}, r"site 'ff' lies within \['ex'\], but the type of 'gate'"),
        (
            SITES | {"qk": Site(Rotary, 3, within="kv")},
            TYPES,
            "site 'qk' .* size 3 .* pairs of dimensions, but 3 is odd",
        ),
    ],
)
def test_a_bad_nesting_is_refused(sites, types, message):
    with pytest.raises(ValueError, match=message):
        Spec(types, sites)


def test_what_cannot_grow_says_so():
    message = "site 'qk' has 4 dimensions: it cannot be widened to 6, because each pair of rotary"
    for widen in (NESTED.widen, lambda sizes: NESTED.sample(0, sizes=sizes)):
        with pytest.raises(ValueError, match=message):
            widen({"qk": 6})


def test_a_map_has_the_batch_of_all_that_its_site_lies_within():
    maps = dict(NESTED.identity().maps) | {"up": Invertible.identity(2, (4,))}
    with pytest.raises(ValueError, match=r"the map of site 'up' has batch \(4,\), but it must have \(3, 4\)"):
        Alignment(NESTED, maps)
