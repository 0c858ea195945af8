"""Many networks: planted copies come back to one, maps close up around every cycle, mixtures get better."""

from __future__ import annotations

from functools import partial, reduce
from itertools import permutations

import pytest
import torch
from test_learned import MAKE, difference, every_architecture, pairs  # noqa: F401

import lmc_utils as lmc
from lmc_utils.matching.universe import spread


def copies(name: str, n: int = 4) -> list[lmc.Network]:
    """Random symmetric copies of one random network, float64."""
    make, _ = MAKE[name]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = lmc.canonicalize(make().double())
    return [network.spec.sample(seed)(network) for seed in range(n)]


def distance(a: lmc.Network, b: lmc.Network) -> float:
    """Between the weights, relative to their size."""
    x, y = (torch.nn.utils.parameters_to_vector(network.params.values()) for network in (a, b))
    return ((x - y).norm() / x.norm()).item()


@every_architecture
def test_planted_copies_come_back_to_one(name):
    networks, data = copies(name), MAKE[name][1]()
    assert min(distance(networks[0], other) for other in networks[1:]) > 0.1
    universe, gs = lmc.universe_matching(networks)
    moved = [g(network) for g, network in zip(gs, networks, strict=True)]
    assert max(distance(x, y) for x in [*moved, universe] for y in moved) < 1e-6
    assert abs(lmc.interpolate_simplex(moved, data, points=4).barrier) < 1e-6
    assert lmc.interpolate_simplex(networks, data, points=3).barrier > 1e-3, "the copies were far apart before"
    assert gs[0].history[0] > 1e-3 > 1e-6 > gs[0].history[-1]


@pytest.mark.parametrize("allow", ["permutation", "orthogonal"])
def test_smaller_groups_find_what_was_planted_in_them(allow):
    make, _ = MAKE["vit"]
    torch.manual_seed(7)
    network = lmc.canonicalize(make().double())
    networks = [network.spec.sample(seed, allow=allow)(network) for seed in range(3)]
    universe, gs = lmc.universe_matching(networks, allow=allow)
    assert max(distance(universe, g(x)) for g, x in zip(gs, networks, strict=True)) < 1e-6
    assert all(gs[1].maps[site].level == network.spec.sites[site].symmetry.restrict(allow).level for site in gs[1])


@every_architecture
def test_the_order_of_the_list_does_not_matter_for_planted_copies(name):
    networks = copies(name, 3)
    for order in permutations(range(3)):
        universe, gs = lmc.universe_matching([networks[i] for i in order])
        moved = [g(networks[i]) for g, i in zip(gs, order, strict=True)]
        assert max(distance(universe, x) for x in moved) < 1e-6, order


@every_architecture
def test_maps_through_the_universe_close_up_around_every_cycle(pairs, name):  # noqa: F811
    a, b, batches = pairs[name]
    networks = [a, b, *copies(name, 2)]
    _, gs = lmc.universe_matching(networks)
    for cycle in ((0, 1, 2), (0, 1, 2, 3), (3, 1)):
        steps = [gs[j].inverse() @ gs[i] for i, j in zip(cycle, (*cycle[1:], cycle[0]), strict=True)]
        around = reduce(lambda first, then: then @ first, steps)
        start = networks[cycle[0]]
        assert distance(around(start), start) < 1e-9
        for site, element in around.maps.items():
            eye = torch.eye(element.shape[0], dtype=torch.float64)
            assert (element.matrix() - eye).abs().max() < 1e-8, site
    for g, network in zip(gs, networks, strict=True):
        assert difference(g(network), network, batches) < 1e-9


def test_pairwise_maps_do_not_close_up(pairs):  # noqa: F811
    networks = [*pairs["mlp"][:2], copies("mlp", 1)[0]]
    match = partial(lmc.weight_matching, allow="permutation")
    steps = [match(networks[(i + 1) % 3], networks[i]) for i in range(3)]
    around = steps[2] @ steps[1] @ steps[0]
    assert sum(around[site].moved for site in around) > 0


