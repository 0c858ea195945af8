"""Write files whole or not at all, and read checkpoints (safetensors) without running anything."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CHECKSUM = "sha256"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # such an error names no file


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a private place to write a file at, which takes the place of ``path`` when the block ends well.

    At every moment ``path`` is the old file or the whole new one, after a power cut, too. On any error or interruption
    the old one stays and nothing else is left behind. A link at ``path`` is replaced, never followed. The folder of
    ``path`` is made if it is missing. The umask decides who may read the new file.

    Raises
    ------
    OSError
        Before the block, if nothing can be written beside ``path`` or ``path`` is a folder; after it, if the disk is
        full.

    Examples
    --------
    >>> import tempfile
    >>> page = Path(tempfile.mkdtemp()) / "page.html"
    >>> with replacing(page) as place:
    ...     _ = place.write_text("whole")
    >>> page.read_text()
    'whole'
    """
    _refuse_folder(path)
    with _beside(path) as (private, target):
        place = private / target.name
        yield place
        _settle(private)
        os.replace(place, target)
        with suppress(OSError):  # the file is there, even where a folder cannot be flushed
            _flush(target.parent)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Give a private empty folder to fill, which becomes ``path`` when the block ends well.

    ``path`` appears whole or not at all; on any error or interruption nothing is left behind. If two runs make
    the same folder, one gets it and the other an error. The umask decides who may read the files.

    Raises
    ------
    FileExistsError
        If there is something at ``path``, before the block or when it ends, be it an empty folder or a link to
        nowhere. What is there stays as it is.
    OSError
        Before the block, if nothing can be written beside ``path``; after it, if the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "merged"
    >>> with new_folder(folder) as place:
    ...     _ = (place / "config.json").write_text("{}")
    ...     folder.exists()
    False
    >>> [file.name for file in folder.iterdir()]
    ['config.json']
    """
    _refuse_existing(path)
    with _beside(path) as (place, target):
        yield place
        _settle(place)
        _refuse_existing(path)
        try:
            os.rename(place, target)
        except OSError:
            _refuse_existing(path)  # made since: rename replaces an empty folder only
            raise
        with suppress(OSError):
            _flush(target.parent)


def check_writable(path: str | Path) -> None:
    """Raise the OSError that writing a file at ``path`` would meet, before the work; nothing is left behind."""
    _refuse_folder(path)
    with _beside(path):
        pass


@contextmanager
def _beside(path: str | Path) -> Iterator[tuple[Path, Path]]:
    """A private empty folder in the folder of ``path``, and ``path`` made absolute; whatever is left is removed.

    The private folder has a name that nobody can guess, drawn before it is made: whenever an interruption comes, it is
    known what to remove. Nobody else may look into it; the folder inside, which is given, has the mode of the umask.
    """
    target = Path(os.path.abspath(path))  # once: the working directory may change meanwhile
    missing = [folder for folder in target.parents if not folder.exists()]
    private = target.parent / f".{target.name[:40]}.{secrets.token_hex(8)}"
    try:
        try:
            _make(private)
        except FileNotFoundError:  # another run has just removed the folder around it, which was empty
            _make(private)
        inside = private / target.name  # an OSError now, before the work, if the name is too long
        inside.mkdir()
        yield inside, target
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    except OSError as error:
        place = Path(str(error.filename))
        if private in (place, *place.parents) or place in target.parents or error.errno in FULL:
            raise type(error)(f"cannot write {path}: {error.strerror}") from error
        raise
    finally:
        try:
            shutil.rmtree(private, ignore_errors=True)
        finally:  # once more, if a signal came in the midst of it
            shutil.rmtree(private, ignore_errors=True)
            for folder in missing:
                with suppress(OSError):  # there is something in it
                    folder.rmdir()


def _make(private: Path) -> None:
    private.parent.mkdir(parents=True, exist_ok=True)
    private.mkdir(mode=0o700)


def _refuse_folder(path: str | Path) -> None:
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file to write")


def _refuse_existing(path: str | Path) -> None:
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists: choose another folder, nothing was written")


def _settle(folder: Path) -> None:
    """Give all in a folder the modes of the umask (safetensors writes for the owner alone), and put it on the disk."""
    mode = folder.stat().st_mode & 0o777
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            os.chmod(Path(root, name), mode & 0o666)
            _flush(Path(root, name))
        os.chmod(root, mode)
        _flush(Path(root))


def _flush(path: Path) -> None:
    """Wait until a file, or the list of files of a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file so that ``path`` is at every moment either the old file or the whole new one.

    A SHA-256 of tensors and metadata is added to the metadata; :func:`read_checkpoint` compares it.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    # copies: safetensors takes no tied weights
    whole = {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    with replacing(path) as place:
        save_file(whole, place, metadata | {CHECKSUM: json.dumps(_checksum(whole, metadata))})


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read the tensors of a safetensors file, and its metadata, whose values are JSON.

    Raises
    ------
    ValueError
        If the file is corrupt: it is no safetensors, or it has a checksum that is not that of its content (files of
        older versions have none).
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        expected = metadata.pop(CHECKSUM, None)
        if expected is not None and json.loads(expected) != _checksum(tensors, metadata):
            raise ValueError("its SHA-256 is not the one that was written with it")
        return tensors, {key: json.loads(value) for key, value in metadata.items()}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"the checkpoint {path.name} is corrupt ({error}): delete it to start again") from error


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """A SHA-256 of all that a safetensors file says, whatever the order it says it in."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), tensor.shape]).encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """A SHA-256 of the values of tensors, in order: two runs that start from other weights have other fingerprints."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()


def named(function: Callable | None) -> str:
    """Return a name that recognises a function, or a callable object, in another process."""
    return getattr(function, "__qualname__", type(function).__qualname__)
