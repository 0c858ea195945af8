"""Is a merged network worth having? On end points of fresh seeds: one network, their average, their ensemble, and one
network that was trained for as long as all of it took.

    python benchmarks/merging.py run --data FOLDER --out WORK [--cases vit-10 ...]   # hours on one core
    python benchmarks/merging.py table --out WORK      # lmc_utils/assets/results/merging.csv

``FOLDER`` holds all of Fashion-MNIST (``python -m lmc_utils.assets.make_data --fashion DIR --full FOLDER``). No seed
here was looked at while methods were chosen. A case is one triple of networks, or one longer run from the first seed of
a triple; cases are independent, so they can run beside each other.

One row a network of a case: means over all test images or texts, and standard errors over them, also of the gain over
the mean of the three networks, sample by sample. ``calibrated`` is the loss after one temperature, which each half of
the samples gets from the other half. ``epochs`` counts the samples of all training and matching behind a row.
"""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path

import torch
from results import command
from simplices import LEARN, LONGER
from torch import Tensor, nn
from torch.nn.functional import nll_loss

import lmc_utils as lmc
from lmc_utils.data import Data
from lmc_utils.landscape.evaluate import best_temperature
from lmc_utils.networks.base import BUILDERS
from lmc_utils.zoo.presets import PRESETS, augmentation, shaped

#: The first seeds of triples, by set.
TRIPLES = {"vit": (10, 13, 16), "vit-token": (10, 13), "gpt2": (10, 13, 16), "gpt2-dropout": (10, 13)}
#: One network trained for as long as three, and for as long as three and their matching.
LONG = {"three times as long": False, "as long as all": True}
CASES = {
    f"{name}-{seed}{'-' + kind if kind else ''}": (name, seed, kind)
    for name, seeds in TRIPLES.items()
    for seed in seeds
    for kind in ("", *LONG)
}


def load(name: str, args: Namespace) -> Data:
    """The data of a set: all images, or the text that ships."""
    preset = PRESETS[name]
    return lmc.load_data(str(args.data) if preset.data == "fashion-mnist" else preset.data, batch_size=100)


def trained(name: str, seed: int, data: Data, path: Path, epochs: float = 1.0) -> nn.Module:
    """The end point of a preset, trained ``epochs`` times as long; written to ``path``, and read if it is there."""
    preset = PRESETS[name]
    config = shaped(preset.architecture, preset.config, data)
    if not path.exists():
        torch.manual_seed(seed)
        recipe = preset.recipe | {"epochs": epochs * preset.recipe["epochs"]}
        model = lmc.train(
            BUILDERS[preset.architecture](**config), data.train.take(preset.samples or len(data.train.inputs)),
            **recipe, augment=preset.augment and augmentation(preset.augment, data), seed=seed,
            checkpoint=path.with_suffix(".unfinished"),
        )  # fmt: skip
        lmc.save_checkpoint(path, model, preset.architecture, config, seed=seed)
    return lmc.load_checkpoint(path).model


def learning(name: str, data: Data) -> tuple[dict, float]:
    """The arguments of ``learned_universe``, and how many epochs of training samples it sees."""
    recipe = LONGER if name.startswith("vit") else LEARN[name] | {"batch_size": 8}
    samples = PRESETS[name].samples or len(data.train.inputs)
    return recipe, recipe["steps"] * recipe["batch_size"] / samples


@torch.no_grad()
def measures(log_probabilities: Tensor, targets: Tensor) -> dict[str, list[float]]:
    """Loss, calibrated loss and accuracy of each image, or of each text their means over tokens."""

    def losses(x: Tensor) -> Tensor:
        return nll_loss(x.movedim(-1, 1), targets, reduction="none").double().flatten(1).mean(1)

    targets = targets.view(len(targets), -1)
    log_probabilities = log_probabilities.view(*targets.shape, -1)
    halves = torch.arange(len(targets)) % 2
    calibrated = torch.zeros(len(targets), dtype=torch.float64)
    for half in (0, 1):
        fitted, told = halves == half, halves != half
        temperature = best_temperature(log_probabilities[fitted].flatten(0, -2), targets[fitted].flatten())
        calibrated[told] = losses((log_probabilities / temperature).log_softmax(-1))[told]
    right = (log_probabilities.argmax(-1) == targets).double().mean(1)
    found = {"loss": losses(log_probabilities), "calibrated": calibrated, "accuracy": right}
    return {name: [float(f"{x:.6g}") for x in values.tolist()] for name, values in found.items()}


@torch.no_grad()
def answers(network: nn.Module | lmc.Network, data: Data) -> Tensor:
    """Log probabilities of all test samples."""
    logits = [network(x) for x, _ in data.test]
    return torch.cat([getattr(x, "logits", x) for x in logits]).log_softmax(-1)


def case(name: str, args: Namespace) -> dict:
    """What each network of a case says about each test sample."""
    name, seed, kind = CASES[name]
    data, path = load(name, args), lambda seed: args.out / f"{name}-seed{seed}{kind}.safetensors"
    learn, matching = learning(name, data)
    epochs = PRESETS[name].recipe["epochs"]
    about = {"set": name, "triple": seed}
    if kind:
        total = 3 * epochs + LONG[kind] * matching
        network = lmc.canonicalize(trained(name, seed, data, path(seed), total / epochs))
        return about | {"networks": {kind: {"epochs": total} | measures(answers(network, data), data.test.targets)}}
    seeds = range(seed, seed + 3)
    networks = [lmc.canonicalize(trained(name, s, data, path(s))) for s in seeds]
    train = data.train.take(PRESETS[name].samples or len(data.train.inputs))
    augment = PRESETS[name].augment and augmentation(PRESETS[name].augment, data)
    universe, _ = lmc.learned_universe(
        networks, train, init=lmc.universe_matching(networks)[1], augment=augment, seed=seed, **learn
    )
    each = [answers(network, data) for network in networks]
    ensemble = torch.stack(each).logsumexp(0) - math.log(3)
    found = {f"network {s}": (epochs, answer) for s, answer in zip(seeds, each, strict=True)}
    found |= {
        "merged": (3 * epochs + matching, answers(universe.to(torch.float32), data)),
        "ensemble": (3 * epochs, ensemble),
    }
    return about | {
        "networks": {
            kind: {"epochs": total} | measures(answer, data.test.targets) for kind, (total, answer) in found.items()
        }
    }


def rows(cases: list[dict]) -> list[dict]:
    """Means, errors over samples, and gains over the mean of a triple's three networks."""
    found, triples = [], {}
    for one in cases:
        triples.setdefault((one["set"], one["triple"]), {}).update(one["networks"])
    for (name, triple), networks in triples.items():
        single = [values for kind, values in networks.items() if kind.startswith("network")]
        for kind, values in networks.items():
            row = {"set": name, "triple": triple, "network": kind, "epochs": values["epochs"]}
            for measure in ("loss", "calibrated", "accuracy"):
                own = torch.tensor(values[measure], dtype=torch.float64)
                gain = own - torch.tensor([x[measure] for x in single], dtype=torch.float64).mean(0)
                for column, samples in {measure: own, f"{measure}_gain": gain}.items():
                    error = samples.std().item() / math.sqrt(len(samples))
                    row |= {column: samples.mean().item(), f"{column}_error": error}
            found.append(row)
    return found


if __name__ == "__main__":
    command(__doc__, "merging", CASES, case, "data", rows=rows)
