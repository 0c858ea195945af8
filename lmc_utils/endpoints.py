"""End points: trained networks that ship with the package, as safetensors with a checksum and their history."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .data import ASSETS, verify
from .networks.mlp import mlp
from .train import save_atomically

BUILDERS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp}


class Checkpoint(NamedTuple):
    """A model and the story of its training, as the file's metadata tells it."""

    model: nn.Module
    metadata: dict


def list_endpoints() -> dict[str, list[int]]:
    """The end points that ship: for each name its seeds."""
    found: dict[str, list[int]] = {}
    for path in sorted((ASSETS / "endpoints").glob("*-seed*.safetensors")):
        name, seed = path.stem.rsplit("-seed", 1)
        found.setdefault(name, []).append(int(seed))
    return found


def load_endpoint(name: str, seed: int = 0) -> nn.Module:
    """A trained network that ships with the package.

    Parameters
    ----------
    name
        ``"mlp"``: 784-256-256-256-10 ReLU, trained on the shipped Fashion-MNIST.
    seed
        The seed of its initial weights and of the order of its data.

    Returns
    -------
    nn.Module
        A plain module in evaluation mode, float32.

    Raises
    ------
    ValueError
        If there is no such end point, or its file is corrupt.
    """
    if seed not in (shipped := list_endpoints()).get(name, []):
        raise ValueError(
            f"no end point {name!r} with seed {seed}; shipped are {shipped}. "
            f"Train it with: python -m lmc_utils train {name} --seed {seed}"
        )
    path = ASSETS / "endpoints" / f"{name}-seed{seed}.safetensors"
    verify(path)
    return load_checkpoint(path).model


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a network that :func:`save_checkpoint` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is corrupt, or is not a checkpoint of a known architecture.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"the checkpoint {path.name} is corrupt: {error}") from error
    if metadata.get("architecture") not in BUILDERS:
        raise ValueError(f"{path.name} says architecture {metadata.get('architecture')!r}; known are {list(BUILDERS)}")
    with torch.device("meta"):
        model = BUILDERS[metadata["architecture"]](**metadata["config"])
    model.load_state_dict(tensors, assign=True)
    return Checkpoint(model.requires_grad_(False).eval(), metadata)


def save_checkpoint(path: Path, model: nn.Module, architecture: str, config: dict, **story: object) -> None:
    """Write a network with its story (seed, data, recipe, losses, ...) atomically as safetensors, never as pickle."""
    versions = {name: version(name) for name in ("torch", "numpy", "safetensors", "lmc-utils")}
    versions["python"] = platform.python_version()
    metadata = {"architecture": architecture, "config": config, **story, "versions": versions}
    save_atomically(model.state_dict(), path, {key: json.dumps(value) for key, value in metadata.items()})