def test_networks_come_closer_and_the_second_time_nothing_moves(pairs):  # noqa: F811
    networks = [*pairs["mlp"][:2], copies("mlp", 1)[0]]
    universe, gs = lmc.universe_matching(networks)
    moved = [g(network) for g, network in zip(gs, networks, strict=True)]
    assert list(gs[0].history) == sorted(gs[0].history, reverse=True)
    assert gs[0].history[-1] == pytest.approx(spread(moved))
    to_first = [networks[0]] + [lmc.weight_matching(networks[0], x)(x) for x in networks[1:]]
    balanced = [lmc.matching.weight.balance(networks[0], "invertible")(x) for x in to_first]
    assert spread(moved) <= spread(balanced), "no farther than with pairwise maps to the first"
    again, hs = lmc.universe_matching(moved)
    assert distance(universe, again) < 1e-6
    assert all(hs[0].history[i] == pytest.approx(gs[0].history[-1]) for i in range(3))


@every_architecture
def test_learning_lowers_the_loss_of_mixtures_of_three(pairs, name):  # noqa: F811
    a, b, batches = pairs[name]
    networks = [a, b, b.spec.sample(5)(lmc.average([b, b.spec.sample(1)(b)], [0.9, 0.1]))]
    _, gs = lmc.universe_matching(networks)
    universe, learned = lmc.learned_universe(networks, batches, init=gs, steps=60)
    before, after = (
        lmc.interpolate_simplex([g(x) for g, x in zip(maps, networks, strict=True)], batches, points=4)
        for maps in (gs, learned)
    )
    assert after.barycentre < before.barycentre - 0.005
    assert lmc.evaluate(universe, batches).loss == pytest.approx(after.loss[after.weights.std(1).argmin()].item())
    assert all(torch.equal(learned[0](a).params[key], p) for key, p in gs[0](a).params.items()), "the first stays"
    for g, network in zip(learned, networks, strict=True):
        assert difference(g(network), network, batches) < 1e-9
    assert len(learned[2].history.loss) == 60


def test_learning_two_is_learned_matching(pairs):  # noqa: F811
    a, b, batches = pairs["gpt2"]
    start = [a.spec.identity(), lmc.weight_matching(a, b)]
    dirichlet = torch.distributions.Dirichlet(torch.full((2,), 5.0))

    def position() -> float:
        face = torch.randperm(2)[: torch.randint(2, 3, ())]
        return dirichlet.sample()[face == 1].item()

    many = lmc.learned_universe([a, b], batches, init=start, steps=8)[1][1]
    pair = lmc.learned_matching(a, b, batches, init=start[1], steps=8, lambdas=position)
    assert many.history.loss == pytest.approx(pair.history.loss, abs=1e-5)
    assert distance(many(b), pair(b)) < 1e-4


def test_mistakes_are_named(pairs, make_mlp, make_batches):  # noqa: F811
    a, b, batches = pairs["mlp"]
    for match in (lmc.universe_matching, partial(lmc.learned_universe, batches=batches)):
        with pytest.raises(ValueError, match="two networks or more, not of 1"):
            match([a])
        with pytest.raises(ValueError, match=r"fc0\.weight has shape"):
            match([a, b, make_mlp((4, 5, 6, 3))])
        with pytest.raises(ValueError, match="allow must be one of"):
            match([a, b], allow="anything")
    with pytest.raises(ValueError, match="3 networks need as many alignments in init, not 1"):
        lmc.learned_universe([a, b, a], batches, init=[a.spec.identity()])
    with pytest.raises(ValueError, match="concentration must be a finite number, above 0, not 0"):
        lmc.learned_universe([a, b], batches, concentration=0)
    with pytest.raises(ValueError, match="the data are empty"):
        lmc.learned_universe([a, b], [], steps=1)
    broken = dict(a.params) | {"fc0.weight": a.params["fc0.weight"].clone().fill_(float("nan"))}
    with pytest.raises(ValueError, match=r"'fc0.weight' .* has \d+ NaN"):
        lmc.universe_matching([a, lmc.Network(a.architecture, broken)])
