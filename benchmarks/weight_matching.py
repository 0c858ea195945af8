"""Time and memory of weight matching on two random networks of GPT-2 small's shapes: ``make bench``.

Run it alone: anything else on the machine falsifies the times.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import lmc_utils as lmc


def peak() -> float:
    """The largest amount of memory that this process has held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--sweeps", type=int, default=1)
    arguments = parser.parse_args()
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(lmc.canonicalize(GPT2LMHeadModel(GPT2Config(n_layer=arguments.layers))).to(torch.float32))
    size = sum(p.nbytes for network in networks for p in network.params.values()) / 2**30
    print(f"two networks of {arguments.layers} layers: {size:.2f} GiB; peak so far {peak():.2f} GiB")
    start = time.perf_counter()
    found = lmc.weight_matching(*networks, sweeps=arguments.sweeps)
    seconds = time.perf_counter() - start
    sweeps = len(found.history) - 1
    print(f"weight matching: {seconds:.1f} s for {sweeps} sweep(s); peak {peak():.2f} GiB, {peak() / size:.2f} x both")


if __name__ == "__main__":
    main()
