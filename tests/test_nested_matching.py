"""Matching of tables whose sites lie within each other: grouped queries, gated units, experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import silu

import lmc_utils as lmc
from lmc_utils.matching.activation import Moments, cross_moments
from lmc_utils.matching.balance import balanced
from lmc_utils.matching.weight import circuit_costs
from lmc_utils.networks.base import Architecture
from lmc_utils.spec import Params, Site, Spec, rows
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
    StreamOrthogonal,
    Symmetry,
)

SITES = {
    "r": Site(RMSOrthogonal, 10),
    "kv": Site(Permutation, 3),
    "qk": Site(Rotary, 4, within="kv"),
    "ov": Site(Invertible, 3, within="kv"),
    "q": Site(Permutation, 4, within="kv"),  # last on purpose: the spaces above cannot be solved for before it
    "ex": Site(Permutation, 3),
    "ff": Site(Permutation, 6, within="ex"),
    "up": Site(Invertible, 1, within="ff"),
}
TYPES = {
    "embed": "_ r",
    "q": "(kv* q qk) r*",
    "k": "kv* qk* r*",
    "k.bias": "kv* qk*",
    "v": "kv ov r*",
    "o": "r kv* q* ov*",
    "router": "ex* r*",
    "gate": "ex* ff* r*",
    "up": "ex* ff up r*",
    "down": "ex* r ff* up*",
    "head": "_ r*",
}
TYPES = {name: kind.replace("(", "").replace(")", "") for name, kind in TYPES.items()}
VOCABULARY = 31


def norm(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def rotate(x: Tensor) -> Tensor:
    """Rotary positions: (..., T, d), pairs (j, j + d / 2)."""
    time, half = torch.arange(x.shape[-2], dtype=x.dtype), x.shape[-1] // 2
    angles = time.unsqueeze(-1) * 0.3 ** torch.arange(half, dtype=x.dtype)
    return (
        torch.view_as_real(torch.polar(torch.ones_like(angles), angles) * torch.complex(*x.split(half, -1)))
        .movedim(-1, -2)
        .flatten(-2)
    )


@dataclass(frozen=True)
class Block(Architecture):
    """Grouped queries with rotary positions, then gated experts of which a router takes a mixture; written down."""

    spec: Spec

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        return self._run(params, inputs)[0]

    def activations(self, params: Params, inputs: Tensor) -> dict[str, Tensor]:
        return {name: x.flatten(0, 1) for name, x in self._run(params, inputs)[1].items()}

    def _run(self, p: Params, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = p["embed"][tokens]
        h = norm(x)
        keys = torch.einsum("kcd,ntd->ntkc", p["k"], h) + p["k.bias"]
        queries = rotate(torch.einsum("kqcd,ntd->nkqtc", p["q"], h))
        scores = torch.einsum("nkqtc,nkuc->nkqtu", queries, rotate(keys.transpose(1, 2)))
        seen = scores.masked_fill(torch.ones_like(scores[0, 0, 0]).triu(1) > 0, -torch.inf).softmax(-1)
        mixed = torch.einsum("nkqtu,kod,nud->ntkqo", seen, p["v"], h)
        x = x + torch.einsum("ntkqo,dkqo->ntd", mixed, p["o"])
        h = norm(x)
        gate = torch.einsum("efd,ntd->ntef", p["gate"], h)
        units = silu(gate).unsqueeze(-1) * torch.einsum("efud,ntd->ntefu", p["up"], h)
        x = x + torch.einsum("nte,ntefu,edfu->ntd", (h @ p["router"].T).softmax(-1), units, p["down"])
        return norm(x) @ p["head"].T, {"r": x, "qk": keys, "ov": mixed, "up": units, "ff": gate}

    def to_model(self, params: Params) -> torch.nn.Module:
        raise NotImplementedError

    def with_sizes(self, sizes: Mapping[str, int]) -> Block:
        raise NotImplementedError


@dataclass(frozen=True)
class Experts(Block):
    """Experts of ReLU units without gates, whose units scale."""

    def _run(self, p: Params, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        x = p["embed"][tokens]
        units = (torch.einsum("efd,ntd->ntef", p["in"], norm(x)) + p["bias"]).relu()
        x = x + torch.einsum("nte,ntef,edf->ntd", (norm(x) @ p["router"].T).softmax(-1), units, p["out"])
        return norm(x) @ p["head"].T, {"r": x, "ff": units}


EXPERTS = Spec(
    {"embed": "_ r", "router": "ex* r*", "in": "ex* ff r*", "bias": "ex* ff", "out": "ex* r ff*", "head": "_ r*"},
    {
        "r": Site(RMSOrthogonal, 8),
        "ex": Site(Permutation, 3),
        "ff": Site(ScaledPermutation, 6, within="ex"),
    },
)


def random(spec: Spec, seed: int) -> Params:
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str) -> Tensor:
        shape = [VOCABULARY if axis.site is None else spec.sizes[axis.site] for axis in spec.axes(name)]
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {name: draw(name) for name in spec.types}


def block(seed: int = 0, **sizes: int) -> lmc.Network:
    spec = Spec(TYPES, SITES).resize(sizes)
    return lmc.Network(Block(spec), random(spec, seed))


TOKENS = [
    (
        torch.randint(VOCABULARY, (n, 9), generator=torch.Generator().manual_seed(n)),
        torch.zeros(n, 9, dtype=torch.int64),
    )
    for n in (40, 25)
]


def error(a: lmc.Network, b: lmc.Network) -> float:
    return max((b.params[name] - p).abs().max().item() for name, p in a.params.items())


METHODS = {"weights": lambda a, b, **options: lmc.weight_matching(a, b, **options),
           "activations": lambda a, b, **options: lmc.activation_matching(a, b, TOKENS, **options)}  # fmt: skip
SHAPES = {"three groups": {}, "one group": {"kv": 1, "q": 5}, "no groups": {"q": 1, "kv": 4}, "one expert": {"ex": 1}}


@torch.no_grad()
def test_the_table_is_right():
    network = block()
    lmc.assert_invariant(network, network.spec.sample(0), TOKENS[0][0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("allow", ["permutation", "orthogonal", "invertible"])
@pytest.mark.parametrize("method", METHODS)
def test_a_planted_symmetry_is_found(method, allow, shape):
    a = block(**SHAPES[shape])
    b = a.spec.sample(1, allow=allow)(a)
    assert error(a, METHODS[method](a, b, allow=allow)(b)) < 1e-6


@pytest.mark.parametrize("allow", ["permutation", "invertible"])
@pytest.mark.parametrize("method", METHODS)
def test_a_planted_symmetry_of_experts_without_gates_is_found(method, allow):
    a = lmc.Network(Experts(EXPERTS), random(EXPERTS, 0))
    g = EXPERTS.sample(1, allow=allow)
    lmc.assert_invariant(a, g, TOKENS[0][0])
    assert error(a, METHODS[method](a, g(a), allow=allow)(g(a))) < 1e-6


@torch.no_grad()
def test_units_inside_units_are_compared_by_their_correlations():
    a, b = (lmc.Network(Experts(EXPERTS), random(EXPERTS, seed)) for seed in (0, 1))
    x, y = (torch.cat([n.activations(tokens)["ff"].flatten(1) for tokens, _ in TOKENS]) for n in (a, b))
    expected = torch.corrcoef(torch.cat([x, y], 1).T)[:18, 18:].nan_to_num().view(3, 6, 3, 6)
    assert torch.allclose(cross_moments(a, b, TOKENS)["ff"], expected)


def test_several_networks_meet_in_one_coordinate_system():
    a = block()
    networks = [a, *(a.spec.sample(seed)(a) for seed in (1, 2))]
    _, gs = lmc.universe_matching(networks)
    first, *others = (g(network) for g, network in zip(gs, networks, strict=True))
    assert all(error(first, other) < 1e-6 for other in others)


def test_products_are_what_they_are_without_a_shift_of_the_origin():
    x, y = torch.randn(2, 30, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    parts = [slice(0, 20), slice(20, None)]
    plain, shifted = (sum((Moments.of(x[i], y[i], o) for i in parts[1:]), Moments.of(x[parts[0]], y[parts[0]], o))
                      for o in ((), (x[0].flatten(), y[0].flatten())))  # fmt: skip
    assert torch.allclose(plain.means(), torch.einsum("nab,ncd->abcd", x, y) / 30)
    assert torch.allclose(shifted.means(), plain.means())


def test_how_alike_groups_and_experts_are_depends_on_no_basis_and_no_order_inside():
    a, b = block(0), block(1)
    g = b.spec.sample(2)
    inside = replace(g, maps={**b.spec.identity().maps, **{n: g[n] for n in g if b.spec.ancestors(n)}})
    for site in ("kv", "ex"):
        expected = circuit_costs(a.spec, site, a.params, b.params)
        assert expected.shape == (3, 3)
        assert torch.allclose(circuit_costs(a.spec, site, a.params, inside(b).params), expected)


def circuits(network: lmc.Network) -> Tensor:
    """Of each query head of each group both circuits, written out: each pair's QK circuit is a complex matrix."""
    p, half = network.params, network.spec.sizes["qk"] // 2
    keys = torch.cat([p["k"], p["k.bias"].unsqueeze(-1)], -1)
    q, k = torch.complex(*p["q"].split(half, 2)), torch.complex(*keys.split(half, 1))
    qk = torch.view_as_real(torch.einsum("kqcd,kce->kqcde", q.conj(), k))
    ov = torch.einsum("dkqo,koe->kqde", p["o"], p["v"])
    return torch.cat([qk.flatten(2), ov.flatten(2)], -1)


