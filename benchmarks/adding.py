"""Two networks that add, and the line between them: which sums are right on the way, for every pair of seeds.

    python benchmarks/adding.py run --out WORK      # twenty minutes on one core
    python benchmarks/adding.py table --out WORK    # lmc_utils/assets/results/adding.csv

Seeds 0 to 2 ship, and the recipe was chosen on them; nobody had looked at seeds 3 to 5, which are trained here. One row
a lambda: the fraction of the 2,000 test sums that are right, and the loss on all targets of these sums, in nats.
"""

from __future__ import annotations

from argparse import Namespace
from itertools import combinations

from merging import trained
from results import command

import lmc_utils as lmc
from lmc_utils.landscape.evaluate import whole_accuracy

POINTS = 17
LEARN = {"steps": 3000, "batch_size": 256, "lambdas": (0, 1)}  # the whole line
CASES = {f"{i}-{j}": (i, j) for seeds in ((0, 1, 2), (3, 4, 5)) for i, j in combinations(seeds, 2)}


def case(name: str, args: Namespace) -> list[dict]:
    """The rows of one pair."""
    data = lmc.load_data("sums", batch_size=2000)
    a, b = (
        lmc.canonicalize(trained("adder", seed, data, args.out / f"adder-seed{seed}.safetensors"))
        if seed > 2
        else lmc.canonicalize(lmc.load_endpoint("adder", seed))
        for seed in CASES[name]
    )
    found = {
        "vanilla": b.spec.identity(),
        "weight": lmc.weight_matching(a, b),
        "learned, permutations only": lmc.learned_matching(a, b, data.train, allow="permutation", **LEARN),
        "learned": lmc.learned_matching(a, b, data.train, **LEARN),
    }
    rows = []
    for method, g in found.items():
        curve = lmc.interpolate(a, g(b), data.test, points=POINTS)
        for lam, loss in zip(curve.lambdas.tolist(), curve.loss.tolist(), strict=True):
            right = whole_accuracy(lmc.merge(a, g(b), lam), data.test)
            rows.append({"pair": name, "method": method, "lambda": lam, "right": right, "loss": loss})
        print(name, method, f"barrier {curve.barrier:.4f} nats, {min(r['right'] for r in rows[-POINTS:]):.2%} at worst")
    return rows


if __name__ == "__main__":
    command(__doc__, "adding", CASES, case)
