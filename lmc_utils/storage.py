"""Checkpoints as safetensors: written whole or not at all, read without running anything."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a private place to write a file at, which takes the place of ``path`` when the block ends well.

    At every moment ``path`` is the old file or the whole new one; on any error or interruption the old one stays and
    nothing else is left behind. The folder of ``path`` is made if it is missing.

    Raises
    ------
    OSError
        Before the block, if there is no room to write beside ``path`` or ``path`` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as private:
        place = Path(private) / path.name
        yield place
        os.replace(place, path)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Give a private empty folder to fill, which becomes ``path`` when the block ends well.

    ``path`` appears whole or not at all; on any error or interruption nothing is left behind.

    Raises
    ------
    FileExistsError
        If there is something at ``path``, before the block or when it ends. What is there stays as it is.
    OSError
        Before the block, if there is no room to write beside ``path``.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists: choose another folder, nothing was written")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as private:
        place = Path(private) / path.name
        place.mkdir()
        yield place
        os.rename(place, path)  # refuses a folder with something in it


def save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file so that ``path`` is at every moment either the old file or the whole new one."""
    whole = {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    with replacing(path) as place:
        save_file(whole, place, metadata)  # copies: safetensors takes no tied weights


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
