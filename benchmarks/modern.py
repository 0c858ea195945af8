"""The barriers of the shipped Llamas, GPT-NeoXs and ResNet-20s by every method: the table of the book's chapter 11.

    python benchmarks/modern.py run --out WORK [--cases llama-0-1 ...]   # two hours on one core
    python benchmarks/modern.py table --out WORK     # lmc_utils/assets/results/modern.csv

One row for each pair, method, split and lambda: 7 lambdas, on 250 texts or 2,000 images evenly spread over each split.
``error`` is the standard error of the excess over these samples: the losses on the path and at its ends are taken on
the same ones. Merged ResNets are measured a second time after ``lmc.repair`` with 500 training images.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from barriers import alignments, thin
from results import command, pairs, sample_measures

import lmc_utils as lmc
from lmc_utils.endpoints import PRESETS, augmentation

TEXTS = {"steps": 500}
LEARN = {"llama": TEXTS, "neox": TEXTS, "resnet20": {"steps": 600, "batch_size": 128}}
START = {"resnet20": "activation"}  # weights say little about channels behind a BatchNorm; elsewhere: weight
POINTS, CONTEXT = 7, 128


def curves(name: str, pair: tuple[int, int]) -> list[dict]:
    """One row for each method, split and lambda of one pair."""
    preset = PRESETS[name]
    data = lmc.load_data(preset.data, batch_size=50, context=CONTEXT)
    learning = replace(data, train=data.train.take(preset.samples or len(data.train.inputs)))
    splits = {"test": data.test, "validation": data.validation, "train": learning.train}
    splits = {split: thin(batches, images=2000) for split, batches in splits.items() if batches}
    learn = LEARN[name] | {"augment": preset.augment and augmentation(preset.augment, data)}
    a, b = (lmc.canonicalize(lmc.load_endpoint(name, seed)) for seed in pair)
    rows, grid = [], torch.linspace(0, 1, POINTS)
    for method, (g, seconds) in alignments(a, b, learning, learn, START.get(name, "weight")).items():
        ways = {method: lmc.merge}
        if name == "resnet20" and "permutations" not in method:
            ways[f"{method}, repaired"] = partial(lmc.repair, batches=learning.train.take(500))
        for way, merge in ways.items():
            path = [merge(a, g(b), lam) if lam % 1 else (a, b)[int(lam)] for lam in grid.tolist()]
            for split, batches in splits.items():
                loss, right = torch.stack([sample_measures(network, batches) for network in path], 1)
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
    jobs = pairs(*LEARN)
    command(__doc__, "modern", jobs, lambda case, _: curves(*jobs[case]))
