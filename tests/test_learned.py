"""Learned matching: it lowers the loss of the average, finds true symmetries only, and can be interrupted."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from functools import partial

import accelerate
import pytest
import torch

import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.networks.gpt2 import gpt2
from lmc_utils.networks.mlp import mlp
from lmc_utils.networks.vit import vit

train_module = importlib.import_module("lmc_utils.train")  # lmc_utils.train is the function

GPT2 = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_inner": 24, "vocab_size": 13, "n_positions": 8, "attn_pdrop": 0,
        "resid_pdrop": 0, "embd_pdrop": 0, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
VIT = {"img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": 3, "embed_dim": 16, "depth": 1, "num_heads": 2}


def texts(samples: int = 60) -> Batches:
    """Each token is the one before plus one or two, modulo 13."""
    steps = torch.randint(1, 3, (samples, 9), generator=torch.Generator().manual_seed(0))
    tokens = steps.cumsum(1) % 13
    return Batches(tokens[:, :-1], tokens[:, 1:], 10)


def images(samples: int = 60) -> Batches:
    inputs = torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batches(inputs, (inputs[:, 0, :4].mean((1, 2)) > 0).long() + (inputs[:, 0, 4:].mean((1, 2)) > 0), 10)


MAKE = {
    "mlp": (lambda: mlp((64, 12, 12, 3)), images),
    "vit": (lambda: vit(**VIT), images),
    "gpt2": (lambda: gpt2(**GPT2), texts),
}
every_architecture = pytest.mark.parametrize("name", MAKE)


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[lmc.Network, lmc.Network, Batches]]:
    """Two trained networks of each architecture, float64, and their training data."""
    found = {}
    for name, (make, data) in MAKE.items():
        networks = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            model = lmc.train(make(), data(), epochs=15, batch_size=10, lr=1e-2, seed=seed)
            networks.append(lmc.canonicalize(model.double()))
        found[name] = (*networks, _double(data()))
    return found


@pytest.fixture(scope="module")
def starts(pairs) -> dict[str, lmc.Alignment]:
    """What learning starts from by default, found once."""
    return {name: lmc.weight_matching(a, b) for name, (a, b, _) in pairs.items()}


def _double(batches: Batches) -> Batches:
    return (
        Batches(batches.inputs.double(), *list(vars(batches).values())[1:])
        if batches.inputs.is_floating_point()
        else batches
    )


def middle(a: lmc.Network, b: lmc.Network, batches: Batches) -> float:
    return lmc.evaluate(lmc.merge(a, b), batches).loss


def difference(a: lmc.Network, b: lmc.Network, batches: Batches) -> float:
    with torch.no_grad():
        return (a(batches.inputs) - b(batches.inputs)).abs().max().item()


@every_architecture
@pytest.mark.parametrize("allow", ["permutation", "orthogonal", "invertible"])
def test_whatever_is_learned_is_a_symmetry(pairs, name, allow):
    a, b, batches = pairs[name]
    g = lmc.learned_matching(a, b, batches, allow=allow, steps=5, lr=0.3)
    moved = g(b)
    assert difference(moved, b, batches) < 1e-10
    assert any((moved.params[key] - p).abs().max() > 1e-3 for key, p in b.params.items())
    for site, element in g.maps.items():
        belongs, why = type(element).contains(element.matrix())
        assert belongs, (site, why)


@every_architecture
def test_learning_lowers_the_loss_of_the_average(pairs, starts, name):
    (a, b, batches), start = pairs[name], starts[name]
    g = lmc.learned_matching(a, b, batches, init=start, steps=80)
    assert middle(a, g(b), batches) < middle(a, start(b), batches) - 0.01
    assert len(g.history.loss) == 80


def test_the_residual_map_stays_off_the_all_ones_vector(pairs, starts):
    a, b, batches = pairs["gpt2"]
    g = lmc.learned_matching(a, b, batches, init=starts["gpt2"], steps=30, lr=0.1)
    ones = torch.ones(16, dtype=torch.float64)
    assert (g["r"].matrix() @ ones - ones).abs().max() < 1e-12
    merged = lmc.merge(a, g(b))
    assert merged.params["wte"].mean(1).abs().max() < 1e-12


def test_permutations_flip_by_straight_through_gradients(pairs):
    a, b, batches = pairs["mlp"]
    shuffled = b.spec.sample(3, allow="permutation")(b)
    run = {"init": a.spec.restrict("permutation").identity(), "allow": "permutation"}
    still = lmc.learned_matching(a, shuffled, batches, **run, steps=2)
    flipped = lmc.learned_matching(a, shuffled, batches, **run, steps=60, lr=0.1)
    assert all(still[site].moved == 0 for site in still)
    assert all(isinstance(flipped[site], lmc.Permutation) for site in flipped)
    assert sum(flipped[site].moved for site in flipped) > 0
    assert middle(a, flipped(shuffled), batches) < middle(a, shuffled, batches)


@every_architecture
def test_two_runs_with_one_seed_are_the_same_run(pairs, starts, name):
    a, b, batches = pairs[name]
    run = partial(lmc.learned_matching, a, b, batches, init=starts[name], steps=6)
    first, again, other = (run(seed=seed) for seed in (0, 0, 1))
    assert first.history == again.history
    assert first.history != other.history
    assert all(torch.equal(first(b).params[key], p) for key, p in again(b).params.items())


def test_an_interrupted_run_ends_where_the_uninterrupted_one_does(pairs, starts, tmp_path, monkeypatch):
    a, b, batches = pairs["gpt2"]
    run = partial(lmc.learned_matching, a, b, batches, init=starts["gpt2"], steps=20, validation=batches)
    whole = run()
    path, saves = tmp_path / "run.safetensors", []

    def save_three_times(*args):
        if len(saves) == 3:
            raise KeyboardInterrupt
        saves.append(save(*args))

    save = train_module.save_atomically
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_module, "save_atomically", save_three_times)
        run(checkpoint=path)
    resumed = run(checkpoint=path)
    assert resumed.history == whole.history
    assert all(torch.equal(resumed(b).params[key], p) for key, p in whole(b).params.items())
    others = {"allow": "orthogonal"}, {"lambdas": (0.3, 0.7)}, {"init": b.spec.sample(1)}
    for changed in others:
        with pytest.raises(ValueError, match="belongs to another run"):
            run(checkpoint=path, **changed)


def test_the_best_alignment_on_the_validation_data_is_kept(pairs, starts):
    a, b, batches = pairs["gpt2"]
    shuffled = [(x, y.flip(1)) for x, y in batches]  # learning from wrong targets makes the right ones worse
    run = {"init": starts["gpt2"], "steps": 20, "lr": 0.3, "validation": batches}
    g = lmc.learned_matching(a, b, shuffled, **run)
    losses = g.history.validation
    assert list(losses) == list(range(2, 21, 2))
    assert min(losses.values()) < list(losses.values())[-1]
    assert middle(a, g(b), batches) == pytest.approx(min(losses.values()), abs=1e-9)
    assert len(lmc.learned_matching(a, b, shuffled, **run, patience=2).history.loss) < 20
    g.history.plot()


def test_moving_both_ends_gives_one_map_to_the_same_effect(pairs, starts):
    (a, b, batches), start = pairs["gpt2"], starts["gpt2"]
    g = lmc.learned_matching(a, b, batches, init=start, dual=True, steps=40)
    assert difference(g(b), b, batches) < 1e-9
    assert middle(a, g(b), batches) < middle(a, start(b), batches)


def test_any_sampler_and_the_ensemble_as_target(pairs, starts):
    a, b, batches = pairs["vit"]
    drawn = []

    def at_the_ends() -> float:
        drawn.append(float(torch.rand(()) < 0.5))
        return drawn[-1]

    lmc.learned_matching(a, b, batches, init=starts["vit"], steps=12, lambdas=at_the_ends)
    assert set(drawn) == {0.0, 1.0}
    g = lmc.learned_matching(a, a, batches, init=a.spec.identity(), steps=5, lr=1e-9, lambdas=(0, 0), target="ensemble")
    answers = a(batches.inputs).softmax(-1)
    assert g.history.loss[0] == pytest.approx(-(answers * answers.log()).sum(-1).mean().item(), rel=0.2)


def test_soft_maps_change_the_end_point_and_are_measured_against_the_original(pairs):
    a, b, batches = pairs["mlp"]
    g = lmc.learned_matching(a, b, batches, soft=True, allow="permutation", steps=60, lr=0.1)
    assert isinstance(g["ff.0"], lmc.SoftPermutation)
    assert lmc.SoftPermutation.contains(g["ff.0"].matrix(), atol=1e-6) == (True, "")
    assert difference(g(b), b, batches) > 1e-2
    honest = lmc.interpolate(a, g(b), batches, ends=(a, b))
    assert honest.baseline[-1].item() == pytest.approx(lmc.evaluate(b, batches).loss)
    assert honest.baseline[-1] != honest.loss[-1]


def test_soft_maps_mix_with_permutations_only(pairs):
    a, b, batches = pairs["mlp"]  # a ReLU network, whose units have scales
    with pytest.raises(ValueError, match="use allow='permutation'"):
        lmc.learned_matching(a, b, batches, soft=True)
    with pytest.raises(ValueError, match="match with the same allow"):
        lmc.learned_matching(a, b, batches, init=lmc.weight_matching(a, b), allow="permutation", soft=True)


@pytest.mark.parametrize("name", ["mlp", "gpt2"])
def test_networks_in_half_precision_are_matched_in_single(pairs, name):
    a, b, batches = (x.to(torch.bfloat16) if isinstance(x, lmc.Network) else x for x in pairs[name])
    g = lmc.learned_matching(a, b, batches, steps=3)
    assert difference(g(b.to(torch.float64)), b.to(torch.float64), batches) < 1e-9


def test_mixed_precision_leaves_the_maps_exact(pairs, monkeypatch):
    a, b, batches = (x.to(torch.float32) if isinstance(x, lmc.Network) else x for x in pairs["gpt2"])
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    g = lmc.learned_matching(a, b, batches, init=a.spec.identity(), steps=3)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    assert lmc.StreamOrthogonal.contains(g["r"].matrix(), atol=1e-6) == (True, "")
    assert difference(g(b), b, batches) < 1e-4


def test_heads_stay_whole_when_units_are_mixed(pairs, starts):
    a, b, batches = pairs["gpt2"]
    g = lmc.learned_matching(a, b, batches, init=starts["gpt2"], soft=True, steps=3)
    assert isinstance(g["heads.0"], lmc.Permutation)
    assert isinstance(g["ff.0"], lmc.SoftPermutation)


@pytest.mark.parametrize("name", ["vit", "gpt2"])
@torch.no_grad()
def test_circuits_are_averaged_as_products(pairs, name):
    a, b, batches = pairs[name]
    x, lam = batches.inputs[:4], 0.3
    merged = lmc.merge_circuits(a, b, lam)

    def circuits(network):
        q, k, v, o = (network.params[f"0.{part}.weight"] for part in "qkvo")
        return q.mT @ k, v.mT @ o

    half = merged.spec.sites["r"].size // 2
    for found, one, two in zip(circuits(merged), circuits(a), circuits(b), strict=True):
        expected = (1 - lam) * one + lam * two
        found = found.unflatten(1, (half, 2)).mean(2).unflatten(2, (half, 2)).mean(3)  # the stream is doubled
        assert (found / found.norm() - expected / expected.norm()).abs().max() < 1e-12
    for end, network in ((0.0, a), (1.0, b)):
        assert (lmc.merge_circuits(a, b, end)(x) - network(x)).abs().max() < 1e-10
    inside = b.spec.sample(0)
    inside = lmc.Alignment(b.spec, b.spec.identity().maps | {s: inside[s] for s in inside if s[:2] in ("qk", "ov")})
    assert (lmc.merge_circuits(a, inside(b), lam)(x) - merged(x)).abs().max() < 1e-10
    assert (lmc.merge(a, inside(b), lam)(x) - lmc.merge(a, b, lam)(x)).abs().max() > 1e-6
    assert lmc.merge_circuits(b, a).architecture is lmc.merge_circuits(b, a, lam).architecture  # built once
    answers = merged.to_model()(x)  # the wide network is an ordinary module
    assert (getattr(answers, "logits", answers) - merged(x)).abs().max() < 1e-10


def test_matching_in_circuit_space(pairs, starts):
    a, b, batches = pairs["gpt2"]
    run = {"init": starts["gpt2"], "merge": lmc.merge_circuits, "sites": ["r"], "steps": 10}
    g = lmc.learned_matching(a, b, batches, **run)
    assert difference(g(b), b, batches) < 1e-10


def test_a_merged_model_is_an_ordinary_one_with_the_loss_of_the_curve(pairs, starts, tmp_path):
    from transformers import GPT2LMHeadModel

    a, b, batches = pairs["gpt2"]
    g = lmc.learned_matching(a, b, batches, init=starts["gpt2"], steps=10)
    curve = lmc.interpolate(a, g(b), batches, points=3)
    lmc.merge(a, g(b)).to(torch.float32).to_model().save_pretrained(tmp_path)
    loss = lmc.evaluate(GPT2LMHeadModel.from_pretrained(tmp_path), batches).loss
    assert loss == pytest.approx(curve.loss[1].item(), abs=1e-4)


def test_mistakes_are_named(pairs):
    a, b, batches = pairs["mlp"]
    learn = partial(lmc.learned_matching, a, b, batches, steps=1)
    for message, arguments in {
        r"inside \[0, 1\], not \(0.5, 1.5\)": {"lambdas": (0.5, 1.5)},
        "target must be": {"target": "teacher"},
        r"no sites \['r'\] to learn; the sites are": {"sites": ["r"]},
        "allow must be one of": {"allow": "anything"},
        "choose one": {"dual": True, "soft": True},
        "networks without heads have no circuits": {"merge": lmc.merge_circuits},
    }.items():
        with pytest.raises(ValueError, match=message):
            learn(**arguments)
    with pytest.raises(ValueError, match="the data are empty"):
        lmc.learned_matching(a, b, [], steps=1)
    with pytest.raises(ValueError, match=r"site 'ff.0' has 12 in a, 13 in b: give the wider first"):
        lmc.learned_matching(a, lmc.canonicalize(mlp((64, 13, 12, 3))), batches)


TWO = """
import json, sys, torch
from accelerate import PartialState
import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.networks.mlp import mlp

