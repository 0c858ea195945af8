"""Stock modules from files that a stranger wrote: plain values, no more than the tensors can hold, nothing run."""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import one_line

Shapes = Mapping[str, tuple[int, ...]]

LAYERS = re.compile(r"layer|depth|block")  # what configurations call the number of layers, among others
FEW_LAYERS = 100  # so many are built in no time, whatever the file holds
SMALL = 2**20  # and so large may numbers be that no tensor shows, such as the longest context
TOKENS = 2**31 - 1  # the largest number of a token, in a vocabulary of any size: it takes up no room
SHARES = ("partial_rotary_factor", "rotary_pct")  # of a head's dimensions
ROTARY = ("rope_parameters", "rope_scaling")  # the only objects in a configuration, and what they may hold
ANGLES = ("rope_type", "type", "rope_theta", "rotary_emb_base", "partial_rotary_factor", "factor", "mscale",
          "mscale_all_dim", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
          "short_factor", "long_factor", "low_freq_factor", "high_freq_factor", "truncate")  # fmt: skip
PLAIN = (bool, int, float, str, type(None))


def from_config(model: type[nn.Module], known: type, config: Mapping[str, Any]) -> nn.Module:
    """Build one of transformers' models with freshly drawn weights.

    Parameters
    ----------
    model, known
        Its class, and the class of its configuration.
    config
        Arguments of the configuration.

    Raises
    ------
    TypeError
        If the configuration has no such argument.
    """
    if unknown := [name for name in config if name not in known.__annotations__]:  # which it would keep
        raise TypeError(f"{known.__name__} has no {', '.join(unknown)}")
    return model(known(**config, attn_implementation="sdpa"))


def few(names: Iterable[str], most: int = 3) -> str:
    """Return how many names there are, and the first of them.

    Examples
    --------
    >>> few(["a", "b", "c", "d"])
    "4 ('a', 'b', 'c', ...)"
    """
    names = list(names)
    return f"{len(names)} ({', '.join(map(repr, names[:most]))}{', ...' * (len(names) > most)})"


def hollow(build: Callable[..., nn.Module], arguments: Mapping[str, Any], shapes: Shapes) -> nn.Module:
    """Build a stock module without storage from the arguments that a file names.

    Parameters
    ----------
    build
        The constructor. It has to refuse names that it does not know.
    arguments
        Plain values and lists of them, as JSON has them; for rotary embeddings an object of known keys.
    shapes
        The shapes of the file's tensors. They bound every number, so a small file cannot name a giant.

    Raises
    ------
    ValueError
        If a value is not plain, is negative or too large, or if the constructor refuses it.

    Examples
    --------
    >>> hollow(nn.Linear, {"in_features": 2, "out_features": 3}, {"weight": (3, 2), "bias": (3,)})
    Linear(in_features=2, out_features=3, bias=True)
    """
    for name, value in arguments.items():
        if name in ROTARY and isinstance(value, dict):
            if unknown := [one_line(key, 40) for key in value if key not in ANGLES]:
                raise ValueError(f"{name} has {few(unknown)}, which no rotary embedding here has")
            for key, entry in value.items():
                _check_plain(f"{name}[{key!r}]", entry, _range(key, shapes), shapes)
        else:
            _check_plain(name, value, _range(name, shapes), shapes)
    try:
        with torch.device("meta"):
            return build(**copy.deepcopy(dict(arguments)))  # which it may complete
    except Exception as error:  # a library's constructor on a stranger's values: it may fail in any way
        raise ValueError(
            f"its configuration builds no model: {type(error).__name__}: {one_line(error, 240)}"
        ) from error


def _range(name: str, shapes: Shapes) -> tuple[int, int]:
    """The least and the largest number that an argument of this name may be."""
    if name.endswith("token_id"):  # of which -1 stands for none
        return -TOKENS, TOKENS
    if name in SHARES:
        return 0, 1
    if name in ANGLES:
        return 0, TOKENS
    if LAYERS.search(name):
        return 0, max(len(shapes), FEW_LAYERS)
    return 0, max(SMALL, sum(map(math.prod, shapes.values())))


