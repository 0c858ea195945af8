"""What a step of learned matching costs, beside a step of plain training: ``make bench``.

Run it alone: anything else on the machine falsifies the times. Training and matching take turns on one network and one
batch, and the median of their ratios is reported; memory is the peak of a process of its own for each, less what it
held before. ``--scaling`` repeats the times for other widths and depths and writes
``lmc_utils/assets/results/cost.csv``.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from results import write

import lmc_utils as lmc
from lmc_utils.networks.base import BUILDERS
from lmc_utils.zoo.presets import PRESETS, shaped

DROPOUT = {"gpt2": ("resid_pdrop", "embd_pdrop"), "vit": ("proj_drop_rate", "pos_drop_rate")}
BATCH = {"gpt2": 8, "vit": 64}
STEPS, ROUNDS = 15, 5


def job(preset: str, **changes: int) -> tuple[Callable[[int], object], Callable[[int], object]]:
    """Training of one network, and matching of two, for a number of steps."""
    architecture, config = PRESETS[preset].architecture, PRESETS[preset].config | changes
    data = lmc.load_data(PRESETS[preset].data)
    config = shaped(architecture, config, data)
    config |= {name: 0.0 for name in DROPOUT[architecture]}  # canonical networks have none either
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(BUILDERS[architecture](**config))
    a, b = (lmc.canonicalize(model) for model in models)
    size, start = BATCH[architecture], a.spec.identity()

    def training(steps: int) -> object:
        return lmc.train(models[0], data.train.take(size * steps), epochs=1, batch_size=size)

    def matching(steps: int) -> object:
        return lmc.learned_matching(a, b, data.train.take(size * steps), init=start, batch_size=size, steps=steps)

    return training, matching


def seconds(run: Callable[[int], object]) -> float:
    """Of one step: what more steps take more."""
    times = []
    for steps in (2, 2 + STEPS):
        start = time.perf_counter()
        run(steps)
        times.append(time.perf_counter() - start)
    return (times[1] - times[0]) / STEPS


def compare(preset: str, **changes: int) -> dict[str, float]:
    training, matching = job(preset, **changes)
    pairs = [(seconds(training), seconds(matching)) for _ in range(ROUNDS)]
    train, match = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"train": train, "match": match, "ratio": statistics.median(m / t for t, m in pairs)}


def memory(preset: str, what: int) -> None:
    """Print by how many MiB training (0) or matching (1) raises the memory of this process at its peak (Linux)."""
    run = job(preset)[what]

    def status(field: str) -> int:
        return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))

    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = status("VmRSS")
    run(10)
    print((status("VmHWM") - before) / 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scaling", action="store_true", help="also measure widths and depths")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)  # for the processes that this one starts
    args = parser.parse_args()
    if args.memory:
        return memory(args.memory[0], int(args.memory[1]))
    print(f"{torch.get_num_threads()} threads; medians of {ROUNDS} rounds of {STEPS} steps")
    for preset in ("gpt2", "vit"):
        found = compare(preset)
        peaks = [
            float(subprocess.run([sys.executable, __file__, "--memory", preset, str(what)], check=True,
                                 capture_output=True, text=True).stdout)
            for what in (0, 1)
        ]  # fmt: skip
        print(
            f"{preset}: a step of training {found['train'] * 1e3:.1f} ms, of matching {found['match'] * 1e3:.1f} ms,",
            end=" ",
        )
        print(f"{found['ratio']:.2f} x; peak memory {peaks[0]:.0f} and {peaks[1]:.0f} MiB, {peaks[1] / peaks[0]:.2f} x")
    data = lmc.load_data("shakespeare", batch_size=50)
    a, b = (lmc.canonicalize(lmc.load_endpoint("gpt2", seed)) for seed in (0, 1))
    start = time.perf_counter()
    g = lmc.learned_matching(a, b, data.train.take(PRESETS["gpt2"].samples), steps=100)
    taken = time.perf_counter() - start
    barrier = lmc.interpolate(a, g(b), data.test, points=11).barrier
    print(f"gpt2: 100 steps, weight matching included, {taken:.1f} s: barrier {barrier:.4f} nats")
    if args.scaling:
        rows = []
        for width, depth in ((64, 4), (128, 2), (128, 4), (128, 8), (256, 4)):
            changes = {"n_embd": width, "n_inner": 4 * width, "n_layer": depth}
            rows.append({"width": width, "depth": depth, **compare("gpt2", **changes)})
            print(rows[-1])
        write("cost", rows)


if __name__ == "__main__":
    main()
