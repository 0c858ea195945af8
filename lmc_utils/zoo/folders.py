"""Models of users, in the ordinary folders of transformers and timm: no pickle, no code, no network."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from torch import nn

from ..arguments import instance, one_line
from ..networks.base import Network, assert_canonical, canonicalize
from ..networks.folders import blueprint, to_folder
from ..networks.stock import few, pour
from ..storage import new_folder

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")
LARGEST_JSON = 2**24  # bytes; a config.json has some thousands, an index of a large model some millions
SHARD = "5GB"  # files of weights are cut where they would be larger, as transformers does

NUMBERS = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json")  # these decide which number a token has
#: What a merged folder takes over from its parent, file by file; templates may also lie in a folder of their own.
KEPT = (*NUMBERS, "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
        "generation_config.json", "preprocessor_config.json")  # fmt: skip
TEMPLATES = "additional_chat_templates"


class Place(NamedTuple):
    """Where a tensor lies and what it is, as the header of its file says."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def load_model(path: str | Path) -> nn.Module:
    """Load a model from a folder that ``save_pretrained`` (transformers) or ``save_for_hf`` (timm) wrote.

    Nothing is run but transformers' and timm's own constructors with plain values, and no file is opened but
    ``config.json`` and the safetensors beside it.

    Parameters
    ----------
    path
        The folder: ``config.json`` and ``model.safetensors``, or its shards and their index.

    Returns
    -------
    nn.Module
        In evaluation mode, in the dtype in which it was saved.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If the files are corrupt, of an architecture that is not known here, or do not fit together.

    Examples
    --------
    >>> import tempfile
    >>> import lmc_utils as lmc
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lmc.load_endpoint("adder").save_pretrained(folder)
    ...     lmc.load_model(folder).config.n_embd
    32
    """
    folder = Path(path)
    config, places = read_config(folder), _places(folder)
    try:
        plan = blueprint(config, {name: place.shape for name, place in places.items()})
        own, names = plan.model.state_dict(), dict.fromkeys(name for _, name in plan.sources())
        dtypes = {places[name].dtype: name for stock, name in plan.sources() if own[stock].is_floating_point()}
        if len(dtypes) > 1 or not dtypes.keys() <= set(DTYPES):
            found = ", ".join(f"{dtype} ({name!r})" for dtype, name in dtypes.items())
            raise ValueError(f"the tensors are {one_line(found)}: save them all as one of {', '.join(DTYPES)}")
        tensors = {}
        for file in dict.fromkeys(place.file for place in places.values()):
            with _opened(file) as opened:  # cloned, or else the weights change with the file
                tensors |= {n: opened.get_tensor(n).clone() for n in names if places[n].file == file}
        return pour(plan.model, plan.arrange(tensors))
    except ValueError as error:
        raise ValueError(f"the model in {folder} is not loaded: {error}") from error


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read the ``config.json`` of a model's folder: values, not checked, but never run.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is not a JSON object, or larger than any configuration.
    """
    return _read_json(Path(folder) / "config.json")


def _read_json(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: save the model with save_pretrained or save_for_hf")
    with path.open("rb") as file:
        content = file.read(LARGEST_JSON + 1)
    if len(content) > LARGEST_JSON:
        raise ValueError(f"{path} is larger than {LARGEST_JSON} bytes")
    try:
        found = json.loads(content.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is corrupt: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is corrupt: it must hold a JSON object, not {one_line(found, 40)}")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; ValueError if it is none."""
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is corrupt: {one_line(error)}") from error


def _places(folder: Path) -> dict[str, Place]:
    """All tensors of a folder by the names in its files, from the headers alone."""
    listed = None
    if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
        listed = _read_json(folder / INDEX).get("weight_map")
        names = set(listed.values()) if isinstance(listed, dict) and _plain(listed.values()) else None
        if not names:
            raise ValueError(f"{folder / INDEX} is corrupt: weight_map must name safetensors files of this folder")
    found: dict[str, Place] = {}
    for name in sorted(names) if listed else [WEIGHTS]:
        if not (folder / name).is_file():
            pickles = sorted(file.name for file in folder.glob("*.bin"))
            why = f", only {pickles[0]}, a pickle, which can run code" if pickles else ""
            raise FileNotFoundError(
                f"no {name} in {folder}{why}: save the model with save_pretrained, as safetensors, or with "
                "timm's save_for_hf(..., safe_serialization=True)"
            )
        with _opened(folder / name) as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                if key in found:
                    raise ValueError(f"{folder} holds {key!r} twice: in {found[key].file.name} and {name}")
                part = file.get_slice(key)
                found[key] = Place(folder / name, tuple(part.get_shape()), part.get_dtype())
    if listed and (wrong := listed.items() ^ {(key, place.file.name) for key, place in found.items()}):
        raise ValueError(f"{folder / INDEX} does not tell where these tensors are: {few({key for key, _ in wrong})}")
    return found