torch.set_num_threads(1)
inputs = torch.randn(63, 5, generator=torch.Generator().manual_seed(0))
batches = Batches(inputs, (inputs.sum(1) > 0).long(), 15)
networks = []
for seed in (0, 1):
    torch.manual_seed(seed)
    model = lmc.train(mlp((5, 8, 2)), batches, epochs=3, batch_size=15, lr=1e-2, seed=seed)
    networks.append(lmc.canonicalize(model))
g = lmc.learned_matching(*networks, batches, steps=8, batch_size=15)
weights = torch.cat([p.flatten() for p in g(networks[1]).params.values()])
if PartialState().is_main_process:
    json.dump({"processes": PartialState().num_processes, "weights": weights.tolist()}, open(sys.argv[1], "w"))
"""


def test_two_processes_train_and_match_as_one_does(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--multi_gpu",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    found = []
    for name, how in (("one", []), ("two", launch)):  # --multi_gpu is Accelerate's word for processes on one machine
        out = tmp_path / f"{name}.json"
        subprocess.run(
            [sys.executable, *how, str(tmp_path / "two.py"), str(out)],
            check=True,
            timeout=120,
            env=os.environ | {"ACCELERATE_USE_CPU": "true"},
        )
        found.append(json.loads(out.read_text()))
    assert [one["processes"] for one in found] == [1, 2]
    one, two = (torch.tensor(each["weights"]) for each in found)
    assert torch.allclose(one, two, atol=1e-5)
