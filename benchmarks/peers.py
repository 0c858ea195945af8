"""Weight matching of other packages beside ours, on the shipped pair of MLPs: ``make bench``.

Neither is a requirement of the project. Both call themselves ``rebasin``, so each has a folder and a process of its
own; they are installed without what they depend on, which is here already (torch) or named with them::

    python -m pip install --no-deps --target _build/peers/rebasin rebasin==0.0.47 torchview graphviz
    python -m pip install --no-deps --target _build/peers/sinkhorn-rebasin sinkhorn-rebasin==0.0.2 torchviz graphviz
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

import lmc_utils as lmc

PEERS = Path(__file__).resolve().parent.parent / "_build" / "peers"


def rebasin(a: nn.Module, b: nn.Module) -> nn.Module:
    """Git Re-Basin's permutation coordinate descent (arXiv 2209.04836), as the package's README calls it."""
    from rebasin import PermutationCoordinateDescent

    PermutationCoordinateDescent(a, b, torch.zeros(1, 1, 28, 28)).rebasin()  # moves b in place
    return b


def sinkhorn_rebasin(a: nn.Module, b: nn.Module) -> nn.Module:
    """Learned permutations (arXiv 2212.12042), with the loss and the rate of the package's example for MLPs.

    The example's 50 steps recover a planted permutation; on trained networks the loss goes on falling until about 400.
    """
    from rebasin import RebasinNet
    from rebasin.loss import DistL2Loss

    net = RebasinNet(b.requires_grad_(), input_shape=(1, 1, 28, 28))  # it finds its way along the gradients' graph
    net.identity_init()
    distance, optimizer = DistL2Loss(a), torch.optim.AdamW(net.p.parameters(), lr=0.1)
    for _ in range(400):
        loss = distance(net.train()())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    return net()


def ours(a: nn.Module, b: nn.Module, allow: str) -> nn.Module:
    """Weight matching of this package."""
    a, b = lmc.canonicalize(a), lmc.canonicalize(b)
    return lmc.weight_matching(a, b, allow=allow)(b).to_model()


METHODS = {
    "rebasin": rebasin,
    "sinkhorn-rebasin": sinkhorn_rebasin,
    "ours, permutations": lambda a, b: ours(a, b, "permutation"),
    "ours, all classes": lambda a, b: ours(a, b, "invertible"),
}


def report(name: str) -> None:
    """Align the pair by one method; print its seconds and the barrier that it leaves."""
    a, b = (lmc.load_endpoint("mlp", seed) for seed in (0, 1))
    torch.manual_seed(0)
    start = time.perf_counter()
    moved = METHODS[name](a, b)
    seconds = time.perf_counter() - start
    test = lmc.load_data("fashion-mnist").test
    curve = lmc.interpolate(lmc.canonicalize(a), lmc.canonicalize(moved), test, points=25)
    print(f"{name:20} {seconds:6.2f} s   test barrier {curve.barrier:.4f} nats")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, help="this one only, in this process")
    method = parser.parse_args().method
    if method:
        return report(method)
    for name in METHODS:
        folder = PEERS / name
        if not name.startswith("ours") and not folder.is_dir():
            install = next(line.strip() for line in __doc__.splitlines() if f"peers/{name} " in line)
            print(f"{name:20} is not installed: {install}", flush=True)
            continue
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        run = subprocess.run(
            [sys.executable, __file__, "--method", name],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        problem = f"{name:20} does not run here: {(run.stderr.strip().splitlines() or ['no message'])[-1]}"
        print(problem if run.returncode else run.stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