def test_a_group_is_as_alike_as_its_circuits_in_the_best_order():
    a, b = block(0), block(1)
    products = torch.einsum("kqx,lpx->klqp", circuits(a), circuits(b))
    best = torch.stack([torch.stack([(Permutation.solve(x).matrix() * x).sum() for x in row]) for row in products])
    assert torch.allclose(circuit_costs(a.spec, "kv", a.params, b.params), best)


def recovered(types: Mapping[str, str], seed: int) -> float:
    """The part of gated units that are found again under noise, by what the table of types knows."""
    sites = {"r": Site(Fixed, 16), "ff": Site(Permutation, 64), "up": Site(Invertible, 1, within="ff")}
    full = Spec({"gate": "ff* r*", "up": "ff up r*", "down": "r ff* up*"}, sites)
    a, noise = random(full, seed), random(full, seed + 1)
    g = full.sample(seed, allow="permutation")
    b = {name: p + 1.8 * noise[name] for name, p in g.act(a).items()}
    costs = circuit_costs(Spec(types, sites), "ff", a, {name: b[name] for name in types})
    return (Permutation.solve(costs).indices == g["ff"].inverse().indices).double().mean().item()


def test_gated_units_are_told_apart_by_what_is_inside_and_by_their_gate():
    inner = {"up": "ff up r*", "down": "r ff* up*"}
    with_gate, without = (
        sum(recovered(types, seed) for seed in range(0, 10, 2)) / 5 for types in (inner | {"gate": "ff* r*"}, inner)
    )
    print(with_gate, without)
    assert with_gate > 0.8 > 0.7 > without


