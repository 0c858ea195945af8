"""Time and memory of folding and of weight matching, for two random networks of GPT-2 small's shapes: ``make bench``.

Run it alone: anything else on the machine falsifies the times. Folding runs in a process of its own, so that matching
is charged with nothing that folding left behind. Memory is what Linux counts for a whole process, the interpreter and
its libraries included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

import lmc_utils as lmc
from lmc_utils.networks.gpt2 import LanguageModel


def peak() -> float:
    """The largest amount of memory that this process has held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def size(networks: list[lmc.Network]) -> float:
    """What the parameters take, in GiB."""
    return sum(p.nbytes for network in networks for p in network.params.values()) / 2**30


def fold(layers: int, path: Path) -> None:
    """Make and fold two models, one after the other, and leave their parameters in a file."""
    networks, seconds = [], 0.0
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(GPT2Config(n_layer=layers))
        start = time.perf_counter()
        networks.append(lmc.canonicalize(model))
        seconds += time.perf_counter() - start
    print(f"folding: {seconds:.1f} s for both; peak {peak():.2f} GiB, {peak() / size(networks):.2f} x both")
    save_file({f"{i}/{name}": p for i, network in enumerate(networks) for name, p in network.params.items()}, path)
    path.with_suffix(".json").write_text(json.dumps(networks[0].architecture.config))


def match(sweeps: int, path: Path) -> None:
    """Match the two networks of a file."""
    architecture = LanguageModel.of(json.loads(path.with_suffix(".json").read_text()))
    tensors = load_file(path)
    networks = [
        lmc.Network(architecture, {name[2:]: p for name, p in tensors.items() if name.startswith(f"{i}/")})
        for i in (0, 1)
    ]
    both, before, start = size(networks), peak(), time.perf_counter()
    found = lmc.weight_matching(*networks, sweeps=sweeps)
    seconds = time.perf_counter() - start
    print(f"weight matching: {seconds:.1f} s for {len(found.history) - 1} sweep(s); peak {peak():.2f} GiB,", end=" ")
    print(f"{peak() / both:.2f} x both, to which matching itself added {(peak() - before) / both:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--sweeps", type=int, default=1)
    parser.add_argument("--fold", type=Path, help=argparse.SUPPRESS)  # the file that the other process is to write
    arguments = parser.parse_args()
    if arguments.fold:
        return fold(arguments.layers, arguments.fold)
    print(f"two random networks of {arguments.layers} layers, in float32", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "networks.safetensors"
        subprocess.run([sys.executable, __file__, "--layers", str(arguments.layers), "--fold", path], check=True)
        match(arguments.sweeps, path)


if __name__ == "__main__":
    main()
