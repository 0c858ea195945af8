"""Time and memory of folding and of weight matching, for two random networks of a known shape: ``make bench``.

    python benchmarks/weight_matching.py [--shape llama-3.2-1b] [--layers 12] [--sweeps 1]

Run it alone: anything else on the machine falsifies the times. Memory is what Linux counts for the whole process at its
peak, the interpreter and its libraries included; the count begins anew before each step.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import nn

import lmc_utils as lmc


def of_transformers(name: str, **shape: object) -> Callable[..., nn.Module]:
    """What builds a model of this class with as many layers as are asked for."""
    kind = getattr(transformers, name)
    return lambda **layers: kind(kind.config_class(**{**shape, **layers}))


def resnet50() -> nn.Module:
    """timm's, which has as many layers as it has."""
    import timm

    return timm.create_model("resnet50")


#: Of what people have: vocabulary, widths and numbers of heads as in the published configurations.
SHAPES = {
    "gpt2": of_transformers("GPT2LMHeadModel"),
    "pythia-160m": of_transformers("GPTNeoXForCausalLM", vocab_size=50304, hidden_size=768, num_hidden_layers=12,
                                   num_attention_heads=12, intermediate_size=3072, rotary_pct=0.25),
    "llama-3.2-1b": of_transformers("LlamaForCausalLM", vocab_size=128256, hidden_size=2048, num_hidden_layers=16,
                                    num_attention_heads=32, num_key_value_heads=8, intermediate_size=8192,
                                    head_dim=64, tie_word_embeddings=True),
    "resnet50": resnet50,
}  # fmt: skip


def start_counting() -> None:
    """Let the peak of memory be what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """The largest amount of memory that this process has held since, in GiB."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--layers", type=int, help="default: those of the shape")
    parser.add_argument("--sweeps", type=int, default=1)
    arguments = parser.parse_args()
    layers = {} if arguments.layers is None else {"num_hidden_layers": arguments.layers}
    if layers and arguments.shape == "resnet50":
        parser.error("--layers: a ResNet-50 has as many as it has")
    networks, seconds = [], 0.0
    start_counting()
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = SHAPES[arguments.shape](**layers).eval()
        start = time.perf_counter()
        networks.append(lmc.canonicalize(model))
        seconds += time.perf_counter() - start
        del model
    count = sum(p.numel() for p in networks[0].params.values())
    both = sum(p.nbytes for network in networks for p in network.params.values()) / 2**30
    print(f"two random networks like {arguments.shape}, {count:,} parameters each, {both:.2f} GiB both, float32")
    print(f"folding: {seconds:.1f} s for both; peak {peak():.2f} GiB, {peak() / both:.2f} x both", flush=True)
    start_counting()
    before, start = peak(), time.perf_counter()
    found = lmc.weight_matching(*networks, sweeps=arguments.sweeps)
    seconds = time.perf_counter() - start
    print(f"weight matching: {seconds:.1f} s for {len(found.history) - 1} sweep(s); peak {peak():.2f} GiB,", end=" ")
    print(f"{peak() / both:.2f} x both, to which matching itself added {(peak() - before) / both:.2f} x")


if __name__ == "__main__":
    main()
