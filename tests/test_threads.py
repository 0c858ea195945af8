"""Threads: networks, trainings and matchings at the same time give what each gives alone."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from test_learned import MAKE
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.networks.base import Architecture, capture, fill, skeleton
from lmc_utils.networks.gpt2 import gpt2
from lmc_utils.networks.mlp import mlp
from lmc_utils.spec import Site, Spec

THREADS = 8


@pytest.fixture(autouse=True)
def switch_often():
    """Let threads take turns a thousand times as often as usual: a race that can happen does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def at_the_same_time(*jobs: Callable) -> list:
    """What each job returns, all started together, each in a thread."""
    start = threading.Barrier(len(jobs))

    def run(job: Callable) -> object:
        start.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs))


@dataclass(frozen=True)
class Gated(Architecture):
    """Written as somebody outside of the package would, without a word about threads."""

    spec: Spec
    module: nn.Module = field(compare=False, repr=False)

    def forward(self, params, inputs):
        return torch.func.functional_call(self.module, params, (inputs.flatten(1),))

    def activations(self, params, inputs):
        with capture() as seen:
            seen.output(self.module[0], "up")
            self.forward(params, inputs)
            return {"up": seen["up"]}

    def to_model(self, params):
        return fill(self.module, params)

    def with_sizes(self, sizes):
        return replace(self, module=copy.deepcopy(self.module))


def gated() -> lmc.Network:
    module = nn.Sequential(nn.Linear(64, 12), nn.Sigmoid(), nn.Linear(12, 3))
    types = {"0.weight": "up _", "0.bias": "up", "2.weight": "_ up*", "2.bias": "_"}
    architecture = Gated(Spec(types, {"up": Site(lmc.Permutation, 12)}), skeleton(module))
    return lmc.Network(architecture, {name: p.detach() for name, p in module.named_parameters()})


def network(name: str) -> tuple[lmc.Network, Batches]:
    torch.manual_seed(0)
    make, data = MAKE["mlp" if name == "outside" else name]
    return (gated() if name == "outside" else lmc.canonicalize(make())), data()


def moved(network: lmc.Network, count: int) -> list[lmc.Network]:
    """Networks of other weights that share one architecture object, and with it the skeleton."""
    return [
        replace(network, params={name: p * (1 + 0.3 * i) for name, p in network.params.items()}) for i in range(count)
    ]


every_architecture = pytest.mark.parametrize("name", [*MAKE, "outside"])


@every_architecture
@torch.no_grad()
def test_networks_that_share_a_skeleton_answer_in_threads_as_they_do_alone(name):
    first, batches = network(name)
    inputs, networks = batches.inputs[:4], moved(first, THREADS)
    answers = [net(inputs) for net in networks]
    writes = [net.activations(inputs) for net in networks]
    models = [net.to_model().state_dict() for net in networks]
    places = {id(part): list(part._forward_hooks) for part in first.architecture.module.modules()}

    def work(i: int) -> list[str]:
        wrong = []
        with torch.no_grad():
            for _ in range(10):
                wrong += ["answer"] * (not torch.equal(networks[i](inputs), answers[i]))
                found = networks[i].activations(inputs)
                wrong += [site for site, x in writes[i].items() if not torch.equal(found[site], x)]
                filled = networks[i].to_model().state_dict()
                wrong += [key for key, p in models[i].items() if not torch.equal(filled[key], p)]
        return wrong

    assert at_the_same_time(*(partial(work, i) for i in range(THREADS))) == [[]] * THREADS
    assert all(torch.equal(net(inputs), answer) for net, answer in zip(networks, answers, strict=True)), "afterwards"
    assert all(p.is_meta for p in first.architecture.module.parameters()), "nothing stays swapped in"
    assert places == {id(part): list(part._forward_hooks) for part in first.architecture.module.modules()}


@every_architecture
@torch.no_grad()
def test_a_thread_whose_forward_raises_spoils_nothing(name):
    first, batches = network(name)
    inputs, networks = batches.inputs[:4], moved(first, 4)
    answers = [net(inputs) for net in networks]
    wrong_inputs = inputs[:, :, :3] if inputs.is_floating_point() else inputs + 1000

    def fail() -> bool:
        with torch.no_grad():
            for _ in range(20):
                for method in (first, first.activations):
                    with pytest.raises(ValueError, match="the network cannot read these inputs"):
                        method(wrong_inputs)
        return True

    def answer(i: int) -> bool:
        with torch.no_grad():
            return all(torch.equal(networks[i](inputs), answers[i]) for _ in range(20))

    assert all(at_the_same_time(fail, fail, *(partial(answer, i) for i in range(4))))
    assert all(p.is_meta for p in first.architecture.module.parameters())
    assert torch.equal(first(inputs), answers[0])


