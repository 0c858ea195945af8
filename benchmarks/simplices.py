"""The loss over the triangle between three shipped GPT-2s, of either set, and between three ViTs, by every method.

    python benchmarks/simplices.py run --out WORK [--cases gpt2 ...]   # 20 minutes on one core
    python benchmarks/simplices.py table --out WORK                   # lmc_utils/assets/results/simplices.csv

One row a mixture, so that every number of the book can be computed from the table again: 28 mixtures for every method.
Of texts every sixth window of the test split and every 32nd that the end points were trained on, of images the whole
test split and every sixth training image.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator

import torch
from results import command, every

import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.endpoints import PRESETS, augmentation

LEARN = {"gpt2": {"steps": 2000}, "gpt2-dropout": {"steps": 2000}, "vit": {"steps": 4000, "batch_size": 256}}
# of the test and of the training split one sample in so many is used
STEPS = {"gpt2": (6, 32), "vit": (1, 6)}


def moved(networks: list[lmc.Network], train: Batches, **learn: object) -> Iterator[tuple[str, list[lmc.Network]]]:
    """For each method the three networks as it moves them, each computed when it is asked for."""
    yield "vanilla", networks
    first, *others = networks
    yield "weight, to the first", [first, *(lmc.weight_matching(first, other)(other) for other in others)]
    _, gs = lmc.universe_matching(networks)
    yield "weight, universe", [g(x) for g, x in zip(gs, networks, strict=True)]
    _, gs = lmc.learned_universe(networks, train, init=gs, **learn)
    yield "learned", [g(x) for g, x in zip(gs, networks, strict=True)]


def simplices(name: str, _: Namespace) -> list[dict]:
    """One row for each method, split and mixture."""
    preset = PRESETS[name]
    data = lmc.load_data(preset.data, batch_size=50)
    train = data.train.take(preset.samples or len(data.train.inputs))
    test_step, train_step = STEPS[preset.architecture]
    learn = LEARN[name] | {"augment": preset.augment and augmentation(preset.augment, data)}
    networks = [lmc.canonicalize(lmc.load_endpoint(name, seed)) for seed in lmc.list_endpoints()[name]]
    rows, start = [], time.process_time()
    for method, three in moved(networks, train, **learn):
        seconds = time.process_time() - start
        for split, batches in {"test": every(data.test, test_step), "train": every(train, train_step)}.items():
            found = lmc.interpolate_simplex(three, batches)
            columns = torch.column_stack([found.weights, found.loss, found.accuracy]).tolist()
            about = {"set": name, "method": method, "split": split, "seconds": seconds}
            rows += [about | dict(zip(("a", "b", "c", "loss", "accuracy"), values, strict=True)) for values in columns]
            print(name, method, split, f"{found.barycentre:.4f} {found.barrier:.4f} nats, {seconds:.1f} s", flush=True)
        start = time.process_time()
    return rows


if __name__ == "__main__":
    command(__doc__, "simplices", LEARN, simplices)
