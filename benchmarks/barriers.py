"""The barriers of the shipped MLPs, ViTs and GPT-2s by every method, on every split: the book's main table.

    python benchmarks/barriers.py run --out WORK [--cases gpt2-0-1 ...]
    python benchmarks/barriers.py table --out WORK     # lmc_utils/assets/results/barriers.csv

Each pair that is not in WORK yet is computed; three hours on one core (run cases side by side). The
table holds whole curves, one row a lambda, so that every barrier in the book can be computed from it again: 25 lambdas
on the full test split; 7 on a part of the other splits, and of the test split with one temperature a network (split
"calibrated").
"""

from __future__ import annotations

import time
from dataclasses import replace

from results import command, every, pairs

import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.endpoints import PRESETS, augmentation

TEXTS, IMAGES = {"steps": 500}, {"steps": 1000, "batch_size": 256}
LEARN = {"gpt2": TEXTS, "gpt2-dropout": TEXTS, "vit": IMAGES, "vit-token": IMAGES, "vit-overfit": IMAGES, "mlp": IMAGES}


def thin(batches: Batches, images: int = 4000) -> Batches:
    """A part of a large split, evenly spread over it: 250 texts, or so many images."""
    return every(batches, -(-len(batches.inputs) // (images if batches.inputs.is_floating_point() else 250)))


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
    data = lmc.load_data(preset.data, batch_size=50, context=preset.config.get("n_positions", 128))
    learning = replace(data, train=data.train.take(preset.samples or len(data.train.inputs)))
    splits = {"test": (data.test, 25, False), "calibrated": (thin(data.test), 7, True)}
    splits |= {"train": (thin(learning.train), 7, False)}
    if data.validation:
        splits["validation"] = thin(data.validation), 7, False
    learn = LEARN[name] | {"augment": preset.augment and augmentation(preset.augment, data)}
    a, b = (lmc.canonicalize(lmc.load_endpoint(name, seed)) for seed in pair)
    rows = []
    for method, (g, seconds) in alignments(a, b, learning, learn).items():
        for split, (batches, points, calibrate) in splits.items():
            curve = lmc.interpolate(a, g(b), batches, points=points, calibrate=calibrate)
            loss, barrier = (curve.calibrated, curve.calibrated_barrier) if calibrate else (curve.loss, curve.barrier)
            for lam, nats, accuracy in zip(curve.lambdas.tolist(), loss.tolist(), curve.accuracy.tolist(), strict=True):
                rows.append({"set": name, "pair": f"{pair[0]}-{pair[1]}", "method": method, "split": split,
                             "seconds": seconds, "lambda": lam, "loss": nats, "accuracy": accuracy})  # fmt: skip
            print(name, pair, method, split, f"{barrier:.4f} nats, {seconds:.1f} s", flush=True)
    return rows


if __name__ == "__main__":
    jobs = pairs(*LEARN)
    command(__doc__, "barriers", jobs, lambda case, _: curves(*jobs[case]))
