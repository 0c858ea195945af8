"""Training and learning refuse what cannot be meant before they begin, and never call NaN a success."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.landscape.recipe import Recipe
from lmc_utils.networks.mlp import mlp
from lmc_utils.train import fit

WIDTHS = (4, 5, 3)
train_module = importlib.import_module("lmc_utils.train")  # lmc_utils.train is the function


@pytest.fixture
def batches(make_batches) -> Batches:
    return make_batches(WIDTHS)


@pytest.fixture
def train(batches):
    torch.manual_seed(0)
    return partial(lmc.train, mlp(WIDTHS), batches, epochs=1, batch_size=10)


@pytest.fixture
def no_work(monkeypatch):
    """Nothing long may begin: no step of the optimizer, no matching by weights."""

    def work(*_, **__):
        pytest.fail("the work has begun")

    monkeypatch.setattr(torch.optim.AdamW, "step", work)
    for name in ("learned", "universe"):
        monkeypatch.setattr(importlib.import_module(f"lmc_utils.matching.{name}"), "weight_matching", work)


# what is wrong with an argument of a recipe, wherever there is one
RECIPE = [
    ({"lr": 0}, r"lr must be a finite number, above 0 and at most 1e\+06, not 0"),
    ({"lr": -0.1}, r"lr must be a finite number, above 0 and at most 1e\+06, not -0.1"),
    ({"lr": math.nan}, r"lr must be a finite number, above 0 and at most 1e\+06, not nan"),
    ({"lr": math.inf}, r"lr must be a finite number, above 0 and at most 1e\+06, not inf"),
    ({"lr": 1e30}, r"lr must be a finite number, above 0 and at most 1e\+06, not 1e\+30"),
    ({"lr": "0.1"}, "lr must be a number, not '0.1'"),
    ({"warmup": 1.0}, "warmup must be a finite number, at least 0 and below 1, not 1"),
    ({"warmup": -0.1}, "warmup must be a finite number, at least 0 and below 1, not -0.1"),
    ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
    ({"batch_size": 2.5}, "batch_size must be a whole number, not 2.5"),
    ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
    ({"seed": 2**62}, "seed must be at most 8796093022208, not 4611686018427387904"),
    ({"seed": -(2**62)}, "seed must be at least -8796093022208, not -4611686018427387904"),
    ({"patience": 3}, "patience=3 needs data for validation"),
    ({"validation": [], "patience": -1}, "patience must be at least 1, not -1"),
    ({"validation": []}, "validation hold no batch: the data are empty"),
    ({"validation": iter([])}, "validation can be iterated only once: give a list of them, or a DataLoader"),
    ({"validation": 3}, "validation must be batches .inputs, targets., such as data.train, not 3"),
    ({"augment": "flip"}, "augment must be a function or None, not 'flip'"),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *RECIPE,
        ({"epochs": math.inf}, "epochs must be a finite number, above 0, not inf"),
        ({"epochs": -1}, "epochs must be a finite number, above 0, not -1"),
        ({"epochs": 0.01}, "epochs=0.01 is no step at all: an epoch is 5 steps"),
        ({"weight_decay": -1}, r"weight_decay must be a finite number, at least 0 and at most 1e\+06, not -1"),
        ({"betas": (0.9, 1.0)}, "betas must be a finite number, at least 0 and below 1, not 1"),
        ({"betas": 0.9}, "betas must be two numbers, not 0.9"),
        ({"clip": 0}, "clip must be a finite number, above 0, not 0"),
        ({"clip": math.inf}, "clip must be a finite number, above 0, not inf"),
        ({"average": 1.0}, "average must be a finite number, at least 0 and below 1, not 1"),
        ({"average": math.nan}, "average must be a finite number, at least 0 and below 1, not nan"),
    ],
)
def test_training_refuses_a_bad_argument_with_its_value(train, no_work, tmp_path, arguments, message):
    checkpoint = tmp_path / "run.safetensors"
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        train(**arguments, checkpoint=checkpoint)
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"steps": 2.5}, "steps must be a whole number, not 2.5"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"steps": 5, "every": 0}, "every must be at least 1, not 0"),
    ],
)
def test_fitting_refuses_steps_that_are_no_number_of_steps(batches, no_work, recipe, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        fit(nn.Linear(4, 3), batches, lr=0.1, **recipe)


def test_a_recipe_is_checked_when_it_is_made_and_is_told_without_the_place_of_its_checkpoint(tmp_path):
    recipe = Recipe(steps=25, lr=1, betas=[0, 0.5], augment=torch.flip, checkpoint=str(tmp_path / "run"))
    assert (recipe.lr, recipe.betas, recipe.every, recipe.checkpoint) == (1.0, (0.0, 0.5), 2, tmp_path / "run")
    assert "checkpoint" not in recipe.told and "flip" in recipe.told["augment"]
    assert Recipe(**vars(recipe)) == recipe
    with pytest.raises(ValueError, match="lr must be a finite number, above 0"):
        replace(recipe, lr=0)


def test_training_takes_modules_and_batches_that_fit_them(batches, no_work):
    with pytest.raises(TypeError, match=r"^model must be a torch module, not Network: Network.to_model\(\) gives one"):
        lmc.train(lmc.canonicalize(mlp(WIDTHS)), batches)
    with pytest.raises(TypeError, match=r"^batches must be lmc_utils.data.Batches, such as data.train, not list"):
        lmc.train(mlp(WIDTHS), list(batches))
    wide = lmc.canonicalize(mlp((7, 5, 3)))
    for work in (
        partial(lmc.train, mlp((7, 5, 3)), batches),
        partial(lmc.learned_matching, wide, wide, batches),
        partial(lmc.learned_matching, wide, wide, list(batches)),
    ):
        with pytest.raises(
            ValueError, match=r"^the network cannot read these inputs, .* shape \(\d+, 4\) .*: mat1 and mat2"
        ):
            work()


def test_a_model_that_is_damaged_is_not_trained(batches, no_work):
    model = mlp(WIDTHS)
    nn.init.constant_(model.fc1.bias, math.nan)
    with pytest.raises(ValueError, match=r"^parameter 'fc1.bias' of the model has NaN or infinite entries"):
        lmc.train(model, batches)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.index_fill(0, torch.tensor([7]), -100), "class numbers from 0 to 2, but there is -100"),
        (lambda t: t + 1, "class numbers from 0 to 2, but there is 3"),
        (lambda t: t[:, None], r"the shape of the logits without its last axis, \(50,\), not \(50, 1\)"),
    ],
)
def test_targets_that_are_no_classes_are_refused_before_the_work(train, batches, no_work, change, message):
    wrong = Batches(batches.inputs, change(batches.targets), 10)
    a, b = (lmc.canonicalize(mlp(WIDTHS)) for _ in range(2))
    for work in (
        partial(lmc.train, mlp(WIDTHS), wrong),
        partial(train, validation=wrong),
        partial(lmc.learned_matching, a, b, wrong),
        partial(lmc.learned_matching, a, b, batches, validation=wrong),
        partial(lmc.learned_universe, [a, b], wrong),
    ):
        with pytest.raises(ValueError, match=f"^targets must .*{message}"):
            work()


def test_targets_that_are_no_classes_are_refused_wherever_they_come_up(batches):
    a, b = (lmc.canonicalize(mlp(WIDTHS)) for _ in range(2))
    wrong = DataLoader(TensorDataset(batches.inputs, batches.targets.sub(100)), 20)  # not looked at before
    for target in ("labels", "ensemble"):
        with pytest.raises(ValueError, match=r"^targets must be class numbers from 0 to 2, but there is -"):
            lmc.learned_matching(a, b, wrong, init=b.spec.identity(), steps=2, target=target)


def once(batches: Batches):
    yield from batches


LEARNING = [
    *RECIPE,
    ({"steps": 2.5}, "steps must be a whole number, not 2.5"),
    ({"batches": []}, "batches hold no batch: the data are empty"),
    ({"batches": "digits"}, "batches must be batches .inputs, targets., such as data.train, not 'digits'"),
    ({"batches": once([])}, "batches can be iterated only once: give a list of them, or a DataLoader"),
    ({"batches": [torch.zeros(3, 4)]}, r"each minibatch must be a pair of tensors .*, but number 0 is a tensor"),
    ({"batches": [(torch.zeros(3, 4), torch.zeros(2))]}, "minibatch 0 must have as many inputs as targets"),
    ({"batches": [(torch.zeros(0, 4), torch.zeros(0))]}, "batches hold no batch: the data are empty"),
    ({"allow": "all"}, "allow must be one of"),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *LEARNING,
        ({"lambdas": (0.4, math.nan)}, "lambdas must be a finite number, not nan"),
        ({"lambdas": (0.1, 0.2, 0.3)}, r"lambdas must be two positions, or a function .*, not \(0.1, 0.2, 0.3\)"),
        ({"lambdas": ("0", "1")}, "lambdas must be a number, not '0'"),
        ({"lambdas": 0.5}, "lambdas must be two positions, or a function that draws one, not 0.5"),
        ({"target": 3}, "target must be one of 'labels', 'ensemble', not 3"),
        ({"sites": "ff.0"}, r"sites must be a collection of names, not a string: write \['ff.0'\]"),
        ({"sites": []}, "sites is empty: there is nothing to learn"),
        ({"sites": torch.empty(0, 4)}, r"sites must be a collection of names, not a tensor of shape \(0, 4\)"),
        ({"sites": torch.ones(2)}, r"sites must be a collection of names, not a tensor of shape \(2,\)"),
        ({"soft": torch.ones(2)}, "soft must be a bool, not a Tensor"),
        ({"dual": 1}, "dual must be a bool, not a int"),
        ({"merge": 0.5}, "merge must be a function of two networks and a position that gives a network, not 0.5"),
        ({"merge": lambda a, b, lam: None}, "merge must be a function of two networks and a position"),
        ({"init": "weights"}, "init must be an alignment, such as weight_matching.a, b., not str"),
        ({"b": mlp(WIDTHS)}, "b must be a Network, not a Sequential: lmc.canonicalize"),
    ],
)
def test_matching_refuses_a_bad_argument_with_its_value(batches, no_work, arguments, message):
    a, b = (lmc.canonicalize(mlp(WIDTHS)) for _ in range(2))
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        lmc.learned_matching(**{"a": a, "b": b, "batches": batches, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *LEARNING,
        ({"concentration": 0}, "concentration must be a finite number, above 0, not 0"),
        ({"concentration": math.nan}, "concentration must be a finite number, above 0, not nan"),
        ({"concentration": math.inf}, "concentration must be a finite number, above 0, not inf"),
        ({"concentration": "5"}, "concentration must be a number, not '5'"),
        ({"init": ["a", "b"]}, "init must be an alignment"),
        ({"networks": [mlp(WIDTHS)] * 2}, r"networks\[0\] must be a Network, not a Sequential"),
    ],
)
def test_learning_a_universe_refuses_a_bad_argument_with_its_value(batches, no_work, arguments, message):
    networks = [lmc.canonicalize(mlp(WIDTHS)) for _ in range(2)]
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        lmc.learned_universe(**{"networks": networks, "batches": batches, **arguments})


@pytest.mark.parametrize(("rounds", "why"), [(0, "at least 1, not 0"), (2.5, "a whole number, not 2.5")])
def test_a_universe_takes_a_whole_number_of_rounds(rounds, why):
    with pytest.raises((ValueError, TypeError), match=f"^rounds must be {why}"):
        lmc.universe_matching([lmc.canonicalize(mlp(WIDTHS))] * 2, rounds=rounds)


@pytest.mark.parametrize("position", [1.5, -0.1, math.nan, "0.5"])
def test_a_sampler_that_leaves_the_line_is_stopped(batches, position):
    a, b = (lmc.canonicalize(mlp(WIDTHS)) for _ in range(2))
    with pytest.raises((ValueError, TypeError), match=rf"^what lambdas\(\) returns must be .* not '?{position}"):
        lmc.learned_matching(a, b, batches, init=b.spec.identity(), lambdas=lambda: position)


class Trap(nn.Module):
    """A loss that looks well, until something that should be finite is not."""

    def __init__(self, gradient: float = 1.0) -> None:
        super().__init__()
        self.gradient, self.weight, self.calls = gradient, nn.Parameter(torch.ones(())), 0

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls > 3:
            self.weight.register_hook(lambda _: torch.tensor(self.gradient))
        return self.weight.square()


@pytest.mark.parametrize("every", [1, 5])
def test_a_gradient_that_is_nan_is_noticed_before_anything_is_saved(batches, tmp_path, every):
    path, module = tmp_path / "run.safetensors", Trap(math.nan)
    with pytest.raises(
        ValueError, match=r"^(weights became NaN or infinite|the loss became nan) in step [45]: lower lr"
    ):
        fit(module, batches, steps=20, lr=1e-3, batch_size=10, every=every, checkpoint=path)
    if every == 1:
        tensors, metadata = train_module.read_checkpoint(path)
        assert len(metadata["loss"]) == 3
        assert all(t.isfinite().all() for t in tensors.values())
    else:
        assert not path.exists()


def test_a_gradient_that_is_nan_in_the_last_step_is_noticed(batches):
    with pytest.raises(ValueError, match=r"^weights became NaN or infinite in step 4"):
        fit(Trap(math.nan), batches, steps=4, lr=1e-3, batch_size=10, every=4)


def test_a_loss_that_is_nan_takes_no_step(batches):
    module = Trap()
    module.forward = lambda *_: module.weight * math.nan
    with pytest.raises(ValueError, match=r"^the loss became nan in step 1: lower lr"):
        fit(module, batches, steps=3, lr=1e-3)
    assert module.weight == 1


def test_a_validation_loss_that_is_nan_is_an_error(train, batches, tmp_path):
    inputs = batches.inputs.clone()
    inputs[3] = math.inf
    path = tmp_path / "run.safetensors"
    with pytest.raises(ValueError, match=r"^this network cannot be evaluated: its loss is nan"):
        train(validation=Batches(inputs, batches.targets, 10), checkpoint=path)
    assert not path.exists()


def test_maps_that_are_nan_are_an_error_and_no_traceback_of_linear_algebra(batches):
    module = Trap(math.nan)
    loss = module.forward
    module.forward = lambda *batch: loss(*batch) + torch.linalg.svdvals(module.weight.expand(2, 2)).sum()
    with pytest.raises(ValueError, match=r"^step 5 failed \(linalg.svd.*\): lower lr \(it is 0.001\)"):
        fit(module, batches, steps=20, lr=1e-3, batch_size=10, every=20)


def test_learning_that_diverges_is_an_error(batches):
    a, b = (lmc.canonicalize(mlp(WIDTHS)) for _ in range(2))  # a ReLU network, whose units have scales
    with pytest.raises(ValueError, match=r"has .* NaN or infinite entries"):
        lmc.learned_matching(a, b, batches, init=b.spec.identity(), steps=20, lr=1e4)