def _check_plain(name: str, value: Any, allowed: tuple[int, int], shapes: Shapes) -> None:
    """Raise a ValueError if a value from a file is not plain, or a number in it is outside of its range."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(v, PLAIN) for v in values):
        raise ValueError(f"{name} must be a plain value or a list of them, not {one_line(repr(value), 80)}")
    numbers = [v for v in values if isinstance(v, int | float)]
    least, most = allowed
    if len(values) > len(shapes) + 1 or not all(least <= v <= most for v in numbers):  # NaN is refused, too
        entries = sum(map(math.prod, shapes.values()))
        raise ValueError(
            f"{name} is {one_line(value, 80)}, but a file of {len(shapes)} tensors with {entries} numbers "
            f"allows {least} to {most}"
        )


def keywords(kind: type[nn.Module]) -> set[str]:
    """The arguments of a class of timm that can have plain values, but for those of where it is built."""
    parameters = inspect.signature(kind).parameters
    parts = {name for name, p in parameters.items() if isinstance(p.default, type) and p.default is not p.empty}
    return set(parameters) - parts - {"device", "dtype"}


def check_shapes(model: nn.Module, shapes: Shapes) -> None:
    """Raise a ValueError that names tensors that are missing, unknown, empty, or of another shape than the model's."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing, unknown = (
        [name for name in one if name not in other] for one, other in ((expected, shapes), (shapes, expected))
    )
    wrong = [
        f"{name!r} of shape {shapes[name]} instead of {shape}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    empty = [name for name, shape in shapes.items() if 0 in shape]
    kinds = {"missing": missing, "unknown": unknown, "empty": empty}
    found = [f"{kind} {few(names)}" for kind, names in kinds.items() if names]
    if wrong:
        found.append(f"misshapen {len(wrong)} ({wrong[0]}{', ...' * (len(wrong) > 1)})")
    if found:
        raise ValueError(f"the tensors are not those of its configuration: {one_line('; '.join(found))}")


def pour(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give a module without storage its weights. The names must be those of :func:`check_shapes`.

    Tables that no file holds, such as rotary angles, are made as the module's library makes them.

    Raises
    ------
    ValueError
        If a tensor holds whole numbers where the module has others, the model ties two that differ, or it has tables
        that its library cannot make or that are larger than all its weights.
    """
    own = model.state_dict()
    if wrong := [n for n, t in tensors.items() if t.is_floating_point() != own[n].is_floating_point()]:
        kind = "floating-point" if own[wrong[0]].is_floating_point() else "whole"
        raise ValueError(f"{few(wrong)} must hold {kind} numbers, but {tensors[wrong[0]].dtype} was found")
    model.load_state_dict(tensors, assign=True)
    if hasattr(model, "tie_weights"):  # of transformers: two names of one tensor came back as two
        model.tie_weights()
        for name, tensor in model.state_dict().items():
            if tensor.data_ptr() != tensors[name].data_ptr() and not torch.equal(tensor, tensors[name]):
                raise ValueError(f"{name!r} is tied to another tensor by the configuration, but differs from it")
    make_tables(model)
    return model.eval()


def make_tables(model: nn.Module) -> None:
    """Fill what still has no storage: buffers that are never saved."""
    tables = {name: table for name, table in model.named_buffers() if table.is_meta}
    room = max(SMALL, sum(p.numel() for p in model.parameters()))
    if sum(table.numel() for table in tables.values()) > room:
        raise ValueError(f"the tables {few(tables)} would hold more than {room} numbers")
    owners = {name.rpartition(".")[0] for name in tables}
    for name, table in tables.items():
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner)._buffers[leaf] = torch.empty_like(table, device="cpu")
    if hasattr(model, "initialize_weights"):  # of transformers, which leaves alone what bears a mark
        for tensor in model.state_dict(keep_vars=True).values():
            tensor._is_hf_initialized = True
        for name, part in model.named_modules():
            part._is_hf_initialized = name not in owners
        model.initialize_weights() if owners else None
        return
    for name in owners:
        part = model.get_submodule(name)
        if not hasattr(part, "init_non_persistent_buffers"):  # of timm
            raise ValueError(f"the tables of {name!r} cannot be made: {type(part).__name__} does not say how")
        part.init_non_persistent_buffers()
