"""Checkpoints as safetensors: written whole or not at all, read without running anything."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file so that ``path`` is at every moment either the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    whole = {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    save_file(whole, temporary, metadata)  # copies: safetensors takes no tied weights
    os.replace(temporary, path)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a safetensors file, and its metadata, whose values are JSON; ValueError if it is corrupt."""
    try:
        with safe_open(path, "pt") as file:
            metadata = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"the checkpoint {path.name} is corrupt ({error}): delete it to start again") from error


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """A SHA-256 of the values of tensors, in order: two runs that start from other weights have other fingerprints."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()


def named(function: Callable | None) -> str:
    """What a function, or an object that is called, can be recognised by in another process."""
    return getattr(function, "__qualname__", type(function).__qualname__)
