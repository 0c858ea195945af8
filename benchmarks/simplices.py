"""The loss over the triangle between the three networks of each set of shipped end points, by every method.

    python benchmarks/simplices.py run --data FOLDER --out WORK [--cases gpt2 ...]   # 70 minutes on one core
    python benchmarks/simplices.py table --out WORK      # lmc_utils/assets/results/simplices.csv

``FOLDER`` holds all of Fashion-MNIST (``python -m lmc_utils.assets.make_data --fashion DIR --full FOLDER``); the ViTs
are matched a second time with its 60,000 images.

One row a mixture, so that every number of the book can be computed from the table again: 28 mixtures for every method.
Of texts every sixth window of the test split and every 32nd that the end points were trained on, of images the whole
test split and every sixth training image. The loss of a mixture and of the networks is taken on the same samples;
``error`` is the standard error of the excess, that is, of the mean of their difference over the samples.
"""

from __future__ import annotations

import math
import time
from argparse import Namespace
from collections.abc import Iterator

import torch
from results import command, every, sample_losses
from torch import Tensor

import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.zoo.presets import PRESETS, augmentation

TEXTS, IMAGES = {"steps": 2000}, {"steps": 4000, "batch_size": 256}
LEARN = {"vit": IMAGES, "vit-token": IMAGES, "vit-overfit": IMAGES, "mlp": IMAGES, "gpt2": TEXTS, "gpt2-dropout": TEXTS}
#: Sets that are matched once more, with all images that they were trained on, and for longer.
ALL_IMAGES = ("vit", "vit-token")
LONGER = IMAGES | {"steps": 16_000}


def moved(
    networks: list[lmc.Network], learn: dict[str, tuple[Batches, dict]]
) -> Iterator[tuple[str, list[lmc.Network]]]:
    """For each method the three networks as it moves them, each computed when it is asked for."""
    yield "vanilla", networks
    first, *others = networks
    yield "weight, to the first", [first, *(lmc.weight_matching(first, other)(other) for other in others)]
    _, start = lmc.universe_matching(networks)
    yield "weight, universe", [g(x) for g, x in zip(start, networks, strict=True)]
    for method, (batches, arguments) in learn.items():
        _, gs = lmc.learned_universe(networks, batches, init=start, **arguments)
        yield method, [g(x) for g, x in zip(gs, networks, strict=True)]


def standard_errors(networks: list[lmc.Network], weights: Tensor, batches: Batches) -> Tensor:
    """The standard error of the excess of each mixture over images or texts, shape (mixtures,), nats."""
    samples = torch.stack([sample_losses(lmc.average(networks, row), batches) for row in weights.tolist()])
    excess = samples - weights @ samples[weights.argmax(0)]
    return excess.std(1) / math.sqrt(excess.shape[1])


def simplices(name: str, args: Namespace) -> list[dict]:
    """One row for each method, split and mixture."""
    preset = PRESETS[name]
    data = lmc.load_data(preset.data, batch_size=50)
    train = data.train.take(preset.samples or len(data.train.inputs))
    test_step, train_step = (6, 32) if data.tokenizer else (1, 6)
    augment = {"augment": preset.augment and augmentation(preset.augment, data)}
    learn = {"learned": (train, LEARN[name] | augment)}
    if name in ALL_IMAGES:
        learn["learned, 60,000 images"] = lmc.load_data(str(args.data)).train, LONGER | augment
    networks = [lmc.canonicalize(lmc.load_endpoint(name, seed)) for seed in lmc.list_endpoints()[name]]
    rows, start = [], time.process_time()
    for method, three in moved(networks, learn):
        seconds = time.process_time() - start
        for split, batches in {"test": every(data.test, test_step), "train": every(train, train_step)}.items():
            found = lmc.interpolate_simplex(three, batches, calibrate=True)
            errors = standard_errors(three, found.weights, batches)
            columns = torch.column_stack([found.weights, found.loss, found.accuracy, found.calibrated, errors])
            about = {"set": name, "method": method, "split": split, "seconds": seconds}
            names = ("a", "b", "c", "loss", "accuracy", "calibrated", "error")
            rows += [about | dict(zip(names, values, strict=True)) for values in columns.tolist()]
            error = errors[found.excess.argmax()]
            print(name, method, split, f"{found.barycentre:.4f} {found.barrier:.4f} +- {error:.4f} nats, "
                  f"calibrated {found.calibrated_barrier:.4f}, {seconds:.1f} s", flush=True)  # fmt: skip
        start = time.process_time()
    return rows


if __name__ == "__main__":
    command(__doc__, "simplices", LEARN, simplices, "data")
