"""Folders of transformers and timm: the class that ``config.json`` names, from plain values, and nothing run.

A class is known by its qualified name, as :func:`lmc_utils.networks.base.register` has it, so a file of an architecture
says nothing about folders. Names in a file may be older than those of the installed library: its own table of changes
is applied to our tensors, on the way in and on the way out.
"""

from __future__ import annotations

import copy
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from ..arguments import one_line
from ..spec import Params
from .base import registered
from .stock import Shapes, check_shapes, hollow, keywords

LONGEST = 300  # characters of a tensor's name: libraries search names with patterns

#: What configurations older than transformers 5 call the parts of ``rope_parameters``: no arguments of a class.
ROTARY = ("rope_scaling", "rope_theta", "partial_rotary_factor", "rotary_pct", "rotary_emb_base")
#: Causal masks and tables that old files hold, and a module makes by itself.
MADE = re.compile(r"(.*\.)?((cross)?(attn|attention)\.(masked_)?bias|rotary_emb\.inv_freq|position_ids)")
#: Settings that the canonical form does not decide: they change training or generation, and the parent's stay.
TRAINING = re.compile(r"drop|initializer|use_cache|token_id|summary_|pretraining_tp|router_aux|jitter|output_router")


class Blueprint(NamedTuple):
    """A stock module without storage, and for its tensors what makes each: a converter and names in the file.

    Without a converter the tensor of the file is the module's; with one, a group of them becomes one or several.
    """

    model: nn.Module
    steps: dict[str, tuple[Any, list[tuple[str, str]]]]

    def sources(self) -> Iterator[tuple[str, str]]:
        """Each tensor of the file that is used, after the (first) tensor of the module that it becomes."""
        return ((stock, name) for stock, (_, parts) in self.steps.items() for _, name in parts)

    def arrange(self, tensors: Params) -> Params:
        """The module's tensors from those of the file, which are used up: a large file is never there twice.

        What is tied and there only once gets its second name.
        """
        found: Params = {}
        for stock, (converter, parts) in self.steps.items():
            if converter is None:
                found[stock] = tensors.pop(parts[0][1])
                continue
            fresh = copy.deepcopy(converter)  # it collects
            for pattern, name in parts:
                fresh.add_tensor(stock, name, pattern, tensors.pop(name))
            made = fresh.convert(stock, model=self.model, config=self.model.config)
            found |= {name: x[0] if isinstance(x, list) else x for name, x in made.items()}
        for pair in getattr(self.model, "all_tied_weights_keys", {}).items():
            for one, other in (pair, pair[::-1]):
                if other in found:
                    found.setdefault(one, found[other])
        return found


