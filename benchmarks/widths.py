"""The barriers between the shipped GPT-2s of width 128 and narrower ones, by every method.

    python benchmarks/widths.py run --out WORK [--cases gpt2-64-0-1 ...]
    python benchmarks/widths.py table --out WORK     # lmc_utils/assets/results/widths.csv

Each pair that is not in WORK yet is computed; about two minutes each on one core. The case ``gpt2-64-0-1`` is the
narrow network of seed 0 and the wide one of seed 1. The table holds whole curves, one row a lambda (0 is the wide
network): 7 lambdas, on about 200 windows evenly spread over the test and the
training split.
"""

from __future__ import annotations

import time

from results import command, every

import lmc_utils as lmc
from lmc_utils.data import Batches
from lmc_utils.zoo.presets import NARROW, PRESETS

STEPS, POINTS, WINDOWS = 300, 7, 200


def thin(batches: Batches) -> Batches:
    """About ``WINDOWS`` windows of a split, evenly spread over it."""
    return every(batches, -(-len(batches.inputs) // WINDOWS))


def curves(narrow: str, seed: int, other: int) -> list[dict]:
    """One row for each method, split and lambda of one pair."""
    data = lmc.load_data("shakespeare", batch_size=50)
    train = data.train.take(PRESETS[narrow].samples)
    splits = {"test": thin(data.test), "train": thin(train)}
    a, b = lmc.canonicalize(lmc.load_endpoint("gpt2", other)), lmc.canonicalize(lmc.load_endpoint(narrow, seed))
    methods = {
        "padding": lambda: b.spec.widen(a.spec.sizes),
        "activation": lambda: lmc.activation_matching(a, b, train.take(100)),
        "weight": lambda: lmc.weight_matching(a, b),
        "learned": lambda: lmc.learned_matching(a, b, train, steps=STEPS),
    }
    rows = []
    for method, find in methods.items():
        start = time.process_time()
        g, seconds = find(), time.process_time() - start
        for split, batches in splits.items():
            curve = lmc.interpolate(a, g(b), batches, points=POINTS)
            for lam, loss, accuracy in zip(
                *(x.tolist() for x in (curve.lambdas, curve.loss, curve.accuracy)), strict=True
            ):
                rows.append({"narrow": narrow, "pair": f"{seed}-{other}", "method": method, "split": split,
                             "seconds": seconds, "lambda": lam, "loss": loss, "accuracy": accuracy})  # fmt: skip
            print(narrow, seed, other, method, split, f"{curve.barrier:.4f} nats, {seconds:.1f} s", flush=True)
    return rows


if __name__ == "__main__":
    shipped = lmc.list_endpoints()
    jobs = {f"{narrow}-{i}-{j}": (narrow, i, j) for j in shipped["gpt2"] for narrow in NARROW for i in shipped[narrow]}
    command(__doc__, "widths", jobs, lambda case, _: curves(*jobs[case]))
