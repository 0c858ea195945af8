"""End points: trained networks that ship with the package, as safetensors with a checksum and their history."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from ..arguments import brief, choice, count, instance, one_line, wording
from ..data import ASSETS, verify
from ..networks.base import BUILDERS
from ..networks.stock import check_shapes, hollow, pour
from ..storage import read_checkpoint, save_atomically
from .presets import PRESETS


class Checkpoint(NamedTuple):
    """A model and the story of its training, as the file's metadata tells it."""

    model: nn.Module
    metadata: dict


def list_endpoints() -> dict[str, list[int]]:
    """The end points that ship: for each name its seeds.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> lmc.list_endpoints()["adder"]
    [0, 1, 2]
    """
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
        ``"mlp"``: 784-256-256-256-10 ReLU, trained on the shipped Fashion-MNIST. ``"vit"``: two layers, width 64,
        global average pooling, trained on all of Fashion-MNIST; ``"vit-token"``: the same with a class token;
        ``"vit-overfit"``: the same as ``"vit"``, trained long on the shipped part only. ``"gpt2"``: four layers,
        width 128, trained on 411,000 tokens of Shakespeare's plays; ``"gpt2-dropout"``: the same for longer and with
        more dropout, easier to connect; ``"gpt2-32"``, ``"gpt2-64"``, ``"gpt2-96"``: narrower ones, and
        ``"gpt2-64-heads2"`` with two heads instead of four. ``"llama"``, ``"neox"``: as large as ``"gpt2"`` and trained
        alike; ``"resnet20"``: trained on the shipped Fashion-MNIST; ``"adder"``: two layers, width 32, adds numbers
        below 100 (``load_data("sums")``). How they were made:
        :data:`lmc_utils.zoo.presets.PRESETS`.
    seed
        The seed of its initial weights and of the order of its data.

    Returns
    -------
    nn.Module
        A plain module in evaluation mode, float32.

    Raises
    ------
    TypeError
        If the name is no text, or the seed no whole number.
    ValueError
        If there is no such end point, or its file is corrupt.

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> lmc.load_endpoint("adder", 2).config.n_layer
    2
    """
    wording("name", name)
    count("seed", seed, 0)
    if seed not in (shipped := list_endpoints()).get(name, []):
        known = f"{PRESETS[name].architecture} --preset {name}" if name in PRESETS else name
        raise ValueError(
            f"no end point {name!r} with seed {brief(seed)}; shipped are {shipped}. "
            f"Train it with: python -m lmc_utils train {known} --seed {brief(seed)}"
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

    Examples
    --------
    >>> import lmc_utils as lmc
    >>> path = lmc.data.ASSETS / "endpoints" / "adder-seed1.safetensors"
    >>> lmc.load_checkpoint(path).metadata["seed"]
    1
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    tensors, metadata = read_checkpoint(path)
    architecture, config = metadata.get("architecture"), metadata.get("config")
    if not isinstance(architecture, str) or architecture not in BUILDERS:
        raise ValueError(f"{path.name} says architecture {architecture!r}; known are {list(BUILDERS)}")
    if not isinstance(config, dict):
        raise ValueError(f"{path.name} says config {one_line(repr(config), 80)}, not the arguments of {architecture!r}")
    shapes = {name: tuple(t.shape) for name, t in tensors.items()}
    tensors = {name: t.float() if t.dtype == torch.float16 else t for name, t in tensors.items()}  # stored small
    try:
        model = hollow(BUILDERS[architecture], config, shapes)
        check_shapes(model, shapes)
        pour(model, tensors)
    except ValueError as error:
        raise ValueError(f"{path.name} does not hold a network: {error}") from error
    return Checkpoint(model.requires_grad_(False).eval(), metadata)


def save_checkpoint(path: Path, model: nn.Module, architecture: str, config: dict, **story: object) -> None:
    """Write a network with its story (seed, data, recipe, losses, ...) atomically as safetensors, never as pickle.

    Examples
    --------
    >>> import tempfile
    >>> import lmc_utils as lmc
    >>> from lmc_utils.networks.mlp import mlp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "small.safetensors")
    ...     lmc.save_checkpoint(path, mlp([3, 4, 2]), "mlp", {"widths": [3, 4, 2]}, seed=0)
    ...     lmc.load_checkpoint(path).metadata["seed"]
    0
    """
    instance("model", model, nn.Module)
    choice("architecture", architecture, tuple(BUILDERS))
    instance("config", config, dict)
    versions = {name: version(name) for name in ("torch", "numpy", "safetensors", "lmc-utils")}
    versions["python"] = platform.python_version()
    metadata = {"architecture": architecture, "config": config, **story, "versions": versions}
    save_atomically(model.state_dict(), path, {key: json.dumps(value) for key, value in metadata.items()})