@every_architecture
@torch.no_grad()
def test_networks_are_copied_and_pickled_while_others_run(name):
    first, batches = network(name)
    inputs = batches.inputs[:4]
    answer, over = first(inputs), threading.Event()

    def run() -> bool:
        with torch.no_grad():
            while not over.is_set():
                first(inputs)
        return True

    def copies() -> bool:
        try:
            found = [copy.deepcopy(first) for _ in range(8)] + [pickle.loads(pickle.dumps(first)) for _ in range(8)]
        finally:
            over.set()
        hollow = all(p.is_meta for net in found for p in net.architecture.module.parameters())
        with torch.no_grad():
            return hollow and all(net == first and torch.equal(net(inputs), answer) for net in found)

    assert at_the_same_time(run, run, copies) == [True] * 3


def dropout_gpt2() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "n_inner": 8, "vocab_size": 13, "n_positions": 8}
    return gpt2(**sizes, resid_pdrop=0.3, embd_pdrop=0.3, attn_pdrop=0.3, bos_token_id=0, eos_token_id=0)


def jitter(x: torch.Tensor) -> torch.Tensor:
    return x + 0.1 * torch.randn_like(x)


def numbers(*models: nn.Module) -> torch.Tensor:
    return torch.cat([nn.utils.parameters_to_vector(model.parameters()).detach() for model in models])


def test_trainings_in_threads_give_bit_for_bit_what_each_gives_alone():
    images, texts = (MAKE[name][1]() for name in ("mlp", "gpt2"))
    torch.manual_seed(0)
    plain, attentive = mlp((64, 12, 3)), dropout_gpt2()
    jobs = [
        partial(lmc.train, plain, images, epochs=4, batch_size=10, seed=1, augment=jitter, validation=images),
        partial(lmc.train, attentive, texts, epochs=4, batch_size=10, seed=2, average=0.5),
        partial(lmc.train, attentive, texts, epochs=4, batch_size=10, seed=3),
    ]
    before = torch.get_rng_state()
    alone = [numbers(job()) for job in jobs]
    together = [numbers(model) for model in at_the_same_time(*jobs)]
    assert [torch.equal(x, y) for x, y in zip(alone, together, strict=True)] == [True] * 3
    assert torch.equal(torch.get_rng_state(), before), "the caller's random state"


def test_matchings_in_threads_give_bit_for_bit_what_each_gives_alone():
    first, batches = network("gpt2")
    a, b, c = (g(first) for g in (first.spec.identity(), first.spec.sample(1), first.spec.sample(2)))
    start, loader = a.spec.identity(), DataLoader(TensorDataset(batches.inputs, batches.targets), 20, shuffle=True)
    run = {"steps": 6, "init": start}
    jobs = [
        lambda: lmc.learned_matching(a, b, batches, **run, seed=1),
        lambda: lmc.learned_matching(a, c, batches, **run, lambdas=lambda: torch.rand(()).item(), validation=loader),
        lambda: lmc.learned_matching(b, c, loader, **run),
        lambda: lmc.learned_universe([a, b, c], batches, init=[start] * 3, steps=6)[1][2],
    ]
    before = torch.get_rng_state()
    alone = [job().history for job in jobs]
    together = [g.history for g in at_the_same_time(*jobs)]
    assert [x == y for x, y in zip(alone, together, strict=True)] == [True] * 4
    assert torch.equal(torch.get_rng_state(), before), "the caller's random state"


def test_a_training_that_raises_gives_random_state_and_lock_back():
    images, model = MAKE["mlp"][1](), mlp((64, 5, 3))
    state = torch.get_rng_state()

    def broken(x: torch.Tensor) -> torch.Tensor:
        torch.rand(3)
        raise KeyError("broken")

    with pytest.raises(KeyError):
        lmc.train(model, images, augment=broken)
    assert torch.equal(torch.get_rng_state(), state)
    assert at_the_same_time(partial(lmc.train, model, images, epochs=1)), "another thread may train"
