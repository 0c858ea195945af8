"""Does Adam single out axes inside heads? Vision Transformers trained with Adam and with SGD, three seeds each.

    python benchmarks/axes.py run --out WORK      # five minutes a case on one core
    python benchmarks/axes.py table --out WORK    # lmc_utils/assets/results/axes.csv

The end point ``vit`` on the shipped 12,000 images, 16 epochs, with AdamW as it ships and with SGD (Nesterov momentum
0.9, rate 0.2). One row a pair: the excess of the test loss half way, in nats, after weight matching with these maps of
the stream and inside heads.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from itertools import combinations, product

import torch
from results import command
from torch import nn
from torch.nn.functional import cross_entropy

import lmc_utils as lmc
from lmc_utils.data import Data
from lmc_utils.networks.base import BUILDERS
from lmc_utils.zoo.presets import PRESETS, augmentation, shaped

CASES = ("Adam", "SGD")
EPOCHS, SEEDS = 16, (0, 1, 2)
STREAM = {"relabelled": lmc.Permutation, "rotated": lmc.StreamOrthogonal}
INSIDE = {"relabelled": lmc.Permutation, "rotated": lmc.Orthogonal, "any invertible map": lmc.Invertible}


def by_sgd(model: nn.Module, data: Data, seed: int) -> nn.Module:
    """Train a model in place with SGD, its rate rising for a tenth of the steps and falling along half a cosine."""
    draw = torch.Generator().manual_seed(seed)
    images, labels = data.train.inputs, data.train.targets
    steps = EPOCHS * (len(images) // 128)
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=steps, pct_start=0.1)
    model.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images), generator=draw)[: steps // EPOCHS * 128].split(128):
            turned = torch.rand(len(rows), 1, 1, 1, generator=draw) < 0.5
            batch = torch.where(turned, images[rows].flip(-1), images[rows])
            optimizer.zero_grad()
            cross_entropy(model(batch), labels[rows]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def allowing(network: lmc.Network, stream: type, inside: type) -> lmc.Network:
    """The same network with other classes for its stream and inside its heads."""
    spec = network.spec
    sites = {
        name: replace(site, symmetry=inside if site.within else stream if name == "r" else site.symmetry)
        for name, site in spec.sites.items()
    }
    return replace(network, architecture=replace(network.architecture, spec=replace(spec, sites=sites)))


def case(name: str, _: Namespace) -> list[dict]:
    """The rows of all pairs of three networks."""
    data, preset = lmc.load_data("fashion-mnist"), PRESETS["vit"]
    networks = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = BUILDERS["vit"](**shaped("vit", preset.config, data))
        if name == "SGD":
            model = by_sgd(model, data, seed)
        else:
            recipe = preset.recipe | {"epochs": EPOCHS}
            model = lmc.train(model, data.train, **recipe, augment=augmentation("flip", data), seed=seed)
        networks.append(lmc.canonicalize(model))
    found = [lmc.evaluate(network, data.test) for network in networks]
    print(name, "accuracies", [round(one.accuracy, 3) for one in found])
    rows = []
    for (i, j), stream, inside in product(combinations(range(3), 2), STREAM, INSIDE):
        a, b = (allowing(networks[k], STREAM[stream], INSIDE[inside]) for k in (i, j))
        middle = lmc.evaluate(lmc.merge(a, lmc.weight_matching(a, b)(b)), data.test).loss
        excess = middle - (found[i].loss + found[j].loss) / 2
        about = {"optimizer": name, "pair": f"{SEEDS[i]}-{SEEDS[j]}", "stream": stream, "inside": inside}
        rows.append(about | {"excess": excess, "accuracy": (found[i].accuracy + found[j].accuracy) / 2})
    return rows


if __name__ == "__main__":
    command(__doc__, "axes", CASES, case)
