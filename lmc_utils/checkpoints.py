"""Models of users, in the ordinary folders of transformers and timm: no pickle, no code from elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn

from .networks.base import Network, canonicalize


def load_model(path: str | Path) -> nn.Module:
    """A model from a folder that ``save_pretrained`` (transformers) or ``save_for_hf`` (timm) wrote.

    Parameters
    ----------
    path
        The folder: ``config.json`` and ``model.safetensors``.

    Returns
    -------
    nn.Module
        In evaluation mode, in the dtype in which it was saved.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If the files are corrupt, or of an architecture that is not known here.
    """
    path = Path(path)
    for name in ("config.json", "model.safetensors"):
        if not (path / name).is_file():
            raise FileNotFoundError(f"no {name} in {path}: save the model with save_pretrained, as safetensors")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") == "gpt2":
            from transformers import GPT2LMHeadModel

            model = GPT2LMHeadModel.from_pretrained(path, use_safetensors=True, local_files_only=True, dtype="auto")
        elif "architecture" in config:
            import timm
            from safetensors.torch import load_file

            model = timm.create_model(config["architecture"], **_arguments(config))
            weights = load_file(path / "model.safetensors")
            model.to(next(iter(weights.values())).dtype).load_state_dict(weights)
        else:
            raise ValueError(f"{path}/config.json names neither model_type 'gpt2' nor a timm architecture")
    except (SafetensorError, json.JSONDecodeError, RuntimeError) as error:
        raise ValueError(f"the checkpoint in {path} is corrupt or does not fit its config.json: {error}") from error
    return model.eval()


def _arguments(config: dict) -> dict:
    """The arguments a timm model was made with, as ``save_for_hf`` keeps them; some stand beside them."""
    return {name: config[name] for name in ("num_classes", "global_pool")} | config.get("model_args", {})


def save_model(network: Network, path: str | Path, like: str | Path) -> None:
    """Write a network as an ordinary folder, with the tokenizer of the model that it came from.

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
    """
    path, like = Path(path), Path(like)
    if path.exists():
        raise FileExistsError(f"{path} exists: choose another folder, nothing was written")
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model = network.to_model()
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(partial)
        for name in TOKENIZER:
            if (like / name).is_file():
                shutil.copy(like / name, partial)
    else:
        from safetensors.torch import save_file

        config = json.loads((like / "config.json").read_text(encoding="utf-8"))
        arguments = config.get("model_args", {}) | {"qkv_bias": True}  # the canonical form has these biases
        save_file({name: t.contiguous() for name, t in model.state_dict().items()}, partial / "model.safetensors")
        (partial / "config.json").write_text(json.dumps(config | {"model_args": arguments}, indent=2), encoding="utf-8")
    partial.rename(path)


TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")


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
        raise ValueError(f"{path} is not a tokenizer: {error}") from error
    tokenizer.no_truncation()  # the file may ask for it, but a text is cut into windows, not cut off
    tokenizer.no_padding()
    return tokenizer


def load_pair(first: str | Path, second: str | Path) -> tuple[Network, Network]:
    """Two models of one kind, ready to be matched.

    Raises
    ------
    ValueError
        If their tokenizers, dtypes or shapes differ (names the parameter and both), or a weight is not finite.
    """
    for name in TOKENIZER[:1] + TOKENIZER[2:4]:  # what decides which number a token has
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
    return tuple(canonicalize(model) for model in models)