def blueprint(config: Mapping[str, Any], shapes: Shapes) -> Blueprint:
    """Build the model of a folder without storage, and say what its file calls each tensor: all are there.

    Parameters
    ----------
    config
        The folder's ``config.json``.
    shapes
        The shapes of the file's tensors by name.

    Raises
    ------
    ValueError
        If no file in ``lmc_utils/networks`` knows the class that it names, it asks for more than plain weights, it
        builds no model, or the tensors are not those of the model.
    """
    if name := next((name for name in shapes if len(name) > LONGEST), None):
        raise ValueError(f"a tensor's name has {len(name)} characters, allowed are {LONGEST}: {one_line(name, 40)}")
    if "architecture" in config:
        found = _timm(config, shapes)
    elif "model_type" in config:
        found = _transformers(config, shapes)
    else:
        raise ValueError("config.json names neither a model_type of transformers nor an architecture of timm")
    try:
        made = found.arrange({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    except Exception as error:  # a library's operation on tensors of a stranger's shapes
        raise ValueError(f"the tensors are not those of its configuration: {one_line(error, 240)}") from error
    check_shapes(found.model, {name: tuple(tensor.shape) for name, tensor in made.items()})
    return found


def to_folder(model: nn.Module, parent: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[dict, Params]:
    """The ``config.json`` and the tensors of a folder that the model's own library loads.

    Parameters
    ----------
    model
        Its ``config`` may be changed: it says that a head is tied exactly if it equals the embedding.
    parent
        The ``config.json`` of the model that this one came from. It stays, but for what the canonical form decides.
    settings
        Of timm: the arguments that the canonical form decides. transformers' models have them in their ``config``.

    Raises
    ------
    TypeError
        If the library of this model has no folders.
    ValueError
        If the parent is of another class.
    """
    library = type(model).__module__.partition(".")[0]
    if hasattr(model, "config") and hasattr(model, "all_tied_weights_keys"):
        return _to_transformers(model, parent)
    if library == "timm":
        return _to_timm(model, parent, settings)
    raise TypeError(
        f"no folder is written for a {type(model).__name__} of {library}, which has no such format: "
        "save the state_dict of network.to_model() or use save_checkpoint"
    )


# ---------------------------------------------------------------------------------------------- transformers


def _transformers(config: Mapping[str, Any], shapes: Shapes) -> Blueprint:
    kind = _named(config)
    for name, value in config.items():
        if value is None or isinstance(value, bool):
            continue
        if name in ("auto_map", "quantization_config") or "_implementation" in name:
            raise ValueError(f"config.json has {name!r}, which asks for other code: take it out to load plain weights")
        if name == "per_layer_config":
            raise ValueError(f"config.json has {name!r}: layers that differ from each other are not known here")
        if name in kind.config_class.attribute_map:
            raise ValueError(
                f"config.json has {name!r}: call it {kind.config_class.attribute_map[name]!r}, "
                f"as {kind.config_class.__name__} does"
            )
    own = _own(kind.config_class)
    own |= set(ROTARY) if "rope_parameters" in own else set()
    given = {name: value for name, value in config.items() if name in own}
    labels = {name: _labels(name, config[name]) for name in ("id2label", "label2id") if name in config}
    model = hollow(lambda **plain: kind(kind.config_class(**plain, **labels)), given, shapes)
    return Blueprint(model, _steps(model, shapes))


def _named(config: Mapping[str, Any]) -> type[nn.Module]:
    """The class that ``architectures`` names, out of a module of transformers where a known class is."""
    from transformers import PreTrainedModel

    names, model_type = config.get("architectures"), config["model_type"]
    if not (isinstance(names, list) and len(names) == 1 and isinstance(names[0], str)):
        raise ValueError(f"architectures must be a list with the name of one class, not {one_line(repr(names), 80)}")
    known = registered("transformers")
    for module in dict.fromkeys(name.rpartition(".")[0] for name in known):
        package = str(model_type).replace("-", "_")
        if f"{module}.{names[0]}" not in known and module.split(".")[-2] != package:
            continue
        kind = vars(importlib.import_module(module)).get(names[0])
        if (
            isinstance(kind, type)
            and issubclass(kind, PreTrainedModel)
            and kind.__module__ == module
            and kind.config_class.model_type == model_type
        ):
            return kind
    here = ", ".join(sorted(name.rpartition(".")[2] for name in known))
    raise ValueError(
        f"no class {one_line(names[0], 40)!r} of model_type {one_line(repr(model_type), 40)} is known here; "
        f"known are {one_line(here, 200)}"
    )


def _own(config_class: type) -> set[str]:
    """The arguments of a class of configurations itself, but not of those that all have."""
    from transformers import PreTrainedConfig

    return set(config_class.__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)


def _labels(name: str, value: Any) -> Any:
    """The names of the classes, which are also how many there are."""
    if value is None or (isinstance(value, dict) and all(isinstance(v, str | int) for v in value.values())):
        return value
    raise ValueError(f"{name} must name each class once, not {one_line(repr(value), 80)}")


def _steps(model: nn.Module, shapes: Shapes) -> dict[str, tuple[Any, list[tuple[str, str]]]]:
    """What makes each tensor of a model of transformers, by the library's own table of changes."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, dot_natural_key, rename_source_key

    stock, rules = model.state_dict(), get_model_conversion_mapping(model)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if not isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    written = _as_saved(model, stock) if converters else {}
    steps: dict[str, tuple[Any, list[tuple[str, str]]]] = {}
    for name in sorted(shapes, key=dot_natural_key):
        new, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, stock)
        if new not in stock and name in stock:  # it has a name of today that a pattern takes for an older one
            new, pattern = name, None
        if new not in stock and MADE.fullmatch(new) and (len(shapes[name]) != 1 or not new.endswith("bias")):
            continue
        if pattern is not None and name not in written:
            raise ValueError(f"the tensors are not those of its configuration: unknown 1 ({name!r})")
        if new in steps and (pattern is None or steps[new][0] is None):
            raise ValueError(f"{steps[new][1][0][1]!r} and {name!r} are both the module's {new!r}")
        steps.setdefault(new, (by_pattern.get(pattern), []))[1].append((pattern, name))
    return steps


def _as_saved(model: nn.Module, tensors: Params) -> Params:
    """Tensors by the names, and in the pieces, in which ``save_pretrained`` writes them."""
    from transformers.core_model_loading import revert_weight_conversion

    return revert_weight_conversion(model, dict(tensors))


def _to_transformers(model: nn.Module, parent: Mapping[str, Any]) -> tuple[dict[str, Any], Params]:
    kind, given = type(model), model.config
    if (parent.get("architectures"), parent.get("model_type")) != ([kind.__name__], given.model_type):
        raise ValueError(f"it holds a {one_line(parent.get('architectures') or parent.get('architecture'), 80)}")
    tensors, tied = model.state_dict(), getattr(kind, "_tied_weights_keys", None) or {}
    if tied:
        given.tie_word_embeddings = all(torch.equal(tensors[one], tensors[other]) for one, other in tied.items())
        tensors = {n: t for n, t in tensors.items() if not (given.tie_word_embeddings and n in tied)}
    decides = {name for name in _own(kind.config_class) if not TRAINING.search(name)}
    decided = {name: value for name, value in given.to_dict().items() if name in decides}
    named = {"architectures": [kind.__name__], "model_type": given.model_type}
    named["dtype"] = str(next(model.parameters()).dtype).removeprefix("torch.")
    kept = {name: value for name, value in parent.items() if name != "torch_dtype"}  # the old name of dtype
    return kept | decided | named, _as_saved(model, tensors)


# ---------------------------------------------------------------------------------------------- timm


def _timm(config: Mapping[str, Any], shapes: Shapes) -> Blueprint:
    import timm

    name, given = config["architecture"], config.get("model_args", {})
    known = isinstance(name, str) and ":" not in name and timm.is_model(name)  # a colon names a place to load from
    module = timm.model_entrypoint(name).__module__ if known else ""
    here = registered("timm")
    found = vars(sys.modules[module]).values() if module.startswith("timm.") else ()
    classes = [c for c in found if isinstance(c, type) and f"{c.__module__}.{c.__qualname__}" in here]
    if not classes:
        names = ", ".join(sorted(full.rpartition(".")[2] for full in here))
        raise ValueError(
            f"architecture {one_line(repr(name), 80)} is none of timm {timm.__version__} that builds a class known "
            f"here; known are {one_line(names, 160)}"
        )
    if not isinstance(given, dict):
        raise ValueError(f"model_args must be an object, not {one_line(repr(given), 80)}")
    allowed = set().union(*map(keywords, classes))
    if unknown := sorted(set(given) - allowed):
        named = one_line(", ".join(map(repr, unknown)), 120)
        raise ValueError(f"model_args has {named}: no plain argument of {' or '.join(k.__name__ for k in classes)}")
    beside = {key: config[key] for key in ("num_classes", "global_pool") if key in config}
    model = hollow(partial(timm.create_model, name, pretrained=False), beside | given, shapes)
    if type(model) not in classes:
        raise ValueError(f"architecture {name!r} builds a {type(model).__name__}, which is not known here")
    return Blueprint(model, {name: (None, [("", name)]) for name in shapes})


def _to_timm(model: nn.Module, parent: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[dict, Params]:
    if "architecture" not in parent:
        raise ValueError(f"it holds a {one_line(parent.get('architectures'), 80)}")
    beside = {"num_features": model.num_features, "num_classes": model.num_classes}
    beside |= {name: settings[name] for name in ("global_pool",) if name in settings}
    return dict(parent) | beside | {"model_args": parent.get("model_args", {}) | settings}, model.state_dict()
