"""Learned matching on both sets of shipped GPT-2s, one thing changed at a time.

    python benchmarks/ablations.py run --out WORK     # every pair not in WORK yet; an hour on two cores
    python benchmarks/ablations.py table --out WORK   # lmc_utils/assets/results/ablations.csv

Barriers are measured at 5 lambdas on every eighth window of the test split, and on as many of the training split.
"""

from __future__ import annotations

import time

from results import command, every, pairs

import lmc_utils as lmc
from lmc_utils.zoo.presets import PRESETS

STEPS = 100
IN_HEADS = [f"{inner}.{layer}" for layer in range(4) for inner in ("qk", "ov")]
ABLATIONS = {  # arguments of learned_matching
    "as it is": {},
    "30 steps": {"steps": 30},
    "300 steps": {"steps": 300},
    "learn the residual stream only": {"sites": ["r"]},
    "learn inside heads only": {"sites": IN_HEADS},
    "orthogonal maps inside heads": {"allow": "orthogonal"},
    "permutations only": {"allow": "permutation"},
    "from the identity": {"init": "identity"},
    "lambda = 0.5": {"lambdas": (0.5, 0.5)},
    "lambda in U(0.2, 0.8)": {"lambdas": (0.2, 0.8)},
    "lambda in U(0, 1)": {"lambdas": (0.0, 1.0)},
    "both ends move": {"dual": True},
    "circuits averaged": {"merge": lmc.merge_circuits, "sites": ["r"]},
    "soft permutations": {"soft": True},
}


def ablate(name: str, pair: tuple[int, int]) -> list[dict]:
    """One row for each ablation of one pair."""
    data = lmc.load_data("shakespeare", batch_size=50)
    train = data.train.take(PRESETS[name].samples)
    splits = {"test": every(data.test, 8), "train": every(train, 32)}
    a, b = (lmc.canonicalize(lmc.load_endpoint(name, seed)) for seed in pair)
    rows = []
    for ablation, arguments in ABLATIONS.items():
        arguments = {"steps": STEPS} | arguments
        allow = arguments.get("allow", "invertible")
        known = arguments.pop("init", None)
        start = lmc.weight_matching(a, b, allow=allow) if known is None else a.spec.restrict(allow).identity()
        began = time.process_time()
        g = lmc.learned_matching(a, b, train, init=start, **arguments)
        seconds = time.process_time() - began
        row = {"set": name, "ablation": ablation, "pair": f"{pair[0]}-{pair[1]}", "seconds": seconds}
        merge = arguments.get("merge", lmc.merge)
        for split, batches in splits.items():
            curve = lmc.interpolate(a, g(b), batches, points=5, merge=merge, ends=(a, b))
            row |= {f"{split}": curve.barrier, f"{split}_end": (curve.loss[-1] - curve.ends.loss[-1]).item()}
        rows.append(row)
        print(row, flush=True)
    return rows


if __name__ == "__main__":
    jobs = pairs("gpt2", "gpt2-dropout")
    command(__doc__, "ablations", jobs, lambda case, _: ablate(*jobs[case]))
