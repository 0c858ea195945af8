"""Networks of different widths: a widened network is recognised as itself, whatever is found is exact."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.networks.gpt2 import gpt2
from lmc_utils.networks.mlp import mlp
from lmc_utils.networks.vit import vit
from lmc_utils.symmetry import ScaledPermutation, SemiPermutation, reshare

GPT2 = {"vocab_size": 40, "n_positions": 9, "n_embd": 24, "n_layer": 2, "n_head": 2, "n_inner": 40,
        "activation_function": "gelu_pytorch_tanh"}  # fmt: skip
VIT = {"img_size": 28, "patch_size": 7, "in_chans": 1, "num_classes": 10, "embed_dim": 24, "depth": 2, "num_heads": 2,
       "global_pool": "avg", "class_token": False}  # fmt: skip
MODELS = {
    "mlp": lambda width=1: mlp((6, 5 * width, 7 * width, 3)),
    "gpt2": lambda width=1: gpt2(**GPT2 | {"n_embd": 24 * width, "n_head": 2 * width, "n_inner": 40 * width}),
    "vit": lambda width=1: vit(**VIT | {"embed_dim": 24 * width, "num_heads": 2 * width}),
}
WIDER = {  # all classes at once: more dimensions, more units, more heads, and wider ones
    "mlp": {"ff.0": 9, "ff.1": 20},
    "mlp, first layer": {"ff.0": 9},
    "mlp, second layer": {"ff.1": 12},
    "gpt2": {"r": 96, "heads": 4, "qk": 20, "ov": 20, "ff": 100},
    "vit": {"r": 96, "heads": 4, "qk": 20, "ov": 20, "ff": 100},
}
every_model = pytest.mark.parametrize("name", MODELS)


def make(name: str, seed: int = 0, width: int = 1) -> lmc.Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS[name](width)
        for p in model.parameters():  # biases too, and embeddings as large as what else there is
            torch.nn.init.normal_(p, std=0.2)
        return lmc.canonicalize(model.double())


def batches_for(network: lmc.Network, samples: int = 40) -> Batches:
    generator = torch.Generator().manual_seed(0)
    if network.architecture.reads:
        ids = torch.randint(network.architecture.reads[0], (samples, 10), generator=generator)
        return Batches(ids[:, :-1], ids[:, 1:], 20)
    shape = (1, 28, 28) if "r" in network.spec.sites else (6,)
    inputs = torch.randn(samples, *shape, generator=generator, dtype=torch.float64)
    return Batches(inputs, torch.arange(samples) % 3, 20)


def sizes(spec: lmc.Spec, name: str) -> dict[str, int]:
    wider = WIDER[name]
    return {site: wider.get(site, wider.get(site.split(".")[0], size)) for site, size in spec.sizes.items()}


def difference(x: lmc.Network, y: lmc.Network) -> float:
    return max((p - y.params[key]).abs().max().item() for key, p in x.params.items())


@pytest.mark.parametrize("name", WIDER)
@pytest.mark.parametrize("allow", ["permutation", "orthogonal", "invertible"])
@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_a_widened_network_is_recognised_as_itself(name, allow, seed):
    narrow = make(name.split(",")[0], seed)
    planted = narrow.spec.sample(seed + 1, allow=allow, sizes=sizes(narrow.spec, name))
    lmc.assert_invariant(narrow, planted, batches_for(narrow).inputs)
    wide = planted(narrow)
    found = lmc.weight_matching(wide, narrow, allow=allow)
    assert difference(found(narrow), wide) < 1e-6
    assert lmc.interpolate(wide, found(narrow), batches_for(narrow), points=5).barrier < 1e-6


@every_model
@pytest.mark.parametrize("allow", ["permutation", "invertible"])
@pytest.mark.parametrize("method", ["weights", "activations", "learned"])
def test_whatever_is_found_is_exact(name, allow, method):
    a, b = make(name, 0, width=2), make(name, 1)
    data = batches_for(a)
    if method == "weights":
        g = lmc.weight_matching(a, b, allow=allow)
    elif method == "activations":
        g = lmc.activation_matching(a, b, data, allow=allow)
    else:
        init = lmc.activation_matching(a, b, data, allow=allow)
        g = lmc.learned_matching(a, b, data, allow=allow, init=init, steps=3, batch_size=20, lr=0.1)
    lmc.assert_invariant(b, g, data.inputs)
    assert g(b).architecture == a.architecture
    lmc.merge(a, g(b)).to_model()


def test_learning_changes_shares_and_scales_and_lowers_the_loss():
    a, b = make("mlp", 0, width=2), make("mlp", 1)
    data = batches_for(a, 200)
    init = lmc.activation_matching(a, b, data)
    g = lmc.learned_matching(a, b, data, init=init, steps=60, batch_size=50, lr=0.05)
    lmc.assert_invariant(b, g, data.inputs)
    before, after = (lmc.evaluate(lmc.merge(a, found(b)), data).loss for found in (init, g))
    assert after < before - 0.01
    for site in b.spec.sites:
        (old, new) = ((found[site].matrix() * found[site].dual()) for found in (init, g))
        assert torch.allclose(new.sum(0), torch.ones(b.spec.sizes[site], dtype=torch.float64))
        assert ((new > 0) == (old > 0)).all()
        assert (new - old).abs().max() > 1e-3
        assert (g[site].dual().max(1).values - 1).abs().max() > 1e-3  # scales


@torch.no_grad()
def test_compositions_are_what_one_after_the_other_does():
    network = make("gpt2")
    g = network.spec.sample(0, sizes=sizes(network.spec, "gpt2"))
    wide = g(network)
    h = wide.spec.sample(1)
    assert difference((h @ g)(network), h(wide)) < 1e-9
    more = {name: 2 * size for name, size in wide.spec.sizes.items()}
    h = wide.spec.sample(2, sizes=more | {"r": 4 * wide.spec.sizes["r"]})
    assert difference((h @ g)(network), h(wide)) < 1e-9


@torch.no_grad()
def test_split_units_may_be_scaled_each():
    network = make("mlp")
    split = network.spec.sample(0, sizes={"ff.0": 9, "ff.1": 20})
    scale = split.target.sample(1)
    both = scale @ split
    assert isinstance(both["ff.1"], ScaledPermutation)
    assert difference(both(network), scale(split(network))) < 1e-12
    lmc.assert_invariant(network, both, batches_for(network).inputs)


@torch.no_grad()
def test_padding_is_the_plainest_way():
    network = make("mlp")
    wide = network.spec.widen({"ff.0": 8})(network)
    assert torch.equal(wide.params["fc0.weight"][:5], network.params["fc0.weight"])
    assert (wide.params["fc0.weight"][5:] == 0).all()
    assert (wide.params["fc1.weight"][:, 5:] == 0).all()


def test_mistakes_are_named():
    a, b = make("mlp"), make("mlp", width=2)
    for match in (lmc.weight_matching, lambda *pair: lmc.activation_matching(*pair, batches_for(a))):
        with pytest.raises(ValueError, match=r"site 'ff.0' has 5 in a, 10 in b: give the wider first"):
            match(a, b)
        with pytest.raises(ValueError, match=r"fc0.weight has shape \(5, 6\) and \(5, 7\)"):
            match(a, lmc.canonicalize(mlp((7, 5, 7, 3)).double()))
    with pytest.raises(ValueError, match=r"site 'ff.0' has 5 dimensions: it cannot be widened to 4"):
        a.spec.sample(0, sizes={"ff.0": 4})
    with pytest.raises(ValueError, match=r"depth|absent|shape"):
        lmc.weight_matching(a, lmc.canonicalize(mlp((6, 5, 7, 7, 3)).double()))


@given(n=st.integers(1, 4), times=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_optimal_transport_agrees_with_linear_programming(n, times, seed):
    m = n * times
    cost = torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plan = SemiPermutation.transport(cost).matrix() / n
    assert torch.allclose(plan.sum(1), torch.full((m,), 1 / m, dtype=torch.float64))
    assert torch.allclose(plan.sum(0), torch.full((n,), 1 / n, dtype=torch.float64))
    rows, columns = torch.eye(m).repeat_interleave(n, 1), torch.eye(n).repeat(1, m)
    sums = torch.cat([rows, columns]).numpy()
    oracle = linprog(-cost.flatten().numpy(), A_eq=sums, b_eq=[1 / m] * m + [1 / n] * n)
    assert (plan * cost).sum().item() == pytest.approx(-oracle.fun, abs=1e-9)


@given(n=st.integers(1, 3), extra=st.integers(0, 3), seed=st.integers(0, 2**31))
def test_optimal_transport_is_the_best_of_all_even_splits(n, extra, seed):
    m = n + extra
    cost = torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = SemiPermutation.transport(cost)
    assert SemiPermutation.contains(found.matrix())[0]
    even = [
        owners
        for owners in itertools.product(range(n), repeat=m)
        if all(m // n <= owners.count(j) <= -(-m // n) for j in range(n))
    ]
    best = max(sum(cost[i, j] for i, j in enumerate(owners)) for owners in even)
    assert ((found.matrix() > 0) * cost).sum() == pytest.approx(best.item())


@given(n=st.integers(2, 5), extra=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_true_copies_are_found(n, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    writers, readers = torch.randn(2, n, 20, generator=generator, dtype=torch.float64)
    planted = SemiPermutation.sample(n, generator, m=n + extra)
    wide_writers, wide_readers = planted.act(writers, 0), planted.act_dual(readers, 0)
    norms = writers.square().sum(1), readers.square().sum(1)
    found = SemiPermutation.fit(wide_writers @ writers.T, wide_readers @ readers.T, *norms)
    assert torch.allclose(found.matrix(), planted.matrix(), atol=1e-9)


@given(n=st.integers(1, 5), extra=st.integers(0, 5), seed=st.integers(0, 2**31))
def test_new_shares_still_sum_to_one(n, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    m = n + extra
    split = SemiPermutation.sample(n, generator, m=m)
    logits = torch.randn(m, generator=generator, dtype=torch.float64)
    both = ScaledPermutation.product(reshare(ScaledPermutation.sample(m, generator), split, logits), split)
    assert torch.allclose(both.left_inverse() @ both.matrix(), torch.eye(n, dtype=torch.float64))
    same = reshare(ScaledPermutation.identity(m), split, torch.zeros(m, dtype=torch.float64))
    assert torch.allclose(same.matrix(), torch.eye(m, dtype=torch.float64))


def test_a_network_is_not_changed_by_being_matched():
    a, b = make("mlp", 0, width=2), make("mlp", 1)
    before = replace(b, params={key: p.clone() for key, p in b.params.items()})
    lmc.weight_matching(a, b)
    assert difference(b, before) == 0