CLASSES = [Fixed, Permutation, ScaledPermutation, Orthogonal, StreamOrthogonal, RMSOrthogonal, RotarySign,
           RotaryPhase, Rotary, Invertible]  # fmt: skip


@pytest.mark.parametrize("cls", CLASSES)
@given(half=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_how_alike_two_spaces_are_does_not_depend_on_elements_of_the_class(cls: type[Symmetry], half, seed):
    n, generator = 2 * half, torch.Generator().manual_seed(seed)
    x, y, u, v = torch.randn(4, 3, n, 5, generator=generator, dtype=torch.float64)
    T, S = (cls.sample(n, generator, batch=(3,)) for _ in range(2))
    moved = cls.alike(T.matrix() @ x @ (S.matrix() @ u).mT, T.dual() @ y @ (S.dual() @ v).mT)
    assert torch.allclose(moved, cls.alike(x @ u.mT, y @ v.mT))
    best = cls.alike(x @ x.mT, y @ y.mT) + cls.alike(u @ u.mT, v @ v.mT)
    assert (best - 2 * moved > -1e-8).all(), "nothing is more alike than the same"


def residual(blocks: int) -> Spec:
    """A residual network of convolutions in three stages: many hidden layers share each stream."""
    types, sites = {"stem": "s0 _ _ _", "head": "_ s2*"}, {}
    for stage in range(3):
        sites[f"s{stage}"] = Site(ScaledPermutation, 2 ** (2 + stage))
        if stage:
            types[f"down.{stage}"] = f"s{stage} s{stage - 1}* _ _"
        for i in range(blocks):
            hidden, read = f"h{stage}.{i}", f"s{stage - 1 if stage and not i else stage}*"
            sites[hidden] = Site(ScaledPermutation, 2 ** (2 + stage))
            types |= {
                f"{hidden}.1": f"{hidden} {read} _ _",
                f"{hidden}.bias": hidden,
                f"{hidden}.2": f"s{stage} {hidden}* _ _",
            }
    return Spec(types, sites)


def test_sites_that_share_weights_are_balanced_together():
    spec = residual(9)
    params = spec.sample(1).act(random(spec, 0))
    g, weights = balanced(spec, params, spec)
    for site in spec.sites:
        written, read = (
            sum(rows(weights[t.name], t).square().sum(-1) for t in spec.touching(site) if t.dual is dual)
            for dual in (False, True)
        )
        assert torch.allclose(written, read, rtol=1e-10)
    assert torch.allclose(weights["stem"], g.act(params)["stem"])


def test_what_cannot_move_is_not_learned():
    a, b = block(0), block(1)
    g = lmc.learned_matching(a, b, TOKENS, allow="permutation", steps=3, lr=0.5)
    lmc.assert_invariant(b, g, TOKENS[0][0])
    with pytest.raises(ValueError, match=r"allow='permutation' none of \['qk'\] has a symmetry"):
        lmc.learned_matching(a, b, TOKENS, allow="permutation", sites=["qk"])


def test_activations_of_another_shape_are_named():
    @dataclass(frozen=True)
    class Wrong(Block):
        def activations(self, params: Params, inputs: Tensor) -> dict[str, Tensor]:
            found = super().activations(params, inputs)
            return found | {"ov": found["ov"].mean(2)}

    a = lmc.Network(Wrong(Spec(TYPES, SITES)), block().params)
    with pytest.raises(ValueError, match=r"'ov' have the shape \(samples, \*\(3, 3\)\), not \['kv', 'q', 'ov'\]"):
        lmc.activation_matching(a, a, TOKENS)
