"""Models of transformers: built from the arguments of their configuration that decide the function."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from .base import check_same_parts
from .layout import Stock, Weights

ROTARY = ("default", "dynamic", "linear", "llama3", "longrope", "yarn")


def check_rotary(config: Any) -> None:
    """Raise a ValueError if rotary positions do not turn each pair of their dimensions at a frequency of its own."""
    if (kind := config.rope_parameters["rope_type"]) not in ROTARY:
        raise ValueError(f"rope_type {kind!r} has no canonical form here; known are {', '.join(ROTARY)}")


class Pretrained(Stock):
    """A model of transformers with a layout. Equal if the classes and the arguments that decide the function are."""

    decides: ClassVar[tuple[str, ...]]  # the arguments of the configuration that do
    canonical: ClassVar[Mapping[str, Any]] = {"tie_word_embeddings": False}  # what they are in canonical form
    call: ClassVar = {"use_cache": False}

    @classmethod
    def configuration(cls, model: nn.Module) -> dict[str, Any]:
        """The class of a model, and the arguments of its configuration that decide the function."""
        kind = type(model)
        given = {name: copy.deepcopy(getattr(model.config, name)) for name in cls.decides}
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
