"""The barriers between shipped end points by every method, on every split: the book's main table.

    python benchmarks/barriers.py run --out WORK [--cases gpt2-0-1 ...]
    python benchmarks/barriers.py table --out WORK     # lmc_utils/assets/results/barriers.csv

Each pair that is not in WORK yet is computed; five hours on one core (run cases side by side). The
table holds whole curves, one row a lambda, so that every barrier in the book can be computed from it again: 17 lambdas
on the full test split, on a part of the other splits, and of the test split with one temperature a network (split
"calibrated"). Of Llamas, GPT-NeoXs and ResNet-20s all splits are measured at 7 lambdas on a part, and merged ResNets a
second time after ``lmc.repair`` with 500 training images.

``error`` is the standard error of the excess over the samples: the losses on the path and at its ends are taken on the
same ones. (A temperature counts as known: its own error is left out.)
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import torch
from results import command, every, pairs, sample_measures

import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.zoo.presets import PRESETS, augmentation

TEXTS, IMAGES = {"steps": 500}, {"steps": 1000, "batch_size": 256}
LEARN = {"gpt2": TEXTS, "gpt2-dropout": TEXTS, "vit": IMAGES, "vit-token": IMAGES, "vit-overfit": IMAGES, "mlp": IMAGES}
BRIEF = {"llama": TEXTS, "neox": TEXTS, "resnet20": {"steps": 600, "batch_size": 128}}  # measured on parts only
START = {"resnet20": "activation"}  # weights say little about channels behind a BatchNorm; elsewhere: weight


def thin(batches: Batches, images: int = 4000) -> Batches:
    """A part of a large split, evenly spread over it: 250 texts, or so many images."""
    return every(batches, -(-len(batches.inputs) // (images if batches.inputs.is_floating_point() else 250)))


def measured(data: lmc.data.Data, brief: bool) -> dict[str, tuple[Batches, int, bool]]:
    """For each split the samples, the points on the path, and whether a temperature is fitted at each."""
    images, points = (2000, 7) if brief else (4000, 17)
    splits = {"test": (thin(data.test, images) if brief else data.test, points, False)}
    if not brief:
        splits["calibrated"] = thin(data.test, images), points, True
    splits["train"] = thin(data.train, images), points, False
    if data.validation:
        splits["validation"] = thin(data.validation, images), points, False
    return splits


def alignments(
    a: lmc.Network, b: lmc.Network, data: lmc.data.Data, learn: dict, start: str = "weight"
) -> dict[str, tuple]:
    """For each method the alignment that it finds, and the CPU seconds that it takes; learning begins at ``start``."""
    found = {"vanilla": (b.spec.identity(), 0.0)}

    def note(name: str, method: object, *args: object, **options: object) -> None:
        start = time.process_time()
        found[name] = (method(a, b, *args, **options), time.process_time() - start)

    few = data.train.take(1000 if data.tokenizer is None else 100)
    note("activation", lmc.activation_matching, few)
    if start == "activation":
        note("activation, permutations only", lmc.activation_matching, few, allow="permutation")
    note("weight", lmc.weight_matching)
    note("weight, permutations only", lmc.weight_matching, allow="permutation")
    note("learned, permutations only", lmc.learned_matching, data.train, allow="permutation",
         init=found[f"{start}, permutations only"][0], **learn)  # fmt: skip
    note("learned", lmc.learned_matching, data.train, init=found[start][0], **learn)
    return found


def curves(name: str, pair: tuple[int, int]) -> list[dict]:
    """One row for each method, split and lambda of one pair."""
    preset = PRESETS[name]
    data = lmc.load_data(preset.data, batch_size=50)
    data = replace(data, train=data.train.take(preset.samples or len(data.train.inputs)))
    learn = (LEARN | BRIEF)[name] | {"augment": preset.augment and augmentation(preset.augment, data)}
    a, b = (lmc.canonicalize(lmc.load_endpoint(name, seed)) for seed in pair)
    rows = []
    for method, (g, seconds) in alignments(a, b, data, learn, START.get(name, "weight")).items():
        aligned, ways = g(b), {method: lmc.merge}
        if name == "resnet20" and "permutations" not in method:
            ways[f"{method}, repaired"] = partial(lmc.repair, batches=data.train.take(500))
        for way, merge in ways.items():
            for split, (batches, points, calibrate) in measured(data, name in BRIEF).items():
                grid = torch.linspace(0, 1, points)
                path = (merge(a, aligned, lam) if lam % 1 else (a, b)[int(lam)] for lam in grid.tolist())
                loss, right = torch.stack([sample_measures(network, batches, calibrate) for network in path], 1)
                excess = loss - torch.lerp(loss[0], loss[-1], grid.double().unsqueeze(1))
                errors = excess.std(1) / loss.shape[1] ** 0.5
                about = {"set": name, "pair": f"{pair[0]}-{pair[1]}", "method": way, "split": split, "seconds": seconds}
                columns = torch.stack([grid.double(), loss.mean(1), right.mean(1), errors], 1).tolist()
                names = ("lambda", "loss", "accuracy", "error")
                rows += [about | dict(zip(names, values, strict=True)) for values in columns]
                at = excess.mean(1).argmax()
                height = f"{excess.mean(1)[at]:.4f} +- {errors[at]:.4f} nats"
                print(name, pair, way, split, height, f"{seconds:.1f} s", flush=True)
    return rows


if __name__ == "__main__":
    jobs = pairs(*LEARN, *BRIEF)
    command(__doc__, "barriers", jobs, lambda case, _: curves(*jobs[case]))
