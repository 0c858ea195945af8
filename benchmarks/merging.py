"""Is a merged network worth having? Fresh triples of Vision Transformers: each network, their average, their ensemble,
and one network that was trained three times as long.

    python benchmarks/merging.py run --data FOLDER --out WORK    # an hour and a half on one core
    python benchmarks/merging.py table --out WORK                # lmc_utils/assets/results/merging.csv

``FOLDER`` holds all of Fashion-MNIST (``python -m lmc_utils.assets.make_data --fashion DIR --full FOLDER``). Nobody had
looked at these seeds while methods were chosen. Cases are independent of each other. The networks of the shipped table
were trained on a GPU with torch 2.11; other versions draw other initial weights from the same seed.

One row a network: means over all 10,000 test images with standard errors over them, and the same for its gain over the
mean of the three networks, image by image. ``calibrated`` is the loss after one temperature, which each half of the
images gets from the other half. ``epochs`` counts the images of all training and matching behind a row.
"""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path

import torch
from results import command
from simplices import LONGER
from torch import Tensor, nn
from torch.nn.functional import nll_loss

import lmc_utils as lmc
from lmc_utils.data import Data
from lmc_utils.landscape.evaluate import best_temperature
from lmc_utils.networks.base import BUILDERS
from lmc_utils.zoo.presets import PRESETS, augmentation, shaped

#: The first seed of each triple; with "longer", one network from that seed.
TRIPLES = (10, 13, 16)
CASES = {f"vit-{seed}{kind}": (seed, kind) for seed in TRIPLES for kind in ("", "-longer")}


def trained(name: str, seed: int, data: Data, path: Path, times: int = 1) -> nn.Module:
    """An end point, trained so many times as long; written to ``path``, and read if it is there."""
    preset = PRESETS[name]
    config = shaped(preset.architecture, preset.config, data)
    if not path.exists():
        torch.manual_seed(seed)
        recipe = preset.recipe | {"epochs": times * preset.recipe["epochs"]}
        model = lmc.train(
            BUILDERS[preset.architecture](**config), data.train, **recipe, seed=seed,
            augment=preset.augment and augmentation(preset.augment, data), checkpoint=path.with_suffix(".unfinished"),
        )  # fmt: skip
        lmc.save_checkpoint(path, model, preset.architecture, config, seed=seed)
    return lmc.load_checkpoint(path).model


@torch.no_grad()
def answers(network: lmc.Network, data: Data) -> Tensor:
    """Log probabilities, shape (images, classes)."""
    return torch.cat([network(x) for x, _ in data.test]).log_softmax(-1)


def measures(log_probabilities: Tensor, targets: Tensor) -> dict[str, list[float]]:
    """Loss, calibrated loss and accuracy of each image."""

    def losses(x: Tensor) -> Tensor:
        return nll_loss(x, targets, reduction="none").double()

    even = torch.arange(len(targets)) % 2 == 0
    calibrated = torch.zeros(len(targets), dtype=torch.float64)
    for fitted, told in ((even, ~even), (~even, even)):
        temperature = best_temperature(log_probabilities[fitted], targets[fitted])
        calibrated[told] = losses((log_probabilities / temperature).log_softmax(-1))[told]
    right = (log_probabilities.argmax(-1) == targets).double()
    found = {"loss": losses(log_probabilities), "calibrated": calibrated, "accuracy": right}
    return {name: [float(f"{x:.6g}") for x in values.tolist()] for name, values in found.items()}


def case(name: str, args: Namespace) -> dict:
    """What each network of a case says about each test image."""
    seed, kind = CASES[name]
    data = lmc.load_data(str(args.data), batch_size=100)
    epochs, flip = PRESETS["vit"].recipe["epochs"], augmentation(PRESETS["vit"].augment, data)
    if kind:
        model = trained("vit", seed, data, args.out / f"{name}.safetensors", times=3)
        found = {"three times as long": (3 * epochs, answers(lmc.canonicalize(model), data))}
    else:
        seeds = range(seed, seed + 3)
        networks = [lmc.canonicalize(trained("vit", s, data, args.out / f"vit-seed{s}.safetensors")) for s in seeds]
        _, init = lmc.universe_matching(networks)
        universe, _ = lmc.learned_universe(networks, data.train, init=init, augment=flip, seed=seed, **LONGER)
        each = [answers(network, data) for network in networks]
        matching = LONGER["steps"] * LONGER["batch_size"] / len(data.train.inputs)
        found = {f"network {s}": (epochs, answer) for s, answer in zip(seeds, each, strict=True)}
        found["average"] = 3 * epochs + matching, answers(universe, data)
        found["ensemble"] = 3 * epochs, torch.stack(each).logsumexp(0) - math.log(3)
    networks = {
        kind: {"epochs": total} | measures(answer, data.test.targets) for kind, (total, answer) in found.items()
    }
    return {"triple": seed, "networks": networks}


def rows(cases: list[dict]) -> list[dict]:
    """Means, errors over images, and gains over the mean of a triple's three networks."""
    found, triples = [], {}
    for one in cases:
        triples.setdefault(one["triple"], {}).update(one["networks"])
    for triple, networks in triples.items():
        single = [values for kind, values in networks.items() if kind.startswith("network")]
        for kind, values in networks.items():
            row = {"triple": triple, "network": kind, "epochs": values["epochs"]}
            for measure in ("loss", "calibrated", "accuracy"):
                own = torch.tensor(values[measure], dtype=torch.float64)
                gain = own - torch.tensor([x[measure] for x in single], dtype=torch.float64).mean(0)
                for column, images in {measure: own, f"{measure}_gain": gain}.items():
                    error = images.std().item() / math.sqrt(len(images))
                    row |= {column: images.mean().item(), f"{column}_error": error}
            found.append(row)
    return found


if __name__ == "__main__":
    command(__doc__, "merging", CASES, case, "data", rows=rows)
