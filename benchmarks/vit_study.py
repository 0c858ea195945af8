"""What closes the barrier between Vision Transformers: end points and matchings, varied one at a time.

    python benchmarks/vit_study.py run --data FOLDER --out WORK     # every case not yet in WORK; hours on two cores
    python benchmarks/vit_study.py table --out WORK                 # lmc_utils/assets/results/vit-study.csv

``FOLDER`` holds all of Fashion-MNIST (``python -m lmc_utils.assets.make_data --fashion DIR --full FOLDER``). Each case
has three seeds, so three pairs. Matching learns from the 12,000 shipped images, or from all 60,000 where the case says
so. Barriers are measured on the shipped 2,000 test images and on 4,000 of the shipped training images.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch
from results import command

import lmc_utils as lmc
from lmc_utils.networks.base import BUILDERS
from lmc_utils.zoo.presets import PRESETS, augmentation, shaped

SEEDS = (0, 1, 2)


def dropout(rate: float) -> dict:
    """After the embedding, attention and feed-forward layers."""
    return {"proj_drop_rate": rate, "pos_drop_rate": rate}


SHIPPED = "pooling, dropout .2, 8 epochs"
TOKEN = "class token, dropout .2, 8 epochs"
END_POINTS = {  # name: preset, changes of its network, changes of its recipe, augmentation
    "pooling": ("vit", {}, {}, "flip"),
    "pooling, 2 epochs": ("vit", {}, {"epochs": 2}, "flip"),
    "pooling, overfit": ("vit-overfit", {}, {"epochs": 20}, None),
    "pooling, EMA .998": ("vit", {}, {"average": 0.998}, "flip"),
    "pooling, width 128": ("vit", {"embed_dim": 128}, {}, "flip"),
    "pooling, dropout .1": ("vit", dropout(0.1), {}, "flip"),
    "pooling, dropout .2": ("vit", dropout(0.2), {}, "flip"),
    SHIPPED: ("vit", dropout(0.2), {"epochs": 8}, "flip"),
    "pooling, crops": ("vit", {}, {}, "crop"),
    "pooling, crops, 16 epochs": ("vit", {}, {"epochs": 16}, "crop"),
    TOKEN: ("vit-token", dropout(0.2), {"epochs": 8}, "flip"),
}
ENSEMBLE = {"steps": 2000, "target": "ensemble", "lambdas": (0.2, 0.8)}
LARGE = {"steps": 2000, "batch_size": 256}
MATCHINGS = {  # name: end points, which images matching sees and how they change, arguments of learned_matching
    **{name: (name, "shipped", None, {"steps": 600}) for name in END_POINTS},
    "pooling, dropout .1, 2000 steps, ensemble": ("pooling, dropout .1", "shipped", None, ENSEMBLE),
    f"{SHIPPED}, 2000 steps": (SHIPPED, "shipped", "flip", {"steps": 2000}),
    f"{SHIPPED}, 2000 steps, crops": (SHIPPED, "shipped", "crop", {"steps": 2000}),
    f"{SHIPPED}, 2000 steps, 60,000 images": (SHIPPED, "all", "flip", {"steps": 2000}),
    f"{SHIPPED}, 2000 steps of 256, 60,000 images": (SHIPPED, "all", "flip", LARGE),
    f"{TOKEN}, 2000 steps, 60,000 images": (TOKEN, "all", "flip", {"steps": 2000}),
    f"{TOKEN}, 2000 steps of 256, 60,000 images": (TOKEN, "all", "flip", LARGE),
}  # fmt: skip


def end_points(name: str, folder: Path, out: Path) -> list[lmc.Network]:
    """The trained networks of one case, in canonical form; trained if they are not in ``out`` yet."""
    preset, config, recipe, augment = END_POINTS[name]
    preset = PRESETS[preset]
    data = lmc.load_data(preset.data if name.endswith("overfit") else str(folder))
    config = shaped(preset.architecture, preset.config | dropout(0.0) | config, data)
    networks = []
    for seed in SEEDS:
        path = out / f"{name}-seed{seed}.safetensors"
        if not path.exists():
            torch.manual_seed(seed)
            start, change = BUILDERS[preset.architecture](**config), augmentation(augment, data) if augment else None
            model = lmc.train(start, data.train, **preset.recipe | {"epochs": 4} | recipe, augment=change, seed=seed,
                              checkpoint=path.with_suffix(".unfinished"))  # fmt: skip
            lmc.save_checkpoint(path, model, preset.architecture, config, seed=seed)
        networks.append(lmc.canonicalize(lmc.load_checkpoint(path).model))
    return networks


def study(name: str, folder: Path, out: Path) -> list[dict]:
    """One row for each pair of one case."""
    source, images, augment, arguments = MATCHINGS[name]
    networks = end_points(source, folder, out)
    data = lmc.load_data("fashion-mnist")
    seen = data.train if images == "shipped" else lmc.load_data(str(folder)).train
    if augment:
        arguments = arguments | {"augment": augmentation(augment, data)}
    part = replace(data, train=data.train.take(4000))
    quality = [lmc.evaluate(network, batches) for network in networks for batches in (data.test, part.train)]
    rows = []
    for i, j in combinations(range(len(SEEDS)), 2):
        a, b = networks[i], networks[j]
        g = lmc.weight_matching(a, b)
        start = time.process_time()
        h = lmc.learned_matching(a, b, seen, init=g, **arguments)
        seconds = time.process_time() - start
        for method, other in (("vanilla", b), ("weight", g(b)), ("learned", h(b))):
            row = {"case": name, "pair": f"{SEEDS[i]}-{SEEDS[j]}", "method": method}
            row |= lmc.barriers(a, other, part, points=13)._asdict()
            del row["validation"]
            row["seconds"] = seconds if method == "learned" else 0
            for key, k, value in (("accuracy", 0, "accuracy"), ("test", 0, "loss"), ("train", 1, "loss")):
                row[f"end_{key}"] = sum(getattr(quality[2 * n + k], value) for n in (i, j)) / 2
            rows.append(row)
            print(row, flush=True)
    return rows


if __name__ == "__main__":
    command(__doc__, "vit-study", MATCHINGS, lambda name, args: study(name, args.data, args.out), "data")
