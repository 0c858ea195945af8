"""A small training loop: seeded, resumable, the same weights again on the same machine."""

from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .data import Batches
from .progress import progress


def train(
    model: nn.Module,
    batches: Batches,
    *,
    epochs: int = 8,
    batch_size: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> nn.Module:
    """Train a copy of a model with AdamW, the learning rate falling to zero along half a cosine.

    Parameters
    ----------
    model
        Where to start; it is not changed.
    batches
        Training data; shuffled anew each epoch, in an order that ``seed`` and the epoch decide.
    epochs, batch_size, lr, weight_decay
        The recipe.
    seed
        Decides the order of the data (the initial weights are the model's).
    checkpoint
        A safetensors file to write after each epoch and to go on from if it exists. The weights in the end are the
        same whether the run was interrupted or not.

    Returns
    -------
    nn.Module
        The trained copy, in evaluation mode.

    Raises
    ------
    ValueError
        If the checkpoint is corrupt or belongs to another run, or the loss becomes NaN (the last checkpoint stays).
    """
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    run = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "seed": seed,
           "shapes": [list(p.shape) for p in model.parameters()], "samples": len(batches.inputs)}  # fmt: skip
    done = _resume(checkpoint, run, model, optimizer) if checkpoint and checkpoint.exists() else 0
    steps = -(-len(batches.inputs) // batch_size)
    step = done * steps
    with progress(total=epochs * steps, initial=step, desc=f"seed {seed}") as bar:
        for epoch in range(done, epochs):
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            torch.manual_seed(seed * 1_000_003 + epoch)  # dropout, where there is any
            shuffled = batches.shuffle(generator)
            for i in range(0, len(shuffled.inputs), batch_size):
                inputs, targets = shuffled.inputs[i : i + batch_size], shuffled.targets[i : i + batch_size]
                for group in optimizer.param_groups:
                    group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / (epochs * steps)))
                loss = cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                bar.update()
            if not torch.isfinite(loss):
                raise ValueError(f"the loss became {loss.item()} in epoch {epoch + 1}: lower lr (it is {lr})")
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if checkpoint:
                _save(checkpoint, run, epoch + 1, model, optimizer)
    return model.eval()


def save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file so that ``path`` is at every moment either the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, temporary, metadata)
    os.replace(temporary, path)


def _save(path: Path, run: dict, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    state = {f"model.{name}": t for name, t in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{name}": t for name, t in values.items()}
    save_atomically(state, path, {"run": json.dumps(run), "epoch": str(epoch)})


def _resume(path: Path, run: dict, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load weights and optimizer from a checkpoint of the same run; return how many epochs are done."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"the checkpoint {path.name} is corrupt ({error}): delete it to start again") from error
    if json.loads(metadata.get("run", "null")) != run:
        raise ValueError(f"the checkpoint {path.name} belongs to another run: {metadata.get('run')} against {run}")
    model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    state = optimizer.state_dict()
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state["state"].setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(state)
    return int(metadata["epoch"])
