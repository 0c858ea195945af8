"""Models of transformers: built from the arguments of their configuration that decide the function."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ..spec import Site
from ..symmetry import Invertible, Permutation, ScaledPermutation
from .base import check_same_parts
from .layout import Stock, Weights, head_size

ROTARY = ("default", "dynamic", "linear", "llama3", "longrope", "yarn")


def demand(config: Any, **known: Sequence[Any]) -> None:
    """Raise a ValueError that names the first argument of a configuration whose value is none of those known."""
    for name, values in known.items():
        if (found := getattr(config, name, values[0])) not in values:
            raise ValueError(f"{name} {found!r} has no canonical form here; known are {', '.join(map(repr, values))}")


def block_sites(config: Mapping[str, Any]) -> dict[str, Site]:
    """The sites of a block whose heads share the width of the stream, with hidden units behind a non-linearity."""
    heads, relu = config["num_attention_heads"], config["hidden_act"] == "relu"
    d = head_size(config["hidden_size"], heads)
    return {
        "heads": Site(Permutation, heads, splits=True),
        "qk": Site(Invertible, d, within="heads"),
        "ov": Site(Invertible, d, within="heads"),
        "ff": Site(ScaledPermutation if relu else Permutation, config["intermediate_size"], splits=relu),
    }


def check_rotary(config: Any) -> None:
    """Raise a ValueError if rotary positions do not turn each pair of their dimensions at a frequency of its own."""
    if (kind := config.rope_parameters["rope_type"]) not in ROTARY:
        raise ValueError(f"rope_type {kind!r} has no canonical form here; known are {', '.join(ROTARY)}")


class Pretrained(Stock):
    """A model of transformers with a layout. Equal if the classes and the arguments that decide the function are."""

    decides: ClassVar[tuple[str, ...]]  # the arguments of the configuration that do, where it has them
    canonical: ClassVar[Mapping[str, Any]] = {"tie_word_embeddings": False}  # what they are in canonical form
    call: ClassVar = {"use_cache": False}

    @classmethod
    def configuration(cls, model: nn.Module) -> dict[str, Any]:
        """The class of a model, and the arguments of its configuration that decide the function."""
        kind = type(model)
        given = {
            name: copy.deepcopy(getattr(model.config, name)) for name in cls.decides if hasattr(model.config, name)
        }
        return {"class": f"{kind.__module__}.{kind.__qualname__}"} | given | dict(cls.canonical)

    @classmethod
    def build(cls, config: Mapping[str, Any]) -> nn.Module:
        arguments = dict(config)
        module, _, name = arguments.pop("class").rpartition(".")
        kind = getattr(import_module(module), name)
        return kind(kind.config_class(**arguments, attn_implementation="sdpa", experts_implementation="eager"))

    @classmethod
    def fits(cls, model: nn.Module) -> tuple[Self, Weights]:
        """The architecture of a model, and its weights to be folded.

        Raises
        ------
        ValueError
            If a part of the model is of another class than the stock module's.
        """
        architecture = cls.of(cls.configuration(model))
        check_same_parts(model, architecture.module)
        return architecture, Weights(model)

    @property
    def reads(self) -> tuple[int, int] | None:
        """Size of the vocabulary and longest context; None where inputs are no tokens."""
        if "vocab_size" not in self.config:
            return None
        return self.config["vocab_size"], self.config["max_position_embeddings"]

    def probe(self) -> Tensor | None:
        """Two windows of random tokens, at most 64 each."""
        if self.reads is None:
            return None
        vocabulary, positions = self.reads
        generator = torch.Generator().manual_seed(0)
        return torch.randint(vocabulary, (2, min(positions, 64)), generator=generator)