def _plain(names: Any) -> bool:
    """Whether all these are names of safetensors files in the same folder."""
    return all(isinstance(name, str) and re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names)


def save_model(network: Network, path: str | Path, like: str | Path) -> None:
    """Write a network as an ordinary folder that keeps what its parent had: tokenizer, labels, settings, dropout.

    The folder appears whole or not at all.

    Parameters
    ----------
    network
        What to save.
    path
        The folder to make.
    like
        The folder of one of its parents.

    Raises
    ------
    FileExistsError
        If there is something at ``path`` already.
    OSError
        If there is no room.
    TypeError
        If there are no folders of this architecture.
    ValueError
        If the parent's ``config.json`` is of another kind.

    Examples
    --------
    >>> import tempfile
    >>> import lmc_utils as lmc
    >>> a, b = (lmc.load_endpoint("adder", seed) for seed in (0, 1))
    >>> middle = lmc.merge(lmc.canonicalize(a), lmc.canonicalize(b))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     a.save_pretrained(Path(folder, "a"))
    ...     lmc.save_model(middle, Path(folder, "middle"), like=Path(folder, "a"))
    ...     lmc.load_model(Path(folder, "middle")).config.n_embd
    32
    """
    with new_folder(path) as folder:
        write_model(network, folder, like)


def write_model(network: Network, folder: Path, like: str | Path) -> None:
    """Fill an empty folder as :func:`save_model` does."""
    instance("network", network, Network)
    like = Path(like)
    try:
        config, tensors = to_folder(network.to_model(), read_config(like), network.architecture.settings)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        blueprint(read_config(folder), {name: tuple(t.shape) for name, t in tensors.items()})  # as it will be read
    except ValueError as error:
        raise ValueError(f"a model like the one in {like} does not hold this network: {error}") from error
    for name in KEPT:
        if (like / name).is_file():
            shutil.copyfile(like / name, folder / name)
    if (like / TEMPLATES).is_dir():
        shutil.copytree(like / TEMPLATES, folder / TEMPLATES, symlinks=True)
    try:
        save_torch_state_dict(tensors, folder, max_shard_size=SHARD)
    except SafetensorError as error:
        raise OSError(f"the weights could not be written to {folder}: {one_line(error)}") from error


def load_tokenizer(path: str | Path) -> Tokenizer | None:
    """The tokenizer that a model's folder holds as ``tokenizer.json``, if it does.

    Raises
    ------
    ValueError
        If the file is no tokenizer.
    """
    path = Path(path) / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no subclass
        raise ValueError(f"{path} is not a tokenizer: {one_line(error)}") from error
    tokenizer.no_truncation()  # the file may ask for it, but a text is cut into windows, not cut off
    tokenizer.no_padding()
    return tokenizer


def load_pair(first: str | Path, second: str | Path) -> tuple[Network, Network]:
    """Load two models of one kind, ready to be matched, whose canonical forms compute what the models do.

    Raises
    ------
    ValueError
        If their tokenizers, dtypes or shapes differ (names the parameter and both), a weight is not finite, or the
        canonical form of one has other logits.
    """
    for name in NUMBERS:
        files = [Path(folder) / name for folder in (first, second)]
        if all(file.is_file() for file in files) and files[0].read_bytes() != files[1].read_bytes():
            raise ValueError(
                f"the tokenizers differ ({name}): the same number means different tokens in {first} and {second}"
            )
    models = [load_model(folder) for folder in (first, second)]
    shapes = [{n: (p.dtype, tuple(p.shape)) for n, p in model.state_dict().items()} for model in models]
    for name in dict.fromkeys([*shapes[0], *shapes[1]]):
        one, two = (s.get(name) for s in shapes)
        if one is None or two is None:
            raise ValueError(f"parameter {name!r} is in {second if one is None else first} only")
        if one != two:
            raise ValueError(f"parameter {name!r} is {one[0]} {one[1]} in {first} and {two[0]} {two[1]} in {second}")
    return tuple(_canonical(model, folder) for model, folder in zip(models, (first, second), strict=True))


def _canonical(model: nn.Module, folder: str | Path) -> Network:
    """The canonical form of a folder's model, compared with the model itself."""
    try:
        network = canonicalize(model)
        single, same = network, model
        if network.reference.dtype in (torch.float16, torch.bfloat16):  # whose rounding would hide what is compared
            same = copy.deepcopy(model).float()
            single = canonicalize(same)
        if (probe := network.architecture.probe()) is not None:
            assert_canonical(single, same, probe)
    except (
        AssertionError,
        RuntimeError,
        ValueError,
    ) as error:  # a stock module may fail on sizes that do not go together
        raise ValueError(f"the model in {folder} cannot be matched: {one_line(error)}") from error
    return network
