"""BERT (transformers' ``BertForMaskedLM`` and ``BertModel``), whose norms come after the sums.

Their gains stay on the residual stream, so it can only be relabelled. ``BertModel`` returns the stream: there it is
fixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..spec import Site
from ..symmetry import Fixed, Permutation
from .base import Network, register
from .fold import centre, fold_mean, fold_norm, fold_values
from .gpt2 import ACTIVATIONS
from .layout import Layout, Weights, stacked
from .pretrained import Pretrained, block_sites, demand

if TYPE_CHECKING:
    from transformers import BertForMaskedLM, BertModel

BLOCK: Layout = {
    "attention.self.query.weight": "(heads* qk) r*",
    "attention.self.query.bias": "(heads* qk)",
    "attention.self.key.weight": "(heads* qk*) r*",
    "attention.self.key.bias": 0,
    "attention.self.value.weight": "(heads ov) r*",
    "attention.self.value.bias": 0,
    "attention.output.dense.weight": "r (heads* ov*)",
    "attention.output.dense.bias": "r",
    "attention.output.LayerNorm.weight": "r",
    "attention.output.LayerNorm.bias": 0,
    "intermediate.dense.weight": "ff r*",
    "intermediate.dense.bias": "ff",
    "output.dense.weight": "r ff*",
    "output.dense.bias": "r",
    "output.LayerNorm.weight": "r",
    "output.LayerNorm.bias": 0,
}
EMBEDDINGS: Layout = {
    "embeddings.word_embeddings.weight": "_ r",
    "embeddings.position_embeddings.weight": "_ r",
    "embeddings.token_type_embeddings.weight": "_ r",
    "embeddings.LayerNorm.weight": "r",
    "embeddings.LayerNorm.bias": 0,
}
POOLER: Layout = {"pooler.dense.weight": "_ r*", "pooler.dense.bias": "_"}
HEAD: Layout = {
    "cls.predictions.transform.dense.weight": "mlm r*",
    "cls.predictions.transform.dense.bias": "mlm",
    "cls.predictions.transform.LayerNorm.weight": 1,
    "cls.predictions.transform.LayerNorm.bias": 0,
    "cls.predictions.decoder.weight": "_ mlm*",
    "cls.predictions.decoder.bias": "_",
    "cls.predictions.bias": 0,  # another name of the decoder's where weights are tied, and else of no use
}


class Bert(Pretrained):
    """Equal if the classes and the configurations that decide the function are."""

    decides = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
               "hidden_act", "max_position_embeddings", "type_vocab_size", "layer_norm_eps")  # fmt: skip
    canonical: ClassVar = {"tie_word_embeddings": False, "pad_token_id": None}  # whose row would get no gradient
    widths: ClassVar = {"intermediate_size": "ff"}

    @classmethod
    def table(cls, config: Mapping[str, Any]) -> tuple[Layout, dict[str, Site], dict[str, Sequence[str]]]:
        stem, width, layers = _stem(config), config["hidden_size"], config["num_hidden_layers"]
        blocks, sites = stacked(f"{stem}encoder.layer.{{}}.", layers, BLOCK, block_sites(config))
        layout = {f"{stem}{name}": entry for name, entry in EMBEDDINGS.items()} | blocks
        last = f"{stem}encoder.layer.{layers - 1}.output.LayerNorm"
        watch = {"r": [f"{stem}encoder.layer.{i}" for i in range(layers)]}
        if stem:  # a norm follows the head's units, so they have no scales even behind a ReLU
            sites = {"r": Site(Permutation, width)} | sites | {"mlm": Site(Permutation, width)}
            return layout | {f"{last}.weight": 1} | HEAD, sites, watch
        return layout | {f"{last}.bias": "r"} | POOLER, {"r": Site(Fixed, width)} | sites, watch


def _stem(config: Mapping[str, Any]) -> str:
    return "" if config["class"].endswith(".BertModel") else "bert."


@register("transformers.models.bert.modeling_bert.BertForMaskedLM", "transformers.models.bert.modeling_bert.BertModel")
def canonicalize(model: BertForMaskedLM | BertModel) -> Network:
    """Fold the norms' shifts and all that no norm lets through, and untie the head; exact in float64."""
    demand(model.config, is_decoder=[False], add_cross_attention=[False], position_embedding_type=["absolute"],
           chunk_size_feed_forward=[0], hidden_act=ACTIVATIONS)  # fmt: skip
    if model.config.num_hidden_layers < 1:
        raise ValueError("num_hidden_layers 0: a BERT without blocks has nothing to match")
    if getattr(model, "pooler", model) is None:
        raise ValueError("add_pooling_layer False: a BertModel's configuration cannot say that it has no pooler")
    architecture, w = Bert.fits(model)
    return architecture.network(w, _fold(w, architecture.config))


def _fold(w: Weights, config: Mapping[str, Any]) -> Iterator[str]:
    stem, word = _stem(config), f"{_stem(config)}embeddings.word_embeddings.weight"
    for name in ("position", "token_type"):  # what all of them add, words may add
        table = f"{stem}embeddings.{name}_embeddings.weight"
        fold_mean(w, table, word)
        centre(w, [word, table], 1)
    norm = f"{stem}embeddings.LayerNorm"
    for i in range(config["num_hidden_layers"]):
        at = f"{stem}encoder.layer.{i}."
        q, k, v = (f"{at}attention.self.{name}" for name in ("query", "key", "value"))
        o, fc, proj = (f"{at}{name}.dense" for name in ("attention.output", "intermediate", "output"))
        _fold_shift(w, norm, [q, k, v], o)
        _fold_shift(w, f"{at}attention.output.LayerNorm", [fc], proj)
        fold_values(w, o, w[f"{v}.bias"])
        centre(w, [f"{layer}.{part}" for layer in (o, proj) for part in ("weight", "bias")], 0)
        yield norm.removesuffix("output.LayerNorm")
        norm = f"{at}output.LayerNorm"
    if stem:
        fold_norm(w, norm, ["cls.predictions.transform.dense"])
        fold_norm(w, "cls.predictions.transform.LayerNorm", ["cls.predictions.decoder"])
    else:
        weight, bias = w["pooler.dense.weight"], w["pooler.dense.bias"]
        w["pooler.dense.weight"] = _seeing(weight, w[f"{norm}.weight"])
        w["pooler.dense.bias"] = bias + (weight - w["pooler.dense.weight"]) @ w[f"{norm}.bias"]


def _fold_shift(w: Weights, norm: str, readers: Sequence[str], then: str) -> None:
    """Move the shift of a norm into the layers that read it, and into the one that adds to it before the next norm."""
    gain, shift = w[f"{norm}.weight"], w[f"{norm}.bias"]
    for reader in readers:
        w[f"{reader}.bias"] = w[f"{reader}.bias"] + w[f"{reader}.weight"] @ shift
        w[f"{reader}.weight"] = _seeing(w[f"{reader}.weight"], gain)
    w[f"{then}.bias"] = w[f"{then}.bias"] + shift


def _seeing(weight: Tensor, gain: Tensor) -> Tensor:
    """Weights (out, in) without what never moves: behind a norm the entries, each divided by its gain, sum to zero."""
    if not gain.all():  # a channel without a gain is always zero, and the others are free
        return weight * (gain != 0)
    blind = gain.abs().min() / gain
    blind = blind / blind.norm()
    return weight - torch.outer(weight @ blind, blind)
